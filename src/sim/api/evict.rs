//! Evictions: PodDisruptionBudgets put them off.

use serde_json::{Value, json};

use super::{ApiError, ApiServer, Caller, Change, Kind, LabelSelector, ObjectKey};

/// Whether every budget that selects the pod allows one ready pod fewer.
pub fn allowed(server: &ApiServer, (namespace, name): &ObjectKey) -> Result<(), ApiError> {
    let Some(pod) = server.get("pods", namespace, name) else { return Ok(()) };
    if !is_ready(pod) {
        return Ok(());
    }
    let here = |object: &&std::sync::Arc<Value>| object["metadata"]["namespace"] == **namespace;
    for budget in server.list("poddisruptionbudgets.policy").filter(here) {
        let selector = LabelSelector::from_object(&budget["spec"]["selector"]);
        let selected = |pod: &&std::sync::Arc<Value>| selector.matches(&pod["metadata"]["labels"]);
        if !selector.matches(&pod["metadata"]["labels"]) {
            continue;
        }
        let pods: Vec<_> = server.list("pods").filter(here).filter(selected).collect();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count() as u64;
        let wanted = match (&budget["spec"]["minAvailable"], &budget["spec"]["maxUnavailable"]) {
            (Value::Null, most) => (pods.len() as u64).saturating_sub(most.as_u64().unwrap_or(1)),
            (least, _) => least.as_u64().unwrap_or(0),
        };
        if ready <= wanted {
            return Err(ApiError::disruption());
        }
    }
    Ok(())
}

/// Says in the pod's status that it is evicted; nobody owns that.
pub fn announce(server: &mut ApiServer, kind: &Kind, key: &ObjectKey, caller: &Caller) {
    let Some(pod) = server.get(&kind.id, &key.0, &key.1) else { return };
    let mut pod = (**pod).clone();
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": super::seconds(caller.now)});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => pod["status"]["conditions"] = json!([condition]),
    }
    server.commit(kind, key.clone(), pod, Change::Modified, caller);
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null() && conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
