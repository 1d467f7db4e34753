//! What is refused, waited for, or held.

use super::*;

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
