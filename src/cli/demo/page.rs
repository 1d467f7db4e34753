//! The page of things to try, with the addresses and names of this very run, so that every line can be copied.

use std::env;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::shop::Pod;

/// What the page speaks of.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// How this program is called from the user's shell.
    pub program: &'a str,
    /// Edge, clear text.
    pub http: SocketAddr,
    /// Edge, TLS.
    pub https: SocketAddr,
    /// Admin API.
    pub admin: SocketAddr,
    /// Manifests.
    pub folder: &'a Path,
    /// Files of an earlier demo that were left as they are.
    pub kept: &'a [&'static str],
    /// The shop.
    pub pods: &'a [Arc<Pod>],
}

/// Lays the page out.
pub(super) fn page(facts: &Facts<'_>) -> String {
    let Facts { program, folder, .. } = facts;
    let http = url("http", facts.http);
    let https = url("https", facts.https);
    let admin = url("http", facts.admin);
    let dir = folder.display();
    let ask = if facts.admin.port() == 9900 && facts.admin.ip().is_loopback() {
        String::new()
    } else {
        format!(" --admin {}", host(facts.admin))
    };
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line("");
    line(&format!(
        "Weir {} demo: an edge, and behind it a shop with a blue and a green version",
        env!("CARGO_PKG_VERSION")
    ));
    line("");
    line(&format!("  edge       {http}  {https} (self-signed)"));
    line(&format!("  admin      {admin}"));
    line(&format!("  manifests  {dir}/ (edit them: served a moment later)"));
    if !facts.kept.is_empty() {
        line(&format!("             kept as you left them: {}", facts.kept.join(", ")));
    }
    line(&format!("  backends   {}", pods(facts.pods)));
    line("");
    line("In another terminal:");
    let mut tries: Vec<(&str, String)> = vec![
        ("see it", format!("open {http}/ in a browser: the page has the color that serves it")),
        ("one line", format!("curl {http}/")),
        ("over TLS", format!("curl -k {https}/")),
        ("preview", format!("curl -H 'X-Weir-Color: green' {http}/")),
        ("switch", format!("{program} cutover start demo/shop --to green --wait --manifests {dir}{ask}")),
        ("and back", format!("{program} cutover start demo/shop --to blue --wait --manifests {dir}{ask}")),
        ("by hand", format!("edit weir.dev/active in {dir}/shop.yaml")),
        ("the receipt", format!("{program} cutover status demo/shop{ask}")),
        ("slow", format!("curl '{http}/slow?ms=1500'")),
        ("failing", format!("curl -i '{http}/fail?status=503'")),
        ("a stream", format!("curl -N {http}/events")),
        ("Gateway API", format!("curl -H 'Host: reviews.localhost' {http}/")),
        ("who serves", format!("{program} explain GET {http}/{ask}")),
        ("tables", format!("{program} routes{ask}; {program} backends{ask}")),
        ("metrics", format!("curl {admin}/metrics")),
    ];
    tries.push(("the end", "Ctrl-C here".to_owned()));
    let width = tries.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    for (what, how) in tries {
        line(&format!("  {what:width$}  {how}"));
    }
    line("");
    text
}

fn pods(pods: &[Arc<Pod>]) -> String {
    let mut text = String::new();
    let mut last = ("", "");
    for pod in pods {
        if (pod.service, pod.color) != last {
            let color = if pod.color.is_empty() { String::new() } else { format!(" {}", pod.color) };
            let _ = write!(text, "{}{}{color}", if text.is_empty() { "" } else { ", " }, pod.service);
            last = (pod.service, pod.color);
        }
        let _ = write!(text, " :{}", pod.address.port());
    }
    text
}

fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://{}", host(address))
}

/// How a client on this machine writes it.
fn host(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("localhost:{}", address.port()) } else { address.to_string() }
}

/// How this program is called from the user's shell: `weir` if that finds it, else a path from the current folder.
pub(super) fn program() -> String {
    let Ok(this) = env::current_exe() else { return "weir".to_owned() };
    let on_path = env::var_os("PATH").is_some_and(|path| {
        env::split_paths(&path).any(|folder| folder.join("weir").canonicalize().is_ok_and(|found| found == this))
    });
    if on_path {
        return "weir".to_owned();
    }
    let short = env::current_dir().ok().and_then(|here| this.strip_prefix(here).ok().map(Path::to_path_buf));
    match short {
        Some(path) if path.components().count() > 1 => path.display().to_string(),
        Some(path) => format!("./{}", path.display()),
        None => this.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(admin: &str) -> String {
        let pod = |color, port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            Arc::new(Pod { service: "shop", color, version: "v1", name: "p", address })
        };
        page(&Facts {
            program: "target/release/weir",
            http: "0.0.0.0:8081".parse().unwrap(),
            https: "0.0.0.0:8443".parse().unwrap(),
            admin: admin.parse().unwrap(),
            folder: Path::new("weir-demo"),
            kept: &["shop.yaml"],
            pods: &[pod("blue", 1), pod("blue", 2), pod("green", 3)],
        })
    }

    #[test]
    fn every_line_speaks_of_this_run() {
        let text = facts("127.0.0.1:9900");
        assert!(text.contains("curl http://localhost:8081/\n"), "{text}");
        assert!(text.contains("shop blue :1 :2, shop green :3\n"), "{text}");
        assert!(text.contains("target/release/weir cutover start demo/shop --to green --wait --manifests weir-demo\n"));
        assert!(text.contains("kept as you left them: shop.yaml"));
    }

    #[test]
    fn an_unusual_admin_address_is_part_of_the_commands() {
        assert!(facts("127.0.0.1:9901").contains("cutover status demo/shop --admin 127.0.0.1:9901\n"));
    }

    #[test]
    fn no_line_is_longer_than_a_wide_terminal() {
        assert!(facts("127.0.0.1:9901").lines().all(|line| line.chars().count() <= 130));
    }
}
