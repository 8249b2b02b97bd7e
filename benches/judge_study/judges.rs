//! Ways to judge a rollout, those of Sluice and others.

use std::num::NonZeroU32;

use sluice::core::judge::compare::{Arm, Claim, ErrorBudget, Evidence, Interval, Method as Compare, Ratio, Threshold};

use super::world::{LOOKS, Random, World, weight};

const TOLERATE: f64 = 1.25;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    SharedBetting,
    IndependentFailures,
    /// SharedBetting without a reserve.
    NoReserve,
    /// Bets of constant parts of the wealth, without a reserve: the usual form.
    ConstantBets,
    /// One-sided two-sample z-test of all so far, at each look.
    ZTest,
    /// The canary fails more than 1 % of its requests, three looks in a row.
    FixedLimit,
    /// What no judge can beat on average: Wald's expected time for a test that knows how much worse the canary is, and that failures are independent.
    Wald,
}

impl Method {
    pub const ALL: [Self; 7] =
        [Self::SharedBetting, Self::NoReserve, Self::ConstantBets, Self::IndependentFailures, Self::ZTest, Self::FixedLimit, Self::Wald];

    pub fn name(self) -> &'static str {
        match self {
            Self::SharedBetting => "**SharedBetting**",
            Self::IndependentFailures => "IndependentFailures",
            Self::NoReserve => "without reserve",
            Self::ConstantBets => "constant bets",
            Self::ZTest => "z-test at every look",
            Self::FixedLimit => "> 1 %, 3 in a row",
            Self::Wald => "Wald's bound",
        }
    }

    /// The look, from 1, at which the rollout is aborted.
    pub fn aborts(self, rollout: &[Interval], world: &World) -> Option<usize> {
        match self {
            Self::SharedBetting => first(rollout, compare(Compare::SharedBetting)),
            Self::IndependentFailures => first(rollout, compare(Compare::IndependentFailures)),
            Self::NoReserve => first(
                rollout,
                bets(|bet, fair| {
                    let stake = 5.0 * f64::from(1 << bet);
                    stake * fair / (1.0 + stake * fair)
                }),
            ),
            Self::ConstantBets => first(rollout, bets(|bet, _| [0.02, 0.05, 0.1, 0.2, 0.4, 0.8][bet])),
            Self::ZTest => first(rollout, z_test()),
            Self::FixedLimit => first(rollout, fixed_limit()),
            Self::Wald => wald(world),
        }
    }
}

fn first(rollout: &[Interval], is_bad: impl FnMut(&Interval) -> bool) -> Option<usize> {
    rollout.iter().position(is_bad).map(|look| look + 1)
}

pub fn threshold() -> Threshold {
    ErrorBudget::parse(0.05).expect("a budget").threshold(NonZeroU32::MIN)
}

pub fn worse(method: Compare) -> Claim {
    Claim::Worse { tolerate: Ratio::parse(TOLERATE).expect("a ratio"), method }
}

fn compare(method: Compare) -> impl FnMut(&Interval) -> bool {
    let (claim, threshold, mut evidence) = (worse(method), threshold(), Evidence::default());
    move |interval| {
        evidence.consume(interval, &claim);
        evidence.reaches(threshold)
    }
}

/// The look at which it is proven that a canary at 50 %, as good as stable, is at most so much worse.
pub fn proven(random: &mut Random, world: &World, at_most: f64) -> Option<usize> {
    let claim = Claim::NotWorse { at_most: Ratio::parse(at_most).expect("a ratio") };
    let mut evidence = Evidence::default();
    (0..LOOKS)
        .position(|_| {
            evidence.consume(&world.look(LOOKS - 1, 1.0, random), &claim);
            evidence.reaches(threshold())
        })
        .map(|look| look + 1)
}

/// Six bets; `part` says which part of its wealth a bet puts in, when so much is the canary's fair share of the failures.
fn bets(part: impl Fn(usize, f64) -> f64) -> impl FnMut(&Interval) -> bool {
    let mut wealth = [1.0; 6];
    move |interval| {
        let (canary, stable) = (interval.canary(), interval.stable());
        let expected = TOLERATE * canary.requests as f64;
        let fair = expected / (expected + stable.requests as f64);
        let failures = (canary.failures + stable.failures) as f64;
        if failures > 0.0 {
            let gain = canary.failures as f64 / failures / fair - 1.0;
            wealth.iter_mut().enumerate().for_each(|(bet, wealth)| *wealth *= 1.0 + part(bet, fair) * gain);
        }
        wealth.iter().sum::<f64>() / 6.0 >= 20.0
    }
}

fn z_test() -> impl FnMut(&Interval) -> bool {
    let (mut canary, mut stable) = (Arm::default(), Arm::default());
    let add = |sum: &mut Arm, arm: Arm| *sum = Arm { requests: sum.requests + arm.requests, failures: sum.failures + arm.failures };
    move |interval| {
        add(&mut canary, interval.canary());
        add(&mut stable, interval.stable());
        let (n, m) = (canary.requests as f64, stable.requests as f64);
        let (x, y) = (canary.failures as f64, stable.failures as f64);
        let pooled = (x + y) / (n + m);
        (x / n - y / m) / (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt() > 1.645
    }
}

fn fixed_limit() -> impl FnMut(&Interval) -> bool {
    let mut in_a_row = 0;
    move |interval| {
        let Arm { requests, failures } = interval.canary();
        in_a_row = if failures as f64 > 0.01 * requests as f64 { in_a_row + 1 } else { 0 };
        in_a_row == 3
    }
}

/// The first look at which the expected evidence is enough. Each failure is worth what its origin says: the divergence between the canary's share of the
/// failures as it is and as it is tolerated.
fn wald(world: &World) -> Option<usize> {
    let mut known = 0.0;
    (world.from..LOOKS)
        .find(|look| {
            let (canary, stable) = (weight(*look), 1.0 - weight(*look));
            let (is, fair) = (world.times * canary / (world.times * canary + stable), TOLERATE * canary / (TOLERATE * canary + stable));
            known += world.causes(*look) * (is * (is / fair).ln() + (1.0 - is) * ((1.0 - is) / (1.0 - fair)).ln());
            known >= threshold().ln()
        })
        .map(|look| look + 1)
}
