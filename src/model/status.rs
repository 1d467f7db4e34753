//! What is written into the statuses of objects, as the Gateway API defines them, without times.
//!
//! Translation says what holds of the objects as it has seen them; whoever writes it to an API server adds since when.

use std::net::IpAddr;
use std::sync::Arc;

use super::{ObjectRef, Shards};

/// What is said of every object whose status is Weir's to write. Objects of other controllers are not in it.
pub type Statuses = Shards<ObjectRef, Arc<ObjectStatus>>;

/// What is said of one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObjectStatus {
    /// `metadata.generation` of the object that was read.
    pub generation: i64,
    /// What is said.
    pub status: Status,
}

impl ObjectStatus {
    /// Whether nothing differs but how many routes and ListenerSets are attached.
    pub fn differs_in_counts_only(&self, other: &Self) -> bool {
        let same_listeners = |one: &[ListenerStatus], two: &[ListenerStatus]| {
            one.len() == two.len()
                && one.iter().zip(two).all(|(one, two)| {
                    let ListenerStatus { name, kinds, attached: _, conditions } = one;
                    *name == two.name && *kinds == two.kinds && *conditions == two.conditions
                })
        };
        self.generation == other.generation
            && match (&self.status, &other.status) {
                (
                    Status::Gateway { conditions, addresses, listeners, attached_sets: _, infrastructure },
                    Status::Gateway {
                        conditions: other_conditions,
                        addresses: other_addresses,
                        listeners: other_listeners,
                        attached_sets: _,
                        infrastructure: other_infrastructure,
                    },
                ) => {
                    conditions == other_conditions
                        && addresses == other_addresses
                        && infrastructure == other_infrastructure
                        && same_listeners(listeners, other_listeners)
                }
                (
                    Status::ListenerSet { conditions, listeners },
                    Status::ListenerSet { conditions: other_conditions, listeners: other_listeners },
                ) => conditions == other_conditions && same_listeners(listeners, other_listeners),
                _ => false,
            }
    }
}

/// A status by kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// Of a GatewayClass.
    Class {
        /// `Accepted`.
        conditions: Vec<Claim>,
        /// `supportedFeatures`, sorted.
        features: &'static [&'static str],
    },
    /// Of a Gateway.
    Gateway {
        /// `Accepted`, `Programmed`, and others.
        conditions: Vec<Claim>,
        /// Where it is served.
        addresses: Vec<GatewayAddress>,
        /// One for each listener of its spec, in that order.
        listeners: Vec<ListenerStatus>,
        /// ListenerSets that are attached.
        attached_sets: u32,
        /// `spec.infrastructure`, for objects made for the Gateway.
        infrastructure: Infrastructure,
    },
    /// Of a ListenerSet.
    ListenerSet {
        /// `Accepted` and `Programmed`.
        conditions: Vec<Claim>,
        /// One for each listener of its spec, in that order.
        listeners: Vec<ListenerStatus>,
    },
    /// Of an HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute.
    Route {
        /// One for each parent that is a Gateway (or ListenerSet) of ours.
        parents: Vec<ParentStatus>,
    },
    /// Of a BackendTLSPolicy.
    Policy {
        /// One for each Gateway of ours whose traffic it concerns.
        ancestors: Vec<ParentStatus>,
    },
    /// Of an Ingress.
    Ingress {
        /// Where it is served.
        addresses: Vec<GatewayAddress>,
    },
}

/// A condition, without its time and generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its type: `Accepted`, `Programmed`, `ResolvedRefs`, ….
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// A CamelCase reason.
    pub reason: &'static str,
    /// For the owner; may be empty.
    pub message: String,
}

/// An address at which something is served.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GatewayAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A host name.
    Host(Arc<str>),
}

/// What is said of one listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Kinds of routes that may attach.
    pub kinds: Vec<RouteKind>,
    /// How many are attached.
    pub attached: u32,
    /// `Accepted`, `Programmed`, `ResolvedRefs`, `Conflicted`.
    pub conditions: Vec<Claim>,
}

/// A kind of routes, all in the group `gateway.networking.k8s.io`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RouteKind {
    /// HTTPRoute.
    Http,
    /// GRPCRoute.
    Grpc,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute.
    Udp,
}

impl RouteKind {
    /// As written in manifests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }
}

/// What an object names as its parent, as it is written there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ParentRef {
    /// `group`.
    pub group: Option<Arc<str>>,
    /// `kind`.
    pub kind: Option<Arc<str>>,
    /// `namespace`.
    pub namespace: Option<Arc<str>>,
    /// `name`.
    pub name: Arc<str>,
    /// `sectionName`.
    pub section: Option<Arc<str>>,
    /// `port`.
    pub port: Option<i32>,
}

/// What is said of an object in view of one parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentStatus {
    /// The parent.
    pub parent: ParentRef,
    /// `Accepted`, `ResolvedRefs`, and others.
    pub conditions: Vec<Claim>,
}

/// `spec.infrastructure` of a Gateway.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Infrastructure {
    /// Labels, sorted by key.
    pub labels: Vec<(String, String)>,
    /// Annotations, sorted by key.
    pub annotations: Vec<(String, String)>,
}
