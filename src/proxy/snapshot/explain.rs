//! Says which route would serve a request, and why the others would not: by the very code that serves.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::model::{Bind, Condition, ObjectRef, Route, RouteMatch, Target};
use crate::proxy::backend::{Backend, Color};
use crate::proxy::wire::RequestHead;

use super::boundaries::precision;
use super::matcher::{Candidate, Facts, HostTable, Mismatch};
use super::{CompiledRule, Share, Snapshot};

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
    explanation.certificate = entry.certificates.select(Some(head.host())).map(|binding| ExplainedCertificate {
        host: binding.host.to_string(),
        secret: binding.certificate.secret.to_string(),
        not_after: binding.certificate.not_after,
    });
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
        shares: matched.rule.shares.iter().enumerate().map(|(at, _)| explain_share(matched.rule, at)).collect(),
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
