//! How long one plan takes: of a Rollout in mid-canary, and of one at rest. Goal: under 50 µs.

#[allow(dead_code)]
#[path = "../tests/rollouts/shop.rs"]
mod shop;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shop::{NS, Shop};
use sluice::core;

fn plans(c: &mut Criterion) {
    let mut shop = Shop::open();
    let mut bench = |name: &str, shop: &Shop| {
        let observed = shop.drive.observed(NS, "api").expect("a Rollout");
        let (settings, now) = (&shop.drive.settings, shop.drive.now);
        c.bench_function(name, |b| b.iter(|| core::plan(black_box(&observed), settings, now)));
    };
    bench("at rest", &shop);
    shop.deploy("app:v2");
    shop.until("at 50 %", |s| s.phase() == "Paused" && s.weight() == 50.0);
    bench("mid-canary", &shop);
}

criterion_group!(benches, plans);
criterion_main!(benches);
