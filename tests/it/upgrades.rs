//! Only what was asked for and agreed to becomes a tunnel.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::raw::{self, Recorder};
use crate::harness::scene;
use crate::harness::turn;
use crate::headers::weir_before;

const PATIENCE: Duration = Duration::from_secs(5);

/// A backend that upgrades to `echo/1` and sends everything back.
async fn echoing() -> std::net::SocketAddr {
    raw::backend(|_, mut stream| async move {
        let Some(head) = raw::head(&mut stream).await else { return };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if !head.contains("upgrade: echo/1") || !head.contains("connection: upgrade") {
            // Tells the test what is missing.
            let _ = stream.write_all(b"HTTP/1.1 400 No Upgrade\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nhello ";
        if stream.write_all(answer).await.is_err() {
            return;
        }
        let (mut read, mut write) = stream.split();
        // Ends when the client closes.
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_protocol_can_be_upgraded_to_and_half_closed() {
    let _turn = turn::beside_others().await;
    let weir = weir_before(echoing().await).await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    let head = b"GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let answer =
        raw::read_until(&mut stream, "101 and the first bytes", |bytes| bytes.ends_with(b"\r\n\r\nhello ")).await;
    assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer));
    stream.write_all(b"there").await.unwrap();
    raw::read_until(&mut stream, "the echo", |bytes| bytes == b"there").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_header_without_its_connection_option_is_not_passed_on() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    let asked = b"GET /x HTTP/1.1\r\nHost: shop.example\r\nUpgrade: echo/1\r\nConnection: close\r\n\r\n";
    assert_eq!(raw::exchange(weir.http, asked, PATIENCE).await.status(), 200);
    let seen = String::from_utf8_lossy(&recorder.seen()).to_ascii_lowercase();
    assert!(!seen.contains("upgrade"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_http_2_is_never_tunnelled() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    let asked =
        b"GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                  HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    let reply = raw::exchange(weir.http, asked, PATIENCE).await;
    assert!(matches!(reply.status(), 200 | 400), "{}", reply.text());
    let seen = String::from_utf8_lossy(&recorder.seen()).to_ascii_lowercase();
    assert!(!seen.contains("h2c") && !seen.contains("http2-settings"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_with_a_body_is_never_tunnelled() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    let asked = b"POST /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nContent-Length: 5\r\n\r\nhello";
    let reply = raw::exchange(weir.http, asked, Duration::from_secs(1)).await;
    assert!(matches!(reply.status(), 200 | 400), "{}", reply.text());
    let seen = String::from_utf8_lossy(&recorder.seen()).to_ascii_lowercase();
    assert!(!seen.contains("upgrade: echo"), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_the_backend_declines_stays_http() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    for _ in 0..2 {
        let head = b"GET /status/404 HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let reply = raw::read_response(&mut stream).await;
        assert!(reply.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&reply));
    }
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.unwrap();
    assert!(raw::read_response(&mut stream).await.starts_with(b"HTTP/1.1 200"));
    assert_eq!(backend.requests(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_sent_before_the_upgrade_is_agreed_are_not_executed_as_requests() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    // The classic: the proxy believes in a tunnel, the backend has said 200 and reads the next request.
    let asked = b"GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
                  13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nGET /hidden HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let reply = raw::exchange(weir.http, asked, Duration::from_secs(1)).await;
    let seen = String::from_utf8_lossy(&recorder.seen()).into_owned();
    // As a pipelined request it is judged like any other, and nothing is served at that host.
    assert!(!seen.contains("/hidden"), "{seen}\n{}", reply.text());
}
