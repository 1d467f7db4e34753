//! Objects to whose status somebody else has written. Noted by the watches, looked at by who leads.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};

use super::remote::MANAGER;
use crate::model::ObjectRef;

/// Objects at a time. Everything is read again now and then anyway.
const MOST: usize = 10_000;
/// An object is looked at no more often: two that write over each other without an end are no use.
const AGAIN: Duration = Duration::from_secs(10);

/// What the watches have noted.
#[derive(Debug, Default)]
pub struct Overwritten(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    objects: HashSet<ObjectRef>,
    /// When they were looked at.
    looked: HashMap<ObjectRef, Instant>,
}

impl Overwritten {
    /// Somebody else has written to the object's status.
    pub fn add(&self, object: ObjectRef) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.objects.len() < MOST {
            noted.objects.insert(object);
        }
    }

    /// What is to be looked at now.
    pub fn take(&self, now: Instant) -> Vec<ObjectRef> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Noted { objects, looked } = &mut *noted;
        looked.retain(|_, at| now.duration_since(*at) < AGAIN);
        let due: Vec<ObjectRef> = objects.extract_if(|object| !looked.contains_key(object)).collect();
        looked.extend(due.iter().map(|object| (object.clone(), now)));
        due
    }

    /// Everything is going to be read.
    pub fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Noted::default();
    }
}

/// Whether somebody else was the last to write to the status, by what the API server notes of it (to the second).
pub fn is_overwritten(metadata: &ObjectMeta) -> bool {
    let last = |ours: bool| {
        let statuses = metadata.managed_fields.iter().flatten();
        let statuses = statuses.filter(|entry| entry.subresource.as_deref() == Some("status"));
        let of = |entry: &&ManagedFieldsEntry| (entry.manager.as_deref() == Some(MANAGER)) == ours;
        statuses.filter(of).filter_map(|entry| entry.time.as_ref().map(|time| time.0)).max()
    };
    match (last(true), last(false)) {
        (Some(ours), Some(others)) => others >= ours,
        (None, others) => others.is_some(),
        (_, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn object_that_is_overwritten_again_and_again_is_looked_at_now_and_then() {
        let route = |name: &str| ObjectRef::new("HTTPRoute", ObjectName::new("shop", name));
        let (overwritten, now) = (Overwritten::default(), Instant::now());
        overwritten.add(route("a"));
        assert_eq!(overwritten.take(now), [route("a")]);
        overwritten.add(route("a"));
        overwritten.add(route("b"));
        assert_eq!(overwritten.take(now + SECOND), [route("b")]);
        assert_eq!(overwritten.take(now + 9 * SECOND), []);
        assert_eq!(overwritten.take(now + 10 * SECOND), [route("a")], "it is not forgotten");
        assert_eq!(overwritten.take(now + 30 * SECOND), []);
        overwritten.add(route("a"));
        overwritten.clear();
        assert_eq!(overwritten.take(now + 30 * SECOND), []);
    }

    #[test]
    fn a_status_is_overwritten_when_somebody_else_was_the_last_to_write_it() {
        let of = |entries: &[(&str, &str, &str)]| {
            let entry = |(manager, part, second): &(&str, &str, &str)| {
                let time = format!("2026-01-01T00:00:{second}Z");
                serde_json::json!({"manager": manager, "subresource": part, "time": time})
            };
            let entries: Vec<_> = entries.iter().map(entry).collect();
            is_overwritten(&serde_json::from_value(serde_json::json!({"managedFields": entries})).expect("metadata"))
        };
        assert!(!of(&[]));
        assert!(!of(&[("kubectl", "", "09")]), "that is the specification");
        assert!(!of(&[("weir", "status", "05"), ("other", "status", "04")]));
        assert!(of(&[("weir", "status", "05"), ("other", "status", "05")]));
        assert!(of(&[("weir", "status", "05"), ("other", "status", "01"), ("third", "status", "06")]));
        assert!(of(&[("other", "status", "01")]), "nothing of it is ours any more");
    }
}
