//! `status`: waits until a Rollout has ended well or badly, and says so by the exit code.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    ResourceExt,
    runtime::watcher::{self, Event},
};
use tokio::time::Instant;

use super::{
    error::{Error, Exit},
    load::{self, Objects, REPLICA_SETS, ROLLOUTS},
    output::{Format, Out},
    session::Session,
    view::{hash_of, images_of, is_behind},
    words,
};
use crate::api::{
    Phase, Rollout, Span,
    conditions::STALLED,
    keys,
    status::{HistoryEntry, RolloutOutcome},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Wait until it has ended; --watch=false looks once
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub watch: bool,
    /// Wait for the version with this image, exactly as it stands in the pod template
    #[arg(long, value_name = "IMAGE", conflicts_with = "for_revision")]
    pub for_image: Option<String>,
    /// Wait for this revision (its pod-template-hash, or the name of its ReplicaSet)
    #[arg(long, value_name = "REVISION")]
    pub for_revision: Option<String>,
    /// Stop waiting after this time, such as 90s or 10m [default: no limit]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,
    /// Form of the result: the Rollout as it is in the end
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

/// Which version is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whatever the present template is.
    Present,
    Revision(String),
    Image(String),
}

/// What is seen at one moment.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    pub rollout: &'a Rollout,
    /// Images of each revision that has a ReplicaSet.
    pub images: &'a BTreeMap<String, Vec<String>>,
}

/// The wait as a fold over what is seen: pure, so that each end of it is a table test.
#[derive(Clone, Debug)]
pub struct Wait {
    target: Target,
    /// The Deployment's generation when the wait began: an older view of it is not an answer.
    workload_generation: i64,
    /// The target has been the present template while we looked.
    seen: bool,
    /// When the newest rollout of the target had ended before we looked.
    ended_before: Option<Option<jiff::Timestamp>>,
}

/// What one sight means: a line for people, and the end of the wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub line: String,
    pub exit: Option<Exit>,
}

impl Wait {
    pub fn new(target: Target, workload_generation: i64) -> Self {
        Self { target, workload_generation, seen: false, ended_before: None }
    }

    pub fn see(&mut self, sight: &Sight<'_>) -> Verdict {
        let status = sight.rollout.status.clone().unwrap_or_default();
        let ended = self.newest_end(sight);
        let ended_at = ended.map(|entry| entry.finished_at.0);
        let ended_before = *self.ended_before.get_or_insert(ended_at);

        if !self.is_present(sight) {
            let present = status.canary_revision.clone().unwrap_or_else(|| "no revision yet".into());
            if self.seen || ended_at > ended_before {
                let end = ended.filter(|entry| Some(entry.finished_at.0) > ended_before);
                let how = end.map(|entry| format!(" ({}: {})", outcome(entry.outcome), entry.message)).unwrap_or_default();
                return Verdict {
                    line: format!("{} is superseded: the Rollout went on to {present}{how}", self.name()),
                    exit: Some(Exit::Superseded),
                };
            }
            return Verdict { line: format!("waiting for the Rollout to go to {}; it is at {present}", self.name()), exit: None };
        }
        self.seen = true;
        let behind = is_behind(sight.rollout) || status.workload_observed_generation.is_some_and(|seen| seen < self.workload_generation);
        let exit = match status.phase {
            _ if behind => None, // what it says is about an older template
            Some(Phase::Healthy) => Some(Exit::Ok),
            Some(Phase::Aborted) => Some(Exit::Failed),
            // Stable pods that are not available may come back; what is stalled needs a person.
            Some(Phase::Degraded) if is_stalled(sight.rollout) => Some(Exit::Failed),
            _ => None,
        };
        Verdict { line: words::progress(sight.rollout), exit }
    }

    fn is_present(&self, sight: &Sight<'_>) -> bool {
        let present = sight.rollout.status.as_ref().and_then(|status| status.canary_revision.as_ref());
        self.target == Target::Present || present.is_some_and(|present| self.is(sight, present, &[]))
    }

    /// Whether `revision` is what is waited for. `recorded`: its images, if its ReplicaSet is gone.
    fn is(&self, sight: &Sight<'_>, revision: &str, recorded: &[String]) -> bool {
        match &self.target {
            Target::Present => true,
            Target::Revision(wanted) => wanted == revision || *wanted == format!("{}-{revision}", sight.rollout.name_any()),
            Target::Image(wanted) => sight.images.get(revision).map_or(recorded, Vec::as_slice).contains(wanted),
        }
    }

    fn newest_end<'a>(&self, sight: &Sight<'a>) -> Option<&'a HistoryEntry> {
        let history = sight.rollout.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
        history.iter().rev().find(|entry| self.is(sight, &entry.revision, &entry.images))
    }

    fn name(&self) -> String {
        match &self.target {
            Target::Present => "the present version".into(),
            Target::Revision(revision) => format!("revision {revision}"),
            Target::Image(image) => format!("image {image}"),
        }
    }
}

fn outcome(outcome: RolloutOutcome) -> String {
    format!("{outcome:?}").to_lowercase()
}

fn is_stalled(rollout: &Rollout) -> bool {
    let conditions = rollout.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == STALLED && condition.status == "True")
}

/// The exit code for a single look: what has not ended yet counts as a wait that was given no time.
fn once(verdict: &Verdict, rollout: &Rollout) -> Exit {
    let degraded = rollout.status.as_ref().and_then(|status| status.phase) == Some(Phase::Degraded);
    verdict.exit.unwrap_or(if degraded { Exit::Failed } else { Exit::Timeout })
}

pub async fn run(session: &Session, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let deadline = args.timeout.as_ref().map(|time| Instant::now() + Duration::try_from(time.get()).unwrap_or(Duration::ZERO));
    let rollout = session.rollout(&args.name).await?;
    let target = match (&args.for_image, &args.for_revision) {
        (Some(image), _) => Target::Image(image.clone()),
        (_, Some(revision)) => Target::Revision(revision.clone()),
        _ => Target::Present,
    };
    let mut wait = Wait::new(target, workload_generation(session, &rollout, out).await?);
    let mut seen = pin!(sights(session, &args.name));
    let mut last = String::new();
    loop {
        let next = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, seen.next()).await,
            None => Ok(seen.next().await),
        };
        let Ok(next) = next else {
            let limit = args.timeout.as_ref().map(ToString::to_string).unwrap_or_default();
            return Err(Error::TimedOut(format!("{} has not ended within {limit}; the last that was seen: {last}", args.name)));
        };
        let (rollout, images) = match next {
            Some(Ok(Seen::There(sight))) => *sight,
            Some(Ok(Seen::Gone)) => return Err(Error::Request(format!("the Rollout {} was deleted", args.name))),
            Some(Err(error)) if error.is_final() => return Err(error),
            Some(Err(error)) => {
                tell(format!("{error} (trying again)"), &mut last, out)?;
                continue;
            }
            None => return Err(Error::Request("the watch has ended".into())),
        };
        let verdict = wait.see(&Sight { rollout: &rollout, images: &images });
        if !args.watch {
            result(&verdict, &rollout, args.output, out)?;
            return Ok(once(&verdict, &rollout));
        }
        if let Some(exit) = verdict.exit {
            result(&verdict, &rollout, args.output, out)?;
            if let Some(next) = words::next(&rollout).filter(|_| exit == Exit::Failed) {
                out.note(next)?;
            }
            return Ok(exit);
        }
        tell(verdict.line, &mut last, out)?;
    }
}

/// The end, in the form that was asked for.
fn result(verdict: &Verdict, rollout: &Rollout, format: Option<Format>, out: &mut Out<'_>) -> std::io::Result<()> {
    match format {
        Some(format @ (Format::Json | Format::Yaml)) => {
            out.note(&verdict.line)?;
            let mut rollout = rollout.clone();
            rollout.metadata.managed_fields = None;
            out.object(format, &rollout)
        }
        _ => out.line(&verdict.line),
    }
}

/// A line about progress, unless it is the one that was told last.
fn tell(line: String, last: &mut String, out: &mut Out<'_>) -> std::io::Result<()> {
    if line != *last {
        out.note(&line)?;
        *last = line;
    }
    Ok(())
}

/// The Deployment's generation now: whoever has just changed it is not told of what was before.
async fn workload_generation(session: &Session, rollout: &Rollout, out: &mut Out<'_>) -> Result<i64, Error> {
    let Some(workload) = &rollout.spec.workload_ref else { return Ok(0) };
    match session.api::<Deployment>().get_opt(&workload.name).await {
        Ok(deployment) => Ok(deployment.and_then(|deployment| deployment.metadata.generation).unwrap_or(0)),
        Err(error) => {
            out.note(format!("cannot see whether Sluice has read the newest {} ({error}): --for-image makes sure", workload.name))?;
            Ok(0)
        }
    }
}

enum Seen {
    There(Box<(Rollout, BTreeMap<String, Vec<String>>)>),
    Gone,
}

enum Change {
    Rollout(Box<Event<Rollout>>),
    ReplicaSet(Box<Event<ReplicaSet>>),
}

/// The Rollout and the images of its revisions, at each change.
fn sights(session: &Session, name: &str) -> impl Stream<Item = Result<Seen, Error>> + use<> {
    let rollouts = load::events::<Rollout>(session, ROLLOUTS, watcher::Config::default().fields(&format!("metadata.name={name}")));
    let owned = watcher::Config::default().labels(&format!("{}={name}", keys::ROLLOUT));
    let replica_sets = load::events::<ReplicaSet>(session, REPLICA_SETS, owned);
    let changes = stream::select(
        rollouts.map(|event| event.map(|event| Change::Rollout(Box::new(event)))),
        replica_sets.map(|event| event.map(|event| Change::ReplicaSet(Box::new(event)))),
    );
    let known = (Objects::<Rollout>::default(), Objects::<ReplicaSet>::default());
    changes
        .scan(known, |(rollouts, replica_sets), change| {
            let sight = change.map(|change| {
                match change {
                    Change::Rollout(event) => rollouts.apply(*event),
                    Change::ReplicaSet(event) => replica_sets.apply(*event),
                }
                if !rollouts.is_complete() || !replica_sets.is_complete() {
                    return None;
                }
                let Some(rollout) = rollouts.iter().next() else { return Some(Seen::Gone) };
                let images = replica_sets.iter().map(|rs| (hash_of(rs), images_of(rs))).collect();
                Some(Seen::There(Box::new((rollout.clone(), images))))
            });
            std::future::ready(Some(sight.transpose()))
        })
        .filter_map(std::future::ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{fixtures, view::View};

    fn see(wait: &mut Wait, view: &View) -> Option<Exit> {
        wait.see(&Sight { rollout: &view.rollout, images: &view.images() }).exit
    }

    /// The exit of a wait that sees these states one after the other, and the number of states that it took.
    fn fold(target: Target, workload_generation: i64, views: &[View]) -> (Option<Exit>, usize) {
        let mut wait = Wait::new(target, workload_generation);
        let end = views.iter().enumerate().find_map(|(i, view)| Some((see(&mut wait, view)?, i + 1)));
        end.map_or((None, views.len()), |(exit, count)| (Some(exit), count))
    }

    fn with(view: View, change: impl FnOnce(&mut crate::api::RolloutStatus)) -> View {
        View { rollout: fixtures::changed(view.clone(), change), ..view }
    }

    /// Revision 7f9b (app:v2) was promoted.
    fn promoted() -> View {
        let mut view = fixtures::progressing();
        let status = view.rollout.status.as_mut().unwrap();
        status.phase = Some(Phase::Healthy);
        status.stable_revision = status.canary_revision.clone();
        status.current_step = None;
        view
    }

    /// The spec has changed since, and nothing has looked at it yet.
    fn unseen(mut view: View) -> View {
        view.rollout.metadata.generation = Some(4);
        view
    }

    /// Revision 9e9e came before 7f9b had ended.
    fn superseded() -> View {
        let ended: HistoryEntry = serde_json::from_value(serde_json::json!({
            "revision": "7f9b", "images": ["app:v2"], "outcome": "Superseded", "message": "9e9e came",
            "startedAt": "2026-03-01T12:00:00.000000Z", "finishedAt": "2026-03-01T12:02:59.000000Z"
        }))
        .unwrap();
        with(fixtures::progressing(), |status| {
            status.canary_revision = Some("9e9e".into());
            status.history = vec![ended];
        })
    }

    #[test]
    fn a_wait_for_the_present_version_ends_as_the_rollout_does() {
        use fixtures as f;
        let degraded = with(f::progressing(), |status| status.phase = Some(Phase::Degraded));
        for (name, views, expected) in [
            ("healthy at once", vec![f::healthy()], (Some(Exit::Ok), 1)),
            ("promoted", vec![f::waiting_for_pods(), f::progressing(), f::paused(), promoted()], (Some(Exit::Ok), 4)),
            ("aborted", vec![f::progressing(), f::aborted_by_analysis()], (Some(Exit::Failed), 2)),
            ("invalid spec", vec![f::invalid_spec()], (Some(Exit::Failed), 1)),
            ("unavailable stable pods may come back", vec![degraded, promoted()], (Some(Exit::Ok), 2)),
            ("an old status is no answer", vec![f::spec_not_seen(), f::progressing()], (None, 2)),
            ("no status is no answer", vec![f::without_controller(), f::taking_over(), f::healthy()], (Some(Exit::Ok), 3)),
            ("a hold is waited for", vec![f::inconclusive()], (None, 1)),
            ("another version meanwhile is the present one", vec![f::progressing(), superseded()], (None, 2)),
        ] {
            assert_eq!(fold(Target::Present, 0, &views), expected, "{name}");
        }
    }

    #[test]
    fn a_deployment_that_sluice_has_not_read_yet_is_waited_for() {
        let seen = |generation| with(fixtures::healthy(), |status| status.workload_observed_generation = Some(generation));
        assert_eq!(fold(Target::Present, 7, &[seen(6), fixtures::progressing()]), (None, 2));
        assert_eq!(fold(Target::Present, 7, &[seen(6), seen(7)]), (Some(Exit::Ok), 2));
    }

    #[test]
    fn a_wait_for_a_version_is_not_told_of_another_one() {
        use fixtures as f;
        let image = || Target::Image("app:v2".into());
        let revision = || Target::Revision("7f9b".into());
        let replica_set = || Target::Revision("api-7f9b".into());
        for target in [image(), revision(), replica_set()] {
            for (name, views, expected) in [
                ("the old version is healthy", vec![f::healthy()], (None, 1)),
                ("then comes the new one", vec![f::healthy(), f::progressing(), promoted()], (Some(Exit::Ok), 3)),
                ("an old status is no answer", vec![unseen(promoted()), promoted()], (Some(Exit::Ok), 2)),
                ("it is aborted", vec![f::progressing(), f::aborted_by_analysis()], (Some(Exit::Failed), 2)),
                ("another one follows", vec![f::progressing(), superseded()], (Some(Exit::Superseded), 2)),
                ("it came and went unseen", vec![f::healthy(), superseded()], (Some(Exit::Superseded), 2)),
                ("it had ended before we looked, and may come again", vec![superseded()], (None, 1)),
                ("a template set back", vec![f::progressing(), f::healthy()], (Some(Exit::Superseded), 2)),
            ] {
                assert_eq!(fold(target.clone(), 0, &views), expected, "{target:?}: {name}");
            }
        }
        assert_eq!(fold(Target::Image("app".into()), 0, &[promoted()]), (None, 1), "an image is compared as a whole");
    }

    #[test]
    fn a_single_look_has_an_exit_code_too() {
        use fixtures as f;
        for (view, expected) in [
            (f::healthy(), Exit::Ok),
            (f::progressing(), Exit::Timeout),
            (f::aborted_by_deadline(), Exit::Failed),
            (with(f::progressing(), |status| status.phase = Some(Phase::Degraded)), Exit::Failed),
        ] {
            let verdict = Wait::new(Target::Present, 0).see(&Sight { rollout: &view.rollout, images: &view.images() });
            assert_eq!(once(&verdict, &view.rollout), expected, "{}", verdict.line);
        }
    }
}
