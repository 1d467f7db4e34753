//! HTTP/2 connections, by hyper: each stream is one request on the same path as every other.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
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
use crate::proxy::wire::io::Io;
use crate::proxy::wire::parse::is_authority;
use crate::proxy::wire::pump::BodySource;
use crate::proxy::wire::stream::HyperIo;
use crate::proxy::wire::{Headers, Name, RequestHead, Version};
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
    let mut builder = http2::Builder::new(LocalExecutor);
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
    let stream = HyperIo::new(io, input);
    let progress = stream.progress();
    let active = Rc::new(Cell::new(0usize));
    let service = {
        let context = context.clone();
        let counters = counters.clone();
        let active = active.clone();
        service_fn(move |request| {
            let context = context.clone();
            let origin = origin.clone();
            let stream = Stream::open(&active, &counters);
            async move { Ok::<_, std::convert::Infallible>(answer(&context, &origin, stream, request).await) }
        })
    };
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let timer = context.timers.timer();
    let idle = context.options.timeouts.keep_alive.as_nanos() as u64;
    let stalled = context.options.timeouts.tunnel_idle.as_nanos() as u64;
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
        timer.set(until, now);
        if timer.poll(cx, || now).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
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
                Box::pin(handle(context, origin, &mut running, None, body)).await
            }
        }
        Err(fault) => refuse(context, &mut running, fault),
    };
    let status = StatusCode::from_u16(running.response.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let no_body = running.request.method() == "HEAD" || status.as_u16() == 204 || status.as_u16() == 304;
    let headers = map_of(&running.response.headers).unwrap_or_default();
    let length = running.content_length;
    let idle = match length {
        Some(_) => context.options.timeouts.response_head,
        None => context.options.timeouts.tunnel_idle,
    };
    let mut response = Response::new(OutgoingBody {
        watch: Watch::new(running.started),
        length: length.filter(|_| !no_body),
        done: no_body || body.is_over(),
        idle: idle.as_nanos() as u64,
        body,
        running,
        context: context.clone(),
        _stream: stream,
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(length) = length
        && status.as_u16() != 204
    {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    if response.body().done {
        response.body_mut().finish();
    }
    response
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

/// A response body on its way to a client, with its exchange: settled when hyper lets go of it.
struct OutgoingBody {
    body: ResponseBody,
    running: Running,
    context: Rc<Context>,
    watch: Watch,
    length: Option<u64>,
    idle: u64,
    done: bool,
    _stream: Stream,
}

impl OutgoingBody {
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
    fn leave(&mut self, end: End) -> Poll<Option<Result<Frame<Bytes>, FaultError>>> {
        if self.length.is_some() && end != End::Forced {
            // Its length was promised: it goes on to its natural end.
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
}

impl Body for OutgoingBody {
    type Data = Bytes;
    type Error = FaultError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<Bytes>, FaultError>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        match this.body.poll_piece(cx) {
            Poll::Ready(Ok(Some(piece))) => {
                this.running.bytes_out += piece.len() as u64;
                if this.body.is_over() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(Ok(None)) => {
                let trailers = this.body.trailers().and_then(|trailers| map_of(&trailers));
                this.finish();
                Poll::Ready(trailers.map(|map| Ok(Frame::trailers(map))))
            }
            Poll::Ready(Err(fault)) => Poll::Ready(Some(Err(this.fail(fault)))),
            Poll::Pending => {
                let moved = this.running.bytes_out + this.body.uploaded();
                match this.watch.poll(cx, &this.context, &this.running, moved, this.idle) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Ending::Fault(fault)) => Poll::Ready(Some(Err(this.fail(fault)))),
                    Poll::Ready(Ending::Turn(end)) => this.leave(end),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) if !self.done => SizeHint::with_exact(length.saturating_sub(self.running.bytes_out)),
            _ if self.done => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}
