//! Exact statistics, sharded per worker.
//!
//! Every worker owns one [`Shard`] and adds to it without locks or shared atomics; every 100 ms it publishes its raw sums;
//! a reader adds the published sums of all workers and evaluates them with one time.

use std::sync::Arc;

/// Where a series lives in every worker's shard. Slots are reused; `epoch` tells a reused one from its predecessor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    index: u32,
    epoch: u32,
}

impl Slot {
    /// A small number, unique among the slots of one kind that are alive; for indexing a worker's own tables.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Changes when the index is used for something else.
    pub fn epoch(self) -> u32 {
        self.epoch
    }
}

/// A series that is alive; dropping it gives its slot back.
#[derive(Debug)]
pub struct Series {
    slot: Slot,
}

impl Series {
    /// Its place.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

/// Names a series of requests to a color of a Service's port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
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
pub struct Registry {}

impl Registry {
    /// For this many workers. `reasons` are the codes that [`Shard::fault`] counts, by index.
    pub fn new(_workers: usize, _reasons: &'static [&'static str]) -> Arc<Self> {
        Arc::new(Self {})
    }

    /// The shard of one worker; to be called once for each.
    pub fn shard(self: &Arc<Self>, _worker: usize) -> Shard {
        Shard {}
    }

    /// A series for requests to one color.
    pub fn color(self: &Arc<Self>, _labels: ColorLabels) -> Series {
        Series { slot: Slot { index: 0, epoch: 0 } }
    }

    /// A series for attempts at one endpoint.
    pub fn endpoint(self: &Arc<Self>, _labels: ColorLabels, _address: std::net::SocketAddr) -> Series {
        Series { slot: Slot { index: 0, epoch: 0 } }
    }

    /// A series for requests through one route to one color (`weir_requests_total`).
    pub fn route(self: &Arc<Self>, _route: Arc<str>, _labels: ColorLabels) -> Series {
        Series { slot: Slot { index: 0, epoch: 0 } }
    }
}

/// One worker's counters. All times are nanoseconds of the process clock.
#[derive(Debug)]
pub struct Shard {}

impl Shard {
    /// A request was given to a color.
    pub fn started(&mut self, _color: Slot, _now: u64) {}

    /// It is over. To be called exactly once for every [`Shard::started`].
    pub fn finished(&mut self, _color: Slot, _route: Slot, _outcome: &Outcome) {}

    /// An attempt at an endpoint began.
    pub fn attempt_started(&mut self, _endpoint: Slot, _now: u64) {}

    /// It is over. To be called exactly once for every [`Shard::attempt_started`].
    pub fn attempt_finished(&mut self, _endpoint: Slot, _started: u64, _now: u64, _failed: bool) {}

    /// A request waited this long (nanoseconds) for a place or a connection.
    pub fn queued(&mut self, _color: Slot, _from: u64, _until: u64) {}

    /// Weir answered by itself, or a response failed, for the reason with this index.
    pub fn fault(&mut self, _reason: usize) {}

    /// Makes everything so far visible to readers, unless a reader is copying right now (then next time).
    pub fn publish(&mut self, _now: u64) {}
}
