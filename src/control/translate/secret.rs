//! Certificates from Secrets. A certificate that was good stays in use when its Secret goes bad; what is never served
//! is a chain with a key that does not belong to it.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::reading::{Dep, Reading};
use crate::model::{Certificate, HostPattern, Labels, ObjectName, ObjectRef, Severity, Verdict};

/// What is known of one Secret.
pub(super) struct Loaded {
    /// The last good certificate, with the names in it.
    good: Option<(Arc<Certificate>, Vec<HostPattern>)>,
    /// What is wrong with the present content.
    problem: Option<String>,
    /// The content that was looked at.
    secret: Arc<Secret>,
}

/// Certificates by name of the Secret.
#[derive(Default)]
pub(super) struct Certificates {
    loaded: HashMap<ObjectName, Loaded>,
}

impl Certificates {
    /// The certificate in the Secret `name`, which `field` of the object being read refers to, and the names in it.
    /// Tells the owner when there is none, or only an old one.
    pub fn load(
        &mut self,
        reading: &mut Reading<'_>,
        name: &ObjectName,
        field: &str,
    ) -> Option<(Arc<Certificate>, Vec<HostPattern>)> {
        let Some(secret) = reading.secret(name) else {
            self.loaded.remove(name);
            reading.error(
                "SecretNotFound",
                field,
                format!("Secret {name} does not exist"),
                "create it with `kubectl create secret tls`; until then these hosts have no certificate of their own",
            );
            return None;
        };
        let fresh = self.loaded.get(name).is_some_and(|loaded| Arc::ptr_eq(&loaded.secret, secret));
        if !fresh {
            let earlier = self.loaded.remove(name).and_then(|loaded| loaded.good);
            let loaded = match parse(name, secret) {
                // The same content keeps its identity, so that nothing is rebuilt when only a label changed.
                Ok(good) if earlier.as_ref().is_some_and(|(old, _)| old.fingerprint == good.0.fingerprint) => {
                    Loaded { good: earlier, problem: None, secret: secret.clone() }
                }
                Ok(good) => Loaded { good: Some(good), problem: None, secret: secret.clone() },
                Err(problem) => Loaded { good: earlier, problem: Some(problem), secret: secret.clone() },
            };
            self.loaded.insert(name.clone(), loaded);
        }
        let loaded = self.loaded.get(name)?;
        if let Some(problem) = &loaded.problem {
            let fix = "a Secret of type kubernetes.io/tls has the chain as PEM in tls.crt, leaf first, and its private key in tls.key";
            let now = if loaded.good.is_some() {
                "the last good certificate stays in use"
            } else {
                "no certificate is served"
            };
            reading.verdicts.push(Verdict {
                object: ObjectRef::new("Secret", name.clone()),
                severity: Severity::Error,
                reason: "InvalidCertificate",
                field: "data".to_owned(),
                problem: format!("{problem}; {now}"),
                fix: fix.to_owned(),
            });
            if loaded.good.is_none() {
                reading.error(
                    "InvalidCertificateRef",
                    field,
                    format!("Secret {name} holds no usable certificate: {problem}"),
                    fix,
                );
            }
        }
        loaded.good.clone()
    }

    /// Forgets Secrets that nothing refers to any more.
    pub fn retain(&mut self, used: impl Fn(&Dep) -> bool) {
        self.loaded.retain(|name, _| used(&Dep::Secret(name.clone())));
    }
}

/// One value of a Secret.
pub(super) fn value<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    let written = secret.string_data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
    written.or_else(|| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice()))
}

fn parse(name: &ObjectName, secret: &Secret) -> Result<(Arc<Certificate>, Vec<HostPattern>), String> {
    let chain_pem = value(secret, "tls.crt").ok_or("the key tls.crt is missing")?;
    let key_pem = value(secret, "tls.key").ok_or("the key tls.key is missing")?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt is not PEM: {error}"))?;
    let leaf = chain.first().ok_or("tls.crt contains no certificate")?.clone();
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|_| "tls.key contains no private key in PEM (PKCS#8, PKCS#1 or SEC1)")?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|_| "the private key in tls.key is of a kind that cannot be used (RSA, ECDSA and Ed25519 can)")?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| "the first certificate in tls.crt is not X.509")?;
    match CertifiedKey::new(chain, signer).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err("the key in tls.key does not belong to the first certificate in tls.crt".to_owned());
        }
        Err(error) => return Err(format!("the first certificate in tls.crt cannot be used: {error}")),
    }
    let certificate = Certificate {
        secret: name.clone(),
        chain_pem: chain_pem.into(),
        key_pem: key_pem.into(),
        not_after: parsed.validity().not_after.timestamp(),
        fingerprint: foldhash::quality::FixedState::default().hash_one((chain_pem, key_pem)),
    };
    Ok((Arc::new(certificate), names(&parsed)))
}

/// The DNS names that the certificate is for. A wildcard in a certificate stands for one label (RFC 6125, 6.4.3).
fn names(certificate: &X509Certificate<'_>) -> Vec<HostPattern> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let mut hosts = Vec::new();
    for name in &names.value.general_names {
        if let GeneralName::DNSName(dns) = name
            && let Ok(host) = super::values::host_pattern(dns, Labels::One)
        {
            hosts.push(host);
        }
    }
    hosts
}
