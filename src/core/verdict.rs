//! The Rollout's side of analysis: which runs there must be, and what they let it do.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    analysis,
    draft::{Draft, Flow, Waiting, wait},
    observed::{Observed, RunView, Templates},
    patch::{self, Guarded, Kind},
    presets,
    spec::{Invalid, StepKind, invalid},
};
use crate::api::{
    Metric, RolloutStatus, RunPhase, keys,
    rollout::{RouteKind, StepAnalysis},
    status::AnalysisSummary,
};

/// Runs that are kept of each revision, beside those of the running rollout.
const KEPT_RUNS: usize = 10;

impl Draft<'_> {
    /// Deterministic, so that a run is made once: revision, start of the rollout, step, attempt.
    fn run_name(&self, step: Option<usize>) -> Option<String> {
        let canary = self.status.canary.as_ref()?;
        let step = step.map(|step| format!("-{step}")).unwrap_or_default();
        let name = &self.obs.rollout.meta.name;
        Some(format!("{name}-{}-{:x}{step}-{}", canary.revision, canary.started_at.0.as_second(), canary.analysis_attempt + 1))
    }

    fn run(&self, step: Option<usize>) -> Option<&RunView> {
        let name = self.run_name(step)?;
        self.obs.runs.iter().find(|run| run.meta.name == name)
    }

    /// The run of the background analysis.
    pub fn background(&self) -> Option<&RunView> {
        self.run(None)
    }

    /// Runs that belong to the running rollout, as of its last attempt.
    pub fn current_runs(&self) -> Vec<&RunView> {
        let steps = (0..self.spec.steps.len()).map(Some).chain([None]);
        steps.filter_map(|step| self.run(step)).collect()
    }

    fn ensure_run(&mut self, step: Option<usize>, analysis: &StepAnalysis) -> Flow<&RunView> {
        let (Some(name), Some(canary)) = (self.run_name(step), self.status.canary.clone()) else {
            return wait(Waiting::Analysis, "no rollout is running");
        };
        if self.run(step).is_none() {
            let resolved = analysis::resolve(analysis, &self.obs.analysis_templates, self.spec.has_traffic);
            let resolved = resolved.and_then(|resolved| {
                let compares = resolved.metrics.iter().any(analysis::shares_risk);
                Ok((compares.then(|| self.comparisons()).transpose()?, resolved))
            });
            let (comparisons, analysis::Resolved { metrics, args, cluster_templates }) = match resolved {
                Ok(resolved) => resolved,
                Err(why) => return wait(Waiting::Progress, format!("the analysis cannot start: {why}")),
            };
            let rollout = &self.obs.rollout;
            let mut spec = json!({
                "rollout": rollout.meta.name, "canaryHash": canary.revision, "args": args, "metrics": metrics,
                "clusterTemplates": cluster_templates,
            });
            if self.spec.has_traffic {
                spec["service"] = json!(self.spec.traffic.service);
                spec["canaryService"] = json!(self.canary_service);
            }
            if let Some(stable) = &self.status.stable_revision {
                spec["stableHash"] = json!(stable);
            }
            if let Some(step) = step {
                spec["step"] = json!(step);
            }
            if let Some(comparisons) = comparisons {
                spec["comparisons"] = json!(comparisons);
            }
            if step.is_none() {
                spec["prove"] = json!(self.spec.proofs());
            }
            let body = json!({
                "apiVersion": "sluice.dev/v1alpha1", "kind": "AnalysisRun",
                "metadata": {
                    "name": name, "namespace": rollout.namespace,
                    "labels": {keys::ROLLOUT: rollout.meta.name, keys::POD_TEMPLATE_HASH: canary.revision},
                    "ownerReferences": [{"apiVersion": "sluice.dev/v1alpha1", "kind": "Rollout", "name": rollout.meta.name, "uid": rollout.meta.uid}],
                },
                "spec": spec,
            });
            self.act(patch::create(Kind::AnalysisRun, body, format!("start AnalysisRun {name}")));
        }
        match self.run(step) {
            Some(run) => Ok(run),
            None => wait(Waiting::Analysis, "the analysis starts"),
        }
    }

    /// Comparisons of all analyses of the Rollout: they share the accepted risk of a false abort.
    fn comparisons(&self) -> Result<usize, String> {
        let of_steps = self.spec.steps.iter().filter_map(|step| match step {
            StepKind::Analysis(analysis) => Some(analysis),
            _ => None,
        });
        let mut comparisons = 0;
        for analysis in of_steps.chain(&self.spec.analysis) {
            let resolved = analysis::resolve(analysis, &self.obs.analysis_templates, self.spec.has_traffic)?;
            comparisons += resolved.metrics.iter().filter(|metric| analysis::shares_risk(metric)).count();
        }
        Ok(comparisons)
    }

    /// The background analysis runs from its starting step on, once the canary gets traffic.
    pub fn ensure_background(&mut self, index: usize) -> Flow {
        let Some(spec) = self.spec.analysis.clone() else { return Ok(()) };
        let weighted = self.status.canary.as_ref().is_some_and(|c| c.weight_observed_at.is_some());
        if index < self.spec.analysis_from || !weighted || self.promote_full() {
            return Ok(());
        }
        self.ensure_run(None, &spec).map(|_| ())
    }

    /// A step's own analysis has passed.
    pub fn ensure_analysed(&mut self, index: usize, spec: &StepAnalysis) -> Flow {
        let run = self.ensure_run(Some(index), spec)?;
        match run.status.phase {
            RunPhase::Passed => Ok(()),
            // An inconclusive run never ends by itself: what is waited for is the person, as the hold says.
            RunPhase::Running | RunPhase::Failed | RunPhase::Inconclusive | RunPhase::Cancelled => {
                let why = waits_for(run);
                self.ensure_not_held()?;
                wait(Waiting::Analysis, why)
            }
        }
    }

    /// Evidence from the present weight: every metric of the background analysis was measured, with a window that lies in it,
    /// and passed. Before a canary gets more traffic.
    pub fn ensure_evidence(&mut self, index: usize) -> Flow {
        if self.promote_full() || self.spec.analysis.is_none() {
            return Ok(());
        }
        if index > self.spec.analysis_from {
            self.ensure_background(index)?; // one that measures anew, as somebody has said, does so before there is more traffic
        }
        let since = self.status.canary.as_ref().and_then(|c| c.weight_observed_at.as_ref());
        match (self.run(None), since) {
            (Some(run), Some(since)) => match analysis::evidence_since(&run.spec, &run.status, since.0) {
                Ok(()) => Ok(()),
                Err(why) => wait(Waiting::Analysis, format!("waits for evidence at the present weight: {why}")),
            },
            (Some(_), None) => wait(Waiting::Analysis, "waits for evidence at the present weight: it is not observed yet"),
            (None, _) => Ok(()), // it starts at a later step
        }
    }

    /// The newest measurement of every metric passed. Before the promotion.
    pub fn ensure_closed(&self) -> Flow {
        if self.promote_full() || self.spec.analysis.is_none() {
            return Ok(());
        }
        match self.run(None) {
            None => wait(Waiting::Analysis, "waits for the background analysis to start"),
            Some(run) => match analysis::closed(&run.spec, &run.status, self.now) {
                Ok(()) => Ok(()),
                Err(why) => wait(Waiting::Analysis, format!("waits for the analysis: {why}")),
            },
        }
    }

    /// Why the analysis takes the canary back, if it does.
    pub fn analysis_failure(&self) -> Option<String> {
        let failed = |run: &&RunView| run.status.phase == RunPhase::Failed;
        if self.promote_full() {
            return None;
        }
        self.current_runs().into_iter().find(failed).map(|run| run.status.message.clone())
    }

    /// Why a person must look, if one must.
    pub fn analysis_inconclusive(&self) -> Option<String> {
        if self.promote_full() {
            return None;
        }
        let inconclusive = self.current_runs().into_iter().find(|run| run.status.phase == RunPhase::Inconclusive);
        let cancelled = || {
            let runs = [self.run(None), self.run(Some(self.index()))];
            runs.into_iter().flatten().find(|run| run.status.phase == RunPhase::Cancelled)
        };
        let in_words = |run: &RunView| format!("somebody has cancelled AnalysisRun {}, so there is no verdict", run.meta.name);
        inconclusive.map(|run| run.status.message.clone()).or_else(|| cancelled().map(in_words))
    }

    pub fn promote_full(&self) -> bool {
        self.status.canary.as_ref().is_some_and(|c| c.promote_full)
    }

    /// Ends runs that nobody waits for any more.
    pub fn end_runs(&mut self, all: bool) {
        let current: Vec<String> = match all {
            true => vec![],
            false => self.current_runs().iter().map(|run| run.meta.name.clone()).collect(),
        };
        for run in our_runs(self.obs).filter(|run| !run.status.phase.is_final() && !run.spec.terminate && !current.contains(&run.meta.name))
        {
            let patch = Guarded::new(Kind::AnalysisRun, &run.meta).add("/spec/terminate", true);
            self.act(patch.kept_fenced(format!("end AnalysisRun {}", run.meta.name)));
        }
    }

    /// Removes runs that nobody looks for any more: kept are those of the running rollout, and the newest of each revision in the
    /// history. It is housekeeping, so it waits for a moment in which there is nothing else to write: what refuses it refuses nothing else.
    pub fn remove_old_runs(&mut self) {
        if !self.actions.is_empty() || self.status != self.obs.rollout.status {
            return;
        }
        let current: BTreeSet<String> = self.current_runs().into_iter().map(|run| run.meta.name.clone()).collect();
        let RolloutStatus { history, canary_revision, stable_revision, .. } = &self.obs.rollout.status;
        let remembered: BTreeSet<&String> =
            history.iter().map(|entry| &entry.revision).chain(canary_revision).chain(stable_revision).collect();
        let has_ended = |run: &&RunView| run.status.phase.is_final() && !run.meta.deleting && !current.contains(&run.meta.name);
        let mut ended: Vec<&RunView> = our_runs(self.obs).filter(has_ended).collect();
        ended.sort_by_key(|run| std::cmp::Reverse((run.status.started_at.as_ref().map(|at| at.0), &run.meta.name)));
        let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
        for run in ended {
            let of_revision = kept.entry(&run.spec.canary_hash).or_default();
            if *of_revision < KEPT_RUNS && remembered.contains(&run.spec.canary_hash) {
                *of_revision += 1;
            } else {
                self.act(patch::delete(Kind::AnalysisRun, &run.meta, format!("remove AnalysisRun {}: it is old", run.meta.name)));
            }
        }
    }

    /// The runs for status.
    pub fn summarise_runs(&mut self) {
        let summary = |run: &RunView| AnalysisSummary {
            name: run.meta.name.clone(),
            step: run.spec.step,
            phase: run.status.phase,
            message: run.status.message.clone(),
        };
        self.status.analysis = self.current_runs().into_iter().map(summary).collect();
    }
}

/// The runs that Sluice has made for this Rollout. One that a person has made is the person's to end and to remove.
fn our_runs(obs: &Observed) -> impl Iterator<Item = &RunView> {
    obs.runs.iter().filter(|run| run.meta.labels.get(keys::ROLLOUT) == Some(&obs.rollout.meta.name))
}

fn waits_for(run: &RunView) -> String {
    match run.status.message.is_empty() {
        true => format!("waits for AnalysisRun {}", run.meta.name),
        false => format!("waits for AnalysisRun {}: {}", run.meta.name, run.status.message),
    }
}

/// The metrics of a spec, as far as they can be checked.
pub fn check(spec: &super::spec::Spec, templates: &Templates, defaults: &analysis::Defaults) -> Result<(), Invalid> {
    spec.check_proofs(templates)?;
    let inline = spec.steps.iter().enumerate().filter_map(|(i, step)| match step {
        StepKind::Analysis(analysis) => Some((format!("spec.strategy.canary.steps[{i}].analysis"), analysis)),
        _ => None,
    });
    let background = spec.analysis.iter().map(|a| ("spec.strategy.canary.analysis".to_owned(), a));
    for (field, analysis) in inline.chain(background) {
        let args = analysis::inline_args(analysis);
        for (i, metric) in analysis.metrics.iter().enumerate() {
            if let Err(mut problems) = analysis::validate_metric(metric, defaults, args.as_ref()) {
                let (part, mend) = problems.swap_remove(0);
                return Err(invalid(format!("{field}.metrics[{i}].{part}"), mend));
            }
            if let Some(mend) = counts_failed_calls_as_answered(spec, metric) {
                return Err(invalid(format!("{field}.metrics[{i}].preset"), mend));
            }
        }
        // What else may be wrong with a template is said when it is used: it may be edited until then, and by others.
        for (i, template) in analysis.templates.iter().enumerate() {
            for metric in templates.get(template).into_iter().flatten().flat_map(|known| &known.metrics) {
                let faults = analysis::validate_metric(metric, defaults, None).err().unwrap_or_default();
                let address = faults.into_iter().find(|(part, _)| part == "prometheus.address").map(|(_, mend)| mend);
                if let Some(mend) = address.or_else(|| counts_failed_calls_as_answered(spec, metric)) {
                    return Err(invalid(format!("{field}.templates[{i}]"), format!("metric {} of {template}: {mend}", metric.name)));
                }
            }
        }
    }
    Ok(())
}

/// A gateway or a mesh that counts codes of HTTP has seen every call of gRPC succeed: what became of it is in the trailers.
fn counts_failed_calls_as_answered(spec: &super::spec::Spec, metric: &Metric) -> Option<String> {
    let preset = metric.preset.filter(|preset| presets::by_service(*preset) && !preset.is_latency())?;
    let route = spec.traffic.routes.iter().find(|route| route.kind == RouteKind::GrpcRoute)?;
    Some(format!(
        "{} counts codes of HTTP, which are 200 for calls of gRPC that fail, too, as those of {} {} may: judge by what the pods count, such as {{preset: pods/success-rate, parameters: {{counter: grpc_server_handled_total, codeLabel: grpc_code, failure: \"Unknown|Internal|Unavailable\"}}}}",
        presets::name(preset),
        route.kind,
        route.name
    ))
}
