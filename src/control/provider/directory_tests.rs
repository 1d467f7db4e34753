use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;

use notify::Event;
use notify::event::{CreateKind, DataChange, MetadataKind, RemoveKind};
use tempfile::TempDir;

use super::*;
use crate::control::translate::Change;

/// Far beyond what is promised: a test that reaches it has failed.
const DEADLINE: Duration = Duration::from_secs(10);

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - port: {port}\n")
}

struct Folder {
    _home: TempDir,
    path: PathBuf,
    runtime: tokio::runtime::Runtime,
    directory: Option<Directory>,
    receiver: Option<feed::Receiver>,
}

impl Folder {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("manifests");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { _home: home, path, runtime, directory: None, receiver: None }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self::new();
        fs::create_dir(&folder.path).unwrap();
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
    }

    fn watch(&mut self) -> &mut Self {
        let (directory, receiver) = Directory::watch(&self.path).unwrap();
        (self.directory, self.receiver) = (Some(directory), Some(receiver));
        self
    }

    fn next(&mut self) -> Batch {
        let receiver = self.receiver.as_mut().unwrap();
        self.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, receiver.recv()).await.expect("a batch in time").expect("the watch goes on")
        })
    }

    /// Waits for the batch that has changes.
    fn changes(&mut self) -> Vec<String> {
        loop {
            let batch = self.next();
            if !batch.changes.is_empty() {
                return shown(&batch);
            }
        }
    }

    /// Waits for a batch with an error that contains this; changes on the way would be a failure.
    fn error(&mut self, part: &str) -> Batch {
        loop {
            let batch = self.next();
            assert_eq!(shown(&batch), Vec::<String>::new());
            if batch.verdicts.iter().any(|problem| problem.to_string().contains(part)) {
                return batch;
            }
        }
    }
}

fn shown(batch: &Batch) -> Vec<String> {
    let mut all: Vec<String> = batch
        .changes
        .iter()
        .map(|change| match change {
            Change::Put(crate::control::translate::Object::Service(service)) => {
                let port = service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port;
                format!("+{}:{port}", service.metadata.name.as_ref().unwrap())
            }
            Change::Put(other) => format!("+{}", other.reference()),
            Change::Remove(reference) => format!("-{}", reference.name.name),
        })
        .collect();
    all.sort();
    all
}

const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

/// A watch that is told what happens, and when.
struct ByHand {
    watch: Watch,
    folder: Folder,
    start: Instant,
}

impl ByHand {
    /// It has read what is there.
    fn new(mut folder: Folder) -> Self {
        let (sender, receiver) = feed::channel();
        folder.receiver = Some(receiver);
        let watch = Watch::new(folder.path.clone(), Watches::default(), sender);
        let mut new = Self { watch, folder, start: Instant::now() };
        assert_ne!(new.rescan(0), Vec::<String>::new());
        new
    }

    /// What these events change, so many milliseconds after the start.
    fn after(&mut self, millis: u64, events: &[(EventKind, &Path)]) -> Vec<String> {
        let event = |(kind, path): &(EventKind, &Path)| Message::Event(Ok(Event::new(*kind).add_path((*path).into())));
        self.tell(millis, events.iter().map(event).collect())
    }

    fn rescan(&mut self, millis: u64) -> Vec<String> {
        self.tell(millis, vec![Message::Rescan])
    }

    fn tell(&mut self, millis: u64, messages: Vec<Message>) -> Vec<String> {
        let now = self.start + Duration::from_millis(millis);
        let mut dirty = Dirty::default();
        for message in messages {
            assert!(self.watch.note(&mut dirty, message, now));
        }
        self.watch.note_time(&mut dirty, now);
        self.watch.look(dirty, now, now);
        // A scan goes by the real time.
        self.watch.next_scan = now + SCAN_EVERY;
        assert!(self.watch.wake() > now, "it would not rest");
        let receiver = self.folder.receiver.as_mut().unwrap();
        // What is there is received without waiting.
        let batch = self.folder.runtime.block_on(async { tokio::time::timeout(Duration::ZERO, receiver.recv()).await });
        batch.ok().flatten().map(|batch| shown(&batch)).unwrap_or_default()
    }
}

const NOTHING: [&str; 0] = [];

fn both(port: u16) -> String {
    format!("{}---\n{}", service("a", port), service("z", port))
}

#[test]
fn a_file_that_is_open_keeps_what_it_said_and_others_do_not_wait() {
    let mut hand = ByHand::new(Folder::with(&[("a.yaml", &both(1)), ("b.yaml", &service("b", 1))]));
    let (a, b) = (hand.folder.at("a.yaml"), hand.folder.at("b.yaml"));
    let mut writer = File::create(&a).unwrap();
    assert_eq!(hand.after(10, &[(WRITTEN, &a)]), NOTHING);
    hand.folder.write("b.yaml", &service("b", 2));
    assert_eq!(hand.after(30, &[(WRITTEN, &b), (CLOSED, &b)]), ["+b:2"]);
    assert_eq!(hand.after(200, &[]), NOTHING);
    assert_eq!(hand.rescan(3_000), NOTHING);
    writer.write_all(service("a", 2).as_bytes()).unwrap();
    assert_eq!(hand.after(4_000, &[(WRITTEN, &a)]), NOTHING);
    assert_eq!(hand.rescan(5_900), NOTHING);
    writer.write_all(format!("---\n{}", service("z", 2)).as_bytes()).unwrap();
    assert_eq!(hand.after(5_950, &[(WRITTEN, &a)]), NOTHING);
    drop(writer);
    assert_eq!(hand.after(6_000, &[(CLOSED, &a)]), ["+a:2", "+z:2"]);
}

#[test]
fn a_file_that_nobody_closes_is_read_at_last() {
    let mut hand = ByHand::new(Folder::with(&[("a.yaml", &both(1))]));
    let a = hand.folder.at("a.yaml");
    let mut writer = File::create(&a).unwrap();
    writer.write_all(service("a", 2).as_bytes()).unwrap();
    assert_eq!(hand.after(10, &[(WRITTEN, &a)]), NOTHING);
    assert_eq!(hand.rescan(2_009), NOTHING);
    assert_eq!(hand.after(2_010, &[]), NOTHING);
    assert_eq!(hand.after(2_015, &[]), ["+a:2", "-z"]);
    writer.set_len(0).unwrap();
    assert_eq!(hand.after(3_000, &[(WRITTEN, &a)]), NOTHING);
    assert_eq!(hand.rescan(12_999), NOTHING);
    assert_eq!(hand.after(13_000, &[]), NOTHING);
    assert_eq!(hand.after(13_120, &[]), ["-a"]);
}

#[test]
fn a_single_file_and_the_target_of_a_link_are_waited_for_too() {
    let folder = Folder::new();
    fs::write(&folder.path, both(1)).unwrap();
    let mut hand = ByHand::new(folder);
    let path = hand.folder.path.clone();
    let mut writer = File::create(&path).unwrap();
    assert_eq!(hand.after(10, &[(WRITTEN, &path)]), NOTHING);
    assert_eq!(hand.rescan(500), NOTHING);
    writer.write_all(both(2).as_bytes()).unwrap();
    assert_eq!(hand.after(510, &[(WRITTEN, &path), (CLOSED, &path)]), ["+a:2", "+z:2"]);

    let folder = Folder::with(&[]);
    let elsewhere = folder.path.with_extension("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let target = elsewhere.canonicalize().unwrap().join("target");
    fs::write(&target, both(1)).unwrap();
    symlink(&target, folder.at("a.yaml")).unwrap();
    let mut hand = ByHand::new(folder);
    let mut writer = File::create(&target).unwrap();
    assert_eq!(hand.after(10, &[(WRITTEN, &target)]), NOTHING);
    assert_eq!(hand.rescan(500), NOTHING);
    writer.write_all(both(2).as_bytes()).unwrap();
    assert_eq!(hand.after(510, &[(WRITTEN, &target), (CLOSED, &target)]), ["+a:2", "+z:2"]);
}

#[test]
fn what_a_whole_file_no_longer_says_is_waited_for_a_moment() {
    let mut hand = ByHand::new(Folder::with(&[("a.yaml", &both(1))]));
    let a = hand.folder.at("a.yaml");
    let saved = [(WRITTEN, a.as_path()), (CLOSED, a.as_path())];
    hand.folder.write("a.yaml", &service("a", 2));
    assert_eq!(hand.after(10, &saved), NOTHING);
    hand.folder.write("a.yaml", &both(2));
    assert_eq!(hand.after(13, &saved), ["+a:2", "+z:2"]);
    // What is more, or other, is not waited for.
    hand.folder.write("a.yaml", &format!("{}---\n{}", both(3), service("c", 3)));
    assert_eq!(hand.after(20, &saved), ["+a:3", "+c:3", "+z:3"]);
    hand.folder.write("a.yaml", &service("a", 4));
    assert_eq!(hand.after(30, &saved), NOTHING);
    assert_eq!(hand.after(35, &[]), ["+a:4", "-c", "-z"]);
}

#[test]
fn an_emptied_file_loses_nothing_before_its_writer_closes_it() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    folder.watch().next();
    let mut writer = File::create(folder.at("a.yaml")).unwrap();
    let opened = Instant::now();
    let mut port = 2;
    while opened.elapsed() < 2 * (GRACE + LONGEST_BURST) {
        folder.write("b.yaml", &service("b", port));
        assert_eq!(folder.changes(), [format!("+b:{port}")]);
        port += 1;
    }
    writer.write_all(service("a", 2).as_bytes()).unwrap();
    drop(writer);
    assert_eq!(folder.changes(), ["+a:2"]);
}

#[test]
fn first_batch_is_the_whole_folder() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1)), (".hidden.yaml", &service("h", 1)), ("b.txt", "x")]);
    fs::create_dir(folder.at("sub")).unwrap();
    folder.write("sub/b.yml", &service("b", 2));
    let batch = folder.watch().next();
    assert!(batch.complete && batch.verdicts.is_empty());
    assert_eq!(shown(&batch), ["+a:1", "+b:2"]);
}

#[test]
fn empty_folder_is_complete() {
    let batch = Folder::with(&[]).watch().next();
    assert!(batch.complete && batch.changes.is_empty());
}

#[test]
fn a_write_is_delivered_soon_and_alone() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]);
    folder.watch().next();
    let mut waits = Vec::new();
    for port in 2..12 {
        let wrote = Instant::now();
        folder.write("b.yaml", &service("b", port));
        assert_eq!(folder.changes(), [format!("+b:{port}")]);
        waits.push(wrote.elapsed());
    }
    waits.sort();
    // The median, as the machine may be busy with something else once.
    assert!(waits[5] < Duration::from_millis(200), "{waits:?}");
}

#[test]
fn new_and_removed_files_and_folders_are_seen() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1))]);
    folder.watch().next();
    fs::create_dir_all(folder.at("x/y")).unwrap();
    folder.write("x/y/b.json", r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}"#);
    assert_eq!(folder.changes(), ["+ConfigMap default/b"]);
    fs::remove_file(folder.at("a.yaml")).unwrap();
    assert_eq!(folder.changes(), ["-a"]);
    fs::remove_dir_all(folder.at("x")).unwrap();
    assert_eq!(folder.changes(), ["-b"]);
}

#[test]
fn editors_dances_are_one_change() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1))]);
    folder.watch().next();
    // Vim: the old file is moved away, a new one written, the backup removed.
    folder.write(".a.yaml.swp", "binary");
    folder.write("4913", "");
    fs::rename(folder.at("a.yaml"), folder.at("a.yaml~")).unwrap();
    folder.write("a.yaml", &service("a", 2));
    fs::remove_file(folder.at("a.yaml~")).unwrap();
    assert_eq!(folder.changes(), ["+a:2"]);
    // Renamed over.
    folder.write("a.yaml.tmp", &service("a", 3));
    fs::rename(folder.at("a.yaml.tmp"), folder.at("a.yaml")).unwrap();
    assert_eq!(folder.changes(), ["+a:3"]);
    // Deleted and created.
    fs::remove_file(folder.at("a.yaml")).unwrap();
    folder.write("a.yaml", &service("a", 4));
    assert_eq!(folder.changes(), ["+a:4"]);
    // Truncated and written.
    folder.write("a.yaml", "");
    folder.write("a.yaml", &service("a", 5));
    assert_eq!(folder.changes(), ["+a:5"]);
    // Renamed: the same objects, so nothing changes until something does.
    fs::rename(folder.at("a.yaml"), folder.at("c.yaml")).unwrap();
    folder.write("c.yaml", &service("a", 6));
    let changes = folder.changes();
    assert!(changes == ["+a:6"], "{changes:?}");
}

#[test]
fn a_file_emptied_for_good_loses_its_objects() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1))]);
    folder.watch().next();
    folder.write("a.yaml", "");
    assert_eq!(folder.changes(), ["-a"]);
}

#[test]
fn half_written_file_keeps_its_last_good_content_and_says_so() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1))]);
    folder.watch().next();
    folder.write("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a");
    let batch = folder.error("the last good content stays in use");
    assert!(batch.complete);
    folder.write("a.yaml", &service("a", 2));
    let batch = folder.next();
    assert_eq!((shown(&batch), batch.verdicts), (vec!["+a:2".to_owned()], vec![]));
}

#[test]
fn config_map_volume_is_swapped_as_one() {
    let mut folder = Folder::with(&[]);
    let version = |folder: &Folder, name: &str, port| {
        fs::create_dir(folder.at(name)).unwrap();
        folder.write(&format!("{name}/a.yaml"), &service("a", port));
        folder.write(&format!("{name}/b.yaml"), &service("b", port));
    };
    version(&folder, "..1", 1);
    symlink("..1", folder.at("..data")).unwrap();
    symlink("..data/a.yaml", folder.at("a.yaml")).unwrap();
    symlink("..data/b.yaml", folder.at("b.yaml")).unwrap();
    assert_eq!(shown(&folder.watch().next()), ["+a:1", "+b:1"]);
    for port in 2..5 {
        version(&folder, &format!("..{port}"), port);
        symlink(format!("..{port}"), folder.at("..data_tmp")).unwrap();
        fs::rename(folder.at("..data_tmp"), folder.at("..data")).unwrap();
        fs::remove_dir_all(folder.at(&format!("..{}", port - 1))).unwrap();
        assert_eq!(folder.changes(), [format!("+a:{port}"), format!("+b:{port}")]);
    }
}

#[test]
fn a_folder_that_is_a_link_may_be_swapped() {
    let mut folder = Folder::new();
    let home = folder.path.parent().unwrap().to_owned();
    for port in [1, 2] {
        fs::create_dir(home.join(format!("v{port}"))).unwrap();
        fs::write(home.join(format!("v{port}/a.yaml")), service("a", port)).unwrap();
    }
    symlink("v1", &folder.path).unwrap();
    assert_eq!(shown(&folder.watch().next()), ["+a:1"]);
    symlink("v2", home.join("next")).unwrap();
    fs::rename(home.join("next"), &folder.path).unwrap();
    assert_eq!(folder.changes(), ["+a:2"]);
    // The watch moved too.
    fs::write(home.join("v2/a.yaml"), service("a", 3)).unwrap();
    assert_eq!(folder.changes(), ["+a:3"]);
}

#[test]
fn a_folder_may_come_late_go_and_return() {
    let mut folder = Folder::new();
    let batch = folder.watch().error("does not exist");
    assert!(!batch.complete);
    fs::create_dir(&folder.path).unwrap();
    folder.write("a.yaml", &service("a", 1));
    let changes = folder.changes();
    assert_eq!(changes, ["+a:1"]);
    // Moved away at once, so that no file is seen to vanish before the folder does.
    let away = folder.path.with_extension("away");
    fs::rename(&folder.path, &away).unwrap();
    let batch = folder.error("is gone; put the folder there");
    assert!(batch.complete);
    fs::create_dir(&folder.path).unwrap();
    folder.write("a.yaml", &service("a", 2));
    assert_eq!(folder.changes(), ["+a:2"]);
    folder.write("a.yaml", &service("a", 3));
    assert_eq!(folder.changes(), ["+a:3"]);
}

#[test]
fn a_single_file_may_be_watched() {
    let mut folder = Folder::new();
    fs::write(&folder.path, service("a", 1)).unwrap();
    assert_eq!(shown(&folder.watch().next()), ["+a:1"]);
    let new = folder.path.with_extension("new");
    fs::write(&new, service("a", 2)).unwrap();
    fs::rename(&new, &folder.path).unwrap();
    assert_eq!(folder.changes(), ["+a:2"]);
    fs::write(&folder.path, service("a", 3)).unwrap();
    assert_eq!(folder.changes(), ["+a:3"]);
}

#[test]
fn without_events_the_slow_scan_finds_changes() {
    let mut folder = Folder::with(&[("a.yaml", &service("a", 1))]);
    let (messages, inbox) = mpsc::channel();
    let (sender, receiver) = feed::channel();
    folder.receiver = Some(receiver);
    let root = folder.path.clone();
    let thread = std::thread::spawn(move || Watch::new(root, Watches::default(), sender).run(&inbox));
    assert_eq!(shown(&folder.next()), ["+a:1"]);
    folder.write("a.yaml", &service("a", 2));
    assert_eq!(folder.changes(), ["+a:2"]);
    // And a rescan that is asked for comes at once.
    let wrote = Instant::now();
    folder.write("a.yaml", &service("a", 3));
    messages.send(Message::Rescan).unwrap();
    assert_eq!(folder.changes(), ["+a:3"]);
    assert!(wrote.elapsed() < SCAN_EVERY, "{:?}", wrote.elapsed());
    messages.send(Message::Stop).unwrap();
    thread.join().unwrap();
}

#[test]
fn dropping_the_watch_closes_the_feed() {
    let mut folder = Folder::with(&[]);
    folder.watch().next();
    folder.directory = None;
    let receiver = folder.receiver.as_mut().unwrap();
    assert!(folder.runtime.block_on(receiver.recv()).is_none());
}

#[test]
fn how_long_a_burst_is_waited_for_depends_on_what_may_still_come() {
    let mut watch = Watch::new("/folder".into(), Watches::default(), feed::channel().0);
    let mut quiet = |events: &[(EventKind, &[&str])]| {
        let mut dirty = Dirty::default();
        for (kind, paths) in events {
            let event = paths.iter().fold(Event::new(*kind), |event, path| event.add_path(path.into()));
            assert!(watch.note(&mut dirty, Message::Event(Ok(event)), Instant::now()));
        }
        dirty.quiet()
    };
    let created = EventKind::Create(CreateKind::File);
    let (written, closed) = (WRITTEN, CLOSED);
    let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
    let (a, b) = ("/folder/a.yaml", "/folder/b.yaml");
    assert_eq!(quiet(&[(created, &[a])]), QUIET_STEPS);
    assert_eq!(quiet(&[(created, &[a]), (written, &[a]), (closed, &[a])]), QUIET_WHOLE);
    // A file that is open is left out of the burst, until it is closed.
    assert_eq!(quiet(&[(written, &[a]), (closed, &[a]), (written, &[b])]), QUIET_WHOLE);
    let mode = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    assert_eq!(quiet(&[(written, &[a]), (closed, &[a]), (mode, &[a])]), QUIET_WHOLE);
    assert_eq!(quiet(&[(EventKind::Create(CreateKind::Folder), &["/"])]), QUIET);
    assert_eq!(quiet(&[(EventKind::Create(CreateKind::Folder), &["/"]), (created, &[a])]), QUIET_STEPS);
    assert_eq!(quiet(&[(EventKind::Remove(RemoveKind::File), &[a])]), QUIET_STEPS);
    assert_eq!(quiet(&[(renamed(RenameMode::From), &[a])]), QUIET_STEPS);
    assert_eq!(quiet(&[(EventKind::Remove(RemoveKind::File), &[a]), (written, &[a]), (closed, &[a])]), QUIET_WHOLE);
    assert_eq!(quiet(&[(renamed(RenameMode::To), &[a])]), QUIET_WHOLE);
    let temporary = "/folder/a.yaml.tmp";
    assert_eq!(
        quiet(&[
            (created, &[temporary]),
            (renamed(RenameMode::From), &[temporary]),
            (renamed(RenameMode::To), &[a]),
            (renamed(RenameMode::Both), &[temporary, a]),
        ]),
        QUIET_WHOLE
    );
}
