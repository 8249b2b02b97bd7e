//! Every preset on what real processes expose (tests/data), or on what their documentation says that they do.

use super::*;

/// The text of a file in tests/data.
macro_rules! data {
    ($file:literal) => {
        include_str!(concat!("../../../tests/data/", $file))
    };
}

/// Serves one text after the other.
async fn readings(content_type: &'static str, texts: [&'static str; 2]) -> Server {
    let left = Mutex::new(texts.into_iter());
    serve(move |_, _| ([("content-type", content_type)], left.lock().unwrap().next().unwrap()).into_response()).await
}

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn envoy() -> Server {
    readings("text/plain; charset=UTF-8", [data!("envoy-0.txt"), data!("envoy-1.txt")]).await
}

/// Both pods of the canary, on the loopback.
async fn canary() -> [Server; 2] {
    let a = readings(OPEN_METRICS, [data!("rust-a-0.txt"), data!("rust-a-1.txt")]).await;
    [a, readings(OPEN_METRICS, [data!("rust-b-0.txt"), data!("rust-b-1.txt")]).await]
}

fn preset(preset: Preset, url: Option<String>, parameters: &[(&str, &str)]) -> Metric {
    let latency = preset.is_latency();
    Metric {
        name: "m".into(),
        preset: Some(preset),
        parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        scrape: Some(ScrapeProvider { url, ..ScrapeProvider::default() }),
        min: (!latency).then_some(99.0),
        max: latency.then_some(250.0),
        ..Metric::default()
    }
}

/// The verdict on two readings, 30 s apart.
async fn two_readings(metric: &Metric, sources: &Fake) -> (Verdict, String) {
    let (providers, mut spec) = (providers(None), run(metric));
    spec.step = None;
    let mut status = AnalysisRunStatus::default();
    for now in [0, 30] {
        status = measure_due(&providers, "shop", &spec, &status, sources, at(now)).await.unwrap();
    }
    let newest = status.metric_results[0].measurements.pop().unwrap();
    (newest.verdict, newest.message)
}

#[tokio::test]
async fn envoy_behind_contour() {
    let url = async || Some(format!("{}/stats/prometheus", envoy().await.address));
    let rate = preset(Preset::ContourSuccessRate, url().await, &[]);
    let latency = preset(Preset::ContourLatency, url().await, &[]);
    let median = preset(Preset::ContourLatency, url().await, &[("quantile", "0.5")]);
    let nobody = Fake::default();
    assert_eq!(two_readings(&rate, &nobody).await, (Verdict::Fail, "79.961 % is below the minimum of 99 % (1,527 requests)".to_owned()));
    assert_eq!(two_readings(&latency, &nobody).await, (Verdict::Pass, "49.75 ms is at most 250 ms (1,495 requests)".to_owned()));
    assert_eq!(two_readings(&median, &nobody).await, (Verdict::Pass, "37.5 ms is at most 250 ms (1,495 requests)".to_owned()));
}

#[tokio::test]
async fn pods_in_rust() {
    let of = async |metric: Metric| {
        let [a, b] = canary().await;
        let sources = Fake { pods: vec![pod("api-7f6b-a", &a), pod("api-7f6b-b", &b)], ..Fake::default() };
        two_readings(&metric, &sources).await
    };
    let rate = preset(Preset::PodsSuccessRate, None, &[]);
    assert_eq!(of(rate).await, (Verdict::Fail, "80.026 % is below the minimum of 99 % (1,532 requests)".to_owned()));
    let latency = preset(Preset::PodsLatency, None, &[]);
    assert_eq!(of(latency).await, (Verdict::Pass, "49.75 ms is at most 250 ms (1,532 requests)".to_owned()));
    let wrong = preset(Preset::PodsSuccessRate, None, &[("codeLabel", "status")]);
    assert_eq!(
        of(wrong).await,
        (Verdict::NoData, "the answer is empty: no series matches".to_owned()),
        "without codes nothing is a success"
    );
}

#[tokio::test]
async fn a_pod_in_go() {
    let of = async |of: Preset, parameters: &[(&str, &str)]| {
        let server = readings(TEXT, [data!("golang-0.txt"), data!("golang-1.txt")]).await;
        let metric = Metric { min_samples: Some(10), ..preset(of, None, parameters) };
        two_readings(&metric, &Fake { pods: vec![pod("prometheus", &server)], ..Fake::default() }).await
    };
    let handler = ("matchers", "handler=\"/api/v1/query\"");
    let rate = of(Preset::PodsSuccessRate, &[("counter", "prometheus_http_requests_total"), ("failure", "[45].."), handler]).await;
    assert_eq!(rate, (Verdict::Fail, "94.118 % is below the minimum of 99 % (17 requests)".to_owned()));
    let latency = of(Preset::PodsLatency, &[("histogram", "prometheus_http_request_duration_seconds"), handler]).await;
    assert_eq!(latency, (Verdict::Pass, "99 ms is at most 250 ms (17 requests)".to_owned()));
}

#[tokio::test]
async fn prometheus_for_all_of_them() {
    let server = serve(|_, query| {
        let success = query.contains("%21%3D%225%22") || query.contains("%21%7E%225..%22") || query.contains("!~");
        match query {
            query if query.contains("rq_time") => data!("prometheus-contour-time.json"),
            query if query.contains("duration_seconds") => data!("prometheus-pods-time.json"),
            query if query.contains("rq_xx") && success => data!("prometheus-contour-success.json"),
            query if query.contains("rq_xx") => data!("prometheus-contour-all.json"),
            _ if success => data!("prometheus-pods-success.json"),
            _ => data!("prometheus-pods-all.json"),
        }
        .into_response()
    })
    .await;
    let providers = providers(Some(&server.address));
    for (of, message) in [
        (Preset::ContourSuccessRate, "79.986 % is below the minimum of 99 % (1,520 requests)"),
        (Preset::ContourLatency, "49.75 ms is at most 250 ms (1,602 requests)"),
        (Preset::PodsSuccessRate, "80.042 % is below the minimum of 99 % (1,525 requests)"),
        (Preset::PodsLatency, "49.75 ms is at most 250 ms (1,525 requests)"),
    ] {
        let metric = Metric { scrape: None, ..preset(of, None, &[]) };
        let spec = run(&metric);
        let status = measure_due(&providers, "shop", &spec, &AnalysisRunStatus::default(), &Fake::default(), at(0)).await.unwrap();
        let status = measure_due(&providers, "shop", &spec, &status, &Fake::default(), at(30)).await.unwrap();
        assert_eq!(status.metric_results[0].measurements[0].message, message, "{:?}", status.metric_results[0].measurements[0].queries);
    }
}

#[tokio::test]
async fn odd_answers_of_prometheus() {
    let providers = providers(None);
    let of = async |body: &'static str| plain(&providers, move || body.into_response()).await;
    assert_eq!(of(data!("prometheus-empty.json")).await, Ok(Sample::default()));
    assert!(of(data!("prometheus-nan.json")).await.unwrap().values[0].is_nan());
    for (body, kind, message) in [
        (data!("prometheus-bad-bucket.json"), ErrorKind::Partial, "PromQL warning: bucket label"),
        (data!("prometheus-syntax.json"), ErrorKind::Refused, "Prometheus answers bad_data: invalid parameter"),
        (data!("prometheus-string.json"), ErrorKind::Malformed, "the query returns a string"),
    ] {
        let error = of(body).await.unwrap_err();
        assert_eq!((error.kind, error.message.contains(message)), (kind, true), "{error}");
    }
}

/// Two readings of counters, 30 s apart; the first is all zeros.
async fn documented(series: &[(&str, u64)]) -> Server {
    let text = |last: bool| -> &'static str {
        let lines = series.iter().map(|(series, count)| format!("{series} {}\n", if last { *count } else { 0 }));
        lines.collect::<String>().leak()
    };
    readings(TEXT, [text(false), text(true)]).await
}

/// Labels as in https://istio.io/latest/docs/reference/config/metrics.
#[tokio::test]
async fn istio() {
    let requests = |reporter: &str, namespace: &str, service: &str, code: &str| {
        format!(
            r#"istio_requests_total{{reporter="{reporter}",source_workload="gateway-istio",destination_workload="api-7f6b",destination_service="{service}.{namespace}.svc.cluster.local",destination_service_name="{service}",destination_service_namespace="{namespace}",request_protocol="http",response_code="{code}",response_flags="-"}}"#
        )
    };
    let bucket = |service: &str, le: &str| {
        format!(
            r#"istio_request_duration_milliseconds_bucket{{reporter="source",destination_service_name="{service}",destination_service_namespace="shop",response_code="200",le="{le}"}}"#
        )
    };
    let series = [
        (requests("source", "shop", "api-canary", "200"), 900),
        (requests("source", "shop", "api-canary", "503"), 100),
        (requests("destination", "shop", "api-canary", "503"), 5_000),
        (requests("source", "shop", "api", "503"), 5_000),
        (requests("source", "bank", "api-canary", "503"), 5_000),
        (bucket("api-canary", "100"), 500),
        (bucket("api-canary", "500"), 1_000),
        (bucket("api-canary", "+Inf"), 1_000),
        (bucket("api", "+Inf"), 5_000),
    ];
    let series: Vec<(&str, u64)> = series.iter().map(|(series, count)| (series.as_str(), *count)).collect();
    let of = async |of: Preset| two_readings(&preset(of, Some(documented(&series).await.address.clone()), &[]), &Fake::default()).await;
    assert_eq!(of(Preset::IstioSuccessRate).await, (Verdict::Fail, "90 % is below the minimum of 99 % (1,000 requests)".to_owned()));
    assert_eq!(of(Preset::IstioLatency).await, (Verdict::Fail, "492 ms is above the maximum of 250 ms (1,000 requests)".to_owned()));
}

/// Names of services as Traefik gives them to the backends of a Gateway API route, older and newer.
#[tokio::test]
async fn traefik() {
    let requests = |service: &str, code: &str| {
        format!(r#"traefik_service_requests_total{{code="{code}",method="GET",protocol="http",service="{service}@kubernetesgateway"}}"#)
    };
    for prefix in ["", "httproute-shop-api-gw-gateways-main-ep-web-0-1c0cf64bde37d9d0df06-svc-"] {
        let series = [
            (requests(&format!("{prefix}shop-api-canary-80"), "200"), 950),
            (requests(&format!("{prefix}shop-api-canary-80"), "502"), 50),
            (requests(&format!("{prefix}shop-api-80"), "502"), 5_000),
            (requests("httproute-shop-api-canary-gw-gateways-main-ep-web-0-1c0cf64bde37d9d0df06-wrr", "502"), 5_000),
        ];
        let series: Vec<(&str, u64)> = series.iter().map(|(series, count)| (series.as_str(), *count)).collect();
        let rate = preset(Preset::TraefikSuccessRate, Some(documented(&series).await.address.clone()), &[]);
        let expected = (Verdict::Fail, "95 % is below the minimum of 99 % (1,000 requests)".to_owned());
        assert_eq!(two_readings(&rate, &Fake::default()).await, expected, "{prefix}");
    }
}
