//! `completion`: scripts for shells; and the answers that `kubectl sluice <TAB>` asks for.

use clap::{ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use kube::ResourceExt;

use super::{
    Cli,
    error::{Error, Exit},
    output::Out,
    session::{Connection, Session},
};
use crate::api::Rollout;

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

/// What can stand for the last of `words`, in the form that kubectl reads: one in a line, then `:4` (no file names).
pub async fn answer(words: &[String], out: &mut Out<'_>) -> Result<Exit, Error> {
    let command = Cli::command();
    let candidates = match candidates(&command, words) {
        Candidates::Words(words) => words,
        // A completion that cannot reach the cluster offers nothing: an error would garble the prompt.
        Candidates::Rollouts => rollouts(words).await.unwrap_or_default(),
    };
    let start = words.last().map_or("", String::as_str);
    for candidate in candidates.iter().filter(|candidate| candidate.starts_with(start)) {
        out.line(candidate)?;
    }
    out.line(":4")?;
    Ok(Exit::Ok)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Candidates {
    Words(Vec<String>),
    /// Names of Rollouts, from the cluster.
    Rollouts,
}

fn candidates(command: &Command, words: &[String]) -> Candidates {
    let (current, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut plain = Vec::new();
    let mut rest = before.iter();
    let mut verb = None;
    while let Some(word) = rest.next() {
        match word.strip_prefix('-') {
            Some(_) if !word.contains('=') && takes_value(command, verb, word) => drop(rest.next()),
            Some(_) => {}
            None if verb.is_none() => verb = command.find_subcommand(word),
            None => plain.push(word),
        }
    }
    let Some(verb) = verb else {
        let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        return Candidates::Words(if current.starts_with('-') {
            flags(command, None)
        } else {
            shown.map(|verb| verb.get_name().into()).collect()
        });
    };
    if current.starts_with('-') {
        return Candidates::Words(flags(command, Some(verb)));
    }
    match verb.get_positionals().nth(plain.len()) {
        Some(argument) if argument.get_id() == "name" => Candidates::Rollouts,
        Some(argument) => Candidates::Words(argument.get_possible_values().iter().map(|value| value.get_name().into()).collect()),
        None => Candidates::Words(Vec::new()),
    }
}

fn arguments<'a>(command: &'a Command, verb: Option<&'a Command>) -> impl Iterator<Item = &'a clap::Arg> {
    verb.into_iter().chain([command]).flat_map(Command::get_opts)
}

fn takes_value(command: &Command, verb: Option<&Command>, word: &str) -> bool {
    let long = word.strip_prefix("--");
    let short = word.strip_prefix('-').and_then(|word| word.chars().next());
    let named = |argument: &&clap::Arg| match long {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short() == short && word.len() == 2,
    };
    arguments(command, verb)
        .filter(named)
        .any(|argument| matches!(argument.get_action(), ArgAction::Set) && argument.get_long() != Some("watch"))
}

fn flags(command: &Command, verb: Option<&Command>) -> Vec<String> {
    let all = verb.into_iter().chain([command]).flat_map(Command::get_arguments);
    all.filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")).collect()
}

/// Names of the Rollouts in the namespace that the words before name.
async fn rollouts(words: &[String]) -> Result<Vec<String>, Error> {
    let value = |long: &str, short: Option<&str>| {
        let at = words.iter().position(|word| word == long || Some(word.as_str()) == short);
        let joined = words.iter().find_map(|word| word.strip_prefix(long)?.strip_prefix('=')).map(String::from);
        joined.or_else(|| words.get(at? + 1).cloned())
    };
    let connection = Connection {
        namespace: value("--namespace", Some("-n")),
        context: value("--context", None),
        kubeconfig: value("--kubeconfig", None).map(Into::into),
    };
    let session = Session::new(&connection).await?;
    let found = session.api::<Rollout>().list_metadata(&Default::default()).await;
    let found = found.map_err(session.explain("list", super::load::ROLLOUTS))?;
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
        assert_eq!(offered(&["get", ""]), Candidates::Rollouts);
        assert_eq!(offered(&["-n", "shop", "promote", "--full", "--reason", "why not", "a"]), Candidates::Rollouts);
        assert_eq!(offered(&["get", "api", ""]), Candidates::Words(vec![]));
        let Candidates::Words(shells) = offered(&["completion", ""]) else { panic!() };
        assert!(shells.contains(&"fish".into()), "{shells:?}");
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
