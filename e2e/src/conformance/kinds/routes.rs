//! Routes of the Gateway API, and policies.

use serde_json::{Value, json};

use super::{Kind, condition, field, kind};

pub fn all() -> Vec<Kind> {
    vec![http_route(), http_route(), grpc_route(), tls_policy()]
}

fn http_route() -> Kind {
    let backend = |name: &str, weight: i32| json!({"name": name, "port": 80, "weight": weight});
    let rule = |refs: Value| json!({"backendRefs": refs});
    let parent = json!([{"name": "gw", "namespace": "gateway"}]);
    Kind {
        bodies: vec![
            json!({"spec": {"parentRefs": parent, "hostnames": ["a.example"], "rules": [rule(json!([{"name": "a", "port": 80}]))]}}),
            json!({"spec": {"parentRefs": parent, "rules": [
                {"name": "main", "matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}], "backendRefs": [backend("a", 95), backend("b", 5)],
                 "timeouts": {"request": "5s"}},
                rule(json!([backend("a", 1)]))]}}),
        ],
        fields: vec![
            field("/spec/hostnames", json!([["a.example"], ["b.example", "c.example"], []]), json!(["a.example", [1]])),
            field("/spec/rules/0/backendRefs/0/weight", json!([0, 1, 95, 100]), json!([-1, 1_000_001, "5", 1.5, null])),
            field("/spec/rules/0/backendRefs/1", json!([backend("b", 5), backend("c", 1)]), json!([{"port": 80}])),
            field("/spec/rules/0/backendRefs/-", json!([backend("b", 5)]), json!([{}])),
            field("/spec/rules/0/backendRefs", json!([[backend("a", 100), backend("b", 0)], []]), json!([[{"name": "a"}], {}])),
            field("/spec/rules/0/name", json!(["main", "other"]), json!([])),
            field("/spec/rules/-", json!([rule(json!([backend("b", 1)]))]), json!([1])),
            field("/spec/rules", json!([[rule(json!([backend("a", 50), backend("b", 50)]))], []]), json!(["x"])),
            field("/spec/parentRefs", json!([parent]), json!([[{}]])),
        ],
        status_fields: vec![
            field(
                "/status/parents",
                json!([[], [{"controllerName": "example.com/gw", "parentRef": {"name": "gw"}, "conditions": [condition("Accepted", "True")]}]]),
                json!([[{"conditions": []}], "x"]),
            ),
            field("/status", json!([{"parents": []}]), json!([{}, null])),
        ],
        ..kind("gateway.networking.k8s.io/v1", "HTTPRoute", "httproutes")
    }
}

fn grpc_route() -> Kind {
    let rule = |name: &str, weight: u8| json!({"matches": [{"method": {"service": "shop", "type": "Exact"}}], "backendRefs": [{"name": name, "port": 80, "weight": weight}]});
    Kind {
        bodies: vec![
            json!({"spec": {"parentRefs": [{"name": "gw"}], "rules": [rule("a", 100)]}}),
            json!({"spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["a.example"], "rules": [rule("a", 90), rule("b", 10)]}}),
        ],
        fields: vec![
            field("/spec/rules/0/backendRefs/0/weight", json!([0, 1, 95]), json!([-1, 1_000_001, 1.5])),
            field("/spec/rules", json!([[rule("a", 1)]]), json!([])),
            field("/spec/hostnames", json!([["a.example"], []]), json!([])),
        ],
        ..kind("gateway.networking.k8s.io/v1", "GRPCRoute", "grpcroutes")
    }
}

fn tls_policy() -> Kind {
    let spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "a"}],
        "validation": {"hostname": "a.example", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}});
    Kind {
        bodies: vec![json!({"spec": spec})],
        fields: vec![field("/spec/validation/hostname", json!(["a.example", "b.example"]), json!([]))],
        ..kind("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "backendtlspolicies")
    }
}
