//! The path of a request against endpoints that a test scripts: what a route's owner asks for takes effect.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::{self, *};
use crate::proxy::options::Options;
use crate::proxy::snapshot::{Live, Published, compile};
use crate::proxy::wire::pump::BodySource;
use crate::telemetry::access_log::Logger;
use crate::telemetry::stats::Registry;

/// A worker without a socket, and an endpoint that keeps what it is sent.
struct Scene {
    context: Rc<Context>,
    seen: Rc<RefCell<Vec<String>>>,
    connections: Rc<RefCell<u32>>,
}

impl Scene {
    /// One rule for everything, before one endpoint that answers with these, in turn and again from the start.
    async fn new(rule: Rule, protocol: UpstreamProtocol, answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Registry::new(1, &[]);
        let mut live = Live::new(registry.clone());
        let endpoint = model::Endpoint { address, condition: Condition::Ready, pod: None, zone: None };
        let color = ColorEndpoints {
            color: "".into(),
            service: key().service,
            source: EndpointSource::Listed([endpoint].into()),
        };
        let backend = Backend { protocol, ..Backend::new(key(), vec![color]) };
        let route = Route {
            matches: RouteMatch {
                path: PathMatch::Prefix("/".into()),
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
            },
            rank: Rank { created: 0, source: rule.source.clone(), rule: 0, index: 0 },
            rule: Arc::new(rule),
        };
        let hosts = [(HostPattern::Any, vec![Arc::new(route)])].into();
        let model = Model {
            entries: [(Bind::Http, Entry { hosts, ..Entry::default() })].into(),
            backends: [(key(), Arc::new(backend))].into(),
            switches: [].into(),
        };
        let published = Arc::new(Published::default());
        published.publish(compile(&model, &mut live, None, 1));
        let options = Arc::new(Options { attempts: 2, retry_percent: 20, ..Options::default() });
        let context = Context::new(options, published, registry.shard(0), Arc::default(), Logger::off(), 1);
        let (seen, connections) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(0)));
        context.spawn(serve(listener, context.clone(), seen.clone(), connections.clone(), answers));
        Self { context, seen, connections }
    }

    async fn ask(&self, method: &str, fields: &[(&str, &str)], body: &'static str) -> (Running, String) {
        let origin = Origin {
            bind: Bind::Http,
            listener: "http".into(),
            peer: "127.0.0.1:1".parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
            tls: false,
            server_name: None,
            admitted: None,
        };
        let mut running = Running::new(&self.context);
        running.request.set_method(method);
        running.request.set_authority("shop.test");
        running.request.set_path("/x");
        fields.iter().for_each(|(name, value)| running.request.headers.append(name.as_bytes(), value.as_bytes()));
        running.begin();
        let body = match body {
            "" => RequestBody::empty(&self.context),
            text => RequestBody::bytes(&self.context, Bytes::from_static(text.as_bytes())),
        };
        let mut answer = handle(&self.context, &origin, &mut running, None, body).await;
        let mut text = Vec::new();
        let mut buffer = [0; 1024];
        while !answer.is_over() {
            match std::future::poll_fn(|cx| answer.poll_read(cx, &mut buffer)).await.unwrap() {
                0 => break,
                read => text.extend_from_slice(&buffer[..read]),
            }
        }
        running.complete = true;
        (running, String::from_utf8(text).unwrap())
    }

    fn said(running: &Running) -> Vec<String> {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let fields = running.response.headers.iter();
        fields.map(|field| format!("{}: {}", text(field.name), text(field.value))).collect()
    }
}

fn key() -> BackendKey {
    BackendKey::new(ObjectName::new("shop", "web"), 80)
}

fn rule() -> Rule {
    Rule {
        source: ObjectRef::new("HTTPRoute", ObjectName::new("shop", "web")),
        name: "httproute/shop/web".into(),
        filters: Vec::new(),
        backends: vec![WeightedBackend { weight: 1, target: Target::Backend(key()), filters: Vec::new() }],
        timeouts: RouteTimeouts::default(),
        retry: None,
    }
}

fn retrying(statuses: &[u16], attempts: u32) -> Rule {
    let retry = RouteRetry { statuses: statuses.to_vec(), attempts: Some(attempts), backoff: Duration::ZERO };
    Rule { retry: Some(retry), ..rule() }
}

async fn serve(
    listener: TcpListener,
    context: Rc<Context>,
    seen: Rc<RefCell<Vec<String>>>,
    connections: Rc<RefCell<u32>>,
    answers: &'static [&'static str],
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        *connections.borrow_mut() += 1;
        let seen = seen.clone();
        context.spawn(async move {
            let mut bytes = Vec::new();
            loop {
                let Ok(1..) = stream.read_buf(&mut bytes).await else { return };
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
                    continue;
                }
                let method = head.split(' ').next().unwrap();
                seen.borrow_mut().push(format!("{method} {body}"));
                bytes.clear();
                let answer = answers[(seen.borrow().len() - 1) % answers.len()];
                if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap().block_on(test);
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";
const LOST: &str = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n";
const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nAccess-Control-Allow-Origin: *\r\n\r\ngood";
/// The connection is closed.
const SILENT: &str = "";

#[test]
fn listed_statuses_are_tried_again_with_the_same_body_on_the_same_connection() {
    run(async {
        let scene = Scene::new(retrying(&[502, 503], 2), UpstreamProtocol::Http1, &[BUSY, LOST, GOOD]).await;
        for (method, body) in [("GET", ""), ("POST", "hello"), ("PUT", "hello"), ("PATCH", "hello")] {
            let (running, text) = scene.ask(method, &[], body).await;
            assert_eq!((running.response.status, text.as_str(), running.attempts), (200, "good", 3), "{method}");
            assert_eq!(std::mem::take(&mut *scene.seen.borrow_mut()), vec![format!("{method} {body}"); 3]);
        }
        assert_eq!(*scene.connections.borrow(), 1);
    });
}

#[test]
fn client_gets_the_last_answer_whole_when_no_attempt_is_left() {
    run(async {
        let scene = Scene::new(retrying(&[502, 503], 1), UpstreamProtocol::Http1, &[LOST, BUSY]).await;
        let (running, text) = scene.ask("POST", &[], "hello").await;
        assert_eq!((running.response.status, text.as_str(), running.attempts), (503, "busy", 2));
        let scene = Scene::new(retrying(&[500], 3), UpstreamProtocol::Http1, &[BUSY]).await;
        let (running, text) = scene.ask("GET", &[], "").await;
        assert_eq!((running.response.status, text.as_str(), running.attempts), (503, "busy", 1), "not listed");
        let scene = Scene::new(rule(), UpstreamProtocol::Http1, &[BUSY]).await;
        assert_eq!(scene.ask("GET", &[], "").await.0.attempts, 1, "nothing is listed");
    });
}

#[test]
fn lost_connections_are_tried_again_as_often_as_the_route_says_where_that_is_safe() {
    run(async {
        for (method, rule, attempts, status) in [
            ("GET", retrying(&[], 3), 4, 200),
            ("GET", retrying(&[], 2), 3, 502),
            ("GET", rule(), 2, 502),
            // The endpoint may have acted on it, and no status says that it has not.
            ("POST", retrying(&[500, 502, 503, 504], 3), 1, 502),
        ] {
            let scene = Scene::new(rule, UpstreamProtocol::Http1, &[SILENT, SILENT, SILENT, GOOD]).await;
            let (running, _) = scene.ask(method, &[], "").await;
            assert_eq!((running.attempts, running.response.status), (attempts, status), "{method}");
        }
    });
}

#[test]
fn no_pause_is_begun_that_would_end_after_the_deadline() {
    run(async {
        let mut rule = retrying(&[503], 3);
        rule.timeouts.request = Some(Duration::from_secs(30));
        if let Some(retry) = &mut rule.retry {
            retry.backoff = Duration::from_secs(60);
        }
        let scene = Scene::new(rule, UpstreamProtocol::Http1, &[BUSY]).await;
        let (running, text) = scene.ask("GET", &[], "").await;
        assert_eq!((running.response.status, text.as_str(), running.attempts), (503, "busy", 1));
    });
}

#[test]
fn pages_of_other_origins_are_told_by_whoever_answers() {
    run(async {
        let cors = model::Cors {
            origins: vec!["https://a.test".into()],
            methods: vec!["PUT".into()],
            credentials: true,
            max_age: Duration::from_secs(5),
            ..model::Cors::default()
        };
        let remove = HeaderEdit { remove: vec!["origin".into()], ..HeaderEdit::default() };
        let redirect = Redirect { scheme: None, host: Some("b.test".into()), port: None, path: None, status: 307 };
        let with = |more: Vec<Filter>| {
            let filters =
                [vec![Filter::RequestHeaders(remove.clone())], more, vec![Filter::Cors(cors.clone())]].concat();
            Rule { filters, ..rule() }
        };
        let nowhere = || Rule { backends: Vec::new(), ..with(Vec::new()) };
        let allowed = "access-control-allow-origin: https://a.test";
        for (rule, status) in [(with(Vec::new()), 200), (with(vec![Filter::Redirect(redirect)]), 307), (nowhere(), 500)]
        {
            let scene = Scene::new(rule, UpstreamProtocol::Http1, &[GOOD]).await;
            let (running, _) = scene.ask("PUT", &[("origin", "https://a.test")], "").await;
            let said = Scene::said(&running);
            assert_eq!(running.response.status, status);
            assert!(said.iter().any(|field| field == allowed), "{said:?}");
            assert_eq!(
                said.iter().filter(|field| field.to_lowercase().contains("-allow-origin")).count(),
                1,
                "{said:?}"
            );
            let (running, _) = scene.ask("PUT", &[("origin", "https://b.test")], "").await;
            let said = Scene::said(&running);
            assert!(!said.iter().any(|field| field.to_lowercase().contains("access-control")), "{said:?}");
            assert!(said.iter().any(|field| field == "vary: origin"), "{said:?}");
            let asked = scene.seen.borrow().len();
            let preflight = [("origin", "https://a.test"), ("access-control-request-method", "PUT")];
            let (running, text) = scene.ask("OPTIONS", &preflight, "").await;
            let said = Scene::said(&running);
            assert_eq!((running.response.status, text.as_str()), (204, ""));
            assert!(said.iter().any(|field| field == "access-control-allow-methods: PUT"), "{said:?}");
            assert_eq!(scene.seen.borrow().len(), asked, "the browser is answered here");
        }
    });
}

#[test]
fn nothing_is_said_of_origins_where_no_route_asks_for_it() {
    run(async {
        let scene = Scene::new(rule(), UpstreamProtocol::Http1, &[GOOD]).await;
        let (running, _) = scene.ask("GET", &[("origin", "https://a.test")], "").await;
        assert!(
            Scene::said(&running).iter().any(|field| field == "Access-Control-Allow-Origin: *"),
            "as the backend says"
        );
        let preflight = [("origin", "https://a.test"), ("access-control-request-method", "PUT")];
        assert_eq!(scene.ask("OPTIONS", &preflight, "").await.0.response.status, 200);
        assert_eq!(scene.seen.borrow().len(), 2);
    });
}
