//! What an Ingress or a route comes to, and its place among what the others come to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::reading::{Dep, Reading};
use super::rivals::Wishes;
use super::service::Known;
use super::{Item, Objects, Translator, generation_of, grpc_route, http_route, ingress, reference_of, stream_route};
use crate::model::{
    BackendKey, Bind, CertificateBinding, HostPattern, ObjectName, ObjectRef, Route, RouteKind, Status, Stream,
};

/// What an Ingress or HTTPRoute comes to.
#[derive(Default)]
pub(super) struct Part {
    /// Age of the object, as in a rank.
    pub created: i64,
    pub routes: Vec<(Bind, HostPattern, Arc<Route>)>,
    pub streams: Vec<(Bind, Stream)>,
    pub backends: BTreeSet<BackendKey>,
    /// Gateways at which it is served.
    pub gateways: BTreeSet<ObjectName>,
    /// Each of them with each of the Services that its rules name.
    pub ways: BTreeSet<(ObjectName, ObjectName)>,
    pub certificates: Vec<(Bind, CertificateBinding)>,
    /// What is written into the object's status; `None` when it is not ours to write.
    pub status: Option<Status>,
    /// Listeners that a route is attached to.
    pub attached: BTreeSet<(ObjectRef, Arc<str>)>,
    /// The hosts that it asks for there.
    pub wishes: Wishes,
}

impl Translator {
    /// Ingresses and routes.
    pub(super) fn derive_routes(&mut self, objects: &Objects) {
        let items = self.take(|item| matches!(item, Item::Ingress(_) | Item::Route(..)).then(|| item.clone()));
        for item in items {
            let local_endpoints = self.options.local_endpoints;
            let known = Known { plans: &self.plans, policies: &self.policies, local_endpoints };
            let gateways = &self.parents.gateways;
            let derived = match &item {
                Item::Ingress(name) => objects.ingresses.get(name).map(|ingress| {
                    let mut reading = Reading::new(ObjectRef::new("Ingress", name.clone()), objects);
                    let certificates = &mut self.certificates;
                    let part = ingress::ingress(&mut reading, &self.options, known, certificates, ingress);
                    (part, reading)
                }),
                Item::Route(RouteKind::Http, name) => objects.http_routes.get(name).map(|route| {
                    let mut reading = Reading::new(ObjectRef::new("HTTPRoute", name.clone()), objects);
                    reading.lost = self.rivals.lost(RouteKind::Http, name);
                    (http_route::http_route(&mut reading, gateways, known, route), reading)
                }),
                Item::Route(RouteKind::Grpc, name) => objects.grpc_routes.get(name).map(|route| {
                    let mut reading = Reading::new(ObjectRef::new("GRPCRoute", name.clone()), objects);
                    reading.lost = self.rivals.lost(RouteKind::Grpc, name);
                    (grpc_route::grpc_route(&mut reading, gateways, known, route), reading)
                }),
                Item::Route(RouteKind::Tls, name) => objects.tls_routes.get(name).map(|route| {
                    let mut reading = Reading::new(ObjectRef::new("TLSRoute", name.clone()), objects);
                    (stream_route::tls_route(&mut reading, gateways, known, route), reading)
                }),
                Item::Route(RouteKind::Tcp, name) => objects.tcp_routes.get(name).map(|route| {
                    let mut reading = Reading::new(ObjectRef::new("TCPRoute", name.clone()), objects);
                    let spec = &route.spec;
                    (
                        stream_route::plain_route(&mut reading, gateways, known, RouteKind::Tcp, &route.metadata, spec),
                        reading,
                    )
                }),
                Item::Route(RouteKind::Udp, name) => objects.udp_routes.get(name).map(|route| {
                    let mut reading = Reading::new(ObjectRef::new("UDPRoute", name.clone()), objects);
                    let spec = &route.spec;
                    (
                        stream_route::plain_route(&mut reading, gateways, known, RouteKind::Udp, &route.metadata, spec),
                        reading,
                    )
                }),
                _ => None,
            };
            let before = self.parts.remove(&item).unwrap_or_default();
            let Some((mut part, mut reading)) = derived else {
                self.forget(&item);
                if let Some(reference) = reference_of(&item) {
                    self.statuses.remove(&reference);
                }
                self.exchange(&item, before, &Part::default());
                continue;
            };
            part.attached = std::mem::take(&mut reading.attached);
            part.wishes = std::mem::take(&mut reading.wishes);
            self.publish(reading.source.clone(), generation_of(objects, &item), part.status.take());
            part.ways = ways(&part.gateways, &reading.deps);
            let part = keep_identity(&before, part);
            self.remember(item.clone(), reading);
            self.exchange(&item, before, &part);
            self.parts.insert(item, part);
        }
    }

    /// Puts a part in the place of what was derived before it.
    fn exchange(&mut self, item: &Item, before: Part, part: &Part) {
        self.hosts.exchange(&before.routes, &part.routes);
        self.streams.exchange((before.created, &before.streams), (part.created, &part.streams));
        self.policies.count(&before.ways, &part.ways);
        self.parents.exchange(&before.attached, &part.attached);
        if let Item::Route(kind, name) = item {
            self.rivals.exchange(*kind, name, (before.created, &before.wishes), (part.created, &part.wishes));
        }
        if matches!(item, Item::Ingress(_)) {
            self.ingresses += usize::from(!part.routes.is_empty());
            self.ingresses -= usize::from(!before.routes.is_empty());
        }
        for key in &part.backends {
            let uses = self.uses.entry(key.clone()).or_default();
            *uses += 1;
            if *uses == 1 {
                self.dirty.insert(Item::Backend(key.clone()));
            }
        }
        for key in &before.backends {
            if let Some(uses) = self.uses.get_mut(key) {
                *uses -= 1;
                self.dirty.insert(Item::Backend(key.clone()));
            }
        }
        if before.created == part.created && same_bindings(&before.certificates, &part.certificates) {
            return;
        }
        if !before.certificates.is_empty() {
            self.bindings.remove(&(before.created, item.clone()));
            self.bindings_changed = true;
        }
        if !part.certificates.is_empty() {
            self.bindings.insert((part.created, item.clone()), part.certificates.clone());
            self.bindings_changed = true;
        }
    }
}

/// Each Gateway with each Service that was looked at for a route.
fn ways(gateways: &BTreeSet<ObjectName>, read: &[Dep]) -> BTreeSet<(ObjectName, ObjectName)> {
    let services = read.iter().filter_map(|dep| if let Dep::ServiceShape(name) = dep { Some(name) } else { None });
    let pairs = services.flat_map(|service| gateways.iter().map(|gateway| (gateway.clone(), service.clone())));
    pairs.collect()
}

/// Whether two lists say the same by the very same certificates.
fn same_bindings(one: &[(Bind, CertificateBinding)], two: &[(Bind, CertificateBinding)]) -> bool {
    let same = |one: &CertificateBinding, two: &CertificateBinding| {
        one.host == two.host && Arc::ptr_eq(&one.certificate, &two.certificate)
    };
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| one.0 == two.0 && same(&one.1, &two.1))
}

/// Lets routes that came out as before be the very same, so that they are not compiled again.
fn keep_identity(before: &Part, mut part: Part) -> Part {
    for (new, old) in part.routes.iter_mut().zip(&before.routes) {
        if *new.2 == *old.2 {
            new.2 = old.2.clone();
        }
    }
    for (new, old) in part.streams.iter_mut().zip(&before.streams) {
        if *new.1.rule == *old.1.rule {
            new.1.rule = old.1.rule.clone();
        }
    }
    part
}
