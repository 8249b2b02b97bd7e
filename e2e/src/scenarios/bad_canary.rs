//! A bad version is taken back by what Prometheus says, and stays so: neither a restart of the controller nor a change that is none of
//! the template revives it. Only a person's retry does, or the next version.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use sluice::api::{
    Phase, RunPhase, Verdict,
    status::{HistoryEntry, RolloutOutcome, RolloutStatus},
};

use crate::{
    app::App,
    load::Records,
    plugin::sluice,
    test::Test,
    wait::{holds_for, seconds, wait_for, when},
};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(8, 3, 8, 30);
    app.deploy(3).await?;
    app.roll().await?;
    let stable = test.space.status("api").await?.stable_revision;

    let load = app.load(150)?;
    let released = app.release("v3", &[("FAILURE_RATE", "0.2")]).await?;
    let status = taken_back(test, 1).await?;
    let decided = status.rejected.first().context("nothing is rejected")?.at.0;
    evidence(test).await?;
    ensure!(status.stable_revision == stable, "stable was {stable:?}, and is {:?}", status.stable_revision);

    nothing_revives_it(test, &app).await?;
    let records = test.stop(load).await?;
    figures(test, &records, released, decided)?;

    let load = app.load(150)?;
    sluice(&test.space, &["retry", "api", "--reason", "perhaps it was the database"]).await?.expect(0, "done")?;
    taken_back(test, 2).await?;
    test.say("retry has started it again, and Prometheus has taken it back again");
    let fixed = app.release("v4", &[]).await?;
    app.space.until_healthy("api", "sluice.dev/app:v4", seconds(120)).await?;
    let records = test.stop(load).await?.within(fixed, Timestamp::now());
    records.ensure_no_failures()?;
    ensure!(records.of("v3") == 0, "v3 has answered {} requests after v4 was released", records.of("v3"));
    test.say("v4 is promoted");
    Ok(())
}

/// Waits for the abort with this number.
async fn taken_back(test: &Test, number: usize) -> Result<RolloutStatus> {
    let aborted = |entry: &&HistoryEntry| entry.outcome == RolloutOutcome::Aborted;
    let is_so = |status: &RolloutStatus| status.phase == Some(Phase::Aborted) && status.history.iter().filter(aborted).count() == number;
    let status = test.space.until("api", &format!("v3 is taken back, the {number}. time"), seconds(90), is_so).await?;
    ensure!(status.message.contains("success-rate"), "the message does not name the metric: {}", status.message);
    Ok(status)
}

/// The AnalysisRun tells the query, the number, the limit and the verdict.
async fn evidence(test: &Test) -> Result<()> {
    let runs: kube::Api<sluice::api::AnalysisRun> = kube::Api::namespaced(test.space.client.clone(), &test.space.name);
    let runs = runs.list(&Default::default()).await?.items;
    let failed = runs.iter().filter_map(|run| run.status.as_ref()).find(|status| status.phase == RunPhase::Failed);
    let results = &failed.context("no AnalysisRun has failed")?.metric_results;
    let measured = results.iter().flat_map(|result| &result.measurements).find(|m| m.verdict == Verdict::Fail);
    let fail = measured.context("no measurement says Fail")?;
    let value = fail.value.as_deref().context("the measurement has no value")?;
    let rate: f64 = value.trim_end_matches([' ', '%']).parse().with_context(|| format!("the value is {value:?}"))?;
    ensure!((60.0..95.0).contains(&rate), "a success rate of {rate} % was measured, it is about 80");
    ensure!(fail.limit.contains("99") && fail.queries.iter().any(|query| query.contains("envoy_cluster")), "no evidence: {fail:?}");
    test.say(format!("judged by {:.0} requests: {}", fail.samples.unwrap_or_default(), fail.message));
    Ok(())
}

async fn nothing_revives_it(test: &Test, app: &App) -> Result<()> {
    let stays = async |after: &str| {
        holds_for(&format!("v3 stays taken back after {after}"), seconds(3), async || {
            let status = test.space.status("api").await?;
            let weight = status.weights.as_ref().map_or(0.0, |weights| weights.canary);
            Ok(when(status.phase == Some(Phase::Aborted) && weight == 0.0, || crate::space::in_words(&status)))
        })
        .await
    };
    test.cluster.restart().await?;
    stays("a restart of the controller").await?;

    test.space.scale("Rollout", "api", 4).await?;
    wait_for("stable is scaled to 4, and nothing else runs", seconds(30), async || {
        let pods = test.space.pods("app=api").await?;
        let stable = test.space.status("api").await?.stable_revision.unwrap_or_default();
        Ok(when(pods.len() == 4 && pods.values().all(|pod| pod.ready && pod.hash == stable), || format!("{pods:?}")))
    })
    .await?;
    stays("it was scaled").await?;

    test.space.patch("Deployment", "api", json!({"metadata": {"labels": {"touched": "yes"}}})).await?;
    app.space.apply(&app.deployment).await?;
    stays("the Deployment was touched and applied again").await?;
    test.say("neither a restart, nor scaling, nor a touched Deployment revives v3");
    Ok(())
}

fn figures(test: &Test, records: &Records, released: Timestamp, decided: Timestamp) -> Result<()> {
    let first = records.first_of("v3").context("v3 has never answered")?;
    let last = records.last_of("v3").context("v3 has never answered")?;
    let failed = records.failures().count();
    let seconds = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    test.say(format!(
        "v3 answered {} of {} requests, {failed} failed; all traffic was back on stable {:.1} s after v3's first answer, {:.1} s after its release, {:.1} s after the verdict",
        records.of("v3"),
        records.sent(),
        seconds(first.at, last.at),
        seconds(released, last.at),
        // Its last answer may well have come before.
        seconds(decided, last.at).max(0.0),
    ));
    let others = records.failures().find(|record| record.version != "v3");
    ensure!(others.is_none(), "a request failed that v3 has not answered: {}", others.map(ToString::to_string).unwrap_or_default());
    ensure!(seconds(decided, last.at) < 3.0, "v3 has answered until {:.1} s after the verdict", seconds(decided, last.at));
    // A fifth of 5 % (8 requests a second) for an interval and the time to act.
    ensure!(failed <= 60, "{failed} requests failed before v3 was taken back");
    Ok(())
}
