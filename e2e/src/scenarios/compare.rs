//! The canary is compared with stable, by counters that are read from the pods every second: a version that fails more often is taken back within
//! seconds, although stable fails, too; one that is as good goes on as soon as that is proven.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sluice::api::Phase;

use crate::{load::Records, test::Test, wait::seconds};

/// Requests a second.
const RATE: u32 = 100;
/// The share of requests that fails in any version, as with a dependency that is not well.
const USUAL: &str = "0.05";

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("api")?;
    app.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "FAILURE_RATE", "value": USUAL}]);
    app.pace(60, 3, 1, 20);
    let canary = &mut app.rollout["spec"]["strategy"]["canary"];
    canary["analysis"]["metrics"] = json!([{
        "name": "success-rate", "preset": "pods/success-rate", "scrape": {"port": 8080}, "interval": "1s", "minSamples": 20, "compare": {},
    }]);
    app.steps(json!([
        {"setWeight": 10},
        {"pause": {"duration": "15s"}},
        {"setWeight": 50},
        {"pause": {"prove": {"atMost": 2, "maxDuration": "3m"}}},
    ]));
    app.apply().await?;
    test.space.scale("Deployment", "api", 3).await?;
    app.available(3).await?;
    app.answers().await?;
    app.roll().await?;

    let load = app.load(RATE)?;
    app.release("v2", &[("FAILURE_RATE", "0.25")]).await?;
    let status = test.space.until("api", "v2 is taken back", seconds(90), |status| status.phase == Some(Phase::Aborted)).await?;
    ensure!(status.message.contains("times as often as stable"), "the message does not compare: {}", status.message);
    test.say(&status.message);
    served(test, &test.stop(load).await?)?;

    let load = app.load(RATE)?;
    let begun = app.release("v3", &[("FAILURE_RATE", USUAL)]).await?;
    app.space.until_healthy("api", "sluice.dev/app:v3", seconds(150)).await?;
    let took = jiff::Timestamp::now().duration_since(begun).as_secs();
    let records = test.stop(load).await?;
    ensure!(records.of("v3") > 0, "v3 has answered nothing");
    test.say(format!("v3, which fails as often as stable, was promoted after {took} s, as soon as that was proven (a pause of its own would have been 180 s)"));
    Ok(())
}

/// What v2 served: its share of the requests times the time, in minutes of all traffic.
fn served(test: &Test, records: &Records) -> Result<()> {
    let first = records.first_of("v2").context("v2 has never answered")?;
    let last = records.last_of("v2").context("v2 has never answered")?;
    let minutes = records.of("v2") as f64 / f64::from(RATE) / 60.0;
    test.say(format!(
        "v2 answered {} requests in {:.1} s: {minutes:.4} minutes of all traffic",
        records.of("v2"),
        last.at.duration_since(first.at).as_secs_f64()
    ));
    ensure!(minutes <= 0.05, "v2 has served {minutes:.4} minutes of all traffic");
    Ok(())
}
