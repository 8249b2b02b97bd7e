//! Calls of gRPC through a GRPCRoute: a version that answers them is promoted, one that fails them (which HTTP calls a 200) is taken back by
//! the codes that its pods count.

use anyhow::{Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use sluice::api::Phase;

use super::{ensure_ended_with, route_is};
use crate::{
    app::App,
    calls::{Calls, METHOD, SERVICE, once},
    plugin::sluice,
    scenarios::scaling::paused,
    test::Test,
    timeline::Timeline,
    wait::{seconds, wait_for, when},
};

const RATE: u32 = 25;
/// Codes for which nobody but the server can be to blame.
const FAILURES: &str = "Unknown|DeadlineExceeded|Unimplemented|Internal|Unavailable|DataLoss";

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("calls")?;
    manifests(&mut app);
    app.apply().await?;
    test.space.scale("Deployment", "calls", 2).await?;
    app.available(2).await?;
    let target = app.target(&[]);
    wait_for("a call is answered through the gateway", seconds(30), async || {
        let record = once(&target).await;
        Ok(when(!record.failed(), || record.to_string()))
    })
    .await?;
    let before = test.space.snapshot("GRPCRoute", "calls").await?;
    app.roll().await?;
    promoted(test, &mut app).await?;
    route_is(test, "GRPCRoute", "calls", &before).await?;
    taken_back(test, &mut app).await
}

fn manifests(app: &mut App) {
    app.pace(3, 3, 4, 10);
    app.service["spec"]["ports"] = json!([{"name": "grpc", "port": 80, "targetPort": "http", "appProtocol": "kubernetes.io/h2c"}]);
    app.route["kind"] = json!("GRPCRoute");
    app.route["spec"]["rules"] =
        json!([{"matches": [{"method": {"service": SERVICE, "method": METHOD}}], "backendRefs": [{"name": "calls", "port": 80}]}]);
    app.rollout["spec"]["traffic"]["routes"] = json!([{"kind": "GRPCRoute", "name": "calls"}]);
    let by_code = json!({"counter": "grpc_server_handled_total", "codeLabel": "grpc_code", "failure": FAILURES});
    app.rollout["spec"]["strategy"]["canary"]["analysis"]["metrics"] = json!([{
        "name": "calls", "preset": "pods/success-rate", "parameters": by_code, "scrape": {}, "min": 99, "interval": "4s", "minSamples": 10,
    }]);
    app.steps(json!([
        {"setHeaderRoute": {"name": "testers", "match": [{"headerName": "x-tester", "headerValue": {"exact": "yes"}}]}},
        {"pause": {}},
        {"setWeight": 20},
        {"setWeight": 60},
    ]));
}

async fn promoted(test: &Test, app: &mut App) -> Result<()> {
    let everyone = Calls::start(app.target(&[]), RATE);
    let rollout = Timeline::start(&test.space, "Rollout", "calls");
    app.release("v2", &[]).await?;
    paused(test, "calls", 1, 2, 1).await?;
    let tester = once(&app.target(&[("x-tester", "yes")])).await;
    ensure!(!tester.failed() && tester.version == "v2", "a tester's call: {tester}");
    let at_the_header = Timestamp::now();
    sluice(&test.space, &["promote", "calls"]).await?.expect(0, "done")?;
    app.space.until_healthy("calls", "sluice.dev/app:v2", seconds(120)).await?;
    let records = test.count(everyone.stop().await?)?;
    ensure_ended_with(&records, "v2")?;
    let early = records.of("v2") - records.within(at_the_header, Timestamp::now()).of("v2");
    ensure!(early == 0, "{early} calls without the header came to v2 before it had a weight");
    let weights = rollout.weights()?;
    ensure!(weights == [20.0, 60.0, 100.0], "the weights that were observed are {weights:?}");
    test.say("calls: v2 is promoted through its GRPCRoute, by a header and by weights");
    Ok(())
}

async fn taken_back(test: &Test, app: &mut App) -> Result<()> {
    let everyone = Calls::start(app.target(&[]), RATE);
    app.release("v3", &[("FAILURE_RATE", "0.5")]).await?;
    paused(test, "calls", 1, 2, 1).await?;
    sluice(&test.space, &["promote", "calls"]).await?.expect(0, "done")?;
    let status = test.space.until("calls", "v3 is taken back", seconds(60), |status| status.phase == Some(Phase::Aborted)).await?;
    let aborted = Timestamp::now();
    ensure!(status.message.contains("calls"), "the message does not name the metric: {}", status.message);
    tokio::time::sleep(seconds(5)).await;
    let records = test.count(everyone.stop().await?)?;
    let others = records.failures().find(|record| record.version != "v3");
    ensure!(others.is_none(), "a call failed that was not v3's: {}", others.map(ToString::to_string).unwrap_or_default());
    let failed = records.failures().count();
    ensure!(failed > 0, "v3 has failed no call");
    let after = records.within(aborted + jiff::SignedDuration::from_secs(2), Timestamp::now());
    ensure!(after.sent() > 0 && after.of("v3") == 0, "{} of {} calls came to v3 after it was taken back", after.of("v3"), after.sent());
    test.say(format!("calls: v3 was taken back after {failed} failed calls of {}: {}", records.sent(), status.message));
    Ok(())
}
