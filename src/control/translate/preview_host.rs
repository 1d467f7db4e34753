//! The host of `weir.dev/preview`: whatever routes lead to the Service elsewhere lead to it at that host too, so that the
//! owner of the annotation needs no second route.
//!
//! A host at which others than the Service's namespace serve something, be it as one of those that a wildcard stands for,
//! is theirs: an annotation must not be a way to take requests from it. What is served at every host is a last resort and
//! keeps nobody from a host of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reading::created;
use super::{Objects, annotations};
use crate::model::{Bind, ColorSwitch, HostPattern, Model, ObjectName, ObjectRef, Route, Severity, Target, Verdict};

/// Adds the routes of every Service with a preview host at that host. A route that is written for the host stays, and
/// wins by its rank where both match alike. Of Services of several namespaces that ask for one host, and to which
/// something leads, the oldest has it, of two as old the first by name. Gives back what the owners of the others are told.
pub(super) fn add(model: &mut Model, objects: &Objects) -> Vec<Verdict> {
    let mut asking: Vec<(i64, Arc<ColorSwitch>, Arc<str>)> = Vec::new();
    for (name, switch) in &model.switches {
        if let Some(host) = switch.preview.as_ref().and_then(|preview| preview.host.clone()) {
            let age = objects.services.get(name).map_or(i64::MAX, |service| created(&service.metadata));
            asking.push((age, switch.clone(), host));
        }
    }
    // By name already.
    asking.sort_by_key(|(age, ..)| *age);
    let mut verdicts = Vec::new();
    let mut taken: BTreeMap<HostPattern, ObjectName> = BTreeMap::new();
    for (_, switch, name) in asking {
        let host = HostPattern::Exact(name.clone());
        let rival = match taken.get(&host) {
            Some(service) => {
                Some(ObjectRef::new("Service", service.clone())).filter(|it| is_foreign(it, &switch.service))
            }
            None => serving(model, &name).filter(|source| is_foreign(source, &switch.service)).min().cloned(),
        };
        if let Some(rival) = rival {
            verdicts.push(refused(&switch, &host, &rival));
            continue;
        }
        for (bind, mut found) in leading(model, &switch.service) {
            let Some(entry) = model.entries.get_mut(&bind) else { continue };
            let mut here = entry.hosts.get(&host).cloned().unwrap_or_default();
            found.retain(|route| !here.iter().any(|known| known.matches == route.matches));
            if !found.is_empty() {
                here.extend(found);
                entry.hosts.insert(host.clone(), here);
                taken.entry(host.clone()).or_insert_with(|| switch.service.clone());
            }
        }
    }
    verdicts
}

/// The objects whose routes are for this host by name, or for those that a wildcard stands for.
fn serving<'a>(model: &'a Model, name: &'a str) -> impl Iterator<Item = &'a ObjectRef> {
    let hosts = model.entries.values().flat_map(|entry| entry.hosts.iter());
    let here = hosts.filter(move |(host, _)| **host != HostPattern::Any && host.matches(name));
    here.flat_map(|(_, routes)| routes.iter().map(|route| &route.rank.source))
}

/// The routes that lead to a Service, at each socket that has any; the same match at several hosts is needed once.
fn leading(model: &Model, service: &ObjectName) -> Vec<(Bind, Vec<Arc<Route>>)> {
    let leads_there = |route: &&Arc<Route>| {
        let targets = route.rule.backends.iter().map(|share| &share.target);
        targets.into_iter().any(|target| matches!(target, Target::Backend(key) if key.service == *service))
    };
    let mut leading = Vec::new();
    for (bind, entry) in &model.entries {
        // In the order of the hosts, so that the same one always counts.
        let hosts: BTreeMap<_, _> =
            entry.hosts.iter().filter(|(_, routes)| routes.iter().any(|it| leads_there(&it))).collect();
        let mut found: Vec<Arc<Route>> = Vec::new();
        for route in hosts.into_values().flatten().filter(leads_there) {
            if !found.iter().any(|known| known.matches == route.matches) {
                found.push(route.clone());
            }
        }
        if !found.is_empty() {
            leading.push((*bind, found));
        }
    }
    leading
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
