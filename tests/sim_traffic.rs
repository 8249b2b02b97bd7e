//! Real requests through the simulated gateway.
#![cfg(feature = "sim")]

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use sluice::sim::traffic::{AppHost, AppVersion, Load, Proxy};
use sluice::sim::{Options, SimCluster};

async fn apply(cluster: &SimCluster, object: Value) {
    let (group, version) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap_or(("", "v1"));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap()));
    let api = Api::<DynamicObject>::default_namespaced_with(cluster.client("git"), &resource);
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    api.patch(&name, &PatchParams::apply("git").force(), &Patch::Apply(&object)).await.unwrap();
}

async fn app(cluster: &SimCluster, version: &str) {
    let labels = json!({"app": version});
    apply(
        cluster,
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": version}, "spec": {
        "replicas": 2, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [
            {"name": "app", "image": format!("app:{version}"), "ports": [{"containerPort": 8080}]}]}}}}),
    )
    .await;
    apply(
        cluster,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": version},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}}),
    )
    .await;
}

async fn route(cluster: &SimCluster, weights: [u32; 2]) {
    apply(
        cluster,
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "api"}, "spec": {
        "parentRefs": [{"name": "gw"}], "hostnames": ["api.example.com"],
        "rules": [{"backendRefs": [{"name": "v1", "port": 80, "weight": weights[0]}, {"name": "v2", "port": 80, "weight": weights[1]}]}]}}),
    )
    .await;
}

#[tokio::test]
async fn traffic_follows_the_weights_and_versions_fail_as_they_are_told_to() {
    let cluster = SimCluster::start(Options::live());
    let bad = AppVersion { failure_rate: 0.2, ..AppVersion::default() };
    let versions = BTreeMap::from([("app:v1".to_owned(), AppVersion::default()), ("app:v2".to_owned(), bad)]);
    let apps = AppHost::start(cluster.handle().clone(), versions);
    apply(
        &cluster,
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw"},
        "spec": {"gatewayClassName": "sim", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}),
    )
    .await;
    app(&cluster, "v1").await;
    app(&cluster, "v2").await;
    route(&cluster, [75, 25]).await;
    let served = |c: &SimCluster| c.programmed().clusters.values().filter(|e| e.len() == 2).count() == 2;
    cluster.until(|c| served(c) && c.programmed().shares("default", "api", 0).len() == 2).await;

    let proxy = Proxy::listen(&cluster, &apps, 0).await.unwrap();
    let load = Load::start(proxy.address(), "api.example.com", 200);
    while load.totals().0 < 400 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let tallies = proxy.tallies();
    drop(load);
    let all: u64 = tallies.values().map(|t| t.requests).sum();
    let share = 100.0 * tallies["v2"].requests as f64 / all as f64;
    assert!((24.0..26.0).contains(&share), "{tallies:?}");
    assert_eq!(tallies["v1"].failures, 0);
    let failing = 100.0 * tallies["v2"].failures as f64 / tallies["v2"].requests as f64;
    assert!((16.0..22.0).contains(&failing), "{tallies:?}");

    let pods = cluster.list("pods", "default");
    let mut counted = 0;
    for pod in pods.iter().filter(|p| p["spec"]["containers"][0]["image"] == "app:v2") {
        let address = apps.address(pod["metadata"]["uid"].as_str().unwrap()).unwrap();
        let annotated = pod["metadata"]["annotations"]["prometheus.io/port"].as_str().map(|p| p.parse().unwrap());
        assert_eq!(annotated.unwrap_or(8080), address.port(), "a scraper finds it by address and annotation");
        let text = scrape(address).await;
        let line = text.lines().find(|l| l.starts_with("http_requests_total{code=\"503\"}")).unwrap();
        counted += line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    }
    assert!(counted >= tallies["v2"].failures, "the pods count what they answer");
}

async fn scrape(address: std::net::SocketAddr) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
