//! An API server that answers what a test says, without a network.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::Client;
use kube::client::Body;

#[derive(Clone)]
struct Server<F>(Arc<F>);

impl<F> tower::Service<Request<Body>> for Server<F>
where
    F: Fn(&str) -> Option<(u16, String)>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = (self.0)(&request.uri().to_string());
        Box::pin(async move {
            let Some((code, text)) = answer else { return pending().await };
            Ok(Response::builder().status(code).body(Full::from(text)).expect("an answer"))
        })
    }
}

/// A client of a server that answers a path and query with a status and a body, or never.
pub fn client(answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> Client {
    Client::new(Server(Arc::new(answer)), "default")
}
