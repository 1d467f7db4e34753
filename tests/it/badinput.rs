//! Bad settings stop the start with one clear line; bad objects harm only themselves, and everything says what is wrong,
//! where, and what would be right.

use crate::harness::backend::Backend;
use crate::harness::manifests::{
    apex, classes, gateway, http_route, ingress, ingress_with, plain_service, service, service_with,
};
use crate::harness::scene::{self, HOST};
use crate::harness::weir::{Weir, run};
use crate::harness::{eventually, turn};

/// Bad settings: what they are, the file, and words that must be in the one line that says so.
const SETTINGS: &[(&str, &str, &[&str])] = &[
    ("an unknown key", "timeuots: {request_head: 1s}\n", &["timeuots", "timeouts", "1"]),
    ("an unknown key inside", "timeouts: {request_hed: 1s}\n", &["request_hed", "request_head"]),
    (
        "an unknown key in a list",
        "listeners:\n- {name: http, adress: \"127.0.0.1:0\", protocol: http}\n",
        &["adress", "address"],
    ),
    ("a list where a map belongs", "timeouts: [1s]\n", &["timeouts"]),
    ("a text where a number belongs", "workers: many\n", &["workers"]),
    ("no workers", "workers: 0\n", &["workers"]),
    ("a negative number", "workers: -1\n", &["workers"]),
    ("a duration without a unit", "shutdown: {grace: 5}\n", &["grace"]),
    ("a duration of nothing known", "shutdown: {grace: soon}\n", &["grace", "soon"]),
    ("a negative duration", "shutdown: {timeout: -5s}\n", &["timeout"]),
    ("an address without a port", "admin: {address: 127.0.0.1}\n", &["admin.address", "127.0.0.1"]),
    ("a value where a map belongs", "admin: 127.0.0.1:9900\n", &["admin"]),
    ("a limit beyond its range", "limits: {header_count: 1000000}\n", &["limits.header_count", "1000000"]),
    ("a choice that is none", "access_log: {mode: everything}\n", &["access_log.mode", "everything", "sampled"]),
    ("a share beyond one", "access_log: {sample: 1.5}\n", &["access_log.sample", "1.5"]),
    (
        "an address that is none",
        "listeners:\n- {name: http, address: \"nowhere:http\", protocol: http}\n",
        &["address"],
    ),
    (
        "a protocol that nobody speaks",
        "listeners:\n- {name: x, address: \"127.0.0.1:0\", protocol: gopher}\n",
        &["gopher", "http"],
    ),
    (
        "two listeners of one name",
        "listeners:\n- {name: x, address: \"127.0.0.1:0\", protocol: http}\n- {name: x, address: \"127.0.0.1:0\", protocol: http}\n",
        &["listeners", "x"],
    ),
    ("a network that is none", "trusted_proxies: [10.0.0.0/33]\n", &["trusted_proxies", "10.0.0.0/33"]),
    ("a network of words", "trusted_proxies: [internal]\n", &["trusted_proxies", "internal"]),
    ("a folder that does not exist", "provider: {directory: /nonexistent/folder}\n", &[]),
    ("no YAML at all", "{{{\n", &["weir.yaml"]),
    ("a key twice", "workers: 1\nworkers: 2\n", &["workers"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_settings_stop_the_start_with_one_line_that_names_them() {
    let _turn = turn::beside_others().await;
    let mut wrong = Vec::new();
    for (what, yaml, words) in SETTINGS {
        if words.is_empty() {
            continue;
        }
        let builder = Weir::builder();
        let builder =
            if yaml.contains("listeners") { builder.settings_with_listeners(yaml) } else { builder.settings(yaml) };
        let ended = builder.spawn().ended().await;
        let missing: Vec<_> = words.iter().filter(|word| !ended.stderr.contains(**word)).collect();
        if ended.code != Some(2) {
            wrong.push(format!("{what}: exit code {:?}: {}", ended.code, ended.stderr));
        } else if !missing.is_empty() {
            wrong.push(format!("{what}: without {missing:?}: {}", ended.stderr));
        } else if ended.stderr.contains("panicked") {
            wrong.push(format!("{what}: a panic: {}", ended.stderr));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n  {}", wrong.len(), SETTINGS.len(), wrong.join("\n  "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_arguments_and_a_port_that_is_taken_are_told_with_their_codes() {
    let _turn = turn::beside_others().await;
    for (arguments, words) in [
        (vec!["run", "--wrokers", "2"], vec!["--wrokers", "--workers"]),
        (vec!["run", "--workers", "none"], vec!["--workers", "none"]),
        (vec!["run", "--http", "nowhere"], vec!["--http", "nowhere"]),
        (vec!["rum"], vec!["rum", "run"]),
        (vec!["run", "--config", "/nonexistent/weir.yaml"], vec!["/nonexistent/weir.yaml"]),
        (vec!["check", "/nonexistent/manifests"], vec!["/nonexistent/manifests"]),
        (vec!["explain", "GET", "no url", "--admin", "127.0.0.1:1"], vec![]),
    ] {
        let finished = run(&arguments).await;
        assert!(matches!(finished.code, Some(2..=4)), "{arguments:?}: {finished:?}");
        for word in words {
            assert!(finished.stderr.contains(word), "{arguments:?} without {word}: {finished:?}");
        }
        assert!(!finished.stderr.contains("panicked"), "{finished:?}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Weir::builder()
        .arguments(&[])
        .settings_with_listeners(&format!("listeners:\n- {{name: extra, address: \"{address}\", protocol: http}}\n"))
        .spawn()
        .ended()
        .await;
    assert!(matches!(ended.code, Some(2 | 4)), "{ended:?}");
    assert!(ended.stderr.contains(&address), "{ended:?}");
}

/// Bad manifests: what they are, the file, and words that `weir check` must say.
fn manifests(backend: &Backend) -> Vec<(&'static str, String, Vec<&'static str>)> {
    let address = [backend.address()];
    // Some things are judged only when something uses them.
    let used = |yaml: String| yaml + "---\n" + &ingress("user", "user.example", "/", "bad");
    let secret =
        |yaml: String| yaml + "---\n" + &ingress_with("user", "user.example", &[("/", "Prefix", "shop")], "bad", &[]);
    let annotated = |key: &str, value: &str| service_with("bad", &address, &[(key, value)], "");
    let meta =
        |kind: &str, api: &str, spec: &str| format!("apiVersion: {api}\nkind: {kind}\nmetadata:\n  name: bad\n{spec}");
    let networking = "networking.k8s.io/v1";
    let rule = |path: &str, kind: &str| ingress("bad", "bad.example", path, "shop").replace("Prefix", kind);
    let route = |rules: &str| gateway("edge", "") + &http_route("bad", "edge", "bad.example", rules);
    vec![
        ("no YAML", "kind: [unclosed\n".to_owned(), vec!["bad.yaml"]),
        ("a tab as indentation", "kind: Service\n\tmetadata: {}\n".to_owned(), vec!["bad.yaml"]),
        ("a document without a kind", "apiVersion: v1\nmetadata: {name: bad}\n".to_owned(), vec!["bad.yaml", "kind"]),
        (
            "a Service without a name",
            "apiVersion: v1\nkind: Service\nmetadata: {}\nspec: {ports: [{port: 80}]}\n".to_owned(),
            vec!["name"],
        ),
        ("a port that is a text", meta("Service", "v1", "spec:\n  ports:\n  - port: http\n"), vec!["bad.yaml", "port"]),
        ("a port out of range", used(meta("Service", "v1", "spec:\n  ports:\n  - port: 70000\n")), vec!["bad"]),
        (
            "a field that is misspelt",
            used(meta("Service", "v1", "spec:\n  prots:\n  - port: 80\n")),
            vec!["bad", "port"],
        ),
        ("a path that is relative", rule("relative", "Prefix"), vec!["Ingress", "bad", "path"]),
        ("a path type that is unknown", rule("/", "Fuzzy"), vec!["bad", "Fuzzy"]),
        ("a host with a blank", ingress("bad", "not a host", "/", "shop"), vec!["Ingress", "bad", "host"]),
        ("a host with a port", ingress("bad", "bad.example:80", "/", "shop"), vec!["Ingress", "bad", "host"]),
        ("a wildcard inside", ingress("bad", "a.*.example", "/", "shop"), vec!["Ingress", "bad", "host"]),
        (
            "a Service that does not exist",
            ingress("bad", "bad.example", "/", "missing"),
            vec!["Ingress", "bad", "missing"],
        ),
        (
            "a port that the Service has not",
            ingress("bad", "bad.example", "/", "shop").replace("number: 80", "number: 81"),
            vec!["bad", "81"],
        ),
        (
            "a named port that the Service has not",
            ingress("bad", "bad.example", "/", "shop").replace("number: 80", "name: web"),
            vec!["bad", "web"],
        ),
        (
            "a class that does not exist",
            ingress("bad", "bad.example", "/", "shop").replace("ingressClassName: weir", "ingressClassName: wier"),
            vec!["bad", "wier"],
        ),
        (
            "a Secret that does not exist",
            ingress_with("bad", "bad.example", &[("/", "Prefix", "shop")], "missing", &[]),
            vec!["bad", "missing"],
        ),
        (
            "an Ingress with nothing in it",
            meta("Ingress", networking, "spec: {ingressClassName: weir}\n"),
            vec!["Ingress", "bad"],
        ),
        (
            "a Secret that is no certificate",
            secret(meta("Secret", "v1", "type: kubernetes.io/tls\ndata: {tls.crt: aGVsbG8=, tls.key: aGVsbG8=}\n")),
            vec!["bad", "tls.crt"],
        ),
        (
            "a Secret that is no base64",
            secret(meta("Secret", "v1", "type: kubernetes.io/tls\ndata: {tls.crt: \"***\", tls.key: \"***\"}\n")),
            vec!["bad"],
        ),
        (
            "a Secret without a key",
            secret(meta("Secret", "v1", "type: kubernetes.io/tls\ndata: {tls.crt: aGVsbG8=}\n")),
            vec!["bad", "tls.key"],
        ),
        (
            "an EndpointSlice with a bad address",
            plain_service("slow", "")
                + &ingress("user", "user.example", "/", "slow")
                + "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: bad\n  labels: {kubernetes.io/service-name: slow}\naddressType: IPv4\nports:\n- {name: http, port: 80}\nendpoints:\n- addresses: [\"10.0.0.300\"]\n",
            vec!["EndpointSlice", "bad", "address"],
        ),
        (
            "a Gateway of no class",
            gateway("bad", "").replace("gatewayClassName: weir", "gatewayClassName: wier"),
            vec!["bad", "wier"],
        ),
        (
            "a Gateway with a protocol that is unknown",
            gateway("bad", "").replace("protocol: HTTP", "protocol: GOPHER"),
            vec!["Gateway", "bad", "GOPHER"],
        ),
        ("a Gateway with TLS and without a certificate", gateway("bad", "missing"), vec!["Gateway", "bad", "missing"]),
        (
            "a route to a Gateway that does not exist",
            http_route("bad", "missing", "bad.example", "  - backendRefs: [{name: shop, port: 80}]\n"),
            vec!["HTTPRoute", "bad", "missing"],
        ),
        (
            "a route to a Service that does not exist",
            route("  - backendRefs: [{name: missing, port: 80}]\n"),
            vec!["HTTPRoute", "bad", "missing"],
        ),
        (
            "a route to a Service without a port",
            route("  - backendRefs: [{name: shop}]\n"),
            vec!["HTTPRoute", "bad", "port"],
        ),
        (
            "a route to another namespace",
            route("  - backendRefs: [{name: shop, namespace: other, port: 80}]\n"),
            vec!["HTTPRoute", "bad", "ReferenceGrant"],
        ),
        (
            "a regular expression that is none",
            route(
                "  - matches: [{path: {type: RegularExpression, value: \"/(\"}}]\n    backendRefs: [{name: shop, port: 80}]\n",
            ),
            vec!["HTTPRoute", "bad"],
        ),
        (
            "a filter that is unknown",
            route("  - filters: [{type: Teleport}]\n    backendRefs: [{name: shop, port: 80}]\n"),
            vec!["bad", "Teleport"],
        ),
        (
            "a redirect beside a rewrite",
            route(
                "  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}, {type: URLRewrite, urlRewrite: {hostname: a.example}}]\n",
            ),
            vec!["HTTPRoute", "bad"],
        ),
        (
            "a timeout that is none",
            route("  - timeouts: {request: soon}\n    backendRefs: [{name: shop, port: 80}]\n"),
            vec!["HTTPRoute", "bad", "soon"],
        ),
        (
            "endpoints without a port",
            used(apex("bad", &[("weir.dev/endpoints", "10.0.0.1")], "")),
            vec!["Service", "bad", "weir.dev/endpoints", "10.0.0.1"],
        ),
        (
            "endpoints by name",
            used(apex("bad", &[("weir.dev/endpoints", "localhost:80")], "")),
            vec!["Service", "bad", "weir.dev/endpoints"],
        ),
        (
            "an annotation that is unknown",
            annotated("weir.dev/balanec", "round-robin"),
            vec!["Service", "bad", "weir.dev/balanec", "weir.dev/balance"],
        ),
        (
            "a balance that is unknown",
            annotated("weir.dev/balance", "fastest"),
            vec!["bad", "weir.dev/balance", "fastest", "round-robin"],
        ),
        (
            "a health path without a slash",
            annotated("weir.dev/health-path", "healthz"),
            vec!["bad", "weir.dev/health-path", "healthz"],
        ),
        (
            "an interval that is none",
            annotated("weir.dev/health-interval", "often"),
            vec!["bad", "weir.dev/health-interval", "often"],
        ),
        (
            "an interval that is too short",
            annotated("weir.dev/health-interval", "1ms"),
            vec!["bad", "weir.dev/health-interval"],
        ),
        (
            "a threshold that is negative",
            annotated("weir.dev/outlier-consecutive", "-1"),
            vec!["bad", "weir.dev/outlier-consecutive"],
        ),
        (
            "a percentage over 100",
            annotated("weir.dev/outlier-failure-percent", "101"),
            vec!["bad", "weir.dev/outlier-failure-percent"],
        ),
        (
            "a ceiling that is a text",
            annotated("weir.dev/max-in-flight", "few"),
            vec!["bad", "weir.dev/max-in-flight", "few"],
        ),
        ("a hold that is none", annotated("weir.dev/empty-hold", "5"), vec!["bad", "weir.dev/empty-hold"]),
        (
            "roots that do not exist",
            used(service_with("bad", &address, &[("weir.dev/upstream-tls-ca", "missing")], "https")),
            vec!["bad", "missing"],
        ),
        (
            "an application protocol that is unknown",
            used(service_with("bad", &address, &[], "gopher")),
            vec!["Service", "bad", "gopher"],
        ),
        ("one color", apex("bad", &[("weir.dev/colors", "blue=shop")], ""), vec!["Service", "bad", "weir.dev/colors"]),
        (
            "colors that are no list",
            apex("bad", &[("weir.dev/colors", "blue, green")], ""),
            vec!["Service", "bad", "weir.dev/colors", "blue"],
        ),
        (
            "nine colors",
            apex("bad", &[("weir.dev/colors", "a=a,b=b,c=c,d=d,e=e,f=f,g=g,h=h,i=i")], ""),
            vec!["bad", "weir.dev/colors", "8"],
        ),
        (
            "a color in another namespace",
            apex("bad", &[("weir.dev/colors", "blue=other/shop,green=shop")], ""),
            vec!["bad", "weir.dev/colors", "namespace"],
        ),
        (
            "a color that is no label",
            apex("bad", &[("weir.dev/colors", "Blue!=shop,green=shop2")], ""),
            vec!["bad", "weir.dev/colors", "Blue!"],
        ),
        (
            "a preview of nothing known",
            apex("bad", &[("weir.dev/colors", "blue=shop,green=shop2"), ("weir.dev/preview", "query=color")], ""),
            vec!["bad", "weir.dev/preview", "query"],
        ),
        (
            "a preview from nowhere",
            apex(
                "bad",
                &[
                    ("weir.dev/colors", "blue=shop,green=shop2"),
                    ("weir.dev/preview", "header=X"),
                    ("weir.dev/preview-from", "home"),
                ],
                "",
            ),
            vec!["bad", "weir.dev/preview-from", "home"],
        ),
        (
            "a policy that is none",
            apex(
                "bad",
                &[("weir.dev/colors", "blue=shop,green=shop2"), ("weir.dev/cutover.long-lived", "forever")],
                "",
            ),
            vec!["bad", "weir.dev/cutover.long-lived", "forever", "drain"],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_manifests_and_annotations_are_told_by_check() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("main.yaml"), scene::shop(&backend)).unwrap();
    let mut wrong = Vec::new();
    let cases = manifests(&backend);
    assert!(cases.len() >= 40, "{} cases", cases.len());
    for (what, yaml, words) in &cases {
        std::fs::write(folder.path().join("bad.yaml"), yaml).unwrap();
        let checked = run(&["check", folder.path().to_str().unwrap()]).await;
        let text = checked.text();
        let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
        if !matches!(checked.code, Some(1 | 3)) {
            wrong.push(format!("{what}: weir check ends with {:?}: {text}", checked.code));
        } else if !missing.is_empty() {
            wrong.push(format!("{what}: weir check without {missing:?}: {text}"));
        } else if text.contains("panicked") {
            wrong.push(format!("{what}: a panic: {text}"));
        }
    }
    println!("{} bad manifests told", cases.len());
    assert!(wrong.is_empty(), "{} of {}:\n  {}", wrong.len(), cases.len(), wrong.join("\n  "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_bad_manifests_and_annotations_the_rest_keeps_serving_and_changing() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    for (number, (what, yaml, _)) in manifests(&backend).iter().enumerate() {
        weir.apply("bad.yaml", yaml);
        let marker = format!("m{number}.example");
        weir.apply("marker.yaml", &ingress("marker", &marker, "/", "shop"));
        weir.until_served(&marker, "/", |answer| answer.status == 200).await;
        assert_eq!(weir.get(HOST, "/").await.status, 200, "{what}");
    }
    assert_eq!(weir.admin_get("/readyz").await.unwrap().status, 200);
    assert_eq!(weir.metrics().await.sum("weir_worker_panics_total", &[]), 0.0);
    assert!(!weir.log().iter().any(|line| line.contains("panicked")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_manifests_have_no_findings() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let folder = tempfile::tempdir().unwrap();
    let good = classes()
        + &service("shop", &[backend.address()])
        + &ingress("shop", HOST, "/", "shop")
        + &gateway("edge", "")
        + &http_route("r", "edge", "r.example", "  - backendRefs: [{name: shop, port: 80}]\n");
    std::fs::write(folder.path().join("good.yaml"), good).unwrap();
    let checked = run(&["check", folder.path().to_str().unwrap()]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protective_setting_that_cannot_be_honoured_closes_its_route() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let protected = service_with("bad", &[backend.address()], &[("weir.dev/upstream-tls-ca", "missing")], "https");
    weir.apply("bad.yaml", &(protected + &ingress("bad", "bad.example", "/", "bad")));
    weir.until_served("bad.example", "/", |answer| matches!(answer.status, 500 | 503)).await;
    assert_eq!(backend.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_not_there_yet_is_named_and_waited_for() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("later");
    let text = folder.to_str().unwrap();
    let starting =
        Weir::builder().arguments(&["--set", &format!("provider.directory={text}")]).without_folder().spawn();
    eventually("it says what it waits for", async || {
        if starting.log().iter().any(|line| line.contains(text)) { Ok(()) } else { Err("it does not") }
    })
    .await;
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("main.yaml"), scene::shop(&backend)).unwrap();
    let weir = starting.ready().await;
    weir.until_served(HOST, "/", |answer| answer.status == 200).await;
}
