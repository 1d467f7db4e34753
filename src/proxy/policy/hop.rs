//! Fields that end here: those about one connection, and those that `Connection` names (RFC 9110 section 7.6.1).
//!
//! A client can name any field in `Connection` and so have it removed. Fields that backends rely on for identity, or that
//! Weir itself writes, cannot be removed that way: such a request is refused.

use smallvec::SmallVec;

use crate::proxy::fault::Fault;
use crate::proxy::wire::{Headers, Name, RequestHead, ResponseHead};

/// What is done with names that contain an underscore. Many servers read `X_User` and `X-User` as the same variable, so
/// one could stand in for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Underscores {
    /// Such fields are dropped.
    #[default]
    Drop,
    /// They stay.
    Keep,
}

/// What the removed fields said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hop {
    /// `TE` had `trailers`: over HTTP/2 `te: trailers` is sent on (gRPC asks for it).
    pub te_trailers: bool,
    /// `Connection` had `close`.
    pub close: bool,
    /// `Connection` had `upgrade`; the protocol must be read from `Upgrade` before [`strip_request`] removes it.
    pub upgrade: bool,
}

/// Removes what ends here from a request.
///
/// # Errors
///
/// [`Fault::BadRequest`] if `Connection` is not a list of tokens, or names an end-to-end field that must not vanish.
pub fn strip_request(head: &mut RequestHead, underscores: Underscores) -> Result<Hop, Fault> {
    let mut hop = Hop::default();
    let mut named = Named::new();
    for option in options(&head.headers) {
        if option.is_empty() {
            continue;
        }
        if !option.iter().all(|byte| is_token(*byte)) || is_protected(option) {
            return Err(Fault::BadRequest);
        }
        note(option, &mut hop, &mut named);
    }
    hop.te_trailers = head.headers.known_all(Name::Te).any(|value| {
        value.split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    remove(&mut head.headers, &named, underscores);
    Ok(hop)
}

/// Removes from the trailers of a request what a backend that merges them into the headers must not take from a client:
/// the fields that `Connection` could not remove either (RFC 9110 section 6.5.1). Names that only a route's own edits know
/// are not among them.
pub fn strip_request_trailers(trailers: &mut Headers, underscores: Underscores) {
    trailers
        .retain(|field| !is_protected(field.name) && (underscores == Underscores::Keep || !field.name.contains(&b'_')));
}

/// Removes what ends here from a response. What a backend names in `Connection` is believed: it could have left the field
/// out itself. A `Content-Length` stays, for it says how the message is framed.
pub fn strip_response(head: &mut ResponseHead) -> Hop {
    let mut hop = Hop::default();
    if !head.headers.may_have_hop_by_hop() {
        return hop;
    }
    let mut named = Named::new();
    for option in options(&head.headers) {
        if !option.is_empty() && Name::of(option) != Name::ContentLength {
            note(option, &mut hop, &mut named);
        }
    }
    remove(&mut head.headers, &named, Underscores::Keep);
    hop
}

/// Names from `Connection`, each followed by a comma.
type Named = SmallVec<[u8; 128]>;

fn options(headers: &Headers) -> impl Iterator<Item = &[u8]> {
    headers.known_all(Name::Connection).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn note(option: &[u8], hop: &mut Hop, named: &mut Named) {
    if option.eq_ignore_ascii_case(b"close") {
        hop.close = true;
    } else if option.eq_ignore_ascii_case(b"upgrade") {
        hop.upgrade = true;
    } else if !option.eq_ignore_ascii_case(b"keep-alive") && !Name::of(option).is_hop_by_hop() {
        named.extend_from_slice(option);
        named.push(b',');
    }
}

fn remove(headers: &mut Headers, named: &[u8], underscores: Underscores) {
    headers.retain(|field| {
        if field.id != Name::Other {
            return !field.id.is_hop_by_hop() && !is_named(named, field.name);
        }
        if underscores == Underscores::Drop && field.name.contains(&b'_') {
            return false;
        }
        !is_named(named, field.name)
    });
}

fn is_named(named: &[u8], name: &[u8]) -> bool {
    !named.is_empty() && named.split(|byte| *byte == b',').any(|option| option.eq_ignore_ascii_case(name))
}

/// Fields that a client cannot have removed: they say who asks, for whom, and what the message is.
fn is_protected(option: &[u8]) -> bool {
    const MORE: &[&str] = &[
        "cache-control",
        "content-encoding",
        "content-range",
        "content-location",
        "range",
        "origin",
        "set-cookie",
        "x-original-url",
        "x-rewrite-url",
        "x-weir-reason",
    ];
    let known = matches!(
        Name::of(option),
        Name::Host
            | Name::ContentLength
            | Name::ContentType
            | Name::Cookie
            | Name::Authorization
            | Name::Forwarded
            | Name::XRealIp
            | Name::XRequestId
            | Name::Traceparent
            | Name::Tracestate
            | Name::GrpcTimeout
            | Name::Expect
    );
    const FORWARDED: &[u8] = b"x-forwarded-";
    known
        || option.len() >= FORWARDED.len() && option[..FORWARDED.len()].eq_ignore_ascii_case(FORWARDED)
        || MORE.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        fields.iter().for_each(|(name, value)| head.headers.append(name.as_bytes(), value.as_bytes()));
        head
    }

    fn names(headers: &Headers) -> Vec<String> {
        headers.iter().map(|field| String::from_utf8_lossy(field.name).into_owned()).collect()
    }

    #[test]
    fn fields_about_the_connection_end_here_and_others_go_on() {
        let mut head = head(&[
            ("Accept", "*/*"),
            ("Connection", "keep-alive, X-Private"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "gzip, trailers;q=0.5"),
            ("Trailer", "x"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("HTTP2-Settings", "x"),
            ("x-private", "secret"),
            ("Cookie", "a=b"),
        ]);
        let hop = strip_request(&mut head, Underscores::Drop).unwrap();
        assert_eq!(names(&head.headers), ["Accept", "Cookie"]);
        assert_eq!(hop, Hop::default());
    }

    #[test]
    fn options_of_the_connection_are_reported() {
        for (connection, te, expected) in [
            ("close", "", Hop { close: true, ..Hop::default() }),
            ("Upgrade", "", Hop { upgrade: true, ..Hop::default() }),
            ("keep-alive, UPGRADE", "", Hop { upgrade: true, ..Hop::default() }),
            ("te", "trailers", Hop { te_trailers: true, ..Hop::default() }),
            ("TE, close", "gzip;q=1, Trailers", Hop { te_trailers: true, close: true, ..Hop::default() }),
            (" , ,", "trailersx", Hop::default()),
        ] {
            let mut head = head(&[("connection", connection), ("te", te)]);
            assert_eq!(strip_request(&mut head, Underscores::Drop), Ok(expected), "{connection}");
            assert!(head.headers.is_empty());
        }
    }

    #[test]
    fn end_to_end_field_cannot_be_removed_through_connection() {
        for option in [
            "Host",
            "x-forwarded-for",
            "X-Forwarded-Proto",
            "X-Forwarded-Anything",
            "X-Real-IP",
            "X-Request-ID",
            "Forwarded",
            "Cookie",
            "AUTHORIZATION",
            "Content-Length",
            "Content-Type",
            "cache-control",
            "traceparent",
            "close, cookie",
            "close,cookie",
            "cookie,",
            "bad name",
            "a\"b",
            "a;b",
            "a:b",
        ] {
            let mut head = head(&[("Connection", "keep-alive"), ("Connection", option), ("Cookie", "a=b")]);
            assert_eq!(strip_request(&mut head, Underscores::Drop), Err(Fault::BadRequest), "{option}");
        }
    }

    #[test]
    fn names_with_underscores_are_dropped_unless_wanted() {
        let fields = [("X_Forwarded_For", "1.2.3.4"), ("a_b", "c"), ("a-b", "_")];
        let mut dropped = head(&fields);
        strip_request(&mut dropped, Underscores::Drop).unwrap();
        assert_eq!(names(&dropped.headers), ["a-b"]);
        let mut kept = head(&fields);
        strip_request(&mut kept, Underscores::Keep).unwrap();
        assert_eq!(names(&kept.headers).len(), 3);
    }

    #[test]
    fn trailers_cannot_say_who_asks() {
        let mut trailers = Headers::default();
        for name in ["x-sum", "x_sum", "X-Forwarded-Ssl", "x-request-id", "X_Real_IP", "cookie", "grpc-status"] {
            trailers.append(name.as_bytes(), b"1");
        }
        let mut kept = Headers::default();
        kept.append(b"x_sum", b"1");
        strip_request_trailers(&mut trailers, Underscores::Drop);
        strip_request_trailers(&mut kept, Underscores::Keep);
        assert_eq!(names(&trailers), ["x-sum", "grpc-status"]);
        assert_eq!(names(&kept), ["x_sum"]);
    }

    #[test]
    fn response_loses_what_its_backend_names() {
        let mut response = ResponseHead::default();
        for (name, value) in [
            ("Connection", "close, X-Internal, content-length"),
            ("X-Internal", "1"),
            ("Content-Length", "3"),
            ("Keep-Alive", "timeout=5"),
            ("under_score", "1"),
        ] {
            response.headers.append(name.as_bytes(), value.as_bytes());
        }
        let hop = strip_response(&mut response);
        assert_eq!(names(&response.headers), ["Content-Length", "under_score"]);
        assert!(hop.close);
    }

    #[test]
    fn long_lists_of_names_are_removed_whole() {
        let list: Vec<String> = (0..200).map(|i| format!("x-private-{i}")).collect();
        let mut head = head(&[("Connection", &list.join(", "))]);
        list.iter().for_each(|name| head.headers.append(name.as_bytes(), b"1"));
        head.headers.append(b"x-private", b"1");
        strip_request(&mut head, Underscores::Drop).unwrap();
        assert_eq!(names(&head.headers), ["x-private"]);
    }
}
