//! `weir version`.

use super::exit::{CliError, Exit};
use super::output::{self, Format};

/// Prints which Weir this is.
#[derive(clap::Args, Debug)]
pub(super) struct Version {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn version(arguments: &Version) -> Result<Exit, CliError> {
    let (version, rust) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_RUST_VERSION"));
    output::print(&match arguments.output {
        Format::Table => format!("weir {version} ({} {})\n", std::env::consts::OS, std::env::consts::ARCH),
        format => output::machine(
            format,
            &serde_json::json!({
                "version": version,
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
                "minimumRust": rust,
            }),
        ),
    });
    Ok(Exit::Ok)
}
