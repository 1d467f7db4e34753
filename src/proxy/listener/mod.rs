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
use std::sync::atomic::AtomicU64;

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
    /// Sessions of datagrams at all listeners of the process.
    sessions: Arc<AtomicU64>,
    /// Workers that begin sessions of datagrams.
    beginning: AtomicU64,
    /// Whose clients' sessions of datagrams are.
    owners: owners::Owners,
}

impl Shared {
    /// Of a listener; `sessions` counts those of datagrams at all listeners of the process.
    pub fn new(sessions: &Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { sessions: sessions.clone(), ..Self::default() })
    }
}

#[cfg(test)]
mod tests;
