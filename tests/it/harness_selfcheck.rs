//! The harness measures what it says: its clients, its load and its backends against each other and against programs of
//! others, without Weir. A promise shown with a broken instrument is no promise.

use std::time::Duration;

use http::Method;

use crate::harness::backend::{Backend, Mode};
use crate::harness::certificates::Authority;
use crate::harness::client::{self, H1, H2, Target, full, request};
use crate::harness::grpc::{self, Say};
use crate::harness::load::Plan;
use crate::harness::nginx::Nginx;
use crate::harness::raw::{self, Recorder};
use crate::harness::websocket::Socket;
use crate::harness::{tools, turn, until};

fn plan(backend: &Backend) -> Plan {
    Plan {
        http: backend.address(),
        https: None,
        host: "a.example".to_owned(),
        long_hosts: Vec::new(),
        grpc_hosts: vec!["b.example".to_owned()],
        keep_alive: 4,
        new_connections: 2,
        multiplexed: (2, 4),
        sockets: 4,
        grpc_streams: 4,
        posts: true,
        pause: Duration::from_millis(2),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_on_a_healthy_backend_is_clean_and_counted_exactly() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let load = plan(&backend).start();
    load.warm().await;
    until("two thousand requests", async || load.requests() > 2_000).await;
    let report = load.stop().await;
    report.assert_clean("directly on a backend", 2_000);
    let streams = report.kind("websocket").opened + report.kind("grpc").opened;
    let echoes = report.kind("websocket").requests + report.kind("grpc").requests;
    assert_eq!(backend.requests(), report.requests() - echoes + streams);
    assert_eq!(report.servers.keys().collect::<Vec<_>>(), ["blue"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_on_a_backend_that_is_reset_counts_failures_and_closes() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let load = plan(&backend).start();
    load.warm().await;
    backend.set(Mode::Resetting);
    until("harm", async || load.harm() > 100).await;
    backend.set(Mode::Serving);
    let report = load.stop().await;
    for (name, count) in &report.kinds {
        assert!(count.failed + count.closed > 0, "{name} saw nothing of it: {report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_counts_a_wrong_status_as_a_failure() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let load = plan(&backend).idempotent_only().start();
    load.warm().await;
    backend.set(Mode::Failing(503));
    until("harm", async || load.harm() > 10).await;
    assert!(load.stop().await.failed() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_counts_a_backend_that_hangs_as_a_failure() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let load = plan(&backend).idempotent_only().start();
    load.warm().await;
    backend.set(Mode::Hanging);
    until("harm", async || load.harm() > 0).await;
    backend.set(Mode::Serving);
    assert!(load.stop().await.failed() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_over_tls_is_clean() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let leaf = authority.issue("a", &["a.example"]);
    let plain = Backend::start("plain").await;
    let secured = Backend::start_tls("secured", leaf.server(&["h2", "http/1.1"])).await;
    let load = plan(&plain).with_tls(secured.address(), &authority).start();
    load.warm().await;
    until("requests at both", async || plain.requests() > 500 && secured.requests() > 500).await;
    let report = load.stop().await;
    report.assert_clean("half over TLS", 1_000);
    assert_eq!(report.servers.keys().collect::<Vec<_>>(), ["plain", "secured"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_shows_heads_bodies_and_trailers() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let target = Target::plain(backend.address());
    let mut h1 = H1::connect(&target).await.unwrap();
    let head = h1.get("a.example", "/head?x=1").await.unwrap();
    assert_eq!(head.json()["target"], "/head?x=1");
    assert_eq!(h1.get("a.example", "/bytes/100000").await.unwrap().body.len(), 100_000);
    let sink = request(Method::POST, "a.example", "/sink").body(full(vec![1; 70_000])).unwrap();
    assert_eq!(h1.ask(sink).await.unwrap().json()["bytes"], 70_000);
    assert_eq!(h1.get("a.example", "/status/404").await.unwrap().status, 404);
    let mut h2 = H2::connect(&target).await.unwrap();
    let with_trailers = h2.get("a.example", "/trailers").await.unwrap();
    assert_eq!(with_trailers.trailers.unwrap()["x-sum"], "42");
    assert_eq!(h2.get("a.example", "/drip/3").await.unwrap().text(), "drip\ndrip\ndrip\n");
    assert_eq!(backend.requests_for("/drip/3"), 1);
    until("nothing in flight", async || backend.in_flight() == 0).await;
    assert_eq!((backend.accepted(), backend.connections()), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_speaks_grpc_and_websocket() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let mut client = grpc::Client::connect(backend.address(), "b.example").await.unwrap();
    let mut say = tonic::Request::new(Say::new("hello"));
    say.set_timeout(Duration::from_secs(3));
    let answer = client.unary(say).await.unwrap();
    assert_eq!(answer.metadata().get("x-seen-timeout").unwrap(), "3000000u");
    assert_eq!(answer.into_inner(), Say { text: "hello".to_owned(), from: "blue".to_owned() });
    assert_eq!(client.fail("why").await.unwrap_err().message(), "why");
    let (sender, mut receiver) = client.bidi().await.unwrap();
    for text in ["one", "two"] {
        sender.send(Say::new(text)).await.unwrap();
        assert_eq!(receiver.message().await.unwrap().unwrap().text, text);
    }
    drop(sender);
    assert_eq!(receiver.message().await.unwrap(), None);
    let mut socket = Socket::connect(&Target::plain(backend.address()), "a.example").await.unwrap();
    assert_eq!(socket.echo("hello").await.unwrap().unwrap(), "blue hello");
    socket.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_clients_and_backends_say_bytes_as_they_are() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let reply = raw::exchange(recorder.address, b"GET / HTTP/1.1\r\n\r\n", Duration::from_millis(200)).await;
    assert_eq!((reply.status(), reply.closed), (200, false));
    assert_eq!(recorder.seen(), b"GET / HTTP/1.1\r\n\r\n");
    let once = raw::answering_once(b"HTTP/1.1 404 No\r\n\r\n").await;
    let reply = raw::exchange(once, b"GET / HTTP/1.1\r\n\r\n", Duration::from_secs(5)).await;
    assert_eq!((reply.status(), reply.closed), (404, true));
    let reset = raw::backend(|_, stream| async { raw::reset(stream) }).await;
    assert!(client::get(reset, "a.example", "/").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_of_others_agree_with_a_backend() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let leaf = authority.issue("a", &["a.example"]);
    let backend = Backend::start_tls("secured", leaf.server(&["h2", "http/1.1"])).await;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).unwrap();
    let roots = roots.to_str().unwrap();
    let port = backend.address().port();
    let (resolve, url) = (format!("a.example:{port}:127.0.0.1"), format!("https://a.example:{port}/x"));
    let body = tools::curl(&["--http2", "--cacert", roots, "--resolve", &resolve, "-H", "x-token: 7", &url]).await;
    assert_eq!(body, "secured 7");
    let connect = format!("127.0.0.1:{port}");
    let arguments =
        ["s_client", "-connect", &connect, "-servername", "a.example", "-CAfile", roots, "-verify_return_error"];
    let output = tools::run("openssl", &arguments, b"").await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("Verify return code: 0 (ok)"), "{output:?}");
    let plain = Backend::start("plain").await;
    let counts = tools::h2load(&["-n", "1000", "-c", "4", "-m", "10", &format!("http://{}/", plain.address())]).await;
    assert_eq!((counts.succeeded, counts.status_2xx, plain.requests()), (1000, 1000, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_serves_as_a_backend() {
    let _turn = turn::beside_others().await;
    let nginx = Nginx::start("location = /hello { return 200 'hello from nginx'; }", &[("page.html", b"a page")]).await;
    assert_eq!(client::get(nginx.address, "a", "/hello").await.unwrap().text(), "hello from nginx");
    assert_eq!(client::get(nginx.address, "a", "/page.html").await.unwrap().text(), "a page");
}
