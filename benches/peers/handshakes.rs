//! Opens TLS connections one after the other in several tasks: a full handshake, one request, the end. Any error ends
//! the run.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::backend::SMALL;
use crate::{Result, client};

/// Runs so many connections at a time for so many seconds, and prints how many there were.
pub async fn run(to: SocketAddr, root: &Path, connections: usize, seconds: u32) -> Result<()> {
    let connector = TlsConnector::from(Arc::new(client::tls_config(root)?));
    let until = Instant::now() + Duration::from_secs(u64::from(seconds));
    let count = Cell::new(0_u64);
    let tasks = (0..connections).map(|_| async {
        while Instant::now() < until {
            once(&connector, to).await?;
            count.set(count.get() + 1);
        }
        Result::Ok(())
    });
    futures_util::future::try_join_all(tasks).await?;
    println!("{}", count.get());
    Ok(())
}

async fn once(connector: &TlsConnector, to: SocketAddr) -> Result<()> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::with_capacity(2 * SMALL);
    loop {
        match stream.read_buf(&mut answer).await {
            // Not every server says goodbye before it closes; the length of the body tells whether all is there.
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    let head = client::head(&answer)?.ok_or("the answer has no head")?;
    if head.status != 200 || answer.len() - head.bytes != SMALL {
        return Err(format!("status {} with {} bytes", head.status, answer.len() - head.bytes).into());
    }
    Ok(())
}
