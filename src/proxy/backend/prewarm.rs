//! The wish that every worker opens connections to a color before traffic moves to it.
//!
//! Written by the cutover driver (the order) and by workers (that they have carried it out); read by both. One word
//! each: a worker that looks at it every few milliseconds pays one relaxed load.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Set in the order's word: the number of connections is chosen by the worker.
const AUTO: u64 = 1 << 31;

/// What workers are asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrewarmOrder {
    /// Grows with every order; never 0.
    pub generation: u32,
    /// Connections to open to each usable endpoint in each worker. `None`: as many as the worker has open per endpoint
    /// of the effective color, at most 4.
    pub per_endpoint: Option<u32>,
}

/// The current order of one color and who has carried it out.
#[derive(Debug, Default)]
pub struct Prewarm {
    /// Generation in the upper half; [`AUTO`] and the number in the lower; 0: none.
    order: AtomicU64,
    /// How many workers have carried out the current order.
    done: AtomicU32,
}

impl Prewarm {
    /// Asks for connections, in place of whatever was asked before. To be called by one thread at a time. `per_endpoint`
    /// is capped at 2^31 - 1.
    pub fn request(&self, per_endpoint: Option<u32>) -> PrewarmOrder {
        let generation = (self.order.load(Ordering::Relaxed) >> 32) as u32;
        let generation = generation.wrapping_add(1).max(1);
        let order = PrewarmOrder { generation, per_endpoint };
        let count = per_endpoint.map_or(AUTO, |count| u64::from(count).min(AUTO - 1));
        // First the count: a worker that sees the new order must not find the old one's count above it.
        self.done.store(0, Ordering::Release);
        self.order.store(u64::from(generation) << 32 | count, Ordering::Release);
        order
    }

    /// The order, if there is one. A worker remembers the generation it has carried out.
    pub fn order(&self) -> Option<PrewarmOrder> {
        let word = self.order.load(Ordering::Acquire);
        let generation = (word >> 32) as u32;
        if generation == 0 {
            return None;
        }
        let per_endpoint = if word & AUTO == 0 { Some((word & (AUTO - 1)) as u32) } else { None };
        Some(PrewarmOrder { generation, per_endpoint })
    }

    /// A worker has carried out this order, or has found that it cannot. To be called once per worker and generation.
    pub fn carried_out(&self, order: PrewarmOrder) {
        if self.order().is_some_and(|current| current.generation == order.generation) {
            self.done.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether this many workers have carried out the current order.
    pub fn is_done(&self, workers: usize) -> bool {
        self.done.load(Ordering::Acquire) as usize >= workers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_done_when_every_worker_has_carried_out_this_one_and_not_an_older() {
        let prewarm = Prewarm::default();
        assert_eq!(prewarm.order(), None);
        let first = prewarm.request(Some(3));
        assert_eq!(prewarm.order(), Some(PrewarmOrder { generation: 1, per_endpoint: Some(3) }));
        prewarm.carried_out(first);
        assert!(!prewarm.is_done(2));
        let second = prewarm.request(None);
        assert_eq!(prewarm.order(), Some(PrewarmOrder { generation: 2, per_endpoint: None }));
        prewarm.carried_out(first);
        prewarm.carried_out(second);
        assert!(prewarm.is_done(1) && !prewarm.is_done(2));
        prewarm.carried_out(second);
        assert!(prewarm.is_done(2));
    }
}
