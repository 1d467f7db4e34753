//! What provably never reached an application, or may be repeated, is tried elsewhere; nothing else ever is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use tokio::io::AsyncWriteExt;

use crate::harness::backend::{Backend, Mode};
use crate::harness::client::{H1, Target, full, request};
use crate::harness::load::Plan;
use crate::harness::manifests::{classes, gateway, http_route, ingress, service, service_with};
use crate::harness::scene::{HOST, backends};
use crate::harness::weir::Weir;
use crate::harness::{PATIENCE, raw, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_closes_idle_connections_fails_no_request() {
    let _turn = turn::beside_others().await;
    // Closes every connection that is idle for 50 ms, while requests come every 50 ms: the worst moment.
    let address = raw::backend(|_, mut stream| async move {
        while let Ok(Some(head)) = tokio::time::timeout(Duration::from_millis(50), raw::head(&mut stream)).await {
            let length = if head.starts_with(b"POST") { 5 } else { 0 };
            let mut body = vec![0; length];
            if tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.is_err() {
                return;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                return;
            }
        }
    })
    .await;
    let weir = crate::headers::weir_before(address).await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for number in 0..150 {
        let method = [Method::GET, Method::PUT, Method::DELETE][number % 3].clone();
        let answer = connection.ask(request(method.clone(), HOST, "/").body(full("")).unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "{method} number {number}");
        tokio::time::sleep(Duration::from_millis(49)).await;
    }
    // A POST that meets the moment itself cannot be repeated. One that comes later must not be sent into a connection
    // that is known to have closed.
    for number in 0..20 {
        let answer = connection.ask(request(Method::POST, HOST, "/").body(full("hello")).unwrap()).await.unwrap();
        assert_eq!(answer.status, 200, "POST number {number}");
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_refuses_connections_costs_no_request_not_even_a_post() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["alive"]).await;
    // A port that was just closed refuses.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let manifests = classes() + &service("shop", &[dead, backends[0].address()]) + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::start(&manifests).await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for number in 0..60 {
        let asked = request(Method::POST, HOST, "/echo").body(full(vec![b'x'; 1000])).unwrap();
        let answer = connection.ask(asked).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 1000), "number {number}");
    }
}

/// Where no SYN is ever answered: a listener whose queue is full and that accepts nothing. Ends with what is given back.
fn black_hole() -> (SocketAddr, Vec<std::net::TcpStream>, socket2::Socket) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 100, "the queue has no end");
    }
    (address, waiting, socket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_says_nothing_at_all_is_not_waited_for_where_there_is_another() {
    let _turn = turn::beside_others().await;
    let backends = backends(&["alive"]).await;
    let (silent, _waiting, _socket) = black_hole();
    let never_eject = [
        ("weir.dev/outlier-consecutive", "0"),
        ("weir.dev/outlier-failure-percent", "0"),
        ("weir.dev/balance", "round-robin"),
    ];
    let manifests = classes()
        + &service_with("shop", &[silent, backends[0].address()], &never_eject, "")
        + &ingress("shop", HOST, "/", "shop");
    // Nobody who waits for a connection to the end gets an answer in this test.
    let arguments = ["--workers", "1", "--set", "timeouts.connect=5m"];
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&arguments).start().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for number in 0..6 {
        let asked = request(Method::POST, HOST, "/echo").body(full(vec![b'x'; 1000])).unwrap();
        let answer = tokio::time::timeout(PATIENCE, connection.ask(asked)).await.expect("an answer").unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 1000), "number {number}");
    }
    // One connection carries all that is answered; the others were tried at the silent endpoint.
    let opened = weir.metrics().await.sum("weir_upstream_connections_opened_total", &[]);
    assert!(opened >= 2.0, "the silent endpoint was never tried");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_connection_is_reset_is_repeated_only_if_it_may_be() {
    let _turn = turn::beside_others().await;
    let heads = Arc::new(AtomicUsize::new(0));
    let counted = heads.clone();
    // Reads a request, then resets: an application may have seen it.
    let resetting = raw::backend(move |_, mut stream| {
        let counted = counted.clone();
        async move {
            if raw::head(&mut stream).await.is_some() {
                counted.fetch_add(1, Ordering::SeqCst);
                raw::reset(stream);
            }
        }
    })
    .await;
    let good = Backend::start("good").await;
    let never_eject = [
        ("weir.dev/outlier-consecutive", "0"),
        ("weir.dev/outlier-failure-percent", "0"),
        ("weir.dev/balance", "round-robin"),
    ];
    let manifests = classes()
        + &service_with("shop", &[resetting, good.address()], &never_eject, "")
        + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    // The budget allows a fifth of the requests to be repeated: nine good ones for each that may fail.
    for number in 0..20 {
        let answer = connection.get(HOST, "/x").await.unwrap();
        assert_eq!(answer.status, 200, "GET number {number}");
    }
    let (before, mut lost) = (heads.load(Ordering::SeqCst), 0);
    assert!(before > 0, "the resetting endpoint was never asked");
    for _ in 0..20 {
        let asked = request(Method::POST, HOST, "/x").body(full("x")).unwrap();
        let answer = connection.ask(asked).await.unwrap();
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
        lost += usize::from(answer.status == 502);
    }
    assert_eq!(heads.load(Ordering::SeqCst) - before, lost, "every POST that was lost was sent exactly once");
    assert!(lost > 0, "no POST met the resetting endpoint");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_stop_at_the_budget_when_everything_fails() {
    let _turn = turn::beside_others().await;
    let attempts = Arc::new(AtomicUsize::new(0));
    let mut addresses = Vec::new();
    for _ in 0..4 {
        let counted = attempts.clone();
        addresses.push(
            raw::backend(move |_, mut stream| {
                let counted = counted.clone();
                async move {
                    if raw::head(&mut stream).await.is_some() {
                        counted.fetch_add(1, Ordering::SeqCst);
                        raw::reset(stream);
                    }
                }
            })
            .await,
        );
    }
    let manifests = classes() + &service("shop", &addresses) + &ingress("shop", HOST, "/", "shop");
    let weir = Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for _ in 0..500 {
        let status = connection.get(HOST, "/").await.unwrap().status;
        assert!(matches!(status, 502 | 503), "{status}");
    }
    let attempts = attempts.load(Ordering::SeqCst);
    println!("500 requests to a backend that fails all of them: {attempts} attempts");
    // A fifth, and a small reserve so that a backend with few requests can have one at all.
    assert!(attempts <= 700, "{attempts} attempts for 500 requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_killed_every_second_for_a_minute_fail_no_idempotent_request() {
    let _turn = turn::alone().await;
    let backends = backends(&["a", "b", "c", "d"]).await;
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let rules = "  - timeouts: {request: 4s, backendRequest: 250ms}\n    backendRefs: [{name: shop, port: 80}]\n";
    let manifests = classes()
        + &service_with("shop", &addresses, &[("weir.dev/outlier-base-ejection", "700ms")], "")
        + &gateway("edge", "")
        + &http_route("shop", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    let load = Plan::mixed(&weir, HOST, "").idempotent_only().start();
    load.warm().await;
    for second in 0..60 {
        let victim = &backends[second % backends.len()];
        victim.set(if second % 2 == 0 { Mode::Resetting } else { Mode::Hanging });
        tokio::time::sleep(Duration::from_millis(500)).await;
        victim.set(Mode::Serving);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    load.stop().await.assert_clean("one endpoint killed every second for a minute", 20_000);
}

/// A backend that answers the requests that it gets with these, in turn and again from the start; what it gets is kept as
/// `METHOD body`.
async fn in_turn(
    answers: &'static [&'static str],
) -> (std::net::SocketAddr, Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>) {
    let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (seeing, counting) = (seen.clone(), connections.clone());
    let address = raw::backend(move |_, mut stream| {
        let (seen, connections) = (seeing.clone(), counting.clone());
        async move {
            connections.fetch_add(1, Ordering::SeqCst);
            while let Some(head) = raw::head(&mut stream).await {
                let head = String::from_utf8(head).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                if tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.is_err() {
                    return;
                }
                let answer = {
                    let mut seen = seen.lock().unwrap();
                    let method = head.split(' ').next().unwrap();
                    seen.push(format!("{method} {}", String::from_utf8(body).unwrap()));
                    answers[(seen.len() - 1) % answers.len()]
                };
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, seen, connections)
}

/// One worker before a backend, on a route with these retries.
async fn asking(backend: std::net::SocketAddr, rule: &str) -> Weir {
    let rules = format!("  - {rule}\n    backendRefs: [{{name: shop, port: 80}}]\n");
    let manifests =
        classes() + &service("shop", &[backend]) + &gateway("edge", "") + &http_route("shop", "edge", HOST, &rules);
    Weir::builder().file("main.yaml", &manifests).arguments(&["--workers", "1"]).start().await
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";
const LOST: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_the_route_lists_is_tried_again_whatever_the_method() {
    let _turn = turn::beside_others().await;
    let (backend, seen, connections) = in_turn(&[BUSY, BUSY, GOOD]).await;
    let weir = asking(backend, "retry: {codes: [500, 503], attempts: 2, backoff: 5ms}").await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for method in [Method::GET, Method::POST, Method::PATCH] {
        let asked = request(method.clone(), HOST, "/").body(full("hello")).unwrap();
        let answer = connection.ask(asked).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "good"), "{method}");
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen, vec![format!("{method} hello"); 3]);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1, "an answer that is given up leaves its connection in use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gets_the_last_answer_when_no_attempt_is_left() {
    let _turn = turn::beside_others().await;
    let (backend, seen, _) = in_turn(&[LOST, BUSY]).await;
    let weir = asking(backend, "retry: {codes: [502, 503], attempts: 3}").await;
    let answer = weir.get(HOST, "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    assert_eq!(seen.lock().unwrap().len(), 4, "three more than one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_is_not_listed_and_a_pause_that_is_too_long_are_not_waited_for() {
    let _turn = turn::beside_others().await;
    let (backend, seen, _) = in_turn(&[LOST]).await;
    let weir = asking(backend, "retry: {codes: [500], attempts: 3}").await;
    assert_eq!(weir.get(HOST, "/").await.status, 502);
    assert_eq!(seen.lock().unwrap().len(), 1);
    // The next attempt would begin after the request's deadline: there is nothing to wait for.
    let (backend, seen, _) = in_turn(&[LOST]).await;
    let rule = "retry: {codes: [502], attempts: 3, backoff: 60s}\n    timeouts: {request: 30s}";
    let weir = asking(backend, rule).await;
    assert_eq!(weir.get(HOST, "/").await.status, 502);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_status_is_tried_again_over_http_2_too() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let rules = "  - retry: {codes: [503], attempts: 3}\n    backendRefs: [{name: shop, port: 80}]\n";
    let manifests = classes()
        + &service_with("shop", &[backend.address()], &[], "kubernetes.io/h2c")
        + &gateway("edge", "")
        + &http_route("shop", "edge", HOST, rules);
    let weir = Weir::start(&manifests).await;
    for (path, status, attempts) in [("/status/503", 503, 4), ("/status/500", 500, 1)] {
        let asked = request(Method::POST, HOST, path).body(full(vec![b'x'; 20_000])).unwrap();
        let answer = crate::harness::client::ask(&Target::plain(weir.http), asked).await.unwrap();
        assert_eq!((answer.status, backend.requests_for(path)), (status, attempts), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_reset_or_are_silent_are_asked_as_often_as_the_route_says() {
    let _turn = turn::beside_others().await;
    for silent in [false, true] {
        let heads = Arc::new(AtomicUsize::new(0));
        let counted = heads.clone();
        let backend = raw::backend(move |_, mut stream| {
            let counted = counted.clone();
            async move {
                if raw::head(&mut stream).await.is_none() {
                    return;
                }
                if counted.fetch_add(1, Ordering::SeqCst) == 3 {
                    let _ = stream.write_all(GOOD.as_bytes()).await;
                } else if !silent {
                    return raw::reset(stream);
                }
                // Until the other side has had enough.
                let _ = raw::head(&mut stream).await;
            }
        })
        .await;
        let weir = asking(backend, "retry: {attempts: 3}\n    timeouts: {backendRequest: 300ms}").await;
        let answer = weir.get(HOST, "/").await;
        assert_eq!((answer.status, heads.load(Ordering::SeqCst)), (200, 4), "silent: {silent}");
    }
}
