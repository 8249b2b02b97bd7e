//! What many runs have met: how much of each kind of act and fault really happened, and where it led.

use std::{collections::BTreeMap, fmt, time::Duration};

use sluice::sim::drive::Fault;

use super::world::World;

type Counts = BTreeMap<String, u64>;

#[derive(Default)]
pub struct Tally {
    seeds: u64,
    acts: Counts,
    faults: Counts,
    /// Phases that status has said, once for each time it said so.
    phases: Counts,
    /// Stages of rollouts and of ways home that were waited for.
    stages: Counts,
    plans: usize,
    writes: usize,
    tries: usize,
    events: u64,
}

impl Tally {
    pub fn note(&mut self, world: &World) {
        self.seeds += 1;
        self.plans += world.drive.plans;
        self.writes += world.drive.writes;
        self.tries += world.drive.tries;
        self.events += world.drive.api.revision();
        world.happened.iter().for_each(|act| add(&mut self.acts, act, 1));
        world.drive.injected.iter().for_each(|fault| add(&mut self.faults, &name(fault), 1));
        for event in world.drive.api.since(0).filter(|event| &*event.kind == "rollouts.sluice.dev") {
            let status = &event.object["status"];
            let before = event.before.as_ref().map(|before| &before["status"]);
            let is_news = |field: &str| before.is_none_or(|before| before[field] != status[field]);
            if let Some(phase) = status["phase"].as_str().filter(|_| is_news("phase")) {
                add(&mut self.phases, phase, 1);
            }
            // Scope, revision and stage: `roll/5d9c8/003-CanaryReady`.
            let stage = status["transition"]["what"].as_str().filter(|_| is_news("transition"));
            let stage = stage.filter(|what| what.starts_with("roll/") || what.starts_with("home/"));
            if let Some((scope, stage)) = stage.and_then(|what| Some((what.split('/').next()?, what.rsplit('/').next()?.get(4..)?))) {
                add(&mut self.stages, &format!("{scope} {stage}"), 1);
            }
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.plans += other.plans;
        self.writes += other.writes;
        self.tries += other.tries;
        self.events += other.events;
        let counts = [(&mut self.acts, other.acts), (&mut self.faults, other.faults)];
        let counts = counts.into_iter().chain([(&mut self.phases, other.phases), (&mut self.stages, other.stages)]);
        for (own, others) in counts {
            others.iter().for_each(|(key, count)| add(own, key, *count));
        }
    }

    /// The summary of all of them.
    pub fn told(&self, took: Duration) -> String {
        let speed = self.seeds as f64 / took.as_secs_f64().max(0.001);
        let lines = [
            format!("{} seeds in {:.0} s, {speed:.0} a second", self.seeds, took.as_secs_f64()),
            format!("plans: {}; writes of the controller: {} tried, {} took effect", self.plans, self.tries, self.writes),
            format!("writes of everybody that were held against the promises: {}", self.events),
            format!("acts that took effect: {}", list(&self.acts)),
            format!("faults of writes: {}", list(&self.faults)),
            format!("phases reached: {}", list(&self.phases)),
            format!("stages waited for: {}", list(&self.stages)),
        ];
        lines.join("\n")
    }
}

fn add(counts: &mut Counts, key: &str, count: u64) {
    match counts.get_mut(key) {
        Some(sum) => *sum += count,
        None => drop(counts.insert(key.to_owned(), count)),
    }
}

fn list(counts: &Counts) -> String {
    counts.iter().map(|(key, count)| format!("{key} {count}")).collect::<Vec<_>>().join(", ")
}

fn name(fault: &Fault) -> String {
    match fault {
        Fault::Refused(code) => format!("Refused {code}"),
        Fault::Late(_) => "Late".to_owned(),
        other => format!("{other:?}"),
    }
}

/// How far it is.
pub struct Progress {
    pub done: u64,
    pub of: u64,
    pub failed: usize,
    pub took: Duration,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = self.done as f64 / self.took.as_secs_f64().max(0.001);
        let left = (self.of - self.done) as f64 / speed.max(0.001);
        write!(f, "{} of {} seeds, {speed:.0} a second, {} failed, {left:.0} s left", self.done, self.of, self.failed)
    }
}
