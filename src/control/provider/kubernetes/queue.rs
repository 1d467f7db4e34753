//! Objects that are to be written to, each once: the latest wins, the important first, and who was refused waits. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Work by key. A lower rank goes first; within a rank, who came first.
#[derive(Debug)]
pub struct Queue<K> {
    items: BTreeMap<K, Item>,
    due: BTreeSet<(u8, u64, K)>,
    later: BTreeSet<(Instant, u64, K)>,
    next: u64,
    running: usize,
}

#[derive(Debug)]
struct Item {
    rank: u8,
    number: u64,
    since: Instant,
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Due,
    Later(Instant),
    Running,
    /// Something changed while it was written; when that is to be written.
    Again(Instant),
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), due: BTreeSet::new(), later: BTreeSet::new(), next: 0, running: 0 }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// There is something to be written. Whoever waits after a refusal is tried at once: it is something else now.
    pub fn push(&mut self, key: K, rank: u8, now: Instant) {
        if let Some(item) = self.items.get_mut(&key) {
            match item.state {
                State::Due => {}
                State::Running | State::Again(_) => item.state = State::Again(now),
                State::Later(at) => {
                    self.later.remove(&(at, item.number, key.clone()));
                    item.state = State::Due;
                    self.due.insert((item.rank, item.number, key));
                }
            }
            return;
        }
        let number = self.next;
        self.next += 1;
        self.due.insert((rank, number, key.clone()));
        self.items.insert(key, Item { rank, number, since: now, failures: 0, state: State::Due });
    }

    /// There is something to be written, but not before `at`, for it may change again until then. Whoever has another time
    /// already keeps it.
    pub fn push_at(&mut self, key: K, rank: u8, now: Instant, at: Instant) {
        if at <= now {
            return self.push(key, rank, now);
        }
        if let Some(item) = self.items.get_mut(&key) {
            if item.state == State::Running {
                item.state = State::Again(at);
            }
            return;
        }
        let number = self.next;
        self.next += 1;
        self.later.insert((at, number, key.clone()));
        self.items.insert(key, Item { rank, number, since: now, failures: 0, state: State::Later(at) });
    }

    /// Whether it is being written.
    pub fn is_running(&self, key: &K) -> bool {
        self.items.get(key).is_some_and(|item| matches!(item.state, State::Running | State::Again(_)))
    }

    /// The next to be written; it runs until [`done`](Self::done) or [`failed`](Self::failed).
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        while let Some((at, _, _)) = self.later.first()
            && *at <= now
            && let Some((_, number, key)) = self.later.pop_first()
        {
            if let Some(item) = self.items.get_mut(&key) {
                item.state = State::Due;
                self.due.insert((item.rank, number, key));
            }
        }
        let (_, _, key) = self.due.pop_first()?;
        if let Some(item) = self.items.get_mut(&key) {
            item.state = State::Running;
            self.running += 1;
        }
        Some(key)
    }

    /// It is written.
    pub fn done(&mut self, key: &K, now: Instant) {
        self.running -= 1;
        if let Some(item) = self.items.remove(key)
            && let State::Again(at) = item.state
        {
            self.push_at(key.clone(), item.rank, now, at);
        }
    }

    /// It was refused; `pause` says how long it waits after that many refusals in a row.
    pub fn failed(&mut self, key: &K, now: Instant, pause: impl Fn(u32) -> Duration) {
        self.running -= 1;
        let Some(item) = self.items.get_mut(key) else { return };
        item.failures += 1;
        let at = now + pause(item.failures);
        item.state = State::Later(at);
        self.later.insert((at, item.number, key.clone()));
    }

    /// As [`failed`](Self::failed), but because of what was said: if that has changed meanwhile, it is tried at once.
    pub fn refused(&mut self, key: &K, now: Instant, pause: impl Fn(u32) -> Duration) {
        match self.items.get(key) {
            Some(item) if matches!(item.state, State::Again(_)) => self.done(key, now),
            _ => self.failed(key, now, pause),
        }
    }

    /// When the next of those that wait is due.
    pub fn due(&self) -> Option<Instant> {
        self.later.first().map(|(at, ..)| *at)
    }

    /// How many are not written yet.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Since when the oldest is not written.
    pub fn oldest(&self) -> Option<Instant> {
        self.items.values().map(|item| item.since).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_important_goes_first_and_each_goes_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (key, rank) in [("route-1", 3), ("gateway", 1), ("route-2", 3), ("route-1", 3), ("class", 0)] {
            queue.push(key, rank, now);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(now)).collect();
        assert_eq!(order, ["class", "gateway", "route-1", "route-2"]);
        assert_eq!((queue.len(), queue.running()), (4, 4));
        order.iter().for_each(|key| queue.done(key, now));
        assert_eq!((queue.len(), queue.running(), queue.oldest()), (0, 0, None));
    }

    #[test]
    fn what_changes_while_it_is_written_is_written_again() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push("a", 0, now);
        assert_eq!(queue.pop(now), Some("a"));
        queue.push("a", 0, now);
        queue.push("a", 0, now);
        assert_eq!(queue.pop(now), None, "never twice at a time");
        queue.done(&"a", now);
        assert_eq!(queue.pop(now), Some("a"));
        queue.done(&"a", now);
        assert_eq!((queue.pop(now), queue.len()), (None, 0));
    }

    #[test]
    fn who_was_refused_waits_unless_it_changes() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push("a", 0, now);
        queue.push("b", 0, now);
        for key in ["a", "b"] {
            assert_eq!(queue.pop(now), Some(key));
            queue.failed(&key, now, |failures| SECOND * failures);
        }
        assert_eq!((queue.pop(now), queue.due()), (None, Some(now + SECOND)));
        queue.push("b", 0, now);
        assert_eq!(queue.pop(now), Some("b"));
        queue.failed(&"b", now, |failures| SECOND * failures);
        assert_eq!(queue.pop(now + SECOND), Some("a"));
        assert_eq!(
            (queue.pop(now + SECOND), queue.due()),
            (None, Some(now + 2 * SECOND)),
            "the second pause is longer"
        );
        assert_eq!(queue.oldest(), Some(now));
    }

    #[test]
    fn what_may_change_again_waits_and_anything_more_urgent_does_not() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push_at("a", 0, now, now);
        assert_eq!(queue.pop(now), Some("a"), "its time has come");
        queue.push_at("a", 0, now, now + SECOND);
        queue.push_at("a", 0, now, now + 2 * SECOND);
        queue.done(&"a", now);
        assert_eq!((queue.pop(now), queue.due(), queue.len()), (None, Some(now + SECOND), 1));
        queue.push_at("a", 0, now, now + 3 * SECOND);
        assert_eq!(queue.pop(now + SECOND), Some("a"), "a later wish does not put it off");
        queue.push_at("a", 0, now, now + 2 * SECOND);
        queue.push("a", 0, now);
        queue.done(&"a", now);
        assert_eq!(queue.pop(now), Some("a"), "while it ran");
        queue.done(&"a", now);
        queue.push_at("a", 0, now, now + SECOND);
        queue.push("a", 0, now);
        assert_eq!((queue.pop(now), queue.due()), (Some("a"), None), "while it waited");
        assert!(queue.is_running(&"a") && !queue.is_running(&"b"));
    }

    #[test]
    fn what_was_refused_and_has_changed_meanwhile_does_not_wait() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push("a", 0, now);
        assert_eq!(queue.pop(now), Some("a"));
        queue.push("a", 0, now);
        queue.refused(&"a", now, |_| SECOND);
        assert_eq!((queue.running(), queue.pop(now)), (0, Some("a")));
        queue.refused(&"a", now, |_| SECOND);
        assert_eq!((queue.pop(now), queue.due()), (None, Some(now + SECOND)), "it is the same again");
    }
}
