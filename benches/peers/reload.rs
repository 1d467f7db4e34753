//! One host more where there are ten thousand: how long until it is served, what that costs, and how many of the idle
//! connections of clients live on. Each proxy is told in the cheapest way it has.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Result;
use crate::client::Client;
use crate::measure::CpuTime;
use crate::process::{Helper, LOAD_CORE};
use crate::proxies::{Kind, Place, Proxy};
use crate::report::{Report, Row};
use crate::scenario::Scenario;

/// Idle connections of clients.
const IDLE: usize = 1000;

/// How long CPU time is counted after the host was served: old workers end, memory is given back. As long before the
/// change it is counted too, and taken off: what a proxy does when nothing happens is not the price of the change.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two questions whether the host is there.
const PAUSE: Duration = Duration::from_millis(1);

/// The most rounds that are made, as each takes seconds.
const ROUNDS: u32 = 5;

struct Change {
    milliseconds: f64,
    cpu_milliseconds: f64,
    kept: f64,
}

/// Measures one change in each round.
pub fn run(place: &Place, rounds: u32, report: &mut Report) -> Result<()> {
    let title = Scenario::Reload.title();
    let mut time = Row::new(&format!("{title}: until it is served"), "ms");
    let mut cpu = Row::new(&format!("{title}: CPU"), "ms");
    let mut kept = Row::new(&format!("{title}: idle connections kept of {IDLE}"), "connections").without_ratio();
    let mut running = Vec::new();
    for kind in place.kinds(|kind| Scenario::Reload.suits(kind)) {
        match Proxy::start(kind, place, true) {
            Ok(proxy) => running.push(proxy),
            Err(error) => report.refuse(title, kind, &*error),
        }
    }
    let rounds = rounds.min(ROUNDS);
    report.explain(&format!("One route more: {rounds} times, each proxy told in the cheapest way it has"));
    for round in 0..rounds {
        let mut refused: Vec<Kind> = Vec::new();
        let turns = running.len();
        for turn in 0..turns {
            let proxy = &mut running[(turn + round as usize) % turns];
            match change(proxy, &format!("new{round}.example.test")) {
                Ok(change) => {
                    time.add(proxy.kind, change.milliseconds);
                    cpu.add(proxy.kind, change.cpu_milliseconds);
                    kept.add(proxy.kind, change.kept);
                }
                Err(error) => {
                    report.refuse(title, proxy.kind, &*error);
                    refused.push(proxy.kind);
                }
            }
        }
        for row in [&mut time, &mut cpu, &mut kept] {
            refused.iter().for_each(|kind| row.remove(*kind));
        }
        running.retain(|proxy| !refused.contains(&proxy.kind));
    }
    for row in [time, cpu, kept] {
        report.add(row);
    }
    Ok(())
}

fn change(proxy: &mut Proxy, host: &str) -> Result<Change> {
    let address = proxy.http;
    let mut idle = Helper::start(LOAD_CORE, &["hold".to_owned(), address.to_string(), IDLE.to_string()])?;
    if idle.line()? != IDLE.to_string() {
        return Err("not all connections could be opened".into());
    }
    if status(proxy, host)? == 200 {
        return Err(format!("{host} is served before it was added").into());
    }
    let quiet = CpuTime::of(&proxy.processes())?;
    sleep(SETTLE);
    let quiet = CpuTime::of(&proxy.processes())?.since(&quiet)?;

    let processes = proxy.processes();
    let change = proxy.prepare_host(host)?;
    let cpu = CpuTime::of(&processes)?;
    let begun = Instant::now();
    change()?;
    let mut refused = 0_u32;
    while status(proxy, host)? != 200 {
        refused += 1;
        if begun.elapsed() > PATIENCE {
            return Err(format!("{host} is not served {PATIENCE:?} after it was added: {}", proxy.last_words()).into());
        }
        sleep(PAUSE);
    }
    let milliseconds = begun.elapsed().as_secs_f64() * 1000.0;
    sleep(SETTLE);
    let used = CpuTime::of(&proxy.processes())?.since(&cpu)?;
    let asking = asking(proxy, refused)?;
    let used = used.saturating_sub(quiet + asking);
    let kept = idle.ask("again")?.parse()?;
    Ok(Change { milliseconds, cpu_milliseconds: used as f64 / 1e6, kept })
}

/// CPU time of the questions whether the host is there: so many that were refused, and one that was answered. Whoever takes
/// longer is asked more often, and that is not the price of the change.
fn asking(proxy: &Proxy, refused: u32) -> Result<u64> {
    let before = CpuTime::of(&proxy.processes())?;
    for _ in 0..refused {
        if status(proxy, "nobody.example.test")? == 200 {
            return Err("a host is served that was never added".into());
        }
        sleep(PAUSE);
    }
    if status(proxy, &proxy.host())? != 200 {
        return Err(format!("{} is no longer served", proxy.host()).into());
    }
    CpuTime::of(&proxy.processes())?.since(&before)
}

/// What a new connection is answered for this host.
fn status(proxy: &Proxy, host: &str) -> Result<u16> {
    Ok(Client::plain(proxy.http)?.exchange("GET", "/", host, &[])?.0)
}
