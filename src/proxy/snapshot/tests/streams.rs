use super::*;
use crate::proxy::snapshot::{Dispatch, compile};

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn wildcard(suffix: &str) -> HostPattern {
    HostPattern::Wildcard { suffix: suffix.into(), labels: Labels::Many }
}

fn stream(host: HostPattern, rule: &Arc<Rule>) -> Stream {
    Stream { host, mode: StreamMode::Passthrough, rule: rule.clone() }
}

fn certificate() -> Arc<Certificate> {
    let pair = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
    Arc::new(Certificate {
        secret: ObjectName::new("shop", "x"),
        chain_pem: pair.cert.pem().into_bytes().into(),
        key_pem: pair.signing_key.serialize_pem().into_bytes().into(),
        not_after: 1,
        fingerprint: 1,
    })
}

fn web() -> Vec<Arc<Backend>> {
    vec![backend("web", vec![color("", listed(&[1]))])]
}

#[test]
fn request_stays_at_the_hosts_of_its_own_listener() {
    // The listeners of GatewayHTTPListenerIsolation, one route each.
    let listeners =
        [HostPattern::Any, wildcard(".example.com"), wildcard(".foo.example.com"), exact("abc.foo.example.com")];
    let paths = ["/empty", "/wild", "/foo", "/abc"];
    let hosts: Shards<HostPattern, Vec<Arc<Route>>> = listeners
        .iter()
        .zip(paths)
        .map(|(host, path)| (host.clone(), vec![route(&rule(path, "web"), prefix(path), 0)]))
        .collect();
    let mut model = model(hosts, web());
    let found = |model: &Model| -> Vec<Vec<bool>> {
        let snapshot = compile(model, &mut live(), None, 0);
        ["bar.com", "bar.example.com", "bar.foo.example.com", "abc.foo.example.com"]
            .iter()
            .map(|host| {
                paths
                    .iter()
                    .map(|path| {
                        let head = head("GET", host, path, None);
                        let explained = crate::proxy::snapshot::explain(&snapshot, Bind::Http, &head);
                        let found = snapshot.entries[&Bind::Http].find(&head).is_some();
                        assert_eq!(explained.chosen.is_some(), found);
                        found
                    })
                    .collect()
            })
            .collect()
    };
    let all = found(&model);
    assert_eq!(all[3], [true; 4], "without isolation a request falls through");
    model.entries.get_mut(&Bind::Http).unwrap().boundaries = Arc::new(listeners.into());
    for (at, host) in found(&model).into_iter().enumerate() {
        let expected: Vec<bool> = (0..4).map(|path| path == at).collect();
        assert_eq!(host, expected, "{at}");
    }
}

#[test]
fn route_with_a_narrower_host_is_found_within_its_listener() {
    let hosts = [(exact("a.example.com"), vec![route(&rule("r", "web"), prefix("/"), 0)])];
    let mut model = model(hosts.into(), web());
    let listeners = [HostPattern::Any, wildcard(".example.com")];
    model.entries.get_mut(&Bind::Http).unwrap().boundaries = Arc::new(listeners.into());
    let snapshot = compile(&model, &mut live(), None, 0);
    assert!(snapshot.entries[&Bind::Http].find(&head("GET", "a.example.com", "/", None)).is_some());
}

#[test]
fn misdirected_requests_are_told_by_listener_whatever_the_certificate() {
    // The listeners and cases of HTTPRouteHTTPSListenerDetectMisdirectedRequests; one certificate serves all of them.
    let listeners = [
        HostPattern::Any,
        exact("second-example.org"),
        wildcard(".wildcard.org"),
        exact("fourth-example.wildcard.org"),
    ];
    let shared = certificate();
    let certificates: Vec<CertificateBinding> =
        listeners.iter().map(|host| CertificateBinding { host: host.clone(), certificate: shared.clone() }).collect();
    let mut entry = Entry { protocol: Protocol::Https, certificates: Arc::new(certificates), ..Entry::default() };
    for isolated in [false, true] {
        if isolated {
            entry.boundaries = Arc::new(listeners.clone().into());
            // A further certificate of a listener does not make another listener of its names.
            let more = CertificateBinding { host: exact("fith-example.wildcard.org"), certificate: shared.clone() };
            Arc::make_mut(&mut entry.certificates).push(more);
        }
        let model = Model { entries: [(Bind::Https, entry.clone())].into(), ..Model::default() };
        let snapshot = compile(&model, &mut live(), None, 0);
        let table = &snapshot.entries[&Bind::Https];
        for (server_name, host, covered) in [
            ("example.org", "example.org", true),
            ("example.org", "second-example.org", false),
            ("example.org", "unknown-example.org", true),
            ("second-example.org", "second-example.org", true),
            ("second-example.org", "example.org", false),
            ("second-example.org", "unknown-example.org", false),
            ("third-example.wildcard.org", "third-example.wildcard.org", true),
            ("third-example.wildcard.org", "fith-example.wildcard.org", true),
            ("third-example.wildcard.org", "fourth-example.wildcard.org", false),
            ("third-example.wildcard.org", "second-example.org", false),
            ("third-example.wildcard.org", "unknown-example.org", false),
            ("fourth-example.wildcard.org", "fourth-example.wildcard.org", true),
            ("fourth-example.wildcard.org", "fith-example.wildcard.org", false),
            ("unknown-example.org", "example.org", true),
            ("unknown-example.org", "unknown-example.org", true),
        ] {
            assert_eq!(table.covers(server_name, host), covered, "{server_name} {host} {isolated}");
        }
    }
}

/// An entry with TLS listeners and HTTPS listeners.
fn mixed(boundaries: &[HostPattern]) -> Model {
    let rule = rule("r", "web");
    let certificates: Vec<CertificateBinding> = [wildcard(".http.test"), wildcard(".ends.test")]
        .into_iter()
        .map(|host| CertificateBinding { host, certificate: certificate() })
        .collect();
    let entry = Entry {
        protocol: Protocol::Https,
        certificates: Arc::new(certificates),
        hosts: [(HostPattern::Any, vec![route(&rule, prefix("/"), 0)])].into(),
        boundaries: Arc::new(boundaries.iter().cloned().collect()),
        streams: Arc::new(vec![
            stream(wildcard(".pass.test"), &rule),
            Stream { mode: StreamMode::Terminate, ..stream(exact("a.ends.test"), &rule) },
            stream(wildcard(".test"), &rule),
        ]),
        client_certificates: None,
    };
    Model {
        entries: [(Bind::Https, entry)].into(),
        backends: web().into_iter().map(|backend| (backend.key.clone(), backend)).collect(),
        switches: BTreeMap::new(),
    }
}

#[test]
fn server_name_tells_streams_from_http() {
    let listeners = [wildcard(".http.test"), wildcard(".ends.test"), wildcard(".pass.test"), wildcard(".test")];
    let snapshot = compile(&mixed(&listeners), &mut live(), None, 0);
    let table = &snapshot.entries[&Bind::Https];
    let meant = |name: Option<&str>| match table.dispatch(name) {
        Dispatch::Stream(stream) => format!("{}", stream.host),
        Dispatch::Http => "http".to_owned(),
        Dispatch::Nobody => "nobody".to_owned(),
    };
    assert_eq!(meant(Some("x.pass.test")), "*.pass.test");
    assert_eq!(meant(Some("a.ends.test")), "a.ends.test");
    assert_eq!(meant(Some("b.ends.test")), "nobody", "a listener with streams serves no HTTP");
    assert_eq!(meant(Some("x.http.test")), "http", "the listener of another host comes first");
    assert_eq!(meant(Some("y.test")), "*.test");
    assert_eq!(meant(Some("elsewhere")), "nobody");
    assert_eq!(meant(None), "nobody");
    assert!(table.terminate().is_some() && table.tls.is_some());
}

#[test]
fn unknown_name_is_for_http_exactly_where_no_stream_is_at_its_listener() {
    let mut random = fastrand::Rng::with_seed(5);
    let labels = |random: &mut fastrand::Rng, most: usize| -> String {
        let labels: Vec<&str> =
            (0..random.usize(1..=most)).map(|_| *random.choice(&["a", "b", "c"]).unwrap()).collect();
        labels.join(".")
    };
    let pattern = |random: &mut fastrand::Rng| match random.u8(0..8) {
        0 => HostPattern::Any,
        1..5 => wildcard(&format!(".{}", labels(random, 2))),
        _ => exact(&labels(random, 3)),
    };
    // The narrowest listener that has the pattern within it.
    let within = |listener: &HostPattern, host: &HostPattern| match (listener, host) {
        (HostPattern::Any, _) => true,
        (listener, HostPattern::Exact(name)) => listener.matches(name),
        (HostPattern::Wildcard { suffix: own, .. }, HostPattern::Wildcard { suffix, .. }) => suffix.ends_with(&**own),
        _ => false,
    };
    let precision = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Wildcard { suffix, .. } => suffix.len(),
        HostPattern::Any => 0,
    };
    let (rule, shared) = (rule("r", "web"), certificate());
    let mut found = [0; 2];
    for _ in 0..2_000 {
        let listeners: std::collections::BTreeSet<HostPattern> =
            (0..random.usize(1..6)).map(|_| pattern(&mut random)).collect();
        let streams: Vec<HostPattern> = (0..random.usize(1..4))
            .map(|_| pattern(&mut random))
            .filter(|host| listeners.iter().any(|listener| within(listener, host)))
            .collect();
        if streams.is_empty() {
            continue;
        }
        let listener_of = |host: &HostPattern| {
            listeners.iter().filter(|listener| within(listener, host)).max_by_key(|listener| precision(listener))
        };
        let entry = Entry {
            protocol: Protocol::Https,
            certificates: Arc::new(vec![CertificateBinding { host: HostPattern::Any, certificate: shared.clone() }]),
            hosts: [(HostPattern::Any, vec![route(&rule, prefix("/"), 0)])].into(),
            boundaries: Arc::new(listeners.clone()),
            streams: Arc::new(streams.iter().map(|host| stream(host.clone(), &rule)).collect()),
            client_certificates: None,
        };
        let model = Model {
            entries: [(Bind::Https, entry)].into(),
            backends: web().into_iter().map(|backend| (backend.key.clone(), backend)).collect(),
            switches: BTreeMap::new(),
        };
        let snapshot = compile(&model, &mut live(), None, 0);
        for _ in 0..20 {
            let name = labels(&mut random, 4);
            let own = listener_of(&exact(&name));
            let at_own = || streams.iter().filter(|host| listener_of(host) == own);
            let is_http = match snapshot.entries[&Bind::Https].dispatch(Some(&name)) {
                Dispatch::Stream(stream) => {
                    assert!(stream.host.matches(&name) && at_own().any(|host| *host == stream.host), "{name}");
                    continue;
                }
                Dispatch::Http => true,
                Dispatch::Nobody => false,
            };
            found[usize::from(is_http)] += 1;
            let expected = own.is_none() || at_own().next().is_none();
            assert_eq!(is_http, expected, "{name} {listeners:?} {streams:?}");
        }
    }
    assert!(found.iter().all(|count| *count > 1_000), "{found:?}");
}

#[test]
fn unknown_name_takes_as_many_look_ups_among_many_streams_as_among_few() {
    let rule = rule("r", "web");
    let look_ups = |streams: usize| {
        let mut model = mixed(&[wildcard(".http.test"), wildcard(".many.test")]);
        let entry = model.entries.get_mut(&Bind::Https).unwrap();
        let many = (0..streams).map(|at| stream(exact(&format!("s{at}.many.test")), &rule));
        entry.streams = Arc::new(many.collect());
        let snapshot = compile(&model, &mut live(), None, 0);
        let before = super::super::hosts::LOOK_UPS.get();
        // Its listener is not that of any stream.
        assert!(matches!(snapshot.entries[&Bind::Https].dispatch(Some("x.http.test")), Dispatch::Http));
        super::super::hosts::LOOK_UPS.get() - before
    };
    let few = look_ups(1);
    assert!(few > 0);
    assert_eq!(look_ups(5_000), few);
}

#[test]
fn streams_are_compiled_again_when_their_backend_is_another_one_and_only_then() {
    let model = |limit: u32, rule: &Arc<Rule>| {
        let mut changed = (*backend("web", vec![color("", listed(&[1]))])).clone();
        changed.limits.in_flight = limit;
        let entry = Entry {
            protocol: Protocol::Tcp,
            streams: Arc::new(vec![stream(HostPattern::Any, rule)]),
            ..Entry::default()
        };
        Model {
            entries: [(Bind::Port(9), entry)].into(),
            backends: [(key("web"), Arc::new(changed))].into_iter().collect(),
            switches: BTreeMap::new(),
        }
    };
    let mut live = live();
    let limit = |snapshot: &super::super::Snapshot| {
        let stream = snapshot.entries[&Bind::Port(9)].stream().unwrap().clone();
        stream.rule.shares[0].backend.as_ref().unwrap().desired.limits.in_flight
    };
    let first = compile(&model(1, &rule("r", "web")), &mut live, None, 0);
    let same = compile(&model(1, &rule("r", "web")), &mut live, Some(&first), 0);
    assert_eq!((same.generation, limit(&same)), (first.generation, 1));
    let second = compile(&model(2, &rule("r", "web")), &mut live, Some(&same), 0);
    assert_eq!((second.generation, limit(&second)), (first.generation + 1, 2));
}

#[test]
fn configuration_for_clients_stays_as_long_as_what_is_asked_of_them() {
    let authority = |name: &str| -> Arc<[u8]> {
        let pair = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        pair.cert.pem().into_bytes().into()
    };
    let model = |clients: Option<ClientCertificates>| {
        let entry = Entry { protocol: Protocol::Https, client_certificates: clients.map(Arc::new), ..Entry::default() };
        Model { entries: [(Bind::Https, entry)].into(), ..Model::default() }
    };
    let mut live = live();
    let one = Some(ClientCertificates { ca_pem: authority("one"), optional: false });
    let none = compile(&model(None), &mut live, None, 0);
    let asked = compile(&model(one.clone()), &mut live, Some(&none), 0);
    let again = compile(&model(one), &mut live, Some(&asked), 0);
    let tls = |snapshot: &super::super::Snapshot| snapshot.entries[&Bind::Https].tls.clone();
    assert!(!Arc::ptr_eq(&tls(&none).unwrap(), &tls(&asked).unwrap()));
    assert_eq!(again.generation, asked.generation);
    let broken = Some(ClientCertificates { ca_pem: b"nothing".as_slice().into(), optional: false });
    let broken = compile(&model(broken), &mut live, Some(&again), 0);
    assert!(tls(&broken).is_none(), "nobody is let in unverified");
}
