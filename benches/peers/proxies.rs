//! The proxies under test: what each is configured with, how it is started, and how it is told of a new host.
//!
//! Everything lies in one scratch folder that goes away at the end. The configurations stand in `config/`.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::{self, Client};
use crate::process::{Helper, PROXY_CORE, Running, file_limit, send};
use crate::tools::Tools;
use crate::{Result, process};

/// How many hosts the scenarios with many hosts have.
pub const HOSTS: usize = 10_000;

/// How long a proxy may take to serve its first request; ten thousand hosts take some of it.
const START: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Weir,
    Haproxy,
    Nginx,
    Envoy,
    Relay,
}

/// Beside whom, by name on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    Haproxy,
    Nginx,
    Envoy,
    /// Copies bytes and reads none of them: what any proxy costs at least
    Relay,
}

/// What the proxies of a run have in common.
pub struct Place {
    pub tools: Tools,
    folder: TempDir,
    /// The process that answers behind every proxy.
    _backend: Running,
    backend: SocketAddr,
    certificate: String,
    key: String,
}

/// One proxy that runs.
pub struct Proxy {
    pub kind: Kind,
    pub http: SocketAddr,
    pub https: SocketAddr,
    running: Running,
    /// Its processes when it had begun to serve.
    began_with: Vec<u32>,
    folder: PathBuf,
    /// Hosts that were added while it ran.
    added: Vec<String>,
    /// Whether it knows the hosts one by one, or sends everything to the backend.
    hosts: bool,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Weir => "Weir",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
            Self::Relay => "relay",
        }
    }
}

impl Peer {
    pub fn kind(self) -> Kind {
        match self {
            Self::Haproxy => Kind::Haproxy,
            Self::Nginx => Kind::Nginx,
            Self::Envoy => Kind::Envoy,
            Self::Relay => Kind::Relay,
        }
    }
}

/// The host with this number.
pub fn host(number: usize) -> String {
    format!("h{number}.example.test")
}

impl Place {
    /// Makes the scratch folder and the certificate, and starts the backend.
    pub fn new(tools: Tools) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("peers-").tempdir()?;
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "*.example.test".to_owned()])?;
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        fs::write(folder.path().join("cert.pem"), &certificate)?;
        fs::write(folder.path().join("key.pem"), &key)?;
        fs::write(folder.path().join("both.pem"), format!("{certificate}{key}"))?;
        fs::write(folder.path().join("openssl.cnf"), include_str!("config/openssl.cnf"))?;
        let (backend, port) = Helper::listening(process::LOAD_CORE, &["backend".to_owned()])?;
        let place = Self {
            tools,
            folder,
            _backend: backend.running(),
            backend: SocketAddr::from(([127, 0, 0, 1], port)),
            certificate,
            key,
        };
        client::check_all(&mut Client::plain(place.backend)?, "localhost")
            .map_err(|error| format!("backend: {error}"))?;
        Ok(place)
    }

    /// The scratch folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The certificate of every proxy, as a file.
    pub fn certificate(&self) -> PathBuf {
        self.folder().join("cert.pem")
    }

    /// The settings of everything that uses OpenSSL, as a file.
    pub fn openssl(&self) -> PathBuf {
        self.folder().join("openssl.cnf")
    }

    /// The proxies that this machine has and that can do what is asked for, Weir first.
    pub fn kinds(&self, suits: impl Fn(Kind) -> bool) -> Vec<Kind> {
        self.tools.kinds.iter().copied().filter(|kind| suits(*kind)).collect()
    }

    fn fill(&self, template: &str, more: &[(&str, String)]) -> String {
        let shown = |name: &str| self.folder().join(name).display().to_string();
        let common = [
            ("backend", self.backend.port().to_string()),
            ("cert", shown("cert.pem")),
            ("key", shown("key.pem")),
            ("pem", shown("both.pem")),
            ("files", file_limit().to_string()),
        ];
        common
            .iter()
            .chain(more)
            .fold(template.to_owned(), |text, (word, value)| text.replace(&format!("@{word}@"), value))
    }
}

impl Proxy {
    /// Starts a proxy that serves every host, or `HOSTS` hosts by name, and waits until it serves.
    pub fn start(kind: Kind, place: &Place, hosts: bool) -> Result<Self> {
        let folder = place.folder().join(kind.name());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let [mut http, https, admin] = free_ports()?;
        let (openssl, log) = (place.openssl(), folder.join("log"));
        let words = [
            ("dir", folder.display().to_string()),
            ("http", http.port().to_string()),
            ("tls", https.port().to_string()),
        ];
        let running = match kind {
            Kind::Relay => {
                let (helper, port) = Helper::listening(PROXY_CORE, &["relay".to_owned(), place.backend.to_string()])?;
                http.set_port(port);
                helper.running()
            }
            Kind::Weir => {
                weir_files(place, &folder, hosts)?;
                let arguments = [
                    ("--manifests", folder.join("manifests").display().to_string()),
                    ("--http", http.to_string()),
                    ("--https", https.to_string()),
                    ("--admin", admin.to_string()),
                    ("--workers", "1".to_owned()),
                ];
                let mut all = vec!["run".to_owned()];
                all.extend(arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
                Running::start(PROXY_CORE, &place.tools.weir, &all, &openssl, &log)?
            }
            Kind::Nginx => {
                let file = nginx_files(place, &folder, hosts, &words)?;
                let arguments =
                    ["-c".to_owned(), file, "-e".to_owned(), folder.join("error.log").display().to_string()];
                Running::start(PROXY_CORE, &place.tools.nginx, &arguments, &openssl, &log)?
            }
            Kind::Haproxy => {
                let file = haproxy_files(place, &folder, hosts, &words)?;
                Running::start(
                    PROXY_CORE,
                    &place.tools.haproxy,
                    &["-db".to_owned(), "-f".to_owned(), file],
                    &openssl,
                    &log,
                )?
            }
            Kind::Envoy => {
                let file = envoy_files(place, &folder, hosts, &words)?;
                let arguments =
                    ["-c", &file, "--concurrency", "1", "-l", "error", "--disable-hot-restart"].map(str::to_owned);
                Running::start(PROXY_CORE, &place.tools.envoy, &arguments, &openssl, &log)?
            }
        };
        let mut proxy = Self { kind, http, https, running, began_with: Vec::new(), folder, added: Vec::new(), hosts };
        proxy.wait_until_it_serves()?;
        proxy.began_with = proxy.processes();
        Ok(proxy)
    }

    fn wait_until_it_serves(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if client::check_small(self.http, &self.host()).is_ok() {
                return Ok(());
            }
            if self.running.has_ended() || begun.elapsed() > START {
                return Err(
                    format!("{} does not serve; its last words: {}", self.kind.name(), self.last_words()).into()
                );
            }
            sleep(Duration::from_millis(30));
        }
    }

    /// A host that it serves.
    pub fn host(&self) -> String {
        if self.hosts { host(77) } else { "localhost".to_owned() }
    }

    /// The process and all its descendants, parents first.
    pub fn processes(&self) -> Vec<u32> {
        self.running.tree()
    }

    /// Its processes, if they are still those that it began with: nothing crashed and was started again.
    pub fn same_processes(&self) -> Result<&[u32]> {
        let now = self.processes();
        if now == self.began_with {
            return Ok(&self.began_with);
        }
        Err(format!("its processes changed from {:?} to {now:?}: {}", self.began_with, self.last_words()).into())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log =
            ["log", "error.log"].map(|name| fs::read_to_string(self.folder.join(name)).unwrap_or_default()).concat();
        let words: Vec<char> = log.trim().chars().collect();
        let from = words.len().saturating_sub(500);
        words[from..].iter().collect::<String>().replace('\n', " ")
    }

    /// Makes it serve one host more, in the cheapest way it has. Everything that another program would prepare is done
    /// before; returns the last step, which is the change.
    pub fn prepare_host(&mut self, name: &str) -> Result<Box<dyn FnOnce() -> Result<()> + '_>> {
        self.added.push(name.to_owned());
        let folder = &self.folder;
        match self.kind {
            Kind::Weir => {
                let (text, file) = (ingress(name), folder.join(format!("manifests/{name}.yaml")));
                Ok(Box::new(move || Ok(fs::write(file, text)?)))
            }
            Kind::Nginx => {
                let port = self.http.port();
                let (text, file) = (nginx_server(name, port), folder.join(format!("hosts/{name}.conf")));
                let id = self.running.id();
                Ok(Box::new(move || {
                    fs::write(file, text)?;
                    send(id, Signal::HUP);
                    Ok(())
                }))
            }
            Kind::Haproxy => {
                let line = format!("add map {} {name} backend\n", folder.join("hosts.map").display());
                let socket = folder.join("socket");
                Ok(Box::new(move || {
                    let mut socket = UnixStream::connect(socket)?;
                    socket.write_all(line.as_bytes())?;
                    let mut answer = String::new();
                    socket.read_to_string(&mut answer)?;
                    if answer.trim().is_empty() { Ok(()) } else { Err(format!("add map: {}", answer.trim()).into()) }
                }))
            }
            Kind::Envoy => {
                let (new, file) = (folder.join("routes.new"), folder.join("routes.yaml"));
                fs::write(&new, envoy_routes(&envoy_hosts(true, &self.added)))?;
                // It watches for the file to be moved into its place.
                Ok(Box::new(move || Ok(fs::rename(new, file)?)))
            }
            Kind::Relay => Err("the relay has no hosts".into()),
        }
    }
}

fn weir_files(place: &Place, folder: &Path, hosts: bool) -> Result<()> {
    let manifests = folder.join("manifests");
    fs::create_dir_all(&manifests)?;
    let indented = |text: &str| text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
    let default = if hosts { "" } else { "  defaultBackend: {service: {name: backend, port: {number: 80}}}" };
    let more = [
        ("cert_text", indented(&place.certificate)),
        ("key_text", indented(&place.key)),
        ("default", default.to_owned()),
    ];
    fs::write(manifests.join("edge.yaml"), place.fill(include_str!("config/weir.yaml"), &more))?;
    if hosts {
        fs::write(manifests.join("hosts.yaml"), (0..HOSTS).map(|n| ingress(&host(n))).collect::<String>())?;
    }
    Ok(())
}

fn ingress(host: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {host}}}\nspec:\n  rules:\n  - host: \
         {host}\n    http:\n      paths:\n      - path: /\n        pathType: Prefix\n        backend: {{service: {{name: \
         backend, port: {{number: 80}}}}}}\n"
    )
}

fn nginx_files(place: &Place, folder: &Path, hosts: bool, words: &[(&str, String)]) -> Result<String> {
    for sub in ["hosts", "temp"] {
        fs::create_dir_all(folder.join(sub))?;
    }
    // The directive was renamed in 1.25.1.
    let (on_listen, on_server) = if place.tools.nginx_is_new { ("", "http2 on;") } else { ("http2", "") };
    let mut words = words.to_vec();
    words.extend([
        ("http2_on_listen", on_listen.to_owned()),
        ("http2_on_server", on_server.to_owned()),
        ("connections", file_limit().min(16_384).to_string()),
        ("default", if hosts { "return 404;" } else { "proxy_pass http://backend;" }.to_owned()),
    ]);
    let port = words.iter().find(|(word, _)| *word == "http").map_or("", |(_, port)| port.as_str());
    if hosts {
        let port = port.parse()?;
        let all = (0..HOSTS).map(|n| nginx_server(&host(n), port)).collect::<String>();
        fs::write(folder.join("hosts/all.conf"), all)?;
    }
    let file = folder.join("nginx.conf");
    fs::write(&file, place.fill(include_str!("config/nginx.conf"), &words))?;
    Ok(file.display().to_string())
}

fn nginx_server(host: &str, port: u16) -> String {
    format!("server {{ listen 127.0.0.1:{port}; server_name {host}; location / {{ proxy_pass http://backend; }} }}\n")
}

fn haproxy_files(place: &Place, folder: &Path, hosts: bool, words: &[(&str, String)]) -> Result<String> {
    let map = folder.join("hosts.map");
    let choice = if hosts {
        fs::write(&map, (0..HOSTS).map(|n| format!("{} backend\n", host(n))).collect::<String>())?;
        format!("use_backend %[req.hdr(host),lower,map({},nothing)]", map.display())
    } else {
        "default_backend backend".to_owned()
    };
    let mut words = words.to_vec();
    words.push(("choice", choice));
    let file = folder.join("haproxy.cfg");
    fs::write(&file, place.fill(include_str!("config/haproxy.cfg"), &words))?;
    Ok(file.display().to_string())
}

fn envoy_files(place: &Place, folder: &Path, hosts: bool, words: &[(&str, String)]) -> Result<String> {
    fs::write(folder.join("routes.yaml"), envoy_routes(&envoy_hosts(hosts, &[])))?;
    let file = folder.join("envoy.yaml");
    fs::write(&file, place.fill(include_str!("config/envoy.yaml"), words))?;
    Ok(file.display().to_string())
}

fn envoy_hosts(hosts: bool, added: &[String]) -> Vec<String> {
    let mut all: Vec<String> = if hosts { (0..HOSTS).map(host).collect() } else { vec!["*".to_owned()] };
    all.extend_from_slice(added);
    all
}

fn envoy_routes(hosts: &[String]) -> String {
    let mut text = "resources:\n- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: \
                    routes\n  virtual_hosts:\n"
        .to_owned();
    for (number, host) in hosts.iter().enumerate() {
        text.push_str(&format!(
            "  - {{name: v{number}, domains: [\"{host}\"], routes: [{{match: {{prefix: /}}, route: {{cluster: backend, \
             timeout: 0s}}}}]}}\n"
        ));
    }
    text
}

/// Three ports of 127.0.0.1 that nobody listens on. They lie below those that the system gives to outgoing connections,
/// or else one of these could take the port before the proxy does.
fn free_ports() -> Result<[SocketAddr; 3]> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end: u16 = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
    let end = if end < 12_000 { 32_768 } else { end };
    let mut held = Vec::new();
    for _ in 0..1000 {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(10_000..end)));
        if let Ok(listener) = TcpListener::bind(address) {
            held.push((listener, address));
        }
        if let [(_, a), (_, b), (_, c)] = held[..] {
            return Ok([a, b, c]);
        }
    }
    Err("no free ports on 127.0.0.1".into())
}
