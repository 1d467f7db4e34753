//! The chunked coding (RFC 9112 section 7.1), strictly: a pure state machine over whatever bytes are there.

use super::head::{Headers, Name};

/// Bounds on what a chunked body carries beside its data, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct ChunkLimits {
    /// Chunk extensions in sum.
    pub extensions: usize,
    /// Trailers.
    pub trailers: usize,
}

/// Why a chunked body is not one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Decoder of one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    left: u64,
    digits: u8,
    extensions: usize,
    trailer: Vec<u8>,
    limits: ChunkLimits,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// What was found in the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The last this many of the consumed bytes are data.
    Data(usize),
    /// The input is used up.
    More,
    /// The body is complete.
    End,
}

impl Decoder {
    /// A decoder of one body.
    pub fn new(limits: ChunkLimits) -> Self {
        Self { state: State::Size, left: 0, digits: 0, extensions: 0, trailer: Vec::new(), limits }
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads on. Returns how many bytes of `input` were consumed and what they were; to be called again with the rest
    /// until it says [`Step::More`] or [`Step::End`].
    ///
    /// # Errors
    /// [`Malformed`]: the connection must be closed.
    pub fn step(&mut self, input: &[u8]) -> Result<(usize, Step), Malformed> {
        let mut at = 0;
        loop {
            if self.state == State::Done {
                return Ok((at, Step::End));
            }
            let Some(&byte) = input.get(at) else { return Ok((at, Step::More)) };
            if self.state == State::Data {
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                self.left -= take as u64;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                return Ok((at + take, Step::Data(take)));
            }
            at += 1;
            self.state = match (self.state, byte) {
                (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    if self.digits == 16 {
                        return Err(Malformed);
                    }
                    self.digits += 1;
                    self.left = self.left << 4 | u64::from((byte as char).to_digit(16).unwrap_or(0));
                    State::Size
                }
                (State::Size, b';') if self.digits > 0 => self.extension()?,
                (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
                (State::Extension, b'\r') => State::SizeLf,
                (State::Extension, byte) if byte >= 0x20 && byte != 0x7f || byte == b'\t' => self.extension()?,
                (State::SizeLf, b'\n') => {
                    self.digits = 0;
                    if self.left == 0 { State::TrailerStart } else { State::Data }
                }
                (State::DataCr, b'\r') => State::DataLf,
                (State::DataLf, b'\n') => State::Size,
                (State::TrailerStart, b'\r') => State::EndLf,
                (State::TrailerStart | State::Trailer, byte) if byte != b'\r' && byte != b'\n' => self.trailer(byte)?,
                (State::Trailer, b'\r') => State::TrailerLf,
                (State::TrailerLf, b'\n') => {
                    self.trailer.extend_from_slice(b"\r\n");
                    State::TrailerStart
                }
                (State::EndLf, b'\n') => State::Done,
                _ => return Err(Malformed),
            };
        }
    }

    fn extension(&mut self) -> Result<State, Malformed> {
        self.extensions += 1;
        if self.extensions > self.limits.extensions { Err(Malformed) } else { Ok(State::Extension) }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, Malformed> {
        if self.trailer.len() >= self.limits.trailers {
            return Err(Malformed);
        }
        self.trailer.push(byte);
        Ok(State::Trailer)
    }

    /// The trailer fields, without those about framing, routing or the connection (RFC 9110 section 6.5.1).
    ///
    /// # Errors
    /// [`Malformed`]: a line is not a field.
    pub fn trailers(&self) -> Result<Option<Headers>, Malformed> {
        if self.trailer.is_empty() {
            return Ok(None);
        }
        let mut block = self.trailer.clone();
        block.extend_from_slice(b"\r\n");
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&block, &mut fields) else {
            return Err(Malformed);
        };
        let mut trailers = Headers::default();
        for field in fields.iter().filter(|field| may_trail(Name::of(field.name.as_bytes()))) {
            trailers.append(field.name.as_bytes(), field.value);
        }
        Ok((!trailers.is_empty()).then_some(trailers))
    }
}

/// Whether a field may stand in a trailer.
pub fn may_trail(name: Name) -> bool {
    !name.is_hop_by_hop()
        && !matches!(
            name,
            Name::Host
                | Name::ContentLength
                | Name::Expect
                | Name::Authorization
                | Name::ProxyAuthorization
                | Name::Cookie
                | Name::ContentType
                | Name::XForwardedFor
                | Name::XForwardedHost
                | Name::XForwardedProto
                | Name::XForwardedPort
                | Name::XRealIp
                | Name::Forwarded
        )
}

/// Room before the data of a chunk for its size line.
pub const SIZE_LINE: usize = 10;

/// Writes the size line of a chunk of `length` bytes right before `end` in `buffer`; returns where it begins.
/// `length` is below 2^32 and `end` at least [`SIZE_LINE`].
pub fn put_size_line(buffer: &mut [u8], end: usize, length: usize) -> usize {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut at = end - 2;
    buffer[at] = b'\r';
    buffer[at + 1] = b'\n';
    let mut rest = length;
    loop {
        at -= 1;
        buffer[at] = HEX[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ChunkLimits = ChunkLimits { extensions: 256, trailers: 4096 };

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Malformed> {
        let mut decoder = Decoder::new(LIMITS);
        let mut out = Vec::new();
        let mut rest = 0;
        for piece in pieces {
            let mut at = 0;
            loop {
                let (used, step) = decoder.step(&piece[at..])?;
                at += used;
                match step {
                    Step::Data(length) => out.extend_from_slice(&piece[at - length..at]),
                    Step::More => break,
                    Step::End => {
                        rest = piece.len() - at;
                        break;
                    }
                }
            }
        }
        Ok((out, decoder.is_done(), rest))
    }

    #[test]
    fn any_split_gives_the_same_body() {
        let text = b"5;a=b\r\nhello\r\n06\r\n world\r\n0\r\nX-T: 1\r\n\r\nGET";
        for first in 0..text.len() {
            for second in first..text.len() {
                let (body, done, _) = decode(&[&text[..first], &text[first..second], &text[second..]]).unwrap();
                assert_eq!(body, b"hello world");
                assert!(done);
            }
        }
        assert_eq!(decode(&[text]).unwrap().2, 3);
    }

    #[test]
    fn bad_chunks_are_refused() {
        for text in [
            "+5\r\nhello\r\n",
            "-5\r\n",
            "0x5\r\nhello\r\n",
            "5_0\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "\r\n",
            ";a\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n",
            "5\r\nhello\r5",
            "11111111111111111\r\n",
            "g\r\n",
            "5;a\nb\r\nhello\r\n",
            "0\r\nX: y\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(decode(&[text.as_bytes()]), Err(Malformed), "{text:?}");
        }
        let extension = format!("5;{}\r\nhello\r\n", "a".repeat(300));
        assert_eq!(decode(&[extension.as_bytes()]), Err(Malformed));
        let trailer = format!("0\r\nX: {}\r\n\r\n", "a".repeat(5000));
        assert_eq!(decode(&[trailer.as_bytes()]), Err(Malformed));
    }

    #[test]
    fn trailers_come_without_framing_names() {
        let mut decoder = Decoder::new(LIMITS);
        let text = b"0\r\nGrpc-Status: 0\r\nContent-Length: 7\r\nHost: x\r\n\r\n";
        assert_eq!(decoder.step(text), Ok((text.len(), Step::End)));
        let trailers = decoder.trailers().unwrap().unwrap();
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers.get("grpc-status"), Some(&b"0"[..]));
    }

    #[test]
    fn size_lines_are_hex() {
        let mut buffer = [0; 16];
        for (length, text) in [(1usize, "1\r\n"), (255, "ff\r\n"), (65536, "10000\r\n"), (0xfff_ffff, "fffffff\r\n")] {
            let at = put_size_line(&mut buffer, SIZE_LINE, length);
            assert_eq!(&buffer[at..SIZE_LINE], text.as_bytes());
        }
    }
}
