//! Argo CD itself has the app's manifests, with `selfHeal`: configured as docs/gitops.md says, it leaves a rollout alone and sees its health;
//! with one Service in Git alone, it is named.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::api::PropagationPolicy;
use serde::Deserialize;
use serde_json::{Value, json};
use sluice::api::{Phase, RolloutStatus};

use super::{
    flux::app,
    git::{given_up, has_canary, paused_at, repairs, until_observed},
    take_over::{is_parked, same_pods, serving, until_no_longer_parked},
};
use crate::{
    cluster::{run as command, state},
    plugin::sluice,
    space::Space,
    test::Test,
    timeline::Timeline,
    wait::{Seen, holds_for, seconds, wait_for, when},
};

const DOCS: &str = include_str!("../../../docs/gitops.md");
/// Longer than from one comparison of Git and cluster to the next, which the addon has set to 10 s.
const RESYNC: std::time::Duration = seconds(14);

pub async fn run(test: &Test) -> Result<()> {
    let scenario = async {
        let health = "resource.customizations.health.sluice.dev_Rollout";
        let lua = documented(health)?;
        argo(test).patch("ConfigMap", "argocd-cm", json!({"data": lua})).await?;
        let played = futures::try_join!(both_services(test), one_service(test), ignored(test), parked(test)).map(drop);
        for application in argo(test).list("Application").await? {
            let name = application["metadata"]["name"].as_str().context("a name")?;
            argo(test).remove("Application", name, PropagationPolicy::Background).await?;
        }
        played
    };
    test.cluster.with_addon("argo-cd", scenario).await
}

/// The namespace of Argo CD itself.
fn argo(test: &Test) -> Space {
    Space { client: test.space.client.clone(), name: "argocd".into() }
}

/// The YAML of docs/gitops.md that begins with this field.
fn documented(field: &str) -> Result<Value> {
    let blocks = DOCS.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let block = blocks.into_iter().find(|block| block.starts_with(field)).with_context(|| format!("docs/gitops.md has no {field}"))?;
    let document = serde_yaml_ng::Deserializer::from_str(block);
    Value::deserialize(document).with_context(|| format!("{field} of docs/gitops.md"))
}

/// An app's repository, and the Application that syncs it.
struct Application<'a> {
    test: &'a Test,
    name: String,
    repository: PathBuf,
    head: String,
}

impl<'a> Application<'a> {
    async fn new(test: &'a Test, name: &str, manifests: &[&Value], further: Value) -> Result<Self> {
        let repository = state().join(format!("git/{}-{name}", test.space.name));
        std::fs::create_dir_all(&repository)?;
        let mut application = Self { test, name: name.to_owned(), repository, head: String::new() };
        application.git(&["init", "--quiet", "--initial-branch=main"]).await?;
        application.commit(manifests).await?;
        let mut spec = json!({
            "project": "default",
            "source": {"repoURL": format!("file://{}", application.repository.display()), "path": ".", "targetRevision": "main"},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": test.space.name},
            "syncPolicy": {"automated": {"prune": true, "selfHeal": true}},
        });
        json_patch::merge(&mut spec, &further);
        let object = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": name}, "spec": spec});
        argo(test).apply(&object).await?;
        Ok(application)
    }

    async fn git(&self, arguments: &[&str]) -> Result<String> {
        let directory = self.repository.display().to_string();
        let who = ["-C", &directory, "-c", "user.name=team", "-c", "user.email=team@example.com"];
        command("git", who.iter().chain(arguments)).await
    }

    /// Commits all that there is from now on, and has Argo CD look.
    async fn commit(&mut self, manifests: &[&Value]) -> Result<()> {
        let names: Vec<String> = manifests
            .iter()
            .map(|manifest| format!("{}-{}.yaml", manifest["kind"], manifest["metadata"]["name"]).replace('"', ""))
            .collect();
        for (name, manifest) in names.iter().zip(manifests) {
            std::fs::write(self.repository.join(name), serde_yaml_ng::to_string(manifest)?)?;
        }
        for entry in std::fs::read_dir(&self.repository)? {
            let entry = entry?;
            let name = entry.file_name().display().to_string();
            if name.ends_with(".yaml") && !names.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        self.git(&["add", "--all"]).await?;
        self.git(&["commit", "--quiet", "--message", "a change"]).await?;
        let first = self.head.is_empty();
        self.head = self.git(&["rev-parse", "HEAD"]).await?.trim().to_owned();
        if first { Ok(()) } else { self.refresh().await }
    }

    async fn refresh(&self) -> Result<()> {
        let look = json!({"metadata": {"annotations": {"argocd.argoproj.io/refresh": "hard"}}});
        argo(self.test).patch("Application", &self.name, look).await
    }

    async fn status(&self) -> Result<Value> {
        Ok(argo(self.test).get("Application", &self.name).await?["status"].clone())
    }

    /// The health of one object as Argo CD sees it.
    async fn health_of(&self, kind: &str) -> Result<String> {
        let status = self.status().await?;
        let resource = status["resources"].as_array().into_iter().flatten().find(|resource| resource["kind"] == kind);
        Ok(resource.map(|resource| resource["health"]["status"].as_str().unwrap_or("none").to_owned()).unwrap_or_default())
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<()> {
        wait_for(&format!("Argo CD: {} {what}", self.name), seconds(60), async || {
            let status = self.status().await?;
            Ok(when(is_so(&status), || in_words(&status)))
        })
        .await
    }

    /// Waits until the newest commit is synced.
    async fn until_synced(&self) -> Result<()> {
        let head = self.head.clone();
        let so = |status: &Value| {
            let operation = &status["operationState"];
            is_synced(status) && status["sync"]["revision"] == head.as_str() && operation["phase"] == "Succeeded"
        };
        self.until("is synced", so).await
    }

    async fn until_health(&self, health: &str) -> Result<()> {
        self.until(&format!("is {health}"), |status| status["health"]["status"] == health).await
    }

    /// A person's sync of what is synced already, with the options of the Application, as `argocd app sync` does.
    async fn sync(&self) -> Result<()> {
        let application = argo(self.test).get("Application", &self.name).await?;
        let began = application["status"]["operationState"]["startedAt"].clone();
        let options = &application["spec"]["syncPolicy"]["syncOptions"];
        let sync = json!({"revision": self.head, "syncOptions": options});
        let operation = json!({"operation": {"initiatedBy": {"username": "someone"}, "sync": sync}});
        // Its times are in whole seconds.
        wait_for("a sync can begin that is later than the last", seconds(5), async || {
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            Ok(when(began != now.as_str(), || now))
        })
        .await?;
        argo(self.test).patch("Application", &self.name, operation).await?;
        let so = |status: &Value| {
            let operation = &status["operationState"];
            operation["startedAt"] != began && operation["phase"] == "Succeeded"
        };
        self.until("has synced by command", so).await
    }

    /// Argo CD has nothing to do, for longer than from one look to the next.
    async fn stays_synced(&self) -> Result<()> {
        holds_for(&format!("Argo CD says {} is Synced", self.name), RESYNC, async || {
            let status = self.status().await?;
            Ok(when(is_synced(&status), || in_words(&status)))
        })
        .await
    }
}

fn is_synced(status: &Value) -> bool {
    status["sync"]["status"] == "Synced"
}

fn in_words(status: &Value) -> String {
    let resources = status["resources"].as_array().into_iter().flatten();
    let odd: Vec<String> = resources
        .map(|resource| format!("{} {} {} {}", resource["kind"], resource["name"], resource["status"], resource["health"]["status"]))
        .collect();
    format!(
        "sync {}, health {}, operation {} {}; {}; {}",
        status["sync"]["status"],
        status["health"]["status"],
        status["operationState"]["phase"],
        status["operationState"]["message"],
        status["conditions"],
        odd.join(", ")
    )
}

/// Both Services in Git, in the route without weights: nothing to put back in mid-rollout; a sync does no harm; each phase has its health; an
/// abort is Degraded; what Git drops is pruned in the foreground and gives the Deployment its pods.
async fn both_services(test: &Test) -> Result<()> {
    let pause = json!({"pause": {}});
    let mut app = app(test, "api", json!([{"setWeight": 20}, pause, {"setWeight": 50}, pause]))?;
    app.route["spec"]["rules"] = json!([{"backendRefs": [{"name": "api", "port": 80}, {"name": "api-canary", "port": 80}]}]);
    let mut canary = app.service.clone();
    canary["metadata"]["name"] = json!("api-canary");
    let all = |app: &crate::app::App| [&app.deployment, &app.service, &canary, &app.route, &app.rollout].map(Value::clone);
    let [deployment, service, canary_service, route, rollout] = all(&app);
    let mut argo_cd = Application::new(test, "api", &[&deployment, &service, &canary_service, &route, &rollout], json!({})).await?;
    argo_cd.until_synced().await?;
    app.space.until_healthy("api", "sluice.dev/app:v1", seconds(60)).await?;
    test.space.scale("Rollout", "api", 2).await?;
    let ready = |status: &RolloutStatus| status.phase == Some(Phase::Healthy) && status.ready_replicas == 2;
    test.space.until("api", "2 pods are ready", seconds(30), ready).await?;
    app.answers().await?;
    argo_cd.until_health("Healthy").await?;
    let load = app.load(40)?;

    app.image_is("v2");
    argo_cd.commit(&all(&app).each_ref()).await?;
    paused_at(test, "api", 20.0).await?;
    argo_cd.until_health("Suspended").await?;
    let weights = Timeline::start(&test.space, "HTTPRoute", "api");
    argo_cd.stays_synced().await?;
    let versions = weights.versions().len();
    ensure!(versions == 1, "the route was written while nothing was to be done: {versions} versions");
    test.say("Synced and Suspended in the pause at 20 %, the route is left alone");
    argo_cd.sync().await?;
    paused_at(test, "api", 20.0).await?;
    app.rollout["spec"]["strategy"]["canary"]["steps"][2] = json!({"setWeight": 60});
    argo_cd.commit(&all(&app).each_ref()).await?;
    argo_cd.until_synced().await?;
    paused_at(test, "api", 20.0).await?;
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    paused_at(test, "api", 60.0).await?;
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    argo_cd.until_health("Healthy").await?;
    argo_cd.stays_synced().await?;
    given_up(test, "api").await?;
    test.say("a sync by command and a commit in mid-rollout: promoted, Healthy, Synced");

    app.image_is("v3");
    argo_cd.commit(&all(&app).each_ref()).await?;
    until_observed(test, "api", 20.0).await?;
    sluice(&test.space, &["abort", "api", "--reason", "a bad version"]).await?.expect(0, "done")?;
    let at = Timestamp::now();
    argo_cd.until_health("Degraded").await?;
    test.say(format!("Degraded {} ms after the abort", Timestamp::now().duration_since(at).as_millis()));
    app.image_is("v2");
    argo_cd.commit(&all(&app).each_ref()).await?;
    argo_cd.until_synced().await?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(60)).await?;
    argo_cd.until_health("Healthy").await?;

    let pods = serving(test, "app=api").await?;
    argo_cd.commit(&all(&app).each_ref()[..4]).await?;
    wait_for("the Rollout is pruned", seconds(60), async || {
        let left = test.space.api("Rollout").get_opt("api").await?;
        Ok(when(left.is_none(), || left.map(|object| object.data["status"]["message"].to_string()).unwrap_or_default()))
    })
    .await?;
    app.available(2).await?;
    same_pods(&pods, &serving(test, "app=api").await?)?;
    argo_cd.until_synced().await?;
    argo_cd.until_health("Healthy").await?;
    test.say("Git has dropped the Rollout: pruned, and the Deployment has its pods back");
    test.stop(load).await?.ensure_no_failures()
}

/// One Service in Git: Argo CD puts the route back again and again. It is repaired each time, and named with the mend.
async fn one_service(test: &Test) -> Result<()> {
    let mut app = app(test, "lone", json!([{"setWeight": 20}, {"pause": {}}]))?;
    let mut argo_cd = Application::new(test, "lone", &app.manifests(), json!({})).await?;
    argo_cd.until_synced().await?;
    app.space.until_healthy("lone", "sluice.dev/app:v1", seconds(60)).await?;
    app.answers().await?;
    let load = app.load(20)?;
    let timeline = Timeline::start(&test.space, "HTTPRoute", "lone");
    app.image_is("v2");
    argo_cd.commit(&app.manifests()).await?;
    let condition =
        |status: &RolloutStatus| status.conditions.iter().find(|c| c.type_ == "TrafficContested" && c.status == "True").cloned();
    let status = test.space.until("lone", "TrafficContested", seconds(120), |status| condition(status).is_some()).await?;
    let named = condition(&status).context("TrafficContested")?;
    for words in ["argocd", "HTTPRoute lone", "3 times", "ignoreDifferences", "lone-canary"] {
        ensure!(named.message.contains(words), "the condition does not say {words:?}: {}", named.message);
    }
    test.say(format!("{}; repaired after {:?}", named.message, repairs(&timeline, has_canary)));
    sluice(&test.space, &["abort", "lone", "--reason", "mend Git first"]).await?.expect(0, "done")?;
    test.space.until("lone", "it is taken back", seconds(30), |status| status.phase == Some(Phase::Aborted)).await?;
    test.stop(load).await?.ensure_no_failures()
}

/// One Service in Git, and the mend of docs/gitops.md: the route is left alone, in a sync, too.
async fn ignored(test: &Test) -> Result<()> {
    let mut app = app(test, "ignored", json!([{"setWeight": 20}, {"pause": {}}]))?;
    let mend = documented("spec:\n  ignoreDifferences")?["spec"].clone();
    let mut argo_cd = Application::new(test, "ignored", &app.manifests(), mend).await?;
    argo_cd.until_synced().await?;
    app.space.until_healthy("ignored", "sluice.dev/app:v1", seconds(60)).await?;
    app.answers().await?;
    let load = app.load(20)?;
    let timeline = Timeline::start(&test.space, "HTTPRoute", "ignored");
    app.image_is("v2");
    argo_cd.commit(&app.manifests()).await?;
    paused_at(test, "ignored", 20.0).await?;
    argo_cd.stays_synced().await?;
    argo_cd.sync().await?;
    // Its own changes of the rules are ignored as well, as docs/gitops.md says.
    app.route["spec"]["rules"][0]["timeouts"] = json!({"request": "7s"});
    argo_cd.commit(&app.manifests()).await?;
    argo_cd.until("has seen the commit", |status| status["sync"]["revision"] == argo_cd.head.as_str() && is_synced(status)).await?;
    sluice(&test.space, &["promote", "ignored"]).await?.expect(0, "done")?;
    app.space.until_healthy("ignored", "sluice.dev/app:v2", seconds(90)).await?;
    let repaired = repairs(&timeline, has_canary);
    ensure!(repaired.is_empty(), "the route was put back although its rules are ignored: {repaired:?}");
    argo_cd.sync().await?;
    let route = test.space.get("HTTPRoute", "ignored").await?;
    ensure!(route["spec"]["rules"][0]["timeouts"].is_null(), "docs/gitops.md is wrong, it was synced: {}", route["spec"]);
    argo_cd.until_health("Healthy").await?;
    test.say("with ignoreDifferences and RespectIgnoreDifferences the route is left alone, in a sync, too");
    test.stop(load).await?.ensure_no_failures()
}

/// The Deployment's `replicas` stands in Git: parked, which Argo CD shows as Suspended, until Git has dropped it.
async fn parked(test: &Test) -> Result<()> {
    let mut app = app(test, "parked", json!([{"setWeight": 50}]))?;
    app.deployment["spec"]["replicas"] = json!(2);
    let mut argo_cd = Application::new(test, "parked", &app.manifests(), json!({})).await?;
    argo_cd.until_synced().await?;
    test.space.until("parked", "the condition WorkloadParked", seconds(60), |s| is_parked(s) && s.phase == Some(Phase::Healthy)).await?;
    let pods = serving(test, "app=parked").await?;
    wait_for("Argo CD shows the Deployment as Suspended", seconds(30), async || {
        let health = argo_cd.health_of("Deployment").await?;
        Ok(if health == "Suspended" { Seen::Done(()) } else { Seen::NotYet(health) })
    })
    .await?;
    argo_cd.stays_synced().await?;
    app.deployment["spec"].as_object_mut().context("spec")?.remove("replicas");
    argo_cd.commit(&app.manifests()).await?;
    until_no_longer_parked(&test.space, "parked").await?;
    same_pods(&pods, &serving(test, "app=parked").await?)?;
    argo_cd.until_health("Healthy").await?;
    test.say("Git has dropped replicas: no longer parked");
    Ok(())
}
