//! Weir's HTTP/1.1 engine against hyper's, as an oracle that was written by others: what both accept they must
//! understand alike, and where only one accepts there must be a judgement (`judged`).
//!
//! `WEIR_ORACLE_SEED` is the seed of the first case, the following ones count up; `WEIR_ORACLE_CASES` is their number.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod facts;
mod generate;
mod judged;
mod ours;
mod theirs;
mod transcript;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;

use facts::Facts;
use generate::Case;
use judged::Judged;
use tokio::runtime::{Builder, Runtime};
use transcript::{Disagreement, End, Transcript, compare};

/// Cases of each kind, unless told otherwise.
const CASES: u64 = 40_000;

/// Which way messages go.
#[derive(Clone, Copy)]
enum Way {
    Requests,
    Responses,
}

impl Way {
    /// The rows, each with its example.
    fn judged(self) -> Vec<(&'static Judged, String)> {
        let (rows, head) = match self {
            Way::Requests => (judged::REQUESTS, "POST / HTTP/1.1\r\nHost: a\r\n"),
            Way::Responses => (judged::RESPONSES, "HTTP/1.1 200 OK\r\n"),
        };
        let whole = rows.iter().map(|row| (row, row.example.to_owned()));
        let body = |row: &'static Judged| (row, format!("{head}Transfer-Encoding: chunked\r\n\r\n{}", row.example));
        whole.chain(judged::BODIES.iter().map(body)).collect()
    }

    fn generate(self, seed: u64) -> Case {
        match self {
            Way::Requests => generate::requests(seed),
            Way::Responses => generate::response(seed),
        }
    }

    fn read(self, runtime: &Runtime, case: &Case) -> (Transcript, Transcript) {
        runtime.block_on(async {
            match self {
                Way::Requests => {
                    (ours::requests(&case.bytes, case.cut).await, theirs::requests(&case.bytes, case.cut).await)
                }
                Way::Responses => (
                    ours::response(&case.bytes, case.to_head).await,
                    theirs::response(&case.bytes, case.cut, case.to_head).await,
                ),
            }
        })
    }
}

#[test]
fn requests_that_both_accept_mean_the_same() {
    hold(Way::Requests);
}

#[test]
fn responses_that_both_accept_mean_the_same() {
    hold(Way::Responses);
}

#[test]
fn every_judged_disagreement_still_exists() {
    let runtime = runtime();
    for way in [Way::Requests, Way::Responses] {
        for (row, example) in way.judged() {
            let stream = example.replace("{long}", &"a".repeat(5000)).replace("{wide}", &"a".repeat(40_000));
            let case = Case { bytes: stream.into_bytes(), cut: 0, to_head: false };
            let found = disagreement(way, &runtime, &case);
            let Some(found) = found else { panic!("no disagreement any more: {}", row.why) };
            let judges: Vec<_> = judges(way, &case, &found).iter().map(|judge| judge.why).collect();
            assert_eq!(judges, [row.why], "{found:?} about {example:?}");
        }
    }
}

fn hold(way: Way) {
    let first = number("WEIR_ORACLE_SEED").unwrap_or(1);
    let cases = number("WEIR_ORACLE_CASES").unwrap_or(CASES);
    let runtime = runtime();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut alike, mut accepted) = (0u64, 0u64);
    for seed in first..first.saturating_add(cases) {
        let case = way.generate(seed);
        let (ours, theirs) = way.read(&runtime, &case);
        let Some(found) = compare(&ours, &theirs) else {
            alike += 1;
            accepted += u64::from(ours.messages.iter().any(|message| message.end == End::Complete));
            continue;
        };
        match judges(way, &case, &found).first() {
            Some(judge) => *counts.entry(judge.why).or_insert(0) += 1,
            None => fail(way, &runtime, seed, case),
        }
    }
    let mut report =
        format!("{cases} cases from seed {first}: {alike} alike, {accepted} of them with a whole message\n");
    for (row, _) in way.judged() {
        writeln!(report, "{:7} {:?}: {}", counts.get(row.why).unwrap_or(&0), row.kind, row.why).unwrap();
    }
    println!("{report}");
    // A generator that only makes what both refuse would find nothing.
    assert!(cases < 1000 || accepted * 5 > cases, "{report}");
}

fn fail(way: Way, runtime: &Runtime, seed: u64, case: Case) -> ! {
    let case = shrink(way, runtime, case);
    let (ours, theirs) = way.read(runtime, &case);
    let found = compare(&ours, &theirs).unwrap();
    panic!(
        "nobody has judged this: message {}, {:?}: {}\nseed {seed} (WEIR_ORACLE_SEED={seed} WEIR_ORACLE_CASES=1), made smaller, cut at {}{}:\n{}\nWeir: {}\nhyper: {}",
        found.index,
        found.kind,
        found.what,
        case.cut,
        if case.to_head { ", to a HEAD request" } else { "" },
        case.bytes.escape_ascii().to_string().replace("\\r\\n", "\\r\\n\n"),
        ours.summary(),
        theirs.summary(),
    );
}

/// Leaves out what is not needed for a disagreement that nobody has judged.
fn shrink(way: Way, runtime: &Runtime, mut case: Case) -> Case {
    let mut size = case.bytes.len();
    while size > 0 {
        let mut at = 0;
        while at < case.bytes.len() {
            let mut bytes = case.bytes.clone();
            bytes.drain(at..(at + size).min(bytes.len()));
            let smaller = Case { cut: case.cut.min(bytes.len()), to_head: case.to_head, bytes };
            let found = disagreement(way, runtime, &smaller);
            if found.is_some_and(|found| judges(way, &smaller, &found).is_empty()) {
                case = smaller;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    case
}

fn disagreement(way: Way, runtime: &Runtime, case: &Case) -> Option<Disagreement> {
    let (ours, theirs) = way.read(runtime, case);
    compare(&ours, &theirs)
}

/// The rows that explain this disagreement.
fn judges(way: Way, case: &Case, found: &Disagreement) -> Vec<&'static Judged> {
    let mut stream = &case.bytes[..];
    let mut facts = vec![Facts::of(stream, 0)];
    loop {
        let (last, before) = (&facts[facts.len() - 1], facts.len());
        let is_it = match way {
            Way::Requests => before > found.index,
            Way::Responses => !matches!(last.status(), 100 | 102..200),
        };
        if is_it || last.length() > stream.len() {
            break;
        }
        stream = &stream[last.length()..];
        facts.push(Facts::of(stream, before));
    }
    // The requests before it were no matter of dispute; interim responses may be what it is about.
    let about = match way {
        Way::Requests => &facts[facts.len() - 1..],
        Way::Responses => &facts[..],
    };
    let rows = way.judged().into_iter().map(|(row, _)| row);
    rows.filter(|row| row.kind == found.kind && about.iter().any(row.holds)).collect()
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text:?}")))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}
