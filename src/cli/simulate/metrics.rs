//! What answers each metric of the Rollout. One that cannot be answered offline is told; nothing is made up.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Serialize;

use super::world::{NAMESPACE, World};
use crate::{
    api::{Metric, rollout::StepAnalysis},
    cli::error::Error,
    core::analysis::{self, DEFAULT_INTERVAL},
    sim::clients::asked::{Asked, Counted, Read, asked},
};

/// A metric, and what it is answered with.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub metric: String,
    /// Index of the step; absent for the background analysis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
    /// In words.
    pub answers: String,
}

/// All metrics, for the clients and for people.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub asked: BTreeMap<(Option<i32>, String), Asked>,
    pub answers: Vec<Answer>,
    pub longest: SignedDuration,
}

/// `assumed`: what metrics answer because somebody says so, by name.
pub fn metrics(world: &World, assumed: &BTreeMap<String, f64>) -> Result<Metrics, Error> {
    let observed = world.drive.observed(NAMESPACE, &world.name);
    let templates = observed.map(|observed| observed.analysis_templates).unwrap_or_default();
    let traffic = world.rollout.spec.traffic.is_some();
    let (mut found, mut unknown, mut used) = (Metrics::default(), Vec::new(), Vec::new());
    for (step, analysis) in analyses(world) {
        let resolved = analysis::resolve(analysis, &templates, traffic).map_err(Error::Pointless)?;
        for metric in &resolved.metrics {
            used.push(metric.name.clone());
            let asked = match assumed.get(&metric.name) {
                Some(value) if metric.compare.is_none() => Ok(Asked::Assumed(*value)),
                _ => asked(metric, &resolved.args, traffic),
            };
            let asked = match asked {
                Err(_) if metric.dry_run => Asked::Nothing,
                Err(why) => {
                    unknown.push((metric.name.clone(), why));
                    continue;
                }
                Ok(asked) => asked,
            };
            found.longest = found.longest.max(looks_back(metric, &asked));
            found.answers.push(Answer { metric: metric.name.clone(), step, answers: words(metric, &asked) });
            found.asked.insert((step, metric.name.clone()), asked);
        }
    }
    if let Some(name) = assumed.keys().find(|name| !used.contains(name)) {
        let known = if used.is_empty() { "it has no metrics".to_owned() } else { format!("it has {}", used.join(", ")) };
        return Err(Error::Pointless(format!("--assume {name}: Rollout {} has no such metric: {known}", world.name)));
    }
    if unknown.is_empty() { Ok(found) } else { Err(cannot_be_answered(&unknown)) }
}

fn cannot_be_answered(unknown: &[(String, String)]) -> Error {
    let mut text = String::from("these metrics cannot be simulated:");
    for (name, why) in unknown {
        text += &format!("\n  {name}: {why}");
    }
    let (name, _) = &unknown[0];
    text += &format!(
        "\nSay what they answer with --assume {name}=NUMBER, use a preset, or write the query as a quotient of two sum(increase(...))."
    );
    Error::Pointless(text)
}

/// The analyses by the index of their step.
fn analyses(world: &World) -> Vec<(Option<i32>, &StepAnalysis)> {
    let Some(canary) = &world.rollout.spec.strategy.canary else { return vec![] };
    let background = canary.analysis.iter().map(|background| (None, &background.analysis));
    let steps = (0..).zip(&canary.steps).filter_map(|(index, step)| Some((Some(index), step.analysis.as_ref()?)));
    background.chain(steps).collect()
}

fn looks_back(metric: &Metric, asked: &Asked) -> SignedDuration {
    let interval = metric.interval.as_ref().map_or(DEFAULT_INTERVAL, |interval| interval.get());
    let window = match asked {
        Asked::Share { read: Read::Window { counted: Counted::Query(counter), .. }, .. }
        | Asked::Quantile { read: Read::Window { counted: Counted::Query(counter), .. }, .. } => counter.window,
        _ => SignedDuration::ZERO,
    };
    window.max(interval * 2)
}

fn words(metric: &Metric, asked: &Asked) -> String {
    let dry = if metric.dry_run { " (dry run)" } else { "" };
    let words = match asked {
        Asked::Share { .. } if metric.compare.is_some() => "requests that fail, of the canary and of stable".to_owned(),
        Asked::Share { successes, times, .. } => {
            let unit = if *times == 100.0 { " in percent" } else { "" };
            format!("the share of requests that {}{unit}", if *successes { "succeed" } else { "fail" })
        }
        Asked::Quantile { .. } if metric.compare.is_some() => "requests that are slow, of the canary and of stable".to_owned(),
        Asked::Quantile { quantile, .. } => format!("the latency that {} % of the requests stay below", quantile * 100.0),
        Asked::Assumed(value) => format!("always {value} (--assume)"),
        Asked::Nothing => "nothing: it cannot be simulated, and decides nothing".to_owned(),
    };
    words + dry
}
