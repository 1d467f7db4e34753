//! Frames that cost their sender nothing and us something end their connection, and nobody else notices; honest heavy use
//! is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Method;

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{H2, Target, empty, request};
use crate::harness::frames::{
    ACK, CALM, CONTINUATION, DATA, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire,
    block, frame, get, number, post,
};
use crate::harness::manifests::{classes, ingress_with, service, tls_secret};
use crate::harness::scene::{self, HOST};
use crate::harness::weir::Weir;
use crate::harness::{tools, turn, until};

/// Weir with one backend, clear and over TLS. Requests whose body does not end go to `/sink`, for it reads: a backend that
/// does not read a body does not notice that its sender is gone, so that it would be as if Weir had kept the request.
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
/// ENHANCE_YOUR_CALM and closes, counts it as one of `kinds`, keeps no memory of it, and serves another connection all the while.
async fn is_calmed(kinds: &[&str], mut flood: impl AsyncFnMut(&mut Wire, u32) -> bool) {
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
        println!("{kinds:?} over {listener}: {rounds} rounds, {:?}", wire.seen().goaway);
        assert_eq!(wire.goaway().await, CALM, "{kinds:?} over {listener} after {rounds} rounds");
        over.store(true, Ordering::Relaxed);
        assert!(others.await.unwrap() > 0);
        let counted = async || -> Vec<(String, f64)> {
            let metrics = scene.weir.metrics().await;
            let labels = [("listener", listener)];
            let matching = metrics.matching("weir_http2_floods_total", &labels).filter(|sample| sample.value > 0.0);
            matching.map(|sample| (sample.labels["kind"].clone(), sample.value)).collect()
        };
        until("it is counted", async || !counted().await.is_empty()).await;
        let counted = counted().await;
        assert!(counted.len() == 1 && counted[0].1 == 1.0 && kinds.contains(&&*counted[0].0), "{kinds:?}: {counted:?}");
        let metrics = scene.weir.metrics().await;
        assert_eq!(metrics.sum("weir_worker_panics_total", &[]), 0.0);
        assert_eq!(beside.get(HOST, "/").await.unwrap().status, 200, "the connection beside it lives on");
        let grown = scene.weir.resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "{kinds:?} over {listener}: {grown} bytes more");
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
    is_calmed(&["reset"], async |wire, round| {
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
    is_calmed(&["reset"], async |wire, round| {
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
    is_calmed(&["provoked_reset"], async |wire, round| {
        // A window beyond 2^31-1 is an error of its stream (RFC 9113 section 6.9.1).
        let stream = nth(round);
        let mut bytes = post(stream, HOST, "/sink");
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
    // The library counts them too, and may see more of them before it writes what we see.
    is_calmed(&["provoked_reset", "other"], async |wire, round| {
        let bytes: Vec<u8> = (0..100).flat_map(|n| get(nth(round * 100 + n), HOST, "/slow/20000")).collect();
        wire.send(&bytes).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed(&["ping"], async |wire, _| hundred(wire, &frame(PING, 0, 0, b"whatever")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_pings_that_nobody_sent_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed(&["ping"], async |wire, _| hundred(wire, &frame(PING, ACK, 0, b"whatever")).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_calmed() {
    let _turn = turn::beside_others().await;
    // The size of the header table, up and down: each makes work for the compressor.
    is_calmed(&["settings"], async |wire, round| {
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
    is_calmed(&["window_update"], async |wire, _| hundred(wire, &number(WINDOW_UPDATE, 0, 1)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_updates_of_a_stream_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed(&["window_update"], async |wire, round| {
        if round == 0 {
            return wire.send(&post(1, HOST, "/sink")).await;
        }
        hundred(wire, &number(WINDOW_UPDATE, 1, 1)).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_are_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed(&["priority"], async |wire, _| hundred(wire, &frame(PRIORITY, 0, 1001, &[0, 0, 0, 0, 15])).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_without_data_is_calmed() {
    let _turn = turn::beside_others().await;
    is_calmed(&["empty_data"], async |wire, round| {
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
    is_calmed(&["continuation"], async |wire, round| {
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
    is_calmed(&["unknown"], async |wire, _| hundred(wire, &frame(0xfa, 0, 0, b"grease")).await).await;
}

async fn no_flood(weir: &Weir) {
    let metrics = weir.metrics().await;
    assert!(metrics.matching("weir_http2_floods_total", &[]).count() > 0, "the metric exists");
    assert_eq!(metrics.sum("weir_http2_floods_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_honest_requests_are_no_flood() {
    let _turn = turn::beside_others().await;
    let scene = Scene::new().await;
    let connect = format!("127.0.0.1:{}", scene.weir.https.port());
    let url = format!("https://{HOST}:{}/", scene.weir.https.port());
    let counts = tools::h2load(&["-n", "30000", "-c", "8", "-m", "32", "--connect-to", &connect, &url]).await;
    assert_eq!((counts.succeeded, counts.status_2xx), (30_000, 30_000), "{counts:?}");
    // Windows of 4 KiB: two updates for every 2 KiB.
    let url = format!("https://{HOST}:{}/bytes/200000", scene.weir.https.port());
    let small = ["-n", "200", "-c", "2", "-m", "4", "-w", "12", "-W", "12", "--connect-to", &connect, &url];
    let counts = tools::h2load(&small).await;
    assert_eq!((counts.succeeded, counts.status_2xx), (200, 200), "{counts:?}");
    no_flood(&scene.weir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_cancels_what_it_has_seen_enough_of_is_no_flood() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut wire = Wire::connect(&Target::plain(weir.http), &[]).await;
    let mut given = 0;
    for round in 0..60 {
        let streams = (0..20).map(|n| nth(round * 20 + n));
        let asked: Vec<u8> = streams.clone().flat_map(|stream| get(stream, HOST, "/bytes/100000")).collect();
        assert!(wire.send(&asked).await);
        wire.until("every head", |seen| seen.heads.len() == (round as usize + 1) * 20).await;
        let mut done: Vec<u8> = streams.flat_map(|stream| number(RST_STREAM, stream, 8)).collect();
        // What was sent before the reset came counts against the window of the connection.
        let data = wire.seen().data;
        if data > given {
            done.extend(number(WINDOW_UPDATE, 0, (data - given) as u32));
            given = data;
        }
        assert!(wire.send(&done).await);
    }
    let seen = wire.seen();
    assert!(seen.heads.iter().all(|(_, status)| *status == 0x88), "{:?}", seen.heads);
    assert_eq!((seen.goaway, seen.closed), (None, false));
    until("nothing is left at the backend", async || backend.in_flight() == 0).await;
    no_flood(&weir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_acknowledges_every_piece_and_probes_the_bandwidth_is_no_flood() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    const LENGTH: u64 = 8_000_000;
    let mut wire = Wire::connect(&Target::plain(weir.http), &[]).await;
    assert!(wire.send(&get(1, HOST, &format!("/bytes/{LENGTH}"))).await);
    let (mut given, mut updates, mut pings) = (0, 0, 0);
    while given < LENGTH {
        wire.until("more data", |seen| seen.data > given || seen.closed).await;
        let data = wire.seen().data;
        let mut bytes = Vec::new();
        while given < data {
            let piece = (data - given).min(1000) as u32;
            bytes.extend(number(WINDOW_UPDATE, 0, piece));
            bytes.extend(number(WINDOW_UPDATE, 1, piece));
            given += u64::from(piece);
            updates += 2;
        }
        bytes.extend(frame(PING, 0, 0, b"how fast"));
        pings += 1;
        assert!(wire.send(&bytes).await, "closed after {given} bytes: {:?}", wire.seen().goaway);
    }
    assert!(updates > 10_000 && pings > 100, "{updates} window updates, {pings} pings");
    wire.until("the end", |seen| seen.ended == [1] && seen.frames[usize::from(PING)] >= pings).await;
    assert_eq!(wire.seen().goaway, None);
    no_flood(&weir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_crumb_of_a_cookie_is_a_field() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    for (crumbs, status) in [(100, 200), (101, 431), (100, 200)] {
        let mut asked = request(Method::GET, HOST, "/").body(empty()).unwrap();
        for n in 0..crumbs {
            asked.headers_mut().append("cookie", format!("c{n}=x").parse().unwrap());
        }
        assert_eq!(h2.ask(asked).await.unwrap().status, status, "{crumbs} crumbs");
    }
    assert_eq!(backend.requests(), 2);
}
