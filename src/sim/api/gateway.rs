//! The Gateway API's resources as CRDs: what the simulated gateway and its users depend on is described,
//! the rest of each object is open. Installing the project's own CRDs replaces them.

use serde_json::{Value, json};

const GROUP: &str = "gateway.networking.k8s.io";

pub fn crds() -> Vec<Value> {
    vec![
        crd("HTTPRoute", "v1", "httproutes", "Namespaced", &[], http_route()),
        crd("GRPCRoute", "v1", "grpcroutes", "Namespaced", &[], route(plain_rule())),
        crd("TLSRoute", "v1", "tlsroutes", "Namespaced", &[], route(plain_rule())),
        crd("TCPRoute", "v1alpha2", "tcproutes", "Namespaced", &[], route(plain_rule())),
        crd("BackendTLSPolicy", "v1", "backendtlspolicies", "Namespaced", &[], tls_policy()),
        crd("Gateway", "v1", "gateways", "Namespaced", &["gtw"], gateway()),
        crd("GatewayClass", "v1", "gatewayclasses", "Cluster", &["gc"], with_spec(json!({"spec": open(), "status": status()}))),
    ]
}

fn crd(kind: &str, version: &str, plural: &str, scope: &str, short: &[&str], schema: Value) -> Value {
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let columns = match kind {
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" => {
            json!([{"name": "Hostnames", "type": "string", "jsonPath": ".spec.hostnames"}, age])
        }
        "TCPRoute" => json!([age]),
        "Gateway" => json!([
            {"name": "Class", "type": "string", "jsonPath": ".spec.gatewayClassName"},
            {"name": "Programmed", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Programmed\")].status"},
            age,
        ]),
        _ => {
            json!([{"name": "Controller", "type": "string", "jsonPath": ".spec.controllerName"}, age])
        }
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP, "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "shortNames": short,
                "categories": ["gateway-api"]},
            "versions": [{"name": version, "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": columns, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn open() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": properties})
}

fn tls_policy() -> Value {
    let list = json!({"type": "array", "x-kubernetes-list-type": "atomic", "items": open()});
    let mut validation = object(json!({"hostname": {"type": "string"}, "caCertificateRefs": list}));
    validation["required"] = json!(["hostname"]);
    let mut spec = object(json!({"targetRefs": list, "validation": validation}));
    spec["required"] = json!(["targetRefs", "validation"]);
    with_spec(json!({"spec": spec, "status": status()}))
}

/// Where the spec must be there.
fn with_spec(properties: Value) -> Value {
    let mut schema = object(properties);
    schema["required"] = json!(["spec"]);
    schema
}

fn string_default(default: &str) -> Value {
    json!({"type": "string", "default": default})
}

fn port() -> Value {
    json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
}

fn conditions() -> Value {
    json!({"type": "array", "maxItems": 8, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": object(json!({"type": {"type": "string"}}))})
}

fn status() -> Value {
    object(json!({"conditions": conditions()}))
}

fn parent_ref() -> Value {
    let mut reference = object(json!({
        "group": string_default(GROUP), "kind": string_default("Gateway"),
        "name": {"type": "string", "minLength": 1}, "port": port(),
    }));
    reference["required"] = json!(["name"]);
    reference
}

fn http_route() -> Value {
    let mut route = route(http_rule());
    let rules = &mut route["properties"]["spec"]["properties"]["rules"];
    rules["default"] = default_rules();
    rules["minItems"] = 1.into();
    route
}

/// A route's schema around that of its rules.
fn route(rule: Value) -> Value {
    let mut parent_status = object(json!({"parentRef": parent_ref(), "conditions": conditions()}));
    parent_status["required"] = json!(["conditions", "controllerName", "parentRef"]);
    parent_status["properties"]["conditions"]["minItems"] = 1.into();
    let parents = json!({
        "parents": {"type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": parent_status},
    });
    let mut route = with_spec(json!({
        "spec": object(json!({
            "parentRefs": {"type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": parent_ref()},
            "hostnames": {"type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic", "items": {"type": "string"}},
            "rules": {"type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic", "items": rule},
        })),
        "status": object(parents),
    }));
    route["properties"]["status"]["required"] = json!(["parents"]);
    route
}

fn backend_refs() -> Value {
    let mut reference = object(json!({
        "group": string_default(""), "kind": string_default("Service"),
        "name": {"type": "string", "minLength": 1}, "port": port(),
        "weight": {"type": "integer", "format": "int32", "default": 1, "minimum": 0, "maximum": 1_000_000},
    }));
    reference["required"] = json!(["name"]);
    reference["x-kubernetes-validations"] = json!([{
        "message": "Must have port for Service reference",
        "rule": "(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true",
    }]);
    json!({"type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic", "items": reference})
}

fn http_rule() -> Value {
    let path = json!({"type": "object", "default": {"type": "PathPrefix", "value": "/"},
        "properties": {"type": string_default("PathPrefix"), "value": string_default("/")}});
    let headers = json!({"type": "array", "maxItems": 16,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": object(json!({"type": string_default("Exact"), "name": {"type": "string"}, "value": {"type": "string"}}))});
    let matches = json!({"type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic",
        "default": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "items": object(json!({"path": path, "headers": headers}))});
    object(json!({"name": {"type": "string"}, "matches": matches, "backendRefs": backend_refs()}))
}

/// What a route without rules is given.
fn default_rules() -> Value {
    json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}])
}

fn plain_rule() -> Value {
    object(json!({"backendRefs": backend_refs()}))
}

fn gateway() -> Value {
    let listener = object(json!({"name": {"type": "string"}, "port": port(), "protocol": {"type": "string"}}));
    with_spec(json!({
        "spec": object(json!({
            "listeners": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": listener},
        })),
        "status": status(),
    }))
}
