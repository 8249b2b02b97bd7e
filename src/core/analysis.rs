//! The life of an AnalysisRun. (The signatures that the Rollout's side of the core uses; the analysis itself follows.)

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::api::{AnalysisRunSpec, AnalysisRunStatus, AnalysisTemplateSpec, Metric, rollout::StepAnalysis};

/// What the installation brings.
#[derive(Debug, Default)]
pub struct Defaults {
    pub prometheus_address: bool,
}

/// The metrics and arguments of an analysis, from its templates and what is written inline.
pub fn resolve(
    analysis: &StepAnalysis,
    _templates: &BTreeMap<String, AnalysisTemplateSpec>,
) -> Result<(Vec<Metric>, BTreeMap<String, String>), String> {
    Ok((analysis.metrics.clone(), BTreeMap::new()))
}

/// Fields (below the metric) that are wrong, and how to mend them.
pub fn validate_metric(_: &Metric, _: &Defaults) -> Result<(), Vec<(String, String)>> {
    Ok(())
}

/// Every metric was measured with a window that lies after `since`, and its newest measurement let the rollout go on.
pub fn evidence_since(_: &AnalysisRunSpec, _: &AnalysisRunStatus, _since: Timestamp) -> Result<(), String> {
    Err("no measurement yet".to_owned())
}

/// The newest measurement of every metric let the rollout go on, and none is overdue.
pub fn closed(_: &AnalysisRunSpec, _: &AnalysisRunStatus, _now: Timestamp) -> Result<(), String> {
    Err("no measurement yet".to_owned())
}
