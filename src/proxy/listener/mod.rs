//! Connections: where they arrive, what they are, and who serves them.
//!
//! `accept` takes them in, `tls` (with `hello`) and `proxy_protocol` find out what they are, `serve_h1` and `serve_h2` bring
//! their requests to the path of a request. What is not HTTP is passed on by `stream` and `datagrams` (with `owners`);
//! `passage` says where to, and counts it. `socket_news` tells who writes statuses which sockets could not be opened.

mod accept;
mod datagrams;
mod hello;
mod owners;
mod passage;
mod proxy_protocol;
mod serve_h1;
mod serve_h2;
mod socket_news;
mod stream;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{Bind, Protocol};

pub use accept::{BindError, Listener, bind};
pub use datagrams::{Datagrams, bind_datagrams};
pub use socket_news::SocketBoard;

/// What to listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// Which table of the snapshot is served.
    pub bind: Bind,
    /// Name for logs and metrics.
    pub name: Arc<str>,
    /// Address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is spoken.
    pub protocol: Protocol,
    /// Whether every connection begins with a PROXY header.
    pub proxy_protocol: bool,
}

/// What all workers' sockets of one listener share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Open connections, or sessions of datagrams.
    pub connections: AtomicU64,
    everywhere: Arc<Everywhere>,
    /// Workers that begin sessions of datagrams.
    beginning: AtomicU64,
    /// Whose clients' sessions of datagrams are.
    owners: owners::Owners,
}

/// What all listeners of the process share: its descriptors, as connections and sessions hold them.
#[derive(Debug, Default)]
pub struct Everywhere {
    connections: AtomicU64,
    sessions: AtomicU64,
}

impl Everywhere {
    /// Whether another connection or session would need more than these descriptors; 0: there are enough.
    fn is_full(&self, descriptors: u64) -> bool {
        // A connection may need another one to an endpoint.
        let held = || {
            let connections = self.connections.load(Ordering::Relaxed);
            connections.saturating_mul(2).saturating_add(self.sessions.load(Ordering::Relaxed))
        };
        descriptors != 0 && held() >= descriptors
    }
}

impl Shared {
    /// Of a listener, one of those that share the rest.
    pub fn new(everywhere: &Arc<Everywhere>) -> Arc<Self> {
        Arc::new(Self { everywhere: everywhere.clone(), ..Self::default() })
    }
}

#[cfg(test)]
mod tests;
