//! The controller's own metrics, and the HTTP server that shows them with its health.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{lease::Claim, world::World};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Result_ {
    result: String,
}

#[derive(Clone)]
pub struct Telemetry {
    registry: Arc<Registry>,
    reconciles: Family<Result_, Counter>,
    reconcile_seconds: Histogram,
    writes: Family<Result_, Counter>,
    measurements: Family<Result_, Counter>,
}

impl Default for Telemetry {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice");
        let reconciles = Family::default();
        registry.register("reconciles", "Looks at an object, by result", reconciles.clone());
        let reconcile_seconds = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]);
        registry.register_with_unit("reconcile_duration", "Time of one look at an object", Unit::Seconds, reconcile_seconds.clone());
        let writes = Family::default();
        registry.register("writes", "Writes to the API server, by result", writes.clone());
        let measurements = Family::default();
        registry.register("measurements", "Measurements of analysis runs, by verdict", measurements.clone());
        Self { registry: Arc::new(registry), reconciles, reconcile_seconds, writes, measurements }
    }
}

impl Telemetry {
    pub fn looked(&self, time: Duration, error: Option<&str>) {
        self.reconciles.get_or_create(&result(error)).inc();
        self.reconcile_seconds.observe(time.as_secs_f64());
    }

    pub fn wrote(&self, error: Option<&str>) {
        self.writes.get_or_create(&result(error)).inc();
    }

    pub fn measured(&self, verdict: &str) {
        self.measurements.get_or_create(&Result_ { result: verdict.to_owned() }).inc();
    }
}

fn result(error: Option<&str>) -> Result_ {
    Result_ { result: error.unwrap_or("ok").to_owned() }
}

#[derive(Clone)]
struct Shown {
    telemetry: Telemetry,
    world: World,
    claim: Claim,
}

/// `/metrics`, `/healthz` (the process answers) and `/readyz` (it knows the cluster).
pub fn router(telemetry: Telemetry, world: World, claim: Claim) -> Router {
    Router::new().route("/metrics", get(metrics)).route("/healthz", get(|| async { "ok" })).route("/readyz", get(ready)).with_state(Shown {
        telemetry,
        world,
        claim,
    })
}

async fn metrics(State(shown): State<Shown>) -> Result<String, StatusCode> {
    let mut text = String::new();
    encode(&mut text, &shown.telemetry.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let leader = u8::from(shown.claim.holds());
    let own = format!("# HELP sluice_leader Whether this replica leads.\n# TYPE sluice_leader gauge\nsluice_leader {leader}\n# EOF\n");
    Ok(text.replace("# EOF\n", &own))
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, String) {
    match shown.world.is_ready() {
        true => (StatusCode::OK, "ok".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("has not listed {:?} yet", shown.world.missing())),
    }
}
