//! Weir's own log, on stderr.
//!
//! JSON when nobody looks at a terminal. Lines go through a [`Sink`], so that a blocked stderr never blocks a worker.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::sink::{Sink, SinkSender, Target};

/// Lines that may wait for the writer.
const QUEUE: usize = 1024;

/// Shape of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text, coloured on a terminal unless `NO_COLOR` is set.
    Text,
    /// One JSON object per line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error(
        "log level {given:?}: {problem}; use error, warn, info, debug or trace, or directives like weir=debug,info"
    )]
    Filter {
        /// As given.
        given: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A subscriber exists already.
    #[error("the log is set up already")]
    Twice,
    /// stderr cannot be used.
    #[error("stderr: {0}")]
    Stderr(#[from] io::Error),
}

/// Keeps the log going; dropping it writes what is queued, for at most a second.
#[derive(Debug)]
pub struct LogGuard {
    sink: Option<Sink>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.finish(Duration::from_secs(1));
        }
    }
}

impl LogGuard {
    /// For asking how many lines were dropped.
    pub fn control(&self) -> Option<SinkSender> {
        self.sink.as_ref().map(Sink::sender)
    }
}

/// Reads a filter: a level, or directives as in `RUST_LOG`.
///
/// # Errors
/// When it is neither.
pub fn filter(given: &str) -> Result<EnvFilter, LogError> {
    let bad = |problem: String| LogError::Filter { given: given.to_owned(), problem };
    // A single word that is no level would be taken for the name of a module, and the log would stay empty.
    let word = given.chars().all(|character| character.is_ascii_alphanumeric());
    if word && given.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        return Err(bad("no such level".to_owned()));
    }
    EnvFilter::builder().parse(given).map_err(|error| bad(error.to_string()))
}

/// Sets the log up for the whole process.
///
/// # Errors
/// When the filter cannot be read, or when there is a log already.
pub fn init(level: &str, format: Format) -> Result<LogGuard, LogError> {
    let mut filter = filter(level)?;
    if !matches!(level, "debug" | "trace")
        && let Ok(silent) = "kube_client=off".parse()
    {
        // It has a line for every attempt that failed; the provider says once what is wrong.
        filter = filter.add_directive(silent);
    }
    let terminal = io::stderr().is_terminal();
    let json = match format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    let sink = Sink::open("weir-log", Target::Stderr, QUEUE)?;
    let writer = Lines(sink.sender());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let set = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        let color = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.with_ansi(color).with_target(false).try_init()
    };
    set.map_err(|_| LogError::Twice)?;
    Ok(LogGuard { sink: Some(sink) })
}

/// Hands every line over as it is finished.
#[derive(Clone, Debug)]
struct Lines(SinkSender);

/// One line under construction.
struct Line<'a> {
    sender: &'a SinkSender,
    bytes: Vec<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { sender: &self.0, bytes: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            // A refused line is counted by the sink.
            let _ = self.sender.send(std::mem::take(&mut self.bytes), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_read_and_anything_else_is_refused() {
        for good in ["info", "WARN", "weir=debug,info", "off", "weir::proxy=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "weir=loud", "5x"] {
            let said = filter(bad).unwrap_err().to_string();
            assert!(said.contains(bad) && said.contains("debug"), "{said}");
        }
    }
}
