//! Two namespaces that ReferenceGrants let into each other: a rule that is split also sends a quarter of its requests to another team's
//! namespace; and a route of that namespace, which a Rollout cannot name, points at the Service that is rolled out.

use anyhow::{Result, ensure};
use kube::api::PropagationPolicy;
use serde_json::{Value, json};

use super::{ensure_ended_with, holds, route_is};
use crate::{
    app::App,
    plugin::sluice,
    scenarios::scaling::paused,
    space::{Space, in_words},
    test::Test,
    wait::seconds,
};

pub async fn run(test: &Test) -> Result<()> {
    let others = Space::create(&test.space.client, &format!("{}-others", test.space.name)).await?;
    let played = across(test, &others).await;
    played.and(others.delete().await)
}

async fn across(test: &Test, others: &Space) -> Result<()> {
    let mut app = test.app("shared")?;
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}, {"pause": {"duration": "2s"}}]));
    app.route["spec"]["rules"] = json!([{"backendRefs": [
        {"name": "shared", "port": 80, "weight": 3}, {"namespace": others.name, "name": "partner", "port": 80, "weight": 1},
    ]}]);
    let mut partner = App::new(&test.cluster, others, "partner")?;
    partner.image_is("v9");
    // Its own route leads here.
    partner.route["spec"]["rules"] = json!([{"backendRefs": [{"namespace": test.space.name, "name": "shared", "port": 80}]}]);
    let from_here = grant("from-shared", &test.space, "partner");
    others.apply(&from_here).await?;
    test.space.apply(&grant("from-partner", others, "shared")).await?;
    futures::try_join!(app.deploy(2), partner.deploy(1))?;
    app.roll().await?;
    let before = test.space.snapshot("HTTPRoute", "shared").await?;

    promoted(test, &mut app, &partner).await?;
    route_is(test, "HTTPRoute", "shared", &before).await?;
    without_the_grant(test, &mut app, others, &from_here).await
}

/// Routes of that namespace may point at this Service.
fn grant(name: &str, from: &Space, service: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": name},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from.name}],
            "to": [{"group": "", "kind": "Service", "name": service}],
        },
    })
}

async fn promoted(test: &Test, app: &mut App, partner: &App) -> Result<()> {
    let (load, theirs) = (app.load(40)?, partner.load(12)?);
    app.release("v2", &[]).await?;
    paused(test, "shared", 1, 2, 1).await?;
    sluice(&test.space, &["promote", "shared"]).await?.expect(0, "done")?;
    app.space.until_healthy("shared", "sluice.dev/app:v2", seconds(120)).await?;
    let (records, theirs) = (test.stop(load).await?, test.stop(theirs).await?);
    records.ensure_no_failures()?;
    let share = records.share("v9");
    ensure!((share - 25.0).abs() <= 5.0, "the other namespace's backend answered {share:.2} % of the requests instead of 25 %");
    // What a Rollout cannot name is not split: stable answers, and from the promotion on the new version does.
    ensure_ended_with(&theirs, "v2")?;
    let first = theirs.first_of("v2").map(|record| record.at);
    let late = theirs.0.iter().filter(|record| record.version == "v1" && Some(record.at) > first).count();
    test.say(format!(
        "shared: promoted, {share:.2} % for the other namespace; its own route went over with no failed request ({late} answers of v1 after the first of v2)"
    ));
    Ok(())
}

/// Whoever takes the grant away in mid-rollout holds it, in the gateway's words.
async fn without_the_grant(test: &Test, app: &mut App, others: &Space, grant: &Value) -> Result<()> {
    app.release("v3", &[]).await?;
    paused(test, "shared", 1, 2, 1).await?;
    others.remove("ReferenceGrant", "from-shared", PropagationPolicy::Background).await?;
    test.space.until("shared", "it names what is missing", seconds(30), |status| status.message.contains("ReferenceGrant")).await?;
    sluice(&test.space, &["promote", "shared"]).await?.expect(0, "done")?;
    holds(test, app, "ReferenceGrant").await?;
    let status = test.space.status("shared").await?;
    let route = test.space.get("HTTPRoute", "shared").await?["spec"]["rules"][0]["backendRefs"].clone();
    let weights: Vec<_> = route.as_array().into_iter().flatten().map(|backend| backend["weight"].clone()).collect();
    ensure!(weights == [2400, 1000, 600], "the weights are {weights:?}; {}", in_words(&status));
    others.apply(grant).await?;
    app.space.until_healthy("shared", "sluice.dev/app:v3", seconds(120)).await?;
    test.say(format!("shared: held without the grant ({}), and went on with it", status.message));
    Ok(())
}
