//! The command line as its users meet it: the real binary, its words, its exit codes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const VERBS: [&str; 10] =
    ["demo", "run", "proxy", "check", "explain", "cutover", "routes", "backends", "version", "completions"];

fn weir() -> Command {
    let binary: PathBuf =
        std::env::var_os("WEIR_BIN").unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_weir"))).into();
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WEIR_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    weir().args(arguments).output().expect("the binary runs")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn help_names_every_verb_and_every_verb_has_help() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for verb in VERBS {
        assert!(text(&output).contains(&format!("\n  {verb} ")), "{verb} is missing:\n{}", text(&output));
        let help = run(&[verb, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{verb}");
        assert!(text(&help).contains(&format!("Usage: weir {verb}")), "{verb}:\n{}", text(&help));
    }
    for verb in ["status", "start", "watch"] {
        let help = run(&["cutover", verb, "--help"]);
        assert!(text(&help).contains(&format!("Usage: weir cutover {verb}")), "{verb}:\n{}", text(&help));
    }
}

#[test]
fn the_flags_that_scripts_rely_on_are_there() {
    for (verb, flags) in [
        (&["run"][..], &["--config", "--manifests", "--http", "--https", "--admin", "--workers"][..]),
        (&["proxy"], &["--from", "--to"]),
        (&["check"], &["--config", "--origin"]),
        (
            &["explain"],
            &["--header", "--at", "--manifests", "--config", "--admin", "--output", "tcp://", "tls://", "udp://"],
        ),
        (&["cutover", "start"], &["--to", "--wait", "--manifests", "--admin"]),
        (&["cutover", "watch"], &["--to", "--admin"]),
        (&["cutover", "status"], &["--admin", "--output"]),
        (&["routes"], &["--admin", "--output"]),
        (&["backends"], &["--admin", "--output"]),
    ] {
        let help = text(&run(&[verb, &["--help"]].concat()));
        for flag in flags {
            assert!(help.contains(flag), "{verb:?} has no {flag}:\n{help}");
        }
    }
}

#[test]
fn version_is_that_of_the_package_in_every_form() {
    let version = env!("CARGO_PKG_VERSION");
    for arguments in [&["version"][..], &["--version"], &["version", "-o", "json"], &["version", "-o", "yaml"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output).contains(version), "{arguments:?}: {}", text(&output));
    }
    let json: serde_json::Value = serde_json::from_slice(&run(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["version"], version);
}

#[test]
fn completions_exist_for_every_shell_and_know_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(VERBS.iter().all(|verb| text(&output).contains(verb)), "{shell}");
    }
}

#[test]
fn a_wrong_command_line_ends_with_2_and_names_the_argument() {
    for (arguments, wanted) in [
        (&["serve"][..], "serve"),
        (&["run", "--htpp", ":80"], "--http"),
        (&["run", "--workers", "0"], "--workers"),
        (&["run", "--workers", "many"], "--workers"),
        (&["run", "--http", "localhost"], "--http"),
        (&["run", "--http", "127.0.0.1:99999"], "--http"),
        (&["run", "surplus"], "surplus"),
        (&["demo", "--http", "nowhere:80"], "--http"),
        (&["proxy", "--from", "127.0.0.1:0"], "--to"),
        (&["proxy", "--from", "127.0.0.1:0", "--to", "127.0.0.1"], "no port"),
        (&["proxy", "--from", "127.0.0.1:0", "--to", "ftp://127.0.0.1:21"], "unknown scheme"),
        (&["explain"], "METHOD"),
        (&["explain", "GET"], "URL"),
        (&["explain", "GET", "not a url"], "not a url"),
        (&["explain", "GET", "http://x/", "-H", "no colon"], "no colon"),
        (&["explain", "tcp://x"], "tcp://HOST:PORT"),
        (&["explain", "tls://x/path"], "no path"),
        (&["explain", "http://x/", "--at", "x"], "--at"),
        (&["cutover", "start", "shop/web"], "--to"),
        (&["cutover", "start", "Shop/Web", "--to", "green"], "NAMESPACE/NAME"),
        (&["cutover", "status", "a/b/c"], "NAMESPACE/NAME"),
        (&["cutover"], "cutover"),
        (&["routes", "-o", "xml"], "xml"),
        (&["completions", "sh"], "sh"),
        (&["run", "--config", "/nonexistent/weir.yaml"], "/nonexistent/weir.yaml"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains(wanted), "{arguments:?} does not name {wanted}: {words}");
        assert!(output.stdout.is_empty(), "{arguments:?} speaks on stdout");
    }
}

#[test]
fn settings_that_are_wrong_end_with_2_and_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.yaml");
    for (settings, wanted) in [
        ("limits:\n  bodi: 1\n", "2:3"),
        ("worker: 2\n", "workers"),
        ("workers: many\n", "workers"),
        ("listeners: [\n", "weir.yaml"),
    ] {
        std::fs::write(&file, settings).unwrap();
        let output = run(&["run", "--config", file.to_str().unwrap(), "--manifests", folder.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{settings}: {}", text(&output));
        assert!(text(&output).contains(wanted), "{settings}: no {wanted} in {}", text(&output));
    }
}

#[test]
fn a_running_weir_that_is_not_there_ends_with_4_and_names_the_address() {
    let address = nobody();
    for arguments in [
        &["routes", "--admin", &address][..],
        &["backends", "--admin", &address],
        &["cutover", "status", "demo/shop", "--admin", &address],
        &["cutover", "watch", "demo/shop", "--admin", &address],
        &["explain", "GET", "http://localhost/", "--admin", &address],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(&address), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn check_tells_good_from_bad_from_unreadable() {
    let good = run(&["check", concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/ingress-basic.yaml")]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));

    let folder = tempfile::tempdir().unwrap();
    let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  ingressClassName: weir\n  \
                   defaultBackend: {service: {name: nobody, port: {number: 80}}}\n";
    let class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: weir}\n\
                 spec: {controller: weir.dev/ingress-controller}\n";
    std::fs::write(folder.path().join("web.yaml"), format!("{ingress}---\n{class}")).unwrap();
    let finding = run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(finding.status.code(), Some(1), "{}", text(&finding));
    assert!(text(&finding).contains("Ingress default/web") && text(&finding).contains("nobody"), "{}", text(&finding));

    std::fs::write(folder.path().join("broken.yaml"), "kind: [\n").unwrap();
    let partial = run(&["check", folder.path().to_str().unwrap()]);
    assert_eq!(partial.status.code(), Some(3), "{}", text(&partial));
    assert!(text(&partial).contains("broken.yaml"), "{}", text(&partial));

    let absent = run(&["check", "/nonexistent/manifests"]);
    assert_eq!(absent.status.code(), Some(4), "{}", text(&absent));
}

#[test]
fn explain_says_who_serves_a_request_from_a_folder() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/ingress-basic.yaml");
    let api = run(&["explain", "GET", "http://shop.example/api/x", "--manifests", file]);
    assert_eq!(api.status.code(), Some(0), "{}", text(&api));
    assert!(text(&api).contains("Ingress examples/web") && text(&api).contains("127.0.0.1:9003"), "{}", text(&api));
    let canary = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/canary-header.yaml");
    let plain = run(&["explain", "GET", "http://search.example/", "--manifests", canary]);
    assert!(text(&plain).contains("127.0.0.1:9001") && !text(&plain).contains("127.0.0.1:9002"), "{}", text(&plain));
    let asked = run(&["explain", "GET", "http://search.example/", "-H", "X-Canary: yes", "--manifests", canary]);
    assert!(text(&asked).contains("127.0.0.1:9002"), "{}", text(&asked));
    let nobody = run(&["explain", "GET", "http://other.example/", "--manifests", canary]);
    assert_eq!(nobody.status.code(), Some(1), "{}", text(&nobody));
    assert!(text(&nobody).contains("404"), "{}", text(&nobody));
}

/// Two Gateways that share ports, each at an address of its own.
const STREAMS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: weir}
spec: {controllerName: weir.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: one}
spec:
  gatewayClassName: weir
  addresses: [{type: IPAddress, value: 127.0.0.11}]
  listeners:
  - {name: tcp, port: 5432, protocol: TCP}
  - {name: udp, port: 53, protocol: UDP}
  - {name: pass, port: 443, protocol: TLS, hostname: "*.pass.example", tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: two}
spec:
  gatewayClassName: weir
  addresses: [{type: IPAddress, value: 127.0.0.12}]
  listeners: [{name: tcp, port: 5432, protocol: TCP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db}
spec:
  parentRefs: [{name: two}]
  rules: [{backendRefs: [{name: shop, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: dns}
spec:
  parentRefs: [{name: one, sectionName: udp}]
  rules: [{backendRefs: [{name: names, port: 53}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: inside}
spec:
  parentRefs: [{name: one, sectionName: pass}]
  hostnames: [a.pass.example]
  rules: [{backendRefs: [{name: shop, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: shop, annotations: {weir.dev/endpoints: "127.0.0.1:9001"}}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: names, annotations: {weir.dev/endpoints: "127.0.0.1:9053"}}
spec: {ports: [{port: 53, protocol: UDP}]}
"#;

#[test]
fn explain_and_check_know_streams_and_the_addresses_of_gateways() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let manifests = path("streams.yaml", STREAMS);
    let settings = path("weir.yml", "gateways: {addresses: [127.0.0.11-127.0.0.12]}\n");
    for (question, code, wanted) in [
        (
            &["tcp://127.0.0.12:5432"][..],
            0,
            &["listener     127.0.0.12:5432", "TCPRoute default/db", "127.0.0.1:9001"][..],
        ),
        // The first is of the other Gateway, which has no route.
        (&["tcp://db.example:5432"], 0, &["listener     127.0.0.12:5432", "TCPRoute default/db", "127.0.0.11:5432"]),
        (&["tcp://db.example:5432", "--at", "127.0.0.11"], 1, &["listener     127.0.0.11:5432", "nobody"]),
        (&["tcp://db.example:1"], 1, &["nothing is served"]),
        (&["tcp://127.0.0.11:53"], 1, &["nothing is served"]),
        (&["udp://127.0.0.11:53"], 0, &["listener     127.0.0.11:53/udp", "UDPRoute default/dns", "127.0.0.1:9053"]),
        (&["tls://A.pass.example"], 0, &["TLSRoute default/inside", "TLS ends at the endpoint", "127.0.0.1:9001"]),
        (&["tls://b.pass.example:443"], 1, &["nobody"]),
        (&["tls://127.0.0.11"], 1, &["nobody"]),
        (&["https://a.pass.example/cart"], 0, &["TLSRoute default/inside", "TLS ends at the endpoint"]),
    ] {
        let output = run(&[&["explain", "--manifests", &manifests, "--config", &settings][..], question].concat());
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{question:?}: {said}");
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{question:?}: {said}");
    }
    let good = run(&["check", &manifests, "--config", &settings]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    let others = path("others.yml", "gateways: {addresses: [192.0.2.1]}\n");
    let bad = run(&["check", &manifests, "--config", &others]);
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    assert!(text(&bad).contains("AddressNotUsable") && text(&bad).contains("TCPRoute default/db"), "{}", text(&bad));
}

#[test]
fn nothing_is_colored_when_nobody_sees_colors() {
    for arguments in [&["--help"][..], &["run", "--bogus"], &["check", "/nonexistent"]] {
        assert!(!text(&run(arguments)).contains('\u{1b}'), "{arguments:?}");
    }
}

/// A verb that serves; killed when dropped.
struct Serving {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Serving {
    fn start(arguments: &[&str], folder: &Path) -> Self {
        let mut child = weir()
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// The first line that contains these words.
    fn line(&mut self, words: &str) -> String {
        if let Some(line) = self.seen.iter().find(|line| line.contains(words)) {
            return line.clone();
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {words:?}; seen:\n{}", self.seen.join("\n")),
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status line, headers and body of one request.
fn ask(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).expect(address);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// `host:port` behind `scheme://` in a line, as reached from here.
fn address_in(line: &str, scheme: &str) -> String {
    let start = line.find(scheme).unwrap_or_else(|| panic!("no {scheme} in {line}")) + scheme.len();
    let rest = &line[start..];
    let end = rest.find(|c: char| c.is_whitespace() || c == '/').unwrap_or(rest.len());
    rest[..end].replace("localhost", "127.0.0.1")
}

#[test]
fn the_demo_takes_the_next_port_shows_its_page_and_switches_colors() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = taken.local_addr().unwrap();
    let http = wanted.to_string();
    let arguments = ["demo", "--http", &http, "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir", "shop"];
    let mut demo = Serving::start(&arguments, folder.path());
    demo.line(&format!("port {} is taken, using", wanted.port()));
    let edge = address_in(&demo.line("  edge "), "http://");
    let admin = address_in(&demo.line("  admin "), "http://");
    assert_ne!(edge, http);
    demo.line("cutover start demo/shop --to green --wait");

    let blue = ask(&edge, "/", "");
    assert!(blue.starts_with("HTTP/1.1 200") && blue.contains("shop blue v1 pod blue-"), "{blue}");
    assert!(ask(&edge, "/", "X-Weir-Color: green\r\n").contains("shop green v2"));
    assert!(ask(&edge, "/", "Accept: text/html\r\n").contains("<title>Weir demo shop</title>"));
    assert!(ask(&edge, "/fail?status=418", "").starts_with("HTTP/1.1 418"));

    let admin_flag = ["--admin", admin.as_str()];
    let manifests = folder.path().join("shop");
    let before = std::fs::read_to_string(manifests.join("shop.yaml")).unwrap();
    let start =
        ["cutover", "start", "demo/shop", "--to", "green", "--wait", "--manifests", manifests.to_str().unwrap()];
    let output = run(&[&start[..], &admin_flag].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(ask(&edge, "/", "").contains("shop green v2 pod green-"));
    let after = std::fs::read_to_string(manifests.join("shop.yaml")).unwrap();
    assert_eq!(after, before.replace("weir.dev/active: blue", "weir.dev/active: green"), "another byte has changed");

    let status = run(&[&["cutover", "status", "demo/shop", "-o", "json"][..], &admin_flag].concat());
    let json: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(json["effective"], "green", "{json}");
    for verb in ["routes", "backends"] {
        let output = run(&[&[verb][..], &admin_flag].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains("demo/shop"), "{verb}: {}", text(&output));
    }
    let unknown = run(&[&["cutover", "status", "demo/nothing"][..], &admin_flag].concat());
    assert_eq!(unknown.status.code(), Some(1), "{}", text(&unknown));
    let explained = run(&[&["explain", "GET", &format!("http://{edge}/")][..], &admin_flag].concat());
    assert!(text(&explained).contains("green"), "{}", text(&explained));

    let second = run(&["demo", "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--dir"]
        .iter()
        .copied()
        .chain([manifests.to_str().unwrap()])
        .collect::<Vec<_>>());
    assert_eq!(second.status.code(), Some(4), "{}", text(&second));
    assert!(text(&second).contains("another `weir demo`"), "{}", text(&second));
}

#[test]
fn proxy_needs_no_file() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = backend.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in backend.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 1024];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(read) if read > 0 => request.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let mut proxy = Serving::start(&["proxy", "--from", "127.0.0.1:0", "--to", &to], folder.path());
    let edge = address_in(&proxy.line(" -> "), "http://");
    assert!(ask(&edge, "/anything", "").ends_with("hello"));
}
