//! Ingresses: whose they are, their rules, their default backend, their certificates.
//!
//! An Ingress is served at both purposes, `http` and `https`: which of them a client may use is not the routes' matter.

use std::sync::Arc;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};

use super::reading::{Dep, Reading, annotation, created};
use super::secret::Certificates;
use super::service::{Known, PortName, Way, target};
use super::{Options, Part, addresses, annotations, values};
use crate::model::{
    Bind, CertificateBinding, HostPattern, Labels, ObjectName, PathMatch, Rank, Route, RouteMatch, RouteTimeouts, Rule,
    Status, Target, WeightedBackend,
};

/// The annotation from before `spec.ingressClassName`.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";
/// Marks the class of Ingresses that name none.
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// Index of the default backend: after every rule.
pub(super) const DEFAULT_RULE: u32 = u32::MAX;

/// Whether an Ingress is ours.
fn is_ours(reading: &mut Reading<'_>, options: &Options, ingress: &Ingress) -> bool {
    reading.deps.push(Dep::IngressClasses);
    let classes = &reading.objects.ingress_classes;
    let controller = |class: &str| {
        let class = classes.get(&ObjectName::new("", class))?;
        Some(class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default())
    };
    let ours = |controller: &str| controller == options.ingress_controller;
    let by_field = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let (class, field) = match (by_field, annotation(&ingress.metadata, OLD_CLASS)) {
        (Some(class), _) => (class, "spec.ingressClassName".to_owned()),
        (None, Some(class)) => (class, annotations::field(OLD_CLASS)),
        (None, None) => {
            let default = classes
                .iter()
                .filter(|(_, class)| annotation(&class.metadata, DEFAULT_CLASS) == Some("true"))
                .max_by_key(|(name, class)| (created(&class.metadata), std::cmp::Reverse(*name)));
            let default = default.map(|(name, _)| name.name.clone());
            return match default {
                Some(class) => controller(&class).is_some_and(ours),
                None => {
                    if !options.claim_unclassed {
                        let problem = "the Ingress names no class, and no IngressClass is the default";
                        let fix = format!("write spec.ingressClassName: {}", options.ingress_class);
                        reading.warning("NoClass", "spec.ingressClassName", problem, &fix);
                    }
                    options.claim_unclassed
                }
            };
        }
    };
    match controller(class) {
        Some(controller) => ours(controller),
        None if class == options.ingress_class => true,
        None => {
            let problem = format!("there is no IngressClass `{class}`; the Ingress is not served");
            let fix = format!("write `{}`, or add the IngressClass", options.ingress_class);
            reading.warning("IngressClassNotFound", field, problem, &fix);
            false
        }
    }
}

/// Derives an Ingress.
pub(super) fn ingress(
    reading: &mut Reading<'_>,
    options: &Options,
    known: Known<'_>,
    certificates: &mut Certificates,
    ingress: &Ingress,
) -> Part {
    let mut part = Part { created: created(&ingress.metadata), ..Part::default() };
    if !is_ours(reading, options, ingress) {
        return part;
    }
    let addresses = addresses::published(reading, options).unwrap_or_default();
    part.status = Some(Status::Ingress { addresses });
    tell_about_annotations(reading, ingress);
    let Some(spec) = &ingress.spec else {
        reading.error("NoRules", "spec", "the Ingress has no spec", "add spec.rules or spec.defaultBackend");
        return part;
    };
    let mut writer = Writer { known, created: part.created, part: &mut part };
    if let Some(backend) = &spec.default_backend {
        let target = writer.backend(reading, backend, "spec.defaultBackend");
        writer.route(reading, &HostPattern::Any, PathMatch::Prefix("/".into()), DEFAULT_RULE, 0, target);
    }
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let problem = "the Ingress has neither rules nor a default backend";
        reading.error("NoRules", "spec", problem, "add spec.rules or spec.defaultBackend");
    }
    for (index, rule) in (0_u32..).zip(rules) {
        let field = format!("spec.rules[{index}]");
        let host = match rule.host.as_deref().filter(|host| !host.is_empty()) {
            None => HostPattern::Any,
            Some(text) => match values::host_pattern(text, Labels::One) {
                Ok(host) => host,
                Err(problem) => {
                    let fix = "write a name like shop.example.com or *.example.com; this rule is not served";
                    reading.error("InvalidHost", format!("{field}.host"), problem, fix);
                    continue;
                }
            },
        };
        let paths = rule.http.as_ref().map(|http| http.paths.as_slice()).unwrap_or_default();
        if paths.is_empty() {
            // "If unspecified, all traffic of the host goes to the default backend."
            if let Some(backend) = &spec.default_backend {
                let target = writer.backend(reading, backend, "spec.defaultBackend");
                writer.route(reading, &host, PathMatch::Prefix("/".into()), index, 0, target);
            } else {
                let problem = "the rule has no paths, and the Ingress no default backend";
                reading.error("NoPaths", format!("{field}.http.paths"), problem, "add a path or spec.defaultBackend");
            }
        }
        for (position, path) in (0_u32..).zip(paths) {
            let field = format!("{field}.http.paths[{position}]");
            let Some(matched) = path_match(reading, path, &field) else { continue };
            let target = writer.backend(reading, &path.backend, &format!("{field}.backend"));
            writer.route(reading, &host, matched, index, position, target);
        }
    }
    tls(reading, certificates, ingress, &mut part);
    part
}

struct Writer<'a> {
    known: Known<'a>,
    created: i64,
    part: &'a mut Part,
}

impl Writer<'_> {
    fn backend(&mut self, reading: &mut Reading<'_>, backend: &IngressBackend, field: &str) -> Target {
        let invalid = |why: &str| Target::Invalid { why: why.into() };
        let Some(service) = &backend.service else {
            let (problem, field) = match &backend.resource {
                Some(resource) => {
                    (format!("backends of kind {} are not supported", resource.kind), format!("{field}.resource"))
                }
                None => ("the backend names no Service".to_owned(), field.to_owned()),
            };
            reading.error("InvalidKind", field, &*problem, "name a Service; until then the answer is 500");
            return invalid(&problem);
        };
        let name = ObjectName::new(reading.namespace(), service.name.as_str());
        let field = format!("{field}.service");
        let port = service.port.as_ref();
        let number = port.and_then(|port| port.number).filter(|number| *number != 0);
        let port = match (number, port.and_then(|port| port.name.as_deref())) {
            (Some(number), _) => values::port(number).map(PortName::Number),
            (None, Some(name)) => Some(PortName::Name(name)),
            (None, None) => None,
        };
        let Some(port) = port else {
            let problem = "the backend names no port";
            let fix = "write service.port.number or service.port.name; until then the answer is 500";
            reading.error("PortNotFound", format!("{field}.port"), problem, fix);
            return invalid(problem);
        };
        let target = target(reading, self.known, &name, port, Way::Open, &field);
        if let Target::Backend(key) = &target {
            self.part.backends.insert(key.clone());
        }
        target
    }

    fn route(
        &mut self,
        reading: &Reading<'_>,
        host: &HostPattern,
        path: PathMatch,
        rule: u32,
        index: u32,
        target: Target,
    ) {
        let source = reading.source.clone();
        let name = format!("ingress/{}/{}", source.name.namespace, source.name.name);
        let route = Route {
            matches: RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new() },
            rank: Rank { created: self.created, source: source.clone(), rule, index },
            rule: Arc::new(Rule {
                source,
                name: name.into(),
                filters: Vec::new(),
                backends: vec![WeightedBackend { weight: 1, target, filters: Vec::new() }],
                timeouts: RouteTimeouts::default(),
                retry: None,
            }),
        };
        let route = Arc::new(route);
        self.part.routes.push((Bind::Http, host.clone(), route.clone()));
        self.part.routes.push((Bind::Https, host.clone(), route));
    }
}

fn path_match(reading: &mut Reading<'_>, path: &HTTPIngressPath, field: &str) -> Option<PathMatch> {
    let text = path.path.as_deref().filter(|text| !text.is_empty()).unwrap_or("/");
    if let Err(problem) = values::plain_path(text) {
        reading.error(
            "InvalidPath",
            format!("{field}.path"),
            problem,
            "write a path like /cart; this one is not served",
        );
        return None;
    }
    if text.contains('*') {
        let problem = format!("`*` in the path `{text}` stands for itself");
        reading.warning(
            "LiteralStar",
            format!("{field}.path"),
            problem,
            "use pathType: Prefix with the path before it",
        );
    }
    match path.path_type.as_str() {
        "Exact" => Some(PathMatch::Exact(text.into())),
        "Prefix" | "ImplementationSpecific" => Some(PathMatch::Prefix(values::prefix(text))),
        other => {
            let problem = format!("the path type `{other}` is not known");
            let fix = "write Exact, Prefix or ImplementationSpecific; this path is not served";
            reading.error("InvalidPathType", format!("{field}.pathType"), problem, fix);
            None
        }
    }
}

fn tls(reading: &mut Reading<'_>, certificates: &mut Certificates, ingress: &Ingress, part: &mut Part) {
    let entries = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    for (index, entry) in entries.enumerate() {
        let field = format!("spec.tls[{index}]");
        let Some(secret) = entry.secret_name.as_deref().filter(|name| !name.is_empty()) else {
            let problem = "no Secret is named; clients of these hosts get the default certificate or an alert";
            reading.warning(
                "NoSecret",
                format!("{field}.secretName"),
                problem,
                "name a Secret of type kubernetes.io/tls",
            );
            continue;
        };
        let mut hosts = Vec::new();
        let written = entry.hosts.as_deref().unwrap_or_default();
        for (position, text) in written.iter().enumerate() {
            match values::host_pattern(text, Labels::One) {
                Ok(host) => hosts.push(host),
                Err(problem) => {
                    let fix = "write a name like shop.example.com or *.example.com";
                    reading.error("InvalidHost", format!("{field}.hosts[{position}]"), problem, fix);
                }
            }
        }
        if written.is_empty() {
            hosts.push(HostPattern::Any);
        }
        let name = ObjectName::new(reading.namespace(), secret);
        let Some((certificate, _)) = certificates.load(reading, &name, &format!("{field}.secretName")) else {
            continue;
        };
        let binding = |host| (Bind::Https, CertificateBinding { host, certificate: certificate.clone() });
        part.certificates.extend(hosts.into_iter().map(binding));
    }
}

/// What other controllers read and Weir does not: a silent difference would be the worst kind.
fn tell_about_annotations(reading: &mut Reading<'_>, ingress: &Ingress) {
    let written = ingress.metadata.annotations.as_ref();
    annotations::misplaced(reading, written);
    for key in written.into_iter().flatten().map(|(key, _)| key) {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let foreign = ["ingress.kubernetes.io", "haproxy.org", "traefik.io", "konghq.com"];
        if foreign.iter().any(|known| domain.ends_with(known)) {
            let problem = format!("{key} belongs to another controller and has no effect");
            reading.warning("ForeignAnnotation", annotations::field(key), problem, "remove it");
        }
    }
}
