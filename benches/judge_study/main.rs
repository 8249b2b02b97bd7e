//! How often a good canary is aborted and how soon a bad one is found, by the judges of Sluice and by others: `make judge-study`.
//! Prints the tables of `docs/judge.md`. RUNS (10,000) is the number of simulated rollouts for each row, SEED (1) where they begin.

mod judges;
mod latencies;
mod world;

use std::thread;

use judges::Method;
use world::{LOOKS, Random, World};

/// What became of some rollouts: at which look each was aborted.
pub type Ends = Vec<Option<usize>>;

fn main() {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (runs, seed) = (number("RUNS", 10_000), number("SEED", 1));
    println!("{runs} rollouts for each row, seed {seed}. tolerate 1.25, maxFalseAborts 0.05, {LOOKS} looks.\n");
    let world = World::default();
    println!("Good versions that were aborted (and the upper end of the 95 % interval):\n");
    table(&GOOD.map(|(name, change)| (name, change(world))), runs, seed, &Method::ALL[..6], false_aborts);
    println!("\nBad versions that were aborted, and the median look at which they were:\n");
    table(&BAD.map(|(name, change)| (name, change(world))), runs, seed, &Method::ALL, power);
    latencies::table(runs / 10, seed);
    proofs(runs / 10, seed);
}

type Change = fn(World) -> World;

const GOOD: [(&str, Change); 9] = [
    ("as good as stable", |w| w),
    ("as good, spikes in common", |w| World { spikes: true, ..w }),
    ("as good, bursts of 5", |w| World { burst: 5.0, ..w }),
    ("as good, bursts of 20", |w| World { burst: 20.0, ..w }),
    ("as good, uneven pods", |w| World { uneven: true, ..w }),
    ("as good, 5 requests/s", |w| World { rps: 5.0, ..w }),
    ("as good, 1,000 requests/s", |w| World { rps: 1000.0, ..w }),
    ("x1.25: just tolerated", |w| World { times: 1.25, ..w }),
    ("x1.25, bursts of 5", |w| World { times: 1.25, burst: 5.0, ..w }),
];

const BAD: [(&str, Change); 14] = [
    ("x1.5", |w| World { times: 1.5, ..w }),
    ("x2", |w| World { times: 2.0, ..w }),
    ("x2, spikes in common", |w| World { times: 2.0, spikes: true, ..w }),
    ("x2, bursts of 5", |w| World { times: 2.0, burst: 5.0, ..w }),
    ("x2, 20 requests/s", |w| World { times: 2.0, rps: 20.0, ..w }),
    ("x2, 1,000 requests/s", |w| World { times: 2.0, rps: 1000.0, ..w }),
    ("x5", |w| World { times: 5.0, ..w }),
    ("x5, bursts of 20", |w| World { times: 5.0, burst: 20.0, ..w }),
    ("x5, 5 requests/s", |w| World { times: 5.0, rps: 5.0, ..w }),
    ("x5, 20 requests/s", |w| World { times: 5.0, rps: 20.0, ..w }),
    ("x10", |w| World { times: 10.0, ..w }),
    ("x2 from look 31 on", |w| World { times: 2.0, from: 30, ..w }),
    ("x5 from look 31 on", |w| World { times: 5.0, from: 30, ..w }),
    ("x10 from look 46 on", |w| World { times: 10.0, from: 45, ..w }),
];

fn table(worlds: &[(&str, World)], runs: u64, seed: u64, methods: &[Method], cell: fn(&Ends) -> String) {
    println!("| | {} |", methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(methods.len()));
    for (name, world) in worlds {
        let ends = in_parallel(runs, |run| {
            let rollout = world.rollout(&mut Random::new(seed, run));
            methods.iter().map(|method| method.aborts(&rollout, world)).collect::<Vec<_>>()
        });
        let cells = (0..methods.len()).map(|at| cell(&ends.iter().map(|ends| ends[at]).collect()));
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

/// For steps that `prove` may end early: a canary as good as stable at 50 %.
fn proofs(runs: u64, seed: u64) {
    println!("\n`prove`, a canary as good as stable at 50 % of the requests: proven within 60 looks, and the median look:\n");
    println!("| requests/s | atMost 1.5 | atMost 2 | atMost 3 |\n|---|---|---|---|");
    for rps in [20.0, 100.0, 1000.0] {
        let cell = |at_most: f64| {
            let world = World { rps, ..World::default() };
            power(&in_parallel(runs, |run| judges::proven(&mut Random::new(seed, run), &world, at_most)))
        };
        println!("| {rps} | {} |", [1.5, 2.0, 3.0].map(cell).join(" | "));
    }
}

/// Uses all cores.
pub fn in_parallel<T: Send>(runs: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
    thread::scope(|scope| {
        let run = &run;
        let parts: Vec<_> =
            (0..cores).map(|core| scope.spawn(move || (core..runs).step_by(cores as usize).map(run).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().expect("a thread ends")).collect()
    })
}

fn false_aborts(ends: &Ends) -> String {
    let (runs, aborts) = (ends.len() as f64, ends.iter().flatten().count() as f64);
    // Wilson's interval.
    let (share, z2) = (aborts / runs, 1.96_f64.powi(2));
    let upper = (share + z2 / (2.0 * runs) + (z2 * (share * (1.0 - share) + z2 / (4.0 * runs)) / runs).sqrt()) / (1.0 + z2 / runs);
    format!("{:.2} % (≤ {:.2})", 100.0 * share, 100.0 * upper)
}

/// The median over all rollouts: one that was not aborted comes after all others.
pub fn power(ends: &Ends) -> String {
    let mut looks: Vec<usize> = ends.iter().map(|end| end.unwrap_or(usize::MAX)).collect();
    looks.sort_unstable();
    let found = 100.0 * ends.iter().flatten().count() as f64 / ends.len().max(1) as f64;
    match looks.get(looks.len() / 2) {
        Some(median) if *median <= LOOKS => format!("{found:.1} %, look {median}"),
        _ => format!("{found:.1} %"),
    }
}
