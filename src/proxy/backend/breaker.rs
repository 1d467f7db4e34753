//! Ceilings and the retry budget of a backend, over all workers.
//!
//! Written and read by every worker: a few additions to shared atomics for each request, no lock, no queue. Who does not
//! get in is answered at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use crate::model::BackendLimits;

/// Requests of a backend over all workers.
#[derive(Debug, Default)]
pub struct Load {
    /// In flight.
    pub in_flight: AtomicU32,
    /// Waiting for a connection.
    pub pending: AtomicU32,
    /// What may be tried again.
    pub retries: RetryBudget,
    /// What may be tried again for routes whose owners ask for it.
    pub asked: AskedRetries,
}

/// The budget of routes with retries of their own: as many retries as requests, and ten in a second in any case. Their
/// owners know their backends better than a default does, so more is allowed; but a backend that fails everything still
/// sees its load doubled at most, whatever number of attempts they wrote. It is apart from the other budget, so that what
/// a route spends is not missing where a connection was lost.
#[derive(Debug)]
pub struct AskedRetries(RetryBudget);

impl Default for AskedRetries {
    fn default() -> Self {
        Self(RetryBudget::with_floor(10 * RetryBudget::RETRY))
    }
}

impl AskedRetries {
    /// Notes a request of such a route (not its retries).
    pub fn deposit(&self) {
        self.0.deposit(100);
    }

    /// As [`RetryBudget::withdraw`].
    pub fn withdraw(&self, now: u64) -> bool {
        self.0.withdraw(now)
    }

    /// As [`RetryBudget::has_one`].
    pub fn has_one(&self, now: u64) -> bool {
        self.0.has_one(now)
    }
}

impl Load {
    /// A place among the requests in flight, or `None` when the ceiling is reached. Dropping the permit frees it.
    pub fn try_enter(self: &Arc<Self>, limits: &BackendLimits) -> Option<Permit> {
        take(&self.in_flight, limits.in_flight).then(|| Permit { load: Arc::clone(self), kind: Kind::InFlight })
    }

    /// A place among the requests that wait for a connection, or `None` when the ceiling is reached.
    pub fn try_wait(self: &Arc<Self>, limits: &BackendLimits) -> Option<Permit> {
        take(&self.pending, limits.pending).then(|| Permit { load: Arc::clone(self), kind: Kind::Pending })
    }
}

/// Adds first and looks then: with a plain load before it, two workers could both take the last place.
fn take(count: &AtomicU32, limit: u32) -> bool {
    let before = count.fetch_add(1, Ordering::Relaxed);
    if limit != 0 && before >= limit {
        count.fetch_sub(1, Ordering::Relaxed);
        return false;
    }
    true
}

/// A place that is held. Dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping a permit gives its place back"]
pub struct Permit {
    load: Arc<Load>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    InFlight,
    Pending,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let count = match self.kind {
            Kind::InFlight => &self.load.in_flight,
            Kind::Pending => &self.load.pending,
        };
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many requests may be tried again: a fifth of the requests of the last seconds, and three in a second in any case,
/// so that retries help with single failures and cannot multiply the load of a failing backend.
///
/// A bucket whose content fades away with a time of 10 s (the time to live of Finagle's retry budget), so that a quiet
/// hour does not pay for a storm. It can be full of two seconds' worth of requests and 30.
#[derive(Debug)]
pub struct RetryBudget {
    /// Thousandths of a retry.
    balance: AtomicI64,
    /// When fading and the floor were last accounted for; nanoseconds.
    settled: AtomicU64,
    /// Thousandths of a retry that each second gives.
    floor: i64,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::with_floor(Self::FLOOR)
    }
}

impl RetryBudget {
    const RETRY: i64 = 1_000;
    /// Of each second.
    const FLOOR: i64 = 3 * Self::RETRY;
    const FADE_SECONDS: i64 = 10;

    fn with_floor(floor: i64) -> Self {
        Self { balance: AtomicI64::new(floor * Self::FADE_SECONDS), settled: AtomicU64::new(0), floor }
    }

    /// Notes a request (not its retries), of which `percent` may be tried again; 20 by default.
    pub fn deposit(&self, percent: u32) {
        self.balance.fetch_add(i64::from(percent) * Self::RETRY / 100, Ordering::Relaxed);
    }

    /// Takes one retry out; false: the budget is used up.
    pub fn withdraw(&self, now: u64) -> bool {
        self.settle(now);
        if self.balance.fetch_sub(Self::RETRY, Ordering::Relaxed) >= Self::RETRY {
            return true;
        }
        self.balance.fetch_add(Self::RETRY, Ordering::Relaxed);
        false
    }

    /// Whether a retry could be taken out now.
    pub fn has_one(&self, now: u64) -> bool {
        self.settle(now);
        self.balance.load(Ordering::Relaxed) >= Self::RETRY
    }

    /// Retries that are left.
    pub fn left(&self) -> u32 {
        u32::try_from(self.balance.load(Ordering::Relaxed) / Self::RETRY).unwrap_or(0)
    }

    /// Lets the balance move towards what the floor alone would keep it at. Only withdrawals need it, so a request that
    /// is not retried pays one addition.
    fn settle(&self, now: u64) {
        const STEP: u64 = 100_000_000;
        let settled = self.settled.load(Ordering::Relaxed);
        let age = now.saturating_sub(settled);
        if age < STEP || self.settled.compare_exchange(settled, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let keep = (-(age as f64) / (Self::FADE_SECONDS as f64 * 1e9)).exp();
        let floor = (self.floor * Self::FADE_SECONDS) as f64;
        let balance = self.balance.load(Ordering::Relaxed);
        let faded = (balance as f64 * keep + floor * (1.0 - keep)) as i64;
        self.balance.fetch_add(faded - balance, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_holds_and_a_dropped_permit_frees_its_place() {
        let load = Arc::new(Load::default());
        let limits = BackendLimits { in_flight: 2, pending: 1 };
        let first = load.try_enter(&limits).unwrap();
        let second = load.try_enter(&limits).unwrap();
        assert!(load.try_enter(&limits).is_none());
        assert_eq!(load.in_flight.load(Ordering::Relaxed), 2);
        drop(first);
        assert!(load.try_enter(&limits).is_some());
        drop(second);
        assert_eq!(load.in_flight.load(Ordering::Relaxed), 0);
        let waiting = load.try_wait(&limits).unwrap();
        assert!(load.try_wait(&limits).is_none());
        drop(waiting);
        assert_eq!(load.pending.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ceiling_of_zero_is_none() {
        let load = Arc::new(Load::default());
        let limits = BackendLimits { in_flight: 0, pending: 0 };
        let held: Vec<_> = (0..100).map(|_| load.try_enter(&limits).unwrap()).collect();
        assert_eq!(held.len(), 100);
    }

    #[test]
    fn ceiling_holds_for_many_threads() {
        let load = Arc::new(Load::default());
        let limits = BackendLimits { in_flight: 5, pending: 0 };
        let most = AtomicU32::new(0);
        let (entered, inside) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        if let Some(permit) = load.try_enter(&limits) {
                            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            entered.fetch_add(1, Ordering::Relaxed);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!(entered.into_inner() > 0 && most.into_inner() <= 5);
        assert_eq!(load.in_flight.load(Ordering::Relaxed), 0);
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn retries_stay_below_a_fifth_of_the_requests_and_a_small_floor() {
        // 1,000 requests a second for a minute, each of which wants to be retried.
        let budget = RetryBudget::default();
        let mut retries = 0u32;
        for request in 0..60_000u64 {
            budget.deposit(20);
            retries += u32::from(budget.withdraw(request * SECOND / 1_000));
        }
        assert!((11_500..12_300).contains(&retries), "{retries}");
    }

    #[test]
    fn quiet_backend_may_retry_three_times_a_second() {
        let budget = RetryBudget::default();
        while budget.withdraw(0) {}
        let mut retries = 0;
        for tick in 1..=600u64 {
            retries += u32::from(budget.withdraw(tick * SECOND / 10));
        }
        assert!((150..=180).contains(&retries), "{retries} in a minute");
    }

    #[test]
    fn quiet_time_does_not_pay_for_a_storm() {
        let budget = RetryBudget::default();
        (0..100_000).for_each(|_| budget.deposit(20));
        assert!(budget.left() > 20_000);
        let mut retries = 0;
        while budget.withdraw(300 * SECOND) {
            retries += 1;
        }
        assert!(retries <= 31, "{retries}");
    }

    #[test]
    fn routes_that_ask_for_retries_double_the_load_of_a_failing_backend_at_most() {
        let budget = AskedRetries::default();
        let mut now = 1_000_000_000;
        let (mut requests, mut retries) = (0, 0);
        // A minute of a thousand requests a second that all fail and would be tried three times more.
        for _ in 0..60_000 {
            now += 1_000_000;
            budget.deposit();
            requests += 1;
            retries += (0..3).filter(|_| budget.withdraw(now)).count();
        }
        assert!(retries > requests * 9 / 10, "{retries}");
        assert!(retries < requests * 11 / 10, "{retries}");
        // A few requests at once have all that was asked for.
        let quiet = AskedRetries::default();
        assert_eq!(
            (0..33)
                .filter(|_| {
                    quiet.deposit();
                    (0..3).all(|_| quiet.withdraw(now))
                })
                .count(),
            33
        );
    }
}
