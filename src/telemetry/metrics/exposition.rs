//! From numbers to text: the Prometheus text format 0.0.4 and OpenMetrics 1.0.

use std::fmt::Write;

use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, MetricFamily, MetricType};

use super::table::{Kind, METRICS, Metric};
use crate::telemetry::stats::Distribution;
use crate::telemetry::stats::histogram::CLASSIC_NS;

/// How a page is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header prefers; text when it says nothing (RFC 9110 section 12.5.1, without the wildcards'
    /// finer points: whoever takes anything gets text).
    pub fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let parts = accept.split(',').filter_map(|part| {
                let mut parameters = part.split(';').map(str::trim);
                let media = parameters.next().unwrap_or_default();
                let mut quality = 1.0;
                for parameter in parameters {
                    match parameter.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                        Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                        Some(("version", version)) if wanted.contains("openmetrics") && version != "1.0.0" => {
                            return None;
                        }
                        _ => {}
                    }
                }
                media.eq_ignore_ascii_case(wanted).then_some(quality)
            });
            parts.fold(0.0_f32, f32::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// Value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Metrics under construction.
pub(super) struct Families {
    /// In the order of the table.
    families: Vec<Vec<prometheus::proto::Metric>>,
}

impl Default for Families {
    fn default() -> Self {
        Self { families: METRICS.iter().map(|_| Vec::new()).collect() }
    }
}

/// One metric under construction.
pub(super) struct Family<'a> {
    metric: &'static Metric,
    series: &'a mut Vec<prometheus::proto::Metric>,
}

impl Families {
    /// The metric of this name, which is in the table.
    pub fn of(&mut self, name: &'static str) -> Family<'_> {
        let index =
            METRICS.iter().position(|metric| metric.name == name).expect("every exposed metric is in the table");
        Family { metric: &METRICS[index], series: &mut self.families[index] }
    }

    /// Writes every metric that has a value.
    pub fn render(self, format: Format) -> String {
        let families: Vec<MetricFamily> = METRICS
            .iter()
            .zip(self.families)
            .filter(|(_, series)| !series.is_empty())
            .map(|(metric, series)| {
                let mut family = MetricFamily::default();
                family.set_name(metric.name.to_owned());
                family.set_help(metric.help.to_owned());
                family.set_field_type(match metric.kind {
                    Kind::Counter => MetricType::COUNTER,
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Histogram => MetricType::HISTOGRAM,
                });
                family.set_metric(series);
                family
            })
            .collect();
        let mut out = String::new();
        match format {
            Format::Text => {
                TextEncoder::new().encode_utf8(&families, &mut out).expect("every family has a name and a value");
            }
            Format::OpenMetrics => {
                families.iter().for_each(|family| open_metrics(&mut out, family));
                out.push_str("# EOF\n");
            }
        }
        out
    }
}

impl Family<'_> {
    /// Adds a value for these values of the metric's labels.
    pub fn add(&mut self, labels: &[&str], value: f64) {
        let mut series = self.labelled(labels);
        match self.metric.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                series.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                series.set_gauge(gauge);
            }
        }
        self.series.push(series);
    }

    /// Adds a value if there is one.
    pub fn add_some(&mut self, labels: &[&str], value: Option<f64>) {
        if let Some(value) = value {
            self.add(labels, value);
        }
    }

    /// Adds a distribution.
    pub fn add_histogram(&mut self, labels: &[&str], distribution: &Distribution) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(distribution.count());
        histogram.set_sample_sum(super::seconds(distribution.sum_ns));
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(super::seconds(bound));
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(CLASSIC_NS.into_iter().zip(distribution.classic()).map(bucket).collect());
        let mut series = self.labelled(labels);
        series.set_histogram(histogram);
        self.series.push(series);
    }

    fn labelled(&self, values: &[&str]) -> prometheus::proto::Metric {
        debug_assert_eq!(values.len(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        prometheus::proto::Metric::from_label(self.metric.labels.iter().zip(values).map(pair).collect())
    }
}

/// One family as OpenMetrics 1.0 writes it. It differs from the text format in the names of counters, in how numbers that
/// are bounds look, and in what is escaped in a help text.
fn open_metrics(out: &mut String, family: &MetricFamily) {
    let kind = family.get_field_type();
    let name = match kind {
        MetricType::COUNTER => family.name().strip_suffix("_total").unwrap_or(family.name()),
        _ => family.name(),
    };
    let text = match kind {
        MetricType::COUNTER => Kind::Counter.text(),
        MetricType::HISTOGRAM => Kind::Histogram.text(),
        _ => Kind::Gauge.text(),
    };
    let _ = write!(out, "# TYPE {name} {text}\n# HELP {name} ");
    escape(out, family.help());
    out.push('\n');
    for series in family.get_metric() {
        let mut sample = |suffix: &str, bound: Option<&str>, value: f64| {
            out.push_str(name);
            out.push_str(suffix);
            let pairs = series.get_label().iter().map(|pair| (pair.name(), pair.value()));
            for (index, (label, value)) in pairs.chain(bound.map(|bound| ("le", bound))).enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                out.push_str(label);
                out.push_str("=\"");
                escape(out, value);
                out.push('"');
            }
            if bound.is_some() || !series.get_label().is_empty() {
                out.push('}');
            }
            let _ = writeln!(out, " {value}");
        };
        match kind {
            MetricType::COUNTER => sample("_total", None, series.get_counter().get_value()),
            MetricType::HISTOGRAM => {
                let histogram = series.get_histogram();
                for bucket in histogram.get_bucket() {
                    // `{:?}` writes whole numbers with a fraction, as the canonical form wants.
                    let bound = format!("{:?}", bucket.upper_bound());
                    sample("_bucket", Some(&bound), bucket.cumulative_count() as f64);
                }
                sample("_bucket", Some("+Inf"), histogram.get_sample_count() as f64);
                sample("_count", None, histogram.get_sample_count() as f64);
                sample("_sum", None, histogram.get_sample_sum());
            }
            _ => sample("", None, series.get_gauge().get_value()),
        }
    }
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}
