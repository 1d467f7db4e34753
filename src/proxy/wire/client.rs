//! The backend's side of HTTP/1: one exchange on an upstream connection.
//!
//! Reading and writing go on at the same time: a response may begin, and end, before the request has been sent. The
//! connection is given back only after a response whose end was certain.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use super::buffers::with_scratch;
use super::chunked::{ChunkLimits, Decoder};
use super::head::{Headers, ResponseHead};
use super::io::Io;
use super::parse::{self, Framing, HeadLimits, ResponseMeta};
use super::pump::{BodySource, Coding, Out, Pump, PumpError};
use super::server::decode_into;
use crate::proxy::fault::Fault;

/// Bytes asked for while a head is expected: a small response fits, of a large one little has to be kept.
const HEAD_READ: usize = 16 * 1024;

/// Interim responses (1xx) that one request may cause.
const MAX_INTERIM: u32 = 16;

/// One request and its response on an upstream connection.
#[derive(Debug)]
pub struct Exchange<B> {
    io: RefCell<Io>,
    pump: Pump,
    body: B,
    upload: Upload,
    input: Vec<u8>,
    at: usize,
    rest: Rest,
    keep_alive: bool,
    interim: u32,
    trailers: Option<Headers>,
    chunks: ChunkLimits,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Upload {
    Running,
    Done,
    /// The backend does not take it any more; it may still answer.
    Refused,
    /// The body failed.
    Failed(Fault),
}

#[derive(Debug)]
enum Rest {
    Head,
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Done,
}

/// What has arrived of the response.
#[derive(Debug)]
pub enum Answer {
    /// An interim response other than `100 Continue`; the final one follows.
    Interim,
    /// The final head.
    Final(ResponseMeta),
}

impl<B: BodySource> Exchange<B> {
    /// An exchange that has not begun.
    pub fn new(io: Io, body: B, coding: Coding, chunks: ChunkLimits) -> Self {
        Self {
            io: RefCell::new(io),
            pump: Pump::new(coding),
            body,
            upload: Upload::Running,
            input: Vec::new(),
            at: 0,
            rest: Rest::Head,
            keep_alive: false,
            interim: 0,
            trailers: None,
            chunks,
        }
    }

    /// Sends the request and waits for a head. `response` must be clear. `upgrade`: a 101 is wanted.
    ///
    /// # Errors
    /// Why there is no response; a fault blaming the client means that its body failed.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        write_head: impl FnOnce(&mut Out<'_>),
        limits: &HeadLimits,
        to_head: bool,
        upgrade: bool,
        response: &mut ResponseHead,
    ) -> Poll<Result<Answer, Fault>> {
        self.poll_upload(cx, write_head)?;
        loop {
            if self.input.len() > self.at {
                response.clear();
                if let Some(meta) = parse::response(&self.input[self.at..], limits, to_head, response)? {
                    self.at += meta.length;
                    if let Some(answer) = self.begin(meta, response.status, upgrade)? {
                        return Poll::Ready(Ok(answer));
                    }
                    continue;
                }
            }
            // The usual case reads the whole head at once and parses it where it was read.
            let answer = with_scratch(|scratch| {
                let read = match self.io.get_mut().poll_read(cx, &mut scratch[..HEAD_READ]) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(self.closed_early())),
                    Poll::Ready(Ok(read)) => read,
                };
                if self.input.len() > self.at {
                    self.input.extend_from_slice(&scratch[..read]);
                    return Poll::Ready(Ok(None));
                }
                self.input.clear();
                self.at = 0;
                response.clear();
                let bytes = &scratch[..read];
                let Some(meta) = parse::response(bytes, limits, to_head, response)? else {
                    self.input.extend_from_slice(bytes);
                    return Poll::Ready(Ok(None));
                };
                self.input.extend_from_slice(&bytes[meta.length..]);
                Poll::Ready(self.begin(meta, response.status, upgrade))
            });
            if let Some(answer) = ready!(answer)? {
                return Poll::Ready(Ok(answer));
            }
        }
    }

    fn begin(&mut self, meta: ResponseMeta, status: u16, upgrade: bool) -> Result<Option<Answer>, Fault> {
        if status == 101 {
            if !upgrade {
                return Err(Fault::UpstreamProtocol);
            }
            self.rest = Rest::Done;
            self.keep_alive = false;
            return Ok(Some(Answer::Final(meta)));
        }
        if status < 200 {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Fault::UpstreamProtocol);
            }
            // A 100 answers an Expect that ended here.
            return Ok((status != 100).then_some(Answer::Interim));
        }
        self.keep_alive = meta.keep_alive;
        self.rest = match meta.framing {
            Framing::None => Rest::Done,
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunked(Decoder::new(self.chunks)),
            Framing::UntilClose => Rest::UntilClose,
        };
        Ok(Some(Answer::Final(meta)))
    }

    fn closed_early(&self) -> Fault {
        match self.upload {
            Upload::Failed(fault) => fault,
            // Not one byte was taken: nobody can have acted on the request.
            _ if !self.pump.head_sent() => Fault::UpstreamConnect,
            _ => Fault::UpstreamReset,
        }
    }

    /// Sends what can be sent. Only a failure of the body is an error: a backend that stops reading may still answer.
    fn poll_upload(&mut self, cx: &mut Context<'_>, write_head: impl FnOnce(&mut Out<'_>)) -> Result<(), Fault> {
        if self.upload != Upload::Running {
            return Ok(());
        }
        match self.pump.poll(&self.io, cx, write_head, &mut self.body) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => self.upload = Upload::Done,
            Poll::Ready(Err(PumpError::Io(_))) => self.upload = Upload::Refused,
            Poll::Ready(Err(PumpError::Body(fault))) => {
                self.upload = Upload::Failed(fault);
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Body bytes of the response; 0 is the end.
    ///
    /// # Errors
    /// [`Fault::BodyBroken`] when the response ends too early or is malformed, or the client's fault if its body failed.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        self.poll_upload(cx, |_| {})?;
        match &mut self.rest {
            Rest::Head | Rest::Done => Poll::Ready(Ok(0)),
            Rest::Length(left) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let buffer = &mut buffer[..most];
                let waiting = &self.input[self.at..];
                let read = if waiting.is_empty() {
                    match ready!(self.io.get_mut().poll_read(cx, buffer)) {
                        Ok(0) | Err(_) => return Poll::Ready(Err(Fault::BodyBroken)),
                        Ok(read) => read,
                    }
                } else {
                    let take = waiting.len().min(most);
                    buffer[..take].copy_from_slice(&waiting[..take]);
                    self.at += take;
                    take
                };
                *left -= read as u64;
                if *left == 0 {
                    self.rest = Rest::Done;
                }
                Poll::Ready(Ok(read))
            }
            Rest::Chunked(decoder) => loop {
                if self.at == self.input.len() {
                    self.input.clear();
                    self.at = 0;
                    let read = with_scratch(|scratch| {
                        let most = scratch.len().min(buffer.len());
                        let read = self.io.get_mut().poll_read(cx, &mut scratch[..most]);
                        if let Poll::Ready(Ok(read)) = read {
                            self.input.extend_from_slice(&scratch[..read]);
                        }
                        read
                    });
                    match ready!(read) {
                        Ok(0) | Err(_) => return Poll::Ready(Err(Fault::BodyBroken)),
                        Ok(_) => {}
                    }
                }
                let (used, written) =
                    decode_into(decoder, &self.input[self.at..], buffer).map_err(|()| Fault::BodyBroken)?;
                self.at += used;
                if decoder.is_done() {
                    self.trailers = decoder.trailers().map_err(|_| Fault::BodyBroken)?;
                    self.rest = Rest::Done;
                    return Poll::Ready(Ok(written));
                }
                if written > 0 {
                    return Poll::Ready(Ok(written));
                }
            },
            Rest::UntilClose => {
                let waiting = &self.input[self.at..];
                if !waiting.is_empty() {
                    let take = waiting.len().min(buffer.len());
                    buffer[..take].copy_from_slice(&waiting[..take]);
                    self.at += take;
                    return Poll::Ready(Ok(take));
                }
                match ready!(self.io.get_mut().poll_read_to_end(cx, buffer)) {
                    Ok(0) => {
                        self.rest = Rest::Done;
                        Poll::Ready(Ok(0))
                    }
                    Ok(read) => Poll::Ready(Ok(read)),
                    Err(_) => Poll::Ready(Err(Fault::BodyBroken)),
                }
            }
        }
    }

    /// Trailers of the response, once, after its end.
    pub fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }

    /// Whether any byte of the request has been given to the connection.
    pub fn head_sent(&self) -> bool {
        self.pump.head_sent()
    }

    /// Body bytes of the request sent so far.
    pub fn uploaded(&self) -> u64 {
        self.pump.taken
    }

    /// The body of the request, as far as it is not sent.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// Whether the response is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.rest, Rest::Done)
    }

    /// Takes the exchange apart: the request body, and the connection if another request may be sent on it.
    #[expect(clippy::boxed_local, reason = "unboxed, the whole exchange would be copied to take out two of its parts")]
    pub fn finish(self: Box<Self>) -> (B, Option<Io>) {
        let clean = self.keep_alive && self.is_done() && self.upload == Upload::Done && self.at == self.input.len();
        // Only what is given back leaves the box.
        let Self { io, body, .. } = *self;
        (body, clean.then(|| io.into_inner()))
    }

    /// After a 101: the stream and what was already read from it.
    pub fn into_tunnel(self) -> (Io, Vec<u8>) {
        (self.io.into_inner(), self.input[self.at..].to_vec())
    }
}
