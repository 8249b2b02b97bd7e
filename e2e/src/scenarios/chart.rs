//! The chart's life: the controller is upgraded in the middle of a rollout under load; the policy refuses a command in another one's
//! name and one that takes a right which the user has not; what alerts and dashboard ask for is there; an uninstall is refused while
//! Rollouts exist, and is clean after them, under load; the CRDs stay, and a new installation takes them on.

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingAdmissionPolicy,
        rbac::v1::{ClusterRole, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use sluice::api::{Phase, Rollout, RolloutAction, RolloutStatus, Verb};

use super::take_over::same_pods;
use crate::{
    app::App,
    cluster::{root, run as run_program},
    plugin::sluice,
    test::Test,
    timeline::Timeline,
    wait::{Seen, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(5, 5, 5, 30);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "5s"}}]));
    app.deploy(2).await?;
    app.roll().await?;

    let load = app.load(50)?;
    let timeline = Timeline::start(&test.space, "Rollout", "api");
    app.release("v2", &[]).await?;
    let pauses = |status: &RolloutStatus| {
        status.phase == Some(Phase::Paused) && status.weights.as_ref().is_some_and(|weights| weights.observed == Some(20.0))
    };
    let status = test.space.until("api", "it pauses at 20 %", seconds(60), pauses).await?;
    let before: Vec<String> = test.cluster.controllers().await?.iter().filter_map(ResourceExt::uid).collect();
    test.cluster.install_with(&["podAnnotations.e2e=upgraded"]).await?;
    wait_for("the upgrade has replaced every pod", seconds(30), async || {
        let pods = test.cluster.controllers().await?;
        let old = pods.iter().filter_map(ResourceExt::uid).filter(|uid| before.contains(uid)).count();
        Ok(when(old == 0, || format!("{old} old pods of {}", pods.len())))
    })
    .await?;
    test.say("upgraded in mid-rollout");
    seen_by_prometheus(test).await?;
    commands(test, &status).await?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    let weights = timeline.weights()?;
    ensure!(weights == [20.0, 50.0, 100.0], "the weights that were observed are {weights:?}");

    refused_uninstall(test).await?;
    released(test, &app).await?;
    uninstalled(test).await?;
    test.stop(load).await?.ensure_no_failures()?;
    installed_otherwise(test).await
}

/// As plain YAML, which the API server would take; for one namespace, with rights in no other; and as before, beside the CRDs that stayed.
async fn installed_otherwise(test: &Test) -> Result<()> {
    let manifest = run_program(root().join("charts/manifest"), [""; 0]).await?;
    let file = test.cluster.logs.join("install.yaml");
    std::fs::write(&file, manifest)?;
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename"];
    run_program("kubectl", apply.into_iter().chain([file.to_str().context("a path")?])).await?;
    test.say("the API server would take the plain manifest");
    // Ready only if all that it watches could be listed, and uninstalled only if its check could look.
    test.cluster.install_with(&[&format!("watchNamespaces={{{}}}", test.space.name)]).await?;
    test.cluster.uninstall().await?;
    test.say("installed for one namespace, and uninstalled");
    test.cluster.install().await?;
    test.say("installed again, beside the CRDs that had stayed");
    Ok(())
}

/// The present weight is in Prometheus, and it can evaluate everything that the alerts and the dashboard ask for.
async fn seen_by_prometheus(test: &Test) -> Result<()> {
    let weight = format!("sluice_rollout_observed_weight_ratio{{namespace={:?}, rollout=\"api\"}}", test.space.name);
    wait_for("Prometheus has the weight, once", seconds(30), async || {
        let samples = test.cluster.query(&weight).await?;
        let values: Vec<&str> = samples.iter().filter_map(|sample| sample["value"][1].as_str()).collect();
        Ok(when(values == ["0.2"], || format!("{samples:?}")))
    })
    .await?;
    let read = |file: &str| std::fs::read_to_string(root().join("charts/sluice/files").join(file)).with_context(|| file.to_owned());
    let alerts: Value = serde_yaml_ng::from_str(&read("alerts.yaml")?)?;
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")?)?;
    let mut expressions = vec![];
    for (file, all) in [("alerts.yaml", &alerts), ("dashboard.json", &dashboard)] {
        let before = expressions.len();
        collect(all, &mut expressions);
        ensure!(expressions.len() > before + 5, "{file} asks for nothing");
    }
    for expression in &expressions {
        let asked = expression.replace("$namespace", ".*").replace("$rollout", ".*");
        test.cluster.query(&asked).await?;
    }
    wait_for("Prometheus sees a controller that leads", seconds(30), async || {
        let alarming = test.cluster.query("absent(sluice_build_info) or max(sluice_leader) == 0").await?;
        Ok(when(alarming.is_empty(), || format!("{alarming:?}")))
    })
    .await?;
    test.say(format!("Prometheus has the weight, and understands {} expressions", expressions.len()));
    Ok(())
}

/// Every `expr` in a document.
fn collect(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            out.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| collect(field, out));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, out)),
        _ => {}
    }
}

/// Grace may promote, and nothing else.
async fn commands(test: &Test, status: &RolloutStatus) -> Result<()> {
    let rules = json!([
        {"apiGroups": ["sluice.dev"], "resources": ["rolloutactions"], "verbs": ["create"]},
        {"apiGroups": ["sluice.dev"], "resources": ["rollouts"], "resourceNames": ["api"], "verbs": ["promote"]},
    ]);
    let role = json!({"metadata": {"name": "approver"}, "rules": rules});
    let binding = json!({
        "metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "grace"}],
    });
    let client = test.cluster.client.clone();
    let (roles, bindings): (Api<Role>, Api<RoleBinding>) =
        (Api::namespaced(client.clone(), &test.space.name), Api::namespaced(client, &test.space.name));
    roles.create(&PostParams::default(), &serde_json::from_value(role)?).await?;
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;

    let grace = test.cluster.as_user("grace").await?;
    let revision = status.canary_revision.as_deref().context("no revision")?;
    let action = |verb: Verb, by: Option<&str>| json!({"rollout": "api", "verb": verb, "revision": revision, "step": 1, "requestedBy": by});
    let abort = create(test, &grace, action(Verb::Abort, None));
    denied(abort.await, "grace may not abort the Rollout e2e-chart/api: that takes the verb abort on rollouts.sluice.dev")?;
    let full = create(test, &grace, action(Verb::PromoteFull, Some("grace")));
    denied(full.await, "that takes the verb promote-full")?;
    let forged = create(test, &grace, action(Verb::Promote, Some("ada")));
    denied(forged.await, "spec.requestedBy is ada, but you are grace")?;
    let name = create(test, &grace, action(Verb::Promote, Some("grace"))).await?.name_any();
    wait_for("her promotion is done", seconds(15), async || {
        let status = test.space.get("RolloutAction", &name).await?["status"].clone();
        Ok(when(status["outcome"] == "Done", || status.to_string()))
    })
    .await?;
    test.say("a user who may promote has promoted; she may neither abort, nor skip the rest, nor act as another one");
    Ok(())
}

async fn create(test: &Test, client: &Client, spec: Value) -> kube::Result<RolloutAction> {
    let mut action = RolloutAction::new("", serde_json::from_value(spec).map_err(kube::Error::SerdeError)?);
    action.metadata.name = None;
    action.metadata.generate_name = Some("api-".into());
    Api::namespaced(client.clone(), &test.space.name).create(&PostParams::default(), &action).await
}

fn denied(created: kube::Result<RolloutAction>, words: &str) -> Result<()> {
    match created {
        Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains(words) => Ok(()),
        Err(error) => bail!("expected the words {words:?}, got: {error}"),
        Ok(action) => bail!("expected the words {words:?}, but it was created: {:?}", action.spec),
    }
}

async fn refused_uninstall(test: &Test) -> Result<()> {
    let Err(refusal) = test.cluster.uninstall().await else { bail!("it was uninstalled while Rollouts exist") };
    let refusal = format!("{refusal:#}");
    for words in ["Rollout", "e2e-chart/api", "kubectl sluice release --all", "helm rollback"] {
        ensure!(refusal.contains(words), "{words:?} is not in the refusal:\n{refusal}");
    }
    ensure!(test.cluster.controllers().await?.len() >= 2, "the controller was taken away");
    // Helm takes the release for one that is being uninstalled now, as the refusal says.
    test.cluster.rollback().await?;
    test.cluster.install_with(&["podAnnotations.e2e=still-here"]).await?;
    let Err(_) = test.cluster.uninstall().await else { bail!("the second attempt was not refused") };
    test.say("an uninstall was refused while a Rollout exists, rolled back, and refused again");
    Ok(())
}

/// As the refusal says: one command gives everything back, in all namespaces.
async fn released(test: &Test, app: &App) -> Result<()> {
    let before = test.space.pods("app=api").await?;
    let said = sluice(&test.space, &["release", "--all", "--all-namespaces", "--yes"]).await?;
    said.expect(0, "api")?;
    app.available(2).await?;
    same_pods(&before, &test.space.pods("app=api").await?)?;
    test.say("release --all has given the Deployment back, with its pods");
    Ok(())
}

/// Uninstalls; nothing but the CRDs stays.
async fn uninstalled(test: &Test) -> Result<()> {
    let client = &test.cluster.client;
    let rollouts: Api<Rollout> = Api::all(client.clone());
    wait_for("there are no Rollouts", seconds(60), async || {
        let left: Vec<String> = rollouts.list_metadata(&ListParams::default()).await?.items.iter().map(ResourceExt::name_any).collect();
        Ok(when(left.is_empty(), || left.join(", ")))
    })
    .await?;
    test.cluster.uninstall().await?;
    let ours = ListParams::default().labels("app.kubernetes.io/instance=sluice");
    wait_for("all that was installed is gone", seconds(60), async || {
        let mut left: Vec<String> = test.cluster.controllers().await?.iter().map(ResourceExt::name_any).collect();
        left.extend(Api::<ClusterRole>::all(client.clone()).list(&ours).await?.items.iter().map(ResourceExt::name_any));
        left.extend(Api::<ValidatingAdmissionPolicy>::all(client.clone()).list(&ours).await?.items.iter().map(ResourceExt::name_any));
        Ok(if left.is_empty() { Seen::Done(()) } else { Seen::NotYet(left.join(", ")) })
    })
    .await?;
    let crds = Api::<CustomResourceDefinition>::all(client.clone()).list(&ours).await?.items.len();
    let all = sluice::api::crds().len();
    ensure!(crds == all, "{crds} of {all} CRDs have stayed");
    test.say("uninstalled after the last Rollout; the CRDs have stayed");
    Ok(())
}
