//! The guarantee of the judge on simulated rollouts: a small edition of `make judge-study`.

#[allow(dead_code)]
#[path = "../benches/judge_study/world.rs"]
mod world;

use std::num::NonZeroU32;

use sluice::core::judge::compare::{Claim, ErrorBudget, Evidence, Method, Ratio};
use world::{Random, World};

const RUNS: u64 = 500;
const SEED: u64 = 1;
const BUDGET: f64 = 0.05;

/// How many of the rollouts are aborted.
fn aborts(world: World, method: Method) -> usize {
    let claim = Claim::Worse { tolerate: Ratio::parse(1.25).unwrap(), method };
    let threshold = ErrorBudget::parse(BUDGET).unwrap().threshold(NonZeroU32::MIN);
    let is_aborted = |run: &u64| {
        let mut evidence = Evidence::default();
        world.rollout(&mut Random::new(SEED, *run)).iter().any(|interval| {
            evidence.consume(interval, &claim);
            evidence.reaches(threshold)
        })
    };
    (0..RUNS).filter(is_aborted).count()
}

#[test]
fn good_versions_are_aborted_no_more_often_than_the_budget_says() {
    let world = World::default();
    for (name, world) in [
        ("as good as stable", world),
        ("spikes in common", World { spikes: true, ..world }),
        ("bursts of 5", World { burst: 5.0, ..world }),
        ("bursts of 20", World { burst: 20.0, ..world }),
        ("uneven pods", World { uneven: true, ..world }),
        ("few requests", World { rps: 5.0, ..world }),
        ("just tolerated", World { times: 1.25, ..world }),
    ] {
        let aborted = aborts(world, Method::SharedBetting);
        assert!(aborted as f64 <= BUDGET * RUNS as f64, "{name}: {aborted} of {RUNS} are aborted (seed {SEED})");
    }
    let aborted = aborts(world, Method::IndependentFailures);
    assert!(aborted as f64 <= BUDGET * RUNS as f64, "independent failures: {aborted} of {RUNS} are aborted (seed {SEED})");
}

#[test]
fn bad_versions_are_found() {
    let world = World::default();
    for (name, world, percent) in [
        ("five times as many failures", World { times: 5.0, ..world }, 100),
        ("twice as many", World { times: 2.0, ..world }, 95),
        ("five times as many from the middle on", World { times: 5.0, from: 30, ..world }, 99),
    ] {
        let aborted = aborts(world, Method::SharedBetting);
        assert!(aborted * 100 >= percent * RUNS as usize, "{name}: {aborted} of {RUNS} are aborted (seed {SEED})");
    }
}
