//! What an idle connection costs: resident memory of the proxy with ten thousand of them, each of which has made one
//! request, less what it had with none. Memory of the kernel (socket buffers) is the same for all and not in it.

use std::thread::sleep;
use std::time::Duration;

use crate::Result;
use crate::measure::resident_kib;
use crate::process::{Helper, LOAD_CORE, file_limit};
use crate::proxies::{Kind, Place, Proxy};
use crate::report::{Report, Row};
use crate::scenario::Scenario;

/// Connections that are held where the system allows as many open files.
const CONNECTIONS: usize = 10_000;

/// Connections that come and go before: code is loaded, pools are filled.
const WARM: usize = 64;

/// How long the proxy has to put its memory in order.
const SETTLE: Duration = Duration::from_secs(2);

/// Measures plain connections and such over TLS, each in a proxy of its own.
pub fn run(place: &Place, report: &mut Report) -> Result<()> {
    // A proxy may keep an open file ready for each connection's way to the backend, so two are needed and some to spare.
    let allowed = file_limit().saturating_sub(1000) / 2;
    let connections = CONNECTIONS.min(allowed as usize);
    if connections < WARM {
        return Err(format!("{} open files are allowed, too few for idle connections", file_limit()).into());
    }
    let title = format!("{connections} idle connections");
    report.explain("Idle connections: measured once, memory of the kernel not counted");
    for tls in [false, true] {
        let with = if tls { ", TLS" } else { "" };
        let mut row = Row::new(&format!("{title}{with}"), "KiB/connection");
        for kind in place.kinds(|kind| Scenario::Idle.suits(kind)) {
            match connection(kind, place, tls, connections) {
                Ok(kib) => row.add(kind, kib),
                Err(error) => report.refuse(&title, kind, &*error),
            }
        }
        report.add(row);
    }
    Ok(())
}

fn connection(kind: Kind, place: &Place, tls: bool, connections: usize) -> Result<f64> {
    let proxy = Proxy::start(kind, place, false)?;
    drop(hold(&proxy, place, tls, WARM)?);
    sleep(SETTLE);
    let before = resident_kib(&proxy.processes());
    let mut held = hold(&proxy, place, tls, connections)?;
    sleep(SETTLE);
    let after = resident_kib(&proxy.processes());
    let alive = held.ask("again")?;
    if alive != connections.to_string() {
        return Err(format!("{alive} of {connections} connections were alive at the end").into());
    }
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

fn hold(proxy: &Proxy, place: &Place, tls: bool, connections: usize) -> Result<Helper> {
    let to = if tls { proxy.https } else { proxy.http };
    let mut arguments = vec!["hold".to_owned(), to.to_string(), connections.to_string()];
    if tls {
        arguments.extend(["--root".to_owned(), place.certificate().display().to_string()]);
    }
    let mut helper = Helper::start(LOAD_CORE, &arguments)?;
    if helper.line()? != connections.to_string() {
        return Err("not all connections could be opened".into());
    }
    Ok(helper)
}
