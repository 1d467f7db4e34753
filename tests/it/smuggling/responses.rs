//! Responses of hostile backends, to clients of HTTP/1 and of HTTP/2: what is certain is passed on, and nothing else. An
//! upstream connection is used again only after a response whose end was certain.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::frames::{Connection, END_STREAM, Field, StreamEnd, headers};
use super::stage::{Answer, PATIENCE, before, read_all};
use crate::harness::raw;
use crate::harness::scene::HOST;
use crate::harness::turn;
use crate::harness::weir::Weir;

/// What is asked. Nothing but HEAD may be repeated, so that every answer is the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Post,
    Head,
    /// A GET that offers `echo/1`; only HTTP/1 can.
    Upgrade,
}

/// What the backend does after its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Close,
    Reset,
    /// It reads the next request, if one comes.
    Wait,
    /// It says this when the response has reached the client, then waits.
    Add(&'static [u8]),
}

/// What the client must get.
#[derive(Clone, Debug)]
enum End {
    /// Weir's own 502 with this reason.
    Refused(&'static str),
    /// Either a 502, or a response that cannot be taken for whole, whose body begins like this one.
    Broken(&'static str),
    /// A whole response: status, fields without Date and length, body, trailers.
    Passed(u16, &'static [(&'static str, &'static str)], &'static str, &'static str),
}

/// One response as raw bytes.
pub struct Case {
    pub what: &'static str,
    ask: Ask,
    response: Vec<u8>,
    then: Then,
    end: End,
    /// Whether the upstream connection must be, or must not be, used again. None: the backend ends it at the same moment.
    again: Option<bool>,
}

fn case(what: &'static str, response: impl AsRef<[u8]>, then: Then, end: End, again: Option<bool>) -> Case {
    Case { what, ask: Ask::Post, response: response.as_ref().to_vec(), then, end, again }
}

/// No response: 502.
fn bad(what: &'static str, response: impl AsRef<[u8]>) -> Case {
    case(what, response, Then::Wait, End::Refused("upstream_protocol"), Some(false))
}

/// A 200 with these lines, which frame it in more than one way or in none.
fn framed(what: &'static str, lines: &str) -> Case {
    bad(what, format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
}

/// A 200 with this line beside a certain length.
fn line(what: &'static str, line: &str) -> Case {
    bad(what, format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\n\r\nok"))
}

/// A status line before a certain response.
fn first(what: &'static str, line: &str) -> Case {
    bad(what, format!("{line}\r\nContent-Length: 2\r\n\r\nok"))
}

/// A chunked body that is none after its first chunk.
fn chunks(what: &'static str, rest: impl AsRef<str>) -> Case {
    let response = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n{}", rest.as_ref());
    case(what, response, Then::Wait, End::Broken("half"), Some(false))
}

fn cut(what: &'static str, response: &str, then: Then) -> Case {
    case(what, response, then, End::Broken("half"), Some(false))
}

fn good(what: &'static str, response: impl AsRef<[u8]>, again: bool) -> Case {
    case(what, response, Then::Wait, End::Passed(200, &[], "good", ""), Some(again))
}

impl Case {
    fn to(mut self, ask: Ask) -> Self {
        self.ask = ask;
        self
    }

    fn passing(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = heads();
    all.extend(interim());
    all.extend(broken());
    all.extend(passed());
    all
}

fn heads() -> Vec<Case> {
    let reset = |what, response: &str, then| case(what, response, then, End::Refused("upstream_reset"), Some(false));
    vec![
        framed("both lengths", "Content-Length: 2\r\nTransfer-Encoding: chunked"),
        framed("both lengths, the other way", "Transfer-Encoding: chunked\r\nContent-Length: 2"),
        framed("two lengths that differ", "Content-Length: 2\r\nContent-Length: 3"),
        framed("two lengths that agree", "Content-Length: 2\r\nContent-Length: 2"),
        framed("a list of lengths", "Content-Length: 2, 2"),
        framed("a signed length", "Content-Length: +2"),
        framed("a negative length", "Content-Length: -1"),
        framed("a hexadecimal length", "Content-Length: 0x2"),
        framed("an empty length", "Content-Length:"),
        framed("a length with a blank", "Content-Length: 1 2"),
        framed("a length behind a tab", "Content-Length:\t2"),
        framed("a length that overflows", "Content-Length: 18446744073709551618"),
        framed("an unknown coding", "Transfer-Encoding: xchunked"),
        framed("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        framed("chunked, identity", "Transfer-Encoding: chunked, identity"),
        framed("identity", "Transfer-Encoding: identity"),
        framed("chunked twice", "Transfer-Encoding: chunked, chunked"),
        framed("chunked in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        framed("chunked with a vertical tab", "Transfer-Encoding:\x0bchunked"),
        framed("chunked behind a tab", "Transfer-Encoding:\tchunked"),
        framed("a blank before the colon of the coding", "Transfer-Encoding : chunked"),
        framed("a folded coding", "Transfer-Encoding:\r\n chunked"),
        bad("chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        line("a bare LF", "X-A: b\nX-B: c"),
        line("a bare CR", "X-A: b\rX-B: c"),
        line("a NUL in a value", "X-A: b\0"),
        line("a control byte in a value", "X-A: b\x01"),
        line("DEL in a value", "X-A: b\x7f"),
        line("a folded line", "X-A: b\r\n c"),
        line("a line folded with a tab", "X-A: b\r\n\tc"),
        line("a blank before the colon", "X-A : b"),
        line("an empty name", ": b"),
        line("a name with a blank", "X A: b"),
        line("a name beyond ASCII", "X-\u{00e4}: b"),
        line("a line without a colon", "X-A"),
        line("a head over the limit", &format!("X-A: {}", "x".repeat(40 * 1024))),
        line("too many fields", "X-A: b\r\n".repeat(101).trim_end()),
        bad("bare LF line ends", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        bad("a head that never ends", format!("HTTP/1.1 200 OK\r\nX-A: {}", "x".repeat(1 << 20))),
        bad("an empty line first", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("another protocol", "SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        bad("an alert of TLS", b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n"),
        bad("a body without a head", "<html></html>\r\n\r\n"),
        bad("a request", "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n"),
        first("a status of two digits", "HTTP/1.1 20 OK"),
        first("a status of four digits", "HTTP/1.1 2000 OK"),
        first("a status of letters", "HTTP/1.1 2OO OK"),
        first("a negative status", "HTTP/1.1 -20 OK"),
        first("a status below 100", "HTTP/1.1 099 OK"),
        first("a status above 599", "HTTP/1.1 600 OK"),
        first("no status", "HTTP/1.1 OK"),
        first("a control byte in the reason", "HTTP/1.1 200 O\x01K"),
        first("HTTP/3.0", "HTTP/3.0 200 OK"),
        first("HTTP/2", "HTTP/2 200 OK"),
        first("HTTP/1.2", "HTTP/1.2 200 OK"),
        first("http in lower case", "http/1.1 200 OK"),
        first("two blanks before the status", "HTTP/1.1  200 OK"),
        reset("nothing", "", Then::Close),
        reset("nothing but a reset", "", Then::Reset),
        reset("a head that breaks off", "HTTP/1.1 200 OK\r\nContent-Le", Then::Close),
        reset("a head that lacks its last line", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", Then::Close),
    ]
}

fn interim() -> Vec<Case> {
    let good = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
    let passed = End::Passed(200, &[], "good", "");
    let switching = |lines: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n{good}");
    vec![
        bad("a 101 that nobody asked for", switching("Connection: upgrade\r\nUpgrade: echo/1\r\n")),
        bad("a 101 to another protocol", switching("Connection: upgrade\r\nUpgrade: other/1\r\n")).to(Ask::Upgrade),
        bad("a 101 to more than one protocol", switching("Connection: upgrade\r\nUpgrade: echo/1, other/1\r\n"))
            .to(Ask::Upgrade),
        bad("a 101 to no protocol", switching("Connection: upgrade\r\n")).to(Ask::Upgrade),
        bad("a flood of 100s", format!("{}{good}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000))),
        bad("a flood of 102s", format!("{}{good}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000))),
        bad("seventeen interim responses", format!("{}{good}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(17))),
        bad(
            "a doubt after an interim response",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        ),
        bad(
            "an interim response framed in two ways",
            format!("HTTP/1.1 103 Early\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{good}"),
        ),
        case(
            "an interim response and the end",
            "HTTP/1.1 100 Continue\r\n\r\n",
            Then::Close,
            End::Refused("upstream_reset"),
            Some(false),
        ),
        case(
            "a 100 that nobody waits for",
            format!("HTTP/1.1 100 Continue\r\n\r\n{good}"),
            Then::Wait,
            passed.clone(),
            Some(true),
        ),
        case(
            "sixteen interim responses",
            format!("{}{good}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(16)),
            Then::Wait,
            passed.clone(),
            Some(true),
        ),
        case(
            "an interim response with a length",
            format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 4\r\n\r\n{good}"),
            Then::Wait,
            passed.clone(),
            Some(true),
        ),
        case(
            "an interim response with fields of the connection",
            format!(
                "HTTP/1.1 103 Early Hints\r\nConnection: close, X-A\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n{good}"
            ),
            Then::Wait,
            passed,
            Some(true),
        ),
        case("no upgrade where one was asked for", good, Then::Wait, End::Passed(200, &[], "good", ""), Some(true))
            .to(Ask::Upgrade),
    ]
}

fn broken() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    vec![
        cut("fewer bytes than announced", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Then::Close),
        cut(
            "fewer bytes than announced, and a reset",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            Then::Reset,
        ),
        cut("no byte of those announced", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", Then::Close),
        cut("an end in a size", &format!("{head}4\r\nhalf\r\n4"), Then::Close),
        cut("an end in a chunk", &format!("{head}10\r\nhalf"), Then::Close),
        cut("an end after a chunk", &format!("{head}4\r\nhalf"), Then::Close),
        cut("an end before the last chunk", &format!("{head}4\r\nhalf\r\n"), Then::Close),
        cut("an end in the last chunk", &format!("{head}4\r\nhalf\r\n0\r\n"), Then::Close),
        cut("an end in the trailers", &format!("{head}4\r\nhalf\r\n0\r\nX-A: b\r\n"), Then::Close),
        cut("a reset where the end of the connection is the end", "HTTP/1.1 200 OK\r\n\r\nhalf", Then::Reset),
        chunks("a size that is none", "xyz\r\n0\r\n\r\n"),
        chunks("a size with a plus", "+1\r\nx\r\n0\r\n\r\n"),
        chunks("a negative size", "-1\r\nx\r\n0\r\n\r\n"),
        chunks("a size with 0x", "0x1\r\nx\r\n0\r\n\r\n"),
        chunks("a size with a blank", "1 \r\nx\r\n0\r\n\r\n"),
        chunks("a size behind a blank", " 1\r\nx\r\n0\r\n\r\n"),
        chunks("a size that overflows", "11111111111111111\r\nx\r\n0\r\n\r\n"),
        chunks("an empty size", "\r\n0\r\n\r\n"),
        chunks("a size ended by LF", "1\nx\r\n0\r\n\r\n"),
        chunks("two bytes too many", "1\r\nxyz\r\n0\r\n\r\n"),
        chunks("no line end after the data", "1\r\nx0\r\n\r\n"),
        chunks("an extension with LF", "1;a\nb\r\nx\r\n0\r\n\r\n"),
        chunks("extensions over the limit", format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(300))),
        chunks("a trailer without a colon", "0\r\nX-A b\r\n\r\n"),
        chunks("a trailer with a bare LF", "0\r\nX-A: b\n\r\n"),
        chunks("trailers over the limit", format!("0\r\nX-A: {}\r\n\r\n", "x".repeat(5000))),
        chunks("a response for a trailer", "0\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        chunks("a last line ended by LF", "0\r\n\n"),
    ]
}

fn passed() -> Vec<Case> {
    let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n";
    let empty = |status| End::Passed(status, &[], "", "");
    vec![
        good("a length", sized, true),
        good("a length with zeros", "HTTP/1.1 200 OK\r\nContent-Length: 0004\r\n\r\ngood", true),
        good("chunks", format!("{chunked}\r\n"), true),
        good("chunks with extensions", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;a\r\ngo\r\n2\r\nod\r\n0;b\r\n\r\n", true),
        good("no reason", "HTTP/1.1 200\r\nContent-Length: 4\r\n\r\ngood", true),
        good("a reason beyond ASCII", "HTTP/1.1 200 Sch\u{00f6}n\r\nContent-Length: 4\r\n\r\ngood", true),
        good("a close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood", false),
        good("a close among others", "HTTP/1.1 200 OK\r\nConnection: keep-alive, CLOSE\r\nContent-Length: 4\r\n\r\ngood", false),
        good("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\ngood", false),
        good("HTTP/1.0 with keep-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\ngood", true),
        good("a response behind the response", format!("{sized}{evil}"), false),
        good("ten responses behind the response", format!("{sized}{}", evil.repeat(10)), false),
        good("an empty line behind the response", format!("{sized}\r\n"), false),
        good("one byte behind the response", format!("{sized}x"), false),
        good("a response behind the last chunk", format!("{chunked}\r\n{evil}"), false),
        case("a response that comes later, unasked", sized, Then::Add(evil.as_bytes()), End::Passed(200, &[], "good", ""), Some(false)),
        case("a byte that comes later", sized, Then::Add(b"\r"), End::Passed(200, &[], "good", ""), Some(false)),
        case("a 408 that comes later, unasked", sized, Then::Add(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"), End::Passed(200, &[], "good", ""), Some(false)),
        case("a response and the end", sized, Then::Close, End::Passed(200, &[], "good", ""), None),
        case("the end of the connection is the end", "HTTP/1.1 200 OK\r\n\r\ngood", Then::Close, End::Passed(200, &[], "good", ""), Some(false)),
        good("fields of the connection", "HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: b\r\nKeep-Alive: timeout=9\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: x\r\nX-B: c\r\nContent-Length: 4\r\n\r\ngood", true)
            .passing(End::Passed(200, &[("x-b", "c")], "good", "")),
        good("Connection that names the length", "HTTP/1.1 200 OK\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\ngood", true),
        good("fields of one name", "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX-A: \r\nSet-Cookie: c=d\r\nContent-Length: 4\r\n\r\ngood", true)
            .passing(End::Passed(200, &[("set-cookie", "a=b"), ("x-a", ""), ("set-cookie", "c=d")], "good", "")),
        good("a trailer", format!("{chunked}X-Sum: 7\r\n\r\n"), true).passing(End::Passed(200, &[], "good", "X-Sum: 7\r\n")),
        good("trailers that frame", format!("{chunked}Content-Length: 9\r\nTransfer-Encoding: x\r\nConnection: close\r\nX-Sum: 7\r\n\r\n"), true)
            .passing(End::Passed(200, &[], "good", "X-Sum: 7\r\n")),
        good("no body at all", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true).passing(empty(200)),
        good("HEAD with a length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", true).to(Ask::Head).passing(empty(200)),
        good("HEAD with chunks announced", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true).to(Ask::Head).passing(empty(200)),
        good("HEAD with a body", sized, false).to(Ask::Head).passing(empty(200)),
        good("HEAD with a response for a body", format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{evil}", evil.len()), false).to(Ask::Head).passing(empty(200)),
        bad("HEAD with both lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n").to(Ask::Head),
        good("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", true).passing(empty(204)),
        good("204 with a body", "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil", false).passing(empty(204)),
        good("204 with chunks", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n", false).passing(empty(204)),
        good("304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", true).passing(empty(304)),
        good("304 with a body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil", false).passing(empty(304)),
        good("304 with a response for a body", format!("HTTP/1.1 304 Not Modified\r\n\r\n{evil}"), false).passing(empty(304)),
    ]
}

/// A backend that answers the target `/case/<position>` with that case's response and every other with the target.
struct Hostile {
    address: SocketAddr,
    /// Connection and target of every request.
    log: Arc<Mutex<Vec<(usize, String)>>>,
    /// The client has its response; what comes later may come.
    go: Arc<Notify>,
    /// It has come.
    gone: Arc<Notify>,
}

impl Hostile {
    async fn start(cases: &Arc<Vec<Case>>) -> Self {
        let log: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
        let (go, gone): (Arc<Notify>, Arc<Notify>) = Default::default();
        let shared = (cases.clone(), log.clone(), go.clone(), gone.clone());
        let address = raw::backend(move |number, stream| {
            let (cases, log, go, gone) = shared.clone();
            async move { answer(&cases, number, stream, &log, &go, &gone).await }
        })
        .await;
        Self { address, log, go, gone }
    }
}

async fn answer(
    cases: &[Case],
    number: usize,
    mut stream: TcpStream,
    log: &Mutex<Vec<(usize, String)>>,
    go: &Notify,
    gone: &Notify,
) {
    while let Some(head) = raw::head(&mut stream).await {
        let target = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap().to_owned();
        log.lock().unwrap().push((number, target.clone()));
        let Some(case) = target.strip_prefix("/case/").map(|position| &cases[position.parse::<usize>().unwrap()])
        else {
            let honest = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
            if stream.write_all(honest.as_bytes()).await.is_err() {
                return;
            }
            continue;
        };
        // Weir may drop the connection half-way, as it should for some of these.
        let _ = stream.write_all(&case.response).await;
        match case.then {
            Then::Wait => {}
            Then::Close => return,
            Then::Reset => {
                if !case.response.is_empty() {
                    // A reset overtakes what was sent; the client has to have that first.
                    go.notified().await;
                }
                return raw::reset(stream);
            }
            Then::Add(more) => {
                go.notified().await;
                let _ = stream.write_all(more).await;
                gone.notify_one();
            }
        }
    }
}

/// How often things were asked, so that every target is its own.
struct Play {
    weir: Weir,
    hostile: Hostile,
    cases: Arc<Vec<Case>>,
    asked: usize,
}

impl Play {
    async fn start() -> Self {
        let cases = Arc::new(cases());
        let hostile = Hostile::start(&cases).await;
        let weir = before(hostile.address, "").await;
        Self { weir, hostile, cases, asked: 0 }
    }

    fn fresh(&mut self, what: &str) -> String {
        self.asked += 1;
        format!("/{what}/{}", self.asked)
    }

    /// Whether the request that followed went over the upstream connection of the case, and each was asked once.
    fn judge(&self, at: usize, next: &str) -> Result<(), String> {
        let log = self.hostile.log.lock().unwrap();
        let connections = |target: &str| -> Vec<usize> {
            log.iter().filter(|(_, is)| is == target).map(|(connection, _)| *connection).collect()
        };
        let (mine, then) = (connections(&format!("/case/{at}")), connections(next));
        let (Some(&mine), [then]) = (mine.last(), &then[..]) else {
            return Err(format!("the backend saw {mine:?} and then {then:?}"));
        };
        match self.cases[at].again {
            Some(again) if (mine == *then) != again => Err(format!("the upstream connection used again: {}", !again)),
            _ => Ok(()),
        }
    }

    /// That the case and the request that followed were seen once each, on two connections, and nothing else was.
    fn judge_apart(&self, at: usize, next: &str) {
        let log = self.hostile.log.lock().unwrap();
        let [(first, case), (second, then)] = &log[..] else { panic!("the backend saw {log:?}") };
        assert_eq!((&**case, &**then), (&*format!("/case/{at}"), next));
        assert_ne!(first, second, "the upstream connection was used again");
    }

    async fn over_h1(&mut self, at: usize) -> Result<(), String> {
        let cases = self.cases.clone();
        let case = &cases[at];
        let next = self.fresh("next");
        let head = format!("/case/{at} HTTP/1.1\r\nHost: {HOST}\r\n");
        let asked = match case.ask {
            Ask::Post => format!("POST {head}Content-Length: 0\r\n\r\n"),
            Ask::Head => format!("HEAD {head}\r\n"),
            Ask::Upgrade => format!("GET {head}Connection: Upgrade\r\nUpgrade: echo/1\r\n\r\n"),
        };
        let then = format!("GET {next} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.weir.http).await.unwrap();
        let mut bytes = Vec::new();
        match case.then {
            Then::Add(_) => {
                stream.write_all(asked.as_bytes()).await.unwrap();
                bytes = raw::read_until(&mut stream, "the response", |bytes| bytes.ends_with(b"good")).await;
                self.hostile.go.notify_one();
                self.hostile.gone.notified().await;
                stream.write_all(then.as_bytes()).await.unwrap();
            }
            Then::Reset if !case.response.is_empty() => {
                stream.write_all(format!("{asked}{then}").as_bytes()).await.unwrap();
                bytes =
                    raw::read_until(&mut stream, "half a response", |bytes| raw::find(bytes, b"half").is_some()).await;
                self.hostile.go.notify_one();
            }
            _ => stream.write_all(format!("{asked}{then}").as_bytes()).await.unwrap(),
        }
        let reply = raw::read(&mut stream, PATIENCE).await;
        bytes.extend(&reply.bytes);
        let bodiless: &[usize] = if case.ask == Ask::Head { &[0] } else { &[] };
        let all = read_all(&bytes, bodiless)?;
        let (between, answers): (Vec<Answer>, Vec<Answer>) = all.into_iter().partition(|answer| answer.status < 200);
        let wrong = Err(format!("got {answers:?}, closed: {}", reply.closed));
        let hop = |answer: &Answer| answer.fields.iter().any(|(name, _)| name == "connection" || name == "x-a");
        if !reply.closed || between.len() > 16 || between.iter().any(|answer| answer.status == 101 || hop(answer)) {
            return wrong;
        }
        let Some(answer) = answers.first() else { return wrong };
        let (right, goes_on) = match &case.end {
            End::Refused(reason) => match case.ask {
                Ask::Head => (answer.status == 502, true),
                _ => (answer.is_local(502, reason), true),
            },
            End::Broken(_) if answer.is_local(502, "upstream_protocol") => (true, answers.len() == 2),
            End::Broken(half) => {
                let begun = answer.body.is_empty() || raw::find(&answer.body, half.as_bytes()).is_some();
                (answer.status == 200 && !answer.whole && begun, false)
            }
            End::Passed(status, fields, body, trailers) => {
                let framing = ["content-length", "transfer-encoding"];
                let kept = answer.fields.iter().filter(|(name, _)| !framing.contains(&&**name));
                let right = answer.whole
                    && answer.status == *status
                    && kept.map(|(name, value)| (&**name, &**value)).eq(fields.iter().copied())
                    && answer.body == body.as_bytes()
                    && (*status == 204 || case.ask == Ask::Head || answer.trailers.trim_end() == trailers.trim_end());
                (right, true)
            }
        };
        if !right || answers.len() != if goes_on { 2 } else { 1 } {
            return wrong;
        }
        if goes_on && (answers[1].status, &*answers[1].body) != (200, next.as_bytes()) {
            return wrong;
        }
        let next = if goes_on { next } else { self.ask_honestly().await? };
        self.judge(at, &next)
    }

    async fn over_h2(&mut self, at: usize) -> Result<(), String> {
        let cases = self.cases.clone();
        let case = &cases[at];
        let next = self.fresh("next");
        let target = format!("/case/{at}");
        let method: &[u8] = if case.ask == Ask::Head { b"HEAD" } else { b"POST" };
        let request = |stream, method, target: &str| {
            let fields: [Field<'_>; 4] = [
                (b":method", method),
                (b":scheme", b"http"),
                (b":path", target.as_bytes()),
                (b":authority", HOST.as_bytes()),
            ];
            headers(stream, END_STREAM, &fields)
        };
        let mut connection = Connection::open(self.weir.http).await;
        connection.send(&request(1, method, &target)).await;
        if case.then == Then::Reset && !case.response.is_empty() {
            connection.data_on(1, PATIENCE).await?;
            self.hostile.go.notify_one();
        }
        let end = connection.end_of(1, PATIENCE).await?;
        if let Then::Add(_) = case.then {
            self.hostile.go.notify_one();
            self.hostile.gone.notified().await;
        }
        let is_local = |reason: &str| {
            let body = if case.ask == Ask::Head { String::new() } else { format!("502 {reason}\n") };
            end == StreamEnd::Answered { status: 502, body: body.into_bytes() }
        };
        let right = match &case.end {
            End::Refused(reason) => is_local(reason),
            End::Broken(_) => is_local("upstream_protocol") || matches!(end, StreamEnd::Reset(_)),
            End::Passed(status, _, body, _) => {
                end == StreamEnd::Answered { status: *status, body: body.as_bytes().to_vec() }
            }
        };
        if !right {
            return Err(format!("ended with {end:?}"));
        }
        connection.send(&request(3, b"GET", &next)).await;
        let end = connection.end_of(3, PATIENCE).await?;
        if end != (StreamEnd::Answered { status: 200, body: next.clone().into_bytes() }) {
            return Err(format!("the next stream ended with {end:?}"));
        }
        self.judge(at, &next)
    }

    /// A request on a new connection must get its own answer. Returns its target.
    async fn ask_honestly(&mut self) -> Result<String, String> {
        let honest = self.fresh("honest");
        let asked = format!("GET {honest} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let reply = raw::exchange(self.weir.http, asked.as_bytes(), PATIENCE).await;
        let answers = read_all(&reply.bytes, &[])?;
        if answers.len() != 1 || answers[0].body != honest.as_bytes() || !reply.closed {
            return Err(format!("an honest request after it got {answers:?}"));
        }
        Ok(honest)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_is_passed_on_as_it_was_understood_or_becomes_502_or_breaks_off() {
    let _turn = turn::beside_others().await;
    let mut play = Play::start().await;
    let mut wrong = Vec::new();
    for at in 0..play.cases.len() {
        if let Err(why) = play.over_h1(at).await {
            wrong.push(format!("{}: {why}", play.cases[at].what));
        }
        if play.cases[at].ask != Ask::Upgrade
            && let Err(why) = play.over_h2(at).await
        {
            wrong.push(format!("{}, over HTTP/2: {why}", play.cases[at].what));
        }
        if let Err(why) = play.ask_honestly().await {
            wrong.push(format!("{}: {why}", play.cases[at].what));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n  {}", wrong.len(), play.cases.len(), wrong.join("\n  "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_its_request_costs_the_upstream_connection_only() {
    let _turn = turn::beside_others().await;
    let mut play = Play::start().await;
    let at = play.cases.iter().position(|case| case.what == "a length").unwrap();
    let next = play.fresh("next");
    let mut stream = TcpStream::connect(play.weir.http).await.unwrap();
    // The backend reads the head only. What it has not read would be the next request to it.
    let hidden = "GET /hidden HTTP/1.1\r\nHost: shop.example\r\n\r\n";
    let length = hidden.len() + 5;
    let head = format!("POST /case/{at} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\nfirst");
    stream.write_all(head.as_bytes()).await.unwrap();
    raw::read_until(&mut stream, "the early answer", |bytes| bytes.ends_with(b"good")).await;
    let rest = format!("{hidden}GET {next} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    stream.write_all(rest.as_bytes()).await.unwrap();
    let reply = raw::read(&mut stream, PATIENCE).await;
    let answers = read_all(&reply.bytes, &[]).unwrap();
    assert!(answers.len() == 1 && answers[0].body == next.as_bytes() && reply.closed, "{answers:?}");
    play.judge_apart(at, &next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_its_request_is_never_anybody_elses() {
    let _turn = turn::beside_others().await;
    let answered = Arc::new(Notify::new());
    let told = answered.clone();
    let backend = raw::backend(move |_, mut stream| {
        let told = told.clone();
        async move {
            // The client may be gone, as it may be with every answer below.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await;
            while let Some(head) = raw::head(&mut stream).await {
                let target = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap().to_owned();
                let own = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len());
                let _ = stream.write_all(own.as_bytes()).await;
                told.notify_one();
            }
        }
    })
    .await;
    let weir = before(backend, "").await;
    for number in 0..20 {
        let asked = format!("GET /mine/{number} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        let reply = raw::exchange(weir.http, asked.as_bytes(), PATIENCE).await;
        let answers = read_all(&reply.bytes, &[]).unwrap();
        let own = format!("/mine/{number}");
        let body = answers.first().map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        assert!(answers.len() == 1 && (body.as_deref() == Some("early") || body == Some(own)), "{answers:?}");
        // What the backend says late has arrived before anybody asks again.
        answered.notified().await;
    }
}
