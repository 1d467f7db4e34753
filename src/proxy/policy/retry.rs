//! Whether a failed attempt is followed by another one.

use crate::proxy::fault::Fault;

/// What is known about a request whose attempt failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// How it failed.
    pub fault: Fault,
    /// Whether the method is idempotent (RFC 9110 section 9.2.2).
    pub idempotent: bool,
    /// Whether the endpoint can have seen any of the request. False when no byte of it was written, or when a pooled
    /// connection turned out to be closed before a byte was accepted.
    pub sent: bool,
    /// Whether the body, as far as it was consumed, can be sent again: it is empty, kept, or untouched.
    pub replayable: bool,
    /// Attempts made so far, this one included.
    pub attempts: u32,
    /// Attempts that one request may have, the first included.
    pub most: u32,
}

/// Whether another attempt may be made. Only then `withdraw` is asked, which takes one retry out of the backend's budget
/// and says whether there was one.
///
/// A request that no application can have seen may always be tried again; one that may have been acted on only if it is
/// idempotent (RFC 9110 section 9.2.2). Nothing is tried again once a byte of a response has been sent on: the caller does
/// not ask then.
pub fn may_retry(failed: Failed, withdraw: impl FnOnce() -> bool) -> bool {
    let Failed { fault, idempotent, sent, replayable, attempts, most } = failed;
    let safe = fault.never_processed() || (fault.retryable() && (idempotent || !sent));
    safe && replayable && attempts < most && withdraw()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Failed =
        Failed { fault: Fault::UpstreamReset, idempotent: true, sent: true, replayable: true, attempts: 1, most: 3 };

    #[test]
    fn table_of_what_may_be_tried_again() {
        let post = Failed { idempotent: false, ..GET };
        for (failed, expected) in [
            (GET, true),
            (Failed { attempts: 3, ..GET }, false),
            (Failed { replayable: false, ..GET }, false),
            (Failed { fault: Fault::UpstreamTimeout, ..GET }, true),
            (Failed { fault: Fault::UpstreamProtocol, ..GET }, false),
            (Failed { fault: Fault::BodyBroken, ..GET }, false),
            (Failed { fault: Fault::ClientGone, ..GET }, false),
            (Failed { fault: Fault::Overloaded, ..GET }, false),
            (post, false),
            (Failed { fault: Fault::UpstreamTimeout, ..post }, false),
            (Failed { sent: false, ..post }, true),
            (Failed { fault: Fault::UpstreamConnect, ..post }, true),
            (Failed { fault: Fault::UpstreamRefused, ..post }, true),
            (Failed { fault: Fault::UpstreamRefused, replayable: false, ..post }, false),
        ] {
            assert_eq!(may_retry(failed, || true), expected, "{failed:?}");
        }
    }

    #[test]
    fn budget_is_asked_last_and_its_no_is_final() {
        assert!(!may_retry(GET, || false));
        let mut asked = false;
        let never = Failed { fault: Fault::BadRequest, ..GET };
        assert!(!may_retry(never, || {
            asked = true;
            true
        }));
        assert!(!asked, "a retry that is not made costs nothing");
    }
}
