//! Ceilings and deadlines: what exceeds them is told so, and nobody else notices.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::backend::Backend;
use crate::harness::client::{self, H2, Target};
use crate::harness::manifests::{classes, ingress, service_with};
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
    let weir =
        Weir::builder().file("main.yaml", &shop(&backend)).settings("limits: {request_body: 1000}\n").start().await;
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
async fn a_thousand_idle_connections_leave_room_for_others_and_cost_little_memory() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    weir.get(HOST, "/").await;
    let before = weir.resident_bytes();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(weir.http).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.unwrap();
        raw::read_response(&mut stream).await;
        idle.push(stream);
    }
    let each = weir.resident_bytes().saturating_sub(before) / 1000;
    println!("{} bytes of resident memory per idle connection", each);
    assert!(each < 24 * 1024, "{each} bytes per idle connection");
    assert_eq!(weir.get(HOST, "/").await.status, 200);
    drop(idle);
    until("the descriptors are back", async || weir.descriptors() < 200).await;
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
