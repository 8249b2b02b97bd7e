//! The counters that canaries are judged by, under the names that most instrumentation libraries use.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds, the defaults of Prometheus' own client libraries.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GrpcCode {
    grpc_code: &'static str,
}

pub struct Metrics {
    registry: Registry,
    requests: Family<Code, Counter>,
    handled: Family<GrpcCode, Counter>,
    duration: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let requests = Family::<Code, Counter>::default();
        // Present from the start: the first failure is then an increase from 0, which a rate can see.
        for code in [200, 503] {
            drop(requests.get_or_create(&Code { code }));
        }
        let handled = Family::<GrpcCode, Counter>::default();
        for grpc_code in ["OK", "Unavailable"] {
            drop(handled.get_or_create(&GrpcCode { grpc_code }));
        }
        let duration = Histogram::new(BUCKETS);
        let mut registry = Registry::default();
        // The encoder adds `_total`.
        registry.register("http_requests", "Answers by status code", requests.clone());
        registry.register("grpc_server_handled", "Calls by code of gRPC", handled.clone());
        registry.register("http_request_duration_seconds", "How long answers took", duration.clone());
        Self { registry, requests, handled, duration }
    }
}

impl Metrics {
    pub fn answered(&self, code: u16, took: Duration) {
        self.requests.get_or_create(&Code { code }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A call of gRPC.
    pub fn handled(&self, grpc_code: &'static str) {
        self.handled.get_or_create(&GrpcCode { grpc_code }).inc();
    }

    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_code_and_time() {
        let metrics = Metrics::default();
        metrics.answered(200, Duration::from_millis(20));
        metrics.answered(200, Duration::from_millis(200));
        metrics.handled("Unavailable");
        let text = metrics.encode();
        for line in [
            "http_requests_total{code=\"200\"} 2",
            "http_requests_total{code=\"503\"} 0",
            "grpc_server_handled_total{grpc_code=\"OK\"} 0",
            "grpc_server_handled_total{grpc_code=\"Unavailable\"} 1",
            "http_request_duration_seconds_count 2",
            "http_request_duration_seconds_bucket{le=\"0.025\"} 1",
            "http_request_duration_seconds_bucket{le=\"+Inf\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
    }
}
