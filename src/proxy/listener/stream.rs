//! TCP connections that are passed on: to an endpoint, and bytes both ways until both sides have ended, nothing has moved
//! for too long, or it is this connection's turn to leave the old color.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};

use super::passage::{Passage, Target, Who};
use crate::model::UpstreamProtocol;
use crate::proxy::backend::End;
use crate::proxy::backend::connect::{Connected, connect};
use crate::proxy::fault::Fault;
use crate::proxy::request::Context;
use crate::proxy::snapshot::CompiledStream;
use crate::proxy::wire::io::Io;
use crate::proxy::wire::relay::{Inspect, Party, Relay};
use crate::telemetry::clock;

/// A client's connection that is to be passed on.
pub(super) struct Incoming {
    /// The connection; what was encrypted for us is not any more.
    pub io: Io,
    /// What was read of it already.
    pub early: Vec<u8>,
    /// Where it goes.
    pub stream: Arc<CompiledStream>,
    /// Who is there.
    pub who: Who,
}

/// Serves a connection to its end.
pub(super) async fn serve(context: &Rc<Context>, incoming: Incoming) {
    let Incoming { io: down, early, stream, who } = incoming;
    // Best effort: a client that has vanished would else keep its place until the connection has been idle for too long.
    let _ = SockRef::from(down.tcp()).set_tcp_keepalive(&ALIVE);
    let server_name = who.server_name.clone();
    let mut passage = Passage::new(context, stream, who);
    let up = match reach(context, &mut passage, server_name.as_deref()).await {
        Ok(up) => up,
        Err(fault) => {
            // Whoever connects and is sent away learns it at once.
            passage.fault = Some(fault);
            return;
        }
    };
    join(context, &mut passage, down, up, early).await;
}

/// Connects to an endpoint; to another one when that fails.
async fn reach(context: &Rc<Context>, passage: &mut Passage, server_name: Option<&str>) -> Result<Io, Fault> {
    passage.set_out()?;
    loop {
        let endpoint = passage.pick()?;
        let within = context.options.timeouts.connect;
        let fault = {
            let Some(Target { backend, color, .. }) = passage.target() else { return Err(Fault::NoEndpoints) };
            let Some(_place) = backend.load.try_wait(&backend.desired.limits) else { return Err(Fault::Overloaded) };
            let from = context.now();
            // A backend that wants TLS gets it or nothing, also when its settings cannot be used.
            let protocol = match &backend.desired.protocol {
                wanted @ UpstreamProtocol::Tls(_) if passage.terminates() => wanted,
                _ => &UpstreamProtocol::Http1,
            };
            let (host, elsewhere) = (server_name.unwrap_or_default(), || passage.may_go_elsewhere());
            let connected = connect(&endpoint, protocol, passage.tls(), host, within, elsewhere).await;
            context.counters.upstream_opened.add(1);
            context.stats.borrow_mut().queued(color.series.slot(), from, context.now());
            match connected {
                Ok(Connected { io, .. }) => {
                    passage.joined();
                    return Ok(io);
                }
                Err(fault) => fault,
            }
        };
        if !passage.failed(fault) {
            return Err(fault);
        }
    }
}

/// Passes bytes on until the end.
async fn join(context: &Rc<Context>, passage: &mut Passage, down: Io, up: Io, early: Vec<u8>) {
    let (down, up) = (RefCell::new(down), RefCell::new(up));
    let guard = passage.enter();
    let jitter = context.rng.borrow_mut().f64();
    let mut turn: Option<Pin<Box<dyn Future<Output = End>>>> =
        guard.as_ref().map(|guard| Box::pin(guard.ended(clock::now, jitter)) as _);
    let mut relay = Relay::new(&down, &up, Way::default(), Way::default());
    let timer = context.timers.timer();
    let idle = context.options.timeouts.tunnel_idle.as_nanos() as u64;
    let mut moved = u64::MAX;
    let mut end = End::Natural;
    let mut first = Some(early);
    // Should this be cut off from outside, it is not taken for whole.
    passage.fault = Some(Fault::Drained);
    let result = poll_fn(|cx| {
        if let Some(early) = first.take() {
            relay.feed(cx, b"", &early)?;
        }
        if let Some(future) = &mut turn
            && let Poll::Ready(how) = future.as_mut().poll(cx)
        {
            turn = None;
            end = how;
            if how == End::Forced {
                return Poll::Ready(Ok(()));
            }
            // What was read is still sent, then both are told that there is no more.
            relay.to_client.over = true;
            relay.to_backend.over = true;
            let now = context.now();
            timer.set(now + FAREWELL.as_nanos() as u64, now);
        }
        let polled = relay.poll(cx)?;
        let sum = relay.bytes_in + relay.bytes_out;
        (passage.bytes_in, passage.bytes_out) = (relay.bytes_in, relay.bytes_out);
        if sum != moved && end == End::Natural {
            moved = sum;
            let now = context.now();
            timer.set(now.saturating_add(idle), now);
        }
        if polled.is_ready() || timer.poll(cx, || context.now()).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await;
    (passage.bytes_in, passage.bytes_out) = (relay.bytes_in, relay.bytes_out);
    match result {
        _ if end != End::Natural => {}
        Ok(()) => passage.fault = None,
        // Who waits for the rest must not take what there was for the whole: a reset is passed on, and so is the end of a
        // connection before that of its TLS, which anyone on the way can bring about.
        Err(Party::Down) => {
            // Many clients that have all they wanted close without a close_notify, or with ours unread, which is a reset.
            passage.fault = (!relay.down.has_all()).then_some(Fault::ClientGone);
            break_off(up.into_inner()).await;
        }
        Err(Party::Up) => {
            passage.fault = Some(Fault::UpstreamReset);
            break_off(down.into_inner()).await;
        }
    }
    if let Some(guard) = guard {
        guard.finish(end);
    }
}

/// When a client is asked whether it is still there: four unanswered questions later it is not.
const ALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);

/// How long what was read may take to be sent when it is a connection's turn.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long what was sent may take to leave before a reset.
const LAST_BYTES: Duration = Duration::from_secs(10);

/// Between two looks whether it has left.
const LOOK: Duration = Duration::from_millis(10);

/// Closes a connection so that its peer gets what was sent, and knows that it is not the whole.
async fn break_off(io: Io) {
    // TLS without a close_notify tells by itself. A reset would throw away what waits to be sent.
    if io.is_tls() {
        return;
    }
    let socket = SockRef::from(io.tcp());
    // All of these are best effort: otherwise it ends like any other connection.
    if socket.set_tcp_notsent_lowat(1).is_ok() {
        let mut looks = LAST_BYTES.as_millis() / LOOK.as_millis();
        while looks > 0 && !has_room(&io) {
            looks -= 1;
            tokio::time::sleep(LOOK).await;
        }
    }
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Whether the system takes more now. Asked of itself: the runtime remembers what was so before.
fn has_room(io: &Io) -> bool {
    let mut asked = [PollFd::new(io.tcp(), PollFlags::OUT)];
    // Broken: there is nothing to wait for.
    poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// One direction; nothing is looked at.
#[derive(Default)]
struct Way {
    over: bool,
}

impl Inspect for Way {
    const ENDS_BY_CLOSING: bool = true;

    fn pass(&mut self, _: &[u8]) {}

    fn is_over(&self) -> bool {
        self.over
    }

    fn is_mute(&self) -> bool {
        self.over
    }
}
