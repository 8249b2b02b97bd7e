use proptest::prelude::*;

use super::*;
use crate::api::analysis::{Preset, PrometheusProvider};

fn surroundings() -> Surroundings {
    Surroundings { prometheus: true, scope: crate::core::query::Scope { traffic: true, ..Default::default() } }
}

fn rate() -> Metric {
    Metric { name: "success-rate".into(), preset: Some(Preset::ContourSuccessRate), min: Some(99.0), ..Metric::default() }
}

fn plain() -> Metric {
    let prometheus = PrometheusProvider { query: Some("x".into()), ..PrometheusProvider::default() };
    Metric { name: "x".into(), prometheus: Some(prometheus), ..Metric::default() }
}

fn of(metric: &Metric, values: &[f64], samples: Option<f64>) -> Judged {
    judge(metric, &surroundings(), &Sample { values: values.to_vec(), samples, caveat: None })
}

#[test]
fn says_it_like_a_colleague() {
    let latency = Metric { preset: Some(Preset::ContourLatency), min: None, max: Some(250.0), ..rate() };
    let range = Metric { min: Some(1.0), max: Some(2.0), ..plain() };
    let cel = Metric { success_condition: Some("result < 5".into()), failure_condition: Some("result > 10".into()), ..plain() };
    for (metric, values, samples, verdict, message) in [
        (&rate(), &[97.4][..], Some(2310.0), Verdict::Fail, "97.4 % is below the minimum of 99 % (2,310 requests)"),
        (&rate(), &[99.0], Some(100.0), Verdict::Pass, "99 % is at least 99 % (100 requests)"),
        (&rate(), &[98.9999], Some(1e6), Verdict::Fail, "98.9999 % is below the minimum of 99 % (1,000,000 requests)"),
        (&rate(), &[0.0], Some(99.4), Verdict::NoData, "only 99 requests in the window, at least 100 are needed (minSamples)"),
        (&rate(), &[f64::NAN], Some(500.0), Verdict::NoData, "the value is NaN (no data)"),
        (&rate(), &[100.0], Some(f64::NAN), Verdict::NoData, "the number of requests is NaN: that is no number of requests"),
        (&latency, &[251.5], Some(5000.0), Verdict::Fail, "251.5 ms is above the maximum of 250 ms (5,000 requests)"),
        (&range, &[1.5], None, Verdict::Pass, "1.5 is between 1 and 2"),
        (&range, &[1.5, 3.0, f64::NAN], None, Verdict::Fail, "3 is above the maximum of 2"),
        (&range, &[1.5, f64::NAN], None, Verdict::NoData, "1 of 2 values are NaN (no data)"),
        (&range, &[f64::INFINITY], None, Verdict::NoData, "the value is infinite"),
        (&range, &[], None, Verdict::NoData, "the answer is empty: no series matches"),
        (&cel, &[4.0], None, Verdict::Pass, "4 is a success: result < 5"),
        (&cel, &[7.0], None, Verdict::Inconclusive, "7 is neither a success (result < 5) nor a failure (result > 10)"),
        (&cel, &[11.0], None, Verdict::Fail, "11 is a failure: result > 10"),
        (&cel, &[f64::NAN], None, Verdict::NoData, "the value is NaN (no data)"),
    ] {
        let judged = of(metric, values, samples);
        assert_eq!((judged.verdict, judged.message.as_str()), (verdict, message));
    }
    assert_eq!(of(&range, &[], None).limit, "between 1 and 2");
    assert_eq!(of(&latency, &[7.0], Some(1e3)).value.unwrap(), "7 ms");
}

#[test]
fn one_condition_alone_decides_both_ways() {
    let success = Metric { success_condition: Some("result < 5".into()), ..plain() };
    let failure = Metric { failure_condition: Some("result > 10".into()), ..plain() };
    assert_eq!(of(&success, &[7.0], None).verdict, Verdict::Fail);
    assert_eq!(of(&failure, &[7.0], None).verdict, Verdict::Pass);
}

#[test]
fn an_expression_that_errors_is_inconclusive_with_the_reason() {
    let metric = Metric { success_condition: Some("result[3] > 1.0".into()), ..plain() };
    let judged = of(&metric, &[1.0, 2.0], None);
    assert_eq!(judged.verdict, Verdict::Inconclusive);
    assert!(judged.message.starts_with("successCondition cannot be evaluated: "), "{}", judged.message);
}

#[test]
fn a_caveat_keeps_a_pass_back_but_not_a_fail() {
    let caveat = |value| Sample { values: vec![value], samples: Some(500.0), caveat: Some("the numerator has no series".into()) };
    let judged = judge(&rate(), &surroundings(), &caveat(100.0));
    assert_eq!((judged.verdict, judged.message.as_str()), (Verdict::NoData, "the numerator has no series"));
    assert_eq!(judge(&rate(), &surroundings(), &caveat(0.0)).verdict, Verdict::Fail);
}

#[test]
fn min_samples_is_the_users_to_set_but_zero_requests_never_pass() {
    let metric = Metric { min_samples: Some(0), ..rate() };
    assert_eq!(of(&metric, &[100.0], Some(1.0)).verdict, Verdict::Pass);
    assert_eq!(of(&metric, &[100.0], Some(0.0)).verdict, Verdict::NoData);
}

#[test]
fn a_metric_that_is_not_valid_cannot_be_judged() {
    let judged = of(&Metric { min: None, ..rate() }, &[100.0], Some(500.0));
    assert_eq!(judged.verdict, Verdict::Inconclusive);
    assert!(judged.message.contains("needs one judge"), "{}", judged.message);
}

proptest! {
    /// S8: only finite numbers within the limits, from enough requests, without a caveat, pass.
    #[test]
    fn a_pass_has_evidence(
        values in prop::collection::vec(prop_oneof![4 => 90.0..110.0_f64, 1 => prop::num::f64::ANY], 0..4),
        samples in prop_oneof![Just(None), (0.0..300.0_f64).prop_map(Some), prop::num::f64::ANY.prop_map(Some)],
        caveat in prop::option::weighted(0.2, Just("caveat".to_owned())),
    ) {
        let judged = judge(&rate(), &surroundings(), &Sample { values: values.clone(), samples, caveat: caveat.clone() });
        let evidence = !values.is_empty() && values.iter().all(|value| value.is_finite() && *value >= 99.0) && samples.is_none_or(|samples| samples.is_finite() && samples >= 99.5) && caveat.is_none();
        prop_assert_eq!(judged.verdict == Verdict::Pass, evidence, "{:?}", judged);
    }
}
