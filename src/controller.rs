//! The loop: what changed is looked at again, planned anew, and carried out. It never asks *why* it looks: a lost, doubled or merged
//! event makes no difference.

mod runs;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use kube::{Client, runtime::scheduler};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    act::{ActError, Actor},
    core::{self, Observed, Settings, observed::DryRun, patch::Kind, policy, revision},
    lease::Claim,
    metrics::Measure,
    notify::Notifier,
    telemetry::Telemetry,
    world::{Key, Watched, World},
};

/// Objects that are worked on at the same time. So many that an abort does not wait behind requests that are slow: a Service takes Kubernetes
/// seconds to make where many are made at once.
const CONCURRENCY: usize = 256;
/// Wait before a write that met a change is planned again.
const AFTER_STALE: Duration = Duration::from_millis(150);
/// Waits after failures in a row: each about twice as long as the one before, with a jitter, so that what failed together is not tried
/// again together.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(30))
    .with_factor(2.0)
    .with_jitter()
    .without_max_times();
/// A template that the API server refuses is asked about again after this time.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// An eviction that was put off is asked for again after this time.
const NOT_YET_AGAIN: Duration = Duration::from_secs(5);

/// The clock, as an argument: a simulated one in tests.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub struct Controller {
    pub world: World,
    pub actor: Actor,
    pub claim: Claim,
    pub settings: Settings,
    pub measure: Arc<dyn Measure>,
    pub notifier: Notifier,
    pub telemetry: Telemetry,
    pub clock: Clock,
    pub client: Client,
    /// The namespace in which Sluice runs: its Secrets are those of ClusterAnalysisTemplates. Empty: none.
    installed_in: String,
    /// The API server's answers about templates, for as long as their ReplicaSets do not exist. Only a memory of questions: losing
    /// it costs one more.
    answers: Mutex<HashMap<String, (String, DryRun)>>,
    failures: Mutex<HashMap<Key, ExponentialBackoff>>,
}

/// How an object is to be looked at again.
type Next = Option<Duration>;

impl Controller {
    pub fn new(
        client: Client,
        world: World,
        claim: Claim,
        settings: Settings,
        measure: Arc<dyn Measure>,
        telemetry: Telemetry,
        clock: Clock,
    ) -> Self {
        Self {
            actor: Actor::new(client.clone(), world.clone(), claim.clone()),
            notifier: Notifier::new(client.clone()),
            world,
            claim,
            settings,
            measure,
            telemetry,
            clock,
            client,
            installed_in: String::new(),
            answers: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Runs in this namespace.
    pub fn installed_in(mut self, namespace: &str) -> Self {
        self.installed_in = namespace.to_owned();
        self
    }

    /// Watches and works for ever.
    pub async fn run(self) {
        let controller = Arc::new(self);
        let watches = Watched::ALL.map(|kind| {
            let (world, client) = (controller.world.clone(), controller.client.clone());
            async move { world.follow(client, kind).await }.boxed()
        });
        let watches = futures::future::join_all(watches);
        tokio::select! {
            _ = watches => {}
            () = controller.work() => {}
        }
    }

    async fn work(self: &Arc<Self>) {
        let (again, requests) = mpsc::unbounded_channel();
        let changes = self.world.changes().map(|key| (key, Duration::ZERO));
        let waiting: Mutex<HashSet<Key>> = Mutex::default();
        let count = |change: &dyn Fn(&mut HashSet<Key>) -> bool| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut waiting);
            self.telemetry.queued(waiting.len());
        };
        let requests = futures::stream::select(changes, UnboundedReceiverStream::new(requests)).map(|(key, wait)| {
            if wait.is_zero() {
                count(&|waiting| waiting.insert(key.clone()));
            }
            scheduler::ScheduleRequest { message: key, run_at: Instant::now() + wait }
        });
        let mut queue = std::pin::pin!(scheduler::debounced_scheduler(requests, Duration::from_millis(20)));
        let mut working: HashSet<Key> = HashSet::new();
        let mut work = FuturesUnordered::new();
        self.world.ready().await;
        tracing::info!("knows the cluster");
        let leads = self.look_at_everything_when_leading(again.clone());
        let mut leads = std::pin::pin!(leads);
        loop {
            let free = working.len() < CONCURRENCY;
            let next = futures::future::poll_fn(|cx| queue.as_mut().hold_unless(|key| free && !working.contains(key)).poll_next_unpin(cx));
            tokio::select! {
                () = &mut leads => {}
                Some((key, next)) = work.next(), if !work.is_empty() => {
                    working.remove(&key);
                    if let Some(wait) = next {
                        // The receiver lives as long as this loop.
                        drop(again.send((key, wait)));
                    }
                }
                Some(key) = next => {
                    count(&|waiting| waiting.remove(&key));
                    working.insert(key.clone());
                    let controller = self.clone();
                    work.push(async move {
                        let next = controller.look(&key).await;
                        (key, next)
                    });
                }
            }
        }
    }

    /// A new leader takes nothing for granted that another one has seen.
    async fn look_at_everything_when_leading(&self, again: mpsc::UnboundedSender<(Key, Duration)>) {
        loop {
            self.claim.leading().await;
            let keys = self.world.read(|index| index.all_keys());
            tracing::info!(objects = keys.len(), epoch = self.claim.epoch(), "leads: looks at everything");
            for key in keys {
                if again.send((key, Duration::ZERO)).is_err() {
                    return;
                }
            }
            self.claim.lost().await;
        }
    }

    /// One look at one object; says when to look again, beside when something changes.
    async fn look(&self, key: &Key) -> Next {
        if !self.claim.holds() {
            return None;
        }
        let started = Instant::now();
        let result = match key {
            Key::Rollout { namespace, name } => self.look_at_rollout(namespace, name).await,
            Key::Run { namespace, name } => self.look_at_run(namespace, name).await,
        };
        self.telemetry.looked(started.elapsed(), result.as_ref().err().map(ActError::class));
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(next) => {
                failures.remove(key);
                next
            }
            Err(ActError::NotLeader) => None,
            Err(ActError::Stale { what }) => {
                tracing::debug!(?key, what, "has changed meanwhile");
                Some(AFTER_STALE)
            }
            Err(error) => {
                tracing::warn!(?key, %error, "failed; tries again");
                failures.entry(key.clone()).or_insert_with(|| BACKOFF.build()).next()
            }
        }
    }

    async fn look_at_rollout(&self, namespace: &str, name: &str) -> Result<Next, ActError> {
        let Some(mut obs) = self.world.read(|index| index.observe(namespace, name, self.claim.epoch())) else { return Ok(None) };
        let refused = self.ask(&mut obs).await?;
        let now = (self.clock)();
        let plan = core::plan(&obs, &self.settings, now);
        let revision = plan.status.canary_revision.as_deref().unwrap_or_default();
        let mut not_yet = None;
        let mut failed = None;
        for action in &plan.actions {
            if failed.is_some() && !action.stands_alone() {
                break;
            }
            tracing::info!(namespace, rollout = name, revision, action = action.what, "acts");
            match self.timed(self.actor.carry_out(namespace, action)).await {
                Ok(()) => {}
                // The status tells what is waited for.
                Err(ActError::NotYet { .. }) => {
                    not_yet = Some(NOT_YET_AGAIN);
                    break;
                }
                Err(error) => {
                    if let ActError::Refused { what, message } = &error {
                        self.notifier.refused(&obs.rollout, what, message).await;
                    }
                    failed.get_or_insert(error);
                    if !action.stands_alone() {
                        break;
                    }
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if plan.status != obs.rollout.status {
            tracing::info!(namespace, rollout = name, revision, phase = ?plan.status.phase, message = plan.status.message, "status");
            let status = serde_json::to_value(&plan.status).unwrap_or_default();
            self.timed(self.actor.write_status(namespace, Kind::Rollout, &obs.rollout.meta, &status)).await?;
            self.telemetry.went_on(&obs.rollout, &plan.status);
            self.notifier.publish(&obs.rollout, &plan.events).await;
        }
        let wake = plan.wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        Ok([wake, not_yet, refused.then_some(REFUSED_AGAIN)].into_iter().flatten().min())
    }

    /// One write, with its time and its result in the metrics.
    async fn timed(&self, write: impl Future<Output = Result<(), ActError>>) -> Result<(), ActError> {
        let started = Instant::now();
        let done = write.await;
        self.telemetry.wrote(started.elapsed(), done.as_ref().err().map(ActError::class));
        done
    }

    /// Asks the API server about a template that nobody has asked about yet. True if it refuses the template.
    async fn ask(&self, obs: &mut Observed) -> Result<bool, ActError> {
        if policy::question(obs) {
            obs.policies = Some(self.actor.policies(&obs.rollout.namespace).await?);
        }
        let Some(question) = revision::question(obs) else { return Ok(false) };
        let uid = obs.rollout.meta.uid.clone();
        let digest = revision::template(obs).map(revision::digest).unwrap_or_default();
        let known =
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).filter(|(of, _)| *of == digest).map(|(_, a)| a.clone());
        let answer = match known {
            Some(answer) => answer,
            None => self.actor.dry_run(&obs.rollout.namespace, &question).await?,
        };
        let refused = matches!(answer, DryRun::Refused(_));
        if !refused {
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (digest, answer.clone()));
        }
        obs.dry_run = Some(answer);
        Ok(refused)
    }
}
