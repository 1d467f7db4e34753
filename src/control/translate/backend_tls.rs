//! BackendTLSPolicies: how the endpoints of Services are verified.
//!
//! A policy that cannot be obeyed must never lead to clear text: the Service then is not used at all. Translation writes
//! here; [`super::service`] asks who may be trusted, and statuses are made of what stands here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gateway_api::apis::standard::backendtlspolicies::{
    BackendTlsPolicy as BackendTLSPolicy, BackendTlsPolicyValidation, BackendTlsPolicyValidationSubjectAltNamesType,
};

use super::grant::GATEWAY_GROUP;
use super::reading::{Dep, Reading, created};
use super::{Item, Objects, Translator, annotations, generation_of, service, status, values};
use crate::model::{
    Claim, Labels, ObjectName, ObjectRef, ParentRef, ParentStatus, Severity, Status, SubjectAltName, UpstreamTls,
    Verdict,
};

/// What a policy is for: a Service, or one of its ports by name.
type Aim = (ObjectName, Option<Arc<str>>);

/// A policy that was read.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct View {
    /// Age and name: the first wins.
    rank: (i64, ObjectName),
    aims: BTreeSet<Aim>,
    /// How endpoints are verified, or why they must not be used.
    trust: Result<UpstreamTls, Arc<str>>,
    accepted: Claim,
    resolved: Claim,
    verdicts: Vec<Verdict>,
}

/// Policies by Service and then by the name of a port, each with its age.
type ByAim = HashMap<ObjectName, BTreeMap<Option<Arc<str>>, BTreeSet<(i64, ObjectName)>>>;

/// All policies, and which Gateways lead to which Services.
#[derive(Default)]
pub(super) struct Policies {
    views: HashMap<ObjectName, View>,
    /// Policies by what they are for, the oldest first.
    by_aim: ByAim,
    /// Gateways by Service, with the number of routes that lead there.
    gateways: HashMap<ObjectName, BTreeMap<ObjectName, usize>>,
    /// Policies whose status must be looked at.
    stirred: BTreeSet<ObjectName>,
}

impl Policies {
    /// How the endpoints of a port are verified; `None`: no policy is for it. A policy for the port by its name comes
    /// before one for the whole Service, and then the oldest.
    pub fn trust(&self, service: &ObjectName, port: Option<&str>) -> Option<&Result<UpstreamTls, Arc<str>>> {
        let aims = self.by_aim.get(service)?;
        let own = port.and_then(|port| aims.get(&Some(port.into())));
        let (_, name) = own.or_else(|| aims.get(&None))?.first()?;
        self.views.get(name).map(|view| &view.trust)
    }

    /// Puts what a policy comes to in the place of what it was. Gives back the Services whose trust may have changed.
    pub fn exchange(&mut self, name: &ObjectName, view: Option<View>) -> BTreeSet<ObjectName> {
        self.stirred.insert(name.clone());
        if self.views.get(name) == view.as_ref() {
            return BTreeSet::new();
        }
        let mut services = BTreeSet::new();
        if let Some(before) = self.views.remove(name) {
            for (service, port) in before.aims {
                if let Some(aims) = self.by_aim.get_mut(&service) {
                    if let Some(policies) = aims.get_mut(&port) {
                        policies.remove(&before.rank);
                        if policies.is_empty() {
                            aims.remove(&port);
                        }
                    }
                    if aims.is_empty() {
                        self.by_aim.remove(&service);
                    } else {
                        stir(&mut self.stirred, &self.by_aim, &service);
                    }
                }
                services.insert(service);
            }
        }
        if let Some(view) = view {
            for (service, port) in &view.aims {
                let aims = self.by_aim.entry(service.clone()).or_default();
                aims.entry(port.clone()).or_default().insert(view.rank.clone());
                stir(&mut self.stirred, &self.by_aim, service);
                services.insert(service.clone());
            }
            self.views.insert(name.clone(), view);
        }
        services
    }

    /// Counts the ways from Gateways to Services: those of a route before, and now.
    pub fn count(&mut self, before: &BTreeSet<(ObjectName, ObjectName)>, now: &BTreeSet<(ObjectName, ObjectName)>) {
        for (gateway, service) in now.difference(before) {
            let uses = self.gateways.entry(service.clone()).or_default().entry(gateway.clone()).or_default();
            *uses += 1;
            if *uses == 1 {
                stir(&mut self.stirred, &self.by_aim, service);
            }
        }
        for (gateway, service) in before.difference(now) {
            let Some(gateways) = self.gateways.get_mut(service) else { continue };
            let Some(uses) = gateways.get_mut(gateway) else { continue };
            *uses -= 1;
            if *uses == 0 {
                gateways.remove(gateway);
                if gateways.is_empty() {
                    self.gateways.remove(service);
                }
                stir(&mut self.stirred, &self.by_aim, service);
            }
        }
    }

    /// Policies whose status may have changed since the last call.
    pub fn take_stirred(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.stirred)
    }

    /// What the owner of a policy is told, and its status; `None` when the policy does not exist.
    pub fn settle(&self, name: &ObjectName) -> Option<(Vec<Verdict>, Status)> {
        let view = self.views.get(name)?;
        let mut verdicts = view.verdicts.clone();
        let mut accepted = view.accepted.clone();
        if let Some((service, winner)) = self.winner_before(view) {
            let why = if winner.0 == view.rank.0 { "comes first by name" } else { "is older" };
            let problem = format!("BackendTLSPolicy {}, which {why}, already is for Service {service}", winner.1);
            accepted = Claim { kind: "Accepted", holds: false, reason: "Conflicted", message: problem.clone() };
            verdicts.push(Verdict {
                object: ObjectRef::new("BackendTLSPolicy", name.clone()),
                severity: Severity::Error,
                reason: "Conflicted",
                field: "spec.targetRefs".to_owned(),
                problem,
                fix: "remove one of the two".to_owned(),
            });
        }
        let services: BTreeSet<&ObjectName> = view.aims.iter().map(|(service, _)| service).collect();
        let gateways = services.into_iter().filter_map(|service| self.gateways.get(service));
        let gateways: BTreeSet<&ObjectName> = gateways.flat_map(BTreeMap::keys).collect();
        let ancestor = |gateway: &ObjectName| ParentStatus {
            parent: ParentRef {
                group: Some(GATEWAY_GROUP.into()),
                kind: Some("Gateway".into()),
                namespace: Some(gateway.namespace.clone()),
                name: gateway.name.clone(),
                section: None,
                port: None,
            },
            conditions: vec![accepted.clone(), view.resolved.clone()],
        };
        // The API allows sixteen.
        let ancestors = gateways.into_iter().take(16).map(ancestor).collect();
        Some((verdicts, Status::Policy { ancestors }))
    }

    /// An older policy for one of the same things.
    fn winner_before(&self, view: &View) -> Option<(&ObjectName, &(i64, ObjectName))> {
        view.aims.iter().find_map(|(service, port)| {
            let first = self.by_aim.get(service)?.get(port)?.first()?;
            (*first != view.rank).then_some((self.by_aim.get_key_value(service)?.0, first))
        })
    }
}

/// Marks every policy for a Service.
fn stir(stirred: &mut BTreeSet<ObjectName>, by_aim: &ByAim, service: &ObjectName) {
    let policies = by_aim.get(service).into_iter().flat_map(BTreeMap::values).flatten();
    stirred.extend(policies.map(|(_, name)| name.clone()));
}

impl Translator {
    /// BackendTLSPolicies.
    pub(super) fn derive_policies(&mut self, objects: &Objects) {
        for name in self.take(|item| if let Item::Policy(name) = item { Some(name.clone()) } else { None }) {
            let item = Item::Policy(name.clone());
            let view = objects.backend_tls_policies.get(&name).map(|written| {
                let mut reading = Reading::new(ObjectRef::new("BackendTLSPolicy", name.clone()), objects);
                (policy(&mut reading, written), reading.deps)
            });
            let view = match view {
                Some((view, deps)) => {
                    self.depend(&item, deps);
                    Some(view)
                }
                None => {
                    self.forget(&item);
                    None
                }
            };
            for service in self.policies.exchange(&name, view) {
                self.stir(&Dep::Policies(service));
            }
        }
    }

    /// BackendTLSPolicies of which there is something new to say.
    pub(super) fn settle_policies(&mut self, objects: &Objects) {
        for name in self.policies.take_stirred() {
            let item = Item::Policy(name.clone());
            let (verdicts, status) = self.policies.settle(&name).unzip();
            self.publish(ObjectRef::new("BackendTLSPolicy", name), generation_of(objects, &item), status);
            self.tell(item, verdicts.unwrap_or_default());
        }
    }
}

/// Derives a policy.
pub(super) fn policy(reading: &mut Reading<'_>, policy: &BackendTLSPolicy) -> View {
    annotations::misplaced(reading, policy.metadata.annotations.as_ref());
    let mut aims = BTreeSet::new();
    for (index, target) in policy.spec.target_refs.iter().enumerate() {
        if !(target.group.is_empty() || target.group == "core") || target.kind != "Service" {
            let problem = format!("targets of kind {} are not supported", target.kind);
            reading.warning("InvalidKind", format!("spec.targetRefs[{index}].kind"), problem, "name a Service");
            continue;
        }
        let section = target.section_name.as_deref().filter(|section| !section.is_empty());
        let name = ObjectName::new(reading.namespace(), target.name.as_str());
        if let (Some(section), Some(object)) = (section, reading.service_shape(&name)) {
            let ports = object.spec.as_ref().and_then(|spec| spec.ports.as_ref());
            if !ports.into_iter().flatten().any(|port| port.name.as_deref() == Some(section)) {
                let problem = format!("Service {name} has no port named `{section}`, so nothing is protected");
                let fix = "write the name of a port, or leave sectionName out for all ports";
                reading.warning("TargetNotFound", format!("spec.targetRefs[{index}].sectionName"), problem, fix);
            }
        }
        aims.insert((name, section.map(Into::into)));
    }
    if policy.spec.options.as_ref().is_some_and(|options| !options.is_empty()) {
        reading.warning("NotImplemented", "spec.options", "no TLS option is known", "remove them");
    }
    let Checked { trust, accepted, resolved } = check(reading, &policy.spec.validation);
    let rank = (created(&policy.metadata), reading.source.name.clone());
    View { rank, aims, trust, accepted, resolved, verdicts: std::mem::take(&mut reading.verdicts) }
}

struct Checked {
    trust: Result<UpstreamTls, Arc<str>>,
    accepted: Claim,
    resolved: Claim,
}

fn check(reading: &mut Reading<'_>, written: &BackendTlsPolicyValidation) -> Checked {
    let denied = |kind, reason, message: &str| Claim { kind, holds: false, reason, message: message.to_owned() };
    let invalid = |problem: String| Checked {
        accepted: denied("Accepted", "Invalid", &problem),
        resolved: status::holds("ResolvedRefs"),
        trust: Err(problem.into()),
    };
    let unused = "until then its Services are not used";
    let server_name = match values::host_name(&written.hostname) {
        Ok(name) => name,
        Err(problem) => {
            let fix = format!("write the name in the certificate of the endpoints; {unused}");
            reading.error("Invalid", "spec.validation.hostname", &*problem, &fix);
            return invalid(format!("spec.validation.hostname: {problem}"));
        }
    };
    let subject_alt_names = match subject_alt_names(reading, written) {
        Ok(names) => names,
        Err(problem) => return invalid(problem),
    };
    let mut tls = UpstreamTls { server_name: Some(server_name), subject_alt_names, ..UpstreamTls::default() };
    let references = written.ca_certificate_refs.as_deref().unwrap_or_default();
    if references.is_empty() {
        let known = written.well_known_ca_certificates.as_deref();
        if known != Some("System") {
            let problem = match known {
                Some(other) => format!("`{other}` are no roots that are known here"),
                None => "no roots are named".to_owned(),
            };
            let fix = format!("write caCertificateRefs, or wellKnownCACertificates: System; {unused}");
            reading.error("Invalid", "spec.validation", &*problem, &fix);
            return invalid(format!("spec.validation: {problem}"));
        }
        tls.system_roots = true;
        return Checked {
            trust: Ok(tls),
            accepted: status::holds("Accepted"),
            resolved: status::holds("ResolvedRefs"),
        };
    }
    let mut roots = Vec::new();
    let mut wrong: Option<(&'static str, String)> = None;
    for (index, reference) in references.iter().enumerate() {
        let field = format!("spec.validation.caCertificateRefs[{index}]");
        match root(reading, &reference.group, &reference.kind, &reference.name) {
            Ok(pem) => {
                roots.extend_from_slice(&pem);
                // PEM may end without a line break.
                roots.push(b'\n');
            }
            Err((reason, problem)) => {
                let fix = format!("name a ConfigMap with the roots as PEM in ca.crt; {unused}");
                reading.error(reason, &*field, &*problem, &fix);
                wrong.get_or_insert((reason, format!("{field}: {problem}")));
            }
        }
    }
    match wrong {
        None => {
            tls.ca_pem = Some(roots.into());
            Checked { trust: Ok(tls), accepted: status::holds("Accepted"), resolved: status::holds("ResolvedRefs") }
        }
        Some((reason, problem)) => Checked {
            // With some good roots the policy is accepted; yet "connections using an invalid reference must fail", and
            // nobody can tell which ones would.
            accepted: if roots.is_empty() {
                denied("Accepted", "NoValidCACertificate", &problem)
            } else {
                status::holds("Accepted")
            },
            resolved: denied("ResolvedRefs", reason, &problem),
            trust: Err(problem.into()),
        },
    }
}

/// The roots that a reference leads to; the reason is one of the API's.
fn root(reading: &mut Reading<'_>, group: &str, kind: &str, name: &str) -> Result<Vec<u8>, (&'static str, String)> {
    let name = ObjectName::new(reading.namespace(), name);
    let core = group.is_empty() || group == "core";
    let pem = match kind {
        "ConfigMap" if core => service::roots_in_config_map(reading, &name),
        "Secret" if core => service::roots_in_secret(reading, &name),
        other => return Err(("InvalidKind", format!("roots of kind {other} are not supported"))),
    };
    let Some(pem) = pem else {
        return Err(("InvalidCACertificateRef", format!("there is no {kind} {name} with the key ca.crt")));
    };
    if service::holds_certificates(pem) {
        Ok(pem.to_vec())
    } else {
        Err(("InvalidCACertificateRef", format!("ca.crt of {kind} {name} contains no certificate in PEM")))
    }
}

fn subject_alt_names(
    reading: &mut Reading<'_>,
    written: &BackendTlsPolicyValidation,
) -> Result<Vec<SubjectAltName>, String> {
    use BackendTlsPolicyValidationSubjectAltNamesType as Type;
    let mut names = Vec::new();
    for (index, name) in written.subject_alt_names.iter().flatten().enumerate() {
        let field = format!("spec.validation.subjectAltNames[{index}]");
        let read = match name.r#type {
            Type::Hostname => {
                let text = name.hostname.as_deref().unwrap_or_default();
                // Both `a.test` and `*.a.test` may stand in a certificate.
                values::host_pattern(text, Labels::One).map(|_| SubjectAltName::Dns(text.to_ascii_lowercase().into()))
            }
            Type::Uri => match name.uri.as_deref() {
                Some(uri) if uri.contains(':') => Ok(SubjectAltName::Uri(uri.into())),
                uri => Err(format!("`{}` is not an absolute URI", uri.unwrap_or_default())),
            },
        };
        match read {
            Ok(name) => names.push(name),
            // To leave one out could leave the list empty, and then another name would be trusted.
            Err(problem) => {
                let fix = "write a DNS name or a URI like spiffe://a.test/b; until then its Services are not used";
                reading.error("Invalid", &*field, &*problem, fix);
                return Err(format!("{field}: {problem}"));
            }
        }
    }
    Ok(names)
}
