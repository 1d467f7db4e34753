//! One attempt to make another color effective: how far it is, what it has counted, what is being drained.
//!
//! Owned and changed by the machine alone.

use std::sync::Arc;

use super::gate::{ColorView, Observation};
use super::machine::Moment;
use super::phase::Phase;
use super::receipt::{PhaseAt, Receipt, StreamCounts, Timestamp};

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) stage: Stage,
    /// What `warm-timeout` counts from.
    pub(super) since: u64,
    /// Back to a color that is known to work: one good probe is enough.
    pub(super) fast: bool,
    /// The user has been told that only the hold is in the way.
    pub(super) held: bool,
    /// The user has given it up; after the commit, as soon as the old color can take the traffic.
    pub(super) given_up: bool,
    pub(super) receipt: Receipt,
    /// Counters of the colors when the attempt began and when it was committed.
    pub(super) old_at_start: u64,
    pub(super) at_commit: Option<Baseline>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Warming,
    Verifying {
        /// When connections were asked for.
        prewarmed: Option<u64>,
    },
    Committing,
    Draining,
}

/// Counters at the commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline {
    pub(super) clock: u64,
    pub(super) new_requests: u64,
    pub(super) dropped: [u64; 2],
    pub(super) streams: StreamCounts,
}

/// Streams of a color that are being ended.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) color: Arc<str>,
    pub(super) deadline: u64,
    pub(super) forced: bool,
}

impl Attempt {
    pub(super) fn from(&self) -> &Arc<str> {
        &self.receipt.from
    }

    pub(super) fn to(&self) -> &Arc<str> {
        &self.receipt.to
    }

    pub(super) fn phase(&self) -> Phase {
        match self.stage {
            Stage::Warming => Phase::Warming,
            Stage::Verifying { .. } => Phase::Verifying,
            Stage::Committing => Phase::Committing,
            Stage::Draining => Phase::Draining,
        }
    }

    pub(super) fn committed(&self) -> bool {
        matches!(self.stage, Stage::Committing | Stage::Draining)
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Moment) {
        self.stage = stage;
        self.receipt.phases.push(PhaseAt { phase: self.phase(), at: now.wall });
    }

    /// Brings the receipt's counters up to what is observed.
    pub(super) fn count(&mut self, seen: &Observation, now: Moment) {
        let (old, new) = (seen.colors.get(self.from()), seen.colors.get(self.to()));
        if let Some(old) = old {
            self.receipt.requests.old = old.requests.saturating_sub(self.old_at_start);
        }
        let Some(base) = self.at_commit else { return };
        if let Some(new) = new {
            self.receipt.requests.new = new.requests.saturating_sub(base.new_requests);
        }
        if let Some(old) = old {
            self.receipt.streams = old.ended.since(base.streams);
            if let Some(at) = old.last_response.filter(|at| *at >= base.clock) {
                let ago = now.clock.saturating_sub(at) / 1_000_000;
                self.receipt.last_old_response = Some(Timestamp(now.wall.0.saturating_sub(ago)));
            }
        }
        let lost = |view: Option<&ColorView>, base: u64| view.map_or(0, |view| view.dropped.saturating_sub(base));
        let dropped = lost(old, base.dropped[0]) + lost(new, base.dropped[1]);
        self.receipt.dropped_by_switch = self.receipt.dropped_by_switch.max(dropped);
    }
}
