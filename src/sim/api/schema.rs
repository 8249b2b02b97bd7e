//! Structural schemas: what the fields of a kind are, how lists and maps merge, and what is filled in or dropped.
//! Both custom resources (from their CRD) and built-in kinds (from the client library's own schemas) are described by them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

/// The JSON type that a field must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

/// How a list merges and who can own its items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListType {
    /// One value, with one owner.
    #[default]
    Atomic,
    /// Scalars that each have their own owner.
    Set,
    /// Objects that each have their own owner, told apart by these keys.
    Map(Vec<String>),
}

/// The limits on one value.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    pub required: Vec<String>,
    pub allowed: Vec<Value>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub pattern: Option<Regex>,
    pub format: Option<String>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub shape: Shape,
    pub properties: BTreeMap<String, Arc<Schema>>,
    /// The values of a map with free keys.
    pub additional: Option<Arc<Schema>>,
    pub items: Option<Arc<Schema>>,
    /// Fields that are not described stay.
    pub keep_unknown: bool,
    /// A whole object of some kind: its `apiVersion`, `kind` and `metadata` stay.
    pub embedded: bool,
    pub nullable: bool,
    pub default: Option<Value>,
    pub list: ListType,
    /// An object that merges as one value.
    pub atomic: bool,
    /// Every object of a built-in kind has it, if only empty: its appearance is nobody's write.
    pub inherent: bool,
    pub checks: Checks,
}

/// Where a schema comes from decides what it leaves unsaid.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// A CRD: it says everything.
    Crd,
    /// A built-in kind: list types are known by field name, `required` is left to [`super::rules`].
    BuiltIn,
}

/// `$ref` targets, and those already compiled.
struct Definitions<'a> {
    raw: &'a Map<String, Value>,
    done: HashMap<String, Arc<Schema>>,
}

impl Schema {
    /// Compiles a CRD's `openAPIV3Schema`; the metadata is that of every object.
    pub fn from_crd(raw: &Value) -> Self {
        let mut root = compile(raw, "", Source::Crd, &mut Definitions { raw: &Map::new(), done: HashMap::new() });
        root.embedded = true;
        root.shape = Shape::Object;
        let metadata = schemars::schema_for!(k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta);
        root.properties.insert("metadata".into(), Arc::new(Self::built_in(metadata.as_value())));
        root
    }

    /// Compiles the schema that the client library has for a built-in kind.
    pub fn built_in(raw: &Value) -> Self {
        let none = Map::new();
        let raw_definitions = raw["$defs"].as_object().unwrap_or(&none);
        compile(raw, "", Source::BuiltIn, &mut Definitions { raw: raw_definitions, done: HashMap::new() })
    }

    /// The schema of a field or map value, if it is known.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(self.additional.as_ref()).map(Arc::as_ref)
    }

    /// Drops what the schema does not describe.
    pub fn prune(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                let mut has_unknown = false;
                for (k, v) in map.iter_mut() {
                    match self.field(k) {
                        Some(schema) => schema.prune(v),
                        None => has_unknown |= self.drops(k),
                    }
                }
                if has_unknown {
                    map.retain(|k, _| !self.drops(k));
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|v| schema.prune(v));
                }
            }
            _ => {}
        }
    }

    /// The paths of what [`Schema::prune`] would drop.
    pub fn unknown(&self, value: &Value) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_unknown(value, "", &mut out);
        out
    }

    fn collect_unknown(&self, value: &Value, path: &str, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (k, v) in map {
                    let at = if path.is_empty() { k.clone() } else { format!("{path}.{k}") };
                    match self.field(k) {
                        Some(schema) => schema.collect_unknown(v, &at, out),
                        None if self.drops(k) => out.push(at),
                        None => {}
                    }
                }
            }
            Value::Array(items) => {
                for (i, v) in items.iter().enumerate() {
                    if let Some(schema) = &self.items {
                        schema.collect_unknown(v, &format!("{path}[{i}]"), out);
                    }
                }
            }
            _ => {}
        }
    }

    /// The first value of a wrong type, as server-side apply words it.
    pub fn mistyped(&self, value: &Value, at: &str) -> Option<String> {
        self.first_mistyped(value).map(|(path, why)| format!("{at}{path}: {why}"))
    }

    /// The path to it, and what is wrong with it.
    fn first_mistyped(&self, value: &Value) -> Option<(String, String)> {
        let wanted = match self.shape {
            Shape::Object if !value.is_object() => "map",
            Shape::Array if !value.is_array() => "list",
            Shape::String if !value.is_string() => "string",
            Shape::Integer | Shape::Number if !value.is_number() => "numeric (int or float)",
            Shape::Boolean if !value.is_boolean() => "boolean",
            _ => "",
        };
        let below = |step: &dyn std::fmt::Display, (path, why): (String, String)| (format!("{step}{path}"), why);
        match value {
            Value::Null => None,
            _ if !wanted.is_empty() => Some((String::new(), format!("expected {wanted}, got {value}"))),
            Value::Object(map) => map.iter().find_map(|(key, value)| {
                let found = self.field(key)?.first_mistyped(value)?;
                Some(below(&format_args!(".{key}"), found))
            }),
            Value::Array(items) => {
                let inner = self.items.as_deref()?;
                let found = |(i, value): (usize, &Value)| Some(below(&format_args!("[{i}]"), inner.first_mistyped(value)?));
                items.iter().enumerate().find_map(found)
            }
            _ => None,
        }
    }

    /// The first item of a list that has none of the keys that it should be told apart by, in words.
    pub fn keyless(&self, value: &Value, at: &str) -> Option<String> {
        match value {
            Value::Object(map) => {
                let fields = map.iter().filter(|(key, _)| *key != "metadata");
                fields.into_iter().find_map(|(key, value)| self.field(key)?.keyless(value, &format!("{at}.{key}")))
            }
            Value::Array(items) => {
                let inner = self.items.as_deref()?;
                let ListType::Map(keys) = &self.list else {
                    return items.iter().enumerate().find_map(|(i, item)| inner.keyless(item, &format!("{at}[{i}]")));
                };
                let has_default = |key: &String| inner.properties.get(key).is_some_and(|schema| schema.default.is_some());
                let has_none = |item: &Value| keys.iter().all(|key| item.get(key).is_none() && !has_default(key));
                let position = items.iter().position(has_none)?;
                Some(format!(
                    "{at}: element {position}: associative list with keys has an element that omits all key fields {} (and doesn't have \
                     default values for any key fields)",
                    Value::from(keys.clone())
                ))
            }
            _ => None,
        }
    }

    /// Whether a field that has no schema of its own is dropped.
    fn drops(&self, field: &str) -> bool {
        let embedded = self.embedded && matches!(field, "apiVersion" | "kind" | "metadata");
        !embedded && self.shape != Shape::Any && !self.keep_unknown && self.additional.is_none() && !self.properties.contains_key(field)
    }

    /// Writes whole numbers as such, and drops each null that may not be one.
    pub fn settle(&self, value: &mut Value) {
        self.write_whole(value, true);
    }

    /// Writes whole numbers as such: `5.0` as `5`.
    pub fn settle_numbers(&self, value: &mut Value) {
        self.write_whole(value, false);
    }

    fn write_whole(&self, value: &mut Value, without_nulls: bool) {
        match value {
            #[expect(clippy::cast_possible_truncation, reason = "it is whole, and far from the limits")]
            Value::Number(number) if self.shape == Shape::Number => {
                if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e15) {
                    *value = (float as i64).into();
                }
            }
            Value::Object(map) => {
                let may_be = |schema: &Schema| schema.nullable || schema.shape == Shape::Any || schema.default.is_some();
                if without_nulls && map.values().any(Value::is_null) {
                    map.retain(|name, value| !value.is_null() || self.field(name).is_none_or(may_be));
                }
                for (name, value) in map.iter_mut() {
                    self.field(name).into_iter().for_each(|schema| schema.write_whole(value, without_nulls));
                }
            }
            Value::Array(items) => {
                self.items.iter().for_each(|schema| items.iter_mut().for_each(|item| schema.write_whole(item, without_nulls)))
            }
            _ => {}
        }
    }

    /// Fills in defaults below the fields that are present.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    let Some(default) = &schema.default else { continue };
                    let missing = match map.get(name) {
                        None => true,
                        Some(Value::Null) => !schema.nullable,
                        Some(_) => false,
                    };
                    if missing {
                        map.insert(name.clone(), default.clone());
                    }
                }
                for (k, v) in map.iter_mut() {
                    if let Some(schema) = self.field(k) {
                        schema.fill(v);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|v| schema.fill(v));
                }
            }
            _ => {}
        }
    }
}

fn compile(raw: &Value, name: &str, source: Source, defs: &mut Definitions<'_>) -> Schema {
    if let Some(target) = raw["$ref"].as_str() {
        let mut schema = (*resolve(target, source, defs)).clone();
        overlay(name, &mut schema);
        return schema;
    }
    let mut schema = Schema {
        shape: shape(raw),
        keep_unknown: raw["x-kubernetes-preserve-unknown-fields"] == true,
        embedded: raw["x-kubernetes-embedded-resource"] == true,
        nullable: raw["nullable"] == true,
        default: raw.get("default").cloned(),
        atomic: raw["x-kubernetes-map-type"] == "atomic",
        list: list_type(raw),
        checks: checks(raw, source, defs),
        ..Schema::default()
    };
    for (k, v) in raw["properties"].as_object().into_iter().flatten() {
        schema.properties.insert(k.clone(), Arc::new(compile(v, k, source, defs)));
    }
    if raw["items"].is_object() {
        schema.items = Some(Arc::new(compile(&raw["items"], "", source, defs)));
    }
    match &raw["additionalProperties"] {
        inner @ Value::Object(_) => schema.additional = Some(Arc::new(compile(inner, "", source, defs))),
        Value::Bool(true) => schema.additional = Some(Arc::default()),
        _ => {}
    }
    if source == Source::BuiltIn {
        let open = schema.properties.is_empty() && schema.additional.is_none();
        schema.atomic |= open && matches!(schema.shape, Shape::Any | Shape::Object);
        schema.keep_unknown |= open && schema.shape == Shape::Object;
        overlay(name, &mut schema);
    }
    schema
}

fn resolve(target: &str, source: Source, defs: &mut Definitions<'_>) -> Arc<Schema> {
    let key = target.rsplit('/').next().unwrap_or_default().to_owned();
    if let Some(done) = defs.done.get(&key) {
        return done.clone();
    }
    let raw = defs.raw;
    let schema = Arc::new(compile(raw.get(&key).unwrap_or(&Value::Null), "", source, defs));
    defs.done.insert(key, schema.clone());
    schema
}

fn shape(raw: &Value) -> Shape {
    if raw["x-kubernetes-int-or-string"] == true {
        return Shape::IntOrString;
    }
    match raw["type"].as_str() {
        Some("object") => Shape::Object,
        Some("array") => Shape::Array,
        Some("string") => Shape::String,
        Some("integer") => Shape::Integer,
        Some("number") => Shape::Number,
        Some("boolean") => Shape::Boolean,
        _ => Shape::Any,
    }
}

fn list_type(raw: &Value) -> ListType {
    match raw["x-kubernetes-list-type"].as_str() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(strings(&raw["x-kubernetes-list-map-keys"])),
        _ => ListType::Atomic,
    }
}

fn checks(raw: &Value, source: Source, defs: &mut Definitions<'_>) -> Checks {
    let mut all = |key: &str| -> Vec<Schema> { raw[key].as_array().into_iter().flatten().map(|s| compile(s, "", source, defs)).collect() };
    let (all_of, any_of, one_of) = (all("allOf"), all("anyOf"), all("oneOf"));
    let not = raw.get("not").map(|s| Box::new(compile(s, "", source, defs)));
    let required = if source == Source::Crd { strings(&raw["required"]) } else { Vec::new() };
    Checks {
        required,
        allowed: raw["enum"].as_array().cloned().unwrap_or_default(),
        minimum: raw["minimum"].as_f64(),
        maximum: raw["maximum"].as_f64(),
        exclusive_minimum: raw["exclusiveMinimum"] == true,
        exclusive_maximum: raw["exclusiveMaximum"] == true,
        min_length: raw["minLength"].as_u64(),
        max_length: raw["maxLength"].as_u64(),
        min_items: raw["minItems"].as_u64(),
        max_items: raw["maxItems"].as_u64(),
        min_properties: raw["minProperties"].as_u64(),
        max_properties: raw["maxProperties"].as_u64(),
        pattern: raw["pattern"].as_str().and_then(|p| Regex::new(p).ok()),
        format: raw["format"].as_str().map(str::to_owned),
        all_of,
        any_of,
        one_of,
        not,
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// The list and map types of the built-in kinds' fields, which the client library's schemas leave out.
fn overlay(name: &str, schema: &mut Schema) {
    let keyed = |keys: &[&str]| ListType::Map(keys.iter().map(|k| (*k).to_owned()).collect());
    let item_has = |field: &str| schema.items.as_ref().is_some_and(|i| i.properties.contains_key(field));
    if schema.shape == Shape::Array {
        schema.list = match name {
            "containers"
            | "initContainers"
            | "ephemeralContainers"
            | "env"
            | "volumes"
            | "resourceClaims"
            | "imagePullSecrets"
            | "secrets"
            | "claims"
                if item_has("name") =>
            {
                keyed(&["name"])
            }
            "volumeMounts" => keyed(&["mountPath"]),
            "volumeDevices" => keyed(&["devicePath"]),
            "hostAliases" | "podIPs" | "hostIPs" => keyed(&["ip"]),
            "topologySpreadConstraints" => keyed(&["topologyKey", "whenUnsatisfiable"]),
            "conditions" if item_has("type") => keyed(&["type"]),
            "ports" if item_has("containerPort") => keyed(&["containerPort", "protocol"]),
            "ports" if item_has("targetPort") => keyed(&["port", "protocol"]),
            "ownerReferences" => keyed(&["uid"]),
            "finalizers" => ListType::Set,
            _ => schema.list.clone(),
        };
    }
    if name == "ownerReferences"
        && let Some(item) = schema.items.as_mut()
    {
        Arc::make_mut(item).atomic = true;
    }
    if name == "ports" && matches!(schema.list, ListType::Map(_)) {
        default_protocol(schema);
    }
    schema.inherent = ["metadata", "spec", "status", "template", "strategy", "containers", "scaleTargetRef"].contains(&name);
    let atomic = ["selector", "labelSelector", "nodeSelector", "fieldRef", "resourceFieldRef", "targetRef", "regarding", "related"];
    schema.atomic |= atomic.contains(&name) || name.ends_with("KeyRef");
}

/// A port's protocol is part of its key, and usually left out.
fn default_protocol(ports: &mut Schema) {
    let Some(item) = ports.items.as_mut().map(Arc::make_mut) else { return };
    if let Some(protocol) = item.properties.get_mut("protocol").map(Arc::make_mut) {
        protocol.default = Some("TCP".into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_defaults_filled_in() {
        let schema = Schema::from_crd(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer", "default": 3},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "b": {"type": "boolean", "default": true}}}},
        }}}}));
        let mut object = json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "x", "what": 1}, "other": 1,
            "spec": {"m": 1, "open": {"any": {"thing": 1}}, "map": {"a": {}}}});
        schema.prune(&mut object);
        schema.fill(&mut object);
        assert_eq!(
            object,
            json!({"apiVersion": "v", "kind": "k", "metadata": {"name": "x"},
                "spec": {"n": 3, "open": {"any": {"thing": 1}}, "map": {"a": {"b": true}}}})
        );
    }

    #[test]
    fn built_in_kinds_know_their_list_keys() {
        let raw = schemars::schema_for!(k8s_openapi::api::core::v1::Pod);
        let schema = Schema::built_in(raw.as_value());
        let spec = schema.field("spec").unwrap();
        assert_eq!(spec.field("containers").unwrap().list, ListType::Map(vec!["name".into()]));
        let container = spec.field("containers").unwrap().items.as_ref().unwrap();
        let port = ListType::Map(vec!["containerPort".into(), "protocol".into()]);
        assert_eq!(container.field("ports").unwrap().list, port);
        assert_eq!(container.field("args").unwrap().list, ListType::Atomic);
        let finalizers = schema.field("metadata").unwrap().field("finalizers").unwrap();
        assert_eq!(finalizers.list, ListType::Set);
    }
}
