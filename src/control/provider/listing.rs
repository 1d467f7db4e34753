//! Which manifest files a folder holds, and what tells one version of a file from another. Only asks the file system.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Deeper folders are not looked at; it also ends walks that go round in circles through symbolic links.
const DEEPEST: usize = 32;

/// Changes whenever the content of a file does, within the resolution of the file system's clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Last change of the content.
    pub modified: Option<SystemTime>,
    /// Last change of the inode (seconds, nanoseconds): tells a copy that kept the time of its source.
    changed: (i64, i64),
    size: u64,
    identity: (u64, u64),
}

/// Which directory it is, whatever its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    inode: (u64, u64),
    /// Inode numbers are used again, birthdays are not.
    born: Option<SystemTime>,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Listing {
    /// The manifest files.
    pub files: BTreeMap<PathBuf, Stamp>,
    /// Directories that hold what a symbolic link points to.
    pub linked: BTreeSet<PathBuf>,
    /// Directories below the root that could not be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// Whether a file of this name is read: `*.yaml`, `*.yml`, `*.json`, and neither hidden nor an editor's.
pub fn is_manifest(name: &str) -> bool {
    let ending = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, ending)| ending);
    matches!(ending, Some("yaml" | "yml" | "json")) && !name.starts_with(['.', '#', '~'])
}

/// The stamp of the file that stands at this path, links followed; `None` for anything but a regular file.
pub fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    let metadata = std::fs::metadata(path)?;
    Ok(metadata.is_file().then(|| stamp_of(&metadata)))
}

/// Walks a folder; or lists `root` itself when it is a file, whatever its name. `enter` is called with every directory
/// before it is read, so that a watch set there misses nothing.
///
/// # Errors
/// When `root` does not exist or cannot be read.
pub fn list(root: &Path, enter: &mut dyn FnMut(&Path, Identity)) -> io::Result<Listing> {
    let metadata = std::fs::metadata(root)?;
    let mut listing = Listing::default();
    if metadata.is_dir() {
        walk(root, &metadata, DEEPEST, enter, &mut listing)?;
    } else if metadata.is_file() {
        note_link(root, &mut listing);
        listing.files.insert(root.to_owned(), stamp_of(&metadata));
    } else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a folder nor a file"));
    }
    Ok(listing)
}

/// Identity of the directory at this path.
pub fn identity(path: &Path) -> io::Result<Identity> {
    std::fs::metadata(path).map(|metadata| identity_of(&metadata))
}

fn walk(
    directory: &Path,
    metadata: &Metadata,
    depth: usize,
    enter: &mut dyn FnMut(&Path, Identity),
    listing: &mut Listing,
) -> io::Result<()> {
    enter(directory, identity_of(metadata));
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let path = entry.path();
        // What vanishes while we look is not there.
        let Ok(kind) = entry.file_type() else { continue };
        if !kind.is_dir() && !kind.is_symlink() && !is_manifest(name) {
            continue;
        }
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // It is there and cannot be looked at: that does not unsay what it held.
            Err(error) => {
                listing.unreadable.push((path, error));
                continue;
            }
        };
        if metadata.is_dir() && depth > 0 {
            match walk(&path, &metadata, depth - 1, enter, listing) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => listing.unreadable.push((path, error)),
                _ => {}
            }
        } else if metadata.is_file() && is_manifest(name) {
            if kind.is_symlink() {
                note_link(&path, listing);
            }
            listing.files.insert(path, stamp_of(&metadata));
        }
    }
    Ok(())
}

fn note_link(path: &Path, listing: &mut Listing) {
    if let Ok(target) = path.canonicalize()
        && let Some(parent) = target.parent()
    {
        listing.linked.insert(parent.to_owned());
    }
}

fn stamp_of(metadata: &Metadata) -> Stamp {
    Stamp {
        modified: metadata.modified().ok(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        size: metadata.size(),
        identity: (metadata.dev(), metadata.ino()),
    }
}

fn identity_of(metadata: &Metadata) -> Identity {
    Identity { inode: (metadata.dev(), metadata.ino()), born: metadata.created().ok() }
}
