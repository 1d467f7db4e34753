//! Models made by hand and by chance.

mod carry_over;
mod certificates;
mod matching;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::model::*;
use crate::proxy::wire::RequestHead;
use crate::telemetry::stats::Registry;

use super::Live;

const SECOND: u64 = 1_000_000_000;

fn live() -> Live {
    Live::new(Registry::new(1, &[]))
}

fn key(service: &str) -> BackendKey {
    BackendKey::new(ObjectName::new("shop", service), 80)
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { address: ([127, 0, 0, 1], port).into(), condition: Condition::Ready, pod: None, zone: None }
}

fn listed(ports: &[u16]) -> EndpointSource {
    EndpointSource::Listed(ports.iter().map(|port| endpoint(*port)).collect())
}

fn color(name: &str, source: EndpointSource) -> ColorEndpoints {
    ColorEndpoints { color: name.into(), service: ObjectName::new("shop", "web"), source }
}

fn backend(service: &str, colors: Vec<ColorEndpoints>) -> Arc<Backend> {
    Arc::new(Backend::new(key(service), colors))
}

fn rule(name: &str, service: &str) -> Arc<Rule> {
    Arc::new(Rule {
        source: ObjectRef::new("HTTPRoute", ObjectName::new("shop", name)),
        name: format!("httproute/shop/{name}").into(),
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key(service)), filters: Vec::new() }],
        timeouts: RouteTimeouts::default(),
        retry: None,
    })
}

fn route(rule: &Arc<Rule>, path: PathMatch, index: u32) -> Arc<Route> {
    Arc::new(Route {
        matches: RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new() },
        rank: Rank { created: 0, source: rule.source.clone(), rule: 0, index },
        rule: rule.clone(),
    })
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn model(hosts: Shards<HostPattern, Vec<Arc<Route>>>, backends: Vec<Arc<Backend>>) -> Model {
    let entry = Entry { hosts, ..Entry::default() };
    Model {
        entries: [(Bind::Http, entry)].into(),
        backends: backends.into_iter().map(|backend| (backend.key.clone(), backend)).collect(),
        switches: BTreeMap::new(),
    }
}

fn head(method: &str, host: &str, path: &str, query: Option<&str>) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(method);
    head.set_authority(host);
    head.set_path(path);
    head.set_query(query);
    head
}
