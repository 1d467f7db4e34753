//! TLS towards endpoints: whom to believe, and what to show (Gateway API, BackendTLSPolicy and `spec.tls.backend` of a
//! Gateway).
//!
//! Made by compile on the control thread, used by workers. A backend whose settings cannot be used has no configuration, and
//! nothing is sent to it.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, provider};
use crate::model::{SubjectAltName, UpstreamTls};

/// For endpoints of one backend, HTTP/2 preferred.
///
/// # Errors
/// [`TlsError`]: the roots or the client certificate cannot be used; nothing is sent to such a backend.
pub fn client_config(desired: &UpstreamTls) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match (roots(desired)?, &*desired.subject_alt_names) {
        (None, []) => {
            let verifier = Verifier { alt_names: None, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        (None, _) => return Err(TlsError::Roots("names are wanted, but nobody is trusted to certify them".into())),
        (Some(roots), []) => builder.with_root_certificates(roots),
        (Some(roots), names) => {
            let alt_names = Some(AltNames { roots, names: names.into() });
            let verifier = Verifier { alt_names, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let mut config = match &desired.client {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate.chain_pem)
                .collect::<Result<_, _>>()
                .map_err(|_| TlsError::Client("tls.crt is not PEM"))?;
            if chain.is_empty() {
                return Err(TlsError::Client("tls.crt holds no PEM certificate"));
            }
            let key = PrivateKeyDer::from_pem_slice(&certificate.key_pem)
                .map_err(|_| TlsError::Client("tls.key holds no PEM private key"))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The same for what only HTTP/1.1 can carry: a connection that becomes a tunnel.
pub fn http1_only(config: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Whether an endpoint's certificate, whose chain was verified, is for a host (a name, or an address without brackets).
pub fn is_for(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let (Ok(name), Ok(certificate)) = (ServerName::try_from(host), ParsedCertificate::try_from(certificate)) else {
        return false;
    };
    verify_server_name(&certificate, &name).is_ok()
}

fn roots(desired: &UpstreamTls) -> Result<Option<Arc<RootCertStore>>, TlsError> {
    let Some(pem) = &desired.ca_pem else {
        return if desired.system_roots { system_roots().map(Some) } else { Ok(None) };
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|error| TlsError::Roots(error.to_string()))?)?;
    }
    if roots.is_empty() {
        return Err(TlsError::Roots("no certificate in it".into()));
    }
    Ok(Some(Arc::new(roots)))
}

/// The roots of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR`, else where distributions put them): read when a backend
/// first wants them, and kept until the process ends.
fn system_roots() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        return Err(TlsError::Roots("the system has none; SSL_CERT_FILE names others".into()));
    }
    Ok(roots.clone())
}

/// Believes what rustls' own verifier would not: a certificate for another name than the one that was asked for.
#[derive(Debug)]
struct Verifier {
    /// Who must certify it, and for what. `None`: any certificate is taken, which is the same trust in the network as clear
    /// text has, but for listeners; used only where a backend asks for TLS without naming roots, of which its owner is told.
    alt_names: Option<AltNames>,
    provider: Arc<CryptoProvider>,
}

/// A certificate of a chain to these roots must hold one of these names.
#[derive(Debug)]
struct AltNames {
    roots: Arc<RootCertStore>,
    names: Box<[SubjectAltName]>,
}

impl AltNames {
    fn hold(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let Ok(Some(held)) = certificate.subject_alternative_name() else { return false };
        held.value.general_names.iter().any(|held| {
            self.names.iter().any(|wanted| match (held, wanted) {
                (GeneralName::DNSName(held), SubjectAltName::Dns(wanted)) => same_host(held, wanted),
                (GeneralName::URI(held), SubjectAltName::Uri(wanted)) => *held == &**wanted,
                _ => false,
            })
        })
    }
}

/// Whether two names are of one host; `*.` at the begin of either stands for one label (RFC 9525 section 6.3).
fn same_host(held: &str, wanted: &str) -> bool {
    fn rest(name: &str) -> Option<&str> {
        name.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, rest)| rest)
    }
    if held.eq_ignore_ascii_case(wanted) {
        return true;
    }
    (held.starts_with("*.") || wanted.starts_with("*."))
        && rest(held).zip(rest(wanted)).is_some_and(|(held, wanted)| held.eq_ignore_ascii_case(wanted))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(wanted) = &self.alt_names {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &wanted.roots, intermediates, now, algorithms)?;
            if !wanted.hold(end_entity) {
                return Err(CertificateError::NotValidForName.into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
