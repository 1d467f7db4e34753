//! Bodies of HTTP/1 requests. Each would hide a request from somebody. Every case is sent in two ways: at once, and
//! behind a chunk that has reached the backend already.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::stage::{PATIENCE, Seen, Stage, read_all};
use crate::harness::raw;
use crate::harness::scene::HOST;
use crate::harness::turn;

/// How it must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// 400; both connections are closed.
    Refused,
    /// 413.
    TooLarge,
    /// Served.
    Served,
    /// The client ends in the middle and gets nothing that looks whole.
    Gone,
}

/// A chunked body, or the part of it that is in doubt.
pub struct Case {
    pub what: &'static str,
    body: Vec<u8>,
    end: End,
    /// Data and trailers that the backend may see at most, or must see if the body is served.
    seen: (&'static str, &'static str),
}

fn bad(what: &'static str, body: impl AsRef<[u8]>) -> Case {
    // What came before the doubt may have been passed on; its last chunk never.
    Case { what, body: body.as_ref().to_vec(), end: End::Refused, seen: ("", "") }
}

fn good(what: &'static str, body: impl AsRef<[u8]>, data: &'static str, trailers: &'static str) -> Case {
    Case { what, body: body.as_ref().to_vec(), end: End::Served, seen: (data, trailers) }
}

fn gone(what: &'static str, body: impl AsRef<[u8]>) -> Case {
    Case { what, body: body.as_ref().to_vec(), end: End::Gone, seen: ("", "") }
}

pub fn cases() -> Vec<Case> {
    vec![
        bad("a size with a plus", "+5\r\nhello\r\n0\r\n\r\n"),
        bad("a negative size", "-5\r\nhello\r\n0\r\n\r\n"),
        bad("a negative zero", "-0\r\n\r\n"),
        bad("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with an h", "5h\r\nhello\r\n0\r\n\r\n"),
        bad("a size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        bad("a size with a point", "5.0\r\nhello\r\n0\r\n\r\n"),
        bad("a size in quotes", "\"5\"\r\nhello\r\n0\r\n\r\n"),
        bad("a blank before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        bad("a blank after the size", "5 \r\nhello\r\n0\r\n\r\n"),
        bad("a tab after the size", "5\t\r\nhello\r\n0\r\n\r\n"),
        bad("a blank before an extension", "5 ;a=b\r\nhello\r\n0\r\n\r\n"),
        bad("a size with a NUL", "5\0\r\nhello\r\n0\r\n\r\n"),
        bad("a size of 17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n"),
        bad("a size that overflows", "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n"),
        bad("an empty size", "\r\nhello\r\n0\r\n\r\n"),
        bad("an extension without a size", ";a\r\nhello\r\n0\r\n\r\n"),
        bad("a size that is no number", "five\r\nhello\r\n0\r\n\r\n"),
        bad("a size of other digits", "\u{0665}\r\nhello\r\n0\r\n\r\n"),
        bad("a size ended by LF", "5\nhello\r\n0\r\n\r\n"),
        bad("a size ended by CR", "5\rhello\r\n0\r\n\r\n"),
        bad("a size ended by LF CR", "5\n\rhello\r\n0\r\n\r\n"),
        bad("a size ended by CR CR LF", "5\r\r\nhello\r\n0\r\n\r\n"),
        bad("no line end after the data", "5\r\nhello0\r\n\r\n"),
        bad("LF after the data", "5\r\nhello\n0\r\n\r\n"),
        bad("CR after the data", "5\r\nhello\r0\r\n\r\n"),
        bad("two bytes too many", "5\r\nhelloXX\r\n0\r\n\r\n"),
        bad("two bytes too few", "7\r\nhello\r\n0\r\n\r\n"),
        bad("an empty line between two chunks", "5\r\nhello\r\n\r\n0\r\n\r\n"),
        bad("an extension with LF", "5;a=b\nc\r\nhello\r\n0\r\n\r\n"),
        bad("an extension ended by LF", "5;a\nhello\r\n0\r\n\r\n"),
        bad("an extension with CR", "5;a=b\rc\r\nhello\r\n0\r\n\r\n"),
        bad("an extension with a NUL", "5;a=\0\r\nhello\r\n0\r\n\r\n"),
        bad("an extension of more than 256 bytes", format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300))),
        bad("an extension that never ends", format!("5;{}", "x".repeat(3000))),
        bad(
            "extensions of more than 256 bytes in sum",
            format!("{}0\r\n\r\n", "1;aaaaaaaaaaaaaaaa\r\nx\r\n".repeat(30)),
        ),
        bad("a last chunk ended by LF", "5\r\nhello\r\n0\n\n"),
        bad("a last line ended by LF", "5\r\nhello\r\n0\r\n\n"),
        bad("a last chunk that is negative", "5\r\nhello\r\n-0\r\n\r\n"),
        bad("a trailer with a bare LF", "5\r\nhello\r\n0\r\nX-A: b\n\r\n"),
        bad("a trailer with a bare CR", "5\r\nhello\r\n0\r\nX-A: b\rc\r\n\r\n"),
        bad("a trailer with a NUL", "5\r\nhello\r\n0\r\nX-A: b\0\r\n\r\n"),
        bad("a trailer without a colon", "5\r\nhello\r\n0\r\nX-A b\r\n\r\n"),
        bad("a trailer without a name", "5\r\nhello\r\n0\r\n: b\r\n\r\n"),
        bad("a trailer with a blank before the colon", "5\r\nhello\r\n0\r\nX-A : b\r\n\r\n"),
        bad("a trailer that is folded", "5\r\nhello\r\n0\r\nX-A: b\r\n c\r\n\r\n"),
        bad("a trailer that is folded at once", "5\r\nhello\r\n0\r\n X-A: b\r\n\r\n"),
        bad("a request for a trailer", "5\r\nhello\r\n0\r\nGET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        bad("trailers of more than 4 KiB", format!("5\r\nhello\r\n0\r\nX-A: {}\r\n\r\n", "x".repeat(5000))),
        bad("trailers that never end", format!("5\r\nhello\r\n0\r\n{}", "X-A: b\r\n".repeat(1000))),
        bad("more than 64 trailers", format!("5\r\nhello\r\n0\r\n{}\r\n", "X: b\r\n".repeat(65))),
        good(
            "sizes with zeros and capitals",
            "0005\r\nhello\r\n00A\r\n0123456789\r\n000\r\n\r\n",
            "hello0123456789",
            "",
        ),
        good("a size of 16 digits", "0000000000000005\r\nhello\r\n0\r\n\r\n", "hello", ""),
        good("extensions", "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n", "hello", ""),
        good("a body that looks like its own end", "9\r\n\r\n0\r\n\r\nGE\r\n0\r\n\r\n", "\r\n0\r\n\r\nGE", ""),
        good("no data at all", "0\r\n\r\n", "", ""),
        good("a trailer", "5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n", "hello", "X-Sum: 7\r\n"),
        good(
            "trailers that frame",
            "5\r\nhello\r\n0\r\nContent-Length: 0\r\nTransfer-Encoding: identity\r\nHost: evil\r\nX-Sum: 7\r\n\r\n",
            "hello",
            "X-Sum: 7\r\n",
        ),
        good(
            "trailers about the connection",
            "5\r\nhello\r\n0\r\nConnection: close\r\nUpgrade: h2c\r\nTE: x\r\nTrailer: x\r\nX-Sum: 7\r\n\r\n",
            "hello",
            "X-Sum: 7\r\n",
        ),
        good(
            "trailers about who asks",
            "5\r\nhello\r\n0\r\nAuthorization: x\r\nCookie: x\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Ssl: on\r\nX-Request-ID: mine\r\nX-Sum: 7\r\n\r\n",
            "hello",
            "X-Sum: 7\r\n",
        ),
        good(
            "trailers with underscores",
            "5\r\nhello\r\n0\r\nX_Forwarded_For: 6.6.6.6\r\nContent_Length: 3\r\nX-Sum: 7\r\n\r\n",
            "hello",
            "X-Sum: 7\r\n",
        ),
        gone("an end in a size", "5"),
        gone("an end after a size", "5\r\n"),
        gone("an end in the data", "5\r\nhel"),
        gone("an end after the data", "5\r\nhello"),
        gone("an end before the last chunk", "5\r\nhello\r\n"),
        gone("an end in the last chunk", "5\r\nhello\r\n0\r\n"),
        gone("an end in a trailer", "5\r\nhello\r\n0\r\nX-A: b\r\n"),
        Case {
            what: "a body over the limit",
            body: format!("{}0\r\n\r\n", format!("3e8\r\n{}\r\n", "x".repeat(1000)).repeat(11)).into_bytes(),
            end: End::TooLarge,
            seen: ("", ""),
        },
    ]
}

/// Sends a case, with or without a chunk before it that is known to be at the backend, and a request behind it.
async fn play(stage: &mut Stage, case: &Case, streamed: bool) -> Result<(), String> {
    let before = stage.backend.messages().len();
    let (next, target) = (stage.fresh("next"), stage.fresh("body"));
    let mut stream = TcpStream::connect(stage.weir.http).await.unwrap();
    let mut bytes =
        format!("POST {target} HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    let first = if streamed { "first" } else { "" };
    if streamed {
        bytes.extend(b"5\r\nfirst\r\n");
        stream.write_all(&bytes).await.unwrap();
        stage.until_begun(&format!("{target} ")).await;
        stage.until_begun("first").await;
        bytes.clear();
    }
    bytes.extend(&case.body);
    if case.end != End::Gone {
        bytes.extend(format!("GET {next} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").bytes());
    }
    // A refusal may come, and the connection go, before everything is written; what was said can still be read.
    let _ = stream.write_all(&bytes).await;
    if case.end == End::Gone {
        let _ = stream.shutdown().await;
    }
    let reply = raw::read(&mut stream, PATIENCE).await;
    let answers = read_all(&reply.bytes, &[])?;
    let right = match case.end {
        End::Refused => answers.len() == 1 && answers[0].is_local(400, "bad_request"),
        End::TooLarge => answers.len() == 1 && answers[0].is_local(413, "body_too_large"),
        End::Served => {
            answers.len() == 2
                && answers[0].body == target.as_bytes()
                && answers[1].status == 200
                && answers[1].body == next.as_bytes()
        }
        End::Gone => answers.is_empty(),
    };
    if !right || !reply.closed {
        return Err(format!("got {answers:?}, closed: {}", reply.closed));
    }
    let head = format!("POST {target} HTTP/1.1\r\nhost: {HOST}\r\ntransfer-encoding: chunked\r\n\r\n");
    let seen = if case.end == End::Served {
        let (data, trailers) = case.seen;
        let data = format!("{first}{data}");
        let chunk = if data.is_empty() { String::new() } else { format!("{:x}\r\n{data}\r\n", data.len()) };
        Seen::one(format!("{head}{chunk}0\r\n{trailers}\r\n"))
    } else {
        Seen::Unfinished { head, data: first.to_owned() }
    };
    stage.judge(before, &seen, (case.end == End::Served).then_some(&*next)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunked_body_is_forwarded_as_it_was_understood_or_never_completed() {
    let _turn = turn::beside_others().await;
    let mut stage = Stage::with("limits: {body: 10000}\n").await;
    let mut wrong = Vec::new();
    let cases = cases();
    for streamed in [false, true] {
        for case in &cases {
            if let Err(why) = play(&mut stage, case, streamed).await {
                wrong.push(format!("{}, streamed: {streamed}: {why}", case.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n  {}", wrong.len(), 2 * cases.len(), wrong.join("\n  "));
    assert!(stage.backend.messages().iter().all(|message| message.target() != "/hidden"));
}
