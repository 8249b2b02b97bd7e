//! A good version goes live: the share of traffic follows the weights, no request fails, the pods that were judged are the pods that
//! serve, and at rest everything is as it was applied.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::{
    app::App,
    load::Records,
    test::Test,
    timeline::Timeline,
    wait::{Seen, seconds, wait_for},
};

/// Enough requests in a window of 12 s that chance alone moves no share by 2 points: four standard deviations at 50 %.
const RATE: u32 = 850;
const PAUSE: u32 = 12;
/// In points.
const TOLERANCE: f64 = 2.0;

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(PAUSE, 5, 6, 100);
    app.deploy(3).await?;
    let before = test.space.in_git("api").await?;
    app.roll().await?;
    test.say("v1 is taken over; v2 goes to Git");

    let load = app.load(RATE)?;
    let timeline = Timeline::start(&test.space, "Rollout", "api");
    app.release("v2", &[]).await?;
    let judged = judged_pods(test).await?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v2", seconds(60)).await?;
    let records = test.stop(load).await?;
    test.say("v2 is promoted and everything is at rest");

    records.ensure_no_failures()?;
    let weights = timeline.weights()?;
    ensure!(weights == [5.0, 25.0, 50.0, 100.0], "the weights that were observed are {weights:?}");
    shares(test, &timeline, &records)?;
    let serving = test.space.pods("app=api").await?;
    let serving: BTreeSet<String> = serving.iter().filter(|(_, pod)| !pod.deleting && pod.ready).map(|(uid, _)| uid.clone()).collect();
    ensure!(judged == serving, "the pods that were judged are {judged:?}, those that serve {serving:?}");
    ensure!(status.canary.is_none() && status.weights.is_none(), "at rest, but status still tells of a rollout: {status:?}");
    at_rest(&app, &before).await
}

/// The uids of the new version's pods, once they have all of the traffic.
async fn judged_pods(test: &Test) -> Result<BTreeSet<String>> {
    wait_for("v2 gets all of the traffic", seconds(120), async || {
        let status = test.space.status("api").await?;
        if status.weights.as_ref().is_none_or(|weights| weights.observed != Some(100.0)) {
            return Ok(Seen::NotYet(crate::space::in_words(&status)));
        }
        let hash = status.canary_revision.unwrap_or_default();
        Ok(Seen::Done(test.space.pods(&format!("pod-template-hash={hash}")).await?.into_keys().collect()))
    })
    .await
}

/// At each weight, v2's share of the requests is that weight.
fn shares(test: &Test, timeline: &Timeline, records: &Records) -> Result<()> {
    let mut measured = BTreeMap::new();
    for window in timeline.windows()?.iter().filter(|window| window.weight > 0.0 && window.weight < 100.0) {
        let (from, to) = window.inner()?;
        let requests = records.within(from, to);
        let share = requests.share("v2");
        test.say(format!("at weight {} v2 answered {share:.2} % of {} requests", window.weight, requests.sent()));
        ensure!((share - window.weight).abs() <= TOLERANCE, "at weight {} v2's share is {share:.2} %", window.weight);
        measured.insert(window.weight.to_string(), share);
    }
    ensure!(measured.len() == 3, "shares were measured at these weights alone: {measured:?}");
    Ok(())
}

/// Route and Service are what was applied, and applying them again changes nothing.
async fn at_rest(app: &App, before: &[serde_json::Value; 2]) -> Result<()> {
    for again in [false, true] {
        if again {
            app.space.apply(&app.route).await?;
            app.space.apply(&app.service).await?;
        }
        app.space.ensure_as_in_git("api", before).await?;
    }
    let services = app.space.list("Service").await?;
    ensure!(
        services.len() == 1,
        "the canary Service is still there: {:?}",
        services.iter().map(|s| &s["metadata"]["name"]).collect::<Vec<_>>()
    );
    Ok(())
}
