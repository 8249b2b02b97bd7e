//! The forms in which a route may stand in Git: both Services with weights, both without, several routes, rules by name; a Service with
//! several named ports, and pods that must be ready for a while.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{app::App, space::differences, test::Test, timeline::Timeline, wait::seconds};

/// Seconds for which a pod of `several` must have been ready before it counts.
const MIN_READY: i64 = 6;

pub async fn run(test: &Test) -> Result<()> {
    let mut weighted = test.app("weighted")?;
    weighted.route["spec"]["rules"] = json!([{"backendRefs": [
        {"name": "weighted", "port": 80, "weight": 100},
        {"name": "weighted-canary", "port": 80, "weight": 0},
    ]}]);
    let mut bare = test.app("bare")?;
    bare.route["spec"]["rules"] = json!([{"backendRefs": [{"name": "bare", "port": 80}, {"name": "bare-canary", "port": 80}]}]);
    let mut several = test.app("several")?;
    several.route["spec"]["rules"] = json!([
        {"name": "fixed", "matches": [{"path": {"type": "PathPrefix", "value": "/fixed"}}], "backendRefs": [{"name": "several", "port": 80}]},
        {"name": "main", "backendRefs": [{"name": "several", "port": 80}]},
    ]);
    let mut second = several.route.clone();
    second["metadata"]["name"] = json!("several-more");
    second["spec"]["hostnames"] = json!(["more.example"]);
    second["spec"]["rules"] = json!([{"backendRefs": [{"name": "several", "port": 8081}]}]);
    several.service["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "targetPort": "http", "appProtocol": "http"},
        {"name": "admin", "port": 8081, "targetPort": 8080},
    ]);
    several.deployment["spec"]["minReadySeconds"] = json!(MIN_READY);
    several.rollout["spec"]["traffic"]["routes"] =
        json!([{"kind": "HTTPRoute", "name": "several", "ruleNames": ["main"]}, {"kind": "HTTPRoute", "name": "several-more"}]);

    for app in [&weighted, &bare] {
        test.space.apply(&canary_service(app)).await?;
    }
    test.space.apply(&second).await?;
    futures::try_join!(promote(test, weighted), promote(test, bare), promote(test, several)).map(drop)
}

/// The canary Service, as it stands in Git beside the other one.
fn canary_service(app: &App) -> Value {
    let mut service = app.service.clone();
    service["metadata"]["name"] = json!(format!("{}-canary", app.name));
    service
}

/// A whole rollout under load; then routes and Services are what was applied.
async fn promote(test: &Test, mut app: App) -> Result<()> {
    let name = app.name.clone();
    app.pace(3, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 10}, {"pause": {"duration": "3s"}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}]));
    app.deploy(2).await?;
    let before = in_git(test, &name).await?;
    app.roll().await?;

    let load = app.load(30)?;
    let route = Timeline::start(&test.space, "HTTPRoute", &name);
    let rollout = Timeline::start(&test.space, "Rollout", &name);
    let canary_service = Timeline::start(&test.space, "Service", &format!("{name}-canary"));
    let released = app.release("v2", &[]).await?;
    app.space.until_healthy(&name, "sluice.dev/app:v2", seconds(120)).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures().with_context(|| name.clone())?;
    let weights = rollout.weights()?;
    ensure!(weights == [10.0, 50.0, 100.0], "{name}: the weights that were observed are {weights:?}");
    let after = in_git(test, &name).await?;
    for (before, after) in before.iter().zip(&after) {
        let differences = differences(before, after);
        ensure!(differences.is_empty(), "{name}: {} {} is not what was applied:\n{differences}", after["kind"], after["metadata"]["name"]);
    }
    ensure!(before.len() == after.len(), "{name}: there were {} objects, and are {}", before.len(), after.len());
    app.apply().await?;
    if name == "several" {
        let fixed = |route: &Value| route["spec"]["rules"][0].clone();
        let first = route.versions().first().map(|(_, route)| fixed(route)).context("no version of the route was seen")?;
        let split = route.versions().iter().find(|(_, route)| fixed(route) != first).map(|(_, route)| fixed(route));
        ensure!(split.is_none(), "a rule that is not named was changed: {split:?}");
        let ports = |service: &Value| {
            let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
            ports.iter().map(|port| ["name", "port", "targetPort", "appProtocol"].map(|field| port[field].clone())).collect::<Vec<_>>()
        };
        let made = canary_service.versions().first().map(|(_, service)| ports(service)).context("no canary Service was seen")?;
        ensure!(made == ports(&test.space.get("Service", &name).await?), "the canary Service has the ports {made:?}");
        let first = records.first_of("v2").context("v2 has answered nothing")?.at.duration_since(released).as_secs();
        ensure!(first >= MIN_READY, "v2 has answered {first} s after its release");
    }
    test.say(format!("{name}: promoted, and as it was applied"));
    Ok(())
}

/// All routes and Services of an app.
async fn in_git(test: &Test, name: &str) -> Result<Vec<Value>> {
    let mut found = vec![];
    for kind in ["HTTPRoute", "Service"] {
        for object in test.space.list(kind).await? {
            if let Some(object) =
                object["metadata"]["name"].as_str().filter(|found| *found == name || found.starts_with(&format!("{name}-")))
            {
                found.push(test.space.snapshot(kind, object).await?);
            }
        }
    }
    Ok(found)
}
