//! What is served, as JSON: for the admin API and for `weir explain` on a folder, which so show the same.
//!
//! Reads a snapshot; decides nothing. Lists are sorted, so that two answers can be compared.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::sources::Question;
use crate::model::{Bind, PathMatch, Protocol, Route, StreamMode, Target, ValueMatch, ValueTest, WeightedBackend};
use crate::proxy::backend::Backend;
use crate::proxy::fault::Fault;
use crate::proxy::snapshot::{CompiledStream, Snapshot, explain as explain_head, explain_stream};
use crate::proxy::wire::RequestHead;
use crate::proxy::wire::parse::{self, HeadLimits};

/// Every way to reach a rule: one item for each match at each host of each listener.
pub fn routes(snapshot: &Snapshot) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for (bind, entry) in &snapshot.entries {
        let mut tables: Vec<_> = entry.host_tables().collect();
        tables.sort_by(|one, other| one.pattern.cmp(&other.pattern));
        for table in tables {
            let host = table.pattern.to_string();
            items.extend(table.routes().map(|route| route_item(&bind.to_string(), &host, route)));
        }
        let mut streams: Vec<_> = entry.streams().collect();
        streams.sort_by(|one, other| one.host.cmp(&other.host));
        items.extend(streams.into_iter().map(|stream| stream_item(*bind, entry.protocol, stream)));
    }
    json!({ "generation": snapshot.generation, "items": items })
}

fn route_item(listener: &str, host: &str, route: &Route) -> Value {
    let (kind, path) = match &route.matches.path {
        PathMatch::Exact(path) => ("exact", path),
        PathMatch::Prefix(path) => ("prefix", path),
        PathMatch::Regex(path) => ("regex", path),
    };
    json!({
        "listener": listener,
        "host": host,
        "path": &**path,
        "pathKind": kind,
        "method": route.matches.method.as_deref(),
        "headers": route.matches.headers.iter().map(condition).collect::<Vec<_>>(),
        "query": route.matches.query.iter().map(condition).collect::<Vec<_>>(),
        "route": &*route.rule.name,
        "source": route.rank.source.to_string(),
        "rule": route.rank.rule,
        "filters": route.rule.filters.len(),
        "backends": shares(&route.rule.backends),
    })
}

/// As a route without anything that only requests have.
fn stream_item(listener: Bind, protocol: Protocol, stream: &CompiledStream) -> Value {
    let kind = match (protocol, stream.mode) {
        (Protocol::Udp, _) => "udp",
        (Protocol::Tcp, _) => "tcp",
        (_, StreamMode::Passthrough) => "tls passthrough",
        (_, StreamMode::Terminate) => "tls terminate",
    };
    json!({
        "listener": listener.to_string(),
        "host": stream.host.to_string(),
        "path": null,
        "pathKind": kind,
        "method": null,
        "headers": [],
        "query": [],
        "route": &*stream.rule.name,
        "source": stream.rule.source.source.to_string(),
        "rule": null,
        "filters": 0,
        "backends": shares(&stream.rule.source.backends),
    })
}

fn condition(condition: &ValueMatch) -> String {
    match &condition.test {
        ValueTest::Exact(value) => format!("{}={value}", condition.name),
        ValueTest::Regex(value) => format!("{}~{value}", condition.name),
    }
}

fn shares(backends: &[WeightedBackend]) -> Vec<String> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let share = |backend: &WeightedBackend| {
        let mut text = match &backend.target {
            Target::Backend(key) => key.to_string(),
            Target::Invalid { .. } => "invalid".to_owned(),
        };
        if backends.len() > 1 {
            let percent = if total == 0 { 0.0 } else { f64::from(backend.weight) * 100.0 / total as f64 };
            // Writing to a String cannot fail.
            let _ = write!(text, " {percent:.0}%");
        }
        text
    };
    backends.iter().map(share).collect()
}

/// Every color of every backend, with its endpoints at `now` (nanoseconds of the process clock).
pub fn backends(backends: &[Arc<Backend>], now: u64) -> Value {
    let mut sorted: Vec<&Arc<Backend>> = backends.iter().collect();
    sorted.sort_by(|one, other| one.key.cmp(&other.key));
    let items: Vec<Value> = sorted.into_iter().flat_map(|backend| colors(backend, now)).collect();
    json!({ "items": items })
}

fn colors(backend: &Backend, now: u64) -> Vec<Value> {
    let effective = backend.effective().map(|color| color.id);
    let color = |color: &Arc<crate::proxy::backend::Color>| {
        let set = color.endpoints.load();
        let endpoints: Vec<Value> = set
            .members
            .iter()
            .map(|(endpoint, condition)| {
                json!({
                    "address": endpoint.address.to_string(),
                    "pod": endpoint.pod.as_deref(),
                    "condition": condition,
                    "healthy": endpoint.is_healthy(),
                    "ejected": endpoint.is_ejected(now),
                    "inFlight": endpoint.in_flight.load(Ordering::Relaxed),
                })
            })
            .collect();
        let usable = |member: &&(Arc<crate::proxy::backend::Endpoint>, crate::model::Condition)| {
            member.1 == crate::model::Condition::Ready && member.0.is_usable(now)
        };
        json!({
            "service": backend.key.service.to_string(),
            "port": backend.key.port,
            "color": &*color.name,
            "effective": effective == Some(color.id),
            "usable": set.members.iter().filter(usable).count(),
            "total": set.members.len(),
            "endpoints": endpoints,
        })
    };
    backend.colors.iter().map(color).collect()
}

/// Which route, color and endpoints would serve a request, or take a connection or a session, by the code that serves. Of
/// several sockets at one port the first that serves it answers, else the first.
///
/// # Errors
/// When the question is no request, in words for its author.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Value, String> {
    let asked = Asked::of(question)?;
    let sockets = asked.sockets(snapshot);
    let mut answer = Value::Null;
    for bind in &sockets {
        let this = asked.explain(snapshot, *bind).map_err(|error| error.to_string())?;
        let serves = !this["chosen"].is_null();
        if serves || answer.is_null() {
            answer = this;
        }
        if serves {
            break;
        }
    }
    let others = sockets.iter().map(ToString::to_string).filter(|bind| answer["bind"] != **bind);
    let others: Vec<String> = others.collect();
    answer["others"] = json!(others);
    Ok(answer)
}

/// A question that makes sense.
struct Asked {
    scheme: Scheme,
    /// As in the URL: lower-case, no port.
    host: String,
    port: u16,
    at: Option<IpAddr>,
    /// Of a request.
    head: Option<RequestHead>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Tls,
    Tcp,
    Udp,
}

impl Asked {
    fn of(question: &Question) -> Result<Self, String> {
        let url: http::Uri =
            question.url.parse().map_err(|error| format!("{:?} is not a URL: {error}", question.url))?;
        let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(format!("{:?} is not an absolute URL; write http://host/path", question.url));
        };
        let (scheme, usual) = match scheme {
            "http" => (Scheme::Http, Some(80)),
            "https" => (Scheme::Https, Some(443)),
            "tls" => (Scheme::Tls, Some(443)),
            "tcp" => (Scheme::Tcp, None),
            "udp" => (Scheme::Udp, None),
            other => {
                return Err(format!("{other:?} is not a scheme that is served; write http, https, tls, tcp or udp"));
            }
        };
        let Some(port) = url.port_u16().or(usual) else {
            return Err(format!(
                "{:?} has no port; write {}://HOST:PORT",
                question.url,
                url.scheme_str().unwrap_or("")
            ));
        };
        let head = match scheme {
            Scheme::Http | Scheme::Https => {
                let target = url.path_and_query().map_or("/", |path| path.as_str());
                Some(head(question, authority.as_str(), target)?)
            }
            Scheme::Tls | Scheme::Tcp | Scheme::Udp if !question.headers.is_empty() || url.path().len() > 1 => {
                return Err(format!("{:?} is no request: it has no path and no headers", question.url));
            }
            Scheme::Tls | Scheme::Tcp | Scheme::Udp => None,
        };
        let host = authority.host().to_ascii_lowercase();
        Ok(Self { scheme, host, port, at: question.at, head })
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.trim_matches(['[', ']']).parse().ok()
    }

    /// Where it may arrive: at the address that it names, else at what the settings serve for all addresses, else at that of
    /// any Gateway. Not empty.
    fn sockets(&self, snapshot: &Snapshot) -> Vec<Bind> {
        let (mut exact, mut shared, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for bind in snapshot.entries.keys() {
            let address = match bind {
                Bind::Port(port) if self.scheme != Scheme::Udp && *port == self.port => None,
                Bind::UdpPort(port) if self.scheme == Scheme::Udp && *port == self.port => None,
                Bind::Address(address) if self.scheme != Scheme::Udp => Some(*address),
                Bind::UdpAddress(address) if self.scheme == Scheme::Udp => Some(*address),
                _ => continue,
            };
            match address {
                None => shared.push(*bind),
                Some(address) if address.port() != self.port => {}
                Some(address) if self.at.or_else(|| self.ip()) == Some(address.ip()) => exact.push(*bind),
                Some(_) => others.push(*bind),
            }
        }
        if !exact.is_empty() {
            return exact;
        }
        if self.at.is_none() {
            shared.append(&mut others);
        }
        let usual = match self.scheme {
            Scheme::Http => Bind::Http,
            Scheme::Https | Scheme::Tls => Bind::Https,
            Scheme::Tcp => Bind::Port(self.port),
            Scheme::Udp => Bind::UdpPort(self.port),
        };
        if shared.is_empty() || snapshot.entries.contains_key(&usual) && !shared.contains(&usual) {
            shared.push(usual);
        }
        shared
    }

    fn explain(&self, snapshot: &Snapshot, bind: Bind) -> serde_json::Result<Value> {
        // What the handshake names is never an address (RFC 6066 section 3).
        let has_name = self.ip().is_none() && matches!(self.scheme, Scheme::Https | Scheme::Tls);
        let stream = explain_stream(snapshot, bind, has_name.then_some(&*self.host));
        match &self.head {
            // Nothing is served, or it comes to requests, or the handshake already ends it.
            Some(head) if stream.speaks.is_none() || stream.http => {
                serde_json::to_value(explain_head(snapshot, bind, head))
            }
            _ => serde_json::to_value(stream),
        }
    }
}

/// The head as a client would send it, read by the very parser of the listeners.
fn head(question: &Question, authority: &str, target: &str) -> Result<RequestHead, String> {
    let mut text = format!("{} {target} HTTP/1.1\r\n", question.method);
    let asked = question.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !asked {
        let _ = write!(text, "Host: {authority}\r\n");
    }
    for (name, value) in &question.headers {
        if name.contains(['\r', '\n']) || value.contains(['\r', '\n']) {
            return Err(format!("header {name:?} has a line break"));
        }
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("\r\n");
    let mut head = RequestHead::default();
    let refused = |fault: Fault| format!("such a request is refused with {} ({})", fault.status(), fault.code());
    match parse::request(text.as_bytes(), &HeadLimits::default(), &mut head).map_err(refused)? {
        Some(_) => Ok(head),
        None => Err("such a request never ends".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(method: &str, url: &str, headers: &[(&str, &str)]) -> Question {
        Question {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            at: None,
        }
    }

    #[test]
    fn a_question_that_is_no_request_is_refused_in_words() {
        let snapshot = Snapshot::default();
        for (bad, words) in [
            (question("GET", "/path", &[]), "absolute URL"),
            (question("GET", "ftp://a/", &[]), "scheme"),
            (question("G T", "http://a/", &[]), "400"),
            (question("CONNECT", "http://a/", &[]), "405"),
            (question("GET", "http://a/", &[("x", "1\r\ny: 2")]), "line break"),
            (question("GET", "http://a/", &[("host", "a"), ("host", "b")]), "400"),
            (question("GET", "tcp://a", &[]), "tcp://HOST:PORT"),
            (question("GET", "tls://a:1/path", &[]), "no path"),
            (question("GET", "udp://a:1", &[("a", "b")]), "no headers"),
        ] {
            let error = explain(&snapshot, &bad).unwrap_err();
            assert!(error.contains(words), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_socket_that_serves_nothing_says_so() {
        let answer = explain(&Snapshot::default(), &question("GET", "http://a.test:8080/x?y=1", &[])).unwrap();
        assert_eq!(
            (&answer["served"], &answer["host"], &answer["path"]),
            (&json!(false), &json!("a.test"), &json!("/x"))
        );
        assert_eq!(answer["chosen"], Value::Null);
    }
}
