//! The client's side of HTTP/1: heads and bodies from a downstream connection.
//!
//! The connection owns no buffer while it waits: bytes are read into the worker's scratch and only what a message does
//! not consume is kept.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::buffers::with_scratch;
use super::chunked::{ChunkLimits, Decoder, Step};
use super::head::{Headers, RequestHead};
use super::io::{Io, Unsent};
use super::parse::{self, Framing, HeadLimits, RequestMeta};
use super::pump::BodySource;
use crate::proxy::fault::Fault;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes asked for while a head is expected.
const HEAD_READ: usize = 32 * 1024;

/// Bytes of later requests that are taken in while one is being answered.
const PIPELINE: usize = 64 * 1024;

/// A downstream HTTP/1 connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream; borrowed only within a poll.
    pub io: RefCell<Io>,
    input: RefCell<Vec<u8>>,
    ended: Cell<bool>,
    broken: Cell<bool>,
    interim: RefCell<Unsent>,
    body: RefCell<Body>,
}

/// What is known of the body of the current request.
#[derive(Debug, Default)]
struct Body {
    rest: Rest,
    expects_continue: bool,
    /// Rare, and large beside the rest of an idle connection.
    trailers: Option<Box<Headers>>,
    /// Most bytes; 0 is no limit.
    limit: u64,
    taken: u64,
}

#[derive(Debug, Default)]
enum Rest {
    Length(u64),
    Chunked(Decoder),
    #[default]
    Done,
    /// Where it ends is not known any more.
    Failed,
}

/// What came instead of nothing.
#[derive(Debug)]
pub enum Arrival {
    /// A request head.
    Request(RequestMeta),
    /// The HTTP/2 preface.
    Preface,
    /// The client closed between two requests.
    Closed,
}

impl Connection {
    /// For a stream of which `input` has been read already.
    pub fn new(io: Io, input: Vec<u8>) -> Self {
        Self {
            io: RefCell::new(io),
            input: RefCell::new(input),
            ended: Cell::new(false),
            broken: Cell::new(false),
            interim: RefCell::default(),
            body: RefCell::default(),
        }
    }

    /// Takes the connection apart: the stream and what was read but not used.
    pub fn into_parts(self) -> (Io, Vec<u8>) {
        (self.io.into_inner(), self.input.into_inner())
    }

    /// Reads on and throws away. `Ready` when the client has closed.
    pub fn poll_sink(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let read = with_scratch(|scratch| self.io.borrow_mut().poll_read(cx, scratch));
            if let Ok(0) | Err(_) = ready!(read) {
                return Poll::Ready(());
            }
        }
    }

    /// What was read but not used.
    pub fn take_input(&self) -> Vec<u8> {
        self.input.take()
    }

    /// Whether any byte of a next head has arrived.
    pub fn has_input(&self) -> bool {
        !self.input.borrow().is_empty()
    }

    /// Waits for the next head. `head` is made by `make` when bytes are there, so that a waiting connection has none.
    ///
    /// # Errors
    /// The fault to answer with; [`Fault::ClientGone`] when nothing can be answered.
    pub fn poll_head<H: AsMut<RequestHead>>(
        &self,
        cx: &mut Context<'_>,
        limits: &HeadLimits,
        preface: bool,
        head: &mut Option<H>,
        make: impl Fn() -> H,
    ) -> Poll<Result<Arrival, Fault>> {
        let mut understand = |bytes: &[u8]| -> Result<Option<Arrival>, Fault> {
            if preface && !bytes.is_empty() && PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
                return Ok((bytes.len() >= PREFACE.len()).then_some(Arrival::Preface));
            }
            let place = head.get_or_insert_with(&make).as_mut();
            place.clear();
            Ok(parse::request(bytes, limits, place)?.map(Arrival::Request))
        };
        {
            let mut input = self.input.borrow_mut();
            if !input.is_empty()
                && let Some(arrival) = understand(&input)?
            {
                if let Arrival::Request(meta) = &arrival {
                    consume(&mut input, meta.length);
                }
                return Poll::Ready(Ok(arrival));
            }
        }
        loop {
            let arrival = with_scratch(|scratch| {
                let read = match self.io.borrow_mut().poll_read(cx, &mut scratch[..HEAD_READ]) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0)) if self.input.borrow().is_empty() => {
                        return Poll::Ready(Ok(Some(Arrival::Closed)));
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                    Poll::Ready(Ok(read)) => read,
                };
                let mut input = self.input.borrow_mut();
                if !input.is_empty() {
                    input.extend_from_slice(&scratch[..read]);
                    let arrival = understand(&input)?;
                    if let Some(Arrival::Request(meta)) = &arrival {
                        consume(&mut input, meta.length);
                    }
                    return Poll::Ready(Ok(arrival));
                }
                let bytes = &scratch[..read];
                let arrival = understand(bytes)?;
                match &arrival {
                    Some(Arrival::Request(meta)) => input.extend_from_slice(&bytes[meta.length..]),
                    _ => input.extend_from_slice(bytes),
                }
                Poll::Ready(Ok(arrival))
            });
            if let Some(arrival) = ready!(arrival)? {
                return Poll::Ready(Ok(arrival));
            }
        }
    }

    /// While a request without a body (left) is being answered: notices that the connection is broken, and takes in what
    /// the client pipelines. Never `Ready` otherwise: a client that has only ended its own direction may still be waiting
    /// for the answer; see [`Connection::has_ended`].
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.broken.get() {
                return Poll::Ready(());
            }
            let mut input = self.input.borrow_mut();
            if self.ended.get() || input.len() >= PIPELINE {
                return Poll::Pending;
            }
            let read = with_scratch(|scratch| {
                let read = self.io.borrow_mut().poll_read(cx, &mut scratch[..HEAD_READ]);
                if let Poll::Ready(Ok(read)) = &read {
                    input.extend_from_slice(&scratch[..*read]);
                }
                read
            });
            match ready!(read) {
                Ok(0) => self.ended.set(true),
                Err(_) => self.broken.set(true),
                Ok(_) => {}
            }
        }
    }

    /// Whether the client has ended its direction: nothing more comes, and probably, but not certainly, nobody waits.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Sends an interim response (1xx) between other writes. Not waited for: a client that does not read it gets it
    /// before the next one, or the final response.
    pub fn send_interim(&self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        match self.interim.borrow_mut().write(&mut self.io.borrow_mut(), cx, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Waits until interim responses have left; to be called before the final one.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_interim_sent(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut interim = self.interim.borrow_mut();
        if interim.is_empty() {
            return Poll::Ready(Ok(()));
        }
        interim.flush(&mut self.io.borrow_mut(), cx)
    }
}

fn consume(input: &mut Vec<u8>, length: usize) {
    if length == input.len() {
        *input = Vec::new();
    } else {
        input.drain(..length);
    }
}

/// The body of the current request on a downstream connection. What is not read stays there.
#[derive(Debug)]
pub struct IncomingBody(Rc<Connection>);

impl IncomingBody {
    /// The body that follows a head. `limit`: most bytes, 0 is no limit.
    pub fn begin(connection: &Rc<Connection>, meta: &RequestMeta, chunks: ChunkLimits, limit: u64) -> Self {
        let rest = match meta.framing {
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(Decoder::new(chunks)),
            Framing::None | Framing::UntilClose => Rest::Done,
        };
        *connection.body.borrow_mut() =
            Body { rest, expects_continue: meta.expects_continue, trailers: None, limit, taken: 0 };
        Self(connection.clone())
    }

    /// Whether the whole body has been read.
    pub fn is_done(&self) -> bool {
        self.0.body_is_done()
    }
}

impl Connection {
    /// Whether the whole body of the current request has been read.
    pub fn body_is_done(&self) -> bool {
        matches!(self.body.borrow().rest, Rest::Done)
    }

    /// Whether the client still waits to be told to send its body: whether it will is not certain.
    pub fn body_is_held_back(&self) -> bool {
        self.body.borrow().expects_continue
    }

    fn poll_body(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let body = &mut *self.body.borrow_mut();
        if body.expects_continue {
            body.expects_continue = false;
            if self.send_interim(cx, b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return Poll::Ready(Err(Fault::ClientGone));
            }
        }
        let read = match &mut body.rest {
            Rest::Done => return Poll::Ready(Ok(0)),
            Rest::Failed => return Poll::Ready(Err(Fault::BadRequest)),
            Rest::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let read = ready!(poll_bytes(self, cx, &mut buffer[..most]))?;
                *left -= read as u64;
                if *left == 0 {
                    body.rest = Rest::Done;
                }
                read
            }
            Rest::Chunked(decoder) => {
                let decoded = match ready!(poll_chunks(self, decoder, cx, buffer)) {
                    Ok(read) if decoder.is_done() => match decoder.trailers() {
                        Ok(trailers) => Ok((read, Some(trailers))),
                        Err(_) => Err(Fault::BadRequest),
                    },
                    Ok(read) => Ok((read, None)),
                    Err(fault) => Err(fault),
                };
                match decoded {
                    Ok((read, None)) => read,
                    Ok((read, Some(trailers))) => {
                        body.trailers = trailers.map(Box::new);
                        body.rest = Rest::Done;
                        read
                    }
                    Err(fault) => {
                        body.rest = Rest::Failed;
                        return Poll::Ready(Err(fault));
                    }
                }
            }
        };
        body.taken += read as u64;
        if body.limit != 0 && body.taken > body.limit {
            return Poll::Ready(Err(Fault::BodyTooLarge));
        }
        Poll::Ready(Ok(read))
    }

    /// Reads what is left of the body and throws it away. `Ready(true)`: it is over; false: it failed, or there is more
    /// than `left` bytes.
    pub fn poll_discard(&self, cx: &mut Context<'_>, left: &mut usize) -> Poll<bool> {
        loop {
            if self.body_is_done() {
                return Poll::Ready(true);
            }
            let read = with_scratch(|scratch| {
                let most = scratch.len().min(HEAD_READ);
                self.poll_body(cx, &mut scratch[..most])
            });
            match ready!(read) {
                Ok(read) if read <= *left => *left -= read,
                _ => return Poll::Ready(false),
            }
        }
    }
}

impl BodySource for IncomingBody {
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        self.0.poll_body(cx, buffer)
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.0.body.borrow_mut().trailers.take().map(|trailers| *trailers)
    }
}

fn poll_bytes(connection: &Connection, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
    let mut input = connection.input.borrow_mut();
    if !input.is_empty() {
        let take = input.len().min(buffer.len());
        buffer[..take].copy_from_slice(&input[..take]);
        consume(&mut input, take);
        return Poll::Ready(Ok(take));
    }
    match ready!(connection.io.borrow_mut().poll_read(cx, buffer)) {
        Ok(0) | Err(_) => Poll::Ready(Err(Fault::ClientGone)),
        Ok(read) => Poll::Ready(Ok(read)),
    }
}

/// Reads and decodes until there is data or the end. What follows the body stays in the connection's input.
fn poll_chunks(
    connection: &Connection,
    decoder: &mut Decoder,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<Result<usize, Fault>> {
    loop {
        let mut input = connection.input.borrow_mut();
        if input.is_empty() {
            let read = with_scratch(|scratch| {
                let most = scratch.len().min(buffer.len());
                let read = connection.io.borrow_mut().poll_read(cx, &mut scratch[..most]);
                if let Poll::Ready(Ok(read)) = read {
                    input.extend_from_slice(&scratch[..read]);
                }
                read
            });
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::ClientGone)),
                Ok(_) => {}
            }
        }
        let (used, written) = decode_into(decoder, &input, buffer).map_err(|()| Fault::BadRequest)?;
        consume(&mut input, used);
        if written > 0 || decoder.is_done() {
            return Poll::Ready(Ok(written));
        }
    }
}

/// Decodes as much of `input` as fits into `buffer`. Returns bytes used and bytes written.
pub(super) fn decode_into(decoder: &mut Decoder, input: &[u8], buffer: &mut [u8]) -> Result<(usize, usize), ()> {
    let (mut used, mut written) = (0, 0);
    loop {
        // Never more input than there is room for its data.
        let most = (input.len() - used).min(buffer.len() - written);
        if most == 0 {
            return Ok((used, written));
        }
        let (step_used, step) = decoder.step(&input[used..used + most]).map_err(|_| ())?;
        used += step_used;
        match step {
            Step::Data(length) => {
                buffer[written..written + length].copy_from_slice(&input[used - length..used]);
                written += length;
            }
            Step::More => {}
            Step::End => return Ok((used, written)),
        }
    }
}
