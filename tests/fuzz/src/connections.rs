//! Whole connections from both doors: pipelined requests, and responses with interim ones before them. What is
//! understood does not depend on how bytes arrive, and what is sent on says the same to whoever reads it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::check::{Dice, Pairs, pairs};
use crate::fault::{Blame, Fault};
use crate::heads::{assert_same_request, put_request};
use crate::net::TcpStream;
use crate::wire::chunked::{ChunkLimits, Decoder, Step};
use crate::wire::client::{Answer, Exchange};
use crate::wire::head::{Headers, RequestHead, ResponseHead};
use crate::wire::io::Io;
use crate::wire::parse::{self, Framing, HeadLimits, RequestMeta, ResponseMeta};
use crate::wire::pump::{BodySource, Coding, Pump};
use crate::wire::server::{Arrival, Connection, IncomingBody};

const CHUNKS: ChunkLimits = ChunkLimits { extensions: 256, trailers: 4096 };

/// One request as it was understood.
#[derive(PartialEq, Debug)]
struct Seen {
    start: (String, String, Option<String>, String),
    fields: Pairs,
    meta: RequestMeta,
    body: Vec<u8>,
    trailers: Option<Pairs>,
}

/// Why nothing more is read. Which refusal it is may depend on how much of a bad line has arrived (400 or 505).
#[derive(PartialEq, Debug)]
enum End {
    Gone,
    Refused,
}

fn end(fault: Fault) -> End {
    assert_eq!(fault.blame(), Blame::Client);
    if fault == Fault::ClientGone { End::Gone } else { End::Refused }
}

/// Everything that a client sends on one connection.
pub fn requests(data: &[u8]) {
    let mut dice = Dice::of(data);
    let limits = dice.limits();
    let whole = serve(&mut dice, vec![data.to_vec()], &limits, 4096);
    let pieces = dice.pieces(data);
    let room = 1 + dice.below(40);
    assert_eq!(whole, serve(&mut dice, pieces, &limits, room), "the answer depends on where bytes are cut");
    let bytes = data.iter().map(|byte| vec![*byte]).collect();
    assert_eq!(whole, serve(&mut dice, bytes, &limits, 512), "the answer depends on where bytes are cut");
}

/// Reads requests until the connection ends or must be closed; every complete one is sent on, and read again there.
fn serve(dice: &mut Dice, pieces: Vec<Vec<u8>>, limits: &HeadLimits, room: usize) -> (Vec<Seen>, Option<End>) {
    let connection = Rc::new(Connection::new(Io::Tcp(TcpStream::new(pieces, Vec::new())), Vec::new()));
    let mut seen = Vec::new();
    loop {
        let mut head: Option<Box<RequestHead>> = None;
        let arrival = drive(|cx| connection.poll_head(cx, limits, true, &mut head, Box::<RequestHead>::default));
        let meta = match arrival {
            Ok(Arrival::Request(meta)) => meta,
            Ok(Arrival::Preface | Arrival::Closed) => return (seen, None),
            Err(fault) => return (seen, Some(end(fault))),
        };
        let head = head.expect("a request has a head");
        let mut source = IncomingBody::begin(&connection, &meta, CHUNKS, 0);
        let (mut body, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match drive(|cx| source.poll_read(cx, &mut buffer)) {
                Ok(0) => break,
                Ok(length) => body.extend_from_slice(&buffer[..length]),
                Err(fault) => return (seen, Some(end(fault))),
            }
        }
        assert!(source.is_done());
        let trailers = source.trailers().as_ref().map(pairs);
        let coding = match meta.framing {
            Framing::None => Coding::None,
            Framing::Length(length) => Coding::Length(length),
            Framing::Chunked => Coding::Chunked,
            Framing::UntilClose => panic!("a request ends by itself"),
        };
        let portions = (0..dice.below(4)).map(|_| 1 + dice.below(50)).collect();
        let onward = RefCell::new(Io::Tcp(TcpStream::new([], portions)));
        let mut pump = Pump::new(coding);
        let pieces = dice.pieces(&body).into_iter().filter(|piece| !piece.is_empty()).collect();
        let mut copy = Copied { pieces, trailers: trailers.clone(), paused: false };
        match drive(|cx| pump.poll(&onward, cx, |out| put_request(out, &head, &meta), &mut copy)) {
            Ok(()) => assert!(pump.is_done()),
            Err(error) => panic!("neither memory nor this body fails: {error:?}"),
        }
        let Io::Tcp(onward) = onward.into_inner() else { panic!("it was clear text") };
        assert_reads_the_same(&onward.written, &head, &meta, &body, trailers.as_ref());
        seen.push(Seen {
            start: (
                head.method().to_owned(),
                head.path().to_owned(),
                head.query().map(str::to_owned),
                head.authority().to_owned(),
            ),
            fields: pairs(&head.headers),
            // Empty lines before a head belong to it or not, as they arrive.
            meta: RequestMeta { length: 0, ..meta },
            body,
            trailers,
        });
        if !meta.keep_alive {
            return (seen, None);
        }
    }
}

/// What was sent on is exactly one message and says what was understood.
fn assert_reads_the_same(
    written: &[u8],
    head: &RequestHead,
    meta: &RequestMeta,
    body: &[u8],
    trailers: Option<&Pairs>,
) {
    let mut again = RequestHead::default();
    let after = parse::request(written, &HeadLimits::default(), &mut again)
        .expect("what was accepted is accepted")
        .expect("and complete");
    assert_same_request(head, &again);
    assert_eq!(RequestMeta { length: 0, ..*meta }, RequestMeta { length: 0, ..after });
    let rest = &written[after.length..];
    if meta.framing != Framing::Chunked {
        assert_eq!(rest, body);
        return;
    }
    let (mut decoder, mut at, mut data) = (Decoder::new(CHUNKS), 0, Vec::new());
    loop {
        let (used, step) = decoder.step(&rest[at..]).expect("our own chunks are well formed");
        at += used;
        match step {
            Step::Data(length) => data.extend_from_slice(&rest[at - length..at]),
            Step::More => panic!("our own chunks come to an end"),
            Step::End => break,
        }
    }
    assert_eq!((at, &data[..]), (rest.len(), body));
    // A blank after each colon may lead over the limit.
    if let Ok(again) = decoder.trailers() {
        assert_eq!(again.as_ref().map(pairs).as_ref(), trailers);
    }
}

/// A body that is there already, in pieces, with a `Pending` before each.
struct Copied {
    pieces: VecDeque<Vec<u8>>,
    trailers: Option<Pairs>,
    paused: bool,
}

impl BodySource for Copied {
    fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        self.paused = !self.paused;
        if self.paused {
            return Poll::Pending;
        }
        let Some(piece) = self.pieces.front_mut() else { return Poll::Ready(Ok(0)) };
        let length = piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&piece[..length]);
        piece.drain(..length);
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        Poll::Ready(Ok(length))
    }

    fn trailers(&mut self) -> Option<Headers> {
        let mut headers = Headers::default();
        for (name, value) in self.trailers.take()? {
            headers.append(&name, &value);
        }
        Some(headers)
    }
}

/// One response as it was understood.
#[derive(PartialEq, Debug)]
struct Answered {
    interim: Vec<(u16, Pairs)>,
    head: Option<(u16, Pairs, ResponseMeta)>,
    body: Vec<u8>,
    trailers: Option<Pairs>,
    fault: Option<Fault>,
    /// What follows the response, if it came to its end.
    after: Option<Vec<u8>>,
}

/// Everything that a backend sends on one connection in answer to one request.
pub fn responses(data: &[u8]) {
    let mut dice = Dice::of(data);
    let limits = dice.limits();
    let kind = (dice.below(4) == 0, dice.below(4) == 0);
    let whole = answer(vec![data.to_vec()], &limits, kind, 4096);
    let pieces = dice.pieces(data);
    assert_eq!(whole, answer(pieces, &limits, kind, 1 + dice.below(40)), "the answer depends on where bytes are cut");
    let bytes = data.iter().map(|byte| vec![*byte]).collect();
    assert_eq!(whole, answer(bytes, &limits, kind, 512), "the answer depends on where bytes are cut");
}

fn answer(pieces: Vec<Vec<u8>>, limits: &HeadLimits, (to_head, upgrade): (bool, bool), room: usize) -> Answered {
    let io = Io::Tcp(TcpStream::new(pieces, vec![3, 50]));
    let mut exchange = Exchange::new(io, Nothing, Coding::None, CHUNKS);
    let mut answered =
        Answered { interim: Vec::new(), head: None, body: Vec::new(), trailers: None, fault: None, after: None };
    let mut response = ResponseHead::default();
    let meta = loop {
        let polled = drive(|cx| {
            let write = |out: &mut crate::wire::pump::Out<'_>| out.put(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
            exchange.poll_head(cx, write, limits, to_head, upgrade, &mut response)
        });
        match polled {
            Ok(Answer::Interim) => answered.interim.push((response.status, pairs(&response.headers))),
            Ok(Answer::Final(meta)) => break meta,
            Err(fault) => {
                answered.fault = Some(fault);
                return answered;
            }
        }
    };
    assert!(response.status >= 200 || response.status == 101 && upgrade);
    answered.head = Some((response.status, pairs(&response.headers), ResponseMeta { length: 0, ..meta }));
    let mut buffer = vec![0; room];
    loop {
        match drive(|cx| exchange.poll_read(cx, &mut buffer)) {
            Ok(0) if exchange.is_done() => break,
            Ok(length) => answered.body.extend_from_slice(&buffer[..length]),
            Err(fault) => {
                // How much was passed on before the flaw was seen depends on how it came.
                answered.body.clear();
                answered.fault = Some(fault);
                return answered;
            }
        }
    }
    match meta.framing {
        Framing::None => assert!(answered.body.is_empty()),
        Framing::Length(length) => assert_eq!(length, answered.body.len() as u64),
        Framing::Chunked | Framing::UntilClose => {}
    }
    answered.trailers = exchange.trailers().as_ref().map(pairs);
    let (io, mut after) = exchange.into_tunnel();
    let Io::Tcp(io) = io else { panic!("it was clear text") };
    after.extend(io.unread());
    answered.after = Some(after);
    answered
}

/// A request without a body.
struct Nothing;

impl BodySource for Nothing {
    fn poll_read(&mut self, _: &mut Context<'_>, _: &mut [u8]) -> Poll<Result<usize, Fault>> {
        Poll::Ready(Ok(0))
    }

    fn trailers(&mut self) -> Option<Headers> {
        None
    }
}

/// Polls until it is ready; in memory something always moves.
fn drive<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = poll(&mut cx) {
            return value;
        }
    }
    panic!("it waits for ever")
}
