use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::telemetry::stats::Class;

/// Signs certificates.
pub(super) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub pem: String,
}

/// A certificate and its key, PEM.
pub(super) struct Pair {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let name = format!("authority {}", fastrand::u64(..));
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(parameters, key), pem }
    }

    pub fn issue(&self, name: &str) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// Trusts this authority, shows a certificate or none, offers these protocols.
    pub fn client(&self, shown: Option<&Pair>, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            Some(pair) => builder.with_client_auth_cert(pair.chain(), pair.key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

impl Pair {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    pub fn certificate(&self) -> Arc<Certificate> {
        Arc::new(Certificate {
            secret: ObjectName::new("shop", "pair"),
            chain_pem: self.chain.as_bytes().into(),
            key_pem: self.key.as_bytes().into(),
            not_after: 1,
            fingerprint: fastrand::u64(..),
        })
    }
}

pub(super) type Stream = tokio_rustls::client::TlsStream<TcpStream>;

pub(super) async fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<Stream> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config.clone()).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

fn shown(stream: &Stream) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

/// As [`echo`], inside TLS; says the server name and the protocol before.
async fn echo_tls(pair: &Pair) -> SocketAddr {
    let mut config = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pair.chain(), pair.key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"own".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                let stream = acceptor.accept(stream).await?;
                let session = stream.get_ref().1;
                let protocol = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into_owned();
                let line = format!("{} {protocol}\n", session.server_name().unwrap_or_default());
                let (mut read, mut write) = tokio::io::split(stream);
                write.write_all(line.as_bytes()).await?;
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

async fn say(stream: &mut Stream, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn one(name: &str, certificate: &Pair) -> CertificateBinding {
    CertificateBinding { host: exact(name), certificate: certificate.certificate() }
}

#[test]
fn server_name_says_who_ends_tls_and_what_is_inside() {
    on_a_worker(options(), async |worker| {
        let authority = Authority::new();
        let (theirs, ours, web) =
            (authority.issue("pass.test"), authority.issue("ends.test"), authority.issue("web.test"));
        let again = authority.issue("again.test");
        let encrypted = echo_tls(&theirs).await;
        let mut inner = backend("again", &[encrypted]);
        inner.protocol =
            UpstreamProtocol::Tls(UpstreamTls { server_name: Some("pass.test".into()), ..UpstreamTls::default() });
        let streams = vec![
            stream(exact("pass.test"), StreamMode::Passthrough, &[("theirs", 1)]),
            stream(exact("ends.test"), StreamMode::Terminate, &[("plain", 1)]),
            stream(exact("again.test"), StreamMode::Terminate, &[("again", 1)]),
            stream(exact("nobody.test"), StreamMode::Terminate, &[("missing", 1)]),
        ];
        let route = Route {
            matches: RouteMatch {
                path: PathMatch::Prefix("/".into()),
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
            },
            rank: Rank { created: 0, source: rule(&[]).source.clone(), rule: 0, index: 0 },
            rule: rule(&[]),
        };
        let entry = Entry {
            protocol: Protocol::Https,
            certificates: Arc::new(vec![
                one("ends.test", &ours),
                one("again.test", &again),
                one("nobody.test", &ours),
                one("web.test", &web),
            ]),
            hosts: [(exact("web.test"), vec![Arc::new(route)])].into(),
            streams: Arc::new(streams),
            ..Entry::default()
        };
        let backends = [backend("theirs", &[encrypted]), backend("plain", &[echo("plain ").await]), inner];
        worker.publish(&model(entry, backends));
        let address = worker.listen(Protocol::Https);
        let plain = authority.client(None, &["own", "http/1.1"]);

        let mut passed = connect(address, &plain, "pass.test").await.unwrap();
        assert_eq!(
            (shown(&passed), passed.get_ref().1.alpn_protocol()),
            (theirs.chain()[0].clone(), Some(&b"own"[..]))
        );
        let long = "x".repeat(300_000);
        assert_eq!(say(&mut passed, &long).await, format!("pass.test own\n{long}"));

        let mut ended = connect(address, &plain, "ends.test").await.unwrap();
        assert_eq!((shown(&ended), ended.get_ref().1.alpn_protocol()), (ours.chain()[0].clone(), None));
        assert_eq!(say(&mut ended, &long).await, format!("plain {long}"));

        let mut twice = connect(address, &plain, "again.test").await.unwrap();
        assert_eq!(shown(&twice), again.chain()[0].clone());
        assert_eq!(say(&mut twice, &long).await, format!("pass.test \n{long}"), "no protocol is made up");

        let http = connect(address, &plain, "web.test").await.unwrap();
        assert_eq!((shown(&http), http.get_ref().1.alpn_protocol()), (web.chain()[0].clone(), Some(&b"http/1.1"[..])));

        for name in ["nobody.test", "elsewhere.test", "127.0.0.1"] {
            let error = connect(address, &plain, name).await.unwrap_err();
            let gone = matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset);
            assert!(gone, "{name}: {error}");
        }
        assert_eq!((worker.faults(Fault::NoRoute), worker.faults(Fault::InvalidBackend)), (2, 1));
    });
}

#[test]
fn hello_in_many_pieces_is_passed_on_as_it_came() {
    on_a_worker(options(), async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let entry = Entry {
            streams: Arc::new(vec![stream(exact("a.test"), StreamMode::Passthrough, &[("a", 1)])]),
            protocol: Protocol::Https,
            ..Entry::default()
        };
        worker.publish(&model(entry, [backend("a", &[listener.local_addr().unwrap()])]));
        let address = worker.listen(Protocol::Https);
        let name = ServerName::try_from("a.test").unwrap();
        let mut session = rustls::ClientConnection::new(Authority::new().client(None, &[]), name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        // Each record holds a few bytes of it, each packet one.
        let mut bytes: Vec<u8> =
            hello[5..].chunks(100).flat_map(|chunk| [&[22, 3, 1, 0, chunk.len() as u8], chunk].concat()).collect();
        bytes.extend_from_slice(b"and what comes behind it");
        let mut client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        let sent = bytes.clone();
        tokio::task::spawn_local(async move {
            for byte in sent.chunks(1) {
                client.write_all(byte).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
            std::future::pending::<()>().await;
        });
        let (mut upstream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        upstream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, bytes);
    });
}

#[test]
fn what_is_no_hello_is_closed() {
    let mut options = options();
    options.timeouts.handshake = Duration::from_millis(300);
    on_a_worker(options, async |worker| {
        let entry = Entry { protocol: Protocol::Https, ..entry(Protocol::Https, &[("a", 1)]) };
        worker.publish(&model(entry, [backend("a", &[echo("a").await])]));
        let address = worker.listen(Protocol::Https);
        let huge = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 40_000]].concat();
        for (bytes, why) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "not TLS"),
            (&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], "announces too much"),
            (&huge, "a record in the place of a record's header"),
            (&[22, 3, 1, 0, 200, 1, 0], "nothing more comes"),
            (&[], "nothing comes"),
        ] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let _ = client.write_all(bytes).await;
            assert_eq!(client.read(&mut [0; 8]).await.unwrap_or(0), 0, "{why}");
        }
        worker.until("nothing is open", |worker| worker.context.counters.open_connections() == 0).await;
        let counters = worker.context.counters.listener("test");
        assert_eq!(counters.handshakes_failed.value(), 5);
    });
}

/// A client and, accepted but not served, the endpoint that it is joined with.
async fn joined(worker: &Worker, listener: &TcpListener, client: &Arc<ClientConfig>) -> (Stream, TcpStream) {
    let address = worker.listen(Protocol::Https);
    let (client, accepted) = tokio::join!(connect(address, client, "ends.test"), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

fn ends(pair: &Pair, endpoints: Backend) -> Model {
    let entry = Entry {
        protocol: Protocol::Https,
        certificates: Arc::new(vec![one("ends.test", pair)]),
        streams: Arc::new(vec![stream(exact("ends.test"), StreamMode::Terminate, &[("a", 1)])]),
        ..Entry::default()
    };
    model(entry, [endpoints])
}

#[test]
fn client_that_is_cut_off_before_its_close_notify_is_a_reset_for_the_endpoint() {
    on_a_worker(options(), async |worker| {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        worker.publish(&ends(&authority.issue("ends.test"), backend("a", &[listener.local_addr().unwrap()])));
        let config = authority.client(None, &[]);
        for cut in [false, true] {
            let (mut client, mut endpoint) = joined(&worker, &listener, &config).await;
            client.write_all(b"half").await.unwrap();
            let mut buffer = [0; 8];
            assert_eq!(endpoint.read(&mut buffer).await.unwrap(), 4);
            if cut {
                let mut below = client.into_inner().0;
                below.shutdown().await.unwrap();
                let error = endpoint.read(&mut buffer).await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                worker.until("it is counted", |worker| worker.faults(Fault::ClientGone) == 1).await;
            } else {
                client.shutdown().await.unwrap();
                assert_eq!(endpoint.read(&mut buffer).await.unwrap(), 0, "an orderly end is passed on as one");
                endpoint.write_all(b"rest").await.unwrap();
                assert_eq!(client.read(&mut buffer).await.unwrap(), 4, "the other direction has not ended");
            }
        }
        worker.until("both are over", |worker| worker.context.counters.open_connections() == 0).await;
        assert_eq!(worker.faults(Fault::ClientGone), 1);
        let color = &worker.totals().colors[0];
        assert_eq!((color.flow.started, color.classes[Class::ClientAbort as usize]), (2, 1));
    });
}

#[test]
fn client_that_has_all_and_closes_without_a_close_notify_has_done_well() {
    on_a_worker(options(), async |worker| {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        worker.publish(&ends(&authority.issue("ends.test"), backend("a", &[listener.local_addr().unwrap()])));
        let (mut client, mut endpoint) = joined(&worker, &listener, &authority.client(None, &[])).await;
        endpoint.write_all(b"whole").await.unwrap();
        drop(endpoint);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "whole");
        drop(client.into_inner());
        worker.until("it is over", |worker| worker.context.counters.open_connections() == 0).await;
        let color = &worker.totals().colors[0];
        assert_eq!((color.classes[Class::Success as usize], color.classes[Class::ClientAbort as usize]), (1, 0));
        assert_eq!(worker.faults(Fault::ClientGone), 0);
    });
}

/// More than the system keeps for a connection at first, less than it keeps at most.
static LONG: [u8; 1_000_000] = [b'x'; 1_000_000];

/// How much there is to read until which error.
async fn read_slowly(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> (usize, std::io::ErrorKind) {
    let (mut sum, mut buffer) = (0, [0; 10_000]);
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => panic!("an orderly end after {sum}"),
            Ok(length) => sum += length,
            Err(error) => return (sum, error.kind()),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn reset_of_the_endpoint_comes_after_all_that_the_client_has_sent() {
    on_a_worker(options(), async |worker| {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        worker.publish(&ends(&authority.issue("ends.test"), backend("a", &[listener.local_addr().unwrap()])));
        let (mut client, mut endpoint) = joined(&worker, &listener, &authority.client(None, &[])).await;
        tokio::task::spawn_local(async move {
            client.write_all(&LONG).await.unwrap();
            client.flush().await.unwrap();
            let mut below = client.into_inner().0;
            below.shutdown().await.unwrap();
            // What it has not read would make a reset of its end.
            std::future::pending::<()>().await;
        });
        assert_eq!(read_slowly(&mut endpoint).await, (LONG.len(), std::io::ErrorKind::ConnectionReset));
        worker.until("it is counted", |worker| worker.faults(Fault::ClientGone) == 1).await;
    });
}

#[test]
fn endpoint_that_is_cut_off_before_its_close_notify_cuts_the_client_off_and_nothing_is_lost() {
    on_a_worker(options(), async |worker| {
        let authority = Authority::new();
        let (ours, theirs) = (authority.issue("ends.test"), authority.issue("a.test"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut endpoints = backend("a", &[listener.local_addr().unwrap()]);
        endpoints.protocol =
            UpstreamProtocol::Tls(UpstreamTls { server_name: Some("a.test".into()), ..UpstreamTls::default() });
        worker.publish(&ends(&ours, endpoints));
        let (mut client, endpoint) = joined(&worker, &listener, &authority.client(None, &[])).await;
        let config = ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(theirs.chain(), theirs.key())
            .unwrap();
        let mut endpoint = TlsAcceptor::from(Arc::new(config)).accept(endpoint).await.unwrap();
        tokio::task::spawn_local(async move {
            endpoint.write_all(&LONG).await?;
            endpoint.flush().await?;
            endpoint.into_inner().0.shutdown().await
        });
        assert_eq!(read_slowly(&mut client).await, (LONG.len(), std::io::ErrorKind::UnexpectedEof));
        worker.until("it is counted", |worker| worker.faults(Fault::UpstreamReset) == 1).await;
    });
}
