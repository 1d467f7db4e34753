//! What workers count that belongs to no series: connections, handshakes, panics.
//!
//! Every worker has [`Counters`] of its own and is their only writer, so that adding is a load and a store without a locked
//! instruction; readers add the workers up. A reading may be a moment old, never torn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A number with one writer (the thread of its worker) and any number of readers.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.value().wrapping_add(more), Ordering::Relaxed);
    }

    /// Takes away what was added before.
    #[inline]
    pub fn sub(&self, less: u64) {
        self.0.store(self.value().wrapping_sub(less), Ordering::Relaxed);
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One more, until it is dropped, by a panic too.
#[derive(Debug)]
pub struct OneMore<'a>(&'a Count);

impl<'a> OneMore<'a> {
    /// Adds one.
    pub fn of(count: &'a Count) -> Self {
        count.add(1);
        Self(count)
    }
}

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections to endpoints that carry no request.
    pub upstream_idle: Count,
    /// Connections to endpoints that carry at least one request.
    pub upstream_active: Count,
    /// Connections to endpoints opened since the start.
    pub upstream_opened: Count,
    /// Connections (or tasks) that ended by a panic.
    pub panics: Count,
    /// How often accepting paused at the limit of file descriptors or connections.
    pub paused_accepts: Count,
    listeners: Mutex<BTreeMap<Arc<str>, Arc<ListenerCounters>>>,
}

/// Kinds of frames that an HTTP/2 connection was ended for, as they are called in metrics.
pub const FLOODS: [&str; 10] = [
    "reset",
    "provoked_reset",
    "ping",
    "settings",
    "window_update",
    "priority",
    "empty_data",
    "continuation",
    "unknown",
    "other",
];

/// Counters of one listener on one worker.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Connections (or sessions of datagrams) that are open, also those that are still in a handshake.
    pub open: Count,
    /// Of these, connections between two requests.
    pub idle: Count,
    /// Of these, connections with at least one request or tunnel.
    pub active: Count,
    /// Connections accepted since the start.
    pub accepted: Count,
    /// Connections closed at once because a ceiling was reached.
    pub refused: Count,
    /// TLS handshakes that came to an end well.
    pub handshakes_ok: Count,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: Count,
    /// HTTP/2 connections ended because of too many frames of a kind, in the order of [`FLOODS`].
    pub floods: [Count; FLOODS.len()],
    /// Datagrams from clients.
    pub datagrams_in: Count,
    /// Datagrams to clients.
    pub datagrams_out: Count,
    /// Datagrams, in either direction, that were not passed on.
    pub datagrams_dropped: Count,
}

impl Counters {
    /// Counters of a listener. To be asked for when the listener is opened, not per connection: this takes a lock.
    pub fn listener(&self, name: &str) -> Arc<ListenerCounters> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counters) = listeners.get(name) {
            return counters.clone();
        }
        listeners.entry(name.into()).or_default().clone()
    }
}

impl Counters {
    /// Connections open on this worker, through whatever listener.
    pub fn open_connections(&self) -> u64 {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.values().map(|counters| counters.open.value()).sum()
    }
}

/// The counters of all workers.
#[derive(Debug)]
pub struct Gauges {
    workers: Box<[Arc<Counters>]>,
}

impl Gauges {
    /// For this many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers: (0..workers).map(|_| Arc::default()).collect() })
    }

    /// Those of one worker, numbered from 0.
    pub fn worker(&self, worker: usize) -> Arc<Counters> {
        self.workers[worker].clone()
    }

    /// Adds up one number over all workers.
    pub fn sum(&self, pick: impl Fn(&Counters) -> &Count) -> u64 {
        self.workers.iter().fold(0, |sum, worker| sum.wrapping_add(pick(worker).value()))
    }

    /// Adds up the numbers of every listener over all workers, by name.
    pub fn listeners(&self) -> BTreeMap<Arc<str>, ListenerTotals> {
        let mut all: BTreeMap<Arc<str>, ListenerTotals> = BTreeMap::new();
        for worker in &self.workers {
            for (name, counters) in &*worker.listeners.lock().unwrap_or_else(PoisonError::into_inner) {
                all.entry(name.clone()).or_default().add(counters);
            }
        }
        all
    }
}

/// A listener's numbers over all workers; meanings as in [`ListenerCounters`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the fields are those of ListenerCounters")]
pub struct ListenerTotals {
    pub open: u64,
    pub idle: u64,
    pub active: u64,
    pub accepted: u64,
    pub refused: u64,
    pub handshakes_ok: u64,
    pub handshakes_failed: u64,
    pub floods: [u64; FLOODS.len()],
    pub datagrams_in: u64,
    pub datagrams_out: u64,
    pub datagrams_dropped: u64,
}

impl ListenerTotals {
    fn add(&mut self, counters: &ListenerCounters) {
        self.open += counters.open.value();
        self.idle += counters.idle.value();
        self.active += counters.active.value();
        self.accepted += counters.accepted.value();
        self.refused += counters.refused.value();
        self.handshakes_ok += counters.handshakes_ok.value();
        self.handshakes_failed += counters.handshakes_failed.value();
        for (sum, count) in self.floods.iter_mut().zip(&counters.floods) {
            *sum += count.value();
        }
        self.datagrams_in += counters.datagrams_in.value();
        self.datagrams_out += counters.datagrams_out.value();
        self.datagrams_dropped += counters.datagrams_dropped.value();
    }

    /// Connections that have not come to their first request yet.
    pub fn opening(&self) -> u64 {
        self.open.saturating_sub(self.idle + self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_added_up_by_name_over_workers() {
        let gauges = Gauges::new(2);
        for (worker, open) in [(0, 3), (1, 4)] {
            let http = gauges.worker(worker).listener("http");
            http.open.add(open);
            http.active.add(1);
            gauges.worker(worker).listener("http").accepted.add(10);
            gauges.worker(worker).panics.add(1);
        }
        gauges.worker(1).listener("https").open.add(1);
        let listeners = gauges.listeners();
        assert_eq!(listeners["http"], ListenerTotals { open: 7, active: 2, accepted: 20, ..Default::default() });
        assert_eq!((listeners["http"].opening(), listeners["https"].open), (5, 1));
        assert_eq!(gauges.sum(|worker| &worker.panics), 2);
    }
}
