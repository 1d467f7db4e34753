use super::*;

async fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // Connected: it hears of nobody but the listener.
    socket.connect(to).await.unwrap();
    socket
}

async fn answer(socket: &UdpSocket) -> String {
    let mut buffer = vec![0; 65_536];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
    let length = received.expect("an answer within 10 s").unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

async fn ask(socket: &UdpSocket, text: &str) -> String {
    socket.send(text.as_bytes()).await.unwrap();
    answer(socket).await
}

fn udp(backends: impl IntoIterator<Item = Backend>) -> Model {
    model(entry(Protocol::Udp, &[("a", 1)]), backends)
}

#[test]
fn datagrams_of_a_client_go_to_one_endpoint_and_answers_come_from_the_listener() {
    on_a_worker(options(), async |worker| {
        let (a, b) = (echo_datagrams("a").await, echo_datagrams("b").await);
        worker.publish(&udp([backend("a", &[a, b])]));
        let (address, _stop) = worker.listen_for_datagrams();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let client = client(address).await;
            let first = ask(&client, "1").await;
            let name = first.strip_suffix(":1").unwrap().to_owned();
            for text in ["2", "", &"x".repeat(60_000)] {
                assert_eq!(ask(&client, text).await, format!("{name}:{text}"));
            }
            seen.insert(name);
        }
        assert_eq!(seen.len(), 2);
        let counters = worker.context.counters.listener("test");
        assert_eq!(
            (counters.open.value(), counters.datagrams_in.value(), counters.datagrams_out.value()),
            (20, 80, 80)
        );
        assert_eq!(worker.totals().colors[0].flow.in_flight(), 20);
    });
}

#[test]
fn silent_session_ends_and_the_next_datagram_begins_another() {
    let mut options = options();
    options.timeouts.udp_idle = Duration::from_millis(300);
    on_a_worker(options, async |worker| {
        let (a, b) = (echo_datagrams("a").await, echo_datagrams("b").await);
        worker.publish(&udp([backend("a", &[a])]));
        let (address, _stop) = worker.listen_for_datagrams();
        let client = client(address).await;
        assert_eq!(ask(&client, "1").await, "a:1");
        worker.publish(&udp([backend("a", &[b])]));
        worker.until("the session has ended", |worker| worker.context.counters.open_connections() == 0).await;
        assert_eq!(ask(&client, "2").await, "b:2");
        let color = &worker.totals().colors[0];
        assert_eq!((color.flow.started, color.bytes_in, color.bytes_out), (2, 1, 3), "the second is not settled yet");
    });
}

#[test]
fn session_does_not_outlive_what_is_known_of_its_endpoint() {
    on_a_worker(options(), async |worker| {
        let a = echo_datagrams("a").await;
        worker.publish(&udp([backend("a", &[a])]));
        let (address, datagrams) = worker.listen_for_datagrams();
        let client = client(address).await;
        assert_eq!(ask(&client, "1").await, "a:1");
        // The listener and its route go, and with them the last that leads to the backend.
        datagrams.want(false);
        worker.publish(&Model::default());
        let open = |worker: &Worker| worker.context.counters.open_connections();
        worker
            .until("the client that never pauses is kept there no longer", |worker| {
                client.try_send(b"2").unwrap();
                open(worker) == 0
            })
            .await;
    });
}

#[test]
fn endpoint_that_is_not_there_is_passed_by() {
    on_a_worker(options(), async |worker| {
        let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut backend = backend("a", &[echo_datagrams("a").await, dead]);
        backend.balance = Balance::RoundRobin;
        worker.publish(&udp([backend]));
        let (address, _stop) = worker.listen_for_datagrams();
        for _ in 0..20 {
            let client = client(address).await;
            // The first may be lost at the dead one; whoever waits for an answer asks again.
            let mut buffer = [0; 16];
            let mut tries = 0;
            let length = loop {
                client.send(b"x").await.unwrap();
                tries += 1;
                let wait = Duration::from_millis(if tries > 3 { 10_000 } else { 200 });
                if let Ok(received) = tokio::time::timeout(wait, client.recv(&mut buffer)).await {
                    break received.unwrap();
                }
                assert!(tries < 5);
            };
            assert_eq!(&buffer[..length], b"a:x");
        }
        let totals = worker.totals();
        let failed = totals.endpoints.iter().find(|endpoint| endpoint.labels.address == dead).unwrap();
        assert_eq!((failed.flow.started, failed.errors), (5, 5), "five failures in a row");
    });
}

#[test]
fn sessions_are_bounded_and_datagrams_without_one_are_counted() {
    let mut options = options();
    options.limits.udp_sessions = 3;
    on_a_worker(options, async |worker| {
        worker.publish(&udp([backend("a", &[echo_datagrams("a").await])]));
        let (address, _stop) = worker.listen_for_datagrams();
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = client(address).await;
            assert_eq!(ask(&client, "1").await, "a:1");
            clients.push(client);
        }
        client(address).await.send(b"1").await.unwrap();
        let counters = worker.context.counters.listener("test");
        worker.until("it is refused", |_| counters.datagrams_dropped.value() == 1).await;
        assert_eq!((counters.refused.value(), counters.open.value()), (1, 3));
        assert_eq!(worker.faults(Fault::Overloaded), 1);
        assert_eq!(ask(&clients[0], "2").await, "a:2");
    });
}

#[test]
fn draining_listener_serves_its_sessions_and_begins_none() {
    let mut options = options();
    options.timeouts.udp_idle = Duration::from_millis(500);
    on_a_worker(options, async |worker| {
        worker.publish(&udp([backend("a", &[echo_datagrams("a").await])]));
        let (address, datagrams) = worker.listen_for_datagrams();
        let old = client(address).await;
        assert_eq!(ask(&old, "1").await, "a:1");
        datagrams.want(false);
        let counters = worker.context.counters.listener("test");
        let new = client(address).await;
        new.send(b"1").await.unwrap();
        worker.until("it is refused", |_| counters.refused.value() == 1).await;
        assert_eq!(worker.faults(Fault::Draining), 1);
        assert_eq!(ask(&old, "2").await, "a:2");
        worker.until("nothing is open", |worker| worker.context.counters.open_connections() == 0).await;
    });
}

#[test]
fn listener_that_leaves_is_not_kept_for_ever_by_a_client_that_never_pauses() {
    let mut options = options();
    options.timeouts.leaving = Duration::from_millis(300);
    on_a_worker(options, async |worker| {
        worker.publish(&udp([backend("a", &[echo_datagrams("a").await])]));
        for at_once in [false, true] {
            let (datagrams, task) = listen_for_datagrams(&worker.context, ([127, 0, 0, 1], 0).into(), &Arc::default());
            let address = datagrams.address().unwrap();
            let client = Rc::new(client(address).await);
            assert_eq!(ask(&client, "1").await, "a:1");
            let chatter = tokio::task::spawn_local(async move {
                loop {
                    _ = client.send(b"2").await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            if at_once {
                datagrams.end()
            } else {
                datagrams.want(false)
            }
            drop(datagrams);
            worker.until("it has left", |_| task.is_finished()).await;
            worker.until("the port is free", |_| std::net::UdpSocket::bind(address).is_ok()).await;
            chatter.abort();
        }
        assert_eq!(worker.faults(Fault::Drained), 2);
    });
}

#[test]
fn listener_that_is_wanted_again_goes_on_with_its_sessions() {
    on_a_worker(options(), async |worker| {
        let (a, b) = (echo_datagrams("a").await, echo_datagrams("b").await);
        worker.publish(&udp([backend("a", &[a, b])]));
        let (address, datagrams) = worker.listen_for_datagrams();
        let old = client(address).await;
        let name = ask(&old, "1").await.replace(":1", "");
        datagrams.want(false);
        let counters = worker.context.counters.listener("test");
        let new = client(address).await;
        new.send(b"1").await.unwrap();
        worker.until("it is refused", |_| counters.refused.value() == 1).await;
        datagrams.want(true);
        assert!(ask(&new, "2").await.ends_with(":2"));
        assert_eq!(ask(&old, "2").await, format!("{name}:2"));
        assert_eq!(counters.open.value(), 2);
    });
}

#[test]
fn sessions_stay_whole_while_sockets_of_other_workers_come_and_go() {
    on_a_worker(options(), async |worker| {
        let endpoints = [echo_datagrams("a").await, echo_datagrams("b").await, echo_datagrams("c").await];
        worker.publish(&udp([backend("a", &endpoints)]));
        let shared = Arc::<Shared>::default();
        let any = ([127, 0, 0, 1], 0).into();
        let (first, task) = listen_for_datagrams(&worker.context, any, &shared);
        let address = first.address().unwrap();
        let (mut ends, mut tasks, mut clients) = (vec![first], vec![task], Vec::new());
        let go_on = async |clients: &[(String, UdpSocket)], text: &str| {
            for (name, client) in clients {
                assert_eq!(ask(client, text).await, format!("{name}:{text}"));
            }
        };
        for index in 0..WORKERS {
            if index > 0 {
                let (end, task) = listen_for_datagrams(&worker.another(index), address, &shared);
                ends.push(end);
                tasks.push(task);
            }
            // The last one comes when there is no new client, and so has no session.
            for _ in 0..if index + 1 < WORKERS { 20 } else { 0 } {
                let client = client(address).await;
                let answer = ask(&client, "hello").await;
                clients.push((answer.strip_suffix(":hello").unwrap().to_owned(), client));
            }
            go_on(&clients, "x").await;
        }
        for end in &ends {
            end.want(false);
        }
        let beginning = || shared.beginning.load(std::sync::atomic::Ordering::Relaxed);
        worker.until("none of them begins a session", |_| beginning() == 0).await;
        // All look once more, and have done so when answers have come.
        for end in &ends {
            end.want(false);
        }
        go_on(&clients, "z").await;
        assert!(!tasks.iter().any(|task| task.is_finished()), "what comes in at its socket is still needed");
        go_on(&clients, "y").await;
        assert_eq!(shared.connections.load(std::sync::atomic::Ordering::Relaxed), clients.len() as u64);
        let color = worker.live.borrow().backend(&key("a")).unwrap().colors[0].clone();
        color.streams.order(crate::proxy::backend::DrainOrder::Force);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(shared.connections.load(std::sync::atomic::Ordering::Relaxed), 0);
    });
}

#[test]
fn all_listeners_together_have_a_ceiling_of_sessions() {
    let mut options = options();
    options.limits.all_udp_sessions = 2;
    on_a_worker(options, async |worker| {
        worker.publish(&udp([backend("a", &[echo_datagrams("a").await])]));
        let everywhere = Arc::default();
        let any = ([127, 0, 0, 1], 0).into();
        let (one, _task) = listen_for_datagrams(&worker.context, any, &Shared::new(&everywhere));
        let (two, _task) = listen_for_datagrams(&worker.context, any, &Shared::new(&everywhere));
        let (at_one, at_two) = (client(one.address().unwrap()).await, client(two.address().unwrap()).await);
        assert_eq!((ask(&at_one, "1").await, ask(&at_two, "1").await), ("a:1".to_owned(), "a:1".to_owned()));
        client(two.address().unwrap()).await.send(b"1").await.unwrap();
        worker.until("it is refused", |worker| worker.faults(Fault::Overloaded) == 1).await;
        assert_eq!(ask(&at_two, "2").await, "a:2");
    });
}

#[test]
fn descriptors_are_those_of_all_listeners_whatever_they_take_in() {
    let mut options = options();
    options.limits.descriptors = 5;
    on_a_worker(options, async |worker| {
        worker.publish(&udp([backend("a", &[echo_datagrams("a").await])]));
        let everywhere = Arc::default();
        let (udp, _task) = listen_for_datagrams(&worker.context, ([127, 0, 0, 1], 0).into(), &Shared::new(&everywhere));
        let one = worker.listen_with(Protocol::Http, Shared::new(&everywhere));
        let two = worker.listen_with(Protocol::Http, Shared::new(&everywhere));
        let open = |worker: &Worker| worker.context.counters.open_connections();
        let _open = (TcpStream::connect(one).await.unwrap(), TcpStream::connect(one).await.unwrap());
        worker.until("they are taken in", |worker| open(worker) == 2).await;
        let known = client(udp.address().unwrap()).await;
        assert_eq!(ask(&known, "1").await, "a:1");
        client(udp.address().unwrap()).await.send(b"1").await.unwrap();
        worker.until("it is refused", |worker| worker.faults(Fault::Overloaded) == 1).await;
        // The first was waited for when there was room.
        let _waiting = (TcpStream::connect(two).await.unwrap(), TcpStream::connect(two).await.unwrap());
        worker.until("one is taken in", |worker| open(worker) == 4).await;
        worker.until("the other waits", |worker| worker.context.counters.paused_accepts.value() > 4).await;
        assert_eq!(open(&worker), 4);
    });
}

#[test]
fn session_leaves_the_old_color_when_told_to() {
    on_a_worker(options(), async |worker| {
        worker.publish(&udp([backend("a", &[echo_datagrams("a").await])]));
        let (address, _stop) = worker.listen_for_datagrams();
        let client = client(address).await;
        assert_eq!(ask(&client, "1").await, "a:1");
        let color = worker.live.borrow().backend(&key("a")).unwrap().colors[0].clone();
        color.streams.order(crate::proxy::backend::DrainOrder::Force);
        worker.until("it has ended", |_| color.streams.ended().forced == 1).await;
        assert_eq!(worker.context.counters.open_connections(), 0);
        color.streams.cancel();
        assert_eq!(ask(&client, "2").await, "a:2");
    });
}
