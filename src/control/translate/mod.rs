//! Pure: objects in, model and verdicts out. No clock, no network, no file.
//!
//! A [`Translator`] remembers what it derived from which object. It compares the objects it is given with those of the
//! last time by identity (their `Arc`), derives again what changed and what had read something that changed, and
//! leaves everything else as it is. The result is the same as from a fresh translator, but for what outlives a bad
//! change on purpose: the last good certificate of a Secret and the last good colors of a Service.
//!
//! The control loop writes here; nobody reads but through [`Translation`].

mod addresses;
pub mod annotations;
mod attach;
mod backend_ref;
mod backend_tls;
mod color;
mod cors;
mod diff;
mod endpoints;
mod features;
mod filters;
mod frontend;
mod gateway;
mod grant;
mod grpc_route;
mod hosts;
mod http_route;
mod ingress;
mod listener;
mod listener_set;
mod namespaces;
pub mod objects;
mod parents;
mod parts;
mod preview_host;
mod reading;
mod rivals;
mod rules;
mod secret;
mod service;
mod status;
pub mod stream_objects;
mod stream_route;
mod streams;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub use self::addresses::AddressRange;
use self::backend_tls::Policies;
pub use self::endpoints::is_local;
use self::hosts::Hosts;
pub use self::objects::{Change, Object, Objects};
use self::parents::Parents;
use self::parts::Part;
use self::reading::{Dep, Reading};
use self::rivals::Rivals;
use self::secret::Certificates;
use self::service::{Known, Plans, SlicesOf};
use self::streams::Streams;
use crate::model::{
    Access, Backend, BackendKey, Bind, CertificateBinding, ColorEndpoints, GatewayAddress, HostPattern, Model,
    ObjectName, ObjectRef, ObjectStatus, Protocol, RouteKind, Status, Statuses, Verdict,
};

/// Which objects are ours.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the IngressClass and GatewayClass that are ours even when no such object exists.
    pub ingress_class: String,
    /// `spec.controller` of an IngressClass of ours.
    pub ingress_controller: String,
    /// `spec.controllerName` of a GatewayClass of ours.
    pub gateway_controller: String,
    /// Whether an Ingress without any class is served when no IngressClass is marked as the default.
    pub claim_unclassed: bool,
    /// Addresses for Gateways, each of which gets one of its own; without any they share the sockets of the settings. An
    /// address that nobody asks for is taken from the first of these that has one, and is the lowest.
    pub addresses: Vec<AddressRange>,
    /// Where clients find what is served at shared sockets.
    pub published: Vec<GatewayAddress>,
    /// The Service of type LoadBalancer whose addresses these are, in the place of `published`.
    pub published_service: Option<ObjectName>,
    /// Whether the fields of the experimental channel of the Gateway API exist.
    pub experimental: bool,
    /// Whether endpoints may be at addresses that [`is_local`]. Not where others than the owner of this machine write the objects:
    /// these would reach what is meant for it alone, such as the operator's port.
    pub local_endpoints: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ingress_class: "weir".to_owned(),
            ingress_controller: "weir.dev/ingress-controller".to_owned(),
            gateway_controller: "weir.dev/gateway-controller".to_owned(),
            claim_unclassed: true,
            addresses: Vec::new(),
            published: Vec::new(),
            published_service: None,
            experimental: false,
            local_endpoints: true,
        }
    }
}

/// What objects come to.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    /// The desired state.
    pub model: Model,
    /// What the owners are told, sorted, each once. The very same as the last time if nothing about it changed.
    pub verdicts: Arc<Vec<Verdict>>,
    /// What is written into statuses. What did not change keeps its identity.
    pub statuses: Statuses,
}

/// Something that is derived by itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Item {
    Service(ObjectName),
    Gateway(ObjectName),
    ListenerSet(ObjectName),
    /// A BackendTLSPolicy.
    Policy(ObjectName),
    Ingress(ObjectName),
    Route(RouteKind, ObjectName),
    Backend(BackendKey),
    /// Not derived from objects, but from all routes at one host.
    Host(Bind, HostPattern),
    /// The same for streams.
    Stream(Bind, HostPattern),
    /// From all routes and all Services with a host for previews.
    PreviewHosts,
}

/// Turns objects into a model; remembers.
pub struct Translator {
    options: Options,
    /// The objects as they were seen last.
    seen: Objects,
    /// What must be derived again.
    dirty: BTreeSet<Item>,
    /// Who read what, both ways.
    readers: HashMap<Dep, HashSet<Item>>,
    read_by: HashMap<Item, Vec<Dep>>,
    /// Only items that have something to tell.
    findings: BTreeMap<Item, Vec<Verdict>>,
    /// All of `findings`, until one of them changes.
    verdicts: Option<Arc<Vec<Verdict>>>,

    slices: SlicesOf,
    certificates: Certificates,
    plans: Plans,
    policies: Policies,
    parents: Parents,
    parts: HashMap<Item, Part>,
    /// How many parts name a backend.
    uses: HashMap<BackendKey, usize>,
    hosts: Hosts,
    streams: Streams,
    rivals: Rivals,
    /// Certificates by who presents them: age first, so that the oldest wins.
    bindings: BTreeMap<(i64, Item), Vec<(Bind, CertificateBinding)>>,
    bindings_changed: bool,
    /// Nobody reads some Secret any more.
    secrets_unread: bool,
    classes_changed: bool,
    /// Number of Ingresses that are served.
    ingresses: usize,
    model: Model,
    statuses: Statuses,
}

impl Translator {
    /// A translator that has seen nothing.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            seen: Objects::default(),
            dirty: BTreeSet::new(),
            readers: HashMap::new(),
            read_by: HashMap::new(),
            findings: BTreeMap::new(),
            verdicts: None,
            slices: SlicesOf::new(),
            certificates: Certificates::default(),
            plans: Plans::new(),
            policies: Policies::default(),
            parents: Parents::default(),
            parts: HashMap::new(),
            uses: HashMap::new(),
            hosts: Hosts::default(),
            streams: Streams::default(),
            rivals: Rivals::default(),
            bindings: BTreeMap::new(),
            bindings_changed: false,
            secrets_unread: false,
            classes_changed: false,
            ingresses: 0,
            model: Model::default(),
            statuses: Statuses::default(),
        }
    }

    /// Translates. What did not change since the last time keeps its identity.
    pub fn translate(&mut self, objects: &Objects) -> Translation {
        self.notice_changes(objects);
        // Each step reads what the steps before it derived.
        self.derive_plans(objects);
        self.derive_classes(objects);
        self.derive_gateways(objects);
        self.derive_policies(objects);
        self.derive_routes(objects);
        let again = self.rivals.settle();
        if !again.is_empty() {
            self.dirty.extend(again.into_iter().map(|(kind, name)| Item::Route(kind, name)));
            self.derive_routes(objects);
        }
        self.publish_parents();
        self.derive_backends(objects);
        self.settle_hosts();
        self.settle_streams();
        self.settle_policies(objects);
        self.settle_entries();
        if std::mem::take(&mut self.secrets_unread) {
            let readers = &self.readers;
            self.certificates.retain(|dep| readers.contains_key(dep));
        }
        let mut model = self.model.clone();
        let refused = preview_host::add(&mut model, objects);
        self.tell(Item::PreviewHosts, refused);
        let verdicts = self.verdicts();
        Translation { model, verdicts, statuses: self.statuses.clone() }
    }

    fn verdicts(&mut self) -> Arc<Vec<Verdict>> {
        let findings = &self.findings;
        let gather = || {
            let mut verdicts: Vec<Verdict> = findings.values().flatten().cloned().collect();
            verdicts.sort_unstable();
            verdicts.dedup();
            Arc::new(verdicts)
        };
        self.verdicts.get_or_insert_with(gather).clone()
    }

    /// The short path: endpoints of the backends that depend on these Services (of a color: on its child Service),
    /// after changes to nothing but EndpointSlices and Endpoints.
    pub fn endpoints(
        &mut self,
        objects: &Objects,
        services: &BTreeSet<ObjectName>,
    ) -> Vec<(BackendKey, Vec<ColorEndpoints>)> {
        self.notice_endpoints(objects);
        let mut keys = BTreeSet::new();
        for service in services {
            for item in self.readers.get(&Dep::Endpoints(service.clone())).into_iter().flatten() {
                if let Item::Backend(key) = item {
                    keys.insert(key.clone());
                }
            }
        }
        let local_endpoints = self.options.local_endpoints;
        let known = Known { plans: &self.plans, policies: &self.policies, local_endpoints };
        let derive = |key: BackendKey| {
            let source = ObjectRef::new("Service", key.service.clone());
            let mut reading = Reading::new(source, objects);
            let colors = endpoints::colors(&mut reading, known, &self.slices, &key);
            (key, colors)
        };
        keys.into_iter().map(derive).collect()
    }

    /// Services: annotations and colors.
    fn derive_plans(&mut self, objects: &Objects) {
        for name in self.take(|item| if let Item::Service(name) = item { Some(name.clone()) } else { None }) {
            let item = Item::Service(name.clone());
            let before = self.plans.remove(&name);
            let written = objects.services.get(&name).and_then(|service| service.metadata.annotations.as_ref());
            let own = written.filter(|written| written.keys().any(|key| annotations::own_key(key).is_some()));
            let Some(own) = own else {
                self.model.switches.remove(&name);
                self.forget(&item);
                continue;
            };
            let mut reading = Reading::new(ObjectRef::new("Service", name.clone()), objects);
            let mut plan = color::plan(&mut reading, own, before.as_deref());
            if let Some(before) = before.as_deref()
                && before.switch == plan.switch
            {
                plan.switch = before.switch.clone();
            }
            self.remember(item, reading);
            match &plan.switch {
                Some(switch) => self.model.switches.insert(name.clone(), switch.clone()),
                None => self.model.switches.remove(&name),
            };
            self.plans.insert(name, Arc::new(plan));
        }
    }

    /// Sets or removes the status of an object. One that is as before keeps its identity.
    fn publish(&mut self, object: ObjectRef, generation: i64, status: Option<Status>) {
        let Some(status) = status else {
            self.statuses.remove(&object);
            return;
        };
        let status = ObjectStatus { generation, status };
        if self.statuses.get(&object).is_none_or(|before| **before != status) {
            self.statuses.insert(object, Arc::new(status));
        }
    }

    /// Backends that routes name.
    fn derive_backends(&mut self, objects: &Objects) {
        for key in self.take(|item| if let Item::Backend(key) = item { Some(key.clone()) } else { None }) {
            let item = Item::Backend(key.clone());
            if self.uses.get(&key).is_none_or(|uses| *uses == 0) {
                self.uses.remove(&key);
                self.model.backends.remove(&key);
                self.forget(&item);
                continue;
            }
            let mut reading = Reading::new(ObjectRef::new("Service", key.service.clone()), objects);
            let identity = match &key.access {
                Access::As(secret) => {
                    // What is wrong with it is told to the owner of the Gateway.
                    let mut aside = Reading::new(reading.source.clone(), objects);
                    let loaded = self.certificates.load(&mut aside, secret, "");
                    reading.deps.append(&mut aside.deps);
                    loaded.map(|(certificate, _)| certificate)
                }
                Access::Tcp | Access::Udp => None,
            };
            let local_endpoints = self.options.local_endpoints;
            let known = Known { plans: &self.plans, policies: &self.policies, local_endpoints };
            let backend: Backend = service::backend(&mut reading, known, &self.slices, identity, &key);
            self.remember(item, reading);
            if self.model.backends.get(&key).is_none_or(|before| **before != backend) {
                self.model.backends.insert(key, Arc::new(backend));
            }
        }
    }

    /// Hosts at which a route came or went: who wins where two say the same.
    fn settle_hosts(&mut self) {
        for (bind, host) in self.hosts.take_changed() {
            let (winners, verdicts) = self.hosts.settle(bind, &host);
            let entry = self.model.entries.entry(bind).or_default();
            if winners.is_empty() {
                entry.hosts.remove(&host);
            } else {
                entry.hosts.insert(host.clone(), winners);
            }
            self.tell(Item::Host(bind, host), verdicts);
        }
    }

    /// Sockets: what is spoken, the certificates of both sides, and which listeners are kept apart.
    fn settle_entries(&mut self) {
        let open = &self.parents.open;
        for bind in open.keys() {
            self.model.entries.entry(*bind).or_default();
        }
        if std::mem::take(&mut self.bindings_changed) {
            for entry in self.model.entries.values_mut() {
                entry.certificates = Arc::default();
            }
            let mut taken = HashSet::new();
            for (bind, binding) in self.bindings.values().flatten() {
                if taken.insert((*bind, binding.host.clone())) {
                    let entry = self.model.entries.entry(*bind).or_default();
                    Arc::make_mut(&mut entry.certificates).push(binding.clone());
                }
            }
        }
        let ingresses = self.ingresses > 0;
        self.model.entries.retain(|bind, entry| {
            let socket = open.get(bind);
            entry.protocol = match bind {
                Bind::Http => Protocol::Http,
                Bind::Https => Protocol::Https,
                _ => socket.map_or(Protocol::Http, |socket| socket.protocol),
            };
            entry.client_certificates = socket.and_then(|socket| socket.clients.clone().flatten());
            // Where several Gateways meet, or Ingresses, nobody's listeners bound the routes of others.
            let shared = ingresses && matches!(bind, Bind::Http | Bind::Https);
            let alone = socket.filter(|socket| socket.owners.len() == 1 && !shared);
            let web = alone.filter(|socket| matches!(socket.protocol, Protocol::Http | Protocol::Https));
            let boundaries = web.map(|socket| &socket.hostnames).filter(|hostnames| hostnames.len() > 1);
            if boundaries.map_or(!entry.boundaries.is_empty(), |boundaries| *boundaries != *entry.boundaries) {
                entry.boundaries = boundaries.cloned().map(Arc::new).unwrap_or_default();
            }
            !entry.hosts.is_empty() || !entry.streams.is_empty() || !entry.certificates.is_empty() || socket.is_some()
        });
    }

    /// Takes the items of one sort off the list of what must be derived again.
    fn take<T>(&mut self, select: impl Fn(&Item) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.dirty.retain(|item| match select(item) {
            Some(found) => {
                taken.push(found);
                false
            }
            None => true,
        });
        taken
    }

    /// Has everything derived again that read this.
    fn stir(&mut self, dep: &Dep) {
        if let Some(readers) = self.readers.get(dep) {
            self.dirty.extend(readers.iter().cloned());
        }
    }

    /// Keeps what a derivation read and found.
    fn remember(&mut self, item: Item, reading: Reading<'_>) {
        self.depend(&item, reading.deps);
        self.tell(item, reading.verdicts);
    }

    /// Keeps what a derivation read.
    fn depend(&mut self, item: &Item, mut deps: Vec<Dep>) {
        if deps.len() > 1 {
            let unique: HashSet<Dep> = deps.drain(..).collect();
            deps.extend(unique);
        }
        let before = self.read_by.insert(item.clone(), deps.clone()).unwrap_or_default();
        for dep in before.iter().filter(|dep| !deps.contains(dep)) {
            self.unread(dep, item);
        }
        for dep in deps {
            self.readers.entry(dep).or_default().insert(item.clone());
        }
    }

    fn forget(&mut self, item: &Item) {
        for dep in self.read_by.remove(item).unwrap_or_default() {
            self.unread(&dep, item);
        }
        if self.findings.remove(item).is_some() {
            self.verdicts = None;
        }
    }

    fn unread(&mut self, dep: &Dep, item: &Item) {
        if let Some(readers) = self.readers.get_mut(dep) {
            readers.remove(item);
            if readers.is_empty() {
                self.readers.remove(dep);
                self.secrets_unread |= matches!(dep, Dep::Secret(_));
            }
        }
    }

    fn tell(&mut self, item: Item, verdicts: Vec<Verdict>) {
        if self.findings.get(&item).map_or(&[][..], Vec::as_slice) == verdicts {
            return;
        }
        self.verdicts = None;
        match verdicts.is_empty() {
            true => self.findings.remove(&item),
            false => self.findings.insert(item, verdicts),
        };
    }
}

/// The object of an item whose status may be written.
fn reference_of(item: &Item) -> Option<ObjectRef> {
    Some(match item {
        Item::Gateway(name) => ObjectRef::new("Gateway", name.clone()),
        Item::ListenerSet(name) => ObjectRef::new("ListenerSet", name.clone()),
        Item::Policy(name) => ObjectRef::new("BackendTLSPolicy", name.clone()),
        Item::Ingress(name) => ObjectRef::new("Ingress", name.clone()),
        Item::Route(kind, name) => ObjectRef::new(kind.name(), name.clone()),
        Item::Service(_) | Item::Backend(_) | Item::Host(..) | Item::Stream(..) | Item::PreviewHosts => return None,
    })
}

/// `metadata.generation` of the object of an item; 0 without one, as in a folder.
fn generation_of(objects: &Objects, item: &Item) -> i64 {
    let metadata = match item {
        Item::Gateway(name) => objects.gateways.get(name).map(|it| &it.metadata),
        Item::ListenerSet(name) => objects.listener_sets.get(name).map(|it| &it.metadata),
        Item::Policy(name) => objects.backend_tls_policies.get(name).map(|it| &it.metadata),
        Item::Ingress(name) => objects.ingresses.get(name).map(|it| &it.metadata),
        Item::Route(RouteKind::Http, name) => objects.http_routes.get(name).map(|it| &it.metadata),
        Item::Route(RouteKind::Grpc, name) => objects.grpc_routes.get(name).map(|it| &it.metadata),
        Item::Route(RouteKind::Tls, name) => objects.tls_routes.get(name).map(|it| &it.metadata),
        Item::Route(RouteKind::Tcp, name) => objects.tcp_routes.get(name).map(|it| &it.metadata),
        Item::Route(RouteKind::Udp, name) => objects.udp_routes.get(name).map(|it| &it.metadata),
        Item::Service(_) | Item::Backend(_) | Item::Host(..) | Item::Stream(..) | Item::PreviewHosts => None,
    };
    metadata.and_then(|metadata| metadata.generation).unwrap_or_default()
}
