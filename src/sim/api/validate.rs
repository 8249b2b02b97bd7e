//! Does a value keep to its schema? Every breach is named, as the API server does.

use std::fmt::Write;

use serde_json::Value;

use super::error::FieldError;
use super::schema::{ListType, Schema, Shape};

/// All breaches of `schema` in a whole object, in field order. Fields that are as they are in `live` were checked when they came.
pub fn validate(schema: &Schema, live: Option<&Value>, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_new(schema, live, object, &mut String::new(), &mut errors);
    errors
}

/// Only wrong JSON types: what decoding into a built-in kind would stumble over.
pub fn wrong_type<'a>(schema: &Schema, value: &'a Value, path: &str) -> Option<(String, &'a Value, &'static str)> {
    if !value.is_null()
        && let Some(wanted) = mismatch(schema.shape, value)
    {
        return Some((path.to_owned(), value, wanted));
    }
    match value {
        // As Go names fields: without map keys and list indices.
        Value::Object(map) => map.iter().find_map(|(k, v)| match schema.properties.get(k) {
            Some(inner) => wrong_type(inner, v, "").map(|(rest, value, wanted)| (join(path, &join(k, &rest)), value, wanted)),
            None => wrong_type(schema.additional.as_deref()?, v, path),
        }),
        Value::Array(items) => {
            let inner = schema.items.as_ref()?;
            items.iter().find_map(|v| wrong_type(inner, v, path))
        }
        _ => None,
    }
}

/// `path` is lent: it comes back as it was.
fn check(schema: &Schema, value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    check_new(schema, None, value, path, errors);
}

fn check_new(schema: &Schema, before: Option<&Value>, value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    if value.is_null() && schema.nullable {
        return;
    }
    if let Some(wanted) = mismatch(schema.shape, value) {
        let format = schema.checks.format.as_deref().filter(|_| value.is_f64());
        let (wanted, found) = (format.unwrap_or(wanted), if format.is_some() { "\"float64\"".into() } else { type_name(value) });
        errors.push(FieldError::type_invalid(&*path, &found, format!("{path} in body must be of type {wanted}: {found}")));
        if let Some(format) = format {
            let why = format!("Checked value must be of type integer with format {format} in {path}");
            errors.push(FieldError::invalid("<nil>", &"".into(), why));
        }
        return;
    }
    check_scalar(schema, value, path, errors);
    match value {
        Value::Object(map) => {
            for name in schema.checks.required.iter().filter(|n| !map.contains_key(*n)) {
                errors.push(FieldError::required(join(path, name), ""));
            }
            check_size(schema, map.len(), "properties", path, errors);
            for (k, v) in map {
                let before = before.and_then(|before| before.get(k));
                if let Some(inner) = schema.field(k).filter(|_| before != Some(v)) {
                    let end = path.len();
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(k);
                    check_new(inner, before, v, path, errors);
                    path.truncate(end);
                }
            }
        }
        Value::Array(items) => {
            check_size(schema, items.len(), "items", path, errors);
            for (i, v) in items.iter().enumerate() {
                let before = before.and_then(|before| before.get(i));
                if let Some(inner) = schema.items.as_ref().filter(|_| before != Some(v)) {
                    let end = path.len();
                    let _ = write!(path, "[{i}]");
                    check_new(inner, before, v, path, errors);
                    path.truncate(end);
                }
            }
            check_unique(schema, items, path, errors);
        }
        _ => {}
    }
    check_combinations(schema, value, path, errors);
}

fn check_scalar(schema: &Schema, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let checks = &schema.checks;
    let mut say = |why: String| errors.push(FieldError::invalid_custom(path, value, format!("{path} in body {why}")));
    if let Some(number) = value.as_f64() {
        match checks.minimum {
            Some(min) if checks.exclusive_minimum && number <= min => say(format!("should be greater than {min}")),
            Some(min) if number < min => say(format!("should be greater than or equal to {min}")),
            _ => {}
        }
        match checks.maximum {
            Some(max) if checks.exclusive_maximum && number >= max => say(format!("should be less than {max}")),
            Some(max) if number > max => say(format!("should be less than or equal to {max}")),
            _ => {}
        }
        if checks.format.as_deref() == Some("int32") && value.as_i64().is_some_and(|n| i32::try_from(n).is_err()) {
            say("must be of type int32".into());
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if checks.min_length.is_some_and(|min| length < min) {
            say(format!("should be at least {} chars long", checks.min_length.unwrap_or_default()));
        }
        if checks.max_length.is_some_and(|max| length > max) {
            say(format!("should be at most {} chars long", checks.max_length.unwrap_or_default()));
        }
        if let Some(pattern) = checks.pattern.as_ref().filter(|p| !p.is_match(text)) {
            say(format!("should match '{pattern}'"));
        }
        if checks.format.as_deref() == Some("date-time") && text.parse::<jiff::Timestamp>().is_err() {
            let why = format!("{path} in body must be of type date-time: {value}");
            errors.push(FieldError::type_invalid(path, &value.to_string(), why));
        }
    }
    if !checks.allowed.is_empty() && !checks.allowed.contains(value) {
        errors.push(FieldError::unsupported(path, value, &checks.allowed));
    }
}

fn check_size(schema: &Schema, size: usize, what: &str, path: &str, errors: &mut Vec<FieldError>) {
    let (min, max) = match what {
        "items" => (schema.checks.min_items, schema.checks.max_items),
        _ => (schema.checks.min_properties, schema.checks.max_properties),
    };
    if let Some(min) = min.filter(|min| (size as u64) < *min) {
        let why = format!("{path} in body should have at least {min} {what}");
        errors.push(FieldError::invalid_custom(path, &size.into(), why));
    }
    if let Some(max) = max.filter(|max| (size as u64) > *max) {
        errors.push(FieldError::too_many(path, size, max));
    }
}

/// Items of sets, and the keys of map lists, must differ.
fn check_unique(schema: &Schema, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let mut seen: Vec<Value> = Vec::new();
    for (i, item) in items.iter().enumerate() {
        let key = match &schema.list {
            ListType::Atomic => return,
            ListType::Set => item.clone(),
            ListType::Map(keys) => keys.iter().map(|k| (k.clone(), item[k].clone())).collect(),
        };
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), &key));
        } else {
            seen.push(key);
        }
    }
}

fn check_combinations(schema: &Schema, value: &Value, path: &mut String, errors: &mut Vec<FieldError>) {
    let fits = |s: &Schema| {
        let mut inner = Vec::new();
        check(s, value, &mut String::new(), &mut inner);
        inner.is_empty()
    };
    let checks = &schema.checks;
    for part in &checks.all_of {
        check(part, value, path, errors);
    }
    let mut say = |why: &str| errors.push(FieldError::invalid_custom(&*path, value, format!("{path} in body {why}")));
    if !checks.any_of.is_empty() && !checks.any_of.iter().any(fits) {
        say("must validate at least one schema (anyOf)");
    }
    if !checks.one_of.is_empty() && checks.one_of.iter().filter(|s| fits(s)).count() != 1 {
        say("must validate one and only one schema (oneOf)");
    }
    if checks.not.as_ref().is_some_and(|s| fits(s)) {
        say("must not validate the schema (not)");
    }
}

/// The name of the type that was wanted, if the value has another.
fn mismatch(shape: Shape, value: &Value) -> Option<&'static str> {
    let whole = |v: &Value| v.is_i64() || v.is_u64() || v.as_f64().is_some_and(|f| f.fract() == 0.0);
    let (fits, wanted) = match shape {
        Shape::Any => (true, ""),
        Shape::Object => (value.is_object(), "object"),
        Shape::Array => (value.is_array(), "array"),
        Shape::String => (value.is_string(), "string"),
        Shape::Integer => (whole(value), "integer"),
        Shape::Number => (value.is_number(), "number"),
        Shape::Boolean => (value.is_boolean(), "boolean"),
        Shape::IntOrString => (value.is_string() || value.is_number(), "integer or string"),
    };
    (!fits).then_some(wanted)
}

fn type_name(value: &Value) -> String {
    match value {
        Value::Null => "\"null\"".into(),
        Value::Bool(_) => "\"boolean\"".into(),
        Value::Number(n) if n.is_f64() => "\"number\"".into(),
        Value::Number(_) => "\"integer\"".into(),
        Value::String(_) => "\"string\"".into(),
        Value::Array(_) => "\"array\"".into(),
        Value::Object(_) => "\"object\"".into(),
    }
}

fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", one) | (one, "") => one.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn breaches(schema: Value, value: Value) -> Vec<String> {
        let schema = Schema::from_crd(&json!({"type": "object", "properties": {"x": schema}}));
        let errors = validate(&schema, None, &json!({"x": value}));
        errors.into_iter().map(|e| format!("{} {}", e.field, e.reason)).collect()
    }

    #[test]
    fn each_limit_is_enforced() {
        let cases = [
            (json!({"type": "string"}), json!(1), "FieldValueTypeInvalid"),
            (json!({"type": "integer", "minimum": 0}), json!(-5), "FieldValueInvalid"),
            (json!({"type": "integer", "maximum": 5}), json!(6), "FieldValueInvalid"),
            (json!({"type": "string", "pattern": "^a+$"}), json!("b"), "FieldValueInvalid"),
            (json!({"type": "string", "enum": ["a"]}), json!("b"), "FieldValueNotSupported"),
            (json!({"type": "string", "maxLength": 1}), json!("bb"), "FieldValueInvalid"),
            (json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}), json!([1, 2]), "FieldValueTooMany"),
        ];
        for (schema, value, reason) in cases {
            assert_eq!(breaches(schema.clone(), value), vec![format!("x {reason}")], "{schema}");
        }
    }

    #[test]
    fn map_list_keys_are_unique_and_required_fields_are_named() {
        let schema = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["v"],
                "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}}});
        let value = json!([{"name": "a", "v": 1}, {"name": "a"}]);
        assert_eq!(breaches(schema, value), ["x[1].v FieldValueRequired", "x[1] FieldValueDuplicate"]);
    }
}
