//! `judge`: what the judge says of what was recorded: of counters in a file, or of those that Prometheus has kept.
//!
//! It is the judge of `compare`, asked look by look as in a rollout; there is no other.

mod dumps;
mod file;
mod picture;
mod print;
mod prometheus;
mod verdict;

use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::json;

use self::verdict::{Report, Threshold};
use super::{
    error::{Error, Exit},
    output::{Format, Out},
    share,
};
use crate::{
    api::{AnalysisRunSpec, Metric, quantity::Span},
    core::{
        analysis,
        judge::compare::{ErrorBudget, Ratio},
    },
};

#[derive(Clone, Debug, clap::Args)]
#[group(id = "judge")]
#[command(group(clap::ArgGroup::new("source").args(["file", "prometheus", "dumps"]).required(true)))]
pub struct Args {
    /// What was counted, as CSV or JSON; - for standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// With --file: each row says what was counted since the one before it; else they are counters, which only grow
    #[arg(long, requires = "file")]
    pub per_row: bool,
    /// A directory of what was exposed to Prometheus, each text in a file named by its moment: 2026-01-31T12:00:00Z.txt
    #[arg(long, value_name = "DIRECTORY")]
    pub dumps: Option<PathBuf>,
    #[command(flatten)]
    pub kept: prometheus::Args,
    /// How many times as often as stable the canary may fail [default: 1.25]
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub tolerate: Option<f64>,
    /// The part of good versions that you accept to see taken back [default: 0.05]
    #[arg(long, value_name = "SHARE", value_parser = risk)]
    pub max_false_aborts: Option<f64>,
    /// How evidence is gathered [default: SharedBetting]
    #[arg(long, value_parser = METHODS)]
    pub method: Option<String>,
    /// The canary's share of failures may not be above this in any interval, whatever stable does: 5%
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub ceiling: Option<f64>,
    /// Requests of the canary that it takes [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub min_samples: Option<i32>,
    /// Also ask for a proof that the canary fails less than so many times as often as stable
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub prove: Option<f64>,
    /// The rule to set beside it: windows in which the canary's share of failures is above this
    #[arg(long, value_name = "SHARE", default_value = "1%", value_parser = share)]
    pub rule_max: f64,
    /// The rule's window
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = window)]
    pub rule_window: Span,
    /// So many windows above it take the canary back
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub rule_failures: i32,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Form>,
}

/// As their names are written in a metric.
const METHODS: [&str; 2] = ["SharedBetting", "IndependentFailures"];

/// In which form the output is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// All of it, as JSON
    Json,
    /// All of it, as YAML
    Yaml,
    /// The evidence over time, as a picture
    Svg,
}

fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().map_err(|_| format!("{text:?} is not a number: write 2 for twice as often"))?;
    Ratio::parse(number).map(Ratio::get).map_err(|error| error.to_string())
}

fn risk(text: &str) -> Result<f64, String> {
    let share = share(text)?;
    ErrorBudget::parse(share).map(|_| share).map_err(|error| error.to_string())
}

fn window(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.get().is_zero() { Err("a window has some length: write 1m".to_owned()) } else { Ok(span) }
}

pub async fn run(args: &Args, namespace: &str, now: Timestamp, out: &mut Out<'_>) -> Result<Exit, Error> {
    let report = judge(args, namespace, &mut std::io::stdin().lock(), now).await?;
    tell(&report, args, out)
}

fn tell(report: &Report, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    match args.output {
        Some(Form::Json) => out.object(Format::Json, report)?,
        Some(Form::Yaml) => out.object(Format::Yaml, report)?,
        Some(Form::Svg) => out.line(picture::svg(report))?,
        None => {
            for line in print::lines(report, &out.style, out.columns.unwrap_or(100)) {
                out.line(line)?;
            }
        }
    }
    Ok(if report.finding.takes_back() { Exit::Failed } else { Exit::Ok })
}

async fn judge(args: &Args, namespace: &str, stdin: &mut dyn std::io::Read, now: Timestamp) -> Result<Report, Error> {
    let spec = spec(args)?;
    let metric = &spec.metrics[0];
    let source = analysis::source(&spec, metric, true).map_err(Error::Pointless)?;
    let (looks, notes) = match (&args.file, &args.dumps) {
        (None, Some(directory)) => (dumps::looks(directory, &spec, &source, namespace)?, vec![]),
        (Some(path), _) => {
            let (from_stdin, name) = (path.as_os_str() == "-", path.display().to_string());
            let name = if from_stdin { "standard input".to_owned() } else { name };
            let text = match from_stdin {
                true => file::text(&name, stdin)?,
                false => {
                    let mut opened = std::fs::File::open(path).map_err(|error| Error::Pointless(format!("cannot read {name}: {error}")))?;
                    file::text(&name, &mut opened)?
                }
            };
            let recorded = file::recorded(&name, &text, args.per_row, &source.what)?;
            (recorded.looks, recorded.notes)
        }
        (None, None) => prometheus::looks(&args.kept, &spec, namespace, now).await?,
    };
    let accepted = args.max_false_aborts.unwrap_or(0.05);
    let mut report = verdict::judge(&spec, &looks, 1.0 / accepted, args.tolerate.unwrap_or(1.25))?;
    let Args { rule_max, rule_window, rule_failures, .. } = args;
    let threshold = Threshold { max: rule_max * 100.0, window: rule_window.get(), failures: *rule_failures };
    report.rule = verdict::rule(threshold, &looks);
    report.notes = notes;
    Ok(report)
}

/// The run that a rollout would have.
fn spec(args: &Args) -> Result<AnalysisRunSpec, Error> {
    let mut metric = match args.file {
        Some(_) => json!({"scrape": {"ratio": {"numerator": "failures", "denominator": "requests"}}}),
        None => prometheus::metric(&args.kept, args.dumps.is_some())?,
    };
    metric["name"] = json!("canary");
    metric["compare"] = json!({"tolerate": args.tolerate, "maxFalseAborts": args.max_false_aborts, "method": args.method});
    metric["minSamples"] = json!(args.min_samples);
    match (args.ceiling, metric["preset"].as_str()) {
        (None, _) => {}
        (Some(_), Some(preset)) if preset.ends_with("latency") => {
            return Err(Error::Pointless(format!("--ceiling is a share of failures, and {preset} is about latencies: leave it out")));
        }
        (Some(ceiling), Some(_)) => metric["min"] = json!(100.0 - ceiling * 100.0),
        (Some(ceiling), None) => metric["max"] = json!(ceiling * 100.0),
    }
    if let Some(object) = metric.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    let metric: Metric = serde_json::from_value(metric).map_err(|error| Error::Pointless(error.to_string()))?;
    let mut spec: AnalysisRunSpec = serde_json::from_value(json!({"rollout": "recorded", "canaryHash": "canary", "stableHash": "stable",
        "service": "stable", "canaryService": "canary", "metrics": []}))
    .map_err(|error| Error::Pointless(error.to_string()))?;
    if args.file.is_none() {
        args.kept.fill(&mut spec);
    }
    spec.prove = args.prove.into_iter().collect();
    let fields = analysis::validate_metric(&metric, &analysis::Defaults { prometheus_address: true, without_traffic: false }, None);
    spec.metrics = vec![metric];
    match fields {
        Ok(()) => Ok(spec),
        Err(faults) => {
            let told = faults.iter().map(|(field, why)| format!("{}: {why}", flag(field)));
            Err(Error::Pointless(told.collect::<Vec<_>>().join("\n")))
        }
    }
}

/// The flag that sets a field.
fn flag(field: &str) -> &str {
    match field {
        "prometheus.counters.numerator" | "scrape.ratio.numerator" => "--failures",
        "prometheus.counters.denominator" | "scrape.ratio.denominator" => "--requests",
        "prometheus.counters" | "scrape.ratio" => "--failures, --requests",
        "min" | "max" => "--ceiling",
        other => other,
    }
}

#[cfg(test)]
mod tests;
