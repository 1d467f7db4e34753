//! Where traffic arrives: sockets, their certificates and their virtual hosts.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{HostPattern, ObjectName, Route, Shards};

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
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("http"),
            Self::Https => f.write_str("https"),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What is spoken at a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub enum Protocol {
    /// HTTP/1.x and HTTP/2 with prior knowledge, in clear text.
    #[default]
    Http,
    /// The same over TLS, chosen by ALPN.
    Https,
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

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("secret", &self.secret)
            .field("not_after", &self.not_after)
            .field("key", &"redacted")
            .finish_non_exhaustive()
    }
}
