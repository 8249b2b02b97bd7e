//! `compare` as a metric has it: from one look at both versions to the next, with what was found so far.

use std::num::NonZeroU32;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::{
    compare::{Arm, Claim, ErrorBudget, Evidence, Interval, Ratio, Report, Threshold},
    count,
    words::number,
};
use crate::{
    api::{
        Verdict, analysis,
        run::{Compared, NoWorse},
    },
    core::{
        counters::{Counted, Look},
        source::{Fault, Numerator, Source, Unit, What},
    },
};

const TOLERATE: f64 = 1.25;
const MAX_FALSE_ABORTS: f64 = 0.05;

/// What a run asks of its comparisons.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    /// Comparisons that share the accepted risk.
    pub streams: NonZeroU32,
    /// Ratios that the canary is to be proven to stay below.
    pub prove: &'a [f64],
}

/// What is sought, and how sure it must be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    tolerate: Ratio,
    claim: Claim,
    budget: ErrorBudget,
    numerator: Numerator,
    /// What the bounds of a histogram are multiplied by, for people.
    scale: f64,
}

impl Comparison {
    pub fn parse(written: &analysis::Comparison, source: &Source) -> Result<Self, Vec<Fault>> {
        let fault = |field: &str, message: String| vec![(format!("compare.{field}"), message)];
        let tolerate = Ratio::parse(written.tolerate.unwrap_or(TOLERATE)).map_err(|error| fault("tolerate", error.to_string()))?;
        let budget = ErrorBudget::parse(written.max_false_aborts.unwrap_or(MAX_FALSE_ABORTS))
            .map_err(|error| fault("maxFalseAborts", error.to_string()))?;
        let claim = Claim::Worse { tolerate, method: written.method.unwrap_or_default() };
        let scale = if let What::Quantile { scale, .. } = source.what { scale } else { 1.0 };
        Ok(Self { tolerate, claim, budget, numerator: source.compares.unwrap_or(Numerator::Failures), scale })
    }

    pub fn words(&self) -> String {
        format!("fails at most {} times as often as stable", number(self.tolerate.get(), Unit::None, &[]))
    }

    /// Takes in a look. An interval counts only if it begins where the last one ended: what was read twice, or by somebody who did not
    /// know what is known here, begins anew. The verdict, and why; `None`: there is nothing to be said of this look.
    pub fn take_in(
        &self,
        known: &mut Option<Compared>,
        look: &Look,
        Sought { streams, prove }: Sought<'_>,
        unit: Unit,
    ) -> Option<(Verdict, String)> {
        let (until, since) = (exact(look.until), look.since.map(exact));
        let Some(known) = known else {
            let message = "the counters were read for the first time".to_owned();
            *known = Some(Compared {
                since: None,
                until: MicroTime(until),
                worse: false,
                message,
                failures: None,
                latencies: None,
                proofs: vec![],
            });
            return None;
        };
        if until <= known.until.0 {
            return None; // what is known already says more
        }
        let begin = std::mem::replace(&mut known.until, MicroTime(until)).0;
        if since != Some(begin) {
            known.message = "counts begin anew: the counters at the end of the last interval are not known any more".to_owned();
            return None;
        }
        let time = begin.strftime("%H:%M:%S UTC");
        let never = known.since.is_none();
        let (verdict, message) = match (&look.canary, &look.stable) {
            (None, _) => (Some(Verdict::NoData), format!("the canary had no counters at {time}: is its selector right?")),
            (Some(canary), _) if canary.requests() == 0 => (Some(Verdict::NoData), format!("the canary had no requests since {time}")),
            (_, None) if never => (Some(Verdict::NoData), format!("stable had no counters at {time}: is its selector right?")),
            (_, Some(stable)) if never && stable.requests() == 0 => (Some(Verdict::NoData), format!("stable had no requests since {time}")),
            (_, None) => (None, format!("stable has no counters since {time}, so there is nothing new to compare")),
            (_, Some(stable)) if stable.requests() == 0 => {
                (None, format!("stable had no requests since {time}, so there is nothing new to compare"))
            }
            (Some(canary), Some(stable)) => {
                let threshold = self.budget.threshold(streams);
                let (verdict, message) = self.consume(known, begin, [canary, stable], threshold, unit);
                self.prove(known, [canary, stable], prove);
                (Some(verdict), message)
            }
        };
        known.message.clone_from(&message);
        verdict.map(|verdict| (verdict, message))
    }

    fn consume(&self, known: &mut Compared, begin: Timestamp, both: [&Counted; 2], threshold: Threshold, unit: Unit) -> (Verdict, String) {
        let (fails, (canary, stable), log_e) = match both {
            [Counted::Requests(canary), Counted::Requests(stable)] => {
                let interval = match Interval::new(*canary, *stable) {
                    Ok(interval) => interval,
                    Err(error) => return (Verdict::Inconclusive, error.to_string()),
                };
                let evidence = known.failures.get_or_insert_with(Evidence::default);
                evidence.consume(&interval, &self.claim);
                ("fails".to_owned(), evidence.seen(), evidence.log_e())
            }
            [Counted::Latencies(canary), Counted::Latencies(stable)] => {
                let evidence = known.latencies.get_or_insert_default();
                if let Err(error) = evidence.consume(canary, stable, &self.claim) {
                    return (Verdict::NoData, error.to_string());
                }
                let strongest = evidence.strongest().map(|at| (at.le * self.scale, at.evidence.seen()));
                let (bound, seen) = strongest.unwrap_or_default();
                (format!("is slower than {}", number(bound, unit, &[])), seen, evidence.log_e())
            }
            _ => return (Verdict::Inconclusive, "the canary and stable are not counted alike".to_owned()),
        };
        let since = known.since.get_or_insert(MicroTime(begin)).0;
        let after = known.until.0.duration_since(since);
        known.worse |= log_e >= threshold.ln();
        let report = Report { fails: &fails, claim: self.claim, canary, stable, log_e, threshold, after };
        let verdict = if known.worse { Verdict::Fail } else { self.doubt(both[1], stable) };
        match verdict {
            Verdict::Inconclusive => (
                verdict,
                format!(
                    "{} of {} requests of stable are selected as failures: does the numerator of compare select successes?",
                    count(stable.failures as f64),
                    count(stable.requests as f64)
                ),
            ),
            verdict => (verdict, report.to_string()),
        }
    }

    /// Gathers evidence that the canary is no worse. Of failures alone: latencies would have to be proven at each of their bounds.
    fn prove(&self, known: &mut Compared, both: [&Counted; 2], prove: &[f64]) {
        let (Some(since), [Counted::Requests(canary), Counted::Requests(stable)]) = (&known.since, both) else { return };
        let after = known.until.0.duration_since(since.0);
        let Ok(interval) = Interval::new(*canary, *stable) else { return };
        for (at_most, ratio) in prove.iter().filter_map(|at_most| Some((*at_most, Ratio::parse(*at_most).ok()?))) {
            let at = known.proofs.iter().position(|proof| proof.at_most == at_most).unwrap_or_else(|| {
                known.proofs.push(NoWorse { at_most, proven: false, message: String::new(), evidence: Evidence::default() });
                known.proofs.len() - 1
            });
            let (claim, threshold) = (Claim::NotWorse { at_most: ratio }, self.budget.threshold(NonZeroU32::MIN));
            let NoWorse { proven, message, evidence, .. } = &mut known.proofs[at];
            evidence.consume(&interval, &claim);
            let ((canary, stable), log_e) = (evidence.seen(), evidence.log_e());
            *proven |= log_e >= threshold.ln();
            *message = Report { fails: "fails", claim, canary, stable, log_e, threshold, after }.to_string();
        }
    }

    /// A numerator of one's own that selects most of stable's requests selects successes, most likely: a canary that fails would then look
    /// like a good one.
    fn doubt(&self, counted: &Counted, stable: Arm) -> Verdict {
        let own = self.numerator == Numerator::Failures && matches!(counted, Counted::Requests(_));
        if own && stable.failures > stable.requests / 2 { Verdict::Inconclusive } else { Verdict::Pass }
    }
}

/// Requests of the canary that were compared in all.
pub(super) fn compared(known: &Compared) -> u64 {
    let latencies = known.latencies.as_ref().and_then(|evidence| evidence.bounds.iter().map(|at| at.evidence.canary.requests).max());
    known.failures.as_ref().map(|evidence| evidence.canary.requests).or(latencies).unwrap_or(0)
}

/// As exact as the API keeps it.
fn exact(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}
