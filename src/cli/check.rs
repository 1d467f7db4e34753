//! `weir check`: what is wrong with settings and manifests, where it stands, and what would be right.

use std::path::PathBuf;

use serde::Serialize;

use super::exit::{CliError, Exit};
use super::manifests;
use super::output::{self, Format};
use super::settings::{self, Flags};
use crate::model::Severity;

/// Validates settings and manifests; nothing is served.
///
/// Exit codes: 0 nothing is wrong (notes do not count), 1 there are findings, 2 the settings are invalid, 3 a file could
/// not be read or parsed.
#[derive(clap::Args, Debug)]
pub(super) struct Check {
    /// File or folder of manifests; default: that of the settings.
    path: Option<PathBuf>,
    /// Settings file.
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    /// Shows every setting with where its value comes from.
    #[arg(long)]
    origin: bool,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// One line of the report.
#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
struct Finding {
    file: String,
    line: u32,
    column: u32,
    severity: Severity,
    object: Option<String>,
    field: String,
    problem: String,
    fix: String,
    /// The file, or a document in it, could not be understood at all.
    unreadable: bool,
}

impl Finding {
    fn text(&self) -> String {
        let mut text = format!("{}: ", self.severity);
        if !self.file.is_empty() {
            text.push_str(&self.file);
            for number in [self.line, self.column] {
                if number > 0 {
                    text.push_str(&format!(":{number}"));
                }
            }
            text.push_str(": ");
        }
        for part in [self.object.as_deref().unwrap_or(""), &self.field] {
            if !part.is_empty() {
                text.push_str(&format!("{part}: "));
            }
        }
        text.push_str(&self.problem);
        if !self.fix.is_empty() {
            text.push_str(&format!("; {}", self.fix));
        }
        text.push('\n');
        text
    }
}

pub(super) fn check(arguments: &Check) -> Result<Exit, CliError> {
    let (settings, origins) = settings::load(arguments.config.as_deref(), &Flags::default())?;
    if arguments.origin {
        let rows: Vec<Vec<String>> = origins
            .rows(&settings)
            .into_iter()
            .map(|(key, value, place)| vec![key.to_owned(), value, place.to_string()])
            .collect();
        let origin = |row: &Vec<String>| serde_json::json!({"setting": row[0], "value": row[1], "origin": row[2]});
        output::print(&match arguments.output {
            Format::Table => output::table(&["SETTING", "VALUE", "ORIGIN"], &rows),
            format => output::machine(format, &rows.iter().map(origin).collect::<Vec<_>>()),
        });
    }
    let Some(path) = arguments.path.clone().or_else(|| settings.provider.directory.clone()) else {
        if !arguments.origin {
            output::print("settings: ok; no manifests were named\n");
        }
        return Ok(Exit::Ok);
    };
    let loaded = manifests::load(&path, &settings)?;
    let mut findings: Vec<Finding> = loaded.checked.problems.iter().map(of_problem).collect();
    findings.extend(loaded.translation.verdicts.iter().map(|verdict| {
        let place = loaded.checked.places.get(&verdict.object);
        Finding {
            file: place.map(|(file, _)| file.display().to_string()).unwrap_or_default(),
            line: place.map_or(0, |(_, line)| *line),
            column: 0,
            severity: verdict.severity,
            object: Some(verdict.object.to_string()),
            field: verdict.field.clone(),
            problem: format!("{} ({})", verdict.problem, verdict.reason),
            fix: verdict.fix.clone(),
            unreadable: false,
        }
    }));
    findings.sort();
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    output::print(&match arguments.output {
        Format::Table => {
            let mut text: String = findings.iter().map(Finding::text).collect();
            text.push_str(&format!(
                "{} in {}: {}, {}, {}\n",
                many(loaded.checked.objects.len(), "object"),
                many(loaded.checked.files, "file"),
                many(errors, "error"),
                many(warnings, "warning"),
                many(notes, "note"),
            ));
            text
        }
        format => output::machine(format, &findings),
    });
    Ok(match () {
        () if findings.iter().any(|finding| finding.unreadable) => Exit::Partial,
        () if errors + warnings > 0 => Exit::Findings,
        () => Exit::Ok,
    })
}

fn of_problem(problem: &crate::control::provider::Problem) -> Finding {
    Finding {
        file: problem.file.display().to_string(),
        line: problem.line,
        column: problem.column,
        severity: problem.severity,
        object: problem.object.as_ref().map(ToString::to_string),
        field: String::new(),
        problem: problem.text.clone(),
        fix: problem.fix.clone(),
        unreadable: problem.severity == Severity::Error && problem.object.is_none(),
    }
}

fn many(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
