//! The forms in which objects are answered: whole, their metadata alone, or as rows of a table.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::caller::Part;
use super::kinds::Kind;
use super::{scale, table};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Whole,
    /// `PartialObjectMetadata`
    Metadata,
    /// `Table`, as `kubectl get` asks for.
    Table,
}

/// An item of a list: that it is of the list's kind, built-in kinds leave unsaid.
fn listed(kind: &Kind, object: &Value) -> Value {
    let mut item = object.clone();
    if let Some(map) = item.as_object_mut().filter(|_| !kind.custom) {
        map.remove("apiVersion");
        map.remove("kind");
    }
    item
}

impl View {
    /// What the `Accept` header asks for first among what this server can do.
    pub fn wanted(accept: &str) -> Self {
        let first = accept.split(',').find(|a| a.contains("application/json")).unwrap_or_default();
        if first.contains("as=PartialObjectMetadata") {
            Self::Metadata
        } else if first.contains("as=Table") {
            Self::Table
        } else {
            Self::Whole
        }
    }

    /// One object. What is not of the kind (a `Scale`, a bookmark's stub) stays as it is.
    pub fn one(self, kind: &Kind, object: &Arc<Value>, now: Timestamp) -> Arc<Value> {
        match self {
            Self::Metadata if object["kind"] == *kind.kind => {
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]}).into()
            }
            Self::Table if object["kind"] == *kind.kind => table::table(kind, std::iter::once(&**object), now, None).into(),
            _ => object.clone(),
        }
    }

    pub(super) fn or_scale(self, kind: &Kind, object: &Arc<Value>, part: Part, now: Timestamp) -> Arc<Value> {
        match part {
            Part::Scale => scale::or_empty(kind, object).into(),
            _ => self.one(kind, object, now),
        }
    }

    pub fn many(self, kind: &Kind, objects: &[Arc<Value>], revision: u64, now: Timestamp) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        match self {
            Self::Whole => {
                if kind.custom {
                    metadata["continue"] = "".into();
                }
                let items: Vec<Value> = objects.iter().map(|o| listed(kind, o)).collect();
                json!({"apiVersion": kind.api_version, "kind": format!("{}List", kind.kind), "metadata": metadata, "items": items})
            }
            Self::Metadata => {
                let items: Vec<Value> = objects.iter().map(|o| Arc::unwrap_or_clone(self.one(kind, o, now))).collect();
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": metadata, "items": items})
            }
            Self::Table => table::table(kind, objects.iter().map(|o| o.as_ref()), now, Some(revision)),
        }
    }
}
