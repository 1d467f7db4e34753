//! HTTP/2 connections, by hyper: each stream is one request on the same path as every other.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;

use crate::proxy::backend::End;
use crate::proxy::fault::Fault;
use crate::proxy::request::{
    Context, Ending, FaultError, LocalExecutor, Origin, RequestBody, ResponseBody, Running, Watch, handle, map_of,
    refuse,
};
use crate::proxy::wire::frames::Sentinel;
use crate::proxy::wire::io::Io;
use crate::proxy::wire::parse::is_authority;
use crate::proxy::wire::pump::BodySource;
use crate::proxy::wire::stream::HyperIo;
use crate::proxy::wire::{Headers, Name, RequestHead, Version};
use crate::telemetry::clock;
use crate::telemetry::gauges::ListenerCounters;

/// Between two signs of life asked from a quiet client, and how long it has for each.
const PING: Duration = Duration::from_secs(20);

/// Serves a connection to its end.
pub(super) async fn serve(
    context: &Rc<Context>,
    counters: &Arc<ListenerCounters>,
    origin: Rc<Origin>,
    io: Io,
    input: Vec<u8>,
) {
    let limits = &context.options.limits;
    let mut builder = http2::Builder::new(LocalExecutor(context.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.header_list)
        .max_send_buf_size(limits.send_buffer)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.local_resets)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let sentinel = Sentinel::new(limits.overhead, limits.header_list, context.now());
    let mut stream = HyperIo::watched(io, input, sentinel, clock::now);
    let ended = stream.ended();
    let progress = stream.progress();
    let active = Rc::new(Cell::new(0usize));
    let responses = Responses::default();
    let service = {
        let context = context.clone();
        let counters = counters.clone();
        let active = active.clone();
        let responses = responses.clone();
        service_fn(move |request| {
            let context = context.clone();
            let origin = origin.clone();
            let responses = responses.clone();
            let stream = Stream::open(&active, &counters);
            async move { Ok::<_, std::convert::Infallible>(answer(&context, &origin, stream, &responses, request).await) }
        })
    };
    let mut connection = Box::pin(builder.serve_connection(stream, service));
    let timer = context.timers.timer();
    let idle = context.options.timeouts.keep_alive.as_nanos() as u64;
    let stalled = context.options.timeouts.tunnel_idle.as_nanos() as u64;
    let unread = 4 * context.options.timeouts.body_idle.as_nanos() as u64;
    let mut leaving = false;
    let mut moved = None;
    let mut since = context.now();
    std::future::poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let now = context.now();
        if context.draining.get() && !leaving {
            leaving = true;
            connection.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        if progress.moved() != moved {
            moved = progress.moved();
            since = now;
        }
        // Streams keep a connection; without one it is idle.
        let quiet = active.get() == 0;
        let until = since.saturating_add(if quiet { idle } else { stalled });
        if now >= until {
            if !quiet || leaving {
                return Poll::Ready(());
            }
            leaving = true;
            since = now;
            connection.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        responses.give_up(now, unread);
        timer.set(if quiet { until } else { until.min(now + unread / 4) }, now);
        if timer.poll(cx, || now).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    if let Some(flood) = progress.flood() {
        counters.floods[flood as usize].add(1);
    }
    // The stream outlives its connection until its last words are said, in bounded time. Until then the client's place is
    // taken.
    drop(connection);
    ended.await;
}

/// A stream that is being served.
struct Stream {
    active: Rc<Cell<usize>>,
    counters: Arc<ListenerCounters>,
}

impl Stream {
    fn open(active: &Rc<Cell<usize>>, counters: &Arc<ListenerCounters>) -> Self {
        active.set(active.get() + 1);
        counters.active.add(1);
        Self { active: active.clone(), counters: counters.clone() }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
        self.counters.active.sub(1);
    }
}

async fn answer(
    context: &Rc<Context>,
    origin: &Origin,
    stream: Stream,
    responses: &Responses,
    request: Request<Incoming>,
) -> Response<OutgoingBody> {
    let mut running = Running::new(context);
    let (parts, incoming) = request.into_parts();
    let head = take_head(&parts, &mut running.request, context.options.limits.head.fields);
    running.begin();
    let body = match head {
        Ok(length) => {
            let limit = context.options.limits.body;
            if limit != 0 && length.is_some_and(|length| length > limit) {
                refuse(context, &mut running, Fault::BodyTooLarge)
            } else {
                let body = RequestBody::h2(context, incoming, length);
                match nothing_promised(body).await {
                    Ok(body) => Box::pin(handle(context, origin, &mut running, None, body)).await,
                    Err(fault) => refuse(context, &mut running, fault),
                }
            }
        }
        Err(fault) => refuse(context, &mut running, fault),
    };
    let status = StatusCode::from_u16(running.response.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let no_body = running.request.is_head() || status.as_u16() == 204 || status.as_u16() == 304;
    let headers = map_of(&running.response.headers).unwrap_or_default();
    let length = running.content_length;
    let idle = match length {
        Some(_) => context.options.timeouts.response_head,
        None => context.options.timeouts.tunnel_idle,
    };
    let done = no_body || body.is_over();
    let sent_length = length.filter(|_| !no_body);
    let mut state = State {
        watch: Watch::new(running.started),
        length: sent_length,
        done,
        idle: idle.as_nanos() as u64,
        body,
        running,
        context: context.clone(),
        taken: None,
        _stream: stream,
    };
    if done {
        state.finish();
    }
    let left = sent_length.filter(|_| !done);
    let mut response = Response::new(OutgoingBody { state: responses.keep(state), left, done });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(length) = length
        && status.as_u16() != 204
    {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    response
}

/// A body of no bytes is waited for, so that no backend acts on a request whose stream then has some (RFC 9113 section
/// 8.1.1). Any other body is passed on as it comes.
async fn nothing_promised(mut body: RequestBody) -> Result<RequestBody, Fault> {
    if body.length == Some(0) && !body.is_empty() {
        match std::future::poll_fn(|cx| body.poll_read(cx, &mut [0])).await {
            Ok(0) => {}
            Ok(_) => return Err(Fault::BadRequest),
            Err(fault) => return Err(fault),
        }
    }
    Ok(body)
}

/// Checks and takes over what hyper has read. Returns the length of the body, if it was announced.
fn take_head(parts: &http::request::Parts, head: &mut RequestHead, most_fields: usize) -> Result<Option<u64>, Fault> {
    head.clear();
    head.version = Version::Http2;
    match parts.method.as_str() {
        "CONNECT" | "TRACE" => return Err(Fault::MethodNotAllowed),
        method => head.set_method(method),
    }
    // Every crumb of a cookie counts (RFC 9113 section 8.2.3 lets a client split it).
    if parts.headers.len() > most_fields {
        return Err(Fault::HeaderTooLarge);
    }
    // hyper takes any word. What is not HTTP would be forwarded as if it were.
    let scheme = parts.uri.scheme_str().unwrap_or("http");
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Fault::BadRequest);
    }
    let path = parts.uri.path();
    if path == "*" && parts.method != http::Method::OPTIONS
        || !path.bytes().chain(parts.uri.query().unwrap_or("").bytes()).all(|byte| (0x21..=0x7e).contains(&byte))
    {
        return Err(Fault::BadRequest);
    }
    head.set_path(if path.is_empty() { "/" } else { path });
    head.set_query(parts.uri.query());
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let mut host = None;
    let mut length = None;
    for (name, value) in &parts.headers {
        let value = value.as_bytes();
        // RFC 9113 section 8.2.1.
        if value.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'))
            || value.last().is_some_and(|byte| matches!(byte, b' ' | b'\t'))
        {
            return Err(Fault::BadRequest);
        }
        let name = name.as_str().as_bytes();
        match Name::of(name) {
            Name::Host if host.is_some() => return Err(Fault::BadRequest),
            Name::Host => host = Some(std::str::from_utf8(value).map_err(|_| Fault::BadRequest)?),
            Name::ContentLength => {
                let text = std::str::from_utf8(value).map_err(|_| Fault::BadRequest)?;
                if length.is_some() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Fault::BadRequest);
                }
                length = Some(text.parse::<u64>().map_err(|_| Fault::BadRequest)?);
            }
            Name::Expect if !value.eq_ignore_ascii_case(b"100-continue") => return Err(Fault::ExpectationFailed),
            Name::Expect => {}
            Name::Upgrade | Name::Connection | Name::TransferEncoding => return Err(Fault::BadRequest),
            Name::Cookie => {
                // Crumbs become one field again before anything but HTTP/2 sees them (RFC 9113 section 8.2.3).
                if let Some(so_far) = head.headers.known(Name::Cookie) {
                    let mut whole = so_far.to_vec();
                    whole.extend_from_slice(b"; ");
                    whole.extend_from_slice(value);
                    head.headers.set("cookie", &whole);
                } else {
                    head.headers.append(name, value);
                }
            }
            _ => head.headers.append(name, value),
        }
    }
    match (authority, host) {
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => return Err(Fault::BadRequest),
        (Some(authority), _) | (None, Some(authority)) if is_authority(authority) => head.set_authority(authority),
        _ => return Err(Fault::BadRequest),
    }
    Ok(length)
}

/// The place of a response: empty once it has been given up.
type Place = RefCell<Option<State>>;

/// The responses of one connection that hyper has not let go of.
#[derive(Clone, Default)]
struct Responses(Rc<RefCell<Vec<Weak<Place>>>>);

impl Responses {
    fn keep(&self, state: State) -> Rc<Place> {
        let state = Rc::new(RefCell::new(Some(state)));
        let mut all = self.0.borrow_mut();
        // Most streams are short: what is gone makes room before the list grows.
        if all.len() == all.capacity() {
            all.retain(|response| response.strong_count() > 0);
        }
        all.push(Rc::downgrade(&state));
        state
    }

    /// Ends what a client has had for so long without making room for more: hyper waits for its window without asking
    /// us, and a place at the backend is held meanwhile.
    fn give_up(&self, now: u64, unread: u64) {
        let mut stalled = Vec::new();
        self.0.borrow_mut().retain(|response| {
            let Some(response) = response.upgrade() else { return false };
            let mut slot = response.borrow_mut();
            if slot.as_ref().and_then(|state| state.taken).is_some_and(|taken| now >= taken.saturating_add(unread)) {
                stalled.extend(slot.take());
            }
            true
        });
        for mut state in stalled {
            _ = state.fail(Fault::BodyStalled);
        }
    }
}

/// A response body on its way to a client: settled when hyper lets go of it, or when it is given up.
struct OutgoingBody {
    state: Rc<Place>,
    /// Bytes left of an announced length.
    left: Option<u64>,
    done: bool,
}

/// A response in progress, with its exchange.
struct State {
    body: ResponseBody,
    running: Running,
    context: Rc<Context>,
    watch: Watch,
    length: Option<u64>,
    idle: u64,
    done: bool,
    /// When hyper took the last piece, if it has not asked for another one since.
    taken: Option<u64>,
    _stream: Stream,
}

impl State {
    /// Everything has been given to hyper.
    fn finish(&mut self) {
        self.done = true;
        self.running.bytes_in = self.body.uploaded();
        self.running.complete = self.running.response.status != 0;
        self.body.close();
    }

    fn fail(&mut self, fault: Fault) -> FaultError {
        self.done = true;
        self.running.bytes_in = self.body.uploaded();
        self.running.fault.get_or_insert(fault);
        FaultError(fault)
    }

    /// This stream's turn has come: it ends as its protocol ends things.
    fn leave(&mut self, cx: &Task<'_>, end: End) -> Poll<Option<Result<Frame<Bytes>, FaultError>>> {
        if self.length.is_some() {
            if end == End::Forced {
                self.watch.ended(end);
                return Poll::Ready(Some(Err(self.fail(Fault::Drained))));
            }
            // Its length was promised: it goes on to its natural end.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.watch.ended(end);
        self.running.fault = Some(Fault::Drained);
        self.done = true;
        if !self.running.is_grpc() {
            return Poll::Ready(None);
        }
        let mut trailers = Headers::default();
        trailers.append(b"grpc-status", b"14");
        trailers.append(b"grpc-message", Fault::Drained.code().as_bytes());
        Poll::Ready(map_of(&trailers).map(|map| Ok(Frame::trailers(map))))
    }

    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, FaultError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        self.taken = None;
        match self.body.poll_piece(cx) {
            Poll::Ready(Ok(Some(piece))) => {
                self.running.bytes_out += piece.len() as u64;
                self.taken = Some(self.context.now());
                if self.body.is_over() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(Ok(None)) => {
                let trailers = self.body.trailers().and_then(|trailers| map_of(&trailers));
                self.finish();
                Poll::Ready(trailers.map(|map| Ok(Frame::trailers(map))))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Some(Err(self.fail(fault)))),
            Poll::Pending => {
                let moved = self.running.bytes_out + self.body.uploaded();
                match self.watch.poll(cx, &self.context, &self.running, moved, self.idle) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ending::Fault(fault)) => Poll::Ready(Some(Err(self.fail(fault)))),
                    Poll::Ready(Ending::Turn(end)) => self.leave(cx, end),
                }
            }
        }
    }
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = FaultError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, FaultError>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let mut slot = this.state.borrow_mut();
        let Some(state) = slot.as_mut() else {
            return Poll::Ready(Some(Err(FaultError(Fault::BodyStalled))));
        };
        let polled = state.poll(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(left)) = (&polled, &mut this.left) {
            *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        this.done = state.done;
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) if !self.done => SizeHint::with_exact(left),
            _ if self.done => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::proxy::wire::frames::Flood;
    use crate::telemetry::gauges::FLOODS;

    #[test]
    fn floods_are_counted_under_their_names() {
        assert_eq!(Flood::ALL.map(Flood::code), FLOODS);
        assert!(Flood::ALL.iter().enumerate().all(|(index, flood)| *flood as usize == index));
    }
}
