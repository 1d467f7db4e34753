//! Idle upstream connections of one worker, by endpoint. Last in, first out, so that what is not needed grows old.

use std::task::{Context, Poll, Waker};

use crate::proxy::wire::io::Io;
use crate::telemetry::stats::Slot;

/// Idle connections that one worker keeps to one endpoint.
const KEPT: usize = 512;

struct Idle {
    io: Io,
    since: u64,
}

#[derive(Default)]
struct Place {
    epoch: u32,
    idle: Vec<Idle>,
}

/// A worker's idle connections.
#[derive(Default)]
pub struct Pools {
    places: Vec<Place>,
    count: usize,
}

impl Pools {
    /// A connection to this endpoint that was open a moment ago.
    pub fn take(&mut self, slot: Slot) -> Option<Io> {
        let place = self.places.get_mut(slot.index()).filter(|place| place.epoch == slot.epoch())?;
        while let Some(mut idle) = place.idle.pop() {
            self.count -= 1;
            if is_quiet(&mut idle.io) {
                return Some(idle.io);
            }
        }
        None
    }

    /// Keeps a connection whose last response was complete. Nanoseconds of the process clock.
    pub fn give(&mut self, slot: Slot, io: Io, now: u64) {
        if self.places.len() <= slot.index() {
            self.places.resize_with(slot.index() + 1, Place::default);
        }
        let place = &mut self.places[slot.index()];
        if place.epoch != slot.epoch() {
            self.count -= place.idle.len();
            place.idle.clear();
            place.epoch = slot.epoch();
        }
        if place.idle.len() < KEPT {
            place.idle.push(Idle { io, since: now });
            self.count += 1;
        }
    }

    /// Closes what has been idle since before `before`, and what the other side has closed.
    pub fn sweep(&mut self, before: u64) {
        let mut count = 0;
        for place in &mut self.places {
            place.idle.retain_mut(|idle| idle.since >= before && is_quiet(&mut idle.io));
            if place.idle.is_empty() {
                place.idle = Vec::new();
            }
            count += place.idle.len();
        }
        self.count = count;
    }

    /// Connections kept to this endpoint.
    pub fn idle(&self, slot: Slot) -> usize {
        self.places.get(slot.index()).filter(|place| place.epoch == slot.epoch()).map_or(0, |place| place.idle.len())
    }

    /// Connections kept in all.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Whether the other side has neither closed nor said anything unasked. Costs no system call while nothing happened:
/// the runtime already knows.
fn is_quiet(io: &mut Io) -> bool {
    let mut byte = [0];
    matches!(io.poll_read(&mut Context::from_waker(Waker::noop()), &mut byte), Poll::Pending)
}
