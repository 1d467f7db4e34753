//! `/metrics`: every number that Weir shows to Prometheus, from one table.
//!
//! Nothing is registered and kept up to date; a page is made from a reading of the statistics when it is asked for. Labels
//! are bounded by configuration, never by what clients send.

mod exposition;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::ObjectName;

pub use exposition::Format;
pub use table::{Kind, METRICS, Metric, reference};

use super::gauges::{FLOODS, Gauges};
use super::process::Process;
use super::stats::{CODE_CLASSES, Class, ColorLabels, ColorTotals, Distribution, EndpointTotals, Totals};
use exposition::Families;

/// What other rooms know and `/metrics` shows. Filled anew for every page.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Endpoints that may be picked, per color and port.
    pub ready_endpoints: Vec<(ColorLabels, u64)>,
    /// Generation of the snapshot; 0 before the first.
    pub generation: u64,
    /// When it was published, seconds since the Unix epoch.
    pub last_publish: Option<f64>,
    /// Time from noticing a change to serving it, by the way that it takes.
    pub changes: Vec<(&'static str, Distribution)>,
    /// How old the provider's view of the world may be, seconds; `None` where that cannot happen.
    pub view_age: Option<f64>,
    /// What is written to the API server; `None` where nothing is.
    pub writer: Option<WriterFacts>,
    /// Objects that are not served, or not as a whole.
    pub rejected_objects: u64,
    /// Certificates by their Secret, with the end of their validity in seconds since the Unix epoch.
    pub certificates: Vec<(ObjectName, i64)>,
    /// Cutovers.
    pub cutovers: CutoverFacts,
    /// Lines that the access log dropped.
    pub access_log_dropped: u64,
    /// Lines that Weir's own log dropped.
    pub log_dropped: u64,
}

/// What `/metrics` shows of writing to an API server.
#[derive(Clone, Debug, Default)]
pub struct WriterFacts {
    /// Whether this process is the one that writes.
    pub leads: bool,
    /// Objects that are still to be written to.
    pub waiting: u64,
    /// How long the oldest of them has waited, seconds.
    pub oldest: f64,
    /// Writes by kind and result.
    pub writes: Vec<(&'static str, &'static str, u64)>,
}

/// What `/metrics` shows of cutovers.
#[derive(Clone, Debug, Default)]
pub struct CutoverFacts {
    /// Phase of every Service with colors.
    pub phases: Vec<(ObjectName, Arc<str>)>,
    /// Time between the first and the last replica's switch in the last cutover, seconds.
    pub skew_seconds: Option<f64>,
    /// Cutovers that came to an end, by result.
    pub results: Vec<(Arc<str>, u64)>,
    /// Requests that were broken off because of a switch.
    pub dropped_requests: u64,
    /// Rejected annotations, by reason.
    pub rejected: Vec<(Arc<str>, u64)>,
}

/// Everything that a page is made of.
#[derive(Debug)]
pub struct Page<'a> {
    /// Statistics; a full reading.
    pub totals: &'a Totals,
    /// Seconds since the worker published that did so last among all; what is beyond a second is a stalled worker.
    pub publish_age_seconds: f64,
    /// Workers' counters.
    pub gauges: &'a Gauges,
    /// What other rooms know.
    pub facts: &'a Facts,
    /// What the kernel says.
    pub process: &'a Process,
    /// When the process started, seconds since the Unix epoch.
    pub started: f64,
    /// Whether series per endpoint are shown: there may be many.
    pub per_endpoint: bool,
}

impl Page<'_> {
    /// Writes the page.
    pub fn render(&self, format: Format) -> String {
        let mut families = Families::default();
        self.requests(&mut families);
        self.endpoints(&mut families);
        self.connections(&mut families);
        self.configuration(&mut families);
        self.cutovers(&mut families);
        self.health(&mut families);
        families.render(format)
    }

    fn requests(&self, families: &mut Families) {
        // Routes first: a rule may lead to several ports of one Service, which are one series here.
        let mut codes: BTreeMap<[&str; 4], [u64; CODE_CLASSES.len()]> = BTreeMap::new();
        for route in &self.totals.routes {
            let color = &route.labels.color;
            let sums = codes.entry([&color.namespace, &color.service, &color.color, &route.labels.route]).or_default();
            sums.iter_mut().zip(route.codes).for_each(|(sum, more)| *sum += more);
        }
        let mut requests = families.of("weir_requests_total");
        for ([namespace, service, color, route], sums) in codes {
            for (class, count) in CODE_CLASSES.iter().zip(sums).filter(|(_, count)| *count > 0) {
                requests.add(&[namespace, service, color, route, class], count as f64);
            }
        }
        let mut colors: BTreeMap<[&str; 3], ColorTotals> = BTreeMap::new();
        for color in &self.totals.colors {
            let labels = &color.labels;
            colors
                .entry([&labels.namespace, &labels.service, &labels.color])
                .and_modify(|sum| sum.merge(color))
                .or_insert_with(|| color.clone());
        }
        let mut each = |name, value: fn(&ColorTotals) -> f64| {
            let mut family = families.of(name);
            colors.iter().for_each(|(labels, color)| family.add(labels, value(color)));
        };
        each("weir_upstream_inflight", |color| color.flow.in_flight() as f64);
        each("weir_upstream_inflight_seconds_total", |color| seconds(color.area_ns));
        each("weir_upstream_queue_seconds_total", |color| seconds(color.queue_ns));
        let mut duration = families.of("weir_request_duration_seconds");
        for (labels, color) in &colors {
            duration.add_histogram(labels, &color.latency);
        }
        let mut errors = families.of("weir_upstream_errors_total");
        for ([namespace, service, name], color) in &colors {
            for class in [Class::ServerError, Class::Connect, Class::Reset, Class::Timeout] {
                errors.add(&[namespace, service, name, class.text()], color.class(class) as f64);
            }
        }
        let mut bytes = families.of("weir_upstream_bytes_total");
        for ([namespace, service, name], color) in &colors {
            bytes.add(&[namespace, service, name, "in"], color.bytes_in as f64);
            bytes.add(&[namespace, service, name, "out"], color.bytes_out as f64);
        }
        let mut ready: BTreeMap<[&str; 3], u64> = BTreeMap::new();
        for (labels, count) in &self.facts.ready_endpoints {
            // The ports of a Service lead to the same pods.
            let most = ready.entry([&labels.namespace, &labels.service, &labels.color]).or_default();
            *most = (*most).max(*count);
        }
        let mut family = families.of("weir_upstream_ready_endpoints");
        ready.iter().for_each(|(labels, count)| family.add(labels, *count as f64));
        let mut faults = families.of("weir_faults_total");
        self.totals.faults.iter().for_each(|(reason, count)| faults.add(&[reason], *count as f64));
    }

    fn endpoints(&self, families: &mut Families) {
        if !self.per_endpoint {
            return;
        }
        // An endpoint that is on its way out and its successor have the same labels.
        let mut endpoints: BTreeMap<(&ColorLabels, String), EndpointTotals> = BTreeMap::new();
        for endpoint in &self.totals.endpoints {
            let key = (&endpoint.labels.color, endpoint.labels.address.to_string());
            endpoints
                .entry(key)
                .and_modify(|sum| {
                    sum.flow.add(&endpoint.flow);
                    sum.area_ns = sum.area_ns.wrapping_add(endpoint.area_ns);
                    sum.errors += endpoint.errors;
                })
                .or_insert_with(|| endpoint.clone());
        }
        let mut each = |name, value: fn(&EndpointTotals) -> f64| {
            let mut family = families.of(name);
            for ((labels, address), endpoint) in &endpoints {
                let port = labels.port.to_string();
                let labels = [&*labels.namespace, &*labels.service, &*labels.color, &*port, address.as_str()];
                family.add(&labels, value(endpoint));
            }
        };
        each("weir_endpoint_attempts_total", |endpoint| endpoint.flow.started as f64);
        each("weir_endpoint_errors_total", |endpoint| endpoint.errors as f64);
        each("weir_endpoint_inflight_seconds_total", |endpoint| seconds(endpoint.area_ns));
    }

    fn connections(&self, families: &mut Families) {
        let listeners = self.gauges.listeners();
        let mut family = families.of("weir_downstream_connections");
        for (name, totals) in &listeners {
            family.add(&[name, "active"], totals.active as f64);
            family.add(&[name, "idle"], totals.idle as f64);
            family.add(&[name, "opening"], totals.opening() as f64);
        }
        let mut family = families.of("weir_downstream_accepted_total");
        listeners.iter().for_each(|(name, totals)| family.add(&[name], totals.accepted as f64));
        let mut family = families.of("weir_downstream_refused_total");
        listeners.iter().for_each(|(name, totals)| family.add(&[name], totals.refused as f64));
        let mut family = families.of("weir_tls_handshakes_total");
        for (name, totals) in &listeners {
            family.add(&[name, "ok"], totals.handshakes_ok as f64);
            family.add(&[name, "failed"], totals.handshakes_failed as f64);
        }
        let mut family = families.of("weir_http2_floods_total");
        for (name, totals) in &listeners {
            for (kind, count) in FLOODS.iter().zip(totals.floods) {
                family.add(&[name, kind], count as f64);
            }
        }
        let with_datagrams = || listeners.iter().filter(|(_, totals)| totals.datagrams_in > 0);
        let mut family = families.of("weir_datagrams_total");
        for (name, totals) in with_datagrams() {
            family.add(&[name, "in"], totals.datagrams_in as f64);
            family.add(&[name, "out"], totals.datagrams_out as f64);
        }
        let mut family = families.of("weir_datagrams_dropped_total");
        with_datagrams().for_each(|(name, totals)| family.add(&[name], totals.datagrams_dropped as f64));
        let mut family = families.of("weir_upstream_connections");
        family.add(&["active"], self.gauges.sum(|worker| &worker.upstream_active) as f64);
        family.add(&["idle"], self.gauges.sum(|worker| &worker.upstream_idle) as f64);
        let opened = self.gauges.sum(|worker| &worker.upstream_opened);
        families.of("weir_upstream_connections_opened_total").add(&[], opened as f64);
    }

    fn configuration(&self, families: &mut Families) {
        let facts = self.facts;
        families.of("weir_config_generation").add(&[], facts.generation as f64);
        families.of("weir_config_last_publish_timestamp_seconds").add_some(&[], facts.last_publish);
        let mut family = families.of("weir_config_change_seconds");
        facts.changes.iter().for_each(|(path, latency)| family.add_histogram(&[path], latency));
        families.of("weir_config_view_age_seconds").add_some(&[], facts.view_age);
        if let Some(writer) = &facts.writer {
            families.of("weir_leader").add(&[], f64::from(u8::from(writer.leads)));
            families.of("weir_status_queue_length").add(&[], writer.waiting as f64);
            families.of("weir_status_oldest_seconds").add(&[], writer.oldest);
            let mut family = families.of("weir_status_writes_total");
            writer.writes.iter().for_each(|(kind, result, count)| family.add(&[kind, result], *count as f64));
        }
        families.of("weir_config_rejected_objects").add(&[], facts.rejected_objects as f64);
        let certificates: BTreeMap<&ObjectName, i64> =
            facts.certificates.iter().map(|(name, end)| (name, *end)).collect();
        let mut family = families.of("weir_certificate_expiry_timestamp_seconds");
        for (secret, end) in certificates {
            family.add(&[&secret.namespace, &secret.name], end as f64);
        }
    }

    fn cutovers(&self, families: &mut Families) {
        let cutovers = &self.facts.cutovers;
        let mut family = families.of("weir_cutover_phase");
        let phases: BTreeMap<&ObjectName, &str> =
            cutovers.phases.iter().map(|(name, phase)| (name, &**phase)).collect();
        phases.iter().for_each(|(service, phase)| family.add(&[&service.namespace, &service.name, phase], 1.0));
        families.of("weir_cutover_skew_seconds").add_some(&[], cutovers.skew_seconds);
        let sums = |pairs: &[(Arc<str>, u64)]| {
            let mut sums: BTreeMap<Arc<str>, u64> = BTreeMap::new();
            pairs.iter().for_each(|(label, count)| *sums.entry(label.clone()).or_default() += count);
            sums
        };
        let mut family = families.of("weir_cutover_total");
        sums(&cutovers.results).iter().for_each(|(result, count)| family.add(&[result], *count as f64));
        let mut family = families.of("weir_cutover_rejected_total");
        sums(&cutovers.rejected).iter().for_each(|(reason, count)| family.add(&[reason], *count as f64));
        families.of("weir_cutover_dropped_requests_total").add(&[], cutovers.dropped_requests as f64);
    }

    fn health(&self, families: &mut Families) {
        families.of("weir_build_info").add(&[env!("CARGO_PKG_VERSION")], 1.0);
        families.of("weir_worker_panics_total").add(&[], self.gauges.sum(|worker| &worker.panics) as f64);
        families.of("weir_worker_publish_age_seconds").add(&[], self.publish_age_seconds);
        families.of("weir_accept_paused_total").add(&[], self.gauges.sum(|worker| &worker.paused_accepts) as f64);
        families.of("weir_access_log_dropped_total").add(&[], self.facts.access_log_dropped as f64);
        families.of("weir_log_dropped_total").add(&[], self.facts.log_dropped as f64);
        families.of("process_start_time_seconds").add(&[], self.started);
        families.of("process_cpu_seconds_total").add_some(&[], self.process.cpu_seconds);
        families.of("process_resident_memory_bytes").add_some(&[], self.process.resident_bytes);
        families.of("process_open_fds").add_some(&[], self.process.open_fds);
        families.of("process_max_fds").add_some(&[], self.process.max_fds);
        families.of("process_threads").add_some(&[], self.process.threads);
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests;
