//! Leaves of an object what Weir reads. Pure.
//!
//! A cluster's objects carry more about their own history than about what they mean: who wrote which field, the text that
//! was last applied, statuses. None of it is kept, and nothing is a change that changes only such things.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRoute as HTTPRoute;
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy as BackendTLSPolicy;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::{Gateway, GatewayStatus};
use gateway_api::apis::standard::grpcroutes::GrpcRoute as GRPCRoute;
use gateway_api::apis::standard::listenersets::ListenerSet;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute as TLSRoute;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Secret, Service, ServiceSpec, ServiceStatus};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DeserializeGuard, NamespaceResourceScope, Resource};

use super::infrastructure;
use super::service::WRITTEN;
use super::view::Seen;
use crate::control::translate::Object;
use crate::control::translate::stream_objects::{TCPRoute, UDPRoute};
use crate::model::{ObjectName, ObjectRef};

/// The label of an EndpointSlice that names its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Annotations that speak of other annotations or of tools, and are often the larger half of an object.
const NOISE: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision"];
/// What is read of a Secret of type `kubernetes.io/tls`.
const TLS_KEYS: [&str; 3] = ["tls.crt", "tls.key", CA];
/// What is read of other Secrets and of ConfigMaps.
const CA: &str = "ca.crt";

/// A kind that is watched.
pub trait Watched {
    /// Its name in manifests.
    const KIND: &'static str;

    /// What is left of an object.
    fn strip(self) -> Seen;

    /// Whether it is known that nobody has said anything in its status.
    fn is_without_status(&self) -> bool {
        false
    }

    /// The object's name.
    fn reference(metadata: &ObjectMeta) -> ObjectRef {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        ObjectRef::new(Self::KIND, ObjectName::new(text(&metadata.namespace), text(&metadata.name)))
    }
}

/// What no kind needs.
fn metadata(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    metadata.resource_version = None;
    metadata.self_link = None;
    metadata.owner_references = None;
    metadata.finalizers = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    metadata.generate_name = None;
    if let Some(annotations) = &mut metadata.annotations {
        let noise = |key: &str| NOISE.contains(&key) || WRITTEN.contains(&key) || key == infrastructure::WRITTEN;
        annotations.retain(|key, _| !noise(key));
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
}

/// For kinds of which only the content counts.
fn name_only(all: &mut ObjectMeta) {
    *all = ObjectMeta { name: all.name.take(), namespace: all.namespace.take(), ..ObjectMeta::default() };
}

impl Watched for Service {
    const KIND: &'static str = "Service";

    fn strip(mut self) -> Seen {
        metadata(&mut self.metadata);
        // Where a load balancer is found: it may lead to Weir.
        let leads = self.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
        let balancer = self.status.take().and_then(|status| status.load_balancer).filter(|_| leads);
        let balancer = balancer.filter(|balancer| balancer.ingress.as_ref().is_some_and(|points| !points.is_empty()));
        self.status = balancer.map(|it| ServiceStatus { load_balancer: Some(it), ..ServiceStatus::default() });
        if let Some(spec) = &mut self.spec {
            *spec = ServiceSpec {
                type_: spec.type_.take(),
                cluster_ip: spec.cluster_ip.take(),
                external_name: spec.external_name.take(),
                ports: spec.ports.take(),
                publish_not_ready_addresses: spec.publish_not_ready_addresses.take(),
                selector: spec.selector.take(),
                session_affinity: spec.session_affinity.take(),
                ..ServiceSpec::default()
            };
        }
        Seen::Used(Object::Service(Arc::new(self)))
    }
}

impl Watched for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";

    fn strip(mut self) -> Seen {
        let labels = self.metadata.labels.take().and_then(|mut labels| labels.remove_entry(SERVICE));
        let Some((label, service)) = labels else {
            return Seen::Unused(Self::reference(&self.metadata));
        };
        name_only(&mut self.metadata);
        self.metadata.labels = Some(BTreeMap::from([(label, service)]));
        for endpoint in self.endpoints.iter_mut().flatten() {
            endpoint.deprecated_topology = None;
            endpoint.hints = None;
            endpoint.node_name = None;
            endpoint.hostname = None;
            endpoint.target_ref = endpoint.target_ref.take().map(|target| ObjectReference {
                kind: target.kind,
                name: target.name,
                ..ObjectReference::default()
            });
        }
        Seen::Used(Object::EndpointSlice(Arc::new(self)))
    }
}

impl Watched for Secret {
    const KIND: &'static str = "Secret";

    fn strip(mut self) -> Seen {
        name_only(&mut self.metadata);
        self.string_data = None;
        self.immutable = None;
        let wanted: &[&str] = if self.type_.as_deref() == Some("kubernetes.io/tls") { &TLS_KEYS } else { &[CA] };
        if let Some(data) = &mut self.data {
            data.retain(|key, _| wanted.contains(&key.as_str()));
        }
        // A Secret for TLS is kept without its keys, too, so that it can be said what is missing.
        if wanted.len() == 1 && self.data.as_ref().is_none_or(BTreeMap::is_empty) {
            return Seen::Unused(Self::reference(&self.metadata));
        }
        Seen::Used(Object::Secret(Arc::new(self)))
    }
}

impl Watched for ConfigMap {
    const KIND: &'static str = "ConfigMap";

    fn strip(mut self) -> Seen {
        name_only(&mut self.metadata);
        self.immutable = None;
        let text = self.data.as_mut().and_then(|data| data.remove_entry(CA));
        let binary = self.binary_data.as_mut().and_then(|data| data.remove_entry(CA));
        if text.is_none() && binary.is_none() {
            return Seen::Unused(Self::reference(&self.metadata));
        }
        self.data = text.map(|entry| BTreeMap::from([entry]));
        self.binary_data = binary.map(|entry| BTreeMap::from([entry]));
        Seen::Used(Object::ConfigMap(Arc::new(self)))
    }
}

impl Watched for Ingress {
    const KIND: &'static str = "Ingress";

    fn strip(mut self) -> Seen {
        metadata(&mut self.metadata);
        self.status = None;
        Seen::Used(Object::Ingress(Arc::new(self)))
    }
}

impl Watched for IngressClass {
    const KIND: &'static str = "IngressClass";

    fn strip(mut self) -> Seen {
        metadata(&mut self.metadata);
        Seen::Used(Object::IngressClass(Arc::new(self)))
    }
}

impl Watched for Namespace {
    const KIND: &'static str = "Namespace";

    fn strip(mut self) -> Seen {
        let labels = self.metadata.labels.take();
        name_only(&mut self.metadata);
        self.metadata.labels = labels;
        self.spec = None;
        self.status = None;
        Seen::Used(Object::Namespace(Arc::new(self)))
    }
}

/// Kinds whose types are Weir's own.
macro_rules! resources {
    ($($kind:ident $plural:literal)*) => {
        $(impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "gateway.networking.k8s.io".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        })*
    };
}

resources! {
    TCPRoute "tcproutes"
    UDPRoute "udproutes"
}

/// Kinds whose definition may be of another version than the one that Weir knows: one object that cannot be read must not
/// hide the others.
macro_rules! guarded {
    ($($kind:ident { $($status:ident $(= $kept:expr)?)? })*) => {
        $(impl Watched for DeserializeGuard<$kind> {
            const KIND: &'static str = stringify!($kind);

            $(fn is_without_status(&self) -> bool {
                self.0.as_ref().is_ok_and(|object| object.$status.is_none())
            })?

            fn strip(self) -> Seen {
                match self.0 {
                    Ok(mut object) => {
                        metadata(&mut object.metadata);
                        $(object.$status = guarded!(@kept object.$status $(, $kept)?);)?
                        Seen::Used(Object::$kind(Arc::new(object)))
                    }
                    Err(invalid) => Seen::Bad(Self::reference(&invalid.metadata), invalid.error),
                }
            }
        })*
    };
    (@kept $status:expr) => { None };
    (@kept $status:expr, $kept:expr) => { $status.take().and_then($kept) };
}

/// A Gateway's addresses are what it keeps.
fn addresses(status: GatewayStatus) -> Option<GatewayStatus> {
    let addresses = status.addresses.filter(|addresses| !addresses.is_empty())?;
    Some(GatewayStatus { addresses: Some(addresses), ..GatewayStatus::default() })
}

guarded! {
    GatewayClass { status }
    Gateway { status = addresses }
    HTTPRoute { status }
    GRPCRoute { status }
    TLSRoute { status }
    TCPRoute {}
    UDPRoute {}
    ListenerSet { status }
    BackendTLSPolicy { status }
    ReferenceGrant {}
}
