//! A folder of manifests, watched.
//!
//! Invariant: what is published is what the folder last said *completely*. Saves that happen in steps (truncate and
//! write, delete and create, rename over, a swapped symbolic link) are seen as one; a file that a writer holds open is not
//! looked at (see [`writers`](super::writers)); a folder that vanishes changes nothing.
//! Events of the file system only say *when* to look: what is true is always read from the files, and a slow scan finds
//! what events missed. Runs on its own thread; writes to a [`feed`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecursiveMode, Watcher};

use super::catalog::{Catalog, Content};
use super::feed::{self, Batch};
use super::listing::{self, Identity, Stamp};
use super::manifest::{Known, Problem, parse_again};
use super::text::fingerprint;
use super::writers::Writers;
use super::{parallel_map, read_text};
use crate::model::Severity;

/// Quiet time after which a burst of events counts as over when every file in it was closed by its writer or renamed into
/// its place: nothing of these is missing, so only what is saved together is waited for.
const QUIET_WHOLE: Duration = Duration::from_millis(1);
/// The same after a file was taken away, or came without being written: more is likely to follow.
const QUIET_STEPS: Duration = Duration::from_millis(25);
/// The same after events that call for a look at everything: longer than the steps of a swap of folders.
const QUIET: Duration = Duration::from_millis(5);
/// A folder that is written to all the time is looked at this often.
const LONGEST_BURST: Duration = Duration::from_millis(50);
/// How long a file that vanished or became empty is taken for one that is just being saved. With the longest burst it
/// stays below the 200 ms within which every change is promised.
const GRACE: Duration = Duration::from_millis(120);
/// The same for a whole file that lost some of its objects: `cat a > f; cat b >> f` appends at once.
const GRACE_LESS: Duration = Duration::from_millis(5);
/// How often everything is looked at although no event came (network file systems send none; queues overflow).
const SCAN_EVERY: Duration = Duration::from_secs(2);
/// A scan may take at most this share of the time: one part in so many.
const SCAN_SHARE: u32 = 50;
/// A file changed less than this before it was read may change again without its time stamp telling.
const YOUNG: Duration = Duration::from_millis(100);
/// Whether the system tells when a writer closes a file (inotify does). Where it does not, nobody is waited for.
const CLOSING_IS_TOLD: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A watched folder (or single file). Dropping it ends the watch and closes the feed.
pub struct Directory {
    messages: mpsc::Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Event(notify::Result<notify::Event>),
    Rescan,
    Stop,
}

impl Directory {
    /// Starts to watch `root`. It need not exist yet.
    ///
    /// # Errors
    /// When the path is empty or no thread can be started.
    pub fn watch(root: impl Into<PathBuf>) -> std::io::Result<(Self, feed::Receiver)> {
        let (messages, inbox) = mpsc::channel();
        let (sender, receiver) = feed::channel();
        let events = messages.clone();
        // Events carry absolute paths.
        let root = std::path::absolute(root.into())?;
        let thread = std::thread::Builder::new().name("weir-folder".into()).spawn(move || {
            let handler = move |event| {
                // The other end is gone only when the watch is ending.
                let _ = events.send(Message::Event(event));
            };
            let watcher = notify::recommended_watcher(handler)
                .inspect_err(|error| tracing::warn!(%error, "no file events: the folder is looked at every 2 s"))
                .ok()
                .map(|watcher| Box::new(watcher) as Box<dyn Watcher>);
            Watch::new(root, Watches { watcher, ..Watches::default() }, sender).run(&inbox);
        })?;
        Ok((Self { messages, thread: Some(thread) }, receiver))
    }

    /// Looks at everything again, now (SIGHUP).
    pub fn rescan(&self) {
        let _ = self.messages.send(Message::Rescan);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The state of the watching thread.
struct Watch {
    root: PathBuf,
    watches: Watches,
    /// Directories outside the folder, or hidden in it, that hold what links in it point to.
    linked: BTreeSet<PathBuf>,
    files: HashMap<PathBuf, Seen>,
    /// Files that vanished, became empty or hold less, and until when that may be half of a save.
    doubtful: BTreeMap<PathBuf, Doubt>,
    /// Files that are being written, by the path that events name.
    writers: Writers,
    catalog: Catalog,
    /// What is wrong with the folder itself, or with parts of it.
    troubles: Vec<Problem>,
    complete: bool,
    /// What was sent last: `complete`, and all that was wrong.
    told: Option<(bool, Vec<Problem>)>,
    next_scan: Instant,
    sender: feed::Sender,
}

/// What was there when a file was last read.
struct Seen {
    stamp: Stamp,
    /// Of the text; `None` when it could not be read.
    print: Option<u64>,
    /// Whether a change since then must show in the stamp.
    settled: bool,
}

struct Doubt {
    since: Instant,
    until: Instant,
}

/// What a burst of events calls for.
#[derive(Default)]
struct Dirty {
    everything: bool,
    files: BTreeSet<PathBuf>,
    /// Manifests that may be between two steps of a save.
    steps: BTreeSet<PathBuf>,
    /// Watched directories that were removed or renamed: their watch is gone or belongs to another path.
    lost: BTreeSet<PathBuf>,
}

impl Dirty {
    /// How long nothing may happen for the burst to be over.
    fn quiet(&self) -> Duration {
        match (self.everything, self.steps.is_empty()) {
            (_, false) => QUIET_STEPS,
            (true, true) => QUIET,
            (false, true) => QUIET_WHOLE,
        }
    }
}

impl Watch {
    fn new(root: PathBuf, watches: Watches, sender: feed::Sender) -> Self {
        Self {
            root,
            watches,
            linked: BTreeSet::new(),
            files: HashMap::new(),
            doubtful: BTreeMap::new(),
            writers: Writers::default(),
            catalog: Catalog::default(),
            troubles: Vec::new(),
            complete: false,
            told: None,
            next_scan: Instant::now(),
            sender,
        }
    }

    fn run(mut self, inbox: &mpsc::Receiver<Message>) {
        let now = Instant::now();
        self.look(Dirty { everything: true, ..Dirty::default() }, now, now);
        loop {
            let first = inbox.recv_timeout(self.wake().saturating_duration_since(Instant::now()));
            let seen = Instant::now();
            let mut dirty = Dirty::default();
            match first {
                Ok(message) => {
                    if !self.note(&mut dirty, message, seen) || !self.collect(&mut dirty, inbox, seen) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            self.note_time(&mut dirty, now);
            if dirty.everything || !dirty.files.is_empty() {
                self.look(dirty, seen, now);
            }
        }
    }

    /// When something is to be done although nothing happens.
    fn wake(&self) -> Instant {
        let doubts = self.doubtful.values().map(|doubt| doubt.until);
        doubts.chain(self.writers.next()).fold(self.next_scan, Instant::min)
    }

    /// Notes what the time calls for.
    fn note_time(&mut self, dirty: &mut Dirty, now: Instant) {
        dirty.everything |= now >= self.next_scan;
        dirty.files.extend(self.doubtful.iter().filter(|(_, doubt)| doubt.until <= now).map(|(path, _)| path.clone()));
        let empty = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.len() == 0);
        for path in self.writers.overdue(now, empty) {
            self.note_path(dirty, path);
        }
    }

    /// Takes the rest of a burst. `false`: the watch ends.
    fn collect(&mut self, dirty: &mut Dirty, inbox: &mpsc::Receiver<Message>, since: Instant) -> bool {
        // A burst of events that are none of our business is not waited for.
        while dirty.everything || !dirty.files.is_empty() {
            let left = LONGEST_BURST.saturating_sub(since.elapsed());
            match inbox.recv_timeout(dirty.quiet().min(left)) {
                Ok(message) => {
                    if !self.note(dirty, message, Instant::now()) {
                        return false;
                    }
                    if left.is_zero() {
                        return true;
                    }
                }
                Err(_) => return true,
            }
        }
        true
    }

    /// Notes what a message calls for. `false`: the watch ends.
    fn note(&mut self, dirty: &mut Dirty, message: Message, now: Instant) -> bool {
        let event = match message {
            Message::Stop => return false,
            Message::Event(Ok(event)) => event,
            Message::Rescan | Message::Event(Err(_)) => {
                dirty.everything = true;
                return true;
            }
        };
        let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.kind.is_access() && !closed {
            // Our own reading makes these.
            return true;
        }
        dirty.everything |= event.need_rescan();
        let renamed = match event.kind {
            EventKind::Modify(ModifyKind::Name(mode)) => Some(mode),
            _ => None,
        };
        let moved = event.kind.is_remove() || renamed.is_some();
        let attributes = matches!(event.kind, EventKind::Modify(ModifyKind::Metadata(_)));
        for (index, path) in event.paths.into_iter().enumerate() {
            if moved && self.watches.set.contains_key(&path) {
                self.writers.left(&path);
                dirty.everything = true;
                dirty.lost.insert(path);
                continue;
            }
            if self.is_writing(event.kind, &path) {
                dirty.files.remove(&path);
                dirty.steps.remove(&path);
                self.writers.wrote(path, now);
                continue;
            }
            // Of both ends of a renaming the second is the new name.
            let arrived = renamed == Some(RenameMode::To) || (renamed == Some(RenameMode::Both) && index == 1);
            if !attributes {
                self.writers.closed(&path);
                if closed || arrived {
                    dirty.steps.remove(&path);
                } else if path == self.root || self.is_manifest(&path) {
                    dirty.steps.insert(path.clone());
                }
            }
            self.note_path(dirty, path);
        }
        true
    }

    /// Whether this event tells of a writer that will close the file.
    fn is_writing(&self, kind: EventKind, path: &Path) -> bool {
        let wrote = match kind {
            EventKind::Modify(ModifyKind::Data(_)) => true,
            // A new name for what is there already is not closed by anybody. What has content by now was written to, and
            // that event follows.
            EventKind::Create(_) => path.symlink_metadata().is_ok_and(|there| there.is_file() && there.len() == 0),
            _ => false,
        };
        CLOSING_IS_TOLD && wrote && (path == self.root || self.is_linked(path) || self.is_manifest(path))
    }

    fn note_path(&self, dirty: &mut Dirty, path: PathBuf) {
        if self.is_linked(&path) || self.root.starts_with(&path) {
            dirty.everything = true;
        } else if self.is_manifest(&path) {
            dirty.files.insert(path);
        } else if path.starts_with(&self.root) && path.exists() && !path.is_file() {
            // A new directory; `..data` of a ConfigMap volume; a link that points elsewhere now.
            dirty.everything = true;
        }
    }

    /// Whether a link in the folder may point to this.
    fn is_linked(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.linked.contains(parent))
    }

    /// Whether a file of this path is in the folder and read. Events also come from beside the folder, where a directory
    /// is watched for the folder's own sake.
    fn is_manifest(&self, path: &Path) -> bool {
        let Ok(inside) = path.strip_prefix(&self.root) else { return false };
        let hidden = |part: std::path::Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b".");
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        listing::is_manifest(name) && !inside.components().any(hidden)
    }

    // ---- looking -----------------------------------------------------------------------------------------------------

    /// Finds out what is true now, and tells.
    fn look(&mut self, dirty: Dirty, seen: Instant, now: Instant) {
        for path in &dirty.lost {
            self.watches.drop(path);
        }
        let mut candidates = match dirty.everything {
            false => self.stat(&dirty.files),
            true => self.scan(&dirty.files),
        };
        candidates.retain(|(path, stamp)| stamp.is_none() || !self.is_being_written(path));
        let news = self.read(candidates, now);
        let changes = self.catalog.update(news);
        let mut verdicts = self.troubles.clone();
        verdicts.extend(self.catalog.problems());
        let state = (self.complete, verdicts);
        if changes.is_empty() && self.told.as_ref() == Some(&state) {
            return;
        }
        self.log_what_is_new(&state.1);
        self.told = Some(state.clone());
        let (complete, verdicts) = state;
        self.sender.send(Batch { changes, verdicts, complete, seen });
    }

    /// Whether a writer has this file open. It is looked at when that ends, and what was doubted before is old by then.
    fn is_being_written(&mut self, path: &Path) -> bool {
        let writers = &self.writers;
        let target = |path: &Path| path.canonicalize().is_ok_and(|target| writers.hold(&target));
        let held = !writers.is_empty() && (writers.hold(path) || target(path));
        if held {
            self.doubtful.remove(path);
        }
        held
    }

    /// Looks at these files only.
    fn stat(&mut self, files: &BTreeSet<PathBuf>) -> Vec<(PathBuf, Option<Stamp>)> {
        let mut candidates = Vec::with_capacity(files.len());
        for path in files {
            let link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
            match listing::stamp(path) {
                Ok(Some(stamp)) if !link => candidates.push((path.clone(), Some(stamp))),
                // A file that went may have gone with its folder, and a link needs its target watched.
                _ => return self.scan(files),
            }
        }
        candidates
    }

    /// Looks at everything. These files are read even if they look unchanged.
    fn scan(&mut self, forced: &BTreeSet<PathBuf>) -> Vec<(PathBuf, Option<Stamp>)> {
        let began = Instant::now();
        let mut watches = self.watches.renew();
        watches.see_ancestor(&self.root);
        let listing = listing::list(&self.root, &mut |path, identity| watches.see(path, identity));
        if let Ok(listing) = &listing {
            for path in &listing.linked {
                if let Ok(identity) = listing::identity(path) {
                    watches.see(path, identity);
                }
            }
        }
        watches.finish();
        self.next_scan = Instant::now() + SCAN_EVERY.max(began.elapsed() * SCAN_SHARE);
        let listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                self.troubles = vec![self.missing(&error)];
                self.doubtful.clear();
                return Vec::new();
            }
        };
        self.troubles = listing
            .unreadable
            .iter()
            .map(|(path, error)| trouble(path, format!("cannot be read: {error}"), "what it held before stays in use"))
            .collect();
        self.linked = listing.linked;
        self.complete = true;
        let held = |path: &Path| listing.unreadable.iter().any(|(directory, _)| path.starts_with(directory));
        let gone: Vec<_> = self
            .files
            .keys()
            .filter(|path| !listing.files.contains_key(*path) && !held(path))
            .map(|path| (path.clone(), None))
            .collect();
        let unchanged = |path: &Path, stamp: &Stamp| {
            let same = self.files.get(path).is_some_and(|seen| seen.settled && seen.stamp == *stamp);
            same && !forced.contains(path) && !self.doubtful.contains_key(path)
        };
        let there = listing.files.into_iter().filter(|(path, stamp)| !unchanged(path, stamp));
        gone.into_iter().chain(there.map(|(path, stamp)| (path, Some(stamp)))).collect()
    }

    fn missing(&self, error: &std::io::Error) -> Problem {
        let what = match (error.kind(), self.complete) {
            (std::io::ErrorKind::NotFound, false) => "does not exist".to_owned(),
            (std::io::ErrorKind::NotFound, true) => "is gone".to_owned(),
            _ => format!("cannot be read: {error}"),
        };
        let then = if self.complete { "; until then what it last said stays in use" } else { "" };
        trouble(&self.root, what, &format!("put the folder there, it is read at once{then}"))
    }

    /// Reads what may have changed. What vanished or became empty has a little time to come back.
    fn read(&mut self, candidates: Vec<(PathBuf, Option<Stamp>)>, now: Instant) -> Vec<(Arc<Path>, Content)> {
        let jobs: Vec<_> = candidates
            .into_iter()
            .map(|(path, stamp)| {
                let path: Arc<Path> = path.into();
                let known = if stamp.is_some() { self.catalog.known(&path) } else { Known::default() };
                let print = self.files.get(&*path).and_then(|seen| seen.print);
                (path, stamp, known, print)
            })
            .collect();
        let readings =
            parallel_map(&jobs, |(path, stamp, known, print)| read_file(path, stamp.as_ref(), known, *print));
        let mut news = Vec::new();
        for ((path, stamp, ..), reading) in jobs.into_iter().zip(readings) {
            let grace = match &reading {
                Reading::Gone | Reading::Read { empty: true, .. } => Some(GRACE),
                Reading::Read { content: Content::Read(parsed), .. } if self.catalog.loses(&path, parsed) => {
                    Some(GRACE_LESS)
                }
                _ => None,
            };
            if grace.is_some_and(|grace| self.doubt(&path, grace, now)) {
                continue;
            }
            let content = match reading {
                Reading::Gone => {
                    self.files.remove(&*path);
                    news.push((path, Content::Gone));
                    continue;
                }
                Reading::Same => None,
                Reading::Unreadable(why) => Some((None, Content::Unreadable(why))),
                Reading::Read { print, content, .. } => Some((Some(print), content)),
            };
            self.doubtful.remove(&*path);
            let Some(stamp) = stamp else { continue };
            let settled =
                stamp.modified.is_some_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > YOUNG));
            match content {
                None => {
                    if let Some(seen) = self.files.get_mut(&*path) {
                        (seen.stamp, seen.settled) = (stamp, settled);
                    }
                }
                Some((print, content)) => {
                    // What could not be read is looked at again.
                    let settled = settled && print.is_some();
                    self.files.insert(path.to_path_buf(), Seen { stamp, print, settled });
                    news.push((path, content));
                }
            }
        }
        // What is still in doubt after its time is found again by the next scan.
        self.doubtful.retain(|_, doubt| now < doubt.until);
        news
    }

    /// Whether this may be the middle of a save. Called when a file is gone, is empty or holds less.
    fn doubt(&mut self, path: &Path, grace: Duration, now: Instant) -> bool {
        let since = match self.doubtful.get(path) {
            Some(doubt) => doubt.since,
            None if self.catalog.has_objects(path) => now,
            None => return false,
        };
        let until = since + grace;
        if now < until {
            self.doubtful.insert(path.to_owned(), Doubt { since, until });
        } else {
            self.doubtful.remove(path);
        }
        now < until
    }

    fn log_what_is_new(&self, problems: &[Problem]) {
        let before = self.told.as_ref().map(|(_, problems)| problems.as_slice()).unwrap_or_default();
        let before: HashSet<&Problem> = before.iter().collect();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            match problem.severity {
                Severity::Note => tracing::debug!(%problem, "manifest"),
                Severity::Warning => tracing::warn!(%problem, "manifest"),
                Severity::Error => tracing::error!(%problem, "manifest"),
            }
        }
    }
}

fn trouble(path: &Path, text: String, fix: &str) -> Problem {
    Problem {
        file: path.into(),
        line: 0,
        column: 0,
        severity: Severity::Error,
        object: None,
        text,
        fix: fix.to_owned(),
    }
}

enum Reading {
    Gone,
    /// The text is what it was.
    Same,
    Unreadable(String),
    Read {
        print: u64,
        empty: bool,
        content: Content,
    },
}

fn read_file(path: &Arc<Path>, stamp: Option<&Stamp>, known: &Known, print: Option<u64>) -> Reading {
    if stamp.is_none() {
        return Reading::Gone;
    }
    match read_text(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Reading::Gone,
        Err(error) => Reading::Unreadable(format!("cannot be read: {error}")),
        Ok(text) => {
            let now = fingerprint(&text);
            if print == Some(now) {
                return Reading::Same;
            }
            let content = Content::Read(parse_again(path, &text, known));
            Reading::Read { print: now, empty: text.trim().is_empty(), content }
        }
    }
}

// ---- watches ---------------------------------------------------------------------------------------------------------

/// One watch per directory. A recursive watch would not notice that another directory stands at a path now.
#[derive(Default)]
struct Watches {
    watcher: Option<Box<dyn Watcher>>,
    set: BTreeMap<PathBuf, Identity>,
    warned: bool,
}

impl Watches {
    fn drop(&mut self, path: &Path) {
        if self.set.remove(path).is_some()
            && let Some(watcher) = &mut self.watcher
        {
            // It fails when the directory is gone and the system has ended the watch itself.
            let _ = watcher.unwatch(path);
        }
    }

    /// Begins a round in which every directory that still matters is named.
    fn renew(&mut self) -> Round<'_> {
        Round { watches: self, named: BTreeSet::new() }
    }
}

struct Round<'a> {
    watches: &'a mut Watches,
    named: BTreeSet<PathBuf>,
}

impl Round<'_> {
    fn see(&mut self, path: &Path, identity: Identity) {
        self.named.insert(path.to_owned());
        let watches = &mut *self.watches;
        if watches.set.get(path) == Some(&identity) {
            return;
        }
        watches.drop(path);
        let Some(watcher) = &mut watches.watcher else { return };
        match watcher.watch(path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                watches.set.insert(path.to_owned(), identity);
            }
            Err(error) if !watches.warned => {
                watches.warned = true;
                tracing::warn!(%error, path = %path.display(), "no file events from here: it is looked at every 2 s");
            }
            Err(_) => {}
        }
    }

    /// The nearest directory above the folder: it tells when the folder appears, or is swapped.
    fn see_ancestor(&mut self, root: &Path) {
        for path in root.ancestors().skip(1) {
            if let Ok(identity) = listing::identity(path) {
                return self.see(path, identity);
            }
        }
    }

    fn finish(self) {
        let stale: Vec<_> = self.watches.set.keys().filter(|path| !self.named.contains(*path)).cloned().collect();
        for path in stale {
            self.watches.drop(&path);
        }
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
