//! One request and its response: everything that is known about it, until it is settled.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use super::context::Context;
use smallvec::SmallVec;

use super::handle;
use crate::model::Bind;
use crate::proxy::backend::{Backend, Color, Endpoint, Permit};
use crate::proxy::fault::{Blame, Fault};
use crate::proxy::policy::cors::Sharing;
use crate::proxy::snapshot::CompiledRule;
use crate::proxy::wire::timers::{NEVER, Timer};
use crate::proxy::wire::{RequestHead, ResponseHead};
use crate::telemetry::stats::{Class, Outcome};

/// What is known about the connection that requests arrive on.
#[derive(Debug)]
pub struct Origin {
    /// The socket.
    pub bind: Bind,
    /// Name of the listener, for logs and metrics.
    pub listener: Arc<str>,
    /// Who is at the other end: the socket's peer, or who the PROXY header names.
    pub peer: SocketAddr,
    /// Where it arrived.
    pub local: SocketAddr,
    /// Whether it is encrypted.
    pub tls: bool,
    /// Server name of the handshake, lower-case.
    pub server_name: Option<Box<str>>,
    /// What it was let in by; none in clear text.
    pub admitted: Option<Arc<rustls::ServerConfig>>,
}

/// Where a request was sent.
#[derive(Debug)]
pub struct Target {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The color.
    pub color: Arc<Color>,
    /// The share of the rule.
    pub share: usize,
    /// Position of the color in the backend.
    pub position: usize,
    /// Its place under the backend's ceiling.
    pub permit: Permit,
}

/// A request, its response, and what happened.
pub struct Exchange {
    /// As received, then as sent on.
    pub request: RequestHead,
    /// As received, then as sent on.
    pub response: ResponseHead,
    /// Length of the response body as announced by the backend, or of Weir's own answer.
    pub content_length: Option<u64>,
    /// When the head had arrived; nanoseconds of the process clock.
    pub started: u64,
    /// When it must be over.
    pub deadline: u64,
    /// When the response head had arrived.
    pub first_byte: Option<u64>,
    /// Body bytes from the client.
    pub bytes_in: u64,
    /// Body bytes to the client.
    pub bytes_out: u64,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// Whether the response has been given to the connection whole.
    pub complete: bool,
    /// Attempts made.
    pub attempts: u32,
    /// The client, as far as its forwarding headers can be believed.
    pub client: IpAddr,
    /// The matched rule.
    pub rule: Option<Arc<CompiledRule>>,
    /// Bytes of the request's path that the match covers.
    pub prefix: usize,
    /// Where it went. Set when it is counted as started there.
    pub target: Option<Target>,
    /// The endpoint of the last attempt.
    pub endpoint: Option<Arc<Endpoint>>,
    /// The deadline that is watched now.
    pub timer: Timer,
    /// Host and path as the client sent them; only kept when the access log wants this exchange.
    pub logged: Option<Box<Logged>>,
    /// The protocol that the client wants to upgrade to, and may.
    pub upgrade: SmallVec<[u8; 16]>,
    /// What the response says to pages of other origins; only on routes that have a word in it.
    pub sharing: Option<Box<Sharing>>,
}

/// What the access log shows of a request that may be rewritten later.
#[derive(Debug, Default)]
pub struct Logged {
    /// Authority.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Server name of the TLS handshake.
    pub server_name: Option<Box<str>>,
}

impl Exchange {
    pub(super) fn new(timer: Timer) -> Self {
        Self {
            request: RequestHead::default(),
            response: ResponseHead::default(),
            content_length: None,
            started: 0,
            deadline: NEVER,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
            fault: None,
            complete: false,
            attempts: 0,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            rule: None,
            prefix: 0,
            target: None,
            endpoint: None,
            timer,
            logged: None,
            upgrade: SmallVec::new(),
            sharing: None,
        }
    }

    fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.content_length = None;
        self.deadline = NEVER;
        self.first_byte = None;
        self.bytes_in = 0;
        self.bytes_out = 0;
        self.fault = None;
        self.complete = false;
        self.attempts = 0;
        self.rule = None;
        self.prefix = 0;
        self.target = None;
        self.endpoint = None;
        self.timer.clear();
        self.logged = None;
        self.upgrade.clear();
        self.sharing = None;
    }

    /// Whether the request is gRPC, whose failures travel as trailers.
    pub fn is_grpc(&self) -> bool {
        self.request
            .headers
            .known(crate::proxy::wire::Name::ContentType)
            .is_some_and(|value| value.starts_with(b"application/grpc"))
    }

    fn class(&self) -> Class {
        match self.fault {
            Some(Fault::UpstreamConnect | Fault::UpstreamTls | Fault::ConnectTimeout | Fault::UpstreamRefused) => {
                Class::Connect
            }
            Some(Fault::UpstreamTimeout | Fault::BodyStalled) => Class::Timeout,
            Some(Fault::UpstreamReset | Fault::UpstreamProtocol | Fault::BodyBroken) => Class::Reset,
            Some(Fault::ClientGone) => Class::ClientAbort,
            None if !self.complete => Class::ClientAbort,
            Some(fault) if fault.blame() == Blame::Client => Class::ClientError,
            // Not by the status that was sent: a failure is 200 for a gRPC client.
            fault => match fault.map_or(self.response.status, Fault::status) {
                100..=299 => Class::Success,
                300..=399 => Class::Redirect,
                400..=499 => Class::ClientError,
                _ => Class::ServerError,
            },
        }
    }
}

/// An exchange in progress: settled when dropped, whatever way it ended, and then reused.
pub struct Running {
    exchange: Option<Box<Exchange>>,
    context: Rc<Context>,
}

impl Running {
    /// A fresh exchange. It is settled only after [`Running::begin`].
    pub fn new(context: &Rc<Context>) -> Self {
        let mut exchange = context.take_exchange();
        exchange.started = 0;
        Self { exchange: Some(exchange), context: context.clone() }
    }

    /// The head has arrived.
    pub fn begin(&mut self) {
        self.started = self.context.now();
    }
}

impl Deref for Running {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        self.exchange.as_ref().expect("invariant: taken only by drop")
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("invariant: taken only by drop")
    }
}

impl AsMut<RequestHead> for Running {
    fn as_mut(&mut self) -> &mut RequestHead {
        &mut self.request
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut exchange) = self.exchange.take() else { return };
        if exchange.started != 0 {
            settle(&self.context, &mut exchange);
        }
        exchange.clear();
        self.context.give_exchange(exchange);
    }
}

/// The seventh verb: statistics, metrics, access log. Exactly once per exchange.
fn settle(context: &Context, exchange: &mut Exchange) {
    let ended = context.now();
    if exchange.fault.is_none() && !exchange.complete {
        exchange.fault = Some(Fault::ClientGone);
    }
    let mut stats = context.stats.borrow_mut();
    if let Some(fault) = exchange.fault {
        stats.fault(fault.index());
    }
    if let (Some(target), Some(rule)) = (&exchange.target, &exchange.rule) {
        let outcome = Outcome {
            started: exchange.started,
            first_byte: exchange.first_byte,
            ended,
            class: exchange.class(),
            status: exchange.response.status,
            bytes_in: exchange.bytes_in,
            bytes_out: exchange.bytes_out,
        };
        let route = rule.shares[target.share].series[target.position].slot();
        stats.finished(target.color.series.slot(), route, &outcome);
        if target.backend.switch.effective() != target.color.id {
            target.color.streams.responded(ended);
        }
    }
    drop(stats);
    handle::log(context, exchange, ended);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::wire::timers::Timers;

    #[test]
    fn a_failure_is_counted_as_one_whatever_status_tells_the_client() {
        let timers = Rc::<Timers>::default();
        let mut exchange = Exchange::new(timers.timer());
        exchange.complete = true;
        for (fault, status, expected) in [
            (None, 200, Class::Success),
            (None, 503, Class::ServerError),
            (Some(Fault::NoEndpoints), 503, Class::ServerError),
            // As gRPC clients are told.
            (Some(Fault::NoEndpoints), 200, Class::ServerError),
            (Some(Fault::UpstreamTimeout), 200, Class::Timeout),
            (Some(Fault::BodyTooLarge), 200, Class::ClientError),
        ] {
            exchange.fault = fault;
            exchange.response.status = status;
            assert_eq!(exchange.class(), expected, "{fault:?} {status}");
        }
    }
}
