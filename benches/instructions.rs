//! Counts instructions of three operations and compares the counts with `benches/instructions.toml`: a change that makes
//! one of them dearer fails, on a machine that is as noisy as it likes.
//!
//! `cargo bench --profile counted --bench instructions` counts and compares; with `WEIR_BLESS=1` in the environment it writes
//! the counts, with some room, into the file. Needs valgrind. Another compiler or processor counts differently: there it
//! prints the counts, and nothing fails.
//!
//! This program runs itself under `valgrind --tool=callgrind`, doing an operation n times and 2n times: the difference
//! divided by n is the operation without its preparation. With `CASE TIMES` as arguments it only does the operation, and
//! says how long it took; good for `perf` and for a look with callgrind_annotate.
//!
//! Hash tables are seeded anew in every process, so counts differ by up to 1 % from run to run: the room of a budget covers
//! it, and operations with a long preparation are done often.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use k8s_openapi::api::networking::v1::Ingress;
use weir::control::provider::feed::Batch;
use weir::control::provider::manifest::parse;
use weir::control::translate::{Change, Object, Options, Translator};
use weir::control::{Cycle, Report, Step};
use weir::model::*;
use weir::proxy::policy::{forwarding, headers, hop, path, rewrite};
use weir::proxy::request::write_request;
use weir::proxy::snapshot::{CompiledFilter, Live, Published, compile};
use weir::proxy::wire::RequestHead;
use weir::proxy::wire::parse::{self, HeadLimits};
use weir::proxy::wire::pump::{Coding, Out};
use weir::telemetry::stats::{Class, ColorLabels, Outcome, Registry, Shard};

/// As in the binary: what is allocated on the way is part of the cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.toml");
/// What a fresh budget has above what was counted.
const ROOM: f64 = 1.03;
/// Below this share of its budget a count is worth a new budget.
const FAR_BELOW: f64 = 0.93;
const HOSTS: usize = 10_000;

/// One operation.
struct Case {
    name: &'static str,
    what: &'static str,
    times: u64,
    prepare: fn() -> Box<dyn FnMut(u64)>,
}

const CASES: [Case; 3] = [
    Case {
        name: "request",
        what: "parse, normalise, route, tell where it came from, rewrite and write one request head, of 10,000 hosts",
        times: 2_000,
        prepare: request,
    },
    Case {
        name: "change",
        what: "take, translate, compile and publish one changed route among 10,000 hosts, and take the old apart",
        // Often enough that the tables, which are tidied up now and then, are so equally often in every run.
        times: 1_600,
        prepare: change,
    },
    Case { name: "outcome", what: "count one request in the statistics", times: 20_000, prepare: outcome },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let answer = match &arguments[..] {
        [name, times] => run(name, times),
        [only] if only == "--bench" => compare(),
        // As a test (`cargo test --benches`): everything works once.
        _ => CASES.iter().try_for_each(|case| run(case.name, "1")),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("instructions: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, times: &str) -> Result<(), String> {
    let case = CASES.iter().find(|case| case.name == name).ok_or_else(|| format!("there is no case {name:?}"))?;
    let times: u64 = times.parse().map_err(|_| format!("{times:?} is no number of times"))?;
    let mut operation = (case.prepare)();
    let start = Instant::now();
    for round in 0..times {
        operation(round);
    }
    eprintln!("{name}: {times} times, {:?} each", start.elapsed() / u32::try_from(times.max(1)).unwrap_or(u32::MAX));
    Ok(())
}

fn compare() -> Result<(), String> {
    let bless = std::env::var_os("WEIR_BLESS").is_some_and(|value| value == "1");
    let here = maker()?;
    let known = if bless { Budgets::default() } else { budgets()? };
    let comparable = known.maker == here;
    let mut written = format!("{HEADER}maker = \"{here}\"\n");
    let mut over = Vec::new();
    for case in &CASES {
        let counted = count(case)?;
        let fresh = (counted as f64 * ROOM).ceil() as u64;
        let _ = write!(written, "\n# {}\n{} = {fresh}\n", case.what, case.name);
        if bless {
            println!("{}: {counted} instructions, budget {fresh}", case.name);
            continue;
        }
        let budget = *known.most.get(case.name).ok_or_else(|| format!("{FILE} has no budget for {}", case.name))?;
        if !comparable {
            println!("{}: {counted} instructions", case.name);
            continue;
        }
        let percent = (counted as f64 / budget as f64 - 1.0) * 100.0;
        println!("{}: {counted} instructions, {percent:+.1} % of the budget of {budget}", case.name);
        if counted > budget {
            over.push(case.name);
        } else if (counted as f64) < budget as f64 * FAR_BELOW {
            println!("note: {} is far below its budget; WEIR_BLESS=1 keeps it there", case.name);
        }
    }
    if bless {
        std::fs::write(FILE, written).map_err(|error| format!("{FILE}: {error}"))?;
    } else if !comparable {
        println!(
            "note: not compared, as the budgets are of {}, and this is {here}; WEIR_BLESS=1 writes its own",
            known.maker
        );
    }
    if over.is_empty() {
        return Ok(());
    }
    Err(format!(
        "over budget: {}; make it cheaper, or say in the commit why it must cost more and write new budgets with WEIR_BLESS=1",
        over.join(", ")
    ))
}

const HEADER: &str = "\
# Most instructions that an operation may take: what was counted when this was written, and 3 %.
# Counted and written by benches/instructions.rs; the counts belong to the profile `counted`
# and to this compiler and processor; elsewhere nothing is compared.
";

/// What the file says.
#[derive(Default)]
struct Budgets {
    maker: String,
    most: BTreeMap<String, u64>,
}

/// The compiler and the processor that counts depend on.
fn maker() -> Result<String, String> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(&rustc).arg("-V").output().map_err(|error| format!("{rustc} -V: {error}"))?;
    Ok(format!("{}, {}", String::from_utf8_lossy(&output.stdout).trim(), std::env::consts::ARCH))
}

fn budgets() -> Result<Budgets, String> {
    let text = std::fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}; WEIR_BLESS=1 writes it"))?;
    let mut budgets = Budgets::default();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, budget) = line.split_once(" = ").ok_or_else(|| format!("{FILE}: {line:?} is not NAME = NUMBER"))?;
        if name == "maker" {
            budgets.maker = budget.trim_matches('"').to_owned();
            continue;
        }
        let budget = budget.parse().map_err(|_| format!("{FILE}: {line:?} is not NAME = NUMBER"))?;
        budgets.most.insert(name.to_owned(), budget);
    }
    Ok(budgets)
}

/// Instructions of one operation.
fn count(case: &Case) -> Result<u64, String> {
    let (once, twice) = std::thread::scope(|scope| {
        let twice = scope.spawn(|| total(case.name, case.times * 2));
        let once = total(case.name, case.times);
        (once, twice.join().unwrap_or_else(|_| Err("the counting thread panicked".to_owned())))
    });
    let (once, twice) = (once?, twice?);
    // Nothing is free: an operation that the compiler took away, or a count gone wrong, must not pass as cheap.
    match twice.saturating_sub(once) / case.times {
        0 => Err(format!("{}: {once} instructions once and {twice} twice; that counts nothing", case.name)),
        counted => Ok(counted),
    }
}

/// Instructions of a whole run.
fn total(name: &str, times: u64) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([name, &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}; on Debian: apt-get install valgrind"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.filter(|_| output.status.success()).ok_or_else(|| format!("valgrind said:\n{text}"))
}

// ---- request -----------------------------------------------------------------------------------------------------------

/// What browsers and programs send, about.
const FIELDS: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n\
    Referer: https://shop.example/items\r\nCookie: session=0123456789abcdef; theme=dark\r\nConnection: keep-alive\r\n\r\n";

/// The steps of `proxy::request::handle` up to the head that goes to the endpoint, with the same functions.
fn request() -> Box<dyn FnMut(u64)> {
    let published = Published::default();
    let mut live = Live::new(Registry::new(1, &[]));
    published.publish(compile(&model(), &mut live, None, 0));
    let inputs: Vec<Vec<u8>> = (0..HOSTS)
        .step_by(7)
        .map(|host| format!("GET /api/items/7?color=red HTTP/1.1\r\nHost: h{host}.test\r\n{FIELDS}").into_bytes())
        .collect();
    let limits = HeadLimits::default();
    let peer: IpAddr = [192, 0, 2, 7].into();
    let mut random = fastrand::Rng::with_seed(1);
    let mut head = RequestHead::default();
    let mut buffer = vec![0; 16 * 1024];
    Box::new(move |round| {
        head.clear();
        let input = &inputs[round as usize * 31 % inputs.len()];
        let meta = parse::request(input, &limits, &mut head).ok().flatten().expect("a whole head");
        let mut normal = Vec::new();
        path::normalise(head.path().as_bytes(), path::Slashes::Merge, &mut normal).expect("a sane path");
        let stripped = hop::strip_request(&mut head, hop::Underscores::Drop).expect("sane fields");
        head.trailers_wanted = stripped.te_trailers;
        let arrival = forwarding::Arrival::new(&head.headers, peer, &[], false, 80);
        let (rule, prefix) = {
            let snapshot = published.load();
            let matched = snapshot.entries[&Bind::Http].find(&head).expect("a route");
            (matched.rule.clone(), matched.prefix)
        };
        forwarding::write(&mut head, &arrival, forwarding::Extra::default(), random.u128(..));
        for filter in &rule.filters {
            match filter {
                CompiledFilter::RequestHeaders(edit) => headers::edit_request(edit, &mut head),
                CompiledFilter::Rewrite(edit) => {
                    let prefix: Option<Box<str>> = head.path().get(..prefix).map(Into::into);
                    rewrite::apply(edit, prefix.as_deref(), &mut head);
                }
                _ => {}
            }
        }
        let mut out = Out::new(&mut buffer);
        write_request(&mut out, &head, Coding::None, None);
        let written = out.written().expect("it fits");
        black_box((&buffer[..written], meta.keep_alive));
    })
}

fn model() -> Model {
    let key = |host: usize| BackendKey::new(ObjectName::new("shop", format!("s{host}")), 80);
    let backend = |at: usize| {
        Arc::new(Backend::new(
            key(at),
            vec![ColorEndpoints {
                color: "".into(),
                service: key(at).service,
                source: EndpointSource::Listed(Arc::default()),
            }],
        ))
    };
    let hosts = (0..HOSTS).map(|host| {
        let source = ObjectRef::new("HTTPRoute", ObjectName::new("shop", format!("r{host}")));
        let edit = HeaderEdit { set: vec![("x-tenant".into(), "shop".into())], ..HeaderEdit::default() };
        let path = Some(PathEdit::Prefix("/v2".into()));
        let rule = Arc::new(Rule {
            source: source.clone(),
            name: format!("httproute/shop/r{host}").into(),
            filters: vec![Filter::RequestHeaders(edit), Filter::Rewrite(Rewrite { host: None, path })],
            backends: vec![WeightedBackend {
                weight: 1,
                target: Target::Backend(key(host % 1_000)),
                filters: Vec::new(),
            }],
            timeouts: RouteTimeouts::default(),
            retry: None,
        });
        let path = PathMatch::Prefix("/api".into());
        let matches = RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new() };
        let route = Route { matches, rank: Rank { created: 0, source, rule: 0, index: 0 }, rule };
        (HostPattern::Exact(format!("h{host}.test").into()), vec![Arc::new(route)])
    });
    Model {
        entries: [(Bind::Http, Entry { hosts: hosts.collect(), ..Entry::default() })].into(),
        backends: (0..1_000).map(|at| (key(at), backend(at))).collect(),
        switches: BTreeMap::new(),
    }
}

// ---- change ------------------------------------------------------------------------------------------------------------

const OBJECTS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop, annotations: {weir.dev/endpoints: '127.0.0.1:8080'}}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: weir
  rules:
  - host: shop.test
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}
";

/// The control loop from the batch to the published snapshot. The change is an Ingress that moves to another host.
fn change() -> Box<dyn FnMut(u64)> {
    let file: Arc<Path> = Arc::from(Path::new("shop.yaml"));
    let mut objects = parse(&file, OBJECTS).objects.into_iter().map(|at| at.object);
    let (Some(Object::Service(service)), Some(Object::Ingress(ingress))) = (objects.next(), objects.next()) else {
        unreachable!("the text has these two objects");
    };
    // One Service for ten hosts.
    let services = (0..HOSTS / 10).map(|number| {
        let mut service = (*service).clone();
        service.metadata.name = Some(format!("s{number}"));
        Change::Put(Object::Service(Arc::new(service)))
    });
    let ingresses = (0..HOSTS).map(|number| moved(&ingress, number, format!("h{number}.test")));
    let (published, report) = (Arc::new(Published::default()), Arc::new(Report::default()));
    let live = Live::new(Registry::new(2, &[]));
    let mut cycle = Cycle::new(Translator::new(Options::default()), live, published.clone(), report);
    let mut change = move |changes: Vec<Change>| {
        let batch = Batch { changes, verdicts: Vec::new(), complete: true, seen: Instant::now() };
        assert_eq!(cycle.take(batch, 1), Step::Compiled);
        cycle.publish(UNIX_EPOCH);
        cycle.tick(1);
    };
    change(services.chain(ingresses).collect());
    assert_eq!(published.load().entries[&Bind::Http].host_count(), HOSTS);
    Box::new(move |round| change(vec![moved(&ingress, HOSTS, format!("new{round}.test"))]))
}

fn moved(ingress: &Ingress, number: usize, host: String) -> Change {
    let mut ingress = ingress.clone();
    ingress.metadata.name = Some(format!("i{number}"));
    let rule = ingress.spec.as_mut().and_then(|spec| spec.rules.as_mut()?.first_mut()).expect("it has a rule");
    rule.host = Some(host);
    let path = rule.http.as_mut().and_then(|http| http.paths.first_mut()).expect("it has a path");
    path.backend.service.as_mut().expect("it leads to a Service").name = format!("s{}", number % (HOSTS / 10));
    Change::Put(Object::Ingress(Arc::new(ingress)))
}

// ---- outcome -----------------------------------------------------------------------------------------------------------

/// What a request and its attempt leave in the statistics.
fn outcome() -> Box<dyn FnMut(u64)> {
    let registry = Registry::new(1, &[]);
    let mut shard: Shard = registry.shard(0);
    let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: "".into() };
    let color = registry.color(labels.clone());
    let endpoint = registry.endpoint(labels.clone(), ([127, 0, 0, 1], 8080).into());
    let route = registry.route("ingress/shop/web".into(), labels);
    Box::new(move |round| {
        let started = round * 1_000_000;
        let ended = started + 300_000 + round % 1_000 * 1_000;
        shard.started(color.slot(), started);
        shard.attempt_started(endpoint.slot(), started + 10_000);
        shard.attempt_finished(endpoint.slot(), started + 10_000, ended, false);
        let outcome = Outcome {
            started,
            first_byte: Some(ended - 20_000),
            ended,
            class: Class::Success,
            status: 200,
            bytes_in: 0,
            bytes_out: 1_024,
        };
        shard.finished(color.slot(), route.slot(), black_box(&outcome));
    })
}
