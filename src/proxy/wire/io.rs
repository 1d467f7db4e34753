//! A byte stream of any kind that Weir speaks over, without dynamic dispatch.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection, clear or encrypted, from either door.
#[derive(Debug)]
pub enum Io {
    /// Clear text.
    Tcp(TcpStream),
    /// TLS, we are the server.
    TlsServer(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// TLS, we are the client.
    TlsClient(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($self:ident, $stream:ident => $body:expr) => {
        match $self {
            Io::Tcp($stream) => {
                let $stream = Pin::new($stream);
                $body
            }
            Io::TlsServer($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $body
            }
            Io::TlsClient($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $body
            }
        }
    };
}

impl Io {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Io::Tcp(stream) => stream,
            Io::TlsServer(stream) => stream.get_ref().0,
            Io::TlsClient(stream) => stream.get_ref().0,
        }
    }

    /// Whether bytes are encrypted on the way.
    pub fn is_tls(&self) -> bool {
        !matches!(self, Io::Tcp(_))
    }

    /// The endpoint's certificate, if we are the client of TLS.
    pub fn endpoint_certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Io::TlsClient(stream) => stream.get_ref().1.peer_certificates()?.first(),
            Io::Tcp(_) | Io::TlsServer(_) => None,
        }
    }

    /// Reads into `buffer`, which must not be empty; 0 is the end.
    ///
    /// # Errors
    /// What the system says. A TLS peer that closes without a close_notify counts as the plain end of the stream: whether
    /// that is the end of a message is decided by its framing.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_read_to_end(cx, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(0)),
            result => Poll::Ready(result),
        }
    }

    /// As [`Io::poll_read`], where the end of the stream is the end of the message: a TLS stream that is cut off is then
    /// an error (RFC 9112 section 9.8).
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_read_to_end(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(buffer);
        ready!(each!(self, stream => stream.poll_read(cx, &mut into)))?;
        Poll::Ready(Ok(into.filled().len()))
    }

    /// Writes some of `bytes`.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, bytes))
    }

    /// Pushes out what TLS has buffered.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Io::Tcp(_) => Poll::Ready(Ok(())),
            _ => each!(self, stream => stream.poll_flush(cx)),
        }
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// What the system says.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}

/// Bytes that could not be written yet.
#[derive(Debug, Default)]
pub struct Unsent {
    bytes: Vec<u8>,
    at: usize,
    needs_flush: bool,
}

impl Unsent {
    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && !self.needs_flush
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Writes what waits, then `bytes`; keeps what the system does not take now. `Ready` when nothing waits any more.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&mut self, io: &mut Io, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        match self.flush(io, cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.bytes.extend_from_slice(bytes);
                return Poll::Pending;
            }
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match io.poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => rest = &rest[written..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.bytes.extend_from_slice(rest);
                    self.needs_flush = io.is_tls();
                    return Poll::Pending;
                }
            }
        }
        self.needs_flush = io.is_tls();
        self.flush(io, cx)
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// What the system says.
    pub fn flush(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            match ready!(io.poll_write(cx, &self.bytes[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.at += written,
            }
        }
        if !self.bytes.is_empty() {
            self.bytes = Vec::new();
            self.at = 0;
        }
        if self.needs_flush {
            ready!(io.poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }
}
