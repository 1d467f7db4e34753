//! One thread per core: its runtime, its sockets, its connections, its statistics.
//!
//! A request is accepted, sent and answered on one worker. The thread ends when the process drains and its last
//! connection has ended, or when time is up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::listener::{BindError, Datagrams, Everywhere, Listener, Shared, SocketBoard, Spec, bind, bind_datagrams};
use super::request::{Context, Warmed};
use crate::drain::{DrainWatch, Phase};
use crate::model::{Bind, Obstacle, Protocol, SocketNews};
use crate::proxy::backend::Backend;
use crate::telemetry::clock;

/// How often statistics are published.
const PUBLISH: Duration = Duration::from_millis(100);

/// Between two tries to open a socket that a Gateway asks for.
const REOPEN: Duration = Duration::from_secs(1);

/// Sockets of the whole process: what is open, and where. Shared by all workers; touched only when sockets change.
#[derive(Debug, Default)]
pub struct Sockets {
    listeners: Mutex<Listeners>,
    everywhere: Arc<Everywhere>,
}

#[derive(Debug, Default)]
struct Listeners {
    open: BTreeMap<Arc<str>, Open>,
    /// What is left of those that are closed: should one be opened again, it goes on counting with what is still running.
    closed: BTreeMap<Arc<str>, (Spec, Weak<Shared>)>,
}

#[derive(Debug)]
struct Open {
    address: SocketAddr,
    shared: Arc<Shared>,
    spec: Spec,
}

impl Sockets {
    /// Opens one worker's socket of a listener. The first worker's port 0 becomes everyone's port.
    fn open(&self, spec: &Spec) -> Result<(Socket, Arc<Shared>), BindError> {
        let mut listeners = self.lock();
        let mut wanted = spec.clone();
        if let Some(known) = listeners.open.get(&spec.name).filter(|known| known.spec == *spec) {
            wanted.address = known.address;
        }
        let socket = match wanted.protocol {
            Protocol::Udp => Socket::Datagrams(bind_datagrams(&wanted)?),
            Protocol::Http | Protocol::Https | Protocol::Tcp => Socket::Connections(bind(&wanted)?),
        };
        let failed = |source| BindError { name: spec.name.clone(), address: spec.address, source };
        let address = socket.address().map_err(failed)?;
        Ok((socket, listeners.enter(spec, address, || Shared::new(&self.everywhere))))
    }

    /// One worker's socket, which was to be closed, stays open after all.
    fn keep(&self, spec: &Spec, address: SocketAddr, shared: &Arc<Shared>) {
        self.lock().enter(spec, address, || shared.clone());
    }

    fn close(&self, name: &str, spec: &Spec) {
        let mut listeners = self.lock();
        // Another worker may have opened the same name elsewhere by now.
        if listeners.open.get(name).is_some_and(|known| known.spec == *spec)
            && let Some((name, Open { shared, spec, .. })) = listeners.open.remove_entry(name)
        {
            tracing::info!(listener = %name, "no longer listening");
            listeners.closed.retain(|_, (_, shared)| shared.strong_count() > 0);
            listeners.closed.insert(name, (spec, Arc::downgrade(&shared)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets that are open, by name of the listener.
    pub fn addresses(&self) -> BTreeMap<Arc<str>, SocketAddr> {
        self.lock().open.iter().map(|(name, known)| (name.clone(), known.address)).collect()
    }
}

impl Listeners {
    /// This listener is open at this address. Gives what all its sockets share.
    fn enter(&mut self, spec: &Spec, address: SocketAddr, make: impl FnOnce() -> Arc<Shared>) -> Arc<Shared> {
        if let Some(known) = self.open.get(&spec.name).filter(|known| known.spec == *spec) {
            return known.shared.clone();
        }
        tracing::info!(listener = %spec.name, %address, protocol = ?spec.protocol, "listening");
        let before = self.closed.remove(&spec.name).filter(|(before, _)| before == spec);
        let shared = before.and_then(|(_, shared)| shared.upgrade()).unwrap_or_else(make);
        self.open.insert(spec.name.clone(), Open { address, shared: shared.clone(), spec: spec.clone() });
        shared
    }
}

enum Socket {
    Connections(std::net::TcpListener),
    Datagrams(std::net::UdpSocket),
}

impl Socket {
    fn address(&self) -> std::io::Result<SocketAddr> {
        match self {
            Self::Connections(socket) => socket.local_addr(),
            Self::Datagrams(socket) => socket.local_addr(),
        }
    }
}

/// What a worker is made of, made on the thread that starts it.
pub struct Plan {
    /// Number of the worker, from 0.
    pub index: usize,
    /// Listeners of the settings; those of Gateways come and go with the snapshot.
    pub listeners: Vec<Spec>,
    /// All sockets.
    pub sockets: Arc<Sockets>,
    /// Where it is told what has become of them.
    pub board: Arc<SocketBoard>,
    /// When to end.
    pub drain: DrainWatch,
    /// Live backends, for connections that a cutover wants opened beforehand.
    pub backends: Arc<arc_swap::ArcSwap<Vec<Arc<Backend>>>>,
    /// Whether all workers are there.
    pub complete: watch::Receiver<bool>,
}

/// Runs a worker on this thread until the process drains. `make` makes its context on this thread; `bound` is told when
/// the sockets of the settings are open, or why not.
///
/// # Errors
/// What the system says when there can be no runtime.
pub fn run(
    plan: Plan,
    make: impl FnOnce() -> Rc<Context>,
    bound: oneshot::Sender<Result<(), BindError>>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let context = make();
    runtime.block_on(work(plan, context, bound));
    Ok(())
}

async fn work(plan: Plan, context: Rc<Context>, bound: oneshot::Sender<Result<(), BindError>>) {
    let timers = context.timers.clone();
    tokio::task::spawn_local(async move { timers.run(clock::now).await });
    context.spawn(keep_house(context.clone(), plan.backends.clone(), plan.index));
    let mut desk = Desk {
        context: context.clone(),
        sockets: plan.sockets.clone(),
        running: BTreeMap::new(),
        leaving: BTreeMap::new(),
        failed: BTreeMap::new(),
    };
    for spec in &plan.listeners {
        if let Err(error) = desk.open(spec) {
            let _ = bound.send(Err(error));
            return;
        }
    }
    let _ = bound.send(Ok(()));
    let (index, board, mut complete) = (plan.index, plan.board, plan.complete);
    // Clients of datagrams that do not pause stay with the worker that hears of them first, and that would be the one that
    // starts first. An error is the end of the process, which is noticed below.
    let _ = complete.wait_for(|complete| *complete).await;
    let mut drain = plan.drain.clone();
    let mut changed = context.published.subscribe();
    loop {
        let news = desk.follow(&plan.listeners);
        let all_open = news.unopened.is_empty();
        board.tell(index, news);
        tokio::select! {
            () = drain.reached(Phase::Draining) => break,
            result = changed.changed() => if result.is_err() { break },
            // A port may be held for a moment by whom we replace.
            () = tokio::time::sleep(REOPEN), if !all_open => {}
        }
    }
    desk.close_all().await;
    context.draining.set(true);
    context.timers.wake_all();
    let ended = async {
        while context.counters.open_connections() > 0 || !desk.has_left() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = drain.reached(Phase::Ending) => {}
    }
    context.stats.borrow_mut().publish(clock::now());
    context.log.borrow_mut().flush();
}

/// A listener of this worker.
struct Running {
    spec: Spec,
    end: End,
    task: JoinHandle<()>,
}

/// How a listener is told to end.
enum End {
    /// By a message, or by dropping this.
    Connections(oneshot::Sender<()>),
    /// It ends with the last session. Its task owns it, so that the socket is closed with that.
    Datagrams(std::rc::Weak<Datagrams>),
}

/// This worker's open sockets.
struct Desk {
    context: Rc<Context>,
    sockets: Arc<Sockets>,
    running: BTreeMap<Arc<str>, Running>,
    /// Listeners for datagrams that are not wanted any more, and still have sessions.
    leaving: BTreeMap<Arc<str>, Running>,
    /// Listeners that could not be opened.
    failed: BTreeMap<Arc<str>, (Bind, Obstacle)>,
}

impl Desk {
    fn open(&mut self, spec: &Spec) -> Result<(), BindError> {
        if let Some(running) = self.take_back(spec) {
            self.running.insert(spec.name.clone(), running);
            return Ok(());
        }
        let (socket, shared) = self.sockets.open(spec)?;
        let name = spec.name.clone();
        let (end, task) = match socket {
            Socket::Connections(socket) => {
                let (stop, stopped) = oneshot::channel::<()>();
                let listener = Listener::new(&self.context, spec.clone(), shared);
                let task = tokio::task::spawn_local(async move {
                    let stopped = async { _ = stopped.await };
                    if let Err(error) = listener.run(socket, stopped).await {
                        tracing::error!(listener = %name, %error, "listener failed");
                    }
                });
                (End::Connections(stop), task)
            }
            Socket::Datagrams(socket) => {
                let failed = |source| BindError { name, address: spec.address, source };
                let datagrams = Datagrams::new(&self.context, spec.clone(), shared, socket).map_err(failed)?;
                let end = End::Datagrams(Rc::downgrade(&datagrams));
                (end, tokio::task::spawn_local(datagrams.run()))
            }
        };
        self.running.insert(spec.name.clone(), Running { spec: spec.clone(), end, task });
        Ok(())
    }

    /// The listener that was just about to leave.
    fn take_back(&mut self, spec: &Spec) -> Option<Running> {
        let running = self.leaving.remove(&spec.name).filter(|running| !running.task.is_finished())?;
        let End::Datagrams(datagrams) = &running.end else { return None };
        let datagrams = datagrams.upgrade()?;
        datagrams.want(true);
        self.sockets.keep(spec, datagrams.address().ok()?, datagrams.shared());
        Some(running)
    }

    /// Ends the listeners that are leaving and would else keep clients of those that are wanted.
    fn make_way(&self, wanted: &BTreeMap<Arc<str>, Spec>) {
        for (name, running) in self.leaving.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            let is_in_the_way = |wanted: &Spec| {
                wanted.protocol == Protocol::Udp && takes_clients_of(running.spec.address, wanted.address)
            };
            if let End::Datagrams(datagrams) = &running.end
                && wanted.values().any(is_in_the_way)
                && let Some(datagrams) = datagrams.upgrade()
            {
                tracing::info!(listener = %name, "sessions ended: another listener has the address now");
                datagrams.end();
            }
        }
    }

    /// Whether all that were to leave have done so.
    fn has_left(&mut self) -> bool {
        self.leaving.retain(|_, running| !running.task.is_finished());
        self.leaving.is_empty()
    }

    /// Opens and closes the sockets that Gateways ask for. Connections that are open stay, and sessions, whatever happens
    /// to the socket they came through. Says which could not be opened.
    fn follow(&mut self, configured: &[Spec]) -> SocketNews {
        let snapshot = self.context.published.load_full();
        let host = configured.first().map_or([0, 0, 0, 0].into(), |spec| spec.address.ip());
        let mut wanted: BTreeMap<Arc<str>, Spec> =
            configured.iter().map(|spec| (spec.name.clone(), spec.clone())).collect();
        for (bind, table) in &snapshot.entries {
            let address = match bind {
                Bind::Http | Bind::Https => continue,
                Bind::Port(port) | Bind::UdpPort(port) => SocketAddr::new(host, *port),
                Bind::Address(address) | Bind::UdpAddress(address) => *address,
            };
            let name: Arc<str> = bind.to_string().into();
            let spec =
                Spec { bind: *bind, name: name.clone(), address, protocol: table.protocol, proxy_protocol: false };
            wanted.insert(name, spec);
        }
        let gone: Vec<Arc<str>> = self
            .running
            .iter()
            .filter(|(name, running)| wanted.get(*name) != Some(&running.spec))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(running) = self.running.remove(&name) {
                self.sockets.close(&name, &running.spec);
                if let End::Datagrams(datagrams) = &running.end {
                    leave(datagrams);
                    self.leaving.insert(name, running);
                }
            }
        }
        self.make_way(&wanted);
        self.has_left();
        self.failed.retain(|name, _| wanted.contains_key(name));
        for (name, spec) in wanted {
            if self.running.contains_key(&name) {
                continue;
            }
            let opened = self.leave_to_settings(&spec, configured).and_then(|()| self.open(&spec));
            let Err(error) = opened else {
                self.failed.remove(&name);
                continue;
            };
            // Said once, tried again and again.
            if !self.failed.contains_key(&name) {
                tracing::error!(%error, "listener not opened");
            }
            self.failed.insert(name, (spec.bind, obstacle(&error)));
        }
        let unopened = Arc::new(self.failed.values().cloned().collect());
        SocketNews { generation: snapshot.generation, unopened }
    }

    /// Refuses a socket that a listener of the settings has: the system would open it a second time and spread connections
    /// over the two. One at an address of its own beside a listener at all addresses is another socket.
    fn leave_to_settings(&self, wanted: &Spec, configured: &[Spec]) -> Result<(), BindError> {
        if wanted.protocol == Protocol::Udp || configured.iter().any(|own| own.name == wanted.name) {
            return Ok(());
        }
        let open = self.sockets.addresses();
        let Some(own) = configured.iter().find(|own| open.get(&own.name) == Some(&wanted.address)) else {
            return Ok(());
        };
        let problem = format!("it is the listener `{}` of the settings", own.name);
        let source = std::io::Error::new(std::io::ErrorKind::AddrInUse, problem);
        Err(BindError { name: wanted.name.clone(), address: wanted.address, source })
    }

    /// Stops all listeners and waits until those for connections have taken in what the system had accepted for them.
    async fn close_all(&mut self) {
        for (name, running) in std::mem::take(&mut self.running) {
            match running.end {
                End::Connections(stop) => {
                    let _ = stop.send(());
                    // A panic there has been reported by the panic hook already.
                    let _ = running.task.await;
                }
                End::Datagrams(ref datagrams) => {
                    leave(datagrams);
                    self.leaving.insert(name, running);
                }
            }
        }
    }
}

/// What the owner of a Gateway is told.
fn obstacle(error: &BindError) -> Obstacle {
    let problem = format!("cannot listen at {}: {}", error.address, error.source);
    Obstacle { problem, no_address: error.source.kind() == std::io::ErrorKind::AddrNotAvailable }
}

/// Whether a socket at `leaving` gets datagrams that one at `wanted` would get without it: the system prefers the one with
/// an address of its own, and spreads clients over those with the same.
fn takes_clients_of(leaving: SocketAddr, wanted: SocketAddr) -> bool {
    let (from, to) = (leaving.ip().to_canonical(), wanted.ip());
    let all = to.is_unspecified() && (to.is_ipv6() || from.is_ipv4());
    leaving.port() == wanted.port() && (from == to.to_canonical() || all)
}

fn leave(datagrams: &std::rc::Weak<Datagrams>) {
    // None: its task has ended, by a panic.
    if let Some(datagrams) = datagrams.upgrade() {
        datagrams.want(false);
    }
}

/// Publishes statistics, closes idle upstream connections, opens those that a cutover asks for.
async fn keep_house(context: Rc<Context>, backends: Arc<arc_swap::ArcSwap<Vec<Arc<Backend>>>>, index: usize) {
    let mut warmed = Warmed::default();
    let mut tick = tokio::time::interval(PUBLISH);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds = index as u64;
    loop {
        tick.tick().await;
        context.stats.borrow_mut().publish(clock::now());
        context.log.borrow_mut().flush();
        context.counters.upstream_idle.set(context.pools.borrow().len() as u64);
        rounds += 1;
        if rounds.is_multiple_of(10) {
            context.sweep();
        }
        warmed.follow(&context, &backends.load());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::model::{Entry, Model};
    use crate::proxy::snapshot::{Live, Published, compile};
    use crate::telemetry::access_log::Logger;
    use crate::telemetry::stats::Registry;

    #[test]
    fn sockets_of_gateways_are_opened_when_all_workers_are_there() {
        let registry = Registry::new(1, &[]);
        let published = Arc::<Published>::default();
        let mut model = Model::default();
        let address = ([127, 0, 0, 1], 0).into();
        model.entries.insert(Bind::UdpAddress(address), Entry { protocol: Protocol::Udp, ..Entry::default() });
        published.publish(compile(&model, &mut Live::new(registry.clone()), None, 0));
        let (sockets, board, drain) = (Arc::<Sockets>::default(), Arc::new(SocketBoard::new(1)), Drain::default());
        let mut news = board.read();
        let (all_hired, complete) = watch::channel(false);
        let plan = Plan {
            index: 0,
            listeners: Vec::new(),
            sockets: sockets.clone(),
            board,
            drain: drain.watch(),
            backends: Arc::default(),
            complete,
        };
        let (bound, answer) = oneshot::channel();
        let of_worker = registry.clone();
        let thread = std::thread::spawn(move || {
            let shard = of_worker.shard(0);
            run(plan, || Context::new(Arc::default(), published, shard, Arc::default(), Logger::off(), 7), bound)
        });
        answer.blocking_recv().unwrap().unwrap();
        // It has come as far as it gets alone when it does something else.
        let before = registry.published_at();
        while registry.published_at() == before {
            std::thread::yield_now();
        }
        assert_eq!((sockets.addresses().len(), news.borrow_and_update().generation), (0, 0));
        all_hired.send_replace(true);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(news.wait_for(|news| news.generation == 1)).unwrap();
        assert_eq!(sockets.addresses().len(), 1);
        drain.advance(Phase::Ending);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn socket_that_leaves_is_in_the_way_of_its_address_and_of_all_addresses() {
        let takes = |leaving: &str, wanted: &str| takes_clients_of(leaving.parse().unwrap(), wanted.parse().unwrap());
        assert!(takes("10.0.0.1:53", "10.0.0.1:53"));
        assert!(
            takes("10.0.0.1:53", "0.0.0.0:53") && takes("10.0.0.1:53", "[::]:53") && takes("[fd00::1]:53", "[::]:53")
        );
        assert!(!takes("10.0.0.1:53", "10.0.0.1:54") && !takes("10.0.0.1:53", "0.0.0.0:54"));
        assert!(!takes("10.0.0.1:53", "10.0.0.2:53") && !takes("[fd00::1]:53", "0.0.0.0:53"));
        assert!(!takes("0.0.0.0:53", "10.0.0.1:53"), "the new one is preferred");
    }
}
