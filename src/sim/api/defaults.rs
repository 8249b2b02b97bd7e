//! What the API server fills in for the built-in kinds, and the empty values that it does not store.

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::schema::{Schema, Shape};

type Object = Map<String, Value>;

/// Fills in defaults, on creation and on every later write.
pub fn fill(kind: &Kind, object: &mut Value) {
    match &*kind.id {
        "deployments.apps" => deployment(&mut object["spec"]),
        "replicasets.apps" => {
            default(&mut object["spec"], "replicas", json!(1));
            pod_spec(&mut object["spec"]["template"]["spec"]);
        }
        "pods" => {
            pod_spec(&mut object["spec"]);
            for list in ["initContainers", "containers"] {
                each(&mut object["spec"], list, request_limits);
            }
            default(&mut object["spec"], "enableServiceLinks", json!(true));
        }
        "services" => service(&mut object["spec"]),
        "secrets" => secret(object),
        "leases.coordination.k8s.io" => default(object, "spec", json!({})),
        "controllerrevisions.apps" => default(object, "revision", json!(0)),
        "horizontalpodautoscalers.autoscaling" => default(&mut object["spec"], "minReplicas", json!(1)),
        "endpointslices.discovery.k8s.io" => {
            // The API server stores no empty lists, and these two fields are always shown.
            for list in ["endpoints", "ports"] {
                if object[list].as_array().is_none_or(Vec::is_empty) {
                    object[list] = Value::Null;
                }
            }
            for port in items(&mut object["ports"]) {
                default(port, "protocol", json!("TCP"));
                default(port, "name", json!(""));
            }
        }
        _ => {}
    }
}

/// What only a new object is given: allocated addresses and a first status.
pub fn on_create(kind: &Kind, object: &mut Value) {
    match &*kind.id {
        "pods" => {
            let spec = &mut object["spec"];
            default(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
            default(spec, "priority", json!(0));
            default(spec, "serviceAccountName", json!("default"));
            let account = spec["serviceAccountName"].clone();
            default(spec, "serviceAccount", account);
            let tolerate = |what: &str| json!({"key": format!("node.kubernetes.io/{what}"), "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            default(spec, "tolerations", json!([tolerate("not-ready"), tolerate("unreachable")]));
            object["status"] = json!({"phase": "Pending", "qosClass": quality(&object["spec"])});
        }
        "services" => {
            allocate_address(object);
            object["status"] = empty_status(kind);
        }
        "replicasets.apps" | "deployments.apps" | "horizontalpodautoscalers.autoscaling" | "poddisruptionbudgets.policy" => {
            object["status"] = empty_status(kind);
        }
        "namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            let name = object["metadata"]["name"].clone();
            default(&mut object["metadata"], "labels", json!({}));
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        _ => {}
    }
}

/// A status that says nothing.
pub fn empty_status(kind: &Kind) -> Value {
    match &*kind.id {
        "replicasets.apps" => json!({"replicas": 0}),
        "services" => json!({"loadBalancer": {}}),
        "horizontalpodautoscalers.autoscaling" => json!({"currentMetrics": null, "desiredReplicas": 0}),
        "poddisruptionbudgets.policy" => {
            json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
        }
        _ => json!({}),
    }
}

/// What a status says even if its writer left it out.
pub fn complete_status(kind: &Kind, live: &Value, status: &mut Value) {
    let mut least = empty_status(kind);
    if &*kind.id == "pods" {
        least["qosClass"] = live["status"]["qosClass"].clone();
    }
    if status.is_null() {
        *status = json!({});
    }
    for (field, value) in least.as_object().into_iter().flatten() {
        default(status, field, value.clone());
    }
}

/// Allocated values that a writer leaves out stay as they are.
pub fn carry_over(kind: &Kind, live: &Value, object: &mut Value) {
    if &*kind.id != "services" || object["spec"]["type"] == "ExternalName" {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let value = &live["spec"][field];
        if !value.is_null() && object["spec"][field].is_null() {
            object["spec"][field] = value.clone();
        }
    }
}

fn deployment(spec: &mut Value) {
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    default(spec, "strategy", json!({}));
    let strategy = &mut spec["strategy"];
    default(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        default(strategy, "rollingUpdate", json!({}));
        default(&mut strategy["rollingUpdate"], "maxSurge", json!("25%"));
        default(&mut strategy["rollingUpdate"], "maxUnavailable", json!("25%"));
    }
    pod_spec(&mut spec["template"]["spec"]);
}

fn pod_spec(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    default(spec, "restartPolicy", json!("Always"));
    default(spec, "dnsPolicy", json!("ClusterFirst"));
    default(spec, "schedulerName", json!("default-scheduler"));
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", json!(30));
    if let Some(account) = spec["serviceAccountName"].as_str().map(str::to_owned) {
        spec["serviceAccount"] = account.into();
    }
    for list in ["initContainers", "containers"] {
        items(&mut spec[list]).for_each(container);
    }
    items(&mut spec["volumes"]).for_each(volume);
    // Indexing has left nulls where there was nothing.
    if let Some(map) = spec.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(container["image"].as_str().unwrap_or_default());
    default(container, "imagePullPolicy", json!(policy));
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "resources", json!({}));
    each(container, "ports", |port| default(port, "protocol", json!("TCP")));
    each(container, "env", |env| {
        if env["valueFrom"]["fieldRef"].is_object() {
            default(&mut env["valueFrom"]["fieldRef"], "apiVersion", json!("v1"));
        }
        strip_nulls(env);
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name) {
            default(probe, "timeoutSeconds", json!(1));
            default(probe, "periodSeconds", json!(10));
            default(probe, "successThreshold", json!(1));
            default(probe, "failureThreshold", json!(3));
            http_get(probe);
            if let Some(grpc) = probe.get_mut("grpc") {
                default(grpc, "service", json!(""));
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            http_get(handler);
        }
    }
}

/// What a pod limits and does not request, it requests as much of.
fn request_limits(container: &mut Value) {
    let Some(limits) = container["resources"]["limits"].as_object().cloned() else { return };
    default(&mut container["resources"], "requests", json!({}));
    for (name, limit) in limits {
        default(&mut container["resources"]["requests"], &name, limit);
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        default(get, "path", json!("/"));
        default(get, "scheme", json!("HTTP"));
    }
}

/// `Always` for the tag `latest` or none, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let pinned = image.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if pinned { "IfNotPresent" } else { "Always" }
}

fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|v| v.len() <= 1) {
        volume["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            default(source, "defaultMode", json!(420));
        }
    }
    if let Some(path) = volume.get_mut("hostPath") {
        default(path, "type", json!(""));
    }
    if let Some(projected) = volume.get_mut("projected") {
        each(projected, "sources", |source| {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", json!(3600));
            }
        });
    }
}

fn service(spec: &mut Value) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    let external = spec["type"] == "ExternalName";
    if !external {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    each(spec, "ports", |port| {
        default(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        default(port, "targetPort", number);
    });
}

/// Gives a Service its address, derived from its uid.
fn allocate_address(object: &mut Value) {
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let number = u16::from_str_radix(uid.get(..4).unwrap_or("1"), 16).unwrap_or(1);
    let address = format!("10.96.{}.{}", number >> 8, (number & 0xff).max(1));
    let spec = &mut object["spec"];
    if spec["type"] == "ExternalName" {
        return;
    }
    default(spec, "clusterIP", json!(address));
    let ip = spec["clusterIP"].clone();
    default(spec, "clusterIPs", json!([ip]));
    default(spec, "ipFamilies", json!(["IPv4"]));
    default(spec, "ipFamilyPolicy", json!("SingleStack"));
}

fn secret(object: &mut Value) {
    default(object, "type", json!("Opaque"));
    let Some(plain) = object.as_object_mut().and_then(|o| o.remove("stringData")) else {
        return;
    };
    for (key, value) in plain.as_object().into_iter().flatten() {
        let bytes = k8s_openapi::ByteString(value.as_str().unwrap_or_default().into());
        default(object, "data", json!({}));
        object["data"][key] = json!(bytes);
    }
}

fn quality(spec: &Value) -> &'static str {
    let containers = spec["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |c: &Value, what: &str| c["resources"][what].as_object().is_some_and(|r| !r.is_empty());
    let guaranteed = |c: &Value| {
        let limits = &c["resources"]["limits"];
        let requests = &c["resources"]["requests"];
        limits["cpu"].is_string() && limits["memory"].is_string() && (requests.is_null() || requests == limits)
    };
    if !containers.is_empty() && containers.iter().all(guaranteed) {
        "Guaranteed"
    } else if containers.iter().any(|c| has(c, "limits") || has(c, "requests")) {
        "Burstable"
    } else {
        "BestEffort"
    }
}

/// Fields whose zero value the API server leaves out when it stores an object, by kind of value:
/// `false`, 0 and "" of these names mean nothing.
const ZERO_MEANS_ABSENT: [&str; 19] = [
    "paused",
    "minReadySeconds",
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
    "publishNotReadyAddresses",
    "readyReplicas",
    "availableReplicas",
    "updatedReplicas",
    "unavailableReplicas",
    "fullyLabeledReplicas",
    "observedGeneration",
    "initialDelaySeconds",
    "nodeName",
    "subPath",
];

/// Drops what is stored as nothing: empty lists, empty maps with free keys, and some zero values.
pub fn drop_empty(kind: &Kind, schema: &Schema, value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|name, v| {
            let inner = schema.field(name);
            if let Some(inner) = inner {
                drop_empty(kind, inner, v);
            }
            let free_map = inner.is_some_and(|s| s.additional.is_some() && s.shape == Shape::Object);
            let kept_list = name == "endpoints" || name == "finalizers";
            let zero = *v == Value::Bool(false) || v.as_u64() == Some(0) || v.as_str() == Some("");
            let deployment_count = name == "replicas" && &*kind.id == "deployments.apps" && !schema.properties.contains_key("template");
            match v {
                Value::Array(items) => !items.is_empty() || kept_list,
                Value::Object(inner) => !(inner.is_empty() && free_map),
                _ => !(zero && (ZERO_MEANS_ABSENT.contains(&name.as_str()) || deployment_count)),
            }
        });
    } else if let (Value::Array(list), Some(inner)) = (value, &schema.items) {
        list.iter_mut().for_each(|v| drop_empty(kind, inner, v));
    }
}

fn default(object: &mut Value, field: &str, value: Value) {
    if let Value::Object(map) = object {
        let slot: &mut Object = map;
        if slot.get(field).is_none_or(Value::is_null) {
            slot.insert(field.to_owned(), value);
        }
    }
}

fn each(object: &mut Value, list: &str, change: impl FnMut(&mut Value)) {
    if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(change);
    }
}

fn items(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}

fn strip_nulls(value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.retain(|_, v| !v.is_null());
    }
}
