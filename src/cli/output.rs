//! What verbs print: tables for people, JSON and YAML for programs. Always to stdout; problems go to stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

/// Value of `-o`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum Format {
    /// Columns, for people.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// Writes to stdout. A reader that went away (`weir routes | head`) is no failure.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Renders a value for a program.
pub(super) fn machine(format: Format, value: &impl Serialize) -> String {
    match format {
        Format::Yaml => {
            serde_saphyr::to_string(value).unwrap_or_else(|error| format!("# not representable: {error}\n"))
        }
        Format::Json | Format::Table => {
            let mut text = serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("\"{error}\""));
            text.push('\n');
            text
        }
    }
}

/// Renders columns, each as wide as its widest cell; the last is not padded.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Renders a list of the admin API. `columns` are the headings with the pointer (RFC 6901) of each value in an item.
pub(super) fn list(format: Format, value: &Value, columns: &[(&str, &str)]) -> String {
    if format != Format::Table {
        return machine(format, value);
    }
    let items = value.as_array().or_else(|| value.get("items").and_then(Value::as_array));
    let rows: Vec<Vec<String>> = items
        .into_iter()
        .flatten()
        .map(|item| columns.iter().map(|(_, path)| cell(item.pointer(path).unwrap_or(&Value::Null))).collect())
        .collect();
    table(&columns.iter().map(|(heading, _)| *heading).collect::<Vec<_>>(), &rows)
}

/// Renders an object of the admin API as indented lines, one for each value.
pub(super) fn outline(value: &Value) -> String {
    let mut text = String::new();
    nest(value, 0, &mut text);
    text
}

fn nest(value: &Value, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            let width = fields.iter().filter(|(_, v)| is_leaf(v)).map(|(k, _)| k.chars().count()).max().unwrap_or(0);
            for (key, field) in fields {
                let _ = if is_leaf(field) {
                    writeln!(text, "{pad}{key:width$}  {}", cell(field))
                } else {
                    writeln!(text, "{pad}{key}:")
                };
                if !is_leaf(field) {
                    nest(field, depth + 1, text);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if is_leaf(item) {
                    let _ = writeln!(text, "{pad}- {}", cell(item));
                } else if let Value::Object(fields) = item {
                    let flat: Vec<_> = fields.iter().map(|(key, field)| format!("{key}={}", cell(field))).collect();
                    let _ = writeln!(text, "{pad}- {}", flat.join(" "));
                } else {
                    nest(item, depth + 1, text);
                }
            }
        }
        leaf => {
            let _ = writeln!(text, "{pad}{}", cell(leaf));
        }
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

/// One value as the text of a cell; `-` for none.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => short(float),
            _ => number.to_string(),
        },
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) if fields.is_empty() => "-".to_owned(),
        other => other.to_string(),
    }
}

/// Three digits that matter.
fn short(number: f64) -> String {
    let size = number.abs();
    let text = match size {
        _ if size == 0.0 => return "0".to_owned(),
        _ if size >= 100.0 => format!("{number:.0}"),
        _ if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Progress of something that takes a while, on stderr: rewritten in place on a terminal, else one line for each change.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: String,
}

impl Progress {
    /// Shows this text, if it is new.
    pub fn show(&mut self, text: &str) {
        if self.last == text {
            return;
        }
        let mut err = io::stderr().lock();
        let _ = if err.is_terminal() {
            let blank = " ".repeat(self.last.chars().count().saturating_sub(text.chars().count()));
            write!(err, "\r{text}{blank}").and_then(|()| err.flush())
        } else {
            writeln!(err, "{text}")
        };
        text.clone_into(&mut self.last);
    }

    /// Leaves the last text standing.
    pub fn end(&mut self) {
        if !self.last.is_empty() && io::stderr().is_terminal() {
            let _ = writeln!(io::stderr());
        }
        self.last.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() {
        let rows = vec![vec!["shop".to_owned(), "80".to_owned()], vec!["a-long-name".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "PORT"], &rows), "NAME         PORT\nshop         80\na-long-name\n");
    }

    #[test]
    fn an_outline_shows_every_value_once() {
        let text = outline(&json!({
            "phase": "Done", "effective": "green", "none": null, "share": 0.25,
            "receipt": {"dropped": 0, "phases": [{"name": "Warming", "at": 3}]},
        }));
        assert_eq!(
            text,
            "effective  green\nnone       -\nphase      Done\nreceipt:\n  dropped  0\n  phases:\n    - at=3 name=Warming\n\
             share      0.25\n"
        );
    }

    #[test]
    fn machine_formats_can_be_read_back() {
        let value = json!({"a": [1, 2], "b": "x: y"});
        assert_eq!(serde_json::from_str::<Value>(&machine(Format::Json, &value)).unwrap(), value);
        assert_eq!(serde_saphyr::from_str::<Value>(&machine(Format::Yaml, &value)).unwrap(), value);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([short(0.0), short(1234.5), short(2.50), short(0.00125)], ["0", "1234", "2.5", "0.0013"]);
    }
}
