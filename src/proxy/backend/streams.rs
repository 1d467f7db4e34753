//! Long-lived streams of one color: upgraded connections, and responses open for more than [`LONG_LIVED`].
//!
//! A cutover does not touch a running exchange; but one that never ends by itself would stay on the old color for ever.
//! So each long-lived stream holds a [`StreamGuard`] and listens for its turn. Written by workers (enter, finish) and by
//! the cutover driver (orders); read by both. An order is a broadcast: a stream that hears it draws a ticket, and the
//! ticket fixes when its turn is, so that no list of streams is kept and no worker waits for another.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// A response that is open for longer than this is a long-lived stream.
pub const LONG_LIVED: Duration = Duration::from_secs(10);

const SECOND: u64 = 1_000_000_000;

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// By the client or the endpoint.
    Natural,
    /// By Weir, at its turn.
    Drained,
    /// By Weir, because the time was over.
    Forced,
}

/// When streams are to end. Times are nanoseconds of the process clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainOrder {
    /// One by one, spread evenly from `from` to `until`.
    Spread {
        /// Nobody's turn is before.
        from: u64,
        /// What is still open then may be forced.
        until: u64,
        /// At most max(1, 5 %) of the streams per second, even if that is too slow for `until`.
        paced: bool,
    },
    /// At once.
    Force,
}

/// How many streams ended, and how.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ended {
    /// By the client or the endpoint.
    pub natural: u64,
    /// By Weir, at their turn.
    pub drained: u64,
    /// By Weir, because the time was over.
    pub forced: u64,
}

/// The long-lived streams of one color of one port, and two facts about its requests that a receipt needs.
#[derive(Debug)]
pub struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    order: watch::Sender<Option<Issued>>,
    open: AtomicU64,
    natural: AtomicU64,
    drained: AtomicU64,
    forced: AtomicU64,
    tickets: AtomicU64,
    last_response: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    order: DrainOrder,
    /// Streams open when it was issued.
    open: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                order: watch::Sender::new(None),
                open: AtomicU64::new(0),
                natural: AtomicU64::new(0),
                drained: AtomicU64::new(0),
                forced: AtomicU64::new(0),
                tickets: AtomicU64::new(0),
                last_response: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            }),
        }
    }
}

impl Streams {
    /// An exchange has become long-lived: its connection was upgraded, or its response is open for [`LONG_LIVED`].
    pub fn enter(&self) -> StreamGuard {
        self.shared.open.fetch_add(1, Ordering::Relaxed);
        StreamGuard { shared: Arc::clone(&self.shared), end: End::Natural }
    }

    /// Tells every stream, also those that enter later, when to end. Replaces an earlier order.
    pub fn order(&self, order: DrainOrder) {
        self.shared.tickets.store(0, Ordering::Relaxed);
        let open = self.open();
        self.shared.order.send_replace(Some(Issued { order, open }));
    }

    /// Takes the order back: whose turn has not come stays.
    pub fn cancel(&self) {
        self.shared.order.send_replace(None);
    }

    /// Streams that have not ended.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Streams that have.
    pub fn ended(&self) -> Ended {
        Ended {
            natural: self.shared.natural.load(Ordering::Relaxed),
            drained: self.shared.drained.load(Ordering::Relaxed),
            forced: self.shared.forced.load(Ordering::Relaxed),
        }
    }

    /// A response of this color ended at `now`. Only a color that is not effective needs it.
    pub fn responded(&self, now: u64) {
        self.shared.last_response.store(now, Ordering::Relaxed);
    }

    /// When [`Streams::responded`] was last told, if ever.
    pub fn last_response(&self) -> Option<u64> {
        Some(self.shared.last_response.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    /// A request to this color was answered with `no_endpoints`.
    pub fn drop_request(&self) {
        self.shared.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// One long-lived stream. Dropping it counts it as ended; how, says [`StreamGuard::finish`].
#[derive(Debug)]
pub struct StreamGuard {
    shared: Arc<Shared>,
    end: End,
}

impl StreamGuard {
    /// Resolves when Weir has to end this stream: with `Drained` at its turn (end it in the protocol's orderly way) or
    /// with `Forced` (end it at once). Never resolves without an order. `clock` reads the process clock in nanoseconds;
    /// `jitter` is a random number from [0, 1) that places the turn within its slot. The future borrows nothing.
    pub fn ended<C: Fn() -> u64 + 'static>(&self, clock: C, jitter: f64) -> impl Future<Output = End> + use<C> {
        ended(Arc::clone(&self.shared), clock, jitter)
    }

    /// The stream has ended, this way.
    pub fn finish(mut self, end: End) {
        self.end = end;
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let counter = match self.end {
            End::Natural => &self.shared.natural,
            End::Drained => &self.shared.drained,
            End::Forced => &self.shared.forced,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn ended(shared: Arc<Shared>, clock: impl Fn() -> u64, jitter: f64) -> End {
    let mut orders = shared.order.subscribe();
    loop {
        let issued = *orders.borrow_and_update();
        let changed = orders.changed();
        match issued {
            None => _ = changed.await,
            Some(Issued { order: DrainOrder::Force, .. }) => return End::Forced,
            Some(Issued { order: DrainOrder::Spread { from, until, paced }, open }) => {
                let ticket = shared.tickets.fetch_add(1, Ordering::Relaxed);
                let turn = turn(ticket, open, from, until, paced, jitter);
                tokio::select! {
                    _ = changed => {}
                    () = tokio::time::sleep(Duration::from_nanos(turn.saturating_sub(clock()))) => return End::Drained,
                }
            }
        }
    }
}

/// When the stream with this ticket (from 0) of `open` is to end: its slot of the evenly divided time, and within the
/// slot as `jitter` says, because streams that end at the same moment come back at the same moment.
fn turn(ticket: u64, open: u64, from: u64, until: u64, paced: bool, jitter: f64) -> u64 {
    let even = until.saturating_sub(from) / open.max(1);
    let slot = if paced { even.max(SECOND / (open / 20).max(1)) } else { even };
    let offset = (slot as f64 * jitter.clamp(0.0, 1.0)) as u64;
    from.saturating_add(ticket.saturating_mul(slot)).saturating_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> impl Fn() -> u64 + Clone + 'static {
        let start = tokio::time::Instant::now();
        move || start.elapsed().as_nanos() as u64
    }

    #[test]
    fn turns_are_spread_evenly_and_at_most_a_twentieth_ends_in_a_second() {
        let mut random = fastrand::Rng::with_seed(7);
        for (open, seconds) in [(1, 1), (10, 300), (1_000, 300), (1_000, 5), (37, 60), (20_000, 20)] {
            let turns: Vec<u64> = (0..open)
                .map(|ticket| turn(ticket, open, SECOND, (1 + seconds) * SECOND, true, random.f64()))
                .collect();
            assert!(turns.iter().all(|at| *at >= SECOND));
            let cap = (open / 20).max(1) as usize + 1;
            for at in &turns {
                let within = turns.iter().filter(|other| (*at..*at + SECOND).contains(*other)).count();
                assert!(within <= cap, "{within} of {open} within one second, {cap} are allowed");
            }
            if open / 20 * seconds >= open {
                assert!(turns.iter().all(|at| *at <= (1 + seconds) * SECOND), "all turns are within the time");
                let half = turns.iter().filter(|at| **at <= SECOND + seconds * SECOND / 2).count() as u64;
                assert!(half.abs_diff(open / 2) <= 1 + open / 20, "{half} of {open} in the first half");
            }
        }
    }

    #[tokio::test]
    async fn no_stream_ends_before_its_turn_and_all_are_counted() {
        const SLOT: u64 = 5_000_000;
        let streams = Streams::default();
        let clock = clock();
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (guard, clock) = (streams.enter(), clock.clone());
                tokio::spawn(async move {
                    let end = guard.ended(clock.clone(), 0.5).await;
                    guard.finish(end);
                    clock()
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(streams.open(), 20);
        let from = clock();
        streams.order(DrainOrder::Spread { from, until: from + 20 * SLOT, paced: false });
        let mut ends = Vec::new();
        for task in tasks {
            ends.push(task.await.unwrap());
        }
        ends.sort_unstable();
        for (turn, end) in (0..).zip(ends) {
            assert!(end >= from + turn * SLOT + SLOT / 2, "stream {turn} ended {} ns after the order", end - from);
        }
        assert_eq!(streams.open(), 0);
        assert_eq!(streams.ended(), Ended { natural: 0, drained: 20, forced: 0 });
    }

    #[tokio::test]
    async fn cancelled_order_is_forgotten_and_force_ends_the_rest() {
        const HOUR: u64 = 3_600 * SECOND;
        let streams = Streams::default();
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let guard = streams.enter();
                tokio::spawn(async move {
                    let end = guard.ended(|| 0, 0.0).await;
                    guard.finish(end);
                })
            })
            .collect();
        let let_all_hear = async || {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        };
        let_all_hear().await;
        // The first ticket's turn is at once; the other nine are hours away.
        streams.order(DrainOrder::Spread { from: 0, until: 10 * HOUR, paced: false });
        while streams.open() == 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        streams.cancel();
        let_all_hear().await;
        assert_eq!((streams.open(), streams.ended().drained), (9, 1));
        streams.order(DrainOrder::Force);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(streams.ended(), Ended { natural: 0, drained: 1, forced: 9 });
    }

    #[tokio::test]
    async fn a_stream_that_enters_after_the_order_hears_it_too() {
        let streams = Streams::default();
        streams.order(DrainOrder::Spread { from: 5 * SECOND, until: 6 * SECOND, paced: false });
        let guard = streams.enter();
        assert_eq!(guard.ended(|| 5 * SECOND, 0.0).await, End::Drained);
        drop(guard);
        assert_eq!(streams.ended().natural, 1, "a guard that is dropped ended by itself");
    }

    #[test]
    fn facts_for_the_receipt_are_kept() {
        let streams = Streams::default();
        assert_eq!(streams.last_response(), None);
        streams.responded(5);
        streams.drop_request();
        assert_eq!((streams.last_response(), streams.dropped()), (Some(5), 1));
    }
}
