//! The project's own kinds.

use serde_json::{Value, json};

use super::{Kind, condition, field, kind};

const VERSION: &str = "sluice.dev/v1alpha1";

pub fn all() -> Vec<Kind> {
    vec![rollout(), rollout(), action(), template(), run()]
}

fn rollout() -> Kind {
    let steps = json!([{"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 50}]);
    let strategy = json!({"canary": {"steps": steps}});
    let traffic = json!({"service": "a", "routes": [{"kind": "HTTPRoute", "name": "a"}]});
    let pods = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "app", "image": "app:v1"}]}});
    let weights = |canary: f64| json!({"canary": canary, "stable": 100.0 - canary, "observed": canary});
    Kind {
        scale: true,
        bodies: vec![
            json!({"spec": {"workloadRef": {"kind": "Deployment", "name": "a"}, "traffic": traffic, "strategy": strategy}}),
            json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}}, "template": pods, "strategy": strategy}}),
        ],
        fields: vec![
            field("/spec/replicas", json!([0, 2, 5]), json!([-1, "2", 1.5])),
            field("/spec/paused", json!([true, false]), json!(["x", 1])),
            field("/spec/minReadySeconds", json!([0, 5]), json!([-1])),
            field("/spec/restartAt", json!(["2026-01-01T00:00:00Z"]), json!(["yesterday"])),
            field(
                "/spec/strategy/canary/steps",
                json!([[{"setWeight": 10}], []]),
                json!([[{}], [{"setWeight": 101}], [{"setWeight": 5, "pause": {}}]]),
            ),
            field("/spec/strategy/canary/steps/0/setWeight", json!([7]), json!([-1, 1.5, "5"])),
            field("/spec/strategy/canary/steps/-", json!([{"setWeight": 90}]), json!([{"pause": {"duration": "soon"}}])),
            field("/spec/traffic/drainSeconds", json!([0, 10]), json!([-1])),
            field(
                "/spec/traffic/routes",
                json!([[{"kind": "HTTPRoute", "name": "b"}]]),
                json!([[{"kind": "Route", "name": "b"}], [{"kind": "HTTPRoute", "name": "b"}, {"kind": "HTTPRoute", "name": "b"}]]),
            ),
            field("/spec/workloadRef/name", json!(["a", "b"]), json!([""])),
            field("/spec/unknown", json!([]), json!([1])),
        ],
        status_fields: vec![
            field("/status/phase", json!(["Progressing", "Healthy"]), json!(["Lost"])),
            field("/status/weights", json!([weights(5.0), weights(12.5)]), json!([{"canary": "5"}])),
            field(
                "/status/conditions",
                json!([[condition("Ready", "False")], [condition("Ready", "True"), condition("Stalled", "False")]]),
                json!([[condition("Ready", "True"), condition("Ready", "False")]]),
            ),
            field("/status/message", json!(["waits"]), json!([1])),
            field("/status/observedGeneration", json!([1, 2]), json!(["1"])),
            field("/status/replicas", json!([0, 3]), json!([])),
            field("/status/selector", json!(["app=a"]), json!([])),
            field("/status/rejected", json!([[{"revision": "5d9", "at": "2026-01-01T00:00:00Z"}], []]), json!([])),
            field("/status", json!([{"message": "begins", "weights": weights(0.0)}, {}]), json!([null, "x"])),
        ],
        ..kind(VERSION, "Rollout", "rollouts")
    }
}

fn action() -> Kind {
    let spec = |verb: &str| json!({"rollout": "a", "revision": "5d9", "verb": verb});
    Kind {
        bodies: vec![
            json!({"spec": spec("Abort")}),
            json!({"spec": {"rollout": "a", "revision": "5d9", "verb": "Promote", "step": 1, "requestedBy": "me", "reason": "it is good"}}),
        ],
        fields: vec![
            field("/spec/verb", json!(["Abort", "Retry"]), json!(["Promote", "Dance", 1])),
            field("/spec/step", json!([1]), json!([-1, 65, "1"])),
            field("/spec/toRevision", json!([]), json!(["5d9", "6e0", ""])),
            field("/spec/revision", json!(["5d9"]), json!(["", null])),
        ],
        status_fields: vec![
            field(
                "/status",
                json!([{"outcome": "Done", "at": "2026-01-01T00:00:00.000000Z", "message": "done"}, {"outcome": "Refused"}]),
                json!([{"outcome": "Lost"}]),
            ),
            field("/status/message", json!(["words"]), json!([])),
        ],
        ..kind(VERSION, "RolloutAction", "rolloutactions")
    }
}

fn metrics(max: Value) -> Value {
    json!([{"name": "errors", "prometheus": {"query": "sum(rate(x[1m]))"}, "interval": "30s", "max": max}])
}

fn template() -> Kind {
    Kind {
        bodies: vec![
            json!({"spec": {"metrics": metrics(json!(1))}}),
            json!({"spec": {"args": [{"name": "handler", "value": "x"}], "metrics": metrics(json!(0.5))}}),
        ],
        fields: vec![
            field("/spec/metrics", json!([metrics(json!(2)), metrics(json!(2.5))]), json!([[], [{"name": "x"}]])),
            field("/spec/metrics/0/max", json!([3, 0.25]), json!(["x"])),
            field("/spec/args", json!([[{"name": "handler", "value": "y"}], []]), json!([[{"value": "y"}]])),
            field("/spec/metrics/0/interval", json!(["1m"]), json!(["soon", 5])),
        ],
        ..kind(VERSION, "AnalysisTemplate", "analysistemplates")
    }
}

fn run() -> Kind {
    Kind {
        bodies: vec![json!({"spec": {"rollout": "a", "canaryHash": "5d9", "metrics": metrics(json!(1))}})],
        fields: vec![field("/spec/terminate", json!([true, false]), json!([])), field("/spec/canaryHash", json!(["5d9"]), json!(["6e0"]))],
        status_fields: vec![
            field("/status/phase", json!(["Running", "Successful"]), json!(["Lost"])),
            field("/status", json!([{"message": "begins"}, {}]), json!([null])),
        ],
        ..kind(VERSION, "AnalysisRun", "analysisruns")
    }
}
