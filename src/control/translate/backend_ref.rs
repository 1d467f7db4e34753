//! References of routes to backends: what is named, whether it may be used, and its share.

use std::sync::Arc;

use super::reading::Reading;
use super::service::{self, Known, PortName, Way};
use super::{grant, values};
use crate::model::{ObjectName, Target};

/// The largest weight of the API.
const MAX_WEIGHT: u32 = 1_000_000;

/// A backendRef of whichever generated type.
pub(super) struct Reference<'a> {
    pub group: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
    pub port: Option<i32>,
}

/// The parts of a backendRef, whichever generated type it has.
macro_rules! reference {
    ($written:expr) => {
        $crate::control::translate::backend_ref::Reference {
            group: $written.group.as_deref(),
            kind: $written.kind.as_deref(),
            namespace: $written.namespace.as_deref(),
            name: &$written.name,
            port: $written.port,
        }
    };
}
pub(super) use reference;

/// Where a backendRef leads. What is wrong is told to the owner of the route.
pub(super) fn target(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    reference: &Reference<'_>,
    way: Way,
    field: &str,
) -> Target {
    let invalid = |why: String| Target::Invalid { why: why.into() };
    let group = reference.group.unwrap_or_default();
    let kind = reference.kind.unwrap_or("Service");
    if !(group.is_empty() || group == "core") || kind != "Service" {
        let why = format!("backends of kind {kind} are not supported");
        let fix = format!("name a Service; {}", reading.its_share());
        reading.error("InvalidKind", format!("{field}.kind"), &*why, &fix);
        return invalid(why);
    }
    let namespace: Arc<str> = reference.namespace.map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, reference.name);
    if !grant::permitted(reading, "Service", &name) {
        let why = format!("Service {name} is in another namespace, and no ReferenceGrant there permits this");
        let from = reading.source.kind;
        let fix = format!("add a ReferenceGrant in namespace {}, from {from} to Service", name.namespace);
        reading.error("RefNotPermitted", field, &*why, &fix);
        return invalid(why);
    }
    let Some(port) = reference.port.and_then(values::port) else {
        let why = format!("no port of Service {name} is named");
        let fix = format!("write port; {}", reading.its_share());
        reading.error("PortNotFound", format!("{field}.port"), &*why, &fix);
        return invalid(why);
    };
    service::target(reading, known, &name, PortName::Number(port), way, field)
}

/// The share of a backendRef.
pub(super) fn weight(reading: &mut Reading<'_>, written: Option<i32>, field: &str) -> u32 {
    let weight = written.unwrap_or(1);
    u32::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT).unwrap_or_else(|| {
        let used = if weight < 0 { 0 } else { MAX_WEIGHT };
        let problem = format!("the weight {weight} is not from 0 to {MAX_WEIGHT}; {used} is used");
        reading.error("InvalidWeight", format!("{field}.weight"), problem, "write a number in that range");
        used
    })
}
