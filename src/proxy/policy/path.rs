//! The one form of a path that is matched and forwarded.
//!
//! Invariant: normalising a normalised path changes nothing. A path that could be read in two ways is refused, because
//! what a route allows must be what the backend sees.

use crate::proxy::fault::Fault;

/// What happens to slashes that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Slashes {
    /// They become one.
    #[default]
    Merge,
    /// They stay: empty segments are data.
    Keep,
}

/// Whether [`normalise`] had anything to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The path is normal as it is; nothing was written.
    Unchanged,
    /// The normal path was written.
    Changed,
}

/// Brings a path (without query) into its normal form: percent-encoded unreserved characters are decoded (RFC 3986
/// section 6.2.2.2), slashes merged if so wished, dot segments removed (section 5.2.4; above the root there is nothing to
/// leave). Everything else stays as sent: `%2F` and `;` are data. When there is something to do, the result is appended
/// to `out`.
///
/// # Errors
///
/// [`Fault::BadRequest`] for control bytes, encoded (`%00`–`%1F`, `%7F`) or not, spaces, `\`, `#`, `?`, bytes beyond
/// ASCII, `%` without two hexadecimal digits, and a path that does not begin with `/` (only `*` may). `out` is then as
/// it was.
pub fn normalise(path: &[u8], slashes: Slashes, out: &mut Vec<u8>) -> Result<Form, Fault> {
    if path == b"*" {
        return Ok(Form::Unchanged);
    }
    if path.first() != Some(&b'/') {
        return Err(Fault::BadRequest);
    }
    // One look at every byte; nearly every path is found normal here.
    let mut before = 0;
    let mut normal = true;
    for byte in path {
        match byte {
            0..=b' ' | 0x7f.. | b'\\' | b'#' | b'?' => return Err(Fault::BadRequest),
            b'%' => normal = false,
            // A segment that begins with a dot may be a dot segment.
            b'.' if before == b'/' => normal = false,
            b'/' if before == b'/' && slashes == Slashes::Merge => normal = false,
            _ => {}
        }
        before = *byte;
    }
    if normal {
        return Ok(Form::Unchanged);
    }
    let start = out.len();
    if rebuild(path, slashes, out, start).is_none() {
        out.truncate(start);
        return Err(Fault::BadRequest);
    }
    if &out[start..] == path {
        out.truncate(start);
        return Ok(Form::Unchanged);
    }
    Ok(Form::Changed)
}

/// Writes segment by segment. What stands in `out` from `start` on begins with a slash before each segment.
fn rebuild(path: &[u8], slashes: Slashes, out: &mut Vec<u8>, start: usize) -> Option<()> {
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let at = out.len();
        out.push(b'/');
        decode(segment, out)?;
        match &out[at + 1..] {
            b"" if slashes == Slashes::Merge && !last => out.truncate(at),
            b"." => out.truncate(at),
            b".." => {
                out.truncate(at);
                let parent = out[start..].iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                out.truncate(start + parent);
            }
            _ => continue,
        }
        // A path that ends in a dot segment names a directory.
        if last {
            out.push(b'/');
        }
    }
    Some(())
}

/// Decodes unreserved characters; `None` for what must not be there.
fn decode(segment: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = segment;
    while let Some(percent) = rest.iter().position(|byte| *byte == b'%') {
        out.extend_from_slice(&rest[..percent]);
        let [high, low] = *rest.get(percent + 1..percent + 3)? else { return None };
        let byte = hex(high)? << 4 | hex(low)?;
        match byte {
            0..=0x1f | 0x7f => return None,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            _ => out.extend_from_slice(&rest[percent..percent + 3]),
        }
        rest = &rest[percent + 3..];
    }
    out.extend_from_slice(rest);
    Some(())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str, slashes: Slashes) -> Result<String, Fault> {
        let mut out = b"before".to_vec();
        let form = normalise(path.as_bytes(), slashes, &mut out)?;
        let written = String::from_utf8(out[6..].to_vec()).unwrap();
        match form {
            Form::Unchanged => assert!(written.is_empty(), "{path}"),
            Form::Changed => assert_ne!(written, path),
        }
        Ok(if form == Form::Unchanged { path.to_owned() } else { written })
    }

    #[test]
    fn paths_get_their_normal_form() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a//b///c", "/a/b/c"),
            ("//", "/"),
            ("//a", "/a"),
            ("/a//", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/.", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a//../b", "/b"),
            ("/a/..//b", "/b"),
            ("/.a/..b/...", "/.a/..b/..."),
            ("/%61%62", "/ab"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e", "/a/"),
            ("/%2e%2e/", "/"),
            ("/%7Euser/%2D%5f", "/~user/-_"),
            ("/a%2fb/..", "/"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a/..%2fb", "/a/..%2fb"),
            ("/a/..;/b", "/a/..;/b"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%25%32%65", "/%252e"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("/%20%3f%23%5c", "/%20%3f%23%5c"),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ] {
            assert_eq!(normal(path, Slashes::Merge).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn kept_slashes_are_empty_segments() {
        for (path, expected) in [
            ("/a//b", "/a//b"),
            ("//", "//"),
            ("/a//../b", "/a/b"),
            ("/a/..//b", "//b"),
            ("/a/b/..//", "/a//"),
            ("/a//.", "/a//"),
            ("//..", "/"),
        ] {
            assert_eq!(normal(path, Slashes::Keep).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for path in [
            "",
            "a",
            "a/b",
            "**",
            "http://a/b",
            "/a\\b",
            "/..\\",
            "/%00",
            "/a%0a",
            "/%0D",
            "/%1f",
            "/%7f",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/%%32e",
            "/%2",
            "/a b",
            "/a\tb",
            "/a\0",
            "/a\r",
            "/a#b",
            "/a?b",
            "/é",
            "/a/%2",
            "/%u0041",
        ] {
            for slashes in [Slashes::Merge, Slashes::Keep] {
                assert_eq!(normal(path, slashes), Err(Fault::BadRequest), "{path:?}");
            }
        }
        let mut out = b"kept".to_vec();
        assert!(normalise(b"/a/../b/%00", Slashes::Merge, &mut out).is_err());
        assert_eq!(out, b"kept");
    }

    #[test]
    fn normal_form_is_normal_for_fifty_thousand_hostile_paths() {
        const PIECES: &[&str] =
            &["/", "//", ".", "..", "%2e", "%2E", "%25", "%32", "%65", "%2f", "%", "a", ";", "/./", "/../", "%41", "~"];
        let mut rng = fastrand::Rng::with_seed(42);
        let mut normalised = 0;
        for _ in 0..50_000 {
            let mut path = String::from("/");
            (0..rng.usize(..10)).for_each(|_| path.push_str(PIECES[rng.usize(..PIECES.len())]));
            for slashes in [Slashes::Merge, Slashes::Keep] {
                let Ok(once) = normal(&path, slashes) else { continue };
                normalised += 1;
                assert_eq!(normal(&once, slashes).as_deref(), Ok(&*once), "{path} as {once}");
                assert!(once.starts_with('/'));
                assert!(once.split('/').all(|segment| segment != "." && segment != ".."), "{path} as {once}");
                assert!(slashes == Slashes::Keep || !once.contains("//"), "{path} as {once}");
                assert!(!once.to_lowercase().contains("%2e"), "{path} as {once}");
            }
        }
        assert!(normalised > 20_000, "{normalised}");
    }
}
