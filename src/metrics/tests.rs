//! The providers against servers on the loopback.

mod access;
mod compare;
mod real;
mod shared;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header::AUTHORIZATION},
    response::{IntoResponse, Redirect, Response},
};

use super::*;
use crate::{
    api::{
        RunPhase, Verdict,
        access::{Access, SecretKeyRef},
        analysis::{Preset, PrometheusProvider, Ratio, ScrapeProvider},
    },
    core::{judge::Sample, spec::Invalid},
};

/// What the server was asked: path, `Authorization`, body.
type Asked = (String, Option<String>, String);
type Answer = Arc<dyn Fn(&str, &str) -> Response + Send + Sync>;

/// A server that answers as it is told, by path and body.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

async fn serve(answer: impl Fn(&str, &str) -> Response + Send + Sync + 'static) -> Server {
    async fn handle(
        State((asked, answer)): State<(Arc<Mutex<Vec<Asked>>>, Answer)>,
        uri: Uri,
        headers: HeaderMap,
        body: String,
    ) -> Response {
        if body.contains("query=slow") {
            std::future::pending::<()>().await;
        }
        let token = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        asked.lock().unwrap().push((uri.to_string(), token, body.clone()));
        answer(uri.path(), &body)
    }
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answer: Answer = Arc::new(answer);
    let app = Router::new().fallback(handle).with_state((asked.clone(), answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    Server { address, asked }
}

fn vector(series: &[(&str, &str)]) -> String {
    let series: Vec<_> =
        series.iter().map(|(labels, value)| format!(r#"{{"metric":{{{labels}}},"value":[1800000000.1,"{value}"]}}"#)).collect();
    format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#, series.join(","))
}

/// Whose it is, its name, its data.
type FakeSecret = (SecretsOf, &'static str, &'static [(&'static str, &'static str)]);

#[derive(Default)]
struct Fake {
    pods: Vec<PodTarget>,
    /// Those of the revision that serves.
    stable: Vec<PodTarget>,
    secrets: Vec<FakeSecret>,
    templates: BTreeMap<String, AnalysisTemplateSpec>,
}

impl Fake {
    fn with_secrets(secrets: &[FakeSecret]) -> Self {
        Self { secrets: secrets.to_vec(), ..Self::default() }
    }
}

#[async_trait]
impl Sources for Fake {
    async fn pods(&self, revision: &str) -> Result<Vec<PodTarget>, String> {
        Ok(if revision == "5d9c" { self.stable.clone() } else { self.pods.clone() })
    }

    async fn secret(&self, of: SecretsOf, name: &str) -> Result<SecretData, String> {
        let found = self.secrets.iter().find(|(whose, known, _)| (*whose, *known) == (of, name));
        let (_, _, data) = found.ok_or_else(|| format!("Secret {name} lacks the label"))?;
        Ok(SecretData(data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()))
    }

    fn cluster_template(&self, name: &str) -> Option<Result<AnalysisTemplateSpec, Invalid>> {
        self.templates.get(name).cloned().map(Ok)
    }
}

fn providers(prometheus: Option<&str>) -> Providers {
    let prometheus_address = prometheus.map(str::to_owned);
    Providers::new(Settings { prometheus_address, allow: Allow { loopback: true, ..Allow::default() }, ..Settings::default() }).unwrap()
}

fn run(metric: &Metric) -> AnalysisRunSpec {
    AnalysisRunSpec {
        rollout: "api".into(),
        canary_hash: "7f6b".into(),
        stable_hash: Some("5d9c".into()),
        service: Some("api".into()),
        canary_service: Some("api-canary".into()),
        step: Some(0),
        args: BTreeMap::new(),
        metrics: vec![metric.clone()],
        comparisons: None,
        prove: vec![],
        cluster_templates: BTreeMap::new(),
        terminate: false,
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

async fn measure(providers: &Providers, metric: &Metric, sources: &Fake, previous: Option<&Reading>, seconds: i64) -> Measured {
    let spec = run(metric);
    providers.measure(&MeasureRequest { namespace: "shop", spec: &spec, metric, previous, sources, now: at(seconds) }).await
}

fn query(query: &str) -> Metric {
    let prometheus =
        PrometheusProvider { query: Some(query.into()), timeout: Some("300ms".parse().unwrap()), ..PrometheusProvider::default() };
    Metric { name: "x".into(), prometheus: Some(prometheus), max: Some(1.0), ..Metric::default() }
}

/// What a plain query makes of an answer.
async fn plain(providers: &Providers, answer: impl Fn() -> Response + Send + Sync + 'static) -> Result<Sample, ProviderError> {
    let server = serve(move |_, _| answer()).await;
    let mut metric = query("x");
    metric.prometheus.as_mut().unwrap().address = Some(server.address);
    measure(providers, &metric, &Fake::default(), None, 0).await.result.map(Option::unwrap)
}

#[tokio::test]
async fn numbers_come_back() {
    let providers = providers(None);
    let values = async |body: String| plain(&providers, move || body.clone().into_response()).await.map(|sample| sample.values);
    assert_eq!(values(vector(&[("", "0.5")])).await, Ok(vec![0.5]));
    assert_eq!(values(vector(&[("\"a\":\"b\"", "1"), ("\"a\":\"c\"", "+Inf")])).await, Ok(vec![1.0, f64::INFINITY]));
    assert_eq!(values(vector(&[])).await, Ok(vec![]));
    assert_eq!(
        values(r#"{"status":"success","data":{"resultType":"scalar","result":[1,"2"]},"infos":["just so"]}"#.into()).await,
        Ok(vec![2.0])
    );
    assert!(values(vector(&[("", "NaN")])).await.unwrap()[0].is_nan());
}

#[tokio::test]
async fn what_is_not_an_answer_is_a_typed_error() {
    let providers = providers(None);
    let large = "x".repeat((1 << 20) + 1);
    let many: Vec<_> = (0..101).map(|_| ("", "1")).collect();
    for (what, status, body, kind, message) in [
        (
            "error JSON",
            400,
            r#"{"status":"error","errorType":"bad_data","error":"parse error: x"}"#.to_owned(),
            ErrorKind::Refused,
            "Prometheus answers bad_data: parse error: x",
        ),
        (
            "error JSON with 200",
            200,
            r#"{"status":"error","errorType":"timeout","error":"slow"}"#.into(),
            ErrorKind::Refused,
            "Prometheus answers timeout: slow",
        ),
        ("500", 500, "oh no\n".into(), ErrorKind::Refused, "Prometheus answers HTTP 500: oh no"),
        ("401", 401, String::new(), ErrorKind::Refused, "Prometheus answers HTTP 401"),
        (
            "warnings",
            200,
            vector(&[("", "1")]).replace(r#""data""#, r#""warnings":["a store is down"],"data""#),
            ErrorKind::Partial,
            "the answer is not complete, Prometheus warns: a store is down",
        ),
        ("huge body", 200, large, ErrorKind::TooLarge, "is larger than 1024 KiB"),
        ("HTML", 200, "<html>".into(), ErrorKind::Malformed, "the answer is not one of Prometheus"),
        (
            "matrix",
            200,
            r#"{"status":"success","data":{"resultType":"matrix","result":[]}}"#.into(),
            ErrorKind::Malformed,
            "the query returns a matrix",
        ),
        (
            "native histogram",
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"1"}]}]}}"#.into(),
            ErrorKind::Malformed,
            "native histograms",
        ),
        ("not a number", 200, vector(&[("", "one")]), ErrorKind::Malformed, "\"one\" is not a number"),
        ("no data", 200, r#"{"status":"success"}"#.into(), ErrorKind::Malformed, "the answer has no data"),
        ("far too many series", 200, vector(&vec![("", "1"); 1001]), ErrorKind::TooLarge, "the query returns 1001 series, at most 1000"),
        ("many series", 200, vector(&many), ErrorKind::TooLarge, "the query returns 101 series"),
    ] {
        let error = plain(&providers, move || (StatusCode::from_u16(status).unwrap(), body.clone()).into_response()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{what}: {error}");
        assert!(error.message.contains(message), "{what}: {error}");
    }
    let chunked =
        || axum::body::Body::from_stream(futures::stream::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(1 << 16)))).into_response();
    assert_eq!(plain(&providers, chunked).await.unwrap_err().kind, ErrorKind::TooLarge, "a body without end");
    let error = plain(&providers, || Redirect::temporary("http://169.254.169.254/").into_response()).await.unwrap_err();
    assert!(error.message.contains("redirects (HTTP 307), which is not followed"), "{error}");
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() {
    let server = serve(|_, _| "".into_response()).await;
    let slow = measure(&providers(Some(&server.address)), &query("slow"), &Fake::default(), None, 0).await;
    let error = slow.result.unwrap_err();
    assert_eq!((error.kind, error.message.contains("did not answer within 300ms")), (ErrorKind::Timeout, true), "{error}");
    let nobody = measure(&providers(Some("http://127.0.0.1:1")), &query("x"), &Fake::default(), None, 0).await;
    let error = nobody.result.unwrap_err();
    assert_eq!((error.kind, error.message.contains("127.0.0.1:1 cannot be asked: ")), (ErrorKind::Unreachable, true), "{error}");
}

#[tokio::test]
async fn the_query_is_sent_for_one_moment_and_shown() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let measured = measure(
        &providers(Some(&format!("{}/prefix/", server.address))),
        &query(r#"up{a="{{canary.hash}}"}[{{interval}}]"#),
        &Fake::default(),
        None,
        5,
    )
    .await;
    assert_eq!(measured.queries, [r#"up{a="7f6b"}[30s]"#]);
    let asked = server.asked.lock().unwrap();
    assert_eq!(*asked, [("/prefix/api/v1/query".to_owned(), None, "query=up%7Ba%3D%227f6b%22%7D%5B30s%5D&time=1800000005.000".to_owned())]);
}

#[tokio::test]
async fn a_token_goes_where_it_belongs_and_is_never_shown() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let reference = SecretKeyRef { name: "prometheus".into(), key: "token".into() };
    let with = |address: Option<&str>, token: bool| {
        let provider = PrometheusProvider {
            address: address.map(str::to_owned),
            access: Access { bearer_token_secret_ref: token.then(|| reference.clone()), ..Access::default() },
            ..query("x").prometheus.unwrap()
        };
        Metric { prometheus: Some(provider), ..query("x") }
    };
    let settings = Settings {
        prometheus_address: Some(server.address.clone()),
        prometheus_token: Some(Token::new("ours")),
        allow: Allow { loopback: true, ..Allow::default() },
    };
    assert!(!format!("{settings:?}").contains("ours"));
    let providers = Providers::new(settings).unwrap();
    let theirs = Fake::with_secrets(&[(SecretsOf::Run, "prometheus", &[("token", "theirs\n")])]);
    measure(&providers, &with(None, false), &theirs, None, 0).await.result.unwrap();
    measure(&providers, &with(None, true), &theirs, None, 0).await.result.unwrap();
    measure(&providers, &with(Some(&server.address), true), &theirs, None, 0).await.result.unwrap();
    measure(&providers, &with(Some(&server.address), false), &theirs, None, 0).await.result.unwrap();
    let tokens: Vec<_> = server.asked.lock().unwrap().iter().map(|(_, token, _)| token.clone()).collect();
    assert_eq!(tokens, [Some("Bearer ours".to_owned()), Some("Bearer theirs".to_owned()), Some("Bearer theirs".to_owned()), None]);
    let error = measure(&providers, &with(None, true), &Fake::default(), None, 0).await.result.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Secret, "Secret prometheus lacks the label"));
}

#[tokio::test]
async fn addresses_that_only_the_controller_reaches_are_refused() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let port = server.address.rsplit_once(':').unwrap().1;
    let providers = Providers::new(Settings { prometheus_address: Some(server.address.clone()), ..Settings::default() }).unwrap();
    let at = |address: String| Metric {
        prometheus: Some(PrometheusProvider { address: Some(address), ..query("x").prometheus.unwrap() }),
        ..query("x")
    };
    for address in [
        server.address.clone(),
        format!("http://localhost:{port}"),
        format!("http://[::1]:{port}"),
        "http://169.254.169.254".into(),
        "http://2852039166".into(),
    ] {
        let error = measure(&providers, &at(address.clone()), &Fake::default(), None, 0).await.result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Forbidden, "{address}: {error}");
    }
    let scrape = |url: &str| Metric {
        prometheus: None,
        scrape: Some(ScrapeProvider { url: Some(url.into()), value: Some("x".into()), ..ScrapeProvider::default() }),
        ..query("x")
    };
    let error =
        measure(&providers, &scrape(&format!("http://localhost:{port}/metrics")), &Fake::default(), None, 0).await.result.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden, "{error}");
    assert_eq!(*server.asked.lock().unwrap(), []);
    assert!(
        measure(&providers, &query("x"), &Fake::default(), None, 0).await.result.is_ok(),
        "the installation's own address may be anywhere"
    );
}

#[tokio::test]
async fn a_ratio_knows_its_number_of_requests() {
    let of = async |numerator: &'static [(&'static str, &'static str)], denominator: &'static [(&'static str, &'static str)]| {
        let server = serve(move |_, body| vector(if body.contains("good") { numerator } else { denominator }).into_response()).await;
        let ratio = Ratio { numerator: "good".into(), denominator: "all".into() };
        let metric = Metric {
            prometheus: Some(PrometheusProvider { ratio: Some(ratio), ..PrometheusProvider::default() }),
            min: Some(99.0),
            max: None,
            ..query("x")
        };
        let measured = measure(&providers(Some(&server.address)), &metric, &Fake::default(), None, 0).await;
        assert_eq!(measured.queries, ["good", "all"]);
        measured.result.map(Option::unwrap)
    };
    assert_eq!(of(&[("", "190")], &[("", "200")]).await, Ok(Sample { values: vec![95.0], samples: Some(200.0), caveat: None }));
    assert_eq!(of(&[("", "190")], &[]).await, Ok(Sample::default()), "no denominator, no data");
    let none = of(&[], &[("", "200")]).await.unwrap();
    assert_eq!((none.values, none.caveat.is_some()), (vec![0.0], true), "zero, but not for sure");
    let error = of(&[("", "1"), ("\"a\":\"b\"", "1")], &[("", "2")]).await.unwrap_err();
    assert_eq!(error.message, "the numerator returns 2 series, it must be one: write sum(...) around it");
}

#[tokio::test]
async fn a_latency_is_computed_from_the_buckets() {
    let buckets = [(r#""le":"0.25""#, "900"), (r#""le":"0.5""#, "1000"), (r#""le":"+Inf""#, "1000")];
    let server = serve(move |_, _| vector(&buckets).into_response()).await;
    let metric = Metric { preset: Some(Preset::PodsLatency), prometheus: None, max: Some(500.0), ..query("x") };
    let measured = measure(&providers(Some(&server.address)), &metric, &Fake::default(), None, 0).await;
    assert_eq!(measured.result, Ok(Some(Sample { values: vec![475.0], samples: Some(1000.0), caveat: None })));
    let slow = [(r#""le":"0.1""#, "900"), (r#""le":"0.5""#, "980"), (r#""le":"+Inf""#, "1000")];
    let server = serve(move |_, _| vector(&slow).into_response()).await;
    let sample = measure(&providers(Some(&server.address)), &metric, &Fake::default(), None, 0).await.result.unwrap().unwrap();
    assert_eq!(sample.values, [500.0]);
    assert!(sample.caveat.unwrap().contains("above the histogram's largest bound, 500"));
    let server = serve(|_, _| vector(&[("", "5")]).into_response()).await;
    let error = measure(&providers(Some(&server.address)), &metric, &Fake::default(), None, 0).await.result.unwrap_err();
    assert!(error.message.contains("must keep the label le"), "{error}");
}

/// A pod of the canary, served on the loopback.
fn pod(name: &str, server: &Server) -> PodTarget {
    let address: std::net::SocketAddr = server.address.trim_start_matches("http://").parse().unwrap();
    PodTarget { name: name.into(), ip: address.ip(), port: Some(address.port()), path: None }
}

fn pods_rate() -> Metric {
    Metric {
        name: "rate".into(),
        preset: Some(Preset::PodsSuccessRate),
        scrape: Some(ScrapeProvider::default()),
        min: Some(99.0),
        ..Metric::default()
    }
}

/// Serves counters of answers with 200 and 503 that a test moves.
async fn app(counts: &Arc<Mutex<(u64, u64)>>) -> Server {
    let counts = counts.clone();
    serve(move |path, _| {
        let (good, bad) = *counts.lock().unwrap();
        assert_eq!(path, "/metrics");
        format!(
            "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {good}\nhttp_requests_total{{code=\"503\"}} {bad}\n"
        )
        .into_response()
    })
    .await
}

/// The whole life of a run that reads the pods itself: an edge, windows, a restart of a pod, a verdict.
#[tokio::test]
async fn a_run_judges_what_the_pods_count() {
    let (a, b) = (Arc::new(Mutex::new((5000, 100))), Arc::new(Mutex::new((0, 0))));
    let (first, second) = (app(&a).await, app(&b).await);
    let providers = providers(None);
    let mut sources = Fake { pods: vec![pod("a", &first)], ..Fake::default() };
    let spec = AnalysisRunSpec { step: None, ..run(&pods_rate()) };
    let step =
        async |status: &AnalysisRunStatus, sources: &Fake, now| measure_due(&providers, "shop", &spec, status, sources, at(now)).await;

    let status = step(&AnalysisRunStatus::default(), &sources, 0).await.unwrap();
    assert_eq!((status.phase, status.metric_results[0].measurements.len()), (RunPhase::Running, 0), "{}", status.message);
    assert!(step(&status, &sources, 29).await.is_none(), "nothing is due");

    *a.lock().unwrap() = (5200, 100);
    *b.lock().unwrap() = (100, 0);
    sources.pods.push(pod("b", &second));
    let status = step(&status, &sources, 30).await.unwrap();
    let newest = |status: &AnalysisRunStatus| status.metric_results[0].measurements.last().unwrap().clone();
    assert_eq!((newest(&status).verdict, newest(&status).message.as_str()), (Verdict::Pass, "100 % is at least 99 % (300 requests)"));
    assert_eq!((newest(&status).since.0, newest(&status).at.0), (at(0), at(30)));
    assert_eq!(newest(&status).queries, [r#"http_requests_total{code!="",code!~"5.."}"#, r#"http_requests_total{code!=""}"#]);

    *a.lock().unwrap() = (90, 10); // restarted
    *b.lock().unwrap() = (150, 0);
    let status = step(&status, &sources, 60).await.unwrap();
    assert_eq!(
        (newest(&status).verdict, newest(&status).message.as_str()),
        (Verdict::Fail, "93.333 % is below the minimum of 99 % (150 requests)")
    );
    assert_eq!((status.phase, status.message.as_str()), (RunPhase::Failed, "rate: 93.333 % is below the minimum of 99 % (150 requests)"));
    assert!(step(&status, &sources, 90).await.is_none(), "it has ended");
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_an_error_and_none_is_no_data() {
    let counts = Arc::new(Mutex::new((0, 0)));
    let server = app(&counts).await;
    let gone = PodTarget { port: Some(1), ..pod("gone", &server) };
    let error = measure(&providers(None), &pods_rate(), &Fake { pods: vec![pod("a", &server), gone], ..Fake::default() }, None, 0)
        .await
        .result
        .unwrap_err();
    assert_eq!((error.kind, error.message.starts_with("gone: 127.0.0.1:1 cannot be asked")), (ErrorKind::Unreachable, true), "{error}");
    let silent = PodTarget { port: None, ..pod("silent", &server) };
    let error = measure(&providers(None), &pods_rate(), &Fake { pods: vec![silent], ..Fake::default() }, None, 0).await.result.unwrap_err();
    assert!(error.message.starts_with("pod silent does not say where its metrics are"), "{error}");
    let empty = Reading { at: at(0).into(), counters: BTreeMap::new(), stable: BTreeMap::new() };
    let nobody = measure(&providers(None), &pods_rate(), &Fake::default(), Some(&empty), 30).await;
    assert_eq!(nobody.result.unwrap().unwrap().caveat.as_deref(), Some("there is no ready pod to read"));
}

#[tokio::test]
async fn a_url_is_read_at_each_of_its_addresses() {
    let server = serve(|_, _| "depth 3\n".into_response()).await;
    let port = server.address.rsplit_once(':').unwrap().1.to_owned();
    let scrape =
        ScrapeProvider { url: Some(format!("http://localhost:{port}/stats")), value: Some("depth".into()), ..ScrapeProvider::default() };
    let metric = Metric { scrape: Some(scrape), ..query("x") };
    let metric = Metric { prometheus: None, ..metric };
    let measured = measure(&providers(None), &metric, &Fake::default(), None, 0).await;
    assert_eq!(measured.result, Ok(Some(Sample::of(3.0))));
    assert_eq!(server.asked.lock().unwrap()[0].0, "/stats");
}

#[tokio::test]
async fn a_run_that_is_not_needed_is_cancelled_without_a_question() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let providers = providers(Some(&server.address));
    let spec = AnalysisRunSpec { terminate: true, ..run(&query("x")) };
    let status = measure_due(&providers, "shop", &spec, &AnalysisRunStatus::default(), &Fake::default(), at(0)).await.unwrap();
    assert_eq!((status.phase, server.asked.lock().unwrap().len()), (RunPhase::Cancelled, 0));
}

#[tokio::test]
async fn metrics_are_measured_at_the_same_time() {
    let together = Arc::new(tokio::sync::Barrier::new(2));
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    /// Answers only when both metrics are asked for.
    struct Both(Providers, Arc<tokio::sync::Barrier>);
    #[async_trait]
    impl Measure for Both {
        fn has_prometheus(&self) -> bool {
            true
        }
        async fn measure(&self, request: &MeasureRequest<'_>) -> Measured {
            self.1.wait().await;
            self.0.measure(request).await
        }
    }
    let both = Both(providers(Some(&server.address)), together);
    let spec = AnalysisRunSpec { metrics: vec![query("x"), Metric { name: "y".into(), ..query("y") }], ..run(&query("x")) };
    let status = measure_due(&both, "shop", &spec, &AnalysisRunStatus::default(), &Fake::default(), at(0)).await.unwrap();
    let nobody = Fake::default();
    let measured = measure_due(&both, "shop", &spec, &status, &nobody, at(30));
    let status = tokio::time::timeout(Duration::from_secs(20), measured).await.expect("one after the other").unwrap();
    assert_eq!(status.phase, RunPhase::Passed, "{}", status.message);
}
