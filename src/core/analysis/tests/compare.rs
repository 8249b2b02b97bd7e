//! Runs that compare canary and stable.

use super::*;
use crate::{
    api::{
        analysis::{Comparison, Ratio},
        run::Compared,
    },
    core::{
        counters::Counted,
        judge::compare::{Arm, latency::Latencies},
    },
};

fn comparing(name: &str) -> Metric {
    Metric { name: name.into(), preset: Some(Preset::PodsSuccessRate), compare: Some(Comparison::default()), ..Metric::default() }
}

fn own(name: &str) -> Metric {
    let selector = |more: &str| format!("hits{{hash=\"{{{{canary.hash}}}}\"{more}}}");
    let counters = Some(Ratio { numerator: selector(",code=\"5\""), denominator: selector("") });
    let prometheus = Some(PrometheusProvider { counters, ..PrometheusProvider::default() });
    Metric { preset: None, prometheus, ..comparing(name) }
}

type Pair = Option<(u64, u64)>;

/// Requests and failures of canary and stable, from one edge to another.
fn look(since: Option<i64>, until: i64, canary: Pair, stable: Pair) -> Measured {
    let arm = |pair: Pair| pair.map(|(requests, failures)| Counted::Requests(Arm { requests, failures }));
    let look = Look { since: since.map(at), until: at(until), canary: arm(canary), stable: arm(stable), caveat: None };
    Measured { result: Ok(None), since: look.since, look: Some(look), ..reading(until) }
}

/// A run whose only metric has looked so, every 30 s.
fn after(spec: &AnalysisRunSpec, looks: &[(Pair, Pair)]) -> AnalysisRunStatus {
    let mut status = record(spec, start(spec, true, at(0)), vec![(0, look(None, 0, None, None))], at(0));
    for (n, (canary, stable)) in (0..).zip(looks) {
        status = record(spec, status, vec![(0, look(Some(30 * n), 30 * n + 30, *canary, *stable))], at(30 * n + 30));
    }
    status
}

fn known(status: &AnalysisRunStatus) -> &Compared {
    status.metric_results[0].comparison.as_ref().unwrap()
}

const BAD: (Pair, Pair) = (Some((300, 12)), Some((2700, 27)));
const EQUAL: (Pair, Pair) = (Some((300, 3)), Some((2700, 27)));

#[test]
fn the_first_reading_begins_and_says_nothing() {
    let spec = run(&[comparing("x")]);
    let status = after(&spec, &[]);
    assert_eq!((status.metric_results[0].measurements.len(), known(&status).since.clone()), (0, None));
    assert_eq!(status.message, "x: the counters were read for the first time; next look at 08:00:30 UTC");
    assert_eq!(next_wake(&spec, &status, at(0)), Some(at(30)));
}

#[test]
fn evidence_aborts_whatever_is_tolerated() {
    let spec = run(&[Metric { failure_limit: Some(100), ..comparing("x") }]);
    let status = after(&spec, &[BAD; 20]);
    assert_eq!(status.phase, RunPhase::Failed, "{}", status.message);
    assert_eq!(status.metric_results[0].failed, 1);
    let start = "x: canary fails 4 times as often as stable (";
    assert!(
        status.message.starts_with(start) && status.message.contains("the odds against that being chance passed 1 in 20 after"),
        "{}",
        status.message
    );
    assert!(known(&status).worse);
}

#[test]
fn nothing_against_the_canary_is_a_pass_once_there_were_enough_requests() {
    let spec = run(&[comparing("x")]);
    let few = after(&spec, &[(Some((60, 0)), Some((600, 6)))]);
    let newest = few.metric_results[0].measurements.last().unwrap();
    assert_eq!(
        (newest.verdict, newest.message.as_str()),
        (Verdict::NoData, "only 60 requests of the canary were compared, at least 100 are needed (minSamples)")
    );
    let enough = after(&spec, &[(Some((60, 0)), Some((600, 6))), (Some((60, 1)), Some((600, 6)))]);
    let newest = enough.metric_results[0].measurements.last().unwrap();
    assert_eq!(newest.verdict, Verdict::Pass, "{}", newest.message);
    assert!(newest.message.ends_with("after 1 min there is no evidence that it is more than 1.25 times"), "{}", newest.message);
    assert_eq!(newest.limit, "fails at most 1.25 times as often as stable");
    assert_eq!(closed(&spec, &enough, at(60)), Ok(()));
}

#[test]
fn without_requests_there_is_no_verdict() {
    let spec = run(&[comparing("x")]);
    for (canary, stable, message) in [
        (None, Some((600, 6)), "the canary had no counters at 08:00:00 UTC: is its selector right?"),
        (Some((0, 0)), Some((600, 6)), "the canary had no requests since 08:00:00 UTC"),
        (Some((60, 0)), None, "stable had no counters at 08:00:00 UTC: is its selector right?"),
        (Some((60, 0)), Some((0, 0)), "stable had no requests since 08:00:00 UTC"),
        (None, None, "the canary had no counters at 08:00:00 UTC: is its selector right?"),
    ] {
        let status = after(&spec, &[(canary, stable)]);
        let newest = status.metric_results[0].measurements.last().unwrap();
        assert_eq!((newest.verdict, newest.message.as_str()), (Verdict::NoData, message));
        assert_eq!((known(&status).failures.clone(), known(&status).until.0), (None, at(30)));
    }
}

/// At 100 % stable has no requests any more: what was found stands, and nothing is waited for.
#[test]
fn a_stable_without_requests_leaves_what_was_found() {
    let spec = run(&[Metric { on_no_data: Some(NoDataPolicy::Fail), ..comparing("x") }]);
    let before = after(&spec, &[EQUAL]);
    for gone in [Some((0, 0)), None] {
        let status = after(&spec, &[EQUAL, (Some((3000, 30)), gone)]);
        assert_eq!(status.metric_results[0].measurements, before.metric_results[0].measurements);
        assert_eq!(known(&status).failures, known(&before).failures);
        assert_eq!(closed(&spec, &status, at(60)), Ok(()));
        assert!(evidence_since(&spec, &status, at(30)).is_err(), "but it is no evidence for more traffic");
        assert!(status.message.contains("so there is nothing new to compare"), "{}", status.message);
    }
}

#[test]
fn limits_stand_beside_the_comparison() {
    let spec = run(&[Metric { min: Some(99.5), ..comparing("x") }]);
    let both_broken = after(&spec, &[(Some((300, 150)), Some((2700, 1350)))]);
    assert_eq!(
        (both_broken.phase, both_broken.message.as_str()),
        (RunPhase::Failed, "x: 50 % is below the minimum of 99.5 % (300 requests)")
    );
    assert!(!known(&both_broken).worse);
    let alone = after(&run(&[comparing("x")]), &[(Some((300, 150)), Some((2700, 1350)))]);
    assert_eq!(alone.phase, RunPhase::Running, "the comparison sees two equals");
    let good = after(&spec, &[(Some((300, 0)), Some((2700, 2)))]);
    let newest = good.metric_results[0].measurements.last().unwrap();
    assert_eq!((newest.verdict, newest.limit.as_str()), (Verdict::Pass, "fails at most 1.25 times as often as stable; at least 99.5 %"));
    assert!(newest.message.ends_with("; 100 % is at least 99.5 % (300 requests)"), "{}", newest.message);
    let few = after(&spec, &[(Some((60, 0)), Some((540, 2)))]);
    assert_eq!(few.metric_results[0].no_data, 1, "a limit needs enough requests in its window");
    let full = after(&spec, &[(Some((300, 0)), Some((2700, 2))), (Some((3000, 600)), Some((0, 0)))]);
    assert_eq!(full.phase, RunPhase::Failed, "the limit holds when there is nothing to compare with: {}", full.message);
}

#[test]
fn a_numerator_that_selects_successes_is_no_pass() {
    let status = after(&run(&[own("x")]), &[(Some((300, 240)), Some((2700, 2680)))]);
    assert_eq!(status.phase, RunPhase::Inconclusive);
    assert_eq!(
        status.message,
        "x: 2,680 of 2,700 requests of stable are selected as failures: does the numerator of compare select successes?"
    );
    let broken = after(&run(&[comparing("x")]), &[(Some((300, 240)), Some((2700, 2680)))]);
    assert_eq!(broken.phase, RunPhase::Running, "a preset knows what it counts: {}", broken.message);
}

/// Looks until the verdict.
fn time_to_abort(spec: &AnalysisRunSpec) -> usize {
    (1..60).find(|n| after(spec, &vec![BAD; *n]).phase == RunPhase::Failed).unwrap()
}

#[test]
fn comparisons_share_the_accepted_risk() {
    let alone = run(&[comparing("x")]);
    let sharing = AnalysisRunSpec { comparisons: Some(500), ..alone.clone() };
    assert!(time_to_abort(&sharing) > time_to_abort(&alone));
    let beside = run(&[comparing("x"), comparing("y"), Metric { dry_run: true, ..comparing("z") }]);
    assert_eq!((streams(&alone).get(), streams(&sharing).get(), streams(&beside).get()), (1, 500, 2));
    let strict = Comparison { max_false_aborts: Some(1e-9), ..Comparison::default() };
    assert!(time_to_abort(&run(&[Metric { compare: Some(strict), ..comparing("x") }])) > time_to_abort(&alone));
}

#[test]
fn latencies_are_compared_at_their_bounds() {
    let spec = run(&[Metric { preset: Some(Preset::PodsLatency), ..comparing("x") }]);
    let slow = |since, until| {
        let of = |within: u64, all: u64| {
            Some(Counted::Latencies(Latencies::new(&[(0.1, within / 2), (0.25, within), (f64::INFINITY, all)]).unwrap()))
        };
        let look = Look { since, until, canary: of(200, 300), stable: of(2680, 2700), caveat: None };
        Measured { result: Ok(None), since, look: Some(look), ..reading(0) }
    };
    let mut status = record(&spec, start(&spec, true, at(0)), vec![(0, slow(None, at(0)))], at(0));
    for n in 0..20 {
        status = record(&spec, status, vec![(0, slow(Some(at(30 * n)), at(30 * n + 30)))], at(30 * n + 30));
    }
    assert_eq!(status.phase, RunPhase::Failed);
    assert!(status.message.starts_with("x: canary is slower than 250 ms 45 times as often as stable ("), "{}", status.message);
}

#[test]
fn a_dry_run_compares_and_decides_nothing() {
    let status = after(&run(&[Metric { dry_run: true, ..comparing("x") }, comparing("y")]), &[BAD; 20]);
    assert_eq!((status.phase, status.metric_results[0].phase), (RunPhase::Running, RunPhase::Failed));
}

#[test]
fn an_error_is_made_good_by_one_longer_interval() {
    let spec = run(&[comparing("x")]);
    let status = after(&spec, &[EQUAL]);
    let status = record(&spec, status, vec![(0, error())], at(60));
    assert_eq!((known(&status).until.0, status.metric_results[0].consecutive_errors), (at(30), 1));
    let status = record(&spec, status, vec![(0, look(Some(30), 90, Some((600, 6)), Some((5400, 54))))], at(90));
    assert_eq!(known(&status).failures.as_ref().unwrap().canary, Arm { requests: 900, failures: 9 });
    assert_eq!(status.metric_results[0].consecutive_errors, 0);
}

#[test]
fn a_good_version_is_proven_to_be_no_worse_and_a_bad_one_is_not() {
    let spec = AnalysisRunSpec { prove: vec![2.0, 50.0], ..run(&[comparing("x")]) };
    let equal: (Pair, Pair) = (Some((1500, 15)), Some((1500, 15)));
    let proven = |looks: &[(Pair, Pair)], at_most| super::proven(&spec, &after(&spec, looks), at_most);
    assert_eq!((proven(&[equal; 30], 2.0), proven(&[equal; 30], 50.0)), (Ok(()), Ok(())));
    let early = proven(&[equal; 2], 2.0).unwrap_err();
    assert!(
        early.contains("canary fails 1 times as often as stable") && early.ends_with("there is no evidence that it is less than 2 times"),
        "{early}"
    );
    let twice: (Pair, Pair) = (Some((1500, 32)), Some((1500, 15)));
    assert!(proven(&[twice; 4], 2.0).is_err());
    assert_eq!(
        proven(&[(None, Some((900, 9)))], 2.0),
        Err("x: the canary had no counters at 08:00:00 UTC: is its selector right?".to_owned())
    );
    assert!(proven(&[BAD; 30], 50.0).unwrap_err().starts_with("the analysis has ended (Failed)"));
    assert!(proven(&[equal; 30], 3.0).is_err(), "nobody has sought that");
}

proptest! {
    /// Whatever is read twice, by whomever, after whatever crash: each interval counts once, or not at all.
    #[test]
    fn no_interval_counts_twice(
        counts in prop::collection::vec((0..400_u64, 0..40_u64, 0..4000_u64, 0..40_u64), 1..12),
        again in prop::collection::vec((0..12_usize, 0..14_usize), 0..8),
    ) {
        let compare = Some(Comparison { max_false_aborts: Some(1e-300), ..Comparison::default() });
        let spec = AnalysisRunSpec { prove: vec![2.0], ..run(&[Metric { inconclusive_limit: Some(1000), compare, ..own("x") }]) };
        let looks: Vec<_> = counts.iter().map(|(n, x, m, y)| (Some((*n, *x.min(n))), Some((*m, *y.min(m))))).collect();
        let plain = after(&spec, &looks);
        let interval = |n: usize| {
            let begin = 30 * i64::try_from(n).unwrap();
            let (canary, stable) = looks.get(n).copied().unwrap_or(EQUAL);
            look(Some(begin), begin + 30, canary, stable)
        };
        let mut status = record(&spec, start(&spec, true, at(0)), vec![(0, look(None, 0, None, None))], at(0));
        for n in 0..looks.len() {
            // A status that was written and read back, as after a crash.
            status = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
            status = record(&spec, status, vec![(0, interval(n))], at(30 * n as i64 + 30));
            for (_, old) in again.iter().filter(|(when, old)| *when == n && old <= when) {
                status = record(&spec, status, vec![(0, interval(*old))], at(30 * n as i64 + 31));
            }
        }
        prop_assert_eq!(&known(&status).failures, &known(&plain).failures);
        prop_assert_eq!(&known(&status).proofs, &known(&plain).proofs);
        prop_assert_eq!(&known(&status).until, &known(&plain).until);
    }

    /// An interval of which the begin is not where the last one ended is left out.
    #[test]
    fn an_interval_that_overlaps_is_left_out(begin in 0..60_i64) {
        let spec = run(&[own("x")]);
        let before = after(&spec, &[EQUAL, EQUAL]);
        let status = record(&spec, before.clone(), vec![(0, look(Some(begin), 90, Some((300, 300)), Some((2700, 0))))], at(90));
        prop_assert_eq!(&known(&status).failures, &known(&before).failures);
        prop_assert_eq!(known(&status).until.0, at(90));
    }
}

#[test]
fn the_state_stays_small() {
    let many = Latencies::new(
        &(1..=40).map(|le| (f64::from(le) * 0.017, 1_000_000_000)).chain([(f64::INFINITY, 2_000_000_000)]).collect::<Vec<_>>(),
    )
    .unwrap();
    let spec = run(&[Metric { preset: Some(Preset::PodsLatency), ..comparing("x") }]);
    let both = |since, until| {
        let look = Look {
            since,
            until,
            canary: Some(Counted::Latencies(many.clone())),
            stable: Some(Counted::Latencies(many.clone())),
            caveat: None,
        };
        Measured { result: Ok(None), since, look: Some(look), ..reading(0) }
    };
    let mut status = record(&spec, start(&spec, true, at(0)), vec![(0, both(None, at(0)))], at(0));
    status = record(&spec, status, vec![(0, both(Some(at(0)), at(30)))], at(30));
    let size = serde_json::to_string(known(&status)).unwrap().len();
    assert!(size < 9_000, "{size} bytes");
    let size = serde_json::to_string(known(&after(&run(&[comparing("x")]), &[EQUAL; 9]))).unwrap().len();
    assert!(size < 700, "{size} bytes");
}

#[test]
fn faults_of_a_comparison_are_named_by_field() {
    let some = Defaults { prometheus_address: true, ..Defaults::default() };
    let faults = |metric: Metric| validate_metric(&metric, &some, Some(&BTreeMap::new())).err().unwrap_or_default();
    let with = |compare: Comparison| Metric { compare: Some(compare), ..comparing("x") };
    let queried = Metric { compare: Some(Comparison::default()), min: None, ..query("x", "rate(x[1m])") };
    let selectors = |text: &str| {
        let mut metric = own("x");
        metric.prometheus.as_mut().unwrap().counters = Some(Ratio { numerator: text.into(), denominator: text.into() });
        metric
    };
    assert_eq!(faults(comparing("x")), []);
    assert_eq!(faults(own("x")), []);
    assert_eq!(faults(Metric { max: Some(5.0), ..own("x") }), []);
    for (metric, field, message) in [
        (with(Comparison { tolerate: Some(0.5), ..Comparison::default() }), "compare.tolerate", "write 1.25 for"),
        (with(Comparison { max_false_aborts: Some(0.0), ..Comparison::default() }), "compare.maxFalseAborts", "write 0.05 for"),
        (Metric { success_condition: Some("result > 1.0".into()), ..comparing("x") }, "min", "a metric needs one judge: compare"),
        (queried, "compare", "compare needs counters as they are"),
        (Metric { min: Some(1.0), ..own("x") }, "min", "select these, and write max instead of min"),
        (Metric { compare: None, max: Some(1.0), ..own("x") }, "prometheus.counters", "belongs to compare"),
        (selectors("hits"), "prometheus.counters", "use one of them, so that the two can be told apart"),
        (selectors("rate(hits{a=\"{{canary.hash}}\"}[1m])"), "prometheus.counters", "write a selector such as"),
    ] {
        let faults = faults(metric);
        assert!(faults.iter().any(|(at, mend)| at == field && mend.contains(message)), "{field}: {faults:?}");
    }
}
