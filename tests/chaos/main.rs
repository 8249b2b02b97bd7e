//! Random runs: a seed decides the world, what people and tools do in it, and what goes wrong. Every write is held against the promises
//! while it runs, and the state against them in the end.
//!
//! `SLUICE_SEEDS=n` tries so many seeds, `SLUICE_SEED_START=m` begins with that one (`make sim SEEDS=n SEED_START=m`). A seed that fails is
//! shown as the smallest part of its scenario that still fails, with what happened. `SLUICE_SEED=n` (`make sim SEED=n`) replays one,
//! whether it fails or not.
//!
//! A new thing that may happen is an [`scenario::Act`], with how often it does; a new promise a function of `sim::promises` (at every
//! write) or of [`ends`] (in the end).
#![cfg(feature = "sim")]

mod ends;
mod play;
mod random;
mod scenario;
mod shrink;
mod tally;
mod timeline;
mod world;

use std::{
    io::Write,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use play::Failure;
use scenario::Scenario;
use tally::{Progress, Tally};

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
    let many = Many {
        start: number("SLUICE_SEED_START", 1),
        count: number("SLUICE_SEEDS", 100),
        begun: Instant::now(),
        next: AtomicU64::new(0),
        failed: Mutex::new(vec![]),
    };
    std::panic::set_hook(Box::new(|_| {})); // a scenario that fails tells so itself
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..workers).map(|_| scope.spawn(|| many.work())).collect();
        running.into_iter().for_each(|worker| tally.merge(worker.join().expect("workers do not panic")));
    });
    drop(std::panic::take_hook());
    println!("\n{}", tally.told(many.begun.elapsed()));
    let failed = many.failed.into_inner().expect("workers do not panic");
    assert!(failed.is_empty(), "{} of {} seeds failed\n{}", failed.len(), many.count, failed.join("\n"));
}

/// Runs of many seeds, one after the other on each processor.
struct Many {
    start: u64,
    count: u64,
    begun: Instant,
    next: AtomicU64,
    /// How seeds failed.
    failed: Mutex<Vec<String>>,
}

/// Seeds between two lines that say how far it is.
const PROGRESS: u64 = 1000;
/// Failures whose smallest scenario is looked for; that takes a while.
const SHRUNK: usize = 5;

impl Many {
    fn work(&self) -> Tally {
        let mut tally = Tally::default();
        loop {
            let done = self.next.fetch_add(1, Ordering::Relaxed);
            if done >= self.count {
                return tally;
            }
            if done > 0 && done.is_multiple_of(PROGRESS) {
                let failed = self.failed.lock().expect("workers do not panic").len();
                say(&Progress { done, of: self.count, failed, took: self.begun.elapsed() });
            }
            self.try_seed(self.start + done, &mut tally);
        }
    }

    fn try_seed(&self, seed: u64, tally: &mut Tally) {
        let scenario = Scenario::of(seed);
        let (world, why) = play::played(&scenario);
        tally.note(&world);
        if why.is_empty() {
            return;
        }
        say(&format!("seed {seed} fails: {}", why[0]));
        let nth = {
            let mut failed = self.failed.lock().expect("workers do not panic");
            failed.push(format!("seed {seed}: {}", why[0]));
            failed.len()
        };
        if nth <= SHRUNK {
            let told = smallest(&scenario, Failure { why, timeline: timeline::of(&world) });
            self.failed.lock().expect("workers do not panic")[nth - 1] = told;
        }
    }
}

/// Past what catches the output of tests: whoever waits wants to know.
fn say(what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// Replays one seed, as `make sim` does.
fn tell(seed: u64) {
    let scenario = Scenario::of(seed);
    println!("seed {seed}: {:?}\n", scenario.setup);
    let told = play::told(&scenario);
    println!("{}\n", told.timeline.join("\n"));
    assert!(told.why.is_empty(), "{}", told.why.join("\n"));
}

/// The smallest part of a scenario that fails, and how.
fn smallest(scenario: &Scenario, failure: Failure) -> String {
    let (smallest, failure) = shrink::shrink(scenario, failure);
    let lines = |lines: &[String]| lines.join("\n  ");
    format!(
        "seed {}\n  {}\n{:?}\nevents (kept in the end: {})\n  {}\ntimeline\n  {}\n",
        scenario.seed,
        lines(&failure.why),
        smallest.setup,
        smallest.kept,
        lines(&smallest.events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>()),
        lines(&failure.timeline),
    )
}
