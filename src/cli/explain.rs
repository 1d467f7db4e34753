//! `weir explain`: who would serve this request, and why; asked of a running Weir or of manifests.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::client::{Admin, AdminError};
use super::exit::{CliError, Exit};
use super::manifests;
use super::output::{self, Format, cell};
use super::settings::{self, Flags};
use crate::admin::{Question, show};

/// Shows which listener, route, rule, color and endpoint would serve a request, and why; also who would take a connection
/// that is not HTTP, or a session of datagrams.
///
/// Nothing is sent anywhere. Exit code 1 when nobody would serve it.
#[derive(clap::Args, Debug)]
#[command(allow_missing_positional = true)]
pub(super) struct Explain {
    /// The method; default: GET.
    #[arg(value_name = "METHOD")]
    method: Option<String>,
    /// The URL, for example http://shop.example/cart, or tls://shop.example:443, tcp://HOST:PORT, udp://HOST:PORT.
    #[arg(value_name = "URL")]
    url: String,
    /// Address that the client connects to, where Gateways have addresses of their own.
    #[arg(long, value_name = "ADDR")]
    at: Option<IpAddr>,
    /// A header of the request, NAME: VALUE; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Asks manifests in this file or folder, instead of a running Weir.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Settings file that the manifests would be served with.
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Address of the running Weir's admin API.
    #[arg(long, value_name = "ADDR", env = "WEIR_ADMIN", default_value = super::ADMIN)]
    admin: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("no colon; write NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(super) fn explain(arguments: &Explain) -> Result<Exit, CliError> {
    let question = Question {
        method: arguments.method.clone().unwrap_or_else(|| "GET".to_owned()),
        url: arguments.url.clone(),
        headers: arguments.headers.clone(),
        at: arguments.at,
    };
    let refused = |problem: String| CliError::Argument {
        argument: match &arguments.method {
            Some(method) => format!("{method} {}", question.url),
            None => question.url.clone(),
        },
        problem,
        fix: "write a request that a client could send, for example GET http://shop.example/cart, or tcp://HOST:PORT"
            .to_owned(),
    };
    // Judged here in any case, so that a bad question is the same mistake with and without a running Weir.
    show::explain(&crate::proxy::snapshot::Snapshot::default(), &question).map_err(refused)?;
    let value = match &arguments.manifests {
        Some(path) => {
            let (settings, _) = settings::load(arguments.config.as_deref(), &Flags::default())?;
            let loaded = manifests::load(path, &settings)?;
            show::explain(&manifests::snapshot(&loaded.translation), &question).map_err(refused)?
        }
        None => match Admin::at(&arguments.admin).json(&path_of(&question)) {
            Err(AdminError::Refused { status: 400, message, .. }) => return Err(refused(message)),
            answer => answer?,
        },
    };
    output::print(&match arguments.output {
        Format::Table => text(&value),
        format => output::machine(format, &value),
    });
    Ok(if value["chosen"].is_null() { Exit::Findings } else { Exit::Ok })
}

fn path_of(question: &Question) -> String {
    let mut path = format!("/api/v1/explain?method={}&url={}", encoded(&question.method), encoded(&question.url));
    if let Some(at) = question.at {
        let _ = write!(path, "&at={}", encoded(&at.to_string()));
    }
    for (name, value) in &question.headers {
        let _ = write!(path, "&header={}", encoded(&format!("{name}:{value}")));
    }
    path
}

/// Percent-encodes everything but the unreserved characters of RFC 3986, section 2.3.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Writes lines of a word and what it means.
struct Lines(String);

impl Lines {
    fn add(&mut self, what: &str, how: impl std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{what:<12} {how}");
    }
}

fn listed<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    let mut lines = Lines(String::new());
    if value.get("streams").is_some() {
        of_stream(value, &mut lines)
    } else {
        of_request(value, &mut lines)
    }
    lines.0
}

fn listener(value: &Value, served: bool, lines: &mut Lines) {
    let served = if served { "" } else { " (nothing is served there)" };
    lines.add("listener", format!("{}{served}", cell(&value["bind"])));
    let others: Vec<String> = listed(value, "others").map(cell).collect();
    if !others.is_empty() {
        lines.add("", format!("there are others at this port, which --at chooses: {}", others.join(", ")));
    }
}

fn certificate(value: &Value, lines: &mut Lines) {
    if let certificate @ Value::Object(_) = &value["certificate"] {
        lines
            .add("certificate", format!("Secret {}, for {}", cell(&certificate["secret"]), cell(&certificate["host"])));
    }
}

fn of_stream(value: &Value, lines: &mut Lines) {
    listener(value, !value["speaks"].is_null(), lines);
    let is_tls = value["speaks"] == "Https";
    if is_tls {
        lines.add("server name", cell(&value["server_name"]));
    }
    certificate(value, lines);
    match &value["chosen"] {
        Value::Null if value["http"] == true => {
            lines.add("answer", format!("HTTP: ask for {}", if is_tls { "https://…" } else { "http://…" }));
        }
        Value::Null => lines.add("answer", "closed, no_route: nobody takes this"),
        chosen => {
            let how = match chosen["mode"].as_str() {
                Some("Terminate") => ", TLS ends here",
                Some(_) => ", TLS ends at the endpoint",
                None => "",
            };
            let host = if is_tls { format!(", server name {}", cell(&chosen["host"])) } else { String::new() };
            lines.add("route", format!("{}{host}{how}", object(&chosen["source"])));
            shares(chosen, "closed", lines);
        }
    }
    for stream in listed(value, "streams").filter(|_| is_tls) {
        let result = match cell(&stream["result"]).as_str() {
            "outranked" => "matches too, but the chosen one has precedence".to_owned(),
            "other_listener" => "the name belongs to another listener".to_owned(),
            other => other.to_owned(),
        };
        lines.add("considered", format!("server name {}", cell(&stream["pattern"])));
        lines.add("", format!("{}: {result}", object(&stream["source"])));
    }
}

fn of_request(value: &Value, lines: &mut Lines) {
    listener(value, value["served"] == true, lines);
    lines.add("host", cell(&value["host"]));
    lines.add("path", cell(&value["path"]));
    certificate(value, lines);
    match &value["chosen"] {
        Value::Null => lines.add("answer", "404 no_route: nobody serves this request"),
        chosen => {
            let matched = match cell(&chosen["matched_path"]).as_str() {
                "-" => String::new(),
                path => format!(", path {path}"),
            };
            lines.add("route", format!("{}, host {}{matched}", object(&chosen["source"]), cell(&chosen["host"])));
            if chosen["filters"] != 0 {
                lines.add("filters", cell(&chosen["filters"]));
            }
            shares(chosen, "500", lines);
        }
    }
    for host in listed(value, "hosts") {
        lines.add("considered", format!("host {}", cell(&host["pattern"])));
        for route in listed(host, "routes") {
            let (rule, index) = (cell(&route["rule"]), cell(&route["index"]));
            let source = object(&route["source"]);
            lines.add("", format!("{source}, rule {rule}, match {index}: {}", result(&route["result"])));
        }
    }
}

/// Where the traffic goes; `none` is what happens to what has no backend.
fn shares(chosen: &Value, none: &str, lines: &mut Lines) {
    let what = if none == "500" { "requests" } else { "connections" };
    for share in listed(chosen, "shares") {
        let backend = match &share["backend"] {
            Value::Null => format!("{none}: {}", cell(&share["problem"])),
            backend => cell(backend),
        };
        lines.add("backend", format!("{backend}, {} % of the {what}", cell(&share["percent"])));
        for color in listed(share, "colors") {
            let name = match (cell(&color["name"]).as_str(), color["effective"] == true) {
                ("-", _) => "endpoints".to_owned(),
                (name, true) => format!("{name}, effective"),
                (name, false) => name.to_owned(),
            };
            let endpoints: Vec<String> = listed(color, "endpoints").map(endpoint).collect();
            let endpoints = if endpoints.is_empty() { "none".to_owned() } else { endpoints.join(", ") };
            lines.add("", format!("{name}: {endpoints}"));
        }
    }
}

fn object(reference: &Value) -> String {
    let name = &reference["name"];
    match cell(&name["namespace"]).as_str() {
        "-" => format!("{} {}", cell(&reference["kind"]), cell(&name["name"])),
        namespace => format!("{} {namespace}/{}", cell(&reference["kind"]), cell(&name["name"])),
    }
}

fn endpoint(endpoint: &Value) -> String {
    match endpoint["condition"].as_str() {
        None | Some("Ready") => cell(&endpoint["address"]),
        Some(condition) => format!("{} ({condition})", cell(&endpoint["address"])),
    }
}

fn result(result: &Value) -> String {
    match result {
        Value::String(word) => match word.as_str() {
            "chosen" => "chosen".to_owned(),
            "outranked" => "matches too, but the chosen one has precedence".to_owned(),
            other => format!("another {other}"),
        },
        Value::Object(fields) => fields
            .iter()
            .map(|(kind, name)| format!("{kind} {} is missing or has another value", cell(name)))
            .collect::<Vec<_>>()
            .join(", "),
        other => cell(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_way_through_a_query() {
        let question = Question {
            method: "GET".to_owned(),
            url: "http://a/b?c=d&e".to_owned(),
            headers: vec![("X-A".to_owned(), "1 2".to_owned())],
            at: Some("::1".parse().unwrap()),
        };
        let path = path_of(&question);
        assert_eq!(path, "/api/v1/explain?method=GET&url=http%3A%2F%2Fa%2Fb%3Fc%3Dd%26e&at=%3A%3A1&header=X-A%3A1%202");
    }
}
