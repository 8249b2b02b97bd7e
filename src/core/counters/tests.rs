use proptest::prelude::*;

use super::*;

fn counters(counts: &[(&str, f64)]) -> Counters {
    counts.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect()
}

fn sources(all: &[(&str, &[(&str, f64)])]) -> BTreeMap<String, Counters> {
    all.iter().map(|(name, counts)| ((*name).to_owned(), counters(counts))).collect()
}

#[test]
fn what_was_counted_lies_between_two_readings() {
    let before = sources(&[("a", &[("n", 90.0), ("d", 100.0)]), ("gone", &[("n", 5.0), ("d", 5.0)])]);
    let after = sources(&[("a", &[("n", 95.0), ("d", 110.0)]), ("new", &[("n", 3.0), ("d", 4.0)])]);
    assert_eq!(increase(&before, &after), counters(&[("n", 8.0), ("d", 14.0)]));
}

#[test]
fn who_starts_again_counts_from_zero_with_all_counters() {
    let before = sources(&[("a", &[("n", 5.0), ("d", 100.0)])]);
    let after = sources(&[("a", &[("n", 7.0), ("d", 10.0)])]);
    assert_eq!(increase(&before, &after), counters(&[("n", 7.0), ("d", 10.0)]), "n went on by more than it had before");
}

proptest! {
    /// However pods restart, come and go: what is counted is what was served since the last reading, by those that still are there.
    #[test]
    fn increases_are_what_was_served(pods in prop::collection::vec((0..500_u32, 0..500_u32, prop::bool::ANY, prop::bool::ANY), 0..6)) {
        let (mut before, mut after, mut served) = (BTreeMap::new(), BTreeMap::new(), 0.0);
        for (at, (old, new, restarted, known)) in pods.into_iter().enumerate() {
            let restarted = restarted && new < old; // else nobody can tell
            let count = if restarted || !known { new } else { old + new };
            if known {
                before.insert(at.to_string(), counters(&[("d", f64::from(old))]));
            }
            after.insert(at.to_string(), counters(&[("d", f64::from(count))]));
            served += f64::from(new);
        }
        prop_assert_eq!(increase(&before, &after).get("d").copied().unwrap_or(0.0), served);
    }
}

fn ratio_of() -> What {
    What::Ratio { numerator: Default::default(), denominator: Default::default() }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn look(numerator: Numerator, canary: &[(&str, f64)], stable: &[(&str, f64)]) -> Result<Look, ProviderError> {
    let both = [Some(counters(canary)), Some(counters(stable))];
    Look::new((Some(at(0)), at(30)), (&ratio_of(), numerator), both)
}

const STABLE: [(&str, f64); 2] = [(NUMERATOR, 900.0), (DENOMINATOR, 910.0)];

#[test]
fn failures_are_what_is_selected_or_the_rest() {
    let counted = |numerator| look(numerator, &[(NUMERATOR, 90.0), (DENOMINATOR, 100.0)], &STABLE).unwrap();
    let successes = counted(Numerator::Successes);
    assert_eq!(successes.canary, Some(Counted::Requests(Arm { requests: 100, failures: 10 })));
    assert_eq!(successes.stable, Some(Counted::Requests(Arm { requests: 910, failures: 10 })));
    assert_eq!(successes.sample(&ratio_of(), Numerator::Successes).unwrap().values, [90.0]);
    let failures = counted(Numerator::Failures);
    assert_eq!(failures.canary, Some(Counted::Requests(Arm { requests: 100, failures: 90 })));
    assert_eq!(failures.sample(&ratio_of(), Numerator::Failures).unwrap(), Sample { samples: Some(100.0), ..Sample::of(90.0) });
}

#[test]
fn what_no_counter_can_say_is_an_error() {
    for (canary, message) in [
        ([(NUMERATOR, 1.0), (DENOMINATOR, 10.5)], "10.5 is no number of requests"),
        ([(NUMERATOR, -1.0), (DENOMINATOR, 10.0)], "-1 is no number of requests"),
        ([(NUMERATOR, 1.0), (DENOMINATOR, f64::NAN)], "NaN is no number of requests"),
        ([(NUMERATOR, 1.0), (DENOMINATOR, f64::INFINITY)], "inf is no number of requests"),
        ([(NUMERATOR, 1.0), (DENOMINATOR, 1e16)], "10000000000000000 is no number of requests"),
        ([(NUMERATOR, 11.0), (DENOMINATOR, 10.0)], "the numerator counts 11 of 10 requests"),
    ] {
        let error = look(Numerator::Failures, &canary, &STABLE).unwrap_err();
        assert!(error.kind == ErrorKind::Malformed && error.message.starts_with(message), "{error}");
    }
}

#[test]
fn a_numerator_that_neither_version_has_may_be_misspelt() {
    let none = [(DENOMINATOR, 100.0)];
    assert!(look(Numerator::Failures, &none, &none).unwrap().caveat.is_some());
    assert_eq!(look(Numerator::Failures, &none, &STABLE).unwrap().caveat, None, "stable has it, so its name is right");
}

#[test]
fn only_sources_that_were_read_before_are_known() {
    let before = sources(&[("a", &[("d", 100.0)]), ("gone", &[("d", 5.0)])]);
    let after = sources(&[("a", &[("d", 110.0)]), ("new", &[("d", 4000.0)])]);
    assert_eq!(known_increase(&before, &after), Some(counters(&[("d", 10.0)])));
    assert_eq!(known_increase(&sources(&[("gone", &[("d", 5.0)])]), &after), None);
    let empty = sources(&[("a", &[])]);
    assert_eq!(known_increase(&empty, &after), Some(counters(&[("d", 110.0)])), "it was read, and had not counted yet");
}

fn series(samples: &[(f64, f64)]) -> Series {
    Series { labels: [("job", "api"), ("instance", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(), samples: samples.to_vec() }
}

#[test]
fn a_series_is_counted_from_edge_to_edge() {
    let unknown = BTreeSet::new();
    for (what, samples, known, expected) in [
        ("grows", &[(90.0, 5.0), (105.0, 7.0), (120.0, 12.0), (135.0, 20.0)][..], false, Some(7.0)),
        ("rests", &[(90.0, 5.0), (105.0, 5.0)], false, Some(0.0)),
        ("restarts twice", &[(95.0, 100.0), (105.0, 3.0), (110.0, 8.0), (120.0, 2.0)], false, Some(10.0)),
        ("vanishes", &[(95.0, 100.0), (105.0, 103.0)], false, Some(3.0)),
        ("has vanished", &[(95.0, 100.0)], false, Some(0.0)),
        ("is new", &[(105.0, 500.0), (120.0, 503.0)], false, Some(3.0)),
        ("is new in a process that was there", &[(105.0, 1.0), (120.0, 4.0)], true, Some(4.0)),
        ("comes later", &[(135.0, 4.0)], false, None),
    ] {
        let series = series(samples);
        let known = if known { BTreeSet::from([series.process()]) } else { unknown.clone() };
        assert_eq!(series.increase(100.0, 120.0, &known), expected, "{what}");
    }
    assert_eq!(processes(&[series(&[(100.0, 1.0)])], 100.0), [("api".to_owned(), "a".to_owned())].into());
    assert_eq!(processes(&[series(&[(101.0, 1.0)])], 100.0), BTreeSet::new());
}

proptest! {
    /// Whatever the edges: each request is in exactly one interval, also those before and after a restart.
    #[test]
    fn no_request_is_counted_twice_or_lost(steps in prop::collection::vec((0..50_u32, prop::bool::weighted(0.1)), 2..40), edges in prop::collection::vec(0..400_u32, 1..12)) {
        let (mut value, mut counted, mut samples) = (0_u32, 0_u32, vec![(0.0, 0.0)]);
        for (at, (more, restarts)) in steps.iter().enumerate() {
            let next = if *restarts && *more < value { *more } else { value + *more };
            (value, counted) = (next, counted + *more);
            samples.push((10.0 * (at + 1) as f64, f64::from(value)));
        }
        let mut edges: Vec<f64> = edges.into_iter().map(f64::from).chain([0.0, 400.0]).collect();
        edges.sort_by(f64::total_cmp);
        let (series, nobody) = (series(&samples), BTreeSet::new());
        let sum: f64 = edges.windows(2).map(|edge| series.increase(edge[0], edge[1], &nobody).unwrap()).sum();
        prop_assert_eq!(sum, f64::from(counted));
    }
}
