//! What backends do is counted exactly.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::backend::{Backend, Mode};
use crate::harness::client::{H1, Target};
use crate::harness::load::Plan;
use crate::harness::scene::{self, HOST, backends, mixed};
use crate::harness::weir::Weir;
use crate::harness::{eventually, raw, turn, until, within};

/// The entry of a Service in `/api/v1/stats`, and the time it speaks of, in seconds.
async fn stats(weir: &Weir, service: &str) -> (f64, Value) {
    let all = weir.admin_json("/api/v1/stats").await;
    let services = all["services"].as_array().unwrap();
    let entry =
        services.iter().find(|entry| entry["service"] == service).unwrap_or_else(|| panic!("no {service}: {all}"));
    (all["uptime_seconds"].as_f64().unwrap(), entry.clone())
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_load_everything_started_has_finished_and_the_numbers_are_those_of_the_clients() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["a", "b"]).await;
    let weir = Weir::start(&mixed(&backends, &[])).await;
    let load = Plan::mixed(&weir, HOST, "rpc.example").start();
    load.warm().await;
    until("three thousand requests", async || load.requests() > 3_000).await;
    let report = load.stop().await;
    report.assert_clean("counted load", 3_000);
    let asked: u64 = ["keep-alive", "new connections", "http2"].iter().map(|kind| report.kind(kind).requests).sum();
    let expected = (asked + report.kind("websocket").opened, report.kind("grpc").opened);
    eventually("exact counts", async || {
        let (_, shop) = stats(&weir, "shop").await;
        let (_, rpc) = stats(&weir, "rpc").await;
        let count = |entry: &Value, key: &str| number(entry, key) as u64;
        let started = (count(&shop, "started"), count(&rpc, "started"));
        let finished = (count(&shop, "finished"), count(&rpc, "finished"));
        if started == expected && finished == expected {
            Ok(())
        } else {
            Err(format!("{started:?} started, {finished:?} finished, {expected:?} sent"))
        }
    })
    .await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_upstream_inflight", &[]), 0.0);
    assert_eq!(metrics.sum("weir_requests_total", &[("service", "shop")]) as u64, expected.0);
    assert_eq!(metrics.sum("weir_requests_total", &[("service", "rpc")]) as u64, expected.1);
    assert_eq!(metrics.sum("weir_request_duration_seconds_count", &[("service", "shop")]) as u64, expected.0);
    let sent: u64 = backends.iter().map(Backend::requests).sum();
    assert_eq!(sent, expected.0 + expected.1);
    let (_, shop) = stats(&weir, "shop").await;
    let attempts: f64 = shop["endpoints"].as_array().unwrap().iter().map(|endpoint| number(endpoint, "finished")).sum();
    assert_eq!(attempts as u64, expected.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn littles_law_holds_within_one_percent() {
    let _turn = turn::alone().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let target = Target::plain(weir.http);
        clients.spawn(async move {
            let mut connection = H1::connect(&target).await.unwrap();
            loop {
                assert_eq!(connection.get(HOST, "/slow/40").await.unwrap().status, 200);
            }
        });
    }
    until("a steady state", async || number(&stats(&weir, "shop").await.1, "finished") > 100.0).await;
    let (from, before) = stats(&weir, "shop").await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let (to, after) = stats(&weir, "shop").await;
    clients.abort_all();
    let total =
        |entry: &Value| number(&entry["latency_ms_total"], "mean") / 1e3 * number(&entry["latency_ms_total"], "count");
    let concurrency = (number(&after, "inflight_seconds") - number(&before, "inflight_seconds")) / (to - from);
    let rate_times_latency = (total(&after) - total(&before)) / (to - from);
    let error = (concurrency - rate_times_latency).abs() / concurrency;
    println!(
        "mean concurrency {concurrency:.3}, rate × mean latency {rate_times_latency:.3}, apart by {:.3} %",
        error * 100.0
    );
    assert!(error < 0.01, "{concurrency} against {rate_times_latency}");
    assert!((18.0..=20.05).contains(&concurrency), "20 clients, mean concurrency {concurrency}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_outcome_has_its_class() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for (path, times) in [("/", 7), ("/status/302", 5), ("/status/404", 4), ("/status/500", 3)] {
        for _ in 0..times {
            connection.get(HOST, path).await.unwrap();
        }
    }
    eventually("classes", async || {
        let metrics = weir.metrics().await;
        let counts = ["2xx", "3xx", "4xx", "5xx"]
            .map(|class| metrics.sum("weir_requests_total", &[("service", "shop"), ("code_class", class)]) as u64);
        if counts == [7, 5, 4, 3] { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    backend.set(Mode::Resetting);
    assert!(matches!(weir.get(HOST, "/").await.status, 502 | 503));
    until("an error of the backend", async || {
        let metrics = weir.metrics().await;
        let errors =
            ["reset", "connect"].map(|reason| metrics.sum("weir_upstream_errors_total", &[("reason", reason)]));
        errors.iter().sum::<f64>() >= 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_is_counted_and_leaves_nothing_in_flight() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    for _ in 0..10 {
        let mut stream = TcpStream::connect(weir.http).await.unwrap();
        let asked = format!("GET /slow/60000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        until("in flight", async || backend.in_flight() == 1).await;
        raw::reset(stream);
        until("the backend's request is given up", async || backend.in_flight() == 0).await;
    }
    eventually("counted", async || {
        let (_, shop) = stats(&weir, "shop").await;
        let seen = (number(&shop, "started"), number(&shop, "finished"), number(&shop, "inflight"));
        if seen == (10.0, 10.0, 0.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_faults_total", &[("reason", "client_gone")]), 10.0);
}

/// A FIN may come from a client that has said all and still listens: it has ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_and_does_not_listen_is_given_up_after_a_while() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    let asked = format!("GET /slow/60000 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    until("in flight", async || backend.in_flight() == 1).await;
    drop(stream);
    within(Duration::from_secs(15), "the backend's request is given up", async || match backend.in_flight() {
        0 => Ok(()),
        _ => Err("in flight"),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_do_not_grow_with_what_clients_send() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    connection.get(HOST, "/").await.unwrap();
    connection.get("x.example", "/").await.unwrap();
    let series = async || weir.metrics().await.0.len();
    until("published", async || weir.metrics().await.sum("weir_requests_total", &[]) >= 1.0).await;
    let before = series().await;
    for number in 0..300 {
        connection.get(&format!("host-{number}.example"), &format!("/path-{number}")).await.unwrap();
        connection.get(HOST, &format!("/path-{number}")).await.unwrap();
    }
    until("published", async || weir.metrics().await.sum("weir_requests_total", &[("service", "shop")]) >= 301.0).await;
    assert!(series().await <= before + 2, "{} series became {}", before, series().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_has_a_line_per_request_with_its_reason() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir =
        Weir::builder().file("main.yaml", &scene::shop(&backend)).settings("access_log: {mode: full}\n").start().await;
    weir.get(HOST, "/logged?secret=1").await;
    weir.get("nobody.example", "/unrouted").await;
    let lines = eventually("two lines", async || {
        let lines: Vec<Value> = weir.output().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if lines.len() >= 2 { Ok(lines) } else { Err(format!("{:?}", weir.output())) }
    })
    .await;
    // Each worker writes its own lines: their order says nothing.
    let of = |host: &str| lines.iter().find(|line| line["host"] == host).unwrap_or_else(|| panic!("{host}: {lines:?}"));
    assert_eq!(of(HOST)["status"], 200);
    assert_eq!(of("nobody.example")["status"], 404);
    assert_eq!(of("nobody.example")["reason"], "no_route");
}
