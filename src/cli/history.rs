//! `history`: the rollouts that ended, and the revisions that can still be gone back to.

use jiff::{SignedDuration, Timestamp};
use kube::{Resource, ResourceExt};
use serde::Serialize;

use super::{
    error::{Error, Exit},
    load,
    output::{Format, Out},
    printer::{Style, Tone, clip, columns, since, span},
    session::Session,
    view::{Role, View, images_of},
};
use crate::api::{
    Rollout,
    status::{HistoryEntry, RolloutOutcome},
};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

/// What a Rollout has gone through.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    pub rollout: String,
    pub namespace: String,
    pub stable_revision: Option<String>,
    pub present_revision: Option<String>,
    /// The rollouts that ended, the newest first.
    pub rollouts: Vec<Ended>,
    /// The revisions that have a ReplicaSet, and are not the present one.
    pub kept: Vec<Kept>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    #[serde(flatten)]
    pub entry: HistoryEntry,
    pub seconds: i64,
    /// What the revision is now.
    pub now: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    pub revision: String,
    pub replica_set: String,
    pub images: Vec<String>,
    pub created: Option<Timestamp>,
}

pub async fn run(session: &Session, args: &Args, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    let rollout = session.rollout(&args.name).await?;
    let replica_sets = load::replica_sets(session, &args.name).await?;
    let history = history(&View { rollout, replica_sets, pods: vec![], runs: vec![], actions: vec![] });
    if let Some(format @ (Format::Json | Format::Yaml)) = args.output {
        out.object(format, &history)?;
        return Ok(Exit::Ok);
    }
    if history.rollouts.is_empty() {
        out.note(format!("No rollout of {} has ended yet.", args.name))?;
    }
    for line in lines(&history, now, &out.style) {
        let cut = out.columns.filter(|_| !out.style.wide);
        out.line(cut.map_or(line.clone(), |columns| clip(&line, columns)))?;
    }
    Ok(Exit::Ok)
}

/// The revision that served before the one that serves now, as far as the history says.
pub fn previous(rollout: &Rollout) -> Option<&str> {
    let status = rollout.status.as_ref()?;
    status.served_before(status.stable_revision.as_deref()?)
}

pub fn history(view: &View) -> History {
    let (status, revisions) = (view.status(), view.revisions());
    let now = |revision: &str| match revisions.iter().find(|known| known.hash == revision).map(|known| known.role) {
        Some(Role::Stable) => "serves",
        Some(Role::Canary) => "canary",
        Some(Role::Rejected) => "rejected",
        Some(Role::Old) => "kept",
        None => "gone",
    };
    let ended = |entry: &HistoryEntry| Ended {
        seconds: entry.finished_at.0.duration_since(entry.started_at.0).as_secs(),
        now: now(&entry.revision),
        entry: entry.clone(),
    };
    let kept = revisions.iter().filter(|revision| revision.role == Role::Old).map(|revision| Kept {
        revision: revision.hash.clone(),
        replica_set: revision.replica_set.name_any(),
        images: images_of(revision.replica_set),
        created: revision.replica_set.meta().creation_timestamp.as_ref().map(|time| time.0),
    });
    History {
        rollout: view.rollout.name_any(),
        namespace: view.rollout.namespace().unwrap_or_default(),
        rollouts: status.history.iter().rev().map(ended).collect(),
        kept: kept.collect(),
        stable_revision: status.stable_revision,
        present_revision: status.canary_revision,
    }
}

/// The tables, line by line.
pub fn lines(history: &History, now: Timestamp, style: &Style) -> Vec<String> {
    let mut lines = Vec::new();
    if !history.rollouts.is_empty() {
        let head = ["", "REVISION", "NOW", "OUTCOME", "ENDED", "TOOK", "IMAGES", "WHY"].map(|word| style.paint(Tone::Dim, word)).to_vec();
        let rows = history.rollouts.iter().map(|ended| row(ended, now, style));
        lines.extend(columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    }
    if !history.kept.is_empty() {
        let command = format!("kubectl sluice undo {} -n {} --to-revision REVISION", history.rollout, history.namespace);
        lines.extend((!lines.is_empty()).then(String::new));
        lines.push(style.paint(Tone::Dim, format!("Can be gone back to ({command}):")));
        let cells = |kept: &Kept| {
            let age = kept.created.map(|at| format!("{} old", since(at, now))).unwrap_or_default();
            vec![format!("  {}", kept.revision), kept.images.join(", "), kept.replica_set.clone(), age]
        };
        lines.extend(columns(&history.kept.iter().map(cells).collect::<Vec<_>>()));
    }
    lines
}

fn row(ended: &Ended, now: Timestamp, style: &Style) -> Vec<String> {
    let entry = &ended.entry;
    let tone = match entry.outcome {
        RolloutOutcome::Promoted => Tone::Good,
        RolloutOutcome::Aborted => Tone::Bad,
        RolloutOutcome::Superseded | RolloutOutcome::Withdrawn => Tone::Dim,
    };
    let at = |at: Timestamp| if style.wide { style.moment(at, now) } else { format!("{} ago", since(at, now)) };
    vec![
        style.mark(tone),
        entry.revision.clone(),
        ended.now.into(),
        style.paint(tone, format!("{:?}", entry.outcome)),
        at(entry.finished_at.0),
        span(SignedDuration::from_secs(ended.seconds)),
        entry.images.join(", "),
        entry.message.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    fn shown(view: &View, wide: bool) -> String {
        let style = Style { wide, ..fixtures::plain() };
        lines(&history(view), fixtures::now(), &style).join("\n")
    }

    #[test]
    fn the_newest_comes_first_and_what_is_kept_is_named() {
        insta::assert_snapshot!("history", shown(&fixtures::with_a_past(), false));
        insta::assert_snapshot!("history_wide", shown(&fixtures::with_a_past(), true));
        insta::assert_json_snapshot!("history_json", history(&fixtures::with_a_past()));
        assert_eq!(shown(&fixtures::taking_over(), false), "");
    }

    #[test]
    fn the_previous_version_is_the_one_that_the_present_took_the_place_of() {
        assert_eq!(previous(&fixtures::with_a_past().rollout), Some("4b4b"));
        assert_eq!(previous(&fixtures::healthy().rollout), None);
    }
}
