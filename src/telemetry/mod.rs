//! The controller's own metrics, and the HTTP server that shows them with its health.

mod rollouts;
pub mod traces;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    api::{RolloutStatus, rollout::Step, run::Measurement},
    core::observed::{RolloutView, RunView},
    lease::Claim,
    world::World,
};
use traces::Exporter;

/// Buckets for requests and looks, and for what people wait for.
const SHORT: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0];
const LONG: [f64; 9] = [5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 604_800.0];

/// The media type of what `/metrics` answers.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Result_ {
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Step_ {
    step: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<Registry>,
    reconciles: Family<Result_, Counter>,
    reconcile_seconds: Histogram,
    writes: Family<Result_, Counter>,
    write_seconds: Histogram,
    measurements: Family<Result_, Counter>,
    step_seconds: Family<Step_, Histogram>,
    rollout_seconds: Family<Outcome, Histogram>,
    queue_depth: Gauge,
    traces: Option<Exporter>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice");
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", version);
        let reconciles = Family::default();
        registry.register("reconciles", "Looks at an object, by result", reconciles.clone());
        let reconcile_seconds = Histogram::new(SHORT);
        registry.register_with_unit("reconcile_duration", "Time of one look at an object", Unit::Seconds, reconcile_seconds.clone());
        let writes = Family::default();
        registry.register("writes", "Writes to the API server, by result", writes.clone());
        let write_seconds = Histogram::new(SHORT);
        registry.register_with_unit("write_duration", "Time of one write to the API server", Unit::Seconds, write_seconds.clone());
        let measurements = Family::default();
        registry.register("measurements", "Measurements of analysis runs, by verdict", measurements.clone());
        let step_seconds = Family::new_with_constructor((|| Histogram::new(LONG)) as fn() -> Histogram);
        registry.register_with_unit("step_duration", "Time from a step of a rollout to the next", Unit::Seconds, step_seconds.clone());
        let rollout_seconds = Family::new_with_constructor((|| Histogram::new(LONG)) as fn() -> Histogram);
        registry.register_with_unit("rollout_duration", "Time of a rollout, by outcome", Unit::Seconds, rollout_seconds.clone());
        let queue_depth = Gauge::default();
        registry.register("queue_depth", "Objects that wait to be looked at", queue_depth.clone());
        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_seconds,
            writes,
            write_seconds,
            measurements,
            step_seconds,
            rollout_seconds,
            queue_depth,
            traces: None,
        }
    }
}

impl Telemetry {
    /// One that also sends traces.
    pub fn with_traces(exporter: Exporter) -> Self {
        Self { traces: Some(exporter), ..Self::default() }
    }

    pub fn looked(&self, time: Duration, error: Option<&str>) {
        self.reconciles.get_or_create(&result(error)).inc();
        self.reconcile_seconds.observe(time.as_secs_f64());
    }

    pub fn wrote(&self, time: Duration, error: Option<&str>) {
        self.writes.get_or_create(&result(error)).inc();
        self.write_seconds.observe(time.as_secs_f64());
    }

    /// A measurement of the rollout that a Rollout (its uid and status) is in.
    pub fn measured(&self, rollout: Option<(&str, &RolloutStatus)>, run: &RunView, metric: &str, measurement: &Measurement) {
        self.measurements.get_or_create(&Result_ { result: format!("{:?}", measurement.verdict) }).inc();
        let running = rollout.and_then(|(uid, status)| Some((uid, status.canary.as_ref()?.started_at.0)));
        if let (Some(traces), Some((uid, began))) = (&self.traces, running) {
            traces.export([traces::measured(uid, began, run, metric, measurement)]);
        }
    }

    pub fn queued(&self, objects: usize) {
        self.queue_depth.set(i64::try_from(objects).unwrap_or(i64::MAX));
    }

    /// Another status has followed that of a Rollout: the times of the step and of the rollout that ended with it.
    pub fn went_on(&self, rollout: &RolloutView, after: &RolloutStatus) {
        let before = &rollout.status;
        if let Some(traces) = &self.traces {
            traces.export(traces::ended(rollout, before, after));
        }
        if let (Some(from), Some(to)) = (&before.current_step, &after.current_step)
            && from.index < to.index
        {
            let steps = rollout.spec.strategy.canary.iter().flat_map(|canary| &canary.steps);
            let step = usize::try_from(from.index).ok().and_then(|index| steps.into_iter().nth(index)).map_or("unknown", kind);
            let time = to.started_at.0.duration_since(from.started_at.0);
            self.step_seconds.get_or_create_owned(&Step_ { step }).observe(time.as_secs_f64().max(0.0));
        }
        for ended in after.history.iter().filter(|ended| !before.history.contains(ended)) {
            let time = ended.finished_at.0.duration_since(ended.started_at.0);
            let outcome = Outcome { outcome: format!("{:?}", ended.outcome) };
            self.rollout_seconds.get_or_create_owned(&outcome).observe(time.as_secs_f64().max(0.0));
        }
    }
}

/// What a step does, by its key.
fn kind(step: &Step) -> &'static str {
    match step {
        Step { set_weight: Some(_), .. } => "setWeight",
        Step { set_canary_scale: Some(_), .. } => "setCanaryScale",
        Step { set_header_route: Some(_), .. } => "setHeaderRoute",
        Step { set_mirror_route: Some(_), .. } => "setMirrorRoute",
        Step { pause: Some(_), .. } => "pause",
        Step { analysis: Some(_), .. } => "analysis",
        _ => "unknown",
    }
}

fn result(error: Option<&str>) -> Result_ {
    Result_ { result: error.unwrap_or("ok").to_owned() }
}

/// The gauges of each Rollout, by name without prefix.
pub fn rollout_gauges() -> impl Iterator<Item = &'static str> {
    rollouts::GAUGES.iter().map(|gauge| gauge.name)
}

#[derive(Clone)]
struct Shown {
    telemetry: Telemetry,
    world: World,
    /// What is derived when it is asked for.
    derived: Arc<Registry>,
}

/// `/metrics`, `/healthz` (the process answers) and `/readyz` (it knows the cluster).
pub fn router(telemetry: Telemetry, world: World, claim: Claim) -> Router {
    let mut derived = Registry::with_prefix("sluice");
    derived.register_collector(Box::new(rollouts::Rollouts { world: world.clone(), claim }));
    let shown = Shown { telemetry, world, derived: Arc::new(derived) };
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready)).with_state(shown)
}

async fn metrics(State(shown): State<Shown>) -> Result<impl IntoResponse, StatusCode> {
    let mut body = String::new();
    text::encode_registry(&mut body, &shown.telemetry.registry)
        .and_then(|()| text::encode(&mut body, &shown.derived))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], body))
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.world.is_ready() {
        true => (StatusCode::OK, "ok".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("has not listed {:?} yet", shown.world.missing())),
    }
}
