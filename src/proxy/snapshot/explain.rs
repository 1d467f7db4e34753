//! Says which route would serve a request, a connection or a session of datagrams, and why the others would not: by the
//! very code that serves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::model::{Bind, Condition, ObjectRef, Protocol, Route, RouteMatch, StreamMode, Target};
use crate::proxy::backend::{Backend, Color};
use crate::proxy::wire::RequestHead;

use super::boundaries::precision;
use super::matcher::{Candidate, Facts, HostTable, Mismatch};
use super::{CompiledRule, CompiledStream, Dispatch, EntryTable, Share, Snapshot};

/// How a request would be decided.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Explanation {
    /// Generation of the snapshot that was asked.
    pub generation: u64,
    /// The socket.
    pub bind: String,
    /// The host that was looked for: lower-case, no port.
    pub host: String,
    /// The path that was looked for, normalised.
    pub path: String,
    /// Whether anything is served at the socket.
    pub served: bool,
    /// Host patterns that match, in the order in which they are looked at, up to the one that decides.
    pub hosts: Vec<ExplainedHost>,
    /// What serves the request; `None`: 404.
    pub chosen: Option<Chosen>,
    /// The certificate of a connection to this host; `None`: none, or not TLS.
    pub certificate: Option<ExplainedCertificate>,
}

/// A host pattern and its routes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedHost {
    /// The pattern.
    pub pattern: String,
    /// Its routes in order of precedence.
    pub routes: Vec<ExplainedRoute>,
}

/// A route and what it says to the request.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedRoute {
    /// The object.
    pub source: ObjectRef,
    /// Index of the rule in the object.
    pub rule: u32,
    /// Index of the match in the rule.
    pub index: u32,
    /// What a request must look like.
    pub matches: RouteMatch,
    /// What it says.
    pub result: MatchResult,
}

/// What a route says to a request.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MatchResult {
    /// It serves the request.
    Chosen,
    /// It would match, but another one has precedence.
    Outranked,
    /// The path is another.
    Path,
    /// The method is another.
    Method,
    /// This header is missing or has another value.
    Header(String),
    /// This query parameter is missing or has another value.
    Query(String),
}

/// The rule that serves a request.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Chosen {
    /// Value of the metric label `route`.
    pub route: String,
    /// The object.
    pub source: ObjectRef,
    /// The host pattern.
    pub host: String,
    /// The part of the path that a prefix edit would replace.
    pub matched_path: String,
    /// Number of filters.
    pub filters: usize,
    /// Where the traffic goes.
    pub shares: Vec<ExplainedShare>,
}

/// A share of a rule's traffic.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedShare {
    /// Part of the rule's requests, 0–100 %.
    pub percent: f64,
    /// The backend; `None`: answered with 500.
    pub backend: Option<String>,
    /// Why there is no backend.
    pub problem: Option<String>,
    /// The colors of the backend; one with an empty name when it has none.
    pub colors: Vec<ExplainedColor>,
}

/// A color of a backend.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedColor {
    /// The name.
    pub name: String,
    /// Whether requests without a preview go there.
    pub effective: bool,
    /// The endpoints.
    pub endpoints: Vec<ExplainedEndpoint>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedEndpoint {
    /// Address and port.
    pub address: String,
    /// The pod, if it is one.
    pub pod: Option<String>,
    /// What the provider says of it.
    pub condition: Condition,
    /// Attempts in flight.
    pub in_flight: u32,
}

/// A certificate.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedCertificate {
    /// The server names it is presented for.
    pub host: String,
    /// The Secret.
    pub secret: String,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
}

/// How a connection that is not HTTP, or a session of datagrams, would be decided.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StreamExplanation {
    /// Generation of the snapshot that was asked.
    pub generation: u64,
    /// The socket.
    pub bind: String,
    /// What is spoken there; `None`: nothing is served.
    pub speaks: Option<Protocol>,
    /// The name that was looked for, where the handshake of TLS names one: lower-case.
    pub server_name: Option<String>,
    /// Streams whose name matches, in the order in which they are looked at.
    pub streams: Vec<ExplainedStream>,
    /// Where it goes; `None`: it is closed, or for HTTP.
    pub chosen: Option<ChosenStream>,
    /// Whether requests are expected in it.
    pub http: bool,
    /// The certificate that is shown, where TLS ends here.
    pub certificate: Option<ExplainedCertificate>,
}

/// A stream and what it says to a server name.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExplainedStream {
    /// The server names.
    pub pattern: String,
    /// The object.
    pub source: ObjectRef,
    /// What it says.
    pub result: StreamResult,
}

/// What a stream says to a server name that it matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamResult {
    /// It takes the connection.
    Chosen,
    /// It would, but a more precise name has precedence.
    Outranked,
    /// The name belongs to another listener of the socket.
    OtherListener,
}

/// The stream that takes a connection.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ChosenStream {
    /// Value of the metric label `route`.
    pub route: String,
    /// The object.
    pub source: ObjectRef,
    /// The server names.
    pub host: String,
    /// Who ends TLS; `None`: there is none that would be known of.
    pub mode: Option<StreamMode>,
    /// Where the traffic goes.
    pub shares: Vec<ExplainedShare>,
}

/// Explains what a connection with this server name (lower-case), or one without any, or a session of datagrams, would meet
/// at a socket.
pub fn explain_stream(snapshot: &Snapshot, bind: Bind, server_name: Option<&str>) -> StreamExplanation {
    let mut explanation = StreamExplanation {
        generation: snapshot.generation,
        bind: bind.to_string(),
        speaks: None,
        server_name: None,
        streams: Vec::new(),
        chosen: None,
        http: false,
        certificate: None,
    };
    let Some(entry) = snapshot.entries.get(&bind) else { return explanation };
    explanation.speaks = Some(entry.protocol);
    let chosen = match entry.protocol {
        Protocol::Http => {
            explanation.http = true;
            return explanation;
        }
        Protocol::Tcp | Protocol::Udp => entry.stream().cloned(),
        Protocol::Https => {
            explanation.server_name = server_name.map(str::to_owned);
            let dispatch = entry.dispatch(server_name);
            explanation.http = matches!(dispatch, Dispatch::Http);
            match dispatch {
                Dispatch::Stream(stream) => Some(stream),
                Dispatch::Http | Dispatch::Nobody => None,
            }
        }
    };
    let is_chosen = |stream: &Arc<CompiledStream>| chosen.as_ref().is_some_and(|chosen| Arc::ptr_eq(chosen, stream));
    explanation.streams = entry
        .considered_streams(explanation.server_name.as_deref())
        .into_iter()
        .map(|(stream, is_within)| ExplainedStream {
            pattern: stream.host.to_string(),
            source: stream.rule.source.source.clone(),
            result: match is_within {
                _ if is_chosen(stream) => StreamResult::Chosen,
                true => StreamResult::Outranked,
                false => StreamResult::OtherListener,
            },
        })
        .collect();
    let ends_here = |stream: &Arc<CompiledStream>| stream.mode == StreamMode::Terminate;
    if explanation.http || chosen.as_ref().is_some_and(ends_here) {
        explanation.certificate = explain_certificate(entry, explanation.server_name.as_deref());
    }
    explanation.chosen = chosen.map(|stream| ChosenStream {
        route: stream.rule.name.to_string(),
        source: stream.rule.source.source.clone(),
        host: stream.host.to_string(),
        mode: (entry.protocol == Protocol::Https).then_some(stream.mode),
        shares: explain_shares(&stream.rule),
    });
    explanation
}

fn explain_certificate(entry: &EntryTable, server_name: Option<&str>) -> Option<ExplainedCertificate> {
    entry.certificates.select(server_name).map(|binding| ExplainedCertificate {
        host: binding.host.to_string(),
        secret: binding.certificate.secret.to_string(),
        not_after: binding.certificate.not_after,
    })
}

/// Explains what a request with this head would meet at a socket.
pub fn explain(snapshot: &Snapshot, bind: Bind, head: &RequestHead) -> Explanation {
    let mut explanation = Explanation {
        generation: snapshot.generation,
        bind: bind.to_string(),
        host: head.host().to_owned(),
        path: head.path().to_owned(),
        served: false,
        hosts: Vec::new(),
        chosen: None,
        certificate: None,
    };
    let Some(entry) = snapshot.entries.get(&bind) else { return explanation };
    explanation.served = true;
    explanation.certificate = explain_certificate(entry, Some(head.host()));
    let facts = Facts::of(head);
    let chosen = entry.find(head);
    let least = entry.boundaries.as_ref().map_or(0, |boundaries| boundaries.precision(head.host()));
    entry.hosts.each(head.host(), |table| {
        if precision(&table.pattern) < least {
            return None;
        }
        let here = chosen.as_ref().filter(|chosen| std::ptr::eq(chosen.host, &table.pattern));
        explanation.hosts.push(explain_host(table, &facts, here.map(|chosen| chosen.route)));
        here.map(|_| ())
    });
    explanation.chosen = chosen.map(|matched| Chosen {
        route: matched.rule.name.to_string(),
        source: matched.rule.source.source.clone(),
        host: matched.host.to_string(),
        matched_path: head.path().get(..matched.prefix).unwrap_or_default().to_owned(),
        filters: matched.rule.filters.len(),
        shares: explain_shares(matched.rule),
    });
    explanation
}

fn explain_host(table: &HostTable, facts: &Facts<'_>, chosen: Option<&Arc<Route>>) -> ExplainedHost {
    let result = |candidate: &Candidate| {
        let matches = &candidate.route.matches;
        match candidate.mismatch(facts) {
            None if chosen.is_some_and(|route| Arc::ptr_eq(route, &candidate.route)) => MatchResult::Chosen,
            None => MatchResult::Outranked,
            Some(Mismatch::Path) => MatchResult::Path,
            Some(Mismatch::Method) => MatchResult::Method,
            Some(Mismatch::Header(index)) => MatchResult::Header(matches.headers[index].name.to_string()),
            Some(Mismatch::Query(index)) => MatchResult::Query(matches.query[index].name.to_string()),
        }
    };
    let routes = table.candidates().iter().map(|candidate| ExplainedRoute {
        source: candidate.route.rank.source.clone(),
        rule: candidate.route.rank.rule,
        index: candidate.route.rank.index,
        matches: candidate.route.matches.clone(),
        result: result(candidate),
    });
    ExplainedHost { pattern: table.pattern.to_string(), routes: routes.collect() }
}

fn explain_shares(rule: &CompiledRule) -> Vec<ExplainedShare> {
    (0..rule.shares.len()).map(|at| explain_share(rule, at)).collect()
}

fn explain_share(rule: &CompiledRule, at: usize) -> ExplainedShare {
    let Share { weight, backend, .. } = &rule.shares[at];
    let problem = match &rule.source.backends[at].target {
        Target::Invalid { why } => Some(why.to_string()),
        Target::Backend(key) if backend.is_none() => Some(format!("backend {key} does not exist")),
        Target::Backend(_) => None,
    };
    ExplainedShare {
        percent: if rule.total_weight == 0 { 0.0 } else { f64::from(*weight) * 100.0 / rule.total_weight as f64 },
        backend: backend.as_ref().map(|backend| backend.key.to_string()),
        problem,
        colors: backend
            .iter()
            .flat_map(|backend| backend.colors.iter().map(|color| explain_color(backend, color)))
            .collect(),
    }
}

fn explain_color(backend: &Backend, color: &Color) -> ExplainedColor {
    let endpoints = color.endpoints.load();
    ExplainedColor {
        name: color.name.to_string(),
        effective: backend.effective().is_some_and(|effective| effective.id == color.id),
        endpoints: endpoints
            .members
            .iter()
            .map(|(endpoint, condition)| ExplainedEndpoint {
                address: endpoint.address.to_string(),
                pod: endpoint.pod.as_deref().map(str::to_owned),
                condition: *condition,
                in_flight: endpoint.in_flight.load(Ordering::Relaxed),
            })
            .collect(),
    }
}
