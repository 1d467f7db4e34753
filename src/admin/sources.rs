//! What the admin server shows, as functions: it imports no room of the control or data plane.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::model::ObjectName;
use crate::telemetry::gauges::Gauges;
use crate::telemetry::metrics::Facts;
use crate::telemetry::stats::Registry;

/// A question that is answered with JSON.
pub type Ask = Box<dyn Fn() -> Value + Send + Sync>;

/// A question about one object; `None`: it is not known.
pub type Lookup = Box<dyn Fn(&ObjectName) -> Option<Value> + Send + Sync>;

/// A question about a request; `Err`: it makes no sense, in words for its author.
pub type Explain = Box<dyn Fn(&Question) -> Result<Value, String> + Send + Sync>;

/// A change of one object; the answer is what was changed.
pub type Act = Arc<dyn Fn(&ObjectName, &CutoverAction) -> Result<Value, ActionError> + Send + Sync>;

/// Where answers come from. Filled once by the composition root; called on the admin thread, one at a time, and therefore to
/// be quick: read a swapped cell or a short lock, never wait for the world.
pub struct Sources {
    /// Statistics.
    pub registry: Arc<Registry>,
    /// Workers' counters.
    pub gauges: Arc<Gauges>,
    /// What else `/metrics` shows.
    pub facts: Box<dyn Fn() -> Facts + Send + Sync>,
    /// Whether traffic may come.
    pub readiness: Box<dyn Fn() -> Readiness + Send + Sync>,
    /// The settings, secrets redacted, with the origin of each value.
    pub settings: Ask,
    /// Listeners, hosts and routes of the snapshot.
    pub routes: Ask,
    /// Backends with their colors and endpoints.
    pub backends: Ask,
    /// Findings about objects.
    pub verdicts: Ask,
    /// All cutovers, running and past.
    pub cutovers: Ask,
    /// The cutover state of one Service; `None`: it has no colors.
    pub cutover: Lookup,
    /// What would serve this request and why.
    pub explain: Explain,
    /// Asks for a cutover of a Service (by its annotation). May take its time: it is called on a thread for blocking work.
    pub act: Act,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Sources that know the statistics and nothing else; for filling in what there is.
    pub fn new(registry: Arc<Registry>, gauges: Arc<Gauges>) -> Self {
        let nothing = || -> Ask { Box::new(|| Value::Null) };
        Self {
            registry,
            gauges,
            facts: Box::new(Facts::default),
            readiness: Box::new(|| Readiness::NotReady("starting".into())),
            settings: nothing(),
            routes: nothing(),
            backends: nothing(),
            verdicts: nothing(),
            cutovers: nothing(),
            cutover: Box::new(|_| None),
            explain: Box::new(|_| Err("there is no configuration yet".to_owned())),
            act: Arc::new(|_, _| Err(ActionError::Unavailable("there is no provider that takes changes".to_owned()))),
        }
    }
}

/// Whether traffic may come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// No, and why: `no full load yet`, `draining`.
    NotReady(Arc<str>),
}

/// A request, or a connection that is none, that is asked about, not made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The method; `GET` unless said otherwise.
    pub method: String,
    /// An absolute URL; `tcp://HOST:PORT`, `tls://NAME:PORT` and `udp://HOST:PORT` are for what is no request.
    pub url: String,
    /// Header fields, names as given.
    pub headers: Vec<(String, String)>,
    /// The address that the client connects to, where Gateways have addresses of their own.
    pub at: Option<IpAddr>,
}

/// What a build server may ask of a cutover.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutoverAction {
    /// Make this color the active one: `{"to":"green"}`.
    To(Arc<str>),
    /// Stop before traffic moves, or go on: `{"hold":true}`.
    Hold(bool),
    /// Abort, or roll back: `{"abort":"reason"}`.
    Abort(Arc<str>),
    /// Try an attempt again that failed: `{"retry":"reason"}`.
    Retry(Arc<str>),
}

/// Why a change was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ActionError {
    /// There is no such Service, or it has no colors.
    #[error("{0}")]
    NotFound(String),
    /// The change makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The object cannot be changed now, or not from here.
    #[error("{0}")]
    Unavailable(String),
}
