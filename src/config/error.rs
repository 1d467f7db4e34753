//! What is wrong with the settings, for whoever starts the process.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// Nowhere.
    Default,
    /// In the file; line and column from 1.
    File {
        /// Which file.
        path: PathBuf,
        /// The line.
        line: u32,
        /// The column.
        column: u32,
    },
    /// In this environment variable.
    Environment(String),
    /// As this flag.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing wrong. Exit code 2.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SettingError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {reason}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is no YAML, or not a mapping.
    #[error("{place}: {reason}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser says.
        reason: String,
    },
    /// There is no such setting.
    #[error("{place}: there is no setting {key}{}", did_you_mean(.near))]
    Unknown {
        /// Where.
        place: Place,
        /// What was written.
        key: String,
        /// The name most like it, if any is.
        near: Option<String>,
    },
    /// The value is not acceptable.
    #[error("{place}: {key} is {value}, but must be {accepts}")]
    Value {
        /// Where.
        place: Place,
        /// The setting.
        key: String,
        /// What was written; secrets are not shown.
        value: String,
        /// What would be right.
        accepts: String,
    },
    /// A part of a list element is missing.
    #[error("{place}: {key} is missing; {fix}")]
    Missing {
        /// Where.
        place: Place,
        /// The setting.
        key: String,
        /// What to write.
        fix: String,
    },
    /// Two settings that cannot both hold.
    #[error("{place}: {key}: {reason}; {fix}")]
    Conflict {
        /// Where the one of them is written.
        place: Place,
        /// Its key.
        key: String,
        /// Why not.
        reason: String,
        /// What would be right.
        fix: String,
    },
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// The candidate most like `word`, if it is like it at all: at most a third of its letters differ, and at least one may.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let allowed = (word.len() / 3).max(1);
    let scored = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    scored.min().filter(|(distance, _)| *distance <= allowed).map(|(_, candidate)| candidate.to_owned())
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
