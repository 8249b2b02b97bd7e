//! A Git tool puts back what a rollout changes, by force, again and again: it is repaired within a second, the third time it is named and
//! the step is held; and where Git lists both Services without weights, a sync at every step does no harm.

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sluice::{
    api::{Phase, RolloutStatus, keys},
    core::patch::MANAGER,
};

use crate::{
    app::App,
    load::{Record, Records},
    plugin::sluice,
    space::in_words,
    test::Test,
    timeline::Timeline,
    wait::{Seen, holds_for, seconds, wait_for, when},
};

/// As Argo CD calls itself where it applies server-side.
const TOOL: &str = "argocd-controller";
const REPAIRED_WITHIN: SignedDuration = SignedDuration::from_secs(1);
/// A tool's write may cost a request within this time.
const UNSETTLED: SignedDuration = SignedDuration::from_secs(1);

pub async fn run(test: &Test) -> Result<()> {
    futures::try_join!(contested(test), repaired(test), synced(test)).map(drop)
}

/// An app with v1 taken over, whose pause leaves time for what happens in it.
async fn taken_over(test: &Test, name: &str, pause: Value) -> Result<App> {
    let mut app = test.app(name)?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": pause}, {"setWeight": 50}, {"pause": pause}]));
    app.deploy(2).await?;
    app.roll().await?;
    Ok(app)
}

/// Applies manifests as they stand in Git, whatever is live. Gives the time at which that began.
async fn put_back(test: &Test, manifests: &[&Value]) -> Result<Timestamp> {
    let began = Timestamp::now();
    for manifest in manifests {
        let (kind, name) = (manifest["kind"].as_str().unwrap_or_default(), manifest["metadata"]["name"].as_str().unwrap_or_default());
        let params = PatchParams::apply(TOOL).force();
        test.space.api(kind).patch(name, &params, &Patch::Apply(manifest)).await.with_context(|| format!("put {kind} {name} back"))?;
    }
    Ok(began)
}

/// Where a tool takes a backend out of a route that sends it traffic, the gateway itself may lose a request: Envoy learns of routes and of
/// clusters apart. (With 200 requests a second and 20 % of them for that backend, one of 30 such writes did.) No other request fails.
fn ensure_only_the_tools(test: &Test, records: &Records, writes: &[Timestamp]) -> Result<()> {
    let after_a_write = |record: &&Record| writes.iter().any(|at| record.at >= *at && record.at < *at + UNSETTLED);
    let (by_tool, others): (Vec<_>, Vec<_>) = records.failures().partition(after_a_write);
    ensure!(others.is_empty(), "a request failed that no write of the tool explains: {}", others[0]);
    ensure!(
        by_tool.len() <= writes.len(),
        "{} writes of the tool cost {} requests, the first: {}",
        writes.len(),
        by_tool.len(),
        by_tool[0]
    );
    if !by_tool.is_empty() {
        test.say(format!("{} writes of the tool cost {} of {} requests", writes.len(), by_tool.len(), records.sent()));
    }
    Ok(())
}

pub async fn until_observed(test: &Test, name: &str, weight: f64) -> Result<RolloutStatus> {
    let observed = |status: &RolloutStatus| status.weights.as_ref().is_some_and(|weights| weights.observed == Some(weight));
    test.space.until(name, &format!("{weight} % is observed"), seconds(60), observed).await
}

/// Waits for the pause after this weight.
pub async fn paused_at(test: &Test, name: &str, weight: f64) -> Result<RolloutStatus> {
    let so = |status: &RolloutStatus| {
        status.phase == Some(Phase::Paused) && status.weights.as_ref().is_some_and(|weights| weights.observed == Some(weight))
    };
    test.space.until(name, &format!("it pauses at {weight} %"), seconds(60), so).await
}

/// The times for which an object was as in Git while it should not have been.
pub fn repairs(timeline: &Timeline, is_ours: impl Fn(&Value) -> bool) -> Vec<SignedDuration> {
    let versions = timeline.versions();
    let begins = versions.iter().position(|(_, object)| is_ours(object)).unwrap_or(versions.len());
    let mut lost = None;
    let mut found = vec![];
    for (at, object) in &versions[begins..] {
        match (is_ours(object), lost) {
            (false, None) => lost = Some(*at),
            (true, Some(since)) => {
                found.push(at.duration_since(since));
                lost = None;
            }
            _ => {}
        }
    }
    found
}

fn ensure_repaired(test: &Test, what: &str, repairs: &[SignedDuration], least: usize) -> Result<()> {
    let words: Vec<String> = repairs.iter().map(|time| format!("{} ms", time.as_millis())).collect();
    test.say(format!("{what} was put back and repaired within {}", words.join(", ")));
    ensure!(repairs.len() >= least, "{what} was put back {least} times, but only {} repairs were seen", repairs.len());
    let slow = repairs.iter().find(|time| **time > REPAIRED_WITHIN);
    ensure!(slow.is_none(), "{what} was repaired only after {slow:?}");
    Ok(())
}

pub fn has_canary(route: &Value) -> bool {
    let backends = route["spec"]["rules"].as_array().into_iter().flatten().flat_map(|rule| rule["backendRefs"].as_array()).flatten();
    backends.filter_map(|backend| backend["name"].as_str()).any(|name| name.ends_with("-canary"))
}

pub fn is_pinned(service: &Value) -> bool {
    service["spec"]["selector"].get(keys::POD_TEMPLATE_HASH).is_some()
}

/// The route, three times in a row: the tool is named, the step held, and an abort still is one write.
async fn contested(test: &Test) -> Result<()> {
    let mut app = taken_over(test, "api", json!({"duration": "25s"})).await?;
    let load = app.load(40)?;
    let timeline = Timeline::start(&test.space, "HTTPRoute", "api");
    app.release("v2", &[]).await?;
    let mut writes = vec![];
    for _ in 0..2 {
        until_observed(test, "api", 20.0).await?;
        writes.push(put_back(test, &[&app.route]).await?);
        let lost = |status: &RolloutStatus| status.weights.as_ref().is_some_and(|weights| weights.observed != Some(20.0));
        test.space.until("api", "it is seen", seconds(10), lost).await?;
    }
    until_observed(test, "api", 20.0).await?;
    writes.push(put_back(test, &[&app.route]).await?);
    let condition =
        |status: &RolloutStatus| status.conditions.iter().find(|c| c.type_ == "TrafficContested" && c.status == "True").cloned();
    let status = test.space.until("api", "TrafficContested", seconds(10), |status| condition(status).is_some()).await?;
    let named = condition(&status).context("TrafficContested")?;
    for words in [TOOL, "HTTPRoute api", "3 times", "ignoreDifferences", "api-canary"] {
        ensure!(named.message.contains(words), "the condition does not say {words:?}: {}", named.message);
    }
    test.say(format!("contested: {}", named.message));
    let step = status.current_step.as_ref().map(|step| step.index);
    holds_for("the step is held, longer than its pause", seconds(28), async || {
        let status = test.space.status("api").await?;
        let so = status.current_step.as_ref().map(|step| step.index) == step && status.weights.as_ref().is_some_and(|w| w.canary <= 20.0);
        Ok(when(so && condition(&status).is_some(), || in_words(&status)))
    })
    .await?;
    let route = test.space.get("HTTPRoute", "api").await?;
    ensure!(has_canary(&route), "the route was not repaired the third time: {}", route["spec"]["rules"]);
    ensure_repaired(test, "the route", &repairs(&timeline, has_canary), 3)?;

    sluice(&test.space, &["abort", "api", "--reason", "mend Git first"]).await?.expect(0, "done")?;
    test.space.until("api", "it is taken back", seconds(30), |status| status.phase == Some(Phase::Aborted)).await?;
    app.release("v1", &[]).await?;
    let status = app.space.until_healthy("api", "sluice.dev/app:v1", seconds(60)).await?;
    ensure!(condition(&status).is_none(), "still contested at rest: {:?}", status.conditions);
    ensure_only_the_tools(test, &test.stop(load).await?, &writes)?;
    given_up(test, "api").await
}

/// The Service and the route, twice: repaired, and the rollout goes on to its end.
async fn repaired(test: &Test) -> Result<()> {
    let mut app = taken_over(test, "repaired", json!({"duration": "4s"})).await?;
    let load = app.load(40)?;
    let (service, route) = (Timeline::start(&test.space, "Service", "repaired"), Timeline::start(&test.space, "HTTPRoute", "repaired"));
    app.release("v2", &[]).await?;
    let mut writes = vec![];
    for weight in [20.0, 50.0] {
        until_observed(test, "repaired", weight).await?;
        writes.push(put_back(test, &[&app.service, &app.route, &app.deployment]).await?);
    }
    app.space.until_healthy("repaired", "sluice.dev/app:v2", seconds(90)).await?;
    ensure_only_the_tools(test, &test.stop(load).await?, &writes)?;
    // At rest it is as in Git, too: what was put back last has no end.
    ensure_repaired(test, "the Service", &repairs(&service, is_pinned), 2)?;
    ensure_repaired(test, "the route", &repairs(&route, has_canary), 2)?;
    test.say("promoted although Service and route were put back in the middle");
    given_up(test, "repaired").await
}

/// Both Services in Git, in the route without weights: everything is applied again at every step.
async fn synced(test: &Test) -> Result<()> {
    let mut app = test.app("synced")?;
    app.route["spec"]["rules"] = json!([{"backendRefs": [{"name": "synced", "port": 80}, {"name": "synced-canary", "port": 80}]}]);
    let mut canary = app.service.clone();
    canary["metadata"]["name"] = json!("synced-canary");
    app.pace(3, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 10}, {"pause": {"duration": "3s"}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}]));
    test.space.apply(&canary).await?;
    app.deploy(2).await?;
    app.roll().await?;
    let load = app.load(40)?;
    let rollout = Timeline::start(&test.space, "Rollout", "synced");
    app.release("v2", &[]).await?;
    for weight in [10.0, 50.0] {
        until_observed(test, "synced", weight).await?;
        put_back(test, &[&app.service, &canary, &app.route, &app.deployment]).await?;
    }
    wait_for("synced is promoted", seconds(60), async || {
        let status = test.space.status("synced").await?;
        let promoted = status.stable_revision.is_some() && status.stable_revision == status.canary_revision && status.weights.is_some();
        Ok(if promoted { Seen::Done(()) } else { Seen::NotYet(in_words(&status)) })
    })
    .await?;
    put_back(test, &[&app.service, &canary, &app.route, &app.deployment]).await?;
    app.space.until_healthy("synced", "sluice.dev/app:v2", seconds(90)).await?;
    put_back(test, &[&app.service, &canary, &app.route, &app.deployment]).await?;
    test.stop(load).await?.ensure_no_failures()?;
    let weights = rollout.weights()?;
    ensure!([10.0, 50.0, 100.0].iter().all(|weight| weights.contains(weight)), "the weights that were observed are {weights:?}");
    test.say("both Services in Git: synced at every step, on the way home and at rest, without a failed request");
    given_up(test, "synced").await
}

/// At rest no field of the user's objects is recorded as managed by us.
pub async fn given_up(test: &Test, name: &str) -> Result<()> {
    for kind in ["Deployment", "Service", "HTTPRoute"] {
        let object = test.space.get(kind, name).await?;
        let ours = object["metadata"]["managedFields"].as_array().into_iter().flatten().find(|entry| entry["manager"] == MANAGER);
        ensure!(ours.is_none(), "{kind} {name} is recorded as managed by us at rest: {ours:?}");
    }
    Ok(())
}
