//! Stand-ins for what the engine takes from tokio and rustls: a byte stream in memory under the same names. Reads come
//! in prepared pieces with a `Pending` between them, writes are taken in prepared portions.

/// In place of `tokio::io`.
pub mod io {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// Memory that is being filled.
    pub struct ReadBuf<'a> {
        buffer: &'a mut [u8],
        filled: usize,
    }

    impl<'a> ReadBuf<'a> {
        /// Over this memory, of which nothing is filled.
        pub fn new(buffer: &'a mut [u8]) -> Self {
            Self { buffer, filled: 0 }
        }

        /// What is filled.
        pub fn filled(&self) -> &[u8] {
            &self.buffer[..self.filled]
        }

        pub(super) fn take_from(&mut self, bytes: &[u8]) -> usize {
            let length = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + length].copy_from_slice(&bytes[..length]);
            self.filled += length;
            length
        }
    }

    /// Reads.
    pub trait AsyncRead {
        /// Fills `into`; nothing filled is the end.
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;
    }

    /// Writes.
    pub trait AsyncWrite {
        /// Takes some of `bytes`.
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
        /// Pushes out what is held.
        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
        /// Ends this direction.
        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    }
}

/// In place of `tokio::net`.
pub mod net {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use super::io::{AsyncRead, AsyncWrite, ReadBuf};

    /// A stream in memory.
    #[derive(Debug, Default)]
    pub struct TcpStream {
        incoming: VecDeque<Vec<u8>>,
        paused: bool,
        /// Sizes of the portions in which writes are taken, in turn, each followed by a `Pending`; empty: all at once.
        portions: Vec<usize>,
        turn: usize,
        full: bool,
        /// What was written.
        pub written: Vec<u8>,
    }

    impl TcpStream {
        /// A stream that brings these pieces, one per read, and takes writes in these portions (none of them 0).
        pub fn new(incoming: impl IntoIterator<Item = Vec<u8>>, portions: Vec<usize>) -> Self {
            let incoming = incoming.into_iter().filter(|piece| !piece.is_empty()).collect();
            Self { incoming, portions, ..Self::default() }
        }

        /// What has not been read.
        pub fn unread(&self) -> Vec<u8> {
            self.incoming.iter().flatten().copied().collect()
        }
    }

    impl AsyncRead for TcpStream {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.paused = !self.paused;
            if self.paused && !self.incoming.is_empty() {
                return Poll::Pending;
            }
            if let Some(piece) = self.incoming.front_mut() {
                let taken = into.take_from(piece);
                piece.drain(..taken);
                if piece.is_empty() {
                    self.incoming.pop_front();
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for TcpStream {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
            let mut length = bytes.len();
            if !self.portions.is_empty() {
                self.full = !self.full;
                if self.full {
                    return Poll::Pending;
                }
                length = length.min(self.portions[self.turn % self.portions.len()]);
                self.turn += 1;
            }
            self.written.extend_from_slice(&bytes[..length]);
            Poll::Ready(Ok(length))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            ready!(self.poll_flush(cx))?;
            Poll::Ready(Ok(()))
        }
    }
}

macro_rules! tls {
    ($($module:ident)*) => {$(
        /// In place of the module of this name in `tokio_rustls`; never made here.
        pub mod $module {
            use std::pin::Pin;
            use std::task::{Context, Poll};

            use super::io::{AsyncRead, AsyncWrite, ReadBuf};

            /// What is known of the peer of an encrypted stream: nothing.
            #[derive(Debug)]
            pub struct Session;

            impl Session {
                /// Its certificates.
                pub fn peer_certificates(&self) -> Option<&'static [crate::pki_types::CertificateDer<'static>]> {
                    None
                }
            }

            /// An encrypted stream.
            #[derive(Debug)]
            pub struct TlsStream<S>(S);

            impl<S> TlsStream<S> {
                /// The stream below.
                pub fn get_ref(&self) -> (&S, Session) {
                    (&self.0, Session)
                }
            }

            impl<S: AsyncRead + Unpin> AsyncRead for TlsStream<S> {
                fn poll_read(
                    mut self: Pin<&mut Self>,
                    cx: &mut Context<'_>,
                    into: &mut ReadBuf<'_>,
                ) -> Poll<std::io::Result<()>> {
                    Pin::new(&mut self.0).poll_read(cx, into)
                }
            }

            impl<S: AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
                fn poll_write(
                    mut self: Pin<&mut Self>,
                    cx: &mut Context<'_>,
                    bytes: &[u8],
                ) -> Poll<std::io::Result<usize>> {
                    Pin::new(&mut self.0).poll_write(cx, bytes)
                }
                fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
                    Pin::new(&mut self.0).poll_flush(cx)
                }
                fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
                    Pin::new(&mut self.0).poll_shutdown(cx)
                }
            }
        }
    )*};
}

tls!(client server);
