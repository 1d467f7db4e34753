//! Small parsers of values that owners write: durations, hosts, paths, header fields.
//!
//! Each says in its error what would have been right, because the error becomes a verdict.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{HostPattern, Labels};

/// What [`duration`] accepts, for verdicts.
pub(super) const DURATION: &str = "a duration like 500ms, 10s, 5m or 1h30m";

/// A duration as Gateway API writes it (GEP-2257): up to four groups of an integer with h, m, s or ms.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not {DURATION}");
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut groups = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 || groups == 4 {
            return Err(wrong());
        }
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = if let Some(after) = rest.strip_prefix("ms") {
            rest = after;
            Duration::from_millis(number)
        } else {
            let seconds = match rest.as_bytes().first() {
                Some(b'h') => 3600,
                Some(b'm') => 60,
                Some(b's') => 1,
                _ => return Err(wrong()),
            };
            rest = &rest[1..];
            Duration::from_secs(number * seconds)
        };
        total += unit;
        groups += 1;
    }
    if groups == 0 { Err(wrong()) } else { Ok(total) }
}

/// A host name, or `*.` and a host name. Upper case is accepted and lowered.
pub(super) fn host_pattern(text: &str, labels: Labels) -> Result<HostPattern, String> {
    let lower = text.to_ascii_lowercase();
    match lower.strip_prefix('*') {
        None => host_name(&lower).map(HostPattern::Exact),
        Some(rest) if rest.starts_with('.') && host_name(&rest[1..]).is_ok() => {
            Ok(HostPattern::Wildcard { suffix: rest.into(), labels })
        }
        Some(_) => Err(format!("`{text}` is not a wildcard host; `*` stands alone as the first label: *.example.com")),
    }
}

/// An exact host name (RFC 1123), lowered.
pub(super) fn host_name(text: &str) -> Result<Arc<str>, String> {
    let lower = text.to_ascii_lowercase();
    if lower.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("`{text}` is an address; a host is a DNS name"));
    }
    if lower.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(format!("`{text}` has a port; a host is written without one"));
    }
    if lower.len() <= 253 && lower.split('.').all(is_label) {
        Ok(lower.into())
    } else {
        Err(format!("`{text}` is not a DNS name"))
    }
}

/// Whether this is one DNS label (RFC 1123): letters, digits, inner hyphens, at most 63 octets.
pub(super) fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A path to match exactly or as a prefix: absolute and in the normal form that requests are compared in.
pub(super) fn plain_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("the path `{text}` does not begin with `/`"));
    }
    let lower = text.to_ascii_lowercase();
    for (part, name) in [("//", "//"), ("/./", "/./"), ("/../", "/../"), ("%2f", "%2f"), ("#", "#"), ("?", "?")] {
        if lower.contains(part) {
            return Err(format!("the path `{text}` contains `{name}`, which never is in a normalised path"));
        }
    }
    if lower.ends_with("/.") || lower.ends_with("/..") {
        return Err(format!("the path `{text}` ends with a dot segment, which never is in a normalised path"));
    }
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(format!("the path `{text}` contains white space or control characters"));
    }
    Ok(())
}

/// A prefix as the model writes it: without trailing slashes, `/` for everything.
pub(super) fn prefix(text: &str) -> Arc<str> {
    match text.trim_end_matches('/') {
        "" => "/".into(),
        trimmed => trimmed.into(),
    }
}

/// A header name, lowered (RFC 9110, section 5.1).
pub(super) fn header_name(text: &str) -> Result<Arc<str>, String> {
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) => Ok(name.as_str().into()),
        Err(_) => Err(format!("`{text}` is not a header name")),
    }
}

/// A header value (RFC 9110, section 5.5): no control characters, so that nothing can be smuggled in.
pub(super) fn header_value(text: &str) -> Result<Arc<str>, String> {
    match http::HeaderValue::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.trim_matches([' ', '\t']).into()),
        Err(_) => Err(format!("`{}` is not a header value", text.escape_debug())),
    }
}

/// Checks a regular expression by itself, before anchors are put around it.
pub(super) fn regex(text: &str) -> Result<(), String> {
    let reason = match regex::Regex::new(text) {
        Ok(_) => return Ok(()),
        Err(regex::Error::CompiledTooBig(limit)) => format!("it needs more than {limit} bytes when compiled"),
        // The parser's message is a drawing over several lines; its last line says what is wrong.
        Err(error) => {
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        }
    };
    Err(format!("the regular expression `{text}` does not compile: {reason}"))
}

/// A port number from the API's signed integer.
pub(super) fn port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// Levenshtein distance, for "did you mean".
pub(super) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(a != *b)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_gateway_api_writes_them() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1s500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["", "5", "s", "1.5s", "-1s", "1d", "123456s", "1s1s1s1s1s", "10 s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_without_port_and_with_a_star_only_in_front() {
        assert_eq!(host_pattern("A.Test", Labels::One), Ok(HostPattern::Exact("a.test".into())));
        assert!(matches!(host_pattern("*.a.test", Labels::Many), Ok(HostPattern::Wildcard { .. })));
        for bad in ["*", "*a.test", "a.*.test", "a.test:80", "10.0.0.1", "a..test", "a.test.", "", "-a.test"] {
            assert!(host_pattern(bad, Labels::One).is_err(), "{bad}");
        }
    }

    #[test]
    fn unbalanced_regex_is_refused_even_if_anchors_would_balance_it() {
        assert!(regex("a)(b").is_err());
        assert!(regex("/v[0-9]+/.*").is_ok());
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("colours", "colors"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
