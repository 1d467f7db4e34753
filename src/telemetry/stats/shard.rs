//! One worker's counters, and the copy of them that readers see.
//!
//! Written by the worker alone. A cell is a series' counters in this shard; cells that changed since the last publication
//! are listed, so that publishing costs what was used and not what exists.

use std::sync::{Arc, PoisonError, TryLockError};

use super::histogram::{self, BUCKETS, Counts};
use super::{Class, Flow, Outcome, Registry, Slot};

/// Durations of one series: of whole requests, and until their response head.
#[derive(Clone, Debug)]
pub(super) struct Histograms {
    pub latency: Counts,
    pub first_byte: Counts,
}

impl Default for Histograms {
    fn default() -> Self {
        Self { latency: [0; BUCKETS], first_byte: [0; BUCKETS] }
    }
}

/// Requests to one color of one port.
#[derive(Clone, Debug, Default)]
pub(super) struct ColorCell {
    pub flow: Flow,
    pub queue_ns: u64,
    pub classes: [u64; Class::ALL.len()],
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub last_finished: u64,
    pub latency_ns: u64,
    pub first_byte_ns: u64,
    /// Allocated with the first request that finishes: most series are idle on most workers.
    pub histograms: Option<Box<Histograms>>,
}

/// Attempts at one endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct EndpointCell {
    pub flow: Flow,
    pub errors: u64,
    pub latency_ns: u64,
}

/// Requests through one route to one color, by class of status.
#[derive(Clone, Debug, Default)]
pub(super) struct RouteCell {
    pub codes: [u64; super::CODE_CLASSES.len()],
}

/// A cell with its tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry<C> {
    /// Epoch of the slot that it counts for; 0: nobody's yet.
    pub epoch: u32,
    dirty: bool,
    pub cell: C,
}

/// The cells of one kind, by the index of their slots.
#[derive(Debug, Default)]
struct Cells<C> {
    entries: Vec<Entry<C>>,
    dirty: Vec<u32>,
}

impl<C: Clone + Default> Cells<C> {
    #[inline]
    fn at(&mut self, slot: Slot) -> Option<&mut C> {
        let index = slot.index();
        if self.entries.get(index).is_none_or(|entry| entry.epoch != slot.epoch()) && !self.adopt(slot) {
            return None;
        }
        let entry = self.entries.get_mut(index)?;
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(slot.index);
        }
        Some(&mut entry.cell)
    }

    /// Makes the cell this slot's, unless a younger slot has it: then the series has died.
    #[cold]
    fn adopt(&mut self, slot: Slot) -> bool {
        if self.entries.len() <= slot.index() {
            self.entries.resize_with(slot.index() + 1, Entry::default);
        }
        let entry = &mut self.entries[slot.index()];
        if entry.epoch != 0 && (slot.epoch().wrapping_sub(entry.epoch) as i32) < 0 {
            return false;
        }
        entry.epoch = slot.epoch();
        entry.cell = C::default();
        true
    }

    fn publish(&mut self, to: &mut Vec<Entry<C>>) {
        if to.len() < self.entries.len() {
            to.resize_with(self.entries.len(), Entry::default);
        }
        for index in self.dirty.drain(..) {
            let from = &mut self.entries[index as usize];
            from.dirty = false;
            to[index as usize].epoch = from.epoch;
            to[index as usize].cell.clone_from(&from.cell);
        }
    }
}

/// What readers see of a shard: a state that the worker was in, as a whole.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub at: u64,
    pub colors: Vec<Entry<ColorCell>>,
    pub endpoints: Vec<Entry<EndpointCell>>,
    pub routes: Vec<Entry<RouteCell>>,
    pub faults: Vec<u64>,
}

impl Published {
    pub(super) fn new(reasons: usize) -> Self {
        Self { faults: vec![0; reasons], ..Self::default() }
    }
}

/// One worker's counters. All times are nanoseconds of the process clock.
#[derive(Debug)]
pub struct Shard {
    registry: Arc<Registry>,
    worker: usize,
    colors: Cells<ColorCell>,
    endpoints: Cells<EndpointCell>,
    routes: Cells<RouteCell>,
    faults: Vec<u64>,
}

impl Shard {
    pub(super) fn new(registry: Arc<Registry>, worker: usize, reasons: usize) -> Self {
        Self {
            registry,
            worker,
            colors: Cells::default(),
            endpoints: Cells::default(),
            routes: Cells::default(),
            faults: vec![0; reasons],
        }
    }

    /// A request was given to a color.
    #[inline]
    pub fn started(&mut self, color: Slot, now: u64) {
        if let Some(cell) = self.colors.at(color) {
            cell.flow.start(now);
        }
    }

    /// It is over. To be called exactly once for every [`Shard::started`].
    #[inline]
    pub fn finished(&mut self, color: Slot, route: Slot, outcome: &Outcome) {
        if let Some(cell) = self.routes.at(route) {
            cell.codes[code_class(outcome.status)] += 1;
        }
        let Some(cell) = self.colors.at(color) else { return };
        cell.flow.end(outcome.ended);
        cell.classes[outcome.class as usize] += 1;
        cell.bytes_in = cell.bytes_in.wrapping_add(outcome.bytes_in);
        cell.bytes_out = cell.bytes_out.wrapping_add(outcome.bytes_out);
        cell.last_finished = cell.last_finished.max(outcome.ended);
        let latency = outcome.ended.saturating_sub(outcome.started);
        cell.latency_ns = cell.latency_ns.wrapping_add(latency);
        let histograms = cell.histograms.get_or_insert_default();
        histograms.latency[histogram::bucket(latency)] += 1;
        if let Some(first_byte) = outcome.first_byte {
            let waited = first_byte.saturating_sub(outcome.started);
            cell.first_byte_ns = cell.first_byte_ns.wrapping_add(waited);
            histograms.first_byte[histogram::bucket(waited)] += 1;
        }
    }

    /// An attempt at an endpoint began.
    #[inline]
    pub fn attempt_started(&mut self, endpoint: Slot, now: u64) {
        if let Some(cell) = self.endpoints.at(endpoint) {
            cell.flow.start(now);
        }
    }

    /// It is over. To be called exactly once for every [`Shard::attempt_started`].
    #[inline]
    pub fn attempt_finished(&mut self, endpoint: Slot, started: u64, now: u64, failed: bool) {
        if let Some(cell) = self.endpoints.at(endpoint) {
            cell.flow.end(now);
            cell.errors += u64::from(failed);
            cell.latency_ns = cell.latency_ns.wrapping_add(now.saturating_sub(started));
        }
    }

    /// A request waited from then until then (process clock) for a place or a connection.
    #[inline]
    pub fn queued(&mut self, color: Slot, from: u64, until: u64) {
        if let Some(cell) = self.colors.at(color) {
            cell.queue_ns = cell.queue_ns.wrapping_add(until.saturating_sub(from));
        }
    }

    /// Weir answered by itself, or a response failed, for the reason with this index. An index without a reason is ignored.
    #[inline]
    pub fn fault(&mut self, reason: usize) {
        if let Some(count) = self.faults.get_mut(reason) {
            *count += 1;
        }
    }

    /// Whether readers see every series as it is here.
    #[cfg(test)]
    pub(super) fn is_published(&self) -> bool {
        let clean = self.colors.dirty.is_empty() && self.endpoints.dirty.is_empty() && self.routes.dirty.is_empty();
        clean && super::slots::lock(&self.registry.published[self.worker]).faults == self.faults
    }

    /// Makes everything so far visible to readers, unless a reader is copying right now (then next time).
    pub fn publish(&mut self, now: u64) {
        let registry = &self.registry;
        let mut to = match registry.published[self.worker].try_lock() {
            Ok(to) => to,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => return,
        };
        to.at = now;
        self.colors.publish(&mut to.colors);
        self.endpoints.publish(&mut to.endpoints);
        self.routes.publish(&mut to.routes);
        to.faults.copy_from_slice(&self.faults);
    }
}

#[inline]
fn code_class(status: u16) -> usize {
    match status {
        100..=599 => status as usize / 100,
        _ => 0,
    }
}
