//! One rollout of a new version, from its first moment to its end, in virtual time.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::world::World;
use crate::{
    api::run::Arm,
    cli::error::Error,
    sim::{
        clients::{Clients, Plan, Tally},
        drive::Audience,
        random::Random,
    },
};

/// How a rollout came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Promoted,
    Aborted,
    /// Nothing moves until a person acts.
    Waiting,
    /// It was not over at the limit.
    Going,
}

/// One rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    pub end: End,
    /// From the new version's coming until then. An abort has ended when all traffic is stable's.
    pub after: SignedDuration,
    /// What the Rollout says then.
    pub why: String,
    /// The step that it was at before its end, such as `2/6`.
    pub step: Option<String>,
    /// What the new version was asked, and how often it failed.
    pub canary: Arm,
    /// For how long as much as all traffic went to the new version.
    pub exposure: SignedDuration,
}

/// What is the same in all runs.
pub struct Runs<'a> {
    pub world: &'a World,
    pub plan: &'a Plan,
    pub seed: u64,
    pub limit: SignedDuration,
    /// A person ends each pause that waits for one, after this time.
    pub promote_after: Option<SignedDuration>,
}

impl Runs<'_> {
    pub fn course(&self, run: u64) -> Result<Course, Error> {
        let mut world = self.world.clone();
        let begin = world.drive.now;
        let clients = Clients::new(self.plan.clone(), Random::new(self.seed, run), begin);
        let services = world.rollout.spec.traffic.as_ref().map(|traffic| [traffic.service.clone(), traffic.canary_service()]);
        let namespace = super::world::NAMESPACE.to_owned();
        world.drive.audience = Some(Audience { clients, namespace, services, stable: world.stable.clone() });
        world.deploy()?;
        let (mut step, limit) = (None, begin + self.limit);
        let (end, why) = self.follow(&mut world, limit, &mut step)?;
        let after = world.drive.now.duration_since(begin);
        let now = world.drive.now;
        let audience = world.drive.audience.as_mut().map(|audience| {
            audience.clients.flow(audience.clients.shares(), now);
            let Tally { requests, failures, .. } = audience.clients.tallies().canary;
            (Arm { requests, failures }, audience.clients.exposure())
        });
        let (canary, exposure) = audience.unwrap_or_default();
        Ok(Course { end, after, why, step, canary, exposure })
    }

    fn follow(&self, world: &mut World, limit: Timestamp, step: &mut Option<String>) -> Result<(End, String), Error> {
        let mut promote_at: Option<Timestamp> = None;
        loop {
            let status = world.status();
            *step = status["stepLabel"].as_str().map(str::to_owned).or(step.take());
            let message = || status["message"].as_str().unwrap_or_default().to_owned();
            let stable = status["stableRevision"].as_str().unwrap_or_default();
            if !stable.is_empty() && stable != world.stable {
                return Ok((End::Promoted, message()));
            }
            let aborted = status["phase"] == "Aborted";
            if aborted && world.drive.audience.as_ref().is_none_or(|audience| audience.clients.shares().canary == 0.0) {
                let why = status["rejected"].as_array().and_then(|rejected| rejected.last()?["reason"].as_str());
                return Ok((End::Aborted, why.map_or_else(message, str::to_owned)));
            }
            match (waits_for_person(world, &status), self.promote_after) {
                (None, _) => promote_at = None,
                (Some(Wait::Pause), Some(after)) => {
                    let at = *promote_at.get_or_insert(world.drive.now + after);
                    if at <= world.drive.now {
                        promote_at = None;
                        world.promote()?;
                    }
                }
                (Some(_), _) => return Ok((End::Waiting, message())),
            }
            let seen = world.drive.api.written(ROLLOUTS);
            let until = promote_at.unwrap_or(limit).min(limit);
            let news = |drive: &crate::sim::drive::Drive| {
                let gone = || drive.audience.as_ref().is_none_or(|audience| audience.clients.shares().canary == 0.0);
                drive.api.written(ROLLOUTS) != seen || aborted && gone()
            };
            if !world.drive.run(until, news) && world.drive.now >= limit {
                return Ok((End::Going, message()));
            }
        }
    }
}

const ROLLOUTS: &str = "rollouts.sluice.dev";

enum Wait {
    /// A pause without a duration.
    Pause,
    /// A hold, or `spec.paused`.
    Hold,
}

fn waits_for_person(world: &World, status: &Value) -> Option<Wait> {
    if status["phase"] != "Paused" {
        return None;
    }
    if !status["hold"].is_null() || world.rollout.spec.paused {
        return Some(Wait::Hold);
    }
    let steps = world.rollout.spec.strategy.canary.as_ref().map(|canary| canary.steps.as_slice()).unwrap_or_default();
    let index = usize::try_from(status["currentStep"]["index"].as_i64()?).ok()?;
    let pause = steps.get(index)?.pause.as_ref()?;
    (pause.duration.is_none() && pause.prove.is_none()).then_some(Wait::Pause)
}
