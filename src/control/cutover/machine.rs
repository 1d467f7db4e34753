//! The state machine of one Service's cutover: pure, stepped with what is desired and what is observed.
//!
//! Written to by the driver alone, which also carries out the actions. Invariants, held by a property test: an attempt
//! moves traffic only to a color with enough ready endpoints; after every observation the effective color has a usable
//! endpoint if any color has; a flip only ever names a color of the Service; every attempt ends exactly once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{ColorSwitch, LongLived, ObjectName};

use super::attempt::{Attempt, Baseline, Drain, Stage};
use super::gate::{self, Observation, Waiting};
use super::phase::{Ending, Event, Note, Phase};
use super::receipt::{History, PhaseAt, Receipt, Requested, Requests, StreamCounts, Timestamp};

/// Changes of the desired color that are allowed within [`FLAPPING_WINDOW`].
const FLAPPING_CHANGES: usize = 6;
const FLAPPING_WINDOW: u64 = 600 * SECOND;
/// How long a flapping Service must be stable before it is followed again.
const FLAPPING_STABLE: u64 = 60 * SECOND;
/// How long the commit waits for connections to be opened: they save a handshake, they are not a condition.
const PREWARM_PATIENCE: u64 = 2 * SECOND;
/// A request that chose the old color just before the flip has been counted as in flight after this time.
const SETTLE: u64 = SECOND / 4;
/// `long-lived: close` ends streams this long after the commit, within [`CLOSE_SPREAD`].
const CLOSE_AFTER: u64 = 5 * SECOND;
const CLOSE_SPREAD: u64 = SECOND;
/// How long forced streams have to go away before they are no longer waited for.
const FORCE_GRACE: u64 = 2 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// One moment on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Nanoseconds of the process clock; decides everything.
    pub clock: u64,
    /// The wall clock; only written into receipts.
    pub wall: Timestamp,
}

/// What the machine is told.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The Service's annotations, first seen or changed.
    Desired(Arc<ColorSwitch>),
    /// What is true now; also the tick of time.
    Observed(&'a Observation),
    /// The Service has no colors any more.
    Unmanaged,
}

/// What the driver has to do, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Probe every usable endpoint of the color until told to stop.
    StartProbing {
        /// Which.
        color: Arc<str>,
        /// Successes in a row that each endpoint needs.
        successes: u32,
    },
    /// Probe it no longer.
    StopProbing {
        /// Which.
        color: Arc<str>,
    },
    /// Have every worker open connections.
    Prewarm {
        /// To which color.
        color: Arc<str>,
        /// How many to each endpoint; `None`: the worker chooses.
        per_endpoint: Option<u32>,
    },
    /// Point at this color.
    Flip {
        /// Which.
        to: Arc<str>,
    },
    /// End the color's long-lived streams one by one. Times are nanoseconds of the process clock.
    OrderDrain {
        /// Whose.
        color: Arc<str>,
        /// Nobody's turn is before.
        from: u64,
        /// The last turn.
        until: u64,
        /// At most max(1, 5 %) per second.
        paced: bool,
    },
    /// End them all now.
    ForceDrain {
        /// Whose.
        color: Arc<str>,
    },
    /// End none any more.
    CancelDrain {
        /// Whose.
        color: Arc<str>,
    },
    /// A preview may choose this color.
    OpenPreview {
        /// Which.
        color: Arc<str>,
    },
    /// It may not.
    ClosePreview {
        /// Which.
        color: Arc<str>,
    },
    /// Tell the owner.
    Note(Note),
    /// An attempt is over.
    Finished {
        /// How it ended.
        result: Ending,
        /// Requests lost by it.
        dropped: u64,
    },
}

/// The cutover of one Service.
#[derive(Debug)]
pub struct Machine {
    service: ObjectName,
    desired: Option<Arc<ColorSwitch>>,
    /// The colors of the last switch that could be understood: what a flip may name.
    known: Vec<Arc<str>>,
    /// What requests without a preview are sent to; `None` before the first observation.
    effective: Option<Arc<str>>,
    /// The effective color has had a usable endpoint since it was adopted. Before that it is only a guess.
    proven: bool,
    /// What the last attempt came to.
    rest: Phase,
    attempt: Option<Attempt>,
    /// A failed wish: not tried again until the user wishes something else or asks for a retry.
    latch: Option<Arc<ColorSwitch>>,
    /// The color that was effective before the last finished cutover: back to it is the short way.
    standby: Option<Arc<str>>,
    waiting: Option<Waiting>,
    /// When the desired color changed.
    changes: VecDeque<u64>,
    flapping: bool,
    rejected: Option<(Arc<str>, Arc<str>)>,
    open_previews: BTreeSet<Arc<str>>,
    drains: Vec<Drain>,
    sequence: u64,
    history: History,
}

impl Machine {
    /// The machine of a Service that nothing is known about yet. The first attempt gets the number `sequence` + 1.
    pub fn new(service: ObjectName, sequence: u64) -> Self {
        Self {
            service,
            desired: None,
            known: Vec::new(),
            effective: None,
            proven: false,
            rest: Phase::Idle,
            attempt: None,
            latch: None,
            standby: None,
            waiting: None,
            changes: VecDeque::new(),
            flapping: false,
            rejected: None,
            open_previews: BTreeSet::new(),
            drains: Vec::new(),
            sequence,
            history: History::default(),
        }
    }

    /// Whose cutover it is.
    pub fn service(&self) -> &ObjectName {
        &self.service
    }

    /// The colors of the last switch that could be understood, in written order.
    pub fn known(&self) -> &[Arc<str>] {
        &self.known
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match &self.attempt {
            Some(attempt) => attempt.phase(),
            None if self.rejected.is_some() => Phase::Rejected,
            None => self.rest,
        }
    }

    /// The color that requests without a preview are to be sent to; `None` before the first observation.
    pub fn effective(&self) -> Option<&Arc<str>> {
        self.effective.as_ref()
    }

    /// What is desired, as it was last told.
    pub fn desired(&self) -> Option<&Arc<ColorSwitch>> {
        self.desired.as_ref()
    }

    /// What is missing before something happens.
    pub fn waiting(&self) -> Option<&Waiting> {
        self.waiting.as_ref()
    }

    /// Colors that a preview may choose.
    pub fn open_previews(&self) -> &BTreeSet<Arc<str>> {
        &self.open_previews
    }

    /// The receipt of the attempt that runs.
    pub fn running(&self) -> Option<&Receipt> {
        self.attempt.as_ref().map(|attempt| &attempt.receipt)
    }

    /// The receipts of the last attempts, oldest first.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The number of the last attempt.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Tells the machine something. What it returns has to be done before it is told more.
    #[must_use]
    pub fn step(&mut self, input: Input<'_>, now: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        match input {
            Input::Desired(desired) => self.desire(desired, now, &mut out),
            Input::Observed(seen) => self.observe(seen, now, &mut out),
            Input::Unmanaged => self.retire(now, &mut out),
        }
        out
    }

    fn desire(&mut self, desired: Arc<ColorSwitch>, now: Moment, out: &mut Vec<Action>) {
        let previous = self.desired.replace(Arc::clone(&desired));
        let changed = previous.as_ref().is_some_and(|previous| previous.active != desired.active);
        let newly = |value: &Option<Arc<str>>, before: Option<&Option<Arc<str>>>| {
            value.is_some() && before.is_some_and(|before| before != value)
        };
        // The values of abort and retry are compared with what was there before: one that was there at first sight has
        // been dealt with by an earlier process.
        if newly(&desired.abort, previous.as_ref().map(|previous| &previous.abort)) {
            self.abort(now, out);
        }
        if newly(&desired.retry, previous.as_ref().map(|previous| &previous.retry)) {
            self.latch = None;
        }
        if self.latch.as_ref().is_some_and(|latch| !same_wish(latch, &desired)) {
            self.latch = None;
        }
        if changed {
            self.changes.push_back(now.clock);
            if self.changes.len() > 2 * FLAPPING_CHANGES {
                self.changes.pop_front();
            }
            if self.attempt.is_none() {
                self.rest = Phase::Idle;
            }
        }

        self.rejected = problem(&desired);
        if let Some((reason, text)) = &self.rejected {
            let before = previous.as_ref().and_then(|previous| problem(previous));
            if before.as_ref() != self.rejected.as_ref() {
                out.push(note(Event::CutoverRejected, reason, text.to_string()));
            }
        }
        if desired.problem.is_none() || self.known.is_empty() {
            self.known = desired.colors.iter().map(|(name, _)| Arc::clone(name)).collect();
        }

        let wish = desired.active.as_ref();
        if wish.is_none() && changed {
            let text = format!(
                "weir.dev/active was removed; {} stays effective",
                self.effective.as_deref().unwrap_or("what is effective")
            );
            out.push(note(Event::CutoverIgnored, "ActiveRemoved", text));
        }
        let Some(attempt) = self.attempt.as_ref().filter(|attempt| !attempt.committed()) else { return };
        if let Some((reason, text)) = self.rejected.clone() {
            self.finish(Ending::Aborted, &reason, &text, now, out);
        } else if wish.is_none() && changed {
            self.finish(Ending::Aborted, "ActiveRemoved", "weir.dev/active was removed", now, out);
        } else if wish.is_some_and(|wish| wish != attempt.to()) {
            let text = format!("weir.dev/active is now {}", wish.map_or("", |wish| wish));
            self.finish(Ending::Aborted, "Superseded", &text, now, out);
        }
    }

    /// The user gives the running attempt up. After the commit the observation that follows moves traffic back.
    fn abort(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some(attempt) = &mut self.attempt else {
            let text = "weir.dev/cutover.abort has a new value, but no cutover is running";
            out.push(note(Event::CutoverIgnored, "NothingToAbort", text));
            return;
        };
        if attempt.committed() {
            attempt.given_up = true;
        } else {
            self.latch = self.desired.clone();
            self.finish(Ending::Aborted, "AbortRequested", "weir.dev/cutover.abort has a new value", now, out);
        }
    }

    fn observe(&mut self, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let Some(desired) = self.desired.clone() else { return };
        if seen.colors.is_empty() || self.known.is_empty() {
            return;
        }
        self.waiting = None;
        self.adopt(&desired, seen, now, out);
        self.never_empty(&desired, seen, now, out);
        self.advance(&desired, seen, now, out);
        if self.attempt.is_none() && self.begin(&desired, seen, now, out) {
            self.advance(&desired, seen, now, out);
        }
        self.tend_drains(seen, now, out);
        self.tend_previews(&desired, seen, out);
    }

    /// Gives the Service an effective color without a cutover: at first sight, or when its color is no longer listed.
    fn adopt(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        if let Some(effective) = &self.effective {
            if self.known.contains(effective) {
                return;
            }
            let gone = Arc::clone(effective);
            let text = format!("color {gone} was effective and is no longer listed in weir.dev/colors");
            if self.attempt.is_some() {
                self.finish(Ending::RolledBack, "ColorRemoved", &text, now, out);
            }
            out.push(note(Event::CutoverAdopted, "ColorRemoved", text));
        }
        let Some(first) = self.known.first() else { return };
        let wanted = desired.active.as_ref().filter(|active| self.known.contains(*active)).unwrap_or(first);
        let usable = |color: &&Arc<str>| seen.ready(color) > 0;
        let chosen = Some(wanted).filter(usable).or(self.known.iter().find(usable)).unwrap_or(wanted);
        let chosen = Arc::clone(chosen);
        self.proven = false;
        self.standby = None;
        self.point(&chosen, out);
    }

    /// The rule above all others: a color without usable endpoints does not stay effective while another has some.
    fn never_empty(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let Some(empty) = self.effective.clone() else { return };
        if seen.ready(&empty) > 0 {
            self.proven = true;
            return;
        }
        let back = self.attempt.as_ref().filter(|attempt| attempt.committed()).map(|attempt| attempt.from().clone());
        let wanted = desired.active.clone().filter(|active| self.known.contains(active));
        let candidates = back.into_iter().chain(wanted).chain(self.known.iter().cloned());
        let Some(to) = candidates.into_iter().find(|color| self.known.contains(color) && seen.ready(color) > 0) else {
            return;
        };
        if !self.proven {
            // Nothing has been served by it yet: this is still the choice of the first color, not a failure.
            let text = format!("{to} is effective: it is the first color with usable endpoints");
            if self.attempt.is_some() {
                self.finish(Ending::Aborted, "NoEndpoints", &text, now, out);
            }
            out.push(note(Event::CutoverAdopted, "NoEndpoints", text));
            self.point(&to, out);
            return;
        }
        let text = format!("{empty} has no usable endpoint, {to} has {}", seen.ready(&to));
        match &mut self.attempt {
            // The old color died under a cutover to the one that lives: there is nothing to wait for any more.
            Some(attempt) if !attempt.committed() && *attempt.to() == to => {
                attempt.receipt.reason = "NoEndpoints".into();
                out.push(note(Event::CutoverHeld, "NoEndpoints", format!("{text}; committing without further checks")));
                self.commit(desired, seen, now, out);
            }
            Some(_) => {
                self.roll_back(&to, "NoEndpoints", &text, desired, seen, now, out);
            }
            None => {
                self.open_attempt(&to, desired, seen, now, true, out);
                self.commit(desired, seen, now, out);
                self.latch = self.desired.clone();
                self.finish(Ending::RolledBack, "NoEndpoints", &text, now, out);
            }
        }
    }

    /// Starts an attempt if one is due.
    fn begin(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) -> bool {
        let Some(effective) = self.effective.clone() else { return false };
        let Some(to) = desired.active.clone().filter(|to| *to != effective && self.known.contains(to)) else {
            self.flapping = false;
            return false;
        };
        if let Some((reason, text)) = &self.rejected {
            self.waiting = Some(Waiting::new(reason, format!("{reason}: {text}")));
            return false;
        }
        if self.latch.is_some() {
            let text = format!(
                "Latched: the last attempt ended {}; change weir.dev/active or weir.dev/cutover.retry to try again",
                self.rest
            );
            self.waiting = Some(Waiting::new("Latched", text));
            return false;
        }
        if self.is_flapping(now) {
            let text =
                "Flapping: weir.dev/active changed more than 6 times in 10 min; waiting until it is stable for 1 min";
            if !std::mem::replace(&mut self.flapping, true) {
                out.push(note(Event::CutoverHeld, "Flapping", text));
            }
            self.waiting = Some(Waiting::new("Flapping", text));
            return false;
        }
        self.flapping = false;
        let fast = self.standby.as_ref() == Some(&to);
        self.open_attempt(&to, desired, seen, now, fast, out);
        true
    }

    fn is_flapping(&mut self, now: Moment) -> bool {
        let Some(last) = self.changes.back().copied() else { return false };
        while self.changes.front().is_some_and(|at| now.clock.saturating_sub(*at) > FLAPPING_WINDOW) {
            self.changes.pop_front();
        }
        if self.changes.len() <= FLAPPING_CHANGES {
            return false;
        }
        if now.clock.saturating_sub(last) >= FLAPPING_STABLE {
            self.changes.clear();
            return false;
        }
        true
    }

    fn open_attempt(
        &mut self,
        to: &Arc<str>,
        desired: &ColorSwitch,
        seen: &Observation,
        now: Moment,
        fast: bool,
        out: &mut Vec<Action>,
    ) {
        let from = self.effective.clone().unwrap_or_else(|| Arc::clone(to));
        self.sequence += 1;
        let cutover = format!("{}-{}", self.service, self.sequence);
        out.push(note(Event::CutoverStarted, "Started", format!("{cutover}: from {from} to {to}")));
        let old_at_start = seen.colors.get(&from).map_or(0, |view| view.requests);
        let mut attempt = Attempt {
            stage: Stage::Warming,
            since: now.clock,
            fast,
            held: false,
            given_up: false,
            receipt: Receipt {
                cutover,
                from,
                to: Arc::clone(to),
                requested: Requested { at: now.wall, version: Arc::clone(&desired.version) },
                phases: Vec::new(),
                commit_at: None,
                old_inflight_at_commit: None,
                last_old_response: None,
                requests: Requests::default(),
                streams: StreamCounts::default(),
                dropped_by_switch: 0,
                result: None,
                reason: "".into(),
            },
            old_at_start,
            at_commit: None,
        };
        attempt.enter(Stage::Warming, now);
        self.attempt = Some(attempt);
    }

    /// Takes the running attempt as far as it can go now.
    fn advance(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.count(seen, now);
        match attempt.stage {
            Stage::Warming | Stage::Verifying { .. } => self.advance_before_commit(desired, seen, now, out),
            Stage::Committing => {
                if seen.effective.as_ref() == Some(attempt.to()) {
                    let from = Arc::clone(attempt.from());
                    attempt.enter(Stage::Draining, now);
                    self.drain(from, desired, now, out);
                    self.advance_after_commit(desired, seen, now, out);
                }
            }
            Stage::Draining => self.advance_after_commit(desired, seen, now, out),
        }
    }

    fn advance_before_commit(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let Some(attempt) = &mut self.attempt else { return };
        let to = Arc::clone(attempt.to());
        let policy = &desired.policy;
        let prewarm = !attempt.fast && policy.prewarm_connections != Some(0);
        let gates = gate::ready(policy.min_ready, seen.colors.get(&to), seen.ready(attempt.from())).and_then(|()| {
            if attempt.stage == Stage::Warming {
                attempt.enter(Stage::Verifying { prewarmed: None }, now);
                let successes = if attempt.fast { 1 } else { policy.health_successes };
                out.push(Action::StartProbing { color: Arc::clone(&to), successes });
            }
            let view = seen.colors.get(&to).ok_or_else(|| Waiting::new("ChildMissing", "ChildMissing"))?;
            gate::verified(policy, view)?;
            let Stage::Verifying { prewarmed } = &mut attempt.stage else { return Ok(()) };
            if prewarmed.is_none() {
                *prewarmed = Some(now.clock);
                let text = format!("{to}: every endpoint of {} has passed its probes", view.ready);
                out.push(note(Event::CutoverVerified, "Verified", text));
                if prewarm {
                    out.push(Action::Prewarm { color: Arc::clone(&to), per_endpoint: policy.prewarm_connections });
                    return Err(Waiting::new("Prewarming", "Prewarming: connections are being opened"));
                }
            }
            let patience = prewarmed.map_or(0, |since| since + PREWARM_PATIENCE);
            if prewarm && !view.prewarmed && now.clock < patience {
                return Err(Waiting::new("Prewarming", "Prewarming: connections are being opened"));
            }
            Ok(())
        });
        match gates {
            Ok(()) if desired.hold => {
                // The user's time is not the color's: the timeout counts again from when the hold goes.
                attempt.since = now.clock;
                let text = "Held: ready to commit; weir.dev/cutover.hold is set";
                if !std::mem::replace(&mut attempt.held, true) {
                    out.push(note(Event::CutoverHeld, "Held", text));
                }
                self.waiting = Some(Waiting::new("Held", text));
            }
            Ok(()) => self.commit(desired, seen, now, out),
            Err(waiting) if now.clock.saturating_sub(attempt.since) >= nanoseconds(policy.warm_timeout) => {
                let text = format!("not ready within {:?}: {}", policy.warm_timeout, waiting.text);
                self.latch = self.desired.clone();
                self.finish(Ending::Aborted, "WarmTimeout", &text, now, out);
            }
            Err(waiting) => self.waiting = Some(waiting),
        }
    }

    fn commit(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let Some(attempt) = &mut self.attempt else { return };
        let (from, to) = (Arc::clone(attempt.from()), Arc::clone(attempt.to()));
        if matches!(attempt.stage, Stage::Verifying { .. }) {
            out.push(Action::StopProbing { color: Arc::clone(&to) });
        }
        attempt.enter(Stage::Committing, now);
        let view = |color: &Arc<str>| seen.colors.get(color).cloned().unwrap_or_default();
        let (old, new) = (view(&from), view(&to));
        attempt.receipt.commit_at = Some(now.wall);
        attempt.receipt.old_inflight_at_commit = Some(old.in_flight);
        attempt.at_commit = Some(Baseline {
            clock: now.clock,
            new_requests: new.requests,
            dropped: [old.dropped, new.dropped],
            streams: old.ended,
        });
        self.point(&to, out);
        self.proven = true;
        let text =
            format!("{to} is effective; {} requests finish on {from} (version {})", old.in_flight, desired.version);
        out.push(note(Event::CutoverCommitted, "Committed", text));
    }

    fn advance_after_commit(&mut self, desired: &ColorSwitch, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let Some(attempt) = &self.attempt else { return };
        let from = Arc::clone(attempt.from());
        let aborted = attempt.given_up;
        if aborted || (desired.active.as_ref() == Some(&from) && self.rejected.is_none()) {
            if seen.ready(&from) > 0 && self.known.contains(&from) {
                let (reason, text) = match aborted {
                    true => ("AbortRequested", "weir.dev/cutover.abort has a new value"),
                    false => ("Requested", "weir.dev/active names the old color again"),
                };
                self.roll_back(&from, reason, text, desired, seen, now, out);
                return;
            }
            self.waiting = Some(Waiting::new("NoEndpoints", format!("NoEndpoints: {from} has none to go back to")));
        }
        let Some(base) = attempt.at_commit else { return };
        let old = seen.colors.get(&from).cloned().unwrap_or_default();
        let idle = match desired.policy.long_lived {
            LongLived::Keep => old.in_flight <= old.streams,
            LongLived::Drain | LongLived::Close => old.in_flight == 0,
        };
        let late = match self.drains.iter().find(|drain| drain.color == from) {
            Some(drain) => drain.deadline.saturating_add(FORCE_GRACE),
            None => base.clock.saturating_add(nanoseconds(desired.policy.drain_timeout)),
        };
        let given_up = now.clock >= late;
        if (idle && now.clock >= base.clock + SETTLE) || given_up {
            let text = match old.in_flight {
                0 => format!("{from} is idle"),
                left => format!("{left} requests and streams stay on {from}"),
            };
            self.standby = Some(Arc::clone(&from));
            self.cancel_drain(&from, out);
            self.finish(Ending::Done, "", &text, now, out);
            return;
        }
        if self.waiting.is_none() {
            let text = format!("InFlight: {} requests and streams on {from}", old.in_flight);
            self.waiting = Some(Waiting::new("InFlight", text));
        }
    }

    /// Moves traffic off the attempt's color and ends the attempt.
    #[expect(clippy::too_many_arguments, reason = "the context of a step is passed through, not stored")]
    fn roll_back(
        &mut self,
        to: &Arc<str>,
        reason: &str,
        text: &str,
        desired: &ColorSwitch,
        seen: &Observation,
        now: Moment,
        out: &mut Vec<Action>,
    ) {
        if let Some(attempt) = &mut self.attempt {
            attempt.count(seen, now);
        }
        let left = self.effective.clone();
        self.point(to, out);
        self.standby = None;
        if desired.active.as_ref() != Some(to) {
            self.latch = self.desired.clone();
        }
        self.finish(Ending::RolledBack, reason, text, now, out);
        if let Some(left) = left {
            self.drain(left, desired, now, out);
        }
    }

    /// The only place where the pointer moves.
    fn point(&mut self, to: &Arc<str>, out: &mut Vec<Action>) {
        self.cancel_drain(to, out);
        self.effective = Some(Arc::clone(to));
        out.push(Action::Flip { to: Arc::clone(to) });
    }

    /// Closes the running attempt; the only place where one ends.
    fn finish(&mut self, result: Ending, reason: &str, text: &str, now: Moment, out: &mut Vec<Action>) {
        let Some(mut attempt) = self.attempt.take() else { return };
        if matches!(attempt.stage, Stage::Verifying { .. }) {
            out.push(Action::StopProbing { color: Arc::clone(attempt.to()) });
        }
        let receipt = &mut attempt.receipt;
        receipt.phases.push(PhaseAt { phase: result.phase(), at: now.wall });
        receipt.result = Some(result);
        if result != Ending::Done {
            receipt.reason = reason.into();
        }
        let event = match result {
            Ending::Done => Event::CutoverDone,
            Ending::Aborted => Event::CutoverAborted,
            Ending::RolledBack => Event::CutoverRolledBack,
        };
        let reason = if reason.is_empty() { result.name() } else { reason };
        out.push(note(event, reason, format!("{}: {text}", receipt.cutover)));
        out.push(Action::Finished { result, dropped: receipt.dropped_by_switch });
        self.rest = result.phase();
        self.history.file(attempt.receipt);
    }

    /// Has the long-lived streams of a color ended as the policy says.
    fn drain(&mut self, color: Arc<str>, desired: &ColorSwitch, now: Moment, out: &mut Vec<Action>) {
        let timeout = nanoseconds(desired.policy.drain_timeout);
        let (from, until, paced) = match desired.policy.long_lived {
            LongLived::Keep => return,
            LongLived::Drain => (now.clock, now.clock.saturating_add(timeout), true),
            LongLived::Close => (now.clock + CLOSE_AFTER, now.clock + CLOSE_AFTER + CLOSE_SPREAD, false),
        };
        self.cancel_drain(&color, out);
        out.push(Action::OrderDrain { color: Arc::clone(&color), from, until, paced });
        self.drains.push(Drain { color, deadline: now.clock.saturating_add(timeout).max(until), forced: false });
    }

    fn cancel_drain(&mut self, color: &Arc<str>, out: &mut Vec<Action>) {
        if let Some(at) = self.drains.iter().position(|drain| drain.color == *color) {
            self.drains.swap_remove(at);
            out.push(Action::CancelDrain { color: Arc::clone(color) });
        }
    }

    /// Forces what is late, and takes orders back that have been carried out, so that a later stream on a resident color
    /// (a preview) is left alone.
    fn tend_drains(&mut self, seen: &Observation, now: Moment, out: &mut Vec<Action>) {
        let mut over = Vec::new();
        for drain in &mut self.drains {
            let in_flight = seen.colors.get(&drain.color).map_or(0, |view| view.in_flight);
            if now.clock >= drain.deadline && !drain.forced {
                drain.forced = true;
                out.push(Action::ForceDrain { color: Arc::clone(&drain.color) });
            }
            if now.clock >= drain.deadline.saturating_add(FORCE_GRACE) || (drain.forced && in_flight == 0) {
                over.push(Arc::clone(&drain.color));
            }
        }
        for color in over {
            self.cancel_drain(&color, out);
        }
    }

    /// A preview opens when its color has enough ready endpoints and closes when it has none.
    fn tend_previews(&mut self, desired: &ColorSwitch, seen: &Observation, out: &mut Vec<Action>) {
        let effective_ready = self.effective.as_ref().map_or(0, |effective| seen.ready(effective));
        let needed = desired.policy.min_ready.needed(effective_ready);
        let mut open = BTreeSet::new();
        if desired.preview.is_some() {
            for color in &self.known {
                let (ready, was_open) = (seen.ready(color), self.open_previews.contains(color));
                if ready >= needed || (was_open && ready > 0) {
                    open.insert(Arc::clone(color));
                }
            }
        }
        for color in self.open_previews.difference(&open) {
            out.push(Action::ClosePreview { color: Arc::clone(color) });
        }
        for color in open.difference(&self.open_previews) {
            out.push(Action::OpenPreview { color: Arc::clone(color) });
        }
        self.open_previews = open;
    }

    fn retire(&mut self, now: Moment, out: &mut Vec<Action>) {
        let moved = self.attempt.as_ref().is_some_and(Attempt::committed);
        let result = if moved { Ending::Done } else { Ending::Aborted };
        self.finish(result, "Unmanaged", "weir.dev/colors was removed", now, out);
        while let Some(drain) = self.drains.pop() {
            out.push(Action::CancelDrain { color: drain.color });
        }
        while let Some(color) = self.open_previews.pop_first() {
            out.push(Action::ClosePreview { color });
        }
        self.desired = None;
        self.effective = None;
        self.known.clear();
        self.latch = None;
        self.rejected = None;
        self.waiting = None;
    }
}

/// What is wrong with a wish: reason and text.
fn problem(desired: &ColorSwitch) -> Option<(Arc<str>, Arc<str>)> {
    if desired.problem.is_some() {
        return desired.problem.clone();
    }
    let active = desired.active.as_ref()?;
    if desired.colors.iter().any(|(name, _)| name == active) {
        return None;
    }
    let names: Vec<&str> = desired.colors.iter().map(|(name, _)| &**name).collect();
    let text = format!(
        "weir.dev/active of Service {} is {active:?}; it must be one of: {}",
        desired.service,
        names.join(", ")
    );
    Some(("UnknownColor".into(), text.into()))
}

fn note(event: Event, reason: &str, text: impl Into<String>) -> Action {
    Action::Note(Note { event, reason: reason.into(), text: text.into() })
}

/// At most 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether the user still wishes what failed. The version is not compared: it moves with every write to the object, also
/// with one that has nothing to do with its colors.
fn same_wish(failed: &ColorSwitch, now: &ColorSwitch) -> bool {
    failed.active == now.active && failed.colors == now.colors && failed.policy == now.policy
}

#[cfg(test)]
mod tests;
