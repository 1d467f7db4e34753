//! What HTTPRoutes and GRPCRoutes have in common: rules with filters, weights, mirrors, deadlines and retries.
//!
//! A GRPCRoute says the same things in the same words but for its matches, so its rules come here as rules of an
//! HTTPRoute; [`super::http_route`] and [`super::grpc_route`] read the matches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFilters, HttpRouteRulesFiltersRequestMirror,
};

use super::attach::Attachment;
use super::backend_ref::{self, reference};
use super::filters::{self, Filters};
use super::reading::Reading;
use super::service::{self, Known, Way};
use super::status::{self, Flaw, Rules, UNKNOWN_FILTER};
use super::{Part, values};
use crate::model::{
    Access, BackendKey, Bind, Filter, HostPattern, ObjectName, PathMatch, Rank, Route, RouteMatch, RouteRetry,
    RouteTimeouts, Rule, Target, ValueMatch, ValueTest, WeightedBackend,
};

/// Reads the matches of the rule with this index, with the position of each.
pub(super) type Matches<'a> = &'a mut dyn FnMut(&mut Reading<'_>, usize, &str) -> Vec<(u32, RouteMatch)>;

/// Derives the rules of a route that is served at these places.
pub(super) fn derive(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    part: &mut Part,
    attachment: Attachment,
    rules: &[HttpRouteRules],
    matches: Matches<'_>,
) {
    let Attachment { places, parents, gateways } = attachment;
    part.gateways = gateways;
    // Gateways that share a socket and a host are one there; if one of them has an identity, it is shown.
    let identities: BTreeMap<(Bind, HostPattern), Option<ObjectName>> =
        places.into_iter().map(|place| ((place.bind, place.host), place.gateway_identity)).collect();
    let mut places: BTreeMap<Option<ObjectName>, Vec<(Bind, HostPattern)>> = BTreeMap::new();
    for (place, identity) in identities {
        places.entry(identity).or_default().push(place);
    }
    if rules.is_empty() {
        reading.error("NoRules", "spec.rules", "there is no rule; nothing is served", "add a rule with backendRefs");
    }
    let mut names = BTreeSet::new();
    let mut said = Rules::default();
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        if let Some(name) = &rule.name
            && !names.insert(name.as_str())
        {
            let problem = format!("there are two rules named `{name}`");
            reading.warning("DuplicateName", format!("{field}.name"), problem, "give it another name");
        }
        let told = reading.verdicts.len();
        let matches = matches(reading, index, &field);
        said.flaws.extend(Flaw::told_since(reading, told, |_| true));
        let prefix = matches.iter().all(|(_, matched)| matches!(matched.path, PathMatch::Prefix(_)));
        let (derived, obeyed) = derive_rule(reading, known, rule, &field, prefix, &mut said.flaws);
        said.served |= obeyed && !matches.is_empty();
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let rank =
            |position| Rank { created: part.created, source: reading.source.clone(), rule: index, index: position };
        let ranked: Vec<(Rank, RouteMatch)> =
            matches.into_iter().map(|(position, matches)| (rank(position), matches)).collect();
        for (identity, places) in &places {
            let mut rule = match identity {
                None => derived.clone(),
                Some(secret) => shown(reading, known, derived.clone(), secret),
            };
            part.backends.extend(backends_of(&mut rule));
            let rule = Arc::new(rule);
            for (rank, matches) in &ranked {
                let route = Arc::new(Route { matches: matches.clone(), rank: rank.clone(), rule: rule.clone() });
                part.routes.extend(places.iter().map(|(bind, host)| (*bind, host.clone(), route.clone())));
            }
        }
    }
    if said.are_lost() {
        // Not attached, so that it is in nobody's way: neither at a host nor at a match of another route.
        reading.attached.clear();
        reading.wishes.clear();
        part.gateways.clear();
        part.routes.clear();
        part.backends.clear();
        for verdict in &mut reading.verdicts {
            if let Some(fix) = verdict.fix.strip_suffix(filters::ANSWER) {
                verdict.fix = format!("{fix}until then the route is not served");
            }
        }
    }
    part.status = status::route(reading, parents, &said);
}

/// Every target of a rule.
fn targets_of(rule: &mut Rule) -> impl Iterator<Item = &mut Target> {
    fn mirrors(filters: &mut [Filter]) -> impl Iterator<Item = &mut Target> {
        filters.iter_mut().filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(&mut mirror.target),
            _ => None,
        })
    }
    let shares = rule
        .backends
        .iter_mut()
        .flat_map(|backend| std::iter::once(&mut backend.target).chain(mirrors(&mut backend.filters)));
    shares.chain(mirrors(&mut rule.filters))
}

/// The backends that a rule names.
fn backends_of(rule: &mut Rule) -> Vec<BackendKey> {
    let key = |target: &mut Target| if let Target::Backend(key) = target { Some(key.clone()) } else { None };
    targets_of(rule).filter_map(key).collect()
}

/// The rule at a Gateway that shows a client certificate to the backends that speak TLS.
pub(super) fn shown(reading: &mut Reading<'_>, known: Known<'_>, mut rule: Rule, secret: &ObjectName) -> Rule {
    for target in targets_of(&mut rule) {
        if let Target::Backend(key) = target
            && service::speaks_tls(reading, known, key)
        {
            key.access = Access::As(secret.clone());
        }
    }
    rule
}

/// What a rule does, and whether that is anything of what it says. Adds what of it is dropped to `flaws`.
fn derive_rule(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    rule: &HttpRouteRules,
    field: &str,
    prefix: bool,
    flaws: &mut Vec<Flaw>,
) -> (Rule, bool) {
    let source = reading.source.clone();
    let kind = source.kind.to_ascii_lowercase();
    let name = format!("{kind}/{}/{}", source.name.namespace, source.name.name).into();
    let mut backends = Vec::new();
    let mut shares = 0;
    for (index, reference) in rule.backend_refs.iter().flatten().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        let known_flaws = flaws.len();
        backends.push(backend(reading, known, reference, &field, prefix, flaws));
        shares += usize::from(flaws.len() == known_flaws);
    }
    let mut find = mirror_target(known);
    let mut obeyed = shares > 0 || backends.is_empty();
    let written = rule.filters.as_deref().unwrap_or_default();
    let filters = match filters::filters(reading, written, &format!("{field}.filters"), prefix, &mut find) {
        Filters::Good(filters) => filters,
        Filters::Broken(broken) => {
            backends = vec![WeightedBackend { weight: 1, target: broken_target(&broken), filters: Vec::new() }];
            let known_flaws = flaws.len();
            flaws.extend(dropped(broken));
            obeyed &= flaws.len() == known_flaws;
            Vec::new()
        }
    };
    let redirects = filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    if redirects && !backends.is_empty() {
        let problem = "a rule with a redirect sends nothing to its backends";
        reading.warning("NoEffect", format!("{field}.backendRefs"), problem, "remove the backends or the redirect");
    }
    if backends.is_empty() && !redirects {
        let problem = "the rule has no backends; the answer is 500";
        reading.warning("NoBackends", format!("{field}.backendRefs"), problem, "add a backend or a redirect");
    }
    if rule.session_persistence.is_some() {
        let problem = "clients are not kept at one endpoint by a route";
        let fix = "remove it; weir.dev/balance: hash-cookie=NAME on the Service keeps clients by a cookie";
        reading.warning("NotImplemented", format!("{field}.sessionPersistence"), problem, fix);
    }
    let (timeouts, retry) = (timeouts(reading, rule, field), retry(reading, rule, field));
    (Rule { source, name, filters, backends, timeouts, retry }, obeyed)
}

/// Where requests go whose filters cannot be obeyed.
fn broken_target(broken: &[Flaw]) -> Target {
    Target::Invalid { why: broken.first().map(|flaw| flaw.problem.as_str()).unwrap_or_default().into() }
}

/// What of broken filters the status calls dropped. That requests for a filter that cannot be found are answered with an
/// error is what the Gateway API asks for (`type` of HTTPRouteFilter); `ResolvedRefs` tells of it, as of missing backends.
fn dropped(broken: Vec<Flaw>) -> impl Iterator<Item = Flaw> {
    broken.into_iter().filter(|flaw| flaw.reason != UNKNOWN_FILTER)
}

fn mirror_target(
    known: Known<'_>,
) -> impl FnMut(&mut Reading<'_>, &HttpRouteRulesFiltersRequestMirror, &str) -> Target {
    move |reading, mirror, field| backend_ref::target(reading, known, &reference!(mirror.backend_ref), Way::Open, field)
}

fn backend(
    reading: &mut Reading<'_>,
    known: Known<'_>,
    written: &HttpRouteRulesBackendRefs,
    field: &str,
    prefix: bool,
    flaws: &mut Vec<Flaw>,
) -> WeightedBackend {
    let weight = backend_ref::weight(reading, written.weight, field);
    let mut target = backend_ref::target(reading, known, &reference!(written), Way::Open, field);
    let mut filters = Vec::new();
    if let Some(own) = written.filters.as_ref().filter(|own| !own.is_empty()) {
        // The generated types of both places are twins; they meet in their JSON.
        let own = serde_json::to_value(own).and_then(serde_json::from_value::<Vec<HttpRouteRulesFilters>>);
        let field = format!("{field}.filters");
        let mut find = mirror_target(known);
        let found = match own {
            Ok(own) => filters::filters(reading, &own, &field, prefix, &mut find),
            Err(error) => {
                let (reason, problem) = ("InvalidFilter", format!("the filters cannot be read: {error}"));
                reading.error(reason, &*field, &*problem, "correct them; until then the answer is 500");
                Filters::Broken(vec![Flaw { field, reason, problem }])
            }
        };
        match found {
            Filters::Good(good) => filters = good,
            Filters::Broken(broken) => {
                target = broken_target(&broken);
                flaws.extend(dropped(broken));
            }
        }
    }
    WeightedBackend { weight, target, filters }
}

fn timeouts(reading: &mut Reading<'_>, rule: &HttpRouteRules, field: &str) -> RouteTimeouts {
    let Some(written) = &rule.timeouts else { return RouteTimeouts::default() };
    let mut read = |key: &str, text: &Option<String>| {
        values::duration(text.as_deref()?)
            .inspect_err(|problem| {
                let field = format!("{field}.timeouts.{key}");
                reading.error("InvalidTimeout", field, format!("{problem}; the default stays"), "write 10s or 500ms");
            })
            .ok()
    };
    let request = read("request", &written.request);
    let mut backend = read("backendRequest", &written.backend_request);
    if let (Some(whole), Some(attempt)) = (request, backend)
        && !whole.is_zero()
        && attempt > whole
    {
        let problem = "an attempt cannot take longer than the request; the request's timeout is used";
        let field = format!("{field}.timeouts.backendRequest");
        reading.error("InvalidTimeout", field, problem, "write at most what timeouts.request says");
        backend = Some(whole);
    }
    RouteTimeouts { request, backend }
}

/// Retries that the rule asks for (GEP-1731).
fn retry(reading: &mut Reading<'_>, rule: &HttpRouteRules, field: &str) -> Option<RouteRetry> {
    let written = rule.retry.as_ref()?;
    let field = format!("{field}.retry");
    let mut statuses = BTreeSet::new();
    for (index, code) in written.codes.iter().flatten().enumerate() {
        match u16::try_from(*code).ok().filter(|code| (400..600).contains(code)) {
            Some(code) => {
                statuses.insert(code);
            }
            None => {
                let problem = format!("{code} is not a status after which something can be tried again");
                reading.error("InvalidRetry", format!("{field}.codes[{index}]"), problem, "write 400 to 599");
            }
        }
    }
    let attempts = written.attempts.and_then(|attempts| {
        let read = u32::try_from(attempts).ok().filter(|attempts| *attempts > 0);
        if read.is_none() {
            let problem = format!("{attempts} attempts are none; the settings' number is used");
            reading.error("InvalidRetry", format!("{field}.attempts"), problem, "write 1 or more, or remove retry");
        }
        read
    });
    let backoff = written.backoff.as_deref().and_then(|text| {
        let told = |problem: &String| {
            let problem = format!("{problem}; there is no pause");
            reading.error("InvalidRetry", format!("{field}.backoff"), problem, "write 100ms or 1s");
        };
        values::duration(text).inspect_err(told).ok()
    });
    Some(RouteRetry { statuses: statuses.into_iter().collect(), attempts, backoff: backoff.unwrap_or(Duration::ZERO) })
}

/// What a verdict about a bad match says.
pub(super) const LEFT_OUT: &str = "correct it; this match is left out";

/// A condition. `None`: the whole match is left out. `Some(None)`: only this condition, which is a repetition.
pub(super) fn value_match(
    reading: &mut Reading<'_>,
    name: Result<Arc<str>, String>,
    regex: bool,
    value: &str,
    before: &[Option<ValueMatch>],
    field: &str,
) -> Option<Option<ValueMatch>> {
    let name = match name {
        Ok(name) => name,
        Err(problem) => {
            reading.error("InvalidMatch", format!("{field}.name"), problem, LEFT_OUT);
            return None;
        }
    };
    if before.iter().flatten().any(|earlier| earlier.name == name) {
        let problem = format!("there already is a condition on `{name}`, so this one does not count");
        reading.warning("NoEffect", field, problem, "write one condition");
        return Some(None);
    }
    let test = if regex {
        if let Err(problem) = values::regex(value) {
            reading.error("InvalidRegex", format!("{field}.value"), problem, LEFT_OUT);
            return None;
        }
        ValueTest::Regex(value.into())
    } else {
        ValueTest::Exact(value.into())
    };
    Some(Some(ValueMatch { name, test }))
}

/// Written order has no meaning among conditions, and equal ones should look equal. Of a name that is there twice only
/// the first condition counts (API reference of HTTPHeaderMatch and HTTPQueryParamMatch).
pub(super) fn tidy(list: Vec<Option<ValueMatch>>) -> Vec<ValueMatch> {
    let mut list: Vec<ValueMatch> = list.into_iter().flatten().collect();
    list.sort_by(|left, right| left.name.cmp(&right.name));
    list
}
