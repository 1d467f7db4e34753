//! One address and all that is known about it while it lives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::model;
use crate::telemetry::stats::Series;

/// A live endpoint. Lives on for as long as a request or a pooled connection uses it, also when it has left its set.
#[derive(Debug)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
    /// Name of the pod, if it is one.
    pub pod: Option<Arc<str>>,
    /// Attempts in flight over all workers.
    pub in_flight: AtomicU32,
    /// Statistics; its slot also indexes a worker's pools.
    pub series: Series,
}

/// The endpoints of a color at one moment.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Every endpoint with its condition, sorted by address.
    pub members: Vec<(Arc<Endpoint>, model::Condition)>,
}

impl Endpoint {
    /// An endpoint that nothing is known about yet.
    pub fn new(address: SocketAddr, pod: Option<Arc<str>>, series: Series) -> Self {
        Self { address, pod, in_flight: AtomicU32::new(0), series }
    }
}

impl EndpointSet {
    /// A set of endpoints, sorted by address, under a backend's policy. `previous` is the set that it replaces, `None` at
    /// first sight; `now` is nanoseconds of the process clock.
    pub fn new(
        members: Vec<(Arc<Endpoint>, model::Condition)>,
        _previous: Option<&EndpointSet>,
        _desired: &model::Backend,
        _now: u64,
    ) -> Self {
        Self { members }
    }
}
