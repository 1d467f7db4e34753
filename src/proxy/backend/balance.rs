//! Who is picked: peak EWMA over two choices, round robin, Maglev; slow start; what to do when nobody is well.
//!
//! Pure: time and randomness are arguments, load is read from atomics. A pick allocates nothing and, as long as most
//! endpoints are usable, looks at a handful of them however many there are.
//!
//! Whom a request may get, best first:
//!
//! 1. a *usable* (ready, healthy, not ejected) endpoint that the request has not tried yet,
//! 2. a usable one that it has tried,
//! 3. a usable one among those that terminate but still serve, untried first,
//! 4. any ready endpoint, untried first: when all of them look bad at once it is more likely that the check is wrong, or
//!    that the trouble is shared, than that refusing everything helps (Envoy's panic routing has the same reason),
//! 5. any terminating endpoint.
//!
//! Endpoints that are not ready are never picked. The answer is `None` only if none is ready or terminating.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::endpoint::{Endpoint, EndpointSet};
use crate::model::Balance;

/// Random draws before the list is searched: with half of the endpoints unusable (the most that ejection takes), one
/// pick in 256 has to search.
const DRAWS: usize = 8;

impl EndpointSet {
    /// Picks the endpoint for a request.
    ///
    /// `hash` is the hash of the request's [`crate::model::HashKey`] (see [`hash_of`]); a request without it is balanced
    /// by load. `tried` are the endpoints that earlier attempts of this request went to.
    pub fn pick(
        &self,
        how: &Balance,
        hash: Option<u64>,
        tried: &[Arc<Endpoint>],
        rng: &mut fastrand::Rng,
        now: u64,
    ) -> Option<&Arc<Endpoint>> {
        let pick = Pick { set: self, tried, now };
        let best = match (how, hash) {
            (Balance::RoundRobin, _) => pick.round_robin(rng),
            (Balance::Hash(_), Some(hash)) => pick.hashed(hash),
            (Balance::PeakEwma | Balance::Hash(_), _) => pick.less_loaded(rng),
        };
        best.or_else(|| pick.last_resort(rng)).map(|index| self.member(index))
    }
}

/// One pick. Its indices are those of the set's members.
struct Pick<'a> {
    set: &'a EndpointSet,
    tried: &'a [Arc<Endpoint>],
    now: u64,
}

impl Pick<'_> {
    fn is_usable(&self, index: u32) -> bool {
        self.set.member(index).is_usable(self.now)
    }

    fn is_new(&self, index: u32) -> bool {
        let endpoint = self.set.member(index);
        !self.tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
    }

    fn is_best(&self, index: u32) -> bool {
        self.is_usable(index) && self.is_new(index)
    }

    /// Whether a starting endpoint takes this request, so that it gets its share.
    fn takes(&self, index: u32, rng: &mut fastrand::Rng) -> bool {
        let share = self.set.member(index).share(self.set.slow_start, self.now);
        share >= 1.0 || rng.f64() < share
    }

    /// The less loaded of two random endpoints (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing").
    /// A starting endpoint that wins hands over to the loser as often as its share demands.
    fn less_loaded(&self, rng: &mut fastrand::Rng) -> Option<u32> {
        if let [only] = *self.set.ready {
            return self.is_best(only).then_some(only);
        }
        let first = self.draw(None, rng)?;
        let Some(second) = self.draw(Some(first), rng) else { return Some(first) };
        let load = |index| self.set.member(index).load(self.now);
        let (winner, loser) = if load(second) < load(first) { (second, first) } else { (first, second) };
        Some(if self.takes(winner, rng) { winner } else { loser })
    }

    /// A random best endpoint other than `not`.
    fn draw(&self, not: Option<u32>, rng: &mut fastrand::Rng) -> Option<u32> {
        let ready = &*self.set.ready;
        if ready.is_empty() {
            return None;
        }
        let wanted = |index: u32| Some(index) != not && self.is_best(index);
        for _ in 0..DRAWS {
            let index = ready[rng.usize(..ready.len())];
            if wanted(index) {
                return Some(index);
            }
        }
        search(ready, rng.usize(..ready.len()), wanted)
    }

    fn round_robin(&self, rng: &mut fastrand::Rng) -> Option<u32> {
        let ready = &*self.set.ready;
        let mut first = None;
        for _ in 0..ready.len() {
            let turn = self.set.turn.fetch_add(1, Ordering::Relaxed) as usize;
            let index = ready[turn % ready.len()];
            if self.is_best(index) {
                if self.takes(index, rng) {
                    return Some(index);
                }
                first = first.or(Some(index));
            }
        }
        first
    }

    /// The endpoint of the table's entry, else of the next entries. Slow start has no say here: a key's place matters
    /// more.
    fn hashed(&self, hash: u64) -> Option<u32> {
        const STEPS: usize = 64;
        let (ready, maglev) = (&*self.set.ready, self.set.maglev.as_ref()?);
        let walk = maglev.walk(hash).take(STEPS).map(|at| ready[at]).find(|index| self.is_best(*index));
        walk.or_else(|| search(ready, maglev.walk(hash).next()?, |index| self.is_best(index)))
    }

    /// Steps 2 to 5 of the list above.
    fn last_resort(&self, rng: &mut fastrand::Rng) -> Option<u32> {
        let random = |list: &[u32], rng: &mut fastrand::Rng| if list.is_empty() { 0 } else { rng.usize(..list.len()) };
        let (ready, terminating) = (&*self.set.ready, &*self.set.terminating);
        let (a, b) = (random(ready, rng), random(terminating, rng));
        search(ready, a, |index| self.is_usable(index))
            .or_else(|| search(terminating, b, |index| self.is_best(index)))
            .or_else(|| search(terminating, b, |index| self.is_usable(index)))
            .or_else(|| search(ready, a, |index| self.is_new(index)))
            .or_else(|| search(ready, a, |_| true))
            .or_else(|| search(terminating, b, |index| self.is_new(index)))
            .or_else(|| search(terminating, b, |_| true))
    }
}

/// The first wanted element, from `start` once around.
fn search(list: &[u32], start: usize, wanted: impl Fn(u32) -> bool) -> Option<u32> {
    let (head, tail) = list.split_at(start.min(list.len()));
    tail.iter().chain(head).copied().find(|index| wanted(*index))
}

/// The lookup table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016),
/// section 3.4: every endpoint owns nearly the same number of entries, and when one comes or goes few entries change
/// their owner. Two replicas with the same endpoints have the same table.
#[derive(Debug)]
pub struct Maglev {
    /// Positions in the list the table was made from; empty when that was empty.
    table: Box<[u16]>,
}

impl Maglev {
    /// Sizes are prime. The paper wants 100 entries for each endpoint; there are only two sizes because crossing from
    /// one to the other moves every key.
    const SMALL: usize = 4_099;
    const LARGE: usize = 65_537;

    /// Fills the table. Endpoints beyond 65,535 get no entries.
    pub fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        let hashes: Vec<(u64, u64)> = addresses.take(usize::from(u16::MAX)).map(address_hashes).collect();
        if hashes.is_empty() {
            return Self { table: Box::default() };
        }
        let size = if hashes.len() <= Self::SMALL / 100 { Self::SMALL } else { Self::LARGE };
        // Each endpoint's permutation of the entries: where it stands, and how far its steps are.
        let mut permutations: Vec<(usize, usize)> =
            hashes.iter().map(|(a, b)| ((a % size as u64) as usize, (b % (size as u64 - 1)) as usize + 1)).collect();
        const FREE: u16 = u16::MAX;
        let mut table = vec![FREE; size].into_boxed_slice();
        let mut filled = 0;
        loop {
            for (owner, (at, skip)) in permutations.iter_mut().enumerate() {
                while table[*at] != FREE {
                    *at = (*at + *skip) % size;
                }
                table[*at] = owner as u16;
                filled += 1;
                if filled == size {
                    return Self { table };
                }
            }
        }
    }

    /// Positions for this hash, best first, for ever; empty for an empty table.
    fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = if self.table.is_empty() { 0 } else { (hash % self.table.len() as u64) as usize };
        self.table[start..].iter().chain(&self.table[..start]).map(|position| usize::from(*position))
    }
}

fn address_hashes(address: SocketAddr) -> (u64, u64) {
    let mut bytes = [0; 18];
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    let first = hash_of(&bytes);
    (first, mix(first ^ 0x9e37_79b9_7f4a_7c15))
}

/// The hash of a balancing key: FNV-1a with a final mix. Not keyed, on purpose: every replica, version and restart must
/// send a key to the same endpoint. A client that chooses its keys can only choose its endpoint.
pub fn hash_of(key: &[u8]) -> u64 {
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    mix(hash)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::model::{Condition, HashKey};
    use crate::proxy::backend::endpoint::tests::{SECOND, backend, endpoint_at, endpoints, set_of};

    fn by_header() -> Balance {
        Balance::Hash(HashKey::Header("x-user".into()))
    }

    /// Picks per endpoint, in the order of the members.
    fn counts(set: &EndpointSet, how: &Balance, picks: usize, now: u64) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts: BTreeMap<SocketAddr, usize> = set.members.iter().map(|(e, _)| (e.address, 0)).collect();
        for pick in 0..picks {
            let hash = Some(hash_of(&pick.to_le_bytes()));
            let picked = set.pick(how, hash, &[], &mut rng, now).unwrap();
            *counts.get_mut(&picked.address).unwrap() += 1;
        }
        counts.into_values().collect()
    }

    fn measured(count: u16) -> Vec<Arc<Endpoint>> {
        let list = endpoints(count);
        list.iter().for_each(|endpoint| endpoint.latency.observe(1_000_000, 0));
        list
    }

    #[test]
    fn every_way_spreads_evenly_over_equal_endpoints() {
        for how in [Balance::PeakEwma, Balance::RoundRobin, by_header()] {
            let mut backend = backend();
            backend.balance = how.clone();
            let counts = counts(&set_of(&measured(10), &backend), &how, 20_000, 0);
            assert!(counts.iter().all(|count| (1_800..2_200).contains(count)), "{how:?}: {counts:?}");
        }
    }

    #[test]
    fn round_robin_takes_turns_and_keeps_its_turn_over_a_change_of_the_set() {
        let list = measured(3);
        let backend = backend();
        let set = set_of(&list, &backend);
        assert_eq!(counts(&set, &Balance::RoundRobin, 31, 0), [11, 10, 10]);
        let members = list.iter().map(|e| (Arc::clone(e), Condition::Ready)).collect();
        let next = EndpointSet::new(members, Some(&set), &backend, 0);
        assert_eq!(counts(&next, &Balance::RoundRobin, 1, 0), [0, 1, 0]);
    }

    #[test]
    fn less_loaded_of_two_is_preferred() {
        let list = measured(10);
        list[3].latency.observe(100_000_000, 0);
        list[4].in_flight.store(50, Ordering::Relaxed);
        let counts = counts(&set_of(&list, &backend()), &Balance::PeakEwma, 20_000, 0);
        // They win only against each other.
        assert!(counts[3] < 20 && counts[4] < 500, "{counts:?}");
        assert!(counts[0] > 2_000, "{counts:?}");
    }

    #[test]
    fn seeded_load_stays_balanced_while_one_endpoint_is_ten_times_slower() {
        // A closed loop: 40 requests always in flight, one of five endpoints takes 10 ms, the others 1 ms.
        let list = endpoints(5);
        let set = set_of(&list, &backend());
        let mut rng = fastrand::Rng::with_seed(3);
        let mut running: BTreeMap<(u64, u32), Arc<Endpoint>> = BTreeMap::new();
        let mut done = BTreeMap::new();
        let mut now = 0;
        for number in 0..20_000u32 {
            if running.len() == 40 {
                let ((end, _), endpoint) = running.pop_first().unwrap();
                now = end;
                endpoint.in_flight.fetch_sub(1, Ordering::Relaxed);
                let took = if Arc::ptr_eq(&endpoint, &list[0]) { 10_000_000 } else { 1_000_000 };
                endpoint.latency.observe(took, now);
                *done.entry(endpoint.address).or_insert(0) += 1;
            }
            let endpoint = Arc::clone(set.pick(&Balance::PeakEwma, None, &[], &mut rng, now).unwrap());
            endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
            let took = if Arc::ptr_eq(&endpoint, &list[0]) { 10_000_000 } else { 1_000_000 };
            running.insert((now + took, number), endpoint);
        }
        let slow = done[&list[0].address];
        let fast: Vec<i32> = list[1..].iter().map(|e| done[&e.address]).collect();
        assert!(slow < fast[0] / 5, "{slow} of {fast:?}");
        assert!(fast.iter().all(|count| (4_000..6_000).contains(count)), "{fast:?}");
    }

    #[test]
    fn removal_moves_few_keys_between_the_others() {
        let mut backend = backend();
        backend.balance = by_header();
        for count in [5u16, 30, 100] {
            let list = endpoints(count);
            let (all, fewer) = (set_of(&list, &backend), set_of(&list[1..], &backend));
            let mut rng = fastrand::Rng::with_seed(1);
            let keys = 20_000u64;
            let mut moved = 0;
            for key in 0..keys {
                let hash = Some(hash_of(&key.to_le_bytes()));
                let a = all.pick(&backend.balance, hash, &[], &mut rng, 0).unwrap();
                let b = fewer.pick(&backend.balance, hash, &[], &mut rng, 0).unwrap();
                moved += u64::from(!Arc::ptr_eq(a, b));
            }
            // The keys of the removed endpoint (1/N) must move; the others nearly all stay.
            assert!(moved >= keys / u64::from(count) * 8 / 10, "{count}: {moved}");
            assert!(moved < 2 * keys / u64::from(count), "{count}: {moved}");
        }
    }

    #[test]
    fn key_stays_while_its_endpoint_is_usable_and_comes_back_to_it() {
        let mut backend = backend();
        backend.balance = by_header();
        let set = set_of(&endpoints(7), &backend);
        let mut rng = fastrand::Rng::with_seed(1);
        let hash = Some(hash_of(b"anna"));
        let mut pick = |tried: &[Arc<Endpoint>]| Arc::clone(set.pick(&by_header(), hash, tried, &mut rng, 0).unwrap());
        let home = pick(&[]);
        home.set_healthy(false, 0);
        let away = pick(&[]);
        assert!(!Arc::ptr_eq(&home, &away) && Arc::ptr_eq(&away, &pick(&[])));
        home.set_healthy(true, 0);
        assert!(Arc::ptr_eq(&home, &pick(&[])));
        assert!(Arc::ptr_eq(&away, &pick(&[home])), "a retry goes where the key would go without its endpoint");
    }

    #[test]
    fn maglev_entries_are_shared_within_a_few_percent() {
        for count in [1u16, 2, 40, 41, 600] {
            let maglev = Maglev::new(endpoints(count).iter().map(|endpoint| endpoint.address));
            let mut owned = vec![0usize; usize::from(count)];
            maglev.table.iter().for_each(|owner| owned[usize::from(*owner)] += 1);
            let (least, most) = (owned.iter().min().unwrap(), owned.iter().max().unwrap());
            assert!(most - least <= 1 + most / 50, "{count}: {least}..{most}");
        }
    }

    #[test]
    fn tried_endpoint_is_avoided_unless_there_is_no_other() {
        let list = measured(3);
        let mut backend = backend();
        backend.balance = by_header();
        let set = set_of(&list, &backend);
        for how in [Balance::PeakEwma, Balance::RoundRobin, by_header()] {
            let mut rng = fastrand::Rng::with_seed(1);
            for key in 0u8..200 {
                let hash = Some(hash_of(&[key]));
                let tried = &list[..2];
                assert!(Arc::ptr_eq(set.pick(&how, hash, tried, &mut rng, 0).unwrap(), &list[2]), "{how:?}");
            }
            assert!(set.pick(&how, None, &list, &mut rng, 0).is_some());
        }
        list[1].set_healthy(false, 0);
        list[2].set_healthy(false, 0);
        let mut rng = fastrand::Rng::with_seed(1);
        let again = set.pick(&Balance::PeakEwma, None, &list[..1], &mut rng, 0).unwrap();
        assert!(Arc::ptr_eq(again, &list[0]), "the only usable one, although it was tried");
    }

    #[test]
    fn unusable_endpoints_are_skipped_until_none_is_left() {
        let list = measured(20);
        list[..18].iter().for_each(|endpoint| endpoint.set_healthy(false, 0));
        let mut backend = backend();
        backend.balance = by_header();
        let set = set_of(&list, &backend);
        for how in [Balance::PeakEwma, Balance::RoundRobin, by_header()] {
            let counts = counts(&set, &how, 2_000, 0);
            assert!(counts[..18].iter().all(|count| *count == 0), "{how:?}: {counts:?}");
            assert!(counts[18] > 500 && counts[19] > 500, "{how:?}: {counts:?}");
        }
        assert_eq!((set.usable(0), set.ready(), set.total()), (2, 20, 20));
        list.iter().for_each(|endpoint| endpoint.set_healthy(false, 0));
        let counts = counts(&set, &Balance::PeakEwma, 2_000, 0);
        assert!(counts.iter().all(|count| *count > 50), "all ready ones are used rather than none: {counts:?}");
    }

    #[test]
    fn terminating_endpoint_serves_only_when_no_ready_one_can_and_not_ready_never() {
        let list = measured(3);
        let conditions = [Condition::NotReady, Condition::Terminating, Condition::Ready];
        let members: Vec<_> = list.iter().cloned().zip(conditions).collect();
        let set = EndpointSet::new(members.clone(), None, &backend(), 0);
        assert_eq!(counts(&set, &Balance::PeakEwma, 100, 0), [0, 0, 100]);
        list[2].set_healthy(false, 0);
        assert_eq!(counts(&set, &Balance::PeakEwma, 100, 0), [0, 100, 0]);
        list[1].set_healthy(false, 0);
        assert_eq!(counts(&set, &Balance::PeakEwma, 100, 0), [0, 0, 100]);
        let going = EndpointSet::new(members[..2].to_vec(), None, &backend(), 0);
        assert_eq!(counts(&going, &Balance::RoundRobin, 100, 0), [0, 100]);
        let gone = EndpointSet::new(members[..1].to_vec(), None, &backend(), 0);
        assert!(gone.pick(&by_header(), Some(1), &[], &mut fastrand::Rng::with_seed(1), 0).is_none());
        assert!(EndpointSet::default().pick(&Balance::PeakEwma, None, &[], &mut fastrand::Rng::new(), 0).is_none());
    }

    #[test]
    fn starting_endpoint_gets_a_growing_share() {
        let mut backend = backend();
        backend.slow_start = Duration::from_secs(100);
        let mut list = measured(4);
        let new = endpoint_at("10.9.0.1:80".parse().unwrap(), 1_000 * SECOND);
        new.latency.observe(1_000_000, 0);
        list.push(new);
        let set = set_of(&list, &backend);
        for how in [Balance::PeakEwma, Balance::RoundRobin] {
            for (age, share) in [(0, 0.1), (50, 0.55), (100, 1.0)] {
                let counts = counts(&set, &how, 40_000, (1_000 + age) * SECOND);
                let others = counts[..4].iter().sum::<usize>() as f64 / 4.0;
                let got = counts[4] as f64 / others;
                assert!((got - share).abs() < 0.07, "{how:?} after {age} s: {got} of a whole share: {counts:?}");
            }
        }
    }
}
