//! What the metrics of the simulated cluster say where no audience is counted: 100 requests a second, shared as the Rollout has observed
//! it, of which each image fails its share.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::Drive;
use crate::{
    api::{AnalysisRunSpec, AnalysisRunStatus, Metric, run::Reading},
    core::{
        analysis::{self, ErrorKind, Measured, ProviderError},
        counters::{Counted, Look},
        judge::{Sample, compare::Arm},
    },
};

const REQUESTS_PER_SECOND: f64 = 100.0;

/// How metrics are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    #[default]
    Whole,
    /// There are no series.
    Empty,
    /// With a warning: some may be missing.
    Partial,
}

impl Drive {
    /// What a metric says now.
    pub(super) fn measured(&mut self, namespace: &str, spec: &AnalysisRunSpec, status: &AnalysisRunStatus, metric: &Metric) -> Measured {
        if let Some(audience) = &mut self.audience {
            return audience.clients.measured(spec, status, metric, self.now);
        }
        let nothing = Measured { queries: vec![], result: Ok(None), since: None, reading: None, look: None };
        if self.answers == Answers::Partial {
            let warning = ErrorKind::Partial.error("the answer is not complete, Prometheus warns: a store is gone");
            return Measured { result: Err(warning), ..nothing };
        }
        if metric.compare.is_some() {
            let previous = analysis::result(status, metric).and_then(|result| result.last_reading.as_ref()).map(|reading| reading.at.0);
            let reading = Some(Reading { at: MicroTime(self.now), counters: Default::default(), stable: Default::default() });
            return match self.counted(namespace, spec, previous) {
                Ok(look) => Measured { since: previous, reading, look: Some(look), ..nothing },
                Err(error) => Measured { result: Err(error), ..nothing },
            };
        }
        let value = match self.failing(namespace, &spec.canary_hash) {
            share if share >= 1.0 => Sample::of(0.0),
            _ if self.answers == Answers::Empty => Sample::default(),
            _ => Sample::of(100.0),
        };
        Measured { result: Ok(Some(value)), ..nothing }
    }

    fn counted(&self, namespace: &str, spec: &AnalysisRunSpec, since: Option<Timestamp>) -> Result<Look, ProviderError> {
        let rollout = self.api.get("rollouts.sluice.dev", namespace, &spec.rollout);
        let weight = rollout.and_then(|rollout| rollout["status"]["weights"]["canary"].as_f64()).unwrap_or(0.0);
        let requests = since.map_or(0.0, |since| REQUESTS_PER_SECOND * self.now.duration_since(since).as_secs_f64());
        let arm = |share: f64, hash: &str| {
            let requests = (requests * share / 100.0).round();
            let failures = (requests * self.failing(namespace, hash)).round();
            let known = since.is_some() && self.answers == Answers::Whole;
            known.then_some(Counted::Requests(Arm { requests: requests as u64, failures: failures as u64 }))
        };
        let stable = spec.stable_hash.as_deref().ok_or_else(|| ErrorKind::Invalid.error("there is no stable revision to compare with"))?;
        Ok(Look { since, until: self.now, canary: arm(weight, &spec.canary_hash), stable: arm(100.0 - weight, stable), caveat: None })
    }

    /// The share of its answers that a revision fails, 0 to 1.
    fn failing(&self, namespace: &str, hash: &str) -> f64 {
        let mut sets = self.api.list("replicasets.apps").filter(|rs| rs["metadata"]["namespace"] == namespace);
        let set = sets.find(|rs| rs["metadata"]["labels"]["pod-template-hash"] == hash);
        let image = set.and_then(|rs| rs["spec"]["template"]["spec"]["containers"][0]["image"].as_str()).unwrap_or_default();
        if self.bad.contains(image) { 1.0 } else { self.failing.get(image).copied().unwrap_or(0.0) }
    }
}
