//! HTTP/1 connections: one request after the other.
//!
//! The future that waits for the next request is small and owns no buffer; what serves a request is made when its head
//! has arrived and gone when its response has been sent.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::proxy::fault::Fault;
use crate::proxy::request::{
    After as HeadAfter, Context, Ending, Exchange, HALF_CLOSED, Origin, RequestBody, ResponseBody, Running, Upgraded,
    Watch, handle, refuse, tunnel, write_head,
};
use crate::proxy::wire::parse::{Framing, RequestMeta};
use crate::proxy::wire::pump::{BodySource, Coding, Pump, PumpError};
use crate::proxy::wire::server::{Arrival, Connection, IncomingBody};
use crate::proxy::wire::timers::Timer;
use crate::proxy::wire::{Headers, Version};
use crate::telemetry::gauges::{ListenerCounters, OneMore};

/// Bytes of an unread request body that are read so that the connection can be kept.
const DISCARD: usize = 64 * 1024;

/// How long a closed connection is still read, so that the client gets our last words before a reset.
const LINGER: u64 = 1_000_000_000;

/// What the connection has become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    /// Closed.
    Closed,
    /// HTTP/2 with prior knowledge: the preface is still in the connection's input.
    Http2,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    context: &Rc<Context>,
    counters: &ListenerCounters,
    origin: &Origin,
    connection: &Rc<Connection>,
) -> After {
    let timer = context.timers.timer();
    let mut first = true;
    loop {
        let (arrival, running) = next(context, counters, connection, &timer, first, !origin.tls && first).await;
        let meta = match arrival {
            Waited::Arrived(Arrival::Request(meta)) => meta,
            Waited::Arrived(Arrival::Preface) => return After::Http2,
            Waited::Arrived(Arrival::Closed) | Waited::Idle => return After::Closed,
            Waited::Refused(fault) => {
                let mut running = running.unwrap_or_else(|| Running::new(context));
                running.begin();
                let body = refuse(context, &mut running, fault);
                let active = OneMore::of(&counters.active);
                Box::pin(send(context, connection, &mut running, body, false)).await;
                drop(active);
                linger(context, connection, &timer).await;
                return After::Closed;
            }
        };
        first = false;
        let Some(running) = running else { return After::Closed };
        let active = OneMore::of(&counters.active);
        let outcome = Box::pin(exchange(context, origin, connection, running, meta)).await;
        drop(active);
        match outcome {
            Outcome::Next => {}
            Outcome::Close => {
                linger(context, connection, &timer).await;
                return After::Closed;
            }
            Outcome::Gone => return After::Closed,
            Outcome::Tunnel(mut running, upgraded) => {
                Box::pin(tunnel(context, &mut running, connection, upgraded)).await;
                return After::Closed;
            }
        }
    }
}

enum Waited {
    Arrived(Arrival),
    Refused(Fault),
    Idle,
}

/// Waits for the next request head.
async fn next(
    context: &Rc<Context>,
    counters: &ListenerCounters,
    connection: &Rc<Connection>,
    timer: &Timer,
    first: bool,
    preface: bool,
) -> (Waited, Option<Running>) {
    let timeouts = &context.options.timeouts;
    let now = context.now();
    let patience = if first { timeouts.head } else { timeouts.keep_alive };
    timer.set(now + patience.as_nanos() as u64, now);
    let mut running = None;
    let mut begun = first;
    let mut farewell = false;
    let idle = OneMore::of(&counters.idle);
    let waited = poll_fn(|cx| {
        let limits = &context.options.limits.head;
        match connection.poll_head(cx, limits, preface, &mut running, || Running::new(context)) {
            Poll::Ready(Ok(arrival)) => return Poll::Ready(Waited::Arrived(arrival)),
            Poll::Ready(Err(Fault::ClientGone)) => return Poll::Ready(Waited::Idle),
            Poll::Ready(Err(fault)) => return Poll::Ready(Waited::Refused(fault)),
            Poll::Pending => {}
        }
        if !begun && connection.has_input() {
            begun = true;
            let now = context.now();
            timer.set(now + timeouts.head.as_nanos() as u64, now);
        }
        if context.draining.get() && !farewell && !connection.has_input() {
            // Whoever is about to send a request is still answered.
            farewell = true;
            let now = context.now();
            timer.set(now + LINGER, now);
        }
        if timer.poll(cx, || context.now()).is_ready() {
            let silent = !connection.has_input();
            return Poll::Ready(if silent { Waited::Idle } else { Waited::Refused(Fault::HeadTimeout) });
        }
        Poll::Pending
    })
    .await;
    drop(idle);
    timer.clear();
    (waited, running)
}

enum Outcome {
    Next,
    Close,
    Gone,
    Tunnel(Running, Box<Upgraded>),
}

/// Serves one request.
async fn exchange(
    context: &Rc<Context>,
    origin: &Origin,
    connection: &Rc<Connection>,
    mut running: Running,
    meta: RequestMeta,
) -> Outcome {
    running.begin();
    if meta.upgrade
        && let Some(protocol) = running.request.headers.known(crate::proxy::wire::Name::Upgrade)
    {
        running.upgrade = protocol.into();
    }
    let limits = &context.options.limits;
    let length = match meta.framing {
        Framing::Length(length) => Some(length),
        Framing::None => Some(0),
        _ => None,
    };
    let body = if meta.framing == Framing::None {
        RequestBody::empty(context)
    } else {
        let body = IncomingBody::begin(connection, &meta, limits.chunks(), limits.body);
        RequestBody::h1(context, body, length)
    };
    let body = if limits.body != 0 && length.is_some_and(|length| length > limits.body) {
        refuse(context, &mut running, Fault::BodyTooLarge)
    } else {
        handle(context, origin, &mut running, Some(connection), body).await
    };
    if running.fault == Some(Fault::ClientGone) {
        return Outcome::Gone;
    }
    let body = match body {
        ResponseBody::Tunnel(upgraded) => {
            if send(context, connection, &mut running, ResponseBody::Empty, true).await != Sent::Whole {
                return Outcome::Gone;
            }
            running.complete = false;
            return Outcome::Tunnel(running, upgraded);
        }
        body => body,
    };
    // What the client has not been told to send may or may not come; a refused message has no certain end.
    let refused = running.fault.is_some_and(|fault| {
        matches!(fault, Fault::BadRequest | Fault::BodyTooLarge | Fault::BodyTimeout | Fault::Misdirected)
    });
    let keep = meta.keep_alive
        && !context.draining.get()
        && !context.options.timeouts.keep_alive.is_zero()
        && !refused
        && !connection.body_is_held_back();
    match send(context, connection, &mut running, body, keep).await {
        Sent::Whole => {}
        Sent::Ended => return Outcome::Close,
        Sent::Broken => return Outcome::Gone,
    }
    drop(running);
    if connection.body_is_done() {
        return Outcome::Next;
    }
    // An answer came before the whole request was read.
    let timer = context.timers.timer();
    let now = context.now();
    timer.set(now + context.options.timeouts.body_idle.as_nanos() as u64, now);
    let mut left = DISCARD;
    let read = poll_fn(|cx| match timer.poll(cx, || context.now()) {
        Poll::Ready(()) => Poll::Ready(false),
        Poll::Pending => connection.poll_discard(cx, &mut left),
    })
    .await;
    if read { Outcome::Next } else { Outcome::Close }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sent {
    /// The whole response; the connection can be kept.
    Whole,
    /// All that there will be, in good order, and the connection ends with it.
    Ended,
    /// Not to its end.
    Broken,
}

/// Counts what goes to the client, and where it comes from.
struct Counted<'a> {
    body: &'a mut ResponseBody,
    bytes: &'a mut u64,
}

impl BodySource for Counted<'_> {
    fn poll_read(&mut self, cx: &mut std::task::Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let read = self.body.poll_read(cx, buffer);
        if let Poll::Ready(Ok(read)) = &read {
            *self.bytes += *read as u64;
        }
        read
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.body.trailers()
    }
}

/// Sends the response that is in the exchange, with this body.
async fn send(
    context: &Rc<Context>,
    connection: &Rc<Connection>,
    running: &mut Running,
    mut body: ResponseBody,
    keep: bool,
) -> Sent {
    if running.response.status == 0 {
        return Sent::Broken;
    }
    let exchange: &mut Exchange = running;
    let (coding, length, mut keep) = coding(exchange, &body, keep);
    let after = match exchange.response.status {
        101 => HeadAfter::Upgrade,
        _ if !keep => HeadAfter::Close,
        _ => HeadAfter::Keep { said: exchange.request.version == Version::Http10 },
    };
    let timeouts = &context.options.timeouts;
    // A response of known length that pauses is broken; one of unknown length may be a stream that waits for news.
    let idle = if length.is_some() { timeouts.response_head } else { timeouts.tunnel_idle }.as_nanos() as u64;
    let stalled = timeouts.body_idle.as_nanos() as u64;
    let mut pump = Pump::new(coding);
    let mut watch = Watch::new(context.now());
    let mut bytes_out = 0;
    let sent = poll_fn(|cx| {
        let mut source = Counted { body: &mut body, bytes: &mut bytes_out };
        let head = &exchange.response;
        // Interim responses leave first.
        let polled = match connection.poll_interim_sent(cx) {
            Poll::Ready(Ok(())) => {
                pump.poll(&connection.io, cx, |out| write_head(out, head, coding, length, after), &mut source)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Io(error))),
            Poll::Pending => Poll::Pending,
        };
        match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(Sent::Whole),
            Poll::Ready(Err(PumpError::Io(_))) => {
                exchange.fault.get_or_insert(Fault::ClientGone);
                return Poll::Ready(Sent::Broken);
            }
            Poll::Ready(Err(PumpError::Body(fault))) => {
                exchange.fault = Some(fault);
                return Poll::Ready(Sent::Broken);
            }
            Poll::Pending => {}
        }
        if connection.body_is_done() && connection.poll_gone(cx).is_ready() {
            exchange.fault.get_or_insert(Fault::ClientGone);
            return Poll::Ready(Sent::Broken);
        }
        // What waits for the client has not moved.
        let moved = (bytes_out + body.uploaded()).wrapping_sub(pump.waiting() as u64);
        let idle = match () {
            () if pump.is_blocked() => stalled,
            () if connection.has_ended() => idle.min(HALF_CLOSED),
            () => idle,
        };
        match watch.poll(cx, context, exchange, moved, idle) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ending::Fault(fault)) => {
                exchange.fault = Some(fault);
                Poll::Ready(Sent::Broken)
            }
            Poll::Ready(Ending::Turn(end)) => match pump.end_early(&connection.io, cx) {
                Ok(true) => {
                    watch.ended(end);
                    exchange.fault = Some(Fault::Drained);
                    keep = false;
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                // Its length was promised: it goes on to its natural end.
                Ok(false) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Err(_) => Poll::Ready(Sent::Broken),
            },
        }
    })
    .await;
    if sent == Sent::Broken && !pump.head_sent() && exchange.fault == Some(Fault::BodyBroken) {
        // Nothing has been said yet, so the truth can be. The attempt is judged first.
        drop(body);
        let body = refuse(context, exchange, Fault::UpstreamProtocol);
        return Box::pin(send(context, connection, running, body, false)).await;
    }
    exchange.bytes_out = bytes_out;
    exchange.bytes_in = body.uploaded();
    exchange.complete = sent == Sent::Whole;
    body.close();
    match sent {
        Sent::Whole if !keep || exchange.fault == Some(Fault::Drained) => Sent::Ended,
        other => other,
    }
}

/// How the response's body is framed, the length to announce, and whether the connection can be kept.
fn coding(exchange: &Exchange, body: &ResponseBody, keep: bool) -> (Coding, Option<u64>, bool) {
    let status = exchange.response.status;
    let announced = exchange.content_length;
    if status < 200 || status == 204 {
        return (Coding::None, None, keep || status == 101);
    }
    if status == 304 || exchange.request.is_head() {
        return (Coding::None, announced, keep);
    }
    if body.is_over() {
        return (Coding::None, Some(0), keep);
    }
    match announced {
        Some(length) => (Coding::Length(length), Some(length), keep),
        None if exchange.request.version == Version::Http10 => (Coding::Raw, None, false),
        None => (Coding::Chunked, None, keep),
    }
}

/// Ends our direction and reads on for a moment: data that arrives at a closed socket makes the system reset the
/// connection, and the client would lose what it has not read yet (RFC 9112 section 9.6).
async fn linger(context: &Rc<Context>, connection: &Rc<Connection>, timer: &Timer) {
    let now = context.now();
    timer.set(now + LINGER, now);
    let mut shut = false;
    poll_fn(|cx| {
        if !shut {
            match connection.io.borrow_mut().poll_shutdown(cx) {
                Poll::Ready(Ok(())) => shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        if timer.poll(cx, || context.now()).is_ready() {
            return Poll::Ready(());
        }
        connection.poll_sink(cx)
    })
    .await;
}
