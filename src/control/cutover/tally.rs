//! How many requests a color has had: from the workers' statistics to the receipt.

use std::collections::HashMap;
use std::sync::Arc;

use crate::proxy::backend::Color;
use crate::telemetry::stats::{Registry, Slot};

/// Where the driver learns about finished requests.
pub trait Tally: Send {
    /// Reads anew; `now` is the process clock. Called before a round of [`Tally::finished`].
    fn refresh(&mut self, now: u64);

    /// Requests that this color and port have finished.
    fn finished(&self, color: &Color) -> u64;
}

/// The statistics that workers publish; up to 100 ms old.
#[derive(Debug)]
pub struct RegistryTally {
    registry: Arc<Registry>,
    read: HashMap<(usize, u32), u64>,
}

impl RegistryTally {
    /// Reads these.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, read: HashMap::new() }
    }
}

impl Tally for RegistryTally {
    fn refresh(&mut self, now: u64) {
        let colors = self.registry.brief(now).colors;
        self.read.clear();
        self.read.extend(colors.iter().map(|color| (key(color.slot), color.flow.finished)));
    }

    fn finished(&self, color: &Color) -> u64 {
        self.read.get(&key(color.series.slot())).copied().unwrap_or_default()
    }
}

fn key(slot: Slot) -> (usize, u32) {
    (slot.index(), slot.epoch())
}
