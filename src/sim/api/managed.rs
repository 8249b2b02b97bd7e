//! `metadata.managedFields`: who wrote which field last, with which kind of write.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{Difference, FieldSet};
use super::schema::Schema;

/// A writer, as `managedFields` tells writers apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Manager {
    pub name: String,
    /// Server-side apply, or any other write.
    pub applies: bool,
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub manager: Manager,
    pub time: String,
    pub fields: FieldSet,
}

/// Reads an object's entries.
pub fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    entries
        .filter(|e| e.as_object().is_some_and(|e| !e.is_empty()))
        .map(|e| Entry {
            manager: Manager {
                name: text(&e["manager"]),
                applies: e["operation"] == "Apply",
                api_version: text(&e["apiVersion"]),
                subresource: text(&e["subresource"]),
            },
            time: text(&e["time"]),
            fields: FieldSet::from_json(&e["fieldsV1"]),
        })
        .collect()
}

impl Entry {
    fn to_json(&self) -> Value {
        let mut out = json!({
            "manager": self.manager.name,
            "operation": if self.manager.applies { "Apply" } else { "Update" },
            "apiVersion": self.manager.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_json(),
        });
        if !self.time.is_empty() {
            out["time"] = self.time.clone().into();
        }
        if !self.manager.subresource.is_empty() {
            out["subresource"] = self.manager.subresource.clone().into();
        }
        out
    }
}

fn to_json(entries: Vec<Entry>) -> Vec<Value> {
    entries.iter().filter(|entry| !entry.fields.is_empty()).map(Entry::to_json).collect()
}

/// Writes an object's entries.
pub fn write(object: &mut Value, entries: Vec<Entry>) {
    put(object, to_json(entries));
}

/// Entries in their order: applied ones first, then by time.
fn put(object: &mut Value, mut entries: Vec<Value>) {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries.sort_by_cached_key(|e| (e["operation"] != "Apply", text(e, "time"), text(e, "manager"), text(e, "subresource")));
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), entries.into());
    }
}

/// Notes an update (anything but server-side apply): what it changed is now the writer's, and nobody else's.
/// The entries it starts from are those in `new`, if it has any (a writer may edit them), else those in `old`.
/// `None` for `old` is a creation; `None` for `manager` notes nobody as the new owner.
pub fn note_update(schema: &Schema, old: Option<&Value>, new: &mut Value, manager: Option<&Manager>, now: Timestamp) {
    let asked = &new["metadata"]["managedFields"];
    // An explicitly empty list forgets all owners, and this write claims nothing either.
    if old.is_some() && asked.as_array().is_some_and(|a| a.iter().all(|e| e.as_object().is_none_or(|m| m.is_empty()))) {
        write(new, Vec::new());
        return;
    }
    let before = old.map_or(&Value::Null, |old| &old["metadata"]["managedFields"]);
    let mut entries = match before {
        _ if old.is_none() => vec![],
        _ if asked == before => take(new),
        _ if asked.is_array() => to_json(read(new)),
        before => before.as_array().cloned().unwrap_or_default(),
    };
    let empty = json!({"metadata": {}});
    let difference = Difference::between(schema, old.unwrap_or(&empty), new);
    entries.retain_mut(|entry| {
        let is_writers = manager.is_some_and(|manager| is_of(entry, manager));
        let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) else { return false };
        difference.removed.subtract_from(fields) && (is_writers || difference.written.subtract_from(fields))
    });
    if let Some(manager) = manager.filter(|_| !difference.written.is_empty()) {
        claim(&mut entries, manager, &difference.written, now);
    }
    put(new, entries);
}

fn take(object: &mut Value) -> Vec<Value> {
    match object["metadata"]["managedFields"].take() {
        Value::Array(entries) => entries,
        _ => vec![],
    }
}

/// Adds fields to a manager's entry; its time moves only if it did not have them all.
fn claim(entries: &mut Vec<Value>, manager: &Manager, fields: &FieldSet, now: Timestamp) {
    // The API server notes no time for scaling.
    let time = if manager.subresource == "scale" { String::new() } else { seconds(now) };
    let Some(entry) = entries.iter_mut().find(|entry| is_of(entry, manager)) else {
        return entries.push(Entry { manager: manager.clone(), time, fields: fields.clone() }.to_json());
    };
    if let Some(had) = entry["fieldsV1"].as_object_mut() {
        fields.union_into(had);
    }
    if !time.is_empty() {
        entry["time"] = time.into();
    }
}

/// Whether an entry is a manager's.
fn is_of(entry: &Value, manager: &Manager) -> bool {
    entry["manager"] == *manager.name
        && (entry["operation"] == "Apply") == manager.applies
        && entry["apiVersion"] == *manager.api_version
        && entry["subresource"].as_str().unwrap_or_default() == manager.subresource
}

/// A time as objects carry it: whole seconds, UTC.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
