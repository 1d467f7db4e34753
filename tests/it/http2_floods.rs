//! Frames that cost their sender nothing and us something end their connection, and nobody else notices; honest heavy use
//! is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{H2, Target, full, request};
use crate::harness::frames::{
    ACK, CALM, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, Wire, block, frame, get, number, post,
};
use crate::harness::manifests::{classes, ingress_with, service, tls_secret};
use crate::harness::scene::{self, HOST};
use crate::harness::weir::Weir;
use crate::harness::{tools, turn, until};

/// Weir with one backend, clear and over TLS.
struct Scene {
    weir: Weir,
    backend: Backend,
    authority: Authority,
}

impl Scene {
    async fn new() -> Self {
        let authority = Authority::new();
        let backend = Backend::start("blue").await;
        let manifests = classes()
            + &tls_secret("cert", &authority.issue("shop", &[HOST]))
            + &service("shop", &[backend.address()])
            + &ingress_with("shop", HOST, &[("/", "Prefix", "shop")], "cert", &[]);
        // A redirect of clear text would answer without the backend.
        let weir = Weir::start(&manifests).await;
        Self { weir, backend, authority }
    }

    fn targets(&self) -> [(&'static str, Target); 2] {
        [
            ("http", Target::plain(self.weir.http)),
            ("https", Target::tls(self.weir.https, self.authority.client(&["h2"]), HOST)),
        ]
    }
}

/// Stream of the n-th request.
const fn nth(n: u32) -> u32 {
    2 * n + 1
}

/// Sends what `flood` gives for 0, 1, 2 … until the server has had enough, over both listeners: it says
/// ENHANCE_YOUR_CALM and closes, counts it as `kind`, keeps no memory of it, and serves another connection all the while.
async fn is_calmed(kind: &str, mut flood: impl AsyncFnMut(&mut Wire, u32) -> bool) {
    let scene = Scene::new().await;
    for (listener, target) in scene.targets() {
        let over = Arc::new(AtomicBool::new(false));
        let mut beside = H2::connect(&target).await.unwrap();
        for _ in 0..100 {
            assert_eq!(beside.get(HOST, "/").await.unwrap().status, 200);
        }
        let before = scene.weir.resident_bytes();
        let others = tokio::spawn({
            let (over, mut beside) = (over.clone(), beside.clone());
            async move {
                let mut served = 0;
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(beside.get(HOST, "/").await.unwrap().status, 200, "beside the flood");
                    served += 1;
                }
                served
            }
        });
        let mut wire = Wire::connect(&target, &[]).await;
        let mut rounds = 0;
        while rounds < 50_000 && !wire.is_over() && flood(&mut wire, rounds).await {
            rounds += 1;
        }
        println!("{kind} over {listener}: {rounds} rounds, {:?}", wire.seen().goaway);
        assert_eq!(wire.goaway().await, CALM, "{kind} over {listener} after {rounds} rounds");
        over.store(true, Ordering::Relaxed);
        assert!(others.await.unwrap() > 0);
        let labels = [("listener", listener), ("kind", kind)];
        until("it is counted", async || scene.weir.metrics().await.sum("weir_http2_floods_total", &labels) == 1.0)
            .await;
        let metrics = scene.weir.metrics().await;
        assert_eq!(metrics.sum("weir_http2_floods_total", &[("listener", listener)]), 1.0, "as nothing else");
        assert_eq!(metrics.sum("weir_worker_panics_total", &[]), 0.0);
        assert_eq!(beside.get(HOST, "/").await.unwrap().status, 200, "the connection beside it lives on");
        let grown = scene.weir.resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "{kind} over {listener}: {grown} bytes more");
        until("nothing is left at the backend", async || scene.backend.in_flight() == 0).await;
    }
}

/// The same frames, a hundred at a time.
async fn hundred(wire: &mut Wire, bytes: &[u8]) -> bool {
    wire.send(&bytes.repeat(100)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_at_once_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("reset", async |wire, round| {
        let mut bytes = Vec::new();
        // Few enough at a time that none of them is still waiting to be looked at when the next ones come.
        for n in 0..10 {
            let stream = nth(round * 11 + n);
            bytes.extend(get(stream, HOST, "/slow/20000"));
            bytes.extend(number(RST_STREAM, stream, 8));
        }
        let last = nth(round * 11 + 10);
        bytes.extend(get(last, HOST, "/"));
        if !wire.send(&bytes).await {
            return false;
        }
        until("an answer, or the end", async || wire.is_over() || wire.seen().ended.last() == Some(&last)).await;
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_a_stream_that_is_gone_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("reset", async |wire, round| {
        if round == 0 {
            return wire.send(&post(1, HOST, "/sink")).await;
        }
        hundred(wire, &number(RST_STREAM, 1, 8)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_that_the_server_is_made_to_send_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("provoked_reset", async |wire, round| {
        // A window beyond 2^31-1 is an error of its stream (RFC 9113 section 6.9.1).
        let stream = nth(round);
        let mut bytes = post(stream, HOST, "/slow/20000");
        bytes.extend(number(WINDOW_UPDATE, stream, 0x7fff_ffff));
        if !wire.send(&bytes).await {
            return false;
        }
        let answered = |seen: &crate::harness::frames::Seen| seen.reset.last().is_some_and(|(is, _)| *is == stream);
        until("a reset, or the end", async || wire.is_over() || answered(&wire.seen())).await;
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_number_that_was_allowed_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("provoked_reset", async |wire, round| {
        let bytes: Vec<u8> = (0..100).flat_map(|n| get(nth(round * 100 + n), HOST, "/slow/20000")).collect();
        wire.send(&bytes).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("ping", async |wire, _| hundred(wire, &frame(PING, 0, 0, b"whatever")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_pings_that_nobody_sent_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("ping", async |wire, _| hundred(wire, &frame(PING, ACK, 0, b"whatever")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_calmed() {
    let _turn = turn::beside_others().await;
    // The size of the header table, up and down: each makes work for the compressor.
    is_calmed("settings", async |wire, round| {
        let size = if round % 2 == 0 { 4096u32 } else { 0 };
        let mut payload = vec![0, 1];
        payload.extend(size.to_be_bytes());
        hundred(wire, &frame(SETTINGS, 0, 0, &payload)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_updates_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("window_update", async |wire, _| hundred(wire, &number(WINDOW_UPDATE, 0, 1)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_updates_of_a_stream_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("window_update", async |wire, round| {
        if round == 0 {
            return wire.send(&post(1, HOST, "/slow/20000")).await;
        }
        hundred(wire, &number(WINDOW_UPDATE, 1, 1)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("priority", async |wire, _| hundred(wire, &frame(PRIORITY, 0, 1001, &[0, 0, 0, 0, 15])).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_without_data_is_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("empty_data", async |wire, round| {
        if round == 0 {
            return wire.send(&post(1, HOST, "/sink")).await;
        }
        wire.send(&frame(DATA, 0, 1, &[])).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_in_crumbs_that_never_ends_is_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("continuation", async |wire, round| {
        if round == 0 {
            let head = block("GET", HOST, "/", &[]);
            return wire.send(&frame(HEADERS, END_STREAM, 1, &head)).await;
        }
        wire.send(&frame(CONTINUATION, 0, 1, &[])).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_no_known_type_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed("unknown", async |wire, _| hundred(wire, &frame(0xfa, 0, 0, b"grease")).await).await;
}
