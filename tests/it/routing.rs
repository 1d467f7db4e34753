//! A request goes where its objects say, and nowhere else.

use std::collections::BTreeMap;

use http::Method;

use crate::harness::backend::Backend;
use crate::harness::client::{H1, Target, empty, full, request};
use crate::harness::manifests::{
    Conditions, apex, classes, gateway, http_route, ingress, ingress_with, plain_service, service, service_with, slices,
};
use crate::harness::scene::{self, HOST, backends};
use crate::harness::weir::Weir;
use crate::harness::{turn, until};

/// Which backend answers; `404` and the like when Weir does.
async fn who(weir: &Weir, host: &str, path: &str) -> String {
    let answer = weir.get(host, path).await;
    let backend = answer.header("x-backend");
    if backend.is_empty() { answer.status.to_string() } else { backend.to_owned() }
}

fn services(backends: &[Backend]) -> String {
    backends.iter().map(|backend| service(backend.name(), &[backend.address()])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_reaches_its_backend_and_the_answer_its_client() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let answer = weir.get(HOST, "/some/path?with=query").await;
    assert_eq!((answer.status, answer.header("x-backend")), (200, "blue"));
    assert_eq!(backend.requests(), 1);
    let head = weir.get(HOST, "/head?with=query&x=%41").await.json();
    assert_eq!(head["method"], "GET");
    assert!(head["target"].as_str().unwrap().ends_with("/head?with=query&x=%41"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingress_paths_follow_the_precedence_of_the_documentation() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["root", "foo", "foobar", "exact", "other-host", "wildcard", "fallback"]).await;
    let default = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: fallback\nspec:\n  ingressClassName: weir\n  \
                   defaultBackend: {service: {name: fallback, port: {number: 80}}}\n---\n";
    let paths = [
        ("/", "Prefix", "root"),
        ("/foo", "Prefix", "foo"),
        ("/foo/bar", "Prefix", "foobar"),
        ("/foo/bar", "Exact", "exact"),
    ];
    let manifests = classes()
        + &services(&backends)
        + &ingress_with("a", "a.example", &paths, "", &[])
        + &ingress("b", "b.example", "/only", "other-host")
        + &ingress("w", "*.wild.example", "/", "wildcard")
        + default;
    let weir = Weir::start(&manifests).await;
    for (host, path, expected) in [
        ("a.example", "/", "root"),
        ("a.example", "/x", "root"),
        ("a.example", "/foo", "foo"),
        ("a.example", "/foo/", "foo"),
        ("a.example", "/foobar", "root"),
        ("a.example", "/foo/barn", "foo"),
        ("a.example", "/foo/bar", "exact"),
        ("a.example", "/foo/bar/", "foobar"),
        ("a.example", "/foo/bar/baz", "foobar"),
        ("a.example:8080", "/foo", "foo"),
        ("A.Example", "/foo", "foo"),
        ("b.example", "/only/this", "other-host"),
        ("b.example", "/else", "fallback"),
        ("one.wild.example", "/", "wildcard"),
        ("two.one.wild.example", "/", "fallback"),
        ("wild.example", "/", "fallback"),
        ("nobody.example", "/", "fallback"),
    ] {
        assert_eq!(who(&weir, host, path).await, expected, "{host}{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_nothing_matches_gets_404_with_a_reason() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    assert_eq!(weir.get("nobody.example", "/").await.status, 404);
    assert_eq!(backend.requests(), 0);
    until("the reason is counted", async || {
        weir.metrics()
            .await
            .0
            .iter()
            .any(|sample| sample.labels.get("reason").is_some_and(|reason| reason == "no_route") && sample.value >= 1.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_route_rules_follow_the_precedence_of_the_api() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["prefix", "exact", "method", "header", "query", "regex", "longer"]).await;
    let rule =
        |matches: &str, to: &str| format!("  - matches: [{matches}]\n    backendRefs: [{{name: {to}, port: 80}}]\n");
    let rules = rule("{path: {type: PathPrefix, value: /p}}", "prefix")
        + &rule("{path: {type: PathPrefix, value: /p/longer}}", "longer")
        + &rule("{path: {type: Exact, value: /p}}", "exact")
        + &rule("{path: {type: PathPrefix, value: /p}, method: POST}", "method")
        + &rule("{path: {type: PathPrefix, value: /p}, headers: [{name: X-Version, value: two}]}", "header")
        + &rule("{path: {type: PathPrefix, value: /p}, queryParams: [{name: debug, value: \"1\"}]}", "query")
        + &rule("{path: {type: RegularExpression, value: \"/r/[0-9]+\"}}", "regex");
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, &rules);
    let weir = Weir::start(&manifests).await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for (method, path, header, expected) in [
        ("GET", "/p/x", "", "prefix"),
        ("GET", "/p", "", "exact"),
        ("GET", "/p/longer/x", "two", "longer"),
        ("POST", "/p/x", "", "method"),
        ("POST", "/p/x", "two", "method"),
        ("GET", "/p/x", "two", "header"),
        ("GET", "/p/x?debug=1", "", "query"),
        ("GET", "/p/x?debug=1", "two", "header"),
        ("GET", "/r/42", "", "regex"),
        ("GET", "/r/42x", "", "404"),
        ("GET", "/px", "", "404"),
    ] {
        let mut builder = request(Method::from_bytes(method.as_bytes()).unwrap(), HOST, path);
        if !header.is_empty() {
            builder = builder.header("x-version", header);
        }
        let answer = connection.ask(builder.body(empty()).unwrap()).await.unwrap();
        let by = if answer.status == 404 { "404" } else { answer.header("x-backend") };
        assert_eq!(by, expected, "{method} {path} x-version: {header}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_share_the_traffic_and_a_missing_backend_fails_exactly_its_share() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["three", "one", "never"]).await;
    let rules = "  - matches: [{path: {value: /shared}}]\n    backendRefs: [{name: three, port: 80, weight: 3}, {name: one, port: 80, \
                 weight: 1}, {name: never, port: 80, weight: 0}]\n  - matches: [{path: {value: /half}}]\n    backendRefs: [{name: \
                 one, port: 80}, {name: missing, port: 80}]\n  - matches: [{path: {value: /none}}]\n    backendRefs: [{name: one, \
                 port: 80, weight: 0}]\n";
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let mut counts: BTreeMap<(&str, String), u32> = BTreeMap::new();
    for path in ["/shared", "/half", "/none"] {
        for _ in 0..1000 {
            let answer = connection.get(HOST, path).await.unwrap();
            let by =
                if answer.status == 200 { answer.header("x-backend").to_owned() } else { answer.status.to_string() };
            *counts.entry((path, by)).or_default() += 1;
        }
    }
    let count = |path, by: &str| counts.get(&(path, by.to_owned())).copied().unwrap_or(0);
    // A share of 1,000 random choices is within five standard deviations of its mean, else something is wrong.
    assert!((680..=820).contains(&count("/shared", "three")), "{counts:?}");
    assert_eq!(count("/shared", "three") + count("/shared", "one"), 1000, "{counts:?}");
    assert!((420..=580).contains(&count("/half", "500")), "{counts:?}");
    assert_eq!(count("/half", "500") + count("/half", "one"), 1000, "{counts:?}");
    assert_eq!(count("/none", "500"), 1000, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_redirect_rewrite_and_change_headers() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue"]).await;
    let rules = r#"  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
  - matches: [{path: {value: /prefix}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /head}}}]
    backendRefs: [{name: blue, port: 80}]
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /head/full}}}]
    backendRefs: [{name: blue, port: 80}]
  - matches: [{path: {value: /head/headers}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}], add: [{name: X-Add, value: more}], remove: [X-Remove]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Backend, value: hidden}], add: [{name: X-Extra, value: "yes"}], remove: [Content-Type]}}
    backendRefs: [{name: blue, port: 80}]
"#;
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    let answer = weir.get(HOST, "/old/page?q=1").await;
    assert_eq!((answer.status, answer.header("location")), (301, "https://new.example/new/page?q=1"));
    let head = weir.get(HOST, "/prefix/page?q=1").await.json();
    assert!(head["target"].as_str().unwrap().ends_with("/head/page?q=1"), "{head}");
    assert_eq!(header_of(&head, "host"), ["inner.example"]);
    let head = weir.get(HOST, "/full/anything").await.json();
    assert!(head["target"].as_str().unwrap().ends_with("/head/full"), "{head}");
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let changed = request(Method::GET, HOST, "/head/headers")
        .header("x-set", "old")
        .header("x-add", "one")
        .header("x-remove", "1");
    let answer = connection.ask(changed.body(empty()).unwrap()).await.unwrap();
    let head = answer.json();
    assert_eq!(header_of(&head, "x-set"), ["new"]);
    assert_eq!(header_of(&head, "x-add").join(",").replace(' ', ""), "one,more");
    assert!(header_of(&head, "x-remove").is_empty());
    assert_eq!(
        (answer.header("x-backend"), answer.header("x-extra"), answer.header("content-type")),
        ("hidden", "yes", "")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_a_backend_redirect_and_rewrite_as_those_of_a_rule() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue"]).await;
    let mut rules = String::from(
        "  - matches: [{path: {value: /prefix}}]
    backendRefs:
    - {name: blue, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: \
         ReplacePrefixMatch, replacePrefixMatch: /head}}}]}
  - matches: [{path: {value: /full}}]
    backendRefs:
    - {name: blue, port: 80, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: \
         /head/full}}}]}
",
    );
    for status in [301, 302, 303, 307, 308] {
        rules += &format!(
            "  - matches: [{{path: {{value: /to-{status}}}}}]
    backendRefs:
    - {{name: blue, port: 80, filters: [{{type: RequestRedirect, requestRedirect: {{hostname: new.example, statusCode: \
             {status}, path: {{type: ReplacePrefixMatch, replacePrefixMatch: /new}}}}}}]}}\n"
        );
    }
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, &rules);
    let weir = Weir::start(&manifests).await;
    let head = weir.get(HOST, "/prefix/page?q=1").await.json();
    assert!(head["target"].as_str().unwrap().ends_with("/head/page?q=1"), "{head}");
    assert_eq!(header_of(&head, "host"), ["inner.example"]);
    let head = weir.get(HOST, "/full/anything?q=1").await.json();
    assert!(head["target"].as_str().unwrap().ends_with("/head/full?q=1"), "{head}");
    for status in [301, 302, 303, 307, 308] {
        let answer = weir.get(HOST, &format!("/to-{status}/page?q=1")).await;
        let location = answer.header("location").to_owned();
        assert_eq!(answer.status, status);
        assert!(location.starts_with("http://new.example") && location.ends_with("/new/page?q=1"), "{location}");
    }
}

/// Values of a header in the JSON of `/head`.
pub fn header_of(head: &serde_json::Value, name: &str) -> Vec<String> {
    let headers = head["headers"].as_array().unwrap();
    headers.iter().filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_gets_a_copy_and_its_answer_is_forgotten() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue", "shadow"]).await;
    let rules = "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]\n    \
                 backendRefs: [{name: blue, port: 80}]\n";
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    for _ in 0..50 {
        assert_eq!(who(&weir, HOST, "/copied").await, "blue");
    }
    until("the copies arrive", async || backends[1].requests_for("/copied") == 50).await;
    assert_eq!(backends[0].requests_for("/copied"), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_mirrors_get_their_shares_with_the_body_and_the_changed_head() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue", "all", "half", "none", "own"]).await;
    let mirror = |name: &str, share: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {name}, port: 80}}{share}}}}}")
    };
    let rules = format!(
        "  - filters:\n    - {{type: URLRewrite, urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /echo}}}}}}\n    \
         - {}\n    - {}\n    - {}\n    backendRefs:\n    - {{name: blue, port: 80, filters: [{}]}}\n",
        mirror("all", ", percent: 100"),
        mirror("half", ", fraction: {numerator: 1, denominator: 2}"),
        mirror("none", ", percent: 0"),
        mirror("own", ""),
    );
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, &rules);
    let weir = Weir::start(&manifests).await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for number in 0..400 {
        let asked = request(Method::POST, HOST, "/in").body(full(format!("body {number}"))).unwrap();
        assert_eq!(connection.ask(asked).await.unwrap().text(), format!("body {number}"));
    }
    let copies = || backends.iter().map(|backend| backend.requests_for("/echo")).collect::<Vec<_>>();
    until("the copies arrive", async || copies()[1] == 400 && copies()[4] == 400).await;
    let copies = copies();
    assert_eq!((copies[0], copies[3]), (400, 0));
    // Five standard deviations of a fair coin.
    assert!((150..=250).contains(&copies[2]), "{copies:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_namespace_is_reached_only_with_a_grant() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["theirs"]).await;
    let theirs =
        service("theirs", &[backends[0].address()]).replace("name: theirs\n", "name: theirs\n  namespace: other\n");
    let rules = "  - backendRefs: [{name: theirs, namespace: other, port: 80}]\n";
    let manifests = classes() + &theirs + &gateway("edge", "") + &http_route("r", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    assert_eq!(who(&weir, HOST, "/").await, "500");
    weir.apply(
        "grant.yaml",
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata:\n  name: g\n  namespace: other\nspec:\n  \
         from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n",
    );
    weir.until_served(HOST, "/", |answer| answer.header("x-backend") == "theirs").await;
    weir.remove("grant.yaml");
    weir.until_served(HOST, "/", |answer| answer.status == 500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_timeout_answers_504() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue"]).await;
    let rules = "  - timeouts: {request: 200ms}\n    backendRefs: [{name: blue, port: 80}]\n";
    let manifests = classes() + &services(&backends) + &gateway("edge", "") + &http_route("r", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    assert_eq!(weir.get(HOST, "/slow/3000").await.status, 504);
    assert_eq!(weir.get(HOST, "/slow/1").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_come_from_slices_and_their_conditions_are_honoured() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["ready", "not-ready", "leaving"]).await;
    let [ready, not_ready, leaving] = [0, 1, 2].map(|index| backends[index].address());
    let base = classes() + &plain_service("s", "") + &ingress("i", HOST, "/", "s");
    let weir = Weir::start(&base).await;
    assert_eq!(who(&weir, HOST, "/").await, "503");
    let all = [(ready, Conditions::READY), (not_ready, Conditions::NOT_READY), (leaving, Conditions::TERMINATING)];
    weir.apply("slices.yaml", &slices("s", &all));
    weir.until_served(HOST, "/", |answer| answer.status == 200).await;
    for _ in 0..50 {
        assert_eq!(who(&weir, HOST, "/").await, "ready");
    }
    weir.apply("slices.yaml", &slices("s", &all[1..]));
    weir.until_served(HOST, "/", |answer| answer.header("x-backend") == "leaving").await;
    for _ in 0..20 {
        assert_eq!(
            who(&weir, HOST, "/").await,
            "leaving",
            "what serves while terminating is used when nothing else is left"
        );
    }
    assert_eq!(backends[1].requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_port_finds_the_port_of_the_slice() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue"]).await;
    let named = ingress("i", HOST, "/", "s").replace("port: {number: 80}", "port: {name: http}");
    let manifests =
        classes() + &plain_service("s", "") + &slices("s", &[(backends[0].address(), Conditions::READY)]) + &named;
    let weir = Weir::start(&manifests).await;
    assert_eq!(who(&weir, HOST, "/").await, "blue");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_name_is_resolved() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue"]).await;
    let port = backends[0].address().port();
    let external = format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  type: ExternalName\n  externalName: localhost\n  ports:\n  - port: \
         {port}\n---\n"
    );
    let route = ingress("i", HOST, "/", "s").replace("number: 80", &format!("number: {port}"));
    let weir = Weir::start(&(classes() + &external + &route)).await;
    weir.until_served(HOST, "/", |answer| answer.header("x-backend") == "blue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_object_wins_a_conflict_and_the_loser_is_told() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["older", "newer"]).await;
    let dated = |name: &str, year: u32| {
        let dated = format!("metadata:\n  name: i-{name}\n  creationTimestamp: \"{year}-01-01T00:00:00Z\"\n");
        ingress(&format!("i-{name}"), HOST, "/", name).replace(&format!("metadata:\n  name: i-{name}\n"), &dated)
    };
    let manifests = classes() + &services(&backends) + &dated("newer", 2025) + &dated("older", 2024);
    let weir = Weir::start(&manifests).await;
    for _ in 0..10 {
        assert_eq!(who(&weir, HOST, "/").await, "older");
    }
    let folder = weir.folder();
    let checked = crate::harness::weir::run(&["check", folder.to_str().unwrap()]).await;
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.text().contains("i-newer"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_ingresses_of_our_class_are_served() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue"]).await;
    let foreign =
        ingress("foreign", "foreign.example", "/", "blue").replace("ingressClassName: weir", "ingressClassName: nginx");
    let annotated = ingress("old", "old.example", "/", "blue")
        .replace("  ingressClassName: weir\n", "")
        .replace("  name: old\n", "  name: old\n  annotations: {kubernetes.io/ingress.class: weir}\n");
    let unclassed = ingress("none", "none.example", "/", "blue").replace("  ingressClassName: weir\n", "");
    let manifests = classes() + &services(&backends) + &foreign + &annotated + &unclassed;
    let weir = Weir::start(&manifests).await;
    assert_eq!(who(&weir, "foreign.example", "/").await, "404");
    assert_eq!(who(&weir, "old.example", "/").await, "blue");
    let default = classes().replace(
        "  name: weir\nspec:\n  controller:",
        "  name: weir\n  annotations: {ingressclass.kubernetes.io/is-default-class: \"true\"}\nspec:\n  controller:",
    );
    weir.apply("main.yaml", &(default + &services(&backends) + &foreign + &annotated + &unclassed));
    weir.until_served("none.example", "/", |answer| answer.header("x-backend") == "blue").await;
    assert_eq!(who(&weir, "foreign.example", "/").await, "404");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hash_balancing_keeps_a_key_on_its_endpoint_and_round_robin_shares_evenly() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["a", "b", "c", "d"]).await;
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let manifests = classes()
        + &service_with("hashed", &addresses, &[("weir.dev/balance", "hash-header=x-user")], "")
        + &ingress("hashed", "hashed.example", "/", "hashed")
        + &service_with("even", &addresses, &[("weir.dev/balance", "round-robin")], "")
        + &ingress("even", "even.example", "/", "even");
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let mut by_user: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..5 {
        for user in 0..40 {
            let user = format!("user-{user}");
            let asked = request(Method::GET, "hashed.example", "/").header("x-user", &user).body(empty()).unwrap();
            let by = connection.ask(asked).await.unwrap().header("x-backend").to_owned();
            let first = by_user.entry(user).or_insert_with(|| by.clone());
            assert_eq!(*first, by, "round {round}");
        }
    }
    let used: std::collections::BTreeSet<_> = by_user.values().collect();
    assert_eq!(used.len(), 4, "40 users on 4 endpoints: {by_user:?}");
    let before: Vec<u64> = backends.iter().map(Backend::requests).collect();
    for _ in 0..400 {
        connection.get("even.example", "/").await.unwrap();
    }
    let shares: Vec<u64> = backends.iter().zip(before).map(|(backend, before)| backend.requests() - before).collect();
    assert!(shares.iter().all(|share| *share == 100), "{shares:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colors_without_a_switch_serve_the_first_one_listed() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["blue", "green"]).await;
    let manifests = classes()
        + &services(&backends)
        + &apex("shop", &[("weir.dev/colors", "green=green,blue=blue")], "")
        + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::start(&manifests).await;
    for _ in 0..10 {
        assert_eq!(who(&weir, HOST, "/").await, "green");
    }
}
