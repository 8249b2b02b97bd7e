//! How long the judge takes for one look at one stream. Goal: under 5 µs for bets on the share.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sluice::core::judge::compare::{Arm, Claim, Evidence, Interval, Method, Ratio};

fn looks(c: &mut Criterion) {
    let (canary, stable) = (Arm { requests: 750, failures: 9 }, Arm { requests: 2250, failures: 11 });
    let interval = Interval::new(canary, stable).expect("an interval");
    for method in [Method::SharedBetting, Method::IndependentFailures] {
        let claim = Claim::Worse { tolerate: Ratio::parse(1.25).expect("a ratio"), method };
        let look = |mut evidence: Evidence| {
            evidence.consume(black_box(&interval), &claim);
            evidence.log_e()
        };
        c.bench_function(&format!("one look, {method:?}"), |b| b.iter_batched(Evidence::default, look, BatchSize::SmallInput));
    }
}

criterion_group!(benches, looks);
criterion_main!(benches);
