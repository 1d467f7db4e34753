//! The chunked coding and its trailers, against a naive decoder over the whole input, whole and in pieces.

use crate::check::{Dice, Pairs, assert_clean_fields, lines, pairs};
use crate::wire::chunked::{ChunkLimits, Decoder, Step, may_trail, put_size_line};
use crate::wire::head::{Headers, Name};
use crate::wire::pump::Out;

const LIMITS: ChunkLimits = ChunkLimits { extensions: 256, trailers: 4096 };

/// What became of a body.
#[derive(PartialEq, Debug)]
enum Outcome {
    Unfinished,
    Malformed,
    Complete { body: Vec<u8>, length: usize, trailers: Option<Pairs> },
}

/// One chunked body and what follows it.
pub fn chunked(data: &[u8]) {
    let mut dice = Dice::of(data);
    let whole = decode(&[data.to_vec()]);
    assert_eq!(whole, decode(&dice.pieces(data)), "the answer depends on where bytes are cut");
    let bytes: Vec<Vec<u8>> = data.iter().map(|byte| vec![*byte]).collect();
    assert_eq!(whole, decode(&bytes), "the answer depends on where bytes are cut");

    let naive = naive_decode(data);
    if let Outcome::Complete { body, length, .. } = &whole {
        assert_eq!(naive.as_ref().map(|(body, length)| (body, *length)), Some((body, *length)));
        // Written in our own way it is the same body.
        let mut again = Vec::new();
        let mut line = [0; 16];
        for chunk in body.chunks(1 + dice.below(300)) {
            let at = put_size_line(&mut line, 10, chunk.len());
            again.extend_from_slice(&line[at..10]);
            again.extend_from_slice(chunk);
            again.extend_from_slice(b"\r\n");
        }
        again.extend_from_slice(b"0\r\n\r\n");
        let expected = Outcome::Complete { body: body.clone(), length: again.len(), trailers: None };
        assert_eq!(decode(&dice.pieces(&again)), expected);
    } else if let (Outcome::Unfinished, Some(_)) = (&whole, &naive) {
        panic!("a complete body is not seen to be complete");
    }
}

/// One trailer block, which follows the last chunk.
pub fn trailers(data: &[u8]) {
    let mut input = b"0\r\n".to_vec();
    input.extend_from_slice(data);
    let whole = decode(&[input.clone()]);
    assert_eq!(whole, decode(&Dice::of(data).pieces(&input)), "the answer depends on where bytes are cut");
    let Outcome::Complete { length, trailers, .. } = whole else { return };
    let block = &input[3..length];
    assert!(block.len() <= LIMITS.trailers + 4 + block.iter().filter(|byte| **byte == b'\n').count() * 2);
    let kept: Pairs = match block {
        b"\r\n" => Vec::new(),
        _ => lines(block).into_iter().filter(|(name, _)| may_trail(Name::of(name))).collect(),
    };
    assert_eq!(trailers.clone().unwrap_or_default(), kept);
    assert!(trailers.is_none_or(|trailers| !trailers.is_empty()));
    assert_clean_fields(&kept);
    for (name, _) in &kept {
        let framing: [&[u8]; 5] = [b"content-length", b"transfer-encoding", b"host", b"connection", b"trailer"];
        assert!(!framing.contains(&&name[..]), "{name:?} in a trailer");
    }

    let mut fields = Headers::default();
    for (name, value) in &kept {
        fields.append(name, value);
    }
    let mut buffer = vec![0; 16 * 1024];
    let mut out = Out::new(&mut buffer);
    out.put(b"0\r\n");
    fields.write_to(&mut out);
    out.put(b"\r\n");
    let written = out.written().expect("trailers fit");
    // A blank after each colon may lead over the limit.
    if let Outcome::Complete { length, trailers, .. } = decode(&[buffer[..written].to_vec()]) {
        assert_eq!((length, trailers.unwrap_or_default()), (written, kept));
    } else {
        assert!(written > LIMITS.trailers);
    }
}

fn decode(pieces: &[Vec<u8>]) -> Outcome {
    let mut decoder = Decoder::new(LIMITS);
    let mut body = Vec::new();
    let mut length = 0;
    'pieces: for piece in pieces {
        let mut at = 0;
        loop {
            let Ok((used, step)) = decoder.step(&piece[at..]) else { return Outcome::Malformed };
            assert!(at + used <= piece.len());
            at += used;
            length += used;
            match step {
                Step::Data(data) => {
                    assert!(0 < data && data <= used);
                    body.extend_from_slice(&piece[at - data..at]);
                }
                Step::More => {
                    assert_eq!(at, piece.len());
                    break;
                }
                Step::End => break 'pieces,
            }
        }
    }
    if !decoder.is_done() {
        return Outcome::Unfinished;
    }
    match decoder.trailers() {
        Ok(trailers) => Outcome::Complete { body, length, trailers: trailers.as_ref().map(pairs) },
        Err(_) => Outcome::Malformed,
    }
}

/// Reads a complete body by slicing (RFC 9112 section 7.1), without limits and without judging extensions and trailers.
/// Returns its data and the bytes that it takes.
fn naive_decode(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    let mut rest = input;
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let size = rest[..end].split(|byte| *byte == b';').next()?;
        if size.is_empty() || size.len() > 16 || !size.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        rest = &rest[end + 2..];
        if end == 0 {
            return Some((body, input.len() - rest.len()));
        }
    }
}
