//! Durations counted in log-linear buckets.
//!
//! Four buckets per power of two between 8 µs and 137 s give percentiles within a few percent; the bounds of the classic
//! Prometheus histogram are bucket bounds too, so that what `/metrics` says about them is exact and not interpolated.
//! A bucket holds durations above its lower bound up to and including its upper bound, as Prometheus' `le` does.

/// Upper bounds of the classic histogram, nanoseconds: 1 ms to 60 s.
pub const CLASSIC_NS: [u64; 15] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// The first power of two with its own four buckets; below it four buckets share the range evenly.
const FIRST_POWER: u32 = 13;
/// Durations above two to this power share the last bucket.
const LAST_POWER: u32 = 37;
/// Log-linear buckets, the last one open.
const PLAIN: usize = 4 * (1 + (LAST_POWER - FIRST_POWER) as usize) + 1;
/// Buckets, the last one open.
pub const BUCKETS: usize = PLAIN + CLASSIC_NS.len();

/// How often each bucket was hit.
pub type Counts = [u64; BUCKETS];

/// The bucket of a duration.
#[inline]
pub fn bucket(nanoseconds: u64) -> usize {
    // One less, so that a duration that equals an upper bound is still below it.
    let value = nanoseconds.saturating_sub(1);
    let plain = plain(value);
    BASE[plain] as usize + usize::from(value >= SPLIT[plain])
}

/// Upper bound of a bucket in nanoseconds; `u64::MAX` for the last.
pub fn upper(bucket: usize) -> u64 {
    UPPER[bucket]
}

#[inline]
const fn plain(value: u64) -> usize {
    if value < 1 << FIRST_POWER {
        return (value >> (FIRST_POWER - 2)) as usize;
    }
    let power = 63 - value.leading_zeros();
    if power >= LAST_POWER {
        return PLAIN - 1;
    }
    4 * (power - FIRST_POWER + 1) as usize + ((value >> (power - 2)) & 3) as usize
}

const fn plain_upper(plain: usize) -> u64 {
    if plain == PLAIN - 1 {
        return u64::MAX;
    }
    let (group, part) = (plain / 4, plain as u64 % 4);
    if group == 0 { (part + 1) << (FIRST_POWER - 2) } else { (part + 5) << (FIRST_POWER as usize - 3 + group) }
}

/// Where a log-linear bucket is divided by a classic bound; `u64::MAX`: nowhere.
static SPLIT: [u64; PLAIN] = {
    let mut split = [u64::MAX; PLAIN];
    let mut at = 0;
    while at < CLASSIC_NS.len() {
        let index = plain(CLASSIC_NS[at] - 1);
        assert!(split[index] == u64::MAX, "two classic bounds in one bucket");
        assert!(plain_upper(index) != CLASSIC_NS[at], "a classic bound is a log-linear one already");
        split[index] = CLASSIC_NS[at];
        at += 1;
    }
    split
};

/// Number of the first bucket that a log-linear bucket became.
static BASE: [u8; PLAIN] = {
    let mut base = [0; PLAIN];
    let mut next = 0;
    let mut at = 0;
    while at < PLAIN {
        base[at] = next;
        next += if SPLIT[at] == u64::MAX { 1 } else { 2 };
        at += 1;
    }
    assert!(next as usize == BUCKETS);
    base
};

static UPPER: [u64; BUCKETS] = {
    let mut upper = [0; BUCKETS];
    let mut at = 0;
    while at < PLAIN {
        let base = BASE[at] as usize;
        if SPLIT[at] == u64::MAX {
            upper[base] = plain_upper(at);
        } else {
            upper[base] = SPLIT[at];
            upper[base + 1] = plain_upper(at);
        }
        at += 1;
    }
    upper
};

/// Durations as a reader sees them: counts by bucket and their sum.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// Sum of the durations in nanoseconds, modulo 2^64.
    pub sum_ns: u64,
    /// `None` as long as nothing was counted.
    counts: Option<Box<Counts>>,
}

impl Distribution {
    /// Adds another one's durations.
    pub fn add(&mut self, sum_ns: u64, counts: Option<&Counts>) {
        self.sum_ns = self.sum_ns.wrapping_add(sum_ns);
        let Some(counts) = counts else { return };
        let own = self.counts.get_or_insert_with(|| Box::new([0; BUCKETS]));
        for (own, more) in own.iter_mut().zip(counts) {
            *own += more;
        }
    }

    /// Adds all of another distribution.
    pub fn merge(&mut self, other: &Distribution) {
        self.add(other.sum_ns, other.counts.as_deref());
    }

    /// Number of durations.
    pub fn count(&self) -> u64 {
        self.counts.as_ref().map_or(0, |counts| counts.iter().sum())
    }

    /// Durations up to each bound of [`CLASSIC_NS`], cumulative. Exact.
    pub fn classic(&self) -> [u64; CLASSIC_NS.len()] {
        let mut cumulative = [0; CLASSIC_NS.len()];
        let Some(counts) = &self.counts else { return cumulative };
        let (mut sum, mut next) = (0, 0);
        for (bucket, count) in counts.iter().enumerate() {
            sum += count;
            if next < CLASSIC_NS.len() && UPPER[bucket] == CLASSIC_NS[next] {
                cumulative[next] = sum;
                next += 1;
            }
        }
        cumulative
    }

    /// What was counted since `earlier`, a former state of the same distribution. If it is not one, all of `self`.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let (Some(now), Some(then)) = (&self.counts, &earlier.counts) else { return self.clone() };
        if now.iter().zip(then.iter()).any(|(now, then)| now < then) {
            return self.clone();
        }
        let mut counts = now.clone();
        for (count, then) in counts.iter_mut().zip(then.iter()) {
            *count -= then;
        }
        Distribution { sum_ns: self.sum_ns.wrapping_sub(earlier.sum_ns), counts: Some(counts) }
    }

    /// The duration in nanoseconds that this share (0.0 to 1.0) of all durations does not exceed, interpolated within its
    /// bucket; `None` if nothing was counted. Durations beyond the last bound count as that bound.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let counts = self.counts.as_ref()?;
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        let mut lower = 0.0;
        for (bucket, count) in counts.iter().enumerate() {
            let (count, upper) = (*count as f64, UPPER[bucket] as f64);
            if count > 0.0 && below + count >= rank {
                let open = UPPER[bucket] == u64::MAX;
                return Some(if open { lower } else { lower + (upper - lower) * ((rank - below) / count).max(0.0) });
            }
            below += count;
            lower = upper;
        }
        Some(UPPER[BUCKETS - 2] as f64)
    }

    /// Mean in nanoseconds; `None` if nothing was counted.
    pub fn mean(&self) -> Option<f64> {
        match self.count() {
            0 => None,
            count => Some(self.sum_ns as f64 / count as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(durations: &[u64]) -> Distribution {
        let mut counts = [0; BUCKETS];
        for duration in durations {
            counts[bucket(*duration)] += 1;
        }
        let mut all = Distribution::default();
        all.add(durations.iter().sum(), Some(&counts));
        all
    }

    #[test]
    fn bounds_rise_and_every_duration_lies_within_its_bucket() {
        assert!(UPPER.windows(2).all(|pair| pair[0] < pair[1]));
        let mut random = fastrand::Rng::with_seed(7);
        let edges = UPPER.iter().flat_map(|upper| [upper - 1, *upper, upper.saturating_add(1)]);
        let anything = std::iter::repeat_with(|| random.u64(..) >> random.u32(0..64)).take(100_000);
        for duration in edges.chain(anything).chain([0, 1]) {
            let index = bucket(duration);
            assert!(duration <= upper(index), "{duration} is above bucket {index}");
            assert!(index == 0 || duration > upper(index - 1), "{duration} is below bucket {index}");
        }
    }

    #[test]
    fn classic_bounds_are_exact() {
        let mut random = fastrand::Rng::with_seed(11);
        let durations: Vec<u64> = (0..20_000)
            .map(|_| random.u64(1..) >> random.u32(20..60))
            .chain(CLASSIC_NS)
            .chain(CLASSIC_NS.map(|bound| bound + 1))
            .collect();
        let expected = CLASSIC_NS.map(|bound| durations.iter().filter(|duration| **duration <= bound).count() as u64);
        assert_eq!(of(&durations).classic(), expected);
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut durations: Vec<u64> = (0..50_000).map(|_| (1e6 * (-random.f64().ln()) * 20.0) as u64 + 1).collect();
        let distribution = of(&durations);
        durations.sort_unstable();
        for share in [0.01, 0.5, 0.9, 0.95, 0.99, 0.999] {
            let truth = durations[(share * durations.len() as f64) as usize] as f64;
            let said = distribution.quantile(share).unwrap();
            assert!((said / truth - 1.0).abs() < 0.10, "{share}: {said} instead of {truth}");
        }
        assert_eq!(distribution.count(), 50_000);
        assert_eq!(Distribution::default().quantile(0.5), None);
    }

    #[test]
    fn the_difference_of_two_states_is_what_came_between() {
        let (mut early, late) = (of(&[5, 1_000_000]), of(&[2_000_000, 3_000_000]));
        let first = early.clone();
        early.merge(&late);
        let between = early.since(&first);
        assert_eq!((between.count(), between.sum_ns), (2, 5_000_000));
        assert_eq!(between.classic(), late.classic());
        assert_eq!(first.since(&early).count(), 2, "a distribution that was reset counts from zero");
    }
}
