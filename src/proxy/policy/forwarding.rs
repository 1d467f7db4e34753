//! What a backend is told about where a request came from.
//!
//! Invariant: nothing that a client wrote about itself is believed, unless the peer that sent it is one of the
//! `trusted_proxies`. The client's address is found once and used by everything that asks for it.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::proxy::wire::pump::Decimal;
use crate::proxy::wire::{Headers, Name, RequestHead};

/// How a request came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Who sent it: the socket's peer, or whom a PROXY protocol header names.
    pub peer: IpAddr,
    /// Whether `peer` is one of the `trusted_proxies`; see [`is_trusted`].
    pub trusted: bool,
    /// The client; see [`client_address`].
    pub client: IpAddr,
    /// Whether the connection is TLS.
    pub https: bool,
    /// Port of the listener, as clients know it.
    pub port: u16,
}

impl Arrival {
    /// Works out who the client is.
    pub fn new(headers: &Headers, peer: IpAddr, trusted: &[IpNet], https: bool, port: u16) -> Self {
        let peer = peer.to_canonical();
        Self { peer, trusted: is_trusted(peer, trusted), client: client_address(headers, peer, trusted), https, port }
    }
}

/// What is written besides the fields that are always written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extra {
    /// Write `Forwarded` too (RFC 7239).
    pub forwarded: bool,
}

/// Whether an address is one of the trusted proxies.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// The address of the client: the peer, unless that is trusted; then the rightmost address in `X-Forwarded-For` that is
/// not trusted. Every trusted proxy vouches for the entry it added, which is the one to its left, and for nothing beyond
/// it. Stops at the first entry that is not an address; if all are trusted, the leftmost is the client.
pub fn client_address(headers: &Headers, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    let values: SmallVec<[&[u8]; 4]> = headers.known_all(Name::XForwardedFor).collect();
    for entry in values.iter().rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        let Some(address) = parse_address(entry) else { break };
        client = address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// Reads `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]` and `[::1]:5`.
fn parse_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let address = text
        .parse()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

/// Whether the client spoke `https`: to Weir, or to a trusted peer that says so.
pub fn client_is_https(headers: &Headers, arrival: &Arrival) -> bool {
    match proto(headers).filter(|_| arrival.trusted) {
        Some(proto) => proto == "https",
        None => arrival.https,
    }
}

/// The scheme in `X-Forwarded-Proto`, if it is one and the field stands there once.
fn proto(headers: &Headers) -> Option<&'static str> {
    let value = only(headers, Name::XForwardedProto)?;
    ["http", "https"].into_iter().find(|scheme| value.eq_ignore_ascii_case(scheme.as_bytes()))
}

/// The value of a field that stands there exactly once.
fn only(headers: &Headers, name: Name) -> Option<&[u8]> {
    let mut values = headers.known_all(name);
    values.next().filter(|_| values.next().is_none())
}

/// Writes what the backend is told: `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `X-Real-IP`, `X-Request-ID`,
/// `traceparent`, and `Forwarded` on demand. Values from a trusted peer are kept (lists get `peer` appended), all others
/// replaced. `random` becomes the request's identity where none is kept.
///
/// To be called after [`super::hop::strip_request`] and before the route's own edits and rewrites, while the authority is
/// still what the client sent.
pub fn write(head: &mut RequestHead, arrival: &Arrival, extra: Extra, random: u128) {
    let headers = &mut head.headers;
    let peer = AddressText::of(arrival.peer);
    if arrival.trusted && headers.may_have(Name::XForwardedFor) {
        append_or_set(headers, Name::XForwardedFor, peer.bytes());
    } else {
        put(headers, Name::XForwardedFor, |out| out.extend_from_slice(peer.bytes()));
    }
    let client = if arrival.client == arrival.peer { peer } else { AddressText::of(arrival.client) };
    put(headers, Name::XRealIp, |out| out.extend_from_slice(client.bytes()));
    if !(arrival.trusted && proto(headers).is_some()) {
        let scheme: &[u8] = if arrival.https { b"https" } else { b"http" };
        put(headers, Name::XForwardedProto, |out| out.extend_from_slice(scheme));
    }
    if !(arrival.trusted && only(headers, Name::XForwardedPort).is_some_and(is_port)) {
        put(headers, Name::XForwardedPort, |out| out.extend_from_slice(Decimal::of(arrival.port.into()).bytes()));
    }
    if !(arrival.trusted && only(headers, Name::XRequestId).is_some_and(is_request_id)) {
        put(headers, Name::XRequestId, |out| out.extend_from_slice(&request_id(random)));
    }
    if !only(headers, Name::Traceparent).is_some_and(is_traceparent) {
        // The trace that `tracestate` belongs to is not continued (W3C Trace Context section 3.3).
        headers.remove_known(Name::Tracestate);
        put(headers, Name::Traceparent, |out| out.extend_from_slice(&traceparent(random)));
    }
    if !(arrival.trusted && only(headers, Name::XForwardedHost).is_some_and(|host| !host.is_empty())) {
        headers.remove_known(Name::XForwardedHost);
        if head.has_authority() {
            head.append_authority(Name::XForwardedHost);
        }
    }
    if extra.forwarded {
        let element = forwarded(arrival, head.authority().as_bytes());
        if arrival.trusted && head.headers.may_have(Name::Forwarded) {
            append_or_set(&mut head.headers, Name::Forwarded, &element);
        } else {
            put(&mut head.headers, Name::Forwarded, |out| out.extend_from_slice(&element));
        }
    } else if !arrival.trusted {
        head.headers.remove_known(Name::Forwarded);
    }
}

/// Replaces a field, or adds it.
#[inline]
fn put(headers: &mut Headers, name: Name, write: impl FnOnce(&mut Vec<u8>)) {
    headers.remove_known(name);
    headers.append_known(name, write);
}

/// Appends to a list, which becomes one field.
fn append_or_set(headers: &mut Headers, name: Name, element: &[u8]) {
    let mut list: SmallVec<[u8; 256]> = SmallVec::new();
    for value in headers.known_all(name).filter(|value| !value.is_empty()) {
        list.extend_from_slice(value);
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element);
    headers.set(name.text(), &list);
}

/// An address as text. This is done for every request; the general way to format an IPv4 address costs more than all the
/// rest of its field.
struct AddressText {
    /// Long enough for `ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255`.
    bytes: [u8; 46],
    length: usize,
}

impl AddressText {
    fn of(address: IpAddr) -> Self {
        let mut text = Self { bytes: [0; 46], length: 0 };
        match address {
            IpAddr::V4(address) => {
                for octet in address.octets() {
                    if text.length > 0 {
                        text.push(b'.');
                    }
                    if octet >= 100 {
                        text.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        text.push(b'0' + octet / 10 % 10);
                    }
                    text.push(b'0' + octet % 10);
                }
            }
            IpAddr::V6(address) => {
                let formatted = Text::of(address);
                text.length = formatted.len().min(text.bytes.len());
                text.bytes[..text.length].copy_from_slice(&formatted[..text.length]);
            }
        }
        text
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// One element of `Forwarded` (RFC 7239 section 4): IPv6 addresses and hosts with a port are quoted (section 6).
fn forwarded(arrival: &Arrival, authority: &[u8]) -> Text {
    let mut out = Text(SmallVec::new());
    // Writing to a Text cannot fail.
    let _ = match arrival.peer {
        IpAddr::V4(ip) => write!(out, "for={ip}"),
        IpAddr::V6(ip) => write!(out, "for=\"[{ip}]\""),
    };
    // A quote or backslash in a host is refused long before; were it here, the element would end early.
    if !authority.is_empty() && !authority.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
        out.0.extend_from_slice(b";host=\"");
        out.0.extend_from_slice(authority);
        out.0.push(b'"');
    }
    out.0.extend_from_slice(if arrival.https { b";proto=https" } else { b";proto=http" });
    out
}

fn is_port(value: &[u8]) -> bool {
    matches!(value.len(), 1..=5) && value.iter().all(u8::is_ascii_digit)
}

/// At most 128 visible characters: it is written to logs.
fn is_request_id(value: &[u8]) -> bool {
    matches!(value.len(), 1..=128) && value.iter().all(u8::is_ascii_graphic)
}

/// A random UUID (RFC 9562 section 5.4) of these bits.
fn request_id(random: u128) -> [u8; 36] {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let digits = hex_digits(bits);
    let mut out = [b'-'; 36];
    out[..8].copy_from_slice(&digits[..8]);
    out[9..13].copy_from_slice(&digits[8..12]);
    out[14..18].copy_from_slice(&digits[12..16]);
    out[19..23].copy_from_slice(&digits[16..20]);
    out[24..].copy_from_slice(&digits[20..]);
    out
}

/// Starts a trace: version 00, identities of these bits, sampled. The flag is what a root span has in most tracing
/// libraries; without it, backends that follow their parent's decision would trace nothing.
fn traceparent(random: u128) -> [u8; 55] {
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-01";
    // Neither identity may be zero (W3C Trace Context section 3.2.2).
    out[3..35].copy_from_slice(&hex_digits(random | 1));
    // Other bits than the trace's first half, so that the two do not look alike.
    let span = ((random ^ (random >> 64)) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    out[36..44].copy_from_slice(&hex_word((span >> 32) as u32));
    out[44..52].copy_from_slice(&hex_word(span as u32));
    out
}

/// 32 hexadecimal digits, the highest first.
fn hex_digits(bits: u128) -> [u8; 32] {
    let mut out = [0; 32];
    for (place, shift) in out.chunks_exact_mut(8).zip([96, 64, 32, 0]) {
        place.copy_from_slice(&hex_word((bits >> shift) as u32));
    }
    out
}

/// Eight hexadecimal digits at once: every half byte is moved into a byte of its own, and all bytes become digits with a
/// few additions that do not carry into one another.
fn hex_word(bits: u32) -> [u8; 8] {
    let mut bytes = u64::from(bits);
    bytes = (bytes << 16 | bytes) & 0x0000_ffff_0000_ffff;
    bytes = (bytes << 8 | bytes) & 0x00ff_00ff_00ff_00ff;
    bytes = (bytes << 4 | bytes) & 0x0f0f_0f0f_0f0f_0f0f;
    // 1 where the half byte is above nine.
    let letters = ((bytes + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (bytes + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// Whether a `traceparent` is valid (W3C Trace Context section 3.2): version, trace, parent, flags; lower-case hex; no
/// identity of zeros; longer only in versions after 00.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let identity = |part: &[u8]| hex(part) && part.iter().any(|byte| *byte != b'0');
    if value.len() < 55 || value[2] != b'-' || value[35] != b'-' || value[52] != b'-' {
        return false;
    }
    let version = &value[..2];
    let length = if version == b"00" { value.len() == 55 } else { value.len() == 55 || value[55] == b'-' };
    hex(version)
        && version != b"ff"
        && identity(&value[3..35])
        && identity(&value[36..52])
        && hex(&value[53..55])
        && length
}

/// A text on the stack; only a very long one allocates.
struct Text(SmallVec<[u8; 128]>);

impl Text {
    fn of(value: impl fmt::Display) -> Self {
        let mut text = Self(SmallVec::new());
        // Writing to a Text cannot fail.
        let _ = write!(text, "{value}");
        text
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl std::ops::Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_authority("shop.test:8443");
        fields.iter().for_each(|(name, value)| head.headers.append(name.as_bytes(), value.as_bytes()));
        head
    }

    fn all<'a>(head: &'a RequestHead, name: &'a str) -> Vec<&'a str> {
        head.headers.get_all(name).map(|value| std::str::from_utf8(value).unwrap()).collect()
    }

    fn told(fields: &[(&str, &str)], peer: &str, extra: Extra) -> RequestHead {
        let mut head = head(fields);
        let arrival = Arrival::new(&head.headers, peer.parse().unwrap(), &nets(&["10.0.0.0/8"]), true, 443);
        write(&mut head, &arrival, extra, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        head
    }

    #[test]
    fn numbers_are_written_as_the_formatter_writes_them() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..1_000 {
            let bits = random.u128(..);
            assert_eq!(hex_digits(bits), *format!("{bits:032x}").as_bytes());
            for address in [IpAddr::from((bits as u32).to_be_bytes()), IpAddr::from(bits.to_be_bytes())] {
                assert_eq!(AddressText::of(address).bytes(), address.to_string().as_bytes());
            }
        }
        for number in 0..=u16::MAX {
            assert_eq!(Decimal::of(number.into()).bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn client_is_the_rightmost_address_that_is_not_trusted() {
        let trusted = nets(&["10.0.0.0/8", "fd00::/8"]);
        for (peer, lists, expected) in [
            ("203.0.113.9", &["1.1.1.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, 1.1.1.1, 10.0.0.2"], "1.1.1.1"),
            ("10.0.0.1", &["6.6.6.6", "1.1.1.1", "10.0.0.2,fd00::1"], "1.1.1.1"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["1.1.1.1:4711"], "1.1.1.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("10.0.0.1", &["::ffff:1.1.1.1"], "1.1.1.1"),
            ("::ffff:10.0.0.1", &["1.1.1.1"], "1.1.1.1"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1.1, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["1.1.1.1, '; drop"], "10.0.0.1"),
            ("10.0.0.1", &["1.1.1"], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
        ] {
            let mut headers = Headers::default();
            lists.iter().for_each(|list| headers.append(b"X-Forwarded-For", list.as_bytes()));
            let client = client_address(&headers, peer.parse().unwrap(), &trusted);
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {lists:?}");
        }
    }

    const LIES: &[(&str, &str)] = &[
        ("X-Forwarded-For", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "bank.test"),
        ("X-Forwarded-Port", "1"),
        ("X-Real-IP", "6.6.6.6"),
        ("X-Request-ID", "mine"),
        ("Forwarded", "for=6.6.6.6"),
    ];

    #[test]
    fn values_of_an_unknown_peer_are_replaced() {
        let head = told(LIES, "203.0.113.9", Extra::default());
        for (name, expected) in [
            ("x-forwarded-for", &["203.0.113.9"][..]),
            ("x-forwarded-proto", &["https"]),
            ("x-forwarded-host", &["shop.test:8443"]),
            ("x-forwarded-port", &["443"]),
            ("x-real-ip", &["203.0.113.9"]),
            ("x-request-id", &["01234567-89ab-4def-8123-456789abcdef"]),
            ("forwarded", &[]),
        ] {
            assert_eq!(all(&head, name), expected, "{name}");
        }
    }

    #[test]
    fn values_of_a_trusted_peer_are_kept_and_lists_grow() {
        let head = told(LIES, "10.0.0.1", Extra { forwarded: true });
        for (name, expected) in [
            ("x-forwarded-for", &["6.6.6.6, 7.7.7.7, 10.0.0.1"][..]),
            ("x-forwarded-proto", &["http"]),
            ("x-forwarded-host", &["bank.test"]),
            ("x-forwarded-port", &["1"]),
            ("x-real-ip", &["7.7.7.7"]),
            ("x-request-id", &["mine"]),
            ("forwarded", &["for=6.6.6.6, for=10.0.0.1;host=\"shop.test:8443\";proto=https"]),
        ] {
            assert_eq!(all(&head, name), expected, "{name}");
        }
    }

    #[test]
    fn nonsense_of_a_trusted_peer_is_replaced() {
        let long = "x".repeat(129);
        let head = told(
            &[
                ("X-Forwarded-Proto", "gopher"),
                ("X-Forwarded-Port", "80a"),
                ("X-Forwarded-Host", ""),
                ("X-Request-ID", &long),
            ],
            "10.0.0.1",
            Extra::default(),
        );
        assert_eq!(all(&head, "x-forwarded-proto"), ["https"]);
        assert_eq!(all(&head, "x-forwarded-port"), ["443"]);
        assert_eq!(all(&head, "x-forwarded-host"), ["shop.test:8443"]);
        assert_eq!(all(&head, "x-request-id")[0].len(), 36);
        let twice =
            told(&[("X-Forwarded-Proto", "http"), ("X-Forwarded-Proto", "https")], "10.0.0.1", Extra::default());
        assert_eq!(all(&twice, "x-forwarded-proto"), ["https"]);
    }

    #[test]
    fn scheme_of_a_trusted_peer_counts_and_no_other() {
        let https = |peer: &str, tls: bool, fields: &[(&str, &str)]| {
            let head = head(fields);
            let arrival = Arrival::new(&head.headers, peer.parse().unwrap(), &nets(&["10.0.0.0/8"]), tls, 80);
            client_is_https(&head.headers, &arrival)
        };
        let says_https = &[("x-forwarded-proto", "HTTPS")][..];
        assert!(https("10.0.0.1", false, says_https));
        assert!(!https("203.0.113.9", false, says_https));
        assert!(https("203.0.113.9", true, &[("x-forwarded-proto", "http")]));
        assert!(https("10.0.0.1", true, &[]));
    }

    #[test]
    fn forwarded_quotes_addresses_with_colons() {
        let head = told(&[], "2001:db8::1", Extra { forwarded: true });
        assert_eq!(all(&head, "forwarded"), ["for=\"[2001:db8::1]\";host=\"shop.test:8443\";proto=https"]);
        assert_eq!(all(&head, "x-forwarded-for"), ["2001:db8::1"]);
    }

    #[test]
    fn trace_is_kept_when_valid_and_started_when_not() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (value, kept) in [
            (good, true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", true),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-00", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-00", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false),
            ("", false),
        ] {
            let head = told(&[("traceparent", value), ("tracestate", "a=b")], "203.0.113.9", Extra::default());
            let got = all(&head, "traceparent");
            assert_eq!(got.len(), 1);
            assert_eq!(got[0] == value, kept, "{value}");
            assert!(is_traceparent(got[0].as_bytes()), "{got:?}");
            assert_eq!(all(&head, "tracestate").len(), usize::from(kept), "{value}");
        }
        let twice = told(&[("traceparent", good), ("traceparent", good)], "203.0.113.9", Extra::default());
        assert_eq!(all(&twice, "traceparent").len(), 1);
        assert_ne!(all(&twice, "traceparent")[0], good);
        assert!(is_traceparent(&traceparent(0)));
    }

    #[test]
    fn request_without_host_says_nothing_about_it() {
        let mut head = RequestHead::default();
        let arrival = Arrival::new(&head.headers, "1.2.3.4".parse().unwrap(), &[], false, 8080);
        write(&mut head, &arrival, Extra { forwarded: true }, 1);
        assert_eq!(all(&head, "x-forwarded-host"), [""; 0]);
        assert_eq!(all(&head, "forwarded"), ["for=1.2.3.4;proto=http"]);
    }
}
