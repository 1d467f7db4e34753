//! One turn of the control loop: objects in, snapshot out. No clock and no network: time is an argument.
//!
//! Two ways lead to requests. A change of endpoints alone is stored in the cells of the colors that it concerns. Everything
//! else is translated and compiled, and published if anything is different. Nothing is published before the provider has
//! listed everything once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{BackendKey, ColorEndpoints, ColorSwitch, Model, ObjectName, SocketNews, Statuses, Unopened};
use crate::proxy::snapshot::{Live, NameKey, Published, Snapshot, compile};

use super::Services;
use super::provider::feed::{self, Batch};
use super::report::Report;
use super::translate::{Change, Object, Objects, Translation, Translator};

/// Label of an EndpointSlice that names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// For how many ticks statuses wait for sockets: a worker that has no time to open one must not keep owners in the dark.
const PATIENCE: u8 = 10;

/// From objects to a model, as the loop needs it.
pub trait Translate {
    /// The model of all objects, and what their owners are told.
    fn translate(&mut self, objects: &Objects) -> Translation;

    /// The endpoints of every backend of these Services.
    fn endpoints(&mut self, objects: &Objects, services: &Services) -> Vec<(BackendKey, Vec<ColorEndpoints>)>;

    /// Takes which sockets could not be opened. Says whether that makes a difference to what owners are told; the model is
    /// the same.
    fn hear(&mut self, unopened: &Unopened) -> bool;
}

impl Translate for Translator {
    fn translate(&mut self, objects: &Objects) -> Translation {
        Translator::translate(self, objects)
    }

    fn endpoints(&mut self, objects: &Objects, services: &Services) -> Vec<(BackendKey, Vec<ColorEndpoints>)> {
        Translator::endpoints(self, objects, services)
    }

    fn hear(&mut self, unopened: &Unopened) -> bool {
        Translator::hear(self, unopened)
    }
}

/// What a batch led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The first full listing is still to come.
    Waiting,
    /// Requests are decided as before.
    Unchanged,
    /// Endpoints changed and are in use already.
    Endpoints,
    /// There is a new snapshot, to be published by [`Cycle::publish`].
    Compiled,
}

/// The loop's state between two batches.
pub struct Cycle<T> {
    objects: Objects,
    translator: T,
    live: Live,
    switches: BTreeMap<ObjectName, Arc<ColorSwitch>>,
    published: Arc<Published>,
    report: Arc<Report>,
    /// Of what was compiled last; told when that is published and its sockets are open.
    statuses: Statuses,
    /// The generation of which all sockets are open, or known not to be.
    opened: u64,
    /// For how many ticks statuses have waited for sockets.
    waited: Option<u8>,
    complete: bool,
    /// Compiled, not published.
    next: Option<Snapshot>,
    /// Snapshots that a worker may still be reading. The last reference is dropped here, so that no worker has to take ten
    /// thousand hosts apart.
    retired: Vec<Arc<Snapshot>>,
}

impl<T: Translate> Cycle<T> {
    /// No objects, nothing published.
    pub fn new(translator: T, live: Live, published: Arc<Published>, report: Arc<Report>) -> Self {
        Self {
            objects: Objects::default(),
            translator,
            live,
            switches: BTreeMap::new(),
            published,
            report,
            statuses: Statuses::default(),
            opened: u64::MAX,
            waited: None,
            complete: false,
            next: None,
            retired: Vec::new(),
        }
    }

    /// What is alive.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Services with colors, as last translated.
    pub fn switches(&self) -> &BTreeMap<ObjectName, Arc<ColorSwitch>> {
        &self.switches
    }

    /// Where the loop tells what it does.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Whether nothing has been published yet.
    pub fn is_first(&self) -> bool {
        self.published.load().generation == 0
    }

    /// Takes a batch as far as it goes without publishing.
    pub fn take(&mut self, batch: Batch, now: u64) -> Step {
        self.report.complain(batch.verdicts);
        let services = if self.complete { self.only_endpoints_of(&batch.changes) } else { None };
        let nothing = batch.changes.is_empty();
        for change in batch.changes {
            self.objects.apply(change);
        }
        if !self.complete && !batch.complete {
            return Step::Waiting;
        }
        let first = !std::mem::replace(&mut self.complete, true);
        if nothing && !first {
            return Step::Unchanged;
        }
        match services {
            Some(services) => self.set_endpoints(&services, now),
            None => self.compile(now),
        }
    }

    fn set_endpoints(&mut self, services: &Services, now: u64) -> Step {
        let mut changed = false;
        for (key, colors) in self.translator.endpoints(&self.objects, services) {
            changed |= self.live.set_endpoints(&key, &colors, now);
        }
        if changed { Step::Endpoints } else { Step::Unchanged }
    }

    fn compile(&mut self, now: u64) -> Step {
        let Translation { model, verdicts, statuses } = self.translator.translate(&self.objects);
        let before = self.published.load_full();
        // Before the first publication there is nothing to be equal to, not even nothing.
        let previous = (before.generation > 0).then_some(&*before);
        let revision = self.live.revision();
        let snapshot = compile(&model, &mut self.live, previous, now);
        self.report.judge(verdicts);
        self.statuses = statuses;
        let Model { switches, .. } = model;
        let same_switches = self.switches == switches;
        self.switches = switches;
        if snapshot.generation == before.generation && same_switches {
            self.tell_statuses();
            return if self.live.revision() == revision { Step::Unchanged } else { Step::Endpoints };
        }
        self.next = Some(snapshot);
        Step::Compiled
    }

    /// Publishes what the last batch led to, if it led to a new generation.
    pub fn publish(&mut self, wall: SystemTime) {
        let Some(snapshot) = self.next.take() else { return };
        let generation = snapshot.generation;
        if generation != self.published.load().generation {
            self.retired.push(self.published.publish(snapshot));
            self.report.published(generation, wall);
            tracing::debug!(generation, "published");
        }
        self.tell_statuses();
    }

    /// Takes what has become of sockets. From then on statuses wait for the sockets of what is published.
    pub fn hear(&mut self, news: &SocketNews) {
        self.opened = news.generation;
        if self.translator.hear(&news.unopened) && self.complete {
            let Translation { model: _, verdicts, statuses } = self.translator.translate(&self.objects);
            self.report.judge(verdicts);
            self.statuses = statuses;
        }
        // What is compiled and not published is told by its publication.
        if self.next.is_none() && self.published.load().generation > 0 {
            self.tell_statuses();
        }
    }

    /// Nothing is said to be served before it is.
    fn tell_statuses(&mut self) {
        if self.opened >= self.published.load().generation {
            self.waited = None;
            self.report.tell_statuses(&self.statuses);
        } else {
            self.waited.get_or_insert(0);
        }
    }

    /// A name was resolved. Says whether endpoints changed.
    pub fn resolved(&mut self, name: &NameKey, addresses: &[IpAddr], now: u64) -> bool {
        self.live.set_resolved(name, addresses, now)
    }

    /// Does what is due by time alone. To be called a few times a second.
    pub fn tick(&mut self, now: u64) {
        self.live.tick(now);
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        let Some(waited) = &mut self.waited else { return };
        *waited += 1;
        if *waited >= PATIENCE && self.next.is_none() {
            self.waited = None;
            self.report.tell_statuses(&self.statuses);
        }
    }

    /// The Services whose endpoints change, if nothing else does.
    fn only_endpoints_of(&self, changes: &[Change]) -> Option<Services> {
        let mut services = Services::new();
        for change in changes {
            match change {
                Change::Put(Object::EndpointSlice(slice)) => {
                    services.extend(service_of(slice));
                    let name = feed::about(change).name;
                    services.extend(self.objects.endpoint_slices.get(&name).and_then(|slice| service_of(slice)));
                }
                Change::Remove(reference) if reference.kind == "EndpointSlice" => {
                    services
                        .extend(self.objects.endpoint_slices.get(&reference.name).and_then(|slice| service_of(slice)));
                }
                Change::Put(Object::Endpoints(_)) => {
                    services.insert(feed::about(change).name);
                }
                Change::Remove(reference) if reference.kind == "Endpoints" => {
                    services.insert(reference.name.clone());
                }
                _ => return None,
            }
        }
        Some(services)
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(ObjectName::new(slice.metadata.namespace.as_deref().unwrap_or(""), service.as_str()))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::model::{Bind, Entry, ObjectRef, Severity, Verdict};
    use crate::telemetry::stats::Registry;

    /// Makes one socket per Ingress and remembers what it was asked.
    #[derive(Default)]
    struct Fake {
        translated: usize,
        asked: Vec<Services>,
    }

    impl Translate for Fake {
        fn translate(&mut self, objects: &Objects) -> Translation {
            self.translated += 1;
            let entries = (1..).zip(objects.ingresses.keys()).map(|(port, _)| (Bind::Port(port), Entry::default()));
            let verdicts = objects.ingresses.keys().map(|name| Verdict {
                object: ObjectRef::new("Ingress", name.clone()),
                severity: Severity::Error,
                reason: "Bad",
                field: String::new(),
                problem: "it is bad".to_owned(),
                fix: String::new(),
            });
            Translation {
                model: Model { entries: entries.collect(), ..Model::default() },
                verdicts: Arc::new(verdicts.collect()),
                statuses: Statuses::default(),
            }
        }

        fn endpoints(&mut self, _: &Objects, services: &Services) -> Vec<(BackendKey, Vec<ColorEndpoints>)> {
            self.asked.push(services.clone());
            Vec::new()
        }

        fn hear(&mut self, _: &Unopened) -> bool {
            false
        }
    }

    fn cycle() -> Cycle<Fake> {
        let live = Live::new(Registry::new(1, &[]));
        Cycle::new(Fake::default(), live, Arc::default(), Arc::default())
    }

    fn batch(changes: Vec<Change>, complete: bool) -> Batch {
        Batch { changes, verdicts: Vec::new(), complete, seen: Instant::now() }
    }

    fn metadata(name: &str) -> ObjectMeta {
        ObjectMeta { namespace: Some("shop".to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
    }

    fn ingress(name: &str) -> Change {
        let ingress = k8s_openapi::api::networking::v1::Ingress { metadata: metadata(name), ..Default::default() };
        Change::Put(Object::Ingress(Arc::new(ingress)))
    }

    fn slice(name: &str, service: &str) -> Change {
        let labels = [(SERVICE_LABEL.to_owned(), service.to_owned())].into();
        let metadata = ObjectMeta { labels: Some(labels), ..metadata(name) };
        Change::Put(Object::EndpointSlice(Arc::new(EndpointSlice { metadata, ..Default::default() })))
    }

    fn services(names: &[&str]) -> Services {
        names.iter().map(|name| ObjectName::new("shop", *name)).collect()
    }

    #[test]
    fn nothing_is_published_before_everything_was_listed() {
        let mut cycle = cycle();
        assert_eq!(cycle.take(batch(vec![ingress("a")], false), 0), Step::Waiting);
        assert_eq!((cycle.translator.translated, cycle.published.load().generation), (0, 0));
        assert_eq!(cycle.take(batch(Vec::new(), true), 0), Step::Compiled);
        assert!(cycle.is_first() && cycle.published.load().generation == 0);
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert_eq!((cycle.published.load().generation, cycle.report.generation()), (1, 1));
        assert_eq!(cycle.report.verdicts().len(), 1);
    }

    #[test]
    fn empty_first_listing_is_published_too() {
        let mut cycle = cycle();
        assert_eq!(cycle.take(batch(Vec::new(), true), 0), Step::Compiled);
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert_eq!(cycle.published.load().generation, 1);
    }

    #[test]
    fn change_that_changes_nothing_is_not_published() {
        let mut cycle = cycle();
        cycle.take(batch(vec![ingress("a")], true), 0);
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert_eq!(cycle.take(batch(Vec::new(), true), 0), Step::Unchanged);
        assert_eq!(cycle.translator.translated, 1);
        assert_eq!(cycle.take(batch(vec![ingress("a")], true), 0), Step::Unchanged);
        assert_eq!(cycle.translator.translated, 2);
        assert_eq!(cycle.take(batch(vec![ingress("b")], true), 0), Step::Compiled);
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert_eq!(cycle.published.load().generation, 2);
    }

    #[test]
    fn endpoint_changes_alone_take_the_short_path_for_the_old_and_the_new_service() {
        let mut cycle = cycle();
        cycle.take(batch(vec![slice("s", "old")], true), 0);
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert_eq!(cycle.take(batch(vec![slice("s", "new")], true), 0), Step::Unchanged);
        let gone = Change::Remove(ObjectRef::new("EndpointSlice", ObjectName::new("shop", "s")));
        cycle.take(batch(vec![gone], true), 0);
        assert_eq!(cycle.translator.asked, [services(&["old", "new"]), services(&["new"])]);
        assert_eq!(cycle.translator.translated, 1);
        cycle.take(batch(vec![slice("s", "old"), ingress("a")], true), 0);
        assert_eq!(cycle.translator.translated, 2);
    }

    fn told(cycle: &Cycle<Fake>) -> bool {
        cycle.report.statuses().borrow().is_some()
    }

    fn opened(generation: u64) -> SocketNews {
        SocketNews { generation, ..SocketNews::default() }
    }

    #[test]
    fn statuses_wait_for_the_sockets_of_what_is_published_but_not_for_long() {
        let mut cycle = cycle();
        cycle.hear(&opened(0));
        cycle.take(batch(vec![ingress("a")], true), 0);
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert!(!told(&cycle), "the sockets of the first generation are still to be opened");
        cycle.hear(&opened(1));
        assert!(told(&cycle));

        let mut slow = self::cycle();
        slow.hear(&opened(0));
        slow.take(batch(vec![ingress("a")], true), 0);
        slow.publish(SystemTime::UNIX_EPOCH);
        for _ in 1..PATIENCE {
            slow.tick(0);
        }
        assert!(!told(&slow));
        slow.tick(0);
        assert!(told(&slow));
    }

    #[test]
    fn statuses_wait_for_nobody_where_nobody_tells_of_sockets() {
        let mut cycle = cycle();
        cycle.take(batch(vec![ingress("a")], true), 0);
        assert!(!told(&cycle), "nothing is said to be served before it is");
        cycle.publish(SystemTime::UNIX_EPOCH);
        assert!(told(&cycle));
    }

    #[test]
    fn retired_snapshot_is_dropped_by_the_loop_and_not_by_its_last_reader() {
        let mut cycle = cycle();
        cycle.take(batch(Vec::new(), true), 0);
        cycle.publish(SystemTime::UNIX_EPOCH);
        let reading = cycle.published.load_full();
        cycle.take(batch(vec![ingress("a")], true), 0);
        cycle.publish(SystemTime::UNIX_EPOCH);
        cycle.tick(0);
        assert_eq!(Arc::strong_count(&reading), 2);
        let weak = Arc::downgrade(&reading);
        drop(reading);
        assert!(weak.upgrade().is_some());
        cycle.tick(0);
        assert!(weak.upgrade().is_none());
    }
}
