//! The plugin steers: init, lint, set image, promote, promote --full, skip-step, abort, retry, pause, resume, history; what is addressed to another revision or step is refused.
//! A new template in the middle of a rollout supersedes it; the template set back to stable returns at once.

use anyhow::{Context, Result, ensure};
use kube::api::PropagationPolicy;
use serde_json::json;
use sluice::api::{
    Phase, RolloutStatus,
    status::{HoldReason, RolloutOutcome},
};

use crate::{
    app::App,
    plugin::{Call, sluice},
    space::in_words,
    test::Test,
    wait::{Seen, holds_for, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}, {"pause": {"duration": "2s"}}]));
    app.deploy(2).await?;
    begun_by_the_plugin(test).await?;
    app.roll().await?;
    claimed_twice(test, &app).await?;
    sluice(&test.space, &["status", "api", "--watch=false"]).await?.expect(0, "Healthy")?;
    sluice(&test.space, &["promote", "api"]).await?.expect(1, "nothing to promote")?;

    let load = app.load(50)?;
    steered(test, &mut app).await?;
    taken_back_and_tried_again(test, &mut app).await?;
    superseded_and_withdrawn(test, &mut app).await?;
    skipped_over(test).await?;
    test.stop(load).await?.ensure_no_failures()
}

/// `init` writes a Rollout for what runs, and `lint --online` finds nothing in it.
async fn begun_by_the_plugin(test: &Test) -> Result<()> {
    let written = sluice(&test.space, &["init", "api"]).await?.expect(0, "service: api")?.out;
    let file = test.cluster.logs.join("init.yaml");
    std::fs::write(&file, written)?;
    sluice(&test.space, &["lint", "--online", "--filename", file.to_str().context("a path")?]).await?.expect(0, "")?;
    test.say("init has written a Rollout, and lint finds nothing in it");
    Ok(())
}

/// Another Rollout of the same Deployment and Service, by mistake: it is told so, and nothing moves.
async fn claimed_twice(test: &Test, app: &App) -> Result<()> {
    let mut mistake = app.rollout.clone();
    mistake["metadata"]["name"] = json!("mistake");
    let (git, pods) = (test.space.in_git("api").await?, test.space.pods("app=api").await?);
    let versions = async || -> Result<String> {
        let mut versions = vec![];
        for (kind, name) in [("Rollout", "api"), ("Deployment", "api"), ("Service", "api"), ("HTTPRoute", "api")] {
            versions.push(test.space.get(kind, name).await?["metadata"]["generation"].to_string());
        }
        Ok(versions.join(" "))
    };
    let before = versions().await?;
    test.space.apply(&mistake).await?;
    let invalid = |status: &RolloutStatus| status.conditions.iter().any(|c| c.type_ == "InvalidSpec" && c.status == "True");
    let status = test.space.until("mistake", "it is refused", seconds(10), invalid).await?;
    ensure!(status.message.contains("Rollout api"), "the other one is not named: {}", status.message);
    holds_for("nothing moves", seconds(3), async || {
        let same = versions().await? == before && test.space.pods("app=api").await? == pods;
        Ok(when(same, || "something was written".to_owned()))
    })
    .await?;
    test.space.ensure_as_in_git("api", &git).await?;
    test.space.remove("Rollout", "mistake", PropagationPolicy::Background).await?;
    ensure!(versions().await? == before, "the deletion of the mistake has changed something");
    test.say(format!("a second Rollout of the same Service is refused: {}", status.message));
    Ok(())
}

/// A version by `set image`; a step that is skipped; what the history says in the end.
async fn skipped_over(test: &Test) -> Result<()> {
    sluice(&test.space, &["set", "image", "api", "app=sluice.dev/app:v5"]).await?.expect(0, "")?;
    pauses_at(test, 1, 20.0).await?;
    sluice(&test.space, &["skip-step", "api", "--reason", "nobody is awake"]).await?.expect(0, "done")?;
    pauses_at(test, 3, 50.0).await?;
    sluice(&test.space, &["promote", "api", "--full"]).await?.expect(0, "done")?;
    test.space.until_healthy("api", "sluice.dev/app:v5", seconds(60)).await?;
    let said = sluice(&test.space, &["history", "api"]).await?.expect(0, "customers report errors")?;
    for outcome in ["Promoted", "Aborted", "Superseded", "Withdrawn", "sluice.dev/app:v5", "--to-revision"] {
        ensure!(said.out.contains(outcome), "{outcome} is not in the history:\n{}", said.out);
    }
    test.say("set image, skip-step and history");
    Ok(())
}

/// Waits for the pause step with this index, at its weight.
async fn pauses_at(test: &Test, index: i32, weight: f64) -> Result<RolloutStatus> {
    let is_so = |status: &RolloutStatus| {
        let step = status.current_step.as_ref().is_some_and(|step| step.index == index);
        let observed = status.weights.as_ref().is_some_and(|weights| weights.observed == Some(weight));
        step && observed && status.phase == Some(Phase::Paused)
    };
    test.space.until("api", &format!("it pauses at step {index} with {weight} %"), seconds(60), is_so).await
}

/// v2, promoted step by step, with a pause in between.
async fn steered(test: &Test, app: &mut App) -> Result<()> {
    app.release("v2", &[]).await?;
    let seen = pauses_at(test, 1, 20.0).await?.canary_revision.context("no revision")?;
    sluice(&test.space, &["status", "api", "--watch=false"]).await?.expect(3, "")?;
    sluice(&test.space, &["status", "api", "--for-image", "sluice.dev/app:v2", "--timeout", "1s"]).await?.expect(3, "")?;
    sluice(&test.space, &["promote", "api", "--reason", "looks good"]).await?.expect(0, "done")?;
    pauses_at(test, 3, 50.0).await?;
    test.say("promote has ended the first pause");

    // As if somebody pressed the button twice, or another one's screen was old.
    refused(test, json!({"rollout": "api", "verb": "Promote", "revision": seen, "step": 1}), "step").await?;
    refused(test, json!({"rollout": "api", "verb": "Abort", "revision": "0123456789"}), "0123456789").await?;
    let status = pauses_at(test, 3, 50.0).await?;
    ensure!(status.canary_revision.as_ref() == Some(&seen), "the refused actions did something: {}", in_words(&status));
    test.say("a promotion of another step and an abort of another revision were refused");

    sluice(&test.space, &["pause", "api", "--reason", "looking at the logs"]).await?.expect(0, "done")?;
    let held = |status: &RolloutStatus| status.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::PausedByAction);
    test.space.until("api", "it is held by the pause", seconds(10), held).await?;
    sluice(&test.space, &["resume", "api"]).await?.expect(0, "done")?;
    test.space.until("api", "it is no longer held", seconds(10), |status| !held(status)).await?;
    test.say("paused and resumed");
    Ok(())
}

async fn taken_back_and_tried_again(test: &Test, app: &mut App) -> Result<()> {
    sluice(&test.space, &["abort", "api", "--reason", "customers report errors"]).await?.expect(0, "done")?;
    let status = test.space.until("api", "it is aborted", seconds(10), |status| status.phase == Some(Phase::Aborted)).await?;
    ensure!(status.message.contains("customers report errors"), "the reason is not in: {}", status.message);
    sluice(&test.space, &["status", "api"]).await?.expect(2, "customers report errors")?;
    sluice(&test.space, &["why", "api"]).await?.expect(0, "customers report errors")?;
    sluice(&test.space, &["promote", "api"]).await?.expect(1, "kubectl sluice retry api")?;
    sluice(&test.space, &["retry", "api"]).await?.expect(0, "done")?;
    pauses_at(test, 1, 20.0).await?;
    sluice(&test.space, &["promote", "api", "--full"]).await?.expect(0, "done")?;
    let arguments = ["status", "api", "--for-image", "sluice.dev/app:v2", "--timeout", "90s"];
    sluice(&test.space, &arguments).await?.expect(0, "")?;
    app.space.until_healthy("api", "sluice.dev/app:v2", seconds(30)).await?;
    test.say("aborted, tried again, and promoted fully");
    Ok(())
}

async fn superseded_and_withdrawn(test: &Test, app: &mut App) -> Result<()> {
    app.release("v3", &[]).await?;
    let third = pauses_at(test, 1, 20.0).await?.canary_revision;
    let arguments = ["status", "api", "--for-image", "sluice.dev/app:v3", "--timeout", "60s"];
    let mut pipeline = Call::start(&test.space, &arguments)?;
    pipeline.line().await?;
    app.release("v4", &[]).await?;
    let is_fourth = |status: &RolloutStatus| status.canary_revision != third && status.phase == Some(Phase::Paused);
    let status = test.space.until("api", "v4 gets its 20 %", seconds(90), is_fourth).await?;
    pipeline.end().await?.expect(4, "superseded")?;
    let outcome = |status: &RolloutStatus| status.history.last().map(|entry| entry.outcome);
    ensure!(outcome(&status) == Some(RolloutOutcome::Superseded), "the history says {:?}", status.history);
    pauses_at(test, 1, 20.0).await?;
    test.say("v4 has superseded v3 in mid-rollout");

    app.release("v2", &[]).await?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v2", seconds(60)).await?;
    ensure!(outcome(&status) == Some(RolloutOutcome::Withdrawn), "the history says {:?}", status.history);
    test.say("set back to stable in mid-rollout");
    Ok(())
}

/// Creates an action, and waits until it is refused with these words.
async fn refused(test: &Test, spec: serde_json::Value, words: &str) -> Result<()> {
    let action =
        json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction", "metadata": {"generateName": "api-by-hand-"}, "spec": spec});
    let created = test.space.api("RolloutAction").create(&Default::default(), &serde_json::from_value(action)?).await?;
    let name = created.metadata.name.context("a name")?;
    wait_for(&format!("{spec} is refused with the word {words:?}"), seconds(15), async || {
        let status = test.space.get("RolloutAction", &name).await?["status"].clone();
        let is_so = status["outcome"] == "Refused" && status["message"].as_str().is_some_and(|message| message.contains(words));
        Ok(if is_so { Seen::Done(()) } else { Seen::NotYet(status.to_string()) })
    })
    .await
}
