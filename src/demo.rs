//! `sluice demo`: the controller on the simulated cluster, with real HTTP traffic, so that one command shows what it does: a good
//! version is promoted, a bad one is taken back.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{self, Phase, Rollout, RolloutStatus},
    controller::Controller,
    core::Settings,
    lease::Elector,
    metrics::{self, Allow, Providers},
    sim::{
        Options, SimCluster,
        serve::ApiEndpoint,
        traffic::{AppHost, AppVersion, Load, Proxy},
    },
    telemetry::Telemetry,
    world::World,
};

const HOST: &str = "shop.example";
const RATE: u32 = 100;
/// Share of the bad version's answers that are 503.
const BAD: f64 = 0.2;
/// Longer than either part takes, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(90);

/// What a team has.
const TEAM: &str = include_str!("demo/team.yaml");
/// What it adds: with short waits, and judged straight from the pods.
const ROLLOUT: &str = include_str!("demo/rollout.yaml");

struct Demo {
    cluster: SimCluster,
    client: Client,
    load: Load,
    begin: Instant,
}

/// How one version fared.
struct Part {
    version: &'static str,
    end: &'static str,
    seconds: f64,
    requests: usize,
    failed: usize,
}

/// Runs the demo; an error if a version did not end as it must. `keep`: leaves the cluster running until Ctrl-C.
pub async fn run(keep: bool) -> anyhow::Result<()> {
    let cluster = SimCluster::start(Options::live());
    for crd in api::crds() {
        cluster
            .install_crd(serde_json::to_value(crd)?)
            .map_err(|error| anyhow::anyhow!("the simulated cluster refuses a CRD: {error:?}"))?;
    }
    let endpoint = ApiEndpoint::listen(cluster.handle().clone(), 0).await.context("cannot listen on loopback")?;
    let kubeconfig = write_kubeconfig(&endpoint)?;
    let bad = AppVersion { failure_rate: BAD, ..AppVersion::default() };
    let versions = [("app:v1", AppVersion::default()), ("app:v2", AppVersion::default()), ("app:v3", bad)];
    let apps =
        AppHost::start(cluster.handle().clone(), versions.into_iter().map(|(image, v)| (image.to_owned(), v)).collect::<BTreeMap<_, _>>());
    let proxy = Proxy::listen(&cluster, &apps, 0).await.context("cannot listen on loopback")?;
    println!("An embedded cluster runs at {}; look at it from another terminal:", endpoint.url());
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get rollouts.sluice.dev\n  kubectl sluice watch api\n");

    let client = client(&endpoint).await?;
    let controller = tokio::spawn(start_controller(client.clone()));
    apply_all(&client, TEAM).await?;
    serving(&cluster).await?;
    println!("Deployment api runs app:v1 behind HTTPRoute api; {RATE} requests a second come through the gateway.");
    let load = Load::start(proxy.address(), HOST, RATE);
    let demo = Demo { cluster, client, load, begin: Instant::now() };
    apply_all(&demo.client, ROLLOUT).await?;
    println!("A Rollout is added; it takes the running Deployment over.");
    let parts = demo.show().await;
    let parts = match parts {
        Ok(parts) => parts,
        Err(error) => {
            controller.abort();
            return Err(error);
        }
    };
    demo.summary(&parts);
    if keep {
        println!("\nThe cluster goes on until Ctrl-C; KUBECONFIG={}", kubeconfig.display());
        tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    }
    controller.abort();
    Ok(())
}

impl Demo {
    async fn show(&self) -> anyhow::Result<Vec<Part>> {
        self.until("taken over", |s| s.phase == Some(Phase::Healthy)).await?;
        println!("\nv2 is as good as v1: `kubectl set image deployment/api app=app:v2`");
        let good =
            self.part("v2", "promoted", "app:v2", |s| s.phase == Some(Phase::Healthy) && s.stable_revision == s.canary_revision).await?;
        println!("\n{:.0} % of v3's answers are errors: `kubectl set image deployment/api app=app:v3`", BAD * 100.0);
        let home = |s: &RolloutStatus| s.phase == Some(Phase::Aborted) && s.weights.as_ref().is_some_and(|w| w.observed == Some(0.0));
        let bad = self.part("v3", "taken back", "app:v3", home).await?;
        if good.failed > 0 {
            bail!("{} requests failed while the good version was rolled out: none may", good.failed);
        }
        Ok(vec![good, bad])
    }

    async fn part(
        &self,
        version: &'static str,
        end: &'static str,
        image: &str,
        holds: impl Fn(&RolloutStatus) -> bool,
    ) -> anyhow::Result<Part> {
        let (before, began) = (self.load.totals(), Instant::now());
        let revision = self.status().and_then(|s| s.canary_revision);
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        deployments(&self.client)
            .patch("api", &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .context("cannot change the image")?;
        self.until(end, |s| s.canary_revision != revision && holds(s)).await?;
        let after = self.load.totals();
        Ok(Part { version, end, seconds: began.elapsed().as_secs_f64(), requests: after.0 - before.0, failed: after.1 - before.1 })
    }

    fn status(&self) -> Option<RolloutStatus> {
        let rollout = self.cluster.get("rollouts.sluice.dev", "default", "api")?;
        serde_json::from_value::<Rollout>(rollout).ok()?.status
    }

    /// Waits, and prints what the Rollout says whenever it says something new.
    async fn until(&self, end: &str, holds: impl Fn(&RolloutStatus) -> bool) -> anyhow::Result<()> {
        let mut said = String::new();
        let waiting = self.cluster.until(|_| {
            let Some(status) = self.status() else { return false };
            let text = describe(&status);
            if text != said {
                let (requests, failed) = self.load.totals();
                println!("{:6.1} s  {text:<100} {requests:>6} requests, {failed} failed", self.begin.elapsed().as_secs_f64());
                said = text;
            }
            holds(&status)
        });
        match tokio::time::timeout(LIMIT, waiting).await {
            Ok(()) => Ok(()),
            Err(_) => {
                bail!("not {end} after {} s; the Rollout says: {}", LIMIT.as_secs(), self.status().map(|s| s.message).unwrap_or_default())
            }
        }
    }

    fn summary(&self, parts: &[Part]) {
        println!("\n{:<8} {:<12} {:>8} {:>10} {:>8}", "version", "end", "seconds", "requests", "failed");
        for part in parts {
            println!("{:<8} {:<12} {:>8.1} {:>10} {:>8}", part.version, part.end, part.seconds, part.requests, part.failed);
        }
        if let Some(reason) = self.status().and_then(|s| s.rejected.first().map(|r| r.reason.clone())) {
            println!("\nv3 was taken back because: {reason}");
        }
    }
}

fn describe(status: &RolloutStatus) -> String {
    let phase = status.phase.map(|phase| phase.to_string()).unwrap_or_default();
    let weight = status.weights.as_ref().and_then(|w| w.observed).map(|w| format!("{w:>5} %")).unwrap_or_else(|| "      -".to_owned());
    let message: String = status.message.chars().take(80).collect();
    format!("{phase:<12} {weight}  {message}")
}

async fn client(endpoint: &ApiEndpoint) -> anyhow::Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&endpoint.kubeconfig())?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The controller as it runs in a cluster, lease and all; only that it may scrape pods on this very machine.
async fn start_controller(client: Client) -> anyhow::Result<()> {
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let (elector, claim) = Elector::new(client.clone(), "default", "sluice", "demo");
    let allow = Allow { loopback: true, ..Allow::default() };
    let providers = Providers::new(metrics::Settings { allow, ..metrics::Settings::default() }).map_err(anyhow::Error::msg)?;
    let clock = Arc::new(jiff::Timestamp::now);
    let controller =
        Controller::new(client, World::default(), claim, Settings::default(), Arc::new(providers), Telemetry::default(), clock);
    tokio::join!(controller.run(), elector.run(stopped));
    Ok(())
}

fn write_kubeconfig(endpoint: &ApiEndpoint) -> anyhow::Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id()));
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let path = directory.join("kubeconfig");
    endpoint.write_kubeconfig(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn deployments(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", "Deployment")))
}

/// Waits until the gateway sends requests to the pods.
async fn serving(cluster: &SimCluster) -> anyhow::Result<()> {
    let served = |c: &SimCluster| c.programmed().clusters.values().any(|endpoints| !endpoints.is_empty());
    tokio::time::timeout(LIMIT, cluster.until(served)).await.context("the app does not serve")
}

async fn apply_all(client: &Client, manifests: &str) -> anyhow::Result<()> {
    for document in serde_yaml_ng::Deserializer::from_str(manifests) {
        let object = Value::deserialize(document).context("the demo's manifests")?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let api_version = text("/apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text("/kind")));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
        let name = text("/metadata/name");
        let object: DynamicObject = serde_json::from_value(object)?;
        api.create(&PostParams::default(), &object).await.with_context(|| format!("cannot create {name}"))?;
    }
    Ok(())
}
