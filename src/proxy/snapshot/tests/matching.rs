use std::cmp::Reverse;

use super::*;
use crate::proxy::snapshot::explain::MatchResult;
use crate::proxy::snapshot::{compile, explain};

fn pick<'a>(random: &mut fastrand::Rng, from: &[&'a str]) -> &'a str {
    from[random.usize(..from.len())]
}

fn random_path(random: &mut fastrand::Rng, segments: usize) -> String {
    (0..random.usize(0..=segments)).map(|_| format!("/{}", pick(random, &["a", "b", "ab", ""]))).collect()
}

fn random_values(random: &mut fastrand::Rng, names: &[&str]) -> Vec<ValueMatch> {
    names
        .iter()
        .filter(|_| random.u8(0..4) == 0)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|name| ValueMatch {
            name: (*name).into(),
            test: match random.bool() {
                true => ValueTest::Exact(pick(random, &["1", "2", "a b"]).into()),
                false => ValueTest::Regex(pick(random, &["[12]", "1|12", "a.*"]).into()),
            },
        })
        .collect()
}

fn random_route(random: &mut fastrand::Rng, index: u32) -> Arc<Route> {
    let rule = rule(&format!("r{}", random.u8(0..4)), "web");
    let path = match random.u8(0..8) {
        0..3 => PathMatch::Exact(match random_path(random, 3) {
            path if path.is_empty() => "/".into(),
            path => path.into(),
        }),
        3 => PathMatch::Regex(pick(random, &["/a.*", "/(a|ab)", "/.b/?", "/[^/]+"]).into()),
        _ => PathMatch::Prefix(match random_path(random, 3).trim_end_matches('/') {
            "" => "/".into(),
            path => path.into(),
        }),
    };
    let matches = RouteMatch {
        path,
        method: (random.u8(0..4) == 0).then(|| pick(random, &["GET", "POST"]).into()),
        headers: random_values(random, &["x-a", "cookie"]),
        query: random_values(random, &["q", "p"]),
    };
    let rank = Rank { created: random.i64(0..2), source: rule.source.clone(), rule: 0, index };
    Arc::new(Route { matches, rank, rule })
}

fn whole(pattern: &str, text: &str) -> bool {
    thread_local! {
        static KNOWN: std::cell::RefCell<BTreeMap<String, regex::Regex>> = const { std::cell::RefCell::new(BTreeMap::new()) };
    }
    KNOWN.with_borrow_mut(|known| {
        let new = || regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        known.entry(pattern.to_owned()).or_insert_with(new).is_match(text)
    })
}

/// The rules of the API, written down as naively as possible.
fn oracle<'a>(
    hosts: &'a Shards<HostPattern, Vec<Arc<Route>>>,
    head: &RequestHead,
    query: &[(&str, &str)],
) -> Option<(&'a Arc<Route>, usize)> {
    let specificity = |pattern: &HostPattern| match pattern {
        HostPattern::Exact(_) => (0, Reverse(0), None),
        HostPattern::Wildcard { suffix, labels } => (1, Reverse(suffix.len()), Some(*labels)),
        HostPattern::Any => (2, Reverse(0), None),
    };
    let mut patterns: Vec<_> = hosts.keys().filter(|pattern| pattern.matches(head.host())).collect();
    patterns.sort_by_key(|pattern| specificity(pattern));
    let value = |test: &ValueTest, found: Option<&str>| match (test, found) {
        (_, None) => false,
        (ValueTest::Exact(wanted), Some(found)) => **wanted == *found,
        (ValueTest::Regex(pattern), Some(found)) => whole(pattern, found),
    };
    for pattern in patterns {
        let mut routes: Vec<_> = hosts[pattern].iter().collect();
        routes.sort_by_key(|route| {
            let matches = &route.matches;
            let kind = match &matches.path {
                PathMatch::Exact(_) => (0, Reverse(0)),
                PathMatch::Regex(text) => (1, Reverse(text.len())),
                PathMatch::Prefix(text) => (2, Reverse(text.trim_end_matches('/').len())),
            };
            let counts = (Reverse(matches.headers.len()), Reverse(matches.query.len()));
            (kind, matches.method.is_none(), counts, route.rank.clone())
        });
        for route in routes {
            let matches = &route.matches;
            let path = head.path();
            let covered = match &matches.path {
                PathMatch::Exact(wanted) => (**wanted == *path).then_some(path.len()),
                PathMatch::Regex(pattern) => whole(pattern, path).then_some(path.len()),
                PathMatch::Prefix(prefix) if **prefix == *"/" => Some(0),
                PathMatch::Prefix(prefix) => {
                    (path == &**prefix || path.starts_with(&format!("{prefix}/"))).then_some(prefix.len())
                }
            };
            let header = |name: &str| head.headers.get(name).map(|value| std::str::from_utf8(value).unwrap());
            let parameter = |name: &str| query.iter().find(|pair| pair.0 == name).map(|pair| pair.1);
            if let Some(covered) = covered
                && matches.method.as_ref().is_none_or(|method| **method == *head.method())
                && matches.headers.iter().all(|wanted| value(&wanted.test, header(&wanted.name)))
                && matches.query.iter().all(|wanted| value(&wanted.test, parameter(&wanted.name)))
            {
                return Some((route, covered));
            }
        }
    }
    None
}

#[test]
fn find_agrees_with_a_naive_reading_of_the_api() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut found = 0;
    for round in 0..300 {
        let mut hosts = Shards::default();
        let patterns = [
            HostPattern::Exact("a.b.test".into()),
            HostPattern::Exact("b.test".into()),
            HostPattern::Wildcard { suffix: ".b.test".into(), labels: Labels::One },
            HostPattern::Wildcard { suffix: ".b.test".into(), labels: Labels::Many },
            HostPattern::Wildcard { suffix: ".test".into(), labels: Labels::Many },
            HostPattern::Any,
        ];
        // Some hosts are small enough to be scanned, others are indexed.
        let most = if round % 2 == 0 { 8 } else { 60 };
        for pattern in patterns {
            if random.bool() {
                let routes = (0..random.u32(0..most)).map(|index| random_route(&mut random, index)).collect();
                hosts.insert(pattern, routes);
            }
        }
        let model = model(hosts, vec![backend("web", vec![color("", listed(&[1]))])]);
        let snapshot = compile(&model, &mut live(), None, 0);
        let entry = &snapshot.entries[&Bind::Http];
        for _ in 0..150 {
            let path = match random_path(&mut random, 4) {
                path if path.is_empty() => pick(&mut random, &["/", "*"]).to_owned(),
                path => path,
            };
            let host = pick(&mut random, &["a.b.test", "b.test", "c.b.test", "x.y.b.test", "z.test", "other", ""]);
            let mut query = Vec::new();
            let mut text = Vec::new();
            for _ in 0..random.usize(0..3) {
                let name = pick(&mut random, &["q", "p", "r"]);
                let (value, encoded) = [("1", "1"), ("2", "%32"), ("12", "1%32"), ("a b", "a%20b")][random.usize(..4)];
                query.push((name, value));
                text.push(format!(
                    "{}={encoded}",
                    if random.bool() { name.to_owned() } else { name.replace('q', "%71") }
                ));
            }
            let text = text.join("&");
            let method = pick(&mut random, &["GET", "POST", "PUT"]);
            let mut head = head(method, host, &path, (!query.is_empty()).then_some(text.as_str()));
            for name in ["X-A", "Cookie"] {
                if random.bool() {
                    head.headers.append(name.as_bytes(), pick(&mut random, &["1", "2", "12", "ab"]).as_bytes());
                }
            }
            let matched = entry.find(&head);
            let expected = oracle(&model.entries[&Bind::Http].hosts, &head, &query);
            let rank = |route: &Route| (route.rank.clone(), route.matches.clone());
            assert_eq!(
                matched.map(|matched| (rank(matched.route), matched.prefix)),
                expected.map(|(route, prefix)| (rank(route), prefix)),
                "{method} {host} {path} ?{text}"
            );
            found += usize::from(matched.is_some());
        }
    }
    assert!(found > 10_000, "only {found} requests matched anything");
}

#[test]
fn order_of_routes_in_the_model_does_not_matter() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..50 {
        let mut routes: Vec<_> = (0..random.u32(1..40)).map(|index| random_route(&mut random, index)).collect();
        let web = || vec![backend("web", vec![color("", listed(&[1]))])];
        let first = model([(HostPattern::Any, routes.clone())].into(), web());
        random.shuffle(&mut routes);
        let second = model([(HostPattern::Any, routes)].into(), web());
        let (first, second) = (compile(&first, &mut live(), None, 0), compile(&second, &mut live(), None, 0));
        for _ in 0..100 {
            let head = head("GET", "h", &random_path(&mut random, 4), None);
            let rank = |snapshot: &super::super::Snapshot| {
                snapshot.entries[&Bind::Http].find(&head).map(|matched| matched.route.rank.clone())
            };
            assert_eq!(rank(&first), rank(&second));
        }
    }
}

#[test]
fn explanation_names_the_chosen_route_and_why_the_others_are_not() {
    let web = rule("web", "web");
    let mut with_header = (*route(&web, prefix("/a"), 1)).clone();
    with_header.matches.headers = vec![ValueMatch { name: "x-color".into(), test: ValueTest::Exact("green".into()) }];
    let routes = vec![
        route(&web, PathMatch::Exact("/z".into()), 0),
        Arc::new(with_header),
        route(&web, prefix("/a"), 2),
        route(&web, prefix("/"), 3),
    ];
    let hosts = [
        (HostPattern::Exact("shop.test".into()), vec![route(&web, PathMatch::Exact("/only".into()), 0)]),
        (HostPattern::Any, routes),
    ];
    let model = model(hosts.into(), vec![backend("web", vec![color("", listed(&[81, 82]))])]);
    let snapshot = compile(&model, &mut live(), None, 0);
    let explanation = explain(&snapshot, Bind::Http, &head("GET", "shop.test:8080", "/a/b", None));
    assert_eq!(explanation.hosts.iter().map(|host| host.pattern.as_str()).collect::<Vec<_>>(), ["shop.test", "*"]);
    let results: Vec<_> = explanation.hosts[1].routes.iter().map(|route| route.result.clone()).collect();
    let expected =
        [MatchResult::Path, MatchResult::Header("x-color".into()), MatchResult::Chosen, MatchResult::Outranked];
    assert_eq!(results, expected);
    let chosen = explanation.chosen.expect("matches");
    assert_eq!((chosen.route.as_str(), chosen.matched_path.as_str()), ("httproute/shop/web", "/a"));
    assert_eq!(chosen.shares[0].percent, 100.0);
    let addresses: Vec<_> =
        chosen.shares[0].colors[0].endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect();
    assert_eq!(addresses, ["127.0.0.1:81", "127.0.0.1:82"]);
    assert!(!explain(&snapshot, Bind::Https, &head("GET", "shop.test", "/", None)).served);
}
