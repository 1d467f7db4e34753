//! Sockets and new connections. Each worker has its own socket for every listener; the system spreads connections over
//! them (`SO_REUSEPORT`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::passage::Who;
use super::stream::{self, Incoming};
use super::{Shared, Spec, proxy_protocol, serve_h1, serve_h2, tls};
use crate::model::Protocol;
use crate::proxy::fault::Fault;
use crate::proxy::policy::forwarding::is_trusted;
use crate::proxy::request::{Context, Origin};
use crate::proxy::snapshot::EntryTable;
use crate::proxy::wire::io::Io;
use crate::proxy::wire::server::Connection;
use crate::telemetry::gauges::{ListenerCounters, OneMore};

/// Connections that the system may keep waiting for us; it lowers this to its own limit.
const BACKLOG: i32 = 4096;

/// Between two tries when the system has no more descriptors or memory.
const PAUSE: Duration = Duration::from_millis(20);

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("listener {name}: cannot listen at {address}: {source}; choose a free port, or stop what uses this one")]
pub struct BindError {
    /// Name of the listener.
    pub name: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// Opens a socket for one worker. Several workers open the same address.
///
/// # Errors
/// [`BindError`].
pub fn bind(spec: &Spec) -> Result<std::net::TcpListener, BindError> {
    let open = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(spec.address), Type::STREAM, Some(SocketProtocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&spec.address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| BindError { name: spec.name.clone(), address: spec.address, source })
}

/// One worker's end of a listener.
pub struct Listener {
    pub(super) context: Rc<Context>,
    spec: Spec,
    shared: Arc<Shared>,
    pub(super) counters: Arc<ListenerCounters>,
    per_address: RefCell<HashMap<IpAddr, u32>>,
}

impl Listener {
    /// For a worker.
    pub fn new(context: &Rc<Context>, spec: Spec, shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            counters: context.counters.listener(&spec.name),
            context: context.clone(),
            spec,
            shared,
            per_address: RefCell::default(),
        })
    }

    /// Takes connections in until `stop` resolves, and then those that the system had already accepted for us.
    pub async fn run(self: Rc<Self>, socket: std::net::TcpListener, stop: impl Future<Output = ()>) -> io::Result<()> {
        let socket = TcpListener::from_std(socket)?;
        let mut stop = std::pin::pin!(stop);
        loop {
            if self.is_full() {
                self.context.counters.paused_accepts.add(1);
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
            tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = socket.accept() => match accepted {
                    Ok((stream, peer)) => self.welcome(stream, peer),
                    Err(error) if is_the_peers(&error) => {}
                    Err(_) => {
                        // Out of descriptors or memory: what is open goes on, and so do we when something is closed.
                        self.context.counters.paused_accepts.add(1);
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
        // Closing the socket would reset connections that are complete but not taken in yet. The system is asked itself:
        // the runtime may not have heard of the last ones.
        let socket = socket.into_std()?;
        loop {
            match socket.accept() {
                Ok((stream, peer)) => {
                    if stream.set_nonblocking(true).is_ok()
                        && let Ok(stream) = TcpStream::from_std(stream)
                    {
                        self.welcome(stream, peer);
                    }
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && is_the_peers(&error) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Whether the next connection has to wait. What all listeners hold, it cannot have.
    fn is_full(&self) -> bool {
        let limits = &self.context.options.limits;
        let here = || self.shared.connections.load(Ordering::Relaxed);
        limits.connections != 0 && here() >= limits.connections || self.shared.everywhere.is_full(limits.descriptors)
    }

    fn welcome(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(guard) = self.admit(peer.ip()) else { return };
        // A connection may wait for a request for minutes, and there are many of those: what it needs only to begin, or
        // only for HTTP/2, has a box that is gone or not made by then. What is left is held small by tests/it/limits.rs.
        let arriving = Box::pin(self.clone().arrive(stream, peer));
        self.context.spawn(async move {
            let Listener { context, counters, .. } = &*guard.listener;
            let (origin, connection, http2) = match arriving.await {
                None => return,
                Some(Arrived::Http { origin, connection, http2 }) => (origin, connection, http2),
                Some(Arrived::Stream(incoming)) => {
                    let _active = OneMore::of(&counters.active);
                    return Box::pin(stream::serve(context, *incoming)).await;
                }
            };
            if !http2 && serve_h1::serve(context, counters, &origin, &connection).await != serve_h1::After::Http2 {
                return;
            }
            let Ok(connection) = Rc::try_unwrap(connection) else { return };
            let (io, input) = connection.into_parts();
            Box::pin(serve_h2::serve(context, counters, origin, io, input)).await;
        });
    }

    /// A place for a connection of this client; none when it has too many.
    fn admit(self: &Rc<Self>, peer: IpAddr) -> Option<Guard> {
        let limit = self.context.options.limits.connections_per_address;
        if limit != 0 {
            let mut counts = self.per_address.borrow_mut();
            let count = counts.entry(peer).or_insert(0);
            if *count >= limit {
                self.counters.refused.add(1);
                return None;
            }
            *count += 1;
        }
        self.counters.accepted.add(1);
        self.counters.open.add(1);
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.shared.everywhere.connections.fetch_add(1, Ordering::Relaxed);
        Some(Guard { listener: self.clone(), peer })
    }

    /// Finds out who is there and what is spoken. None: refused, or gone.
    async fn arrive(self: Rc<Self>, stream: TcpStream, peer: SocketAddr) -> Option<Arrived> {
        // Best effort: without it small answers are late, not wrong.
        let _ = stream.set_nodelay(true);
        let mut origin = Origin {
            bind: self.spec.bind,
            listener: self.spec.name.clone(),
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            local: stream.local_addr().ok()?,
            tls: false,
            server_name: None,
            admitted: None,
        };
        let handshake = self.context.options.timeouts.handshake;
        if self.spec.proxy_protocol {
            // Whoever may write this header may be anyone.
            if !is_trusted(origin.peer.ip(), &self.context.options.trusted) {
                self.counters.refused.add(1);
                return None;
            }
            match tokio::time::timeout(handshake, proxy_header(&stream)).await {
                Ok(Some(Some((source, destination)))) => {
                    origin.peer = SocketAddr::new(source.ip().to_canonical(), source.port());
                    origin.local = destination;
                }
                Ok(Some(None)) => {}
                _ => {
                    self.counters.refused.add(1);
                    return None;
                }
            }
        }
        match self.spec.protocol {
            Protocol::Http | Protocol::Udp => Some(Arrived::http(origin, Io::Tcp(stream), false)),
            Protocol::Tcp => self.pass_on(&origin, stream),
            Protocol::Https => tls::arrive(&self, origin, stream).await,
        }
    }

    /// The table of this listener.
    pub(super) fn table(&self) -> Option<Arc<EntryTable>> {
        self.context.published.load().entries.get(&self.spec.bind).cloned()
    }

    /// For what TCP connections there are.
    fn pass_on(&self, origin: &Origin, stream: TcpStream) -> Option<Arrived> {
        let table = self.table();
        let Some(to) = table.as_ref().and_then(|table| table.stream()) else {
            self.turn_away(Fault::NoRoute);
            return None;
        };
        let who = Who { client: origin.peer, protocol: "tcp", server_name: None };
        let incoming = Incoming { io: Io::Tcp(stream), early: Vec::new(), stream: to.clone(), who };
        Some(Arrived::Stream(Box::new(incoming)))
    }

    /// Counts a connection that is for nobody.
    pub(super) fn turn_away(&self, fault: Fault) {
        self.context.stats.borrow_mut().fault(fault.index());
    }
}

/// A connection of which it is known what it is.
pub(super) enum Arrived {
    /// Requests come on it.
    Http {
        /// Where from.
        origin: Rc<Origin>,
        /// The connection.
        connection: Rc<Connection>,
        /// By the handshake; clear text may still begin with the preface.
        http2: bool,
    },
    /// It is passed on.
    Stream(Box<Incoming>),
}

impl Arrived {
    pub(super) fn http(origin: Origin, io: Io, http2: bool) -> Self {
        Self::Http { origin: Rc::new(origin), connection: Rc::new(Connection::new(io, Vec::new())), http2 }
    }
}

/// Holds the places of a connection until it is dropped, also by a panic.
struct Guard {
    listener: Rc<Listener>,
    peer: IpAddr,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.listener.counters.open.sub(1);
        self.listener.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.listener.shared.everywhere.connections.fetch_sub(1, Ordering::Relaxed);
        if self.listener.context.options.limits.connections_per_address != 0 {
            let mut counts = self.listener.per_address.borrow_mut();
            if let Some(count) = counts.get_mut(&self.peer) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&self.peer);
                }
            }
        }
    }
}

/// Errors of one connection that was gone before it was taken in.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}

/// Reads the PROXY header, and nothing behind it. None: it is not one.
async fn proxy_header(stream: &TcpStream) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let mut buffer = [0; proxy_protocol::MAX];
    loop {
        let peeked = stream.peek(&mut buffer).await.ok()?;
        match proxy_protocol::parse(&buffer[..peeked]).ok()? {
            proxy_protocol::Header::Complete(length, addresses) => {
                let mut left = length;
                while left > 0 {
                    stream.readable().await.ok()?;
                    match stream.try_read(&mut buffer[..left]) {
                        Ok(0) => return None,
                        Ok(read) => left -= read,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => return None,
                    }
                }
                return Some(addresses);
            }
            proxy_protocol::Header::Partial if peeked == 0 => return None,
            // The rest has not arrived; peeking again at once would find the same.
            proxy_protocol::Header::Partial => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Bind;
    use crate::proxy::options::{Limits, Options};
    use crate::telemetry::access_log::Logger;
    use crate::telemetry::stats::Registry;

    #[test]
    fn a_connection_that_panics_gives_back_its_places() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build_local(Default::default()).unwrap();
        let limits = Limits { connections_per_address: 1, ..Limits::default() };
        let options = Arc::new(Options { limits, ..Options::default() });
        let shard = Registry::new(1, &[]).shard(0);
        let context = Context::new(options, Arc::default(), shard, Arc::default(), Logger::off(), 1);
        let spec = Spec {
            bind: Bind::Http,
            name: "http".into(),
            address: ([127, 0, 0, 1], 0).into(),
            protocol: Protocol::Http,
            proxy_protocol: false,
        };
        let shared = Arc::<Shared>::default();
        let listener = Listener::new(&context, spec, shared.clone());
        let peer = IpAddr::from([127, 0, 0, 1]);
        runtime.block_on(async {
            for _ in 0..3 {
                let guard = listener.admit(peer).unwrap();
                assert!(listener.admit(peer).is_none(), "one connection at a time");
                assert_eq!((listener.counters.open.value(), shared.connections.load(Ordering::Relaxed)), (1, 1));
                context.spawn(async move {
                    let _guard = guard;
                    panic!("as provoked");
                });
                while listener.counters.open.value() > 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        assert_eq!(shared.connections.load(Ordering::Relaxed), 0);
        assert_eq!((listener.counters.refused.value(), context.counters.panics.value()), (3, 3));
    }
}
