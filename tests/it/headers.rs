//! What requests and responses carry, and what ends at the edge.

use http::Method;

use crate::harness::backend::Backend;
use crate::harness::client::{self, H1, Target, empty, full, request};
use crate::harness::raw;
use crate::harness::scene::{self, HOST, shop};
use crate::harness::turn;
use crate::harness::weir::Weir;
use crate::routing::header_of;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_headers_tell_the_truth_and_replace_what_strangers_say() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let host = format!("{HOST}:{}", weir.http.port());
    let asked = request(Method::GET, &host, "/head")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "evil.example")
        .header("x-real-ip", "6.6.6.6")
        .header("x-request-id", "from-a-stranger")
        .body(empty())
        .unwrap();
    let head = client::ask(&Target::plain(weir.http), asked).await.unwrap().json();
    assert_eq!(header_of(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header_of(&head, "x-real-ip"), ["127.0.0.1"]);
    assert_eq!(header_of(&head, "x-forwarded-proto"), ["http"]);
    assert_eq!(header_of(&head, "x-forwarded-port"), [weir.http.port().to_string()]);
    assert!(header_of(&head, "x-forwarded-host")[0].starts_with(HOST), "{head}");
    let id = header_of(&head, "x-request-id");
    assert!(id.len() == 1 && !id[0].is_empty() && id[0] != "from-a-stranger", "{head}");
    assert_eq!(header_of(&head, "host"), [host]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_headers_of_a_trusted_peer_are_kept() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir =
        Weir::builder().file("main.yaml", &shop(&backend)).settings("trusted_proxies: [127.0.0.0/8]\n").start().await;
    let asked = request(Method::GET, HOST, "/head")
        .header("x-forwarded-for", "192.0.2.7")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "from-a-friend")
        .body(empty())
        .unwrap();
    let head = client::ask(&Target::plain(weir.http), asked).await.unwrap().json();
    let chain = header_of(&head, "x-forwarded-for").join(",");
    assert!(chain.starts_with("192.0.2.7"), "{head}");
    assert_eq!(header_of(&head, "x-real-ip"), ["192.0.2.7"]);
    assert_eq!(header_of(&head, "x-forwarded-proto"), ["https"]);
    assert_eq!(header_of(&head, "x-request-id"), ["from-a-friend"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hop_by_hop_headers_end_here_in_both_directions() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let asked = b"GET /head HTTP/1.1\r\nHost: shop.example\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
                  Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-End: 2\r\n\r\n";
    let mut stream = tokio::net::TcpStream::connect(weir.http).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, asked).await.unwrap();
    let reply = String::from_utf8(raw::read_response(&mut stream).await).unwrap();
    let head: serde_json::Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    for gone in ["x-hop", "keep-alive", "proxy-connection"] {
        assert!(header_of(&head, gone).is_empty(), "{gone}: {head}");
    }
    assert_eq!(header_of(&head, "x-end"), ["2"]);
    assert!(!header_of(&head, "te").contains(&"gzip".to_owned()), "{head}");

    let back = raw::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Inner\r\nX-Inner: 1\r\nX-Outer: 2\r\nProxy-Authenticate: no\r\n\
          Keep-Alive: timeout=9\r\n\r\nok",
    )
    .await;
    let weir = weir_before(back).await;
    let answer = weir.get(HOST, "/").await;
    assert_eq!((answer.header("x-inner"), answer.header("keep-alive"), answer.header("x-outer")), ("", "", "2"));
}

/// Weir in front of one address, at [`HOST`].
pub async fn weir_before(address: std::net::SocketAddr) -> Weir {
    use crate::harness::manifests::{classes, ingress, service};
    Weir::start(&(classes() + &service("shop", &[address]) + &ingress("shop", HOST, "/", "shop"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_cannot_name_end_to_end_headers() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let asked =
        b"GET /head HTTP/1.1\r\nHost: shop.example\r\nConnection: close, Cookie, Authorization, X-Forwarded-For\r\n\
                  Cookie: a=b\r\nAuthorization: Basic eA==\r\n\r\n";
    let reply = raw::exchange(weir.http, asked, std::time::Duration::from_secs(5)).await;
    if reply.status() == 400 {
        return;
    }
    let text = reply.text();
    let head: serde_json::Value =
        serde_json::from_str(&text[text.find('{').unwrap()..=text.rfind('}').unwrap()]).unwrap();
    assert_eq!(header_of(&head, "cookie"), ["a=b"]);
    assert_eq!(header_of(&head, "authorization"), ["Basic eA=="]);
    assert_eq!(header_of(&head, "x-forwarded-for"), ["127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_headers_keep_their_order_and_cookies_their_crumbs() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut builder = request(Method::GET, HOST, "/head");
    for value in ["one", "two", "three"] {
        builder = builder.header("x-many", value);
    }
    let head = client::ask(&Target::plain(weir.http), builder.body(empty()).unwrap()).await.unwrap().json();
    assert_eq!(header_of(&head, "x-many"), ["one", "two", "three"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_with_underscores_are_dropped() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let asked =
        request(Method::GET, HOST, "/head").header("x_sneaky", "1").header("x-plain", "2").body(empty()).unwrap();
    let head = client::ask(&Target::plain(weir.http), asked).await.unwrap().json();
    assert!(header_of(&head, "x_sneaky").is_empty(), "{head}");
    assert_eq!(header_of(&head, "x-plain"), ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_in_both_directions() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let asked = b"POST /sink HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                  5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";
    let mut stream = tokio::net::TcpStream::connect(weir.http).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, asked).await.unwrap();
    let reply = String::from_utf8(raw::read_response(&mut stream).await).unwrap();
    assert!(reply.contains("\"bytes\":5"), "{reply}");
    assert!(reply.contains("[\"x-sum\",\"7\"]"), "{reply}");
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let asked = request(Method::GET, HOST, "/trailers").header("te", "trailers").body(empty()).unwrap();
    let answer = connection.ask(asked).await.unwrap();
    assert_eq!(answer.text(), "with trailers\n");
    assert_eq!(answer.trailers.unwrap()["x-sum"], "42");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_204_and_304_have_no_body_and_the_connection_lives_on() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let answer = connection.ask(request(Method::HEAD, HOST, "/bytes/1000").body(empty()).unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, "1000", 0));
    for status in [204, 304] {
        let answer = connection.get(HOST, &format!("/status/{status}")).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
    assert_eq!(connection.get(HOST, "/").await.unwrap().text(), "blue ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_continue_is_told_to_go_on() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut stream = tokio::net::TcpStream::connect(weir.http).await.unwrap();
    let head = b"POST /sink HTTP/1.1\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, head).await.unwrap();
    let go_on = raw::read_until(&mut stream, "100 Continue", |bytes| raw::find(bytes, b"\r\n\r\n").is_some()).await;
    assert!(go_on.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&go_on));
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
    let reply = String::from_utf8(raw::read_response(&mut stream).await).unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("\"bytes\":5"), "{reply}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_clients_are_served() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let reply =
        raw::exchange(weir.http, b"GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n", std::time::Duration::from_secs(5))
            .await;
    assert!(reply.closed && reply.status() == 200, "{reply:?}");
    assert!(!reply.text().to_ascii_lowercase().contains("transfer-encoding"), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut bytes = Vec::new();
    for token in 0..20 {
        // The first ones are the slowest.
        let path = if token < 2 { "/slow/50" } else { "/x" };
        let close = if token == 19 { "Connection: close\r\n" } else { "" };
        bytes.extend(format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\nX-Token: t{token}\r\n{close}\r\n").bytes());
    }
    let reply = raw::exchange(weir.http, &bytes, std::time::Duration::from_secs(5)).await;
    assert_eq!(reply.statuses(), [200; 20], "{}", reply.text());
    let text = reply.text();
    let places: Vec<_> = (2..20).map(|token| text.find(&format!("blue t{token}")).unwrap()).collect();
    assert!(places.is_sorted(), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_each_framing_arrives_whole() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut connection = H1::connect(&Target::plain(weir.http)).await.unwrap();
    for size in [0usize, 1, 1000, 65_535, 65_536, 1_000_000] {
        let body: Vec<u8> = (0..size).map(|index| index as u8).collect();
        let sized = request(Method::POST, HOST, "/echo").body(full(body.clone())).unwrap();
        assert_eq!(connection.ask(sized).await.unwrap().body, body, "Content-Length {size}");
        let mut chunked =
            format!("POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
                .into_bytes();
        for chunk in body.chunks(1013) {
            // Extensions are few: all of them together have a limit.
            let note = if chunked.len() < 4096 { ";note=1" } else { "" };
            chunked.extend(format!("{:x}{note}\r\n", chunk.len()).bytes());
            chunked.extend(chunk);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let reply = raw::exchange(weir.http, &chunked, std::time::Duration::from_secs(10)).await;
        assert_eq!(reply.status(), 200, "chunked {size}: {}", reply.text());
        assert_eq!(decoded(&reply.bytes), body, "chunked {size}");
    }
}

/// The body of a raw response, whatever its framing.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let end = raw::find(bytes, b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let mut rest = &bytes[end + 4..];
    if !head.contains("transfer-encoding: chunked") {
        return rest.to_vec();
    }
    let mut body = Vec::new();
    loop {
        let line = raw::find(rest, b"\r\n").unwrap();
        let size =
            usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap().split(';').next().unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}
