//! What is written into statuses, from what was derived and from what the owners are told (Gateway API, conditions of each
//! kind).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::addresses::Assigned;
use super::gateway::Whole;
use super::listener::{Because, Candidate};
use super::reading::Reading;
use crate::model::{Claim, GatewayAddress, ListenerStatus, ParentStatus, Severity, Status, Verdict};

/// Reasons of verdicts about references of a route, and what the Gateway API calls them. The first that applies is shown.
const REFERENCES: [(&str, &str); 7] = [
    ("InvalidKind", "InvalidKind"),
    (UNKNOWN_FILTER, "InvalidKind"),
    ("RefNotPermitted", "RefNotPermitted"),
    ("BackendNotFound", "BackendNotFound"),
    ("PortNotFound", "BackendNotFound"),
    ("UnsupportedProtocol", "UnsupportedProtocol"),
    ("BackendNotTrusted", "UnsupportedValue"),
];

/// A condition that holds, for the reason that has its name.
pub(super) fn holds(kind: &'static str) -> Claim {
    Claim { kind, holds: true, reason: kind, message: String::new() }
}

/// A condition that does not hold.
pub(super) fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Claim {
    Claim { kind, holds: false, reason, message: message.into() }
}

fn unless(kind: &'static str, because: Option<&Because>) -> Claim {
    because.map_or_else(|| holds(kind), |(reason, why)| fails(kind, reason, why))
}

/// What verdicts and statuses call filters that exclude each other.
pub(super) const INCOMPATIBLE: &str = "IncompatibleFilters";

/// What verdicts call a filter that is a reference to something unknown.
pub(super) const UNKNOWN_FILTER: &str = "UnsupportedFilter";

/// A part of a rule that cannot be obeyed as it is written.
#[derive(Debug)]
pub(super) struct Flaw {
    pub field: String,
    pub reason: &'static str,
    pub problem: String,
}

impl Flaw {
    /// What the owner was told since there were `told` verdicts, of the reasons that count.
    pub fn told_since(reading: &Reading<'_>, told: usize, counts: impl Fn(&str) -> bool) -> Vec<Self> {
        let errors = reading.verdicts[told..].iter().filter(|it| it.severity == Severity::Error && counts(it.reason));
        let flaw = |it: &Verdict| Self { field: it.field.clone(), reason: it.reason, problem: it.problem.clone() };
        errors.map(flaw).collect()
    }
}

/// What is to be said of the rules of a route.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// What of them is dropped: a match, the share of a backend, or all that a rule does.
    pub flaws: Vec<Flaw>,
    /// Whether any of them does what it says.
    pub served: bool,
}

impl Rules {
    /// Whether nothing is left of a route.
    pub fn are_lost(&self) -> bool {
        !self.served && !self.flaws.is_empty()
    }

    /// What an accepted parent is told instead of `Accepted`, or beside it (Gateway API, `RouteConditionPartiallyInvalid`: a
    /// rule with several matches is one rule for each, so that each is dropped by itself).
    fn tell(&self, parents: &mut [ParentStatus]) {
        let dropped: Vec<String> = self.flaws.iter().map(|it| format!("{}: {}", it.field, it.problem)).collect();
        let dropped = dropped.join("; ");
        let accepted = |claim: &Claim| claim.kind == "Accepted" && claim.holds;
        for parent in parents.iter_mut().filter(|parent| parent.conditions.iter().any(accepted)) {
            if self.served {
                let (kind, reason) = ("PartiallyInvalid", "UnsupportedValue");
                let message = format!("Dropped Rule {dropped}");
                parent.conditions.push(Claim { kind, holds: true, reason, message });
            } else {
                let rivals = self.flaws.iter().all(|flaw| flaw.reason == INCOMPATIBLE);
                let reason = if rivals { INCOMPATIBLE } else { "UnsupportedValue" };
                let refused = fails("Accepted", reason, format!("no rule can be served: {dropped}"));
                parent.conditions.iter_mut().filter(|claim| accepted(claim)).for_each(|it| *it = refused.clone());
            }
        }
    }
}

/// The status of a route of any kind: `parents` as [`super::attach::own`] left them, whether the references that the
/// route's owner was told about are good, and what of its rules is served. To be called when everything of the route has
/// been read.
pub(super) fn route(reading: &Reading<'_>, mut parents: Vec<ParentStatus>, rules: &Rules) -> Option<Status> {
    if parents.is_empty() {
        return None;
    }
    let wrong = REFERENCES.iter().find_map(|(told, reason)| {
        let about = |it: &&Verdict| it.reason == *told && it.severity == Severity::Error && it.object == reading.source;
        reading.verdicts.iter().find(about).map(|verdict| (verdict, *reason))
    });
    let resolved = match wrong {
        None => holds("ResolvedRefs"),
        Some((verdict, reason)) => fails("ResolvedRefs", reason, format!("{}: {}", verdict.field, verdict.problem)),
    };
    for parent in &mut parents {
        parent.conditions.push(resolved.clone());
    }
    if !rules.flaws.is_empty() {
        rules.tell(&mut parents);
    }
    Some(Status::Route { parents })
}

/// What holds for a Gateway and all its listeners.
pub(super) struct Summary<'a> {
    pub whole: &'a Whole,
    pub assigned: &'a Assigned,
    /// Where clients find it; `None` as long as that is not known.
    pub published: Option<Vec<GatewayAddress>>,
    /// Addresses of it that are none of the machine's.
    pub without: &'a BTreeSet<IpAddr>,
}

impl Summary<'_> {
    /// Why the Gateway, though accepted, is not where it should be.
    fn nowhere(&self) -> Option<Because> {
        let Self { assigned, published, without, .. } = self;
        if let Some(lacking) = &assigned.lacking {
            return Some(lacking.clone());
        }
        if !without.is_empty() {
            let without: Vec<String> = without.iter().map(ToString::to_string).collect();
            return Some(("AddressNotUsable", format!("no address of this machine: {}", without.join(", "))));
        }
        let unknown = || ("AddressNotAssigned", "the Service of status.service has no address yet".to_owned());
        published.is_none().then(unknown)
    }
}

/// The status of a Gateway, without the number of routes.
pub(super) fn gateway(summary: &Summary<'_>, candidates: &[Candidate<'_>], attached_sets: usize) -> Status {
    let Summary { whole, published, .. } = summary;
    let good = candidates.iter().filter(|candidate| candidate.accepted()).count();
    let names = |wanted: bool| {
        let names = candidates.iter().filter(|candidate| candidate.accepted() == wanted);
        names.map(|candidate| &*candidate.listener.name).collect::<Vec<_>>().join(", ")
    };
    let accepted = match &whole.refused {
        Some((reason, why)) => fails("Accepted", reason, why),
        None if good == 0 => fails("Accepted", "ListenersNotValid", format!("not accepted: {}", names(false))),
        None if good < candidates.len() => Claim {
            kind: "Accepted",
            holds: true,
            reason: "ListenersNotValid",
            message: format!("accepted: {}; not accepted: {}", names(true), names(false)),
        },
        None => holds("Accepted"),
    };
    let programmed = if !accepted.holds {
        fails("Programmed", "Invalid", "the Gateway is not accepted")
    } else if let Some((reason, why)) = summary.nowhere() {
        fails("Programmed", reason, why)
    } else if !candidates.iter().any(Candidate::valid) {
        fails("Programmed", "Invalid", "none of its listeners can be served")
    } else {
        holds("Programmed")
    };
    let unresolved: Vec<&str> =
        candidates.iter().filter(|it| it.unresolved.is_some()).map(|it| &*it.listener.name).collect();
    let resolved = match &whole.unresolved {
        Some((reason, why)) => fails("ResolvedRefs", reason, why),
        None if !unresolved.is_empty() => {
            fails("ResolvedRefs", "ListenersNotResolved", format!("not resolved: {}", unresolved.join(", ")))
        }
        None => holds("ResolvedRefs"),
    };
    let mut conditions = vec![accepted, programmed, resolved];
    if whole.frontend.insecure {
        conditions.push(Claim {
            kind: "InsecureFrontendValidationMode",
            holds: true,
            reason: "ConfigurationChanged",
            message: "clients without a valid certificate may connect".to_owned(),
        });
    }
    Status::Gateway {
        conditions,
        addresses: if whole.refused.is_some() { Vec::new() } else { published.clone().unwrap_or_default() },
        listeners: candidates.iter().map(listener).collect(),
        attached_sets: u32::try_from(attached_sets).unwrap_or(u32::MAX),
        infrastructure: whole.infrastructure.clone(),
    }
}

/// The status of a ListenerSet that its Gateway allows, without the number of routes.
pub(super) fn listener_set(summary: &Summary<'_>, candidates: &[Candidate<'_>]) -> Status {
    let good = candidates.iter().filter(|candidate| candidate.sound()).count();
    let conditions = if summary.whole.refused.is_some() {
        let why = "the Gateway is not accepted";
        vec![fails("Accepted", "ParentNotAccepted", why), fails("Programmed", "ParentNotProgrammed", why)]
    } else if good == 0 {
        let why = "none of its listeners can be served";
        vec![fails("Accepted", "ListenersNotValid", why), fails("Programmed", "ListenersNotValid", why)]
    } else {
        let bad = candidates.iter().filter(|candidate| !candidate.sound());
        let bad: Vec<&str> = bad.map(|candidate| &*candidate.listener.name).collect();
        let accepted = match bad.is_empty() {
            true => holds("Accepted"),
            false => {
                let message = format!("not served: {}", bad.join(", "));
                Claim { kind: "Accepted", holds: true, reason: "ListenersNotValid", message }
            }
        };
        let programmed = match summary.nowhere() {
            Some((_, why)) => fails("Programmed", "ParentNotProgrammed", why),
            None => holds("Programmed"),
        };
        vec![accepted, programmed]
    };
    Status::ListenerSet { conditions, listeners: candidates.iter().map(listener).collect() }
}

fn listener(candidate: &Candidate<'_>) -> ListenerStatus {
    let refused = candidate.conflict.as_ref().or(candidate.refused.as_ref());
    let programmed = match (&candidate.conflict, refused, &candidate.unserved) {
        (Some((reason, why)), ..) => fails("Programmed", reason, why),
        (None, Some((_, why)), _) => fails("Programmed", "Invalid", why),
        (None, None, unserved) => unless("Programmed", unserved.as_ref()),
    };
    let conflicted = match &candidate.conflict {
        Some((reason, why)) => Claim { kind: "Conflicted", holds: true, reason, message: why.clone() },
        None => fails("Conflicted", "NoConflicts", ""),
    };
    let resolved = unless("ResolvedRefs", candidate.unresolved.as_ref());
    let mut conditions = vec![unless("Accepted", refused), programmed, resolved, conflicted];
    if candidate.overlaps && candidate.accepted() {
        conditions.push(Claim {
            kind: "OverlappingTLSConfig",
            holds: true,
            reason: "OverlappingHostnames",
            message:
                "another listener at this port is for some of the same names; a connection that a client uses for \
                      names of both is answered with 421"
                    .to_owned(),
        });
    }
    ListenerStatus {
        name: candidate.listener.name.clone(),
        kinds: candidate.listener.kinds.clone(),
        attached: 0,
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ParentRef;

    fn flaw(field: &str, reason: &'static str, problem: &str) -> Flaw {
        Flaw { field: field.to_owned(), reason, problem: problem.to_owned() }
    }

    /// What is said at a parent that accepts and at one that does not, as type, whether it holds, reason and message.
    fn said(rules: &Rules) -> Vec<(&'static str, bool, &'static str, String)> {
        let parent = |accepted| ParentStatus { parent: ParentRef::default(), conditions: vec![accepted] };
        let mut parents = [parent(holds("Accepted")), parent(fails("Accepted", "NoMatchingParent", "elsewhere"))];
        rules.tell(&mut parents);
        let refused = &parents[1].conditions;
        assert!(refused.len() == 1 && refused[0].reason == "NoMatchingParent", "{refused:?}");
        parents[0].conditions.iter().map(|it| (it.kind, it.holds, it.reason, it.message.clone())).collect()
    }

    #[test]
    fn route_with_dropped_rules_is_partially_invalid_and_says_which() {
        let flaws = vec![
            flaw("spec.rules[0].filters[1]", INCOMPATIBLE, "there already is a redirect in this rule"),
            flaw("spec.rules[2].matches[0].path.value", "InvalidPath", "the path `a` does not begin with `/`"),
        ];
        let message = "Dropped Rule spec.rules[0].filters[1]: there already is a redirect in this rule; \
                       spec.rules[2].matches[0].path.value: the path `a` does not begin with `/`";
        assert_eq!(
            said(&Rules { flaws, served: true }),
            [
                ("Accepted", true, "Accepted", String::new()),
                ("PartiallyInvalid", true, "UnsupportedValue", message.to_owned()),
            ]
        );
    }

    #[test]
    fn route_of_which_nothing_is_left_is_not_accepted() {
        let rival = || flaw("spec.rules[0].filters[1]", INCOMPATIBLE, "there already is a redirect in this rule");
        let path = flaw("spec.rules[1].matches[0].path.value", "InvalidPath", "the path `a` does not begin with `/`");
        for (flaws, reason) in [(vec![rival()], "IncompatibleFilters"), (vec![rival(), path], "UnsupportedValue")] {
            let said = said(&Rules { flaws, served: false });
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!((said[0].0, said[0].1, said[0].2), ("Accepted", false, reason));
            assert!(said[0].3.starts_with("no rule can be served: spec.rules[0].filters[1]: "), "{said:?}");
        }
    }
}
