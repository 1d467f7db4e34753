//! What passes through without a look into it, a TCP connection or a session of datagrams: where it goes, and what it
//! counts for.
//!
//! It is one request of its route and of the color that it goes to, from its start to its end, and one attempt at each
//! endpoint that it is tried at.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use crate::model::{Balance, HashKey, StreamMode};
use crate::proxy::backend::balance::hash_of;
use crate::proxy::backend::{Backend, Color, Endpoint, Permit, StreamGuard};
use crate::proxy::fault::Fault;
use crate::proxy::policy::retry;
use crate::proxy::request::Context;
use crate::proxy::snapshot::{CompiledRule, CompiledStream};
use crate::telemetry::access_log::Entry;
use crate::telemetry::stats::{Class, Outcome};

/// Who wants to pass, for the access log.
#[derive(Clone, Debug)]
pub(super) struct Who {
    /// The client.
    pub client: SocketAddr,
    /// `tcp`, `tls` or `udp`.
    pub protocol: &'static str,
    /// Server name of the TLS handshake.
    pub server_name: Option<Box<str>>,
}

/// One connection or session. Settled when dropped, whatever way it ended.
pub(super) struct Passage {
    context: Rc<Context>,
    stream: Arc<CompiledStream>,
    who: Who,
    started: u64,
    target: Option<Target>,
    attempt: Option<Attempt>,
    tried: SmallVec<[Arc<Endpoint>; 4]>,
    attempts: u32,
    /// When the endpoint was there.
    pub joined: Option<u64>,
    /// From the client.
    pub bytes_in: u64,
    /// To the client.
    pub bytes_out: u64,
    /// Why it failed.
    pub fault: Option<Fault>,
}

/// Where it goes.
pub(super) struct Target {
    pub backend: Arc<Backend>,
    pub color: Arc<Color>,
    share: usize,
    position: usize,
    _permit: Permit,
}

impl Passage {
    /// Begins now.
    pub fn new(context: &Rc<Context>, stream: Arc<CompiledStream>, who: Who) -> Self {
        Self {
            context: context.clone(),
            stream,
            who,
            started: context.now(),
            target: None,
            attempt: None,
            tried: SmallVec::new(),
            attempts: 0,
            joined: None,
            bytes_in: 0,
            bytes_out: 0,
            fault: None,
        }
    }

    /// Chooses a share, and its backend's color, and counts as started there.
    ///
    /// # Errors
    /// [`Fault::InvalidBackend`], [`Fault::Overloaded`], [`Fault::NoEndpoints`].
    pub fn set_out(&mut self) -> Result<(), Fault> {
        let context = &self.context;
        let rule: &CompiledRule = &self.stream.rule;
        let share = rule.pick_share(&mut context.rng.borrow_mut()).ok_or(Fault::InvalidBackend)?;
        let backend = rule.shares[share].backend.as_ref().ok_or(Fault::InvalidBackend)?;
        let permit = backend.load.try_enter(&backend.desired.limits).ok_or(Fault::Overloaded)?;
        let position = position_of(backend, self.started);
        let color = backend.colors.get(position).ok_or(Fault::NoEndpoints)?.clone();
        context.stats.borrow_mut().started(color.series.slot(), self.started);
        backend.load.retries.deposit(context.options.retry_percent);
        self.target = Some(Target { backend: backend.clone(), color, share, position, _permit: permit });
        Ok(())
    }

    /// Picks an endpoint that was not tried yet, if there is one, and counts as an attempt there from now on.
    ///
    /// # Errors
    /// [`Fault::NoEndpoints`].
    pub fn pick(&mut self) -> Result<Arc<Endpoint>, Fault> {
        let context = &self.context;
        let Target { backend, color, .. } = self.target.as_ref().ok_or(Fault::NoEndpoints)?;
        // There is nothing else to hash.
        let hash = match &backend.desired.balance {
            Balance::Hash(HashKey::Address) => Some(hash_of_address(self.who.client.ip())),
            _ => None,
        };
        let now = context.now();
        let picked = color.pick(&backend.desired.balance, hash, &self.tried, &mut context.rng.borrow_mut(), now);
        let Some(endpoint) = picked else {
            color.streams.drop_request();
            return Err(Fault::NoEndpoints);
        };
        self.attempts += 1;
        self.attempt = Some(Attempt::begin(context, endpoint.clone()));
        self.tried.push(endpoint.clone());
        Ok(endpoint)
    }

    /// Where it goes. None before [`Passage::set_out`].
    pub fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Whether TLS ends here, so that what is inside goes on as the backend wants it.
    pub fn terminates(&self) -> bool {
        self.stream.mode == StreamMode::Terminate
    }

    /// Whether the endpoint is still known to be one of its color's.
    pub fn stays(&self) -> bool {
        let (Some(attempt), Some(target)) = (&self.attempt, &self.target) else { return false };
        if target.color.is_retired() {
            return false;
        }
        let endpoints = target.color.endpoints.load();
        endpoints.find(attempt.endpoint.address).is_some_and(|known| Arc::ptr_eq(known, &attempt.endpoint))
    }

    /// How TLS is spoken to the endpoint, if it is.
    pub fn tls(&self) -> Option<&Arc<rustls::ClientConfig>> {
        self.stream.tls.get(self.target.as_ref()?.share)?.as_ref()
    }

    /// The endpoint is there, and did well.
    pub fn joined(&mut self) {
        if self.joined.is_some() {
            return;
        }
        let now = self.context.now();
        self.joined = Some(now);
        if let (Some(attempt), Some(target)) = (&self.attempt, &self.target) {
            let policy = &target.backend.desired.outlier;
            target.color.record(&attempt.endpoint, true, now - attempt.started, policy, now);
        }
    }

    /// The attempt failed; whether another one may be made.
    pub fn failed(&mut self, fault: Fault) -> bool {
        let (Some(mut attempt), Some(target)) = (self.attempt.take(), &self.target) else { return false };
        let now = self.context.now();
        let blame = fault.blame() == crate::proxy::fault::Blame::Backend;
        if blame {
            attempt.failed = true;
            let policy = &target.backend.desired.outlier;
            target.color.record(&attempt.endpoint, false, now - attempt.started, policy, now);
        }
        let failed = retry::Failed {
            how: retry::How::Fault(fault),
            idempotent: false,
            sent: false,
            replayable: true,
            attempts: self.attempts,
            most: self.context.options.attempts,
        };
        retry::may_retry(failed, || target.backend.load.retries.withdraw(now))
    }

    /// Whether another endpoint would be tried if the attempt failed now.
    pub fn may_go_elsewhere(&self) -> bool {
        let Some(target) = &self.target else { return false };
        let now = self.context.now();
        self.attempts < self.context.options.attempts
            && target.color.has_other(&self.tried, now)
            && target.backend.load.retries.has_one(now)
    }

    /// The process clock, nanoseconds.
    pub fn now(&self) -> u64 {
        self.context.now()
    }

    /// From now on it is one of its color's long-lived streams.
    pub fn enter(&self) -> Option<StreamGuard> {
        self.target.as_ref().map(|target| target.color.streams.enter())
    }

    fn class(&self) -> Class {
        match self.fault {
            None | Some(Fault::Drained) => Class::Success,
            Some(Fault::UpstreamConnect | Fault::UpstreamTls | Fault::ConnectTimeout) => Class::Connect,
            Some(Fault::UpstreamReset) => Class::Reset,
            Some(Fault::ClientGone) => Class::ClientAbort,
            Some(_) => Class::ServerError,
        }
    }

    fn log(&self, ended: u64) {
        let mut log = self.context.log.borrow_mut();
        if !log.wants() {
            return;
        }
        let target = self.target.as_ref();
        let service = target.map(|target| &target.backend.key.service);
        let server_name = self.who.server_name.as_deref().unwrap_or("");
        log.log(&Entry {
            started: self.started,
            ended,
            client: self.who.client.ip(),
            method: "",
            host: server_name,
            path: "",
            protocol: self.who.protocol,
            status: 0,
            reason: self.fault.map(Fault::code),
            route: &self.stream.rule.name,
            namespace: service.map_or("", |service| &service.namespace),
            service: service.map_or("", |service| &service.name),
            color: target.map_or("", |target| &target.color.name),
            cutover: None,
            endpoint: self.tried.last().map(|endpoint| endpoint.address),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            upstream: self.joined.map(|at| at - self.started),
            attempts: self.attempts,
            request_id: b"",
            user_agent: b"",
            trace_id: b"",
            sni: server_name,
        });
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let ended = self.context.now();
        drop(self.attempt.take());
        let mut stats = self.context.stats.borrow_mut();
        if let Some(fault) = self.fault {
            stats.fault(fault.index());
        }
        if let Some(target) = &self.target {
            let outcome = Outcome {
                started: self.started,
                first_byte: self.joined,
                ended,
                class: self.class(),
                status: 0,
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
            };
            let route = self.stream.rule.shares[target.share].series[target.position].slot();
            stats.finished(target.color.series.slot(), route, &outcome);
            if target.backend.switch.effective() != target.color.id {
                target.color.streams.responded(ended);
            }
        }
        drop(stats);
        self.log(ended);
    }
}

/// The effective color; if it has no endpoint and another one has, that one.
fn position_of(backend: &Backend, now: u64) -> usize {
    if backend.colors.len() < 2 {
        return 0;
    }
    let id = backend.switch.effective();
    let effective = backend.colors.iter().position(|color| color.id == id).unwrap_or(0);
    let can_serve = |color: &Arc<Color>| color.endpoints.load().usable(now) > 0;
    if can_serve(&backend.colors[effective]) {
        return effective;
    }
    backend.colors.iter().position(can_serve).unwrap_or(effective)
}

fn hash_of_address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash_of(&address.octets()),
        IpAddr::V6(address) => hash_of(&address.octets()),
    }
}

/// A place at an endpoint, counted for as long as it is held.
struct Attempt {
    context: Rc<Context>,
    endpoint: Arc<Endpoint>,
    started: u64,
    failed: bool,
}

impl Attempt {
    fn begin(context: &Rc<Context>, endpoint: Arc<Endpoint>) -> Self {
        let started = context.now();
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        context.stats.borrow_mut().attempt_started(endpoint.series.slot(), started);
        context.counters.upstream_active.add(1);
        Self { context: context.clone(), endpoint, started, failed: false }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = self.context.now();
        self.endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.context.counters.upstream_active.sub(1);
        let mut stats = self.context.stats.borrow_mut();
        stats.attempt_finished(self.endpoint.series.slot(), self.started, now, self.failed);
    }
}
