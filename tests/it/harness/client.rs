//! HTTP clients on hyper's connection types: one connection is one value here, so that a test sees when it closes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// A connection of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What goes wrong, for the eyes of whoever reads a failed test.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
pub type Body = BoxBody<Bytes, Error>;

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Where to connect, and how.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// Configuration and server name; `None` is clear text.
    pub tls: Option<(Arc<ClientConfig>, String)>,
}

impl Target {
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    pub fn tls(address: SocketAddr, config: Arc<ClientConfig>, name: &str) -> Self {
        Self { address, tls: Some((config, name.to_owned())) }
    }

    pub async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((config, name)) => {
                let name = ServerName::try_from(name.clone())?;
                Ok(Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?))
            }
        }
    }

    /// Shakes hands and returns the certificate that was presented.
    pub async fn certificate(&self) -> Result<CertificateDer<'static>, Error> {
        let (config, name) = self.tls.clone().ok_or("clear text has no certificate")?;
        let stream = TcpStream::connect(self.address).await?;
        let stream = TlsConnector::from(config).connect(ServerName::try_from(name)?, stream).await?;
        let (_, session) = stream.get_ref();
        Ok(session.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?.clone().into_owned())
    }
}

/// A complete response.
pub struct Answer {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub async fn read(response: http::Response<Incoming>) -> Result<Self, Error> {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        Ok(Self { status: parts.status.as_u16(), version: parts.version, headers: parts.headers, body, trailers })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first value of a header, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or("?"))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?} {}", self.status, self.version, self.headers, self.text())
    }
}

/// One HTTP/1.1 connection.
pub struct H1 {
    sender: http1::SendRequest<Body>,
    /// Ends when the connection does.
    pub driver: JoinHandle<hyper::Result<()>>,
}

impl H1 {
    pub async fn connect(target: &Target) -> Result<Self, Error> {
        let (sender, connection) = http1::handshake(TokioIo::new(target.connect().await?)).await?;
        Ok(Self { sender, driver: tokio::spawn(connection.with_upgrades()) })
    }

    /// Sends a request and returns with the head of the response.
    pub async fn send(&mut self, request: Request<Body>) -> Result<http::Response<Incoming>, Error> {
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request and reads the whole response.
    pub async fn ask(&mut self, request: Request<Body>) -> Result<Answer, Error> {
        Answer::read(self.send(request).await?).await
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, Error> {
        self.ask(request(Method::GET, host, path).body(empty())?).await
    }

    /// Whether the peer has closed it.
    pub fn closed(&self) -> bool {
        self.driver.is_finished()
    }
}

/// One HTTP/2 connection; clones share it.
pub struct H2 {
    sender: http2::SendRequest<Body>,
    scheme: &'static str,
    /// Ends when the connection does.
    pub driver: Arc<JoinHandle<hyper::Result<()>>>,
}

impl Clone for H2 {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), scheme: self.scheme, driver: self.driver.clone() }
    }
}

impl H2 {
    pub async fn connect(target: &Target) -> Result<Self, Error> {
        let stream = TokioIo::new(target.connect().await?);
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(stream)
            .await?;
        let scheme = if target.tls.is_some() { "https" } else { "http" };
        Ok(Self { sender, scheme, driver: Arc::new(tokio::spawn(connection)) })
    }

    /// Sends a request (as [`request`] makes them) and returns with the head of the response.
    pub async fn send(&mut self, mut request: Request<Body>) -> Result<http::Response<Incoming>, Error> {
        if request.uri().authority().is_none() {
            let host = request.headers_mut().remove("host").ok_or("no host")?;
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            let uri = Uri::builder().scheme(self.scheme).authority(host.as_bytes()).path_and_query(path).build()?;
            *request.uri_mut() = uri;
        }
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    pub async fn ask(&mut self, request: Request<Body>) -> Result<Answer, Error> {
        Answer::read(self.send(request).await?).await
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, Error> {
        self.ask(request(Method::GET, host, path).body(empty())?).await
    }

    /// Whether the connection is over.
    pub fn closed(&self) -> bool {
        self.driver.is_finished()
    }
}

/// A request in origin form with a Host header.
pub fn request(method: Method, host: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", host)
}

/// `GET` over a new clear-text connection, within five seconds.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer, Error> {
    ask(&Target::plain(address), request(Method::GET, host, path).body(empty())?).await
}

/// One request over a new HTTP/1.1 connection, within five seconds.
pub async fn ask(target: &Target, request: Request<Body>) -> Result<Answer, Error> {
    tokio::time::timeout(Duration::from_secs(5), async {
        let mut connection = H1::connect(target).await?;
        connection.ask(request).await
    })
    .await
    .map_err(|_| "no answer within 5 s")?
}
