//! The end of the process is nobody's problem.

use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{H1, H2, Target, empty, request};
use crate::harness::load::Plan;
use crate::harness::manifests::{ingress_with, tls_secret};
use crate::harness::scene::{self, GRPC_HOST, HOST, backends, shop};
use crate::harness::weir::Weir;
use crate::harness::{turn, until};

const SHORT: &str = "shutdown: {grace: 2s, timeout: 30s}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_mixed_load_fails_no_request_and_closes_nothing() {
    let _turn = turn::alone().await;
    let authority = Authority::new();
    let backends = backends(&["a", "b"]).await;
    let manifests = scene::mixed(&backends, &[])
        + &tls_secret("cert", &authority.issue("shop", &[HOST]))
        + &ingress_with("secured", HOST, &[("/", "Prefix", "shop")], "cert", &[]);
    let weir = Weir::builder().file("main.yaml", &manifests).settings(SHORT).start().await;
    let load = Plan::mixed(&weir, HOST, GRPC_HOST).with_tls(weir.https, &authority).start();
    load.warm().await;
    until("two thousand requests", async || load.requests() > 2_000).await;
    weir.signal(Signal::TERM);
    let told = Instant::now();
    // Whoever balances to it sees that it is not ready and sends nobody new; connections that are there go on.
    until("it says that it is not ready", async || {
        weir.admin_get("/readyz").await.map_or(true, |answer| answer.status == 503)
    })
    .await;
    assert!(told.elapsed() < Duration::from_millis(1500), "readiness failed only after {:?}", told.elapsed());
    load.no_new_connections();
    // Beyond the grace, so that HTTP connections are told to leave and streams go on.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(load.harm(), 0, "{}", load.stop().await);
    let report = load.stop().await;
    let ended = weir.ended(Duration::from_secs(20)).await;
    report.assert_clean("SIGTERM under load", 2_000);
    let (kept, h2) = (report.kind("keep-alive"), report.kind("http2"));
    assert!(kept.goodbyes > 0 && h2.goodbyes > 0, "nobody was asked to leave: {report}");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    println!("ended {:?} after its last client", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_finished_and_then_the_process_ends_with_0() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::builder()
        .file("main.yaml", &shop(&backend))
        .settings("shutdown: {grace: 200ms, timeout: 30s}\n")
        .start()
        .await;
    let mut h1 = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let asked = || request(Method::GET, HOST, "/drip/100").body(empty()).unwrap();
    let slow = tokio::spawn(async move { h1.ask(asked()).await.unwrap().body.len() });
    let slow_too = tokio::spawn(async move { h2.ask(asked()).await.unwrap().body.len() });
    until("both in flight", async || backend.in_flight() == 2).await;
    let ended = weir.terminate(Duration::from_secs(20)).await;
    assert_eq!((slow.await.unwrap(), slow_too.await.unwrap()), (500, 500));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_grace_new_connections_are_refused() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::builder()
        .file("main.yaml", &shop(&backend))
        .settings("shutdown: {grace: 500ms, timeout: 30s}\n")
        .start()
        .await;
    let mut held = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let asked = request(Method::GET, HOST, "/drip/150").body(empty()).unwrap();
    let slow = tokio::spawn(async move { held.ask(asked).await.unwrap().body.len() });
    until("in flight", async || backend.in_flight() == 1).await;
    weir.signal(Signal::TERM);
    assert_eq!(weir.get(HOST, "/").await.status, 200, "within the grace it accepts");
    until("it refuses", async || tokio::net::TcpStream::connect(weir.http).await.is_err()).await;
    assert_eq!(slow.await.unwrap(), 750);
    assert_eq!(weir.ended(Duration::from_secs(10)).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigterm_ends_at_once() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::builder()
        .file("main.yaml", &shop(&backend))
        .settings("shutdown: {grace: 20s, timeout: 60s}\n")
        .start()
        .await;
    let mut held = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let slow = tokio::spawn(async move { held.get(HOST, "/slow/60000").await.is_err() });
    until("in flight", async || backend.in_flight() == 1).await;
    weir.signal(Signal::TERM);
    until("not ready", async || weir.admin_get("/readyz").await.map_or(true, |answer| answer.status == 503)).await;
    let ended = weir.terminate(Duration::from_secs(5)).await;
    assert!(ended.took < Duration::from_secs(3), "{:?}", ended.took);
    assert!(slow.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_longer_than_the_timeout_is_ended() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::builder()
        .file("main.yaml", &shop(&backend))
        .settings("shutdown: {grace: 100ms, timeout: 1s}\n")
        .start()
        .await;
    let mut held = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let slow =
        tokio::spawn(async move { held.get(HOST, "/slow/60000").await.is_ok_and(|answer| answer.status == 200) });
    until("in flight", async || backend.in_flight() == 1).await;
    let ended = weir.terminate(Duration::from_secs(10)).await;
    assert!(ended.took < Duration::from_secs(5), "{:?}", ended.took);
    assert!(!slow.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_ends_when_its_grace_is_over() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::builder()
        .file("main.yaml", &shop(&backend))
        .settings("shutdown: {grace: 300ms, timeout: 60s}\n")
        .start()
        .await;
    let mut idle = H1::connect(&Target::plain(weir.http)).await.unwrap();
    idle.get(HOST, "/").await.unwrap();
    let ended = weir.terminate(Duration::from_secs(20)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took < Duration::from_secs(10), "an idle connection held it for {:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reads_the_folder_again_and_ends_nothing() {
    let _turn = turn::beside_others().await;
    let (mut weir, _backend) = scene::one_backend().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    connection.get(HOST, "/").await.unwrap();
    weir.signal(Signal::HUP);
    for _ in 0..50 {
        assert_eq!(connection.get(HOST, "/").await.unwrap().status, 200);
    }
    assert!(weir.runs() && !connection.closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_only_after_the_first_full_load() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    assert_eq!(weir.admin_get("/readyz").await.unwrap().status, 200);
    assert_eq!(weir.get(HOST, "/").await.status, 200, "what is ready serves");
    for path in ["/livez", "/healthz"] {
        assert_eq!(weir.admin_get(path).await.unwrap().status, 200);
    }
}
