//! How old what a provider says may be. Written by a provider that can lose sight of the world, read by admin.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Zero while the provider sees every change as it happens.
#[derive(Debug, Default)]
pub struct Age(Mutex<Option<Instant>>);

impl Age {
    /// Since when something may have changed unseen.
    pub fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// Time since then.
    pub fn read(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map(|since| since.elapsed()).unwrap_or_default()
    }
}
