//! The objects that Weir understands, as a provider last saw them.
//!
//! Each is behind an `Arc`: an object that did not change keeps its identity, and whatever was derived from it is reused.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRoute as HTTPRoute;
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy as BackendTLSPolicy;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::grpcroutes::GrpcRoute as GRPCRoute;
use gateway_api::apis::standard::listenersets::ListenerSet;
use gateway_api::apis::standard::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::tlsroutes::TlsRoute as TLSRoute;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::stream_objects::{TCPRoute, UDPRoute};
use crate::model::{ObjectName, ObjectRef, Shards};

macro_rules! kinds {
    ($($(#[$doc:meta])* $field:ident: $kind:ident,)*) => {
        /// All objects, by kind and name.
        #[derive(Clone, Debug, Default)]
        pub struct Objects {
            $($(#[$doc])* pub $field: Shards<ObjectName, Arc<$kind>>,)*
            /// The names of `reference_grants` by namespace: each reference across namespaces asks for those of one.
            granting: Shards<Arc<str>, BTreeSet<Arc<str>>>,
        }

        /// One object of a kind that Weir understands.
        #[derive(Clone, Debug)]
        #[expect(missing_docs, reason = "the variants are the kinds")]
        pub enum Object { $($kind(Arc<$kind>),)* }

        impl Object {
            /// The kinds, as written in manifests.
            pub const KINDS: &'static [&'static str] = &[$(stringify!($kind),)*];

            /// Kind and name.
            pub fn reference(&self) -> ObjectRef {
                match self {
                    $(Object::$kind(object) => ObjectRef::new(stringify!($kind), name_of(&object.metadata)),)*
                }
            }
        }

        impl Objects {
            /// Applies one change. Says whether something was there before (for `Remove`) or is there now.
            pub fn apply(&mut self, change: Change) -> bool {
                self.note_grant(&change);
                match change {
                    $(Change::Put(Object::$kind(object)) => {
                        self.$field.insert(name_of(&object.metadata), object);
                        true
                    })*
                    Change::Remove(reference) => match reference.kind {
                        $(stringify!($kind) => self.$field.remove(&reference.name).is_some(),)*
                        _ => false,
                    },
                }
            }
        }
    };
}

kinds! {
    /// Services.
    services: Service,
    /// EndpointSlices.
    endpoint_slices: EndpointSlice,
    /// Endpoints, for Services that have no EndpointSlice.
    endpoints: Endpoints,
    /// Secrets of type `kubernetes.io/tls` and `Opaque`.
    secrets: Secret,
    /// ConfigMaps.
    config_maps: ConfigMap,
    /// Ingresses.
    ingresses: Ingress,
    /// IngressClasses (no namespace).
    ingress_classes: IngressClass,
    /// GatewayClasses (no namespace).
    gateway_classes: GatewayClass,
    /// Gateways.
    gateways: Gateway,
    /// HTTPRoutes.
    http_routes: HTTPRoute,
    /// GRPCRoutes.
    grpc_routes: GRPCRoute,
    /// TLSRoutes.
    tls_routes: TLSRoute,
    /// TCPRoutes.
    tcp_routes: TCPRoute,
    /// UDPRoutes.
    udp_routes: UDPRoute,
    /// ListenerSets.
    listener_sets: ListenerSet,
    /// BackendTLSPolicies.
    backend_tls_policies: BackendTLSPolicy,
    /// ReferenceGrants.
    reference_grants: ReferenceGrant,
    /// Namespaces (no namespace), for their labels.
    namespaces: Namespace,
}

impl Objects {
    /// The ReferenceGrants of a namespace.
    pub(super) fn grants_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<ReferenceGrant>> {
        let names = self.granting.get(namespace).into_iter().flatten();
        names.filter_map(|name| self.reference_grants.get(&ObjectName::new(namespace.clone(), name.clone())))
    }

    fn note_grant(&mut self, change: &Change) {
        match change {
            Change::Put(Object::ReferenceGrant(grant)) => {
                let ObjectName { namespace, name } = name_of(&grant.metadata);
                match self.granting.get_mut(&namespace) {
                    Some(names) => {
                        names.insert(name);
                    }
                    None => {
                        self.granting.insert(namespace, BTreeSet::from([name]));
                    }
                }
            }
            Change::Remove(ObjectRef { kind: "ReferenceGrant", name: ObjectName { namespace, name } }) => {
                let Some(names) = self.granting.get_mut(namespace) else { return };
                names.remove(name);
                if names.is_empty() {
                    self.granting.remove(namespace);
                }
            }
            _ => {}
        }
    }
}

/// A change to one object. Of several changes to one object only the last matters.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is new or different.
    Put(Object),
    /// The object is gone.
    Remove(ObjectRef),
}

/// Namespace and name from an object's metadata, as the provider has completed them.
pub fn name_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectName {
    ObjectName::new(metadata.namespace.as_deref().unwrap_or(""), metadata.name.as_deref().unwrap_or(""))
}
