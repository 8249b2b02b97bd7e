//! Merge patches: that of the RFC, and Kubernetes' own for built-in kinds.

use serde_json::{Map, Value};

use super::schema::{ListType, Schema};

/// JSON Merge Patch (RFC 7386).
pub fn merge_patch(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    let target = as_map(object);
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Strategic merge patch: a merge patch whose keyed lists merge by item, with the `$patch` directives.
pub fn strategic_patch(schema: Option<&Schema>, object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|d| d == "replace") {
        *object = Value::Object(patch.iter().filter(|(k, _)| *k != "$patch").map(own).collect());
        return;
    }
    let target = as_map(object);
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|k, _| keep.iter().any(|w| w == k));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
                list.retain(|v| !gone.contains(v));
            }
        } else if key.starts_with('$') {
            // $setElementOrder only orders; items keep the order in which they were added.
        } else if value.is_null() {
            target.remove(key);
        } else {
            let inner = schema.and_then(|s| s.field(key));
            let slot = target.entry(key.clone()).or_insert(Value::Null);
            match (value, inner.map(|s| &s.list)) {
                (Value::Array(items), Some(ListType::Map(keys))) => merge_items(inner, keys, slot, items),
                (Value::Array(items), Some(ListType::Set)) => add_items(slot, items),
                _ => strategic_patch(inner, slot, value),
            }
        }
    }
}

fn merge_items(schema: Option<&Schema>, keys: &[String], slot: &mut Value, items: &[Value]) {
    if items.iter().any(|i| i["$patch"] == "replace") {
        *slot = items.iter().filter(|i| i["$patch"] != "replace").cloned().collect();
        return;
    }
    let inner = schema.and_then(|s| s.items.as_deref());
    let mut list = slot.as_array().cloned().unwrap_or_default();
    // The first key is what strategic merge goes by; the others only where both sides have them.
    let same = |a: &Value, b: &Value| keys.iter().enumerate().all(|(i, k)| a[k] == b[k] || (i > 0 && (a[k].is_null() || b[k].is_null())));
    for item in items {
        let position = list.iter().position(|o| same(o, item));
        match (position, item["$patch"] == "delete") {
            (Some(at), true) => drop(list.remove(at)),
            (Some(at), false) => strategic_patch(inner, &mut list[at], item),
            (None, false) => list.push(item.clone()),
            (None, true) => {}
        }
    }
    let before = slot.as_array().cloned().unwrap_or_default();
    let place = |v: &Value| before.iter().position(|o| same(o, v));
    let (patched, others): (Vec<Value>, Vec<Value>) = list.into_iter().partition(|v| items.iter().any(|i| same(v, i)));
    *slot = interleave(patched, others, place).into();
}

/// The patch's items in its order, the others in theirs: an other one comes first only if it was before the next patched one.
fn interleave(mut patched: Vec<Value>, others: Vec<Value>, place: impl Fn(&Value) -> Option<usize>) -> Vec<Value> {
    let mut out = Vec::new();
    for other in others {
        while patched.first().is_some_and(|p| place(p).is_none_or(|at| Some(at) < place(&other))) {
            out.push(patched.remove(0));
        }
        out.push(other);
    }
    out.append(&mut patched);
    out
}

fn add_items(slot: &mut Value, items: &[Value]) {
    let mut list = slot.as_array().cloned().unwrap_or_default();
    for item in items {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    *slot = list.into();
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

fn own((k, v): (&String, &Value)) -> (String, Value) {
    (k.clone(), v.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_removes_nulls() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge_patch(&mut object, &json!({"a": {"b": null}, "d": [2], "e": {"f": null}}));
        assert_eq!(object, json!({"a": {"c": 2}, "d": [2], "e": {}}));
    }

    #[test]
    fn strategic_merge_knows_containers_by_name() {
        let raw = schemars::schema_for!(k8s_openapi::api::core::v1::PodSpec);
        let schema = Schema::built_in(raw.as_value());
        let mut spec = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]});
        let patch = json!({"containers": [{"name": "b", "image": "z"}, {"name": "a", "$patch": "delete"}]});
        strategic_patch(Some(&schema), &mut spec, &patch);
        assert_eq!(spec, json!({"containers": [{"name": "b", "image": "z"}]}));
    }
}
