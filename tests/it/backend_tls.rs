//! Backends over TLS: whom they may be, what they are shown, and that no connection is used for what it was not made for.

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{H1, Target};
use crate::harness::manifests::{classes, gateway, http_route, ingress, service_with, tls_secret};
use crate::harness::scene::HOST;
use crate::harness::websocket::Socket;
use crate::harness::weir::Weir;
use crate::harness::{turn, until};

/// A Secret with the roots that backends are verified with.
fn roots(authority: &Authority) -> String {
    tls_secret("roots", &authority.issue("unused", &["unused"])).replace(
        "data:\n",
        &format!("data:\n  ca.crt: {}\n", crate::harness::manifests::base64(authority.pem().as_bytes())),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_verified_for_one_host_carries_no_request_for_another() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let leaf = authority.issue("inner", &[HOST, "*.shop.example"]);
    for alpn in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let backend = Backend::start_tls("blue", leaf.server(alpn)).await;
        let annotations = [("weir.dev/upstream-tls-ca", "roots"), ("weir.dev/outlier-consecutive", "0")];
        let manifests = classes()
            + &roots(&authority)
            + &service_with("shop", &[backend.address()], &annotations, "https")
            + &ingress("one", HOST, "/", "shop")
            + &ingress("two", "a.shop.example", "/", "shop")
            + &ingress("three", "other.example", "/", "shop");
        let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
        let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
        for _ in 0..3 {
            for (host, expected) in [(HOST, 200), ("a.shop.example", 200), ("other.example", 502)] {
                let answer = connection.get(host, "/x").await.unwrap();
                assert_eq!(answer.status, expected, "{alpn:?} {host}");
            }
        }
        assert_eq!(backend.requests(), 6, "the backend sees nothing of what it is not certified for");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_reaches_a_backend_that_would_rather_speak_http_2() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let leaf = authority.issue("inner", &["inner.example"]);
    let backend = Backend::start_tls("blue", leaf.server(&["h2", "http/1.1"])).await;
    let annotations = [("weir.dev/upstream-tls-server-name", "inner.example"), ("weir.dev/upstream-tls-ca", "roots")];
    let manifests = classes()
        + &roots(&authority)
        + &service_with("shop", &[backend.address()], &annotations, "https")
        + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
    for _ in 0..2 {
        // An HTTP/2 connection is there already when the socket is opened.
        assert_eq!(weir.get(HOST, "/x").await.status, 200);
        let mut socket = Socket::connect(&Target::plain(weir.http), HOST).await.unwrap();
        assert_eq!(socket.echo("hello").await.unwrap().unwrap(), "blue hello");
        socket.close().await.unwrap();
    }
}

fn roots_map(name: &str, authority: &Authority) -> String {
    let pem = authority.pem().replace('\n', "\n    ");
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  ca.crt: |\n    {pem}\n---\n")
}

/// A BackendTLSPolicy for a Service of the same name.
fn policy(service: &str, roots: &str, names: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata:\n  name: {service}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  validation:\n    caCertificateRefs: [{{group: \"\", \
         kind: ConfigMap, name: {roots}}}]\n    hostname: inner.example\n    subjectAltNames: [{names}]\n---\n"
    )
}

fn all_to(service: &str) -> String {
    format!(
        "  - matches: [{{path: {{type: PathPrefix, value: /{service}}}}}]\n    backendRefs: [{{name: {service}, port: 80}}]\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_says_whom_a_backend_may_be() {
    let _turn = turn::beside_others().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let leaf = authority.issue("inner", &["inner.example", "other.example"]);
    let backend = Backend::start_tls("blue", leaf.server(&["h2", "http/1.1"])).await;
    let other = authority.issue("other", &["other.example"]);
    let misnamed = Backend::start_tls("misnamed", other.server(&["http/1.1"])).await;
    let mut manifests =
        classes() + &roots_map("roots", &authority) + &roots_map("strangers", &stranger) + &gateway("edge", "");
    let mut rules = String::new();
    let cases = [
        ("by-hostname", backend.address(), "roots", "", 200),
        ("by-stranger", backend.address(), "strangers", "", 502),
        ("misnamed", misnamed.address(), "roots", "", 502),
        ("by-name", misnamed.address(), "roots", "{type: Hostname, hostname: other.example}", 200),
        ("no-name", backend.address(), "roots", "{type: Hostname, hostname: third.example}", 502),
        ("no-uri", backend.address(), "roots", "{type: URI, uri: \"spiffe://inner.example/x\"}", 502),
    ];
    for (service, address, roots, names, _) in cases {
        manifests += &(service_with(service, &[address], &[], "") + &policy(service, roots, names));
        rules += &all_to(service);
    }
    manifests += &http_route("shop", "edge", HOST, &rules);
    let weir = Weir::start(&manifests).await;
    for (service, _, _, _, expected) in cases {
        for _ in 0..2 {
            assert_eq!(weir.get(HOST, &format!("/{service}")).await.status, expected, "{service}");
        }
    }
    assert_eq!(backend.requests() + misnamed.requests(), 4, "nothing is sent to whom nobody believes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateways_certificate_is_shown_for_its_routes_alone() {
    let _turn = turn::beside_others().await;
    let authority = Authority::new();
    let leaf = authority.issue("inner", &["inner.example"]);
    let own = authority.issue_for_client("edge");
    for alpn in [&["http/1.1"][..], &["h2"]] {
        let backend = Backend::start_tls("blue", leaf.server_asking(&authority, alpn)).await;
        let known = gateway("known", "").replace(
            "  listeners:",
            "  tls: {backend: {clientCertificateRef: {group: \"\", kind: Secret, name: own}}}\n  listeners:",
        );
        let manifests = classes()
            + &roots_map("roots", &authority)
            + &tls_secret("own", &own)
            + &service_with("shop", &[backend.address()], &[("weir.dev/outlier-consecutive", "0")], "")
            + &policy("shop", "roots", "")
            + &known
            + &gateway("unknown", "")
            + &http_route("one", "known", "known.example", &all_to("shop"))
            + &http_route("two", "unknown", "unknown.example", &all_to("shop"));
        let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
        for number in 0..4 {
            assert_eq!(weir.get("known.example", "/shop").await.status, 200, "{alpn:?} {number}");
            assert_eq!(weir.get("unknown.example", "/shop").await.status, 502, "{alpn:?} {number}");
        }
        assert_eq!((backend.requests(), backend.accepted() > 1), (4, true));
        // Both are the same Service to whoever reads the numbers.
        let page = weir.admin_get("/metrics").await.unwrap().text();
        let mut series: Vec<&str> = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' ').map(|(series, _)| series))
            .collect();
        series.sort_unstable();
        let twice: Vec<_> = series.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
        until("all eight are counted", async || {
            weir.metrics().await.sum("weir_requests_total", &[("service", "shop")]) as u64 == 8
        })
        .await;
    }
}
