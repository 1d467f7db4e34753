//! Connections that begin with a TLS handshake: for whom they are, and who ends TLS.
//!
//! A socket at which everything is HTTP goes straight into the handshake. At the others the ClientHello is read first, and
//! not a byte more: it is either passed on as it came or given to rustls as if it had just arrived.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{StartHandshake, TlsAcceptor};

use super::accept::{Arrived, Listener};
use super::hello::{Arriving, Hello};
use super::passage::Who;
use super::stream::Incoming;
use crate::model::StreamMode;
use crate::proxy::fault::Fault;
use crate::proxy::request::Origin;
use crate::proxy::snapshot::{CompiledStream, Dispatch, EntryTable};
use crate::proxy::wire::io::Io;

/// Finds out what a connection is. None: it is closed.
pub(super) async fn arrive(listener: &Listener, origin: Origin, stream: TcpStream) -> Option<Arrived> {
    let handshake = listener.context.options.timeouts.handshake;
    let Some(table) = listener.table() else {
        listener.counters.handshakes_failed.add(1);
        return None;
    };
    let shaken = if table.has_streams() {
        tokio::time::timeout(handshake, dispatch(listener, &table, stream)).await
    } else {
        tokio::time::timeout(handshake, accept(&table, stream)).await
    };
    let Ok(Some(shaken)) = shaken else {
        listener.counters.handshakes_failed.add(1);
        return None;
    };
    Some(match shaken {
        Shaken::Http(stream) => {
            listener.counters.handshakes_ok.add(1);
            http(origin, table.tls.clone(), stream)
        }
        Shaken::Terminated(stream, to, server_name) => {
            listener.counters.handshakes_ok.add(1);
            let who = Who { client: origin.peer, protocol: "tls", server_name };
            let io = Io::TlsServer(Box::new(stream));
            Arrived::Stream(Box::new(Incoming { io, early: Vec::new(), stream: to, who }))
        }
        Shaken::Passed(stream, to, server_name, early) => {
            let who = Who { client: origin.peer, protocol: "tls", server_name };
            Arrived::Stream(Box::new(Incoming { io: Io::Tcp(stream), early, stream: to, who }))
        }
    })
}

/// A connection of which it is known who ends TLS.
enum Shaken {
    /// We do, and HTTP is inside.
    Http(TlsStream<TcpStream>),
    /// We do, and whatever is inside is passed on.
    Terminated(TlsStream<TcpStream>, Arc<CompiledStream>, Option<Box<str>>),
    /// The endpoint does; with what was read already.
    Passed(TcpStream, Arc<CompiledStream>, Option<Box<str>>, Vec<u8>),
}

fn http(mut origin: Origin, admitted: Option<Arc<ServerConfig>>, stream: TlsStream<TcpStream>) -> Arrived {
    let session = stream.get_ref().1;
    origin.tls = true;
    origin.admitted = admitted;
    origin.server_name = session.server_name().map(|name| name.to_ascii_lowercase().into());
    let http2 = session.alpn_protocol() == Some(b"h2");
    Arrived::http(origin, Io::TlsServer(Box::new(stream)), http2)
}

async fn accept(table: &EntryTable, stream: TcpStream) -> Option<Shaken> {
    let config = table.tls.clone()?;
    TlsAcceptor::from(config).accept(stream).await.ok().map(Shaken::Http)
}

async fn dispatch(listener: &Listener, table: &EntryTable, mut stream: TcpStream) -> Option<Shaken> {
    let (bytes, server_name) = read_hello(&mut stream).await?;
    match table.dispatch(server_name.as_deref()) {
        // No alert: to whoever asks for a name that nobody has, nobody is there.
        Dispatch::Nobody => {
            listener.turn_away(Fault::NoRoute);
            None
        }
        Dispatch::Http => finish(stream, &bytes, table.tls.as_ref()?).await.map(Shaken::Http),
        Dispatch::Stream(to) => match to.mode {
            StreamMode::Passthrough => Some(Shaken::Passed(stream, to, server_name, bytes)),
            // A handshake would promise a backend.
            StreamMode::Terminate if !to.has_backend() => {
                listener.turn_away(Fault::InvalidBackend);
                None
            }
            StreamMode::Terminate => {
                let stream = finish(stream, &bytes, table.terminate()?).await?;
                Some(Shaken::Terminated(stream, to, server_name))
            }
        },
    }
}

/// Reads the ClientHello, and nothing behind it. None: it is not one.
async fn read_hello(stream: &mut TcpStream) -> Option<(Vec<u8>, Option<Box<str>>)> {
    let mut hello = Arriving::default();
    loop {
        match hello.look().ok()? {
            Hello::Complete(server_name) => return Some((hello.into_bytes(), server_name)),
            Hello::Partial(more) => _ = stream.read_exact(hello.room(more)).await.ok()?,
        }
    }
}

/// The handshake with a client whose ClientHello was read already.
async fn finish(mut stream: TcpStream, hello: &[u8], config: &Arc<ServerConfig>) -> Option<TlsStream<TcpStream>> {
    match take_in(hello) {
        Ok(accepted) => StartHandshake::from_parts(accepted, stream).into_stream(config.clone()).await.ok(),
        Err(alert) => {
            let _ = stream.write_all(&alert).await;
            None
        }
    }
}

/// Gives rustls a ClientHello; or the alert that it answers with.
fn take_in(hello: &[u8]) -> Result<Accepted, Vec<u8>> {
    let mut acceptor = Acceptor::default();
    let mut rest = hello;
    // rustls takes a few kilobytes at a time, and looks at what it has before it takes more.
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).map_err(|_| Vec::new())?;
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((_, mut alert)) => {
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                return Err(bytes);
            }
        }
    }
    Err(Vec::new())
}
