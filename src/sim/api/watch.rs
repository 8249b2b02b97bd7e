//! Watches, without any waiting: a cursor into the log that is asked what is new.

use std::sync::Arc;

use serde_json::{Value, json};

use super::ApiServer;
use super::error::{ApiError, FieldError};
use super::kinds::Kind;
use super::path::{Query, Target};
use super::selector::{FieldSelector, LabelSelector};
use super::store::{Change, Event};

/// What a list or watch is limited to.
#[derive(Debug, Clone)]
pub struct Scope {
    pub kind: Arc<Kind>,
    pub namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Scope {
    pub fn new(kind: &Arc<Kind>, target: &Target, query: &Query) -> Result<Self, ApiError> {
        let mut fields = query.get("fieldSelector").unwrap_or_default().to_owned();
        if let Some(name) = &target.name {
            fields = format!("metadata.name={name},{fields}");
        }
        Ok(Self {
            kind: kind.clone(),
            namespace: target.namespace.clone(),
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())?,
            fields: FieldSelector::parse(&fields)?,
        })
    }

    pub fn contains(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        self.namespace.as_deref().is_none_or(|ns| metadata["namespace"] == ns)
            && self.labels.matches(&metadata["labels"])
            && self.fields.matches(object)
    }
}

/// One line of a watch.
#[derive(Debug, Clone)]
pub struct Notice {
    /// `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
    pub kind: &'static str,
    pub object: Arc<Value>,
}

/// A watch: where in the log it is, and what it is limited to.
#[derive(Debug, Clone)]
pub struct Watch {
    pub scope: Scope,
    /// Everything up to this revision has been delivered.
    revision: u64,
    /// Delivered before the log is read: the initial objects.
    initial: Vec<Notice>,
    bookmarks: bool,
    bookmarked: u64,
    ended: bool,
}

impl ApiServer {
    /// Opens a watch, by the rules for `resourceVersion` and `sendInitialEvents`.
    pub fn open_watch(&self, target: &Target, query: &Query) -> Result<Watch, ApiError> {
        let kind = self.kinds.find(&target.group, &target.version, &target.plural).ok_or_else(ApiError::no_such_path)?;
        let scope = Scope::new(kind, target, query)?;
        let current = self.store.revision();
        let asked = match query.get("resourceVersion") {
            None => 0,
            Some(text) => text.parse().map_err(|_| ApiError::bad_request(format!("Invalid value: {text:?}")))?,
        };
        let streaming = query.flag("sendInitialEvents");
        if streaming && query.get("resourceVersionMatch") != Some("NotOlderThan") {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(ApiError::invalid_options("ListOptions", FieldError::forbidden("resourceVersionMatch", why)));
        }
        let bookmarks = query.flag("allowWatchBookmarks");
        // Unset and "0" start with the objects as they are now, unless that is switched off.
        let start_with_state = streaming || (asked == 0 && query.get("sendInitialEvents").is_none());
        let mut watch = Watch { scope, revision: asked, initial: Vec::new(), bookmarks, bookmarked: current, ended: false };
        if start_with_state {
            watch.revision = current;
            let objects = self.store.list(watch.scope.kind.stored_id()).map(|(_, o)| watch.scope.kind.shown(o));
            let objects = objects.filter(|o| watch.scope.contains(o));
            watch.initial = objects.map(|object| Notice { kind: "ADDED", object }).collect();
            if streaming && bookmarks {
                let mut mark = bookmark(&watch.scope.kind, current);
                mark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                watch.initial.push(Notice { kind: "BOOKMARK", object: Arc::new(mark) });
            }
        } else if asked == 0 {
            watch.revision = current;
        }
        Ok(watch)
    }

    /// What the watch has not delivered yet.
    pub fn poll_watch(&self, watch: &mut Watch) -> Vec<Notice> {
        if watch.ended {
            return Vec::new();
        }
        let mut out = std::mem::take(&mut watch.initial);
        if watch.revision < self.store.forgotten() {
            let error = ApiError::expired(watch.revision, self.store.forgotten());
            out.push(Notice { kind: "ERROR", object: Arc::new(error.to_status()) });
            watch.ended = true;
            return out;
        }
        for event in self.store.since(watch.revision).filter(|e| &*e.kind == watch.scope.kind.stored_id()) {
            out.extend(notice(&watch.scope, event));
        }
        // A watch from a revision that is still to come waits for it.
        watch.revision = watch.revision.max(self.store.revision());
        out
    }

    /// A bookmark, if the watch wants them and one would be news.
    pub fn bookmark(&self, watch: &mut Watch) -> Option<Notice> {
        if !watch.bookmarks || watch.ended || watch.bookmarked == watch.revision {
            return None;
        }
        watch.bookmarked = watch.revision;
        Some(Notice { kind: "BOOKMARK", object: Arc::new(bookmark(&watch.scope.kind, watch.revision)) })
    }
}

impl Watch {
    /// An ended watch (its history was forgotten) delivers nothing more.
    pub fn ended(&self) -> bool {
        self.ended
    }
}

fn bookmark(kind: &Kind, revision: u64) -> Value {
    json!({"apiVersion": kind.api_version, "kind": kind.kind,
        "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null}})
}

/// A write as one watch sees it: an object that comes to match was added, one that ceases to was deleted.
fn notice(scope: &Scope, event: &Event) -> Option<Notice> {
    let object = scope.kind.shown(&event.object);
    let now = event.change != Change::Deleted && scope.contains(&object);
    let before = event.before.as_ref().map(|b| scope.kind.shown(b)).filter(|b| scope.contains(b));
    match (before, now) {
        (None, true) => Some(Notice { kind: "ADDED", object }),
        (Some(_), true) => Some(Notice { kind: "MODIFIED", object }),
        (Some(_), false) if event.change == Change::Deleted => Some(Notice { kind: "DELETED", object }),
        // No longer selected: the last state that was, at the revision of the change.
        (Some(before), false) => {
            let mut last = (*before).clone();
            last["metadata"]["resourceVersion"] = event.revision.to_string().into();
            Some(Notice { kind: "DELETED", object: Arc::new(last) })
        }
        (None, false) => None,
    }
}
