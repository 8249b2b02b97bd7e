//! What two servers can never answer alike is replaced by what it means: uids by the order in which they appear, resource versions by
//! their rank among all that a sequence showed, times and allocated addresses by a word.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::{Captures, Regex};
use serde_json::{Value, json};

use super::{request::NAMESPACE, target::Answer};

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a pattern of ours")
}

static UID: LazyLock<Regex> = LazyLock::new(|| regex("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
/// The words around resource versions in messages.
static VERSIONS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(ResourceVersion in the precondition \(|ResourceVersion in record \(|ResourceVersion in object meta: |current: |resource version: (?:\d+ \()?)\d+",
    )
});
/// An address that was allocated to a Service.
static ADDRESS: LazyLock<Regex> = LazyLock::new(|| regex(r"^10\.96\.\d+\.\d+$"));
/// A time that a server put, not a request: those are of another year's first day.
static TIME: LazyLock<Regex> = LazyLock::new(|| regex(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"));
static OBJECT: LazyLock<Regex> = LazyLock::new(|| regex(r#"Invalid value: "\{\\".*\}": "#));

/// The answers to one sequence, as comparable as they can be.
pub fn normal(answers: &[Answer], namespace: &str) -> Vec<Answer> {
    let ranks = ranks(answers);
    let mut uids = Uids::default();
    let mut identities = vec![];
    for answer in answers {
        each_object(&answer.body, &mut |object| identities.extend(object["metadata"]["uid"].as_str().map(str::to_owned)));
    }
    identities.iter().for_each(|uid| drop(uids.word(uid)));
    answers.iter().map(|answer| Answer { status: answer.status, body: body(&answer.body, &ranks, &mut uids, namespace) }).collect()
}

fn body(body: &Value, ranks: &BTreeMap<u64, usize>, uids: &mut Uids, namespace: &str) -> Value {
    let mut body = body.clone();
    each_object_mut(&mut body, &mut |object| plain_metadata(object, ranks));
    let is_list = body["items"].is_array();
    if is_list {
        // A list is of the whole server's last write, whoever's that was.
        body["metadata"]["resourceVersion"] = "that of the list".into();
    }
    let text = body.to_string();
    let text = UID.replace_all(&text, |found: &Captures<'_>| uids.word(&found[0])).replace(namespace, NAMESPACE);
    let mut body: Value = serde_json::from_str(&text).unwrap_or(body);
    // Conflicts with several managers come in any order.
    let causes = body.pointer_mut("/details/causes").and_then(Value::as_array_mut);
    if let Some(causes) = causes.filter(|causes| causes.iter().all(is_conflict)) {
        causes.sort_by_cached_key(Value::to_string);
    }
    each_text(&mut body, &mut |text| {
        *text = VERSIONS.replace_all(text, "$1<version>").into_owned();
        if TIME.is_match(text) && !text.starts_with("2026-01-01") {
            *text = "<time>".to_owned();
        }
        *text = ADDRESS.replace(text, "<address>").into_owned();
        *text = OBJECT.replace_all(text, "Invalid value: <the whole object>: ").into_owned();
    });
    body
}

fn is_conflict(cause: &Value) -> bool {
    cause["reason"] == "FieldManagerConflict"
}

/// Each resource version that objects showed, with its rank.
fn ranks(answers: &[Answer]) -> BTreeMap<u64, usize> {
    let mut ranks = BTreeMap::new();
    for answer in answers {
        each_object(&answer.body, &mut |object| {
            ranks.extend(version(object).map(|version| (version, 0)));
        });
    }
    ranks.values_mut().enumerate().for_each(|(rank, slot)| *slot = rank);
    ranks
}

fn version(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

fn plain_metadata(object: &mut Value, ranks: &BTreeMap<u64, usize>) {
    let rank = version(object).and_then(|version| ranks.get(&version));
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if let Some(rank) = rank {
        metadata["resourceVersion"] = format!("version {rank}").into();
    }
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(time) = metadata.get_mut(field).filter(|time| time.is_string()) {
            *time = "<time>".into();
        }
    }
    let Some(entries) = metadata.get_mut("managedFields").and_then(Value::as_array_mut) else { return };
    for entry in entries.iter_mut() {
        if entry["time"].is_string() {
            entry["time"] = "<time>".into();
        }
    }
    // They are sorted by time, of which only the seconds are kept.
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries.sort_by_cached_key(|entry| ["operation", "manager", "subresource", "apiVersion"].map(|field| text(entry, field)));
}

#[derive(Default)]
struct Uids(BTreeMap<String, usize>);

impl Uids {
    fn word(&mut self, uid: &str) -> String {
        // Those of owners that nobody looks for are the same everywhere.
        if uid.starts_with("00000000-") {
            return uid.to_owned();
        }
        let next = self.0.len();
        format!("uid-{}", self.0.entry(uid.to_owned()).or_insert(next))
    }
}

/// The objects of an answer: itself, the items of a list, those of a watch's events.
fn objects(body: &Value) -> Vec<&Value> {
    match body {
        Value::Array(events) => events.iter().map(|event| &event["object"]).collect(),
        body => match body["items"].as_array() {
            Some(items) => items.iter().collect(),
            None => vec![body],
        },
    }
}

fn each_object(body: &Value, see: &mut impl FnMut(&Value)) {
    objects(body).into_iter().for_each(see);
}

fn each_object_mut(body: &mut Value, change: &mut impl FnMut(&mut Value)) {
    match body {
        Value::Array(events) => events.iter_mut().filter_map(|event| event.get_mut("object")).for_each(change),
        body if body["items"].is_array() => body["items"].as_array_mut().into_iter().flatten().for_each(change),
        body => change(body),
    }
}

pub fn each_text(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(map) => map.values_mut().for_each(|value| each_text(value, change)),
        _ => {}
    }
}

/// Where two values differ: a JSON pointer, and both.
pub fn differences(one: &Value, other: &Value) -> Vec<(String, Value, Value)> {
    let mut found = vec![];
    collect(one, other, String::new(), &mut found);
    found
}

fn collect(one: &Value, other: &Value, at: String, found: &mut Vec<(String, Value, Value)>) {
    match (one, other) {
        (one, other) if one == other => {}
        (Value::Object(a), Value::Object(b)) => {
            let more = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(more) {
                // What is missing is told from null.
                let side = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_else(|| json!("(nothing)"));
                collect(&side(a), &side(b), format!("{at}/{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| collect(a, b, format!("{at}/{i}"), found));
        }
        _ => found.push((at, one.clone(), other.clone())),
    }
}
