//! What one worker owns and every request on it uses. Nothing in here is shared with another worker but cells and
//! atomics, so nothing in here is ever waited for.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::exchange::Exchange;
use super::upstream_h2::Senders;
use crate::proxy::backend::pool::Pools;
use crate::proxy::options::Options;
use crate::proxy::policy::hop::Underscores;
use crate::proxy::snapshot::Published;
use crate::proxy::wire::timers::Timers;
use crate::telemetry::access_log::Logger;
use crate::telemetry::clock;
use crate::telemetry::gauges::Counters;
use crate::telemetry::stats::Shard;

/// A worker's things.
pub struct Context {
    /// What the data plane was told at start.
    pub options: Arc<Options>,
    /// The current snapshot.
    pub published: Arc<Published>,
    /// This worker's statistics.
    pub stats: RefCell<Shard>,
    /// This worker's gauges.
    pub counters: Arc<Counters>,
    /// This worker's deadlines.
    pub timers: Rc<Timers>,
    /// Idle upstream connections.
    pub pools: RefCell<Pools>,
    /// Randomness for balancing, sampling and identifiers.
    pub rng: RefCell<fastrand::Rng>,
    /// Set when the process is ending: answers tell clients not to come back on their connection.
    pub draining: Cell<bool>,
    /// Where requests are written down.
    pub log: RefCell<Logger>,
    /// Upstream connections that speak HTTP/2.
    pub(super) senders: RefCell<Senders>,
    #[expect(
        clippy::vec_box,
        reason = "a box moves into a connection's future as one pointer; its content never moves"
    )]
    spare: RefCell<Vec<Box<Exchange>>>,
    /// When the running task was polled.
    time: Cell<u64>,
}

pin_project_lite::pin_project! {
    /// What a worker runs: reads the clock, then goes on. Not an async block, which would hold the future twice.
    struct Task<F> {
        context: Rc<Context>,
        #[pin]
        future: F,
    }

    impl<F> PinnedDrop for Task<F> {
        fn drop(this: Pin<&mut Self>) {
            // The runtime catches a panic of the future and drops the task while it unwinds: the task ends, nothing else.
            if std::thread::panicking() {
                this.context.counters.panics.add(1);
            }
        }
    }
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.context.tick();
        this.future.poll(cx)
    }
}

/// Exchanges kept for reuse.
const SPARE: usize = 256;

impl Context {
    /// A new worker's things.
    pub fn new(
        options: Arc<Options>,
        published: Arc<Published>,
        stats: Shard,
        counters: Arc<Counters>,
        log: Logger,
        seed: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            options,
            published,
            stats: RefCell::new(stats),
            counters,
            timers: Rc::default(),
            pools: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::with_seed(seed)),
            draining: Cell::new(false),
            log: RefCell::new(log),
            senders: RefCell::default(),
            spare: RefCell::default(),
            time: Cell::new(clock::now()),
        })
    }

    /// The process clock, nanoseconds, as it was when the running task was polled: what happens in one poll happens at one
    /// time, and the clock is read once for it.
    #[inline]
    pub fn now(&self) -> u64 {
        self.time.get()
    }

    /// Reads the clock. Every task that asks for the time does so whenever it is polled; see [`Context::spawn`].
    #[inline]
    pub fn tick(&self) {
        self.time.set(clock::now());
    }

    /// Starts a task on this worker, for which [`Context::now`] is right.
    pub fn spawn(self: &Rc<Self>, future: impl Future<Output: 'static> + 'static) {
        tokio::task::spawn_local(Task { context: self.clone(), future });
    }

    /// Closes upstream connections that have been idle for too long or have ended.
    pub fn sweep(&self) {
        let idle = self.options.timeouts.upstream_idle.as_nanos() as u64;
        self.pools.borrow_mut().sweep(self.now().saturating_sub(idle));
        self.senders.borrow_mut().sweep();
    }

    /// What is done with names that contain an underscore.
    pub(super) fn underscores(&self) -> Underscores {
        if self.options.keep_underscores { Underscores::Keep } else { Underscores::Drop }
    }

    pub(super) fn take_exchange(&self) -> Box<Exchange> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Box::new(Exchange::new(self.timers.timer())))
    }

    pub(super) fn give_exchange(&self, exchange: Box<Exchange>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(exchange);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::Registry;

    #[test]
    fn a_panic_ends_its_own_task_and_is_counted() {
        let runtime = tokio::runtime::Builder::new_current_thread().build_local(Default::default()).unwrap();
        let shard = Registry::new(1, &[]).shard(0);
        let context = Context::new(Arc::default(), Arc::default(), shard, Arc::default(), Logger::off(), 1);
        let done = Rc::new(Cell::new(0));
        runtime.block_on(async {
            for number in 0..10 {
                let done = done.clone();
                context.spawn(async move {
                    // Some before their first wait, some after it.
                    if number % 2 == 0 {
                        tokio::task::yield_now().await;
                    }
                    assert!(number % 3 != 0, "as provoked");
                    done.set(done.get() + 1);
                });
            }
            while Rc::strong_count(&done) > 1 {
                tokio::task::yield_now().await;
            }
        });
        assert_eq!((done.get(), context.counters.panics.value()), (6, 4));
    }
}
