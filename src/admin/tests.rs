//! Real HTTP over loopback.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::telemetry::gauges::Gauges;
use crate::telemetry::stats::{Class, ColorLabels, Outcome, Registry, Series, Shard};

struct Fixture {
    server: Server,
    ready: Arc<AtomicBool>,
    shard: Shard,
    color: Series,
    route: Series,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn fixture(token: Option<&str>) -> Fixture {
    let registry = Registry::new(1, &["no_route"]);
    let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: "blue".into() };
    let (color, route) = (registry.color(labels.clone()), registry.route("shop/web".into(), labels));
    let shard = registry.shard(0);
    let ready = Arc::new(AtomicBool::new(false));
    let mut sources = Sources::new(registry, Gauges::new(1));
    let is_ready = ready.clone();
    sources.readiness = Box::new(move || match is_ready.load(Ordering::Relaxed) {
        true => Readiness::Ready,
        false => Readiness::NotReady("no full load yet".into()),
    });
    sources.routes = Box::new(|| json!(["a route"]));
    sources.cutover = Box::new(|service| (&*service.name == "web").then(|| json!({ "phase": "Steady" })));
    sources.explain = Box::new(|question| match question.url.as_str() {
        "nonsense" => Err("nonsense is no URL".to_owned()),
        _ => Ok(json!({ "method": question.method, "url": question.url, "headers": question.headers })),
    });
    sources.act = Arc::new(|service, action| match action {
        CutoverAction::To(color) if **color == *"pink" => Err(ActionError::Invalid("no color pink".to_owned())),
        action => Ok(json!(format!("{service} {action:?}"))),
    });
    let settings =
        AdminSettings { token: token.map(Into::into), hosts: vec!["weir.example".to_owned()], ..Default::default() };
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = vec![(bind(), Audience::Operator), (bind(), Audience::Probes)];
    let server = Server::start(listeners, settings, sources).unwrap();
    Fixture { server, ready, shard, color, route }
}

/// Sends bytes, reads until the server closes.
fn exchange(address: SocketAddr, bytes: &str) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or((&all, ""));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

impl Fixture {
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        exchange(self.server.addresses()[0], &request)
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "host: localhost\r\n", "")
    }
}

#[test]
fn readiness_says_why_not_and_liveness_does_not_care() {
    let fixture = fixture(None);
    let reply = fixture.get("/readyz");
    assert_eq!((reply.status, reply.body.as_str()), (503, "not ready: no full load yet\n"));
    assert_eq!((fixture.get("/livez").status, fixture.get("/healthz").status), (200, 200));
    fixture.ready.store(true, Ordering::Relaxed);
    assert_eq!(fixture.get("/readyz").status, 200);
}

#[test]
fn probes_get_health_and_metrics_under_any_name_and_nothing_else() {
    let fixture = fixture(Some("token"));
    let probe = |path: &str, more: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: some.pod.test\r\nconnection: close\r\n{more}\r\n");
        exchange(fixture.server.addresses()[1], &request).status
    };
    assert_eq!((probe("/livez", ""), probe("/metrics", "")), (200, 200));
    assert_eq!((probe("/", ""), probe("/api/v1/stats", ""), probe("/api/v1/config", "")), (404, 404, 404));
    assert_eq!(probe("/metrics", "origin: http://evil.test\r\n"), 403);
    let post = "POST /api/v1/services/shop/web/cutover HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                authorization: Bearer token\r\ncontent-length: 14\r\n\r\n{\"to\":\"green\"}";
    assert_eq!(exchange(fixture.server.addresses()[1], post).status, 404);
}

#[test]
fn foreign_hosts_and_origins_are_refused() {
    let fixture = fixture(None);
    let own = fixture.server.addresses()[0];
    let status = |headers: &str| fixture.ask("GET", "/api/v1/routes", headers, "").status;
    assert_eq!(status(&format!("host: {own}\r\n")), 200);
    assert_eq!(status("host: weir.example\r\n"), 200);
    assert_eq!(status("host: evil.test\r\n"), 403);
    assert_eq!(status(""), 400);
    assert_eq!(status("host: localhost\r\nhost: localhost\r\n"), 400);
    assert_eq!(status(&format!("host: {own}\r\norigin: http://{own}\r\n")), 200);
    assert_eq!(status(&format!("host: {own}\r\norigin: http://evil.test\r\n")), 403);
    assert_eq!(fixture.ask("GET", "http://evil.test/api/v1/routes", "host: localhost\r\n", "").status, 400);
}

#[test]
fn changes_are_off_without_a_token_and_need_it_otherwise() {
    let path = "/api/v1/services/shop/web/cutover";
    let post = |fixture: &Fixture, token: &str, body: &str| {
        fixture.ask("POST", path, &format!("host: localhost\r\nauthorization: Bearer {token}\r\n"), body)
    };
    assert_eq!(post(&fixture(None), "", r#"{"to":"green"}"#).status, 403);
    let fixture = fixture(Some("s3cret"));
    assert_eq!(fixture.ask("POST", path, "host: localhost\r\n", r#"{"to":"green"}"#).status, 401);
    let wrong = post(&fixture, "other", r#"{"to":"green"}"#);
    assert!(wrong.status == 401 && wrong.head.contains("www-authenticate: bearer"));
    let done = post(&fixture, "s3cret", r#"{"to":"green"}"#);
    assert_eq!((done.status, done.json()), (200, json!("shop/web To(\"green\")")));
    assert_eq!(post(&fixture, "s3cret", r#"{"hold":true}"#).json(), json!("shop/web Hold(true)"));
    assert_eq!(post(&fixture, "s3cret", r#"{"to":"pink"}"#).status, 422);
    assert_eq!(post(&fixture, "s3cret", r#"{"too":"green"}"#).status, 400);
    assert_eq!(post(&fixture, "s3cret", &" ".repeat(17 * 1024)).status, 413);
    let elsewhere = "host: localhost\r\nauthorization: Bearer s3cret\r\n";
    assert_eq!(fixture.ask("POST", "/metrics", elsewhere, "").status, 405);
    assert_eq!(fixture.ask("DELETE", path, elsewhere, "").status, 405);
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let mut fixture = fixture(None);
    fixture.shard.fault(0);
    fixture.shard.publish(clock::now());
    let reply = fixture.get("/metrics");
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"));
    assert!(reply.body.contains("\nweir_faults_total{reason=\"no_route\"} 1\n"));
    let open = fixture.ask("GET", "/metrics", "host: localhost\r\naccept: application/openmetrics-text\r\n", "");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(open.body.ends_with("# EOF\n"));
}

#[test]
fn stats_show_what_went_through() {
    let mut fixture = fixture(None);
    for _ in 0..4 {
        let started = clock::now();
        fixture.shard.started(fixture.color.slot(), started);
        let outcome = Outcome {
            started,
            first_byte: Some(started + 1_000_000),
            ended: started + 8_000_000,
            class: Class::ServerError,
            status: 503,
            bytes_in: 5,
            bytes_out: 7,
        };
        fixture.shard.finished(fixture.color.slot(), fixture.route.slot(), &outcome);
    }
    fixture.shard.publish(clock::now());
    let stats = fixture.get("/api/v1/stats").json();
    let web = &stats["services"][0];
    assert_eq!((&web["service"], &web["port"], &web["color"]), (&json!("web"), &json!(80), &json!("blue")));
    assert_eq!((&web["finished"], &web["classes"]["5xx"], &web["bytes_out"]), (&json!(4), &json!(4), &json!(28)));
    assert_eq!(web["latency_ms_total"]["mean"], json!(8.0));
    let median = web["latency_ms_total"]["p50"].as_f64().unwrap();
    assert!((7.0..9.0).contains(&median), "{median}");
    assert_eq!(stats["faults"]["no_route"], json!(0));
}

#[test]
fn pages_answer_and_others_are_not_found() {
    let fixture = fixture(None);
    let index = fixture.get("/");
    assert!(index.status == 200 && index.head.contains("text/html") && index.body.contains("/api/v1/explain"));
    assert!(index.head.contains("x-content-type-options: nosniff") && index.head.contains("cache-control: no-store"));
    assert_eq!(fixture.get("/api/v1/routes").json(), json!(["a route"]));
    assert_eq!(fixture.get("/api/v1/services/shop/web/cutover").json(), json!({ "phase": "Steady" }));
    for missing in ["/api/v1/services/shop/other/cutover", "/api/v1/", "/nothing", "//", "/livez/"] {
        assert_eq!(fixture.get(missing).status, 404, "{missing}");
    }
    let head = fixture.ask("HEAD", "/api/v1/routes", "host: localhost\r\n", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn explain_takes_method_url_and_headers() {
    let fixture = fixture(None);
    let reply = fixture.get("/api/v1/explain?method=PUT&url=http%3A%2F%2Fshop.test%2Fa%3Fb&header=X-A:%201&header=b:2");
    let expected = json!({ "method": "PUT", "url": "http://shop.test/a?b", "headers": [["X-A", "1"], ["b", "2"]] });
    assert_eq!(reply.json(), expected);
    for bad in ["", "?method=GET", "?url=nonsense", "?url=http://a/&header=x", "?url=%ff", "?url=http://a/&other=1"] {
        let reply = fixture.get(&format!("/api/v1/explain{bad}"));
        assert!(reply.status == 400 && reply.json()["error"].is_string(), "{bad}");
    }
}

#[test]
fn large_heads_are_refused() {
    let fixture = fixture(None);
    // Exactly as much as is read, and still no end: what the server leaves unread would reset the connection.
    let begin = "GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ";
    let long = format!("{begin}{}", "a".repeat(HEAD_BYTES - begin.len()));
    assert_eq!(exchange(fixture.server.addresses()[0], &long).status, 431);
    let many: String = (0..100).map(|at| format!("x-{at}: 1\r\n")).collect();
    assert_eq!(fixture.ask("GET", "/livez", &format!("host: localhost\r\n{many}"), "").status, 431);
}

#[test]
fn a_silent_connection_does_not_keep_others_waiting() {
    let fixture = fixture(None);
    let silent: Vec<_> =
        (0..CONNECTIONS - 1).map(|_| TcpStream::connect(fixture.server.addresses()[0]).unwrap()).collect();
    assert_eq!(fixture.get("/livez").status, 200);
    drop(silent);
}

#[test]
fn dropping_the_server_closes_its_listeners() {
    let fixture = fixture(None);
    let address = fixture.server.addresses()[0];
    drop(fixture);
    assert!(TcpStream::connect(address).is_err());
}
