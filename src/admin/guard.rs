//! Who may ask what: hosts, origins, tokens.
//!
//! A page in the operator's browser can make requests to loopback addresses and, by rebinding a name, read the answers.
//! So a request must name this machine as its host, must not come from another origin, and must prove that it may change
//! something; a browser does the last only for the page that knows the token.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The host is missing, given twice or unreadable.
    BadHost,
    /// The host is not this machine.
    ForeignHost,
    /// The request comes from a page of another origin.
    ForeignOrigin,
    /// No token is configured.
    ReadOnly,
    /// The token is missing or wrong.
    BadToken,
}

impl Refusal {
    /// Status and text of the answer.
    pub const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::BadHost => (400, "exactly one Host is needed"),
            Self::ForeignHost => {
                (403, "this host name is not served here; use a loopback name or add it to admin.hosts")
            }
            Self::ForeignOrigin => (403, "requests from pages of another origin are refused"),
            Self::ReadOnly => (403, "changes are off; set admin.token to allow them"),
            Self::BadToken => (401, "changes need the header Authorization: Bearer TOKEN"),
        }
    }
}

/// Checks that the host is this machine: a loopback name, the address that the connection came in at, or a configured name.
pub fn host(headers: &HeaderMap, local: SocketAddr, configured: &[String]) -> Result<(), Refusal> {
    let authority = single(headers, HOST).ok_or(Refusal::BadHost)?;
    let name = host_of(authority).ok_or(Refusal::BadHost)?;
    let own = match name.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address.is_loopback() || address == local.ip().to_canonical()
        }
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    };
    let known = own || configured.iter().any(|host| host.eq_ignore_ascii_case(name));
    if known { Ok(()) } else { Err(Refusal::ForeignHost) }
}

/// Checks that a browser's page, if that is who asks, is one of ours.
pub fn origin(headers: &HeaderMap) -> Result<(), Refusal> {
    if !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let (origin, host) = (single(headers, ORIGIN), single(headers, HOST));
    let own = origin.and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")));
    match (own, host) {
        (Some(own), Some(host)) if own.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(Refusal::ForeignOrigin),
    }
}

/// Checks that the request may change something.
pub fn token(headers: &HeaderMap, token: Option<&str>) -> Result<(), Refusal> {
    let token = token.filter(|token| !token.is_empty()).ok_or(Refusal::ReadOnly)?;
    let given = single(headers, AUTHORIZATION).and_then(|value| {
        let (scheme, given) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(given.trim())
    });
    match given {
        Some(given) if equal(given.as_bytes(), token.as_bytes()) => Ok(()),
        _ => Err(Refusal::BadToken),
    }
}

/// The value of a header that is there exactly once.
fn single(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// The host of an authority without port, brackets and a trailing dot.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (address, port.strip_prefix(':').unwrap_or(port))
    } else {
        authority.split_once(':').unwrap_or((authority, ""))
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let numeric = port.bytes().all(|byte| byte.is_ascii_digit());
    (numeric && !host.is_empty()).then_some(host)
}

/// Compares in a time that does not depend on where the difference is.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_this_machines_names_are_hosts() {
        let local = "10.1.2.3:9900".parse().unwrap();
        let configured = ["weir-admin.example".to_owned()];
        for good in [
            "localhost",
            "LOCALHOST:9900",
            "localhost.",
            "127.0.0.1:9900",
            "127.8.9.1",
            "[::1]:9900",
            "[::1]",
            "10.1.2.3",
            "weir-admin.example:80",
        ] {
            assert_eq!(host(&headers(&[(HOST, good)]), local, &configured), Ok(()), "{good}");
        }
        for foreign in
            ["evil.test", "localhost.evil.test", "10.1.2.4:9900", "127.0.0.1.evil.test", "[::2]", "xlocalhost"]
        {
            assert_eq!(host(&headers(&[(HOST, foreign)]), local, &configured), Err(Refusal::ForeignHost), "{foreign}");
        }
        for bad in ["", ":80", "localhost:80x", "[::1", "localhost:1:2"] {
            assert_eq!(host(&headers(&[(HOST, bad)]), local, &configured), Err(Refusal::BadHost), "{bad}");
        }
        let mut twice = headers(&[(HOST, "localhost")]);
        twice.append(HOST, "localhost".parse().unwrap());
        assert_eq!(host(&twice, local, &configured), Err(Refusal::BadHost));
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        let with = |value: &str| origin(&headers(&[(HOST, "localhost:9900"), (ORIGIN, value)]));
        assert_eq!(origin(&headers(&[(HOST, "localhost:9900")])), Ok(()));
        assert_eq!(with("http://localhost:9900"), Ok(()));
        for foreign in ["http://localhost:3000", "http://evil.test", "null", "", "ftp://localhost:9900"] {
            assert_eq!(with(foreign), Err(Refusal::ForeignOrigin), "{foreign}");
        }
    }

    #[test]
    fn changes_need_the_whole_token() {
        let with = |value: &str| token(&headers(&[(AUTHORIZATION, value)]), Some("s3cret"));
        assert_eq!(with("Bearer s3cret"), Ok(()));
        assert_eq!(with("bearer  s3cret"), Ok(()));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Bearer ", "s3cret", "Basic s3cret", "Bearer S3cret"] {
            assert_eq!(with(wrong), Err(Refusal::BadToken), "{wrong}");
        }
        for off in [None, Some("")] {
            assert_eq!(token(&headers(&[(AUTHORIZATION, "Bearer ")]), off), Err(Refusal::ReadOnly));
        }
    }
}
