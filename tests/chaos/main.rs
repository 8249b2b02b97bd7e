//! Random runs: a seed decides the world, what people and tools do in it, and what goes wrong. Every write is held against the promises
//! while it runs, and the state against them in the end.
//!
//! `SLUICE_SEEDS=n` tries so many seeds, `SLUICE_SEED_START=m` begins with that one. A seed that fails is shown as the smallest part of
//! its scenario that still fails, with what happened. `SLUICE_SEED=n` (`make sim SEED=n`) replays one, whether it fails or not.
//!
//! A new thing that may happen is an [`scenario::Act`], with how often it does; a new promise a function of `sim::promises` (at every
//! write) or of [`ends`] (in the end).
#![cfg(feature = "sim")]

mod ends;
mod play;
mod random;
mod scenario;
mod shrink;
mod timeline;
mod world;

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use scenario::Scenario;

/// A random run makes and drops JSON, and little else.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn whatever_happens_the_promises_hold() {
    if let Some(seed) = std::env::var("SLUICE_SEED").ok().and_then(|text| text.parse().ok()) {
        return tell(seed);
    }
    let start = number("SLUICE_SEED_START", 1);
    let end = start + number("SLUICE_SEEDS", 16);
    let next = AtomicU64::new(start);
    std::panic::set_hook(Box::new(|_| {})); // a scenario that fails tells so itself
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failed = vec![];
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return failed;
                }
                failed.extend(try_seed(seed));
            }
        };
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|worker| worker.join().expect("workers do not panic")).collect()
    });
    drop(std::panic::take_hook());
    assert!(failed.is_empty(), "{} of {} seeds failed\n{}", failed.len(), end - start, failed.join("\n"));
}

/// Replays one seed, as `make sim` does.
fn tell(seed: u64) {
    let scenario = Scenario::of(seed);
    println!("seed {seed}: {:?}\n", scenario.setup);
    let told = play::told(&scenario);
    println!("{}\n", told.timeline.join("\n"));
    assert!(told.why.is_empty(), "{}", told.why.join("\n"));
}

/// How it failed, if it did.
fn try_seed(seed: u64) -> Option<String> {
    let scenario = Scenario::of(seed);
    let failure = play::play(&scenario).err()?;
    let _ = writeln!(std::io::stderr(), "seed {seed} fails: {}", failure.why[0]); // at once: to find the smallest part takes a while
    let (smallest, failure) = shrink::shrink(&scenario, failure);
    let lines = |lines: &[String]| lines.join("\n  ");
    Some(format!(
        "seed {seed}\n  {}\n{:?}\nevents (kept in the end: {})\n  {}\ntimeline\n  {}\n",
        lines(&failure.why),
        smallest.setup,
        smallest.kept,
        lines(&smallest.events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>()),
        lines(&failure.timeline),
    ))
}
