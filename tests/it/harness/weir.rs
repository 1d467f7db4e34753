//! The product as a process: started on ports chosen by the system, fed through its manifests folder, read through its
//! log, its admin port and its answers, and ended by signals.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::{self, Answer};
use super::metrics::Metrics;
use super::{PATIENCE, eventually};

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("WEIR_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_weir")), PathBuf::from)
}

/// A command for the binary with an environment that says nothing about settings.
pub fn command() -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs a verb to its end.
pub async fn run(arguments: &[&str]) -> Finished {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let mut command = tokio::process::Command::from(command());
    command.args(&arguments).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(30), command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("weir {arguments:?} did not end within 30 s"));
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// What a verb left behind.
#[derive(Debug)]
pub struct Finished {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Both outputs.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// How to start it.
pub struct Builder {
    directory: TempDir,
    arguments: Vec<String>,
    with_folder: bool,
    with_listeners: bool,
    open_files: Option<u32>,
}

/// A running instance; killed when dropped.
pub struct Weir {
    child: Child,
    directory: TempDir,
    stderr: Lines,
    stdout: Lines,
    /// Address of the listener `http`.
    pub http: SocketAddr,
    /// Address of the listener `https`.
    pub https: SocketAddr,
    /// Address of the admin port.
    pub admin: SocketAddr,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: by a signal that it did not handle.
    pub code: Option<i32>,
    /// From the first signal to the end.
    pub took: Duration,
    pub stderr: String,
}

impl Weir {
    /// With these manifests; ready when this returns.
    pub async fn start(manifests: &str) -> Self {
        Self::builder().file("main.yaml", manifests).start().await
    }

    pub fn builder() -> Builder {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("manifests")).unwrap();
        Builder { directory, arguments: Vec::new(), with_folder: true, with_listeners: true, open_files: None }
    }

    /// The manifests folder.
    pub fn folder(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// Writes a manifest file in one step, as a careful tool does.
    pub fn apply(&self, name: &str, manifests: &str) {
        write_in_one_step(self.directory.path(), &self.folder().join(name), manifests);
    }

    /// Removes a manifest file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder().join(name)).unwrap();
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Processor time used so far, in hundredths of a second (`proc_pid_stat(5)`: utime and stime).
    pub fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
        fields.map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// Lines written to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// Lines written to standard output so far (the access log, when it is on).
    pub fn output(&self) -> Vec<String> {
        self.stdout.all()
    }

    /// `GET` from the admin port.
    pub async fn admin_get(&self, path: &str) -> Result<Answer, client::Error> {
        client::get(self.admin, &self.admin.to_string(), path).await
    }

    /// JSON from the admin port.
    pub async fn admin_json(&self, path: &str) -> serde_json::Value {
        let answer = self.admin_get(path).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", answer.text()))
    }

    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin_get("/metrics").await.unwrap();
        assert_eq!(answer.status, 200);
        Metrics::parse(&answer.text())
    }

    /// `GET` over a new clear-text connection.
    pub async fn get(&self, host: &str, path: &str) -> Answer {
        client::get(self.http, host, path).await.unwrap_or_else(|error| panic!("GET http://{host}{path}: {error}"))
    }

    /// Asks until the answer satisfies, so that a change just applied is known to be served.
    pub async fn until_served(&self, host: &str, path: &str, satisfied: impl Fn(&Answer) -> bool) -> Answer {
        eventually(&format!("http://{host}{path} as expected"), async || {
            let answer = client::get(self.http, host, path).await.map_err(|error| error.to_string())?;
            if satisfied(&answer) { Ok(answer) } else { Err(format!("{} {}", answer.status, answer.text())) }
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end.
    pub async fn ended(mut self, patience: Duration) -> Ended {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.stderr.finished().await;
                return Ended { code: status.code(), took: start.elapsed(), stderr: self.log().join("\n") };
            }
            assert!(start.elapsed() < patience, "it did not end within {patience:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(self, patience: Duration) -> Ended {
        self.signal(Signal::TERM);
        self.ended(patience).await
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("--- last lines of weir's log ---\n{}", log[log.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Builder {
    /// Adds a manifest file.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        let path = self.directory.path().join("manifests").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Static settings with listeners of their own; a flag would replace all listeners of its protocol.
    #[must_use]
    pub fn settings_with_listeners(mut self, yaml: &str) -> Self {
        self.with_listeners = false;
        self.settings(yaml)
    }

    /// Static settings (`weir.yaml`).
    #[must_use]
    pub fn settings(mut self, yaml: &str) -> Self {
        let path = self.directory.path().join("weir.yaml");
        std::fs::write(&path, yaml).unwrap();
        self.arguments.extend(["--config".to_owned(), path.display().to_string()]);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Leaves it to the arguments or settings to name the folder.
    #[must_use]
    pub fn without_folder(mut self) -> Self {
        self.with_folder = false;
        self
    }

    /// Most file descriptors that it may have, hard and soft.
    #[must_use]
    pub fn open_files(mut self, most: u32) -> Self {
        self.open_files = Some(most);
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> Weir {
        let weir = self.spawn();
        weir.ready().await
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Starting {
        let mut command = command();
        if let Some(most) = self.open_files {
            let program = command.get_program().to_owned();
            let mut limited = Command::new("sh");
            limited.arg("-c").arg(format!("ulimit -n {most}; exec \"$0\" \"$@\"")).arg(program).stdin(Stdio::null());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => limited.env(name, value),
                    None => limited.env_remove(name),
                };
            }
            command = limited;
        }
        command.arg("run");
        if self.with_folder {
            command.arg("--manifests").arg(self.directory.path().join("manifests"));
        }
        if self.with_listeners {
            command.args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(["--admin", "127.0.0.1:0"])
            .args(&self.arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let stderr = Lines::of(child.stderr.take().unwrap());
        let stdout = Lines::of(child.stdout.take().unwrap());
        Starting { child, directory: self.directory, stderr, stdout }
    }
}

/// A process that has not said that it is ready.
pub struct Starting {
    child: Child,
    directory: TempDir,
    stderr: Lines,
    stdout: Lines,
}

impl Starting {
    /// Lines written to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.stderr.all()
    }

    /// Waits until it says that it is ready.
    pub async fn ready(mut self) -> Weir {
        let start = Instant::now();
        while self.stderr.line_with_message("ready").is_none() {
            let ended = self.child.try_wait().unwrap();
            let late = start.elapsed() > PATIENCE;
            if ended.is_some() || late {
                // The process must not outlive the test that gave up on it.
                let _ = self.child.kill();
                let _ = self.child.wait();
                self.stderr.finished().await;
                let how = ended.map_or("not ready in time".to_owned(), |status| format!("it ended: {status}"));
                panic!("{how}\n{}", self.stderr.all().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let address =
            |name: &str| self.stderr.listener(name).unwrap_or_else(|| panic!("no listener {name} in the log"));
        let (http, https, admin) = (address("http"), address("https"), address("admin"));
        Weir {
            child: self.child,
            directory: self.directory,
            stderr: self.stderr,
            stdout: self.stdout,
            http,
            https,
            admin,
        }
    }

    /// Waits for the end, which is expected to come by itself.
    pub async fn ended(mut self) -> Ended {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                self.stderr.finished().await;
                return Ended { code: status.code(), took: start.elapsed(), stderr: self.stderr.all().join("\n") };
            }
            if start.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("it should have ended by itself\n{}", self.stderr.all().join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Weir {
    /// Address of a listener that came up later, from the log line that said so.
    pub async fn listener(&self, name: &str) -> SocketAddr {
        eventually(&format!("listener {name} in the log"), async || self.stderr.listener(name).ok_or("not listening"))
            .await
    }
}

/// Lines of a pipe, collected by a thread so that the process never waits for the test.
#[derive(Clone)]
struct Lines(Arc<Mutex<Collected>>);

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    finished: bool,
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self(Arc::default());
        let collected = lines.0.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { break };
                collected.lock().unwrap().lines.push(line);
            }
            collected.lock().unwrap().finished = true;
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().lines.clone()
    }

    async fn finished(&self) {
        super::until("end of the log", async || self.0.lock().unwrap().finished).await;
    }

    fn line_with_message(&self, message: &str) -> Option<serde_json::Value> {
        let collected = self.0.lock().unwrap();
        collected
            .lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .find(|line| field(line, "message") == Some(message))
    }

    fn listener(&self, name: &str) -> Option<SocketAddr> {
        let collected = self.0.lock().unwrap();
        let lines = collected.lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        // The last word counts: a listener may have moved.
        lines
            .filter(|line| field(line, "message") == Some("listening") && field(line, "listener") == Some(name))
            .filter_map(|line| field(&line, "address")?.parse().ok())
            .next_back()
    }
}

/// A field of a log line, whether or not the format nests fields.
fn field<'a>(line: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str()
}

/// Writes beside the folder, then renames into it.
fn write_in_one_step(scratch: &Path, path: &Path, content: &str) {
    let name = path.file_name().unwrap().to_string_lossy();
    let temporary = scratch.join(format!("{name}.being-written"));
    std::fs::write(&temporary, content).unwrap();
    std::fs::rename(temporary, path).unwrap();
}
