//! What one worker owns and every request on it uses. Nothing in here is shared with another worker but cells and
//! atomics, so nothing in here is ever waited for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

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
        })
    }

    /// The process clock, nanoseconds.
    pub fn now(&self) -> u64 {
        clock::now()
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
