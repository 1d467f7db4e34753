//! HTTPRoutes: what their rules match. What rules do is in [`super::rules`].

use gateway_api::apis::experimental::httproutes::{
    HttpRoute as HTTPRoute, HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType,
    HttpRouteRulesMatchesPath, HttpRouteRulesMatchesPathType, HttpRouteRulesMatchesQueryParamsType,
};

use super::attach::{self, Gateways, Wanted};
use super::reading::{Reading, created};
use super::rules::{self, LEFT_OUT, tidy, value_match};
use super::service::Known;
use super::{Part, values};
use crate::model::{PathMatch, RouteKind, RouteMatch};

/// Derives an HTTPRoute.
pub(super) fn http_route(reading: &mut Reading<'_>, gateways: &Gateways, known: Known<'_>, route: &HTTPRoute) -> Part {
    let mut part = Part { created: created(&route.metadata), ..Part::default() };
    let wanted = Wanted {
        kind: RouteKind::Http,
        parents: attach::parent_refs!(route.spec.parent_refs),
        hostnames: route.spec.hostnames.as_deref().unwrap_or_default(),
    };
    let Some(attachment) = attach::own(reading, gateways, &route.metadata, &wanted) else { return part };
    let rules = route.spec.rules.as_deref().unwrap_or_default();
    let mut read = |reading: &mut Reading<'_>, index: usize, field: &str| matches(reading, &rules[index], field);
    rules::derive(reading, known, &mut part, attachment, rules, &mut read);
    part
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
    Some(RouteMatch { path, method, headers: tidy(headers), query: tidy(query) })
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
