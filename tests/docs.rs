//! What the README says about settings, annotations and metrics is what the code says; and every manifest in the
//! repository is one that Weir serves without complaint.
//!
//! `WEIR_BLESS=1 cargo test --test docs` writes the tables anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
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

/// What `tests/conformance/summarize` has written.
mod conformance {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    #[derive(Deserialize)]
    pub struct Results {
        pub suite: String,
        pub version: String,
        pub commit: String,
        pub date: String,
        pub channels: BTreeMap<String, Channel>,
    }

    #[derive(Deserialize)]
    pub struct Channel {
        pub profiles: Vec<Profile>,
        pub provisional: usize,
    }

    #[derive(Deserialize)]
    pub struct Profile {
        pub name: String,
        pub core: Figures,
        pub extended: Figures,
        pub features: usize,
        #[serde(default)]
        pub unsupported: Vec<String>,
    }

    #[derive(Deserialize)]
    pub struct Figures {
        pub passed: usize,
        #[serde(default)]
        pub failed: Vec<String>,
        #[serde(default)]
        pub skipped: Vec<String>,
    }

    impl Figures {
        /// `37 of 37`, and by name what is missing.
        fn show(&self) -> String {
            let all = self.passed + self.failed.len() + self.skipped.len();
            let named = |what: &str, tests: &[String]| match tests {
                [] => String::new(),
                tests => format!("; {what}: {}", tests.join(", ")),
            };
            format!("{} of {all}{}{}", self.passed, named("failed", &self.failed), named("skipped", &self.skipped))
        }
    }

    /// The results as a Markdown table, with what was tested when.
    pub fn table(results: &Results) -> String {
        let Results { suite, version, commit, date, channels } = results;
        let mut text = format!("Suite {suite}, Weir {version} at commit {commit}, {date}.\n\n");
        text.push_str(
            "| profile | channel | core tests | extended tests | extended features |\n|---|---|---|---|---|\n",
        );
        for (name, channel) in channels {
            for profile in &channel.profiles {
                let Profile { core, extended, features, unsupported, .. } = profile;
                let all = features + unsupported.len();
                let without =
                    if unsupported.is_empty() { String::new() } else { format!("; not: {}", unsupported.join(", ")) };
                text.push_str(&format!(
                    "| {} | {name} | {} | {} | {features} of {all}{without} |\n",
                    profile.name,
                    core.show(),
                    extended.show()
                ));
            }
        }
        for (name, channel) in channels {
            text.push_str(&format!("\nProvisional tests passed, {name} channel: {}.", channel.provisional));
        }
        text
    }
}

/// The table of the conformance suite's results; a word instead where no run was recorded yet.
fn conformance() -> String {
    match fs::read_to_string(root().join("tests/conformance/results.yaml")) {
        Ok(text) => conformance::table(&serde_saphyr::from_str(&text).expect("results.yaml as summarize writes it")),
        Err(_) => "No run is recorded yet.".to_owned(),
    }
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
        ("conformance", conformance()),
    ] {
        let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
        let from = right.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin}")) + begin.len();
        let to = from + right[from..].find(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
        assert!(table.lines().count() > 3 || name == "conformance", "the table of {name} is empty");
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
fn the_chart_knows_the_sections_of_the_settings_and_the_version() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let schema: serde_json::Value = serde_json::from_str(&read("deploy/helm/values.schema.json")).expect("a schema");
    let known = &schema["properties"]["controller"]["properties"]["config"]["properties"];
    let known: BTreeSet<&str> = known.as_object().expect("sections").keys().map(String::as_str).collect();
    let settings = read("config/weir.yaml");
    let sections = settings.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
    let sections: BTreeSet<&str> = sections.filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    assert!(sections.len() > 10);
    assert_eq!(known, sections, "controller.config of values.schema.json, and config/weir.yaml");

    let version = format!("version: {0}\nappVersion: {0}\n", env!("CARGO_PKG_VERSION"));
    assert!(read("deploy/helm/Chart.yaml").contains(&version), "Chart.yaml has not: {version}");
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
