//! A map in parts, so that ten thousand entries of which one changed are cheap to copy and cheap to compare.
//!
//! Each part is behind an `Arc`. A copy shares all of them; changing an entry copies its part alone; and two maps, of which
//! one came from the other, are compared only where their parts are not the same. The order of iteration is none that
//! means anything, but the same for the same keys.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::iter::{FlatMap, Flatten};
use std::ops::Index;
use std::slice;
use std::sync::Arc;

use foldhash::fast::FixedState;

/// A part of ten thousand entries has forty.
const PARTS: usize = 256;

type Part<K, V> = Arc<BTreeMap<K, V>>;

/// All entries of a map.
pub type Iter<'a, K, V> =
    FlatMap<Flatten<slice::Iter<'a, Option<Part<K, V>>>>, btree_map::Iter<'a, K, V>, Entries<'a, K, V>>;

type Entries<'a, K, V> = fn(&'a Part<K, V>) -> btree_map::Iter<'a, K, V>;

/// A map that shares with its copies what they have in common.
pub struct Shards<K, V> {
    /// Empty as long as nothing was ever inserted.
    parts: Vec<Option<Part<K, V>>>,
    len: usize,
}

/// An entry that differs between two maps.
#[derive(Debug)]
pub struct Difference<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// The value in the old map.
    pub old: Option<&'a V>,
    /// The value in the new one.
    pub new: Option<&'a V>,
}

impl<K, V> Shards<K, V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.parts.iter().flatten().flat_map(|part| part.iter())
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn part(&self, index: usize) -> Option<&Part<K, V>> {
        self.parts.get(index)?.as_ref()
    }
}

impl<K: Hash + Ord, V> Shards<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.part(index_of(key))?.get(key)
    }

    /// Whether there is a value of a key.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The entries in which `new` differs from this map, in the order of their keys. `same` tells whether two values are.
    pub fn differences<'a>(&'a self, new: &'a Self, same: impl Fn(&V, &V) -> bool) -> Vec<Difference<'a, K, V>> {
        let mut differences = Vec::new();
        for index in 0..self.parts.len().max(new.parts.len()) {
            let (one, two) = (self.part(index), new.part(index));
            match (one, two) {
                (Some(one), Some(two)) if Arc::ptr_eq(one, two) => continue,
                (None, None) => continue,
                _ => {}
            }
            let mut left = one.into_iter().flat_map(|part| part.iter()).peekable();
            let mut right = two.into_iter().flat_map(|part| part.iter()).peekable();
            // Both are in the order of their keys.
            loop {
                let order = match (left.peek(), right.peek()) {
                    (None, None) => break,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((one, _)), Some((two, _))) => one.cmp(two),
                };
                let old = if order.is_le() { left.next() } else { None };
                let new = if order.is_ge() { right.next() } else { None };
                let Some((key, _)) = old.or(new) else { break };
                let (old, new) = (old.map(|(_, value)| value), new.map(|(_, value)| value));
                if !old.zip(new).is_some_and(|(old, new)| same(old, new)) {
                    differences.push(Difference { key, old, new });
                }
            }
        }
        differences.sort_unstable_by(|one, two| one.key.cmp(two.key));
        differences
    }
}

impl<K: Hash + Ord + Clone, V: Clone> Shards<K, V> {
    /// Sets the value of a key. Gives back the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.parts.is_empty() {
            self.parts.resize_with(PARTS, || None);
        }
        let part = self.parts[index_of(&key)].get_or_insert_default();
        let before = Arc::make_mut(part).insert(key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes the value of a key out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        // A part is not copied for nothing.
        self.get(key)?;
        let part = self.parts[index_of(key)].as_mut()?;
        let value = Arc::make_mut(part).remove(key);
        if part.is_empty() {
            self.parts[index_of(key)] = None;
        }
        self.len -= usize::from(value.is_some());
        value
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.get(key)?;
        Arc::make_mut(self.parts[index_of(key)].as_mut()?).get_mut(key)
    }
}

/// Not a secret: who can choose keys can make one part large, and then a copy of it is as dear as one of the whole map.
fn index_of<K: Hash>(key: &K) -> usize {
    (FixedState::default().hash_one(key) >> 56) as usize % PARTS
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }
}

impl<K, V> Clone for Shards<K, V> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone(), len: self.len }
    }
}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Shards<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().collect::<BTreeMap<_, _>>()).finish()
    }
}

impl<K: Hash + Ord, V: PartialEq> PartialEq for Shards<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.differences(other, V::eq).is_empty()
    }
}

impl<K: Hash + Ord, V> Index<&K> for Shards<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("invariant: whoever indexes knows that the key is there")
    }
}

impl<K: Hash + Ord + Clone, V: Clone> FromIterator<(K, V)> for Shards<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Hash + Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Shards<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<'a, K, V> IntoIterator for &'a Shards<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_and_its_copies_stay_what_they_were() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut map, mut oracle) = (Shards::default(), BTreeMap::new());
        for _ in 0..200 {
            let (before, known) = (map.clone(), oracle.clone());
            for _ in 0..random.usize(0..8) {
                let key = random.u16(..600);
                if random.bool() {
                    assert_eq!(map.insert(key, random.u8(..3)).is_some(), oracle.insert(key, 0).is_some());
                    oracle.insert(key, map[&key]);
                } else {
                    assert_eq!(map.remove(&key), oracle.remove(&key));
                }
            }
            assert_eq!((map.len(), map.is_empty()), (oracle.len(), oracle.is_empty()));
            assert_eq!(map.iter().collect::<BTreeMap<_, _>>(), oracle.iter().collect::<BTreeMap<_, _>>());
            assert_eq!(before.iter().collect::<BTreeMap<_, _>>(), known.iter().collect::<BTreeMap<_, _>>());
            let shown: Vec<_> =
                before.differences(&map, u8::eq).iter().map(|it| (*it.key, it.old.copied(), it.new.copied())).collect();
            let keys: std::collections::BTreeSet<u16> = known.keys().chain(oracle.keys()).copied().collect();
            let expected: Vec<_> = keys
                .into_iter()
                .map(|key| (key, known.get(&key).copied(), oracle.get(&key).copied()))
                .filter(|(_, old, new)| old != new)
                .collect();
            assert_eq!(shown, expected);
            assert_eq!(before == map, known == oracle);
        }
    }

    #[test]
    fn a_change_copies_one_part() {
        let map: Shards<u32, u32> = (0..10_000).map(|at| (at, at)).collect();
        let mut copy = map.clone();
        copy.insert(7, 8);
        let shared = |index| Arc::ptr_eq(map.part(index).unwrap(), copy.part(index).unwrap());
        assert_eq!((0..PARTS).filter(|index| !shared(*index)).count(), 1);
    }
}
