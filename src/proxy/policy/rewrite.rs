//! Changes of host and path before a request is forwarded.

use smallvec::SmallVec;

use crate::model::{PathEdit, Rewrite};
use crate::proxy::wire::RequestHead;

/// Rewrites what is forwarded. `prefix` is the prefix that the route matched, as written in it; without one, a prefix
/// is not replaced. The query stays.
pub fn apply(rewrite: &Rewrite, prefix: Option<&str>, head: &mut RequestHead) {
    if let Some(host) = &rewrite.host {
        head.set_authority(host);
    }
    if let Some(edit) = &rewrite.path {
        let mut path = PathBuffer::new();
        write_path(edit, prefix, head.path(), &mut path);
        if let Ok(path) = std::str::from_utf8(&path) {
            head.set_path(path);
        }
    }
}

/// Long enough for nearly every path, so that nothing is allocated.
pub(super) type PathBuffer = SmallVec<[u8; 256]>;

/// The path after an edit, as the tables of Gateway API's `HTTPPathModifier` have it: prefixes are whole segments, a
/// slash at the end of prefix or replacement is not doubled, and the result always begins with a slash.
pub(super) fn write_path(edit: &PathEdit, prefix: Option<&str>, path: &str, out: &mut PathBuffer) {
    match edit {
        PathEdit::Full(new) => {
            if !new.starts_with('/') {
                out.push(b'/');
            }
            out.extend_from_slice(new.as_bytes());
        }
        PathEdit::Prefix(new) => match prefix.and_then(|prefix| below(path, prefix)) {
            Some(rest) => {
                let new = if rest.is_empty() { new } else { new.strip_suffix('/').unwrap_or(new) };
                if !new.is_empty() && !new.starts_with('/') {
                    out.push(b'/');
                }
                out.extend_from_slice(new.as_bytes());
                out.extend_from_slice(rest.as_bytes());
                if out.is_empty() {
                    out.push(b'/');
                }
            }
            None => out.extend_from_slice(path.as_bytes()),
        },
    }
}

/// What follows the prefix: nothing, or something that begins with a slash.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(path: &str, prefix: &str, new: &str) -> String {
        let mut head = RequestHead::default();
        head.set_path(path);
        head.set_query(Some("q=1"));
        let rewrite = Rewrite { host: None, path: Some(PathEdit::Prefix(new.into())) };
        apply(&rewrite, Some(prefix), &mut head);
        assert_eq!(head.query(), Some("q=1"));
        head.path().to_owned()
    }

    #[test]
    fn prefix_is_replaced_by_whole_segments_and_slashes_are_not_doubled() {
        for (path, prefix, new, expected) in [
            // The table of Gateway API.
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            // More edges.
            ("/foo/", "/foo/", "/xyz/", "/xyz/"),
            ("/foo", "/foo", "/xyz/", "/xyz/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/bar", "/", "/", "/bar"),
            ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
            ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
            ("/foobar", "/foo", "/xyz", "/foobar"),
            ("/other", "/foo", "/xyz", "/other"),
        ] {
            assert_eq!(rewritten(path, prefix, new), expected, "{path} {prefix} -> {new}");
        }
    }

    #[test]
    fn full_path_and_host_are_replaced() {
        let mut head = RequestHead::default();
        head.set_authority("shop.test:8080");
        head.set_path("/a/b");
        head.set_query(Some("q"));
        let rewrite = Rewrite { host: Some("Inner.Test".into()), path: Some(PathEdit::Full("/one".into())) };
        apply(&rewrite, None, &mut head);
        assert_eq!((head.authority(), head.path(), head.query()), ("inner.test", "/one", Some("q")));
    }

    #[test]
    fn without_a_matched_prefix_none_is_replaced() {
        let mut head = RequestHead::default();
        head.set_path("/a/b");
        apply(&Rewrite { host: None, path: Some(PathEdit::Prefix("/x".into())) }, None, &mut head);
        assert_eq!(head.path(), "/a/b");
    }
}
