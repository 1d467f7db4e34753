//! Active health checks.
//!
//! One task on the control thread's runtime asks every ready or terminating endpoint of every backend that has a
//! [`HealthCheck`], and writes what it finds into the endpoint ([`Endpoint::set_healthy`]); workers read it there. What is
//! decided is pure ([`Tally`], [`Book`]: time is an argument); what touches the network is at the end of the file.
//!
//! A new endpoint counts as healthy, for its readiness has been vouched for already, and is checked at once; the very
//! first answer counts alone, so that a broken one is out after one timeout (HAProxy starts its servers the same way).
//! An endpoint that is no longer checked counts as healthy again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Backend, Endpoint};
use crate::model::{Access, BackendKey, Condition, HealthCheck, UpstreamProtocol};

/// How often due checks are looked for.
const TICK: Duration = Duration::from_millis(25);

/// Checks that run at the same time, over all backends; the others wait their turn.
const CONCURRENT: usize = 256;

/// Nanoseconds after its timeout by which a check must have reported.
const GRACE: u64 = 1_000_000_000;

/// What the checks of one endpoint came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tally {
    healthy: bool,
    /// Results in a row that speak against `healthy`.
    against: u32,
    checked: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self { healthy: true, against: 0, checked: false }
    }
}

impl Tally {
    /// Counts a result. Returns the new state if it changed.
    pub fn count(&mut self, ok: bool, check: &HealthCheck) -> Option<bool> {
        let first = !std::mem::replace(&mut self.checked, true);
        if ok == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let needed = if ok { check.healthy } else { check.unhealthy };
        if !first && self.against < needed {
            return None;
        }
        self.healthy = ok;
        self.against = 0;
        Some(ok)
    }
}

/// One check to make.
#[derive(Clone, Debug)]
pub struct Job {
    /// Whom.
    pub endpoint: Arc<Endpoint>,
    /// What is asked.
    pub check: HealthCheck,
    /// How it is asked.
    pub ask: Ask,
}

/// How an endpoint is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// `GET` over HTTP/1.1.
    Http1,
    /// `GET` over HTTP/2 with prior knowledge.
    Http2,
    /// Only whether it takes connections: what a TLS endpoint is asked.
    Connect,
}

/// Everything that is checked, and when it is due.
#[derive(Default)]
pub struct Book {
    /// By the address of the [`Endpoint`] itself, which is unique while the book or a job holds it.
    watched: HashMap<usize, Watched>,
    round: u64,
}

struct Watched {
    endpoint: Arc<Endpoint>,
    backend: BackendKey,
    check: HealthCheck,
    ask: Ask,
    tally: Tally,
    due: u64,
    /// While a check runs: when it must have reported, else it broke and is made again. 0: none runs.
    running_until: u64,
    started: bool,
    round: u64,
}

impl Book {
    /// Follows the backends: new endpoints are due at once, those that are gone are forgotten.
    pub fn refresh(&mut self, backends: &[Arc<Backend>], now: u64) {
        self.round += 1;
        for backend in backends {
            let Some(check) = &backend.desired.health else { continue };
            // Nobody answers a GET there.
            if backend.key.access == Access::Udp {
                continue;
            }
            let ask = match backend.desired.protocol {
                UpstreamProtocol::Http1 => Ask::Http1,
                UpstreamProtocol::H2c => Ask::Http2,
                UpstreamProtocol::Tls(_) => Ask::Connect,
            };
            for color in &backend.colors {
                let set = color.endpoints.load();
                for (endpoint, _) in set.members.iter().filter(|(_, condition)| *condition != Condition::NotReady) {
                    self.watch(endpoint, &backend.key, check, ask, now);
                }
            }
        }
        let round = self.round;
        self.watched.retain(|_, watched| {
            let stays = watched.round == round;
            if !stays {
                watched.endpoint.set_healthy(true, now);
            }
            stays
        });
    }

    fn watch(&mut self, endpoint: &Arc<Endpoint>, backend: &BackendKey, check: &HealthCheck, ask: Ask, now: u64) {
        let watched = self.watched.entry(Arc::as_ptr(endpoint).addr()).or_insert_with(|| Watched {
            endpoint: Arc::clone(endpoint),
            backend: backend.clone(),
            check: check.clone(),
            ask,
            tally: Tally::default(),
            due: now,
            running_until: 0,
            started: false,
            round: 0,
        });
        watched.round = self.round;
        if watched.check != *check || watched.ask != ask {
            watched.check = check.clone();
            watched.ask = ask;
            watched.due = now;
        }
    }

    /// Up to `room` checks that are due, the longest overdue first. The second check of an endpoint comes at a random
    /// point of its interval, so that endpoints that came together are not asked together for ever.
    pub fn take_due(&mut self, now: u64, room: usize, rng: &mut fastrand::Rng) -> Vec<Job> {
        let mut due: Vec<(u64, usize)> = self
            .watched
            .iter()
            .filter(|(_, watched)| watched.due <= now && watched.running_until <= now)
            .map(|(id, watched)| (watched.due, *id))
            .collect();
        due.sort_unstable_by_key(|(due, _)| *due);
        due.truncate(room);
        due.iter()
            .filter_map(|(_, id)| {
                let watched = self.watched.get_mut(id)?;
                let interval = nanos(watched.check.interval);
                watched.due = if std::mem::replace(&mut watched.started, true) {
                    let next = watched.due.saturating_add(interval);
                    if next > now { next } else { now.saturating_add(interval) }
                } else {
                    now.saturating_add((interval as f64 * rng.f64()) as u64)
                };
                watched.running_until = now.saturating_add(nanos(watched.check.timeout)).saturating_add(GRACE);
                Some(Job { endpoint: Arc::clone(&watched.endpoint), check: watched.check.clone(), ask: watched.ask })
            })
            .collect()
    }

    /// Takes a result. One for an endpoint that is gone says nothing.
    pub fn report(&mut self, endpoint: &Arc<Endpoint>, ok: bool, now: u64) {
        let Some(watched) = self.watched.get_mut(&Arc::as_ptr(endpoint).addr()) else { return };
        watched.running_until = 0;
        if let Some(healthy) = watched.tally.count(ok, &watched.check) {
            watched.endpoint.set_healthy(healthy, now);
            let (backend, endpoint) = (&watched.backend, watched.endpoint.address);
            if healthy {
                tracing::info!(%backend, %endpoint, "endpoint is healthy");
            } else {
                tracing::warn!(%backend, %endpoint, path = &*watched.check.path, "endpoint is unhealthy");
            }
        }
    }
}

/// The task that checks.
pub struct Checker<C> {
    backends: Arc<ArcSwap<Vec<Arc<Backend>>>>,
    clock: C,
    rng: fastrand::Rng,
}

impl<C: Fn() -> u64> Checker<C> {
    /// Checks whatever is in `backends`, now and later. `clock` is the process clock in nanoseconds; `seed` spreads the
    /// checks.
    pub fn new(backends: Arc<ArcSwap<Vec<Arc<Backend>>>>, clock: C, seed: u64) -> Self {
        Self { backends, clock, rng: fastrand::Rng::with_seed(seed) }
    }

    /// Checks until dropped.
    pub async fn run(mut self) {
        let mut book = Book::default();
        let mut running = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let now = (self.clock)();
                    book.refresh(&self.backends.load(), now);
                    for job in book.take_due(now, CONCURRENT.saturating_sub(running.len()), &mut self.rng) {
                        running.spawn(async move {
                            let ok = check(job.endpoint.address, job.ask, &job.check).await;
                            (job.endpoint, ok)
                        });
                    }
                }
                Some(Ok((endpoint, ok))) = running.join_next() => book.report(&endpoint, ok, (self.clock)()),
            }
        }
    }
}

/// Makes one check.
pub async fn check(address: SocketAddr, ask: Ask, check: &HealthCheck) -> bool {
    let asking = async {
        match ask {
            Ask::Http1 => get_http1(address, &check.path).await,
            Ask::Http2 => get_http2(address, &check.path).await,
            Ask::Connect => TcpStream::connect(address).await.is_ok(),
        }
    };
    tokio::time::timeout(check.timeout, asking).await.unwrap_or(false)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn is_healthy_status(status: u16) -> bool {
    (200..400).contains(&status)
}

async fn get_http1(address: SocketAddr, path: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: weir-health\r\naccept: */*\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        // "HTTP/1.1 200 " is all that is needed.
        let mut start = [0; 13];
        stream.read_exact(&mut start).await?;
        std::io::Result::Ok((start, stream))
    };
    let Ok((start, mut stream)) = exchange.await else { return false };
    let status = start.strip_prefix(b"HTTP/1.").and_then(|rest| match rest {
        [b'0' | b'1', b' ', status @ .., b' ' | b'\r'] => std::str::from_utf8(status).ok()?.parse().ok(),
        _ => None,
    });
    // Closing with unread bytes is a reset, which some servers log as an error: read a reasonable rest.
    let mut scratch = [0; 4_096];
    let drain = async {
        let mut left = 16;
        while left > 0 && stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {
            left -= 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(100), drain).await;
    status.is_some_and(is_healthy_status)
}

async fn get_http2(address: SocketAddr, path: &str) -> bool {
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let Ok(stream) = TcpStream::connect(address).await else { return false };
    let Ok((mut sender, connection)) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
    else {
        return false;
    };
    let request = http::Request::get(format!("http://{address}{path}"))
        .header(http::header::USER_AGENT, "weir-health")
        .body(http_body_util::Empty::<bytes::Bytes>::new());
    let Ok(request) = request else { return false };
    // The connection lives as long as this future: who ends the check ends it.
    tokio::select! {
        response = sender.send_request(request) => {
            response.is_ok_and(|response| is_healthy_status(response.status().as_u16()))
        }
        _ = connection => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::model::{self, ObjectName};
    use crate::proxy::backend::endpoint::tests::{backend as desired, endpoint_at, endpoints};
    use crate::proxy::backend::{Color, ColorId, EndpointSet, Load, Switch};
    use crate::telemetry::stats::{ColorLabels, Registry};

    const MILLI: u64 = 1_000_000;

    fn every(interval: u64) -> HealthCheck {
        HealthCheck {
            path: "/healthz".into(),
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(500),
            healthy: 2,
            unhealthy: 3,
        }
    }

    fn backend(health: Option<HealthCheck>, protocol: UpstreamProtocol, list: &[Arc<Endpoint>]) -> Arc<Backend> {
        let desired = model::Backend { health, protocol, ..desired() };
        let members = list.iter().map(|endpoint| (Arc::clone(endpoint), Condition::Ready)).collect();
        let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: "".into() };
        let color = Color::new("".into(), ColorId(0), Registry::new(1, &[]).color(labels));
        color.endpoints.store(Arc::new(EndpointSet::new(members, None, &desired, 0)));
        let switch = Arc::new(Switch::new(ObjectName::new("shop", "web"), ColorId(0)));
        Arc::new(Backend::new(Arc::new(desired), [Arc::new(color)].into(), switch, Arc::new(Load::default())))
    }

    #[test]
    fn state_changes_after_as_many_results_as_the_check_says() {
        let check = every(1_000);
        let mut tally = Tally::default();
        assert_eq!(tally.count(true, &check), None);
        assert_eq!([false, false, true, false, false].map(|ok| tally.count(ok, &check)), [None; 5]);
        assert_eq!(tally.count(false, &check), Some(false));
        assert_eq!([false, true, false, true].map(|ok| tally.count(ok, &check)), [None; 4]);
        assert_eq!(tally.count(true, &check), Some(true));
    }

    #[test]
    fn first_result_counts_alone() {
        let mut tally = Tally::default();
        assert_eq!(tally.count(false, &every(1_000)), Some(false));
    }

    #[test]
    fn every_endpoint_is_checked_once_in_each_interval_and_not_all_at_the_same_time() {
        let list = endpoints(20);
        let backends = [backend(Some(every(1_000)), UpstreamProtocol::Http1, &list)];
        let mut book = Book::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut most_in_a_tick = 0;
        let mut checks = HashMap::new();
        for tick in 0..4_000u64 {
            let now = tick * 25 * MILLI;
            book.refresh(&backends, now);
            let jobs = book.take_due(now, usize::MAX, &mut rng);
            if tick == 0 {
                assert_eq!(jobs.len(), 20, "new endpoints are asked at once");
            } else if tick > 40 {
                most_in_a_tick = most_in_a_tick.max(jobs.len());
            }
            for job in jobs {
                *checks.entry(job.endpoint.address).or_insert(0) += 1;
                book.report(&job.endpoint, true, now);
            }
        }
        assert!(checks.len() == 20 && checks.values().all(|count| (100..=102).contains(count)), "{checks:?}");
        assert!(most_in_a_tick < 6, "{most_in_a_tick}");
    }

    #[test]
    fn running_check_is_not_started_twice_and_room_goes_to_the_longest_overdue() {
        let list = endpoints(5);
        let backends = [backend(Some(every(100)), UpstreamProtocol::Http1, &list)];
        let mut book = Book::default();
        let mut rng = fastrand::Rng::with_seed(1);
        book.refresh(&backends, 0);
        let first = book.take_due(0, 3, &mut rng);
        assert_eq!(first.len(), 3);
        let second = book.take_due(1_000 * MILLI, 10, &mut rng);
        assert_eq!(second.len(), 2, "the others are still running");
        assert!(second.iter().all(|job| first.iter().all(|other| !Arc::ptr_eq(&other.endpoint, &job.endpoint))));
        first.iter().for_each(|job| book.report(&job.endpoint, true, 1_000 * MILLI));
        assert_eq!(book.take_due(1_000 * MILLI, 10, &mut rng).len(), 3);
        assert_eq!(book.take_due(2_499 * MILLI, 10, &mut rng).len(), 0);
        assert_eq!(book.take_due(2_500 * MILLI, 10, &mut rng).len(), 5, "who never reports is asked again");
    }

    #[test]
    fn endpoint_that_is_no_longer_checked_is_healthy_again() {
        let list = endpoints(2);
        let mut book = Book::default();
        let mut rng = fastrand::Rng::with_seed(1);
        book.refresh(&[backend(Some(every(100)), UpstreamProtocol::Http1, &list)], 0);
        let jobs = book.take_due(0, 10, &mut rng);
        jobs.iter().for_each(|job| book.report(&job.endpoint, false, 0));
        assert!(list.iter().all(|endpoint| !endpoint.is_healthy()));
        book.refresh(&[backend(None, UpstreamProtocol::Http1, &list)], 0);
        assert!(list.iter().all(|endpoint| endpoint.is_healthy()));
        book.report(&jobs[0].endpoint, false, 0);
        assert!(list.iter().all(|endpoint| endpoint.is_healthy()), "a late result says nothing");
    }

    /// Answers every connection with the status in `status`; 0 is silence.
    async fn server(status: Arc<AtomicU16>, asked: Arc<AtomicUsize>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (status, asked) = (Arc::clone(&status), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    assert!(head.starts_with(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1:"));
                    asked.fetch_add(1, Ordering::SeqCst);
                    match status.load(Ordering::SeqCst) {
                        0 => std::future::pending::<()>().await,
                        status => {
                            let answer = format!("HTTP/1.1 {status} Fine\r\ncontent-length: 2\r\n\r\nok");
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                    }
                });
            }
        });
        address
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn run_checker(backends: Vec<Arc<Backend>>) -> tokio::task::JoinHandle<()> {
        let start = Instant::now();
        let clock = move || start.elapsed().as_nanos() as u64;
        tokio::spawn(Checker::new(Arc::new(ArcSwap::from_pointee(backends)), clock, 1).run())
    }

    #[tokio::test]
    async fn endpoint_goes_out_when_it_answers_badly_and_comes_back() {
        let (status, asked) = (Arc::new(AtomicU16::new(204)), Arc::new(AtomicUsize::new(0)));
        let address = server(Arc::clone(&status), Arc::clone(&asked)).await;
        let endpoint = endpoint_at(address, 0);
        let check = HealthCheck { timeout: Duration::from_millis(250), ..every(100) };
        let task = run_checker(vec![backend(Some(check), UpstreamProtocol::Http1, &[Arc::clone(&endpoint)])]);
        until("asked twice", || asked.load(Ordering::SeqCst) >= 2).await;
        assert!(endpoint.is_healthy());
        for bad in [503, 404, 0] {
            status.store(bad, Ordering::SeqCst);
            until("unhealthy", || !endpoint.is_healthy()).await;
            status.store(302, Ordering::SeqCst);
            until("healthy", || endpoint.is_healthy()).await;
        }
        task.abort();
    }

    #[tokio::test]
    async fn endpoint_that_refuses_connections_is_unhealthy_whatever_it_speaks() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let protocols = [UpstreamProtocol::Http1, UpstreamProtocol::H2c, UpstreamProtocol::Tls(Default::default())];
        let list: Vec<_> = protocols.iter().map(|_| endpoint_at(closed, 0)).collect();
        let backends = protocols.into_iter().zip(&list);
        let backends =
            backends.map(|(protocol, endpoint)| backend(Some(every(100)), protocol, &[Arc::clone(endpoint)]));
        let task = run_checker(backends.collect());
        until("unhealthy", || list.iter().all(|endpoint| !endpoint.is_healthy())).await;
        task.abort();
    }

    #[tokio::test]
    async fn http2_endpoint_is_asked_over_http2() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let status = if request.uri().path() == "/healthz" { 200 } else { 500 };
                    http::Response::builder().status(status).body(http_body_util::Empty::<bytes::Bytes>::new())
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                tokio::spawn(async move { builder.serve_connection(io, service).await });
            }
        });
        let other = HealthCheck { path: "/other".into(), ..every(100) };
        assert!(check(address, Ask::Http2, &every(100)).await);
        assert!(!check(address, Ask::Http2, &other).await);
        assert!(!check(address, Ask::Http1, &every(100)).await, "it does not speak HTTP/1.1");
        assert!(check(address, Ask::Connect, &every(100)).await);
    }

    #[tokio::test]
    async fn answer_that_is_not_http_is_unhealthy() {
        for answer in ["HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 20", "SSH-2.0-OpenSSH_9.9\r\n", "HTTP/2.0 200 OK\r\n", ""]
        {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = [0; 1_024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
            assert!(!check(address, Ask::Http1, &every(100)).await, "{answer:?}");
        }
    }
}
