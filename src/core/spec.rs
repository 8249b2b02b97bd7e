//! Parse, don't validate: what a Rollout asks for, as types that cannot be wrong.

use jiff::SignedDuration;
use sha2::{Digest, Sha256};

use super::{
    canary_rule::{CanaryRule, Effect, Portion},
    observed::{Observed, Rival},
    proof::Proof,
    requests::{Requests, Text},
};
use crate::api::rollout::{HeaderRoute, MirrorRoute, Pause, RequestMatch, RolloutSpec, RouteKind, StepAnalysis, StringMatch, Traffic};

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
    /// Sets the rule of this effect and name; one without requests ends it.
    SetRule(CanaryRule),
    Pause(Option<SignedDuration>),
    Prove(Proof),
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
    check_rules(spec, &steps)?;
    // A few testers are no base for a verdict, so header routes count only where nothing else gives the canary traffic.
    let weight = steps.iter().position(|s| matches!(s, StepKind::SetWeight(w) if *w > Weight::ZERO));
    let sends = |s: &StepKind| matches!(s, StepKind::SetRule(rule) if rule.effect == Effect::Send && !rule.requests.is_empty());
    let first_weight = weight.or_else(|| steps.iter().position(sends)).unwrap_or(steps.len());
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
    match (step.set_weight, &step.set_canary_scale, &step.pause, &step.analysis, &step.set_header_route, &step.set_mirror_route) {
        (Some(weight), None, None, None, None, None) => Weight::from_percent(weight).map(StepKind::SetWeight).ok_or_else(|| {
            invalid(
                format!("{field}.setWeight"),
                format!("{weight} is not a percentage from 0 to 100 with at most 3 decimals: write it as 0.5 or 33.333"),
            )
        }),
        (None, Some(scale), None, None, None, None) => match (scale.replicas, scale.percent, scale.match_traffic_weight) {
            (Some(replicas), None, None) => Ok(StepKind::SetScale(Scale::Replicas(replicas))),
            (None, Some(percent), None) => Ok(StepKind::SetScale(Scale::Percent(percent))),
            (None, None, Some(true)) => Ok(StepKind::SetScale(Scale::AsWeight)),
            _ => Err(invalid(format!("{field}.setCanaryScale"), "set exactly one of replicas, percent and matchTrafficWeight (true)")),
        },
        (None, None, Some(Pause { prove: Some(prove), duration }), None, None, None) => {
            Proof::parse(prove, duration.as_ref()).map(StepKind::Prove).map_err(|mend| invalid(format!("{field}.pause.prove"), mend))
        }
        (None, None, Some(pause), None, None, None) => Ok(StepKind::Pause(pause.duration.as_ref().map(crate::api::Span::get))),
        (None, None, None, Some(analysis), None, None) => Ok(StepKind::Analysis(analysis.clone())),
        (None, None, None, None, Some(route), None) => header_route(format!("{field}.setHeaderRoute"), route),
        (None, None, None, None, None, Some(route)) => mirror_route(format!("{field}.setMirrorRoute"), route),
        _ => Err(invalid(
            field,
            "a step has exactly one of setWeight, setCanaryScale, setHeaderRoute, setMirrorRoute, pause and analysis: give each a list item of its own",
        )),
    }
}

fn header_route(field: String, route: &HeaderRoute) -> Result<StepKind, Invalid> {
    let mut headers = vec![];
    for header in &route.r#match {
        headers.push((header.header_name.clone(), text(&field, &header.header_value)?));
    }
    let requests = if headers.is_empty() { vec![] } else { vec![requests(&field, None, None, headers)?] };
    Ok(StepKind::SetRule(CanaryRule { field, name: route.name.clone(), effect: Effect::Send, requests }))
}

fn mirror_route(field: String, route: &MirrorRoute) -> Result<StepKind, Invalid> {
    let percent = route.percentage.unwrap_or(100);
    let all: Vec<Requests> = route.r#match.iter().map(|matched| mirrored(&field, matched)).collect::<Result<_, _>>()?;
    let requests = if percent == 0 { vec![] } else { all };
    Ok(StepKind::SetRule(CanaryRule { field, name: route.name.clone(), effect: Effect::Mirror(percent), requests }))
}

fn mirrored(field: &str, matched: &RequestMatch) -> Result<Requests, Invalid> {
    let method = matched.method.as_ref().map(|method| text(field, method)).transpose()?;
    let method = method.map(|method| match method {
        Text::Exact(method) => Ok(method),
        _ => Err(invalid(field, "a method can only be exact, because the Gateway API knows nothing else: write one match for each method")),
    });
    let path = matched.path.as_ref().map(|path| text(field, path)).transpose()?;
    let headers = matched.headers.iter().map(|(name, value)| Ok((name.clone(), text(field, value)?))).collect::<Result<_, _>>()?;
    requests(field, method.transpose()?, path, headers)
}

fn requests(field: &str, method: Option<String>, path: Option<Text>, headers: Vec<(String, Text)>) -> Result<Requests, Invalid> {
    let is_token = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&*+^|~'`".contains(&b));
    if let Some((name, _)) = headers.iter().find(|(name, _)| !is_token(name)) {
        return Err(invalid(
            field,
            format!("no header can be called {name:?}: a name has letters, digits and '-', without blanks: X-Canary"),
        ));
    }
    let twice = |(at, (name, _)): &(usize, &(String, Text))| headers[..*at].iter().any(|(before, _)| before.eq_ignore_ascii_case(name));
    if let Some((_, (name, _))) = headers.iter().enumerate().find(twice) {
        return Err(invalid(
            field,
            format!("header {name} stands twice, and a match can have only one value for it: write one of the two"),
        ));
    }
    Ok(Requests { method, path, headers })
}

fn text(field: &str, value: &StringMatch) -> Result<Text, Invalid> {
    match (&value.exact, &value.prefix, &value.regex) {
        (Some(exact), None, None) => Ok(Text::Exact(exact.clone())),
        (None, Some(prefix), None) => Ok(Text::Prefix(prefix.clone())),
        (None, None, Some(regex)) => Ok(Text::Regex(regex.clone())),
        _ => Err(invalid(field, "set exactly one of exact, prefix and regex")),
    }
}

/// Only routes whose rules match requests can have rules for some of them.
fn check_rules(spec: &RolloutSpec, steps: &[StepKind]) -> Result<(), Invalid> {
    let rules = steps.iter().filter_map(|step| match step {
        StepKind::SetRule(rule) => Some(rule),
        _ => None,
    });
    for rule in rules {
        let Some(traffic) = &spec.traffic else {
            return Err(invalid(&rule.field, "there is no route that could tell requests apart: set spec.traffic, or take this step out"));
        };
        let fits = |kind: RouteKind| match rule.effect {
            Effect::Send => matches!(kind, RouteKind::HttpRoute | RouteKind::GrpcRoute),
            Effect::Mirror(_) => kind == RouteKind::HttpRoute,
        };
        if let Some(route) = traffic.routes.iter().find(|route| !fits(route.kind)) {
            let (what, kinds) = match rule.effect {
                Effect::Send => ("tell requests by their headers", "HTTPRoutes or GRPCRoutes"),
                Effect::Mirror(_) => ("have its requests mirrored", "HTTPRoutes"),
            };
            let mend =
                format!("{} {} cannot {what}: name only {kinds} in spec.traffic.routes, or take this step out", route.kind, route.name);
            return Err(invalid(&rule.field, mend));
        }
    }
    Ok(())
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

    /// What the canary gets at a step, and the step that set it last. After the last step: all traffic, and no rules.
    pub fn portion_at(&self, index: usize) -> (Portion, usize) {
        let (weight, mut set_by) = self.weight_at(index);
        let mut rules: Vec<CanaryRule> = vec![];
        let steps = if index < self.steps.len() { &self.steps[..=index] } else { &[] };
        for (at, step) in steps.iter().enumerate() {
            let StepKind::SetRule(rule) = step else { continue };
            let same = |before: &CanaryRule| {
                before.name == rule.name && std::mem::discriminant(&before.effect) == std::mem::discriminant(&rule.effect)
            };
            rules.retain(|before| !same(before));
            if !rule.requests.is_empty() {
                rules.push(rule.clone());
            }
            set_by = set_by.max(at);
        }
        (Portion { weight, rules }, set_by)
    }

    /// Whether any step sets a header or mirror route.
    pub fn has_rules(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, StepKind::SetRule(_)))
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
    use serde_json::json;

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
    fn the_analysis_begins_at_the_first_weight_and_without_any_at_the_first_header_route() {
        let testers = json!({"setHeaderRoute": {"name": "t", "match": [{"headerName": "X-T", "headerValue": {"exact": "1"}}]}});
        let ends = json!({"setHeaderRoute": {"name": "t"}});
        for (steps, from) in [
            (json!([testers, {"setWeight": 0}, {"setWeight": 5}]), 2),
            (json!([ends, testers, {"pause": {}}]), 1),
            (json!([{"pause": {}}]), 1),
        ] {
            let traffic = json!({"service": "api", "routes": [{"kind": "HTTPRoute", "name": "api"}]});
            let spec = json!({"traffic": traffic, "strategy": {"canary": {"steps": steps}}});
            assert_eq!(parse(&serde_json::from_value(spec).unwrap()).unwrap().analysis_from, from, "{steps}");
        }
    }

    #[test]
    fn a_rule_holds_until_one_of_its_kind_and_name_replaces_or_ends_it() {
        let header = |name: &str, value: &str| json!({"setHeaderRoute": {"name": name, "match": [{"headerName": "X-T", "headerValue": {"exact": value}}]}});
        let copy =
            |percentage: i32| json!({"setMirrorRoute": {"name": "a", "percentage": percentage, "match": [{"path": {"prefix": "/"}}]}});
        let steps = json!([header("a", "1"), copy(10), header("b", "1"), header("a", "2"), {"setHeaderRoute": {"name": "b"}}, copy(0)]);
        let traffic = json!({"service": "api", "routes": [{"kind": "HTTPRoute", "name": "api"}]});
        let spec = json!({"traffic": traffic, "strategy": {"canary": {"steps": steps}}});
        let spec = parse(&serde_json::from_value(spec).unwrap()).unwrap();
        let fields = |index: usize| -> Vec<String> {
            let short = |rule: &CanaryRule| rule.field.replace("spec.strategy.canary.steps", "").split('.').next().unwrap().to_owned();
            spec.portion_at(index).0.rules.iter().map(short).collect()
        };
        assert_eq!(fields(2), ["[0]", "[1]", "[2]"]);
        assert_eq!(fields(3), ["[1]", "[2]", "[3]"]);
        assert_eq!(fields(4), ["[1]", "[3]"]);
        assert_eq!(fields(5), ["[3]"]);
        assert!(fields(6).is_empty(), "after the last step none is left");
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
