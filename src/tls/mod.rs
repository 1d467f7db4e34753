//! rustls in one place: provider, versions, configurations for both doors.
//!
//! One provider (aws-lc-rs) with hybrid post-quantum key exchange preferred; TLS 1.2 and 1.3 with the provider's safe
//! suites; no early data.

mod clients;
mod upstream;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};

use crate::model::ClientCertificates;

pub use upstream::{client_config, http1_only, is_for};

/// Why a configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses it.
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
    /// The trusted roots cannot be read.
    #[error("trusted roots: {0}; PEM certificates are expected")]
    Roots(String),
    /// The certificate that endpoints are shown cannot be read.
    #[error("client certificate: {0}")]
    Client(&'static str),
}

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// For clients: our order of suites counts. AES-128 with SHA-256 comes first, because most processors compute SHA-256 in
/// hardware and SHA-384 not: in a profile, SHA-384 was a sixth of a full handshake with the suite that most clients name
/// first.
fn server_provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| !matches!(suite.suite().as_str(), Some(name) if name.contains("AES_128")));
    Arc::new(provider)
}

/// What is inside TLS with clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inside {
    /// HTTP/2 or HTTP/1.1, as agreed on by ALPN.
    Http,
    /// Bytes of a protocol that Weir does not know: no protocol is chosen, whatever the client offers (RFC 7301 section
    /// 3.2 leaves that to the server), because only the backend could keep the promise.
    Anything,
}

/// For clients: certificates as `resolver` says, HTTP/2 preferred, resumption by tickets that this configuration alone
/// can read, so that a session never crosses from one listener to another. With `clients` there is no resumption: every
/// connection shows its certificate, and a session does not outlive the validity of what opened it.
///
/// # Errors
/// [`TlsError::Rustls`]; [`TlsError::Roots`]: those of the clients' certificates cannot be used.
pub fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    clients: Option<&ClientCertificates>,
    inside: Inside,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(server_provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(clients) => builder.with_client_cert_verifier(clients::verifier(clients)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    if inside == Inside::Http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    if clients.is_some() {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        // One ticket is what a client needs to come back; each costs a message after the handshake.
        config.send_tls13_tickets = 1;
    }
    config.ignore_client_order = true;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
