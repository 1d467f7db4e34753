//! What is known of the cluster, and what of it is news. Pure: time is an argument, and there is no network.
//!
//! Invariants: nothing is told before every kind that exists was listed once; an object is told again only when what Weir
//! reads of it differs; what was seen stays until the API server itself says that it is gone. Endpoints are told at once,
//! everything else a moment later, so that what was written together is seen together although it comes on several watches.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::provider::feed::Batch;
use crate::control::provider::manifest::{Problem, same};
use crate::control::translate::{Change, Object};
use crate::model::{ObjectRef, Severity};

/// How long the rest of a change is waited for.
const SETTLE: Duration = Duration::from_millis(10);
/// The same while some watches are not back yet.
const SETTLE_APART: Duration = Duration::from_secs(5);
/// Failures in a row of which the first are nobody's business: connections do end.
const SILENT_FAILURES: u32 = 1;
/// Answers in a row that a kind does not exist, before its objects are believed to be gone.
const ABSENCES: u32 = 3;

/// What a watch has to say.
#[derive(Debug)]
pub enum News {
    /// A listing begins.
    Listing,
    /// The listing is over: what was not in it is gone.
    Listed,
    /// The connection lives.
    Alive,
    /// An object as it is now.
    Seen(Seen),
    /// The object is gone.
    Gone(ObjectRef),
    /// The API server does not know the kind.
    Absent,
    /// The watch does not work.
    Failed(Failure),
}

/// An object, as far as it matters.
#[derive(Debug)]
pub enum Seen {
    /// Weir may need it.
    Used(Object),
    /// There is nothing in it that Weir reads.
    Unused(ObjectRef),
    /// It cannot be read, and why.
    Bad(ObjectRef, String),
}

/// Why a watch does not work. The words must not differ from one attempt to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What is wrong.
    pub text: String,
    /// What would be right.
    pub fix: String,
    /// Whether the API server itself said so. Then there is nothing to wait for.
    pub answered: bool,
}

/// One watch, as the view knows it.
#[derive(Debug)]
struct Source {
    /// Kind and place, for messages.
    what: String,
    /// Whether a listing was finished, or the kind does not exist.
    settled: bool,
    /// What the running listing has named.
    listing: Option<HashSet<ObjectRef>>,
    absences: u32,
    /// The absence was told.
    absent: bool,
    heard: Instant,
    failures: u32,
    failure: Option<Failure>,
}

/// Everything that is known.
pub struct View {
    sources: Vec<Source>,
    /// By whom each object was seen last. What the loop has is the same `Arc`.
    held: HashMap<ObjectRef, (usize, Object)>,
    bad: BTreeMap<ObjectRef, (usize, Problem)>,
    endpoints: HashMap<ObjectRef, Change>,
    rest: HashMap<ObjectRef, Change>,
    /// When the first change that is still to be told was seen.
    first: Option<Instant>,
    complete: bool,
    told: Vec<Problem>,
}

impl View {
    /// Of these watches, each named by what it watches.
    pub fn new(watches: impl IntoIterator<Item = String>, now: Instant) -> Self {
        let source = |what| Source {
            what,
            settled: false,
            listing: None,
            absences: 0,
            absent: false,
            heard: now,
            failures: 0,
            failure: None,
        };
        Self {
            sources: watches.into_iter().map(source).collect(),
            held: HashMap::new(),
            bad: BTreeMap::new(),
            endpoints: HashMap::new(),
            rest: HashMap::new(),
            first: None,
            complete: false,
            told: Vec::new(),
        }
    }

    /// Whether everything was listed once.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Objects that are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// What is still to be listed for the first time.
    pub fn missing(&self) -> Vec<&str> {
        self.sources.iter().filter(|source| !source.settled).map(|source| source.what.as_str()).collect()
    }

    /// Since when something may have changed unseen; `None`: nothing can have.
    pub fn stale_since(&self) -> Option<Instant> {
        self.sources.iter().filter(|source| source.failure.is_some()).map(|source| source.heard).min()
    }

    /// Takes what watch number `from` has to say.
    pub fn take(&mut self, from: usize, news: News, now: Instant) {
        let Some(source) = self.sources.get_mut(from) else { return };
        if let News::Failed(failure) = news {
            source.failures += 1;
            source.failure = Some(failure);
            return;
        }
        source.heard = now;
        (source.failures, source.failure) = (0, None);
        if !matches!(news, News::Absent) {
            source.absences = 0;
            if std::mem::take(&mut source.absent) {
                tracing::info!(what = %source.what, "this kind exists now");
            }
        }
        match news {
            News::Listing => source.listing = Some(HashSet::new()),
            News::Listed => {
                source.settled = true;
                if let Some(named) = source.listing.take() {
                    self.forget(from, |reference| !named.contains(reference), now);
                }
            }
            News::Absent => self.absent(from, now),
            News::Gone(reference) => self.gone(from, reference, now),
            News::Seen(seen) => self.seen(from, seen, now),
            News::Alive | News::Failed(_) => {}
        }
    }

    fn seen(&mut self, from: usize, seen: Seen, now: Instant) {
        let (reference, object) = match seen {
            Seen::Used(object) => (object.reference(), Ok(Some(object))),
            Seen::Unused(reference) => (reference, Ok(None)),
            Seen::Bad(reference, why) => (reference, Err(why)),
        };
        if let Some(named) = self.sources.get_mut(from).and_then(|source| source.listing.as_mut()) {
            named.insert(reference.clone());
        }
        match object {
            Ok(Some(object)) => {
                self.bad.remove(&reference);
                match self.held.get_mut(&reference) {
                    Some((owner, old)) if same(old, &object) => *owner = from,
                    _ => {
                        self.held.insert(reference.clone(), (from, object.clone()));
                        self.change(reference, Change::Put(object), now);
                    }
                }
            }
            Ok(None) => self.gone(from, reference, now),
            Err(text) => {
                let fix = match self.held.contains_key(&reference) {
                    true => "correct it; until then its last good content stays in use",
                    false => "correct it; until then it is not used",
                };
                let problem = problem(Some(reference.clone()), format!("cannot be read: {text}"), fix.to_owned());
                self.bad.insert(reference, (from, problem));
            }
        }
    }

    fn gone(&mut self, from: usize, reference: ObjectRef, now: Instant) {
        if self.bad.get(&reference).is_some_and(|(owner, _)| *owner == from) {
            self.bad.remove(&reference);
        }
        // An object that was made anew with another type may have been seen by another watch already.
        if self.held.get(&reference).is_some_and(|(owner, _)| *owner == from) {
            self.held.remove(&reference);
            self.change(reference.clone(), Change::Remove(reference), now);
        }
    }

    fn forget(&mut self, from: usize, gone: impl Fn(&ObjectRef) -> bool, now: Instant) {
        let held = self.held.iter().filter(|(_, (owner, _))| *owner == from).map(|(reference, _)| reference);
        let bad = self.bad.iter().filter(|(_, (owner, _))| *owner == from).map(|(reference, _)| reference);
        let lost: BTreeSet<ObjectRef> = held.chain(bad).filter(|reference| gone(reference)).cloned().collect();
        for reference in lost {
            self.gone(from, reference, now);
        }
    }

    fn absent(&mut self, from: usize, now: Instant) {
        let has_any = self.held.values().any(|(owner, _)| *owner == from);
        let Some(source) = self.sources.get_mut(from) else { return };
        source.absences += 1;
        source.settled = true;
        source.listing = None;
        // An API server that has just started may not know its own kinds yet.
        if has_any && source.absences < ABSENCES {
            return;
        }
        if !std::mem::replace(&mut source.absent, true) {
            tracing::info!(what = %source.what, "this kind does not exist here; it is looked for again every few seconds");
        }
        self.forget(from, |_| true, now);
    }

    fn change(&mut self, reference: ObjectRef, change: Change, now: Instant) {
        let endpoints = self.complete && matches!(reference.kind, "EndpointSlice" | "Endpoints");
        if endpoints {
            self.endpoints.insert(reference, change);
        } else {
            self.rest.insert(reference, change);
        }
        self.first.get_or_insert(now);
    }

    /// Whether a watch has lost its connection, and may soon have it again.
    fn is_apart(&self) -> bool {
        self.sources.iter().any(|source| source.failure.as_ref().is_some_and(|failure| !failure.answered))
    }

    /// When there is something to tell; `None`: nothing so far.
    pub fn due(&self) -> Option<Instant> {
        let first = self.first.filter(|_| self.complete)?;
        let wait = match self.endpoints.is_empty() {
            false => Duration::ZERO,
            true if self.is_apart() => SETTLE_APART,
            true => SETTLE,
        };
        Some(first + wait)
    }

    /// What the loop is to know now, if anything.
    pub fn tell(&mut self, now: Instant) -> Option<Batch> {
        let problems = self.problems();
        if !self.complete {
            self.complete = self.sources.iter().all(|source| source.settled);
            if !self.complete {
                return (problems != self.told).then(|| {
                    self.told = problems.clone();
                    Batch { changes: Vec::new(), verdicts: problems, complete: false, seen: now }
                });
            }
            self.told = problems.clone();
            let seen = self.first.take().unwrap_or(now);
            let changes = std::mem::take(&mut self.rest).into_values().collect();
            return Some(Batch { changes, verdicts: problems, complete: true, seen });
        }
        let due = self.due().is_some_and(|due| due <= now);
        if !due && problems == self.told {
            return None;
        }
        self.told = problems.clone();
        let mut changes = Vec::new();
        let seen = self.first.unwrap_or(now);
        if due {
            if self.endpoints.is_empty() {
                changes.extend(std::mem::take(&mut self.rest).into_values());
            } else {
                changes.extend(std::mem::take(&mut self.endpoints).into_values());
            }
            // What is left has its own wait; its first change is not older than this.
            self.first = (!self.rest.is_empty()).then_some(seen);
        }
        Some(Batch { changes, verdicts: problems, complete: true, seen })
    }

    /// Everything that is wrong now: watches that do not work, and objects that cannot be read.
    fn problems(&self) -> Vec<Problem> {
        let failures = self.sources.iter().filter(|source| source.failures > SILENT_FAILURES);
        let failures = failures.filter_map(|source| source.failure.clone());
        let failures = failures.map(|failure| {
            let and = if failure.fix.is_empty() { "" } else { "; " };
            let fix = match self.complete {
                true => format!("{}{and}until then what was last seen stays in use", failure.fix),
                false => failure.fix,
            };
            problem(None, failure.text, fix)
        });
        let bad = self.bad.values().map(|(_, problem)| problem.clone());
        let all: BTreeSet<Problem> = failures.chain(bad).collect();
        all.into_iter().collect()
    }
}

fn problem(object: Option<ObjectRef>, text: String, fix: String) -> Problem {
    Problem {
        file: Arc::from(Path::new("kubernetes")),
        line: 0,
        column: 0,
        severity: Severity::Error,
        object,
        text,
        fix,
    }
}

/// How long to wait after this many failures in a row; `random` is in 0..1.
pub fn pause(failures: u32, random: f64) -> Duration {
    let longest = Duration::from_millis(200 << failures.clamp(1, 6).saturating_sub(1)).min(Duration::from_secs(5));
    longest.mul_f64(0.5 + 0.5 * random)
}
