//! One scenario while it runs: what it has, what it says, and what is told of it when it fails.

use std::{
    fmt::{Display, Write as _},
    path::PathBuf,
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::LogParams};

use crate::{
    app::App,
    cluster::{Cluster, SYSTEM},
    load::{Load, Records},
    space::{Space, in_words},
};

/// What a failure is explained with.
const KINDS: [&str; 11] = [
    "Rollout",
    "HTTPRoute",
    "GRPCRoute",
    "Service",
    "BackendTLSPolicy",
    "Deployment",
    "ReplicaSet",
    "AnalysisRun",
    "RolloutAction",
    "ControllerRevision",
    "Pod",
];

pub type Body = for<'a> fn(&'a Test) -> LocalBoxFuture<'a, Result<()>>;

/// A scenario, by its name.
pub struct Scenario {
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    /// Whether it disturbs others: kills the controller, stops Prometheus, or measures shares so finely that nothing may run beside it.
    pub alone: bool,
    pub run: Body,
}

pub struct Test {
    pub name: &'static str,
    pub cluster: Rc<Cluster>,
    pub space: Space,
    began: Instant,
    sent: AtomicUsize,
    failed: AtomicUsize,
}

/// How a scenario ended.
pub struct Report {
    pub name: &'static str,
    pub result: Result<()>,
    pub took: Duration,
    pub sent: usize,
    pub failed: usize,
    /// Its namespace, if that was deleted and may not be gone yet.
    pub left: Option<Space>,
}

impl Test {
    pub async fn new(name: &'static str, cluster: Rc<Cluster>) -> Result<Self> {
        let began = Instant::now();
        let space = Space::create(&cluster.client, &format!("e2e-{name}")).await?;
        Ok(Self { name, cluster, space, began, sent: AtomicUsize::new(0), failed: AtomicUsize::new(0) })
    }

    pub fn say(&self, text: impl Display) {
        println!("[{:5.1} s] {}: {text}", self.began.elapsed().as_secs_f64(), self.name);
    }

    pub fn app(&self, name: &str) -> Result<App> {
        App::new(&self.cluster, &self.space, name)
    }

    /// Ends a load and counts its requests for the table.
    pub async fn stop(&self, load: Load) -> Result<Records> {
        self.count(load.stop().await?)
    }

    /// Counts the requests of a load that has ended for the table.
    pub fn count(&self, records: Records) -> Result<Records> {
        let failed = records.failures().count();
        self.sent.fetch_add(records.sent(), Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
        self.say(format!("{} requests sent, {failed} failed", records.sent()));
        ensure!(records.sent() > 0, "the load has sent nothing");
        Ok(records)
    }

    pub fn report(&self, result: Result<()>) -> Report {
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        Report { name: self.name, result, took: self.began.elapsed(), sent: count(&self.sent), failed: count(&self.failed), left: None }
    }

    /// What there is to see after a failure: a short form for the terminal, and the whole in a file.
    pub async fn explain(&self) -> Result<String> {
        let mut short = String::new();
        let mut long = String::new();
        for rollout in self.space.rollouts().list(&Default::default()).await? {
            let status = rollout.status.unwrap_or_default();
            let name = rollout.metadata.name.unwrap_or_default();
            writeln!(short, "Rollout {name}: {}", in_words(&status))?;
        }
        let mut events = self.space.list("Event").await?;
        let time = |event: &serde_json::Value| {
            let times = ["eventTime", "deprecatedLastTimestamp"].map(|field| event[field].as_str().unwrap_or_default().to_owned());
            times.into_iter().find(|time| !time.is_empty()).unwrap_or_default()
        };
        events.sort_by_key(time);
        let events: Vec<String> = events
            .iter()
            .map(|e| format!("{} {}/{} {}: {}", time(e), e["regarding"]["kind"], e["regarding"]["name"], e["reason"], e["note"]))
            .collect();
        let mut logs = self.controller_logs().await?;
        logs.retain(|line| line.contains(&self.space.name));
        writeln!(short, "the last events:\n  {}", tail(&events, 8))?;
        writeln!(short, "the controller's last words on this namespace:\n  {}", tail(&logs, 12))?;
        writeln!(long, "{short}\n\nall events:\n{}\n\nthe controller's log:\n{}", events.join("\n"), logs.join("\n"))?;
        for kind in KINDS {
            for object in self.space.list(kind).await? {
                writeln!(long, "\n--- {kind}\n{}", serde_yaml_ng::to_string(&object)?)?;
            }
        }
        let file: PathBuf = self.cluster.logs.join(format!("{}.txt", self.name));
        std::fs::write(&file, long).with_context(|| format!("write {}", file.display()))?;
        writeln!(short, "everything else is in {}", file.display())?;
        Ok(short)
    }

    /// What the controllers logged, also before their last restart.
    pub async fn controller_logs(&self) -> Result<Vec<String>> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), SYSTEM);
        let mut lines = vec![];
        for pod in self.cluster.controllers().await? {
            for previous in [true, false] {
                let asked = LogParams { previous, ..LogParams::default() };
                // There is no log of before where nothing was restarted.
                let Ok(text) = pods.logs(&pod.name_any(), &asked).await else { continue };
                lines.extend(text.lines().map(str::to_owned));
            }
        }
        lines.sort();
        Ok(lines)
    }
}

fn tail(lines: &[String], count: usize) -> String {
    lines[lines.len().saturating_sub(count)..].join("\n  ")
}
