//! Two connections joined: bytes go both ways, each direction ends by itself.
//!
//! Nothing is read from one side before what was read has been taken by the other, so a slow reader slows its writer and
//! no more than one piece waits in either direction.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use super::buffers::with_scratch;
use super::io::{Io, Unsent};

/// Looks at what passes in one direction, and may end it.
pub trait Inspect {
    /// Whether nothing but the end of the stream tells that it is whole. One that is cut off below TLS, without a
    /// close_notify, is then broken off (RFC 8446 section 6.1); otherwise it ends, and what is inside knows better.
    const ENDS_BY_CLOSING: bool;

    /// These bytes pass.
    fn pass(&mut self, bytes: &[u8]);

    /// Whether this direction is ended now, whatever else there is to read.
    fn is_over(&self) -> bool;

    /// Whether what is read is thrown away.
    fn is_mute(&self) -> bool;
}

/// Who broke off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party {
    /// The client.
    Down,
    /// The endpoint.
    Up,
}

/// One of the two connections.
pub struct Side<'a> {
    /// The connection.
    pub io: &'a RefCell<Io>,
    /// What it has not taken yet.
    pub out: Unsent,
    party: Party,
    eof: bool,
    shut: bool,
}

impl<'a> Side<'a> {
    fn new(io: &'a RefCell<Io>, party: Party) -> Self {
        Self { io, out: Unsent::default(), party, eof: false, shut: false }
    }

    /// Whether it has got everything, and was told so.
    pub fn has_all(&self) -> bool {
        self.shut
    }
}

/// Two joined connections.
pub struct Relay<'a, I> {
    /// The client's.
    pub down: Side<'a>,
    /// The endpoint's.
    pub up: Side<'a>,
    /// Looks at what goes to the client.
    pub to_client: I,
    /// Looks at what goes to the endpoint.
    pub to_backend: I,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

impl<'a, I: Inspect> Relay<'a, I> {
    /// Joins two connections.
    pub fn new(down: &'a RefCell<Io>, up: &'a RefCell<Io>, to_client: I, to_backend: I) -> Self {
        Self {
            down: Side::new(down, Party::Down),
            up: Side::new(up, Party::Up),
            to_client,
            to_backend,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Sends what was read before they were joined. To be called once, first.
    ///
    /// # Errors
    /// Who broke off.
    pub fn feed(&mut self, cx: &mut Context<'_>, to_client: &[u8], to_backend: &[u8]) -> Result<(), Party> {
        self.to_client.pass(to_client);
        self.to_backend.pass(to_backend);
        self.bytes_out += to_client.len() as u64;
        self.bytes_in += to_backend.len() as u64;
        for (side, bytes) in [(&mut self.down, to_client), (&mut self.up, to_backend)] {
            if let Poll::Ready(Err(_)) = side.out.write(&mut side.io.borrow_mut(), cx, bytes) {
                return Err(side.party);
            }
        }
        Ok(())
    }

    /// Moves what can be moved. Ready when both directions have ended.
    ///
    /// # Errors
    /// Who broke off.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Party>> {
        let out = poll_way(&mut self.up, &mut self.down, &mut self.to_client, &mut self.bytes_out, cx)?;
        let inward = poll_way(&mut self.down, &mut self.up, &mut self.to_backend, &mut self.bytes_in, cx)?;
        if out.is_ready() && inward.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Moves what can be moved from one side to the other. Ready when `from` has ended and `to` knows.
fn poll_way<I: Inspect>(
    from: &mut Side<'_>,
    to: &mut Side<'_>,
    inspect: &mut I,
    moved: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Party>> {
    loop {
        ready!(to.out.flush(&mut to.io.borrow_mut(), cx)).map_err(|_| to.party)?;
        if from.eof || inspect.is_over() {
            if !to.shut {
                ready!(to.io.borrow_mut().poll_shutdown(cx)).map_err(|_| to.party)?;
                to.shut = true;
            }
            return Poll::Ready(Ok(()));
        }
        let written = with_scratch(|scratch| {
            let read = ready!(poll_read::<I>(&mut from.io.borrow_mut(), cx, scratch)).map_err(|_| from.party)?;
            if read == 0 {
                from.eof = true;
                return Poll::Ready(Ok(()));
            }
            if inspect.is_mute() {
                return Poll::Ready(Ok(()));
            }
            *moved += read as u64;
            inspect.pass(&scratch[..read]);
            to.out.write(&mut to.io.borrow_mut(), cx, &scratch[..read]).map_err(|_| to.party)
        });
        ready!(written)?;
    }
}

fn poll_read<I: Inspect>(io: &mut Io, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<std::io::Result<usize>> {
    if I::ENDS_BY_CLOSING { io.poll_read_to_end(cx, into) } else { io.poll_read(cx, into) }
}
