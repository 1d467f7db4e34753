//! What a watch says, event by event.
//!
//! kube's client has the same, but takes the refusal of a watch (401, 403) for a watch that begins and says no more than
//! that it has failed: nobody could tell the one from the other. An event that breaks off in the middle was not said.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::api::{Api, WatchParams};
use kube::client::Body;
use kube::core::{Request, Resource, Status, WatchEvent};
use kube::{Client, Error};
use serde::de::DeserializeOwned;

/// A watch that has begun.
pub struct Stream<B = Body> {
    body: B,
    /// What has come, and is no whole event.
    rest: BytesMut,
    /// So much of it has no end of a line.
    searched: usize,
}

impl Stream {
    /// Begins a watch that follows from `version`.
    ///
    /// # Errors
    /// When the API server cannot be reached, or refuses.
    pub async fn begin<K>(api: &Api<K>, parameters: &WatchParams, version: &str) -> Result<Self, Error>
    where
        K: Resource + Clone,
    {
        let client: Client = api.clone().into_client();
        let request = Request::new(api.resource_url()).watch(parameters, version).map_err(Error::BuildRequest)?;
        let answer = client.send(request.map(Body::from)).await?;
        let code = answer.status();
        if code.is_success() {
            return Ok(Self { body: answer.into_body(), rest: BytesMut::new(), searched: 0 });
        }
        let body = answer.into_body().collect().await?.to_bytes();
        let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            Status::failure(text.trim(), "").with_code(code.as_u16())
        });
        Err(Error::Api(status.boxed()))
    }
}

impl<B> Stream<B>
where
    B: http_body::Body<Data = Bytes, Error = Error> + Unpin,
{
    /// Whether what has come so far are whole events.
    pub fn is_between(&self) -> bool {
        self.rest.trim_ascii().is_empty()
    }

    /// The next event; `None`: the connection has ended, maybe in the middle of one. May be dropped and called again. After
    /// an error there is no more to be had.
    pub async fn next<K>(&mut self) -> Option<Result<WatchEvent<K>, Error>>
    where
        K: DeserializeOwned,
    {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.rest[self.searched..]) {
                let line = self.rest.split_to(self.searched + end + 1);
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Some(serde_json::from_slice(&line).map_err(Error::SerdeError));
                }
            }
            self.searched = self.rest.len();
            match self.body.frame().await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        self.rest.extend_from_slice(&data);
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// Arrives in pieces of so many bytes, as what a connection brings does.
    struct Pieces(Bytes, usize);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            let size = self.1.min(self.0.len());
            let piece = self.0.split_to(size);
            Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn events_are_whole_however_they_arrive_and_half_an_event_is_none() {
        let event = |kind: &str, name: &str| {
            serde_json::json!({"type": kind, "object": {"metadata": {"name": name}}}).to_string()
        };
        let text = format!("{}\n\n{}\r\n{}", event("ADDED", "one"), event("MODIFIED", "two"), event("ADDED", "three"));
        for size in [1, 7, 64, text.len()] {
            let body = Pieces(Bytes::from(text.clone()), size);
            let mut stream = Stream { body, rest: BytesMut::new(), searched: 0 };
            let mut names = Vec::new();
            while let Some(event) = stream.next::<ConfigMap>().await {
                match event {
                    Ok(WatchEvent::Added(map) | WatchEvent::Modified(map)) => names.extend(map.metadata.name),
                    other => unreachable!("{other:?}"),
                }
            }
            assert_eq!(names, ["one", "two"], "in pieces of {size}");
            assert!(!stream.is_between(), "the third broke off");
        }
    }

    #[tokio::test]
    async fn what_is_no_event_is_an_error() {
        let body = Pieces(Bytes::from_static(b"{\"type\":\"ADDED\"}\n"), 16);
        let mut stream = Stream { body, rest: BytesMut::new(), searched: 0 };
        assert!(matches!(stream.next::<ConfigMap>().await, Some(Err(Error::SerdeError(_)))));
    }
}
