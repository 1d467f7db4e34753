//! The one table of all `weir.dev/*` annotations: what each is for, what it accepts, its default, its parser.
//!
//! All of them stand on Services. A bad value never breaks a route, except where the annotation protects something:
//! then what it protects is not used at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::reading::Reading;
use super::values;
use crate::model::{
    ANNOTATION_DOMAIN, BackendLimits, Balance, CutoverPolicy, HashKey, LongLived, MinReady, OutlierPolicy, Preview,
};

/// What an annotation is for, which decides what a bad value does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// A setting: a bad value leaves the default in place.
    Setting,
    /// Protects the backend: with a bad value the backend is not used.
    Protective,
    /// Belongs to the switch of colors: with a bad value the switch stays as it is (`InvalidPolicy`).
    Cutover,
    /// Written by Weir, not read.
    Written,
    /// Known, without effect in this version.
    NotImplemented,
}

/// One annotation.
pub struct Annotation {
    /// The key without its domain: `balance` for `weir.dev/balance`.
    pub key: &'static str,
    /// What it is for.
    pub standing: Standing,
    /// The accepted syntax.
    pub accepts: &'static str,
    /// The default as written; empty: unset.
    pub default: &'static str,
    /// One sentence.
    pub doc: &'static str,
    read: fn(&mut Settings, &str) -> Result<(), String>,
}

/// What the annotations of one Service say.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Settings {
    pub endpoints: Option<Vec<SocketAddr>>,
    pub balance: Balance,
    pub health_path: Option<Arc<str>>,
    pub health_interval: Duration,
    pub health_timeout: Duration,
    pub health_healthy: u32,
    pub health_unhealthy: u32,
    pub outlier: OutlierPolicy,
    pub limits: BackendLimits,
    pub slow_start: Duration,
    pub empty_hold: Duration,
    pub tls_server_name: Option<Arc<str>>,
    pub tls_ca: Option<Arc<str>>,
    pub colors: Option<String>,
    pub color_label: bool,
    pub active: Option<Arc<str>>,
    pub preview: Option<Preview>,
    pub preview_from: Vec<IpNet>,
    pub policy: CutoverPolicy,
    pub hold: bool,
    pub abort: Option<Arc<str>>,
    pub retry: Option<Arc<str>>,
    /// Why the backend must not be used: a bad value of a protective annotation.
    pub blocked: Option<String>,
    /// Why the switch must stay as it is: a bad value of an annotation of the cutover.
    pub bad_policy: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoints: None,
            balance: Balance::default(),
            health_path: None,
            health_interval: Duration::from_secs(5),
            health_timeout: Duration::from_secs(2),
            health_healthy: 2,
            health_unhealthy: 3,
            outlier: OutlierPolicy::default(),
            limits: BackendLimits::default(),
            slow_start: Duration::ZERO,
            empty_hold: Duration::ZERO,
            tls_server_name: None,
            tls_ca: None,
            colors: None,
            color_label: false,
            active: None,
            preview: None,
            preview_from: Vec::new(),
            policy: CutoverPolicy::default(),
            hold: false,
            abort: None,
            retry: None,
            blocked: None,
            bad_policy: None,
        }
    }
}

const PATH: &str = "a path like /healthz";
const CONDITION: &str = "a whole number from 1 to 1000";
const NUMBER: &str = "a whole number from 0 to 4294967295; 0 is none";

macro_rules! table {
    ($($key:literal, $standing:ident, $accepts:expr, $default:literal, $doc:literal, $read:expr;)*) => {
        &[$(Annotation {
            key: $key, standing: Standing::$standing, accepts: $accepts, default: $default, doc: $doc, read: $read,
        },)*]
    };
}

/// Every annotation that Weir knows.
#[rustfmt::skip]
pub const TABLE: &[Annotation] = table![
    "endpoints", Setting, "addresses with ports, separated by commas: 127.0.0.1:9001,[::1]:9002", "",
        "Endpoints of the Service, instead of EndpointSlices.",
        |s, v| { s.endpoints = Some(endpoints(v)?); Ok(()) };
    "balance", Setting, "peak-ewma, round-robin, hash-header=NAME, hash-cookie=NAME or hash-address", "peak-ewma",
        "How an endpoint is picked.",
        |s, v| { s.balance = balance(v)?; Ok(()) };
    "health-path", Setting, PATH, "",
        "Path of the active health check by GET; unset: no active check.",
        |s, v| { s.health_path = Some(path(v)?); Ok(()) };
    "health-interval", Setting, "a duration of at least 100ms", "5s",
        "Between the starts of two health checks of one endpoint.",
        |s, v| { s.health_interval = at_least(v, Duration::from_millis(100))?; Ok(()) };
    "health-timeout", Setting, "a duration of at least 1ms", "2s",
        "How long one health check may take.",
        |s, v| { s.health_timeout = at_least(v, Duration::from_millis(1))?; Ok(()) };
    "health-healthy", Setting, CONDITION, "2",
        "Successes in a row that make an unhealthy endpoint healthy.",
        |s, v| { s.health_healthy = whole(v, 1, 1000)?; Ok(()) };
    "health-unhealthy", Setting, CONDITION, "3",
        "Failures in a row that make a healthy endpoint unhealthy.",
        |s, v| { s.health_unhealthy = whole(v, 1, 1000)?; Ok(()) };
    "outlier-consecutive", Setting, NUMBER, "5",
        "Failures in a row that eject an endpoint; 0 turns ejection off.",
        |s, v| { s.outlier.consecutive = whole(v, 0, u32::MAX)?; Ok(()) };
    "outlier-failure-percent", Setting, "a whole number from 0 to 100; 0 turns this rule off", "50",
        "Share of failures within the window that ejects an endpoint.",
        |s, v| { s.outlier.failure_percent = whole(v.strip_suffix('%').unwrap_or(v), 0, 100)?; Ok(()) };
    "outlier-min-requests", Setting, NUMBER, "20",
        "Requests within the window that are needed before the share counts.",
        |s, v| { s.outlier.min_requests = whole(v, 0, u32::MAX)?; Ok(()) };
    "outlier-window", Setting, "a duration of at least 1s", "10s",
        "Length of the window.",
        |s, v| { s.outlier.window = at_least(v, Duration::from_secs(1))?; Ok(()) };
    "outlier-base-ejection", Setting, "a duration of at least 1ms", "10s",
        "Length of the first ejection; the nth in a row is n times as long.",
        |s, v| { s.outlier.base_ejection = at_least(v, Duration::from_millis(1))?; Ok(()) };
    "outlier-max-ejection", Setting, "a duration of at least 1ms", "5m",
        "Longest ejection.",
        |s, v| { s.outlier.max_ejection = at_least(v, Duration::from_millis(1))?; Ok(()) };
    "max-in-flight", Setting, NUMBER, "10000",
        "Requests in flight to the backend; more are answered with 503.",
        |s, v| { s.limits.in_flight = whole(v, 0, u32::MAX)?; Ok(()) };
    "max-pending", Setting, NUMBER, "1000",
        "Requests waiting for a connection; more are answered with 503.",
        |s, v| { s.limits.pending = whole(v, 0, u32::MAX)?; Ok(()) };
    "slow-start", Setting, values::DURATION, "0s",
        "How long the share of a new endpoint grows from a tenth to whole.",
        |s, v| { s.slow_start = values::duration(v)?; Ok(()) };
    "empty-hold", Setting, values::DURATION, "0s",
        "How long the last endpoints are kept when all vanish at once.",
        |s, v| { s.empty_hold = values::duration(v)?; Ok(()) };
    "upstream-tls-server-name", Protective, "a host name", "",
        "Name sent as SNI and checked in the certificate of endpoints.",
        |s, v| { s.tls_server_name = Some(values::host_name(v)?); Ok(()) };
    "upstream-tls-ca", Protective, "the name of a ConfigMap or Secret of this namespace with the key ca.crt", "",
        "Roots that certificates of endpoints are verified with.",
        |s, v| { s.tls_ca = Some(object_name(v)?); Ok(()) };
    "colors", Cutover, "name=service[:port] for 2 to 8 colors, separated by commas: blue=web-v1,green=web-v2", "",
        "The colors of the Service and their child Services.",
        |s, v| { s.colors = Some(v.to_owned()); Ok(()) };
    "active", Cutover, "the name of a color", "the first color listed",
        "The switch: the color that is wanted. Written only by its owner.",
        |s, v| { s.active = Some(name(v)?); Ok(()) };
    "preview", Cutover, "any of header=NAME, cookie=NAME, host=NAME, separated by commas", "",
        "How a client asks for a color that is not effective yet.",
        |s, v| { s.preview = Some(preview(v)?); Ok(()) };
    "preview-from", Cutover, "networks or addresses, separated by commas: 10.0.0.0/8,192.0.2.7", "everyone",
        "Who may preview.",
        |s, v| { s.preview_from = networks(v)?; Ok(()) };
    "cutover.min-ready", Cutover, "a percentage like 80% or a count like 3", "100%",
        "Ready endpoints that the new color needs.",
        |s, v| { s.policy.min_ready = min_ready(v)?; Ok(()) };
    "cutover.health-path", Cutover, PATH, "a TCP connect",
        "Path probed by GET on every endpoint of the new color.",
        |s, v| { s.policy.health_path = Some(path(v)?); Ok(()) };
    "cutover.health-interval", Cutover, "a duration of at least 10ms", "1s",
        "Between two probes of one endpoint.",
        |s, v| { s.policy.health_interval = at_least(v, Duration::from_millis(10))?; Ok(()) };
    "cutover.health-timeout", Cutover, "a duration of at least 1ms", "1s",
        "How long one probe may take.",
        |s, v| { s.policy.health_timeout = at_least(v, Duration::from_millis(1))?; Ok(()) };
    "cutover.health-successes", Cutover, CONDITION, "3",
        "Successful probes in a row that every endpoint needs.",
        |s, v| { s.policy.health_successes = whole(v, 1, 1000)?; Ok(()) };
    "cutover.warm-timeout", Cutover, "a duration of at least 1ms", "10m",
        "How long warming and verifying may take together.",
        |s, v| { s.policy.warm_timeout = at_least(v, Duration::from_millis(1))?; Ok(()) };
    "cutover.prewarm-connections", Cutover, "auto or a whole number from 0 to 1000", "auto",
        "Connections opened to each new endpoint per worker before the switch.",
        |s, v| { s.policy.prewarm_connections = if v == "auto" { None } else { Some(whole(v, 0, 1000)?) }; Ok(()) };
    "cutover.long-lived", Cutover, "keep, drain or close", "drain",
        "What happens to streams on the old color.",
        |s, v| { s.policy.long_lived = long_lived(v)?; Ok(()) };
    "cutover.drain-timeout", Cutover, values::DURATION, "5m",
        "How long streams on the old color have.",
        |s, v| { s.policy.drain_timeout = values::duration(v)?; Ok(()) };
    "cutover.hold", Cutover, "before-commit, true or false", "false",
        "Stops a switch before traffic moves, until it is removed.",
        |s, v| { s.hold = hold(v)?; Ok(()) };
    "cutover.abort", Cutover, "any new value", "",
        "Aborts a running switch, or rolls it back.",
        |s, v| { s.abort = Some(v.into()); Ok(()) };
    "cutover.retry", Cutover, "any new value", "",
        "Tries a failed switch again.",
        |s, v| { s.retry = Some(v.into()); Ok(()) };
    "effective", Written, "", "", "The color that is served.", ignore;
    "phase", Written, "", "", "Phase of the switch.", ignore;
    "last-cutover", Written, "", "", "Name of the last switch.", ignore;
    "color-label", NotImplemented, "", "", "Pod label whose value is the color.",
        |s, _| { s.color_label = true; Ok(()) };
    "cutover-policy", NotImplemented, "", "", "Name of a CutoverPolicy.", ignore;
    "cutover.capacity-check", NotImplemented, "", "", "Check of the new color's capacity.", ignore;
    "cutover.health-type", NotImplemented, "", "", "Kind of probe.", ignore;
    "cutover.mirror", NotImplemented, "", "", "Mirroring before the switch.", ignore;
    "cutover.steps", NotImplemented, "", "", "Canary steps.", ignore;
    "cutover.commit-lead", NotImplemented, "", "", "Lead of the timed commit.", ignore;
    "cutover.skew-bound", NotImplemented, "", "", "Bound of the skew between replicas.", ignore;
    "cutover.participants", NotImplemented, "", "", "Who votes.", ignore;
    "cutover.soak", NotImplemented, "", "", "Time of observation after the switch.", ignore;
    "cutover.auto-rollback", NotImplemented, "", "", "Rollback by analysis.", ignore;
    "cutover.alpha", NotImplemented, "", "", "Error probability of the analysis.", ignore;
    "cutover.min-requests", NotImplemented, "", "", "Requests that the analysis needs.", ignore;
    "cutover.max-error-rate", NotImplemented, "", "", "Absolute cap of errors.", ignore;
    "cutover.insufficient", NotImplemented, "", "", "What too few requests mean.", ignore;
    "cutover.sessions", NotImplemented, "", "", "What happens to sticky sessions.", ignore;
    "cutover.sessions-timeout", NotImplemented, "", "", "How long sessions are kept.", ignore;
    "cutover.standby", NotImplemented, "", "", "How long the old color stays.", ignore;
    "cutover.gate-url", NotImplemented, "", "", "Asked before the switch.", ignore;
    "cutover.notify-url", NotImplemented, "", "", "Told after the switch.", ignore;
];

/// The key of an annotation of Weir, without its domain.
pub(super) fn own_key(key: &str) -> Option<&str> {
    key.strip_prefix(ANNOTATION_DOMAIN)?.strip_prefix('/')
}

/// Reads the annotations of a Service; what is wrong becomes a verdict.
pub(super) fn read(reading: &mut Reading<'_>, annotations: &BTreeMap<String, String>) -> Settings {
    let mut settings = Settings::default();
    for (full, value) in annotations {
        let Some(key) = own_key(full) else { continue };
        let Some(annotation) = TABLE.iter().find(|annotation| annotation.key == key) else {
            unknown(reading, full, key);
            continue;
        };
        let field = field(full);
        if annotation.standing == Standing::NotImplemented {
            let problem = format!("{full} has no effect in this version");
            reading.warning("NotImplemented", field.clone(), problem, "remove it, or use a version that has it");
        }
        let Err(wrong) = (annotation.read)(&mut settings, value.trim()) else { continue };
        let wrong = format!("{full}: {wrong}");
        let accepts = format!("write {}", annotation.accepts);
        match annotation.standing {
            Standing::Protective => {
                let problem = format!("{wrong}; the Service is not used, because this protects it");
                reading.error("InvalidAnnotation", field, problem, &accepts);
                settings.blocked.get_or_insert(wrong);
            }
            Standing::Cutover => {
                let problem = format!("{wrong}; the color that is served stays");
                reading.error("InvalidPolicy", field, problem, &accepts);
                settings.bad_policy.get_or_insert(format!("{wrong}; {accepts}"));
            }
            _ => {
                let default = if annotation.default.is_empty() { "unset" } else { annotation.default };
                let problem = format!("{wrong}; the default stays: {default}");
                reading.error("InvalidAnnotation", field, problem, &accepts);
            }
        }
    }
    settings
}

/// Tells about annotations of Weir on an object that is not a Service.
pub(super) fn misplaced(reading: &mut Reading<'_>, annotations: Option<&BTreeMap<String, String>>) {
    for full in annotations.into_iter().flat_map(BTreeMap::keys) {
        let Some(key) = own_key(full) else { continue };
        if TABLE.iter().any(|annotation| annotation.key == key) {
            let problem = format!("{full} has no effect on this kind");
            reading.warning("MisplacedAnnotation", field(full), problem, "write it on the Service");
        } else {
            unknown(reading, full, key);
        }
    }
}

fn unknown(reading: &mut Reading<'_>, full: &str, key: &str) {
    let nearest = TABLE
        .iter()
        .filter(|annotation| annotation.standing != Standing::NotImplemented)
        .map(|annotation| (values::distance(key, annotation.key), annotation.key))
        .min()
        .filter(|(distance, _)| *distance <= (key.len() / 3).max(2));
    let fix = match nearest {
        Some((_, nearest)) => format!("did you mean {ANNOTATION_DOMAIN}/{nearest}?"),
        None => "remove it".to_owned(),
    };
    reading.warning("UnknownAnnotation", field(full), format!("{full} is not known and has no effect"), &fix);
}

/// The field of an annotation, as in a JSON path.
pub(super) fn field(full: &str) -> String {
    format!("metadata.annotations[{full}]")
}

fn ignore(_: &mut Settings, _: &str) -> Result<(), String> {
    Ok(())
}

fn endpoints(text: &str) -> Result<Vec<SocketAddr>, String> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => all.push(address),
            _ => return Err(format!("`{part}` is not an address with a port")),
        }
    }
    Ok(all)
}

fn balance(text: &str) -> Result<Balance, String> {
    match text.split_once('=') {
        None if text == "peak-ewma" => Ok(Balance::PeakEwma),
        None if text == "round-robin" => Ok(Balance::RoundRobin),
        None if text == "hash-address" => Ok(Balance::Hash(HashKey::Address)),
        Some(("hash-header", header)) => Ok(Balance::Hash(HashKey::Header(values::header_name(header)?))),
        Some(("hash-cookie", cookie)) => Ok(Balance::Hash(HashKey::Cookie(cookie_name(cookie)?))),
        _ => Err(format!("`{text}` is not a way to balance")),
    }
}

fn cookie_name(text: &str) -> Result<Arc<str>, String> {
    // A cookie's name is a token like a header's (RFC 6265, section 4.1.1), but keeps its case.
    values::header_name(text).map(|_| text.into()).map_err(|_| format!("`{text}` is not a cookie name"))
}

fn path(text: &str) -> Result<Arc<str>, String> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        Ok(text.into())
    } else {
        Err(format!("`{text}` is not a path"))
    }
}

fn at_least(text: &str, least: Duration) -> Result<Duration, String> {
    let duration = values::duration(text)?;
    if duration < least { Err(format!("`{text}` is less than {least:?}")) } else { Ok(duration) }
}

fn whole(text: &str, least: u32, most: u32) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("`{text}` is not a whole number from {least} to {most}")),
    }
}

fn object_name(text: &str) -> Result<Arc<str>, String> {
    if text.split('.').all(values::is_label) {
        Ok(text.into())
    } else {
        Err(format!("`{text}` is not an object's name"))
    }
}

fn name(text: &str) -> Result<Arc<str>, String> {
    if values::is_label(text) { Ok(text.into()) } else { Err(format!("`{text}` is not a color's name")) }
}

fn preview(text: &str) -> Result<Preview, String> {
    let mut preview = Preview::default();
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("header", header)) => preview.header = Some(values::header_name(header)?),
            Some(("cookie", cookie)) => preview.cookie = Some(cookie_name(cookie)?),
            Some(("host", host)) => preview.host = Some(values::host_name(host)?),
            _ => return Err(format!("`{part}` is none of header=, cookie=, host=")),
        }
    }
    Ok(preview)
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let network = part.parse::<IpNet>().or_else(|_| part.parse::<std::net::IpAddr>().map(IpNet::from));
        all.push(network.map_err(|_| format!("`{part}` is not a network"))?);
    }
    // An empty list would mean everyone: the opposite of what was begun here.
    if all.is_empty() { Err("it names no network".to_owned()) } else { Ok(all) }
}

fn min_ready(text: &str) -> Result<MinReady, String> {
    match text.strip_suffix('%') {
        Some(percent) => whole(percent, 1, 1000).map(MinReady::Percent),
        None => whole(text, 1, u32::MAX).map(MinReady::Count),
    }
}

fn long_lived(text: &str) -> Result<LongLived, String> {
    match text {
        "keep" => Ok(LongLived::Keep),
        "drain" => Ok(LongLived::Drain),
        "close" => Ok(LongLived::Close),
        _ => Err(format!("`{text}` is none of keep, drain, close")),
    }
}

fn hold(text: &str) -> Result<bool, String> {
    match text {
        "before-commit" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{text}` is none of before-commit, true, false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_in_the_table_is_accepted_and_is_the_default() {
        for annotation in TABLE {
            let literal = !annotation.default.is_empty() && !annotation.default.contains(' ');
            if literal && annotation.default != "everyone" {
                let mut settings = Settings::default();
                assert_eq!((annotation.read)(&mut settings, annotation.default), Ok(()), "{}", annotation.key);
                assert_eq!(settings, Settings::default(), "{}", annotation.key);
            }
        }
    }

    #[test]
    fn keys_are_unique() {
        let mut keys: Vec<_> = TABLE.iter().map(|annotation| annotation.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), TABLE.len());
    }
}
