//! The controller's leader is killed by SIGKILL five times in one rollout, at different steps: the end is the same, no step is done
//! twice, no request fails.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use sluice::api::{
    RolloutStatus,
    status::{RolloutOutcome, Weights},
};

use crate::{test::Test, timeline::Timeline, wait::seconds};

/// A moment of a rollout, told from its status.
type Moment<'a> = (&'a str, &'a dyn Fn(&RolloutStatus) -> bool);

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(6, 5, 5, 30);
    app.deploy(3).await?;
    let before = test.space.in_git("api").await?;
    app.roll().await?;

    let load = app.load(150)?;
    let timeline = Timeline::start(&test.space, "Rollout", "api");
    app.release("v2", &[]).await?;
    let weight = |status: &RolloutStatus| status.weights.as_ref().and_then(|weights| weights.observed).unwrap_or(0.0);
    let at_100 = |status: &RolloutStatus| matches!(status.weights, Some(Weights { canary: 100.0, .. }));
    let moments: [Moment; 5] = [
        ("it begins", &|status| status.canary.is_some()),
        ("5 % is observed", &|status| weight(status) >= 5.0),
        ("25 % is observed", &|status| weight(status) >= 25.0),
        ("100 % is written", &at_100),
        ("it is promoted, and its traffic goes home", &|status| status.stable_revision == status.canary_revision),
    ];
    for (what, is_so) in moments {
        test.space.until("api", what, seconds(60), is_so).await?;
        test.cluster.kill_leader().await?;
        test.say(format!("the leader was killed when {what}, and another one leads"));
    }
    let status = app.space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures()?;

    let weights = timeline.weights()?;
    ensure!(weights == [5.0, 25.0, 50.0, 100.0], "the weights that were observed are {weights:?}");
    let ended: Vec<RolloutOutcome> = status.history.iter().map(|entry| entry.outcome).collect();
    ensure!(ended == [RolloutOutcome::Promoted], "the history says {:?}", status.history);
    // Old pods drain for seconds after nobody sends them anything: they serve no more.
    let mut serving = test.space.pods("app=api").await?;
    serving.retain(|_, pod| !pod.deleting);
    let pods: BTreeSet<&String> = records.0.iter().filter(|record| record.version == "v2").map(|record| &record.pod).collect();
    ensure!(pods.len() == serving.len() && serving.len() == 3, "v2 answered from {pods:?}, the pods at the end are {serving:?}");
    test.space.ensure_as_in_git("api", &before).await
}
