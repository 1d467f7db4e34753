//! One write of one status: what is there is read, unless it is known, compared with what is to be said, and applied.

use k8s_openapi::jiff::{Timestamp, Unit};
use serde_json::json;

use super::remote::{Kind, Refusal, Remote, STATUS_KINDS};
use super::status::{self, Live};
use crate::model::{ObjectName, ObjectStatus};

/// A write that went well.
pub struct Written {
    /// Value of the metric label.
    pub label: &'static str,
    /// Of the object whose status it was.
    pub uid: Option<String>,
}

impl From<&'static str> for Written {
    fn from(label: &'static str) -> Self {
        Self { label, uid: None }
    }
}

/// Writes one status, if it is not so already.
pub async fn write(
    remote: &Remote,
    kind: &Kind,
    name: &ObjectName,
    wanted: Option<&ObjectStatus>,
    live: Option<Live>,
) -> Result<Written, Refusal> {
    let ObjectName { namespace, name } = name;
    let path = kind.path(namespace, name);
    let live = match live {
        Some(live) => live,
        None => Live::read(remote.read(&path).await?),
    };
    let Some(status) = status::plan(kind, &live, wanted, &now()) else {
        return Ok(Written { label: "unchanged", uid: Some(live.uid) });
    };
    let mut metadata = json!({"name": name});
    if kind.namespaced {
        metadata["namespace"] = json!(namespace);
    }
    // An object of the same name that was made meanwhile is another one.
    metadata["uid"] = json!(live.uid);
    if status::is_shared(kind) {
        metadata["resourceVersion"] = json!(live.version);
    }
    let body = json!({"apiVersion": kind.api_version(), "kind": kind.name, "metadata": metadata, "status": status});
    remote.apply(&format!("{path}/status"), &body).await?;
    Ok(Written { label: "written", uid: Some(live.uid) })
}

/// Whether a write may go by what a watch has seen: it is refused if the object is another one by then.
pub fn may_be_written_unread(kind: &str) -> bool {
    STATUS_KINDS.iter().any(|it| it.name == kind && status::is_shared(it))
}

/// RFC 3339 in whole seconds, as conditions have it.
pub fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}
