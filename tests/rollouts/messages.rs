//! Every sentence that the controller says, as people read it: those that were met on some ways through a rollout, and, of those that were
//! not, how they are written in the source. Whoever changes one reads it again here; docs/troubleshooting.md is held against it.

use std::{collections::BTreeSet, fs, path::PathBuf};

use regex::Regex;
use serde_json::json;
use sluice::{sim::Behaviour, world::Watched};

use super::{halfway, shop::Shop};

/// Ways through a rollout that between them meet most of what can be said.
fn ways() -> Vec<Shop> {
    let (open, half) = (Shop::open(), halfway());
    let mut promoted = half.clone();
    promoted.command("Promote");
    promoted.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
    let commands = |mut shop: Shop, verbs: &[&str]| {
        for verb in verbs {
            shop.command(verb);
            shop.wait(60);
        }
        shop
    };
    let bad = |spoil: fn(&mut Shop)| {
        let mut shop = open.clone();
        spoil(&mut shop);
        shop.deploy("app:v2");
        shop.wait(200);
        shop
    };
    let aborted = commands(half.clone(), &["Abort"]);
    let mut contested = half.clone();
    for _ in 0..4 {
        contested.put_back(&[Watched::HttpRoute]);
        contested.wait(20);
    }
    contested.put_back(&[Watched::Service]);
    contested.wait(60);
    let mut deleted = promoted.clone();
    deleted.send("DELETE", &sluice::sim::drive::path(Watched::Rollout, super::shop::NS, "api"), "person", "application/json", json!({}));
    deleted.wait(120);
    let mut other = half.clone();
    other.deploy("app:v3");
    other.wait(60);
    other.deploy("app:v1");
    other.wait(120);
    let mut edited = half.clone();
    edited.rollout("api", json!({"strategy": {"canary": {"steps": [{"setWeight": 60}, {"pause": {}}]}}}));
    edited.wait(60);
    edited.rollout("api", json!({"paused": true}));
    edited.wait(10);
    edited.rollout("api", json!({"traffic": {"service": "api", "routes": [{"kind": "HTTPRoute", "name": "nosuch"}]}}));
    edited.wait(200);
    let mut with_rules = open.clone();
    let headers = json!([{"headerName": "X-Canary", "headerValue": {"exact": "yes"}}]);
    let steps = json!([{"setHeaderRoute": {"name": "testers", "match": headers}}, {"setWeight": 5}, {"pause": {}}]);
    with_rules.rollout("api", json!({"strategy": {"canary": {"steps": steps}}}));
    with_rules.deploy("app:v2");
    with_rules.wait(60);
    let mut without_traffic = Shop::without_rollout();
    without_traffic.rollout("api", json!({"traffic": null}));
    without_traffic.until("taken over", |s| s.is_healthy("api"));
    without_traffic.deploy("app:v2");
    without_traffic.wait(300);
    let mut compared = Shop::without_rollout();
    let metric = json!({"name": "compared", "preset": "contour/success-rate", "compare": {}, "interval": "10s"});
    let steps = json!([{"setWeight": 10}, {"pause": {}}]);
    compared.rollout("api", json!({"strategy": {"canary": {"steps": steps, "analysis": {"metrics": [metric]}}}}));
    compared.until("taken over", |s| s.is_healthy("api"));
    compared.drive.failing.extend([("app:v1".to_owned(), 0.01), ("app:v2".to_owned(), 0.04)]);
    compared.deploy("app:v2");
    compared.wait(200);
    vec![
        compared,
        commands(promoted, &["Restart", "Undo", "Undo", "Retry"]),
        commands(half, &["Pause", "Resume", "SkipStep", "SkipStep", "Retry", "Abort", "Abort", "Promote", "Retry", "PromoteFull"]),
        aborted,
        bad(|shop| shop.drive.bad.extend(["app:v2".to_owned()])),
        bad(|shop| shop.drive.cluster.kubelet.set_behaviour("app:v2", Behaviour::never_ready())),
        contested,
        deleted,
        other,
        edited,
        with_rules,
        without_traffic,
    ]
}

/// What was said, without what differs from run to run.
fn said(shops: &[Shop]) -> BTreeSet<String> {
    let patterns = [
        (r"\b[a-z-]+-[a-z0-9]{8,10}-[a-z0-9]+(-[0-9a-z]+)*\b", "NAME"),
        (r"\b(other|api)-[a-z0-9]{8,10}\b", "NAME"),
        (r"\b([bcdfghjklmnpqrstvwxz2456789]{10}|[0-9a-f]{8,10})\b", "REVISION"),
        (r"\b\d\d:\d\d:\d\d UTC", "TIME"),
        (r"\b\d+(\.\d+)?\b", "N"),
    ];
    let patterns = patterns.map(|(pattern, word)| (Regex::new(pattern).unwrap(), word));
    let line = Regex::new(r"^\S+ (?:api|other): status: (?:(event \w+): )?(.+)$").unwrap();
    let lines = shops.iter().flat_map(|shop| &shop.drive.log).filter_map(|text| line.captures(text));
    lines
        .map(|found| {
            let what = found.get(1).map_or("", |event| event.as_str());
            let text = patterns.iter().fold(found[2].to_owned(), |text, (pattern, word)| pattern.replace_all(&text, *word).into_owned());
            format!("{what:<24}{text}").trim_end().to_owned()
        })
        .collect()
}

/// Where the sentences stand that can reach a status, a condition or an event.
const SOURCES: [&str; 6] = ["core", "act", "metrics", "world/project.rs", "controller/runs.rs", "notify"];

/// The files of a directory and of those below it, or the file itself; tests aside.
fn files(path: PathBuf) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path];
    }
    let mut found: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.file_stem().is_some_and(|name| name != "tests"));
    found.sort();
    found.into_iter().flat_map(files).collect()
}

/// The sentences in the sources, with their file, as they are written. Neither those of tests, nor what only the log or a panic says.
fn written() -> Vec<(String, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let literal = Regex::new(r#"(?s)(tracing::\w+!\([^"]*|(?:expect|contains)\()?"((?:[^"\\]|\\.)*)""#).unwrap();
    let is_sentence = |text: &str| {
        let text = text.trim_start_matches([' ', '(', ',', ';']);
        text.matches(' ').count() > 1 && text.starts_with(|c: char| c.is_alphabetic() || c == '{') && !text.starts_with("{\\\"")
    };
    let mut found = vec![];
    for path in SOURCES.iter().flat_map(|part| files(root.join(part))) {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let code = code.join("\n").replace("'\"'", "' '");
        let file = path.strip_prefix(&root).unwrap().display().to_string();
        let sentences = literal.captures_iter(&code).filter(|found| found.get(1).is_none()).map(|found| found[2].to_owned());
        found.extend(sentences.filter(|text| is_sentence(text)).map(|text| (file.clone(), text)));
    }
    found
}

/// Whether a sentence of the source is among those that were said: its words stand in one of them, in the same order.
fn was_said(sentence: &str, said: &str) -> bool {
    let (value, number) = (Regex::new(r"\{[^{}]*\}").unwrap(), Regex::new(r"\b\d+\b").unwrap());
    let words = number.replace_all(sentence.trim(), "N");
    let words: Vec<String> = value.split(&words).map(regex::escape).collect();
    Regex::new(&words.join(".*?")).unwrap().is_match(said)
}

#[test]
fn every_sentence_of_the_controller_is_written_down() {
    let said = said(&ways()).into_iter().collect::<Vec<_>>().join("\n");
    let mut text = format!("# Said on the way\n\n{said}\n\n# Not met there, as the source has them\n");
    let mut last = String::new();
    for (file, sentence) in written().into_iter().filter(|(_, sentence)| !was_said(sentence, &said)) {
        if file != last {
            text.push_str(&format!("\n{file}\n"));
            last = file;
        }
        text.push_str(&format!("  {sentence}\n"));
    }
    insta::assert_snapshot!("messages", text);
}
