//! Providers: a query in, typed samples or a typed error out. Nothing here touches Kubernetes: what is needed of it (pods' addresses,
//! Secrets) comes through [`Sources`].

mod access;
pub mod exposition;
mod flights;
mod guard;
mod http;
mod prometheus;
mod range;
mod scrape;

use std::{collections::BTreeMap, fmt, net::IpAddr};

use async_trait::async_trait;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::{
    api::{AnalysisRunSpec, AnalysisRunStatus, AnalysisTemplateSpec, Metric, run::Reading},
    core::{
        analysis::{self, ErrorKind, Measured, ProviderError, SecretsOf},
        counters::Look,
        judge::Sample,
        query::Values,
        source::{Provider, Source},
        spec::Invalid,
    },
};

use access::Credentials;
pub use access::SecretData;
use flights::Flights;
pub use guard::{Allow, Place, forbidden};
pub use http::client;
pub use scrape::exposed;

/// What the installation brings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Prometheus for metrics that name no address. It may be anywhere, whatever `allow` says.
    pub prometheus_address: Option<String>,
    /// Token for that address, and for no other; for metrics that bring nothing of their own.
    pub prometheus_token: Option<Token>,
    /// Which other addresses may be asked.
    pub allow: Allow,
}

/// A secret. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(...)")
    }
}

/// What measuring needs of Kubernetes.
#[async_trait]
pub trait Sources: Send + Sync {
    /// The ready pods of a revision, by its hash.
    async fn pods(&self, revision: &str) -> Result<Vec<PodTarget>, String>;

    /// What a Secret holds, if metrics may use it; else why not.
    async fn secret(&self, of: SecretsOf, name: &str) -> Result<SecretData, String>;

    /// A ClusterAnalysisTemplate as it is now.
    fn cluster_template(&self, name: &str) -> Option<Result<AnalysisTemplateSpec, Invalid>>;
}

/// A pod that exposes metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// Name, unique among the pods of a revision for as long as the process lives whose counters it stands for.
    pub name: String,
    pub ip: IpAddr,
    /// The annotation `prometheus.io/port`.
    pub port: Option<u16>,
    /// The annotation `prometheus.io/path`.
    pub path: Option<String>,
}

/// One metric that is measured now.
pub struct MeasureRequest<'a> {
    pub namespace: &'a str,
    pub spec: &'a AnalysisRunSpec,
    pub metric: &'a Metric,
    /// The counters at the begin of the window, if they have been read.
    pub previous: Option<&'a Reading>,
    pub sources: &'a dyn Sources,
    pub now: Timestamp,
}

/// Who measures. The controller uses [`Providers`].
#[async_trait]
pub trait Measure: Send + Sync {
    /// Whether metrics may leave the address of Prometheus out.
    fn has_prometheus(&self) -> bool;

    async fn measure(&self, request: &MeasureRequest<'_>) -> Measured;
}

/// Time from a scrape until its samples can be asked for.
const SCRAPE_LAG: SignedDuration = SignedDuration::from_secs(5);

/// Starts a run, measures what is due, or ends it. `None`: nothing had to be done.
pub async fn measure_due(
    measure: &dyn Measure,
    namespace: &str,
    spec: &AnalysisRunSpec,
    status: &AnalysisRunStatus,
    sources: &dyn Sources,
    now: Timestamp,
) -> Option<AnalysisRunStatus> {
    if status.phase.is_final() {
        return None;
    }
    if spec.terminate {
        return Some(analysis::cancel(status.clone(), now));
    }
    let fresh = status.started_at.is_none();
    let status = if fresh { analysis::start(spec, measure.has_prometheus(), now) } else { status.clone() };
    let due = analysis::due(spec, &status, now);
    if due.is_empty() {
        return fresh.then_some(status);
    }
    let measured = due.into_iter().map(|index| {
        let metric = &spec.metrics[index];
        let previous = analysis::result(&status, metric).and_then(|result| result.last_reading.as_ref());
        let request = MeasureRequest { namespace, spec, metric, previous, sources, now };
        async move { (index, measure.measure(&request).await) }
    });
    let measured = join_all(measured).await;
    Some(analysis::record(spec, status, measured, now))
}

/// The real providers.
pub struct Providers {
    settings: Settings,
    http: http::Http,
    flights: Flights<prometheus::Question, prometheus::Answered>,
}

impl Providers {
    pub fn new(settings: Settings) -> Result<Self, String> {
        let http = http::Http::new(&settings.allow)?;
        Ok(Self { settings, http, flights: Flights::default() })
    }

    async fn ask(
        &self,
        source: &Source,
        credentials: &Credentials,
        values: &Values,
        request: &MeasureRequest<'_>,
        queries: &mut Vec<String>,
    ) -> Outcome {
        match &source.provider {
            Provider::Prometheus { address } => {
                let trusted = address.is_none();
                let address = address.as_ref().or(self.settings.prometheus_address.as_ref());
                let address = address.ok_or_else(|| ErrorKind::Invalid.error("there is no address of a Prometheus server"))?;
                let edge = edge(request.now);
                let server = prometheus::Server {
                    http: &self.http,
                    flights: &self.flights,
                    address,
                    trusted,
                    credentials,
                    timeout: source.timeout,
                    edge,
                };
                let Some(numerator) = source.compares else {
                    let sample = server.measure(&source.what, values, queries).await?;
                    return Ok(Found { sample: Some(sample), since: Some(edge - values.interval), ..Found::default() });
                };
                let stable = stable(values)?;
                let previous = request.previous.map(|previous| behind(previous.at.0));
                let server = prometheus::Server { edge: behind(request.now), ..server };
                let look = server.look(&source.what, numerator, [values, &stable], previous, queries).await?;
                let reading = Reading { at: MicroTime(request.now), counters: BTreeMap::new(), stable: BTreeMap::new() };
                Ok(Found { sample: None, since: look.since, reading: Some(reading), look: Some(look) })
            }
            Provider::Url(_) | Provider::Pods { .. } => {
                let canary = scrape::Version { values, targets: self.targets(source, values, request).await? };
                let Some(numerator) = source.compares else {
                    return scrape::measure(&self.http, source, canary, credentials, request, queries).await;
                };
                let stable = stable(values)?;
                let stable = scrape::Version { values: &stable, targets: self.targets(source, &stable, request).await? };
                scrape::look(&self.http, (source, numerator), [canary, stable], credentials, request, queries).await
            }
        }
    }

    /// What both versions did between these edges (the first ones first), as the Prometheus server has kept it. Queries are noted as they
    /// are sent.
    pub async fn looks(
        &self,
        request: &MeasureRequest<'_>,
        edges: &[Timestamp],
        queries: &mut Vec<String>,
    ) -> Result<Vec<Look>, ProviderError> {
        let invalid = |why: String| ErrorKind::Invalid.error(why);
        let source = analysis::source(request.spec, request.metric, self.has_prometheus()).map_err(invalid)?;
        let (Provider::Prometheus { .. }, Some(numerator)) = (&source.provider, source.compares) else {
            return Err(invalid("only what is compared, and counted by Prometheus, is kept".to_owned()));
        };
        let address =
            self.settings.prometheus_address.as_ref().ok_or_else(|| invalid("there is no address of a Prometheus server".to_owned()))?;
        let values = analysis::values(request.namespace, request.spec, request.metric);
        let credentials = Credentials::of_the_installation(self.settings.prometheus_token.as_ref())?;
        let server = prometheus::Server {
            http: &self.http,
            flights: &self.flights,
            address,
            trusted: true,
            credentials: &credentials,
            timeout: source.timeout,
            edge: edges.last().copied().unwrap_or(request.now),
        };
        server.looks(&source.what, numerator, [&values, &stable(&values)?], edges, queries).await
    }

    /// Where the counters of the version that the values are about are read.
    async fn targets(&self, source: &Source, values: &Values, request: &MeasureRequest<'_>) -> Result<Vec<scrape::Target>, ProviderError> {
        match &source.provider {
            Provider::Url(url) => {
                let url = url.render(values).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
                scrape::resolve(&url, &self.settings.allow, source.timeout).await
            }
            Provider::Pods { port, path } => {
                let pods = request.sources.pods(&values.canary_hash).await.map_err(|why| ErrorKind::Unreachable.error(why))?;
                pods.iter().map(|pod| scrape::Target::pod(pod, *port, path.as_deref())).collect()
            }
            Provider::Prometheus { .. } => Ok(vec![]),
        }
    }
}

/// The questions about stable.
fn stable(values: &Values) -> Result<Values, ProviderError> {
    values.of_stable().ok_or_else(|| ErrorKind::Invalid.error("there is no stable revision to compare with"))
}

/// Prometheus has the samples of this moment by now, so that an edge is read the same again later.
fn behind(now: Timestamp) -> Timestamp {
    edge(now) - SCRAPE_LAG
}

/// A whole second: those who ask the same within it can share the answer.
fn edge(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// What was found.
#[derive(Default)]
struct Found {
    sample: Option<Sample>,
    /// Begin of the window, where it is not one interval before now.
    since: Option<Timestamp>,
    /// The counters as they are now.
    reading: Option<Reading>,
    /// What both versions did, where they are compared.
    look: Option<Look>,
}

type Outcome = Result<Found, ProviderError>;

impl Providers {
    async fn find(&self, request: &MeasureRequest<'_>, queries: &mut Vec<String>) -> Outcome {
        let sources = request.sources;
        let origin = analysis::origin(request.spec, request.metric, |template| sources.cluster_template(template));
        let (metric, secrets) = origin.map_err(|why| ErrorKind::Secret.error(why))?;
        let source = analysis::source(request.spec, &metric, self.has_prometheus()).map_err(|why| ErrorKind::Invalid.error(why))?;
        // What a metric's author has written may change whose data an answer is about: not with credentials that are not theirs.
        let credentials = match (&source.provider, source.access.is_empty()) {
            (Provider::Prometheus { address: None }, true) => Credentials::of_the_installation(self.settings.prometheus_token.as_ref())?,
            _ => Credentials::read(&source.access, secrets, sources).await?,
        };
        let values = analysis::values(request.namespace, request.spec, &metric);
        self.ask(&source, &credentials, &values, request, queries).await
    }
}

#[async_trait]
impl Measure for Providers {
    fn has_prometheus(&self) -> bool {
        self.settings.prometheus_address.is_some()
    }

    async fn measure(&self, request: &MeasureRequest<'_>) -> Measured {
        let mut queries = Vec::new();
        match self.find(request, &mut queries).await {
            Ok(Found { sample, since, reading, look }) => Measured { queries, result: Ok(sample), since, reading, look },
            Err(error) => Measured { queries, result: Err(error), since: None, reading: None, look: None },
        }
    }
}

#[cfg(test)]
mod tests;
