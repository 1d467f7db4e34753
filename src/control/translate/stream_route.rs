//! TLSRoutes, TCPRoutes and UDPRoutes: connections and sessions that are passed on without a look into them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use gateway_api::apis::standard::tlsroutes::{TlsRoute as TLSRoute, TlsRouteParentRefs, TlsRouteRules};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::attach::{self, Gateways, Wanted};
use super::backend_ref::{self, reference};
use super::reading::{Reading, created};
use super::service::{Known, Way};
use super::stream_objects::StreamRouteSpec;
use super::{Part, rules, status};
use crate::model::{
    Bind, HostPattern, ObjectName, RouteKind, RouteTimeouts, Rule, Stream, StreamMode, Target, WeightedBackend,
};

/// The parts of a route that passes bytes or datagrams on.
struct Written<'a> {
    kind: RouteKind,
    metadata: &'a ObjectMeta,
    parents: &'a Option<Vec<TlsRouteParentRefs>>,
    hostnames: &'a [String],
    rules: &'a [TlsRouteRules],
}

/// Derives a TLSRoute.
pub(super) fn tls_route(reading: &mut Reading<'_>, gateways: &Gateways, known: Known<'_>, route: &TLSRoute) -> Part {
    let spec = &route.spec;
    let written = Written {
        kind: RouteKind::Tls,
        metadata: &route.metadata,
        parents: &spec.parent_refs,
        hostnames: &spec.hostnames,
        rules: &spec.rules,
    };
    derive(reading, gateways, known, &written)
}

/// Derives a TCPRoute or UDPRoute.
pub(super) fn plain_route(
    reading: &mut Reading<'_>,
    gateways: &Gateways,
    known: Known<'_>,
    kind: RouteKind,
    metadata: &ObjectMeta,
    spec: &StreamRouteSpec,
) -> Part {
    let written = Written { kind, metadata, parents: &spec.parent_refs, hostnames: &[], rules: &spec.rules };
    derive(reading, gateways, known, &written)
}

/// What makes a difference to where a rule leads: the mode, and the client certificate that is shown.
type Variant = (StreamMode, Option<ObjectName>);

fn derive(reading: &mut Reading<'_>, gateways: &Gateways, known: Known<'_>, written: &Written<'_>) -> Part {
    let mut part = Part { created: created(written.metadata), ..Part::default() };
    let parents = attach::parent_refs!(written.parents);
    let wanted = Wanted { kind: written.kind, parents, hostnames: written.hostnames };
    let Some(attachment) = attach::own(reading, gateways, written.metadata, &wanted) else { return part };
    // One stream for each socket and host, also when Gateways share them.
    let mut places: BTreeMap<(Bind, HostPattern), Variant> = BTreeMap::new();
    for place in attachment.places {
        let (host, mode) = match written.kind {
            RouteKind::Tls => (place.host, place.mode),
            _ => (HostPattern::Any, StreamMode::Passthrough),
        };
        // What is passed on as it is has no room for a certificate.
        let identity = place.gateway_identity.filter(|_| mode == StreamMode::Terminate);
        places.insert((place.bind, host), (mode, identity));
    }
    // A route that is served nowhere is told what is wrong with it all the same.
    let mut derived: BTreeMap<Variant, Arc<Rule>> = BTreeMap::new();
    let nowhere = places.is_empty().then_some((StreamMode::Passthrough, None));
    for variant in places.values().cloned().chain(nowhere) {
        let Entry::Vacant(free) = derived.entry(variant) else { continue };
        let (mode, identity) = free.key();
        let mut rule = rule(reading, known, written, *mode);
        if let Some(secret) = identity {
            rule = rules::shown(reading, known, rule, secret);
        }
        free.insert(Arc::new(rule));
    }
    for ((bind, host), variant) in places {
        let rule = derived[&variant].clone();
        for backend in &rule.backends {
            if let Target::Backend(key) = &backend.target {
                part.backends.insert(key.clone());
            }
        }
        part.streams.push((bind, Stream { host, mode: variant.0, rule }));
    }
    // A BackendTLSPolicy has no say where nothing is decrypted.
    if part.streams.iter().any(|(_, stream)| stream.mode == StreamMode::Terminate) {
        part.gateways = attachment.gateways;
    }
    part.status = status::route(reading, attachment.parents, &status::Rules::default());
    part
}

/// The first rule, which is the only one that counts: nothing tells connections apart.
fn rule(reading: &mut Reading<'_>, known: Known<'_>, written: &Written<'_>, mode: StreamMode) -> Rule {
    let source = reading.source.clone();
    let kind = source.kind.to_ascii_lowercase();
    let name = format!("{kind}/{}/{}", source.name.namespace, source.name.name).into();
    let way = match (written.kind, mode) {
        (RouteKind::Udp, _) => Way::Datagrams,
        (_, StreamMode::Terminate) => Way::Open,
        (_, StreamMode::Passthrough) => Way::Bytes,
    };
    if written.rules.len() > 1 {
        let problem = "only the first rule has an effect";
        reading.warning("NoEffect", "spec.rules[1]", problem, "write the others into routes of their own");
    }
    let mut backends = Vec::new();
    for (index, written) in written.rules.first().into_iter().flat_map(|rule| &rule.backend_refs).enumerate() {
        let field = format!("spec.rules[0].backendRefs[{index}]");
        let weight = backend_ref::weight(reading, written.weight, &field);
        let target = backend_ref::target(reading, known, &reference!(written), way, &field);
        backends.push(WeightedBackend { weight, target, filters: Vec::new() });
    }
    if backends.is_empty() {
        let problem = "there is no backend; connections are closed";
        reading.error("NoBackends", "spec.rules[0].backendRefs", problem, "add a backend");
    }
    Rule { source, name, filters: Vec::new(), backends, timeouts: RouteTimeouts::default(), retry: None }
}
