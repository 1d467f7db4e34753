//! What must hold before traffic moves: pure questions about what was observed, each answered with what is missing.
//!
//! Asked by the machine on every step; the answers are what `waitingFor` shows. A gate that needs more than one process
//! (capacity, a gate URL, the view of other replicas) is one more question here.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{CutoverPolicy, MinReady};

use super::receipt::StreamCounts;

/// What is known about the colors of a Service at one moment.
#[derive(Clone, Default, Debug)]
pub struct Observation {
    /// Every color that requests could be sent to. Empty: no route uses the Service yet.
    pub colors: BTreeMap<Arc<str>, ColorView>,
    /// The color that the pointer points at.
    pub effective: Option<Arc<str>>,
}

impl Observation {
    /// Usable endpoints of a color; 0 for one that is not there.
    pub fn ready(&self, color: &str) -> usize {
        self.colors.get(color).map_or(0, |view| view.ready)
    }
}

/// One color at one moment. Counters only grow for as long as the color lives.
#[derive(Clone, Default, Debug)]
pub struct ColorView {
    /// Endpoints that a request could be sent to now; of several ports the least.
    pub ready: usize,
    /// Endpoints listed.
    pub total: usize,
    /// Why there can be none: `ChildMissing …`, `PortMismatch …`.
    pub missing: Option<Arc<str>>,
    /// Requests and streams that have not ended.
    pub in_flight: u64,
    /// Long-lived streams among them.
    pub streams: u64,
    /// How long-lived streams ended.
    pub ended: StreamCounts,
    /// Requests finished.
    pub requests: u64,
    /// Requests answered with `no_endpoints`.
    pub dropped: u64,
    /// When a response last ended, nanoseconds of the process clock.
    pub last_response: Option<u64>,
    /// The probes; `None` while none run.
    pub probes: Option<Probes>,
    /// Every worker has opened its connections.
    pub prewarmed: bool,
}

/// Results of probing every usable endpoint.
#[derive(Clone, Default, Debug)]
pub struct Probes {
    /// Endpoints with enough successes in a row.
    pub passed: usize,
    /// Endpoints probed.
    pub of: usize,
    /// What one of the others said last.
    pub failure: Option<Arc<str>>,
}

/// What an attempt waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// CamelCase: `NotEnoughReady`, `ProbesFailing`, `Held`, ….
    pub reason: Arc<str>,
    /// The reason with its facts: `NotEnoughReady 2/5`.
    pub text: String,
}

impl Waiting {
    /// Waiting for this.
    pub fn new(reason: &str, text: impl Into<String>) -> Self {
        Self { reason: reason.into(), text: text.into() }
    }
}

/// Whether `color` has as many usable endpoints as are needed beside `effective` ready ones.
pub fn ready(min: MinReady, view: Option<&ColorView>, effective: usize) -> Result<(), Waiting> {
    let needed = min.needed(effective);
    let Some(view) = view else {
        return Err(Waiting::new("ChildMissing", "ChildMissing: no endpoints are known for this color"));
    };
    if view.ready >= needed {
        return Ok(());
    }
    if let Some(why) = &view.missing {
        let reason = why.split([' ', ':']).next().unwrap_or("ChildMissing");
        return Err(Waiting::new(reason, &**why));
    }
    Err(Waiting::new("NotEnoughReady", format!("NotEnoughReady {}/{needed}", view.ready)))
}

/// Whether every usable endpoint has passed its probes.
pub fn verified(policy: &CutoverPolicy, view: &ColorView) -> Result<(), Waiting> {
    let Some(probes) = &view.probes else {
        return Err(Waiting::new("ProbesRunning", "ProbesRunning: not started yet"));
    };
    // The probed set follows the usable set one observation later; until then a new endpoint has not passed.
    if probes.of >= view.ready && probes.passed == probes.of {
        return Ok(());
    }
    let how = match &policy.health_path {
        Some(path) => format!("GET {path}"),
        None => "TCP connect".to_owned(),
    };
    let of = probes.of.max(view.ready);
    Err(match &probes.failure {
        Some(failure) => {
            Waiting::new("ProbesFailing", format!("ProbesFailing {}/{of} ({how}: {failure})", probes.passed))
        }
        None => Waiting::new("ProbesRunning", format!("ProbesRunning {}/{of} ({how})", probes.passed)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ready: usize) -> ColorView {
        ColorView { ready, total: ready, ..ColorView::default() }
    }

    #[test]
    fn readiness_says_how_many_are_missing_and_why() {
        assert_eq!(ready(MinReady::Percent(100), Some(&view(5)), 5), Ok(()));
        assert_eq!(ready(MinReady::Percent(100), Some(&view(2)), 5).unwrap_err().text, "NotEnoughReady 2/5");
        assert_eq!(ready(MinReady::Percent(50), Some(&view(2)), 5).unwrap_err().text, "NotEnoughReady 2/3");
        assert_eq!(ready(MinReady::Percent(100), Some(&view(0)), 0).unwrap_err().text, "NotEnoughReady 0/1");
        assert_eq!(ready(MinReady::Count(0), Some(&view(0)), 9).unwrap_err().text, "NotEnoughReady 0/1");
        let missing = ColorView { missing: Some("PortMismatch: shop/web-v2 has no port 80".into()), ..view(0) };
        let waiting = ready(MinReady::Count(1), Some(&missing), 1).unwrap_err();
        assert_eq!((&*waiting.reason, &*waiting.text), ("PortMismatch", "PortMismatch: shop/web-v2 has no port 80"));
        assert_eq!(&*ready(MinReady::Count(1), None, 1).unwrap_err().reason, "ChildMissing");
    }

    #[test]
    fn every_usable_endpoint_must_pass_also_one_that_arrived_just_now() {
        let policy = CutoverPolicy { health_path: Some("/healthz".into()), ..CutoverPolicy::default() };
        let probed = |ready, passed, of, failure: Option<&str>| ColorView {
            probes: Some(Probes { passed, of, failure: failure.map(Into::into) }),
            ..view(ready)
        };
        assert_eq!(verified(&policy, &probed(2, 2, 2, None)), Ok(()));
        assert_eq!(&*verified(&policy, &view(2)).unwrap_err().reason, "ProbesRunning");
        assert_eq!(verified(&policy, &probed(3, 2, 2, None)).unwrap_err().text, "ProbesRunning 2/3 (GET /healthz)");
        let waiting = verified(&policy, &probed(2, 1, 2, Some("status 500"))).unwrap_err();
        assert_eq!(waiting.text, "ProbesFailing 1/2 (GET /healthz: status 500)");
    }
}
