//! A backend that behaves: HTTP/1.1, HTTP/2 with prior knowledge, WebSocket and gRPC on one port, and says who it is.
//!
//! Every answer carries `x-backend: NAME`. Paths:
//!
//! | path | answer |
//! |---|---|
//! | `/head` | the request head as JSON: `method`, `target`, `version`, `headers` (list of pairs), `peer` |
//! | `/status/404` | that status |
//! | `/bytes/1000` | so many bytes, streamed |
//! | `/sink` | reads the body; `{"bytes": n}` |
//! | `/echo` | the body as it comes, and its trailers |
//! | `/trailers` | a body with the trailer `x-sum: 42` |
//! | `/slow/250` | answers after so many milliseconds |
//! | `/drip/20` | so many chunks, one every 20 ms |
//! | `/ws` | a WebSocket that echoes texts, prefixed with its name |
//! | `/weir.test.Echo/…` | gRPC, see [`super::grpc`] |
//! | anything else | `NAME TOKEN`, where the token is the `x-token` of the request |
//!
//! It can be told to die: [`Backend::set`].

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::client::{Error, Stream};

type Body = UnsyncBoxBody<Bytes, Error>;

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As the table says.
    Serving,
    /// Accepts, reads, and never answers.
    Hanging,
    /// Answers every connection with a reset.
    Resetting,
    /// Answers every request with this status.
    Failing(u16),
}

/// A backend; it ends with the runtime of its test.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    requests: AtomicU64,
    in_flight: AtomicU64,
    paths: Mutex<BTreeMap<String, u64>>,
    connections: Mutex<HashMap<u64, Open>>,
    accepted: AtomicU64,
    tls: Option<Arc<ServerConfig>>,
}

/// A second handle of a connection's socket, by which it can be reset, and the task that serves it.
struct Open {
    socket: socket2::Socket,
    task: AbortHandle,
}

impl Backend {
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap(), None).await
    }

    pub async fn start_tls(name: &str, tls: Arc<ServerConfig>) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap(), Some(tls)).await
    }

    async fn start_at(name: &str, address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            address: listener.local_addr().unwrap(),
            mode: watch::Sender::new(Mode::Serving),
            requests: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            paths: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
            tls,
        });
        tokio::spawn(accept(listener, shared.clone()));
        Self { shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests that have arrived for a path.
    pub fn requests_for(&self, path: &str) -> u64 {
        self.shared.paths.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    /// Requests whose answer is not complete.
    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }

    /// Changes its behaviour. [`Mode::Resetting`] also resets the connections that are open.
    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        if mode == Mode::Resetting {
            for (_, open) in self.shared.connections.lock().unwrap().drain() {
                // Linger 0 is a reset when the last handle goes. A socket that is gone already needs none.
                let _ = open.socket.set_linger(Some(Duration::ZERO));
                open.task.abort();
            }
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        if *shared.mode.borrow() == Mode::Resetting {
            // As above: if this fails the connection is closed instead.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            continue;
        }
        let Ok(handle) = stream.as_fd().try_clone_to_owned() else { continue };
        let serving = shared.clone();
        // The table must know the connection before it can end.
        let mut connections = shared.connections.lock().unwrap();
        let task = tokio::spawn(async move {
            let _registered = Registered { shared: serving.clone(), number };
            serve(serving, stream, peer).await;
        });
        connections.insert(number, Open { socket: handle.into(), task: task.abort_handle() });
    }
}

struct Registered {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.connections.lock().unwrap().remove(&self.number);
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    // Both fail only if the peer is gone, which serving will find out.
    let _ = stream.set_nodelay(true);
    if let Some(tls) = &shared.tls {
        let Ok(stream) = TlsAcceptor::from(tls.clone()).accept(stream).await else { return };
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        return serve_http(shared, Box::new(stream), peer, http2).await;
    }
    let mut first = [0; 3];
    let http2 = loop {
        match stream.peek(&mut first).await {
            Ok(3) => break &first == b"PRI",
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    serve_http(shared, Box::new(stream), peer, http2).await;
}

async fn serve_http(shared: Arc<Shared>, stream: Box<dyn Stream>, peer: SocketAddr, http2: bool) {
    // What goes on after an upgrade belongs to the connection: it is ended and reset with it.
    let upgraded: Arc<Mutex<JoinSet<()>>> = Arc::default();
    let upgrades = upgraded.clone();
    let service = service_fn(move |request| {
        let (shared, upgrades) = (shared.clone(), upgrades.clone());
        async move { Ok::<_, Infallible>(respond(shared, request, peer, &upgrades).await) }
    });
    let stream = TokioIo::new(stream);
    // How a connection ends is the client's affair; what it received is what tests look at.
    if http2 {
        let _ = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(1000)
            .serve_connection(stream, service)
            .await;
    } else {
        let _ = http1::Builder::new().serve_connection(stream, service).with_upgrades().await;
    }
    let mut upgraded = std::mem::take(&mut *upgraded.lock().unwrap());
    while upgraded.join_next().await.is_some() {}
}

async fn respond(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    peer: SocketAddr,
    upgrades: &Mutex<JoinSet<()>>,
) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    *shared.paths.lock().unwrap().entry(request.uri().path().to_owned()).or_default() += 1;
    let flying = Flying::new(&shared);
    let mut mode = shared.mode.subscribe();
    let failing = {
        // The sender lives in `shared`, so this cannot fail.
        let mode = mode.wait_for(|mode| *mode != Mode::Hanging).await.unwrap();
        if let Mode::Failing(status) = *mode { Some(status) } else { None }
    };
    let mut response = match failing {
        Some(status) => with_status(status, text("told to fail\n")),
        None => route(&shared, request, peer, upgrades).await,
    };
    if let Ok(name) = HeaderValue::from_str(&shared.name) {
        response.headers_mut().insert("x-backend", name);
    }
    response.map(|body| Counted { body, _flying: flying }.boxed_unsync())
}

/// A request that is not over; counted down when the body of its response ends or is dropped.
struct Flying(Arc<Shared>);

impl Flying {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(shared.clone())
    }
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Counted {
    body: Body,
    _flying: Flying,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

async fn route(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    peer: SocketAddr,
    upgrades: &Mutex<JoinSet<()>>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (first, rest) = path[1.min(path.len())..].split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let number = rest.parse::<u64>();
    match (first, number) {
        ("head", _) => head(&request, peer),
        ("status", Ok(status)) => with_status(status as u16, text("as asked\n")),
        ("bytes", Ok(size)) => sized(size, Zeros { left: size }.boxed_unsync()),
        ("sink", _) => sink(request.into_body()).await,
        ("echo", _) => Response::new(request.into_body().map_err(Error::from).boxed_unsync()),
        ("trailers", _) => with_trailers(),
        ("slow", Ok(milliseconds)) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Response::new(text(format!("{} at last\n", shared.name)))
        }
        ("drip", Ok(chunks)) => Response::new(Drip { left: chunks, pause: None }.boxed_unsync()),
        ("ws", _) => websocket(shared.name.clone(), request, upgrades),
        ("weir.test.Echo", _) => {
            super::grpc::answer(shared.name.clone(), request).await.map(|body| body.map_err(Error::from).boxed_unsync())
        }
        _ => {
            let token = request.headers().get("x-token").and_then(|token| token.to_str().ok()).unwrap_or("");
            Response::new(text(format!("{} {token}", shared.name)))
        }
    }
}

fn text(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed_unsync()
}

fn with_status(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if matches!(status, 204 | 304) {
        *response.body_mut() = Empty::new().map_err(|never| match never {}).boxed_unsync();
    }
    if (300..400).contains(&status) {
        response.headers_mut().insert("location", HeaderValue::from_static("/elsewhere"));
    }
    response
}

fn sized(size: u64, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-length", HeaderValue::from(size));
    response
}

fn head(request: &Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let headers: Vec<(&str, String)> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let description = json!({
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
        "peer": peer.to_string(),
    });
    let mut response = Response::new(text(description.to_string()));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response
}

async fn sink(mut body: Incoming) -> Response<Body> {
    let mut bytes = 0;
    let mut trailers = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return with_status(400, text("broken off\n")) };
        match frame.into_data() {
            Ok(data) => bytes += data.len(),
            Err(frame) => {
                let map = frame.into_trailers().unwrap_or_default();
                trailers.extend(map.iter().map(|(name, value)| {
                    (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                }));
            }
        }
    }
    Response::new(text(json!({"bytes": bytes, "trailers": trailers}).to_string()))
}

fn with_trailers() -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    // Of unknown length, so that HTTP/1.1 sends it in chunks, after which alone there can be trailers.
    let frames = [Frame::data(Bytes::from_static(b"with trailers\n")), Frame::trailers(trailers)];
    let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Error>))).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
    response
}

/// Zeros without a memory of their own.
pub struct Zeros {
    pub left: u64,
}

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl http_body::Body for Zeros {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = self.left.min(ZEROS.len() as u64);
        self.left -= size;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS[..size as usize])))))
    }
}

/// A chunk every 20 ms.
struct Drip {
    left: u64,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl http_body::Body for Drip {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_millis(20))));
        match pause.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                self.pause = None;
                self.left -= 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"drip\n")))))
            }
        }
    }
}

fn websocket(name: String, mut request: Request<Incoming>, upgrades: &Mutex<JoinSet<()>>) -> Response<Body> {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY).cloned() else {
        return with_status(400, text("not a WebSocket handshake\n"));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    upgrades.lock().unwrap().spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let answer = match message {
                Message::Text(text) => Message::text(format!("{name} {text}")),
                Message::Binary(bytes) => Message::Binary(bytes),
                // Pings and closes are answered by the library.
                _ => continue,
            };
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    });
    let mut response = with_status(101, Empty::new().map_err(|never| match never {}).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}
