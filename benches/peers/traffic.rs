//! CPU time of the proxy for each exchange. All proxies run; they have their turns one after the other, in another order
//! each round, so that a machine that grows slower grows slower for all of them, and ratios are taken within a round.

use crate::client::{Client, check_all};
use crate::measure::{CpuTime, core_busy};
use crate::process::PROXY_CORE;
use crate::proxies::{Kind, Place, Proxy};
use crate::report::{Report, Row};
use crate::scenario::{Scenario, Traffic};
use crate::{Result, load};

/// Measures one kind of traffic.
pub fn run(traffic: Traffic, place: &Place, rounds: u32, seconds: u32, report: &mut Report) -> Result<()> {
    let scenario = Scenario::Traffic(traffic);
    let unit = if traffic == Traffic::Large { "CPU s/GiB" } else { "CPU µs/request" };
    let mut row = Row::new(scenario.title(), unit);
    let mut running = Vec::new();
    for kind in place.kinds(|kind| scenario.suits(kind)) {
        match up(kind, traffic, place) {
            Ok(proxy) => running.push(proxy),
            Err(error) => report.refuse(scenario.title(), kind, &*error),
        }
    }
    for round in 0..rounds as usize {
        let turns = running.len();
        let mut refused = Vec::new();
        for turn in 0..turns {
            let proxy = &running[(turn + round) % turns];
            match slice(proxy, traffic, place, seconds, report) {
                Ok(cost) => row.add(proxy.kind, cost),
                Err(error) => {
                    report.refuse(scenario.title(), proxy.kind, &*error);
                    refused.push(proxy.kind);
                }
            }
        }
        // What was measured of it before the error counts for nothing either.
        refused.iter().for_each(|kind| row.remove(*kind));
        running.retain(|proxy| !refused.contains(&proxy.kind));
    }
    report.add(row);
    Ok(())
}

fn up(kind: Kind, traffic: Traffic, place: &Place) -> Result<Proxy> {
    let proxy = Proxy::start(kind, place, traffic == Traffic::Hosts)?;
    check(&proxy, traffic, place)?;
    load::run(traffic, &proxy, place, 1)?;
    Ok(proxy)
}

fn check(proxy: &Proxy, traffic: Traffic, place: &Place) -> Result<()> {
    let mut client =
        if traffic.tls() { Client::tls(proxy.https, &place.certificate())? } else { Client::plain(proxy.http)? };
    check_all(&mut client, &proxy.host())
}

/// One turn: CPU time for each exchange, in the unit of the row.
fn slice(proxy: &Proxy, traffic: Traffic, place: &Place, seconds: u32, report: &mut Report) -> Result<f64> {
    check(proxy, traffic, place)?;
    let processes = proxy.same_processes()?;
    let (busy, cpu) = (core_busy(PROXY_CORE), CpuTime::of(processes)?);
    let begun = std::time::Instant::now();
    let count = load::run(traffic, proxy, place, seconds)?;
    let used = CpuTime::of(processes)?.since(&cpu)?;
    if used == 0 {
        return Err(format!("{count} exchanges without any CPU time; the kernel does not count it").into());
    }
    let busy = core_busy(PROXY_CORE).saturating_sub(busy);
    proxy.same_processes()?;
    report.others(busy.saturating_sub(used) as f64 / begun.elapsed().as_nanos() as f64);
    let nanoseconds = used as f64 / count as f64;
    // Exchanges of 1 MiB: 1024 of them are one GiB.
    Ok(if traffic == Traffic::Large { nanoseconds * 1024.0 / 1e9 } else { nanoseconds / 1000.0 })
}
