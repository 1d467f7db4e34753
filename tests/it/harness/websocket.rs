//! WebSocket clients over any connection. The echoing server is part of [`super::backend`].

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Error, Stream, Target};

/// An open WebSocket.
pub struct Socket(pub WebSocketStream<Box<dyn Stream>>);

impl Socket {
    /// Opens it at `/ws` of a host.
    pub async fn connect(target: &Target, host: &str) -> Result<Self, Error> {
        let scheme = if target.tls.is_some() { "wss" } else { "ws" };
        let (socket, _) =
            tokio_tungstenite::client_async(format!("{scheme}://{host}/ws"), target.connect().await?).await?;
        Ok(Self(socket))
    }

    /// Sends a text and returns what comes back next; `None` if the peer closed.
    pub async fn echo(&mut self, text: &str) -> Result<Option<String>, Error> {
        self.0.send(Message::text(text)).await?;
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(answer))) => return Ok(Some(answer.to_string())),
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Closes it properly: both sides say so.
    pub async fn close(mut self) -> Result<(), Error> {
        self.0.close(None).await?;
        while let Some(message) = self.0.next().await {
            if let Message::Close(_) = message? {
                return Ok(());
            }
        }
        Err("the connection ended without a close frame".into())
    }
}
