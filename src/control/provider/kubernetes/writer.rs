//! Everything that Weir writes to the API server, on a thread of its own: only by the leader, only what changed.
//!
//! What is to be said arrives whole, after it was published; what differs is put into a queue, each object once. Whoever
//! begins to lead reads all objects page by page and writes what is not said already, so a restart writes nothing.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::{Timestamp, Unit};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::queue::Queue;
use super::remote::{Kind, Refusal, Remote, STATUS_KINDS};
use super::status::{self, Live};
use super::view::pause;
use super::{Scope, lease};
use crate::drain::{DrainWatch, Phase};
use crate::model::{ObjectName, ObjectRef, ObjectStatus, Statuses};

/// Writes under way at a time.
const RUNNING: usize = 8;
/// Objects per page of a listing.
const PAGE: usize = 500;
/// After this time everything is read and compared again, in case somebody else has written over it.
const RESYNC: Duration = Duration::from_secs(600);
/// Between two tries of what the API server will not have, or not allow.
const REFUSED: Duration = Duration::from_secs(60);

/// How writing goes on, for the metrics.
#[derive(Debug, Default)]
pub struct Progress {
    leads: AtomicBool,
    waiting: AtomicU64,
    /// Since when the oldest is not written.
    oldest: Mutex<Option<Instant>>,
    writes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Progress {
    /// Whether this one writes (`weir_leader`).
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Objects that are to be written to (`weir_status_queue_length`).
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long the oldest of them has waited (`weir_status_oldest_seconds`).
    pub fn oldest(&self) -> Duration {
        let oldest = *self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Writes by kind and result (`weir_status_writes_total`).
    pub fn writes(&self) -> Vec<(&'static str, &'static str, u64)> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.iter().map(|((kind, result), count)| (*kind, *result, *count)).collect()
    }

    fn count(&self, kind: &'static str, result: &'static str) {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, result)).or_default() += 1;
    }
}

/// What there is to write.
pub struct Sources {
    /// Statuses; nothing is written before the first.
    pub statuses: watch::Receiver<Option<Statuses>>,
}

/// Who writes. Ends with the process.
#[derive(Debug)]
pub struct Writer {
    progress: Arc<Progress>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    /// Begins to take part in the election, and to write once it is won.
    pub(super) fn start(
        client: impl FnOnce() -> Result<(Client, String), super::KubernetesError> + Send,
        scope: &Scope,
        sources: Sources,
        drain: DrainWatch,
    ) -> Result<Self, super::KubernetesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (client, namespace) = client()?;
        drop(entered);
        let progress = Arc::new(Progress::default());
        let (shown, namespaces) = (progress.clone(), scope.namespaces.clone());
        let thread = std::thread::Builder::new().name("weir-writer".to_owned()).spawn(move || {
            runtime.block_on(async {
                let (leads, leading) = watch::channel(false);
                let election = tokio::spawn(lease::run(client.clone(), namespace, identity(), leads, drain.clone()));
                Desk::new(Remote::new(client), namespaces, shown).run(sources, leading, drain).await;
                // A panic there has been reported by the panic hook already.
                let _ = election.await;
            });
        })?;
        Ok(Self { progress, thread })
    }

    /// How it goes on.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits, after the end of the process has begun, until the lease is given back; no longer than `patience`.
    pub fn finish(self, patience: Duration) {
        let until = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
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

/// RFC 3339 in whole seconds, as conditions have it.
fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// One thing to be written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Job {
    Status(ObjectRef),
}

impl Job {
    fn kind(&self) -> &'static str {
        match self {
            Self::Status(object) => object.kind,
        }
    }
}

/// What a page of a listing said.
enum Read {
    Page(&'static Kind, Vec<(ObjectName, Live)>),
    /// All kinds were read.
    End,
}

struct Desk {
    remote: Remote,
    namespaces: Vec<String>,
    progress: Arc<Progress>,
    queue: Queue<Job>,
    /// What is to be said, as far as the queue knows.
    known: Statuses,
    /// What objects said when they were listed; used once.
    lives: BTreeMap<ObjectRef, Live>,
    running: JoinSet<(Job, Result<&'static str, Refusal>)>,
    /// What has been told already.
    complaints: HashSet<String>,
}

impl Desk {
    fn new(remote: Remote, namespaces: Vec<String>, progress: Arc<Progress>) -> Self {
        Self {
            remote,
            namespaces,
            progress,
            queue: Queue::default(),
            known: Statuses::default(),
            lives: BTreeMap::new(),
            running: JoinSet::new(),
            complaints: HashSet::new(),
        }
    }

    async fn run(mut self, mut sources: Sources, mut leading: watch::Receiver<bool>, mut drain: DrainWatch) {
        loop {
            let begun = async {
                // Both or nothing: an error means that the other side is gone.
                sources.statuses.wait_for(Option::is_some).await.is_ok()
                    && leading.wait_for(|leads| *leads).await.is_ok()
            };
            let begun = tokio::select! {
                begun = begun => begun,
                () = drain.reached(Phase::Grace) => false,
            };
            if !begun {
                return;
            }
            self.progress.leads.store(true, Ordering::Relaxed);
            tokio::select! {
                () = self.lead(&mut sources) => {}
                _ = leading.wait_for(|leads| !*leads) => {}
                () = drain.reached(Phase::Grace) => {}
            }
            self.progress.leads.store(false, Ordering::Relaxed);
            // What is under way is not waited for: whoever leads next compares anyway.
            self.running.shutdown().await;
            self.queue = Queue::default();
            self.lives.clear();
            self.known = Statuses::default();
            self.show();
        }
    }

    /// Writes for as long as it is polled.
    async fn lead(&mut self, sources: &mut Sources) {
        self.known = sources.statuses.borrow_and_update().clone().unwrap_or_default();
        let (pages, mut read) = mpsc::channel(1);
        let mut seen = HashSet::new();
        let mut listing = Some(tokio::spawn(list(self.remote.clone(), self.namespaces.clone(), pages)));
        let mut resync = tokio::time::interval(RESYNC.mul_f64(0.9 + 0.2 * fastrand::f64()));
        resync.reset();
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.start();
            let due = self.queue.due();
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
                    }
                    None => {
                        listing = None;
                        seen = HashSet::new();
                    }
                },
                _ = resync.tick(), if listing.is_none() => {
                    let (pages, again) = mpsc::channel(1);
                    read = again;
                    listing = Some(tokio::spawn(list(self.remote.clone(), self.namespaces.clone(), pages)));
                },
                () = until(due), if due.is_some() => {}
                _ = ticks.tick() => {}
            }
            self.show();
        }
    }

    fn show(&self) {
        self.progress.waiting.store(self.queue.len() as u64, Ordering::Relaxed);
        *self.progress.oldest.lock().unwrap_or_else(PoisonError::into_inner) = self.queue.oldest();
    }

    /// Takes what is to be said now.
    fn take(&mut self, statuses: Statuses) {
        let before = std::mem::replace(&mut self.known, statuses.clone());
        for difference in before.differences(&statuses, Arc::ptr_eq) {
            self.push(difference.key.clone());
        }
    }

    fn push(&mut self, object: ObjectRef) {
        let Some(rank) = STATUS_KINDS.iter().position(|kind| kind.name == object.kind) else { return };
        self.queue.push(Job::Status(object), rank as u8, Instant::now());
    }

    /// Compares a page of a listing with what is to be said.
    fn compare(&mut self, kind: &'static Kind, objects: Vec<(ObjectName, Live)>, seen: &mut HashSet<ObjectRef>) {
        let now = now();
        for (name, live) in objects {
            let object = ObjectRef::new(kind.name, name);
            let wanted = self.known.get(&object).map(|status| &**status);
            if status::plan(kind, &live, wanted, &now).is_some() {
                self.lives.insert(object.clone(), live);
                self.push(object.clone());
            }
            seen.insert(object);
        }
    }

    /// Begins what can begin.
    fn start(&mut self) {
        while self.queue.running() < RUNNING
            && let Some(job) = self.queue.pop(Instant::now())
        {
            match job {
                Job::Status(object) => {
                    let Some(kind) = STATUS_KINDS.iter().find(|kind| kind.name == object.kind) else { continue };
                    let (remote, wanted) = (self.remote.clone(), self.known.get(&object).cloned());
                    let live = self.lives.remove(&object);
                    self.running.spawn(async move {
                        let result = write(&remote, kind, &object.name, wanted.as_deref(), live).await;
                        (Job::Status(object), result)
                    });
                }
            }
        }
    }

    fn ended(&mut self, job: &Job, result: Result<&'static str, Refusal>) {
        let label = match &result {
            Ok(label) => label,
            Err(refusal) => refusal.label(),
        };
        self.progress.count(job.kind(), label);
        let now = Instant::now();
        match result {
            // It is gone, and so is what was to be said.
            Ok(_) | Err(Refusal::Absent) => self.queue.done(job, now),
            Err(refusal @ (Refusal::Forbidden(_) | Refusal::Invalid(_))) => {
                self.complain(job, &refusal);
                self.queue.failed(job, now, |_| REFUSED.mul_f64(0.75 + 0.5 * fastrand::f64()));
            }
            Err(refusal) => {
                tracing::debug!(?job, "not written: {}", refusal.text());
                self.queue.failed(job, now, |failures| pause(failures, fastrand::f64()));
            }
        }
    }

    /// Says once per kind what is not allowed, and once per object what is not wanted.
    fn complain(&mut self, job: &Job, refusal: &Refusal) {
        let Job::Status(object) = job;
        let Some(kind) = STATUS_KINDS.iter().find(|kind| kind.name == object.kind) else { return };
        let text = match refusal {
            Refusal::Forbidden(text) => format!(
                "the status of {} cannot be written: {text}; add to the ClusterRole: {}",
                kind.plural,
                kind.rule("/status", "patch")
            ),
            refusal => format!("the status of {object} cannot be written: {}", refusal.text()),
        };
        let told = if matches!(refusal, Refusal::Forbidden(_)) { kind.plural.to_owned() } else { text.clone() };
        if self.complaints.len() < 1_000 && self.complaints.insert(told) {
            tracing::warn!("{text}");
        }
    }
}

async fn until(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Writes one status, if it is not so already.
async fn write(
    remote: &Remote,
    kind: &Kind,
    name: &ObjectName,
    wanted: Option<&ObjectStatus>,
    live: Option<Live>,
) -> Result<&'static str, Refusal> {
    let ObjectName { namespace, name } = name;
    let path = kind.path(namespace, name);
    let live = match live {
        Some(live) => live,
        None => Live::read(remote.read(&path).await?),
    };
    let Some(status) = status::plan(kind, &live, wanted, &now()) else { return Ok("unchanged") };
    let mut metadata = json!({"name": name});
    if kind.namespaced {
        metadata["namespace"] = json!(namespace);
    }
    // An object of the same name that was made meanwhile is another one.
    metadata["uid"] = json!(live.uid);
    if status::is_shared(kind) {
        metadata["resourceVersion"] = json!(live.version);
    }
    let body = json!({"apiVersion": kind.api_version(), "kind": kind.name, "metadata": metadata, "status": status});
    remote.apply(&format!("{path}/status"), &body).await?;
    Ok("written")
}

/// Reads all objects that have a status, page by page.
async fn list(remote: Remote, namespaces: Vec<String>, pages: mpsc::Sender<Read>) {
    let all = [String::new()];
    for kind in &STATUS_KINDS {
        let places = if kind.namespaced && !namespaces.is_empty() { &namespaces[..] } else { &all };
        for namespace in places {
            let mut token = String::new();
            let mut failures = 0;
            loop {
                let path = format!("{}?limit={PAGE}&continue={token}", kind.list(namespace));
                let mut page = match remote.read(&path).await {
                    Ok(page) => page,
                    Err(Refusal::Away(_)) => {
                        failures += 1;
                        tokio::time::sleep(pause(failures, fastrand::f64())).await;
                        continue;
                    }
                    // A token that is too old: from the beginning. Kinds that do not exist or may not be read: without.
                    Err(Refusal::Invalid(_)) if !token.is_empty() => {
                        token.clear();
                        continue;
                    }
                    Err(_) => break,
                };
                token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let objects = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
                let named = |object: Value| {
                    let metadata = &object["metadata"];
                    (ObjectName::new(text(&metadata["namespace"]), text(&metadata["name"])), Live::read(object))
                };
                if pages.send(Read::Page(kind, objects.into_iter().map(named).collect())).await.is_err() {
                    return;
                }
                if token.is_empty() {
                    break;
                }
            }
        }
    }
    // Nobody listens any more when somebody else leads.
    let _ = pages.send(Read::End).await;
}
