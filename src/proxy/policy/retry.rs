//! Whether a failed attempt is followed by another one, and when.

use std::time::Duration;

use crate::proxy::fault::Fault;

/// How an attempt failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Without a response.
    Fault(Fault),
    /// With a response whose status the route's owner has listed (`retry.codes` of an HTTPRoute).
    Listed,
}

/// What is known about a request whose attempt failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// How it failed.
    pub how: How,
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

/// Attempts in all when each before was refused at once: nobody has seen them, and they cost no time. Two endpoints that die
/// together would else cost a request where a third one lives.
const REFUSED: u32 = 4;

/// Whether another attempt may be made. Only then `withdraw` is asked, which takes one retry out of the backend's budget
/// and says whether there was one.
///
/// A request that no application can have seen may always be tried again; one that may have been acted on only if it is
/// idempotent (RFC 9110 section 9.2.2), or if its owner has said so by listing the status that it was answered with: that
/// list knows no methods (Gateway API, HTTPRouteRetry). Nothing is tried again once a byte of a response has been sent on:
/// the caller does not ask then.
pub fn may_retry(failed: Failed, withdraw: impl FnOnce() -> bool) -> bool {
    let Failed { how, idempotent, sent, replayable, attempts, most } = failed;
    let refused = matches!(how, How::Fault(Fault::UpstreamConnect | Fault::UpstreamRefused));
    let most = if refused && most > 1 { most.max(REFUSED) } else { most };
    let safe = match how {
        How::Listed => true,
        How::Fault(fault) => fault.never_processed() || (fault.retryable() && (idempotent || !sent)),
    };
    safe && replayable && attempts < most && withdraw()
}

/// How long to wait before another attempt: at least `backoff`, and up to half as much again, so that requests which
/// failed together do not come back together. `random` is even over all of `u64`.
pub fn pause(backoff: Duration, random: u64) -> Duration {
    let half = u64::try_from((backoff / 2).as_nanos()).unwrap_or(u64::MAX);
    // The upper half of the product is `half` scaled by `random`, which is a fraction of 2^64.
    let jitter = (u128::from(half) * u128::from(random)) >> 64;
    backoff.saturating_add(Duration::from_nanos(jitter as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Failed = Failed {
        how: How::Fault(Fault::UpstreamReset),
        idempotent: true,
        sent: true,
        replayable: true,
        attempts: 1,
        most: 3,
    };

    #[test]
    fn table_of_what_may_be_tried_again() {
        let post = Failed { idempotent: false, ..GET };
        for (failed, expected) in [
            (GET, true),
            (Failed { attempts: 3, ..GET }, false),
            (Failed { replayable: false, ..GET }, false),
            (Failed { how: How::Fault(Fault::UpstreamTimeout), ..GET }, true),
            (Failed { how: How::Fault(Fault::UpstreamProtocol), ..GET }, false),
            (Failed { how: How::Fault(Fault::BodyBroken), ..GET }, false),
            (Failed { how: How::Fault(Fault::ClientGone), ..GET }, false),
            (Failed { how: How::Fault(Fault::Overloaded), ..GET }, false),
            (post, false),
            (Failed { how: How::Listed, ..post }, true),
            (Failed { how: How::Listed, replayable: false, ..post }, false),
            (Failed { how: How::Listed, attempts: 3, ..post }, false),
            (Failed { how: How::Fault(Fault::UpstreamTimeout), ..post }, false),
            (Failed { sent: false, ..post }, true),
            (Failed { how: How::Fault(Fault::UpstreamConnect), ..post }, true),
            (Failed { how: How::Fault(Fault::UpstreamConnect), attempts: 3, ..post }, true),
            (Failed { how: How::Fault(Fault::UpstreamConnect), attempts: 4, ..post }, false),
            (Failed { how: How::Fault(Fault::UpstreamConnect), most: 1, ..post }, false),
            (Failed { how: How::Fault(Fault::ConnectTimeout), attempts: 3, ..post }, false),
            (Failed { how: How::Fault(Fault::UpstreamRefused), ..post }, true),
            (Failed { how: How::Fault(Fault::UpstreamRefused), replayable: false, ..post }, false),
        ] {
            assert_eq!(may_retry(failed, || true), expected, "{failed:?}");
        }
    }

    #[test]
    fn budget_is_asked_last_and_its_no_is_final() {
        assert!(!may_retry(GET, || false));
        let mut asked = false;
        let never = Failed { how: How::Fault(Fault::BadRequest), ..GET };
        assert!(!may_retry(never, || {
            asked = true;
            true
        }));
        assert!(!asked, "a retry that is not made costs nothing");
    }

    #[test]
    fn pause_is_never_shorter_than_the_backoff_nor_much_longer() {
        let backoff = Duration::from_millis(100);
        assert_eq!(pause(backoff, 0), backoff);
        assert_eq!(pause(Duration::ZERO, u64::MAX), Duration::ZERO);
        let most = pause(backoff, u64::MAX);
        assert!(most > Duration::from_millis(149) && most <= Duration::from_millis(150), "{most:?}");
        assert_eq!(pause(Duration::MAX, u64::MAX), Duration::MAX);
    }
}
