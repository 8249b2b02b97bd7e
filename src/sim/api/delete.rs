//! Deletion: preconditions, finalizers, propagation, and the grace that pods are given.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::caller::Caller;
use super::error::ApiError;
use super::kinds::Kind;
use super::managed::seconds;
use super::path::{Query, Target};
use super::store::{Change, ObjectKey};
use super::view::View;
use super::watch::Scope;
use super::write::CRDS;
use super::{ApiServer, Request, events, normalize};

/// What happens to the objects that name the deleted one as their owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They are collected after it is gone.
    #[default]
    Background,
    /// They are collected before it goes.
    Foreground,
    /// They stay, without that owner.
    Orphan,
}

#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds a pod is given to end; its own `terminationGracePeriodSeconds` if absent.
    pub grace: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

impl DeleteOptions {
    pub(super) fn parse(body: &Value, query: &Query) -> Result<Self, ApiError> {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let orphan = body["orphanDependents"].as_bool();
        let policy = query.get("propagationPolicy").or(body["propagationPolicy"].as_str());
        let propagation = match policy {
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                return Err(ApiError::bad_request(format!("propagationPolicy: Unsupported value: {other:?}")));
            }
            None => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
        };
        let grace = query.get("gracePeriodSeconds").and_then(|g| g.parse().ok());
        Ok(Self {
            grace: grace.or(body["gracePeriodSeconds"].as_i64()),
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
        })
    }
}

impl ApiServer {
    /// Deletes an object: at once, or by marking it and waiting for its finalizers and grace.
    /// Answers with the object while it stays, with a `Status` when it is gone.
    pub fn delete(&mut self, kind: &Arc<Kind>, key: &ObjectKey, options: &DeleteOptions, caller: &Caller) -> Result<Value, ApiError> {
        let live = self.store.get(&kind.id, key).ok_or_else(|| ApiError::not_found(kind, &key.1))?.clone();
        check_preconditions(kind, &live, options)?;
        let mut object = (*live).clone();
        mark(kind, &mut object, options, caller.now);
        if caller.dry_run {
            return Ok(if normalize::is_finished(kind, &object) { gone(kind, &live) } else { object });
        }
        let versioned = options.resource_version.is_some();
        if versioned && normalize::is_finished(kind, &object) && !normalize::is_finished(kind, &live) && has_finalizers(&live) {
            // The API server takes the finalizers off, and then compares with no version at all.
            let found = live["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let why = format!("Precondition failed: ResourceVersion in precondition: , ResourceVersion in object meta: {found}");
            return Err(ApiError::conflict(kind, &key.1, why));
        }
        if normalize::is_finished(kind, &object) {
            // A pod is marked before it goes; of others nobody sees the mark.
            let last = if &*kind.id == "pods" {
                if object != *live {
                    self.commit(kind, key.clone(), object.clone(), Change::Modified, caller);
                }
                object.clone()
            } else {
                (*live).clone()
            };
            let last = self.commit(kind, key.clone(), last, Change::Deleted, caller);
            self.uninstall_if_crd(kind, &live, caller);
            object["metadata"]["resourceVersion"] = last["metadata"]["resourceVersion"].clone();
            return Ok(if &*kind.id == "pods" { object } else { gone(kind, &last) });
        }
        if object == *live {
            return Ok(object);
        }
        Ok((*self.commit(kind, key.clone(), object, Change::Modified, caller)).clone())
    }

    pub(super) fn delete_collection(
        &mut self,
        kind: &Arc<Kind>,
        target: &Target,
        query: &Query,
        request: &Request,
        caller: &Caller,
    ) -> Result<Value, ApiError> {
        let scope = Scope::new(kind, target, query)?;
        let options = DeleteOptions::parse(&request.body, query)?;
        let matching: Vec<Arc<Value>> = self.list(&kind.id).filter(|o| scope.contains(o)).cloned().collect();
        for object in &matching {
            self.delete(kind, &key_of(object), &options, caller)?;
        }
        Ok(View::Whole.many(kind, &matching, self.revision(), caller.now))
    }

    /// With its definition, a custom kind's objects go.
    fn uninstall_if_crd(&mut self, kind: &Kind, crd: &Value, caller: &Caller) {
        if &*kind.id != CRDS {
            return;
        }
        let id = crd["metadata"]["name"].as_str().unwrap_or_default();
        let Ok(custom) = self.kind(id).cloned() else {
            return;
        };
        let objects: Vec<Arc<Value>> = self.list(id).cloned().collect();
        for object in objects {
            self.commit(&custom, key_of(&object), (*object).clone(), Change::Deleted, caller);
        }
        Arc::make_mut(&mut self.kinds).remove(id);
    }
}

fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

fn key_of(object: &Value) -> ObjectKey {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn check_preconditions(kind: &Kind, live: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let metadata = &live["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let hint = "The object might have been deleted and then recreated";
    let uid = ("UID", &options.uid, &metadata["uid"], hint);
    let version = ("ResourceVersion", &options.resource_version, &metadata["resourceVersion"], "The object might have been modified");
    for (what, wanted, found, hint) in [uid, version] {
        if let Some(wanted) = wanted
            && found != wanted
        {
            let found = found.as_str().unwrap_or_default();
            let why = format!("the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). {hint}");
            return Err(ApiError::precondition(kind, name, why));
        }
    }
    Ok(())
}

/// What a finished deletion is answered with: a `Status`, but for the kinds that show the object once more.
fn gone(kind: &Kind, object: &Value) -> Value {
    if matches!(&*kind.id, "services" | "serviceaccounts") { object.clone() } else { success(kind, object) }
}

/// Marks an object as being deleted: its time, its grace, and the finalizer that the propagation asks for.
fn mark(kind: &Kind, object: &mut Value, options: &DeleteOptions, now: Timestamp) {
    let grace = grace_seconds(kind, object, options);
    let metadata = &mut object["metadata"];
    let mut finalizers: Vec<Value> = metadata["finalizers"].as_array().cloned().unwrap_or_default();
    // Events have no dependents to wait for.
    if let Some(propagation) = options.propagation.filter(|_| &*kind.id != events::STORED) {
        finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => finalizers.push(FOREGROUND.into()),
            Propagation::Orphan => finalizers.push(ORPHAN.into()),
        }
    }
    if let Some(map) = metadata.as_object_mut() {
        if finalizers.is_empty() {
            map.remove("finalizers");
        } else {
            map.insert("finalizers".into(), finalizers.into());
        }
    }
    let already = metadata["deletionGracePeriodSeconds"].as_i64();
    if !metadata["deletionTimestamp"].is_null() && already.is_none_or(|have| have <= grace) {
        return;
    }
    if metadata["deletionTimestamp"].is_null()
        && let Some(generation) = metadata["generation"].as_i64()
    {
        metadata["generation"] = (generation + 1).into();
    }
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    metadata["deletionTimestamp"] = seconds(at).into();
    metadata["deletionGracePeriodSeconds"] = grace.into();
    if &*kind.id == "namespaces" {
        object["status"]["phase"] = "Terminating".into();
    }
}

/// Only a pod that runs somewhere is given time.
fn grace_seconds(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    let runs = object["spec"]["nodeName"].is_string() && !matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if &*kind.id != "pods" || !runs {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

fn success(kind: &Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut details = json!({"name": metadata["name"], "kind": kind.plural, "uid": metadata["uid"]});
    if !kind.group().is_empty() {
        details["group"] = kind.group().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
