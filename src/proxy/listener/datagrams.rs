//! Datagrams that are passed on, in sessions: all that one client sends goes to one endpoint, for as long as either says
//! something.
//!
//! Each worker has a socket of its own; the system spreads clients over them by address and port (`SO_REUSEPORT`). It
//! spreads them anew when one of the sockets comes or goes: `owners` knows whose a client is then. An answer leaves through
//! the socket of the session's worker: from the address that was asked if the listener is bound to one address, as those of
//! Gateways with addresses are; from one that the system chooses if it is bound to all of them and the host has several.
//!
//! A listener that is no longer wanted, and one of a process that ends, serves its sessions and begins none. No worker
//! closes its socket before the last session of all has ended: what waits in a socket when it is closed is lost. That is
//! not for ever, for nobody new is served at that address meanwhile: when its time is up, or another listener is to have
//! its clients, sessions end as they are.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::accept::BindError;
use super::owners::{self, Handed, Mailbox, Whose};
use super::passage::{Passage, Who};
use super::{Shared, Spec};
use crate::proxy::backend::End;
use crate::proxy::fault::Fault;
use crate::proxy::request::Context;
use crate::proxy::wire::buffers::with_scratch;
use crate::proxy::wire::timers::Timer;
use crate::telemetry::clock;
use crate::telemetry::gauges::ListenerCounters;

/// Datagrams that one socket is asked for before others have their turn.
const ROUND: usize = 64;

/// Bytes that the system may keep for us; it lowers this to its own limit.
const BUFFER: usize = 1 << 20;

/// How often a listener that drains looks whether the last session has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Between two looks (nanoseconds) of a session whether its endpoint is still there.
const LOOK_AGAIN: u64 = 1_000_000_000;

/// How long a session without any answer is kept after its last datagram.
const UNANSWERED: Duration = Duration::from_secs(5);

/// Opens a socket for one worker. Several workers open the same address.
///
/// # Errors
/// [`BindError`].
pub fn bind_datagrams(spec: &Spec) -> Result<std::net::UdpSocket, BindError> {
    let open = || -> io::Result<std::net::UdpSocket> {
        let socket = Socket::new(Domain::for_address(spec.address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Best effort: with less, bursts are cut shorter.
        let _ = socket.set_recv_buffer_size(BUFFER);
        socket.bind(&spec.address.into())?;
        Ok(socket.into())
    };
    open().map_err(|source| BindError { name: spec.name.clone(), address: spec.address, source })
}

/// One worker's end of a listener for datagrams.
pub struct Datagrams {
    context: Rc<Context>,
    spec: Spec,
    shared: Arc<Shared>,
    counters: Arc<ListenerCounters>,
    socket: UdpSocket,
    sessions: RefCell<HashMap<SocketAddr, Rc<Session>, RandomState>>,
    mailbox: Mailbox,
    mail: RefCell<mpsc::Receiver<Handed>>,
    wanted: Cell<bool>,
    /// When its sessions are ended, nanoseconds; counts if it is not wanted.
    until: Cell<u64>,
    /// Whether sessions begin; no longer wanted, it first takes in what had come.
    begins: Cell<bool>,
    /// Of the task that takes datagrams in.
    waker: Cell<Option<Waker>>,
}

impl Datagrams {
    /// For a worker; to be called on its runtime.
    ///
    /// # Errors
    /// What the runtime says of the socket.
    pub fn new(
        context: &Rc<Context>,
        spec: Spec,
        shared: Arc<Shared>,
        socket: std::net::UdpSocket,
    ) -> io::Result<Rc<Self>> {
        let (mailbox, mail) = owners::mailbox();
        let socket = UdpSocket::from_std(socket)?;
        shared.beginning.fetch_add(1, Ordering::AcqRel);
        Ok(Rc::new(Self {
            counters: context.counters.listener(&spec.name),
            context: context.clone(),
            spec,
            shared,
            socket,
            sessions: RefCell::default(),
            mailbox,
            mail: RefCell::new(mail),
            wanted: Cell::new(true),
            until: Cell::new(u64::MAX),
            begins: Cell::new(true),
            waker: Cell::new(None),
        }))
    }

    /// What all workers' ends have in common.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether it is wanted. If not, it begins no sessions, and [`Datagrams::run`] ends when the last one of all workers has
    /// ended, or time is up. It may be wanted again until then.
    pub fn want(&self, wanted: bool) {
        if wanted && !self.begins.replace(true) {
            self.shared.beginning.fetch_add(1, Ordering::AcqRel);
        }
        let leaving = u64::try_from(self.context.options.timeouts.leaving.as_nanos()).unwrap_or(u64::MAX);
        self.set(wanted, clock::now().saturating_add(leaving));
    }

    /// Ends it with all its sessions.
    pub fn end(&self) {
        self.set(false, 0);
    }

    fn set(&self, wanted: bool, until: u64) {
        self.wanted.set(wanted);
        self.until.set(until);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Passes datagrams on until it is neither wanted nor needed.
    pub async fn run(self: Rc<Self>) {
        let timer = self.context.timers.timer();
        poll_fn(|cx| {
            self.waker.set(Some(cx.waker().clone()));
            _ = self.poll_receive(cx);
            if self.wanted.get() {
                return Poll::Pending;
            }
            if self.begins.replace(false) {
                self.shared.beginning.fetch_sub(1, Ordering::AcqRel);
            }
            let now = self.context.now();
            if now >= self.until.get() {
                for session in self.sessions.borrow().values() {
                    session.end(Some(Fault::Drained));
                }
                return Poll::Ready(());
            }
            // Asked in this order: a worker that begins sessions may have begun one by the time that it stops.
            if self.shared.beginning.load(Ordering::Acquire) == 0
                && self.shared.connections.load(Ordering::Acquire) == 0
            {
                return Poll::Ready(());
            }
            // Nobody tells when the last session ends; that is rare enough to be asked for.
            timer.set(now + LOOK.as_nanos() as u64, now);
            _ = timer.poll(cx, || now);
            Poll::Pending
        })
        .await;
    }

    /// Takes in what has come.
    fn poll_receive(self: &Rc<Self>, cx: &mut Task<'_>) -> Poll<()> {
        self.context.tick();
        // Half a round at most: what others hand over does not keep our own from being read.
        for left in (0..ROUND / 2).rev() {
            let handed = self.mail.borrow_mut().poll_recv(cx);
            let Poll::Ready(Some(Handed { client, datagram })) = handed else { break };
            self.take(&datagram, client);
            if left == 0 {
                cx.waker().wake_by_ref();
            }
        }
        with_scratch(|scratch| {
            for _ in 0..ROUND {
                let mut into = ReadBuf::new(scratch);
                match self.socket.poll_recv_from(cx, &mut into) {
                    Poll::Ready(Ok(client)) => {
                        self.counters.datagrams_in.add(1);
                        self.take(into.filled(), client);
                    }
                    // An answer could not be delivered: whose it was is not said.
                    Poll::Ready(Err(_)) => {}
                    Poll::Pending => return Poll::Ready(()),
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn take(self: &Rc<Self>, datagram: &[u8], client: SocketAddr) {
        let known = self.sessions.borrow().get(&client).cloned();
        let sent = match known {
            // A session that has no room at the moment is not over: its client has no second one.
            Some(session) => session.send(datagram) || session.over.get() && self.take_first(datagram, client),
            None => self.take_first(datagram, client),
        };
        if !sent {
            self.counters.datagrams_dropped.add(1);
        }
    }

    /// A datagram of a client that has no session here: maybe elsewhere, else one begins. Says whether it was passed on.
    fn take_first(self: &Rc<Self>, datagram: &[u8], client: SocketAddr) -> bool {
        let room = self.room();
        match self.shared.owners.ask(client, &self.mailbox, room.is_ok()) {
            Whose::Theirs(owner) => owner.try_send(Handed { client, datagram: datagram.into() }).is_ok(),
            Whose::Ours if room.is_ok() => {
                let opened = self.open(datagram, client);
                if !opened {
                    self.shared.owners.release(client, &self.mailbox);
                }
                opened
            }
            Whose::Ours | Whose::Nobodys => {
                self.counters.refused.add(1);
                if let Err(fault) = room {
                    self.context.stats.borrow_mut().fault(fault.index());
                }
                false
            }
        }
    }

    /// Whether another session may begin.
    fn room(&self) -> Result<(), Fault> {
        if !self.begins.get() {
            return Err(Fault::Draining);
        }
        let limits = &self.context.options.limits;
        let here = self.shared.connections.load(Ordering::Relaxed) < u64::from(limits.udp_sessions);
        let everywhere = &self.shared.everywhere;
        let share = everywhere.sessions.load(Ordering::Relaxed) < limits.all_udp_sessions;
        let room = here && share && !everywhere.is_full(limits.descriptors);
        if room { Ok(()) } else { Err(Fault::Overloaded) }
    }

    /// A session for a client, which begins with this datagram.
    fn open(self: &Rc<Self>, datagram: &[u8], client: SocketAddr) -> bool {
        let stream = {
            let snapshot = self.context.published.load();
            snapshot.entries.get(&self.spec.bind).and_then(|table| table.stream()).cloned()
        };
        let Some(stream) = stream else {
            self.context.stats.borrow_mut().fault(Fault::NoRoute.index());
            return false;
        };
        let who = Who {
            client: SocketAddr::new(client.ip().to_canonical(), client.port()),
            protocol: "udp",
            server_name: None,
        };
        let mut passage = Passage::new(&self.context, stream, who);
        if let Err(fault) = passage.set_out() {
            passage.fault = Some(fault);
            return false;
        }
        let session = Rc::new(Session {
            passage: RefCell::new(passage),
            upstream: RefCell::new(None),
            last: Cell::new(self.context.now()),
            looked: Cell::new(self.context.now()),
            over: Cell::new(false),
            waker: Cell::new(None),
        });
        if !session.reach() || !session.send(datagram) {
            session.passage.borrow_mut().fault.get_or_insert(Fault::Overloaded);
            return false;
        }
        self.sessions.borrow_mut().insert(client, session.clone());
        let place = Place::take(self, client, session);
        self.context.spawn(async move { place.serve().await });
        true
    }
}

/// What one client and one endpoint say to each other.
struct Session {
    passage: RefCell<Passage>,
    upstream: RefCell<Option<Rc<UdpSocket>>>,
    /// When anything was said.
    last: Cell<u64>,
    /// When it was seen last that the endpoint is still one of its color's.
    looked: Cell<u64>,
    over: Cell<bool>,
    /// Of the task that waits for answers.
    waker: Cell<Option<Waker>>,
}

impl Session {
    /// Picks an endpoint and makes a socket for it; another one when that fails.
    fn reach(&self) -> bool {
        let mut passage = self.passage.borrow_mut();
        loop {
            let endpoint = match passage.pick() {
                Ok(endpoint) => endpoint,
                Err(fault) => {
                    passage.fault = Some(fault);
                    return false;
                }
            };
            match connect(endpoint.address) {
                Ok(socket) => {
                    self.upstream.replace(Some(Rc::new(socket)));
                    return true;
                }
                Err(error) => {
                    let fault = blame(&error);
                    if !passage.failed(fault) {
                        passage.fault = Some(fault);
                        return false;
                    }
                }
            }
        }
    }

    /// Sends a datagram to the endpoint; to the next one if this one turns out to be gone. False: it was not sent, and the
    /// session may be over.
    fn send(&self, datagram: &[u8]) -> bool {
        if !self.stays() {
            return false;
        }
        loop {
            let Some(upstream) = self.upstream.borrow().clone().filter(|_| !self.over.get()) else { return false };
            // Not through the runtime, which would have to hear first that a new socket can be written to.
            match SockRef::from(&*upstream).send(datagram) {
                Ok(_) => {
                    let mut passage = self.passage.borrow_mut();
                    passage.bytes_in += datagram.len() as u64;
                    self.last.set(passage.now());
                    return true;
                }
                Err(error) if is_the_endpoints(&error) => {
                    if !self.go_elsewhere() {
                        return false;
                    }
                }
                // No room, or too long for the way: a datagram may always be lost.
                Err(_) => return false,
            }
        }
    }

    /// Whether the endpoint still is one of its color's; if not, the session is over. A client that never pauses would
    /// else be kept at an address behind which nobody is any more, and of which no answer tells so.
    fn stays(&self) -> bool {
        let (now, stays) = {
            let passage = self.passage.borrow();
            let now = passage.now();
            (now, now.saturating_sub(self.looked.get()) < LOOK_AGAIN || passage.stays())
        };
        if !stays {
            self.end(None);
        } else if now.saturating_sub(self.looked.get()) >= LOOK_AGAIN {
            self.looked.set(now);
        }
        stays
    }

    /// The endpoint is not there. A session that has never had an answer goes on with another one, any other is over: the
    /// new endpoint would not know what was said.
    fn go_elsewhere(&self) -> bool {
        let (again, fault) = {
            let mut passage = self.passage.borrow_mut();
            let known = passage.joined.is_some();
            let fault = if known { Fault::UpstreamReset } else { Fault::UpstreamConnect };
            (passage.failed(fault) && !known, fault)
        };
        self.upstream.replace(None);
        let found = again && self.reach();
        if !found {
            self.end(Some(fault));
        }
        self.wake();
        found
    }

    fn end(&self, fault: Option<Fault>) {
        self.over.set(true);
        if let Some(fault) = fault {
            self.passage.borrow_mut().fault.get_or_insert(fault);
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if self.begins.get() {
            self.shared.beginning.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Holds the places of a session until it is dropped, also by a panic.
struct Place {
    listener: Rc<Datagrams>,
    client: SocketAddr,
    session: Rc<Session>,
}

impl Place {
    fn take(listener: &Rc<Datagrams>, client: SocketAddr, session: Rc<Session>) -> Self {
        listener.counters.accepted.add(1);
        listener.counters.open.add(1);
        listener.counters.active.add(1);
        listener.shared.connections.fetch_add(1, Ordering::Relaxed);
        listener.shared.everywhere.sessions.fetch_add(1, Ordering::Relaxed);
        Self { listener: listener.clone(), client, session }
    }

    /// Passes answers on until the session is over.
    async fn serve(self) {
        let Datagrams { context, .. } = &*self.listener;
        let guard = self.session.passage.borrow().enter();
        let jitter = context.rng.borrow_mut().f64();
        let mut turn: Option<Pin<Box<dyn Future<Output = End>>>> =
            guard.as_ref().map(|guard| Box::pin(guard.ended(clock::now, jitter)) as _);
        let timer = context.timers.timer();
        let mut end = End::Natural;
        poll_fn(|cx| {
            self.session.waker.set(Some(cx.waker().clone()));
            if let Some(future) = &mut turn
                && let Poll::Ready(how) = future.as_mut().poll(cx)
            {
                end = how;
                self.session.end(Some(Fault::Drained));
            }
            self.poll(cx, &timer)
        })
        .await;
        if let Some(guard) = guard {
            guard.finish(end);
        }
    }

    fn poll(&self, cx: &mut Task<'_>, timer: &Timer) -> Poll<()> {
        let Self { listener, client, session } = self;
        for _ in 0..ROUND {
            if session.over.get() {
                return Poll::Ready(());
            }
            let Some(upstream) = session.upstream.borrow().clone() else { return Poll::Ready(()) };
            let received = with_scratch(|scratch| {
                let mut into = ReadBuf::new(scratch);
                upstream.poll_recv(cx, &mut into).map_ok(|()| self.answer(into.filled(), *client))
            });
            match received {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) if is_the_endpoints(&error) => _ = session.go_elsewhere(),
                Poll::Ready(Err(_)) => {}
                Poll::Pending => {
                    let now = listener.context.now();
                    let idle = listener.context.options.timeouts.udp_idle;
                    // A client that nobody has answered may have lied about its address.
                    let answered = session.passage.borrow().joined.is_some();
                    let idle = if answered { idle } else { idle.min(UNANSWERED) }.as_nanos() as u64;
                    timer.set(session.last.get().saturating_add(idle), now);
                    return timer.poll(cx, || now);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn answer(&self, datagram: &[u8], client: SocketAddr) {
        let Self { listener, session, .. } = self;
        let mut passage = session.passage.borrow_mut();
        passage.joined();
        session.last.set(passage.now());
        match SockRef::from(&listener.socket).send_to(datagram, &client.into()) {
            Ok(_) => {
                listener.counters.datagrams_out.add(1);
                passage.bytes_out += datagram.len() as u64;
            }
            Err(_) => listener.counters.datagrams_dropped.add(1),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self { listener, client, session } = self;
        session.over.set(true);
        listener.counters.open.sub(1);
        listener.counters.active.sub(1);
        let mut sessions = listener.sessions.borrow_mut();
        // The client may have a new one.
        if sessions.get(client).is_some_and(|known| Rc::ptr_eq(known, session)) {
            sessions.remove(client);
            listener.shared.owners.release(*client, &listener.mailbox);
        }
        listener.shared.everywhere.sessions.fetch_sub(1, Ordering::Relaxed);
        listener.shared.connections.fetch_sub(1, Ordering::Release);
    }
}

/// A socket that hears this endpoint only.
fn connect(endpoint: SocketAddr) -> io::Result<UdpSocket> {
    let any = match endpoint {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(endpoint)?;
    UdpSocket::from_std(socket)
}

/// What the network has said of the endpoint (ICMP), as opposed to our own troubles.
fn is_the_endpoints(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

fn blame(error: &io::Error) -> Fault {
    if is_the_endpoints(error) { Fault::UpstreamConnect } else { Fault::Overloaded }
}
