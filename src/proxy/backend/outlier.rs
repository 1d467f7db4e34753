//! Ejection: an endpoint that fails is left out for a while, longer each time, never more than half of a color.
//!
//! Every worker records the attempts it makes; the counters are atomics of the endpoint. Two workers that record at the
//! same moment may lose a count; a threshold is then reached one failure later.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::endpoint::{Endpoint, EndpointSet};
use crate::model::OutlierPolicy;

/// What an endpoint's attempts came to. Times are nanoseconds of the process clock.
#[derive(Debug, Default)]
pub struct Record {
    /// Failures since the last success.
    consecutive: AtomicU32,
    window_start: AtomicU64,
    attempts: AtomicU32,
    failures: AtomicU32,
    /// End of the current or last ejection; 0 before the first.
    ejected_until: AtomicU64,
    /// Ejections in a row; see [`Record::eject`].
    ejections: AtomicU32,
}

impl Record {
    /// End of the current or last ejection; 0 before the first.
    pub fn ejected_until(&self) -> u64 {
        self.ejected_until.load(Ordering::Acquire)
    }

    /// Ejections in a row.
    pub fn ejections(&self) -> u32 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// Counts an attempt; whether it reached a threshold.
    fn count(&self, ok: bool, policy: &OutlierPolicy, now: u64) -> bool {
        let start = self.window_start.load(Ordering::Relaxed);
        if now.saturating_sub(start) >= nanos(policy.window)
            && self.window_start.compare_exchange(start, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.attempts.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
        let attempts = self.attempts.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if ok {
            // Most of the time it is zero already, and a load leaves the cache line shared.
            if self.consecutive.load(Ordering::Relaxed) != 0 {
                self.consecutive.store(0, Ordering::Relaxed);
            }
            return false;
        }
        let in_a_row = self.consecutive.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let row = policy.consecutive > 0 && in_a_row >= policy.consecutive;
        let share = policy.failure_percent > 0
            && attempts >= policy.min_requests
            && u64::from(failures) * 100 >= u64::from(policy.failure_percent) * u64::from(attempts);
        // Zero consecutive failures turns ejection off as a whole.
        policy.consecutive > 0 && (row || share)
    }

    /// Starts an ejection, unless one runs. The nth in a row lasts n times the base. For each base time that the endpoint
    /// spent in service since its last ejection, one ejection is forgotten.
    fn eject(&self, policy: &OutlierPolicy, now: u64) -> Option<Undo> {
        let until = self.ejected_until.load(Ordering::Acquire);
        if until > now {
            return None;
        }
        let base = nanos(policy.base_ejection).max(1);
        let before = self.ejections.load(Ordering::Relaxed);
        let forgiven = u32::try_from(now.saturating_sub(until) / base).unwrap_or(u32::MAX);
        let ejections = before.saturating_sub(forgiven).saturating_add(1);
        let lasts = base.saturating_mul(u64::from(ejections)).min(nanos(policy.max_ejection).max(base));
        self.ejected_until
            .compare_exchange(until, now.saturating_add(lasts), Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        self.ejections.store(ejections, Ordering::Relaxed);
        Some(Undo { until, ejections: before })
    }

    fn undo(&self, undo: Undo) {
        self.ejections.store(undo.ejections, Ordering::Relaxed);
        self.ejected_until.store(undo.until, Ordering::Release);
    }

    /// Forgets what led to an ejection: who returns is judged anew.
    fn forget(&self) {
        self.consecutive.store(0, Ordering::Relaxed);
        self.attempts.store(0, Ordering::Relaxed);
        self.failures.store(0, Ordering::Relaxed);
    }
}

struct Undo {
    until: u64,
    ejections: u32,
}

/// Notes one finished attempt: its latency (nanoseconds, to the response head or the failure) and whether the endpoint
/// did well (a failure is a 5xx from it, a connect error, a reset or a timeout). Returns whether `policy` wants the
/// endpoint ejected, which is for [`eject`] to decide.
pub fn observe(endpoint: &Endpoint, ok: bool, latency: u64, policy: &OutlierPolicy, now: u64) -> bool {
    if ok {
        endpoint.latency.observe(latency, now);
    } else {
        endpoint.latency.observe_failure(latency, now);
    }
    // What was under way when the ejection began says nothing new.
    !endpoint.is_ejected(now) && endpoint.record.count(ok, policy, now)
}

/// Ejects an endpoint, unless more than half of the ready endpoints of its set were then ejected. Returns whether it was
/// ejected just now.
///
/// It ejects first and counts then: of two workers that eject different endpoints at the same moment one sees both, so
/// that there are never more than half for longer than this function takes.
pub fn eject(endpoint: &Endpoint, set: &EndpointSet, policy: &OutlierPolicy, now: u64) -> bool {
    let Some(undo) = endpoint.record.eject(policy, now) else { return false };
    let ejected = set.ready_members().filter(|member| member.is_ejected(now)).count();
    if ejected * 2 > set.ready() {
        endpoint.record.undo(undo);
        return false;
    }
    endpoint.record.forget();
    true
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Balance, Condition};
    use crate::proxy::backend::endpoint::tests::{SECOND, backend, endpoints, set_of};

    const MILLI: u64 = 1_000_000;

    fn record(endpoint: &Endpoint, ok: bool, set: &EndpointSet, policy: &OutlierPolicy, now: u64) -> bool {
        observe(endpoint, ok, MILLI, policy, now) && eject(endpoint, set, policy, now)
    }

    fn fail(endpoint: &Endpoint, set: &EndpointSet, now: u64) -> bool {
        record(endpoint, false, set, &OutlierPolicy::default(), now)
    }

    fn succeed(endpoint: &Endpoint, set: &EndpointSet, now: u64) {
        assert!(!record(endpoint, true, set, &OutlierPolicy::default(), now));
    }

    #[test]
    fn fifth_failure_in_a_row_ejects_and_a_success_starts_the_row_anew() {
        let list = endpoints(4);
        let set = set_of(&list, &backend());
        for _ in 0..3 {
            (0..4).for_each(|_| assert!(!fail(&list[0], &set, 0)));
            // Enough successes to stay below the share of the window.
            (0..8).for_each(|_| succeed(&list[0], &set, 0));
            succeed(&list[0], &set, 0);
        }
        (0..4).for_each(|_| assert!(!fail(&list[0], &set, 0)));
        assert!(fail(&list[0], &set, 0));
        assert!(list[0].is_ejected(0) && set.usable(0) == 3);
    }

    #[test]
    fn ejected_endpoint_returns_after_cooldown_and_is_judged_anew() {
        let list = endpoints(4);
        let set = set_of(&list, &backend());
        (0..5).for_each(|_| _ = fail(&list[0], &set, 0));
        assert!(list[0].is_ejected(10 * SECOND - 1) && !list[0].is_ejected(10 * SECOND));
        (0..4).for_each(|_| assert!(!fail(&list[0], &set, 10 * SECOND)));
        let mut rng = fastrand::Rng::with_seed(1);
        let picks = (0..400).filter(|_| {
            Arc::ptr_eq(set.pick(&Balance::RoundRobin, None, &[], &mut rng, 10 * SECOND).unwrap(), &list[0])
        });
        assert_eq!(picks.count(), 100);
    }

    #[test]
    fn share_of_failures_ejects_once_there_are_enough_requests() {
        let list = endpoints(4);
        let set = set_of(&list, &backend());
        let mut ejected_at = None;
        for attempt in 1..=40 {
            if attempt % 2 == 0 {
                if fail(&list[1], &set, attempt * MILLI) {
                    ejected_at = Some(attempt);
                    break;
                }
            } else {
                succeed(&list[1], &set, attempt * MILLI);
            }
        }
        assert_eq!(ejected_at, Some(20));
        // Spread over windows the same share never has enough requests.
        for attempt in 1..=40 {
            let now = attempt * SECOND;
            if attempt % 2 == 0 { assert!(!fail(&list[2], &set, now)) } else { succeed(&list[2], &set, now) }
        }
    }

    #[test]
    fn ejection_grows_while_it_repeats_and_shrinks_with_time_in_service() {
        let list = endpoints(4);
        let set = set_of(&list, &backend());
        let mut now = 0;
        let mut lengths = Vec::new();
        for _ in 0..4 {
            (0..5).for_each(|_| _ = fail(&list[0], &set, now));
            lengths.push((list[0].record.ejected_until() - now) / SECOND);
            now = list[0].record.ejected_until();
        }
        assert_eq!(lengths, [10, 20, 30, 40]);
        now += 25 * SECOND;
        (0..5).for_each(|_| _ = fail(&list[0], &set, now));
        assert_eq!((list[0].record.ejected_until() - now) / SECOND, 30, "two of four were forgotten");
        for _ in 0..60 {
            now = list[0].record.ejected_until();
            (0..5).for_each(|_| _ = fail(&list[0], &set, now));
        }
        assert_eq!((list[0].record.ejected_until() - now) / SECOND, 300, "never longer than the policy says");
    }

    #[test]
    fn never_more_than_half_of_a_color_is_ejected() {
        for (count, most) in [(1, 0), (2, 1), (3, 1), (5, 2), (10, 5)] {
            let list = endpoints(count);
            let set = set_of(&list, &backend());
            for endpoint in &list {
                (0..50).for_each(|_| _ = fail(endpoint, &set, 0));
            }
            assert_eq!(list.iter().filter(|endpoint| endpoint.is_ejected(0)).count(), most, "of {count}");
        }
        // Endpoints that are not ready do not count.
        let list = endpoints(4);
        let members = list.iter().cloned().zip([Condition::Ready, Condition::NotReady, Condition::NotReady]);
        let set = EndpointSet::new(members.collect(), None, &backend(), 0);
        (0..50).for_each(|_| assert!(!fail(&list[0], &set, 0)));
    }

    #[test]
    fn place_among_the_ejected_becomes_free_when_another_returns() {
        let list = endpoints(2);
        let set = set_of(&list, &backend());
        (0..5).for_each(|_| _ = fail(&list[0], &set, 0));
        (0..9).for_each(|_| assert!(!fail(&list[1], &set, SECOND)));
        assert!(fail(&list[1], &set, 10 * SECOND));
        assert!(!list[0].is_ejected(10 * SECOND) && list[1].is_ejected(10 * SECOND));
    }

    #[test]
    fn zero_consecutive_turns_ejection_off() {
        let list = endpoints(4);
        let set = set_of(&list, &backend());
        let policy = OutlierPolicy { consecutive: 0, ..OutlierPolicy::default() };
        (0..100).for_each(|_| assert!(!record(&list[0], false, &set, &policy, 0)));
    }

    #[test]
    fn ten_thousand_random_attempts_never_eject_more_than_half() {
        let mut rng = fastrand::Rng::with_seed(11);
        let list = endpoints(7);
        let set = set_of(&list, &backend());
        let mut ejections = 0;
        for step in 0..10_000u64 {
            let now = step * 20 * MILLI;
            let endpoint = &list[rng.usize(..7)];
            let ok = rng.u8(..10) < 3;
            ejections += u32::from(record(endpoint, ok, &set, &OutlierPolicy::default(), now));
            assert!(list.iter().filter(|endpoint| endpoint.is_ejected(now)).count() <= 3);
        }
        assert!(ejections > 20);
    }
}
