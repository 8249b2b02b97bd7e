//! The simulated API server over real HTTP.
#![cfg(feature = "sim")]

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::Discovery;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Config};
use serde_json::{Value, json};
use sluice::sim::{ApiEndpoint, Options, SimCluster};

struct Served {
    _cluster: SimCluster,
    endpoint: ApiEndpoint,
    client: Client,
}

async fn serve() -> Served {
    let cluster = SimCluster::start(Options::default());
    let endpoint = ApiEndpoint::listen(cluster.handle().clone(), 0).await.unwrap();
    let kubeconfig = Kubeconfig::from_yaml(&endpoint.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Served { client: Client::try_from(config).unwrap(), endpoint, _cluster: cluster }
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}, "spec": {
        "replicas": 2, "selector": {"matchLabels": {"app": "api"}},
        "template": {"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "api", "image": "app:v1"}]}}}})
}

#[tokio::test]
async fn a_client_works_by_the_kubeconfig_and_watches_over_http() {
    let served = serve().await;
    let deployments = Api::<Deployment>::default_namespaced(served.client.clone());
    deployments.patch("api", &PatchParams::apply("git"), &Patch::Apply(deployment())).await.unwrap();
    let pods = Api::<Pod>::default_namespaced(served.client.clone());
    let mut seen = watcher(pods, watcher::Config::default()).applied_objects().boxed();
    let ready = |p: &Pod| p.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True");
    while !ready(&seen.try_next().await.unwrap().unwrap()) {}
}

#[tokio::test]
async fn discovery_names_kinds_and_their_subresources() {
    let served = serve().await;
    let discovery = Discovery::new(served.client.clone()).run().await.unwrap();
    let (resource, capabilities) = discovery.resolve_gvk(&kube::core::GroupVersionKind::gvk("apps", "v1", "Deployment")).unwrap();
    assert_eq!(resource.plural, "deployments");
    let parts: Vec<&str> = capabilities.subresources.iter().map(|(r, _)| r.plural.as_str()).collect();
    assert_eq!(parts.len(), 2, "{parts:?}");
    assert_eq!(served.client.apiserver_version().await.unwrap().major, "1");
}

#[tokio::test]
async fn tables_have_columns_and_cells_for_lists_and_watches() {
    let served = serve().await;
    let deployments = Api::<Deployment>::default_namespaced(served.client.clone());
    deployments.patch("api", &PatchParams::apply("git"), &Patch::Apply(deployment())).await.unwrap();
    let request = |query: &str| {
        let path = format!("/apis/apps/v1/namespaces/default/deployments{query}");
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        http::Request::get(path).header("accept", accept).body(vec![]).unwrap()
    };
    let table: Value = served.client.request(request("")).await.unwrap();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["columnDefinitions"][1]["name"], "Ready");
    assert_eq!(table["rows"][0]["cells"][0], "api");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let mut lines = Box::pin(served.client.request_stream(request("?watch=true&resourceVersion=0")).await.unwrap());
    let mut line = Vec::new();
    futures::AsyncBufReadExt::read_until(&mut lines, b'\n', &mut line).await.unwrap();
    let event: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
}

#[tokio::test]
async fn a_port_without_protocol_is_the_same_port_when_applied_again() {
    let served = serve().await;
    let services = Api::<Service>::default_namespaced(served.client.clone());
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    for manager in ["one", "two"] {
        let applied = services.patch("s", &PatchParams::apply(manager), &Patch::Apply(&service)).await.unwrap();
        assert_eq!(applied.spec.unwrap().ports.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_in_words() {
    let served = serve().await;
    let request = http::Request::post("/api/v1/namespaces/default/pods")
        .header("content-type", "application/vnd.kubernetes.protobuf")
        .body(b"k8s\0".to_vec())
        .unwrap();
    let refused = served.client.request::<Value>(request).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(s) if s.code == 415), "{refused}");
    assert!(served.endpoint.url().starts_with("http://127.0.0.1:"));
}
