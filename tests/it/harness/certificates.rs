//! A certificate authority for the length of a test.

use std::sync::{Arc, Once};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

/// Issues certificates that [`Authority::client`] trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key, as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test Authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for these names. `label` becomes its common name, by which a client can tell two of them apart.
    pub fn issue(&self, label: &str, names: &[&str]) -> Leaf {
        self.issue_for(ExtendedKeyUsagePurpose::ServerAuth, label, names)
    }

    /// A certificate by which a client shows who it is.
    pub fn issue_for_client(&self, label: &str) -> Leaf {
        self.issue_for(ExtendedKeyUsagePurpose::ClientAuth, label, &[])
    }

    fn issue_for(&self, usage: ExtendedKeyUsagePurpose, label: &str, names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, label);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// The authority's own certificate.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A client that trusts this authority only.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        install_provider();
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Leaf {
    /// For a backend that speaks TLS.
    pub fn server(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        install_provider();
        self.serving(ServerConfig::builder().with_no_client_auth(), alpn)
    }

    /// For one that wants a certificate of this authority from its clients.
    pub fn server_asking(&self, authority: &Authority, alpn: &[&str]) -> Arc<ServerConfig> {
        install_provider();
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder(roots.into()).build().unwrap();
        self.serving(ServerConfig::builder().with_client_cert_verifier(verifier), alpn)
    }

    fn serving(&self, builder: ConfigBuilder<ServerConfig, WantsServerCert>, alpn: &[&str]) -> Arc<ServerConfig> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another test may have been first; there is only one provider in this build, so it does not matter which.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}
