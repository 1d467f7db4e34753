//! What changed between the objects of the last time and those of now.
//!
//! An object that did not change is the same `Arc`, and listings share what they have in common: of two listings of ten
//! thousand only the parts that changed are compared.

use std::sync::Arc;

use super::reading::Dep;
use super::service::{same_shape, service_of};
use super::{Item, Objects, Translator};
use crate::model::{ObjectName, RouteKind, Shards};

/// One difference: the name, what was there, what is there.
type Difference<T> = (ObjectName, Option<Arc<T>>, Option<Arc<T>>);

/// Brings `old` up to `new` and says how they differed.
fn catch_up<T>(old: &mut Shards<ObjectName, Arc<T>>, new: &Shards<ObjectName, Arc<T>>) -> Vec<Difference<T>> {
    let before = std::mem::replace(old, new.clone());
    let differences = before.differences(new, Arc::ptr_eq).into_iter();
    differences.map(|it| (it.key.clone(), it.old.cloned(), it.new.cloned())).collect()
}

impl Translator {
    /// Marks what must be derived again.
    pub(super) fn notice_changes(&mut self, objects: &Objects) {
        self.notice_endpoints(objects);
        for (name, before, now) in catch_up(&mut self.seen.services, &objects.services) {
            let same = before.as_ref().zip(now.as_ref()).is_some_and(|(before, now)| same_shape(before, now));
            if !same {
                self.stir(&Dep::ServiceShape(name.clone()));
            }
            self.stir(&Dep::Service(name.clone()));
            self.dirty.insert(Item::Service(name));
        }
        for (name, ..) in catch_up(&mut self.seen.secrets, &objects.secrets) {
            self.stir(&Dep::Secret(name));
        }
        for (name, ..) in catch_up(&mut self.seen.config_maps, &objects.config_maps) {
            self.stir(&Dep::ConfigMap(name));
        }
        for (name, ..) in catch_up(&mut self.seen.reference_grants, &objects.reference_grants) {
            self.stir(&Dep::Grants(name.namespace));
        }
        if !catch_up(&mut self.seen.ingress_classes, &objects.ingress_classes).is_empty() {
            self.stir(&Dep::IngressClasses);
        }
        if !catch_up(&mut self.seen.gateway_classes, &objects.gateway_classes).is_empty() {
            self.classes_changed = true;
            self.dirty.extend(objects.gateways.keys().cloned().map(Item::Gateway));
        }
        for (name, ..) in catch_up(&mut self.seen.namespaces, &objects.namespaces) {
            self.stir(&Dep::Namespace(name.name));
        }
        for (name, ..) in catch_up(&mut self.seen.listener_sets, &objects.listener_sets) {
            self.dirty.insert(Item::ListenerSet(name));
        }
        for (name, ..) in catch_up(&mut self.seen.gateways, &objects.gateways) {
            self.dirty.insert(Item::Gateway(name));
        }
        for (name, ..) in catch_up(&mut self.seen.backend_tls_policies, &objects.backend_tls_policies) {
            self.dirty.insert(Item::Policy(name));
        }
        for (name, ..) in catch_up(&mut self.seen.ingresses, &objects.ingresses) {
            self.dirty.insert(Item::Ingress(name));
        }
        for (name, ..) in catch_up(&mut self.seen.http_routes, &objects.http_routes) {
            self.dirty.insert(Item::Route(RouteKind::Http, name));
        }
        for (name, ..) in catch_up(&mut self.seen.grpc_routes, &objects.grpc_routes) {
            self.dirty.insert(Item::Route(RouteKind::Grpc, name));
        }
        for (name, ..) in catch_up(&mut self.seen.tls_routes, &objects.tls_routes) {
            self.dirty.insert(Item::Route(RouteKind::Tls, name));
        }
        for (name, ..) in catch_up(&mut self.seen.tcp_routes, &objects.tcp_routes) {
            self.dirty.insert(Item::Route(RouteKind::Tcp, name));
        }
        for (name, ..) in catch_up(&mut self.seen.udp_routes, &objects.udp_routes) {
            self.dirty.insert(Item::Route(RouteKind::Udp, name));
        }
    }

    /// The same for what the short path looks at.
    pub(super) fn notice_endpoints(&mut self, objects: &Objects) {
        for (name, before, now) in catch_up(&mut self.seen.endpoint_slices, &objects.endpoint_slices) {
            let (before, now) = (before.as_deref().and_then(service_of), now.as_deref().and_then(service_of));
            if let Some(service) = &before
                && before != now
                && let Some(slices) = self.slices.get_mut(service)
            {
                slices.remove(&name);
                if slices.is_empty() {
                    self.slices.remove(service);
                }
            }
            if let Some(service) = &now {
                self.slices.entry(service.clone()).or_default().insert(name);
            }
            for service in [before, now].into_iter().flatten() {
                self.stir(&Dep::Endpoints(service));
            }
        }
        for (name, ..) in catch_up(&mut self.seen.endpoints, &objects.endpoints) {
            self.stir(&Dep::Endpoints(name));
        }
    }
}
