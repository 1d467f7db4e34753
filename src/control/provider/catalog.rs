//! Which objects a set of files means, and what changes when some of the files do. Pure: it sees content, not files.
//!
//! Invariants: an object is published from the first file, in path order, that defines it; a file that is half written or
//! cannot be read keeps its last good content, and so does a single object whose document went bad; a change is reported
//! only where an object really differs from what was published before.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::manifest::{Known, Located, Parsed, Problem, same};
use crate::control::translate::{Change, Object};
use crate::model::{ObjectRef, Severity};

/// What is known of a file now.
#[derive(Debug)]
pub enum Content {
    /// It was read.
    Read(Parsed),
    /// It is there but cannot be read, and why.
    Unreadable(String),
    /// It is not there.
    Gone,
}

/// All files and what is published of them.
#[derive(Default)]
pub struct Catalog {
    files: BTreeMap<Arc<Path>, File>,
    /// Where each object is defined: in path order, then in the order of the file.
    places: HashMap<ObjectRef, BTreeSet<Place>>,
    /// Files of which `problems` has any.
    troubled: BTreeSet<Arc<Path>>,
    /// Objects with more than one place.
    contested: BTreeSet<ObjectRef>,
    published: HashMap<ObjectRef, Object>,
}

type Place = (Arc<Path>, usize);

#[derive(Default)]
struct File {
    objects: Vec<Located>,
    problems: Vec<Problem>,
}

impl Catalog {
    /// Whether objects of this file are in use.
    pub fn has_objects(&self, file: &Path) -> bool {
        self.files.get(file).is_some_and(|file| !file.objects.is_empty())
    }

    /// Whether this file, read as this, would no longer say something of an object that it says now.
    pub fn loses(&self, file: &Path, parsed: &Parsed) -> bool {
        let Some(before) = self.files.get(file).filter(|_| !parsed.broken) else { return false };
        // Names are costly to compare in large files, and nearly all documents are what they were.
        let prints = |objects: &[Located]| objects.iter().filter_map(|at| at.print).collect::<HashSet<u64>>();
        let (old, new) = (prints(&before.objects), prints(&parsed.objects));
        let not_in = |prints: &HashSet<u64>, at: &Located| at.print.is_none_or(|print| !prints.contains(&print));
        let mut lost: HashSet<ObjectRef> =
            before.objects.iter().filter(|at| not_in(&new, at)).map(|at| at.object.reference()).collect();
        if lost.is_empty() {
            return false;
        }
        for at in parsed.objects.iter().filter(|at| not_in(&old, at)) {
            lost.remove(&at.object.reference());
        }
        // What is refused is not lost: its last good content stays.
        for refused in parsed.problems.iter().filter_map(|problem| problem.object.as_ref()) {
            lost.remove(refused);
        }
        !lost.is_empty()
    }

    /// What a new reading of this file need not read again.
    pub fn known(&self, file: &Path) -> Known {
        self.files.get(file).map(|file| Known::of(&file.objects)).unwrap_or_default()
    }

    /// Takes the new content of some files and says what changes by it.
    pub fn update(&mut self, news: impl IntoIterator<Item = (Arc<Path>, Content)>) -> Vec<Change> {
        let mut touched = BTreeSet::new();
        for (path, content) in news {
            let old = self.files.remove(&path);
            for (reference, place) in places(&path, old.as_ref()) {
                if let Some(all) = self.places.get_mut(&reference) {
                    all.remove(&place);
                }
                touched.insert(reference);
            }
            self.troubled.remove(&path);
            let Some(new) = settle(&path, old, content) else { continue };
            if !new.problems.is_empty() {
                self.troubled.insert(path.clone());
            }
            for (reference, place) in places(&path, Some(&new)) {
                self.places.entry(reference.clone()).or_default().insert(place);
                touched.insert(reference);
            }
            self.files.insert(path, new);
        }
        touched.into_iter().filter_map(|reference| self.publish(reference)).collect()
    }

    /// Everything that is wrong, by file and line.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .troubled
            .iter()
            .filter_map(|path| self.files.get(path))
            .flat_map(|file| &file.problems)
            .cloned()
            .collect();
        for reference in &self.contested {
            let mut all = self.places[reference].iter().filter_map(|place| self.at(place));
            let Some(first) = all.next() else { continue };
            problems.extend(all.map(|other| Problem {
                file: other.file.clone(),
                line: other.line,
                column: 0,
                severity: Severity::Error,
                object: Some(reference.clone()),
                text: format!("already defined at {}:{}, which is used", first.file.display(), first.line),
                fix: "remove one of the two".to_owned(),
            }));
        }
        problems.sort();
        problems
    }

    fn at(&self, (path, index): &Place) -> Option<&Located> {
        self.files.get(path)?.objects.get(*index)
    }

    fn publish(&mut self, reference: ObjectRef) -> Option<Change> {
        let all = self.places.get(&reference)?;
        if all.len() > 1 {
            self.contested.insert(reference.clone());
        } else {
            self.contested.remove(&reference);
        }
        let Some(object) = all.first().and_then(|place| self.at(place)).map(|located| located.object.clone()) else {
            self.places.remove(&reference);
            return self.published.remove(&reference).map(|_| Change::Remove(reference));
        };
        if self.published.get(&reference).is_some_and(|old| same(old, &object)) {
            return None;
        }
        self.published.insert(reference, object.clone());
        Some(Change::Put(object))
    }
}

fn places<'a>(path: &'a Arc<Path>, file: Option<&'a File>) -> impl Iterator<Item = (ObjectRef, Place)> + 'a {
    let objects = file.map(|file| file.objects.as_slice()).unwrap_or_default();
    objects.iter().enumerate().map(|(index, located)| (located.object.reference(), (path.clone(), index)))
}

/// What a file means after this news.
fn settle(path: &Arc<Path>, old: Option<File>, content: Content) -> Option<File> {
    let before = old.map(|file| file.objects).unwrap_or_default();
    match content {
        Content::Gone => None,
        Content::Unreadable(why) => {
            let problem = Problem {
                file: path.clone(),
                line: 0,
                column: 0,
                severity: Severity::Error,
                object: None,
                text: why,
                fix: String::new(),
            };
            Some(File { problems: kept(vec![problem], !before.is_empty()), objects: before })
        }
        Content::Read(parsed) if parsed.broken && !before.is_empty() => {
            Some(File { objects: before, problems: kept(parsed.problems, true) })
        }
        Content::Read(mut parsed) => {
            // An API server, too, keeps the old object when it refuses the new one.
            for problem in parsed.problems.iter_mut().filter(|problem| problem.severity == Severity::Error) {
                let Some(refused) = &problem.object else { continue };
                if let Some(last_good) = before.iter().find(|located| located.object.reference() == *refused) {
                    parsed.objects.push(Located { line: problem.line, ..last_good.clone() });
                    say_kept(problem);
                }
            }
            Some(File { objects: parsed.objects, problems: parsed.problems })
        }
    }
}

fn kept(mut problems: Vec<Problem>, any: bool) -> Vec<Problem> {
    if any {
        problems.iter_mut().filter(|problem| problem.severity == Severity::Error).for_each(say_kept);
    }
    problems
}

fn say_kept(problem: &mut Problem) {
    let and = if problem.fix.is_empty() { "" } else { "; " };
    problem.fix = format!("{}{and}until then the last good content stays in use", problem.fix);
}

#[cfg(test)]
mod tests {
    use super::super::manifest::parse;
    use super::*;

    fn path(name: &str) -> Arc<Path> {
        Path::new(name).into()
    }

    fn says(name: &str, text: &str) -> (Arc<Path>, Content) {
        (path(name), Content::Read(parse(&path(name), text)))
    }

    fn service(name: &str, port: u16) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
    }

    fn shown(changes: &[Change]) -> Vec<String> {
        let show = |change: &Change| match change {
            Change::Put(object) => format!("+{}", object.reference().name.name),
            Change::Remove(reference) => format!("-{}", reference.name.name),
        };
        changes.iter().map(show).collect()
    }

    #[test]
    fn only_objects_that_differ_change() {
        let mut catalog = Catalog::default();
        let both = service("a", 1) + &service("b", 1);
        assert_eq!(shown(&catalog.update([says("x.yaml", &both)])), ["+a", "+b"]);
        assert_eq!(shown(&catalog.update([says("x.yaml", &format!("# new comment\n{both}"))])), Vec::<String>::new());
        assert_eq!(shown(&catalog.update([says("x.yaml", &(service("a", 1) + &service("c", 1)))])), ["-b", "+c"]);
        assert_eq!(shown(&catalog.update([(path("x.yaml"), Content::Gone)])), ["-a", "-c"]);
    }

    #[test]
    fn an_unchanged_object_keeps_its_identity() {
        let mut catalog = Catalog::default();
        catalog.update([says("x.yaml", &(service("a", 1) + &service("b", 1)))]);
        let before = catalog.published.values().cloned().collect::<Vec<_>>();
        catalog.update([says("x.yaml", &(service("a", 1) + &service("b", 2)))]);
        let kept = |object: &Object| match object {
            Object::Service(service) => {
                before.iter().any(|old| matches!(old, Object::Service(old) if Arc::ptr_eq(old, service)))
            }
            _ => false,
        };
        assert_eq!(catalog.published.values().filter(|object| kept(object)).count(), 1);
    }

    #[test]
    fn first_file_in_path_order_wins_and_the_next_takes_over() {
        let mut catalog = Catalog::default();
        catalog.update([says("b.yaml", &service("a", 2))]);
        assert_eq!(shown(&catalog.update([says("a.yaml", &service("a", 1))])), ["+a"]);
        let problems: Vec<String> = catalog.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            ["error: b.yaml:1: Service default/a: already defined at a.yaml:1, which is used; remove one of the two"]
        );
        assert_eq!(shown(&catalog.update([says("b.yaml", &service("a", 3))])), Vec::<String>::new());
        assert_eq!(shown(&catalog.update([(path("a.yaml"), Content::Gone)])), ["+a"]);
        assert_eq!(catalog.problems(), []);
        assert_eq!(shown(&catalog.update([says("b.yaml", "")])), ["-a"]);
    }

    #[test]
    fn an_object_that_moves_to_another_file_does_not_change() {
        let mut catalog = Catalog::default();
        catalog.update([says("a.yaml", &service("a", 1))]);
        let news = [(path("a.yaml"), Content::Gone), says("b.yaml", &service("a", 1))];
        assert_eq!(shown(&catalog.update(news)), Vec::<String>::new());
    }

    #[test]
    fn broken_unreadable_and_refused_content_keeps_the_last_good() {
        let mut catalog = Catalog::default();
        catalog.update([says("x.yaml", &(service("a", 1) + &service("b", 1)))]);
        let bad = service("a", 1).replace("port: 1", "port: one") + &service("c", 1);
        for (content, changes) in [
            (says("x.yaml", "apiVersion: {"), vec![]),
            ((path("x.yaml"), Content::Unreadable("cannot be read: no".into())), vec![]),
            (says("x.yaml", &bad), vec!["-b", "+c"]),
        ] {
            assert_eq!(shown(&catalog.update([content])), changes);
            let problems = catalog.problems();
            assert!(
                problems.len() == 1 && problems[0].fix.ends_with("the last good content stays in use"),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn of_two_documents_of_one_file_the_first_wins() {
        let mut catalog = Catalog::default();
        assert_eq!(shown(&catalog.update([says("x.yaml", &(service("a", 1) + &service("a", 2)))])), ["+a"]);
        assert_eq!(catalog.problems().len(), 1);
        assert_eq!(shown(&catalog.update([says("x.yaml", &service("a", 1))])), Vec::<String>::new());
    }
}
