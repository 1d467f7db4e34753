//! Frames of HTTP/2 as bytes: a client that says what no library would let it say (RFC 9113 section 4, RFC 7541).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 0x20;

pub const PROTOCOL_ERROR: u32 = 1;

/// A header field as it goes on the wire.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as literals without indexing and without Huffman coding (RFC 7541 section 6.2.2).
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            put_length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn put_length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(length as u8);
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// HEADERS, continued where one frame is too small.
pub fn headers(stream: u32, flags: u8, fields: &[Field<'_>]) -> Vec<u8> {
    let block = block(fields);
    let mut pieces = block.chunks(16 * 1024).peekable();
    let mut bytes = Vec::new();
    let mut kind = HEADERS;
    let mut flags = flags;
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, flags | last, stream, piece));
        if last != 0 {
            return bytes;
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// With a response.
    Answered { status: u16, body: Vec<u8> },
    /// RST_STREAM with this code before the response was whole.
    Reset(u32),
    /// The connection ended with GOAWAY and this code, or without one.
    Over(Option<u32>),
}

/// A connection of frames.
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    goaway: Option<u32>,
}

impl Connection {
    /// Says hello. The peer may use no dynamic table, so that every status can be read by itself.
    pub async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]));
        stream.write_all(&hello).await.unwrap();
        Self { stream, input: Vec::new(), goaway: None }
    }

    pub async fn send(&mut self, frames: &[u8]) {
        // The peer may have ended the connection over what came before.
        let _ = self.stream.write_all(frames).await;
    }

    /// Reads until this stream has ended, or the connection.
    pub async fn end_of(&mut self, stream: u32, patience: Duration) -> Result<StreamEnd, String> {
        let (mut status, mut body) = (None, Vec::new());
        loop {
            let read = tokio::time::timeout(patience, self.next()).await;
            let Some((kind, flags, on, payload)) = read.map_err(|_| format!("nothing more on stream {stream}"))? else {
                return Ok(StreamEnd::Over(self.goaway));
            };
            match kind {
                SETTINGS if flags & 1 == 0 => self.send(&frame(SETTINGS, 1, 0, b"")).await,
                GOAWAY => self.goaway = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
                RST_STREAM if on == stream => {
                    return Ok(StreamEnd::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap())));
                }
                HEADERS if on == stream && status.is_none() => status = Some(status_of(&payload)?),
                DATA if on == stream => body.extend(payload),
                _ => {}
            }
            if on == stream && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
                let status = status.ok_or("DATA without HEADERS")?;
                return Ok(StreamEnd::Answered { status, body });
            }
        }
    }

    /// Waits for the first bytes of a body, which count no more.
    pub async fn data_on(&mut self, stream: u32, patience: Duration) -> Result<(), String> {
        loop {
            let read = tokio::time::timeout(patience, self.next()).await;
            match read.map_err(|_| format!("nothing on stream {stream}"))? {
                Some((DATA, _, on, _)) if on == stream => return Ok(()),
                Some(_) => {}
                None => return Err("the connection ended".to_owned()),
            }
        }
    }

    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.input.first_chunk::<9>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                if self.input.len() >= 9 + length {
                    let frame: Vec<u8> = self.input.drain(..9 + length).collect();
                    return Some((kind, flags, stream, frame[9..].to_vec()));
                }
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }
}

/// The status, which is the first field of every response: from the static table, or a literal beside its name there.
fn status_of(block: &[u8]) -> Result<u16, String> {
    // A change of the table's size may come first (RFC 7541 section 6.3).
    let block = if block.first().is_some_and(|byte| byte & 0xe0 == 0x20) { &block[1..] } else { block };
    let indexed = [200, 204, 206, 304, 400, 404, 500];
    match *block {
        [first @ 0x88..=0x8e, ..] => Ok(indexed[usize::from(first - 0x88)]),
        [0x08 | 0x18 | 0x48, 3, a, b, c, ..] => {
            Ok(std::str::from_utf8(&[a, b, c]).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
        }
        [0x08 | 0x18 | 0x48, length @ 0x82..=0x83, ref rest @ ..] => {
            let bits: String = rest[..usize::from(length & 0x7f)].iter().map(|byte| format!("{byte:08b}")).collect();
            digits(&bits).ok_or(format!("not a status: {bits}"))
        }
        _ => Err(format!("not a status: {block:02x?}")),
    }
}

/// Three digits in the Huffman code of RFC 7541 appendix B: 0, 1, 2 have five bits, the others six.
fn digits(bits: &str) -> Option<u16> {
    let mut rest = bits;
    let mut number = 0;
    for _ in 0..3 {
        let five = u16::from_str_radix(rest.get(..5)?, 2).ok()?;
        let (digit, length) = match five {
            0..=2 => (five, 5),
            _ => (u16::from_str_radix(rest.get(..6)?, 2).ok()?.checked_sub(0b01_1001)? + 3, 6),
        };
        number = number * 10 + Some(digit).filter(|digit| *digit <= 9)?;
        rest = &rest[length..];
    }
    Some(number)
}

#[test]
fn a_status_is_read_however_it_is_coded() {
    assert_eq!(status_of(&[0x88]), Ok(200));
    assert_eq!(status_of(&[0x20, 0x8c]), Ok(400));
    assert_eq!(status_of(&[0x08, 3, b'5', b'0', b'2']), Ok(502));
    // The example of RFC 7541 appendix C.6.1.
    assert_eq!(status_of(&[0x48, 0x82, 0x64, 0x02]), Ok(302));
    assert_eq!(digits("0110100000000000"), Some(400));
    assert_eq!(digits("111111111111111111"), None);
}
