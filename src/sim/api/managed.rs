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

/// Writes an object's entries: applied ones first, then by time.
pub fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    entries.sort_by(|a, b| {
        let key = |e: &Entry| (!e.manager.applies, e.time.clone(), e.manager.name.clone(), e.manager.subresource.clone());
        key(a).cmp(&key(b))
    });
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return;
    };
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let list = entries.into_iter().map(|e| {
        let mut out = json!({
            "manager": e.manager.name,
            "operation": if e.manager.applies { "Apply" } else { "Update" },
            "apiVersion": e.manager.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": e.fields.to_json(),
        });
        if !e.time.is_empty() {
            out["time"] = e.time.into();
        }
        if !e.manager.subresource.is_empty() {
            out["subresource"] = e.manager.subresource.into();
        }
        out
    });
    metadata.insert("managedFields".into(), list.collect());
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
    let mut entries = match (asked.is_array(), old) {
        (true, Some(_)) => read(new),
        (_, Some(old)) => read(old),
        (_, None) => Vec::new(),
    };
    let empty = json!({"metadata": {}});
    let difference = Difference::between(schema, old.unwrap_or(&empty), new);
    for entry in &mut entries {
        entry.fields.subtract(&difference.removed);
        if Some(&entry.manager) != manager {
            entry.fields.subtract(&difference.written);
        }
    }
    if let Some(manager) = manager.filter(|_| !difference.written.is_empty()) {
        claim(&mut entries, manager, &difference.written, now);
    }
    write(new, entries);
}

/// Adds fields to a manager's entry; its time moves only if it did not have them all.
fn claim(entries: &mut Vec<Entry>, manager: &Manager, fields: &FieldSet, now: Timestamp) {
    // The API server notes no time for scaling.
    let time = if manager.subresource == "scale" { String::new() } else { seconds(now) };
    match entries.iter_mut().find(|e| e.manager == *manager) {
        Some(entry) => {
            entry.fields.union(fields);
            entry.time = time;
        }
        None => entries.push(Entry { manager: manager.clone(), time, fields: fields.clone() }),
    }
}

/// A time as objects carry it: whole seconds, UTC.
pub fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
