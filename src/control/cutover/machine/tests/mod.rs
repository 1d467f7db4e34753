//! Every transition, every row of the table of bad input, and a long random walk, in virtual time.

mod course;
mod invariants;
mod refusals;
mod streams;

use super::*;
use crate::control::cutover::gate::{ColorView, Probes};
use crate::model::{CutoverPolicy, MinReady, Preview};

const MS: u64 = 1_000_000;

fn switch(active: &str) -> ColorSwitch {
    ColorSwitch {
        service: ObjectName::new("shop", "checkout"),
        colors: ["blue", "green", "red"]
            .map(|name| (name.into(), ObjectName::new("shop", format!("checkout-{name}"))))
            .to_vec(),
        active: Some(active.into()),
        preview: None,
        policy: CutoverPolicy { warm_timeout: Duration::from_secs(60), ..CutoverPolicy::default() },
        version: "1".into(),
        problem: None,
        hold: false,
        abort: None,
        retry: None,
    }
}

/// A Service whose colors do what the machine orders, in virtual time.
struct World {
    machine: Machine,
    wish: ColorSwitch,
    seen: Observation,
    now: u64,
    actions: Vec<Action>,
    /// Probes pass and connections are opened at once.
    obliging: bool,
}

impl World {
    /// Every color has this many endpoints; blue is wanted.
    fn new(blue: usize, green: usize, red: usize) -> Self {
        let colors = [("blue", blue), ("green", green), ("red", red)];
        let view = |ready| ColorView { ready, total: ready, ..ColorView::default() };
        let seen = Observation {
            colors: colors.map(|(name, ready)| (name.into(), view(ready))).into_iter().collect(),
            effective: Some("blue".into()),
        };
        let machine = Machine::new(ObjectName::new("shop", "checkout"), 0);
        Self { machine, wish: switch("blue"), seen, now: SECOND, actions: Vec::new(), obliging: true }
    }

    /// One that blue is effective in.
    fn started(blue: usize, green: usize, red: usize) -> Self {
        let mut world = Self::new(blue, green, red);
        world.apply();
        world.actions.clear();
        world
    }

    /// One that has just committed to green, with requests on blue.
    fn draining() -> Self {
        let mut world = Self::started(2, 2, 2);
        world.color("blue").in_flight = 3;
        world.want("green");
        world.run(100 * MS);
        assert_eq!(world.machine.phase(), Phase::Draining);
        world
    }

    fn color(&mut self, name: &str) -> &mut ColorView {
        self.seen.colors.get_mut(name).unwrap()
    }

    fn moment(&self) -> Moment {
        Moment { clock: self.now, wall: Timestamp(1_700_000_000_000 + self.now / MS) }
    }

    fn want(&mut self, active: &str) {
        self.wish.active = Some(active.into());
        self.apply();
    }

    fn apply(&mut self) {
        self.wish.version = format!("{}'", self.wish.version).into();
        let moment = self.moment();
        let actions = self.machine.step(Input::Desired(Arc::new(self.wish.clone())), moment);
        self.obey(actions);
        self.look();
    }

    fn look(&mut self) {
        for _ in 0..4 {
            let moment = self.moment();
            let actions = self.machine.step(Input::Observed(&self.seen.clone()), moment);
            if actions.is_empty() {
                break;
            }
            self.obey(actions);
        }
    }

    /// Lets time pass.
    fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + 100 * MS).min(end);
            self.look();
        }
    }

    fn obey(&mut self, actions: Vec<Action>) {
        for action in &actions {
            match action {
                Action::Flip { to } => self.seen.effective = Some(to.clone()),
                Action::StartProbing { color, .. } if self.obliging => {
                    let view = self.seen.colors.get_mut(color).unwrap();
                    view.probes = Some(Probes { passed: view.ready, of: view.ready, failure: None });
                }
                Action::StopProbing { color } => self.seen.colors.get_mut(color).unwrap().probes = None,
                Action::Prewarm { color, .. } if self.obliging => {
                    self.seen.colors.get_mut(color).unwrap().prewarmed = true;
                }
                _ => {}
            }
        }
        self.actions.extend(actions);
    }

    fn effective(&self) -> &str {
        self.machine.effective().unwrap()
    }

    fn last(&self) -> &Receipt {
        self.machine.history().iter().next_back().unwrap()
    }

    fn waiting(&self) -> &str {
        self.machine.waiting().map_or("", |waiting| &waiting.text)
    }

    fn notes(&self, event: Event) -> Vec<&Note> {
        let notes = self.actions.iter().filter_map(|action| match action {
            Action::Note(note) if note.event == event => Some(note),
            _ => None,
        });
        notes.collect()
    }

    fn flips(&self) -> Vec<&str> {
        let flips = self.actions.iter().filter_map(|action| match action {
            Action::Flip { to } => Some(&**to),
            _ => None,
        });
        flips.collect()
    }

    fn phases(&self) -> Vec<Phase> {
        self.last().phases.iter().map(|entered| entered.phase).collect()
    }
}
