//! Bodies of any size pass in constant memory, at the pace of the slower side.
//!
//! `WEIR_TEST_BODY_GIB` makes the large ones smaller or larger than 10 GiB.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::backend::Zeros;
use crate::harness::client::{H1, H2, Target, empty, request};
use crate::harness::raw;
use crate::harness::scene::{self, GRPC_HOST, HOST};
use crate::harness::weir::Weir;
use crate::harness::{turn, until};
use crate::headers::weir_before;

const MIB: u64 = 1 << 20;

fn large() -> u64 {
    let gib = std::env::var("WEIR_TEST_BODY_GIB").map_or(10.0, |gib| gib.parse::<f64>().unwrap());
    (gib * 1024.0) as u64 * MIB
}

/// Watches the memory of a process while something runs; the most it was.
async fn most_memory<T>(weir: &Weir, work: impl Future<Output = T>) -> (T, u64) {
    let mut work = std::pin::pin!(work);
    let mut most = weir.resident_bytes();
    loop {
        tokio::select! {
            result = &mut work => return (result, most.max(weir.resident_bytes())),
            () = tokio::time::sleep(Duration::from_millis(50)) => most = most.max(weir.resident_bytes()),
        }
    }
}

fn report(what: &str, bytes: u64, took: Duration, before: u64, most: u64) {
    let rate = bytes as f64 / MIB as f64 / took.as_secs_f64();
    println!(
        "{what}: {} MiB in {took:.1?} ({rate:.0} MiB/s), resident {} MiB before and {} MiB at most",
        bytes / MIB,
        before / MIB,
        most / MIB
    );
    assert!(most < before + 64 * MIB, "{what}: {} MiB of memory for a stream", (most - before) / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_gibibytes_come_down_in_constant_memory() {
    let _turn = turn::alone().await;
    let (weir, _backend) = scene::one_backend().await;
    weir.get(HOST, "/bytes/1000000").await;
    let before = weir.resident_bytes();
    let size = large();
    let start = Instant::now();
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    let (received, most) = most_memory(&weir, async {
        let asked = format!("GET /bytes/{size} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let head = raw::head(&mut stream).await.unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
        let mut buffer = vec![0; 256 * 1024];
        let mut received = 0;
        loop {
            match stream.read(&mut buffer).await.unwrap() {
                0 => return received,
                read => received += read as u64,
            }
        }
    })
    .await;
    assert_eq!(received, size);
    report("down over HTTP/1.1", size, start.elapsed(), before, most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_gibibytes_go_up_in_constant_memory() {
    let _turn = turn::alone().await;
    let (weir, _backend) = scene::one_backend().await;
    weir.get(HOST, "/").await;
    let before = weir.resident_bytes();
    let size = large();
    let start = Instant::now();
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    let (reply, most) = most_memory(&weir, async {
        let asked = format!("POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n\r\n");
        stream.write_all(asked.as_bytes()).await.unwrap();
        let buffer = vec![0; 256 * 1024];
        let mut left = size;
        while left > 0 {
            let chunk = left.min(buffer.len() as u64);
            stream.write_all(&buffer[..chunk as usize]).await.unwrap();
            left -= chunk;
        }
        String::from_utf8(raw::read_response(&mut stream).await).unwrap()
    })
    .await;
    assert!(reply.contains(&format!("\"bytes\":{size}")), "{reply}");
    report("up over HTTP/1.1", size, start.elapsed(), before, most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_over_http_2_pass_in_constant_memory() {
    let _turn = turn::alone().await;
    let backend = crate::harness::backend::Backend::start("blue").await;
    let weir = Weir::start(&scene::mixed(&[backend], &[])).await;
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    h2.get(HOST, "/bytes/1000000").await.unwrap();
    let size = large() / 10;
    // The first Service is spoken to in HTTP/1.1, the second in HTTP/2.
    for host in [HOST, GRPC_HOST] {
        let before = weir.resident_bytes();
        let start = Instant::now();
        let (received, most) = most_memory(&weir, async {
            let asked = request(Method::GET, host, &format!("/bytes/{size}")).body(empty()).unwrap();
            let mut body = h2.send(asked).await.unwrap().into_body();
            let mut received = 0;
            while let Some(frame) = body.frame().await {
                received += frame.unwrap().data_ref().map_or(0, |data| data.len() as u64);
            }
            received
        })
        .await;
        assert_eq!(received, size);
        report(&format!("down over HTTP/2 from {host}"), size, start.elapsed(), before, most);
        let before = weir.resident_bytes();
        let start = Instant::now();
        let (answer, most) = most_memory(&weir, async {
            let asked = request(Method::POST, host, "/sink").body(Zeros { left: size }.boxed()).unwrap();
            h2.ask(asked).await.unwrap()
        })
        .await;
        assert_eq!(answer.json()["bytes"], size);
        report(&format!("up over HTTP/2 to {host}"), size, start.elapsed(), before, most);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_stops_the_backend() {
    let _turn = turn::beside_others().await;
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let endless = raw::backend(move |_, mut stream| {
        let counted = counted.clone();
        async move {
            if raw::head(&mut stream).await.is_none() {
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1u64 << 40);
            let buffer = vec![0; 64 * 1024];
            if stream.write_all(head.as_bytes()).await.is_err() {
                return;
            }
            while let Ok(written) = stream.write(&buffer).await {
                counted.fetch_add(written as u64, Ordering::SeqCst);
            }
        }
    })
    .await;
    let weir = weir_before(endless).await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await.unwrap();
    raw::head(&mut stream).await.unwrap();
    let stalled = stalls(&sent).await;
    println!("{} KiB were sent to a client that reads nothing", stalled / 1024);
    assert!(stalled < 64 * MIB, "{stalled} bytes taken from the backend for a client that reads nothing");
    assert!(weir.resident_bytes() < 128 * MIB);
    let mut buffer = vec![0; 1 << 20];
    until("more is sent when the client reads on", async || {
        stream.read_exact(&mut buffer).await.unwrap();
        sent.load(Ordering::SeqCst) > stalled
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_read_stops_the_client() {
    let _turn = turn::beside_others().await;
    let deaf = raw::backend(|_, stream| async move {
        tokio::time::sleep(Duration::from_secs(20)).await;
        drop(stream);
    })
    .await;
    let weir = weir_before(deaf).await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let sending = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: {}\r\n\r\n", 1u64 << 40);
        stream.write_all(head.as_bytes()).await.unwrap();
        let buffer = vec![0; 64 * 1024];
        while let Ok(written) = stream.write(&buffer).await {
            counted.fetch_add(written as u64, Ordering::SeqCst);
        }
    });
    let stalled = stalls(&sent).await;
    println!("{} KiB were taken for a backend that reads nothing", stalled / 1024);
    assert!(stalled < 64 * MIB, "{stalled} bytes taken from a client whose backend reads nothing");
    assert!(weir.resident_bytes() < 128 * MIB);
    sending.abort();
}

/// Waits until a counter has stood still for half a second; where.
async fn stalls(counter: &AtomicU64) -> u64 {
    let mut last = (counter.load(Ordering::SeqCst), Instant::now());
    let start = Instant::now();
    loop {
        let now = counter.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if now > 0 && last.1.elapsed() > Duration::from_millis(500) {
            return now;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "it never stalls: {now} bytes so far");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_drip_arrives_as_it_drips() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut h1 = H1::connect(&Target::plain(weir.http)).await.unwrap();
    let mut h2 = H2::connect(&Target::plain(weir.http)).await.unwrap();
    let asked = || request(Method::GET, HOST, "/drip/20").body(empty()).unwrap();
    for response in [h1.send(asked()).await.unwrap(), h2.send(asked()).await.unwrap()] {
        let mut body = response.into_body();
        let (mut frames, mut bytes) = (0, 0);
        while let Some(frame) = body.frame().await {
            frames += 1;
            bytes += frame.unwrap().data_ref().map_or(0, |data| data.len());
        }
        assert_eq!(bytes, 100);
        assert!(frames >= 10, "20 drips arrived in {frames} pieces");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut stream = TcpStream::connect(weir.http).await.unwrap();
    stream
        .write_all(b"POST /status/403 HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 100000000\r\n\r\nbegin")
        .await
        .unwrap();
    let reply = raw::read_response(&mut stream).await;
    assert!(reply.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&reply));
}
