//! The composition root: the only file that knows every room. Starts everything in order, waits for the end, and ends
//! everything in order.
//!
//! Threads: this one (signals), one for the control plane (provider, translation, cutovers, health checks), one for admin,
//! and one per worker. Workers start when the first full load is published, so that no request meets an empty table.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use serde_json::Value;

use crate::admin::{self, ActionError, AdminSettings, Audience, CutoverAction, Readiness, Sources, show};
use crate::config::{AccessLogMode, ListenerProtocol, LogFormat, Origins, Settings, Underscores};
use crate::control::cutover::edit::{self, EditError};
use crate::control::cutover::{Board, Driver, Moment, RegistryTally, Timestamp};
use crate::control::provider::directory::Directory;
#[cfg(feature = "kubernetes")]
use crate::control::provider::kubernetes::{self, Kubernetes, KubernetesError, Scope};
use crate::control::provider::{Age, feed};
use crate::control::translate::{AddressRange, Change, Options as TranslateOptions, Translator};
#[cfg(feature = "kubernetes")]
use crate::control::written;
use crate::control::{self, Control, Cycle, Report};
use crate::drain::{Drain, Phase};
use crate::model::{Bind, GatewayAddress, ObjectName, Protocol};
use crate::proxy::backend::health::Checker;
use crate::proxy::fault::Fault;
use crate::proxy::listener::{BindError, SocketBoard, Spec};
use crate::proxy::options::{Limits, Options, Timeouts};
use crate::proxy::request::Context;
use crate::proxy::snapshot::{Live, Published};
use crate::proxy::wire::parse::HeadLimits;
use crate::proxy::worker::{self, Plan, Sockets};
use crate::telemetry::access_log::{AccessLog, Mode};
use crate::telemetry::clock;
use crate::telemetry::gauges::Gauges;
use crate::telemetry::log::{self, Format};
use crate::telemetry::metrics::{CutoverFacts, Facts, WriterFacts};
use crate::telemetry::sink::Target;
use crate::telemetry::stats::{ColorLabels, Registry};

/// Where the objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder (or file) of manifests, watched.
    Directory(PathBuf),
    /// An API server, watched.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Scope),
    /// These, and nothing else ever.
    Embedded(Vec<Change>),
}

/// What whoever started the app is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A listener is bound.
    Listening {
        /// `http`, `https`, `admin`, or the name of a Gateway's listener.
        listener: String,
        /// With the real port.
        address: SocketAddr,
    },
    /// The first full load is served.
    Ready,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin listener cannot be opened.
    #[error("admin: cannot listen at {address}: {source}; choose a free port with --admin, or stop what uses this one")]
    Admin {
        /// Its address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder cannot be watched.
    #[error("provider.directory: cannot watch {}: {source}", path.display())]
    Watch {
        /// Which folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Nothing says how an API server is reached.
    #[cfg(feature = "kubernetes")]
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The access log cannot be opened.
    #[error("access_log.path: cannot open {}: {source}", path.display())]
    AccessLog {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The log cannot be set up.
    #[error("log: {0}")]
    Log(#[from] log::LogError),
    /// No thread, runtime or signal handler can be made.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Reason codes by [`Fault::index`].
static REASONS: LazyLock<Vec<&'static str>> = LazyLock::new(|| Fault::ALL.iter().map(|fault| fault.code()).collect());

/// Descriptors kept for everything that is not a connection: files, sockets, the log.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Serves until the process is told to end.
///
/// # Errors
/// See [`AppError`].
pub fn run(settings: Settings, origins: &Origins, source: Source, announce: impl Fn(Event)) -> Result<(), AppError> {
    clock::now();
    let format = match settings.log.format {
        LogFormat::Auto => Format::Auto,
        LogFormat::Json => Format::Json,
        LogFormat::Text => Format::Text,
    };
    let level = format!("{:?}", settings.log.level).to_ascii_lowercase();
    let logs = log::init(&level, format)?;
    if settings.trusted_proxies.is_empty() && settings.listeners.iter().any(|listener| listener.proxy_protocol) {
        tracing::warn!("proxy_protocol is on and trusted_proxies is empty: every connection there will be refused");
    }
    for replaced in origins.replaced() {
        let names = replaced.names.join(", ");
        tracing::warn!(listeners = names, by = %replaced.by, "listeners of the file are replaced");
    }
    let workers = settings.workers.get();
    let registry = Registry::new(workers, &REASONS);
    let gauges = Gauges::new(workers);
    let published = Arc::new(Published::default());
    let report = Arc::new(Report::default());
    let drain = Drain::default();
    let access_log = open_access_log(&settings)?;
    let manifests = match &source {
        Source::Directory(path) => Some(path.clone()),
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes(_) => None,
        Source::Embedded(_) => None,
    };
    #[cfg(feature = "kubernetes")]
    let cluster = match &source {
        Source::Kubernetes(scope) => Some(scope.kubeconfig.clone()),
        Source::Directory(_) | Source::Embedded(_) => None,
    };
    let (provider, batches) = open_source(source)?;

    let live = Live::new(registry.clone());
    let backends = live.backends();
    let driver = Driver::new(workers, Box::new(RegistryTally::new(registry.clone())));
    let board = driver.handle().board().clone();
    let cutovers = driver.handle().clone();
    let writer = open_writer(&provider, &settings, &report, &board, &drain)?;
    let local_endpoints = provider.is_local();
    let options = TranslateOptions { local_endpoints, ..translate_options(&settings, provider.experimental()) };
    let cycle = Cycle::new(Translator::new(options), live, published.clone(), report.clone());
    let checked = backends.clone();
    let socket_board = Arc::new(SocketBoard::new(workers));
    let socket_news = socket_board.read();
    spawn("weir-control", move || {
        let control = Control::new(cycle, cutovers, local_endpoints);
        async move {
            tokio::spawn(driver.run(moment));
            tokio::spawn(Checker::new(checked, clock::now, fastrand::u64(..)).run());
            control.run(batches, socket_news, clock::now).await;
        }
    })?;

    let serving = Arc::new(AtomicBool::new(false));
    let mut sources = Sources::new(registry.clone(), gauges.clone());
    fill(&mut sources, &settings, origins, &published, &report, &backends, &board, &serving, &drain);
    if let Some(manifests) = manifests {
        sources.act = Arc::new(move |service, action| act(&manifests, service, action));
    }
    #[cfg(feature = "kubernetes")]
    if let Some(kubeconfig) = cluster {
        sources.act = Arc::new(move |service, action| ask(kubeconfig.as_deref(), service, action));
    }
    let logs_control = (access_log.control(), logs.control());
    let facts = FactSources {
        published: published.clone(),
        report: report.clone(),
        backends: backends.clone(),
        board: board.clone(),
        age: provider.age(),
        writer: writer.as_ref().map(Writing::facts),
    };
    sources.facts = Box::new(move || facts.read(&logs_control));
    let admin_error = |source| AppError::Admin { address: settings.admin.address, source };
    let listener = TcpListener::bind(settings.admin.address).map_err(admin_error)?;
    let admin_settings = AdminSettings {
        token: settings.admin.token.as_deref().map(Into::into),
        hosts: Vec::new(),
        per_endpoint_metrics: settings.metrics.per_endpoint,
    };
    let admin =
        admin::Server::start(vec![(listener, Audience::Operator)], admin_settings, sources).map_err(admin_error)?;
    for address in admin.addresses() {
        tracing::info!(listener = "admin", %address, "listening");
        announce(Event::Listening { listener: "admin".to_owned(), address: *address });
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut changed = published.subscribe();
        loop {
            tokio::select! {
                _ = changed.wait_for(|generation| *generation > 0) => break,
                asked = signals.next() => match asked {
                    Asked::End => {
                        drain.advance(Phase::Ending);
                        return Ok(());
                    }
                    Asked::Reload => reload(&provider, &access_log),
                },
                () = tokio::time::sleep(Duration::from_secs(5)) => {
                    tracing::warn!("still waiting for the first full load");
                }
            }
        }
        let sockets = Arc::new(Sockets::default());
        let hired = hire(
            &settings,
            &Hiring {
                registry: &registry,
                gauges: &gauges,
                published: &published,
                access_log: &access_log,
                drain: &drain,
                backends: &backends,
                sockets: &sockets,
                board: &socket_board,
            },
        )
        .await?;
        for (listener, address) in sockets.addresses() {
            announce(Event::Listening { listener: listener.to_string(), address });
        }
        serving.store(true, Ordering::Release);
        tracing::info!(generation = published.load().generation, workers, "ready");
        announce(Event::Ready);
        loop {
            match signals.next().await {
                Asked::End => break,
                Asked::Reload => reload(&provider, &access_log),
            }
        }
        end(&settings, &drain, hired, &mut signals).await;
        Ok::<_, AppError>(())
    })?;
    drop(admin);
    if let Some(writer) = writer {
        writer.finish();
    }
    access_log.finish(Duration::from_secs(2));
    drop(logs);
    Ok(())
}

fn moment() -> Moment {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Moment { clock: clock::now(), wall: Timestamp(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
}

/// Runs a thread with a runtime of its own until the process ends.
fn spawn<F>(name: &str, make: impl FnOnce() -> F + Send + 'static) -> std::io::Result<JoinHandle<()>>
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(make()))
}

fn open_access_log(settings: &Settings) -> Result<AccessLog, AppError> {
    let mode = match settings.access_log.mode {
        AccessLogMode::Off => Mode::Off,
        AccessLogMode::Sampled => Mode::Sampled(settings.access_log.sample),
        AccessLogMode::Full => Mode::Full,
    };
    let path = settings.access_log.path.clone();
    let target = match path.to_str() {
        Some("stdout") => Target::Stdout,
        Some("stderr") => Target::Stderr,
        _ => Target::File(path.clone()),
    };
    AccessLog::open(mode, target).map_err(|source| AppError::AccessLog { path, source })
}

/// What feeds the control loop, for as long as it is kept.
enum Provider {
    Directory(Directory),
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<Kubernetes>),
    Embedded {
        /// Dropping it would tell the loop that its provider has ended.
        _sender: feed::Sender,
    },
}

impl Provider {
    /// Whether fields of the experimental channel of the Gateway API exist.
    fn experimental(&self) -> bool {
        match self {
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(kubernetes) => kubernetes.experimental(),
            Self::Directory(_) | Self::Embedded { .. } => false,
        }
    }

    /// Whether only the owner of this machine writes the objects.
    fn is_local(&self) -> bool {
        matches!(self, Self::Directory(_) | Self::Embedded { .. })
    }

    /// How old what it says may be, if it cannot always know.
    fn age(&self) -> Option<Arc<Age>> {
        match self {
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(kubernetes) => Some(kubernetes.age().clone()),
            Self::Directory(_) | Self::Embedded { .. } => None,
        }
    }
}

fn open_source(source: Source) -> Result<(Provider, feed::Receiver), AppError> {
    match source {
        Source::Directory(path) => match Directory::watch(path.clone()) {
            Ok((directory, batches)) => Ok((Provider::Directory(directory), batches)),
            Err(source) => Err(AppError::Watch { path, source }),
        },
        #[cfg(feature = "kubernetes")]
        Source::Kubernetes(scope) => {
            let (kubernetes, batches) = Kubernetes::watch(&scope)?;
            Ok((Provider::Kubernetes(Box::new(kubernetes)), batches))
        }
        Source::Embedded(changes) => {
            let (sender, batches) = feed::channel();
            sender.send(feed::Batch { changes, verdicts: Vec::new(), complete: true, seen: Instant::now() });
            Ok((Provider::Embedded { _sender: sender }, batches))
        }
    }
}

/// Tells the API server what has become of its objects, for as long as it is kept.
struct Writing {
    #[cfg(feature = "kubernetes")]
    writer: kubernetes::Writer,
}

/// How writing goes on, for the metrics.
type WriterReading = Box<dyn Fn() -> WriterFacts + Send + Sync>;

impl Writing {
    #[cfg(feature = "kubernetes")]
    fn facts(&self) -> WriterReading {
        let progress = self.writer.progress().clone();
        Box::new(move || WriterFacts {
            leads: progress.leads(),
            waiting: progress.waiting(),
            oldest: progress.oldest().as_secs_f64(),
            writes: progress.writes(),
        })
    }

    #[cfg(not(feature = "kubernetes"))]
    fn facts(&self) -> WriterReading {
        Box::new(WriterFacts::default)
    }

    /// The lease goes to another one.
    fn finish(self) {
        #[cfg(feature = "kubernetes")]
        self.writer.finish(Duration::from_secs(2));
    }
}

#[cfg(feature = "kubernetes")]
fn open_writer(
    provider: &Provider,
    settings: &Settings,
    report: &Arc<Report>,
    board: &Arc<Board>,
    drain: &Drain,
) -> Result<Option<Writing>, AppError> {
    let Provider::Kubernetes(provider) = provider else { return Ok(None) };
    if !settings.provider.write_status {
        tracing::info!("provider.write_status is false: nothing is written to the API server");
        return Ok(None);
    }
    let sources = written::sources(report, board);
    Ok(Some(Writing { writer: provider.write(sources, drain.watch())? }))
}

#[cfg(not(feature = "kubernetes"))]
fn open_writer(
    _: &Provider,
    _: &Settings,
    _: &Arc<Report>,
    _: &Arc<Board>,
    _: &Drain,
) -> Result<Option<Writing>, AppError> {
    Ok(None)
}

fn reload(provider: &Provider, access_log: &AccessLog) {
    tracing::info!("SIGHUP: reading the manifests again and reopening the access log");
    if let Provider::Directory(directory) = provider {
        directory.rescan();
    }
    if let Some(control) = access_log.control() {
        control.reopen();
    }
}

/// What workers are made of.
struct Hiring<'a> {
    registry: &'a Arc<Registry>,
    gauges: &'a Arc<Gauges>,
    published: &'a Arc<Published>,
    access_log: &'a AccessLog,
    drain: &'a Drain,
    backends: &'a Arc<arc_swap::ArcSwap<Vec<Arc<crate::proxy::backend::Backend>>>>,
    sockets: &'a Arc<Sockets>,
    board: &'a Arc<SocketBoard>,
}

/// Starts the workers and waits until their sockets are open.
async fn hire(settings: &Settings, with: &Hiring<'_>) -> Result<Vec<JoinHandle<()>>, AppError> {
    let options = Arc::new(options(settings));
    let mut hired = Vec::new();
    let (all_hired, complete) = watch::channel(false);
    for index in 0..settings.workers.get() {
        let plan = Plan {
            index,
            listeners: specs(settings),
            sockets: with.sockets.clone(),
            board: with.board.clone(),
            drain: with.drain.watch(),
            backends: with.backends.clone(),
            complete: complete.clone(),
        };
        let (options, published) = (options.clone(), with.published.clone());
        let (registry, counters) = (with.registry.clone(), with.gauges.worker(index));
        let logger = with.access_log.logger(fastrand::u64(..));
        let (bound, answer) = oneshot::channel();
        let seed = fastrand::u64(..);
        let thread = std::thread::Builder::new().name(format!("weir-worker-{index}")).spawn(move || {
            let make = || Context::new(options, published, registry.shard(index), counters, logger, seed);
            if let Err(error) = worker::run(plan, make, bound) {
                tracing::error!(worker = index, %error, "worker failed");
            }
        })?;
        hired.push(thread);
        match answer.await {
            Ok(result) => result?,
            Err(_) => return Err(AppError::System(std::io::Error::other("a worker ended before it was ready"))),
        }
    }
    all_hired.send_replace(true);
    Ok(hired)
}

fn specs(settings: &Settings) -> Vec<Spec> {
    let spec = |listener: &crate::config::Listener| {
        let (bind, protocol) = match listener.protocol {
            ListenerProtocol::Http => (Bind::Http, Protocol::Http),
            ListenerProtocol::Https => (Bind::Https, Protocol::Https),
        };
        Spec {
            bind,
            name: listener.name.as_str().into(),
            address: listener.address,
            protocol,
            proxy_protocol: listener.proxy_protocol,
        }
    };
    settings.listeners.iter().map(spec).collect()
}

/// What translation needs of the settings; `experimental` says whether the fields of that channel of the Gateway API exist.
pub fn translate_options(settings: &Settings, experimental: bool) -> TranslateOptions {
    let addresses = settings.gateways.addresses.iter();
    let addresses = addresses.map(|(first, last)| AddressRange { first: *first, last: *last }).collect();
    let place = |text: &String| match text.parse() {
        Ok(ip) => GatewayAddress::Ip(ip),
        Err(_) => GatewayAddress::Host(text.as_str().into()),
    };
    let mut published: Vec<_> = settings.status.addresses.iter().map(place).collect();
    let service = settings.status.service.as_deref().filter(|_| published.is_empty());
    let published_service =
        service.and_then(|text| text.split_once('/')).map(|(space, name)| ObjectName::new(space, name));
    if published.is_empty() && published_service.is_none() {
        let own = settings.listeners.iter().map(|listener| listener.address.ip());
        published.extend(own.filter(|ip| !ip.is_unspecified()).map(GatewayAddress::Ip));
        published.sort_unstable();
        published.dedup();
    }
    TranslateOptions { addresses, published, published_service, experimental, ..TranslateOptions::default() }
}

fn options(settings: &Settings) -> Options {
    let limits = &settings.limits;
    let timeouts = &settings.timeouts;
    let descriptors = Descriptors::of(raise_descriptors());
    Options {
        limits: Limits {
            head: HeadLimits {
                method: limits.method,
                target: limits.target,
                block: limits.header_block,
                fields: limits.header_count,
            },
            trailers: limits.trailer,
            extensions: limits.chunk_extensions,
            body: limits.body,
            connections: descriptors.connections(limits.connections as u64),
            descriptors: descriptors.room,
            connections_per_address: u32::try_from(limits.connections_per_address).unwrap_or(u32::MAX),
            udp_sessions: limits.udp_sessions,
            all_udp_sessions: descriptors.sessions,
            streams: limits.h2_streams,
            stream_window: limits.h2_stream_window,
            connection_window: limits.h2_connection_window,
            send_buffer: limits.h2_send_buffer,
            header_list: limits.h2_header_list,
            pending_resets: limits.h2_pending_resets,
            local_resets: limits.h2_local_resets,
            overhead: limits.h2_overhead,
        },
        timeouts: Timeouts {
            handshake: timeouts.tls_handshake,
            head: timeouts.request_head,
            body_idle: timeouts.body_idle,
            keep_alive: timeouts.keep_alive,
            connect: timeouts.connect,
            response_head: timeouts.response_head,
            tunnel_idle: timeouts.tunnel_idle,
            udp_idle: timeouts.udp_idle,
            leaving: settings.shutdown.timeout,
            upstream_idle: timeouts.upstream_idle,
        },
        trusted: settings.trusted_proxies.clone(),
        forwarded: settings.headers.forwarded,
        reason_header: settings.headers.reason,
        keep_underscores: settings.headers.underscores == Underscores::Keep,
        merge_slashes: settings.headers.merge_slashes,
        attempts: settings.retries.attempts,
        retry_percent: settings.retries.budget_percent,
    }
}

/// Raises the soft limit of descriptors to the hard one; gives what it is then.
fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

/// What descriptors are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Descriptors {
    /// Those of connections and sessions.
    room: u64,
    /// Sessions of datagrams, each with one. Anyone can write a sender's address: most stay for connections.
    sessions: u64,
}

impl Descriptors {
    fn of(limit: u64) -> Self {
        let room = limit.saturating_sub(RESERVED_DESCRIPTORS);
        Self { room, sessions: (room / 4).max(1) }
    }

    /// Connections of a listener. Each may need another one to an endpoint.
    fn connections(self, wanted: u64) -> u64 {
        match wanted {
            0 => self.room / 2,
            wanted => wanted.min(self.room / 2),
        }
    }
}

/// What is asked of the process from outside.
enum Asked {
    End,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn end(&mut self) {
        while !matches!(self.next().await, Asked::End) {}
    }
}

/// Ends in order: not ready, grace, no new connections, what runs finishes, time is up. A second signal ends at once.
async fn end(settings: &Settings, drain: &Drain, hired: Vec<JoinHandle<()>>, signals: &mut Signals) {
    tracing::info!(grace = ?settings.shutdown.grace, timeout = ?settings.shutdown.timeout, "ending: no longer ready");
    drain.advance(Phase::Grace);
    let began = Instant::now();
    let hurried = tokio::select! {
        () = tokio::time::sleep(settings.shutdown.grace) => false,
        () = signals.end() => true,
    };
    drain.advance(Phase::Draining);
    if !hurried {
        tracing::info!("draining: no new connections");
        let finished = async {
            let mut told = Instant::now();
            while !hired.iter().all(JoinHandle::is_finished) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if told.elapsed() >= Duration::from_secs(5) {
                    told = Instant::now();
                    tracing::info!(after = ?began.elapsed(), "draining: connections are still open");
                }
            }
        };
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(settings.shutdown.timeout) => tracing::warn!("draining: time is up"),
            () = signals.end() => tracing::warn!("second signal: ending now"),
        }
    }
    drain.advance(Phase::Ending);
    for thread in hired {
        // A panic there has been reported by the panic hook already.
        let _ = thread.join();
    }
    tracing::info!(after = ?began.elapsed(), "ended");
}

#[expect(clippy::too_many_arguments, reason = "each is one thing that the operator may see")]
fn fill(
    sources: &mut Sources,
    settings: &Settings,
    origins: &Origins,
    published: &Arc<Published>,
    report: &Arc<Report>,
    backends: &Arc<arc_swap::ArcSwap<Vec<Arc<crate::proxy::backend::Backend>>>>,
    board: &Arc<Board>,
    serving: &Arc<AtomicBool>,
    drain: &Drain,
) {
    let (serving, watch) = (serving.clone(), drain.watch());
    sources.readiness = Box::new(move || match (serving.load(Ordering::Acquire), watch.phase()) {
        (true, Phase::Serving) => Readiness::Ready,
        (true, _) => Readiness::NotReady("draining".into()),
        (false, _) => Readiness::NotReady("no full load yet".into()),
    });
    let origin: BTreeMap<&'static str, String> =
        origins.rows(settings).into_iter().map(|(key, _, place)| (key, place.to_string())).collect();
    let shown = serde_json::json!({ "settings": settings, "origin": origin });
    sources.settings = Box::new(move || shown.clone());
    let snapshot = published.clone();
    sources.routes = Box::new(move || show::routes(&snapshot.load()));
    let live = backends.clone();
    sources.backends = Box::new(move || show::backends(&live.load(), clock::now()));
    let told = report.clone();
    sources.verdicts = Box::new(move || {
        let files: Vec<String> = told.problems().iter().map(ToString::to_string).collect();
        serde_json::json!({ "items": &*told.verdicts(), "files": files })
    });
    let all = board.clone();
    sources.cutovers = Box::new(move || {
        let services = all.services.load();
        serde_json::json!({ "items": services.values().map(|state| &**state).collect::<Vec<_>>() })
    });
    let one = board.clone();
    sources.cutover =
        Box::new(move |name| one.services.load().get(name).and_then(|state| serde_json::to_value(&**state).ok()));
    let asked = published.clone();
    sources.explain = Box::new(move |question| show::explain(&asked.load(), question));
}

/// Does what a build server asks for, as its owner would: by the annotation in the file. The other annotations of a
/// cutover are written by hand.
fn act(manifests: &Path, service: &ObjectName, action: &CutoverAction) -> Result<Value, ActionError> {
    let CutoverAction::To(color) = action else {
        let text = "in a folder only {\"to\": COLOR} can be asked for; edit the annotations for the rest";
        return Err(ActionError::Unavailable(text.to_owned()));
    };
    match edit::set_active(manifests, service, color) {
        Ok(edited) => Ok(serde_json::json!({
            "file": edited.file.display().to_string(),
            "before": edited.before,
            "active": &**color,
            "changed": edited.changed,
        })),
        Err(error @ EditError::File { .. }) => Err(ActionError::Unavailable(error.to_string())),
        Err(error) => Err(ActionError::Invalid(error.to_string())),
    }
}

/// The same on an API server: by the annotation of the Service.
#[cfg(feature = "kubernetes")]
fn ask(kubeconfig: Option<&Path>, service: &ObjectName, action: &CutoverAction) -> Result<Value, ActionError> {
    use kubernetes::{AskError, Wish};
    let wish = match action {
        CutoverAction::To(color) => Wish::To(color.to_string()),
        CutoverAction::Hold(hold) => Wish::Hold(*hold),
        CutoverAction::Abort(value) => Wish::Abort(value.to_string()),
        CutoverAction::Retry(value) => Wish::Retry(value.to_string()),
    };
    match kubernetes::ask(kubeconfig, service, &wish) {
        Ok(asked) => Ok(serde_json::json!({
            "annotation": asked.key,
            "before": asked.before,
            "now": asked.now,
            "changed": asked.changed,
        })),
        Err(error @ (AskError::NotFound(_) | AskError::NoColors(_))) => Err(ActionError::NotFound(error.to_string())),
        Err(error @ AskError::Refused(_)) => Err(ActionError::Invalid(error.to_string())),
        Err(error) => Err(ActionError::Unavailable(error.to_string())),
    }
}

/// Where `/metrics` finds what is neither a statistic nor a gauge.
struct FactSources {
    published: Arc<Published>,
    report: Arc<Report>,
    backends: Arc<arc_swap::ArcSwap<Vec<Arc<crate::proxy::backend::Backend>>>>,
    board: Arc<Board>,
    age: Option<Arc<Age>>,
    writer: Option<WriterReading>,
}

type LogControls = (Option<crate::telemetry::sink::SinkSender>, Option<crate::telemetry::sink::SinkSender>);

impl FactSources {
    fn read(&self, logs: &LogControls) -> Facts {
        let now = clock::now();
        let mut ready_endpoints = BTreeMap::new();
        for backend in self.backends.load().iter() {
            for color in &backend.colors {
                let labels = ColorLabels {
                    namespace: backend.key.service.namespace.clone(),
                    service: backend.key.service.name.clone(),
                    port: backend.key.port,
                    color: color.name.clone(),
                };
                // A port that is reached in two ways has the same endpoints in both.
                let usable = color.endpoints.load().usable(now) as u64;
                ready_endpoints.entry(labels).and_modify(|most: &mut u64| *most = usable.max(*most)).or_insert(usable);
            }
        }
        let mut certificates = BTreeMap::new();
        for table in self.published.load().entries.values() {
            for binding in table.certificates.bindings() {
                certificates.insert(binding.certificate.secret.clone(), binding.certificate.not_after);
            }
        }
        let services = self.board.services.load();
        let totals = self.board.totals.load();
        let generation = self.report.generation();
        Facts {
            ready_endpoints: ready_endpoints.into_iter().collect(),
            generation,
            last_publish: (generation > 0).then(|| self.report.last_publish()),
            changes: control::Path::ALL.map(|path| (path.text(), self.report.latency(path))).to_vec(),
            view_age: self.age.as_ref().map(|age| age.read().as_secs_f64()),
            writer: self.writer.as_ref().map(|read| read()),
            rejected_objects: self.report.rejected().values().map(|count| *count as u64).sum(),
            certificates: certificates.into_iter().collect(),
            cutovers: CutoverFacts {
                phases: services
                    .iter()
                    .map(|(name, state)| (name.clone(), format!("{:?}", state.phase).into()))
                    .collect(),
                skew_seconds: None,
                results: totals.results.iter().map(|(result, count)| ((*result).into(), *count)).collect(),
                dropped_requests: totals.dropped,
                rejected: totals.rejected.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
            },
            access_log_dropped: logs.0.as_ref().map_or(0, |sink| sink.dropped()),
            log_dropped: logs.1.as_ref().map_or(0, |sink| sink.dropped()),
        }
    }
}
