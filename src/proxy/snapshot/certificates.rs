//! Which certificate a handshake gets, by server name.
//!
//! Written by compile, read in handshakes. A table is immutable; a [`Resolver`] holds the current one of a socket and stays
//! for as long as the socket does, so a rotated certificate is served to the next handshake and no connection is touched.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::model::{Certificate, CertificateBinding, HostPattern};

use super::hosts::ByHost;

/// The certificates of one socket.
#[derive(Default)]
pub struct CertificateTable {
    bindings: ByHost<Binding>,
    /// As in the model, to tell whether the table is still good.
    source: Arc<Vec<CertificateBinding>>,
}

/// A certificate and the names it is presented for.
#[derive(Clone)]
pub struct Binding {
    /// The names.
    pub host: HostPattern,
    /// As in the model. Not the one that is presented if that one's content was unusable and the last good one stays.
    pub certificate: Arc<Certificate>,
    key: Arc<CertifiedKey>,
}

/// Why a certificate cannot be presented.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The chain holds no certificate, or is not PEM.
    #[error("tls.crt holds no PEM certificate")]
    Chain,
    /// The key is not a PEM private key.
    #[error("tls.key holds no PEM private key")]
    Key,
    /// The key is of an unknown kind, or does not belong to the leaf.
    #[error("tls.key and tls.crt cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

impl CertificateTable {
    /// The binding for a server name in lower case; without one, or with an unknown one, the default, if there is one.
    pub fn select(&self, server_name: Option<&str>) -> Option<&Binding> {
        match server_name {
            Some(name) => self.bindings.most_specific(name),
            None => self.bindings.any(),
        }
    }

    /// Whether a connection that was opened for a server name may carry requests for a host (lower-case, no port). If
    /// not, the answer is 421 (RFC 9110 section 15.5.20). Both must lead to the same binding: a certificate that happens
    /// to be valid for both is not enough, because each binding is a listener of its own (Gateway API, "connection
    /// coalescing"). A connection without a server name made no promise and may carry everything.
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        let Some(server_name) = server_name else { return true };
        if server_name == host {
            return true;
        }
        let of = |name| self.bindings.most_specific(name).map(|binding| &binding.host);
        of(server_name) == of(host)
    }

    /// All bindings, in no order. For expiry times and tables.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.values()
    }

    pub(super) fn is_of(&self, bindings: &Arc<Vec<CertificateBinding>>) -> bool {
        let same = |(a, b): (&CertificateBinding, &CertificateBinding)| {
            a.host == b.host && a.certificate.fingerprint == b.certificate.fingerprint
        };
        Arc::ptr_eq(&self.source, bindings)
            || (self.source.len() == bindings.len() && self.source.iter().zip(&**bindings).all(same))
    }

    /// Of two bindings of one pattern the first wins. One whose content is unusable keeps the last good one of its
    /// pattern; translation has checked the content and told the owner.
    pub(super) fn new(
        bindings: &Arc<Vec<CertificateBinding>>,
        keys: &mut Keys,
        previous: Option<&CertificateTable>,
    ) -> Self {
        let mut table = Self { source: bindings.clone(), ..Self::default() };
        for CertificateBinding { host, certificate } in &**bindings {
            if table.bindings.of(host).is_some() {
                continue;
            }
            let key = match keys.key(certificate) {
                Ok(key) => Some(key),
                Err(error) => {
                    tracing::warn!(secret = %certificate.secret, %host, %error, "the last good certificate stays");
                    previous.and_then(|table| table.bindings.of(host)).map(|binding| binding.key.clone())
                }
            };
            if let Some(key) = key {
                let binding = Binding { host: host.clone(), certificate: certificate.clone(), key };
                table.bindings.insert(host, binding);
            }
        }
        table
    }
}

impl Binding {
    /// What is presented.
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binding").field("host", &self.host).field("certificate", &self.certificate).finish()
    }
}

/// The certificates of one socket as rustls asks for them.
#[derive(Default)]
pub struct Resolver {
    table: ArcSwap<CertificateTable>,
}

impl Resolver {
    /// The current table.
    pub fn table(&self) -> arc_swap::Guard<Arc<CertificateTable>> {
        self.table.load()
    }

    pub(super) fn store(&self, table: Arc<CertificateTable>) {
        self.table.store(table);
    }
}

impl ResolvesServerCert for Resolver {
    /// `None` ends the handshake with an alert (rustls sends `access_denied`).
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let name = hello.server_name();
        let binding = match name {
            // rustls keeps the case in which the client wrote the name.
            Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                table.select(Some(&name.to_ascii_lowercase()))
            }
            name => table.select(name),
        };
        binding.map(|binding| binding.key.clone())
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("certificates", &self.table.load().bindings.len()).finish()
    }
}

/// Keys that are parsed already, by fingerprint. Parsing one costs up to a millisecond, and ten thousand hosts may share it.
#[derive(Default)]
pub(super) struct Keys {
    parsed: HashMap<u64, Weak<CertifiedKey>, RandomState>,
}

impl Keys {
    fn key(&mut self, certificate: &Certificate) -> Result<Arc<CertifiedKey>, CertificateError> {
        if let Some(key) = self.parsed.get(&certificate.fingerprint).and_then(Weak::upgrade) {
            return Ok(key);
        }
        let key = Arc::new(parse(certificate)?);
        self.parsed.retain(|_, key| key.strong_count() > 0);
        self.parsed.insert(certificate.fingerprint, Arc::downgrade(&key));
        Ok(key)
    }
}

fn parse(certificate: &Certificate) -> Result<CertifiedKey, CertificateError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate.chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Chain)?;
    if chain.is_empty() {
        return Err(CertificateError::Chain);
    }
    let key = PrivateKeyDer::from_pem_slice(&certificate.key_pem).map_err(|_| CertificateError::Key)?;
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?)
}
