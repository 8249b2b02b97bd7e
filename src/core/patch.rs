//! Writes, as data. JSON Patches are guarded: each tests what it was computed from and the epoch, so that a write made from an old
//! view, or by a leader that is none any more, fails instead of undoing someone's work.

use std::fmt;

use serde_json::{Value, json};

use super::observed::Meta;
use crate::api::{keys, rollout::RouteKind};

/// The name under which managed fields record our writes.
pub const MANAGER: &str = "sluice";

/// The kinds that Sluice writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Rollout,
    RolloutAction,
    AnalysisRun,
    Deployment,
    ReplicaSet,
    ControllerRevision,
    Service,
    Route(RouteKind),
    BackendTlsPolicy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(kind) => kind.fmt(f),
            kind => fmt::Debug::fmt(kind, f),
        }
    }
}

/// One write, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// For logs and people: "scale ReplicaSet api-5d9 to 3".
    pub what: String,
    pub write: Write,
}

impl Action {
    /// Whether it is tried although an earlier one has failed. Routes do not wait for each other: where one cannot be written, the others take
    /// the traffic back all the same.
    pub fn stands_alone(&self) -> bool {
        matches!(self.write, Write::Patch { kind: Kind::Route(_), .. })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Names are deterministic: one that exists already is as good as done.
    Create { kind: Kind, body: Value },
    /// JSON Patch (RFC 6902).
    Patch { kind: Kind, name: String, subresource: Option<&'static str>, ops: Vec<Value> },
    /// Deletes just the object that was seen.
    Delete { kind: Kind, name: String, uid: String, resource_version: String },
    /// Asks for the end of a pod, which its PodDisruptionBudgets may put off.
    Evict { name: String, uid: String },
    /// Sets `replicas` through the scale subresource.
    Scale { kind: Kind, name: String, replicas: i32 },
}

/// Builds a guarded JSON Patch.
pub struct Guarded<'a> {
    kind: Kind,
    meta: &'a Meta,
    tests: Vec<Value>,
    ops: Vec<Value>,
    annotations: Vec<(String, Option<String>)>,
    version_test: bool,
}

impl<'a> Guarded<'a> {
    pub fn new(kind: Kind, meta: &'a Meta) -> Self {
        Self { kind, meta, tests: vec![], ops: vec![], annotations: vec![], version_test: false }
    }

    /// Fails unless the value at `path` is what it was.
    pub fn test(mut self, path: impl Into<String>, value: impl Into<Value>) -> Self {
        self.tests.push(json!({"op": "test", "path": path.into(), "value": value.into()}));
        self
    }

    /// Fails if anything about the object has changed.
    pub fn unchanged(mut self) -> Self {
        self.version_test = true;
        self
    }

    pub fn add(mut self, path: impl Into<String>, value: impl Into<Value>) -> Self {
        self.ops.push(json!({"op": "add", "path": path.into(), "value": value.into()}));
        self
    }

    pub fn replace(mut self, path: impl Into<String>, value: impl Into<Value>) -> Self {
        self.ops.push(json!({"op": "replace", "path": path.into(), "value": value.into()}));
        self
    }

    pub fn remove(mut self, path: impl Into<String>) -> Self {
        self.ops.push(json!({"op": "remove", "path": path.into()}));
        self
    }

    pub fn annotate(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.push((key.to_owned(), Some(value.into())));
        self
    }

    /// Removes an annotation, if it is there.
    pub fn unannotate(mut self, key: &str) -> Self {
        if self.meta.annotations.contains_key(key) {
            self.annotations.push((key.to_owned(), None));
        }
        self
    }

    /// The write, fenced by `epoch`: it tests the term of the last writer and sets ours.
    pub fn fenced(self, what: impl Into<String>, epoch: u64) -> Action {
        self.annotate(keys::EPOCH, epoch.to_string()).finish(what)
    }

    /// The write that takes our fence away, with our last other mark.
    pub fn unfenced(self, what: impl Into<String>) -> Action {
        self.unannotate(keys::EPOCH).finish(what)
    }

    /// The write that leaves the fence as it is: somebody else still needs it.
    pub fn kept_fenced(self, what: impl Into<String>) -> Action {
        self.finish(what)
    }

    fn finish(mut self, what: impl Into<String>) -> Action {
        let meta = self.meta;
        let mut ops = vec![json!({"op": "test", "path": "/metadata/uid", "value": meta.uid})];
        match meta.annotations.get(keys::EPOCH) {
            Some(seen) => ops.push(json!({"op": "test", "path": annotation(keys::EPOCH), "value": seen})),
            None => self.version_test = true,
        }
        if self.version_test {
            ops.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version}));
        }
        ops.append(&mut self.tests);
        if !meta.has_annotations && self.annotations.iter().any(|(_, value)| value.is_some()) {
            ops.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        for (key, value) in self.annotations {
            match value {
                Some(value) if meta.annotations.get(&key) == Some(&value) => {}
                Some(value) => ops.push(json!({"op": "add", "path": annotation(&key), "value": value})),
                None => ops.push(json!({"op": "remove", "path": annotation(&key)})),
            }
        }
        ops.append(&mut self.ops);
        Action { what: what.into(), write: Write::Patch { kind: self.kind, name: meta.name.clone(), subresource: None, ops } }
    }
}

/// The JSON Pointer of an annotation.
pub fn annotation(key: &str) -> String {
    format!("/metadata/annotations/{}", escape(key))
}

/// The JSON Pointer of a label.
pub fn label(key: &str) -> String {
    format!("/metadata/labels/{}", escape(key))
}

/// One part of a JSON Pointer (RFC 6901).
pub fn escape(part: &str) -> String {
    part.replace('~', "~0").replace('/', "~1")
}

pub fn delete(kind: Kind, meta: &Meta, what: impl Into<String>) -> Action {
    Action {
        what: what.into(),
        write: Write::Delete { kind, name: meta.name.clone(), uid: meta.uid.clone(), resource_version: meta.resource_version.clone() },
    }
}

pub fn create(kind: Kind, body: Value, what: impl Into<String>) -> Action {
    Action { what: what.into(), write: Write::Create { kind, body } }
}
