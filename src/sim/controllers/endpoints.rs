//! The EndpointSlice controller: one slice for each Service that selects pods, some time after they change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::objects::{ENDPOINT_SLICES, PODS, SERVICES, Writer, all, controlled_by, is_deleting, is_ready, key, name, namespace, uid};
use super::{after, sooner};
use crate::sim::api::{ApiServer, LabelSelector, ObjectKey};

/// Remembers since when each Service's slice has been out of date.
#[derive(Debug, Default, Clone)]
pub struct Endpoints {
    outdated: BTreeMap<ObjectKey, Timestamp>,
}

impl Endpoints {
    pub fn step(&mut self, api: &mut ApiServer, now: Timestamp, lag: Duration) -> Option<Timestamp> {
        let services = all(api, SERVICES);
        let pods = all(api, PODS);
        self.outdated.retain(|k, _| services.iter().any(|s| key(s) == *k));
        let mut due = None;
        for service in services.iter().filter(|s| has_endpoints(s)) {
            let slice_key = (namespace(service).to_owned(), slice_name(service));
            let live = api.get(ENDPOINT_SLICES, &slice_key.0, &slice_key.1).cloned();
            let (endpoints, ports) = wanted(service, &pods);
            let same = live.as_ref().is_some_and(|l| is_list(&l["endpoints"], &endpoints) && is_list(&l["ports"], &ports));
            if same {
                self.outdated.remove(&key(service));
                continue;
            }
            let at = after(*self.outdated.entry(key(service)).or_insert(now), lag);
            if at > now {
                due = sooner(due, Some(at));
                continue;
            }
            self.outdated.remove(&key(service));
            write(api, now, service, &slice_key, live.is_some(), endpoints, ports);
        }
        due
    }
}

fn write(api: &mut ApiServer, now: Timestamp, service: &Value, slice: &ObjectKey, exists: bool, endpoints: Value, ports: Value) {
    let mut writer = Writer::new(api, "endpointslice-controller", now);
    if exists {
        writer.change(ENDPOINT_SLICES, slice, |s| {
            s["endpoints"] = endpoints;
            s["ports"] = ports;
        });
        return;
    }
    let object = json!({
        "metadata": {
            "name": slice.1,
            "labels": {
                "kubernetes.io/service-name": name(service),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [controlled_by(service)],
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    });
    if let Err(error) = writer.create(ENDPOINT_SLICES, &slice.0, object) {
        tracing::warn!(service = name(service), message = error.message, "EndpointSlice refused");
    }
}

fn has_endpoints(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|s| !s.is_empty())
        && service["spec"]["type"] != "ExternalName"
        && !is_deleting(service)
}

/// A name of its own for each Service object, so that a Service made anew gets a new slice.
fn slice_name(service: &Value) -> String {
    format!("{}-{}", name(service), uid(service).get(..5).unwrap_or("x"))
}

/// An empty list is stored as nothing.
fn is_list(live: &Value, wanted: &Value) -> bool {
    if live.is_null() { wanted.as_array().is_some_and(Vec::is_empty) } else { live == wanted }
}

/// The endpoints and ports that a Service's slice shall have.
fn wanted(service: &Value, pods: &[Arc<Value>]) -> (Value, Value) {
    let selector = LabelSelector::from_map(&service["spec"]["selector"]);
    let publish_all = service["spec"]["publishNotReadyAddresses"] == true;
    let chosen = pods.iter().filter(|p| {
        namespace(p) == namespace(service)
            && selector.matches(&p["metadata"]["labels"])
            && p["status"]["podIP"].is_string()
            && !matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    });
    let chosen: Vec<&Arc<Value>> = chosen.collect();
    let endpoints = chosen.iter().map(|pod| {
        let (serving, terminating) = (is_ready(pod), is_deleting(pod));
        json!({
            "addresses": [pod["status"]["podIP"]],
            "conditions": {"ready": publish_all || (serving && !terminating), "serving": serving, "terminating": terminating},
            "nodeName": pod["spec"]["nodeName"],
            "targetRef": {"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)},
        })
    });
    let ports = service["spec"]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let number = target_port(&port["targetPort"], chosen.first().map(|p| p.as_ref()))?;
        let mut out = json!({"name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": port["protocol"]});
        if let Some(protocol) = port.get("appProtocol") {
            out["appProtocol"] = protocol.clone();
        }
        Some(out)
    });
    (endpoints.collect(), ports.collect())
}

/// A number, or the container port of that name.
fn target_port(target: &Value, pod: Option<&Value>) -> Option<Value> {
    if target.is_number() {
        return Some(target.clone());
    }
    let containers = pod?["spec"]["containers"].as_array()?;
    let mut ports = containers.iter().flat_map(|c| c["ports"].as_array().into_iter().flatten());
    ports.find(|p| p["name"] == *target).map(|p| p["containerPort"].clone())
}
