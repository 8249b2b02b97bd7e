//! The clients of one Rollout's app, and which of its versions they reach.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::sim::{
    api::ApiServer,
    clients::{Clients, Shares},
    controllers::{Backend, Programmed},
};

#[derive(Clone)]
pub struct Audience {
    pub clients: Clients,
    pub namespace: String,
    /// The Services of the two roles; without them requests are spread over all ready pods of the namespace.
    pub services: Option<[String; 2]>,
    /// The hash of the version that served in the beginning: any other is the canary.
    pub stable: String,
}

impl Audience {
    /// Requests follow the data plane.
    pub(super) fn flow(&mut self, programmed: &Programmed, api: &ApiServer, now: Timestamp) {
        let shares = match &self.services {
            Some(services) => self.routed(services, programmed, api),
            None => self.spread(api),
        };
        if shares != self.clients.shares() {
            self.clients.flow(shares, now);
        }
    }

    /// By the first rule that splits: all rules are split alike.
    fn routed(&self, services: &[String; 2], programmed: &Programmed, api: &ApiServer) -> Shares {
        let ours = |backend: &&Backend| backend.cluster.0 == self.namespace && services.contains(&backend.cluster.1);
        let rules = programmed.routes.values().flat_map(|route| &route.rules);
        let rule = rules.into_iter().find(|rule| rule.backends.iter().any(|backend| backend.cluster.1 == services[0]));
        let backends: Vec<&Backend> = rule.iter().flat_map(|rule| &rule.backends).filter(ours).collect();
        let total: u64 = backends.iter().map(|backend| backend.weight).sum();
        let mut shares = Shares::default();
        for backend in backends.into_iter().filter(|backend| backend.weight > 0) {
            let endpoints = programmed.clusters.get(&backend.cluster).map(Vec::as_slice).unwrap_or_default();
            let pods = endpoints.iter().map(|endpoint| api.get("pods", &self.namespace, &endpoint.pod));
            self.add(backend.weight as f64 / total as f64, pods, &mut shares);
        }
        shares
    }

    fn spread(&self, api: &ApiServer) -> Shares {
        let ready = |pod: &&Arc<Value>| {
            let conditions = pod["status"]["conditions"].as_array();
            let mut ready = conditions.into_iter().flatten().filter(|condition| condition["type"] == "Ready");
            pod["metadata"]["namespace"] == self.namespace
                && pod["metadata"]["deletionTimestamp"].is_null()
                && ready.any(|condition| condition["status"] == "True")
        };
        let pods: Vec<_> = api.list("pods").filter(ready).map(Some).collect();
        let mut shares = Shares::default();
        self.add(1.0, pods.into_iter(), &mut shares);
        shares
    }

    /// Each of these pods gets as much of a share as any other.
    fn add<'a>(&self, share: f64, pods: impl ExactSizeIterator<Item = Option<&'a Arc<Value>>>, shares: &mut Shares) {
        let each = share / pods.len() as f64;
        for pod in pods.flatten() {
            let stable = pod["metadata"]["labels"]["pod-template-hash"] == self.stable;
            *(if stable { &mut shares.stable } else { &mut shares.canary }) += each;
        }
    }
}
