//! What Prometheus has kept of both versions.

use async_trait::async_trait;
use clap::builder::PossibleValuesParser;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    api::{AnalysisRunSpec, AnalysisTemplateSpec, quantity::Span},
    cli::error::Error,
    core::{analysis::SecretsOf, counters::Look, presets, spec::Invalid},
    metrics::{Allow, MeasureRequest, PodTarget, Providers, SecretData, Settings, Sources},
};

/// Intervals of one answer.
const MOST_INTERVALS: i64 = 5000;

#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// The Prometheus that has kept the counters, as this machine reaches it
    #[arg(long, value_name = "URL", requires = "from")]
    pub prometheus: Option<String>,
    /// From this moment on: 2026-01-31T12:00:00Z, or so long ago: 2h
    #[arg(long, value_name = "TIME", requires = "prometheus", value_parser = moment)]
    pub from: Option<Moment>,
    /// Up to this moment [default: now]
    #[arg(long, value_name = "TIME", requires = "prometheus", value_parser = moment)]
    pub to: Option<Moment>,
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub interval: Option<Span>,
    /// What is counted
    #[arg(long, conflicts_with_all = ["file", "failures", "requests"], value_parser = PossibleValuesParser::new(presets::TELLING.map(presets::name)))]
    pub preset: Option<String>,
    /// The counters of what fails: a selector without rate(), such as hits{pod=~".+-{{canary.hash}}-.+",code=~"5.."}
    #[arg(long, value_name = "SELECTOR", conflicts_with = "file", requires = "requests")]
    pub failures: Option<String>,
    /// The counters of all requests: a selector
    #[arg(long, value_name = "SELECTOR", requires = "failures")]
    pub requests: Option<String>,
    /// Hash of the canary's pods: {{canary.hash}}
    #[arg(long, value_name = "HASH", conflicts_with = "file")]
    pub canary: Option<String>,
    /// Hash of stable's pods, which stands for {{canary.hash}} where stable is counted
    #[arg(long, value_name = "HASH", conflicts_with = "file")]
    pub stable: Option<String>,
    /// The app's Service, which stands for {{canary.service}} where stable is counted
    #[arg(long, value_name = "SERVICE", conflicts_with = "file")]
    pub service: Option<String>,
    /// The canary's Service: {{canary.service}} [default: SERVICE-canary]
    #[arg(long, value_name = "SERVICE", requires = "service")]
    pub canary_service: Option<String>,
}

/// A moment, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

fn moment(text: &str) -> Result<Moment, String> {
    let ago = || text.parse::<Span>().map(|span| Moment::Ago(span.get()));
    let bad = |_| format!("{text:?} is no moment: write 2026-01-31T12:00:00Z, or 2h for two hours ago");
    text.parse().map(Moment::At).or_else(|_: jiff::Error| ago()).map_err(bad)
}

impl Moment {
    fn get(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(at),
            Self::Ago(span) => now.checked_sub(span).ok(),
        }
    }
}

impl Args {
    /// Whom the queries are about.
    pub fn fill(&self, spec: &mut AnalysisRunSpec) {
        spec.service.clone_from(&self.service);
        let canary = || self.service.as_ref().map(|service| format!("{service}-canary"));
        spec.canary_service = self.canary_service.clone().or_else(canary);
        spec.canary_hash = self.canary.clone().unwrap_or_default();
        spec.stable_hash = Some(self.stable.clone().unwrap_or_default());
    }
}

/// The metric that is asked for. `texts`: of texts as they were exposed, else of what Prometheus has kept.
pub fn metric(args: &Args, texts: bool) -> Result<Value, Error> {
    let mut metric = match (&args.preset, &args.failures, &args.requests) {
        (Some(preset), ..) if texts && preset.starts_with("pods/") => {
            let told = "of texts by themselves nobody can tell whose pod they are: give --failures and --requests, with a label that tells the versions";
            return Err(Error::Pointless(format!("--preset {preset}: {told}")));
        }
        (Some(preset), ..) if texts => json!({"preset": preset, "scrape": {"url": "http://texts"}}),
        (Some(preset), ..) => json!({"preset": preset}),
        (None, Some(numerator), Some(denominator)) => {
            let ratio = json!({"numerator": numerator, "denominator": denominator});
            if texts { json!({"scrape": {"url": "http://texts", "ratio": ratio}}) } else { json!({"prometheus": {"counters": ratio}}) }
        }
        _ => return Err(Error::Pointless("say what is counted: --preset, or --failures and --requests".to_owned())),
    };
    metric["interval"] = json!(args.interval);
    let selects = |variable: &str| [&args.failures, &args.requests].into_iter().flatten().any(|selector| selector.contains(variable));
    let pods = args.preset.as_deref().map(|preset| preset.starts_with("pods/"));
    if pods.unwrap_or_else(|| selects("canary.hash")) && (args.canary.is_none() || args.stable.is_none()) {
        return Err(Error::Pointless("the versions are told by the hashes of their pods: give --canary and --stable".to_owned()));
    }
    if pods.map_or_else(|| selects("canary.service"), |pods| !pods) && args.service.is_none() {
        return Err(Error::Pointless("the versions are told by their Services: give --service".to_owned()));
    }
    Ok(metric)
}

/// What was counted, interval by interval, and the queries.
pub async fn looks(args: &Args, spec: &AnalysisRunSpec, namespace: &str, now: Timestamp) -> Result<(Vec<Look>, Vec<String>), Error> {
    let edges = edges(args, now)?;
    // This machine is the user's own: nothing on it is to be kept from them.
    let allow = Allow { loopback: true, ..Allow::default() };
    let settings = Settings { prometheus_address: args.prometheus.clone(), allow, ..Settings::default() };
    let providers = Providers::new(settings).map_err(Error::Request)?;
    let request = MeasureRequest { namespace, spec, metric: &spec.metrics[0], previous: None, sources: &Nobody, now };
    let mut queries = Vec::new();
    let looks = providers.looks(&request, &edges, &mut queries).await;
    let looks = looks.map_err(|error| Error::Request(format!("{error}\nasked was: {}", queries.join("; "))))?;
    Ok((looks, queries.into_iter().map(|query| format!("asked: {query}")).collect()))
}

/// Whole seconds, one interval apart.
fn edges(args: &Args, now: Timestamp) -> Result<Vec<Timestamp>, Error> {
    let whole = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
    let moment = |moment: Option<Moment>| moment.map_or(Some(now), |moment| moment.get(now)).map(whole);
    let (Some(from), Some(to)) = (moment(args.from), moment(args.to)) else {
        return Err(Error::Pointless("--from lies before all time".to_owned()));
    };
    let interval = args.interval.as_ref().map_or(SignedDuration::from_secs(30), |interval| interval.get());
    if interval < SignedDuration::from_secs(1) {
        return Err(Error::Pointless("--interval must be at least 1s".to_owned()));
    }
    let intervals = to.duration_since(from).as_secs() / interval.as_secs();
    match intervals {
        ..1 => Err(Error::Pointless(format!("there is no whole interval of {interval:#} from {from} to {to}"))),
        MOST_INTERVALS.. => Err(Error::Pointless(format!(
            "{intervals} intervals are more than {MOST_INTERVALS}: give a longer --interval, or a later --from"
        ))),
        _ => Ok((0..=i32::try_from(intervals).unwrap_or(i32::MAX)).map(|n| from + interval * n).collect()),
    }
}

/// Prometheus is asked, and nobody else.
struct Nobody;

#[async_trait]
impl Sources for Nobody {
    async fn pods(&self, _: &str) -> Result<Vec<PodTarget>, String> {
        Ok(vec![])
    }

    async fn secret(&self, _: SecretsOf, name: &str) -> Result<SecretData, String> {
        Err(format!("there is no Secret {name} here"))
    }

    fn cluster_template(&self, _: &str) -> Option<Result<AnalysisTemplateSpec, Invalid>> {
        None
    }
}
