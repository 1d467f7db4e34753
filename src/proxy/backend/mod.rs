//! Where requests go, at run time: live endpoints, their health, and who is picked.
//!
//! Written by the control plane (endpoint sets, the effective color), by workers (load, latency, failures) and by the
//! health checker; read by every worker. All shared facts are atomics or swapped cells: a worker never waits.

pub mod balance;
pub mod breaker;
pub mod connect;
pub mod endpoint;
pub mod health;
pub mod outlier;
pub mod pool;
pub mod prewarm;
pub mod streams;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustls::pki_types::CertificateDer;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::model::{self, BackendKey, Balance, ObjectName, OutlierPolicy, Preview};
use crate::telemetry::stats::Series;

pub use breaker::{Load, Permit, RetryBudget};
pub use endpoint::{Endpoint, EndpointSet};
pub use prewarm::{Prewarm, PrewarmOrder};
pub use streams::{DrainOrder, End, StreamGuard, Streams};

/// A backend that requests are sent to. Kept as long as its key is; what changes with the configuration is rebuilt by
/// compile, what is live (endpoints, switch, counters) is carried over.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub key: BackendKey,
    /// What is desired of it.
    pub desired: Arc<model::Backend>,
    /// The colors, in the order of `desired.colors`; one with an empty name when the Service has none.
    pub colors: Box<[Arc<Color>]>,
    /// Which color is effective; shared by all ports of the Service.
    pub switch: Arc<Switch>,
    /// Requests in flight and pending over all workers, for the ceilings.
    pub load: Arc<Load>,
    /// How TLS is spoken to its endpoints; `None` when it is not, or when the desired roots cannot be used.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The same, for requests that only HTTP/1.1 can carry.
    pub tls_http1: Option<Arc<rustls::ClientConfig>>,
    /// Endpoints are verified by the host of the request: a connection that was opened for one host carries requests for
    /// another only if its certificate is for that one, too.
    pub verified_by_host: bool,
}

/// The endpoints of one color of one port.
#[derive(Debug)]
pub struct Color {
    /// Its name; empty without colors.
    pub name: Arc<str>,
    /// Identity of the color within [`Switch`].
    pub id: ColorId,
    /// The current endpoints. An endpoint change stores here and touches nothing else.
    pub endpoints: ArcSwap<EndpointSet>,
    /// Statistics of requests to this color and port.
    pub series: Series,
    /// Its long-lived streams.
    pub streams: Streams,
    /// Connections that workers are asked to open.
    pub prewarm: Prewarm,
    /// Whether a preview may choose this color while it is not effective; written by the cutover driver.
    pub preview_open: AtomicBool,
    retired: AtomicBool,
}

impl Color {
    /// Picks the endpoint for an attempt; `None`: the color has no endpoint that may be used. See [`EndpointSet::pick`].
    pub fn pick(
        &self,
        how: &Balance,
        hash: Option<u64>,
        tried: &[Arc<Endpoint>],
        rng: &mut fastrand::Rng,
        now: u64,
    ) -> Option<Arc<Endpoint>> {
        self.endpoints.load().pick(how, hash, tried, rng, now).map(Arc::clone)
    }

    /// Whether some ready endpoint that was not `tried` may be used.
    pub fn has_other(&self, tried: &[Arc<Endpoint>], now: u64) -> bool {
        let is_new = |endpoint: &Arc<Endpoint>| !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint));
        self.endpoints.load().ready_members().any(|endpoint| endpoint.is_usable(now) && is_new(endpoint))
    }

    /// Records a finished attempt; whether the endpoint was ejected for it. See [`outlier::observe`].
    pub fn record(&self, endpoint: &Endpoint, ok: bool, latency: u64, policy: &OutlierPolicy, now: u64) -> bool {
        outlier::observe(endpoint, ok, latency, policy, now)
            && outlier::eject(endpoint, &self.endpoints.load(), policy, now)
    }
}

/// Identity of a color name within one Service; never reused for another name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct ColorId(pub u32);

/// How clients may ask for a color that is not effective.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// By what, and who may.
    pub preview: Preview,
    /// The color that is wanted: what a client gets who does not name one.
    pub active: Option<Arc<str>>,
}

/// The pointer that a cutover flips: one per Service, over all its ports.
#[derive(Debug)]
pub struct Switch {
    /// The Service.
    pub service: ObjectName,
    /// How clients may ask for another color; written by the cutover driver.
    pub preview: ArcSwapOption<Offer>,
    effective: AtomicU32,
}

impl Switch {
    /// A switch that points at this color.
    pub fn new(service: ObjectName, effective: ColorId) -> Self {
        Self { service, preview: ArcSwapOption::empty(), effective: AtomicU32::new(effective.0) }
    }

    /// The color that requests without a preview go to.
    pub fn effective(&self) -> ColorId {
        ColorId(self.effective.load(Ordering::Acquire))
    }

    /// Points at another color: every request that is routed from now on goes there.
    pub fn flip(&self, to: ColorId) {
        self.effective.store(to.0, Ordering::Release);
    }
}

impl Color {
    /// A color without endpoints.
    pub fn new(name: Arc<str>, id: ColorId, series: Series) -> Self {
        Self {
            name,
            id,
            endpoints: ArcSwap::default(),
            series,
            streams: Streams::default(),
            prewarm: Prewarm::default(),
            preview_open: AtomicBool::new(false),
            retired: AtomicBool::new(false),
        }
    }

    /// Nothing leads here any more, and nobody keeps the endpoints up to date from now on. They stay as they are: requests of
    /// the snapshot before are still served.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether [`Color::retire`] was told.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

impl Backend {
    /// Ties live things to what is desired. `colors` stand in the order of `desired.colors`.
    pub fn new(desired: Arc<model::Backend>, colors: Box<[Arc<Color>]>, switch: Arc<Switch>, load: Arc<Load>) -> Self {
        let (mut tls, mut verified_by_host) = (None, false);
        if let model::UpstreamProtocol::Tls(wanted) = &desired.protocol {
            tls = crate::tls::client_config(wanted)
                .inspect_err(|error| tracing::warn!(backend = %desired.key, %error, "nothing is sent to this backend"))
                .ok();
            verified_by_host = (wanted.ca_pem.is_some() || wanted.system_roots)
                && wanted.server_name.is_none()
                && wanted.subject_alt_names.is_empty();
        }
        let tls_http1 = tls.as_deref().map(crate::tls::http1_only);
        Self { key: desired.key.clone(), desired, colors, switch, load, tls, tls_http1, verified_by_host }
    }

    /// Whether a connection with this certificate may carry a request for this host, which is asked for only if it counts.
    pub fn may_carry<'a>(&self, certificate: Option<&CertificateDer<'_>>, host: impl FnOnce() -> &'a str) -> bool {
        !self.verified_by_host || certificate.is_some_and(|certificate| crate::tls::is_for(certificate, host()))
    }

    /// The color that serves a request without a preview.
    pub fn effective(&self) -> Option<&Arc<Color>> {
        let id = self.switch.effective();
        self.colors.iter().find(|color| color.id == id).or(self.colors.first())
    }
}
