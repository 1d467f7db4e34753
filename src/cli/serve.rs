//! The seam between the command line and the app: every verb that serves traffic comes through [`serve`].

use std::net::SocketAddr;
use std::path::PathBuf;

use super::exit::Exit;
use super::settings::Settings;
use crate::control::translate::Change;

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests, watched.
    Directory(PathBuf),
    /// These, and nothing else ever.
    Embedded(Vec<Change>),
}

/// What the app tells the verb that started it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A listener is bound.
    Listening {
        /// `http`, `https`, `admin`, or the name of a Gateway's listener.
        listener: String,
        /// With the real port.
        address: SocketAddr,
    },
    /// The first full load is served.
    Ready,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no app.
    #[error("this build has no server")]
    Absent,
}

impl ServeError {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        Exit::Unreachable
    }
}

/// Serves until the process is told to end.
///
/// # Errors
/// When something cannot be bound or reached.
pub(super) fn serve(_settings: Settings, _source: Source, _announce: impl Fn(Event)) -> Result<(), ServeError> {
    Err(ServeError::Absent)
}

/// Reads `IP:PORT`; `:PORT` is every IPv4 address of this machine.
///
/// # Errors
/// In words for the user.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| "not an address; write IP:PORT or :PORT, for example 127.0.0.1:8080".to_owned())
}
