//! Latency where there is room: a fixed rate that loads a worker to a small part, sent whatever the answers do.

use std::time::Duration;

use crate::Result;
use crate::client::check_small;
use crate::process::{self, LOAD_CORE};
use crate::proxies::{Kind, Place, Proxy};
use crate::report::{Report, Row};
use crate::scenario::Scenario;

/// Requests a second, and the connections they are spread over.
const RATE: u32 = 5000;
const CONNECTIONS: usize = 64;

/// Measures turns of so many seconds.
pub fn run(place: &Place, rounds: u32, seconds: u32, report: &mut Report) -> Result<()> {
    let title = Scenario::Latency.title();
    let mut rows = ["p50", "p99", "p99.9"].map(|name| Row::new(&format!("{title}: {name}"), "µs"));
    report.explain(&format!("Latency: turns of {seconds} s, an open loop, counted from when a request was due"));
    let mut running = Vec::new();
    for kind in place.kinds(|kind| Scenario::Latency.suits(kind)) {
        match Proxy::start(kind, place, false) {
            Ok(proxy) => running.push(proxy),
            Err(error) => report.refuse(title, kind, &*error),
        }
    }
    for round in 0..rounds as usize {
        let turns = running.len();
        let mut refused: Vec<Kind> = Vec::new();
        for turn in 0..turns {
            let proxy = &running[(turn + round) % turns];
            match slice(proxy, place, seconds) {
                Ok(values) => rows.iter_mut().zip(values).for_each(|(row, value)| row.add(proxy.kind, value)),
                Err(error) => {
                    report.refuse(title, proxy.kind, &*error);
                    refused.push(proxy.kind);
                }
            }
        }
        for row in &mut rows {
            refused.iter().for_each(|kind| row.remove(*kind));
        }
        running.retain(|proxy| !refused.contains(&proxy.kind));
    }
    rows.into_iter().for_each(|row| report.add(row));
    Ok(())
}

/// p50, p99 and p99.9 of one turn, in microseconds.
fn slice(proxy: &Proxy, place: &Place, seconds: u32) -> Result<[f64; 3]> {
    check_small(proxy.http, &proxy.host())?;
    let arguments =
        ["pace", &proxy.http.to_string(), &CONNECTIONS.to_string(), &RATE.to_string(), &seconds.to_string()]
            .map(str::to_owned);
    let at_most = Duration::from_secs(u64::from(seconds) + 20);
    let text = process::output(LOAD_CORE, &std::env::current_exe()?, &arguments, &place.openssl(), at_most)?;
    let numbers: Vec<f64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    <[f64; 3]>::try_from(numbers).map_err(|_| text.trim().to_owned().into())
}
