use serde_json::{Value, json};

use super::*;
use asked::asked;

fn at(seconds: f64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::try_from_secs_f64(1_000_000.0 + seconds).unwrap()
}

fn metric(more: &Value) -> Metric {
    let mut metric = json!({"name": "m"});
    metric.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(metric).unwrap()
}

/// Clients of which half reach the canary, whose answers all fail. What is measured is this metric.
fn clients(metric: &Metric) -> Clients {
    let asked = asked(metric, &BTreeMap::new(), true).unwrap();
    let plan = Plan {
        rps: 100.0,
        stable: Quality { error_rate: 0.0, latency: 80.0 },
        canary: Quality { error_rate: 1.0, latency: 800.0 },
        together: 1,
        metrics: BTreeMap::from([((None, "m".to_owned()), asked)]),
        longest: SignedDuration::from_secs(60),
    };
    let mut clients = Clients::new(plan, Random::new(1, 1), at(0.0));
    clients.flow(Shares { stable: 0.5, canary: 0.5 }, at(0.0));
    clients
}

fn spec(metric: &Metric) -> AnalysisRunSpec {
    let spec = json!({"rollout": "api", "canaryHash": "b", "stableHash": "a", "metrics": [metric]});
    serde_json::from_value(spec).unwrap()
}

/// What a metric says at these moments, one after the other.
fn measured(metric: &Metric, clients: &mut Clients, moments: &[f64]) -> Vec<Measured> {
    let spec = spec(metric);
    let mut status = analysis::start(&spec, true, at(0.0));
    let mut measure = |moment: &f64| {
        let measured = clients.measured(&spec, &status, metric, at(*moment));
        status.metric_results[0].last_reading = measured.reading.clone().or(status.metric_results[0].last_reading.take());
        measured
    };
    moments.iter().map(&mut measure).collect()
}

fn sample(measured: &Measured) -> Sample {
    measured.result.clone().unwrap().unwrap()
}

#[test]
fn requests_go_where_the_shares_say_and_every_moment_counts_once() {
    let metric = metric(&json!({"preset": "contour/success-rate", "min": 99}));
    let mut clients = clients(&metric);
    clients.flow(Shares { stable: 1.0, canary: 0.0 }, at(20.25));
    clients.flow(clients.shares(), at(1000.5));
    let Tallies { stable, canary } = *clients.tallies();
    assert!((canary.requests as f64 - 1012.0).abs() < 100.0, "{canary:?}");
    assert!((stable.requests as f64 - 99_037.0).abs() < 1000.0, "{stable:?}");
    assert_eq!((canary.failures, stable.failures), (canary.requests, 0));
    assert!((clients.exposure().as_secs_f64() - 10.125).abs() < 1e-6);
    clients.flow(Shares::default(), at(1000.5));
    clients.flow(Shares::default(), at(2000.0));
    assert_eq!(*clients.tallies(), Tallies { stable, canary }, "nobody is reached");
}

#[test]
fn failures_that_come_together_are_as_many() {
    let metric = metric(&json!({"preset": "contour/success-rate", "min": 99}));
    let failures = |together: u32| {
        let mut clients = clients(&metric);
        (clients.plan.together, clients.plan.canary.error_rate) = (together, 0.02);
        let counted = (1..=1000).map(|second| {
            let before = clients.tallies().canary.failures;
            clients.flow(clients.shares(), at(f64::from(second)));
            clients.tallies().canary.failures - before
        });
        counted.collect::<Vec<u64>>()
    };
    let (alone, together) = (failures(1), failures(10));
    for counted in [&alone, &together] {
        assert!((700..1300).contains(&counted.iter().sum::<u64>()), "a fiftieth of 50,000: {counted:?}");
    }
    assert!(together.iter().all(|failures| failures % 10 == 0) && alone.iter().any(|failures| failures % 10 != 0));
}

#[test]
fn a_window_holds_what_came_in_it() {
    let metric = metric(&json!({"preset": "contour/success-rate", "min": 99, "interval": "10s"}));
    let mut clients = clients(&metric);
    let first = sample(&measured(&metric, &mut clients, &[10.0])[0]);
    assert_eq!((first.values, first.samples), (vec![0.0], Some(clients.tallies().canary.requests as f64)));
    clients.flow(Shares { stable: 1.0, canary: 0.0 }, at(10.0));
    let later = sample(&measured(&metric, &mut clients, &[25.0])[0]);
    assert!(later.values[0].is_nan() && later.samples == Some(0.0), "{later:?}");
}

#[test]
fn a_rate_is_read_for_each_second() {
    let of = |function: &str, denominator: &str| {
        let query = |code: &str| format!("sum({function}(hits{{service=\"{{{{canary.service}}}}\"{code}}}[20s]))");
        let ratio = json!({"numerator": query(",code=~\"5..\""), "denominator": query(denominator)});
        metric(&json!({"prometheus": {"ratio": ratio}, "max": 1}))
    };
    let increase = of("increase", "");
    let counted = sample(&measured(&increase, &mut clients(&increase), &[30.0])[0]);
    let rate = of("rate", "");
    let read = sample(&measured(&rate, &mut clients(&rate), &[30.0])[0]);
    assert_eq!((&counted.values, &read.values), (&vec![100.0], &vec![100.0]));
    assert_eq!(read.samples.unwrap() * 20.0, counted.samples.unwrap());
    assert!((counted.samples.unwrap() - 1000.0).abs() < 150.0, "20 s of 50 requests/s: {counted:?}");
}

#[test]
fn readings_of_pods_begin_with_the_first() {
    let metric = metric(&json!({"preset": "pods/success-rate", "scrape": {}, "min": 99}));
    let mut clients = clients(&metric);
    let found = measured(&metric, &mut clients, &[5.0, 15.0]);
    assert_eq!(found[0].result, Ok(None));
    assert_eq!(found[1].since, Some(at(5.0)));
    let samples = sample(&found[1]).samples.unwrap();
    assert!((samples - 500.0).abs() < 100.0, "10 s of 50 requests/s: {samples}");
}

#[test]
fn both_versions_are_counted_between_the_same_edges() {
    for (more, lag) in [(json!({"preset": "contour/success-rate"}), 5.0), (json!({"preset": "pods/success-rate", "scrape": {}}), 0.0)] {
        let mut more = more;
        more["compare"] = json!({});
        let metric = metric(&more);
        let mut clients = clients(&metric);
        let looks: Vec<Look> = measured(&metric, &mut clients, &[10.0, 40.0, 70.0]).into_iter().map(|found| found.look.unwrap()).collect();
        assert_eq!(looks[0].since, None);
        assert_eq!((looks[1].since, looks[1].until), (Some(at(10.0 - lag)), at(40.0 - lag)));
        assert_eq!(looks[2].since, Some(looks[1].until), "no gap and no overlap");
        let Some(Counted::Requests(canary)) = &looks[2].canary else { panic!("{looks:?}") };
        let Some(Counted::Requests(stable)) = &looks[2].stable else { panic!("{looks:?}") };
        assert!(canary.requests.abs_diff(1500) < 200 && canary.failures == canary.requests && stable.failures == 0, "{looks:?}");
    }
}

#[test]
fn latencies_are_in_the_unit_of_the_histogram() {
    let histogram = r#"answer_seconds{service="{{canary.service}}"}"#;
    let query = format!("histogram_quantile(0.5, sum by (le) (rate({}[30s])))", histogram.replace("seconds{", "seconds_bucket{"));
    for (more, expected) in [
        (json!({"preset": "contour/latency", "parameters": {"quantile": "0.5"}, "max": 1}), 800.0),
        (json!({"preset": "pods/latency", "parameters": {"quantile": "0.5"}, "max": 1}), 800.0),
        (json!({"preset": "pods/latency", "parameters": {"quantile": "0.5", "unit": "ms"}, "max": 1}), 800.0),
        (json!({"prometheus": {"query": query}, "max": 1}), 0.8),
        (json!({"prometheus": {"query": format!("1000 * {query}")}, "max": 1}), 800.0),
        (json!({"scrape": {"quantile": {"histogram": histogram, "quantile": 0.5}}, "max": 1}), 0.8),
    ] {
        let metric = metric(&more);
        let found = measured(&metric, &mut clients(&metric), &[0.0, 60.0]);
        let value = sample(&found[1]).values[0];
        // As exact as the bounds are: 500 and 1,000 ms are neighbours.
        assert!((0.85..1.15).contains(&(value / expected)), "{more}: {value}");
    }
    let compared = metric(&json!({"preset": "pods/latency", "compare": {}}));
    let found = measured(&compared, &mut clients(&compared), &[0.0, 60.0]);
    let Some(Counted::Latencies(canary)) = found[1].look.as_ref().and_then(|look| look.canary.clone()) else { panic!("{found:?}") };
    assert_eq!(canary.buckets().iter().map(|(le, _)| *le).take(3).collect::<Vec<_>>(), [0.005, 0.01, 0.025]);
}
