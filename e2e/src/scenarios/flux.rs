//! Flux itself (its kustomize-controller) has the app's manifests, and reconciles all the time.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PropagationPolicy};
use serde_json::{Value, json};
use sluice::api::{Phase, RolloutStatus};

use super::{
    git::{given_up, has_canary, is_pinned, paused_at, repairs, until_observed},
    take_over::{is_parked, same_pods, serving, until_no_longer_parked},
};
use crate::{
    app::App,
    cluster::{run as command, state},
    plugin::sluice,
    space::in_words,
    test::Test,
    timeline::Timeline,
    wait::{Seen, seconds, wait_for, when},
};

/// How often it applies everything again.
const INTERVAL: &str = "2s";

pub async fn run(test: &Test) -> Result<()> {
    let scenario = async {
        let played = futures::try_join!(reconciled(test), waited(test), parked(test)).map(drop);
        // Nobody finalizes them once Flux has ended.
        for kustomization in test.space.list("Kustomization").await? {
            let name = kustomization["metadata"]["name"].as_str().context("a name")?;
            test.space.remove("Kustomization", name, PropagationPolicy::Background).await?;
        }
        played
    };
    test.cluster.with_addon("flux", scenario).await
}

/// An app's manifests as a source of Flux, and the Kustomization that applies them.
struct Source<'a> {
    test: &'a Test,
    name: String,
    revision: u32,
}

impl<'a> Source<'a> {
    /// Applies what is published from now on. With `wait`, it also waits for its health, as Flux sees it.
    async fn new(test: &'a Test, name: &str, wait: bool, manifests: &[&Value]) -> Result<Self> {
        let mut source = Self { test, name: name.to_owned(), revision: 0 };
        source.publish(manifests).await?;
        let spec = json!({
            "interval": INTERVAL, "retryInterval": INTERVAL, "timeout": "2m", "path": "./", "prune": true, "wait": wait,
            "targetNamespace": test.space.name, "sourceRef": {"kind": "ExternalArtifact", "name": name},
        });
        let metadata = json!({"name": name});
        let kustomization =
            json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": metadata, "spec": spec});
        test.space.apply(&kustomization).await?;
        Ok(source)
    }

    /// A commit: all that there is from now on.
    async fn publish(&mut self, manifests: &[&Value]) -> Result<()> {
        self.revision += 1;
        let file = format!("{}-{}-{}.tar.gz", self.test.space.name, self.name, self.revision);
        let directory: PathBuf = state().join(format!("manifests/{}/{}", self.test.space.name, file));
        std::fs::create_dir_all(&directory)?;
        for manifest in manifests {
            let path = directory.join(format!("{}-{}.yaml", manifest["kind"], manifest["metadata"]["name"]).replace('"', ""));
            std::fs::write(path, serde_yaml_ng::to_string(manifest)?)?;
        }
        let archive = state().join("artifacts").join(&file).display().to_string();
        command("tar", ["--create", "--gzip", "--file", &archive, "--directory", &directory.display().to_string(), "."]).await?;
        let digest = command("sha256sum", [&archive]).await?;
        let digest = digest.split_whitespace().next().context("a digest")?;
        let url = std::env::var("SLUICE_E2E_ARTIFACTS_URL").context("SLUICE_E2E_ARTIFACTS_URL: e2e/cluster/enter sets it")?;
        let now = Timestamp::now().to_string();
        let artifact = json!({
            "url": format!("{url}/{file}"), "path": file, "revision": self.head(), "digest": format!("sha256:{digest}"), "lastUpdateTime": now,
        });
        let ready = json!({"type": "Ready", "status": "True", "reason": "Succeeded", "message": "published", "lastTransitionTime": now});
        let object = json!({
            "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "ExternalArtifact", "metadata": {"name": self.name}, "spec": {},
        });
        self.test.space.apply(&object).await?;
        let status = json!({"status": {"artifact": artifact, "conditions": [ready]}});
        let api = self.test.space.api("ExternalArtifact");
        api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(&status)).await.context("publish the artifact")?;
        Ok(())
    }

    fn head(&self) -> String {
        format!("main@sha1:{:040x}", self.revision)
    }

    /// What Flux says of it: the condition Ready, if that is about what was published last.
    async fn ready(&self) -> Result<(String, String)> {
        let object = self.test.space.get("Kustomization", &self.name).await?;
        let condition = object["status"]["conditions"].as_array().into_iter().flatten().find(|condition| condition["type"] == "Ready");
        let condition = condition.filter(|_| object["status"]["lastAttemptedRevision"] == self.head()).cloned().unwrap_or_default();
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), format!("{}: {}", text("reason"), text("message"))))
    }

    async fn until_ready(&self, status: &str) -> Result<String> {
        wait_for(&format!("Flux says Ready={status} of {} {}", self.name, self.head()), seconds(60), async || {
            let (seen, message) = self.ready().await?;
            Ok(if seen == status { Seen::Done(message) } else { Seen::NotYet(format!("Ready={seen} {message}")) })
        })
        .await
    }

    /// Has Flux apply everything again, and waits until it has.
    async fn reconcile(&self) -> Result<()> {
        let at = Timestamp::now().to_string();
        let change = json!({"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": at}}});
        self.test.space.patch("Kustomization", &self.name, change).await?;
        wait_for(&format!("Flux has reconciled {}", self.name), seconds(30), async || {
            let handled = self.test.space.get("Kustomization", &self.name).await?["status"]["lastHandledReconcileAt"].clone();
            Ok(when(handled == at.as_str(), || handled.to_string()))
        })
        .await?;
        self.until_ready("True").await.map(drop)
    }
}

/// The manifests of an app whose first version Flux brings, together with the Rollout.
pub fn app(test: &Test, name: &str, steps: Value) -> Result<App> {
    let mut app = test.app(name)?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(steps);
    Ok(app)
}

/// One Service in Git. Flux applies everything every 2 s and brings a commit in mid-rollout: what the rollout needs is left alone, what the
/// commit changes comes when it may; at rest nothing is left to apply; what Git drops is given back.
async fn reconciled(test: &Test) -> Result<()> {
    let pause = json!({"pause": {}});
    let mut app = app(test, "api", json!([{"setWeight": 20}, pause, {"setWeight": 50}, pause]))?;
    let mut source = Source::new(test, "api", false, &app.manifests()).await?;
    source.until_ready("True").await?;
    app.space.until_healthy("api", "sluice.dev/app:v1", seconds(60)).await?;
    test.space.scale("Rollout", "api", 2).await?;
    let ready = |status: &RolloutStatus| status.phase == Some(Phase::Healthy) && status.ready_replicas == 2;
    test.space.until("api", "2 pods are ready", seconds(30), ready).await?;
    app.answers().await?;
    let load = app.load(40)?;
    let (route, service) = (Timeline::start(&test.space, "HTTPRoute", "api"), Timeline::start(&test.space, "Service", "api"));

    app.image_is("v2");
    source.publish(&app.manifests()).await?;
    paused_at(test, "api", 20.0).await?;
    for _ in 0..3 {
        source.reconcile().await?;
    }
    test.say("Flux has reconciled three times at 20 %");
    // A commit in mid-rollout: a change of the route, and one of the Rollout.
    app.route["spec"]["rules"][0]["timeouts"] = json!({"request": "7s"});
    app.rollout["spec"]["strategy"]["canary"]["steps"][2] = json!({"setWeight": 60});
    source.publish(&app.manifests()).await?;
    source.until_ready("True").await?;
    let live = test.space.get("HTTPRoute", "api").await?;
    ensure!(live["spec"]["rules"][0]["timeouts"].is_null(), "the route of the new commit was applied in mid-rollout: {}", live["spec"]);
    // Whoever removes the mark takes the ground away: it comes back, and what Flux has put back in between is repaired.
    let annotations = json!({"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/reconcile": null}}});
    test.space.patch("HTTPRoute", "api", annotations).await?;
    source.reconcile().await?;
    paused_at(test, "api", 20.0).await?;
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    paused_at(test, "api", 60.0).await?;
    source.reconcile().await?;
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    let (route, service) = (repairs(&route, has_canary), repairs(&service, is_pinned));
    ensure!(service.is_empty(), "Flux has put the Service back, which was marked all the time: {service:?}");
    ensure!(route.len() <= 1, "Flux has put the route back, not only while the mark was missing: {route:?}");
    wait_for("the route is as in Git, with what was committed meanwhile", seconds(30), async || {
        let live = test.space.get("HTTPRoute", "api").await?;
        let so = live["spec"]["rules"][0]["timeouts"]["request"] == "7s" && !has_canary(&live);
        Ok(when(so, || live["spec"].to_string()))
    })
    .await?;
    test.say("promoted while Flux reconciled; the route's own change came after it");

    source.reconcile().await?;
    let kinds = ["Deployment", "Service", "HTTPRoute", "Rollout"];
    let versions = async || -> Result<Vec<Value>> {
        let mut versions = vec![];
        for kind in kinds {
            versions.push(test.space.get(kind, "api").await?["metadata"]["resourceVersion"].clone());
        }
        Ok(versions)
    };
    let before = versions().await?;
    for _ in 0..2 {
        source.reconcile().await?;
    }
    let after = versions().await?;
    ensure!(before == after, "at rest, Flux has changed something of {kinds:?}: {before:?}, then {after:?}");
    given_up(test, "api").await?;

    let pods = serving(test, "app=api").await?;
    source.publish(&app.manifests()[..3]).await?;
    wait_for("the Rollout is pruned", seconds(60), async || {
        let left = test.space.api("Rollout").get_opt("api").await?;
        Ok(when(left.is_none(), || left.map(|object| object.data["status"]["message"].to_string()).unwrap_or_default()))
    })
    .await?;
    app.available(2).await?;
    same_pods(&pods, &serving(test, "app=api").await?)?;
    source.reconcile().await?;
    test.say("Git has dropped the Rollout: pruned, and the Deployment has its pods back");
    test.stop(load).await?.ensure_no_failures()
}

/// With `wait`, the sync is over when the rollout is, and fails as soon as it does.
async fn waited(test: &Test) -> Result<()> {
    let mut app = app(test, "waited", json!([{"setWeight": 50}, {"pause": {"duration": "6s"}}]))?;
    let mut source = Source::new(test, "waited", true, &app.manifests()).await?;
    source.until_ready("True").await?;
    let before = test.space.status("waited").await?;
    ensure!(before.phase == Some(Phase::Healthy), "Flux says Ready while the Rollout is {}", in_words(&before));

    app.image_is("v2");
    source.publish(&app.manifests()).await?;
    source.until_ready("True").await?;
    // Nothing in the Rollout itself has changed: whether Flux waits for it depends on who looks first.
    let status = test.space.status("waited").await?;
    let so = status.phase == Some(Phase::Healthy) && status.canary_revision != before.canary_revision;
    test.say(format!("Flux {} for the new version of a Deployment", if so { "has waited" } else { "has not waited" }));
    app.space.until_healthy("waited", "sluice.dev/app:v2", seconds(60)).await?;
    source.reconcile().await?;

    app.image_is("v3");
    source.publish(&app.manifests()).await?;
    until_observed(test, "waited", 50.0).await?;
    sluice(&test.space, &["abort", "waited", "--reason", "a bad version"]).await?.expect(0, "done")?;
    test.space.until("waited", "it is taken back", seconds(30), |status| status.phase == Some(Phase::Aborted)).await?;
    let at = Timestamp::now();
    let said = source.until_ready("False").await?;
    test.say(format!("Flux fails {} ms after the abort: {said}", Timestamp::now().duration_since(at).as_millis()));
    Ok(())
}

/// The Deployment's `replicas` stands in Git: parked until Git has dropped it.
async fn parked(test: &Test) -> Result<()> {
    let mut app = app(test, "parked", json!([{"setWeight": 50}]))?;
    app.deployment["spec"]["replicas"] = json!(2);
    let mut source = Source::new(test, "parked", false, &app.manifests()).await?;
    source.until_ready("True").await?;
    test.space.until("parked", "the condition WorkloadParked", seconds(60), |s| is_parked(s) && s.phase == Some(Phase::Healthy)).await?;
    let pods = serving(test, "app=parked").await?;
    source.reconcile().await?;
    app.deployment["spec"].as_object_mut().context("spec")?.remove("replicas");
    source.publish(&app.manifests()).await?;
    until_no_longer_parked(&test.space, "parked").await?;
    same_pods(&pods, &serving(test, "app=parked").await?)?;
    test.say("Git has dropped replicas: no longer parked");
    Ok(())
}
