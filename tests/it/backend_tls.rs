//! Backends over TLS: whom they may be, what they are shown, and that no connection is used for what it was not made for.

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{H1, Target};
use crate::harness::manifests::{classes, ingress, service_with, tls_secret};
use crate::harness::scene::HOST;
use crate::harness::turn;
use crate::harness::websocket::Socket;
use crate::harness::weir::Weir;

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
