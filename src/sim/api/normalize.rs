//! From what a client sent to what is stored: parts kept apart, unknown fields dropped, defaults filled in.

use serde_json::{Map, Value, json};

use super::caller::Part;
use super::error::ApiError;
use super::kinds::Kind;
use super::{defaults, validate};

pub fn for_create(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    shape_up(kind, object, defaults::fill)
}

/// What a new object of a built-in kind is given by the server, and owned by nobody.
pub fn allocate(kind: &Kind, object: &mut Value) {
    if !kind.custom {
        defaults::on_create(kind, object);
    }
}

pub fn for_update(kind: &Kind, live: &Value, object: &mut Value) -> Result<(), ApiError> {
    if !kind.custom {
        defaults::carry_over(kind, live, object);
    }
    let Value::Object(fields) = object else { return shape_up(kind, object, defaults::fill) };
    let is_same = |field: &str, value: &Value| !matches!(field, "apiVersion" | "kind") && live.get(field) == Some(value);
    let is_part =
        |(field, value): (&String, &Value)| matches!(&**field, "apiVersion" | "kind" | "metadata" | "status") || is_same(field, value);
    let is_removed = |field: &String| !fields.contains_key(field);
    if !kind.custom && (!fields.iter().all(is_part) || live.as_object().is_some_and(|live| live.keys().any(is_removed))) {
        return shape_up(kind, object, defaults::fill);
    }
    // What is as it was has its shape already.
    let mut same = Map::new();
    fields.retain(|field, value| {
        let same_as_before = is_same(field, value);
        if same_as_before {
            same.insert(field.clone(), value.take());
        }
        !same_as_before
    });
    shape_up(kind, object, |_, _| {})?;
    object.as_object_mut().into_iter().for_each(|fields| fields.append(&mut same));
    Ok(())
}

/// `fill` fills in what the whole object is given.
fn shape_up(kind: &Kind, object: &mut Value, fill: impl Fn(&Kind, &mut Value)) -> Result<(), ApiError> {
    check_types(kind, object).map_err(|why| undecodable(kind, &why))?;
    kind.schema.prune(object);
    kind.schema.fill(object);
    if !kind.custom {
        fill(kind, object);
        defaults::drop_empty(kind, &kind.schema, object);
    }
    drop_empty_metadata(object);
    Ok(())
}

/// Refuses what could not be decoded: a built-in kind as a whole, of custom ones the metadata.
pub fn check_types(kind: &Kind, object: &mut Value) -> Result<(), String> {
    let wrong = if kind.custom {
        kind.schema.field("metadata").and_then(|schema| validate::wrong_type(schema, &object["metadata"], ""))
    } else {
        drop_nulls(object);
        validate::wrong_type(&kind.schema, object, "")
    };
    let Some((path, value, wanted)) = wrong else { return Ok(()) };
    let value = match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        _ => "object",
    };
    let whole = if kind.custom { "ObjectMeta" } else { &kind.kind };
    Err(format!("json: cannot unmarshal {value} into Go struct field {whole}.{path} of type {wanted}"))
}

/// Reads what a client sent, or a patch made, as an object of the kind; or says why it is none.
pub fn decode(kind: &Kind, object: &mut Value) -> Result<(), String> {
    check_types(kind, object)?;
    if kind.custom {
        // Who wrote what is followed by the schema: where that cannot be read, not even in a part that is ignored, all owners are forgotten.
        if kind.schema.mistyped(object, "").is_some() && object["metadata"].is_object() {
            object["metadata"]["managedFields"] = json!([{}]);
        }
        kind.schema.settle(object);
    }
    Ok(())
}

/// A body that is no object of the kind.
pub fn undecodable(kind: &Kind, why: &str) -> ApiError {
    ApiError::bad_request(format!("{} in version {:?} cannot be handled as a {}: {why}", kind.kind, kind.version(), kind.kind))
}

/// Metadata is typed for every kind, custom ones too: what is empty in it is left out.
fn drop_empty_metadata(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.as_object().is_some_and(Map::is_empty) && !value.as_array().is_some_and(Vec::is_empty));
    }
}

/// What server-side apply may own of a configuration: the part that the request is about.
pub fn applied(kind: &Kind, part: Part, config: &mut Value) {
    kind.schema.prune(config);
    if kind.custom {
        kind.schema.settle_numbers(config);
    }
    let Some(map) = config.as_object_mut() else {
        return;
    };
    match part {
        Part::Status => map.retain(|k, _| matches!(k.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
        _ if kind.has_status => drop(map.remove("status")),
        _ => {}
    }
    if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
        if part == Part::Status {
            metadata.retain(|k, _| matches!(k.as_str(), "name" | "namespace"));
        }
        metadata.remove("resourceVersion");
        metadata.remove("uid");
    }
}

/// Takes from `proposed` only what the request may change; all else is as in `live`.
pub fn only_part(kind: &Kind, part: Part, live: &Value, mut proposed: Value) -> Value {
    match part {
        Part::Status => {
            keep(&mut proposed, live, |field| !matches!(field, "status" | "metadata"));
            if let Some(fields) = proposed.as_object_mut() {
                fields.retain(|field, value| field != "status" || !value.is_null());
            }
            if !kind.custom {
                defaults::complete_status(kind, live, &mut proposed["status"]);
            }
            if kind.custom {
                keep(&mut proposed["metadata"], &live["metadata"], |field| field != "managedFields");
            } else {
                // Built-in kinds let metadata pass with the status, but for what would change who owns or selects it.
                let kept = if &*kind.id == "deployments.apps" { "labels" } else { "ownerReferences" };
                keep(&mut proposed["metadata"], &live["metadata"], |field| field == kept);
            }
        }
        Part::Finalize => {
            keep(&mut proposed, live, |field| field != "spec");
            keep(&mut proposed["spec"], &live["spec"], |field| field != "finalizers");
        }
        Part::Object | Part::Scale | Part::Eviction => {
            keep(&mut proposed, live, |field| kind.has_status && field == "status");
            if &*kind.id == "namespaces" {
                keep(&mut proposed["spec"], &live["spec"], |field| field == "finalizers");
            }
        }
    }
    let servers = ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"];
    keep(&mut proposed["metadata"], &live["metadata"], |field| servers.contains(&field));
    proposed
}

/// Has some fields of an object as they are in the live one.
fn keep(object: &mut Value, live: &Value, is_kept: impl Fn(&str) -> bool) {
    if !object.is_object() {
        *object = json!({});
    }
    let (Some(object), live) = (object.as_object_mut(), live.as_object()) else { return };
    object.retain(|field, _| !is_kept(field) || live.is_some_and(|live| live.contains_key(field)));
    for (field, value) in live.into_iter().flatten().filter(|(field, _)| is_kept(field)) {
        if object.get(field) != Some(value) {
            object.insert(field.clone(), value.clone());
        }
    }
}

/// Whether a change counts as a new generation: of what is wanted, not of status or metadata.
pub fn is_new_generation(kind: &Kind, live: &Value, object: &Value) -> bool {
    !wanted(kind, live).eq(wanted(kind, object))
        // Deployments count annotations too, EndpointSlices labels.
        || (&*kind.id == "deployments.apps" && live["metadata"]["annotations"] != object["metadata"]["annotations"])
        || (&*kind.id == "endpointslices.discovery.k8s.io" && live["metadata"]["labels"] != object["metadata"]["labels"])
}

/// The fields that say what is wanted.
fn wanted<'a>(kind: &Kind, object: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let has_status = kind.has_status;
    let fields = object.as_object().into_iter().flatten();
    fields.filter(move |(key, _)| *key != "metadata" && !(has_status && *key == "status"))
}

/// Whether nothing keeps an object that is being deleted any more.
pub fn is_finished(kind: &Kind, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let empty = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
    !metadata["deletionTimestamp"].is_null()
        && empty(&metadata["finalizers"])
        && (&*kind.id != "namespaces" || empty(&object["spec"]["finalizers"]))
        && (&*kind.id != "pods" || metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0)
}

/// A null in a built-in kind is as good as absent.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.values().any(Value::is_null) {
                map.retain(|_, v| !v.is_null());
            }
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
