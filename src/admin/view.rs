//! Statistics as the admin API shows them: `/api/v1/stats`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::telemetry::stats::{Activity, Class, ColorTotals, Distribution, EndpointTotals, History, Totals, Window};

/// Names of the windows, in the order of [`Activity::windows`].
const NAMES: [&str; 3] = ["1s", "10s", "60s"];

/// All statistics as JSON. Every color of every port, with its endpoints; idle ones too.
pub fn stats(totals: &Totals, history: &History) -> Value {
    let mut endpoints: BTreeMap<_, Vec<&EndpointTotals>> = BTreeMap::new();
    for endpoint in &totals.endpoints {
        endpoints.entry(&endpoint.labels.color).or_default().push(endpoint);
    }
    let mut colors: Vec<&ColorTotals> = totals.colors.iter().collect();
    colors.sort_by(|one, other| one.labels.cmp(&other.labels));
    let services: Vec<Value> = colors
        .into_iter()
        .map(|one| {
            let mut of_color = endpoints.remove(&one.labels).unwrap_or_default();
            of_color.sort_by_key(|endpoint| endpoint.labels.address);
            let shown = of_color.into_iter().map(|one| endpoint(one, &history.endpoint(totals, one))).collect();
            color(totals, one, &history.color(totals, one), shown)
        })
        .collect();
    let faults: Map<String, Value> =
        totals.faults.iter().map(|(reason, count)| ((*reason).into(), json!(count))).collect();
    json!({ "uptime_seconds": totals.at as f64 / 1e9, "services": services, "faults": faults })
}

fn color(totals: &Totals, color: &ColorTotals, activity: &Activity, endpoints: Vec<Value>) -> Value {
    let classes: Map<String, Value> =
        Class::ALL.iter().map(|class| (class.text().to_owned(), json!(color.class(*class)))).collect();
    let idle = (color.last_finished > 0).then(|| totals.at.saturating_sub(color.last_finished) as f64 / 1e9);
    json!({
        "namespace": &*color.labels.namespace,
        "service": &*color.labels.service,
        "port": color.labels.port,
        "color": &*color.labels.color,
        "started": color.flow.started,
        "finished": color.flow.finished,
        "inflight": color.flow.in_flight(),
        "inflight_seconds": color.area_ns as f64 / 1e9,
        "queue_seconds": color.queue_ns as f64 / 1e9,
        "last_finished_seconds_ago": idle,
        "classes": classes,
        "bytes_in": color.bytes_in,
        "bytes_out": color.bytes_out,
        "latency_ms": percentiles(&activity.latency),
        "latency_ms_total": percentiles(&color.latency),
        "first_byte_ms_total": percentiles(&color.first_byte),
        "windows": windows(activity),
        "endpoints": endpoints,
    })
}

fn endpoint(endpoint: &EndpointTotals, activity: &Activity) -> Value {
    json!({
        "address": endpoint.labels.address.to_string(),
        "started": endpoint.flow.started,
        "finished": endpoint.flow.finished,
        "inflight": endpoint.flow.in_flight(),
        "inflight_seconds": endpoint.area_ns as f64 / 1e9,
        "errors": endpoint.errors,
        "windows": windows(activity),
    })
}

fn windows(activity: &Activity) -> Value {
    let shown = |window: &Option<Window>| {
        window.as_ref().map(|window| {
            json!({
                "seconds": rounded(window.seconds),
                "inflight": rounded(window.in_flight),
                "queued": rounded(window.queued),
                "rps": rounded(window.rate),
                "errors_per_second": rounded(window.errors),
                "mean_ms": rounded(window.latency * 1e3),
            })
        })
    };
    let pairs = NAMES.iter().zip(&activity.windows).map(|(name, window)| ((*name).to_owned(), json!(shown(window))));
    Value::Object(pairs.collect())
}

fn percentiles(distribution: &Distribution) -> Value {
    let milliseconds = |share| distribution.quantile(share).map(|nanoseconds| rounded(nanoseconds / 1e6));
    json!({
        "count": distribution.count(),
        "mean": distribution.mean().map(|nanoseconds| rounded(nanoseconds / 1e6)),
        "p50": milliseconds(0.50),
        "p95": milliseconds(0.95),
        "p99": milliseconds(0.99),
    })
}

/// To three decimals: more would be noise, and a page of noise is hard to read.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
