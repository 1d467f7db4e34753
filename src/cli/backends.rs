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
    ("USABLE", "/usable"),
    ("TOTAL", "/total"),
    ("ENDPOINTS", "/addresses"),
];

pub(super) fn backends(arguments: &Backends) -> Result<Exit, CliError> {
    let mut value = Admin::at(&arguments.admin).json("/api/v1/backends")?;
    // What a table can show of endpoints is their addresses.
    if arguments.output == Format::Table {
        for item in value["items"].as_array_mut().into_iter().flatten() {
            let addresses = item["endpoints"].as_array().into_iter().flatten().map(|one| one["address"].clone());
            item["addresses"] = addresses.collect();
        }
    }
    output::print(&output::list(arguments.output, &value, COLUMNS));
    Ok(Exit::Ok)
}
