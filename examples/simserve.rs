use sluice::sim::*;
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter("info").init();
    let cluster = SimCluster::start(Options { epoch: jiff::Timestamp::now(), ..Options::default() });
    for f in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&f).unwrap();
        for doc in serde_yaml_ng::Deserializer::from_str(&text) {
            let v: serde_json::Value = serde::Deserialize::deserialize(doc).unwrap();
            if v["kind"] == "CustomResourceDefinition" {
                cluster.install_crd(v).unwrap();
            }
        }
    }
    let api = ApiEndpoint::listen(cluster.handle().clone(), 7070).await.unwrap();
    api.write_kubeconfig(std::path::Path::new("/tmp/sim.kubeconfig")).unwrap();
    println!("{}", api.url());
    std::future::pending::<()>().await;
}
