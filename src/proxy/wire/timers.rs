//! Deadlines of one worker, free of cost per request: setting one is a store.
//!
//! Far deadlines are found by a sweep over all timers every [`SWEEP`], near ones by a sweep over a short list every
//! [`TICK`], so a deadline is noticed at most [`TICK`] late when it was set at least [`SWEEP`] ahead or was near from the
//! start. One task per worker runs [`Timers::run`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;

/// Between two sweeps over all timers.
pub const SWEEP: Duration = Duration::from_millis(500);

/// Between two sweeps over the near ones.
pub const TICK: Duration = Duration::from_millis(5);

const SWEEP_NS: u64 = SWEEP.as_nanos() as u64;

/// Never.
pub const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Entry {
    deadline: Cell<u64>,
    near: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// All timers of a worker.
#[derive(Debug, Default)]
pub struct Timers {
    all: RefCell<Vec<std::rc::Weak<Entry>>>,
    near: RefCell<Vec<std::rc::Weak<Entry>>>,
    wake: Notify,
}

/// One deadline that can be moved. Times are nanoseconds of the process clock.
#[derive(Debug)]
pub struct Timer {
    entry: Rc<Entry>,
    timers: Rc<Timers>,
}

impl Timers {
    /// A timer that never expires, until it is set.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let entry = Rc::new(Entry { deadline: Cell::new(NEVER), ..Entry::default() });
        self.all.borrow_mut().push(Rc::downgrade(&entry));
        Timer { entry, timers: self.clone() }
    }

    /// Wakes whoever waits for a deadline that has passed. Returns whether any is near.
    pub fn sweep(&self, now: u64, all: bool) -> bool {
        if all {
            let mut near = self.near.borrow_mut();
            self.all.borrow_mut().retain(|weak| {
                let Some(entry) = weak.upgrade() else { return false };
                if entry.deadline.get() <= now + SWEEP_NS && !entry.near.replace(true) {
                    near.push(weak.clone());
                }
                true
            });
        }
        self.near.borrow_mut().retain(|weak| {
            let Some(entry) = weak.upgrade() else { return false };
            let deadline = entry.deadline.get();
            if deadline <= now {
                if let Some(waker) = entry.waker.borrow_mut().take() {
                    waker.wake();
                }
                entry.near.set(false);
                return false;
            }
            let keep = deadline <= now + SWEEP_NS;
            entry.near.set(keep);
            keep
        });
        !self.near.borrow().is_empty()
    }

    /// Wakes everyone who waits, so that they look at what has changed.
    pub fn wake_all(&self) {
        for entry in self.all.borrow().iter().filter_map(std::rc::Weak::upgrade) {
            if let Some(waker) = entry.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Sweeps for ever. `now` is the process clock.
    pub async fn run(&self, now: impl Fn() -> u64) {
        let mut next_all = now();
        loop {
            let time = now();
            let all = time >= next_all;
            if all {
                next_all = time + SWEEP_NS;
            }
            let pause = if self.sweep(time, all) { TICK } else { Duration::from_nanos(next_all.saturating_sub(now())) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
            }
        }
    }
}

impl Timer {
    /// Moves the deadline. `now` decides whether it is near.
    pub fn set(&self, deadline: u64, now: u64) {
        self.entry.deadline.set(deadline);
        if deadline <= now.saturating_add(SWEEP_NS) && !self.entry.near.replace(true) {
            let mut near = self.timers.near.borrow_mut();
            if near.is_empty() {
                self.timers.wake.notify_one();
            }
            near.push(Rc::downgrade(&self.entry));
        }
    }

    /// Whether there is a deadline.
    pub fn is_set(&self) -> bool {
        self.entry.deadline.get() != NEVER
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.entry.deadline.set(NEVER);
    }

    /// Whether the deadline has passed; if not, this task is woken when it has.
    pub fn poll(&self, cx: &mut Context<'_>, now: impl FnOnce() -> u64) -> Poll<()> {
        let deadline = self.entry.deadline.get();
        if deadline != NEVER && deadline <= now() {
            return Poll::Ready(());
        }
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_moved_deadline_wakes_once_at_its_last_place() {
        let timers = Rc::new(Timers::default());
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let mut cx = Context::from_waker(&waker);
        let timer = timers.timer();
        let second = 1_000_000_000;
        timer.set(2 * second, 0);
        assert!(timer.poll(&mut cx, || 0).is_pending());
        timer.set(5 * second, second);
        let mut now = second;
        while now < 5 * second {
            timers.sweep(now, true);
            assert_eq!(count.0.load(Ordering::Relaxed), 0);
            now += second / 4;
        }
        timers.sweep(5 * second, false);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(timer.poll(&mut cx, || 5 * second).is_ready());
        timer.clear();
        timers.sweep(9 * second, true);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn dropped_timers_are_forgotten() {
        let timers = Rc::new(Timers::default());
        for _ in 0..10 {
            timers.timer().set(1, 0);
        }
        timers.sweep(2, true);
        assert!(timers.all.borrow().is_empty() && timers.near.borrow().is_empty());
    }
}
