//! The settings as the rest of the process reads them, with the reason of every default.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// Everything that is told at the start.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Settings {
    /// The sockets that traffic arrives at.
    pub listeners: Vec<Listener>,
    /// The operator's port.
    pub admin: Admin,
    /// Where objects come from.
    pub provider: Provider,
    /// Where Gateways are served.
    pub gateways: Gateways,
    /// What is written into statuses.
    pub status: Status,
    /// Threads that serve requests, 1–1024. Default: the cores this process may use (affinity and cgroup quota count),
    /// because a worker never waits for another one.
    pub workers: NonZeroUsize,
    /// What one peer may ask for.
    pub limits: Limits,
    /// How long is waited.
    pub timeouts: Timeouts,
    /// Peers whose `X-Forwarded-*` and PROXY headers are believed. Default: none, as anyone can write these headers.
    pub trusted_proxies: Vec<IpNet>,
    /// One line per request.
    pub access_log: AccessLog,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// What is done to headers of every request.
    pub headers: Headers,
    /// How much may be retried.
    pub retries: Retries,
    /// What is measured.
    pub metrics: Metrics,
    /// What the process says about itself.
    pub log: Log,
}

/// One socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Listener {
    /// Its name in logs and metrics: 1–63 of `a-z`, `0-9` and `-`; unique.
    pub name: String,
    /// Where it listens; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: ListenerProtocol,
    /// Whether every connection begins with a PROXY protocol header (version 1 or 2).
    pub proxy_protocol: bool,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// Clear text.
    Http,
    /// TLS.
    Https,
}

/// The operator's port.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// Default 127.0.0.1:9900: nobody else's business until someone says so.
    pub address: SocketAddr,
    /// What a mutating call must bring as `Authorization: Bearer …`, at least 16 characters. Default: none, and mutating
    /// calls are off.
    #[serde(serialize_with = "redacted")]
    pub token: Option<String>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "redacted");
        f.debug_struct("Admin").field("address", &self.address).field("token", &token).finish()
    }
}

/// Where objects come from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Provider {
    /// A folder of manifests (or one file), watched. Default: none.
    pub directory: Option<PathBuf>,
    /// Whether an API server is watched. Default no; a pod does it unless it has a folder or was told not to.
    pub kubernetes: bool,
    /// How the API server is reached. Default: `KUBECONFIG`, in a pod its service account, else `~/.kube/config`.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces that are watched. Default: none is named, and all are watched.
    pub namespaces: Vec<String>,
    /// Label selector of what asks to be served: Ingresses, Gateways, ListenerSets and routes of every kind. Default: none;
    /// classes, and what is referred to or speaks of something else (Services, Secrets, BackendTLSPolicies, …), need no
    /// labels.
    pub selector: Option<String>,
    /// Whether one of several Weirs writes statuses and Events to the API server. Default yes: owners look there.
    pub write_status: bool,
    /// Name of the Lease, in the pod's namespace, whose holder writes. Default `weir-controller`. Weirs that serve the same
    /// have the same one; of Weirs that do not, each would keep the others from writing.
    pub lease: String,
}

/// Where Gateways are served.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Gateways {
    /// First and last address of each range, from which every Gateway gets an address of its own. Default: none; Gateways
    /// share the listeners, as the addresses of a machine are not this process's to give away.
    pub addresses: Vec<(IpAddr, IpAddr)>,
}

/// What is written into statuses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Status {
    /// Addresses and host names at which clients find the listeners. Default: those of `service`, or else the listeners'
    /// own where they are specific.
    pub addresses: Vec<String>,
    /// Namespace and name of the Service of type LoadBalancer that leads to the listeners. Default: none.
    pub service: Option<String>,
}

/// What one peer may ask for. Sizes are in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Limits {
    /// Length of a method, 1–256. Default 32: the longest registered one has 17.
    pub method: usize,
    /// Length of a request target, 256 B–64 KiB. Default 16 KiB: beyond what browsers send, below what hurts.
    pub target: usize,
    /// Size of all header lines of a message, 1 KiB–64 KiB. Default 32 KiB: large cookies and tokens pass.
    pub header_block: usize,
    /// Header lines of a message, 1–256. Default 100: work per header is paid by count, not by bytes.
    pub header_count: usize,
    /// Size of all trailer lines, 0–64 KiB. Default 4 KiB: gRPC needs a few hundred bytes.
    pub trailer: usize,
    /// Size of all chunk extensions of a message, 0–4 KiB. Default 256: nobody uses them honestly.
    pub chunk_extensions: usize,
    /// Size of a request body; 0 is no limit, the default: a body is streamed, never held.
    pub body: u64,
    /// Open connections of one listener, 1–10,000,000. Default 100,000, or what the file limit allows.
    pub connections: usize,
    /// Open connections of one client address; 0 is no limit, the default: many users may share one address.
    pub connections_per_address: usize,
    /// Sessions of datagrams open at a time at one listener, at least 1. Default 10,000: each is a socket, and anyone can
    /// write a sender's address.
    pub udp_sessions: u32,
    /// Streams open at a time on an HTTP/2 connection, 1–10,000. Default 100, the least that RFC 9113 recommends.
    pub h2_streams: u32,
    /// Flow-control window of a stream, 16 KiB–16 MiB. Default 64 KiB: what one client can make this process hold.
    pub h2_stream_window: u32,
    /// Flow-control window of a connection, 64 KiB–64 MiB. Default 1 MiB: fills a fast path with few streams.
    pub h2_connection_window: u32,
    /// Bytes held per stream for a client that reads slowly, 16 KiB–1 MiB. Default 64 KiB.
    pub h2_send_buffer: usize,
    /// Size of a decoded header list, 1 KiB–1 MiB. Default 32 KiB, as for HTTP/1.
    pub h2_header_list: u32,
    /// Streams that a peer opened and reset before they were looked at, 1–1000. Default 20 (rapid reset).
    pub h2_pending_resets: usize,
    /// Streams of a connection that this side had to reset, 1–100,000. Default 1024 (resets provoked by the peer).
    pub h2_local_resets: usize,
    /// Control frames of one kind beyond what requests and data call for, in points, up to 1,000,000; 0 is no limit. Default
    /// 1000: 500 resets or 100 pings at once, and some more every second.
    pub h2_overhead: u32,
}

/// How long is waited. Routes may say otherwise for their requests.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Timeouts {
    /// A TLS handshake, 100 ms–5 m. Default 5 s: several round trips on a bad line.
    #[serde(serialize_with = "duration")]
    pub tls_handshake: Duration,
    /// From the first byte of a request to the end of its head, 100 ms–10 m. Default 10 s: slower is an attack.
    #[serde(serialize_with = "duration")]
    pub request_head: Duration,
    /// Between two pieces of a body in either direction, 100 ms–1 h. Default 30 s.
    #[serde(serialize_with = "duration")]
    pub body_idle: Duration,
    /// Between two requests of a connection, 0–1 h; 0 closes after each. Default 60 s.
    #[serde(serialize_with = "duration")]
    pub keep_alive: Duration,
    /// A connection to an endpoint, 10 ms–5 m. Default 5 s: covers two lost SYNs.
    #[serde(serialize_with = "duration")]
    pub connect: Duration,
    /// From the end of a request to the head of its response, 10 ms–24 h. Default 60 s.
    #[serde(serialize_with = "duration")]
    pub response_head: Duration,
    /// Silence of an upgraded connection, 1 s–7 d. Default 1 h: longer than any heartbeat.
    #[serde(serialize_with = "duration")]
    pub tunnel_idle: Duration,
    /// Silence of a session of datagrams, 1 s–1 d. Default 1 m: whoever says nothing for so long has gone, or begins anew.
    #[serde(serialize_with = "duration")]
    pub udp_idle: Duration,
    /// How long an unused connection to an endpoint is kept, 0–1 h. Default 55 s: before the 60 s at which common
    /// servers close theirs, so that a request does not meet a closing connection.
    #[serde(serialize_with = "duration")]
    pub upstream_idle: Duration,
}

/// One line per request.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AccessLog {
    /// Default off: at full speed a line per request costs more than the request.
    pub mode: AccessLogMode,
    /// Share of requests that get a line when sampled, 0–1. Default 0.01. Failures always get one.
    pub sample: f64,
    /// A file, or `stdout`, the default: the container runtime collects it.
    pub path: PathBuf,
}

/// Which requests get a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogMode {
    /// None.
    Off,
    /// A share.
    Sampled,
    /// All.
    Full,
}

/// How the process ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Shutdown {
    /// How long it still accepts while readiness fails, 0–10 m. Default 5 s: load balancers need to notice.
    #[serde(serialize_with = "duration")]
    pub grace: Duration,
    /// How long running requests have after that, 0–24 h. Default 240 s: below the 300 s that the chart grants the pod.
    #[serde(serialize_with = "duration")]
    pub timeout: Duration,
}

/// What is done to headers of every request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Headers {
    /// Whether `Forwarded` (RFC 7239) is sent besides `X-Forwarded-*`. Default no: few backends read it.
    pub forwarded: bool,
    /// Whether answers made by Weir itself carry `X-Weir-Reason`. Default no: it tells strangers about the inside.
    pub reason: bool,
    /// What happens to names with an underscore. Default drop: CGI cannot tell `X_A` from `X-A`.
    pub underscores: Underscores,
    /// Whether `//` in a path becomes `/`. Default yes: otherwise a doubled slash walks around a route.
    pub merge_slashes: bool,
}

/// What happens to header names with an underscore.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Underscores {
    /// They are left out.
    Drop,
    /// They are kept.
    Keep,
}

/// How much may be retried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Retries {
    /// Retries as a share of a backend's requests, 0–100 %. Default 20: a failing backend sees a fifth more, not double.
    pub budget_percent: u32,
    /// Attempts of one request in all, 1–10. Default 2; 1 turns retries off. Else at least 4 while connections are refused.
    pub attempts: u32,
}

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Metrics {
    /// Whether every endpoint has its own series. Default no: their number is not bounded by configuration.
    pub per_endpoint: bool,
}

/// What the process says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Log {
    /// Default info: changes and failures, nothing per request.
    pub level: LogLevel,
    /// Default auto: text on a terminal, JSON elsewhere.
    pub format: LogFormat,
}

/// From which severity on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are the severities")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For eyes.
    Text,
}

impl Default for Settings {
    fn default() -> Self {
        let listener = |name: &str, port, protocol| Listener {
            name: name.to_owned(),
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            protocol,
            proxy_protocol: false,
        };
        Self {
            listeners: vec![
                listener("http", 8080, ListenerProtocol::Http),
                listener("https", 8443, ListenerProtocol::Https),
            ],
            admin: Admin { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900), token: None },
            provider: Provider {
                directory: None,
                kubernetes: false,
                kubeconfig: None,
                namespaces: Vec::new(),
                selector: None,
                write_status: true,
                lease: "weir-controller".to_owned(),
            },
            gateways: Gateways { addresses: Vec::new() },
            status: Status { addresses: Vec::new(), service: None },
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            limits: Limits {
                method: 32,
                target: 16 << 10,
                header_block: 32 << 10,
                header_count: 100,
                trailer: 4 << 10,
                chunk_extensions: 256,
                body: 0,
                connections: 100_000,
                connections_per_address: 0,
                udp_sessions: 10_000,
                h2_streams: 100,
                h2_stream_window: 64 << 10,
                h2_connection_window: 1 << 20,
                h2_send_buffer: 64 << 10,
                h2_header_list: 32 << 10,
                h2_pending_resets: 20,
                h2_local_resets: 1024,
                h2_overhead: 1000,
            },
            timeouts: Timeouts {
                tls_handshake: Duration::from_secs(5),
                request_head: Duration::from_secs(10),
                body_idle: Duration::from_secs(30),
                keep_alive: Duration::from_secs(60),
                connect: Duration::from_secs(5),
                response_head: Duration::from_secs(60),
                tunnel_idle: Duration::from_secs(3600),
                udp_idle: Duration::from_secs(60),
                upstream_idle: Duration::from_secs(55),
            },
            trusted_proxies: Vec::new(),
            access_log: AccessLog { mode: AccessLogMode::Off, sample: 0.01, path: PathBuf::from("stdout") },
            shutdown: Shutdown { grace: Duration::from_secs(5), timeout: Duration::from_secs(240) },
            headers: Headers { forwarded: false, reason: false, underscores: Underscores::Drop, merge_slashes: true },
            retries: Retries { budget_percent: 20, attempts: 2 },
            metrics: Metrics { per_endpoint: false },
            log: Log { level: LogLevel::Info, format: LogFormat::Auto },
        }
    }
}

fn duration<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&super::value::duration::show(value))
}

fn redacted<S: Serializer>(value: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|_| "redacted").serialize(serializer)
}
