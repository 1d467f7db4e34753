//! HTTPRoutes and GRPCRoutes at one listener: a host there belongs to routes of one of the two kinds. Of two routes of
//! different kinds that share a host the older is accepted, of two as old the first by name (Gateway API, `hostnames` of
//! GRPCRoute).
//!
//! The derivation of routes writes here what each asks for, and reads which listeners it does not get. That changes only by
//! what other routes ask for, so that deriving again who lost or won comes to an end at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::attach::intersection;
use crate::model::{HostPattern, ObjectName, ObjectRef, RouteKind};

/// A listener: the object that has it, and its name.
pub(super) type Place = (ObjectRef, Arc<str>);

/// The hosts that a route asks for at each listener that it attaches to.
pub(super) type Wishes = Vec<(Place, Vec<HostPattern>)>;

/// The order in which routes are accepted.
type Turn = (i64, ObjectName, RouteKind);

/// The listeners that a route does not get, and who has the host there.
pub(super) type Lost = BTreeMap<Place, ObjectRef>;

/// Every route that asks for a host of requests.
#[derive(Default)]
pub(super) struct Rivals {
    listeners: HashMap<Place, Contest>,
    changed: HashSet<Place>,
    /// Only routes that lost.
    lost: HashMap<(RouteKind, ObjectName), Lost>,
}

/// The routes of a listener with their hosts, and how many are GRPCRoutes.
#[derive(Default)]
struct Contest {
    routes: BTreeMap<Turn, Vec<HostPattern>>,
    calls: usize,
}

impl Rivals {
    /// What a route does not get, as of the last settlement.
    pub fn lost(&self, kind: RouteKind, name: &ObjectName) -> Lost {
        self.lost.get(&(kind, name.clone())).cloned().unwrap_or_default()
    }

    /// Takes what a route of this age asks for before and now.
    pub fn exchange(&mut self, kind: RouteKind, name: &ObjectName, before: (i64, &Wishes), now: (i64, &Wishes)) {
        if before == now {
            return;
        }
        for (place, _) in before.1 {
            if let Some(contest) = self.listeners.get_mut(place) {
                contest.routes.remove(&(before.0, name.clone(), kind));
                contest.calls -= usize::from(kind == RouteKind::Grpc);
            }
            self.changed.insert(place.clone());
        }
        for (place, hosts) in now.1 {
            let contest = self.listeners.entry(place.clone()).or_default();
            contest.routes.insert((now.0, name.clone(), kind), hosts.clone());
            contest.calls += usize::from(kind == RouteKind::Grpc);
            self.changed.insert(place.clone());
        }
    }

    /// Settles who is accepted at the listeners where something changed. Gives back the routes for which that makes a
    /// difference.
    pub fn settle(&mut self) -> BTreeSet<(RouteKind, ObjectName)> {
        let mut touched = BTreeSet::new();
        for place in std::mem::take(&mut self.changed) {
            let losers = self.listeners.get(&place).map(Contest::losers).unwrap_or_default();
            if self.listeners.get(&place).is_some_and(|contest| contest.routes.is_empty()) {
                self.listeners.remove(&place);
            }
            let before: Vec<_> = self.lost.iter().filter(|(_, lost)| lost.contains_key(&place)).collect();
            let relieved: Vec<_> = before
                .into_iter()
                .map(|(route, _)| route.clone())
                .filter(|route| !losers.contains_key(route))
                .collect();
            for route in relieved {
                if let Some(lost) = self.lost.get_mut(&route) {
                    lost.remove(&place);
                }
                touched.insert(route);
            }
            for (route, winner) in losers {
                let lost = self.lost.entry(route.clone()).or_default();
                if lost.get(&place) != Some(&winner) {
                    lost.insert(place.clone(), winner);
                    touched.insert(route);
                }
            }
        }
        self.lost.retain(|_, lost| !lost.is_empty());
        touched
    }
}

impl Contest {
    /// The routes that are not accepted at the listener, and who is in their place.
    fn losers(&self) -> HashMap<(RouteKind, ObjectName), ObjectRef> {
        let mut losers = HashMap::new();
        // Nearly every listener has routes of one kind.
        if self.calls == 0 || self.calls == self.routes.len() {
            return losers;
        }
        let (mut http, mut grpc) = (Accepted::default(), Accepted::default());
        for ((_, name, kind), hosts) in &self.routes {
            let (own, others) = match kind {
                RouteKind::Grpc => (&mut grpc, &http),
                _ => (&mut http, &grpc),
            };
            match hosts.iter().find_map(|host| others.at(host)) {
                Some(winner) => _ = losers.insert((*kind, name.clone()), winner.clone()),
                None => own.add(hosts, &ObjectRef::new(kind.name(), name.clone())),
            }
        }
        losers
    }
}

/// The hosts of accepted routes of one kind.
#[derive(Default)]
struct Accepted {
    names: HashMap<Arc<str>, ObjectRef>,
    patterns: Vec<(HostPattern, ObjectRef)>,
}

impl Accepted {
    fn add(&mut self, hosts: &[HostPattern], route: &ObjectRef) {
        for host in hosts {
            match host {
                HostPattern::Exact(name) => _ = self.names.entry(name.clone()).or_insert_with(|| route.clone()),
                pattern => self.patterns.push((pattern.clone(), route.clone())),
            }
        }
    }

    /// Whose host has names in common with this one.
    fn at(&self, host: &HostPattern) -> Option<&ObjectRef> {
        let named = match host {
            HostPattern::Exact(name) => self.names.get(name),
            pattern => {
                let met = self.names.iter().filter(|(name, _)| pattern.matches(name));
                // Of several the same is named whatever the order of the table.
                met.min_by_key(|(name, _)| *name).map(|(_, route)| route)
            }
        };
        let meets = |it: &&(HostPattern, ObjectRef)| intersection(&it.0, host).is_some();
        named.or_else(|| self.patterns.iter().find(meets).map(|(_, route)| route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    fn host(text: &str) -> HostPattern {
        match text {
            "*" => HostPattern::Any,
            text => super::super::values::host_pattern(text, Labels::Many).unwrap(),
        }
    }

    fn wishes(listener: &str, hosts: &[&str]) -> Wishes {
        let gateway = ObjectRef::new("Gateway", ObjectName::new("shop", "edge"));
        vec![((gateway, listener.into()), hosts.iter().map(|text| host(text)).collect())]
    }

    fn put(rivals: &mut Rivals, kind: RouteKind, name: &str, age: i64, wishes: &Wishes) {
        rivals.exchange(kind, &ObjectName::new("shop", name), (0, &Wishes::new()), (age, wishes));
    }

    /// Who lost, and to whom.
    fn lost(rivals: &Rivals) -> Vec<String> {
        let mut lost: Vec<String> = rivals
            .lost
            .iter()
            .flat_map(|((_, name), lost)| lost.values().map(move |by| format!("{} to {}", name.name, by.name.name)))
            .collect();
        lost.sort();
        lost
    }

    #[test]
    fn older_route_of_the_other_kind_has_the_host_and_names_decide_between_equals() {
        use RouteKind::{Grpc, Http};
        let mut rivals = Rivals::default();
        put(&mut rivals, Http, "pages", 1, &wishes("a", &["a.test", "b.test"]));
        put(&mut rivals, Http, "more", 2, &wishes("a", &["a.test"]));
        assert!(rivals.settle().is_empty(), "routes of one kind share hosts");
        put(&mut rivals, Grpc, "calls", 2, &wishes("a", &["c.test", "*.test"]));
        put(&mut rivals, Grpc, "elsewhere", 3, &wishes("b", &["a.test"]));
        put(&mut rivals, Grpc, "others", 3, &wishes("a", &["x.far.test"]));
        assert_eq!(rivals.settle().len(), 1);
        assert_eq!(lost(&rivals), ["calls to pages"]);
        // Of two as old the first by name: `calls` has c.test, and `more` comes too late.
        rivals.exchange(
            Http,
            &ObjectName::new("shop", "pages"),
            (1, &wishes("a", &["a.test", "b.test"])),
            (0, &Wishes::new()),
        );
        assert_eq!(rivals.settle().len(), 2);
        assert_eq!(lost(&rivals), ["more to calls"]);
    }

    #[test]
    fn route_that_is_not_accepted_is_in_nobody_s_way() {
        use RouteKind::{Grpc, Http};
        let mut rivals = Rivals::default();
        put(&mut rivals, Http, "first", 1, &wishes("a", &["a.test"]));
        put(&mut rivals, Grpc, "second", 2, &wishes("a", &["a.test", "b.test"]));
        put(&mut rivals, Http, "third", 3, &wishes("a", &["b.test"]));
        rivals.settle();
        assert_eq!(lost(&rivals), ["second to first"]);
        assert!(rivals.lost(Http, &ObjectName::new("shop", "third")).is_empty());
        assert!(rivals.settle().is_empty(), "nothing changed any more");
    }

    #[test]
    fn any_host_and_wildcards_meet_names() {
        use RouteKind::{Grpc, Http};
        for (older, newer, meet) in [
            ("*", "a.test", true),
            ("a.test", "*", true),
            ("*.test", "a.test", true),
            ("a.b.test", "*.test", true),
            ("*.b.test", "*.test", true),
            ("*.b.test", "*.a.test", false),
            ("a.test", "b.test", false),
            ("*.test", "test", false),
        ] {
            let mut rivals = Rivals::default();
            put(&mut rivals, Http, "older", 1, &wishes("a", &[older]));
            put(&mut rivals, Grpc, "newer", 2, &wishes("a", &[newer]));
            rivals.settle();
            assert_eq!(lost(&rivals).len(), usize::from(meet), "{older} {newer}");
        }
    }
}
