//! What requests read: an immutable table of hosts, routes and certificates, swapped as a whole.
//!
//! Written by the control loop (compile, publish), read by every worker: one borrow per request. Everything that a
//! request needs hangs off the rule it matches; nothing is looked up by name afterwards. What is alive in it (endpoints,
//! switches, series) belongs to [`Live`] and is shared from one snapshot to the next.

mod boundaries;
pub mod certificates;
mod compile;
pub mod explain;
pub mod hosts;
mod live;
pub mod matcher;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::model::{
    Bind, HeaderEdit, HostPattern, Protocol, Redirect, Rewrite, Route, RouteRetry, RouteTimeouts, Rule, Shards,
};
use crate::proxy::backend::Backend;
use crate::proxy::policy::cors::Cors;
use crate::proxy::wire::RequestHead;
use crate::telemetry::stats::Series;

pub use certificates::{CertificateTable, Resolver};
pub use compile::compile;
pub use explain::{Explanation, StreamExplanation, explain, explain_stream};
pub use live::{Live, NameKey};
pub use matcher::{HostTable, Matched};
pub use streams::{CompiledStream, Dispatch};

use boundaries::Boundaries;
use hosts::ByHost;
use matcher::Facts;
use streams::StreamTable;

/// Everything that requests are decided by, of one generation.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Counts publications, from 1; 0 before the first.
    pub generation: u64,
    /// The table of each socket.
    pub entries: BTreeMap<Bind, Arc<EntryTable>>,
}

/// Hosts, streams and certificates of one socket.
pub struct EntryTable {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Chooses the certificate of a handshake. The same one for as long as the socket is served, so a rotated
    /// certificate reaches a TLS configuration that was made earlier.
    pub resolver: Arc<Resolver>,
    /// The certificates of this generation.
    pub certificates: Arc<CertificateTable>,
    /// How TLS is spoken to clients, HTTP inside; `None` where it is not, or where it cannot be: then nobody gets in.
    pub tls: Option<Arc<ServerConfig>>,
    /// Whether clients must show certificates.
    pub verifies_clients: bool,
    hosts: Arc<ByHost<Arc<HostTable>>>,
    /// Boxed, and `None` when there are none, so that a request pays one branch.
    boundaries: Option<Box<Boundaries>>,
    streams: Option<Box<StreamTable>>,
    /// What `hosts` was made from: the next compile looks only at what is not the same.
    source: Shards<HostPattern, Vec<Arc<Route>>>,
}

/// A rule as requests use it: names resolved to live things, nothing to look up.
pub struct CompiledRule {
    /// The rule as in the model.
    pub source: Arc<Rule>,
    /// Value of the metric label `route`.
    pub name: Arc<str>,
    /// In written order.
    pub filters: Box<[CompiledFilter]>,
    /// Shares.
    pub shares: Box<[Share]>,
    /// Sum of the weights.
    pub total_weight: u64,
    /// Deadlines.
    pub timeouts: RouteTimeouts,
    /// What is tried again beyond what is safe in any case.
    pub retry: Option<Box<RouteRetry>>,
    /// Which pages of other origins may read answers. Not among the filters: it guards all of them, redirects too.
    pub cors: Option<Arc<Cors>>,
}

/// One share of a rule's traffic.
pub struct Share {
    /// Relative weight.
    pub weight: u32,
    /// The backend; `None`: answered with 500.
    pub backend: Option<Arc<Backend>>,
    /// Filters of this share alone.
    pub filters: Box<[CompiledFilter]>,
    /// As of the rule, for this share alone.
    pub cors: Option<Arc<Cors>>,
    /// Statistics by color, in the order of the backend's colors.
    pub series: Box<[Arc<Series>]>,
}

/// A filter with its target resolved. Names and values of edits are ready to be written: nothing is built per request.
#[derive(Debug)]
pub enum CompiledFilter {
    /// Changes request headers.
    RequestHeaders(HeaderEdit),
    /// Changes response headers.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host or path of what is forwarded.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere and forgets the answer.
    Mirror(CompiledMirror),
}

/// A copy of a share of the requests.
#[derive(Debug)]
pub struct CompiledMirror {
    /// Where copies go; `None`: nowhere.
    pub backend: Option<Arc<Backend>>,
    /// Copies are `numerator` of `denominator` requests.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

impl CompiledRule {
    /// Picks a share by weight; `None`: there is none with a weight.
    pub fn pick_share(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.total_weight == 0 {
            return None;
        }
        if let [_] = &*self.shares {
            return Some(0);
        }
        let mut point = rng.u64(..self.total_weight);
        self.shares.iter().position(|share| match point.checked_sub(u64::from(share.weight)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        })
    }
}

impl EntryTable {
    /// The rule for a request: of the most specific host that has a matching route, its most precise match.
    pub fn find(&self, head: &RequestHead) -> Option<Matched<'_>> {
        if let Some(boundaries) = &self.boundaries {
            return self.find_within(boundaries, head);
        }
        let facts = Facts::of(head);
        self.hosts.each(head.host(), |table| table.find(&facts))
    }

    /// The same, at the hosts of the request's own listener only.
    #[inline(never)]
    fn find_within(&self, boundaries: &Boundaries, head: &RequestHead) -> Option<Matched<'_>> {
        let facts = Facts::of(head);
        let least = boundaries.precision(head.host());
        self.hosts.each(head.host(), |table| {
            if boundaries::precision(&table.pattern) < least { None } else { table.find(&facts) }
        })
    }

    /// Whether a connection that was opened for a server name (lower-case) may carry requests for a host (lower-case, no
    /// port); if not, the answer is 421. Isolated listeners are told apart by their hostnames, others by their
    /// certificates; see [`CertificateTable::covers`].
    pub fn covers(&self, server_name: &str, host: &str) -> bool {
        match &self.boundaries {
            Some(boundaries) => server_name == host || boundaries.listener(server_name) == boundaries.listener(host),
            None => self.certificates.covers(Some(server_name), host),
        }
    }

    /// Whether a connection that was let in by `admitted` (none: in clear text) would be let in now. Connections outlive
    /// changes of their socket: one from before it spoke TLS, or before its clients had to show certificates of these roots,
    /// is not served as if it had done so.
    pub fn admits(&self, encrypted: bool, admitted: Option<&Arc<ServerConfig>>) -> bool {
        let same = || matches!((&self.tls, admitted), (Some(now), Some(then)) if Arc::ptr_eq(now, then));
        encrypted == (self.protocol == Protocol::Https) && (!self.verifies_clients || same())
    }

    /// Number of host patterns.
    pub fn host_count(&self) -> usize {
        self.hosts.len()
    }

    /// The tables of all hosts, in no order.
    pub fn host_tables(&self) -> impl Iterator<Item = &Arc<HostTable>> {
        self.hosts.values()
    }
}

impl Snapshot {
    /// Whether requests are decided by the very same tables, whatever the generation.
    pub fn serves_as(&self, other: &Snapshot) -> bool {
        self.entries.len() == other.entries.len()
            && self.entries.iter().zip(&other.entries).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    }
}

impl std::fmt::Debug for EntryTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryTable").field("protocol", &self.protocol).field("hosts", &self.hosts.len()).finish()
    }
}

/// Where the current snapshot stands. Written by the control loop alone, read by every worker.
pub struct Published {
    cell: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
}

impl Default for Published {
    fn default() -> Self {
        Self { cell: ArcSwap::from_pointee(Snapshot::default()), changed: watch::Sender::new(0) }
    }
}

impl Published {
    /// The current snapshot, for the length of a request's matching. Keep what you need of it, not the guard.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.cell.load()
    }

    /// The current snapshot, to keep.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.cell.load_full()
    }

    /// Tells of generations, so that new sockets are noticed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes a snapshot the current one. Gives back the one before, which workers may still be reading: whoever drops the
    /// last reference pays for taking it apart, so the control loop keeps it until it is the last.
    pub fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let generation = snapshot.generation;
        let before = self.cell.swap(Arc::new(snapshot));
        self.changed.send_replace(generation);
        before
    }
}
