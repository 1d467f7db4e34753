//! Names of backends (Services of type ExternalName): when to ask, and what to believe.
//!
//! The schedule is pure; asking happens on blocking threads, off the loop. The last good answer is served for as long as
//! there is no better one: a resolver that is down, or that answers with nothing, takes no backend away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::proxy::snapshot::NameKey;

/// Between two answers and the next question, give or take a fifth.
const INTERVAL: u64 = 5_000_000_000;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name that are used; the rest of a longer answer is left out.
const MOST: usize = 1_024;

/// The names that are wanted and when each is asked for next. Times are nanoseconds of the process clock.
#[derive(Debug, Default)]
pub struct Names {
    names: BTreeMap<NameKey, Asking>,
}

#[derive(Debug)]
struct Asking {
    /// When to ask; `None`: the question is out.
    due: Option<u64>,
    /// Whether any answer, good or bad, has come.
    answered: bool,
    /// The last answer was bad; logged once.
    failing: bool,
}

impl Names {
    /// Replaces the names that are wanted. New ones are due at once.
    pub fn want(&mut self, names: BTreeSet<NameKey>, now: u64) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            self.names.entry(name).or_insert(Asking { due: Some(now), answered: false, failing: false });
        }
    }

    /// The names to ask for now. Each is due again only after its answer.
    pub fn due(&mut self, now: u64) -> Vec<NameKey> {
        let mut due = Vec::new();
        for (name, asking) in &mut self.names {
            if asking.due.is_some_and(|due| due <= now) {
                asking.due = None;
                due.push(name.clone());
            }
        }
        due
    }

    /// Number of names that no answer has come for yet.
    pub fn unanswered(&self) -> usize {
        self.names.values().filter(|asking| !asking.answered).count()
    }

    /// Takes an answer; gives back the addresses to serve if it is a good one. `jitter` is in 0..1.
    pub fn answered(
        &mut self,
        name: &NameKey,
        answer: Result<Vec<IpAddr>, String>,
        now: u64,
        jitter: f64,
    ) -> Option<Vec<IpAddr>> {
        let asking = self.names.get_mut(name)?;
        asking.due = Some(now + (INTERVAL as f64 * (0.8 + 0.4 * jitter)) as u64);
        asking.answered = true;
        let problem = match answer {
            Ok(mut addresses) if !addresses.is_empty() => {
                if std::mem::take(&mut asking.failing) {
                    tracing::info!(name = %name.0, "the name is resolved again");
                }
                // Long answers are often shuffled; the same part of them is used each time.
                addresses.sort();
                addresses.dedup();
                addresses.truncate(MOST);
                return Some(addresses);
            }
            Ok(_) => "the answer is empty".to_owned(),
            Err(problem) => problem,
        };
        if !std::mem::replace(&mut asking.failing, true) {
            tracing::warn!(name = %name.0, %problem, "the name is not resolved; the last good addresses stay");
        }
        None
    }
}

/// Asks the system's resolver.
pub async fn look_up(name: &NameKey) -> Result<Vec<IpAddr>, String> {
    let question = tokio::net::lookup_host((&*name.0, name.1));
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn name(text: &str) -> NameKey {
        (text.into(), 80)
    }

    #[test]
    fn names_are_asked_for_at_once_and_again_after_their_answer() {
        let mut names = Names::default();
        names.want([name("a"), name("b")].into(), 0);
        assert_eq!(names.due(0), [name("a"), name("b")]);
        assert!(names.due(60 * SECOND).is_empty(), "the questions are out");
        let addresses = vec!["127.0.0.1".parse().unwrap()];
        assert_eq!(names.answered(&name("a"), Ok(addresses.clone()), 60 * SECOND, 0.0), Some(addresses.clone()));
        assert_eq!(names.unanswered(), 1);
        assert!(names.due(63 * SECOND).is_empty());
        assert_eq!(names.due(64 * SECOND), [name("a")]);
        names.want([name("b")].into(), 65 * SECOND);
        assert_eq!(names.answered(&name("a"), Ok(addresses), 65 * SECOND, 0.0), None, "nobody wants it any more");
    }

    #[test]
    fn bad_answers_change_nothing_and_do_not_spin() {
        let mut names = Names::default();
        names.want([name("a")].into(), 0);
        let mut asked = 0;
        for now in (0..600).map(|second| second * SECOND) {
            for due in names.due(now) {
                asked += 1;
                let answer = if asked % 2 == 0 { Ok(Vec::new()) } else { Err("SERVFAIL".to_owned()) };
                assert_eq!(names.answered(&due, answer, now, 0.5), None);
            }
        }
        assert_eq!(asked, 120);
    }

    #[test]
    fn long_answer_is_cut_to_the_same_part_each_time() {
        let mut names = Names::default();
        names.want([name("a")].into(), 0);
        let mut addresses: Vec<IpAddr> =
            (0..10_000u32).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()).collect();
        let first = names.answered(&name("a"), Ok(addresses.clone()), 0, 0.5);
        addresses.reverse();
        assert_eq!(names.answered(&name("a"), Ok(addresses), 0, 0.5), first);
        assert_eq!(first.map(|addresses| addresses.len()), Some(MOST));
    }
}
