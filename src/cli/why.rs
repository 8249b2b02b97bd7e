//! `why`: in words, what a Rollout waits for, or why it was taken back.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use super::{
    error::{Error, Exit},
    load,
    output::{Format, Out},
    printer::{Style, Tone, columns, since},
    session::Session,
    view::{Role, View},
    words,
};
use crate::api::{
    AnalysisRun, Metric, Outcome, Phase, RolloutAction, RunPhase, Verdict, conditions,
    run::{Measurement, MetricResult},
    status::Rejected,
};

/// So many actions are shown, the newest first.
const ACTIONS_SHOWN: usize = 5;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

/// The explanation, in parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub rollout: String,
    pub namespace: String,
    pub phase: Option<Phase>,
    pub headline: Vec<String>,
    pub sections: Vec<Section>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    pub title: &'static str,
    pub lines: Vec<String>,
}

pub async fn run(session: &Session, args: &Args, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    let (mut view, actions) = futures::future::try_join(load::view(session, &args.name), load::actions(session, &args.name)).await?;
    view.actions = actions;
    match args.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            let plain = Style { colour: false, ..out.style.clone() };
            out.object(format, &explain(&view, now, &plain))?;
        }
        _ => write!(out.out, "{}", why(&view, now, &out.style))?,
    }
    Ok(Exit::Ok)
}

pub fn explain(view: &View, now: Timestamp, style: &Style) -> Explanation {
    let sections = [
        ("Held", held(view, now, style)),
        ("Verdict", verdicts(view, now, style)),
        ("Pods that are not ready", pods(view, now, style)),
        ("Conditions that are not as they should be", troubles(view, now, style)),
        ("Last actions", actions(view, now, style)),
        ("What can be done", words::next(&view.rollout).into_iter().collect()),
    ];
    let sections = sections.into_iter().filter(|(_, lines)| !lines.is_empty());
    Explanation {
        rollout: view.rollout.name_any(),
        namespace: view.rollout.namespace().unwrap_or_default(),
        phase: view.status().phase,
        headline: headline(view, now, style),
        sections: sections.map(|(title, lines)| Section { title, lines }).collect(),
    }
}

/// The whole text, with a line feed at its end.
pub fn why(view: &View, now: Timestamp, style: &Style) -> String {
    let explanation = explain(view, now, style);
    let mut text = explanation.headline.join("\n") + "\n";
    for Section { title, lines } in explanation.sections {
        text += &format!("\n{}\n", style.paint(Tone::Strong, title));
        lines.iter().for_each(|line| text += &format!("  {line}\n"));
    }
    text
}

fn headline(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let (status, tone) = (view.status(), view.tone());
    let phase = status.phase.map_or("without a status".into(), |phase| phase.to_string());
    let name = style.paint(Tone::Strong, view.rollout.name_any());
    let mut line = format!("{name} is {}", style.paint(tone, phase));
    if let Some(rejected) = taken_back(view) {
        let at = rejected.at.0;
        let images = view.images().get(&rejected.revision).map(|images| format!(" ({})", images.join(", "))).unwrap_or_default();
        line += &format!(": revision {}{images} was taken back at {}, {} ago.", rejected.revision, style.moment(at, now), since(at, now));
        return vec![line, format!("The reason: {}", rejected.reason)];
    }
    if let Some(label) = words::step_label(&view.rollout).filter(|_| status.current_step.is_some()) {
        let index = status.current_step.as_ref().and_then(|step| usize::try_from(step.index).ok());
        let step = index.and_then(|index| view.steps().get(index)).map(|step| format!(" ({})", words::step(step)));
        line += &format!(" at step {label}{}", step.unwrap_or_default());
    }
    let waits = words::waits_for_now(view, now);
    let ended = matches!(status.phase, Some(Phase::Healthy | Phase::Degraded)) && !view.is_behind();
    vec![line + ".", if ended { waits } else { format!("Now: {waits}") }]
}

/// The present version, where it is a rejected one.
fn taken_back(view: &View) -> Option<Rejected> {
    let status = view.status();
    let present = status.canary_revision?;
    status.rejected.into_iter().find(|rejected| rejected.revision == present)
}

fn held(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let hold = view.status().hold;
    let held = hold.map(|hold| format!("since {} ({}): {}", style.moment(hold.since.0, now), since(hold.since.0, now), hold.message));
    held.into_iter().chain(view.rollout.spec.paused.then(|| "spec.paused is true".to_owned())).collect()
}

/// The measurements that decided, or that keep a run from deciding.
fn verdicts(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let named = view.current_runs();
    let of_present = |run: &&AnalysisRun| Some(&run.spec.canary_hash) == view.status().canary_revision.as_ref();
    let runs = if named.is_empty() { view.runs.iter().filter(of_present).collect() } else { named };
    let mut lines = Vec::new();
    for run in runs {
        let status = run.status.clone().unwrap_or_default();
        for result in &status.metric_results {
            // A dry run decides nothing.
            let metric = run.spec.metrics.iter().find(|metric| metric.name == result.name && !metric.dry_run);
            let decisive = result.measurements.iter().rev().find(|measurement| measurement.verdict != Verdict::Pass);
            let open = matches!(result.phase, RunPhase::Failed | RunPhase::Inconclusive)
                || (status.phase == RunPhase::Running && result.measurements.last().is_some_and(|last| last.verdict != Verdict::Pass));
            if let (Some(metric), Some(measurement), true) = (metric, decisive, open) {
                lines.extend(verdict(run, metric, result, measurement, now, style));
            }
        }
    }
    lines
}

fn verdict(
    run: &AnalysisRun,
    metric: &Metric,
    result: &MetricResult,
    decisive: &Measurement,
    now: Timestamp,
    style: &Style,
) -> Vec<String> {
    let place = run.spec.step.map_or("in the background".into(), |step| format!("as step {}", step + 1));
    let at = decisive.at.0;
    let word = style.paint(super::render::verdict_tone(decisive.verdict), format!("{:?}", decisive.verdict));
    let head = format!("{} ({} {place}): {word} at {}, {} ago", metric.name, run.name_any(), style.moment(at, now), since(at, now));
    let value = decisive.value.clone().unwrap_or_else(|| "none".into());
    let mut rows = vec![
        vec!["value".into(), value],
        vec!["window".into(), format!("{} to {}", style.moment(decisive.since.0, now), style.moment(at, now))],
        vec!["expected".into(), decisive.limit.clone()],
        vec!["verdict".into(), decisive.message.clone()],
        vec!["counts".into(), super::render::counts(metric, result)],
    ];
    rows.extend(queries(result, decisive).iter().map(|query| vec!["query".to_owned(), query.clone()]));
    std::iter::once(head).chain(columns(&rows).into_iter().map(|row| format!("  {row}"))).collect()
}

/// The queries of a measurement: they stand on the newest one that sent them.
fn queries<'a>(result: &'a MetricResult, decisive: &'a Measurement) -> &'a [String] {
    let later = result.measurements.iter().filter(|measurement| measurement.at >= decisive.at);
    later.map(|measurement| measurement.queries.as_slice()).find(|queries| !queries.is_empty()).unwrap_or_default()
}

fn pods(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let mut rows = Vec::new();
    for revision in view.revisions().into_iter().filter(|revision| revision.role != Role::Old) {
        for pod in revision.pods.into_iter().filter(|pod| !pod.ready) {
            let age = pod.created.map(|at| since(at, now)).unwrap_or_default();
            rows.push(vec![style.mark(Tone::Bad), pod.name, revision.role.word().into(), pod.state, age, pod.trouble.unwrap_or_default()]);
        }
    }
    columns(&rows)
}

/// Conditions that are not as they are at rest. Ready and Reconciling say no more than the phase.
fn troubles(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let status = view.status();
    let as_it_should_be = |condition: &&Condition| match condition.type_.as_str() {
        conditions::READY | conditions::RECONCILING | conditions::PROGRESSING => true,
        conditions::AVAILABLE | conditions::TRAFFIC_ACCEPTED => condition.status == "True",
        _ => condition.status == "False",
    };
    let line = |condition: &Condition| {
        let at = condition.last_transition_time.0;
        let message = Some(&condition.message).filter(|message| !message.is_empty() && **message != status.message);
        let message = message.map(|message| format!(": {message}")).unwrap_or_default();
        format!("{} is {} ({}) since {}{message}", condition.type_, condition.status, condition.reason, style.moment(at, now))
    };
    status.conditions.iter().filter(|condition| !as_it_should_be(condition)).map(line).collect()
}

fn actions(view: &View, now: Timestamp, style: &Style) -> Vec<String> {
    let line = |action: &RolloutAction| {
        let (spec, status) = (&action.spec, action.status.clone().unwrap_or_default());
        let at = action.creation_timestamp().map(|time| style.moment(time.0, now)).unwrap_or_default();
        let (tone, outcome) = match status.outcome {
            Some(Outcome::Done) => (Tone::Good, "done"),
            Some(Outcome::Refused) => (Tone::Bad, "refused"),
            None => (Tone::Busy, "no outcome yet"),
        };
        let by = spec.requested_by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let reason = spec.reason.as_ref().map(|reason| format!(" ({reason:?})")).unwrap_or_default();
        let message = if status.message.is_empty() { String::new() } else { format!(": {}", status.message) };
        format!("{} {at} {}{by}{reason}: {outcome}{message}", style.mark(tone), words::verb(spec.verb))
    };
    view.actions.iter().take(ACTIONS_SHOWN).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn every_state_is_told_as_agreed() {
        for (name, view) in fixtures::all() {
            insta::assert_snapshot!(name, why(&view, fixtures::now(), &fixtures::plain()));
        }
    }

    #[test]
    fn the_explanation_is_an_object_too() {
        insta::assert_json_snapshot!("why_json", explain(&fixtures::paused(), fixtures::now(), &fixtures::plain()));
    }

    #[test]
    fn a_dry_run_is_no_reason() {
        let mut view = fixtures::aborted_by_analysis();
        view.runs.iter_mut().flat_map(|run| &mut run.spec.metrics).for_each(|metric| metric.dry_run = true);
        assert!(!why(&view, fixtures::now(), &fixtures::plain()).contains("sum(rate(envoy"));
    }

    #[test]
    fn an_abort_is_told_with_query_number_limit_and_time() {
        let text = why(&fixtures::aborted_by_analysis(), fixtures::now(), &fixtures::plain());
        for part in ["sum(rate(envoy", "80.1 %", "at least 99 %", "12:02:50"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
