//! The begin of a TLS connection, read just far enough to know for whom it is (RFC 8446 section 4.1.2, RFC 6066
//! section 3).
//!
//! Pure: bytes in, a server name out. It understands less than rustls on purpose: what is only passed on may use versions
//! and extensions that Weir does not know.

/// Longest ClientHello that is read, with its record headers. Post-quantum key shares and tickets make some kilobytes; a
/// handshake message could have 16 MiB.
pub const MAX: usize = 64 * 1024;

/// Bytes of a record's header.
pub const RECORD: usize = 5;

/// What the bytes so far say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hello {
    /// This many more bytes are needed, at least; no more may be read, or what follows the ClientHello is torn away.
    Partial(usize),
    /// The ClientHello is complete. Its server name in lower case, if it has one that can be a host.
    Complete(Option<Box<str>>),
}

/// Not a ClientHello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// A ClientHello while it arrives, which may be spread over several records. The work is in proportion to its bytes,
/// however they are cut.
#[derive(Debug, Default)]
pub struct Arriving {
    /// As it came.
    raw: Vec<u8>,
    /// Of `raw`, bytes of whole records.
    at: usize,
    /// What is in these.
    message: Vec<u8>,
}

impl Arriving {
    /// Where the next bytes go: this many of them, as [`Hello::Partial`] said.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        let from = self.raw.len();
        self.raw.resize(from + bytes, 0);
        &mut self.raw[from..]
    }

    /// All bytes, as they came.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }

    /// Understands what has arrived.
    ///
    /// # Errors
    /// [`Malformed`]: the connection must be closed.
    pub fn look(&mut self) -> Result<Hello, Malformed> {
        loop {
            let rest = &self.raw[self.at..];
            let Some((header, after)) = rest.split_first_chunk::<RECORD>() else {
                return Ok(Hello::Partial(RECORD - rest.len()));
            };
            let [kind, major, _, high, low] = *header;
            let length = usize::from(u16::from_be_bytes([high, low]));
            // A handshake record, not empty (RFC 8446 section 5.1).
            if kind != 22 || major != 3 || length == 0 || length > 1 << 14 || self.at + RECORD + length > MAX {
                return Err(Malformed);
            }
            let Some(payload) = after.get(..length) else { return Ok(Hello::Partial(length - after.len())) };
            self.message.extend_from_slice(payload);
            self.at += RECORD + length;
            let Some((head, body)) = self.message.split_first_chunk::<4>() else { continue };
            let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            if head[0] != 1 || length > MAX {
                return Err(Malformed);
            }
            if body.len() >= length {
                // What comes before the server's answer is this message alone.
                return match body.len() == length && self.at == self.raw.len() {
                    true => server_name(body).map(Hello::Complete),
                    false => Err(Malformed),
                };
            }
        }
    }
}

fn server_name(body: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?;
    hello.vector::<1>()?;
    hello.vector::<2>()?;
    hello.vector::<1>()?;
    if hello.0.is_empty() {
        // TLS 1.2 without extensions.
        return Ok(None);
    }
    let mut extensions = Reader(hello.vector::<2>()?);
    if !hello.0.is_empty() {
        return Err(Malformed);
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>()?;
        let content = extensions.vector::<2>()?;
        if kind != 0 {
            continue;
        }
        // Two of them could mean one thing here and another at the backend.
        if found.is_some() {
            return Err(Malformed);
        }
        let mut content = Reader(content);
        let mut names = Reader(content.vector::<2>()?);
        if !content.0.is_empty() || names.0.is_empty() {
            return Err(Malformed);
        }
        while !names.0.is_empty() {
            let kind = names.number::<1>()?;
            let name = names.vector::<2>()?;
            if kind == 0 {
                if found.is_some() {
                    return Err(Malformed);
                }
                found = Some(host(name)?);
            }
        }
    }
    Ok(found.flatten())
}

/// A name as hosts are written in the tables. An address is no name (RFC 6066 section 3), and is as good as none.
fn host(name: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    let text = std::str::from_utf8(name).map_err(|_| Malformed)?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(None);
    }
    if text.is_empty() || text.len() > 253 || !text.bytes().all(fits) || text.contains("..") {
        return Err(Malformed);
    }
    Ok(Some(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase().into()))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const BYTES: usize>(&mut self) -> Result<usize, Malformed> {
        Ok(self.take(BYTES)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A vector whose length has this many bytes.
    fn vector<const BYTES: usize>(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number::<BYTES>()?;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// The same message in records of this size.
    fn split(bytes: &[u8], size: usize) -> Vec<u8> {
        bytes[RECORD..]
            .chunks(size)
            .flat_map(|chunk| {
                let length = (chunk.len() as u16).to_be_bytes();
                [&[22, 3, 1, length[0], length[1]], chunk].concat()
            })
            .collect()
    }

    /// Gives what is asked for, at most `step` bytes at a time; what came of it, and how many bytes were not asked for.
    fn read(bytes: &[u8], step: usize) -> (Result<Hello, Malformed>, usize) {
        let mut arriving = Arriving::default();
        let mut rest = bytes;
        loop {
            match arriving.look() {
                Ok(Hello::Partial(more)) if !rest.is_empty() => {
                    let count = more.min(step).min(rest.len());
                    arriving.room(count).copy_from_slice(&rest[..count]);
                    rest = &rest[count..];
                }
                result => {
                    assert_eq!(arriving.into_bytes(), bytes[..bytes.len() - rest.len()]);
                    return (result, rest.len());
                }
            }
        }
    }

    #[test]
    fn server_name_is_found_however_the_message_is_cut_and_nothing_behind_it_is_taken() {
        let whole = hello("Shop.Test");
        for size in [1, 2, 3, 4, 5, 100, 16_384] {
            for step in [1, 7, 100_000] {
                let mut bytes = split(&whole, size);
                bytes.extend_from_slice(b"early data");
                let found = read(&bytes, step);
                assert_eq!(found, (Ok(Hello::Complete(Some("shop.test".into()))), 10), "{size} {step}");
            }
        }
        assert_eq!(read(&hello("127.0.0.1"), 9).0, Ok(Hello::Complete(None)));
    }

    #[test]
    fn what_is_not_a_hello_is_refused_early_and_what_is_huge_before_it_is_read() {
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n", 100).0, Err(Malformed));
        assert_eq!(read(&[22, 3, 1, 0, 0], 100).0, Err(Malformed));
        assert_eq!(read(&[22, 3, 1, 0x40, 1], 100).0, Err(Malformed));
        let (result, left) = read(&[&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff], &[0; 100][..]].concat(), 100);
        assert_eq!((result, left), (Err(Malformed), 100));
        let endless: Vec<u8> = [&[22, 3, 1, 0, 4, 1, 0, 0xff, 0xff], &[22, 3, 1, 0, 1, 0].repeat(20_000)[..]].concat();
        assert_eq!(read(&endless, 100_000).0, Err(Malformed));
        let mut two = hello("a.test");
        let length = two.len();
        two.extend_from_slice(&two.clone()[RECORD..]);
        let payload = ((two.len() - RECORD) as u16).to_be_bytes();
        (two[3], two[4]) = (payload[0], payload[1]);
        assert_eq!(read(&two, length * 2).0, Err(Malformed));
    }

    #[test]
    fn foreign_bytes_never_panic() {
        let mut random = fastrand::Rng::with_seed(5);
        let whole = hello("shop.test");
        let mut complete = 0;
        for _ in 0..30_000 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(..=bytes.len()));
            complete += usize::from(matches!(read(&bytes, 4096).0, Ok(Hello::Complete(_))));
        }
        assert!(complete > 0);
    }

    #[test]
    fn names_that_are_no_hosts_are_refused() {
        for name in ["", "a..b", "a b", "*.a", "a/b", "\u{e4}.test", &"a".repeat(254)] {
            assert_eq!(host(name.as_bytes()), Err(Malformed), "{name:?}");
        }
        assert_eq!(host(b"A.Test."), Ok(Some("a.test".into())));
        assert_eq!(host(b"::1"), Ok(None));
    }
}
