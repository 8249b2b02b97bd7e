//! What a collector was told of a rollout.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;
use sluice::api::status::RolloutOutcome;

use crate::{
    recorder::Recorder,
    test::Test,
    wait::{Seen, seconds, wait_for},
};

/// The only rollout that a Rollout has in its history is one trace, with a span for each of these steps and for each measurement.
pub async fn ensure_told(test: &Test, recorder: &Recorder, rollout: &str, steps: &[&str], outcome: RolloutOutcome) -> Result<()> {
    let status = test.space.until(rollout, "its rollout has ended", seconds(30), |status| status.history.len() == 1).await?;
    let ended = status.history.first().context("no history")?;
    ensure!(ended.outcome == outcome, "{rollout} has ended otherwise: {ended:?}");
    let mut wanted: Vec<String> = steps.iter().map(|step| (*step).to_owned()).chain([format!("rollout {rollout}")]).collect();
    wanted.extend(measurements(test, rollout).await?);
    wanted.sort();
    let trace = wait_for(&format!("the trace of {rollout} is whole"), seconds(20), async || {
        let spans = recorder.spans()?;
        let of_rollout =
            |span: &&Value| attribute(span, "sluice.rollout") == rollout && attribute(span, "k8s.namespace.name") == test.space.name;
        let roots: Vec<&Value> = spans.iter().filter(of_rollout).collect();
        ensure!(roots.len() <= 1, "one rollout is {} traces: {roots:#?}", roots.len());
        let id = roots.first().map(|root| &root["traceId"]);
        let trace: Vec<Value> = spans.iter().filter(|span| Some(&span["traceId"]) == id).cloned().collect();
        let mut told = trace.iter().map(words).collect::<Result<Vec<_>>>()?;
        told.sort();
        Ok(if told == wanted { Seen::Done(trace) } else { Seen::NotYet(format!("{told:#?}, and not {wanted:#?}")) })
    })
    .await?;
    in_order(&trace, steps, outcome)?;
    test.say(format!("{rollout}: a trace of {} spans, one for each step and verdict", trace.len()));
    Ok(())
}

/// What was measured for a Rollout, as the spans have it.
async fn measurements(test: &Test, rollout: &str) -> Result<Vec<String>> {
    let mut all = vec![];
    for run in test.space.list("AnalysisRun").await?.iter().filter(|run| run["spec"]["rollout"] == rollout) {
        for result in run["status"]["metricResults"].as_array().into_iter().flatten() {
            for measurement in result["measurements"].as_array().into_iter().flatten() {
                let at: Timestamp = measurement["at"].as_str().context("a measurement without a time")?.parse()?;
                all.push(format!("measure {} {} {at}", text(&result["name"]), text(&measurement["verdict"])));
            }
        }
    }
    ensure!(!all.is_empty(), "nothing was measured for {rollout}");
    Ok(all)
}

/// A span by its name; a measurement also by its verdict and time.
fn words(span: &Value) -> Result<String> {
    let name = text(&span["name"]);
    Ok(match attribute(span, "sluice.verdict") {
        "" => name.to_owned(),
        verdict => format!("{name} {verdict} {}", time(span, "endTimeUnixNano")?),
    })
}

/// All is below the root, and its steps follow one another from its begin to its end.
fn in_order(trace: &[Value], steps: &[&str], outcome: RolloutOutcome) -> Result<()> {
    let (roots, others): (Vec<&Value>, Vec<&Value>) = trace.iter().partition(|span| span["parentSpanId"].is_null());
    let [root] = roots[..] else { anyhow::bail!("{} roots: {roots:#?}", roots.len()) };
    ensure!(attribute(root, "sluice.outcome") == format!("{outcome:?}"), "the root says: {root}");
    let aborted = outcome == RolloutOutcome::Aborted;
    ensure!((root["status"]["code"] == 2) == aborted, "the root of a rollout that was {outcome:?} says: {root}");
    ensure!(others.iter().all(|span| span["parentSpanId"] == root["spanId"]), "not below the root: {others:#?}");
    let mut end = time(root, "startTimeUnixNano")?;
    for name in steps {
        let step = others.iter().find(|span| span["name"] == *name).with_context(|| format!("no {name}"))?;
        ensure!(time(step, "startTimeUnixNano")? == end, "{name} does not begin at {end}: {step}");
        end = time(step, "endTimeUnixNano")?;
    }
    ensure!(time(root, "endTimeUnixNano")? == end, "the last step ends at {end}, and not with the rollout: {root}");
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// To the microsecond, which is what Kubernetes keeps.
fn time(span: &Value, field: &str) -> Result<Timestamp> {
    let nanoseconds: i64 = text(&span[field]).parse().with_context(|| format!("{field} of {span}"))?;
    Ok(Timestamp::from_microsecond(nanoseconds / 1000)?)
}

fn attribute<'a>(span: &'a Value, key: &str) -> &'a str {
    let attributes = span["attributes"].as_array();
    let found = attributes.into_iter().flatten().find(|attribute| attribute["key"] == key);
    found.map_or("", |attribute| text(&attribute["value"]["stringValue"]))
}
