//! Requests over HTTP/2 to a backend that speaks HTTP/1: what would be a second request, or another one, there.

use super::frames::{
    CONTINUATION, Connection, DATA, END_HEADERS, END_STREAM, Field, HEADERS, PADDED, PRIORITY, PROTOCOL_ERROR,
    PUSH_PROMISE, StreamEnd, block, frame, headers,
};
use super::stage::{PATIENCE, Seen, Stage};
use crate::harness::turn;

/// What the client must get.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The stream is reset with this code; the connection goes on.
    Reset(u32),
    /// Weir's own answer with this status and reason; the connection goes on.
    Told(u16, &'static str),
    /// A status without words, from the protocol's own layer; the connection goes on.
    Status(u16),
    /// The backend's answer.
    Served,
    /// The connection ends with this code.
    Over(u32),
}

/// What is said on stream 1 of a new connection.
pub struct Case {
    pub what: &'static str,
    frames: Vec<u8>,
    end: End,
    seen: Seen,
}

const METHOD: Field<'static> = (b":method", b"GET");
const POST: Field<'static> = (b":method", b"POST");
const SCHEME: Field<'static> = (b":scheme", b"http");
const PATH: Field<'static> = (b":path", b"/x");
const AUTHORITY: Field<'static> = (b":authority", b"shop.example");
const WHOLE: [Field<'static>; 4] = [METHOD, SCHEME, PATH, AUTHORITY];

fn case(what: &'static str, frames: Vec<u8>, end: End, seen: Seen) -> Case {
    Case { what, frames, end, seen }
}

/// HEADERS with these fields alone.
fn only(what: &'static str, fields: &[Field<'_>], end: End) -> Case {
    case(what, headers(1, END_STREAM, fields), end, Seen::Nothing)
}

/// A whole GET with more fields that make it malformed.
fn malformed(what: &'static str, more: &[Field<'_>]) -> Case {
    only(what, &[&WHOLE, more].concat(), End::Reset(PROTOCOL_ERROR))
}

/// A whole GET with more fields that are none: to the library below a failure of the connection, which is stricter than
/// the failure of the stream that RFC 9113 section 8.1.1 asks for.
fn broken(what: &'static str, more: &[Field<'_>]) -> Case {
    only(what, &[&WHOLE, more].concat(), End::Over(PROTOCOL_ERROR))
}

/// A whole GET with one pseudo-header replaced.
fn with(what: &'static str, name: &str, value: impl AsRef<[u8]>, end: End) -> Case {
    let fields = WHOLE.map(|(is, was)| if is == name.as_bytes() { (is, value.as_ref()) } else { (is, was) });
    only(what, &fields, end)
}

/// A whole GET with more fields, and those of them that go on.
fn good(what: &'static str, more: &[Field<'_>], seen: &str) -> Case {
    let frames = headers(1, END_STREAM, &[&WHOLE, more].concat());
    case(what, frames, End::Served, Seen::one(format!("GET /x HTTP/1.1\r\nhost: shop.example\r\n{seen}\r\n")))
}

/// A POST with more fields, then these frames.
fn post(what: &'static str, more: &[Field<'_>], frames: &[Vec<u8>], end: End, seen: Seen) -> Case {
    let mut bytes = headers(1, 0, &[&[POST, SCHEME, PATH, AUTHORITY], more].concat());
    bytes.extend(frames.concat());
    case(what, bytes, end, seen)
}

fn data(flags: u8, bytes: &str) -> Vec<u8> {
    frame(DATA, flags, 1, bytes.as_bytes())
}

pub fn cases() -> Vec<Case> {
    let mut all = fields();
    all.extend(pseudo());
    all.extend(targets());
    all.extend(bodies());
    all.extend(sequences());
    all
}

fn fields() -> Vec<Case> {
    let bad = End::Told(400, "bad_request");
    let hidden = b"b\r\n\r\nGET /hidden HTTP/1.1\r\nhost: shop.example\r\n\r\n";
    let crumbs: Vec<Field<'_>> = std::iter::repeat_n((&b"cookie"[..], &b"a=b"[..]), 101).collect();
    let long = "x".repeat(40 * 1024);
    vec![
        malformed("connection", &[(b"connection", b"close")]),
        malformed("connection that names a header", &[(b"connection", b"x-a"), (b"x-a", b"b")]),
        malformed("keep-alive", &[(b"keep-alive", b"timeout=5")]),
        malformed("proxy-connection", &[(b"proxy-connection", b"keep-alive")]),
        malformed("transfer-encoding", &[(b"transfer-encoding", b"chunked")]),
        malformed("an upgrade", &[(b"upgrade", b"h2c")]),
        malformed("te other than trailers", &[(b"te", b"gzip")]),
        malformed("te with trailers and more", &[(b"te", b"trailers, gzip")]),
        broken("an upper-case name", &[(b"X-A", b"b")]),
        broken("Transfer-Encoding in capitals", &[(b"Transfer-Encoding", b"chunked")]),
        broken("an empty name", &[(b"", b"b")]),
        broken("a name with a blank", &[(b"x a", b"b")]),
        broken("a name with a colon", &[(b"x:a", b"b")]),
        broken("a name with a header in it", &[(b"x-a: b\r\ntransfer-encoding", b"chunked")]),
        broken("a name with a NUL", &[(b"x\0a", b"b")]),
        broken("a name beyond ASCII", &[("x-\u{00e4}".as_bytes(), b"b")]),
        broken("a value with CR", &[(b"x-a", b"b\rc")]),
        broken("a value with LF", &[(b"x-a", b"b\nc")]),
        broken("a value with NUL", &[(b"x-a", b"b\0c")]),
        broken("a value with a header in it", &[(b"x-a", b"b\r\ntransfer-encoding: chunked")]),
        broken("a value with a request in it", &[(b"x-a", hidden)]),
        broken("a value with DEL", &[(b"x-a", b"b\x7fc")]),
        only("a value after a blank", &[&WHOLE[..], &[(b"x-a", b" b")]].concat(), bad),
        only("a value before a tab", &[&WHOLE[..], &[(b"x-a", b"b\t")]].concat(), bad),
        only(
            "an expectation that nobody knows",
            &[&WHOLE[..], &[(b"expect", b"miracles")]].concat(),
            End::Told(417, "expectation_failed"),
        ),
        only("101 crumbs of a cookie", &[&WHOLE[..], &crumbs].concat(), End::Told(431, "header_too_large")),
        only("a header list over the limit", &[&WHOLE[..], &[(b"x-a", long.as_bytes())]].concat(), End::Status(431)),
        good("te with trailers", &[(b"te", b"trailers")], "te: trailers\r\nconnection: te\r\n"),
        good(
            "crumbs of a cookie",
            &[(b"cookie", b"a=b"), (b"x-a", b"b"), (b"cookie", b"c=d")],
            "cookie: a=b; c=d\r\nx-a: b\r\n",
        ),
        good("a name with an underscore", &[(b"x_a", b"b"), (b"content_length", b"9"), (b"x-a", b"b")], "x-a: b\r\n"),
        good("names that Weir writes itself", &[(b"x-forwarded-for", b"6.6.6.6"), (b"x-real-ip", b"6.6.6.6")], ""),
        good(
            "headers that end at HTTP/1",
            &[(b"http2-settings", b"AA"), (b"trailer", b"x"), (b"x-a", b"b")],
            "x-a: b\r\n",
        ),
        good("an expectation without a body", &[(b"expect", b"100-continue")], ""),
        good("an empty value", &[(b"x-a", b"")], "x-a: \r\n"),
        good("a value beyond ASCII", &[(b"x-a", "\u{00e4}".as_bytes())], "x-a: \u{00e4}\r\n"),
    ]
}

fn pseudo() -> Vec<Case> {
    let reset = End::Reset(PROTOCOL_ERROR);
    let over = End::Over(PROTOCOL_ERROR);
    let bad = End::Told(400, "bad_request");
    vec![
        only("no fields at all", &[], reset),
        only("no :method", &[SCHEME, PATH, AUTHORITY], reset),
        only("no :scheme", &[METHOD, PATH, AUTHORITY], reset),
        only("no :path", &[METHOD, SCHEME, AUTHORITY], reset),
        only("no :authority and no host", &[METHOD, SCHEME, PATH], bad),
        malformed("two :methods", &[METHOD]),
        only("two :methods in a row", &[METHOD, METHOD, SCHEME, PATH, AUTHORITY], reset),
        only("two :methods that differ", &[METHOD, (b":method", b"POST"), SCHEME, PATH, AUTHORITY], reset),
        only("two :schemes", &[METHOD, SCHEME, SCHEME, PATH, AUTHORITY], reset),
        only("two :paths", &[METHOD, SCHEME, PATH, (b":path", b"/hidden"), AUTHORITY], reset),
        only("two :authorities", &[METHOD, SCHEME, PATH, AUTHORITY, (b":authority", b"other.example")], reset),
        only("a late pseudo-header", &[METHOD, SCHEME, AUTHORITY, (b"x-a", b"b"), PATH], reset),
        broken("a pseudo-header that nobody knows", &[(b":hidden", b"b")]),
        malformed("a pseudo-header of responses", &[(b":status", b"200")]),
        malformed(":protocol without CONNECT", &[(b":protocol", b"websocket")]),
        broken("a pseudo-header without a name", &[(b":", b"b")]),
        broken("an upper-case pseudo-header", &[(b":Path", b"/hidden")]),
        with("an empty :method", ":method", "", over),
        with(
            "a :method with a request in it",
            ":method",
            "GET /hidden HTTP/1.1\r\nhost: shop.example\r\n\r\nGET",
            over,
        ),
        with("a :method with a blank", ":method", "GET /hidden", over),
        with("a :method with a tab", ":method", "GET\t", over),
        with("a :method with LF", ":method", "GET\n", over),
        with("TRACE", ":method", "TRACE", End::Told(405, "method_not_allowed")),
        with("CONNECT with :scheme and :path", ":method", "CONNECT", reset),
        only(
            "CONNECT",
            &[(b":method", b"CONNECT"), (b":authority", b"shop.example:443")],
            End::Told(405, "method_not_allowed"),
        ),
        with("an empty :scheme", ":scheme", "", bad),
        with("a :scheme that is not HTTP", ":scheme", "ftp", bad),
        with("a :scheme with a URL in it", ":scheme", "http://other.example/x", reset),
        with("a :scheme with CR LF", ":scheme", "http\r\n", reset),
    ]
}

fn targets() -> Vec<Case> {
    let reset = End::Reset(PROTOCOL_ERROR);
    let bad = End::Told(400, "bad_request");
    let named = |what, host: &'static [u8], end| only(what, &[METHOD, SCHEME, PATH, AUTHORITY, (b"host", host)], end);
    let at = |what, path: &str, seen: &str| {
        let frames = headers(1, END_STREAM, &[METHOD, SCHEME, (b":path", path.as_bytes()), AUTHORITY]);
        case(what, frames, End::Served, Seen::one(format!("GET {seen} HTTP/1.1\r\nhost: shop.example\r\n\r\n")))
    };
    vec![
        with("an empty :path", ":path", "", reset),
        with("* for GET", ":path", "*", bad),
        with("an absolute :path", ":path", "http://other.example/hidden", reset),
        with("a :path without a slash", ":path", "x", reset),
        with("a :path with a blank", ":path", "/x HTTP/1.1", reset),
        with("a :path with a request in it", ":path", "/x HTTP/1.1\r\nhost: a\r\n\r\nGET /hidden", reset),
        with("a :path with CR LF", ":path", "/x\r\n", reset),
        with("a :path with NUL", ":path", "/x\0", reset),
        with("a :path with a tab", ":path", "/x\t", reset),
        with("a :path beyond ASCII", ":path", "/\u{00e4}", bad),
        with("a query beyond ASCII", ":path", "/x?\u{00e4}", bad),
        with("a :path with an encoded NUL", ":path", "/x%00", bad),
        with("a :path with an encoded CR LF", ":path", "/x%0d%0a", bad),
        with("a :path with a backslash", ":path", "/x\\y", bad),
        with("a :path with a broken encoding", ":path", "/x%zz", bad),
        with("an empty :authority", ":authority", "", reset),
        with("an :authority with userinfo", ":authority", "user@shop.example", bad),
        with("an :authority with a blank", ":authority", "shop.example evil", reset),
        with("an :authority with CR LF", ":authority", "shop.example\r\nx-a: b", reset),
        with("an :authority with a path", ":authority", "shop.example/x", reset),
        with("an :authority with a bad port", ":authority", "shop.example:8x", bad),
        with("an :authority with a port too large", ":authority", "shop.example:65536", bad),
        with("an :authority that nobody serves", ":authority", "other.example", End::Told(404, "no_route")),
        named("a host that differs", b"other.example", bad),
        named("a host with another port", b"shop.example:80", bad),
        named("an empty host", b"", bad),
        only("two hosts", &[METHOD, SCHEME, PATH, (b"host", b"shop.example"), (b"host", b"shop.example")], bad),
        only("a host with userinfo", &[METHOD, SCHEME, PATH, (b"host", b"user@shop.example")], bad),
        good("a host that agrees", &[(b"host", b"SHOP.example")], ""),
        case(
            "a host alone",
            headers(1, END_STREAM, &[METHOD, SCHEME, PATH, (b"host", b"shop.example")]),
            End::Served,
            Seen::one("GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n"),
        ),
        at("dot segments", "/a/../%2e%2e/b?c=/../d", "/b?c=/../d"),
        at("an encoded slash", "/a%2fb", "/a%2fb"),
        at("a URL in the path", "//other.example/x", "/other.example/x"),
        // What the library below has read of it is all there is.
        at("a fragment", "/x#y", "/x"),
    ]
}

fn bodies() -> Vec<Case> {
    let reset = End::Reset(PROTOCOL_ERROR);
    let over = End::Over(PROTOCOL_ERROR);
    let bad = End::Told(400, "bad_request");
    let length = |value: &'static [u8]| (&b"content-length"[..], value);
    let seen =
        |framing: &str, body: &str| Seen::one(format!("POST /x HTTP/1.1\r\nhost: shop.example\r\n{framing}\r\n{body}"));
    // A head with its length may have been forwarded before the disagreement; then its connection is closed.
    let unfinished = |framing: &str| Seen::Unfinished {
        head: format!("POST /x HTTP/1.1\r\nhost: shop.example\r\n{framing}\r\n"),
        data: String::new(),
    };
    let trailers = |fields: &[Field<'_>]| headers(1, END_STREAM, fields);
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        post(
            "less DATA than content-length",
            &[length(b"5")],
            &[data(END_STREAM, "hel")],
            reset,
            unfinished("content-length: 5\r\n"),
        ),
        post(
            "more DATA than content-length",
            &[length(b"5")],
            &[data(END_STREAM, "hello!")],
            reset,
            unfinished("content-length: 5\r\n"),
        ),
        post(
            "more DATA than content-length, later",
            &[length(b"5")],
            &[data(0, "hel"), data(END_STREAM, "lo!")],
            reset,
            unfinished("content-length: 5\r\n"),
        ),
        post("DATA beside content-length 0", &[length(b"0")], &[data(END_STREAM, "hello")], reset, Seen::Nothing),
        post(
            "a content-length and no DATA",
            &[length(b"5")],
            &[data(END_STREAM, "")],
            reset,
            unfinished("content-length: 5\r\n"),
        ),
        malformed("a content-length and no stream", &[length(b"5")]),
        post("a signed content-length", &[length(b"+5")], &[data(END_STREAM, "hello")], reset, Seen::Nothing),
        post("a list of content-lengths", &[length(b"5, 5")], &[data(END_STREAM, "hello")], reset, Seen::Nothing),
        post("an empty content-length", &[length(b"")], &[data(END_STREAM, "hello")], reset, Seen::Nothing),
        post(
            "a content-length that overflows",
            &[length(b"18446744073709551621")],
            &[data(END_STREAM, "hello")],
            reset,
            Seen::Nothing,
        ),
        post(
            "two content-lengths that agree",
            &[length(b"5"), length(b"5")],
            &[data(END_STREAM, "hello")],
            bad,
            Seen::Nothing,
        ),
        post(
            "two content-lengths that differ",
            &[length(b"5"), length(b"6")],
            &[data(END_STREAM, "hello")],
            reset,
            Seen::Nothing,
        ),
        post("a content-length after a blank", &[length(b" 5")], &[data(END_STREAM, "hello")], reset, Seen::Nothing),
        // The library below drops them without a word (RFC 9113 section 8.1 calls the request malformed).
        post(
            "a pseudo-header in trailers",
            &[],
            &[data(0, "hello"), trailers(&[(b":path", b"/hidden")])],
            End::Served,
            seen(chunked, "5\r\nhello\r\n0\r\n\r\n"),
        ),
        post(
            "a :status in trailers",
            &[],
            &[data(0, "hello"), trailers(&[(b":status", b"200")])],
            End::Served,
            seen(chunked, "5\r\nhello\r\n0\r\n\r\n"),
        ),
        post("an upper-case trailer", &[], &[data(0, "hello"), trailers(&[(b"X-A", b"b")])], over, unfinished(chunked)),
        post(
            "a trailer with CR LF",
            &[],
            &[data(0, "hello"), trailers(&[(b"x-a", b"b\r\n\r\nGET /hidden HTTP/1.1")])],
            over,
            unfinished(chunked),
        ),
        post(
            "connection in trailers",
            &[],
            &[data(0, "hello"), trailers(&[(b"connection", b"close")])],
            reset,
            unfinished(chunked),
        ),
        post(
            "trailers that do not end the stream",
            &[],
            &[data(0, "hello"), headers(1, 0, &[(b"x-a", b"b")])],
            reset,
            unfinished(chunked),
        ),
        post(
            "a body with its length",
            &[length(b"005")],
            &[data(END_STREAM, "hello")],
            End::Served,
            seen("content-length: 5\r\n", "hello"),
        ),
        post(
            "a body without a length",
            &[],
            &[data(0, "hel"), data(END_STREAM, "lo")],
            End::Served,
            seen(chunked, "5\r\nhello\r\n0\r\n\r\n"),
        ),
        post(
            "a body that looks like chunks",
            &[],
            &[data(END_STREAM, "0\r\n\r\nGET")],
            End::Served,
            seen(chunked, "8\r\n0\r\n\r\nGET\r\n0\r\n\r\n"),
        ),
        post(
            "a body with padding",
            &[length(b"5")],
            &[frame(DATA, PADDED | END_STREAM, 1, b"\x03hello\0\0\0")],
            End::Served,
            seen("content-length: 5\r\n", "hello"),
        ),
        post(
            "content-length 0 and an end that comes later",
            &[length(b"0")],
            &[data(END_STREAM, "")],
            End::Served,
            seen("content-length: 0\r\n", ""),
        ),
        post("an empty body", &[], &[data(END_STREAM, "")], End::Served, seen(chunked, "0\r\n\r\n")),
        post(
            "a trailer",
            &[],
            &[data(0, "hello"), trailers(&[(b"x-sum", b"7")])],
            End::Served,
            seen(chunked, "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
        ),
        post(
            "trailers that frame",
            &[],
            &[data(0, "hello"), trailers(&[(b"content-length", b"0"), (b"host", b"evil"), (b"x-sum", b"7")])],
            End::Served,
            seen(chunked, "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
        ),
        post(
            "trailers about who asks",
            &[],
            &[
                data(0, "hello"),
                trailers(&[
                    (b"authorization", b"x"),
                    (b"x-forwarded-for", b"6.6.6.6"),
                    (b"x_real_ip", b"6.6.6.6"),
                    (b"x-sum", b"7"),
                ]),
            ],
            End::Served,
            seen(chunked, "5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
        ),
    ]
}

fn sequences() -> Vec<Case> {
    let over = End::Over(PROTOCOL_ERROR);
    let get = || headers(1, END_STREAM, &WHOLE);
    let whole = || block(&WHOLE);
    let seen = || Seen::one("GET /x HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    let half = whole().len() / 2;
    let prioritised = |on: u32| [&on.to_be_bytes()[..], &[0], &whole()].concat();
    vec![
        case("HEADERS on stream 0", headers(0, END_STREAM, &WHOLE), over, Seen::Nothing),
        case("HEADERS on a stream of the server's", headers(2, END_STREAM, &WHOLE), over, Seen::Nothing),
        case("DATA on a stream that is not open", frame(DATA, END_STREAM, 1, b"hello"), over, Seen::Nothing),
        case(
            "PUSH_PROMISE from a client",
            [headers(1, 0, &WHOLE), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &whole()].concat())]
                .concat(),
            over,
            Seen::Unfinished {
                head: "GET /x HTTP/1.1\r\nhost: shop.example\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
                data: String::new(),
            },
        ),
        case("CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, &whole()), over, Seen::Nothing),
        case(
            "another frame within HEADERS",
            [frame(HEADERS, END_STREAM, 1, &whole()[..half]), frame(DATA, 0, 1, b"")].concat(),
            over,
            Seen::Nothing,
        ),
        case(
            "CONTINUATION of another stream",
            [frame(HEADERS, END_STREAM, 1, &whole()[..half]), frame(CONTINUATION, END_HEADERS, 3, &whole()[half..])]
                .concat(),
            over,
            Seen::Nothing,
        ),
        case(
            "an index of the table that is not there",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0x50]),
            over,
            Seen::Nothing,
        ),
        case("index 0", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0x80]), over, Seen::Nothing),
        case(
            "a literal that is cut off",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &whole()[..half]),
            over,
            Seen::Nothing,
        ),
        case(
            "a stream that depends on itself",
            frame(HEADERS, END_STREAM | END_HEADERS | PRIORITY, 1, &prioritised(1)),
            End::Reset(PROTOCOL_ERROR),
            Seen::Nothing,
        ),
        case("a frame over its size", frame(DATA, 0, 1, &[0; 17 * 1024]), End::Over(6), Seen::Nothing),
        case(
            "HEADERS in two frames",
            [frame(HEADERS, END_STREAM, 1, &whole()[..half]), frame(CONTINUATION, END_HEADERS, 1, &whole()[half..])]
                .concat(),
            End::Served,
            seen(),
        ),
        case(
            "HEADERS with a priority",
            frame(HEADERS, END_STREAM | END_HEADERS | PRIORITY, 1, &prioritised(0)),
            End::Served,
            seen(),
        ),
        case("the same request, honestly", get(), End::Served, seen()),
    ]
}

/// Plays a case, then an honest stream on the same connection; says what is not as it should be.
async fn play(stage: &mut Stage, case: &Case) -> Result<(), String> {
    let before = stage.backend.messages().len();
    let next = stage.fresh("next");
    let mut connection = Connection::open(stage.weir.http).await;
    connection.send(&case.frames).await;
    let end = connection.end_of(1, PATIENCE).await?;
    let local =
        |status: u16, reason: &str| StreamEnd::Answered { status, body: format!("{status} {reason}\n").into_bytes() };
    let right = match case.end {
        End::Reset(code) => end == StreamEnd::Reset(code),
        End::Told(status, reason) => end == local(status, reason),
        End::Status(status) => end == StreamEnd::Answered { status, body: Vec::new() },
        End::Served => matches!(&end, StreamEnd::Answered { status: 200, body } if body.starts_with(b"/")),
        End::Over(code) => end == StreamEnd::Over(Some(code)),
    };
    if !right {
        return Err(format!("ended with {end:?}, not {:?}", case.end));
    }
    let goes_on = !matches!(case.end, End::Over(_));
    if goes_on {
        connection.send(&headers(3, END_STREAM, &[METHOD, SCHEME, (b":path", next.as_bytes()), AUTHORITY])).await;
        let end = connection.end_of(3, PATIENCE).await?;
        if end != (StreamEnd::Answered { status: 200, body: next.clone().into_bytes() }) {
            return Err(format!("the next stream ended with {end:?}"));
        }
    }
    stage.judge(before, &case.seen, goes_on.then_some(&*next)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_http2_is_forwarded_as_it_was_understood_or_refused_and_never_completed() {
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
