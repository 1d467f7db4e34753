//! From a body to a connection: head and first body bytes leave in one write, everything that is ready leaves together.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};

use super::buffers::with_scratch;
use super::chunked::{SIZE_LINE, put_size_line};
use super::head::Headers;
use super::io::{Io, Unsent};
use crate::proxy::fault::Fault;

/// Where body bytes come from.
pub trait BodySource {
    /// Puts body bytes into `buffer` (not empty) and says how many; 0 is the end.
    ///
    /// # Errors
    /// Why the body cannot be completed.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>>;

    /// The trailers, once, after the end.
    fn trailers(&mut self) -> Option<Headers>;
}

/// A number in decimal, without allocation.
#[derive(Debug)]
pub struct Decimal {
    digits: [u8; 20],
    at: usize,
}

impl Decimal {
    /// This number.
    #[inline]
    pub fn of(number: u64) -> Self {
        let mut text = Self { digits: [0; 20], at: 20 };
        let mut rest = number;
        loop {
            text.at -= 1;
            text.digits[text.at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return text;
            }
        }
    }

    /// Its digits.
    pub fn bytes(&self) -> &[u8] {
        &self.digits[self.at..]
    }
}

/// A cursor over borrowed memory that a head is written to. What does not fit sets `overflow`.
#[derive(Debug)]
pub struct Out<'a> {
    buffer: &'a mut [u8],
    at: usize,
    overflow: bool,
}

impl<'a> Out<'a> {
    /// Writes from the start of this memory.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, at: 0, overflow: false }
    }

    /// Adds bytes.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.at..self.at + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    /// Adds a number in decimal.
    pub fn put_decimal(&mut self, number: u64) {
        self.put(Decimal::of(number).bytes());
    }

    /// Bytes written, or nothing if they did not fit.
    pub fn written(&self) -> Option<usize> {
        (!self.overflow).then_some(self.at)
    }
}

/// How a body is framed on the way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// No body is sent, whatever the source has.
    None,
    /// This many bytes are left to send.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is; the connection's end is the body's.
    Raw,
}

/// Why a message could not be completed.
#[derive(Debug)]
pub enum PumpError {
    /// The source failed.
    Body(Fault),
    /// The connection failed.
    Io(io::Error),
}

/// Sends one message.
#[derive(Debug)]
pub struct Pump {
    unsent: Unsent,
    coding: Coding,
    head_sent: bool,
    ended: bool,
    /// Body bytes taken from the source so far.
    pub taken: u64,
}

/// Room that is kept free for one more piece of body.
const PIECE: usize = 16 * 1024;

impl Pump {
    /// For a message whose body is framed like this.
    pub fn new(coding: Coding) -> Self {
        Self { unsent: Unsent::default(), coding, head_sent: false, ended: false, taken: 0 }
    }

    /// Whether the whole message has left.
    pub fn is_done(&self) -> bool {
        self.ended && self.unsent.is_empty()
    }

    /// Whether the head has been given to the connection.
    pub fn head_sent(&self) -> bool {
        self.head_sent
    }

    /// Bytes that wait for the connection.
    pub fn waiting(&self) -> usize {
        self.unsent.len()
    }

    /// Whether the connection does not take more for now.
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Ends a body of unknown length before its source does. False: its length was announced, so it cannot end here.
    ///
    /// # Errors
    /// What the system says.
    pub fn end_early(&mut self, io: &RefCell<Io>, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.ended || matches!(self.coding, Coding::Length(_)) {
            return Ok(false);
        }
        self.ended = true;
        if self.coding == Coding::Chunked
            && let Poll::Ready(Err(error)) = self.unsent.write(&mut io.borrow_mut(), cx, b"0\r\n\r\n")
        {
            return Err(error);
        }
        Ok(true)
    }

    /// Moves as much as can be moved now. `Ready(Ok)` when the whole message has left. The connection is borrowed only
    /// for writing, so the source may read from it.
    ///
    /// # Errors
    /// See [`PumpError`].
    pub fn poll<B: BodySource>(
        &mut self,
        io: &RefCell<Io>,
        cx: &mut Context<'_>,
        write_head: impl FnOnce(&mut Out<'_>),
        body: &mut B,
    ) -> Poll<Result<(), PumpError>> {
        let mut write_head = Some(write_head);
        loop {
            match self.unsent.flush(&mut io.borrow_mut(), cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Io(error))),
                Poll::Pending => return Poll::Pending,
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let step = with_scratch(|buffer| {
                let head = match write_head.take() {
                    Some(write_head) if !self.head_sent => {
                        let mut out = Out::new(buffer);
                        write_head(&mut out);
                        out.written().ok_or(PumpError::Body(Fault::HeaderTooLarge))?
                    }
                    _ => 0,
                };
                let (range, source_pending) = self.fill(cx, buffer, head, body).map_err(PumpError::Body)?;
                self.head_sent = true;
                let blocked = if range.is_empty() {
                    false
                } else {
                    match self.unsent.write(&mut io.borrow_mut(), cx, &buffer[range]) {
                        Poll::Ready(Ok(())) => false,
                        Poll::Ready(Err(error)) => return Err(PumpError::Io(error)),
                        Poll::Pending => true,
                    }
                };
                Ok((blocked, source_pending))
            });
            match step {
                Err(error) => return Poll::Ready(Err(error)),
                Ok((true, _)) => return Poll::Pending,
                Ok((false, true)) => return Poll::Pending,
                Ok((false, false)) => {}
            }
        }
    }

    /// Puts body bytes behind the `head` bytes already in `buffer`. Returns what is to be written, and whether the source
    /// has nothing more for now.
    fn fill<B: BodySource>(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        head: usize,
        body: &mut B,
    ) -> Result<(std::ops::Range<usize>, bool), Fault> {
        let mut at = head;
        // Pieces that are ready together become one chunk, which begins here and gets its size line when it is complete:
        // what stands before it then moves once, however many pieces there were.
        let first = head + SIZE_LINE;
        let is_chunked = self.coding == Coding::Chunked;
        let mut chunk = 0;
        let mut pending = false;
        loop {
            match self.coding {
                Coding::None | Coding::Length(0) => {
                    self.ended = true;
                    break;
                }
                _ if buffer.len() - at < PIECE + 2 * SIZE_LINE => break,
                _ => {}
            }
            let data = if is_chunked { first + chunk } else { at };
            let room = match self.coding {
                Coding::Length(left) => data + usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len() - data),
                // The chunk's closing line, the last chunk and short trailers must still fit.
                _ => buffer.len() - SIZE_LINE,
            };
            match body.poll_read(cx, &mut buffer[data..room]) {
                Poll::Pending => {
                    pending = true;
                    break;
                }
                Poll::Ready(Err(fault)) => return Err(fault),
                Poll::Ready(Ok(0)) => {
                    // The source ended early: what was announced cannot be kept.
                    if let Coding::Length(_) = self.coding {
                        return Err(Fault::BodyBroken);
                    }
                    self.ended = true;
                    break;
                }
                Poll::Ready(Ok(length)) => {
                    self.taken += length as u64;
                    at = data + length;
                    chunk += length;
                    if let Coding::Length(left) = &mut self.coding {
                        *left -= length as u64;
                    }
                }
            }
        }
        if !is_chunked {
            return Ok((0..at, pending));
        }
        let mut start = 0;
        if chunk > 0 {
            // The size line is shorter than its place: the head moves up to it.
            let line = put_size_line(buffer, first, chunk);
            start = line - head;
            buffer.copy_within(..head, start);
            at = first + chunk;
            buffer[at..at + 2].copy_from_slice(b"\r\n");
            at += 2;
        }
        if self.ended {
            at += put_last_chunk(&mut buffer[at..], body.trailers());
        }
        Ok((start..at, pending))
    }
}

/// Writes the last chunk with trailers as far as they fit; returns its length.
fn put_last_chunk(buffer: &mut [u8], trailers: Option<Headers>) -> usize {
    let mut out = Out::new(buffer);
    out.put(b"0\r\n");
    if let Some(trailers) = trailers {
        trailers.write_to(&mut out);
    }
    out.put(b"\r\n");
    match out.written() {
        Some(written) => written,
        None => {
            buffer[..5].copy_from_slice(b"0\r\n\r\n");
            5
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    struct Pieces(VecDeque<&'static [u8]>);
    impl BodySource for Pieces {
        fn poll_read(&mut self, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
            match self.0.pop_front() {
                None => Poll::Ready(Ok(0)),
                Some(b"") => Poll::Pending,
                Some(piece) => {
                    buffer[..piece.len()].copy_from_slice(piece);
                    Poll::Ready(Ok(piece.len()))
                }
            }
        }
        fn trailers(&mut self) -> Option<Headers> {
            let mut headers = Headers::default();
            headers.append(b"x-t", b"1");
            Some(headers)
        }
    }

    fn fill(coding: Coding, head: &[u8], pieces: &[&'static [u8]]) -> Result<(Vec<u8>, bool, bool), Fault> {
        let mut buffer = vec![0; 64 * 1024];
        buffer[..head.len()].copy_from_slice(head);
        let mut pump = Pump::new(coding);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut source = Pieces(pieces.iter().copied().collect());
        let (range, pending) = pump.fill(&mut cx, &mut buffer, head.len(), &mut source)?;
        Ok((buffer[range].to_vec(), pending, pump.ended))
    }

    #[test]
    fn head_body_and_last_chunk_are_one_piece() {
        let (bytes, pending, ended) = fill(Coding::Chunked, b"HEAD", &[b"hello", b"0123456789abcdef"]).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "HEAD15\r\nhello0123456789abcdef\r\n0\r\nx-t: 1\r\n\r\n");
        assert!(!pending && ended);
    }

    #[test]
    fn what_is_ready_does_not_wait_for_the_rest() {
        let (bytes, pending, ended) = fill(Coding::Chunked, b"HEAD", &[b"hello", b"", b"x"]).unwrap();
        assert_eq!(bytes, b"HEAD5\r\nhello\r\n");
        assert!(pending && !ended);
    }

    #[test]
    fn a_length_is_kept_or_the_message_fails() {
        let (bytes, pending, ended) = fill(Coding::Length(5), b"HEAD", &[b"he", b"llo"]).unwrap();
        assert_eq!(bytes, b"HEADhello");
        assert!(!pending && ended);
        assert_eq!(fill(Coding::Length(6), b"HEAD", &[b"hello"]), Err(Fault::BodyBroken));
    }
}
