//! Every setting with its syntax, range and meaning. The one place to add one.

use std::fmt::Write;

use super::settings::{AccessLogMode, LogFormat, LogLevel, Settings, Underscores};
use super::value::{
    address, boolean, choice, count, duration, name, names, networks, object, optional_path, output, places, ranges,
    selector, share, size, token, workers,
};

/// One setting.
pub struct Setting {
    /// Its key in `weir.yaml`, with dots.
    pub key: &'static str,
    /// A flag of its own, besides `--set KEY=VALUE`.
    pub flag: Option<&'static str>,
    /// What it means.
    pub meaning: &'static str,
    /// What may be written, for messages.
    pub accepts: fn() -> String,
    /// Takes a value; `None` when it is not acceptable.
    pub set: fn(&mut Settings, &str) -> Option<()>,
    /// The value as one would write it.
    pub show: fn(&Settings) -> String,
}

impl Setting {
    /// Its name in the environment: `limits.method` is `WEIR_LIMITS_METHOD`.
    pub fn env(&self) -> String {
        env_name(self.key)
    }

    /// The environment's name that goes with its own flag: `--manifests` is `WEIR_MANIFESTS`.
    pub fn short_env(&self) -> Option<String> {
        self.flag.map(|flag| env_name(&flag[2..])).filter(|name| *name != self.env())
    }

    /// Whether the value must not be shown.
    pub fn secret(&self) -> bool {
        self.key == "admin.token"
    }

    /// Whether the value is a list.
    pub fn list(&self) -> bool {
        matches!(self.key, "trusted_proxies" | "provider.namespaces" | "gateways.addresses" | "status.addresses")
    }
}

/// The environment's name of a key or flag.
pub fn env_name(key: &str) -> String {
    format!("WEIR_{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

macro_rules! table {
    ($($key:literal $flag:expr, $($field:ident).+ = $kind:ident($($arg:expr),*), $meaning:literal;)*) => {
        /// All settings but the listeners, which are a list of their own.
        pub static TABLE: &[Setting] = &[$(Setting {
            key: $key,
            flag: $flag,
            meaning: $meaning,
            accepts: || $kind::accepts($($arg),*),
            set: |settings, text| {
                settings.$($field).+ = $kind::read(text $(, $arg)*)?;
                Some(())
            },
            show: |settings| $kind::show(&settings.$($field).+),
        },)*];
    };
}

const MODES: &[AccessLogMode] = &[AccessLogMode::Off, AccessLogMode::Sampled, AccessLogMode::Full];
const UNDERSCORES: &[Underscores] = &[Underscores::Drop, Underscores::Keep];
const LEVELS: &[LogLevel] = &[LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
const FORMATS: &[LogFormat] = &[LogFormat::Auto, LogFormat::Json, LogFormat::Text];
const NO_FLAG: Option<&str> = None;
const MIB: u64 = 1 << 20;

table! {
    "admin.address" Some("--admin"), admin.address = address(), "where health, metrics and the operator's calls are served";
    "admin.token" NO_FLAG, admin.token = token(), "what mutating calls must bring as bearer token; without it they are off";
    "provider.directory" Some("--manifests"), provider.directory = optional_path(), "folder (or file) of manifests, watched";
    "provider.kubernetes" Some("--kubernetes"), provider.kubernetes = boolean(), "watch an API server; in a pod without a folder it is done unless this says false";
    "provider.kubeconfig" Some("--kubeconfig"), provider.kubeconfig = optional_path(), "how the API server is reached; default: KUBECONFIG, in a pod its service account, else ~/.kube/config";
    "provider.namespaces" Some("--namespace"), provider.namespaces = names(), "namespaces that are watched; default: all";
    "provider.selector" NO_FLAG, provider.selector = selector(), "label selector of the Ingresses, Gateways, ListenerSets and routes of every kind that are looked at; default: all";
    "provider.write_status" NO_FLAG, provider.write_status = boolean(), "whether one of several Weirs writes statuses, Events and annotations to the API server";
    "provider.lease" NO_FLAG, provider.lease = name(), "the Lease whose holder writes, in the pod's namespace; Weirs that serve different things need different ones";
    "gateways.addresses" NO_FLAG, gateways.addresses = ranges(), "addresses of which every Gateway gets one of its own, and no other; in this order, each range from its lowest; default: Gateways share the listeners";
    "status.addresses" NO_FLAG, status.addresses = places(), "where clients find the listeners, for statuses; default: see status.service";
    "status.service" NO_FLAG, status.service = object(), "the Service of type LoadBalancer whose addresses these are; default: the listeners' own addresses where they are specific";
    "workers" Some("--workers"), workers = workers(), "threads that serve requests; default: the cores this process may use";
    "limits.method" NO_FLAG, limits.method = size(1, 256), "length of a method";
    "limits.target" NO_FLAG, limits.target = size(256, 65536), "length of a request target; beyond it 414";
    "limits.header_block" NO_FLAG, limits.header_block = size(1024, 65536), "size of all header lines of a message; beyond it 431";
    "limits.header_count" NO_FLAG, limits.header_count = count(1, 256), "number of header lines of a message; beyond it 431";
    "limits.trailer" NO_FLAG, limits.trailer = size(0, 65536), "size of all trailer lines of a message";
    "limits.chunk_extensions" NO_FLAG, limits.chunk_extensions = size(0, 4096), "size of all chunk extensions of a message";
    "limits.body" NO_FLAG, limits.body = size(0, u64::MAX), "size of a request body, beyond it 413; 0 is no limit";
    "limits.connections" NO_FLAG, limits.connections = count(1, 10_000_000), "open connections of one listener";
    "limits.connections_per_address" NO_FLAG, limits.connections_per_address = count(0, 10_000_000), "open connections of one client address; 0 is no limit";
    "limits.udp_sessions" NO_FLAG, limits.udp_sessions = count(1, 10_000_000), "sessions of datagrams open at a time at one listener; all listeners together have at most a quarter of the file descriptors";
    "limits.h2_streams" NO_FLAG, limits.h2_streams = count(1, 10_000), "streams open at a time on an HTTP/2 connection";
    "limits.h2_stream_window" NO_FLAG, limits.h2_stream_window = size(16384, 16 * MIB), "flow-control window of an HTTP/2 stream";
    "limits.h2_connection_window" NO_FLAG, limits.h2_connection_window = size(65536, 64 * MIB), "flow-control window of an HTTP/2 connection";
    "limits.h2_send_buffer" NO_FLAG, limits.h2_send_buffer = size(16384, MIB), "bytes held per HTTP/2 stream for a slow reader";
    "limits.h2_header_list" NO_FLAG, limits.h2_header_list = size(1024, MIB), "size of a decoded HTTP/2 header list";
    "limits.h2_pending_resets" NO_FLAG, limits.h2_pending_resets = count(1, 1000), "streams a peer may reset before they were looked at; beyond it GOAWAY";
    "limits.h2_local_resets" NO_FLAG, limits.h2_local_resets = count(1, 100_000), "streams of a connection that Weir had to reset; beyond it GOAWAY";
    "limits.h2_overhead" NO_FLAG, limits.h2_overhead = count(0, 1_000_000), "points for HTTP/2 control frames of one kind that no answer or data called for: a window update takes 1, a reset 2, a ping or settings 10; budgets empty with time; beyond it GOAWAY; 0 is no limit";
    "timeouts.tls_handshake" NO_FLAG, timeouts.tls_handshake = duration("100ms", "5m"), "a TLS handshake";
    "timeouts.request_head" NO_FLAG, timeouts.request_head = duration("100ms", "10m"), "from the first byte of a request to the end of its head";
    "timeouts.body_idle" NO_FLAG, timeouts.body_idle = duration("100ms", "1h"), "between two pieces of a body";
    "timeouts.keep_alive" NO_FLAG, timeouts.keep_alive = duration("0", "1h"), "between two requests of a connection; 0 closes after each";
    "timeouts.connect" NO_FLAG, timeouts.connect = duration("10ms", "5m"), "opening a connection to an endpoint";
    "timeouts.response_head" NO_FLAG, timeouts.response_head = duration("10ms", "1d"), "from the end of a request to the head of its response";
    "timeouts.tunnel_idle" NO_FLAG, timeouts.tunnel_idle = duration("1s", "7d"), "silence of an upgraded or passed-on connection";
    "timeouts.udp_idle" NO_FLAG, timeouts.udp_idle = duration("1s", "1d"), "silence of a session of datagrams";
    "timeouts.upstream_idle" NO_FLAG, timeouts.upstream_idle = duration("0", "1h"), "how long an unused connection to an endpoint is kept";
    "trusted_proxies" NO_FLAG, trusted_proxies = networks(), "peers whose X-Forwarded-* and PROXY headers are believed; a PROXY header from anyone else ends the connection";
    "access_log.mode" Some("--access-log"), access_log.mode = choice(MODES), "which requests get a line";
    "access_log.sample" NO_FLAG, access_log.sample = share(), "share of requests that get a line when sampled";
    "access_log.path" NO_FLAG, access_log.path = output(), "where the lines go";
    "shutdown.grace" NO_FLAG, shutdown.grace = duration("0", "10m"), "how long connections are still accepted while readiness fails";
    "shutdown.timeout" NO_FLAG, shutdown.timeout = duration("0", "1d"), "how long running requests have after that";
    "headers.forwarded" NO_FLAG, headers.forwarded = boolean(), "send Forwarded (RFC 7239) besides X-Forwarded-*";
    "headers.reason" NO_FLAG, headers.reason = boolean(), "put X-Weir-Reason on answers made by Weir itself";
    "headers.underscores" NO_FLAG, headers.underscores = choice(UNDERSCORES), "what happens to header names with an underscore";
    "headers.merge_slashes" NO_FLAG, headers.merge_slashes = boolean(), "make // in a path one slash";
    "retries.budget_percent" NO_FLAG, retries.budget_percent = count(0, 100), "retries as a share of a backend's requests";
    "retries.attempts" NO_FLAG, retries.attempts = count(1, 10), "attempts of one request in all, 4 while connections are refused; 1 turns retries off";
    "metrics.per_endpoint" NO_FLAG, metrics.per_endpoint = boolean(), "a series for every endpoint";
    "log.level" Some("--log-level"), log.level = choice(LEVELS), "from which severity on";
    "log.format" Some("--log-format"), log.format = choice(FORMATS), "text on a terminal and JSON elsewhere, or always one of them";
}

/// The setting of this key.
pub fn find(key: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.key == key)
}

/// A Markdown table of all settings.
pub fn reference() -> String {
    let defaults = Settings::default();
    let mut text =
        String::from("| key | environment | flag | default | accepts | meaning |\n|---|---|---|---|---|---|\n");
    text.push_str(
        "| `listeners` | `WEIR_HTTP`, `WEIR_HTTPS` | `--http`, `--https` | `http` at `0.0.0.0:8080`, `https` at \
         `0.0.0.0:8443` | a list of `name`, `address`, `protocol`, `proxy_protocol`; the flags take an address or `off` \
         | the sockets that traffic arrives at |\n",
    );
    for setting in TABLE {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let env = [Some(setting.env()), setting.short_env()].into_iter().flatten().map(|name| code(&name));
        let env = env.collect::<Vec<_>>().join(", ");
        let default = if setting.key == "workers" { "cores".to_owned() } else { code(&(setting.show)(&defaults)) };
        let flag = code(setting.flag.unwrap_or("--set"));
        // A pipe would end the cell; no syntax has one.
        let _ = writeln!(
            text,
            "| `{}` | {env} | {flag} | {default} | {} | {} |",
            setting.key,
            (setting.accepts)(),
            setting.meaning
        );
    }
    text
}
