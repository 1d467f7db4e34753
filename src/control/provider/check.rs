//! A file or folder of manifests, read once: for `weir check`, and for what is built into the program.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::catalog::{Catalog, Content};
use super::manifest::{Parsed, Problem, parse};
use super::{listing, parallel_map, read_text};
use crate::control::translate::{Change, Object};
use crate::model::{ObjectRef, Severity};

/// What a path holds.
#[derive(Debug, Default)]
pub struct Checked {
    /// The objects, each once, by kind and name.
    pub objects: Vec<Object>,
    /// Where each is written: file and line.
    pub places: BTreeMap<ObjectRef, (Arc<Path>, u32)>,
    /// What is wrong, by file and line.
    pub problems: Vec<Problem>,
    /// How many files were read.
    pub files: usize,
}

/// Reads a file, or all manifests of a folder and its folders, with the same eyes as a running server.
///
/// # Errors
/// When there is nothing at the path or it cannot be read; what cannot be read below it is a problem, not an error.
pub fn check_path(path: &Path) -> io::Result<Checked> {
    let listing = listing::list(path, &mut |_, _| {})?;
    let paths: Vec<Arc<Path>> = listing.files.into_keys().map(Arc::from).collect();
    let contents = parallel_map(&paths, |path| match read_text(path) {
        Ok(text) => Content::Read(parse(path, &text)),
        Err(error) => Content::Unreadable(format!("cannot be read: {error}")),
    });
    let mut checked = of(paths.into_iter().zip(contents).collect());
    checked.problems.extend(listing.unreadable.into_iter().map(|(path, error)| Problem {
        file: path.into(),
        line: 0,
        column: 0,
        severity: Severity::Error,
        object: None,
        text: format!("cannot be read: {error}"),
        fix: String::new(),
    }));
    Ok(checked)
}

/// Reads one text (standard input, for example) that goes by this name.
pub fn check_text(name: &str, text: &str) -> Checked {
    let path: Arc<Path> = Path::new(name).into();
    let content = Content::Read(parse(&path, text));
    of(vec![(path, content)])
}

/// Manifests that are part of the program, as (name, text).
pub fn embedded(files: &[(&str, &str)]) -> Vec<Change> {
    let mut catalog = Catalog::default();
    catalog.update(files.iter().map(|(name, text)| {
        let path: Arc<Path> = Path::new(name).into();
        let content = Content::Read(parse(&path, text));
        (path, content)
    }))
}

fn of(contents: Vec<(Arc<Path>, Content)>) -> Checked {
    let mut places = BTreeMap::new();
    let files = contents.len();
    for (path, content) in &contents {
        let Content::Read(Parsed { objects, .. }) = content else { continue };
        for located in objects {
            places.entry(located.object.reference()).or_insert_with(|| (path.clone(), located.line));
        }
    }
    let mut catalog = Catalog::default();
    let objects = catalog.update(contents).into_iter().filter_map(|change| match change {
        Change::Put(object) => Some(object),
        Change::Remove(_) => None,
    });
    Checked { objects: objects.collect(), places, problems: catalog.problems(), files }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

    #[test]
    fn a_folder_is_read_with_its_folders_and_duplicates_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("a.yaml"), SERVICE).unwrap();
        std::fs::write(folder.path().join("sub/b.yml"), format!("\n{SERVICE}")).unwrap();
        std::fs::write(folder.path().join("notes.txt"), "nothing").unwrap();
        let checked = check_path(folder.path()).unwrap();
        assert_eq!((checked.files, checked.objects.len(), checked.problems.len()), (2, 1, 1));
        let first = folder.path().join("a.yaml");
        assert_eq!(checked.problems[0].text, format!("already defined at {}:1, which is used", first.display()));
        assert_eq!(checked.problems[0].line, 2);
        assert_eq!(checked.places.values().next().unwrap(), &(Arc::from(first.as_path()), 1));
    }

    #[test]
    fn a_path_with_nothing_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_path(&folder.path().join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn embedded_manifests_are_changes() {
        let changes = embedded(&[("shop.yaml", SERVICE)]);
        assert!(matches!(&changes[..], [Change::Put(Object::Service(_))]));
    }
}
