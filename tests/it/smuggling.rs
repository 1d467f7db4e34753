//! What Weir understood is what it forwards; what it would have to guess about is refused, and the backend sees nothing.

use std::time::Duration;

use crate::harness::raw::{self, Recorder};
use crate::harness::turn;
use crate::harness::weir::Weir;
use crate::headers::weir_before;

const PATIENCE: Duration = Duration::from_secs(3);

/// A request that must be refused: what it is, its bytes, and the statuses that are right.
struct Bad {
    what: &'static str,
    bytes: Vec<u8>,
    statuses: &'static [u16],
}

fn bad(what: &'static str, bytes: impl AsRef<[u8]>, statuses: &'static [u16]) -> Bad {
    Bad { what, bytes: bytes.as_ref().to_vec(), statuses }
}

/// A `POST` with these header lines and a body that a parser which guesses would take for another request.
fn framed(what: &'static str, lines: &str) -> Bad {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    bad(what, format!("POST /x HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n\r\n0\r\n\r\n{hidden}"), &[400])
}

/// A `GET` with one more header line.
fn line(what: &'static str, line: &str) -> Bad {
    bad(what, format!("GET /x HTTP/1.1\r\nHost: shop.example\r\n{line}\r\n\r\n"), &[400])
}

fn heads() -> Vec<Bad> {
    let host = "Host: shop.example\r\n";
    vec![
        framed("Content-Length and Transfer-Encoding", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        framed("Transfer-Encoding and Content-Length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
        framed("Content-Length 0 and Transfer-Encoding", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
        framed("two Content-Lengths that differ", "Content-Length: 5\r\nContent-Length: 6"),
        framed("two Content-Lengths that agree", "Content-Length: 5\r\nContent-Length: 5"),
        framed("a list of Content-Lengths", "Content-Length: 5, 5"),
        framed("a signed Content-Length", "Content-Length: +5"),
        framed("a negative Content-Length", "Content-Length: -5"),
        framed("a hexadecimal Content-Length", "Content-Length: 0x5"),
        framed("a Content-Length with a fraction", "Content-Length: 5.0"),
        framed("an empty Content-Length", "Content-Length: "),
        framed("a Content-Length with a blank inside", "Content-Length: 1 2"),
        framed("a Content-Length with an underscore", "Content-Length: 1_0"),
        framed("a Content-Length that overflows", "Content-Length: 18446744073709551617"),
        framed("a Content-Length of other digits", "Content-Length: \u{0665}"),
        framed("an unknown transfer coding", "Transfer-Encoding: xchunked"),
        framed("chunked, identity", "Transfer-Encoding: chunked, identity"),
        framed("identity, chunked", "Transfer-Encoding: identity, chunked"),
        framed("identity", "Transfer-Encoding: identity"),
        framed("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        framed("chunked twice in a list", "Transfer-Encoding: chunked, chunked"),
        framed("chunked twice in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        framed("chunked and identity in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        framed("chunked in quotes", "Transfer-Encoding: \"chunked\""),
        framed("chunked with a parameter", "Transfer-Encoding: chunked;q=1"),
        framed("chunked after a comma", "Transfer-Encoding: ,chunked"),
        framed("chunked with a vertical tab", "Transfer-Encoding: \x0bchunked"),
        framed("chunked with a NUL", "Transfer-Encoding: chunked\0"),
        framed("an empty Transfer-Encoding", "Transfer-Encoding: "),
        framed("a blank before the colon", "Transfer-Encoding : chunked"),
        framed("a tab before the colon", "Content-Length\t: 5"),
        framed("a folded Transfer-Encoding", "Transfer-Encoding:\r\n chunked"),
        bad(
            "Transfer-Encoding in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            &[400],
        ),
        bad("bare LF line ends", "GET /x HTTP/1.1\nHost: shop.example\n\n", &[400]),
        bad("one bare LF", "GET /x HTTP/1.1\r\nHost: shop.example\nX-A: b\r\n\r\n", &[400]),
        bad("a bare CR", "GET /x HTTP/1.1\r\nHost: shop.example\rX-A: b\r\n\r\n", &[400]),
        bad("a head that ends with LF LF", "GET /x HTTP/1.1\r\nHost: shop.example\r\n\n", &[400]),
        line("a bare CR in a value", "X-A: b\rc"),
        line("a NUL in a value", "X-A: b\0c"),
        line("a control byte in a value", "X-A: b\x01c"),
        line("DEL in a value", "X-A: b\x7fc"),
        line("a NUL in a name", "X-\0A: b"),
        line("an empty name", ": b"),
        line("a name with a blank", "X A: b"),
        line("a name with a slash", "X/A: b"),
        line("a name in another script", "X-\u{00e4}: b"),
        line("a line without a colon", "X-A b"),
        line("a folded line", "X-A: b\r\n c"),
        bad("a first line that is folded", format!("GET /x HTTP/1.1\r\n X-A: b\r\n{host}\r\n"), &[400]),
        bad("no Host", "GET /x HTTP/1.1\r\n\r\n", &[400]),
        line("two Hosts that agree", "Host: shop.example"),
        line("two Hosts that differ", "Host: other.example"),
        bad("an empty Host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", &[400]),
        bad("a Host with userinfo", "GET /x HTTP/1.1\r\nHost: user@shop.example\r\n\r\n", &[400]),
        bad("a Host with a blank", "GET /x HTTP/1.1\r\nHost: shop .example\r\n\r\n", &[400]),
        bad("a Host with a path", "GET /x HTTP/1.1\r\nHost: shop.example/x\r\n\r\n", &[400]),
        bad("a Host with a bad port", "GET /x HTTP/1.1\r\nHost: shop.example:8x\r\n\r\n", &[400]),
        bad("a Host with a port too large", "GET /x HTTP/1.1\r\nHost: shop.example:65536\r\n\r\n", &[400]),
        bad("a list of Hosts", "GET /x HTTP/1.1\r\nHost: shop.example, other.example\r\n\r\n", &[400]),
        bad("a target with another host", format!("GET http://other.example/x HTTP/1.1\r\n{host}\r\n"), &[400, 404]),
        bad("a target with userinfo", format!("GET http://a@shop.example/x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("two blanks before the target", format!("GET  /x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("two blanks before the version", format!("GET /x  HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a tab in the request line", format!("GET\t/x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a blank at the end of the request line", format!("GET /x HTTP/1.1 \r\n{host}\r\n"), &[400]),
        bad("a blank before the method", format!(" GET /x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a blank in the target", format!("GET /x y HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a fragment", format!("GET /x#y HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a control byte in the target", format!("GET /x\x01 HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a backslash in the path", format!("GET /x\\y HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("an encoded NUL", format!("GET /x%00 HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("an encoded LF", format!("GET /x%0ay HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a broken percent-encoding", format!("GET /x%zz HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a target without a slash", format!("GET x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a path above the root", format!("GET /../../x%2e HTTP/1.1\r\n{host}\r\n"), &[400, 200]),
        bad("HTTP/0.9", "GET /x\r\n\r\n", &[400, 505]),
        bad("HTTP/1.2", format!("GET /x HTTP/1.2\r\n{host}\r\n"), &[505, 400]),
        bad("HTTP/2.0 in a request line", format!("GET /x HTTP/2.0\r\n{host}\r\n"), &[505, 400]),
        bad("http in lower case", format!("GET /x http/1.1\r\n{host}\r\n"), &[400, 505]),
        bad("no version number", format!("GET /x HTTP/\r\n{host}\r\n"), &[400, 505]),
        bad("a method with a control byte", format!("G\x01T /x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad("a method that is no token", format!("G(T /x HTTP/1.1\r\n{host}\r\n"), &[400]),
        bad(
            "a method of 33 bytes",
            format!("{} /x HTTP/1.1\r\n{host}\r\n", "A".repeat(33)),
            &[400, 405, 414, 431, 501],
        ),
        bad("CONNECT", format!("CONNECT shop.example:443 HTTP/1.1\r\n{host}\r\n"), &[405, 400]),
        bad("TRACE", format!("TRACE /x HTTP/1.1\r\n{host}\r\n"), &[405]),
        bad("an expectation that nobody knows", format!("GET /x HTTP/1.1\r\n{host}Expect: miracles\r\n\r\n"), &[417]),
        bad("a target over the limit", format!("GET /{} HTTP/1.1\r\n{host}\r\n", "x".repeat(17 * 1024)), &[414]),
        bad(
            "a value over the limit",
            format!("GET /x HTTP/1.1\r\n{host}X-A: {}\r\n\r\n", "x".repeat(33 * 1024)),
            &[431],
        ),
        bad("101 fields", format!("GET /x HTTP/1.1\r\n{host}{}\r\n", "X-A: b\r\n".repeat(100)), &[431]),
        bad("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[400, 0]),
        bad("bytes of no protocol", b"\x00\x01\x02\x03\r\n\r\n", &[400, 0]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubtful_head_is_refused_closed_and_never_forwarded() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    let mut wrong = Vec::new();
    let cases = heads();
    let count = cases.len();
    assert!(count >= 60, "{count} cases");
    for case in cases {
        let before = recorder.seen().len();
        let reply = raw::exchange(weir.http, &case.bytes, PATIENCE).await;
        let statuses = reply.statuses();
        // A status of 200 is among the right ones only where what is forwarded has one meaning.
        let forwarded = recorder.seen()[before..].to_vec();
        let status = reply.status();
        if !case.statuses.contains(&status) {
            wrong.push(format!("{}: {statuses:?}, expected one of {:?}", case.what, case.statuses));
        } else if status != 200 && !forwarded.is_empty() {
            wrong.push(format!("{}: the backend saw {:?}", case.what, String::from_utf8_lossy(&forwarded)));
        } else if status != 200 && !reply.closed && !matches!(status, 404 | 405 | 417) {
            wrong.push(format!("{}: {status}, but the connection stayed open", case.what));
        } else if statuses.len() > 1 {
            wrong.push(format!("{}: {} answers", case.what, statuses.len()));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} cases:\n  {}", wrong.len(), wrong.join("\n  "));
    println!("{count} doubtful heads refused");
    well(&weir).await;
}

/// A good request after all that is served.
async fn well(weir: &Weir) {
    let reply =
        raw::exchange(weir.http, b"GET /well HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", PATIENCE)
            .await;
    assert_eq!((reply.status(), reply.closed), (200, true), "{}", reply.text());
}

/// Chunked bodies that cannot be understood in one way only. Each would hide a request from somebody.
const BODIES: &[(&str, &str)] = &[
    ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
    ("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
    ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("a blank before the size", " 5\r\nhello\r\n0\r\n\r\n"),
    ("a size of 17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("a size that overflows", "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n"),
    ("an empty size", "\r\nhello\r\n0\r\n\r\n"),
    ("a size that is no number", "five\r\nhello\r\n0\r\n\r\n"),
    ("a size ended by LF", "5\nhello\r\n0\r\n\r\n"),
    ("a size ended by CR", "5\rhello\r\n0\r\n\r\n"),
    ("no line end after the data", "5\r\nhello0\r\n\r\n"),
    ("LF after the data", "5\r\nhello\n0\r\n\r\n"),
    ("two bytes too many", "5\r\nhelloXX\r\n0\r\n\r\n"),
    ("an extension with LF", "5;a=b\nc\r\nhello\r\n0\r\n\r\n"),
    ("an extension with CR", "5;a=b\rc\r\nhello\r\n0\r\n\r\n"),
    ("a last chunk ended by LF", "5\r\nhello\r\n0\n\n"),
    ("a trailer with a bare LF", "5\r\nhello\r\n0\r\nX-A: b\n\r\n"),
    ("a trailer without a colon", "5\r\nhello\r\n0\r\nX-A b\r\n\r\n"),
    ("a trailer with a blank before the colon", "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubtful_chunk_ends_the_request_and_both_connections() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    let mut wrong = Vec::new();
    let mut bodies: Vec<(&str, String)> = BODIES.iter().map(|(what, body)| (*what, (*body).to_owned())).collect();
    bodies.push(("extensions of more than 256 bytes", format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300))));
    let many = "1;aaaaaaaaaaaaaaaa\r\nx\r\n".repeat(30);
    bodies.push(("extensions of more than 256 bytes in sum", format!("{many}0\r\n\r\n")));
    bodies.push(("trailers of more than 4 KiB", format!("5\r\nhello\r\n0\r\nX-A: {}\r\n\r\n", "x".repeat(5000))));
    for (what, body) in &bodies {
        let hidden = "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n";
        let bytes =
            format!("POST /doubt HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}{hidden}");
        let before = recorder.seen().len();
        let reply = raw::exchange(weir.http, bytes.as_bytes(), PATIENCE).await;
        let forwarded = String::from_utf8_lossy(&recorder.seen()[before..]).into_owned();
        if !reply.closed {
            wrong.push(format!("{what}: {:?}, but the connection stayed open", reply.statuses()));
        } else if reply.statuses().len() > 1 {
            wrong.push(format!("{what}: {:?}", reply.statuses()));
        } else if forwarded.contains("/hidden") || forwarded.contains("0\r\n\r\n") {
            wrong.push(format!("{what}: the backend saw {forwarded:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n  {}", wrong.len(), bodies.len(), wrong.join("\n  "));
    well(&weir).await;
}

/// Responses that cannot be understood in one way only.
const RESPONSES: &[(&str, &[u8])] = &[
    ("both lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("two lengths that differ", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
    ("a signed length", b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
    ("an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("no response at all", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    ("a status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("a status of four digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
    ("a bare LF in the head", b"HTTP/1.1 200 OK\r\nX-A: b\nContent-Length: 2\r\n\r\nok"),
    ("a NUL in a value", b"HTTP/1.1 200 OK\r\nX-A: b\0\r\nContent-Length: 2\r\n\r\nok"),
    ("a folded line", b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok"),
    ("a blank before the colon", b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
    ("a head that breaks off", b"HTTP/1.1 200 OK\r\nContent-Le"),
    ("nothing", b""),
    (
        "an upgrade that nobody asked for",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ),
    ("another version", b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubtful_response_becomes_502() {
    let _turn = turn::beside_others().await;
    let mut wrong = Vec::new();
    for (what, response) in RESPONSES {
        let weir = weir_before(raw::answering_once(response).await).await;
        // A POST, so that nothing is tried again.
        let asked = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let reply = raw::exchange(weir.http, asked, PATIENCE).await;
        if reply.statuses() != [502] {
            wrong.push(format!("{what}: {:?} {}", reply.statuses(), reply.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n  "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_interim_responses_or_a_huge_head_becomes_502() {
    let _turn = turn::beside_others().await;
    let asked = b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let flood: &'static [u8] = Box::leak(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000).into_boxed_slice());
    let reply = raw::exchange(weir_before(raw::answering_once(flood).await).await.http, asked, PATIENCE).await;
    assert_eq!(reply.statuses().last(), Some(&502), "{} answers", reply.statuses().len());
    assert!(reply.statuses().len() < 1000, "{} interim responses were passed on", reply.statuses().len());
    let huge = format!("HTTP/1.1 200 OK\r\nX-A: {}\r\nContent-Length: 2\r\n\r\nok", "x".repeat(1 << 20)).into_bytes();
    let reply = raw::exchange(weir_before(raw::answering_once(huge.leak()).await).await.http, asked, PATIENCE).await;
    assert_eq!(reply.statuses(), [502]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_breaks_off_is_never_passed_on_as_whole() {
    let _turn = turn::beside_others().await;
    for response in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n+1\r\nx\r\n0\r\n\r\n",
    ] {
        let response: &'static [u8] = response;
        let weir = weir_before(raw::answering_once(response).await).await;
        let reply = raw::exchange(weir.http, b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n", PATIENCE).await;
        assert!(reply.closed || reply.status() == 502, "{}", reply.text());
        let text = reply.text();
        let whole =
            text.ends_with("0\r\n\r\n") || text.contains("ontent-length: 4") || text.contains("ontent-Length: 4");
        assert!(reply.status() == 502 || !whole, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_after_a_response_are_not_taken_for_the_next_one() {
    let _turn = turn::beside_others().await;
    let poisoned = raw::answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngoodHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    )
    .await;
    let weir = weir_before(poisoned).await;
    for _ in 0..20 {
        let reply =
            raw::exchange(weir.http, b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n", PATIENCE)
                .await;
        assert!(!reply.text().contains("evil"), "{}", reply.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_normalised_once_and_forwarded_as_matched() {
    let _turn = turn::beside_others().await;
    let recorder = Recorder::start().await;
    let weir = weir_before(recorder.address).await;
    for (sent, forwarded) in [
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2e/b", "/b"),
        ("/%61bc", "/abc"),
        ("/a%2fb", "/a%2fb"),
        ("/a;x=1", "/a;x=1"),
        ("/a/..;/b", "/a/..;/b"),
        ("/a?x=/../b", "/a?x=/../b"),
    ] {
        let before = recorder.seen().len();
        let asked = format!("GET {sent} HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n");
        assert_eq!(raw::exchange(weir.http, asked.as_bytes(), PATIENCE).await.status(), 200, "{sent}");
        let seen = String::from_utf8_lossy(&recorder.seen()[before..]).into_owned();
        let target = seen.split(' ').nth(1).unwrap_or("");
        assert!(target.eq_ignore_ascii_case(forwarded), "{sent} became {target}, expected {forwarded}");
    }
}
