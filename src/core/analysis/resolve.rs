//! Templates, inline metrics and arguments become the metrics and arguments of a run.

use std::collections::{BTreeMap, BTreeSet};

use super::{check, words};
use crate::{
    api::{
        AnalysisTemplateSpec, Metric,
        analysis::{TemplateKind, TemplateRef},
        rollout::StepAnalysis,
    },
    core::{observed::Templates, query::Scope, source::Surroundings},
};

/// The arguments that inline metrics may use; `None` where templates add some that are not known here.
pub fn inline_args(analysis: &StepAnalysis) -> Option<BTreeMap<String, String>> {
    let given = analysis.args.iter().map(|arg| (arg.name.clone(), arg.value.clone().unwrap_or_default()));
    analysis.templates.is_empty().then(|| given.collect())
}

/// What an analysis comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    pub metrics: Vec<Metric>,
    pub args: BTreeMap<String, String>,
    /// The metrics of ClusterAnalysisTemplates: name of the metric, name of the template.
    pub cluster_templates: BTreeMap<String, String>,
}

/// The metrics and arguments of an analysis, from its templates and what is written inline; or what is missing or wrong, in words.
/// What only the installation knows (whether it has a Prometheus server) is checked when the run starts.
pub fn resolve(analysis: &StepAnalysis, templates: &Templates, traffic: bool) -> Result<Resolved, String> {
    let used = analysis.templates.iter().map(|template| {
        let place = if template.kind == TemplateKind::AnalysisTemplate { " in this namespace" } else { "" };
        let found = templates.get(template).ok_or_else(|| format!("there is no {template}{place}"))?;
        Ok((template, found.as_ref().map_err(|why| format!("{template}: {why}"))?))
    });
    let used: Vec<_> = used.collect::<Result<_, String>>()?;
    let args = arguments(analysis, &used)?;
    let mut names = BTreeSet::new();
    let of_templates = used.iter().flat_map(|(name, template)| template.metrics.iter().map(move |metric| (format!(" of {name}"), metric)));
    let all = of_templates.chain(analysis.metrics.iter().map(|metric| (String::new(), metric)));
    let surroundings = Surroundings { prometheus: true, scope: Scope { traffic, args: Some(args.clone()) } };
    let metrics = all.map(|(place, metric)| match check(metric, &surroundings) {
        _ if !names.insert(metric.name.as_str()) => Err(format!("two metrics are called {:?}: rename one", metric.name)),
        Err(faults) => Err(format!("metric {}{place}: {}", metric.name, words(&faults))),
        Ok(_) => Ok(metric.clone()),
    });
    let metrics = metrics.collect::<Result<_, _>>()?;
    let cluster = used.iter().filter(|(template, _)| template.kind == TemplateKind::ClusterAnalysisTemplate);
    let cluster = cluster.flat_map(|(template, spec)| spec.metrics.iter().map(|metric| (metric.name.clone(), template.name.clone())));
    Ok(Resolved { metrics, args, cluster_templates: cluster.collect() })
}

fn arguments(analysis: &StepAnalysis, templates: &[(&TemplateRef, &AnalysisTemplateSpec)]) -> Result<BTreeMap<String, String>, String> {
    let mut args = BTreeMap::new();
    for arg in &analysis.args {
        let value = arg.value.clone().ok_or_else(|| format!("argument {:?} has no value: give it one", arg.name))?;
        let declared = templates.iter().any(|(_, template)| template.args.iter().any(|declared| declared.name == arg.name));
        if !declared && analysis.metrics.is_empty() {
            return Err(format!("argument {:?} is declared by none of the templates: is its name right?", arg.name));
        }
        args.insert(arg.name.clone(), value);
    }
    let given: BTreeSet<String> = args.keys().cloned().collect();
    for (template, arg) in templates.iter().flat_map(|(name, template)| template.args.iter().map(move |arg| (name, arg))) {
        if given.contains(&arg.name) {
            continue;
        }
        let value = arg.value.clone().ok_or_else(|| format!("{template} needs the argument {:?}: give it under args", arg.name))?;
        if args.insert(arg.name.clone(), value.clone()).is_some_and(|other| other != value) {
            return Err(format!("two templates have different defaults for the argument {:?}: give it under args", arg.name));
        }
    }
    Ok(args)
}
