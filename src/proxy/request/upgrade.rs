//! Connections that stop being HTTP: bytes go both ways until one side ends, the tunnel is idle for too long, or it is
//! this stream's turn to leave the old color.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use super::attempt::Attempt;
use super::context::Context;
use super::exchange::Exchange;
use crate::proxy::backend::End;
use crate::proxy::fault::Fault;
use crate::proxy::wire::io::Io;
use crate::proxy::wire::relay::{Inspect, Party, Relay};
use crate::proxy::wire::server::Connection;
use crate::telemetry::clock;

/// A backend's connection after its 101.
pub struct Upgraded {
    pub(super) io: Io,
    pub(super) early: Vec<u8>,
    pub(super) attempt: Attempt,
}

/// How long a client has to answer a Close frame.
const FAREWELL: Duration = Duration::from_secs(2);

/// Joins the client's connection with the backend's.
pub async fn tunnel(context: &Rc<Context>, exchange: &mut Exchange, down: &Connection, up: Box<Upgraded>) {
    let input = down.take_input();
    let Upgraded { io, early, mut attempt } = *up;
    let up_io = RefCell::new(io);
    attempt.succeed();
    let is_websocket = exchange.upgrade.eq_ignore_ascii_case(b"websocket");
    let guard = exchange.target.as_ref().map(|target| target.color.streams.enter());
    let jitter = context.rng.borrow_mut().f64();
    let mut turn: Option<Pin<Box<dyn Future<Output = End>>>> =
        guard.as_ref().map(|guard| Box::pin(guard.ended(clock::now, jitter)) as _);
    let mut tunnel = Tunnel {
        relay: Relay::new(&down.io, &up_io, Frames::new(is_websocket), Frames::new(is_websocket)),
        leaving: false,
    };
    let idle = context.options.timeouts.tunnel_idle.as_nanos() as u64;
    let mut moved = u64::MAX;
    let mut end = End::Natural;
    let mut first = Some((early, input));
    let result = poll_fn(|cx| {
        if let Some((early, input)) = first.take() {
            tunnel.relay.feed(cx, &early, &input)?;
        }
        if let Some(future) = &mut turn
            && let Poll::Ready(how) = future.as_mut().poll(cx)
        {
            turn = None;
            end = how;
            tunnel.leaving = true;
            let now = context.now();
            exchange.timer.set(now + FAREWELL.as_nanos() as u64, now);
            if how == End::Forced {
                return Poll::Ready(Ok(()));
            }
        }
        let polled = tunnel.poll(cx)?;
        let sum = tunnel.relay.bytes_in + tunnel.relay.bytes_out;
        if sum != moved && !tunnel.leaving {
            moved = sum;
            let now = context.now();
            exchange.timer.set(now + idle, now);
        }
        if polled.is_ready() || exchange.timer.poll(cx, || context.now()).is_ready() {
            return Poll::Ready(Result::<(), Party>::Ok(()));
        }
        Poll::Pending
    })
    .await;
    exchange.bytes_in = tunnel.relay.bytes_in;
    exchange.bytes_out = tunnel.relay.bytes_out;
    exchange.complete = true;
    if result.is_err() && end == End::Natural {
        // One side vanished: the tunnel is over all the same.
        exchange.fault = None;
    }
    if end != End::Natural {
        exchange.fault = Some(Fault::Drained);
    }
    if let Some(guard) = guard {
        guard.finish(end);
    }
}

struct Tunnel<'a> {
    relay: Relay<'a, Frames>,
    leaving: bool,
}

/// Close, code 1012 "service restart", without a mask: from server to client (RFC 6455 sections 5.5.1 and 7.4).
const CLOSE_TO_CLIENT: &[u8] = &[0x88, 0x02, 0x03, 0xf4];
/// The same with a mask of zeros: from client to server.
const CLOSE_TO_BACKEND: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4];

impl Tunnel<'_> {
    /// Ready when both directions have ended.
    fn poll(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Party>> {
        if self.leaving {
            self.say_farewell(cx)?;
        }
        self.relay.poll(cx)
    }

    /// Ends a WebSocket between two frames, anything else by ending our directions.
    fn say_farewell(&mut self, cx: &mut Task<'_>) -> Result<(), Party> {
        let ways = [
            (&mut self.relay.to_client, &mut self.relay.down, CLOSE_TO_CLIENT, Party::Down),
            (&mut self.relay.to_backend, &mut self.relay.up, CLOSE_TO_BACKEND, Party::Up),
        ];
        for (frames, side, close, party) in ways {
            if frames.closed || !frames.at_boundary() {
                continue;
            }
            frames.closed = true;
            if frames.tracked
                && let Poll::Ready(Err(_)) = side.out.write(&mut side.io.borrow_mut(), cx, close)
            {
                return Err(party);
            }
        }
        Ok(())
    }
}

/// Follows WebSocket frames just closely enough to know where one ends (RFC 6455 section 5.2).
#[derive(Debug)]
struct Frames {
    tracked: bool,
    closed: bool,
    header: [u8; 14],
    have: usize,
    payload: u64,
}

impl Frames {
    fn new(tracked: bool) -> Self {
        Self { tracked, closed: false, header: [0; 14], have: 0, payload: 0 }
    }

    fn at_boundary(&self) -> bool {
        !self.tracked || (self.have == 0 && self.payload == 0)
    }

    fn header_length(&self) -> usize {
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + if self.header[1] & 0x80 == 0 { 0 } else { 4 }
    }
}

impl Inspect for Frames {
    /// A WebSocket ends with a Close frame, whatever becomes of the connection then.
    const ENDS_BY_CLOSING: bool = false;

    fn pass(&mut self, mut bytes: &[u8]) {
        if !self.tracked {
            return;
        }
        while !bytes.is_empty() {
            if self.payload > 0 {
                let take = self.payload.min(bytes.len() as u64);
                self.payload -= take;
                bytes = &bytes[take as usize..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have >= 2 && self.have == self.header_length() {
                let length = match self.header[1] & 0x7f {
                    126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
                    127 => u64::from_be_bytes(self.header[2..10].try_into().unwrap_or_default()),
                    short => u64::from(short),
                };
                self.have = 0;
                self.payload = length;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.closed && !self.tracked
    }

    /// After our own Close nothing more may be said in this direction.
    fn is_mute(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_boundaries_are_known_at_every_byte() {
        let mut stream = Vec::new();
        let mut boundaries = vec![0];
        for (masked, length) in [(false, 5usize), (true, 200), (false, 0), (true, 70_000), (true, 0)] {
            stream.push(0x81);
            let mask = if masked { 0x80 } else { 0 };
            match length {
                0..=125 => stream.push(mask | length as u8),
                126..=65_535 => {
                    stream.push(mask | 126);
                    stream.extend((length as u16).to_be_bytes());
                }
                _ => {
                    stream.push(mask | 127);
                    stream.extend((length as u64).to_be_bytes());
                }
            }
            if masked {
                stream.extend([1, 2, 3, 4]);
            }
            stream.extend(std::iter::repeat_n(0xaa, length));
            boundaries.push(stream.len());
        }
        let mut frames = Frames::new(true);
        for (at, byte) in stream.iter().enumerate() {
            assert_eq!(frames.at_boundary(), boundaries.contains(&at), "at {at}");
            frames.pass(&[*byte]);
        }
        assert!(frames.at_boundary());
    }
}
