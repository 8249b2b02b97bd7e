//! Requests that reach the canary whatever its weight: those with a header, and copies of all others.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};
use sluice::api::Phase;

use super::scaling::paused;
use crate::{
    app::App,
    plugin::sluice,
    space::differences,
    test::Test,
    wait::{seconds, wait_for, when},
};

const TESTERS: u32 = 20;
const EVERYONE: u32 = 60;

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.pace(2, 3, 4, 20);
    app.without_analysis()?;
    app.steps(json!([
        {"setHeaderRoute": {"name": "testers", "match": [{"headerName": "X-Tester", "headerValue": {"exact": "yes"}}]}},
        {"pause": {}},
        {"setMirrorRoute": {"name": "copies", "match": [{"method": {"exact": "GET"}}]}},
        {"pause": {}},
        {"setMirrorRoute": {"name": "copies"}},
        {"setWeight": 40},
        {"pause": {}},
    ]));
    app.deploy(2).await?;
    app.roll().await?;
    let in_git = test.space.snapshot("HTTPRoute", "api").await?["spec"].clone();
    let testers = app.load_with("X-Tester: yes", TESTERS)?;
    let everyone = app.load(EVERYONE)?;

    app.release("v2", &[]).await?;
    paused(test, "api", 1, 2, 1).await?;
    let by_header = Timestamp::now();
    tokio::time::sleep(seconds(5)).await;
    let until = Timestamp::now();
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    paused(test, "api", 3, 2, 1).await?;
    copies(test).await?;
    sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    paused(test, "api", 6, 2, 1).await?;
    let weighed = Timestamp::now();
    tokio::time::sleep(seconds(5)).await;

    let aborted = Timestamp::now();
    sluice(&test.space, &["abort", "api"]).await?.expect(0, "done")?;
    let home = |status: &sluice::api::RolloutStatus| {
        status.phase == Some(Phase::Aborted) && status.weights.as_ref().is_some_and(|weights| weights.observed == Some(0.0))
    };
    test.space.until("api", "v2 is taken back", seconds(30), home).await?;
    let rules = test.space.get("HTTPRoute", "api").await?["spec"]["rules"].as_array().map_or(0, Vec::len);
    ensure!(rules == 1, "the route still has {rules} rules");
    let testers = test.stop(testers).await?;
    let everyone = test.stop(everyone).await?;
    testers.ensure_no_failures()?;
    everyone.ensure_no_failures()?;

    let (testers_then, everyone_then) = (testers.within(by_header, until), everyone.within(by_header, until));
    ensure!(testers_then.share("v2") == 100.0, "{:.1} % of the testers' requests came to v2", testers_then.share("v2"));
    ensure!(everyone_then.share("v2") == 0.0, "{:.1} % of everyone's requests came to v2", everyone_then.share("v2"));
    let first = everyone.first_of("v2").context("nobody else has seen v2 at 40 %")?.at;
    ensure!(first > until, "v2 has answered a request without the header at {first}, before it had a weight");
    let share = everyone.within(weighed, aborted).share("v2");
    ensure!((25.0..55.0).contains(&share), "at 40 % {share:.1} % of everyone's requests came to v2");
    let last = [&testers, &everyone].into_iter().filter_map(|records| records.last_of("v2")).map(|record| record.at).max();
    let took = last.context("v2 has answered nothing")?.duration_since(aborted);
    ensure!(took.as_millis() < 3_000, "v2 still answered a request that was sent {took:#} after the abort");
    test.say(format!(
        "testers had v2 and nobody else; at 40 % {share:.0} % of the others; the last request for v2 was sent {took:#} after the abort"
    ));

    promoted(test, &mut app, &in_git).await
}

/// Copies of everyone's requests come to v2, which answers none of them. The testers' requests come beside them. Contour would copy all
/// of them whatever the percentage.
async fn copies(test: &Test) -> Result<()> {
    let (before, began) = (served(test, "v2").await?, Instant::now());
    tokio::time::sleep(seconds(8)).await;
    let rate = (served(test, "v2").await? - before) / began.elapsed().as_secs_f64() - f64::from(TESTERS);
    let share = 100.0 * rate / f64::from(EVERYONE);
    ensure!((80.0..120.0).contains(&share), "copies of {share:.0} % of everyone's requests come to v2");
    test.say(format!("copies of {share:.0} % of everyone's requests come to v2"));
    Ok(())
}

/// Requests that the pods of a version have served, as they count them.
async fn served(test: &Test, version: &str) -> Result<f64> {
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::namespaced(test.space.client.clone(), &test.space.name);
    let mut sum = 0.0;
    for pod in pods.list(&kube::api::ListParams::default().labels("app=api")).await? {
        let image = pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
        if !image.ends_with(version) {
            continue;
        }
        let url = format!("/api/v1/namespaces/{}/pods/{}:8080/proxy/metrics", test.space.name, pod.name_any());
        let text = test.space.client.request_text(http::Request::get(url).body(vec![])?).await.context("the pod's own numbers")?;
        let counters = text.lines().filter(|line| line.starts_with("http_requests_total"));
        sum += counters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

/// The next version goes through the same steps to the end.
async fn promoted(test: &Test, app: &mut App, in_git: &Value) -> Result<()> {
    let testers = app.load_with("X-Tester: yes", TESTERS)?;
    let everyone = app.load(EVERYONE)?;
    app.release("v3", &[]).await?;
    for index in [1, 3, 6] {
        paused(test, "api", index, 2, 1).await?;
        sluice(&test.space, &["promote", "api"]).await?.expect(0, "done")?;
    }
    app.space.until_healthy("api", "sluice.dev/app:v3", seconds(90)).await?;
    wait_for("the route is as in Git", seconds(30), async || {
        let route = test.space.snapshot("HTTPRoute", "api").await?;
        let differs = differences(in_git, &route["spec"]);
        Ok(when(differs.is_empty(), || differs))
    })
    .await?;
    test.stop(testers).await?.ensure_no_failures()?;
    test.stop(everyone).await?.ensure_no_failures()?;
    test.say("v3 is promoted through the same steps; the route is as in Git");
    Ok(())
}
