//! Errors as the API server words them: `Status` objects with its codes and reasons.
//! Clients branch on `reason` and `code`, people read `message`; all three are part of the behaviour.

use serde_json::{Value, json};

use super::kinds::Kind;

/// A refused request.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    pub details: Value,
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Dotted path with list indices, such as `spec.rules[0].name`.
    pub field: String,
    /// `FieldValueInvalid`, `FieldValueRequired`, ...
    pub reason: &'static str,
    /// The words after the path, such as `Required value: must be set`.
    pub message: String,
}

impl FieldError {
    /// As built-in kinds word it: with the value.
    pub fn invalid(field: impl Into<String>, value: &Value, why: impl std::fmt::Display) -> Self {
        Self { field: field.into(), reason: "FieldValueInvalid", message: format!("Invalid value: {value}: {why}") }
    }

    /// As custom kinds word it: of objects and lists only the type is named.
    pub fn invalid_custom(field: impl Into<String>, value: &Value, why: impl std::fmt::Display) -> Self {
        let message = format!("Invalid value: {}: {why}", quote(value));
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    pub fn required(field: impl Into<String>, why: impl std::fmt::Display) -> Self {
        let why = why.to_string();
        let message = if why.is_empty() { "Required value".into() } else { format!("Required value: {why}") };
        Self { field: field.into(), reason: "FieldValueRequired", message }
    }

    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self { field: field.into(), reason: "FieldValueDuplicate", message: format!("Duplicate value: {value}") }
    }

    pub fn unsupported(field: impl Into<String>, value: &Value, allowed: &[Value]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {}: supported values: {}", quote(value), allowed.join(", "));
        Self { field: field.into(), reason: "FieldValueNotSupported", message }
    }

    pub fn too_many(field: impl Into<String>, have: usize, limit: u64) -> Self {
        let message = format!("Too many: {have}: must have at most {limit} items");
        Self { field: field.into(), reason: "FieldValueTooMany", message }
    }

    pub fn type_invalid(field: impl Into<String>, found: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Invalid value: {found}: {why}");
        Self { field: field.into(), reason: "FieldValueTypeInvalid", message }
    }

    /// A broken CEL rule.
    pub fn rule(field: impl Into<String>, value: &Value, why: impl std::fmt::Display) -> Self {
        let message = match value {
            Value::Object(_) | Value::Array(_) => format!("Invalid value: {why}"),
            scalar => format!("Invalid value: {scalar}: {why}"),
        };
        Self { field: field.into(), reason: "FieldValueInvalid", message }
    }

    /// CEL rules were left out because of other errors.
    pub fn rules_unchecked() -> Self {
        let why =
            "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        Self { field: "<nil>".into(), reason: "FieldValueInvalid", message: format!("Invalid value: null: {why}") }
    }

    /// Whether it leaves the object in no state for CEL rules.
    pub fn blocks_rules(&self) -> bool {
        matches!(
            self.reason,
            "FieldValueNotSupported" | "FieldValueRequired" | "FieldValueTypeInvalid" | "FieldValueTooMany" | "FieldValueTooLong"
        )
    }

    pub fn forbidden(field: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { field: field.into(), reason: "FieldValueForbidden", message: format!("Forbidden: {why}") }
    }
}

/// Objects and lists are named by their type, as the API server does; scalars are shown.
fn quote(value: &Value) -> String {
    match value {
        Value::Object(_) => "\"object\"".into(),
        Value::Array(_) => "\"array\"".into(),
        Value::Null => "\"null\"".into(),
        other => other.to_string(),
    }
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A path that no resource serves.
    pub fn no_such_path() -> Self {
        Self { details: json!({}), ..Self::new(404, "NotFound", "the server could not find the requested resource") }
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        Self { details: details(kind.group(), &kind.plural, name), ..Self::new(404, "NotFound", message) }
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self { details: details(kind.group(), &kind.plural, name), ..Self::new(409, "AlreadyExists", message) }
    }

    pub fn conflict(kind: &Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Self { details: details(kind.group(), &kind.plural, name), ..Self::new(409, "Conflict", message) }
    }

    /// A deletion's precondition does not hold.
    pub fn precondition(kind: &Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified_kind());
        let group = if kind.kind == "Event" { "" } else { kind.group() };
        Self { details: details(group, &kind.kind, name), ..Self::new(409, "Conflict", message) }
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// A request's options are wrong.
    pub fn invalid_options(options: &str, error: FieldError) -> Self {
        let message = format!("{options}.meta.k8s.io \"\" is invalid: {}: {}", error.field, error.message);
        let cause = json!({"reason": error.reason, "message": error.message, "field": error.field});
        let details = json!({"group": "meta.k8s.io", "kind": options, "causes": [cause]});
        Self { details, ..Self::new(422, "Invalid", message) }
    }

    /// A patch whose result could not be decoded.
    pub fn undecodable_patch(patched: &str, why: &str) -> Self {
        let message = format!("Invalid value: {patched:?}: {why}");
        let details = json!({"causes": [{"reason": "FieldValueInvalid", "message": message, "field": "patch"}]});
        Self { details, ..Self::new(422, "Invalid", format!(" \"\" is invalid: patch: {message}")) }
    }

    /// Somebody else wrote the object since the caller read it.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(kind, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    pub fn apply_conflict(message: String, causes: Vec<Value>) -> Self {
        Self { details: json!({ "causes": causes }), ..Self::new(409, "Conflict", message) }
    }

    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let group = if kind.kind == "Event" { "" } else { kind.group() };
        Self::invalid_as((group, &kind.kind, &kind.qualified_kind()), name, errors)
    }

    /// What was sent is no right `Scale`.
    pub fn invalid_scale(name: &str, error: FieldError) -> Self {
        Self::invalid_as(("autoscaling", "Scale", "Scale.autoscaling"), name, &[error])
    }

    fn invalid_as((group, kind, qualified): (&str, &str, &str), name: &str, errors: &[FieldError]) -> Self {
        let mut lines: Vec<String> = Vec::new();
        for line in errors.iter().map(|e| format!("{}: {}", e.field, e.message)) {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let what = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let causes: Vec<Value> = errors.iter().map(|e| json!({"reason": e.reason, "message": e.message, "field": e.field})).collect();
        let mut body = details(group, kind, name);
        body["causes"] = causes.into();
        let message = format!("{qualified} \"{name}\" is invalid: {what}");
        Self { details: body, ..Self::new(422, "Invalid", message) }
    }

    /// A PUT without the version that it replaces.
    pub fn unversioned(kind: &Kind, name: &str) -> Self {
        let field = "metadata.resourceVersion";
        let why = "Invalid value: 0: must be specified for an update";
        let mut body = details(kind.group(), &kind.plural, name);
        body["causes"] = json!([{"reason": "FieldValueInvalid", "message": why, "field": field}]);
        let message = format!("{} \"{name}\" is invalid: {field}: {why}", kind.qualified());
        Self { details: body, ..Self::new(422, "Invalid", message) }
    }

    /// What the API server answers when a JSON Patch cannot be applied, a failed `test` included.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self { details: json!({}), ..Self::new(422, "Invalid", message) }
    }

    pub fn forbidden(kind: &Kind, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.qualified());
        Self { details: details(kind.group(), &kind.plural, name), ..Self::new(403, "Forbidden", message) }
    }

    /// For patches; `None` names the formats for whole objects.
    pub fn unsupported_media_type(patch_of: Option<&Kind>) -> Self {
        let accepted = match patch_of {
            None => "application/json, application/yaml",
            Some(kind) if kind.custom => "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            Some(_) => "any kind of patch",
        };
        let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub fn disruption() -> Self {
        Self::new(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self { details: json!({}), ..Self::new(405, "MethodNotAllowed", message) }
    }

    /// The history that a watch asks for has been compacted away.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// A resource version that this server has not reached yet.
    pub fn from_the_future(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(504, "Timeout", message);
        error.details = json!({
            "retryAfterSeconds": 1,
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        });
        error
    }

    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn details(group: &str, resource: &str, name: &str) -> Value {
    let mut out = json!({"kind": resource});
    if !name.is_empty() {
        out["name"] = name.into();
    }
    if !group.is_empty() {
        out["group"] = group.into();
    }
    out
}
