//! `weir explain`: who would serve this request, and why; asked of a running Weir or of manifests.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::client::{Admin, AdminError};
use super::exit::{CliError, Exit};
use super::manifests;
use super::output::{self, Format, cell};
use crate::admin::{Question, show};

/// Shows which listener, route, rule, color and endpoint would serve a request, and why.
///
/// Nothing is sent anywhere. Exit code 1 when nobody would serve it.
#[derive(clap::Args, Debug)]
pub(super) struct Explain {
    /// The method, for example GET.
    #[arg(value_name = "METHOD")]
    method: String,
    /// The URL, for example http://shop.example/cart.
    #[arg(value_name = "URL")]
    url: String,
    /// A header of the request, NAME: VALUE; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Asks manifests in this file or folder, instead of a running Weir.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
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
    let question =
        Question { method: arguments.method.clone(), url: arguments.url.clone(), headers: arguments.headers.clone() };
    let refused = |problem: String| CliError::Argument {
        argument: format!("{} {}", question.method, question.url),
        problem,
        fix: "write a request that a client could send, for example GET http://shop.example/cart".to_owned(),
    };
    // Judged here in any case, so that a bad question is the same mistake with and without a running Weir.
    show::explain(&crate::proxy::snapshot::Snapshot::default(), &question).map_err(refused)?;
    let value = match &arguments.manifests {
        Some(path) => {
            let loaded = manifests::load(path)?;
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

fn text(value: &Value) -> String {
    let mut out = String::new();
    let mut line = |what: &str, how: String| {
        let _ = writeln!(out, "{what:<12} {how}");
    };
    let listed = |key: &str| value[key].as_array().into_iter().flatten();
    let served = if value["served"] == true { "" } else { " (nothing is served there)" };
    line("listener", format!("{}{served}", cell(&value["bind"])));
    line("host", cell(&value["host"]));
    line("path", cell(&value["path"]));
    if let certificate @ Value::Object(_) = &value["certificate"] {
        line("certificate", format!("Secret {}, for {}", cell(&certificate["secret"]), cell(&certificate["host"])));
    }
    match &value["chosen"] {
        Value::Null => line("answer", "404 no_route: nobody serves this request".to_owned()),
        chosen => {
            let matched = match cell(&chosen["matched_path"]).as_str() {
                "-" => String::new(),
                path => format!(", path {path}"),
            };
            line("route", format!("{}, host {}{matched}", object(&chosen["source"]), cell(&chosen["host"])));
            if chosen["filters"] != 0 {
                line("filters", cell(&chosen["filters"]));
            }
            for share in chosen["shares"].as_array().into_iter().flatten() {
                let backend = match &share["backend"] {
                    Value::Null => format!("500: {}", cell(&share["problem"])),
                    backend => cell(backend),
                };
                line("backend", format!("{backend}, {} % of the requests", cell(&share["percent"])));
                for color in share["colors"].as_array().into_iter().flatten() {
                    let name = match (cell(&color["name"]).as_str(), color["effective"] == true) {
                        ("-", _) => "endpoints".to_owned(),
                        (name, true) => format!("{name}, effective"),
                        (name, false) => name.to_owned(),
                    };
                    let endpoints: Vec<String> =
                        color["endpoints"].as_array().into_iter().flatten().map(endpoint).collect();
                    let endpoints = if endpoints.is_empty() { "none".to_owned() } else { endpoints.join(", ") };
                    line("", format!("{name}: {endpoints}"));
                }
            }
        }
    }
    for host in listed("hosts") {
        line("considered", format!("host {}", cell(&host["pattern"])));
        for route in host["routes"].as_array().into_iter().flatten() {
            line(
                "",
                format!(
                    "{}, rule {}, match {}: {}",
                    object(&route["source"]),
                    cell(&route["rule"]),
                    cell(&route["index"]),
                    result(&route["result"])
                ),
            );
        }
    }
    out
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
        };
        let path = path_of(&question);
        assert_eq!(path, "/api/v1/explain?method=GET&url=http%3A%2F%2Fa%2Fb%3Fc%3Dd%26e&header=X-A%3A1%202");
    }
}
