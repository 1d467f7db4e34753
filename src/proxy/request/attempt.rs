//! One try at one endpoint: take a connection, send, wait for the head.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use smallvec::SmallVec;

use super::body::{RequestBody, ResponseBody, UpstreamBody};
use super::context::Context;
use super::exchange::Exchange;
use super::reply;
use super::upgrade::Upgraded;
use super::upstream_h2;
use crate::model::UpstreamProtocol;
use crate::proxy::backend::connect::{Connected, connect};
use crate::proxy::backend::{Backend, Color, Endpoint};
use crate::proxy::fault::{Blame, Fault};
use crate::proxy::wire::Name;
use crate::proxy::wire::client::{self, Answer};
use crate::proxy::wire::io::Io;
use crate::proxy::wire::pump::{Coding, Out};
use crate::proxy::wire::server::Connection;

/// How long (nanoseconds) an answer may be silent for a client that has ended its own direction. Most such clients have
/// gone; some wait.
pub const HALF_CLOSED: u64 = 5_000_000_000;

/// An attempt in flight: counted from its start until its response is over, judged once.
pub struct Attempt {
    context: Rc<Context>,
    backend: Arc<Backend>,
    color: Arc<Color>,
    endpoint: Arc<Endpoint>,
    started: u64,
    answered: Option<u64>,
    /// Whether the endpoint did well, once that is known; not known when the client went away.
    well: Option<bool>,
}

impl Attempt {
    pub(super) fn begin(
        context: &Rc<Context>,
        backend: &Arc<Backend>,
        color: &Arc<Color>,
        endpoint: Arc<Endpoint>,
    ) -> Self {
        let started = context.now();
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        context.stats.borrow_mut().attempt_started(endpoint.series.slot(), started);
        context.counters.upstream_active.add(1);
        Self {
            context: context.clone(),
            backend: backend.clone(),
            color: color.clone(),
            endpoint,
            started,
            answered: None,
            well: None,
        }
    }

    /// A response head has arrived.
    pub(super) fn answered(&mut self, status: u16, now: u64) {
        self.answered = Some(now);
        self.well = Some(status < 500);
    }

    /// The response is complete; what its status said stays said.
    pub(super) fn succeed(&mut self) {
        self.well.get_or_insert(true);
    }

    /// It failed; a client's fault says nothing about the endpoint.
    pub(super) fn fail(&mut self, fault: Fault) {
        // An endpoint that is verified by the name in the request is so by the client's choice.
        let by_client = fault == Fault::UpstreamTls && self.backend.verified_by_host;
        if fault.blame() == Blame::Backend && !by_client {
            self.well = Some(false);
        }
    }

    /// Gives the connection back for the next request.
    pub(super) fn keep(&mut self, io: Io) {
        let now = self.context.now();
        self.context.pools.borrow_mut().give(self.endpoint.series.slot(), io, now);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = self.context.now();
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.context.counters.upstream_active.sub(1);
        let failed = self.well == Some(false);
        self.context.stats.borrow_mut().attempt_finished(self.endpoint.series.slot(), self.started, now, failed);
        if let Some(well) = self.well {
            let latency = self.answered.unwrap_or(now) - self.started;
            self.color.record(&self.endpoint, well, latency, &self.backend.desired.outlier, now);
        }
    }
}

/// Why an attempt gave no response, and what is needed for another one.
pub(super) struct Failed {
    /// The reason.
    pub fault: Fault,
    /// Whether the endpoint can have seen any of the request.
    pub sent: bool,
    /// The request body, if it could be got back.
    pub body: Option<RequestBody>,
}

/// What an attempt is made with.
pub(super) struct Try<'a> {
    /// Its worker's things.
    pub context: &'a Rc<Context>,
    /// The client's connection, if it speaks HTTP/1.
    pub down: Option<&'a Rc<Connection>>,
    /// The backend.
    pub backend: &'a Arc<Backend>,
    /// The color.
    pub color: &'a Arc<Color>,
    /// Protocol that the client wants to upgrade to.
    pub upgrade: Option<&'a [u8]>,
    /// When its response head must be there; nanoseconds of the process clock.
    pub head_deadline: u64,
    /// Statuses that may lead to another attempt: the body of the request is then kept with the response.
    pub listed: &'a [u16],
    /// Endpoints that were tried for this request already.
    pub tried: &'a [Arc<Endpoint>],
    /// Attempts that this request may have, the first included.
    pub most: u32,
    /// Whether its retries are those that its route asks for.
    pub asked: bool,
}

impl Try<'_> {
    /// Whether another endpoint would be tried if this attempt failed before anything was sent.
    fn may_go_elsewhere(&self, attempts: u32, endpoint: &Arc<Endpoint>) -> bool {
        let now = self.context.now();
        let load = &self.backend.load;
        let mut tried: SmallVec<[Arc<Endpoint>; 4]> = self.tried.iter().cloned().collect();
        tried.push(endpoint.clone());
        attempts < self.most
            && now < self.head_deadline
            && self.color.has_other(&tried, now)
            && if self.asked { load.asked.has_one(now) } else { load.retries.has_one(now) }
    }

    /// Whether an HTTP/2 connection would not do where there is a choice: what is tunnelled is asked for in HTTP/1.1.
    fn needs_http1(&self) -> bool {
        self.upgrade.is_some() && self.backend.tls.is_some()
    }
}

/// Sends the request to an endpoint and waits for the response head, which is then in `exchange`.
pub(super) async fn send(
    with: &Try<'_>,
    exchange: &mut Exchange,
    endpoint: Arc<Endpoint>,
    body: RequestBody,
) -> Result<ResponseBody, Failed> {
    let context = with.context;
    let mut attempt = Attempt::begin(context, with.backend, with.color, endpoint);
    let slot = attempt.endpoint.series.slot();
    let refused = |attempt: &mut Attempt, fault, body| {
        attempt.fail(fault);
        Failed { fault, sent: false, body: Some(body) }
    };
    let backend = with.backend;
    let pooled = |exchange: &Exchange| {
        let io = context.pools.borrow_mut().take(slot, context.now(), exchange.request.is_idempotent())?;
        if backend.may_carry(io.endpoint_certificate(), || exchange.request.host()) {
            return Some(io);
        }
        // Good for other hosts.
        context.pools.borrow_mut().give(slot, io, context.now());
        None
    };
    // What is rare, or waits long, is boxed: the future that every request makes stays small.
    let io = if !with.needs_http1()
        && let Some(sender) = upstream_h2::open_connection(context, backend, slot, &exchange.request)
    {
        return Box::pin(upstream_h2::send(with, exchange, attempt, sender, body)).await;
    } else if backend.desired.protocol != UpstreamProtocol::H2c
        && let Some(io) = pooled(exchange)
    {
        io
    } else {
        match Box::pin(connect_within(with, exchange, &attempt, body.is_replayable())).await {
            Ok(Connected { io, h2: false }) => io,
            Ok(Connected { io, h2: true }) => match Box::pin(upstream_h2::establish(context, slot, io)).await {
                Ok(sender) => return Box::pin(upstream_h2::send(with, exchange, attempt, sender, body)).await,
                Err(fault) => return Err(refused(&mut attempt, fault, body)),
            },
            Err(fault) => return Err(refused(&mut attempt, fault, body)),
        }
    };
    over_h1(with, exchange, attempt, io, body).await
}

async fn connect_within(
    with: &Try<'_>,
    exchange: &Exchange,
    attempt: &Attempt,
    replayable: bool,
) -> Result<Connected, Fault> {
    let context = with.context;
    let Some(_place) = with.backend.load.try_wait(&with.backend.desired.limits) else { return Err(Fault::Overloaded) };
    let from = context.now();
    let within = context.options.timeouts.connect.min(Duration::from_nanos(with.head_deadline.saturating_sub(from)));
    let connected = connect(
        &attempt.endpoint,
        &with.backend.desired.protocol,
        if with.needs_http1() { with.backend.tls_http1.as_ref() } else { with.backend.tls.as_ref() },
        exchange.request.host(),
        within,
        || replayable && with.may_go_elsewhere(exchange.attempts, &attempt.endpoint),
    )
    .await;
    context.counters.upstream_opened.add(1);
    context.stats.borrow_mut().queued(with.color.series.slot(), from, context.now());
    connected
}

async fn over_h1(
    with: &Try<'_>,
    exchange: &mut Exchange,
    mut attempt: Attempt,
    io: Io,
    body: RequestBody,
) -> Result<ResponseBody, Failed> {
    let context = with.context;
    let limits = &context.options.limits;
    let coding = if body.is_empty() { Coding::None } else { body.length.map_or(Coding::Chunked, Coding::Length) };
    let to_head = exchange.request.is_head();
    let mut upstream = Box::new(client::Exchange::new(io, body, coding, limits.chunks()));
    exchange.timer.set(with.head_deadline, context.now());
    let Exchange { request, response, timer, .. } = exchange;
    let mut half_closed = false;
    let answer = poll_fn(|cx| {
        loop {
            let write = |out: &mut Out<'_>| reply::write_request(out, request, coding, with.upgrade);
            match upstream.poll_head(cx, write, &limits.head, to_head, with.upgrade.is_some(), response) {
                Poll::Ready(Ok(Answer::Interim)) => {
                    if let Some(down) = with.down {
                        reply::forward_interim(down, cx, request.version, response);
                    }
                }
                Poll::Ready(Ok(Answer::Final(meta))) => return Poll::Ready(Ok(meta)),
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => break,
            }
        }
        if let Some(down) = with.down
            && down.body_is_done()
        {
            if down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Fault::ClientGone));
            }
            if down.has_ended() && !half_closed {
                half_closed = true;
                let now = context.now();
                timer.set(with.head_deadline.min(now + HALF_CLOSED), now);
            }
        }
        if timer.poll(cx, || context.now()).is_ready() {
            let left = half_closed && context.now() < with.head_deadline;
            return Poll::Ready(Err(if left { Fault::ClientGone } else { Fault::UpstreamTimeout }));
        }
        Poll::Pending
    })
    .await;
    let now = context.now();
    match answer {
        Ok(meta) => {
            attempt.answered(response.status, now);
            exchange.first_byte = Some(now);
            exchange.content_length = meta.content_length;
            if response.status == 101 {
                let agreed = response.headers.known(Name::Upgrade).filter(|agreed| is_offered(agreed, with.upgrade));
                let Some(agreed) = agreed else {
                    // Two sides that mean different protocols must not be joined.
                    attempt.fail(Fault::UpstreamProtocol);
                    return Err(Failed { fault: Fault::UpstreamProtocol, sent: true, body: None });
                };
                exchange.upgrade = agreed.into();
                let (io, early) = upstream.into_tunnel();
                return Ok(ResponseBody::Tunnel(Box::new(Upgraded { io, early, attempt })));
            }
            let mut body = ResponseBody::H1(UpstreamBody::new(upstream, attempt));
            if !with.listed.contains(&response.status) {
                body.close();
            }
            Ok(body)
        }
        Err(fault) => {
            attempt.fail(fault);
            let sent = upstream.head_sent();
            Err(Failed { fault, sent, body: Some(upstream.finish().0) })
        }
    }
}

/// Whether a backend's choice of protocol is one that the client offered.
fn is_offered(agreed: &[u8], offered: Option<&[u8]>) -> bool {
    let mut offers = offered.unwrap_or_default().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    !agreed.is_empty() && offers.any(|offer| offer.eq_ignore_ascii_case(agreed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_protocol_that_was_offered_is_agreed_on() {
        assert!(is_offered(b"WebSocket", Some(b"websocket")));
        assert!(is_offered(b"b", Some(b"a, b")));
        for (agreed, offered) in
            [(&b"c"[..], Some(&b"a, b"[..])), (b"", Some(b"a")), (b"a", None), (b"a, b", Some(b"a, b"))]
        {
            assert!(!is_offered(agreed, offered));
        }
    }
}
