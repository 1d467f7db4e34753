//! Heads of HTTP/1 requests.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::stage::{PATIENCE, Seen, Stage, read_all};
use crate::harness::raw;
use crate::harness::scene::HOST;
use crate::harness::turn;

/// What the client must get.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Weir's own answer with this status and reason; then the connection is closed.
    Refused(u16, &'static str),
    /// Weir's own answer; the connection goes on.
    Told(u16, &'static str),
    /// The backend's; the connection goes on.
    Served,
    /// The backend's; the connection is closed, whatever follows.
    ServedLast,
    /// No answer; the connection is closed.
    Silence,
}

/// One request as raw bytes.
pub struct Case {
    pub what: &'static str,
    pub sent: Vec<u8>,
    pub answer: Answer,
    pub seen: Seen,
    /// Nothing follows it.
    alone: bool,
}

/// 400, and nothing at the backend.
fn bad(what: &'static str, sent: impl AsRef<[u8]>) -> Case {
    other(what, sent, 400, "bad_request")
}

fn other(what: &'static str, sent: impl AsRef<[u8]>, status: u16, reason: &'static str) -> Case {
    Case {
        what,
        sent: sent.as_ref().to_vec(),
        answer: Answer::Refused(status, reason),
        seen: Seen::Nothing,
        alone: false,
    }
}

/// A `POST` with these header lines and a body that a parser which guesses would take for another request.
fn framed(what: &'static str, lines: &str) -> Case {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    bad(what, format!("POST /x HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n\r\n0\r\n\r\n{hidden}"))
}

/// A `GET` with one more header line.
fn line(what: &'static str, line: &str) -> Case {
    bad(what, format!("GET /x HTTP/1.1\r\nHost: shop.example\r\n{line}\r\n\r\n"))
}

/// A `GET` with this target.
fn target(what: &'static str, target: &str) -> Case {
    bad(what, format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n"))
}

/// A `GET` with this Host line instead of the right one.
fn host(what: &'static str, line: &str) -> Case {
    bad(what, format!("GET /x HTTP/1.1\r\n{line}\r\n"))
}

/// A whole request with what the backend must see of it.
fn good(what: &'static str, sent: impl AsRef<[u8]>, seen: &str) -> Case {
    Case { what, sent: sent.as_ref().to_vec(), answer: Answer::Served, seen: Seen::one(seen), alone: false }
}

/// A `GET` with more header lines, and those of them that go on.
fn lines(what: &'static str, lines: &str, seen: &str) -> Case {
    good(
        what,
        format!("GET /x HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n"),
        &format!("GET /x HTTP/1.1\r\nhost: shop.example\r\n{seen}\r\n"),
    )
}

/// A `GET` whose target is brought into its normal form.
fn normal(what: &'static str, target: &str, seen: &str) -> Case {
    good(
        what,
        format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        &format!("GET {seen} HTTP/1.1\r\nhost: shop.example\r\n\r\n"),
    )
}

pub fn cases() -> Vec<Case> {
    let mut all = framing();
    all.extend(line_ends_and_fields());
    all.extend(hosts());
    all.extend(request_lines());
    all.extend(paths());
    all.extend(limits());
    all.extend(connections());
    all.extend(pipelines());
    all
}

fn framing() -> Vec<Case> {
    let post = |lines: &str, body: &str| format!("POST /x HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n{body}");
    let seen = |lines: &str, body: &str| format!("POST /x HTTP/1.1\r\nhost: shop.example\r\n{lines}\r\n{body}");
    vec![
        framed("Content-Length and Transfer-Encoding", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
        framed("Transfer-Encoding and Content-Length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
        framed("Content-Length 0 and Transfer-Encoding", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
        framed("both, in a GET", "Content-Length: 5\r\nTransfer-Encoding: chunked").with_method("GET"),
        framed("two Content-Lengths that differ", "Content-Length: 5\r\nContent-Length: 6"),
        framed("two Content-Lengths that agree", "Content-Length: 5\r\nContent-Length: 5"),
        framed("two Content-Lengths apart", "Content-Length: 5\r\nX-A: b\r\ncontent-length: 6"),
        framed("a list of Content-Lengths", "Content-Length: 5, 5"),
        framed("a Content-Length and a comma", "Content-Length: 5,"),
        framed("a signed Content-Length", "Content-Length: +5"),
        framed("a negative Content-Length", "Content-Length: -5"),
        framed("a negative zero", "Content-Length: -0"),
        framed("a hexadecimal Content-Length", "Content-Length: 0x5"),
        framed("a Content-Length with a fraction", "Content-Length: 5.0"),
        framed("a Content-Length with an exponent", "Content-Length: 1e1"),
        framed("an empty Content-Length", "Content-Length: "),
        framed("a Content-Length with a blank inside", "Content-Length: 1 2"),
        framed("a Content-Length with an underscore", "Content-Length: 1_0"),
        framed("a Content-Length in quotes", "Content-Length: \"5\""),
        framed("a Content-Length with a NUL", "Content-Length: 5\0"),
        framed("a Content-Length with a vertical tab", "Content-Length: \x0b5"),
        framed("a Content-Length behind a tab", "Content-Length:\t5"),
        framed("a Content-Length that overflows", "Content-Length: 18446744073709551617"),
        framed("a Content-Length of other digits", "Content-Length: \u{0665}"),
        framed("an unknown transfer coding", "Transfer-Encoding: xchunked"),
        framed("a coding that begins like chunked", "Transfer-Encoding: chunkedx"),
        framed("chunked, identity", "Transfer-Encoding: chunked, identity"),
        framed("identity, chunked", "Transfer-Encoding: identity, chunked"),
        framed("identity", "Transfer-Encoding: identity"),
        framed("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        framed("chunked twice in a list", "Transfer-Encoding: chunked, chunked"),
        framed("chunked twice in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        framed("chunked and identity in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        framed("identity and chunked in two lines", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        framed("chunked in quotes", "Transfer-Encoding: \"chunked\""),
        framed("chunked in single quotes", "Transfer-Encoding: 'chunked'"),
        framed("chunked with a parameter", "Transfer-Encoding: chunked;q=1"),
        framed("chunked after a comma", "Transfer-Encoding: ,chunked"),
        framed("chunked before a comma", "Transfer-Encoding: chunked,"),
        framed("chunked after a tab", "Transfer-Encoding:\tchunked"),
        framed("chunked before a tab", "Transfer-Encoding: chunked\t"),
        framed("chunked with a vertical tab", "Transfer-Encoding: \x0bchunked"),
        framed("chunked with a form feed", "Transfer-Encoding: chunked\x0c"),
        framed("chunked with a NUL", "Transfer-Encoding: chunked\0"),
        framed("chunked with a no-break space", "Transfer-Encoding: \u{a0}chunked"),
        framed("an empty Transfer-Encoding", "Transfer-Encoding: "),
        framed("a blank before the colon", "Transfer-Encoding : chunked"),
        framed("a tab before the colon", "Content-Length\t: 5"),
        framed("a folded Transfer-Encoding", "Transfer-Encoding:\r\n chunked"),
        framed("a folded Content-Length", "Content-Length: 1\r\n\t0"),
        framed("a vertical tab in the name", "Transfer\x0bEncoding: chunked"),
        framed(
            "a name that ends with a blank, before another",
            "X-A: b\r\nTransfer-Encoding : chunked\r\nContent-Length: 5",
        ),
        framed("a blank before the name", "X-A: b\r\n Transfer-Encoding: chunked"),
        bad(
            "Transfer-Encoding in HTTP/1.0",
            "POST /x HTTP/1.0\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        good(
            "a Content-Length with leading zeros",
            post("Content-Length: 005\r\n", "hello"),
            &seen("content-length: 5\r\n", "hello"),
        ),
        good(
            "a Content-Length in a strange case",
            post("cOnTeNt-LeNgTh:5\r\n", "hello"),
            &seen("content-length: 5\r\n", "hello"),
        ),
        good(
            "Chunked in capitals",
            post("TRANSFER-ENCODING: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"),
            &seen("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ),
        good(
            "a coding under a name with an underscore",
            post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
            &seen("content-length: 5\r\n", "0\r\n\r\n"),
        ),
        good(
            "a length under a name with an underscore",
            post("Content_Length: 50\r\nContent-Length: 5\r\n", "hello"),
            &seen("content-length: 5\r\n", "hello"),
        ),
        good(
            "a body that looks like a request",
            post("Content-Length: 38\r\n", "GET /hidden HTTP/1.1\r\nHost: shop.ex\r\n\r"),
            &seen("content-length: 38\r\n", "GET /hidden HTTP/1.1\r\nHost: shop.ex\r\n\r"),
        ),
        good(
            "a GET with a body that looks like a request",
            "GET /x HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 24\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n",
            "GET /x HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 24\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n",
        ),
        good("a POST without a length", post("", ""), &seen("content-length: 0\r\n", "")),
    ]
}

fn line_ends_and_fields() -> Vec<Case> {
    vec![
        bad("bare LF line ends", "GET /x HTTP/1.1\nHost: shop.example\n\n"),
        bad("one bare LF", "GET /x HTTP/1.1\r\nHost: shop.example\nX-A: b\r\n\r\n"),
        bad("a bare LF after the request line", "GET /x HTTP/1.1\nHost: shop.example\r\n\r\n"),
        bad("a bare CR", "GET /x HTTP/1.1\r\nHost: shop.example\rX-A: b\r\n\r\n"),
        bad("a bare CR after the request line", "GET /x HTTP/1.1\rHost: shop.example\r\n\r\n"),
        bad("a head that ends with LF LF", "GET /x HTTP/1.1\r\nHost: shop.example\r\n\n"),
        bad("a head that ends with LF CR LF", "GET /x HTTP/1.1\r\nHost: shop.example\n\r\n"),
        bad("CR CR LF", "GET /x HTTP/1.1\r\nHost: shop.example\r\r\n\r\n"),
        bad("an empty line of LF first", "\nGET /x HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        line("a bare CR in a value", "X-A: b\rc"),
        line("a NUL in a value", "X-A: b\0c"),
        line("a control byte in a value", "X-A: b\x01c"),
        line("an escape in a value", "X-A: b\x1bc"),
        line("DEL in a value", "X-A: b\x7fc"),
        line("a NUL in a name", "X-\0A: b"),
        line("an empty name", ": b"),
        line("a name with a blank", "X A: b"),
        line("a name with a slash", "X/A: b"),
        line("a name in quotes", "\"X-A\": b"),
        line("a name in another script", "X-\u{00e4}: b"),
        line("a line without a colon", "X-A b"),
        line("a folded line", "X-A: b\r\n c"),
        line("a line folded with a tab", "X-A: b\r\n\tc"),
        bad("a first line that is folded", "GET /x HTTP/1.1\r\n X-A: b\r\nHost: shop.example\r\n\r\n"),
        good(
            "an empty line before the request",
            "\r\nGET /x HTTP/1.1\r\nHost: shop.example\r\n\r\n",
            "GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        ),
        lines("blanks around a value", "X-A: \t b \t \r\n", "X-A: b\r\n"),
        lines("an empty value", "X-A:\r\n", "X-A: \r\n"),
        lines("a value beyond ASCII", "X-A: \u{00e4}\r\n", "X-A: \u{00e4}\r\n"),
        lines("a name with an underscore", "X_Forwarded_For: 6.6.6.6\r\nX-A: b\r\n", "X-A: b\r\n"),
        lines("an underscore first", "_: b\r\n", ""),
        lines(
            "a name that Weir writes itself",
            "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Request-ID: mine\r\n",
            "",
        ),
        lines(
            "the same, twice and in a strange case",
            "x-FORWARDED-for: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-REAL-ip: 6.6.6.6\r\n",
            "",
        ),
        lines(
            "a scheme, a host and a port that are not",
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Port: 1\r\n",
            "",
        ),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        bad("no Host", "GET /x HTTP/1.1\r\n\r\n"),
        line("two Hosts that agree", "Host: shop.example"),
        line("two Hosts that differ", "Host: other.example"),
        host("an empty Host", "Host:\r\n"),
        host("a Host with userinfo", "Host: user@shop.example\r\n"),
        host("a Host with a password", "Host: user:secret@shop.example\r\n"),
        host("a Host with a blank", "Host: shop .example\r\n"),
        host("a Host with a tab", "Host: shop\t.example\r\n"),
        host("a Host with a path", "Host: shop.example/x\r\n"),
        host("a Host with a query", "Host: shop.example?x\r\n"),
        host("a Host with a fragment", "Host: shop.example#x\r\n"),
        host("a Host with a backslash", "Host: shop.example\\@evil.example\r\n"),
        host("a Host with a bad port", "Host: shop.example:8x\r\n"),
        host("a Host with an empty port", "Host: shop.example:\r\n"),
        host("a Host with a port too large", "Host: shop.example:65536\r\n"),
        host("a Host with two ports", "Host: shop.example:80:80\r\n"),
        host("a Host with a signed port", "Host: shop.example:+80\r\n"),
        host("a list of Hosts", "Host: shop.example, other.example\r\n"),
        host("a Host with a broken bracket", "Host: [::1\r\n"),
        host("a Host with an address that is none", "Host: [::1::2]\r\n"),
        host("a Host with a percent-encoding", "Host: shop%2eexample\r\n"),
        host("a Host with a scheme", "Host: http://shop.example\r\n"),
        host("a Host beyond ASCII", "Host: sh\u{00f6}p.example\r\n"),
        host("a Host with a NUL", "Host: shop.example\0.evil.example\r\n"),
        host("a blank before the colon of Host", "Host : shop.example\r\n"),
        host("a folded Host", "Host: shop.example\r\n .evil\r\n"),
        target("a target with another host", "http://other.example/x"),
        target("a target with another port", "http://shop.example:81/x"),
        target("a target with userinfo", "http://a@shop.example/x"),
        target("a target without a host", "http:///x"),
        target("a target of another scheme", "ftp://shop.example/x"),
        target("an authority as a target", "shop.example:80"),
        good(
            "a target with the same host",
            "GET http://Shop.example/x?y=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n",
            "GET /x?y=1 HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        ),
        good(
            "a target with a host and no path",
            "GET http://shop.example?y=1 HTTP/1.1\r\nHost: shop.example\r\n\r\n",
            "GET /?y=1 HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        ),
        good(
            "a Host in capitals with a port",
            "GET /x HTTP/1.1\r\nHost: SHOP.Example:80\r\n\r\n",
            "GET /x HTTP/1.1\r\nhost: shop.example:80\r\n\r\n",
        ),
        Case {
            what: "a Host that nobody serves",
            sent: b"GET /x HTTP/1.1\r\nHost: other.example\r\n\r\n".to_vec(),
            answer: Answer::Told(404, "no_route"),
            seen: Seen::Nothing,
            alone: false,
        },
        Case {
            what: "HTTP/1.0 without a Host",
            sent: b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec(),
            answer: Answer::Told(404, "no_route"),
            seen: Seen::Nothing,
            alone: false,
        },
    ]
}

fn request_lines() -> Vec<Case> {
    let h = "Host: shop.example\r\n";
    vec![
        bad("two blanks before the target", format!("GET  /x HTTP/1.1\r\n{h}\r\n")),
        bad("two blanks before the version", format!("GET /x  HTTP/1.1\r\n{h}\r\n")),
        bad("a tab in the request line", format!("GET\t/x HTTP/1.1\r\n{h}\r\n")),
        bad("a tab before the version", format!("GET /x\tHTTP/1.1\r\n{h}\r\n")),
        bad("a vertical tab in the request line", format!("GET\x0b/x HTTP/1.1\r\n{h}\r\n")),
        bad("a blank at the end of the request line", format!("GET /x HTTP/1.1 \r\n{h}\r\n")),
        bad("a blank before the method", format!(" GET /x HTTP/1.1\r\n{h}\r\n")),
        bad("a blank in the target", format!("GET /x y HTTP/1.1\r\n{h}\r\n")),
        bad("a request in the target", format!("GET /x HTTP/1.1 HTTP/1.1\r\n{h}\r\n")),
        bad("HTTP/0.9", "GET /x\r\n\r\n"),
        bad("HTTP/0.9 with a header", format!("GET /x\r\n{h}\r\n")),
        other("HTTP/1.2", format!("GET /x HTTP/1.2\r\n{h}\r\n"), 505, "version_not_supported"),
        other("HTTP/2.0 in a request line", format!("GET /x HTTP/2.0\r\n{h}\r\n"), 505, "version_not_supported"),
        other("HTTP/0.9 in words", format!("GET /x HTTP/0.9\r\n{h}\r\n"), 505, "version_not_supported"),
        bad("HTTP/1.10", format!("GET /x HTTP/1.10\r\n{h}\r\n")),
        bad("HTTP/01.1", format!("GET /x HTTP/01.1\r\n{h}\r\n")),
        bad("HTTP/1,1", format!("GET /x HTTP/1,1\r\n{h}\r\n")),
        bad("HTTP/1", format!("GET /x HTTP/1\r\n{h}\r\n")),
        bad("http in lower case", format!("GET /x http/1.1\r\n{h}\r\n")),
        bad("no version number", format!("GET /x HTTP/\r\n{h}\r\n")),
        bad("another protocol", format!("GET /x SHTTP/1.1\r\n{h}\r\n")),
        bad("a method with a control byte", format!("G\x01T /x HTTP/1.1\r\n{h}\r\n")),
        bad("a method that is no token", format!("G(T /x HTTP/1.1\r\n{h}\r\n")),
        bad("an empty method", format!("/x HTTP/1.1\r\n{h}\r\n")),
        other("CONNECT", format!("CONNECT shop.example:443 HTTP/1.1\r\n{h}\r\n"), 405, "method_not_allowed"),
        other("CONNECT of a path", format!("CONNECT /x HTTP/1.1\r\n{h}\r\n"), 405, "method_not_allowed"),
        other("TRACE", format!("TRACE /x HTTP/1.1\r\n{h}\r\n"), 405, "method_not_allowed"),
        bad("* for another method", format!("GET * HTTP/1.1\r\n{h}\r\n")),
        bad("the preface of HTTP/2, broken", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")
            .with(Answer::Refused(505, "version_not_supported")),
        bad("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        bad("bytes of no protocol", b"\x00\x01\x02\x03\r\n\r\n"),
        bad("a response", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        good(
            "a method that nobody knows",
            format!("BREW /x HTTP/1.1\r\n{h}\r\n"),
            "BREW /x HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        ),
        good(
            "a method in lower case",
            format!("get /x HTTP/1.1\r\n{h}\r\n"),
            "get /x HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        ),
    ]
}

fn paths() -> Vec<Case> {
    vec![
        target("a fragment", "/x#y"),
        target("a control byte in the target", "/x\x01"),
        target("a NUL in the target", "/x\0"),
        target("DEL in the target", "/x\x7f"),
        target("a byte beyond ASCII in the target", "/x\u{00e4}"),
        target("a backslash in the path", "/x\\y"),
        target("an encoded NUL", "/x%00"),
        target("an encoded LF", "/x%0ay"),
        target("an encoded CR LF and a header", "/x%0d%0aX-A:%20b"),
        target("an encoded DEL", "/x%7f"),
        target("a broken percent-encoding", "/x%zz"),
        target("a percent sign at the end", "/x%"),
        target("half a percent-encoding at the end", "/x%4"),
        target("a percent sign in UTF-16", "/x%u002e"),
        target("a target without a slash", "x"),
        target("a target of a question mark", "?x"),
        normal("a path above the root", "/../../x", "/x"),
        normal("an encoded path above the root", "/%2e%2e/%2E./x", "/x"),
        normal("a dot segment", "/a/./b", "/a/b"),
        normal("two dots", "/a/../b", "/b"),
        normal("two dots at the end", "/a/b/..", "/a/"),
        normal("two encoded dots", "/a/%2e%2e/b", "/b"),
        normal("an encoded letter", "/%61bc", "/abc"),
        normal("an encoded slash", "/a%2fb", "/a%2fb"),
        normal("an encoded slash among dots", "/a/..%2fb", "/a/..%2fb"),
        normal("an encoded backslash", "/a%5cb", "/a%5cb"),
        normal("an encoding of an encoding", "/a%252e%252e/b", "/a%252e%252e/b"),
        normal("a semicolon", "/a;x=1", "/a;x=1"),
        normal("dots and a semicolon", "/a/..;/b", "/a/..;/b"),
        normal("dots in a query", "/a?x=/../b", "/a?x=/../b"),
        normal("control bytes in a query stay encoded", "/a?x=%0d%0a%00", "/a?x=%0d%0a%00"),
        normal("a second question mark", "/a?x?y", "/a?x?y"),
        normal("a scheme in the path", "/http://other.example/", "/http:/other.example/"),
        normal("two slashes first", "//other.example/x", "/other.example/x"),
    ]
}

fn limits() -> Vec<Case> {
    let h = "Host: shop.example\r\n";
    let x = |count: usize| "x".repeat(count);
    vec![
        bad("a method of 33 bytes", format!("{} /x HTTP/1.1\r\n{h}\r\n", "A".repeat(33))),
        bad("a method that never ends", "A".repeat(100)).alone(),
        other("a target over the limit", format!("GET /{} HTTP/1.1\r\n{h}\r\n", x(16 * 1024)), 414, "target_too_long"),
        other("a target that never ends", format!("GET /{}", x(20 * 1024)), 414, "target_too_long").alone(),
        other(
            "a value over the limit",
            format!("GET /x HTTP/1.1\r\n{h}X-A: {}\r\n\r\n", x(33 * 1024)),
            431,
            "header_too_large",
        ),
        other(
            "a value that never ends",
            format!("GET /x HTTP/1.1\r\n{h}X-A: {}", x(40 * 1024)),
            431,
            "header_too_large",
        )
        .alone(),
        other("a name that never ends", format!("GET /x HTTP/1.1\r\n{h}{}", x(40 * 1024)), 431, "header_too_large")
            .alone(),
        other("101 fields", format!("GET /x HTTP/1.1\r\n{h}{}\r\n", "X-A: b\r\n".repeat(100)), 431, "header_too_large"),
        other(
            "1,000 fields",
            format!("GET /x HTTP/1.1\r\n{h}{}\r\n", "X-A: b\r\n".repeat(999)),
            431,
            "header_too_large",
        ),
        lines("100 fields", &"X-A: b\r\n".repeat(99), &"X-A: b\r\n".repeat(99)),
        lines(
            "a value at the limit",
            &format!("X-A: {}\r\n", x(32 * 1024 - 100)),
            &format!("X-A: {}\r\n", x(32 * 1024 - 100)),
        ),
        normal("a target at the limit", &format!("/{}", x(16 * 1024 - 1)), &format!("/{}", x(16 * 1024 - 1))),
        good(
            "a method of 32 bytes",
            format!("{} /x HTTP/1.1\r\n{h}\r\n", "A".repeat(32)),
            &format!("{} /x HTTP/1.1\r\nhost: shop.example\r\n\r\n", "A".repeat(32)),
        ),
    ]
}

fn connections() -> Vec<Case> {
    let named = |what, name: &str| {
        bad(
            what,
            format!("GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, {name}\r\nCookie: a=b\r\n\r\n"),
        )
    };
    vec![
        named("Connection names Host", "Host"),
        named("Connection names a cookie", "cookie"),
        named("Connection names authorization", "AUTHORIZATION"),
        named("Connection names a forwarding header", "X-Forwarded-For"),
        named("Connection names a header of identity", "X-Real-IP"),
        named("Connection names the length", "Content-Length"),
        named("Connection names what is no token", "a b"),
        lines("Connection names a header of its own", "Connection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n", "X-End: 2\r\n"),
        lines(
            "Connection in two lines",
            "Connection: X-Hop\r\nConnection: X-Hop-2\r\nX-Hop: 1\r\nX-Hop-2: 1\r\nX-End: 2\r\n",
            "X-End: 2\r\n",
        ),
        lines("Connection that is empty", "Connection: ,,\r\nX-End: 2\r\n", "X-End: 2\r\n"),
        lines(
            "headers of the connection",
            "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nTrailer: X-A\r\nHTTP2-Settings: AA\r\nUpgrade: websocket\r\nX-End: 2\r\n",
            "X-End: 2\r\n",
        ),
        lines("TE with trailers", "Connection: te\r\nTE: gzip, trailers\r\n", "te: trailers\r\nconnection: te\r\n"),
        lines(
            "an upgrade to HTTP/2",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            "",
        ),
        lines("an upgrade to HTTP/2 among others", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", ""),
        lines("an upgrade to HTTP", "Connection: Upgrade\r\nUpgrade: HTTP/1.1\r\n", ""),
        lines("two upgrades", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: echo/1\r\n", ""),
        lines("an upgrade that Connection does not name", "Upgrade: websocket\r\n", ""),
        good(
            "an upgrade with a body",
            "POST /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\nContent-Length: 5\r\n\r\nhello",
            "POST /x HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 5\r\n\r\nhello",
        ),
        lines(
            "an upgrade that the backend ignores",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "connection: upgrade\r\nupgrade: websocket\r\n",
        ),
        other(
            "an expectation that nobody knows",
            "GET /x HTTP/1.1\r\nHost: shop.example\r\nExpect: miracles\r\n\r\n",
            417,
            "expectation_failed",
        ),
        other(
            "an expectation and a half",
            "POST /x HTTP/1.1\r\nHost: shop.example\r\nExpect: 100-continue, x\r\nContent-Length: 5\r\n\r\nhello",
            417,
            "expectation_failed",
        ),
        other(
            "an empty expectation",
            "GET /x HTTP/1.1\r\nHost: shop.example\r\nExpect:\r\n\r\n",
            417,
            "expectation_failed",
        ),
        lines("an expectation without a body", "Expect: 100-continue\r\n", ""),
        Case {
            what: "a close",
            sent: b"GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n".to_vec(),
            answer: Answer::ServedLast,
            seen: Seen::one("GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n"),
            alone: false,
        },
        Case {
            what: "a close and a keep-alive",
            sent: b"GET /x HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive\r\nConnection: CLOSE\r\n\r\n"
                .to_vec(),
            answer: Answer::ServedLast,
            seen: Seen::one("GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n"),
            alone: false,
        },
        Case {
            what: "HTTP/1.0",
            sent: b"GET /x HTTP/1.0\r\nHost: shop.example\r\n\r\n".to_vec(),
            answer: Answer::ServedLast,
            seen: Seen::one("GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n"),
            alone: false,
        },
        Case {
            what: "HTTP/1.0 with Expect and a body",
            sent: b"POST /x HTTP/1.0\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
                .to_vec(),
            answer: Answer::ServedLast,
            seen: Seen::one("POST /x HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 5\r\n\r\nhello"),
            alone: false,
        },
        good(
            "HTTP/1.0 with keep-alive",
            "GET /x HTTP/1.0\r\nHost: shop.example\r\nConnection: keep-alive\r\n\r\n",
            "GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        ),
        Case {
            what: "HTTP/1.0 with an upgrade",
            sent: b"GET /x HTTP/1.0\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_vec(),
            answer: Answer::ServedLast,
            seen: Seen::one("GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n"),
            alone: false,
        },
    ]
}

fn pipelines() -> Vec<Case> {
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    let hidden = get("/hidden");
    let doubt = "GET /doubt HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    vec![
        bad("a request after a doubt", format!("{doubt}{hidden}")),
        bad("ten requests after a doubt", format!("{doubt}{}", hidden.repeat(10))),
        other("a request after CONNECT", format!("CONNECT shop.example:80 HTTP/1.1\r\nHost: shop.example:80\r\n\r\n{hidden}"), 405, "method_not_allowed"),
        other("a body after a 417", format!("POST /x HTTP/1.1\r\nHost: shop.example\r\nExpect: x\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()), 417, "expectation_failed"),
        bad("a body after a bad path", format!("POST /%00 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len())),
        bad("a body after a bad Connection", format!("POST /x HTTP/1.1\r\nHost: shop.example\r\nConnection: Cookie\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len())),
        Case {
            what: "a body after a 404",
            sent: format!("POST /x HTTP/1.1\r\nHost: other.example\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()).into_bytes(),
            answer: Answer::Told(404, "no_route"),
            seen: Seen::Nothing,
            alone: false,
        },
        Case {
            what: "a body in chunks after a 404",
            sent: format!("POST /x HTTP/1.1\r\nHost: other.example\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()).into_bytes(),
            answer: Answer::Told(404, "no_route"),
            seen: Seen::Nothing,
            alone: false,
        },
        Case {
            what: "a head that breaks off",
            sent: b"GET /x HTTP/1.1\r\nHost: shop.example\r\nX-A: ".to_vec(),
            answer: Answer::Silence,
            seen: Seen::Nothing,
            alone: true,
        },
    ]
}

impl Case {
    fn with(mut self, answer: Answer) -> Self {
        self.answer = answer;
        self
    }

    fn with_method(mut self, method: &str) -> Self {
        let rest = self.sent.split_off(self.sent.iter().position(|&byte| byte == b' ').unwrap());
        self.sent = [method.as_bytes(), &rest].concat();
        self
    }

    fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// Sends a case and a request behind it; says what is not as it should be.
async fn play(stage: &mut Stage, case: &Case) -> Result<(), String> {
    let before = stage.backend.messages().len();
    let next = stage.fresh("next");
    let mut stream = TcpStream::connect(stage.weir.http).await.unwrap();
    let mut bytes = case.sent.clone();
    let silence = matches!(case.answer, Answer::Silence);
    if !case.alone {
        bytes.extend(format!("GET {next} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").bytes());
    }
    // A refusal may come, and the connection go, before everything is written; what was said can still be read.
    let _ = stream.write_all(&bytes).await;
    if silence {
        let _ = stream.shutdown().await;
    }
    let reply = raw::read(&mut stream, PATIENCE).await;
    let answers = read_all(&reply.bytes, &[])?;
    let wrong = Err(format!("got {answers:?}, closed: {}", reply.closed));
    if !reply.closed {
        return wrong;
    }
    let is_next =
        |at: usize| answers.get(at).is_some_and(|answer| answer.status == 200 && answer.body == next.as_bytes());
    let from_backend = answers.first().is_some_and(|answer| answer.status == 200 && answer.whole);
    let (right, goes_on) = match case.answer {
        Answer::Refused(status, reason) => (answers.len() == 1 && answers[0].is_local(status, reason), false),
        Answer::Told(status, reason) => (answers.len() == 2 && answers[0].is_local(status, reason) && is_next(1), true),
        Answer::Served => (answers.len() == 2 && from_backend && is_next(1), true),
        Answer::ServedLast => (answers.len() == 1 && from_backend && !is_next(0), false),
        Answer::Silence => (answers.is_empty(), false),
    };
    if !right {
        return wrong;
    }
    if !goes_on && !silence && answers[0].field("connection") != Some("close") {
        return Err(format!("the end was not announced: {answers:?}"));
    }
    stage.judge(before, &case.seen, goes_on.then_some(&*next)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_forwarded_as_it_was_understood_or_refused_and_never_seen() {
    let _turn = turn::beside_others().await;
    let mut stage = Stage::start().await;
    let mut wrong = Vec::new();
    let cases = cases();
    for case in &cases {
        if let Err(why) = play(&mut stage, case).await {
            wrong.push(format!("{}: {why}", case.what));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n  {}", wrong.len(), cases.len(), wrong.join("\n  "));
    assert!(stage.backend.messages().iter().all(|message| message.target() != "/hidden"));
}
