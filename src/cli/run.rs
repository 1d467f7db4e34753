//! `weir run`.

use std::path::PathBuf;

use super::exit::{CliError, Exit};
use super::serve::{self, Source};
use super::settings::{self, Flags, Origins, Settings};
use crate::config::Place;
#[cfg(feature = "kubernetes")]
use crate::control::provider::kubernetes;

/// Runs the server on a folder of manifests, or on what an API server says.
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
    let source = source(&settings, &origins)?;
    serve::serve(settings, &origins, source, |_| {})?;
    Ok(Exit::Ok)
}

fn source(settings: &Settings, origins: &Origins) -> Result<Source, CliError> {
    let provider = &settings.provider;
    match &provider.directory {
        Some(_) if provider.kubernetes => Err(CliError::Argument {
            argument: "--kubernetes".to_owned(),
            problem: format!(
                "objects come from a folder already (provider.directory, {})",
                origins.of("provider.directory")
            ),
            fix: "choose one of the two".to_owned(),
        }),
        Some(directory) => Ok(Source::Directory(directory.clone())),
        None => cluster(settings, *origins.of("provider.kubernetes") == Place::Default),
    }
}

/// The API server, if it is asked for; in a pod also if nothing is (`unsaid`).
#[cfg(feature = "kubernetes")]
fn cluster(settings: &Settings, unsaid: bool) -> Result<Source, CliError> {
    let provider = &settings.provider;
    if provider.kubernetes || (unsaid && kubernetes::in_pod()) {
        return Ok(Source::Kubernetes(kubernetes::Scope {
            kubeconfig: provider.kubeconfig.clone(),
            namespaces: provider.namespaces.clone(),
            selector: provider.selector.clone(),
            lease: provider.lease.clone(),
        }));
    }
    Err(CliError::Argument {
        argument: "--manifests".to_owned(),
        problem: "there is nothing to serve without a folder of manifests or an API server".to_owned(),
        fix: "give --manifests DIR or --kubernetes; `weir demo` shows a folder".to_owned(),
    })
}

#[cfg(not(feature = "kubernetes"))]
fn cluster(settings: &Settings, _: bool) -> Result<Source, CliError> {
    if settings.provider.kubernetes {
        return Err(CliError::Argument {
            argument: "--kubernetes".to_owned(),
            problem: "this weir was built without it".to_owned(),
            fix: "build it with the feature `kubernetes`, or give --manifests DIR".to_owned(),
        });
    }
    Err(CliError::Argument {
        argument: "--manifests".to_owned(),
        problem: "there is nothing to serve without a folder of manifests".to_owned(),
        fix: "give --manifests DIR, or set provider.directory; `weir demo` shows one".to_owned(),
    })
}
