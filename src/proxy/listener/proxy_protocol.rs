//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): who is behind the balancer in front of us.
//!
//! Pure: bytes in, addresses out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is accepted: version 2 with 1 KiB of extensions.
pub const MAX: usize = 16 + 216 + 1024;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// More bytes are needed.
    Partial,
    /// It is this many bytes long; the addresses (source, destination) are those of the balanced connection, or none for
    /// a connection of the balancer itself.
    Complete(usize, Option<(SocketAddr, SocketAddr)>),
}

/// Not a PROXY header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Parses the header at the start of `input`.
///
/// # Errors
/// [`Malformed`]: the connection must be closed.
pub fn parse(input: &[u8]) -> Result<Header, Malformed> {
    let start = input.len().min(SIGNATURE.len());
    if input[..start] == SIGNATURE[..start] {
        return if input.len() < 16 { Ok(Header::Partial) } else { version_2(input) };
    }
    version_1(input)
}

fn version_1(input: &[u8]) -> Result<Header, Malformed> {
    // At most 107 bytes with CRLF (section 2.1).
    let start = input.len().min(6);
    if input[..start] != b"PROXY "[..start] {
        return Err(Malformed);
    }
    let Some(end) = input.iter().take(107).position(|byte| *byte == b'\n') else {
        return if input.len() < 107 { Ok(Header::Partial) } else { Err(Malformed) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(Malformed)?;
    if family == "UNKNOWN" {
        return Ok(Header::Complete(end + 1, None));
    }
    let mut address = || -> Option<IpAddr> { words.next()?.parse().ok() };
    let (source, destination) = (address().ok_or(Malformed)?, address().ok_or(Malformed)?);
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
    };
    let (from, to) = (port().ok_or(Malformed)?, port().ok_or(Malformed)?);
    let family_fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    if !family_fits || words.next().is_some() {
        return Err(Malformed);
    }
    Ok(Header::Complete(end + 1, Some((SocketAddr::new(source, from), SocketAddr::new(destination, to)))))
}

fn version_2(input: &[u8]) -> Result<Header, Malformed> {
    let length = 16 + usize::from(u16::from_be_bytes([input[14], input[15]]));
    if input[12] >> 4 != 2 || length > MAX {
        return Err(Malformed);
    }
    if input.len() < length {
        return Ok(Header::Partial);
    }
    let body = &input[16..length];
    match (input[12] & 0xf, input[13]) {
        // LOCAL: the balancer's own check.
        (0, _) => Ok(Header::Complete(length, None)),
        (1, 0x11) => {
            let body: &[u8; 12] = body.first_chunk().ok_or(Malformed)?;
            let ip = |at: usize| IpAddr::V4(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
            let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            let pair = (SocketAddr::new(ip(0), port(8)), SocketAddr::new(ip(4), port(10)));
            Ok(Header::Complete(length, Some(pair)))
        }
        (1, 0x21) => {
            let body: &[u8; 36] = body.first_chunk().ok_or(Malformed)?;
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::V6(Ipv6Addr::from(octets))
            };
            let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
            let pair = (SocketAddr::new(ip(0), port(32)), SocketAddr::new(ip(16), port(34)));
            Ok(Header::Complete(length, Some(pair)))
        }
        (1, 0x00) => Ok(Header::Complete(length, None)),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn good_headers_of_both_versions_are_understood_at_any_split() {
        let v4 = v2(1, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187]);
        let mut six = vec![0; 36];
        six[15] = 1;
        six[31] = 2;
        six[33] = 9;
        let v6 = v2(1, 0x21, &six);
        for (text, source) in [
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\n".to_vec(), Some("1.2.3.4:80")),
            (b"PROXY TCP6 ::1 ::2 9 10\r\n".to_vec(), Some("[::1]:9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v4, Some("1.2.3.4:80")),
            (v6, Some("[::1]:9")),
            (v2(0, 0, b""), None),
        ] {
            for cut in 0..text.len() {
                assert_eq!(parse(&text[..cut]), Ok(Header::Partial), "{text:?} cut at {cut}");
            }
            let mut more = text.clone();
            more.extend(b"GET /");
            let Ok(Header::Complete(length, addresses)) = parse(&more) else { panic!("{text:?}") };
            assert_eq!(length, text.len());
            assert_eq!(addresses.map(|(source, _)| source.to_string()), source.map(str::to_owned));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80\r\n",
            b"PROXY TCP4 1.2.3.4 ::1 80 443\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 +80 443\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80 443 x\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 80 443\n",
            &[b'P'; 10],
        ] {
            assert_eq!(parse(text), Err(Malformed), "{text:?}");
        }
        assert_eq!(parse(&v2(1, 0x11, &[1, 2, 3])), Err(Malformed));
        assert_eq!(parse(&v2(3, 0x11, &[0; 12])), Err(Malformed));
    }
}
