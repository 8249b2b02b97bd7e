//! A route with several parents: two listeners that report, and a Gateway that nobody implements and that says nothing. Then one that
//! refuses it.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{ensure_ended_with, holds, route_is};
use crate::{app::App, test::Test, timeline::Timeline, wait::seconds};

const MORE: &str = "parents.more.example";

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("parents")?;
    app.pace(3, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": {"duration": "2s"}}, {"setWeight": 60}, {"pause": {"duration": "2s"}}]));
    let listener = |name: &str| json!({"namespace": "gateway", "name": "gw", "sectionName": name});
    let parents = [listener("http"), listener("more"), json!({"name": "nobody"})];
    app.route["spec"]["parentRefs"] = json!(parents);
    app.route["spec"]["hostnames"] = json!([app.host, MORE]);
    test.space.apply(&nobody()).await?;
    app.deploy(2).await?;
    app.roll().await?;
    let before = test.space.snapshot("HTTPRoute", "parents").await?;

    let mut other = app.clone();
    other.host = MORE.to_owned();
    let route = Timeline::start(&test.space, "HTTPRoute", "parents");
    let (load, more) = (app.load(12)?, other.load(12)?);
    app.release("v2", &[]).await?;
    app.space.until_healthy("parents", "sluice.dev/app:v2", seconds(120)).await?;
    for load in [load, more] {
        ensure_ended_with(&test.stop(load).await?, "v2")?;
    }
    route_is(test, "HTTPRoute", "parents", &before).await?;
    let versions = route.versions();
    let (_, last) = versions.last().context("no version of the route was seen")?;
    ensure!(reports(last) == ["http", "more"], "{:?} report", reports(last));
    test.say("parents: promoted on two listeners; a third parent never said a word");
    refused(test, &mut app, &parents).await
}

/// Who reports on a route, by the name of the listener.
fn reports(route: &Value) -> Vec<&str> {
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = parents.map(|parent| parent["parentRef"]["sectionName"].as_str().unwrap_or_default()).collect();
    names.sort_unstable();
    names
}

/// A Gateway of a class that does not exist.
fn nobody() -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "nobody"},
        "spec": {"gatewayClassName": "nobody", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]},
    })
}

/// A parent that does not accept the route holds a rollout before anything has moved, until it names another.
async fn refused(test: &Test, app: &mut App, parents: &[Value]) -> Result<()> {
    let wrong = json!({"namespace": "gateway", "name": "gw", "sectionName": "nowhere"});
    let all: Vec<Value> = parents.iter().cloned().chain([wrong]).collect();
    test.space.patch("HTTPRoute", "parents", json!({"spec": {"parentRefs": all}})).await?;
    app.release("v3", &[]).await?;
    holds(test, app, "does not accept HTTPRoute parents").await?;
    let status = test.space.status("parents").await?;
    ensure!(status.weights.as_ref().is_none_or(|weights| weights.canary == 0.0), "v3 has a weight: {:?}", status.weights);
    // In mid-rollout the rules are not as in Git, so a person has to do it.
    test.space.patch("HTTPRoute", "parents", json!({"spec": {"parentRefs": parents}})).await?;
    app.space.until_healthy("parents", "sluice.dev/app:v3", seconds(120)).await?;
    test.say(format!("parents: held while a listener did not accept the route ({}), and went on without it", status.message));
    Ok(())
}
