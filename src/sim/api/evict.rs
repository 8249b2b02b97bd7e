//! Evictions: PodDisruptionBudgets put them off.

use serde_json::Value;

use super::{ApiError, ApiServer, LabelSelector, ObjectKey};

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

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null() && conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
