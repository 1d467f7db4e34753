//! Colors of a Service: which there are, which one is wanted, and how a switch goes.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use super::ObjectName;

/// The desired colors of one Service, read from its annotations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ColorSwitch {
    /// The Service that routes name.
    pub service: ObjectName,
    /// Colors in written order with their child Services; 2 to 8.
    pub colors: Vec<(Arc<str>, ObjectName)>,
    /// `weir.dev/active`; `None`: the annotation is absent (first color listed at first sight, later: no change).
    /// May name an unknown color: the machine rejects that and keeps what is effective.
    pub active: Option<Arc<str>>,
    /// `weir.dev/preview`.
    pub preview: Option<Preview>,
    /// How a switch goes.
    pub policy: CutoverPolicy,
    /// The object's resourceVersion (or a hash of the annotations, from a folder): what latches a failed attempt.
    pub version: Arc<str>,
    /// A bad `weir.dev/colors`, policy key or the like: reason code and text. With a problem, what is effective stays.
    pub problem: Option<(Arc<str>, Arc<str>)>,
    /// `weir.dev/cutover.hold` is set: stop before traffic moves.
    pub hold: bool,
    /// Value of `weir.dev/cutover.abort`: any new value aborts or rolls back.
    pub abort: Option<Arc<str>>,
    /// Value of `weir.dev/cutover.retry`: any new value retries a latched attempt.
    pub retry: Option<Arc<str>>,
}

/// How a client asks for a color that is not effective yet. At least one is set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Preview {
    /// Header whose value is a color (lower-case name).
    pub header: Option<Arc<str>>,
    /// Cookie whose value is a color.
    pub cookie: Option<Arc<str>>,
    /// Host at which the color that is not effective is served (lower-case).
    pub host: Option<Arc<str>>,
    /// Who may (`weir.dev/preview-from`); empty: everyone.
    pub from: Vec<IpNet>,
}

/// How a switch goes; keys of `weir.dev/cutover.<key>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CutoverPolicy {
    /// Ready endpoints needed.
    pub min_ready: MinReady,
    /// Path probed on every endpoint by `GET`; `None`: a TCP connect.
    pub health_path: Option<Arc<str>>,
    /// Between two probes of one endpoint.
    pub health_interval: Duration,
    /// Of one probe.
    pub health_timeout: Duration,
    /// Successes in a row on every endpoint.
    pub health_successes: u32,
    /// How long warming and verifying may take together.
    pub warm_timeout: Duration,
    /// Connections opened to each endpoint per worker before the commit; `None` is `auto`: min(4, what the old
    /// color has open per endpoint).
    pub prewarm_connections: Option<u32>,
    /// What happens to streams on the old color.
    pub long_lived: LongLived,
    /// How long they have.
    pub drain_timeout: Duration,
}

impl Default for CutoverPolicy {
    fn default() -> Self {
        Self {
            min_ready: MinReady::Percent(100),
            health_path: None,
            health_interval: Duration::from_secs(1),
            health_timeout: Duration::from_secs(1),
            health_successes: 3,
            warm_timeout: Duration::from_secs(600),
            prewarm_connections: None,
            long_lived: LongLived::Drain,
            drain_timeout: Duration::from_secs(300),
        }
    }
}

/// How many ready endpoints the new color needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum MinReady {
    /// Of the effective color's ready count, rounded up, at least 1.
    Percent(u32),
    /// This many.
    Count(u32),
}

impl MinReady {
    /// Endpoints needed when the effective color has `effective` ready ones; at least 1.
    pub fn needed(self, effective: usize) -> usize {
        match self {
            Self::Percent(percent) => (effective * percent as usize).div_ceil(100).max(1),
            Self::Count(count) => (count as usize).max(1),
        }
    }
}

/// What happens to upgraded connections and to streams open for more than 10 s on the old color.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LongLived {
    /// They stay until their natural end.
    Keep,
    /// They are ended one by one, spread over the drain timeout.
    Drain,
    /// They are ended 5 s after the commit.
    Close,
}
