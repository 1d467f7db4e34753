//! Ten thousand virtual hosts and a hundred thousand endpoints load quickly, and changes among them are served at once.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::harness::backend::Backend;
use crate::harness::load::Plan;
use crate::harness::manifests::{Conditions, classes, ingress, plain_service, service, slices};
use crate::harness::scene::{GRPC_HOST, HOST, backends, mixed};
use crate::harness::weir::Weir;
use crate::harness::{median_and_worst, turn};

const HOSTS: usize = 10_000;
const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 100;

/// A Service with a hundred endpoints in one EndpointSlice, none of which is ever asked.
fn crowded(number: usize) -> String {
    let name = format!("crowd-{number}");
    let mut yaml = plain_service(&name, "");
    write!(
        yaml,
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: {{kubernetes.io/service-name: {name}}}\n\
         addressType: IPv4\nports:\n- {{name: http, port: 8080}}\nendpoints:\n"
    )
    .unwrap();
    for endpoint in 0..ENDPOINTS {
        writeln!(
            yaml,
            "- {{addresses: [\"10.{}.{}.{endpoint}\"], conditions: {{ready: true}}}}",
            number / 250,
            number % 250
        )
        .unwrap();
    }
    yaml + "---\n"
}

fn host(number: usize) -> String {
    format!("h{number}.crowd.example")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hosts_and_a_hundred_thousand_endpoints() {
    let _turn = turn::alone().await;
    let live = backends(&["a", "b"]).await;
    let mut builder = Weir::builder().file(
        "base.yaml",
        &(mixed(&live, &[]) + &plain_service("moving", "") + &ingress("moving", "moving.example", "/", "moving")),
    );
    builder = builder.file("moving.yaml", &listed(&live[0]));
    for file in 0..100 {
        let services: String = (0..SERVICES / 100).map(|index| crowded(file * SERVICES / 100 + index)).collect();
        builder = builder.file(&format!("services/{file}.yaml"), &services);
        let hosts: String = (0..HOSTS / 100)
            .map(|index| file * HOSTS / 100 + index)
            .map(|number| ingress(&format!("h{number}"), &host(number), "/", &format!("crowd-{}", number % SERVICES)))
            .collect();
        builder = builder.file(&format!("hosts/{file}.yaml"), &hosts);
    }
    let start = Instant::now();
    let weir = builder.spawn().ready().await;
    let loaded = start.elapsed();
    println!(
        "{HOSTS} hosts and {} endpoints: ready {loaded:?} after the start, {} MiB resident",
        SERVICES * ENDPOINTS,
        weir.resident_bytes() >> 20
    );
    assert_eq!(weir.get(HOST, "/").await.status, 200);
    let ready = weir.metrics().await.sum("weir_upstream_ready_endpoints", &[]);
    assert!(ready >= (SERVICES * ENDPOINTS) as f64, "{ready} endpoints ready");

    let mut plan = Plan::mixed(&weir, HOST, GRPC_HOST);
    plan.pause = Duration::from_millis(20);
    let load = plan.start();
    load.warm().await;
    let mut endpoint_changes = Vec::new();
    for number in 1..=100 {
        let backend = &live[number % 2];
        let (took, _) =
            change(&weir, "moving.yaml", &listed(backend), "moving.example", |by| by == backend.name()).await;
        endpoint_changes.push(took);
    }
    let mut route_changes = Vec::new();
    for number in 1..=100 {
        let name = format!("new{number}.example");
        let (took, _) =
            change(&weir, "new.yaml", &ingress("new", &name, "/", "shop"), &name, |by| !by.is_empty()).await;
        route_changes.push(took);
    }
    let report = load.stop().await;
    let (median, worst) = median_and_worst(&mut endpoint_changes);
    println!(
        "an endpoint change among them: median {median:?}, worst {worst:?} from the end of the write to the first answer"
    );
    let (median, worst) = median_and_worst(&mut route_changes);
    println!(
        "a route change among them: median {median:?}, worst {worst:?} from the end of the write to the first answer"
    );
    if let Some(seen) = apply_times(&weir).await {
        println!("{seen}");
    }
    report.assert_clean("two hundred changes among ten thousand hosts", 500);
}

fn listed(backend: &Backend) -> String {
    slices("moving", &[(backend.address(), Conditions::READY)])
}

/// Applies a file and asks without a pause until it is served.
async fn change(weir: &Weir, file: &str, yaml: &str, host: &str, served: impl Fn(&str) -> bool) -> (Duration, u32) {
    weir.apply(file, yaml);
    let start = Instant::now();
    let mut asked = 0;
    loop {
        asked += 1;
        let answer = weir.get(host, "/").await;
        if answer.status == 200 && served(answer.header("x-backend")) {
            return (start.elapsed(), asked);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{file} is not served after 10 s; last: {answer:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What Weir itself says about the time from seeing a change to serving it, if it does.
async fn apply_times(weir: &Weir) -> Option<String> {
    let config = weir.admin_get("/api/v1/config").await.ok()?;
    (config.status == 200).then(|| format!("/api/v1/config: {}", config.text().chars().take(1500).collect::<String>()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_among_ten_thousand_is_found_whichever_it_is() {
    let _turn = turn::alone().await;
    let backend = Backend::start("blue").await;
    let address: SocketAddr = backend.address();
    let hosts: String = (0..HOSTS).map(|number| ingress(&format!("h{number}"), &host(number), "/", "shop")).collect();
    let weir = Weir::start(&(classes() + &service("shop", &[address]) + &hosts)).await;
    let mut connection =
        crate::harness::client::H1::connect(&crate::harness::client::Target::plain(weir.http)).await.unwrap();
    for number in (0..HOSTS).step_by(37).chain([HOSTS - 1]) {
        assert_eq!(connection.get(&host(number), "/").await.unwrap().status, 200, "{}", host(number));
    }
    assert_eq!(connection.get(&host(HOSTS), "/").await.unwrap().status, 404);
}
