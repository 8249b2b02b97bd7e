//! Whose Secrets a metric may use.

use crate::{
    api::{AnalysisRunSpec, AnalysisTemplateSpec, Metric, access::Access},
    core::spec::Invalid,
};

/// A namespace whose Secrets are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretsOf {
    /// That of the AnalysisRun.
    Run,
    /// That in which Sluice runs.
    Installation,
}

/// The metric as it is to be asked, and whose Secrets it may use for that. `template`: a ClusterAnalysisTemplate as it is now.
///
/// Whoever may write an AnalysisRun in some namespace may write anything into it, also that its metrics are those of a
/// ClusterAnalysisTemplate. So what the run says decides nothing here but which template and which of its metrics are meant. Where a
/// Secret of the installation is used, everything that decides whom it is sent to, and what is asked with it, is taken from the template
/// itself, which only the platform's people may write: the provider with its address, headers and certificates, the preset with its
/// parameters, the queries. What is left to the run are the values of arguments (queries hold them where they cannot change what is
/// meant, an address that is asked with credentials holds none: see `Source`), and how the number is judged.
pub fn origin(
    spec: &AnalysisRunSpec,
    metric: &Metric,
    template: impl FnOnce(&str) -> Option<Result<AnalysisTemplateSpec, Invalid>>,
) -> Result<(Metric, SecretsOf), String> {
    let name = spec.cluster_templates.get(&metric.name).filter(|_| access(metric).is_some_and(Access::has_secrets));
    let Some(name) = name else { return Ok((metric.clone(), SecretsOf::Run)) };
    let template = template(name).ok_or_else(|| format!("there is no ClusterAnalysisTemplate {name:?} whose Secrets could be used"))?;
    let template = template.map_err(|why| format!("ClusterAnalysisTemplate {name:?}: {why}"))?;
    let theirs = template.metrics.into_iter().find(|theirs| theirs.name == metric.name);
    let theirs = theirs.ok_or_else(|| format!("ClusterAnalysisTemplate {name:?} has no metric {:?}", metric.name))?;
    let Metric { preset, parameters, prometheus, scrape, .. } = theirs;
    Ok((Metric { preset, parameters, prometheus, scrape, ..metric.clone() }, SecretsOf::Installation))
}

fn access(metric: &Metric) -> Option<&Access> {
    let prometheus = metric.prometheus.as_ref().map(|prometheus| &prometheus.access);
    prometheus.or(metric.scrape.as_ref().map(|scrape| &scrape.access))
}
