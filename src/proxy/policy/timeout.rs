//! Which deadlines a request has.

use std::time::Duration;

use crate::model::RouteTimeouts;

/// Deadlines of one request, counted from its first byte (request) or from the start of an attempt. `None`: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deadlines {
    /// To the last byte of the response, retries included.
    pub request: Option<Duration>,
    /// Of one attempt; never longer than `request`.
    pub attempt: Option<Duration>,
}

/// The deadlines of a request: what the route says, else `defaults`; a zero in the route is no deadline. The client's
/// `grpc-timeout` can only shorten them.
pub fn effective(route: &RouteTimeouts, defaults: Deadlines, grpc_timeout: Option<&[u8]>) -> Deadlines {
    let of = |written: Option<Duration>, default| match written {
        None => default,
        Some(Duration::ZERO) => None,
        Some(length) => Some(length),
    };
    let request = shorter(of(route.request, defaults.request), grpc_timeout.and_then(parse_grpc_timeout));
    Deadlines { request, attempt: shorter(of(route.backend, defaults.attempt), request) }
}

fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Reads a `grpc-timeout`: one to eight digits and a unit, `H M S m u n` (gRPC over HTTP/2, "Requests"). `None` if it is
/// anything else; such a request has the route's deadlines.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn grpc_timeout_is_read_as_the_protocol_says() {
        for (text, expected) in [
            ("1S", seconds(1)),
            ("99999999H", seconds(99_999_999 * 3_600)),
            ("2M", seconds(120)),
            ("100m", Some(Duration::from_millis(100))),
            ("7u", Some(Duration::from_micros(7))),
            ("7n", Some(Duration::from_nanos(7))),
            ("0S", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("1h", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
            ("1 S", None),
            ("123456789S", None),
            ("1SS", None),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn route_goes_before_the_default_and_the_client_can_only_shorten() {
        let defaults = Deadlines { request: None, attempt: seconds(60) };
        let route = |request, backend| RouteTimeouts { request, backend };
        let zero = Some(Duration::ZERO);
        for (route, grpc, request, attempt) in [
            (route(None, None), None, None, seconds(60)),
            (route(seconds(10), None), None, seconds(10), seconds(10)),
            (route(seconds(10), seconds(2)), None, seconds(10), seconds(2)),
            (route(seconds(2), seconds(10)), None, seconds(2), seconds(2)),
            (route(zero, zero), None, None, None),
            (route(None, None), Some("5S"), seconds(5), seconds(5)),
            (route(seconds(10), None), Some("1M"), seconds(10), seconds(10)),
            (route(seconds(10), seconds(2)), Some("1S"), seconds(1), seconds(1)),
            (route(zero, zero), Some("3S"), seconds(3), seconds(3)),
            (route(seconds(10), None), Some("soon"), seconds(10), seconds(10)),
        ] {
            let got = effective(&route, defaults, grpc.map(str::as_bytes));
            assert_eq!(got, Deadlines { request, attempt }, "{route:?} {grpc:?}");
        }
    }
}
