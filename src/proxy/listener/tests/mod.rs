//! Listeners of one worker with real sockets on loopback, over models made by hand.

mod client_certificates;
mod datagrams;
mod streams;
mod tls;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::{Datagrams, Listener, Shared, Spec, bind, bind_datagrams};
use crate::model::*;
use crate::proxy::fault::Fault;
use crate::proxy::options::Options;
use crate::proxy::request::Context;
use crate::proxy::snapshot::{Live, Published, compile};
use crate::telemetry::access_log::Logger;
use crate::telemetry::clock;
use crate::telemetry::stats::{Registry, Totals};

/// Most workers of a test.
const WORKERS: usize = 5;

const BIND: Bind = Bind::Port(1);

/// A worker without its thread.
struct Worker {
    context: Rc<Context>,
    registry: Arc<Registry>,
    published: Arc<Published>,
    live: RefCell<Live>,
}

/// Runs a test on a worker.
fn on_a_worker<F: Future>(options: Options, test: impl FnOnce(Rc<Worker>) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    let reasons: Vec<&'static str> = Fault::ALL.iter().map(|fault| fault.code()).collect();
    let registry = Registry::new(WORKERS, reasons.leak());
    let published = Arc::<Published>::default();
    let shard = registry.shard(0);
    let context = Context::new(Arc::new(options), published.clone(), shard, Arc::default(), Logger::off(), 7);
    let live = RefCell::new(Live::new(registry.clone()));
    let worker = Rc::new(Worker { context, registry, published, live });
    runtime.block_on(async {
        let timers = worker.context.timers.clone();
        tokio::task::spawn_local(async move { timers.run(clock::now).await });
        test(worker).await
    })
}

/// As a test wants it; two attempts as by default.
fn options() -> Options {
    Options { attempts: 2, retry_percent: 100, ..Options::default() }
}

impl Worker {
    fn publish(&self, model: &Model) {
        let before = self.published.load_full();
        let before = (before.generation > 0).then_some(&*before);
        let snapshot = compile(model, &mut self.live.borrow_mut(), before, clock::now());
        self.published.publish(snapshot);
    }

    fn spec(protocol: Protocol) -> Spec {
        let address = ([127, 0, 0, 1], 0).into();
        Spec { bind: BIND, name: "test".into(), address, protocol, proxy_protocol: false }
    }

    /// Listens until the test ends.
    fn listen(&self, protocol: Protocol) -> SocketAddr {
        self.listen_with(protocol, Arc::default())
    }

    /// The same, where something is counted already.
    fn listen_with(&self, protocol: Protocol, shared: Arc<Shared>) -> SocketAddr {
        let spec = Self::spec(protocol);
        let socket = bind(&spec).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = Listener::new(&self.context, spec, shared);
        tokio::task::spawn_local(async move { listener.run(socket, std::future::pending()).await });
        address
    }

    /// Another worker of the same process, on the same thread.
    fn another(&self, index: usize) -> Rc<Context> {
        let (options, published) = (self.context.options.clone(), self.published.clone());
        let context = Context::new(options, published, self.registry.shard(index), Arc::default(), Logger::off(), 7);
        let timers = context.timers.clone();
        tokio::task::spawn_local(async move { timers.run(clock::now).await });
        context
    }

    /// Listens for datagrams.
    fn listen_for_datagrams(&self) -> (SocketAddr, Rc<Datagrams>) {
        let (datagrams, _) = listen_for_datagrams(&self.context, ([127, 0, 0, 1], 0).into(), &Arc::default());
        (datagrams.address().unwrap(), datagrams)
    }

    fn totals(&self) -> Totals {
        self.context.stats.borrow_mut().publish(clock::now());
        self.registry.totals(clock::now())
    }

    fn faults(&self, fault: Fault) -> u64 {
        self.totals().faults[fault.index()].1
    }

    /// Waits until it is so.
    async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        for _ in 0..2_000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("not so after 10 s: {what}");
    }
}

/// One worker's end of a listener for datagrams, and its task.
fn listen_for_datagrams(
    context: &Rc<Context>,
    address: SocketAddr,
    shared: &Arc<Shared>,
) -> (Rc<Datagrams>, tokio::task::JoinHandle<()>) {
    let spec = Spec { address, ..Worker::spec(Protocol::Udp) };
    let socket = bind_datagrams(&spec).unwrap();
    let datagrams = Datagrams::new(context, spec, shared.clone(), socket).unwrap();
    let task = tokio::task::spawn_local(datagrams.clone().run());
    (datagrams, task)
}

fn key(service: &str) -> BackendKey {
    BackendKey::new(ObjectName::new("shop", service), 80)
}

fn backend(service: &str, addresses: &[SocketAddr]) -> Backend {
    let endpoint =
        |address: &SocketAddr| Endpoint { address: *address, condition: Condition::Ready, pod: None, zone: None };
    let mut addresses = addresses.to_vec();
    addresses.sort();
    let source = EndpointSource::Listed(addresses.iter().map(endpoint).collect());
    Backend::new(
        key(service),
        vec![ColorEndpoints { color: "".into(), service: ObjectName::new("shop", service), source }],
    )
}

fn rule(shares: &[(&str, u32)]) -> Arc<Rule> {
    let share = |(service, weight): &(&str, u32)| WeightedBackend {
        weight: *weight,
        target: Target::Backend(key(service)),
        filters: Vec::new(),
    };
    Arc::new(Rule {
        source: ObjectRef::new("TCPRoute", ObjectName::new("shop", "r")),
        name: "tcproute/shop/r".into(),
        filters: Vec::new(),
        backends: shares.iter().map(share).collect(),
        timeouts: RouteTimeouts::default(),
        retry: None,
    })
}

fn stream(host: HostPattern, mode: StreamMode, shares: &[(&str, u32)]) -> Stream {
    Stream { host, mode, rule: rule(shares) }
}

fn model(entry: Entry, backends: impl IntoIterator<Item = Backend>) -> Model {
    Model {
        entries: [(BIND, entry)].into(),
        backends: backends.into_iter().map(|backend| (backend.key.clone(), Arc::new(backend))).collect(),
        switches: Default::default(),
    }
}

/// One stream for everything.
fn entry(protocol: Protocol, shares: &[(&str, u32)]) -> Entry {
    let stream = stream(HostPattern::Any, StreamMode::Passthrough, shares);
    Entry { protocol, streams: Arc::new(vec![stream]), ..Entry::default() }
}

/// Says its name, then sends back what it reads, and ends when the client has ended its direction.
async fn echo(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(name.as_bytes()).await?;
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

/// Where nobody listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Sends a text, ends its direction, reads everything.
async fn ask(address: SocketAddr, text: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Answers each datagram with the name, a colon and what was in it.
async fn echo_datagrams(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), b":", &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}
