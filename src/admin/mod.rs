//! Health, metrics and the admin API: on its own address, its own thread and its own runtime, so that neither traffic nor
//! the control plane can slow a probe, and no question can slow a request.
//!
//! Reads everything through [`Sources`], which the composition root fills; owns nothing but the ring of the last minute's
//! readings. Hostile input: see [`guard`].

mod api;
mod guard;
pub mod show;
mod sources;
mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Semaphore, watch};

use crate::telemetry::clock;
use crate::telemetry::stats::History;

pub use sources::{Act, ActionError, Ask, CutoverAction, Explain, Lookup, Question, Readiness, Sources};

/// Time for a request head, also the longest pause between two requests of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection, against clients that do not read.
const LIFETIME: Duration = Duration::from_secs(120);
/// Time for the last answer after that.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Most bytes of a request head.
const HEAD_BYTES: usize = 16 * 1024;
/// Most header fields of a request.
const HEAD_FIELDS: usize = 64;
/// Most connections of one listener at a time.
const CONNECTIONS: usize = 128;
/// Pause after an accept that failed: the usual reason is a limit of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is meant to reach a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// The operator on this machine: everything. Requests must name this machine (or a configured name) as their host.
    Operator,
    /// Probes and scrapers in the network: `/livez`, `/readyz`, `/healthz` and `/metrics`, under any host name.
    Probes,
}

/// How the admin server behaves.
#[derive(Clone, Debug, Default)]
pub struct AdminSettings {
    /// Secret for mutating calls; `None` turns them off.
    pub token: Option<Arc<str>>,
    /// Host names, besides loopback names and the listener's own address, that an operator's request may have.
    pub hosts: Vec<String>,
    /// Whether `/metrics` has series per endpoint.
    pub per_endpoint_metrics: bool,
}

/// The running server. Dropping it ends the thread and closes the listeners.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    end: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What every connection needs.
struct Shared {
    settings: AdminSettings,
    sources: Sources,
    history: Mutex<History>,
}

impl Server {
    /// Starts serving on listeners that are bound already; until the process ends, also while it drains.
    ///
    /// # Errors
    /// When a listener cannot be used or no thread or runtime can be made.
    pub fn start(
        listeners: Vec<(TcpListener, Audience)>,
        settings: AdminSettings,
        sources: Sources,
    ) -> io::Result<Self> {
        let mut addresses = Vec::new();
        for (listener, _) in &listeners {
            listener.set_nonblocking(true)?;
            addresses.push(listener.local_addr()?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::new(Shared { settings, sources, history: Mutex::default() });
        let (end, mut ended) = watch::channel(false);
        let listeners = {
            let _inside = runtime.enter();
            let open = |(listener, audience)| Ok((tokio::net::TcpListener::from_std(listener)?, audience));
            listeners.into_iter().map(open).collect::<io::Result<Vec<_>>>()?
        };
        let thread = std::thread::Builder::new().name("weir-admin".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::spawn(record(shared.clone()));
                for (listener, audience) in listeners {
                    tokio::spawn(accept(listener, audience, shared.clone()));
                }
                // An error means that the server was dropped.
                let _ = ended.wait_for(|end| *end).await;
            });
        })?;
        Ok(Self { addresses, end, thread: Some(thread) })
    }

    /// Where it listens, in the order of the listeners, with real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

/// Takes a reading of the statistics every second.
async fn record(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        shared.record(clock::now());
    }
}

impl Shared {
    fn record(&self, now: u64) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = &self.sources.registry;
        let totals = if history.wants_latencies(now) { registry.totals(now) } else { registry.brief(now) };
        history.record(&totals);
    }
}

async fn accept(listener: tokio::net::TcpListener, audience: Audience, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so there is always a place sooner or later.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, local) = match listener.accept().await.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))) {
            Ok((local, stream)) => (stream, local),
            Err(_) => {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| api::answer(&shared, audience, local, request));
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES);
            let connection = builder.max_headers(HEAD_FIELDS).serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            if tokio::time::timeout(LIFETIME, connection.as_mut()).await.is_err() {
                connection.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(LAST_ANSWER, connection).await;
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests;
