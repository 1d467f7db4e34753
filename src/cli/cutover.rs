//! `weir cutover`: shows a Service's cutover, and starts one by changing the one annotation that is the switch.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Subcommand;
use serde_json::Value;

use super::client::{Admin, AdminError};
use super::exit::{CliError, Exit};
use super::output::{self, Format, Progress};
use crate::control::cutover::edit;
#[cfg(feature = "kubernetes")]
use crate::control::provider::kubernetes::{self, Wish};
use crate::model::ObjectName;

/// Between two looks at a running cutover.
const LOOK: Duration = Duration::from_millis(200);

/// Shows, starts and follows blue-green cutovers.
#[derive(clap::Args, Debug)]
pub(super) struct Cutover {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Shows where a Service stands: effective color, phase, receipt.
    Status {
        #[command(flatten)]
        target: Target,
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Starts a cutover: changes `weir.dev/active` on the API server, or in a manifest file, and nothing else there.
    Start {
        #[command(flatten)]
        target: Target,
        /// The color that shall serve.
        #[arg(long, value_name = "COLOR")]
        to: String,
        /// Folder of manifests that the Service is in; without it the API server is asked.
        #[arg(long, value_name = "DIR", env = "WEIR_MANIFESTS")]
        manifests: Option<PathBuf>,
        #[command(flatten)]
        server: Server,
        /// Waits until the color serves; exit code 1 if it is refused.
        #[arg(long)]
        wait: bool,
        /// How long to wait at most, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "wait")]
        timeout: u64,
    },
    /// Stops a cutover before traffic moves (`weir.dev/cutover.hold` on the API server), or lets it go on.
    Hold {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        server: Server,
        /// Lets it go on.
        #[arg(long)]
        off: bool,
    },
    /// Ends a running cutover; after traffic has moved it moves back (`weir.dev/cutover.abort` on the API server).
    Abort(Mark),
    /// Tries again what has failed (`weir.dev/cutover.retry` on the API server).
    Retry(Mark),
    /// Follows a cutover until it is over.
    Watch {
        #[command(flatten)]
        target: Target,
        /// Follows only until this color serves; exit code 1 if it is refused.
        #[arg(long, value_name = "COLOR")]
        to: Option<String>,
    },
}

#[derive(clap::Args, Debug)]
struct Target {
    /// The Service that routes name, NAMESPACE/NAME; without a namespace: default.
    #[arg(value_name = "NAMESPACE/NAME", value_parser = service)]
    service: ObjectName,
    /// Address of the running Weir's admin API.
    #[arg(long, value_name = "ADDR", env = "WEIR_ADMIN", default_value = super::ADMIN)]
    admin: String,
}

/// A new value of an annotation of which only counts that it is new.
#[derive(clap::Args, Debug)]
struct Mark {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    server: Server,
    /// What the annotation is set to; default: the time.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// How the API server is reached.
#[derive(clap::Args, Debug)]
struct Server {
    /// Default: KUBECONFIG, in a pod its service account, else `~/.kube/config`.
    #[arg(long, value_name = "FILE", env = "WEIR_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

impl Mark {
    fn ask<'a>(&'a self, what: impl FnOnce(Option<&'a str>) -> Asked<'a>) -> Result<Exit, CliError> {
        ask(&self.target, &self.server, what(self.reason.as_deref())).map(|_| Exit::Ok)
    }
}

impl Target {
    fn state(&self) -> Result<State, AdminError> {
        let ObjectName { namespace, name } = &self.service;
        let value = Admin::at(&self.admin).json(&format!("/api/v1/services/{namespace}/{name}/cutover"))?;
        Ok(State { value })
    }
}

fn service(text: &str) -> Result<ObjectName, String> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let fine = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    if fine(namespace) && fine(name) {
        Ok(ObjectName::new(namespace, name))
    } else {
        Err("not the name of a Service; write NAMESPACE/NAME, for example shop/checkout".to_owned())
    }
}

pub(super) fn cutover(arguments: &Cutover) -> Result<Exit, CliError> {
    match &arguments.verb {
        Verb::Status { target, output } => {
            let state = target.state()?;
            output::print(&match output {
                Format::Table => output::outline(&state.value),
                format => output::machine(*format, &state.value),
            });
            Ok(Exit::Ok)
        }
        Verb::Start { target, to, manifests, server, wait, timeout } => {
            // Asked before the change, so that a bad end of an earlier attempt is not taken for one of this.
            let before = if *wait { Some(target.state()?) } else { None };
            let changed = match manifests {
                Some(manifests) => start(target, to, manifests)?,
                None => ask(target, server, Asked::To(to))?,
            };
            if !*wait {
                return Ok(Exit::Ok);
            }
            // Where nothing was changed there is nothing new to be seen first.
            follow(target, Some(to), before.as_ref().filter(|_| changed), Some(Duration::from_secs(*timeout)))
        }
        Verb::Hold { target, server, off } => ask(target, server, Asked::Hold(!off)).map(|_| Exit::Ok),
        Verb::Abort(mark) => mark.ask(Asked::Abort),
        Verb::Retry(mark) => mark.ask(Asked::Retry),
        Verb::Watch { target, to } => follow(target, to.as_deref(), None, None),
    }
}

/// What is asked for by an annotation of the Service.
#[cfg_attr(not(feature = "kubernetes"), expect(dead_code, reason = "only an API server is asked"))]
enum Asked<'a> {
    To(&'a str),
    Hold(bool),
    Abort(Option<&'a str>),
    Retry(Option<&'a str>),
}

/// Says whether that changed anything.
#[cfg(feature = "kubernetes")]
fn ask(target: &Target, server: &Server, asked: Asked<'_>) -> Result<bool, CliError> {
    // Any value will do that was not there before.
    let new = |text: Option<&str>| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        text.map_or_else(|| now.as_millis().to_string(), str::to_owned)
    };
    let wish = match asked {
        Asked::To(color) => Wish::To(color.to_owned()),
        Asked::Hold(hold) => Wish::Hold(hold),
        Asked::Abort(reason) => Wish::Abort(new(reason)),
        Asked::Retry(reason) => Wish::Retry(new(reason)),
    };
    let done = kubernetes::ask(server.kubeconfig.as_deref(), &target.service, &wish)?;
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
    let (key, service, now) = (done.key, &target.service, word(&done.now));
    output::print(&if done.changed {
        format!("{key} of {service}: {} -> {now}\n", word(&done.before))
    } else {
        format!("{key} of {service} is {now} already\n")
    });
    Ok(done.changed)
}

#[cfg(not(feature = "kubernetes"))]
fn ask(_: &Target, _: &Server, asked: Asked<'_>) -> Result<bool, CliError> {
    let fix = match asked {
        Asked::To(_) => "give --manifests DIR",
        Asked::Hold(_) | Asked::Abort(_) | Asked::Retry(_) => "edit the annotation of the Service",
    };
    Err(CliError::Argument {
        argument: "--kubeconfig".to_owned(),
        problem: "this weir was built without the feature `kubernetes`".to_owned(),
        fix: fix.to_owned(),
    })
}

/// What the admin API says about a Service's cutover.
struct State {
    value: Value,
}

impl State {
    fn text(&self, key: &str) -> &str {
        self.value.get(key).and_then(Value::as_str).unwrap_or("")
    }

    fn line(&self) -> String {
        let mut line = format!("{}  effective {}", self.text("phase"), self.text("effective"));
        // The message is the reason with its facts.
        let told =
            ["message", "waitingFor", "reason"].into_iter().map(|key| self.text(key)).find(|text| !text.is_empty());
        if let Some(told) = told {
            line.push_str("  ");
            line.push_str(told);
        }
        line
    }
}

/// Shows every change until the attempt is over or, with `to`, until that color serves. `before` is the state before the
/// change that is waited for.
fn follow(
    target: &Target,
    to: Option<&str>,
    before: Option<&State>,
    limit: Option<Duration>,
) -> Result<Exit, CliError> {
    let started = Instant::now();
    let mut progress = Progress::default();
    let end = loop {
        let state = target.state()?;
        progress.show(&state.line());
        let phase = state.text("phase");
        // Until the change has been seen, the state is about something else.
        let seen = before.is_none_or(|before| before.text("version") != state.text("version"));
        let served = to.is_none_or(|to| state.text("effective") == to) && phase != "Committing";
        match to {
            Some(_) if served => break Ok(()),
            Some(_) if seen && is_bad(phase) => break Err(format!("{} ended as {phase}", target.service)),
            None if !is_running(phase) => {
                break if is_bad(phase) { Err(format!("{} ended as {phase}", target.service)) } else { Ok(()) };
            }
            _ => {}
        }
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break Err(format!("{} is still {phase} after {} s", target.service, started.elapsed().as_secs()));
        }
        thread::sleep(LOOK);
    };
    progress.end();
    match end {
        Ok(()) => Ok(Exit::Ok),
        Err(problem) => Err(CliError::Cutover { problem, service: target.service.to_string() }),
    }
}

fn is_running(phase: &str) -> bool {
    matches!(phase, "Warming" | "Verifying" | "Committing" | "Draining")
}

fn is_bad(phase: &str) -> bool {
    matches!(phase, "Rejected" | "Aborted" | "RolledBack")
}

/// Says whether that changed anything.
fn start(target: &Target, to: &str, manifests: &Path) -> Result<bool, CliError> {
    let edited = edit::set_active(manifests, &target.service, to)?;
    let file = edited.file.display();
    let before = edited.before.as_deref().unwrap_or("nothing");
    output::print(&if edited.changed {
        format!("{file}: weir.dev/active of {}: {before} -> {to}\n", target.service)
    } else {
        format!("{file}: weir.dev/active of {} is {to} already\n", target.service)
    });
    Ok(edited.changed)
}
