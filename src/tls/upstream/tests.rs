use std::io::Cursor;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, ServerConfig, ServerConnection};

use super::*;
use crate::model::{Certificate, ObjectName};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    chain: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, names: &[&str], uris: &[&str], usage: ExtendedKeyUsagePurpose) -> Leaf {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|&uri| SanType::URI(uri.try_into().unwrap())));
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        Leaf { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn server(&self, names: &[&str], uris: &[&str]) -> Leaf {
        self.issue(names, uris, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

impl Leaf {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().unwrap()
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    fn certificate(&self) -> Arc<Certificate> {
        Arc::new(Certificate {
            secret: ObjectName::new("infra", "client"),
            chain_pem: self.chain.as_bytes().into(),
            key_pem: self.key.as_bytes().into(),
            not_after: 0,
            fingerprint: 1,
        })
    }
}

fn trusting(authority: &Authority) -> UpstreamTls {
    UpstreamTls { ca_pem: Some(authority.pem.as_bytes().into()), ..UpstreamTls::default() }
}

fn names(names: &[&str], uris: &[&str]) -> Vec<SubjectAltName> {
    let dns = names.iter().map(|&name| SubjectAltName::Dns(name.into()));
    dns.chain(uris.iter().map(|&uri| SubjectAltName::Uri(uri.into()))).collect()
}

fn endpoint(leaf: &Leaf) -> ServerConfig {
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain(), leaf.key())
        .unwrap()
}

/// Shakes hands in memory; the endpoint's side of it, or why there is none.
fn shake(desired: &UpstreamTls, name: &str, server: ServerConfig) -> Result<ServerConnection, rustls::Error> {
    let config = client_config(desired).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut client = ClientConnection::new(config, ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut from = Cursor::new(wire);
        while server.read_tls(&mut from).unwrap() > 0 {}
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut from = Cursor::new(wire);
        while client.read_tls(&mut from).unwrap() > 0 {}
        client.process_new_packets()?;
    }
    Ok(server)
}

#[test]
fn endpoint_is_believed_by_its_name_unless_other_names_are_wanted() {
    const ID: &str = "spiffe://a.test/identity";
    let (authority, stranger) = (Authority::new(), Authority::new());
    let leaf = authority.server(&["a.test", "*.wild.test"], &[ID]);
    let forged = stranger.server(&["a.test"], &[ID]);
    for (leaf, sni, dns, uris, expected) in [
        (&leaf, "a.test", &[][..], &[][..], true),
        (&leaf, "b.test", &[], &[], false),
        (&forged, "a.test", &[], &[], false),
        (&leaf, "a.test", &["a.test"], &[], true),
        (&leaf, "b.test", &["a.test"], &[], true),
        (&leaf, "a.test", &["b.test"], &[], false),
        (&leaf, "a.test", &["x.wild.test"], &[], true),
        (&leaf, "a.test", &["x.y.wild.test"], &[], false),
        (&leaf, "a.test", &["*.wild.test"], &[], true),
        (&leaf, "a.test", &["*.test"], &[], true),
        (&leaf, "a.test", &[], &[ID], true),
        (&leaf, "a.test", &[], &["spiffe://a.test/identity/"], false),
        (&leaf, "a.test", &["b.test"], &[ID], true),
        (&leaf, "a.test", &["b.test"], &["spiffe://b.test/identity"], false),
        // A name is no URI and a URI no name.
        (&leaf, "a.test", &[ID], &["a.test"], false),
        (&forged, "a.test", &["a.test"], &[ID], false),
    ] {
        let desired = UpstreamTls { subject_alt_names: names(dns, uris), ..trusting(&authority) };
        let shaken = shake(&desired, sni, endpoint(leaf));
        assert_eq!(shaken.is_ok(), expected, "{sni} {dns:?} {uris:?}: {:?}", shaken.err());
        if let Ok(server) = shaken {
            assert_eq!(server.server_name(), Some(sni), "what is asked for is the name, whoever is believed");
        }
    }
}

#[test]
fn certificate_for_clients_is_not_one_for_endpoints() {
    let authority = Authority::new();
    let leaf = authority.issue(&["a.test"], &[], ExtendedKeyUsagePurpose::ClientAuth);
    for subject_alt_names in [Vec::new(), names(&["a.test"], &[])] {
        let desired = UpstreamTls { subject_alt_names, ..trusting(&authority) };
        assert!(shake(&desired, "a.test", endpoint(&leaf)).is_err());
    }
}

#[test]
fn client_certificate_is_shown_to_endpoints_that_ask_for_one() {
    let authority = Authority::new();
    let leaf = authority.server(&["a.test"], &[]);
    let own = authority.issue(&[], &[], ExtendedKeyUsagePurpose::ClientAuth);
    let asking = || {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build().unwrap();
        ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(leaf.chain(), leaf.key())
            .unwrap()
    };
    let with = |client| UpstreamTls { client, ..trusting(&authority) };
    assert!(shake(&with(None), "a.test", asking()).is_err());
    let server = shake(&with(Some(own.certificate())), "a.test", asking()).unwrap();
    assert_eq!(server.peer_certificates().unwrap(), own.chain());
    // One that does not ask is shown nothing.
    let server = shake(&with(Some(own.certificate())), "a.test", endpoint(&leaf)).unwrap();
    assert!(server.peer_certificates().is_none());
}

#[test]
fn settings_that_cannot_be_used_make_no_configuration() {
    let authority = Authority::new();
    let (one, two) = (authority.server(&["a.test"], &[]), authority.server(&["a.test"], &[]));
    let crossed = Leaf { chain: one.chain.clone(), key: two.key };
    let nothing = Leaf { chain: String::new(), key: one.key };
    for (desired, expected) in [
        (UpstreamTls { ca_pem: Some(b"no PEM".as_slice().into()), ..UpstreamTls::default() }, "trusted roots"),
        (UpstreamTls { subject_alt_names: names(&["a.test"], &[]), ..UpstreamTls::default() }, "trusted roots"),
        (UpstreamTls { client: Some(crossed.certificate()), ..trusting(&authority) }, "TLS configuration"),
        (UpstreamTls { client: Some(nothing.certificate()), ..trusting(&authority) }, "client certificate"),
    ] {
        let error = client_config(&desired).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn verified_certificate_is_for_its_names_alone() {
    let leaf = Authority::new().server(&["a.test", "*.wild.test", "10.0.0.1"], &[]);
    let certificate = &leaf.chain()[0];
    for (host, expected) in [
        ("a.test", true),
        ("x.wild.test", true),
        ("10.0.0.1", true),
        ("b.test", false),
        ("wild.test", false),
        ("10.0.0.2", false),
        ("", false),
        ("not a name", false),
    ] {
        assert_eq!(is_for(certificate, host), expected, "{host}");
    }
}
