use std::collections::{BTreeSet, HashMap};

use super::*;
use crate::proxy::backend;
use crate::proxy::snapshot::{Snapshot, compile};
use crate::telemetry::stats::Series;

fn hosts(rules: &[(&str, &Arc<Rule>)]) -> Shards<HostPattern, Vec<Arc<Route>>> {
    rules.iter().map(|(host, rule)| (HostPattern::Exact((*host).into()), vec![route(rule, prefix("/"), 0)])).collect()
}

fn found(snapshot: &Snapshot, host: &str) -> Arc<super::super::CompiledRule> {
    snapshot.entries[&Bind::Http].find(&head("GET", host, "/", None)).expect("matches").rule.clone()
}

fn share_backend(snapshot: &Snapshot, host: &str) -> Arc<backend::Backend> {
    found(snapshot, host).shares[0].backend.clone().expect("has a backend")
}

fn ports(color: &backend::Color) -> Vec<u16> {
    color.endpoints.load().members.iter().map(|(endpoint, _)| endpoint.address.port()).collect()
}

#[test]
fn unchanged_hosts_keep_their_tables_and_an_unchanged_model_its_snapshot() {
    let (a, b) = (rule("a", "web"), rule("b", "web"));
    let web = backend("web", vec![color("", listed(&[1]))]);
    let mut live = live();
    let mut desired = model(hosts(&[("a", &a), ("b", &b)]), vec![web.clone()]);
    let first = compile(&desired, &mut live, None, 0);
    assert_eq!(first.generation, 1);
    let second = compile(&desired, &mut live, Some(&first), 0);
    assert!(second.serves_as(&first));
    assert_eq!(second.generation, 1);
    let changed = rule("a", "web");
    let entry = desired.entries.get_mut(&Bind::Http).unwrap();
    entry.hosts.insert(HostPattern::Exact("a".into()), vec![route(&changed, prefix("/"), 0)]);
    let third = compile(&desired, &mut live, Some(&second), 0);
    assert_eq!(third.generation, 2);
    assert!(Arc::ptr_eq(&found(&first, "b"), &found(&third, "b")));
    assert!(!Arc::ptr_eq(&found(&first, "a"), &found(&third, "a")));
    // The route's statistics go on.
    assert!(Arc::ptr_eq(&found(&first, "a").shares[0].series[0], &found(&third, "a").shares[0].series[0]));
    desired.entries.get_mut(&Bind::Http).unwrap().hosts.remove(&HostPattern::Exact("b".into()));
    let fourth = compile(&desired, &mut live, Some(&third), 0);
    assert!(fourth.entries[&Bind::Http].find(&head("GET", "b", "/", None)).is_none());
}

#[test]
fn changed_policy_reaches_every_rule_and_keeps_what_is_alive() {
    let a = rule("a", "web");
    let mut desired = model(hosts(&[("a", &a)]), vec![backend("web", vec![color("", listed(&[1, 2]))])]);
    let mut live = live();
    let first = compile(&desired, &mut live, None, 0);
    let mut other = Backend::clone(&desired.backends[&key("web")]);
    other.limits.in_flight = 7;
    desired.backends.insert(key("web"), Arc::new(other));
    let second = compile(&desired, &mut live, Some(&first), 0);
    let (before, after) = (share_backend(&first, "a"), share_backend(&second, "a"));
    assert_eq!(after.desired.limits.in_flight, 7);
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(&before.colors[0], &after.colors[0]));
    assert!(Arc::ptr_eq(&before.switch, &after.switch) && Arc::ptr_eq(&before.load, &after.load));
}

#[test]
fn changed_endpoints_change_the_cell_and_nothing_else() {
    let a = rule("a", "web");
    let mut desired = model(hosts(&[("a", &a)]), vec![backend("web", vec![color("", listed(&[1, 2]))])]);
    let mut live = live();
    let first = compile(&desired, &mut live, None, 0);
    let cell = share_backend(&first, "a").colors[0].clone();
    let kept = cell.endpoints.load().members[1].0.clone();
    assert!(live.set_endpoints(&key("web"), &[color("", listed(&[2, 3]))], 1));
    assert_eq!(ports(&cell), [2, 3]);
    assert!(Arc::ptr_eq(&cell.endpoints.load().members[0].0, &kept));
    // A full compile that still carries the old list is the newer truth.
    let second = compile(&desired, &mut live, Some(&first), 2);
    assert!(second.serves_as(&first));
    assert_eq!(ports(&cell), [1, 2]);
    desired.backends.insert(key("web"), backend("web", vec![color("", listed(&[4]))]));
    assert!(compile(&desired, &mut live, Some(&second), 3).serves_as(&first));
    assert_eq!(ports(&cell), [4]);
    assert!(!live.set_endpoints(&key("unknown"), &[color("", listed(&[2, 3]))], 1));
}

#[test]
fn endpoint_that_returns_while_in_use_is_the_same() {
    let a = rule("a", "web");
    let desired = model(hosts(&[("a", &a)]), vec![backend("web", vec![color("", listed(&[1, 2]))])]);
    let mut live = live();
    let snapshot = compile(&desired, &mut live, None, 0);
    let cell = share_backend(&snapshot, "a").colors[0].clone();
    let in_use = cell.endpoints.load().members[0].0.clone();
    live.set_endpoints(&key("web"), &[color("", listed(&[2]))], 1);
    live.set_endpoints(&key("web"), &[color("", listed(&[1, 2]))], 2);
    assert!(Arc::ptr_eq(&cell.endpoints.load().members[0].0, &in_use));
    let mut renamed = endpoint(1);
    renamed.pod = Some("another".into());
    let list = EndpointSource::Listed([renamed].into());
    live.set_endpoints(&key("web"), &[color("", list)], 3);
    assert!(!Arc::ptr_eq(&cell.endpoints.load().members[0].0, &in_use));
}

#[test]
fn vanished_endpoints_are_held_until_others_come_or_the_time_is_over() {
    let a = rule("a", "web");
    let mut held = Backend::clone(&backend("web", vec![color("", listed(&[1, 2]))]));
    held.empty_hold = Duration::from_secs(3);
    let desired = model(hosts(&[("a", &a)]), vec![Arc::new(held)]);
    let mut live = live();
    let snapshot = compile(&desired, &mut live, None, 0);
    let cell = share_backend(&snapshot, "a").colors[0].clone();
    live.set_endpoints(&key("web"), &[color("", listed(&[]))], SECOND);
    assert_eq!(ports(&cell), [1, 2]);
    live.tick(3 * SECOND);
    live.set_endpoints(&key("web"), &[color("", EndpointSource::Missing { why: "gone".into() })], 3 * SECOND);
    assert_eq!(ports(&cell), [1, 2]);
    live.tick(4 * SECOND);
    assert!(ports(&cell).is_empty());
    live.set_endpoints(&key("web"), &[color("", listed(&[5]))], 5 * SECOND);
    live.set_endpoints(&key("web"), &[color("", listed(&[]))], 6 * SECOND);
    live.set_endpoints(&key("web"), &[color("", listed(&[6]))], 7 * SECOND);
    live.tick(60 * SECOND);
    assert_eq!(ports(&cell), [6]);
}

#[test]
fn names_are_resolved_into_endpoints() {
    let a = rule("a", "web");
    let named = |host: &str| vec![color("", EndpointSource::Name { host: host.into(), port: 90 })];
    let mut live = live();
    let first = compile(&model(hosts(&[("a", &a)]), vec![backend("web", named("db.test"))]), &mut live, None, 0);
    let cell = share_backend(&first, "a").colors[0].clone();
    let name: super::super::NameKey = ("db.test".into(), 90);
    assert_eq!(live.names(), BTreeSet::from([name.clone()]));
    assert!(ports(&cell).is_empty());
    let addresses = ["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
    assert!(live.set_resolved(&name, &addresses, 1));
    assert!(!live.set_resolved(&name, &addresses, 2));
    assert_eq!(ports(&cell), [90, 90]);
    let second =
        compile(&model(hosts(&[("a", &a)]), vec![backend("web", named("127.0.0.9"))]), &mut live, Some(&first), 0);
    assert!(live.names().is_empty());
    assert_eq!(share_backend(&second, "a").colors[0].endpoints.load().members[0].0.address.to_string(), "127.0.0.9:90");
}

#[test]
fn switch_points_at_the_active_color_at_first_sight_and_stays_where_it_was_put() {
    let colors = || vec![color("blue", listed(&[1])), color("green", listed(&[2]))];
    let switch = |active: Option<&str>| ColorSwitch {
        service: ObjectName::new("shop", "web"),
        colors: ["blue", "green"].map(|name| (name.into(), ObjectName::new("shop", name))).into(),
        active: active.map(Into::into),
        preview: None,
        policy: CutoverPolicy::default(),
        version: "1".into(),
        problem: None,
        hold: false,
        abort: None,
        retry: None,
    };
    let a = rule("a", "web");
    let service = ObjectName::new("shop", "web");
    let mut desired = model(hosts(&[("a", &a)]), vec![backend("web", vec![color("", listed(&[9]))])]);
    let mut live = live();
    let first = compile(&desired, &mut live, None, 0);
    assert_eq!(&*share_backend(&first, "a").effective().unwrap().name, "");
    desired.backends.insert(key("web"), backend("web", colors()));
    desired.switches.insert(service.clone(), Arc::new(switch(Some("green"))));
    let second = compile(&desired, &mut live, Some(&first), 0);
    let backend_now = share_backend(&second, "a");
    assert_eq!(&*backend_now.effective().unwrap().name, "green");
    let blue = live.color_id(&service, "blue").unwrap();
    backend_now.switch.flip(blue);
    desired.switches.insert(service, Arc::new(switch(Some("green"))));
    let third = compile(&desired, &mut live, Some(&second), 0);
    assert_eq!(&*share_backend(&third, "a").effective().unwrap().name, "blue");
    assert!(Arc::ptr_eq(&share_backend(&third, "a").switch, &backend_now.switch));
}

#[test]
fn live_state_survives_a_thousand_random_changes_and_is_forgotten_when_unused() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut live = live();
    let mut desired = model(Shards::default(), Vec::new());
    let mut snapshot = compile(&desired, &mut live, None, 0);
    let mut endpoints: HashMap<(String, u16), Arc<backend::Endpoint>> = HashMap::new();
    let mut colors: HashMap<String, Arc<backend::Color>> = HashMap::new();
    let mut series: HashMap<(String, String), Arc<Series>> = HashMap::new();
    for now in 0..1_000 {
        let service = format!("s{}", random.u8(0..6));
        let host = HostPattern::Exact(format!("h{}", random.u8(0..6)).into());
        let ports: Vec<u16> = (1..6).filter(|_| random.bool()).collect();
        let entry = desired.entries.get_mut(&Bind::Http).unwrap();
        match random.u8(0..6) {
            0 => {
                entry.hosts.remove(&host);
            }
            1 | 2 => {
                let made = rule(&format!("r{}", random.u8(0..3)), &service);
                entry.hosts.insert(host, vec![route(&made, prefix("/"), 0)]);
            }
            3 => {
                let mut changed = Backend::clone(&backend(&service, vec![color("", listed(&ports))]));
                changed.limits.in_flight = random.u32(1..3);
                desired.backends.insert(key(&service), Arc::new(changed));
            }
            4 if random.bool() => {
                desired.backends.remove(&key(&service));
            }
            _ => {
                live.set_endpoints(&key(&service), &[color("", listed(&ports))], now);
                if let Some(known) = desired.backends.get_mut(&key(&service)) {
                    Arc::make_mut(known).colors = vec![color("", listed(&ports))];
                }
            }
        }
        snapshot = compile(&desired, &mut live, Some(&snapshot), now);
        // What is served is what is desired, and what was there before is the same thing.
        let entry = &desired.entries[&Bind::Http];
        assert_eq!(snapshot.entries[&Bind::Http].host_count(), entry.hosts.len());
        let mut endpoints_now = HashMap::new();
        let mut colors_now = HashMap::new();
        let mut series_now = HashMap::new();
        for (pattern, routes) in &entry.hosts {
            let rule = found(&snapshot, &pattern.to_string());
            assert!(Arc::ptr_eq(&rule.source, &routes[0].rule));
            let Target::Backend(target) = &routes[0].rule.backends[0].target else { unreachable!() };
            let backend = rule.shares[0].backend.as_ref();
            assert_eq!(backend.is_some(), desired.backends.contains_key(target));
            if let Some(backend) = backend {
                let wanted = &desired.backends[target];
                assert_eq!(backend.desired.limits, wanted.limits);
                assert!(Arc::ptr_eq(backend, live.backend(target).unwrap()));
                let name = target.service.name.to_string();
                series_now.insert((rule.name.to_string(), name), rule.shares[0].series[0].clone());
            }
        }
        for (key, wanted) in &desired.backends {
            let alive = live.backend(key).unwrap();
            let name = key.service.name.to_string();
            assert_eq!(listed(&ports_of(alive)), wanted.colors[0].source);
            colors_now.insert(name.clone(), alive.colors[0].clone());
            for (endpoint, _) in &alive.colors[0].endpoints.load().members {
                endpoints_now.insert((name.clone(), endpoint.address.port()), endpoint.clone());
            }
        }
        for (name, color) in &colors_now {
            assert!(colors.get(name).is_none_or(|before| Arc::ptr_eq(before, color)));
        }
        for (name, endpoint) in &endpoints_now {
            assert!(endpoints.get(name).is_none_or(|before| Arc::ptr_eq(before, endpoint)));
        }
        for (name, series_of) in &series_now {
            assert!(series.get(name).is_none_or(|before| Arc::ptr_eq(before, series_of)));
        }
        (endpoints, colors, series) = (endpoints_now, colors_now, series_now);
        assert_eq!(live.backends().load().len(), desired.backends.len());
    }
    let (_, last) = series.drain().next().expect("some route has a backend");
    let weak = Arc::downgrade(&last);
    drop((last, series, endpoints, colors));
    desired = Model::default();
    drop(compile(&desired, &mut live, Some(&snapshot), 0));
    drop(snapshot);
    assert!(weak.upgrade().is_none() && live.backends().load().is_empty());
    assert!(live.switch(&ObjectName::new("shop", "s0")).is_none());
}

fn ports_of(backend: &backend::Backend) -> Vec<u16> {
    ports(&backend.colors[0])
}
