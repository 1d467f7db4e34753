//! Endpoints of backends: which addresses stand for a port of a Service, by its EndpointSlices, Endpoints or annotation.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;

use super::Objects;
use super::reading::{Dep, Reading};
use super::service::{Known, Plans, PortName, SlicesOf, find_port, is_external_name, ports, ports_of, transport};
use super::values;
use crate::model::{BackendKey, ColorEndpoints, Condition, Endpoint, EndpointSource, ObjectName};

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

pub(super) fn tell_about(reading: &mut Reading<'_>, color: &ColorEndpoints, slices: &SlicesOf) {
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
