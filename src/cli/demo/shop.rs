//! The built-in shop: a few small backends on loopback ports, all on one thread of their own.
//!
//! They say which color, version and pod they are, to a browser by a page painted in the color, to everyone else in one
//! line; and they are slow or fail when told to. Nothing of Weir is used here: to the edge they are foreign servers.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Frame;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Interval;

/// The page that browsers get.
const PAGE: &str = include_str!("page.html");

/// The longest that a backend can be told to wait, in milliseconds.
const SLOWEST: u64 = 60_000;

/// One backend.
#[derive(Debug)]
pub(super) struct Pod {
    /// What it belongs to: `shop` or `reviews`.
    pub service: &'static str,
    /// Its color; empty for a service without colors.
    pub color: &'static str,
    /// The version that it says it is.
    pub version: &'static str,
    /// Its name, unique in the shop.
    pub name: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
}

const PODS: [(&str, &str, &str, &str); 5] = [
    ("shop", "blue", "v1", "blue-1"),
    ("shop", "blue", "v1", "blue-2"),
    ("shop", "green", "v2", "green-1"),
    ("shop", "green", "v2", "green-2"),
    ("reviews", "", "v1", "reviews-1"),
];

/// Opens the shop: when this returns every pod accepts connections. It stays open until the process ends.
///
/// # Errors
/// When no loopback port or no thread can be had.
pub(super) fn open() -> io::Result<Vec<Arc<Pod>>> {
    let mut pods = Vec::new();
    let mut sockets = Vec::new();
    for (service, color, version, name) in PODS {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let pod = Arc::new(Pod { service, color, version, name, address: socket.local_addr()? });
        pods.push(Arc::clone(&pod));
        sockets.push((pod, socket));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("demo-shop".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for (pod, socket) in sockets {
                tasks.spawn(serve(pod, socket));
            }
            tasks.join_all().await
        })
    })?;
    Ok(pods)
}

async fn serve(pod: Arc<Pod>, socket: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(socket) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: the ones in use come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let pod = Arc::clone(&pod);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&pod), request));
            // A client that goes away is no event for a demo.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(pod: Arc<Pod>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let wish = Wish::of(request.uri().path(), request.uri().query().unwrap_or(""), request.headers());
    if let Some(delay) = wish.delay {
        tokio::time::sleep(delay).await;
    }
    let (media, body) = match wish.form {
        Form::Events => ("text/event-stream", Answer::events(&pod)),
        Form::Page => ("text/html; charset=utf-8", Answer::whole(page(&pod))),
        Form::Json => ("application/json", Answer::whole(json(&pod))),
        Form::Line => ("text/plain; charset=utf-8", Answer::whole(format!("{}\n", line(&pod)))),
    };
    let mut response = Response::new(body);
    *response.status_mut() = wish.status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, media),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
        (header::HeaderName::from_static("x-shop-color"), pod.color),
        (header::HeaderName::from_static("x-shop-version"), pod.version),
        (header::HeaderName::from_static("x-shop-pod"), pod.name),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    Ok(response)
}

fn line(pod: &Pod) -> String {
    let words = [pod.service, pod.color, pod.version, "pod", pod.name];
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

fn json(pod: &Pod) -> String {
    let Pod { service, color, version, name, .. } = pod;
    format!("{}\n", serde_json::json!({"service": service, "color": color, "version": version, "pod": name}))
}

fn page(pod: &Pod) -> String {
    let color = if pod.color.is_empty() { "gray" } else { pod.color };
    PAGE.replace("{{color}}", color).replace("{{line}}", &line(pod))
}

/// What a request asks of the shop.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    delay: Option<Duration>,
    status: StatusCode,
    form: Form,
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Line,
    Json,
    Page,
    Events,
}

impl Wish {
    /// `/slow` and `/fail` are slow and fail on every path as told by the query (`ms`, `status`) or by the headers
    /// `X-Shop-Slow` (milliseconds) and `X-Shop-Fail` (status). What makes no sense is taken as not said.
    fn of(path: &str, query: &str, headers: &HeaderMap) -> Self {
        let told = |key: &str, name: &str| {
            let parameter = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key);
            let header = headers.get(name).and_then(|value| value.to_str().ok());
            parameter.map(|(_, value)| value).or(header).and_then(|value| value.parse::<u64>().ok())
        };
        let delay = told("ms", "x-shop-slow").or((path == "/slow").then_some(500));
        let status = told("status", "x-shop-fail")
            .and_then(|status| u16::try_from(status).ok())
            // 1xx is not an answer, and 101 would hand the connection over.
            .filter(|status| (200..600).contains(status))
            .and_then(|status| StatusCode::from_u16(status).ok());
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let form = if path == "/events" || accept.contains("text/event-stream") {
            Form::Events
        } else if accept.contains("text/html") {
            Form::Page
        } else if accept.contains("application/json") {
            Form::Json
        } else {
            Form::Line
        };
        Self {
            delay: delay.map(|ms| Duration::from_millis(ms.min(SLOWEST))),
            status: status.unwrap_or(if path == "/fail" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }),
            form,
        }
    }
}

/// The body of an answer: known as a whole, or one line a second for as long as the client listens.
enum Answer {
    Whole(Option<Bytes>),
    Events { tick: Interval, line: String, sent: u64 },
}

impl Answer {
    fn whole(text: String) -> Self {
        Self::Whole(Some(Bytes::from(text)))
    }

    fn events(pod: &Pod) -> Self {
        Self::Events { tick: tokio::time::interval(Duration::from_secs(1)), line: line(pod), sent: 0 }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events { tick, line, sent } => tick.poll_tick(cx).map(|_| {
                *sent += 1;
                Some(Ok(Frame::data(Bytes::from(format!("id: {sent}\ndata: {line}\n\n")))))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => http_body::SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Events { .. } => http_body::SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Instant;

    use super::*;

    fn ask(pod: &Pod, target: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(pod.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn every_pod_says_who_it_is_in_the_form_that_the_client_likes() {
        let pods = open().unwrap();
        for pod in &pods {
            let answer = ask(pod, "/", "");
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{}\n", line(pod))), "{answer}");
        }
        assert_eq!(line(&pods[0]), "shop blue v1 pod blue-1");
        assert_eq!(line(&pods[4]), "reviews v1 pod reviews-1");
        let page = ask(&pods[2], "/", "Accept: text/html,*/*\r\n");
        assert!(page.contains("text/html") && page.contains("green") && !page.contains("{{"), "{page}");
        let json = ask(&pods[2], "/", "Accept: application/json\r\n");
        assert!(json.contains(r#""pod":"green-1""#), "{json}");
    }

    #[test]
    fn a_pod_is_slow_and_fails_when_it_is_told_to() {
        let pods = open().unwrap();
        assert!(ask(&pods[0], "/fail", "").starts_with("HTTP/1.1 503 "));
        assert!(ask(&pods[0], "/fail?status=429", "").starts_with("HTTP/1.1 429 "));
        assert!(ask(&pods[0], "/", "X-Shop-Fail: 500\r\n").starts_with("HTTP/1.1 500 "));
        assert!(
            ask(&pods[0], "/?status=101", "").starts_with("HTTP/1.1 200 "),
            "a status that is no answer is ignored"
        );
        let start = Instant::now();
        assert!(ask(&pods[0], "/slow?ms=120", "").starts_with("HTTP/1.1 200 "));
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[test]
    fn events_go_on_until_the_client_leaves() {
        let pods = open().unwrap();
        let mut stream = TcpStream::connect(pods[3].address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&seen).contains("id: 2\ndata: shop green v2 pod green-2") {
            let read = stream.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the stream ended: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..read]);
        }
    }

    #[test]
    fn the_longest_wait_is_bounded() {
        let wish = Wish::of("/slow", "ms=99999999999", &HeaderMap::new());
        assert_eq!(wish.delay, Some(Duration::from_millis(SLOWEST)));
        assert_eq!(Wish::of("/slow", "ms=soon", &HeaderMap::new()).delay, Some(Duration::from_millis(500)));
    }
}
