//! The control plane: the world's objects become a model, the model becomes the snapshot that requests read.
//!
//! [`Control`] is the loop: it takes what a provider says, lets it settle, translates, compiles, publishes and reports. It
//! runs on the control thread and is the only writer of the snapshot and of what is alive in it; nothing it does can hold
//! up a worker. The steps without clock and network are [`Cycle`]; names are resolved beside it.

pub mod cutover;
mod cycle;
pub mod provider;
mod report;
mod resolve;
#[cfg(test)]
mod tests;
pub mod translate;
#[cfg(feature = "kubernetes")]
pub mod written;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::model::{ColorSwitch, ObjectName, SocketNews};
use crate::proxy::snapshot::{Live, NameKey};
use provider::feed;

pub use cycle::{Cycle, Step, Translate};
pub use report::{Path, Report};

use resolve::Names;

/// Between two looks at what is due: holds that end, names to be resolved, snapshots to be taken apart.
const TICK: Duration = Duration::from_millis(100);
/// How long the first snapshot waits for its names.
const FIRST_NAMES: Duration = Duration::from_secs(1);

/// Who drives cutovers, as the loop sees it.
pub trait Cutovers {
    /// Services with colors, and what is alive in the snapshot that is about to be published.
    fn desire(&mut self, switches: &BTreeMap<ObjectName, Arc<ColorSwitch>>, live: &Live);

    /// Endpoints changed.
    fn poke(&mut self);
}

/// Without cutovers.
impl Cutovers for () {
    fn desire(&mut self, _: &BTreeMap<ObjectName, Arc<ColorSwitch>>, _: &Live) {}

    fn poke(&mut self) {}
}

impl Cutovers for cutover::Handle {
    fn desire(&mut self, switches: &BTreeMap<ObjectName, Arc<ColorSwitch>>, live: &Live) {
        let all = live.backends().load_full();
        let backends = if switches.is_empty() {
            Vec::new()
        } else {
            all.iter().filter(|backend| switches.contains_key(&backend.key.service)).cloned().collect()
        };
        cutover::Handle::desire(self, cutover::Desired { switches: switches.clone(), backends });
    }

    fn poke(&mut self) {
        cutover::Handle::poke(self);
    }
}

/// The control loop.
pub struct Control<T, C> {
    cycle: Cycle<T>,
    cutovers: C,
    names: Names,
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
}

type Answer = (NameKey, Result<Vec<IpAddr>, String>);

impl<T: Translate, C: Cutovers> Control<T, C> {
    /// A loop that has not taken anything yet. `local_endpoints` is that of the translator's options, for names.
    pub fn new(cycle: Cycle<T>, cutovers: C, local_endpoints: bool) -> Self {
        Self { cycle, cutovers, names: Names::new(local_endpoints), answers: mpsc::unbounded_channel() }
    }

    /// Runs for ever, also when the provider has ended: what was published stays served. `sockets` says what has become of
    /// sockets, for statuses. `clock` is the process clock in nanoseconds. Needs a runtime with time; names are resolved on
    /// its blocking threads.
    pub async fn run(
        mut self,
        mut batches: feed::Receiver,
        mut sockets: watch::Receiver<SocketNews>,
        clock: impl Fn() -> u64,
    ) {
        self.cycle.hear(&sockets.borrow_and_update());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut provider_lives = true;
        loop {
            tokio::select! {
                batch = batches.recv(), if provider_lives => match batch {
                    Some(batch) => self.take(batch, &clock).await,
                    None => {
                        tracing::warn!("the provider has ended; what is published stays");
                        provider_lives = false;
                    }
                },
                Ok(()) = sockets.changed() => self.cycle.hear(&sockets.borrow_and_update()),
                Some(answer) = self.answers.1.recv() => self.answered(answer, clock()),
                _ = ticks.tick() => {
                    self.cycle.tick(clock());
                    self.look_up(clock());
                }
            }
        }
    }

    async fn take(&mut self, batch: feed::Batch, clock: &impl Fn() -> u64) {
        let seen = batch.seen;
        let path = match self.cycle.take(batch, clock()) {
            Step::Waiting | Step::Unchanged => return,
            Step::Endpoints => {
                self.cutovers.poke();
                Path::Endpoints
            }
            Step::Compiled => {
                self.names.want(self.cycle.live().names(), clock());
                self.look_up(clock());
                if self.cycle.is_first() {
                    self.wait_for_names(clock).await;
                }
                self.cutovers.desire(self.cycle.switches(), self.cycle.live());
                // The driver runs on this thread: it points the switches before requests see the new table.
                tokio::task::yield_now().await;
                self.cycle.publish(SystemTime::now());
                Path::Routes
            }
        };
        self.cycle.report().served(path, seen.elapsed());
    }

    /// Gives names a moment, so that the first requests do not find backends without endpoints.
    async fn wait_for_names(&mut self, clock: &impl Fn() -> u64) {
        let deadline = tokio::time::Instant::now() + FIRST_NAMES;
        while self.names.unanswered() > 0 {
            match tokio::time::timeout_at(deadline, self.answers.1.recv()).await {
                Ok(Some(answer)) => self.answered(answer, clock()),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn look_up(&mut self, now: u64) {
        for name in self.names.due(now) {
            let answers = self.answers.0.clone();
            tokio::spawn(async move {
                let answer = resolve::look_up(&name).await;
                // Nobody listens any more when the process ends.
                let _ = answers.send((name, answer));
            });
        }
    }

    fn answered(&mut self, (name, answer): Answer, now: u64) {
        let addresses = self.names.answered(&name, answer, now, fastrand::f64());
        if let Some(addresses) = addresses
            && self.cycle.resolved(&name, &addresses, now)
        {
            self.cutovers.poke();
        }
    }
}

/// Services of which a batch changes endpoints.
type Services = BTreeSet<ObjectName>;
