//! A step that waits for a proof, instead of a time, that the canary is no worse than stable.

use jiff::SignedDuration;

use super::{
    analysis,
    draft::{Draft, Flow, Waiting, wait},
    judge::compare::Ratio,
    observed::Templates,
    spec::{Invalid, Spec, StepKind, invalid},
};
use crate::api::{
    Span, rollout,
    status::{Hold, HoldReason},
};

const AT_MOST: f64 = 2.0;
/// Different proofs that one Rollout may wait for: the evidence for each is gathered from the beginning.
const MOST_PROOFS: usize = 4;

/// What is to be proven, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proof {
    /// The canary fails less than so many times as often as stable.
    pub at_most: f64,
    pub within: SignedDuration,
}

impl Proof {
    pub fn parse(written: &rollout::Proof, duration: Option<&Span>) -> Result<Self, String> {
        if duration.is_some() {
            return Err(
                "a pause waits for a duration or for a proof: set one of duration and prove (its maxDuration ends it, too)".to_owned()
            );
        }
        let at_most = Ratio::parse(written.at_most.unwrap_or(AT_MOST)).map_err(|error| error.to_string())?;
        Ok(Self { at_most: at_most.get(), within: written.max_duration.get() })
    }
}

impl Spec {
    /// The ratios that steps wait for a proof of, each once.
    pub fn proofs(&self) -> Vec<f64> {
        let mut ratios = vec![];
        for step in &self.steps {
            if let StepKind::Prove(proof) = step
                && !ratios.contains(&proof.at_most)
            {
                ratios.push(proof.at_most);
            }
        }
        ratios
    }

    /// The background analysis can prove what steps wait for, as far as its templates are known.
    pub fn check_proofs(&self, templates: &Templates) -> Result<(), Invalid> {
        let Some(index) = self.steps.iter().position(|step| matches!(step, StepKind::Prove(_))) else { return Ok(()) };
        let field = format!("spec.strategy.canary.steps[{index}].pause.prove");
        if self.proofs().len() > MOST_PROOFS {
            return Err(invalid(field, format!("the steps have more than {MOST_PROOFS} different values of atMost: write fewer")));
        }
        let analysis = self.analysis.as_ref();
        let of_templates = analysis.into_iter().flat_map(|analysis| &analysis.templates).map(|template| templates.get(template));
        let unknown = of_templates.clone().any(|template| !matches!(template, Some(Ok(_))));
        let metrics = of_templates.flatten().flatten().flat_map(|template| &template.metrics);
        let proves = metrics.chain(analysis.into_iter().flat_map(|analysis| &analysis.metrics)).any(analysis::can_prove);
        match proves || unknown {
            true => Ok(()),
            false => Err(invalid(
                field,
                "nothing can prove it: give spec.strategy.canary.analysis a metric that compares failures, such as {name: success-rate, preset: contour/success-rate, compare: {}}",
            )),
        }
    }
}

impl Draft<'_> {
    /// The background analysis has proven it. Without a proof in time a person decides.
    pub fn ensure_proven(&mut self, proof: Proof) -> Flow {
        let Proof { at_most, within } = proof;
        let why = match self.background() {
            None => "the analysis starts".to_owned(),
            Some(run) => match analysis::proven(&run.spec, &run.status, at_most) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            },
        };
        let end = self.status.current_step.as_ref().map_or(self.now, |step| step.started_at.0) + within;
        let sought = format!("that the canary fails less than {at_most} times as often as stable");
        if self.now >= end {
            if self.status.hold.is_none() {
                let message = format!("it is not proven within {within:#} {sought}: {why}");
                self.status.hold = Some(Hold { reason: HoldReason::InconclusiveAnalysis, since: self.time(), message });
            }
            self.ensure_not_held()?;
        }
        self.wake(end);
        wait(Waiting::Analysis, format!("waits for a proof {sought}, until {}: {why}", end.strftime("%H:%M:%S UTC")))
    }
}
