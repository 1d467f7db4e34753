//! An endpoint that fails is left out, and comes back when it is well.

use std::time::{Duration, Instant};

use crate::harness::backend::{Backend, Mode};
use crate::harness::client::{H1, Target};
use crate::harness::manifests::{classes, ingress, service_with};
use crate::harness::scene::{HOST, backends};
use crate::harness::weir::Weir;
use crate::harness::{turn, until};

async fn scene(names: &[&str], annotations: &[(&str, &str)]) -> (Weir, Vec<Backend>, H1) {
    let backends = backends(names).await;
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let manifests =
        classes() + &service_with("shop", &addresses, annotations, "") + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
    let connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    (weir, backends, connection)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_fails_five_times_in_a_row_is_left_out_and_returns() {
    let _turn = turn::beside_others().await;
    let annotations = [("weir.dev/balance", "round-robin"), ("weir.dev/outlier-base-ejection", "1s")];
    let (_weir, backends, mut connection) = scene(&["good", "bad", "fine"], &annotations).await;
    backends[1].set(Mode::Failing(500));
    let mut failures = 0;
    for _ in 0..100 {
        failures += usize::from(connection.get(HOST, "/").await.unwrap().status == 500);
    }
    assert_eq!(failures, 5, "five failures in a row eject");
    let ejected = Instant::now();
    backends[1].set(Mode::Serving);
    until("the endpoint returns", async || connection.get(HOST, "/").await.unwrap().header("x-backend") == "bad").await;
    assert!(ejected.elapsed() > Duration::from_millis(500), "it returned after {:?}", ejected.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_than_half_of_a_backend_is_left_out() {
    let _turn = turn::beside_others().await;
    let (_weir, backends, mut connection) = scene(&["a", "b", "c", "d"], &[("weir.dev/balance", "round-robin")]).await;
    for backend in &backends {
        backend.set(Mode::Failing(500));
    }
    for _ in 0..200 {
        connection.get(HOST, "/").await.unwrap();
    }
    let before: Vec<u64> = backends.iter().map(Backend::requests).collect();
    for _ in 0..40 {
        assert_eq!(
            connection.get(HOST, "/").await.unwrap().status,
            500,
            "with half of them ejected the others are asked"
        );
    }
    let asked = backends.iter().zip(before).filter(|(backend, before)| backend.requests() > *before).count();
    assert!(asked >= 2, "only {asked} of 4 endpoints are still asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_error_ejects_nobody() {
    let _turn = turn::beside_others().await;
    let (_weir, backends, mut connection) = scene(&["a", "b"], &[("weir.dev/balance", "round-robin")]).await;
    backends[0].set(Mode::Failing(404));
    let mut statuses = [0, 0];
    for _ in 0..100 {
        let status = connection.get(HOST, "/").await.unwrap().status;
        statuses[usize::from(status == 404)] += 1;
    }
    assert_eq!(statuses, [50, 50]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_health_check_takes_an_endpoint_out_before_requests_find_out() {
    let _turn = turn::beside_others().await;
    let annotations = [
        ("weir.dev/balance", "round-robin"),
        ("weir.dev/health-path", "/status/200"),
        ("weir.dev/health-interval", "100ms"),
        ("weir.dev/health-timeout", "100ms"),
        ("weir.dev/outlier-consecutive", "0"),
        ("weir.dev/outlier-failure-percent", "0"),
    ];
    let (_weir, backends, mut connection) = scene(&["good", "bad"], &annotations).await;
    until("both are checked", async || backends.iter().all(|backend| backend.requests_for("/status/200") > 1)).await;
    backends[1].set(Mode::Failing(503));
    until("the unhealthy one is out", async || {
        for _ in 0..20 {
            if connection.get(HOST, "/").await.unwrap().status != 200 {
                return false;
            }
        }
        true
    })
    .await;
    let before = backends[1].requests_for("/");
    for _ in 0..50 {
        assert_eq!(connection.get(HOST, "/").await.unwrap().header("x-backend"), "good");
    }
    assert_eq!(backends[1].requests_for("/"), before);
    backends[1].set(Mode::Serving);
    until("the healthy one is back", async || connection.get(HOST, "/").await.unwrap().header("x-backend") == "bad")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ejections_survive_changes_of_the_configuration() {
    let _turn = turn::beside_others().await;
    let (weir, backends, mut connection) = scene(&["good", "bad"], &[("weir.dev/balance", "round-robin")]).await;
    backends[1].set(Mode::Failing(500));
    for _ in 0..20 {
        connection.get(HOST, "/").await.unwrap();
    }
    weir.apply("more.yaml", &ingress("more", "more.example", "/", "shop"));
    weir.until_served("more.example", "/", |answer| answer.status == 200).await;
    let before = backends[1].requests();
    for _ in 0..50 {
        assert_eq!(connection.get(HOST, "/").await.unwrap().status, 200);
    }
    assert_eq!(backends[1].requests(), before, "the reload forgot the ejection");
}
