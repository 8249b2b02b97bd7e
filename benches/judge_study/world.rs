//! Simulated traffic of a canary and of stable: 60 looks, 30 s apart, at 5, 10, 25 and 50 % of the requests, 15 looks each.

use sluice::core::judge::compare::{Arm, Interval};
pub use sluice::sim::random::Random;

pub const LOOKS: usize = 60;
const SECONDS: f64 = 30.0;
const WEIGHTS: [f64; 4] = [0.05, 0.10, 0.25, 0.50];
/// Share of requests that fail, before drift.
const BASE: f64 = 0.005;

/// A kind of traffic, and how much worse the canary is in it.
#[derive(Clone, Copy)]
pub struct World {
    /// Requests per second, both versions together; each look has up to 30 % more or less.
    pub rps: f64,
    /// The canary fails so many times as often as stable,
    pub times: f64,
    /// from this look on.
    pub from: usize,
    /// In one look of twenty, both versions fail ten times as often.
    pub spikes: bool,
    /// So many failures come together.
    pub burst: f64,
    /// In each look, one pod in ten fails 11 times as often as the others. Stable has ten pods, the canary as many as its weight needs.
    pub uneven: bool,
}

impl Default for World {
    fn default() -> Self {
        Self { rps: 100.0, times: 1.0, from: 0, spikes: false, burst: 1.0, uneven: false }
    }
}

/// Part of the requests that the canary gets at a look.
pub fn weight(look: usize) -> f64 {
    WEIGHTS[look * WEIGHTS.len() / LOOKS]
}

impl World {
    /// One rollout: the rate of failures drifts by about 10 % from look to look.
    pub fn rollout(&self, random: &mut Random) -> Vec<Interval> {
        let mut drift = 0.0_f64;
        (0..LOOKS)
            .map(|look| {
                drift = (drift + 0.1 * random.normal()).clamp(-1.5, 1.5);
                self.look(look, drift.exp(), random)
            })
            .collect()
    }

    /// One look, at `drift` times the usual rate of failures.
    pub fn look(&self, look: usize, drift: f64, random: &mut Random) -> Interval {
        let spike = if self.spikes && random.uniform() < 0.05 { 10.0 } else { 1.0 };
        let rate = BASE * drift * spike;
        let times = if look >= self.from { self.times } else { 1.0 };
        let [canary, stable] = self.requests(look, random);
        let pods = (10.0 * weight(look) / (1.0 - weight(look))).ceil();
        let canary = self.arm(canary, rate * times, pods, random);
        let stable = self.arm(stable, rate, 10.0, random);
        Interval::new(canary, stable).expect("no more failures than requests")
    }

    /// Failures with causes of their own that both versions have at a look, on average, without drift.
    pub fn causes(&self, look: usize) -> f64 {
        let spikes = if self.spikes { 1.0 + 0.05 * 9.0 } else { 1.0 };
        self.rps * SECONDS * BASE * spikes * (self.times * weight(look) + 1.0 - weight(look)) / self.burst
    }

    /// Requests of canary and stable at a look.
    pub fn requests(&self, look: usize, random: &mut Random) -> [f64; 2] {
        let all = self.rps * SECONDS * (0.7 + 0.6 * random.uniform());
        let canary = (all * weight(look) * (0.9 + 0.2 * random.uniform())).round().max(1.0);
        [canary, (all - canary).round()]
    }

    fn arm(&self, requests: f64, rate: f64, pods: f64, random: &mut Random) -> Arm {
        let mean = requests * rate.min(1.0);
        let failures = match self.uneven {
            true => (0..pods as usize).map(|_| self.failures(mean / pods * if random.uniform() < 0.1 { 5.5 } else { 0.5 }, random)).sum(),
            false => self.failures(mean, random),
        };
        Arm { requests: requests as u64, failures: failures.min(requests) as u64 }
    }

    fn failures(&self, mean: f64, random: &mut Random) -> f64 {
        self.burst * random.poisson(mean / self.burst)
    }
}
