//! Everything that Weir writes to the API server, on a thread of its own: only by the leader, only what changed.
//!
//! What is to be said arrives whole, after it was published; what differs is put into a queue, each object once. Whoever
//! begins to lead reads all objects page by page and writes what is not said already, so a restart writes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::apply::{self, Written};
use super::events::{self, Announcement, Announcer, Told};
use super::infrastructure::{self, Wanted};
use super::listing::{Listed, Read, list};
use super::progress::{Fresh, Progress};
use super::queue::Queue;
use super::remote::{EVENT, Kind, Refusal, Remote, SERVICE, STATUS_KINDS};
use super::service::{self, Standing};
use super::status::{self, Live};
use super::view::pause;
use super::{Scope, lease as election};
use crate::drain::{DrainWatch, Phase};
use crate::model::{GatewayAddress, ObjectName, ObjectRef, ObjectStatus, Status, Statuses, Verdict};

/// Writes under way at a time.
const RUNNING: usize = 8;
/// After this time everything is read and compared again, in case somebody else has written over it.
const RESYNC: Duration = Duration::from_secs(600);
/// Between two tries of what the API server will not have, or not allow.
const REFUSED: Duration = Duration::from_secs(60);

/// How often the numbers of a Gateway's or ListenerSet's routes are written at most. A thousand routes that are made at once
/// are a thousand numbers, of which only the last is of use to anybody.
const COUNTS: Duration = Duration::from_secs(1);

/// A Service with colors, and what there is to say about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Colored {
    /// Where it stands.
    pub standing: Standing,
    /// What its owner was told, oldest first.
    pub told: Vec<Told>,
}

/// What there is to write.
pub struct Sources {
    /// Statuses; nothing is written before the first.
    pub statuses: watch::Receiver<Option<Statuses>>,
    /// All verdicts, sorted.
    pub verdicts: Box<dyn Fn() -> Arc<Vec<Verdict>> + Send>,
    /// All Services with colors.
    pub colors: Box<dyn Fn() -> BTreeMap<ObjectName, Colored> + Send>,
}

/// Who writes. Ends with the process.
#[derive(Debug)]
pub struct Writer {
    progress: Arc<Progress>,
    /// Closed by the end of the thread.
    ended: std::sync::mpsc::Receiver<()>,
}

impl Writer {
    /// Begins to take part in the election, and to write once it is won.
    pub(super) fn start(
        client: impl FnOnce() -> Result<(Client, String), super::KubernetesError> + Send,
        scope: &Scope,
        sources: Sources,
        fresh: Arc<Fresh>,
        drain: DrainWatch,
    ) -> Result<Self, super::KubernetesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (client, namespace) = client()?;
        drop(entered);
        let lease = ObjectName::new(namespace, scope.lease.clone());
        let progress = Arc::new(Progress::default());
        let shown = progress.clone();
        let listed = Listed { namespaces: scope.namespaces.clone(), selector: scope.selector.clone() };
        let (end, ended) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("weir-writer".to_owned()).spawn(move || {
            let _end: std::sync::mpsc::Sender<()> = end;
            runtime.block_on(async {
                let (leads, leading) = watch::channel(None);
                let identity = identity();
                let (candidate, mut loaded) = (identity.clone(), sources.statuses.clone());
                let (elector, mut ended) = (client.clone(), drain.clone());
                let election = tokio::spawn(async move {
                    // Who has nothing to say must not keep others from saying it.
                    let stands = tokio::select! {
                        biased;
                        () = ended.reached(Phase::Grace) => false,
                        stands = async { loaded.wait_for(Option::is_some).await.is_ok() } => stands,
                    };
                    if stands {
                        election::run(elector, lease, candidate, leads, ended).await;
                    }
                });
                Desk::new(Remote::new(client), identity, listed, fresh, shown).run(sources, leading, drain).await;
                // A panic there has been reported by the panic hook already.
                let _ = election.await;
            });
        })?;
        Ok(Self { progress, ended })
    }

    /// How it goes on.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits, after the end of the process has begun, until the lease is given back; no longer than `patience`.
    pub fn finish(self, patience: Duration) {
        // Nothing is ever sent: this ends by the thread's end or by time.
        let _ = self.ended.recv_timeout(patience);
    }
}

/// The pod's name, or the machine's with something that tells two processes apart.
fn identity() -> String {
    if let Some(name) = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty()) {
        return name;
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{:08x}", if host.trim().is_empty() { "weir" } else { host.trim() }, fastrand::u32(..))
}

/// One thing to be written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Job {
    Status(ObjectRef),
    /// What stands for a Gateway inside the cluster.
    Infrastructure(ObjectName),
    /// The annotations of a Service with colors.
    Standing(ObjectName),
}

/// After all statuses.
const RANK_STANDING: u8 = 20;
const RANK_INFRASTRUCTURE: u8 = 21;

impl Job {
    fn kind(&self) -> &'static str {
        match self {
            Self::Status(object) => object.kind,
            Self::Infrastructure(_) | Self::Standing(_) => SERVICE.name,
        }
    }
}

struct Desk {
    remote: Remote,
    /// Of this process, for Events.
    identity: String,
    listed: Listed,
    fresh: Arc<Fresh>,
    /// Objects that say what is to be said, as far as is known, with the `uid` of each.
    settled: HashMap<ObjectRef, String>,
    /// When a Gateway or ListenerSet was last written to.
    counted: HashMap<ObjectRef, Instant>,
    progress: Arc<Progress>,
    queue: Queue<Job>,
    /// What is to be said, as far as the queue knows.
    known: Statuses,
    /// What objects said when they were listed; used once.
    lives: BTreeMap<ObjectRef, Live>,
    running: JoinSet<(Job, Result<Written, Refusal>)>,
    /// Services with colors, as the queue knows them.
    standings: BTreeMap<ObjectName, Standing>,
    announcer: Announcer,
    /// At most one Event at a time.
    announcing: JoinSet<Result<&'static str, Refusal>>,
    /// What has been told already.
    complaints: HashSet<String>,
}

impl Desk {
    fn new(remote: Remote, identity: String, listed: Listed, fresh: Arc<Fresh>, progress: Arc<Progress>) -> Self {
        Self {
            remote,
            identity,
            listed,
            fresh,
            settled: HashMap::new(),
            counted: HashMap::new(),
            progress,
            queue: Queue::default(),
            known: Statuses::default(),
            lives: BTreeMap::new(),
            running: JoinSet::new(),
            standings: BTreeMap::new(),
            announcer: Announcer::default(),
            announcing: JoinSet::new(),
            complaints: HashSet::new(),
        }
    }

    async fn run(
        mut self,
        mut sources: Sources,
        mut leading: watch::Receiver<Option<Duration>>,
        mut drain: DrainWatch,
    ) {
        loop {
            let begun = async {
                // Both or nothing: an error means that the other side is gone.
                sources.statuses.wait_for(Option::is_some).await.is_ok()
                    && leading.wait_for(Option::is_some).await.is_ok()
            };
            let begun = tokio::select! {
                begun = begun => begun,
                () = drain.reached(Phase::Grace) => false,
            };
            if !begun {
                return;
            }
            let gap = leading.borrow().unwrap_or_default();
            self.progress.lead(true);
            tokio::select! {
                () = self.lead(&mut sources, gap) => {}
                _ = leading.wait_for(Option::is_none) => {}
                () = drain.reached(Phase::Grace) => {}
            }
            self.progress.lead(false);
            // What is under way is not waited for: whoever leads next compares anyway.
            self.running.shutdown().await;
            self.announcing.shutdown().await;
            self.queue = Queue::default();
            self.lives.clear();
            self.standings.clear();
            self.settled.clear();
            self.counted.clear();
            self.known = Statuses::default();
            self.show();
        }
    }

    /// Writes for as long as it is polled. For `gap` before it nobody may have told what happened.
    async fn lead(&mut self, sources: &mut Sources, gap: Duration) {
        self.known = sources.statuses.borrow_and_update().clone().unwrap_or_default();
        self.fresh.take();
        self.fresh.overwritten.clear();
        let since = Timestamp::now().as_millisecond() - i64::try_from(gap.as_millis()).unwrap_or(0);
        self.announcer = Announcer::new(u64::try_from(since).unwrap_or(0));
        let gateways: Vec<ObjectRef> = self.known.keys().filter(|object| object.kind == "Gateway").cloned().collect();
        gateways.into_iter().for_each(|gateway| self.push(gateway));
        let (pages, mut read) = mpsc::channel(1);
        let mut seen = HashSet::new();
        let mut listing = Some(tokio::spawn(list(self.remote.clone(), self.listed.clone(), pages)));
        let mut resync = tokio::time::interval(RESYNC.mul_f64(0.9 + 0.2 * fastrand::f64()));
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        resync.reset();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start();
            let due = self.due();
            tokio::select! {
                changed = sources.statuses.changed() => match changed {
                    Ok(()) => {
                        let statuses = sources.statuses.borrow_and_update().clone().unwrap_or_default();
                        self.take(statuses);
                    }
                    Err(_) => std::future::pending().await,
                },
                Some(ended) = self.running.join_next() => match ended {
                    Ok((job, result)) => self.ended(&job, result),
                    Err(error) => tracing::error!(%error, "a write failed"),
                },
                page = read.recv(), if listing.is_some() => match page {
                    Some(Read::Page(kind, objects)) => self.compare(kind, objects, &mut seen),
                    Some(Read::End) => {
                        let unseen = self.known.keys().filter(|object| !seen.contains(*object));
                        let unseen: Vec<ObjectRef> = unseen.cloned().collect();
                        unseen.into_iter().for_each(|object| self.push(object));
                        // What somebody else has removed or changed comes back.
                        self.push_infrastructure();
                        self.push_standings();
                    }
                    None => {
                        listing = None;
                        seen = HashSet::new();
                    }
                },
                _ = resync.tick(), if listing.is_none() => {
                    let (pages, again) = mpsc::channel(1);
                    read = again;
                    listing = Some(tokio::spawn(list(self.remote.clone(), self.listed.clone(), pages)));
                },
                () = until(due), if due.is_some() => {}
                Some(ended) = self.announcing.join_next() => match ended {
                Ok(result) => self.announced(result),
                    Err(error) => tracing::error!(%error, "an Event failed"),
                },
                _ = ticks.tick() => self.look(sources),
            }
            self.announce();
            self.show();
        }
    }

    /// When to look into the queue again. Not by time while no more may run: who is due then begins when another ends.
    fn due(&self) -> Option<Instant> {
        self.queue.due().filter(|_| self.queue.running() < RUNNING)
    }

    fn show(&self) {
        self.progress.wait(self.queue.len(), self.queue.oldest());
    }

    /// Takes what is to be said now.
    fn take(&mut self, statuses: Statuses) {
        let before = std::mem::replace(&mut self.known, statuses.clone());
        let mut gateways = false;
        for difference in before.differences(&statuses, Arc::ptr_eq) {
            if difference.new.is_none() {
                self.settled.remove(difference.key);
                self.counted.remove(difference.key);
            }
            // A page that was listed may be older than the last write.
            self.lives.remove(difference.key);
            gateways |= addresses(difference.old) != addresses(difference.new);
            match difference.old.zip(difference.new) {
                Some((old, new)) if old.differs_in_counts_only(new) => self.push_counts(difference.key.clone()),
                _ => self.push(difference.key.clone()),
            }
        }
        // Whether an address is a Gateway's own depends on all the others.
        if gateways {
            self.push_infrastructure();
        }
    }

    /// What stands for Gateways, of all of them.
    fn push_infrastructure(&mut self) {
        let now = Instant::now();
        for gateway in self.known.keys().filter(|object| object.kind == "Gateway") {
            self.queue.push(Job::Infrastructure(gateway.name.clone()), RANK_INFRASTRUCTURE, now);
        }
    }

    fn push_standings(&mut self) {
        let now = Instant::now();
        for service in self.standings.keys() {
            self.queue.push(Job::Standing(service.clone()), RANK_STANDING, now);
        }
    }

    /// How many are attached to it is another number.
    fn push_counts(&mut self, object: ObjectRef) {
        let Some(rank) = rank(&object) else { return };
        let now = Instant::now();
        let at = self.counted.get(&object).map_or(now, |last| *last + COUNTS);
        self.queue.push_at(Job::Status(object), rank, now, at);
    }

    fn push(&mut self, object: ObjectRef) {
        let Some(rank) = rank(&object) else { return };
        let now = Instant::now();
        if object.kind == "Gateway" {
            self.queue.push(Job::Infrastructure(object.name.clone()), RANK_INFRASTRUCTURE, now);
        }
        self.queue.push(Job::Status(object), rank, now);
    }

    /// Looks for what is told nowhere else.
    fn look(&mut self, sources: &Sources) {
        for (object, made) in self.fresh.take() {
            match self.settled.get(&object) {
                Some(uid) if *uid == made.uid => continue,
                None if !self.known.contains_key(&object) => continue,
                _ => {}
            }
            // What was listed is another one.
            self.lives.remove(&object);
            let waits = !self.queue.is_running(&Job::Status(object.clone()));
            if let Some(version) = made.untouched.filter(|_| waits && apply::may_be_written_unread(object.kind)) {
                self.lives.insert(object.clone(), Live::without_status(version, made.uid));
            }
            self.push(object);
        }
        for object in self.fresh.overwritten.take(Instant::now()) {
            if self.known.contains_key(&object) {
                self.lives.remove(&object);
                self.push(object);
            }
        }
        self.announcer.verdicts((sources.verdicts)());
        let colors = (sources.colors)();
        self.announcer.retain(&colors.keys().collect::<BTreeSet<_>>());
        let gone = self.standings.keys().filter(|service| !colors.contains_key(*service)).cloned();
        let gone: Vec<ObjectName> = gone.collect();
        for service in gone {
            self.standings.remove(&service);
            self.queue.push(Job::Standing(service), RANK_STANDING, Instant::now());
        }
        for (service, colored) in colors {
            self.announcer.cutover(&service, &colored.told);
            if self.standings.get(&service) != Some(&colored.standing) {
                self.standings.insert(service.clone(), colored.standing);
                self.queue.push(Job::Standing(service), RANK_STANDING, Instant::now());
            }
        }
        let untold = self.announcer.untold();
        if untold > 0 {
            tracing::warn!(
                untold,
                "Events were left out: there are too many; `weir check` and the admin port show all"
            );
        }
    }

    fn announce(&mut self) {
        if !self.announcing.is_empty() {
            return;
        }
        if let Some(announcement) = self.announcer.pop(Instant::now()) {
            let (remote, identity) = (self.remote.clone(), self.identity.clone());
            self.announcing.spawn(async move { tell(&remote, &announcement, &identity).await });
        }
    }

    fn announced(&mut self, result: Result<&'static str, Refusal>) {
        let label = match &result {
            Ok(label) => label,
            Err(refusal) => refusal.label(),
        };
        self.progress.count(EVENT.name, label);
        if let Err(refusal @ (Refusal::Forbidden(_) | Refusal::Invalid(_))) = &result {
            let text = match refusal {
                Refusal::Forbidden(text) => format!("{text}; add to the ClusterRole: {}", EVENT.rule("", "create")),
                refusal => refusal.text().to_owned(),
            };
            self.say_once(EVENT.plural.to_owned(), &format!("an Event cannot be written: {text}"));
        }
    }

    /// Compares a page of a listing with what is to be said.
    fn compare(&mut self, kind: &'static Kind, objects: Vec<(ObjectName, Live)>, seen: &mut HashSet<ObjectRef>) {
        let now = apply::now();
        for (name, live) in objects {
            let object = ObjectRef::new(kind.name, name);
            let wanted = self.known.get(&object).map(|status| &**status);
            if wanted.is_none() && !self.listed.may_remove(kind) {
                continue;
            }
            if status::plan(kind, &live, wanted, &now).is_some() {
                self.lives.insert(object.clone(), live);
                self.push(object.clone());
            } else if wanted.is_some() {
                self.settled.insert(object.clone(), live.uid);
            }
            seen.insert(object);
        }
    }

    /// Begins what can begin.
    fn start(&mut self) {
        while self.queue.running() < RUNNING
            && let Some(job) = self.queue.pop(Instant::now())
        {
            let remote = self.remote.clone();
            match job {
                Job::Status(object) => {
                    let Some(kind) = STATUS_KINDS.iter().find(|kind| kind.name == object.kind) else { continue };
                    let (wanted, mut live) = (self.known.get(&object).cloned(), self.lives.remove(&object));
                    if live.is_none() && apply::may_be_written_unread(kind.name) {
                        live = self.fresh.take_untouched(&object);
                    }
                    if matches!(kind.name, "Gateway" | "ListenerSet") && wanted.is_some() {
                        self.counted.insert(object.clone(), Instant::now());
                    }
                    self.running.spawn(async move {
                        let result = apply::write(&remote, kind, &object.name, wanted.as_deref(), live).await;
                        (Job::Status(object), result)
                    });
                }
                Job::Infrastructure(gateway) => {
                    let wanted = self.infrastructure(&gateway);
                    self.running.spawn(async move {
                        let result = infrastructure::write(&remote, &gateway, wanted.as_ref()).await;
                        (Job::Infrastructure(gateway), result.map(Written::from))
                    });
                }
                Job::Standing(service) => {
                    let standing = self.standings.get(&service).cloned();
                    self.running.spawn(async move {
                        let result = service::write(&remote, &service, standing.as_ref()).await;
                        (Job::Standing(service), result.map(Written::from))
                    });
                }
            }
        }
    }

    /// What is to stand for a Gateway inside the cluster.
    fn infrastructure(&self, gateway: &ObjectName) -> Option<Wanted> {
        let of = |status: &ObjectStatus| match &status.status {
            Status::Gateway { addresses, infrastructure, .. } => Some((addresses.clone(), infrastructure.clone())),
            _ => None,
        };
        let this = ObjectRef::new("Gateway", gateway.clone());
        let (addresses, infrastructure) = of(self.known.get(&this)?)?;
        let shares = |(object, status): (&ObjectRef, &Arc<ObjectStatus>)| {
            object.kind == "Gateway"
                && *object != this
                && matches!(&status.status, Status::Gateway { addresses: others, .. }
                    if others.iter().any(|other| addresses.contains(other)))
        };
        let own = !self.known.iter().any(shares);
        Wanted::of(&addresses, own, &infrastructure)
    }

    fn ended(&mut self, job: &Job, result: Result<Written, Refusal>) {
        let label = match &result {
            Ok(written) => written.label,
            Err(refusal) => refusal.label(),
        };
        self.progress.count(job.kind(), label);
        let now = Instant::now();
        if let (Job::Status(object), Ok(Written { uid: Some(uid), .. })) = (job, &result)
            && self.known.contains_key(object)
        {
            self.settled.insert(object.clone(), uid.clone());
        }
        match result {
            // It is gone, and so is what was to be said.
            Ok(_) | Err(Refusal::Absent) => self.queue.done(job, now),
            // Who gives Weir no rule for it does not want it: the next comparison asks again.
            Err(refusal @ Refusal::Forbidden(_)) if !matches!(job, Job::Status(_)) => {
                self.complain(job, &refusal);
                self.queue.done(job, now);
            }
            Err(refusal @ (Refusal::Forbidden(_) | Refusal::Invalid(_))) => {
                self.complain(job, &refusal);
                self.queue.refused(job, now, |_| REFUSED.mul_f64(0.75 + 0.5 * fastrand::f64()));
            }
            Err(refusal) => {
                tracing::debug!(?job, "not written: {}", refusal.text());
                self.queue.failed(job, now, |failures| pause(failures, fastrand::f64()));
            }
        }
    }

    /// Says once per kind what is not allowed, and once per object what is not wanted.
    fn complain(&mut self, job: &Job, refusal: &Refusal) {
        let (what, kind, part, verbs) = match job {
            Job::Status(object) => (format!("the status of {object}"), Kind::named(object.kind), "/status", "patch"),
            Job::Standing(name) => {
                (format!("the annotations of Service {name}"), Some(&SERVICE), "", "get, create, patch, delete")
            }
            Job::Infrastructure(name) => {
                (format!("the Service for Gateway {name}"), Some(&SERVICE), "", "get, create, patch, delete")
            }
        };
        let Some(kind) = kind else { return };
        match refusal {
            Refusal::Forbidden(text) => {
                let rule = kind.rule(part, verbs);
                let text = format!("{what} cannot be written: {text}; add to the ClusterRole: {rule}");
                self.say_once(format!("{}{part}", kind.plural), &text);
            }
            refusal => {
                let text = format!("{what} cannot be written: {}", refusal.text());
                self.say_once(text.clone(), &text);
            }
        }
    }

    fn say_once(&mut self, subject: String, text: &str) {
        if self.complaints.len() < 1_000 && self.complaints.insert(subject) {
            tracing::warn!("{text}");
        }
    }
}

/// Tells an Event; an API server that is away for a moment is waited for.
async fn tell(remote: &Remote, announcement: &Announcement, identity: &str) -> Result<&'static str, Refusal> {
    let mut failures = 0;
    loop {
        match events::tell(remote, announcement, identity).await {
            Err(Refusal::Away(_)) if failures < 8 => {
                failures += 1;
                tokio::time::sleep(pause(failures, fastrand::f64())).await;
            }
            result => return result,
        }
    }
}

/// The important first.
fn rank(object: &ObjectRef) -> Option<u8> {
    STATUS_KINDS.iter().position(|kind| kind.name == object.kind).map(|rank| rank as u8)
}

/// Of a Gateway.
fn addresses(status: Option<&Arc<ObjectStatus>>) -> Option<&[GatewayAddress]> {
    match &status?.status {
        Status::Gateway { addresses, .. } => Some(addresses),
        _ => None,
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Made;
    use super::*;

    fn gateway(name: &str) -> (ObjectRef, Arc<ObjectStatus>) {
        let status = Status::Gateway {
            conditions: Vec::new(),
            addresses: vec![GatewayAddress::Ip([192, 0, 2, 1].into())],
            listeners: Vec::new(),
            attached_sets: 0,
            infrastructure: Default::default(),
        };
        let object = ObjectRef::new("Gateway", ObjectName::new("shop", name));
        (object, Arc::new(ObjectStatus { generation: 1, status }))
    }

    fn jobs(desk: &mut Desk) -> Vec<Job> {
        std::iter::from_fn(|| desk.queue.pop(Instant::now())).collect()
    }

    fn desk() -> Desk {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1".parse().expect("an address"));
        let remote = Remote::new(Client::try_from(config).expect("a client"));
        Desk::new(remote, "a".to_owned(), Listed::default(), Arc::default(), Arc::new(Progress::default()))
    }

    #[tokio::test]
    async fn numbers_of_routes_wait_for_more_and_everything_else_does_not() {
        let mut desk = desk();
        let with = |sets: u32, generation: i64| {
            let (object, status) = gateway("one");
            let mut status = ObjectStatus::clone(&status);
            status.generation = generation;
            if let Status::Gateway { attached_sets, .. } = &mut status.status {
                *attached_sets = sets;
            }
            (object, Arc::new(status))
        };
        let done = |desk: &mut Desk, jobs: &[Job]| {
            jobs.iter().for_each(|job| desk.ended(job, Ok("written".into())));
        };
        let (object, _) = gateway("one");
        let both = [Job::Status(object.clone()), Job::Infrastructure(object.name.clone())];
        desk.take([with(0, 1)].into_iter().collect());
        assert_eq!(jobs(&mut desk), both);
        done(&mut desk, &both);
        desk.take([with(1, 1)].into_iter().collect());
        assert_eq!(jobs(&mut desk), both[..1], "nothing was written lately");
        done(&mut desk, &both[..1]);
        desk.counted.insert(object, Instant::now());
        desk.take([with(2, 1)].into_iter().collect());
        assert!(jobs(&mut desk).is_empty() && desk.queue.due().is_some(), "there may be more to come");
        desk.take([with(2, 2)].into_iter().collect());
        assert_eq!(jobs(&mut desk), both, "it is another generation");
    }

    #[tokio::test]
    async fn who_is_due_while_no_more_may_run_is_waited_for_by_an_end_and_not_by_time() {
        let mut desk = desk();
        let now = Instant::now();
        for number in 0..RUNNING {
            desk.push(gateway(&number.to_string()).0);
        }
        let running: Vec<Job> = std::iter::from_fn(|| desk.queue.pop(now)).take(RUNNING).collect();
        assert_eq!(running.len(), RUNNING);
        let later = Job::Status(gateway("later").0);
        desk.queue.push_at(later, 0, now, now + COUNTS);
        assert_eq!((desk.queue.due(), desk.due()), (Some(now + COUNTS), None));
        desk.ended(&running[0], Ok("written".into()));
        assert_eq!(desk.due(), Some(now + COUNTS));
    }

    #[tokio::test]
    async fn an_object_made_anew_is_written_to_again_and_one_that_was_written_to_is_not() {
        let mut desk = desk();
        let sources = Sources {
            statuses: watch::channel(None).1,
            verdicts: Box::new(Arc::default),
            colors: Box::new(BTreeMap::new),
        };
        let object = ObjectRef::new("HTTPRoute", ObjectName::new("shop", "r"));
        let status = ObjectStatus { generation: 1, status: Status::Route { parents: Vec::new() } };
        let made = |uid: &str| Made { uid: uid.to_owned(), untouched: Some("7".to_owned()) };
        desk.take([(object.clone(), Arc::new(status))].into_iter().collect());
        let job = Job::Status(object.clone());
        assert_eq!(jobs(&mut desk), std::slice::from_ref(&job));
        desk.ended(&job, Ok(Written { label: "written", uid: Some("one".to_owned()) }));
        desk.fresh.add(object.clone(), made("one"));
        desk.look(&sources);
        assert!(jobs(&mut desk).is_empty());
        desk.fresh.add(object.clone(), made("two"));
        desk.look(&sources);
        assert_eq!(jobs(&mut desk), [job]);
        let live = Live::without_status("7".to_owned(), "two".to_owned());
        assert_eq!(desk.lives.get(&object), Some(&live), "there is nothing to be read before");
    }

    #[tokio::test]
    async fn what_stands_for_a_gateway_follows_the_others_and_a_missing_rule_is_not_asked_for_again() {
        let mut desk = desk();
        let (one, two) = (gateway("one"), gateway("two"));
        let of = |object: &ObjectRef| Job::Infrastructure(object.name.clone());
        desk.take([one.clone()].into_iter().collect());
        assert_eq!(jobs(&mut desk), [Job::Status(one.0.clone()), of(&one.0)]);
        desk.lives.insert(two.0.clone(), Live::default());
        for job in [Job::Status(one.0.clone()), of(&one.0)] {
            desk.ended(&job, Err(Refusal::Forbidden("no".to_owned())));
        }
        assert_eq!(desk.queue.len(), 1, "the status is tried again, the Service is not");
        assert!(desk.infrastructure(&one.0.name).is_some());
        desk.take([one.clone(), two.clone()].into_iter().collect());
        assert!(desk.lives.is_empty(), "what was listed may be older");
        assert_eq!(jobs(&mut desk), [Job::Status(two.0.clone()), of(&two.0), of(&one.0)]);
        assert!(desk.infrastructure(&one.0.name).is_none(), "the address is not its own any more");
    }
}
