//! Certificates from Secrets by server name, rotated without a lost handshake.

use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{self, Error, H1, Target, empty, request};
use crate::harness::load::Plan;
use crate::harness::manifests::{classes, ingress, ingress_with, service, service_with, tls_secret};
use crate::harness::scene::HOST;
use crate::harness::weir::Weir;
use crate::harness::{eventually, tools, turn};

/// The common name of the certificate that is presented for a server name.
async fn presented(weir: &Weir, authority: &Authority, name: &str) -> Result<String, Error> {
    let target = Target::tls(weir.https, authority.client(&[]), name);
    let certificate = target.certificate().await?;
    let (_, certificate) = X509Certificate::from_der(&certificate)?;
    let name = certificate.subject().iter_common_name().next().ok_or("no common name")?.as_str()?.to_owned();
    Ok(name)
}

fn at(host: &str, secret: &str) -> String {
    ingress_with(&format!("at-{secret}"), host, &[("/", "Prefix", "shop")], secret, &[])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_name_chooses_the_certificate() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &service("shop", &[backend.address()])
        + &tls_secret("one", &authority.issue("one", &["one.example"]))
        + &tls_secret("two", &authority.issue("two", &["two.example"]))
        + &tls_secret("wild", &authority.issue("wild", &["*.wild.example"]))
        + &at("one.example", "one")
        + &at("two.example", "two")
        + &at("*.wild.example", "wild");
    let weir = Weir::start(&manifests).await;
    for (name, label) in
        [("one.example", "one"), ("two.example", "two"), ("a.wild.example", "wild"), ("b.wild.example", "wild")]
    {
        assert_eq!(presented(&weir, &authority, name).await.unwrap(), label);
        let target = Target::tls(weir.https, authority.client(&["http/1.1"]), name);
        let answer = client::ask(&target, request(http::Method::GET, name, "/").body(empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let refused = presented(&weir, &authority, "nobody.example").await.unwrap_err().to_string();
    assert!(refused.contains("alert"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_without_hosts_is_the_default_certificate() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let leaf = authority.issue("default", &["nobody.example", "shop.example"]);
    let default = ingress_with("d", "", &[("/", "Prefix", "shop")], "default", &[]);
    let manifests = classes() + &service("shop", &[backend.address()]) + &tls_secret("default", &leaf) + &default;
    let weir = Weir::start(&manifests).await;
    assert_eq!(presented(&weir, &authority, "nobody.example").await.unwrap(), "default");
    let connect = format!("127.0.0.1:{}", weir.https.port());
    let output = tools::run("openssl", &["s_client", "-connect", &connect, "-noservername"], b"").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("CN = default"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_speaks_1_2_and_1_3_and_nothing_older() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &service("shop", &[backend.address()])
        + &tls_secret("one", &authority.issue("one", &[HOST]))
        + &at(HOST, "one");
    let weir = Weir::start(&manifests).await;
    let connect = format!("127.0.0.1:{}", weir.https.port());
    for (option, expected) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let arguments = ["s_client", "-connect", &connect, "-servername", HOST, option];
        let output = tools::run("openssl", &arguments, b"").await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains(&format!("New, {expected}")), "{option}: {text}");
        assert!(text.contains("CN = one"), "{option}: {text}");
    }
    let arguments = ["s_client", "-connect", &connect, "-servername", HOST, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let output = tools::run("openssl", &arguments, b"").await;
    assert!(!String::from_utf8_lossy(&output.stdout).contains("CN = one"), "TLS 1.1 was accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_exchange_is_post_quantum_and_sessions_resume() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &service("shop", &[backend.address()])
        + &tls_secret("one", &authority.issue("one", &[HOST]))
        + &at(HOST, "one");
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "2"]).start().await;
    let config = authority.client(&["http/1.1"]);
    let mut kinds = Vec::new();
    for _ in 0..8 {
        let stream = TcpStream::connect(weir.https).await.unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let mut stream = TlsConnector::from(config.clone()).connect(name, stream).await.unwrap();
        {
            let session = stream.get_ref().1;
            let group = session.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            kinds.push(session.handshake_kind().unwrap());
        }
        // The tickets come after the handshake: read an answer, so that they have been seen.
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_not_a_matching_pair_keeps_the_last_good_certificate() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let good = authority.issue("good", &[HOST]);
    let mut wrong = authority.issue("wrong", &[HOST]);
    wrong.key_pem = authority.issue("another", &[HOST]).key_pem;
    let manifests = classes() + &service("shop", &[backend.address()]) + &at(HOST, "one");
    let weir =
        Weir::builder().file("main.yaml", &manifests).file("secret.yaml", &tls_secret("one", &good)).start().await;
    assert_eq!(presented(&weir, &authority, HOST).await.unwrap(), "good");
    weir.apply("secret.yaml", &tls_secret("one", &wrong));
    weir.apply("marker.yaml", &ingress("marker", "marker.example", "/", "shop"));
    weir.until_served("marker.example", "/", |answer| answer.status == 200).await;
    assert_eq!(presented(&weir, &authority, HOST).await.unwrap(), "good");
    weir.apply("secret.yaml", &tls_secret("one", &authority.issue("better", &[HOST])));
    eventually("the better certificate", async || {
        let name = presented(&weir, &authority, HOST).await.map_err(|error| error.to_string())?;
        if name == "better" { Ok(()) } else { Err(name) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rotations_lose_no_handshake() {
    let _turn = turn::alone().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes() + &service("shop", &[backend.address()]) + &at(HOST, "one");
    let first = tls_secret("one", &authority.issue("rotation-0", &[HOST]));
    let weir = Weir::builder().file("main.yaml", &manifests).file("secret.yaml", &first).start().await;
    let mut plan = Plan::mixed(&weir, HOST, "").with_tls(weir.https, &authority);
    plan.grpc_streams = 0;
    plan.new_connections = 8;
    let load = plan.start();
    load.warm().await;
    for rotation in 1..=100 {
        let label = format!("rotation-{rotation}");
        weir.apply("secret.yaml", &tls_secret("one", &authority.issue(&label, &[HOST])));
        eventually(&format!("{label} is presented"), async || {
            let name = presented(&weir, &authority, HOST).await.map_err(|error| error.to_string())?;
            if name == label { Ok(()) } else { Err(name) }
        })
        .await;
    }
    load.stop().await.assert_clean("a hundred rotations", 2_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_is_spoken_to_over_tls_and_verified_when_roots_are_named() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let leaf = authority.issue("inner", &["inner.example"]);
    let h1 = Backend::start_tls("h1", leaf.server(&["http/1.1"])).await;
    let h2 = Backend::start_tls("h2", leaf.server(&["h2", "http/1.1"])).await;
    let roots = |name: &str, authority: &Authority| {
        let pem = authority.pem().lines().fold(String::new(), |text, line| text + "    " + line + "\n");
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  ca.crt: |\n{pem}---\n")
    };
    let secured = |name: &str, backend: &Backend, ca: &str| {
        let annotations = [("weir.dev/upstream-tls-server-name", "inner.example"), ("weir.dev/upstream-tls-ca", ca)];
        service_with(name, &[backend.address()], &annotations[..if ca.is_empty() { 1 } else { 2 }], "https")
            + &ingress(name, &format!("{name}.example"), "/", name)
    };
    let manifests = classes()
        + &roots("ours", &authority)
        + &roots("theirs", &Authority::new())
        + &secured("verified", &h1, "ours")
        + &secured("multiplexed", &h2, "ours")
        + &secured("unverified", &h1, "")
        + &secured("distrusted", &h1, "theirs")
        + &secured("rootless", &h1, "missing");
    let weir = Weir::start(&manifests).await;
    for (host, status, version) in [
        ("verified.example", 200, "HTTP/1.1"),
        ("multiplexed.example", 200, "HTTP/2.0"),
        ("unverified.example", 200, "HTTP/1.1"),
    ] {
        let answer = weir.get(host, "/head").await;
        assert_eq!(answer.status, status, "{host}: {answer:?}");
        assert_eq!(answer.json()["version"], version, "{host}");
    }
    assert_eq!(weir.get("distrusted.example", "/").await.status, 502);
    let rootless = weir.get("rootless.example", "/").await.status;
    assert!(matches!(rootless, 500 | 503), "a protective setting that cannot be honoured: {rootless}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_goes_leaves_open_connections_alone() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes() + &service("shop", &[backend.address()]) + &ingress("plain", HOST, "/", "shop");
    let secured = tls_secret("one", &authority.issue("one", &[HOST])) + &at(HOST, "one");
    let weir = Weir::builder().file("main.yaml", &manifests).file("tls.yaml", &secured).start().await;
    let mut connection = H1::connect(&Target::tls(weir.https, authority.client(&["http/1.1"]), HOST)).await.unwrap();
    assert_eq!(connection.get(HOST, "/").await.unwrap().status, 200);
    weir.remove("tls.yaml");
    eventually("no certificate is presented", async || match presented(&weir, &authority, HOST).await {
        Ok(name) => Err(name),
        Err(_) => Ok(()),
    })
    .await;
    assert!(!connection.closed());
    // Whether the host is still served over TLS is the routes' affair; the connection must be able to ask.
    assert!(matches!(connection.get(HOST, "/").await.unwrap().status, 200 | 404));
}
