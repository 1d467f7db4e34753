//! Where Weir and hyper may disagree, and why Weir is right, or why it does not matter. A row holds for the messages that
//! its predicate describes and for no others; its example shows that the disagreement still exists.

use crate::facts::Facts;
use crate::transcript::Kind::{self, Differs, OnlyOurs, OnlyTheirs};

/// A judged disagreement.
pub struct Judged {
    /// Of what kind.
    pub kind: Kind,
    /// Who is right, and by what.
    pub why: &'static str,
    /// Which messages it is about.
    pub holds: fn(&Facts) -> bool,
    /// A stream whose first disagreement this row, and no other one, explains. `{long}` stands for 5,000 letters,
    /// `{wide}` for 40,000.
    pub example: &'static str,
}

/// Decimal digits that fit into 64 bits.
fn is_number(text: &[u8]) -> bool {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits && str::from_utf8(text).is_ok_and(|text| text.parse::<u64>().is_ok())
}

/// One of the two greatest numbers of 64 bits.
fn is_greatest(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok_and(|text| text.parse::<u64>().is_ok_and(|number| number >= u64::MAX - 1))
}

/// A list of numbers, which hyper takes for one when they are equal.
fn is_equal_list(text: &[u8]) -> bool {
    text.contains(&b',') && text.split(|byte| *byte == b',').all(|item| is_number(item.trim_ascii()))
}

/// Disagreements about requests.
pub const REQUESTS: &[Judged] = &[
    Judged {
        kind: OnlyTheirs,
        why: "a bare LF ends no line: RFC 9112 section 2.2 lets it be taken for one, which two parsers do differently",
        holds: |facts| facts.has_bare_line_feed(),
        example: "GET / HTTP/1.1\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "only a few empty lines before a request line are overlooked (RFC 9112 section 2.2: at least one)",
        holds: |facts| facts.empty > 8,
        example: "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a tab around the value of Content-Length or Transfer-Encoding: white space that some parsers do not take for it",
        holds: |facts| facts.tab_around_framing,
        example: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t5\r\n\r\nhello",
    },
    Judged {
        kind: OnlyTheirs,
        why: "Content-Length beside Transfer-Encoding is how requests are smuggled (RFC 9112 section 6.1: may be refused)",
        holds: |facts| facts.has("content-length") && facts.has("transfer-encoding"),
        example: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "Content-Length more than once, though equal (RFC 9110 section 8.6: may be refused)",
        holds: |facts| facts.all("content-length").len() > 1,
        example: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a coding that Weir does not know, or chunked twice, under a final chunked (RFC 9112 section 6.1)",
        holds: |facts| !facts.is_plainly_chunked(),
        example: "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "no Host in HTTP/1.1 (RFC 9112 section 3.2: 400)",
        holds: |facts| !facts.has("host") && !facts.is_http_10(),
        example: "GET / HTTP/1.1\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "more than one Host (RFC 9112 section 3.2: 400)",
        holds: |facts| facts.all("host").len() > 1,
        example: "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "Host is not host[:port] (RFC 9112 section 3.2: 400), or has userinfo",
        holds: |facts| facts.all("host").iter().any(|host| !facts.is_host(host)),
        example: "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "an absolute-form target that names another host than Host, or no good one (hardening: no two names)",
        holds: |facts| facts.target_authority().is_some_and(|name| !facts.is_host(name) || !facts.host_is(name)),
        example: "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a target in authority-form, or * for another method than OPTIONS, or of another scheme (RFC 9112 section 3.2)",
        holds: |facts| {
            let target = facts.target();
            !target.starts_with(b"/")
                && facts.target_authority().is_none()
                && !(target == b"*" && facts.method() == b"OPTIONS")
        },
        example: "GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a fragment is not part of a target (RFC 9112 section 3.2); the http crate cuts it off silently",
        holds: |facts| facts.target().contains(&b'#'),
        example: "GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a target with bytes beyond ASCII (RFC 3986 section 2)",
        holds: |facts| !facts.target().is_ascii(),
        example: "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "CONNECT and TRACE are answered with 405",
        holds: |facts| facts.method() == b"CONNECT" || facts.method() == b"TRACE",
        example: "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "an expectation other than 100-continue (RFC 9110 section 10.1.1: 417)",
        holds: |facts| facts.all("expect").iter().any(|value| !value.eq_ignore_ascii_case(b"100-continue")),
        example: "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a method, target or header block over Weir's limits (hardening: 32 bytes, 16 KiB, 32 KiB)",
        holds: |facts| facts.method().len() > 32 || facts.target().len() > 16 * 1024 || facts.head > 32 * 1024,
        example: "MMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMMM / HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyOurs,
        why: "characters that RFC 3986 excludes but clients send (< > ^ ` and others): bytes to Weir, as to its peers",
        holds: |facts| facts.target().iter().any(|byte| b"<>\"{}|\\^`".contains(byte)),
        example: "GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: Differs,
        why: "close beside bytes beyond ASCII: Weir closes, hyper overlooks the whole field (RFC 9112 section 9.6: close)",
        holds: |facts| facts.all("connection").iter().any(|options| !options.is_ascii()),
        example: "GET / HTTP/1.1\r\nHost: a\r\nConnection: \u{e9}, close\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    },
    Judged {
        kind: OnlyOurs,
        why: "a Content-Length of 2^64-1 or 2^64-2: a number like any other; hyper keeps these two for itself",
        holds: |facts| facts.all("content-length").iter().any(|length| is_greatest(length)),
        example: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
    },
];

/// Disagreements about responses.
pub const RESPONSES: &[Judged] = &[
    Judged {
        kind: OnlyTheirs,
        why: "a bare LF ends no line (as in requests)",
        holds: |facts| facts.has_bare_line_feed(),
        example: "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a tab around the value of Content-Length or Transfer-Encoding (as in requests)",
        holds: |facts| facts.tab_around_framing,
        example: "HTTP/1.1 200 OK\r\nContent-Length:\t5\r\n\r\nhello",
    },
    Judged {
        kind: OnlyTheirs,
        why: "an empty line before a response: bytes that belong to none (RFC 9112 section 2.2 allows them before requests)",
        holds: |facts| facts.empty > 0,
        example: "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "Content-Length beside Transfer-Encoding (RFC 9112 section 6.3: an attempt at response splitting)",
        holds: |facts| facts.has("content-length") && facts.has("transfer-encoding"),
        example: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a head over Weir's limit (hardening: 32 KiB)",
        holds: |facts| facts.head > 32 * 1024,
        example: "HTTP/1.1 204 No Content\r\na: {wide}\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "an upgrade that nobody asked for (RFC 9110 section 15.2.2)",
        holds: |facts| facts.status() == 101,
        example: "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a status that has no class (RFC 9110 section 15: to be treated as an error)",
        holds: |facts| facts.status() > 599,
        example: "HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "more than 16 interim responses: a backend that never comes to the point (hyper skips them for ever)",
        holds: |facts| facts.before > 16,
        example: concat!(
            "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\n",
            "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\n",
            "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\n",
            "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\n",
            "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
        ),
    },
    Judged {
        kind: OnlyTheirs,
        why: "Content-Length more than once or as a list, though equal (RFC 9112 section 6.3: may be refused)",
        holds: |facts| {
            let lengths = facts.all("content-length");
            lengths.len() > 1 || lengths.iter().any(|length| is_equal_list(length))
        },
        example: "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a Content-Length that is no number, where the status says that there is no body: hyper does not look at it",
        holds: |facts| facts.all("content-length").iter().any(|length| !is_number(length) && !is_equal_list(length)),
        example: "HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a Transfer-Encoding other than one chunked: hyper takes the last element, or reads to the end",
        holds: |facts| !facts.is_plainly_chunked(),
        example: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    },
    Judged {
        kind: OnlyTheirs,
        why: "Transfer-Encoding in HTTP/1.0 (RFC 9112 section 6.1), where hyper does not look at it: there is no body",
        holds: |facts| facts.is_http_10() && facts.has("transfer-encoding"),
        example: "HTTP/1.0 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    },
    Judged {
        kind: OnlyOurs,
        why: "a Content-Length of 2^64-1 or 2^64-2: a number like any other; hyper keeps these two for itself",
        holds: |facts| facts.all("content-length").iter().any(|length| is_greatest(length)),
        example: "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
    },
];

/// Disagreements about chunked bodies in both directions; the examples are bodies.
pub const BODIES: &[Judged] = &[
    Judged {
        kind: OnlyTheirs,
        why: "white space after a chunk size (RFC 9112 section 7.1 has none)",
        holds: |facts| facts.chunks().blanks,
        example: "5 \r\nhello\r\n0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a chunk size of more than 16 digits, leading zeros counted",
        holds: |facts| facts.chunks().digits > 16,
        example: "00000000000000000\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "control bytes in a chunk extension (RFC 9112 section 7.1.1: tokens and quoted strings)",
        holds: |facts| facts.chunks().extension_controls,
        example: "0;\0\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "chunk extensions of more than 256 bytes in sum",
        holds: |facts| facts.chunks().extensions > 256,
        example: "0;{long}\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "a bare LF, or a CR that ends no line, among trailers (RFC 9112 section 2.2)",
        holds: |facts| facts.chunks().trailer_ends_oddly,
        example: "0\r\na: b\n\r\n\r\n",
    },
    Judged {
        kind: OnlyTheirs,
        why: "trailers of more than 4 KiB, or more than 64 of them",
        holds: |facts| facts.chunks().trailers > 4096 || facts.chunks().trailer_lines > 64,
        example: "0\r\na: {long}\r\n\r\n",
    },
];
