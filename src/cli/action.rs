//! `promote`, `abort`, `retry`, `pause`, `resume`, `skip-step`, `restart` (and `undo`): each creates a RolloutAction that is addressed to what the Rollout is at, and waits
//! for its outcome.

use std::{pin::pin, time::Duration};

use futures::TryStreamExt;
use kube::{ResourceExt, api::PostParams, runtime::watcher};

use super::{
    error::{Error, Exit},
    load::{self, ACTIONS, Objects},
    output::{Format, Out},
    printer::{Tone, span},
    session::Session,
    words,
};
use crate::api::{Outcome, Phase, Rollout, RolloutAction, RolloutActionSpec, RolloutActionStatus, Span, Verb};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How long to wait for the outcome; 0s does not wait
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub timeout: Span,
    /// Form of the output: the RolloutAction with its outcome
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

pub async fn run(session: &Session, verb: Verb, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let rollout = session.rollout(&args.name).await?;
    let spec = address(&rollout, verb)?;
    let note = format!("{} revision {}{}", words::verb(verb), spec.revision, at_step(&rollout));
    send(session, spec, note, args, out).await
}

/// Creates the action, and waits for its outcome. `note` says what is asked for.
pub async fn send(session: &Session, mut spec: RolloutActionSpec, note: String, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    spec.reason = args.reason.clone();
    spec.requested_by = session.whoami().await;
    let verb = words::verb(spec.verb).replace([' ', '-'], "");
    let mut action = RolloutAction::new("", spec);
    action.metadata.name = None;
    action.metadata.generate_name = Some(format!("{}-{verb}-", args.name));
    let created = session.api::<RolloutAction>().create(&PostParams::default(), &action).await;
    let created = created.map_err(session.explain("create", ACTIONS))?;
    out.note(format!("{note}: rolloutaction/{}", created.name_any()))?;

    let time = Duration::try_from(args.timeout.get()).unwrap_or(Duration::ZERO);
    if time.is_zero() {
        return finish(&created, args, out);
    }
    match tokio::time::timeout(time, decided(session, &created.name_any())).await {
        Ok(decided) => finish(&decided?, args, out),
        Err(_) => Err(Error::TimedOut(format!(
            "no outcome within {}: perhaps no controller is running (kubectl get deploy -A -l app.kubernetes.io/name=sluice)\n\
             The action is kept and done as soon as one runs, if the Rollout is still at the same revision; to take it back: kubectl delete rolloutaction {} -n {}",
            span(args.timeout.get()),
            created.name_any(),
            session.namespace
        ))),
    }
}

/// A command that is addressed to what this Rollout is at, or why there is nothing to address it to.
pub fn address(rollout: &Rollout, verb: Verb) -> Result<RolloutActionSpec, Error> {
    let name = rollout.name_any();
    let status = rollout.status.clone().unwrap_or_default();
    let Some(revision) = status.canary_revision else {
        return Err(Error::Pointless(format!("{name} has no revision yet: {}", words::waits_for(rollout))));
    };
    let step = status.current_step.map(|step| step.index);
    if step.is_none() && matches!(verb, Verb::Promote | Verb::Resume | Verb::SkipStep) {
        let word = words::verb(verb);
        return Err(Error::Pointless(match status.phase {
            Some(Phase::Aborted) => {
                format!("there is nothing to {word}: {name} is Aborted; `kubectl sluice retry {name}` starts this version again")
            }
            phase => format!(
                "there is nothing to {word}: {name} is {} at revision {revision}, and no rollout is running",
                phase.map_or("without a phase".into(), |phase| phase.to_string())
            ),
        }));
    }
    Ok(RolloutActionSpec { rollout: name, verb, revision, step, to_revision: None, reason: None, requested_by: None })
}

fn at_step(rollout: &Rollout) -> String {
    words::step_label(rollout).map(|label| format!(" at step {label}")).unwrap_or_default()
}

/// The action with its outcome, as soon as it has one.
async fn decided(session: &Session, name: &str) -> Result<RolloutAction, Error> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(load::events::<RolloutAction>(session, ACTIONS, config));
    let mut actions = Objects::default();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => actions.apply(event),
            Ok(None) => return Err(Error::Request("the watch has ended".into())),
            Err(error) if error.is_final() => return Err(error),
            // The watch goes on by itself; the caller's timeout ends it.
            Err(_) => continue,
        }
        let Some(action) = actions.iter().next() else {
            if actions.is_complete() {
                return Err(Error::Request(format!("the action {name} was deleted before it had an outcome")));
            }
            continue;
        };
        if action.status.as_ref().is_some_and(|status| status.outcome.is_some()) {
            return Ok(action.clone());
        }
    }
}

fn finish(action: &RolloutAction, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        let mut action = action.clone();
        action.metadata.managed_fields = None;
        out.object(format, &action)?;
    }
    let RolloutActionStatus { outcome, message, .. } = action.status.clone().unwrap_or_default();
    let (tone, word, exit) = match outcome {
        Some(Outcome::Done) => (Tone::Good, "done", Exit::Ok),
        Some(Outcome::Refused) => (Tone::Bad, "refused", Exit::Error),
        None => (Tone::Busy, "requested", Exit::Ok),
    };
    let text = if message.is_empty() { word.to_owned() } else { format!("{word}: {message}") };
    let line = format!("{} {text}", out.style.mark(tone));
    if exit == Exit::Ok && args.output.is_none() {
        out.line(line)?
    } else {
        out.note(line)?
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn a_command_names_the_revision_and_the_step_that_were_seen() {
        for verb in [Verb::Promote, Verb::PromoteFull, Verb::Pause, Verb::Resume, Verb::Abort, Verb::SkipStep] {
            let spec = address(&fixtures::progressing().rollout, verb).unwrap();
            assert_eq!((spec.rollout.as_str(), spec.verb, spec.revision.as_str(), spec.step), ("api", verb, "7f9b", Some(2)));
        }
    }

    #[test]
    fn retry_names_the_rejected_revision() {
        let spec = address(&fixtures::aborted_by_analysis().rollout, Verb::Retry).unwrap();
        assert_eq!((spec.revision.as_str(), spec.step), ("7f9b", None));
    }

    #[test]
    fn where_no_rollout_runs_there_is_nothing_to_promote() {
        for verb in [Verb::Promote, Verb::Resume, Verb::SkipStep] {
            let error = address(&fixtures::healthy().rollout, verb).unwrap_err().to_string();
            assert!(error.contains("api is Healthy at revision 5d7c"), "{error}");
            let error = address(&fixtures::aborted_by_analysis().rollout, verb).unwrap_err().to_string();
            assert!(error.contains("kubectl sluice retry api"), "{error}");
        }
        let error = address(&fixtures::without_controller().rollout, Verb::Abort).unwrap_err().to_string();
        assert!(error.contains("no revision yet") && error.contains("controller"), "{error}");
    }
}
