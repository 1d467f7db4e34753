//! What the view tells, when, and what is left of objects.

use std::time::{Duration, Instant};

use gateway_api::apis::experimental::httproutes::HttpRoute as HTTPRoute;
use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways::Gateway;
use gateway_api::apis::standard::grpcroutes::GrpcRoute as GRPCRoute;
use gateway_api::apis::standard::listenersets::ListenerSet;
use gateway_api::apis::standard::tlsroutes::TlsRoute as TLSRoute;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::Ingress;
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::strip::Watched;
use super::view::{Failure, News, Seen, View, pause};
use crate::control::provider::feed::Batch;
use crate::control::provider::manifest::same;
use crate::control::translate::stream_objects::{TCPRoute, UDPRoute};
use crate::control::translate::{Change, Object};
use crate::model::ObjectRef;

const MS: Duration = Duration::from_millis(1);

fn read<T: Watched + serde::de::DeserializeOwned>(value: Value) -> Seen {
    serde_json::from_value::<T>(value).expect("an object").strip()
}

fn service(name: &str, port: u16, version: &str) -> News {
    News::Seen(read::<Service>(json!({
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version, "managedFields": [{"manager": "x"}]},
        "spec": {"ports": [{"port": port}]},
        "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{version}")}]}},
    })))
}

fn slice(name: &str, address: &str) -> News {
    News::Seen(read::<EndpointSlice>(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "web", "x": "y"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p", "uid": "u"}}],
    })))
}

fn reference(seen: &News) -> ObjectRef {
    match seen {
        News::Seen(Seen::Used(object)) => object.reference(),
        other => unreachable!("{other:?}"),
    }
}

fn shown(batch: Option<Batch>) -> Vec<String> {
    let show = |change: &Change| match change {
        Change::Put(object) => format!("+{}", object.reference().name.name),
        Change::Remove(reference) => format!("-{}", reference.name.name),
    };
    let mut all: Vec<String> = batch.iter().flat_map(|batch| &batch.changes).map(show).collect();
    all.sort();
    all
}

/// Two watches, of Services and of EndpointSlices, with one object each, and everything told.
fn complete(now: Instant) -> View {
    let mut view = View::new(["services".to_owned(), "slices".to_owned()], now);
    for (from, news) in [(0, service("web", 80, "1")), (1, slice("web-1", "192.0.2.1"))] {
        view.take(from, News::Listing, now);
        view.take(from, news, now);
        view.take(from, News::Listed, now);
    }
    assert_eq!(shown(view.tell(now)), ["+web", "+web-1"]);
    view
}

fn failure() -> News {
    News::Failed(Failure { text: "away".to_owned(), fix: "start it".to_owned(), answered: false })
}

#[test]
fn nothing_is_told_before_every_kind_was_listed_and_then_everything_at_once() {
    let now = Instant::now();
    let mut view = View::new(["services".to_owned(), "slices".to_owned(), "routes".to_owned()], now);
    view.take(0, News::Listing, now);
    view.take(0, service("web", 80, "1"), now);
    view.take(0, News::Listed, now);
    view.take(1, News::Listing, now);
    view.take(1, slice("web-1", "192.0.2.1"), now);
    assert!(view.tell(now + 60_000 * MS).is_none());
    view.take(1, News::Listed, now);
    assert!(view.tell(now).is_none(), "the routes are missing");
    assert_eq!(view.missing(), ["routes"]);
    view.take(2, News::Absent, now);
    let batch = view.tell(now).expect("a batch");
    assert!(batch.complete);
    assert_eq!(shown(Some(batch)), ["+web", "+web-1"]);
}

#[test]
fn what_is_wrong_is_told_also_before_the_first_listing() {
    let now = Instant::now();
    let mut view = View::new(["services".to_owned()], now);
    view.take(0, failure(), now);
    assert!(view.tell(now).is_none(), "one failure is nobody's business");
    view.take(0, failure(), now);
    let batch = view.tell(now).expect("a batch");
    assert!(!batch.complete && batch.changes.is_empty());
    assert_eq!(batch.verdicts[0].to_string(), "error: kubernetes: away; start it");
    view.take(0, failure(), now);
    assert!(view.tell(now).is_none(), "it is told once");
}

#[test]
fn endpoints_are_told_at_once_and_the_rest_a_moment_later() {
    let start = Instant::now();
    let mut view = complete(start);
    view.take(0, service("web", 81, "2"), start);
    assert!(view.tell(start).is_none());
    view.take(1, slice("web-1", "192.0.2.2"), start + 5 * MS);
    assert_eq!(shown(view.tell(start + 5 * MS)), ["+web-1"]);
    assert!(view.tell(start + 9 * MS).is_none());
    assert_eq!(view.due(), Some(start + 10 * MS));
    assert_eq!(shown(view.tell(start + 10 * MS)), ["+web"]);
    assert!(view.due().is_none());
}

#[test]
fn statuses_and_versions_are_no_change() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(0, service("web", 80, "9"), now);
    assert!(view.due().is_none());
}

/// An object as it is made, and as it is when Weir and others have written into its status.
fn before_and_after<T: Watched + serde::de::DeserializeOwned>(spec: &Value, status: &Value) {
    let object = |version: &str| {
        json!({
            "metadata": {"name": "it", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": version},
            "spec": spec,
        })
    };
    let mut written = object("2");
    written["metadata"]["managedFields"] = json!([{"manager": "weir", "operation": "Apply", "subresource": "status"}]);
    written["status"] = status.clone();
    let (Seen::Used(one), Seen::Used(two)) = (read::<T>(object("1")), read::<T>(written)) else {
        panic!("{} cannot be read", T::KIND)
    };
    assert!(same(&one, &two), "{one:?}\n{two:?}");
}

#[test]
fn what_is_written_into_statuses_is_no_change_but_for_a_gateways_addresses() {
    let conditions = json!([{
        "type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    let parent = json!({"parentRef": {"name": "edge"}, "controllerName": "weir.dev/gateway-controller", "conditions": conditions});
    let of_route = json!({"parents": [parent]});
    let route = json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    let with_hosts = json!({"hostnames": ["a.test"], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
    before_and_after::<DeserializeGuard<HTTPRoute>>(&route, &of_route);
    before_and_after::<DeserializeGuard<GRPCRoute>>(&route, &of_route);
    before_and_after::<DeserializeGuard<TLSRoute>>(&with_hosts, &of_route);
    before_and_after::<DeserializeGuard<TCPRoute>>(&route, &of_route);
    before_and_after::<DeserializeGuard<UDPRoute>>(&route, &of_route);
    let listener = json!({"name": "http", "attachedRoutes": 3, "conditions": conditions});
    let of_listeners = json!({"conditions": conditions, "listeners": [listener]});
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    before_and_after::<DeserializeGuard<Gateway>>(
        &json!({"gatewayClassName": "weir", "listeners": listeners}),
        &of_listeners,
    );
    before_and_after::<DeserializeGuard<ListenerSet>>(
        &json!({"parentRef": {"name": "edge"}, "listeners": listeners}),
        &of_listeners,
    );
    before_and_after::<DeserializeGuard<GatewayClass>>(
        &json!({"controllerName": "weir.dev/gateway-controller"}),
        &json!({"conditions": conditions}),
    );
    before_and_after::<Ingress>(&json!({}), &json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}));
    let bare = json!({"metadata": {"name": "it"}, "spec": route});
    let mut said = bare.clone();
    said["status"] = of_route;
    for (object, is_without) in [(bare, true), (said, false)] {
        let object: DeserializeGuard<HTTPRoute> = serde_json::from_value(object).expect("a route");
        assert_eq!(object.is_without_status(), is_without);
    }
}

#[test]
fn listing_again_removes_what_is_not_named_any_more() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(0, News::Listing, now);
    view.take(0, service("new", 80, "3"), now);
    view.take(0, News::Listed, now);
    assert_eq!(shown(view.tell(now + 20 * MS)), ["+new", "-web"]);
}

#[test]
fn listing_that_breaks_off_removes_nothing() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(0, News::Listing, now);
    view.take(0, failure(), now);
    view.take(0, News::Listing, now);
    view.take(0, service("web", 80, "3"), now);
    view.take(0, News::Listed, now);
    assert!(view.due().is_none());
}

#[test]
fn listing_that_goes_on_after_a_failure_is_one_listing() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(0, service("other", 80, "2"), now);
    assert_eq!(shown(view.tell(now + 20 * MS)), ["+other"]);
    view.take(0, News::Listing, now);
    view.take(0, service("web", 80, "3"), now);
    view.take(0, failure(), now);
    view.take(0, service("new", 80, "4"), now);
    view.take(0, News::Listed, now);
    assert_eq!(shown(view.tell(now + 40 * MS)), ["+new", "-other"]);
}

#[test]
fn view_is_as_old_as_the_watch_that_was_heard_longest_ago() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(1, News::Alive, now + 500 * MS);
    view.take(1, failure(), now + 700 * MS);
    assert_eq!(view.stale_since(), Some(now + 500 * MS));
    view.take(0, failure(), now + 800 * MS);
    assert_eq!(view.stale_since(), Some(now));
    view.take(0, News::Alive, now + 900 * MS);
    view.take(1, News::Alive, now + 900 * MS);
    assert_eq!(view.stale_since(), None);
}

#[test]
fn while_watches_are_missing_only_endpoints_are_told_at_once() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(1, failure(), now);
    view.take(0, service("web", 81, "2"), now);
    assert!(view.tell(now + 1_000 * MS).is_none(), "its endpoints may have changed unseen");
    view.take(1, slice("web-1", "192.0.2.2"), now + 1_500 * MS);
    assert_eq!(shown(view.tell(now + 1_500 * MS)), ["+web-1"]);
    assert_eq!(shown(view.tell(now + 1_500 * MS)), ["+web"], "all watches are back");
    view.take(1, failure(), now + 2_000 * MS);
    view.take(0, service("web", 82, "3"), now + 2_000 * MS);
    assert_eq!(shown(view.tell(now + 7_000 * MS)), ["+web"], "it does not wait for ever");
}

#[test]
fn what_the_api_server_refuses_holds_nothing_up() {
    let now = Instant::now();
    let mut view = complete(now);
    let refused = Failure { text: "may not list slices".to_owned(), fix: "add a rule".to_owned(), answered: true };
    view.take(1, News::Failed(refused), now);
    view.take(0, service("web", 81, "2"), now);
    assert_eq!(view.due(), Some(now + 10 * MS));
}

#[test]
fn objects_stay_until_their_kind_is_surely_gone() {
    let now = Instant::now();
    let mut view = complete(now);
    view.take(0, News::Absent, now);
    view.take(0, News::Absent, now);
    assert!(view.due().is_none());
    view.take(0, News::Listing, now);
    view.take(0, service("web", 80, "4"), now);
    view.take(0, News::Listed, now);
    for _ in 0..3 {
        view.take(0, News::Absent, now);
    }
    assert_eq!(shown(view.tell(now + 20 * MS)), ["-web"]);
}

#[test]
fn object_that_another_watch_has_seen_since_is_not_gone() {
    let now = Instant::now();
    let mut view = complete(now);
    let other = service("web", 81, "7");
    let gone = News::Gone(reference(&other));
    view.take(1, other, now);
    view.take(0, gone, now);
    assert_eq!(shown(view.tell(now + 20 * MS)), ["+web"]);
}

#[test]
fn object_that_cannot_be_read_harms_only_itself_and_keeps_its_last_good_content() {
    let now = Instant::now();
    let mut view = complete(now);
    let gateway = |class: Value| {
        News::Seen(read::<DeserializeGuard<gateway_api::apis::standard::gateways::Gateway>>(json!({
            "metadata": {"name": "edge", "namespace": "shop"},
            "spec": {"gatewayClassName": class, "listeners": []},
        })))
    };
    view.take(0, gateway(json!("weir")), now);
    assert_eq!(shown(view.tell(now + 20 * MS)), ["+edge"]);
    view.take(0, gateway(json!(7)), now + 30 * MS);
    let batch = view.tell(now + 30 * MS).expect("a batch");
    assert!(batch.changes.is_empty());
    let told = batch.verdicts[0].to_string();
    assert!(told.starts_with("error: kubernetes: Gateway shop/edge: cannot be read: "), "{told}");
    assert!(told.ends_with("its last good content stays in use"), "{told}");
    view.take(0, gateway(json!("weir")), now + 40 * MS);
    assert!(view.tell(now + 40 * MS).expect("a batch").verdicts.is_empty());
}

#[test]
fn only_what_is_read_is_kept() {
    let News::Seen(Seen::Used(Object::EndpointSlice(slice))) = slice("a", "192.0.2.1") else { unreachable!() };
    assert_eq!(
        serde_json::to_value(&*slice).expect("JSON"),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "a", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["192.0.2.1"], "targetRef": {"kind": "Pod", "name": "p"}}],
        })
    );
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}", "weir.dev/active": "blue"});
    let kept = read::<Service>(json!({"metadata": {"name": "s", "annotations": annotations, "uid": "u"}}));
    let Seen::Used(Object::Service(kept)) = kept else { unreachable!() };
    assert_eq!(
        kept.metadata.annotations.as_ref().map(|all| all.keys().collect::<Vec<_>>()),
        Some(vec![&"weir.dev/active".to_owned()])
    );
}

#[test]
fn secrets_and_config_maps_are_kept_for_what_they_hold() {
    let secret = |kind: &str, key: &str| {
        let value = json!({"metadata": {"name": "s"}, "type": kind, "data": {key: "eA==", "password": "eA=="}});
        match read::<Secret>(value) {
            Seen::Used(Object::Secret(secret)) => secret.data.clone().map(|data| data.into_keys().collect::<Vec<_>>()),
            _ => None,
        }
    };
    assert_eq!(secret("kubernetes.io/tls", "tls.crt"), Some(vec!["tls.crt".to_owned()]));
    assert_eq!(secret("Opaque", "ca.crt"), Some(vec!["ca.crt".to_owned()]));
    assert_eq!(secret("Opaque", "token"), None);
    let map = |key: &str| read::<ConfigMap>(json!({"metadata": {"name": "m"}, "data": {key: "x", "rest": "y"}}));
    assert!(
        matches!(map("ca.crt"), Seen::Used(Object::ConfigMap(map)) if map.data.as_ref().is_some_and(|data| data.len() == 1))
    );
    assert!(matches!(map("other"), Seen::Unused(_)));
}

#[test]
fn pauses_grow_to_five_seconds_and_no_two_are_alike() {
    assert_eq!(pause(1, 1.0), 200 * MS);
    assert_eq!(pause(1, 0.0), 100 * MS);
    assert_eq!(pause(3, 1.0), 800 * MS);
    assert_eq!(pause(50, 1.0), 5_000 * MS);
    assert_eq!(pause(u32::MAX, 0.0), 2_500 * MS);
}
