//! Services, their endpoints, configuration, leases and events.

use serde_json::{Value, json};

use super::{Kind, field, kind};
use crate::conformance::request::NAMESPACE;

pub fn all() -> Vec<Kind> {
    vec![service(), config_map(), secret(), lease(), endpoint_slice(), event()]
}

fn config_map() -> Kind {
    Kind {
        bodies: vec![json!({"data": {"k": "1"}}), json!({}), json!({"data": {}, "binaryData": {"b": "AAE="}})],
        fields: vec![
            field("/data", json!([{}, {"k": "2", "l": "x"}]), json!([[], "x", {"k": 1}])),
            field("/data/k", json!(["1", "2", ""]), json!([1, {}, true])),
            field("/data/l", json!(["x"]), json!([1.5])),
            field("/binaryData/b", json!(["AAE=", ""]), json!([1])),
            field("/immutable", json!([true, false]), json!(["true", 1])),
        ],
        strategic: vec![json!({"data": {"k": "2"}}), json!({"data": {"k": null}})],
        ..kind("v1", "ConfigMap", "configmaps")
    }
}

fn secret() -> Kind {
    Kind {
        bodies: vec![json!({"stringData": {"token": "x"}}), json!({"data": {"k": "AAE="}, "type": "Opaque"})],
        fields: vec![
            field("/data/k", json!(["AAE=", "eA=="]), json!([1])),
            field("/stringData", json!([{"token": "y"}]), json!([])),
            field("/type", json!(["Opaque"]), json!(["other"])),
            field("/immutable", json!([true, false]), json!([])),
        ],
        ..kind("v1", "Secret", "secrets")
    }
}

fn service() -> Kind {
    let ports = |rest: Value| json!([{"name": "http", "port": 80, "targetPort": rest}]);
    let selector = json!({"app": "a"});
    Kind {
        bodies: vec![
            json!({"spec": {"selector": selector, "ports": ports(json!("http"))}}),
            json!({"spec": {"selector": selector, "ports": [{"port": 80}]}}),
        ],
        fields: vec![
            field("/spec/selector", json!([{"app": "a", "pod-template-hash": "1"}]), json!([])),
            field("/spec/selector/pod-template-hash", json!(["1", "2"]), json!([])),
            field(
                "/spec/ports",
                json!([ports(json!(8080)), [{"name": "http", "port": 80}, {"name": "more", "port": 81}]]),
                json!([[], [{"port": 80}, {"port": 81}]]),
            ),
            field("/spec/ports/0/targetPort", json!(["http", 8080]), json!([])),
            field("/spec/publishNotReadyAddresses", json!([true, false]), json!([])),
            field("/spec/type", json!(["ClusterIP"]), json!(["Other"])),
            field("/spec/sessionAffinity", json!(["None"]), json!(["Some"])),
        ],
        status_fields: vec![field("/status/loadBalancer", json!([{}]), json!([])), field("/status", json!([{}]), json!([null]))],
        strategic: vec![
            json!({"spec": {"selector": {"app": "b"}}}),
            json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}]}}),
            json!({"spec": {"ports": [{"name": "more", "port": 81}]}}),
        ],
        ..kind("v1", "Service", "services")
    }
}

fn lease() -> Kind {
    let spec = json!({"holderIdentity": "one", "leaseDurationSeconds": 15, "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseTransitions": 0});
    Kind {
        bodies: vec![json!({"spec": spec}), json!({})],
        fields: vec![
            field("/spec/holderIdentity", json!(["one", "two", ""]), json!([1])),
            field("/spec/leaseDurationSeconds", json!([15]), json!([0, -1])),
            field("/spec/renewTime", json!(["2026-01-01T00:00:05.000000Z"]), json!([])),
            field("/spec/leaseTransitions", json!([0, 1]), json!([-1])),
        ],
        ..kind("coordination.k8s.io/v1", "Lease", "leases")
    }
}

fn endpoint_slice() -> Kind {
    let endpoint = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready, "serving": ready, "terminating": false}, "targetRef": {"kind": "Pod", "name": "p"}});
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    Kind {
        whole: true,
        bodies: vec![json!({"addressType": "IPv4", "endpoints": [endpoint("10.1.2.3", true)], "ports": ports})],
        fields: vec![
            field("/endpoints", json!([[endpoint("10.1.2.3", false), endpoint("10.1.2.4", true)]]), json!([])),
            field("/ports", json!([ports]), json!([])),
        ],
        ..kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
    }
}

fn event() -> Kind {
    let body = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "sluice.dev/sluice", "reportingInstance": "one", "action": "Roll",
        "reason": "Aborted", "type": "Warning", "note": "words", "regarding": {"kind": "Rollout", "name": "a", "namespace": NAMESPACE}});
    Kind {
        whole: true,
        bodies: vec![body],
        fields: vec![field("/series", json!([{"count": 2, "lastObservedTime": "2026-01-01T00:00:09.000000Z"}]), json!([]))],
        ..kind("events.k8s.io/v1", "Event", "events")
    }
}
