//! What a translator remembers must not show.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::model::{EndpointSource, Obstacle, Severity, Unopened};

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn meta(name: &str, annotations: &Value) -> Value {
    json!({ "name": name, "namespace": "shop", "annotations": annotations })
}

fn service(name: &str, annotations: &Value) -> Object {
    Object::Service(object(json!({
        "metadata": meta(name, annotations), "spec": { "ports": [{ "name": "http", "port": 80 }] },
    })))
}

fn slice(name: &str, of: &str, addresses: &[String]) -> Object {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    Object::EndpointSlice(object(json!({
        "metadata": { "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": of } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }], "endpoints": endpoints,
    })))
}

fn ingress(name: &str, host: &str, path: &str, service: &str, secret: Option<&str>, created: u32) -> Object {
    let tls = secret.map(|secret| json!([{ "hosts": [host], "secretName": secret }]));
    let backend = json!({ "service": { "name": service, "port": { "number": 80 } } });
    Object::Ingress(object(json!({
        "metadata": { "name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-0{created}T00:00:00Z") },
        "spec": {
            "tls": tls,
            "rules": [{ "host": host, "http": { "paths": [{ "path": path, "pathType": "Prefix", "backend": backend }] } }],
        },
    })))
}

fn http_route(name: &str, gateway: &str, host: &str, backends: &[(&str, &str)], created: u32) -> Object {
    let backends: Vec<_> =
        backends.iter().map(|(namespace, name)| json!({ "namespace": namespace, "name": name, "port": 80 })).collect();
    Object::HTTPRoute(object(json!({
        "metadata": { "name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-0{created}T00:00:00Z") },
        "spec": {
            "parentRefs": [{ "name": gateway }], "hostnames": [host],
            "rules": [{ "matches": [{ "path": { "value": "/r" } }], "backendRefs": backends }],
        },
    })))
}

fn gateway(name: &str, listeners: &Value, created: u32) -> Object {
    gateway_as(name, listeners, None, created)
}

/// A Gateway that shows a client certificate to backends.
fn gateway_as(name: &str, listeners: &Value, identity: Option<&str>, created: u32) -> Object {
    let tls = identity.map(|secret| json!({ "backend": { "clientCertificateRef": { "name": secret } } }));
    Object::Gateway(object(json!({
        "metadata": { "name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-0{created}T00:00:00Z") },
        "spec": { "gatewayClassName": "weir", "listeners": listeners, "tls": tls },
    })))
}

fn listener_set(name: &str, gateway: &str, listeners: &Value, created: u32) -> Object {
    Object::ListenerSet(object(json!({
        "metadata": { "name": name, "namespace": "far", "creationTimestamp": format!("2026-01-0{created}T00:00:00Z") },
        "spec": { "parentRef": { "name": gateway, "namespace": "shop" }, "listeners": listeners },
    })))
}

fn secret(name: &str, certificate: &str, key: &str) -> Object {
    Object::Secret(object(json!({
        "metadata": { "name": name, "namespace": "shop" }, "stringData": { "tls.crt": certificate, "tls.key": key },
    })))
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("shop", name)
}

/// Two certificates with their keys.
fn pems() -> [(String, String); 2] {
    ["a.test", "b.test"].map(|host| {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    })
}

fn either<'a>(random: &mut fastrand::Rng, one: &'a str, other: &'a str) -> &'a str {
    if random.bool() { one } else { other }
}

/// A route of one of the kinds that pass on what they do not read, at listeners `x` of Gateways.
fn stream_route(kind: &str, name: &str, service: &str, created: u32) -> Object {
    let mut value = json!({
        "metadata": { "name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-0{created}T00:00:00Z") },
        "spec": {
            "parentRefs": [{ "name": "e", "sectionName": "x" }, { "name": "f", "sectionName": "x" }],
            "rules": [{ "backendRefs": [{ "name": service, "port": 80 }] }],
        },
    });
    match kind {
        "TCPRoute" => Object::TCPRoute(object(value)),
        "UDPRoute" => Object::UDPRoute(object(value)),
        _ => {
            value["spec"]["hostnames"] = json!(["a.test", "*.b.test"]);
            Object::TLSRoute(object(value))
        }
    }
}

/// One random change to a small world where everything refers to everything.
fn change(random: &mut fastrand::Rng, pems: &[(String, String)]) -> Change {
    let mut pick = |from: &[&'static str]| from[random.usize(..from.len())];
    let a = pick(&["a", "b", "c"]);
    let b = pick(&["a", "b", "c", "d"]);
    let host = pick(&["a.test", "b.test", "*.b.test"]);
    let age = random.u32(1..4);
    let reference = |kind: &'static str, namespace: &str, name: &str| {
        Change::Remove(ObjectRef::new(kind, ObjectName::new(namespace, name)))
    };
    let remove = random.u32(..4) == 0;
    match (random.u32(..17), remove) {
        (10, true) => reference("ListenerSet", "far", a),
        (10, false) => {
            let protocol = ["HTTP", "HTTPS", "TLS", "TCP"][random.usize(..4)];
            let tls = matches!(protocol, "HTTPS" | "TLS")
                .then(|| json!({ "mode": "Terminate", "certificateRefs": [{ "name": "a", "namespace": "shop" }] }));
            let one = json!({ "name": "x", "port": 9000, "protocol": protocol, "tls": tls, "hostname": host });
            let port = [80, 9000][random.usize(..2)];
            let two = json!({ "name": "y", "port": port, "protocol": "HTTP", "hostname": host });
            Change::Put(listener_set(a, ["e", "f"][random.usize(..2)], &json!([one, two]), age))
        }
        (11, true) => reference("Namespace", "", "far"),
        (11, false) => Change::Put(Object::Namespace(object(json!({
            "metadata": { "name": "far", "labels": { "edge": either(random, "yes", "no") } },
        })))),
        (12, _) => {
            let (kind, parent) = [("Gateway", "e"), ("ListenerSet", "a"), ("ListenerSet", "b")][random.usize(..3)];
            let namespace = if kind == "Gateway" { "shop" } else { "far" };
            Change::Put(Object::GRPCRoute(object(json!({
                "metadata": { "name": a, "namespace": "far", "generation": random.u32(..3) },
                "spec": {
                    "parentRefs": [{ "kind": kind, "name": parent, "namespace": namespace }, { "name": "e" }],
                    "rules": [{ "backendRefs": [{ "name": b, "port": 80 }] }],
                },
            }))))
        }
        (13, true) => reference("TCPRoute", "shop", a),
        (13, false) => Change::Put(stream_route(either(random, "TCPRoute", "UDPRoute"), a, b, age)),
        (14, true) => reference(either(random, "UDPRoute", "TLSRoute"), "shop", a),
        (14, false) => Change::Put(stream_route("TLSRoute", a, b, age)),
        (15, true) => reference("GRPCRoute", "shop", a),
        (15, false) => Change::Put(Object::GRPCRoute(object(json!({
            "metadata": { "name": a, "namespace": "shop", "creationTimestamp": format!("2026-01-0{age}T00:00:00Z") },
            "spec": {
                "parentRefs": [{ "name": either(random, "e", "f") }], "hostnames": [host],
                "rules": [{ "matches": [{ "method": { "service": "r" } }], "backendRefs": [{ "name": b, "port": 80 }] }],
            },
        })))),
        (16, true) => reference("BackendTLSPolicy", "shop", a),
        (16, false) => {
            let section = random.bool().then_some("http");
            let roots = match random.u32(..3) {
                0 => json!({ "hostname": host.trim_start_matches("*."), "wellKnownCACertificates": "System" }),
                1 => {
                    json!({ "hostname": "a.test", "caCertificateRefs": [{ "group": "", "kind": "ConfigMap", "name": "roots" }] })
                }
                _ => {
                    json!({ "hostname": "a.test", "caCertificateRefs": [{ "group": "", "kind": "Secret", "name": b }] })
                }
            };
            Change::Put(Object::BackendTLSPolicy(object(json!({
                "metadata": {
                    "name": a, "namespace": "shop", "generation": age,
                    "creationTimestamp": format!("2026-01-0{}T00:00:00Z", random.u32(1..3)),
                },
                "spec": {
                    "targetRefs": [{ "group": "", "kind": "Service", "name": b, "sectionName": section }],
                    "validation": roots,
                },
            }))))
        }
        (0, true) => reference("Service", "shop", a),
        (0, false) => Change::Put(service(
            a,
            &match random.u32(..6) {
                0 => json!({}),
                1 => json!({ "weir.dev/endpoints": format!("127.0.0.1:{}", random.u32(1..4)) }),
                2 => json!({ "weir.dev/balance": "round-robin", "weir.dev/unknown": "" }),
                3 => json!({ "weir.dev/upstream-tls-ca": "roots" }),
                4 if a == "a" => json!({ "weir.dev/colors": "blue=b,green=c", "weir.dev/active": "green" }),
                _ => json!({ "weir.dev/max-pending": "many" }),
            },
        )),
        (1, true) => reference("EndpointSlice", "shop", b),
        (1, false) => {
            let addresses: Vec<_> = (0..random.u32(..3)).map(|host| format!("10.0.0.{}", host + 1)).collect();
            Change::Put(slice(b, a, &addresses))
        }
        (2, true) => reference("Ingress", "shop", a),
        (2, false) => {
            let secret = [None, Some("a"), Some("b")][random.usize(..3)];
            Change::Put(ingress(a, host, ["/", "/r"][random.usize(..2)], b, secret, age))
        }
        (3 | 4, true) => reference("HTTPRoute", "shop", a),
        (3 | 4, false) => {
            let namespace = ["shop", "far"][random.usize(..2)];
            Change::Put(http_route(a, ["e", "f"][random.usize(..2)], host, &[("shop", b), (namespace, "a")], age))
        }
        (5, true) => reference("Gateway", "shop", "e"),
        (5, false) => {
            let protocol = ["HTTP", "HTTPS", "TCP", "UDP", "TLS"][random.usize(..5)];
            let mode = either(random, "Terminate", "Passthrough");
            let tls = match protocol {
                "HTTPS" => Some(json!({ "certificateRefs": [{ "name": a }] })),
                "TLS" => Some(json!({ "mode": mode, "certificateRefs": [{ "name": a }] })),
                _ => None,
            };
            let listener = json!({ "name": "x", "port": 9000, "protocol": protocol, "tls": tls, "hostname": host });
            let identity = random.bool().then_some(b);
            let allowed =
                json!({ "namespaces": { "from": "Selector", "selector": { "matchLabels": { "edge": "yes" } } } });
            let web = json!({ "name": "web", "port": 80, "protocol": "HTTP", "allowedRoutes": allowed });
            let Object::Gateway(mut made) =
                gateway_as(["e", "f"][random.usize(..2)], &json!([web, listener]), identity, age)
            else {
                unreachable!("it is one")
            };
            Arc::make_mut(&mut made).spec.allowed_listeners =
                [None, serde_json::from_value(allowed).ok()][random.usize(..2)].clone();
            Arc::make_mut(&mut made).metadata.generation = Some(random.i64(..3));
            Change::Put(Object::Gateway(made))
        }
        (6, true) => reference("GatewayClass", "", "weir"),
        (6, false) => Change::Put(Object::GatewayClass(object(json!({
            "metadata": { "name": "weir" },
            "spec": { "controllerName": either(random, "weir.dev/gateway-controller", "other") },
        })))),
        (7, true) => reference("IngressClass", "", "other"),
        (7, false) => Change::Put(Object::IngressClass(object(json!({
            "metadata": { "name": "other", "annotations": { "ingressclass.kubernetes.io/is-default-class": "true" } },
            "spec": { "controller": either(random, "weir.dev/ingress-controller", "other") },
        })))),
        (8, true) => reference("Secret", "shop", a),
        // A Secret that was good never goes bad here: what stays in use then is another promise.
        (8, false) if a == "c" => Change::Put(secret(a, "junk", "junk")),
        (8, false) => {
            let (certificate, key) = &pems[random.usize(..2)];
            Change::Put(secret(a, certificate, key))
        }
        (_, true) => match random.u32(..3) {
            0 => reference("ReferenceGrant", "far", "grant"),
            1 => reference("Service", "far", "a"),
            _ => reference("ConfigMap", "shop", "roots"),
        },
        (_, false) => Change::Put(match random.u32(..3) {
            0 => Object::ReferenceGrant(object(json!({
                "metadata": { "name": "grant", "namespace": "far" },
                "spec": {
                    "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop" }],
                    "to": [{ "group": "", "kind": "Service" }],
                },
            }))),
            1 => Object::Service(object(json!({
                "metadata": { "name": "a", "namespace": "far" }, "spec": { "ports": [{ "port": 80 }] },
            }))),
            _ => Object::ConfigMap(object(json!({
                "metadata": { "name": "roots", "namespace": "shop" },
                "data": { "ca.crt": either(random, &pems[0].0, "junk") },
            }))),
        }),
    }
}

#[test]
fn remembering_translator_says_the_same_as_a_fresh_one_after_any_changes() {
    let pems = pems();
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut objects = Objects::default();
        let mut old = Translator::new(Options::default());
        for step in 0..60 {
            for _ in 0..random.u32(1..4) {
                objects.apply(change(&mut random, &pems));
            }
            let lacking =
                |port: u16| (Bind::Port(port), Obstacle { problem: "it is in use".to_owned(), no_address: false });
            let unopened: Unopened =
                Arc::new([8080, 9000].into_iter().filter(|_| random.u32(..4) == 0).map(lacking).collect());
            old.hear(&unopened);
            let remembered = old.translate(&objects);
            let mut fresh = Translator::new(Options::default());
            fresh.hear(&unopened);
            let fresh = fresh.translate(&objects);
            let show = |translation: &Translation| format!("{translation:#?}");
            assert_eq!(show(&remembered), show(&fresh), "seed {seed}, step {step}");
        }
    }
}

#[test]
fn short_path_says_what_a_translation_would() {
    let pems = pems();
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut objects = Objects::default();
        let mut translator = Translator::new(Options::default());
        for _ in 0..40 {
            for _ in 0..4 {
                objects.apply(change(&mut random, &pems));
            }
            translator.translate(&objects);
            objects.apply(Change::Put(slice("d", "a", &["10.9.9.9".to_owned()])));
            objects.apply(Change::Remove(ObjectRef::new("EndpointSlice", name("b"))));
            let services = ["a", "b", "c", "d"].map(name).into_iter().collect::<BTreeSet<_>>();
            let short = translator.endpoints(&objects, &services);
            let model = translator.translate(&objects).model;
            for (key, colors) in &short {
                assert_eq!(*colors, model.backends[key].colors, "seed {seed}");
            }
            let of_shop = model.backends.keys().filter(|key| &*key.service.namespace == "shop").count();
            assert_eq!(short.len(), of_shop);
        }
    }
}

#[test]
fn unchanged_parts_keep_their_identity() {
    let mut objects = Objects::default();
    let mut translator = Translator::new(Options::default());
    for put in [
        service("a", &json!({ "weir.dev/endpoints": "127.0.0.1:1", "weir.dev/colors": "blue=b,green=c" })),
        service("b", &json!({})),
        ingress("one", "a.test", "/", "a", None, 1),
        ingress("two", "b.test", "/", "b", None, 1),
    ] {
        objects.apply(Change::Put(put));
    }
    let first = translator.translate(&objects).model;
    let active =
        json!({ "weir.dev/endpoints": "127.0.0.1:1", "weir.dev/colors": "blue=b,green=c", "weir.dev/active": "green" });
    objects.apply(Change::Put(service("a", &active)));
    objects.apply(Change::Put(ingress("two", "b.test", "/", "b", None, 1)));
    let second = translator.translate(&objects).model;
    for (bind, entry) in &first.entries {
        for (host, routes) in &entry.hosts {
            assert!(Arc::ptr_eq(&routes[0], &second.entries[bind].hosts[host][0]));
        }
    }
    for (key, backend) in &first.backends {
        assert!(Arc::ptr_eq(backend, &second.backends[key]));
    }
    assert!(!Arc::ptr_eq(&first.switches[&name("a")], &second.switches[&name("a")]));
}

#[test]
fn last_good_certificate_outlives_a_bad_secret_but_not_a_missing_one() {
    let [(certificate, key), (_, other_key)] = pems();
    let mut objects = Objects::default();
    let mut translator = Translator::new(Options::default());
    for put in
        [service("a", &json!({})), ingress("i", "a.test", "/", "a", Some("tls"), 1), secret("tls", &certificate, &key)]
    {
        objects.apply(Change::Put(put));
    }
    let good = translator.translate(&objects).model.entries[&Bind::Https].certificates[0].certificate.clone();

    objects.apply(Change::Put(secret("tls", &certificate, &other_key)));
    let kept = translator.translate(&objects);
    assert!(Arc::ptr_eq(&good, &kept.model.entries[&Bind::Https].certificates[0].certificate));
    let told = kept.verdicts.iter().find(|verdict| verdict.reason == "InvalidCertificate").unwrap();
    assert_eq!((told.object.kind, told.severity), ("Secret", Severity::Error));
    assert!(told.problem.contains("last good"), "{told}");

    objects.apply(Change::Remove(ObjectRef::new("Secret", name("tls"))));
    let gone = translator.translate(&objects);
    assert!(gone.model.entries[&Bind::Https].certificates.is_empty());
    assert!(gone.verdicts.iter().any(|verdict| verdict.reason == "SecretNotFound"));
}

#[test]
fn last_good_colors_outlive_bad_ones() {
    let mut objects = Objects::default();
    let mut translator = Translator::new(Options::default());
    for put in [
        service("a", &json!({ "weir.dev/colors": "blue=b,green=c" })),
        service("b", &json!({ "weir.dev/endpoints": "127.0.0.1:1" })),
        service("c", &json!({ "weir.dev/endpoints": "127.0.0.1:2" })),
        ingress("i", "a.test", "/", "a", None, 1),
    ] {
        objects.apply(Change::Put(put));
    }
    let good = translator.translate(&objects).model;
    objects.apply(Change::Put(service("a", &json!({ "weir.dev/colors": "blue=b,green=a" }))));
    let bad = translator.translate(&objects);
    assert_eq!(good.backends, bad.model.backends);
    let switch = &bad.model.switches[&name("a")];
    assert_eq!(switch.colors, good.switches[&name("a")].colors);
    assert_eq!(switch.problem.as_ref().map(|(reason, _)| &**reason), Some("InvalidColors"));
    objects.apply(Change::Put(service("a", &json!({}))));
    let none = translator.translate(&objects).model;
    assert!(none.switches.is_empty() && none.backends.values().all(|backend| backend.colors.len() == 1));
}

/// Ten thousand hosts, one change. The bound is far above what is needed, to hold on a busy machine; the figure of a
/// release build is printed by `--nocapture`.
#[test]
fn one_change_among_ten_thousand_hosts_derives_one_host() {
    let mut objects = Objects::default();
    objects.apply(Change::Put(gateway("e", &json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]), 1)));
    for index in 0..10_000 {
        let (service_name, host) = (format!("s{index}"), format!("h{index}.test"));
        objects.apply(Change::Put(service(&service_name, &json!({}))));
        objects.apply(Change::Put(slice(&service_name, &service_name, &["10.0.0.1".to_owned()])));
        objects.apply(Change::Put(http_route(&service_name, "e", &host, &[("shop", &service_name)], 1)));
    }
    let mut translator = Translator::new(Options::default());
    let first = translator.translate(&objects);
    assert_eq!(first.model.entries[&Bind::Http].hosts.len(), 10_000);
    assert!(first.verdicts.iter().all(|verdict| verdict.severity == Severity::Note));

    objects.apply(Change::Put(http_route("s77", "e", "changed.test", &[("shop", "s77")], 1)));
    let begin = std::time::Instant::now();
    let second = translator.translate(&objects);
    let route_change = begin.elapsed();
    assert!(second.model.entries[&Bind::Http].hosts.contains_key(&HostPattern::Exact("changed.test".into())));

    objects.apply(Change::Put(slice("s78", "s78", &["10.0.0.2".to_owned()])));
    let begin = std::time::Instant::now();
    let short = translator.endpoints(&objects, &BTreeSet::from([name("s78")]));
    let endpoint_change = begin.elapsed();
    assert_eq!(short.len(), 1);
    assert!(matches!(&short[0].1[0].source, EndpointSource::Listed(listed) if listed.len() == 1));
    println!("one route among 10,000: {route_change:?}; one EndpointSlice: {endpoint_change:?}");
    assert!(route_change.as_millis() < 500 && endpoint_change.as_millis() < 100);
}

#[test]
fn addresses_of_the_machine_itself_are_no_endpoints_where_others_write_the_objects() {
    let mut objects = Objects::default();
    let external = |name: &str, host: &str| {
        Object::Service(object(json!({
            "metadata": meta(name, &json!({})),
            "spec": { "type": "ExternalName", "externalName": host, "ports": [{ "port": 80 }] },
        })))
    };
    let listed = |name: &str, addresses: &str| service(name, &json!({ "weir.dev/endpoints": addresses }));
    let all = [
        external("a-loopback", "127.0.0.1"),
        external("a-name", "localhost."),
        external("far", "203.0.113.1"),
        listed("mapped", "[::ffff:127.0.0.2]:9900"),
        listed("some", "0.0.0.0:9900,203.0.113.2:80"),
        listed("link", "169.254.169.254:80,[fe80::1]:80,[ff02::1]:80"),
        service("sliced", &json!({})),
    ];
    for (index, service) in all.into_iter().enumerate() {
        let Object::Service(written) = &service else { unreachable!("only Services are listed") };
        let name = written.metadata.name.clone().unwrap();
        objects.apply(Change::Put(service));
        objects.apply(Change::Put(ingress(&name, &format!("{index}.test"), "/", &name, None, 1)));
    }
    let addresses = ["127.0.0.1".to_owned(), "203.0.113.3".to_owned()];
    objects.apply(Change::Put(slice("sliced-1", "sliced", &addresses)));
    let used = |local_endpoints| {
        let mut translator = Translator::new(Options { local_endpoints, ..Options::default() });
        let translation = translator.translate(&objects);
        let shown = |source: &EndpointSource| match source {
            EndpointSource::Listed(listed) => {
                listed.iter().map(|it| it.address.to_string()).collect::<Vec<_>>().join(" ")
            }
            EndpointSource::Name { host, .. } => host.to_string(),
            EndpointSource::Missing { .. } => "nothing".to_owned(),
        };
        let backends: BTreeMap<String, String> = translation
            .model
            .backends
            .iter()
            .map(|(key, backend)| (key.service.name.to_string(), shown(&backend.colors[0].source)))
            .collect();
        let told: BTreeSet<String> = translation
            .verdicts
            .iter()
            .filter(|verdict| verdict.reason == "LocalEndpoint" && verdict.severity == Severity::Error)
            .map(|verdict| verdict.object.name.name.to_string())
            .collect();
        let key = BackendKey { service: name("sliced"), port: 80, access: Access::Tcp };
        let short = translator.endpoints(&objects, &[name("sliced")].into());
        assert_eq!(
            short,
            [(key.clone(), translation.model.backends[&key].colors.clone())],
            "the short path says the same"
        );
        (backends, told)
    };
    let (backends, told) = used(false);
    let expected = [
        ("a-loopback", "nothing"),
        ("a-name", "nothing"),
        ("far", "203.0.113.1:80"),
        ("link", "nothing"),
        ("mapped", "nothing"),
        ("some", "203.0.113.2:80"),
        ("sliced", "203.0.113.3:8080"),
    ];
    assert_eq!(backends, expected.map(|(name, used)| (name.to_owned(), used.to_owned())).into());
    assert_eq!(told, ["a-loopback", "a-name", "link", "mapped", "some", "sliced"].map(str::to_owned).into());
    let (backends, told) = used(true);
    assert_eq!(backends["a-name"], "localhost");
    assert_eq!(backends["mapped"], "[::ffff:127.0.0.2]:9900");
    assert!(told.is_empty());
}

/// Type, whether it holds, and reason of conditions.
fn shown(claims: &[crate::model::Claim]) -> Vec<String> {
    let sign = |holds: bool| if holds { "" } else { "not " };
    claims.iter().map(|claim| format!("{}{}={}", sign(claim.holds), claim.kind, claim.reason)).collect()
}

/// What is said of a Gateway of this name, and of each of its listeners.
fn said_of(translation: &Translation, gateway: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let status = translation.statuses.get(&ObjectRef::new("Gateway", name(gateway))).map(|it| &it.status);
    let Some(Status::Gateway { conditions, listeners, .. }) = status else { panic!("no status of {gateway}") };
    (shown(conditions), listeners.iter().map(|listener| shown(&listener.conditions)).collect())
}

/// The same of a ListenerSet.
fn said_of_set(translation: &Translation, set: &str) -> Vec<String> {
    let object = ObjectRef::new("ListenerSet", ObjectName::new("far", set));
    let Some(Status::ListenerSet { conditions, .. }) = translation.statuses.get(&object).map(|it| &it.status) else {
        panic!("no status of {set}")
    };
    shown(conditions)
}

#[test]
fn gateway_without_an_address_is_accepted_and_not_programmed_and_its_listener_sets_say_so() {
    let first = "192.0.2.1".parse().unwrap();
    let mut translator =
        Translator::new(Options { addresses: vec![AddressRange { first, last: first }], ..Options::default() });
    let with = |name: &str, parameters: bool, created: u32| {
        let reference = parameters.then(|| json!({ "group": "example.com", "kind": "Size", "name": "large" }));
        Object::Gateway(object(json!({
            "metadata": {
                "name": name, "namespace": "shop", "creationTimestamp": format!("2026-01-0{created}T00:00:00Z"),
            },
            "spec": {
                "gatewayClassName": "weir",
                "listeners": [{ "name": "web", "port": 80, "protocol": "HTTP" }],
                "allowedListeners": { "namespaces": { "from": "All" } },
                "infrastructure": { "parametersRef": reference },
            },
        })))
    };
    let more = json!([{ "name": "more", "port": 8080, "protocol": "HTTP" }]);
    let mut objects = Objects::default();
    for (name, parameters, created) in [("e", false, 1), ("f", false, 2), ("g", true, 3)] {
        objects.apply(Change::Put(with(name, parameters, created)));
        objects.apply(Change::Put(listener_set(name, name, &more, 4)));
    }
    let first = translator.translate(&objects);
    assert_eq!(said_of(&first, "e").0[..2], ["Accepted=Accepted", "Programmed=Programmed"]);
    assert_eq!(said_of_set(&first, "e"), ["Accepted=Accepted", "Programmed=Programmed"]);
    let (whole, each) = said_of(&first, "f");
    assert_eq!(whole[..2], ["Accepted=Accepted", "not Programmed=AddressNotAssigned"]);
    assert_eq!(each[0][..2], ["Accepted=Accepted", "not Programmed=Pending"]);
    assert_eq!(said_of_set(&first, "f"), ["Accepted=Accepted", "not Programmed=ParentNotProgrammed"]);
    assert_eq!(said_of(&first, "g").0[..2], ["not Accepted=InvalidParameters", "not Programmed=Invalid"]);
    assert_eq!(said_of_set(&first, "g"), ["not Accepted=ParentNotAccepted", "not Programmed=ParentNotProgrammed"]);

    let named = json!([{ "type": "IPAddress", "value": "203.0.113.1" }]);
    let Object::Gateway(gateway) = with("f", false, 2) else { unreachable!("it is a Gateway") };
    let mut gateway = serde_json::to_value(&*gateway).unwrap();
    gateway["spec"]["addresses"] = named;
    objects.apply(Change::Put(Object::Gateway(object(gateway))));
    let second = translator.translate(&objects);
    assert_eq!(said_of(&second, "f").0[..2], ["Accepted=Accepted", "not Programmed=AddressNotUsable"]);
    let gone = ObjectRef::new("Gateway", name("e"));
    objects.apply(Change::Remove(gone));
    objects.apply(Change::Put(with("f", false, 2)));
    assert_eq!(said_of(&translator.translate(&objects), "f").0[1], "Programmed=Programmed", "the address is free");
}

#[test]
fn gateway_is_not_programmed_as_long_as_nobody_knows_where_it_is_published() {
    let published_service = Some(ObjectName::new("weir", "weir"));
    let mut translator = Translator::new(Options { published_service, ..Options::default() });
    let mut objects = Objects::default();
    objects.apply(Change::Put(gateway("e", &json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]), 1)));
    let balancer = |ingress: Value| {
        let status = json!({ "loadBalancer": { "ingress": ingress } });
        Change::Put(Object::Service(object(
            json!({ "metadata": { "name": "weir", "namespace": "weir" }, "status": status }),
        )))
    };
    objects.apply(balancer(json!([])));
    assert_eq!(said_of(&translator.translate(&objects), "e").0[1], "not Programmed=AddressNotAssigned");
    objects.apply(balancer(json!([{ "ip": "192.0.2.1" }])));
    assert_eq!(said_of(&translator.translate(&objects), "e").0[1], "Programmed=Programmed");
}

#[test]
fn listener_whose_socket_could_not_be_opened_is_not_accepted_until_it_is_open() {
    let listeners = json!([
        { "name": "web", "port": 80, "protocol": "HTTP" },
        { "name": "more", "port": 8080, "protocol": "HTTP" },
    ]);
    let mut objects = Objects::default();
    objects.apply(Change::Put(gateway("e", &listeners, 1)));
    objects.apply(Change::Put(gateway("f", &json!([{ "name": "x", "port": 9090, "protocol": "TCP" }]), 2)));
    let mut translator = Translator::new(Options::default());
    let good = translator.translate(&objects);
    let obstacle = || Obstacle { problem: "cannot listen at 0.0.0.0:8080: it is in use".to_owned(), no_address: false };
    let both = [(Bind::Port(8080), obstacle()), (Bind::Port(9090), obstacle())];
    let unopened: Unopened = Arc::new(both.into());
    assert!(translator.hear(&unopened));
    assert!(!translator.hear(&unopened), "it makes no difference any more");
    let bad = translator.translate(&objects);
    let (whole, each) = said_of(&bad, "e");
    assert_eq!(whole, ["Accepted=ListenersNotValid", "Programmed=Programmed", "ResolvedRefs=ResolvedRefs"]);
    assert_eq!(each[0], said_of(&good, "e").1[0]);
    let unavailable = [
        "not Accepted=PortUnavailable",
        "not Programmed=Invalid",
        "ResolvedRefs=ResolvedRefs",
        "not Conflicted=NoConflicts",
    ];
    assert_eq!(each[1], unavailable);
    let (whole, each) = said_of(&bad, "f");
    assert_eq!(whole, ["not Accepted=ListenersNotValid", "not Programmed=Invalid", "ResolvedRefs=ResolvedRefs"]);
    assert_eq!(each, [unavailable]);
    let told: Vec<String> =
        bad.verdicts.iter().filter(|it| it.reason == "PortUnavailable").map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("spec.listeners[1].port: cannot listen at 0.0.0.0:8080: it is in use"), "{told:?}");
    assert_eq!(format!("{:?}", bad.model.entries), format!("{:?}", good.model.entries), "the socket is still wanted");

    assert!(translator.hear(&Unopened::default()));
    let again = translator.translate(&objects);
    assert_eq!((said_of(&again, "e"), said_of(&again, "f")), (said_of(&good, "e"), said_of(&good, "f")));
    assert_eq!(again.verdicts, good.verdicts);
}

#[test]
fn address_that_no_interface_has_is_not_usable() {
    let mut world = json!({
        "metadata": { "name": "e", "namespace": "shop" },
        "spec": {
            "gatewayClassName": "weir",
            "listeners": [{ "name": "web", "port": 80, "protocol": "HTTP" }],
            "addresses": [{ "type": "IPAddress", "value": "192.0.2.1" }, { "type": "IPAddress", "value": "192.0.2.2" }],
        },
    });
    let bind = |address: &str| Bind::Address(format!("{address}:80").parse().unwrap());
    let obstacle = |address: &str| {
        (bind(address), Obstacle { problem: format!("cannot listen at {address}:80"), no_address: true })
    };
    let mut objects = Objects::default();
    objects.apply(Change::Put(Object::Gateway(object(world.clone()))));
    let mut translator = Translator::new(Options::default());
    translator.hear(&Arc::new([obstacle("192.0.2.2")].into()));
    let one = translator.translate(&objects);
    let (whole, each) = said_of(&one, "e");
    assert_eq!(whole[..2], ["Accepted=Accepted", "not Programmed=AddressNotUsable"]);
    assert_eq!(each[0][..2], ["Accepted=Accepted", "Programmed=Programmed"], "it is served at the other address");
    assert!(one.verdicts.iter().any(|it| it.reason == "AddressNotUsable" && it.problem.starts_with("192.0.2.2 is no")));

    translator.hear(&Arc::new([obstacle("192.0.2.1"), obstacle("192.0.2.2")].into()));
    let (whole, each) = said_of(&translator.translate(&objects), "e");
    assert_eq!(whole[..2], ["Accepted=Accepted", "not Programmed=AddressNotUsable"]);
    assert_eq!(each[0][..2], ["Accepted=Accepted", "not Programmed=Pending"]);

    world["spec"]["addresses"] = json!([{ "type": "IPAddress", "value": "192.0.2.3" }]);
    objects.apply(Change::Put(Object::Gateway(object(world))));
    let (whole, each) = said_of(&translator.translate(&objects), "e");
    assert_eq!((&*whole[1], &*each[0][1]), ("Programmed=Programmed", "Programmed=Programmed"));
}
