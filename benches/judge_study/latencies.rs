//! The study of latencies: half of the requests take less than 100 ms, and the histogram has the bounds that Prometheus' clients come with.

use std::num::NonZeroU32;

use sluice::core::judge::compare::{
    ErrorBudget, Method as Compare,
    latency::{Latencies, LatencyEvidence},
};

use super::{
    Ends, in_parallel,
    judges::worse,
    power,
    world::{LOOKS, Random, World},
};

const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const MEDIAN: f64 = 0.1;
/// Spread of the logarithm: one request in ten takes more than twice the median.
const SPREAD: f64 = 0.55;

/// Part of the canary's requests that are slower, and how many times.
type Slower = (f64, f64);

pub fn table(runs: u64, seed: u64) {
    println!("\nLatencies, 100 requests/s, {runs} rollouts for each row:\n\n| the canary | aborted, median look |\n|---|---|");
    for (name, slower) in [
        ("as fast as stable", (0.0, 1.0)),
        ("all requests 20 % slower", (1.0, 1.2)),
        ("all requests 50 % slower", (1.0, 1.5)),
        ("2 % of the requests ten times slower", (0.02, 10.0)),
    ] {
        let ends: Ends = in_parallel(runs, |run| aborts(slower, &mut Random::new(seed, run)));
        println!("| {name} | {} |", power(&ends));
    }
}

fn aborts(slower: Slower, random: &mut Random) -> Option<usize> {
    let threshold = ErrorBudget::parse(0.05).expect("a budget").threshold(NonZeroU32::MIN);
    let (world, claim, mut evidence) = (World::default(), worse(Compare::SharedBetting), LatencyEvidence::default());
    (0..LOOKS)
        .find(|look| {
            let [canary, stable] = world.requests(*look, random);
            let (canary, stable) = (histogram(canary, slower, random), histogram(stable, (0.0, 1.0), random));
            evidence.consume(&canary, &stable, &claim).expect("the same bounds");
            evidence.reaches(threshold)
        })
        .map(|look| look + 1)
}

fn histogram(requests: f64, slower: Slower, random: &mut Random) -> Latencies {
    let (mut count, mut before) = (0.0, 0.0);
    let mut bucket = |bound: f64| {
        let within = (1.0 - slower.0) * within(bound) + slower.0 * within(bound / slower.1);
        count += random.poisson(requests * (within - before));
        before = within;
        (bound, count as u64)
    };
    let mut buckets = BOUNDS.map(&mut bucket).to_vec();
    buckets.push(bucket(f64::INFINITY));
    Latencies::new(&buckets).expect("a histogram")
}

/// Share of requests that take at most `bound` (a logarithmic logistic distribution).
fn within(bound: f64) -> f64 {
    1.0 / (1.0 + (-(bound / MEDIAN).ln() * 1.7 / SPREAD).exp())
}
