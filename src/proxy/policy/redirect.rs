//! Redirects.

use super::rewrite::{PathBuffer, write_path};
use crate::model::Redirect;
use crate::proxy::wire::RequestHead;
use crate::proxy::wire::pump::Decimal;

/// How the request came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Whether the client spoke `https` (to Weir, or to a trusted peer that says so).
    pub https: bool,
    /// Port of the listener, as clients know it.
    pub port: u16,
}

/// Writes the value of `Location` and returns the status. `prefix` is the prefix that the route matched.
///
/// The port is the one written in the redirect, else the well-known one of a scheme written there, else the listener's;
/// it is left out when it is the well-known one of the resulting scheme (Gateway API, `HTTPRequestRedirectFilter`). For a
/// request without a host (HTTP/1.0) and a redirect without one, the location is a path (RFC 9110 section 10.2.2).
pub fn locate(
    redirect: &Redirect,
    prefix: Option<&str>,
    head: &RequestHead,
    arrived: Arrived,
    location: &mut Vec<u8>,
) -> u16 {
    let scheme = redirect.scheme.as_deref().unwrap_or(if arrived.https { "https" } else { "http" });
    let host = redirect.host.as_deref().unwrap_or(head.host());
    if !host.is_empty() {
        location.extend_from_slice(scheme.as_bytes());
        location.extend_from_slice(b"://");
        location.extend_from_slice(host.as_bytes());
        let well_known = well_known(scheme);
        let port = match (redirect.port, &redirect.scheme) {
            (Some(port), _) => port,
            (None, Some(_)) => well_known.unwrap_or(arrived.port),
            (None, None) => arrived.port,
        };
        if Some(port) != well_known {
            location.push(b':');
            location.extend_from_slice(Decimal::of(port.into()).bytes());
        }
    }
    match &redirect.path {
        Some(edit) => {
            let mut path = PathBuffer::new();
            write_path(edit, prefix, head.path(), &mut path);
            location.extend_from_slice(&path);
        }
        // `OPTIONS *` has no path to go to.
        None if head.path() == "*" => location.push(b'/'),
        None => location.extend_from_slice(head.path().as_bytes()),
    }
    // A location that began with two slashes would name another host.
    if host.is_empty() && location.starts_with(b"//") {
        location.splice(0..0, *b"/.");
    }
    if let Some(query) = head.query() {
        location.push(b'?');
        location.extend_from_slice(query.as_bytes());
    }
    redirect.status
}

fn well_known(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PathEdit;

    const AS_REQUESTED: Redirect = Redirect { scheme: None, host: None, port: None, path: None, status: 302 };

    fn location(redirect: &Redirect, authority: &str, target: &str, https: bool, port: u16) -> String {
        let mut head = RequestHead::default();
        head.set_authority(authority);
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        head.set_path(path);
        head.set_query(query);
        let mut out = Vec::new();
        assert_eq!(locate(redirect, Some("/a"), &head, Arrived { https, port }, &mut out), redirect.status);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn port_follows_the_rules_of_gateway_api() {
        let scheme = |scheme: &str| Some(scheme.into());
        // redirect scheme, redirect port, listener is https, listener port, expected
        for (to, port, https, listener, expected) in [
            (None, None, false, 80, "http://shop.test/a"),
            (None, None, false, 8080, "http://shop.test:8080/a"),
            (None, None, true, 443, "https://shop.test/a"),
            (None, None, true, 8443, "https://shop.test:8443/a"),
            (scheme("https"), None, false, 80, "https://shop.test/a"),
            (scheme("https"), None, false, 8080, "https://shop.test/a"),
            (scheme("http"), None, true, 8443, "http://shop.test/a"),
            (scheme("https"), Some(8443), false, 80, "https://shop.test:8443/a"),
            (scheme("https"), Some(443), false, 8080, "https://shop.test/a"),
            (scheme("http"), Some(80), false, 8080, "http://shop.test/a"),
            (scheme("https"), Some(80), false, 80, "https://shop.test:80/a"),
            (None, Some(8083), false, 80, "http://shop.test:8083/a"),
            (None, Some(80), false, 8080, "http://shop.test/a"),
            (None, Some(443), true, 8443, "https://shop.test/a"),
        ] {
            let redirect = Redirect { scheme: to, port, ..AS_REQUESTED };
            assert_eq!(location(&redirect, "shop.test:1234", "/a", https, listener), expected, "{redirect:?}");
        }
    }

    #[test]
    fn host_path_and_query_are_replaced_or_kept() {
        let full = Redirect { host: Some("new.test".into()), path: Some(PathEdit::Full("/x".into())), ..AS_REQUESTED };
        assert_eq!(location(&full, "old.test", "/a/b?q=1", false, 80), "http://new.test/x?q=1");
        let prefix = Redirect { path: Some(PathEdit::Prefix("/new".into())), status: 301, ..AS_REQUESTED };
        assert_eq!(location(&prefix, "old.test", "/a/b?", false, 80), "http://old.test/new/b?");
        assert_eq!(location(&AS_REQUESTED, "[::1]:8080", "/a", false, 8080), "http://[::1]:8080/a");
        assert_eq!(location(&AS_REQUESTED, "old.test", "*", false, 80), "http://old.test/");
    }

    #[test]
    fn request_without_host_gets_a_path_that_cannot_name_a_host() {
        assert_eq!(location(&AS_REQUESTED, "", "/a?b", false, 80), "/a?b");
        assert_eq!(location(&AS_REQUESTED, "", "//evil.test/a", false, 80), "/.//evil.test/a");
    }
}
