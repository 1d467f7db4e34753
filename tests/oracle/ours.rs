//! What Weir's engine understands of a byte stream.

use std::future::poll_fn;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::net::TcpStream;
use weir::proxy::fault::Fault;
use weir::proxy::wire::chunked::ChunkLimits;
use weir::proxy::wire::client::{Answer, Exchange};
use weir::proxy::wire::head::{Headers, RequestHead, ResponseHead};
use weir::proxy::wire::io::Io;
use weir::proxy::wire::parse::HeadLimits;
use weir::proxy::wire::pump::{BodySource, Coding, Out};
use weir::proxy::wire::server::{Arrival, Connection, IncomingBody};

use crate::transcript::{End, Message, Pairs, Transcript};

const CHUNKS: ChunkLimits = ChunkLimits { extensions: 256, trailers: 4096 };

/// A connection whose other side has sent these bytes and closed its direction. A pair of Unix sockets is quick to make
/// and uses up no ports; to the system it reads and writes like any stream.
fn stream(bytes: &[u8]) -> (Io, UnixStream) {
    let (near, mut far) = UnixStream::pair().unwrap();
    far.write_all(bytes).unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    near.set_nonblocking(true).unwrap();
    let near = std::net::TcpStream::from(OwnedFd::from(near));
    (Io::Tcp(TcpStream::from_std(near).unwrap()), far)
}

/// Reads requests until the stream ends or the connection must be closed. Of the bytes, those before `cut` have been
/// read already.
pub async fn requests(bytes: &[u8], cut: usize) -> Transcript {
    let limits = HeadLimits::default();
    let (io, _far) = stream(&bytes[cut..]);
    let connection = Rc::new(Connection::new(io, bytes[..cut].to_vec()));
    let mut messages = Vec::new();
    loop {
        let done = |messages, end| Transcript { messages, end, left: None };
        let mut head: Option<Box<RequestHead>> = None;
        let make = Box::<RequestHead>::default;
        let meta = match poll_fn(|cx| connection.poll_head(cx, &limits, false, &mut head, make)).await {
            Ok(Arrival::Request(meta)) => meta,
            Ok(Arrival::Closed | Arrival::Preface) => return done(messages, End::Complete),
            Err(fault) => return done(messages, end_by(fault)),
        };
        let head = head.unwrap();
        let mut source = IncomingBody::begin(&connection, &meta, CHUNKS, 0);
        let mut body = Vec::new();
        let mut buffer = [0; 4096];
        let end = loop {
            match poll_fn(|cx| source.poll_read(cx, &mut buffer)).await {
                Ok(0) => break End::Complete,
                Ok(length) => body.extend_from_slice(&buffer[..length]),
                Err(fault) => break end_by(fault),
            }
        };
        let start = match head.query() {
            Some(query) => format!("{}?{query}", head.path()),
            None => head.path().to_owned(),
        };
        messages.push(Message {
            start: vec![head.method().to_owned(), start],
            authority: (!head.authority().is_empty()).then(|| head.authority().to_owned()),
            fields: pairs(&head.headers),
            body,
            end,
            trailers: source.trailers().as_ref().map(pairs).unwrap_or_default(),
        });
        if end != End::Complete || !meta.keep_alive {
            return done(messages, End::Complete);
        }
    }
}

fn end_by(fault: Fault) -> End {
    match fault {
        Fault::ClientGone => End::Unfinished,
        _ => End::Refused,
    }
}

/// Reads one response.
pub async fn response(bytes: &[u8], to_head: bool) -> Transcript {
    let (io, _far) = stream(bytes);
    let mut exchange = Exchange::new(io, Nothing, Coding::None, CHUNKS);
    let mut head = ResponseHead::default();
    let none = |end| Transcript { messages: Vec::new(), end, left: None };
    loop {
        let write = |out: &mut Out<'_>| out.put(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let polled = poll_fn(|cx| exchange.poll_head(cx, write, &HeadLimits::default(), to_head, false, &mut head));
        match polled.await {
            Ok(Answer::Interim) => {}
            Ok(Answer::Final(_)) => break,
            Err(Fault::UpstreamReset) => return none(End::Unfinished),
            Err(_) => return none(End::Refused),
        }
    }
    let mut body = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        match poll_fn(|cx| exchange.poll_read(cx, &mut buffer)).await {
            Ok(0) if exchange.is_done() => break End::Complete,
            Ok(length) => body.extend_from_slice(&buffer[..length]),
            // The engine does not say whether the body was cut off or malformed.
            Err(_) => break End::Refused,
        }
    };
    let trailers = exchange.trailers().as_ref().map(pairs).unwrap_or_default();
    let (mut io, held) = exchange.into_tunnel();
    let mut left = held.len();
    while let Ok(length @ 1..) = poll_fn(|cx| io.poll_read(cx, &mut buffer)).await {
        left += length;
    }
    let message = Message {
        start: vec![head.status.to_string()],
        authority: None,
        fields: pairs(&head.headers),
        body,
        end,
        trailers,
    };
    Transcript { messages: vec![message], end: End::Complete, left: Some(left) }
}

fn pairs(headers: &Headers) -> Pairs {
    let name = |name: &[u8]| String::from_utf8(name.to_ascii_lowercase()).unwrap();
    headers.iter().map(|field| (name(field.name), field.value.to_vec())).collect()
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
