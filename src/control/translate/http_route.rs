//! HTTPRoutes: matches, filters, weights and deadlines of their rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::{
    HttpRoute as HTTPRoute, HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesFilters,
    HttpRouteRulesFiltersRequestMirror, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParamsType,
};

use super::attach::{self, Attachment, Gateways, Wanted};
use super::filters::{self, Filters};
use super::reading::{Reading, created};
use super::service::{self, Plans, PortName};
use super::{Part, annotations, grant, status, values};
use crate::model::{
    BackendKey, Bind, HostPattern, ObjectName, PathMatch, Rank, Route, RouteKind, RouteMatch, RouteTimeouts, Rule,
    Target, ValueMatch, ValueTest, WeightedBackend,
};

/// The largest weight of the API.
const MAX_WEIGHT: u32 = 1_000_000;

/// Derives an HTTPRoute.
pub(super) fn http_route(reading: &mut Reading<'_>, gateways: &Gateways, plans: &Plans, route: &HTTPRoute) -> Part {
    let mut part = Part { created: created(&route.metadata), ..Part::default() };
    let wanted = Wanted {
        kind: RouteKind::Http,
        parents: attach::parent_refs!(route.spec.parent_refs),
        hostnames: route.spec.hostnames.as_deref().unwrap_or_default(),
    };
    let Attachment { places, parents, .. } = attach::attach(reading, gateways, &wanted);
    let places: BTreeSet<(Bind, HostPattern)> = places.into_iter().map(|place| (place.bind, place.host)).collect();
    let foreign = places.is_empty() && reading.verdicts.is_empty();
    if foreign {
        // Everything it names belongs to another controller.
        return part;
    }
    annotations::misplaced(reading, route.metadata.annotations.as_ref());
    let rules = route.spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() {
        reading.error("NoRules", "spec.rules", "there is no rule; nothing is served", "add a rule with backendRefs");
    }
    let mut names = BTreeSet::new();
    for (index, rule) in (0_u32..).zip(rules) {
        let field = format!("spec.rules[{index}]");
        if let Some(name) = &rule.name
            && !names.insert(name.as_str())
        {
            let problem = format!("there are two rules named `{name}`");
            reading.warning("DuplicateName", format!("{field}.name"), problem, "give it another name");
        }
        let matches = matches(reading, rule, &field);
        let prefix = matches.iter().all(|(_, matched)| matches!(matched.path, PathMatch::Prefix(_)));
        let derived = Arc::new(derive_rule(reading, plans, rule, &field, prefix, &mut part.backends));
        for (position, matches) in matches {
            let rank = Rank { created: part.created, source: reading.source.clone(), rule: index, index: position };
            let route = Arc::new(Route { matches, rank, rule: derived.clone() });
            part.routes.extend(places.iter().map(|(bind, host)| (*bind, host.clone(), route.clone())));
        }
    }
    if places.is_empty() {
        part.backends.clear();
    }
    part.status = status::route(reading, parents);
    part
}

fn derive_rule(
    reading: &mut Reading<'_>,
    plans: &Plans,
    rule: &HttpRouteRules,
    field: &str,
    prefix: bool,
    used: &mut BTreeSet<BackendKey>,
) -> Rule {
    let source = reading.source.clone();
    let name = format!("httproute/{}/{}", source.name.namespace, source.name.name).into();
    let mut backends = Vec::new();
    for (index, reference) in rule.backend_refs.iter().flatten().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        backends.push(backend(reading, plans, reference, &field, prefix, used));
    }
    let mut find = mirror_target(plans, used);
    let written = rule.filters.as_deref().unwrap_or_default();
    let filters = match filters::filters(reading, written, &format!("{field}.filters"), prefix, &mut find) {
        Filters::Good(filters) => filters,
        Filters::Broken(why) => {
            backends = vec![WeightedBackend { weight: 1, target: Target::Invalid { why }, filters: Vec::new() }];
            Vec::new()
        }
    };
    let redirects = filters.iter().any(|filter| matches!(filter, crate::model::Filter::Redirect(_)));
    if redirects && !backends.is_empty() {
        let problem = "a rule with a redirect sends nothing to its backends";
        reading.warning("NoEffect", format!("{field}.backendRefs"), problem, "remove the backends or the redirect");
    }
    if backends.is_empty() && !redirects {
        let problem = "the rule has no backends; the answer is 500";
        reading.warning("NoBackends", format!("{field}.backendRefs"), problem, "add a backend or a redirect");
    }
    Rule { source, name, filters, backends, timeouts: timeouts(reading, rule, field), retry: None }
}

fn mirror_target(
    plans: &Plans,
    used: &mut BTreeSet<BackendKey>,
) -> impl FnMut(&mut Reading<'_>, &HttpRouteRulesFiltersRequestMirror, &str) -> Target {
    move |reading, mirror, field| {
        let to = &mirror.backend_ref;
        let reference = Reference {
            group: to.group.as_deref(),
            kind: to.kind.as_deref(),
            namespace: to.namespace.as_deref(),
            name: &to.name,
            port: to.port,
        };
        let target = target(reading, plans, &reference, field);
        if let Target::Backend(key) = &target {
            used.insert(key.clone());
        }
        target
    }
}

fn backend(
    reading: &mut Reading<'_>,
    plans: &Plans,
    written: &HttpRouteRulesBackendRefs,
    field: &str,
    prefix: bool,
    used: &mut BTreeSet<BackendKey>,
) -> WeightedBackend {
    let weight = written.weight.unwrap_or(1);
    let weight = u32::try_from(weight).ok().filter(|weight| *weight <= MAX_WEIGHT).unwrap_or_else(|| {
        let used = if weight < 0 { 0 } else { MAX_WEIGHT };
        let problem = format!("the weight {weight} is not from 0 to {MAX_WEIGHT}; {used} is used");
        reading.error("InvalidWeight", format!("{field}.weight"), problem, "write a number in that range");
        used
    });
    let reference = Reference {
        group: written.group.as_deref(),
        kind: written.kind.as_deref(),
        namespace: written.namespace.as_deref(),
        name: &written.name,
        port: written.port,
    };
    let mut target = target(reading, plans, &reference, field);
    if let Target::Backend(key) = &target {
        used.insert(key.clone());
    }
    let mut filters = Vec::new();
    if let Some(own) = written.filters.as_ref().filter(|own| !own.is_empty()) {
        // The generated types of both places are twins; they meet in their JSON.
        let own: Vec<HttpRouteRulesFilters> =
            serde_json::to_value(own).and_then(serde_json::from_value).unwrap_or_default();
        let mut find = mirror_target(plans, used);
        match filters::filters(reading, &own, &format!("{field}.filters"), prefix, &mut find) {
            Filters::Good(good) => filters = good,
            Filters::Broken(why) => target = Target::Invalid { why },
        }
    }
    WeightedBackend { weight, target, filters }
}

/// A backendRef of whichever generated type.
struct Reference<'a> {
    group: Option<&'a str>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
    port: Option<i32>,
}

fn target(reading: &mut Reading<'_>, plans: &Plans, reference: &Reference<'_>, field: &str) -> Target {
    let invalid = |why: String| Target::Invalid { why: why.into() };
    let group = reference.group.unwrap_or_default();
    let kind = reference.kind.unwrap_or("Service");
    if !(group.is_empty() || group == "core") || kind != "Service" {
        let why = format!("backends of kind {kind} are not supported");
        reading.error("InvalidKind", format!("{field}.kind"), &*why, "name a Service; its share is answered with 500");
        return invalid(why);
    }
    let namespace: Arc<str> = reference.namespace.map_or_else(|| reading.namespace(), Into::into);
    let name = ObjectName::new(namespace, reference.name);
    if !grant::permitted(reading, "Service", &name) {
        let why = format!("Service {name} is in another namespace, and no ReferenceGrant there permits this");
        let fix = format!("add a ReferenceGrant in namespace {}, from HTTPRoute to Service", name.namespace);
        reading.error("RefNotPermitted", field, &*why, &fix);
        return invalid(why);
    }
    let Some(port) = reference.port.and_then(values::port) else {
        let why = format!("no port of Service {name} is named");
        reading.error("PortNotFound", format!("{field}.port"), &*why, "write port; its share is answered with 500");
        return invalid(why);
    };
    service::target(reading, plans, &name, PortName::Number(port), field)
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

/// The matches of a rule with their positions; those that cannot be read are left out.
fn matches(reading: &mut Reading<'_>, rule: &HttpRouteRules, field: &str) -> Vec<(u32, RouteMatch)> {
    let written = rule.matches.as_deref().unwrap_or_default();
    if written.is_empty() {
        let everything = PathMatch::Prefix("/".into());
        return vec![(0, RouteMatch { path: everything, method: None, headers: Vec::new(), query: Vec::new() })];
    }
    let read = |(index, matched): (u32, &HttpRouteRulesMatches)| {
        one_match(reading, matched, &format!("{field}.matches[{index}]")).map(|matched| (index, matched))
    };
    (0_u32..).zip(written).filter_map(read).collect()
}

const LEFT_OUT: &str = "correct it; this match is left out";

fn one_match(reading: &mut Reading<'_>, written: &HttpRouteRulesMatches, field: &str) -> Option<RouteMatch> {
    let path = path(reading, written.path.as_ref(), &format!("{field}.path"))?;
    let method = written.method.as_ref().and_then(|method| serde_json::to_value(method).ok());
    let method = method.as_ref().and_then(serde_json::Value::as_str).map(Into::into);
    let mut headers = Vec::new();
    for (index, header) in written.headers.iter().flatten().enumerate() {
        let field = format!("{field}.headers[{index}]");
        let regex = header.r#type == Some(HttpRouteRulesMatchesHeadersType::RegularExpression);
        let name = values::header_name(&header.name);
        headers.push(value_match(reading, name, regex, &header.value, &headers, &field)?);
    }
    let mut query = Vec::new();
    for (index, parameter) in written.query_params.iter().flatten().enumerate() {
        let field = format!("{field}.queryParams[{index}]");
        let regex = parameter.r#type == Some(HttpRouteRulesMatchesQueryParamsType::RegularExpression);
        query.push(value_match(reading, Ok(parameter.name.as_str().into()), regex, &parameter.value, &query, &field)?);
    }
    // Written order has no meaning here, and equal conditions should look equal. Of a name that is there twice only
    // the first condition counts (API reference of HTTPHeaderMatch and HTTPQueryParamMatch).
    let tidy = |list: Vec<Option<ValueMatch>>| {
        let mut list: Vec<ValueMatch> = list.into_iter().flatten().collect();
        list.sort_by(|left, right| left.name.cmp(&right.name));
        list
    };
    Some(RouteMatch { path, method, headers: tidy(headers), query: tidy(query) })
}

/// `None`: the whole match is left out. `Some(None)`: only this condition, which is a repetition.
fn value_match(
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

fn path(reading: &mut Reading<'_>, written: Option<&HttpRouteRulesMatchesPath>, field: &str) -> Option<PathMatch> {
    use HttpRouteRulesMatchesPathType as Type;
    let text = written.and_then(|path| path.value.as_deref()).unwrap_or("/");
    let kind = written.and_then(|path| path.r#type.as_ref()).unwrap_or(&Type::PathPrefix);
    if *kind == Type::RegularExpression {
        return match values::regex(text) {
            Ok(()) => Some(PathMatch::Regex(text.into())),
            Err(problem) => {
                reading.error("InvalidRegex", format!("{field}.value"), problem, LEFT_OUT);
                None
            }
        };
    }
    if let Err(problem) = values::plain_path(text) {
        reading.error("InvalidPath", format!("{field}.value"), problem, LEFT_OUT);
        return None;
    }
    Some(if *kind == Type::Exact { PathMatch::Exact(text.into()) } else { PathMatch::Prefix(values::prefix(text)) })
}
