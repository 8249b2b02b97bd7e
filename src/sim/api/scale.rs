//! The scale subresource: a view of two numbers and a selector, for each kind at its own paths.

use serde_json::{Map, Value, json};

use super::error::{ApiError, FieldError};
use super::kinds::Kind;
use super::selector::LabelSelector;

/// The `Scale` object of a live object.
pub fn of(kind: &Kind, live: &Value) -> Result<Value, ApiError> {
    let paths = kind.scale.as_ref().ok_or_else(ApiError::no_such_path)?;
    let at = |path: &[String]| path.iter().try_fold(live, |v, key| v.get(key));
    let metadata = &live["metadata"];
    let mut scale = json!({
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {},
        "spec": {},
        "status": {"replicas": at(&paths.status_replicas).and_then(Value::as_i64).unwrap_or(0)},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        scale["metadata"][field] = metadata[field].clone();
    }
    match at(&paths.spec_replicas).and_then(Value::as_i64) {
        // None is written as nothing.
        Some(0) => {}
        Some(replicas) => scale["spec"]["replicas"] = replicas.into(),
        // A custom resource has no scale to show before its replicas are set.
        None if kind.custom => {
            let message = format!("the spec replicas field {:?} does not exist", dotted(&paths.spec_replicas));
            let details = json!({"causes": [{"message": message}]});
            let message = format!("Internal error occurred: {message}");
            return Err(ApiError { code: 500, reason: "InternalError", message, details });
        }
        None => {}
    }
    match paths.selector.as_ref().and_then(|p| at(p)) {
        Some(Value::String(text)) => scale["status"]["selector"] = text.clone().into(),
        Some(object @ Value::Object(_)) => {
            scale["status"]["selector"] = LabelSelector::from_object(object).to_string().into();
        }
        _ => {}
    }
    Ok(scale)
}

/// The live object with the replicas (and resourceVersion, if given) of a `Scale`.
pub fn written_back(kind: &Kind, live: &Value, scale: &Value) -> Result<Value, ApiError> {
    let paths = kind.scale.as_ref().ok_or_else(ApiError::no_such_path)?;
    let replicas = &scale["spec"]["replicas"];
    if !replicas.is_null() && !replicas.is_i64() {
        let found = if replicas.is_string() { "string" } else { "number" };
        let why = format!("json: cannot unmarshal {found} into Go struct field ScaleSpec.spec.replicas of type int32");
        return Err(ApiError::undecodable_patch(&scale.to_string(), &why));
    }
    let replicas = replicas.as_i64().unwrap_or(0);
    if replicas < 0 && !kind.custom {
        let name = live["metadata"]["name"].as_str().unwrap_or_default();
        let error = FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(ApiError::invalid_scale(name, error));
    }
    let mut out = live.clone();
    set(&mut out, &paths.spec_replicas, replicas.into());
    let version = &scale["metadata"]["resourceVersion"];
    if version.as_str().is_some_and(|v| !v.is_empty()) {
        out["metadata"]["resourceVersion"] = version.clone();
    }
    Ok(out)
}

/// What a scale patch starts from where there is nothing to show yet.
pub fn or_empty(kind: &Kind, live: &Value) -> Value {
    of(kind, live).unwrap_or_else(|_| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": live["metadata"]["name"], "namespace": live["metadata"]["namespace"],
                "resourceVersion": live["metadata"]["resourceVersion"]},
            "spec": {}, "status": {"replicas": 0}})
    })
}

fn dotted(path: &[String]) -> String {
    path.iter().map(|p| format!(".{p}")).collect()
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    set(&mut object[first.as_str()], rest, value);
}
