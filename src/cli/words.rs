//! Words that several verbs share: a step, a progress line, what a person can do next.

use std::fmt::Write as _;

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    printer::{percent, plural, span},
    view::{View, is_behind},
};
use crate::api::{
    Phase, Rollout, Span,
    analysis::Metric,
    rollout::{CanaryScale, HeaderRoute, MirrorRoute, Pause, RequestMatch, Step, StepAnalysis, StringMatch},
    status::HoldReason,
};

/// Measurements are this far apart where a metric does not say.
const DEFAULT_INTERVAL: u32 = 30;

/// A step as its author wrote it.
pub fn step(step: &Step) -> String {
    match (&step.set_weight, &step.pause, &step.analysis) {
        _ if step.set_canary_scale.is_some() => step.set_canary_scale.as_ref().map(scale).unwrap_or_default(),
        _ if step.set_header_route.is_some() => step.set_header_route.as_ref().map(header_route).unwrap_or_default(),
        _ if step.set_mirror_route.is_some() => step.set_mirror_route.as_ref().map(mirror_route).unwrap_or_default(),
        (Some(weight), ..) => format!("setWeight {}", percent(*weight)),
        (_, Some(Pause { prove: Some(prove), .. }), _) => {
            format!("prove at most {} times stable's failures, within {}", prove.at_most.unwrap_or(2.0), prove.max_duration)
        }
        (_, Some(pause), _) => pause.duration.as_ref().map_or("pause until promoted".into(), |duration| format!("pause {duration}")),
        (.., Some(analysis)) => format!("analysis {}", parts(analysis).join(", ")),
        _ => "a step that this plugin does not know: is it older than the controller?".into(),
    }
}

/// How many pods a step asks for.
fn scale(scale: &CanaryScale) -> String {
    match (scale.replicas, scale.percent) {
        (Some(replicas), _) => format!("setCanaryScale {}", plural(usize::try_from(replicas).unwrap_or(0), "pod")),
        (_, Some(percent)) => format!("setCanaryScale {percent} % of the pods"),
        _ => "setCanaryScale as the weight needs".into(),
    }
}

/// Which requests go to the canary.
fn header_route(route: &HeaderRoute) -> String {
    let headers: Vec<String> = route.r#match.iter().map(|header| value(&header.header_name, &header.header_value)).collect();
    match headers.is_empty() {
        true => format!("setHeaderRoute {} ends", route.name),
        false => format!("setHeaderRoute {} {}", route.name, headers.join(" and ")),
    }
}

/// Which requests are copied to the canary.
fn mirror_route(route: &MirrorRoute) -> String {
    let percentage = route.percentage.unwrap_or(100);
    let requests: Vec<String> = route.r#match.iter().map(request).collect();
    match requests.is_empty() || percentage == 0 {
        true => format!("setMirrorRoute {} ends", route.name),
        false => format!("setMirrorRoute {} {percentage} % of {}", route.name, requests.join(" or ")),
    }
}

fn request(request: &RequestMatch) -> String {
    let method = request.method.iter().filter_map(|method| method.exact.clone());
    let path = request.path.iter().map(|path| value("path", path));
    let headers = request.headers.iter().map(|(name, wanted)| value(name, wanted));
    method.chain(path).chain(headers).collect::<Vec<_>>().join(" ")
}

fn value(name: &str, wanted: &StringMatch) -> String {
    match (&wanted.exact, &wanted.prefix, &wanted.regex) {
        (Some(exact), ..) => format!("{name}={exact}"),
        (_, Some(prefix), _) => format!("{name}={prefix}*"),
        (.., regex) => format!("{name}~{}", regex.as_deref().unwrap_or_default()),
    }
}

/// The templates and metrics of an analysis, by name.
fn parts(analysis: &StepAnalysis) -> Vec<&str> {
    let templates = analysis.templates.iter().map(|template| template.name.as_str());
    templates.chain(analysis.metrics.iter().map(|metric| metric.name.as_str())).collect()
}

/// The step that the rollout is at, for people: `2/6`, or nothing where none is running.
pub fn step_label(rollout: &Rollout) -> Option<String> {
    let status = rollout.status.as_ref()?;
    let steps = rollout.spec.strategy.canary.as_ref().map_or(0, |canary| canary.steps.len());
    let counted =
        || status.current_step.as_ref().map(|step| format!("{}/{steps}", (step.index + 1).min(i32::try_from(steps).unwrap_or(i32::MAX))));
    status.step_label.clone().or_else(counted)
}

/// The one line that says what the Rollout waits for and what will end the wait.
pub fn waits_for(rollout: &Rollout) -> String {
    match &rollout.status {
        None => "nothing has looked at it yet: is the controller running? (kubectl get deploy -A -l app.kubernetes.io/name=sluice)".into(),
        Some(_) if is_behind(rollout) => format!(
            "the controller has not seen the newest spec yet (generation {}); if this stays so, it is not running",
            rollout.metadata.generation.unwrap_or_default()
        ),
        Some(status) => status.message.clone(),
    }
}

/// [`waits_for`] with the time that is left: of a pause, or until the progress deadline.
pub fn waits_for_now(view: &View, now: Timestamp) -> String {
    let mut text = waits_for(&view.rollout);
    let phase = view.status().phase;
    if let Some((_, left)) = view.pause(now).filter(|(_, left)| left.as_secs() > 0 && phase == Some(Phase::Paused)) {
        let _infallible = write!(text, " ({} left)", span(left));
    }
    if let Some(end) = view.deadline().filter(|_| phase == Some(Phase::Progressing)) {
        let _infallible = write!(text, " (taken back in {} if it stays so)", span(end.duration_since(now)));
    }
    text
}

/// One line for a change of state, without times: two equal lines mean that nothing changed.
pub fn progress(rollout: &Rollout) -> String {
    let status = rollout.status.clone().unwrap_or_default();
    let mut line = status.phase.map_or("Unknown".into(), |phase| phase.to_string());
    if let Some(label) = step_label(rollout) {
        let _infallible = write!(line, ", step {label}");
    }
    if let Some(weights) = &status.weights {
        let _infallible = write!(line, ", canary {} %", percent(weights.canary));
    }
    let message = waits_for(rollout);
    if !message.is_empty() {
        let _infallible = write!(line, ": {message}");
    }
    line
}

/// What a person can do to make it go on, where only a person can.
pub fn next(rollout: &Rollout) -> Option<String> {
    let status = rollout.status.as_ref()?;
    let command = |verb: &str| format!("kubectl sluice {verb} {} -n {}", rollout.name_any(), rollout.namespace().unwrap_or_default());
    if status.phase == Some(Phase::Aborted) {
        return Some(format!("set another version in the template, or start this one again: {}", command("retry")));
    }
    if let Some(hold) = &status.hold {
        let others = match hold.reason {
            HoldReason::PausedByAction => "abort",
            HoldReason::InconclusiveAnalysis => "promote --full (without analysis), abort",
        };
        return Some(format!("{}; or: {others}", command("resume")));
    }
    status.current_step.as_ref()?;
    if rollout.spec.paused {
        return Some(format!("set spec.paused to false; or: {}", command("abort")));
    }
    waits_for_promote(rollout).then(|| format!("{}; or: abort", command("promote")))
}

/// The rollout is at a pause that only a person ends.
fn waits_for_promote(rollout: &Rollout) -> bool {
    let index = rollout.status.as_ref().and_then(|status| status.current_step.as_ref()).and_then(|step| usize::try_from(step.index).ok());
    let steps = rollout.spec.strategy.canary.as_ref().map(|canary| canary.steps.as_slice()).unwrap_or_default();
    let step = index.and_then(|index| steps.get(index));
    step.and_then(|step| step.pause.as_ref()).is_some_and(|pause| pause.duration.is_none())
}

/// Time between two measurements of a metric.
pub fn interval(metric: &Metric) -> jiff::SignedDuration {
    metric.interval.clone().unwrap_or_else(|| Span::from_secs(DEFAULT_INTERVAL)).get()
}

/// A verb as it is typed on the command line.
pub fn verb(verb: crate::api::Verb) -> &'static str {
    use crate::api::Verb;
    match verb {
        Verb::Promote => "promote",
        Verb::PromoteFull => "promote --full",
        Verb::Pause => "pause",
        Verb::Resume => "resume",
        Verb::Abort => "abort",
        Verb::Retry => "retry",
        Verb::SkipStep => "skip-step",
        Verb::Undo => "undo",
        Verb::Restart => "restart",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_step_of_the_api_has_words() {
        for (written, expected) in [
            (json!({"setWeight": 0.5}), "setWeight 0.5"),
            (json!({"pause": {}}), "pause until promoted"),
            (json!({"pause": {"duration": "5m"}}), "pause 5m"),
            (json!({"setCanaryScale": {"replicas": 1}}), "setCanaryScale 1 pod"),
            (json!({"setCanaryScale": {"percent": 50}}), "setCanaryScale 50 % of the pods"),
            (json!({"setCanaryScale": {"matchTrafficWeight": true}}), "setCanaryScale as the weight needs"),
            (
                json!({"setHeaderRoute": {"name": "testers", "match": [
                    {"headerName": "X-Canary", "headerValue": {"exact": "yes"}}, {"headerName": "X-Team", "headerValue": {"prefix": "qa-"}}]}}),
                "setHeaderRoute testers X-Canary=yes and X-Team=qa-*",
            ),
            (json!({"setHeaderRoute": {"name": "testers"}}), "setHeaderRoute testers ends"),
            (
                json!({"setMirrorRoute": {"name": "copy", "percentage": 20, "match": [
                    {"method": {"exact": "GET"}, "path": {"prefix": "/shop"}}, {"headers": {"X-Team": {"regex": "qa|dev"}}}]}}),
                "setMirrorRoute copy 20 % of GET path=/shop* or X-Team~qa|dev",
            ),
            (json!({"setMirrorRoute": {"name": "copy", "percentage": 0}}), "setMirrorRoute copy ends"),
            (json!({"analysis": {"templates": [{"name": "web"}]}}), "analysis web"),
        ] {
            assert_eq!(step(&serde_json::from_value(written).unwrap()), expected);
        }
    }
}
