//! `weir run`.

use std::path::PathBuf;

use super::exit::{CliError, Exit};
use super::serve::{self, Source};
use super::settings::{self, Flags};

/// Runs the server on a folder of manifests.
///
/// Every setting can also be given as an environment variable (WEIR_HTTP, WEIR_MANIFESTS, …) or in the settings file; a
/// flag beats the environment, the environment beats the file.
#[derive(clap::Args, Debug)]
pub(super) struct Run {
    /// Settings file.
    #[arg(long, value_name = "FILE", env = "WEIR_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

pub(super) fn run(arguments: &Run) -> Result<Exit, CliError> {
    let (settings, origins) = settings::load(arguments.config.as_deref(), &arguments.flags)?;
    let Some(directory) = settings.provider.directory.clone() else {
        return Err(CliError::Argument {
            argument: "--manifests".to_owned(),
            problem: "there is nothing to serve without a folder of manifests".to_owned(),
            fix: "give --manifests DIR, or set provider.directory; `weir demo` shows one".to_owned(),
        });
    };
    serve::serve(settings, &origins, Source::Directory(directory), |_| {})?;
    Ok(Exit::Ok)
}
