//! How writing goes on, and what the watches tell the writer. Written by the writer's thread and by the watches, read by
//! admin and by the writer.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::ObjectRef;

/// Objects that may be [`Fresh`] at a time.
const FRESH: usize = 10_000;

/// How writing goes on, for the metrics.
#[derive(Debug, Default)]
pub struct Progress {
    leads: AtomicBool,
    waiting: AtomicU64,
    /// Since when the oldest is not written.
    oldest: Mutex<Option<Instant>>,
    writes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Progress {
    /// Whether this one writes (`weir_leader`).
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Objects that are to be written to (`weir_status_queue_length`).
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long the oldest of them has waited (`weir_status_oldest_seconds`).
    pub fn oldest(&self) -> Duration {
        let oldest = *self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Writes by kind and result (`weir_status_writes_total`).
    pub fn writes(&self) -> Vec<(&'static str, &'static str, u64)> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.iter().map(|((kind, result), count)| (*kind, *result, *count)).collect()
    }

    pub(super) fn lead(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    pub(super) fn wait(&self, waiting: usize, oldest: Option<Instant>) {
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    pub(super) fn count(&self, kind: &'static str, result: &'static str) {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, result)).or_default() += 1;
    }
}

/// Objects that the watches have seen being made. One that was made anew under the name of another may be said to be as
/// it was, but has no status. Written by the watches, emptied by who leads.
#[derive(Debug, Default)]
pub struct Fresh(Mutex<HashSet<ObjectRef>>);

impl Fresh {
    /// An object was made.
    pub fn add(&self, object: ObjectRef) {
        let mut fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Who begins to lead reads everything anyway.
        if fresh.len() < FRESH {
            fresh.insert(object);
        }
    }

    pub fn take(&self) -> HashSet<ObjectRef> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
