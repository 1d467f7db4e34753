//! GRPCRoutes: what their rules match. What rules do is in [`super::rules`].
//!
//! A gRPC call is a request for `/service/method`, so that a method match is a path match.

use gateway_api::apis::experimental::httproutes::HttpRouteRules;
use gateway_api::apis::standard::grpcroutes::{
    GrpcRoute as GRPCRoute, GrpcRouteRules, GrpcRouteRulesMatches, GrpcRouteRulesMatchesHeadersType,
    GrpcRouteRulesMatchesMethod, GrpcRouteRulesMatchesMethodType,
};
use serde_json::json;

use super::attach::{self, Gateways, Wanted};
use super::reading::{Reading, created};
use super::rules::{self, LEFT_OUT, tidy, value_match};
use super::service::Known;
use super::{Part, values};
use crate::model::{PathMatch, RouteKind, RouteMatch};

/// Derives a GRPCRoute.
pub(super) fn grpc_route(reading: &mut Reading<'_>, gateways: &Gateways, known: Known<'_>, route: &GRPCRoute) -> Part {
    let mut part = Part { created: created(&route.metadata), ..Part::default() };
    let wanted = Wanted {
        kind: RouteKind::Grpc,
        parents: attach::parent_refs!(route.spec.parent_refs),
        hostnames: route.spec.hostnames.as_deref().unwrap_or_default(),
    };
    let Some(attachment) = attach::own(reading, gateways, &route.metadata, &wanted) else { return part };
    let written = route.spec.rules.as_deref().unwrap_or_default();
    let twins: Vec<HttpRouteRules> = written.iter().map(twin).collect();
    let mut read = |reading: &mut Reading<'_>, index: usize, field: &str| matches(reading, &written[index], field);
    rules::derive(reading, known, &mut part, attachment, &twins, &mut read);
    part
}

/// The rule as one of an HTTPRoute, without its matches. The generated types are twins; they meet in their JSON.
fn twin(rule: &GrpcRouteRules) -> HttpRouteRules {
    let value = json!({ "name": rule.name, "filters": rule.filters, "backendRefs": rule.backend_refs });
    serde_json::from_value(value).unwrap_or_default()
}

fn matches(reading: &mut Reading<'_>, rule: &GrpcRouteRules, field: &str) -> Vec<(u32, RouteMatch)> {
    let written = rule.matches.as_deref().unwrap_or_default();
    if written.is_empty() {
        let everything = PathMatch::Prefix("/".into());
        return vec![(0, RouteMatch { path: everything, method: None, headers: Vec::new(), query: Vec::new() })];
    }
    let read = |(index, matched): (u32, &GrpcRouteRulesMatches)| {
        one_match(reading, matched, &format!("{field}.matches[{index}]")).map(|matched| (index, matched))
    };
    (0_u32..).zip(written).filter_map(read).collect()
}

fn one_match(reading: &mut Reading<'_>, written: &GrpcRouteRulesMatches, field: &str) -> Option<RouteMatch> {
    let path = path(reading, written.method.as_ref(), &format!("{field}.method"))?;
    let mut headers = Vec::new();
    for (index, header) in written.headers.iter().flatten().enumerate() {
        let field = format!("{field}.headers[{index}]");
        let regex = header.r#type == Some(GrpcRouteRulesMatchesHeadersType::RegularExpression);
        let name = values::header_name(&header.name);
        headers.push(value_match(reading, name, regex, &header.value, &headers, &field)?);
    }
    Some(RouteMatch { path, method: None, headers: tidy(headers), query: Vec::new() })
}

/// The paths of a method match. The order of paths is the one that the API asks for, but for a method of any service: as
/// a regular expression it comes before a service with any method.
fn path(reading: &mut Reading<'_>, written: Option<&GrpcRouteRulesMatchesMethod>, field: &str) -> Option<PathMatch> {
    let part = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let service = written.and_then(|method| part(&method.service));
    let method = written.and_then(|method| part(&method.method));
    let regex =
        written.and_then(|method| method.r#type.as_ref()) == Some(&GrpcRouteRulesMatchesMethodType::RegularExpression);
    for (key, text) in [("service", &service), ("method", &method)] {
        let Some(text) = text else { continue };
        let field = format!("{field}.{key}");
        if regex {
            if let Err(problem) = values::regex(text) {
                reading.error("InvalidRegex", field, problem, LEFT_OUT);
                return None;
            }
        } else if !text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || (byte == b'.' && key == "service"))
        {
            let problem = format!("`{text}` is not the name of a gRPC {key}");
            reading.error("InvalidMatch", field, problem, LEFT_OUT);
            return None;
        }
    }
    const ANY: &str = "[^/]+";
    Some(match (service, method) {
        (None, None) => PathMatch::Prefix("/".into()),
        (service, method) if regex => {
            let service = service.as_deref().unwrap_or(ANY);
            let method = method.as_deref().unwrap_or(ANY);
            PathMatch::Regex(format!("/(?:{service})/(?:{method})").into())
        }
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}").into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}").into()),
        (None, Some(method)) => PathMatch::Regex(format!("/{ANY}/{method}").into()),
    })
}
