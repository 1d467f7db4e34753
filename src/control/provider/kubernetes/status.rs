//! What is to be written into the status of an object that looks as it does now. Pure.
//!
//! Weir says what is its own and no more (server-side apply). Conditions, listeners and features are lists by key: what
//! others say there stays. Routes' parents and policies' ancestors are lists that the API server takes as a whole, so the
//! entries of other controllers are repeated as they are, and the write is refused if they have changed meanwhile.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::remote::{Kind, MANAGER};
use crate::model::{Claim, GatewayAddress, ListenerStatus, ObjectStatus, ParentRef, Status};

/// The name that GatewayClasses call Weir by.
pub const CONTROLLER: &str = "weir.dev/gateway-controller";
/// The group of parents that name none.
const GROUP: &str = "gateway.networking.k8s.io";
/// The longest message of a condition, in bytes.
const MESSAGE: usize = 32_768;
/// Entries that a list may have at most, by the definitions of Gateway API 1.6.
const PARENTS: usize = 32;
const ANCESTORS: usize = 16;
const ADDRESSES: usize = 16;
const TIME: &str = "lastTransitionTime";

/// What an object on the API server says, as far as it matters here.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Live {
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.uid`.
    pub uid: String,
    status: Value,
    /// Which fields of the status Weir has written, as `managedFields` describes them.
    owned: Value,
}

impl Live {
    /// Takes what matters out of an object.
    pub fn read(mut object: Value) -> Self {
        let text = |object: &Value, key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (version, uid) = (text(&object, "resourceVersion"), text(&object, "uid"));
        let entries = object["metadata"]["managedFields"].as_array_mut();
        let owned = entries.into_iter().flatten().find(|entry| {
            entry["manager"] == MANAGER && entry["subresource"] == "status" && entry["operation"] == "Apply"
        });
        let owned = owned.map(|entry| entry["fieldsV1"]["f:status"].take()).unwrap_or_default();
        Self { version, uid, status: object["status"].take(), owned }
    }

    /// An object of which nothing was said yet.
    pub fn without_status(version: String, uid: String) -> Self {
        Self { version, uid, ..Self::default() }
    }
}

/// The status to be applied; `None`: the object says so already. Without `wanted` everything of Weir goes. `now` is RFC
/// 3339 in whole seconds.
pub fn plan(kind: &Kind, live: &Live, wanted: Option<&ObjectStatus>, now: &str) -> Option<Value> {
    if let Some((list, parent, most)) = shared(kind.name) {
        let ours = match wanted.map(|wanted| (&wanted.status, wanted.generation)) {
            Some((Status::Route { parents: ours } | Status::Policy { ancestors: ours }, generation)) => {
                Some((&ours[..], generation))
            }
            _ => None,
        };
        let before = live.status[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let (mine, others): (Vec<&Value>, Vec<&Value>) =
            before.iter().partition(|entry| entry["controllerName"] == CONTROLLER);
        if mine.is_empty() && ours.is_none_or(|(ours, _)| ours.is_empty()) {
            return None;
        }
        let mut entries: Vec<Value> = others.into_iter().cloned().collect();
        let (ours, generation) = ours.unwrap_or_default();
        for status in ours {
            let reference = reference(&status.parent);
            let known = mine.iter().find(|entry| entry[parent] == reference).map(|entry| &entry["conditions"]);
            let conditions = conditions(&status.conditions, generation, known, now);
            entries.push(json!({parent: reference, "controllerName": CONTROLLER, "conditions": conditions}));
        }
        entries.truncate(most);
        let same = entries.len() == before.len() && entries.iter().zip(before).all(|(one, two)| alike(one, two));
        return (!same).then(|| json!({list: entries}));
    }
    let status = match wanted {
        Some(wanted) => own(wanted, &live.status, now),
        None => json!({}),
    };
    (!is_said(&status, &live.status, &live.owned)).then_some(status)
}

/// The list that a kind's controllers share, what an entry calls its parent, and how many there may be.
fn shared(kind: &str) -> Option<(&'static str, &'static str, usize)> {
    match kind {
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute" => Some(("parents", "parentRef", PARENTS)),
        "BackendTLSPolicy" => Some(("ancestors", "ancestorRef", ANCESTORS)),
        _ => None,
    }
}

/// Whether a write must not happen if the object has changed since it was read.
pub fn is_shared(kind: &Kind) -> bool {
    shared(kind.name).is_some()
}

/// A status of which all is Weir's that Weir says.
fn own(wanted: &ObjectStatus, live: &Value, now: &str) -> Value {
    let generation = wanted.generation;
    let of_object = |claims| conditions(claims, generation, Some(&live["conditions"]), now);
    match &wanted.status {
        Status::Class { conditions, features } => {
            let features: Vec<Value> = features.iter().map(|feature| json!({"name": feature})).collect();
            json!({"conditions": of_object(conditions), "supportedFeatures": features})
        }
        Status::Gateway { conditions, addresses, listeners, attached_sets, infrastructure: _ } => {
            let address = |address: &GatewayAddress| match address {
                GatewayAddress::Ip(ip) => json!({"type": "IPAddress", "value": ip}),
                GatewayAddress::Host(host) => json!({"type": "Hostname", "value": host}),
            };
            let mut status = json!({
                "conditions": of_object(conditions),
                "addresses": addresses.iter().take(ADDRESSES).map(address).collect::<Vec<_>>(),
                "listeners": each_listener(listeners, generation, live, now),
            });
            // The field is young; older definitions do not have it, and refuse it.
            if *attached_sets > 0 {
                status["attachedListenerSets"] = json!(attached_sets);
            }
            status
        }
        Status::ListenerSet { conditions, listeners } => json!({
            "conditions": of_object(conditions),
            "listeners": each_listener(listeners, generation, live, now),
        }),
        Status::Ingress { addresses } => {
            let point = |address: &GatewayAddress| match address {
                GatewayAddress::Ip(ip) => json!({"ip": ip}),
                GatewayAddress::Host(host) => json!({"hostname": host}),
            };
            // The API server keeps no empty list.
            match addresses.is_empty() {
                true => json!({"loadBalancer": {}}),
                false => json!({"loadBalancer": {"ingress": addresses.iter().map(point).collect::<Vec<_>>()}}),
            }
        }
        // A list of its own kind, see `plan`.
        Status::Route { .. } | Status::Policy { .. } => json!({}),
    }
}

fn each_listener(listeners: &[ListenerStatus], generation: i64, live: &Value, now: &str) -> Vec<Value> {
    let known = |name: &str| live["listeners"].as_array().into_iter().flatten().find(|it| it["name"] == name);
    let say = |listener: &ListenerStatus| {
        let kinds = listener.kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind.name()}));
        let before = known(&listener.name).map(|known| &known["conditions"]);
        json!({
            "name": listener.name,
            "supportedKinds": kinds.collect::<Vec<_>>(),
            "attachedRoutes": listener.attached,
            "conditions": conditions(&listener.conditions, generation, before, now),
        })
    };
    listeners.iter().map(say).collect()
}

/// Conditions with their times: a condition is as old as its status.
fn conditions(claims: &[Claim], generation: i64, known: Option<&Value>, now: &str) -> Vec<Value> {
    let known = known.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let say = |claim: &Claim| {
        let status = if claim.holds { "True" } else { "False" };
        let before = known.iter().find(|it| it["type"] == claim.kind && it["status"] == status);
        let since = before.and_then(|before| before[TIME].as_str()).unwrap_or(now);
        json!({
            "type": claim.kind,
            "status": status,
            "reason": claim.reason,
            "message": shortened(&claim.message),
            "observedGeneration": generation,
            TIME: since,
        })
    };
    claims.iter().map(say).collect()
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// A parent as the API server shows it, with what it fills in.
fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({
        "group": parent.group.as_deref().unwrap_or(GROUP),
        "kind": parent.kind.as_deref().unwrap_or("Gateway"),
        "name": parent.name,
    });
    if let Some(namespace) = &parent.namespace {
        reference["namespace"] = json!(namespace);
    }
    if let Some(section) = &parent.section {
        reference["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        reference["port"] = json!(port);
    }
    reference
}

/// Equal but for times.
fn alike(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Object(one), Value::Object(two)) => {
            let counted = |map: &Map<String, Value>| map.keys().filter(|key| *key != TIME).count();
            counted(one) == counted(two)
                && one
                    .iter()
                    .filter(|(key, _)| *key != TIME)
                    .all(|(key, value)| two.get(key).is_some_and(|other| alike(value, other)))
        }
        (Value::Array(one), Value::Array(two)) => {
            one.len() == two.len() && one.iter().zip(two).all(|(one, two)| alike(one, two))
        }
        (one, two) => one == two,
    }
}

/// Whether `live` says all of `wanted`, and nothing that Weir once said (`owned`) and does not say any more.
fn is_said(wanted: &Value, live: &Value, owned: &Value) -> bool {
    let Some(fields) = wanted.as_object() else { return wanted == live };
    let goes_on = |key: &String| key.strip_prefix("f:").is_none_or(|field| fields.contains_key(field));
    owned.as_object().is_none_or(|owned| owned.keys().all(goes_on))
        && fields.iter().filter(|(key, _)| *key != TIME).all(|(key, value)| {
            let owned = &owned[format!("f:{key}")];
            let Some(live) = live.get(key) else { return false };
            match (list_key(key), value) {
                (Some(by), Value::Array(items)) => is_listed(by, items, live, owned),
                (_, Value::Object(_)) => is_said(value, live, owned),
                _ => alike(value, live),
            }
        })
}

/// What the entries of a list are told apart by; `None`: the list is one value.
fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "conditions" => Some("type"),
        "listeners" | "supportedFeatures" => Some("name"),
        _ => None,
    }
}

fn is_listed(by: &str, wanted: &[Value], live: &Value, owned: &Value) -> bool {
    let known = live.as_array().map(Vec::as_slice).unwrap_or_default();
    let keys: BTreeSet<&str> = wanted.iter().filter_map(|item| item[by].as_str()).collect();
    let name =
        |owned: &str| serde_json::from_str::<Value>(owned.strip_prefix("k:")?).ok()?[by].as_str().map(str::to_owned);
    let goes_on = |(key, _): (&String, &Value)| name(key).is_none_or(|name| keys.contains(name.as_str()));
    let entry = |item: &Value| {
        owned
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, _)| name(key).as_deref() == item[by].as_str())
            .map(|it| it.1)
    };
    owned.as_object().is_none_or(|owned| owned.iter().all(goes_on))
        && wanted.iter().all(|item| {
            let live = known.iter().find(|live| live[by] == item[by]);
            live.is_some_and(|live| is_said(item, live, entry(item).unwrap_or(&Value::Null)))
        })
}

#[cfg(test)]
mod tests {
    use super::super::remote::STATUS_KINDS;
    use super::*;
    use crate::model::{ParentStatus, RouteKind};

    const NOW: &str = "2026-11-22T08:00:00Z";
    const BEFORE: &str = "2026-01-01T00:00:00Z";

    fn kind(name: &str) -> &'static Kind {
        STATUS_KINDS.iter().find(|kind| kind.name == name).expect("a kind with a status")
    }

    fn claim(kind: &'static str, holds: bool, reason: &'static str) -> Claim {
        Claim { kind, holds, reason, message: String::new() }
    }

    fn route(claims: Vec<Claim>) -> ObjectStatus {
        let parent = ParentRef { name: "edge".into(), section: Some("http".into()), ..ParentRef::default() };
        ObjectStatus {
            generation: 3,
            status: Status::Route { parents: vec![ParentStatus { parent, conditions: claims }] },
        }
    }

    fn theirs(version: &str) -> Value {
        json!({
            "parentRef": {"group": GROUP, "kind": "Gateway", "name": "other"},
            "controllerName": "example.com/other",
            "conditions": [{"type": "Accepted", "status": "True", "reason": version, TIME: BEFORE}],
        })
    }

    /// The object as it is after a status was applied to it by Weir alone.
    fn applied(status: Value) -> Live {
        fn fields(value: &Value) -> Value {
            let Some(map) = value.as_object() else { return json!({}) };
            let field = |(key, value): (&String, &Value)| {
                let below = match (list_key(key), value) {
                    (Some(by), Value::Array(items)) => {
                        let entry = |item: &Value| (format!("k:{}", json!({by: item[by]})), fields(item));
                        Value::Object(items.iter().map(entry).collect())
                    }
                    _ => fields(value),
                };
                (format!("f:{key}"), below)
            };
            Value::Object(map.iter().map(field).collect())
        }
        let owned = fields(&status);
        Live::read(json!({
            "metadata": {"resourceVersion": "7", "uid": "u", "managedFields": [
                {"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {}}},
                {"manager": MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": owned}},
            ]},
            "status": status,
        }))
    }

    #[test]
    fn entries_of_other_controllers_stay_as_they_are() {
        let http = kind("HTTPRoute");
        let live = Live::read(json!({"metadata": {"resourceVersion": "1"}, "status": {"parents": [theirs("1")]}}));
        let wanted = route(vec![claim("Accepted", true, "Accepted")]);
        let status = plan(http, &live, Some(&wanted), NOW).expect("something to write");
        assert_eq!(status["parents"][0], theirs("1"));
        let ours = json!({
            "parentRef": {"group": GROUP, "kind": "Gateway", "name": "edge", "sectionName": "http"},
            "controllerName": CONTROLLER,
            "conditions": [{
                "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 3,
                TIME: NOW,
            }],
        });
        assert_eq!(status["parents"][1], ours);
        let live = applied(status);
        assert_eq!(plan(http, &live, Some(&wanted), "2030-01-01T00:00:00Z"), None, "it is said already");
        let gone = plan(http, &live, None, NOW).expect("something to write");
        assert_eq!(gone, json!({"parents": [theirs("1")]}));
        assert_eq!(plan(http, &applied(gone), None, NOW), None);
        assert_eq!(plan(http, &Live::default(), None, NOW), None, "nothing was ever said");
    }

    #[test]
    fn a_condition_is_as_old_as_its_status_and_not_as_its_reason() {
        let http = kind("HTTPRoute");
        let first =
            plan(http, &Live::default(), Some(&route(vec![claim("ResolvedRefs", false, "RefNotPermitted")])), BEFORE);
        let live = applied(first.expect("something to write"));
        let since = |wanted: &ObjectStatus| {
            let status = plan(http, &live, Some(wanted), NOW).expect("something to write");
            status["parents"][0]["conditions"][0][TIME].as_str().map(str::to_owned)
        };
        assert_eq!(since(&route(vec![claim("ResolvedRefs", false, "BackendNotFound")])).as_deref(), Some(BEFORE));
        assert_eq!(since(&route(vec![claim("ResolvedRefs", true, "ResolvedRefs")])).as_deref(), Some(NOW));
        let mut newer = route(vec![claim("ResolvedRefs", false, "RefNotPermitted")]);
        newer.generation = 4;
        assert_eq!(since(&newer).as_deref(), Some(BEFORE), "another generation is another status");
    }

    fn gateway(listeners: &[&str], attached_sets: u32) -> ObjectStatus {
        let listener = |name: &&str| ListenerStatus {
            name: (*name).into(),
            kinds: vec![RouteKind::Http],
            attached: 2,
            conditions: vec![claim("Accepted", true, "Accepted")],
        };
        let status = Status::Gateway {
            conditions: vec![claim("Accepted", true, "Accepted"), claim("Programmed", true, "Programmed")],
            addresses: vec![GatewayAddress::Ip([192, 0, 2, 1].into()), GatewayAddress::Host("edge.test".into())],
            listeners: listeners.iter().map(listener).collect(),
            attached_sets,
            infrastructure: Default::default(),
        };
        ObjectStatus { generation: 1, status }
    }

    #[test]
    fn a_gateway_says_what_the_api_asks_for_and_is_written_once() {
        let kind = kind("Gateway");
        let status = plan(kind, &Live::default(), Some(&gateway(&["http"], 1)), NOW).expect("something to write");
        assert_eq!(
            status["addresses"],
            json!([{"type": "IPAddress", "value": "192.0.2.1"}, {"type": "Hostname", "value": "edge.test"}])
        );
        assert_eq!(status["attachedListenerSets"], 1);
        let listener = &status["listeners"][0];
        assert_eq!(listener["supportedKinds"], json!([{"group": GROUP, "kind": "HTTPRoute"}]));
        assert_eq!((&listener["attachedRoutes"], &listener["conditions"][0]["status"]), (&json!(2), &json!("True")));
        assert_eq!(plan(kind, &applied(status), Some(&gateway(&["http"], 1)), "2030-01-01T00:00:00Z"), None);
    }

    #[test]
    fn what_weir_does_not_say_any_more_is_a_difference_and_what_others_say_is_none() {
        let kind = kind("Gateway");
        let status = plan(kind, &Live::default(), Some(&gateway(&["http", "https"], 1)), NOW).expect("something");
        let mut live = applied(status);
        let wanted = gateway(&["http", "https"], 1);
        live.status["conditions"].as_array_mut().expect("a list").push(json!({"type": "Theirs", "status": "True"}));
        assert_eq!(plan(kind, &live, Some(&wanted), NOW), None, "a condition of somebody else");
        assert!(plan(kind, &live, Some(&gateway(&["http"], 1)), NOW).is_some(), "a listener is gone");
        assert!(plan(kind, &live, Some(&gateway(&["http", "https"], 0)), NOW).is_some(), "no set is attached any more");
        live.status["listeners"][1]["attachedRoutes"] = json!(0);
        assert!(plan(kind, &live, Some(&wanted), NOW).is_some(), "somebody has written over it");
        assert_eq!(plan(kind, &live, None, NOW), Some(json!({})), "not ours any more");
        assert_eq!(plan(kind, &Live::default(), None, NOW), None);
    }

    #[test]
    fn an_ingress_without_addresses_is_written_once() {
        let kind = kind("Ingress");
        let status = |addresses| ObjectStatus { generation: 1, status: Status::Ingress { addresses } };
        let some = status(vec![GatewayAddress::Ip([192, 0, 2, 1].into())]);
        let live = applied(plan(kind, &Live::default(), Some(&some), NOW).expect("something to write"));
        let none = plan(kind, &live, Some(&status(Vec::new())), NOW).expect("the address is gone");
        assert_eq!(none, json!({"loadBalancer": {}}));
        assert_eq!(plan(kind, &applied(none), Some(&status(Vec::new())), NOW), None);
    }

    #[test]
    fn long_messages_end_on_a_letter() {
        let long = "ä".repeat(MESSAGE);
        assert_eq!(shortened(&long).len(), MESSAGE);
        assert_eq!(shortened(&format!("a{long}")).len(), MESSAGE - 1);
    }
}
