mod compare;
mod dry_run;
mod origin;

use jiff::ToSpan;
use proptest::prelude::*;

use super::*;
use crate::{
    api::{
        AnalysisTemplateSpec, RunPhase, Span, Verdict,
        analysis::{Argument, NoDataPolicy, Preset, PrometheusProvider, ProviderErrorPolicy, ScrapeProvider, TemplateRef},
        rollout::StepAnalysis,
    },
    core::spec::Invalid,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// At least 99, every 30 s.
fn metric(name: &str) -> Metric {
    let prometheus = PrometheusProvider { query: Some("x".into()), ..PrometheusProvider::default() };
    Metric { name: name.into(), prometheus: Some(prometheus), min: Some(99.0), ..Metric::default() }
}

fn scraped(name: &str) -> Metric {
    let preset = Some(Preset::PodsSuccessRate);
    Metric { name: name.into(), preset, scrape: Some(ScrapeProvider::default()), min: Some(99.0), ..Metric::default() }
}

fn run(metrics: &[Metric]) -> AnalysisRunSpec {
    AnalysisRunSpec {
        rollout: "api".into(),
        canary_hash: "7f6b".into(),
        stable_hash: None,
        service: Some("api".into()),
        canary_service: Some("api-canary".into()),
        step: None,
        args: BTreeMap::new(),
        metrics: metrics.to_vec(),
        comparisons: None,
        prove: vec![],
        cluster_templates: BTreeMap::new(),
        terminate: false,
    }
}

fn value(value: f64) -> Measured {
    Measured { queries: vec!["x".into()], result: Ok(Some(Sample::of(value))), since: None, reading: None, look: None }
}

fn none() -> Measured {
    Measured { result: Ok(Some(Sample::default())), ..value(0.0) }
}

fn error() -> Measured {
    Measured { result: Err(ErrorKind::Timeout.error("no answer within 10s")), ..value(0.0) }
}

fn reading(seconds: i64) -> Measured {
    Measured {
        result: Ok(None),
        reading: Some(Reading { at: MicroTime(at(seconds)), counters: BTreeMap::new(), stable: BTreeMap::new() }),
        ..value(0.0)
    }
}

/// A run with one metric, measured at its own times.
fn life(spec: &AnalysisRunSpec, measured: impl IntoIterator<Item = Measured>) -> AnalysisRunStatus {
    let mut status = start(spec, true, at(0));
    for measured in measured {
        let Some(now) = next_wake(spec, &status, at(0)) else { break };
        assert_eq!(due(spec, &status, now), [0]);
        status = record(spec, status, vec![(0, measured)], now);
    }
    status
}

fn looks(metric: Metric, until: i64) -> Vec<i64> {
    let (spec, mut seen) = (run(&[metric]), Vec::new());
    let mut status = start(&spec, true, at(0));
    for now in 0..until {
        if !due(&spec, &status, at(now)).is_empty() {
            seen.push(now);
            status = record(&spec, status, vec![(0, value(100.0))], at(now));
        }
    }
    seen
}

fn span(text: &str) -> Option<Span> {
    Some(text.parse().unwrap())
}

#[test]
fn measures_every_interval_and_first_after_one() {
    assert_eq!(looks(metric("x"), 100), [30, 60, 90]);
    assert_eq!(looks(Metric { interval: span("10s"), initial_delay: span("25s"), ..metric("x") }, 50), [25, 35, 45]);
    assert_eq!(looks(Metric { initial_delay: span("0s"), ..metric("x") }, 50), [0, 30]);
    assert_eq!(looks(Metric { interval: span("1s"), ..metric("x") }, 4), [1, 2, 3]);
}

#[test]
fn counters_are_read_one_interval_before_the_first_measurement() {
    let spec = run(&[scraped("x")]);
    let status = start(&spec, true, at(0));
    assert_eq!(next_wake(&spec, &status, at(0)), Some(at(0)));
    let status = record(&spec, status, vec![(0, reading(0))], at(0));
    assert_eq!(status.metric_results[0].measurements, [], "an edge is no measurement");
    assert_eq!(next_wake(&spec, &status, at(1)), Some(at(30)));
    assert_eq!(looks(Metric { initial_delay: span("45s"), ..scraped("x") }, 80), [15, 45, 75]);
    assert_eq!(looks(Metric { initial_delay: span("0s"), ..scraped("x") }, 40), [0, 30], "there is no window before the start");
}

#[test]
fn a_restart_neither_shifts_nor_makes_up() {
    let spec = run(&[metric("x")]);
    let status = record(&spec, start(&spec, true, at(0)), vec![(0, value(100.0))], at(30));
    assert_eq!(due(&spec, &status, at(200)), [0]);
    let status = record(&spec, status, vec![(0, value(100.0))], at(200));
    assert_eq!(status.metric_results[0].passed, 2);
    assert_eq!((due(&spec, &status, at(200)), next_wake(&spec, &status, at(200))), (vec![], Some(at(210))));
}

#[test]
fn times_survive_being_written() {
    let spec = run(&[Metric { interval: span("1s"), ..metric("x") }]);
    let begin = at(0) + 999.nanoseconds();
    let status = start(&spec, true, begin);
    let now = next_wake(&spec, &status, begin).unwrap() + 1.nanoseconds();
    let status = record(&spec, status, vec![(0, value(100.0))], now);
    let read: AnalysisRunStatus = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
    assert_eq!(read, status);
    assert_eq!(due(&spec, &read, now), Vec::<usize>::new());
}

#[test]
fn what_counts_as_what() {
    let step = |metric: Metric| AnalysisRunSpec { step: Some(3), ..run(&[metric]) };
    let of = |policy| Metric { on_no_data: Some(policy), ..metric("x") };
    let errors = |policy| Metric { on_provider_error: Some(policy), consecutive_error_limit: Some(1), ..metric("x") };
    let tolerant = Metric { failure_limit: Some(1), ..metric("x") };
    let unsure =
        Metric { min: None, success_condition: Some("result > 9".into()), failure_condition: Some("result < 1".into()), ..metric("x") };
    use RunPhase::*;
    for (what, spec, measured, phase, message) in [
        ("background goes on", run(&[metric("x")]), vec![value(100.0); 3], Running, "x: 100 is at least 99; next look at"),
        ("a step is judged once", step(metric("x")), vec![value(100.0)], Passed, "x: 100 is at least 99"),
        ("count", run(&[Metric { count: Some(2), ..metric("x") }]), vec![value(100.0); 2], Passed, "x: 100 is at least 99"),
        ("one Fail fails", run(&[metric("x")]), vec![value(100.0), value(98.0)], Failed, "x: 98 is below the minimum of 99"),
        ("a tolerated Fail does not pass a step", step(tolerant.clone()), vec![value(98.0)], Running, "x: 98 is below"),
        ("but what comes after it does", step(tolerant.clone()), vec![value(98.0), value(100.0)], Passed, "x: 100"),
        ("failureLimit", step(tolerant), vec![value(98.0), value(97.0)], Failed, "x: failed 2 times, 1 are tolerated: 97 is below"),
        ("no data waits", step(metric("x")), vec![none(); 50], Running, "x: NoData: the answer is empty"),
        ("no data waits, and then passes", step(metric("x")), vec![none(), value(100.0)], Passed, "x: 100"),
        ("no data passes if it may", step(of(NoDataPolicy::Pass)), vec![none()], Passed, "x: NoData"),
        ("no data fails if it shall", step(of(NoDataPolicy::Fail)), vec![none()], Failed, "x: the answer is empty"),
        ("no data is inconclusive if it shall", step(of(NoDataPolicy::Inconclusive)), vec![none()], Inconclusive, "x: the answer is empty"),
        ("four errors in a row wait", run(&[metric("x")]), vec![error(); 4], Running, "x: ProviderError: no answer within 10s"),
        (
            "five are inconclusive",
            run(&[metric("x")]),
            vec![error(); 5],
            Inconclusive,
            "x: no answer 5 times in a row: no answer within 10s",
        ),
        (
            "unless they are not in a row",
            run(&[metric("x")]),
            [vec![error(); 4], vec![value(100.0)], vec![error(); 4]].concat(),
            Running,
            "x: ProviderError",
        ),
        ("errors fail if they shall", step(errors(ProviderErrorPolicy::Fail)), vec![error(); 2], Failed, "x: no answer 2 times in a row"),
        ("errors wait if they shall", step(errors(ProviderErrorPolicy::Wait)), vec![error(); 30], Running, "x: ProviderError"),
        ("inconclusive", run(std::slice::from_ref(&unsure)), vec![value(5.0)], Inconclusive, "x: 5 is neither"),
        (
            "inconclusiveLimit",
            run(&[Metric { inconclusive_limit: Some(1), ..unsure }]),
            vec![value(5.0); 2],
            Inconclusive,
            "x: inconclusive 2 times, 1 are tolerated: 5 is",
        ),
    ] {
        let status = life(&spec, measured);
        assert_eq!(status.phase, phase, "{what}: {}", status.message);
        assert!(status.message.starts_with(message), "{what}: {}", status.message);
        assert_eq!(status.completed_at.is_some(), phase != Running, "{what}");
        assert_eq!(next_wake(&spec, &status, at(0)).is_some(), phase == Running, "{what}");
    }
}

#[test]
fn the_first_metric_that_fails_ends_the_run() {
    let spec = AnalysisRunSpec { step: Some(0), ..run(&[metric("good"), metric("bad"), metric("slow"), metric("unsure")]) };
    let slow = Metric { on_no_data: Some(NoDataPolicy::Inconclusive), ..metric("unsure") };
    let spec = AnalysisRunSpec { metrics: [&spec.metrics[..3], &[slow]].concat(), ..spec };
    let measured = vec![(0, value(100.0)), (1, value(50.0)), (2, error()), (3, none())];
    let status = record(&spec, start(&spec, true, at(0)), measured, at(30));
    let phases: Vec<_> = status.metric_results.iter().map(|result| result.phase).collect();
    assert_eq!(phases, [RunPhase::Passed, RunPhase::Failed, RunPhase::Cancelled, RunPhase::Inconclusive]);
    assert_eq!((status.phase, status.message.as_str()), (RunPhase::Failed, "bad: 50 is below the minimum of 99"));
    assert_eq!(record(&spec, status.clone(), vec![(2, value(100.0))], at(60)), status, "what has ended stays as it is");
    assert_eq!(due(&spec, &status, at(60)), Vec::<usize>::new());
}

#[test]
fn a_run_that_nobody_needs_is_cancelled() {
    let spec = AnalysisRunSpec { terminate: true, ..run(&[metric("x")]) };
    let status = start(&spec, true, at(0));
    assert_eq!(next_wake(&spec, &status, at(5)), Some(at(5)));
    let status = cancel(status, at(5));
    assert_eq!((status.phase, status.metric_results[0].phase), (RunPhase::Cancelled, RunPhase::Cancelled));
    let failed = life(&run(&[metric("x")]), [value(1.0)]);
    assert_eq!(cancel(failed.clone(), at(99)), failed, "a verdict stays");
}

#[test]
fn a_metric_that_cannot_be_measured_ends_the_run_with_the_reason() {
    let status = start(&run(&[metric("x")]), false, at(0));
    assert_eq!(status.phase, RunPhase::Inconclusive);
    assert!(status.message.starts_with("metric x cannot be measured: prometheus.address: set the address"), "{}", status.message);
    let contour = Metric { name: "c".into(), preset: Some(Preset::ContourSuccessRate), min: Some(1.0), ..Metric::default() };
    let status = start(&AnalysisRunSpec { canary_service: None, ..run(&[contour]) }, true, at(0));
    assert!(status.message.contains("no spec.traffic"), "{}", status.message);
}

#[test]
fn lists_are_bounded_and_a_query_is_kept_once() {
    let status = life(&run(&[metric("x")]), (0..30).map(|_| value(100.0)));
    let result = &status.metric_results[0];
    assert_eq!((result.passed, result.measurements.len()), (30, 20));
    let with: Vec<_> = result.measurements.iter().map(|measurement| measurement.queries.len()).collect();
    assert_eq!(with, [vec![0; 19], vec![1]].concat());
}

#[test]
fn windows_end_at_whole_seconds_and_none_begins_before_the_run() {
    let begin = at(0) + 200.milliseconds();
    let spec = run(&[metric("x")]);
    let status = start(&spec, true, begin);
    assert_eq!(next_wake(&spec, &status, begin), Some(at(31)));
    let status = record(&spec, status, vec![(0, value(100.0))], at(31) + 40.milliseconds());
    assert_eq!(next_wake(&spec, &status, begin), Some(at(61)));
    let with_its_window = Measured { since: Some(at(1)), ..value(100.0) };
    let status = record(&spec, start(&spec, true, begin), vec![(0, with_its_window)], at(31));
    assert_eq!(evidence_since(&spec, &status, begin), Ok(()));
}

#[test]
fn evidence_lies_after_the_change_that_it_is_about() {
    let spec = run(&[metric("x")]);
    let status = life(&spec, [value(100.0), value(100.0)]); // at 30 and 60
    assert_eq!(evidence_since(&spec, &status, at(30)), Ok(()));
    assert_eq!(evidence_since(&spec, &status, at(31)), Err("x: next evidence at 08:01:30 UTC".to_owned()));
    let status = record(&spec, status, vec![(0, value(100.0))], at(90));
    // The look at 90 saw a second of what was before, so it takes the one at 120.
    assert_eq!(evidence_since(&spec, &status, at(61)), Err("x: next evidence at 08:02:00 UTC".to_owned()));
    assert_eq!(evidence_since(&spec, &start(&spec, true, at(0)), at(0)), Err("x: no measurement yet".to_owned()));
}

#[test]
fn a_longer_window_is_evidence_only_from_its_begin_on() {
    let spec = run(&[scraped("x")]);
    let late = Measured { since: Some(at(0)), result: Ok(Some(Sample { samples: Some(500.0), ..Sample::of(100.0) })), ..reading(90) };
    let status = record(&spec, start(&spec, true, at(0)), vec![(0, late)], at(90));
    assert_eq!(evidence_since(&spec, &status, at(0)), Ok(()));
    assert!(evidence_since(&spec, &status, at(45)).is_err());
}

#[test]
fn only_what_passed_last_and_lately_is_closed() {
    let spec = run(&[metric("x"), metric("y")]);
    let status = start(&spec, true, at(0));
    assert_eq!(closed(&spec, &status, at(0)), Err("x: no measurement yet".to_owned()));
    let status = record(&spec, status, vec![(0, value(100.0)), (1, value(100.0))], at(30));
    assert_eq!(closed(&spec, &status, at(90)), Ok(()));
    assert_eq!(closed(&spec, &status, at(91)), Err("x: the newest measurement, of 08:00:30 UTC, is too old".to_owned()));
    let status = record(&spec, status, vec![(0, value(100.0)), (1, none())], at(60));
    assert_eq!(closed(&spec, &status, at(60)), Err("y: NoData: the answer is empty: no series matches".to_owned()));
    let failed = life(&run(&[metric("x")]), [value(1.0)]);
    assert_eq!(closed(&spec, &failed, at(60)), Err("the analysis has ended (Failed): x: 1 is below the minimum of 99".to_owned()));
}

#[test]
fn a_metric_that_has_been_measured_as_often_as_it_wants_has_spoken() {
    let spec = run(&[Metric { count: Some(1), ..metric("x") }, metric("y")]);
    let mut status = record(&spec, start(&spec, true, at(0)), vec![(0, value(100.0)), (1, value(100.0))], at(30));
    for now in [60, 90, 120] {
        assert_eq!(due(&spec, &status, at(now)), [1]);
        status = record(&spec, status, vec![(1, value(100.0))], at(now));
    }
    assert_eq!((evidence_since(&spec, &status, at(90)), closed(&spec, &status, at(120))), (Ok(()), Ok(())));
    let done = life(&run(&[Metric { count: Some(1), ..metric("x") }]), [value(100.0)]);
    assert_eq!((done.phase, evidence_since(&spec, &done, at(999)), closed(&spec, &done, at(999))), (RunPhase::Passed, Ok(()), Ok(())));
}

fn arg(name: &str, value: Option<&str>) -> Argument {
    Argument { name: name.into(), value: value.map(str::to_owned) }
}

fn template(args: &[Argument], metrics: &[Metric]) -> Result<AnalysisTemplateSpec, Invalid> {
    Ok(AnalysisTemplateSpec { args: args.to_vec(), metrics: metrics.to_vec() })
}

fn query(name: &str, query: &str) -> Metric {
    let prometheus = PrometheusProvider { query: Some(query.into()), ..PrometheusProvider::default() };
    Metric { prometheus: Some(prometheus), ..metric(name) }
}

fn named(name: &str) -> TemplateRef {
    TemplateRef { name: name.into(), ..TemplateRef::default() }
}

#[test]
fn templates_and_arguments_become_metrics() {
    let templates = BTreeMap::from([
        (named("a"), template(&[arg("job", None), arg("path", Some("/"))], &[query("q", r#"x{job="{{args.job}}",path="{{args.path}}"}"#)])),
        (named("same"), template(&[arg("path", Some("/y"))], &[query("r", "x")])),
        (named("wrong"), template(&[], &[query("w", "x{{args.nope}}")])),
    ]);
    let analysis = |names: &[&str], args: &[Argument], metrics: &[Metric]| StepAnalysis {
        templates: names.iter().map(|name| named(name)).collect(),
        args: args.to_vec(),
        metrics: metrics.to_vec(),
    };
    let job = arg("job", Some("api"));
    let Resolved { metrics, args, cluster_templates } =
        resolve(&analysis(&["a"], std::slice::from_ref(&job), &[query("inline", "y")]), &templates, true).unwrap();
    assert_eq!(metrics.iter().map(|metric| metric.name.as_str()).collect::<Vec<_>>(), ["q", "inline"]);
    assert_eq!(args, BTreeMap::from([("job".to_owned(), "api".to_owned()), ("path".to_owned(), "/".to_owned())]));
    assert_eq!(cluster_templates, BTreeMap::new());
    let Resolved { args, .. } = resolve(&analysis(&["a"], &[job.clone(), arg("path", Some("/x"))], &[]), &templates, true).unwrap();
    assert_eq!(args["path"], "/x", "what is given wins");
    let path = arg("path", Some("/x"));
    assert!(resolve(&analysis(&["a", "same"], &[job.clone(), path], &[]), &templates, true).is_ok());
    for (analysis, message) in [
        (analysis(&["b"], &[], &[]), "there is no AnalysisTemplate \"b\" in this namespace"),
        (analysis(&["a"], &[], &[]), "AnalysisTemplate \"a\" needs the argument \"job\": give it under args"),
        (analysis(&["a"], &[arg("job", None)], &[]), "argument \"job\" has no value: give it one"),
        (analysis(&["a"], &[job.clone(), arg("jbo", Some("x"))], &[]), "argument \"jbo\" is declared by none of the templates"),
        (analysis(&["a"], std::slice::from_ref(&job), &[query("q", "y")]), "two metrics are called \"q\": rename one"),
        (analysis(&["a", "same"], &[job], &[]), "two templates have different defaults for the argument \"path\""),
        (
            analysis(&["wrong"], &[], &[]),
            "metric w of AnalysisTemplate \"wrong\": prometheus.query: {{args.nope}} is not declared: declare it under args",
        ),
    ] {
        let error = resolve(&analysis, &templates, true).unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn faults_of_a_metric_are_named_by_field() {
    let some = Defaults { prometheus_address: true, ..Defaults::default() };
    let fields = |metric: Metric, defaults: &Defaults| {
        let faults = validate_metric(&metric, defaults, Some(&BTreeMap::new())).err().unwrap_or_default();
        faults.into_iter().map(|(field, _)| field).collect::<Vec<_>>()
    };
    let provider =
        |address: &str| PrometheusProvider { query: Some("x".into()), address: Some(address.into()), ..PrometheusProvider::default() };
    assert_eq!(fields(metric("x"), &some), Vec::<String>::new());
    for (metric, field) in [
        (Metric { interval: span("500ms"), ..metric("x") }, "interval"),
        (Metric { prometheus: None, ..metric("x") }, "prometheus"),
        (Metric { min: None, ..metric("x") }, "min"),
        (Metric { max: Some(1.0), ..metric("x") }, "min"),
        (Metric { min: None, success_condition: Some("result >".into()), ..metric("x") }, "successCondition"),
        (Metric { min: None, failure_condition: Some("reslt > 1".into()), ..metric("x") }, "failureCondition"),
        (query("x", "up{a=\"{{args.x}}\"}"), "prometheus.query"),
        (Metric { prometheus: Some(provider("http://user:pass@x")), ..metric("x") }, "prometheus.address"),
        (Metric { prometheus: Some(provider("ftp://x")), ..metric("x") }, "prometheus.address"),
        (
            Metric { prometheus: Some(PrometheusProvider { timeout: span("2m"), ..provider("http://x") }), ..metric("x") },
            "prometheus.timeout",
        ),
        (Metric { parameters: [("a".to_owned(), "b".to_owned())].into(), ..metric("x") }, "parameters"),
        (Metric { parameters: [("a".to_owned(), "b".to_owned())].into(), ..scraped("x") }, "parameters.a"),
    ] {
        assert_eq!(fields(metric, &some), [field]);
    }
    assert_eq!(fields(metric("x"), &Defaults::default()), ["prometheus.address"]);
    assert_eq!(fields(scraped("x"), &Defaults::default()), Vec::<String>::new());
    assert_eq!(validate_metric(&query("x", "up{a=\"{{args.x}}\"}"), &some, None), Ok(()), "a template may bring it");
}

proptest! {
    /// Whatever comes, whenever: bounded, absorbing, and a pass rests on a pass.
    #[test]
    fn a_run_keeps_its_word(
        events in prop::collection::vec((0..5_usize, 1..100_i64), 0..60),
        failure_limit in 0..3, inconclusive_limit in 0..3, error_limit in 0..3,
        count in prop::option::of(1..5), step: bool,
        no_data in prop::sample::select(vec![NoDataPolicy::Wait, NoDataPolicy::Inconclusive, NoDataPolicy::Fail, NoDataPolicy::Pass]),
    ) {
        let metric = Metric {
            min: None, success_condition: Some("result > 9".into()), failure_condition: Some("result < 1".into()),
            failure_limit: Some(failure_limit), inconclusive_limit: Some(inconclusive_limit), consecutive_error_limit: Some(error_limit),
            count, on_no_data: Some(no_data), ..metric("x")
        };
        let spec = AnalysisRunSpec { step: step.then_some(0), ..run(&[metric]) };
        let (mut status, mut now) = (start(&spec, true, at(0)), 0);
        for (kind, later) in events {
            now += later;
            let before = status.clone();
            let looks = due(&spec, &status, at(now));
            prop_assert_eq!(!looks.is_empty(), next_wake(&spec, &status, at(now)).is_some_and(|wake| wake <= at(now)));
            let measured = [value(10.0), value(0.0), value(5.0), none(), error()][kind].clone();
            status = record(&spec, status, looks.iter().map(|index| (*index, measured.clone())).collect(), at(now));
            prop_assert_eq!(due(&spec, &status, at(now)), Vec::<usize>::new(), "measured once for each time");
            if before.phase.is_final() {
                prop_assert_eq!(&status, &before);
            }
            let result = &status.metric_results[0];
            prop_assert!(result.measurements.len() <= 20);
            if let Some(next) = next_wake(&spec, &status, at(now)) {
                prop_assert_eq!(next.duration_since(at(0)).as_secs() % 30, 0);
                prop_assert!(next > at(now) && next <= at(now + 30));
            }
            if status.phase == RunPhase::Passed || closed(&spec, &status, at(now)).is_ok() {
                let newest = result.measurements.last().unwrap();
                prop_assert!(newest.verdict == Verdict::Pass || (newest.verdict == Verdict::NoData && no_data == NoDataPolicy::Pass));
                prop_assert!(result.failed <= failure_limit && result.inconclusive <= inconclusive_limit);
            }
        }
    }
}
