//! Idle upstream connections of one worker, by endpoint. Last in, first out, so that what is not needed grows old.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::task::{Context, Poll, Waker};

use crate::proxy::wire::io::Io;
use crate::telemetry::stats::Slot;

/// Idle connections that one worker keeps to one endpoint.
const KEPT: usize = 512;

/// Nanoseconds after which an idle connection is no longer trusted with a request that could not be repeated: the
/// endpoint may be closing it at this very moment.
const TRUSTED: u64 = 1_000_000_000;

struct Idle {
    io: Io,
    since: u64,
}

#[derive(Default)]
struct Place {
    epoch: u32,
    idle: Vec<Idle>,
    /// The shortest time (nanoseconds) after which this endpoint was seen to close an idle connection; 0: never seen.
    closes_after: u64,
}

impl Place {
    /// The endpoint closed a connection that had been idle for at most this long.
    fn learn(&mut self, rested: u64) {
        if self.closes_after == 0 || rested < self.closes_after {
            self.closes_after = rested.max(1);
        }
    }

    fn trusted(&self) -> u64 {
        match self.closes_after {
            0 => TRUSTED,
            // What was seen is an upper bound of the endpoint's own limit, and an early one may come.
            seen => TRUSTED.min(seen / 2),
        }
    }
}

/// A worker's idle connections.
#[derive(Default)]
pub struct Pools {
    places: Vec<Place>,
    count: usize,
}

impl Pools {
    /// A connection to this endpoint that was open a moment ago. `repeatable`: whether the request can be sent again if
    /// the endpoint closes it just now; if not, only a connection that was used shortly before is given.
    pub fn take(&mut self, slot: Slot, now: u64, repeatable: bool) -> Option<Io> {
        let place = self.places.get_mut(slot.index()).filter(|place| place.epoch == slot.epoch())?;
        while let Some(idle) = place.idle.last() {
            let rested = now.saturating_sub(idle.since);
            if !repeatable && rested >= place.trusted() {
                return None;
            }
            let Some(mut idle) = place.idle.pop() else { break };
            self.count -= 1;
            if is_quiet(&mut idle.io) {
                return Some(idle.io);
            }
            place.learn(rested);
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
            *place = Place { epoch: slot.epoch(), ..Place::default() };
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
    if let Io::Tcp(stream) = io {
        return stream.try_read(&mut byte).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    }
    // Without the task's budget, which would make a closed connection look quiet when it is used up.
    let read = std::pin::pin!(tokio::task::unconstrained(poll_fn(|cx| io.poll_read(cx, &mut byte))));
    matches!(read.poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
}
