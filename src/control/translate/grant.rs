//! References across namespaces, which the owner of the target must have granted.

use super::reading::{Dep, Reading};
use crate::model::ObjectName;

/// Group of the Gateway API.
pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Whether the object that is read (of a kind of the Gateway API) may refer to `target` of kind `to_kind` in the core
/// group: always in its own namespace, elsewhere when a ReferenceGrant there says so.
pub(super) fn permitted(reading: &mut Reading<'_>, to_kind: &str, target: &ObjectName) -> bool {
    if target.namespace == reading.source.name.namespace {
        return true;
    }
    reading.deps.push(Dep::Grants(target.namespace.clone()));
    let source = &reading.source;
    reading.objects.grants_in(&target.namespace).any(|grant| {
        grant.spec.from.iter().any(|from| {
            from.group == GATEWAY_GROUP
                && from.kind == source.kind
                && from.namespace.as_str() == &*source.name.namespace
        }) && grant.spec.to.iter().any(|to| {
            let group = to.group.is_empty() || to.group == "core";
            let name = to.name.as_deref().is_none_or(|name| name.is_empty() || name == &*target.name);
            group && to.kind == to_kind && name
        })
    })
}
