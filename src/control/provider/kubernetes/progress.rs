//! How writing goes on, and what the watches tell the writer. Written by the writer's thread and by the watches, read by
//! admin and by the writer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::overwritten::Overwritten;
use super::status::Live;
use crate::model::ObjectRef;

/// Objects that may be [`Fresh`] at a time.
const FRESH: usize = 10_000;

/// How writing goes on, for the metrics.
#[derive(Debug, Default)]
pub struct Progress {
    leads: AtomicBool,
    waiting: AtomicU64,
    /// Since when the oldest is not written.
    oldest: Mutex<Option<Instant>>,
    writes: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
}

impl Progress {
    /// Whether this one writes (`weir_leader`).
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Objects that are to be written to (`weir_status_queue_length`).
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long the oldest of them has waited (`weir_status_oldest_seconds`).
    pub fn oldest(&self) -> Duration {
        let oldest = *self.oldest.lock().unwrap_or_else(PoisonError::into_inner);
        oldest.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Writes by kind and result (`weir_status_writes_total`).
    pub fn writes(&self) -> Vec<(&'static str, &'static str, u64)> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        writes.iter().map(|((kind, result), count)| (*kind, *result, *count)).collect()
    }

    pub(super) fn lead(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    pub(super) fn wait(&self, waiting: usize, oldest: Option<Instant>) {
        self.waiting.store(waiting as u64, Ordering::Relaxed);
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = oldest;
    }

    pub(super) fn count(&self, kind: &'static str, result: &'static str) {
        *self.writes.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, result)).or_default() += 1;
    }
}

/// An object that was seen being made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`, as long as nobody has said anything in its status and it has not changed: then there is
    /// nothing to be read before it is written.
    pub untouched: Option<String>,
}

/// Objects that the watches have seen being made. One that was made anew under the name of another may be said to be as
/// it was, but has no status. Written by the watches, emptied by who leads.
#[derive(Debug, Default)]
pub struct Fresh {
    made: Mutex<HashMap<ObjectRef, Made>>,
    /// Objects that somebody else has written to.
    pub overwritten: Overwritten,
}

impl Fresh {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object was made.
    pub fn add(&self, object: ObjectRef, made: Made) {
        let mut fresh = self.lock();
        // Who begins to lead reads everything anyway.
        if fresh.len() < FRESH || fresh.contains_key(&object) {
            fresh.insert(object, made);
        }
    }

    /// An object was listed again, and may have been made meanwhile. One that has a status is likely the one that was there
    /// before, so that it leaves room for others.
    pub fn find(&self, object: ObjectRef, made: Made) {
        if made.untouched.is_some() || self.lock().len() < FRESH / 2 {
            self.add(object, made);
        }
    }

    /// It is not as it was made any more.
    pub fn touch(&self, object: &ObjectRef) {
        if let Some(made) = self.lock().get_mut(object) {
            made.untouched = None;
        }
    }

    /// What there is to know of an object before its first status is written, once.
    pub fn take_untouched(&self, object: &ObjectRef) -> Option<Live> {
        let mut fresh = self.lock();
        let made = fresh.get_mut(object)?;
        Some(Live::without_status(made.untouched.take()?, made.uid.clone()))
    }

    pub fn take(&self) -> HashMap<ObjectRef, Made> {
        std::mem::take(&mut *self.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    #[test]
    fn what_is_listed_again_with_a_status_leaves_room_for_what_is_new() {
        let object = |number: usize| ObjectRef::new("HTTPRoute", ObjectName::new("shop", number.to_string()));
        let made = |untouched| Made { uid: "u".to_owned(), untouched };
        let fresh = Fresh::default();
        (0..FRESH).for_each(|number| fresh.find(object(number), made(None)));
        fresh.find(object(FRESH), made(Some("7".to_owned())));
        let all = fresh.take();
        assert_eq!((all.len(), all.contains_key(&object(FRESH))), (FRESH / 2 + 1, true));
    }

    #[test]
    fn what_was_seen_of_an_object_serves_for_one_write_and_only_as_long_as_it_is_as_it_was_made() {
        let object = ObjectRef::new("HTTPRoute", ObjectName::new("shop", "r"));
        let made = Made { uid: "u".to_owned(), untouched: Some("7".to_owned()) };
        let fresh = Fresh::default();
        assert_eq!(fresh.take_untouched(&object), None);
        fresh.add(object.clone(), made.clone());
        assert_eq!(fresh.take_untouched(&object), Some(Live::without_status("7".to_owned(), "u".to_owned())));
        assert_eq!(fresh.take_untouched(&object), None);
        fresh.add(object.clone(), made);
        fresh.touch(&object);
        assert_eq!(fresh.take_untouched(&object), None);
        assert_eq!(fresh.take().remove(&object), Some(Made { uid: "u".to_owned(), untouched: None }));
    }
}
