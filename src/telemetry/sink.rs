//! Lines to stdout, stderr or a file, from a thread of their own.
//!
//! Whoever writes hands over buffers through a bounded queue and never waits: when the reader of the other end is slow or
//! the disk is full, lines are dropped and counted. Only the writer thread may block.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Where lines go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Appended to this file, which is made if there is none.
    File(PathBuf),
}

impl Target {
    fn open(&self) -> io::Result<File> {
        // A duplicate of the descriptor: a blocked write must not hold the lock that `println!` takes.
        match self {
            Self::Stdout => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
            Self::Stderr => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
            Self::File(path) => OpenOptions::new().append(true).create(true).open(path),
        }
    }
}

enum Message {
    Lines { bytes: Vec<u8>, lines: u64 },
    Wake,
    End,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    reopen: AtomicBool,
}

/// The queue and its writer thread.
#[derive(Debug)]
pub struct Sink {
    sender: SinkSender,
    done: Receiver<()>,
}

/// Hands lines over. One per writing thread.
#[derive(Clone, Debug)]
pub struct SinkSender {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl SinkSender {
    /// Hands over whole lines, each with its line feed. Never waits; when the queue is full, gives the buffer back, the
    /// lines are dropped and counted.
    pub fn send(&self, bytes: Vec<u8>, lines: u64) -> Result<(), Vec<u8>> {
        match self.queue.try_send(Message::Lines { bytes, lines }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                self.shared.dropped.fetch_add(lines, Ordering::Relaxed);
                match message {
                    Message::Lines { bytes, .. } => Err(bytes),
                    Message::Wake | Message::End => Err(Vec::new()),
                }
            }
        }
    }

    /// Lines dropped since the start, because the queue was full or a write failed.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Asks the writer to open a file anew, after it was moved away. Takes effect with the next line at the latest.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // If the queue is full, the writer is about to look anyway.
        let _ = self.queue.try_send(Message::Wake);
    }
}

impl Sink {
    /// Opens the target and starts the writer. `buffers` is how many handed-over buffers may wait.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be started.
    pub fn open(name: &str, target: Target, buffers: usize) -> io::Result<Self> {
        let file = target.open()?;
        let (queue, messages) = sync_channel(buffers.max(1));
        let (finished, done) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let of_writer = shared.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            write_all(&messages, &target, file, &of_writer);
            let _ = finished.try_send(());
        })?;
        Ok(Self { sender: SinkSender { queue, shared }, done })
    }

    /// A hand to give lines with.
    pub fn sender(&self) -> SinkSender {
        self.sender.clone()
    }

    /// Ends the writer when it has written what is queued, and waits for that, but not longer than `patience`: a reader
    /// that has stopped reading must not keep the process from ending. Says whether everything was written.
    pub fn finish(self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut message = Message::End;
        loop {
            match self.sender.queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(_)) if Instant::now() >= until => return false,
                Err(TrySendError::Full(back)) => message = back,
            }
            thread::sleep(Duration::from_millis(1));
        }
        match self.done.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

fn write_all(messages: &Receiver<Message>, target: &Target, mut file: File, shared: &Shared) {
    let mut failing = false;
    while let Ok(message) = messages.recv() {
        if shared.reopen.swap(false, Ordering::Acquire) && matches!(target, Target::File(_)) {
            match target.open() {
                Ok(new) => file = new,
                Err(error) => {
                    tracing::warn!(?target, %error, "the log file cannot be reopened; the old one stays in use")
                }
            }
        }
        match message {
            Message::Lines { bytes, lines } => match file.write_all(&bytes) {
                Ok(()) => failing = false,
                Err(error) => {
                    shared.dropped.fetch_add(lines, Ordering::Relaxed);
                    if !failing {
                        tracing::warn!(?target, %error, "log lines cannot be written and are dropped");
                    }
                    failing = true;
                }
            },
            Message::Wake => {}
            Message::End => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_arrive_in_order_and_a_moved_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let sink = Sink::open("sink", Target::File(path.clone()), 8).unwrap();
        let sender = sink.sender();
        sender.send(b"one\n".to_vec(), 1).unwrap();
        // The writer opens anew before the first line that follows the call.
        while std::fs::read(&path).unwrap() != b"one\n" {
            thread::yield_now();
        }
        std::fs::rename(&path, &moved).unwrap();
        sender.reopen();
        sender.send(b"two\nthree\n".to_vec(), 2).unwrap();
        assert!(sink.finish(Duration::from_secs(30)));
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "two\nthree\n");
        assert_eq!(sender.dropped(), 0);
    }

    #[test]
    fn a_writer_that_is_stuck_costs_lines_and_no_time() {
        // A pipe whose reader does not read: what is beyond its capacity blocks the writer thread for ever.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let _reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let sink = Sink::open("sink", Target::File(path), 2).unwrap();
        let sender = sink.sender();
        let mut refused = 0;
        // 64 KiB fit into the pipe and two buffers into the queue.
        for _ in 0..100 {
            refused += u64::from(sender.send(vec![b'x'; 64 * 1024], 10).is_err());
        }
        assert!(refused >= 90, "{refused} refused");
        assert_eq!(sender.dropped(), 10 * refused);
        assert!(!sink.finish(Duration::from_millis(20)));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let sink = Sink::open("sink", Target::File("/dev/full".into()), 2).unwrap();
        let sender = sink.sender();
        sender.send(b"one\n".to_vec(), 1).unwrap();
        assert!(sink.finish(Duration::from_secs(30)));
        assert_eq!(sender.dropped(), 1);
    }
}
