//! The cluster that the scenarios run on, and the controller in it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::Value;
use tokio::process::Command;

use crate::wait::{seconds, wait_for, when};

/// Namespace of the controller.
pub const SYSTEM: &str = "sluice-system";
/// Replicas of the controller: one leads, one waits.
const REPLICAS: usize = 2;
const LABEL: &str = "app.kubernetes.io/name=sluice";

pub struct Cluster {
    pub client: Client,
    /// URL of the gateway, without a path.
    pub gateway: String,
    pub prometheus: String,
    /// Whether this is the cluster of `cluster/up`, whose parts can be stopped and whose processes can be killed.
    pub own: bool,
    /// Where the details of failures go.
    pub logs: PathBuf,
}

impl Cluster {
    pub async fn connect() -> Result<Self> {
        let variable = |name: &str| env::var(name).with_context(|| format!("{name} is not set: e2e/run sets it"));
        let client = Client::try_default().await.context("no cluster: KUBECONFIG is not set or not usable")?;
        client.apiserver_version().await.context("the API server does not answer")?;
        let logs = env::var_os("SLUICE_E2E_LOGS").map_or_else(|| root().join("target/e2e/logs"), PathBuf::from).join("scenarios");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        Ok(Self {
            client,
            gateway: variable("SLUICE_E2E_GATEWAY_URL")?,
            prometheus: variable("SLUICE_E2E_PROMETHEUS_URL")?,
            own: env::var_os("E2E_KUBECONFIG").is_none(),
            logs,
        })
    }

    /// Installs the controller as users do: by the chart.
    pub async fn install(&self) -> Result<()> {
        self.install_with(&[]).await
    }

    /// Installs or upgrades it with further values, each `key=value`.
    pub async fn install_with(&self, values: &[&str]) -> Result<()> {
        let prometheus = format!("prometheus.address={}", self.prometheus);
        let replicas = format!("replicas={REPLICAS}");
        let words = ["upgrade", "--install", "sluice", "--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "60s"];
        let fixed = ["image.repository=sluice.dev/sluice", "image.tag=e2e", "image.pullPolicy=Never", &replicas, &prometheus];
        let mut arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments.extend(fixed.iter().chain(values).flat_map(|value| ["--set".to_owned(), (*value).to_owned()]));
        arguments.push(root().join("charts/sluice").display().to_string());
        run("helm", arguments).await?;
        self.led().await?;
        Ok(())
    }

    pub async fn uninstall(&self) -> Result<()> {
        run("helm", ["uninstall", "sluice", "--namespace", SYSTEM, "--wait", "--timeout", "60s"]).await.map(drop)
    }

    /// As it was before an uninstall that was refused.
    pub async fn rollback(&self) -> Result<()> {
        let history = run("helm", ["history", "sluice", "--namespace", SYSTEM, "--max", "1", "--output", "json"]).await?;
        let history: Value = serde_json::from_str(&history).context("helm history")?;
        let newest = history[0]["revision"].to_string();
        run("helm", ["rollback", "sluice", &newest, "--namespace", SYSTEM, "--wait", "--timeout", "60s"]).await.map(drop)
    }

    /// The cluster as another user sees it.
    pub async fn as_user(&self, name: &str) -> Result<Client> {
        let mut config = kube::Config::infer().await?;
        config.auth_info.impersonate = Some(name.to_owned());
        Ok(Client::try_from(config)?)
    }

    /// What Prometheus answers to a query: its samples.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let url = format!("{}/api/v1/query", self.prometheus);
        let answer: Value = reqwest::Client::new().get(url).query(&[("query", query)]).send().await?.json().await?;
        ensure!(answer["status"] == "success", "{query}: {}", answer["error"]);
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    pub async fn controllers(&self) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        Ok(pods.list(&ListParams::default().labels(LABEL)).await?.items)
    }

    /// The process that leads, as the lease names it, once its pod runs.
    pub async fn led(&self) -> Result<String> {
        wait_for("a controller leads", seconds(60), async || {
            let leader = self.leader().await?;
            let seen = leader.clone().unwrap_or_else(|| "nobody holds the lease".into());
            Ok(match leader {
                Some(leader) => crate::wait::Seen::Done(leader),
                None => crate::wait::Seen::NotYet(seen),
            })
        })
        .await
    }

    async fn leader(&self) -> Result<Option<String>> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM);
        let lease = leases.list(&ListParams::default()).await?.items.into_iter().find(|lease| lease.name_any().contains("sluice"));
        Ok(lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty()))
    }

    /// Kills the controller that leads with SIGKILL, so that it can neither finish a write nor give the lease back, and waits until
    /// another process leads.
    pub async fn kill_leader(&self) -> Result<()> {
        let leader = self.led().await?;
        let pods = self.controllers().await?;
        let pod = pods.iter().find(|pod| leader.starts_with(&pod.name_any()));
        let pod = pod.with_context(|| format!("the lease is held by {leader}, which is no pod"))?;
        match self.own {
            true => kill_container(pod).await?,
            false => {
                let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
                pods.delete(&pod.name_any(), &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
            }
        }
        wait_for("another process leads after the kill", seconds(60), async || {
            let now = self.leader().await?;
            Ok(when(now.as_ref().is_some_and(|now| *now != leader), || format!("the lease is held by {now:?}")))
        })
        .await
    }

    /// Restarts all controllers gracefully, as an upgrade does.
    pub async fn restart(&self) -> Result<()> {
        let before: Vec<String> = self.controllers().await?.iter().filter_map(ResourceExt::uid).collect();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        pods.delete_collection(&DeleteParams::default(), &ListParams::default().labels(LABEL)).await?;
        wait_for("new controllers are ready", seconds(60), async || {
            let pods = self.controllers().await?;
            let new = pods.iter().filter(|pod| pod.uid().is_some_and(|uid| !before.contains(&uid)) && is_ready(pod)).count();
            Ok(when(new >= REPLICAS, || format!("{new} of {REPLICAS}")))
        })
        .await?;
        let old: Vec<String> = self.controllers().await?.iter().map(ResourceExt::name_any).collect();
        wait_for("one of the new controllers leads", seconds(60), async || {
            let leader = self.leader().await?.unwrap_or_default();
            Ok(when(old.iter().any(|pod| leader.starts_with(pod)), || format!("the lease is held by {leader:?}")))
        })
        .await
    }

    /// Stops or starts a part of the cluster: `part("stop", "prometheus")`.
    pub async fn part(&self, verb: &str, name: &str) -> Result<()> {
        ensure!(self.own, "this scenario stops {name}, which can be done only on the cluster of e2e/cluster/up, not on E2E_KUBECONFIG's");
        run(root().join("e2e/cluster/part"), [verb, name]).await.map(drop)
    }

    /// Starts what only this scenario needs (`e2e/cluster/addon` has the names), plays it, and stops that again.
    pub async fn with_addon(&self, name: &str, scenario: impl Future<Output = Result<()>>) -> Result<()> {
        ensure!(self.own, "this scenario needs {name}, which is part of the cluster of e2e/cluster/up, not of E2E_KUBECONFIG's");
        let addon = root().join("e2e/cluster/addon");
        run(&addon, ["start", name]).await?;
        let played = scenario.await;
        let stopped = run(&addon, ["stop", name]).await.map(drop);
        played.and(stopped)
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The process of a pod's container, on the node that is this machine.
pub async fn pid_of(pod: &Pod) -> Result<String> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let id = statuses.into_iter().flatten().find_map(|status| status.container_id.as_deref()).unwrap_or_default();
    let id = id.trim_start_matches("containerd://");
    let tasks = run("ctr", ["--namespace", "k8s.io", "task", "list"]).await?;
    let line = tasks.lines().find(|line| line.starts_with(id)).filter(|_| !id.is_empty());
    let pid = line.and_then(|line| line.split_whitespace().nth(1));
    pid.map(str::to_owned).with_context(|| format!("no process of {}", pod.name_any()))
}

/// SIGKILL to it.
async fn kill_container(pod: &Pod) -> Result<()> {
    run("kill", ["-KILL", &pid_of(pod).await?]).await.map(drop)
}

/// Where files go that the parts of the cluster read.
pub fn state() -> PathBuf {
    env::var_os("SLUICE_E2E_STATE").map_or_else(env::temp_dir, PathBuf::from)
}

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs a program to its end; its standard output, or an error with all that it said.
pub async fn run(program: impl AsRef<std::ffi::OsStr>, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{:?}: {}\n{text}{}", command.as_std(), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}
