//! `weir completions`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::exit::{CliError, Exit};
use super::output;

/// Prints a completion script for a shell.
///
/// For bash: `source <(weir completions bash)`.
#[derive(clap::Args, Debug)]
pub(super) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(arguments: &Completions) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Cli::command(), "weir", &mut script);
    output::print(&String::from_utf8_lossy(&script));
    Ok(Exit::Ok)
}
