//! `undo`: takes the version that serves back, and goes to an earlier one.

use super::{
    action,
    error::{Error, Exit},
    history, load,
    output::Out,
    session::Session,
    view::{hash_of, images_of},
};
use crate::api::{Rollout, Verb};

#[derive(Clone, Debug, clap::Args)]
#[group(id = "undo")]
pub struct Args {
    /// Go back to this revision (its pod-template-hash, or the name of its ReplicaSet) [default: the one that served before]
    #[arg(long, value_name = "REVISION")]
    pub to_revision: Option<String>,
    #[command(flatten)]
    pub action: action::Args,
}

/// A revision that can be gone back to, with its images.
type Target = (String, Vec<String>);

pub async fn run(session: &Session, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let name = &args.action.name;
    let rollout = session.rollout(name).await?;
    let mut spec = action::address(&rollout, Verb::Undo)?;
    // Who may not list ReplicaSets may still go back: the controller looks, too.
    let sets = load::replica_sets(session, name).await.unwrap_or_default();
    let kept: Vec<Target> = sets.iter().map(|rs| (hash_of(rs), images_of(rs))).collect();
    if let Some(wanted) = &args.to_revision {
        spec.to_revision = Some(choose(&rollout, &kept, wanted, &spec.revision)?);
    }
    let to = match &spec.to_revision {
        Some(hash) => kept.iter().find(|(kept, _)| kept == hash).cloned().or_else(|| Some((hash.clone(), vec![]))),
        None => history::previous(&rollout).map(|previous| {
            let images = kept.iter().find(|(kept, _)| kept == previous).map(|(_, images)| images.clone());
            (previous.to_owned(), images.unwrap_or_default())
        }),
    };
    let note = format!("undo revision {}: back to {}", spec.revision, describe(to));
    action::send(session, spec, note, &args.action, out).await
}

/// The revision that someone means who writes `wanted`.
fn choose(rollout: &Rollout, kept: &[Target], wanted: &str, present: &str) -> Result<String, Error> {
    let name = rollout.metadata.name.clone().unwrap_or_default();
    let hash = wanted.strip_prefix(&format!("{name}-")).unwrap_or(wanted);
    if hash == present {
        return Err(Error::Pointless(format!("revision {present} is the present one already: --to-revision names one to go back to")));
    }
    if kept.is_empty() || kept.iter().any(|(kept, _)| kept == hash) {
        return Ok(hash.to_owned());
    }
    let others: Vec<String> =
        kept.iter().filter(|(kept, _)| kept != present).map(|target| format!("\n  {}", describe(Some(target.clone())))).collect();
    let there = if others.is_empty() { " There is no other one.".to_owned() } else { format!(" There are:{}", others.concat()) };
    Err(Error::Pointless(format!("{name} has no ReplicaSet of a revision {hash:?} to go back to.{there}")))
}

fn describe(target: Option<Target>) -> String {
    match target {
        None => "the one that served before it".into(),
        Some((hash, images)) if images.is_empty() => hash,
        Some((hash, images)) => format!("{hash} ({})", images.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn a_revision_is_named_by_its_hash_or_its_replica_set() {
        let view = fixtures::healthy();
        let kept: Vec<Target> = view.images().into_iter().collect();
        for wanted in ["4a4a", "api-4a4a"] {
            assert_eq!(choose(&view.rollout, &kept, wanted, "5d7c").unwrap(), "4a4a");
        }
        assert_eq!(choose(&view.rollout, &[], "9999", "5d7c").unwrap(), "9999", "not allowed to look: the controller judges");
        let error = choose(&view.rollout, &kept, "9999", "5d7c").unwrap_err().to_string();
        insta::assert_snapshot!(error, @r#"
        api has no ReplicaSet of a revision "9999" to go back to. There are:
          4a4a (app:v0)
          4b4b (app:v0)
        "#);
        let error = choose(&view.rollout, &kept, "5d7c", "5d7c").unwrap_err().to_string();
        assert!(error.contains("present one already"), "{error}");
    }
}
