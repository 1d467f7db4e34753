//! New connections to endpoints.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Endpoint;
use crate::model::{UpstreamProtocol, UpstreamTls};
use crate::proxy::fault::Fault;
use crate::proxy::wire::io::Io;

/// A dead peer is noticed when sent bytes stay unacknowledged for this long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Who has not answered a SYN by now is not there, or drops packets; the next one is only sent after a second (RFC 6298,
/// section 2). No way from a proxy to its backends is that long.
pub const SILENCE: Duration = Duration::from_millis(500);

/// A connection, and whether HTTP/2 is spoken on it.
pub struct Connected {
    /// The stream.
    pub io: Io,
    /// Whether HTTP/2 is spoken.
    pub h2: bool,
}

/// Connects to an endpoint. `host` is the request's host, for SNI when the backend names none. `within` bounds TCP and TLS
/// together. An endpoint that has not answered at all after [`SILENCE`] is given up when `elsewhere` says that there is a
/// better place to ask.
///
/// # Errors
/// [`Fault::UpstreamConnect`], [`Fault::UpstreamTls`], [`Fault::ConnectTimeout`].
pub async fn connect(
    endpoint: &Endpoint,
    protocol: &UpstreamProtocol,
    tls: Option<&Arc<rustls::ClientConfig>>,
    host: &str,
    within: Duration,
    elsewhere: impl Fn() -> bool,
) -> Result<Connected, Fault> {
    let opened = async {
        let stream = reach(endpoint.address, elsewhere).await?;
        open(stream, endpoint, protocol, tls, host).await
    };
    match tokio::time::timeout(within, opened).await {
        Ok(result) => result,
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

async fn reach(address: SocketAddr, elsewhere: impl Fn() -> bool) -> Result<TcpStream, Fault> {
    let mut opening = pin!(TcpStream::connect(address));
    let opened = match tokio::time::timeout(SILENCE, &mut opening).await {
        Ok(opened) => opened,
        Err(_) if elsewhere() => return Err(Fault::ConnectTimeout),
        Err(_) => opening.await,
    };
    opened.map_err(|error| blame(&error))
}

async fn open(
    stream: TcpStream,
    endpoint: &Endpoint,
    protocol: &UpstreamProtocol,
    tls: Option<&Arc<rustls::ClientConfig>>,
    host: &str,
) -> Result<Connected, Fault> {
    let socket = SockRef::from(&stream);
    // Best effort: a system without one of these still proxies.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let _ = socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(5)).with_retries(3),
    );
    match protocol {
        UpstreamProtocol::Http1 => Ok(Connected { io: Io::Tcp(stream), h2: false }),
        UpstreamProtocol::H2c => Ok(Connected { io: Io::Tcp(stream), h2: true }),
        UpstreamProtocol::Tls(UpstreamTls { server_name, .. }) => {
            let config = tls.ok_or(Fault::UpstreamTls)?;
            let name = server_name.as_deref().unwrap_or(host);
            let name = ServerName::try_from(name.trim_start_matches('[').trim_end_matches(']').to_owned())
                .unwrap_or_else(|_| ServerName::from(endpoint.address.ip()));
            let stream =
                TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|_| Fault::UpstreamTls)?;
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(Connected { io: Io::TlsClient(Box::new(stream)), h2 })
        }
    }
}

/// Our own shortage is not the endpoint's failure.
fn blame(error: &std::io::Error) -> Fault {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) => Fault::Overloaded,
        _ => Fault::UpstreamConnect,
    }
}
