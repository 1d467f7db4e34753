//! Heads from bytes, strictly: what is ambiguous is refused, never repaired (RFC 9112; the table in the hardening rules).
//!
//! Pure and without I/O. `httparse` finds the tokens; everything that decides where a message ends is decided here.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::head::{Name, RequestHead, ResponseHead, Version};
use crate::proxy::fault::Fault;

/// Most header fields that a head may have, whatever the settings say.
pub const MAX_FIELDS: usize = 256;

/// Most bytes of empty lines before a request line, which RFC 9112 section 2.2 asks to overlook.
const EMPTY_LINES: usize = 8;

/// Limits on a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the method.
    pub method: usize,
    /// Bytes of the request target.
    pub target: usize,
    /// Bytes of the header block.
    pub block: usize,
    /// Header fields, at most [`MAX_FIELDS`].
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { method: 32, target: 16 * 1024, block: 32 * 1024, fields: 100 }
    }
}

impl HeadLimits {
    /// Bytes within which a head must end.
    pub fn total(&self) -> usize {
        self.method + self.target + self.block + 32
    }
}

/// How the end of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is no body.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks up to the one of size zero.
    Chunked,
    /// Everything until the connection closes (responses only).
    UntilClose,
}

/// What a request head says about the connection and the body, beside its fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestMeta {
    /// Bytes of the head in the input.
    pub length: usize,
    /// The body.
    pub framing: Framing,
    /// Whether the client wants the connection kept.
    pub keep_alive: bool,
    /// Whether it waits for `100 Continue`.
    pub expects_continue: bool,
    /// Whether it asks for an upgrade that may be tunnelled. The Upgrade field stays in the head.
    pub upgrade: bool,
}

/// What a response head says, beside its fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseMeta {
    /// Bytes of the head in the input.
    pub length: usize,
    /// The body.
    pub framing: Framing,
    /// Content-Length as announced, also where there is no body (HEAD, 304).
    pub content_length: Option<u64>,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

/// Parses a request head into `head`, which must be clear. `Ok(None)`: more bytes are needed.
///
/// Host, Content-Length, Transfer-Encoding and Expect do not enter the field list: they become the authority and the
/// [`RequestMeta`], and are written anew from there.
///
/// # Errors
/// The fault to answer with; the connection must be closed after it.
pub fn request(input: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<Option<RequestMeta>, Fault> {
    let mut fields = [const { MaybeUninit::<httparse::Header>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(input, &mut fields);
    let length = match status {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return partial(input, limits, parsed.method, parsed.path),
        Err(error) => return Err(refuse(error, input)),
    };
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Fault::BadRequest);
    };
    let fields: &[httparse::Header<'_>] = parsed.headers;
    if method.len() > limits.method || empty_lines(input) > EMPTY_LINES {
        return Err(Fault::BadRequest);
    }
    if target.len() > limits.target {
        return Err(Fault::TargetTooLong);
    }
    if fields.len() > limits.fields || length > limits.block + method.len() + target.len() + 16 {
        return Err(Fault::HeaderTooLarge);
    }
    let bytes = &input[..length];
    if !ends_in_crlf(bytes, method.as_bytes(), fields) {
        return Err(Fault::BadRequest);
    }
    head.version = if minor == 0 { Version::Http10 } else { Version::Http11 };
    // One copy of the whole head; the fields then point into it.
    let base = head.headers.push_bytes(bytes).start;
    let at = |part: &[u8]| {
        let start = base + (part.as_ptr() as usize - bytes.as_ptr() as usize);
        start..start + part.len()
    };
    match method {
        "CONNECT" | "TRACE" => return Err(Fault::MethodNotAllowed),
        _ => head.set_method_range(at(method.as_bytes())),
    }

    let mut facts = Facts::default();
    for field in fields {
        if !is_field_value(field.value) {
            return Err(Fault::BadRequest);
        }
        let id = Name::of(field.name.as_bytes());
        match id {
            Name::Host => facts.host(field.value)?,
            Name::ContentLength | Name::TransferEncoding if has_tab_around(bytes, field) => {
                return Err(Fault::BadRequest);
            }
            Name::ContentLength => facts.content_length(field.value)?,
            Name::TransferEncoding => facts.transfer_encoding(field.value)?,
            Name::Connection => facts.connection(field.value),
            Name::Expect => facts.expects_continue = expects_continue(field.value)?,
            Name::Upgrade => facts.upgrades += 1,
            _ => {}
        }
        if !matches!(id, Name::Host | Name::ContentLength | Name::TransferEncoding | Name::Expect) {
            head.headers.push_field_as(id, at(field.name.as_bytes()), at(field.value));
        }
    }
    let framing = match (facts.chunked, facts.length) {
        (true, Some(_)) => return Err(Fault::BadRequest),
        (true, None) if minor == 0 => return Err(Fault::BadRequest),
        (true, None) => Framing::Chunked,
        (false, Some(0)) | (false, None) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    place_target(head, target, facts.host, minor, &at)?;
    Ok(Some(RequestMeta {
        length,
        framing,
        keep_alive: if minor == 0 { facts.keep_alive && !facts.close } else { !facts.close },
        // An HTTP/1.0 client does not know 1xx (RFC 9110 section 10.1.1).
        expects_continue: facts.expects_continue && minor == 1 && framing != Framing::None,
        upgrade: facts.upgrade_option
            && minor == 1
            && framing == Framing::None
            // With several fields it is not certain which one counts.
            && facts.upgrades == 1
            && head.headers.known(Name::Upgrade).is_some_and(may_be_tunnelled),
    }))
}

/// Parses a response head into `head`, which must be clear. `to_head`: the request was HEAD. `Ok(None)`: more is needed.
///
/// Content-Length and Transfer-Encoding do not enter the field list.
///
/// # Errors
/// [`Fault::UpstreamProtocol`]: the end of the message is not certain, or it is not HTTP/1.
pub fn response(
    input: &[u8],
    limits: &HeadLimits,
    to_head: bool,
    head: &mut ResponseHead,
) -> Result<Option<ResponseMeta>, Fault> {
    let mut fields = [const { MaybeUninit::<httparse::Header>::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut fields);
    let length = match status {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() > limits.block => return Err(Fault::UpstreamProtocol),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::UpstreamProtocol),
    };
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else { return Err(Fault::UpstreamProtocol) };
    let fields: &[httparse::Header<'_>] = parsed.headers;
    let bytes = &input[..length];
    // httparse skips empty lines, which are tolerated before a request only (RFC 9112 section 2.2).
    if length > limits.block
        || fields.len() > limits.fields
        || !bytes.starts_with(b"HTTP/")
        || !ends_in_crlf(bytes, bytes, fields)
        || !(100..=599).contains(&code)
    {
        return Err(Fault::UpstreamProtocol);
    }
    head.status = code;
    let base = head.headers.push_bytes(bytes).start;
    let at = |part: &[u8]| {
        let start = base + (part.as_ptr() as usize - bytes.as_ptr() as usize);
        start..start + part.len()
    };
    let mut facts = Facts::default();
    for field in fields {
        if !is_field_value(field.value) {
            return Err(Fault::UpstreamProtocol);
        }
        let id = Name::of(field.name.as_bytes());
        match id {
            Name::ContentLength | Name::TransferEncoding if has_tab_around(bytes, field) => {
                return Err(Fault::UpstreamProtocol);
            }
            Name::ContentLength => facts.content_length(field.value).map_err(|_| Fault::UpstreamProtocol)?,
            Name::TransferEncoding => facts.transfer_encoding(field.value).map_err(|_| Fault::UpstreamProtocol)?,
            Name::Connection => facts.connection(field.value),
            _ => {}
        }
        if !matches!(id, Name::ContentLength | Name::TransferEncoding) {
            head.headers.push_field_as(id, at(field.name.as_bytes()), at(field.value));
        }
    }
    if facts.chunked && (facts.length.is_some() || minor == 0) {
        return Err(Fault::UpstreamProtocol);
    }
    let framing = if to_head || code < 200 || code == 204 || code == 304 {
        Framing::None
    } else if facts.chunked {
        Framing::Chunked
    } else {
        match facts.length {
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    };
    let persistent = if minor == 0 { facts.keep_alive && !facts.close } else { !facts.close };
    Ok(Some(ResponseMeta {
        length,
        framing,
        content_length: facts.length,
        keep_alive: persistent && framing != Framing::UntilClose,
    }))
}

/// What fields say about the message as a whole.
#[derive(Default)]
struct Facts<'a> {
    host: Option<&'a [u8]>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    expects_continue: bool,
    upgrades: u32,
}

impl<'a> Facts<'a> {
    fn host(&mut self, value: &'a [u8]) -> Result<(), Fault> {
        // RFC 9112 section 3.2: more than one Host is a 400.
        if self.host.replace(value).is_some() { Err(Fault::BadRequest) } else { Ok(()) }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let length = decimal(value).ok_or(Fault::BadRequest)?;
        if self.length.replace(length).is_some() { Err(Fault::BadRequest) } else { Ok(()) }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Fault::BadRequest);
        }
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade_option = true;
            }
        }
    }
}

/// Whether a tab stands between the colon and the end of the line of a field in `head`. It is white space by the grammar,
/// but not to everybody: a framing field must look the same to all.
fn has_tab_around(head: &[u8], field: &httparse::Header<'_>) -> bool {
    let colon = field.name.as_ptr() as usize - head.as_ptr() as usize + field.name.len();
    head[colon..].iter().take_while(|byte| **byte != b'\n').any(|byte| *byte == b'\t')
}

/// A Content-Length: decimal digits only, no sign, no list, no overflow (RFC 9110 section 8.6).
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Whether every protocol in an Upgrade field may be tunnelled: HTTP itself may not, for its requests would pass unseen.
fn may_be_tunnelled(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).all(|protocol| {
        let protocol = protocol.to_ascii_lowercase();
        !protocol.is_empty() && !protocol.starts_with(b"h2") && !protocol.starts_with(b"http")
    })
}

fn expects_continue(value: &[u8]) -> Result<bool, Fault> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(true) } else { Err(Fault::ExpectationFailed) }
}

/// Decides path, query and authority from the request target and Host (RFC 9112 section 3.2).
fn place_target(
    head: &mut RequestHead,
    target: &str,
    host: Option<&[u8]>,
    minor: u8,
    at: &impl Fn(&[u8]) -> Range<usize>,
) -> Result<(), Fault> {
    if !target.bytes().fold(true, |good, byte| good & (0x21..=0x7e).contains(&byte) & (byte != b'#')) {
        return Err(Fault::BadRequest);
    }
    let host = match host {
        Some(host) => Some((host, host_of(host).ok_or(Fault::BadRequest)?)),
        None if minor == 0 => None,
        None => return Err(Fault::BadRequest),
    };
    let origin = if target.starts_with('/') || target == "*" {
        if target == "*" && head.method() != "OPTIONS" {
            return Err(Fault::BadRequest);
        }
        if let Some((authority, host)) = host {
            head.place_authority(authority, host);
        }
        target
    } else {
        let (authority, rest) = absolute_form(target).ok_or(Fault::BadRequest)?;
        let authority = authority.as_bytes();
        // The target wins over Host (section 3.2.2), but two different names are a lie to somebody.
        if host.is_some_and(|(host, _)| !host.eq_ignore_ascii_case(authority)) {
            return Err(Fault::BadRequest);
        }
        head.place_authority(authority, host_of(authority).ok_or(Fault::BadRequest)?);
        rest
    };
    let (path, query) = match memchr::memchr(b'?', origin.as_bytes()) {
        Some(mark) => (&origin[..mark], Some(&origin[mark + 1..])),
        None => (origin, None),
    };
    if path.is_empty() {
        head.set_path("/");
    } else {
        head.set_path_range(at(path.as_bytes()));
    }
    head.set_query_range(query.map(|query| at(query.as_bytes())));
    Ok(())
}

fn absolute_form(target: &str) -> Option<(&str, &str)> {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let head = target.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    })?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    Some((&rest[..end], &rest[end..]))
}

/// Whether this is `host` or `host:port` without userinfo (RFC 3986 section 3.2, RFC 9110 section 4.2.4).
pub fn is_authority(text: &str) -> bool {
    host_of(text.as_bytes()).is_some()
}

/// The length of the host in `host` or `host:port`; `None` if it is neither.
fn host_of(authority: &[u8]) -> Option<usize> {
    let host = if authority.first() == Some(&b'[') {
        let end = memchr::memchr(b']', authority)?;
        std::str::from_utf8(&authority[1..end]).ok()?.parse::<std::net::Ipv6Addr>().ok()?;
        end + 1
    } else {
        let end = authority.iter().position(|byte| !IS_HOST[usize::from(*byte)]).unwrap_or(authority.len());
        if !(1..=255).contains(&end) {
            return None;
        }
        end
    };
    let port_ok = match &authority[host..] {
        [] => true,
        [b':', port @ ..] => {
            matches!(port.len(), 1..=5)
                && port.iter().all(u8::is_ascii_digit)
                && port.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')) <= u32::from(u16::MAX)
        }
        _ => false,
    };
    port_ok.then_some(host)
}

/// Bytes of a registered name or an IPv4 address, as far as names in use have them.
static IS_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let of = byte as u8;
        table[byte] = of.is_ascii_alphanumeric() || matches!(of, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// Whether all bytes may stand in a field value: visible, space, tab, obs-text (RFC 9110 section 5.5). Without an early
/// end, which lets the compiler look at many bytes at once.
fn is_field_value(value: &[u8]) -> bool {
    value.iter().fold(true, |good, byte| good & ((*byte >= 0x20) & (*byte != 0x7f) | (*byte == b'\t')))
}

/// Whether every line of a head ends in CR LF, from where it `begins`: httparse takes a bare LF, RFC 9112 section 2.2 only
/// tolerates it, and it is how two parsers come to disagree. Elsewhere than at the end of a line httparse takes none, so
/// it is enough to look there.
fn ends_in_crlf(bytes: &[u8], begins: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let offset = |part: &[u8]| part.as_ptr() as usize - bytes.as_ptr() as usize;
    // Empty lines before a head are skipped (RFC 9112 section 2.2); they are lines as well.
    bytes[..offset(begins)].chunks(2).all(|line| line == b"\r\n")
        && fields.iter().all(|field| bytes[..offset(field.name.as_bytes())].ends_with(b"\r\n"))
        && bytes.ends_with(b"\r\n\r\n")
}

/// The same for a head that is not complete, of which no more is known.
fn has_bare_line_feed(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

/// Bytes of line ends before the first line.
fn empty_lines(input: &[u8]) -> usize {
    input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// More bytes are needed, unless a limit is already passed. No part of an acceptable head is refused here: the answer may
/// not depend on how the bytes arrive.
fn partial(
    input: &[u8],
    limits: &HeadLimits,
    method: Option<&str>,
    target: Option<&str>,
) -> Result<Option<RequestMeta>, Fault> {
    if has_bare_line_feed(input) {
        return Err(Fault::BadRequest);
    }
    let empty = empty_lines(input);
    if empty > EMPTY_LINES {
        return Err(Fault::BadRequest);
    }
    let seen = input.len() - empty;
    match (method, target) {
        (None, _) if seen > limits.method => Err(Fault::BadRequest),
        (Some(method), _) if method.len() > limits.method => Err(Fault::BadRequest),
        (Some(method), None) if seen > method.len() + 1 + limits.target => Err(Fault::TargetTooLong),
        (Some(_), Some(target)) if target.len() > limits.target => Err(Fault::TargetTooLong),
        (Some(method), Some(target)) if input.len() > limits.block + method.len() + target.len() + 16 => {
            Err(Fault::HeaderTooLarge)
        }
        _ => Ok(None),
    }
}

fn refuse(error: httparse::Error, input: &[u8]) -> Fault {
    match error {
        httparse::Error::TooManyHeaders => Fault::HeaderTooLarge,
        httparse::Error::Version => {
            // `GET / HTTP/9.9` is a version we do not speak; `GET / nonsense` is not HTTP.
            let begin = input.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
            let line = input[begin..].split(|byte| *byte == b'\r').next().unwrap_or(input);
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or(line);
            let known_shape = line.iter().filter(|byte| **byte == b' ').count() == 2
                && version.len() == 8
                && version.starts_with(b"HTTP/")
                && version[5].is_ascii_digit()
                && version[6] == b'.'
                && version[7].is_ascii_digit();
            if known_shape { Fault::VersionNotSupported } else { Fault::BadRequest }
        }
        _ => Fault::BadRequest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(input: &[u8]) -> Result<Option<(RequestHead, RequestMeta)>, Fault> {
        let mut head = RequestHead::default();
        Ok(request(input, &HeadLimits::default(), &mut head)?.map(|meta| (head, meta)))
    }

    fn refused(input: &[u8]) -> Fault {
        match parse(input) {
            Err(fault) => fault,
            Ok(_) => panic!("accepted {:?}", String::from_utf8_lossy(input)),
        }
    }

    #[test]
    fn a_plain_request_is_understood() {
        let (head, meta) =
            parse(b"POST /a?b=c HTTP/1.1\r\nHost: Shop.test:80\r\nContent-Length: 05\r\nX: y \r\n\r\nhello")
                .unwrap()
                .unwrap();
        assert_eq!((head.method(), head.path(), head.query()), ("POST", "/a", Some("b=c")));
        assert_eq!((head.authority(), head.host()), ("shop.test:80", "shop.test"));
        assert_eq!(meta.framing, Framing::Length(5));
        assert!(meta.keep_alive);
        assert_eq!(head.headers.len(), 1);
        assert_eq!(head.headers.get("x"), Some(&b"y"[..]));
    }

    #[test]
    fn every_cut_of_a_good_head_asks_for_more() {
        let text = b"GET /path HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for cut in 0..text.len() {
            assert!(parse(&text[..cut]).unwrap().is_none(), "cut at {cut}");
        }
        assert!(parse(text).unwrap().is_some());
    }

    #[test]
    fn a_head_at_its_limits_is_accepted_however_it_arrives() {
        let limits = HeadLimits { method: 4, target: 6, block: 64, fields: 4 };
        let accepted = b"\r\n\r\nPOST /12345 HTTP/1.1\r\nHost: a\r\n\r\n";
        let method = b"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n";
        let target = b"POST /123456 HTTP/1.1\r\nHost: a\r\n\r\n";
        let empty = b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let at = |text: &[u8], cut: usize| {
            request(&text[..cut], &limits, &mut RequestHead::default()).map(|meta| meta.is_some())
        };
        for cut in 0..accepted.len() {
            assert_eq!(at(accepted, cut), Ok(false), "cut at {cut}");
        }
        assert_eq!(at(accepted, accepted.len()), Ok(true));
        for (text, first, fault) in [
            (&method[..], 5, Fault::BadRequest),
            (&target[..], 12, Fault::TargetTooLong),
            (&empty[..], 9, Fault::BadRequest),
        ] {
            assert_eq!(at(text, first - 1), Ok(false));
            for cut in first..=text.len() {
                assert_eq!(at(text, cut), Err(fault), "{:?}", String::from_utf8_lossy(&text[..cut]));
            }
        }
    }

    #[test]
    fn framing_doubts_are_refused() {
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: -1",
            "Content-Length: 0x5",
            "Content-Length: 5 5",
            "Content-Length: ",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: identity, chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding:",
            "Transfer-Encoding:\tchunked",
            "Transfer-Encoding: chunked\t ",
            "Content-Length: \t5",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "X: a\r\n b",
            "X: a\0b",
            "X: a\x01b",
            "X: a\x7fb",
            "X\0: a",
            "X Y: a",
            ": a",
            "X",
            "Host: b",
            "X: a\nY: b",
            "X: a\rY: b",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
            assert_eq!(refused(text.as_bytes()), Fault::BadRequest, "{lines:?}");
        }
        assert_eq!(refused(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), Fault::BadRequest);
    }

    #[test]
    fn request_lines_and_hosts_that_two_parsers_could_read_differently_are_refused() {
        for (text, fault) in [
            ("GET / HTTP/1.1\r\n\r\n", Fault::BadRequest),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n", Fault::BadRequest),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Fault::BadRequest),
            ("GET /\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Fault::VersionNotSupported),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Fault::VersionNotSupported),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", Fault::BadRequest),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodNotAllowed),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Fault::MethodNotAllowed),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", Fault::ExpectationFailed),
        ] {
            assert_eq!(refused(text.as_bytes()), fault, "{text:?}");
        }
    }

    #[test]
    fn absolute_form_names_the_host_when_both_agree() {
        let (head, _) = parse(b"GET http://A.test?x=1 HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.host(), head.path(), head.query()), ("a.test", "/", Some("x=1")));
    }

    #[test]
    fn limits_have_their_own_answers() {
        let long = "a".repeat(20_000);
        assert_eq!(refused(format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()), Fault::TargetTooLong);
        assert_eq!(refused(format!("GET /{long}").as_bytes()), Fault::TargetTooLong);
        let block = "X: y\r\n".repeat(101);
        assert_eq!(refused(format!("GET / HTTP/1.1\r\nHost: a\r\n{block}\r\n").as_bytes()), Fault::HeaderTooLarge);
        let wide = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(40_000));
        assert_eq!(refused(wide.as_bytes()), Fault::HeaderTooLarge);
        assert_eq!(refused("A".repeat(64).as_bytes()), Fault::BadRequest);
    }

    #[test]
    fn an_upgrade_is_one_only_when_connection_says_so_and_there_is_no_body() {
        let upgrade = |lines: &str| {
            parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").as_bytes()).unwrap().unwrap().1.upgrade
        };
        assert!(upgrade("Connection: keep-alive, Upgrade\r\nUpgrade: websocket"));
        assert!(!upgrade("Upgrade: websocket"));
        assert!(!upgrade("Connection: Upgrade\r\nUpgrade: h2c"));
        assert!(!upgrade("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2"));
        assert!(!upgrade("Connection: Upgrade\r\nUpgrade: websocket, h2c"));
        assert!(!upgrade("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket"));
        assert!(!upgrade("Connection: Upgrade\r\nUpgrade: HTTP/2.0"));
    }

    #[test]
    fn responses_whose_end_is_uncertain_are_refused() {
        let parse = |text: &str| {
            let mut head = ResponseHead::default();
            response(text.as_bytes(), &HeadLimits::default(), false, &mut head)
        };
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\nX: y\n\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\t\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 999 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "hello\r\n\r\n",
        ] {
            assert_eq!(parse(text), Err(Fault::UpstreamProtocol), "{text:?}");
        }
        let meta = parse("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap();
        assert_eq!((meta.framing, meta.keep_alive), (Framing::None, true));
        let meta = parse("HTTP/1.1 200 OK\r\n\r\n").unwrap().unwrap();
        assert_eq!((meta.framing, meta.keep_alive), (Framing::UntilClose, false));
        let meta = parse("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap().unwrap();
        assert_eq!((meta.framing, meta.keep_alive), (Framing::Length(5), false));
    }
}
