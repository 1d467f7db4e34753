//! Bodies: what a client sends and what it gets, whatever protocol either side speaks.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body as _, Incoming};

use super::attempt::Attempt;
use super::context::Context;
use super::upstream_h2;
use crate::proxy::fault::Fault;
use crate::proxy::policy::hop;
use crate::proxy::wire::buffers::with_scratch;
use crate::proxy::wire::chunked::may_trail;
use crate::proxy::wire::client::Exchange;
use crate::proxy::wire::pump::BodySource;
use crate::proxy::wire::server::IncomingBody;
use crate::proxy::wire::timers::Timer;
use crate::proxy::wire::{Headers, Name};

/// Bytes of a request body that are kept so that it can be sent again.
pub const REPLAY: u64 = 64 * 1024;

/// Bytes of one piece for an HTTP/2 client: the send buffer of a stream.
const PIECE: usize = 64 * 1024;

/// Reads of a response that is given up, after which its connection is given up too.
const GIVEN_UP: usize = 4;

/// The body of a request.
pub struct RequestBody {
    source: Source,
    /// Length, when the client announced it.
    pub length: Option<u64>,
    record: Option<Vec<u8>>,
    replay: usize,
    taken: bool,
    /// The trailers were handed out, and are gone with that.
    trailed: bool,
    idle: Duration,
    timer: Option<Timer>,
    context: Rc<Context>,
}

enum Source {
    Empty,
    H1(IncomingBody),
    /// Boxed: it is large, and a body without it moves through every step of a request.
    H2(Box<IncomingH2>),
    Bytes(Bytes),
}

/// A body on an HTTP/2 stream, from either door.
#[derive(Debug)]
pub(super) struct IncomingH2 {
    incoming: Incoming,
    rest: Bytes,
    trailers: Option<Headers>,
    done: bool,
    limit: u64,
    taken: u64,
    /// What it means when the stream ends without saying so.
    truncated: Fault,
}

impl IncomingH2 {
    pub(super) fn new(incoming: Incoming, limit: u64, truncated: Fault) -> Self {
        let done = incoming.is_end_stream();
        Self { incoming, rest: Bytes::new(), trailers: None, done, limit, taken: 0, truncated }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done && self.rest.is_empty()
    }

    pub(super) fn has_trailers(&self) -> bool {
        self.trailers.is_some()
    }

    pub(super) fn take_trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }

    /// The next piece; none is the end.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Task<'_>,
        broken: impl Fn(&hyper::Error) -> Fault,
    ) -> Poll<Result<Option<Bytes>, Fault>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        loop {
            if self.done {
                return Poll::Ready(Ok(None));
            }
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                // hyper makes a plain end of RST_STREAM with NO_ERROR.
                None if !self.incoming.is_end_stream() => return Poll::Ready(Err(self.truncated)),
                None => self.done = true,
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.done = self.incoming.is_end_stream();
                        self.taken += data.len() as u64;
                        if self.limit != 0 && self.taken > self.limit {
                            return Poll::Ready(Err(Fault::BodyTooLarge));
                        }
                        if !data.is_empty() {
                            return Poll::Ready(Ok(Some(data)));
                        }
                    }
                    Err(frame) => {
                        if let Ok(map) = frame.into_trailers() {
                            let mut trailers = Headers::default();
                            for (name, value) in &map {
                                if may_trail(Name::of(name.as_str().as_bytes())) {
                                    trailers.append(name.as_str().as_bytes(), value.as_bytes());
                                }
                            }
                            self.trailers = Some(trailers);
                        }
                        self.done = true;
                    }
                },
            }
        }
    }

    /// As [`BodySource::poll_read`].
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Task<'_>,
        buffer: &mut [u8],
        broken: impl Fn(&hyper::Error) -> Fault,
    ) -> Poll<Result<usize, Fault>> {
        if self.rest.is_empty() {
            match ready!(self.poll_piece(cx, broken))? {
                Some(piece) => self.rest = piece,
                None => return Poll::Ready(Ok(0)),
            }
        }
        let take = self.rest.len().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..take]);
        Poll::Ready(Ok(take))
    }
}

impl RequestBody {
    /// No body.
    pub fn empty(context: &Rc<Context>) -> Self {
        Self::new(context, Source::Empty, Some(0))
    }

    /// From an HTTP/1 connection.
    pub fn h1(context: &Rc<Context>, body: IncomingBody, length: Option<u64>) -> Self {
        if body.is_done() { Self::empty(context) } else { Self::new(context, Source::H1(body), length) }
    }

    /// From an HTTP/2 stream.
    pub fn h2(context: &Rc<Context>, incoming: Incoming, length: Option<u64>) -> Self {
        if incoming.is_end_stream() {
            return Self::empty(context);
        }
        let limit = context.options.limits.body;
        Self::new(context, Source::H2(Box::new(IncomingH2::new(incoming, limit, Fault::ClientGone))), length)
    }

    /// These bytes.
    pub fn bytes(context: &Rc<Context>, bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::new(context, Source::Bytes(bytes), Some(length))
    }

    fn new(context: &Rc<Context>, source: Source, length: Option<u64>) -> Self {
        Self {
            source,
            length,
            record: None,
            replay: 0,
            taken: false,
            trailed: false,
            idle: context.options.timeouts.body_idle,
            timer: None,
            context: context.clone(),
        }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self.source, Source::Empty)
    }

    /// Keeps what is read, up to [`REPLAY`] bytes, so that it can be sent again.
    pub fn record(&mut self) {
        if !self.is_empty() && !self.taken {
            self.record = Some(Vec::new());
        }
    }

    /// Prepares for another attempt. False: bytes are gone that would be needed.
    pub fn rewind(&mut self) -> bool {
        self.replay = 0;
        self.is_replayable()
    }

    /// Whether all of it can be sent once more.
    pub fn is_replayable(&self) -> bool {
        !self.trailed && (self.is_empty() || !self.taken || self.record.is_some())
    }

    /// Whether the client has nothing more to send, so that its connection may be watched for its end.
    pub fn is_over(&self) -> bool {
        match &self.source {
            Source::Empty | Source::Bytes(_) => true,
            Source::H1(body) => body.is_done(),
            Source::H2(body) => body.is_done(),
        }
    }

    fn poll_source(&mut self, cx: &mut Task<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        match &mut self.source {
            Source::Empty => Poll::Ready(Ok(0)),
            Source::H1(body) => body.poll_read(cx, buffer),
            Source::H2(body) => body.poll_read(cx, buffer, |_| Fault::ClientGone),
            Source::Bytes(bytes) => {
                let take = bytes.len().min(buffer.len());
                bytes.copy_to_slice(&mut buffer[..take]);
                Poll::Ready(Ok(take))
            }
        }
    }
}

impl BodySource for RequestBody {
    fn poll_read(&mut self, cx: &mut Task<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        if let Some(record) = &self.record
            && self.replay < record.len()
        {
            let take = (record.len() - self.replay).min(buffer.len());
            buffer[..take].copy_from_slice(&record[self.replay..self.replay + take]);
            self.replay += take;
            return Poll::Ready(Ok(take));
        }
        match self.poll_source(cx, buffer) {
            Poll::Ready(result) => {
                if let Some(timer) = &self.timer {
                    timer.clear();
                }
                if let Ok(read) = result {
                    self.taken |= read > 0;
                    if let Some(record) = &mut self.record {
                        if record.len() + read > REPLAY as usize {
                            self.record = None;
                        } else {
                            record.extend_from_slice(&buffer[..read]);
                            self.replay = record.len();
                        }
                    }
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let now = self.context.now();
                let timer = self.timer.get_or_insert_with(|| self.context.timers.timer());
                if !timer.is_set() {
                    timer.set(now + self.idle.as_nanos() as u64, now);
                }
                ready!(timer.poll(cx, || now));
                Poll::Ready(Err(Fault::BodyTimeout))
            }
        }
    }

    fn trailers(&mut self) -> Option<Headers> {
        let mut trailers = match &mut self.source {
            Source::H1(body) => body.trailers()?,
            Source::H2(body) => body.take_trailers()?,
            Source::Empty | Source::Bytes(_) => return None,
        };
        self.trailed = true;
        hop::strip_request_trailers(&mut trailers, self.context.underscores());
        (!trailers.is_empty()).then_some(trailers)
    }
}

/// The body of a response.
pub enum ResponseBody {
    /// None.
    Empty,
    /// Weir's own.
    Bytes(Bytes),
    /// From an HTTP/1 connection.
    H1(UpstreamBody),
    /// From an HTTP/2 stream.
    H2(Box<upstream_h2::UpstreamBody>),
    /// Not a body: the client's connection is to be joined with this one.
    Tunnel(Box<super::upgrade::Upgraded>),
}

/// A response body on an HTTP/1 connection, which is given back when it ends.
pub struct UpstreamBody {
    state: Option<(Box<Exchange<RequestBody>>, Attempt)>,
    trailers: Option<Box<Headers>>,
    uploaded: u64,
}

impl UpstreamBody {
    pub(super) fn new(exchange: Box<Exchange<RequestBody>>, attempt: Attempt) -> Self {
        Self { state: Some((exchange, attempt)), trailers: None, uploaded: 0 }
    }

    fn release(&mut self) {
        if let Some((mut exchange, mut attempt)) = self.state.take() {
            self.trailers = exchange.trailers().map(Box::new);
            self.uploaded = exchange.uploaded();
            attempt.succeed();
            if let (_, Some(io)) = exchange.finish() {
                attempt.keep(io);
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Task<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let Some((exchange, attempt)) = &mut self.state else { return Poll::Ready(Ok(0)) };
        match exchange.poll_read(cx, buffer) {
            Poll::Ready(Ok(read)) => {
                if exchange.is_done() {
                    self.release();
                }
                Poll::Ready(Ok(read))
            }
            Poll::Ready(Err(fault)) => {
                attempt.fail(fault);
                Poll::Ready(Err(fault))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl ResponseBody {
    /// Whether it is known that nothing (more) comes.
    pub fn is_over(&self) -> bool {
        match self {
            ResponseBody::Empty | ResponseBody::Tunnel(_) => true,
            ResponseBody::Bytes(bytes) => bytes.is_empty(),
            ResponseBody::H1(body) => body.state.is_none() && body.trailers.is_none(),
            ResponseBody::H2(body) => body.is_over(),
        }
    }

    /// The next piece, for a client that takes pieces as they come; none is the end.
    ///
    /// # Errors
    /// As [`BodySource::poll_read`].
    pub fn poll_piece(&mut self, cx: &mut Task<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        match self {
            ResponseBody::Empty | ResponseBody::Tunnel(_) => Poll::Ready(Ok(None)),
            ResponseBody::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready(Ok((!bytes.is_empty()).then_some(bytes)))
            }
            ResponseBody::H2(body) => body.poll_piece(cx),
            ResponseBody::H1(body) => with_scratch(|scratch| {
                let read = ready!(body.poll_read(cx, &mut scratch[..PIECE]))?;
                Poll::Ready(Ok((read > 0).then(|| Bytes::copy_from_slice(&scratch[..read]))))
            }),
        }
    }

    /// Body bytes of the request that went to the endpoint.
    pub fn uploaded(&self) -> u64 {
        match self {
            ResponseBody::H1(body) => body.state.as_ref().map_or(body.uploaded, |(exchange, _)| exchange.uploaded()),
            ResponseBody::H2(body) => body.uploaded(),
            _ => 0,
        }
    }

    /// Whether the request that this answers could be sent once more.
    pub(super) fn is_replayable(&self) -> bool {
        match self {
            ResponseBody::H1(body) => body.state.as_ref().is_some_and(|(exchange, _)| exchange.body().is_replayable()),
            ResponseBody::H2(body) => body.is_replayable(),
            _ => false,
        }
    }

    /// Gives up a response of which nothing was sent on, for the body of its request. A response that has arrived whole
    /// leaves its connection in use; for the rest of a longer one nobody waits.
    pub(super) async fn into_request(self) -> Option<RequestBody> {
        match self {
            ResponseBody::H1(body) => {
                let (mut exchange, mut attempt) = body.state?;
                poll_fn(|cx| {
                    with_scratch(|scratch| {
                        for _ in 0..GIVEN_UP {
                            if exchange.is_done() || !matches!(exchange.poll_read(cx, scratch), Poll::Ready(Ok(_))) {
                                break;
                            }
                        }
                    });
                    Poll::Ready(())
                })
                .await;
                attempt.succeed();
                let (request, io) = exchange.finish();
                if let Some(io) = io {
                    attempt.keep(io);
                }
                Some(request)
            }
            ResponseBody::H2(body) => body.take_request(),
            _ => None,
        }
    }

    /// Ends an exchange whose response is over for the client: a complete one gives its connection back.
    pub fn close(&mut self) {
        if let ResponseBody::H1(body) = self
            && body.state.as_ref().is_some_and(|(exchange, _)| exchange.is_done())
        {
            body.release();
        }
    }
}

impl BodySource for ResponseBody {
    fn poll_read(&mut self, cx: &mut Task<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        match self {
            ResponseBody::Empty | ResponseBody::Tunnel(_) => Poll::Ready(Ok(0)),
            ResponseBody::Bytes(bytes) => {
                let take = bytes.len().min(buffer.len());
                bytes.copy_to_slice(&mut buffer[..take]);
                Poll::Ready(Ok(take))
            }
            ResponseBody::H1(body) => body.poll_read(cx, buffer),
            ResponseBody::H2(body) => body.poll_read(cx, buffer),
        }
    }

    fn trailers(&mut self) -> Option<Headers> {
        match self {
            ResponseBody::H1(body) => body.trailers.take().map(|trailers| *trailers),
            ResponseBody::H2(body) => body.take_trailers(),
            _ => None,
        }
    }
}
