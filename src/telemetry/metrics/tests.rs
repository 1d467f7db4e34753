use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::telemetry::stats::{Outcome, Registry};

type Labels = BTreeMap<String, String>;

/// A family as read back by a strict parser.
#[derive(Debug, Default)]
struct Parsed {
    kind: String,
    help: String,
    samples: Vec<(String, Labels, f64)>,
}

fn name_length(text: &str) -> usize {
    text.bytes().position(|byte| !(byte.is_ascii_alphanumeric() || byte == b'_')).unwrap_or(text.len())
}

fn labels(mut rest: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    let Some(inner) = rest.strip_prefix('{') else { return (labels, rest) };
    rest = inner;
    loop {
        let (name, after) = rest.split_at(name_length(rest));
        assert!(!name.is_empty(), "a label without a name before {rest:?}");
        rest = after.strip_prefix("=\"").unwrap();
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => value.push(match characters.next().unwrap().1 {
                    'n' => '\n',
                    escaped @ ('"' | '\\') => escaped,
                    other => panic!("unknown escape {other:?}"),
                }),
                (_, character) => value.push(character),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "label {name} twice");
        rest = &rest[end + 1..];
        match rest.split_at(1) {
            (",", more) => rest = more,
            ("}", after) => return (labels, after),
            other => panic!("{other:?}"),
        }
    }
}

/// Reads a page. Families by name (of counters: with `_total`).
fn parse(page: &str, format: Format) -> BTreeMap<String, Parsed> {
    let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
    let (mut current, mut seen) = (String::new(), BTreeSet::new());
    let mut lines: Vec<&str> = page.strip_suffix('\n').unwrap().split('\n').collect();
    if format == Format::OpenMetrics {
        assert_eq!(lines.pop(), Some("# EOF"));
    }
    for line in lines {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            if name != current {
                assert!(!families.contains_key(name), "{name} is in two pieces");
                current = name.to_owned();
            }
            let family = families.entry(current.clone()).or_default();
            let field = match what {
                "TYPE" => &mut family.kind,
                "HELP" => &mut family.help,
                other => panic!("{other}"),
            };
            assert!(field.is_empty(), "{what} of {name} twice");
            *field = value.to_owned();
            continue;
        }
        let (name, rest) = line.split_at(name_length(line));
        let (labels, rest) = labels(rest);
        let value: f64 = rest.strip_prefix(' ').unwrap().parse().unwrap();
        assert!(seen.insert((name.to_owned(), labels.clone())), "{line} twice");
        let family = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap();
        let allowed: &[&str] = match (family.kind.as_str(), format) {
            ("histogram", _) => &["_bucket", "_sum", "_count"],
            ("counter", Format::OpenMetrics) => &["_total"],
            ("counter" | "gauge", _) => &[""],
            other => panic!("{other:?}"),
        };
        assert!(allowed.contains(&suffix), "{name} in {current}");
        family.samples.push((name.to_owned(), labels, value));
    }
    if format == Format::OpenMetrics {
        let total = |(name, family): (String, Parsed)| {
            (if family.kind == "counter" { format!("{name}_total") } else { name }, family)
        };
        families = families.into_iter().map(total).collect();
    }
    families
}

fn color(service: &str, port: u16) -> ColorLabels {
    ColorLabels { namespace: "shop".into(), service: service.into(), port, color: "blue".into() }
}

/// A page on which every metric has a value.
fn page(format: Format, per_endpoint: bool) -> String {
    let registry = Registry::new(1, &["no_route", "overloaded"]);
    // Two ports of one Service, a name that needs escapes, and an endpoint with its successor.
    let colors = [color("web", 80), color("web", 81), color("odd\"\\\n", 80)];
    let series: Vec<_> = colors.iter().map(|labels| registry.color(labels.clone())).collect();
    let routes: Vec<_> = colors.iter().map(|labels| registry.route("shop/web/0".into(), labels.clone())).collect();
    let address = "127.0.0.1:9001".parse().unwrap();
    let endpoints = [registry.endpoint(color("web", 80), address), registry.endpoint(color("web", 80), address)];
    let mut shard = registry.shard(0);
    for (series, route) in series.iter().zip(&routes) {
        for (length, class, status) in [(900_000, Class::Success, 200), (2_000_000_000, Class::Timeout, 504)] {
            shard.started(series.slot(), 1_000);
            let ended = 1_000 + length;
            let outcome =
                Outcome { started: 1_000, first_byte: None, ended, class, status, bytes_in: 10, bytes_out: 20 };
            shard.finished(series.slot(), route.slot(), &outcome);
        }
        shard.started(series.slot(), 0);
        shard.queued(series.slot(), 0, 500_000_000);
    }
    for endpoint in &endpoints {
        shard.attempt_started(endpoint.slot(), 0);
        shard.attempt_finished(endpoint.slot(), 0, 1_000_000_000, true);
    }
    shard.fault(0);
    shard.publish(1);
    let gauges = Gauges::new(1);
    gauges.worker(0).listener("http").open.add(3);
    gauges.worker(0).listener("http").idle.add(1);
    gauges.worker(0).listener("http").datagrams_in.add(1);
    let facts = Facts {
        ready_endpoints: vec![(color("web", 80), 2), (color("web", 81), 2)],
        generation: 3,
        last_publish: Some(1.7e9),
        changes: vec![("routes", Distribution::default())],
        view_age: Some(2.5),
        writer: Some(WriterFacts { leads: true, waiting: 2, oldest: 0.5, writes: vec![("HTTPRoute", "written", 7)] }),
        rejected_objects: 1,
        certificates: vec![(ObjectName::new("shop", "tls"), 1_800_000_000)],
        cutovers: CutoverFacts {
            phases: vec![(ObjectName::new("shop", "web"), "Soaking".into())],
            skew_seconds: Some(0.011),
            results: vec![("Done".into(), 2), ("Done".into(), 1), ("Aborted".into(), 1)],
            dropped_requests: 0,
            rejected: vec![("UnknownColor".into(), 1)],
        },
        access_log_dropped: 5,
        log_dropped: 0,
    };
    let process = Process {
        cpu_seconds: Some(1.5),
        resident_bytes: Some(1e7),
        open_fds: Some(9.0),
        max_fds: Some(1024.0),
        threads: Some(4.0),
    };
    let page = Page {
        totals: &registry.totals(10_000_000_000),
        publish_age_seconds: 0.05,
        gauges: &gauges,
        facts: &facts,
        process: &process,
        started: 1.7e9,
        per_endpoint,
    };
    page.render(format)
}

#[test]
fn every_exposed_metric_is_in_the_table_with_its_labels_and_help() {
    for format in [Format::Text, Format::OpenMetrics] {
        let families = parse(&page(format, true), format);
        let exposed: BTreeSet<&str> = families.keys().map(String::as_str).collect();
        let table: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(exposed, table, "a metric of the table is missing from a page that has them all, or the reverse");
        for metric in METRICS {
            let family = &families[metric.name];
            assert_eq!((family.kind.as_str(), family.help.as_str()), (metric.kind.text(), metric.help));
            assert!(metric.help.ends_with('.'), "{} has no sentence", metric.name);
            let expected: BTreeSet<&str> = metric.labels.iter().copied().collect();
            for (_, labels, value) in &family.samples {
                let names: BTreeSet<&str> = labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
                assert_eq!(names, expected, "{}", metric.name);
                assert!(value.is_finite() && *value >= 0.0);
            }
        }
    }
}

#[test]
fn names_follow_the_conventions() {
    for metric in METRICS {
        assert!(metric.name.starts_with("weir_") || metric.name.starts_with("process_"), "{}", metric.name);
        assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
    }
    assert!(
        reference().lines().count() == METRICS.len() + 2 && reference().contains("| `weir_faults_total` | counter |")
    );
}

#[test]
fn ports_of_a_service_and_an_endpoints_successor_are_added_up() {
    let families = parse(&page(Format::Text, true), Format::Text);
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let matching =
            |labels: &Labels| wanted.iter().all(|(key, value)| labels.get(*key).is_some_and(|is| is == value));
        let hits: Vec<f64> =
            families[name].samples.iter().filter(|(_, labels, _)| matching(labels)).map(|sample| sample.2).collect();
        assert_eq!(hits.len(), 1, "{name} {wanted:?}");
        hits[0]
    };
    assert_eq!(value("weir_requests_total", &[("service", "web"), ("code_class", "5xx")]), 2.0);
    assert_eq!(value("weir_upstream_inflight", &[("service", "web")]), 2.0);
    // Two requests of 2 s and two of 0.9 ms are over, two run for 10 s.
    let area = value("weir_upstream_inflight_seconds_total", &[("service", "web")]);
    assert!((area - 24.0018).abs() < 1e-9, "{area}");
    assert_eq!(value("weir_upstream_queue_seconds_total", &[("service", "web")]), 1.0);
    assert_eq!(value("weir_upstream_errors_total", &[("service", "web"), ("reason", "timeout")]), 2.0);
    assert_eq!(value("weir_upstream_bytes_total", &[("service", "web"), ("direction", "out")]), 80.0);
    assert_eq!(value("weir_upstream_ready_endpoints", &[("service", "web")]), 2.0);
    assert_eq!(value("weir_endpoint_errors_total", &[("endpoint", "127.0.0.1:9001")]), 2.0);
    assert_eq!(value("weir_downstream_connections", &[("state", "opening")]), 2.0);
    assert_eq!(value("weir_cutover_total", &[("result", "Done")]), 3.0);
    assert_eq!(value("weir_requests_total", &[("service", "odd\"\\\n"), ("code_class", "2xx")]), 1.0);
}

#[test]
fn histograms_are_cumulative_and_end_with_everything() {
    for format in [Format::Text, Format::OpenMetrics] {
        let families = parse(&page(format, false), format);
        assert!(!families.contains_key("weir_endpoint_attempts_total"), "series per endpoint are off");
        let samples = &families["weir_request_duration_seconds"].samples;
        let of = |suffix: &str| -> Vec<(Option<String>, f64)> {
            let name = format!("weir_request_duration_seconds{suffix}");
            let web = samples.iter().filter(|(is, labels, _)| *is == name && labels["service"] == "web");
            web.map(|(_, labels, value)| (labels.get("le").cloned(), *value)).collect()
        };
        let buckets = of("_bucket");
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1));
        assert_eq!(buckets.len(), 16);
        assert_eq!(buckets[0], (Some("0.001".to_owned()), 2.0));
        assert_eq!(buckets[15], (Some("+Inf".to_owned()), 4.0));
        assert_eq!(buckets[9].0.as_deref(), Some(if format == Format::Text { "1" } else { "1.0" }));
        assert_eq!((of("_count")[0].1, of("_sum")[0].1), (4.0, 4.0018));
    }
}

#[test]
fn the_format_is_what_the_client_prefers() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, format) in [
        (prometheus, Format::OpenMetrics),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("application/openmetrics-text; version=0.0.1", Format::Text),
        ("application/openmetrics-text;q=0.1, text/plain", Format::Text),
        ("application/openmetrics-text;q=0", Format::Text),
        ("text/html,*/*", Format::Text),
        ("", Format::Text),
    ] {
        assert_eq!(Format::accepted(accept), format, "{accept}");
    }
}
