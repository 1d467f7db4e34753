//! WebSockets are opened, carried and left alone.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::Target;
use crate::harness::manifests::ingress;
use crate::harness::scene::{self, HOST, shop};
use crate::harness::websocket::Socket;
use crate::harness::{turn, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_echoes_small_and_large_messages() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut socket = Socket::connect(&Target::plain(weir.http), HOST).await.unwrap();
    assert_eq!(socket.echo("hello").await.unwrap().unwrap(), "blue hello");
    let large = vec![7u8; 4 << 20];
    socket.0.send(Message::binary(large.clone())).await.unwrap();
    let Some(Ok(Message::Binary(back))) = socket.0.next().await else { panic!("no binary message came back") };
    assert!(back == large);
    socket.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_and_close_codes_pass() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut socket = Socket::connect(&Target::plain(weir.http), HOST).await.unwrap();
    socket.0.send(Message::Ping("are you there".into())).await.unwrap();
    let Some(Ok(Message::Pong(payload))) = socket.0.next().await else { panic!("no pong") };
    assert_eq!(&payload[..], b"are you there");
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    socket.0.send(Message::Close(Some(CloseFrame { code: CloseCode::Away, reason: "bye".into() }))).await.unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = socket.0.next().await else { panic!("no close frame") };
    assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Away, "bye"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_lives_through_reloads_and_through_the_removal_of_its_own_route() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut socket = Socket::connect(&Target::plain(weir.http), HOST).await.unwrap();
    for number in 0..10 {
        let host = format!("h{number}.example");
        weir.apply("more.yaml", &ingress("more", &host, "/", "shop"));
        weir.until_served(&host, "/", |answer| answer.status == 200).await;
        assert_eq!(socket.echo("still").await.unwrap().unwrap(), "blue still");
    }
    weir.apply("main.yaml", &shop(&backend).replace("host: \"shop.example\"", "host: \"moved.example\""));
    weir.until_served(HOST, "/", |answer| answer.status == 404).await;
    assert_eq!(socket.echo("even so").await.unwrap().unwrap(), "blue even so");
    socket.close().await.unwrap();
    until("the backend's connection ends too", async || backend.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_takes_the_backends_connection_with_it() {
    let _turn = turn::beside_others().await;
    let (weir, backend) = scene::one_backend().await;
    let mut socket = Socket::connect(&Target::plain(weir.http), HOST).await.unwrap();
    socket.echo("hello").await.unwrap();
    let open = backend.connections();
    drop(socket);
    until("one connection less", async || backend.connections() < open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_sockets_at_once_keep_their_messages_apart() {
    let _turn = turn::beside_others().await;
    let (weir, _backend) = scene::one_backend().await;
    let mut sockets = Vec::new();
    for _ in 0..100 {
        sockets.push(Socket::connect(&Target::plain(weir.http), HOST).await.unwrap());
    }
    for round in 0..3 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            let text = format!("{round}-{number}");
            assert_eq!(socket.echo(&text).await.unwrap().unwrap(), format!("blue {text}"));
        }
    }
}
