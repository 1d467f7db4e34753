//! ListenerSets: more listeners for a Gateway, from whoever the Gateway's owner allows.

use std::sync::Arc;

use gateway_api::apis::standard::gateways::GatewayListeners;
use gateway_api::apis::standard::listenersets::ListenerSet;

use super::annotations;
use super::grant::GATEWAY_GROUP;
use super::namespaces::Namespaces;
use super::reading::Reading;
use crate::model::ObjectName;

/// The Gateway that a ListenerSet names. Tells the owner when it names something else.
pub(super) fn parent(reading: &mut Reading<'_>, set: &ListenerSet) -> Option<ObjectName> {
    let parent = &set.spec.parent_ref;
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if parent.group.as_deref().unwrap_or(GATEWAY_GROUP) != GATEWAY_GROUP || kind != "Gateway" {
        let problem = format!("a parent of kind {kind} is not supported");
        reading.warning("UnsupportedParent", "spec.parentRef.kind", problem, "name a Gateway");
        return None;
    }
    let namespace: Arc<str> = parent.namespace.as_deref().map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, parent.name.as_str());
    if !reading.objects.gateways.contains_key(&name) {
        let problem = format!("Gateway {name} does not exist");
        let fix = "create the Gateway or correct the name";
        reading.error("ParentNotFound", "spec.parentRef.name", problem, fix);
        return None;
    }
    Some(name)
}

/// Whether the Gateway allows the set that is read; tells its owner otherwise.
pub(super) fn allowed(reading: &mut Reading<'_>, set: &ListenerSet, gateway: &ObjectName, from: &Namespaces) -> bool {
    annotations::misplaced(reading, set.metadata.annotations.as_ref());
    let allowed = from.allow(reading, &gateway.namespace);
    if !allowed {
        let problem = format!("Gateway {gateway} allows no ListenerSets of namespace {}", reading.namespace());
        let fix = "its owner can write allowedListeners.namespaces.from: All";
        reading.error("NotAllowed", "spec.parentRef", problem, fix);
    }
    allowed
}

/// The listeners of a set as a Gateway would write them: the generated types are twins and meet in their JSON.
pub(super) fn listeners(set: &ListenerSet) -> Vec<GatewayListeners> {
    serde_json::to_value(&set.spec.listeners).and_then(serde_json::from_value).unwrap_or_default()
}
