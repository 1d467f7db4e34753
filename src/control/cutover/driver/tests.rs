//! The driver against live backends and endpoints on loopback; time is handed in, only sockets are real.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::control::cutover::phase::Phase;
use crate::control::cutover::receipt::Timestamp;
use crate::model::{self, BackendKey, ColorEndpoints, Condition, CutoverPolicy};
use crate::proxy::backend::{Load, Switch};
use crate::telemetry::stats::{ColorLabels, Registry};

const MS: u64 = 1_000_000;

struct NoTally;

impl Tally for NoTally {
    fn refresh(&mut self, _now: u64) {}

    fn finished(&self, _color: &Color) -> u64 {
        0
    }
}

/// An endpoint that answers every request with this status.
async fn endpoint(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 1024];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    address
}

fn service() -> ObjectName {
    ObjectName::new("shop", "web")
}

fn backend(colors: &[(&str, SocketAddr)]) -> Arc<Backend> {
    let registry = Registry::new(1, &[]);
    let key = BackendKey::new(service(), 80);
    let listed = |address: SocketAddr| model::Endpoint { address, condition: Condition::Ready, pod: None, zone: None };
    let desired = Arc::new(model::Backend {
        key,
        protocol: model::UpstreamProtocol::Http1,
        balance: model::Balance::RoundRobin,
        health: None,
        outlier: model::OutlierPolicy::default(),
        limits: model::BackendLimits::default(),
        slow_start: Duration::ZERO,
        empty_hold: Duration::ZERO,
        colors: colors
            .iter()
            .map(|(name, address)| ColorEndpoints {
                color: (*name).into(),
                service: service(),
                source: EndpointSource::Listed([listed(*address)].into()),
            })
            .collect(),
    });
    let live = (0..).zip(colors).map(|(id, (name, address))| {
        let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: (*name).into() };
        let color = Color::new((*name).into(), ColorId(id), registry.color(labels.clone()));
        let make = |endpoint: &model::Endpoint| {
            Arc::new(Endpoint::new(endpoint.address, None, registry.endpoint(labels.clone(), endpoint.address), 0))
        };
        color.endpoints.store(Arc::new(EndpointSet::follow(&[listed(*address)], None, &desired, 0, make)));
        Arc::new(color)
    });
    let live = live.collect();
    let switch = Arc::new(Switch::new(service(), ColorId(0)));
    Arc::new(Backend::new(Arc::clone(&desired), live, switch, Arc::<Load>::default()))
}

fn switches(active: &str) -> BTreeMap<ObjectName, Arc<ColorSwitch>> {
    let policy = CutoverPolicy {
        health_path: Some("/ok".into()),
        health_interval: Duration::from_millis(10),
        ..CutoverPolicy::default()
    };
    let switch = ColorSwitch {
        service: service(),
        colors: ["blue", "green"].map(|name| (name.into(), ObjectName::new("shop", format!("web-{name}")))).to_vec(),
        active: Some(active.into()),
        preview: None,
        policy,
        version: active.into(),
        problem: None,
        hold: false,
        abort: None,
        retry: None,
    };
    BTreeMap::from([(service(), Arc::new(switch))])
}

fn at(milliseconds: u64) -> Moment {
    Moment { clock: milliseconds * MS, wall: Timestamp(milliseconds) }
}

fn state(driver: &Driver) -> Arc<CutoverState> {
    Arc::clone(&driver.handle().board().services.load()[&service()])
}

/// Lets probes run, while no time passes for the machine.
async fn tick_until(driver: &mut Driver, reached: impl Fn(&CutoverState) -> bool) {
    let started = std::time::Instant::now();
    while !reached(&state(driver)) {
        assert!(started.elapsed() < Duration::from_secs(30), "stuck at: {:?}", state(driver).message);
        tokio::time::sleep(Duration::from_millis(5)).await;
        driver.tick(at(200));
    }
}

#[tokio::test]
async fn pointer_flips_after_probes_and_moves_back_when_the_new_color_is_empty() {
    let backend = backend(&[("blue", endpoint("200 OK").await), ("green", endpoint("200 OK").await)]);
    let backends = [Arc::clone(&backend)];
    let mut driver = Driver::new(0, Box::new(NoTally));
    driver.desired(&switches("blue"), &backends, at(0));
    assert_eq!((state(&driver).phase, state(&driver).effective.as_deref()), (Phase::Idle, Some("blue")));

    driver.desired(&switches("green"), &backends, at(100));
    assert_eq!(state(&driver).phase, Phase::Verifying);
    tick_until(&mut driver, |_| backend.switch.effective() == ColorId(1)).await;
    assert_eq!(backend.switch.effective(), ColorId(1));
    assert_eq!(state(&driver).phase, Phase::Draining);
    driver.tick(at(600));
    assert_eq!(state(&driver).phase, Phase::Done);

    backend.colors[1].endpoints.store(Arc::new(EndpointSet::default()));
    driver.tick(at(700));
    assert_eq!(backend.switch.effective(), ColorId(0));
    let state = state(&driver);
    assert_eq!((state.phase, state.effective.as_deref(), &*state.reason), (Phase::RolledBack, Some("blue"), "Latched"));
    let json = serde_json::to_value(&*state).unwrap();
    assert_eq!((&json["phase"], &json["receipt"]["result"]), (&"RolledBack".into(), &"RolledBack".into()));
    let totals = driver.handle().board().totals.load();
    assert_eq!(totals.results, BTreeMap::from([("Done", 1), ("RolledBack", 1)]));
}

#[tokio::test]
async fn failing_probes_keep_the_old_color_and_say_why() {
    let backend = backend(&[("blue", endpoint("200 OK").await), ("green", endpoint("503 Service Unavailable").await)]);
    let backends = [Arc::clone(&backend)];
    let mut driver = Driver::new(0, Box::new(NoTally));
    driver.desired(&switches("blue"), &backends, at(0));
    driver.desired(&switches("green"), &backends, at(100));
    tick_until(&mut driver, |state| state.message.contains("status 503")).await;
    assert_eq!((state(&driver).phase, backend.switch.effective()), (Phase::Verifying, ColorId(0)));
    driver.tick(at(700_000));
    assert_eq!((state(&driver).phase, backend.switch.effective()), (Phase::Aborted, ColorId(0)));
}
