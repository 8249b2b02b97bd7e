use super::*;
use crate::api::{
    access::{Access, BasicAuth, Header, SecretKeyRef, Tls},
    analysis::TemplateKind,
};

fn secret(name: &str) -> SecretKeyRef {
    SecretKeyRef { name: name.into(), key: "token".into() }
}

fn bearer() -> Access {
    Access { bearer_token_secret_ref: Some(secret("platform")), ..Access::default() }
}

fn asked_at(address: &str, access: Access) -> Metric {
    let prometheus = PrometheusProvider { query: Some("x".into()), address: Some(address.into()), access, ..PrometheusProvider::default() };
    Metric { prometheus: Some(prometheus), ..metric("x") }
}

fn cluster(name: &str) -> TemplateRef {
    TemplateRef { kind: TemplateKind::ClusterAnalysisTemplate, name: name.into() }
}

#[test]
fn a_run_records_which_metrics_are_those_of_a_cluster_template() {
    let templates = BTreeMap::from([
        (named("a"), template(&[], &[metric("of-the-namespace")])),
        (cluster("a"), template(&[], &[metric("one"), metric("two")])),
    ]);
    let analysis = StepAnalysis { templates: vec![named("a"), cluster("a")], args: vec![], metrics: vec![metric("inline")] };
    let resolved = resolve(&analysis, &templates, true).unwrap();
    assert_eq!(resolved.metrics.len(), 4);
    assert_eq!(resolved.cluster_templates, BTreeMap::from([("one".into(), "a".into()), ("two".into(), "a".into())]));
    let missing = StepAnalysis { templates: vec![cluster("b")], ..StepAnalysis::default() };
    assert_eq!(resolve(&missing, &templates, true), Err("there is no ClusterAnalysisTemplate \"b\"".to_owned()));
}

#[test]
fn what_a_run_says_of_itself_does_not_move_a_secret_of_the_installation() {
    let theirs = asked_at("https://prometheus.platform", bearer());
    let origin = |metric: &Metric, template: &str| {
        let spec =
            AnalysisRunSpec { cluster_templates: [("x".to_owned(), template.to_owned())].into(), ..run(std::slice::from_ref(metric)) };
        super::origin(&spec, metric, |name| (name == "platform").then(|| self::template(&[], std::slice::from_ref(&theirs))))
    };
    let mut forged = asked_at("https://evil.example", bearer());
    forged.min = Some(1.0);
    forged.prometheus.as_mut().unwrap().query = Some("secrets_of_others".into());
    let (metric, secrets) = origin(&forged, "platform").unwrap();
    assert_eq!((metric.prometheus, secrets), (theirs.prometheus.clone(), SecretsOf::Installation));
    assert_eq!(metric.min, Some(1.0), "how it is judged is the run's own");
    let scraped = ScrapeProvider {
        url: Some("https://evil.example/".into()),
        value: Some("x".into()),
        access: bearer(),
        ..ScrapeProvider::default()
    };
    let (metric, _) = origin(&Metric { prometheus: None, scrape: Some(scraped), ..metric }, "platform").unwrap();
    assert_eq!((metric.prometheus, metric.scrape), (theirs.prometheus.clone(), None));
    let unknown = origin(&forged, "another").unwrap_err();
    assert_eq!(unknown, "there is no ClusterAnalysisTemplate \"another\" whose Secrets could be used");
    let renamed = Metric { name: "y".into(), ..forged.clone() };
    assert_eq!(origin(&renamed, "platform"), Ok((renamed, SecretsOf::Run)), "a metric of the run's own uses its own namespace's");
    let bare = asked_at("https://elsewhere", Access::default());
    assert_eq!(origin(&bare, "platform"), Ok((bare, SecretsOf::Run)), "without Secrets nothing has to be protected");
}

#[test]
fn credentials_go_where_it_is_written_and_nowhere_else() {
    let faults = |metric: &Metric| {
        let faults = validate_metric(
            metric,
            &Defaults { prometheus_address: true, ..Defaults::default() },
            Some(&[("host".to_owned(), "h".to_owned())].into()),
        );
        faults.err().unwrap_or_default().into_iter().map(|(field, _)| field).collect::<Vec<_>>()
    };
    let url = |url: Option<&str>, access: Access| {
        let scrape = ScrapeProvider { url: url.map(str::to_owned), value: Some("x".into()), access, ..ScrapeProvider::default() };
        Metric { prometheus: None, scrape: Some(scrape), ..metric("x") }
    };
    let header = |name: &str, value: Option<&str>, reference: Option<SecretKeyRef>| Access {
        headers: vec![Header { name: name.into(), value: value.map(str::to_owned), value_secret_ref: reference }],
        ..Access::default()
    };
    let tls = Access { tls: Some(Tls { client_secret_name: Some("c".into()), ..Tls::default() }), ..Access::default() };
    let basic = BasicAuth { secret_name: "b".into(), username_key: "username".into(), password_key: "password".into() };
    for good in [
        asked_at("http://p", bearer()),
        asked_at("https://p", tls.clone()),
        asked_at("http://p", header("X-Scope-OrgID", Some("a"), None)),
        asked_at("http://p", header("X-Key", None, Some(secret("k")))),
        url(Some("http://gateway/stats"), bearer()),
        url(Some("https://gateway/stats"), tls.clone()),
        url(Some("http://{{args.host}}/"), Access::default()),
    ] {
        assert_eq!(faults(&good), Vec::<String>::new(), "{good:?}");
    }
    for (bad, field) in [
        (asked_at("http://p", tls.clone()), "prometheus.tls"),
        (asked_at("https://p", Access { tls: Some(Tls::default()), ..Access::default() }), "prometheus.tls"),
        (asked_at("http://p", Access { basic_auth: Some(basic), ..bearer() }), "prometheus.basicAuth"),
        (asked_at("http://p", header("Host", Some("x"), None)), "prometheus.headers"),
        (asked_at("http://p", header("AUTHORIZATION", Some("x"), None)), "prometheus.headers"),
        (asked_at("http://p", header("a b", Some("x"), None)), "prometheus.headers"),
        (asked_at("http://p", header("X-Key", Some("a\nb"), None)), "prometheus.headers"),
        (asked_at("http://p", header("X-Key", None, None)), "prometheus.headers"),
        (asked_at("http://p", header("X-Key", Some("x"), Some(secret("k")))), "prometheus.headers"),
        (url(Some("http://{{args.host}}/"), bearer()), "scrape.url"),
        (url(Some("http://gateway/{{namespace}}"), bearer()), "scrape.url"),
        (url(None, bearer()), "scrape.url"),
        (url(Some("http://gateway"), tls), "scrape.tls"),
    ] {
        assert_eq!(faults(&bad), [field], "{bad:?}");
    }
}
