//! A naive look at a message, more tolerant than either side: what the judged table speaks about.

/// A message as it stands in the stream, from its first byte on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Messages before it in the stream.
    pub before: usize,
    /// Bytes of empty lines before it.
    pub empty: usize,
    /// Bytes of its head.
    pub head: usize,
    text: &'a [u8],
    line: &'a [u8],
    fields: Vec<(String, &'a [u8])>,
    /// Whether there is a tab in the white space around a value that frames the body.
    pub tab_around_framing: bool,
    rest: &'a [u8],
}

/// What a chunked body is made of.
#[derive(Default, Debug)]
pub struct Chunks {
    /// White space after a size.
    pub blanks: bool,
    /// Most digits of a size.
    pub digits: usize,
    /// Bytes of extensions in sum.
    pub extensions: usize,
    /// Control bytes in an extension.
    pub extension_controls: bool,
    /// Bytes of trailer lines without their ends.
    pub trailers: usize,
    /// A trailer line ends in LF alone, or has a CR in it.
    pub trailer_ends_oddly: bool,
    /// Trailer lines.
    pub trailer_lines: usize,
    /// Bytes up to the end of the body, if there is one.
    pub length: Option<usize>,
}

impl<'a> Facts<'a> {
    /// Of the message that begins here, after so many others.
    pub fn of(stream: &'a [u8], before: usize) -> Self {
        let empty = stream.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let mut at = empty;
        let mut lines = Vec::new();
        while let Some((line, length)) = line(&stream[at..]) {
            at += length;
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let fields = lines.iter().skip(1).filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), line[colon + 1..].trim_ascii()))
        });
        let tab_around_framing = lines.iter().skip(1).any(|line| {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { return false };
            let frames = |name: &&str| name.as_bytes().eq_ignore_ascii_case(&line[..colon]);
            let after = &line[colon + 1..];
            let leading = after.len() - after.trim_ascii_start().len();
            let trailing = after.trim_ascii_end().len().max(leading);
            ["content-length", "transfer-encoding"].iter().any(frames)
                && (after[..leading].contains(&b'\t') || after[trailing..].contains(&b'\t'))
        });
        Self {
            before,
            empty,
            tab_around_framing,
            head: at,
            text: &stream[..at],
            line: lines.first().copied().unwrap_or_default(),
            fields: fields.collect(),
            rest: &stream[at..],
        }
    }

    /// Bytes of a message that both sides accepted, by its framing.
    pub fn length(&self) -> usize {
        let body = if self.has("transfer-encoding") {
            self.chunks().length
        } else {
            self.all("content-length").first().and_then(|length| std::str::from_utf8(length).ok()?.parse().ok())
        };
        self.head + body.unwrap_or(0)
    }

    /// Whether any line of the head ends in LF alone.
    pub fn has_bare_line_feed(&self) -> bool {
        self.text.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || self.text[at - 1] != b'\r'))
    }

    /// The values of a name in lower case.
    pub fn all(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect()
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == name)
    }

    /// Whether Transfer-Encoding is absent, or exactly one `chunked`.
    pub fn is_plainly_chunked(&self) -> bool {
        match &self.all("transfer-encoding")[..] {
            [] => true,
            [coding] => coding.eq_ignore_ascii_case(b"chunked"),
            _ => false,
        }
    }

    fn word(&self, index: usize) -> &'a [u8] {
        self.line.split(|byte| *byte == b' ').nth(index).unwrap_or_default()
    }

    /// The method of a request.
    pub fn method(&self) -> &'a [u8] {
        self.word(0)
    }

    /// The target of a request.
    pub fn target(&self) -> &'a [u8] {
        self.word(1)
    }

    /// Whether it says to be HTTP/1.0.
    pub fn is_http_10(&self) -> bool {
        self.line.starts_with(b"HTTP/1.0 ") || self.line.ends_with(b" HTTP/1.0")
    }

    /// The status of a response.
    pub fn status(&self) -> u16 {
        std::str::from_utf8(self.word(1)).ok().and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The authority of a target in absolute-form.
    pub fn target_authority(&self) -> Option<&'a [u8]> {
        let target = self.target();
        let scheme = [&b"http://"[..], b"https://"]
            .into_iter()
            .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))?;
        target[scheme.len()..].split(|byte| matches!(byte, b'/' | b'?' | b'#')).next()
    }

    /// Whether Host is this name.
    pub fn host_is(&self, name: &[u8]) -> bool {
        self.all("host").iter().all(|host| host.eq_ignore_ascii_case(name))
    }

    /// Whether this is a name or an address, and perhaps a port up to 65535 of at most five digits.
    pub fn is_host(&self, text: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(text) else { return false };
        let (host, port) = match text.rfind(']') {
            Some(end) => (&text[..=end], text[end + 1..].strip_prefix(':').or((end + 1 < text.len()).then_some("x"))),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let host_is_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                (1..=255).contains(&host.len()) && host.bytes().all(good)
            }
        };
        let digits = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
        host_is_good && port.is_none_or(|port| digits(port) && port.parse::<u16>().is_ok())
    }

    /// The body read as chunks.
    pub fn chunks(&self) -> Chunks {
        let mut chunks = Chunks::default();
        if !self.has("transfer-encoding") {
            return chunks;
        }
        let mut at = 0;
        while let Some((line, length)) = line(&self.rest[at..]) {
            at += length;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            chunks.digits = chunks.digits.max(digits);
            let after = &line[digits..];
            let blanks = after.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            chunks.blanks |= blanks > 0;
            let extension = &after[blanks..];
            chunks.extensions += extension.len();
            chunks.extension_controls |= extension.iter().any(|byte| *byte < 0x20 && *byte != b'\t' || *byte == 0x7f);
            let size = std::str::from_utf8(&line[..digits]).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
            match size.and_then(|size| usize::try_from(size).ok()) {
                Some(0) => break,
                Some(size) if self.rest.len() - at >= size.saturating_add(2) => at += size + 2,
                _ => return chunks,
            }
        }
        while let Some((line, length)) = line(&self.rest[at..]) {
            at += length;
            chunks.trailer_ends_oddly |= length != line.len() + 2 || line.contains(&b'\r');
            if line.is_empty() {
                chunks.length = Some(at);
                break;
            }
            chunks.trailers += line.len();
            chunks.trailer_lines += 1;
        }
        chunks
    }
}

/// The first line without its end, which is LF with or without CR, and its length with it.
fn line(text: &[u8]) -> Option<(&[u8], usize)> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let line = &text[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}
