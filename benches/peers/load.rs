//! Load on the load core: wrk for HTTP/1.1, h2load for HTTP/2, a part of this program for handshakes. What comes back is
//! how many exchanges were completed, or why the run does not count.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::{LARGE, SMALL};
use crate::client::UPLOAD;
use crate::process::{self, LOAD_CORE};
use crate::proxies::{HOSTS, Place, Proxy};
use crate::scenario::Traffic;
use crate::{Result, proxies};

/// How much longer than asked for a generator may take.
const SLACK: Duration = Duration::from_secs(20);

/// Puts a load on a proxy for so many seconds; the number of completed exchanges.
pub fn run(traffic: Traffic, proxy: &Proxy, place: &Place, seconds: u32) -> Result<u64> {
    let plain = format!("http://{}/", proxy.http);
    match traffic {
        Traffic::H1 => wrk(place, &plain, 64, SMALL, None, seconds),
        Traffic::H1Tls => wrk(place, &format!("https://{}/", proxy.https), 64, SMALL, None, seconds),
        Traffic::H2 => h2load(place, proxy.https, seconds),
        Traffic::Handshake => handshakes(place, proxy.https, seconds),
        Traffic::Large => wrk(place, &format!("{plain}large"), 16, LARGE, None, seconds),
        Traffic::Upload => {
            let script = format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"p\", {UPLOAD})\n");
            wrk(place, &plain, 64, SMALL, Some(&script), seconds)
        }
        Traffic::Hosts => wrk(place, &plain, 64, SMALL, Some(&every_host()), seconds),
    }
}

/// Asks for all hosts in an order that no cache likes: strides of a prime over the list, made before the run.
fn every_host() -> String {
    let name = proxies::host(0).replacen('0', "\" .. n .. \"", 1);
    format!(
        "local requests, at = {{}}, 0\nfunction init()\n  for n = 0, {last} do\n    requests[n] = wrk.format(\"GET\", \
         \"/\", {{ Host = \"{name}\" }})\n  end\nend\nfunction request()\n  at = (at + 7919) % {HOSTS}\n  return \
         requests[at]\nend\n",
        last = HOSTS - 1
    )
}

fn wrk(place: &Place, url: &str, connections: usize, body: usize, script: Option<&str>, seconds: u32) -> Result<u64> {
    let mut arguments = vec!["-t1".to_owned(), format!("-c{connections}"), format!("-d{seconds}s")];
    if let Some(script) = script {
        let file: PathBuf = place.folder().join("wrk.lua");
        fs::write(&file, script)?;
        arguments.extend(["-s".to_owned(), file.display().to_string()]);
    }
    arguments.push(url.to_owned());
    let text = said(place, &place.tools.wrk, &arguments, seconds)?;
    count_of_wrk(&text, body).map_err(|error| format!("wrk: {error}").into())
}

/// Reads what wrk prints: `9123 requests in 1.01s, 12.34MB read`, and lines about errors if there were any.
fn count_of_wrk(text: &str, body: usize) -> Result<u64> {
    if let Some(line) = text.lines().find(|line| line.contains("Socket errors:") || line.contains("Non-2xx")) {
        return Err(line.trim().into());
    }
    let line = text.lines().find(|line| line.contains(" requests in ")).ok_or_else(|| last_line(text))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [count, _, _, _, read, ..] = words[..] else { return Err(line.into()) };
    let count: u64 = count.parse()?;
    if count == 0 {
        return Err("no request was completed".into());
    }
    // The number is rounded to two digits after the point; a body cut short, or an error page, is further off.
    let read = bytes(read).ok_or(line)?;
    if read < 0.99 * body as f64 * count as f64 {
        return Err(format!("{line}: too little for bodies of {body} bytes").into());
    }
    Ok(count)
}

fn bytes(text: &str) -> Option<f64> {
    let unit = [("KB", 10), ("MB", 20), ("GB", 30), ("TB", 40), ("B", 0)];
    let (number, shift) = unit.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    Some(number.parse::<f64>().ok()? * f64::from(1 << (shift / 2)) * f64::from(1 << (shift / 2)))
}

fn h2load(place: &Place, to: SocketAddr, seconds: u32) -> Result<u64> {
    let duration = format!("-D{seconds}");
    let arguments = ["-t1", "-c8", "-m32", &duration, &format!("https://{to}/")].map(str::to_owned);
    let text = said(place, &place.tools.h2load, &arguments, seconds)?;
    count_of_h2load(&text).map_err(|error| format!("h2load: {error}").into())
}

/// Reads what h2load prints about requests, statuses and bytes.
fn count_of_h2load(text: &str) -> Result<u64> {
    let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).ok_or_else(|| last_line(text));
    let (requests, statuses, traffic) = (line("requests:")?, line("status codes:")?, line("traffic:")?);
    let number = |line: &str, word: &str| -> Result<u64> {
        let before = line.find(&format!(" {word}")).map_or("", |at| &line[..at]);
        Ok(before.rsplit([' ', '(']).next().unwrap_or("").parse().map_err(|_| line.to_owned())?)
    };
    let done = number(requests, "succeeded")?;
    for (line, word) in [
        (requests, "failed"),
        (requests, "errored"),
        (requests, "timeout"),
        (statuses, "3xx"),
        (statuses, "4xx"),
        (statuses, "5xx"),
    ] {
        if number(line, word)? != 0 {
            return Err(line.into());
        }
    }
    if done == 0 {
        return Err("no request was completed".into());
    }
    // "traffic: 1.23MB (1234567) total, 12.3KB (12345) headers (space savings 90%), 1.20MB (1230000) data"
    let data = traffic
        .rsplit_once(") data")
        .and_then(|(before, _)| before.rsplit('(').next()?.parse::<u64>().ok())
        .ok_or(traffic)?;
    if data < done * SMALL as u64 {
        return Err(format!("{done} requests, but only {data} bytes of bodies").into());
    }
    Ok(done)
}

fn handshakes(place: &Place, to: SocketAddr, seconds: u32) -> Result<u64> {
    let arguments =
        ["handshakes", &to.to_string(), &place.certificate().display().to_string(), "16", &seconds.to_string()]
            .map(str::to_owned);
    let text = said(place, &std::env::current_exe()?, &arguments, seconds)?;
    match text.trim().parse() {
        Ok(0) => Err("no handshake was completed".into()),
        Ok(count) => Ok(count),
        Err(_) => Err(last_line(&text).into()),
    }
}

fn said(place: &Place, program: &Path, arguments: &[String], seconds: u32) -> Result<String> {
    process::output(LOAD_CORE, program, arguments, &place.openssl(), Duration::from_secs(u64::from(seconds)) + SLACK)
}

fn last_line(text: &str) -> String {
    text.trim().lines().last().unwrap_or("it said nothing").to_owned()
}
