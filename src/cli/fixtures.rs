//! Rollouts in every state, for the tests of what is printed.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{printer::Style, view::View};
use crate::api::{Rollout, status::RolloutStatus};

/// The moment at which everything here is looked at.
pub fn now() -> Timestamp {
    at("12:03:00")
}

pub fn at(time: &str) -> Timestamp {
    format!("2026-03-01T{time}Z").parse().unwrap()
}

fn micro(time: &str) -> String {
    format!("2026-03-01T{time}.000000Z")
}

pub fn plain() -> Style {
    Style { colour: false, wide: false, zone: jiff::tz::TimeZone::UTC }
}

fn rollout(status: Value) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "api", "namespace": "shop", "uid": "r", "generation": 3, "creationTimestamp": "2026-02-27T12:00:00Z"},
        "spec": {
            "replicas": 2,
            "workloadRef": {"kind": "Deployment", "name": "api"},
            "traffic": {"service": "api", "routes": [{"kind": "HTTPRoute", "name": "api"}]},
            "strategy": {"canary": {
                "steps": [
                    {"setWeight": 5}, {"pause": {"duration": "1m"}}, {"setWeight": 25}, {"pause": {}},
                    {"setWeight": 50}, {"analysis": {"templates": [{"name": "latency"}]}}
                ],
                "analysis": {"metrics": [{"name": "success-rate", "preset": "contour/success-rate", "min": 99}]}
            }}
        },
        "status": status
    })
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-03-01T12:02:00Z"})
}

fn replica_set(hash: &str, image: &str, wanted: i32, ready: i32, annotations: Value) -> Value {
    json!({
        "metadata": {
            "name": format!("api-{hash}"), "namespace": "shop", "uid": hash, "creationTimestamp": "2026-03-01T12:00:00Z",
            "labels": {"sluice.dev/rollout": "api", "pod-template-hash": hash}, "annotations": annotations
        },
        "spec": {
            "replicas": wanted,
            "selector": {"matchLabels": {"app": "api", "pod-template-hash": hash}},
            "template": {"metadata": {"labels": {"app": "api", "pod-template-hash": hash}}, "spec": {"containers": [{"name": "app", "image": image}]}}
        },
        "status": {"replicas": wanted, "readyReplicas": ready}
    })
}

fn pod(hash: &str, suffix: &str, ready: bool, restarts: i32, waiting: Option<(&str, &str)>) -> Value {
    let state = waiting.map_or(json!({"running": {}}), |(reason, message)| json!({"waiting": {"reason": reason, "message": message}}));
    json!({
        "metadata": {
            "name": format!("api-{hash}-{suffix}"), "namespace": "shop", "creationTimestamp": "2026-03-01T12:00:01Z",
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("api-{hash}"), "uid": hash, "controller": true}]
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": [{"name": "app", "image": "i", "imageID": "i", "ready": ready, "restartCount": restarts, "state": state}]
        }
    })
}

fn measurement(time: &str, value: Option<&str>, verdict: &str, message: &str) -> Value {
    let since = (at(time) - jiff::SignedDuration::from_secs(30)).strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    json!({
        "at": micro(time), "since": since, "queries": ["sum(rate(envoy_cluster_upstream_rq{shop_api-canary}[30s]))"], "value": value,
        "samples": value.map(|_| 1234.0), "limit": "at least 99 %", "verdict": verdict, "message": message
    })
}

fn run(name: &str, hash: &str, status: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-03-01T12:01:30Z"},
        "spec": {
            "rollout": "api", "canaryHash": hash, "stableHash": "5d7c",
            "metrics": [{"name": "success-rate", "preset": "contour/success-rate", "min": 99}]
        },
        "status": status
    })
}

fn action(name: &str, verb: &str, time: &str, outcome: &str, message: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": format!("2026-03-01T{time}Z")},
        "spec": {"rollout": "api", "verb": verb, "revision": "7f9b", "step": 1, "reason": "looks good", "requestedBy": "ada@example.com"},
        "status": {"outcome": outcome, "message": message, "at": micro(time)}
    })
}

fn read<T: serde::de::DeserializeOwned>(objects: Vec<Value>) -> Vec<T> {
    objects.into_iter().map(|object| serde_json::from_value(object).unwrap()).collect()
}

fn view(status: Value, replica_sets: Vec<Value>, pods: Vec<Value>, runs: Vec<Value>) -> View {
    View {
        rollout: serde_json::from_value(rollout(status)).unwrap(),
        replica_sets: read(replica_sets),
        pods: read(pods),
        runs: read(runs),
        actions: Vec::new(),
    }
}

/// What status says of the two revisions while the new one is at a step.
fn at_step(index: i32, started: &str, phase: &str, message: &str) -> Value {
    json!({
        "observedGeneration": 3, "phase": phase, "message": message, "stableRevision": "5d7c", "canaryRevision": "7f9b",
        "currentStep": {"index": index, "startedAt": micro(started)}, "stepLabel": format!("{}/6", index + 1),
        "weights": {"stable": 95.0, "canary": 5.0, "observed": 5.0},
        "canary": {"revision": "7f9b", "startedAt": micro("12:00:00"), "stableReplicas": 2},
        "replicas": 4, "readyReplicas": 4, "availableReplicas": 4, "updatedReplicas": 2, "selector": "app=api",
        "conditions": [condition("Ready", false, "Progressing", message), condition("Reconciling", true, "Progressing", message)],
        "analysis": [{"name": "api-7f9b-background", "phase": "Running", "message": "measuring"}]
    })
}

fn stable() -> Value {
    replica_set("5d7c", "app:v1", 2, 2, json!({"sluice.dev/stable": "1"}))
}

fn stable_pods() -> Vec<Value> {
    vec![pod("5d7c", "aaaaa", true, 0, None), pod("5d7c", "bbbbb", true, 1, None)]
}

fn both() -> (Vec<Value>, Vec<Value>) {
    let mut pods = stable_pods();
    pods.push(pod("7f9b", "ccccc", true, 0, None));
    pods.push(pod("7f9b", "ddddd", true, 0, None));
    (vec![stable(), replica_set("7f9b", "app:v2", 2, 2, json!({}))], pods)
}

fn passing() -> Value {
    let result = json!({"name": "success-rate", "passed": 2, "measurements": [
        measurement("12:02:20", Some("99.91 %"), "Pass", "99.91 % is at least 99 % (1,234 requests)"), measurement("12:02:50", Some("99.87 %"), "Pass", "99.87 % is at least 99 % (1,234 requests)")]});
    run(
        "api-7f9b-background",
        "7f9b",
        json!({"phase": "Running", "message": "measuring", "startedAt": micro("12:01:50"), "metricResults": [result]}),
    )
}

pub fn healthy() -> View {
    let status = json!({
        "observedGeneration": 3, "phase": "Healthy", "message": "revision 5d7c serves", "stableRevision": "5d7c", "canaryRevision": "5d7c",
        "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2, "selector": "app=api",
        "conditions": [condition("Ready", true, "Healthy", "revision 5d7c serves"), condition("Reconciling", false, "AtRest", "")],
        "history": [{"revision": "5d7c", "images": ["app:v1"], "outcome": "Promoted", "message": "", "startedAt": micro("11:00:00"), "finishedAt": micro("11:05:00")}]
    });
    let old = ["4a4a", "4b4b"].map(|hash| replica_set(hash, "app:v0", 0, 0, json!({})));
    view(status, [vec![stable()], old.to_vec()].concat(), stable_pods(), vec![])
}

/// Four rollouts have ended; the newest was taken back.
pub fn with_a_past() -> View {
    let mut view = aborted_by_analysis();
    let ended = |revision: &str, image: &str, outcome: &str, message: &str, times: [&str; 2]| json!({"revision": revision, "images": [image], "outcome": outcome, "message": message, "startedAt": micro(times[0]), "finishedAt": micro(times[1])});
    let mut past: Vec<crate::api::status::HistoryEntry> = read(vec![
        ended("4a4a", "app:v0", "Promoted", "", ["09:00:00", "09:05:00"]),
        ended("4b4b", "app:v0-fixed", "Promoted", "", ["09:30:00", "09:36:10"]),
        ended("4c4c", "app:v0-debug", "Superseded", "revision 5d7c came", ["10:00:00", "10:00:40"]),
        ended("5d7c", "app:v1", "Promoted", "", ["11:00:00", "11:05:00"]),
    ]);
    past[1].over = Some("4a4a".into());
    past[3].over = Some("4b4b".into());
    let status = view.rollout.status.as_mut().unwrap();
    past.append(&mut status.history);
    status.history = past;
    view.replica_sets.extend(read::<k8s_openapi::api::apps::v1::ReplicaSet>(vec![
        replica_set("4b4b", "app:v0-fixed", 0, 0, json!({})),
        replica_set("3333", "app:v0-alpha", 0, 0, json!({})),
    ]));
    view
}

pub fn progressing() -> View {
    let (sets, pods) = both();
    let mut status = at_step(2, "12:02:55", "Progressing", "the routes have what the step sets since it is observed: waits 10 s in all");
    status["weights"] = json!({"stable": 75.0, "canary": 25.0, "observed": 25.0});
    status["transition"] = json!({"what": "roll/7f9b/045-weight", "since": micro("12:02:55"), "observedAt": micro("12:02:56")});
    view(status, sets, pods, vec![passing()])
}

pub fn timed_pause() -> View {
    let (sets, pods) = both();
    view(at_step(1, "12:02:32", "Paused", "paused: goes on at 12:03:32 UTC"), sets, pods, vec![passing()])
}

pub fn waiting_for_pods() -> View {
    let mut status = at_step(0, "12:02:00", "Progressing", "waits for the canary's pods: 0 of 2 ready (api-7f9b-ccccc: ImagePullBackOff)");
    status["weights"] = json!({"stable": 100.0, "canary": 0.0});
    status["transition"] = json!({"what": "roll/7f9b/040-canary-ready", "since": micro("12:02:01")});
    status["analysis"] = json!([]);
    let mut pods = stable_pods();
    pods.push(pod("7f9b", "ccccc", false, 0, Some(("ImagePullBackOff", "Back-off pulling image \"app:v2\""))));
    pods.push(pod("7f9b", "ddddd", false, 3, Some(("CrashLoopBackOff", "back-off 40s restarting failed container"))));
    view(status, vec![stable(), replica_set("7f9b", "app:v2", 2, 0, json!({}))], pods, vec![])
}

pub fn paused() -> View {
    let (sets, pods) = both();
    let mut status = at_step(3, "12:01:00", "Paused", "paused: waits until someone promotes it (`kubectl sluice promote`)");
    status["weights"] = json!({"stable": 75.0, "canary": 25.0, "observed": 25.0});
    view(status, sets, pods, vec![passing()])
}

pub fn inconclusive() -> View {
    let (sets, pods) = both();
    let mut status = at_step(
        1,
        "12:02:00",
        "Paused",
        "success-rate could not be judged: 5 provider errors in a row, 4 are tolerated: waits until someone resumes it (`kubectl sluice resume`) or aborts it",
    );
    status["hold"] = json!({"reason": "InconclusiveAnalysis", "since": micro("12:02:50"), "message": "success-rate could not be judged: 5 provider errors in a row, 4 are tolerated"});
    status["conditions"] = json!([condition("Paused", true, "InconclusiveAnalysis", "success-rate: 5 provider errors in a row")]);
    status["analysis"][0]["phase"] = json!("Inconclusive");
    let result = json!({"name": "success-rate", "phase": "Inconclusive", "passed": 1, "errors": 5, "consecutiveErrors": 5, "measurements": [
        measurement("12:02:50", None, "ProviderError", "http://prometheus:9090: connection refused")]});
    let run = run(
        "api-7f9b-background",
        "7f9b",
        json!({"phase": "Inconclusive", "message": "success-rate could not be judged", "startedAt": micro("12:00:30"), "completedAt": micro("12:02:50"), "metricResults": [result]}),
    );
    view(status, sets, pods, vec![run])
}

fn aborted(reason: &str) -> Value {
    json!({
        "observedGeneration": 3, "phase": "Aborted", "message": format!("revision 7f9b was taken back: {reason}; it stays so until the template changes or someone retries it (`kubectl sluice retry`)"), "stableRevision": "5d7c",
        "canaryRevision": "7f9b", "weights": {"stable": 100.0, "canary": 0.0, "observed": 0.0},
        "rejected": [{"revision": "7f9b", "reason": reason, "at": micro("12:02:50")}],
        "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 0, "selector": "app=api",
        "conditions": [condition("Ready", false, "Aborted", reason), condition("Stalled", true, "Aborted", reason)],
        "history": [{"revision": "7f9b", "images": ["app:v2"], "outcome": "Aborted", "message": reason, "startedAt": micro("12:00:00"), "finishedAt": micro("12:02:50")}]
    })
}

pub fn aborted_by_analysis() -> View {
    let mut status = aborted("success-rate: 80.1 % is below the minimum of 99 % (1,234 requests)");
    status["analysis"] = json!([{"name": "api-7f9b-background", "phase": "Failed", "message": "success-rate failed"}]);
    let result = json!({"name": "success-rate", "phase": "Failed", "passed": 1, "failed": 1, "measurements": [
        measurement("12:02:20", Some("99.2 %"), "Pass", "99.2 % is at least 99 % (1,234 requests)"), measurement("12:02:50", Some("80.1 %"), "Fail", "80.1 % is below the minimum of 99 % (1,234 requests)")]});
    let run = run(
        "api-7f9b-background",
        "7f9b",
        json!({"phase": "Failed", "message": "success-rate failed", "startedAt": micro("12:01:50"), "completedAt": micro("12:02:50"), "metricResults": [result]}),
    );
    let sets = vec![stable(), replica_set("7f9b", "app:v2", 0, 0, json!({"sluice.dev/rejected": "analysis failed"}))];
    let mut view = view(status, sets, stable_pods(), vec![run]);
    view.actions = read(vec![
        action("api-promote-x2", "Promote", "12:02:55", "Refused", "the rollout is not at step 2 any more: it was aborted"),
        action("api-pause-x1", "Pause", "12:00:40", "Done", "held at step 1"),
    ]);
    view
}

pub fn aborted_by_deadline() -> View {
    let status = aborted(
        "no progress for 600 s (progressDeadlineSeconds): waits for the canary's pods: 0 of 2 ready (api-7f9b-ccccc: CrashLoopBackOff)",
    );
    let sets = vec![stable(), replica_set("7f9b", "app:v2", 2, 0, json!({}))];
    let mut pods = stable_pods();
    pods.push(pod("7f9b", "ccccc", false, 6, Some(("CrashLoopBackOff", "back-off 2m40s restarting failed container"))));
    view(status, sets, pods, vec![])
}

pub fn invalid_spec() -> View {
    let message = "spec.traffic.service: the Service \"api\" is of type ExternalName: name one that selects pods";
    let status = json!({
        "observedGeneration": 3, "phase": "Degraded", "message": message, "stableRevision": "5d7c", "canaryRevision": "5d7c",
        "replicas": 2, "readyReplicas": 2, "availableReplicas": 2,
        "conditions": [condition("Stalled", true, "InvalidSpec", message), condition("InvalidSpec", true, "InvalidSpec", message)]
    });
    view(status, vec![stable()], stable_pods(), vec![])
}

pub fn taking_over() -> View {
    let status = json!({"observedGeneration": 3, "phase": "Progressing", "message": "taking over Deployment api: waits until its own rollout has ended (1 of 2 pods updated)"});
    view(status, vec![], vec![], vec![])
}

pub fn without_controller() -> View {
    let mut view = taking_over();
    view.rollout.status = None;
    view
}

pub fn spec_not_seen() -> View {
    let mut view = healthy();
    view.rollout.metadata.generation = Some(4);
    view
}

/// Every state, by the name of its golden file.
pub fn all() -> Vec<(&'static str, View)> {
    vec![
        ("healthy", healthy()),
        ("progressing", progressing()),
        ("timed_pause", timed_pause()),
        ("waiting_for_pods", waiting_for_pods()),
        ("paused", paused()),
        ("inconclusive", inconclusive()),
        ("aborted_by_analysis", aborted_by_analysis()),
        ("aborted_by_deadline", aborted_by_deadline()),
        ("invalid_spec", invalid_spec()),
        ("taking_over", taking_over()),
        ("without_controller", without_controller()),
        ("spec_not_seen", spec_not_seen()),
    ]
}

/// A Rollout whose status is changed by `change`.
pub fn changed(view: View, change: impl FnOnce(&mut RolloutStatus)) -> Rollout {
    let mut rollout = view.rollout;
    change(rollout.status.as_mut().unwrap());
    rollout
}
