//! How long compile takes for ten thousand hosts and a hundred thousand endpoints, and translation for a thousand ListenerSets
//! with certificates of another namespace. Prints, asserts nothing.
//!
//! `cargo bench --bench compile`

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weir::control::translate::{Change, Object, Objects, Options, Translator};
use weir::model::*;
use weir::proxy::snapshot::{Live, compile};
use weir::proxy::wire::RequestHead;
use weir::telemetry::stats::Registry;

const HOSTS: usize = 10_000;
const ENDPOINTS: usize = 10;
const ROUNDS: usize = 50;
const SETS: usize = 1_000;
const GRANTS: usize = 2_000;

fn main() {
    let mut live = Live::new(Registry::new(2, &[]));
    let mut model = model();
    let (mut snapshot, first) = timed(|| compile(&model, &mut live, None, 0));
    println!("first compile, {HOSTS} hosts, {} endpoints: {first:?}", HOSTS * ENDPOINTS);

    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            // The translator hands out a fresh copy each time.
            let model = model.clone();
            timed(|| black_box(compile(&model, &mut live, Some(&snapshot), 1))).1
        })
        .collect();
    print_times("nothing changed", &mut times);

    times = (0..ROUNDS)
        .map(|round| {
            let host = format!("h{}.test", round * 97 % HOSTS);
            let entry = model.entries.get_mut(&Bind::Http).expect("there is one entry");
            entry.hosts.insert(HostPattern::Exact(host.into()), vec![route(round * 97 % HOSTS)]);
            let model = model.clone();
            let (next, time) = timed(|| compile(&model, &mut live, Some(&snapshot), 2));
            snapshot = next;
            time
        })
        .collect();
    print_times("one route changed", &mut times);

    times = (0..ROUNDS)
        .map(|round| {
            let key = key(round * 89 % HOSTS);
            let mut backend = Backend::clone(&model.backends[&key]);
            backend.limits.in_flight = 1 + round as u32;
            model.backends.insert(key, Arc::new(backend));
            let model = model.clone();
            let (next, time) = timed(|| compile(&model, &mut live, Some(&snapshot), 3));
            snapshot = next;
            time
        })
        .collect();
    print_times("one policy changed", &mut times);

    times = (0..ROUNDS)
        .map(|round| {
            let colors = [color(round, ENDPOINTS - 1 - round % 2)];
            timed(|| black_box(live.set_endpoints(&key(round * 83 % HOSTS), &colors, 4))).1
        })
        .collect();
    print_times("endpoints of one backend changed", &mut times);

    let entry = snapshot.entries[&Bind::Http].clone();
    let heads: Vec<RequestHead> = (0..HOSTS).map(head).collect();
    let (found, time) = timed(|| heads.iter().filter(|head| entry.find(head).is_some()).count());
    println!("find over {found} hosts: {:?} each", time / HOSTS as u32);
    parents();
}

/// Changes of what routes attach to.
fn parents() {
    let mut objects = Objects::default();
    let mut put = |object| _ = objects.apply(Change::Put(object));
    put(Object::GatewayClass(object(json!({
        "metadata": {"name": "weir"}, "spec": {"controllerName": "weir.dev/gateway-controller"},
    }))));
    put(gateway(0));
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["*.test".to_owned()]).expect("a name");
    let certificate = certificate.self_signed(&key).expect("a certificate").pem();
    for set in 0..SETS {
        put(Object::Secret(object(json!({
            "metadata": {"namespace": "certificates", "name": format!("c{set}")},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": certificate, "tls.key": key.serialize_pem()},
        }))));
        put(listener_set(set, 443));
        put(Object::HTTPRoute(object(json!({
            "metadata": {"namespace": "shop", "name": format!("r{set}")},
            "spec": {
                "parentRefs": [{"kind": "ListenerSet", "name": format!("s{set}")}],
                "rules": [{"backendRefs": [{"name": "web", "port": 80}]}],
            },
        }))));
    }
    for grant in 0..GRANTS {
        let namespace = if grant == 0 { "certificates".to_owned() } else { format!("n{grant}") };
        put(Object::ReferenceGrant(object(json!({
            "metadata": {"namespace": namespace, "name": "grant"},
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "namespace": "shop"}],
                "to": [{"group": "", "kind": "Secret"}],
            },
        }))));
    }
    let mut translator = Translator::new(Options::default());
    let (first, time) = timed(|| translator.translate(&objects));
    let served = first.model.entries.get(&Bind::Https).map_or(0, |entry| entry.certificates.len());
    println!("first translation, {SETS} ListenerSets, {served} certificates, {GRANTS} ReferenceGrants: {time:?}");
    let mut live = Live::new(Registry::new(2, &[]));
    let mut snapshot = compile(&first.model, &mut live, None, 0);
    let mut changes = |what: &str, change: &dyn Fn(usize) -> Object| {
        let (mut translated, mut compiled) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            objects.apply(Change::Put(change(round)));
            let (translation, time) = timed(|| translator.translate(&objects));
            translated.push(time);
            let (next, time) = timed(|| compile(&translation.model, &mut live, Some(&snapshot), 1));
            snapshot = next;
            compiled.push(time);
        }
        print_times(&format!("{what}, translation"), &mut translated);
        print_times(&format!("{what}, compile"), &mut compiled);
    };
    changes("a Gateway changed", &|round| gateway(round + 1));
    changes("a ListenerSet changed", &|round| listener_set(round * 13 % SETS, if round % 2 == 0 { 8443 } else { 443 }));
    changes("a ListenerSet came", &|round| listener_set(SETS + round, 443));
}

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

fn gateway(round: usize) -> Object {
    Object::Gateway(object(json!({
        "metadata": {"namespace": "shop", "name": "edge", "labels": {"round": round.to_string()}},
        "spec": {
            "gatewayClassName": "weir",
            "allowedListeners": {"namespaces": {"from": "All"}},
            "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}],
        },
    })))
}

fn listener_set(number: usize, port: u16) -> Object {
    Object::ListenerSet(object(json!({
        "metadata": {"namespace": "shop", "name": format!("s{number}")},
        "spec": {
            "parentRef": {"name": "edge"},
            "listeners": [{
                "name": "https",
                "port": port,
                "protocol": "HTTPS",
                "hostname": format!("s{number}.test"),
                "tls": {"certificateRefs": [{"namespace": "certificates", "name": format!("c{}", number % SETS)}]},
            }],
        },
    })))
}

fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = what();
    (result, start.elapsed())
}

fn print_times(what: &str, times: &mut [Duration]) {
    times.sort();
    println!("{what}: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
}

fn head(host: usize) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method("GET");
    head.set_authority(&format!("h{host}.test"));
    head.set_path("/api/items/7");
    head
}

fn key(backend: usize) -> BackendKey {
    BackendKey::new(ObjectName::new("shop", format!("s{backend}")), 80)
}

fn route(host: usize) -> Arc<Route> {
    let source = ObjectRef::new("HTTPRoute", ObjectName::new("shop", format!("r{host}")));
    let rule = Arc::new(Rule {
        source: source.clone(),
        name: format!("httproute/shop/r{host}").into(),
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key(host)), filters: Vec::new() }],
        timeouts: RouteTimeouts::default(),
        retry: None,
    });
    let path = PathMatch::Prefix("/api".into());
    Arc::new(Route {
        matches: RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new() },
        rank: Rank { created: 0, source, rule: 0, index: 0 },
        rule,
    })
}

fn color(backend: usize, endpoints: usize) -> ColorEndpoints {
    let address = |endpoint: usize| {
        let [_, a, b, c] = u32::try_from(backend * ENDPOINTS + endpoint).expect("few enough").to_be_bytes();
        ([10, a, b, c], 8080).into()
    };
    let endpoint = |at: usize| Endpoint { address: address(at), condition: Condition::Ready, pod: None, zone: None };
    let service = key(backend).service;
    ColorEndpoints { color: "".into(), service, source: EndpointSource::Listed((0..endpoints).map(endpoint).collect()) }
}

fn model() -> Model {
    let hosts: Shards<_, _> =
        (0..HOSTS).map(|host| (HostPattern::Exact(format!("h{host}.test").into()), vec![route(host)])).collect();
    let backend = |at: usize| Arc::new(Backend::new(key(at), vec![color(at, ENDPOINTS)]));
    Model {
        entries: [(Bind::Http, Entry { hosts, ..Entry::default() })].into(),
        backends: (0..HOSTS).map(|at| (key(at), backend(at))).collect(),
        switches: BTreeMap::new(),
    }
}
