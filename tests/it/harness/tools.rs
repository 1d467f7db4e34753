//! Programs of others: curl, h2load, openssl, nginx. A missing one fails the test and says how to get it.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Runs a program with input on its standard input; fails if it is missing or takes more than a minute.
pub async fn run(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {program}: {error}. {}", hint(program)));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = tokio::spawn(async move {
        // A program that ends without reading all of its input is not an error of the input.
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{program} {arguments:?} did not end within a minute"))
        .unwrap();
    feeding.abort();
    output
}

fn hint(program: &str) -> String {
    let package = match program {
        "h2load" => "nghttp2-client",
        other => other,
    };
    format!("This test needs it: apt-get install {package} (tests/run does that)")
}

/// curl; returns its standard output, fails if curl fails.
pub async fn curl(arguments: &[&str]) -> String {
    let mut all = vec!["--silent", "--show-error", "--max-time", "30"];
    all.extend_from_slice(arguments);
    let output = run("curl", &all, b"").await;
    assert!(
        output.status.success(),
        "curl {arguments:?}: {}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What h2load counted.
#[derive(Debug, PartialEq, Eq)]
pub struct H2load {
    pub total: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub errored: u64,
    pub timeout: u64,
    pub status_2xx: u64,
}

/// h2load; returns its counts.
pub async fn h2load(arguments: &[&str]) -> H2load {
    let output = run("h2load", arguments, b"").await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_h2load(&text).unwrap_or_else(|| panic!("h2load said: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn parse_h2load(text: &str) -> Option<H2load> {
    let number = |line: &str, word: &str| -> Option<u64> {
        let before = line.split(&format!(" {word}")).next()?;
        before.rsplit([' ', ',']).next()?.parse().ok()
    };
    let requests = text.lines().find(|line| line.starts_with("requests:"))?;
    let statuses = text.lines().find(|line| line.starts_with("status codes:"))?;
    Some(H2load {
        total: number(requests, "total")?,
        succeeded: number(requests, "succeeded")?,
        failed: number(requests, "failed")?,
        errored: number(requests, "errored")?,
        timeout: number(requests, "timeout")?,
        status_2xx: number(statuses, "2xx")?,
    })
}

#[test]
fn a_summary_of_h2load_is_read() {
    let text = "finished in 9.79ms, 10217.63 req/s\nrequests: 100 total, 100 started, 100 done, 98 succeeded, 2 failed, \
                1 errored, 0 timeout\nstatus codes: 98 2xx, 0 3xx, 1 4xx, 0 5xx\n";
    let expected = H2load { total: 100, succeeded: 98, failed: 2, errored: 1, timeout: 0, status_2xx: 98 };
    assert_eq!(parse_h2load(text), Some(expected));
}
