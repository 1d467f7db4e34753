//! Places of series in the shards: handed out, shared by equal labels, taken back when the last owner is gone.
//!
//! Written by the control plane, which makes and drops series; read by [`Registry::totals`]. Workers only see [`Slot`]s.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Registry;

/// Where a series lives in every worker's shard. Slots are reused; `epoch` tells a reused one from its predecessor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    pub(super) index: u32,
    pub(super) epoch: u32,
}

impl Slot {
    /// A small number, unique among the slots of one kind that are alive; for indexing a worker's own tables.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// Changes when the index is used for something else.
    pub fn epoch(self) -> u32 {
        self.epoch
    }
}

/// A series that is alive; dropping it gives its slot back.
#[derive(Debug)]
pub struct Series {
    lease: Arc<Lease>,
}

impl Series {
    /// Its place.
    pub fn slot(&self) -> Slot {
        self.lease.slot
    }
}

/// A place that is taken.
pub(super) struct Lease {
    slot: Slot,
    release: Box<dyn Fn(Slot) + Send + Sync>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.slot.fmt(f)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        (self.release)(self.slot);
    }
}

/// The places of one kind of series.
#[derive(Debug)]
pub(super) struct Table<L> {
    places: Vec<Place<L>>,
    free: Vec<u32>,
    shared: HashMap<L, (Slot, Weak<Lease>), foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Place<L> {
    /// Of the present or last tenant; the first has 1, so that a shard's empty cell (0) is nobody's.
    epoch: u32,
    labels: Option<L>,
    /// The largest area reported, so that a counter never goes back.
    floor: u64,
}

impl<L> Default for Table<L> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), shared: HashMap::default() }
    }
}

impl<L: Clone + Eq + Hash> Table<L> {
    fn take(&mut self, labels: L) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { epoch: 0, labels: None, floor: 0 });
            self.places.len() as u32 - 1
        });
        let place = &mut self.places[index as usize];
        place.epoch = place.epoch.wrapping_add(1).max(1);
        place.labels = Some(labels);
        place.floor = 0;
        Slot { index, epoch: place.epoch }
    }

    fn give_back(&mut self, slot: Slot) {
        let place = &mut self.places[slot.index()];
        let Some(labels) = place.labels.take() else { return };
        self.free.push(slot.index);
        // The labels may have got a new lease between the end of this one and now.
        if self.shared.get(&labels).is_some_and(|(holder, _)| *holder == slot) {
            self.shared.remove(&labels);
        }
    }

    /// Number of places, taken or free.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The series that are alive, in the order of their places.
    pub(super) fn alive(&self) -> impl Iterator<Item = (Slot, &L)> {
        self.places.iter().enumerate().filter_map(|(index, place)| {
            let slot = Slot { index: index as u32, epoch: place.epoch };
            Some((slot, place.labels.as_ref()?))
        })
    }

    /// Raises `area` to the largest one reported for this series. Both are modulo 2^64 and close to each other.
    pub(super) fn never_back(&mut self, slot: Slot, area: &mut u64) {
        let Some(place) = self.places.get_mut(slot.index()).filter(|place| place.epoch == slot.epoch) else { return };
        if (area.wrapping_sub(place.floor) as i64) < 0 {
            *area = place.floor;
        } else {
            place.floor = *area;
        }
    }
}

type Pick<L> = fn(&Registry) -> &Mutex<Table<L>>;

/// A series with a place of its own.
pub(super) fn own<L: Clone + Eq + Hash + 'static>(registry: &Arc<Registry>, pick: Pick<L>, labels: L) -> Series {
    let slot = lock(pick(registry)).take(labels);
    Series { lease: Arc::new(lease(registry, pick, slot)) }
}

/// A series in the place of the living series with these labels, if there is one.
pub(super) fn shared<L: Clone + Eq + Hash + 'static>(registry: &Arc<Registry>, pick: Pick<L>, labels: L) -> Series {
    let mut table = lock(pick(registry));
    if let Some(lease) = table.shared.get(&labels).and_then(|(_, lease)| lease.upgrade()) {
        return Series { lease };
    }
    let slot = table.take(labels.clone());
    let lease = Arc::new(lease(registry, pick, slot));
    table.shared.insert(labels, (slot, Arc::downgrade(&lease)));
    Series { lease }
}

fn lease<L: Clone + Eq + Hash + 'static>(registry: &Arc<Registry>, pick: Pick<L>, slot: Slot) -> Lease {
    let registry = Arc::downgrade(registry);
    let release = move |slot| {
        if let Some(registry) = registry.upgrade() {
            lock(pick(&registry)).give_back(slot);
        }
    };
    Lease { slot, release: Box::new(release) }
}

/// Locks also after a panic elsewhere: every table is consistent between two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::ColorLabels;
    use super::*;

    fn labels(service: &str) -> ColorLabels {
        ColorLabels { namespace: "shop".into(), service: service.into(), port: 80, color: "".into() }
    }

    #[test]
    fn a_dropped_series_gives_its_place_to_the_next_with_another_epoch() {
        let registry = Registry::new(1, &[]);
        let (first, second) = (registry.color(labels("a")), registry.color(labels("b")));
        let (a, b) = (first.slot(), second.slot());
        assert_ne!(a.index(), b.index());
        drop(first);
        let third = registry.color(labels("c"));
        assert_eq!(third.slot().index(), a.index());
        assert_ne!(third.slot().epoch(), a.epoch());
        assert_eq!(second.slot(), b);
    }

    #[test]
    fn equal_labels_share_a_place_until_the_last_is_gone() {
        let registry = Registry::new(1, &[]);
        let (one, two) = (registry.color(labels("a")), registry.color(labels("a")));
        assert_eq!(one.slot(), two.slot());
        drop(one);
        assert_eq!(registry.color(labels("a")).slot(), two.slot());
        let before = two.slot();
        drop(two);
        assert_ne!(registry.color(labels("a")).slot().epoch(), before.epoch());
    }

    #[test]
    fn endpoints_never_share_a_place() {
        let registry = Registry::new(1, &[]);
        let address = "127.0.0.1:1".parse().unwrap();
        let (one, two) = (registry.endpoint(labels("a"), address), registry.endpoint(labels("a"), address));
        assert_ne!(one.slot().index(), two.slot().index());
    }

    #[test]
    fn a_series_may_outlive_its_registry() {
        let registry = Registry::new(1, &[]);
        let series = registry.color(labels("a"));
        drop(registry);
        assert_eq!(series.slot().index(), 0);
    }
}
