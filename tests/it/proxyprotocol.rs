//! The PROXY protocol tells the client's address where it is expected, and is not believed where it is not.

use std::time::Duration;

use crate::harness::backend::Backend;
use crate::harness::raw::{self, Reply};
use crate::harness::scene::{self, shop};
use crate::harness::turn;
use crate::harness::weir::Weir;
use crate::routing::header_of;

const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET /head HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2 with this command, family and addresses.
fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend((addresses.len() as u16).to_be_bytes());
    bytes.extend(addresses);
    bytes
}

async fn scene() -> (Weir, std::net::SocketAddr, Backend) {
    let backend = Backend::start("blue").await;
    let settings = "trusted_proxies: [127.0.0.0/8]\nlisteners:\n- {name: http, address: \"127.0.0.1:0\", protocol: http}\n- {name: https, address: \
                    \"127.0.0.1:0\", protocol: https}\n- {name: proxied, address: \"127.0.0.1:0\", protocol: http, proxy_protocol: true}\n";
    let weir = Weir::builder().file("main.yaml", &shop(&backend)).settings_with_listeners(settings).start().await;
    let address = weir.listener("proxied").await;
    (weir, address, backend)
}

fn client(reply: &Reply) -> String {
    let text = reply.text();
    let json = text.find('{').unwrap_or_else(|| panic!("{text}"));
    let head: serde_json::Value =
        serde_json::from_str(text[json..].trim_end_matches("\r\n0\r\n\r\n").trim_end()).unwrap();
    header_of(&head, "x-real-ip").join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_1_and_2_name_the_client() {
    let _turn = turn::beside_others().await;
    let (_weir, address, _backend) = scene().await;
    let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
    let v6: Vec<u8> = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], [0; 16]]
        .concat()
        .into_iter()
        .chain([0x30, 0x39, 0, 80])
        .collect();
    // A type-length-value after the addresses is skipped.
    let with_more: Vec<u8> = v4.into_iter().chain([0xea, 0, 3, 1, 2, 3]).collect();
    for (what, header, expected) in [
        ("v1 TCP4", b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n".to_vec(), "192.0.2.7"),
        ("v1 TCP6", b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 80\r\n".to_vec(), "2001:db8::7"),
        ("v1 UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        ("v2 TCP4", v2(1, 0x11, &v4), "192.0.2.7"),
        ("v2 TCP6", v2(1, 0x21, &v6), "2001:db8::7"),
        ("v2 with more", v2(1, 0x11, &with_more), "192.0.2.7"),
        ("v2 LOCAL", v2(0, 0, &[]), "127.0.0.1"),
    ] {
        let reply = raw::exchange(address, &[&header[..], REQUEST].concat(), PATIENCE).await;
        assert_eq!(reply.status(), 200, "{what}: {}", reply.text());
        assert_eq!(client(&reply), expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_the_header_or_with_a_bad_one_is_closed() {
    let _turn = turn::beside_others().await;
    let (_weir, address, backend) = scene().await;
    for (what, header) in [
        ("none", b"".to_vec()),
        ("v1 with a bad address", b"PROXY TCP4 300.0.2.7 10.0.0.1 12345 80\r\n".to_vec()),
        ("v1 with a bad port", b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 80\r\n".to_vec()),
        ("v1 of two families", b"PROXY TCP4 2001:db8::7 10.0.0.1 12345 80\r\n".to_vec()),
        ("v1 ended by LF", b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\n".to_vec()),
        ("v1 that is too long", format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)).into_bytes()),
        ("v2 that is too short", v2(1, 0x11, &[1, 2, 3, 4])),
        ("v2 of another version", [SIGNATURE, &[0x31, 0x11, 0, 0]].concat()),
    ] {
        let reply = raw::exchange(address, &[&header[..], REQUEST].concat(), PATIENCE).await;
        assert!(reply.closed && matches!(reply.status(), 0 | 400), "{what}: {}", reply.text());
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_comes_in_pieces_is_put_together() {
    let _turn = turn::beside_others().await;
    use tokio::io::AsyncWriteExt;
    let (_weir, address, _backend) = scene().await;
    let bytes = [b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n", REQUEST].concat();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in bytes.chunks(7) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let reply = raw::read(&mut stream, PATIENCE).await;
    assert_eq!(client(&reply), "192.0.2.7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_not_expected_it_is_a_bad_request() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let bytes = [b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n", REQUEST].concat();
    let reply = raw::exchange(weir.http, &bytes, PATIENCE).await;
    assert!(reply.closed && matches!(reply.status(), 400 | 505), "{}", reply.text());
    assert_eq!(backend.requests(), 0);
}
