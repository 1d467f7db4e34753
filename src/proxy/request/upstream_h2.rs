//! Requests to endpoints that speak HTTP/2. A worker keeps one connection per endpoint and opens another when its
//! streams are used up.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri};
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http2::{self, SendRequest};
use rustls::pki_types::CertificateDer;

use super::attempt::{Attempt, Failed, Try};
use super::body::{IncomingH2, RequestBody, ResponseBody};
use super::context::Context;
use super::exchange::Exchange;
use crate::proxy::backend::Backend;
use crate::proxy::fault::Fault;
use crate::proxy::wire::buffers::with_scratch;
use crate::proxy::wire::io::Io;
use crate::proxy::wire::pump::BodySource;
use crate::proxy::wire::stream::HyperIo;
use crate::proxy::wire::{Headers, Name, RequestHead};
use crate::telemetry::stats::Slot;

/// Streams on one connection before another one is opened; what most servers allow (RFC 9113 section 6.5.2 recommends at
/// least 100).
const STREAMS: u32 = 100;

/// A connection that requests can be sent on.
#[derive(Clone)]
pub(super) struct Sender {
    send: SendRequest<OutgoingBody>,
    streams: Rc<Cell<u32>>,
    /// The endpoint's; none in clear text.
    certificate: Option<Rc<CertificateDer<'static>>>,
}

/// A worker's HTTP/2 connections, by endpoint.
#[derive(Default)]
pub struct Senders {
    places: Vec<(u32, Vec<Sender>)>,
}

/// A connection with room for another stream that may carry a request for this host.
pub(super) fn open_connection(context: &Context, backend: &Backend, slot: Slot, head: &RequestHead) -> Option<Sender> {
    let mut senders = context.senders.borrow_mut();
    let (epoch, connections) = senders.places.get_mut(slot.index())?;
    if *epoch != slot.epoch() {
        return None;
    }
    connections.retain(|sender| !sender.send.is_closed());
    let fits = |sender: &&Sender| {
        sender.streams.get() < STREAMS && backend.may_carry(sender.certificate.as_deref(), || head.host())
    };
    connections.iter().find(fits).cloned()
}

/// Speaks HTTP/2 on a fresh connection and keeps it for later requests.
pub(super) async fn establish(context: &Rc<Context>, slot: Slot, io: Io) -> Result<Sender, Fault> {
    let limits = &context.options.limits;
    let certificate = io.endpoint_certificate().cloned().map(Rc::new);
    let (send, connection) = http2::Builder::new(super::LocalExecutor(context.clone()))
        .initial_stream_window_size(limits.stream_window.max(256 * 1024))
        .initial_connection_window_size(limits.connection_window.max(1024 * 1024))
        .max_header_list_size(limits.head.block as u32)
        .max_send_buf_size(64 * 1024)
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(std::time::Duration::from_secs(10))
        .keep_alive_timeout(std::time::Duration::from_secs(10))
        .handshake(HyperIo::new(io, Vec::new()))
        .await
        .map_err(|_| Fault::UpstreamConnect)?;
    context.spawn(async move {
        // Its end is seen by the requests on it.
        let _ = connection.await;
    });
    let sender = Sender { send, streams: Rc::default(), certificate };
    let mut senders = context.senders.borrow_mut();
    if senders.places.len() <= slot.index() {
        senders.places.resize_with(slot.index() + 1, Default::default);
    }
    let place = &mut senders.places[slot.index()];
    if place.0 != slot.epoch() {
        *place = (slot.epoch(), Vec::new());
    }
    place.1.push(sender.clone());
    Ok(sender)
}

impl Senders {
    /// Forgets connections that have ended.
    pub fn sweep(&mut self) {
        for (_, connections) in &mut self.places {
            connections.retain(|sender| !sender.send.is_closed());
        }
    }
}

/// A stream in use.
struct Stream(Rc<Cell<u32>>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(super) async fn send(
    with: &Try<'_>,
    exchange: &mut Exchange,
    mut attempt: Attempt,
    mut sender: Sender,
    body: RequestBody,
) -> Result<ResponseBody, Failed> {
    let context = with.context;
    sender.streams.set(sender.streams.get() + 1);
    let stream = Stream(sender.streams.clone());
    let shared = Rc::new(Shared {
        body: RefCell::new(Some(body)),
        taken: Cell::new(0),
        failed: Cell::new(None),
        sender: RefCell::new(None),
    });
    let request = match request_of(&exchange.request, with.backend.tls.is_some(), OutgoingBody::new(&shared)) {
        Ok(request) => request,
        Err(fault) => return Err(Failed { fault, sent: false, body: shared.take_back() }),
    };
    exchange.timer.set(with.head_deadline, context.now());
    let mut response = std::pin::pin!(sender.send.send_request(request));
    let answer = std::future::poll_fn(|cx| {
        if let Poll::Ready(answer) = response.as_mut().poll(cx) {
            return Poll::Ready(answer.map_err(|error| fault_of(&error)));
        }
        if exchange.timer.poll(cx, || context.now()).is_ready() {
            return Poll::Ready(Err(Fault::UpstreamTimeout));
        }
        if let Some(down) = with.down
            && down.body_is_done()
            && down.poll_gone(cx).is_ready()
        {
            return Poll::Ready(Err(Fault::ClientGone));
        }
        Poll::Pending
    })
    .await;
    let now = context.now();
    match answer {
        Ok(answer) => {
            let (parts, incoming) = answer.into_parts();
            exchange.response.clear();
            exchange.response.status = parts.status.as_u16();
            exchange.content_length = None;
            for (name, value) in &parts.headers {
                let name = name.as_str().as_bytes();
                if Name::of(name) == Name::ContentLength {
                    exchange.content_length =
                        std::str::from_utf8(value.as_bytes()).ok().and_then(|text| text.parse().ok());
                } else {
                    exchange.response.headers.append(name, value.as_bytes());
                }
            }
            attempt.answered(exchange.response.status, now);
            exchange.first_byte = Some(now);
            let body = UpstreamBody {
                incoming: IncomingH2::new(incoming, 0, Fault::BodyBroken),
                attempt,
                shared,
                _stream: stream,
            };
            Ok(ResponseBody::H2(Box::new(body)))
        }
        Err(fault) => {
            // A body that failed resets the stream: then the reset is not the endpoint's.
            let fault = shared.failed.get().unwrap_or(fault);
            attempt.fail(fault);
            let sent = !fault.never_processed();
            Err(Failed { fault, sent, body: shared.take_back() })
        }
    }
}

fn request_of(head: &RequestHead, https: bool, body: OutgoingBody) -> Result<Request<OutgoingBody>, Fault> {
    let method = Method::from_bytes(head.method().as_bytes()).map_err(|_| Fault::BadRequest)?;
    let query = head.query().map_or(String::new(), |query| format!("?{query}"));
    let authority = if head.authority().is_empty() { "localhost" } else { head.authority() };
    let uri = Uri::builder()
        .scheme(if https { "https" } else { "http" })
        .authority(authority)
        .path_and_query(format!("{}{query}", head.path()))
        .build()
        .map_err(|_| Fault::BadRequest)?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for field in head.headers.iter() {
        let name = HeaderName::from_bytes(field.name).map_err(|_| Fault::BadRequest)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Fault::BadRequest)?;
        request.headers_mut().append(name, value);
    }
    if head.trailers_wanted {
        request.headers_mut().insert(http::header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(length) = request.body().length {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(request)
}

/// What hyper's error says about whether the endpoint has seen the request.
fn fault_of(error: &hyper::Error) -> Fault {
    if error.is_canceled() {
        return Fault::UpstreamRefused;
    }
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(inner) = source {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM)
                || h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR);
            return if refused { Fault::UpstreamRefused } else { Fault::UpstreamReset };
        }
        source = inner.source();
    }
    Fault::UpstreamReset
}

/// A request body that hyper sends and that can be taken back.
struct Shared {
    body: RefCell<Option<RequestBody>>,
    taken: Cell<u64>,
    /// Why the body could not be completed, which the endpoint is not to blame for.
    failed: Cell<Option<Fault>>,
    /// hyper's task that sends the body: it goes on after the response, unless it is told that the body is gone.
    sender: RefCell<Option<Waker>>,
}

impl Shared {
    /// Takes the body back from hyper, whose stream then ends by a reset, never as if the body were complete.
    fn take_back(&self) -> Option<RequestBody> {
        let body = self.body.borrow_mut().take();
        if let Some(sender) = self.sender.borrow_mut().take() {
            sender.wake();
        }
        body
    }
}

pub(super) struct OutgoingBody {
    shared: Rc<Shared>,
    length: Option<u64>,
    empty: bool,
    done: bool,
}

impl OutgoingBody {
    fn new(shared: &Rc<Shared>) -> Self {
        let body = shared.body.borrow();
        let (length, empty) = body.as_ref().map_or((None, true), |body| (body.length, body.is_empty()));
        drop(body);
        Self { shared: shared.clone(), length: length.filter(|_| !empty), empty, done: empty }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = FaultError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, FaultError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        *self.shared.sender.borrow_mut() = Some(cx.waker().clone());
        let mut body = self.shared.body.borrow_mut();
        let Some(source) = body.as_mut() else { return Poll::Ready(Some(Err(FaultError(Fault::ClientGone)))) };
        let read = with_scratch(|scratch| {
            source.poll_read(cx, &mut scratch[..16 * 1024]).map_ok(|read| Bytes::copy_from_slice(&scratch[..read]))
        });
        let piece = match ready!(read) {
            Ok(piece) => piece,
            Err(fault) => {
                self.shared.failed.set(Some(fault));
                return Poll::Ready(Some(Err(FaultError(fault))));
            }
        };
        if !piece.is_empty() {
            self.shared.taken.set(self.shared.taken.get() + piece.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let trailers = source.trailers().and_then(|trailers| map_of(&trailers));
        drop(body);
        self.done = true;
        Poll::Ready(trailers.map(|map| Ok(Frame::trailers(map))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None if self.empty => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

/// A fault as hyper wants errors.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.code())]
pub struct FaultError(pub Fault);

/// Fields as hyper wants them; fields that it does not take are left out.
pub fn map_of(headers: &Headers) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for field in headers.iter() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value)) {
            map.append(name, value);
        }
    }
    (!map.is_empty()).then_some(map)
}

/// A response body on an HTTP/2 stream.
pub struct UpstreamBody {
    incoming: IncomingH2,
    attempt: Attempt,
    shared: Rc<Shared>,
    _stream: Stream,
}

impl UpstreamBody {
    pub(super) fn is_over(&self) -> bool {
        self.incoming.is_done() && !self.incoming.has_trailers()
    }

    pub(super) fn uploaded(&self) -> u64 {
        self.shared.taken.get()
    }

    pub(super) fn is_replayable(&self) -> bool {
        self.shared.body.borrow().as_ref().is_some_and(RequestBody::is_replayable)
    }

    /// Gives the response up for the body of its request; its stream is reset if it is not over.
    pub(super) fn take_request(self) -> Option<RequestBody> {
        self.shared.take_back()
    }

    pub(super) fn take_trailers(&mut self) -> Option<Headers> {
        self.incoming.take_trailers()
    }

    pub(super) fn poll_read(&mut self, cx: &mut Task<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let read = self.incoming.poll_read(cx, buffer, |_| Fault::BodyBroken);
        self.judge(&read);
        read
    }

    /// The next piece as it came, for a client that speaks HTTP/2 too.
    pub(super) fn poll_piece(&mut self, cx: &mut Task<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let piece = self.incoming.poll_piece(cx, |_| Fault::BodyBroken);
        self.judge(&piece);
        piece
    }

    fn judge<T>(&mut self, result: &Poll<Result<T, Fault>>) {
        if let Poll::Ready(Err(fault)) = result {
            self.attempt.fail(self.shared.failed.get().unwrap_or(*fault));
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // What is left of the request belongs to the client's connection again.
        drop(self.shared.take_back());
    }
}
