//! Rules at the limits of the Gateway API: as many backends as fit, the largest weights, a Service without a share, and one that stands in
//! a rule twice. What is beyond them is refused before anything moves.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{holds, route_is};
use crate::{app::App, scenarios::neighbours::untouched, test::Test, timeline::Timeline, wait::seconds};

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("limits")?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": {"duration": "2s"}}, {"setWeight": 60}, {"pause": {"duration": "2s"}}]));
    app.route["spec"]["rules"] = rules(15);
    let mut partner = test.app("partner")?;
    partner.route = Value::Null;
    partner.image_is("v9");
    for number in 0..15 {
        let mut service = partner.service.clone();
        service["metadata"]["name"] = json!(format!("partner-{number}"));
        test.space.apply(&service).await?;
    }
    futures::try_join!(partner.deploy(1), app.deploy(2))?;
    app.roll().await?;
    let before = test.space.snapshot("HTTPRoute", "limits").await?;

    let timeline = Timeline::start(&test.space, "HTTPRoute", "limits");
    let mut loads = vec![];
    for path in ["/", "/large", "/zero", "/twice"] {
        loads.push((path, app.load_on(path, 8)?));
    }
    app.release("v2", &[]).await?;
    app.space.until_healthy("limits", "sluice.dev/app:v2", seconds(120)).await?;
    for (path, load) in loads {
        let records = test.stop(load).await?;
        records.ensure_no_failures().context(path)?;
        let foreign = records.share("v9");
        ensure!((foreign == 100.0) == (path == "/zero"), "{path}: the other backends answered {foreign:.1} % of the requests");
    }
    route_is(test, "HTTPRoute", "limits", &before).await?;
    let versions = timeline.versions();
    for (at, version) in &versions {
        untouched(&before, version, &["limits"]).with_context(|| format!("in the route as it was at {at}"))?;
    }
    let full = versions.iter().filter(|(_, route)| backends(route, 0) == 16).count();
    ensure!(full > 2, "the rule was full in {full} of {} versions of the route", versions.len());
    test.say(format!("limits: promoted; every share was kept in {} versions of the route", versions.len()));
    refused(test, &mut app, &before).await
}

/// The first has so many backends.
fn rules(count: usize) -> Value {
    let matches = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let backend = |name: &str, weight: u32| json!({"name": name, "port": 80, "weight": weight});
    let partners = (0..count - 1).map(|number| backend(&format!("partner-{number}"), 7));
    json!([
        {"matches": matches("/"), "backendRefs": partners.chain([backend("limits", 300)]).collect::<Vec<_>>()},
        {"matches": matches("/large"), "backendRefs": [backend("partner-0", 1_000_000), backend("limits", 999_999)]},
        {"matches": matches("/zero"), "backendRefs": [backend("limits", 0), backend("partner-0", 1)]},
        {"matches": matches("/twice"), "backendRefs": [backend("limits", 2), backend("partner-0", 1), backend("limits", 1)]},
    ])
}

fn backends(route: &Value, rule: usize) -> usize {
    route["spec"]["rules"][rule]["backendRefs"].as_array().map_or(0, Vec::len)
}

/// Two forms of a route that cannot be split: the next version waits until Git has another.
async fn refused(test: &Test, app: &mut App, before: &Value) -> Result<()> {
    let load = app.load(10)?;
    app.route["spec"]["rules"] = rules(16);
    test.space.apply(&app.route).await?;
    app.release("v3", &[]).await?;
    holds(test, app, "spec.rules[0] of HTTPRoute limits has 16 backends").await?;
    app.route["spec"]["rules"] = rules(15);
    app.route["spec"]["rules"][1]["backendRefs"][1]["weight"] = json!(1);
    test.space.apply(&app.route).await?;
    holds(test, app, "the weights of spec.rules[1] of HTTPRoute limits cannot be multiplied").await?;
    ensure!(test.space.pods("app=limits").await?.len() == 2, "v3 has pods");
    app.route["spec"]["rules"] = rules(15);
    test.space.apply(&app.route).await?;
    app.space.until_healthy("limits", "sluice.dev/app:v3", seconds(120)).await?;
    route_is(test, "HTTPRoute", "limits", before).await?;
    let records = test.stop(load).await?;
    records.ensure_no_failures()?;
    ensure!(records.of("v3") > 0, "v3 has answered nothing");
    test.say("limits: a full rule and a share that is too small were refused with nothing moved; v3 went live once Git had mended them");
    Ok(())
}
