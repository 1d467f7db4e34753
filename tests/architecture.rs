//! Who may know whom: the import rule of the house, held against every `crate::…` and `super::…` path under `src/`.
//!
//! The source is read as tokens, not as text: comments, strings and what is compiled for tests only do not count, and a
//! path counts wherever it stands, in a `use`, in an expression or inside a macro.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What a room may import from Weir. A room is a module with all that is below it; the most specific row holds.
/// `x::*` means every room below `x`. A room may always import itself.
const RULE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("drain", &[]),
    ("proxy::fault", &[]),
    ("proxy::wire", &["model", "proxy::fault"]),
    ("config", &["model"]),
    ("tls", &["model"]),
    ("telemetry", &["model"]),
    ("proxy::policy", &["model", "telemetry", "proxy::fault", "proxy::wire"]),
    ("proxy::backend", &["model", "telemetry", "tls", "drain", "proxy::fault", "proxy::wire"]),
    ("proxy::snapshot", &["model", "telemetry", "tls", "proxy::policy", "proxy::backend", "proxy::wire"]),
    // What the data plane is told once, at start.
    ("proxy::options", &["proxy::wire"]),
    // The nouns (a bind, a filter) reach requests by way of the snapshot, and may be named.
    (
        "proxy::request",
        &[
            "model",
            "proxy::snapshot",
            "proxy::policy",
            "proxy::backend",
            "proxy::fault",
            "proxy::wire",
            "proxy::options",
            "telemetry",
            "drain",
        ],
    ),
    ("proxy::listener", &["model", "proxy::*", "tls", "telemetry", "drain"]),
    ("proxy::worker", &["model", "proxy::*", "tls", "telemetry", "drain"]),
    ("proxy", &[]),
    ("control::translate", &["model"]),
    // The machine decides over the model alone; only its driver and the tally touch what is alive.
    ("control::cutover", &["model", "control::cutover::driver", "control::cutover::tally"]),
    ("control::cutover::driver", &["model", "control::cutover", "control::cutover::tally", "proxy::backend"]),
    ("control::cutover::tally", &["proxy::backend", "telemetry"]),
    ("control::provider", &["model", "control::translate", "telemetry", "drain"]),
    ("control", &["model", "control::*", "proxy::snapshot", "telemetry", "drain"]),
    ("autoscale", &["model", "telemetry", "drain"]),
    // These two show what the others know; they may look into every room, and only the command line starts the app.
    (
        "admin",
        &["model", "config", "drain", "telemetry", "tls", "control", "control::*", "proxy", "proxy::*", "autoscale"],
    ),
    (
        "cli",
        &[
            "model",
            "config",
            "drain",
            "telemetry",
            "tls",
            "control",
            "control::*",
            "proxy",
            "proxy::*",
            "autoscale",
            "admin",
            "app",
        ],
    ),
    (
        "app",
        &[
            "model",
            "config",
            "drain",
            "telemetry",
            "tls",
            "control",
            "control::*",
            "proxy",
            "proxy::*",
            "autoscale",
            "admin",
            "cli",
        ],
    ),
];

#[test]
fn every_import_is_one_that_the_rule_allows() {
    let mut broken = String::new();
    let mut imports = 0;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).expect("below src").to_path_buf();
        let module = module_of(&relative);
        // `lib.rs` declares the rooms and `main.rs` starts the binary: they are no room.
        if module.is_empty() {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a readable source file");
        for import in imports_of(&text, &module) {
            imports += 1;
            if let Some(why) = verdict(&module.join("::"), &import.path.join("::")) {
                writeln!(broken, "src/{}:{}: {why}", relative.display(), import.line).expect("a string");
            }
        }
    }
    assert!(broken.is_empty(), "imports that the rule does not allow:\n{broken}");
    assert!(imports > 20, "only {imports} imports were found: the reader is broken");
}

#[test]
fn every_module_belongs_to_a_room_of_the_rule() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let homeless: Vec<_> = rust_files(&source)
        .into_iter()
        .map(|file| file.strip_prefix(&source).expect("below src").to_path_buf())
        .filter(|file| {
            let module = module_of(file);
            !module.is_empty() && room_of(&module.join("::")).is_none()
        })
        .collect();
    assert!(homeless.is_empty(), "no row of the rule speaks of {homeless:?}");
}

#[test]
fn the_reader_sees_every_way_to_write_an_import() {
    let text = r##"
        //! use crate::comment::Ignored;
        use crate::{model::{Name, Route as R}, proxy::fault::*};
        /* crate::block::Ignored /* nested */ crate::block::Ignored */
        pub(super) fn f<'a>(x: &'a str) -> char { let s = "crate::string::Ignored"; let c = '"'; crate::inline::call::<u8>(s) }
        const RAW: &str = r#"crate::raw::Ignored " "#;
        use super::sibling::Thing;
        macro_rules! m { () => { $crate::in_macro::Thing } }
        #[cfg(test)]
        mod tests { use crate::tests_are_free::Anything; }
        use crate::after;
    "##;
    let module = vec!["proxy".to_owned(), "request".to_owned()];
    let found: Vec<_> = imports_of(text, &module).iter().map(|i| format!("{} {}", i.line, i.path.join("::"))).collect();
    assert_eq!(
        found,
        [
            "3 model::Name",
            "3 model::Route",
            "3 proxy::fault",
            "5 inline::call",
            "7 proxy::sibling::Thing",
            "8 in_macro::Thing",
            "11 after",
        ]
    );
}

#[test]
fn the_rule_forbids_what_it_should() {
    assert_eq!(verdict("proxy::request::attempt", "proxy::backend::Pool"), None);
    assert_eq!(verdict("control", "control::translate::objects"), None);
    assert_eq!(verdict("model::route", "model::BackendKey"), None);
    assert!(verdict("proxy::request", "control::translate::Objects").is_some());
    assert!(verdict("model", "telemetry::stats").is_some());
    assert!(verdict("control::translate", "proxy::snapshot::Snapshot").is_some());
    assert!(verdict("telemetry", "app::run").is_some());
}

/// Why `module` may not import `path`; `None` if it may.
fn verdict(module: &str, path: &str) -> Option<String> {
    let (room, allowed) = room_of(module)?;
    let (target, _) = room_of(path)?;
    let fine = room == target
        || allowed.iter().any(|entry| match entry.strip_suffix("::*") {
            Some(parent) => target.strip_prefix(parent).is_some_and(|rest| rest.starts_with("::")),
            None => *entry == target,
        });
    (!fine).then(|| {
        let list = if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") };
        format!("`{room}` imports `{path}` (room `{target}`); `{room}` may import {list}")
    })
}

/// The most specific row that `module` falls under.
fn room_of(module: &str) -> Option<(&'static str, &'static [&'static str])> {
    RULE.iter()
        .filter(|(room, _)| module == *room || module.strip_prefix(room).is_some_and(|rest| rest.starts_with("::")))
        .max_by_key(|(room, _)| room.len())
        .copied()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn module_of(relative: &Path) -> Vec<String> {
    let mut parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let file = parts.pop().unwrap_or_default();
    match file.trim_end_matches(".rs") {
        "mod" | "lib" | "main" => {}
        name => parts.push(name.to_owned()),
    }
    parts
}

struct Import {
    line: usize,
    /// From the root of the crate.
    path: Vec<String>,
}

fn imports_of(text: &str, module: &[String]) -> Vec<Import> {
    let tokens = tokens_of(text);
    let mut imports = Vec::new();
    let mut at = 0;
    // Inline modules that are open, as the depth of their braces: `super` in them is one step less far.
    let mut depth = 0_usize;
    let mut inline: Vec<usize> = Vec::new();
    while at < tokens.len() {
        let word = tokens[at].text.as_str();
        if is_test_only(&tokens[at..]) {
            at = after_item(&tokens, at);
            continue;
        }
        match word {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|open| *open <= depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|token| token.text == "{") => inline.push(depth + 1),
            "crate" | "super" if tokens.get(at + 1).is_some_and(|token| token.text == "::") => {
                let mut base = if word == "crate" { Vec::new() } else { module.to_vec() };
                let mut steps = usize::from(word == "super");
                let mut next = at + 2;
                while tokens.get(next).is_some_and(|token| token.text == "super") {
                    steps += 1;
                    next += 2;
                }
                // Within an inline module `super` may still be this file.
                base.truncate(base.len().saturating_sub(steps.saturating_sub(inline.len())));
                at = tree(&tokens, next, &base, &mut imports);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    imports
}

/// Reads a use tree (or a path) at `at`; returns where it ends.
fn tree(tokens: &[Token], mut at: usize, base: &[String], imports: &mut Vec<Import>) -> usize {
    let mut path = base.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                at = tree(tokens, at, &path, imports);
                if tokens.get(at).is_some_and(|token| token.text == "as") {
                    at += 2;
                }
                if tokens.get(at).is_some_and(|token| token.text == ",") {
                    at += 1;
                }
            }
            return at + 1;
        }
        if token.text.starts_with(|c: char| c.is_alphabetic() || c == '_') && token.text != "self" {
            path.push(token.text.clone());
        }
        at += 1;
        let goes_on = tokens.get(at).is_some_and(|token| token.text == "::")
            && tokens
                .get(at + 1)
                .is_some_and(|token| token.text.starts_with(|c: char| c.is_alphabetic() || "_{*".contains(c)));
        if !goes_on {
            break;
        }
        at += 1;
    }
    imports.push(Import { line, path });
    at
}

fn is_test_only(tokens: &[Token]) -> bool {
    ["#", "[", "cfg", "(", "test", ")", "]"]
        .iter()
        .enumerate()
        .all(|(at, word)| tokens.get(at).is_some_and(|token| token.text == *word))
}

/// Where the item that begins at `at` (with its attributes) is over: after its braces or its semicolon.
fn after_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.text == "}" {
                    return at;
                }
            }
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    at
}

struct Token {
    line: usize,
    text: String,
}

/// Words, `::` and single characters; comments, strings and character literals are left out.
fn tokens_of(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    let peek = |at: usize| chars.get(at).copied().unwrap_or('\0');
    while at < chars.len() {
        let from = at;
        match (chars[at], peek(at + 1)) {
            ('/', '/') => {
                while at < chars.len() && chars[at] != '\n' {
                    at += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                while at < chars.len() {
                    match (chars[at], peek(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            ('r', '"' | '#') if raw_string_end(&chars, at).is_some() => {
                at = raw_string_end(&chars, at).expect("just seen");
            }
            ('"', _) => {
                at += 1;
                while at < chars.len() && chars[at] != '"' {
                    at += if chars[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
            }
            ('\'', '\\') => {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            ('\'', _) if peek(at + 2) == '\'' => at += 3,
            (':', ':') => {
                tokens.push(Token { line, text: "::".to_owned() });
                at += 2;
            }
            (c, _) if c.is_alphanumeric() || c == '_' => {
                while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                    at += 1;
                }
                tokens.push(Token { line, text: chars[from..at].iter().collect() });
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(Token { line, text: c.to_string() });
                }
                at += 1;
            }
        }
        line += chars[from..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let mut end = at + 1 + hashes;
    if chars.get(end) != Some(&'"') {
        return None;
    }
    end += 1;
    while end < chars.len() {
        if chars[end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}
