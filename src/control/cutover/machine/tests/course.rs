//! The course of a switch: adoption, warming, commit, rollback, standby.

use super::*;

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
