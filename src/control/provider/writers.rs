//! Which files somebody has open for writing: what they hold is half of what will be said.
//!
//! Invariant: every file is given up, so that one that stays open for ever, or whose closing nobody told (`truncate(2)`,
//! a queue of events that overflowed), is read at last. Pure: the time is an argument. The watching thread writes and reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file that has content is given up when nothing was written for so long.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Every file is given up when it was open for so long. Until then one that is empty is waited for: its writer was
/// started by a shell that emptied it, and has yet to say its first word.
pub const LONGEST_SAVE: Duration = Duration::from_secs(10);

/// Files that are being written.
#[derive(Default)]
pub struct Writers {
    files: BTreeMap<PathBuf, Save>,
}

struct Save {
    began: Instant,
    until: Instant,
}

impl Writers {
    /// Something was written to this file, or it was emptied or created.
    pub fn wrote(&mut self, path: PathBuf, now: Instant) {
        let save = self.files.entry(path).or_insert(Save { began: now, until: now });
        save.until = (now + LONGEST_PAUSE).min(save.began + LONGEST_SAVE);
    }

    /// The writer is done; or another file, or none, stands at this path now.
    pub fn closed(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// This directory was removed, or has another name now.
    pub fn left(&mut self, directory: &Path) {
        self.files.retain(|path, _| !path.starts_with(directory));
    }

    /// Whether nothing is being written.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Whether this file is being written.
    pub fn hold(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// When a file has to be given up next.
    pub fn next(&self) -> Option<Instant> {
        self.files.values().map(|save| save.until).min()
    }

    /// Gives up what was waited for long enough, and says what.
    pub fn overdue(&mut self, now: Instant, is_empty: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let late = self.files.iter_mut().filter(|(_, save)| save.until <= now);
        let mut given_up = Vec::new();
        for (path, save) in late {
            let longest = save.began + LONGEST_SAVE;
            if now < longest && is_empty(path) {
                save.until = longest;
            } else {
                given_up.push(path.clone());
            }
        }
        given_up.iter().for_each(|path| self.closed(path));
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_waited_for_until_it_closes_pauses_or_takes_too_long() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (a, full, empty) = (Path::new("/folder/a.yaml"), |_: &Path| false, |_: &Path| true);
        let mut writers = Writers::default();
        writers.wrote(a.into(), at(0));
        assert_eq!(writers.overdue(at(1_999), full), Vec::<PathBuf>::new());
        writers.wrote(a.into(), at(1_999));
        assert_eq!(writers.overdue(at(3_998), full), Vec::<PathBuf>::new());
        assert_eq!(writers.next(), Some(at(3_999)));
        assert_eq!(writers.overdue(at(3_999), full), [a]);
        assert!(!writers.hold(a) && writers.is_empty());
        // Emptied, and its writer is silent.
        writers.wrote(a.into(), at(0));
        assert_eq!(writers.overdue(at(2_000), empty), Vec::<PathBuf>::new());
        assert_eq!(writers.next(), Some(at(10_000)));
        assert_eq!(writers.overdue(at(10_000), empty), [a]);
        // Written to all the time.
        (0..100).for_each(|tenth| writers.wrote(a.into(), at(100 * tenth)));
        assert_eq!(writers.overdue(at(10_000), full), [a]);
        writers.wrote(a.into(), at(0));
        writers.closed(a);
        assert_eq!(writers.next(), None);
        writers.wrote(a.into(), at(0));
        writers.left(Path::new("/folder"));
        assert!(writers.is_empty());
    }
}
