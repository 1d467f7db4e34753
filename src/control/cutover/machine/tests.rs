//! Every transition, every row of the table of bad input, and a long random walk, in virtual time.

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

#[test]
fn active_color_is_adopted_at_first_sight_without_warming() {
    let world = World::started(1, 5, 5);
    assert_eq!((world.effective(), world.machine.phase()), ("blue", Phase::Idle));
    assert!(world.machine.running().is_none());
}

#[test]
fn first_color_with_endpoints_is_adopted_when_the_active_one_has_none() {
    let mut world = World::new(0, 0, 2);
    world.wish.active = Some("green".into());
    world.apply();
    assert_eq!(world.effective(), "red");
    assert_eq!((world.machine.phase(), world.waiting()), (Phase::Warming, "NotEnoughReady 0/2"));
    world.color("green").ready = 2;
    world.run(SECOND);
    assert_eq!((world.effective(), world.machine.phase()), ("green", Phase::Done));
}

#[test]
fn wanted_color_is_adopted_when_all_are_empty_and_no_flip_follows() {
    let mut world = World::new(0, 0, 0);
    world.wish.active = None;
    world.apply();
    world.run(10 * SECOND);
    assert_eq!(world.effective(), "blue");
    assert!(world.flips().iter().all(|to| *to == "blue"));
    world.want("green");
    world.run(10 * SECOND);
    assert_eq!(world.effective(), "blue", "an empty color is not flipped to");
    assert_eq!(world.waiting(), "NotEnoughReady 0/1");
}

#[test]
fn color_that_comes_up_first_serves_until_the_wanted_one_is_there() {
    let mut world = World::started(0, 0, 0);
    world.color("green").ready = 1;
    world.run(100 * MS);
    assert_eq!((world.effective(), world.machine.phase()), ("green", Phase::Warming));
    world.color("blue").ready = 1;
    world.run(SECOND);
    assert_eq!((world.effective(), world.machine.phase()), ("blue", Phase::Done));
}

#[test]
fn happy_path_enters_every_phase_and_closes_one_receipt() {
    let mut world = World::draining();
    assert_eq!(world.flips(), ["green"]);
    world.color("blue").in_flight = 1;
    world.color("blue").requests = 10;
    world.color("green").requests = 7;
    world.run(SECOND);
    assert_eq!(world.waiting(), "InFlight: 1 requests and streams on blue");
    let (ended, now) = (world.now + 20 * MS, world.now);
    let blue = world.color("blue");
    (blue.in_flight, blue.requests, blue.last_response) = (0, 11, Some(ended));
    world.run(SECOND);
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Done, "green"));
    use Phase::*;
    assert_eq!(world.phases(), [Warming, Verifying, Committing, Draining, Done]);
    let receipt = world.last();
    assert_eq!((&*receipt.cutover, &*receipt.from, &*receipt.to), ("shop/checkout-1", "blue", "green"));
    assert_eq!((receipt.old_inflight_at_commit, receipt.dropped_by_switch), (Some(3), 0));
    assert_eq!(receipt.requests, Requests { old: 11, new: 7 });
    assert_eq!(receipt.result, Some(Ending::Done));
    assert_eq!(receipt.last_old_response, Some(Timestamp(1_700_000_000_000 + now / MS + 20)));
    assert_eq!(world.notes(Event::CutoverDone).len(), 1);
    assert_eq!(world.machine.history().iter().count(), 1);
}

#[test]
fn requests_that_found_no_endpoint_are_counted_as_dropped() {
    let mut world = World::started(2, 2, 2);
    world.color("green").dropped = 40;
    world.want("green");
    world.color("blue").in_flight = 1;
    world.color("green").dropped += 2;
    world.run(SECOND);
    world.color("blue").in_flight = 0;
    world.run(SECOND);
    assert_eq!(world.last().dropped_by_switch, 2, "only those after the commit");
    assert!(world.actions.contains(&Action::Finished { result: Ending::Done, dropped: 2 }));
}

#[test]
fn commit_waits_for_enough_ready_endpoints() {
    let mut world = World::started(5, 2, 0);
    world.want("green");
    world.run(SECOND);
    assert_eq!((world.machine.phase(), world.waiting()), (Phase::Warming, "NotEnoughReady 2/5"));
    world.wish.policy.min_ready = MinReady::Count(2);
    world.apply();
    assert_eq!(world.effective(), "green");
}

#[test]
fn commit_waits_for_the_probes_of_every_endpoint() {
    let mut world = World::started(2, 2, 0);
    world.obliging = false;
    world.wish.policy.health_path = Some("/ok".into());
    world.wish.policy.prewarm_connections = Some(0);
    world.want("green");
    assert_eq!(world.machine.phase(), Phase::Verifying);
    let start = Action::StartProbing { color: "green".into(), successes: 3 };
    assert!(world.actions.contains(&start));
    world.color("green").probes = Some(Probes { passed: 1, of: 2, failure: Some("status 500".into()) });
    world.run(10 * SECOND);
    assert_eq!(world.waiting(), "ProbesFailing 1/2 (GET /ok: status 500)");
    world.color("green").probes = Some(Probes { passed: 2, of: 2, failure: None });
    world.run(100 * MS);
    assert_eq!(world.effective(), "green");
    assert!(world.actions.contains(&Action::StopProbing { color: "green".into() }));
    assert_eq!(world.notes(Event::CutoverVerified).len(), 1);
}

#[test]
fn commit_does_not_follow_when_readiness_is_lost_while_verifying() {
    let mut world = World::started(2, 2, 0);
    world.obliging = false;
    world.want("green");
    world.color("green").ready = 1;
    world.color("green").probes = Some(Probes { passed: 2, of: 2, failure: None });
    world.run(SECOND);
    assert_eq!((world.effective(), world.waiting()), ("blue", "NotEnoughReady 1/2"));
}

#[test]
fn commit_waits_for_connections_but_not_for_ever() {
    let mut world = World::started(2, 2, 0);
    world.obliging = false;
    world.wish.policy.prewarm_connections = Some(7);
    world.want("green");
    world.color("green").probes = Some(Probes { passed: 2, of: 2, failure: None });
    world.run(SECOND);
    assert!(world.actions.contains(&Action::Prewarm { color: "green".into(), per_endpoint: Some(7) }));
    assert_eq!(&*world.machine.waiting().unwrap().reason, "Prewarming");
    world.run(2 * SECOND);
    assert_eq!(world.effective(), "green");
}

#[test]
fn hold_stops_before_traffic_moves_and_its_time_does_not_count() {
    let mut world = World::started(2, 2, 0);
    world.wish.hold = true;
    world.want("green");
    world.run(3_600 * SECOND);
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Verifying, "blue"));
    assert_eq!(&*world.machine.waiting().unwrap().reason, "Held");
    assert_eq!(world.notes(Event::CutoverHeld).len(), 1);
    world.wish.hold = false;
    world.apply();
    assert_eq!(world.effective(), "green");
}

#[test]
fn abort_before_the_commit_leaves_traffic_and_latches() {
    let mut world = World::started(2, 0, 0);
    world.want("green");
    world.wish.abort = Some("1".into());
    world.apply();
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Aborted, "blue"));
    assert_eq!(&*world.last().reason, "AbortRequested");
    world.color("green").ready = 2;
    world.run(100 * SECOND);
    assert_eq!(world.machine.phase(), Phase::Aborted);
    assert!(world.waiting().starts_with("Latched"));
    world.wish.retry = Some("1".into());
    world.apply();
    world.run(SECOND);
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Done, "green"));
}

#[test]
fn abort_and_retry_values_of_before_mean_nothing() {
    let mut world = World::new(2, 2, 0);
    world.wish.abort = Some("old".into());
    world.wish.retry = Some("old".into());
    world.apply();
    world.want("green");
    world.run(SECOND);
    assert_eq!(world.machine.phase(), Phase::Done);
    world.wish.abort = Some("new".into());
    world.apply();
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Done, "green"));
    assert_eq!(&*world.notes(Event::CutoverIgnored)[0].reason, "NothingToAbort");
}

#[test]
fn abort_after_the_commit_moves_traffic_back_and_latches() {
    let mut world = World::draining();
    world.wish.abort = Some("1".into());
    world.apply();
    assert_eq!((world.machine.phase(), world.effective()), (Phase::RolledBack, "blue"));
    assert_eq!(&*world.last().reason, "AbortRequested");
    world.run(100 * SECOND);
    assert_eq!(world.effective(), "blue");
    assert_eq!(world.flips(), ["green", "blue"]);
}

#[test]
fn naming_the_old_color_again_rolls_back_at_once_with_one_usable_endpoint() {
    let mut world = World::draining();
    world.wish.hold = true;
    world.color("blue").ready = 1;
    world.want("blue");
    assert_eq!((world.machine.phase(), world.effective()), (Phase::RolledBack, "blue"));
    assert_eq!(&*world.last().reason, "Requested");
    assert!(world.actions.contains(&Action::CancelDrain { color: "blue".into() }));
    world.wish.hold = false;
    world.want("green");
    world.run(SECOND);
    assert_eq!(world.effective(), "green", "a rollback on request is not latched");
}

#[test]
fn rollback_waits_for_an_endpoint_to_go_back_to() {
    let mut world = World::draining();
    world.color("blue").ready = 0;
    world.want("blue");
    assert_eq!((world.effective(), world.machine.phase()), ("green", Phase::Draining));
    assert!(world.waiting().starts_with("NoEndpoints"));
    world.color("blue").ready = 1;
    world.run(100 * MS);
    assert_eq!(world.effective(), "blue");
}

#[test]
fn third_color_waits_until_the_running_switch_is_done() {
    let mut world = World::draining();
    world.want("red");
    assert_eq!((world.effective(), world.machine.phase()), ("green", Phase::Draining));
    world.color("blue").in_flight = 0;
    world.run(2 * SECOND);
    assert_eq!((world.effective(), world.machine.phase()), ("red", Phase::Done));
    assert_eq!(world.last().cutover, "shop/checkout-2");
}

#[test]
fn new_wish_while_warming_starts_over() {
    let mut world = World::started(2, 0, 2);
    world.want("green");
    world.run(SECOND);
    world.want("red");
    assert_eq!(&*world.last().reason, "Superseded");
    assert_eq!(world.phases(), [Phase::Warming, Phase::Aborted]);
    world.run(SECOND);
    assert_eq!((world.effective(), world.machine.phase()), ("red", Phase::Done));
}

#[test]
fn withdrawn_wish_ends_the_attempt() {
    let mut world = World::started(2, 0, 2);
    world.want("green");
    world.want("blue");
    world.run(SECOND);
    assert_eq!((world.effective(), &*world.last().reason), ("blue", "Superseded"));
    assert!(world.flips().is_empty());
}

#[test]
fn standby_color_returns_the_short_way_with_one_probe_and_no_new_connections() {
    let mut world = World::draining();
    world.color("blue").in_flight = 0;
    world.run(SECOND);
    world.actions.clear();
    world.want("blue");
    assert!(world.actions.contains(&Action::StartProbing { color: "blue".into(), successes: 1 }));
    assert!(!world.actions.iter().any(|action| matches!(action, Action::Prewarm { .. })));
    assert_eq!(world.effective(), "blue");
}

#[test]
fn warm_timeout_aborts_and_latches_until_the_wish_changes() {
    let mut world = World::started(2, 1, 0);
    world.want("green");
    world.run(59 * SECOND);
    assert_eq!(world.machine.phase(), Phase::Warming);
    world.run(2 * SECOND);
    assert_eq!((world.machine.phase(), &*world.last().reason), (Phase::Aborted, "WarmTimeout"));
    assert!(world.notes(Event::CutoverAborted)[0].text.contains("NotEnoughReady 1/2"));
    assert!(world.flips().is_empty(), "blue is untouched");
    world.color("green").ready = 2;
    world.apply();
    world.run(100 * SECOND);
    assert_eq!(world.machine.phase(), Phase::Aborted, "a new version alone is not a new wish");
    world.want("blue");
    assert_eq!(world.machine.phase(), Phase::Idle);
    world.want("green");
    world.run(SECOND);
    assert_eq!(world.machine.phase(), Phase::Done);
}

#[test]
fn probes_that_never_pass_abort_at_warm_timeout_and_stop() {
    let mut world = World::started(2, 2, 0);
    world.obliging = false;
    world.want("green");
    world.run(61 * SECOND);
    assert_eq!((world.machine.phase(), &*world.last().reason), (Phase::Aborted, "WarmTimeout"));
    assert_eq!(world.actions.iter().filter(|action| matches!(action, Action::StopProbing { .. })).count(), 1);
}

#[test]
fn color_that_dies_after_the_commit_is_left_at_once_and_latched() {
    let mut world = World::draining();
    world.color("green").ready = 0;
    world.run(100 * MS);
    assert_eq!((world.effective(), world.machine.phase()), ("blue", Phase::RolledBack));
    assert_eq!(&*world.last().reason, "NoEndpoints");
    world.color("green").ready = 2;
    world.run(600 * SECOND);
    assert_eq!(world.effective(), "blue");
    assert!(world.waiting().starts_with("Latched"));
}

#[test]
fn color_that_dies_in_peace_is_left_for_one_that_lives() {
    let mut world = World::started(2, 0, 1);
    world.color("blue").ready = 0;
    world.run(100 * MS);
    assert_eq!((world.effective(), world.machine.phase()), ("red", Phase::RolledBack));
    assert_eq!((&*world.last().from, &*world.last().to, &*world.last().reason), ("blue", "red", "NoEndpoints"));
    world.color("blue").ready = 2;
    world.run(600 * SECOND);
    assert_eq!(world.effective(), "red", "latched until the user wishes");
    world.wish.retry = Some("1".into());
    world.apply();
    world.run(SECOND);
    assert_eq!(world.effective(), "blue");
}

#[test]
fn old_color_that_dies_while_warming_hands_over_to_what_there_is() {
    let mut world = World::started(4, 1, 0);
    world.wish.hold = true;
    world.want("green");
    world.color("blue").ready = 0;
    world.run(SECOND);
    assert_eq!((world.effective(), world.machine.phase()), ("green", Phase::Done));
    assert_eq!(&*world.last().reason, "NoEndpoints");
}

#[test]
fn nothing_flips_when_every_color_is_empty() {
    let mut world = World::started(2, 0, 0);
    world.color("blue").ready = 0;
    world.run(10 * SECOND);
    assert!(world.flips().is_empty());
    assert_eq!(world.machine.phase(), Phase::Idle);
}

#[test]
fn streams_are_drained_then_forced_and_counted() {
    let mut world = World::started(2, 2, 0);
    world.wish.policy.drain_timeout = Duration::from_secs(30);
    let blue = world.color("blue");
    (blue.in_flight, blue.streams) = (40, 40);
    blue.ended.natural = 5;
    world.want("green");
    world.run(100 * MS);
    let order = world.actions.iter().find_map(|action| match action {
        Action::OrderDrain { color, from, until, paced } => Some((&**color, until - from, *paced)),
        _ => None,
    });
    assert_eq!(order, Some(("blue", 30 * SECOND, true)));
    let blue = world.color("blue");
    (blue.in_flight, blue.streams) = (2, 2);
    blue.ended = StreamCounts { natural: 6, drained: 37, forced: 0 };
    world.run(29 * SECOND);
    assert_eq!(world.machine.phase(), Phase::Draining);
    world.run(2 * SECOND);
    assert!(world.actions.contains(&Action::ForceDrain { color: "blue".into() }));
    let blue = world.color("blue");
    (blue.in_flight, blue.streams, blue.ended.forced) = (0, 0, 2);
    world.run(SECOND);
    assert_eq!(world.machine.phase(), Phase::Done);
    assert_eq!(world.last().streams, StreamCounts { natural: 1, drained: 37, forced: 2 });
    let cancels = world.actions.iter().filter(|action| matches!(action, Action::CancelDrain { .. })).count();
    assert_eq!(cancels, 1, "the order is taken back");
}

#[test]
fn draining_ends_although_something_never_does() {
    let mut world = World::draining();
    world.run(310 * SECOND);
    assert_eq!(world.machine.phase(), Phase::Done);
    assert!(world.notes(Event::CutoverDone)[0].text.contains("3 requests and streams stay on blue"));
}

#[test]
fn kept_streams_are_not_ended_and_not_waited_for() {
    let mut world = World::started(2, 2, 0);
    world.wish.policy.long_lived = LongLived::Keep;
    let blue = world.color("blue");
    (blue.in_flight, blue.streams) = (5, 4);
    world.want("green");
    world.run(SECOND);
    assert_eq!(world.machine.phase(), Phase::Draining, "one request is not a long-lived stream");
    world.color("blue").in_flight = 4;
    world.run(SECOND);
    assert_eq!(world.machine.phase(), Phase::Done);
    assert!(
        !world.actions.iter().any(|action| matches!(action, Action::OrderDrain { .. } | Action::ForceDrain { .. }))
    );
}

#[test]
fn closed_streams_end_five_seconds_after_the_commit() {
    let mut world = World::started(2, 2, 0);
    world.wish.policy.long_lived = LongLived::Close;
    world.color("blue").in_flight = 5;
    let at = world.now;
    world.want("green");
    let (color, from, until) = ("blue".into(), at + 5 * SECOND, at + 6 * SECOND);
    assert!(world.actions.contains(&Action::OrderDrain { color, from, until, paced: false }));
}

#[test]
fn streams_on_a_color_that_was_rolled_back_are_drained_too() {
    let mut world = World::draining();
    world.color("green").in_flight = 1;
    world.want("blue");
    assert!(
        world.actions.iter().any(|action| matches!(action, Action::OrderDrain { color, .. } if &**color == "green"))
    );
    world.run(301 * SECOND);
    assert!(world.actions.contains(&Action::ForceDrain { color: "green".into() }));
    world.run(3 * SECOND);
    assert!(world.actions.contains(&Action::CancelDrain { color: "green".into() }));
}

#[test]
fn preview_opens_with_enough_ready_endpoints_and_closes_with_none() {
    let mut world = World::new(4, 1, 0);
    world.wish.preview = Some(Preview { header: Some("x-weir-color".into()), ..Preview::default() });
    world.apply();
    let green: Arc<str> = "green".into();
    assert!(!world.machine.open_previews().contains(&green));
    world.color("green").ready = 4;
    world.run(100 * MS);
    assert!(world.actions.contains(&Action::OpenPreview { color: green.clone() }));
    world.color("green").ready = 1;
    world.run(100 * MS);
    assert!(world.machine.open_previews().contains(&green), "it does not flap with one endpoint");
    world.color("green").ready = 0;
    world.run(100 * MS);
    assert!(world.actions.contains(&Action::ClosePreview { color: green }));
    world.wish.preview = None;
    world.apply();
    assert!(world.machine.open_previews().is_empty());
}

#[test]
fn unknown_color_is_rejected_and_what_is_effective_stays() {
    let mut world = World::started(2, 2, 2);
    world.want("purple");
    world.run(10 * SECOND);
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Rejected, "blue"));
    let notes = world.notes(Event::CutoverRejected);
    assert_eq!((notes.len(), &*notes[0].reason), (1, "UnknownColor"));
    let text = "weir.dev/active of Service shop/checkout is \"purple\"; it must be one of: blue, green, red";
    assert_eq!(notes[0].text, text);
    world.want("green");
    world.run(SECOND);
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Done, "green"));
}

#[test]
fn every_problem_of_the_annotations_is_rejected_and_changes_nothing() {
    for reason in ["InvalidColors", "AmbiguousMapping", "SelectorPinsColor", "InvalidPolicy"] {
        let mut world = World::started(2, 2, 2);
        world.wish.problem = Some((reason.into(), "what is wrong".into()));
        world.want("green");
        world.run(100 * SECOND);
        assert_eq!((world.machine.phase(), world.effective()), (Phase::Rejected, "blue"), "{reason}");
        assert!(world.flips().is_empty());
        let notes = world.notes(Event::CutoverRejected);
        assert_eq!((notes.len(), &*notes[0].reason, &*notes[0].text), (1, reason, "what is wrong"));
        world.wish.problem = None;
        world.apply();
        world.run(SECOND);
        assert_eq!(world.effective(), "green", "the wish counts as soon as it can be understood");
    }
}

#[test]
fn lost_colors_do_not_take_the_effective_one_away() {
    let mut world = World::started(2, 2, 2);
    world.wish.problem = Some(("InvalidColors".into(), "nonsense".into()));
    world.wish.colors.clear();
    world.apply();
    world.run(SECOND);
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Rejected, "blue"));
    world.color("blue").ready = 0;
    world.run(SECOND);
    assert_eq!(world.effective(), "green", "the rule of the empty color holds with bad input too");
}

#[test]
fn first_configuration_that_is_invalid_decides_nothing() {
    let mut world = World::new(2, 2, 2);
    world.wish.problem = Some(("InvalidColors".into(), "nonsense".into()));
    world.wish.colors.clear();
    world.apply();
    world.run(SECOND);
    assert_eq!((world.machine.phase(), world.machine.effective()), (Phase::Rejected, None));
    assert!(world.flips().is_empty());
}

#[test]
fn problem_while_warming_ends_the_attempt_and_while_draining_does_not() {
    let mut world = World::started(2, 0, 0);
    world.want("green");
    world.wish.problem = Some(("InvalidPolicy".into(), "min-ready".into()));
    world.apply();
    assert_eq!((world.machine.phase(), &*world.last().reason), (Phase::Rejected, "InvalidPolicy"));
    let mut world = World::draining();
    world.wish.problem = Some(("InvalidPolicy".into(), "min-ready".into()));
    world.apply();
    assert_eq!((world.machine.phase(), world.effective()), (Phase::Draining, "green"));
    world.color("blue").in_flight = 0;
    world.run(SECOND);
    assert_eq!((world.last().result, world.machine.phase()), (Some(Ending::Done), Phase::Rejected));
}

#[test]
fn missing_child_and_missing_port_are_waited_for_by_name_until_warm_timeout() {
    for why in
        ["ChildMissing: Service shop/checkout-v2 does not exist", "PortMismatch: shop/checkout-v2 has no port 80"]
    {
        let mut world = World::started(2, 0, 0);
        world.color("green").missing = Some(why.into());
        world.want("green");
        assert_eq!((world.machine.phase(), world.waiting()), (Phase::Warming, why));
        assert_eq!(&*world.machine.waiting().unwrap().reason, &why[..12]);
        world.run(61 * SECOND);
        assert_eq!(&*world.last().reason, "WarmTimeout");
    }
    let mut world = World::started(2, 0, 0);
    world.seen.colors.remove("green");
    world.want("green");
    assert_eq!(&*world.machine.waiting().unwrap().reason, "ChildMissing");
}

#[test]
fn removed_active_keeps_what_is_effective_and_says_so() {
    let mut world = World::draining();
    world.color("blue").in_flight = 0;
    world.run(SECOND);
    world.wish.active = None;
    world.apply();
    world.run(SECOND);
    assert_eq!(world.effective(), "green");
    let notes = world.notes(Event::CutoverIgnored);
    assert_eq!((notes.len(), &*notes[0].reason), (1, "ActiveRemoved"));
    let mut world = World::started(2, 0, 0);
    world.want("green");
    world.wish.active = None;
    world.apply();
    assert_eq!((world.effective(), &*world.last().reason), ("blue", "ActiveRemoved"));
}

#[test]
fn removed_colors_end_everything_that_was_ordered() {
    let mut world = World::draining();
    let moment = world.moment();
    let actions = world.machine.step(Input::Unmanaged, moment);
    assert!(actions.contains(&Action::CancelDrain { color: "blue".into() }));
    assert!(actions.contains(&Action::Finished { result: Ending::Done, dropped: 0 }));
    assert_eq!(world.machine.effective(), None);
}

#[test]
fn effective_color_that_is_no_longer_listed_is_replaced_without_a_cutover() {
    let mut world = World::started(2, 2, 2);
    world.wish.colors.remove(0);
    world.want("red");
    assert_eq!((world.effective(), world.machine.phase()), ("red", Phase::Idle));
    assert_eq!(&*world.notes(Event::CutoverAdopted)[0].reason, "ColorRemoved");
}

#[test]
fn flapping_is_held_until_it_is_stable_for_a_minute() {
    let mut world = World::started(2, 0, 0);
    for change in 0..7 {
        world.want(if change % 2 == 0 { "green" } else { "blue" });
        world.run(SECOND);
    }
    assert_eq!(&*world.machine.waiting().unwrap().reason, "Flapping");
    assert_eq!(world.notes(Event::CutoverHeld).len(), 1);
    world.color("green").ready = 2;
    world.run(58 * SECOND);
    assert_eq!(world.effective(), "blue");
    world.run(3 * SECOND);
    assert_eq!(world.effective(), "green");
    world.run(600 * SECOND);
    for change in 0..6 {
        world.want(if change % 2 == 0 { "blue" } else { "green" });
        world.run(SECOND);
    }
    assert_eq!(world.effective(), "green", "six changes are followed at once");
}

#[test]
fn a_receipt_of_each_of_the_last_ten_attempts_is_kept() {
    let mut world = World::started(2, 2, 0);
    for change in 0..12 {
        world.want(if change % 2 == 0 { "green" } else { "blue" });
        world.run(700 * SECOND);
    }
    let names: Vec<&str> = world.machine.history().iter().map(|receipt| &*receipt.cutover).collect();
    assert_eq!((names.len(), names[0], names[9]), (10, "shop/checkout-3", "shop/checkout-12"));
}

/// What must hold after every step of a walk, whatever happened.
struct Rules {
    started: u64,
    finished: u64,
    probing: BTreeSet<Arc<str>>,
    drained: BTreeSet<Arc<str>>,
    previews: BTreeSet<Arc<str>>,
    commits: u64,
}

impl Rules {
    fn check(&mut self, world: &World, actions: &[Action]) {
        let needed = |from: &str| world.wish.policy.min_ready.needed(world.seen.ready(from));
        let from = world.seen.effective.clone().unwrap();
        for action in actions {
            match action {
                Action::Flip { to } => {
                    assert!(["blue", "green", "red"].contains(&&**to), "flip to unknown {to}");
                    let any = world.seen.colors.values().any(|view| view.ready > 0);
                    assert!(world.seen.ready(to) > 0 || !any, "flip to the empty {to}");
                }
                Action::Note(Note { event: Event::CutoverStarted, .. }) => self.started += 1,
                Action::Note(Note { event: Event::CutoverCommitted, text, .. }) => {
                    let to = text.split(' ').next().unwrap();
                    self.commits += 1;
                    // With nothing left on the old color, one endpoint is better than none.
                    let dead = world.seen.ready(&from) == 0;
                    assert!(dead || world.seen.ready(to) >= needed(&from), "{to} has too few: {text}");
                }
                Action::Finished { dropped, .. } => {
                    assert_eq!(*dropped, 0);
                    self.finished += 1;
                }
                Action::StartProbing { color, .. } => {
                    assert!(self.probing.is_empty(), "one color is probed at a time");
                    self.probing.insert(color.clone());
                }
                Action::StopProbing { color } => assert!(self.probing.remove(color)),
                Action::OrderDrain { color, .. } => assert!(self.drained.insert(color.clone())),
                Action::CancelDrain { color } => assert!(self.drained.remove(color)),
                Action::ForceDrain { color } => assert!(self.drained.contains(color)),
                Action::OpenPreview { color } => assert!(self.previews.insert(color.clone())),
                Action::ClosePreview { color } => assert!(self.previews.remove(color)),
                Action::Prewarm { .. } | Action::Note(_) => {}
            }
        }
        let running = u64::from(world.machine.running().is_some());
        assert_eq!(self.started, self.finished + running, "every attempt ends exactly once");
        assert_eq!(world.machine.sequence(), self.started);
        assert_eq!(!self.probing.is_empty(), world.machine.phase() == Phase::Verifying);
        if let Some(effective) = world.machine.effective() {
            assert!(!self.drained.contains(effective), "the effective color is not drained");
        }
    }
}

#[test]
fn invariants_hold_on_a_long_random_walk() {
    let mut commits = 0;
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(random.usize(0..3), random.usize(0..3), random.usize(0..3));
        world.wish.policy.warm_timeout = Duration::from_secs(random.u64(1..40));
        world.wish.policy.drain_timeout = Duration::from_secs(random.u64(0..20));
        let mut rules = Rules {
            started: 0,
            finished: 0,
            probing: BTreeSet::new(),
            drained: BTreeSet::new(),
            previews: BTreeSet::new(),
            commits: 0,
        };
        for step in 0..3_000 {
            world.now += random.u64(1..3_000) * MS;
            let name = ["blue", "green", "red"][random.usize(0..3)];
            let wished = match random.u8(0..40) {
                0..3 => {
                    let names = ["blue", "green", "red", "purple"];
                    world.wish.active = Some(names[random.usize(0..4)].into());
                    true
                }
                3 => {
                    world.wish.active = None;
                    true
                }
                4 => {
                    let problem = random.bool().then(|| ("InvalidPolicy".into(), "bad".into()));
                    world.wish.problem = problem;
                    true
                }
                5 => {
                    world.wish.hold = random.bool();
                    true
                }
                6 => {
                    world.wish.abort = Some(format!("{step}").into());
                    true
                }
                7 => {
                    world.wish.retry = Some(format!("{step}").into());
                    true
                }
                8 => {
                    world.wish.policy.min_ready = if random.bool() {
                        MinReady::Count(random.u32(0..3))
                    } else {
                        MinReady::Percent(random.u32(0..150))
                    };
                    world.wish.policy.long_lived =
                        [LongLived::Keep, LongLived::Drain, LongLived::Close][random.usize(0..3)];
                    world.wish.preview = random.bool().then(Preview::default);
                    true
                }
                9..18 => {
                    world.color(name).ready = random.usize(0..4);
                    false
                }
                18..24 => {
                    let streams = random.u64(0..3);
                    let view = world.color(name);
                    (view.streams, view.in_flight) = (streams, streams + random.u64(0..2));
                    false
                }
                24..28 => {
                    let of = world.seen.ready(name);
                    let passed = random.usize(0..=of);
                    world.color(name).probes = Some(Probes { passed, of, failure: None });
                    false
                }
                28 => {
                    world.color(name).prewarmed ^= true;
                    false
                }
                _ => false,
            };
            world.obliging = random.u8(0..4) > 0;
            if wished {
                let moment = world.moment();
                let actions = world.machine.step(Input::Desired(Arc::new(world.wish.clone())), moment);
                rules.check(&world, &actions);
                world.obey(actions);
            }
            if step == 0 && !wished {
                let moment = world.moment();
                let actions = world.machine.step(Input::Desired(Arc::new(world.wish.clone())), moment);
                world.obey(actions);
            }
            let moment = world.moment();
            let actions = world.machine.step(Input::Observed(&world.seen.clone()), moment);
            rules.check(&world, &actions);
            world.obey(actions);
            let effective = world.machine.effective().expect("adopted").clone();
            let any = world.seen.colors.values().any(|view| view.ready > 0);
            assert!(world.seen.ready(&effective) > 0 || !any, "{effective} is effective, empty, and others are not");
            assert_eq!(world.seen.effective.as_ref(), Some(&effective), "what is decided is what was ordered");
            world.actions.clear();
        }
        commits += rules.commits;
    }
    assert!(commits > 400, "the walk goes somewhere: {commits}");
}
