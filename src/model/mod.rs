//! The nouns: what is routed where, independent of who said so.
//!
//! A provider's objects are *translated* into a [`Model`]; the model is *compiled* into the snapshot that requests read.
//! Everything here is plain data: no clocks, no sockets, no Kubernetes. Parts that rarely change together are behind
//! `Arc`, so that an unchanged part keeps its identity from one model to the next and is not compiled again.

mod backend;
mod color;
mod listener;
mod name;
mod route;
mod shards;
mod sockets;
mod status;
mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use backend::{
    Access, Backend, BackendKey, BackendLimits, Balance, ColorEndpoints, Condition, Endpoint, EndpointSource, HashKey,
    HealthCheck, OutlierPolicy, SubjectAltName, UpstreamProtocol, UpstreamTls,
};
pub use color::{ColorSwitch, CutoverPolicy, LongLived, MinReady, Preview};
pub use listener::{Bind, Certificate, CertificateBinding, ClientCertificates, Entry, Protocol, Stream, StreamMode};
pub use name::{ANNOTATION_DOMAIN, HostPattern, Labels, ObjectName, ObjectRef};
pub use route::{
    Cors, Filter, HeaderEdit, Mirror, PathEdit, PathMatch, Rank, Redirect, Rewrite, Route, RouteMatch, RouteRetry,
    RouteTimeouts, Rule, Target, ValueMatch, ValueTest, WeightedBackend,
};
pub use shards::{Difference, Shards};
pub use sockets::{Obstacle, SocketNews, Unopened};
pub use status::{
    Claim, GatewayAddress, Infrastructure, ListenerStatus, ObjectStatus, ParentRef, ParentStatus, RouteKind, Status,
    Statuses,
};
pub use verdict::{Severity, Verdict};

/// The whole desired state of the data plane.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// One entry per socket (or pair of sockets of one purpose) that traffic arrives at.
    pub entries: BTreeMap<Bind, Entry>,
    /// Every backend that a route names, by key.
    pub backends: Shards<BackendKey, Arc<Backend>>,
    /// Every Service with colors, by name of the Service that routes name.
    pub switches: BTreeMap<ObjectName, Arc<ColorSwitch>>,
}
