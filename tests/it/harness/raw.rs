//! Bytes as they are: clients that say what no library would say, and backends that answer what no library would answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What came back over a raw connection.
#[derive(Debug)]
pub struct Reply {
    pub bytes: Vec<u8>,
    /// The peer closed or reset within the time given.
    pub closed: bool,
}

impl Reply {
    /// Status of the first response; 0 if there is none.
    pub fn status(&self) -> u16 {
        self.statuses().first().copied().unwrap_or(0)
    }

    /// Status of every response, as far as status lines can be recognised at line starts.
    pub fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Sends bytes over a new connection and reads until the peer closes, or until `patience` has passed.
pub async fn exchange(address: SocketAddr, bytes: &[u8], patience: Duration) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A peer that refuses early may reset while we write; what it said before can still be read.
    let _ = stream.write_all(bytes).await;
    read(&mut stream, patience).await
}

/// Reads until the peer closes, or until `patience` has passed.
pub async fn read(stream: &mut TcpStream, patience: Duration) -> Reply {
    let mut reply = Reply { bytes: Vec::new(), closed: false };
    // Running out of patience is a result here, not an error.
    let _ = tokio::time::timeout(patience, async {
        loop {
            match stream.read_buf(&mut reply.bytes).await {
                Ok(0) | Err(_) => {
                    reply.closed = true;
                    return;
                }
                Ok(_) => {}
            }
        }
    })
    .await;
    reply
}

/// Reads until `enough` says so; fails when the peer closes before or nothing more comes for five seconds.
pub async fn read_until(stream: &mut (impl AsyncRead + Unpin), what: &str, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !enough(&bytes) {
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_buf(&mut bytes)).await;
        match read {
            Ok(Ok(1..)) => {}
            other => panic!("waiting for {what}: {other:?} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    bytes
}

/// Reads one response that has a Content-Length, or none and no body.
pub async fn read_response(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    read_until(stream, "a response", |bytes| {
        let Some(end) = find(bytes, b"\r\n\r\n") else { return false };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length =
            head.split("content-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
        bytes.len() >= end + 4 + length.unwrap_or(0)
    })
    .await
}

/// Position of a sequence of bytes.
pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A backend whose every connection is handled by a script.
pub async fn backend<F>(script: impl Fn(usize, TcpStream) -> F + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            // What a script has written is on its way when it goes on.
            stream.set_nodelay(true).unwrap();
            tokio::spawn(script(number, stream));
            number += 1;
        }
    });
    address
}

/// A backend that answers every request head on every connection with the same bytes.
pub async fn answering(response: &'static [u8]) -> SocketAddr {
    backend(move |_, mut stream| async move {
        while head(&mut stream).await.is_some() {
            if stream.write_all(response).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// A backend that sends the same bytes after the first head, then closes.
pub async fn answering_once(response: &'static [u8]) -> SocketAddr {
    backend(move |_, mut stream| async move {
        if head(&mut stream).await.is_some() {
            // The proxy may have dropped the connection half-way, as it should for some of these.
            let _ = stream.write_all(response).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

/// Reads one request head; `None` when the peer closed.
pub async fn head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if bytes.ends_with(b"\r\n\r\n") {
            return Some(bytes);
        }
        // One by one, so that nothing of a following request is swallowed.
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        bytes.push(byte[0]);
    }
}

/// Resets a connection.
pub fn reset(stream: TcpStream) {
    // If this fails the connection is closed instead of reset, and the test that needs a reset will say so.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// A backend that records every byte it receives and answers 200 to whatever looks like the end of a head.
#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    pub async fn start() -> Self {
        let bytes: Arc<Mutex<Vec<u8>>> = Arc::default();
        let recorded = bytes.clone();
        let address = backend(move |_, mut stream| {
            let recorded = recorded.clone();
            async move {
                let mut buffer = vec![0; 64 * 1024];
                let mut tail: Vec<u8> = Vec::new();
                while let Ok(size @ 1..) = stream.read(&mut buffer).await {
                    recorded.lock().unwrap().extend_from_slice(&buffer[..size]);
                    tail.extend_from_slice(&buffer[..size]);
                    while let Some(end) = find(&tail, b"\r\n\r\n") {
                        tail.drain(..end + 4);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                    }
                }
            }
        })
        .await;
        Self { address, bytes }
    }

    /// Everything received so far.
    pub fn seen(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}
