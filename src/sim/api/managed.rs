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

/// Who had all fields of an object that nobody was followed in, before somebody applied to it.
pub fn before_first_apply(schema: &Schema, live: &Value, api_version: &str, now: Timestamp) -> Option<Entry> {
    let fields = Difference::between(schema, &json!({"metadata": {}}), live).written;
    let manager =
        Manager { name: "before-first-apply".into(), applies: false, api_version: api_version.to_owned(), subresource: String::new() };
    (!fields.is_empty()).then(|| Entry { manager, time: seconds(now), fields })
}

/// Reads an object's entries. Of two of one manager the later one counts.
pub fn read(object: &Value) -> Vec<Entry> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut entries: Vec<Entry> = Vec::new();
    for entry in object["metadata"]["managedFields"].as_array().into_iter().flatten() {
        if entry.as_object().is_none_or(serde_json::Map::is_empty) {
            continue;
        }
        let manager = Manager {
            name: text(&entry["manager"]),
            applies: entry["operation"] == "Apply",
            api_version: text(&entry["apiVersion"]),
            subresource: text(&entry["subresource"]),
        };
        entries.retain(|earlier| earlier.manager != manager);
        entries.push(Entry { manager, time: text(&entry["time"]), fields: FieldSet::from_json(&entry["fieldsV1"]) });
    }
    entries
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
    fn place(entry: &Value) -> (bool, [&str; 3]) {
        (entry["operation"] != "Apply", ["time", "manager", "subresource"].map(|field| entry[field].as_str().unwrap_or_default()))
    }
    entries.sort_by(|one, other| place(one).cmp(&place(other)));
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
    forget_doubles(&mut entries);
    // Who owned nothing when the object was made is not followed until somebody applies.
    if old.is_some() && entries.is_empty() {
        put(new, entries);
        return;
    }
    let empty = json!({"metadata": {}});
    let difference = Difference::between(schema, old.unwrap_or(&empty), new);
    entries.retain_mut(|entry| {
        let is_writers = manager.is_some_and(|manager| is_of(entry, manager));
        let Some(fields) = entry.get_mut("fieldsV1").and_then(Value::as_object_mut) else { return false };
        difference.removed.subtract_whole_from(fields) && (is_writers || difference.written.subtract_from(fields))
    });
    if let Some(manager) = manager.filter(|_| !difference.written.is_empty()) {
        claim(&mut entries, manager, &difference.written, now);
    }
    put(new, entries);
}

/// Notes a scaling. The API server sees only the owners of the replicas there, under another version, and what it writes back is so: an
/// updater has them in an entry of their own, without a time, and a second entry of the same manager takes the place of the first.
pub fn note_scale(path: &[String], old: &Value, new: &mut Value, manager: Manager) {
    let mut entries = read(old);
    let replicas = FieldSet::of_path(path);
    let (owners, is_followed): (Vec<Manager>, _) = {
        let owning = |entry: &&Entry| !entry.fields.intersection(&replicas).is_empty();
        let owners: Vec<Manager> = entries.iter().filter(owning).map(|entry| entry.manager.clone()).collect();
        let is_followed = !owners.is_empty();
        (owners, is_followed)
    };
    let at = |object: &Value| path.iter().try_fold(object, |value, name| value.get(name)).cloned();
    let owners = match at(old) == at(new) {
        true => owners,
        // No replicas are written as nothing, and nothing is owned by nobody.
        false if is_followed && at(new).is_some_and(|replicas| replicas != 0) => vec![manager],
        false => vec![],
    };
    for entry in entries.iter_mut().filter(|entry| !(entry.manager.applies && owners.contains(&entry.manager))) {
        entry.fields.subtract(&replicas);
    }
    let owners = owners.into_iter().filter(|owner| !(owner.applies && entries.iter().any(|entry| entry.manager == *owner)));
    let theirs: Vec<Entry> = owners.map(|manager| Entry { manager, time: String::new(), fields: replicas.clone() }).collect();
    entries.extend(theirs);
    write(new, entries);
}

/// Entries that say nothing are not stored.
pub fn forget_empty(object: &mut Value) {
    if let Some(entries) = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        entries.retain(|entry| entry.as_object().is_none_or(|entry| !entry.is_empty()));
    }
}

/// Of two entries of one manager only the later one is read.
fn forget_doubles(entries: &mut Vec<Value>) {
    let same = |one: &Value, other: &Value| {
        ["manager", "operation", "apiVersion", "subresource"].into_iter().all(|field| one[field] == other[field])
    };
    for at in (0..entries.len()).rev() {
        if entries[at + 1..].iter().any(|later| same(later, &entries[at])) {
            entries.remove(at);
        }
    }
}

fn take(object: &mut Value) -> Vec<Value> {
    match object["metadata"]["managedFields"].take() {
        Value::Array(entries) => entries,
        _ => vec![],
    }
}

/// Adds fields to a manager's entry; its time moves only if it did not have them all.
fn claim(entries: &mut Vec<Value>, manager: &Manager, fields: &FieldSet, now: Timestamp) {
    let time = seconds(now);
    let Some(entry) = entries.iter_mut().find(|entry| is_of(entry, manager)) else {
        return entries.push(Entry { manager: manager.clone(), time, fields: fields.clone() }.to_json());
    };
    if let Some(had) = entry["fieldsV1"].as_object_mut() {
        fields.union_into(had);
    }
    entry["time"] = time.into();
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
    format!("{at:.0}")
}
