//! What requests read: an immutable table of hosts, routes and certificates, swapped as a whole.
//!
//! Written by the control loop (compile, publish), read by every worker: one borrow per request.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{Bind, Filter, Protocol, RouteTimeouts};
use crate::proxy::backend::Backend;
use crate::telemetry::stats::Series;

/// Everything that requests are decided by, of one generation.
#[derive(Default)]
pub struct Snapshot {
    /// Counts publications, from 1; 0 before the first.
    pub generation: u64,
    /// The table of each socket.
    pub entries: BTreeMap<Bind, Arc<EntryTable>>,
}

/// Hosts and certificates of one socket.
pub struct EntryTable {
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A rule as requests use it: names resolved to live things, nothing to look up.
pub struct CompiledRule {
    /// Value of the metric label `route`.
    pub name: Arc<str>,
    /// In written order.
    pub filters: Box<[Filter]>,
    /// Shares.
    pub shares: Box<[Share]>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Deadlines.
    pub timeouts: RouteTimeouts,
}

/// One share of a rule's traffic.
pub struct Share {
    /// Relative weight.
    pub weight: u32,
    /// The backend; `None`: answered with 500.
    pub backend: Option<Arc<Backend>>,
    /// Filters of this share alone.
    pub filters: Box<[Filter]>,
    /// Statistics by color, in the order of the backend's colors.
    pub series: Box<[Arc<Series>]>,
}
