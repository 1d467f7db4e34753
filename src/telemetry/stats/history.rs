//! The last minute: what the counters grew by over the last 1, 10 and 60 seconds.
//!
//! One reader feeds a reading per second; readings are kept densely for the short windows and every tenth one for the long
//! window, and bucket counts are kept for two readings only, because they are most of the memory.

use std::collections::{BTreeMap, VecDeque};

use super::{Class, ColorTotals, Distribution, EndpointTotals, Slot, Totals};

const SECOND: u64 = 1_000_000_000;
/// Readings kept one by one.
const DENSE: u64 = 12 * SECOND;
/// Between the readings that are kept for longer.
const COARSE: u64 = 10 * SECOND;
/// For how long these are kept.
const KEPT: u64 = 75 * SECOND;

/// Readings of the last minute. Times are the process clock's.
#[derive(Debug, Default)]
pub struct History {
    readings: VecDeque<Reading>,
    /// Bucket counts at two former moments, at least 10 s apart: percentiles are over 10 to 20 s.
    latencies: VecDeque<(u64, BTreeMap<u64, Distribution>)>,
}

#[derive(Debug)]
struct Reading {
    at: u64,
    /// Whether it stays when it is no longer young.
    keep: bool,
    colors: BTreeMap<u64, Sums>,
    endpoints: BTreeMap<u64, Sums>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    area_ns: u64,
    queue_ns: u64,
    started: u64,
    finished: u64,
    latency_ns: u64,
    errors: u64,
}

/// What happened within a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Its true length in seconds; somewhat longer than asked for, shorter after a start.
    pub seconds: f64,
    /// Mean requests in flight. Exact up to what workers publish late.
    pub in_flight: f64,
    /// Mean requests waiting for a place or a connection.
    pub queued: f64,
    /// Requests started per second.
    pub rate: f64,
    /// Failed ones per second (5xx, connect, reset, timeout; of attempts: failed).
    pub errors: f64,
    /// Mean length of the finished ones in seconds; 0 if there was none.
    pub latency: f64,
}

/// What a series did lately.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// The last 1, 10 and 60 seconds; `None` as long as there is nothing to compare with.
    pub windows: [Option<Window>; 3],
    /// Lengths of the requests that finished in the last 10 to 20 seconds. Empty for endpoints.
    pub latency: Distribution,
}

/// Lengths of [`Activity::windows`] in seconds.
pub const WINDOWS: [u64; 3] = [1, 10, 60];

impl History {
    /// Takes a reading in; to be called about once a second. Readings without bucket counts ([`super::Registry::brief`]) do;
    /// see [`History::wants_latencies`].
    pub fn record(&mut self, totals: &Totals) {
        let now = totals.at;
        if self.readings.back().is_some_and(|last| last.at >= now) {
            return;
        }
        if self.wants_latencies(now) {
            let counts = totals.colors.iter().filter(|color| color.flow.finished > 0);
            self.latencies.push_back((now, counts.map(|color| (key(color.slot), color.latency.clone())).collect()));
            if self.latencies.len() > 2 {
                self.latencies.pop_front();
            }
        }
        let keep = self.readings.iter().rev().find(|reading| reading.keep).is_none_or(|last| now - last.at >= COARSE);
        self.readings.push_back(Reading {
            at: now,
            keep,
            // What has never been used is not kept: a series that is missing in a reading counts from zero.
            colors: totals
                .colors
                .iter()
                .filter(|color| color.flow.started > 0)
                .map(|color| (key(color.slot), Sums::of_color(color)))
                .collect(),
            endpoints: totals
                .endpoints
                .iter()
                .filter(|one| one.flow.started > 0)
                .map(|one| (key(one.slot), Sums::of_endpoint(one)))
                .collect(),
        });
        self.readings.retain(|reading| {
            let age = now - reading.at;
            age <= DENSE || reading.keep && age <= KEPT
        });
    }

    /// Whether the next reading should have bucket counts.
    pub fn wants_latencies(&self, now: u64) -> bool {
        self.latencies.back().is_none_or(|(last, _)| now.saturating_sub(*last) >= COARSE)
    }

    /// What a color did until `totals`, which it is from.
    pub fn color(&self, totals: &Totals, color: &ColorTotals) -> Activity {
        let key = key(color.slot);
        let earlier = self.latencies.iter().find(|(at, _)| *at < totals.at);
        Activity {
            windows: self.windows(totals.at, Sums::of_color(color), |reading| reading.colors.get(&key)),
            latency: match earlier.and_then(|(_, counts)| counts.get(&key)) {
                Some(earlier) => color.latency.since(earlier),
                None => color.latency.clone(),
            },
        }
    }

    /// What an endpoint did until `totals`, which it is from.
    pub fn endpoint(&self, totals: &Totals, endpoint: &EndpointTotals) -> Activity {
        let key = key(endpoint.slot);
        let windows = self.windows(totals.at, Sums::of_endpoint(endpoint), |reading| reading.endpoints.get(&key));
        Activity { windows, latency: Distribution::default() }
    }

    fn windows(&self, now: u64, sums: Sums, find: impl Fn(&Reading) -> Option<&Sums>) -> [Option<Window>; 3] {
        WINDOWS.map(|seconds| {
            // The youngest reading that is old enough, or the oldest there is. The window may begin a little early: readings
            // are not taken exactly on the second.
            let from = now.saturating_sub(seconds * SECOND - SECOND / 20);
            let old_enough = self.readings.iter().rev().find(|reading| reading.at <= from);
            let reading = old_enough.or(self.readings.front().filter(|reading| reading.at < now))?;
            // A series that did not exist then has grown from zero.
            let before = find(reading).copied().unwrap_or_default();
            Some(sums.since(&before, now - reading.at))
        })
    }
}

impl Sums {
    fn of_color(color: &ColorTotals) -> Self {
        let failed = [Class::ServerError, Class::Connect, Class::Reset, Class::Timeout];
        Self {
            area_ns: color.area_ns,
            queue_ns: color.queue_ns,
            started: color.flow.started,
            finished: color.flow.finished,
            latency_ns: color.latency.sum_ns,
            errors: failed.map(|class| color.class(class)).iter().sum(),
        }
    }

    fn of_endpoint(endpoint: &EndpointTotals) -> Self {
        Self {
            area_ns: endpoint.area_ns,
            queue_ns: 0,
            started: endpoint.flow.started,
            finished: endpoint.flow.finished,
            latency_ns: endpoint.latency_ns,
            errors: endpoint.errors,
        }
    }

    fn since(&self, before: &Sums, interval: u64) -> Window {
        let seconds = interval as f64 / 1e9;
        let finished = self.finished.wrapping_sub(before.finished);
        let latency_ns = self.latency_ns.wrapping_sub(before.latency_ns);
        Window {
            seconds,
            in_flight: self.area_ns.wrapping_sub(before.area_ns) as f64 / interval as f64,
            queued: self.queue_ns.wrapping_sub(before.queue_ns) as f64 / interval as f64,
            rate: self.started.wrapping_sub(before.started) as f64 / seconds,
            errors: self.errors.wrapping_sub(before.errors) as f64 / seconds,
            latency: if finished == 0 { 0.0 } else { latency_ns as f64 / finished as f64 / 1e9 },
        }
    }
}

/// One number for index and epoch.
fn key(slot: Slot) -> u64 {
    u64::from(slot.index) << 32 | u64::from(slot.epoch)
}

#[cfg(test)]
mod tests {
    use super::super::{ColorLabels, Outcome, Registry};
    use super::*;

    const MS: u64 = SECOND / 1_000;

    #[test]
    fn windows_show_the_load_of_their_time() {
        let registry = Registry::new(1, &[]);
        let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: "".into() };
        let (color, route) = (registry.color(labels.clone()), registry.route("r".into(), labels));
        let (mut shard, mut history) = (registry.shard(0), History::default());
        // Ten requests per second of 200 ms each: two in flight. After a minute forty per second.
        for second in 0..120 {
            let parallel = if second < 60 { 2 } else { 8 };
            for fifth in 0..5 {
                let started = second * SECOND + fifth * 200 * MS;
                for _ in 0..parallel {
                    shard.started(color.slot(), started);
                    let outcome = Outcome {
                        started,
                        first_byte: None,
                        ended: started + 200 * MS,
                        class: if second < 60 { Class::Success } else { Class::Timeout },
                        status: 200,
                        bytes_in: 0,
                        bytes_out: 0,
                    };
                    shard.finished(color.slot(), route.slot(), &outcome);
                }
            }
            let now = (second + 1) * SECOND;
            shard.publish(now);
            let detailed = history.wants_latencies(now);
            history.record(&if detailed { registry.totals(now) } else { registry.brief(now) });
        }
        assert!(history.readings.len() <= 22, "{} readings", history.readings.len());
        let totals = registry.totals(120 * SECOND);
        let activity = history.color(&totals, &totals.colors[0]);
        for (window, seconds) in activity.windows.iter().zip(WINDOWS) {
            let window = window.unwrap();
            assert!(window.seconds >= seconds as f64 - 0.05 && window.seconds <= seconds as f64 + 10.0);
            if seconds < 60 {
                assert!((window.in_flight - 8.0).abs() < 1e-9 && (window.rate - 40.0).abs() < 1e-9, "{window:?}");
                assert!((window.errors - 40.0).abs() < 1e-9 && (window.latency - 0.2).abs() < 1e-9);
            }
        }
        let count = activity.latency.count();
        assert!((400..=800).contains(&count), "{count} requests in 10 to 20 s of 40 per second");
    }

    #[test]
    fn a_reading_alone_says_nothing_about_rates() {
        let registry = Registry::new(1, &[]);
        let labels = ColorLabels { namespace: "shop".into(), service: "web".into(), port: 80, color: "".into() };
        let _color = registry.color(labels);
        let (mut history, totals) = (History::default(), registry.totals(SECOND));
        history.record(&totals);
        assert_eq!(history.color(&totals, &totals.colors[0]).windows, [None; 3]);
    }
}
