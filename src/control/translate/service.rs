//! Backends: ports of Services, their endpoints, what these speak and how they are verified.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::backend_tls::Policies;
use super::color::Plan;
use super::reading::{Dep, Reading, annotation};
use super::{Objects, secret, values};
use crate::model::{
    Access, Backend, BackendKey, Certificate, ColorEndpoints, Condition, Endpoint, EndpointSource, HealthCheck,
    ObjectName, Target, UpstreamProtocol, UpstreamTls,
};

/// Plans by Service; a Service without annotations of Weir has none.
pub(super) type Plans = HashMap<ObjectName, Arc<Plan>>;

/// EndpointSlices by the Service that they belong to.
pub(super) type SlicesOf = HashMap<ObjectName, BTreeSet<ObjectName>>;

/// What routes are derived from beside their own objects.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub plans: &'a Plans,
    pub policies: &'a Policies,
    /// Whether endpoints may be at loopback addresses.
    pub local_endpoints: bool,
}

/// A port as a route names it.
#[derive(Clone, Copy)]
pub(super) enum PortName<'a> {
    Number(u16),
    Name(&'a str),
}

/// What a route sends to a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Requests, or bytes that were inside TLS: in TLS again where the backend wants that.
    Open,
    /// Bytes as they come, over TCP.
    Bytes,
    /// Datagrams.
    Datagrams,
}

impl Way {
    pub const fn access(self) -> Access {
        match self {
            Self::Open | Self::Bytes => Access::Tcp,
            Self::Datagrams => Access::Udp,
        }
    }
}

/// What routes see of a Service. When it stays equal, no route that names the Service is derived again.
pub(super) fn same_shape(old: &Service, new: &Service) -> bool {
    fn shape(service: &Service) -> impl PartialEq + '_ {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        let ports: Vec<_> = ports
            .into_iter()
            .flatten()
            .map(|port| (port.port, port.name.as_deref(), port.app_protocol.as_deref(), port.protocol.as_deref()))
            .collect();
        let written = |key| annotation(&service.metadata, key);
        let portless = is_external_name(service) || written("weir.dev/endpoints").is_some();
        (ports, portless, written("weir.dev/upstream-tls-ca"), written("weir.dev/upstream-tls-server-name"))
    }
    shape(old) == shape(new)
}

/// The label that says which Service an EndpointSlice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The Service of an EndpointSlice.
pub(super) fn service_of(slice: &k8s_openapi::api::discovery::v1::EndpointSlice) -> Option<ObjectName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(ObjectName::new(slice.metadata.namespace.as_deref().unwrap_or(""), name.as_str()))
}

/// Where a reference from a route leads. What is wrong is told to the owner of the route.
pub(super) fn target(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    service: &ObjectName,
    port: PortName<'_>,
    way: Way,
    field: &str,
) -> Target {
    let access = way.access();
    let invalid = |why: String| Target::Invalid { why: why.into() };
    let Some(object) = reading.service_shape(service) else {
        let why = format!("Service {service} does not exist");
        reading.error(
            "BackendNotFound",
            field,
            &*why,
            "create the Service or correct the name; its share is answered with 500",
        );
        return invalid(why);
    };
    let Some(found) = find_port(object, port, &access) else {
        let wanted = match port {
            PortName::Number(number) => number.to_string(),
            PortName::Name(name) => format!("named `{name}`"),
        };
        let why = format!("Service {service} has no {} port {wanted}", transport(&access));
        let fix = match ports_of(object, &access).as_slice() {
            [] => "add the port to the Service; its share is answered with 500".to_owned(),
            ports => format!("its ports are {}", ports.join(", ")),
        };
        reading.error("PortNotFound", field, &*why, &fix);
        return invalid(why);
    };
    let port = ports(object, &access).find(|port| port.port == i32::from(found));
    let trust = if way == Way::Open { trust(reading, known, service, port) } else { Ok(None) };
    // Where a policy says that TLS is spoken, it does not matter. An Ingress says nothing about protocols, and what its
    // controllers do not know they take for HTTP; a stream is spoken by those at its ends.
    let by_policy = matches!(&trust, Ok(Some(Trust { by_policy: true, .. })));
    let requests = matches!(reading.source.kind, "HTTPRoute" | "GRPCRoute");
    if requests && !by_policy && matches!(spoken(port), Spoken::Unknown) {
        let written = port.and_then(|port| port.app_protocol.as_deref()).unwrap_or_default();
        let why = format!("Service {service} speaks `{written}` at port {found}, which is not known here");
        let fix = format!("write {KNOWN_PROTOCOLS} as appProtocol, or remove it; its share is answered with 500");
        reading.error("UnsupportedProtocol", field, &*why, &fix);
        return invalid(why);
    }
    if let Err(why) = trust {
        let why = format!("Service {service} is not used: {why}");
        let fix = "correct the annotation of the Service, or its BackendTLSPolicy";
        reading.error("BackendNotTrusted", field, &*why, fix);
        return invalid(why);
    }
    Target::Backend(BackendKey { service: service.clone(), port: found, access })
}

/// The transport protocol of an access, as Services and EndpointSlices write it.
fn transport(access: &Access) -> &'static str {
    match access {
        Access::Tcp | Access::As(_) => "TCP",
        Access::Udp => "UDP",
    }
}

/// The ports of a Service that are of this transport protocol; TCP where none is written.
fn ports<'a>(service: &'a Service, access: &Access) -> impl Iterator<Item = &'a ServicePort> + use<'a> {
    let wanted = transport(access);
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.into_iter().flatten().filter(move |port| port.protocol.as_deref().unwrap_or("TCP") == wanted)
}

fn ports_of(service: &Service, access: &Access) -> Vec<String> {
    let show = |port: &ServicePort| match &port.name {
        Some(name) => format!("{} ({name})", port.port),
        None => port.port.to_string(),
    };
    ports(service, access).map(show).collect()
}

fn find_port(service: &Service, wanted: PortName<'_>, access: &Access) -> Option<u16> {
    // A Service of type ExternalName, or with endpoints in an annotation, need not list its ports.
    if let PortName::Number(number) = wanted
        && service.spec.as_ref().is_none_or(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty))
        && (is_external_name(service) || annotation(&service.metadata, "weir.dev/endpoints").is_some())
    {
        return Some(number);
    }
    let fits = |port: &&ServicePort| match wanted {
        PortName::Number(number) => port.port == i32::from(number),
        PortName::Name(name) => port.name.as_deref() == Some(name),
    };
    ports(service, access).find(fits).and_then(|port| values::port(port.port))
}

fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

/// How endpoints are verified, and who says so.
struct Trust {
    tls: UpstreamTls,
    /// A BackendTLSPolicy; then TLS is spoken whatever else is written.
    by_policy: bool,
}

/// How the endpoints of a port are verified, when a BackendTLSPolicy or the annotations say so. An error means: must not
/// be used.
fn trust(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    service: &ObjectName,
    port: Option<&ServicePort>,
) -> Result<Option<Trust>, String> {
    let settings = known.plans.get(service).map(|plan| &plan.settings);
    if let Some(why) = settings.and_then(|settings| settings.blocked.as_ref()) {
        return Err(why.clone());
    }
    reading.deps.push(Dep::Policies(service.clone()));
    if let Some(trust) = known.policies.trust(service, port.and_then(|port| port.name.as_deref())) {
        return match trust {
            Ok(tls) => Ok(Some(Trust { tls: tls.clone(), by_policy: true })),
            Err(why) => Err(format!("its BackendTLSPolicy cannot be obeyed: {why}")),
        };
    }
    let Some(settings) = settings else { return Ok(None) };
    let Some(ca) = &settings.tls_ca else {
        let named = settings.tls_server_name.clone();
        let tls = named.map(|name| UpstreamTls { server_name: Some(name), ..UpstreamTls::default() });
        return Ok(tls.map(|tls| Trust { tls, by_policy: false }));
    };
    let name = ObjectName::new(service.namespace.clone(), ca.clone());
    let from_map = roots_in_config_map(reading, &name);
    let from_secret = roots_in_secret(reading, &name);
    let Some(pem) = from_map.or(from_secret) else {
        return Err(format!("weir.dev/upstream-tls-ca: neither a ConfigMap nor a Secret {name} has the key ca.crt"));
    };
    if !holds_certificates(pem) {
        return Err(format!("weir.dev/upstream-tls-ca: ca.crt of {name} contains no certificate in PEM"));
    }
    let tls = UpstreamTls {
        server_name: settings.tls_server_name.clone(),
        ca_pem: Some(pem.into()),
        ..UpstreamTls::default()
    };
    Ok(Some(Trust { tls, by_policy: false }))
}

/// The key `ca.crt` of a ConfigMap.
pub(super) fn roots_in_config_map<'a>(reading: &mut Reading<'a>, name: &ObjectName) -> Option<&'a [u8]> {
    let map = reading.config_map(name)?;
    let text = map.data.as_ref().and_then(|data| data.get("ca.crt")).map(String::as_bytes);
    text.or_else(|| map.binary_data.as_ref().and_then(|data| data.get("ca.crt")).map(|bytes| bytes.0.as_slice()))
}

/// The key `ca.crt` of a Secret.
pub(super) fn roots_in_secret<'a>(reading: &mut Reading<'a>, name: &ObjectName) -> Option<&'a [u8]> {
    reading.secret(name).and_then(|object| secret::value(object, "ca.crt"))
}

/// Whether this is PEM with at least one certificate in it.
pub(super) fn holds_certificates(pem: &[u8]) -> bool {
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    roots.is_ok_and(|roots| !roots.is_empty())
}

/// For those who write another `appProtocol`.
const KNOWN_PROTOCOLS: &str = "http, https, kubernetes.io/h2c, kubernetes.io/ws or kubernetes.io/wss";

/// What an appProtocol says that is spoken. A table of the well-known ones.
enum Spoken {
    Clear(UpstreamProtocol),
    Tls,
    /// Nothing is written.
    Unsaid,
    Unknown,
}

fn spoken(port: Option<&ServicePort>) -> Spoken {
    let written = port.and_then(|port| port.app_protocol.as_deref());
    match written.map(str::to_ascii_lowercase).as_deref() {
        None => Spoken::Unsaid,
        Some("http" | "kubernetes.io/ws" | "ws" | "http/1.1") => Spoken::Clear(UpstreamProtocol::Http1),
        Some("kubernetes.io/h2c" | "h2c" | "http2" | "grpc") => Spoken::Clear(UpstreamProtocol::H2c),
        Some("https" | "tls" | "wss" | "kubernetes.io/wss" | "grpcs") => Spoken::Tls,
        Some(_) => Spoken::Unknown,
    }
}

/// Whether TLS is spoken to a backend, so that a client certificate can be shown to it.
pub(super) fn speaks_tls(reading: &mut Reading<'_>, known: Known<'_>, key: &BackendKey) -> bool {
    let service = reading.service_shape(&key.service);
    let port = service.and_then(|it| ports(it, &key.access).find(|port| port.port == i32::from(key.port)));
    let trust = trust(reading, known, &key.service, port).unwrap_or_default();
    match (trust, spoken(port)) {
        (Some(Trust { by_policy: true, .. }), _) | (_, Spoken::Tls) | (Some(_), Spoken::Unsaid) => true,
        (_, Spoken::Clear(_) | Spoken::Unknown) | (None, Spoken::Unsaid) => false,
    }
}

/// Derives a backend that a route names. `identity` is the client certificate that is shown to it.
pub(super) fn backend(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    slices: &SlicesOf,
    identity: Option<Arc<Certificate>>,
    key: &BackendKey,
) -> Backend {
    let none = Plan::default();
    let plans = known.plans;
    let plan = plans.get(&key.service).map_or(&none, |plan| plan);
    let settings = &plan.settings;
    let service = reading.service(&key.service);
    let port = service.and_then(|service| ports(service, &key.access).find(|port| port.port == i32::from(key.port)));
    let spoken = protocol(reading, known, key, port);
    let health_path = settings.health_path.clone().filter(|_| spoken.is_some());
    // A stream may keep alive what must not be used otherwise: nothing of ours goes there in clear text.
    let mut protocol = spoken.unwrap_or_else(|| UpstreamProtocol::Tls(UpstreamTls::default()));
    if let UpstreamProtocol::Tls(tls) = &mut protocol {
        tls.client = identity;
    }
    let colors = colors(reading, known, slices, key);
    for color in &colors {
        tell_about(reading, color, slices);
    }
    Backend {
        key: key.clone(),
        protocol,
        balance: settings.balance.clone(),
        health: health_path.map(|path| HealthCheck {
            path,
            interval: settings.health_interval,
            timeout: settings.health_timeout,
            healthy: settings.health_healthy,
            unhealthy: settings.health_unhealthy,
        }),
        outlier: settings.outlier.clone(),
        limits: settings.limits,
        slow_start: settings.slow_start,
        empty_hold: settings.empty_hold,
        colors,
    }
}

/// What is spoken to a backend; `None` when it must not be used.
fn protocol(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    key: &BackendKey,
    port: Option<&ServicePort>,
) -> Option<UpstreamProtocol> {
    if key.access == Access::Udp {
        return Some(UpstreamProtocol::default());
    }
    // An error was told by `target`, and no request comes here.
    let trust = match trust(reading, known, &key.service, port).ok()? {
        Some(Trust { tls, by_policy: true }) => return Some(UpstreamProtocol::Tls(tls)),
        other => other,
    };
    let field = format!("spec.ports[port={}].appProtocol", key.port);
    let clear = match spoken(port) {
        Spoken::Unsaid if trust.is_some() => None,
        Spoken::Unsaid => Some(UpstreamProtocol::Http1),
        Spoken::Clear(protocol) => Some(protocol),
        Spoken::Tls => None,
        Spoken::Unknown => {
            let written = port.and_then(|port| port.app_protocol.as_deref());
            let problem = format!("appProtocol `{}` is not known; HTTP/1.1 is spoken", written.unwrap_or_default());
            let fix = format!("write {KNOWN_PROTOCOLS}");
            reading.warning("UnknownAppProtocol", field.clone(), problem, &fix);
            Some(UpstreamProtocol::Http1)
        }
    };
    Some(match (clear, trust) {
        (Some(clear), None) => clear,
        (Some(clear), Some(_)) => {
            let problem = "weir.dev/upstream-tls-* has no effect, because appProtocol says clear text";
            reading.warning("NoEffect", field, problem, "write appProtocol: https");
            clear
        }
        (None, trust) => {
            let tls = trust.map(|trust| trust.tls).unwrap_or_default();
            if tls.ca_pem.is_none() {
                let problem = "certificates of the endpoints are not verified";
                reading.note("UpstreamNotVerified", field, problem, "name the roots with weir.dev/upstream-tls-ca");
            }
            UpstreamProtocol::Tls(tls)
        }
    })
}

/// The endpoints of a backend by color: the whole of what changes when an EndpointSlice changes.
pub(super) fn colors(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    slices: &SlicesOf,
    key: &BackendKey,
) -> Vec<ColorEndpoints> {
    let plans = known.plans;
    let apex_port_name = reading.objects.services.get(&key.service).and_then(|service| {
        let port = ports(service, &key.access).find(|port| port.port == i32::from(key.port))?;
        port.name.clone()
    });
    let colors = plans.get(&key.service).map(|plan| plan.colors.as_slice()).unwrap_or_default();
    let mut endpoints = |color: Arc<str>, service: &ObjectName, port: u16, same_name: Option<&str>| {
        let mut source = source(reading, plans, slices, key, service, port, same_name);
        if !known.local_endpoints {
            source = without_local(reading, source, service);
        }
        ColorEndpoints { color, service: service.clone(), source }
    };
    if colors.is_empty() {
        return vec![endpoints("".into(), &key.service, key.port, None)];
    }
    let of_color = |color: &super::color::Color| {
        let same_name = if color.port.is_none() { apex_port_name.as_deref() } else { None };
        endpoints(color.name.clone(), &color.child, color.port.unwrap_or(key.port), same_name)
    };
    colors.iter().map(of_color).collect()
}

/// Leaves out what [`is_local`]: whoever writes a Service must not reach the operator's port.
fn without_local(reading: &mut Reading<'_>, source: EndpointSource, service: &ObjectName) -> EndpointSource {
    let refused = |what: &dyn std::fmt::Display| {
        format!("{what} of Service {service} is an address of the machine itself or of its link, and is not used")
    };
    let problem = match &source {
        EndpointSource::Name { host, .. } if *host.as_ref() == *"localhost" || host.ends_with(".localhost") => {
            refused(host)
        }
        EndpointSource::Listed(listed) => {
            let Some(local) = listed.iter().find(|endpoint| is_local(endpoint.address.ip())) else { return source };
            let problem = refused(&local.address);
            let others: Arc<[Endpoint]> = listed.iter().filter(|it| !is_local(it.address.ip())).cloned().collect();
            if !others.is_empty() {
                reading.error(LOCAL_ENDPOINT, "", problem, ELSEWHERE);
                return EndpointSource::Listed(others);
            }
            problem
        }
        _ => return source,
    };
    EndpointSource::Missing { why: format!("{LOCAL_ENDPOINT}: {problem}").into() }
}

/// The reason for endpoints that must not be used, and what helps.
const LOCAL_ENDPOINT: &str = "LocalEndpoint";
const ELSEWHERE: &str = "name an address in the cluster";

/// Whether packets to this address stay on this machine (the unspecified address means the same as loopback) or on its
/// link, where the metadata service of a cloud answers. The API refuses the same in EndpointSlices, but not in what leads
/// elsewhere: a name, an annotation.
pub fn is_local(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let of_the_link = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    address.is_loopback() || address.is_unspecified() || address.is_multicast() || of_the_link
}

/// Endpoints of one port of one Service, reached as `key` says. `or_named` is a second choice for the port.
fn source(
    reading: &mut Reading<'_>,
    plans: &Plans,
    slices: &SlicesOf,
    key: &BackendKey,
    name: &ObjectName,
    port: u16,
    or_named: Option<&str>,
) -> EndpointSource {
    reading.deps.push(Dep::Endpoints(name.clone()));
    let missing = |why: String| EndpointSource::Missing { why: why.into() };
    let Some(service) = reading.service(name) else {
        return missing(format!("ChildMissing: Service {name} does not exist"));
    };
    if let Some(listed) = plans.get(name).and_then(|plan| plan.settings.endpoints.as_ref()) {
        let endpoint = |address: &SocketAddr| ready(*address);
        return EndpointSource::Listed(sorted(listed.iter().map(endpoint).collect()));
    }
    let named = || or_named.and_then(|name| find_port(service, PortName::Name(name), &key.access));
    let Some(port) = find_port(service, PortName::Number(port), &key.access).or_else(named) else {
        let ports = ports_of(service, &key.access).join(", ");
        let ports = if ports.is_empty() { "none".to_owned() } else { ports };
        let transport = transport(&key.access);
        return missing(format!("PortMismatch: Service {name} has no {transport} port {port}; its ports: {ports}"));
    };
    if is_external_name(service) {
        let host = service.spec.as_ref().and_then(|spec| spec.external_name.as_deref()).unwrap_or_default();
        let host = host.trim_end_matches('.');
        if let Ok(address) = host.parse::<IpAddr>() {
            return EndpointSource::Listed(sorted(vec![ready(SocketAddr::new(address, port))]));
        }
        return match values::host_name(host) {
            Ok(host) => EndpointSource::Name { host, port },
            Err(wrong) => missing(format!("ChildMissing: spec.externalName of Service {name}: {wrong}")),
        };
    }
    let transport = transport(&key.access);
    let port = ports(service, &key.access).find(|candidate| candidate.port == i32::from(port));
    let listed = match slices.get(name) {
        Some(names) if !names.is_empty() => from_slices(reading.objects, names, port, transport),
        _ => from_endpoints(reading.objects, name, port, transport),
    };
    EndpointSource::Listed(sorted(listed))
}

fn ready(address: SocketAddr) -> Endpoint {
    Endpoint { address, condition: Condition::Ready, pod: None, zone: None }
}

fn from_slices(
    objects: &Objects,
    names: &BTreeSet<ObjectName>,
    port: Option<&ServicePort>,
    transport: &str,
) -> Vec<Endpoint> {
    let wanted = port.and_then(|port| port.name.as_deref()).unwrap_or_default();
    let mut all = Vec::new();
    for slice in names.iter().filter_map(|name| objects.endpoint_slices.get(name)) {
        let number = match &slice.ports {
            Some(ports) if !ports.is_empty() => ports
                .iter()
                .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == transport)
                .find(|port| port.name.as_deref().unwrap_or_default() == wanted)
                .and_then(|port| port.port),
            // "If this is empty, all ports": then the number is the Service's.
            _ => port.map(target_number),
        };
        let Some(number) = number.and_then(values::port) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let condition = match &endpoint.conditions {
                None => Condition::Ready,
                Some(conditions) => {
                    let terminating = conditions.terminating.unwrap_or(false);
                    match (conditions.ready.unwrap_or(!terminating), terminating) {
                        (true, _) => Condition::Ready,
                        (false, true) if conditions.serving.unwrap_or(false) => Condition::Terminating,
                        (false, _) => Condition::NotReady,
                    }
                }
            };
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            let pod: Option<Arc<str>> = pod.and_then(|target| target.name.as_deref()).map(Into::into);
            let zone: Option<Arc<str>> = endpoint.zone.as_deref().map(Into::into);
            // All addresses of one entry are the same pod; the API says to use the first.
            let Some(address) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else {
                continue;
            };
            all.push(Endpoint { address: SocketAddr::new(address, number), condition, pod, zone });
        }
    }
    one_family_per_pod(all)
}

/// A pod with an IPv4 and an IPv6 address is one endpoint, not two with half the load each.
fn one_family_per_pod(mut all: Vec<Endpoint>) -> Vec<Endpoint> {
    let in_ipv4: BTreeSet<Arc<str>> =
        all.iter().filter(|endpoint| endpoint.address.is_ipv4()).filter_map(|endpoint| endpoint.pod.clone()).collect();
    all.retain(|endpoint| {
        endpoint.address.is_ipv4() || !endpoint.pod.as_ref().is_some_and(|pod| in_ipv4.contains(pod))
    });
    all
}

fn target_number(port: &ServicePort) -> i32 {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    match &port.target_port {
        Some(IntOrString::Int(number)) => *number,
        _ => port.port,
    }
}

fn from_endpoints(objects: &Objects, name: &ObjectName, port: Option<&ServicePort>, transport: &str) -> Vec<Endpoint> {
    let wanted = port.and_then(|port| port.name.as_deref()).unwrap_or_default();
    let mut all = Vec::new();
    let subsets = objects.endpoints.get(name).and_then(|endpoints| endpoints.subsets.as_ref());
    for subset in subsets.into_iter().flatten() {
        let ports = subset.ports.as_deref().unwrap_or_default();
        let number = ports
            .iter()
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == transport)
            .find(|port| port.name.as_deref().unwrap_or_default() == wanted)
            .map(|port| port.port);
        let Some(number) = number.and_then(values::port) else { continue };
        let lists = [(&subset.addresses, Condition::Ready), (&subset.not_ready_addresses, Condition::NotReady)];
        for (list, condition) in lists {
            for address in list.iter().flatten() {
                let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
                let pod = address.target_ref.as_ref().and_then(|target| target.name.as_deref()).map(Into::into);
                all.push(Endpoint { address: SocketAddr::new(ip, number), condition, pod, zone: None });
            }
        }
    }
    all
}

/// Sorted by address, each address once: of two entries the better condition counts.
fn sorted(all: Vec<Endpoint>) -> Arc<[Endpoint]> {
    let mut by_address: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for endpoint in all {
        match by_address.get(&endpoint.address) {
            Some(known) if *known <= endpoint => {}
            _ => {
                by_address.insert(endpoint.address, endpoint);
            }
        }
    }
    by_address.into_values().collect()
}

fn tell_about(reading: &mut Reading<'_>, color: &ColorEndpoints, slices: &SlicesOf) {
    let field = if color.color.is_empty() { String::new() } else { super::annotations::field("weir.dev/colors") };
    match &color.source {
        EndpointSource::Missing { why } => {
            let (reason, problem) = why.split_once(": ").unwrap_or(("", why));
            let (reason, fix) = match reason {
                LOCAL_ENDPOINT => (LOCAL_ENDPOINT, ELSEWHERE),
                "ChildMissing" => ("ChildMissing", "create the Service with that port, or correct the name"),
                _ => ("PortMismatch", "create the Service with that port, or correct the name"),
            };
            let problem = if color.color.is_empty() {
                problem.to_owned()
            } else {
                format!("color {}: {problem}; it has no endpoints", color.color)
            };
            reading.error(reason, field, problem, fix);
        }
        EndpointSource::Listed(listed) if listed.is_empty() => {
            let service = &color.service;
            let known = slices.get(service).is_some_and(|slices| !slices.is_empty())
                || reading.objects.endpoints.contains_key(service);
            if known {
                mismatch(reading, service, slices);
            } else {
                let problem = format!("Service {service} has no EndpointSlice; requests are answered with 503");
                let fix = "write an EndpointSlice with the label kubernetes.io/service-name, or weir.dev/endpoints: 127.0.0.1:9001";
                reading.note("NoEndpoints", field, problem, fix);
            }
        }
        _ => {}
    }
}

/// Endpoints that are there but do not fit: hand-written EndpointSlices often forget the name of the port.
fn mismatch(reading: &mut Reading<'_>, service: &ObjectName, slices: &SlicesOf) {
    for name in slices.get(service).into_iter().flatten() {
        let Some(slice) = reading.objects.endpoint_slices.get(name) else { continue };
        if slice.endpoints.iter().flatten().next().is_none() {
            continue;
        }
        let names: Vec<&str> = slice
            .ports
            .iter()
            .flatten()
            .map(|port| port.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("(no name)"))
            .collect();
        let problem = format!(
            "none of the endpoints of EndpointSlice {name} can be used; its address type is {}, its ports: {}",
            slice.address_type,
            names.join(", ")
        );
        let fix = "ports of an EndpointSlice have the names of the Service's ports, its addresses are IPv4 or IPv6";
        reading.warning("EndpointsNotUsable", "", problem, fix);
    }
}
