//! Names of backends (Services of type ExternalName): when to ask, and what to believe.
//!
//! The schedule is pure; asking happens on blocking threads, off the loop. The last good answer is served for as long as
//! there is no better one: a resolver that is down, or that answers with nothing, takes no backend away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::translate::is_local;
use crate::proxy::snapshot::NameKey;

/// Between two answers and the next question, give or take a fifth.
const INTERVAL: u64 = 5_000_000_000;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses of one name that are used; the rest of a longer answer is left out.
const MOST: usize = 1_024;

/// The names that are wanted and when each is asked for next. Times are nanoseconds of the process clock.
#[derive(Debug)]
pub struct Names {
    names: BTreeMap<NameKey, Asking>,
    /// Whether a name may lead to addresses that [`is_local`]; the same as for what is written as an address.
    local: bool,
}

#[derive(Debug)]
struct Asking {
    /// When to ask; `None`: the question is out.
    due: Option<u64>,
    /// Whether any answer, good or bad, has come.
    answered: bool,
    /// The last answer was bad; logged once.
    failing: bool,
    /// Addresses of the last answer that are not used, sorted; logged when they change.
    refused: Vec<IpAddr>,
}

impl Names {
    /// No names. `local` says whether they may lead to addresses that [`is_local`].
    pub fn new(local: bool) -> Self {
        Self { names: BTreeMap::new(), local }
    }

    /// Replaces the names that are wanted. New ones are due at once.
    pub fn want(&mut self, names: BTreeSet<NameKey>, now: u64) {
        self.names.retain(|name, _| names.contains(name));
        for name in names {
            let new = Asking { due: Some(now), answered: false, failing: false, refused: Vec::new() };
            self.names.entry(name).or_insert(new);
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
        let answer = answer.map(|addresses| if self.local { addresses } else { asking.without_local(name, addresses) });
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
            Ok(_) if !asking.refused.is_empty() => "no address of the answer may be used".to_owned(),
            Ok(_) => "the answer is empty".to_owned(),
            Err(problem) => problem,
        };
        if !std::mem::replace(&mut asking.failing, true) {
            tracing::warn!(name = %name.0, %problem, "the name is not resolved; the last good addresses stay");
        }
        None
    }
}

impl Asking {
    /// Whoever answers for a name must not reach what is meant for this machine alone.
    fn without_local(&mut self, name: &NameKey, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let (mut refused, used): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(|it| is_local(*it));
        refused.sort();
        refused.dedup();
        if refused != self.refused {
            if !refused.is_empty() {
                tracing::warn!(
                    name = %name.0,
                    addresses = ?refused,
                    "LocalEndpoint: the name leads to addresses of the machine itself or of its link, which are not used; \
                     name a host elsewhere in spec.externalName"
                );
            }
            self.refused = refused;
        }
        used
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
        let mut names = Names::new(true);
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
        let mut names = Names::new(true);
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
        let mut names = Names::new(true);
        names.want([name("a")].into(), 0);
        let mut addresses: Vec<IpAddr> =
            (0..10_000u32).map(|bits| std::net::Ipv4Addr::from_bits(bits).into()).collect();
        let first = names.answered(&name("a"), Ok(addresses.clone()), 0, 0.5);
        addresses.reverse();
        assert_eq!(names.answered(&name("a"), Ok(addresses), 0, 0.5), first);
        assert_eq!(first.map(|addresses| addresses.len()), Some(MOST));
    }

    #[test]
    fn addresses_of_the_machine_itself_are_not_believed_where_others_write_the_names() {
        let addresses = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let local = ["127.0.0.53", "::1", "0.0.0.0", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "ff02::1"];
        for (allowed, answer, used) in [
            (false, &["203.0.113.1", "127.0.0.1", "169.254.169.254"][..], Some(&["203.0.113.1"][..])),
            (false, &local, None),
            (false, &["10.0.0.1", "fd00::1"], Some(&["10.0.0.1", "fd00::1"])),
            (true, &["127.0.0.1", "203.0.113.1"], Some(&["127.0.0.1", "203.0.113.1"])),
        ] {
            let mut names = Names::new(allowed);
            names.want([name("a")].into(), 0);
            assert_eq!(names.answered(&name("a"), Ok(addresses(answer)), 0, 0.5), used.map(addresses), "{answer:?}");
            assert_eq!((names.unanswered(), names.due(10 * SECOND).len()), (0, 1));
        }
    }
}
