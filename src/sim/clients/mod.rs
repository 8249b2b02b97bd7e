//! Clients of an app: their requests come by chance, reach the version whose turn it is, and fail as often as that version fails. Metrics
//! are answered from what was counted.

pub mod asked;
pub mod latency;
pub mod promql;

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::random::Random;
use crate::{
    api::{AnalysisRunSpec, AnalysisRunStatus, Metric, run::Reading},
    core::{
        analysis::{self, DEFAULT_INTERVAL, ErrorKind, Measured, ProviderError},
        counters::{Counted, Look, quantile_sample, ratio},
        judge::{
            Sample,
            compare::{Arm, latency::Latencies},
        },
    },
};
use asked::{Asked, Histogram, Read};
use latency::{BOUNDS, BUCKETS};

/// Prometheus is asked about a moment so long before now.
const BEHIND: SignedDuration = SignedDuration::from_secs(5);

/// How one version answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// The share of its answers that fail, 0 to 1.
    pub error_rate: f64,
    /// Half of its answers take less, in milliseconds.
    pub latency: f64,
}

/// What the clients do, and what metrics there are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Requests per second, on average.
    pub rps: f64,
    pub stable: Quality,
    pub canary: Quality,
    /// So many failures come together, for one cause.
    pub together: u32,
    /// By the index of the analysis' step (none: the background) and the metric's name.
    pub metrics: BTreeMap<(Option<i32>, String), Asked>,
    /// How far back they look, at most.
    pub longest: SignedDuration,
}

/// Which part of the requests reaches which version. What is missing to 1 reaches nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    pub stable: f64,
    pub canary: f64,
}

/// What one version was asked, and how it answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    pub requests: u64,
    pub failures: u64,
    /// Requests by how long they took.
    buckets: [u64; BUCKETS],
}

/// Both versions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tallies {
    pub stable: Tally,
    pub canary: Tally,
}

#[derive(Clone)]
pub struct Clients {
    plan: Plan,
    random: Random,
    now: Timestamp,
    shares: Shares,
    tallies: Tallies,
    /// What was counted up to each whole second, as far back as any metric looks.
    history: VecDeque<(i64, Tallies)>,
    remembered: usize,
    /// Seconds, each as much as its share of the requests went to the canary.
    exposure: f64,
    latencies: bool,
}

impl Clients {
    pub fn new(plan: Plan, random: Random, now: Timestamp) -> Self {
        let latencies = plan.metrics.values().any(|asked| matches!(asked, Asked::Quantile { .. }));
        let remembered = usize::try_from(plan.longest.as_secs()).unwrap_or(usize::MAX).saturating_add(60);
        Self {
            plan,
            random,
            now,
            shares: Shares { stable: 1.0, canary: 0.0 },
            tallies: Tallies::default(),
            history: VecDeque::new(),
            remembered,
            exposure: 0.0,
            latencies,
        }
    }

    pub fn tallies(&self) -> &Tallies {
        &self.tallies
    }

    pub fn shares(&self) -> Shares {
        self.shares
    }

    /// For how long as much as all traffic went to the canary.
    pub fn exposure(&self) -> SignedDuration {
        SignedDuration::try_from_secs_f64(self.exposure).unwrap_or(SignedDuration::MAX)
    }

    /// From now on requests go to the versions in these shares.
    pub fn flow(&mut self, shares: Shares, now: Timestamp) {
        self.advance(now);
        self.shares = shares;
    }

    /// Requests up to a moment.
    fn advance(&mut self, now: Timestamp) {
        while self.now < now {
            let second = Timestamp::from_second(self.now.as_second() + 1).unwrap_or(Timestamp::MAX);
            let next = second.min(now);
            let seconds = next.duration_since(self.now).as_secs_f64();
            self.exposure += seconds * self.shares.canary;
            self.draw(seconds);
            self.now = next;
            if next == second {
                self.history.push_back((second.as_second(), self.tallies));
                let surplus = self.history.len().saturating_sub(self.remembered.max(1));
                self.history.drain(..surplus);
            }
        }
    }

    fn draw(&mut self, seconds: f64) {
        let Self { plan, random, shares, tallies, latencies, .. } = self;
        let both = [(&mut tallies.stable, shares.stable, plan.stable), (&mut tallies.canary, shares.canary, plan.canary)];
        for (tally, share, quality) in both {
            if share <= 0.0 {
                continue;
            }
            let requests = random.poisson(plan.rps * share * seconds) as u64;
            tally.requests += requests;
            tally.failures += match plan.together {
                0 | 1 => random.binomial(requests, quality.error_rate),
                together => {
                    let causes = random.poisson(requests as f64 * quality.error_rate / f64::from(together));
                    (causes as u64).saturating_mul(u64::from(together)).min(requests)
                }
            };
            if !*latencies {
                continue;
            }
            let mut left = requests;
            for (bucket, chance) in tally.buckets.iter_mut().zip(latency::chances(quality.latency)) {
                let hit = random.binomial(left, chance);
                *bucket += hit;
                left -= hit;
            }
        }
    }

    /// What was counted up to the last whole second before a moment.
    fn at(&self, moment: Timestamp) -> Tallies {
        let second = moment.as_second();
        let known = self.history.iter().rev().find(|(at, _)| *at <= second);
        known.map(|(_, tallies)| *tallies).unwrap_or_default()
    }

    /// What was counted between two moments.
    fn between(&self, since: Timestamp, until: Timestamp) -> Tallies {
        let (before, after) = (self.at(since), self.at(until));
        Tallies { stable: after.stable.minus(&before.stable), canary: after.canary.minus(&before.canary) }
    }
}

impl Tally {
    fn minus(&self, before: &Self) -> Self {
        let mut buckets = self.buckets;
        buckets.iter_mut().zip(before.buckets).for_each(|(bucket, before)| *bucket -= before);
        Self { requests: self.requests - before.requests, failures: self.failures - before.failures, buckets }
    }

    /// The cumulative buckets of a histogram, in its own unit.
    fn within(&self, Histogram { unit, bounds: (least, most) }: Histogram) -> Vec<(f64, u64)> {
        let mut sum = 0;
        let mut within = Vec::with_capacity(BUCKETS);
        for (bound, count) in BOUNDS.into_iter().zip(self.buckets) {
            sum += count;
            if (least..=most).contains(&bound) {
                within.push((bound / unit, sum));
            }
        }
        within.push((f64::INFINITY, self.requests));
        within
    }
}

impl Clients {
    /// What a metric of a run says now.
    pub fn measured(&mut self, spec: &AnalysisRunSpec, status: &AnalysisRunStatus, metric: &Metric, now: Timestamp) -> Measured {
        self.advance(now);
        let asked = self.plan.metrics.get(&(spec.step, metric.name.clone())).cloned().unwrap_or(Asked::Nothing);
        let previous = analysis::result(status, metric).and_then(|result| result.last_reading.as_ref()).map(|reading| reading.at.0);
        let nothing = Measured { queries: vec![], result: Ok(None), since: None, reading: None, look: None };
        let (Asked::Share { read, .. } | Asked::Quantile { read, .. }) = &asked else {
            let sample = if let Asked::Assumed(value) = asked { Sample::of(value) } else { Sample::default() };
            return Measured { result: Ok(Some(sample)), ..nothing };
        };
        let interval = metric.interval.as_ref().map_or(DEFAULT_INTERVAL, |interval| interval.get());
        match read {
            Read::Window { counted, samples } => {
                let (window, rate) = match counted {
                    asked::Counted::Interval => (interval, false),
                    asked::Counted::Query(counter) => (counter.window, counter.rate),
                };
                let tally = self.between(now - window, now).canary;
                let sample = asked.sample(&tally).map(|sample| Sample {
                    samples: sample.samples.filter(|_| *samples).map(|n| if rate { n / window.as_secs_f64() } else { n }),
                    ..sample
                });
                Measured { result: sample.map(Some), since: Some(now - window), ..nothing }
            }
            Read::Edges { behind } => {
                let reading = Some(Reading { at: MicroTime(now), counters: BTreeMap::new(), stable: BTreeMap::new() });
                let lag = if *behind { BEHIND } else { SignedDuration::ZERO };
                let (since, until) = (previous.map(|at| at - lag), now - lag);
                let tallies = since.map(|since| self.between(since, until));
                if metric.compare.is_none() {
                    let sample = tallies.map(|tallies| asked.sample(&tallies.canary)).transpose();
                    return Measured { result: sample, since, reading, ..nothing };
                }
                match asked.look(since, until, tallies) {
                    Ok(look) => Measured { since, reading, look: Some(look), ..nothing },
                    Err(error) => Measured { result: Err(error), ..nothing },
                }
            }
        }
    }
}

impl Asked {
    /// The canary's number.
    fn sample(&self, tally: &Tally) -> Result<Sample, ProviderError> {
        match *self {
            Asked::Share { .. } if tally.requests == 0 => Ok(Sample { samples: Some(0.0), ..Sample::of(f64::NAN) }),
            Asked::Share { successes, times, .. } => {
                let wanted = if successes { tally.requests - tally.failures } else { tally.failures };
                let sample = ratio(Some(wanted as f64), Some(tally.requests as f64), "");
                Ok(Sample { values: sample.values.iter().map(|percent| percent * times / 100.0).collect(), ..sample })
            }
            Asked::Quantile { quantile, times, histogram, .. } => {
                let buckets: Vec<_> = tally.within(histogram).into_iter().map(|(le, count)| (le, count as f64)).collect();
                quantile_sample(quantile, times, &buckets)
            }
            Asked::Assumed(_) | Asked::Nothing => Ok(Sample::default()),
        }
    }

    fn look(&self, since: Option<Timestamp>, until: Timestamp, tallies: Option<Tallies>) -> Result<Look, ProviderError> {
        let counted = |tally: &Tally| match *self {
            Asked::Quantile { histogram, .. } => {
                let latencies = Latencies::new(&tally.within(histogram));
                latencies.map(Counted::Latencies).map_err(|error| ErrorKind::Malformed.error(error.to_string()))
            }
            _ => Ok(Counted::Requests(Arm { requests: tally.requests, failures: tally.failures })),
        };
        let canary = tallies.as_ref().map(|tallies| counted(&tallies.canary)).transpose()?;
        let stable = tallies.as_ref().map(|tallies| counted(&tallies.stable)).transpose()?;
        Ok(Look { since, until, canary, stable, caveat: None })
    }
}

#[cfg(test)]
mod tests;
