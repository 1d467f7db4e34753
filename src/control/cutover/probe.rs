//! Probes of a color that is to become effective: one task per endpoint, from this process's own network position.
//!
//! Each task writes its own [`Record`]; the driver reads them and ends the tasks by dropping the [`Probing`].

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::model::{CutoverPolicy, UpstreamProtocol};

use super::gate::Probes;

/// One endpoint of one port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// What it speaks; an endpoint that speaks TLS is only connected to.
    pub speaks: Speaks,
}

/// What a probe can say to an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Speaks {
    /// HTTP/1.1 in clear text.
    Http1,
    /// HTTP/2 in clear text with prior knowledge.
    Http2,
    /// Nothing: the connection is the probe.
    Nothing,
}

impl From<&UpstreamProtocol> for Speaks {
    fn from(protocol: &UpstreamProtocol) -> Self {
        match protocol {
            UpstreamProtocol::Http1 => Self::Http1,
            UpstreamProtocol::H2c => Self::Http2,
            UpstreamProtocol::Tls(_) => Self::Nothing,
        }
    }
}

/// How endpoints are probed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct How {
    path: Option<Arc<str>>,
    interval: Duration,
    timeout: Duration,
}

/// The probes of one color; dropping it ends them.
#[derive(Debug)]
pub struct Probing {
    /// Which color.
    pub color: Arc<str>,
    successes: u32,
    how: How,
    endpoints: BTreeMap<Target, Probe>,
}

#[derive(Debug)]
struct Probe {
    record: Arc<Record>,
    task: JoinHandle<()>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one endpoint's probes have shown.
#[derive(Default, Debug)]
struct Record {
    in_a_row: AtomicU32,
    failure: Mutex<Option<Arc<str>>>,
}

impl Probing {
    /// Nothing is probed before [`Probing::follow`]. Every endpoint needs `successes` (at least 1) in a row.
    pub fn new(color: Arc<str>, successes: u32, policy: &CutoverPolicy) -> Self {
        Self { color, successes: successes.max(1), how: How::of(policy), endpoints: BTreeMap::new() }
    }

    /// Probes these endpoints and no others, in this way. What is known of one that stays is kept, unless the way has
    /// changed. Needs a runtime.
    pub fn follow(&mut self, targets: impl IntoIterator<Item = Target>, policy: &CutoverPolicy) {
        let how = How::of(policy);
        if how != self.how {
            self.endpoints.clear();
            self.how = how;
        }
        let mut before = std::mem::take(&mut self.endpoints);
        for target in targets {
            let probe = before.remove(&target).unwrap_or_else(|| {
                let record = Arc::<Record>::default();
                let task = tokio::spawn(keep_probing(target.clone(), self.how.clone(), Arc::clone(&record)));
                Probe { record, task }
            });
            self.endpoints.insert(target, probe);
        }
    }

    /// How they are doing.
    pub fn results(&self) -> Probes {
        let failure = |record: &Record| record.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (passed, rest): (Vec<_>, Vec<_>) = self
            .endpoints
            .iter()
            .partition(|(_, probe)| probe.record.in_a_row.load(Ordering::Acquire) >= self.successes);
        Probes {
            passed: passed.len(),
            of: self.endpoints.len(),
            failure: rest.iter().find_map(|(target, probe)| {
                failure(&probe.record).map(|failure| format!("{}: {failure}", target.address).into())
            }),
        }
    }
}

impl How {
    fn of(policy: &CutoverPolicy) -> Self {
        Self { path: policy.health_path.clone(), interval: policy.health_interval, timeout: policy.health_timeout }
    }
}

async fn keep_probing(target: Target, how: How, record: Arc<Record>) {
    // A zero interval would be a busy loop.
    let mut ticks = tokio::time::interval(how.interval.max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = match tokio::time::timeout(how.timeout, probe(&target, how.path.as_deref())).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", how.timeout)),
        };
        let failure = match result {
            Ok(()) => {
                record.in_a_row.fetch_add(1, Ordering::AcqRel);
                None
            }
            Err(failure) => {
                record.in_a_row.store(0, Ordering::Release);
                Some(failure.into())
            }
        };
        *record.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

/// One probe; the text says what went wrong.
async fn probe(target: &Target, path: Option<&str>) -> Result<(), String> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| format!("connect: {error}"))?;
    let Some(path) = path else { return Ok(()) };
    let request = hyper::Request::get(match target.speaks {
        Speaks::Http2 => format!("http://{}{path}", target.address),
        _ => path.to_owned(),
    })
    .header(hyper::header::HOST, target.address.to_string())
    .header(hyper::header::USER_AGENT, "weir-probe")
    .body(Empty::<Bytes>::new())
    .map_err(|error| format!("request: {error}"))?;
    let broken = |error: hyper::Error| format!("response: {error}");
    let response = match target.speaks {
        Speaks::Nothing => return Ok(()),
        Speaks::Http1 => {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
            let response = sender.send_request(request);
            drive(response, connection).await
        }
        Speaks::Http2 => {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
            let response = sender.send_request(request);
            drive(response, connection).await
        }
    };
    let status = response.map_err(broken)?.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

/// The response of a connection that is served here and not by a task of its own. An endpoint may close right behind its
/// response, so the end of the connection is not the end of the exchange: the response knows how it went.
async fn drive<R>(response: impl Future<Output = R>, connection: impl Future) -> R {
    tokio::pin!(response);
    tokio::select! {
        biased;
        done = &mut response => done,
        _ = connection => response.await,
    }
}
