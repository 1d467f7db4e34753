//! The backend behind every proxy: one thread, answers made beforehand. `GET /large` gets 1 MiB, everything else 1 KiB;
//! bodies of requests are read and dropped. It costs as little as it can, and none of it is counted.

use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use crate::Result;

/// Bytes of the body of a small and of a large response.
pub const SMALL: usize = 1 << 10;
pub const LARGE: usize = 1 << 20;

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

struct Request {
    /// Bytes of the head.
    head: usize,
    body: usize,
    large: bool,
    close: bool,
}

/// Serves until it is ended; says its port first.
pub async fn serve() -> Result<()> {
    let listener = listen().await?;
    let answers = Rc::new(Answers { small: answer(SMALL), large: answer(LARGE) });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let answers = answers.clone();
        // A connection that breaks is the business of the proxy, which is asked about its errors.
        spawn_local(async move { drop(connection(stream, &answers).await) });
    }
}

/// Listens at a port that the system chooses, and says it on standard output.
pub async fn listen() -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(4096)?;
    println!("{}", listener.local_addr()?.port());
    Ok(listener)
}

async fn connection(mut stream: TcpStream, answers: &Answers) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut have = 0;
    loop {
        let request = loop {
            if let Some(request) = parse(&buffer[..have])? {
                break request;
            }
            have += match stream.read(&mut buffer[have..]).await? {
                0 => return Ok(()),
                n => n,
            };
        };
        let mut body = request.body;
        let here = body.min(have - request.head);
        buffer.copy_within(request.head + here..have, 0);
        have -= request.head + here;
        body -= here;
        while body > 0 {
            let want = body.min(buffer.len());
            body -= match stream.read(&mut buffer[..want]).await? {
                0 => return Ok(()),
                n => n,
            };
        }
        stream.write_all(if request.large { &answers.large } else { &answers.small }).await?;
        if request.close {
            return Ok(());
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes)? else { return Ok(None) };
    let large = request.path == Some("/large");
    let (mut body, mut close) = (0, request.version == Some(0));
    for header in request.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            body = std::str::from_utf8(header.value)?.parse()?;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("no client here sends a body without a length".into());
        }
    }
    Ok(Some(Request { head, body, large, close }))
}

fn answer(bytes: usize) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + bytes, b'x');
    answer
}
