//! Where traffic goes: a named group of endpoints with one balancing policy.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Certificate, ObjectName};

/// A port of a Service, as routes name it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct BackendKey {
    /// The Service that routes name (the apex, when it has colors).
    pub service: ObjectName,
    /// Its port number (not the endpoints').
    pub port: u16,
    /// How it is reached.
    pub access: Access,
}

/// How a port of a Service is reached. One port that is reached in two ways is two backends.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize)]
pub enum Access {
    /// Over TCP, with no client certificate.
    #[default]
    Tcp,
    /// By UDP datagrams.
    Udp,
    /// Over TCP and TLS, with the client certificate in this Secret (`spec.tls.backend` of a Gateway).
    As(ObjectName),
}

impl BackendKey {
    /// A port that is reached over TCP, with no client certificate.
    pub fn new(service: ObjectName, port: u16) -> Self {
        Self { service, port, access: Access::Tcp }
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        match &self.access {
            Access::Tcp => Ok(()),
            Access::Udp => f.write_str("/udp"),
            Access::As(secret) => write!(f, " as {secret}"),
        }
    }
}

impl fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A backend as desired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its name.
    pub key: BackendKey,
    /// What its endpoints speak.
    pub protocol: UpstreamProtocol,
    /// How an endpoint is picked.
    pub balance: Balance,
    /// Active health check, if any.
    pub health: Option<HealthCheck>,
    /// When a failing endpoint is left out.
    pub outlier: OutlierPolicy,
    /// Ceilings.
    pub limits: BackendLimits,
    /// How long a new endpoint's share grows from a tenth to whole; zero: at once.
    pub slow_start: Duration,
    /// How long the last endpoints are kept when all vanish at once (`weir.dev/empty-hold`).
    pub empty_hold: Duration,
    /// The endpoints: one element with an empty color name, or one element per color of the Service.
    pub colors: Vec<ColorEndpoints>,
}

impl Backend {
    /// A backend of whom nothing is asked: HTTP/1.1, balanced by load, no checks, no ceilings.
    pub fn new(key: BackendKey, colors: Vec<ColorEndpoints>) -> Self {
        Self {
            key,
            protocol: UpstreamProtocol::Http1,
            balance: Balance::PeakEwma,
            health: None,
            outlier: OutlierPolicy::default(),
            limits: BackendLimits::default(),
            slow_start: Duration::ZERO,
            empty_hold: Duration::ZERO,
            colors,
        }
    }
}

/// The endpoints of one color.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColorEndpoints {
    /// The color; empty for a Service without colors.
    pub color: Arc<str>,
    /// The Service that the endpoints belong to: the child Service of the color, or the Service itself.
    pub service: ObjectName,
    /// Where they come from.
    pub source: EndpointSource,
}

/// Where endpoints come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EndpointSource {
    /// Listed by a provider, sorted by address, each address once.
    Listed(Arc<[Endpoint]>),
    /// To be resolved (a Service of type ExternalName).
    Name {
        /// The DNS name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// The Service or port of this color does not exist.
    Missing {
        /// `ChildMissing` or `PortMismatch`, with what was looked for.
        why: Arc<str>,
    },
}

/// One address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// What the EndpointSlice says of it.
    pub condition: Condition,
    /// Name of the pod, if it is one.
    pub pod: Option<Arc<str>>,
    /// Zone, if known.
    pub zone: Option<Arc<str>>,
}

/// Conditions of an EndpointSlice, as far as balancing cares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Condition {
    /// Takes traffic (an unknown `ready` counts as ready).
    Ready,
    /// On its way out but still serving: used only when nothing is ready.
    Terminating,
    /// Not to be used. Kept so that what runs on it can finish and its statistics stay.
    NotReady,
}

/// What endpoints speak.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1 in clear text.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge in clear text (`appProtocol: kubernetes.io/h2c`).
    H2c,
    /// TLS (`appProtocol: https` and the like); HTTP/2 or HTTP/1.1 by ALPN.
    Tls(UpstreamTls),
}

/// How endpoints are verified.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UpstreamTls {
    /// Name sent as SNI and checked in the certificate; `None`: the host of the request is sent as SNI.
    pub server_name: Option<Arc<str>>,
    /// PEM of the trusted roots; `None`: see `system_roots`.
    pub ca_pem: Option<Arc<[u8]>>,
    /// Without `ca_pem`: the roots of the system are trusted. With neither any certificate is taken (the same trust as
    /// clear text; a verdict says so).
    pub system_roots: bool,
    /// Who the endpoint may be: its certificate must hold one of these, instead of `server_name`. Empty: `server_name`.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// What is shown to endpoints that ask for a client certificate.
    pub client: Option<Arc<Certificate>>,
}

/// A name in a certificate (RFC 5280 section 4.2.1.6).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SubjectAltName {
    /// A DNS name, lower-case; `*.` at its begin stands for one label.
    Dns(Arc<str>),
    /// A URI, byte for byte.
    Uri(Arc<str>),
}

/// How an endpoint is picked (`weir.dev/balance`).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub enum Balance {
    /// The less loaded of two random endpoints, by peak EWMA of latency times requests in flight.
    #[default]
    PeakEwma,
    /// One after the other.
    RoundRobin,
    /// Maglev consistent hash.
    Hash(HashKey),
}

/// What is hashed. A request without it is balanced by [`Balance::PeakEwma`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum HashKey {
    /// The first value of this header (lower-case name).
    Header(Arc<str>),
    /// The value of this cookie.
    Cookie(Arc<str>),
    /// The client's address.
    Address,
}

/// An active check by `GET`; any 2xx or 3xx is healthy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct HealthCheck {
    /// Path with optional query.
    pub path: Arc<str>,
    /// Between the starts of two checks of one endpoint; at least 100 ms.
    pub interval: Duration,
    /// Of one check.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy endpoint healthy.
    pub healthy: u32,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub unhealthy: u32,
}

/// When an endpoint is ejected. Never more than half of a color's endpoints at a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OutlierPolicy {
    /// Failures in a row (5xx from the endpoint, connect error, reset, timeout); 0 turns ejection off.
    pub consecutive: u32,
    /// Share of failures within `window`, 1–100 %; 0 turns this rule off.
    pub failure_percent: u32,
    /// Requests within `window` that are needed before the share counts.
    pub min_requests: u32,
    /// Length of the window.
    pub window: Duration,
    /// First ejection; the nth one in a row lasts n times as long, up to `max_ejection`.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            consecutive: 5,
            failure_percent: 50,
            min_requests: 20,
            window: Duration::from_secs(10),
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
        }
    }
}

/// Ceilings of a backend over all workers; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct BackendLimits {
    /// Requests in flight (`weir.dev/max-in-flight`).
    pub in_flight: u32,
    /// Requests waiting for a connection (`weir.dev/max-pending`).
    pub pending: u32,
}

impl Default for BackendLimits {
    fn default() -> Self {
        Self { in_flight: 10_000, pending: 1_000 }
    }
}
