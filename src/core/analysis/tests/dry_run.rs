use super::*;

fn dry(name: &str) -> Metric {
    Metric { dry_run: true, ..metric(name) }
}

fn step(metrics: &[Metric]) -> AnalysisRunSpec {
    AnalysisRunSpec { step: Some(0), ..run(metrics) }
}

/// Both metrics are measured at each of their times: the first, and the dry run.
fn both(spec: &AnalysisRunSpec, looks: impl IntoIterator<Item = (Measured, Measured)>) -> AnalysisRunStatus {
    let mut status = start(spec, true, at(0));
    for (first, second) in looks {
        let Some(now) = next_wake(spec, &status, at(0)) else { break };
        let measured = due(spec, &status, now).into_iter().map(|index| (index, if index == 0 { first.clone() } else { second.clone() }));
        status = record(spec, status.clone(), measured.collect(), now);
    }
    status
}

#[test]
fn says_what_it_would_have_said_and_decides_nothing() {
    let spec = step(&[metric("x"), dry("y")]);
    for (measured, would) in [
        (value(1.0), RunPhase::Failed),
        (value(100.0), RunPhase::Passed),
        // It would have waited: the run does not.
        (none(), RunPhase::Cancelled),
        (error(), RunPhase::Cancelled),
    ] {
        let status = both(&spec, [(value(100.0), measured)]);
        assert_eq!(status.phase, RunPhase::Passed, "{}", status.message);
        let results: Vec<_> = status.metric_results.iter().map(|result| (result.phase, result.dry_run)).collect();
        assert_eq!(results, [(RunPhase::Passed, false), (would, true)]);
        assert!(status.message.contains("y (dry run): "), "{}", status.message);
    }
    let failed = both(&spec, [(value(1.0), value(100.0))]);
    assert_eq!((failed.phase, failed.message.as_str()), (RunPhase::Failed, "x: 1 is below the minimum of 99"));
}

#[test]
fn of_nothing_else_a_step_passes_once_it_is_shown() {
    let spec = step(&[Metric { count: Some(3), ..dry("y") }]);
    let status = life(&spec, [none(), error()]);
    assert_eq!(status.phase, RunPhase::Running, "it is still to be shown");
    assert_eq!(life(&spec, [none(), error(), none()]).phase, RunPhase::Passed, "but holds nobody for longer than it takes");
    assert_eq!(life(&spec, [value(1.0)]).metric_results[0].phase, RunPhase::Failed);
}

#[test]
fn holds_no_weight_and_no_promotion() {
    let spec = run(&[metric("x"), dry("y")]);
    for bad in [value(1.0), none(), error()] {
        let status = both(&spec, vec![(value(100.0), bad); 6]);
        assert_eq!(status.phase, RunPhase::Running, "{}", status.message);
        assert_eq!((evidence_since(&spec, &status, at(0)), closed(&spec, &status, at(180))), (Ok(()), Ok(())));
    }
    let alone = run(&[dry("y")]);
    let status = start(&alone, true, at(0));
    assert_eq!((evidence_since(&alone, &status, at(0)), closed(&alone, &status, at(999))), (Ok(()), Ok(())));
}

#[test]
fn is_not_even_a_reason_not_to_start() {
    let nobody = |metric: Metric| start(&run(&[metric]), false, at(0)).phase;
    assert_eq!((nobody(metric("x")), nobody(dry("x"))), (RunPhase::Inconclusive, RunPhase::Running));
}

proptest! {
    /// Whatever a dry run finds: the run says what it would have said without it.
    #[test]
    fn changes_nothing(kinds in prop::collection::vec((0..5_usize, 0..5_usize), 0..20), count in prop::option::of(1..4)) {
        let found = |kind: usize| [value(100.0), value(1.0), none(), error(), value(99.5)][kind].clone();
        let first = Metric { count, failure_limit: Some(1), ..metric("x") };
        let (with, without) = (run(&[first.clone(), dry("y")]), run(&[first]));
        let with = both(&with, kinds.iter().map(|(x, y)| (found(*x), found(*y))));
        let without = both(&without, kinds.iter().map(|(x, _)| (found(*x), none())));
        prop_assert_eq!(&with.metric_results[0].measurements, &without.metric_results[0].measurements);
        prop_assert_eq!(with.metric_results[0].phase, without.metric_results[0].phase);
        let decided = |status: &AnalysisRunStatus| [RunPhase::Failed, RunPhase::Inconclusive].contains(&status.phase);
        prop_assert_eq!(decided(&with), decided(&without));
    }
}
