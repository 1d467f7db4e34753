//! Which listeners a route is served at, and under which hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::gateway::{GatewayView, Listener};
use super::grant::GATEWAY_GROUP;
use super::reading::Reading;
use super::values;
use crate::model::{Bind, HostPattern, Labels, ObjectName, ParentRef, ParentStatus, RouteKind, StreamMode};

/// Gateways of ours.
pub(super) type Gateways = BTreeMap<ObjectName, Arc<GatewayView>>;

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

/// Where a route is served.
pub(super) fn attach(reading: &mut Reading<'_>, gateways: &Gateways, wanted: &Wanted<'_>) -> Attachment {
    let mut attachment = Attachment::default();
    let Some(hostnames) = hostnames(reading, wanted.hostnames) else { return attachment };
    let parents = &wanted.parents;
    if parents.is_empty() {
        let problem = "the route names no Gateway and is not served";
        reading.warning("NoParent", "spec.parentRefs", problem, "name a Gateway in spec.parentRefs");
    }
    for (index, parent) in parents.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let Some((name, view)) = gateway(reading, gateways, parent, &field) else { continue };
        at_gateway(reading, &name, &view, parent, &field, &hostnames, &mut attachment);
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

fn gateway(
    reading: &mut Reading<'_>,
    gateways: &Gateways,
    parent: &ParentRef,
    field: &str,
) -> Option<(ObjectName, Arc<GatewayView>)> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if group != GATEWAY_GROUP || kind != "Gateway" {
        let problem = format!("a parent of kind {kind} is not supported");
        reading.warning("UnsupportedParent", format!("{field}.kind"), problem, "name a Gateway");
        return None;
    }
    let namespace: Arc<str> = parent.namespace.as_deref().map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, &*parent.name);
    if reading.gateway(&name).is_none() {
        let problem = format!("Gateway {name} does not exist");
        reading.error("ParentNotFound", format!("{field}.name"), problem, "create the Gateway or correct the name");
        return None;
    }
    // A Gateway of another controller: its owner is told by that one.
    let view = gateways.get(&name)?.clone();
    Some((name, view))
}

fn at_gateway(
    reading: &mut Reading<'_>,
    name: &ObjectName,
    view: &GatewayView,
    parent: &ParentRef,
    field: &str,
    hostnames: &[HostPattern],
    attachment: &mut Attachment,
) {
    let named = |listener: &&Listener| {
        parent.section.as_ref().is_none_or(|section| **section == *listener.name)
            && parent.port.is_none_or(|port| port == i32::from(listener.port))
    };
    let candidates: Vec<&Listener> = view.listeners.iter().filter(named).collect();
    if candidates.is_empty() {
        let broken = parent.section.as_ref().filter(|section| view.broken.contains(&***section));
        let (problem, fix) = match (broken, &parent.section, parent.port) {
            (Some(section), ..) => {
                (format!("listener `{section}` of Gateway {name} is not served"), "see what its owner is told")
            }
            (None, None, None) => {
                (format!("Gateway {name} has no listener that is served"), "see what its owner is told")
            }
            (None, section, port) => {
                let section = section.as_ref().map(|section| format!(" `{section}`")).unwrap_or_default();
                let port = port.map(|port| format!(" at port {port}")).unwrap_or_default();
                let problem = format!("Gateway {name} has no listener{section}{port}");
                (problem, "correct sectionName or port")
            }
        };
        reading.error("NoMatchingParent", field, problem, fix);
        return;
    }
    let namespace = reading.namespace();
    let allowed: Vec<&Listener> = candidates
        .into_iter()
        .filter(|listener| listener.http_routes && listener.namespaces.allow(&namespace, &name.namespace))
        .collect();
    if allowed.is_empty() {
        let problem = format!("no listener of Gateway {name} lets HTTPRoutes of namespace {namespace} attach");
        let fix = "its owner can write allowedRoutes.namespaces.from: All, and HTTPRoute in allowedRoutes.kinds";
        reading.error("NotAllowedByListeners", field, problem, fix);
        return;
    }
    let mut found = false;
    for listener in &allowed {
        for host in shared(&listener.hostname, hostnames) {
            found = true;
            attachment.gateways.insert(name.clone());
            attachment.places.extend(listener.binds.iter().map(|bind| Place {
                bind: *bind,
                host: host.clone(),
                mode: StreamMode::default(),
                gateway_identity: None,
            }));
        }
    }
    if !found {
        let offered: Vec<String> = allowed.iter().map(|listener| listener.hostname.to_string()).collect();
        let problem = format!("none of the hostnames is one of Gateway {name}: {}", offered.join(", "));
        reading.error(
            "NoMatchingListenerHostname",
            field,
            problem,
            "correct spec.hostnames or the listener's hostname",
        );
    }
}

/// The hosts that a listener and a route have in common; a route without hosts takes those of the listener.
fn shared(listener: &HostPattern, route: &[HostPattern]) -> Vec<HostPattern> {
    if route.is_empty() {
        return vec![listener.clone()];
    }
    route.iter().filter_map(|host| intersection(listener, host)).collect()
}

fn intersection(left: &HostPattern, right: &HostPattern) -> Option<HostPattern> {
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
