//! Exact statistics, sharded per worker.
//!
//! Every worker owns one [`Shard`] and adds to it without locks or shared atomics; every 100 ms it publishes its raw sums;
//! a reader adds the published sums of all workers and evaluates them with one time.
//!
//! Invariants: a count and its sums are published together or not at all; a [`Slot`] of a series that has died never
//! counts for the series that got its place. Written by workers (their own shard), read by `/metrics`, the admin API and
//! the autoscaler through [`Registry::totals`].

mod flow;
pub mod histogram;
mod history;
mod shard;
mod slots;
mod totals;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

pub use flow::{Flow, Little};
pub use histogram::Distribution;
pub use history::{Activity, History, Window};
pub use shard::Shard;
pub use slots::{Series, Slot};
pub use totals::{ColorTotals, EndpointTotals, RouteTotals, Totals};

use shard::Published;
use slots::Table;

/// Names a series of requests to a color of a Service's port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ColorLabels {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// The Service.
    pub service: Arc<str>,
    /// The port of the Service.
    pub port: u16,
    /// The color; empty without colors.
    pub color: Arc<str>,
}

/// Names a series of attempts at an endpoint.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EndpointLabels {
    /// The color that the endpoint belongs to.
    pub color: ColorLabels,
    /// Its address.
    pub address: SocketAddr,
}

/// Names a series of requests through a route to a color.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RouteLabels {
    /// The route.
    pub route: Arc<str>,
    /// Where it led.
    pub color: ColorLabels,
}

/// Result of a finished request or attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Status 2xx (and 101).
    Success,
    /// 3xx.
    Redirect,
    /// 4xx.
    ClientError,
    /// 5xx from the endpoint.
    ServerError,
    /// No connection.
    Connect,
    /// Broken off by the endpoint.
    Reset,
    /// Not in time.
    Timeout,
    /// The client went away.
    ClientAbort,
}

impl Class {
    /// Every class, in the order of counters.
    pub const ALL: [Class; 8] = [
        Class::Success,
        Class::Redirect,
        Class::ClientError,
        Class::ServerError,
        Class::Connect,
        Class::Reset,
        Class::Timeout,
        Class::ClientAbort,
    ];

    /// As it stands in the admin API and in metrics.
    pub const fn text(self) -> &'static str {
        match self {
            Class::Success => "2xx",
            Class::Redirect => "3xx",
            Class::ClientError => "4xx",
            Class::ServerError => "5xx",
            Class::Connect => "connect",
            Class::Reset => "reset",
            Class::Timeout => "timeout",
            Class::ClientAbort => "client_abort",
        }
    }
}

/// Values of the label `code_class`, by a status' first digit; `none`: no status could be sent.
pub const CODE_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When it started, nanoseconds of the process clock.
    pub started: u64,
    /// When its response head had arrived, if it did.
    pub first_byte: Option<u64>,
    /// When it was over.
    pub ended: u64,
    /// How it went.
    pub class: Class,
    /// The status sent to the client; 0 if none.
    pub status: u16,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
}

/// Where series come from and where shards are read.
#[derive(Debug)]
pub struct Registry {
    reasons: &'static [&'static str],
    colors: Mutex<Table<ColorLabels>>,
    endpoints: Mutex<Table<EndpointLabels>>,
    routes: Mutex<Table<RouteLabels>>,
    /// One per worker. Held for the time of a copy, by its worker or by a reader.
    published: Box<[Mutex<Published>]>,
}

impl Registry {
    /// For this many workers. `reasons` are the codes that [`Shard::fault`] counts, by index.
    pub fn new(workers: usize, reasons: &'static [&'static str]) -> Arc<Self> {
        Arc::new(Self {
            reasons,
            colors: Mutex::default(),
            endpoints: Mutex::default(),
            routes: Mutex::default(),
            published: (0..workers).map(|_| Mutex::new(Published::new(reasons.len()))).collect(),
        })
    }

    /// The shard of one worker; to be called once for each. Workers are numbered from 0.
    pub fn shard(self: &Arc<Self>, worker: usize) -> Shard {
        assert!(worker < self.published.len(), "worker {worker} of {}", self.published.len());
        Shard::new(self.clone(), worker, self.reasons.len())
    }

    /// A series for requests to one color. The same labels share one place as long as one of them lives.
    pub fn color(self: &Arc<Self>, labels: ColorLabels) -> Series {
        slots::shared(self, |registry| &registry.colors, labels)
    }

    /// A series for attempts at one endpoint. Every call makes a new place, because workers keep connections by it.
    pub fn endpoint(self: &Arc<Self>, labels: ColorLabels, address: SocketAddr) -> Series {
        slots::own(self, |registry| &registry.endpoints, EndpointLabels { color: labels, address })
    }

    /// A series for requests through one route to one color (`weir_requests_total`). The same labels share one place as
    /// long as one of them lives.
    pub fn route(self: &Arc<Self>, route: Arc<str>, labels: ColorLabels) -> Series {
        slots::shared(self, |registry| &registry.routes, RouteLabels { route, color: labels })
    }
}

#[cfg(test)]
mod tests;
