//! Pairs of manifests and what they come to: `NAME.in.yaml` is translated, the model and the verdicts must be
//! `NAME.out.yaml`. `WEIR_BLESS=1 cargo test --test golden` writes the outputs anew; read the difference before keeping it.
//!
//! In an input, `${certificate HOST}` and `${key HOST}` stand for a certificate made for the run.

#![allow(clippy::unwrap_used, reason = "a test may unwrap: that is how it fails")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use weir::control::provider::manifest;
use weir::control::translate::{Change, Objects, Options, Translation, Translator};
use weir::model::{
    Backend, Claim, Condition, EndpointSource, Entry, GatewayAddress, Infrastructure, ListenerStatus, PathMatch, Route,
    Rule, Severity, Status, Target, UpstreamProtocol, ValueMatch, ValueTest,
};

#[test]
fn manifests_come_to_the_written_model_and_verdicts() {
    let bless = std::env::var_os("WEIR_BLESS").is_some();
    let mut certificates = Certificates::default();
    let mut wrong = Vec::new();
    let inputs = inputs();
    assert!(inputs.len() >= 25, "only {} pairs were found", inputs.len());
    for input in inputs {
        let text = certificates.fill_in(&std::fs::read_to_string(&input).unwrap());
        let mut objects = Objects::default();
        let parsed = manifest::parse(&Arc::from(input.as_path()), &text);
        assert!(parsed.problems.is_empty(), "{}: {:?}", input.display(), parsed.problems);
        for located in parsed.objects {
            objects.apply(Change::Put(located.object));
        }
        let mut translator = Translator::new(Options::default());
        let translation = translator.translate(&objects);
        let actual = render(&translation);
        let again = render(&translator.translate(&objects));
        assert_eq!(actual, again, "{}: a second look at the same objects must not differ", input.display());
        let output = PathBuf::from(input.to_str().unwrap().replace(".in.yaml", ".out.yaml"));
        if bless {
            std::fs::write(&output, &actual).unwrap();
        } else if std::fs::read_to_string(&output).unwrap_or_default() != actual {
            wrong.push(format!("--- {}\n{actual}", output.display()));
        }
    }
    assert!(wrong.is_empty(), "these came out otherwise (WEIR_BLESS=1 accepts):\n{}", wrong.join("\n"));
}

#[test]
fn bad_input_of_every_sort_is_told_with_a_way_out() {
    let mut messages = std::collections::BTreeSet::new();
    let mut reasons = std::collections::BTreeSet::new();
    let mut certificates = Certificates::default();
    for input in inputs() {
        let text = certificates.fill_in(&std::fs::read_to_string(&input).unwrap());
        let mut objects = Objects::default();
        for located in manifest::parse(&Arc::from(input.as_path()), &text).objects {
            objects.apply(Change::Put(located.object));
        }
        for verdict in Translator::new(Options::default()).translate(&objects).verdicts.iter() {
            assert!(!verdict.problem.is_empty() && !verdict.fix.is_empty(), "{verdict}");
            assert!(verdict.problem.len() < 400, "{verdict}");
            if verdict.severity != Severity::Note {
                reasons.insert(verdict.reason);
                messages.insert((verdict.object.clone(), verdict.field.clone()));
            }
        }
    }
    assert!(messages.len() >= 30 && reasons.len() >= 30, "{} findings, {reasons:?}", messages.len());
}

fn inputs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut inputs: Vec<PathBuf> = files.filter(|path| path.to_string_lossy().ends_with(".in.yaml")).collect();
    inputs.sort();
    inputs
}

#[derive(Default)]
struct Certificates(BTreeMap<String, (String, String)>);

impl Certificates {
    fn fill_in(&mut self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (what, after) = after.split_once('}').unwrap();
            let (sort, host) = what.split_once(' ').unwrap();
            let (certificate, key) = self.0.entry(host.to_owned()).or_insert_with(|| {
                let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
                (made.cert.pem(), made.signing_key.serialize_pem())
            });
            let pem = if sort == "certificate" { certificate } else { key };
            filled += before;
            filled += &serde_json::to_string(pem).unwrap();
            rest = after;
        }
        filled + rest
    }
}

fn render(translation: &Translation) -> String {
    let model = &translation.model;
    let entries: Map<_, _> = model.entries.iter().map(|(bind, it)| (bind.to_string(), entry(it))).collect();
    let backends: Map<_, _> = model.backends.iter().map(|(key, it)| (key.to_string(), backend(it))).collect();
    let switches: Map<_, _> = model
        .switches
        .iter()
        .map(|(name, switch)| {
            let mut value = serde_json::to_value(&**switch).unwrap();
            // A hash of what is written: it says nothing to a reader.
            value.as_object_mut().unwrap().remove("version");
            value["service"] = json!(switch.service.to_string());
            let colors: Vec<_> = switch.colors.iter().map(|(color, child)| format!("{color}={child}")).collect();
            value["colors"] = json!(colors);
            (name.to_string(), without_nulls(value))
        })
        .collect();
    let verdicts: Vec<String> = translation.verdicts.iter().map(ToString::to_string).collect();
    let mut all = Map::new();
    for (name, part) in [("entries", entries), ("backends", backends), ("switches", switches)] {
        if !part.is_empty() {
            all.insert(name.to_owned(), Value::Object(part));
        }
    }
    let statuses: BTreeMap<_, _> = translation.statuses.iter().map(|(it, status)| (it.clone(), status)).collect();
    let empty = |status: &Status| matches!(status, Status::Ingress { addresses } if addresses.is_empty());
    let statuses = statuses.into_iter().filter(|(_, written)| !empty(&written.status));
    let statuses: Map<_, _> = statuses.map(|(it, written)| (it.to_string(), status(&written.status))).collect();
    if !statuses.is_empty() {
        all.insert("statuses".to_owned(), Value::Object(statuses));
    }
    all.insert("verdicts".to_owned(), json!(verdicts));
    let mut text = String::new();
    write_yaml(&mut text, &Value::Object(all), 0);
    text
}

/// A status in few lines. What holds for the reason of its own name is shown by that name.
fn status(status: &Status) -> Value {
    let claims = |claims: &[Claim]| {
        let shown = claims.iter().map(|claim| match (claim.holds, claim.reason == claim.kind) {
            (true, true) => claim.kind.to_owned(),
            (holds, _) => format!("{}{}={}", if holds { "" } else { "not " }, claim.kind, claim.reason),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    let listener = |listener: &ListenerStatus| {
        let kinds: Vec<_> = listener.kinds.iter().map(|kind| kind.name()).collect();
        let text = format!("{} of {}; {}", listener.attached, kinds.join(" "), claims(&listener.conditions));
        (listener.name.to_string(), json!(text))
    };
    let addresses = |addresses: &[GatewayAddress]| {
        let shown = addresses.iter().map(|address| match address {
            GatewayAddress::Ip(ip) => ip.to_string(),
            GatewayAddress::Host(host) => host.to_string(),
        });
        shown.collect::<Vec<_>>().join(", ")
    };
    match status {
        Status::Class { conditions, features } => {
            json!({ "conditions": claims(conditions), "features": features.len() })
        }
        Status::Gateway { conditions, addresses: at, listeners, attached_sets, infrastructure } => {
            let listeners: Map<_, _> = listeners.iter().map(listener).collect();
            let mut value = json!({ "conditions": claims(conditions), "listeners": listeners });
            if !at.is_empty() {
                value["addresses"] = json!(addresses(at));
            }
            if *attached_sets > 0 {
                value["attached sets"] = json!(attached_sets);
            }
            if *infrastructure != Infrastructure::default() {
                value["infrastructure"] =
                    json!(format!("{:?} {:?}", infrastructure.labels, infrastructure.annotations));
            }
            value
        }
        Status::ListenerSet { conditions, listeners } => {
            let listeners: Map<_, _> = listeners.iter().map(listener).collect();
            json!({ "conditions": claims(conditions), "listeners": listeners })
        }
        Status::Route { parents } | Status::Policy { ancestors: parents } => parents
            .iter()
            .map(|parent| {
                let at = &parent.parent;
                let kind = at.kind.as_deref().unwrap_or("Gateway");
                let mut text = format!("{kind} ");
                if let Some(namespace) = &at.namespace {
                    write!(text, "{namespace}/").unwrap();
                }
                text += &at.name;
                if let Some(section) = &at.section {
                    write!(text, " {section}").unwrap();
                }
                if let Some(port) = at.port {
                    write!(text, " at {port}").unwrap();
                }
                json!(format!("{text}; {}", claims(&parent.conditions)))
            })
            .collect(),
        Status::Ingress { addresses: at } => json!({ "addresses": addresses(at) }),
    }
}

fn entry(entry: &Entry) -> Value {
    let certificates: Vec<_> = entry
        .certificates
        .iter()
        .map(|binding| format!("{}: Secret {}", binding.host, binding.certificate.secret))
        .collect();
    let hosts: Map<_, _> = entry
        .hosts
        .iter()
        .map(|(host, routes)| (host.to_string(), routes.iter().map(|it| route(it)).collect()))
        .collect();
    let mut value = json!({ "protocol": format!("{:?}", entry.protocol), "hosts": hosts });
    if !certificates.is_empty() {
        value["certificates"] = json!(certificates);
    }
    if !entry.boundaries.is_empty() {
        value["boundaries"] = entry.boundaries.iter().map(ToString::to_string).collect();
    }
    if let Some(clients) = &entry.client_certificates {
        value["client certificates"] = json!(if clients.optional { "optional" } else { "required" });
    }
    value
}

fn route(route: &Route) -> Value {
    let matches = &route.matches;
    let mut text = match &matches.path {
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) => format!("below {path}"),
        PathMatch::Regex(regex) => format!("like {regex}"),
    };
    if let Some(method) = &matches.method {
        text = format!("{method} {text}");
    }
    let conditions = |text: &mut String, name: &str, list: &[ValueMatch]| {
        for condition in list {
            let (sign, value) = match &condition.test {
                ValueTest::Exact(value) => ("=", value),
                ValueTest::Regex(regex) => ("~", regex),
            };
            write!(text, ", {name} {}{sign}{value}", condition.name).unwrap();
        }
    };
    conditions(&mut text, "header", &matches.headers);
    conditions(&mut text, "query", &matches.query);
    let rank = &route.rank;
    let mut value = json!({ "match": text, "by": format!("{} [{}.{}]", route.rule.name, rank.rule, rank.index) });
    rule(&route.rule, &mut value);
    value
}

fn rule(rule: &Rule, value: &mut Value) {
    if !rule.filters.is_empty() {
        value["filters"] = without_nulls(serde_json::to_value(&rule.filters).unwrap());
    }
    let backends: Vec<Value> = rule
        .backends
        .iter()
        .map(|backend| {
            let text = match &backend.target {
                Target::Backend(key) => format!("{} x {key}", backend.weight),
                Target::Invalid { why } => format!("{} x 500, because {why}", backend.weight),
            };
            if backend.filters.is_empty() {
                json!(text)
            } else {
                json!({ "to": text, "filters": without_nulls(serde_json::to_value(&backend.filters).unwrap()) })
            }
        })
        .collect();
    value["to"] = json!(backends);
    for (name, timeout) in [("request", rule.timeouts.request), ("attempt", rule.timeouts.backend)] {
        if let Some(timeout) = timeout {
            value[format!("{name} timeout")] = json!(format!("{timeout:?}"));
        }
    }
}

fn backend(backend: &Backend) -> Value {
    let protocol = match &backend.protocol {
        UpstreamProtocol::Tls(tls) => {
            let roots = tls.ca_pem.as_ref().map_or("any certificate", |_| "own roots");
            format!("TLS, {roots}, name {}", tls.server_name.as_deref().unwrap_or("of the request"))
        }
        other => format!("{other:?}"),
    };
    let mut value = json!({ "protocol": protocol });
    let default = Backend {
        key: backend.key.clone(),
        protocol: UpstreamProtocol::default(),
        balance: Default::default(),
        health: None,
        outlier: Default::default(),
        limits: Default::default(),
        slow_start: Default::default(),
        empty_hold: Default::default(),
        colors: Vec::new(),
    };
    if backend.balance != default.balance {
        value["balance"] = json!(format!("{:?}", backend.balance));
    }
    if let Some(health) = &backend.health {
        value["health"] = json!(format!("{health:?}"));
    }
    if backend.outlier != default.outlier {
        value["outlier"] = json!(format!("{:?}", backend.outlier));
    }
    if backend.limits != default.limits {
        value["limits"] = json!(format!("{:?}", backend.limits));
    }
    for (name, duration) in [("slow start", backend.slow_start), ("empty hold", backend.empty_hold)] {
        if !duration.is_zero() {
            value[name] = json!(format!("{duration:?}"));
        }
    }
    let colors: Map<_, _> = backend
        .colors
        .iter()
        .map(|color| {
            let name = if color.color.is_empty() { "endpoints".to_owned() } else { format!("color {}", color.color) };
            let from = match &color.source {
                EndpointSource::Listed(listed) => listed
                    .iter()
                    .map(|endpoint| {
                        let mut text = endpoint.address.to_string();
                        if endpoint.condition != Condition::Ready {
                            write!(text, " {:?}", endpoint.condition).unwrap();
                        }
                        for (name, value) in [("pod", &endpoint.pod), ("zone", &endpoint.zone)] {
                            if let Some(value) = value {
                                write!(text, " {name} {value}").unwrap();
                            }
                        }
                        json!(text)
                    })
                    .collect(),
                EndpointSource::Name { host, port } => json!(format!("{host}:{port} by DNS")),
                EndpointSource::Missing { why } => json!(why),
            };
            (name, from)
        })
        .collect();
    value.as_object_mut().unwrap().extend(colors);
    value
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter().filter(|(_, it)| !it.is_null()).map(|(key, it)| (key, without_nulls(it))).collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// YAML with scalars in one line each, as people read it. What is nested deeper than a route is written as JSON.
fn write_yaml(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = if key.contains([':', '*']) { format!("'{key}'") } else { key.clone() };
                write_field(text, &format!("{indent}{key}:"), value, depth);
            }
        }
        Value::Array(list) => {
            for value in list {
                match value {
                    Value::Object(_) => {
                        let mut inner = String::new();
                        write_yaml(&mut inner, value, depth + 1);
                        // The dash stands in the place of the first field's indent.
                        let body = inner.strip_prefix(&*"  ".repeat(depth + 1)).unwrap_or(&inner);
                        *text += &format!("{indent}- {body}");
                    }
                    _ => write_field(text, &format!("{indent}-"), value, depth),
                }
            }
        }
        _ => {}
    }
}

fn write_field(text: &mut String, head: &str, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if map.is_empty() => writeln!(text, "{head} {{}}").unwrap(),
        Value::Array(list) if list.is_empty() => writeln!(text, "{head} []").unwrap(),
        Value::Object(_) | Value::Array(_) if head.ends_with("filters:") || depth > 6 => {
            writeln!(text, "{head} {value}").unwrap();
        }
        Value::Object(_) | Value::Array(_) => {
            writeln!(text, "{head}").unwrap();
            write_yaml(text, value, depth + 1);
        }
        other => writeln!(text, "{head} {other}").unwrap(),
    }
}
