//! When there is no room for another connection, those that are open go on, new ones wait or are told at once, nothing
//! dies and nothing spins, and all is well again as soon as there is room.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::backend::Backend;
use crate::harness::client::{H1, Target};
use crate::harness::manifests::{classes, ingress, service};
use crate::harness::metrics::Metrics;
use crate::harness::raw;
use crate::harness::scene::{HOST, shop};
use crate::harness::turn;
use crate::harness::weir::Weir;
use crate::harness::{eventually, until};

const ASKED: &[u8] = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// A connection that has been served once and stays open.
async fn served(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    again(&mut stream).await;
    stream
}

/// Asks on a connection that is open.
async fn again(stream: &mut TcpStream) {
    stream.write_all(ASKED).await.unwrap();
    let reply = raw::read_response(stream).await;
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_ceiling_of_a_listener_wait_until_there_is_room() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let settings = "workers: 1\nlimits: {connections: 3}\n";
    let weir = Weir::builder().file("main.yaml", &shop(&backend)).settings(settings).start().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(served(weir.http).await);
    }
    let mut waiting = TcpStream::connect(weir.http).await.unwrap();
    waiting.write_all(ASKED).await.unwrap();
    let paused = |metrics: Metrics| metrics.sum("weir_accept_paused_total", &[]);
    until("accepting has paused, again and again", async || paused(weir.metrics().await) >= 5.0).await;
    for stream in &mut open {
        again(stream).await;
    }
    assert_eq!(backend.requests(), 6, "nobody has let the fourth one in");
    drop(open.pop());
    let reply = raw::read_response(&mut waiting).await;
    assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply));
    assert_eq!(weir.metrics().await.sum("weir_downstream_refused_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_ceiling_of_a_client_are_closed_and_other_clients_are_served() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let settings = "workers: 1\nlimits: {connections_per_address: 2}\n";
    let weir = Weir::builder().file("main.yaml", &shop(&backend)).settings(settings).start().await;
    let mut open = vec![served(weir.http).await, served(weir.http).await];
    for count in 1..=3 {
        let reply = raw::exchange(weir.http, ASKED, Duration::from_secs(5)).await;
        assert!(reply.closed && reply.bytes.is_empty(), "{reply:?}");
        let refused = async || weir.metrics().await.sum("weir_downstream_refused_total", &[("listener", "http")]);
        until("the refusal is counted", async || refused().await == f64::from(count)).await;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    let mut other = socket.connect(weir.http).await.unwrap();
    again(&mut other).await;
    for stream in &mut open {
        again(stream).await;
    }
    assert_eq!(backend.requests(), 5);
    drop(open.pop());
    eventually("the client may have another connection", async || {
        let mut stream = TcpStream::connect(weir.http).await.unwrap();
        stream.write_all(ASKED).await.map_err(|error| error.to_string())?;
        let reply = raw::read(&mut stream, Duration::from_millis(500)).await;
        if reply.status() == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_file_descriptors_accepting_pauses_and_resumes() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let mut weir =
        Weir::builder().file("main.yaml", &shop(&backend)).settings("workers: 1\n").open_files(64).start().await;
    // What is open when it begins, with its connection to the backend, and a way to ask what is counted.
    let mut open = served(weir.http).await;
    let mut admin = H1::connect(&Target::plain(weir.admin)).await.unwrap();
    let host = weir.admin.to_string();
    let mut paused = async || {
        let answer = admin.get(&host, "/metrics").await.unwrap();
        Metrics::parse(&answer.text()).sum("weir_accept_paused_total", &[])
    };
    assert_eq!(paused().await, 0.0);
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(weir.http).await.unwrap());
    }
    until("accepting has paused", async || paused().await >= 1.0).await;
    assert!(weir.descriptors() >= 60, "{} descriptors", weir.descriptors());

    // A try every 20 ms is no spinning: both the tries and the processor time are bounded by the time that passes.
    let (start, first, ticks) = (Instant::now(), paused().await, weir.processor_ticks());
    until("accepting has paused thirty times more", async || paused().await >= first + 30.0).await;
    let (tries, ticks) = (paused().await - first, weir.processor_ticks() - ticks);
    let passed = start.elapsed();
    println!("{tries} tries and {ticks} ticks in {passed:?}");
    assert!(tries <= passed.as_secs_f64() * 50.0 + 2.0, "{tries} tries in {passed:?}");
    assert!(ticks as f64 <= passed.as_secs_f64() * 50.0 + 2.0, "{ticks} ticks of a hundredth in {passed:?}");
    for _ in 0..5 {
        again(&mut open).await;
    }

    drop(crowd);
    eventually("new connections are served again", async || {
        let mut stream = TcpStream::connect(weir.http).await.unwrap();
        stream.write_all(ASKED).await.map_err(|error| error.to_string())?;
        let reply = raw::read(&mut stream, Duration::from_millis(500)).await;
        if reply.status() == 200 { Ok(()) } else { Err(format!("{reply:?}")) }
    })
    .await;
    again(&mut open).await;
    assert!(weir.runs());
    assert_eq!(weir.metrics().await.sum("weir_worker_panics_total", &[]), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_nobody_knows_has_no_endpoints_until_it_is_one_that_somebody_does() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let port = backend.address().port();
    let named = |name: &str| {
        let ingress = ingress("named", "named.example", "/", "named").replace("number: 80", &format!("number: {port}"));
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: named\nspec:\n  type: ExternalName\n  externalName: {name}\n  \
             ports: [{{port: {port}}}]\n---\n{ingress}"
        )
    };
    let weir = Weir::builder()
        .file("main.yaml", &(classes() + &service("shop", &[backend.address()]) + &ingress("shop", HOST, "/", "shop")))
        .file("named.yaml", &named("nowhere.invalid"))
        .start()
        .await;
    let answer = weir.until_served("named.example", "/", |answer| answer.status == 503).await;
    assert_eq!(answer.text(), "503 no_endpoints\n");
    assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
    assert_eq!(weir.get(HOST, "/").await.status, 200, "another backend does not notice");
    until("the failure is told", async || weir.log().iter().any(|line| line.contains("nowhere.invalid"))).await;
    weir.apply("named.yaml", &named("localhost"));
    weir.until_served("named.example", "/", |answer| answer.status == 200).await;
    // The name stops being known: what was known of the other one goes with it.
    weir.apply("named.yaml", &named("elsewhere.invalid"));
    weir.until_served("named.example", "/", |answer| answer.status == 503).await;
}
