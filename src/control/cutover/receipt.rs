//! What a cutover did, in numbers: the proof that nothing was lost.
//!
//! Written by the machine while an attempt runs and closed exactly once; the last [`KEPT`] of a Service are shown by
//! admin. Times are the wall clock's, handed in by the driver, because people compare them with their own logs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::phase::{Ending, Phase};

/// Closed receipts kept per Service.
pub const KEPT: usize = 10;

/// One attempt to make another color effective.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// `namespace/service-sequence`; the sequence counts from 1 in each process.
    pub cutover: String,
    /// The color that was effective.
    pub from: Arc<str>,
    /// The color that was wanted.
    pub to: Arc<str>,
    /// When and by which state of the object it was asked for.
    pub requested: Requested,
    /// Every phase with the time it was entered; the last one is the result's.
    pub phases: Vec<PhaseAt>,
    /// When the pointer moved to `to`.
    pub commit_at: Option<Timestamp>,
    /// Requests that ran on the old color at that moment; they finish there.
    pub old_inflight_at_commit: Option<u64>,
    /// The last response that ended on the old color after the commit, so far.
    pub last_old_response: Option<Timestamp>,
    /// Requests per color.
    pub requests: Requests,
    /// Long-lived streams of the old color that ended after the commit.
    pub streams: StreamCounts,
    /// Requests answered with `no_endpoints` by either color between the commit and the end of the attempt.
    pub dropped_by_switch: u64,
    /// How it ended; `null` while it runs.
    pub result: Option<Ending>,
    /// Why it ended so: `WarmTimeout`, `Superseded`, `NoEndpoints`, …; empty when it is done.
    pub reason: Arc<str>,
}

/// What asked for a cutover.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Requested {
    /// When Weir saw it.
    pub at: Timestamp,
    /// The object's resourceVersion, or a hash of its annotations when it comes from a folder.
    pub version: Arc<str>,
}

/// A phase and when it was entered.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PhaseAt {
    /// The phase.
    pub phase: Phase,
    /// When.
    pub at: Timestamp,
}

/// Requests per color during an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Requests {
    /// Finished by the old color since the attempt began.
    pub old: u64,
    /// Finished by the new color since the commit.
    pub new: u64,
}

/// How long-lived streams ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct StreamCounts {
    /// By client or endpoint.
    pub natural: u64,
    /// By Weir, in an orderly way, when their turn came.
    pub drained: u64,
    /// By Weir, when the drain timeout was over.
    pub forced: u64,
}

impl StreamCounts {
    /// What was added since `base`.
    pub fn since(self, base: StreamCounts) -> StreamCounts {
        StreamCounts {
            natural: self.natural.saturating_sub(base.natural),
            drained: self.drained.saturating_sub(base.drained),
            forced: self.forced.saturating_sub(base.forced),
        }
    }
}

/// Milliseconds since the Unix epoch; written as RFC 3339 in UTC with milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, milliseconds) = (self.0 / 86_400_000, self.0 % 86_400_000);
        let (year, month, day) = civil(days);
        let seconds = milliseconds / 1000;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            milliseconds % 1000
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Year, month and day of a day counted from 1970-01-01 in the proleptic Gregorian calendar. Counts from 1 March 0000,
/// so that the leap day is the last of its year, in eras of 400 years (146,097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// The closed receipts of a Service, oldest first.
#[derive(Clone, Default, Debug)]
pub struct History {
    closed: VecDeque<Arc<Receipt>>,
}

impl History {
    /// Files a closed receipt; the oldest beyond [`KEPT`] goes.
    pub fn file(&mut self, receipt: Receipt) {
        if self.closed.len() == KEPT {
            self.closed.pop_front();
        }
        self.closed.push_back(Arc::new(receipt));
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Receipt>> {
        self.closed.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_over_leap_years_and_centuries() {
        for (milliseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp(milliseconds).to_string(), text);
        }
    }

    #[test]
    fn receipt_has_the_names_of_the_contract() {
        let at = Timestamp(1_000);
        let receipt = Receipt {
            cutover: "shop/checkout-7".to_owned(),
            from: "blue".into(),
            to: "green".into(),
            requested: Requested { at, version: "41".into() },
            phases: vec![PhaseAt { phase: Phase::Warming, at }],
            commit_at: Some(at),
            old_inflight_at_commit: Some(37),
            last_old_response: None,
            requests: Requests { old: 5, new: 6 },
            streams: StreamCounts { natural: 3, drained: 12, forced: 0 },
            dropped_by_switch: 0,
            result: Some(Ending::Done),
            reason: "".into(),
        };
        let expected = serde_json::json!({
            "cutover": "shop/checkout-7", "from": "blue", "to": "green",
            "requested": {"at": "1970-01-01T00:00:01.000Z", "version": "41"},
            "phases": [{"phase": "Warming", "at": "1970-01-01T00:00:01.000Z"}],
            "commitAt": "1970-01-01T00:00:01.000Z", "oldInflightAtCommit": 37, "lastOldResponse": null,
            "requests": {"old": 5, "new": 6}, "streams": {"natural": 3, "drained": 12, "forced": 0},
            "droppedBySwitch": 0, "result": "Done", "reason": ""
        });
        assert_eq!(serde_json::to_value(&receipt).unwrap(), expected);
    }
}
