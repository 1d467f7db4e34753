//! Filters of HTTPRoutes, in written order.

use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::{
    HttpRouteRulesFilters, HttpRouteRulesFiltersRequestMirror, HttpRouteRulesFiltersRequestRedirect,
    HttpRouteRulesFiltersRequestRedirectPathType, HttpRouteRulesFiltersRequestRedirectScheme,
    HttpRouteRulesFiltersType, HttpRouteRulesFiltersUrlRewrite, HttpRouteRulesFiltersUrlRewritePathType,
};

use super::reading::Reading;
use super::{cors, values};
use crate::model::{Filter, HeaderEdit, Mirror, PathEdit, Redirect, Rewrite, Target};

/// Finds the target of a mirror.
pub(super) type Find<'a> = &'a mut dyn FnMut(&mut Reading<'_>, &HttpRouteRulesFiltersRequestMirror, &str) -> Target;

/// What the filters come to.
pub(super) enum Filters {
    /// These.
    Good(Vec<Filter>),
    /// One of them cannot be obeyed and must not be skipped: the answer is 500.
    Broken(Arc<str>),
}

/// Reads the filters of a rule or a backend. `prefix`: whether every match of the rule is a path prefix.
pub(super) fn filters(
    reading: &mut Reading<'_>,
    written: &[HttpRouteRulesFilters],
    field: &str,
    prefix: bool,
    find: Find<'_>,
) -> Filters {
    let mut all = Vec::new();
    let mut broken: Option<Arc<str>> = None;
    for (index, filter) in written.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match one(reading, filter, &field, prefix, find) {
            Ok(Some(filter)) => {
                if let Some(with) = rival(&all, &filter) {
                    let problem = format!("there already is a {with} in this rule");
                    let fix = "keep one of them; until then the answer is 500";
                    reading.error("IncompatibleFilters", field, &*problem, fix);
                    broken.get_or_insert(problem.into());
                } else {
                    all.push(filter);
                }
            }
            Ok(None) => {}
            Err(why) => {
                broken.get_or_insert(why.into());
            }
        }
    }
    match broken {
        None => Filters::Good(all),
        Some(why) => Filters::Broken(why),
    }
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

const ANSWER: &str = "until then the answer is 500";

/// One filter; `None`: it has no effect; an error: it must not be skipped.
fn one(
    reading: &mut Reading<'_>,
    filter: &HttpRouteRulesFilters,
    field: &str,
    prefix: bool,
    find: Find<'_>,
) -> Result<Option<Filter>, String> {
    use HttpRouteRulesFiltersType as Type;
    let missing = |reading: &mut Reading<'_>, name: &str| {
        let problem = format!("the filter has no {name}");
        reading.error("InvalidFilter", field, &*problem, &format!("write {name}; {ANSWER}"));
        problem
    };
    match filter.r#type {
        Type::RequestHeaderModifier => {
            let Some(edit) = &filter.request_header_modifier else {
                return Err(missing(reading, "requestHeaderModifier"));
            };
            let pairs = |list: &Option<Vec<_>>| list.clone().unwrap_or_default();
            let set = pairs(&edit.set).into_iter().map(|pair| (pair.name, pair.value)).collect();
            let add = edit.add.clone().unwrap_or_default().into_iter().map(|pair| (pair.name, pair.value)).collect();
            let edit = headers(reading, set, add, edit.remove.as_deref(), &format!("{field}.requestHeaderModifier"));
            Ok(Some(Filter::RequestHeaders(edit)))
        }
        Type::ResponseHeaderModifier => {
            let Some(edit) = &filter.response_header_modifier else {
                return Err(missing(reading, "responseHeaderModifier"));
            };
            let set = edit.set.clone().unwrap_or_default().into_iter().map(|pair| (pair.name, pair.value)).collect();
            let add = edit.add.clone().unwrap_or_default().into_iter().map(|pair| (pair.name, pair.value)).collect();
            let edit = headers(reading, set, add, edit.remove.as_deref(), &format!("{field}.responseHeaderModifier"));
            Ok(Some(Filter::ResponseHeaders(edit)))
        }
        Type::RequestRedirect => match &filter.request_redirect {
            Some(written) => redirect(reading, written, &format!("{field}.requestRedirect"), prefix).map(Some),
            None => Err(missing(reading, "requestRedirect")),
        },
        Type::UrlRewrite => match &filter.url_rewrite {
            Some(written) => rewrite(reading, written, &format!("{field}.urlRewrite"), prefix).map(Some),
            None => Err(missing(reading, "urlRewrite")),
        },
        Type::RequestMirror => match &filter.request_mirror {
            Some(written) => Ok(mirror(reading, written, &format!("{field}.requestMirror"), find)),
            None => Err(missing(reading, "requestMirror")),
        },
        Type::Cors => match &filter.cors {
            Some(written) => Ok(Some(Filter::Cors(cors::cors(reading, written, &format!("{field}.cors"))))),
            None => Err(missing(reading, "cors")),
        },
        Type::ExternalAuth => {
            let problem = "requests cannot be shown to an authorization service";
            reading.error("UnsupportedFilter", field, problem, &format!("remove it; {ANSWER}"));
            Err(problem.to_owned())
        }
        Type::ExtensionRef => {
            let kind = filter.extension_ref.as_ref().map(|reference| reference.kind.as_str()).unwrap_or_default();
            let problem = format!("filters of kind `{kind}` are not supported");
            reading.error("UnsupportedFilter", field, &*problem, &format!("remove it; {ANSWER}"));
            Err(problem)
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
                    let fix = "correct it; until then this header is left alone";
                    reading.error("InvalidHeader", field, problem, fix);
                }
            }
        }
    }
    for (index, name) in remove.into_iter().flatten().enumerate() {
        match values::header_name(name) {
            Ok(name) => edit.remove.push(name),
            Err(problem) => {
                reading.error("InvalidHeader", format!("{field}.remove[{index}]"), problem, "write a header's name");
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
) -> Result<Filter, String> {
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
                let problem = format!("{number} is not a port");
                reading.error(
                    "InvalidFilter",
                    format!("{field}.port"),
                    &*problem,
                    &format!("write 1 to 65535; {ANSWER}"),
                );
                return Err(problem);
            }
        },
    };
    let status = match written.status_code.unwrap_or(302) {
        code @ (301 | 302 | 303 | 307 | 308) => u16::try_from(code).unwrap_or(302),
        code => {
            let problem = format!("{code} is not a status of a redirect; 302 is sent");
            reading.error("InvalidFilter", format!("{field}.statusCode"), problem, "write 301, 302, 303, 307 or 308");
            302
        }
    };
    let scheme = written.scheme.as_ref().map(|scheme| match scheme {
        HttpRouteRulesFiltersRequestRedirectScheme::Http => "http".into(),
        HttpRouteRulesFiltersRequestRedirectScheme::Https => "https".into(),
    });
    Ok(Filter::Redirect(Redirect { scheme, host, port, path, status }))
}

fn rewrite(
    reading: &mut Reading<'_>,
    written: &HttpRouteRulesFiltersUrlRewrite,
    field: &str,
    prefix: bool,
) -> Result<Filter, String> {
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
    Ok(Filter::Rewrite(Rewrite { host, path }))
}

fn host(reading: &mut Reading<'_>, text: Option<&str>, field: &str) -> Result<Option<Arc<str>>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    values::host_name(text).map(Some).inspect_err(|problem| {
        let fix = format!("write a name like shop.example.com; {ANSWER}");
        reading.error("InvalidFilter", format!("{field}.hostname"), problem.as_str(), &fix);
    })
}

fn path_edit(
    reading: &mut Reading<'_>,
    full: bool,
    text: Option<&str>,
    field: &str,
    prefix: bool,
) -> Result<PathEdit, String> {
    let key = if full { "replaceFullPath" } else { "replacePrefixMatch" };
    let problem = match text {
        None => format!("path.{key} is missing"),
        Some(_) if !full && !prefix => {
            "a prefix can be replaced only where every match of the rule is a PathPrefix".to_owned()
        }
        // An empty prefix is the way to remove one.
        Some("") if !full => return Ok(PathEdit::Prefix("/".into())),
        Some(text)
            if !text.starts_with('/') || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') =>
        {
            format!("`{text}` is not an absolute path")
        }
        Some(text) => {
            return Ok(if full { PathEdit::Full(text.into()) } else { PathEdit::Prefix(values::prefix(text)) });
        }
    };
    reading.error("InvalidFilter", format!("{field}.path"), &*problem, &format!("write a path like /new; {ANSWER}"));
    Err(problem)
}

/// A mirror harms nobody when it is left out.
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
            reading.error("InvalidFilter", field, problem, "write one of them; until then nothing is mirrored");
            return None;
        }
    };
    match find(reading, written, &format!("{field}.backendRef")) {
        Target::Invalid { .. } => None,
        target => Some(Filter::Mirror(Mirror { target, numerator, denominator })),
    }
}
