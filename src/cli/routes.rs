//! `weir routes`.

use super::client::Admin;
use super::exit::{CliError, Exit};
use super::output::{self, Format};

/// Lists the routes that are served.
#[derive(clap::Args, Debug)]
pub(super) struct Routes {
    /// Address of the running Weir's admin API.
    #[arg(long, value_name = "ADDR", env = "WEIR_ADMIN", default_value = super::ADMIN)]
    admin: String,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

const COLUMNS: &[(&str, &str)] = &[
    ("LISTENER", "/listener"),
    ("HOST", "/host"),
    ("PATH", "/path"),
    ("KIND", "/pathKind"),
    ("METHOD", "/method"),
    ("SOURCE", "/source"),
    ("BACKENDS", "/backends"),
];

pub(super) fn routes(arguments: &Routes) -> Result<Exit, CliError> {
    let value = Admin::at(&arguments.admin).json("/api/v1/routes")?;
    output::print(&output::list(arguments.output, &value, COLUMNS));
    Ok(Exit::Ok)
}
