//! Traces of rollouts, off by default: a trace for each rollout, a span in it for each step and each measurement, sent as OTLP over
//! HTTP in JSON. Spans are read off what a status says that the one before did not, and every id follows from what it is about, so a
//! restarted controller goes on with the same trace, and what is sent twice is the same span.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::kind;
use crate::{
    api::{
        RolloutStatus,
        run::{Measurement, Verdict},
        status::{HistoryEntry, RolloutOutcome},
    },
    core::observed::{RolloutView, RunView},
    metrics::client,
};

/// Spans that wait to be sent; more are dropped: traces never hold a rollout back.
const WAITING: usize = 4096;
/// Time over which spans are gathered into one request, and the time of that request.
const GATHER: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);

/// One span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    trace: String,
    id: String,
    parent: Option<String>,
    name: String,
    start: Timestamp,
    end: Timestamp,
    attributes: Vec<(&'static str, String)>,
    /// Why it went wrong, if it did.
    error: Option<String>,
}

/// `bytes` of a digest of these words, in hexadecimal.
fn id(words: &[&str], bytes: usize) -> String {
    let digest = Sha256::digest(words.join("\0").as_bytes());
    digest.iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The trace of one rollout: of the Rollout with this uid, begun at this moment.
struct Trace<'a> {
    uid: &'a str,
    began: String,
}

impl<'a> Trace<'a> {
    fn of(uid: &'a str, began: Timestamp) -> Self {
        Self { uid, began: began.to_string() }
    }

    fn id(&self) -> String {
        id(&["trace", self.uid, &self.began], 16)
    }

    fn span(&self, what: &[&str]) -> String {
        id(&[&["span", self.uid, &self.began], what].concat(), 8)
    }

    fn child(&self, what: &[&str], name: String, from: Timestamp, to: Timestamp) -> Span {
        let parent = Some(self.span(&["rollout"]));
        Span { trace: self.id(), id: self.span(what), parent, name, start: from, end: to.max(from), attributes: vec![], error: None }
    }
}

/// What has ended from one status of a Rollout to the next: a step, and the rollout.
pub fn ended(rollout: &RolloutView, before: &RolloutStatus, after: &RolloutStatus) -> Vec<Span> {
    let mut spans: Vec<Span> = step(rollout, before, after).into_iter().collect();
    spans.extend(after.history.iter().filter(|entry| !before.history.contains(entry)).map(|entry| whole(rollout, entry)));
    spans
}

fn step(rollout: &RolloutView, before: &RolloutStatus, after: &RolloutStatus) -> Option<Span> {
    let (canary, from) = (before.canary.as_ref()?, before.current_step.as_ref()?);
    let same = after.canary.as_ref().is_some_and(|now| now.started_at == canary.started_at);
    // The last step ends with the rollout.
    let end = match &after.current_step {
        Some(to) if same && to.index > from.index => to.started_at.0,
        Some(_) if same => return None,
        _ => after.history.last().filter(|entry| !before.history.contains(entry))?.finished_at.0,
    };
    let index = usize::try_from(from.index).ok()?;
    let steps = rollout.spec.strategy.canary.iter().flat_map(|canary| &canary.steps);
    let step = steps.into_iter().nth(index).map_or("promotion", kind);
    let trace = Trace::of(&rollout.meta.uid, canary.started_at.0);
    let mut span = trace.child(&["step", &from.index.to_string()], format!("step {} {step}", index + 1), from.started_at.0, end);
    span.attributes.extend(before.weights.as_ref().map(|weights| ("sluice.weight", weights.canary.to_string())));
    Some(span)
}

fn whole(rollout: &RolloutView, entry: &HistoryEntry) -> Span {
    let trace = Trace::of(&rollout.meta.uid, entry.started_at.0);
    let outcome = format!("{:?}", entry.outcome);
    Span {
        parent: None,
        attributes: vec![
            ("k8s.namespace.name", rollout.namespace.clone()),
            ("sluice.rollout", rollout.meta.name.clone()),
            ("sluice.revision", entry.revision.clone()),
            ("sluice.images", entry.images.join(", ")),
            ("sluice.outcome", outcome),
        ],
        error: (entry.outcome == RolloutOutcome::Aborted).then(|| entry.message.clone()),
        ..trace.child(&["rollout"], format!("rollout {}", rollout.meta.name), entry.started_at.0, entry.finished_at.0)
    }
}

/// A measurement, in the trace of the rollout that runs now.
pub fn measured(uid: &str, began: Timestamp, run: &RunView, metric: &str, measurement: &Measurement) -> Span {
    let at = measurement.at.0;
    let words = ["measurement", &run.meta.uid, metric, &at.to_string()];
    let mut span = Trace::of(uid, began).child(&words, format!("measure {metric}"), measurement.since.0, at);
    span.attributes = vec![
        ("sluice.analysis_run", run.meta.name.clone()),
        ("sluice.metric", metric.to_owned()),
        ("sluice.verdict", format!("{:?}", measurement.verdict)),
        ("sluice.limit", measurement.limit.clone()),
    ];
    span.attributes.extend(measurement.value.clone().map(|value| ("sluice.value", value)));
    span.error = (measurement.verdict != Verdict::Pass).then(|| measurement.message.clone());
    span
}

/// The body of an OTLP request.
fn body(spans: &[Span]) -> Value {
    let attribute = |(key, value): &(&str, String)| json!({"key": key, "value": {"stringValue": value}});
    let nanos = |at: Timestamp| at.as_nanosecond().to_string();
    let span = |span: &Span| {
        let mut body = json!({
            "traceId": span.trace, "spanId": span.id, "name": span.name, "kind": 1,
            "startTimeUnixNano": nanos(span.start), "endTimeUnixNano": nanos(span.end),
            "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
        });
        if let Some(parent) = &span.parent {
            body["parentSpanId"] = json!(parent);
        }
        if let Some(error) = &span.error {
            body["status"] = json!({"code": 2, "message": error});
        }
        body
    };
    let resource = [("service.name", "sluice".to_owned()), ("service.version", env!("CARGO_PKG_VERSION").to_owned())];
    json!({"resourceSpans": [{
        "resource": {"attributes": resource.iter().map(attribute).collect::<Vec<_>>()},
        "scopeSpans": [{"scope": {"name": "sluice"}, "spans": spans.iter().map(span).collect::<Vec<_>>()}],
    }]})
}

/// Sends spans to a collector, in the background.
#[derive(Clone)]
pub struct Exporter {
    spans: mpsc::Sender<Span>,
}

impl Exporter {
    /// `endpoint` is the collector's OTLP endpoint for HTTP, such as `http://collector:4318`.
    pub fn start(endpoint: &str) -> Self {
        let (spans, waiting) = mpsc::channel(WAITING);
        tokio::spawn(send(format!("{}/v1/traces", endpoint.trim_end_matches('/')), waiting));
        Self { spans }
    }

    pub fn export(&self, spans: impl IntoIterator<Item = Span>) {
        for span in spans {
            if self.spans.try_send(span).is_err() {
                tracing::warn!("a span was dropped: the collector takes too few");
            }
        }
    }
}

async fn send(url: String, mut waiting: mpsc::Receiver<Span>) {
    let client = match client(reqwest::Client::builder) {
        Ok(client) => client,
        Err(error) => return tracing::error!(error, "no traces can be sent"),
    };
    let mut spans = vec![];
    while waiting.recv_many(&mut spans, WAITING).await > 0 {
        tokio::time::sleep(GATHER).await;
        while let Ok(span) = waiting.try_recv() {
            spans.push(span);
        }
        let sent = client.post(&url).json(&body(&spans)).timeout(TIMEOUT).send().await.and_then(reqwest::Response::error_for_status);
        if let Err(error) = sent {
            tracing::warn!(%error, spans = spans.len(), "traces could not be sent, and are dropped");
        }
        spans.clear();
    }
}
