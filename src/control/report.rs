//! What the control loop tells: verdicts, generation, and how fast changes are served.
//!
//! Written by the control loop, read by admin and by the log's reader. Every cell is swapped or atomic.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use tokio::sync::watch;

use crate::model::{ObjectRef, Severity, Statuses, Verdict};
use crate::telemetry::stats::Distribution;
use crate::telemetry::stats::histogram::{BUCKETS, bucket};

use super::provider::manifest::Problem;

/// Verdicts that are logged one by one after a change; the rest is counted.
const LOGGED: usize = 100;

/// The state of the control loop, for everyone who asks.
#[derive(Default)]
pub struct Report {
    verdicts: ArcSwap<Vec<Verdict>>,
    problems: ArcSwap<Vec<Problem>>,
    generation: AtomicU64,
    /// Milliseconds since the Unix epoch.
    last_publish: AtomicU64,
    routes: Histogram,
    endpoints: Histogram,
    statuses: watch::Sender<Option<Statuses>>,
}

/// How a change reaches requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// By a new snapshot.
    Routes,
    /// By the cells of colors alone.
    Endpoints,
}

impl Path {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Routes, Self::Endpoints];

    /// Value of the metric label.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Routes => "routes",
            Self::Endpoints => "endpoints",
        }
    }
}

impl Report {
    /// All verdicts on objects, sorted.
    pub fn verdicts(&self) -> Arc<Vec<Verdict>> {
        self.verdicts.load_full()
    }

    /// Everything that is wrong with the provider's files.
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.load_full()
    }

    /// Objects that are not served, or not as a whole, by kind (`weir_config_rejected_objects`).
    pub fn rejected(&self) -> BTreeMap<&'static str, usize> {
        let verdicts = self.verdicts.load();
        let mut rejected = BTreeMap::new();
        let objects: HashSet<&ObjectRef> = verdicts
            .iter()
            .filter(|verdict| verdict.severity == Severity::Error)
            .map(|verdict| &verdict.object)
            .collect();
        for object in objects {
            *rejected.entry(object.kind).or_default() += 1;
        }
        rejected
    }

    /// Generation that is served (`weir_config_generation`); 0 before the first full load.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// When it was published, seconds since the Unix epoch (`weir_config_last_publish_timestamp_seconds`); 0 before.
    pub fn last_publish(&self) -> f64 {
        self.last_publish.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Time from noticing a change to serving it (`weir_config_change_seconds`).
    pub fn latency(&self, path: Path) -> Distribution {
        self.histogram(path).read()
    }

    fn histogram(&self, path: Path) -> &Histogram {
        match path {
            Path::Routes => &self.routes,
            Path::Endpoints => &self.endpoints,
        }
    }

    pub(super) fn served(&self, path: Path, after: Duration) {
        self.histogram(path).observe(after);
    }

    pub(super) fn published(&self, generation: u64, wall: SystemTime) {
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_publish.store(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.generation.store(generation, Ordering::Release);
    }

    /// What is to be written into statuses: of what is served, never of what is still to be published. `None` before the
    /// first full load, which is not the same as nothing.
    pub fn statuses(&self) -> watch::Receiver<Option<Statuses>> {
        self.statuses.subscribe()
    }

    pub(super) fn tell_statuses(&self, statuses: &Statuses) {
        self.statuses.send_if_modified(|before| {
            let same = before.as_ref().is_some_and(|before| before.differences(statuses, Arc::ptr_eq).is_empty());
            if !same {
                *before = Some(statuses.clone());
            }
            !same
        });
    }

    /// Replaces the verdicts (sorted, each once). Those that were not there before are logged.
    pub(super) fn judge(&self, verdicts: Arc<Vec<Verdict>>) {
        let before = self.verdicts.load_full();
        if Arc::ptr_eq(&before, &verdicts) || before == verdicts {
            return;
        }
        let fresh = verdicts.iter().filter(|verdict| before.binary_search(verdict).is_err());
        log(fresh, |verdict| verdict.severity);
        self.verdicts.store(verdicts);
    }

    /// Replaces the problems of the provider's files. Those that were not there before are logged.
    pub(super) fn complain(&self, problems: Vec<Problem>) {
        let before = self.problems.load_full();
        if *before == problems {
            return;
        }
        log(problems.iter().filter(|problem| !before.contains(problem)), |problem| problem.severity);
        self.problems.store(Arc::new(problems));
    }
}

fn log<T: std::fmt::Display>(fresh: impl Iterator<Item = T>, severity: impl Fn(&T) -> Severity) {
    let mut silent = 0_u64;
    for (at, finding) in fresh.enumerate() {
        match severity(&finding) {
            _ if at >= LOGGED => silent += 1,
            Severity::Note => tracing::info!("{finding}"),
            Severity::Warning | Severity::Error => tracing::warn!("{finding}"),
        }
    }
    if silent > 0 {
        tracing::warn!(more = silent, "further findings are not logged; `weir check` and the admin port show them");
    }
}

/// Counts durations.
#[derive(Debug)]
struct Histogram {
    counts: [AtomicU64; BUCKETS],
    /// Nanoseconds.
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn read(&self) -> Distribution {
        let counts = std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed));
        let mut distribution = Distribution::default();
        distribution.add(self.sum.load(Ordering::Relaxed), Some(&counts));
        distribution
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    #[test]
    fn changes_are_counted_by_the_way_that_they_take() {
        let report = Report::default();
        for millis in [1, 2, 70_000] {
            report.served(Path::Routes, Duration::from_millis(millis));
        }
        report.served(Path::Endpoints, Duration::from_millis(3));
        let (routes, endpoints) = (report.latency(Path::Routes), report.latency(Path::Endpoints));
        assert_eq!((routes.classic()[..2].to_vec(), routes.count(), endpoints.count()), (vec![1, 2], 3, 1));
        assert_eq!((routes.sum_ns, endpoints.sum_ns), (70_003_000_000, 3_000_000));
    }

    #[test]
    fn rejected_objects_are_counted_once_each() {
        let verdict = |kind, name: &str, severity, problem: &str| Verdict {
            object: ObjectRef::new(kind, ObjectName::new("shop", name)),
            severity,
            reason: "Bad",
            field: String::new(),
            problem: problem.to_owned(),
            fix: String::new(),
        };
        let report = Report::default();
        report.judge(Arc::new(vec![
            verdict("Ingress", "a", Severity::Error, "one"),
            verdict("Ingress", "a", Severity::Error, "two"),
            verdict("Ingress", "b", Severity::Warning, "three"),
            verdict("Service", "c", Severity::Error, "four"),
        ]));
        assert_eq!(report.rejected().into_iter().collect::<Vec<_>>(), [("Ingress", 1), ("Service", 1)]);
        report.judge(Arc::default());
        assert!(report.rejected().is_empty() && report.verdicts().is_empty());
    }
}
