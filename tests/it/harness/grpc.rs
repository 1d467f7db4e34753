//! A gRPC echo, written by hand on tonic's server and client types: unary, and a stream in both directions.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::client::Grpc;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// What both sides say.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Say {
    #[prost(string, tag = "1")]
    pub text: String,
    /// Who answered; empty in requests.
    #[prost(string, tag = "2")]
    pub from: String,
}

impl Say {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), from: String::new() }
    }
}

const UNARY: &str = "/weir.test.Echo/Unary";
const BIDI: &str = "/weir.test.Echo/Bidi";
const FAIL: &str = "/weir.test.Echo/Fail";

/// Answers a request for the echo service; `name` says who it is.
pub async fn answer<B>(name: String, request: http::Request<B>) -> http::Response<tonic::body::Body>
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<super::client::Error> + Send,
{
    let codec = ProstCodec::<Say, Say>::default();
    let mut grpc = tonic::server::Grpc::new(codec);
    match request.uri().path() {
        UNARY => grpc.unary(Unary(name), request).await,
        BIDI => grpc.streaming(Bidi(name), request).await,
        FAIL => grpc.unary(Fail, request).await,
        _ => Status::unimplemented("no such method").into_http(),
    }
}

struct Unary(String);

impl Service<Request<Say>> for Unary {
    type Response = Response<Say>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Say>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Say>) -> Self::Future {
        let from = self.0.clone();
        Box::pin(async move {
            let deadline = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap_or("?").to_owned());
            let say = request.into_inner();
            if let Some(pause) = say.text.strip_prefix("wait ") {
                let pause = pause.parse().map_err(|_| Status::invalid_argument("wait for how many milliseconds?"))?;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            let mut response = Response::new(Say { text: say.text, from });
            if let Some(deadline) = deadline.and_then(|deadline| deadline.parse().ok()) {
                response.metadata_mut().insert("x-seen-timeout", deadline);
            }
            Ok(response)
        })
    }
}

struct Bidi(String);

impl Service<Request<Streaming<Say>>> for Bidi {
    type Response = Response<Pin<Box<dyn Stream<Item = Result<Say, Status>> + Send>>>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Say>>) -> Self::Future {
        let from = self.0.clone();
        let stream = request.into_inner().map(move |say| say.map(|say| Say { text: say.text, from: from.clone() }));
        Box::pin(async move { Ok(Response::new(Box::pin(stream) as _)) })
    }
}

struct Fail;

impl Service<Request<Say>> for Fail {
    type Response = Response<Say>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Say>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Say>) -> Self::Future {
        Box::pin(async move { Err(Status::failed_precondition(request.into_inner().text)) })
    }
}

/// A client on one connection.
#[derive(Clone)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// With prior knowledge of HTTP/2; `host` becomes `:authority`.
    pub async fn connect(address: SocketAddr, host: &str) -> Result<Self, tonic::transport::Error> {
        let origin = format!("http://{host}").parse().unwrap();
        let endpoint =
            Endpoint::from_shared(format!("http://{address}"))?.origin(origin).connect_timeout(Duration::from_secs(5));
        Ok(Self(Grpc::new(endpoint.connect().await?)))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }

    pub async fn unary(&mut self, request: Request<Say>) -> Result<Response<Say>, Status> {
        self.ready().await?;
        self.0.unary(request, PathAndQuery::from_static(UNARY), ProstCodec::<Say, Say>::default()).await
    }

    /// A call that the server ends with `FAILED_PRECONDITION` and the text as message.
    pub async fn fail(&mut self, text: &str) -> Result<Response<Say>, Status> {
        self.ready().await?;
        let request = Request::new(Say::new(text));
        self.0.unary(request, PathAndQuery::from_static(FAIL), ProstCodec::<Say, Say>::default()).await
    }

    /// Opens a stream in both directions; dropping the sender ends the client's half.
    pub async fn bidi(&mut self) -> Result<(mpsc::Sender<Say>, Streaming<Say>), Status> {
        self.ready().await?;
        let (sender, receiver) = mpsc::channel(16);
        let request = Request::new(ReceiverStream::new(receiver));
        let response =
            self.0.streaming(request, PathAndQuery::from_static(BIDI), ProstCodec::<Say, Say>::default()).await?;
        Ok((sender, response.into_inner()))
    }
}
