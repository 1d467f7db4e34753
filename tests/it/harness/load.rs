//! Constant mixed load in the background that counts everything an operator must never see.
//!
//! Clients of five kinds run until told to stop: HTTP/1.1 keep-alive, HTTP/1.1 with a new connection per request, HTTP/2
//! with many streams on few connections, WebSockets that echo, gRPC streams that echo. Where a certificate authority is
//! given, every second one of the first three kinds and of the WebSockets speaks TLS. Every answer is checked against a
//! token in its request. A failure is any of: no connection, reset, a status other than 200, a wrong or truncated body,
//! more than five seconds. A close is the end of a connection or stream that its client still wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::certificates::Authority;
use super::client::{self, Answer, Body, Error, H1, H2, Target, empty, full};
use super::grpc::{self, Say};
use super::websocket::Socket;
use super::weir::Weir;

const TOO_LONG: Duration = Duration::from_secs(5);
const POSTED: usize = 16 * 1024;

/// How many clients of each kind, and how often each asks.
#[derive(Clone)]
pub struct Plan {
    pub http: SocketAddr,
    /// Address and a client that trusts what is presented there for `host`.
    pub https: Option<(SocketAddr, Arc<ClientConfig>)>,
    /// Host of everything but gRPC.
    pub host: String,
    /// Hosts of WebSockets, one after the other; empty: `host`.
    pub long_hosts: Vec<String>,
    /// Hosts of gRPC, one after the other.
    pub grpc_hosts: Vec<String>,
    pub keep_alive: usize,
    pub new_connections: usize,
    /// Connections and streams in parallel on each.
    pub multiplexed: (usize, usize),
    pub sockets: usize,
    pub grpc_streams: usize,
    /// Whether every eighth request of the first and third kind is a `POST` with a body.
    pub posts: bool,
    /// Between the end of a request and the next one of the same client.
    pub pause: Duration,
}

impl Plan {
    /// About 2,000 requests per second if answered at once: enough to fill every moment, little enough for two cores.
    pub fn mixed(weir: &Weir, host: &str, grpc_host: &str) -> Self {
        Self {
            http: weir.http,
            https: None,
            host: host.to_owned(),
            long_hosts: Vec::new(),
            grpc_hosts: vec![grpc_host.to_owned()],
            keep_alive: 8,
            new_connections: 2,
            multiplexed: (2, 4),
            sockets: 10,
            grpc_streams: 10,
            posts: true,
            pause: Duration::from_millis(8),
        }
    }

    /// Half of it over TLS.
    #[must_use]
    pub fn with_tls(mut self, address: SocketAddr, authority: &Authority) -> Self {
        self.https = Some((address, authority.client(&[])));
        self
    }

    /// Only requests that may be repeated: no bodies, no streams.
    #[must_use]
    pub fn idempotent_only(mut self) -> Self {
        self.sockets = 0;
        self.grpc_streams = 0;
        self.posts = false;
        self
    }

    pub fn start(self) -> Load {
        let shared = Arc::new(Shared::new(self.clone()));
        let mut clients = JoinSet::new();
        for number in 0..self.keep_alive {
            clients.spawn(keep_alive(shared.clone(), number));
        }
        for number in 0..self.new_connections {
            clients.spawn(new_connections(shared.clone(), number));
        }
        for number in 0..self.multiplexed.0 {
            clients.spawn(multiplexed(shared.clone(), number, self.multiplexed.1));
        }
        for number in 0..self.sockets {
            clients.spawn(socket(shared.clone(), number));
        }
        for number in 0..self.grpc_streams {
            clients.spawn(grpc_stream(shared.clone(), number));
        }
        Load { shared, clients, started: Instant::now() }
    }
}

/// Load that is running.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    started: Instant,
}

impl Load {
    /// Waits until every kind has been answered at least once.
    pub async fn warm(&self) {
        super::until("an answer of every kind of load", async || {
            self.shared.kinds().all(|(kind, wanted)| wanted == 0 || kind.requests.load(Ordering::SeqCst) >= wanted)
        })
        .await;
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.shared.kinds().map(|(kind, _)| kind.requests.load(Ordering::SeqCst)).sum()
    }

    /// Failures and unwanted closes so far.
    pub fn harm(&self) -> u64 {
        self.shared
            .kinds()
            .map(|(kind, _)| kind.failed.load(Ordering::SeqCst) + kind.closed.load(Ordering::SeqCst))
            .sum()
    }

    /// As a balancer in front would do when readiness fails: no new connection from now on, and whoever is told that
    /// a connection ends after this answer leaves.
    pub fn no_new_connections(&self) {
        self.shared.state.send_replace(State::Leaving);
    }

    /// From now on requests (not streams) go to this host.
    pub fn aim(&self, host: &str) {
        *self.shared.host.lock().unwrap() = host.to_owned();
    }

    /// Ends every client properly and counts.
    pub async fn stop(mut self) -> Report {
        self.shared.state.send_replace(State::Ending);
        let ended = timeout(Duration::from_secs(20), async { while self.clients.join_next().await.is_some() {} }).await;
        let mut report = self.shared.report(self.started.elapsed());
        if ended.is_err() {
            report.examples.push("some clients did not end within 20 s".to_owned());
            report.kinds[0].1.failed += self.clients.len() as u64;
        }
        report
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Leaving,
    Ending,
}

struct Shared {
    plan: Plan,
    state: watch::Sender<State>,
    keep_alive: Kind,
    new_connections: Kind,
    multiplexed: Kind,
    sockets: Kind,
    grpc_streams: Kind,
    host: Mutex<String>,
    tokens: AtomicU64,
    servers: Mutex<BTreeMap<String, u64>>,
    examples: Mutex<Vec<String>>,
    slowest: AtomicU64,
}

#[derive(Default)]
struct Kind {
    requests: AtomicU64,
    failed: AtomicU64,
    closed: AtomicU64,
    opened: AtomicU64,
    goodbyes: AtomicU64,
}

/// What one kind of client saw.
#[derive(Debug, Clone, Default)]
pub struct Count {
    pub requests: u64,
    pub failed: u64,
    /// Connections or streams that ended although their client still wanted them.
    pub closed: u64,
    pub opened: u64,
    /// Connections that ended after their client had been asked to leave.
    pub goodbyes: u64,
}

/// What all clients saw.
#[derive(Debug)]
pub struct Report {
    pub kinds: Vec<(&'static str, Count)>,
    /// Answers by the backend that gave them.
    pub servers: BTreeMap<String, u64>,
    /// The first few things that went wrong.
    pub examples: Vec<String>,
    pub slowest: Duration,
    pub took: Duration,
}

impl Report {
    pub fn requests(&self) -> u64 {
        self.kinds.iter().map(|(_, count)| count.requests).sum()
    }

    pub fn failed(&self) -> u64 {
        self.kinds.iter().map(|(_, count)| count.failed).sum()
    }

    pub fn closed(&self) -> u64 {
        self.kinds.iter().map(|(_, count)| count.closed).sum()
    }

    pub fn kind(&self, name: &str) -> &Count {
        &self.kinds.iter().find(|(kind, _)| *kind == name).unwrap().1
    }

    /// The promise: nothing failed, nothing that was wanted was closed, and there was enough load to say so.
    pub fn assert_clean(&self, title: &str, floor: u64) {
        println!("{title}: {self}");
        assert_eq!((self.failed(), self.closed()), (0, 0), "{title}: (failed, closed); {self}");
        assert!(self.requests() >= floor, "{title}: too little load to say anything, {floor} wanted; {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests in {:.1} s, {} failed, {} closed, slowest {:?}",
            self.requests(),
            self.took.as_secs_f64(),
            self.failed(),
            self.closed(),
            self.slowest
        )?;
        for (name, count) in &self.kinds {
            if count.opened > 0 || count.failed > 0 {
                write!(
                    f,
                    "\n    {name}: {} requests, {} failed, {} closed, {} opened, {} goodbyes",
                    count.requests, count.failed, count.closed, count.opened, count.goodbyes
                )?;
            }
        }
        if self.servers.len() <= 16 {
            write!(f, "\n    answered by {:?}", self.servers)?;
        }
        for example in &self.examples {
            write!(f, "\n    e.g. {example}")?;
        }
        Ok(())
    }
}

impl Shared {
    fn new(plan: Plan) -> Self {
        Self {
            host: Mutex::new(plan.host.clone()),
            plan,
            state: watch::Sender::new(State::Running),
            keep_alive: Kind::default(),
            new_connections: Kind::default(),
            multiplexed: Kind::default(),
            sockets: Kind::default(),
            grpc_streams: Kind::default(),
            tokens: AtomicU64::new(0),
            servers: Mutex::default(),
            examples: Mutex::default(),
            slowest: AtomicU64::new(0),
        }
    }

    /// Every kind with the number of clients it has.
    fn kinds(&self) -> impl Iterator<Item = (&Kind, u64)> {
        let plan = &self.plan;
        [
            (&self.keep_alive, plan.keep_alive),
            (&self.new_connections, plan.new_connections),
            (&self.multiplexed, plan.multiplexed.0 * plan.multiplexed.1),
            (&self.sockets, plan.sockets),
            (&self.grpc_streams, plan.grpc_streams),
        ]
        .into_iter()
        .map(|(kind, clients)| (kind, clients as u64))
    }

    fn is(&self, state: State) -> bool {
        *self.state.borrow() == state
    }

    /// Waits for the pause of a client, or less if the state changes.
    async fn pause(&self) {
        let mut state = self.state.subscribe();
        tokio::select! {
            () = sleep(self.plan.pause) => {}
            // The sender lives in `self`.
            _ = state.changed() => {}
        }
    }

    fn target(&self, number: usize, alpn: &str) -> Target {
        match &self.plan.https {
            Some((address, config)) if number % 2 == 1 => {
                let mut config = (**config).clone();
                config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
                Target::tls(*address, Arc::new(config), &self.plan.host)
            }
            _ => Target::plain(self.plan.http),
        }
    }

    fn fail(&self, kind: &Kind, what: &str, error: impl fmt::Display) {
        kind.failed.fetch_add(1, Ordering::SeqCst);
        self.example(format!("{what}: {error}"));
    }

    fn close(&self, kind: &Kind, what: &str) {
        kind.closed.fetch_add(1, Ordering::SeqCst);
        self.example(format!("{what} was closed"));
    }

    fn example(&self, text: String) {
        let mut examples = self.examples.lock().unwrap();
        if examples.len() < 10 {
            examples.push(text);
        }
    }

    fn served(&self, kind: &Kind, by: &str, since: Instant) {
        kind.requests.fetch_add(1, Ordering::SeqCst);
        self.slowest.fetch_max(since.elapsed().as_micros() as u64, Ordering::Relaxed);
        let mut servers = self.servers.lock().unwrap();
        match servers.get_mut(by) {
            Some(count) => *count += 1,
            None => drop(servers.insert(by.to_owned(), 1)),
        }
    }

    fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    /// A request, and what must come back: the end of the body.
    fn request(&self) -> (Request<Body>, Expected) {
        let token = self.token();
        let host = self.host.lock().unwrap().clone();
        let builder = |method, path| client::request(method, &host, path).header("x-token", token.to_string());
        if self.plan.posts && token.is_multiple_of(8) {
            let body = Bytes::from(vec![b'0' + (token / 8 % 10) as u8; POSTED]);
            let request = builder(Method::POST, "/echo").body(full(body.clone())).unwrap();
            (request, Expected::Body(body))
        } else {
            (builder(Method::GET, "/load").body(empty()).unwrap(), Expected::Token(token))
        }
    }

    fn check(&self, answer: &Answer, expected: &Expected) -> Result<String, String> {
        if answer.status != 200 {
            return Err(format!("status {} {}", answer.status, answer.text()));
        }
        match expected {
            Expected::Token(token) => {
                let text = answer.text();
                match text.split_once(' ') {
                    Some((name, is)) if is == token.to_string() => Ok(name.to_owned()),
                    _ => Err(format!("wrong body {text:?} for token {token}")),
                }
            }
            Expected::Body(body) if answer.body == body => Ok(answer.header("x-backend").to_owned()),
            Expected::Body(body) => Err(format!("{} bytes came back of {}", answer.body.len(), body.len())),
        }
    }

    fn report(&self, took: Duration) -> Report {
        let count = |kind: &Kind| Count {
            requests: kind.requests.load(Ordering::SeqCst),
            failed: kind.failed.load(Ordering::SeqCst),
            closed: kind.closed.load(Ordering::SeqCst),
            opened: kind.opened.load(Ordering::SeqCst),
            goodbyes: kind.goodbyes.load(Ordering::SeqCst),
        };
        Report {
            kinds: vec![
                ("keep-alive", count(&self.keep_alive)),
                ("new connections", count(&self.new_connections)),
                ("http2", count(&self.multiplexed)),
                ("websocket", count(&self.sockets)),
                ("grpc", count(&self.grpc_streams)),
            ],
            servers: self.servers.lock().unwrap().clone(),
            examples: self.examples.lock().unwrap().clone(),
            slowest: Duration::from_micros(self.slowest.load(Ordering::SeqCst)),
            took,
        }
    }
}

enum Expected {
    Token(u64),
    Body(Bytes),
}

/// Within the time that a client has.
async fn timely<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(TOO_LONG, work).await.map_err(|_| Error::from(format!("nothing for {TOO_LONG:?}")))?
}

async fn keep_alive(shared: Arc<Shared>, number: usize) {
    let kind = &shared.keep_alive;
    let target = shared.target(number, "http/1.1");
    while shared.is(State::Running) {
        let mut connection = match timely(H1::connect(&target)).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.fail(kind, "keep-alive, connect", error);
                shared.pause().await;
                continue;
            }
        };
        kind.opened.fetch_add(1, Ordering::SeqCst);
        loop {
            if shared.is(State::Ending) {
                return;
            }
            if connection.closed() {
                if shared.is(State::Leaving) {
                    kind.goodbyes.fetch_add(1, Ordering::SeqCst);
                } else {
                    shared.close(kind, "an idle keep-alive connection");
                }
                break;
            }
            let (request, expected) = shared.request();
            let start = Instant::now();
            let answer = timely(connection.ask(request)).await;
            match answer
                .map_err(|error| chain(&*error))
                .and_then(|answer| Ok((shared.check(&answer, &expected)?, answer)))
            {
                Ok((by, answer)) => {
                    shared.served(kind, &by, start);
                    if answer.header("connection").eq_ignore_ascii_case("close") {
                        if shared.is(State::Leaving) {
                            kind.goodbyes.fetch_add(1, Ordering::SeqCst);
                        } else {
                            shared.close(kind, "a keep-alive connection, announced,");
                        }
                        break;
                    }
                }
                Err(error) => {
                    shared.fail(kind, "keep-alive", error);
                    break;
                }
            }
            shared.pause().await;
        }
    }
}

async fn new_connections(shared: Arc<Shared>, mut number: usize) {
    let kind = &shared.new_connections;
    while shared.is(State::Running) {
        number += 1;
        let target = shared.target(number, "http/1.1");
        let (request, expected) = shared.request();
        let start = Instant::now();
        let answer = timely(async {
            let mut connection = H1::connect(&target).await?;
            kind.opened.fetch_add(1, Ordering::SeqCst);
            connection.ask(request).await
        })
        .await;
        match answer.map_err(|error| chain(&*error)).and_then(|answer| shared.check(&answer, &expected)) {
            Ok(by) => shared.served(kind, &by, start),
            Err(error) => shared.fail(kind, "new connection", error),
        }
        shared.pause().await;
    }
}

async fn multiplexed(shared: Arc<Shared>, number: usize, streams: usize) {
    let kind = &shared.multiplexed;
    let target = shared.target(number, "h2");
    while shared.is(State::Running) {
        let connection = match timely(H2::connect(&target)).await {
            Ok(connection) => connection,
            Err(error) => {
                shared.fail(kind, "http2, connect", error);
                shared.pause().await;
                continue;
            }
        };
        kind.opened.fetch_add(1, Ordering::SeqCst);
        let mut all = JoinSet::new();
        for _ in 0..streams {
            all.spawn(one_of_many(shared.clone(), connection.clone()));
        }
        while all.join_next().await.is_some() {}
        if shared.is(State::Leaving) {
            kind.goodbyes.fetch_add(1, Ordering::SeqCst);
        } else if shared.is(State::Running) {
            shared.close(kind, "an http2 connection");
        }
        shared.pause().await;
    }
}

/// One request after the other on a shared connection, until it ends.
async fn one_of_many(shared: Arc<Shared>, mut connection: H2) {
    let kind = &shared.multiplexed;
    while !shared.is(State::Ending) && !connection.closed() {
        let (request, expected) = shared.request();
        let start = Instant::now();
        let answer = timely(connection.ask(request)).await;
        match answer {
            Ok(answer) => match shared.check(&answer, &expected) {
                Ok(by) => shared.served(kind, &by, start),
                Err(error) => shared.fail(kind, "http2", error),
            },
            // Never sent, because the connection had said goodbye: a client takes another connection then.
            Err(error) if unsent(&*error) => return,
            Err(error) => {
                shared.fail(kind, "http2", chain(&*error));
                return;
            }
        }
        shared.pause().await;
    }
}

fn unsent(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_canceled() || error.is_closed())
}

async fn socket(shared: Arc<Shared>, number: usize) {
    let kind = &shared.sockets;
    let target = shared.target(number, "http/1.1");
    let hosts = &shared.plan.long_hosts;
    let host = if hosts.is_empty() { shared.plan.host.clone() } else { hosts[number % hosts.len()].clone() };
    while shared.is(State::Running) {
        let mut socket = match timely(Socket::connect(&target, &host)).await {
            Ok(socket) => socket,
            Err(error) => {
                shared.fail(kind, "websocket, connect", chain(&*error));
                shared.pause().await;
                continue;
            }
        };
        kind.opened.fetch_add(1, Ordering::SeqCst);
        loop {
            if shared.is(State::Ending) {
                if let Err(error) = timely(socket.close()).await {
                    shared.fail(kind, "websocket, close", chain(&*error));
                }
                return;
            }
            let token = shared.token().to_string();
            let start = Instant::now();
            match timely(socket.echo(&token)).await {
                Ok(Some(answer)) => match answer.split_once(' ') {
                    Some((name, is)) if is == token => shared.served(kind, name, start),
                    _ => shared.fail(kind, "websocket", format!("{answer:?} came back for {token}")),
                },
                Ok(None) => {
                    shared.close(kind, "a websocket");
                    break;
                }
                Err(error) => {
                    shared.close(kind, &format!("a websocket ({})", chain(&*error)));
                    break;
                }
            }
            shared.pause().await;
        }
    }
}

async fn grpc_stream(shared: Arc<Shared>, number: usize) {
    let kind = &shared.grpc_streams;
    let host = &shared.plan.grpc_hosts[number % shared.plan.grpc_hosts.len()];
    while shared.is(State::Running) {
        let opened = timely(async {
            let mut client = grpc::Client::connect(shared.plan.http, host).await?;
            Ok(client.bidi().await?)
        });
        let (sender, mut receiver) = match opened.await {
            Ok(stream) => stream,
            Err(error) => {
                shared.fail(kind, "grpc, open", chain(&*error));
                shared.pause().await;
                continue;
            }
        };
        kind.opened.fetch_add(1, Ordering::SeqCst);
        loop {
            if shared.is(State::Ending) {
                drop(sender);
                match timely(async { Ok(receiver.message().await?) }).await {
                    Ok(None) => {}
                    Ok(Some(say)) => shared.fail(kind, "grpc, end", format!("{say:?} after the end")),
                    Err(error) => shared.fail(kind, "grpc, end", chain(&*error)),
                }
                return;
            }
            let token = shared.token().to_string();
            let start = Instant::now();
            let answer = timely(async {
                sender.send(Say::new(token.clone())).await.map_err(|_| "the stream takes no more")?;
                Ok(receiver.message().await?)
            });
            match answer.await {
                Ok(Some(say)) if say.text == token => shared.served(kind, &say.from, start),
                Ok(Some(say)) => shared.fail(kind, "grpc", format!("{say:?} came back for {token}")),
                Ok(None) => {
                    shared.close(kind, "a grpc stream");
                    break;
                }
                Err(error) => {
                    shared.close(kind, &format!("a grpc stream ({})", chain(&*error)));
                    break;
                }
            }
            shared.pause().await;
        }
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
