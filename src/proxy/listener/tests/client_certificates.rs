use super::tls::{Authority, Pair, connect};
use super::*;

/// What a client that shows this certificate meets.
async fn meets(address: SocketAddr, authority: &Authority, shown: Option<&Pair>) -> Result<String, std::io::Error> {
    let mut stream = connect(address, &authority.client(shown, &["http/1.1"]), "web.test").await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

#[test]
fn clients_are_let_in_by_the_authorities_of_the_moment() {
    on_a_worker(options(), async |worker| {
        let (server, one, two) = (Authority::new(), Authority::new(), Authority::new());
        let (of_one, of_two) = (one.issue("client.test"), two.issue("client.test"));
        let certificate =
            CertificateBinding { host: HostPattern::Any, certificate: server.issue("web.test").certificate() };
        let certificates = Arc::new(vec![certificate]);
        let publish = |clients: Option<(&Authority, bool)>| {
            let client_certificates = clients.map(|(authority, optional)| {
                Arc::new(ClientCertificates { ca_pem: authority.pem.as_bytes().into(), optional })
            });
            let certificates = certificates.clone();
            let entry = Entry { protocol: Protocol::Https, certificates, client_certificates, ..Entry::default() };
            worker.publish(&model(entry, []));
        };
        publish(None);
        let address = worker.listen(Protocol::Https);
        let clients = [None, Some(&of_one), Some(&of_two)];
        for (asked, expected) in [
            (None, [true, true, true]),
            (Some((&one, false)), [false, true, false]),
            (Some((&two, false)), [false, false, true]),
            (Some((&two, true)), [true, true, true]),
        ] {
            publish(asked);
            for (shown, expected) in clients.iter().zip(expected) {
                let met = meets(address, &server, *shown).await;
                assert_eq!(met.as_ref().is_ok_and(|status| status == "404"), expected, "{met:?}");
            }
        }
    });
}

#[test]
fn session_from_before_is_not_resumed_where_certificates_are_asked_for() {
    on_a_worker(options(), async |worker| {
        let (server, clients) = (Authority::new(), Authority::new());
        let certificate = server.issue("web.test").certificate();
        let certificates = Arc::new(vec![CertificateBinding { host: HostPattern::Any, certificate }]);
        let asked = Arc::new(ClientCertificates { ca_pem: clients.pem.as_bytes().into(), optional: false });
        let publish = |client_certificates| {
            let certificates = certificates.clone();
            let entry = Entry { protocol: Protocol::Https, certificates, client_certificates, ..Entry::default() };
            worker.publish(&model(entry, []));
        };
        publish(None);
        let address = worker.listen(Protocol::Https);
        let pair = clients.issue("client.test");
        let config = server.client(Some(&pair), &["http/1.1"]);
        let kind = async || {
            let mut stream = connect(address, &config, "web.test").await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 404"));
            stream.get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!(kind().await, rustls::HandshakeKind::Full);
        assert_eq!(kind().await, rustls::HandshakeKind::Resumed);
        publish(Some(asked));
        for _ in 0..3 {
            assert_eq!(kind().await, rustls::HandshakeKind::Full);
        }
    });
}
