//! What has become of the sockets that a model asks for.
//!
//! Written by whoever opens sockets, read by whoever says in statuses what is served.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Bind;

/// How far the sockets have followed what was published.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SocketNews {
    /// Every socket of this generation has been opened, or was tried in vain; 0: none yet.
    pub generation: u64,
    /// Those that could not be opened. They are tried again.
    pub unopened: Unopened,
}

/// Sockets that could not be opened, and why.
pub type Unopened = Arc<BTreeMap<Bind, Obstacle>>;

/// Why a socket could not be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Obstacle {
    /// For the owner of the Gateway.
    pub problem: String,
    /// Whether the address is none of this machine's; otherwise it is the port that cannot be had.
    pub no_address: bool,
}
