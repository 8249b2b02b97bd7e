//! Validation beyond the schema: names and labels of everything, the workload kinds' own rules, CEL rules of custom kinds.

use kube_cel::{RootContext, Validator};
use serde_json::{Value, json};

use super::error::FieldError;
use super::kinds::Kind;
use super::selector::LabelSelector;

/// What is said of a name that is no DNS subdomain.
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
    start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What is said of a label's or annotation's key.
const NAME_PART: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

/// What is said of a change that a pod may not see.
const POD_CHANGES: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The rules for the metadata of any object.
pub fn metadata(kind: &Kind, live: Option<&Value>, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let one_label = matches!(&*kind.id, "services" | "namespaces");
    if live.is_none() && !(is_subdomain(name) && !(one_label && (name.contains('.') || name.len() > 63))) {
        errors.push(FieldError::invalid("metadata.name", &metadata["name"], SUBDOMAIN));
    }
    labels(&metadata["labels"], "metadata.labels", &mut errors);
    for key in metadata["annotations"].as_object().into_iter().flatten().map(|(k, _)| k) {
        if !is_qualified(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &json!(key), NAME_PART));
        }
    }
    for (i, finalizer) in
        metadata["finalizers"].as_array().into_iter().flatten().enumerate().filter(|_| !kind.custom && kind.kind != "Lease")
    {
        let name = finalizer.as_str().unwrap_or_default();
        if !name.contains('/') && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("metadata.finalizers[{i}]"), finalizer, why));
        }
    }
    owners(&metadata["ownerReferences"], &mut errors);
    if let Some(live) = live.filter(|l| !l["metadata"]["deletionTimestamp"].is_null()) {
        let had = live["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let added: Vec<&Value> = metadata["finalizers"].as_array().into_iter().flatten().filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            let mut added: Vec<String> = added.iter().map(|f| f.to_string()).collect();
            added.sort();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    errors
}

fn owners(references: &Value, errors: &mut Vec<FieldError>) {
    let list = references.as_array().map(Vec::as_slice).unwrap_or_default();
    for reference in list {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if reference[field].as_str().is_none_or(str::is_empty) {
                errors.push(FieldError::invalid(
                    format!("metadata.ownerReferences.{field}"),
                    &json!(""),
                    if field == "apiVersion" { "version must not be empty" } else { "must not be empty" },
                ));
            }
        }
    }
    let mut controllers = list.iter().filter(|r| r["controller"] == true);
    if let (Some(first), Some(second)) = (controllers.next(), controllers.next()) {
        let name = |r: &Value| format!("{}/{}", r["kind"].as_str().unwrap_or_default(), r["name"].as_str().unwrap_or_default());
        let why = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            name(first),
            name(second)
        );
        errors.push(FieldError::invalid("metadata.ownerReferences", references, why));
    }
}

fn labels(map: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in map.as_object().into_iter().flatten() {
        if !is_qualified(key) {
            errors.push(FieldError::invalid(path, &json!(key), NAME_PART));
        }
        if !value.as_str().is_some_and(|v| v.is_empty() || is_name_part(v)) {
            errors.push(FieldError::invalid(path, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"));
        }
    }
}

fn is_name_part(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_name_part(name),
        None => is_name_part(key),
    }
}

fn is_subdomain(text: &str) -> bool {
    let label = |l: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(l.chars().next()) && edge(l.chars().last()) && l.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A custom kind's schema, its replicas, and its CEL rules.
pub fn custom(validator: &Validator, kind: &Kind, live: Option<&Value>, object: &Value) -> Vec<FieldError> {
    let mut errors = super::validate::validate(&kind.schema, live, object);
    if let Some(paths) = &kind.scale {
        let found = paths.spec_replicas.iter().try_fold(object, |v, k| v.get(k));
        if let Some(negative) = found.filter(|v| v.as_i64().is_some_and(|n| n < 0)) {
            let field: String = paths.spec_replicas.iter().map(|p| format!(".{p}")).collect();
            errors.push(FieldError::invalid(field, negative, "should be a non-negative integer"));
        }
    }
    if errors.iter().any(FieldError::blocks_rules) {
        errors.push(FieldError::rules_unchecked());
    } else {
        errors.extend(cel(validator, kind, live, object));
    }
    errors
}

/// The CEL rules of a custom kind. Those that are about nothing that has changed hold as they held.
fn cel(validator: &Validator, kind: &Kind, live: Option<&Value>, object: &Value) -> Vec<FieldError> {
    let Some(rules) = &kind.rules else {
        return Vec::new();
    };
    if live.is_some_and(|live| kind.ruled.iter().all(|field| live[field] == object[field])) {
        return Vec::new();
    }
    let root = RootContext { api_version: kind.api_version.clone(), api_group: kind.group().to_owned(), kind: kind.kind.clone() };
    let (seen, seen_before) = (seen_by_rules(kind, object), live.map(|live| seen_by_rules(kind, live)));
    let Err(broken) = validator.validate_compiled_with_context(rules, &seen, seen_before.as_ref(), Some(&root)) else {
        return Vec::new();
    };
    broken
        .into_vec()
        .into_iter()
        .map(|e| {
            // `steps[0].pause`
            let mut path = e.field_path.split(['.', '[']).map(|step| step.trim_end_matches(']'));
            let inner =
                |value: &'_ Value, step: &str| step.parse().map_or_else(|_| value.get(step), |index: usize| value.get(index)).cloned();
            let value = path.try_fold(object.clone(), |value, step| inner(&value, step));
            let value = value.as_ref().unwrap_or(object);
            let path = if e.field_path.is_empty() { "<nil>".to_owned() } else { e.field_path.clone() };
            let mut error = FieldError::rule(path, value, &e.message);
            match e.reason.as_deref() {
                Some("FieldValueRequired") => error = FieldError::required(e.field_path, &e.message),
                Some("FieldValueForbidden") => error = FieldError::forbidden(e.field_path, &e.message),
                _ => {}
            }
            error
        })
        .collect()
}

/// What the rules of a kind can be about: of the metadata the API server shows them the name alone. The validator walks through all that it is
/// given, whether a rule is about it or not.
fn seen_by_rules(kind: &Kind, object: &Value) -> Value {
    let part = |of: &Value, field: &str| Some((field.to_owned(), of.get(field)?.clone()));
    let metadata: Value = ["name", "generateName"].into_iter().filter_map(|field| part(&object["metadata"], field)).collect();
    let fields = ["apiVersion", "kind"].into_iter().chain(kind.ruled.iter().map(String::as_str));
    fields.filter_map(|field| part(object, field)).chain([("metadata".to_owned(), metadata)]).collect()
}

/// The rules of the built-in kinds that this server knows.
pub fn built_in(kind: &Kind, live: Option<&Value>, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match &*kind.id {
        "deployments.apps" | "replicasets.apps" => {
            workload(kind, live, object, &mut errors);
            if live.is_some_and(|live| live["status"] != object["status"]) {
                let other = if &*kind.id == "deployments.apps" { "updatedReplicas" } else { "fullyLabeledReplicas" };
                counts(&object["status"], other, &mut errors);
            }
        }
        "configmaps" => immutable(live, object, &["data", "binaryData"], &mut errors),
        "pods" => {
            pod_spec(&object["spec"], "spec", &mut errors);
            if let Some(live) = live.filter(|live| live["spec"] != object["spec"]) {
                let count = |pod: &Value| pod["spec"]["containers"].as_array().map_or(0, Vec::len);
                if count(live) != count(object) {
                    errors.push(FieldError::forbidden("spec.containers", "pod updates may not add or remove containers"));
                } else if without_images(&live["spec"]) != without_images(&object["spec"]) {
                    errors.push(FieldError::forbidden("spec", POD_CHANGES));
                }
            }
        }
        "services" => service(live, object, &mut errors),
        "events.events.k8s.io" => event(object, &mut errors),
        "leases.coordination.k8s.io" => {
            let duration = &object["spec"]["leaseDurationSeconds"];
            if duration.as_i64().is_some_and(|d| d <= 0) {
                errors.push(FieldError::invalid("spec.leaseDurationSeconds", duration, "must be greater than 0"));
            }
            let transitions = &object["spec"]["leaseTransitions"];
            if transitions.as_i64().is_some_and(|t| t < 0) {
                errors.push(FieldError::invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"));
            }
        }
        "endpointslices.discovery.k8s.io" if object["addressType"].is_null() => errors.push(FieldError::required("addressType", "")),
        "controllerrevisions.apps" => {
            if object["revision"].as_i64().is_some_and(|revision| revision < 0) {
                errors.push(FieldError::invalid("revision", &object["revision"], "must be greater than or equal to 0"));
            }
            if live.is_some_and(|l| l["data"] != object["data"]) {
                errors.push(FieldError::invalid("data", &object["data"], "field is immutable"));
            } else if object["data"].is_null() {
                errors.push(FieldError::required("data", "data is mandatory"));
            }
        }
        "secrets" => {
            if live.is_some_and(|l| l["type"] != object["type"]) {
                errors.push(FieldError::invalid("type", &object["type"], "field is immutable"));
            }
            immutable(live, object, &["data"], &mut errors);
        }
        _ => {}
    }
    errors
}

fn without_images(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        for field in ["tolerations", "activeDeadlineSeconds", "nodeName"] {
            map.remove(field);
        }
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container["image"] = Value::Null;
        }
    }
    spec
}

/// What says of itself that it never changes.
fn immutable(live: Option<&Value>, object: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    let Some(live) = live.filter(|live| live["immutable"] == true) else { return };
    let changed = fields.iter().filter(|field| live[**field] != object[**field]);
    for field in (object["immutable"] != true).then_some(&"immutable").into_iter().chain(changed) {
        errors.push(FieldError::forbidden(*field, "field is immutable when `immutable` is set"));
    }
}

fn workload(kind: &Kind, live: Option<&Value>, object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let not_negative = |fields: &[&str], errors: &mut Vec<FieldError>| {
        for field in fields.iter().filter(|field| spec[**field].as_i64().is_some_and(|n| n < 0)) {
            errors.push(FieldError::invalid(format!("spec.{field}"), &spec[*field], "must be greater than or equal to 0"));
        }
    };
    let is_deployment = &*kind.id == "deployments.apps";
    not_negative(if is_deployment { &["replicas"] } else { &["replicas", "minReadySeconds"] }, errors);
    let selector = LabelSelector::from_object(&spec["selector"]);
    if spec["selector"].is_null() {
        errors.push(FieldError::required("spec.selector", ""));
    } else if selector.is_empty() {
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], "empty selector is invalid for deployment"));
    }
    let labels_of_pods = &spec["template"]["metadata"]["labels"];
    if spec["selector"].is_null() || !selector.matches(labels_of_pods) {
        errors.push(FieldError::invalid("spec.template.metadata.labels", labels_of_pods, "`selector` does not match template `labels`"));
    }
    labels(labels_of_pods, "spec.template.labels", errors);
    pod_spec(&spec["template"]["spec"], "spec.template.spec", errors);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if policy.is_string() && policy != "Always" {
        errors.push(FieldError::unsupported("spec.template.spec.restartPolicy", policy, &[json!("Always")]));
    }
    if is_deployment {
        let update = &spec["strategy"]["rollingUpdate"];
        match spec["strategy"]["type"].as_str() {
            Some("Recreate") if !update.is_null() => {
                let why = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
            }
            Some("Recreate" | "RollingUpdate") | None => {}
            Some(other) => {
                // As Go prints the whole of it.
                let message = format!("{{\"Type\":{other:?},\"RollingUpdate\":null}}: supported values: \"Recreate\", \"RollingUpdate\"");
                let message = format!("Unsupported value: {message}");
                errors.push(FieldError { field: "spec.strategy".into(), reason: "FieldValueNotSupported", message });
            }
        }
        let none = |v: &Value| *v == json!(0) || *v == json!("0%");
        if none(&update["maxSurge"]) && none(&update["maxUnavailable"]) {
            let field = "spec.strategy.rollingUpdate.maxUnavailable";
            errors.push(FieldError::invalid(field, &update["maxUnavailable"], "may not be 0 when `maxSurge` is 0"));
        }
        not_negative(&["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"], errors);
        let count = |field: &str| spec[field].as_i64();
        if count("progressDeadlineSeconds").is_some_and(|deadline| deadline <= count("minReadySeconds").unwrap_or(0)) {
            let why = "must be greater than minReadySeconds";
            errors.push(FieldError::invalid("spec.progressDeadlineSeconds", &spec["progressDeadlineSeconds"], why));
        }
    }
    if live.is_some_and(|l| l["spec"]["selector"] != spec["selector"]) {
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], "field is immutable"));
    }
}

/// The numbers of pods in a workload's status; `other` is the one that not every kind has.
fn counts(status: &Value, other: &str, errors: &mut Vec<FieldError>) {
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let all = ["replicas", other, "readyReplicas", "availableReplicas", "unavailableReplicas", "observedGeneration"];
    for field in all.into_iter().filter(|field| count(field) < 0) {
        errors.push(FieldError::invalid(format!("status.{field}"), &status[field], "must be greater than or equal to 0"));
    }
    for field in [other, "readyReplicas", "availableReplicas"] {
        if count(field) > count("replicas") {
            errors.push(FieldError::invalid(format!("status.{field}"), &count(field).into(), "cannot be greater than status.replicas"));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        errors.push(FieldError::invalid(
            "status.availableReplicas",
            &count("availableReplicas").into(),
            "cannot be greater than readyReplicas",
        ));
    }
}

fn pod_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (i, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        if volume["name"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(format!("{path}.volumes[{i}].name"), ""));
        }
    }
    let containers = spec["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<&Value> = spec["volumes"].as_array().into_iter().flatten().map(|v| &v["name"]).collect();
    let mut names: Vec<&str> = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        let at = format!("{path}.containers[{i}]");
        match container["name"].as_str() {
            None | Some("") => errors.push(FieldError::required(format!("{at}.name"), "")),
            Some(name) if names.contains(&name) => {
                errors.push(FieldError::duplicate(format!("{at}.name"), &container["name"]));
            }
            Some(name) => names.push(name),
        }
        if container["image"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(format!("{at}.image"), ""));
        }
        for (j, env) in container["env"].as_array().into_iter().flatten().enumerate() {
            if env["name"].as_str().is_none_or(str::is_empty) {
                errors.push(FieldError::required(format!("{at}.env[{j}].name"), ""));
            }
        }
        for (j, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            port_number(&port["containerPort"], &format!("{at}.ports[{j}].containerPort"), errors);
        }
        for (j, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
            if !volumes.contains(&&mount["name"]) {
                let message = format!("Not found: {}", mount["name"]);
                let field = format!("{at}.volumeMounts[{j}].name");
                errors.push(FieldError { field, reason: "FieldValueNotFound", message });
            }
        }
    }
}

fn port_number(port: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match port.as_i64() {
        Some(1..=65535) => {}
        None | Some(0) => errors.push(FieldError::required(path, "")),
        Some(_) => errors.push(FieldError::invalid(path, port, "must be between 1 and 65535, inclusive")),
    }
}

/// Events name their fields as the core API does. Those that come by it may leave out what is new since.
fn event(event: &Value, errors: &mut Vec<FieldError>) {
    let about = &event["regarding"]["namespace"];
    let fits = if about.is_null() { event["metadata"]["namespace"] == "default" } else { *about == event["metadata"]["namespace"] };
    if !fits {
        let about = json!(about.as_str().unwrap_or_default());
        errors.push(FieldError::invalid("involvedObject.namespace", &about, "does not match event.namespace"));
    }
    if !event["deprecatedSource"].is_null() || !event["deprecatedFirstTimestamp"].is_null() {
        return;
    }
    if event["eventTime"].is_null() {
        errors.push(FieldError::required("eventTime", ""));
    }
    for field in ["reportingController", "reportingInstance", "action", "reason"] {
        if event["eventTime"].is_string() && event[field].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(field, ""));
        }
    }
    let controller = &event["reportingController"];
    if controller.as_str().is_some_and(|c| !c.is_empty() && !is_qualified(c)) {
        errors.push(FieldError::invalid("reportingController", controller, NAME_PART));
    }
    let kind = event["type"].as_str().unwrap_or_default();
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", &json!(kind), format!("has invalid value: {kind}")));
    }
    if event["note"].as_str().is_some_and(|n| n.len() > 1024) {
        errors.push(FieldError::invalid("message", &json!(""), "can have at most 1024 characters"));
    }
}

fn service(live: Option<&Value>, object: &Value, errors: &mut Vec<FieldError>) {
    let spec = &object["spec"];
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.is_empty() && spec["type"] != "ExternalName" && spec["clusterIP"] != "None" {
        errors.push(FieldError::required("spec.ports", ""));
    }
    let one_of = |field: &str, allowed: &[&str], errors: &mut Vec<FieldError>| {
        let allowed: Vec<Value> = allowed.iter().map(|word| json!(word)).collect();
        if spec[field].is_string() && !allowed.contains(&spec[field]) {
            errors.push(FieldError::unsupported(format!("spec.{field}"), &spec[field], &allowed));
        }
    };
    one_of("sessionAffinity", &["ClientIP", "None"], errors);
    one_of("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        if !matches!(port["port"].as_i64(), Some(1..=65535)) {
            let number = json!(port["port"].as_i64().unwrap_or(0));
            let why = "must be between 1 and 65535, inclusive";
            errors.push(FieldError::invalid(format!("spec.ports[{i}].port"), &number, why));
            if port["targetPort"].as_i64().unwrap_or(0) == 0 && !port["targetPort"].is_string() {
                errors.push(FieldError::invalid(format!("spec.ports[{i}].targetPort"), &json!(0), why));
            }
        }
        match port["name"].as_str() {
            None | Some("") if ports.len() > 1 => {
                errors.push(FieldError::required(format!("spec.ports[{i}].name"), ""));
            }
            Some(name) if names.contains(&name) => {
                errors.push(FieldError::duplicate(format!("spec.ports[{i}].name"), &port["name"]));
            }
            name => names.extend(name),
        }
    }
    labels(&spec["selector"], "spec.selector", errors);
    let external = spec["type"] == "ExternalName";
    if live.is_some_and(|l| !l["spec"]["clusterIP"].is_null() && !external && l["spec"]["clusterIP"] != spec["clusterIP"]) {
        errors.push(FieldError::invalid("spec.clusterIPs[0]", &json!([spec["clusterIP"]]), "may not change once set"));
    }
}
