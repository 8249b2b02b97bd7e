//! Gauges of each Rollout, read off the world when they are asked for: nothing is kept, so nothing is left of a Rollout that has gone.
//! Only the leader shows them, so that each is counted once. At rest a Rollout has one series: its phase.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
};

use crate::{
    api::{RolloutStatus, conditions},
    lease::Claim,
    world::{Index, World, project::RolloutEntry},
};

/// Conditions that somebody may want to be told of.
const NOTABLE: [&str; 5] =
    [conditions::PAUSED, conditions::STALLED, conditions::TRAFFIC_CONTESTED, conditions::WORKLOAD_PARKED, conditions::INVALID_SPEC];

/// A gauge of Rollouts. Its labels are `namespace`, `rollout`, and those that its samples add.
pub struct Gauge {
    pub name: &'static str,
    help: &'static str,
    samples: fn(&Subject, &mut Samples) -> fmt::Result,
}

pub const GAUGES: [Gauge; 8] = [
    Gauge { name: "rollout_phase", help: "1 for the phase that the Rollout is in", samples: phase },
    Gauge {
        name: "rollout_condition_timestamp_seconds",
        help: "Since when a condition that matters to people is True",
        samples: condition,
    },
    Gauge { name: "rollout_weight_ratio", help: "Share of the traffic that a role is to get, while a rollout runs", samples: weight },
    Gauge {
        name: "rollout_observed_weight_ratio",
        help: "Share of the traffic that the canary gets, as the routes report it",
        samples: observed,
    },
    Gauge {
        name: "rollout_step",
        help: "Index (from 0) of the step that the rollout is at; the number of steps once all are done",
        samples: step,
    },
    Gauge { name: "rollout_step_start_timestamp_seconds", help: "When the rollout reached its step", samples: step_start },
    Gauge { name: "rollout_start_timestamp_seconds", help: "When the rollout began", samples: start },
    Gauge {
        name: "rollout_verdict",
        help: "1 for the newest verdict on a metric, in the AnalysisRuns of the present rollout",
        samples: verdict,
    },
];

/// What a gauge is read off.
struct Subject<'a> {
    index: &'a Index,
    namespace: &'a str,
    name: &'a str,
    status: &'a RolloutStatus,
}

struct Samples<'a, 'b> {
    subject: &'a Subject<'a>,
    encoder: &'a mut MetricEncoder<'b>,
}

impl Samples<'_, '_> {
    fn add<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: f64) -> fmt::Result {
        let whose = [("namespace", self.subject.namespace), ("rollout", self.subject.name)];
        self.encoder.encode_family(&(whose, labels))?.encode_gauge(&value)
    }
}

fn phase(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    subject.status.phase.map_or(Ok(()), |phase| samples.add([("phase", &phase.to_string())], 1.0))
}

fn condition(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    let notable = subject.status.conditions.iter().filter(|c| c.status == "True" && NOTABLE.contains(&c.type_.as_str()));
    for condition in notable {
        let labels = [("condition", condition.type_.as_str()), ("reason", condition.reason.as_str())];
        samples.add(labels, seconds(condition.last_transition_time.0))?;
    }
    Ok(())
}

fn weight(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    let Some(weights) = &subject.status.weights else { return Ok(()) };
    samples.add([("role", "stable")], weights.stable / 100.0)?;
    samples.add([("role", "canary")], weights.canary / 100.0)
}

fn observed(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    let observed = subject.status.weights.as_ref().and_then(|weights| weights.observed);
    observed.map_or(Ok(()), |percent| samples.add([], percent / 100.0))
}

fn step(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    subject.status.current_step.as_ref().map_or(Ok(()), |step| samples.add([], f64::from(step.index)))
}

fn step_start(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    subject.status.current_step.as_ref().map_or(Ok(()), |step| samples.add([], seconds(step.started_at.0)))
}

fn start(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    let running = subject.status.canary.as_ref().filter(|_| subject.status.current_step.is_some());
    running.map_or(Ok(()), |canary| samples.add([], seconds(canary.started_at.0)))
}

fn verdict(subject: &Subject, samples: &mut Samples) -> fmt::Result {
    for run in subject.status.analysis.iter().filter_map(|run| subject.index.run(subject.namespace, &run.name)) {
        for metric in &run.status.metric_results {
            let Some(newest) = metric.measurements.last() else { continue };
            let verdict = format!("{:?}", newest.verdict);
            samples.add([("run", run.meta.name.as_str()), ("metric", metric.name.as_str()), ("verdict", &verdict)], 1.0)?;
        }
    }
    Ok(())
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

/// All of it, and whether this replica leads.
pub struct Rollouts {
    pub world: World,
    pub claim: Claim,
}

impl fmt::Debug for Rollouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rollouts")
    }
}

impl Collector for Rollouts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let leads = self.claim.holds();
        encoder.encode_descriptor("leader", "Whether this replica leads", None, MetricType::Gauge)?.encode_gauge(&i64::from(leads))?;
        if !leads {
            return Ok(());
        }
        self.world.read(|index| GAUGES.iter().try_for_each(|gauge| encode(gauge, index, &mut encoder)))
    }
}

fn encode(gauge: &Gauge, index: &Index, encoder: &mut DescriptorEncoder) -> fmt::Result {
    let mut encoder = encoder.encode_descriptor(gauge.name, gauge.help, None, MetricType::Gauge)?;
    index.rollouts().try_for_each(|(namespace, name, RolloutEntry { status, .. })| {
        let subject = Subject { index, namespace, name, status };
        (gauge.samples)(&subject, &mut Samples { subject: &subject, encoder: &mut encoder })
    })
}
