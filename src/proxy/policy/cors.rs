//! What pages of other origins may read, and what they may send (Fetch standard, "CORS protocol"; Gateway API,
//! HTTPCORSFilter).
//!
//! A browser asks first (a preflight) and then looks at the answer's fields: nothing is refused here, it is only said or not
//! said that a page may read. A route with this policy speaks for its backends: whatever they say themselves is replaced.
//! All text that does not depend on the request is made once, by compile.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::model;
use crate::proxy::wire::{RequestHead, ResponseHead};

const ORIGIN: &str = "origin";
const REQUEST_METHOD: &str = "access-control-request-method";
const REQUEST_HEADERS: &str = "access-control-request-headers";
const RESPONSE: &[u8] = b"access-control-";

/// The policy of a route, ready to be written.
#[derive(Debug)]
pub struct Cors {
    origins: Origins,
    methods: Allowed,
    headers: Allowed,
    expose: Option<Box<str>>,
    credentials: bool,
    max_age: Box<str>,
}

#[derive(Debug)]
enum Origins {
    /// `*`.
    All,
    These(Box<[Pattern]>),
}

#[derive(Debug)]
enum Allowed {
    /// Only what needs no permission.
    Simple,
    /// This list.
    Listed(Box<str>),
    /// `*`: what is asked for is repeated. The wildcard itself would not do: with credentials it is a plain name, and it
    /// never covers `Authorization`.
    Asked,
}

/// `scheme://host[:port]`, or with `*` for the labels on the left.
#[derive(Debug)]
struct Pattern {
    before: Box<[u8]>,
    /// What follows the wildcard, if there is one.
    after: Option<Box<[u8]>>,
}

/// What the response to one request will say.
#[derive(Debug)]
pub struct Sharing {
    policy: Arc<Cors>,
    /// The page's origin as it was sent, if it is an allowed one.
    origin: Option<SmallVec<[u8; 64]>>,
}

impl Cors {
    /// Prepares a policy.
    pub fn new(desired: &model::Cors) -> Self {
        let all = |list: &[Arc<str>]| list.iter().any(|entry| &**entry == "*");
        let joined = |list: &[Arc<str>]| list.join(", ").into_boxed_str();
        let allowed = |list: &[Arc<str>]| match list {
            [] => Allowed::Simple,
            list if all(list) => Allowed::Asked,
            list => Allowed::Listed(joined(list)),
        };
        let expose = match &*desired.expose {
            [] => None,
            // With credentials the wildcard is a plain name, and there is no way to say "all".
            list if all(list) => (!desired.credentials).then(|| "*".into()),
            list => Some(joined(list)),
        };
        let origins = if all(&desired.origins) {
            Origins::All
        } else {
            Origins::These(desired.origins.iter().map(|origin| Pattern::new(origin)).collect())
        };
        Self {
            origins,
            methods: allowed(&desired.methods),
            headers: allowed(&desired.headers),
            expose,
            credentials: desired.credentials,
            max_age: desired.max_age.as_secs().to_string().into(),
        }
    }

    /// Looks at who asks. To be called with the request as the client sent it.
    pub fn judge(self: &Arc<Self>, head: &RequestHead) -> Sharing {
        let mut sent = head.headers.get_all(ORIGIN);
        let origin = match (sent.next(), sent.next()) {
            (Some(origin), None) if self.admits(origin) => Some(origin.into()),
            _ => None,
        };
        Sharing { policy: self.clone(), origin }
    }

    fn admits(&self, origin: &[u8]) -> bool {
        match &self.origins {
            Origins::All => !origin.is_empty(),
            Origins::These(patterns) => {
                let origin = without_default_port(origin);
                patterns.iter().any(|pattern| pattern.matches(origin))
            }
        }
    }

    /// Whether `*` is the answer to everyone.
    fn is_public(&self) -> bool {
        matches!(self.origins, Origins::All) && !self.credentials
    }
}

/// Whether a browser asks what a page may send (Fetch standard, "CORS-preflight request").
pub fn is_preflight(head: &RequestHead) -> bool {
    head.method() == "OPTIONS" && head.headers.get(ORIGIN).is_some() && head.headers.get(REQUEST_METHOD).is_some()
}

impl Sharing {
    /// Writes what is said on every response. What the backend said is removed first.
    pub fn write(&self, response: &mut ResponseHead) {
        let policy = &*self.policy;
        let headers = &mut response.headers;
        headers.retain(|field| !starts_with(field.name, RESPONSE));
        if policy.is_public() {
            headers.append(b"access-control-allow-origin", b"*");
        } else {
            // Also where there is no permission: a cache must not hand that answer to a page that has it.
            headers.append(b"vary", b"origin");
            let Some(origin) = &self.origin else { return };
            headers.append(b"access-control-allow-origin", origin);
            if policy.credentials {
                headers.append(b"access-control-allow-credentials", b"true");
            }
        }
        if let Some(expose) = &policy.expose {
            headers.append(b"access-control-expose-headers", expose.as_bytes());
        }
    }

    /// Writes what a preflight asks for, beside what [`Sharing::write`] has written: nothing to an origin that is not
    /// allowed.
    pub fn write_preflight(&self, request: &RequestHead, response: &mut ResponseHead) {
        let policy = &*self.policy;
        if self.origin.is_none() {
            return;
        }
        let mut say = |name: &[u8], allowed: &Allowed, asked: &str| {
            let value = match allowed {
                Allowed::Simple => None,
                Allowed::Listed(list) => Some(list.as_bytes()),
                Allowed::Asked => request.headers.get(asked).filter(|asked| is_list_of_tokens(asked)),
            };
            if let Some(value) = value {
                response.headers.append(name, value);
            }
        };
        say(b"access-control-allow-methods", &policy.methods, REQUEST_METHOD);
        say(b"access-control-allow-headers", &policy.headers, REQUEST_HEADERS);
        response.headers.append(b"access-control-max-age", policy.max_age.as_bytes());
    }
}

impl Pattern {
    fn new(text: &str) -> Self {
        let text = without_default_port(text.as_bytes());
        match text.iter().position(|byte| *byte == b'*') {
            Some(at) => Self { before: text[..at].into(), after: Some(text[at + 1..].into()) },
            None => Self { before: text.into(), after: None },
        }
    }

    /// Scheme and host know no case, and browsers write lower case.
    fn matches(&self, origin: &[u8]) -> bool {
        if !starts_with(origin, &self.before) {
            return false;
        }
        let rest = &origin[self.before.len()..];
        let Some(after) = &self.after else { return rest.is_empty() };
        let Some(at) = rest.len().checked_sub(after.len()).filter(|at| *at > 0) else { return false };
        rest[at..].eq_ignore_ascii_case(after) && rest[..at].iter().all(|byte| is_of_a_name(*byte))
    }
}

/// The port that a scheme has anyway is not written in an origin (HTML standard, "serialization of an origin").
fn without_default_port(origin: &[u8]) -> &[u8] {
    let port: &[u8] = if starts_with(origin, b"https://") { b":443" } else { b":80" };
    origin.strip_suffix(port).unwrap_or(origin)
}

fn starts_with(text: &[u8], begin: &[u8]) -> bool {
    text.get(..begin.len()).is_some_and(|start| start.eq_ignore_ascii_case(begin))
}

/// What labels of a host name are made of, and the dots between them: nothing that could end the host.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

fn is_list_of_tokens(value: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, \t".contains(byte);
    !value.is_empty() && value.iter().all(token)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn list(words: &[&str]) -> Vec<Arc<str>> {
        words.iter().map(|word| Arc::from(*word)).collect()
    }

    fn policy(origins: &[&str], credentials: bool) -> model::Cors {
        model::Cors { origins: list(origins), credentials, max_age: Duration::from_secs(5), ..model::Cors::default() }
    }

    fn request(method: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        head.set_method(method);
        fields.iter().for_each(|(name, value)| head.headers.append(name.as_bytes(), value.as_bytes()));
        head
    }

    /// The fields of a response that its backend had marked itself.
    fn answered(desired: &model::Cors, request: &RequestHead) -> Vec<String> {
        let sharing = Arc::new(Cors::new(desired)).judge(request);
        let mut response = ResponseHead::default();
        response.headers.append(b"Access-Control-Allow-Origin", b"https://of-the-backend.test");
        response.headers.append(b"ACCESS-CONTROL-MAX-AGE", b"9");
        sharing.write(&mut response);
        if is_preflight(request) {
            sharing.write_preflight(request, &mut response);
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        response.headers.iter().map(|field| format!("{}: {}", text(field.name), text(field.value))).collect()
    }

    #[test]
    fn origins_are_matched_by_scheme_host_and_port() {
        let named = ["https://www.foo.com", "http://foo.com:8080", "https://port.com:443", "https://*.bar.com"];
        for (origin, expected) in [
            ("https://www.foo.com", true),
            ("https://www.foo.com:443", true),
            ("HTTPS://WWW.FOO.COM", true),
            ("http://www.foo.com", false),
            ("https://www.foo.com:8443", false),
            ("https://foo.com", false),
            ("https://www.foo.com.evil.test", false),
            ("http://foo.com:8080", true),
            ("http://foo.com", false),
            ("https://port.com", true),
            ("https://a.bar.com", true),
            ("https://a.b.bar.com", true),
            ("https://bar.com", false),
            ("https://.bar.com", false),
            ("https://xbar.com", false),
            ("https://a.bar.com:8443", false),
            ("https://evil.test/.bar.com", false),
            ("https://evil.test:1.bar.com", false),
            ("https://evil.test@a.bar.com", false),
            ("http://a.bar.com", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(Cors::new(&policy(&named, true)).admits(origin.as_bytes()), expected, "{origin}");
        }
        for (pattern, origin, expected) in [
            ("https://*", "https://any.test", true),
            ("https://*", "https://any.test:8443", false),
            ("https://*", "http://any.test", false),
            ("http://*.a.test:8080", "http://b.a.test:8080", true),
            ("http://*.a.test:8080", "http://b.a.test", false),
            ("*", "null", true),
            ("*", "https://any.test:8443", true),
        ] {
            assert_eq!(Cors::new(&policy(&[pattern], false)).admits(origin.as_bytes()), expected, "{pattern} {origin}");
        }
    }

    #[test]
    fn response_names_the_origin_only_if_it_is_allowed_and_always_varies_by_it() {
        let desired = model::Cors { expose: list(&["x-a", "x-b"]), ..policy(&["https://a.test"], true) };
        assert_eq!(
            answered(&desired, &request("GET", &[("Origin", "https://a.test")])),
            [
                "vary: origin",
                "access-control-allow-origin: https://a.test",
                "access-control-allow-credentials: true",
                "access-control-expose-headers: x-a, x-b"
            ]
        );
        for fields in [
            &[("origin", "https://b.test")][..],
            &[],
            &[("origin", "https://a.test"), ("origin", "https://a.test")],
            &[("origin", "https://a.test, https://b.test")],
        ] {
            assert_eq!(answered(&desired, &request("GET", fields)), ["vary: origin"], "{fields:?}");
        }
    }

    #[test]
    fn wildcards_stay_wildcards_only_without_credentials() {
        let of = |credentials| model::Cors {
            methods: list(&["*"]),
            headers: list(&["*"]),
            expose: list(&["*"]),
            ..policy(&["*"], credentials)
        };
        let get = request("GET", &[("origin", "https://a.test:1")]);
        assert_eq!(answered(&of(false), &get), ["access-control-allow-origin: *", "access-control-expose-headers: *"]);
        assert_eq!(
            answered(&of(true), &get),
            ["vary: origin", "access-control-allow-origin: https://a.test:1", "access-control-allow-credentials: true"]
        );
        assert_eq!(
            answered(&of(false), &request("GET", &[])),
            ["access-control-allow-origin: *", "access-control-expose-headers: *"],
            "the same for everyone, so that caches need not tell"
        );
        let asked = [
            ("origin", "https://a.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a,authorization"),
        ];
        for credentials in [false, true] {
            let said = answered(&of(credentials), &request("OPTIONS", &asked));
            for line in [
                "access-control-allow-methods: PUT",
                "access-control-allow-headers: x-a,authorization",
                "access-control-max-age: 5",
            ] {
                assert!(said.iter().any(|field| field == line), "{line}: {said:?}");
            }
            assert!(!said.iter().any(|field| credentials && field.ends_with(": *")), "{said:?}");
        }
        // Nothing was asked for, or something that is no list of names: nothing is said.
        let odd = [
            ("origin", "https://a.test"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a\"; b"),
        ];
        let said = answered(&of(true), &request("OPTIONS", &odd));
        assert!(!said.iter().any(|field| field.starts_with("access-control-allow-headers")), "{said:?}");
    }

    #[test]
    fn preflight_says_what_is_listed_to_allowed_origins_alone() {
        let desired = model::Cors {
            methods: list(&["GET", "OPTIONS"]),
            headers: list(&["x-a", "x-b"]),
            max_age: Duration::from_secs(3600),
            ..policy(&["https://a.test"], false)
        };
        let asks = |origin| request("OPTIONS", &[("origin", origin), ("access-control-request-method", "DELETE")]);
        assert_eq!(
            answered(&desired, &asks("https://a.test")),
            [
                "vary: origin",
                "access-control-allow-origin: https://a.test",
                "access-control-allow-methods: GET, OPTIONS",
                "access-control-allow-headers: x-a, x-b",
                "access-control-max-age: 3600"
            ]
        );
        assert_eq!(answered(&desired, &asks("https://b.test")), ["vary: origin"]);
        let nothing_more = policy(&["https://a.test"], false);
        assert_eq!(
            answered(&nothing_more, &asks("https://a.test")),
            ["vary: origin", "access-control-allow-origin: https://a.test", "access-control-max-age: 5"]
        );
    }

    #[test]
    fn preflight_is_options_with_an_origin_and_the_wanted_method() {
        let (origin, method) = (("origin", "https://a.test"), ("access-control-request-method", "PUT"));
        assert!(is_preflight(&request("OPTIONS", &[origin, method])));
        for (verb, fields) in [("GET", &[origin, method][..]), ("OPTIONS", &[origin]), ("OPTIONS", &[method])] {
            assert!(!is_preflight(&request(verb, fields)), "{verb} {fields:?}");
        }
    }
}
