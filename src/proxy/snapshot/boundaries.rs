//! Listeners of one socket that are isolated from each other (Gateway API, GEP-3567 and the `hostname` of a listener):
//! what belongs to a host is looked for at its own listener, and nowhere else.
//!
//! Built by compile, never changed afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{HostPattern, Labels};

use super::hosts::ByHost;

/// The hostnames of isolated listeners.
pub(super) struct Boundaries {
    pub(super) source: Arc<BTreeSet<HostPattern>>,
    listeners: ByHost<HostPattern>,
}

impl Boundaries {
    /// `None` when nothing is isolated.
    pub(super) fn new(source: &Arc<BTreeSet<HostPattern>>) -> Option<Box<Self>> {
        if source.is_empty() {
            return None;
        }
        let mut listeners = ByHost::default();
        for pattern in &**source {
            listeners.insert(pattern, pattern.clone());
        }
        Some(Box::new(Self { source: source.clone(), listeners }))
    }

    /// The hostname of the listener that a host (lower-case, no port) belongs to.
    pub(super) fn listener(&self, host: &str) -> Option<&HostPattern> {
        self.listeners.most_specific(host)
    }

    /// Patterns that match this host and are less precise than this are those of other listeners. 0: it belongs to no
    /// isolated listener.
    pub(super) fn precision(&self, host: &str) -> usize {
        self.listener(host).map_or(0, precision)
    }

    /// The hostname of the listener that a pattern belongs to: what is attached to a listener has a pattern within the
    /// listener's.
    pub(super) fn listener_of(&self, pattern: &HostPattern) -> Option<&HostPattern> {
        let names = match pattern {
            HostPattern::Exact(name) => return self.listener(name),
            HostPattern::Any => return self.listeners.any(),
            HostPattern::Wildcard { suffix, .. } => suffix,
        };
        // `*` stands for a label that no listener names.
        let within = |listener: &&HostPattern| precision(listener) <= precision(pattern);
        self.listeners.each(&format!("*{names}"), |listener| Some(listener).filter(within))
    }
}

/// Orders the patterns that match one host as [`ByHost::each`] shows them; larger is more precise.
pub(super) fn precision(pattern: &HostPattern) -> usize {
    match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Wildcard { suffix, labels } => suffix.len() * 2 + usize::from(*labels == Labels::One),
        HostPattern::Any => 0,
    }
}
