//! What is generated of each kind: whole objects, and the fields that people, controllers and Sluice change in them, with values that
//! are right and values that are wrong.

mod core;
mod routes;
mod sluice;
mod workloads;

use serde_json::{Value, json};

pub struct Kind {
    pub api_version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// Has a scale subresource.
    pub scale: bool,
    /// Parts of it make no sense to apply.
    pub whole: bool,
    /// Can be evicted.
    pub eviction: bool,
    /// Whole objects, without their names: all that is valid to create.
    pub bodies: Vec<Value>,
    pub fields: Vec<Field>,
    pub status_fields: Vec<Field>,
    /// Strategic merge patches.
    pub strategic: Vec<Value>,
}

/// A field that requests change, and what to.
pub struct Field {
    /// As a JSON pointer.
    pub pointer: &'static str,
    pub right: Vec<Value>,
    pub wrong: Vec<Value>,
}

impl Kind {
    /// Whether a CustomResourceDefinition describes it.
    pub fn is_custom(&self) -> bool {
        self.api_version.starts_with("sluice.dev/") || self.api_version.starts_with("gateway.networking.k8s.io/")
    }

    pub fn collection(&self, namespace: &str) -> String {
        let prefix = if self.api_version.contains('/') { "apis" } else { "api" };
        format!("/{prefix}/{}/namespaces/{namespace}/{}", self.api_version, self.plural)
    }
}

fn field(pointer: &'static str, right: Value, wrong: Value) -> Field {
    let list = |value: Value| value.as_array().cloned().unwrap_or_default();
    Field { pointer, right: list(right), wrong: list(wrong) }
}

/// A reference to an owner that nobody looks for.
fn owner(name: &str, number: u8) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": format!("00000000-0000-4000-8000-00000000000{number}")})
}

fn controller(name: &str, number: u8) -> Value {
    let mut owner = owner(name, number);
    owner["controller"] = true.into();
    owner
}

/// What every object has.
pub fn metadata_fields() -> Vec<Field> {
    vec![
        field(
            "/metadata/labels",
            json!([{}, {"app": "a"}, {"app": "b", "tier": "x"}]),
            json!(["x", [1], {"app": 1}, {"-": "x"}, {"app": "a b"}]),
        ),
        field("/metadata/labels/app", json!(["a", "b", ""]), json!([1, {"x": "y"}, "-"])),
        field("/metadata/labels/tier", json!(["x", "y"]), json!([true])),
        field("/metadata/annotations", json!([{}, {"sluice.dev/epoch": "3"}]), json!([{"x": 1}, {"a b": "c"}])),
        field("/metadata/annotations/sluice.dev~1epoch", json!(["1", "2"]), json!([1])),
        field("/metadata/annotations/note", json!(["", "some words"]), json!([])),
        field(
            "/metadata/finalizers",
            json!([[], ["sluice.dev/hold"], ["sluice.dev/hold", "other.dev/hold"]]),
            json!([["hold"], "sluice.dev/hold"]),
        ),
        field("/metadata/generation", json!([7]), json!(["x"])),
        field(
            "/metadata/ownerReferences",
            json!([[], [owner("a", 1)], [owner("a", 1), owner("b", 2)]]),
            json!([[{"kind": "ConfigMap", "name": "a"}], [controller("a", 1), controller("b", 2)]]),
        ),
    ]
}

pub fn all() -> Vec<Kind> {
    [workloads::all(), core::all(), routes::all(), sluice::all()].into_iter().flatten().collect()
}

fn kind(api_version: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind {
        api_version,
        kind,
        plural,
        scale: false,
        whole: false,
        eviction: false,
        bodies: vec![],
        fields: vec![],
        status_fields: vec![],
        strategic: vec![],
    }
}
fn condition(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "Because", "message": "words", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}
