//! Changes the value of `weir.dev/active` in a manifest, and no other byte.
//!
//! For `weir cutover start` with a folder: the file is the user's, with comments, quotes and line endings as they like
//! them. So the text is not printed anew: the YAML parser says where the value stands, the value is replaced there, and
//! the result is read again and compared. What does not come out exactly as meant is not written.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::model::ObjectName;

const ACTIVE: &str = "weir.dev/active";
const COLORS: &str = "weir.dev/colors";
const BY_HAND: &str = "edit weir.dev/active by hand";

/// Why nothing was changed. Every text says what would help.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No file has the Service.
    #[error("Service {service} is in no manifest under {}; name the folder that Weir serves", path.display())]
    NotFound {
        /// Which.
        service: ObjectName,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// More than one document describes the Service.
    #[error("Service {service} is described more than once ({places}); remove all but one, or {BY_HAND}")]
    Ambiguous {
        /// Which.
        service: ObjectName,
        /// The files.
        places: String,
    },
    /// The Service has no colors.
    #[error("Service {service} has no annotation {COLORS}; add one, for example {COLORS}: blue=web-v1,green=web-v2")]
    NoColors {
        /// Which.
        service: ObjectName,
    },
    /// There is no annotation to change and no line to add it below.
    #[error("Service {service} has no annotation {ACTIVE}; add the line {ACTIVE}: {color} below {COLORS}")]
    NoActive {
        /// Which.
        service: ObjectName,
        /// What would be set.
        color: String,
    },
    /// The value is written in a way that cannot be changed in place (an alias, a block scalar).
    #[error("the value of {ACTIVE} of Service {service} cannot be changed in place: {problem}; {BY_HAND}")]
    Unusual {
        /// Which.
        service: ObjectName,
        /// What is unusual.
        problem: String,
    },
    /// A color is a DNS label.
    #[error("{color:?} cannot be a color; a color has lower-case letters, digits and dashes, for example green")]
    NotAColor {
        /// What was asked for.
        color: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edited {
    /// The file.
    pub file: PathBuf,
    /// The value of before; `None`: the annotation was added.
    pub before: Option<String>,
    /// Whether the file was written; it is not when the value was right already.
    pub changed: bool,
}

/// Sets the active color of a Service in the one file under `path` (a folder, or a file) that has it. The file is
/// replaced in one step and keeps its permissions.
pub fn set_active(path: &Path, service: &ObjectName, color: &str) -> Result<Edited, EditError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| EditError::File { path, source }
    };
    let mut files = Vec::new();
    list(path, &mut files).map_err(failed(path))?;
    let mut found = Vec::new();
    for file in files {
        let Ok(text) = fs::read(&file).map(String::from_utf8).map_err(failed(&file))? else { continue };
        for _ in occurrences(&text, service) {
            found.push((file.clone(), text.clone()));
        }
    }
    let [(file, text)] = &found[..] else {
        if found.is_empty() {
            return Err(EditError::NotFound { service: service.clone(), path: path.to_path_buf() });
        }
        let places: Vec<String> = found.iter().map(|(file, _)| file.display().to_string()).collect();
        return Err(EditError::Ambiguous { service: service.clone(), places: places.join(", ") });
    };
    let edit = edit(text, service, color)?;
    let changed = edit.text != *text;
    if changed {
        replace(file, &edit.text).map_err(failed(file))?;
    }
    Ok(Edited { file: file.clone(), before: edit.before, changed })
}

/// A text with another active color.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// All of it.
    pub text: String,
    /// The value of before; `None`: the annotation was added.
    pub before: Option<String>,
}

/// Changes the active color of a Service in the text of a manifest (YAML or JSON, any number of documents and Lists).
pub fn edit(text: &str, service: &ObjectName, color: &str) -> Result<Edit, EditError> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if color.is_empty()
        || color.len() > 63
        || !color.bytes().all(fine)
        || color.starts_with('-')
        || color.ends_with('-')
    {
        return Err(EditError::NotAColor { color: color.to_owned() });
    }
    let all = occurrences(text, service);
    let [place] = &all[..] else {
        return Err(match all.len() {
            0 => EditError::NotFound { service: service.clone(), path: PathBuf::from("the text") },
            count => EditError::Ambiguous { service: service.clone(), places: format!("{count} times in one text") },
        });
    };
    let unusual = |problem: &str| EditError::Unusual { service: service.clone(), problem: problem.to_owned() };
    let (at, token, before) = match (&place.active, &place.colors) {
        (Some(active), _) => {
            let token = scalar(&text[active.at..]).map_err(unusual)?;
            (active.at..active.at + token.len(), quoted_like(token, color), Some(active.value.clone()))
        }
        (None, Some(colors)) => {
            let missing = || EditError::NoActive { service: service.clone(), color: color.to_owned() };
            let (at, line) = line_below(text, colors.at, color).ok_or_else(missing)?;
            (at..at, line, None)
        }
        (None, None) => return Err(EditError::NoColors { service: service.clone() }),
    };
    let edited = [&text[..at.start], &token, &text[at.end..]].concat();

    // The proof: read again, only the one annotation is different.
    let document = place.document.clone();
    let grown = document.start..document.end + edited.len() - text.len();
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).ok();
    let mut meant = read(&text[document]).ok_or_else(|| unusual("its document cannot be read"))?;
    if let Some(annotations) = annotations(&mut meant, place.item) {
        annotations.insert(ACTIVE.to_owned(), Value::String(color.to_owned()));
    }
    if read(&edited[grown]) != Some(meant) {
        return Err(unusual("the result would not be what was meant"));
    }
    Ok(Edit { text: edited, before })
}

fn annotations(document: &mut Value, item: Option<usize>) -> Option<&mut serde_json::Map<String, Value>> {
    let object = match item {
        Some(index) => document.get_mut("items")?.get_mut(index)?,
        None => document,
    };
    object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()
}

/// Where a Service is described, in bytes of the whole text.
struct Occurrence {
    document: std::ops::Range<usize>,
    /// Which item of a List.
    item: Option<usize>,
    active: Option<Place>,
    colors: Option<Place>,
}

struct Place {
    at: usize,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Head {
    kind: Option<String>,
    metadata: Option<Metadata>,
    items: Option<Vec<Head>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "weir.dev/active")]
    active: Option<Spanned<String>>,
    #[serde(rename = "weir.dev/colors")]
    colors: Option<Spanned<String>>,
}

/// Every description of the Service. A document that cannot be read harms only itself.
fn occurrences(text: &str, service: &ObjectName) -> Vec<Occurrence> {
    let mut found = Vec::new();
    for document in documents(text) {
        let Ok(head) = serde_saphyr::from_str::<Head>(&text[document.clone()]) else { continue };
        let mut note = |head: &Head, item| {
            let Some(metadata) = head.metadata.as_ref().filter(|_| head.kind.as_deref() == Some("Service")) else {
                return;
            };
            let namespace = metadata.namespace.as_deref().unwrap_or("default");
            if metadata.name.as_deref() != Some(&*service.name) || namespace != &*service.namespace {
                return;
            }
            // An alias is defined elsewhere, where changing it would change more than this.
            let place = |value: &Spanned<String>| {
                let at = document.start + usize::try_from(value.referenced.span().byte_offset()?).ok()?;
                Some(Place { at, value: value.value.clone() })
            };
            let annotations = metadata.annotations.as_ref();
            found.push(Occurrence {
                document: document.clone(),
                item,
                active: annotations.and_then(|annotations| annotations.active.as_ref()).and_then(place),
                colors: annotations.and_then(|annotations| annotations.colors.as_ref()).and_then(place),
            });
        };
        match &head.items {
            Some(items) => items.iter().enumerate().for_each(|(index, item)| note(item, Some(index))),
            None => note(&head, None),
        }
    }
    found
}

/// The documents of a text. `---` and `...` at the margin end one wherever they stand (YAML 1.2.2, `c-forbidden`).
fn documents(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let marker = line.get(..3).filter(|_| line[3..].chars().next().is_none_or(char::is_whitespace));
        match marker {
            Some("---") => {
                found.push(start..at);
                start = at;
            }
            Some("...") => {
                found.push(start..at);
                start = at + line.len();
            }
            _ => {}
        }
        at += line.len();
    }
    found.push(start..text.len());
    found.retain(|document| !text[document.clone()].trim().is_empty());
    found
}

/// The scalar that `text` begins with, with its quotes.
fn scalar(text: &str) -> Result<&str, &'static str> {
    let end = match text.as_bytes().first() {
        Some(b'"') => {
            let mut escaped = false;
            let closing = |byte: u8| {
                let closing = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closing
            };
            text.bytes().skip(1).position(closing).map(|at| at + 2)
        }
        Some(b'\'') => {
            let mut at = 1;
            loop {
                match text[at..].find('\'') {
                    Some(quote) if text[at + quote + 1..].starts_with('\'') => at += quote + 2,
                    Some(quote) => break Some(at + quote + 1),
                    None => break None,
                }
            }
        }
        Some(b'|' | b'>') => return Err("it is a block of lines"),
        Some(b'*' | b'&' | b'!') => return Err("it has an alias, an anchor or a tag"),
        // A color has none of these, so a plain scalar ends at the first.
        _ => Some(text.find([' ', '\t', '\r', '\n', ',', '}', ']', '#']).unwrap_or(text.len())),
    };
    match end {
        Some(end) if end > 0 => Ok(&text[..end]),
        _ => Err("it is empty"),
    }
}

/// The color in the quotes of `token`; in double quotes where a plain word would not be read as text.
fn quoted_like(token: &str, color: &str) -> String {
    match token.as_bytes().first() {
        Some(b'\'') => format!("'{color}'"),
        Some(b'"') => format!("\"{color}\""),
        _ if reads_as_text(color) => color.to_owned(),
        _ => format!("\"{color}\""),
    }
}

/// Whether every YAML reader takes this plain word for a string: not for a number, a truth value (also of YAML 1.1) or
/// null.
fn reads_as_text(color: &str) -> bool {
    let word = matches!(color, "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null");
    !word && color.as_bytes()[0].is_ascii_lowercase()
}

/// Where a line with the annotation can be added: below the line of `weir.dev/colors`, if that stands alone on its line
/// in block style. `colors` is where its value begins.
fn line_below(text: &str, colors: usize, color: &str) -> Option<(usize, String)> {
    let start = text[..colors].rfind('\n').map_or(0, |at| at + 1);
    let before = &text[start..colors];
    let key = before.trim_start_matches(' ');
    let indent = &before[..before.len() - key.len()];
    let name = key.trim_end().strip_suffix(':')?.trim_end();
    if ![COLORS, "\"weir.dev/colors\"", "'weir.dev/colors'"].contains(&name) {
        return None;
    }
    let rest = &text[colors..];
    let line_end = rest.find('\n').unwrap_or(rest.len());
    let token = match rest.as_bytes().first()? {
        b'"' | b'\'' => scalar(rest).ok()?.len(),
        b'|' | b'>' | b'*' | b'&' | b'!' => return None,
        _ => line_end,
    };
    if token > line_end {
        return None;
    }
    let value = quoted_like("", color);
    if line_end == rest.len() {
        let ending = if text.contains("\r\n") { "\r\n" } else { "\n" };
        return Some((text.len(), format!("{ending}{indent}{ACTIVE}: {value}")));
    }
    let ending = if rest[..line_end].ends_with('\r') { "\r\n" } else { "\n" };
    Some((colors + line_end + 1, format!("{indent}{ACTIVE}: {value}{ending}")))
}

/// Manifests under a path, in order; hidden files and folders are left out.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        let name = entry.file_name().and_then(|name| name.to_str()).unwrap_or(".");
        let manifest = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        if !name.starts_with('.') && (manifest || entry.is_dir()) {
            list(&entry, files)?;
        }
    }
    Ok(())
}

/// Replaces a file in one step: a reader sees the old text or the new one. A link is followed, not replaced.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let file = fs::canonicalize(file)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.weir-{}", std::process::id()));
    let write = || {
        let mut handle = fs::OpenOptions::new().write(true).create_new(true).open(&new)?;
        handle.set_permissions(fs::metadata(&file)?.permissions())?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        fs::rename(&new, &file)
    };
    write().inspect_err(|_| _ = fs::remove_file(&new))
}

#[cfg(test)]
mod tests;
