//! `docs/reference.md` names every word that tools may rely on.

use std::{fs, path::Path};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Values of the string constants in a source text.
fn constants(source: &str) -> Vec<&str> {
    source.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": &str = \"")?.1.strip_suffix("\";")).collect()
}

/// Words that nobody is told what to do about.
fn without_advice<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let text = read("docs/troubleshooting.md");
    let is_told = |word: &str| text.contains(&format!("`{word}`")) || text.contains(&format!("\n### {word}\n"));
    words.iter().copied().filter(|word| !is_told(word)).collect()
}

fn undocumented<'a>(words: &[&'a str], section: &str) -> Vec<&'a str> {
    let reference = read("docs/reference.md");
    let text = reference.split("\n## ").find(|s| s.starts_with(section)).unwrap_or_else(|| panic!("no section {section}"));
    words.iter().copied().filter(|word| !text.contains(&format!("`{word}"))).collect()
}

#[test]
fn every_condition_and_reason_is_in_the_reference() {
    let source = read("src/api/conditions.rs");
    let words = constants(&source);
    assert!(words.len() > 25, "{words:?}");
    assert_eq!(undocumented(&words, "Conditions"), Vec::<&str>::new());
    assert_eq!(without_advice(&words), Vec::<&str>::new());
}

#[test]
fn every_reason_of_an_event_is_in_the_reference() {
    let source = read("src/core/report.rs");
    let words = constants(&source);
    assert!(words.len() > 10, "{words:?}");
    assert_eq!(undocumented(&words, "Events"), Vec::<&str>::new());
    assert_eq!(without_advice(&words), Vec::<&str>::new());
}

#[test]
fn every_key_is_in_the_reference() {
    let source = read("src/api/keys.rs");
    // Kubernetes' own, and a value.
    let words: Vec<&str> = constants(&source).into_iter().filter(|word| word.contains('/')).collect();
    assert!(words.len() > 8, "{words:?}");
    assert_eq!(undocumented(&words, "Labels"), Vec::<&str>::new());
}

#[test]
fn every_metric_of_the_controller_is_in_the_reference() {
    let source = read("src/telemetry.rs");
    let flat = source.replace(['\n', ' '], "");
    let mut names: Vec<String> = flat
        .split("registry.register")
        .skip(1)
        .filter_map(|rest| Some(format!("sluice_{}", rest.split_once("(\"")?.1.split_once('"')?.0)))
        .collect();
    names.push("sluice_leader".to_owned());
    assert!(names.len() > 4, "{names:?}");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(undocumented(&names, "Metrics"), Vec::<&str>::new());
}
