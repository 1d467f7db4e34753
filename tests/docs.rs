//! What the README says about settings, annotations and metrics is what the code says; and every manifest in the
//! repository is one that Weir serves without complaint.
//!
//! `WEIR_BLESS=1 cargo test --test docs` writes the tables anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use weir::control::provider::check::{check_path, check_text};
use weir::control::translate::annotations::{Standing, TABLE};
use weir::control::translate::{Change, Object, Objects, Options, Translator};
use weir::model::Severity;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The annotations as a Markdown table.
fn annotations() -> String {
    let mut text = String::from("| annotation | accepts | default | meaning |\n|---|---|---|---|\n");
    for annotation in TABLE.iter().filter(|annotation| annotation.standing != Standing::NotImplemented) {
        let default = if annotation.default.is_empty() { "–" } else { annotation.default };
        let accepts = if annotation.standing == Standing::Written { "written by Weir" } else { annotation.accepts };
        text.push_str(&format!("| `weir.dev/{}` | {accepts} | {default} | {} |\n", annotation.key, annotation.doc));
    }
    text
}

#[test]
fn the_readme_has_the_tables_of_the_code() {
    let path = root().join("README.md");
    let written = fs::read_to_string(&path).expect("a README");
    let mut right = written.clone();
    for (name, table) in [
        ("annotations", annotations()),
        ("settings", weir::config::reference()),
        ("metrics", weir::telemetry::metrics::reference()),
    ] {
        let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
        let from = right.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin}")) + begin.len();
        let to = from + right[from..].find(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
        assert!(table.lines().count() > 3, "the table of {name} is empty");
        right.replace_range(from..to, &format!("{}\n", table.trim_end()));
    }
    if right == written {
        return;
    }
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&path, right).expect("a README that can be written");
        return;
    }
    let differ = right.lines().zip(written.lines()).find(|(right, written)| right != written);
    panic!("README.md is not up to date, first at {differ:?}; write it anew with: WEIR_BLESS=1 cargo test --test docs");
}

/// What Weir has to say against these objects, notes apart.
fn complaints(objects: Vec<Object>) -> Vec<String> {
    let mut all = Objects::default();
    for object in objects {
        all.apply(Change::Put(object));
    }
    let translation = Translator::new(Options::default()).translate(&all);
    assert!(!translation.model.entries.is_empty(), "nothing is served");
    let bad = translation.verdicts.iter().filter(|verdict| verdict.severity > Severity::Note);
    bad.map(ToString::to_string).collect()
}

#[test]
fn every_example_is_served_without_an_error() {
    let mut seen = 0;
    for entry in fs::read_dir(root().join("config/examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        let checked = check_path(&path).expect("a readable example");
        assert!(checked.problems.is_empty(), "{}: {:?}", path.display(), checked.problems);
        assert!(checked.objects.len() > 1, "{} has too few objects", path.display());
        let complaints = complaints(checked.objects);
        // TLS to a backend without named roots deserves its warning, also in the example that shows it.
        let meant = path.ends_with("external-name.yaml");
        assert!(
            complaints.iter().all(|text| meant && text.starts_with("warning")),
            "{}: {complaints:#?}",
            path.display()
        );
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} examples");
}

#[test]
fn the_default_manifests_are_served_without_a_complaint() {
    let folder = root().join("config/default");
    let mut objects = Vec::new();
    for entry in fs::read_dir(&folder).expect("the default manifests") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("a readable file");
        let mut filled = text.clone();
        for (key, address) in [("shop-blue", "127.0.0.1:1"), ("shop-green", "127.0.0.1:2"), ("reviews", "127.0.0.1:3")]
        {
            filled = filled.replace(&format!("${{{key}}}"), address);
        }
        let checked = check_text(&path.display().to_string(), &filled);
        assert!(checked.problems.is_empty(), "{}: {:?}", path.display(), checked.problems);
        objects.extend(checked.objects);
    }
    // The certificate is made by the demo; its absence is the only thing to complain about.
    let complaints = complaints(objects);
    assert!(complaints.iter().all(|text| text.contains("demo-certificate")), "{complaints:#?}");
}

#[test]
fn every_link_of_the_readme_leads_somewhere() {
    let text = fs::read_to_string(root().join("README.md")).expect("a README");
    let mut links = 0;
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().unwrap_or("");
        if target.starts_with("http") || target.starts_with('#') {
            continue;
        }
        links += 1;
        assert!(root().join(Path::new(target)).exists(), "README.md links to {target}, which is not there");
    }
    assert!(links > 2, "only {links} links were found");
}
