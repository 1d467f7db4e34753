//! What hyper understands of a byte stream.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::service::service_fn;

use crate::transcript::{End, Message, Pairs, Transcript};

/// A stream in memory that brings these pieces, then ends. What is written to it is forgotten.
struct Script {
    pieces: VecDeque<Vec<u8>>,
    /// Nothing is read before something was written: a response does not come before its request.
    waits: bool,
    reader: Option<Waker>,
}

impl Script {
    fn new(bytes: &[u8], cut: usize, waits: bool) -> Self {
        let pieces = [&bytes[..cut], &bytes[cut..]].into_iter().filter(|piece| !piece.is_empty());
        Self { pieces: pieces.map(<[u8]>::to_vec).collect(), waits, reader: None }
    }
}

impl hyper::rt::Read for Script {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.waits {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if let Some(piece) = self.pieces.front_mut() {
            let length = piece.len().min(into.remaining());
            into.put_slice(&piece[..length]);
            piece.drain(..length);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Script {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.waits = false;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Serves the stream until hyper has had enough of it.
pub async fn requests(bytes: &[u8], cut: usize) -> Transcript {
    let messages: Rc<RefCell<Vec<Message>>> = Rc::default();
    let service = service_fn(|request: Request<Incoming>| {
        let messages = messages.clone();
        async move {
            let (head, body) = request.into_parts();
            let (body, end, trailers) = collect(body).await;
            let authority = head.uri.authority().map(|authority| authority.as_str().to_owned());
            let host = head.headers.get("host").map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
            let target = match head.uri.path_and_query() {
                Some(target) => target.to_string(),
                None => "/".to_owned(),
            };
            messages.borrow_mut().push(Message {
                start: vec![head.method.to_string(), target],
                authority: authority.or(host).map(|authority| authority.to_ascii_lowercase()),
                fields: pairs(&head.headers),
                body,
                end,
                trailers,
            });
            match end {
                End::Complete => Ok(Response::new(Empty::<Bytes>::new())),
                _ => Err("the body failed"),
            }
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(true).header_read_timeout(None).max_buf_size(1 << 20);
    let served = builder.serve_connection(Script::new(bytes, cut, false), service).await;
    let end = match served {
        Ok(()) => End::Complete,
        // The service's own error: the body's end says it.
        Err(error) if error.is_user() => End::Complete,
        Err(error) => end_by(&error),
    };
    Transcript { messages: messages.take(), end, left: None }
}

/// Sends a request and reads the response.
pub async fn response(bytes: &[u8], cut: usize, to_head: bool) -> Transcript {
    let script = Script::new(bytes, cut, true);
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_buf_size(1 << 20);
    let (mut sender, mut connection) = builder.handshake::<_, Empty<Bytes>>(script).await.unwrap();
    let method = if to_head { "HEAD" } else { "GET" };
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::new()).unwrap();
    let message = {
        let exchange = pin!(async {
            let (head, body) = sender.send_request(request).await.map_err(|error| end_by(&error))?.into_parts();
            let (body, end, trailers) = collect(body).await;
            Ok::<_, End>(Message {
                start: vec![head.status.as_u16().to_string()],
                authority: None,
                fields: pairs(&head.headers),
                body,
                end,
                trailers,
            })
        });
        let mut exchange = exchange;
        let mut over = false;
        poll_fn(|cx| {
            if let Poll::Ready(message) = exchange.as_mut().poll(cx) {
                return Poll::Ready(message);
            }
            if !over {
                over = connection.poll_without_shutdown(cx).is_ready();
                return exchange.as_mut().poll(cx);
            }
            Poll::Pending
        })
        .await
    };
    match message {
        Err(end) => Transcript { messages: Vec::new(), end, left: None },
        Ok(message) => {
            let parts = connection.into_parts();
            let left = parts.read_buf.len() + parts.io.pieces.iter().map(Vec::len).sum::<usize>();
            Transcript { messages: vec![message], end: End::Complete, left: Some(left) }
        }
    }
}

async fn collect(mut body: Incoming) -> (Vec<u8>, End, Pairs) {
    let (mut data, mut trailers) = (Vec::new(), Pairs::new());
    loop {
        match body.frame().await {
            None => return (data, End::Complete, trailers),
            Some(Err(error)) => return (data, end_by(&error), trailers),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.trailers_ref().map(pairs).unwrap_or_default(),
            },
        }
    }
}

fn end_by(error: &hyper::Error) -> End {
    let cut_off = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
    if cut_off || error.is_incomplete_message() { End::Unfinished } else { End::Refused }
}

fn pairs(headers: &HeaderMap) -> Pairs {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}
