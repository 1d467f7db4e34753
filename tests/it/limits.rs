//! Ceilings and deadlines: what exceeds them is told so, and nobody else notices.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{self, H2, Stream, Target};
use crate::harness::manifests::{classes, ingress, ingress_with, service_with, tls_secret};
use crate::harness::raw;
use crate::harness::scene::{self, HOST, shop};
use crate::harness::weir::Weir;
use crate::harness::{turn, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_ceiling_of_a_backend_are_shed_at_once_with_retry_after() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &service_with(
            "shop",
            &[backend.address()],
            &[("weir.dev/max-in-flight", "5"), ("weir.dev/max-pending", "0")],
            "",
        )
        + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::start(&manifests).await;
    let mut all = JoinSet::new();
    for _ in 0..5 {
        let address = weir.http;
        all.spawn(async move { client::get(address, HOST, "/slow/1500").await.unwrap().status });
    }
    until("five in flight", async || backend.in_flight() == 5).await;
    for _ in 0..10 {
        let start = Instant::now();
        let answer = weir.get(HOST, "/").await;
        assert_eq!(answer.status, 503);
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        assert!(start.elapsed() < Duration::from_secs(1), "shed after {:?}", start.elapsed());
    }
    assert_eq!(backend.requests_for("/"), 0);
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(weir.get(HOST, "/").await.status, 200, "recovered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_answers_503_with_retry_after() {
    let _turn = turn::beside_others().await;
    let manifests = classes() + &service_with("shop", &[], &[], "") + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::start(&manifests).await;
    let answer = weir.get(HOST, "/").await;
    assert_eq!(answer.status, 503);
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_never_ends_is_told_so_and_closed() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir =
        Weir::builder().file("main.yaml", &shop(&backend)).settings("timeouts: {request_head: 500ms}\n").start().await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Slow: ").await.unwrap();
    let start = Instant::now();
    let reply = raw::read(&mut stream, Duration::from_secs(8)).await;
    assert!(reply.closed, "still open after {:?}", start.elapsed());
    assert!(matches!(reply.status(), 408 | 0), "{}", reply.text());
    assert!(start.elapsed() > Duration::from_millis(300));
    assert_eq!(backend.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_after_its_time() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir =
        Weir::builder().file("main.yaml", &shop(&backend)).settings("timeouts: {keep_alive: 500ms}\n").start().await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.unwrap();
    raw::read_response(&mut stream).await;
    let start = Instant::now();
    assert!(raw::read(&mut stream, Duration::from_secs(8)).await.closed);
    assert!(start.elapsed() > Duration::from_millis(300), "closed after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::builder().file("main.yaml", &shop(&backend)).settings("limits: {body: 1000}\n").start().await;
    let declared = format!(
        "POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1001\r\nConnection: close\r\n\r\n{}",
        "x".repeat(1001)
    );
    assert_eq!(raw::exchange(weir.http, declared.as_bytes(), Duration::from_secs(5)).await.status(), 413);
    assert_eq!(backend.requests(), 0);
    let fits = format!(
        "POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n{}",
        "x".repeat(1000)
    );
    assert_eq!(raw::exchange(weir.http, fits.as_bytes(), Duration::from_secs(5)).await.status(), 200);
    let chunked = format!(
        "POST /sink HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("64\r\n{}\r\n", "x".repeat(100)).repeat(11)
    );
    let reply = raw::exchange(weir.http, chunked.as_bytes(), Duration::from_secs(5)).await;
    assert!(reply.closed && matches!(reply.status(), 413 | 0), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_leave_room_for_others_and_cost_little_memory() {
    let _turn = turn::alone().await;
    let (weir, _backend) = scene::one_backend().await;
    let (idle, each) = cost_of_idle(&weir, &Target::plain(weir.http), as_files_allow(10_000)).await;
    assert!(each < 2 * 1024, "{each} bytes per idle connection");
    assert_eq!(weir.get(HOST, "/").await.status, 200);
    drop(idle);
    until("the descriptors are back", async || weir.descriptors() < 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_over_tls_cost_little_memory() {
    let _turn = turn::alone().await;
    let authority = Authority::new();
    let backend = Backend::start("blue").await;
    let manifests = classes()
        + &service_with("shop", &[backend.address()], &[], "")
        + &tls_secret("one", &authority.issue("one", &[HOST]))
        + &ingress_with("shop", HOST, &[("/", "Prefix", "shop")], "one", &[]);
    let weir = Weir::start(&manifests).await;
    let target = Target::tls(weir.https, authority.client(&["http/1.1"]), HOST);
    let (_idle, each) = cost_of_idle(&weir, &target, as_files_allow(4_000)).await;
    assert!(each < 12 * 1024, "{each} bytes per idle connection");
}

/// As many connections, or as many as this process and that one can have open at the same time.
fn as_files_allow(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: limit, maximum: limit };
    setrlimit(Resource::Nofile, raised).unwrap();
    // Weir keeps half of its descriptors for connections to endpoints, and a reserve.
    limit.map_or(wanted, |limit| wanted.min(usize::try_from(limit / 2).unwrap() - 400))
}

/// Bytes of resident memory that a connection costs which has made a request and may make another one. The second half of
/// them is what is measured: what many connections share is there by then.
async fn cost_of_idle(weir: &Weir, target: &Target, count: usize) -> (Vec<Box<dyn Stream>>, u64) {
    let mut idle = Vec::new();
    let mut half = 0;
    for number in 0..count {
        if number == count / 2 {
            half = weir.resident_bytes();
        }
        let mut stream = target.connect().await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.unwrap();
        raw::read_response(&mut stream).await;
        idle.push(stream);
    }
    let each = weir.resident_bytes().saturating_sub(half) / (count - count / 2) as u64;
    println!("{each} bytes of resident memory per idle connection, of {count}");
    (idle, each)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_too_many_waits_or_is_refused_but_harms_no_other() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let mut all = JoinSet::new();
    for _ in 0..150 {
        let mut h2 = h2.clone();
        all.spawn(async move { h2.get(HOST, "/slow/500").await.unwrap().status });
    }
    let mut most = 0;
    while !all.is_empty() {
        most = most.max(backend.in_flight());
        if let Some(status) = all.try_join_next() {
            assert_eq!(status.unwrap(), 200);
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(most <= 100, "{most} streams of one connection at once");
}
