//! `kubectl sluice`: shows Rollouts and steers them.
//!
//! One file for each verb; what they share is the [`printer`] and [`words`]. What is shown follows from a [`view`] alone, so it is
//! tested without a cluster.

pub mod action;
pub mod completion;
pub mod error;
#[cfg(test)]
mod fixtures;
pub mod get;
pub mod gitops;
pub mod history;
pub mod init;
pub mod judge;
#[cfg(feature = "sim")]
pub mod lint;
pub mod list;
pub mod load;
pub mod neighbours;
pub mod output;
pub mod printer;
pub mod probe;
pub mod release;
pub mod render;
pub mod screen;
pub mod session;
pub mod set;
#[cfg(all(test, feature = "sim"))]
mod sim_tests;
#[cfg(feature = "sim")]
pub mod simulate;
pub mod status;
pub mod undo;
pub mod version;
pub mod view;
pub mod watch;
pub mod why;
pub mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use jiff::Timestamp;

use self::{
    error::{Error, Exit},
    output::{Format, Out},
    session::{Connection, Session},
};
use crate::api::Verb;

/// Shows Rollouts and steers them.
#[derive(Clone, Debug, Parser)]
#[command(name = "kubectl-sluice", bin_name = "kubectl sluice", version, about, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    /// No colours (also: the environment variable NO_COLOR)
    #[arg(long, global = true)]
    no_color: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kubectl sluice list -A                                 all Rollouts
  kubectl sluice get api                                 one of them, as a tree
  kubectl sluice status api --for-image app:v2           wait until app:v2 serves, in a pipeline
  kubectl sluice why api                                 why it does not go on
  kubectl sluice promote api --reason 'looks good'       end the pause that it is at
  kubectl sluice undo api                                go back to the version that served before
  kubectl sluice init api > rollout.yaml                 a Rollout for the Deployment api";

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// One line for each Rollout
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  kubectl sluice list\n  kubectl sluice list -A -o wide\n  kubectl sluice list -A -o json | jq -r '.items[] | select(.status.phase == \"Aborted\") | .metadata.name'"
    )]
    List(list::Args),
    /// One Rollout as a tree: steps, weights, revisions, pods, analysis
    #[command(
        after_help = "Examples:\n  kubectl sluice get api\n  kubectl sluice get api -o wide\n  kubectl sluice get api -o json | jq .status.message"
    )]
    Get(get::Args),
    /// The same tree, live
    #[command(
        after_help = "Events of the cluster draw it again; q quits. Where the output is no terminal, each change is a line.\n\nExamples:\n  kubectl sluice watch api\n  kubectl sluice watch api | tee rollout.log\n  kubectl sluice watch api -o json | jq --unbuffered -c .status.weights"
    )]
    Watch(watch::Args),
    /// Wait until a Rollout has ended well or badly
    #[command(after_help = "\
Progress goes to standard error, the result to standard output. Exit codes:
  0  Healthy                 1  an error
  2  aborted or degraded     3  the time was over (with --watch=false: it has not ended)
  4  the Rollout went on to another version than the one that was waited for

Examples:
  kubectl sluice status api --timeout 20m
  kubectl sluice status api --for-image registry.example.com/app:v2
  kubectl sluice status api --watch=false -o json | jq .status.phase")]
    Status(status::Args),
    /// In words: what a Rollout waits for, or why it was taken back
    #[command(after_help = "Examples:\n  kubectl sluice why api")]
    Why(why::Args),
    /// End the pause that a rollout is at
    #[command(after_help = "Examples:\n  kubectl sluice promote api\n  kubectl sluice promote api --full --reason 'hotfix'")]
    Promote {
        /// Also end all later pauses and analysis: to 100 % as soon as the new version has the pods for it
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        args: action::Args,
    },
    /// Send all traffic back to stable, and reject the new version
    #[command(after_help = "Examples:\n  kubectl sluice abort api --reason 'customers report errors'")]
    Abort(action::Args),
    /// Start a rejected version again, from the first step
    #[command(after_help = "Examples:\n  kubectl sluice retry api --reason 'the database is back'")]
    Retry(action::Args),
    /// Hold a rollout where it is
    #[command(after_help = "Examples:\n  kubectl sluice pause api --reason 'looking at the logs'")]
    Pause(action::Args),
    /// Go on after a pause by `pause`, or after an analysis that could not decide
    #[command(after_help = "Examples:\n  kubectl sluice resume api")]
    Resume(action::Args),
    /// Go on to the next step, without the rest of the pause or analysis of the present one
    #[command(after_help = "Examples:\n  kubectl sluice skip-step api --reason 'looked at the dashboards'")]
    SkipStep(action::Args),
    /// Take the version that serves back: all traffic goes to an earlier one, without steps
    #[command(after_help = "\
The version that is taken back stays rejected until the template changes, or someone retries it. Where a rollout is running, `abort` is
what takes the new version back. `kubectl sluice history` shows which revisions there are.

Examples:
  kubectl sluice undo api --reason 'orders are lost'                 to the version that served before
  kubectl sluice undo api --to-revision 5d7c8f9b6                    to this one")]
    Undo(undo::Args),
    /// Restart every pod of the version that serves, one after the other
    #[command(after_help = "Examples:\n  kubectl sluice restart api --reason 'new certificates'")]
    Restart(action::Args),
    /// The rollouts that ended, and the revisions that can be gone back to
    #[command(
        after_help = "NOW says what the revision is: serves, canary, rejected, kept (its ReplicaSet is still there) or gone.\n\nExamples:\n  kubectl sluice history api\n  kubectl sluice history api -o json | jq '.rollouts[] | select(.outcome == \"Aborted\")'"
    )]
    History(history::Args),
    /// Change the Rollout's workload
    Set(set::Args),
    /// Give a workload back: delete its Rollout, and wait until everything is as it was
    #[command(after_help = "\
The Deployment gets its pods back without a restart. Where its present template is not the version that serves (in the middle of a
rollout, or after an abort) it stays paused, and this asks first: --yes answers.

Examples:
  kubectl sluice release api
  kubectl sluice release --all -A --yes --timeout 30m                before Sluice is uninstalled")]
    Release(release::Args),
    /// Write the Rollout for a Deployment that runs behind a Service and an HTTPRoute
    #[command(after_help = "\
The Service is found by its selector, the route by its backendRefs; nothing is asked, and nothing is written to the cluster. The metric
is the one that has data in the Prometheus of --prometheus; else the pods' own, where they carry the annotation prometheus.io/port.

Examples:
  kubectl sluice init api > rollout.yaml
  kubectl sluice init api --route api-public | kubectl apply -f -
  kubectl sluice init api --prometheus http://localhost:9090 | kubectl sluice lint --online -f -")]
    Init(init::Args),
    /// Check manifests as the API server and the controller would
    #[cfg(feature = "sim")]
    #[command(after_help = "\
By default no cluster is asked, so that it says the same everywhere: schemas and rules of the CRDs, whether the controller can carry the
spec out, metrics and their queries, and how it fits the Deployment, Service and HTTPRoute in the same files. With --online, also: what
the Rollouts name in the cluster, autoscalers that still scale the Deployment, what you may do, and what the metrics answer now.

Exit codes: 0 no problems (notes are none), 1 problems, or an error.

Examples:
  kubectl sluice lint -f rollout.yaml
  kubectl sluice lint -f deploy/ -o json
  helm template ./chart | kubectl sluice lint -f -
  kubectl sluice lint --online -f rollout.yaml --prometheus http://localhost:9090")]
    Lint(lint::Args),
    /// Judge a canary by what was recorded of it and of stable
    #[command(after_help = "\
The judge of `compare` (docs/judge.md) is asked look by look, as in a rollout. Beside it stands what a rule with a threshold would have
said of the same. A file has the columns time, canary_requests, canary_failures (or canary_successes), stable_requests and
stable_failures (or stable_successes); as JSON it is a list of objects with these names. Where Prometheus is asked, {{canary.hash}} and
{{canary.service}} stand for stable's when stable is counted.

Exit codes: 0 the canary stays, 1 an error, 2 it is taken back.

Examples:
  kubectl sluice judge --file counts.csv
  kubectl sluice judge --file counts.csv --tolerate 1.5 --ceiling 5% --rule-max 2% --rule-failures 3
  kubectl sluice judge --prometheus http://localhost:9090 --from 2h --to 1h --preset contour/success-rate -n shop --service api
  kubectl sluice judge --file counts.csv -o svg > evidence.svg")]
    Judge(judge::Args),
    /// Try a Rollout out: many rollouts of a good and of a bad version, in virtual time
    #[cfg(feature = "sim")]
    #[command(after_help = "\
No cluster is asked. The controller's own plan runs on a simulated cluster, whose clients send --rps requests per second; each fails by
chance, as often as the version that it reaches. It says how often and when a version as good as stable is promoted, and taken back
falsely; and with --canary-error-rate or --canary-latency, how often and when a bad one is taken back, and what it did until then.

Metrics are answered from the simulated requests: presets, quotients of two sum(increase(...)) of counters, and histogram_quantile() of
latencies. What else a metric answers must be said with --assume.

Examples:
  kubectl sluice simulate -f rollout.yaml --rps 100 --error-rate 0.5% --canary-error-rate 2%
  kubectl sluice simulate -f rollout.yaml -f templates/ --canary-latency 120ms --runs 1000
  kubectl sluice simulate -f rollout.yaml --canary-error-rate 5% -o json | jq '.versions[1].aborted'")]
    Simulate(simulate::Args),
    /// Print a completion script for a shell
    #[command(after_help = completion::HOW)]
    Completion(completion::Args),
    /// Print the versions of the plugin and of the controller
    #[command(after_help = "Examples:\n  kubectl sluice version\n  kubectl sluice version --client")]
    Version(version::Args),
    #[command(name = "__complete", hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

impl Command {
    fn wide(&self) -> bool {
        let format = match self {
            Command::List(args) => args.output,
            Command::Get(args) => args.output,
            Command::History(args) => args.output,
            Command::Watch(args) => args.output,
            Command::Why(args) => args.output,
            _ => None,
        };
        format == Some(Format::Wide)
    }
}

/// The plugin, from its arguments to its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return explain_usage(&usage),
    };
    if cli.no_color {
        anstream::ColorChoice::Never.write_global();
    }
    let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr());
    let mut out = Out { out: &mut stdout, err: &mut stderr, style: output::style(cli.command.wide()), columns: output::columns() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Error::Output(error)),
    };
    match runtime.block_on(run(&cli, &mut out)) {
        Ok(exit) => exit.into(),
        Err(error) => fail(&error),
    }
}

/// Help and version are no error. A wrong command line is 1, not the 2 that is usual: 2 says that a rollout was aborted.
fn explain_usage(usage: &clap::Error) -> ExitCode {
    if let Err(error) = usage.print() {
        return fail(&Error::Output(error));
    }
    if usage.use_stderr() { Exit::Error.into() } else { Exit::Ok.into() }
}

fn fail(error: &Error) -> ExitCode {
    if !error.is_broken_pipe() {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{red}error:{red:#} {error}");
    }
    error.exit().into()
}

async fn run(cli: &Cli, out: &mut Out<'_>) -> Result<Exit, Error> {
    let connect = || Session::new(&cli.connection);
    let now = Timestamp::now();
    match &cli.command {
        Command::List(args) => list::run(&connect().await?, args, now, out).await,
        Command::Get(args) => get::run(&connect().await?, args, now, out).await,
        Command::Watch(args) => watch::run(&connect().await?, args, out).await,
        Command::Why(args) => why::run(&connect().await?, args, now, out).await,
        Command::Status(args) => status::run(&connect().await?, args, out).await,
        Command::Promote { full: false, args } => action::run(&connect().await?, Verb::Promote, args, out).await,
        Command::Promote { full: true, args } => action::run(&connect().await?, Verb::PromoteFull, args, out).await,
        Command::Abort(args) => action::run(&connect().await?, Verb::Abort, args, out).await,
        Command::Retry(args) => action::run(&connect().await?, Verb::Retry, args, out).await,
        Command::Pause(args) => action::run(&connect().await?, Verb::Pause, args, out).await,
        Command::Resume(args) => action::run(&connect().await?, Verb::Resume, args, out).await,
        Command::SkipStep(args) => action::run(&connect().await?, Verb::SkipStep, args, out).await,
        Command::Undo(args) => undo::run(&connect().await?, args, out).await,
        Command::Restart(args) => action::run(&connect().await?, Verb::Restart, args, out).await,
        Command::History(args) => history::run(&connect().await?, args, now, out).await,
        Command::Set(args) => set::run(&connect().await?, args, out).await,
        Command::Release(args) => release::run(&connect().await?, args, out).await,
        Command::Init(args) => init::run(&connect().await?, args, cli.connection.namespace.as_deref(), out).await,
        #[cfg(feature = "sim")]
        Command::Lint(args) => lint::run(&cli.connection, args, now, out).await,
        Command::Judge(args) => judge::run(args, cli.connection.namespace.as_deref().unwrap_or("default"), now, out).await,
        #[cfg(feature = "sim")]
        Command::Simulate(args) => {
            let namespace = cli.connection.namespace.as_deref().unwrap_or("default");
            simulate::run(args, namespace, &mut std::io::stdin().lock(), now, out)
        }
        Command::Completion(args) => completion::run(args, out),
        Command::Complete { words } => completion::answer(words, out).await,
        Command::Version(args) if args.client => version::run(None, args, out).await,
        Command::Version(args) => version::run(Some(connect().await), args, out).await,
    }
}

/// A Rollout's name as people give it: `api`, `rollout/api`, `rollouts.sluice.dev/api`.
fn rollout_name(text: &str) -> Result<String, String> {
    let (kind, name) = text.split_once('/').unwrap_or(("rollout", text));
    if !matches!(kind, "rollout" | "rollouts" | "slr" | "rollout.sluice.dev" | "rollouts.sluice.dev") {
        return Err(format!("{kind:?} is no Rollout: write NAME or rollout/NAME"));
    }
    if name.is_empty() {
        return Err("the name is missing: write NAME or rollout/NAME".into());
    }
    Ok(name.to_owned())
}

/// A share of requests as people write it: `0.005`, `0.5%`.
fn share(text: &str) -> Result<f64, String> {
    let bad = || format!("{text:?} is not a share from 0 to 1: write 0.005 or 0.5% for one request in 200");
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 100.0));
    let number = number.parse::<f64>().map_err(|_| bad())? / scale;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_names_every_verb() {
        insta::assert_snapshot!("help", Cli::command().term_width(120).render_help());
    }

    #[test]
    fn every_verb_explains_itself_with_examples() {
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set() && !verb.has_subcommands()) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.replace("kubectl-sluice", "kubectl sluice").contains("kubectl sluice ") && verb.get_about().is_some(),
                "{}: {help}",
                verb.get_name()
            );
        }
    }

    #[test]
    fn a_rollout_may_be_named_as_kubectl_does() {
        for text in ["api", "rollout/api", "rollouts/api", "slr/api", "rollouts.sluice.dev/api"] {
            assert_eq!(rollout_name(text).unwrap(), "api");
        }
        for text in ["deploy/api", "rollout/", ""] {
            assert!(rollout_name(text).is_err(), "{text:?}");
        }
    }
}
