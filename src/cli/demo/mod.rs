//! `weir demo`: the edge, a shop with a blue and a green version behind it, and a page of things to try.
//!
//! Nothing special happens inside: the shop's backends are foreign servers, the manifests are files in a folder that the
//! user may edit, and the server is the one that `weir run` runs.

mod folder;
mod page;
mod ports;
mod shop;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use folder::FolderError;

use super::exit::{CliError, Exit};
use super::output;
use super::serve::{self, Event, Source};
use super::settings::{self, Flags};

/// Runs an edge with a small shop behind it, blue and green, and shows what to try.
#[derive(clap::Args, Debug)]
pub(super) struct Demo {
    /// Folder for the demo's manifests; made if missing, files you edited are kept.
    #[arg(long, value_name = "DIR", default_value = "weir-demo")]
    dir: PathBuf,
    /// Address for HTTP; the next free port if it is taken.
    #[arg(long, value_name = "ADDR", default_value = ":8080", value_parser = serve::address)]
    http: SocketAddr,
    /// Address for HTTPS; the next free port if it is taken.
    #[arg(long, value_name = "ADDR", default_value = ":8443", value_parser = serve::address)]
    https: SocketAddr,
    /// Address for the admin API and metrics; the next free port if it is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900", value_parser = serve::address)]
    admin: SocketAddr,
    /// Worker threads; default: one per available core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    workers: Option<u16>,
}

impl Default for Demo {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("weir-demo"),
            http: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            https: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)),
            admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 9900)),
            workers: None,
        }
    }
}

/// Why the demo does not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No socket for a listener.
    #[error("{flag} {address}: {source}; give an address of this machine with a free port")]
    Port {
        /// The flag that would change it.
        flag: &'static str,
        /// What was wanted.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The shop has no socket or thread.
    #[error("cannot open the demo shop on a loopback port: {0}")]
    Shop(io::Error),
    /// No folder for the manifests.
    #[error(transparent)]
    Folder(#[from] FolderError),
}

impl DemoError {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Port { .. } => Exit::Usage,
            Self::Shop(_) | Self::Folder(_) => Exit::Unreachable,
        }
    }
}

pub(super) fn demo(arguments: &Demo) -> Result<Exit, CliError> {
    let mut choices: Vec<ports::Choice> = Vec::new();
    for (flag, wanted) in [("--http", arguments.http), ("--https", arguments.https), ("--admin", arguments.admin)] {
        let taken: Vec<_> = choices.iter().map(|choice| choice.free).collect();
        let choice =
            ports::choose(wanted, &taken).map_err(|source| DemoError::Port { flag, address: wanted, source })?;
        if choice.moved() {
            output::print(&format!("port {} is taken, using {}\n", wanted.port(), choice.free.port()));
        }
        choices.push(choice);
    }
    let pods = shop::open().map_err(DemoError::Shop)?;
    let folder = folder::Folder::open(&arguments.dir, &pods).map_err(DemoError::Folder)?;
    let (settings, origins) = settings::load(
        None,
        &Flags {
            http: Some(choices[0].free.to_string()),
            https: Some(choices[1].free.to_string()),
            admin: Some(choices[2].free.to_string()),
            manifests: Some(folder.path.display().to_string()),
            workers: arguments.workers.map(|workers| workers.to_string()),
            // The page speaks; the log only when something is wrong.
            log_level: Some("warn".to_owned()),
            ..Flags::default()
        },
    )?;
    let page = page::page(&page::Facts {
        program: &page::program(),
        http: choices[0].free,
        https: choices[1].free,
        admin: choices[2].free,
        folder: &folder.path,
        kept: &folder.kept,
        pods: &pods,
    });
    serve::serve(settings, &origins, Source::Directory(folder.path.clone()), |event| {
        if matches!(event, Event::Ready) {
            output::print(&page);
        }
    })?;
    Ok(Exit::Ok)
}
