//! Backends: ports of Services, what their endpoints speak and how these are verified.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::backend_tls::Policies;
use super::color::Plan;
use super::endpoints::{colors, tell_about};
use super::reading::{Dep, Reading, annotation};
use super::{secret, values};
use crate::model::{
    Access, Backend, BackendKey, Certificate, HealthCheck, ObjectName, Target, UpstreamProtocol, UpstreamTls,
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
        let fix = format!("create the Service or correct the name; {}", reading.its_share());
        reading.error("BackendNotFound", field, &*why, &fix);
        return invalid(why);
    };
    let Some(found) = find_port(object, port, &access) else {
        let wanted = match port {
            PortName::Number(number) => number.to_string(),
            PortName::Name(name) => format!("named `{name}`"),
        };
        let why = format!("Service {service} has no {} port {wanted}", transport(&access));
        let fix = match ports_of(object, &access).as_slice() {
            [] => format!("add the port to the Service; {}", reading.its_share()),
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
        let fix = format!("write {KNOWN_PROTOCOLS} as appProtocol, or remove it; {}", reading.its_share());
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
pub(super) fn transport(access: &Access) -> &'static str {
    match access {
        Access::Tcp | Access::As(_) => "TCP",
        Access::Udp => "UDP",
    }
}

/// The ports of a Service that are of this transport protocol; TCP where none is written.
pub(super) fn ports<'a>(service: &'a Service, access: &Access) -> impl Iterator<Item = &'a ServicePort> + use<'a> {
    let wanted = transport(access);
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.into_iter().flatten().filter(move |port| port.protocol.as_deref().unwrap_or("TCP") == wanted)
}

pub(super) fn ports_of(service: &Service, access: &Access) -> Vec<String> {
    let show = |port: &ServicePort| match &port.name {
        Some(name) => format!("{} ({name})", port.port),
        None => port.port.to_string(),
    };
    ports(service, access).map(show).collect()
}

pub(super) fn find_port(service: &Service, wanted: PortName<'_>, access: &Access) -> Option<u16> {
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

pub(super) fn is_external_name(service: &Service) -> bool {
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
        Some("http" | "kubernetes.io/ws" | "ws" | "http/1.1" | "grpc-web") => Spoken::Clear(UpstreamProtocol::Http1),
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
