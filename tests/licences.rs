//! Every dependency may be used, changed and passed on under a permissive licence.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Licences without conditions on the code that uses them (SPDX identifiers).
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[test]
fn every_dependency_is_permissively_licensed() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    assert!(packages.len() > 50, "only {} packages: the list is not read right", packages.len());
    let refused: BTreeSet<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_permissive))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "no permissive licence: {refused:#?}");
}

#[test]
fn an_expression_is_judged_as_a_whole() {
    for fine in
        ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "(MIT OR GPL-2.0) AND ISC", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(is_permissive(fine), "{fine}");
    }
    for refused in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-2.0 OR LGPL-2.1) AND MIT", "", "MPL-2.0"] {
        assert!(!is_permissive(refused), "{refused}");
    }
}

/// Whether an SPDX expression can be fulfilled with permissive licences alone. `/` is the old way to write `OR`.
fn is_permissive(expression: &str) -> bool {
    let spaced =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "\u{0}WITH\u{0}");
    let words: Vec<String> = spaced.split(' ').filter(|word| !word.is_empty()).map(|w| w.replace('\0', " ")).collect();
    let mut at = 0;
    !words.is_empty() && any(&words, &mut at) && at == words.len()
}

fn any(words: &[String], at: &mut usize) -> bool {
    let mut fine = all(words, at);
    while words.get(*at).is_some_and(|word| word == "OR") {
        *at += 1;
        fine |= all(words, at);
    }
    fine
}

fn all(words: &[String], at: &mut usize) -> bool {
    let mut fine = one(words, at);
    while words.get(*at).is_some_and(|word| word == "AND") {
        *at += 1;
        fine &= one(words, at);
    }
    fine
}

fn one(words: &[String], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let fine = any(words, at);
        *at += 1;
        return fine;
    }
    PERMISSIVE.contains(&word.as_str())
}
