//! Who of several Weirs writes: the holder of a Lease (`provider.lease`).
//!
//! The decision is pure, with the time as argument. Somebody else's lease is over when it has not changed for as long as
//! it says, by the clock of whoever looks: clocks of different machines are never compared. Whoever cannot renew stops to
//! lead before others begin to. Nobody's serving depends on it.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use super::remote::Refusal;
use crate::drain::{DrainWatch, Phase};
use crate::model::ObjectName;

/// How long a lease is good without being renewed.
pub const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long is none any more.
pub const RENEW: Duration = Duration::from_secs(10);
/// Between two looks.
pub const RETRY: Duration = Duration::from_secs(2);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a Lease says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long it is good.
    pub duration: Duration,
    /// Changes with every renewal.
    pub renewed: String,
    /// How often it went from one to another.
    pub transitions: i32,
}

/// What to do after a look at the Lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is none: make it.
    Create,
    /// It is mine: renew it.
    Renew,
    /// It is nobody's any more: take it.
    Take,
    /// It is somebody else's.
    Wait,
}

/// The election, as one candidate sees it.
#[derive(Debug)]
pub struct Election {
    identity: String,
    /// What was seen last, and when it was seen first.
    seen: Option<(Record, Instant)>,
    renewed: Option<Instant>,
}

impl Election {
    /// A candidate that has not looked yet.
    pub fn new(identity: String) -> Self {
        Self { identity, seen: None, renewed: None }
    }

    /// What to do about what the Lease says now.
    pub fn look(&mut self, lease: Option<Record>, now: Instant) -> Step {
        let Some(record) = lease else {
            self.seen = None;
            return Step::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if *seen == record => *since,
            _ => now,
        };
        let over = record.holder.is_empty() || now.duration_since(since) >= record.duration;
        let mine = record.holder == self.identity;
        self.seen = Some((record, since));
        match (mine, over) {
            (true, _) => Step::Renew,
            (false, true) => Step::Take,
            (false, false) => Step::Wait,
        }
    }

    /// The Lease was written; `asked` is when that began.
    pub fn renewed(&mut self, asked: Instant) {
        self.renewed = Some(asked);
    }

    /// It belongs to somebody else, or was given back.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Until when this one leads, if it does not renew.
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + RENEW)
    }
}

/// Takes part in the election until the process ends; then gives the Lease back. Tells in `leads`
/// whether this one leads, and then for how long before nobody may have done so.
pub async fn run(
    client: Client,
    lease: ObjectName,
    identity: String,
    leads: watch::Sender<Option<Duration>>,
    mut drain: DrainWatch,
) {
    let mut candidate = Candidate {
        api: Api::namespaced(client, &lease.namespace),
        election: Election::new(identity),
        version: None,
        lease,
        gap: RETRY,
        complaint: String::new(),
    };
    loop {
        let end = candidate.election.leads_until().filter(|end| *end > Instant::now());
        let looked = tokio::select! {
            looked = candidate.look() => looked,
            // Whatever hangs: who has not renewed does not lead.
            () = until(end) => Err(Refusal::Away("it does not answer in time".to_owned())),
            () = drain.reached(Phase::Grace) => break,
        };
        if let Err(refusal) = looked {
            candidate.complain(&refusal);
        }
        let leading = candidate.election.leads_until().is_some_and(|until| until > Instant::now());
        candidate.tell(&leads, leading.then_some(candidate.gap));
        let pause = RETRY.mul_f64(if leading { 1.0 } else { 0.9 + 0.4 * fastrand::f64() });
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = drain.reached(Phase::Grace) => break,
        }
    }
    if leads.send_replace(None).is_some() {
        candidate.release().await;
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

struct Candidate {
    api: Api<Lease>,
    election: Election,
    version: Option<String>,
    lease: ObjectName,
    /// For how long before this one's lead nobody may have led.
    gap: Duration,
    /// What was told last.
    complaint: String,
}

impl Candidate {
    fn tell(&self, leads: &watch::Sender<Option<Duration>>, gap: Option<Duration>) {
        let leading = gap.is_some();
        let changed = leads.send_if_modified(|before| {
            let changed = before.is_some() != leading;
            if changed {
                *before = gap;
            }
            changed
        });
        let (identity, lease) = (&self.election.identity, &self.lease);
        match (changed, leading) {
            (true, true) => tracing::info!(identity, %lease, "leading: statuses are written by this one"),
            (true, false) => tracing::warn!(identity, %lease, "not leading any more: nothing is written"),
            (false, _) => {}
        }
    }

    async fn look(&mut self) -> Result<(), Refusal> {
        let lease = answer(self.api.get_opt(&self.lease.name)).await?;
        let (record, version) = match lease {
            Some(lease) => (Some(read(lease.spec.as_ref())), lease.metadata.resource_version),
            None => (None, None),
        };
        self.version = version;
        let asked = Instant::now();
        let before = record.clone().unwrap_or_default();
        let step = self.election.look(record, asked);
        let transitions = before.transitions + i32::from(step == Step::Take);
        match step {
            Step::Wait => {
                self.election.lost();
                self.complaint.clear();
                return Ok(());
            }
            Step::Create | Step::Renew | Step::Take => {
                self.write(&self.election.identity, transitions, step != Step::Renew).await?;
            }
        }
        if self.election.leads_until().is_none() {
            // Who has given the Lease back led until then.
            self.gap = if before.holder.is_empty() { RETRY } else { before.duration + RETRY };
        }
        self.election.renewed(asked);
        self.complaint.clear();
        Ok(())
    }

    async fn write(&self, holder: &str, transitions: i32, acquired: bool) -> Result<(), Refusal> {
        let now = MicroTime(Timestamp::now());
        let acquire_time = acquired.then(|| now.clone());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.lease.name.to_string()),
                namespace: Some(self.lease.namespace.to_string()),
                resource_version: self.version.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time,
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        };
        let parameters = PostParams::default();
        match self.version {
            Some(_) => answer(self.api.replace(&self.lease.name, &parameters, &lease)).await?,
            None => answer(self.api.create(&parameters, &lease)).await?,
        };
        Ok(())
    }

    /// Gives the Lease back, so that the next one need not wait.
    async fn release(&mut self) {
        let given = async {
            let Some(lease) = answer(self.api.get_opt(&self.lease.name)).await? else { return Ok(()) };
            let record = read(lease.spec.as_ref());
            if record.holder != self.election.identity {
                return Ok(());
            }
            self.version = lease.metadata.resource_version;
            self.write("", record.transitions, false).await
        };
        match given.await {
            Ok(()) => tracing::info!(lease = %self.lease, "the lease is given back"),
            Err(refusal) => tracing::warn!(lease = %self.lease, "the lease cannot be given back: {}", refusal.text()),
        }
    }

    /// Says once what is in the way.
    fn complain(&mut self, refusal: &Refusal) {
        let text = match refusal {
            // Another candidate was faster.
            Refusal::Conflict => return,
            Refusal::Forbidden(text) => format!(
                "{text}; no statuses are written. Add to a Role in namespace {}: {{apiGroups: [coordination.k8s.io], \
                 resources: [leases], verbs: [get, create, update]}}, or set provider.write_status: false",
                self.lease.namespace
            ),
            Refusal::Absent => format!("namespace {} does not exist; no statuses are written", self.lease.namespace),
            Refusal::Invalid(text) | Refusal::Away(text) => text.clone(),
        };
        if self.complaint != text {
            tracing::warn!(lease = %self.lease, "no leader can be chosen: {text}");
            self.complaint = text;
        }
    }
}

async fn answer<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Refusal::Away("the API server does not answer in time".to_owned())),
    }
}

fn read(spec: Option<&LeaseSpec>) -> Record {
    let Some(spec) = spec else { return Record::default() };
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.clone().unwrap_or_default(),
        duration: seconds.map_or(DURATION, Duration::from_secs),
        renewed: spec.renew_time.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn held(holder: &str, renewed: u32) -> Option<Record> {
        Some(Record { holder: holder.to_owned(), duration: DURATION, renewed: renewed.to_string(), transitions: 0 })
    }

    #[test]
    fn a_lease_is_taken_when_it_was_not_renewed_for_its_time_as_seen_from_here() {
        let (mut election, start) = (Election::new("b".to_owned()), Instant::now());
        assert_eq!(election.look(held("a", 1), start), Step::Wait, "however old it may be: clocks differ");
        assert_eq!(election.look(held("a", 1), start + 14 * SECOND), Step::Wait);
        assert_eq!(election.look(held("a", 2), start + 15 * SECOND), Step::Wait, "it was renewed");
        assert_eq!(election.look(held("a", 2), start + 29 * SECOND), Step::Wait);
        assert_eq!(election.look(held("a", 2), start + 30 * SECOND), Step::Take);
    }

    #[test]
    fn a_lease_that_is_nobodys_or_mine_is_not_waited_for() {
        let (mut election, now) = (Election::new("b".to_owned()), Instant::now());
        assert_eq!(election.look(None, now), Step::Create);
        assert_eq!(election.look(held("", 1), now), Step::Take);
        assert_eq!(election.look(held("b", 1), now), Step::Renew);
    }

    #[test]
    fn who_cannot_renew_stops_before_others_begin() {
        let (mut election, now) = (Election::new("b".to_owned()), Instant::now());
        assert_eq!(election.leads_until(), None);
        election.renewed(now);
        assert_eq!(election.leads_until(), Some(now + RENEW));
        assert!(RENEW + RETRY < DURATION);
        election.lost();
        assert_eq!(election.leads_until(), None);
    }

    #[test]
    fn of_many_candidates_with_any_pauses_at_most_one_leads() {
        let mut random = fastrand::Rng::with_seed(11);
        let start = Instant::now();
        for _ in 0..200 {
            let mut lease: Option<(Record, u32)> = None;
            let mut candidates: Vec<(Election, Instant)> =
                ["a", "b", "c"].map(|name| (Election::new(name.to_owned()), start)).into();
            let mut now = start;
            for renewal in 0..300 {
                now += Duration::from_millis(random.u64(1..700));
                let at = random.usize(..candidates.len());
                // One hangs now and then, for longer than a lease is good.
                if candidates[at].1 > now {
                    continue;
                }
                if random.u8(..20) == 0 {
                    candidates[at].1 = now + random.u32(1..40) * SECOND;
                    continue;
                }
                let (election, _) = &mut candidates[at];
                match election.look(lease.as_ref().map(|it| it.0.clone()), now) {
                    Step::Wait => election.lost(),
                    Step::Create | Step::Renew | Step::Take => {
                        lease = held(&election.identity, renewal).map(|record| (record, renewal));
                        election.renewed(now);
                    }
                }
                let leaders =
                    candidates.iter().filter(|it| it.0.leads_until().is_some_and(|until| until > now)).count();
                assert!(leaders <= 1, "{leaders} lead");
            }
        }
    }
}
