//! The floor: one thread that copies bytes between two sockets and reads none of them. For each message it makes the two
//! system calls that every proxy makes, one to receive and one to send; what a proxy costs above it, it costs for HTTP.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::Result;
use crate::backend::listen;

/// Bytes of the buffer, of which there is one.
const BUFFER: usize = 128 << 10;

/// Bytes that the receiver did not take yet. While there are any, nothing more is read from the sender.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    sent: usize,
}

/// Serves until it is ended; says its port first. Each client gets a connection of its own to the other side.
pub async fn serve(to: SocketAddr) -> Result<()> {
    let listener = listen().await?;
    let buffer = Rc::new(RefCell::new(vec![0; BUFFER]));
    loop {
        let (client, _) = listener.accept().await?;
        let buffer = buffer.clone();
        // What breaks is closed on both sides; the load generator sees it.
        spawn_local(async move { drop(couple(client, to, &buffer).await) });
    }
}

async fn couple(mut client: TcpStream, to: SocketAddr, buffer: &RefCell<Vec<u8>>) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (Held::default(), Held::default());
    // The first of them to end, ends both: no scenario of the relay closes one direction alone.
    std::future::poll_fn(|context| {
        let mut buffer = buffer.borrow_mut();
        if let Poll::Ready(end) = copy(&mut client, &mut server, &mut up, &mut buffer, context) {
            return Poll::Ready(end);
        }
        copy(&mut server, &mut client, &mut down, &mut buffer, context)
    })
    .await
}

/// Copies what there is. Ready at the end of the sender, or at an error.
fn copy(
    from: &mut TcpStream,
    to: &mut TcpStream,
    held: &mut Held,
    buffer: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        while held.sent < held.bytes.len() {
            match Pin::new(&mut *to).poll_write(context, &held.bytes[held.sent..])? {
                Poll::Ready(n) => held.sent += n,
                Poll::Pending => return Poll::Pending,
            }
        }
        held.bytes.clear();
        held.sent = 0;
        let mut into = ReadBuf::new(buffer);
        match Pin::new(&mut *from).poll_read(context, &mut into)? {
            Poll::Ready(()) if into.filled().is_empty() => return Poll::Ready(Ok(())),
            Poll::Ready(()) => {}
            Poll::Pending => return Poll::Pending,
        }
        let filled = into.filled();
        let sent = match Pin::new(&mut *to).poll_write(context, filled)? {
            Poll::Ready(n) => n,
            Poll::Pending => 0,
        };
        held.bytes.extend_from_slice(&filled[sent..]);
    }
}
