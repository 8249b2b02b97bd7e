//! `docs/reference.md` names every word that tools may rely on.

use std::{collections::BTreeSet, fs, path::Path};

use regex::Regex;
use serde_json::Value;
use sluice::telemetry;

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

/// What a document quotes: its spans of code that are sentences, which `…`, words in capitals and numbers leave open.
fn quotes(document: &str) -> Vec<String> {
    let span = Regex::new("`([^`]+)`").unwrap();
    let mut code = false;
    let prose = document.lines().filter(|line| {
        let fence = line.starts_with("```");
        code ^= fence;
        !code && !fence
    });
    let spans = prose.flat_map(|line| span.captures_iter(line).map(|found| found[1].to_owned()).collect::<Vec<_>>());
    let open = open_words();
    let is_sentence = |text: &String| open.replace_all(text, "").split_whitespace().count() > 1 && !text.starts_with("kubectl ");
    spans.filter(is_sentence).collect()
}

fn open_words() -> Regex {
    Regex::new(r"…|\b[A-Z]+\b|\b\d+\b").unwrap()
}

/// All that is said to people, a line each: by the controller, the chart's policy, and the plugin.
fn said() -> String {
    let joint = Regex::new(r"'\s*\+\s*[\w.]+\s*\+\s*'").unwrap();
    let policy = read("charts/sluice/files/action-policy.yaml");
    let messages = read("tests/rollouts/snapshots/rollouts__messages__messages.snap");
    [messages, joint.replace_all(&policy, "{}").into_owned(), read("src/cli/words.rs")].join("\n")
}

#[test]
fn every_message_that_is_quoted_is_said() {
    let (said, open) = (said(), open_words());
    let quotes = quotes(&read("docs/troubleshooting.md"));
    assert!(quotes.len() > 50, "{quotes:?}");
    let is_said = |quote: &&String| {
        let words: Vec<String> = open.split(quote).map(regex::escape).collect();
        Regex::new(&words.join(".+?")).unwrap().is_match(&said)
    };
    let stale: Vec<&String> = quotes.iter().filter(|quote| !is_said(quote)).collect();
    assert!(stale.is_empty(), "nobody says {stale:#?}");
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

/// The names of the controller's metrics, as they are registered; units and suffixes come behind them.
fn metrics() -> Vec<String> {
    let source = read("src/telemetry/mod.rs").replace(['\n', ' '], "");
    let registered =
        source.split("registry.register").skip(1).filter_map(|rest| Some(rest.split_once("(\"")?.1.split_once('"')?.0.to_owned()));
    let derived = telemetry::rollout_gauges().map(str::to_owned);
    registered.chain(derived).chain(["leader".to_owned()]).map(|name| format!("sluice_{name}")).collect()
}

#[test]
fn every_metric_of_the_controller_is_in_the_reference() {
    let names = metrics();
    assert!(names.len() > 16, "{names:?}");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(undocumented(&names, "Metrics"), Vec::<&str>::new());
}

#[test]
fn alerts_and_dashboard_ask_only_for_metrics_that_exist() {
    let endings = ["", "_total", "_info", "_seconds", "_seconds_bucket", "_seconds_count", "_seconds_sum"];
    let known: BTreeSet<String> = metrics().iter().flat_map(|name| endings.map(|ending| format!("{name}{ending}"))).collect();
    let metric = Regex::new(r"sluice_\w+").unwrap();
    for file in ["charts/sluice/files/alerts.yaml", "charts/sluice/files/dashboard.json"] {
        let text = read(file);
        let asked: BTreeSet<&str> = metric.find_iter(&text).map(|found| found.as_str()).collect();
        assert!(asked.len() > 4, "{file}: {asked:?}");
        let unknown: Vec<&&str> = asked.iter().filter(|name| !known.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn every_alert_is_in_the_reference_and_says_what_to_do() {
    let alerts: Value = serde_yaml_ng::from_str(&read("charts/sluice/files/alerts.yaml")).unwrap();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(), "{rule}");
    }
    let names: Vec<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(undocumented(&names, "Alerts"), Vec::<&str>::new());
}
