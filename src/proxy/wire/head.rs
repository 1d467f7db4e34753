//! The head of a message: a flat, ordered list of header fields over one byte buffer.
//!
//! Nothing is built that a proxy does not need: no map, no string per name, no reference count. A field is a few numbers;
//! names are compared once, when a field enters the list, and then known by their [`Name`]. Heads are kept and reused,
//! so a request on the hot path allocates nothing here. Offsets are `u32`; the limits keep a head far below 4 GiB.

use std::ops::Range;

use smallvec::SmallVec;

macro_rules! names {
    ($($variant:ident = $text:literal,)*) => {
        /// A header name that Weir itself looks at; everything else is [`Name::Other`].
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the variants are the names")]
        pub enum Name { Other, $($variant,)* }

        impl Name {
            /// Every name but [`Name::Other`].
            const ALL: &[Name] = &[$(Name::$variant,)*];

            /// The lower-case text; empty for [`Name::Other`].
            #[inline]
            pub const fn text(self) -> &'static str {
                match self { Name::Other => "", $(Name::$variant => $text,)* }
            }
        }
    };
}

names! {
    Host = "host",
    Connection = "connection",
    ContentLength = "content-length",
    TransferEncoding = "transfer-encoding",
    Te = "te",
    Trailer = "trailer",
    Upgrade = "upgrade",
    Expect = "expect",
    KeepAlive = "keep-alive",
    ProxyConnection = "proxy-connection",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    Http2Settings = "http2-settings",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XRealIp = "x-real-ip",
    XRequestId = "x-request-id",
    Forwarded = "forwarded",
    Traceparent = "traceparent",
    Tracestate = "tracestate",
    Cookie = "cookie",
    GrpcTimeout = "grpc-timeout",
    ContentType = "content-type",
    Date = "date",
    UserAgent = "user-agent",
    Authorization = "authorization",
}

// A set of names has 32 places, one of them for all others.
const _: () = assert!(Name::ALL.len() < 32);

/// Longest name in the table.
const LONGEST: usize = 19;

/// Names of one length: no length has more than this.
const SAME_LENGTH: usize = 4;

/// A name in the form that bytes are compared with: three overlapping words, and where in them a letter stands, whose case
/// does not count.
#[derive(Clone, Copy)]
struct Entry {
    name: Name,
    words: [u64; 3],
    letters: [u64; 3],
}

/// The names by length: what a name can be is decided by its length and a comparison of a few words.
static BY_LENGTH: [[Entry; SAME_LENGTH]; LONGEST + 1] = {
    const NONE: Entry = Entry { name: Name::Other, words: [0; 3], letters: [0; 3] };
    let mut table = [[NONE; SAME_LENGTH]; LONGEST + 1];
    let mut at = 0;
    while at < Name::ALL.len() {
        let name = Name::ALL[at];
        let text = name.text().as_bytes();
        let mut letters = [0; LONGEST];
        let mut letter = 0;
        while letter < text.len() {
            if text[letter].is_ascii_lowercase() {
                letters[letter] = 0x20;
            }
            letter += 1;
        }
        let row = &mut table[text.len()];
        let mut place = 0;
        // Too long a name or too full a row does not compile.
        while row[place].name as u8 != Name::Other as u8 {
            place += 1;
        }
        row[place] = Entry { name, words: words(text), letters: words(letters.split_at(text.len()).0) };
        at += 1;
    }
    table
};

/// All bytes of a text of at most 24 bytes, some of them twice.
#[inline]
const fn words(text: &[u8]) -> [u64; 3] {
    #[inline]
    const fn long(text: &[u8], at: usize) -> u64 {
        match text.split_at(at).1.first_chunk() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => 0,
        }
    }
    #[inline]
    const fn short(text: &[u8], at: usize) -> u64 {
        match text.split_at(at).1.first_chunk() {
            Some(bytes) => u32::from_le_bytes(*bytes) as u64,
            None => 0,
        }
    }
    match text.len() {
        0 => [0; 3],
        length @ 1..4 => [text[0] as u64, text[length / 2] as u64, text[length - 1] as u64],
        length @ 4..8 => [short(text, 0), short(text, length - 4), 0],
        length @ 8..=16 => [long(text, 0), long(text, length - 8), 0],
        length => [long(text, 0), long(text, 8), long(text, length - 8)],
    }
}

impl Name {
    /// Finds the name of these bytes, in any case.
    pub fn of(bytes: &[u8]) -> Name {
        let Some(row) = BY_LENGTH.get(bytes.len()) else { return Name::Other };
        if row[0].name == Name::Other {
            return Name::Other;
        }
        let found = words(bytes);
        let is = |entry: &Entry| (0..3).all(|at| found[at] | entry.letters[at] == entry.words[at]);
        // The rest of a row is empty words, which no name of that length has.
        row.iter().find(|entry| is(entry)).map_or(Name::Other, |entry| entry.name)
    }

    /// This name's place in a set of names.
    const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Whether the field speaks about one connection only and ends here (RFC 9110 section 7.6.1).
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Name::Connection
                | Name::KeepAlive
                | Name::ProxyConnection
                | Name::TransferEncoding
                | Name::Te
                | Name::Trailer
                | Name::Upgrade
                | Name::Http2Settings
        )
    }
}

/// One header field: where its name and value stand in the buffer.
#[derive(Clone, Copy, Debug)]
struct Field {
    name_at: u32,
    name_len: u32,
    value_at: u32,
    value_len: u32,
    id: Name,
    /// Whether it stands in the buffer as it goes out: name, colon, one space, value, CR LF.
    is_line: bool,
}

/// What stands between a name and its value, and after the value.
const COLON: &[u8] = b": ";
const CRLF: &[u8] = b"\r\n";

impl Field {
    fn name(self) -> Range<usize> {
        self.name_at as usize..(self.name_at + self.name_len) as usize
    }

    fn value(self) -> Range<usize> {
        self.value_at as usize..(self.value_at + self.value_len) as usize
    }
}

/// The header fields of a message, in order, over one buffer that also holds the start line's parts.
#[derive(Default)]
pub struct Headers {
    arena: Vec<u8>,
    fields: Vec<Field>,
    /// The [`Name::bit`]s of all fields that are, or were, there: what is not in it needs no search.
    seen: u32,
}

/// A field as seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct HeaderField<'a> {
    /// Which name it is, if Weir knows it.
    pub id: Name,
    /// The name as received.
    pub name: &'a [u8],
    /// The value without surrounding white space.
    pub value: &'a [u8],
}

impl Headers {
    /// Forgets all, keeps the memory (up to a bound, so that one large head does not stay).
    pub fn clear(&mut self) {
        const KEEP: usize = 16 * 1024;
        if self.arena.capacity() > KEEP {
            self.arena = Vec::new();
        }
        self.arena.clear();
        self.fields.clear();
        self.seen = 0;
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields in order.
    pub fn iter(&self) -> impl Iterator<Item = HeaderField<'_>> {
        self.fields.iter().map(|field| self.view(*field))
    }

    fn view(&self, field: Field) -> HeaderField<'_> {
        HeaderField { id: field.id, name: &self.arena[field.name()], value: &self.arena[field.value()] }
    }

    /// Whether there may be a field of this name; false is certain.
    #[inline]
    pub fn may_have(&self, id: Name) -> bool {
        self.seen & id.bit() != 0
    }

    /// Whether there may be a field that ends here; false is certain.
    #[inline]
    pub fn may_have_hop_by_hop(&self) -> bool {
        const HOP_BY_HOP: u32 = {
            let (mut set, mut at) = (0, 0);
            while at < Name::ALL.len() {
                if Name::ALL[at].is_hop_by_hop() {
                    set |= Name::ALL[at].bit();
                }
                at += 1;
            }
            set
        };
        self.seen & HOP_BY_HOP != 0
    }

    /// The first value of a known name.
    #[inline]
    pub fn known(&self, id: Name) -> Option<&[u8]> {
        self.known_all(id).next()
    }

    /// All values of a known name, in order.
    #[inline]
    pub fn known_all(&self, id: Name) -> impl Iterator<Item = &[u8]> {
        let fields = if self.may_have(id) { &self.fields[..] } else { &[] };
        fields.iter().filter(move |field| field.id == id).map(|field| &self.arena[field.value()])
    }

    /// The first value of a name given in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|field| self.is_named(**field, name)).map(|field| &self.arena[field.value()])
    }

    /// All values of a name given in lower case, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| self.is_named(**field, name)).map(|field| &self.arena[field.value()])
    }

    fn is_named(&self, field: Field, name: &str) -> bool {
        field.name_len as usize == name.len() && self.arena[field.name()].eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value of a cookie in the Cookie fields (RFC 6265 section 4.2.1).
    pub fn cookie(&self, name: &str) -> Option<&[u8]> {
        self.known_all(Name::Cookie).flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
            let pair = pair.trim_ascii();
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            (&pair[..equals] == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
        })
    }

    /// Adds a field at the end.
    pub fn append(&mut self, name: &[u8], value: &[u8]) {
        self.append_as(Name::of(name), name, |arena| arena.extend_from_slice(value));
    }

    /// Adds a field of a known name at the end, its value written by `write`.
    #[inline]
    pub fn append_known(&mut self, id: Name, write: impl FnOnce(&mut Vec<u8>)) {
        self.append_as(id, id.text().as_bytes(), write);
    }

    #[inline]
    fn append_as(&mut self, id: Name, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        let field = self.push_line(id, name, write);
        self.seen |= id.bit();
        self.fields.push(field);
    }

    /// Writes a field into the buffer as it goes out.
    #[inline]
    fn push_line(&mut self, id: Name, name: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Field {
        let name_at = self.arena.len();
        self.arena.extend_from_slice(name);
        self.arena.extend_from_slice(COLON);
        let value_at = self.arena.len();
        write(&mut self.arena);
        let value_len = self.arena.len() - value_at;
        self.arena.extend_from_slice(CRLF);
        Field {
            name_at: name_at as u32,
            name_len: name.len() as u32,
            value_at: value_at as u32,
            value_len: value_len as u32,
            id,
            is_line: true,
        }
    }

    /// Replaces all values of a name (lower case) by one; the first keeps its place and its spelling.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        let Some(first) = self.fields.iter().position(|field| self.is_named(*field, name)) else {
            return self.append(name.as_bytes(), value);
        };
        let old = self.fields[first];
        let spelled: SmallVec<[u8; 64]> = self.arena[old.name()].into();
        self.fields[first] = self.push_line(old.id, &spelled, |arena| arena.extend_from_slice(value));
        let arena = &self.arena;
        let mut at = 0;
        self.fields.retain(|field| {
            at += 1;
            at <= first + 1 || !arena[field.name()].eq_ignore_ascii_case(name.as_bytes())
        });
    }

    /// Removes all fields of a name (lower case).
    pub fn remove(&mut self, name: &str) {
        let arena = &self.arena;
        self.fields.retain(|field| !arena[field.name()].eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Removes all fields of a known name.
    pub fn remove_known(&mut self, id: Name) {
        if self.may_have(id) {
            self.fields.retain(|field| field.id != id);
            self.seen &= !id.bit();
        }
    }

    /// Keeps the fields for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(HeaderField<'_>) -> bool) {
        let arena = &self.arena;
        self.fields.retain(|field| {
            keep(HeaderField { id: field.id, name: &arena[field.name()], value: &arena[field.value()] })
        });
    }

    /// Writes `name: value\r\n` for every field. Neighbours that are neighbours in the buffer too leave as one piece: most
    /// heads are two or three pieces.
    pub fn write_to(&self, out: &mut super::pump::Out<'_>) {
        let mut piece = 0..0;
        for field in &self.fields {
            if field.is_line && field.name_at as usize == piece.end {
                piece.end = field.value().end + CRLF.len();
                continue;
            }
            out.put(&self.arena[piece]);
            if field.is_line {
                piece = field.name_at as usize..field.value().end + CRLF.len();
            } else {
                piece = 0..0;
                out.put(&self.arena[field.name()]);
                out.put(COLON);
                out.put(&self.arena[field.value()]);
                out.put(CRLF);
            }
        }
        out.put(&self.arena[piece]);
    }

    /// Copies bytes into the buffer and says where they are.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }

    /// Adds a field of this name whose bytes are already in the buffer.
    #[inline]
    pub(super) fn push_field_as(&mut self, id: Name, name: Range<usize>, value: Range<usize>) {
        let is_line = name.end + COLON.len() == value.start
            && self.arena[name.end..value.start] == *COLON
            && self.arena.get(value.end..value.end + CRLF.len()) == Some(CRLF);
        self.seen |= id.bit();
        self.fields.push(Field {
            name_at: name.start as u32,
            name_len: name.len() as u32,
            value_at: value.start as u32,
            value_len: value.len() as u32,
            id,
            is_line,
        });
    }

    /// Bytes of the buffer.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.arena[range]
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|field| {
                (String::from_utf8_lossy(field.name).into_owned(), String::from_utf8_lossy(field.value).into_owned())
            }))
            .finish()
    }
}

/// Version of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As it stands in logs.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
        }
    }
}

/// What Weir needs to know of a method.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Kind {
    Get,
    Head,
    /// Usually has a body.
    Bodied,
    /// As `Bodied`, and may be repeated.
    Put,
    /// May be repeated.
    Idempotent,
    #[default]
    Other,
}

impl Kind {
    fn of(method: &[u8]) -> Self {
        match method {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" | b"PATCH" => Self::Bodied,
            b"PUT" => Self::Put,
            b"DELETE" | b"OPTIONS" | b"TRACE" => Self::Idempotent,
            _ => Self::Other,
        }
    }
}

/// Head of a request. All text in it is ASCII without control bytes; who fills it has checked that.
#[derive(Default)]
pub struct RequestHead {
    /// The header fields. `Host` is not among them: it is the [`RequestHead::authority`].
    pub headers: Headers,
    /// Version that the client spoke.
    pub version: Version,
    /// Whether the client takes trailers (`TE: trailers`), which gRPC servers insist on.
    pub trailers_wanted: bool,
    kind: Kind,
    method: Range<usize>,
    path: Range<usize>,
    query: Option<Range<usize>>,
    authority: Range<usize>,
    /// Within the authority.
    host: Range<usize>,
}

impl RequestHead {
    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.version = Version::Http11;
        self.trailers_wanted = false;
        self.kind = Kind::Other;
        self.method = 0..0;
        self.path = 0..0;
        self.query = None;
        self.authority = 0..0;
        self.host = 0..0;
    }

    /// The method as sent.
    pub fn method(&self) -> &str {
        text(self.headers.bytes(self.method.clone()))
    }

    /// The normalised path; begins with `/`, or is `*`.
    pub fn path(&self) -> &str {
        text(self.headers.bytes(self.path.clone()))
    }

    /// The method, as bytes.
    pub fn method_bytes(&self) -> &[u8] {
        self.headers.bytes(self.method.clone())
    }

    /// The path, as bytes.
    pub fn path_bytes(&self) -> &[u8] {
        self.headers.bytes(self.path.clone())
    }

    /// The query without `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.clone().map(|range| text(self.headers.bytes(range)))
    }

    /// Host and optional port, lower-case; empty when an HTTP/1.0 client sent none.
    pub fn authority(&self) -> &str {
        text(self.headers.bytes(self.authority.clone()))
    }

    /// Whether the client said for whom the request is.
    pub fn has_authority(&self) -> bool {
        !self.authority.is_empty()
    }

    /// The host without port, without a trailing dot; with brackets when it is an IPv6 address.
    pub fn host(&self) -> &str {
        text(self.headers.bytes(self.host.clone()))
    }

    /// Adds a field of a known name at the end, whose value is the authority.
    pub fn append_authority(&mut self, id: Name) {
        let authority = self.authority.clone();
        self.headers.append_known(id, |arena| arena.extend_from_within(authority));
    }

    /// Replaces the method.
    pub fn set_method(&mut self, method: &str) {
        let range = self.headers.push_bytes(method.as_bytes());
        self.set_method_range(range);
    }

    /// Replaces the path. The caller has normalised it.
    pub fn set_path(&mut self, path: &str) {
        self.path = self.headers.push_bytes(path.as_bytes());
    }

    /// Replaces the query.
    pub fn set_query(&mut self, query: Option<&str>) {
        self.query = query.map(|query| self.headers.push_bytes(query.as_bytes()));
    }

    /// Replaces the authority, made lower-case.
    pub fn set_authority(&mut self, authority: &str) {
        let bytes = authority.as_bytes();
        let host = match memchr::memrchr(b':', bytes) {
            Some(colon) if memchr::memchr(b']', &bytes[colon..]).is_none() => colon,
            _ => bytes.len(),
        };
        self.place_authority(bytes, host);
    }

    /// Replaces the authority, whose first `host` bytes are the host, made lower-case.
    pub(super) fn place_authority(&mut self, authority: &[u8], host: usize) {
        let range = self.headers.push_bytes(authority);
        let bytes = &mut self.headers.arena[range.clone()];
        bytes.make_ascii_lowercase();
        let host = bytes[..host].strip_suffix(b".").map_or(host, <[u8]>::len);
        self.host = range.start..range.start + host;
        self.authority = range;
    }

    pub(super) fn set_method_range(&mut self, range: Range<usize>) {
        self.kind = Kind::of(self.headers.bytes(range.clone()));
        self.method = range;
    }

    pub(super) fn set_path_range(&mut self, range: Range<usize>) {
        self.path = range;
    }

    pub(super) fn set_query_range(&mut self, range: Option<Range<usize>>) {
        self.query = range;
    }

    /// Becomes a copy of another head.
    pub fn copy_from(&mut self, other: &RequestHead) {
        self.headers.arena.clone_from(&other.headers.arena);
        self.headers.fields.clone_from(&other.headers.fields);
        self.headers.seen = other.headers.seen;
        self.version = other.version;
        self.trailers_wanted = other.trailers_wanted;
        self.kind = other.kind;
        self.host = other.host.clone();
        self.method = other.method.clone();
        self.path = other.path.clone();
        self.query = other.query.clone();
        self.authority = other.authority.clone();
    }

    /// Whether the method promises to change nothing when repeated (RFC 9110 section 9.2.2).
    #[inline]
    pub fn is_idempotent(&self) -> bool {
        matches!(self.kind, Kind::Get | Kind::Head | Kind::Put | Kind::Idempotent)
    }

    /// Whether the method is HEAD, whose responses have no body.
    #[inline]
    pub fn is_head(&self) -> bool {
        self.kind == Kind::Head
    }

    /// Whether requests with this method usually have a body: POST, PUT, PATCH.
    #[inline]
    pub fn usually_has_body(&self) -> bool {
        matches!(self.kind, Kind::Bodied | Kind::Put)
    }

    /// Writes the request line as HTTP/1.1, and the Host field.
    pub fn write_start(&self, out: &mut super::pump::Out<'_>) {
        let bytes = |range: &Range<usize>| &self.headers.arena[range.clone()];
        out.put(bytes(&self.method));
        out.put(b" ");
        out.put(bytes(&self.path));
        if let Some(query) = &self.query {
            out.put(b"?");
            out.put(bytes(query));
        }
        out.put(b" HTTP/1.1\r\nhost: ");
        out.put(bytes(&self.authority));
        out.put(b"\r\n");
    }
}

/// Head of a response.
#[derive(Default, Debug)]
pub struct ResponseHead {
    /// The header fields.
    pub headers: Headers,
    /// The status, 100–599.
    pub status: u16,
}

impl ResponseHead {
    /// Forgets all, keeps the memory.
    pub fn clear(&mut self) {
        self.headers.clear();
        self.status = 0;
    }
}

fn text(bytes: &[u8]) -> &str {
    // Everything that enters a head has been checked to be ASCII; an empty text is the safe answer if that were wrong.
    std::str::from_utf8(bytes).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case_and_nothing_else_is() {
        for name in Name::ALL {
            let text = name.text();
            assert_eq!(Name::of(text.as_bytes()), *name);
            assert_eq!(Name::of(text.to_ascii_uppercase().as_bytes()), *name);
            for at in 0..text.len() {
                for byte in 0..=255 {
                    let mut bytes = text.as_bytes().to_vec();
                    bytes[at] = byte;
                    let same = byte.eq_ignore_ascii_case(&text.as_bytes()[at]);
                    assert_eq!(Name::of(&bytes) == *name, same, "{text} with {byte} at {at}");
                }
            }
            assert_ne!(Name::of(&text.as_bytes()[1..]), *name);
        }
        for other in ["", "x", "accept", "x-custom-header", "a-name-that-is-longer-than-all-others"] {
            assert_eq!(Name::of(other.as_bytes()), Name::Other);
        }
    }

    #[test]
    fn fields_keep_their_order_through_changes() {
        let mut headers = Headers::default();
        headers.append(b"A", b"1");
        headers.append(b"B", b"2");
        headers.append(b"a", b"3");
        headers.set("a", b"9");
        headers.append(b"C", b"4");
        headers.remove("b");
        let mut buffer = [0; 64];
        let mut out = super::super::pump::Out::new(&mut buffer);
        headers.write_to(&mut out);
        let length = out.written().unwrap();
        assert_eq!(&buffer[..length], b"A: 9\r\nC: 4\r\n");
    }

    #[test]
    fn host_is_the_authority_without_port_and_dot() {
        let mut head = RequestHead::default();
        for (authority, host) in [
            ("Shop.Test:80", "shop.test"),
            ("shop.test.", "shop.test"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            head.set_authority(authority);
            assert_eq!(head.host(), host);
        }
    }

    #[test]
    fn cookies_are_found_across_fields_and_crumbs() {
        let mut headers = Headers::default();
        headers.append(b"cookie", b"a=1; weir-color=green");
        headers.append(b"cookie", b"b=2");
        assert_eq!(headers.cookie("weir-color"), Some(&b"green"[..]));
        assert_eq!(headers.cookie("b"), Some(&b"2"[..]));
        assert_eq!(headers.cookie("color"), None);
    }
}
