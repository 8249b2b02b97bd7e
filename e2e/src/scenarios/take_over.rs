//! A Deployment that runs is taken over without a restart or a failed request, and given back likewise. One whose `replicas` is in Git
//! is parked until Git drops the field, or (Helm 3) until an upgrade has left it alone.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::api::PropagationPolicy;
use serde_json::json;
use sluice::api::{Phase, RolloutStatus, keys};

use crate::{
    app::App,
    cluster::{run as command, state},
    space::{PodFacts, Space},
    test::Test,
    wait::{seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let parked = async {
        parked(test, Owner::Applied).await?;
        parked(test, Owner::Client).await?;
        parked(test, Owner::Helm).await
    };
    futures::try_join!(there_and_back(test), parked, self::parked(test, Owner::Helm3)).map(drop)
}

async fn there_and_back(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.deploy(3).await?;
    // A history of its own: a paused Deployment that loses its active ReplicaSet alone would start pods of the old version.
    app.release("v2", &[]).await?;
    app.available(3).await?;
    wait_for("the pods of v1 are gone", seconds(30), async || {
        let pods = test.space.pods("app=api").await?;
        Ok(when(pods.len() == 3, || format!("{pods:?}")))
    })
    .await?;
    let before = test.space.pods("app=api").await?;
    let routed = test.space.in_git("api").await?;

    let load = app.load(100)?;
    app.roll().await?;
    test.say("the Deployment is taken over");
    same_pods(&before, &test.space.pods("app=api").await?)?;
    let deployment = app.space.get("Deployment", "api").await?;
    ensure!(
        deployment["spec"]["replicas"] == 0 && deployment["spec"]["paused"] != true,
        "the Deployment is not at rest: {}",
        deployment["spec"]
    );
    let rollout = app.space.rollouts().get("api").await?;
    ensure!(rollout.spec.replicas == Some(3), "the Rollout has {:?} replicas", rollout.spec.replicas);

    test.space.remove("Rollout", "api", PropagationPolicy::Foreground).await?;
    app.available(3).await?;
    test.say("the Deployment is given back");
    same_pods(&before, &test.space.pods("app=api").await?)?;
    given_back(&app).await?;
    test.space.ensure_as_in_git("api", &routed).await?;
    test.stop(load).await?.ensure_no_failures()
}

/// Nothing of ours is left, and the Deployment is its own master.
async fn given_back(app: &App) -> Result<()> {
    let deployment = app.space.get("Deployment", "api").await?;
    ensure!(deployment["spec"]["paused"] != true, "the Deployment is still paused");
    let annotations = deployment["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    ensure!(!annotations.keys().any(|key| key.contains("sluice.dev")), "the Deployment keeps our marks: {annotations:?}");
    let anchors = app.space.list("ControllerRevision").await?;
    ensure!(!anchors.iter().any(|anchor| anchor["metadata"]["name"] == "api"), "the anchor is still there");
    for mut set in app.space.list("ReplicaSet").await?.into_iter().filter(|set| set["metadata"]["labels"]["app"] == "api") {
        let metadata = set["metadata"].as_object_mut().context("metadata")?;
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(serde_json::Value::as_object_mut) {
            // The Deployment controller itself copies these from the Deployment, and never removes what it has copied.
            annotations.retain(|key, _| ![keys::EPOCH, keys::WORKLOAD_RECORD].contains(&key.as_str()));
        }
        let text = set["metadata"].to_string();
        ensure!(!text.contains("sluice.dev"), "a ReplicaSet keeps our marks: {text}");
        ensure!(set["metadata"]["ownerReferences"][0]["kind"] == "Deployment", "a ReplicaSet is not the Deployment's: {text}");
    }
    Ok(())
}

/// Who has the Deployment's manifest, and writes it how.
#[derive(Clone, Copy)]
enum Owner {
    /// Server-side apply, as Flux does and Argo CD can.
    Applied,
    /// `kubectl apply`, with its annotation of what was applied last.
    Client,
    /// Helm 4, which applies server-side.
    Helm,
    /// Helm 3, by three-way merge patches.
    Helm3,
}

impl Owner {
    /// Its app's name, which of the two Helms is that of the program, too.
    fn app(self) -> &'static str {
        match self {
            Self::Applied => "parked",
            Self::Client => "client",
            Self::Helm => "helm",
            Self::Helm3 => "helm-3",
        }
    }

    /// Writes the Deployment as it stands in its manifest.
    async fn write(self, app: &App) -> Result<()> {
        let space = &app.space.name;
        let directory = state().join(format!("{space}-{}", app.name));
        let write = |file: &str, content: &str| -> Result<String> {
            let file = directory.join(file);
            std::fs::create_dir_all(file.parent().context("a directory")?)?;
            std::fs::write(&file, content)?;
            Ok(file.display().to_string())
        };
        let manifest = app.deployment.to_string();
        match self {
            Self::Applied => app.space.apply(&app.deployment).await,
            Self::Client => {
                let file = write("deployment.json", &manifest)?;
                command("kubectl", ["apply", "--namespace", space, "--filename", &file]).await.map(drop)
            }
            Self::Helm | Self::Helm3 => {
                write("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 1.0.0\n")?;
                write("templates/deployment.yaml", &manifest)?;
                let chart = directory.display().to_string();
                command(self.app(), ["upgrade", "--install", self.app(), &chart, "--namespace", space]).await.map(drop)
            }
        }
    }
}

/// The Deployment's `replicas` stands in Git, which would scale the pods that we serve with: parked until Git has dropped it. The next
/// version that Git brings after that is rolled out.
async fn parked(test: &Test, owner: Owner) -> Result<()> {
    let name = owner.app();
    let mut app = test.app(name)?;
    app.pace(1, 2, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 50}]));
    app.deployment["spec"]["replicas"] = json!(2);
    owner.write(&app).await?;
    for manifest in [&app.service, &app.route] {
        app.space.apply(manifest).await?;
    }
    app.available(2).await?;
    let selector = format!("app={name}");
    let before = test.space.pods(&selector).await?;
    app.space.apply(&app.rollout).await?;
    let status = app.space.until(name, "the condition WorkloadParked", seconds(60), is_parked).await?;
    let condition = status.conditions.iter().find(|c| c.type_ == "WorkloadParked").context("WorkloadParked")?;
    ensure!(condition.message.contains("replicas"), "the condition does not say what to mend: {}", condition.message);
    let deployment = app.space.get("Deployment", name).await?;
    ensure!(deployment["spec"]["paused"] == true, "the Deployment is not parked: {}", deployment["spec"]);
    // Git writes it again, as it is.
    owner.write(&app).await?;
    test.say(format!("{name}: {}", condition.message));

    app.deployment["spec"].as_object_mut().context("spec")?.remove("replicas");
    owner.write(&app).await?;
    match owner {
        // What Helm 3 sets shows only in what it leaves alone: that is in its next upgrade that changes the Deployment.
        Owner::Helm3 => {
            wait_for("the parked Deployment is at 0 replicas", seconds(30), async || {
                let replicas = app.space.get("Deployment", name).await?["spec"]["replicas"].clone();
                Ok(when(replicas == 0, || replicas.to_string()))
            })
            .await?;
        }
        _ => until_no_longer_parked(&app.space, name).await?,
    }
    same_pods(&before, &test.space.pods(&selector).await?)?;
    app.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!("sluice.dev/app:v2");
    owner.write(&app).await?;
    app.space.until_healthy(name, "sluice.dev/app:v2", seconds(60)).await?;
    until_no_longer_parked(&app.space, name).await?;
    test.say(format!("{name}: Git has dropped replicas: no longer parked, and its next version is rolled out"));
    Ok(())
}

pub fn is_parked(status: &RolloutStatus) -> bool {
    status.conditions.iter().any(|c| c.type_ == "WorkloadParked" && c.status == "True")
}

/// Waits until Git's having dropped `replicas` is seen, and the Deployment is at rest.
pub async fn until_no_longer_parked(space: &Space, name: &str) -> Result<()> {
    space.until(name, "no condition WorkloadParked, Healthy", seconds(60), |s| !is_parked(s) && s.phase == Some(Phase::Healthy)).await?;
    wait_for(&format!("Deployment {name} is at rest"), seconds(30), async || {
        let deployment = space.get("Deployment", name).await?;
        let spec = &deployment["spec"];
        Ok(when(spec["replicas"] == 0 && spec["paused"] != true, || spec.to_string()))
    })
    .await
}

/// The pods that are not being stopped.
pub async fn serving(test: &Test, selector: &str) -> Result<BTreeMap<String, PodFacts>> {
    let mut pods = test.space.pods(selector).await?;
    pods.retain(|_, pod| !pod.deleting);
    Ok(pods)
}

/// Not one pod more, less or restarted.
pub fn same_pods(before: &BTreeMap<String, PodFacts>, after: &BTreeMap<String, PodFacts>) -> Result<()> {
    ensure!(before == after, "the pods were {before:?}, and are {after:?}");
    Ok(())
}
