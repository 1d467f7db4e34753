//! Events on objects that are not served, and on cutovers: what is new, at a bounded rate. Pure but for the two calls at
//! the end.
//!
//! The name of an Event follows from what it says, so that several leaders in a row, or one that starts again, say a thing
//! once: the API server has it already.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::FixedState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::remote::{EVENT, Kind, Refusal, Remote};
use super::status::CONTROLLER;
use crate::model::{ObjectName, ObjectRef, Severity, Verdict};

/// Events that may wait; of more the oldest go untold.
const WAITING: usize = 1_000;
/// How many can be told at once, and how many a second after that.
const BURST: f64 = 50.0;
const RATE: f64 = 5.0;
/// The longest note of an Event, in bytes.
const NOTE: usize = 1_024;

/// What has happened to an object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Announcement {
    /// To which.
    pub object: ObjectRef,
    /// CamelCase.
    pub reason: Arc<str>,
    /// Whether its owner should look at it.
    pub warning: bool,
    /// In words.
    pub note: String,
    /// What tells two of the same words apart: when it happened, for things that may happen again.
    pub at: u64,
}

/// What was told to the owner of a Service with colors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// Milliseconds since the Unix epoch.
    pub at: u64,
    /// `CutoverStarted`, ….
    pub reason: &'static str,
    /// Whether the owner should look at it.
    pub warning: bool,
    /// In words.
    pub text: String,
}

/// Chooses what is told, and when.
#[derive(Debug, Default)]
pub struct Announcer {
    verdicts: Arc<Vec<Verdict>>,
    /// Time of the last note that was taken, by Service.
    cutovers: BTreeMap<ObjectName, u64>,
    /// Notes of before are somebody else's.
    since: u64,
    waiting: VecDeque<Announcement>,
    untold: u64,
    /// What can be told now, and when that was counted.
    tokens: Option<(f64, Instant)>,
}

impl Announcer {
    /// Notes of cutovers of before `since` (milliseconds since the Unix epoch) were told by another leader.
    pub fn new(since: u64) -> Self {
        Self { since, ..Self::default() }
    }

    /// Takes verdicts (sorted). Errors that were not there before are told, one for each reason of an object.
    pub fn verdicts(&mut self, verdicts: Arc<Vec<Verdict>>) {
        if Arc::ptr_eq(&self.verdicts, &verdicts) {
            return;
        }
        let before = std::mem::replace(&mut self.verdicts, verdicts.clone());
        let fresh = verdicts.iter().filter(|verdict| verdict.severity == Severity::Error);
        for verdict in fresh.filter(|verdict| before.binary_search(verdict).is_err()) {
            let mut note = String::new();
            for (part, between) in [(&verdict.field, ": "), (&verdict.problem, "; "), (&verdict.fix, "")] {
                if !part.is_empty() {
                    note.push_str(part);
                    note.push_str(between);
                }
            }
            let note = note.trim_end_matches([';', ':', ' ']).to_owned();
            let (object, reason) = (verdict.object.clone(), Arc::from(verdict.reason));
            self.push(Announcement { object, reason, warning: true, note, at: 0 });
        }
    }

    /// Takes what the owner of a Service was told, oldest first.
    pub fn cutover(&mut self, service: &ObjectName, told: &[Told]) {
        let last = self.cutovers.get(service).copied().unwrap_or(self.since);
        for told in told.iter().filter(|told| told.at > last) {
            // Each start takes over the colors as they are; nothing has happened.
            if told.reason == "CutoverAdopted" {
                continue;
            }
            let object = ObjectRef::new("Service", service.clone());
            let (reason, note) = (Arc::from(told.reason), told.text.clone());
            self.push(Announcement { object, reason, warning: told.warning, note, at: told.at });
        }
        if let Some(told) = told.last() {
            self.cutovers.insert(service.clone(), told.at.max(last));
        }
    }

    /// Forgets Services that have no colors any more.
    pub fn retain(&mut self, services: &BTreeSet<&ObjectName>) {
        self.cutovers.retain(|service, _| services.contains(service));
    }

    fn push(&mut self, announcement: Announcement) {
        if self.waiting.len() >= WAITING {
            self.waiting.pop_front();
            self.untold += 1;
        }
        self.waiting.push_back(announcement);
    }

    /// The next to be told, if it is time.
    pub fn pop(&mut self, now: Instant) -> Option<Announcement> {
        let (mut tokens, at) = self.tokens.unwrap_or((BURST, now));
        tokens = (tokens + now.duration_since(at).as_secs_f64() * RATE).min(BURST);
        let next = if tokens >= 1.0 { self.waiting.pop_front() } else { None };
        self.tokens = Some((if next.is_some() { tokens - 1.0 } else { tokens }, now));
        next
    }

    /// How many went untold since this was asked last.
    pub fn untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }
}

/// The Event. `uid` is the object's: tools look for it.
fn event(announcement: &Announcement, kind: &Kind, uid: &str, instance: &str, now: Timestamp) -> Value {
    let Announcement { object, reason, warning, note, .. } = announcement;
    let namespace = if object.name.namespace.is_empty() { "default" } else { &*object.name.namespace };
    let mut hasher = FixedState::with_seed(0).build_hasher();
    (announcement, uid).hash(&mut hasher);
    let prefix = cut(&object.name.name, 200);
    let mut regarding =
        json!({"apiVersion": kind.api_version(), "kind": kind.name, "name": object.name.name, "uid": uid});
    if kind.namespaced {
        regarding["namespace"] = json!(namespace);
    }
    json!({
        "apiVersion": EVENT.api_version(),
        "kind": EVENT.name,
        "metadata": {"name": format!("{prefix}.{:016x}", hasher.finish()), "namespace": namespace},
        "eventTime": MicroTime(now),
        "reportingController": CONTROLLER,
        "reportingInstance": cut(instance, 128),
        "action": if kind.name == "Service" && reason.starts_with("Cutover") { "Cutover" } else { "Translate" },
        "reason": cut(reason, 128),
        "type": if *warning { "Warning" } else { "Normal" },
        "note": cut(note, NOTE),
        "regarding": regarding,
    })
}

/// At most so many bytes of a text.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Tells it. An object that is gone has no owner to be told.
pub async fn tell(remote: &Remote, announcement: &Announcement, instance: &str) -> Result<&'static str, Refusal> {
    let ObjectName { namespace, name } = &announcement.object.name;
    let Some(kind) = Kind::named(announcement.object.kind) else { return Ok("unchanged") };
    let object = remote.read(&kind.path(namespace, name)).await?;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let event = event(announcement, kind, uid, instance, Timestamp::now());
    let namespace = event["metadata"]["namespace"].as_str().unwrap_or_default();
    match remote.create(&EVENT.list(namespace), &event).await {
        Ok(_) => Ok("written"),
        Err(Refusal::Conflict) => Ok("unchanged"),
        Err(refusal) => Err(refusal),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn verdict(name: &str, severity: Severity) -> Verdict {
        Verdict {
            object: ObjectRef::new("Ingress", ObjectName::new("shop", name)),
            severity,
            reason: "BackendNotFound",
            field: "spec.rules[0]".to_owned(),
            problem: "there is no Service x".to_owned(),
            fix: "make it".to_owned(),
        }
    }

    fn names(announcer: &mut Announcer, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| announcer.pop(now)).map(|it| it.object.name.name.to_string()).collect()
    }

    #[test]
    fn errors_are_told_when_they_are_new() {
        let (mut announcer, now) = (Announcer::new(0), Instant::now());
        let first = Arc::new(vec![verdict("a", Severity::Error), verdict("b", Severity::Warning)]);
        announcer.verdicts(first.clone());
        let told = announcer.pop(now).expect("one");
        assert_eq!(told.note, "spec.rules[0]: there is no Service x; make it");
        announcer.verdicts(first);
        announcer.verdicts(Arc::new(vec![verdict("a", Severity::Error), verdict("c", Severity::Error)]));
        assert_eq!(names(&mut announcer, now), ["c"]);
        announcer.verdicts(Arc::default());
        announcer.verdicts(Arc::new(vec![verdict("c", Severity::Error)]));
        assert_eq!(names(&mut announcer, now), ["c"], "it was good meanwhile");
    }

    #[test]
    fn a_cutover_is_told_once_and_what_was_before_is_not() {
        let (mut announcer, now) = (Announcer::new(100_000), Instant::now());
        let service = ObjectName::new("shop", "web");
        let told = |at, reason| Told { at, reason, warning: false, text: String::new() };
        let mut notes =
            vec![told(50_000, "CutoverDone"), told(100_001, "CutoverAdopted"), told(100_002, "CutoverStarted")];
        announcer.cutover(&service, &notes);
        assert_eq!(announcer.pop(now).map(|it| it.reason), Some("CutoverStarted".into()));
        notes.push(told(100_003, "CutoverCommitted"));
        announcer.cutover(&service, &notes);
        announcer.cutover(&service, &notes);
        assert_eq!(announcer.pop(now).map(|it| it.reason), Some("CutoverCommitted".into()));
        assert_eq!(announcer.pop(now), None);
    }

    #[test]
    fn many_are_told_slowly_and_too_many_not_at_all() {
        let (mut announcer, now) = (Announcer::new(0), Instant::now());
        let mut verdicts: Vec<Verdict> =
            (0..WAITING + 7).map(|at| verdict(&format!("i-{at}"), Severity::Error)).collect();
        verdicts.sort_unstable();
        announcer.verdicts(Arc::new(verdicts));
        assert_eq!((announcer.untold(), announcer.untold()), (7, 0));
        assert_eq!(names(&mut announcer, now).len(), 50);
        assert_eq!(names(&mut announcer, now + Duration::from_secs(2)).len(), 10);
    }

    #[test]
    fn an_event_has_a_name_of_its_own_and_keeps_within_the_limits() {
        let at = |at| Announcement {
            object: ObjectRef::new("GatewayClass", ObjectName::new("", "weir")),
            reason: "Bad".into(),
            warning: true,
            note: "ä".repeat(NOTE),
            at,
        };
        let kind = Kind::named("GatewayClass").expect("a kind");
        let event = |at_, uid| event(&at(at_), kind, uid, "weir-0", Timestamp::UNIX_EPOCH);
        let one = event(0, "u");
        assert_eq!(one, event(0, "u"));
        assert_eq!(
            (&one["metadata"]["namespace"], one["note"].as_str().map(str::len)),
            (&json!("default"), Some(NOTE))
        );
        assert_eq!(one["regarding"].get("namespace"), None);
        assert_ne!(one["metadata"]["name"], event(1, "u")["metadata"]["name"]);
        assert_ne!(one["metadata"]["name"], event(0, "v")["metadata"]["name"]);
    }
}
