//! What is written into statuses, from what the owners are told (Gateway API, conditions of each kind).

use super::reading::Reading;
use crate::model::{Claim, ParentStatus, Severity, Status};

/// Reasons of verdicts about references of a route, and what the Gateway API calls them. The first that applies is shown.
const REFERENCES: [(&str, &str); 6] = [
    ("InvalidKind", "InvalidKind"),
    ("RefNotPermitted", "RefNotPermitted"),
    ("BackendNotFound", "BackendNotFound"),
    ("PortNotFound", "BackendNotFound"),
    ("UnsupportedProtocol", "UnsupportedProtocol"),
    ("BackendNotTrusted", "UnsupportedValue"),
];

/// A condition that holds, with the reason of the same name that the API has for it.
pub(super) fn holds(kind: &'static str) -> Claim {
    Claim { kind, holds: true, reason: kind, message: String::new() }
}

/// The status of a route of any kind: `parents` as [`super::attach::attach`] left them, and whether the references that the
/// route's owner was told about are good. To be called when everything of the route has been read.
pub(super) fn route(reading: &Reading<'_>, mut parents: Vec<ParentStatus>) -> Option<Status> {
    if parents.is_empty() {
        return None;
    }
    let wrong = REFERENCES.iter().find_map(|(told, reason)| {
        let about = |it: &&crate::model::Verdict| {
            it.reason == *told && it.severity == Severity::Error && it.object == reading.source
        };
        reading.verdicts.iter().find(about).map(|verdict| (verdict, *reason))
    });
    let resolved = match wrong {
        None => holds("ResolvedRefs"),
        Some((verdict, reason)) => {
            let message = format!("{}: {}", verdict.field, verdict.problem);
            Claim { kind: "ResolvedRefs", holds: false, reason, message }
        }
    };
    for parent in &mut parents {
        parent.conditions.push(resolved.clone());
    }
    Some(Status::Route { parents })
}
