//! Every way a request can fail: status, blame, whether another attempt may be made, reason code. One table.

use std::time::Duration;

/// Who is to blame for a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The client sent something wrong, or went away.
    Client,
    /// The backend did.
    Backend,
    /// Weir, its configuration or its capacity.
    Weir,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $status:literal $blame:ident $code:literal;)*) => {
        /// A failed request or attempt. The reason codes are part of the contract: they stand in the access log, in
        /// `weir_faults_total{reason}` and, when enabled, in `X-Weir-Reason`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Fault { $($(#[$doc])* $name,)* }

        impl Fault {
            /// Every fault, in the order of the table; the position is [`Fault::index`].
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)*];

            /// The status that the client gets; 0: nothing can be sent any more.
            pub const fn status(self) -> u16 {
                match self { $(Fault::$name => $status,)* }
            }

            /// Whose fault it is.
            pub const fn blame(self) -> Blame {
                match self { $(Fault::$name => Blame::$blame,)* }
            }

            /// The reason code.
            pub const fn code(self) -> &'static str {
                match self { $(Fault::$name => $code,)* }
            }
        }
    };
}

faults! {
    /// The request cannot be understood in exactly one way (hardening: RFC 9112, RFC 9113).
    BadRequest = 400 Client "bad_request";
    /// No request head within its time.
    HeadTimeout = 408 Client "request_timeout";
    /// No body byte within the idle time.
    BodyTimeout = 408 Client "body_timeout";
    /// The target is longer than the limit.
    TargetTooLong = 414 Client "target_too_long";
    /// The header block has too many bytes or fields.
    HeaderTooLarge = 431 Client "header_too_large";
    /// The body is larger than the limit.
    BodyTooLarge = 413 Client "body_too_large";
    /// CONNECT or TRACE.
    MethodNotAllowed = 405 Client "method_not_allowed";
    /// An Expect other than `100-continue`.
    ExpectationFailed = 417 Client "expectation_failed";
    /// Not HTTP/1.0 or HTTP/1.1.
    VersionNotSupported = 505 Client "version_not_supported";
    /// This connection's certificate is not for this host.
    Misdirected = 421 Client "misdirected";
    /// The client closed or reset before its response was complete.
    ClientGone = 499 Client "client_gone";
    /// No route matches.
    NoRoute = 404 Weir "no_route";
    /// The route names a backend that does not exist or may not be used.
    InvalidBackend = 500 Weir "invalid_backend";
    /// A protective setting of the route cannot be honoured.
    Unprotected = 503 Weir "unprotected";
    /// The backend has no usable endpoint.
    NoEndpoints = 503 Weir "no_endpoints";
    /// A ceiling is reached.
    Overloaded = 503 Weir "overloaded";
    /// The process is ending.
    Draining = 503 Weir "draining";
    /// Something inside Weir broke; the connection ends, nothing else does.
    Internal = 500 Weir "internal";
    /// No connection to the endpoint could be made.
    UpstreamConnect = 502 Backend "upstream_connect";
    /// TLS to the endpoint failed.
    UpstreamTls = 502 Backend "upstream_tls";
    /// The endpoint closed or reset before the response head was complete.
    UpstreamReset = 502 Backend "upstream_reset";
    /// The endpoint answered something that is not a response.
    UpstreamProtocol = 502 Backend "upstream_protocol";
    /// The endpoint refused the request unprocessed (HTTP/2 REFUSED_STREAM, GOAWAY).
    UpstreamRefused = 502 Backend "upstream_refused";
    /// No connection within the connect timeout.
    ConnectTimeout = 504 Backend "connect_timeout";
    /// No response within the deadline.
    UpstreamTimeout = 504 Backend "upstream_timeout";
    /// The response broke off or was malformed after its head had been sent on.
    BodyBroken = 0 Backend "body_broken";
    /// The response paused for longer than the idle time after its head had been sent on.
    BodyStalled = 0 Backend "body_stalled";
    /// Ended by a cutover's or shutdown's drain.
    Drained = 0 Weir "drained";
}

impl Fault {
    /// Position in [`Fault::ALL`]: an index into arrays of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the endpoint provably never gave the request to an application, so that any request may be tried again
    /// elsewhere (RFC 9110 section 9.2.2, RFC 9113 section 8.7).
    pub const fn never_processed(self) -> bool {
        matches!(self, Fault::UpstreamConnect | Fault::UpstreamTls | Fault::UpstreamRefused | Fault::ConnectTimeout)
    }

    /// Whether an idempotent request may be tried again elsewhere.
    pub const fn retryable(self) -> bool {
        self.never_processed() || matches!(self, Fault::UpstreamReset | Fault::UpstreamTimeout)
    }

    /// Value of `Retry-After` for answers that ask the client to come back.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Fault::Overloaded | Fault::Draining | Fault::NoEndpoints => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_indices_follow_the_table() {
        let mut codes: Vec<_> = Fault::ALL.iter().map(|fault| fault.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Fault::ALL.len());
        assert!(Fault::ALL.iter().enumerate().all(|(index, fault)| fault.index() == index));
    }

    #[test]
    fn only_a_backends_failure_is_retried() {
        assert!(Fault::ALL.iter().filter(|fault| fault.retryable()).all(|fault| fault.blame() == Blame::Backend));
    }
}
