//! Carries out what the machines decide: observes live backends, probes, flips, orders drains, publishes the state.
//!
//! One per process, on the control thread. It is the only writer of every [`Switch`](crate::proxy::backend::Switch), of
//! drain and prewarm orders and of the [`Board`]. Requests never wait for it: all it touches are atomics and swapped cells.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::model::{BackendKey, ColorSwitch, EndpointSource, ObjectName};
use crate::proxy::backend::{Backend, Color, ColorId, DrainOrder, Endpoint, EndpointSet, Offer};

use super::gate::{ColorView, Observation};
use super::machine::{Action, Input, Machine, Moment};
use super::phase::{Event, Note};
use super::probe::{Probing, Target};
use super::state::{Board, ColorState, CutoverState, StampedNote, Totals};
use super::tally::Tally;

/// Between two observations when nothing happens.
pub const TICK: Duration = Duration::from_millis(100);
/// The state of a Service at rest is published at least this often, for its requests in flight.
const REFRESH: u64 = 1_000_000_000;
/// Notes kept per Service.
const NOTES: usize = 20;

/// What the control loop publishes to the driver.
#[derive(Clone, Default, Debug)]
pub struct Desired {
    /// Every Service with colors.
    pub switches: BTreeMap<ObjectName, Arc<ColorSwitch>>,
    /// The live backends of the published snapshot; those of other Services are ignored.
    pub backends: Vec<Arc<Backend>>,
}

/// The other end of a driver that runs by itself.
#[derive(Clone, Debug)]
pub struct Handle {
    desired: watch::Sender<Option<Arc<Desired>>>,
    poke: Arc<Notify>,
    board: Arc<Board>,
}

impl Handle {
    /// Replaces what is desired; the driver acts at once.
    pub fn desire(&self, desired: Desired) {
        self.desired.send_replace(Some(Arc::new(desired)));
    }

    /// Has the driver look now, because endpoints changed.
    pub fn poke(&self) {
        self.poke.notify_one();
    }

    /// What everyone may see.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

/// Drives the cutovers of all Services.
pub struct Driver {
    services: BTreeMap<ObjectName, Service>,
    /// Numbers of the last attempts of Services that have no colors at the moment.
    sequences: BTreeMap<ObjectName, u64>,
    tally: Box<dyn Tally>,
    workers: usize,
    totals: Totals,
    handle: Handle,
}

impl Driver {
    /// A driver that knows nothing yet. `workers` is how many carry out prewarm orders; 0: they are not waited for.
    pub fn new(workers: usize, tally: Box<dyn Tally>) -> Self {
        let handle = Handle { desired: watch::Sender::new(None), poke: Arc::new(Notify::new()), board: Arc::default() };
        Self {
            services: BTreeMap::new(),
            sequences: BTreeMap::new(),
            tally,
            workers,
            totals: Totals::default(),
            handle,
        }
    }

    /// How others reach it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs for ever. Needs a runtime with time and I/O; `clock` reads both clocks.
    pub async fn run(mut self, clock: impl Fn() -> Moment) {
        let mut inbox = self.handle.desired.subscribe();
        let poke = Arc::clone(&self.handle.poke);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        inbox.mark_changed();
        loop {
            tokio::select! {
                _ = inbox.changed() => {
                    let desired = inbox.borrow_and_update().clone();
                    if let Some(desired) = desired {
                        self.desired(&desired.switches, &desired.backends, clock());
                    }
                }
                () = poke.notified() => self.tick(clock()),
                _ = ticks.tick() => self.tick(clock()),
            }
        }
    }

    /// Takes what is desired and acts on it before it returns. At the first sight of a Service its effective color is
    /// set here, so calling it before the snapshot is published leaves no request without a color. Needs a runtime.
    pub fn desired(
        &mut self,
        switches: &BTreeMap<ObjectName, Arc<ColorSwitch>>,
        backends: &[Arc<Backend>],
        now: Moment,
    ) {
        let gone: Vec<ObjectName> =
            self.services.keys().filter(|name| !switches.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(mut service) = self.services.remove(&name) {
                let actions = service.machine.step(Input::Unmanaged, now);
                service.carry_out(actions, &mut self.totals, now);
                self.sequences.insert(name, service.machine.sequence());
            }
        }
        let mut live: BTreeMap<&ObjectName, Vec<&Arc<Backend>>> = BTreeMap::new();
        for backend in backends {
            live.entry(&backend.key.service).or_default().push(backend);
        }
        for (name, switch) in switches {
            let service = self
                .services
                .entry(name.clone())
                .or_insert_with(|| Service::new(Machine::new(name.clone(), self.sequences.remove(name).unwrap_or(0))));
            service.backends = live.remove(name).unwrap_or_default().into_iter().cloned().collect();
            let offer =
                switch.preview.clone().map(|preview| Arc::new(Offer { preview, active: switch.active.clone() }));
            for backend in &service.backends {
                if *backend.switch.preview.load() != offer {
                    backend.switch.preview.store(offer.clone());
                }
            }
            if !service.machine.desired().is_some_and(|known| **known == **switch) {
                let actions = service.machine.step(Input::Desired(Arc::clone(switch)), now);
                service.carry_out(actions, &mut self.totals, now);
                service.stale = true;
            }
        }
        self.tick(now);
    }

    /// Observes every Service and does what is due. Needs a runtime.
    pub fn tick(&mut self, now: Moment) {
        // A reading of the statistics is worth its cost only where someone looks at it every time.
        if self.services.values().any(|service| service.is_due(now) || service.wants_another()) {
            self.tally.refresh(now.clock);
        }
        for service in self.services.values_mut() {
            // A flip is observed at once, so that the phase after it is entered in the same tick; the bound is for the
            // case that a pointer cannot be moved.
            for _ in 0..4 {
                service.assert();
                let seen = service.observe(&*self.tally, self.workers, now);
                let actions = service.machine.step(Input::Observed(&seen), now);
                let again = actions.iter().any(|action| matches!(action, Action::Flip { .. }));
                service.carry_out(actions, &mut self.totals, now);
                service.seen = seen;
                if !again {
                    break;
                }
            }
        }
        self.publish(now);
    }

    fn publish(&mut self, now: Moment) {
        let board = &self.handle.board;
        let before = board.services.load();
        let mut changed = before.len() != self.services.len();
        let mut services = BTreeMap::new();
        for (name, service) in &mut self.services {
            let known = before.get(name);
            let state = match known {
                Some(known) if !service.is_due(now) => Arc::clone(known),
                _ => {
                    let state = service.state(now);
                    match known {
                        Some(known) if **known == state => Arc::clone(known),
                        _ => Arc::new(state),
                    }
                }
            };
            changed |= !known.is_some_and(|known| Arc::ptr_eq(known, &state));
            services.insert(name.clone(), state);
        }
        if changed {
            board.services.store(Arc::new(services));
        }
        if **board.totals.load() != self.totals {
            board.totals.store(Arc::new(self.totals.clone()));
        }
    }
}

/// One Service: its machine and the live things that it decides about.
struct Service {
    machine: Machine,
    backends: Vec<Arc<Backend>>,
    probing: Option<Probing>,
    prewarming: Option<Arc<str>>,
    notes: VecDeque<StampedNote>,
    members: BTreeMap<(BackendKey, ColorId), Members>,
    seen: Observation,
    /// Something happened since the state was published.
    stale: bool,
    published: u64,
}

/// The endpoints of one color and port, and those that have left while requests still run on them.
#[derive(Default)]
struct Members {
    set: Option<Arc<EndpointSet>>,
    departed: Vec<Arc<Endpoint>>,
}

impl Members {
    fn in_flight(&mut self, color: &Color) -> u64 {
        let current = color.endpoints.load_full();
        if let Some(last) = self.set.take().filter(|last| !Arc::ptr_eq(last, &current)) {
            let stays =
                |endpoint: &Arc<Endpoint>| current.members.iter().any(|(member, _)| Arc::ptr_eq(member, endpoint));
            self.departed.retain(|endpoint| !stays(endpoint));
            let left = last.members.iter().map(|(endpoint, _)| endpoint).filter(|endpoint| !stays(endpoint));
            self.departed.extend(left.cloned());
        }
        self.departed.retain(|endpoint| endpoint.in_flight.load(Ordering::Relaxed) > 0);
        let members = current.members.iter().map(|(endpoint, _)| endpoint);
        let in_flight =
            members.chain(&self.departed).map(|endpoint| u64::from(endpoint.in_flight.load(Ordering::Relaxed))).sum();
        self.set = Some(current);
        in_flight
    }
}

impl Service {
    fn new(machine: Machine) -> Self {
        Self {
            machine,
            backends: Vec::new(),
            probing: None,
            prewarming: None,
            notes: VecDeque::new(),
            members: BTreeMap::new(),
            seen: Observation::default(),
            stale: true,
            published: 0,
        }
    }

    /// Brings live things up to what has been decided: those of a port or a Service that was routed just now are new.
    fn assert(&self) {
        for backend in &self.backends {
            for color in &backend.colors {
                color.preview_open.store(self.machine.open_previews().contains(&color.name), Ordering::Release);
                if self.machine.effective() == Some(&color.name) && backend.switch.effective() != color.id {
                    backend.switch.flip(color.id);
                }
            }
        }
    }

    fn observe(&mut self, tally: &dyn Tally, workers: usize, now: Moment) -> Observation {
        let mut colors: BTreeMap<Arc<str>, ColorView> = BTreeMap::new();
        let mut effective = None;
        let mut counted = Vec::new();
        let mut cold = false;
        let mut tallied = Vec::new();
        for backend in &self.backends {
            effective = effective.or_else(|| backend.effective().map(|color| Arc::clone(&color.name)));
            let ready: Vec<usize> =
                backend.colors.iter().map(|color| color.endpoints.load().usable(now.clock)).collect();
            // A port that no color serves (a metrics port, say) has nothing to say about which color can serve.
            let in_use = ready.iter().any(|ready| *ready > 0);
            for (at, color) in backend.colors.iter().enumerate() {
                let view = colors.entry(Arc::clone(&color.name)).or_default();
                if in_use {
                    let first = !counted.contains(&color.name);
                    view.ready = if first { ready[at] } else { view.ready.min(ready[at]) };
                    if first {
                        counted.push(Arc::clone(&color.name));
                    }
                }
                if let Some(EndpointSource::Missing { why }) = backend.desired.colors.get(at).map(|color| &color.source)
                {
                    view.missing = Some(Arc::clone(why));
                }
                let members = self.members.entry((backend.key.clone(), color.id)).or_default();
                view.in_flight += members.in_flight(color);
                view.total = view.total.max(color.endpoints.load().members.len());
                view.streams += color.streams.open();
                let ended = color.streams.ended();
                view.ended.natural += ended.natural;
                view.ended.drained += ended.drained;
                view.ended.forced += ended.forced;
                view.dropped += color.streams.dropped();
                view.last_response = view.last_response.max(color.streams.last_response());
                // One port that is reached in two ways is counted in one series.
                let series = color.series.slot();
                if !tallied.contains(&series) {
                    tallied.push(series);
                    view.requests += tally.finished(color);
                }
                cold |= self.prewarming.as_ref() == Some(&color.name) && !color.prewarm.is_done(workers);
            }
        }
        self.members.retain(|(key, id), _| {
            let lists = |backend: &Arc<Backend>| backend.colors.iter().any(|color| color.id == *id);
            self.backends.iter().any(|backend| backend.key == *key && lists(backend))
        });
        if let Some(view) = self.prewarming.as_ref().and_then(|color| colors.get_mut(color)) {
            view.prewarmed = !cold;
        }
        self.follow_probes(now);
        if let Some(probing) = &self.probing
            && let Some(view) = colors.get_mut(&probing.color)
        {
            view.probes = Some(probing.results());
        }
        Observation { colors, effective }
    }

    /// Has the endpoints probed that are usable now.
    fn follow_probes(&mut self, now: Moment) {
        let (Some(probing), Some(desired)) = (&mut self.probing, self.machine.desired()) else { return };
        let mut targets = Vec::new();
        for backend in &self.backends {
            for color in backend.colors.iter().filter(|color| color.name == probing.color) {
                let set = color.endpoints.load();
                let speaks = (&backend.desired.protocol).into();
                let usable = set.ready_members().filter(|endpoint| endpoint.is_usable(now.clock));
                targets.extend(usable.map(|endpoint| Target { address: endpoint.address, speaks }));
            }
        }
        probing.follow(targets, &desired.policy);
    }

    fn carry_out(&mut self, actions: Vec<Action>, totals: &mut Totals, now: Moment) {
        for action in actions {
            self.stale = true;
            match action {
                Action::StartProbing { color, successes } => {
                    let policy = self.machine.desired().map(|desired| desired.policy.clone()).unwrap_or_default();
                    self.probing = Some(Probing::new(color, successes, &policy));
                    self.follow_probes(now);
                }
                Action::StopProbing { .. } => self.probing = None,
                Action::Prewarm { color, per_endpoint } => {
                    self.each(&color, |color| _ = color.prewarm.request(per_endpoint));
                    self.prewarming = Some(color);
                }
                Action::Flip { to } => {
                    for backend in &self.backends {
                        if let Some(color) = backend.colors.iter().find(|color| color.name == to) {
                            backend.switch.flip(color.id);
                        }
                    }
                }
                Action::OrderDrain { color, from, until, paced } => {
                    self.each(&color, |color| color.streams.order(DrainOrder::Spread { from, until, paced }));
                }
                Action::ForceDrain { color } => self.each(&color, |color| color.streams.order(DrainOrder::Force)),
                Action::CancelDrain { color } => self.each(&color, |color| color.streams.cancel()),
                Action::OpenPreview { color } => {
                    self.each(&color, |color| color.preview_open.store(true, Ordering::Release));
                }
                Action::ClosePreview { color } => {
                    self.each(&color, |color| color.preview_open.store(false, Ordering::Release));
                }
                Action::Note(note) => self.tell(note, totals, now),
                Action::Finished { result, dropped } => {
                    *totals.results.entry(result.name()).or_default() += 1;
                    totals.dropped += dropped;
                }
            }
        }
    }

    /// The color with this name in every port.
    fn each(&self, name: &str, mut what: impl FnMut(&Color)) {
        for backend in &self.backends {
            backend.colors.iter().filter(|color| *color.name == *name).for_each(|color| what(color));
        }
    }

    fn tell(&mut self, note: Note, totals: &mut Totals, now: Moment) {
        if note.event == Event::CutoverRejected {
            *totals.rejected.entry(Arc::clone(&note.reason)).or_default() += 1;
        }
        let service = self.machine.service();
        let (event, reason, text) = (note.event.name(), &*note.reason, &*note.text);
        if note.event.warning() {
            tracing::warn!(%service, event, reason, "{text}");
        } else {
            tracing::info!(%service, event, reason, "{text}");
        }
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(StampedNote { at: now.wall, note });
    }

    /// Whether its published state may be out of date.
    fn is_due(&self, now: Moment) -> bool {
        self.stale || self.machine.phase().running() || now.clock.saturating_sub(self.published) >= REFRESH
    }

    /// Whether an attempt may begin: its counters need a base line.
    fn wants_another(&self) -> bool {
        let active = self.machine.desired().and_then(|desired| desired.active.as_ref());
        active.is_some() && active != self.machine.effective()
    }

    fn state(&mut self, now: Moment) -> CutoverState {
        self.stale = false;
        self.published = now.clock;
        let (machine, seen) = (&self.machine, &self.seen);
        let desired = machine.desired();
        let color = |name: &Arc<str>| {
            let view = seen.colors.get(name).cloned().unwrap_or_default();
            let ColorView { ready, total, in_flight, streams, .. } = view;
            (Arc::clone(name), ColorState { ready, total, in_flight, streams })
        };
        let running = machine.running();
        let receipts: Vec<_> = machine.history().iter().cloned().collect();
        let rejection = self.notes.iter().rev().find(|stamped| stamped.note.event == Event::CutoverRejected);
        let (reason, message) = match (machine.waiting(), &receipts.last()) {
            (Some(waiting), _) => (Arc::clone(&waiting.reason), waiting.text.clone()),
            (None, _) if machine.phase() == super::phase::Phase::Rejected => match rejection {
                Some(stamped) => (Arc::clone(&stamped.note.reason), stamped.note.text.clone()),
                None => ("".into(), String::new()),
            },
            (None, Some(last)) if running.is_none() && !last.reason.is_empty() => {
                let told = self.notes.iter().rev().find(|stamped| stamped.note.reason == last.reason);
                let text = told.map_or_else(|| last.cutover.clone(), |stamped| stamped.note.text.clone());
                (Arc::clone(&last.reason), text)
            }
            (None, _) => ("".into(), String::new()),
        };
        CutoverState {
            service: machine.service().to_string(),
            phase: machine.phase(),
            from: running.map(|receipt| Arc::clone(&receipt.from)),
            to: running.map(|receipt| Arc::clone(&receipt.to)),
            active: desired.and_then(|desired| desired.active.clone()),
            effective: machine.effective().cloned(),
            version: desired.map(|desired| Arc::clone(&desired.version)).unwrap_or_else(|| "".into()),
            colors: machine.known().iter().map(color).collect(),
            waiting_for: machine.waiting().map(|waiting| waiting.text.clone()),
            reason,
            message,
            preview_open: machine.open_previews().iter().cloned().collect(),
            receipt: running.cloned().map(Arc::new).or_else(|| receipts.last().cloned()),
            receipts,
            notes: self.notes.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests;
