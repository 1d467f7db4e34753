//! How much of a listing is asked for at once. Pure.
//!
//! A page that does not arrive in time, or whose connection breaks, would not the next time either: an API server that is
//! slow, or far away, is asked for less, and for more again when it answers quickly.

use std::time::Duration;

/// Objects per page, of an API server that is not slow.
const MOST: u32 = 500;
/// A page that took no longer is followed by a larger one.
const QUICK: Duration = Duration::from_secs(5);

/// Pages of a listing.
#[derive(Debug)]
pub struct Pages {
    size: u32,
    /// All at once, because pages became too old while they were read.
    whole: bool,
}

impl Default for Pages {
    fn default() -> Self {
        Self { size: MOST, whole: false }
    }
}

impl Pages {
    /// Objects of the next page; `None`: all.
    pub fn limit(&self) -> Option<u32> {
        (!self.whole).then_some(self.size)
    }

    /// A page has arrived, after so long.
    pub fn took(&mut self, time: Duration) {
        self.whole = false;
        if time <= QUICK {
            self.size = (self.size * 2).min(MOST);
        }
    }

    /// A page has not arrived as a whole. Every further try costs as much time again, so that it is much less at once.
    pub fn late(&mut self) {
        if !std::mem::take(&mut self.whole) {
            self.size = (self.size / 4).max(1);
        }
    }

    /// The next page was gone before it was asked for.
    pub fn too_old(&mut self) {
        self.whole = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_shrink_until_they_arrive_and_grow_again() {
        let mut pages = Pages::default();
        assert_eq!(pages.limit(), Some(500));
        pages.took(Duration::ZERO);
        assert_eq!(pages.limit(), Some(500));
        for smaller in [125, 31] {
            pages.late();
            assert_eq!(pages.limit(), Some(smaller));
        }
        pages.took(QUICK + Duration::from_millis(1));
        assert_eq!(pages.limit(), Some(31), "it arrived, but a larger one might not");
        pages.took(QUICK);
        assert_eq!(pages.limit(), Some(62));
        for _ in 0..20 {
            pages.late();
        }
        assert_eq!(pages.limit(), Some(1));
    }

    #[test]
    fn pages_that_are_too_old_are_asked_for_at_once_but_not_twice_if_that_is_too_much() {
        let mut pages = Pages::default();
        pages.too_old();
        assert_eq!(pages.limit(), None);
        pages.late();
        assert_eq!(pages.limit(), Some(500));
        pages.too_old();
        pages.took(Duration::ZERO);
        assert_eq!(pages.limit(), Some(500));
    }
}
