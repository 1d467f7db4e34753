//! The loop as a whole, with the real translator, over a channel.

use std::future::Future;
use std::time::Instant;

use serde_json::{Value, json};

use super::translate::{Change, Object, Options, Translator};
use super::*;
use crate::model::Bind;
use crate::proxy::snapshot::Published;
use crate::proxy::wire::RequestHead;
use crate::telemetry::stats::Registry;

fn ingress(host: &str) -> Change {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let rule = json!({"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}});
    Change::Put(Object::Ingress(object(json!({
        "metadata": {"namespace": "shop", "name": host},
        "spec": {"ingressClassName": "weir", "rules": [rule]},
    }))))
}

fn service(spec: Value) -> Change {
    Change::Put(Object::Service(object(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}))))
}

fn slice(addresses: &[&str]) -> Change {
    let labels = json!({"kubernetes.io/service-name": "web"});
    Change::Put(Object::EndpointSlice(object(json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": addresses, "conditions": {"ready": true}}],
        "ports": [{"port": 8080}],
    }))))
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// What requests to a host meet: the addresses, if there is a route.
fn served(published: &Published, host: &str) -> Option<Vec<String>> {
    let mut head = RequestHead::default();
    head.set_method("GET");
    head.set_authority(host);
    head.set_path("/");
    let snapshot = published.load();
    let matched = snapshot.entries.get(&Bind::Http)?.find(&head)?;
    let endpoints = matched.rule.shares[0].backend.as_ref()?.effective()?.endpoints.load();
    Some(endpoints.members.iter().map(|(endpoint, _)| endpoint.address.to_string()).collect())
}

struct World {
    provider: feed::Sender,
    published: Arc<Published>,
    report: Arc<Report>,
}

impl World {
    fn send(&self, changes: Vec<Change>) {
        self.provider.send(feed::Batch { changes, verdicts: Vec::new(), complete: true, seen: Instant::now() });
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// Runs a loop for as long as `test` does.
fn with_loop<F: Future<Output = ()>>(test: impl FnOnce(World) -> F) {
    with_loop_that_believes(true, test);
}

/// As [`with_loop`]; names may lead to this machine itself or not.
fn with_loop_that_believes<F: Future<Output = ()>>(local: bool, test: impl FnOnce(World) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (provider, batches) = feed::channel();
    let world = World { provider, published: Arc::default(), report: Arc::default() };
    let live = Live::new(Registry::new(1, &[]));
    let cycle = Cycle::new(Translator::new(Options::default()), live, world.published.clone(), world.report.clone());
    let origin = Instant::now();
    // Whatever is published, its sockets are open.
    let sockets = watch::channel(SocketNews { generation: u64::MAX, ..SocketNews::default() }).1;
    runtime.block_on(async {
        tokio::select! {
            () = Control::new(cycle, (), local).run(batches, sockets, || origin.elapsed().as_nanos() as u64) => {}
            () = test(world) => {}
        }
    });
}

#[test]
fn route_is_served_and_endpoint_changes_need_no_new_generation() {
    with_loop(async |world| {
        let ports = json!({"clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": 8080}]});
        world.send(vec![ingress("a.test"), service(ports), slice(&["127.0.0.1"])]);
        world.published.subscribe().wait_for(|generation| *generation == 1).await.unwrap();
        assert_eq!(served(&world.published, "a.test"), Some(vec!["127.0.0.1:8080".to_owned()]));
        assert_eq!(served(&world.published, "b.test"), None);
        world.send(vec![slice(&["127.0.0.2"])]);
        let moved = Some(vec!["127.0.0.2:8080".to_owned()]);
        world.until("the endpoint moves", |world| served(&world.published, "a.test") == moved).await;
        assert_eq!((world.published.load().generation, world.report.generation()), (1, 1));
        world.send(vec![ingress("b.test")]);
        world.published.subscribe().wait_for(|generation| *generation == 2).await.unwrap();
        assert_eq!(served(&world.published, "b.test"), moved);
        let counted = |path| world.report.latency(path).count();
        world.until("both paths are counted", |_| counted(Path::Routes) == 2 && counted(Path::Endpoints) == 1).await;
        assert!(world.report.last_publish() > 1e9);
    });
}

#[test]
fn named_backend_has_its_addresses_in_the_first_snapshot() {
    with_loop(async |world| {
        let named = json!({"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 80}]});
        world.send(vec![ingress("a.test"), service(named)]);
        world.published.subscribe().wait_for(|generation| *generation == 1).await.unwrap();
        let addresses = served(&world.published, "a.test").unwrap();
        assert!(addresses.iter().any(|address| address.starts_with("127.") || address.starts_with("[::1]")));
    });
}

#[test]
fn name_that_leads_to_this_machine_has_no_addresses_where_others_write_the_names() {
    with_loop_that_believes(false, async |world| {
        let named = json!({"type": "ExternalName", "externalName": "localhost", "ports": [{"port": 80}]});
        world.send(vec![ingress("a.test"), service(named)]);
        world.published.subscribe().wait_for(|generation| *generation == 1).await.unwrap();
        assert_eq!(served(&world.published, "a.test"), Some(Vec::new()));
    });
}
