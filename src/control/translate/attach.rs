//! Which listeners a route is served at, and under which hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::gateway::View;
use super::grant::GATEWAY_GROUP;
use super::listener::Listener;
use super::reading::Reading;
use super::{annotations, status, values};
use crate::model::{Bind, HostPattern, Labels, ObjectName, ObjectRef, ParentRef, ParentStatus, RouteKind, StreamMode};

/// Gateways of ours and their ListenerSets, as routes see them.
#[derive(Default)]
pub(super) struct Gateways {
    views: BTreeMap<ObjectRef, Arc<View>>,
}

impl Gateways {
    pub fn get(&self, object: &ObjectRef) -> Option<&Arc<View>> {
        self.views.get(object)
    }

    /// Adds a view; one that was the same `before` keeps its identity.
    pub fn insert(&mut self, object: ObjectRef, view: View, before: &Self) {
        let view = match before.get(&object) {
            Some(known) if **known == view => known.clone(),
            _ => Arc::new(view),
        };
        self.views.insert(object, view);
    }

    /// Objects that look otherwise than `before`.
    pub fn differences(&self, before: &Self) -> Vec<ObjectRef> {
        let same = |object: &&ObjectRef| match (self.get(object), before.get(object)) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        };
        let all: BTreeSet<&ObjectRef> = self.views.keys().chain(before.views.keys()).collect();
        all.into_iter().filter(|object| !same(object)).cloned().collect()
    }
}

/// What a route of any kind says about where it wants to be served.
pub(super) struct Wanted<'a> {
    /// Its kind.
    pub kind: RouteKind,
    /// `spec.parentRefs`.
    pub parents: Vec<ParentRef>,
    /// `spec.hostnames`; empty for kinds without.
    pub hostnames: &'a [String],
}

/// One place where a route is served. The same socket and host may be there twice, with two identities, when Gateways
/// share a socket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub bind: Bind,
    pub host: HostPattern,
    /// What the listener does with TLS; of listeners of protocol TLS only.
    pub mode: StreamMode,
    /// The Secret with the client certificate that its Gateway shows to backends.
    pub gateway_identity: Option<ObjectName>,
}

/// Where a route is served.
#[derive(Default)]
pub(super) struct Attachment {
    /// Sockets and hosts; empty when nothing accepts it, or when all its parents belong to others.
    pub places: BTreeSet<Place>,
    /// Whether it is accepted, by parents that are ours.
    pub parents: Vec<ParentStatus>,
    /// Gateways at whose listeners (or at those of their ListenerSets) it is served.
    pub gateways: BTreeSet<ObjectName>,
}

/// The parts of a reference to a parent, whichever generated type it has.
macro_rules! parent_refs {
    ($written:expr) => {
        $written
            .iter()
            .flatten()
            .map(|parent| $crate::model::ParentRef {
                group: parent.group.as_deref().map(Into::into),
                kind: parent.kind.as_deref().map(Into::into),
                namespace: parent.namespace.as_deref().map(Into::into),
                name: parent.name.as_str().into(),
                section: parent.section_name.as_deref().map(Into::into),
                port: parent.port,
            })
            .collect()
    };
}
pub(super) use parent_refs;

/// Where a route of ours is served; `None` if everything it names belongs to another controller.
pub(super) fn own(
    reading: &mut Reading<'_>,
    gateways: &Gateways,
    metadata: &ObjectMeta,
    wanted: &Wanted<'_>,
) -> Option<Attachment> {
    let attachment = attach(reading, gateways, wanted);
    if attachment.parents.is_empty() && reading.verdicts.is_empty() {
        return None;
    }
    annotations::misplaced(reading, metadata.annotations.as_ref());
    Some(attachment)
}

/// Where a route is served. Also notes the listeners that it is attached to.
fn attach(reading: &mut Reading<'_>, gateways: &Gateways, wanted: &Wanted<'_>) -> Attachment {
    let mut attachment = Attachment::default();
    let hostnames = hostnames(reading, wanted.hostnames);
    let parents = &wanted.parents;
    if parents.is_empty() {
        let problem = "the route names no Gateway and is not served";
        reading.warning("NoParent", "spec.parentRefs", problem, "name a Gateway in spec.parentRefs");
    }
    for (index, parent) in parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let Some((object, view)) = view(reading, gateways, parent, &field) else { continue };
        let at = At { object: &object, view: &view, parent, field: &field };
        let accepted = match at.attach(reading, wanted.kind, hostnames.as_deref(), &mut attachment) {
            Ok(()) => status::holds("Accepted"),
            Err((reason, problem, fix)) => {
                // The owner was told already which hostnames cannot be read.
                if hostnames.is_some() || reason != "NoMatchingListenerHostname" {
                    reading.error(reason, field.clone(), &*problem, &fix);
                }
                status::fails("Accepted", reason, problem)
            }
        };
        // A reference that is written twice is one.
        if attachment.parents.iter().all(|known| known.parent != *parent) {
            attachment.parents.push(ParentStatus { parent: parent.clone(), conditions: vec![accepted] });
        }
    }
    attachment
}

/// The hosts of a route; `None` when all that are written are wrong.
fn hostnames(reading: &mut Reading<'_>, written: &[String]) -> Option<Vec<HostPattern>> {
    let mut hosts = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match values::host_pattern(text, Labels::Many) {
            Ok(host) => hosts.push(host),
            Err(problem) => {
                let fix = "write a name like shop.example.com or *.example.com";
                reading.error("InvalidHostname", format!("spec.hostnames[{index}]"), problem, fix);
            }
        }
    }
    // Without this the route would fall back to every host of the listener.
    if hosts.is_empty() && !written.is_empty() { None } else { Some(hosts) }
}

/// The Gateway or ListenerSet of ours that is named.
fn view(
    reading: &mut Reading<'_>,
    gateways: &Gateways,
    parent: &ParentRef,
    field: &str,
) -> Option<(ObjectRef, Arc<View>)> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace: Arc<str> = parent.namespace.as_deref().map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, &*parent.name);
    let (kind, exists) = match (group, kind) {
        (GATEWAY_GROUP, "Gateway") => ("Gateway", reading.gateway(&name).is_some()),
        (GATEWAY_GROUP, "ListenerSet") => ("ListenerSet", reading.listener_set(&name).is_some()),
        _ => {
            let problem = format!("a parent of kind {kind} is not supported");
            reading.warning("UnsupportedParent", format!("{field}.kind"), problem, "name a Gateway or ListenerSet");
            return None;
        }
    };
    let object = ObjectRef::new(kind, name);
    if !exists {
        let problem = format!("{object} does not exist");
        let fix = format!("create the {kind} or correct the name");
        reading.error("ParentNotFound", format!("{field}.name"), problem, &fix);
        return None;
    }
    // One of another controller: its owner is told by that one.
    let view = gateways.get(&object)?.clone();
    Some((object, view))
}

/// One parent of a route.
struct At<'a> {
    object: &'a ObjectRef,
    view: &'a View,
    parent: &'a ParentRef,
    field: &'a str,
}

/// A reason of the Gateway API, the problem, and what would be right.
type Refusal = (&'static str, String, String);

impl At<'_> {
    /// Attaches a route to the listeners of its parent that it names and that allow it. `None` in the place of hostnames: it
    /// has none that can be read.
    fn attach(
        &self,
        reading: &mut Reading<'_>,
        kind: RouteKind,
        hostnames: Option<&[HostPattern]>,
        attachment: &mut Attachment,
    ) -> Result<(), Refusal> {
        let candidates = self.candidates()?;
        let namespace = reading.namespace();
        let mut allowed = Vec::new();
        for listener in candidates {
            if listener.kinds.contains(&kind) && listener.namespaces.allow(reading, &self.object.name.namespace) {
                allowed.push(listener);
            }
        }
        if allowed.is_empty() {
            let kind = kind.name();
            let problem = format!("no listener of {} lets {kind}s of namespace {namespace} attach", self.object);
            let fix =
                format!("its owner can write allowedRoutes.namespaces.from: All, and {kind} in allowedRoutes.kinds");
            return Err(("NotAllowedByListeners", problem, fix));
        }
        let (mut found, mut served) = (false, false);
        let mut beaten: Option<(&Listener, ObjectRef)> = None;
        for listener in &allowed {
            let hosts = hostnames.map(|hostnames| shared(&listener.hostname, hostnames)).unwrap_or_default();
            if hosts.is_empty() {
                continue;
            }
            let place = (self.object.clone(), listener.name.clone());
            // Two references to one listener ask for the same.
            let asked = reading.wishes.iter().any(|(asked, _)| *asked == place);
            if matches!(kind, RouteKind::Http | RouteKind::Grpc) && !asked {
                reading.wishes.push((place.clone(), hosts.clone()));
            }
            if let Some(winner) = reading.lost.get(&place) {
                beaten.get_or_insert_with(|| (*listener, winner.clone()));
                continue;
            }
            found = true;
            served |= !listener.binds.is_empty();
            reading.attached.insert(place);
            attachment.gateways.insert(self.view.gateway.clone());
            // What a more specific listener is for is not for this one, whether a route is attached there or not.
            let own = hosts.iter().filter(|host| !listener.narrower.iter().any(|other| covers(other, host)));
            for host in own {
                attachment.places.extend(listener.binds.iter().map(|bind| Place {
                    bind: *bind,
                    host: host.clone(),
                    mode: listener.mode,
                    gateway_identity: self.view.identity.clone(),
                }));
            }
        }
        if let Some((listener, winner)) = beaten {
            let problem =
                format!("{winner}, which comes first, has hostnames of this route at listener `{}`", listener.name);
            let fix = "give this route other hostnames, or a listener of its own".to_owned();
            if !found {
                return Err(("HostnameConflict", problem, fix));
            }
            reading.error("HostnameConflict", self.field, problem, &fix);
        }
        if !found {
            let offered: Vec<String> = allowed.iter().map(|listener| listener.hostname.to_string()).collect();
            let problem = format!("none of the hostnames is one of {}: {}", self.object, offered.join(", "));
            let fix = "correct spec.hostnames or the listener's hostname".to_owned();
            return Err(("NoMatchingListenerHostname", problem, fix));
        }
        if !served {
            let problem = format!("the route is attached to {}, but no listener of these is served", self.object);
            reading.warning("ListenerNotServed", self.field, problem, "see what its owner is told");
        }
        Ok(())
    }

    /// The listeners that are named.
    fn candidates(&self) -> Result<Vec<&Listener>, Refusal> {
        let Self { object, view, parent, .. } = self;
        let named = |listener: &&Listener| {
            parent.section.as_ref().is_none_or(|section| **section == *listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        let candidates: Vec<&Listener> = view.listeners.iter().filter(named).collect();
        if !candidates.is_empty() {
            return Ok(candidates);
        }
        let (problem, fix) = if view.listeners.is_empty() {
            (format!("{object} has no listener that routes could attach to"), "see what its owner is told")
        } else {
            let section = parent.section.as_ref().map(|section| format!(" `{section}`")).unwrap_or_default();
            let port = parent.port.map(|port| format!(" at port {port}")).unwrap_or_default();
            (format!("{object} has no listener{section}{port}"), "correct sectionName or port")
        };
        Err(("NoMatchingParent", problem, fix.to_owned()))
    }
}

/// The hosts that a listener and a route have in common; a route without hosts takes those of the listener.
fn shared(listener: &HostPattern, route: &[HostPattern]) -> Vec<HostPattern> {
    if route.is_empty() {
        return vec![listener.clone()];
    }
    route.iter().filter_map(|host| intersection(listener, host)).collect()
}

/// The names that both are for. Of two patterns that differ only in how many labels they stand for this is `left`.
pub(super) fn intersection(left: &HostPattern, right: &HostPattern) -> Option<HostPattern> {
    use HostPattern::{Any, Exact, Wildcard};
    match (left, right) {
        (Any, other) | (other, Any) => Some(other.clone()),
        (Exact(name), pattern) | (pattern, Exact(name)) => pattern.matches(name).then(|| Exact(name.clone())),
        (Wildcard { suffix: one, .. }, Wildcard { suffix: two, .. }) => {
            let (long, short, wildcard) = if one.len() >= two.len() { (one, two, left) } else { (two, one, right) };
            long.ends_with(&**short).then(|| wildcard.clone())
        }
    }
}

/// Whether every name of `narrow` is one of `wide`.
pub(super) fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    intersection(wide, narrow).as_ref() == Some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        if text == "*" { HostPattern::Any } else { values::host_pattern(text, Labels::Many).unwrap() }
    }

    #[test]
    fn listener_and_route_share_the_narrower_of_their_hosts() {
        for (listener, route, shared) in [
            ("*", "a.test", Some("a.test")),
            ("a.test", "*", Some("a.test")),
            ("*.test", "x.a.test", Some("x.a.test")),
            ("*.test", "*.a.test", Some("*.a.test")),
            ("*.a.test", "*.test", Some("*.a.test")),
            ("*.a.test", "a.test", None),
            ("*.a.test", "*.b.test", None),
            ("a.test", "b.test", None),
            ("*.a.test", "*.ba.test", None),
        ] {
            assert_eq!(intersection(&pattern(listener), &pattern(route)), shared.map(pattern), "{listener} {route}");
        }
    }
}
