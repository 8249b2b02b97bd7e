//! Deployments, ReplicaSets, pods, and what belongs to them.

use serde_json::{Value, json};

use super::{Field, Kind, condition, field, kind};

pub fn all() -> Vec<Kind> {
    vec![deployment(), replica_set(), pod(), controller_revision()]
}

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{
            "name": "app", "image": image,
            "ports": [{"name": "http", "containerPort": 8080}],
            "env": [{"name": "VERSION", "value": "1"}],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1},
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        }]},
    })
}

fn pod_fields() -> Vec<Field> {
    vec![
        field("/spec/template/metadata/annotations", json!([{"restarted": "1"}, {}]), json!([{"x": 1}])),
        field("/spec/template/metadata/labels", json!([{"app": "a", "v": "2"}]), json!([{"app": "other"}])),
        field("/spec/template/spec/containers/0/image", json!(["app:v1", "app:v2", "app"]), json!([1, ""])),
        field("/spec/template/spec/containers/0/env", json!([[], [{"name": "VERSION", "value": "2"}]]), json!([[{"value": "2"}], {}])),
        field("/spec/template/spec/containers/0/resources", json!([{}, {"requests": {"cpu": "20m"}}]), json!([])),
        field(
            "/spec/template/spec/containers",
            json!([[{"name": "app", "image": "app:v3"}], [{"name": "app", "image": "app:v1"}, {"name": "side", "image": "side:v1"}]]),
            json!([[], [{"name": "app"}], [{"image": "x"}], [{"name": "a", "image": "b"}, {"name": "a", "image": "c"}]]),
        ),
        field("/spec/template/spec/terminationGracePeriodSeconds", json!([10, 30]), json!([-1, "10"])),
        field("/spec/template/spec/volumes", json!([[{"name": "tmp", "emptyDir": {}}], []]), json!([[{"emptyDir": {}}]])),
    ]
}

fn workload_fields() -> Vec<Field> {
    let mut fields = pod_fields();
    fields.extend([
        field("/spec/replicas", json!([0, 1, 3]), json!([-1, "2", 1.5, null])),
        field("/spec/minReadySeconds", json!([0, 5]), json!([-5])),
        field("/spec/selector", json!([{"matchLabels": {"app": "a"}}]), json!([{"matchLabels": {"app": "b"}}, {}])),
    ]);
    fields
}

/// As Deployments have them.
fn updated_condition(kind: &str, status: &str) -> Value {
    let mut condition = condition(kind, status);
    condition["lastUpdateTime"] = "2026-01-01T00:00:00Z".into();
    condition
}

fn deployment() -> Kind {
    let spec = |rest: Value| {
        let mut spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template("app:v1")});
        rest.as_object().into_iter().flatten().for_each(|(name, value)| spec[name] = value.clone());
        json!({"spec": spec})
    };
    let mut fields = workload_fields();
    fields.extend([
        field("/spec/paused", json!([true, false]), json!(["yes"])),
        field("/spec/revisionHistoryLimit", json!([0, 2]), json!([-1])),
        field("/spec/progressDeadlineSeconds", json!([60, 600]), json!([0])),
        field(
            "/spec/strategy",
            json!([{"type": "Recreate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}, {}]),
            json!([{"type": "Other"}, {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}]),
        ),
    ]);
    Kind {
        scale: true,
        bodies: vec![spec(json!({})), spec(json!({"replicas": 2, "paused": true})), spec(json!({"replicas": 0, "minReadySeconds": 5}))],
        fields,
        status_fields: vec![
            field("/status/replicas", json!([0, 2]), json!([-1, "2"])),
            field("/status/observedGeneration", json!([1, 2]), json!([-1])),
            field("/status/availableReplicas", json!([0, 1]), json!([])),
            field("/status/conditions", json!([[updated_condition("Available", "True")], []]), json!(["x"])),
            field("/status", json!([{}, {"replicas": 1, "readyReplicas": 1}]), json!([null, "x"])),
        ],
        strategic: vec![
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:v2"}]}}}}),
            json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "side:v1"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "$patch": "delete"}, {"name": "new", "image": "n:1"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "env": [{"name": "MORE", "value": "x"}]}]}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"replicas": 4}}),
            json!({"spec": {"paused": null}}),
        ],
        ..kind("apps/v1", "Deployment", "deployments")
    }
}

fn replica_set() -> Kind {
    let spec = |replicas: Option<u8>| {
        let mut spec = json!({"selector": {"matchLabels": {"app": "a"}}, "template": template("app:v1")});
        if let Some(replicas) = replicas {
            spec["replicas"] = replicas.into();
        }
        json!({"spec": spec})
    };
    Kind {
        scale: true,
        bodies: vec![spec(None), spec(Some(0)), spec(Some(3))],
        fields: workload_fields(),
        status_fields: vec![
            field("/status/replicas", json!([0, 2]), json!([-1])),
            field(
                "/status",
                json!([{"replicas": 2, "readyReplicas": 1, "availableReplicas": 1, "fullyLabeledReplicas": 2, "observedGeneration": 1}]),
                json!([null]),
            ),
            field("/status/conditions", json!([[condition("ReplicaFailure", "True")], []]), json!([])),
        ],
        strategic: vec![
            json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:v2"}]}}}}),
            json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": "00000000-0000-4000-8000-000000000001"}]}}),
        ],
        ..kind("apps/v1", "ReplicaSet", "replicasets")
    }
}

fn pod() -> Kind {
    let ready =
        json!([{"type": "Ready", "status": "True", "lastProbeTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    Kind {
        eviction: true,
        bodies: vec![
            json!({"spec": template("app:v1")["spec"]}),
            json!({"spec": {"containers": [{"name": "app", "image": "app"}], "terminationGracePeriodSeconds": 5}}),
        ],
        fields: vec![
            field("/spec/containers/0/image", json!(["app:v2"]), json!([""])),
            field("/spec/terminationGracePeriodSeconds", json!([5]), json!([60])),
        ],
        status_fields: vec![
            field("/status/phase", json!(["Pending", "Running", "Succeeded"]), json!([])),
            field("/status/conditions", json!([ready, []]), json!([])),
            field("/status", json!([{"phase": "Running", "conditions": ready}]), json!([])),
        ],
        strategic: vec![
            json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            json!({"metadata": {"labels": {"app": "b"}}}),
        ],
        ..kind("v1", "Pod", "pods")
    }
}

fn controller_revision() -> Kind {
    Kind {
        bodies: vec![
            json!({"revision": 1, "data": {"spec": {"template": template("app:v1")}}}),
            json!({"revision": 2, "data": {"x": [1, {"y": "z"}]}}),
        ],
        fields: vec![
            field("/revision", json!([1, 3]), json!([-1, "x"])),
            field("/data", json!([{"spec": {"template": template("app:v1")}}]), json!([{"other": 1}])),
        ],
        ..kind("apps/v1", "ControllerRevision", "controllerrevisions")
    }
}
