//! Asks metrics once, from this machine, about the version that serves now: whether their queries have an answer.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};

use super::{error::Error, session::Session};
use crate::{
    api::{AnalysisRunSpec, AnalysisTemplateSpec, Metric, Verdict, keys},
    core::{
        analysis::{self, ErrorKind, SecretsOf},
        spec::Invalid,
    },
    metrics::{Allow, Measure, MeasureRequest, PodTarget, Providers, SecretData, Settings, Sources},
};

/// Whom the questions are about. At rest no canary gets traffic, so they are put about the version that serves.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    pub rollout: String,
    /// The app's Service; empty where the Rollout has no traffic.
    pub service: String,
    /// The revision that serves.
    pub revision: String,
}

/// What a metric answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There was an answer: what the judge would say of it.
    Judged(Verdict, String),
    /// Two readings are needed for a number, and the first has succeeded.
    Read(usize),
    /// Likewise of a server that keeps the readings itself.
    Answered,
    /// Nobody could be asked from here.
    Unreachable(String),
    /// The question was refused, or its answer is not usable.
    Refused(String),
}

/// Asks from this machine.
pub struct Probe {
    session: Session,
    providers: Arc<Providers>,
}

impl Probe {
    /// `prometheus`: for metrics that name no address.
    pub fn new(session: &Session, prometheus: Option<&str>) -> Result<Self, Error> {
        // This machine is the user's own: nothing on it is to be kept from them.
        let settings = Settings {
            prometheus_address: prometheus.map(str::to_owned),
            allow: Allow { loopback: true, ..Allow::default() },
            ..Settings::default()
        };
        Ok(Self { session: session.clone(), providers: Arc::new(Providers::new(settings).map_err(Error::Request)?) })
    }

    /// The same in another namespace.
    pub fn within(&self, session: &Session) -> Self {
        Self { session: session.clone(), providers: self.providers.clone() }
    }

    /// The answer of one metric, and the queries as they were sent.
    pub async fn ask(&self, subject: &Subject, metric: &Metric, args: &BTreeMap<String, String>) -> (Answer, Vec<String>) {
        let now = Timestamp::now();
        let service = || (!subject.service.is_empty()).then(|| subject.service.clone());
        let spec = AnalysisRunSpec {
            rollout: subject.rollout.clone(),
            canary_hash: subject.revision.clone(),
            stable_hash: Some(subject.revision.clone()),
            service: service(),
            canary_service: service(),
            step: None,
            args: args.clone(),
            metrics: vec![metric.clone()],
            comparisons: None,
            prove: vec![],
            cluster_templates: BTreeMap::new(),
            terminate: false,
        };
        let sources = FromHere { session: &self.session };
        let request = MeasureRequest { namespace: &self.session.namespace, spec: &spec, metric, previous: None, sources: &sources, now };
        let measured = self.providers.measure(&request).await;
        let queries = measured.queries.clone();
        let answer = match &measured.result {
            Err(error) => match error.kind {
                ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Forbidden | ErrorKind::Secret => {
                    Answer::Unreachable(error.message.clone())
                }
                // A proxy in between refuses, too; Prometheus itself says what is wrong with a query.
                ErrorKind::Refused if !error.message.contains("bad_data") => Answer::Unreachable(error.message.clone()),
                _ => Answer::Refused(error.message.clone()),
            },
            Ok(None) if metric.scrape.is_none() => Answer::Answered,
            Ok(None) => Answer::Read(measured.reading.as_ref().map_or(0, |reading| reading.counters.len())),
            Ok(Some(_)) => {
                let status =
                    analysis::record(&spec, analysis::start(&spec, self.providers.has_prometheus(), now), vec![(0, measured)], now);
                let newest = status.metric_results.first().and_then(|result| result.measurements.last());
                newest.map_or(Answer::Refused(status.message.clone()), |newest| Answer::Judged(newest.verdict, newest.message.clone()))
            }
        };
        (answer, queries)
    }
}

/// The pods as the API server has them. Secrets stay where they are: the controller reads them, not a person's machine.
struct FromHere<'a> {
    session: &'a Session,
}

#[async_trait]
impl Sources for FromHere<'_> {
    async fn pods(&self, revision: &str) -> Result<Vec<PodTarget>, String> {
        let labels = format!("{}={revision}", keys::POD_TEMPLATE_HASH);
        let found = self.session.api::<Pod>().list(&ListParams::default().labels(&labels)).await.map_err(|error| error.to_string())?;
        let target = |pod: &Pod| {
            let annotation = |key: &str| pod.annotations().get(key).cloned();
            let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
            let port = annotation("prometheus.io/port").and_then(|port| port.parse().ok());
            Some(PodTarget { name: pod.name_any(), ip, port, path: annotation("prometheus.io/path") })
        };
        Ok(found.items.iter().filter_map(target).collect())
    }

    async fn secret(&self, _: SecretsOf, name: &str) -> Result<SecretData, String> {
        Err(format!("it needs the Secret {name}, which only the controller reads"))
    }

    fn cluster_template(&self, _: &str) -> Option<Result<AnalysisTemplateSpec, Invalid>> {
        None // its metrics are asked as they are, without Secrets
    }
}
