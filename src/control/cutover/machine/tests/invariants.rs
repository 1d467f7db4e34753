//! What holds on every path.

use super::*;

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
