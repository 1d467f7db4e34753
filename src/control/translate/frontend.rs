//! Which clients may connect to a Gateway (`spec.tls.frontend`): the roots that issue their certificates, by port.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_api::apis::standard::gateways::{
    GatewayTlsFrontend, GatewayTlsFrontendDefaultValidation, GatewayTlsFrontendDefaultValidationCaCertificateRefs,
    GatewayTlsFrontendDefaultValidationMode,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::listener::Because;
use super::reading::Reading;
use super::{grant, secret};
use crate::model::{ClientCertificates, ObjectName};

/// What clients of listeners of protocol HTTPS must show.
#[derive(Default)]
pub(super) struct Frontend {
    default: Validation,
    ports: BTreeMap<i32, Validation>,
    /// Whether clients without a good certificate may connect somewhere.
    pub insecure: bool,
}

/// What clients must show.
#[derive(Default)]
pub(super) enum Validation {
    /// Nothing.
    #[default]
    None,
    /// A certificate from one of these roots; some that were named may be missing.
    Clients { clients: Arc<ClientCertificates>, unresolved: Option<Because> },
    /// A certificate from roots of which none is known: nobody may connect.
    Unresolved(Because),
}

impl Frontend {
    /// What holds at a port.
    pub fn at(&self, port: i32) -> &Validation {
        self.ports.get(&port).unwrap_or(&self.default)
    }
}

/// Reads `spec.tls.frontend`.
pub(super) fn frontend(reading: &mut Reading<'_>, written: Option<&GatewayTlsFrontend>) -> Frontend {
    let mut frontend = Frontend::default();
    let Some(written) = written else { return frontend };
    let field = "spec.tls.frontend";
    if let Some(validation) = &written.default.validation {
        frontend.default =
            validate(reading, validation, &format!("{field}.default.validation"), &mut frontend.insecure);
    }
    for (index, port) in written.per_port.iter().flatten().enumerate() {
        let field = format!("{field}.perPort[{index}].tls.validation");
        // The generated types of both places are twins; they meet in their JSON.
        let validation = port.tls.validation.as_ref();
        let validation = validation.map(|it| serde_json::to_value(it).and_then(serde_json::from_value));
        let validation = match validation {
            Some(Ok(validation)) => validate(reading, &validation, &field, &mut frontend.insecure),
            Some(Err(error)) => {
                let problem = format!("it cannot be read: {error}");
                reading.error("InvalidCACertificateRef", field, &*problem, "correct it");
                Validation::Unresolved(("InvalidCACertificateRef", problem))
            }
            None => Validation::None,
        };
        frontend.ports.insert(port.port, validation);
    }
    frontend
}

fn validate(
    reading: &mut Reading<'_>,
    written: &GatewayTlsFrontendDefaultValidation,
    field: &str,
    insecure: &mut bool,
) -> Validation {
    let optional = written.mode == Some(GatewayTlsFrontendDefaultValidationMode::AllowInsecureFallback);
    *insecure |= optional;
    let mut roots: Vec<u8> = Vec::new();
    let mut unresolved = None;
    for (index, reference) in written.ca_certificate_refs.iter().enumerate() {
        let field = format!("{field}.caCertificateRefs[{index}]");
        match authority(reading, reference) {
            Ok(pem) => {
                roots.extend_from_slice(&pem);
                roots.push(b'\n');
            }
            Err((reason, problem, fix)) => {
                reading.error(reason, field, &*problem, &fix);
                unresolved.get_or_insert((reason, problem));
            }
        }
    }
    if roots.is_empty() {
        let nothing = || ("InvalidCACertificateRef", "no certificate of an authority is named".to_owned());
        return Validation::Unresolved(unresolved.unwrap_or_else(nothing));
    }
    Validation::Clients { clients: Arc::new(ClientCertificates { ca_pem: roots.into(), optional }), unresolved }
}

fn authority(
    reading: &mut Reading<'_>,
    reference: &GatewayTlsFrontendDefaultValidationCaCertificateRefs,
) -> Result<Vec<u8>, (&'static str, String, String)> {
    let kind = reference.kind.as_str();
    if !reference.group.is_empty() || !matches!(kind, "ConfigMap" | "Secret") {
        let problem = format!("roots in objects of kind {kind} are not supported");
        return Err(("InvalidCACertificateKind", problem, "name a ConfigMap or Secret with the key ca.crt".to_owned()));
    }
    let namespace: Arc<str> = reference.namespace.as_deref().map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, reference.name.as_str());
    if !grant::permitted(reading, kind, &name) {
        let problem = format!("{kind} {name} is in another namespace, and no ReferenceGrant there permits this");
        let fix = format!("add a ReferenceGrant in namespace {}, from Gateway to {kind}", name.namespace);
        return Err(("RefNotPermitted", problem, fix));
    }
    let pem = if kind == "Secret" {
        reading.secret(&name).and_then(|object| secret::value(object, "ca.crt"))
    } else {
        reading.config_map(&name).and_then(|map| {
            let text = map.data.as_ref().and_then(|data| data.get("ca.crt")).map(String::as_bytes);
            text.or_else(|| map.binary_data.as_ref()?.get("ca.crt").map(|bytes| bytes.0.as_slice()))
        })
    };
    let wrong = |problem: String| {
        let fix = format!("{kind} {} needs the key ca.crt with certificates in PEM", name.name);
        Err(("InvalidCACertificateRef", problem, fix))
    };
    let Some(pem) = pem else { return wrong(format!("there is no {kind} {name} with the key ca.crt")) };
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    if !roots.is_ok_and(|roots| !roots.is_empty()) {
        return wrong(format!("ca.crt of {kind} {name} contains no certificate in PEM"));
    }
    Ok(pem.to_vec())
}
