//! All routes by socket and host, and who wins where two ask for the same requests: the oldest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::ingress::DEFAULT_RULE;
use crate::model::{Bind, HostPattern, PathMatch, Rank, Route, Severity, Verdict};

/// Routes with the place of each.
type Placed = [(Bind, HostPattern, Arc<Route>)];

/// Every candidate, winner or not.
#[derive(Default)]
pub(super) struct Hosts {
    candidates: HashMap<(Bind, HostPattern), Vec<Arc<Route>>>,
    changed: BTreeSet<(Bind, HostPattern)>,
}

impl Hosts {
    /// Takes the routes of an object out and puts its new ones in.
    pub fn exchange(&mut self, before: &Placed, now: &Placed) {
        let same = before.len() == now.len()
            && before.iter().zip(now).all(|(one, two)| one.0 == two.0 && one.1 == two.1 && Arc::ptr_eq(&one.2, &two.2));
        if same {
            return;
        }
        for (bind, host, route) in before {
            let place = (*bind, host.clone());
            if let Some(routes) = self.candidates.get_mut(&place)
                && let Some(index) = routes.iter().position(|candidate| Arc::ptr_eq(candidate, route))
            {
                routes.swap_remove(index);
            }
            self.changed.insert(place);
        }
        for (bind, host, route) in now {
            let place = (*bind, host.clone());
            self.candidates.entry(place.clone()).or_default().push(route.clone());
            self.changed.insert(place);
        }
    }

    /// The places where something changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<(Bind, HostPattern)> {
        std::mem::take(&mut self.changed)
    }

    /// The routes of one host, by rank, without those that an older one hides.
    pub fn settle(&mut self, bind: Bind, host: &HostPattern) -> (Vec<Arc<Route>>, Vec<Verdict>) {
        let place = (bind, host.clone());
        let Some(routes) = self.candidates.get_mut(&place) else { return Default::default() };
        if routes.is_empty() {
            self.candidates.remove(&place);
            return Default::default();
        }
        routes.sort_by(|left, right| left.rank.cmp(&right.rank));
        let mut by_path: BTreeMap<&PathMatch, Vec<&Arc<Route>>> = BTreeMap::new();
        let mut winners = Vec::with_capacity(routes.len());
        let mut verdicts = Vec::new();
        for route in routes.iter() {
            let rivals = by_path.entry(&route.matches.path).or_default();
            if let Some(older) = rivals.iter().find(|older| older.matches == route.matches) {
                verdicts.push(hidden(route, older, host));
            } else {
                rivals.push(route);
                winners.push(route.clone());
            }
        }
        (winners, verdicts)
    }
}

fn hidden(route: &Route, older: &Route, host: &HostPattern) -> Verdict {
    let what = match &route.matches.path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) => format!("{path} and below"),
        PathMatch::Regex(regex) => format!("paths like {regex}"),
    };
    let place = field(&older.rank);
    let by = if route.rank.source == older.rank.source {
        format!("{place} of the same object, which comes first")
    } else {
        let why = if route.rank.created == older.rank.created { "comes first by name" } else { "is older" };
        format!("{place} of {}, which {why}", older.rank.source)
    };
    Verdict {
        object: route.rank.source.clone(),
        severity: Severity::Warning,
        reason: "Conflict",
        field: field(&route.rank),
        problem: format!("requests for {what} at host {host} already go to {by}"),
        fix: "change the match, or remove one of the two".to_owned(),
    }
}

fn field(rank: &Rank) -> String {
    match rank.source.kind {
        "Ingress" if rank.rule == DEFAULT_RULE => "spec.defaultBackend".to_owned(),
        "Ingress" => format!("spec.rules[{}].http.paths[{}]", rank.rule, rank.index),
        _ => format!("spec.rules[{}].matches[{}]", rank.rule, rank.index),
    }
}
