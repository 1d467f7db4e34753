//! Pages of other origins: what a route says of them is said on every answer, and browsers are answered without a backend.

use http::Method;

use crate::harness::backend::Backend;
use crate::harness::client::{Answer, H1, H2, Target, empty, request};
use crate::harness::manifests::{classes, gateway, http_route, service};
use crate::harness::scene::HOST;
use crate::harness::weir::Weir;
use crate::harness::{raw, turn};

const PAGE: &str = "https://page.example";

/// A rule for everything below a path.
fn rule(path: &str, cors: &str, service: &str) -> String {
    format!(
        "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    filters: [{{type: CORS, cors: {cors}}}]\n    \
         backendRefs: [{{name: {service}, port: 80}}]\n"
    )
}

fn cors_fields(answer: &Answer) -> Vec<String> {
    let fields = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-") || name.as_str() == "vary");
    fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_may_read_what_its_route_says_whoever_answers() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let opinionated = raw::answering(
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-max-age: 9\r\nContent-Length: 2\r\n\r\nok",
    )
    .await;
    let cors = "{allowOrigins: [\"https://*.example\"], allowMethods: [PUT], allowHeaders: [X-One, X-Two], \
                exposeHeaders: [X-Three], allowCredentials: true, maxAge: 60}";
    let rules = rule("/good", cors, "good") + &rule("/own", cors, "own") + &rule("/none", cors, "none");
    let manifests = classes()
        + &service("good", &[backend.address()])
        + &service("own", &[opinionated])
        + &service("none", &[])
        + &gateway("edge", "")
        + &http_route("shop", "edge", HOST, &rules);
    let weir = Weir::start(&manifests).await;
    let mut h1 = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let ask = |method: Method, path: &str, origin: &str| {
        let mut asked = request(method.clone(), HOST, path).header("origin", origin);
        if method == Method::OPTIONS {
            asked = asked.header("access-control-request-method", "PUT");
        }
        asked.body(empty()).unwrap()
    };
    // The browser asks first.
    for answer in [
        h1.ask(ask(Method::OPTIONS, "/good", PAGE)).await.unwrap(),
        h2.ask(ask(Method::OPTIONS, "/none", PAGE)).await.unwrap(),
    ] {
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
        let mut said = cors_fields(&answer);
        said.iter_mut().for_each(|field| field.make_ascii_lowercase());
        assert_eq!(
            said,
            [
                "vary: origin",
                "access-control-allow-origin: https://page.example",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: x-three",
                "access-control-allow-methods: put",
                "access-control-allow-headers: x-one, x-two",
                "access-control-max-age: 60"
            ]
        );
    }
    let answer = h1.ask(ask(Method::OPTIONS, "/good", "https://page.test")).await.unwrap();
    assert_eq!((answer.status, cors_fields(&answer)), (204, vec!["vary: origin".to_owned()]));
    assert_eq!(backend.requests(), 0, "browsers are answered here");
    // Then it sends.
    for (path, status) in [("/good", 200), ("/own", 200), ("/none", 503)] {
        let answer = h1.ask(ask(Method::PUT, path, PAGE)).await.unwrap();
        assert_eq!(answer.status, status, "{path}");
        let mut said = cors_fields(&answer);
        said.iter_mut().for_each(|field| field.make_ascii_lowercase());
        assert_eq!(
            said,
            [
                "vary: origin",
                "access-control-allow-origin: https://page.example",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: x-three"
            ],
            "{path}"
        );
        let answer = h1.ask(ask(Method::PUT, path, "https://page.test")).await.unwrap();
        assert_eq!((answer.status, cors_fields(&answer)), (status, vec!["vary: origin".to_owned()]), "{path}");
    }
    assert_eq!(backend.requests(), 2);
    // OPTIONS that is no preflight is a request like any other.
    let plain = request(Method::OPTIONS, HOST, "/good").header("origin", PAGE).body(empty()).unwrap();
    assert_eq!(h1.ask(plain).await.unwrap().status, 200);
    assert_eq!(backend.requests(), 3);
}
