//! Analysis runs in the whole controller, with real providers that ask real servers: where Secrets go, and where they do not.
#![cfg(feature = "sim")]

mod rights;

use std::{
    io::Write,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use axum::{Router, http::HeaderMap};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, PostParams},
};
use serde_json::{Value, json};
use sluice::{
    api,
    controller::Controller,
    core::Settings,
    lease::Claim,
    metrics::{self, Allow, Providers},
    sim::{Options, SimCluster},
    telemetry::Telemetry,
    world::World,
};

/// Everything that is logged, at every level.
static LOG: OnceLock<Log> = OnceLock::new();

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> Log {
    let start = || {
        let log = Log::default();
        let writer = log.clone();
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).init();
        log
    };
    LOG.get_or_init(start).clone()
}

/// A Prometheus that says 1, and remembers who asked.
struct Prometheus {
    address: String,
    /// The header `Authorization` of each request.
    asked: Arc<Mutex<Vec<Option<String>>>>,
}

impl Prometheus {
    async fn start() -> Self {
        let asked = Arc::new(Mutex::new(vec![]));
        let heard = asked.clone();
        let app = Router::new().fallback(move |headers: HeaderMap| {
            heard.lock().unwrap().push(headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()));
            async { r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"# }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, asked }
    }

    fn tokens(&self) -> Vec<Option<String>> {
        let mut tokens = self.asked.lock().unwrap().clone();
        tokens.dedup();
        tokens
    }
}

struct Place {
    cluster: SimCluster,
    client: Client,
    controller: tokio::task::JoinHandle<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.controller.abort();
    }
}

const TEAM: &str = "shop";
const PLATFORM: &str = "sluice-system";

impl Place {
    /// A cluster with Sluice in the namespace of the platform.
    async fn open() -> Self {
        log();
        let cluster = SimCluster::start(Options::default());
        for crd in api::crds() {
            cluster.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let handle = cluster.handle().clone();
        let allow = Allow { loopback: true, ..Allow::default() };
        let measure = Arc::new(Providers::new(metrics::Settings { allow, ..metrics::Settings::default() }).unwrap());
        let clock = Arc::new(move || handle.now());
        let client = cluster.client("sluice");
        let controller =
            Controller::new(client, World::default(), Claim::always(), Settings::default(), measure, Telemetry::default(), clock);
        let controller = tokio::spawn(controller.installed_in(PLATFORM).run());
        let place = Self { client: cluster.client("team"), cluster, controller };
        for namespace in [TEAM, PLATFORM] {
            place.create("v1", "Namespace", None, json!({"metadata": {"name": namespace}})).await.unwrap();
        }
        place
    }

    async fn create(&self, api_version: &str, kind: &str, namespace: Option<&str>, mut body: Value) -> kube::Result<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        (body["apiVersion"], body["kind"]) = (json!(api_version), json!(kind));
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        api.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await
    }

    async fn secret(&self, namespace: &str, name: &str, labels: Value, token: &str) {
        let body = json!({"metadata": {"name": name, "labels": labels}, "stringData": {}, "data": {"token": base64(token)}});
        self.create("v1", "Secret", Some(namespace), body).await.unwrap();
    }

    /// A run that a person has written: once, at once.
    async fn run(&self, name: &str, metric: Value, cluster_templates: Value) -> Value {
        let spec = json!({"rollout": "api", "canaryHash": "7f6b", "step": 0, "metrics": [metric], "clusterTemplates": cluster_templates});
        self.create("sluice.dev/v1alpha1", "AnalysisRun", Some(TEAM), json!({"metadata": {"name": name}, "spec": spec})).await.unwrap();
        let status = |run: &Value| run["status"]["metricResults"][0]["measurements"][0].clone();
        let run = || self.cluster.get("analysisruns.sluice.dev", TEAM, name).unwrap();
        let measured = self.cluster.until(|_| !status(&run()).is_null());
        tokio::time::timeout(Duration::from_secs(30), measured).await.unwrap_or_else(|_| panic!("never measured: {:#}", run()));
        run()
    }

    /// A word is nowhere but in the Secret itself.
    fn is_silent_about(&self, word: &str) {
        for kind in ["analysisruns.sluice.dev", "rollouts.sluice.dev", "events.events.k8s.io"] {
            for object in self.cluster.list(kind, TEAM).iter().chain(&self.cluster.list(kind, PLATFORM)) {
                assert!(!object.to_string().contains(word), "{kind}: {object:#}");
            }
        }
        let log = String::from_utf8_lossy(&log().0.lock().unwrap()).into_owned();
        let line = log.lines().find(|line| line.contains(word));
        assert_eq!(line, None, "it was logged");
        assert!(log.contains("measured"), "something is logged");
    }
}

fn base64(text: &str) -> Value {
    serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap()
}

/// A metric that asks this server with the token of a Secret.
fn metric(address: &str, secret: &str) -> Value {
    let prometheus = json!({"address": address, "query": "up", "bearerTokenSecretRef": {"name": secret, "key": "token"}});
    json!({"name": "up", "min": 1, "initialDelay": "0s", "interval": "1s", "prometheus": prometheus})
}

fn verdict(run: &Value) -> (String, String) {
    let measurement = &run["status"]["metricResults"][0]["measurements"][0];
    (measurement["verdict"].as_str().unwrap().to_owned(), measurement["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_secret_without_the_label_is_sent_nowhere_and_shown_nowhere() {
    let (place, prometheus) = (Place::open().await, Prometheus::start().await);
    let labelled = json!({"sluice.dev/analysis": "true"});
    place.secret(TEAM, "private", json!({"app": "shop"}), "token-of-the-database").await;
    place.secret(TEAM, "refused", json!({"sluice.dev/analysis": "false"}), "token-of-another").await;
    place.secret(TEAM, "metrics", labelled, "token-of-the-metrics").await;
    for secret in ["private", "refused"] {
        let run = place.run(secret, metric(&prometheus.address, secret), json!({})).await;
        let message = format!("Secret {secret} may not be used: label it sluice.dev/analysis=true");
        assert_eq!(verdict(&run), ("ProviderError".to_owned(), message));
    }
    assert_eq!(prometheus.tokens(), []);
    let run = place.run("metrics", metric(&prometheus.address, "metrics"), json!({})).await;
    assert_eq!(verdict(&run).0, "Pass");
    assert_eq!(prometheus.tokens(), [Some("Bearer token-of-the-metrics".to_owned())]);
    for token in ["token-of-the-database", "token-of-another", "token-of-the-metrics"] {
        place.is_silent_about(token);
        place.is_silent_about(base64(token).as_str().unwrap());
    }
}

#[tokio::test]
async fn a_secret_that_sluice_has_no_right_to_read_is_named_with_the_value_that_gives_it() {
    let (place, prometheus) = (Place::open().await, Prometheus::start().await);
    place.cluster.set_hook(rights::Rights { actor: "sluice", namespaces: vec![] });
    place.secret(TEAM, "metrics", json!({"sluice.dev/analysis": "true"}), "token-of-the-metrics").await;
    let run = place.run("metrics", metric(&prometheus.address, "metrics"), json!({})).await;
    let message = "Secret metrics may not be read: let analysis.secrets.namespaces of Sluice's chart name shop";
    assert_eq!(verdict(&run), ("ProviderError".to_owned(), message.to_owned()));
    assert_eq!(prometheus.tokens(), []);
}

#[tokio::test]
async fn a_team_cannot_send_the_platforms_secret_to_a_server_of_its_own() {
    let (place, prometheus, own) = (Place::open().await, Prometheus::start().await, Prometheus::start().await);
    let labelled = json!({"sluice.dev/analysis": "true"});
    place.secret(PLATFORM, "prometheus", labelled, "token-of-the-platform").await;
    let spec = json!({"metrics": [metric(&prometheus.address, "prometheus")]});
    let template = json!({"metadata": {"name": "platform"}, "spec": spec});
    place.create("sluice.dev/v1alpha1", "ClusterAnalysisTemplate", None, template).await.unwrap();

    let forged = metric(&own.address, "prometheus");
    let run = place.run("without", forged.clone(), json!({})).await;
    assert_eq!(verdict(&run), ("ProviderError".to_owned(), "Secret prometheus does not exist".to_owned()));
    let run = place.run("invented", forged.clone(), json!({"up": "of-the-team"})).await;
    assert_eq!(verdict(&run).0, "ProviderError");
    assert_eq!(prometheus.tokens(), []);

    let run = place.run("forged", forged, json!({"up": "platform"})).await;
    assert_eq!(verdict(&run).0, "Pass", "the platform's server was asked instead");
    assert_eq!(prometheus.tokens(), [Some("Bearer token-of-the-platform".to_owned())]);
    assert_eq!(own.tokens(), []);
    place.is_silent_about("token-of-the-platform");
}

/// The API server's answer to a Rollout with this metric in its background analysis.
async fn refusal(place: &Place, metric: Value) -> String {
    let canary = json!({"steps": [{"setWeight": 5}], "analysis": {"metrics": [metric]}});
    let spec = json!({"workloadRef": {"kind": "Deployment", "name": "api"}, "strategy": {"canary": canary}});
    let body = json!({"metadata": {"generateName": "api-"}, "spec": spec});
    match place.create("sluice.dev/v1alpha1", "Rollout", Some(TEAM), body).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_the_mend() {
    let place = Place::open().await;
    let prometheus = |more: Value| {
        let mut provider = json!({"address": "http://prometheus", "query": "up"});
        provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": "up", "min": 1, "prometheus": provider})
    };
    let scrape = |more: Value| {
        let mut provider = json!({"value": "up"});
        provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"name": "up", "min": 1, "scrape": provider})
    };
    let secret = json!({"name": "metrics", "key": "token"});
    let header = |name: &str| json!({"headers": [{"name": name, "value": "x"}]});
    let tls = json!({"clientSecretName": "me"});
    for (metric, message) in [
        (prometheus(json!({"bearerTokenSecretRef": secret, "basicAuth": {"secretName": "user"}})), "use one of them"),
        (prometheus(json!({"tls": tls})), "tls belongs to an address that begins with https://"),
        (prometheus(json!({"address": "https://prometheus", "tls": {}})), "tls has caSecretRef, clientSecretName, or both"),
        (prometheus(header("HOST")), "this header cannot be set here"),
        (prometheus(json!({"headers": [{"name": "X-Key"}]})), "exactly one of value and valueSecretRef"),
        (
            prometheus(json!({"headers": [{"name": "X-Key", "value": "x", "valueSecretRef": secret}]})),
            "exactly one of value and valueSecretRef",
        ),
        (scrape(json!({"bearerTokenSecretRef": secret})), "need a url without variables"),
        (scrape(json!({"url": "http://{{args.host}}/", "basicAuth": {"secretName": "user"}})), "need a url without variables"),
        (scrape(json!({"url": "http://gateway", "tls": tls})), "tls belongs to a url that begins with https://"),
    ] {
        let refusal = refusal(&place, metric.clone()).await;
        assert!(refusal.contains(message), "{metric:#}: {refusal:?}");
    }
    for metric in [
        prometheus(header("X-Scope-OrgID")),
        prometheus(json!({"headers": [{"name": "X-Key", "valueSecretRef": secret}], "basicAuth": {"secretName": "user"}})),
        prometheus(json!({"address": "https://prometheus", "tls": tls})),
        scrape(json!({"url": "http://{{args.host}}/"})),
        scrape(json!({"url": "https://gateway/", "tls": tls, "bearerTokenSecretRef": secret})),
    ] {
        assert_eq!(refusal(&place, metric.clone()).await, "", "{metric:#}");
    }
    let both = json!([{"name": "web"}, {"name": "web", "kind": "ClusterAnalysisTemplate"}]);
    let canary = json!({"steps": [{"setWeight": 5}], "analysis": {"templates": both}});
    let spec = json!({"workloadRef": {"kind": "Deployment", "name": "api"}, "strategy": {"canary": canary}});
    let made =
        place.create("sluice.dev/v1alpha1", "Rollout", Some(TEAM), json!({"metadata": {"name": "api"}, "spec": spec})).await.unwrap();
    assert_eq!(made.data["spec"]["strategy"]["canary"]["analysis"]["templates"][0]["kind"], "AnalysisTemplate", "the default");
}
