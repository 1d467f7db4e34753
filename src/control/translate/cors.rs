//! CORS filters of HTTPRoutes.
//!
//! What cannot be read is left out: a browser refuses what no CORS header allows, so leaving it out opens nothing.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::experimental::httproutes::HttpRouteRulesFiltersCors;

use super::filters::ANSWER;
use super::reading::Reading;
use super::values;
use crate::model::{Cors, Labels};

/// How long a preflight's answer is kept when nothing is written (API reference of HTTPCORSFilter).
const MAX_AGE: i32 = 5;

/// Reads a CORS filter.
pub(super) fn cors(reading: &mut Reading<'_>, written: &HttpRouteRulesFiltersCors, field: &str) -> Cors {
    let mut cors = Cors { credentials: written.allow_credentials.unwrap_or(false), ..Cors::default() };
    let header = |text: &str| if text == "*" { Ok("*".into()) } else { values::header_name(text) };
    let lists = [
        ("allowOrigins", &written.allow_origins, &mut cors.origins, &origin as &dyn Fn(&str) -> Read),
        ("allowMethods", &written.allow_methods, &mut cors.methods, &method),
        ("allowHeaders", &written.allow_headers, &mut cors.headers, &header),
        ("exposeHeaders", &written.expose_headers, &mut cors.expose, &header),
    ];
    for (key, texts, list, read) in lists {
        for (index, text) in texts.iter().flatten().enumerate() {
            match read(text) {
                Ok(value) => list.push(value),
                Err(problem) => {
                    let field = format!("{field}.{key}[{index}]");
                    reading.error("InvalidFilter", field, problem, &format!("correct it; {ANSWER}"));
                }
            }
        }
        if list.len() > 1 && list.iter().any(|value| **value == *"*") {
            let problem = "`*` stands for all, so the others have no effect";
            reading.warning("NoEffect", format!("{field}.{key}"), problem, "write either `*` or a list");
            *list = vec!["*".into()];
        }
    }
    if cors.origins.is_empty() {
        let problem = "no origin is allowed";
        let fix = "write origins like https://shop.example.com, or *";
        reading.warning("NoEffect", format!("{field}.allowOrigins"), problem, fix);
    }
    let seconds = written.max_age.unwrap_or(MAX_AGE);
    let seconds = u64::try_from(seconds).unwrap_or_else(|_| {
        let fix = format!("write a number of seconds; {ANSWER}");
        reading.error("InvalidFilter", format!("{field}.maxAge"), format!("{seconds} is no time"), &fix);
        0
    });
    cors.max_age = Duration::from_secs(seconds);
    cors
}

type Read = Result<Arc<str>, String>;

/// An origin (RFC 6454 section 6.1): scheme, host and a port that is not the scheme's own. `*` at the begin of the host
/// stands for one or more labels.
fn origin(text: &str) -> Read {
    if text == "*" {
        return Ok("*".into());
    }
    let lower = text.to_ascii_lowercase();
    let wrong = || format!("`{text}` is not an origin like https://shop.example.com or https://*.example.com:8443");
    let (scheme, rest) = lower.split_once("://").ok_or_else(wrong)?;
    let own = match scheme {
        "http" => "80",
        "https" => "443",
        _ => return Err(wrong()),
    };
    // The brackets of an IPv6 address hold colons.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    if !address && host != "*" && values::host_pattern(host, Labels::Many).is_err() {
        return Err(wrong());
    }
    match port {
        None => Ok(lower.as_str().into()),
        Some(port) if port == own => Ok(format!("{scheme}://{host}").into()),
        Some(port) if port.parse::<u16>().is_ok_and(|port| port != 0) => Ok(lower.as_str().into()),
        Some(_) => Err(wrong()),
    }
}

/// A method (RFC 9110 section 9.1); its case is kept.
fn method(text: &str) -> Read {
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(_) => Ok(text.into()),
        Err(_) => Err(format!("`{text}` is not a method")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for (text, read) in [
            ("*", "*"),
            ("https://*", "https://*"),
            ("HTTPS://Shop.Test", "https://shop.test"),
            ("https://*.shop.test:8443", "https://*.shop.test:8443"),
            ("https://shop.test:443", "https://shop.test"),
            ("http://shop.test:80", "http://shop.test"),
            ("http://shop.test:443", "http://shop.test:443"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[::1]", "http://[::1]"),
        ] {
            assert_eq!(origin(text).as_deref(), Ok(read), "{text}");
        }
        for bad in [
            "",
            "shop.test",
            "ftp://shop.test",
            "https://",
            "https://a.*.test",
            "https://a.test/b",
            "https://a.test:0",
            "https://a.test:x",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
