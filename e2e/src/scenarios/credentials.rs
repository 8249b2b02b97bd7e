//! Metrics servers that want to know who asks: a password and a client certificate over TLS (two more Prometheus), and a header. What may
//! not be sent is sent nowhere, and said; what is secret is repeated nowhere; what many ask is asked once. And a collector gets the traces.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::ByteString;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};
use sluice::api::{
    AnalysisRun, AnalysisRunStatus, ClusterAnalysisTemplate, Phase, RunPhase,
    status::{HoldReason, RolloutOutcome, RolloutStatus},
};

use crate::{
    app::App,
    cluster::{SYSTEM, state},
    plugin::sluice,
    recorder::{Recorder, TRACES},
    space::{GIT, Space, in_words},
    test::Test,
    trace,
    wait::{Seen, seconds, wait_for},
};

/// What the controller is installed with for this scenario; the others don't notice.
pub const VALUES: [&str; 2] = ["analysis.allowedAddresses={10.77.0.1}", "traces.otlpEndpoint=http://10.77.0.1:4318"];

/// Where the recorder listens: at an address that is allowed, and at one that is not (the node's among the pods).
const PORT: u16 = 4318;
const HERE: &str = "http://10.77.0.1:4318";
const ELSEWHERE: &str = "http://10.66.0.1:4318";

/// What the servers want; the password's digest is in `cluster/config/guarded-by-password.yaml`.
const PASSWORD: &str = "a-password-of-the-scenarios";
const KEY: &str = "a-key-of-the-scenarios";
const WRONG: &str = "not-what-the-servers-want";
/// In Sluice's own namespace, for all namespaces.
const PLATFORM: &str = "e2e-platform";

pub async fn run(test: &Test) -> Result<()> {
    let recorder = Recorder::start(PORT, ("x-key", KEY)).await?;
    test.cluster.with_addon("guarded-prometheus", play(test, &recorder)).await
}

async fn play(test: &Test, recorder: &Recorder) -> Result<()> {
    reqwest::get(format!("{ELSEWHERE}/reachable")).await?;
    ensure!(recorder.asked("/reachable") == 1, "{ELSEWHERE} is not the recorder: that nothing is asked there would mean nothing");
    secrets(test).await?;
    let unread = judge(test, "unread", by_password("user"), "vector(100)").await?;
    ensure!(unread.message.contains("analysis.secrets.namespaces"), "Secrets may not be read, and it says: {}", unread.message);
    let pods = pods(test).await?;
    let namespaces = format!("analysis.secrets.namespaces={{{},{SYSTEM}}}", test.space.name);
    test.cluster.install_with(&[&VALUES[..], &[&namespaces]].concat()).await?;
    ensure!(pods == self::pods(test).await?, "a right for Secrets has restarted the controller");
    test.say(format!("the chart gives the right for Secrets; without it: {}", unread.message));

    futures::try_join!(
        promoted(test, "password", preset(by_password("user"))),
        promoted(test, "certificate", preset(by_certificate(json!({"clientSecretName": "client"})))),
        promoted_by_platform(test, recorder),
        held(test, "unlabelled", by_key(&format!("{HERE}/unlabelled"), "unlabelled"), "label it sluice.dev/analysis=true"),
        held(test, "elsewhere", by_key(&format!("{ELSEWHERE}/elsewhere"), "key"), "analysis.allowedAddresses"),
        refused(test, recorder),
        shared(test),
    )?;
    let steps = ["step 1 setWeight", "step 2 pause", "step 3 promotion"];
    trace::ensure_told(test, recorder, "password", &steps, RolloutOutcome::Promoted).await?;
    for held in ["unlabelled", "elsewhere"] {
        let status = test.space.status(held).await?;
        let at = status.current_step.as_ref().map_or(0, |step| step.index);
        ensure!(status.phase == Some(Phase::Paused) && status.history.is_empty(), "{held} has gone on: {}", in_words(&status));
        ensure!(recorder.asked(&format!("/{held}")) == 0, "{held}: the server was asked");
        sluice(&test.space, &["abort", held, "--reason", "nothing can be measured"]).await?.expect(0, "done")?;
        trace::ensure_told(test, recorder, held, &steps[..=usize::try_from(at)?], RolloutOutcome::Aborted).await?;
    }
    test.say("what was held got no further, and its server was not asked");
    nothing_is_told(test, recorder).await?;
    test.space.remove("Rollout", "platform", PropagationPolicy::Background).await?;
    templates(test).delete(PLATFORM, &DeleteParams::default()).await?;
    Ok(())
}

fn templates(test: &Test) -> Api<ClusterAnalysisTemplate> {
    Api::all(test.cluster.client.clone())
}

/// The controller's pods.
async fn pods(test: &Test) -> Result<BTreeSet<String>> {
    Ok(test.cluster.controllers().await?.iter().filter_map(ResourceExt::uid).collect())
}

async fn secrets(test: &Test) -> Result<()> {
    let file = |name: &str| -> Result<String> {
        let path = state().join("pki").join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let secret = |name: &str, labels: Value, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": labels}, "stringData": data});
    let label = || json!({"sluice.dev/analysis": "true"});
    for manifest in [
        secret("user", label(), json!({"username": "sluice", "password": PASSWORD})),
        secret("wrong-user", label(), json!({"username": "sluice", "password": WRONG})),
        secret("authority", label(), json!({"ca.crt": file("guarded-ca.crt")?})),
        secret("wrong-authority", label(), json!({"ca.crt": file("ca.crt")?})),
        secret("client", label(), json!({"tls.crt": file("guarded-client.crt")?, "tls.key": file("guarded-client.key")?})),
        secret("key", label(), json!({"key": KEY})),
        secret("wrong-key", label(), json!({"key": WRONG})),
        secret("unlabelled", json!({}), json!({"key": KEY})),
    ] {
        test.space.apply(&manifest).await?;
    }
    let system = Space { client: test.cluster.client.clone(), name: SYSTEM.to_owned() };
    system.apply(&secret(PLATFORM, label(), json!({"key": KEY}))).await
}

fn by_password(user: &str) -> Value {
    let tls = json!({"caSecretRef": {"name": "authority", "key": "ca.crt"}});
    json!({"address": "https://10.77.0.1:9443", "basicAuth": {"secretName": user}, "tls": tls})
}

fn by_certificate(client: Value) -> Value {
    let mut tls = client;
    tls["caSecretRef"] = json!({"name": "authority", "key": "ca.crt"});
    json!({"address": "https://10.77.0.1:9444", "tls": tls})
}

fn by_key(address: &str, secret: &str) -> Value {
    json!({"address": address, "headers": [{"name": "X-Key", "valueSecretRef": {"name": secret, "key": "key"}}]})
}

/// What the canary's requests say, as these servers have it from Envoy.
fn preset(prometheus: Value) -> Value {
    json!({"name": "answer", "preset": "contour/success-rate", "prometheus": prometheus, "min": 99, "interval": "4s", "minSamples": 10})
}

/// A query that always has the same answer.
fn query(mut prometheus: Value, query: &str) -> Value {
    prometheus["query"] = json!(query);
    json!({"name": "answer", "prometheus": prometheus, "min": 99, "interval": "2s", "consecutiveErrorLimit": 1})
}

/// A template with this metric.
fn template(kind: &str, name: &str, metric: Value) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": {"metrics": [metric]}})
}

/// A new version that this template judges.
async fn release(test: &Test, name: &str, template: Value) -> Result<App> {
    let mut app = test.app(name)?;
    app.pace(3, 3, 4, 10);
    app.steps(json!([{"setWeight": 50}, {"pause": {"duration": "3s"}}]));
    app.rollout["spec"]["strategy"]["canary"]["analysis"] = json!({"templates": [template]});
    app.deploy(1).await?;
    app.roll().await?;
    app.release("v2", &[]).await?;
    Ok(app)
}

/// What this metric judges goes live, with a verdict.
async fn promoted(test: &Test, name: &str, metric: Value) -> Result<()> {
    test.space.apply(&template("AnalysisTemplate", name, metric)).await?;
    let app = release(test, name, json!({"name": name})).await?;
    let load = app.load(20)?;
    app.space.until_healthy(name, "sluice.dev/app:v2", seconds(90)).await?;
    test.stop(load).await?.ensure_no_failures()?;
    passed(test, name).await
}

/// The Secret is of Sluice's own namespace: a Rollout can use it, and an AnalysisRun that says otherwise cannot send it elsewhere.
async fn promoted_by_platform(test: &Test, recorder: &Recorder) -> Result<()> {
    let metric = query(by_key(&format!("{HERE}/platform"), PLATFORM), "vector(100)");
    let manifest: ClusterAnalysisTemplate = serde_json::from_value(template("ClusterAnalysisTemplate", PLATFORM, metric))?;
    templates(test).patch(PLATFORM, &PatchParams::apply(GIT).force(), &Patch::Apply(&manifest)).await?;
    let app = release(test, "platform", json!({"kind": "ClusterAnalysisTemplate", "name": PLATFORM})).await?;
    app.space.until_healthy("platform", "sluice.dev/app:v2", seconds(90)).await?;
    passed(test, "platform").await?;
    let asked = recorder.asked("/platform");
    ensure!(asked > 0, "the server of the template was not asked");

    let mut forged = query(by_key(&format!("{HERE}/forged"), PLATFORM), "vector(100)");
    forged["count"] = json!(1);
    let spec = json!({"clusterTemplates": {"answer": PLATFORM}, "metrics": [forged]});
    let status = start(test, "forged", spec).await?.end().await?;
    ensure!(status.phase == RunPhase::Passed && recorder.asked("/platform") > asked, "the forged run says: {status:?}");
    ensure!(recorder.asked("/forged") == 0, "a Secret of the platform was sent where an AnalysisRun says");
    test.say("platform: promoted by a Secret that its team cannot read, nor send elsewhere");
    Ok(())
}

async fn passed(test: &Test, rollout: &str) -> Result<()> {
    let runs: Api<AnalysisRun> = Api::namespaced(test.space.client.clone(), &test.space.name);
    let runs = runs.list(&Default::default()).await?.items;
    let run = runs.into_iter().find(|run| run.spec.rollout == rollout).with_context(|| format!("{rollout} has no AnalysisRun"))?;
    let status = run.status.unwrap_or_default();
    let result = status.metric_results.first().context("nothing was measured")?;
    ensure!(result.passed > 0 && result.errors == 0, "{rollout} was promoted with {result:?}");
    test.say(format!(
        "{rollout}: promoted after {} verdicts, the last: {}",
        result.passed,
        result.measurements.last().map_or("", |m| &m.message)
    ));
    Ok(())
}

/// What this metric judges is not promoted, since it cannot be measured, and says so.
async fn held(test: &Test, name: &str, prometheus: Value, words: &str) -> Result<()> {
    test.space.apply(&template("AnalysisTemplate", name, query(prometheus, "vector(100)"))).await?;
    release(test, name, json!({"name": name})).await?;
    let held = |status: &RolloutStatus| status.hold.as_ref().is_some_and(|hold| hold.reason == HoldReason::InconclusiveAnalysis);
    let status = test.space.until(name, "it waits for a person", seconds(60), held).await?;
    ensure!(status.message.contains(words), "{words:?} is not in: {}", status.message);
    test.say(format!("{name}: {}", status.message));
    Ok(())
}

/// Who asks in a wrong way is told what is wrong, and not the secret.
async fn refused(test: &Test, recorder: &Recorder) -> Result<()> {
    let mut wrong_authority = by_password("user");
    wrong_authority["tls"]["caSecretRef"]["name"] = json!("wrong-authority");
    let cases = [
        ("wrong-password", by_password("wrong-user"), "HTTP 401: Unauthorized"),
        ("wrong-authority", wrong_authority, "caSecretRef"),
        ("no-certificate", by_certificate(json!({})), "clientSecretName"),
        ("wrong-key", by_key(&format!("{HERE}/wrong-key"), "wrong-key"), "HTTP 403: x-key must not be [secret]"),
    ];
    for (name, prometheus, words) in cases {
        let status = judge(test, name, prometheus, "vector(100)").await?;
        ensure!(
            status.phase == RunPhase::Inconclusive && status.message.contains(words),
            "{name}: {words:?} is not in: {}",
            status.message
        );
        test.say(format!("{name}: {}", status.message));
    }
    ensure!(recorder.asked("/wrong-key") > 0, "wrong-key: the server was not asked");
    Ok(())
}

/// An AnalysisRun that a person has made.
struct Run<'a> {
    test: &'a Test,
    name: String,
}

async fn start<'a>(test: &'a Test, name: &str, mut spec: Value) -> Result<Run<'a>> {
    spec["rollout"] = json!(name);
    spec["canaryHash"] = json!("none");
    let manifest = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "AnalysisRun", "metadata": {"name": name}, "spec": spec});
    test.space.apply(&manifest).await?;
    Ok(Run { test, name: name.to_owned() })
}

impl Run<'_> {
    async fn end(self) -> Result<AnalysisRunStatus> {
        wait_for(&format!("the AnalysisRun {} ends", self.name), seconds(60), async || {
            let object = self.test.space.get("AnalysisRun", &self.name).await?;
            let status: AnalysisRunStatus = serde_json::from_value(object["status"].clone()).unwrap_or_default();
            Ok(if status.phase.is_final() { Seen::Done(status) } else { Seen::NotYet(format!("{status:?}")) })
        })
        .await
    }
}

/// One measurement is enough, or two errors.
async fn judge(test: &Test, name: &str, prometheus: Value, asked: &str) -> Result<AnalysisRunStatus> {
    let mut metric = query(prometheus, asked);
    metric["count"] = json!(1);
    start(test, name, json!({"metrics": [metric]})).await?.end().await
}

/// Runs at the same time that ask the same: one request for each second in which any of them asks.
async fn shared(test: &Test) -> Result<()> {
    const QUERY: &str = "vector(100) # which many ask";
    let mut metric = query(by_password("user"), QUERY);
    metric["interval"] = json!("1s");
    metric["count"] = json!(5);
    let run = |number: usize| {
        let metric = metric.clone();
        async move { start(test, &format!("same-{number}"), json!({"metrics": [metric]})).await?.end().await }
    };
    let runs = try_join_all((0..12).map(run)).await?;
    let mut measured = vec![];
    for status in &runs {
        ensure!(status.phase == RunPhase::Passed, "a run that shares its query says: {status:?}");
        measured
            .extend(status.metric_results.iter().flat_map(|result| &result.measurements).map(|measurement| measurement.at.0.as_second()));
    }
    let log = state().join("logs/guarded-queries.log");
    let log = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
    let mut asked = vec![];
    for line in log.lines().filter(|line| line.contains(QUERY)) {
        let entry: Value = serde_json::from_str(line)?;
        let at = entry["params"]["end"].as_str().with_context(|| format!("no time in {line}"))?;
        asked.push(at.parse::<jiff::Timestamp>()?.as_second());
    }
    asked.sort_unstable();
    let seconds: Vec<i64> = BTreeSet::from_iter(measured.iter().copied()).into_iter().collect();
    ensure!(asked == seconds, "{} measurements in the seconds {seconds:?} were asked in {asked:?}", measured.len());
    test.say(format!("{} measurements of {} runs were {} requests", measured.len(), runs.len(), asked.len()));
    Ok(())
}

/// No secret is in what people can look at.
async fn nothing_is_told(test: &Test, recorder: &Recorder) -> Result<()> {
    let encoded = |text: &str| -> Result<String> {
        let text = serde_json::to_value(ByteString(text.as_bytes().to_vec()))?;
        Ok(text.as_str().context("base64")?.to_owned())
    };
    let key = std::fs::read_to_string(state().join("pki/guarded-client.key"))?;
    let mut secrets: Vec<String> = [PASSWORD, KEY, WRONG].map(str::to_owned).into();
    for text in [PASSWORD, KEY, WRONG, &format!("sluice:{PASSWORD}"), &format!("sluice:{WRONG}")] {
        secrets.push(encoded(text)?);
    }
    secrets.extend(key.lines().filter(|line| !line.starts_with("---")).map(str::to_owned));

    let mut told = test.controller_logs().await?;
    ensure!(told.iter().any(|line| line.contains("wrong-password")), "the controller's log has nothing of what was measured");
    for kind in ["Rollout", "AnalysisRun", "AnalysisTemplate", "Event"] {
        let objects = test.space.list(kind).await?;
        ensure!(!objects.is_empty(), "there is no {kind} to look into");
        told.extend(objects.iter().map(Value::to_string));
    }
    told.extend(recorder.requests().into_iter().filter(|request| request.path == TRACES).map(|request| request.body));
    for secret in &secrets {
        if let Some(text) = told.iter().find(|text| text.contains(secret)) {
            bail!("{secret} is in {text}");
        }
    }
    test.say(format!("none of {} secrets is in {} lines of logs, objects and traces", secrets.len(), told.len()));
    Ok(())
}
