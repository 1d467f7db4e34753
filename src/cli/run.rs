//! `weir run`.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::exit::{CliError, Exit};
use super::serve::{self, Launch, Source};

/// Runs the server on a folder of manifests.
///
/// Every setting can also be given as an environment variable (WEIR_HTTP, WEIR_MANIFESTS, …) or in the settings file; a
/// flag beats the environment, the environment beats the file.
#[derive(clap::Args, Debug)]
pub(super) struct Run {
    /// Settings file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of manifests, watched.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Address for HTTP, IP:PORT or :PORT.
    #[arg(long, value_name = "ADDR", value_parser = serve::address)]
    http: Option<SocketAddr>,
    /// Address for HTTPS, IP:PORT or :PORT.
    #[arg(long, value_name = "ADDR", value_parser = serve::address)]
    https: Option<SocketAddr>,
    /// Address for the admin API and metrics.
    #[arg(long, value_name = "ADDR", value_parser = serve::address)]
    admin: Option<SocketAddr>,
    /// Worker threads; default: one per available core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
}

pub(super) fn run(arguments: &Run) -> Result<Exit, CliError> {
    let launch = Launch {
        config: arguments.config.clone(),
        http: arguments.http,
        https: arguments.https,
        admin: arguments.admin,
        workers: arguments.workers,
        quiet: false,
    };
    serve::serve(&launch, Source::Directory(arguments.manifests.clone().unwrap_or_default()), |_| {})?;
    Ok(Exit::Ok)
}
