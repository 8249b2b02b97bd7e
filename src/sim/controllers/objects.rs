//! Reading and writing objects as controllers do.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::sim::api::{ApiError, ApiServer, Caller, DeleteOptions, ObjectKey, Part};

pub const PODS: &str = "pods";
pub const SERVICES: &str = "services";
pub const REPLICA_SETS: &str = "replicasets.apps";
pub const DEPLOYMENTS: &str = "deployments.apps";
pub const ENDPOINT_SLICES: &str = "endpointslices.discovery.k8s.io";
pub const HTTP_ROUTES: &str = "httproutes.gateway.networking.k8s.io";
pub const GRPC_ROUTES: &str = "grpcroutes.gateway.networking.k8s.io";
pub const TLS_ROUTES: &str = "tlsroutes.gateway.networking.k8s.io";
pub const TCP_ROUTES: &str = "tcproutes.gateway.networking.k8s.io";
pub const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(&object["metadata"]["name"])
}

pub fn namespace(object: &Value) -> &str {
    text(&object["metadata"]["namespace"])
}

pub fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

pub fn key(object: &Value) -> ObjectKey {
    (namespace(object).to_owned(), name(object).to_owned())
}

pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

pub fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().any(|f| f == finalizer)
}

pub fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    object["metadata"]["ownerReferences"].as_array().into_iter().flatten()
}

/// The uid of the owner that is the object's controller.
pub fn controller(object: &Value) -> Option<&str> {
    owners(object).find(|o| o["controller"] == true).map(|o| text(&o["uid"]))
}

/// A reference to a controlling owner.
pub fn controlled_by(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|c| c["status"] == "True")
}

pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// All objects of a kind, shared: writes may go on while they are looked at.
pub fn all(api: &ApiServer, kind: &str) -> Vec<Arc<Value>> {
    api.list(kind).cloned().collect()
}

/// A controller's own way to write. What the server refuses is logged; the next step looks again.
pub struct Writer<'a> {
    pub api: &'a mut ApiServer,
    caller: Caller,
}

impl<'a> Writer<'a> {
    pub fn new(api: &'a mut ApiServer, controller: &str, now: Timestamp) -> Self {
        Self { api, caller: Caller::new(controller, now) }
    }

    pub fn now(&self) -> Timestamp {
        self.caller.now
    }

    pub fn create(&mut self, kind: &str, namespace: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        let namespace = (!namespace.is_empty()).then_some(namespace);
        self.api.create(kind, namespace, object, &self.caller)
    }

    /// Changes the live object, except its status. Nothing happens if it is gone.
    pub fn change(&mut self, kind: &str, key: &ObjectKey, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        self.revise(kind, key, Part::Object, change)
    }

    /// Changes the live object's status (and annotations).
    pub fn change_status(&mut self, kind: &str, key: &ObjectKey, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        self.revise(kind, key, Part::Status, change)
    }

    fn revise(&mut self, kind: &str, key: &ObjectKey, part: Part, change: impl FnOnce(&mut Value)) -> Option<Arc<Value>> {
        let live = self.api.get(kind, &key.0, &key.1)?;
        let mut object = (**live).clone();
        change(&mut object);
        if object == **live {
            return Some(live.clone());
        }
        let result = self.api.kind(kind).cloned().and_then(|k| self.api.revise(&k, key, part, &self.caller, object));
        self.logged(kind, key, result)
    }

    /// Lets go of a namespace's contents.
    pub fn finalize(&mut self, key: &ObjectKey) {
        self.revise("namespaces", key, Part::Finalize, |n| n["spec"]["finalizers"] = json!([]));
    }

    pub fn delete(&mut self, kind: &str, key: &ObjectKey, options: &DeleteOptions) {
        let result = self.api.kind(kind).cloned().and_then(|k| self.api.delete(&k, key, options, &self.caller));
        self.logged(kind, key, result);
    }

    fn logged<T>(&self, kind: &str, key: &ObjectKey, result: Result<T, ApiError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(controller = self.caller.actor, kind, ?key, message = error.message, "write refused");
                None
            }
        }
    }
}

/// Sets a condition; its transition time moves only when its status does.
pub fn set_condition(object: &mut Value, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    if !object["status"]["conditions"].is_array() {
        object["status"]["conditions"] = json!([]);
    }
    let Some(list) = object["status"]["conditions"].as_array_mut() else { return };
    let wanted = json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    match list.iter_mut().find(|c| c["type"] == kind) {
        None => list.push(wanted),
        Some(live) => {
            let since = if live["status"] == status { live["lastTransitionTime"].clone() } else { now.into() };
            let extra = live["observedGeneration"].clone();
            *live = wanted;
            live["lastTransitionTime"] = since;
            if !extra.is_null() {
                live["observedGeneration"] = extra;
            }
        }
    }
}
