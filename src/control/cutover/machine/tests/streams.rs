//! Long-lived streams and previews.

use super::*;

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
