use super::*;

#[test]
fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    on_a_worker(options(), async |worker| {
        let backend_address = echo("a").await;
        worker.publish(&model(entry(Protocol::Tcp, &[("a", 1)]), [backend("a", &[backend_address])]));
        let address = worker.listen(Protocol::Tcp);
        assert_eq!(ask(address, "").await.unwrap(), "a");
        // More than all buffers on the way hold, so that both sides have to wait for each other.
        let long = "0123456789abcdef".repeat(1 << 17);
        let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
        let sent = long.clone();
        tokio::task::spawn_local(async move {
            write.write_all(sent.as_bytes()).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut answer = String::new();
        read.read_to_string(&mut answer).await.unwrap();
        assert!(answer[1..] == long, "{} of {} bytes", answer.len(), long.len() + 1);
        worker.until("both are over", |worker| worker.context.counters.open_connections() == 0).await;
        let totals = worker.totals();
        let color = &totals.colors[0];
        assert_eq!((color.flow.started, color.flow.in_flight()), (2, 0));
        assert_eq!((color.bytes_in, color.bytes_out), (long.len() as u64, long.len() as u64 + 2));
        assert_eq!((totals.endpoints[0].flow.started, totals.endpoints[0].errors), (2, 0));
    });
}

#[test]
fn connections_are_shared_out_by_weight() {
    on_a_worker(options(), async |worker| {
        let (a, b, c) = (echo("a").await, echo("b").await, echo("c").await);
        let shares = [("a", 70), ("b", 30), ("c", 0)];
        let backends = [backend("a", &[a]), backend("b", &[b]), backend("c", &[c])];
        worker.publish(&model(entry(Protocol::Tcp, &shares), backends));
        let address = worker.listen(Protocol::Tcp);
        let mut counts = [0; 3];
        for _ in 0..500 {
            match &*ask(address, "").await.unwrap() {
                "a" => counts[0] += 1,
                "b" => counts[1] += 1,
                _ => counts[2] += 1,
            }
        }
        assert!((320..=380).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    });
}

#[test]
fn endpoint_that_does_not_answer_is_passed_by_and_then_left_out() {
    on_a_worker(options(), async |worker| {
        let (good, bad) = (echo("a").await, nowhere().await);
        let mut backend = backend("a", &[good, bad]);
        backend.balance = Balance::RoundRobin;
        worker.publish(&model(entry(Protocol::Tcp, &[("a", 1)]), [backend]));
        let address = worker.listen(Protocol::Tcp);
        for _ in 0..30 {
            assert_eq!(ask(address, "b").await.unwrap(), "ab");
        }
        let totals = worker.totals();
        let failed = totals.endpoints.iter().find(|endpoint| endpoint.labels.address == bad).unwrap();
        assert_eq!((failed.flow.started, failed.errors), (5, 5), "five failures in a row");
        assert_eq!(totals.colors[0].class(crate::telemetry::stats::Class::Success), 30);
    });
}

#[test]
fn connection_that_leads_nowhere_is_closed_at_once_and_the_reason_is_counted() {
    on_a_worker(options(), async |worker| {
        let address = worker.listen(Protocol::Tcp);
        let dead = nowhere().await;
        let mut full = backend("a", &[echo("a").await]);
        full.limits.in_flight = 1;
        for (expected, model) in [
            (Fault::NoRoute, Model::default()),
            (Fault::InvalidBackend, model(entry(Protocol::Tcp, &[]), [])),
            (Fault::InvalidBackend, model(entry(Protocol::Tcp, &[("a", 0)]), [backend("a", &[dead])])),
            (Fault::InvalidBackend, model(entry(Protocol::Tcp, &[("gone", 1)]), [])),
            (Fault::NoEndpoints, model(entry(Protocol::Tcp, &[("a", 1)]), [backend("a", &[])])),
            (Fault::UpstreamConnect, model(entry(Protocol::Tcp, &[("a", 1)]), [backend("a", &[dead])])),
        ] {
            worker.publish(&model);
            let before = worker.faults(expected);
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "{expected:?}");
            assert_eq!(worker.faults(expected), before + 1, "{expected:?}");
        }
        worker.publish(&model(entry(Protocol::Tcp, &[("a", 1)]), [full]));
        let mut first = TcpStream::connect(address).await.unwrap();
        assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 1);
        assert_eq!(ask(address, "").await.unwrap_or_default(), "");
        assert_eq!(worker.faults(Fault::Overloaded), 1);
        drop(first);
        worker.until("the place is free", |worker| worker.context.counters.open_connections() == 0).await;
        assert_eq!(ask(address, "").await.unwrap(), "a");
    });
}

#[test]
fn reset_of_the_endpoint_is_a_reset_for_the_client() {
    on_a_worker(options(), async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = backend("a", &[listener.local_addr().unwrap()]);
        worker.publish(&model(entry(Protocol::Tcp, &[("a", 1)]), [there]));
        let address = worker.listen(Protocol::Tcp);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        upstream.write_all(b"half").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(client.read(&mut buffer).await.unwrap(), 4);
        socket2::SockRef::from(&upstream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(upstream);
        let error = client.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        worker.until("it is counted", |worker| worker.faults(Fault::UpstreamReset) == 1).await;
    });
}

#[test]
fn silent_connection_is_closed_after_the_idle_time() {
    let mut options = options();
    options.timeouts.tunnel_idle = Duration::from_millis(300);
    on_a_worker(options, async |worker| {
        let there = backend("a", &[echo("a").await]);
        worker.publish(&model(entry(Protocol::Tcp, &[("a", 1)]), [there]));
        let mut client = TcpStream::connect(worker.listen(Protocol::Tcp)).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "a");
    });
}

#[test]
fn connections_stay_when_endpoints_go_and_leave_the_old_color_when_told_to() {
    on_a_worker(options(), async |worker| {
        let (a, b) = (echo("a").await, echo("b").await);
        let publish = |addresses: &[SocketAddr]| {
            worker.publish(&model(entry(Protocol::Tcp, &[("a", 1)]), [backend("a", addresses)]));
        };
        publish(&[a]);
        let address = worker.listen(Protocol::Tcp);
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut byte = [0; 1];
        client.read_exact(&mut byte).await.unwrap();
        publish(&[b]);
        assert_eq!(ask(address, "").await.unwrap(), "b");
        for _ in 0..10 {
            client.write_all(b"x").await.unwrap();
            client.read_exact(&mut byte).await.unwrap();
            assert_eq!(&byte, b"x");
        }
        let color = worker.live.borrow().backend(&key("a")).unwrap().colors[0].clone();
        assert_eq!(color.streams.open(), 1);
        let now = clock::now();
        color.streams.order(crate::proxy::backend::DrainOrder::Spread { from: now, until: now, paced: false });
        assert_eq!(client.read(&mut byte).await.unwrap_or(0), 0);
        worker.until("it is counted as drained", |_| color.streams.ended().drained == 1).await;
        assert_eq!(worker.faults(Fault::Drained), 1);
    });
}
