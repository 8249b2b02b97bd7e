//! Where a metric's number comes from: its provider or preset, checked and parsed.

use jiff::SignedDuration;

use super::{
    presets,
    query::{Scope, Template},
    selector::Selector,
};
use crate::api::{
    access::{Access, Header, RESERVED_HEADERS},
    analysis::{HistogramQuantile, Metric, PrometheusProvider, Ratio, ScrapeProvider},
};

/// What is wrong with a field: its path within the metric, and words that say how to mend it.
pub type Fault = (String, String);

/// Longest time for one request.
pub const MAX_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);
const PROMETHEUS_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);
const SCRAPE_TIMEOUT: SignedDuration = SignedDuration::from_secs(5);

/// What a number means; it is said in every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    #[default]
    None,
    Percent,
    Milliseconds,
}

/// What is computed. The texts are PromQL for Prometheus, series selectors for `scrape`.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The number as it is.
    Value(Template),
    /// 100 * numerator / denominator; the denominator is the number of samples.
    Ratio { numerator: Template, denominator: Template },
    /// A quantile of a histogram's increase (PromQL: one series for each `le`), multiplied by `scale`.
    Quantile { histogram: Template, quantile: f64, scale: f64 },
}

impl What {
    fn templates(&self) -> Vec<&Template> {
        match self {
            Self::Value(one) | Self::Quantile { histogram: one, .. } => vec![one],
            Self::Ratio { numerator, denominator } => vec![numerator, denominator],
        }
    }

    /// Whether the number is made from requests that are counted.
    pub fn counts_samples(&self) -> bool {
        !matches!(self, Self::Value(_))
    }
}

/// What the numerator of a ratio counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numerator {
    Successes,
    Failures,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Provider {
    Prometheus {
        /// `None`: the address that Sluice was installed with.
        address: Option<String>,
    },
    /// One URL (of a gateway, say).
    Url(Template),
    /// Every ready pod of the canary. What is `None` comes from the pod's annotations.
    Pods { port: Option<u16>, path: Option<String> },
}

/// Where a metric's number comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub provider: Provider,
    /// What a request carries beside its question.
    pub access: Access,
    pub what: What,
    pub unit: Unit,
    /// Canary and stable are compared: both are counted, and all texts are selectors.
    pub compares: Option<Numerator>,
    /// Time for one request.
    pub timeout: SignedDuration,
}

/// What is known about the surroundings of a metric before it is measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Sluice was installed with the address of a Prometheus server.
    pub prometheus: bool,
    pub scope: Scope,
}

impl Source {
    /// Parses and checks. All faults are found, not only the first.
    pub fn parse(metric: &Metric, surroundings: &Surroundings) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let source = match (&metric.prometheus, &metric.scrape) {
            (Some(_), Some(_)) => Err(vec![("scrape".to_owned(), "a metric has one provider: prometheus or scrape".to_owned())]),
            (_, Some(scrape)) => from_scrape(metric, scrape),
            (Some(prometheus), None) => from_prometheus(metric, prometheus),
            (None, None) if metric.preset.is_some() => from_prometheus(metric, &PrometheusProvider::default()),
            (None, None) => Err(vec![("prometheus".to_owned(), "a metric needs a preset or a provider (prometheus, scrape)".to_owned())]),
        }
        .map_err(|mut more| faults.append(&mut more))
        .ok();
        if metric.preset.is_none() && !metric.parameters.is_empty() {
            faults.push(("parameters".to_owned(), "parameters belong to a preset".to_owned()));
        }
        if let Some(source) = &source {
            source.check(metric, surroundings, &mut faults);
        }
        source.filter(|_| faults.is_empty()).ok_or(faults)
    }

    fn check(&self, metric: &Metric, surroundings: &Surroundings, faults: &mut Vec<Fault>) {
        let provider = if metric.scrape.is_some() { "scrape" } else { "prometheus" };
        let field = match (&self.what, metric.scrape.is_some()) {
            _ if metric.preset.is_some() => "preset",
            (What::Value(_), false) => "prometheus.query",
            (_, false) if self.compares.is_some() => "prometheus.counters",
            (_, false) => "prometheus.ratio",
            (What::Value(_), true) => "scrape.value",
            (What::Ratio { .. }, true) => "scrape.ratio",
            (What::Quantile { .. }, true) => "scrape.quantile",
        };
        let selectors = provider == "scrape" || self.compares.is_some();
        for template in self.what.templates() {
            let checked = template.check(&surroundings.scope).map_err(|error| error.to_string());
            let checked = checked.and_then(|text| text.filter(|_| selectors).map_or(Ok(()), |text| parse_selector(&text)));
            faults.extend(checked.err().map(|error| (field.to_owned(), error)));
        }
        if self.compares.is_some() && !self.tells_versions_apart() {
            let message = "compare counts stable by the same selectors, with {{canary.service}} and {{canary.hash}} standing for stable's: use one of them, so that the two can be told apart";
            faults.push((field.to_owned(), message.to_owned()));
        }
        match &self.provider {
            Provider::Prometheus { address: None } if !surroundings.prometheus => faults.push((
                "prometheus.address".to_owned(),
                "set the address of a Prometheus server: Sluice was installed without one (prometheus.address of its chart)".to_owned(),
            )),
            Provider::Prometheus { address: Some(address) } => {
                faults.extend(check_url(address).map(|error| ("prometheus.address".to_owned(), error)));
            }
            Provider::Url(template) => {
                let url = template.check(&surroundings.scope);
                let error = url.map_or_else(|error| Some(error.to_string()), |url| url.and_then(|url| check_url(&url)));
                faults.extend(error.map(|error| ("scrape.url".to_owned(), error)));
            }
            _ => {}
        }
        faults.extend(self.check_access().into_iter().map(|(part, message)| (format!("{provider}.{part}"), message)));
        if !(SignedDuration::from_millis(1)..=MAX_TIMEOUT).contains(&self.timeout) {
            faults.push((format!("{provider}.timeout"), "the timeout must be more than 0 and at most 60s".to_owned()));
        }
        if let What::Quantile { quantile, .. } = self.what
            && !(quantile > 0.0 && quantile < 1.0)
        {
            faults.push((
                format!("{provider}.quantile"),
                format!("{quantile} is not above 0 and below 1: write 0.99 for the 99th percentile"),
            ));
        }
    }
}

impl Source {
    /// Whether what is asked about the canary is another question than the same about stable.
    fn tells_versions_apart(&self) -> bool {
        match &self.provider {
            Provider::Pods { .. } => true,
            Provider::Url(url) if url.is_about_canary() => true,
            _ => self.what.templates().iter().all(|template| template.is_about_canary()),
        }
    }

    /// What a request carries goes where the metric's author has written, and nowhere else.
    fn check_access(&self) -> Vec<Fault> {
        let Access { headers, basic_auth, bearer_token_secret_ref, tls } = &self.access;
        let mut faults: Vec<Fault> = headers.iter().filter_map(|header| Some(("headers".to_owned(), check_header(header)?))).collect();
        let mut fault = |field: &str, message: &str| faults.push((field.to_owned(), message.to_owned()));
        if basic_auth.is_some() && bearer_token_secret_ref.is_some() {
            fault("basicAuth", "basicAuth and bearerTokenSecretRef both set the header Authorization: use one of them");
        }
        let address = match &self.provider {
            Provider::Prometheus { address } => address.as_deref().or(Some("")),
            Provider::Url(url) => url.fixed(),
            Provider::Pods { .. } => None,
        };
        match address {
            None if !self.access.is_empty() => fault(
                "url",
                "headers, basicAuth, bearerTokenSecretRef and tls need a url without variables, so that it is written where they go: set url, and write its values out",
            ),
            Some(address) if tls.is_some() && !address.starts_with("https://") => {
                fault("tls", "tls belongs to an address that begins with https://: write that address");
            }
            _ => {}
        }
        if tls.as_ref().is_some_and(|tls| tls.ca_secret_ref.is_none() && tls.client_secret_name.is_none()) {
            fault("tls", "tls has caSecretRef, clientSecretName, or both");
        }
        faults
    }
}

fn check_header(Header { name, value, value_secret_ref }: &Header) -> Option<String> {
    if http::HeaderName::try_from(name).is_err() {
        return Some(format!("{name:?} is not the name of a header"));
    }
    if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        return Some(format!("the header {name} cannot be set here: for Authorization use basicAuth or bearerTokenSecretRef"));
    }
    match (value, value_secret_ref) {
        (Some(value), None) if http::HeaderValue::try_from(value).is_err() => {
            Some(format!("the value of the header {name} holds characters that cannot be sent"))
        }
        (Some(_), None) | (None, Some(_)) => None,
        _ => Some(format!("the header {name} has exactly one of value and valueSecretRef")),
    }
}

fn from_prometheus(metric: &Metric, prometheus: &PrometheusProvider) -> Result<Source, Vec<Fault>> {
    let transport = if metric.compare.is_some() { presets::Transport::Counters } else { presets::Transport::Prometheus };
    let (what, unit) = match (metric.preset, &prometheus.query, &prometheus.ratio, &prometheus.counters) {
        (Some(preset), None, None, None) => presets::expand(preset, &metric.parameters, transport)?,
        (None, Some(query), None, None) => (What::Value(template("prometheus.query", query)?), Unit::None),
        (None, None, Some(both), None) => (ratio("prometheus.ratio", both)?, Unit::Percent),
        (None, None, None, Some(both)) => (ratio("prometheus.counters", both)?, Unit::Percent),
        _ => {
            let message =
                "prometheus needs exactly one of query, ratio and counters, and none of them beside a preset, which brings its own";
            return Err(vec![("prometheus".to_owned(), message.to_owned())]);
        }
    };
    let provider = Provider::Prometheus { address: prometheus.address.clone() };
    let timeout = prometheus.timeout.as_ref().map_or(PROMETHEUS_TIMEOUT, |timeout| timeout.get());
    let compares = numerator(metric, prometheus.counters.is_some(), &what)?;
    Ok(Source { provider, access: prometheus.access.clone(), what, unit, compares, timeout })
}

fn from_scrape(metric: &Metric, scrape: &ScrapeProvider) -> Result<Source, Vec<Fault>> {
    let transport = presets::Transport::Scrape { url: scrape.url.is_some() };
    let (what, unit) = match (metric.preset, &scrape.ratio, &scrape.quantile, &scrape.value) {
        (Some(preset), None, None, None) => presets::expand(preset, &metric.parameters, transport)?,
        (None, Some(both), None, None) => (ratio("scrape.ratio", both)?, Unit::Percent),
        (None, None, Some(HistogramQuantile { histogram, quantile }), None) => {
            let histogram = template("scrape.quantile.histogram", histogram)?;
            (What::Quantile { histogram, quantile: *quantile, scale: 1.0 }, Unit::None)
        }
        (None, None, None, Some(selector)) => (What::Value(template("scrape.value", selector)?), Unit::None),
        _ => {
            let message = "scrape needs exactly one of ratio, quantile and value, and none of them beside a preset, which brings its own";
            return Err(vec![("scrape".to_owned(), message.to_owned())]);
        }
    };
    let provider = match &scrape.url {
        Some(url) => Provider::Url(template("scrape.url", url)?),
        None => {
            let port = scrape.port.map(|port| u16::try_from(port).ok().filter(|port| *port > 0).ok_or(port)).transpose();
            let port = port.map_err(|port| vec![("scrape.port".to_owned(), format!("{port} is not a port: 1 to 65535"))])?;
            Provider::Pods { port, path: scrape.path.clone() }
        }
    };
    let timeout = scrape.timeout.as_ref().map_or(SCRAPE_TIMEOUT, |timeout| timeout.get());
    let compares = numerator(metric, true, &what)?;
    Ok(Source { provider, access: scrape.access.clone(), what, unit, compares, timeout })
}

/// What is compared, if anything is. `counters`: its texts are selectors of counters.
fn numerator(metric: &Metric, counters: bool, what: &What) -> Result<Option<Numerator>, Vec<Fault>> {
    let fault = |field: &str, message: &str| Err(vec![(field.to_owned(), message.to_owned())]);
    match (metric.preset, what) {
        _ if metric.compare.is_none() && metric.prometheus.as_ref().is_some_and(|prometheus| prometheus.counters.is_some()) => {
            fault("prometheus.counters", "prometheus.counters belongs to compare: write compare, or a ratio of two queries instead")
        }
        _ if metric.compare.is_none() => Ok(None),
        (Some(preset), _) => Ok(Some(if preset.is_latency() { Numerator::Failures } else { Numerator::Successes })),
        (None, What::Ratio { .. }) if counters && metric.min.is_some() => {
            fault("min", "with compare the numerator counts failures: select these, and write max instead of min")
        }
        (None, What::Ratio { .. } | What::Quantile { .. }) if counters => Ok(Some(Numerator::Failures)),
        _ => fault(
            "compare",
            "compare needs counters as they are: a preset, prometheus.counters, scrape.ratio or scrape.quantile; of a query with rate() or increase() nobody can tell what was counted",
        ),
    }
}

fn template(field: &str, text: &str) -> Result<Template, Vec<Fault>> {
    Template::parse(text).map_err(|error| vec![(field.to_owned(), error.to_string())])
}

fn ratio(field: &str, ratio: &Ratio) -> Result<What, Vec<Fault>> {
    let numerator = template(&format!("{field}.numerator"), &ratio.numerator)?;
    let denominator = template(&format!("{field}.denominator"), &ratio.denominator)?;
    Ok(What::Ratio { numerator, denominator })
}

fn parse_selector(text: &str) -> Result<(), String> {
    Selector::parse(text).map(drop).map_err(|error| error.to_string())
}

/// What is wrong with a URL.
fn check_url(text: &str) -> Option<String> {
    let bad = |why: &str| Some(format!("{text:?} is not usable: {why}"));
    let Ok(uri) = text.parse::<http::Uri>() else { return bad("write a URL such as http://prometheus.monitoring:9090") };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            bad("it holds credentials; put them into a Secret (bearerTokenSecretRef, basicAuth)")
        }
        (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => None,
        _ => bad("it must begin with http:// or https:// and a host"),
    }
}
