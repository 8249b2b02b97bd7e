//! A plan in the making. Each part of the protocol is written as a straight line of `ensure…()?` calls; the first that is not true
//! yet adds the write that brings it about, says what it waits for, and ends the line. Every reconcile walks the line from its
//! beginning, so nothing depends on what was done before a crash.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    canary_rule::Portion,
    observed::{Observed, RouteView},
    patch::Action,
    revision,
    route::{Pair, Route},
    spec::{Spec, Weight},
};
use crate::api::{
    RolloutStatus,
    rollout::RouteRef,
    status::{HistoryEntry, RolloutOutcome, Transition},
};

/// What has to happen before the line can go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Pending {
    pub message: String,
    pub kind: Waiting,
}

/// What kind of wait it is: only the first two count against the progress deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For pods, endpoints, routes.
    Progress,
    /// For something that the spec names and that is not there.
    Missing,
    /// For a grace or drain time.
    Settling,
    /// For a pause to end.
    Pause,
    /// For a person.
    Person,
    /// For evidence.
    Analysis,
}

pub type Flow<T = ()> = Result<T, Pending>;

pub fn wait<T>(kind: Waiting, message: impl Into<String>) -> Flow<T> {
    Err(Pending { message: message.into(), kind })
}

/// The stages of a rollout and of the way home, in their order. A stage that is passed is not settled again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    // Rolling out.
    Pinned,
    CanaryServiceMade,
    Entered,
    CanaryReady,
    Selected,
    /// The pods for the weight that the step of this index sets.
    Capacity(usize),
    /// The weight or rule that the step of this index sets.
    Portion(usize),
    // The way home.
    Reentered,
    ServiceDrained,
    Repinned,
    BackHome,
    CanaryReleased,
    Left,
}

impl Stage {
    fn order(self) -> usize {
        match self {
            Self::Pinned | Self::Reentered => 0,
            Self::CanaryServiceMade | Self::ServiceDrained => 1,
            Self::Entered | Self::Repinned => 2,
            Self::CanaryReady | Self::BackHome => 3,
            Self::Selected | Self::CanaryReleased => 4,
            Self::Left => 5,
            Self::Capacity(index) => 10 + 2 * index,
            Self::Portion(index) => 11 + 2 * index,
        }
    }

    fn scope(self) -> &'static str {
        match self {
            Self::Reentered | Self::ServiceDrained | Self::Repinned | Self::BackHome | Self::CanaryReleased | Self::Left => "home",
            _ => "roll",
        }
    }

    fn name(self) -> String {
        match self {
            Self::Capacity(index) => format!("Capacity-{index}"),
            Self::Portion(index) => format!("Weight-{index}"),
            other => format!("{other:?}"),
        }
    }
}

/// A plan in the making.
pub struct Draft<'a> {
    pub obs: &'a Observed,
    pub spec: &'a Spec,
    pub now: Timestamp,
    pub status: RolloutStatus,
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
    pub canary_service: String,
    /// Pods wanted.
    pub replicas: i32,
    /// The revision that keeps its pods after a promotion, and until when.
    pub warm: Option<(String, Timestamp)>,
    /// The revision of the present template, once it is known.
    pub template: String,
}

impl<'a> Draft<'a> {
    pub fn time(&self) -> MicroTime {
        MicroTime(self.now)
    }

    pub fn act(&mut self, action: Action) {
        if !self.actions.contains(&action) {
            self.actions.push(action);
        }
    }

    /// Looks again at `at`, or earlier.
    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    pub fn pair(&self) -> (String, String) {
        (self.spec.traffic.service.clone(), self.canary_service.clone())
    }

    /// The routes that exist: those that the spec names and those that carry our record.
    pub fn routes(&self) -> Vec<Route<'_>> {
        self.obs.routes.iter().map(|view| self.route(view)).collect()
    }

    fn route<'b>(&'b self, view: &'b RouteView) -> Route<'b> {
        let named = |r: &&RouteRef| r.kind == view.kind && r.name == view.meta.name;
        Route {
            view,
            rollout: &self.obs.rollout.meta.name,
            namespace: &self.obs.rollout.namespace,
            pair: Pair { service: &self.spec.traffic.service, canary: &self.canary_service },
            rule_names: self.spec.traffic.routes.iter().find(named).map_or(&[], |r| &r.rule_names),
        }
    }

    /// The stage that a revision's rollout (or its way home) has reached.
    fn reached(&self, revision: &str, scope: &str) -> Option<usize> {
        let what = &self.status.transition.as_ref()?.what;
        what.strip_prefix(scope)?.strip_prefix('/')?.strip_prefix(revision)?.strip_prefix('/')?.get(..3)?.parse().ok()
    }

    /// Whether a rollout is at a stage, or past it.
    pub fn has_reached(&self, revision: &str, stage: Stage) -> bool {
        self.reached(revision, stage.scope()).is_some_and(|reached| reached >= stage.order())
    }

    /// Whether a rollout is past a stage.
    pub fn is_past(&self, revision: &str, stage: Stage) -> bool {
        self.reached(revision, stage.scope()).is_some_and(|reached| reached > stage.order())
    }

    /// A stage that was passed but is true no more is settled again, with all that come after it.
    pub fn rewind(&mut self, revision: &str, stage: Stage) {
        if self.is_past(revision, stage) {
            self.status.transition = None;
        }
    }

    /// What the way home had observed is so no more: its times start again.
    pub fn rewind_home(&mut self) -> bool {
        let home = self.status.transition.as_ref().is_some_and(|t| t.what.starts_with("home/"));
        if home {
            self.status.transition = None;
        }
        home
    }

    /// Waits until a stage is observed and `seconds` have passed since. The moment is in status; a lost one starts again.
    pub fn settle(&mut self, revision: &str, stage: Stage, observed: Result<(), String>, seconds: i32) -> Flow {
        if self.is_past(revision, stage) {
            return Ok(());
        }
        let what = format!("{}/{revision}/{:03}-{}", stage.scope(), stage.order(), stage.name());
        let same = self.status.transition.as_ref().filter(|t| t.what == what).cloned();
        let since = same.as_ref().map_or_else(|| self.time(), |t| t.since.clone());
        if let Err(message) = observed {
            // What was observed once and is so no more starts again.
            let since = if same.is_some_and(|t| t.observed_at.is_some()) { self.time() } else { since };
            self.status.transition = Some(Transition { what, since, observed_at: None });
            return wait(Waiting::Progress, message);
        }
        let observed_at = same.and_then(|t| t.observed_at).unwrap_or_else(|| self.time());
        let end = observed_at.0 + SignedDuration::from_secs(i64::from(seconds));
        self.status.transition = Some(Transition { what, since, observed_at: Some(observed_at) });
        if self.now >= end {
            return Ok(());
        }
        self.wake(end);
        wait(Waiting::Settling, format!("{}; waits {seconds} s before it goes on", stage.words()))
    }

    /// When the present transition began to be waited for.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        self.status.transition.as_ref().filter(|t| t.observed_at.is_none()).map(|t| t.since.0)
    }

    /// The revision that serves.
    pub fn stable(&self) -> Option<String> {
        let known = self.status.stable_revision.as_ref().filter(|hash| self.obs.replica_set(hash).is_some());
        known.cloned().or_else(|| revision::stable(self.obs))
    }

    /// Gives the canary this portion, and no more, in every route where it has another.
    pub fn set_portion(&mut self, portion: &Portion) -> bool {
        self.write_portion(portion, None)
    }

    /// The canary gets nothing.
    pub fn take_all(&mut self) -> bool {
        self.set_portion(&Portion::default())
    }

    pub fn write_portion(&mut self, portion: &Portion, rejected: Option<&str>) -> bool {
        let denominator = self.spec.denominator();
        let epoch = self.obs.epoch;
        // A canary that is taken back before its Service was made has no backend in any route: it must not get one for that.
        let enters = rejected.is_none() || self.obs.canary_service.is_some();
        let needs = |route: &Route| {
            let record = route.record();
            let recorded = record.and_then(|r| r.rejected.as_deref());
            (enters || record.is_some()) && (!route.has(portion, denominator) || (rejected.is_some() && recorded != rejected))
        };
        let actions: Vec<Action> =
            self.routes().iter().filter(|r| needs(r)).map(|r| r.set(portion, denominator, rejected, epoch)).collect();
        let changed = !actions.is_empty();
        for action in actions {
            self.act(action);
        }
        changed
    }

    /// Every route gives the canary just this, and every parent that reports has taken it up.
    pub fn portion_observed(&self, portion: &Portion) -> Result<(), String> {
        for route in self.routes() {
            let off = portion.is_nothing() && route.is_off(self.spec.denominator());
            if !off && !route.has(portion, self.spec.denominator()) {
                return Err(format!("waits for {} {} to give the canary {portion}", route.view.kind, route.view.meta.name));
            }
            route.accepted().map_err(|why| format!("waits for the gateway: {why}"))?;
        }
        Ok(())
    }

    /// The largest share that any route gives the canary now.
    pub fn live_weight(&self) -> Weight {
        self.routes().iter().map(Route::canary_weight).max().unwrap_or_default()
    }

    /// Any route gives the canary requests, or copies of them: by weight, or by a rule of ours.
    pub fn is_on(&self) -> bool {
        self.routes().iter().any(Route::is_on)
    }

    /// Any route carries our record: the canary's backend has entered, and has not left.
    pub fn is_recorded(&self) -> bool {
        self.routes().iter().any(|route| route.record().is_some())
    }

    /// The canary gets no traffic, and its Service selects nothing but stable.
    pub fn is_home(&self, stable: &str) -> bool {
        !self.is_on() && !self.selects_others(stable)
    }

    /// Adds the end of the running rollout to the history.
    pub fn remember(&mut self, outcome: RolloutOutcome, message: impl Into<String>) {
        let Some(canary) = self.status.canary.clone() else { return };
        let images = self.obs.replica_set(&canary.revision).map(|rs| rs.images.clone()).unwrap_or_default();
        self.status.history.push(HistoryEntry {
            over: self.status.stable_revision.clone().filter(|stable| *stable != canary.revision),
            revision: canary.revision,
            images,
            outcome,
            message: message.into(),
            started_at: canary.started_at,
            finished_at: self.time(),
        });
        let surplus = self.status.history.len().saturating_sub(10);
        self.status.history.drain(..surplus);
    }
}

impl Stage {
    fn words(self) -> &'static str {
        match self {
            Self::Pinned => "the Service is pinned to stable",
            Self::CanaryServiceMade => "the canary Service is in place",
            Self::Entered => "the canary's backend is in the routes at weight 0",
            Self::CanaryReady | Self::Capacity(_) => "the canary's pods are ready",
            Self::Selected => "the canary Service selects the canary's pods",
            Self::Portion(_) => "the routes have what the step sets",
            Self::Reentered => "the new version's backend is in the routes again at weight 0",
            Self::ServiceDrained => "the old version gets no traffic any more",
            Self::Repinned => "the Service selects the new version",
            Self::BackHome => "all traffic is on the Service again",
            Self::CanaryReleased => "the canary Service selects the stable pods",
            Self::Left => "the routes are as they were",
        }
    }
}
