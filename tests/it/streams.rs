//! What is not HTTP: TCP, TLS and UDP pass through, and nothing closes them but their ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::harness::backend::Backend;
use crate::harness::certificates::Authority;
use crate::harness::client::{Error, H1, Target};
use crate::harness::manifests::{Conditions, classes, plain_service, service, slices, tls_secret};
use crate::harness::weir::Weir;
use crate::harness::{eventually, turn};

const GROUP: &str = "gateway.networking.k8s.io";

/// A Gateway; `listeners` is the YAML of the list, indented by two.
fn gateway(listeners: &str, more: &str) -> String {
    format!(
        "apiVersion: {GROUP}/v1\nkind: Gateway\nmetadata:\n  name: edge\nspec:\n  gatewayClassName: weir\n{more}  \
         listeners:\n{listeners}---\n"
    )
}

/// A route of this kind to one listener of the Gateway.
fn route(kind: &str, name: &str, listener: &str, hostnames: &str, backend: &str) -> String {
    let hostnames = if hostnames.is_empty() { String::new() } else { format!("  hostnames: [{hostnames}]\n") };
    format!(
        "apiVersion: {GROUP}/v1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n  parentRefs:\n  - {{name: edge, \
         sectionName: {listener}}}\n{hostnames}  rules:\n  - backendRefs:\n    - {{name: {backend}, port: 80}}\n---\n"
    )
}

/// A port that the system has free now, for both protocols.
fn free_port() -> u16 {
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Sends back what it reads, on every connection.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

/// One exchange on an open connection.
async fn say(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<()> {
    stream.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, text);
    Ok(())
}

fn tcp(port: u16, endpoints: &[SocketAddr]) -> String {
    let ready: Vec<_> = endpoints.iter().map(|address| (*address, Conditions::READY)).collect();
    classes()
        + &gateway(&format!("  - {{name: tcp, port: {port}, protocol: TCP}}\n"), "")
        + &route("TCPRoute", "tcp", "tcp", "", "shop")
        + &plain_service("shop", "")
        + &slices("shop", &ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_connections_outlive_their_endpoints_and_new_ones_go_to_those_that_are_there() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let mut there = echo().await;
    let weir = Weir::start(&tcp(port, &[there])).await;
    let address = weir.listener(&format!("port {port}")).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        say(&mut stream, b"hello").await.unwrap();
        open.push(stream);
    }
    for round in 0..10 {
        let next = echo().await;
        weir.apply("main.yaml", &tcp(port, &[next]));
        eventually("new connections go to the new endpoint", async || {
            let found = weir.admin_json("/api/v1/backends").await.to_string();
            let gone = !found.contains(&there.to_string());
            if gone && found.contains(&next.to_string()) { Ok(()) } else { Err(found) }
        })
        .await;
        there = next;
        for stream in &mut open {
            say(stream, format!("round {round}").as_bytes()).await.unwrap();
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        say(&mut stream, b"new").await.unwrap();
        open.push(stream);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_connections_run_and_the_process_ends_with_the_last() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let there = echo().await;
    let weir = Weir::builder()
        .file("main.yaml", &tcp(port, &[there]))
        .settings("shutdown: {grace: 0s, timeout: 30s}\n")
        .start()
        .await;
    let address = weir.listener(&format!("port {port}")).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        say(&mut stream, b"hello").await.unwrap();
        open.push(stream);
    }
    weir.signal(Signal::TERM);
    eventually("nobody new is let in", async || match TcpStream::connect(address).await {
        Err(_) => Ok(()),
        Ok(_) => Err("let in"),
    })
    .await;
    for stream in &mut open {
        say(stream, &vec![b'x'; 100_000][..]).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    }
    let ended = weir.ended(Duration::from_secs(20)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_reach_a_backend_and_the_answer_comes_from_the_listener() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let there = backend.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = backend.recv_from(&mut buffer).await {
            let _ = backend.send_to(&buffer[..length], from).await;
        }
    });
    let manifests = classes()
        + &gateway(&format!("  - {{name: udp, port: {port}, protocol: UDP}}\n"), "")
        + &route("UDPRoute", "udp", "udp", "", "shop")
        + &service("shop", &[there]).replace("  - port: 80\n", "  - port: 80\n    protocol: UDP\n");
    let weir = Weir::start(&manifests).await;
    let address = weir.listener(&format!("port {port}/udp")).await;
    for client in 0..50 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        for turn in 0..5 {
            let text = format!("{client} {turn}");
            socket.send(text.as_bytes()).await.unwrap();
            let mut buffer = [0; 64];
            let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
            assert_eq!(&buffer[..received.unwrap().unwrap()], text.as_bytes());
        }
    }
    let page = weir.admin_get("/metrics").await.unwrap().text();
    let counted = format!("weir_datagrams_total{{listener=\"port {port}/udp\",direction=\"out\"}} 250");
    assert!(page.contains(&counted), "{page}");
}

/// The common name of the certificate that is shown.
async fn shown(target: &Target) -> Result<String, Error> {
    let certificate = target.certificate().await?;
    let (_, certificate) = X509Certificate::from_der(&certificate)?;
    Ok(certificate.subject().iter_common_name().next().ok_or("no common name")?.as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_ends_at_the_backend_or_here_as_the_listener_of_the_name_says() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let authority = Authority::new();
    let leaf = authority.issue("theirs", &["pass.example"]);
    let (inside, plain) =
        (Backend::start_tls("inside", leaf.server(&["http/1.1"])).await, Backend::start("plain").await);
    let listeners = format!(
        "  - {{name: pass, port: {port}, protocol: TLS, hostname: pass.example, tls: {{mode: Passthrough}}}}\n  - {{name: ends, \
         port: {port}, protocol: TLS, hostname: ends.example, tls: {{mode: Terminate, certificateRefs: [{{name: ours}}]}}}}\n"
    );
    let manifests = classes()
        + &gateway(&listeners, "")
        + &route("TLSRoute", "pass", "pass", "pass.example", "inside")
        + &route("TLSRoute", "ends", "ends", "ends.example", "plain")
        + &service("inside", &[inside.address()])
        + &service("plain", &[plain.address()])
        + &tls_secret("ours", &authority.issue("ours", &["ends.example"]));
    let weir = Weir::start(&manifests).await;
    let address = weir.listener(&format!("port {port}")).await;
    let at = |name: &str| Target::tls(address, authority.client(&["http/1.1"]), name);
    for (name, certificate, backend) in [("pass.example", "theirs", "inside"), ("ends.example", "ours", "plain")] {
        assert_eq!(shown(&at(name)).await.unwrap(), certificate);
        let mut connection = H1::connect(&at(name)).await.unwrap();
        for _ in 0..3 {
            let answer = connection.get(name, "/bytes/1000000").await.unwrap();
            assert_eq!((answer.header("x-backend"), answer.body.len()), (backend, 1_000_000));
        }
    }
    let refused = shown(&at("nobody.example")).await.unwrap_err().to_string();
    assert!(!refused.contains("alert"), "{refused}");
}

/// A GET over TLS with this configuration.
async fn get(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> Result<u16, Error> {
    let stream = TcpStream::connect(address).await?;
    let name_for_tls = ServerName::try_from(name.to_owned())?;
    let mut stream = TlsConnector::from(config.clone()).connect(name_for_tls, stream).await?;
    let head = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let status = answer.get(9..12).ok_or("no status")?;
    Ok(std::str::from_utf8(status)?.parse()?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_without_a_certificate_is_refused_until_the_gateway_lets_everyone_in() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let (authority, clients) = (Authority::new(), Authority::new());
    let backend = Backend::start("blue").await;
    let manifests = |mode: &str| {
        let more = format!(
            "  tls:\n    frontend:\n      default:\n        validation:\n          mode: {mode}\n          caCertificateRefs: \
             [{{group: \"\", kind: ConfigMap, name: roots}}]\n"
        );
        let listeners =
            format!("  - {{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: ours}}]}}}}\n");
        let lines: String = clients.pem().lines().map(|line| format!("    {line}\n")).collect();
        classes()
            + &gateway(&listeners, &more)
            + &format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: roots\ndata:\n  ca.crt: |\n{lines}---\n")
            + &crate::harness::manifests::http_route(
                "web",
                "edge",
                "web.example",
                "  - backendRefs: [{name: shop, port: 80}]\n",
            )
            + &service("shop", &[backend.address()])
            + &tls_secret("ours", &authority.issue("ours", &["web.example"]))
    };
    let weir = Weir::start(&manifests("AllowValidOnly")).await;
    let address = weir.listener(&format!("port {port}")).await;
    let without = authority.client(&["http/1.1"]);
    let refused = get(address, &without, "web.example").await.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("certificaterequired"), "{refused}");
    weir.apply("main.yaml", &manifests("AllowInsecureFallback"));
    eventually("let in", async || match get(address, &without, "web.example").await {
        Ok(200) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
