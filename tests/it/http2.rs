//! HTTP/2 on both ports, by ALPN and with prior knowledge, and towards backends.

use http::Method;
use tokio::task::JoinSet;

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{H2, Target, empty, full, request};
use crate::harness::manifests::{classes, ingress, ingress_with, service, service_with, tls_secret};
use crate::harness::scene::{self, GRPC_HOST, HOST};
use crate::harness::weir::Weir;
use crate::harness::{tools, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prior_knowledge_and_http_1_share_the_port() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let answer = h2.get(HOST, "/").await.unwrap();
    assert_eq!((answer.version, answer.status), (http::Version::HTTP_2, 200));
    assert_eq!(weir.get(HOST, "/").await.version, http::Version::HTTP_11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_share_a_connection_and_a_slow_one_delays_nobody() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let mut slow = h2.clone();
    let waiting = tokio::spawn(async move { slow.get(HOST, "/slow/2000").await.unwrap().status });
    let mut all = JoinSet::new();
    for number in 0..90 {
        let mut h2 = h2.clone();
        all.spawn(async move {
            let body = vec![number as u8; 10_000 + number];
            let asked = request(Method::POST, HOST, "/echo").body(full(body.clone())).unwrap();
            assert!(h2.ask(asked).await.unwrap().body == body, "stream {number}");
        });
    }
    while let Some(result) = all.join_next().await {
        result.unwrap();
    }
    assert!(!waiting.is_finished(), "90 streams took longer than the slow one");
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_wants_h2c_gets_it_from_clients_of_either_version() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::start(&scene::mixed(std::slice::from_ref(&backend), &[])).await;
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    for host in [HOST, GRPC_HOST] {
        let expected = if host == HOST { "HTTP/1.1" } else { "HTTP/2.0" };
        assert_eq!(h2.get(host, "/head").await.unwrap().json()["version"], expected);
        assert_eq!(weir.get(host, "/head").await.json()["version"], expected);
        let body = vec![b'x'; 300_000];
        let asked = request(Method::POST, host, "/echo").body(full(body.clone())).unwrap();
        assert!(h2.ask(asked).await.unwrap().body == body);
        let asked = request(Method::POST, host, "/echo").body(full(body.clone())).unwrap();
        assert!(crate::harness::client::ask(&Target::plain(weir.http), asked).await.unwrap().body == body);
        let asked = request(Method::GET, host, "/trailers").header("te", "trailers").body(empty()).unwrap();
        assert_eq!(h2.ask(asked).await.unwrap().trailers.unwrap()["x-sum"], "42", "{host}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_and_h2load_are_served_over_tls() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &tls_secret("cert", &authority.issue("shop", &[HOST]))
        + &service("shop", &[backend.address()])
        + &ingress_with("shop", HOST, &[("/", "Prefix", "shop")], "cert", &[]);
    let weir = Weir::start(&manifests).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let roots = roots.to_str().unwrap();
    let port = weir.https.port();
    let (resolve, url) = (format!("{HOST}:{port}:127.0.0.1"), format!("https://{HOST}:{port}/"));
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let format = "%{http_version} %{http_code}";
        let output =
            tools::curl(&[option, "--cacert", roots, "--resolve", &resolve, "-o", "/dev/null", "-w", format, &url])
                .await;
        assert_eq!(output, format!("{version} 200"));
    }
    let url = format!("https://{HOST}:{port}/");
    let connect = format!("127.0.0.1:{port}");
    let counts = tools::h2load(&["-n", "2000", "-c", "4", "-m", "20", "--connect-to", &connect, &url]).await;
    assert_eq!((counts.total, counts.succeeded, counts.status_2xx), (2000, 2000, 2000), "{counts:?}");
    let counts = tools::h2load(&["--h1", "-n", "2000", "-c", "4", "--connect-to", &connect, &url]).await;
    assert_eq!((counts.succeeded, counts.status_2xx), (2000, 2000), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_the_certificate_does_not_cover_is_misdirected() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &tls_secret("one", &authority.issue("one", &["one.example"]))
        + &tls_secret("two", &authority.issue("two", &["two.example"]))
        + &service("shop", &[backend.address()])
        + &ingress_with("one", "one.example", &[("/", "Prefix", "shop")], "one", &[])
        + &ingress_with("two", "two.example", &[("/", "Prefix", "shop")], "two", &[]);
    let weir = Weir::start(&manifests).await;
    let target = Target::tls(weir.https, authority.client(&["h2"]), "one.example");
    let mut h2 = H2::connect(&target).await.unwrap();
    assert_eq!(h2.get("one.example", "/").await.unwrap().status, 200);
    assert_eq!(h2.get("two.example", "/").await.unwrap().status, 421);
    assert_eq!(h2.get("one.example", "/").await.unwrap().status, 200, "the connection lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_and_host_must_agree() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let disagreeing = request(Method::GET, "other.example", "/").uri(format!("http://{HOST}/")).body(empty()).unwrap();
    if let Ok(answer) = h2.ask(disagreeing).await {
        assert_eq!(answer.status, 400);
    }
    assert_eq!(backend.requests(), 0);
    assert_eq!(h2.get(HOST, "/").await.unwrap().status, 200, "the connection lives on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_its_client_resets_ends_at_the_backend() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let mut asking = h2.clone();
    let asked = tokio::spawn(async move { asking.get(HOST, "/drip/100000").await });
    crate::harness::until("it is in flight", async || backend.in_flight() == 1).await;
    asked.abort();
    crate::harness::until("it has ended", async || backend.in_flight() == 0).await;
    assert_eq!(h2.clone().get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_another_protocol_does_not_disturb_its_neighbours() {
    let _turn = turn::beside_others().await;
    // An HTTP/1 server behind a Service that claims h2c answers nothing useful: 502 there, and only there.
    let wrong = crate::harness::raw::answering_once(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &service_with("wrong", &[wrong], &[], "kubernetes.io/h2c")
        + &ingress("wrong", "wrong.example", "/", "wrong")
        + &service("shop", &[backend.address()])
        + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::start(&manifests).await;
    assert_eq!(weir.get("wrong.example", "/").await.status, 502);
    assert_eq!(weir.get(HOST, "/").await.status, 200);
}
