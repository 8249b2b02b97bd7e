//! What is deleted, lost or restored: a Deployment has its pods back however its Rollout is deleted, what was rejected is released by
//! nobody but a person, and a namespace goes when it is deleted.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams, PropagationPolicy};
use serde_json::{Value, json};
use sluice::api::{Phase, RolloutStatus, keys};

use super::take_over::same_pods;
use crate::{
    app::App,
    plugin::sluice,
    space::{PodFacts, Space, in_words},
    test::Test,
    wait::{holds_for, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let policies = async {
        deleted(test, "background", PropagationPolicy::Background).await?;
        deleted(test, "orphan", PropagationPolicy::Orphan).await?;
        after_an_abort(test).await
    };
    let midway = async {
        in_the_middle(test).await?;
        with_its_deployment(test).await
    };
    futures::try_join!(policies, restored(test), namespace(test), midway).map(drop)
}

async fn taken_over(test: &Test, space: &Space, name: &str) -> Result<App> {
    let mut app = App::new(&test.cluster, space, name)?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 50}, {"pause": {}}]));
    app.deploy(2).await?;
    app.roll().await?;
    Ok(app)
}

async fn paused(app: &App) -> Result<()> {
    let at = |status: &RolloutStatus| {
        status.phase == Some(Phase::Paused) && status.weights.as_ref().is_some_and(|weights| weights.observed == Some(50.0))
    };
    app.space.until(&app.name, "it pauses at 50 %", seconds(60), at).await.map(drop)
}

/// v2 is taken back, and v1 alone has pods.
async fn aborted(app: &mut App) -> Result<()> {
    app.release("v2", &[]).await?;
    paused(app).await?;
    sluice(&app.space, &["abort", &app.name, "--reason", "wrong prices"]).await?.expect(0, "done")?;
    stays_aborted(app, 60).await
}

/// Waits until the template is rejected, and nothing of it runs.
async fn stays_aborted(app: &App, limit: u64) -> Result<()> {
    wait_for(&format!("{} is Aborted, with the pods of v1 alone", app.name), seconds(limit), async || {
        let status = app.space.status(&app.name).await?;
        let pods = app.space.pods(&format!("app={}", app.name)).await?;
        let so = status.phase == Some(Phase::Aborted)
            && pods.len() == 2
            && pods.values().all(|pod| pod.ready && Some(&pod.hash) == status.stable_revision.as_ref());
        Ok(when(so, || format!("{}; {pods:?}", in_words(&status))))
    })
    .await
}

/// The Deployment runs the same pods by itself, and carries nothing of ours.
async fn runs_by_itself(app: &App, before: &BTreeMap<String, PodFacts>, paused: bool) -> Result<()> {
    app.available(2).await?;
    let selector = format!("app={}", app.name);
    same_pods(before, &app.space.pods(&selector).await?)?;
    let deployment = app.space.get("Deployment", &app.name).await?;
    ensure!((deployment["spec"]["paused"] == true) == paused, "the Deployment's paused is {}", deployment["spec"]["paused"]);
    let annotations = deployment["metadata"]["annotations"].to_string();
    ensure!(!annotations.contains("sluice.dev"), "the Deployment keeps our marks: {annotations}");
    holds_for("the Deployment leaves its pods as they are", seconds(3), async || {
        let pods = app.space.pods(&selector).await?;
        Ok(when(pods == *before, || format!("{pods:?}")))
    })
    .await
}

async fn deleted(test: &Test, name: &str, policy: PropagationPolicy) -> Result<()> {
    let app = taken_over(test, &test.space, name).await?;
    let before = test.space.pods(&format!("app={name}")).await?;
    let load = app.load(20)?;
    test.space.remove("Rollout", name, policy).await?;
    runs_by_itself(&app, &before, false).await?;
    test.stop(load).await?.ensure_no_failures()?;
    test.say(format!("{name}: the Deployment has its pods back"));
    Ok(())
}

/// Unpausing the Deployment would release what was rejected: that is left to a person.
async fn after_an_abort(test: &Test) -> Result<()> {
    let mut app = taken_over(test, &test.space, "rejected").await?;
    let before = test.space.pods("app=rejected").await?;
    let load = app.load(20)?;
    aborted(&mut app).await?;
    test.space.remove("Rollout", "rejected", PropagationPolicy::Background).await?;
    runs_by_itself(&app, &before, true).await?;
    test.stop(load).await?.ensure_no_failures()?;
    test.say("deleted after an abort: the Deployment has v1's pods, and stays paused");
    Ok(())
}

/// In mid-canary, under load: the pods that served before go on alone, and what nobody has judged to its end is left to a person.
async fn in_the_middle(test: &Test) -> Result<()> {
    let mut app = taken_over(test, &test.space, "midway").await?;
    let (git, before) = (test.space.in_git("midway").await?, test.space.pods("app=midway").await?);
    let load = app.load(30)?;
    app.release("v2", &[]).await?;
    paused(&app).await?;
    let asked = jiff::Timestamp::now();
    test.space.remove("Rollout", "midway", PropagationPolicy::Background).await?;
    wait_for("v2's pods have ended", seconds(30), async || {
        let (of_v1, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            test.space.pods("app=midway").await?.into_iter().partition(|(uid, _)| before.contains_key(uid));
        same_pods(&before, &of_v1)?;
        Ok(when(others.is_empty(), || format!("{others:?}")))
    })
    .await?;
    runs_by_itself(&app, &before, true).await?;
    test.space.ensure_as_in_git("midway", &git).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures()?;
    let last = records.last_of("v2").context("v2 has answered nothing")?.at;
    let took = last.duration_since(asked).as_secs_f64();
    ensure!(took < 3.0, "v2 has answered for {took:.1} s after the deletion");
    test.say(format!("deleted in mid-canary: v2 has answered for {took:.1} s more, and v1's pods serve by themselves"));
    Ok(())
}

/// Rollout and Deployment go together, as when an app is taken out of Git in mid-rollout: their pods go, and nothing holds anything up.
async fn with_its_deployment(test: &Test) -> Result<()> {
    let mut app = taken_over(test, &test.space, "both").await?;
    let git = test.space.in_git("both").await?;
    app.release("v2", &[]).await?;
    paused(&app).await?;
    let background = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    for kind in ["Deployment", "Rollout"] {
        test.space.api(kind).delete("both", &background).await.with_context(|| format!("delete {kind} both"))?;
    }
    wait_for("Rollout, Deployment and their pods are gone", seconds(60), async || {
        let mut left: Vec<String> = test.space.pods("app=both").await?.into_values().map(|pod| pod.name).collect();
        for kind in ["Rollout", "Deployment", "ControllerRevision"] {
            left.extend(test.space.api(kind).get_opt("both").await?.map(|_| format!("{kind} both")));
        }
        Ok(when(left.is_empty(), || left.join(", ")))
    })
    .await?;
    test.space.ensure_as_in_git("both", &git).await?;
    test.say("Rollout and Deployment were deleted together in mid-canary: all is gone, and route and Service are as in Git");
    Ok(())
}

/// Status is lost after an abort; then everything is as a backup restores it: no status, no owners, another anchor.
async fn restored(test: &Test) -> Result<()> {
    let mut app = taken_over(test, &test.space, "restored").await?;
    let before = test.space.pods("app=restored").await?;
    let load = app.load(30)?;
    aborted(&mut app).await?;
    let gone = jiff::Timestamp::now();
    lose_status(&app).await?;
    known_again(&app).await?;
    same_pods(&before, &test.space.pods("app=restored").await?)?;
    test.say("status was lost after an abort: what was rejected stays so");

    for set in test.space.list("ReplicaSet").await? {
        let (labels, name) = (&set["metadata"]["labels"], set["metadata"]["name"].as_str().unwrap_or_default());
        if labels[keys::ROLLOUT] == "restored" {
            test.space.patch("ReplicaSet", name, json!({"metadata": {"ownerReferences": null}})).await?;
        }
    }
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    test.space.api("ControllerRevision").delete("restored", &orphan).await.context("delete the anchor")?;
    lose_status(&app).await?;
    known_again(&app).await?;
    let owned =
        |set: &Value| set["metadata"]["labels"][keys::ROLLOUT] != "restored" || set["metadata"]["ownerReferences"][0]["kind"].is_string();
    wait_for("the ReplicaSets have owners again", seconds(30), async || {
        let sets = test.space.list("ReplicaSet").await?;
        Ok(when(sets.iter().all(owned), || "some have none".to_owned()))
    })
    .await?;
    same_pods(&before, &test.space.pods("app=restored").await?)?;
    test.say("restored without owners and status: the same pods serve, and what was rejected stays so");

    app.release("v3", &[]).await?;
    paused(&app).await?;
    sluice(&test.space, &["promote", "restored"]).await?.expect(0, "done")?;
    app.space.until_healthy("restored", "sluice.dev/app:v3", seconds(60)).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures()?;
    let revived = records.within(gone, jiff::Timestamp::now()).of("v2");
    ensure!(revived == 0, "v2 has answered {revived} requests after it was taken back");
    Ok(())
}

async fn lose_status(app: &App) -> Result<()> {
    let patch: json_patch::Patch = serde_json::from_value(json!([{"op": "replace", "path": "/status", "value": {}}]))?;
    app.space.rollouts().patch_status(&app.name, &PatchParams::default(), &Patch::Json::<()>(patch)).await.context("lose status")?;
    Ok(())
}

/// The controller has written the status anew, and it says what was rejected.
async fn known_again(app: &App) -> Result<()> {
    stays_aborted(app, 30).await?;
    holds_for("what was rejected stays so", seconds(5), async || {
        let status = app.space.status(&app.name).await?;
        let pods = app.space.pods(&format!("app={}", app.name)).await?;
        let so = status.phase == Some(Phase::Aborted) && !status.rejected.is_empty() && pods.len() == 2;
        Ok(when(so, || format!("{}; {pods:?}", in_words(&status))))
    })
    .await
}

/// A namespace that is deleted in mid-rollout goes with everything in it.
async fn namespace(test: &Test) -> Result<()> {
    let space = Space::create(&test.cluster.client, &format!("{}-all", test.space.name)).await?;
    let mut app = taken_over(test, &space, "api").await?;
    app.release("v2", &[]).await?;
    paused(&app).await?;
    let began = std::time::Instant::now();
    space.delete().await?;
    space.gone().await?;
    test.say(format!("a namespace was deleted in mid-rollout, and is gone after {:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}
