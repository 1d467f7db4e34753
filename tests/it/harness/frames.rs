//! HTTP/2 frame by frame: a client that says what no library would say, and sees every frame that comes back.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::client::{Stream, Target};
use super::{eventually, until};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// ENHANCE_YOUR_CALM (RFC 9113 section 7).
pub const CALM: u32 = 11;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A frame whose payload is one number.
pub fn number(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, stream, &number.to_be_bytes())
}

/// A header block without a dynamic table: pseudo-headers, then `fields` as literals that are not indexed.
pub fn block(method: &str, host: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    // `:scheme` http from the static table; the others by their names there (RFC 7541 appendix A).
    let mut bytes = vec![0x86];
    for (name, value) in [(0x02, method), (0x01, host), (0x04, path)] {
        bytes.push(name);
        literal(&mut bytes, value);
    }
    for (name, value) in fields {
        bytes.push(0);
        literal(&mut bytes, name);
        literal(&mut bytes, value);
    }
    bytes
}

fn literal(bytes: &mut Vec<u8>, text: &str) {
    assert!(text.len() < 127, "longer lengths need more than one byte");
    bytes.push(text.len() as u8);
    bytes.extend(text.as_bytes());
}

/// A complete request without a body.
pub fn get(stream: u32, host: &str, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", host, path, &[]))
}

/// The beginning of a request whose body follows.
pub fn post(stream: u32, host: &str, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block("POST", host, path, &[]))
}

/// What has come back so far.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Frames by type.
    pub frames: [u64; 16],
    /// Bytes of DATA.
    pub data: u64,
    /// Streams that the server has ended (END_STREAM), in this order.
    pub ended: Vec<u32>,
    /// Streams that the server has reset, with their codes.
    pub reset: Vec<(u32, u32)>,
    /// First HPACK byte of every response head, by stream: 0x88 is status 200.
    pub heads: Vec<(u32, u8)>,
    /// Code and last stream of the last GOAWAY.
    pub goaway: Option<(u32, u32)>,
    /// The server closed or reset the connection.
    pub closed: bool,
    unread: Vec<u8>,
}

impl Seen {
    fn take(&mut self) {
        let mut at = 0;
        while let Some(head) = self.unread.get(at..at + 9) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = self.unread.get(at + 9..at + 9 + length) else { break };
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            self.frames[usize::from(kind)] += 1;
            match kind {
                DATA => self.data += length as u64,
                HEADERS => self.heads.push((stream, payload[0])),
                RST_STREAM => self.reset.push((stream, word(0))),
                GOAWAY => self.goaway = Some((word(4), word(0))),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                self.ended.push(stream);
            }
            at += 9 + length;
        }
        self.unread.drain(..at);
    }
}

/// A connection.
pub struct Wire {
    writer: WriteHalf<Box<dyn Stream>>,
    seen: Arc<Mutex<Seen>>,
}

impl Wire {
    /// Connects, sends preface and settings (pairs of identifier and value), and takes the server's settings.
    pub async fn connect(target: &Target, settings: &[(u16, u32)]) -> Self {
        let (reader, writer) = tokio::io::split(target.connect().await.unwrap());
        let seen = Arc::default();
        tokio::spawn(read(reader, Arc::clone(&seen)));
        let mut wire = Self { writer, seen };
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
        bytes.extend(frame(SETTINGS, 0, 0, &payload));
        assert!(wire.send(&bytes).await, "closed before the preface");
        wire.until("the server's settings", |seen| seen.frames[usize::from(SETTINGS)] >= 2).await;
        assert!(wire.send(&frame(SETTINGS, ACK, 0, &[])).await, "closed after the settings");
        wire
    }

    /// Sends bytes; false when the server has closed the connection or does not read.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sending = async { self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok() };
        tokio::time::timeout(super::PATIENCE, sending).await.unwrap_or(false)
    }

    /// What has come back so far.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Whether the server has said GOAWAY or closed.
    pub fn is_over(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.goaway.is_some() || seen.closed
    }

    /// Waits for something to come back.
    pub async fn until(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        until(what, async || condition(&self.seen.lock().unwrap())).await;
    }

    /// Waits for the end: GOAWAY with its code, and the connection closed.
    pub async fn goaway(&self) -> u32 {
        eventually("GOAWAY, and the connection closed", async || {
            let seen = self.seen.lock().unwrap();
            match seen.goaway {
                Some((code, _)) if seen.closed => Ok(code),
                goaway => Err(format!("GOAWAY {goaway:?}, closed {}, frames {:?}", seen.closed, seen.frames)),
            }
        })
        .await
    }
}

async fn read(mut reader: ReadHalf<Box<dyn Stream>>, seen: Arc<Mutex<Seen>>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => {
                seen.lock().unwrap().closed = true;
                return;
            }
            Ok(size) => {
                let mut seen = seen.lock().unwrap();
                seen.unread.extend_from_slice(&buffer[..size]);
                seen.take();
            }
        }
    }
}
