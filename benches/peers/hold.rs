//! Opens many connections, makes one request on each, and keeps them. Told `again` it makes another request on each and
//! says how many were answered: a connection that the proxy has closed meanwhile is not.

use std::cell::Cell;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Result, client, proxies};

/// Connections that are busy at a time.
const AT_A_TIME: usize = 32;

trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

/// Opens the connections, prints their number, and answers `again` until its input ends. The connection with number n
/// asks for host n.
pub async fn run(to: SocketAddr, connections: usize, root: Option<&Path>) -> Result<()> {
    let connector = match root {
        Some(root) => Some(TlsConnector::from(Arc::new(client::tls_config(root)?))),
        None => None,
    };
    let mut held: Vec<(usize, Box<dyn Both>)> = stream::iter(0..connections)
        .map(|number| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(to).await?;
                stream.set_nodelay(true)?;
                let mut stream: Box<dyn Both> = match connector {
                    Some(connector) => Box::new(connector.connect(ServerName::try_from("localhost")?, stream).await?),
                    None => Box::new(stream),
                };
                exchange(&mut *stream, number).await.map_err(|error| format!("connection {number}: {error}"))?;
                Result::Ok((number, stream))
            }
        })
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await?;
    println!("{}", held.len());
    for line in std::io::stdin().lock().lines() {
        if line?.trim() != "again" {
            return Err("the only thing to ask is: again".into());
        }
        let answered = Cell::new(0_usize);
        stream::iter(held.iter_mut())
            .for_each_concurrent(AT_A_TIME, |(number, stream)| {
                let answered = &answered;
                async move {
                    if exchange(&mut **stream, *number).await.is_ok() {
                        answered.set(answered.get() + 1);
                    }
                }
            })
            .await;
        println!("{}", answered.get());
    }
    Ok(())
}

async fn exchange(stream: &mut dyn Both, number: usize) -> Result<()> {
    let host = proxies::host(number % proxies::HOSTS);
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the connection was closed".into());
        }
        if let Some(head) = client::head(&answer)?
            && answer.len() == head.bytes + head.length.ok_or("the answer has no Content-Length")?
        {
            return if head.status == 200 { Ok(()) } else { Err(format!("status {}", head.status).into()) };
        }
    }
}
