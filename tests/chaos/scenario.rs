//! What a seed makes: a world as Git has it, and what happens in it.

use std::time::Duration;

use serde_json::{Value, json};
use sluice::{
    api::Verb,
    sim::{api::Propagation, drive::Fault},
    world::Watched,
};

use super::random::Random;

/// How Git has the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    None,
    /// The route names the Service alone.
    ServiceAlone,
    /// The route lists both Services without weights.
    BothServices,
    /// The route lists both Services with weights.
    BothWithWeights,
}

/// The world before anything happens.
#[derive(Clone, Debug)]
pub struct Setup {
    pub traffic: Traffic,
    /// A second rule of the route that another application shares.
    pub shared_rule: bool,
    pub second_route: bool,
    /// The other application has a Rollout, too.
    pub two_rollouts: bool,
    /// The pod template is in the Rollout, not in a Deployment.
    pub own_template: bool,
    /// Git sets the Deployment's replicas.
    pub replicas_in_git: bool,
    pub replicas: u64,
    pub steps: Value,
    pub analysis: bool,
    pub scale_down_delay: u64,
    pub history_limit: u64,
}

/// Kinds of events that are left out, as what comes of them is known to be wrong.
/// A Deployment that is deleted and made again starts a pod of its own, which is taken for the version that serves.
const DEPLOYMENT_DELETED: bool = true;
/// ReplicaSets that a Rollout with its own template leaves behind (propagation Orphan) are neither taken back by the next one of its name
/// nor avoided by the names of its own.
const OWN_TEMPLATE_ORPHANED: bool = false;
/// A parked Deployment that somebody scales is set to 0 and unpaused: when Git then applies its replicas, it starts pods of its own, which
/// stay.
const PARKED_SCALED: bool = true;

/// Images by what becomes of their pods.
pub const GOOD: [&str; 4] = ["app:v1", "app:v2", "app:v3", "app:v4"];
pub const BAD_METRICS: &str = "app:bad";
pub const NEVER_READY: &str = "app:never";
pub const CRASHES: &str = "app:crash";

/// When something happens, after what happened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Seconds(u64),
    Millis(u64),
    /// After so many writes of the controller, or 30 s if there are fewer.
    Writes(usize),
}

/// One thing that happens. What does not fit the moment (an object that is not there) is let pass, so that any part of a scenario is one.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Deploy(&'static str),
    Command {
        verb: Verb,
        /// Addressed to what the Rollout was at when the one before was given.
        stale: bool,
        /// An Undo names the revision: the one at this place in the list of ReplicaSets.
        to: Option<u64>,
    },
    EditSteps(Value),
    Pause(bool),
    ScaleRollout(u64),
    ScaleDeployment(u64),
    /// Git applies again what it has of a kind.
    PutBack(Watched),
    /// The author gives the other application another weight.
    EditRoute(u64),
    Delete(Watched, Propagation),
    DeleteCanaryService,
    LoseStatus,
    Crash,
    /// What goes wrong with the write after so many others.
    Fault(usize, Fault),
    Lag(Watched, Duration),
    /// A pod is deleted: its node is gone.
    LosePod(u64),
}

impl Act {
    /// What kind of thing it is.
    pub fn name(&self) -> String {
        match self {
            Self::Command { verb, .. } => format!("{verb:?}"),
            Self::Deploy(image) => format!("Deploy {image}"),
            Self::Delete(kind, _) => format!("Delete{kind:?}"),
            Self::PutBack(kind) => format!("PutBack{kind:?}"),
            Self::Lag(kind, _) => format!("Lag{kind:?}"),
            Self::EditSteps(_) => "EditSteps".to_owned(),
            other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub when: When,
    /// Of the other application.
    pub other: bool,
    pub act: Act,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub setup: Setup,
    pub events: Vec<Event>,
    /// Whether the Rollout stays in Git in the end.
    pub kept: bool,
}

impl Scenario {
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let setup = Setup::of(&mut random);
        let events = (0..random.between(2, 12)).map(|_| Event::of(&mut random, &setup)).collect();
        Self { seed, setup, events, kept: random.is(85) }
    }

    /// Somebody takes away what requests need: then some fail, whatever the controller does.
    pub fn is_rough(&self) -> bool {
        let pods_go = self.setup.own_template && !self.kept;
        pods_go
            || self.events.iter().any(|event| {
                matches!(
                    event.act,
                    Act::Deploy(CRASHES)
                        | Act::Delete(..)
                        | Act::DeleteCanaryService
                        | Act::LosePod(_)
                        | Act::PutBack(_)
                        | Act::EditRoute(_)
                )
            })
    }
}

impl Setup {
    fn of(random: &mut Random) -> Self {
        use Traffic::{BothServices, BothWithWeights, None, ServiceAlone};
        let own_template = random.is(15);
        let traffic = random.weighted(&[(15, None), (50, ServiceAlone), (20, BothServices), (15, BothWithWeights)]);
        Self {
            traffic,
            shared_rule: random.is(40),
            second_route: random.is(25),
            two_rollouts: !own_template && random.is(20),
            own_template,
            replicas_in_git: !own_template && random.is(15),
            replicas: random.between(1, 4),
            steps: as_far_as_routes_can(traffic, steps(random)),
            analysis: random.is(60),
            scale_down_delay: random.weighted(&[(70, 0), (30, 120)]),
            history_limit: random.weighted(&[(70, 10), (30, 1)]),
        }
    }
}

/// Without routes nothing tells requests apart.
fn as_far_as_routes_can(traffic: Traffic, steps: Value) -> Value {
    let needs_route = |step: &Value| !step["setHeaderRoute"].is_null() || !step["setMirrorRoute"].is_null();
    let steps = steps.as_array().into_iter().flatten().filter(|step| traffic != Traffic::None || !needs_route(step));
    steps.cloned().collect()
}

fn steps(random: &mut Random) -> Value {
    let count = random.between(1, 6);
    let mut weight = 0;
    let mut one = || match random.weighted(&[(50, 0), (20, 1), (10, 2), (10, 3), (10, 4), (16, 5), (12, 6)]) {
        0 => {
            weight = if random.is(85) { random.between(weight, 100) } else { random.between(0, 100) };
            json!({"setWeight": weight})
        }
        1 => json!({"pause": {"duration": format!("{}s", random.of(&[1, 10, 40]))}}),
        2 => json!({"pause": {}}),
        3 => json!({"setCanaryScale": random.of(&[json!({"replicas": 2}), json!({"percent": 50}), json!({"matchTrafficWeight": true})])}),
        4 => json!({"analysis": {"metrics": [metric()]}}),
        5 => json!({"setHeaderRoute": random.of(&[json!({"name": "testers", "match": [header("yes")]}),
            json!({"name": "testers", "match": [header("qa")]}), json!({"name": "more", "match": [header("more")]}), json!({"name": "testers"})])}),
        _ => json!({"setMirrorRoute": random.of(&[json!({"name": "copy", "match": [{"method": {"exact": "GET"}}]}),
            json!({"name": "copy", "percentage": 20, "match": [{"method": {"exact": "GET"}}]}), json!({"name": "copy", "percentage": 0})])}),
    };
    (0..count).map(|_| one()).collect()
}

fn header(value: &str) -> Value {
    json!({"headerName": "X-Canary", "headerValue": {"exact": value}})
}

pub fn metric() -> Value {
    json!({"name": "success", "prometheus": {"query": "up"}, "min": 99, "interval": "10s", "count": 2})
}

impl Event {
    fn of(random: &mut Random, setup: &Setup) -> Self {
        use When::{Millis, Seconds, Writes};
        let seconds = random.of(&[0, 1, 3, 10, 30, 60, 200]);
        let (millis, writes) = (random.between(1, 900), random.between(1, 12) as usize);
        let when = random.weighted(&[(35, Seconds(seconds)), (15, Millis(millis)), (50, Writes(writes))]);
        let act = match Act::of(random) {
            // A real EndpointSlice controller takes orphaned slices back; the simulated one does not.
            Act::Delete(Watched::Service, _) => Act::Delete(Watched::Service, Propagation::Background),
            Act::Delete(kind, Propagation::Orphan) if setup.own_template && !OWN_TEMPLATE_ORPHANED => {
                Act::Delete(kind, Propagation::Background)
            }
            Act::EditSteps(steps) => Act::EditSteps(as_far_as_routes_can(setup.traffic, steps)),
            Act::ScaleDeployment(replicas) if setup.replicas_in_git && !PARKED_SCALED => Act::ScaleRollout(replicas),
            act => act,
        };
        Self { when, other: setup.two_rollouts && random.is(25), act }
    }
}

impl Act {
    fn of(random: &mut Random) -> Self {
        match random.weighted(&[(28, 0), (24, 1), (34, 2), (14, 3)]) {
            0 => Self::template(random),
            1 => Self::person(random),
            2 => Self::tool(random),
            _ => Self::fault(random),
        }
    }

    fn template(random: &mut Random) -> Self {
        let good = random.of(&GOOD);
        Self::Deploy(random.weighted(&[(70, good), (12, BAD_METRICS), (10, NEVER_READY), (8, CRASHES)]))
    }

    fn person(random: &mut Random) -> Self {
        use Verb::{Abort, Pause, Promote, PromoteFull, Restart, Resume, Retry, SkipStep, Undo};
        let verb = random.of(&[Promote, Promote, PromoteFull, Abort, Retry, Pause, Resume, SkipStep, Undo, Undo, Restart]);
        let to = (verb == Undo && random.is(50)).then(|| random.below(5));
        Self::Command { verb, stale: random.is(12), to }
    }

    fn tool(random: &mut Random) -> Self {
        use Watched::{Deployment, HttpRoute, Rollout, Service};
        let kind = random.of(&[Deployment, HttpRoute, Rollout, Service]);
        let deleted = if DEPLOYMENT_DELETED { kind } else { random.of(&[HttpRoute, Rollout, Service]) };
        let policy = random.of(&[Propagation::Background, Propagation::Foreground, Propagation::Orphan]);
        let (steps, paused) = (steps(random), random.is(50));
        let (few, weight, pod) = (random.between(1, 5), random.of(&[1, 2, 5]), random.below(9));
        random.weighted(&[
            (8, Self::EditSteps(steps)),
            (8, Self::Pause(paused)),
            (10, Self::ScaleRollout(few)),
            (6, Self::ScaleDeployment(few)),
            (25, Self::PutBack(kind)),
            (10, Self::EditRoute(weight)),
            (12, Self::Delete(deleted, policy)),
            (6, Self::DeleteCanaryService),
            (8, Self::LoseStatus),
            (6, Self::LosePod(pod)),
        ])
    }

    fn fault(random: &mut Random) -> Self {
        use Watched::{Deployment, HttpRoute, Pod, ReplicaSet, Rollout, Service};
        let after = random.below(15) as usize;
        let late = Duration::from_millis(random.of(&[100, 1000, 4000, 20_000]));
        let refused = random.of(&[409, 429, 500]);
        let fault = random.of(&[Fault::Refused(refused), Fault::Unanswered, Fault::Crash, Fault::Late(late)]);
        let kind = random.of(&[Deployment, HttpRoute, Pod, ReplicaSet, Rollout, Service]);
        random.weighted(&[(15, Self::Crash), (65, Self::Fault(after, fault)), (20, Self::Lag(kind, late))])
    }
}
