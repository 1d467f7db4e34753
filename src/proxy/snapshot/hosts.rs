//! Finds what belongs to a host name: the exact name, then wildcards from the longest ending, then what is for every name.
//!
//! Used for routes and for certificates. Built by compile, never changed afterwards; a look-up allocates nothing. Exact
//! names stand in parts that copies share: changing one of ten thousand copies a few dozen.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::model::{HostPattern, Labels};

/// Values by host pattern.
#[derive(Clone, Debug)]
pub struct ByHost<T> {
    exact: Exact<T>,
    wildcards: HashMap<Arc<str>, Wildcard<T>, RandomState>,
    /// Never less than the length of any ending in `wildcards`. Bounds the work that a long foreign name can cause.
    longest_suffix: usize,
    any: Option<T>,
}

/// A part of ten thousand names has forty.
const PARTS: usize = 256;

/// Values by exact name.
#[derive(Clone, Debug)]
struct Exact<T> {
    hasher: RandomState,
    /// By the upper bits of the hash of the name.
    parts: Box<[Arc<Part<T>>]>,
    len: usize,
}

type Part<T> = HashTable<(Arc<str>, T)>;

impl<T> Default for Exact<T> {
    fn default() -> Self {
        Self { hasher: RandomState::default(), parts: Box::default(), len: 0 }
    }
}

impl<T> Exact<T> {
    #[inline]
    fn get(&self, name: &str) -> Option<&T> {
        let hash = self.hasher.hash_one(name);
        // Without any name there is no part.
        let part = self.parts.get(part_of(hash))?;
        part.find(hash, |(key, _)| **key == *name).map(|(_, value)| value)
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.parts.iter().flat_map(|part| part.iter()).map(|(_, value)| value)
    }
}

impl<T: Clone> Exact<T> {
    fn insert(&mut self, name: &Arc<str>, value: T) -> Option<T> {
        if self.parts.is_empty() {
            self.parts = (0..PARTS).map(|_| Arc::default()).collect();
        }
        let hasher = &self.hasher;
        let hash = hasher.hash_one(&**name);
        let part = Arc::make_mut(&mut self.parts[part_of(hash)]);
        if let Some((_, known)) = part.find_mut(hash, |(key, _)| key == name) {
            return Some(std::mem::replace(known, value));
        }
        part.insert_unique(hash, (name.clone(), value), |(key, _)| hasher.hash_one(&**key));
        self.len += 1;
        None
    }

    fn remove(&mut self, name: &str) -> Option<T> {
        let hash = self.hasher.hash_one(name);
        let part = self.parts.get_mut(part_of(hash))?;
        part.find(hash, |(key, _)| **key == *name)?;
        let entry = Arc::make_mut(part).find_entry(hash, |(key, _)| **key == *name).ok()?;
        self.len -= 1;
        Some(entry.remove().0.1)
    }
}

/// The table takes the lowest and the highest bits of a hash for itself.
fn part_of(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

#[derive(Clone, Debug)]
struct Wildcard<T> {
    one: Option<T>,
    many: Option<T>,
}

impl<T> Default for Wildcard<T> {
    fn default() -> Self {
        Self { one: None, many: None }
    }
}

impl<T> Wildcard<T> {
    fn slot(&mut self, labels: Labels) -> &mut Option<T> {
        match labels {
            Labels::One => &mut self.one,
            Labels::Many => &mut self.many,
        }
    }
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self { exact: Exact::default(), wildcards: HashMap::default(), longest_suffix: 0, any: None }
    }
}

impl<T: Clone> ByHost<T> {
    /// Sets the value of a pattern. Gives back the one before.
    pub fn insert(&mut self, pattern: &HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.insert(name, value),
            HostPattern::Wildcard { suffix, labels } => {
                self.longest_suffix = self.longest_suffix.max(suffix.len());
                self.wildcards.entry(suffix.clone()).or_default().slot(*labels).replace(value)
            }
            HostPattern::Any => self.any.replace(value),
        }
    }

    /// Takes the value of a pattern out.
    pub fn remove(&mut self, pattern: &HostPattern) -> Option<T> {
        match pattern {
            HostPattern::Exact(name) => self.exact.remove(name),
            HostPattern::Wildcard { suffix, labels } => {
                let entry = self.wildcards.get_mut(suffix)?;
                let value = entry.slot(*labels).take();
                if entry.one.is_none() && entry.many.is_none() {
                    self.wildcards.remove(suffix);
                }
                value
            }
            HostPattern::Any => self.any.take(),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// Look-ups on this thread, for tests that say how many something takes.
    pub(super) static LOOK_UPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

impl<T> ByHost<T> {
    /// The value of exactly this pattern.
    pub fn of(&self, pattern: &HostPattern) -> Option<&T> {
        #[cfg(test)]
        LOOK_UPS.set(LOOK_UPS.get() + 1);
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name),
            HostPattern::Wildcard { suffix, labels } => {
                let entry = self.wildcards.get(suffix)?;
                match labels {
                    Labels::One => entry.one.as_ref(),
                    Labels::Many => entry.many.as_ref(),
                }
            }
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// Number of patterns.
    pub fn len(&self) -> usize {
        let wildcards: usize = self
            .wildcards
            .values()
            .map(|entry| usize::from(entry.one.is_some()) + usize::from(entry.many.is_some()))
            .sum();
        self.exact.len + wildcards + usize::from(self.any.is_some())
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.exact.len == 0 && self.wildcards.is_empty() && self.any.is_none()
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        let wildcards = self.wildcards.values().flat_map(|entry| entry.one.iter().chain(&entry.many));
        self.exact.values().chain(wildcards).chain(&self.any)
    }

    /// Shows `look` what belongs to a host (lower-case, no port), the most specific first, until it has found something.
    pub fn each<'a, R>(&'a self, host: &str, mut look: impl FnMut(&'a T) -> Option<R>) -> Option<R> {
        #[cfg(test)]
        LOOK_UPS.set(LOOK_UPS.get() + 1);
        if let Some(found) = self.exact.get(host).and_then(&mut look) {
            return Some(found);
        }
        if !self.wildcards.is_empty() {
            let first = memchr::memchr(b'.', host.as_bytes());
            for dot in memchr::memchr_iter(b'.', host.as_bytes()) {
                // At least one byte stands for the `*`.
                if dot == 0 || host.len() - dot > self.longest_suffix {
                    continue;
                }
                let Some(entry) = self.wildcards.get(&host[dot..]) else { continue };
                // One label is a narrower promise than many.
                if first == Some(dot)
                    && let Some(found) = entry.one.as_ref().and_then(&mut look)
                {
                    return Some(found);
                }
                if let Some(found) = entry.many.as_ref().and_then(&mut look) {
                    return Some(found);
                }
            }
        }
        self.any.as_ref().and_then(look)
    }

    /// What belongs to a host most specifically.
    pub fn most_specific(&self, host: &str) -> Option<&T> {
        self.each(host, Some)
    }

    /// What belongs to every host.
    pub fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wildcard(suffix: &str, labels: Labels) -> HostPattern {
        HostPattern::Wildcard { suffix: suffix.into(), labels }
    }

    #[test]
    fn hosts_are_shown_from_the_most_specific_to_the_least() {
        let patterns = [
            HostPattern::Exact("a.b.test".into()),
            wildcard(".b.test", Labels::One),
            wildcard(".b.test", Labels::Many),
            wildcard(".test", Labels::Many),
            HostPattern::Any,
        ];
        let mut hosts = ByHost::default();
        for pattern in patterns.iter().rev() {
            assert!(hosts.insert(pattern, pattern.clone()).is_none());
        }
        assert_eq!(hosts.len(), 5);
        let mut seen = Vec::new();
        let none: Option<()> = hosts.each("a.b.test", |pattern| {
            seen.push(pattern.clone());
            None
        });
        assert_eq!((none, seen.as_slice()), (None, patterns.as_slice()));
        assert_eq!(hosts.most_specific("x.y.b.test"), Some(&wildcard(".b.test", Labels::Many)));
        assert_eq!(hosts.most_specific("b.test"), Some(&wildcard(".test", Labels::Many)));
        assert_eq!(hosts.most_specific(""), Some(&HostPattern::Any));
        for pattern in &patterns {
            assert_eq!(hosts.remove(pattern).as_ref(), Some(pattern));
        }
        assert!(hosts.is_empty());
    }

    #[test]
    fn each_shows_exactly_the_patterns_that_match() {
        let mut random = fastrand::Rng::with_seed(3);
        let name = |random: &mut fastrand::Rng| -> String {
            (0..random.usize(0..6)).map(|_| *random.choice(&['a', 'b', '.']).expect("not empty")).collect()
        };
        for _ in 0..20_000 {
            let mut hosts = ByHost::default();
            let mut all = Vec::new();
            for _ in 0..random.usize(1..5) {
                let pattern = match random.u8(0..4) {
                    0 => HostPattern::Exact(name(&mut random).into()),
                    1 => wildcard(&format!(".{}", name(&mut random)), Labels::One),
                    2 => wildcard(&format!(".{}", name(&mut random)), Labels::Many),
                    _ => HostPattern::Any,
                };
                if hosts.insert(&pattern, pattern.clone()).is_none() {
                    all.push(pattern);
                }
            }
            let host = name(&mut random);
            let mut seen = Vec::new();
            hosts.each(&host, |pattern: &HostPattern| {
                seen.push(pattern.clone());
                None::<()>
            });
            let mut expected: Vec<_> = all.into_iter().filter(|pattern| pattern.matches(&host)).collect();
            expected.sort_by_key(|pattern| match pattern {
                HostPattern::Exact(_) => (0, 0, 0),
                HostPattern::Wildcard { suffix, labels } => (1, usize::MAX - suffix.len(), *labels as usize),
                HostPattern::Any => (2, 0, 0),
            });
            assert_eq!(seen, expected, "{host}");
        }
    }
}
