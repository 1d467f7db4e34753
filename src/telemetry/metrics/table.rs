//! The table of metrics: what is exposed is in it, and what is in it can be exposed.

use std::fmt::Write;

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows; begins anew with the process or with its series.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound, a sum and a count.
    Histogram,
}

impl Kind {
    /// As it stands after `# TYPE`.
    pub const fn text(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name; of a counter with `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

const fn metric(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

use Kind::{Counter, Gauge, Histogram};

const COLOR: &[&str] = &["namespace", "service", "color"];
const ENDPOINT: &[&str] = &["namespace", "service", "color", "port", "endpoint"];

/// Every metric, in the order of the page.
pub const METRICS: &[Metric] = &[
    metric(
        "weir_requests_total",
        Counter,
        &["namespace", "service", "color", "route", "code_class"],
        "Finished requests by route and by the first digit of the status sent; none: no status could be sent, or what passed \
         was a TCP connection or a session of datagrams.",
    ),
    metric(
        "weir_request_duration_seconds",
        Histogram,
        COLOR,
        "Time from a request's head to the end of its response. Bucket counts are exact.",
    ),
    metric("weir_upstream_inflight", Gauge, COLOR, "Requests in flight, at most 100 ms ago."),
    metric(
        "weir_upstream_inflight_seconds_total",
        Counter,
        COLOR,
        "Area under the requests in flight: its rate is the exact mean number of requests in flight.",
    ),
    metric(
        "weir_upstream_queue_seconds_total",
        Counter,
        COLOR,
        "Time that requests waited for a place or a connection: its rate is the mean number of waiting requests.",
    ),
    metric(
        "weir_upstream_errors_total",
        Counter,
        &["namespace", "service", "color", "reason"],
        "Requests that the upstream failed: 5xx, connect, reset, timeout.",
    ),
    metric(
        "weir_upstream_bytes_total",
        Counter,
        &["namespace", "service", "color", "direction"],
        "Body bytes from clients (in) and to clients (out).",
    ),
    metric("weir_upstream_ready_endpoints", Gauge, COLOR, "Endpoints that may be picked."),
    metric("weir_upstream_connections", Gauge, &["state"], "Connections to endpoints: active or idle."),
    metric("weir_upstream_connections_opened_total", Counter, &[], "Connections to endpoints that were opened."),
    metric(
        "weir_endpoint_attempts_total",
        Counter,
        ENDPOINT,
        "Attempts at an endpoint. Only when series per endpoint are on.",
    ),
    metric(
        "weir_endpoint_errors_total",
        Counter,
        ENDPOINT,
        "Attempts that an endpoint failed. Only when series per endpoint are on.",
    ),
    metric(
        "weir_endpoint_inflight_seconds_total",
        Counter,
        ENDPOINT,
        "Area under the attempts in flight at an endpoint. Only when series per endpoint are on.",
    ),
    metric(
        "weir_faults_total",
        Counter,
        &["reason"],
        "Requests answered by Weir itself and responses that broke off, by reason code.",
    ),
    metric(
        "weir_downstream_connections",
        Gauge,
        &["listener", "state"],
        "Connections of clients, and sessions of datagrams: active, idle, or opening (before the first request).",
    ),
    metric("weir_downstream_accepted_total", Counter, &["listener"], "Connections accepted."),
    metric(
        "weir_downstream_refused_total",
        Counter,
        &["listener"],
        "Connections closed at once because a ceiling was reached.",
    ),
    metric("weir_tls_handshakes_total", Counter, &["listener", "result"], "TLS handshakes with clients: ok or failed."),
    metric(
        "weir_http2_floods_total",
        Counter,
        &["listener", "kind"],
        "HTTP/2 connections ended with ENHANCE_YOUR_CALM, by the kind of frames there were too many of.",
    ),
    metric(
        "weir_datagrams_total",
        Counter,
        &["listener", "direction"],
        "Datagrams from clients (in) and to clients (out), at listeners that have had any.",
    ),
    metric(
        "weir_datagrams_dropped_total",
        Counter,
        &["listener"],
        "Datagrams that could not be passed on, at listeners that have had any.",
    ),
    metric("weir_config_generation", Gauge, &[], "Generation of the configuration that is served; 0 before the first."),
    metric(
        "weir_config_last_publish_timestamp_seconds",
        Gauge,
        &[],
        "When that generation was published, seconds since the Unix epoch.",
    ),
    metric(
        "weir_config_change_seconds",
        Histogram,
        &["path"],
        "Time from noticing a change to serving it: by a new generation (routes), or by new endpoints alone (endpoints).",
    ),
    metric(
        "weir_config_view_age_seconds",
        Gauge,
        &[],
        "How long the API server has not been heard of; 0 while every change is seen as it happens.",
    ),
    metric("weir_leader", Gauge, &[], "1 if this process is the one that writes statuses to the API server, else 0."),
    metric("weir_status_queue_length", Gauge, &[], "Objects on the API server that are still to be written to."),
    metric("weir_status_oldest_seconds", Gauge, &[], "How long the oldest of them has waited."),
    metric(
        "weir_status_writes_total",
        Counter,
        &["kind", "result"],
        "Writes to the API server: written, unchanged (it was so already), or why not: absent, conflict, forbidden, invalid, away.",
    ),
    metric("weir_config_rejected_objects", Gauge, &[], "Objects that are not served, or not as a whole."),
    metric(
        "weir_certificate_expiry_timestamp_seconds",
        Gauge,
        &["namespace", "secret"],
        "End of a certificate's validity, seconds since the Unix epoch.",
    ),
    metric("weir_cutover_phase", Gauge, &["namespace", "service", "phase"], "1 for the phase that a Service is in."),
    metric(
        "weir_cutover_skew_seconds",
        Gauge,
        &[],
        "Time between the first and the last replica's switch in the last cutover.",
    ),
    metric("weir_cutover_total", Counter, &["result"], "Cutovers that came to an end, by result."),
    metric("weir_cutover_dropped_requests_total", Counter, &[], "Requests that were broken off because of a switch."),
    metric("weir_cutover_rejected_total", Counter, &["reason"], "Cutover annotations that were rejected, by reason."),
    metric("weir_build_info", Gauge, &["version"], "Always 1; the version is a label."),
    metric(
        "weir_worker_panics_total",
        Counter,
        &[],
        "Tasks (connections, streams, copies) that ended by a panic in Weir.",
    ),
    metric(
        "weir_worker_publish_age_seconds",
        Gauge,
        &[],
        "Time since the slowest worker published its statistics; above 1 a worker is stalled.",
    ),
    metric(
        "weir_accept_paused_total",
        Counter,
        &[],
        "How often accepting paused at the limit of file descriptors or connections.",
    ),
    metric("weir_access_log_dropped_total", Counter, &[], "Lines of the access log dropped because nobody read them."),
    metric("weir_log_dropped_total", Counter, &[], "Lines of Weir's own log dropped because nobody read them."),
    metric("process_start_time_seconds", Gauge, &[], "When the process started, seconds since the Unix epoch."),
    metric("process_cpu_seconds_total", Counter, &[], "CPU time in user and kernel mode."),
    metric("process_resident_memory_bytes", Gauge, &[], "Resident memory."),
    metric("process_open_fds", Gauge, &[], "Open file descriptors."),
    metric("process_max_fds", Gauge, &[], "Limit of open file descriptors."),
    metric("process_threads", Gauge, &[], "Threads."),
];

/// The table as Markdown, for the reference.
pub fn reference() -> String {
    let mut out = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "| `{}` | {} | {} | {} |", metric.name, metric.kind.text(), labels.join(", "), metric.help);
    }
    out
}
