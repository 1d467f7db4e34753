//! Filters of HTTPRoutes, in written order.

use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesFilters, HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectPathType, HttpRouteRulesFiltersRequestRedirectScheme,
    HttpRouteRulesFiltersType, HttpRouteRulesFiltersUrlRewrite, HttpRouteRulesFiltersUrlRewritePathType,
};

use super::reading::Reading;
use super::status::{Flaw, INCOMPATIBLE, UNKNOWN_FILTER};
use super::{cors, values};
use crate::model::{Filter, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite, Target};

/// Finds the target of a mirror.
pub(super) type Find<'a> = &'a mut dyn FnMut(&mut Reading<'_>, &HttpRouteRulesFiltersRequestMirror, &str) -> Target;

/// What the filters come to.
pub(super) enum Filters {
    /// These.
    Good(Vec<Filter>),
    /// Some of them cannot be obeyed as they are written. None may be skipped (Gateway API, `HTTPRouteFilter`), so that the
    /// answer is 500. At least one is named.
    Broken(Vec<Flaw>),
}

/// Reasons of verdicts about filters that cannot be obeyed. Others are about the backends of mirrors, and a mirror harms
/// nobody when it is left out.
const BREAKING: [&str; 4] = [INCOMPATIBLE, "InvalidFilter", "InvalidHeader", UNKNOWN_FILTER];

/// Reads the filters of a rule or a backend. `prefix`: whether every match of the rule is a path prefix.
pub(super) fn filters(
    reading: &mut Reading<'_>,
    written: &[HttpRouteRulesFilters],
    field: &str,
    prefix: bool,
    find: Find<'_>,
) -> Filters {
    let mut all = Vec::new();
    let told = reading.verdicts.len();
    for (index, filter) in written.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let Some(filter) = one(reading, filter, &field, prefix, find) else { continue };
        if let Some(with) = rival(&all, &filter) {
            let problem = format!("there already is a {with} in this rule");
            reading.error(INCOMPATIBLE, field, problem, &format!("keep one of them; {ANSWER}"));
        } else {
            all.push(filter);
        }
    }
    let broken = Flaw::told_since(reading, told, |reason| BREAKING.contains(&reason));
    if broken.is_empty() { Filters::Good(all) } else { Filters::Broken(broken) }
}

/// A filter among `all` that `filter` cannot stand beside.
fn rival(all: &[Filter], filter: &Filter) -> Option<&'static str> {
    let changes_url = |filter: &Filter| match filter {
        Filter::Redirect(_) => Some("redirect"),
        Filter::Rewrite(_) => Some("rewrite"),
        _ => None,
    };
    if matches!(filter, Filter::Cors(_)) {
        return all.iter().any(|earlier| matches!(earlier, Filter::Cors(_))).then_some("CORS filter");
    }
    changes_url(filter)?;
    all.iter().find_map(changes_url)
}

/// What happens to requests as long as a filter cannot be obeyed.
pub(super) const ANSWER: &str = "until then the answer is 500";

/// One filter; `None`: it is a mirror to nowhere, or cannot be read, which its owner is told.
fn one(
    reading: &mut Reading<'_>,
    filter: &HttpRouteRulesFilters,
    field: &str,
    prefix: bool,
    find: Find<'_>,
) -> Option<Filter> {
    use HttpRouteRulesFiltersType as Type;
    let mut missing = |name: &str| {
        reading.error("InvalidFilter", field, format!("the filter has no {name}"), &format!("write {name}; {ANSWER}"));
        None
    };
    match filter.r#type {
        Type::RequestHeaderModifier => {
            let Some(edit) = &filter.request_header_modifier else { return missing("requestHeaderModifier") };
            let pairs = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
            let set = pairs(&edit.set).into_iter().map(|pair| (pair.name, pair.value)).collect();
            let add = edit.add.clone().unwrap_or_default().into_iter().map(|pair| (pair.name, pair.value)).collect();
            let edit = headers(reading, set, add, edit.remove.as_deref(), &format!("{field}.requestHeaderModifier"));
            Some(Filter::RequestHeaders(edit))
        }
        Type::ResponseHeaderModifier => {
            let Some(edit) = &filter.response_header_modifier else { return missing("responseHeaderModifier") };
            let set = edit.set.clone().unwrap_or_default().into_iter().map(|pair| (pair.name, pair.value)).collect();
            let add = edit.add.clone().unwrap_or_default().into_iter().map(|pair| (pair.name, pair.value)).collect();
            let edit = headers(reading, set, add, edit.remove.as_deref(), &format!("{field}.responseHeaderModifier"));
            Some(Filter::ResponseHeaders(edit))
        }
        Type::RequestRedirect => match &filter.request_redirect {
            Some(written) => redirect(reading, written, &format!("{field}.requestRedirect"), prefix),
            None => missing("requestRedirect"),
        },
        Type::UrlRewrite => match &filter.url_rewrite {
            Some(written) => rewrite(reading, written, &format!("{field}.urlRewrite"), prefix),
            None => missing("urlRewrite"),
        },
        Type::RequestMirror => match &filter.request_mirror {
            Some(written) => mirror(reading, written, &format!("{field}.requestMirror"), find),
            None => missing("requestMirror"),
        },
        Type::Cors => match &filter.cors {
            Some(written) => Some(Filter::Cors(cors::cors(reading, written, &format!("{field}.cors")))),
            None => missing("cors"),
        },
        Type::ExternalAuth => {
            let problem = "requests cannot be shown to an authorization service";
            reading.error("InvalidFilter", field, problem, &format!("remove it; {ANSWER}"));
            None
        }
        Type::ExtensionRef => {
            let kind = filter.extension_ref.as_ref().map(|reference| reference.kind.as_str()).unwrap_or_default();
            let problem = format!("filters of kind `{kind}` are not supported");
            reading.error(UNKNOWN_FILTER, field, problem, &format!("remove it; {ANSWER}"));
            None
        }
    }
}

fn headers(
    reading: &mut Reading<'_>,
    set: Vec<(String, String)>,
    add: Vec<(String, String)>,
    remove: Option<&[String]>,
    field: &str,
) -> HeaderEdit {
    let mut edit = HeaderEdit::default();
    for (what, written, list) in [("set", set, &mut edit.set), ("add", add, &mut edit.add)] {
        for (index, (name, value)) in written.into_iter().enumerate() {
            let pair = values::header_name(&name).and_then(|name| Ok((name, values::header_value(&value)?)));
            match pair {
                Ok(pair) => list.push(pair),
                Err(problem) => {
                    let field = format!("{field}.{what}[{index}]");
                    reading.error("InvalidHeader", field, problem, &format!("correct it; {ANSWER}"));
                }
            }
        }
    }
    for (index, name) in remove.into_iter().flatten().enumerate() {
        match values::header_name(name) {
            Ok(name) => edit.remove.push(name),
            Err(problem) => {
                let fix = format!("write a header's name; {ANSWER}");
                reading.error("InvalidHeader", format!("{field}.remove[{index}]"), problem, &fix);
            }
        }
    }
    edit
}

fn redirect(
    reading: &mut Reading<'_>,
    written: &HttpRouteRulesFiltersRequestRedirect,
    field: &str,
    prefix: bool,
) -> Option<Filter> {
    use HttpRouteRulesFiltersRequestRedirectPathType as Type;
    let host = host(reading, written.hostname.as_deref(), field)?;
    let path = match &written.path {
        None => None,
        Some(path) => {
            let full = path.r#type == Type::ReplaceFullPath;
            let text = if full { &path.replace_full_path } else { &path.replace_prefix_match };
            Some(path_edit(reading, full, text.as_deref(), field, prefix)?)
        }
    };
    let port = match written.port {
        None => None,
        Some(number) => match values::port(number) {
            Some(port) => Some(port),
            None => {
                let (problem, fix) = (format!("{number} is not a port"), format!("write 1 to 65535; {ANSWER}"));
                reading.error("InvalidFilter", format!("{field}.port"), problem, &fix);
                return None;
            }
        },
    };
    let status = match (written.status_code, written.status_code.and_then(|code| u16::try_from(code).ok())) {
        (None, _) => 302,
        (_, Some(code @ (301 | 302 | 303 | 307 | 308))) => code,
        (Some(code), _) => {
            let problem = format!("{code} is not a status of a redirect");
            let fix = format!("write 301, 302, 303, 307 or 308; {ANSWER}");
            reading.error("InvalidFilter", format!("{field}.statusCode"), problem, &fix);
            return None;
        }
    };
    let scheme = written.scheme.as_ref().map(|scheme| match scheme {
        HttpRouteRulesFiltersRequestRedirectScheme::Http => "http".into(),
        HttpRouteRulesFiltersRequestRedirectScheme::Https => "https".into(),
    });
    Some(Filter::Redirect(Redirect { scheme, host, port, path, status }))
}

fn rewrite(
    reading: &mut Reading<'_>,
    written: &HttpRouteRulesFiltersUrlRewrite,
    field: &str,
    prefix: bool,
) -> Option<Filter> {
    use HttpRouteRulesFiltersUrlRewritePathType as Type;
    let host = host(reading, written.hostname.as_deref(), field)?;
    let path = match &written.path {
        None => None,
        Some(path) => {
            let full = path.r#type == Type::ReplaceFullPath;
            let text = if full { &path.replace_full_path } else { &path.replace_prefix_match };
            Some(path_edit(reading, full, text.as_deref(), field, prefix)?)
        }
    };
    Some(Filter::Rewrite(Rewrite { host, path }))
}

/// The host to write, if one is to be written; `None`: what is there is none.
#[expect(clippy::option_option, reason = "not asked for and not readable are two answers")]
fn host(reading: &mut Reading<'_>, text: Option<&str>, field: &str) -> Option<Option<Arc<str>>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Some(None) };
    let told = |problem: &String| {
        let fix = format!("write a name like shop.example.com; {ANSWER}");
        reading.error("InvalidFilter", format!("{field}.hostname"), problem.as_str(), &fix);
    };
    values::host_name(text).inspect_err(told).ok().map(Some)
}

fn path_edit(reading: &mut Reading<'_>, full: bool, text: Option<&str>, field: &str, prefix: bool) -> Option<PathEdit> {
    let key = if full { "replaceFullPath" } else { "replacePrefixMatch" };
    let problem = match text {
        None => format!("path.{key} is missing"),
        Some(_) if !full && !prefix => {
            "a prefix can be replaced only where every match of the rule is a PathPrefix".to_owned()
        }
        // An empty prefix is the way to remove one.
        Some("") if !full => return Some(PathEdit::Prefix("/".into())),
        Some(text)
            if !text.starts_with('/') || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') =>
        {
            format!("`{text}` is not an absolute path")
        }
        Some(text) => {
            return Some(if full { PathEdit::Full(text.into()) } else { PathEdit::Prefix(values::prefix(text)) });
        }
    };
    reading.error("InvalidFilter", format!("{field}.path"), problem, &format!("write a path like /new; {ANSWER}"));
    None
}

/// A mirror to nowhere harms nobody when it is left out.
fn mirror(
    reading: &mut Reading<'_>,
    written: &HttpRouteRulesFiltersRequestMirror,
    field: &str,
    find: Find<'_>,
) -> Option<Filter> {
    let share = match (&written.fraction, written.percent) {
        (None, None) => Ok((1, 1)),
        (None, Some(percent)) => u32::try_from(percent)
            .ok()
            .filter(|percent| *percent <= 100)
            .map(|percent| (percent, 100))
            .ok_or("percent is not from 0 to 100"),
        (Some(fraction), None) => {
            let numerator = u32::try_from(fraction.numerator).ok();
            let denominator = u32::try_from(fraction.denominator.unwrap_or(100)).ok().filter(|all| *all > 0);
            numerator
                .zip(denominator)
                .filter(|(part, all)| part <= all)
                .ok_or("the numerator is not from 0 to the denominator")
        }
        (Some(_), Some(_)) => Err("percent and fraction are both there"),
    };
    let (numerator, denominator) = match share {
        Ok(share) => share,
        Err(problem) => {
            reading.error("InvalidFilter", field, problem, &format!("write one of them; {ANSWER}"));
            return None;
        }
    };
    match find(reading, written, &format!("{field}.backendRef")) {
        Target::Invalid { .. } => None,
        target => Some(Filter::Mirror(Mirror { target, numerator, denominator })),
    }
}
