//! The host of `weir.dev/preview`: whatever routes lead to the Service elsewhere lead to it at that host too, so that the
//! owner of the annotation needs no second route.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{HostPattern, Model, Route, Target};

/// Adds the routes of every Service with a preview host at that host. A route that is written for the host stays, and
/// wins by its rank where both match alike.
pub(super) fn add(model: &mut Model) {
    for switch in model.switches.values() {
        let Some(host) = switch.preview.as_ref().and_then(|preview| preview.host.clone()) else { continue };
        let host = HostPattern::Exact(host);
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
}
