//! Sets of fields, in the notation of `managedFields`: `f:name`, `k:{"key":"value"}`, `v:value`, and `.` for a field itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::schema::{ListType, Schema};

/// A tree of fields. A node that has no children is a member; one that has some is a member only if `own`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSet {
    own: bool,
    children: BTreeMap<String, FieldSet>,
}

/// How a field that has children says that it is a member itself.
const OWN: &str = ".";

fn is_own(fields: &Map<String, Value>) -> bool {
    fields.is_empty() || fields.contains_key(OWN)
}

fn mark_own(fields: &mut Map<String, Value>, own: bool) {
    let has_children = fields.keys().any(|key| key != OWN);
    if own && has_children {
        fields.insert(OWN.into(), json!({}));
    } else {
        fields.remove(OWN);
    }
}

/// What a write changed: fields added or changed, and fields removed.
#[derive(Debug, Default)]
pub struct Difference {
    pub written: FieldSet,
    pub removed: FieldSet,
}

/// Fields that belong to the server, not to any manager.
const UNMANAGED_METADATA: [&str; 9] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
];

/// An object without the fields that nobody manages.
pub fn managed_part(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(map) = out.as_object_mut() {
        map.remove("apiVersion");
        map.remove("kind");
        if let Some(metadata) = map.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|k, _| !UNMANAGED_METADATA.contains(&k.as_str()));
        }
    }
    out
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        !self.own && self.children.is_empty()
    }

    fn leaf() -> Self {
        Self { own: true, children: BTreeMap::new() }
    }

    /// One field, by the names on the way to it.
    pub fn of_path(path: &[String]) -> Self {
        path.iter().rev().fold(Self::leaf(), |set, name| Self { own: false, children: BTreeMap::from([(format!("f:{name}"), set)]) })
    }

    /// The member fields of a whole value.
    pub fn of(schema: Option<&Schema>, value: &Value) -> Self {
        let mut set = Self::default();
        let parts = parts(schema, value).unwrap_or_default();
        // An empty list of items with owners of their own has nothing to own; an empty map has itself.
        set.own = parts.is_empty() && !(value.is_array() && schema.is_some_and(|s| s.list != ListType::Atomic));
        for (key, inner_schema, inner) in parts {
            let mut child = Self::of(inner_schema, inner);
            // What is no field of its own kind's is also a member itself.
            child.own |= !is_declared(schema, &key);
            if !child.is_empty() {
                set.children.insert(key, child);
            }
        }
        set
    }

    /// As [`FieldSet::of`] for a whole object, without what nobody manages.
    pub fn of_object(schema: &Schema, object: &Value) -> Self {
        let mut part = managed_part(object);
        if let Some(map) = part.as_object_mut() {
            map.retain(|k, v| k != "metadata" || v.as_object().is_some_and(|m| !m.is_empty()));
            if map.is_empty() {
                return Self::default();
            }
        }
        Self::of(Some(schema), &part)
    }

    /// The fields of a value that was not there before: maps and lists count themselves, too, but for those that
    /// every object of the kind has.
    fn of_new(schema: Option<&Schema>, value: &Value) -> Self {
        let mut set = Self::default();
        for (key, inner_schema, inner) in parts(schema, value).unwrap_or_default() {
            let mut child = Self::of_new(inner_schema, inner);
            child.own |= !key.starts_with("f:");
            if !child.is_empty() {
                set.children.insert(key, child);
            }
        }
        set.own = !((value.is_object() || value.is_array()) && schema.is_some_and(|s| s.inherent));
        set
    }

    pub fn union(&mut self, other: &Self) {
        self.own |= other.own;
        for (key, child) in &other.children {
            self.children.entry(key.clone()).or_default().union(child);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        self.own &= !other.own;
        for (key, gone) in &other.children {
            if let Some(child) = self.children.get_mut(key) {
                child.subtract(gone);
                if child.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    /// As [`FieldSet::subtract`], with all that is below a member.
    pub fn subtract_whole(&mut self, other: &Self) {
        if other.own {
            *self = Self::default();
            return;
        }
        for (key, gone) in &other.children {
            if let Some(child) = self.children.get_mut(key) {
                child.subtract_whole(gone);
                if child.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    /// As [`FieldSet::subtract_whole`], of a set in its notation; whether anything is left.
    pub fn subtract_whole_from(&self, fields: &mut Map<String, Value>) -> bool {
        if self.own {
            return false;
        }
        let own = is_own(fields);
        fields.remove(OWN);
        for (key, gone) in &self.children {
            let left = fields.get_mut(key).and_then(Value::as_object_mut).is_none_or(|child| gone.subtract_whole_from(child));
            if !left {
                fields.remove(key);
            }
        }
        mark_own(fields, own);
        own || !fields.is_empty()
    }

    /// As [`FieldSet::subtract`], of a set in its notation; whether anything is left.
    pub fn subtract_from(&self, fields: &mut Map<String, Value>) -> bool {
        let own = is_own(fields) && !self.own;
        fields.remove(OWN);
        for (key, gone) in &self.children {
            let left = fields.get_mut(key).and_then(Value::as_object_mut).is_none_or(|child| gone.subtract_from(child));
            if !left {
                fields.remove(key);
            }
        }
        mark_own(fields, own);
        own || !fields.is_empty()
    }

    /// As [`FieldSet::union`], of a set in its notation that is not empty.
    pub fn union_into(&self, fields: &mut Map<String, Value>) {
        let own = is_own(fields) || self.own;
        for (key, child) in &self.children {
            match fields.get_mut(key).and_then(Value::as_object_mut) {
                Some(fields) => child.union_into(fields),
                None => drop(fields.insert(key.clone(), child.to_json())),
            }
        }
        mark_own(fields, own);
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        let mut rest = self.clone();
        rest.subtract(other);
        rest.is_empty()
    }

    /// Spares what `other` has anything at or below: it is not to go as a whole. An item of a list does, unless it is itself kept.
    pub fn spare(&mut self, other: &Self) {
        for (key, kept) in other.children.iter().filter(|(key, kept)| key.starts_with("f:") || kept.own) {
            if let Some(child) = self.children.get_mut(key) {
                child.own = false;
                child.spare(kept);
                if child.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    /// Drops a top-level field that is a member as a whole; its parts stay.
    pub fn drop_whole(&mut self, key: &str) {
        if self.children.get(key).is_some_and(|c| c.children.is_empty()) {
            self.children.remove(key);
        }
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self { own: self.own && other.own, children: BTreeMap::new() };
        for (key, child) in &self.children {
            if let Some(common) = other.children.get(key).map(|o| child.intersection(o)).filter(|c| !c.is_empty()) {
                out.children.insert(key.clone(), common);
            }
        }
        out
    }

    /// Every member as people read it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect_paths("", &mut out);
        out
    }

    /// The members of each level come before those below them.
    fn collect_paths(&self, at: &str, out: &mut Vec<String>) {
        out.extend(self.children.iter().filter(|(_, child)| child.own).map(|(key, _)| format!("{at}{}", step(key))));
        for (key, child) in &self.children {
            child.collect_paths(&format!("{at}{}", step(key)), out);
        }
    }

    pub fn from_json(fields: &Value) -> Self {
        let mut set = Self::default();
        for (key, inner) in fields.as_object().into_iter().flatten() {
            if key == OWN {
                set.own = true;
            } else {
                set.children.insert(key.clone(), Self::from_json(inner));
            }
        }
        set.own |= set.children.is_empty();
        set
    }

    pub fn to_json(&self) -> Value {
        let mut out = Map::new();
        if self.own && !self.children.is_empty() {
            out.insert(OWN.into(), json!({}));
        }
        for (key, child) in &self.children {
            out.insert(key.clone(), child.to_json());
        }
        Value::Object(out)
    }

    /// Takes these fields out of a value. A map or list that they empty goes too, or is null if it is itself among
    /// those that are `kept`.
    pub fn remove_from(&self, schema: Option<&Schema>, value: &mut Value, kept: &Self) {
        for (key, gone) in &self.children {
            let inner_schema = child_schema(schema, key);
            let whole_item = gone.own && !key.starts_with("f:");
            let Some(position) = locate(schema, value, key) else {
                continue;
            };
            let inner = match &position {
                Position::Field(name) => &mut value[name.as_str()],
                Position::Item(index) => &mut value[*index],
            };
            let inner_kept = kept.children.get(key);
            // What nobody has anything in any more goes as a whole, with what the server filled in.
            let vanishes = inner_kept.is_none() && key != "f:metadata" && is_declared(schema, key);
            if !whole_item && !vanishes && !gone.children.is_empty() {
                gone.remove_from(inner_schema, inner, inner_kept.unwrap_or(&Self::default()));
                let emptied = match inner {
                    Value::Object(m) => m.is_empty(),
                    Value::Array(a) => a.is_empty(),
                    _ => false,
                };
                if !emptied {
                    continue;
                }
                // As the API server leaves it, whatever the schema says of nulls.
                if inner_kept.is_some() {
                    *inner = Value::Null;
                    continue;
                }
            }
            match (position, &mut *value) {
                (Position::Field(name), Value::Object(map)) => drop(map.remove(&name)),
                (Position::Item(index), Value::Array(items)) => drop(items.remove(index)),
                _ => {}
            }
        }
    }
}

impl Difference {
    /// Compares two whole objects.
    pub fn between(schema: &Schema, old: &Value, new: &Value) -> Self {
        let mut difference = Self::default();
        let Self { written, removed } = &mut difference;
        let metadata = schema.field("metadata");
        if let (Value::Object(a), Value::Object(b)) = (old, new) {
            compare_maps(Some(schema), a, b, |key| !matches!(key, "apiVersion" | "kind" | "metadata"), written, removed);
        }
        if let (Value::Object(a), Value::Object(b)) = (&old["metadata"], &new["metadata"]) {
            let (mut w, mut r) = (FieldSet::default(), FieldSet::default());
            compare_maps(metadata, a, b, |key| !UNMANAGED_METADATA.contains(&key), &mut w, &mut r);
            put("f:metadata".to_owned(), (w, r), written, removed);
        }
        difference
    }
}

/// Compares what is not the same.
fn compare(s: Option<&Schema>, old: Option<&Value>, new: Option<&Value>, written: &mut FieldSet, removed: &mut FieldSet) {
    match (old, new) {
        (None, None) => {}
        (Some(a), None) => {
            *removed = FieldSet::of(s, a);
            removed.own = true;
        }
        (None, Some(b)) => {
            *written = FieldSet::of_new(s, b);
        }
        (Some(Value::Object(a)), Some(Value::Object(b))) if !s.is_some_and(|s| s.atomic) => {
            compare_maps(s, a, b, |_| true, written, removed)
        }
        (Some(a), Some(b)) => match (parts(s, a), parts(s, b)) {
            (Some(before), Some(after)) if a.is_object() == b.is_object() => {
                let before: BTreeMap<String, _> = before.into_iter().map(|(k, s, v)| (k, (s, v))).collect();
                let after: BTreeMap<String, _> = after.into_iter().map(|(k, s, v)| (k, (s, v))).collect();
                for (key, (inner_schema, a)) in &before {
                    let b = after.get(key).map(|(_, v)| *v);
                    if Some(*a) != b {
                        put(key.clone(), compare_child(*inner_schema, Some(a), b), written, removed);
                    }
                }
                for (key, (inner_schema, b)) in after.iter().filter(|(k, _)| !before.contains_key(*k)) {
                    put(key.clone(), compare_child(*inner_schema, None, Some(b)), written, removed);
                }
            }
            _ => *written = FieldSet::leaf(),
        },
    }
}

/// Compares the fields that are managed; what is the same (most of an object, at most writes) is only looked at.
fn compare_maps(
    schema: Option<&Schema>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    is_managed: impl Fn(&str) -> bool,
    written: &mut FieldSet,
    removed: &mut FieldSet,
) {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added).filter(|key| is_managed(key)) {
        let (a, b) = (old.get(key), new.get(key));
        if a != b {
            put(format!("f:{key}"), compare_child(schema.and_then(|s| s.field(key)), a, b), written, removed);
        }
    }
}

fn compare_child(schema: Option<&Schema>, old: Option<&Value>, new: Option<&Value>) -> (FieldSet, FieldSet) {
    let (mut written, mut removed) = (FieldSet::default(), FieldSet::default());
    compare(schema, old, new, &mut written, &mut removed);
    (written, removed)
}

fn put(key: String, (w, r): (FieldSet, FieldSet), written: &mut FieldSet, removed: &mut FieldSet) {
    if !r.is_empty() {
        removed.children.insert(key.clone(), r);
    }
    if !w.is_empty() {
        written.children.insert(key, w);
    }
}

/// One part of a value: its key in a field set, its schema, and itself.
type Part<'a> = (String, Option<&'a Schema>, &'a Value);

/// The separately owned parts of a value, or None if it is owned as a whole.
fn parts<'a>(schema: Option<&'a Schema>, value: &'a Value) -> Option<Vec<Part<'a>>> {
    match value {
        Value::Object(map) if !schema.is_some_and(|s| s.atomic) => {
            let part = |(k, v): (&String, &'a Value)| (format!("f:{k}"), schema.and_then(|s| s.field(k)), v);
            // `part` borrows the schema for as long as the value.
            Some(map.iter().map(part).collect())
        }
        Value::Array(items) => {
            let inner = schema.and_then(|s| s.items.as_deref());
            let schema = schema.filter(|s| s.list != ListType::Atomic)?;
            Some(items.iter().map(|v| (item_key(schema, v), inner, v)).collect())
        }
        _ => None,
    }
}

/// Whether a part is a field that the schema names, not an item or a free key.
fn is_declared(schema: Option<&Schema>, key: &str) -> bool {
    let name = key.strip_prefix("f:");
    name.zip(schema).is_some_and(|(name, schema)| schema.properties.contains_key(name))
}

/// The key of a list's item: `k:{...}` or `v:...`. A key that the item leaves out has its default.
pub fn item_key(schema: &Schema, item: &Value) -> String {
    let ListType::Map(keys) = &schema.list else { return format!("v:{item}") };
    let default = |k: &String| schema.items.as_ref()?.properties.get(k)?.default.as_ref();
    let value = |k: &String| item.get(k).or_else(|| default(k)).map(|v| (k.clone(), v.clone()));
    format!("k:{}", Value::Object(keys.iter().filter_map(value).collect()))
}

/// The first item of a list that its key does not tell from an earlier one, in words.
pub fn doubled(schema: &Schema, value: &Value, at: &str) -> Option<String> {
    let mut seen = Vec::new();
    for (key, inner_schema, inner) in parts(Some(schema), value)? {
        let step = step(&key);
        if seen.contains(&key) {
            return Some(format!("{at}: duplicate entries for key {step}"));
        }
        seen.push(key);
        if let Some(why) = inner_schema.and_then(|schema| doubled(schema, inner, &format!("{at}{step}"))) {
            return Some(why);
        }
    }
    None
}

enum Position {
    Field(String),
    Item(usize),
}

fn locate(schema: Option<&Schema>, value: &Value, key: &str) -> Option<Position> {
    match value {
        Value::Object(map) => {
            let name = key.strip_prefix("f:")?;
            map.contains_key(name).then(|| Position::Field(name.to_owned()))
        }
        Value::Array(items) => {
            let schema = schema?;
            items.iter().position(|v| item_key(schema, v) == key).map(Position::Item)
        }
        _ => None,
    }
}

fn child_schema<'a>(schema: Option<&'a Schema>, key: &str) -> Option<&'a Schema> {
    let schema = schema?;
    match key.strip_prefix("f:") {
        Some(name) => schema.field(name),
        None => schema.items.as_deref(),
    }
}

/// A key of a field set as people read it.
fn step(key: &str) -> String {
    match key.split_at(2) {
        ("f:", name) => format!(".{name}"),
        ("k:", keys) => key_path(keys),
        (_, value) => format!("[={value}]"),
    }
}

fn key_path(keys: &str) -> String {
    let keys: Value = serde_json::from_str(keys).unwrap_or_default();
    let pairs = keys.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={v}"));
    format!("[{}]", pairs.collect::<Vec<_>>().join(","))
}
