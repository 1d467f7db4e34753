//! The host of `weir.dev/preview`: whatever routes lead to the Service elsewhere lead to it at that host too, so that the
//! owner of the annotation needs no second route.
//!
//! A host at which others than the Service's namespace serve something is theirs: an annotation must not be a way to take
//! requests from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::annotations;
use crate::model::{ColorSwitch, HostPattern, Model, ObjectName, ObjectRef, Route, Severity, Target, Verdict};

/// Adds the routes of every Service with a preview host at that host. A route that is written for the host stays, and
/// wins by its rank where both match alike. Of Services of several namespaces that ask for one host the first by name has
/// it. Gives back what the owners of the others are told.
pub(super) fn add(model: &mut Model) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut taken: BTreeMap<HostPattern, ObjectName> = BTreeMap::new();
    for switch in model.switches.values() {
        let Some(host) = switch.preview.as_ref().and_then(|preview| preview.host.clone()) else { continue };
        let host = HostPattern::Exact(host);
        let rival = match taken.get(&host) {
            Some(service) => {
                Some(ObjectRef::new("Service", service.clone())).filter(|it| is_foreign(it, &switch.service))
            }
            None => model.entries.values().find_map(|entry| {
                let written = entry.hosts.get(&host)?.iter().map(|route| &route.rank.source);
                written.filter(|source| is_foreign(source, &switch.service)).min().cloned()
            }),
        };
        if let Some(rival) = rival {
            verdicts.push(refused(switch, &host, &rival));
            continue;
        }
        taken.entry(host.clone()).or_insert_with(|| switch.service.clone());
        for entry in model.entries.values_mut() {
            let leads_there = |route: &Arc<Route>| {
                route
                    .rule
                    .backends
                    .iter()
                    .any(|share| matches!(&share.target, Target::Backend(key) if key.service == switch.service))
            };
            let mut found: Vec<Arc<Route>> = Vec::new();
            // In the order of the hosts, so that the same one always counts.
            let leading: BTreeMap<_, _> =
                entry.hosts.iter().filter(|(_, routes)| routes.iter().any(leads_there)).collect();
            for route in leading.into_values().flatten().filter(|route| leads_there(route)) {
                // The same match at several hosts is needed once.
                if !found.iter().any(|known| known.matches == route.matches) {
                    found.push(route.clone());
                }
            }
            if found.is_empty() {
                continue;
            }
            let mut here = entry.hosts.get(&host).cloned().unwrap_or_default();
            found.retain(|route| !here.iter().any(|known| known.matches == route.matches));
            here.extend(found);
            entry.hosts.insert(host.clone(), here);
        }
    }
    verdicts
}

fn is_foreign(object: &ObjectRef, service: &ObjectName) -> bool {
    object.name.namespace != service.namespace
}

fn refused(switch: &ColorSwitch, host: &HostPattern, rival: &ObjectRef) -> Verdict {
    Verdict {
        object: ObjectRef::new("Service", switch.service.clone()),
        severity: Severity::Error,
        reason: "PreviewHostTaken",
        field: annotations::field("weir.dev/preview"),
        problem: format!(
            "the host {host} is served for {rival}, which is of another namespace; nothing is previewed there"
        ),
        fix: "choose another host".to_owned(),
    }
}
