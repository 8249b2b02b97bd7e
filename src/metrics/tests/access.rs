//! Headers, credentials and certificates: who gets them, and that nobody else does.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{RootCertStore, ServerConfig, pki_types::pem::PemObject, server::WebPkiClientVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::api::access::{BasicAuth, Header, Tls};

/// A server that tells the headers of each request that are not the client's own.
async fn listening(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> (String, Arc<Mutex<Vec<BTreeMap<String, String>>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let app = Router::new().fallback(move |headers: HeaderMap| {
        let common = ["accept", "content-length", "content-type", "host", "user-agent"];
        let told = headers.iter().filter(|(name, _)| !common.contains(&name.as_str()));
        heard.lock().unwrap().push(told.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect());
        let answer = answer();
        async move { answer }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, asked)
}

fn asked_at(address: Option<&str>, access: Access) -> Metric {
    let provider = PrometheusProvider { address: address.map(str::to_owned), access, ..query("x").prometheus.unwrap() };
    Metric { prometheus: Some(provider), ..query("x") }
}

fn reference(name: &str, key: &str) -> SecretKeyRef {
    SecretKeyRef { name: name.into(), key: key.into() }
}

fn told(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn headers() -> Access {
    let header = |name: &str, value: Option<&str>, reference| Header {
        name: name.into(),
        value: value.map(str::to_owned),
        value_secret_ref: reference,
    };
    Access {
        headers: vec![header("X-Scope-OrgID", Some("team"), None), header("X-Key", None, Some(reference("keys", "key")))],
        basic_auth: Some(BasicAuth { secret_name: "user".into(), username_key: "username".into(), password_key: "password".into() }),
        ..Access::default()
    }
}

fn with_headers() -> Fake {
    Fake::with_secrets(&[
        (SecretsOf::Run, "keys", &[("key", "k-1234\n")]),
        (SecretsOf::Run, "user", &[("username", "ann"), ("password", "pass word\n")]),
    ])
}

#[tokio::test]
async fn headers_and_a_user_are_sent_to_prometheus_and_to_a_url() {
    let expected = told(&[("authorization", "Basic YW5uOnBhc3Mgd29yZA=="), ("x-key", "k-1234"), ("x-scope-orgid", "team")]);
    let (address, asked) = listening(|| vector(&[("", "1")]).into_response()).await;
    let metric = asked_at(Some(&address), headers());
    measure(&providers(None), &metric, &with_headers(), None, 0).await.result.unwrap();
    assert_eq!(*asked.lock().unwrap(), std::slice::from_ref(&expected));
    let (address, asked) = listening(|| "depth 3\n".into_response()).await;
    let scrape = ScrapeProvider { url: Some(address), value: Some("depth".into()), access: headers(), ..ScrapeProvider::default() };
    let metric = Metric { prometheus: None, scrape: Some(scrape), ..query("x") };
    measure(&providers(None), &metric, &with_headers(), None, 0).await.result.unwrap();
    assert_eq!(*asked.lock().unwrap(), [expected]);
}

#[tokio::test]
async fn a_secret_that_may_not_be_used_means_that_nobody_is_asked() {
    let (address, asked) = listening(|| vector(&[("", "1")]).into_response()).await;
    for (sources, message) in [
        (Fake::default(), "Secret keys lacks the label"),
        (Fake::with_secrets(&[(SecretsOf::Installation, "keys", &[("key", "k")])]), "Secret keys lacks the label"),
        (Fake::with_secrets(&[(SecretsOf::Run, "keys", &[("other", "k")])]), "Secret keys has no key key"),
        (Fake::with_secrets(&[(SecretsOf::Run, "keys", &[("key", "a\nb")])]), "the value for the header x-key holds characters"),
    ] {
        let error = measure(&providers(None), &asked_at(Some(&address), headers()), &sources, None, 0).await.result.unwrap_err();
        assert_eq!((error.kind, error.message.starts_with(message)), (ErrorKind::Secret, true), "{error}");
    }
    assert_eq!(asked.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn what_sluice_was_installed_with_goes_with_nothing_of_the_metrics_own() {
    let (address, asked) = listening(|| vector(&[("", "1")]).into_response()).await;
    let settings = Settings {
        prometheus_address: Some(address.clone()),
        prometheus_token: Some(Token::new("ours")),
        allow: Allow { loopback: true, ..Allow::default() },
    };
    let providers = Providers::new(settings).unwrap();
    let tenant = Header { name: "X-Scope-OrgID".into(), value: Some("another".into()), value_secret_ref: None };
    let tenant = Access { headers: vec![tenant], ..Access::default() };
    for metric in [asked_at(None, Access::default()), asked_at(None, tenant), asked_at(Some(&address), Access::default())] {
        measure(&providers, &metric, &Fake::default(), None, 0).await.result.unwrap();
    }
    assert_eq!(*asked.lock().unwrap(), [told(&[("authorization", "Bearer ours")]), told(&[("x-scope-orgid", "another")]), told(&[])]);
}

#[tokio::test]
async fn a_server_that_repeats_a_secret_is_not_repeated() {
    for status in [200, 401] {
        let echo = "no: Basic YW5uOnBhc3Mgd29yZA==, pass word, k-1234";
        let long = format!("{}{echo}", "x".repeat(170));
        for said in [echo.to_owned(), format!(r#"{{"status":"error","errorType":"{echo}","error":"{echo}"}}"#), long] {
            let answer = move || (StatusCode::from_u16(status).unwrap(), said.clone()).into_response();
            let (address, _) = listening(answer).await;
            let error = measure(&providers(None), &asked_at(Some(&address), headers()), &with_headers(), None, 0).await.result.unwrap_err();
            for secret in ["YW5u", "pass word", "k-1234", "pass", "k-12"] {
                assert!(!error.message.contains(secret), "{error}");
            }
            assert!(error.message.contains("[secret]"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_secret_of_the_installation_goes_where_its_template_says_whatever_a_run_says() {
    let (platform, asked) = listening(|| vector(&[("", "1")]).into_response()).await;
    let (evil, overheard) = listening(|| vector(&[("", "1")]).into_response()).await;
    let bearer = || Access { bearer_token_secret_ref: Some(reference("platform", "token")), ..Access::default() };
    let template = AnalysisTemplateSpec { args: vec![], metrics: vec![asked_at(Some(&platform), bearer())] };
    let sources = Fake {
        templates: [("platform".to_owned(), template)].into(),
        ..Fake::with_secrets(&[(SecretsOf::Installation, "platform", &[("token", "of-the-platform")])])
    };
    let providers = providers(None);
    let measure = async |metric: &Metric, template: Option<&str>| {
        let cluster_templates = template.into_iter().map(|template| ("x".to_owned(), template.to_owned())).collect();
        let spec = AnalysisRunSpec { cluster_templates, ..run(metric) };
        providers.measure(&MeasureRequest { namespace: "shop", spec: &spec, metric, previous: None, sources: &sources, now: at(0) }).await
    };
    let forged = asked_at(Some(&evil), bearer());
    let measured = measure(&forged, Some("platform")).await;
    assert_eq!((measured.queries, measured.result), (vec!["x".to_owned()], Ok(Some(Sample::of(1.0)))));
    assert_eq!(*asked.lock().unwrap(), [told(&[("authorization", "Bearer of-the-platform")])]);
    let scrape = ScrapeProvider { url: Some(evil.clone()), value: Some("x".into()), access: bearer(), ..ScrapeProvider::default() };
    let scraped = Metric { prometheus: None, scrape: Some(scrape), ..query("x") };
    measure(&scraped, Some("platform")).await.result.unwrap();
    for (metric, template) in [(&forged, None), (&forged, Some("another")), (&scraped, None)] {
        assert_eq!(measure(metric, template).await.result.unwrap_err().kind, ErrorKind::Secret);
    }
    assert_eq!(overheard.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn only_allowed_addresses_are_asked() {
    let server = serve(|_, _| vector(&[("", "1")]).into_response()).await;
    let port = server.address.rsplit_once(':').unwrap().1;
    let measured = async |places: &[&str], metric: &Metric, sources: &Fake| {
        let only = places.iter().map(|place| place.parse().unwrap()).collect();
        let prometheus_address = Some(server.address.clone());
        let settings = Settings { prometheus_address, allow: Allow { loopback: true, only }, ..Settings::default() };
        measure(&Providers::new(settings).unwrap(), metric, sources, None, 0).await.result
    };
    let nobody = Fake::default();
    let url = |host: &str| format!("http://{host}:{port}");
    let at = |host: &str| asked_at(Some(&url(host)), Access::default());
    let read = |host: &str| {
        let scrape = ScrapeProvider { url: Some(url(host)), value: Some("x".into()), ..ScrapeProvider::default() };
        Metric { prometheus: None, scrape: Some(scrape), ..query("x") }
    };
    for place in ["localhost", "127.0.0.0/8"] {
        assert!(measured(&["::1", place], &at("localhost"), &nobody).await.is_ok(), "{place}");
        let error = measured(&["::1", place], &read("localhost"), &nobody).await.unwrap_err();
        assert_ne!(error.kind, ErrorKind::Forbidden, "{place}: it was read, though it is no exposition: {error}");
    }
    server.asked.lock().unwrap().clear();
    for metric in [at("localhost"), at("127.0.0.1"), read("localhost"), read("127.0.0.1")] {
        let error = measured(&["prometheus.monitoring", "10.0.0.0/8"], &metric, &nobody).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Forbidden, "{error}");
        assert!(error.message.contains("analysis.allowedAddresses"), "{error}");
    }
    assert_eq!(*server.asked.lock().unwrap(), []);
    let pods = Fake { pods: vec![pod("a", &server)], ..Fake::default() };
    assert!(measured(&["10.0.0.0/8"], &query("x"), &nobody).await.is_ok(), "the installation's own address");
    let error = measured(&["10.0.0.0/8"], &pods_rate(), &pods).await.unwrap_err();
    assert_ne!(error.kind, ErrorKind::Forbidden, "the canary's own pods: {error}");
}

/// An authority, and a certificate of its with the key.
fn certificate(authority: &CertifiedIssuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server that wants to know who asks.
async fn mutual(authority: &CertifiedIssuer<'static, KeyPair>) -> String {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let (pem, key) = certificate(authority);
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(socket).await else { return };
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let body = vector(&[("", "1")]);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn certificates_say_who_is_who() {
    let ours = authority("ours");
    let address = mutual(&ours).await;
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let pair = |(client, key): (String, String)| -> &'static [_] { vec![("tls.crt", leak(client)), ("tls.key", leak(key))].leak() };
    let sources = Fake::with_secrets(&[
        (SecretsOf::Run, "ca", vec![("ca.crt", leak(ours.pem()))].leak()),
        (SecretsOf::Run, "other", vec![("ca.crt", leak(authority("another").pem()))].leak()),
        (SecretsOf::Run, "me", pair(certificate(&ours))),
        (SecretsOf::Run, "stranger", pair(certificate(&authority("another")))),
        (SecretsOf::Run, "broken", &[("ca.crt", "not PEM"), ("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA"), ("tls.key", "")]),
    ]);
    let measured = async |ca: Option<&str>, client: Option<&str>| {
        let tls = Tls { ca_secret_ref: ca.map(|name| reference(name, "ca.crt")), client_secret_name: client.map(str::to_owned) };
        let mut metric = asked_at(Some(&address), Access { tls: Some(tls), ..Access::default() });
        metric.prometheus.as_mut().unwrap().timeout = Some("10s".parse().unwrap());
        measure(&providers(None), &metric, &sources, None, 0).await.result
    };
    assert_eq!(measured(Some("ca"), Some("me")).await, Ok(Some(Sample::of(1.0))));
    // What it says depends on whether this machine trusts any authority.
    assert!(measured(None, Some("me")).await.is_err());
    for (ca, client, kind, mend) in [
        (Some("ca"), None, ErrorKind::Unreachable, "name yours with tls.clientSecretName"),
        (Some("ca"), Some("stranger"), ErrorKind::Unreachable, "does not accept the certificate of tls.clientSecretName"),
        (Some("other"), Some("me"), ErrorKind::Unreachable, "name it with tls.caSecretRef"),
        (Some("broken"), Some("me"), ErrorKind::Secret, "caSecretRef"),
        (Some("ca"), Some("broken"), ErrorKind::Secret, "clientSecretName"),
    ] {
        let error = measured(ca, client).await.unwrap_err();
        assert_eq!((error.kind, error.message.contains(mend)), (kind, true), "{ca:?} {client:?}: {error}");
        assert!(!error.message.contains("AAAA") && !error.message.contains("BEGIN"), "{error}");
    }
}
