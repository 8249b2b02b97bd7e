//! The cases, as data: for each its name and what it changes of a good manifest.
//!
//! `steps: {repeat: {setWeight: 1}, times: 65}` is a list of 65 items (or a text, if it is a text that is repeated); a `#` in it becomes
//! the number of the item. `(removed)` takes a field away.

use std::path::PathBuf;

use serde_json::{Value, json};
use sluice::world::Watched;

pub struct Case {
    pub name: String,
    /// Below `spec`, or from the root with a `/` before it.
    edits: Vec<(String, Value)>,
    /// One of these is named by whoever refuses it.
    pub fields: Vec<String>,
    /// It is an edit of an object that exists.
    pub of_live: bool,
}

fn read(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bad_input/{name}.yaml"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A manifest that is accepted and does what it should.
pub fn good(kind: &str) -> Value {
    serde_yaml_ng::from_str(&read(&format!("good/{kind}"))).unwrap()
}

pub fn cases(file: &str) -> Vec<Case> {
    let all: serde_yaml_ng::Mapping = serde_yaml_ng::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    all.into_iter().map(|(name, edits)| case(name.as_str().unwrap(), edits)).collect()
}

fn case(name: &str, edits: serde_yaml_ng::Value) -> Case {
    let edits: serde_yaml_ng::Mapping = serde_yaml_ng::from_value(edits).unwrap_or_else(|error| panic!("{name}: {error}"));
    let pair = |(path, value): (serde_yaml_ng::Value, serde_yaml_ng::Value)| {
        (path.as_str().unwrap().to_owned(), repeated(serde_json::to_value(value).unwrap()))
    };
    let mut edits: Vec<(String, Value)> = edits.into_iter().map(pair).collect();
    let of_live = edits.iter().any(|(path, _)| path == "(of a live one)");
    let named = edits.iter().position(|(path, _)| path == "(says)").map(|at| edits.remove(at).1);
    edits.retain(|(path, _)| path != "(of a live one)");
    let leaves = edits.iter().flat_map(|(path, _)| path.split(['/', ' ']).rev().filter(|part| part.parse::<usize>().is_err()).take(2));
    let fields = match named {
        Some(text) => vec![text.as_str().unwrap().to_owned()],
        None => leaves.filter(|part| !part.is_empty()).map(str::to_owned).collect(),
    };
    Case { name: name.to_owned(), edits, fields, of_live }
}

fn repeated(value: Value) -> Value {
    let (Some(item), Some(times)) = (value.get("repeat"), value.get("times").and_then(Value::as_u64)) else { return value };
    match item {
        Value::String(text) => json!(text.repeat(usize::try_from(times).unwrap())),
        item => (0..times).map(|n| serde_json::from_str::<Value>(&item.to_string().replace('#', &n.to_string())).unwrap()).collect(),
    }
}

impl Case {
    pub fn edited(&self, good: &Value) -> Value {
        self.edits.iter().fold(good.clone(), |object, (path, value)| set(object, &pointer(path), value))
    }

    /// What is changed of the surroundings: a kind and a name come before the path.
    pub fn objects(&self) -> Vec<(Watched, &'static str)> {
        let known = [(Watched::Service, "api"), (Watched::HttpRoute, "shop"), (Watched::Deployment, "api")];
        let named = |(kind, _): &(Watched, &str)| self.edits.iter().any(|(path, _)| path.starts_with(&kind.resource().kind));
        known.into_iter().filter(named).collect()
    }

    pub fn edited_part(&self, live: &Value) -> Value {
        let kind = live["kind"].as_str().unwrap();
        let own = self.edits.iter().filter_map(|(path, value)| Some((path.strip_prefix(kind)?.strip_prefix(' ')?, value)));
        own.fold(live.clone(), |object, (path, value)| set(object, &pointer(path), value))
    }
}

fn pointer(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/spec/{path}") }
}

/// Sets a field; what is missing above it is made.
fn set(mut object: Value, pointer: &str, value: &Value) -> Value {
    let (parent, leaf) = pointer.rsplit_once('/').unwrap();
    if !parent.is_empty() && object.pointer(parent).is_none() {
        object = set(object, parent, &json!({}));
    }
    let leaf = leaf.replace("~1", "/");
    match object.pointer_mut(parent).unwrap() {
        Value::Array(items) if *value == "(removed)" => drop(items.remove(leaf.parse().unwrap())),
        Value::Array(items) => match leaf.parse::<usize>() {
            Ok(at) if at < items.len() => items[at] = value.clone(),
            _ => items.push(value.clone()),
        },
        Value::Object(fields) if *value == "(removed)" => drop(fields.remove(&leaf)),
        Value::Object(fields) => drop(fields.insert(leaf, value.clone())),
        other => panic!("{pointer}: {other} has no fields"),
    }
    object
}
