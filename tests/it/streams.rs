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
use crate::harness::{eventually, turn, until, within};

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

/// Answers each datagram with the name, a colon and what was in it.
async fn echo_datagrams(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&[name.as_bytes(), b":", &buffer[..length]].concat(), from).await;
        }
    });
    address
}

/// A Gateway with a listener for datagrams, and maybe one more of another name.
fn udp(port: u16, more: &str, endpoints: &[SocketAddr]) -> String {
    classes()
        + &gateway(&format!("  - {{name: udp, port: {port}, protocol: UDP}}\n{more}"), "")
        + &route("UDPRoute", "udp", "udp", "", "shop")
        + &service("shop", endpoints).replace("  - port: 80\n", "  - port: 80\n    protocol: UDP\n")
}

async fn udp_client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    socket
}

/// The next answer, if one comes.
async fn heard(socket: &UdpSocket, within: Duration) -> Option<String> {
    let mut buffer = [0; 64];
    let length = tokio::time::timeout(within, socket.recv(&mut buffer)).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Every client says something and is answered by the endpoint that has answered it before.
async fn go_on(clients: &[(String, UdpSocket)], text: &str) {
    for (name, socket) in clients {
        socket.send(text.as_bytes()).await.unwrap();
        let hello = Some(format!("{name}:hello"));
        let mut answer = hello.clone();
        // It may have been greeted more than once.
        while answer == hello {
            answer = heard(socket, Duration::from_secs(10)).await;
        }
        assert_eq!(answer, Some(format!("{name}:{text}")));
    }
}

/// Clients that have an answer. As those of datagrams do, they ask again until they have.
async fn sessions(address: SocketAddr, count: usize) -> Vec<(String, UdpSocket)> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let socket = udp_client(address).await;
        let answer = eventually("an answer", async || {
            socket.send(b"hello").await.unwrap();
            heard(&socket, Duration::from_millis(200)).await.ok_or("none")
        })
        .await;
        clients.push((answer.replace(":hello", ""), socket));
    }
    clients
}

/// Waits until none of some new clients is let in, whichever worker hears of them.
async fn nobody_new_is_let_in(weir: &Weir, address: SocketAddr) {
    const CLIENTS: usize = 16;

    let name = format!("port {}/udp", address.port());
    let refused = async || weir.metrics().await.sum("weir_downstream_refused_total", &[("listener", &name)]);
    eventually("nobody new is let in", async || {
        let before = refused().await;
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let socket = udp_client(address).await;
            socket.send(b"hello").await.unwrap();
            clients.push(socket);
        }
        eventually("they are answered or refused", async || {
            let all = refused().await - before >= CLIENTS as f64;
            let is_answered = clients.iter().any(|socket| socket.try_recv(&mut [0; 64]).is_ok());
            if all || is_answered { Ok(!is_answered) } else { Err("not all are") }
        })
        .await
        .then_some(())
        .ok_or("someone is")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_datagrams_outlive_their_listener_and_find_it_again() {
    let _turn = turn::beside_others().await;
    let (port, other) = (free_port(), free_port());
    let endpoints = [echo_datagrams("a").await, echo_datagrams("b").await, echo_datagrams("c").await];
    let without = udp(other, "", &endpoints);
    let with = udp(other, &format!("  - {{name: second, port: {port}, protocol: UDP}}\n"), &endpoints)
        + &route("UDPRoute", "second", "second", "", "shop");
    let weir =
        Weir::builder().file("main.yaml", &with).settings("workers: 4\ntimeouts: {udp_idle: 5s}\n").start().await;
    let address = weir.listener(&format!("port {port}/udp")).await;
    let mut clients = sessions(address, 30).await;
    for round in 0..3 {
        weir.apply("main.yaml", &without);
        nobody_new_is_let_in(&weir, address).await;
        go_on(&clients, &format!("gone {round}")).await;
        weir.apply("main.yaml", &with);
        clients.append(&mut sessions(address, 10).await);
        go_on(&clients, &format!("back {round}")).await;
    }
    drop(clients);
    weir.apply("main.yaml", &without);
    within(Duration::from_secs(30), "the port is given back", async || std::net::UdpSocket::bind(address)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_clients_do_not_meet_the_listener_that_was_at_the_address_before() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let endpoints = [echo_datagrams("a").await];
    let shared = udp(port, "", &endpoints);
    let own = shared.replace(
        "  gatewayClassName: weir\n",
        "  gatewayClassName: weir\n  addresses: [{type: IPAddress, value: 127.0.0.1}]\n",
    );
    assert_ne!(shared, own);
    let weir = Weir::builder().file("main.yaml", &shared).settings("workers: 4\n").start().await;
    let address = weir.listener(&format!("port {port}/udp")).await;
    let mut chatter = tokio::task::JoinSet::new();
    for (_, client) in sessions(address, 8).await {
        chatter.spawn(async move {
            loop {
                _ = client.send(b"and on").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    for (manifests, name) in [(own, format!("127.0.0.1:{port}/udp")), (shared, format!("port {port}/udp"))] {
        let accepted = async || weir.metrics().await.sum("weir_downstream_accepted_total", &[("listener", &name)]);
        let before = accepted().await;
        weir.apply("main.yaml", &manifests);
        until("those who do not pause have come over", async || accepted().await - before >= 8.0).await;
        sessions(address, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_sessions_of_datagrams_run_whichever_worker_has_none_left() {
    let _turn = turn::beside_others().await;
    let port = free_port();
    let endpoints = [echo_datagrams("a").await, echo_datagrams("b").await, echo_datagrams("c").await];
    let weir = Weir::builder()
        .file("main.yaml", &udp(port, "", &endpoints))
        .settings("workers: 8\nshutdown: {grace: 0s, timeout: 60s}\ntimeouts: {udp_idle: 4s}\n")
        .start()
        .await;
    let address = weir.listener(&format!("port {port}/udp")).await;
    // Of as many workers at most.
    let clients = sessions(address, 4).await;
    weir.signal(Signal::TERM);
    nobody_new_is_let_in(&weir, address).await;
    for round in 0..20 {
        go_on(&clients, &round.to_string()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(clients);
    let ended = weir.ended(Duration::from_secs(30)).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_datagrams_leave_descriptors_for_connections_and_connections_wait_for_theirs() {
    let _turn = turn::beside_others().await;
    let (port, tcp_port) = (free_port(), free_port());
    let endpoints = [echo_datagrams("a").await];
    let more = format!("  - {{name: tcp, port: {tcp_port}, protocol: TCP}}\n");
    let manifests = udp(port, &more, &endpoints)
        + &route("TCPRoute", "tcp", "tcp", "", "stream")
        + &plain_service("stream", "")
        + &slices("stream", &[(echo().await, Conditions::READY)]);
    // 256 are kept for everything else; a quarter of the other 80 is for sessions, and what they leave makes 30 pairs.
    let weir = Weir::builder().file("main.yaml", &manifests).settings("workers: 1\n").open_files(336).start().await;
    let address = weir.listener(&format!("port {port}/udp")).await;
    let clients = sessions(address, 20).await;
    let mut refused = Vec::new();
    for _ in 0..15 {
        let socket = udp_client(address).await;
        socket.send(b"hello").await.unwrap();
        refused.push(socket);
    }
    eventually("they are refused", async || {
        let metrics = weir.metrics().await;
        let listener = format!("port {port}/udp");
        let refused = metrics.sum("weir_downstream_refused_total", &[("listener", &listener)]);
        let reasons = metrics.sum("weir_faults_total", &[("reason", "overloaded")]);
        if (refused, reasons) == (15.0, 15.0) { Ok(()) } else { Err(format!("{refused} {reasons}")) }
    })
    .await;
    go_on(&clients, "again").await;
    let stream = weir.listener(&format!("port {tcp_port}")).await;
    let mut open = Vec::new();
    for _ in 0..30 {
        let mut connection = TcpStream::connect(stream).await.unwrap();
        say(&mut connection, b"hello").await.unwrap();
        open.push(connection);
    }
    let mut waiting = TcpStream::connect(stream).await.unwrap();
    waiting.write_all(b"hello").await.unwrap();
    until("accepting has paused", async || weir.metrics().await.sum("weir_accept_paused_total", &[]) >= 3.0).await;
    drop(open.pop());
    let mut answer = [0; 5];
    waiting.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
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

    let routes = weir.admin_json("/api/v1/routes").await;
    let mut listed: Vec<(&str, &str, &str)> = Vec::new();
    for item in routes["items"].as_array().unwrap() {
        let text = |key: &str| item[key].as_str().unwrap();
        listed.push((text("host"), text("pathKind"), text("source")));
    }
    let expected = [
        ("ends.example", "tls terminate", "TLSRoute default/ends"),
        ("pass.example", "tls passthrough", "TLSRoute default/pass"),
    ];
    assert_eq!(listed, expected);
    for (name, chosen) in [("ends.example", "TLSRoute"), ("nobody.example", "")] {
        let explained = weir.admin_json(&format!("/api/v1/explain?url=tls://{name}:{port}")).await;
        assert_eq!(explained["chosen"]["source"]["kind"].as_str().unwrap_or_default(), chosen, "{explained}");
        assert_eq!(explained["bind"], format!("port {port}"));
        assert_eq!(explained["certificate"]["secret"].as_str().is_some(), !chosen.is_empty(), "{explained}");
    }
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
