//! The channel from a provider to the control loop: latest wins, by object.
//!
//! A loop that is busy for a while finds one merged batch, however much happened meanwhile; so the memory it takes is
//! bounded by the number of objects and an overtaken change costs nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::manifest::Problem;
use crate::control::translate::Change;
use crate::model::ObjectRef;

/// What a provider has to say.
#[derive(Clone, Debug)]
pub struct Batch {
    /// At most one per object.
    pub changes: Vec<Change>,
    /// Everything that is wrong with the provider's files now, not only what is new.
    pub verdicts: Vec<Problem>,
    /// Whether the first full listing has been delivered, with this batch or before. There are no changes before.
    pub complete: bool,
    /// When the first of these changes was noticed.
    pub seen: Instant,
}

/// The provider's end.
pub struct Sender(Arc<Shared>);

/// The control loop's end.
pub struct Receiver(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    waiting: Option<Waiting>,
    closed: bool,
}

struct Waiting {
    changes: HashMap<ObjectRef, Change>,
    rest: Batch,
}

/// A new channel.
pub fn channel() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Receiver(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under this lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sender {
    /// Adds a batch to what the loop has not taken yet. Never waits.
    pub fn send(&self, mut batch: Batch) {
        let changes = std::mem::take(&mut batch.changes);
        let mut state = self.0.lock();
        let waiting = match &mut state.waiting {
            None => state.waiting.insert(Waiting { changes: HashMap::new(), rest: batch }),
            Some(waiting) => {
                batch.complete |= waiting.rest.complete;
                batch.seen = batch.seen.min(waiting.rest.seen);
                waiting.rest = batch;
                waiting
            }
        };
        waiting.changes.extend(changes.into_iter().map(|change| (about(&change), change)));
        drop(state);
        self.0.wake.notify_one();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }
}

impl Receiver {
    /// Waits for news. `None` when the provider has ended and everything was taken. Cancelling loses nothing.
    pub async fn recv(&mut self) -> Option<Batch> {
        loop {
            {
                let mut state = self.0.lock();
                if let Some(Waiting { changes, mut rest }) = state.waiting.take() {
                    drop(state);
                    rest.changes = changes.into_values().collect();
                    return Some(rest);
                }
                if state.closed {
                    return None;
                }
            }
            self.0.wake.notified().await;
        }
    }
}

/// The object that a change is about.
pub fn about(change: &Change) -> ObjectRef {
    match change {
        Change::Put(object) => object.reference(),
        Change::Remove(reference) => reference.clone(),
    }
}
