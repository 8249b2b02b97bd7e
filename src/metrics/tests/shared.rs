//! One identical query of many Rollouts is asked once.

use super::*;

fn patient(text: &str) -> Metric {
    let prometheus = PrometheusProvider { timeout: Some("10s".parse().unwrap()), ..query(text).prometheus.unwrap() };
    Metric { prometheus: Some(prometheus), ..query(text) }
}

/// Measures for a Rollout of its own.
async fn of(providers: &Providers, rollout: &str, metric: &Metric, sources: &Fake, now: Timestamp) -> Measured {
    let spec = AnalysisRunSpec { rollout: rollout.into(), ..run(metric) };
    providers.measure(&MeasureRequest { namespace: rollout, spec: &spec, metric, previous: None, sources, now }).await
}

#[tokio::test]
async fn many_rollouts_that_ask_the_same_share_the_answer() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let providers = providers(Some(&server.address));
    let (metric, nobody) = (patient("up"), Fake::default());
    let all = (0..50).map(|rollout| {
        let (providers, metric, nobody) = (&providers, &metric, &nobody);
        async move {
            let now = at(30) + jiff::SignedDuration::from_millis(rollout * 10);
            of(providers, &rollout.to_string(), metric, nobody, now).await
        }
    });
    for measured in join_all(all).await {
        assert_eq!(measured.result, Ok(Some(Sample::of(1.0))));
        assert_eq!((measured.queries, measured.since), (vec!["up".to_owned()], Some(at(0))));
    }
    assert_eq!(*server.asked.lock().unwrap(), [("/api/v1/query".to_owned(), None, "query=up&time=1800000030.000".to_owned())]);
}

#[tokio::test]
async fn what_differs_is_asked_for_itself() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let providers = providers(Some(&server.address));
    let sources =
        Fake::with_secrets(&[(SecretsOf::Run, "a", &[("token", "token-of-a")]), (SecretsOf::Run, "b", &[("token", "token-of-b")])]);
    let with = |secret: Option<&str>, address: Option<&str>| {
        let reference = secret.map(|name| SecretKeyRef { name: name.into(), key: "token".into() });
        let access = Access { bearer_token_secret_ref: reference, ..Access::default() };
        let prometheus = PrometheusProvider { access, address: address.map(str::to_owned), ..patient("up").prometheus.unwrap() };
        Metric { prometheus: Some(prometheus), ..patient("up") }
    };
    let asked = [
        (with(None, None), 30),
        (with(None, Some(&server.address)), 30), // no address of the installation's, so nothing that is the installation's goes along
        (with(Some("a"), None), 30),
        (with(Some("b"), None), 30),
        (with(None, None), 31),
        (patient("down"), 30),
        (patient(r#"up{canary="{{rollout}}"}"#), 30),
    ];
    for rollout in ["one", "two"] {
        for (metric, seconds) in &asked {
            of(&providers, rollout, metric, &sources, at(*seconds)).await.result.unwrap();
        }
    }
    assert_eq!(server.asked.lock().unwrap().len(), 8, "each once, and the one that names the Rollout for each Rollout");
}

#[tokio::test]
async fn the_two_halves_of_a_ratio_and_other_metrics_share_too() {
    let server = serve(|_, _| vector(&[("", "200")]).into_response()).await;
    let ratio = |name: &str, numerator: &str| Metric {
        name: name.into(),
        prometheus: Some(PrometheusProvider {
            ratio: Some(Ratio { numerator: numerator.into(), denominator: "all".into() }),
            ..PrometheusProvider::default()
        }),
        ..query("x")
    };
    let spec = AnalysisRunSpec { metrics: vec![ratio("bad", "bad"), ratio("late", "late")], ..run(&query("x")) };
    let providers = providers(Some(&server.address));
    let nobody = Fake::default();
    let status = measure_due(&providers, "shop", &spec, &AnalysisRunStatus::default(), &nobody, at(0)).await.unwrap();
    measure_due(&providers, "shop", &spec, &status, &nobody, at(30)).await.unwrap();
    assert_eq!(server.asked.lock().unwrap().len(), 3);
}
