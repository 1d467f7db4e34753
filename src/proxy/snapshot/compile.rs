//! From the model to a snapshot. What did not change is shared with the snapshot before, not built again.
//!
//! Runs on the control thread, under the control loop's hand alone. The cost of one changed route among ten thousand hosts
//! is that of the parts of the maps in which it stands: some dozens of hosts.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::model::{
    self, BackendKey, Bind, Entry, Filter, HostPattern, Model, Protocol, Route, Rule, Shards, Stream, StreamMode,
    Target, WeightedBackend,
};
use crate::proxy::policy::cors::Cors;
use crate::tls::Inside;

use super::boundaries::Boundaries;
use super::hosts::ByHost;
use super::live::Live;
use super::matcher::HostTable;
use super::streams::{CompiledStream, StreamTable};
use super::{CertificateTable, CompiledFilter, CompiledMirror, CompiledRule, EntryTable, Share, Snapshot};

/// Keys of backends.
pub(super) type BackendKeys = HashSet<BackendKey, RandomState>;

/// Makes the snapshot of a model. Brings `live` up to date on the way: endpoints and certificates are served from here on,
/// everything else when the result is published. `now` is nanoseconds of the process clock. The generation is that of
/// `previous` if nothing changed, else one more.
pub fn compile(model: &Model, live: &mut Live, previous: Option<&Snapshot>, now: u64) -> Snapshot {
    let replaced = live.set_backends(model, now);
    live.forget_rules_of(&replaced);
    let mut snapshot = Snapshot::default();
    for (bind, entry) in &model.entries {
        let before = previous.and_then(|snapshot| snapshot.entries.get(bind));
        snapshot.entries.insert(*bind, compile_entry(*bind, entry, live, before, &replaced));
    }
    live.forget_binds(&snapshot);
    live.sweep();
    let unchanged = previous.is_some_and(|previous| previous.serves_as(&snapshot));
    snapshot.generation = previous.map_or(0, |previous| previous.generation) + u64::from(!unchanged);
    snapshot
}

fn compile_entry(
    bind: Bind,
    entry: &Entry,
    live: &mut Live,
    before: Option<&Arc<EntryTable>>,
    replaced: &BackendKeys,
) -> Arc<EntryTable> {
    let hosts = compile_hosts(entry, live, before, replaced);
    let resolver = live.resolver(bind);
    let current = resolver.table();
    let certificates = if current.is_of(&entry.certificates) {
        Arc::clone(&current)
    } else {
        let table = Arc::new(CertificateTable::new(&entry.certificates, &mut live.keys, Some(&current)));
        resolver.store(table.clone());
        table
    };
    let tls = match entry.protocol {
        Protocol::Https => live.tls(bind, entry.client_certificates.as_ref(), Inside::Http),
        Protocol::Http | Protocol::Tcp | Protocol::Udp => None,
    };
    let terminates = entry.streams.iter().any(|stream| stream.mode == StreamMode::Terminate);
    let terminate = match entry.protocol {
        Protocol::Https if terminates => live.tls(bind, entry.client_certificates.as_ref(), Inside::Anything),
        _ => None,
    };
    if let Some(before) = before
        && before.protocol == entry.protocol
        && Arc::ptr_eq(&before.hosts, &hosts)
        && Arc::ptr_eq(&before.certificates, &certificates)
        && same(before.tls.as_ref(), tls.as_ref())
        && same(before.terminate(), terminate.as_ref())
        && same_boundaries(before, entry)
        && same_streams(before, entry, replaced)
    {
        return before.clone();
    }
    let boundaries = Boundaries::new(&entry.boundaries);
    let streams = (!entry.streams.is_empty()).then(|| {
        let compiled = |stream: &Stream| Arc::new(CompiledStream::new(stream, live.rule(&stream.rule)));
        Box::new(StreamTable::new(&entry.streams, terminate, boundaries.as_deref(), compiled))
    });
    Arc::new(EntryTable {
        protocol: entry.protocol,
        resolver,
        certificates,
        tls,
        verifies_clients: entry.client_certificates.is_some(),
        hosts,
        boundaries,
        streams,
        source: entry.hosts.clone(),
    })
}

fn same<T>(one: Option<&Arc<T>>, two: Option<&Arc<T>>) -> bool {
    match (one, two) {
        (Some(one), Some(two)) => Arc::ptr_eq(one, two),
        (None, None) => true,
        _ => false,
    }
}

fn same_boundaries(before: &EntryTable, entry: &Entry) -> bool {
    match &before.boundaries {
        Some(boundaries) => boundaries.source == entry.boundaries,
        None => entry.boundaries.is_empty(),
    }
}

fn same_streams(before: &EntryTable, entry: &Entry, replaced: &BackendKeys) -> bool {
    let Some(streams) = &before.streams else { return entry.streams.is_empty() };
    let is_stale = |stream: &Arc<CompiledStream>| targets(&stream.rule.source).any(|key| replaced.contains(key));
    streams.source == entry.streams && (replaced.is_empty() || !streams.values().any(is_stale))
}

/// The tables of all hosts. Those of the last time stay, but for hosts of which routes changed, and for those whose routes
/// lead to what was replaced.
fn compile_hosts(
    entry: &Entry,
    live: &mut Live,
    before: Option<&Arc<EntryTable>>,
    replaced: &BackendKeys,
) -> Arc<ByHost<Arc<HostTable>>> {
    let nothing = Shards::default();
    let differences =
        before.map_or(&nothing, |table| &table.source).differences(&entry.hosts, |one, two| same_routes(one, two));
    let mut again: Vec<(&HostPattern, Option<&Vec<Arc<Route>>>)> =
        differences.iter().map(|difference| (difference.key, difference.new)).collect();
    if let Some(before) = before
        && !replaced.is_empty()
    {
        let changed: HashSet<&HostPattern, RandomState> = again.iter().map(|(pattern, _)| *pattern).collect();
        let stale = before.hosts.values().filter(|table| uses(table, replaced) && !changed.contains(&table.pattern));
        again.extend(stale.map(|table| (&table.pattern, entry.hosts.get(&table.pattern))));
    }
    if let Some(before) = before
        && again.is_empty()
    {
        return before.hosts.clone();
    }
    let mut hosts = before.map_or_else(ByHost::default, |table| ByHost::clone(&table.hosts));
    for (pattern, routes) in again {
        match routes {
            Some(routes) => {
                let table = HostTable::new(pattern.clone(), routes, |rule| live.rule(rule));
                hosts.insert(pattern, Arc::new(table));
            }
            None => {
                hosts.remove(pattern);
            }
        }
    }
    Arc::new(hosts)
}

fn same_routes(one: &[Arc<Route>], two: &[Arc<Route>]) -> bool {
    one.len() == two.len() && one.iter().zip(two).all(|(one, two)| Arc::ptr_eq(one, two))
}

fn uses(table: &HostTable, replaced: &BackendKeys) -> bool {
    table.candidates().iter().any(|candidate| targets(&candidate.rule.source).any(|key| replaced.contains(key)))
}

/// Every backend that a rule sends anything to.
pub(super) fn targets(rule: &Rule) -> impl Iterator<Item = &BackendKey> {
    fn mirrored(filter: &Filter) -> Option<&Target> {
        match filter {
            Filter::Mirror(mirror) => Some(&mirror.target),
            _ => None,
        }
    }
    let of_rule = rule.filters.iter().filter_map(mirrored);
    let of_shares = rule
        .backends
        .iter()
        .flat_map(|share| std::iter::once(&share.target).chain(share.filters.iter().filter_map(mirrored)));
    of_rule.chain(of_shares).filter_map(|target| match target {
        Target::Backend(key) => Some(key),
        Target::Invalid { .. } => None,
    })
}

/// The compiled form of a rule, all names resolved.
pub(super) fn compile_rule(rule: &Arc<Rule>, live: &mut Live) -> CompiledRule {
    let shares: Box<[Share]> = rule.backends.iter().map(|share| compile_share(rule, share, live)).collect();
    CompiledRule {
        source: rule.clone(),
        name: rule.name.clone(),
        filters: compile_filters(&rule.filters, live),
        total_weight: shares.iter().map(|share| u64::from(share.weight)).sum(),
        shares,
        timeouts: rule.timeouts,
        retry: rule.retry.clone().map(Box::new),
        cors: compile_cors(&rule.filters),
    }
}

fn compile_share(rule: &Rule, share: &WeightedBackend, live: &mut Live) -> Share {
    let backend = live.target(&share.target);
    let series = match &backend {
        Some(backend) => {
            backend.colors.iter().map(|color| live.route_series(&rule.name, &backend.key, &color.name)).collect()
        }
        None => Box::default(),
    };
    Share {
        weight: share.weight,
        backend,
        filters: compile_filters(&share.filters, live),
        cors: compile_cors(&share.filters),
        series,
    }
}

fn compile_filters(filters: &[model::Filter], live: &mut Live) -> Box<[CompiledFilter]> {
    filters
        .iter()
        .filter_map(|filter| {
            Some(match filter {
                Filter::RequestHeaders(edit) => CompiledFilter::RequestHeaders(edit.clone()),
                Filter::ResponseHeaders(edit) => CompiledFilter::ResponseHeaders(edit.clone()),
                Filter::Redirect(redirect) => CompiledFilter::Redirect(redirect.clone()),
                Filter::Rewrite(rewrite) => CompiledFilter::Rewrite(rewrite.clone()),
                Filter::Cors(_) => return None,
                Filter::Mirror(mirror) => CompiledFilter::Mirror(CompiledMirror {
                    backend: live.target(&mirror.target),
                    numerator: mirror.numerator,
                    denominator: mirror.denominator.max(1),
                }),
            })
        })
        .collect()
}

/// There is at most one (a rule of the API's schema).
fn compile_cors(filters: &[Filter]) -> Option<Arc<Cors>> {
    filters.iter().find_map(|filter| match filter {
        Filter::Cors(cors) => Some(Arc::new(Cors::new(cors))),
        _ => None,
    })
}
