//! gRPC: unary calls and streams in both directions, with their status, metadata and deadlines.

use std::time::Duration;

use tonic::{Code, Request};

use crate::harness::backend::{Backend, Mode};
use crate::harness::grpc::{Client, Say};
use crate::harness::scene::{self, GRPC_HOST};
use crate::harness::weir::Weir;
use crate::harness::{turn, until};

async fn scene() -> (Weir, Backend, Client) {
    let backend = Backend::start("blue").await;
    let weir = Weir::start(&scene::mixed(std::slice::from_ref(&backend), &[])).await;
    let client = Client::connect(weir.http, GRPC_HOST).await.unwrap();
    (weir, backend, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unary_call_is_answered() {
    let _turn = turn::beside_others().await;
    let (_weir, _backend, mut client) = scene().await;
    for text in ["", "hello", &"x".repeat(1_000_000)] {
        let answer = client.unary(Request::new(Say::new(text))).await.unwrap().into_inner();
        assert_eq!((answer.text.as_str(), answer.from.as_str()), (text, "blue"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_and_its_message_arrive() {
    let _turn = turn::beside_others().await;
    let (_weir, _backend, mut client) = scene().await;
    let status = client.fail("not today, ümläut").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not today, ümläut"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_reaches_the_server_and_ends_the_call() {
    let _turn = turn::beside_others().await;
    let (_weir, backend, mut client) = scene().await;
    let mut request = Request::new(Say::new("hello"));
    request.set_timeout(Duration::from_secs(3));
    let answer = client.unary(request).await.unwrap();
    let seen = answer.metadata().get("x-seen-timeout").unwrap().to_str().unwrap().to_owned();
    assert!(seen.ends_with(['u', 'm', 'n', 'S']), "{seen}");
    let mut request = Request::new(Say::new("wait 3000"));
    request.set_timeout(Duration::from_millis(200));
    let start = std::time::Instant::now();
    let status = client.unary(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    until("the server's call has ended", async || backend.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_in_both_directions_keeps_order_and_ends_when_the_client_ends_it() {
    let _turn = turn::beside_others().await;
    let (_weir, backend, mut client) = scene().await;
    let (sender, mut receiver) = client.bidi().await.unwrap();
    let sending = tokio::spawn(async move {
        for number in 0..2_000 {
            sender.send(Say::new(number.to_string())).await.unwrap();
        }
    });
    for number in 0..2_000 {
        assert_eq!(receiver.message().await.unwrap().unwrap().text, number.to_string());
    }
    sending.await.unwrap();
    assert_eq!(receiver.message().await.unwrap(), None);
    until("nothing in flight", async || backend.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_not_held_back_until_the_next_one() {
    let _turn = turn::beside_others().await;
    let (_weir, _backend, mut client) = scene().await;
    let (sender, mut receiver) = client.bidi().await.unwrap();
    for number in 0..50 {
        sender.send(Say::new(number.to_string())).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(2), receiver.message()).await;
        assert_eq!(answer.unwrap().unwrap().unwrap().text, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_no_endpoint_can_take_is_unavailable() {
    let _turn = turn::beside_others().await;
    let weir = Weir::start(&scene::mixed(&[], &[])).await;
    let mut client = Client::connect(weir.http, GRPC_HOST).await.unwrap();
    let status = client.unary(Request::new(Say::new("hello"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_cannot_be_made_has_the_status_for_it() {
    let _turn = turn::beside_others().await;
    let backend = Backend::start("blue").await;
    let weir = Weir::start(&scene::mixed(std::slice::from_ref(&backend), &[])).await;
    let mut stranger = Client::connect(weir.http, "nobody.example").await.unwrap();
    let status = stranger.unary(Request::new(Say::new("hello"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    backend.set(Mode::Resetting);
    let mut client = Client::connect(weir.http, GRPC_HOST).await.unwrap();
    let status = client.unary(Request::new(Say::new("hello"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_a_stream_ends_it_at_the_server() {
    let _turn = turn::beside_others().await;
    let (_weir, backend, mut client) = scene().await;
    let (sender, mut receiver) = client.bidi().await.unwrap();
    sender.send(Say::new("one")).await.unwrap();
    receiver.message().await.unwrap();
    assert_eq!(backend.in_flight(), 1);
    drop(receiver);
    drop(sender);
    until("the server's stream has ended", async || backend.in_flight() == 0).await;
}
