//! Analysis runs: measured when a metric is due, judged by the core, and written down with the numbers.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::{Controller, Next};
use crate::{
    act::ActError,
    api::{AnalysisRunStatus, AnalysisTemplateSpec, keys},
    core::{
        analysis::{self, SecretsOf},
        observed::RunView,
        patch::Kind,
        spec::Invalid,
    },
    metrics::{self, PodTarget, SecretData, Sources},
    world::World,
};

impl Controller {
    pub(super) async fn look_at_run(&self, namespace: &str, name: &str) -> Result<Next, ActError> {
        let Some(run) = self.world.read(|index| index.run(namespace, name).cloned()) else { return Ok(None) };
        let now = (self.clock)();
        let sources = Known { client: self.client.clone(), world: self.world.clone(), namespace, installed_in: &self.installed_in };
        let measured = match analysis::unreadable(&run, now) {
            None => metrics::measure_due(self.measure.as_ref(), namespace, &run.spec, &run.status, &sources, now).await,
            ended => ended,
        };
        let status = match measured {
            None => run.status.clone(),
            Some(status) => {
                let value = serde_json::to_value(&status).unwrap_or_default();
                self.timed(self.actor.write_status(namespace, Kind::AnalysisRun, &run.meta, &value)).await?;
                self.tell(namespace, &run, &status);
                status
            }
        };
        let now = (self.clock)();
        let next = analysis::next_wake(&run.spec, &status, now);
        Ok(next.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)))
    }

    /// What was measured between the status of a run and this one.
    fn tell(&self, namespace: &str, run: &RunView, status: &AnalysisRunStatus) {
        self.world.read(|index| {
            let rollout = index.rollout(namespace, &run.spec.rollout).map(|rollout| (rollout.meta.uid.as_str(), &rollout.status));
            for result in &status.metric_results {
                let before = run.status.metric_results.iter().find(|before| before.name == result.name);
                let newest = result.measurements.last();
                let Some(newest) = newest.filter(|n| before.and_then(|b| b.measurements.last()) != Some(*n)) else { continue };
                let (name, metric, message) = (&run.meta.name, &result.name, &newest.message);
                tracing::info!(namespace, run = name, metric, verdict = ?newest.verdict, message, "measured");
                self.telemetry.measured(rollout, run, metric, newest);
            }
        });
    }
}

/// What measuring needs of Kubernetes.
struct Known<'a> {
    client: Client,
    world: World,
    namespace: &'a str,
    /// Where Sluice runs; empty: not known.
    installed_in: &'a str,
}

#[async_trait]
impl Sources for Known<'_> {
    async fn pods(&self, revision: &str) -> Result<Vec<PodTarget>, String> {
        let target = |pod: &crate::world::project::PodEntry| {
            Some(PodTarget {
                name: pod.view.name.clone(),
                ip: pod.address.as_ref()?.parse::<IpAddr>().ok()?,
                port: pod.scrape.get("prometheus.io/port").and_then(|port| port.parse().ok()),
                path: pod.scrape.get("prometheus.io/path").cloned(),
            })
        };
        Ok(self.world.read(|index| index.pods_of(self.namespace, revision).into_iter().filter_map(target).collect()))
    }

    async fn secret(&self, of: SecretsOf, name: &str) -> Result<SecretData, String> {
        let namespace = match of {
            SecretsOf::Run => self.namespace,
            SecretsOf::Installation if self.installed_in.is_empty() => {
                return Err("it is not known in which namespace Sluice runs: run it with --namespace".to_owned());
            }
            SecretsOf::Installation => self.installed_in,
        };
        let place = if namespace == self.namespace { String::new() } else { format!(" in namespace {namespace}") };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let read = tokio::time::timeout(Duration::from_secs(10), api.get_opt(name)).await;
        let found = read.map_err(|_| format!("Secret {name}{place} could not be read in time"))?.map_err(|error| match error {
            kube::Error::Api(status) if status.code == 403 => {
                format!("Secret {name} may not be read: let analysis.secrets.namespaces of Sluice's chart name {namespace}")
            }
            error => format!("Secret {name}{place} could not be read: {error}"),
        })?;
        let found = found.ok_or_else(|| format!("Secret {name}{place} does not exist"))?;
        let labels = found.metadata.labels.unwrap_or_default();
        if labels.get(keys::ANALYSIS_SECRET).map(String::as_str) != Some("true") {
            return Err(format!("Secret {name}{place} may not be used: label it {}=true", keys::ANALYSIS_SECRET));
        }
        Ok(SecretData(found.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()))
    }

    fn cluster_template(&self, name: &str) -> Option<Result<AnalysisTemplateSpec, Invalid>> {
        self.world.read(|index| index.cluster_template(name).cloned())
    }
}
