//! At rest, Rollouts cost nothing and leave nothing behind: no request, no change of any object, no managed fields, and no marks but the
//! documented ones. One that was taken back and one that waits for a person are quiet, too.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sluice::{
    api::{Phase, keys},
    core::patch::MANAGER,
};

use crate::{
    app::App,
    audit::{self, Audit, is_lease},
    plugin::sluice,
    space::in_words,
    test::Test,
    wait::{seconds, wait_for, when},
};

const ROLLOUTS: usize = 20;
/// Those of them that have been through a rollout.
const PROMOTED: usize = 4;
/// Time in which there is nothing to be seen.
const TIME: std::time::Duration = seconds(60);
/// Kinds that carry something of ours.
const KINDS: [&str; 6] = ["Rollout", "Deployment", "ReplicaSet", "ControllerRevision", "Service", "HTTPRoute"];

pub async fn run(test: &Test) -> Result<()> {
    let all = Audit::begin(&test.cluster)?;
    let mut apps = (0..ROLLOUTS + 2).map(|n| app(test, n)).collect::<Result<Vec<App>>>()?;
    futures::future::try_join_all(apps.iter().map(|app| taken_over(test, app))).await?;
    test.say(format!("{} Deployments are taken over", apps.len()));
    let (waits, rest) = apps.split_first_mut().context("apps")?;
    let (bad, rest) = rest.split_first_mut().context("apps")?;
    for app in [&mut *waits, &mut *bad].into_iter().chain(rest.iter_mut().take(PROMOTED)) {
        app.release("v2", &[]).await?;
    }
    paused(test, &bad.name).await?;
    paused(test, &waits.name).await?;
    sluice(&test.space, &["abort", &bad.name]).await?.expect(0, "done")?;
    phase(test, &bad.name, Phase::Aborted).await?;
    for app in rest.iter().take(PROMOTED) {
        paused(test, &app.name).await?;
        sluice(&test.space, &["promote", &app.name]).await?.expect(0, "done")?;
    }
    for app in rest.iter() {
        app.space.until_healthy(&app.name, &app.image()?, seconds(90)).await?;
    }
    test.say(format!("{PROMOTED} have been through a rollout, one was taken back, and one waits for a person"));
    let ours = |request: &Value| {
        let namespace = &request["objectRef"]["namespace"];
        request["verb"] != "watch" && !is_lease(request) && (namespace.is_null() || *namespace == test.space.name)
    };
    wait_for("the controller has nothing to do any more", seconds(60), async || {
        let last = all.of_controller()?.into_iter().rfind(&ours);
        let quiet = last.as_ref().is_none_or(|request| audit::age(request).is_some_and(|age| age.as_secs() >= 5));
        Ok(when(quiet, || format!("{last:?}")))
    })
    .await?;

    let before = versions(test).await?;
    let minute = Audit::begin(&test.cluster)?;
    tokio::time::sleep(TIME).await;
    let all = minute.of_controller()?;
    let requests: Vec<String> = all.iter().filter(|r| ours(r)).map(audit::words).collect();
    ensure!(all.iter().any(is_lease), "the audit log does not show the controller at all");
    ensure!(requests.is_empty(), "{} requests in {} s at rest:\n  {}", requests.len(), TIME.as_secs(), requests.join("\n  "));
    let after = versions(test).await?;
    let changed: Vec<_> = after.iter().filter(|(object, version)| before.get(*object) != Some(version)).collect();
    ensure!(changed.is_empty() && before.len() == after.len(), "these have changed at rest: {changed:?}");
    test.say(format!("no request in {} s, and none of {} objects has changed", TIME.as_secs(), after.len()));

    let busy = BTreeSet::from([waits.name.clone(), bad.name.clone()]);
    nothing_left(test, &busy).await
}

fn app(test: &Test, n: usize) -> Result<App> {
    let mut app = test.app(&format!("rest-{n:02}"))?;
    app.pace(2, 2, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 50}, {"pause": {}}]));
    Ok(app)
}

async fn taken_over(test: &Test, app: &App) -> Result<()> {
    app.apply().await?;
    test.space.scale("Deployment", &app.name, 1).await?;
    app.available(1).await?;
    app.roll().await
}

async fn paused(test: &Test, name: &str) -> Result<()> {
    let at = |status: &sluice::api::RolloutStatus| {
        status.phase == Some(Phase::Paused) && status.weights.as_ref().is_some_and(|weights| weights.observed == Some(50.0))
    };
    test.space.until(name, "it pauses at 50 %", seconds(90), at).await.map(drop)
}

async fn phase(test: &Test, name: &str, phase: Phase) -> Result<()> {
    wait_for(&format!("{name} is {phase}, with one pod"), seconds(60), async || {
        let status = test.space.status(name).await?;
        let pods = test.space.pods(&format!("app={name}")).await?.len();
        Ok(when(status.phase == Some(phase) && pods == 1, || format!("{pods} pods; {}", in_words(&status))))
    })
    .await
}

/// The resourceVersion of each object.
async fn versions(test: &Test) -> Result<BTreeMap<(String, String), String>> {
    let mut found = BTreeMap::new();
    for kind in KINDS {
        for object in test.space.list(kind).await? {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            found.insert((kind.to_owned(), text("name")), text("resourceVersion"));
        }
    }
    Ok(found)
}

/// Whether something may stand on an object of a kind at rest. The list is that of docs/reference.md.
fn is_expected(kind: &str, key: &str) -> bool {
    match kind {
        "Rollout" => key == keys::FINALIZER,
        "Deployment" => key == keys::WORKLOAD_RECORD,
        "ReplicaSet" => [keys::ROLLOUT, keys::TEMPLATE, keys::STABLE, keys::MOVED_LABELS, keys::WORKLOAD_RECORD].contains(&key),
        "ControllerRevision" => [keys::ROLLOUT, keys::ABOUT].contains(&key),
        _ => false,
    }
}

/// On no object at rest are marks beyond what is documented; none of the user's is recorded as managed by us.
async fn nothing_left(test: &Test, busy: &BTreeSet<String>) -> Result<()> {
    for kind in KINDS {
        for object in test.space.list(kind).await? {
            let metadata = &object["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default();
            if busy.iter().any(|busy| name == busy || name.starts_with(&format!("{busy}-"))) {
                continue;
            }
            let keys_of = |field: &str| metadata[field].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
            let finalizers = metadata["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
            let marks = keys_of("labels").into_iter().chain(keys_of("annotations")).chain(finalizers);
            let unexpected: Vec<String> =
                marks.filter(|key| (key.contains("sluice.dev") || key == keys::FLUX_RECONCILE) && !is_expected(kind, key)).collect();
            ensure!(unexpected.is_empty(), "{kind} {name} carries {unexpected:?} at rest");
            let users = ["Deployment", "Service", "HTTPRoute"].contains(&kind);
            let managed = metadata["managedFields"].as_array().into_iter().flatten().find(|entry| users && entry["manager"] == MANAGER);
            ensure!(managed.is_none(), "{kind} {name} is recorded as managed by us at rest: {managed:?}");
        }
    }
    test.say("nothing of ours is left but the documented marks, and no managed fields");
    Ok(())
}
