use clap::Parser as _;
use serde_json::{Value, json};

use super::{course::End, *};
use crate::{api::run::Arm, cli::fixtures};

const ROLLOUT: &str = include_str!("../../../examples/rollout.yaml");
const COMPARE: &str = include_str!("../../../examples/rollout-compare.yaml");

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parsed(words: &str) -> Result<Args, String> {
    let line = ["simulate", "-f", "-"].into_iter().chain(words.split_whitespace());
    Line::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
}

/// What is said about manifests: on standard output and standard error, or the error.
fn said(manifests: &str, words: &str) -> Result<(String, String), String> {
    let (mut text, mut notes) = (Vec::new(), Vec::new());
    let mut out = Out { out: &mut text, err: &mut notes, style: fixtures::plain(), columns: None };
    let few = if words.contains("--pods ") { "" } else { "--pods 2" };
    let args = parsed(&format!("{few} {words}")).unwrap();
    run(&args, "default", &mut manifests.as_bytes(), fixtures::now(), &mut out).map_err(|error| error.to_string())?;
    Ok((String::from_utf8(text).unwrap(), String::from_utf8(notes).unwrap()))
}

fn report(manifests: &str, words: &str) -> Value {
    let (text, notes) = said(manifests, &format!("-o json {words}")).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{notes}"))
}

/// A Rollout with these steps and metrics.
fn manifest(steps: &Value, metrics: &Value) -> String {
    let canary = match metrics {
        Value::Null => json!({"steps": steps}),
        metrics => json!({"steps": steps, "analysis": {"metrics": metrics}}),
    };
    let spec = json!({
        "workloadRef": {"kind": "Deployment", "name": "api"},
        "traffic": {"service": "api", "routes": [{"kind": "HTTPRoute", "name": "api"}]},
        "strategy": {"canary": canary}
    });
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "api"}, "spec": spec}).to_string()
}

fn short() -> Value {
    json!([{"setWeight": 20}, {"pause": {"duration": "30s"}}])
}

/// The runs of a version that came out in some way.
fn runs(report: &Value, version: usize, outcome: &str) -> u64 {
    report["versions"][version][outcome]["runs"].as_u64().unwrap()
}

/// So many rollouts that came out alike, each a second later than the one before.
fn courses(runs: i64, end: End, seconds: i64, why: &str, step: &str) -> Vec<Course> {
    let course = |run: i64| Course {
        end,
        after: SignedDuration::from_secs(seconds + run),
        why: why.replace('N', &run.to_string()),
        step: Some(step.to_owned()),
        canary: Arm { requests: 500, failures: 10 },
        exposure: SignedDuration::from_millis(3100 + run),
    };
    (0..runs).map(course).collect()
}

#[test]
fn what_people_see() {
    let limit = "success-rate: 9N % is below the minimum of 99 %";
    let good = [courses(197, End::Promoted, 200, "", "6/6"), courses(3, End::Aborted, 40, limit, "2/6")].concat();
    let bad = [
        courses(20, End::Promoted, 200, "", "6/6"),
        courses(150, End::Aborted, 40, limit, "2/6"),
        courses(10, End::Aborted, 70, "latency: N00 ms is above the maximum of 250 ms", "4/6"),
        courses(15, End::Waiting, 300, "paused: waits until someone promotes it", "5/6"),
        courses(5, End::Going, 3600, "waits for evidence at the present weight", "1/6"),
    ]
    .concat();
    let answer = |metric: &str, step, answers: &str| metrics::Answer { metric: metric.into(), step, answers: answers.into() };
    let report = Report {
        rollout: "api".into(),
        runs: 200,
        seed: 1,
        requests_per_second: 100.0,
        pods: 5,
        pods_ready_after_seconds: 5.0,
        limit_seconds: 3600.0,
        metrics: vec![
            answer("success-rate", None, "the share of requests that succeed in percent"),
            answer("latency", Some(3), "the latency that 99 % of the requests stay below"),
        ],
        notes: vec!["60 pods are simulated as 50".into()],
        versions: vec![
            Version::new("as good as stable", true, (0.005, 80.0), &good),
            Version::new("the bad version", false, (0.02, 120.0), &bad),
        ],
    };
    insta::assert_snapshot!("simulate", print::lines(&report, &fixtures::plain()).join("\n"));
    insta::assert_snapshot!("simulate_yaml", serde_yaml_ng::to_string(&report).unwrap());
}

#[test]
fn the_same_seed_says_the_same_and_another_one_something_else() {
    let of = |seed: u64| report(ROLLOUT, &format!("--error-rate 1% --runs 4 --seed {seed}"))["versions"].clone();
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}

#[test]
fn a_bad_version_is_taken_back_and_a_good_one_is_promoted() {
    let report = report(ROLLOUT, "--error-rate 0 --canary-error-rate 20% --runs 4");
    assert_eq!((runs(&report, 0, "promoted"), runs(&report, 1, "aborted")), (4, 4));
    let bad = &report["versions"][1];
    let (seconds, failed) =
        (bad["aborted"]["seconds"]["median"].as_f64().unwrap(), bad["harm"]["failedRequests"]["median"].as_f64().unwrap());
    // Judged first after one interval of 30 s at 5 % of 100 requests/s, of which a fifth fails.
    assert!((35.0..60.0).contains(&seconds) && (15.0..60.0).contains(&failed), "{seconds} s, {failed} failed");
    let minutes = bad["harm"]["trafficMinutes"]["median"].as_f64().unwrap();
    assert!((minutes * 60.0 - 0.05 * 31.0).abs() < 0.3, "{minutes}");
    assert_eq!(bad["aborted"]["steps"], json!([{"step": "2/6", "runs": 4}]));
    assert!(bad["aborted"]["reasons"][0]["example"].as_str().unwrap().starts_with("success-rate: "), "{bad:#}");
    let promoted = report["versions"][0]["promoted"]["seconds"]["median"].as_f64().unwrap();
    assert!((180.0..230.0).contains(&promoted), "three pauses of a minute: {promoted}");
}

#[test]
fn a_version_that_fails_more_often_than_stable_is_taken_back_by_the_comparison() {
    let report = report(COMPARE, "--canary-error-rate 10% --runs 2");
    assert_eq!((runs(&report, 0, "promoted"), runs(&report, 1, "aborted")), (2, 2), "{report:#}");
}

#[test]
fn a_slow_version_is_taken_back_by_its_latency() {
    let metric = json!([{"name": "p99", "preset": "contour/latency", "max": 600}]);
    let report = report(&manifest(&short(), &metric), "--latency 80ms --canary-latency 300ms --runs 4");
    assert_eq!((runs(&report, 0, "promoted"), runs(&report, 1, "aborted")), (4, 4), "{report:#}");
}

#[test]
fn without_enough_requests_it_goes_on_waiting_and_says_why() {
    let report = report(ROLLOUT, "--rps 1 --runs 2 --limit 10m");
    let going = &report["versions"][0]["going"];
    assert_eq!(going["runs"], 2);
    assert!(going["reasons"][0]["example"].as_str().unwrap().contains("at least 100 are needed (minSamples)"), "{going:#}");
}

#[test]
fn a_pause_without_a_duration_waits_for_a_person_who_may_come() {
    let steps = json!([{"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {"duration": "10s"}}]);
    let manifest = manifest(&steps, &Value::Null);
    let alone = report(&manifest, "--runs 2");
    assert_eq!((runs(&alone, 0, "waiting"), runs(&alone, 0, "promoted")), (2, 0));
    let looked_after = report(&manifest, "--runs 2 --promote-after 10m");
    assert_eq!((runs(&looked_after, 0, "waiting"), runs(&looked_after, 0, "promoted")), (0, 2));
    let seconds = looked_after["versions"][0]["promoted"]["seconds"]["median"].as_f64().unwrap();
    assert!((600.0..660.0).contains(&seconds), "{seconds}");
}

#[test]
fn pods_that_are_ready_too_late_abort_it() {
    let report = report(&manifest(&short(), &Value::Null), "--runs 2 --pods-ready-after 11m");
    assert_eq!(runs(&report, 0, "aborted"), 2, "{report:#}");
}

#[test]
fn rollouts_without_traffic_and_with_a_template_of_their_own_are_simulated_too() {
    let metric = json!([{"name": "rate", "preset": "pods/success-rate", "scrape": {}, "min": 90, "interval": "10s"}]);
    let template = json!({"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "app", "image": "app:v1"}]}});
    let mut rollout: Value = serde_json::from_str(&manifest(&short(), &metric)).unwrap();
    let spec = rollout["spec"].as_object_mut().unwrap();
    spec.remove("traffic");
    spec.remove("workloadRef");
    spec.insert("template".into(), template);
    spec.insert("selector".into(), json!({"matchLabels": {"app": "api"}}));
    let report = report(&rollout.to_string(), "--canary-error-rate 40% --runs 2 --pods 4");
    assert_eq!((runs(&report, 0, "promoted"), runs(&report, 1, "aborted")), (2, 2), "{report:#}");
    let share = report["versions"][1]["harm"]["trafficMinutes"]["median"].as_f64().unwrap() * 60.0;
    assert!((1.0..20.0).contains(&share), "a pod beside four of stable: {share}");
}

#[test]
fn connections_are_simulated_as_requests() {
    let manifest = manifest(&short(), &Value::Null).replace("HTTPRoute", "TCPRoute");
    let report = report(&manifest, "--runs 1");
    let unjudged = "no metric judges it: every version whose pods become ready is promoted";
    assert_eq!(report["notes"], json!(["TCPRoute api is simulated as an HTTPRoute: each request as a connection", unjudged]));
    assert_eq!(runs(&report, 0, "promoted"), 1);
}

#[test]
fn queries_that_are_understood_are_answered() {
    let (errors, all) = (
        r#"sum(increase(hits{pod=~".+-{{canary.hash}}-.+",code=~"5.."}[{{interval}}]))"#,
        r#"sum(increase(hits{pod=~".+-{{canary.hash}}-.+"}[{{interval}}]))"#,
    );
    for metric in [
        json!({"name": "m", "prometheus": {"query": format!("{errors} / {all}")}, "max": 0.05}),
        json!({"name": "m", "prometheus": {"query": format!("1 - {errors} / {all}")}, "min": 0.95}),
        json!({"name": "m", "prometheus": {"query": format!("100 * {errors} / {all}")}, "successCondition": "result < 5.0"}),
        json!({"name": "m", "prometheus": {"ratio": {"numerator": errors, "denominator": all}}, "max": 5}),
        json!({"name": "m", "scrape": {"ratio": {"numerator": "hits{code=~\"5..\"}", "denominator": "hits"}}, "max": 5}),
    ] {
        let report = report(&manifest(&short(), &json!([metric])), "--error-rate 0.1% --canary-error-rate 20% --runs 2");
        assert_eq!((runs(&report, 0, "promoted"), runs(&report, 1, "aborted")), (2, 2), "{metric}: {report:#}");
    }
}

#[test]
fn a_metric_that_cannot_be_simulated_is_told_and_may_be_assumed() {
    let query = r#"avg(saturation{pod=~".+-{{canary.hash}}-.+"})"#;
    let metric = json!([
        {"name": "saturation", "prometheus": {"query": query}, "max": 0.9},
        {"name": "both", "prometheus": {"query": "sum(rate(bad[1m])) / sum(rate(all[1m]))"}, "max": 0.1},
        {"name": "queue", "scrape": {"value": "queue_length"}, "max": 10},
        {"name": "size", "scrape": {"quantile": {"histogram": "answer_bytes", "quantile": 0.9}}, "max": 1000},
        {"name": "any", "scrape": {"ratio": {"numerator": "hits{code=~\"5..\"}", "denominator": "hits"}}, "max": 100},
        {"name": "tried", "prometheus": {"query": query}, "max": 0.9, "dryRun": true},
    ]);
    let manifest = manifest(&short(), &metric);
    insta::assert_snapshot!("simulate_unknown", said(&manifest, "--runs 1").unwrap_err());
    let all = "--assume saturation=0.5 --assume both=0 --assume queue=1 --assume size=10 --assume any=1 --runs 1";
    assert_eq!(runs(&report(&manifest, all), 0, "promoted"), 1);
    assert_eq!(runs(&report(&manifest, &all.replace("queue=1", "queue=11")), 0, "aborted"), 1);
    let error = said(&manifest, &format!("{all} --assume sturation=1")).unwrap_err();
    assert!(error.starts_with("--assume sturation: Rollout api has no such metric: it has saturation, both, "), "{error}");
}

#[test]
fn templates_come_from_the_files_and_must_be_there() {
    let using = json!([{"setWeight": 20}, {"analysis": {"templates": [{"name": "rate"}], "args": [{"name": "least", "value": "90"}]}}]);
    let manifest = manifest(&using, &Value::Null);
    let template = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "AnalysisTemplate", "metadata": {"name": "rate"},
        "spec": {"args": [{"name": "least"}], "metrics": [{"name": "rate", "preset": "contour/success-rate", "min": 90}]}});
    let report = report(&format!("{manifest}\n---\n{template}"), "--canary-error-rate 30% --runs 2");
    assert_eq!((runs(&report, 0, "promoted"), runs(&report, 1, "aborted")), (2, 2), "{report:#}");
    assert_eq!(report["metrics"][0]["step"], 1);
    let (text, notes) = said(&manifest, "--runs 1").unwrap();
    assert!(text.is_empty() && notes.contains("there is no AnalysisTemplate \"rate\""), "{text}{notes}");
}

#[test]
fn what_lint_finds_comes_first() {
    let (text, notes) = said(&ROLLOUT.replace("setWeight: 5\n", "setWieght: 5\n"), "--runs 1").unwrap();
    assert!(text.is_empty() && notes.contains("did you mean setWeight?"), "{text}{notes}");
}

#[test]
fn one_rollout_is_chosen() {
    let called = |name: &str, namespace: &str| {
        let mut rollout: Value = serde_json::from_str(&manifest(&short(), &Value::Null)).unwrap();
        rollout["metadata"] = json!({"name": name, "namespace": namespace});
        rollout["spec"]["workloadRef"]["name"] = json!(name);
        rollout["spec"]["traffic"]["service"] = json!(name);
        rollout.to_string()
    };
    let two = format!("{}\n---\n{}", called("api", "shop"), called("web", "shop"));
    assert_eq!(said(&two, "").unwrap_err(), "the files hold several Rollouts: name one of api, web");
    assert_eq!(said(&two, "wob").unwrap_err(), "the files hold no Rollout \"wob\": they hold api, web");
    assert_eq!(report(&two, "web --runs 1")["rollout"], "web");
    let same = format!("{}\n---\n{}", called("api", "shop"), called("api", "other"));
    assert_eq!(said(&same, "").unwrap_err(), "the files hold 2 Rollouts of the same name: give the file of one");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}";
    assert_eq!(said(secret, "").unwrap_err(), "the files hold no Rollout of sluice.dev: give its file with -f");
}

#[test]
fn numbers_without_a_meaning_are_refused() {
    for (words, told) in [
        ("--error-rate 2", "is not a share from 0 to 1"),
        ("--error-rate=-0.1", "is not a share from 0 to 1"),
        ("--canary-error-rate 101%", "is not a share from 0 to 1"),
        ("--error-rate NaN", "is not a share from 0 to 1"),
        ("--rps 0", "write a number above 0"),
        ("--rps inf", "write a number above 0"),
        ("--rps many", "is not a number"),
        ("--runs 0", "0 is not in 1..=100000"),
        ("--runs 1000000", "1000000 is not in 1..=100000"),
        ("--pods 51", "51 is not in 1..=50"),
        ("--latency 80", "is not a span of time"),
        ("--latency 0s", "must take some time"),
        ("--assume rate", "write the metric's name and a number"),
        ("--assume rate=NaN", "write the metric's name and a number"),
        ("--limit 30s --latency nonsense", "is not a span of time"),
        ("--limit 169h", "for a week (168h) at most"),
        ("--failures-together 0", "0 is not in 1..=1000"),
    ] {
        let error = parsed(words).unwrap_err();
        assert!(error.contains(told), "{words}: {error}");
    }
    assert_eq!(
        parsed("--error-rate 0.5% --canary-error-rate 0.02").map(|args| (args.error_rate, args.canary_error_rate)),
        Ok((0.005, Some(0.02)))
    );
}
