//! One annotation moves all traffic from one color to another, and back, with nothing lost.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::harness::backend::{Backend, Mode};
use crate::harness::certificates::Authority;
use crate::harness::client::{self, Answer, H1, Target, empty, request};
use crate::harness::load::Plan;
use crate::harness::manifests::{apex, classes, ingress, ingress_with, service, service_with, tls_secret};
use crate::harness::scene::{HOST, backends};
use crate::harness::websocket::Socket;
use crate::harness::weir::{Weir, run};
use crate::harness::{eventually, turn, until, within};

const COLORS: (&str, &str) = ("weir.dev/colors", "blue=shop-blue,green=shop-green");
/// Gates that are passed at once, so that a test takes milliseconds.
const QUICK: [(&str, &str); 2] =
    [("weir.dev/cutover.health-successes", "1"), ("weir.dev/cutover.health-interval", "10ms")];

/// The apex with colors, quick gates and more annotations.
fn switch(more: &[(&str, &str)]) -> String {
    let mut annotations = vec![COLORS];
    annotations.extend(QUICK.iter().filter(|(key, _)| !more.iter().any(|(other, _)| other == key)));
    annotations.extend(more);
    apex("shop", &annotations, "")
}

/// Two colors with one backend each, blue active.
async fn scene(more: &[(&str, &str)]) -> (Weir, Vec<Backend>) {
    let backends = backends(&["blue", "green"]).await;
    let base = classes()
        + &service("shop-blue", &[backends[0].address()])
        + &service("shop-green", &[backends[1].address()])
        + &ingress("shop", HOST, "/", "shop");
    let mut annotations = vec![("weir.dev/active", "blue")];
    annotations.extend(more);
    let weir = Weir::builder().file("base.yaml", &base).file("shop.yaml", &switch(&annotations)).start().await;
    assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "blue");
    (weir, backends)
}

fn activate(weir: &Weir, color: &str, more: &[(&str, &str)]) {
    let mut annotations = vec![("weir.dev/active", color)];
    annotations.extend(more);
    weir.apply("shop.yaml", &switch(&annotations));
}

async fn state(weir: &Weir) -> Value {
    weir.admin_json("/api/v1/services/default/shop/cutover").await
}

async fn until_phase(weir: &Weir, phase: &str) -> Value {
    eventually(&format!("phase {phase}"), async || {
        let state = state(weir).await;
        if state["phase"] == phase { Ok(state) } else { Err(format!("{state}")) }
    })
    .await
}

async fn until_effective(weir: &Weir, color: &str) -> Answer {
    weir.until_served(HOST, "/", |answer| answer.header("x-backend") == color).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_annotation_moves_every_request_and_leaves_a_receipt() {
    let _turn = turn::beside_others().await;
    let (weir, backends) = scene(&[("weir.dev/cutover.drain-timeout", "1s")]).await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    connection.get(HOST, "/").await.unwrap();
    activate(&weir, "green", &[("weir.dev/cutover.drain-timeout", "1s")]);
    until_effective(&weir, "green").await;
    let before = backends[0].requests();
    for _ in 0..100 {
        assert_eq!(connection.get(HOST, "/").await.unwrap().header("x-backend"), "green");
        assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "green");
    }
    assert_eq!(backends[0].requests(), before, "blue was asked after the switch");
    let state = until_phase(&weir, "Done").await;
    assert_eq!(state["effective"], "green");
    let receipt = &state["receipt"];
    assert_eq!(
        (&receipt["from"], &receipt["to"], &receipt["result"]),
        (&"blue".into(), &"green".into(), &"Done".into())
    );
    assert_eq!(receipt["droppedBySwitch"], 0);
    assert!(receipt["requests"]["new"].as_u64().unwrap() > 0, "{receipt}");
    let phases: Vec<_> =
        receipt["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    for phase in ["Warming", "Verifying", "Committing", "Draining", "Done"] {
        assert!(phases.contains(&phase), "{phases:?}");
    }
    assert!(!connection.closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_at_the_switch_finishes_where_it_is() {
    let _turn = turn::beside_others().await;
    let (weir, backends) = scene(&[]).await;
    let mut slow = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let asked = request(Method::GET, HOST, "/slow/1500").body(empty()).unwrap();
    let running = tokio::spawn(async move { slow.ask(asked).await.unwrap() });
    until("in flight on blue", async || backends[0].in_flight() == 1).await;
    activate(&weir, "green", &[]);
    until_effective(&weir, "green").await;
    assert!(!running.is_finished());
    let answer = running.await.unwrap();
    assert_eq!((answer.status, answer.header("x-backend")), (200, "blue"));
    let state = until_phase(&weir, "Done").await;
    assert!(state["receipt"]["oldInflightAtCommit"].as_u64().unwrap() >= 1, "{state}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_color_without_endpoints_is_waited_for_and_never_switched_to() {
    let _turn = turn::beside_others().await;
    let (weir, backends) = scene(&[]).await;
    let green = backends[1].address();
    let base = |green: &[std::net::SocketAddr]| {
        classes()
            + &service("shop-blue", &[backends[0].address()])
            + &service("shop-green", green)
            + &ingress("shop", HOST, "/", "shop")
    };
    weir.apply("base.yaml", &base(&[]));
    activate(&weir, "green", &[]);
    let state = until_phase(&weir, "Warming").await;
    let why = format!("{} {} {}", state["waitingFor"], state["reason"], state["message"]);
    assert!(why.contains("NotEnoughReady") && why.contains("0/1"), "{state}");
    for _ in 0..50 {
        assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "blue");
    }
    weir.apply("base.yaml", &base(&[green]));
    until_effective(&weir, "green").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_color_that_fails_its_probes_is_aborted_at_the_timeout() {
    let _turn = turn::beside_others().await;
    let (weir, backends) = scene(&[]).await;
    backends[1].set(Mode::Failing(503));
    let gates = [("weir.dev/cutover.health-path", "/healthz"), ("weir.dev/cutover.warm-timeout", "1s")];
    activate(&weir, "green", &gates);
    until_phase(&weir, "Verifying").await;
    let state = until_phase(&weir, "Aborted").await;
    assert_eq!(state["effective"], "blue");
    assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "blue");
    // Latched: it is not tried again by itself, but when its owner says so.
    backends[1].set(Mode::Serving);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "blue");
    activate(&weir, "green", &[gates[0], gates[1], ("weir.dev/cutover.retry", "1")]);
    until_effective(&weir, "green").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_switches_are_rejected_with_a_reason_and_change_nothing() {
    let _turn = turn::beside_others().await;
    let (weir, backends) = scene(&[]).await;
    for (what, yaml, reason) in [
        ("an unknown color", switch(&[("weir.dev/active", "purple")]), "UnknownColor"),
        (
            "one color",
            apex("shop", &[("weir.dev/colors", "blue=shop-blue"), ("weir.dev/active", "green")], ""),
            "InvalidColors",
        ),
        (
            "a color twice",
            apex("shop", &[("weir.dev/colors", "blue=shop-blue,blue=shop-green"), ("weir.dev/active", "green")], ""),
            "InvalidColors",
        ),
        (
            "the apex itself",
            apex("shop", &[("weir.dev/colors", "blue=shop-blue,green=shop"), ("weir.dev/active", "green")], ""),
            "InvalidColors",
        ),
        (
            "both mappings",
            switch(&[("weir.dev/active", "green"), ("weir.dev/color-label", "version")]),
            "AmbiguousMapping",
        ),
        (
            "a bad policy",
            switch(&[("weir.dev/active", "green"), ("weir.dev/cutover.min-ready", "many")]),
            "InvalidPolicy",
        ),
        (
            "a bad duration",
            switch(&[("weir.dev/active", "green"), ("weir.dev/cutover.warm-timeout", "soon")]),
            "InvalidPolicy",
        ),
    ] {
        weir.apply("shop.yaml", &yaml);
        eventually(&format!("{what} is rejected"), async || {
            let state = state(&weir).await;
            let said = state["phase"] == "Rejected" && state["reason"] == reason;
            if said { Ok(()) } else { Err(format!("{state}")) }
        })
        .await;
        for _ in 0..5 {
            assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "blue", "{what}");
        }
        activate(&weir, "blue", &[]);
        until_phase(&weir, "Idle").await;
    }
    assert_eq!(backends[1].requests_for("/"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_active_color_that_loses_its_endpoints_is_left_at_once() {
    let _turn = turn::beside_others().await;
    let (weir, backends) = scene(&[]).await;
    let without_blue = classes()
        + &service("shop-blue", &[])
        + &service("shop-green", &[backends[1].address()])
        + &ingress("shop", HOST, "/", "shop");
    weir.apply("base.yaml", &without_blue);
    until_effective(&weir, "green").await;
    for _ in 0..20 {
        assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "green");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_is_held_waits_before_traffic_moves() {
    let _turn = turn::beside_others().await;
    let (weir, _backends) = scene(&[]).await;
    activate(&weir, "green", &[("weir.dev/cutover.hold", "before-commit")]);
    until_phase(&weir, "Verifying").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "blue");
    activate(&weir, "green", &[]);
    until_effective(&weir, "green").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_back_is_quick() {
    let _turn = turn::beside_others().await;
    let (weir, _backends) = scene(&[]).await;
    activate(&weir, "green", &[]);
    until_effective(&weir, "green").await;
    activate(&weir, "blue", &[]);
    until_effective(&weir, "blue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_shows_the_other_color_to_whoever_may_see_it() {
    let _turn = turn::beside_others().await;
    let preview = ("weir.dev/preview", "header=X-Weir-Color,cookie=weir-color,host=green.shop.example");
    let (weir, _backends) = scene(&[preview]).await;
    let by = async |name: &str, value: &str, host: &str| {
        let asked = request(Method::GET, host, "/").header(name, value).body(empty()).unwrap();
        let answer = client::ask(&Target::plain(weir.http), asked).await.unwrap();
        answer.header("x-backend").to_owned()
    };
    eventually("green is open for a preview", async || {
        let seen = by("x-weir-color", "green", HOST).await;
        if seen == "green" { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(by("cookie", "a=b; weir-color=green", HOST).await, "green");
    assert_eq!(by("x-weir-color", "blue", HOST).await, "blue");
    assert_eq!(by("x-weir-color", "purple", HOST).await, "blue");
    assert_eq!(by("x-other", "green", HOST).await, "blue");
    assert_eq!(by("x-other", "green", "green.shop.example").await, "green");
    // From elsewhere it is as if nothing had been asked for, and the backend does not see the header.
    activate(&weir, "blue", &[preview, ("weir.dev/preview-from", "192.0.2.0/24")]);
    eventually("the preview is closed to us", async || {
        let seen = by("x-weir-color", "green", HOST).await;
        if seen == "blue" { Ok(()) } else { Err(seen) }
    })
    .await;
    let asked = request(Method::GET, HOST, "/head").header("x-weir-color", "green").body(empty()).unwrap();
    let head = client::ask(&Target::plain(weir.http), asked).await.unwrap().json();
    assert!(crate::routing::header_of(&head, "x-weir-color").is_empty(), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_lived_streams_are_kept_drained_or_closed_as_asked() {
    let _turn = turn::beside_others().await;
    for (policy, stays) in [("keep", true), ("drain", false), ("close", false)] {
        let how = [("weir.dev/cutover.long-lived", policy), ("weir.dev/cutover.drain-timeout", "2s")];
        let (weir, _backends) = scene(&how).await;
        let mut socket = Socket::connect(&Target::plain(weir.http), HOST).await.unwrap();
        assert_eq!(socket.echo("1").await.unwrap().unwrap(), "blue 1");
        activate(&weir, "green", &how);
        until_effective(&weir, "green").await;
        assert_eq!(socket.echo("2").await.unwrap().unwrap(), "blue 2", "{policy}: it outlives the switch itself");
        if stays {
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(socket.echo("3").await.unwrap().unwrap(), "blue 3");
        } else {
            within(Duration::from_secs(12), &format!("{policy}: the socket is closed"), async || {
                match tokio::time::timeout(Duration::from_secs(1), socket.echo("3")).await {
                    Ok(Ok(Some(answer))) => Err(answer),
                    Err(_) => Err("silence".to_owned()),
                    Ok(_) => Ok(()),
                }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_changes_one_value_and_no_other_byte_and_waits() {
    let _turn = turn::beside_others().await;
    let (weir, _backends) = scene(&[]).await;
    let file = weir.folder().join("shop.yaml");
    let written =
        "# The switch; GREEN is next.\n".to_owned() + &std::fs::read_to_string(&file).unwrap() + "# active: blue\n";
    weir.apply("shop.yaml", &written);
    let (folder, admin) = (weir.folder().display().to_string(), weir.admin.to_string());
    let arguments =
        ["cutover", "start", "default/shop", "--to", "green", "--manifests", &folder, "--admin", &admin, "--wait"];
    let finished = run(&arguments).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "green");
    let expected = written.replace("weir.dev/active: \"blue\"", "weir.dev/active: \"green\"");
    assert_ne!(expected, written);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    let status = run(&["cutover", "status", "default/shop", "--admin", &admin]).await;
    assert!(status.code == Some(0) && status.text().contains("green"), "{status:?}");
    let unknown = run(&[
        "cutover",
        "start",
        "default/shop",
        "--to",
        "purple",
        "--manifests",
        &folder,
        "--admin",
        &admin,
        "--wait",
        "--timeout",
        "5",
    ])
    .await;
    assert!(!matches!(unknown.code, Some(0) | None), "{unknown:?}");
    assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "green");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_selector_switch_is_bridged_by_the_empty_hold() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["old", "new"]).await;
    let listed = |addresses: &[std::net::SocketAddr]| {
        classes()
            + &service_with("shop", addresses, &[("weir.dev/empty-hold", "5s")], "")
            + &ingress("shop", HOST, "/", "shop")
    };
    let weir = Weir::start(&listed(&[backends[0].address()])).await;
    weir.get(HOST, "/").await;
    weir.apply("main.yaml", &listed(&[]));
    weir.apply("marker.yaml", &ingress("marker", "marker.example", "/", "shop"));
    weir.until_served("marker.example", "/", |answer| answer.status == 200).await;
    for _ in 0..20 {
        assert_eq!(weir.get(HOST, "/").await.header("x-backend"), "old");
    }
    weir.apply("main.yaml", &listed(&[backends[1].address()]));
    weir.until_served(HOST, "/", |answer| answer.header("x-backend") == "new").await;
    weir.apply("main.yaml", &listed(&[]));
    within(Duration::from_secs(15), "the hold ends", async || {
        let status = weir.get(HOST, "/").await.status;
        if status == 503 { Ok(()) } else { Err(status) }
    })
    .await;
}

/// A Service that is switched more than six times within ten minutes is held for flapping: so there are forty, each
/// switched five times, and the load is always on the one that is being switched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_flips_fail_no_request_and_close_nothing() {
    let _turn = turn::alone().await;
    const SERVICES: usize = 40;
    let authority = Authority::new();
    let colors = backends(&["blue-0", "blue-1", "green-0", "green-1"]).await;
    let of = |color: &str| -> Vec<_> {
        colors.iter().filter(|backend| backend.name().starts_with(color)).map(Backend::address).collect()
    };
    let mut base = classes() + &tls_secret("cert", &authority.issue("all", &["*.flip.example"]));
    for color in ["blue", "green"] {
        base += &service(&format!("shop-{color}"), &of(color));
        base += &service_with(&format!("rpc-{color}"), &of(color), &[], "kubernetes.io/h2c");
    }
    let host = |number: usize| format!("s{number}.flip.example");
    let apexes = |number: usize, active: &str| {
        let name = format!("s{number}");
        let long = ("weir.dev/cutover.long-lived", "keep");
        let web = [COLORS, QUICK[0], QUICK[1], long, ("weir.dev/active", active)];
        let rpc = [
            ("weir.dev/colors", "blue=rpc-blue,green=rpc-green"),
            QUICK[0],
            QUICK[1],
            long,
            ("weir.dev/active", active),
        ];
        apex(&name, &web, "") + &apex(&format!("{name}-rpc"), &rpc, "kubernetes.io/h2c")
    };
    let mut builder = Weir::builder();
    for number in 0..SERVICES {
        let name = format!("s{number}");
        base += &ingress_with(&name, &host(number), &[("/", "Prefix", &name)], "", &[]);
        base += &ingress(&format!("{name}-rpc"), &format!("rpc{number}.example"), "/", &format!("{name}-rpc"));
        builder = builder.file(&format!("{name}.yaml"), &apexes(number, "blue"));
    }
    base += &ingress_with("secured", "*.flip.example", &[("/unused", "Exact", "shop-blue")], "cert", &[]);
    let weir = builder.file("base.yaml", &base).start().await;
    let mut plan = Plan::mixed(&weir, &host(0), "rpc0.example").with_tls(weir.https, &authority);
    plan.long_hosts = (0..10).map(host).collect();
    plan.grpc_hosts = (0..10).map(|number| format!("rpc{number}.example")).collect();
    let load = plan.start();
    load.warm().await;
    let mut flips = 0;
    for round in 1..=5 {
        let color = if round % 2 == 1 { "green" } else { "blue" };
        for number in 0..SERVICES {
            load.aim(&host(number));
            weir.apply(&format!("s{number}.yaml"), &apexes(number, color));
            let host = host(number);
            weir.until_served(&host, "/", |answer| answer.header("x-backend").starts_with(color)).await;
            let seen: BTreeSet<String> = {
                let mut seen = BTreeSet::new();
                for _ in 0..4 {
                    let answer = weir.get(&host, "/").await;
                    seen.insert(answer.header("x-backend").split('-').next().unwrap_or("").to_owned());
                }
                seen
            };
            assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), [color], "{host} in round {round}");
            flips += 1;
        }
    }
    let report = load.stop().await;
    println!("{flips} flips");
    report.assert_clean("two hundred flips", 5_000);
    eventually("every receipt balances", async || {
        let metrics = weir.metrics().await;
        let dropped = metrics.sum("weir_cutover_dropped_requests_total", &[]);
        let done = metrics.sum("weir_cutover_total", &[("result", "Done")]);
        if dropped == 0.0 && done > 0.0 { Ok(()) } else { Err(format!("{done} done, {dropped} dropped")) }
    })
    .await;
}
