//! All streams by socket and host, and who wins where two ask for the same connections: the oldest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Item, Translator};
use crate::model::{Bind, HostPattern, ObjectRef, Severity, Stream, Verdict};

/// The streams of one host by age of their routes.
type Candidates = BTreeMap<(i64, ObjectRef), Stream>;

/// Every candidate, winner or not.
#[derive(Default)]
pub(super) struct Streams {
    candidates: BTreeMap<Bind, BTreeMap<HostPattern, Candidates>>,
    changed: BTreeMap<Bind, BTreeSet<HostPattern>>,
}

impl Streams {
    /// Takes the streams of an object of this age out and puts its new ones in.
    pub fn exchange(&mut self, before: (i64, &[(Bind, Stream)]), now: (i64, &[(Bind, Stream)])) {
        if before == now {
            return;
        }
        for (bind, stream) in before.1 {
            let hosts = self.candidates.entry(*bind).or_default();
            if let Some(candidates) = hosts.get_mut(&stream.host) {
                candidates.remove(&(before.0, stream.rule.source.clone()));
                if candidates.is_empty() {
                    hosts.remove(&stream.host);
                }
            }
            self.changed.entry(*bind).or_default().insert(stream.host.clone());
        }
        for (bind, stream) in now.1 {
            let candidates = self.candidates.entry(*bind).or_default().entry(stream.host.clone()).or_default();
            candidates.insert((now.0, stream.rule.source.clone()), stream.clone());
            self.changed.entry(*bind).or_default().insert(stream.host.clone());
        }
    }

    /// The sockets at which something changed since the last call, with the hosts.
    pub fn take_changed(&mut self) -> BTreeMap<Bind, BTreeSet<HostPattern>> {
        std::mem::take(&mut self.changed)
    }

    /// The streams of a socket: the oldest of each host.
    pub fn winners(&mut self, bind: Bind) -> Arc<Vec<Stream>> {
        let Some(hosts) = self.candidates.get(&bind) else { return Arc::default() };
        let winners: Vec<Stream> =
            hosts.values().filter_map(|candidates| candidates.values().next()).cloned().collect();
        if winners.is_empty() {
            self.candidates.remove(&bind);
        }
        Arc::new(winners)
    }

    /// What the owners of the others are told.
    pub fn conflicts(&self, bind: Bind, host: &HostPattern) -> Vec<Verdict> {
        let Some(candidates) = self.candidates.get(&bind).and_then(|hosts| hosts.get(host)) else { return Vec::new() };
        let mut in_order = candidates.iter();
        let Some(((age, winner), _)) = in_order.next() else { return Vec::new() };
        let tell = |((created, source), _): (&(i64, ObjectRef), &Stream)| {
            let why = if created == age { "comes first by name" } else { "is older" };
            let whose = match host {
                HostPattern::Any => "connections".to_owned(),
                named => format!("connections for {named}"),
            };
            Verdict {
                object: source.clone(),
                severity: Severity::Warning,
                reason: "Conflict",
                field: "spec.parentRefs".to_owned(),
                problem: format!("{whose} at {bind} already go to {winner}, which {why}"),
                fix: "name another listener, or remove one of the two".to_owned(),
            }
        };
        in_order.map(tell).collect()
    }
}

impl Translator {
    /// Sockets at which a stream came or went.
    pub(super) fn settle_streams(&mut self) {
        for (bind, hosts) in self.streams.take_changed() {
            let winners = self.streams.winners(bind);
            self.model.entries.entry(bind).or_default().streams = winners;
            for host in hosts {
                let verdicts = self.streams.conflicts(bind, &host);
                self.tell(Item::Stream(bind, host), verdicts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ObjectName, RouteTimeouts, Rule, StreamMode};

    fn stream(name: &str, host: HostPattern) -> (Bind, Stream) {
        let source = ObjectRef::new("TCPRoute", ObjectName::new("shop", name));
        let rule = Rule {
            source,
            name: name.into(),
            filters: Vec::new(),
            backends: Vec::new(),
            timeouts: RouteTimeouts::default(),
            retry: None,
        };
        (Bind::Port(9000), Stream { host, mode: StreamMode::Passthrough, rule: Arc::new(rule) })
    }

    fn winner(streams: &mut Streams) -> Option<String> {
        let winners = streams.winners(Bind::Port(9000));
        assert!(winners.len() <= 1);
        winners.first().map(|stream| stream.rule.name.to_string())
    }

    #[test]
    fn oldest_route_has_the_socket_and_the_next_one_inherits_it() {
        let mut streams = Streams::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| [stream(name, HostPattern::Any)]);
        streams.exchange((0, &[]), (2, &a));
        streams.exchange((0, &[]), (1, &c));
        streams.exchange((0, &[]), (1, &b));
        assert_eq!(winner(&mut streams).as_deref(), Some("b"));
        let told = streams.conflicts(Bind::Port(9000), &HostPattern::Any);
        let told: Vec<_> = told.iter().map(|verdict| (&*verdict.object.name.name, verdict.problem.as_str())).collect();
        assert_eq!(told[0].0, "c");
        assert!(told[0].1.ends_with("already go to TCPRoute shop/b, which comes first by name"), "{told:?}");
        assert!(told[1].0 == "a" && told[1].1.ends_with("which is older"), "{told:?}");

        streams.exchange((1, &b), (0, &[]));
        assert_eq!(winner(&mut streams).as_deref(), Some("c"));
        streams.exchange((1, &c), (3, &c));
        assert_eq!(winner(&mut streams).as_deref(), Some("a"));
        streams.exchange((2, &a), (0, &[]));
        streams.exchange((3, &c), (0, &[]));
        assert_eq!(winner(&mut streams), None);
        assert!(streams.conflicts(Bind::Port(9000), &HostPattern::Any).is_empty());
        assert!(streams.candidates.is_empty());
    }

    #[test]
    fn hosts_of_one_socket_are_settled_by_themselves() {
        let mut streams = Streams::default();
        let named = |name: &str| HostPattern::Exact(name.into());
        streams.exchange((0, &[]), (1, &[stream("a", named("a.test"))]));
        streams.exchange((0, &[]), (2, &[stream("b", named("a.test")), stream("b", named("b.test"))]));
        let winners = streams.winners(Bind::Port(9000));
        let shown: Vec<_> = winners.iter().map(|it| format!("{} {}", it.host, it.rule.name)).collect();
        assert_eq!(shown, ["a.test a", "b.test b"]);
        assert_eq!(streams.conflicts(Bind::Port(9000), &named("a.test")).len(), 1);
        assert!(streams.conflicts(Bind::Port(9000), &named("b.test")).is_empty());
    }
}
