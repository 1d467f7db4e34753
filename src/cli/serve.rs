//! The seam between the command line and the app: every verb that serves traffic comes through [`serve`].

use std::net::SocketAddr;

use super::exit::Exit;
use super::settings::{Origins, Settings};
use crate::app::{self, AppError};
pub(super) use crate::app::{Event, Source};

/// Serves until the process is told to end.
///
/// # Errors
/// When something cannot be bound or reached.
pub(super) fn serve(
    settings: Settings,
    origins: &Origins,
    source: Source,
    announce: impl Fn(Event),
) -> Result<(), ServeError> {
    app::run(settings, origins, source, announce).map_err(ServeError)
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ServeError(AppError);

impl ServeError {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self.0 {
            AppError::AccessLog { .. } | AppError::Log(_) => Exit::Usage,
            #[cfg(feature = "kubernetes")]
            AppError::Kubernetes(_) => Exit::Usage,
            _ => Exit::Unreachable,
        }
    }
}

/// Reads `IP:PORT`; `:PORT` is every IPv4 address of this machine.
///
/// # Errors
/// In words for the user.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| "not an address; write IP:PORT or :PORT, for example 127.0.0.1:8080".to_owned())
}
