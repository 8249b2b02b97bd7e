//! `completion`: scripts for shells; and the answers that `kubectl sluice <TAB>` asks for.

use clap::{ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Service},
};
use kube::{
    Api, ResourceExt,
    api::ListParams,
    core::{ApiResource, DynamicObject},
};

use super::{
    Cli,
    error::{Error, Exit},
    load,
    output::Out,
    session::{Connection, Session},
    set,
    view::hash_of,
};
use crate::{api::Rollout, world::Watched};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_parser = clap::builder::EnumValueParser::<Shell>::new())]
    pub shell: Shell,
}

/// How completion is set up, for the head of each script and for `--help`.
pub const HOW: &str = "\
Completion for kubectl-sluice, in this shell only (put it into your shell's start file to keep it):
  source <(kubectl-sluice completion bash)                                    bash
  source <(kubectl-sluice completion zsh)                                     zsh
  kubectl-sluice completion fish | source                                     fish
  kubectl-sluice completion powershell | Out-String | Invoke-Expression       PowerShell

Completion for `kubectl sluice` comes from kubectl itself (1.26 or newer), which asks a program named
kubectl_complete-sluice in PATH. Make it once:
  printf '#!/bin/sh\\nexec kubectl-sluice __complete \"$@\"\\n' > /usr/local/bin/kubectl_complete-sluice
  chmod +x /usr/local/bin/kubectl_complete-sluice";

pub fn run(args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kubectl-sluice", &mut script);
    // The script's own head must stay first: zsh reads it.
    out.out.write_all(&script)?;
    for line in HOW.lines() {
        out.line(format!("# {line}").trim_end())?;
    }
    Ok(Exit::Ok)
}

/// What can stand for the last of `words`, in the form that kubectl reads: one in a line, then `:4` (no file names) or `:0`
/// (file names, which the shell knows).
pub async fn answer(words: &[String], out: &mut Out<'_>) -> Result<Exit, Error> {
    let command = Cli::command();
    let found = candidates(&command, words);
    let directive = if found == Candidates::Files { ":0" } else { ":4" };
    let candidates = match found {
        Candidates::Words(words) => words,
        Candidates::Files => Vec::new(),
        // A completion that cannot reach the cluster offers nothing: an error would garble the prompt.
        Candidates::InCluster(thing) => in_cluster(words, &thing).await.unwrap_or_default(),
    };
    let start = words.last().map_or("", String::as_str);
    for candidate in candidates.iter().filter(|candidate| candidate.starts_with(start)) {
        out.line(candidate)?;
    }
    out.line(directive)?;
    Ok(Exit::Ok)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Candidates {
    Words(Vec<String>),
    Files,
    InCluster(Thing),
}

/// What only the cluster knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Rollouts,
    Deployments,
    Namespaces,
    Services,
    Routes,
    /// Revisions of a Rollout that can be gone back to.
    Revisions(String),
    /// `CONTAINER=` of a Rollout's template.
    Containers(String),
}

fn candidates(command: &Command, words: &[String]) -> Candidates {
    let (current, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let (mut plain, mut rest, mut verb, mut open) = (Vec::new(), before.iter(), None::<&Command>, None);
    while let Some(word) = rest.next() {
        open = None;
        if word.starts_with('-') {
            if let Some(argument) = with_value(command, verb, word).filter(|_| !word.contains('=')) {
                open = rest.next().is_none().then_some(argument);
            }
        } else if let Some(deeper) = verb.unwrap_or(command).find_subcommand(word).filter(|_| plain.is_empty()) {
            verb = Some(deeper);
        } else {
            plain.push(word);
        }
    }
    let named = plain.first().map(|name| (*name).clone()).unwrap_or_default();
    if let Some(argument) = open {
        return values(argument, named);
    }
    let here = verb.unwrap_or(command);
    if current.starts_with('-') {
        return Candidates::Words(flags(command, verb));
    }
    if here.has_subcommands() {
        let shown = here.get_subcommands().filter(|verb| !verb.is_hide_set());
        return Candidates::Words(shown.map(|verb| verb.get_name().into()).collect());
    }
    let positionals: Vec<&clap::Arg> = here.get_positionals().collect();
    let last = positionals.last().filter(|last| last.get_num_args().is_some_and(|range| range.max_values() > 1));
    match positionals.get(plain.len()).or(last) {
        Some(argument) => values(argument, named),
        None => Candidates::Words(Vec::new()),
    }
}

/// What can be the value of an argument. `named`: the Rollout that stands before it.
fn values(argument: &clap::Arg, named: String) -> Candidates {
    Candidates::InCluster(match argument.get_id().as_str() {
        "name" if argument.is_positional() => Thing::Rollouts,
        "deployment" => Thing::Deployments,
        "namespace" => Thing::Namespaces,
        "service" | "canary_service" => Thing::Services,
        "routes" => Thing::Routes,
        "to_revision" | "for_revision" => Thing::Revisions(named),
        "images" => Thing::Containers(named),
        "files" | "file" | "dumps" | "kubeconfig" => return Candidates::Files,
        _ => return Candidates::Words(argument.get_possible_values().iter().map(|value| value.get_name().into()).collect()),
    })
}

fn arguments<'a>(command: &'a Command, verb: Option<&'a Command>) -> impl Iterator<Item = &'a clap::Arg> {
    verb.into_iter().chain([command]).flat_map(Command::get_opts)
}

/// The argument that this flag is, if a value follows it.
fn with_value<'a>(command: &'a Command, verb: Option<&'a Command>, word: &str) -> Option<&'a clap::Arg> {
    let long = word.strip_prefix("--");
    let short = word.strip_prefix('-').and_then(|word| word.chars().next());
    let named = |argument: &&clap::Arg| match long {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short() == short && word.len() == 2,
    };
    let takes_one =
        |argument: &&clap::Arg| matches!(argument.get_action(), ArgAction::Set | ArgAction::Append) && argument.get_long() != Some("watch");
    arguments(command, verb).filter(named).find(takes_one)
}

fn flags(command: &Command, verb: Option<&Command>) -> Vec<String> {
    let all = verb.into_iter().chain([command]).flat_map(Command::get_arguments);
    all.filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
}

/// Names from the cluster and namespace that the words before name.
async fn in_cluster(words: &[String], thing: &Thing) -> Result<Vec<String>, Error> {
    let value = |long: &str, short: Option<&str>| {
        let at = words.iter().position(|word| word == long || Some(word.as_str()) == short);
        let joined = words.iter().find_map(|word| word.strip_prefix(long)?.strip_prefix('=')).map(String::from);
        joined.or_else(|| words.get(at? + 1).cloned())
    };
    let connection = Connection {
        namespace: value("--namespace", Some("-n")).filter(|_| *thing != Thing::Namespaces),
        context: value("--context", None),
        kubeconfig: value("--kubeconfig", None).map(Into::into),
    };
    names(&Session::new(&connection).await?, thing).await
}

pub(super) async fn names(session: &Session, thing: &Thing) -> Result<Vec<String>, Error> {
    match thing {
        Thing::Rollouts => of_kind(session, ApiResource::erase::<Rollout>(&()), "rollouts.sluice.dev").await,
        Thing::Deployments => of_kind(session, ApiResource::erase::<Deployment>(&()), "deployments.apps").await,
        Thing::Services => of_kind(session, ApiResource::erase::<Service>(&()), "services").await,
        Thing::Routes => of_kind(session, Watched::HttpRoute.resource(), "httproutes.gateway.networking.k8s.io").await,
        Thing::Namespaces => {
            let found = Api::<Namespace>::all(session.client.clone()).list_metadata(&ListParams::default()).await;
            Ok(found.map_err(session.explain("list", "namespaces"))?.items.iter().map(ResourceExt::name_any).collect())
        }
        Thing::Revisions(rollout) => Ok(load::replica_sets(session, rollout).await?.iter().map(hash_of).collect()),
        Thing::Containers(rollout) => {
            let (_, _, holder) = set::holder(session, &session.rollout(rollout).await?).await?;
            Ok(set::names(&holder).iter().map(|name| format!("{name}=")).collect())
        }
    }
}

async fn of_kind(session: &Session, kind: ApiResource, resource: &'static str) -> Result<Vec<String>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(session.client.clone(), &session.namespace, &kind);
    let found = api.list_metadata(&ListParams::default()).await.map_err(session.explain("list", resource))?;
    Ok(found.items.iter().map(ResourceExt::name_any).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(words: &[&str]) -> Candidates {
        let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
        candidates(&Cli::command(), &words)
    }

    #[test]
    fn verbs_come_first_then_names_then_nothing() {
        let Candidates::Words(verbs) = offered(&[""]) else { panic!() };
        assert!(verbs.contains(&"promote".into()) && !verbs.contains(&"__complete".into()), "{verbs:?}");
        let rollouts = Candidates::InCluster(Thing::Rollouts);
        assert_eq!(offered(&["get", ""]), rollouts);
        assert_eq!(offered(&["-n", "shop", "promote", "--full", "--reason", "why not", "a"]), rollouts);
        assert_eq!(offered(&["get", "api", ""]), Candidates::Words(vec![]));
        let Candidates::Words(shells) = offered(&["completion", ""]) else { panic!() };
        assert!(shells.contains(&"fish".into()), "{shells:?}");
    }

    #[test]
    fn values_of_flags_and_of_nested_verbs_are_offered() {
        for (words, thing) in [
            (&["undo", "api", "--to-revision", "5"][..], Thing::Revisions("api".into())),
            (&["status", "api", "--for-revision", ""], Thing::Revisions("api".into())),
            (&["set", "image", "a"], Thing::Rollouts),
            (&["set", "image", "api", "app=app:v2", "p"], Thing::Containers("api".into())),
            (&["init", ""], Thing::Deployments),
            (&["init", "api", "--route", ""], Thing::Routes),
            (&["-n", "s"], Thing::Namespaces),
            (&["release", "--yes", ""], Thing::Rollouts),
            (&["history", "-o", "json", ""], Thing::Rollouts),
            // A Rollout may be called as a verb is.
            (&["undo", "set", "--to-revision", ""], Thing::Revisions("set".into())),
        ] {
            assert_eq!(offered(words), Candidates::InCluster(thing), "{words:?}");
        }
        assert_eq!(offered(&["lint", "--online", "-f", "roll"]), Candidates::Files);
        for words in [&["judge", "--file", ""][..], &["judge", "--dumps", "d"], &["simulate", "api", "-f", ""]] {
            assert_eq!(offered(words), Candidates::Files, "{words:?}");
        }
        assert_eq!(offered(&["simulate", ""]), Candidates::Words(vec![]), "the Rollout is one of the files, not of the cluster");
        let Candidates::Words(presets) = offered(&["judge", "--preset", ""]) else { panic!() };
        let gateways = ["contour", "istio", "linkerd", "traefik", "pods"];
        let both = gateways.map(|gateway| [format!("{gateway}/success-rate"), format!("{gateway}/latency")]);
        assert_eq!(presets, both.concat());
        assert_eq!(offered(&["set", ""]), Candidates::Words(vec!["image".into()]));
        assert_eq!(offered(&["history", "api", "-o", ""]), Candidates::Words(["json", "yaml", "wide"].map(String::from).to_vec()));
        assert_eq!(offered(&["abort", "api", "--reason", ""]), Candidates::Words(vec![]));
    }

    #[test]
    fn flags_are_those_of_the_verb_and_the_common_ones() {
        let Candidates::Words(flags) = offered(&["promote", "--"]) else { panic!() };
        assert!(["--full", "--reason", "--namespace", "--no-color"].iter().all(|flag| flags.contains(&(*flag).into())), "{flags:?}");
        let Candidates::Words(flags) = offered(&["abort", "--"]) else { panic!() };
        assert!(!flags.contains(&"--full".into()), "{flags:?}");
    }

    #[test]
    fn every_shell_has_a_script_that_says_how_to_use_it() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell] {
            let (mut text, mut notes) = (Vec::new(), Vec::new());
            let style = crate::cli::fixtures::plain();
            let mut out = Out { out: &mut text, err: &mut notes, style, columns: None };
            run(&Args { shell }, &mut out).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains("promote") && text.contains("# ") && text.contains("kubectl_complete-sluice"), "{shell}");
        }
    }
}
