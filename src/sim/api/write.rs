//! Creation and change: every write passes the same checks in the same order as in the API server.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::apply::apply;
use super::caller::{Caller, Part};
use super::error::{ApiError, FieldError};
use super::fields::doubled;
use super::json_patch::json_patch;
use super::kinds::Kind;
use super::managed::{self, Manager, seconds};
use super::path::Query;
use super::store::{Change, ObjectKey, Write};
use super::{ApiServer, Request, events, normalize, patch, rules, scale};

const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(super) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

impl ApiServer {
    /// Creates an object.
    pub fn create(&mut self, kind: &str, namespace: Option<&str>, mut object: Value, caller: &Caller) -> Result<Arc<Value>, ApiError> {
        if kind == events::CORE {
            let stored = self.create(events::STORED, namespace, events::to_stored(&object), caller)?;
            return Ok(Arc::new(events::to_core(&stored)));
        }
        let kind = self.kind(kind)?.clone();
        normalize::check_types(&kind, &mut object).map_err(|why| normalize::undecodable(&kind, &why))?;
        let is_noted = object["metadata"]["managedFields"].is_array();
        managed::forget_empty(&mut object);
        let key = self.identify(&kind, namespace, &mut object, caller.now)?;
        self.check_namespace(&kind, &key)?;
        if kind.has_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        refuse_unknown(&kind, &object, caller)?;
        normalize::for_create(&kind, &mut object)?;
        self.check(&kind, &key, None, &object)?;
        if !is_noted {
            let manager = manager(&kind, caller, Part::Object, false);
            managed::note_update(&kind.schema, None, &mut object, Some(&manager), caller.now);
        }
        normalize::allocate(&kind, &mut object);
        if let Some(live) = self.store.get(&kind.id, &key) {
            let mut error = ApiError::already_exists(&kind, &key.1);
            if !live["metadata"]["deletionTimestamp"].is_null() {
                error.message.insert_str(0, "object is being deleted: ");
            }
            return Err(error);
        }
        if caller.dry_run {
            return Ok(Arc::new(object));
        }
        self.install_if_crd(&kind, &mut object)?;
        Ok(self.commit(&kind, key, object, Change::Added, caller))
    }

    /// Gives a new object its identity: names, uid, times.
    fn identify(&mut self, kind: &Kind, ns: Option<&str>, object: &mut Value, now: Timestamp) -> Result<ObjectKey, ApiError> {
        fit_type(kind, object)?;
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let generated = object["metadata"]["generateName"].as_str().filter(|g| !g.is_empty());
        let generated = generated.map(str::to_owned);
        let name = object["metadata"]["name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned);
        let name = match (name, generated) {
            (Some(name), _) => name,
            (None, Some(prefix)) => prefix + &self.ids.suffix(),
            (None, None) => {
                let error = FieldError::required("metadata.name", "name or generateName is required");
                return Err(ApiError::invalid(kind, "", &[error]));
            }
        };
        let metadata = object["metadata"].as_object_mut().expect("made an object above");
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
            return Err(ApiError::internal("resourceVersion should not be set on objects to be created"));
        }
        for field in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            metadata.remove(field);
        }
        let namespace = place(kind, ns, metadata)?;
        metadata.insert("name".into(), name.clone().into());
        metadata.insert("uid".into(), self.ids.uid().into());
        metadata.insert("creationTimestamp".into(), seconds(now).into());
        if kind.has_generation {
            metadata.insert("generation".into(), 1.into());
        }
        Ok((namespace, name))
    }

    fn check_namespace(&self, kind: &Kind, key: &ObjectKey) -> Result<(), ApiError> {
        if !kind.namespaced {
            return Ok(());
        }
        let namespaces = self.kind("namespaces")?;
        let namespace = self.store.get("namespaces", &(String::new(), key.0.clone()));
        let namespace = namespace.ok_or_else(|| ApiError::not_found(namespaces, &key.0))?;
        if namespace["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {} because it is being terminated", key.0);
        let mut error = ApiError::forbidden(kind, &key.1, why);
        error.details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
            "message": format!("namespace {} is being terminated", key.0)}]);
        Err(error)
    }

    /// Replaces an object, or part of it (PUT).
    pub fn put(
        &mut self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        part: Part,
        mut object: Value,
        caller: &Caller,
    ) -> Result<Arc<Value>, ApiError> {
        if part != Part::Scale {
            fit_type(kind, &mut object)?;
            normalize::decode(kind, &mut object).map_err(|why| normalize::undecodable(kind, &why))?;
            refuse_unknown(kind, &object, caller)?;
            if text(&object["metadata"]["name"]).is_empty() {
                let message = format!("the name of the object ({} based on URL) was undeterminable: name must be provided", key.1);
                return Err(ApiError::bad_request(message));
            }
        }
        if self.store.get(&kind.id, key).is_none() && kind.is_made_by_put() {
            let uid = text(&object["metadata"]["uid"]);
            if !uid.is_empty() {
                let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
                return Err(ApiError::conflict(kind, &key.1, why));
            }
            object["metadata"]["resourceVersion"] = Value::Null;
            return self.create(&kind.id, Some(&key.0), object, caller);
        }
        let live = self.store.get(&kind.id, key).ok_or_else(|| ApiError::not_found(kind, &key.1))?.clone();
        if part == Part::Scale {
            object = scale::written_back(kind, &live, &object)?;
        }
        self.fit_to_path(kind, key, &live, &mut object)?;
        let versioned = object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty());
        if !versioned && (kind.custom || &*kind.id == "leases.coordination.k8s.io") {
            return Err(ApiError::unversioned(kind, &key.1));
        }
        self.revise(kind, key, part, caller, object)
    }

    /// What a PUT may leave out of its metadata, and the uid that it may insist on.
    fn fit_to_path(&self, kind: &Kind, key: &ObjectKey, live: &Value, object: &mut Value) -> Result<(), ApiError> {
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        if text(&metadata["namespace"]).is_empty() && !key.0.is_empty() {
            metadata["namespace"] = key.0.clone().into();
        }
        let (asked, found) = (text(&metadata["uid"]), text(&live["metadata"]["uid"]));
        if !asked.is_empty() && asked != found {
            let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {found}");
            return Err(ApiError::conflict(kind, &key.1, why));
        }
        Ok(())
    }

    /// Any kind of PATCH. Server-side apply creates what is not there.
    pub(super) fn patch(
        &mut self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        part: Part,
        request: &Request,
        query: &Query,
        caller: &Caller,
    ) -> Result<(u16, Arc<Value>), ApiError> {
        let content_type = request.content_type.split(';').next().unwrap_or_default();
        if matches!(content_type, "application/apply-patch+yaml" | "application/apply-patch+json") {
            let manager = query.get("fieldManager").ok_or_else(|| {
                ApiError::invalid_options("PatchOptions", FieldError::required("fieldManager", "is required for apply patch"))
            })?;
            let caller = Caller { manager: manager.to_owned(), ..caller.clone() };
            return self.apply_patch(kind, key, part, &request.body, query.flag("force"), &caller);
        }
        if !content_type.starts_with("application/") {
            return Err(ApiError {
                code: 415,
                reason: "UnsupportedMediaType",
                message: "415: Unsupported Media Type".into(),
                details: json!({}),
            });
        }
        if kind.custom && content_type == STRATEGIC {
            return Err(ApiError::unsupported_media_type(Some(kind)));
        }
        let live = self.store.get(&kind.id, key).ok_or_else(|| ApiError::not_found(kind, &key.1))?.clone();
        let mut object = patched(kind, &live, part, content_type, &request.body)?;
        if let Err(why) = normalize::decode(kind, &mut object) {
            let whole = patched(kind, &live, part, content_type, &request.body)?;
            return Err(ApiError::undecodable_patch(&whole.to_string(), &why));
        }
        if let Some(why) = unknown_fields(kind, &object, caller) {
            return Err(ApiError::undecodable_patch(&object.to_string(), &why));
        }
        self.revise(kind, key, part, caller, object).map(|o| (200, o))
    }

    fn apply_patch(
        &mut self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        part: Part,
        config: &Value,
        force: bool,
        caller: &Caller,
    ) -> Result<(u16, Arc<Value>), ApiError> {
        let mut config = config.clone();
        let live = self.store.get(&kind.id, key).cloned();
        let group_version = |v: &Value| if text(v).contains('/') { text(v) } else { format!("/{}", text(v)) };
        let type_name = format!("{}, Kind={}", group_version(&config["apiVersion"]), text(&config["kind"]));
        if type_name.starts_with("/,") || type_name.ends_with('=') {
            return Err(ApiError::bad_request(format!("invalid object type: {type_name}")));
        }
        fit_type(kind, &mut config)?;
        if config["metadata"]["managedFields"].is_array() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        if live.is_none() && part != Part::Object && !kind.is_made_by_put() {
            return Err(ApiError::not_found(kind, &key.1));
        }
        let undeclared = kind.schema.unknown(&config).first().map(|field| format!(".{field}: field not declared in schema"));
        if let Some(why) = undeclared
            .or_else(|| kind.schema.mistyped(&config, ""))
            .or_else(|| kind.schema.keyless(&config, "").filter(|_| kind.custom))
            .or_else(|| doubled(&kind.schema, &config, ""))
        {
            let (ns, name) = (text(&config["metadata"]["namespace"]), &key.1);
            return Err(ApiError::internal(format!("failed to create typed patch object ({ns}/{name}; {type_name}): {why}")));
        }
        let asked = config["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        normalize::applied(kind, part, &mut config);
        let who = manager(kind, caller, part, true);
        let base = live.as_deref().cloned().unwrap_or_else(|| json!({"metadata": {}}));
        let mut object = apply(&kind.schema, &base, &config, &who, force, caller.now)?;
        if let Err(why) = normalize::check_types(kind, &mut object) {
            let (ns, name) = (text(&config["metadata"]["namespace"]), &key.1);
            let to = format!("to proper version: unable to convert unstructured object to {type_name}: {why}");
            return Err(ApiError::internal(format!("failed to convert new object ({ns}/{name}; {type_name}) {to}")));
        }
        if let (Some(asked), Some(live)) = (&asked, &live)
            && live["metadata"]["resourceVersion"] != **asked
        {
            return Err(ApiError::stale(kind, &key.1));
        }
        match live {
            Some(_) => self.revise_applied(kind, key, part, caller, object).map(|o| (200, o)),
            None => {
                object["metadata"]["name"] = key.1.clone().into();
                // Who applies nothing owns nothing.
                if object["metadata"]["managedFields"].is_null() {
                    object["metadata"]["managedFields"] = json!([]);
                }
                let namespace = kind.namespaced.then_some(key.0.as_str());
                self.create(&kind.id, namespace, object, caller).map(|o| (201, o))
            }
        }
    }

    /// Makes a live object what `proposed` says, in the part that is written.
    pub fn revise(
        &mut self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        part: Part,
        caller: &Caller,
        proposed: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let live = self.store.get(&kind.id, key).ok_or_else(|| ApiError::not_found(kind, &key.1))?.clone();
        refuse_unknown(kind, &proposed, caller)?;
        let mut object = self.next_state(kind, key, part, &live, proposed)?;
        let manager = manager(kind, caller, part, false);
        match &kind.scale {
            Some(paths) if part == Part::Scale => managed::note_scale(&paths.spec_replicas, &live, &mut object, manager),
            _ => managed::note_update(&kind.schema, Some(&live), &mut object, Some(&manager), caller.now),
        }
        self.store_next(kind, key, &live, object, caller)
    }

    /// As [`ApiServer::revise`], with the ownership that server-side apply has worked out.
    fn revise_applied(
        &mut self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        part: Part,
        caller: &Caller,
        proposed: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let live = self.store.get(&kind.id, key).ok_or_else(|| ApiError::not_found(kind, &key.1))?.clone();
        let object = self.next_state(kind, key, part, &live, proposed)?;
        self.store_next(kind, key, &live, object, caller)
    }

    fn next_state(&self, kind: &Arc<Kind>, key: &ObjectKey, part: Part, live: &Value, mut object: Value) -> Result<Value, ApiError> {
        fit_type(kind, &mut object)?;
        let asked = &object["metadata"];
        if asked["name"] != *key.1 {
            let message = format!("the name of the object ({}) does not match the name on the URL ({})", text(&asked["name"]), key.1);
            return Err(ApiError::bad_request(message));
        }
        if asked["namespace"].as_str().unwrap_or_default() != key.0 {
            let message =
                format!("the namespace of the object ({}) does not match the namespace on the URL ({})", text(&asked["namespace"]), key.0);
            return Err(ApiError::bad_request(message));
        }
        if !asked["uid"].is_null() && asked["uid"] != live["metadata"]["uid"] {
            let error = FieldError::invalid("metadata.uid", &asked["uid"], "field is immutable");
            return Err(ApiError::invalid(kind, &key.1, &[error]));
        }
        if asked["resourceVersion"].as_str().is_some_and(|v| !v.is_empty() && live["metadata"]["resourceVersion"] != *v) {
            return Err(ApiError::stale(kind, &key.1));
        }
        let mut object = normalize::only_part(kind, part, live, object);
        normalize::for_update(kind, live, &mut object)?;
        self.check(kind, key, Some(live), &object)?;
        if kind.has_generation && part != Part::Status && normalize::is_new_generation(kind, live, &object) {
            let generation = live["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
            object["metadata"]["generation"] = generation.into();
        }
        Ok(object)
    }

    fn store_next(
        &mut self,
        kind: &Arc<Kind>,
        key: &ObjectKey,
        live: &Arc<Value>,
        mut object: Value,
        caller: &Caller,
    ) -> Result<Arc<Value>, ApiError> {
        object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
        if object == **live {
            return Ok(live.clone());
        }
        if caller.dry_run {
            return Ok(Arc::new(object));
        }
        self.install_if_crd(kind, &mut object)?;
        if normalize::is_finished(kind, &object) {
            // The stored state before is what watches are shown; the caller gets its own last words.
            self.commit(kind, key.clone(), (**live).clone(), Change::Deleted, caller);
            return Ok(Arc::new(object));
        }
        Ok(self.commit(kind, key.clone(), object, Change::Modified, caller))
    }

    /// All validation: types, schema, CEL rules, and what the built-in kinds ask for.
    fn check(&self, kind: &Kind, key: &ObjectKey, live: Option<&Value>, object: &Value) -> Result<(), ApiError> {
        let mut errors = rules::metadata(kind, live, object);
        if kind.custom {
            errors.extend(rules::custom(&self.cel, kind, live, object));
        } else {
            errors.extend(rules::built_in(kind, live, object));
        }
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, &key.1, &errors)) }
    }

    pub(super) fn commit(&mut self, kind: &Kind, key: ObjectKey, object: Value, change: Change, caller: &Caller) -> Arc<Value> {
        let write = Write { kind: &kind.id, key, object, change, actor: &caller.actor, at: caller.now };
        self.store.commit(write)
    }

    fn install_if_crd(&mut self, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
        if &*kind.id != CRDS {
            return Ok(());
        }
        let name = text(&object["metadata"]["name"]);
        let invalid =
            |why: String| ApiError::invalid(kind, &name, &[FieldError { field: "spec".into(), reason: "FieldValueInvalid", message: why }]);
        let custom = Kind::from_crd(object).map_err(invalid)?;
        let now = object["metadata"]["creationTimestamp"].clone();
        let condition = |t: &str, r: &str| json!({"type": t, "status": "True", "reason": r, "message": "", "lastTransitionTime": now});
        object["status"] = json!({
            "acceptedNames": object["spec"]["names"],
            "conditions": [condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")],
            "storedVersions": [custom.version()],
        });
        Arc::make_mut(&mut self.kinds).install(custom);
        Ok(())
    }
}

/// A live object with a patch laid over it.
fn patched(kind: &Kind, live: &Value, part: Part, content_type: &str, patch: &Value) -> Result<Value, ApiError> {
    let mut object = if part == Part::Scale { scale::or_empty(kind, live) } else { live.clone() };
    match content_type {
        "application/json-patch+json" => json_patch(&mut object, patch)?,
        "application/merge-patch+json" => patch::merge_patch(&mut object, patch),
        STRATEGIC if !kind.custom => {
            patch::strategic_patch(Some(&kind.schema), &mut object, patch);
        }
        _ => return Err(ApiError::unsupported_media_type(Some(kind))),
    }
    if part == Part::Scale { scale::written_back(kind, live, &object) } else { Ok(object) }
}

fn refuse_unknown(kind: &Kind, object: &Value, caller: &Caller) -> Result<(), ApiError> {
    unknown_fields(kind, object, caller).map_or(Ok(()), |why| Err(normalize::undecodable(kind, &why)))
}

/// The fields that nobody knows, in words, where the caller wants none.
fn unknown_fields(kind: &Kind, object: &Value, caller: &Caller) -> Option<String> {
    let unknown = if caller.strict { kind.schema.unknown(object) } else { Vec::new() };
    let named: Vec<String> = unknown.iter().map(|f| format!("unknown field {f:?}")).collect();
    (!named.is_empty()).then(|| format!("strict decoding error: {}", named.join(", ")))
}

fn manager(kind: &Kind, caller: &Caller, part: Part, applies: bool) -> Manager {
    let api_version = kind.api_version.clone();
    Manager { name: caller.manager.clone(), applies, api_version, subresource: part.name().to_owned() }
}

/// `apiVersion` and `kind` must be those of the path, or absent.
fn fit_type(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the object provided is unrecognized (must be of type object)"));
    };
    for (field, expected) in [("apiVersion", &kind.api_version), ("kind", &kind.kind)] {
        match map.get(field).and_then(Value::as_str) {
            None | Some("") => drop(map.insert(field.into(), expected.clone().into())),
            Some(found) if found == expected => {}
            Some(found) if field == "kind" && kind.custom => {
                let error = FieldError::invalid("kind", &json!(found), format!("must be {expected}"));
                let name = map.get("metadata").map(|m| text(&m["name"])).unwrap_or_default();
                let mut refused = ApiError::invalid(kind, &name, &[error]);
                refused.message = refused.message.replacen(&kind.kind, found, 1);
                refused.details["kind"] = found.into();
                return Err(refused);
            }
            Some(found) => {
                let what = if field == "kind" { "kind" } else { "API version" };
                let message = format!("the {what} in the data ({found}) does not match the expected {what} ({expected})");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    Ok(())
}

/// Settles the namespace of a new object; empty for cluster-scoped kinds.
fn place(kind: &Kind, asked: Option<&str>, metadata: &mut Map<String, Value>) -> Result<String, ApiError> {
    if !kind.namespaced {
        metadata.remove("namespace");
        return Ok(String::new());
    }
    let asked = asked.ok_or_else(|| ApiError::bad_request("an empty namespace may not be set during creation"))?;
    match metadata.get("namespace").and_then(Value::as_str) {
        Some(found) if !found.is_empty() && found != asked => {
            Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
        }
        _ => {
            metadata.insert("namespace".into(), asked.into());
            Ok(asked.to_owned())
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
