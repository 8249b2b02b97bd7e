//! Policies that are attached to `service` by its name mean its canary as well: a BackendTLSPolicy is copied for the canary Service that we
//! make, without which its requests would fail; other kinds are named. What was done stands on that Service.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    draft::{Draft, Flow, Stage, Waiting, wait},
    observed::ServiceView,
    patch::{self, Guarded, Kind},
};
use crate::api::keys;

/// The kind that is copied.
pub const BACKEND_TLS_POLICY: &str = "BackendTLSPolicy";

/// What stands on the canary Service.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    copied: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<String>,
}

fn record(service: &ServiceView) -> Option<Record> {
    serde_json::from_str(service.meta.annotations.get(keys::POLICIES)?).ok()
}

/// Whether the API server must be asked which policies there are.
pub fn question(obs: &super::Observed) -> bool {
    let running = obs.rollout.status.current_step.is_some() && !obs.rollout.meta.deleting;
    running && obs.canary_service.as_ref().is_some_and(|service| service.ours && record(service).is_none())
}

impl Draft<'_> {
    /// The canary Service that we made has the policies that it needs.
    pub fn ensure_policies(&mut self, canary: &str, service: &ServiceView) -> Flow {
        if !service.ours || record(service).is_some() {
            return Ok(());
        }
        let message = format!("looks for policies of Service {}", self.spec.traffic.service);
        let obs = self.obs;
        let Some(policies) = &obs.policies else { return wait(Waiting::Settling, message) };
        let mut done = Record::default();
        for policy in policies.iter().filter(|policy| targets(policy, &self.spec.traffic.service)) {
            let (kind, name) = (text(&policy["kind"]), text(&policy["metadata"]["name"]));
            if kind != BACKEND_TLS_POLICY {
                done.others.push(format!("{kind} {name}"));
                continue;
            }
            let copy = copy_of(policy, self, service);
            let exists = policies.iter().any(|p| p["kind"] == kind && p["metadata"]["name"] == copy["metadata"]["name"]);
            if !exists {
                self.act(patch::create(Kind::BackendTlsPolicy, copy, format!("copy {kind} {name} for Service {}", service.meta.name)));
            }
            done.copied.push(name.to_owned());
        }
        let text = serde_json::to_string(&done).unwrap_or_default();
        let patch = Guarded::new(Kind::Service, &service.meta).annotate(keys::POLICIES, text);
        self.act(patch.fenced(format!("write down the policies of Service {}", service.meta.name), obs.epoch));
        self.settle(canary, Stage::CanaryServiceMade, Err(message), 0)
    }

    /// Policies of `service` that do not hold for the canary.
    pub fn policies_not_copied(&self) -> Option<String> {
        let canary = self.obs.canary_service.as_ref()?;
        let others = record(canary)?.others;
        let (service, canary) = self.pair();
        (!others.is_empty()).then(|| {
            format!(
                "{} is attached to Service {service} by name and does not hold for {canary}: attach it to {canary}, too (put that Service into Git), if the canary needs it",
                others.join(", ")
            )
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn target_refs(policy: &Value) -> impl Iterator<Item = &Value> {
    let one = policy["spec"].get("targetRef");
    policy["spec"]["targetRefs"].as_array().into_iter().flatten().chain(one)
}

fn is_service(target: &Value, name: &str) -> bool {
    target["name"] == name && target["kind"] == "Service" && matches!(text(&target["group"]), "" | "core")
}

fn targets(policy: &Value, service: &str) -> bool {
    target_refs(policy).any(|target| is_service(target, service)) || text(&policy["spec"]["host"]).split('.').next() == Some(service)
}

/// It goes with the canary Service, which owns it.
fn copy_of(policy: &Value, draft: &Draft, canary: &ServiceView) -> Value {
    let mut spec = policy["spec"].clone();
    let own = target_refs(policy).filter(|target| is_service(target, &draft.spec.traffic.service));
    let targets: Vec<Value> = own
        .map(|target| {
            let mut target = target.clone();
            target["name"] = json!(canary.meta.name);
            target
        })
        .collect();
    spec["targetRefs"] = json!(targets);
    json!({
        "apiVersion": policy["apiVersion"], "kind": policy["kind"],
        "metadata": {
            "name": format!("{}-canary", text(&policy["metadata"]["name"])), "namespace": draft.obs.rollout.namespace,
            "labels": {keys::ROLLOUT: draft.obs.rollout.meta.name},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": canary.meta.name, "uid": canary.meta.uid}],
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_the_core_group_however_that_is_written() {
        let target = |group: &str| serde_json::json!({"group": group, "kind": "Service", "name": "api"});
        assert!(is_service(&target(""), "api") && is_service(&target("core"), "api"));
        assert!(!is_service(&target("networking.istio.io"), "api") && !is_service(&target(""), "other"));
    }
}
