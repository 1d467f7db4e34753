//! The one table, and what a reader needs to judge it: versions, machine, date, command, refusals.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::measure;
use crate::proxies::{Kind, Place};

/// Percent of the proxy's core: with more in the hands of others a reader is warned.
const BUSY: f64 = 10.0;

/// Everything that was measured so far.
pub struct Report {
    rows: Vec<Row>,
    refusals: Vec<String>,
    notes: Vec<String>,
    /// Share of the proxy's core that went elsewhere, for each turn.
    others: Vec<f64>,
    machine: String,
    begun: SystemTime,
}

/// A line of the table: for each proxy one value for each round.
pub struct Row {
    title: String,
    unit: &'static str,
    ratio: bool,
    values: BTreeMap<Kind, Vec<f64>>,
}

impl Report {
    pub fn new() -> Self {
        Self {
            rows: Vec::new(),
            refusals: Vec::new(),
            notes: Vec::new(),
            others: Vec::new(),
            machine: measure::machine(),
            begun: SystemTime::now(),
        }
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// A measurement that does not count.
    pub fn refuse(&mut self, title: &str, kind: Kind, error: &dyn std::error::Error) {
        let text = format!("{title}, {}: {error}", kind.name());
        eprintln!("peers: refused: {text}");
        self.refusals.push(text);
    }

    /// Something that the reader should know.
    pub fn note(&mut self, text: String) {
        eprintln!("peers: {text}");
        self.notes.push(text);
    }

    /// How the rows of a scenario came about that differs from the others.
    pub fn explain(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// The share of the proxy's core that others had in one turn.
    pub fn others(&mut self, share: f64) {
        self.others.push(share);
    }

    /// Nothing was refused.
    pub fn is_clean(&self) -> bool {
        self.refusals.is_empty()
    }

    /// The table and the lines under it.
    pub fn markdown(&self, place: &Place, rounds: u32, seconds: u32) -> String {
        let all = place.kinds(|_| true);
        let others: Vec<Kind> = all.iter().copied().filter(|kind| *kind != Kind::Weir).collect();
        let names = all.iter().map(|kind| kind.name().to_owned());
        let ratios = others.iter().map(|kind| format!("Weir to {}", kind.name()));
        let mut lines = vec![line(["scenario".to_owned(), "unit".to_owned()].into_iter().chain(names).chain(ratios))];
        lines.push(format!("|---|---|{}", "--:|".repeat(all.len() + others.len())));
        for row in &self.rows {
            let values = all.iter().map(|kind| row.median(*kind).map_or("–".to_owned(), number));
            let ratios = others.iter().map(|kind| row.ratio(*kind).unwrap_or("–".to_owned()));
            lines.push(line([row.title.clone(), row.unit.to_owned()].into_iter().chain(values).chain(ratios)));
        }
        lines.push(String::new());
        lines.push(format!(
            "Rounds: {rounds}, turns of {seconds} s; figures are medians, a ratio is the median of the ratios within the \
             rounds, with its quartiles. Below 1 Weir is cheaper; within 10 % of 1 is a tie. Each proxy had one worker on core 0, \
             load and backend were on core 1. Only figures of one run can be compared."
        ));
        lines.push(String::new());
        lines.push(format!("- {}", place.tools.versions.join(", ")));
        lines.push(format!("- {}", self.machine));
        if !self.others.is_empty() {
            let [usual, most] = [0.5, 1.0].map(|share| 100.0 * quantile(&self.others, share));
            let verdict = if usual > BUSY { "; the machine was busy, the figures are rough" } else { "" };
            lines.push(format!(
                "- While a proxy had its turn, others had {usual:.0} % of its core (median; at most {most:.0} %){verdict}"
            ));
        }
        lines.push(format!("- {}: `{}`", httpdate::fmt_http_date(self.begun), command()));
        lines.extend(self.notes.iter().map(|note| format!("- {note}")));
        lines.extend(self.refusals.iter().map(|refusal| format!("- Refused: {refusal}")));
        lines.join("\n")
    }
}

impl Row {
    pub fn new(title: &str, unit: &'static str) -> Self {
        Self { title: title.to_owned(), unit, ratio: true, values: BTreeMap::new() }
    }

    /// For a number of which a ratio says nothing.
    pub fn without_ratio(self) -> Self {
        Self { ratio: false, ..self }
    }

    /// The value of one more round.
    pub fn add(&mut self, kind: Kind, value: f64) {
        self.values.entry(kind).or_default().push(value);
    }

    /// Forgets a proxy.
    pub fn remove(&mut self, kind: Kind) {
        self.values.remove(&kind);
    }

    fn median(&self, kind: Kind) -> Option<f64> {
        self.values.get(&kind).map(|values| quantile(values, 0.5))
    }

    /// Weir's cost to the other's, within each round.
    fn ratio(&self, to: Kind) -> Option<String> {
        let (weir, other) = (self.values.get(&Kind::Weir)?, self.values.get(&to)?);
        let ratios: Vec<f64> =
            weir.iter().zip(other).filter(|(_, other)| **other > 0.0).map(|(weir, other)| weir / other).collect();
        if !self.ratio || ratios.is_empty() {
            return None;
        }
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(&ratios, share));
        Some(if ratios.len() < 4 { format!("{middle:.2}") } else { format!("**{middle:.2}** ({low:.2}–{high:.2})") })
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
}

/// Three digits are more than the method knows.
fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 || v == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// The value below which this share of the values lies, between neighbours if need be.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// What was typed, but for the flag that cargo adds.
fn command() -> String {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let separator = if arguments.is_empty() { "" } else { " -- " };
    format!("cargo bench --bench peers{separator}{}", arguments.join(" "))
}
