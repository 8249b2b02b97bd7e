use jiff::SignedDuration;
use proptest::prelude::*;
use serde::Deserialize;

use super::{
    latency::{Latencies, LatencyEvidence, NoCommonBounds},
    *,
};

fn arm(requests: u64, failures: u64) -> Arm {
    Arm { requests, failures }
}

fn interval(canary: (u64, u64), stable: (u64, u64)) -> Interval {
    Interval::new(arm(canary.0, canary.1), arm(stable.0, stable.1)).unwrap()
}

fn worse(tolerate: f64, method: Method) -> Claim {
    Claim::Worse { tolerate: Ratio::parse(tolerate).unwrap(), method }
}

fn not_worse(at_most: f64) -> Claim {
    Claim::NotWorse { at_most: Ratio::parse(at_most).unwrap() }
}

fn claims(ratio: f64) -> [Claim; 3] {
    [worse(ratio, Method::SharedBetting), worse(ratio, Method::IndependentFailures), not_worse(ratio)]
}

fn after(intervals: &[Interval], claim: &Claim) -> Evidence {
    let mut evidence = Evidence::default();
    intervals.iter().for_each(|interval| evidence.consume(interval, claim));
    evidence
}

fn one_in_twenty() -> Threshold {
    ErrorBudget::parse(0.05).unwrap().threshold(NonZeroU32::MIN)
}

/// What `tests/oracle/generate.py` has computed in exact fractions.
#[derive(Deserialize)]
struct Oracle {
    factors: Vec<Factors>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Factors {
    claim: String,
    ratio: f64,
    canary: (u64, u64),
    stable: (u64, u64),
    log_factors: [f64; BETS],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    claim: String,
    ratio: f64,
    intervals: Vec<((u64, u64), (u64, u64))>,
    log_e: f64,
}

fn oracle() -> Oracle {
    serde_json::from_str(include_str!("../../../../tests/oracle/judge.json")).unwrap()
}

fn claim(name: &str, ratio: f64) -> Claim {
    match name {
        "SharedBetting" => worse(ratio, Method::SharedBetting),
        "IndependentFailures" => worse(ratio, Method::IndependentFailures),
        _ => not_worse(ratio),
    }
}

#[test]
fn factors_are_those_of_the_oracle() {
    let cases = oracle().factors;
    assert!(cases.len() > 100);
    for case in cases {
        let found = claim(&case.claim, case.ratio).log_factors(&interval(case.canary, case.stable)).unwrap();
        for (found, expected) in found.into_iter().zip(case.log_factors) {
            let at = format!("{} {} {:?} {:?}", case.claim, case.ratio, case.canary, case.stable);
            assert!((found - expected).abs() <= 1e-9 * expected.abs() + 1e-12, "{at}: {found}, not {expected}");
        }
    }
}

/// The state is rounded, and only down: by at most 1e-9 for each interval.
#[test]
fn whole_runs_are_those_of_the_oracle() {
    for run in oracle().runs {
        let intervals: Vec<_> = run.intervals.iter().map(|(canary, stable)| interval(*canary, *stable)).collect();
        let found = after(&intervals, &claim(&run.claim, run.ratio)).log_e();
        let rounding = 1e-9 * (intervals.len() + 1) as f64;
        assert!(found <= run.log_e + 1e-11 && found >= run.log_e - rounding, "{} {}: {found}, not {}", run.claim, run.ratio, run.log_e);
    }
}

#[test]
fn parameters_without_a_meaning_are_refused() {
    for ratio in [0.99, 0.0, -1.0, f64::NAN, f64::INFINITY, 1000.1] {
        let error = Ratio::parse(ratio).unwrap_err().to_string();
        assert!(error.ends_with("write 1.25 for a canary that may fail a quarter more often than stable"), "{error}");
    }
    for budget in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY] {
        let error = ErrorBudget::parse(budget).unwrap_err().to_string();
        assert!(error.ends_with("write 0.05 for at most one good version in twenty"), "{error}");
    }
    assert_eq!(
        Interval::new(arm(10, 12), arm(10, 0)).unwrap_err().to_string(),
        "the canary has 12 failures of 10 requests: read both counters at the same moment"
    );
}

#[test]
fn streams_share_the_budget() {
    let budget = ErrorBudget::parse(0.05).unwrap();
    let of = |streams| budget.threshold(NonZeroU32::new(streams).unwrap()).ln();
    assert!((of(1) - 20.0_f64.ln()).abs() < 1e-12);
    assert!((of(3) - 60.0_f64.ln()).abs() < 1e-12);
}

#[test]
fn an_interval_that_compares_nothing_says_nothing() {
    for claim in claims(1.25) {
        let start = Evidence::default();
        let one_sided = after(&[interval((0, 0), (100, 50)), interval((100, 50), (0, 0))], &claim);
        assert_eq!(one_sided, start);
        let quiet = after(&[interval((100, 0), (900, 0))], &claim);
        assert_eq!(quiet.log_e(), start.log_e());
        assert_eq!(quiet.seen(), (arm(100, 0), arm(900, 0)));
        assert!(start.log_e().abs() < 1e-9 && start.log_e() <= 0.0);
    }
}

#[test]
fn a_bad_canary_is_found_and_a_good_one_is_proven() {
    let (bad, good) = (interval((150, 8), (2850, 14)), interval((1500, 8), (1500, 7)));
    for method in [Method::SharedBetting, Method::IndependentFailures] {
        assert!(after(&[bad; 5], &worse(1.25, method)).reaches(one_in_twenty()), "{method:?}");
        assert!(after(&[good; 60], &worse(1.25, method)).log_e() < 0.0, "{method:?}");
    }
    assert!(after(&[good; 30], &not_worse(1.5)).reaches(one_in_twenty()));
    assert!(after(&[bad; 60], &not_worse(1.5)).log_e() < 0.0);
    assert!(!after(&[interval((1500, 0), (1500, 0)); 60], &not_worse(1.5)).reaches(one_in_twenty()), "no failures prove nothing");
}

/// Half an hour of good looks must not make the judge blind.
#[test]
fn a_canary_that_becomes_worse_late_is_found_by_the_reserve() {
    let (good, bad) = (interval((750, 4), (2250, 11)), interval((750, 20), (2250, 11)));
    let claim = worse(1.25, Method::SharedBetting);
    let mut evidence = after(&[good; 60], &claim);
    let looks = (1..).find(|_| {
        evidence.consume(&bad, &claim);
        evidence.reaches(one_in_twenty())
    });
    assert!(looks.unwrap() <= 11, "{looks:?}");
}

#[test]
fn says_it_like_a_colleague() {
    let report = |claim, canary, stable, odds: f64, seconds| Report {
        fails: "fails",
        claim,
        canary,
        stable,
        log_e: odds.ln(),
        threshold: one_in_twenty(),
        after: SignedDuration::from_secs(seconds),
    };
    let (canary, stable) = (arm(2410, 128), arm(24_050, 312));
    let (compare, prove) = (worse(1.25, Method::SharedBetting), not_worse(1.5));
    for (report, sentence) in [
        (
            report(compare, canary, stable, 21.0, 9),
            "canary fails 4.1 times as often as stable (128 of 2,410 against 312 of 24,050); the odds against that being chance passed 1 in 20 after 9 s",
        ),
        (
            report(compare, canary, stable, 3.0, 90),
            "canary fails 4.1 times as often as stable (128 of 2,410 against 312 of 24,050); the odds against that being chance are 1 in 3 after 1 min 30 s, and 1 in 20 is needed",
        ),
        (
            report(compare, arm(2410, 31), stable, 0.2, 120),
            "canary fails 0.99 times as often as stable (31 of 2,410 against 312 of 24,050); after 2 min there is no evidence that it is more than 1.25 times",
        ),
        (
            report(compare, arm(340, 12), arm(3000, 0), 2e9, 30),
            "canary fails in 12 of 340 requests, stable in 0 of 3,000; the odds against that being chance passed 1 in 20 after 30 s",
        ),
        (
            report(prove, arm(1500, 8), arm(1500, 7), 25.0, 300),
            "canary fails 1.14 times as often as stable (8 of 1,500 against 7 of 1,500); the odds against it being 1.5 times or more passed 1 in 20 after 5 min",
        ),
        (
            report(prove, arm(1500, 8), arm(1500, 7), 1.0, 300),
            "canary fails 1.14 times as often as stable (8 of 1,500 against 7 of 1,500); after 5 min there is no evidence that it is less than 1.5 times",
        ),
        (
            report(worse(2.25, Method::SharedBetting), arm(2410, 31), stable, 0.2, 120),
            "canary fails 0.99 times as often as stable (31 of 2,410 against 312 of 24,050); after 2 min there is no evidence that it is more than 2.25 times",
        ),
        (report(compare, arm(0, 0), arm(0, 0), 1.0, 0), "there is no interval yet in which both versions had requests"),
    ] {
        assert_eq!(report.to_string(), sentence);
    }
    let slower = Report { fails: "is slower than 250 ms", ..report(compare, arm(340, 34), arm(3000, 30), 30.0, 60) };
    assert!(slower.to_string().starts_with("canary is slower than 250 ms 10 times as often as stable (34 of 340"), "{slower}");
}

fn latencies(buckets: &[(f64, u64)]) -> Latencies {
    Latencies::new(buckets).unwrap()
}

#[test]
fn a_slow_canary_is_found_at_the_bound_that_it_passes() {
    let stable = latencies(&[(0.1, 1400), (0.5, 2840), (1.0, 2848), (f64::INFINITY, 2850)]);
    let canary = latencies(&[(0.1, 70), (0.5, 130), (1.0, 150), (f64::INFINITY, 150)]);
    let (mut evidence, claim) = (LatencyEvidence::default(), worse(1.25, Method::SharedBetting));
    for _ in 0..6 {
        evidence.consume(&canary, &stable, &claim).unwrap();
    }
    assert!(evidence.reaches(one_in_twenty()), "{}", evidence.log_e());
    let strongest = evidence.strongest().unwrap();
    assert_eq!((strongest.le, strongest.evidence.seen()), (0.5, (arm(900, 120), arm(17_100, 60))));
}

#[test]
fn bounds_that_come_are_left_out_and_those_that_go_keep_what_they_have() {
    let both = latencies(&[(0.1, 70), (0.5, 130), (f64::INFINITY, 150)]);
    let changed = latencies(&[(0.25, 90), (0.5, 100), (f64::INFINITY, 150)]);
    let (mut evidence, claim) = (LatencyEvidence::default(), worse(1.25, Method::SharedBetting));
    assert_eq!(evidence.log_e(), 0.0);
    evidence.consume(&both, &both, &claim).unwrap();
    evidence.consume(&changed, &both, &claim).unwrap();
    let seen = |at: usize| serde_json::to_value(&evidence).unwrap()["bounds"][at]["evidence"]["canary"]["requests"].clone();
    assert_eq!((seen(0), seen(1), seen(2)), (150.into(), 300.into(), serde_json::Value::Null));
    let other = latencies(&[(0.3, 90), (f64::INFINITY, 150)]);
    assert_eq!(evidence.clone().consume(&other, &both, &claim), Err(NoCommonBounds));
    assert_eq!(LatencyEvidence::default().consume(&other, &both, &claim), Err(NoCommonBounds));
}

#[test]
fn histograms_are_bounded_and_must_be_whole() {
    assert!(Latencies::new(&[(0.1, 5)]).unwrap_err().to_string().contains("+Inf"));
    assert!(Latencies::new(&[(f64::INFINITY, 5)]).is_err() && Latencies::new(&[(f64::NAN, 5)]).is_err() && Latencies::new(&[]).is_err());
    let mut fine: Vec<(f64, u64)> = (1..=300).map(|le| (f64::from(le), 10)).collect();
    fine.push((f64::INFINITY, 20));
    let (mut evidence, fine) = (LatencyEvidence::default(), latencies(&fine));
    evidence.consume(&fine, &fine, &worse(1.25, Method::SharedBetting)).unwrap();
    let bounds = serde_json::to_value(&evidence).unwrap()["bounds"].as_array().unwrap().len();
    assert!((16..=32).contains(&bounds), "{bounds}");
}

/// Logarithms of factorials, by addition.
fn log_choose(n: u64, k: u64) -> f64 {
    (0..k).map(|i| ((n - i) as f64 / (i + 1) as f64).ln()).sum()
}

/// Failures of canary and stable in an interval, and how probable they are.
type Outcomes = Vec<(u64, u64, f64)>;

/// All splits of so many failures, when failures are independent and the canary's odds are `odds` times stable's.
fn fisher(n: u64, m: u64, failures: u64, odds: f64) -> Outcomes {
    let splits = failures.saturating_sub(m)..=failures.min(n);
    let weight = |x: u64| (log_choose(n, x) + log_choose(m, failures - x) + x as f64 * odds.ln()).exp();
    let total: f64 = splits.clone().map(weight).sum();
    splits.map(|x| (x, failures - x, weight(x) / total)).collect()
}

fn binomial(n: u64, x: u64, p: f64) -> f64 {
    (log_choose(n, x) + x as f64 * p.ln() + (n - x) as f64 * (1.0 - p).ln()).exp()
}

/// All splits of so many failures, when they are independent and rare; the canary's share of them is expected to be `share`.
fn rare(failures: u64, share: f64) -> Outcomes {
    (0..=failures).map(|x| (x, failures - x, binomial(failures, x, share))).collect()
}

/// All failures of an interval have one cause: either version has all of them.
fn one_cause(failures: u64, share: f64) -> Outcomes {
    vec![(0, failures, 1.0 - share), (failures, 0, share)]
}

/// Whatever may happen when each request fails on its own, at these rates.
fn independent(n: u64, m: u64, canary: f64, stable: f64) -> Outcomes {
    (0..=n).flat_map(|x| (0..=m).map(move |y| (x, y, binomial(n, x, canary) * binomial(m, y, stable)))).collect()
}

/// The wealth that is expected after one more interval, over the wealth before it.
fn expected_gain(history: &[Interval], (n, m): (u64, u64), outcomes: &Outcomes, claim: &Claim) -> f64 {
    let before = after(history, claim);
    let gain = |x: u64, y: u64| {
        let mut after = before.clone();
        after.consume(&interval((n, x), (m, y)), claim);
        (after.log_e() - before.log_e()).exp()
    };
    outcomes.iter().map(|(x, y, probability)| probability * gain(*x, *y)).sum()
}

fn any_interval() -> impl Strategy<Value = Interval> {
    let arm = (0..2000_u64, 0.0..0.1_f64).prop_map(|(requests, rate)| (requests, (requests as f64 * rate) as u64));
    (arm.clone(), arm).prop_map(|(canary, stable)| interval(canary, stable))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The guarantee itself: whatever was before, no interval is expected to bring evidence for a claim that is false, at its boundary and within.
    #[test]
    fn no_bet_gains_on_average_while_the_claim_is_false(
        history in prop::collection::vec(any_interval(), 0..4),
        (n, m) in (30..200_u64, 30..200_u64),
        failures in 1..30_u64,
        ratio in 1.0..4.0_f64,
        within in 0.2..=1.0_f64,
    ) {
        let [bets, likelihood, prove] = claims(ratio);
        let fair = |odds: f64| odds * n as f64 / (odds * n as f64 + m as f64);
        let gain = |claim: &Claim, outcomes: Outcomes| expected_gain(&history, (n, m), &outcomes, claim);
        for odds in [ratio, ratio * within] {
            prop_assert!(gain(&bets, rare(failures, fair(odds))) <= 1.0 + 1e-9);
            prop_assert!(gain(&bets, one_cause(failures, fair(odds))) <= 1.0 + 1e-9);
            prop_assert!(gain(&bets, fisher(n, m, failures, odds)) <= 1.0 + 1e-9);
            prop_assert!(gain(&likelihood, fisher(n, m, failures, odds)) <= 1.0 + 1e-9);
        }
        for odds in [ratio, ratio / within] {
            prop_assert!(gain(&prove, rare(failures, fair(odds))) <= 1.0 + 1e-9);
            prop_assert!(gain(&prove, one_cause(failures, fair(odds))) <= 1.0 + 1e-9);
        }
    }

    /// The same for `prove` when failures are not rare.
    #[test]
    fn a_worse_canary_is_not_proven_to_be_good_on_average(
        history in prop::collection::vec(any_interval(), 0..4),
        (n, m) in (1..15_u64, 1..15_u64),
        ratio in 1.0..4.0_f64,
        (within, canary) in (0.2..=1.0_f64, 0.001..0.999_f64),
    ) {
        let outcomes = independent(n, m, canary, canary * within / ratio);
        prop_assert!(expected_gain(&history, (n, m), &outcomes, &not_worse(ratio)) <= 1.0 + 1e-9);
    }

    /// A restart between any two intervals changes nothing.
    #[test]
    fn what_is_read_back_is_what_was_written(intervals in prop::collection::vec(any_interval(), 1..20), cut in 0..20_usize, ratio in 1.0..4.0_f64) {
        for claim in claims(ratio) {
            let (first, second) = intervals.split_at(cut.min(intervals.len()));
            let saved = serde_json::to_string(&after(first, &claim)).unwrap();
            let mut restored: Evidence = serde_json::from_str(&saved).unwrap();
            second.iter().for_each(|interval| restored.consume(interval, &claim));
            let whole = after(&intervals, &claim);
            prop_assert_eq!(restored.log_e().to_bits(), whole.log_e().to_bits());
            prop_assert_eq!(restored, whole);
        }
    }

    /// What is there from the start gains the same in any order; only what the reserve adds depends on when things happened.
    #[test]
    fn the_order_matters_to_the_reserve_alone(intervals in prop::collection::vec(any_interval(), 1..20).prop_shuffle(), ratio in 1.0..4.0_f64) {
        for claim in claims(ratio) {
            let gains = intervals.iter().filter_map(|interval| claim.log_factors(interval));
            let start = gains.fold([0.7_f64.ln(); BETS], |sum, gain| std::array::from_fn(|bet| sum[bet] + gain[bet]));
            let least = start.map(f64::exp).iter().sum::<f64>() / BETS as f64;
            let found = after(&intervals, &claim).log_e().exp();
            prop_assert!(found >= least * (1.0 - 1e-7), "{found} {least}");
        }
    }

    #[test]
    fn a_worse_canary_is_more_evidence_that_it_is_worse(
        history in prop::collection::vec(any_interval(), 0..4),
        (n, m) in (1..500_u64, 1..500_u64),
        (x, y) in (0.0..1.0_f64, 0.0..1.0_f64),
        ratio in 1.0..4.0_f64,
    ) {
        let (x, y) = ((x * n as f64) as u64, (y * m as f64) as u64);
        prop_assume!(x < n && y > 0);
        let with = |x, y, claim: &Claim| {
            let mut evidence = after(&history, claim);
            evidence.consume(&interval((n, x), (m, y)), claim);
            evidence.log_e()
        };
        let [bets, independent, prove] = claims(ratio);
        for claim in [bets, independent] {
            prop_assert!(with(x + 1, y - 1, &claim) >= with(x, y, &claim) - 1e-8, "a failure moves to the canary");
        }
        prop_assert!(with(x + 1, y, &bets) >= with(x, y, &bets) - 1e-8);
        prop_assert!(with(x, y - 1, &bets) >= with(x, y, &bets) - 1e-8 || x + y == 1);
        prop_assert!(with(x + 1, y, &prove) <= with(x, y, &prove) + 1e-8);
    }

    /// Whatever was counted, and whatever a status holds.
    #[test]
    fn any_counts_are_a_number(
        counts in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..6),
        small in 0..64_u32,
        log_wealth in prop::array::uniform6(prop::num::f64::NORMAL),
        intervals in any::<u64>(),
        ratio in 1.0..=1000.0_f64,
    ) {
        let state = serde_json::json!({
            "logWealth": log_wealth, "intervals": intervals, "canary": {"requests": intervals, "failures": 0}, "stable": {"requests": 0, "failures": 0},
        });
        let restored: Evidence = serde_json::from_value(state).unwrap();
        for claim in claims(ratio) {
            for mut evidence in [Evidence::default(), restored.clone()] {
                for (a, b, c, d) in &counts {
                    let [a, b, c, d] = [a, b, c, d].map(|count| count >> small);
                    evidence.consume(&interval((a.max(b), a.min(b)), (c.max(d), c.min(d))), &claim);
                    prop_assert!(evidence.log_e().is_finite(), "{evidence:?}");
                }
            }
        }
    }
}
