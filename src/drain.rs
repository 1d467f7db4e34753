//! The end of the process, as everyone sees it: one signal, many watchers.
//!
//! Written by `app` alone, when a signal arrives; read by workers and admin.

use tokio::sync::watch;

/// How far the end has come. Phases only go forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Not ready any more, but still accepting: whoever balances to us is told to stop.
    Grace,
    /// No new connections; what runs may finish.
    Draining,
    /// Everything ends now.
    Ending,
}

/// Whoever ends the process.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// Whoever has to notice.
#[derive(Clone, Debug)]
pub struct DrainWatch(watch::Receiver<Phase>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Drain {
    /// A watcher.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.subscribe())
    }

    /// Goes forward to `phase`; going back does nothing.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let forward = phase > *current;
            if forward {
                *current = phase;
            }
            forward
        });
    }
}

impl DrainWatch {
    /// How far the end has come.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the end has come this far. Also returns when nobody can end the process any more.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|current| *current >= phase).await;
    }
}
