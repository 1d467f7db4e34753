//! Processes that this one starts. Each is bound to a core, and ends with its handle; should this process die first, the
//! kernel ends them (`setpriv --pdeathsig`). Nothing else is ever signalled.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Result, measure};

/// The core of the proxy, and the core of everything around it.
pub const PROXY_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;

/// How long a process has to end before it is killed.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A process that ends, with all its children, when this is dropped.
pub struct Running {
    child: Child,
}

/// A part of this program as a process on the load core: it takes lines and gives lines.
pub struct Helper {
    running: Running,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a program whose output goes to a file; `openssl` is the file with the settings of OpenSSL.
    pub fn start(core: usize, program: &Path, arguments: &[String], openssl: &Path, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command(core, program)
            .args(arguments)
            .env("OPENSSL_CONF", openssl)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(Self { child })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process and all its descendants.
    pub fn tree(&self) -> Vec<u32> {
        measure::tree(self.id())
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let all = self.tree();
        for (signal, patience) in [(Signal::TERM, PATIENCE), (Signal::KILL, PATIENCE)] {
            if !self.has_ended() || all.iter().any(|id| measure::is_alive(*id)) {
                all.iter().for_each(|id| send(*id, signal));
                let until = Instant::now() + patience;
                while Instant::now() < until && (!self.has_ended() || all.iter().any(|id| measure::is_alive(*id))) {
                    sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

impl Helper {
    /// Starts a part of this program on a core.
    pub fn start(core: usize, arguments: &[String]) -> Result<Self> {
        let mut child = command(core, &std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", arguments.join(" ")))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("a part of this program has no output")?);
        Ok(Self { running: Running { child }, input, output })
    }

    /// Starts a part that says the port it listens on.
    pub fn listening(core: usize, arguments: &[String]) -> Result<(Self, u16)> {
        let mut helper = Self::start(core, arguments)?;
        let port = helper.line()?.parse().map_err(|error| format!("{}: no port: {error}", arguments.join(" ")))?;
        Ok((helper, port))
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a part of this program ended early; its message is above".into()),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&mut self, question: &str) -> Result<String> {
        let input = self.input.as_mut().ok_or("a part of this program takes no input")?;
        input.write_all(format!("{question}\n").as_bytes())?;
        self.line()
    }

    pub fn running(self) -> Running {
        self.running
    }
}

/// What a program prints that runs for a while and ends by itself; an error if it says so in its exit code. `openssl` as
/// in [`Running::start`].
pub fn output(core: usize, program: &Path, arguments: &[String], openssl: &Path, at_most: Duration) -> Result<String> {
    let mut child = command(core, program)
        .args(arguments)
        .env("OPENSSL_CONF", openssl)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    let (mut out, mut err) =
        (child.stdout.take().ok_or("no standard output")?, child.stderr.take().ok_or("no standard error")?);
    let mut running = Running { child };
    let begun = Instant::now();
    let (mut text, mut complaints) = (String::new(), String::new());
    let status = std::thread::scope(|scope| -> Result<ExitStatus> {
        scope.spawn(|| drop(out.read_to_string(&mut text)));
        scope.spawn(|| drop(err.read_to_string(&mut complaints)));
        loop {
            if let Some(status) = running.child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > at_most {
                // Ends it, so that the readers end.
                drop(running);
                return Err(format!("{} did not end in {at_most:?}", program.display()).into());
            }
            sleep(Duration::from_millis(5));
        }
    })?;
    text.push_str(&complaints);
    if status.success() {
        return Ok(text);
    }
    let last = text.trim().lines().last().unwrap_or("it said nothing");
    Err(format!("{}: {status}: {last}", program.display()).into())
}

/// Removes a folder and exits when this process is interrupted or told to end; the kernel ends what it started.
pub fn remove_when_interrupted(folder: &Path) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?]
    };
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        let [interrupt, terminate] = &mut signals;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        // What is still being written there keeps it; nothing more can be done about it.
        let _ = std::fs::remove_dir_all(folder);
        std::process::exit(130);
    });
    Ok(())
}

/// As many open files as the system allows: ten thousand connections need as many, in the proxy too.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Without the right to do so the hard limit stays, and the file limit is what it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The limit of open files that children inherit.
pub fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).min(1 << 20)
}

/// Keeps this process, which looks on and asks, off the core of the proxies.
pub fn stay_on(core: usize) -> Result<()> {
    let status = Command::new("taskset")
        .args(["-cp", &core.to_string(), &std::process::id().to_string()])
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("taskset, of the Debian package util-linux: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("core {core} may not be used").into()) }
}

/// Signals one process that this program started; one that is gone is fine.
pub fn send(id: u32, signal: Signal) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(id, signal);
    }
}

fn command(core: usize, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "taskset", "-c", &core.to_string()]).arg(program);
    // What is measured is what the command line says; a setting of the caller's shell would be Weir's too.
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEIR_")) {
        command.env_remove(name);
    }
    command
}
