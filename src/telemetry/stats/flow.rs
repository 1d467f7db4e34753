//! Exact mean concurrency from four sums, without sampling.
//!
//! With `S` the sum of all start times and `E` the sum of all end times, the area under the curve of requests in flight is
//! `I(t) = E + (started - finished) * t - S`: every finished request adds its length, every running one its age. All
//! arithmetic is modulo 2^64, so sums may wrap; only differences of areas are meaningful, and those are exact as long as
//! one area grows by less than 2^64 ns between two readings (584 years of one request).

/// Starts and ends of requests. Times are nanoseconds of the process clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flow {
    /// How many have started.
    pub started: u64,
    /// How many are over.
    pub finished: u64,
    /// Sum of all start times, modulo 2^64.
    pub starts: u64,
    /// Sum of all end times, modulo 2^64.
    pub ends: u64,
}

impl Flow {
    /// One starts.
    #[inline]
    pub fn start(&mut self, now: u64) {
        self.started = self.started.wrapping_add(1);
        self.starts = self.starts.wrapping_add(now);
    }

    /// One is over.
    #[inline]
    pub fn end(&mut self, now: u64) {
        self.finished = self.finished.wrapping_add(1);
        self.ends = self.ends.wrapping_add(now);
    }

    /// Adds the sums of another shard. Only whole flows may be added: a start counted here may end there.
    pub fn add(&mut self, other: &Flow) {
        self.started = self.started.wrapping_add(other.started);
        self.finished = self.finished.wrapping_add(other.finished);
        self.starts = self.starts.wrapping_add(other.starts);
        self.ends = self.ends.wrapping_add(other.ends);
    }

    /// Area under the requests in flight up to `now`, in nanoseconds, modulo 2^64.
    pub fn area(&self, now: u64) -> u64 {
        let running = self.started.wrapping_sub(self.finished);
        self.ends.wrapping_add(running.wrapping_mul(now)).wrapping_sub(self.starts)
    }

    /// Requests in flight. An end that was published before its start counts as nothing, not as less than nothing.
    pub fn in_flight(&self) -> u64 {
        (self.started.wrapping_sub(self.finished) as i64).max(0) as u64
    }
}

/// The three terms of Little's law, `L = λ W` (J. D. C. Little, 1961), over one interval: a self-test of the statistics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Little {
    /// Mean requests in flight, from the areas.
    pub in_flight: f64,
    /// Requests finished per second.
    pub rate: f64,
    /// Mean length of the requests that finished, seconds.
    pub latency: f64,
}

impl Little {
    /// From the growth of area, finished requests and latency sum over `interval` nanoseconds; `None` for an empty one.
    pub fn over(interval: u64, area_ns: u64, finished: u64, latency_ns: u64) -> Option<Self> {
        if interval == 0 {
            return None;
        }
        let seconds = interval as f64 / 1e9;
        Some(Self {
            in_flight: area_ns as f64 / interval as f64,
            rate: finished as f64 / seconds,
            latency: if finished == 0 { 0.0 } else { latency_ns as f64 / finished as f64 / 1e9 },
        })
    }

    /// How far the law is from holding, in requests; vanishes in a steady state and whenever the interval begins and ends
    /// without a request in flight.
    pub fn gap(&self) -> f64 {
        (self.in_flight - self.rate * self.latency).abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_is_the_brute_force_integral_of_requests_in_flight() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            // A clock near its end wraps, and so do the sums.
            let clock = |t: u64| if seed % 2 == 0 { t } else { (u64::MAX - 500).wrapping_add(t) };
            let requests: Vec<(u64, Option<u64>)> = (0..random.usize(1..60))
                .map(|_| {
                    let start = random.u64(0..1_000);
                    (start, random.bool().then(|| random.u64(start..=1_000)))
                })
                .collect();
            // Starts and ends fall on different shards.
            let mut shards = [Flow::default(); 3];
            for (start, end) in &requests {
                shards[random.usize(0..3)].start(clock(*start));
                if let Some(end) = end {
                    shards[random.usize(0..3)].end(clock(*end));
                }
            }
            let mut all = Flow::default();
            shards.iter().for_each(|shard| all.add(shard));
            let running =
                |t: u64| requests.iter().filter(|(start, end)| *start <= t && end.is_none_or(|end| t < end)).count();
            let brute: u64 = (0..1_000).map(|t| running(t) as u64).sum();
            assert_eq!(all.area(clock(1_000)), brute, "seed {seed}");
        }
    }

    #[test]
    fn littles_law_holds_when_nothing_is_left_in_flight() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut flow, mut latency) = (Flow::default(), 0);
        for _ in 0..1_000 {
            let start = random.u64(0..9_000_000_000);
            let length = random.u64(0..1_000_000_000);
            flow.start(start);
            flow.end(start + length);
            latency += length;
        }
        let interval = 10_000_000_000;
        let little = Little::over(interval, flow.area(interval), flow.finished, latency).unwrap();
        assert!(little.gap() < 1e-9 && little.in_flight > 10.0);
    }

    #[test]
    fn an_end_seen_before_its_start_is_no_negative_load() {
        let mut flow = Flow::default();
        flow.end(5);
        assert_eq!(flow.in_flight(), 0);
    }
}
