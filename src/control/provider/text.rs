//! What can be said of a manifest's text without a parser: where its documents begin, and usually what kind each is.

use std::hash::BuildHasher;

/// One document of a file.
#[derive(Clone, Copy)]
pub struct Document<'a> {
    /// Which one, from 0.
    pub index: u32,
    /// Its text.
    pub text: &'a str,
    /// Lines of the file before `text`.
    pub before: u32,
    /// Line of the first content in the file.
    pub line: u32,
}

/// Splits at document markers. `---` and `...` at the margin cannot be anything else in YAML, not even inside a block
/// scalar (YAML 1.2.2, rule `c-forbidden`). Documents without content are left out but counted.
pub fn split_yaml(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut index, mut start, mut before) = (0, 0, 0);
    let mut content = None;
    let mut close = |from: usize, to: usize, before: u32, content: Option<u32>| {
        if let Some(line) = content {
            documents.push(Document { index, text: &text[from..to], before, line });
        }
        index += 1;
    };
    let (mut offset, mut number) = (0, 0);
    for line in text.split_inclusive('\n') {
        number += 1;
        let marker = line.get(..3).filter(|_| line[3..].chars().next().is_none_or(char::is_whitespace));
        match marker {
            Some("---") => {
                if content.is_some() {
                    close(start, offset, before, content.take());
                }
                (start, before) = (offset, number - 1);
                if has_content(&line[3..]) {
                    content = Some(number);
                }
            }
            Some("...") => {
                close(start, offset, before, content.take());
                (start, before) = (offset + line.len(), number);
            }
            // A directive belongs to the document that follows it and none that Weir reads needs one.
            _ if content.is_none() && line.starts_with('%') => (start, before) = (offset + line.len(), number),
            _ if content.is_none() && has_content(line) => content = Some(number),
            _ => {}
        }
        offset += line.len();
    }
    close(start, text.len(), before, content);
    documents
}

fn has_content(line: &str) -> bool {
    !matches!(line.trim_start().as_bytes().first(), None | Some(b'#'))
}

/// `apiVersion` and `kind` when both are plain lines at the margin, as tools write them.
pub fn sniff(text: &str) -> Option<(&str, &str)> {
    let (mut api_version, mut kind) = (None, None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("apiVersion:") {
            api_version = plain(rest);
        } else if let Some(rest) = line.strip_prefix("kind:") {
            kind = plain(rest);
        } else {
            continue;
        }
        if let (Some(api_version), Some(kind)) = (api_version, kind) {
            return Some((api_version, kind));
        }
    }
    None
}

fn plain(text: &str) -> Option<&str> {
    let text = text.strip_prefix([' ', '\t'])?;
    let text = text.split_once(" #").map_or(text, |(text, _)| text).trim();
    let text = ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q)).unwrap_or(text);
    let simple = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/' | b'-');
    (!text.is_empty() && text.bytes().all(simple)).then_some(text)
}

/// Tells one text from another; the same text has the same print in this process.
pub fn fingerprint(text: &str) -> u64 {
    foldhash::quality::FixedState::with_seed(0x77656972).hash_one(text)
}

/// Line ends in a text.
pub fn count_lines(text: &str) -> u32 {
    text.bytes().filter(|b| *b == b'\n').count() as u32
}
