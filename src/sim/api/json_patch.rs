//! JSON Patch (RFC 6902), as the API server understands it: a member that is missing reads as nothing, so `replace` adds it, `copy` copies
//! null and a test for null passes; an index may count from the end.

use serde_json::Value;

use super::error::ApiError;

/// An operation that fails, `test` included, refuses the whole patch; the object is then of no use any more.
pub fn json_patch(object: &mut Value, patch: &Value) -> Result<(), ApiError> {
    let Some(operations) = patch.as_array() else {
        return Err(ApiError::bad_request("error decoding patch: json: cannot unmarshal into Go value"));
    };
    operations.iter().try_for_each(|operation| carry_out(object, operation)).ok_or_else(ApiError::unprocessable)
}

/// None if the operation does not apply.
fn carry_out(object: &mut Value, operation: &Value) -> Option<()> {
    let place = |field: &str| operation[field].as_str();
    let given = operation.get("value").unwrap_or_default();
    let value = || given.clone();
    let path = place("path")?;
    match operation["op"].as_str()? {
        "add" => add(object, path, value()),
        "remove" => remove(object, path).map(drop),
        "replace" => replace(object, path, value()),
        "test" => (get(object, path)? == given).then_some(()),
        "move" => {
            let moved = remove(object, place("from")?)?;
            add(object, path, moved)
        }
        "copy" => {
            let copied = get(object, place("from")?)?.clone();
            add(object, path, copied)
        }
        _ => None,
    }
}

/// The map or list in which a path ends, and its last step.
fn parent<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let mut steps: Vec<String> = path.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~")).collect();
    let last = steps.pop()?;
    let mut at = object;
    for step in &steps {
        at = match at {
            Value::Object(map) => map.get_mut(step)?,
            Value::Array(items) => {
                let index = index(step, items.len())?;
                items.get_mut(index)?
            }
            _ => return None,
        };
    }
    (at.is_object() || at.is_array()).then_some((at, last))
}

fn index(step: &str, length: usize) -> Option<usize> {
    let index: i64 = step.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { index + length } else { index }).ok()
}

/// A missing member of a map is null.
fn get<'a>(object: &'a mut Value, path: &str) -> Option<&'a Value> {
    match parent(object, path)? {
        (Value::Object(map), last) => Some(map.get(&last).unwrap_or_default()),
        (Value::Array(items), last) => items.get(index(&last, items.len())?),
        _ => None,
    }
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(object, path)? {
        (Value::Object(map), last) => drop(map.insert(last, value)),
        (Value::Array(items), last) if last == "-" => items.push(value),
        (Value::Array(items), last) => {
            // An index from the end is one of the longer list.
            let index = index(&last, items.len() + 1).filter(|index| *index <= items.len())?;
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn replace(object: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(object, path)? {
        (Value::Object(map), last) => drop(map.insert(last, value)),
        (Value::Array(items), last) => {
            let index = index(&last, items.len())?;
            *items.get_mut(index)? = value;
        }
        _ => return None,
    }
    Some(())
}

fn remove(object: &mut Value, path: &str) -> Option<Value> {
    match parent(object, path)? {
        (Value::Object(map), last) => map.remove(&last),
        (Value::Array(items), last) => index(&last, items.len()).filter(|index| *index < items.len()).map(|index| items.remove(index)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failed_test_refuses_the_whole_patch() {
        let mut object = json!({"a": 1});
        let patch = json!([{"op": "test", "path": "/a", "value": 2}, {"op": "replace", "path": "/a", "value": 3}]);
        let refused = json_patch(&mut object, &patch).unwrap_err();
        assert_eq!((refused.code, refused.reason), (422, "Invalid"));
        assert_eq!(object, json!({"a": 1}));
    }

    #[test]
    fn a_missing_value_passes_a_test_for_null() {
        let mut object = json!({"a": {}});
        let patch = json!([{"op": "test", "path": "/a/b", "value": null}, {"op": "add", "path": "/a/b", "value": 3}]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"a": {"b": 3}}));
    }

    #[test]
    fn what_is_missing_is_added_by_replace_and_copied_as_null() {
        let mut object = json!({"a": [1]});
        let patch = json!([{"op": "replace", "path": "/b", "value": 2}, {"op": "copy", "from": "/none", "path": "/c"}]);
        json_patch(&mut object, &patch).unwrap();
        assert_eq!(object, json!({"a": [1], "b": 2, "c": null}));
        for operation in [json!({"op": "remove", "path": "/none"}), json!({"op": "move", "from": "/none", "path": "/d"})] {
            assert!(json_patch(&mut object, &json!([operation])).is_err());
        }
        assert!(json_patch(&mut object, &json!([{"op": "replace", "path": "/a/1", "value": 2}])).is_err());
    }
}
