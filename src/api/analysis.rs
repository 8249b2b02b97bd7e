//! Metrics and their judges: `AnalysisTemplate`, `ClusterAnalysisTemplate`, and the parts that a Rollout may hold inline.

use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{
    access::{self, Access},
    quantity::Span,
};

/// Reusable metrics with their judges.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "AnalysisTemplate",
    plural = "analysistemplates",
    shortname = "slat",
    category = "sluice",
    namespaced,
    derive = "PartialEq",
    doc = "AnalysisTemplate is a set of reusable metrics with their judges.",
    printcolumn(name = "Metrics", type_ = "string", json_path = ".spec.metrics[*].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AnalysisTemplateSpec {
    /// Arguments that the metrics use as `{{args.name}}`. A `value` here is the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub args: Vec<Argument>,
    /// The metrics. At least one, at most 16.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub metrics: Vec<Metric>,
}

/// Reusable metrics with their judges, for Rollouts of every namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "ClusterAnalysisTemplate",
    plural = "clusteranalysistemplates",
    shortname = "slcat",
    category = "sluice",
    derive = "PartialEq",
    doc = "ClusterAnalysisTemplate is a set of reusable metrics with their judges, for Rollouts of every namespace. The Secrets that its metrics name are those of the namespace that Sluice runs in; Rollouts use them without being able to read them, or to send them anywhere else.",
    printcolumn(name = "Metrics", type_ = "string", json_path = ".spec.metrics[*].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ClusterAnalysisTemplateSpec {
    #[serde(flatten)]
    pub template: AnalysisTemplateSpec,
}

/// Names a template.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateRef {
    /// `AnalysisTemplate` (of the Rollout's namespace) or `ClusterAnalysisTemplate`. Default AnalysisTemplate.
    #[serde(default)]
    pub kind: TemplateKind,
    /// Name of the template.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where a template stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TemplateKind {
    #[default]
    AnalysisTemplate,
    ClusterAnalysisTemplate,
}

impl std::fmt::Display for TemplateRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.name)
    }
}

/// A named value.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Argument {
    /// Name, used as `{{args.<name>}}`.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z_][a-zA-Z0-9_-]*$')").message("the name of an argument begins with a letter or '_', and goes on with letters, digits, '_' and '-'"))]
    pub name: String,
    /// Value. May be left out in a template: then whoever uses the template must give one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub value: Option<String>,
}

/// One number that is measured, and what is expected of it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.min) || has(self.max) || has(self.compare), has(self.successCondition) || has(self.failureCondition)].filter(x, x).size() == 1").message("a metric needs one judge: compare (min and max may stand beside it), or min and/or max, or successCondition and/or failureCondition"),
    validation = Rule::new("!has(self.compare) || has(self.preset) || (has(self.prometheus) && has(self.prometheus.counters)) || (has(self.scrape) && (has(self.scrape.ratio) || has(self.scrape.quantile)))").message("compare needs counters as they are: a preset, prometheus.counters, scrape.ratio or scrape.quantile; of a query with rate() or increase() nobody can tell what was counted"),
    validation = Rule::new("!(has(self.compare) && has(self.min)) || has(self.preset) || (has(self.scrape) && has(self.scrape.quantile))").message("with compare the numerator counts failures: select these, and write max instead of min"),
    validation = Rule::new("!has(self.prometheus) || !has(self.prometheus.counters) || has(self.compare)").message("prometheus.counters belongs to compare: write compare, or a ratio of two queries instead"),
    validation = Rule::new("!(has(self.prometheus) && has(self.scrape))").message("a metric has one provider: prometheus or scrape"),
    validation = Rule::new("has(self.preset) || has(self.prometheus) || has(self.scrape)").message("a metric needs a preset or a provider (prometheus, scrape)"),
    validation = Rule::new("!has(self.prometheus) || (has(self.preset) ? 0 : 1) == (has(self.prometheus.query) ? 1 : 0) + (has(self.prometheus.ratio) ? 1 : 0) + (has(self.prometheus.counters) ? 1 : 0)").message("prometheus needs exactly one of query, ratio and counters, and none of them beside a preset, which brings its own"),
    validation = Rule::new("!has(self.scrape) || (has(self.preset) ? 0 : 1) == (has(self.scrape.ratio) ? 1 : 0) + (has(self.scrape.quantile) ? 1 : 0) + (has(self.scrape.value) ? 1 : 0)").message("scrape needs exactly one of ratio, quantile and value, and none of them beside a preset, which brings its own"),
    validation = Rule::new("!has(self.parameters) || has(self.preset)").message("parameters belong to a preset"),
    validation = Rule::new("!has(self.preset) || !(self.preset.startsWith('envoy-gateway/') || self.preset.startsWith('nginx-gateway-fabric/'))").message("this gateway counts all backends of a rule as one, so its numbers do not tell canary from stable: judge by the application's own, with preset pods/success-rate or pods/latency, which need no Prometheus with scrape: {}"),
    validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max").message("min must not be greater than max")
)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Name of the metric, unique in its list.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$')").message("the name of a metric has letters, digits, '-', '_' and '.', and begins and ends with a letter or digit: success-rate"))]
    pub name: String,

    /// A ready-made query. `contour/*`, `istio/*`, `linkerd/*` and `traefik/*` read what the gateway or the mesh counts for the canary
    /// Service, `pods/*` the numbers of the application itself. `success-rate` is in percent (0 to 100), `latency` in milliseconds (a
    /// quantile, by default 0.99). They come from Prometheus, unless `scrape` is set (an empty `scrape` will do for `pods/*`; `linkerd/*`
    /// cannot be scraped, the others need its `url`). Behind Envoy Gateway and NGINX Gateway Fabric, whose own numbers do not tell canary
    /// from stable, use `pods/*`. Beside a GRPCRoute `pods/success-rate` is the one for success: failed calls have the HTTP code 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,

    /// Names and values that the preset uses, where they differ from its defaults. Each `*/latency`: `quantile` (0.99). `istio/*`:
    /// `reporter` (source). `traefik/*`: `serviceLabel` (service; exported_service where Prometheus keeps that name for itself).
    /// `pods/success-rate`: `counter` (http_requests_total), `codeLabel` (code), `failure` (a regular expression for the codes that are
    /// failures, 5..). `pods/latency`: `histogram` (http_request_duration_seconds), `unit` (of the histogram: s or ms, s). Both `pods/*`: `matchers` (more of them, such as handler!="/healthz") and, from Prometheus, `namespaceLabel` (namespace) and
    /// `podLabel` (pod).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub parameters: BTreeMap<String, String>,

    /// Asks a Prometheus server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusProvider>,

    /// Reads counters straight from `/metrics` of the pods or of the gateway; needs no Prometheus server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scrape: Option<ScrapeProvider>,

    /// The value must be at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The value must be at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,

    /// Compares the canary with stable: evidence that it fails (or is slow) more often aborts, whatever `failureLimit` says. An empty
    /// `compare: {}` will do. Takes the presets, `prometheus.counters`, `scrape.ratio` and `scrape.quantile`. `min` and `max` may stand
    /// beside it, as absolute limits for the canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compare: Option<Comparison>,

    /// CEL expression that is true when the measurement is good. `result` is the value (a number, or a list of numbers where the
    /// query returns several series). Alone: false is Fail. With `failureCondition`: neither true is Inconclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub success_condition: Option<String>,
    /// CEL expression that is true when the measurement is bad. Alone: false is Pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub failure_condition: Option<String>,

    /// Time between two measurements, and the window that a query looks back over (`{{interval}}`). Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// Time from the start of the analysis to the first measurement. Default: one interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Span>,
    /// Number of measurements with a verdict that end this metric. Default: in a step 1; in the background as many as the rollout takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub count: Option<i32>,
    /// Number of Fail verdicts that are tolerated: one more fails the analysis. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub failure_limit: Option<i32>,
    /// Number of ProviderErrors in a row that are tolerated. Default 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_error_limit: Option<i32>,
    /// Number of Inconclusive verdicts that are tolerated. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub inconclusive_limit: Option<i32>,
    /// Ratios and quantiles need at least this many requests in the window; fewer is NoData. `compare` alone needs so many of the canary in all.
    /// Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub min_samples: Option<i32>,
    /// What it means when there is no data (empty, NaN, too few samples). `Wait` holds the step. Default Wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_no_data: Option<NoDataPolicy>,
    /// Measures and shows, but decides nothing: neither an abort nor a pause, nor that a step waits for data. The status says what it
    /// would have said. For metrics that are tried out. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What it means when the provider fails more often in a row than `consecutiveErrorLimit`. `Wait` holds the step. Default Inconclusive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_provider_error: Option<ProviderErrorPolicy>,
}

/// How the canary is compared with stable.
///
/// Both are counted by the same selectors: for stable `{{canary.service}}` and `{{canary.hash}}` stand for its Service and its hash, and
/// its pods are read instead of the canary's. What counts as a failure is what the numerator selects; with a preset, an answer that is no
/// success; with a histogram, at each bound, a request that is slower.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// How many times as often as stable the canary may fail. Default 1.25: a quarter more often is tolerated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub tolerate: Option<f64>,
    /// The part of good versions that you accept to see aborted, above 0 and below 1. All comparisons of a Rollout share it. Default 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    #[x_kube(validation = Rule::new("self > 0.0 && self < 1.0").message("maxFalseAborts is a share above 0 and below 1: write 0.05 for at most one good version in twenty"))]
    pub max_false_aborts: Option<f64>,
    /// How evidence is gathered. Default SharedBetting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// How evidence is gathered that the canary is worse.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Bets on the canary's share of an interval's failures. Failures may come in bursts, of any size.
    #[default]
    SharedBetting,
    /// Faster, but each request must fail or succeed on its own: a burst of failures with one cause looks like many pieces of evidence.
    IndependentFailures,
}

/// A ready-made query.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preset {
    #[serde(rename = "contour/success-rate")]
    ContourSuccessRate,
    #[serde(rename = "contour/latency")]
    ContourLatency,
    #[serde(rename = "istio/success-rate")]
    IstioSuccessRate,
    #[serde(rename = "istio/latency")]
    IstioLatency,
    #[serde(rename = "linkerd/success-rate")]
    LinkerdSuccessRate,
    #[serde(rename = "linkerd/latency")]
    LinkerdLatency,
    #[serde(rename = "traefik/success-rate")]
    TraefikSuccessRate,
    #[serde(rename = "traefik/latency")]
    TraefikLatency,
    #[serde(rename = "pods/success-rate")]
    PodsSuccessRate,
    #[serde(rename = "pods/latency")]
    PodsLatency,
    #[serde(rename = "envoy-gateway/success-rate")]
    EnvoyGatewaySuccessRate,
    #[serde(rename = "envoy-gateway/latency")]
    EnvoyGatewayLatency,
    #[serde(rename = "nginx-gateway-fabric/success-rate")]
    NginxGatewayFabricSuccessRate,
    #[serde(rename = "nginx-gateway-fabric/latency")]
    NginxGatewayFabricLatency,
}

impl Preset {
    /// Whether it is about the time that answers take; else about the share that are no failures.
    pub fn is_latency(self) -> bool {
        match self {
            Self::ContourLatency | Self::IstioLatency | Self::LinkerdLatency | Self::TraefikLatency | Self::PodsLatency => true,
            Self::EnvoyGatewayLatency | Self::NginxGatewayFabricLatency => true,
            Self::ContourSuccessRate | Self::IstioSuccessRate | Self::LinkerdSuccessRate | Self::TraefikSuccessRate => false,
            Self::PodsSuccessRate | Self::EnvoyGatewaySuccessRate | Self::NginxGatewayFabricSuccessRate => false,
        }
    }
}

/// What it means when there is no data.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoDataPolicy {
    #[default]
    Wait,
    Inconclusive,
    Fail,
    Pass,
}

/// What it means when the provider keeps failing.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProviderErrorPolicy {
    Wait,
    #[default]
    Inconclusive,
    Fail,
}

/// Asks a Prometheus server (or anything that speaks its HTTP API) an instant query.
///
/// Queries are templates over `{{namespace}}`, `{{rollout}}`, `{{service}}`, `{{canary.service}}`, `{{stable.hash}}`, `{{canary.hash}}`,
/// `{{interval}}` and `{{args.<name>}}`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = access::one_login(),
    validation = Rule::new("!has(self.tls) || (has(self.address) && self.address.startsWith('https://'))").message("tls belongs to an address that begins with https://: write that address")
)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusProvider {
    /// Base URL, such as `http://prometheus.monitoring:9090`. Default: the address that Sluice was installed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = url())]
    pub address: Option<String>,
    /// The query. A result with one series is a number, with several a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub query: Option<String>,
    /// Two queries whose quotient, in percent, is the value; the denominator is the number of samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// Two selectors of counters, for `compare`: what fails, and of how many. They are read as they are, so without rate() or increase():
    /// `http_requests_total{pod=~".+-{{canary.hash}}-.+",code=~"5.."}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counters: Option<Ratio>,
    /// Time for one request. Default 10s, at most 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    #[serde(flatten)]
    pub access: Access,
}

/// Numerator and denominator of a share; the value is in percent.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ratio {
    /// What is counted.
    #[schemars(length(min = 1, max = 8192))]
    pub numerator: String,
    /// Of how many.
    #[schemars(length(min = 1, max = 8192))]
    pub denominator: String,
}

/// Reads the Prometheus text format straight from pods or from a gateway: two readings, one interval apart; counter resets are handled.
///
/// Selectors are written as in Prometheus: `http_requests_total{code!~"5.."}`, and are templates as queries are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = access::one_login(),
    validation = Rule::new("[has(self.headers), has(self.basicAuth), has(self.bearerTokenSecretRef), has(self.tls)].all(x, !x) || (has(self.url) && !self.url.contains('{{'))").message("headers, basicAuth, bearerTokenSecretRef and tls need a url without variables, so that it is written where they go: set url, and write its values out"),
    validation = Rule::new("!has(self.tls) || !has(self.url) || self.url.startsWith('https://')").message("tls belongs to a url that begins with https://")
)]
#[serde(rename_all = "camelCase")]
pub struct ScrapeProvider {
    /// URL to read, such as `http://envoy-metrics.projectcontour:8002/stats/prometheus`; a template as queries are. Where the name
    /// stands for several addresses (a headless Service), each is read. Default: every ready pod of the canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = url())]
    pub url: Option<String>,
    /// Port of the pods. Default: the pod's annotation `prometheus.io/port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Path of the pods. Default: the pod's annotation `prometheus.io/path`, else `/metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('/')").message("a path begins with '/': /metrics"))]
    pub path: Option<String>,
    /// Two counter selectors; the value is the quotient of their increases, in percent, the denominator's increase the number of samples.
    /// With `compare` the numerator counts failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Ratio>,
    /// A quantile of the increase of a histogram, in the histogram's unit, interpolated as Prometheus does; its number of observations is
    /// the number of samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile: Option<HistogramQuantile>,
    /// A selector for gauges; the value is their sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub value: Option<String>,
    /// Time for one request. Default 5s, at most 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    #[serde(flatten)]
    pub access: Access,
}

/// A quantile of a histogram.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistogramQuantile {
    /// Selector of the histogram, without `_bucket`: `http_request_duration_seconds{handler="/"}`.
    #[schemars(length(min = 1, max = 8192))]
    pub histogram: String,
    /// The quantile, above 0 and below 1: 0.99.
    #[schemars(range(min = 0, max = 1))]
    pub quantile: f64,
}

fn url() -> Rule {
    Rule::new("self.matches('^https?://[^/]')")
        .message("a URL begins with http:// or https:// and a host: http://prometheus.monitoring:9090")
}
