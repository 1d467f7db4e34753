//! A connection as hyper wants it, for HTTP/2: reads replay what was read before, and writes of one ready batch leave
//! together.
//!
//! hyper flushes after every response that it finds ready. Here a flush only marks the stream dirty; a flusher that runs
//! once the tasks that are ready now have run writes everything in one go (measured: performance notes, HTTP/2).

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::frames::{Flood, Sentinel};
use super::io::Io;

/// Bytes collected before they are written without waiting for the end of the batch.
const BATCH: usize = 64 * 1024;

/// How long what is unsent may take when the connection is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes taken from a client that was told to go away, so that it can read why: closing earlier would reset the connection.
const LAST_SENT: usize = 4 * 1024 * 1024;

struct Shared {
    io: Io,
    input: Vec<u8>,
    at: usize,
    out: Vec<u8>,
    sent: usize,
    dirty: bool,
    /// The flusher is writing: nobody else does, for only one task can be woken when there is room again.
    draining: bool,
    closed: bool,
    failed: Option<io::ErrorKind>,
    flusher: Option<Waker>,
    /// Whoever waits for room or for the flush before a shutdown.
    writer: Option<Waker>,
    moved: u64,
    watch: Option<Watch>,
    /// The client was told to go away: hyper has nothing more to say.
    dismissed: bool,
}

/// What watches the frames of a server's connection.
struct Watch {
    sentinel: Sentinel,
    /// Nanoseconds.
    clock: fn() -> u64,
}

/// A stream for hyper.
pub struct HyperIo {
    shared: Rc<RefCell<Shared>>,
    flusher: Option<JoinHandle<()>>,
}

impl HyperIo {
    /// Over this connection, of which `input` has been read already. Starts the flusher: must be called on a worker.
    pub fn new(io: Io, input: Vec<u8>) -> Self {
        Self::over(io, input, None)
    }

    /// As [`HyperIo::new`], for a server's connection on which a sentinel watches; `clock` gives nanoseconds.
    pub fn watched(io: Io, input: Vec<u8>, sentinel: Sentinel, clock: fn() -> u64) -> Self {
        Self::over(io, input, Some(Watch { sentinel, clock }))
    }

    fn over(io: Io, input: Vec<u8>, watch: Option<Watch>) -> Self {
        let shared = Rc::new(RefCell::new(Shared {
            io,
            input,
            at: 0,
            out: Vec::new(),
            sent: 0,
            dirty: false,
            draining: false,
            closed: false,
            failed: None,
            flusher: None,
            writer: None,
            moved: 0,
            watch,
            dismissed: false,
        }));
        let flusher = tokio::task::spawn_local(flush_when_dirty(shared.clone()));
        Self { shared, flusher: Some(flusher) }
    }

    /// Ends when all is over: the stream has been dropped, and its last words have been said or their time is up.
    pub fn ended(&mut self) -> impl Future<Output = ()> + use<> {
        let flusher = self.flusher.take();
        async {
            if let Some(flusher) = flusher {
                // A panic there has been reported by the panic hook already.
                _ = flusher.await;
            }
        }
    }

    /// Tells of progress: a number that grows with every byte moved.
    pub fn progress(&self) -> Progress {
        Progress(Rc::downgrade(&self.shared))
    }
}

/// Watches whether a stream moves.
pub struct Progress(std::rc::Weak<RefCell<Shared>>);

impl Progress {
    /// Bytes moved in either direction so far; none when the stream is gone.
    pub fn moved(&self) -> Option<u64> {
        self.0.upgrade().map(|shared| shared.borrow().moved)
    }

    /// Why the connection was ended, if a sentinel found a reason.
    pub fn flood(&self) -> Option<Flood> {
        self.0.upgrade()?.borrow().watch.as_ref()?.sentinel.verdict()
    }
}

impl Drop for HyperIo {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        shared.closed = true;
        if let Some(flusher) = shared.flusher.take() {
            flusher.wake();
        }
    }
}

impl Shared {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let result = self.poll_drain_io(cx);
        if let Poll::Ready(result) = &result {
            if let Err(error) = result {
                self.failed = Some(error.kind());
            }
            self.dirty = false;
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        result
    }

    fn poll_drain_io(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            match ready!(self.io.poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.sent += written;
                    self.moved += written as u64;
                }
            }
        }
        // An idle connection owns no buffer; a busy one keeps a small one.
        if self.out.capacity() > 4 * 1024 {
            self.out = Vec::new();
        }
        self.out.clear();
        self.sent = 0;
        self.io.poll_flush(cx)
    }

    fn mark_dirty(&mut self) {
        if !self.dirty {
            self.dirty = true;
            if let Some(flusher) = self.flusher.take() {
                flusher.wake();
            }
        }
    }

    /// Shows the sentinel what came in. With an error nothing of it may be used: the last word has been written.
    fn admit(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        if watch.sentinel.receive(bytes, (watch.clock)()).is_none() {
            return Ok(());
        }
        if !self.dismissed {
            self.dismissed = true;
            if let Some(goaway) = watch.sentinel.goaway() {
                self.out.extend_from_slice(&goaway);
                self.mark_dirty();
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn wait_for_room(&mut self, cx: &Context<'_>) {
        self.writer = Some(cx.waker().clone());
        self.mark_dirty();
    }
}

async fn flush_when_dirty(shared: Rc<RefCell<Shared>>) {
    loop {
        let open = poll_fn(|cx| {
            let mut shared = shared.borrow_mut();
            if shared.dirty {
                return Poll::Ready(true);
            }
            if shared.closed {
                return Poll::Ready(false);
            }
            shared.flusher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        if !open {
            let flooded = shared.borrow().watch.as_ref().is_some_and(|watch| watch.sentinel.verdict().is_some());
            if flooded {
                // Whether it takes notice is its own affair.
                _ = tokio::time::timeout(LAST_WORDS, hear_out(&shared)).await;
            }
            return;
        }
        // Let the rest of the ready batch add its bytes.
        tokio::task::yield_now().await;
        let mut last_words = None;
        let drained = poll_fn(|cx| {
            let mut shared = shared.borrow_mut();
            shared.draining = true;
            let drained = shared.poll_drain(cx);
            shared.draining = drained.is_pending();
            if drained.is_pending() {
                if shared.closed {
                    // Nobody is left who would give up on a client that does not read.
                    let patience = last_words.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_WORDS)));
                    if patience.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                } else {
                    shared.flusher = Some(cx.waker().clone());
                }
            }
            drained
        })
        .await;
        if drained.is_err() {
            return;
        }
    }
}

/// Ends our direction and takes what the client has sent already.
async fn hear_out(shared: &RefCell<Shared>) -> io::Result<()> {
    // It may have been ended already.
    _ = poll_fn(|cx| shared.borrow_mut().io.poll_shutdown(cx)).await;
    let mut left = LAST_SENT;
    poll_fn(|cx| {
        let shared = shared.borrow();
        // Below TLS: nobody reads it.
        let tcp = shared.io.tcp();
        while left > 0 {
            ready!(tcp.poll_read_ready(cx))?;
            match super::buffers::with_scratch(|scratch| tcp.try_read(scratch)) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

impl hyper::rt::Read for HyperIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &mut *self.shared.borrow_mut();
        if shared.at < shared.input.len() {
            let input = std::mem::take(&mut shared.input);
            let take = (input.len() - shared.at).min(buffer.remaining());
            let taken = &input[shared.at..shared.at + take];
            shared.admit(taken)?;
            buffer.put_slice(taken);
            shared.at += take;
            if shared.at == input.len() {
                shared.at = 0;
            } else {
                shared.input = input;
            }
            return Poll::Ready(Ok(()));
        }
        super::buffers::with_scratch(|scratch| {
            let most = scratch.len().min(buffer.remaining());
            let read = ready!(shared.io.poll_read(cx, &mut scratch[..most]))?;
            shared.moved += read as u64;
            shared.admit(&scratch[..read])?;
            buffer.put_slice(&scratch[..read]);
            Poll::Ready(Ok(()))
        })
    }
}

impl hyper::rt::Write for HyperIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = &mut *self.shared.borrow_mut();
        if let Some(kind) = shared.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if shared.dismissed {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if shared.out.len() - shared.sent >= BATCH && (shared.draining || shared.poll_drain(cx)?.is_pending()) {
            shared.wait_for_room(cx);
            return Poll::Pending;
        }
        if shared.sent >= BATCH {
            let sent = std::mem::take(&mut shared.sent);
            shared.out.drain(..sent);
        }
        let mut taken = 0;
        for piece in pieces {
            shared.out.extend_from_slice(piece);
            if let Some(watch) = &mut shared.watch {
                watch.sentinel.send(piece);
            }
            taken += piece.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.borrow_mut();
        if let Some(kind) = shared.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if !shared.out.is_empty() {
            shared.mark_dirty();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.borrow_mut();
        let drained = if shared.draining { Poll::Pending } else { shared.poll_drain(cx) };
        match drained {
            Poll::Ready(Ok(())) => shared.io.poll_shutdown(cx),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                shared.writer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
