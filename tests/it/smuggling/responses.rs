//! Responses from hostile backends.

use std::time::Duration;

use crate::harness::raw;
use crate::harness::turn;
use crate::headers::weir_before;

const PATIENCE: Duration = Duration::from_secs(3);

pub struct Case {
    pub what: &'static str,
}

pub fn cases() -> Vec<Case> {
    RESPONSES.iter().map(|(what, _)| Case { what }).collect()
}

/// Responses that cannot be understood in one way only.
const RESPONSES: &[(&str, &[u8])] = &[
    ("both lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("two lengths that differ", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
    ("a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
    ("an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("no response at all", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    ("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("a bare LF in the head", b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\r\n\r\nok"),
    ("a NUL in a value", b"HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 2\r\n\r\nok"),
    ("a folded line", b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
    ("a blank before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
    ("a head that breaks off", b"HTTP/1.1 200 OK\r\nContent-Le"),
    ("nothing", b""),
    (
        "an upgrade that nobody asked for",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ),
    ("another version", b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubtful_response_becomes_502() {
    let _turn = turn::beside_others().await;
    let mut wrong = Vec::new();
    for (what, response) in RESPONSES {
        let weir = weir_before(raw::answering_once(response).await).await;
        // A POST, so that nothing is tried again.
        let asked = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let reply = raw::exchange(weir.http, asked, PATIENCE).await;
        if reply.statuses() != [502] {
            wrong.push(format!("{what}: {:?} {}", reply.statuses(), reply.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n  "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_interim_responses_or_a_huge_head_becomes_502() {
    let _turn = turn::beside_others().await;
    let asked = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let flood: &'static [u8] = Box::leak(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000).into_boxed_slice());
    let reply = raw::exchange(weir_before(raw::answering_once(flood).await).await.http, asked, PATIENCE).await;
    assert_eq!(reply.statuses().last(), Some(&502), "{} answers", reply.statuses().len());
    assert!(reply.statuses().len() < 1000, "{} interim responses were passed on", reply.statuses().len());
    let huge = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 2\r\n\r\nok", "x".repeat(1 << 20)).into_bytes();
    let reply = raw::exchange(weir_before(raw::answering_once(huge.leak()).await).await.http, asked, PATIENCE).await;
    assert_eq!(reply.statuses(), [502]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_breaks_off_is_never_passed_on_as_whole() {
    let _turn = turn::beside_others().await;
    for response in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n+1\r\nx\r\n0\r\n\r\n",
    ] {
        let response: &'static [u8] = response;
        let weir = weir_before(raw::answering_once(response).await).await;
        let reply = raw::exchange(weir.http, b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n", PATIENCE).await;
        assert!(reply.closed || reply.status() == 502, "{}", reply.text());
        let text = reply.text();
        let whole =
            text.ends_with("0\r\n\r\n") || text.contains("ontent-length: 4") || text.contains("ontent-Length: 4");
        assert!(reply.status() == 502 || !whole, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_after_a_response_are_not_taken_for_the_next_one() {
    let _turn = turn::beside_others().await;
    let poisoned = raw::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    )
    .await;
    let weir = weir_before(poisoned).await;
    for _ in 0..20 {
        let reply =
            raw::exchange(weir.http, b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", PATIENCE)
                .await;
        assert!(!reply.text().contains("evil"), "{}", reply.text());
    }
}
