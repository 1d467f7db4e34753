//! The words of a cutover: its phases, how an attempt ends, and what its owner is told.
//!
//! Pure data, written by the machine, read by the driver, by admin and by the metrics.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Where a Service stands in its cutover.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Phase {
    /// The desired color is effective, or nothing has been tried yet.
    Idle,
    /// The new color does not have enough usable endpoints yet.
    Warming,
    /// Every endpoint of the new color is probed and connected to.
    Verifying,
    /// The pointer is being moved.
    Committing,
    /// Traffic goes to the new color; what runs on the old one ends.
    Draining,
    /// The new color is effective and the old one is idle. It stays resident.
    Done,
    /// What is desired cannot be understood; what was effective stays.
    Rejected,
    /// The attempt ended before traffic moved.
    Aborted,
    /// Traffic has been moved back.
    RolledBack,
}

impl Phase {
    /// Every phase, in the order of the happy path and then the bad ends.
    pub const ALL: [Phase; 9] = [
        Phase::Idle,
        Phase::Warming,
        Phase::Verifying,
        Phase::Committing,
        Phase::Draining,
        Phase::Done,
        Phase::Rejected,
        Phase::Aborted,
        Phase::RolledBack,
    ];

    /// As written in JSON, in metrics and in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Warming => "Warming",
            Self::Verifying => "Verifying",
            Self::Committing => "Committing",
            Self::Draining => "Draining",
            Self::Done => "Done",
            Self::Rejected => "Rejected",
            Self::Aborted => "Aborted",
            Self::RolledBack => "RolledBack",
        }
    }

    /// Whether an attempt is running.
    pub const fn running(self) -> bool {
        matches!(self, Self::Warming | Self::Verifying | Self::Committing | Self::Draining)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Ending {
    /// The new color is effective.
    Done,
    /// Traffic never moved.
    Aborted,
    /// Traffic was moved back.
    RolledBack,
}

impl Ending {
    /// The phase that a Service rests in afterwards.
    pub const fn phase(self) -> Phase {
        match self {
            Self::Done => Phase::Done,
            Self::Aborted => Phase::Aborted,
            Self::RolledBack => Phase::RolledBack,
        }
    }

    /// As written in JSON and in `weir_cutover_total{result}`.
    pub const fn name(self) -> &'static str {
        self.phase().name()
    }
}

/// What kind of thing happened, for Events, logs and the list of notes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Event {
    /// A color has been taken over without a cutover (start-up, or its predecessor was removed).
    CutoverAdopted,
    /// An attempt begins.
    CutoverStarted,
    /// What is desired is not acceptable.
    CutoverRejected,
    /// Something holds the attempt back: the user, or flapping.
    CutoverHeld,
    /// Every endpoint has passed its probes.
    CutoverVerified,
    /// The pointer has moved.
    CutoverCommitted,
    /// The attempt ended before traffic moved.
    CutoverAborted,
    /// Traffic has been moved back.
    CutoverRolledBack,
    /// The old color is idle.
    CutoverDone,
    /// A wish could not be followed; nothing changed.
    CutoverIgnored,
}

impl Event {
    /// As written in JSON and in Events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CutoverAdopted => "CutoverAdopted",
            Self::CutoverStarted => "CutoverStarted",
            Self::CutoverRejected => "CutoverRejected",
            Self::CutoverHeld => "CutoverHeld",
            Self::CutoverVerified => "CutoverVerified",
            Self::CutoverCommitted => "CutoverCommitted",
            Self::CutoverAborted => "CutoverAborted",
            Self::CutoverRolledBack => "CutoverRolledBack",
            Self::CutoverDone => "CutoverDone",
            Self::CutoverIgnored => "CutoverIgnored",
        }
    }

    /// Whether the owner should look at it.
    pub const fn warning(self) -> bool {
        matches!(self, Self::CutoverRejected | Self::CutoverAborted | Self::CutoverRolledBack | Self::CutoverIgnored)
    }
}

/// One thing that the owner of the Service is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Note {
    /// What happened.
    pub event: Event,
    /// CamelCase, from a bounded set: `UnknownColor`, `WarmTimeout`, `NoEndpoints`, ….
    pub reason: Arc<str>,
    /// The exact facts, and what would be right.
    pub text: String,
}
