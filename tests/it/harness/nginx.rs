//! nginx as a backend, with a configuration of its own in a folder of its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

use super::{client, eventually};

/// A running nginx; killed when dropped.
pub struct Nginx {
    master: Child,
    pub address: SocketAddr,
    directory: TempDir,
}

impl Nginx {
    /// With these directives inside `server { … }`; files of `files` lie in its root.
    pub async fn start(server: &str, files: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("www");
        std::fs::create_dir(&root).unwrap();
        for (name, content) in files {
            std::fs::write(root.join(name), content).unwrap();
        }
        // nginx cannot say which port the system gave it. An address of its own, made from the process id and a
        // counter, has every port free.
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let address = SocketAddr::from(([127, 64 + STARTED.fetch_add(1, Ordering::SeqCst), high, low], 20_080));
        let base = directory.path().display();
        let configuration = format!(
            "daemon off; master_process off; pid {base}/pid; error_log {base}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n access_log off; client_body_temp_path {base}/body; proxy_temp_path {base}/proxy;\n \
             fastcgi_temp_path {base}/fastcgi; uwsgi_temp_path {base}/uwsgi; scgi_temp_path {base}/scgi;\n \
             server {{ listen {address}; root {base}/www; keepalive_requests 1000000; {server} }}\n}}\n"
        );
        let path = directory.path().join("nginx.conf");
        std::fs::write(&path, configuration).unwrap();
        let master = Command::new("nginx")
            .arg("-c")
            .arg(&path)
            .arg("-p")
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start nginx: {error}. This test needs it: apt-get install nginx (tests/run does that)")
            });
        let nginx = Self { master, address, directory };
        eventually("nginx answers", async || {
            let error = || std::fs::read_to_string(nginx.directory.path().join("error.log")).unwrap_or_default();
            client::get(nginx.address, "localhost", "/").await.map_err(|reason| format!("{reason} {}", error()))
        })
        .await;
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}
