//! The process clock: monotonic nanoseconds since the process first asked for the time.
//!
//! Everything that is measured uses it; the wall clock may jump, this one does not. Pure cores get its value as an
//! argument and never call it.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the process clock began. Never decreases; wraps after 584 years.
pub fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// The process clock's value at an instant; 0 for instants before it began.
pub fn at(instant: Instant) -> u64 {
    instant.saturating_duration_since(*START).as_nanos() as u64
}

/// What the wall clock showed, or will show, when the process clock shows `now`, judged by both clocks' present values.
pub fn wall(now: u64) -> SystemTime {
    unix_offset().at(now)
}

/// Difference between the wall clock and the process clock, read at one moment.
#[derive(Clone, Copy, Debug)]
pub struct WallOffset {
    zero: SystemTime,
}

impl WallOffset {
    /// Wall-clock time of a value of the process clock.
    pub fn at(self, now: u64) -> SystemTime {
        self.zero + Duration::from_nanos(now)
    }
}

/// Reads both clocks. To be refreshed now and then, because the wall clock may be set.
pub fn unix_offset() -> WallOffset {
    let process = Duration::from_nanos(now());
    let wall = SystemTime::now();
    WallOffset { zero: wall.checked_sub(process).unwrap_or(SystemTime::UNIX_EPOCH) }
}

/// Appends a time as RFC 3339 in UTC with milliseconds: `2026-11-22T00:48:34.120Z`. Times before 1970 are written as 1970.
pub fn write_rfc3339(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    for (value, width, end) in [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (hour, 2, b':'),
        (minute, 2, b':'),
        (second, 2, b'.'),
        (u64::from(since.subsec_millis()), 3, b'Z'),
    ] {
        let mut power = 10_u64.pow(width - 1);
        while power > 0 {
            out.push(b'0' + (value / power % 10) as u8);
            power /= 10;
        }
        out.push(end);
    }
}

/// Year, month and day of the proleptic Gregorian calendar from days since 1970-01-01. Years are counted from March,
/// so that the leap day is a year's last day and the months' lengths follow one line.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days + 719_468;
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(unix_ms: u64) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_clock_never_goes_back() {
        let mut last = now();
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(text(1_704_067_199_999), "2023-12-31T23:59:59.999Z");
        assert_eq!(text(1_709_251_199_000), "2024-02-29T23:59:59.000Z");
        assert_eq!(text(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..146_097 {
            assert_eq!(civil(days), (year, month, day));
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
