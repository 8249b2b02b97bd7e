//! Providers: a query in, typed samples or a typed error out. Nothing here touches Kubernetes: what is needed of it (pods' addresses,
//! Secrets) comes through [`Sources`].

pub mod exposition;
mod guard;
mod http;
mod prometheus;
mod scrape;

use std::{fmt, net::IpAddr};

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;

use crate::{
    api::{AnalysisRunSpec, AnalysisRunStatus, Metric, analysis::SecretKeyRef, run::Reading},
    core::{
        analysis::{self, ErrorKind, Measured, ProviderError},
        query::Values,
        source::{Provider, Source},
    },
};

pub use guard::{Allow, forbidden};

/// What the installation brings.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Prometheus for metrics that name no address. It may be anywhere, whatever `allow` says.
    pub prometheus_address: Option<String>,
    /// Token for that address, and for no other.
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
    /// The ready pods of the revision that is judged.
    async fn pods(&self) -> Result<Vec<PodTarget>, String>;

    /// The value of a Secret's key, if metrics may use it; else why not.
    async fn token(&self, secret: &SecretKeyRef) -> Result<Token, String>;
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
}

impl Providers {
    pub fn new(settings: Settings) -> Result<Self, String> {
        let http = http::Http::new(&settings.allow)?;
        Ok(Self { settings, http })
    }

    async fn ask(&self, source: &Source, values: &Values, request: &MeasureRequest<'_>, queries: &mut Vec<String>) -> Outcome {
        match &source.provider {
            Provider::Prometheus { address, token } => {
                let token = match (token, address) {
                    (Some(secret), _) => Some(request.sources.token(secret).await.map_err(|why| ErrorKind::Secret.error(why))?),
                    (None, None) => self.settings.prometheus_token.clone(),
                    (None, Some(_)) => None,
                };
                let trusted = address.is_none();
                let address = address.as_ref().or(self.settings.prometheus_address.as_ref());
                let address = address.ok_or_else(|| ErrorKind::Invalid.error("there is no address of a Prometheus server"))?;
                let server = prometheus::Server { http: &self.http, address, trusted, token, timeout: source.timeout, now: request.now };
                server.measure(&source.what, values, queries).await.map(|sample| (Some(sample), None))
            }
            Provider::Url(url) => {
                let url = url.render(values).map_err(|error| ErrorKind::Invalid.error(error.to_string()))?;
                let targets = scrape::resolve(&url, &self.settings.allow, source.timeout).await?;
                scrape::measure(&self.http, source, values, targets, request, queries).await
            }
            Provider::Pods { port, path } => {
                let pods = request.sources.pods().await.map_err(|why| ErrorKind::Unreachable.error(why))?;
                let targets = pods.iter().map(|pod| scrape::Target::pod(pod, *port, path.as_deref())).collect::<Result<_, _>>()?;
                scrape::measure(&self.http, source, values, targets, request, queries).await
            }
        }
    }
}

/// What was found, and the counters as they are now.
type Outcome = Result<(Option<crate::core::judge::Sample>, Option<Reading>), ProviderError>;

#[async_trait]
impl Measure for Providers {
    fn has_prometheus(&self) -> bool {
        self.settings.prometheus_address.is_some()
    }

    async fn measure(&self, request: &MeasureRequest<'_>) -> Measured {
        let mut queries = Vec::new();
        let source = analysis::source(request.spec, request.metric, self.has_prometheus()).map_err(|why| ErrorKind::Invalid.error(why));
        let values = analysis::values(request.namespace, request.spec, request.metric);
        let outcome = match source {
            Ok(source) => self.ask(&source, &values, request, &mut queries).await,
            Err(error) => Err(error),
        };
        let (result, reading) = match outcome {
            Ok((sample, reading)) => (Ok(sample), reading),
            Err(error) => (Err(error), None),
        };
        let since = reading.as_ref().and(request.previous).map(|previous| previous.at.0);
        Measured { queries, result, since, reading }
    }
}

#[cfg(test)]
mod tests;
