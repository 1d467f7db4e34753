//! How a verb ends: one exit code and, when it failed, one line that names what was wrong and what would be right.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::client::AdminError;
use super::demo::DemoError;
use super::serve::ServeError;
use crate::config::SettingError;
use crate::control::cutover::edit::EditError;
#[cfg(feature = "kubernetes")]
use crate::control::provider::kubernetes::AskError;

/// Exit codes that scripts rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// It ran and found something: a bad manifest, a request that nobody serves, a cutover that was refused.
    Findings = 1,
    /// The command line or a setting is wrong.
    Usage = 2,
    /// Some objects could not be read; the rest was fine.
    Partial = 3,
    /// What it needs cannot be reached: an address, a folder, a running Weir.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a verb could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// An argument that clap cannot judge by itself.
    #[error("{argument}: {problem}; {fix}")]
    Argument {
        /// The argument as written.
        argument: String,
        /// What is wrong with it.
        problem: String,
        /// What would be right.
        fix: String,
    },
    /// The settings are wrong.
    #[error("{}", lines(.0))]
    Settings(Vec<SettingError>),
    /// There are no manifests.
    #[error("cannot read manifests at {}: {source}; give an existing file or folder", path.display())]
    Manifests {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A cutover did not come to its good end.
    #[error("{problem}; `weir cutover status {service}` says why")]
    Cutover {
        /// What happened instead.
        problem: String,
        /// The Service.
        service: String,
    },
    /// The annotation was not changed.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The annotation was not changed on the API server.
    #[cfg(feature = "kubernetes")]
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The admin API.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The demo.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// The server.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// One line for each, each as a whole.
fn lines(errors: &[SettingError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\nerror: ")
}

impl CliError {
    /// The code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Argument { .. } | Self::Settings(_) => Exit::Usage,
            Self::Manifests { .. } | Self::Edit(EditError::File { .. }) => Exit::Unreachable,
            Self::Edit(_) => Exit::Findings,
            #[cfg(feature = "kubernetes")]
            Self::Ask(AskError::Away(_) | AskError::Client(_)) => Exit::Unreachable,
            #[cfg(feature = "kubernetes")]
            Self::Ask(_) => Exit::Findings,
            Self::Cutover { .. } => Exit::Findings,
            Self::Admin(AdminError::NotFound { .. } | AdminError::Refused { .. }) => Exit::Findings,
            Self::Admin(_) => Exit::Unreachable,
            Self::Demo(error) => error.exit(),
            Self::Serve(error) => error.exit(),
        }
    }
}
