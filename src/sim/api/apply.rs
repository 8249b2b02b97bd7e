//! Server-side apply: merge what a manager applied, remove what it no longer applies, and refuse to take others' fields.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::{Difference, FieldSet, item_key};
use super::managed::{self, Entry, Manager};
use super::schema::{ListType, Schema};

/// Applies `config` to `live` and returns the object as it shall be, with its `managedFields`.
pub fn apply(schema: &Schema, live: &Value, config: &Value, manager: &Manager, force: bool, now: Timestamp) -> Result<Value, ApiError> {
    let mut entries = managed::read(live);
    if entries.is_empty() {
        entries.extend(managed::before_first_apply(schema, live, &manager.api_version, now));
    }
    let applied = FieldSet::of_object(schema, config);
    let mut merged = merge(Some(schema), Some(live), config);
    keep_servers_fields(live, &mut merged);

    let written = Difference::between(schema, live, &merged).written;
    let force = force || is_migration(schema, live, &entries, manager, &written);
    refuse_conflicts(&mut entries, manager, &written, force)?;

    let before = entries.iter().position(|e| e.manager == *manager).map(|i| entries.remove(i));
    if let Some(before) = &before {
        let mut kept = applied.clone();
        entries.iter().for_each(|entry| kept.union(&entry.fields));
        let mut gone = before.fields.clone();
        gone.subtract(&kept);
        gone.spare(&kept);
        gone.drop_whole("f:metadata");
        gone.remove_from(Some(schema), &mut merged, &kept);
    }
    // Who applies what is there already has done so at no time.
    let time = match before {
        _ if merged != *live => managed::seconds(now),
        Some(before) => before.time,
        None => String::new(),
    };
    let removed = Difference::between(schema, live, &merged).removed;
    for entry in &mut entries {
        entry.fields.subtract_whole(&removed);
    }
    entries.push(Entry { manager: manager.clone(), time, fields: applied });
    managed::write(&mut merged, entries);
    Ok(merged)
}

/// Whether kubectl takes over only what it had applied from the client side before: it may do so without force.
fn is_migration(schema: &Schema, live: &Value, entries: &[Entry], manager: &Manager, written: &FieldSet) -> bool {
    let before = live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    let Some(before) = before.filter(|_| manager.name == "kubectl").and_then(|b| serde_json::from_str(b).ok()) else {
        return false;
    };
    let allowed = FieldSet::of_object(schema, &before);
    let others = entries.iter().filter(|e| e.manager != *manager);
    others.map(|e| e.fields.intersection(written)).all(|taken| taken.is_subset(&allowed))
}

/// The fields that others own and this write would change: taken over with `force`, else refused.
fn refuse_conflicts(entries: &mut [Entry], manager: &Manager, written: &FieldSet, force: bool) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    let mut taken_from = Vec::new();
    for entry in entries.iter_mut().filter(|e| e.manager != *manager) {
        let taken = entry.fields.intersection(written);
        if taken.is_empty() {
            continue;
        }
        if force {
            entry.fields.subtract(&taken);
            continue;
        }
        let mut who = format!("{:?}", entry.manager.name);
        if !entry.manager.subresource.is_empty() {
            who += &format!(" with subresource {:?}", entry.manager.subresource);
        }
        if !entry.manager.applies {
            who += &format!(" using {}", entry.manager.api_version);
        }
        for path in taken.paths() {
            causes.push(json!({"reason": "FieldManagerConflict", "message": format!("conflict with {who}"), "field": path}));
        }
        taken_from.push((who, taken.paths()));
    }
    taken_from.sort();
    let message = match (causes.len(), taken_from.as_slice()) {
        (0, _) => return Ok(()),
        (1, [(who, paths)]) => format!("Apply failed with 1 conflict: conflict with {who}: {}", paths[0]),
        (count, all) => {
            let each = all.iter().map(|(who, paths)| format!("conflicts with {who}:\n- {}", paths.join("\n- ")));
            format!("Apply failed with {count} conflicts: {}", each.collect::<Vec<_>>().join("\n"))
        }
    };
    Err(ApiError::apply_conflict(message, causes))
}

/// Lays `config` over `live`.
fn merge(schema: Option<&Schema>, live: Option<&Value>, config: &Value) -> Value {
    match (live, config) {
        (Some(Value::Object(old)), Value::Object(new)) if !schema.is_some_and(|s| s.atomic) => {
            let mut out = old.clone();
            for (key, value) in new {
                let inner = schema.and_then(|s| s.field(key));
                out.insert(key.clone(), merge(inner, old.get(key), value));
            }
            Value::Object(out)
        }
        (Some(Value::Array(old)), Value::Array(new)) => merge_lists(schema, old, new),
        _ => config.clone(),
    }
}

fn merge_lists(schema: Option<&Schema>, old: &[Value], new: &[Value]) -> Value {
    let Some(list) = schema.filter(|s| s.list != ListType::Atomic) else { return new.to_vec().into() };
    let inner = list.items.as_deref();
    let mut out = old.to_vec();
    for item in new {
        let key = item_key(list, item);
        match out.iter_mut().find(|o| item_key(list, o) == key) {
            Some(existing) => *existing = merge(inner, Some(existing), item),
            None => out.push(item.clone()),
        }
    }
    out.into()
}

fn keep_servers_fields(live: &Value, merged: &mut Value) {
    for field in ["resourceVersion", "uid", "generation", "creationTimestamp", "managedFields"] {
        let value = &live["metadata"][field];
        if !value.is_null() {
            merged["metadata"][field] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let item = json!({"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}});
        Schema::from_crd(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "integer"}, "b": {"type": "integer"},
            "part": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
            "whole": {"type": "array", "items": item},
            "keyed": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": item}}}}}))
    }

    fn manager(name: &str) -> Manager {
        Manager { name: name.into(), applies: true, api_version: "t/v1".into(), subresource: String::new() }
    }

    fn run(live: &Value, who: &str, spec: Value, force: bool) -> Result<Value, ApiError> {
        let config = json!({"metadata": {"name": "x"}, "spec": spec});
        apply(&schema(), live, &config, &manager(who), force, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_field_that_is_no_longer_applied_goes() {
        let live = run(&json!({"metadata": {}}), "m", json!({"a": 1, "b": 2}), false).unwrap();
        let live = run(&live, "m", json!({"a": 1}), false).unwrap();
        assert_eq!(live["spec"], json!({"a": 1}));
    }

    #[test]
    fn a_field_that_another_manager_also_applies_stays() {
        let live = run(&json!({"metadata": {}}), "m", json!({"a": 1, "b": 2}), false).unwrap();
        let live = run(&live, "n", json!({"b": 2}), false).unwrap();
        let live = run(&live, "m", json!({"a": 1}), false).unwrap();
        assert_eq!(live["spec"], json!({"a": 1, "b": 2}));
    }

    #[test]
    fn an_empty_map_that_is_applied_keeps_what_others_have_in_it_and_is_null_where_there_is_nothing() {
        let filled = |key: &str| json!({"part": {key: 1}});
        let mine = run(&json!({"metadata": {}}), "m", filled("a"), false).unwrap();
        let emptied = run(&mine, "m", json!({"part": {}}), false).unwrap();
        assert_eq!(emptied["spec"], json!({"part": null}));
        let both = run(&mine, "n", filled("b"), false).unwrap();
        let left = run(&both, "m", json!({"part": {}}), false).unwrap();
        assert_eq!(left["spec"], json!({"part": {"b": 1}}), "a manager takes away only what it had");
        let left = run(&left, "m", json!({"a": 1}), false).unwrap();
        assert_eq!(left["spec"], json!({"a": 1, "part": {"b": 1}}));
        let none = run(&emptied, "m", json!({"a": 1}), false).unwrap();
        assert_eq!(none["spec"], json!({"a": 1}), "what nobody applies goes as a whole");
    }

    #[test]
    fn anothers_field_is_a_conflict_unless_forced() {
        let live = run(&json!({"metadata": {}}), "m", json!({"a": 1}), false).unwrap();
        let refused = run(&live, "n", json!({"a": 2}), false).unwrap_err();
        assert_eq!((refused.code, refused.reason), (409, "Conflict"));
        assert!(refused.message.contains(".spec.a"), "{}", refused.message);
        let live = run(&live, "n", json!({"a": 2}), true).unwrap();
        assert_eq!(live["spec"]["a"], 2);
        assert_eq!(managed::read(&live).len(), 1, "the other manager owns nothing any more");
    }

    #[test]
    fn keyed_lists_merge_by_item_and_atomic_lists_as_a_whole() {
        let both = |v: i32| json!({"keyed": [{"name": "a", "v": v}], "whole": [{"name": "a", "v": v}]});
        let live = run(&json!({"metadata": {}}), "m", both(1), false).unwrap();
        let live = run(&live, "n", json!({"keyed": [{"name": "b", "v": 2}]}), false).unwrap();
        assert_eq!(live["spec"]["keyed"].as_array().unwrap().len(), 2);
        let live = run(&live, "m", json!({"whole": [{"name": "c", "v": 3}]}), false).unwrap();
        assert_eq!(live["spec"], json!({"keyed": [{"name": "b", "v": 2}], "whole": [{"name": "c", "v": 3}]}));
    }
}
