//! A scenario takes its course; then the faults stop, and what comes of it is held against the promises.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::SignedDuration;
use serde_json::{Value, json};
use sluice::{
    api::Verb,
    sim::{api::Propagation, drive::path},
    world::Watched,
};

use super::{
    ends,
    scenario::{Act, Event, Scenario, When},
    timeline,
    world::{NS, World, image},
};

/// Everything that may be waited for ends within this time: deadlines, pauses, drains, a contested route.
const BOUND_SECONDS: i64 = 1800;
/// Once that is over, nothing is written for so long.
const REST_SECONDS: i64 = 1000;

/// What is wrong, and what happened.
pub struct Failure {
    pub why: Vec<String>,
    pub timeline: Vec<String>,
}

pub fn play(scenario: &Scenario) -> Result<(), Failure> {
    let (world, why) = played(scenario);
    if why.is_empty() { Ok(()) } else { Err(Failure { why, timeline: timeline::of(&world) }) }
}

/// How it goes, whether it fails or not: what is wrong in the end, and the timeline.
pub fn told(scenario: &Scenario) -> Failure {
    let (world, why) = played(scenario);
    Failure { why, timeline: timeline::of(&world) }
}

/// The world after it, and what is wrong.
pub fn played(scenario: &Scenario) -> (World, Vec<String>) {
    let mut world = World::new(scenario.seed, &scenario.setup);
    world.drive.promises.lenient_about_requests = scenario.is_rough();
    let played = catch_unwind(AssertUnwindSafe(|| course(&mut world, scenario)));
    let mut why = played.unwrap_or_else(|panic| vec![words(panic.as_ref())]);
    why.splice(0..0, world.drive.promises.broken.iter().take(5).cloned());
    (world, why)
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn course(world: &mut World, scenario: &Scenario) -> Vec<String> {
    for event in &scenario.events {
        world.wait_for(event.when);
        world.happen(event);
        if !world.drive.promises.broken.is_empty() {
            return vec![];
        }
    }
    world.settle(scenario.kept);
    let (mut wrong, rests) = ends::wrong(world, scenario.kept);
    let (writes, tries) = (world.drive.writes, world.drive.tries);
    world.wait(REST_SECONDS);
    if rests && (world.drive.writes, world.drive.tries) != (writes, tries) {
        wrong.push(format!(
            "L2: {} writes were tried after the end, {} of them took effect",
            world.drive.tries - tries,
            world.drive.writes - writes
        ));
    }
    wrong
}

impl World {
    fn wait_for(&mut self, when: When) {
        let (time, writes) = match when {
            When::Seconds(seconds) => (SignedDuration::from_secs(seconds as i64), usize::MAX),
            When::Millis(millis) => (SignedDuration::from_millis(millis as i64), usize::MAX),
            When::Writes(writes) => (SignedDuration::from_secs(30), self.drive.writes + writes),
        };
        let end = self.drive.now + time;
        self.drive.run(end, |drive| drive.writes >= writes);
    }

    fn happen(&mut self, event: &Event) {
        let app = if event.other { "other" } else { "api" };
        self.drive.log.push(format!("{} ----- {app}: {:?}", self.drive.now, event.act));
        let before = self.drive.api.revision();
        self.do_it(app, &event.act);
        // What is asked of an object that is not there, or that is so already, is nothing that happens; faults are counted when they come.
        if self.drive.api.revision() > before || matches!(event.act, Act::Crash | Act::Lag(..)) {
            self.happened.push(event.act.name());
        }
    }

    fn do_it(&mut self, app: &str, act: &Act) {
        match act {
            Act::Deploy(image) => self.deploy(app, image),
            Act::Command { verb, stale, to } => self.command(app, *verb, *stale, *to),
            Act::EditSteps(steps) => {
                self.spec_mut(Watched::Rollout, app)["strategy"]["canary"]["steps"] = steps.clone();
                self.apply(Watched::Rollout, app);
            }
            Act::Pause(paused) => {
                self.spec_mut(Watched::Rollout, app)["paused"] = json!(paused);
                self.apply(Watched::Rollout, app);
            }
            Act::ScaleRollout(replicas) => self.scale(Watched::Rollout, app, *replicas),
            Act::ScaleDeployment(replicas) => self.scale(Watched::Deployment, app, *replicas),
            Act::PutBack(kind) => self.apply_all(|each| each == *kind),
            Act::EditRoute(weight) => {
                self.write_routes(*weight);
                self.apply_all(|each| each == Watched::HttpRoute);
            }
            Act::Delete(kind, policy) => {
                let name = if *kind == Watched::HttpRoute { "shop" } else { app };
                self.delete(*kind, name, *policy);
            }
            Act::DeleteCanaryService => self.delete(Watched::Service, &format!("{app}-canary"), Propagation::Background),
            Act::LoseStatus => {
                let path = path(Watched::Rollout, NS, app) + "/status";
                let body = json!([{"op": "add", "path": "/status", "value": {}}]);
                self.send("PATCH", &path, "backup", "application/json-patch+json", body);
            }
            Act::Crash => self.drive.crash(),
            Act::Fault(after, fault) => drop(self.drive.faults.insert(self.drive.tries + 1 + after, *fault)),
            Act::Lag(kind, time) => self.drive.lag(*kind, *time),
            Act::LosePod(at) => {
                let pods: Vec<String> = self.of_app(Watched::Pod, app).iter().map(|pod| pod["metadata"]["name"].to_string()).collect();
                if let Some(name) = pods.get(*at as usize % pods.len().max(1)) {
                    self.send(
                        "DELETE",
                        &path(Watched::Pod, NS, name.trim_matches('"')),
                        "node",
                        "application/json",
                        json!({"gracePeriodSeconds": 0}),
                    );
                }
            }
        }
    }

    fn deploy(&mut self, app: &str, image: &str) {
        let kind = if app == "api" && self.setup.own_template { Watched::Rollout } else { Watched::Deployment };
        self.spec_mut(kind, app)["template"]["spec"]["containers"][0]["image"] = json!(image);
        self.apply(kind, app);
    }

    /// The template that Git has.
    pub fn wished_image(&self, app: &str) -> String {
        let kind = if app == "api" && self.setup.own_template { Watched::Rollout } else { Watched::Deployment };
        self.git.get(&(kind, app.to_owned())).map(|object| image(&object["spec"]["template"]).to_owned()).unwrap_or_default()
    }

    pub fn command(&mut self, app: &str, verb: Verb, stale: bool, to: Option<u64>) {
        let now = self.status(app);
        let before = self.seen.insert(app.to_owned(), now.clone()).unwrap_or_default();
        let seen = if stale { before } else { now };
        let sets: Vec<Value> =
            self.of_app(Watched::ReplicaSet, app).iter().map(|rs| rs["metadata"]["labels"]["pod-template-hash"].clone()).collect();
        let step = seen["currentStep"]["index"].as_i64().unwrap_or(0);
        let mut spec = json!({"rollout": app, "verb": verb, "revision": seen["canaryRevision"].as_str().unwrap_or("none"), "step": step});
        if let Some(to) = to.and_then(|to| sets.get(to as usize)) {
            spec["toRevision"] = to.clone();
        }
        let name = format!("{}-{}", verb.to_string().to_lowercase(), self.drive.api.revision());
        let body = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction", "metadata": {"name": name}, "spec": spec});
        self.send("POST", &path(Watched::RolloutAction, NS, ""), "ann", "application/json", body);
    }

    /// Faults stop; Git applies what it has; and people answer what waits for them, until nothing does.
    fn settle(&mut self, kept: bool) {
        self.drive.log.push(format!("{} ----- faults stop", self.drive.now));
        self.drive.end_faults();
        for app in self.apps() {
            self.spec_mut(Watched::Rollout, app)["paused"] = json!(false);
        }
        // A deletion that is under way ends before the object can be made again.
        for _ in 0..2 {
            self.apply_all(|_| true);
            self.wait(300);
        }
        for _ in 0..12 {
            let waiting: Vec<&str> = self.apps().into_iter().filter(|app| self.status(app)["phase"] == "Paused").collect();
            for app in waiting {
                let held = !self.status(app)["hold"].is_null();
                self.command(app, if held { Verb::Resume } else { Verb::Promote }, false, None);
            }
            self.wait(BOUND_SECONDS / 12);
        }
        if !kept {
            self.git.remove(&(Watched::Rollout, "api".to_owned()));
            self.delete(Watched::Rollout, "api", Propagation::Background);
        }
        self.wait(BOUND_SECONDS);
    }
}
