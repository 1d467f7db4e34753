//! Gateways with their ListenerSets: what routes see of them, their sockets and certificates, and what is said of them.
//!
//! All are derived when one changes, because addresses and sockets are shared between them: the oldest chooses first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{Gateway, GatewayListeners};
use gateway_api::apis::standard::listenersets::ListenerSet;

use super::addresses::{self, Assigned, Held, Sockets};
use super::attach::Gateways;
use super::gateway::{self, View, Whole};
use super::listener::{self, Candidate, Group, Spoken};
use super::reading::{Dep, Reading, created};
use super::{Item, Objects, Translator, features, listener_set, status, values};
use crate::model::{
    Bind, CertificateBinding, Claim, ClientCertificates, GatewayAddress, HostPattern, ObjectName, ObjectRef, Protocol,
    Status, Unopened,
};

/// What is at a socket.
pub(super) struct Socket {
    /// What is spoken: the oldest Gateway decides.
    pub protocol: Protocol,
    /// Whose listeners are there, the oldest first.
    pub owners: Vec<ObjectName>,
    /// Hostnames of these listeners.
    pub hostnames: BTreeSet<HostPattern>,
    /// What clients of listeners of protocol HTTPS must show; `None` as long as there is no such listener.
    pub clients: Option<Option<Arc<ClientCertificates>>>,
    /// Whether it belongs to its first owner alone, because nobody could tell whose bytes these are: with a listener of
    /// protocol TLS, TCP or UDP.
    alone: bool,
}

/// Sockets of Gateways, which are there also without routes.
pub(super) type Open = BTreeMap<Bind, Socket>;

/// The listeners of ListenerSets as a Gateway would write them, with what they were converted from.
type Converted = HashMap<ObjectName, (Arc<ListenerSet>, Vec<GatewayListeners>)>;

/// What is remembered of Gateways and ListenerSets.
#[derive(Default)]
pub(super) struct Parents {
    pub gateways: Gateways,
    pub open: Open,
    /// Sockets that the data plane could not open. Of no account but for what owners are told.
    unopened: Unopened,
    /// Addresses of Gateways.
    held: Held,
    converted: Converted,
    /// Statuses but for the number of routes.
    drafts: HashMap<ObjectRef, (i64, Status)>,
    /// Routes by listener.
    attached: HashMap<(ObjectRef, Arc<str>), u32>,
    /// What was derived, or got or lost a route.
    recount: BTreeSet<ObjectRef>,
}

impl Parents {
    /// Takes the listeners of a route before and now.
    pub fn exchange(&mut self, before: &BTreeSet<(ObjectRef, Arc<str>)>, now: &BTreeSet<(ObjectRef, Arc<str>)>) {
        for gone in before.difference(now) {
            if let Some(count) = self.attached.get_mut(gone) {
                *count -= 1;
                if *count == 0 {
                    self.attached.remove(gone);
                }
            }
            self.recount.insert(gone.0.clone());
        }
        for new in now.difference(before) {
            *self.attached.entry(new.clone()).or_default() += 1;
            self.recount.insert(new.0.clone());
        }
    }

    fn count(&self, object: &ObjectRef, status: &mut Status) {
        let (Status::Gateway { listeners, .. } | Status::ListenerSet { listeners, .. }) = status else { return };
        for listener in listeners {
            let count = self.attached.get(&(object.clone(), listener.name.clone())).copied().unwrap_or_default();
            // Of several routes of streams at one socket the oldest serves it, but all of them are attached.
            listener.attached = count;
        }
    }
}

/// Gateways of ours, the oldest first, each with what was read of it.
struct Ours<'a> {
    name: &'a ObjectName,
    gateway: &'a Arc<Gateway>,
    reading: Reading<'a>,
}

impl Translator {
    /// GatewayClasses.
    pub(super) fn derive_classes(&mut self, objects: &Objects) {
        if !std::mem::take(&mut self.classes_changed) {
            return;
        }
        let stale: Vec<ObjectRef> = self.statuses.keys().filter(|it| it.kind == "GatewayClass").cloned().collect();
        for object in stale.into_iter().filter(|object| !objects.gateway_classes.contains_key(&object.name)) {
            self.statuses.remove(&object);
        }
        for (name, class) in &objects.gateway_classes {
            let ours = class.spec.controller_name == self.options.gateway_controller;
            let status = ours.then(|| Status::Class {
                conditions: vec![match &class.spec.parameters_ref {
                    None => status::holds("Accepted"),
                    Some(_) => status::fails(
                        "Accepted",
                        "InvalidParameters",
                        "Weir has no parameters; remove spec.parametersRef",
                    ),
                }],
                features: features::claimed(self.options.experimental),
            });
            let generation = class.metadata.generation.unwrap_or_default();
            self.publish(ObjectRef::new("GatewayClass", name.clone()), generation, status);
        }
    }

    /// Takes which sockets could not be opened. Says whether that makes a difference to the next translation, which comes to
    /// the same model.
    pub fn hear(&mut self, unopened: &Unopened) -> bool {
        if self.parents.unopened == *unopened {
            return false;
        }
        self.parents.unopened = unopened.clone();
        self.dirty.extend(self.seen.gateways.keys().cloned().map(Item::Gateway));
        true
    }

    /// Gateways and ListenerSets: all of them when one changes.
    pub(super) fn derive_gateways(&mut self, objects: &Objects) {
        let changed = self.take(|item| matches!(item, Item::Gateway(_) | Item::ListenerSet(_)).then(|| item.clone()));
        if changed.is_empty() {
            return;
        }
        for item in &changed {
            let gone = match item {
                Item::Gateway(name) => !objects.gateways.contains_key(name),
                Item::ListenerSet(name) => !objects.listener_sets.contains_key(name),
                _ => false,
            };
            if gone {
                self.forget(item);
            }
        }
        self.parents.open.clear();
        self.bindings.retain(|(_, item), _| !matches!(item, Item::Gateway(_) | Item::ListenerSet(_)));
        self.bindings_changed = true;
        let before = std::mem::take(&mut self.parents.drafts);
        let ours = self.ours(objects);
        let (sets, converted) = self.sets(objects, &ours);
        let by_age: Vec<_> = ours.iter().map(|it| (it.name, &**it.gateway)).collect();
        let assigned = addresses::assign(&self.options.addresses, &by_age, &mut self.parents.held);
        let mut views = Gateways::default();
        let mut sets = sets;
        for it in ours {
            let own = sets.remove(it.name).unwrap_or_default();
            let Some(assigned) = assigned.get(it.name) else { continue };
            self.derive_gateway(it, own, &converted, assigned, &mut views);
        }
        self.parents.converted = converted;
        for object in before.into_keys().filter(|object| !self.parents.drafts.contains_key(object)) {
            self.statuses.remove(&object);
        }
        self.parents.recount.extend(self.parents.drafts.keys().cloned());
        self.exchange_views(views, &changed);
    }

    /// Gateways of ours, the oldest first.
    fn ours<'a>(&mut self, objects: &'a Objects) -> Vec<Ours<'a>> {
        let mut by_age: Vec<_> = objects.gateways.iter().collect();
        by_age.sort_by_key(|(name, gateway)| (created(&gateway.metadata), *name));
        let mut ours = Vec::new();
        for (name, gateway) in by_age {
            let mut reading = Reading::new(ObjectRef::new("Gateway", name.clone()), objects);
            if gateway::is_ours(&mut reading, &self.options, gateway) {
                ours.push(Ours { name, gateway, reading });
            } else {
                self.remember(Item::Gateway(name.clone()), reading);
            }
        }
        ours
    }

    /// ListenerSets of Gateways of ours by Gateway, the oldest first; and the listeners of all of them.
    fn sets<'a>(&mut self, objects: &'a Objects, ours: &[Ours<'_>]) -> (HashMap<ObjectName, Vec<Set<'a>>>, Converted) {
        let mut by_age: Vec<_> = objects.listener_sets.iter().collect();
        by_age.sort_by_key(|(name, set)| (created(&set.metadata), *name));
        let (mut sets, mut converted) = (HashMap::<_, Vec<_>>::new(), HashMap::new());
        let mut before = std::mem::take(&mut self.parents.converted);
        for (name, set) in by_age {
            let mut reading = Reading::new(ObjectRef::new("ListenerSet", name.clone()), objects);
            let parent = listener_set::parent(&mut reading, set);
            match parent.filter(|parent| ours.iter().any(|it| it.name == parent)) {
                Some(parent) => {
                    let known = before.remove(name).filter(|(from, _)| Arc::ptr_eq(from, set));
                    let known = known.unwrap_or_else(|| (set.clone(), listener_set::listeners(set)));
                    converted.insert(name.clone(), known);
                    sets.entry(parent).or_default().push(Set { name, set, reading });
                }
                None => self.remember(Item::ListenerSet(name.clone()), reading),
            }
        }
        (sets, converted)
    }

    fn derive_gateway(
        &mut self,
        ours: Ours<'_>,
        sets: Vec<Set<'_>>,
        converted: &Converted,
        assigned: &Assigned,
        views: &mut Gateways,
    ) {
        let Ours { name, gateway, mut reading } = ours;
        let whole = gateway::whole(&mut reading, &mut self.certificates, gateway, assigned);
        let published = match &assigned.sockets {
            Sockets::Own(own) => Some(own.iter().copied().map(GatewayAddress::Ip).collect()),
            Sockets::Shared => addresses::published(&mut reading, &self.options),
        };
        let candidates = read_all(&mut reading, &gateway.spec.listeners, &whole);
        let mut groups = vec![Group { reading, candidates }];
        let mut owners = vec![(Item::Gateway(name.clone()), &gateway.metadata)];
        for Set { name: set_name, set, mut reading } in sets {
            if !listener_set::allowed(&mut reading, set, name, &whole.allowed_sets) {
                self.not_allowed(set_name, set, reading, name, views);
                continue;
            }
            let written = converted.get(set_name).map(|(_, listeners)| listeners.as_slice()).unwrap_or_default();
            let candidates = read_all(&mut reading, written, &whole);
            groups.push(Group { reading, candidates });
            owners.push((Item::ListenerSet(set_name.clone()), &set.metadata));
        }
        listener::conflicts(&mut groups);
        for group in &mut groups {
            let Group { reading, candidates } = group;
            for candidate in candidates.iter_mut() {
                open(reading, &mut self.parents.open, candidate, name, &whole, assigned);
            }
        }
        listener::isolate(&mut groups);
        listener::overlaps(&mut groups);
        for (group, (item, metadata)) in groups.iter_mut().zip(&owners) {
            let mut bindings: Vec<(Bind, CertificateBinding)> = Vec::new();
            for candidate in group.candidates.iter_mut().filter(|candidate| candidate.ends_tls()) {
                listener::present(&mut group.reading, &mut self.certificates, candidate, &mut bindings);
            }
            if !bindings.is_empty() {
                self.bindings.insert((created(metadata), item.clone()), bindings);
            }
        }
        let mut without = BTreeSet::new();
        for Group { reading, candidates } in &mut groups {
            for candidate in candidates {
                without.extend(unopened(reading, candidate, &self.parents.unopened));
            }
        }
        for address in &without {
            let problem = format!("{address} is no address of this machine");
            groups[0].reading.error("AddressNotUsable", "spec.addresses", problem, "name addresses of this machine");
        }
        let summary = status::Summary { whole: &whole, assigned, published, without: &without };
        let attached = groups[1..].iter().filter(|group| group.candidates.iter().any(Candidate::valid)).count();
        for (index, (group, (item, metadata))) in groups.into_iter().zip(owners).enumerate() {
            let object = group.reading.source.clone();
            let status = match index {
                0 => status::gateway(&summary, &group.candidates, attached),
                _ => status::listener_set(&summary, &group.candidates),
            };
            self.parents.drafts.insert(object.clone(), (metadata.generation.unwrap_or_default(), status));
            let listeners = group.candidates.into_iter().map(|candidate| candidate.listener).collect();
            let view = View { gateway: name.clone(), listeners, identity: whole.identity.clone() };
            views.insert(object, view, &self.parents.gateways);
            self.remember(item, group.reading);
        }
    }

    fn not_allowed(
        &mut self,
        name: &ObjectName,
        set: &ListenerSet,
        reading: Reading<'_>,
        gateway: &ObjectName,
        views: &mut Gateways,
    ) {
        let object = reading.source.clone();
        let generation = set.metadata.generation.unwrap_or_default();
        let why = reading.verdicts.last().map(|verdict| verdict.problem.clone()).unwrap_or_default();
        let claim = |kind| Claim { kind, holds: false, reason: "NotAllowed", message: why.clone() };
        let conditions = vec![claim("Accepted"), claim("Programmed")];
        self.parents
            .drafts
            .insert(object.clone(), (generation, Status::ListenerSet { conditions, listeners: Vec::new() }));
        let view = View { gateway: gateway.clone(), listeners: Vec::new(), identity: None };
        views.insert(object, view, &self.parents.gateways);
        self.remember(Item::ListenerSet(name.clone()), reading);
    }

    /// Has routes derived again whose parents look otherwise.
    fn exchange_views(&mut self, views: Gateways, changed: &[Item]) {
        let mut stirred: BTreeSet<ObjectRef> = changed.iter().filter_map(super::reference_of).collect();
        // Also one that appeared or vanished without being ours: its routes are told otherwise.
        stirred.retain(|object| !(views.get(object).is_some() && self.parents.gateways.get(object).is_some()));
        stirred.extend(views.differences(&self.parents.gateways));
        self.parents.gateways = views;
        for object in stirred {
            self.stir(&match object.kind {
                "Gateway" => Dep::Gateway(object.name),
                _ => Dep::ListenerSet(object.name),
            });
        }
    }

    /// Statuses of Gateways and ListenerSets, when everything is derived that routes attach to.
    pub(super) fn publish_parents(&mut self) {
        for object in std::mem::take(&mut self.parents.recount) {
            let Some((generation, mut status)) = self.parents.drafts.get(&object).cloned() else { continue };
            self.parents.count(&object, &mut status);
            self.publish(object, generation, Some(status));
        }
    }
}

/// A ListenerSet of a Gateway of ours.
struct Set<'a> {
    name: &'a ObjectName,
    set: &'a Arc<ListenerSet>,
    reading: Reading<'a>,
}

fn read_all<'a>(reading: &mut Reading<'_>, written: &'a [GatewayListeners], whole: &Whole) -> Vec<Candidate<'a>> {
    let mut names = BTreeSet::new();
    let mut candidates = Vec::new();
    for (index, listener) in written.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        if names.insert(listener.name.as_str()) {
            candidates.push(listener::read(reading, listener, field, &whole.frontend));
        } else {
            let problem = format!("there are two listeners named `{}`; the first is served", listener.name);
            reading.error("DuplicateListener", format!("{field}.name"), problem, "give it another name");
        }
    }
    candidates
}

/// Gives a listener its sockets, unless an older Gateway has something else there.
fn open(
    reading: &mut Reading<'_>,
    open: &mut Open,
    candidate: &mut Candidate<'_>,
    gateway: &ObjectName,
    whole: &Whole,
    assigned: &Assigned,
) {
    let (Some(spoken), Some(port)) = (candidate.spoken, values::port(candidate.written.port)) else { return };
    if !candidate.accepted() {
        return;
    }
    if let Some((_, why)) = &whole.refused {
        candidate.unserved = Some(("Pending", why.clone()));
        return;
    }
    let field = candidate.field.clone();
    let Some(binds) = listener::binds(spoken, port, &assigned.sockets) else {
        let (spoken, write) = if port == 80 { ("HTTP", "HTTP") } else { ("HTTPS and TLS", "HTTPS or TLS") };
        let problem = format!("port {port} is served at the address for {spoken}");
        let fix = format!("write protocol: {write}, another port, or give Gateways addresses of their own");
        reading.error("ProtocolConflict", format!("{field}.protocol"), &*problem, &fix);
        candidate.refused = Some(("PortUnavailable", problem));
        return;
    };
    if binds.is_empty() {
        candidate.unserved = Some(("Pending", "the Gateway has no address".to_owned()));
    }
    for bind in binds {
        if let Err(Refusal { reason, told, problem, fix }) = admit(open, candidate, bind, gateway, spoken) {
            let field = if told == "ProtocolConflict" { format!("{field}.protocol") } else { field.clone() };
            reading.error(told, field, &*problem, fix);
            candidate.refused = Some((reason, problem));
            continue;
        }
        candidate.listener.binds.push(bind);
    }
    if !candidate.listener.binds.is_empty() {
        candidate.refused = None;
    }
}

/// Says of a listener that its sockets could not be opened. Gives back the addresses that are none of this machine's.
fn unopened(reading: &mut Reading<'_>, candidate: &mut Candidate<'_>, unopened: &Unopened) -> BTreeSet<IpAddr> {
    let binds = &candidate.listener.binds;
    let lacking: Vec<_> = binds.iter().filter_map(|bind| Some((*bind, unopened.get(bind)?))).collect();
    let (mut without, mut ports) = (BTreeSet::new(), Vec::new());
    for (bind, why) in &lacking {
        match bind {
            Bind::Address(address) | Bind::UdpAddress(address) if why.no_address => _ = without.insert(address.ip()),
            _ => ports.push(why.problem.as_str()),
        }
    }
    let problem = ports.join("; ");
    if !ports.is_empty() {
        let fix = "use another port, or free this one; it is tried again every second";
        reading.error("PortUnavailable", format!("{}.port", candidate.field), &*problem, fix);
    }
    if lacking.is_empty() || lacking.len() < binds.len() {
        return without;
    }
    if ports.is_empty() {
        candidate.unserved.get_or_insert(("Pending", lacking[0].1.problem.clone()));
    } else {
        candidate.refused.get_or_insert(("PortUnavailable", problem));
    }
    without
}

/// Why a listener does not get a socket.
struct Refusal {
    /// For the status.
    reason: &'static str,
    /// For the verdict.
    told: &'static str,
    problem: String,
    fix: &'static str,
}

/// Adds a listener to a socket. Gateways share sockets for HTTP with HTTP, and for HTTPS with HTTPS; others belong to the
/// oldest alone.
fn admit(
    open: &mut Open,
    candidate: &Candidate<'_>,
    bind: Bind,
    gateway: &ObjectName,
    spoken: Spoken,
) -> Result<(), Refusal> {
    let refuse = |reason, told, problem| Refusal { reason, told, problem, fix: "use another port" };
    let protocol = spoken.protocol();
    let https = spoken == Spoken::Https;
    let alone = !matches!(spoken, Spoken::Http | Spoken::Https);
    // Ingresses are there, too: their clients know of no certificates, and their hosts are not to be taken from them.
    if bind == Bind::Https && candidate.clients.is_some() {
        let problem = "clients must show certificates, but the port is shared with Ingresses".to_owned();
        return Err(refuse("UnsupportedValue", "UnsupportedValue", problem));
    }
    if bind == Bind::Https && alone {
        return Err(Refusal {
            reason: "PortUnavailable",
            told: "ProtocolConflict",
            problem: "the port is shared with Ingresses, so TLS streams are not served there".to_owned(),
            fix: "give the Gateway an address of its own or use another port",
        });
    }
    if let Some(socket) = open.get(&bind) {
        let by = socket.owners.first().filter(|owner| *owner != gateway);
        if socket.protocol != protocol {
            let by = by.unwrap_or(gateway);
            let problem = format!("{bind} speaks another protocol in Gateway {by}, which is older");
            return Err(refuse("PortUnavailable", "ProtocolConflict", problem));
        }
        if let Some(by) = by
            && (alone || socket.alone)
        {
            let problem = format!("{bind} belongs to Gateway {by}, which is older; only HTTP and HTTPS share ports");
            return Err(refuse("PortUnavailable", "PortUnavailable", problem));
        }
        if let Some(by) = by
            && socket.clients.as_ref().is_some_and(|clients| https && *clients != candidate.clients)
        {
            let problem = format!("clients must show other certificates, or none, in Gateway {by}, which is older");
            return Err(refuse("UnsupportedValue", "UnsupportedValue", problem));
        }
    }
    let socket = open.entry(bind).or_insert_with(|| Socket {
        protocol,
        owners: Vec::new(),
        hostnames: BTreeSet::new(),
        clients: None,
        alone: false,
    });
    socket.alone |= alone;
    if !socket.owners.contains(gateway) {
        socket.owners.push(gateway.clone());
    }
    socket.hostnames.insert(candidate.listener.hostname.clone());
    if https {
        socket.clients.get_or_insert_with(|| candidate.clients.clone());
    }
    Ok(())
}
