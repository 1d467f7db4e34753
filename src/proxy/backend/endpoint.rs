//! One address and all that is known about it while it lives; and the endpoints of a color at one moment.
//!
//! An [`Endpoint`] is shared by every worker and the health checker. All it holds are atomics: who reads sees facts that
//! are a moment old at worst, and nobody waits. An [`EndpointSet`] never changes: a new one is stored in its place.
//!
//! Written by workers (load, latency, failures), the health checker (health) and whoever makes sets (start times); read
//! by the balancer, the cutover machine and the admin port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::balance::Maglev;
use super::outlier::Record;
use crate::model::{self, Balance, Condition};
use crate::telemetry::stats::Series;

/// A live endpoint. Lives on for as long as a request or a pooled connection uses it, also when it has left its set.
#[derive(Debug)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// Name of the pod, if it is one.
    pub pod: Option<Arc<str>>,
    /// Attempts in flight over all workers.
    pub in_flight: AtomicU32,
    /// Statistics; its slot also indexes a worker's pools.
    pub series: Series,
    /// How long attempts take.
    pub latency: Latency,
    /// Failures and ejections.
    pub(super) record: Record,
    healthy: AtomicBool,
    started: AtomicU64,
}

impl Endpoint {
    /// A new endpoint: healthy until an active check says otherwise, never measured, its slow start beginning now.
    pub fn new(address: SocketAddr, pod: Option<Arc<str>>, series: Series, now: u64) -> Self {
        Self {
            address,
            pod,
            in_flight: AtomicU32::new(0),
            series,
            latency: Latency::default(),
            record: Record::default(),
            healthy: AtomicBool::new(true),
            started: AtomicU64::new(now),
        }
    }

    /// What active checks say; true where there are none.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Notes what active checks say. An endpoint that turns healthy starts slowly again.
    pub fn set_healthy(&self, healthy: bool, now: u64) {
        if !self.healthy.swap(healthy, Ordering::Relaxed) && healthy {
            self.restart(now);
        }
    }

    /// Whether it is left out for its failures.
    pub fn is_ejected(&self, now: u64) -> bool {
        self.record.ejected_until() > now
    }

    /// Healthy and not ejected. Its [`Condition`] is a matter of the set.
    pub fn is_usable(&self, now: u64) -> bool {
        self.is_healthy() && !self.is_ejected(now)
    }

    /// Begins its slow start anew.
    pub fn restart(&self, now: u64) {
        self.started.store(now, Ordering::Relaxed);
    }

    /// Its share of what a warm endpoint gets: a tenth when it starts or returns from an ejection, growing evenly to 1
    /// over `slow_start` (nanoseconds; 0: always 1).
    pub fn share(&self, slow_start: u64, now: u64) -> f64 {
        if slow_start == 0 {
            return 1.0;
        }
        let since = self.started.load(Ordering::Relaxed).max(self.record.ejected_until());
        let age = now.saturating_sub(since);
        if age >= slow_start { 1.0 } else { 0.1 + 0.9 * (age as f64 / slow_start as f64) }
    }

    /// What a request would cost here, in nanoseconds times requests: the decayed peak latency times the requests that
    /// would then be in flight. An endpoint that was never measured costs nothing for its first request and much for
    /// the next ones, so that it is measured by one request before it gets many.
    pub fn load(&self, now: u64) -> f64 {
        const UNMEASURED: f64 = 1e18;
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        match self.latency.at(now) {
            Some(latency) => latency * (f64::from(in_flight) + 1.0),
            None if in_flight == 0 => 0.0,
            None => UNMEASURED * f64::from(in_flight),
        }
    }
}

/// Peak-sensitive moving average of latency: a slower sample is believed at once, faster ones by and by. The cost
/// function and the decay of 10 s are those of Finagle's "Power of Two Choices + Peak EWMA" balancer.
///
/// Value and time are two atomics. When two workers note samples at the same moment one of them can be lost: the average
/// stays between the samples, which is all that balancing asks.
#[derive(Debug, Default)]
pub struct Latency {
    /// `f64` bits, nanoseconds; 0 before the first sample.
    value: AtomicU64,
    /// When `value` was written.
    written: AtomicU64,
}

impl Latency {
    /// Time after which an old sample counts for 1/e.
    pub const DECAY: Duration = Duration::from_secs(10);

    /// Notes that an attempt took this long (nanoseconds).
    pub fn observe(&self, sample: u64, now: u64) {
        let sample = sample.max(1) as f64;
        let value = f64::from_bits(self.value.load(Ordering::Relaxed));
        let next = if sample > value {
            sample
        } else {
            let keep = self.decay(now);
            value * keep + sample * (1.0 - keep)
        };
        self.value.store(next.to_bits(), Ordering::Relaxed);
        self.written.store(now, Ordering::Relaxed);
    }

    /// Notes that an attempt failed after this long. A failure is often quick, and must not make its endpoint look fast:
    /// it only ever raises the average. Who never answered counts as slow.
    pub fn observe_failure(&self, sample: u64, now: u64) {
        const NEVER_ANSWERED: u64 = 1_000_000_000;
        let value = f64::from_bits(self.value.load(Ordering::Relaxed));
        if value == 0.0 {
            self.observe(sample.max(NEVER_ANSWERED), now);
        } else if sample as f64 > value {
            self.observe(sample, now);
        }
    }

    /// The average in nanoseconds. It decays towards zero while nothing is measured, so that who was slow once is tried
    /// again; `None` before the first sample.
    pub fn at(&self, now: u64) -> Option<f64> {
        let value = f64::from_bits(self.value.load(Ordering::Relaxed));
        (value > 0.0).then(|| value * self.decay(now))
    }

    fn decay(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.written.load(Ordering::Relaxed));
        // Most samples follow one another closely, where the first term of the series is exact enough.
        let x = age as f64 / Self::DECAY.as_nanos() as f64;
        if x < 1e-4 { 1.0 - x } else { (-x).exp() }
    }
}

/// The endpoints of a color at one moment.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Every endpoint with its condition, sorted by address.
    pub members: Vec<(Arc<Endpoint>, Condition)>,
    /// Indices of the members that are ready.
    pub(super) ready: Box<[u32]>,
    /// Indices of those that are terminating but still serve.
    pub(super) terminating: Box<[u32]>,
    /// Nanoseconds; see [`Endpoint::share`].
    pub(super) slow_start: u64,
    /// Only for [`Balance::Hash`].
    pub(super) maglev: Option<Maglev>,
    /// Whose turn it is in round robin; handed from set to set.
    pub(super) turn: Arc<AtomicU32>,
}

impl EndpointSet {
    /// The set of these members. Sorts them by address and prepares what picking needs. An endpoint that was not ready
    /// in `previous` and now is starts slowly.
    pub fn new(
        mut members: Vec<(Arc<Endpoint>, Condition)>,
        previous: Option<&EndpointSet>,
        backend: &model::Backend,
        now: u64,
    ) -> Self {
        members.sort_by_key(|(endpoint, _)| endpoint.address);
        let of = |wanted: Condition| -> Box<[u32]> {
            (0u32..).zip(&members).filter(|(_, member)| member.1 == wanted).map(|(index, _)| index).collect()
        };
        let (ready, terminating) = (of(Condition::Ready), of(Condition::Terminating));
        for (endpoint, condition) in &members {
            let before = previous.and_then(|set| set.condition(endpoint));
            if *condition == Condition::Ready && before.is_some_and(|before| before != Condition::Ready) {
                endpoint.restart(now);
            }
        }
        let maglev = matches!(backend.balance, Balance::Hash(_))
            .then(|| Maglev::new(ready.iter().map(|index| members[*index as usize].0.address)));
        Self {
            members,
            ready,
            terminating,
            slow_start: u64::try_from(backend.slow_start.as_nanos()).unwrap_or(u64::MAX),
            maglev,
            turn: previous.map(|set| Arc::clone(&set.turn)).unwrap_or_default(),
        }
    }

    /// The set that follows `previous` when a provider lists `listed`: addresses that stay keep their [`Endpoint`] with
    /// all that is known of it, new ones are made by `make`. An address whose pod changed is a new endpoint.
    pub fn follow(
        listed: &[model::Endpoint],
        previous: Option<&EndpointSet>,
        backend: &model::Backend,
        now: u64,
        mut make: impl FnMut(&model::Endpoint) -> Arc<Endpoint>,
    ) -> Self {
        let members = listed.iter().map(|endpoint| {
            let kept = previous
                .and_then(|set| set.find(endpoint.address))
                .filter(|kept| kept.pod == endpoint.pod)
                .map(Arc::clone);
            (kept.unwrap_or_else(|| make(endpoint)), endpoint.condition)
        });
        Self::new(members.collect(), previous, backend, now)
    }

    /// The endpoint with this address.
    pub fn find(&self, address: SocketAddr) -> Option<&Arc<Endpoint>> {
        let at = self.members.binary_search_by_key(&address, |(endpoint, _)| endpoint.address).ok()?;
        Some(&self.members[at].0)
    }

    /// The condition of this endpoint, if it is a member.
    fn condition(&self, endpoint: &Arc<Endpoint>) -> Option<Condition> {
        let at = self.members.binary_search_by_key(&endpoint.address, |(member, _)| member.address).ok()?;
        let (member, condition) = &self.members[at];
        Arc::ptr_eq(member, endpoint).then_some(*condition)
    }

    /// Endpoints that are ready, healthy and not ejected.
    pub fn usable(&self, now: u64) -> usize {
        self.ready_members().filter(|endpoint| endpoint.is_usable(now)).count()
    }

    /// Endpoints that are ready.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// All endpoints, whatever their condition.
    pub fn total(&self) -> usize {
        self.members.len()
    }

    /// The endpoints that are ready.
    pub fn ready_members(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.ready.iter().map(|index| self.member(*index))
    }

    pub(super) fn member(&self, index: u32) -> &Arc<Endpoint> {
        &self.members[index as usize].0
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{BackendKey, ObjectName};
    use crate::telemetry::stats::{ColorLabels, Registry};

    pub(in crate::proxy::backend) const SECOND: u64 = 1_000_000_000;

    pub(in crate::proxy::backend) fn backend() -> model::Backend {
        model::Backend::new(BackendKey::new(ObjectName::new("shop", "web"), 80), Vec::new())
    }

    pub(in crate::proxy::backend) fn endpoint_at(address: SocketAddr, now: u64) -> Arc<Endpoint> {
        let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: "".into() };
        Arc::new(Endpoint::new(address, None, Registry::new(1, &[]).endpoint(labels, address), now))
    }

    /// `10.0.hi.lo:80` for each index.
    pub(in crate::proxy::backend) fn endpoints(count: u16) -> Vec<Arc<Endpoint>> {
        (0..count).map(|i| endpoint_at(SocketAddr::from(([10, 0, (i >> 8) as u8, i as u8], 80)), 0)).collect()
    }

    pub(in crate::proxy::backend) fn set_of(list: &[Arc<Endpoint>], backend: &model::Backend) -> EndpointSet {
        EndpointSet::new(list.iter().map(|e| (Arc::clone(e), Condition::Ready)).collect(), None, backend, 0)
    }

    #[test]
    fn slower_sample_counts_at_once_and_faster_ones_by_and_by() {
        let latency = Latency::default();
        assert_eq!(latency.at(0), None);
        latency.observe(1_000, 0);
        latency.observe(9_000, 1);
        assert!((latency.at(1).unwrap() - 9_000.0).abs() < 1.0);
        latency.observe(1_000, 1 + SECOND);
        let after = latency.at(1 + SECOND).unwrap();
        assert!(after > 8_000.0 && after < 8_500.0, "{after}");
        let later = latency.at(1 + 11 * SECOND).unwrap();
        assert!((later / after - (-1.0f64).exp()).abs() < 0.01, "one decay time leaves 1/e");
    }

    #[test]
    fn quick_failure_does_not_make_an_endpoint_look_fast() {
        let latency = Latency::default();
        latency.observe(1_000_000, 0);
        latency.observe_failure(10, 1);
        assert!(latency.at(1).unwrap() > 999_000.0);
        let never = Latency::default();
        never.observe_failure(10, 0);
        assert!(never.at(0).unwrap() > 9e8);
    }

    #[test]
    fn load_is_latency_times_requests_and_an_unmeasured_endpoint_gets_one_request() {
        let endpoint = &endpoints(1)[0];
        assert_eq!(endpoint.load(0), 0.0);
        endpoint.in_flight.store(1, Ordering::Relaxed);
        assert!(endpoint.load(0) > 1e17);
        endpoint.latency.observe(1_000, 0);
        assert!((endpoint.load(0) - 2_000.0).abs() < 1.0);
    }

    #[test]
    fn addresses_that_stay_keep_what_is_known_of_them() {
        let listed = |octet: u8, pod: &str, condition| model::Endpoint {
            address: SocketAddr::from(([10, 0, 0, octet], 80)),
            condition,
            pod: Some(pod.into()),
            zone: None,
        };
        let make = |endpoint: &model::Endpoint| {
            let labels = ColorLabels { namespace: "a".into(), service: "b".into(), port: 80, color: "".into() };
            let series = Registry::new(1, &[]).endpoint(labels, endpoint.address);
            Arc::new(Endpoint::new(endpoint.address, endpoint.pod.clone(), series, 0))
        };
        let backend = backend();
        let first = EndpointSet::follow(
            &[listed(2, "b", Condition::Ready), listed(1, "a", Condition::NotReady)],
            None,
            &backend,
            0,
            make,
        );
        assert_eq!((first.total(), first.ready(), first.usable(0)), (2, 1, 1));
        first.members[0].0.latency.observe(5, 0);
        let second = EndpointSet::follow(
            &[listed(1, "a", Condition::Ready), listed(2, "other", Condition::Ready)],
            Some(&first),
            &backend,
            7,
            make,
        );
        assert!(Arc::ptr_eq(&first.members[0].0, &second.members[0].0));
        assert!(!Arc::ptr_eq(&first.members[1].0, &second.members[1].0), "another pod at the same address");
        assert_eq!(second.members[0].0.started.load(Ordering::Relaxed), 7, "it became ready now");
    }

    #[test]
    fn share_grows_from_a_tenth_and_again_when_health_returns() {
        let endpoint = endpoint_at("10.0.0.1:80".parse().unwrap(), SECOND);
        let share = |now| (endpoint.share(10 * SECOND, now) * 100.0).round();
        assert_eq!([share(SECOND), share(6 * SECOND), share(11 * SECOND)], [10.0, 55.0, 100.0]);
        endpoint.set_healthy(true, 20 * SECOND);
        assert_eq!(share(20 * SECOND), 100.0, "it was healthy all the time");
        endpoint.set_healthy(false, 21 * SECOND);
        endpoint.set_healthy(true, 22 * SECOND);
        assert_eq!(share(22 * SECOND), 10.0);
        assert_eq!(endpoint.share(0, 22 * SECOND), 1.0);
    }
}
