//! `weir backends`.

use super::client::Admin;
use super::exit::{CliError, Exit};
use super::output::{self, Format};

/// Lists backends with their colors and endpoints.
#[derive(clap::Args, Debug)]
pub(super) struct Backends {
    /// Address of the running Weir's admin API.
    #[arg(long, value_name = "ADDR", env = "WEIR_ADMIN", default_value = super::ADMIN)]
    admin: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

const COLUMNS: &[(&str, &str)] = &[
    ("SERVICE", "/service"),
    ("PORT", "/port"),
    ("COLOR", "/color"),
    ("EFFECTIVE", "/effective"),
    ("READY", "/ready"),
    ("ENDPOINTS", "/endpoints"),
];

pub(super) fn backends(arguments: &Backends) -> Result<Exit, CliError> {
    let value = Admin::at(&arguments.admin).json("/api/v1/backends")?;
    output::print(&output::list(arguments.output, &value, COLUMNS));
    Ok(Exit::Ok)
}
