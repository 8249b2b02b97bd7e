//! `release`: gives workloads back by deleting their Rollouts, and waits until they are gone.

use std::{
    io::{self, BufRead, IsTerminal as _},
    pin::pin,
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
    runtime::watcher::{self, Event},
};

use super::{
    error::{Asked, Error, Exit},
    gitops,
    load::{self, Objects, ROLLOUTS},
    output::Out,
    printer::{Tone, plural, span},
    session::Session,
    view::is_behind,
    words,
};
use crate::api::{Rollout, Span};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name, required_unless_present = "all", conflicts_with = "all")]
    pub name: Option<String>,
    /// All Rollouts of the namespace
    #[arg(long)]
    pub all: bool,
    /// With --all: of all namespaces
    #[arg(short = 'A', long, requires = "all")]
    pub all_namespaces: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// How long to wait until everything is given back; 0s does not wait
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub timeout: Span,
}

pub async fn run(session: &Session, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    let mut stdin = io::stdin().lock();
    run_asking(session, args, terminal.then_some(&mut stdin as &mut dyn BufRead), out).await
}

/// `answers`: where someone can answer; `None` where nobody can be asked.
pub async fn run_asking(session: &Session, args: &Args, answers: Option<&mut dyn BufRead>, out: &mut Out<'_>) -> Result<Exit, Error> {
    let rollouts = match &args.name {
        Some(name) => vec![session.rollout(name).await?],
        None => all(session, args.all_namespaces).await?,
    };
    if rollouts.is_empty() {
        out.note("There are no Rollouts to release.")?;
        return Ok(Exit::Ok);
    }
    let concerns: Vec<String> = rollouts.iter().filter_map(concern).collect();
    for concern in &concerns {
        out.note(format!("{} {concern}", out.style.mark(Tone::Held)))?;
    }
    if (args.all || !concerns.is_empty()) && !args.yes && !confirmed(&rollouts, answers, out)? {
        return Ok(Exit::Error);
    }
    for rollout in &rollouts {
        delete(session, rollout).await?;
        if let Some(keeper) = gitops::keeper(&rollout.metadata) {
            out.note(format!("{keeper} keeps {} as it is in Git, and will create it again: remove it there, too", full_name(rollout)))?;
        }
    }
    let time = Duration::try_from(args.timeout.get()).unwrap_or(Duration::ZERO);
    if time.is_zero() {
        return Ok(Exit::Ok);
    }
    let mut last = String::new();
    match tokio::time::timeout(time, gone(session, &rollouts, &mut last, out)).await {
        Ok(ended) => ended.map(|()| Exit::Ok),
        Err(_) => Err(Error::TimedOut(format!(
            "not given back within {}; the last that was seen: {last}\nIt goes on without us. Where no controller runs, nothing is given back: kubectl get deploy -A -l app.kubernetes.io/name=sluice",
            span(args.timeout.get())
        ))),
    }
}

async fn all(session: &Session, all_namespaces: bool) -> Result<Vec<Rollout>, Error> {
    let (api, namespace) = match all_namespaces {
        true => (Api::all(session.client.clone()), ""),
        false => (session.api::<Rollout>(), session.namespace.as_str()),
    };
    let found = api.list(&ListParams::default()).await;
    Ok(found.map_err(|error| Asked::new("list", ROLLOUTS, namespace).explain(error, &session.url))?.items)
}

fn full_name(rollout: &Rollout) -> String {
    format!("{}/{}", rollout.namespace().unwrap_or_default(), rollout.name_any())
}

/// Why the Deployment stays paused, if it does: what its template says has not been judged, so nobody but a person releases it.
fn concern(rollout: &Rollout) -> Option<String> {
    let workload = rollout.spec.workload_ref.as_ref()?;
    let status = rollout.status.as_ref()?;
    let (stable, present) = (status.stable_revision.as_ref()?, status.canary_revision.as_ref()?);
    (stable != present).then(|| {
        let (namespace, name) = (rollout.namespace().unwrap_or_default(), &workload.name);
        format!(
            "{}: the present template is revision {present}, but {stable} serves. Its pods are given back, and Deployment {name} stays paused.\n\
             \x20 To stay with {stable}: set the image back in the Deployment; then, or to release {present} as it is:\n\
             \x20 kubectl rollout resume deployment/{name} -n {namespace}",
            full_name(rollout)
        )
    })
}

fn confirmed(rollouts: &[Rollout], answers: Option<&mut dyn BufRead>, out: &mut Out<'_>) -> Result<bool, Error> {
    let names: Vec<String> = rollouts.iter().map(full_name).collect();
    let what = format!("{} ({})", plural(rollouts.len(), "Rollout"), names.join(", "));
    let Some(answers) = answers else {
        return Err(Error::Pointless(format!("nothing was released: {what}\nNobody can be asked here; with --yes it is done.")));
    };
    write!(out.err, "Release {what}? [y/N] ")?;
    out.err.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    let yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !yes {
        out.note("Nothing was released.")?;
    }
    Ok(yes)
}

fn within(session: &Session, rollout: &Rollout) -> Session {
    Session { namespace: rollout.namespace().unwrap_or_default(), ..session.clone() }
}

async fn delete(session: &Session, rollout: &Rollout) -> Result<(), Error> {
    let session = within(session, rollout);
    match session.api::<Rollout>().delete(&rollout.name_any(), &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(session.explain("delete", ROLLOUTS)(error)),
    }
}

/// What becomes of one of the Rollouts: its place in the list, and the change.
type Changes = futures::stream::BoxStream<'static, (usize, Result<Event<Rollout>, Error>)>;

fn changes(session: &Session, rollouts: &[Rollout]) -> impl Stream<Item = (usize, Result<Event<Rollout>, Error>)> + use<> {
    let of = |(i, rollout): (usize, &Rollout)| -> Changes {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", rollout.name_any()));
        load::events::<Rollout>(&within(session, rollout), ROLLOUTS, config).map(move |event| (i, event)).boxed()
    };
    stream::select_all(rollouts.iter().enumerate().map(of))
}

/// Ends when all of them are gone. Meanwhile it tells what is waited for.
async fn gone(session: &Session, rollouts: &[Rollout], last: &mut String, out: &mut Out<'_>) -> Result<(), Error> {
    let mut changes = pin!(changes(session, rollouts));
    let mut seen: Vec<Objects<Rollout>> = rollouts.iter().map(|_| Objects::default()).collect();
    let mut left: Vec<bool> = vec![true; rollouts.len()];
    while left.contains(&true) {
        let Some((i, event)) = changes.next().await else { return Err(Error::Request("the watch has ended".into())) };
        match event {
            Ok(event) => seen[i].apply(event),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => {
                tell(format!("{error} (trying again)"), last, out)?;
                continue;
            }
        }
        if !left[i] || !seen[i].is_complete() {
            continue;
        }
        let name = full_name(&rollouts[i]);
        // One of the same name that is another: somebody has created it again.
        match seen[i].iter().find(|now| now.uid() == rollouts[i].uid()) {
            Some(now) if is_behind(now) => tell(format!("{name}: waits until the controller sees that it is to go"), last, out)?,
            Some(now) => tell(format!("{name}: {}", words::waits_for(now)), last, out)?,
            None => {
                left[i] = false;
                let back =
                    rollouts[i].spec.workload_ref.as_ref().map(|workload| format!("; Deployment {} has its pods back", workload.name));
                out.line(format!("{} {name} is released{}", out.style.mark(Tone::Good), back.unwrap_or_default()))?;
                if seen[i].iter().next().is_some() {
                    out.note(format!("{name} was created again by somebody else, and takes the workload over again"))?;
                }
            }
        }
    }
    Ok(())
}

fn tell(line: String, last: &mut String, out: &mut Out<'_>) -> io::Result<()> {
    if line != *last {
        out.note(&line)?;
        *last = line;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixtures;

    #[test]
    fn a_template_that_does_not_serve_is_a_concern() {
        for view in [fixtures::healthy(), fixtures::taking_over(), fixtures::without_controller()] {
            assert_eq!(concern(&view.rollout), None);
        }
        insta::assert_snapshot!(concern(&fixtures::aborted_by_analysis().rollout).unwrap(), @"
        shop/api: the present template is revision 7f9b, but 5d7c serves. Its pods are given back, and Deployment api stays paused.
          To stay with 5d7c: set the image back in the Deployment; then, or to release 7f9b as it is:
          kubectl rollout resume deployment/api -n shop
        ");
    }

    #[test]
    fn only_yes_is_yes() {
        let rollouts = [fixtures::healthy().rollout];
        let (mut text, mut notes) = (Vec::new(), Vec::new());
        let mut out = Out { out: &mut text, err: &mut notes, style: fixtures::plain(), columns: None };
        for (answer, expected) in [("y\n", true), ("Yes\n", true), ("\n", false), ("no\n", false), ("", false)] {
            assert_eq!(confirmed(&rollouts, Some(&mut answer.as_bytes()), &mut out).unwrap(), expected, "{answer:?}");
        }
        let error = confirmed(&rollouts, None, &mut out).unwrap_err().to_string();
        assert!(error.contains("1 Rollout (shop/api)") && error.contains("--yes"), "{error}");
    }
}
