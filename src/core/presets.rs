//! Ready-made queries. Each is defined once, whatever way its numbers travel, and must tell the canary's requests from stable's.

use std::collections::BTreeMap;

use super::{
    query::Template,
    selector::{Selector, anchored},
    source::{Fault, Unit, What},
};
use crate::api::analysis::Preset;

/// How a preset's numbers come to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// From a Prometheus server that scrapes the pods or the gateway.
    Prometheus,
    /// The counters themselves, from a Prometheus server: canary and stable are compared.
    Counters,
    /// Straight from the canary's pods, or from one `url`.
    Scrape { url: bool },
}

/// What a gateway or a mesh counts for each Service that is a backend.
struct Backends {
    /// The series of one Service, whatever carries them. `PARAMETER` stands for what users may say.
    which: &'static str,
    /// The name of that parameter, and its default.
    parameter: Option<(&'static str, &'static str)>,
    requests: &'static str,
    /// Of its requests those that have not failed.
    success: &'static str,
    histogram: &'static str,
    /// What the histogram's bounds are multiplied by to be milliseconds.
    scale: f64,
    /// Where one URL has the numbers of all requests.
    url: Option<&'static str>,
}

/// Contour names Envoy's cluster of a Service `<namespace>_<service>_<port>`. None of the three holds a `_`, so no other Service matches.
const CONTOUR: Backends = Backends {
    which: r#"envoy_cluster_name=~"{{namespace}}_{{canary.service}}_[0-9a-zA-Z-]+""#,
    parameter: None,
    requests: "envoy_cluster_upstream_rq_xx",
    success: r#"envoy_response_code_class!="5""#,
    histogram: "envoy_cluster_upstream_rq_time",
    scale: 1.0,
    url: Some("http://envoy-metrics.projectcontour:8002/stats/prometheus"),
};

/// Istio's standard metrics, as the proxy reports them that sends the request: only that one knows which backend was chosen.
const ISTIO: Backends = Backends {
    which: r#"reporter="PARAMETER",destination_service_namespace="{{namespace}}",destination_service_name="{{canary.service}}""#,
    parameter: Some(("reporter", "source")),
    requests: "istio_requests_total",
    success: r#"response_code!~"5..""#,
    histogram: "istio_request_duration_milliseconds",
    scale: 1.0,
    url: Some("http://gateway-istio.gateways:15020/stats/prometheus"),
};

/// What Linkerd's proxies count for each backend of a route, on the side of the client. A request that got no answer has an `error`, and
/// no status.
const LINKERD: Backends = Backends {
    which: r#"backend_namespace="{{namespace}}",backend_name="{{canary.service}}""#,
    parameter: None,
    requests: "outbound_http_route_backend_response_statuses_total",
    success: r#"http_status!~"5..",error="""#,
    histogram: "outbound_http_route_backend_response_duration_seconds",
    scale: 1000.0,
    url: None,
};

/// Traefik names the service of a backend `<namespace>-<service>-<port>@kubernetesgateway`, newer versions with that of its rule and
/// `-svc-` before it.
const TRAEFIK: Backends = Backends {
    which: r#"PARAMETER=~"(.+-svc-)?{{namespace}}-{{canary.service}}-[0-9]+@kubernetesgateway""#,
    parameter: Some(("serviceLabel", "service")),
    requests: "traefik_service_requests_total",
    success: r#"code!~"5..""#,
    histogram: "traefik_service_request_duration_seconds",
    scale: 1000.0,
    url: Some("http://traefik.traefik:9100/metrics"),
};

/// Whose numbers a preset reads.
enum Whose {
    Backends(Backends),
    Pods,
    /// Nobody's: they would not tell canary from stable.
    Untold,
}

fn whose(preset: Preset) -> Whose {
    match preset {
        Preset::ContourSuccessRate | Preset::ContourLatency => Whose::Backends(CONTOUR),
        Preset::IstioSuccessRate | Preset::IstioLatency => Whose::Backends(ISTIO),
        Preset::LinkerdSuccessRate | Preset::LinkerdLatency => Whose::Backends(LINKERD),
        Preset::TraefikSuccessRate | Preset::TraefikLatency => Whose::Backends(TRAEFIK),
        Preset::PodsSuccessRate | Preset::PodsLatency => Whose::Pods,
        Preset::EnvoyGatewaySuccessRate | Preset::EnvoyGatewayLatency => Whose::Untold,
        Preset::NginxGatewayFabricSuccessRate | Preset::NginxGatewayFabricLatency => Whose::Untold,
    }
}

/// Those that tell canary from stable; the pods' own come last.
pub const TELLING: [Preset; 10] = [
    Preset::ContourSuccessRate,
    Preset::ContourLatency,
    Preset::IstioSuccessRate,
    Preset::IstioLatency,
    Preset::LinkerdSuccessRate,
    Preset::LinkerdLatency,
    Preset::TraefikSuccessRate,
    Preset::TraefikLatency,
    Preset::PodsSuccessRate,
    Preset::PodsLatency,
];

/// Whether a preset tells the versions by the Services that their requests are sent to; else by the names of their pods.
pub fn by_service(preset: Preset) -> bool {
    matches!(whose(preset), Whose::Backends(_))
}

/// Expands a preset: what is computed, and its unit. Faults are named by the field.
pub fn expand(preset: Preset, parameters: &BTreeMap<String, String>, transport: Transport) -> Result<(What, Unit), Vec<Fault>> {
    let mut reader = Reader { preset, transport, parameters, known: Vec::new(), faults: Vec::new() };
    let what = match whose(preset) {
        Whose::Untold => {
            let message = format!(
                "{}: this gateway counts all backends of a rule as one, so its numbers do not tell canary from stable: judge by the application's own, with preset pods/success-rate or pods/latency, which need no Prometheus with scrape: {{}}",
                name(preset)
            );
            return Err(vec![("preset".to_owned(), message)]);
        }
        Whose::Backends(backends) => {
            reader.check_url(&backends);
            reader.of_backends(&backends)
        }
        Whose::Pods => {
            reader.check_pods();
            reader.of_pods()
        }
    };
    let unit = if preset.is_latency() { Unit::Milliseconds } else { Unit::Percent };
    reader.finish(what).map(|what| (what, unit))
}

/// The name of a preset as users write it.
pub fn name(preset: Preset) -> &'static str {
    match preset {
        Preset::ContourSuccessRate => "contour/success-rate",
        Preset::ContourLatency => "contour/latency",
        Preset::IstioSuccessRate => "istio/success-rate",
        Preset::IstioLatency => "istio/latency",
        Preset::LinkerdSuccessRate => "linkerd/success-rate",
        Preset::LinkerdLatency => "linkerd/latency",
        Preset::TraefikSuccessRate => "traefik/success-rate",
        Preset::TraefikLatency => "traefik/latency",
        Preset::PodsSuccessRate => "pods/success-rate",
        Preset::PodsLatency => "pods/latency",
        Preset::EnvoyGatewaySuccessRate => "envoy-gateway/success-rate",
        Preset::EnvoyGatewayLatency => "envoy-gateway/latency",
        Preset::NginxGatewayFabricSuccessRate => "nginx-gateway-fabric/success-rate",
        Preset::NginxGatewayFabricLatency => "nginx-gateway-fabric/latency",
    }
}

/// Reads parameters, remembers which are known, and gathers what is wrong with them.
struct Reader<'a> {
    preset: Preset,
    transport: Transport,
    parameters: &'a BTreeMap<String, String>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    /// All that a gateway counts may come from one URL, not from the pods.
    fn check_url(&mut self, backends: &Backends) {
        let name = name(self.preset);
        match (self.transport, backends.url) {
            (Transport::Scrape { .. }, None) => {
                let message = format!(
                    "{name} reads what all clients' proxies have counted, and no URL has that: leave scrape out, it comes from Prometheus"
                );
                self.faults.push(("scrape".to_owned(), message));
            }
            (Transport::Scrape { url: false }, Some(url)) => {
                let message = format!("{name} reads the gateway's numbers: set scrape.url to where they are, such as {url}");
                self.faults.push(("scrape.url".to_owned(), message));
            }
            _ => {}
        }
    }

    fn check_pods(&mut self) {
        if self.transport == (Transport::Scrape { url: true }) {
            let message = format!(
                "{} reads each pod of the canary by itself, one URL cannot tell them from stable's: leave url out",
                name(self.preset)
            );
            self.faults.push(("scrape.url".to_owned(), message));
        }
    }

    fn of_backends(&mut self, backends: &Backends) -> What {
        let which = match backends.parameter {
            Some((key, default)) => backends.which.replace("PARAMETER", &self.name(key, default)),
            None => backends.which.to_owned(),
        };
        if self.preset.is_latency() {
            let quantile = self.quantile();
            return self.histogram(backends.histogram, &which, quantile, backends.scale);
        }
        let series = |more: &str| format!("{}{{{which}{more}}}", backends.requests);
        self.ratio(&series(&format!(",{}", backends.success)), &series(""))
    }

    fn of_pods(&mut self) -> What {
        if self.preset.is_latency() {
            let name = self.name("histogram", "http_request_duration_seconds");
            let (quantile, scale, which) = (self.quantile(), self.unit(), self.which());
            return self.histogram(&name, &which, quantile, scale);
        }
        let (counter, label) = (self.name("counter", "http_requests_total"), self.name("codeLabel", "code"));
        let failure = self.regex("failure", "5..").replace('\\', "\\\\").replace('"', "\\\"");
        let which = self.which();
        // A series without the label would count as success: it does not count at all.
        let series = |more: &str| format!("{counter}{{{label}!=\"\"{more}{}{which}}}", if which.is_empty() { "" } else { "," });
        self.ratio(&series(&format!(",{label}!~\"{failure}\"")), &series(""))
    }

    fn get(&mut self, key: &'static str, default: &str) -> String {
        self.known.push(key);
        let value = self.parameters.get(key).cloned().unwrap_or_else(|| default.to_owned());
        if let Err(error) = Template::parse(&value) {
            self.fault(key, error.to_string());
        }
        value
    }

    fn fault(&mut self, key: &str, message: String) {
        self.faults.push((format!("parameters.{key}"), message));
    }

    /// The name of a metric or label.
    fn name(&mut self, key: &'static str, default: &str) -> String {
        let value = self.get(key, default);
        let colon = key == "counter" || key == "histogram";
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
        if value.is_empty() || value.starts_with(|c: char| c.is_ascii_digit()) || !value.chars().all(fits) {
            self.fault(key, format!("{value:?} is not the name of a {}", if colon { "metric" } else { "label" }));
        }
        value
    }

    fn regex(&mut self, key: &'static str, default: &str) -> String {
        let value = self.get(key, default);
        if let Err(error) = anchored(&value) {
            self.fault(key, error.to_string());
        }
        value
    }

    fn quantile(&mut self) -> f64 {
        let value = self.get("quantile", "0.99");
        let number = value.parse().ok().filter(|number| *number > 0.0 && *number < 1.0);
        if number.is_none() {
            self.fault("quantile", format!("{value:?} is not a number above 0 and below 1: write 0.99 for the 99th percentile"));
        }
        number.unwrap_or(0.99)
    }

    /// What the histogram's bounds are multiplied by to be milliseconds.
    fn unit(&mut self) -> f64 {
        match self.get("unit", "s").as_str() {
            "s" => 1000.0,
            "ms" => 1.0,
            other => {
                self.fault("unit", format!("{other:?} is not the unit of a histogram: s (seconds, the default) or ms"));
                1000.0
            }
        }
    }

    /// Matchers for the canary's pods, and the user's own.
    fn which(&mut self) -> String {
        let matchers = self.get("matchers", "");
        if let Err(error) = Selector::parse(&format!("x{{{matchers}}}")) {
            self.fault("matchers", format!("{error}; write matchers such as handler!=\"/healthz\""));
        }
        let mut all = vec![];
        if let Transport::Prometheus | Transport::Counters = self.transport {
            let (namespace, pod) = (self.name("namespaceLabel", "namespace"), self.name("podLabel", "pod"));
            // A ReplicaSet that was taken over is named after its Deployment, ours after the Rollout: only the hash is sure.
            all.push(format!(r#"{namespace}="{{{{namespace}}}}",{pod}=~".+-{{{{canary.hash}}}}-.+""#));
        }
        if !matchers.trim().is_empty() {
            all.push(matchers.trim().trim_end_matches(',').to_owned());
        }
        all.join(",")
    }

    fn ratio(&mut self, numerator: &str, denominator: &str) -> What {
        let text = |series: &str| match self.transport {
            Transport::Prometheus => format!("sum(increase({series}[{{{{interval}}}}]))"),
            Transport::Counters | Transport::Scrape { .. } => series.to_owned(),
        };
        let (numerator, denominator) = (text(numerator), text(denominator));
        What::Ratio { numerator: self.template(&numerator), denominator: self.template(&denominator) }
    }

    fn histogram(&mut self, name: &str, which: &str, quantile: f64, scale: f64) -> What {
        let text = match self.transport {
            Transport::Prometheus => format!("sum by (le) (increase({name}_bucket{{{which}}}[{{{{interval}}}}]))"),
            Transport::Counters | Transport::Scrape { .. } => format!("{name}{{{which}}}"),
        };
        What::Quantile { histogram: self.template(&text), quantile, scale }
    }

    fn template(&mut self, text: &str) -> Template {
        // What is wrong with a parameter has been said already, but not everything that is wrong is wrong by itself.
        Template::parse(text).unwrap_or_else(|error| {
            self.faults.push(("parameters".to_owned(), error.to_string()));
            Template::default()
        })
    }

    fn finish(mut self, what: What) -> Result<What, Vec<Fault>> {
        let known = if self.known.is_empty() { "it has none".to_owned() } else { format!("known are {}", self.known.join(", ")) };
        for key in self.parameters.keys().filter(|key| !self.known.contains(&key.as_str())) {
            self.faults.push((format!("parameters.{key}"), format!("{} has no such parameter: {known}", name(self.preset))));
        }
        if self.faults.is_empty() { Ok(what) } else { Err(self.faults) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::query::Values;

    fn texts(preset: Preset, parameters: &[(&str, &str)], transport: Transport) -> Vec<String> {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let values = Values {
            namespace: "shop".into(),
            canary_service: Some("api-canary".into()),
            canary_hash: "7f6b".into(),
            interval: jiff::SignedDuration::from_secs(30),
            ..Values::default()
        };
        match expand(preset, &parameters, transport).unwrap().0 {
            What::Ratio { numerator, denominator } => vec![numerator.render(&values).unwrap(), denominator.render(&values).unwrap()],
            What::Quantile { histogram, .. } => vec![histogram.render(&values).unwrap()],
            What::Value(_) => panic!("no preset is a plain value"),
        }
    }

    #[test]
    fn success_rates_for_prometheus_are_two_increases() {
        assert_eq!(
            texts(Preset::ContourSuccessRate, &[], Transport::Prometheus),
            [
                r#"sum(increase(envoy_cluster_upstream_rq_xx{envoy_cluster_name=~"shop_api-canary_[0-9a-zA-Z-]+",envoy_response_code_class!="5"}[30s]))"#,
                r#"sum(increase(envoy_cluster_upstream_rq_xx{envoy_cluster_name=~"shop_api-canary_[0-9a-zA-Z-]+"}[30s]))"#,
            ]
        );
        assert_eq!(
            texts(
                Preset::PodsSuccessRate,
                &[
                    ("counter", "hits"),
                    ("codeLabel", "status"),
                    ("failure", r"5\d\d"),
                    ("matchers", "path!=\"/healthz\","),
                    ("podLabel", "kubernetes_pod"),
                    ("namespaceLabel", "ns")
                ],
                Transport::Prometheus
            ),
            [
                r#"sum(increase(hits{status!="",status!~"5\\d\\d",ns="shop",kubernetes_pod=~".+-7f6b-.+",path!="/healthz"}[30s]))"#,
                r#"sum(increase(hits{status!="",ns="shop",kubernetes_pod=~".+-7f6b-.+",path!="/healthz"}[30s]))"#,
            ]
        );
    }

    #[test]
    fn latencies_for_prometheus_are_the_buckets() {
        assert_eq!(
            texts(Preset::ContourLatency, &[("quantile", "0.5")], Transport::Prometheus),
            [r#"sum by (le) (increase(envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=~"shop_api-canary_[0-9a-zA-Z-]+"}[30s]))"#]
        );
        assert_eq!(
            texts(Preset::PodsLatency, &[], Transport::Prometheus),
            [r#"sum by (le) (increase(http_request_duration_seconds_bucket{namespace="shop",pod=~".+-7f6b-.+"}[30s]))"#]
        );
    }

    #[test]
    fn meshes_and_gateways_are_asked_about_the_canary_service() {
        let rate = |preset| texts(preset, &[], Transport::Counters);
        assert_eq!(
            rate(Preset::IstioSuccessRate),
            [
                r#"istio_requests_total{reporter="source",destination_service_namespace="shop",destination_service_name="api-canary",response_code!~"5.."}"#,
                r#"istio_requests_total{reporter="source",destination_service_namespace="shop",destination_service_name="api-canary"}"#,
            ]
        );
        assert_eq!(
            rate(Preset::LinkerdSuccessRate),
            [
                r#"outbound_http_route_backend_response_statuses_total{backend_namespace="shop",backend_name="api-canary",http_status!~"5..",error=""}"#,
                r#"outbound_http_route_backend_response_statuses_total{backend_namespace="shop",backend_name="api-canary"}"#,
            ]
        );
        assert_eq!(
            texts(Preset::TraefikLatency, &[("serviceLabel", "exported_service")], Transport::Prometheus),
            [
                r#"sum by (le) (increase(traefik_service_request_duration_seconds_bucket{exported_service=~"(.+-svc-)?shop-api-canary-[0-9]+@kubernetesgateway"}[30s]))"#
            ]
        );
        assert_eq!(
            texts(Preset::IstioLatency, &[("reporter", "waypoint"), ("quantile", "0.5")], Transport::Scrape { url: true }),
            [
                r#"istio_request_duration_milliseconds{reporter="waypoint",destination_service_namespace="shop",destination_service_name="api-canary"}"#
            ]
        );
    }

    /// As https://linkerd.io/2-edge/tasks/books shows them: a request without an answer has an error and no status.
    #[test]
    fn of_linkerds_requests_those_without_an_answer_have_failed() {
        let texts = texts(Preset::LinkerdSuccessRate, &[], Transport::Counters);
        let counted = |text: &str, status: &str, error: &str, backend: &str| {
            let labels = [("backend_namespace", "shop"), ("backend_name", backend), ("http_status", status), ("error", error)];
            let label = |name: &str| labels.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            Selector::parse(text).unwrap().matches("outbound_http_route_backend_response_statuses_total", label)
        };
        let [success, all] = texts.as_slice() else { panic!("{texts:?}") };
        for (status, error, succeeds) in
            [("200", "", true), ("404", "", true), ("500", "", false), ("", "REQUEST_TIMEOUT", false), ("", "UNEXPECTED", false)]
        {
            assert_eq!(counted(success, status, error, "api-canary"), succeeds, "{status} {error}");
            assert!(counted(all, status, error, "api-canary") && !counted(all, status, error, "api"));
        }
    }

    #[test]
    fn for_scrape_they_are_selectors() {
        let pods = Transport::Scrape { url: false };
        assert_eq!(
            texts(Preset::PodsSuccessRate, &[], pods),
            [r#"http_requests_total{code!="",code!~"5.."}"#, r#"http_requests_total{code!=""}"#]
        );
        assert_eq!(texts(Preset::PodsLatency, &[("unit", "ms")], pods), ["http_request_duration_seconds{}"]);
        assert_eq!(
            texts(Preset::ContourLatency, &[], Transport::Scrape { url: true }),
            [r#"envoy_cluster_upstream_rq_time{envoy_cluster_name=~"shop_api-canary_[0-9a-zA-Z-]+"}"#]
        );
    }

    #[test]
    fn parameters_that_are_wrong_are_named() {
        let all = |preset, transport, key: &str, value: &str| {
            expand(preset, &[(key.to_owned(), value.to_owned())].into(), transport).unwrap_err()
        };
        for (preset, key, value, message) in [
            (Preset::ContourSuccessRate, "quantile", "0.9", "contour/success-rate has no such parameter: it has none"),
            (Preset::ContourLatency, "qantile", "0.9", "contour/latency has no such parameter: known are quantile"),
            (Preset::ContourLatency, "quantile", "99", "\"99\" is not a number above 0 and below 1: write 0.99 for the 99th percentile"),
            (Preset::PodsSuccessRate, "counter", "a b", "\"a b\" is not the name of a metric"),
            (Preset::PodsSuccessRate, "codeLabel", "a:b", "\"a:b\" is not the name of a label"),
            (Preset::PodsLatency, "unit", "us", "\"us\" is not the unit of a histogram: s (seconds, the default) or ms"),
        ] {
            assert_eq!(all(preset, Transport::Prometheus, key, value), [(format!("parameters.{key}"), message.to_owned())]);
        }
        for (key, value) in [("failure", "("), ("matchers", "a=b"), ("matchers", "a=\"b\"}[1m]))#"), ("matchers", "a=\"{{x\"")] {
            let faults = all(Preset::PodsSuccessRate, Transport::Prometheus, key, value);
            assert!(faults.iter().any(|(field, _)| *field == format!("parameters.{key}")), "{key} {value}: {faults:?}");
        }
        let error = all(Preset::PodsSuccessRate, Transport::Scrape { url: false }, "podLabel", "x");
        assert!(error[0].1.contains("no such parameter"), "pods are told by their addresses: {error:?}");
    }

    #[test]
    fn a_preset_that_cannot_tell_the_canary_is_refused() {
        let error = expand(Preset::ContourLatency, &BTreeMap::new(), Transport::Scrape { url: false }).unwrap_err();
        assert!(error[0].1.contains("set scrape.url to where they are, such as http://envoy-metrics"), "{error:?}");
        let error = expand(Preset::LinkerdLatency, &BTreeMap::new(), Transport::Scrape { url: true }).unwrap_err();
        assert!(error[0].1.contains("it comes from Prometheus"), "{error:?}");
        let error = expand(Preset::EnvoyGatewayLatency, &BTreeMap::new(), Transport::Prometheus).unwrap_err();
        assert!(error[0].1.contains("pods/latency"), "{error:?}");
        let error = expand(Preset::PodsLatency, &BTreeMap::new(), Transport::Scrape { url: true }).unwrap_err();
        assert!(error[0].1.contains("leave url out"), "{error:?}");
    }
}
