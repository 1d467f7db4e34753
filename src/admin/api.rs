//! One answer per request: which page it is, and whether the asker may have it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::sources::{ActionError, CutoverAction, Question, Readiness};
use super::{Audience, Shared, guard, view};
use crate::model::ObjectName;
use crate::telemetry::clock;
use crate::telemetry::metrics::{Format, Page};
use crate::telemetry::process::Process;

/// Most bytes of a request body.
const BODY_BYTES: usize = 16 * 1024;
/// Time for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Response<Full<Bytes>>;

/// Answers a request.
pub(super) async fn answer(
    shared: &Shared,
    audience: Audience,
    local: SocketAddr,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    let answer = match admit(shared, audience, local, &request) {
        Ok(()) => page(shared, audience, request).await,
        Err(refusal) => {
            let (status, said) = refusal.answer();
            let mut answer = error(status, said);
            if refusal == guard::Refusal::BadToken {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            answer
        }
    };
    Ok(sealed(answer))
}

fn admit(
    shared: &Shared,
    audience: Audience,
    local: SocketAddr,
    request: &Request<Incoming>,
) -> Result<(), guard::Refusal> {
    let headers = request.headers();
    if audience == Audience::Operator {
        guard::host(headers, local, &shared.settings.hosts)?;
        // The absolute form names a host of its own, which takes precedence (RFC 9112 section 3.2.2); nobody needs it here.
        if request.uri().authority().is_some() {
            return Err(guard::Refusal::BadHost);
        }
    }
    guard::origin(headers)?;
    if request.method() == Method::POST {
        guard::token(headers, shared.settings.token.as_deref())?;
    }
    Ok(())
}

async fn page(shared: &Shared, audience: Audience, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && request.method() != Method::POST {
        return not_allowed("GET, HEAD, POST");
    }
    let sources = &shared.sources;
    let public = match path.as_str() {
        "/livez" | "/healthz" => Some(text(200, "ok\n".to_owned())),
        "/readyz" => Some(match (sources.readiness)() {
            Readiness::Ready => text(200, "ready\n".to_owned()),
            Readiness::NotReady(why) => text(503, format!("not ready: {why}\n")),
        }),
        "/metrics" => Some(metrics(shared, &request)),
        _ => None,
    };
    match public {
        Some(answer) => return if reads { answer } else { not_allowed("GET, HEAD") },
        None if audience == Audience::Probes => return error(404, "only health and metrics are served here"),
        None => {}
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let service = match parts.as_slice() {
        ["api", "v1", "services", namespace, name, "cutover"] => Some(ObjectName::new(*namespace, *name)),
        _ => None,
    };
    if let Some(service) = service {
        return if reads { cutover(shared, &service) } else { act(shared, service, request).await };
    }
    if !reads {
        return not_allowed("GET, HEAD");
    }
    match parts.as_slice() {
        [""] => html(INDEX),
        ["api", "v1", "stats"] => stats(shared),
        ["api", "v1", "routes"] => value(200, &(sources.routes)()),
        ["api", "v1", "backends"] => value(200, &(sources.backends)()),
        ["api", "v1", "verdicts"] => value(200, &(sources.verdicts)()),
        ["api", "v1", "cutovers"] => value(200, &(sources.cutovers)()),
        ["api", "v1", "config"] => value(200, &(sources.settings)()),
        ["api", "v1", "explain"] => explain(shared, request.uri().query().unwrap_or_default()),
        _ => error(404, "no such page; / lists them"),
    }
}

fn metrics(shared: &Shared, request: &Request<Incoming>) -> Answer {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let sources = &shared.sources;
    let now = clock::now();
    let since_epoch = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let page = Page {
        totals: &sources.registry.totals(now),
        publish_age_seconds: now.saturating_sub(sources.registry.published_at()) as f64 / 1e9,
        gauges: &sources.gauges,
        facts: &(sources.facts)(),
        process: &Process::read(),
        started: since_epoch(clock::wall(0)).as_secs_f64(),
        per_endpoint: shared.settings.per_endpoint_metrics,
    };
    typed(200, format.content_type(), page.render(format))
}

fn stats(shared: &Shared) -> Answer {
    let totals = shared.sources.registry.totals(clock::now());
    let history = shared.history.lock().unwrap_or_else(PoisonError::into_inner);
    value(200, &view::stats(&totals, &history))
}

fn cutover(shared: &Shared, service: &ObjectName) -> Answer {
    match (shared.sources.cutover)(service) {
        Some(state) => value(200, &state),
        None => error(404, &format!("Service {service} has no colors, or does not exist")),
    }
}

async fn act(shared: &Shared, service: ObjectName, request: Request<Incoming>) -> Answer {
    let body = Limited::new(request.into_body(), BODY_BYTES).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return error(413, "the body broke off or is larger than 16 KiB"),
        Err(_) => return error(408, "the body took longer than 10 s"),
    };
    let action: CutoverAction = match serde_json::from_slice(&body) {
        Ok(action) => action,
        Err(problem) => {
            let forms = r#"{"to":"green"}, {"hold":true}, {"abort":"why"} or {"retry":"why"}"#;
            return error(400, &format!("the body is not one of {forms}: {problem}"));
        }
    };
    let act = shared.sources.act.clone();
    match tokio::task::spawn_blocking(move || act(&service, &action)).await {
        Ok(Ok(changed)) => value(200, &changed),
        Ok(Err(problem)) => {
            let status = match problem {
                ActionError::NotFound(_) => 404,
                ActionError::Invalid(_) => 422,
                ActionError::Unavailable(_) => 503,
            };
            error(status, &problem.to_string())
        }
        Err(_) => error(500, "the change broke inside Weir; see the log"),
    }
}

fn explain(shared: &Shared, query: &str) -> Answer {
    let mut question = Question { method: "GET".to_owned(), url: String::new(), headers: Vec::new(), at: None };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, given) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(given) = decoded(given) else { return error(400, "the query is not percent-encoded UTF-8") };
        match key {
            "method" => question.method = given,
            "url" => question.url = given,
            "header" => match given.split_once(':') {
                Some((name, content)) => question.headers.push((name.trim().to_owned(), content.trim().to_owned())),
                None => return error(400, &format!("header {given:?} has no colon; use header=Name:value")),
            },
            "at" => match given.parse() {
                Ok(address) => question.at = Some(address),
                Err(_) => return error(400, &format!("at={given:?} is no IP address")),
            },
            _ => return error(400, &format!("unknown parameter {key:?}; use method, url, header and at")),
        }
    }
    if question.url.is_empty() {
        return error(400, "url is missing; use ?method=GET&url=http://shop.test/&header=Name:value");
    }
    match (shared.sources.explain)(&question) {
        Ok(explained) => value(200, &explained),
        Err(problem) => error(400, &problem),
    }
}

/// Undoes percent-encoding, and `+` for a blank as forms write it; `None`: malformed.
fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                out.push((digit()? * 16 + digit()?) as u8);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

fn typed(status: u16, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn text(status: u16, body: String) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

fn html(body: &str) -> Answer {
    typed(200, "text/html; charset=utf-8", body.to_owned())
}

fn value(status: u16, body: &Value) -> Answer {
    typed(status, "application/json", format!("{body:#}\n"))
}

fn error(status: u16, said: &str) -> Answer {
    value(status, &json!({ "error": said }))
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = error(405, "this method is not served here");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// What every answer says to browsers: keep nothing, guess nothing, run nothing, tell nobody.
fn sealed(mut answer: Answer) -> Answer {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

const INDEX: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Weir</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; color-scheme: light dark }
dt { font-family: ui-monospace, monospace; margin-top: .6rem }
dd { margin-left: 1.5rem }
</style>
<h1>Weir</h1>
<dl>
<dt><a href="/livez">/livez</a>, <a href="/readyz">/readyz</a>, <a href="/healthz">/healthz</a>
<dd>Is the process alive, may traffic come.
<dt><a href="/metrics">/metrics</a>
<dd>Prometheus and OpenMetrics.
<dt><a href="/api/v1/stats">/api/v1/stats</a>
<dd>Requests in flight, rates, latencies and errors of the last 1, 10 and 60 seconds, by service, color and endpoint.
<dt><a href="/api/v1/routes">/api/v1/routes</a>
<dd>Listeners, hosts and routes that are served.
<dt><a href="/api/v1/backends">/api/v1/backends</a>
<dd>Backends with their colors and endpoints.
<dt><a href="/api/v1/verdicts">/api/v1/verdicts</a>
<dd>What is wrong with which object, and what would be right.
<dt><a href="/api/v1/cutovers">/api/v1/cutovers</a>, /api/v1/services/NAMESPACE/NAME/cutover
<dd>Blue-green cutovers, running and past.
<dt><a href="/api/v1/config">/api/v1/config</a>
<dd>The settings and where each came from.
<dt>/api/v1/explain?method=GET&amp;url=http://shop.test/&amp;header=Name:value
<dd>Which listener, route, color and endpoint would serve this request, and why. Also url=tls://shop.test:443,
tcp://HOST:PORT, udp://HOST:PORT; at=ADDRESS where Gateways have addresses of their own.
</dl>
</html>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_or_refused() {
        assert_eq!(decoded("http%3A%2F%2Fa%2F%C3%A4+b").as_deref(), Some("http://a/ä b"));
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
