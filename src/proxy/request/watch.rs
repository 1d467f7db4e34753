//! What can end a response while it waits for bytes: its deadline, silence, and its turn to leave the old color.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use super::context::Context;
use super::exchange::Exchange;
use crate::proxy::backend::streams::LONG_LIVED;
use crate::proxy::backend::{End, StreamGuard};
use crate::proxy::fault::Fault;
use crate::telemetry::clock;

/// Why a response has to end now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It failed.
    Fault(Fault),
    /// It is this stream's turn.
    Turn(End),
}

/// Watches one response.
pub struct Watch {
    moved: u64,
    since: u64,
    stream: Stream,
}

enum Stream {
    Young,
    Old(StreamGuard, Pin<Box<dyn Future<Output = End>>>),
    Over(Option<StreamGuard>),
}

impl Watch {
    /// From now on.
    pub fn new(now: u64) -> Self {
        Self { moved: u64::MAX, since: now, stream: Stream::Young }
    }

    /// To be asked whenever a response waits. `moved` changes with every byte; `idle` is how long it may stay the same,
    /// nanoseconds.
    pub fn poll(
        &mut self,
        cx: &mut Task<'_>,
        context: &Context,
        exchange: &Exchange,
        moved: u64,
        idle: u64,
    ) -> Poll<Ending> {
        let now = context.now();
        if moved != self.moved {
            self.moved = moved;
            self.since = now;
        }
        if now >= exchange.deadline {
            return Poll::Ready(Ending::Fault(Fault::UpstreamTimeout));
        }
        let silent_at = self.since.saturating_add(idle);
        if now >= silent_at {
            return Poll::Ready(Ending::Fault(Fault::BodyStalled));
        }
        let mut next = exchange.deadline.min(silent_at);
        if matches!(self.stream, Stream::Young)
            && let Some(target) = &exchange.target
        {
            let old_at = exchange.started + LONG_LIVED.as_nanos() as u64;
            if now >= old_at {
                let guard = target.color.streams.enter();
                let turn = Box::pin(guard.ended(clock::now, context.rng.borrow_mut().f64()));
                self.stream = Stream::Old(guard, turn);
            } else {
                next = next.min(old_at);
            }
        }
        if let Stream::Old(_, turn) = &mut self.stream
            && let Poll::Ready(end) = turn.as_mut().poll(cx)
        {
            let Stream::Old(guard, _) = std::mem::replace(&mut self.stream, Stream::Over(None)) else {
                return Poll::Pending;
            };
            self.stream = Stream::Over(Some(guard));
            return Poll::Ready(Ending::Turn(end));
        }
        exchange.timer.set(next, now);
        if exchange.timer.poll(cx, || now).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The response has been ended because it was told so.
    pub fn ended(&mut self, end: End) {
        if let Stream::Over(guard) = &mut self.stream
            && let Some(guard) = guard.take()
        {
            guard.finish(end);
        }
    }
}
