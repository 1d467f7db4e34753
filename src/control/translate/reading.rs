//! How one object is derived: what it read, so that it is derived again when that changes, and what its owner is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::listenersets::ListenerSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Objects;
use super::rivals::{Lost, Wishes};
use crate::model::{ObjectName, ObjectRef, Severity, Verdict};

/// Something that a derived part depends on beside its own object.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Dep {
    /// What routes see of a Service: that it exists, its ports, how it is verified.
    ServiceShape(ObjectName),
    /// Everything of a Service.
    Service(ObjectName),
    /// Its EndpointSlices and Endpoints.
    Endpoints(ObjectName),
    /// A Gateway's listeners.
    Gateway(ObjectName),
    /// A ListenerSet's listeners.
    ListenerSet(ObjectName),
    /// The labels of a namespace.
    Namespace(Arc<str>),
    /// A Secret.
    Secret(ObjectName),
    /// A ConfigMap.
    ConfigMap(ObjectName),
    /// The ReferenceGrants of a namespace.
    Grants(Arc<str>),
    /// All IngressClasses.
    IngressClasses,
    /// The BackendTLSPolicies for a Service.
    Policies(ObjectName),
}

/// The reading of one object.
pub(super) struct Reading<'a> {
    /// Whose turn it is.
    pub source: ObjectRef,
    /// The world.
    pub objects: &'a Objects,
    /// What was read.
    pub deps: Vec<Dep>,
    /// What was found.
    pub verdicts: Vec<Verdict>,
    /// Listeners that a route is attached to: the object that has them, and their names.
    pub attached: BTreeSet<(ObjectRef, Arc<str>)>,
    /// The hosts that an HTTPRoute or GRPCRoute asks for.
    pub wishes: Wishes,
    /// Which of them belong to others.
    pub lost: Lost,
}

impl<'a> Reading<'a> {
    pub fn new(source: ObjectRef, objects: &'a Objects) -> Self {
        Self {
            source,
            objects,
            deps: Vec::new(),
            verdicts: Vec::new(),
            attached: BTreeSet::new(),
            wishes: Wishes::new(),
            lost: Lost::new(),
        }
    }

    /// What becomes of the share of a backend that cannot be used.
    pub fn its_share(&self) -> &'static str {
        match self.source.kind {
            "TLSRoute" | "TCPRoute" => "its share of connections is closed",
            "UDPRoute" => "its share of sessions is dropped",
            _ => "its share is answered with 500",
        }
    }

    /// The namespace of the object.
    pub fn namespace(&self) -> Arc<str> {
        self.source.name.namespace.clone()
    }

    /// Looks a Service up as a route sees it.
    pub fn service_shape(&mut self, name: &ObjectName) -> Option<&'a Arc<Service>> {
        self.deps.push(Dep::ServiceShape(name.clone()));
        self.objects.services.get(name)
    }

    pub fn service(&mut self, name: &ObjectName) -> Option<&'a Arc<Service>> {
        self.deps.push(Dep::Service(name.clone()));
        self.objects.services.get(name)
    }

    pub fn gateway(&mut self, name: &ObjectName) -> Option<&'a Arc<Gateway>> {
        self.deps.push(Dep::Gateway(name.clone()));
        self.objects.gateways.get(name)
    }

    pub fn listener_set(&mut self, name: &ObjectName) -> Option<&'a Arc<ListenerSet>> {
        self.deps.push(Dep::ListenerSet(name.clone()));
        self.objects.listener_sets.get(name)
    }

    /// The labels of a namespace; `None` when there is no such object, as in most folders.
    pub fn namespace_labels(&mut self, name: &Arc<str>) -> Option<&'a BTreeMap<String, String>> {
        self.deps.push(Dep::Namespace(name.clone()));
        self.objects.namespaces.get(&ObjectName::new("", name.clone()))?.metadata.labels.as_ref()
    }

    pub fn secret(&mut self, name: &ObjectName) -> Option<&'a Arc<Secret>> {
        self.deps.push(Dep::Secret(name.clone()));
        self.objects.secrets.get(name)
    }

    pub fn config_map(&mut self, name: &ObjectName) -> Option<&'a Arc<ConfigMap>> {
        self.deps.push(Dep::ConfigMap(name.clone()));
        self.objects.config_maps.get(name)
    }

    /// This part of the object is not served.
    pub fn error(&mut self, reason: &'static str, field: impl Into<String>, problem: impl Into<String>, fix: &str) {
        self.tell(Severity::Error, reason, field.into(), problem.into(), fix);
    }

    /// This part of the object has no effect.
    pub fn warning(&mut self, reason: &'static str, field: impl Into<String>, problem: impl Into<String>, fix: &str) {
        self.tell(Severity::Warning, reason, field.into(), problem.into(), fix);
    }

    /// Nothing is wrong.
    pub fn note(&mut self, reason: &'static str, field: impl Into<String>, problem: impl Into<String>, fix: &str) {
        self.tell(Severity::Note, reason, field.into(), problem.into(), fix);
    }

    fn tell(&mut self, severity: Severity, reason: &'static str, field: String, problem: String, fix: &str) {
        let fix = fix.to_owned();
        self.verdicts.push(Verdict { object: self.source.clone(), severity, reason, field, problem, fix });
    }
}

/// Creation in seconds since the Unix epoch; objects without a time come last.
pub(super) fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
}

/// The value of an annotation.
pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
