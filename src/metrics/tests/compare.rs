//! Canary and stable, counted by the providers.

use proptest::prelude::*;

use super::*;
use crate::{
    api::analysis::{Comparison, HistogramQuantile},
    core::{
        counters::{Counted, Look},
        judge::compare::Arm,
    },
};

fn comparing(preset: Preset, scrape: Option<ScrapeProvider>) -> Metric {
    Metric { name: "x".into(), preset: Some(preset), scrape, compare: Some(Comparison::default()), ..Metric::default() }
}

fn arm(requests: u64, failures: u64) -> Option<Counted> {
    Some(Counted::Requests(Arm { requests, failures }))
}

fn both(look: &Look) -> [Option<Counted>; 2] {
    [look.canary.clone(), look.stable.clone()]
}

/// Series of a range: labels, and samples of seconds (from the tests' begin) and values.
type Ranges = Vec<(String, Vec<(i64, &'static str)>)>;

fn matrix(series: &Ranges) -> String {
    let sample = |(at, value): &(i64, &str)| format!("[{},\"{value}\"]", 1_800_000_000 + at);
    let one = |(labels, samples): &(String, Vec<(i64, &'static str)>)| {
        format!(r#"{{"metric":{{{labels}}},"values":[{}]}}"#, samples.iter().map(sample).collect::<Vec<_>>().join(","))
    };
    let series: Vec<_> = series.iter().map(one).collect();
    format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{}]}}}}"#, series.join(","))
}

/// Of a pod whose name fits either version.
fn labels(code: &str, instance: &str) -> String {
    format!(r#""namespace":"shop","pod":"api-7f6b-5d9c-x","job":"api","instance":"{instance}","code":"{code}""#)
}

/// A Prometheus server that answers ranges of the canary (`7f6b`) and of stable (`5d9c`).
async fn prometheus(canary: Ranges, stable: Ranges) -> Server {
    serve(move |_, body| matrix(if body.contains("7f6b") { &canary } else { &stable }).into_response()).await
}

/// The look at 60 s after one at 30 s: behind the scrapes, from 25 to 55 s.
async fn look_of(metric: &Metric, canary: Ranges, stable: Ranges) -> (Measured, Server) {
    let server = prometheus(canary, stable).await;
    let previous = Reading { at: at(30).into(), counters: BTreeMap::new(), stable: BTreeMap::new() };
    let measured = measure(&providers(Some(&server.address)), metric, &Fake::default(), Some(&previous), 60).await;
    (measured, server)
}

#[tokio::test]
async fn prometheus_counts_both_versions_between_the_same_edges() {
    let canary = vec![
        (labels("200", "a"), vec![(10, "900"), (25, "1000"), (40, "1040"), (55, "1090"), (56, "9999")]),
        (labels("503", "a"), vec![(40, "2"), (55, "5")]),
        (labels("200", "new"), vec![(40, "700"), (55, "710")]),
    ];
    let stable = vec![(labels("200", "b"), vec![(20, "5000"), (35, "100"), (50, "400")]), (labels("500", "b"), vec![(20, "7"), (50, "1")])];
    let (measured, server) = look_of(&comparing(Preset::PodsSuccessRate, None), canary, stable).await;
    let look = measured.look.unwrap();
    assert_eq!((look.since, look.until, measured.since), (Some(at(25)), at(55), Some(at(25))));
    // The failures of "a" began with its first, those of a pod that nobody knows with what was seen of it. "b" has started again.
    assert_eq!(both(&look), [arm(105, 5), arm(401, 1)]);
    let asked: Vec<String> = server.asked.lock().unwrap().iter().map(|(_, _, body)| body.clone()).collect();
    assert!(asked.iter().all(|body| body.ends_with("&time=1800000055.000")), "{asked:?}");
    assert_eq!(
        measured.queries,
        [
            r#"http_requests_total{code!="",namespace="shop",pod=~".+-7f6b-.+"}[2m30s]"#,
            r#"http_requests_total{code!="",namespace="shop",pod=~".+-5d9c-.+"}[2m30s]"#,
        ]
    );
}

#[tokio::test]
async fn without_counters_at_the_first_edge_there_is_no_interval() {
    let late = || vec![(labels("200", "a"), vec![(40, "1040"), (55, "1090")])];
    let there = || vec![(labels("200", "b"), vec![(20, "10"), (55, "20")])];
    let metric = comparing(Preset::PodsSuccessRate, None);
    assert_eq!(both(&look_of(&metric, late(), there()).await.0.look.unwrap()), [None, arm(10, 0)]);
    assert_eq!(both(&look_of(&metric, there(), vec![]).await.0.look.unwrap()), [arm(10, 0), None]);
    let server = prometheus(there(), there()).await;
    let first = measure(&providers(Some(&server.address)), &metric, &Fake::default(), None, 30).await;
    assert_eq!(first.look.unwrap().since, None, "the first look only begins");
    let long_ago = Reading { at: at(-3600).into(), counters: BTreeMap::new(), stable: BTreeMap::new() };
    let again = measure(&providers(Some(&server.address)), &metric, &Fake::default(), Some(&long_ago), 60).await;
    assert_eq!(again.look.unwrap().since, None, "after a long break it begins anew");
}

#[tokio::test]
async fn counters_of_ones_own_may_have_two_names() {
    let ratio = |numerator: &str| Metric {
        preset: None,
        prometheus: Some(PrometheusProvider {
            counters: Some(Ratio { numerator: numerator.into(), denominator: r#"all{h="{{canary.hash}}"}"#.into() }),
            ..PrometheusProvider::default()
        }),
        ..comparing(Preset::PodsSuccessRate, None)
    };
    let server = serve(|_, body| {
        let (begin, end) = if body.contains("bad") { ("1", "3") } else { ("100", "200") };
        let known = !(body.contains("bad") && body.contains("7f6b"));
        let series = vec![(r#""job":"j""#.to_owned(), vec![(20, begin), (50, end)])];
        matrix(if known { &series } else { const { &Vec::new() } }).into_response()
    })
    .await;
    let previous = Reading { at: at(30).into(), counters: BTreeMap::new(), stable: BTreeMap::new() };
    let providers = providers(Some(&server.address));
    let metric = ratio(r#"bad{h="{{canary.hash}}"}"#);
    let look = measure(&providers, &metric, &Fake::default(), Some(&previous), 60).await.look.unwrap();
    assert_eq!((both(&look), look.caveat), ([arm(100, 0), arm(100, 2)], None));
    let empty = serve(|_, body| {
        let series = vec![(r#""job":"j""#.to_owned(), vec![(20, "100"), (50, "200")])];
        matrix(if body.contains("nosuch") { const { &Vec::new() } } else { &series }).into_response()
    })
    .await;
    let metric = ratio(r#"nosuch{h="{{canary.hash}}"}"#);
    let look = measure(&super::providers(Some(&empty.address)), &metric, &Fake::default(), Some(&previous), 60).await.look.unwrap();
    assert!(look.caveat.unwrap().starts_with("the numerator has no series"));
}

#[tokio::test]
async fn what_prometheus_cannot_have_counted_is_an_error() {
    let metric = comparing(Preset::PodsSuccessRate, None);
    let one = |samples: &[(i64, &'static str)]| vec![(labels("200", "a"), samples.to_vec())];
    for (samples, message) in [
        (&[(20, "1"), (50, "NaN")][..], "a counter is NaN"),
        (&[(20, "-3"), (50, "5")], "a counter is -3"),
        (&[(20, "1.5"), (50, "5")], "a counter is 1.5"),
        (&[(20, "1"), (50, "+Inf")], "a counter is +Inf"),
        (&[(20, "1"), (50, "x")], "a counter is x"),
    ] {
        let error = look_of(&metric, one(samples), one(samples)).await.0.result.unwrap_err();
        assert!(error.kind == ErrorKind::Malformed && error.message.starts_with(message), "{error}");
    }
    let many: Ranges = (0..=2000).map(|n| (labels("200", &n.to_string()), vec![(20, "1")])).collect();
    let error = look_of(&metric, many, vec![]).await.0.result.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::TooLarge, "the selector finds 2001 series, at most 2000 can be compared: select fewer")
    );
    for (answer, kind, message) in [
        (r#"{"status":"success","data":{"resultType":"string","result":[1,"x"]}}"#, ErrorKind::Malformed, "the answer is a string"),
        (r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#, ErrorKind::Malformed, "the answer is a vector"),
        (
            r#"{"status":"success","warnings":["gone"],"data":{"resultType":"matrix","result":[]}}"#,
            ErrorKind::Partial,
            "the answer is not complete",
        ),
        (
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"histograms":[[1,{}]]}]}}"#,
            ErrorKind::Malformed,
            "the selector finds native histograms",
        ),
        (r#"{"status":"error","errorType":"bad_data","error":"no"}"#, ErrorKind::Refused, "Prometheus answers bad_data: no"),
    ] {
        let server = serve(move |_, _| answer.into_response()).await;
        let error = measure(&providers(Some(&server.address)), &metric, &Fake::default(), None, 60).await.result.unwrap_err();
        assert!(error.kind == kind && error.message.starts_with(message), "{error}");
    }
}

#[tokio::test]
async fn prometheus_compares_the_buckets_of_histograms() {
    let bucket = |le: &str, samples: &[(i64, &'static str)]| {
        (format!(r#""__name__":"http_request_duration_seconds_bucket","instance":"a","le":"{le}""#), samples.to_vec())
    };
    let series = || {
        vec![
            bucket("0.1", &[(20, "50"), (50, "130")]),
            bucket("0.5", &[(20, "60"), (50, "150")]),
            bucket("+Inf", &[(20, "60"), (50, "160")]),
        ]
    };
    let metric = Metric { max: Some(400.0), min_samples: Some(10), ..comparing(Preset::PodsLatency, None) };
    let (measured, _) = look_of(&metric, series(), series()).await;
    assert_eq!(measured.queries[0], r#"http_request_duration_seconds_bucket{namespace="shop",pod=~".+-7f6b-.+"}[2m30s]"#);
    let Some(Counted::Latencies(latencies)) = measured.look.unwrap().canary else { panic!("no latencies") };
    assert_eq!(latencies.buckets(), [(0.1, 80.0), (0.5, 90.0), (f64::INFINITY, 100.0)]);
}

/// The whole life of a run that reads the pods of both versions itself.
#[tokio::test]
async fn pods_of_both_versions_are_read_and_a_bad_canary_is_aborted() {
    let (canary, stable) = (Arc::new(Mutex::new((500, 100))), Arc::new(Mutex::new((90_000, 900))));
    let (one, other) = (app(&canary).await, app(&stable).await);
    let sources = Fake { pods: vec![pod("a", &one)], stable: vec![pod("b", &other)], ..Fake::default() };
    let providers = providers(None);
    let spec = AnalysisRunSpec { step: None, ..run(&comparing(Preset::PodsSuccessRate, Some(ScrapeProvider::default()))) };
    let mut status = AnalysisRunStatus::default();
    for look in 0..20 {
        let Some(next) = measure_due(&providers, "shop", &spec, &status, &sources, at(30 * look)).await else { break };
        status = next;
        let reading = status.metric_results[0].last_reading.clone().unwrap();
        assert_eq!((reading.counters.contains_key("a"), reading.stable.contains_key("b")), (true, true));
        let (mut canary, mut stable) = (canary.lock().unwrap(), stable.lock().unwrap());
        *canary = (canary.0 + 290, canary.1 + 10);
        *stable = (stable.0 + 2677, stable.1 + 23);
    }
    assert_eq!(status.phase, RunPhase::Failed, "{}", status.message);
    assert!(status.message.starts_with("x: canary fails 3.9 times as often as stable ("), "{}", status.message);
}

#[tokio::test]
async fn a_pod_that_is_new_is_counted_from_its_next_reading_on() {
    let (canary, stable) = (Arc::new(Mutex::new((500, 100))), Arc::new(Mutex::new((900, 9))));
    let (one, other) = (app(&canary).await, app(&stable).await);
    let metric = comparing(Preset::PodsSuccessRate, Some(ScrapeProvider::default()));
    let few = Fake { pods: vec![pod("a", &one)], stable: vec![pod("b", &other)], ..Fake::default() };
    let more = Fake { pods: vec![pod("a", &one), pod("new", &one)], stable: vec![pod("b", &other)], ..Fake::default() };
    let first = measure(&providers(None), &metric, &few, None, 0).await;
    assert_eq!(both(&first.look.unwrap()), [None, None]);
    *canary.lock().unwrap() = (590, 110);
    let second = measure(&providers(None), &metric, &more, first.reading.as_ref(), 30).await;
    assert_eq!(both(&second.look.unwrap()), [arm(100, 10), arm(0, 0)]);
    *canary.lock().unwrap() = (680, 120);
    let third = measure(&providers(None), &metric, &more, second.reading.as_ref(), 60).await;
    assert_eq!(both(&third.look.unwrap()), [arm(200, 20), arm(0, 0)]);
    let nobody = measure(&providers(None), &metric, &Fake::default(), third.reading.as_ref(), 90).await;
    assert_eq!(both(&nobody.look.unwrap()), [None, None]);
}

/// One text of a gateway holds both versions: it is read once.
#[tokio::test]
async fn a_gateway_is_read_once_for_both_versions() {
    let reads = Arc::new(Mutex::new(0_u64));
    let counted = reads.clone();
    let server = serve(move |_, _| {
        let mut reads = counted.lock().unwrap();
        *reads += 1;
        let line = |service: &str, class: &str, count: u64| {
            format!(
                "envoy_cluster_upstream_rq_xx{{envoy_response_code_class=\"{class}\",envoy_cluster_name=\"shop_{service}_80\"}} {count}\n"
            )
        };
        (line("api-canary", "2", 90 * *reads) + &line("api-canary", "5", 10 * *reads) + &line("api", "2", 1000 * *reads)).into_response()
    })
    .await;
    let url = format!("{}/stats/prometheus", server.address);
    let metric = comparing(Preset::ContourSuccessRate, Some(ScrapeProvider { url: Some(url), ..ScrapeProvider::default() }));
    let first = measure(&providers(None), &metric, &Fake::default(), None, 0).await;
    let second = measure(&providers(None), &metric, &Fake::default(), first.reading.as_ref(), 30).await;
    assert_eq!(both(&second.look.unwrap()), [arm(100, 10), arm(1000, 0)]);
    assert_eq!(*reads.lock().unwrap(), 2);
    assert_eq!(second.queries.len(), 4);
}

#[tokio::test]
async fn what_is_remembered_of_pods_is_bounded() {
    let buckets: String =
        (0..150).map(|le| format!("h_bucket{{le=\"{le}\"}} 1\n")).chain(["h_bucket{le=\"+Inf\"} 1\n".to_owned()]).collect();
    let server = serve(move |_, _| buckets.clone().into_response()).await;
    let quantile = Some(HistogramQuantile { histogram: "h".into(), quantile: 0.99 });
    let scrape = ScrapeProvider { quantile, ..ScrapeProvider::default() };
    let metric = Metric { preset: None, ..comparing(Preset::PodsLatency, Some(scrape)) };
    let pods = |n: usize| Fake {
        pods: (0..n).map(|n| pod(&n.to_string(), &server)).collect(),
        stable: vec![pod("s", &server)],
        ..Fake::default()
    };
    assert!(measure(&providers(None), &metric, &pods(3), None, 0).await.reading.is_some());
    let error = measure(&providers(None), &metric, &pods(4), None, 0).await.result.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::TooLarge, "604 counters are too many to remember: at most 500, compare by Prometheus")
    );
}

#[tokio::test]
async fn without_a_stable_revision_nothing_is_compared() {
    let metric = comparing(Preset::PodsSuccessRate, Some(ScrapeProvider::default()));
    let spec = AnalysisRunSpec { stable_hash: None, ..run(&metric) };
    let sources = Fake::default();
    let request = MeasureRequest { namespace: "shop", spec: &spec, metric: &metric, previous: None, sources: &sources, now: at(0) };
    let error = providers(None).measure(&request).await.result.unwrap_err();
    assert_eq!(error.message, "there is no stable revision to compare with");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Both ways to the counters give the same look on the same data.
    #[test]
    fn scrape_and_prometheus_see_the_same(counts in prop::array::uniform4((0..500_u32, 0..500_u32))) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let looks = runtime.block_on(async {
            let text = |(before, more): (u32, u32)| -> [&'static str; 2] { [before, before + more].map(|count| &*count.to_string().leak()) };
            let range = |good, bad| {
                let series = |code: &str, counts| { let [before, after] = text(counts); (labels(code, "a"), vec![(20, before), (50, after)]) };
                vec![series("200", good), series("503", bad)]
            };
            let metric = |scrape| comparing(Preset::PodsSuccessRate, scrape);
            let [good, bad, stable_good, stable_bad] = counts;
            let asked = look_of(&metric(None), range(good, bad), range(stable_good, stable_bad)).await.0;
            let numbers = |good: (u32, u32), bad: (u32, u32)| Arc::new(Mutex::new((u64::from(good.0), u64::from(bad.0))));
            let (canary, stable) = (numbers(good, bad), numbers(stable_good, stable_bad));
            let (one, other) = (app(&canary).await, app(&stable).await);
            let sources = Fake { pods: vec![pod("a", &one)], stable: vec![pod("b", &other)], ..Fake::default() };
            let scraped = metric(Some(ScrapeProvider::default()));
            let first = measure(&providers(None), &scraped, &sources, None, 30).await;
            *canary.lock().unwrap() = (u64::from(good.0 + good.1), u64::from(bad.0 + bad.1));
            *stable.lock().unwrap() = (u64::from(stable_good.0 + stable_good.1), u64::from(stable_bad.0 + stable_bad.1));
            let read = measure(&providers(None), &scraped, &sources, first.reading.as_ref(), 60).await;
            [asked, read].map(|measured| both(&measured.look.unwrap()))
        });
        prop_assert_eq!(&looks[0], &looks[1]);
    }
}

#[tokio::test]
async fn what_prometheus_has_kept_is_counted_as_looks_are() {
    let canary = || {
        vec![
            (labels("200", "a"), vec![(10, "900"), (25, "1000"), (40, "1040"), (55, "1090"), (70, "30"), (85, "90")]),
            (labels("503", "a"), vec![(40, "2"), (55, "5")]),
            (labels("200", "new"), vec![(40, "700"), (55, "710")]),
        ]
    };
    let stable = || vec![(labels("200", "b"), vec![(20, "5000"), (35, "100"), (50, "400"), (65, "800")])];
    let metric = comparing(Preset::PodsSuccessRate, None);
    let server = prometheus(canary(), stable()).await;
    let (spec, providers) = (run(&metric), providers(Some(&server.address)));
    let fake = Fake::default();
    let request = MeasureRequest { namespace: "shop", spec: &spec, metric: &metric, previous: None, sources: &fake, now: at(95) };
    let looks = providers.looks(&request, &[at(25), at(55), at(85)], &mut vec![]).await.unwrap();
    assert_eq!(looks[0].since, None);
    let (measured, _) = look_of(&metric, canary(), stable()).await;
    assert_eq!(looks[1], measured.look.unwrap());
    assert_eq!((looks[2].since, both(&looks[2])), (Some(at(55)), [arm(90, 0), arm(400, 0)]));
    assert_eq!(server.asked.lock().unwrap().len(), 2, "each version once");
}
