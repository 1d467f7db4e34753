//! Where traffic arrives: sockets, their certificates and their virtual hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{HostPattern, ObjectName, Route, Rule, Shards};

/// Which socket an [`Entry`] is served at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub enum Bind {
    /// Every listener of protocol `http` in the settings (`--http`).
    Http,
    /// Every listener of protocol `https` in the settings (`--https`).
    Https,
    /// This port, at the host of the settings' first listener.
    Port(u16),
    /// This address and port.
    Address(SocketAddr),
    /// This UDP port, at the host of the settings' first listener.
    UdpPort(u16),
    /// This address and UDP port.
    UdpAddress(SocketAddr),
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
            Self::Https => f.write_str("https"),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::UdpPort(port) => write!(f, "port {port}/udp"),
            Self::UdpAddress(address) => write!(f, "{address}/udp"),
        }
    }
}

/// What is spoken at a socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
pub enum Protocol {
    /// HTTP/1.x and HTTP/2 with prior knowledge, in clear text.
    #[default]
    Http,
    /// TLS, and in it the same, chosen by ALPN; for the server names of [`Entry::streams`] whatever it is.
    Https,
    /// Bytes, passed on as they are.
    Tcp,
    /// Datagrams, passed on as they are; the first of a client makes a session.
    Udp,
}

/// Everything served at one socket.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// What is spoken.
    pub protocol: Protocol,
    /// Certificates by host; empty unless `protocol` is [`Protocol::Https`].
    pub certificates: Arc<Vec<CertificateBinding>>,
    /// Routes by host. A request looks at the most specific host first and falls through to less specific ones
    /// when no route there matches. The order of the routes of one host does not matter: compile sorts them.
    pub hosts: Shards<HostPattern, Vec<Arc<Route>>>,
    /// Hostnames of listeners that are isolated from each other: a request for which no route is found at the hosts of its
    /// own listener (the most specific of these) does not fall through to the routes of less specific ones.
    pub boundaries: Arc<BTreeSet<HostPattern>>,
    /// What is not HTTP. At most one for each host; for [`Protocol::Tcp`] and [`Protocol::Udp`] the one of
    /// [`HostPattern::Any`].
    pub streams: Arc<Vec<Stream>>,
    /// Whether clients must show certificates; only with [`Protocol::Https`].
    pub client_certificates: Option<Arc<ClientCertificates>>,
}

/// Where connections (or datagrams) go that are passed on without a look into them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stream {
    /// The server names in the TLS handshake that it is for; [`HostPattern::Any`] also without one.
    pub host: HostPattern,
    /// What is passed on.
    pub mode: StreamMode,
    /// Where it goes. It has no filters. Without a backend that may be used connections are closed at once.
    pub rule: Arc<Rule>,
}

/// What of a stream is passed on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub enum StreamMode {
    /// All bytes; with TLS that means: as they were encrypted by the client.
    #[default]
    Passthrough,
    /// What is inside TLS, with the certificate of its host.
    Terminate,
}

/// Which clients may connect (Gateway API, `spec.tls.frontend`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificates {
    /// PEM of the roots that issue their certificates.
    pub ca_pem: Arc<[u8]>,
    /// Whether clients without a certificate, or with one of unknown origin, may connect all the same
    /// (`mode: AllowInsecureFallback`).
    pub optional: bool,
}

/// A certificate and the server names it is presented for.
#[derive(Clone, Debug)]
pub struct CertificateBinding {
    /// The server names; [`HostPattern::Any`] is the default, for clients without or with an unknown name.
    pub host: HostPattern,
    /// What is presented.
    pub certificate: Arc<Certificate>,
}

/// A certificate chain with its private key, already checked to belong together.
pub struct Certificate {
    /// The Secret that holds it.
    pub secret: ObjectName,
    /// PEM of the chain, leaf first.
    pub chain_pem: Box<[u8]>,
    /// PEM of the key. Never logged, never dumped.
    pub key_pem: Box<[u8]>,
    /// End of validity of the leaf, seconds since the Unix epoch.
    pub not_after: i64,
    /// What identifies the content: two certificates with the same print are the same.
    pub fingerprint: u64,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("secret", &self.secret)
            .field("not_after", &self.not_after)
            .field("key", &"redacted")
            .finish_non_exhaustive()
    }
}
