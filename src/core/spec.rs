//! Parse, don't validate: what a Rollout asks for, as types that cannot be wrong.

use jiff::SignedDuration;
use sha2::{Digest, Sha256};

use super::observed::{Observed, Rival};
use crate::api::rollout::{RolloutSpec, StepAnalysis, Traffic};

/// A share of the traffic in thousandths of a percent: 0 to 100,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    pub const ZERO: Self = Self(0);
    pub const FULL: Self = Self(100_000);

    pub fn from_percent(percent: f64) -> Option<Self> {
        let thousandths = percent * 1000.0;
        let exact = (thousandths - thousandths.round()).abs() < 1e-6;
        (exact && (0.0..=100_000.0).contains(&thousandths)).then_some(Self(thousandths.round() as u32))
    }

    /// `part` of `whole`, to the nearest thousandth of a percent.
    pub fn of(part: u64, whole: u64) -> Self {
        (part * 100_000 + whole / 2).checked_div(whole).map_or(Self::ZERO, |share| Self(share.min(100_000) as u32))
    }

    pub fn percent(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// This share of `whole`, rounded to the nearest.
    pub fn share(self, whole: u64) -> u64 {
        (whole * u64::from(self.0) + 50_000) / 100_000
    }

    /// Pods needed to carry this share of what `whole` pods carry: rounded up, at least one for any traffic.
    pub fn pods(self, whole: i32) -> i32 {
        ((i64::from(whole) * i64::from(self.0) + 99_999) / 100_000) as i32
    }

    /// Whether whole thousands express it.
    pub fn is_coarse(self) -> bool {
        self.0.is_multiple_of(100)
    }
}

impl std::fmt::Display for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} %", self.percent())
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum StepKind {
    SetWeight(Weight),
    SetScale(Scale),
    Pause(Option<SignedDuration>),
    Analysis(StepAnalysis),
}

/// How many pods the canary has, if that is more than its weight needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Replicas(i32),
    Percent(i32),
    AsWeight,
}

/// What a Rollout asks for.
#[derive(Clone, Debug)]
pub struct Spec {
    pub steps: Vec<StepKind>,
    pub analysis: Option<StepAnalysis>,
    /// The step at which the background analysis starts.
    pub analysis_from: usize,
    /// False: the canary's share is that of its pods.
    pub has_traffic: bool,
    pub traffic: Traffic,
    pub min_ready_seconds: i32,
    pub progress_deadline: SignedDuration,
    pub history_limit: usize,
    pub paused: bool,
    /// How long the old version keeps its pods after a promotion.
    pub scale_down_delay: SignedDuration,
    /// Pods from before this are restarted.
    pub restart_at: Option<jiff::Timestamp>,
}

/// A field that is wrong, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    pub mend: String,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.mend)
    }
}

pub fn invalid(field: impl Into<String>, mend: impl Into<String>) -> Invalid {
    Invalid { field: field.into(), mend: mend.into() }
}

/// Types from what the API server let through.
pub fn parse(spec: &RolloutSpec) -> Result<Spec, Invalid> {
    let Some(canary) = &spec.strategy.canary else {
        return Err(invalid("spec.strategy", "set spec.strategy.canary"));
    };
    let steps = canary.steps.iter().enumerate().map(|(i, step)| parse_step(i, step)).collect::<Result<Vec<_>, _>>()?;
    let first_weight = steps.iter().position(|s| matches!(s, StepKind::SetWeight(w) if *w > Weight::ZERO)).unwrap_or(steps.len());
    let analysis_from = match canary.analysis.as_ref().and_then(|a| a.starting_step) {
        Some(step) if step as usize > steps.len() => {
            return Err(invalid(
                "spec.strategy.canary.analysis.startingStep",
                format!("there are {} steps: use an index below that", steps.len()),
            ));
        }
        Some(step) => step as usize,
        None => first_weight,
    };
    Ok(Spec {
        steps,
        analysis: canary.analysis.as_ref().map(|a| a.analysis.clone()),
        analysis_from,
        has_traffic: spec.traffic.is_some(),
        traffic: spec.traffic.clone().unwrap_or_else(nowhere),
        min_ready_seconds: spec.min_ready_seconds,
        progress_deadline: SignedDuration::from_secs(i64::from(spec.progress_deadline_seconds)),
        history_limit: usize::try_from(spec.revision_history_limit).unwrap_or(0),
        paused: spec.paused,
        scale_down_delay: SignedDuration::from_secs(i64::from(canary.scale_down_delay_seconds)),
        restart_at: spec.restart_at.as_ref().map(|at| at.0),
    })
}

fn nowhere() -> Traffic {
    Traffic { service: String::new(), canary_service: None, routes: vec![], drain_seconds: 30, step_grace_seconds: 2 }
}

fn parse_step(index: usize, step: &crate::api::rollout::Step) -> Result<StepKind, Invalid> {
    let field = format!("spec.strategy.canary.steps[{index}]");
    match (step.set_weight, &step.set_canary_scale, &step.pause, &step.analysis) {
        (Some(weight), None, None, None) => Weight::from_percent(weight).map(StepKind::SetWeight).ok_or_else(|| {
            invalid(
                format!("{field}.setWeight"),
                format!("{weight} is not a percentage from 0 to 100 with at most 3 decimals: write it as 0.5 or 33.333"),
            )
        }),
        (None, Some(scale), None, None) => match (scale.replicas, scale.percent, scale.match_traffic_weight) {
            (Some(replicas), None, None) => Ok(StepKind::SetScale(Scale::Replicas(replicas))),
            (None, Some(percent), None) => Ok(StepKind::SetScale(Scale::Percent(percent))),
            (None, None, Some(true)) => Ok(StepKind::SetScale(Scale::AsWeight)),
            _ => Err(invalid(format!("{field}.setCanaryScale"), "set exactly one of replicas, percent and matchTrafficWeight (true)")),
        },
        (None, None, Some(pause), None) => Ok(StepKind::Pause(pause.duration.as_ref().map(crate::api::Span::get))),
        (None, None, None, Some(analysis)) => Ok(StepKind::Analysis(analysis.clone())),
        _ => {
            Err(invalid(field, "a step has exactly one of setWeight, setCanaryScale, pause and analysis: give each a list item of its own"))
        }
    }
}

impl Spec {
    /// What is left of a spec that cannot be carried out: enough to put things back.
    pub fn remains(spec: &RolloutSpec) -> Self {
        Self {
            steps: vec![],
            analysis: None,
            analysis_from: 0,
            has_traffic: spec.traffic.is_some(),
            traffic: spec.traffic.clone().unwrap_or_else(nowhere),
            min_ready_seconds: 0,
            progress_deadline: SignedDuration::from_secs(600),
            history_limit: 10,
            paused: false,
            scale_down_delay: SignedDuration::ZERO,
            restart_at: None,
        }
    }

    /// The weight at a step, and the step that set it: the last setWeight up to there. After the last step: everything.
    pub fn weight_at(&self, index: usize) -> (Weight, usize) {
        if index >= self.steps.len() {
            return (Weight::FULL, self.steps.len());
        }
        let set = self.steps[..=index].iter().enumerate().rev().find_map(|(i, step)| match step {
            StepKind::SetWeight(weight) => Some((*weight, i)),
            _ => None,
        });
        set.unwrap_or((Weight::ZERO, 0))
    }

    /// Pods that the last setCanaryScale up to a step asks for, of so many that serve.
    pub fn scale_at(&self, index: usize, replicas: i32) -> i32 {
        let set = self.steps.iter().take(index + 1).rev().find_map(|step| match step {
            StepKind::SetScale(scale) => Some(*scale),
            _ => None,
        });
        match set {
            Some(Scale::Replicas(pods)) => pods,
            Some(Scale::Percent(percent)) => Weight(u32::try_from(percent).unwrap_or(0) * 1000).pods(replicas),
            Some(Scale::AsWeight) | None => 0,
        }
    }

    /// Tells one list of steps from another.
    pub fn steps_digest(&self) -> String {
        let text = format!("{:?}", self.steps);
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// How long weights may have to be written as (so that every step is exact): parts of a whole.
    pub fn denominator(&self) -> u64 {
        let coarse = self.steps.iter().all(|s| !matches!(s, StepKind::SetWeight(w) if !w.is_coarse()));
        if coarse { 1000 } else { 100_000 }
    }
}

/// What the rest of the world makes of the spec.
pub fn check(obs: &Observed, spec: &Spec) -> Result<(), Invalid> {
    if let Some(rival) = &obs.rival {
        let Rival { rollout, field, what } = rival;
        let mend = format!(
            "{what} belongs to Rollout {rollout} already, which is older: name another one here, or delete one of the two Rollouts"
        );
        return Err(invalid(*field, mend));
    }
    if spec.has_traffic && spec.traffic.canary_service() == spec.traffic.service {
        return Err(invalid(
            "spec.traffic.canaryService",
            "must be another Service than spec.traffic.service: leave it out for the default",
        ));
    }
    if let Some(service) = &obs.service {
        check_service(obs, service)?;
    }
    Ok(())
}

fn check_service(obs: &Observed, service: &super::observed::ServiceView) -> Result<(), Invalid> {
    let field = "spec.traffic.service";
    let name = &service.meta.name;
    if service.spec.get("type").and_then(|t| t.as_str()) == Some("ExternalName") {
        return Err(invalid(
            field,
            format!("Service {name} is of type ExternalName, which has no pods: name a Service that selects the workload's pods"),
        ));
    }
    let pinned_by_us = service.meta.annotations.contains_key(crate::api::keys::SERVICE_RECORD);
    if service.pinned().is_some() && !pinned_by_us {
        return Err(invalid(
            field,
            format!("Service {name} selects pod-template-hash by itself, which Sluice needs: remove it from the Service's selector"),
        ));
    }
    let selector = service.selector.iter().filter(|(key, _)| *key != crate::api::keys::POD_TEMPLATE_HASH);
    if selector.clone().count() == 0 {
        return Err(invalid(field, format!("Service {name} has no selector: give it one that matches the workload's pods")));
    }
    let Some(template) = super::revision::template(obs) else { return Ok(()) };
    for (key, value) in selector {
        if template.pointer("/metadata/labels").and_then(|l| l.get(key)).and_then(|v| v.as_str()) != Some(value) {
            return Err(invalid(
                field,
                format!("Service {name} selects {key}={value}, but the pod template has no such label: mend one of the two"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exact_to_a_thousandth_of_a_percent() {
        assert_eq!(Weight::from_percent(0.5).unwrap().share(1000), 5);
        assert_eq!(Weight::from_percent(33.333).unwrap().share(100_000), 33_333);
        assert_eq!(Weight::from_percent(100.0), Some(Weight::FULL));
        for wrong in [-1.0, 100.001, 0.0001, f64::NAN] {
            assert_eq!(Weight::from_percent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn any_traffic_needs_a_pod() {
        assert_eq!(Weight::from_percent(5.0).unwrap().pods(3), 1);
        assert_eq!(Weight::from_percent(34.0).unwrap().pods(3), 2);
        assert_eq!(Weight::FULL.pods(3), 3);
        assert_eq!(Weight::ZERO.pods(3), 0);
        assert_eq!(Weight::from_percent(0.001).unwrap().pods(1), 1);
    }
}
