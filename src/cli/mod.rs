//! The command line: one file per verb. A verb reads its arguments, asks the rooms that know, prints what they say and
//! ends with an exit code; it decides nothing about traffic.

mod backends;
mod check;
mod client;
mod completions;
mod cutover;
mod demo;
mod exit;
mod explain;
mod manifests;
mod output;
mod proxy;
mod routes;
mod run;
mod serve;
mod settings;
mod version;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use client::AdminError;
pub use demo::{DemoError, FolderError};
pub use exit::{CliError, Exit};
pub use serve::ServeError;

/// Where a running Weir's admin API is, unless told otherwise.
const ADMIN: &str = "127.0.0.1:9900";

/// An edge load balancer: hot-swapped routes, blue-green cutovers by one annotation, exact statistics.
///
/// Without a verb it runs the demo.
#[derive(Parser, Debug)]
#[command(
    name = "weir",
    version,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 ok, 1 findings, 2 usage or invalid settings, 3 some objects unreadable, 4 cannot reach \
                  what it needs."
)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Demo(demo::Demo),
    Run(run::Run),
    Proxy(proxy::Proxy),
    Check(check::Check),
    Explain(explain::Explain),
    Cutover(cutover::Cutover),
    Routes(routes::Routes),
    Backends(backends::Backends),
    Version(version::Version),
    Completions(completions::Completions),
}

/// Reads the arguments, runs the verb, says on stderr why it failed, if it did.
pub fn main() -> ExitCode {
    let result = match Cli::parse().verb.unwrap_or_else(|| Verb::Demo(demo::Demo::default())) {
        Verb::Demo(arguments) => demo::demo(&arguments),
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Proxy(arguments) => proxy::proxy(&arguments),
        Verb::Check(arguments) => check::check(&arguments),
        Verb::Explain(arguments) => explain::explain(&arguments),
        Verb::Cutover(arguments) => cutover::cutover(&arguments),
        Verb::Routes(arguments) => routes::routes(&arguments),
        Verb::Backends(arguments) => backends::backends(&arguments),
        Verb::Version(arguments) => version::version(&arguments),
        Verb::Completions(arguments) => completions::completions(&arguments),
    };
    let exit = result.unwrap_or_else(|error| {
        // A closed stderr must not turn one failure into another.
        let _ = writeln!(std::io::stderr(), "error: {error}");
        error.exit()
    });
    exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_argument_is_explained() {
        fn look(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no help");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
            }
            for verb in command.get_subcommands() {
                look(verb, &format!("{path} {}", verb.get_name()));
            }
        }
        look(&Cli::command(), "weir");
    }
}
