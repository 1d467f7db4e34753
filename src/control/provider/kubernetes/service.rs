//! Annotations of Services with colors: what Weir writes there about a cutover, and what a user asks for through Weir.
//!
//! Both are merge patches of the named keys alone. Weir never writes `weir.dev/active` by itself.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::client;
use super::remote::{MANAGER, Refusal, Remote, SERVICE};
use crate::model::ObjectName;

const EFFECTIVE: &str = "weir.dev/effective";
const PHASE: &str = "weir.dev/phase";
const LAST: &str = "weir.dev/last-cutover";
/// Keys that are written about a cutover; they are no wish of the owner's.
pub const WRITTEN: [&str; 3] = [EFFECTIVE, PHASE, LAST];
/// Under this name the API server notes what a user asked for through Weir.
const USER: &str = "weir-cutover";

/// Where a Service with colors stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The color that is served.
    pub effective: Option<Arc<str>>,
    /// Name of the phase.
    pub phase: &'static str,
    /// The attempt that runs, else the last one: `checkout-7`. `None`: none since the process started.
    pub last: Option<String>,
}

/// What is to be changed of the annotations; empty: nothing. `None`: the Service has no colors any more.
pub fn plan(live: &Value, standing: Option<&Standing>) -> Map<String, Value> {
    let mut wanted: Vec<(&str, Option<&str>)> = Vec::new();
    match standing {
        None => wanted.extend(WRITTEN.map(|key| (key, None))),
        Some(standing) => {
            if let Some(effective) = &standing.effective {
                wanted.push((EFFECTIVE, Some(effective)));
            }
            // Who has just started does not know of the good end of the last attempt, which is true all the same.
            let resting = standing.phase == "Idle" && standing.last.is_none() && live[PHASE] == "Done";
            if !resting {
                wanted.push((PHASE, Some(standing.phase)));
            }
            if let Some(last) = &standing.last {
                wanted.push((LAST, Some(last)));
            }
        }
    }
    let differs = |(key, value): &(&str, Option<&str>)| live.get(*key).and_then(Value::as_str) != *value;
    wanted.into_iter().filter(differs).map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

/// Writes where a Service stands, if it does not say so already.
pub async fn write(remote: &Remote, name: &ObjectName, standing: Option<&Standing>) -> Result<&'static str, Refusal> {
    let path = SERVICE.path(&name.namespace, &name.name);
    let live = remote.read(&path).await?;
    let changes = plan(&live["metadata"]["annotations"], standing);
    if changes.is_empty() {
        return Ok("unchanged");
    }
    remote.merge(&path, MANAGER, &json!({"metadata": {"annotations": changes}})).await?;
    Ok("written")
}

/// What a user asks of a Service with colors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish {
    /// `weir.dev/active`.
    To(String),
    /// `weir.dev/cutover.hold`.
    Hold(bool),
    /// `weir.dev/cutover.abort`, with any new value.
    Abort(String),
    /// `weir.dev/cutover.retry`, with any new value.
    Retry(String),
}

impl Wish {
    /// The annotation, and its new value; `None`: it goes.
    pub fn annotation(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::To(color) => ("weir.dev/active", Some(color)),
            Self::Hold(true) => ("weir.dev/cutover.hold", Some("true")),
            Self::Hold(false) => ("weir.dev/cutover.hold", None),
            Self::Abort(value) => ("weir.dev/cutover.abort", Some(value)),
            Self::Retry(value) => ("weir.dev/cutover.retry", Some(value)),
        }
    }
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The annotation.
    pub key: &'static str,
    /// Its value of before.
    pub before: Option<String>,
    /// Its value now.
    pub now: Option<String>,
    /// Whether anything was written; it is not when it was so already.
    pub changed: bool,
}

/// Why nothing was changed on the API server. Every text says what would help.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such Service.
    #[error("Service {0} does not exist on the API server; see `kubectl get services --all-namespaces`")]
    NotFound(ObjectName),
    /// It has no colors.
    #[error(
        "Service {0} has no annotation weir.dev/colors; add one, for example weir.dev/colors: blue=web-v1,green=web-v2"
    )]
    NoColors(ObjectName),
    /// RBAC.
    #[error("{text}; whoever asks needs: {}", SERVICE.rule("", "get, patch"))]
    Forbidden {
        /// What the API server says.
        text: String,
    },
    /// The API server does not want it.
    #[error("the API server refuses it: {0}")]
    Refused(String),
    /// The API server is away.
    #[error("the API server cannot be asked: {0}")]
    Away(String),
    /// It is not known where it is.
    #[error(transparent)]
    Client(#[from] client::KubernetesError),
}

/// Changes one annotation of a Service with colors, as its owner would by hand. Blocks; not to be called where a runtime
/// runs.
///
/// # Errors
/// See [`AskError`].
pub fn ask(kubeconfig: Option<&Path>, service: &ObjectName, wish: &Wish) -> Result<Asked, AskError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(client::KubernetesError::System)?;
    runtime.block_on(async {
        let config = client::config(kubeconfig).await?;
        let server = config.cluster_url.to_string();
        let client = super::connect(config);
        let client = client.map_err(|problem| client::KubernetesError::Client { server, problem })?;
        let told = |refusal| match refusal {
            Refusal::Absent => AskError::NotFound(service.clone()),
            Refusal::Forbidden(text) => AskError::Forbidden { text },
            Refusal::Away(text) => AskError::Away(text),
            refusal => AskError::Refused(refusal.text().to_owned()),
        };
        let remote = Remote::new(client);
        let path = SERVICE.path(&service.namespace, &service.name);
        let live = remote.read(&path).await.map_err(told)?;
        let annotations = &live["metadata"]["annotations"];
        if ["weir.dev/colors", "weir.dev/color-label"].iter().all(|key| annotations.get(key).is_none()) {
            return Err(AskError::NoColors(service.clone()));
        }
        let (key, now) = wish.annotation();
        let before = annotations.get(key).and_then(Value::as_str).map(str::to_owned);
        let changed = before.as_deref() != now;
        if changed {
            let patch = json!({"metadata": {"annotations": {key: now}}});
            remote.merge(&path, USER, &patch).await.map_err(told)?;
        }
        Ok(Asked { key, before, now: now.map(str::to_owned), changed })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(phase: &'static str, last: Option<&str>) -> Standing {
        Standing { effective: Some("green".into()), phase, last: last.map(str::to_owned) }
    }

    #[test]
    fn only_what_differs_is_written() {
        let live = json!({"weir.dev/active": "green", EFFECTIVE: "blue", PHASE: "Idle"});
        let changes = plan(&live, Some(&standing("Done", Some("web-1"))));
        assert_eq!(Value::Object(changes), json!({EFFECTIVE: "green", PHASE: "Done", LAST: "web-1"}));
        let live = json!({EFFECTIVE: "green", PHASE: "Done", LAST: "web-1"});
        assert!(plan(&live, Some(&standing("Done", Some("web-1")))).is_empty());
        assert!(plan(&live, Some(&standing("Idle", None))).is_empty(), "a restart writes nothing");
        assert_eq!(plan(&live, Some(&standing("Idle", Some("web-2")))).len(), 2);
        assert_eq!(Value::Object(plan(&live, None)), json!({EFFECTIVE: null, PHASE: null, LAST: null}));
        assert!(plan(&Value::Null, None).is_empty());
    }
}
