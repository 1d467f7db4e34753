//! Reads everything that has a status, page by page, for who begins to lead.

use serde_json::Value;
use tokio::sync::mpsc;

use super::remote::{Kind, Refusal, Remote, STATUS_KINDS};
use super::status::Live;
use super::view::pause;
use crate::model::ObjectName;

/// Objects per page.
const PAGE: usize = 500;

/// What a page of a listing said.
pub enum Read {
    /// Some objects of a kind.
    Page(&'static Kind, Vec<(ObjectName, Live)>),
    /// All kinds were read.
    End,
}

/// Reads all objects that have a status, page by page.
pub async fn list(remote: Remote, namespaces: Vec<String>, pages: mpsc::Sender<Read>) {
    let all = [String::new()];
    for kind in &STATUS_KINDS {
        let places = if kind.namespaced && !namespaces.is_empty() { &namespaces[..] } else { &all };
        for namespace in places {
            let mut token = String::new();
            let mut failures = 0;
            loop {
                let path = format!("{}?limit={PAGE}&continue={token}", kind.list(namespace));
                let mut page = match remote.read(&path).await {
                    Ok(page) => page,
                    Err(Refusal::Away(_)) => {
                        failures += 1;
                        tokio::time::sleep(pause(failures, fastrand::f64())).await;
                        continue;
                    }
                    // A token that is too old: from the beginning. Kinds that do not exist or may not be read: without.
                    Err(Refusal::Invalid(_)) if !token.is_empty() => {
                        token.clear();
                        continue;
                    }
                    Err(_) => break,
                };
                token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let objects = page["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
                let named = |object: Value| {
                    let metadata = &object["metadata"];
                    (ObjectName::new(text(&metadata["namespace"]), text(&metadata["name"])), Live::read(object))
                };
                if pages.send(Read::Page(kind, objects.into_iter().map(named).collect())).await.is_err() {
                    return;
                }
                if token.is_empty() {
                    break;
                }
            }
        }
    }
    // Nobody listens any more when somebody else leads.
    let _ = pages.send(Read::End).await;
}
