//! Gateways: whose they are, what their listeners offer, which certificates they present.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutesNamespaces, GatewayListenersAllowedRoutesNamespacesFrom,
    GatewayListenersAllowedRoutesNamespacesSelector, GatewayListenersTlsMode,
};

use super::grant::{self, GATEWAY_GROUP};
use super::reading::Reading;
use super::secret::Certificates;
use super::{Options, annotations, values};
use crate::model::{Bind, CertificateBinding, HostPattern, Labels, ObjectName, Protocol};

/// What routes see of a Gateway of ours.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct GatewayView {
    /// The listeners that are served.
    pub listeners: Vec<Listener>,
    /// Names of listeners that are not, because of an error that their owner was told.
    pub broken: BTreeSet<String>,
}

/// A listener that is served.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Listener {
    pub name: String,
    pub port: u16,
    pub binds: Vec<Bind>,
    pub protocol: Protocol,
    pub hostname: HostPattern,
    pub namespaces: Namespaces,
    /// Whether HTTPRoutes may attach.
    pub http_routes: bool,
}

/// From where routes may attach.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Namespaces {
    Same,
    All,
    /// All of these hold.
    Selector(Vec<Requirement>),
}

/// A requirement on the name of a namespace, the only label that is known here.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Requirement {
    In(Vec<String>),
    NotIn(Vec<String>),
    Never,
}

impl Namespaces {
    /// Whether routes of `namespace` may attach to a Gateway of namespace `own`.
    pub fn allow(&self, namespace: &str, own: &str) -> bool {
        match self {
            Self::Same => namespace == own,
            Self::All => true,
            Self::Selector(requirements) => requirements.iter().all(|requirement| match requirement {
                Requirement::In(names) => names.iter().any(|name| name == namespace),
                Requirement::NotIn(names) => names.iter().all(|name| name != namespace),
                Requirement::Never => false,
            }),
        }
    }
}

/// Who speaks what at a socket: the oldest Gateway decides.
pub(super) type Claims = BTreeMap<Bind, (Protocol, ObjectName)>;

/// Whether a Gateway is ours.
pub(super) fn is_ours(reading: &mut Reading<'_>, options: &Options, gateway: &Gateway) -> bool {
    let class = gateway.spec.gateway_class_name.as_str();
    match reading.objects.gateway_classes.get(&ObjectName::new("", class)) {
        Some(object) => {
            let ours = object.spec.controller_name == options.gateway_controller;
            if ours && object.spec.parameters_ref.is_some() {
                let problem = format!("spec.parametersRef of GatewayClass {class} has no effect");
                reading.warning("InvalidParameters", "spec.gatewayClassName", problem, "remove it");
            }
            ours
        }
        None if class == options.ingress_class => {
            let problem = format!("there is no GatewayClass `{class}`; the Gateway is served all the same");
            let fix = format!("add a GatewayClass with controllerName {}", options.gateway_controller);
            reading.note("GatewayClassNotFound", "spec.gatewayClassName", problem, &fix);
            true
        }
        None => {
            let problem = format!("there is no GatewayClass `{class}`; the Gateway is not served");
            let fix = format!("write `{}`, or add the GatewayClass", options.ingress_class);
            reading.warning("GatewayClassNotFound", "spec.gatewayClassName", problem, &fix);
            false
        }
    }
}

/// Derives a Gateway of ours.
pub(super) fn gateway(
    reading: &mut Reading<'_>,
    certificates: &mut Certificates,
    claims: &mut Claims,
    gateway: &Gateway,
) -> (GatewayView, Vec<(Bind, CertificateBinding)>) {
    annotations::misplaced(reading, gateway.metadata.annotations.as_ref());
    let mut view = GatewayView::default();
    let mut bindings = Vec::new();
    let must_verify_clients = whole(reading, gateway);
    let Some(addresses) = addresses(reading, gateway) else { return (view, bindings) };
    let mut names = BTreeSet::new();
    for (index, listener) in gateway.spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{index}]");
        if !names.insert(listener.name.as_str()) {
            let problem = format!("there are two listeners named `{}`; the first is served", listener.name);
            reading.error("DuplicateListener", format!("{field}.name"), problem, "give it another name");
            continue;
        }
        let parsed = parse(reading, listener, &field, addresses.as_deref(), must_verify_clients);
        let Some(mut parsed) = parsed.filter(|parsed| !conflicts(reading, &view, parsed, &field)) else {
            view.broken.insert(listener.name.clone());
            continue;
        };
        parsed.binds.retain(|bind| claim(reading, claims, *bind, parsed.protocol, &field));
        if parsed.binds.is_empty() {
            view.broken.insert(listener.name.clone());
            continue;
        }
        if parsed.protocol == Protocol::Https {
            present(reading, certificates, listener, &parsed, &field, &mut bindings);
        }
        view.listeners.push(parsed);
    }
    if gateway.spec.listeners.is_empty() {
        reading.error("NoListeners", "spec.listeners", "there is no listener", "add one with name, port and protocol");
    }
    (view, bindings)
}

/// Fields of the whole Gateway. Says whether clients must show certificates, which this version cannot verify.
fn whole(reading: &mut Reading<'_>, gateway: &Gateway) -> bool {
    let spec = &gateway.spec;
    let none = "remove it; it has no effect in this version";
    if let Some(infrastructure) = &spec.infrastructure {
        if infrastructure.parameters_ref.is_some() {
            let problem = "spec.infrastructure.parametersRef has no effect";
            reading.warning("InvalidParameters", "spec.infrastructure.parametersRef", problem, none);
        }
        if infrastructure.labels.is_some() || infrastructure.annotations.is_some() {
            let problem = "no objects are made for a Gateway, so labels and annotations have no effect";
            reading.warning("NotImplemented", "spec.infrastructure", problem, none);
        }
    }
    if spec.allowed_listeners.is_some() {
        let problem = "ListenerSets are not supported";
        reading.warning("NotImplemented", "spec.allowedListeners", problem, none);
    }
    let Some(tls) = &spec.tls else { return false };
    if tls.backend.is_some() {
        let problem = "no client certificate is shown to backends";
        reading.warning("NotImplemented", "spec.tls.backend", problem, none);
    }
    let Some(frontend) = &tls.frontend else { return false };
    let per_port = frontend.per_port.iter().flatten().any(|port| port.tls.validation.is_some());
    frontend.default.validation.is_some() || per_port
}

/// The addresses to serve at; `Some(None)`: where the settings say; `None`: none that can be used.
fn addresses(reading: &mut Reading<'_>, gateway: &Gateway) -> Option<Option<Vec<IpAddr>>> {
    let Some(written) = gateway.spec.addresses.as_ref().filter(|addresses| !addresses.is_empty()) else {
        return Some(None);
    };
    let mut usable = Vec::new();
    for (index, address) in written.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or_default();
        if kind != "IPAddress" {
            let problem = format!("addresses of type {kind} are not supported");
            reading.error("UnsupportedAddress", field, problem, "write an address of type IPAddress");
        } else if let Ok(ip) = value.parse() {
            usable.push(ip);
        } else {
            let problem = format!("`{value}` is not an IP address");
            reading.error("UnsupportedAddress", field, problem, "write an address like 127.0.0.1");
        }
    }
    if usable.is_empty() {
        let problem = "none of the addresses can be used; the Gateway is not served";
        reading.error(
            "UnsupportedAddress",
            "spec.addresses",
            problem,
            "remove them to serve at the settings' addresses",
        );
        return None;
    }
    Some(Some(usable))
}

fn parse(
    reading: &mut Reading<'_>,
    listener: &GatewayListeners,
    field: &str,
    addresses: Option<&[IpAddr]>,
    must_verify_clients: bool,
) -> Option<Listener> {
    let Some(port) = values::port(listener.port) else {
        let problem = format!("{} is not a port", listener.port);
        reading.error("UnsupportedValue", format!("{field}.port"), problem, "write a number from 1 to 65535");
        return None;
    };
    let protocol = match listener.protocol.as_str() {
        "HTTP" => Protocol::Http,
        "HTTPS" => Protocol::Https,
        other => {
            let problem = format!("the protocol {other} is not supported");
            reading.error("UnsupportedProtocol", format!("{field}.protocol"), problem, "write HTTP or HTTPS");
            return None;
        }
    };
    let binds = match (addresses, port, protocol) {
        (Some(addresses), ..) => {
            addresses.iter().map(|address| Bind::Address(SocketAddr::new(*address, port))).collect()
        }
        (None, 80, Protocol::Http) => vec![Bind::Http],
        (None, 443, Protocol::Https) => vec![Bind::Https],
        (None, 80 | 443, _) => {
            let spoken = if port == 80 { "HTTP" } else { "HTTPS" };
            let problem = format!("port {port} is served at the address for {spoken}");
            let fix = format!("write protocol: {spoken}, or another port");
            reading.error("ProtocolConflict", format!("{field}.protocol"), problem, &fix);
            return None;
        }
        (None, ..) => vec![Bind::Port(port)],
    };
    let hostname = match listener.hostname.as_deref().filter(|name| !name.is_empty()) {
        None => HostPattern::Any,
        Some(text) => match values::host_pattern(text, Labels::Many) {
            Ok(hostname) => hostname,
            Err(problem) => {
                let fix = "write a name like shop.example.com or *.example.com";
                reading.error("InvalidHostname", format!("{field}.hostname"), problem, fix);
                return None;
            }
        },
    };
    if !tls(reading, listener, field, protocol, must_verify_clients) {
        return None;
    }
    let allowed = listener.allowed_routes.as_ref();
    let namespaces = namespaces(reading, allowed.and_then(|allowed| allowed.namespaces.as_ref()), field);
    let mut http_routes = true;
    if let Some(kinds) = allowed.and_then(|allowed| allowed.kinds.as_ref()).filter(|kinds| !kinds.is_empty()) {
        http_routes = false;
        for (index, kind) in kinds.iter().enumerate() {
            let group = kind.group.as_deref().unwrap_or(GATEWAY_GROUP);
            if group == GATEWAY_GROUP && kind.kind == "HTTPRoute" {
                http_routes = true;
            } else {
                let problem = format!("routes of kind {} are not supported", kind.kind);
                let field = format!("{field}.allowedRoutes.kinds[{index}]");
                reading.error("InvalidRouteKinds", field, problem, "write kind: HTTPRoute");
            }
        }
    }
    Some(Listener { name: listener.name.clone(), port, binds, protocol, hostname, namespaces, http_routes })
}

/// Whether the TLS of a listener can be served.
fn tls(
    reading: &mut Reading<'_>,
    listener: &GatewayListeners,
    field: &str,
    protocol: Protocol,
    must_verify_clients: bool,
) -> bool {
    let field = format!("{field}.tls");
    match (&listener.tls, protocol) {
        (None, Protocol::Http | Protocol::Tcp | Protocol::Udp) => true,
        (Some(_), Protocol::Http | Protocol::Tcp | Protocol::Udp) => {
            let problem = "tls has no effect on a listener of protocol HTTP";
            reading.warning("NoEffect", field, problem, "write protocol: HTTPS, or remove it");
            true
        }
        (None, Protocol::Https) => {
            let problem = "a listener of protocol HTTPS needs a certificate";
            reading.error("InvalidCertificateRef", field, problem, "name a Secret in tls.certificateRefs");
            false
        }
        (Some(tls), Protocol::Https) => {
            if tls.mode == Some(GatewayListenersTlsMode::Passthrough) {
                let problem = "TLS passthrough is not supported";
                reading.error("UnsupportedValue", format!("{field}.mode"), problem, "write mode: Terminate");
                return false;
            }
            if must_verify_clients {
                let problem = "client certificates cannot be verified in this version, so the listener is not served";
                let fix = "remove spec.tls.frontend if everyone may connect";
                reading.error("NotImplemented", "spec.tls.frontend", problem, fix);
                return false;
            }
            if tls.options.as_ref().is_some_and(|options| !options.is_empty()) {
                let problem = "no TLS option is known";
                reading.warning("NotImplemented", format!("{field}.options"), problem, "remove them");
            }
            true
        }
    }
}

fn namespaces(
    reading: &mut Reading<'_>,
    written: Option<&GatewayListenersAllowedRoutesNamespaces>,
    field: &str,
) -> Namespaces {
    use GatewayListenersAllowedRoutesNamespacesFrom as From;
    let field = format!("{field}.allowedRoutes.namespaces");
    match written.and_then(|namespaces| namespaces.from.as_ref()) {
        None | Some(From::Same) => Namespaces::Same,
        Some(From::All) => Namespaces::All,
        Some(From::Selector) => match written.and_then(|namespaces| namespaces.selector.as_ref()) {
            Some(selector) => Namespaces::Selector(requirements(reading, selector, &format!("{field}.selector"))),
            None => {
                let problem = "from: Selector needs a selector; no route can attach";
                reading.error("InvalidSelector", field, problem, "add selector.matchLabels");
                Namespaces::Selector(vec![Requirement::Never])
            }
        },
    }
}

fn requirements(
    reading: &mut Reading<'_>,
    selector: &GatewayListenersAllowedRoutesNamespacesSelector,
    field: &str,
) -> Vec<Requirement> {
    /// The label that every namespace has.
    const NAME: &str = "kubernetes.io/metadata.name";
    let mut all = Vec::new();
    let unknown = |reading: &mut Reading<'_>, field: String, key: &str| {
        let problem = format!("labels of namespaces are not known here, but `{key}` is asked for; no route can attach");
        let fix = "select on kubernetes.io/metadata.name, or write from: All";
        reading.error("UnknownNamespaceLabel", field, problem, fix);
        Requirement::Never
    };
    for (key, value) in selector.match_labels.iter().flatten() {
        all.push(if key == NAME {
            Requirement::In(vec![value.clone()])
        } else {
            unknown(reading, format!("{field}.matchLabels[{key}]"), key)
        });
    }
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let values = expression.values.clone().unwrap_or_default();
        let field = format!("{field}.matchExpressions[{index}]");
        all.push(match (expression.key == NAME, expression.operator.as_str()) {
            (true, "In") => Requirement::In(values),
            (true, "NotIn") => Requirement::NotIn(values),
            (true, "Exists") => continue,
            (true, "DoesNotExist") => Requirement::Never,
            (true, operator) => {
                let problem = format!("`{operator}` is not an operator; no route can attach");
                let fix = "write In, NotIn, Exists or DoesNotExist";
                reading.error("InvalidSelector", format!("{field}.operator"), problem, fix);
                Requirement::Never
            }
            (false, _) => unknown(reading, field, &expression.key),
        });
    }
    all
}

/// Whether an earlier listener of the same Gateway stands in the way.
fn conflicts(reading: &mut Reading<'_>, view: &GatewayView, listener: &Listener, field: &str) -> bool {
    for earlier in view.listeners.iter().filter(|earlier| earlier.port == listener.port) {
        if earlier.protocol != listener.protocol {
            let problem = format!("port {} speaks another protocol in listener `{}`", listener.port, earlier.name);
            reading.error("ProtocolConflict", format!("{field}.protocol"), problem, "use another port");
            return true;
        }
        if earlier.hostname == listener.hostname {
            let problem = format!("listener `{}` has the same port and hostname", earlier.name);
            reading.error("HostnameConflict", format!("{field}.hostname"), problem, "use another port or hostname");
            return true;
        }
    }
    false
}

/// Takes a socket for a protocol, unless an older Gateway speaks another one there.
fn claim(reading: &mut Reading<'_>, claims: &mut Claims, bind: Bind, protocol: Protocol, field: &str) -> bool {
    let own = reading.source.name.clone();
    let (spoken, by) = claims.entry(bind).or_insert_with(|| (protocol, own));
    if *spoken == protocol {
        return true;
    }
    let problem = format!("{bind} speaks another protocol in Gateway {by}, which is older");
    reading.error("ProtocolConflict", format!("{field}.protocol"), problem, "use another port");
    false
}

fn present(
    reading: &mut Reading<'_>,
    certificates: &mut Certificates,
    listener: &GatewayListeners,
    parsed: &Listener,
    field: &str,
    bindings: &mut Vec<(Bind, CertificateBinding)>,
) {
    let references = listener.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten());
    let mut count = 0;
    for (index, reference) in references.enumerate() {
        count += 1;
        let field = format!("{field}.tls.certificateRefs[{index}]");
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        if !group.is_empty() || kind != "Secret" {
            let problem = format!("certificates of kind {kind} are not supported");
            reading.error("InvalidCertificateRef", field, problem, "name a Secret of type kubernetes.io/tls");
            continue;
        }
        let namespace: Arc<str> = reference.namespace.as_deref().map_or_else(|| reading.namespace(), Into::into);
        let name = ObjectName::new(namespace, reference.name.as_str());
        if !grant::permitted(reading, "Secret", &name) {
            let problem = format!("Secret {name} is in another namespace, and no ReferenceGrant there permits this");
            let fix = format!("add a ReferenceGrant in namespace {}, from Gateway to Secret", name.namespace);
            reading.error("RefNotPermitted", field, problem, &fix);
            continue;
        }
        let Some((certificate, names)) = certificates.load(reading, &name, &field) else { continue };
        // The first certificate is the listener's; further ones are for the names that they contain.
        let hosts = if index == 0 { vec![parsed.hostname.clone()] } else { names };
        for bind in &parsed.binds {
            for host in &hosts {
                let binding = CertificateBinding { host: host.clone(), certificate: certificate.clone() };
                bindings.push((*bind, binding));
            }
        }
    }
    if count == 0 {
        let problem = "a listener of protocol HTTPS needs a certificate; clients get an alert";
        let field = format!("{field}.tls.certificateRefs");
        reading.error("InvalidCertificateRef", field, problem, "name a Secret of type kubernetes.io/tls");
    }
}
