//! `simulate`: what a Rollout would do with a good version and with a bad one, before anybody applies it.
//!
//! The controller's own plan runs on the simulated cluster, in virtual time, with requests that come and fail by chance. Each run has
//! chance of its own, from the seed and its number, so that the same command says the same.

mod course;
mod metrics;
mod print;
mod report;
mod world;

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use self::{
    course::{Course, Runs},
    report::{Report, Version},
    world::World,
};
use super::{
    error::{Error, Exit},
    lint,
    output::{Format, Out},
    share,
};
use crate::{
    api::{Rollout, quantity::Span},
    sim::clients::{Plan, Quality},
};

#[derive(Clone, Debug, clap::Args)]
#[group(id = "simulate")]
pub struct Args {
    /// Name of the Rollout, where the files hold several
    pub rollout: Option<String>,
    /// A file, a directory (with all below it), or - for standard input: the Rollout, and the templates that it names; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Requests per second that the app gets, both versions together
    #[arg(long, value_name = "N", default_value = "100", value_parser = rate)]
    pub rps: f64,
    /// Share of its answers that stable fails: 0.005 or 0.5%
    #[arg(long, value_name = "SHARE", default_value = "0.005", value_parser = share)]
    pub error_rate: f64,
    /// Share of its answers that the bad version fails [default: as stable]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub canary_error_rate: Option<f64>,
    /// So many failures come together, for one cause, of both versions
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub failures_together: u32,
    /// Half of stable's answers take less; one in ten takes more than twice, one in a hundred more than 4.4 times as long
    #[arg(long, value_name = "TIME", default_value = "80ms", value_parser = latency)]
    pub latency: Span,
    /// The same of the bad version [default: as stable]
    #[arg(long, value_name = "TIME", value_parser = latency)]
    pub canary_latency: Option<Span>,
    /// Pods that serve [default: what the Rollout or its Deployment says, else 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=50))]
    pub pods: Option<i32>,
    /// Time that a pod takes until it is ready
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub pods_ready_after: Span,
    /// What a metric answers that cannot be simulated: NAME=NUMBER; may be given several times
    #[arg(long, value_name = "METRIC=NUMBER", value_parser = assumption)]
    pub assume: Vec<(String, f64)>,
    /// A person promotes at each pause without a duration, after this time [default: the run ends there]
    #[arg(long, value_name = "TIME")]
    pub promote_after: Option<Span>,
    /// Rollouts of each version
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub runs: u64,
    /// Where chance begins: the same number gives the same answer
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// A rollout that takes longer is not followed any more [default: 1h, and twice the time that its steps take]
    #[arg(long, value_name = "TIME", value_parser = followed)]
    pub limit: Option<Span>,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number: write 100 for 100 requests per second"))?;
    if number > 0.0 && number <= 1e6 { Ok(number) } else { Err("write a number above 0, and 1000000 at most".to_owned()) }
}

fn latency(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.get().is_zero() { Err("an answer must take some time: write 80ms".to_owned()) } else { Ok(span) }
}

fn followed(text: &str) -> Result<Span, String> {
    let (span, most): (Span, _) = (text.parse()?, SignedDuration::from_hours(24 * 7));
    if span.get() <= most { Ok(span) } else { Err("a rollout is followed for a week (168h) at most".to_owned()) }
}

fn assumption(text: &str) -> Result<(String, f64), String> {
    let bad = || format!("{text:?}: write the metric's name and a number: saturation=0.7");
    let (name, number) = text.split_once('=').ok_or_else(bad)?;
    let number = number.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(bad)?;
    Ok((name.to_owned(), number))
}

pub fn run(args: &Args, namespace: &str, stdin: &mut dyn std::io::Read, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    let Some(report) = simulate(args, namespace, stdin, now, out)? else { return Ok(Exit::Error) };
    match args.output {
        Some(format @ (Format::Json | Format::Yaml)) => out.object(format, &report)?,
        _ => {
            for line in print::lines(&report, &out.style) {
                out.line(line)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// `None`: something is wrong with the files, which was told.
fn simulate(
    args: &Args,
    namespace: &str,
    stdin: &mut dyn std::io::Read,
    now: Timestamp,
    out: &mut Out<'_>,
) -> Result<Option<Report>, Error> {
    let (checked, documents) = lint::checked(&args.files, namespace, stdin, now)?;
    if checked.problems() > 0 {
        for line in checked.lines(&out.style) {
            out.note(line)?;
        }
        return Ok(None);
    }
    let rollout = choose(&documents, args.rollout.as_deref())?;
    let ready_after = args.pods_ready_after.get();
    let mut world = World::new(&world::Plan { rollout, documents: &documents, pods: args.pods, ready_after })?;
    let metrics = metrics::metrics(&world, &args.assume.iter().cloned().collect::<BTreeMap<_, _>>())?;
    if metrics.answers.is_empty() {
        world.notes.push("no metric judges it: every version whose pods become ready is promoted".to_owned());
    }
    let stable = Quality { error_rate: args.error_rate, latency: milliseconds(args.latency.get()) };
    let latency = args.canary_latency.as_ref().map_or(stable.latency, |latency| milliseconds(latency.get()));
    let bad = Quality { error_rate: args.canary_error_rate.unwrap_or(args.error_rate), latency };
    let limit = args.limit.as_ref().map_or_else(|| limit(&world.rollout), |limit| limit.get());
    let mut versions = Vec::new();
    for (name, canary) in [("as good as stable", stable), ("the bad version", bad)] {
        if name != "as good as stable" && canary == stable {
            continue;
        }
        let (rps, together) = (args.rps, args.failures_together);
        let plan = Plan { rps, stable, canary, together, metrics: metrics.asked.clone(), longest: metrics.longest };
        let promote_after = args.promote_after.as_ref().map(Span::get);
        let runs = Runs { world: &world, plan: &plan, seed: args.seed, limit, promote_after };
        let courses = follow(&runs, args.runs, name, out)?;
        versions.push(Version::new(name, canary == stable, (canary.error_rate, canary.latency), &courses));
    }
    Ok(Some(Report {
        rollout: world.name.clone(),
        runs: usize::try_from(args.runs).unwrap_or(usize::MAX),
        seed: args.seed,
        requests_per_second: args.rps,
        pods: world.pods,
        pods_ready_after_seconds: ready_after.as_secs_f64(),
        limit_seconds: limit.as_secs_f64(),
        metrics: metrics.answers,
        notes: world.notes,
        versions,
    }))
}

fn milliseconds(time: SignedDuration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The one Rollout of the documents, or that of this name.
fn choose<'a>(documents: &'a [serde_json::Value], name: Option<&str>) -> Result<&'a serde_json::Value, Error> {
    let ours = |document: &&serde_json::Value| {
        document["kind"] == "Rollout" && document["apiVersion"].as_str().is_some_and(|version| version.starts_with(crate::api::GROUP))
    };
    let names = |documents: &[&serde_json::Value]| {
        documents.iter().filter_map(|document| document["metadata"]["name"].as_str()).collect::<Vec<_>>().join(", ")
    };
    let all: Vec<&serde_json::Value> = documents.iter().filter(ours).collect();
    let fitting: Vec<&serde_json::Value> =
        all.iter().copied().filter(|document| name.is_none_or(|name| document["metadata"]["name"] == name)).collect();
    match (fitting.as_slice(), name) {
        ([one], _) => Ok(one),
        ([], Some(name)) if !all.is_empty() => {
            Err(Error::Pointless(format!("the files hold no Rollout {name:?}: they hold {}", names(&all))))
        }
        ([], _) => Err(Error::Pointless("the files hold no Rollout of sluice.dev: give its file with -f".to_owned())),
        (several, None) if several.iter().any(|other| other["metadata"]["name"] != several[0]["metadata"]["name"]) => {
            Err(Error::Pointless(format!("the files hold several Rollouts: name one of {}", names(several))))
        }
        (several, _) => Err(Error::Pointless(format!("the files hold {} Rollouts of the same name: give the file of one", several.len()))),
    }
}

/// An hour, and twice what the pauses take; a week at most.
fn limit(rollout: &Rollout) -> SignedDuration {
    let steps = rollout.spec.strategy.canary.iter().flat_map(|canary| &canary.steps);
    let waits = steps.filter_map(|step| {
        let pause = step.pause.as_ref()?;
        pause.duration.as_ref().or(pause.prove.as_ref().map(|proof| &proof.max_duration)).map(Span::get)
    });
    waits
        .fold(SignedDuration::from_hours(1), |sum, wait| sum.saturating_add(wait.saturating_mul(2)))
        .min(SignedDuration::from_hours(24 * 7))
}

/// Runs, in as many threads as there are cores. Says how far it is, on a terminal, when it takes longer than a second.
fn follow(runs: &Runs<'_>, count: u64, name: &str, out: &mut Out<'_>) -> Result<Vec<Course>, Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut courses = Vec::new();
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= count {
                return Ok(courses);
            }
            let course = runs.course(run).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
            courses.push((run, course));
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let terminal = std::io::stderr().is_terminal();
    let parts: Vec<Result<Vec<(u64, Course)>, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(count)).map(|_| scope.spawn(work)).collect();
        let begin = Instant::now();
        let mut shown = false;
        while terminal && threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
            if begin.elapsed() > Duration::from_secs(1) {
                let text = format!("\r{name}: {} of {count} rollouts", done.load(Ordering::Relaxed));
                shown = write!(out.err, "{text}").and_then(|()| out.err.flush()).is_ok();
            }
        }
        if shown {
            let _nobody_looks = write!(out.err, "\r\x1b[K");
        }
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut courses = Vec::new();
    for part in parts {
        courses.extend(part?);
    }
    courses.sort_by_key(|(run, _)| *run);
    Ok(courses.into_iter().map(|(_, course)| course).collect())
}

#[cfg(test)]
mod tests;
