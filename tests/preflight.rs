//! Before an uninstall: whether Rollouts exist, on the simulated cluster.

use kube::{Api, api::PostParams};
use serde_json::json;
use sluice::{
    api::{self, Rollout},
    preflight,
    sim::{Options, SimCluster},
};

async fn create(cluster: &SimCluster, namespace: &str, name: &str) {
    let mut rollout: Rollout = serde_yaml_ng::from_str(include_str!("../examples/rollout.yaml")).unwrap();
    rollout.metadata.name = Some(name.to_owned());
    cluster.client("test").request::<serde_json::Value>(namespace_request(namespace)).await.ok();
    Api::namespaced(cluster.client("test"), namespace).create(&PostParams::default(), &rollout).await.unwrap();
}

fn namespace_request(name: &str) -> http::Request<Vec<u8>> {
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    http::Request::post("/api/v1/namespaces").header("Content-Type", "application/json").body(serde_json::to_vec(&body).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_uninstall_is_refused_while_rollouts_exist_where_the_controller_works() {
    let cluster = SimCluster::start(Options::default());
    let client = cluster.client("sluice");
    assert_eq!(preflight::uninstall(&client, &[]).await.unwrap(), None, "without the CRDs there are no Rollouts");
    for crd in api::crds() {
        cluster.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
    }
    assert_eq!(preflight::uninstall(&client, &[]).await.unwrap(), None);
    create(&cluster, "shop", "api").await;
    create(&cluster, "bank", "ledger").await;
    let refusal = preflight::uninstall(&client, &[]).await.unwrap().unwrap();
    assert!(refusal.contains("2 Rollouts exist") && refusal.contains("shop/api") && refusal.contains("bank/ledger"), "{refusal}");
    let refusal = preflight::uninstall(&client, &["shop".to_owned()]).await.unwrap().unwrap();
    assert!(refusal.contains("1 Rollout exists") && refusal.contains("shop/api") && !refusal.contains("bank"), "{refusal}");
    assert_eq!(preflight::uninstall(&client, &["quiet".to_owned()]).await.unwrap(), None);
}
