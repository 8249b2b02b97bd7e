//! The files in `examples/` are what users copy: each is valid, and the smallest Rollout stays small.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use jiff::Timestamp;
use serde_json::Value;
use sluice::{
    api::{self, AnalysisTemplate, ClusterAnalysisTemplate, Metric, Rollout},
    core::{analysis, spec},
    sim::api::{ApiServer, Caller},
};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn example(name: &str) -> String {
    let path = directory().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of all manifests.
fn examples() -> Vec<String> {
    let names = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".yaml")).collect()
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text).map(|document| serde::Deserialize::deserialize(document).unwrap()).collect()
}

/// What an API server with our CRDs says against an object of one of our kinds: fields that the schema does not have, or its refusal.
fn against(object: &Value) -> Vec<String> {
    let now = Timestamp::UNIX_EPOCH;
    let mut server = ApiServer::new(1, now);
    for crd in api::crds() {
        server.install_crd(serde_json::to_value(crd).unwrap(), now).unwrap();
    }
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    let kind = server.kinds().of(text("apiVersion"), text("kind")).unwrap_or_else(|| panic!("no such kind: {object}")).clone();
    let unknown = kind.schema.unknown(object).into_iter().map(|field| format!("there is no field {field}"));
    let namespace = kind.namespaced.then_some("default");
    let refused = server.create(&kind.id, namespace, object.clone(), &Caller::new("ann", now)).err();
    unknown.chain(refused.map(|error| error.message)).collect()
}

#[test]
fn every_example_is_taken_by_an_api_server_and_has_no_unknown_field() {
    let mut checked = BTreeSet::new();
    for name in examples() {
        for object in documents(&example(&name)).iter().filter(|object| object["apiVersion"] == "sluice.dev/v1alpha1") {
            assert_eq!(against(object), Vec::<String>::new(), "{name}");
            checked.insert(object["kind"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(Vec::from_iter(checked), ["AnalysisTemplate", "ClusterAnalysisTemplate", "Rollout"]);
}

#[test]
fn a_field_that_the_schema_does_not_have_is_noticed_at_any_depth() {
    let mut rollout = documents(&example("rollout.yaml")).remove(0);
    rollout["spec"]["strategy"]["canary"]["steps"][0]["setWeigth"] = 5.into();
    rollout["spec"]["traffic"]["routs"] = Value::Null;
    assert_eq!(
        against(&rollout)[..2],
        ["there is no field spec.strategy.canary.steps[0].setWeigth", "there is no field spec.traffic.routs"]
    );
}

#[test]
fn the_readme_names_every_example() {
    let readme = example("README.md");
    let missing: Vec<String> = examples().into_iter().filter(|name| !readme.contains(&format!("[`{name}`]({name})"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

fn assert_valid(metrics: &[Metric], args: &BTreeMap<String, String>) {
    let defaults = analysis::Defaults { prometheus_address: true, ..analysis::Defaults::default() };
    for metric in metrics {
        assert_eq!(analysis::validate_metric(metric, &defaults, Some(args)), Ok(()), "{}", metric.name);
    }
}

#[test]
fn the_smallest_useful_rollout_is_valid_and_has_at_most_25_lines() {
    let text = example("rollout.yaml");
    let rollout: Rollout = serde_yaml_ng::from_str(&text).unwrap();
    if let Err(invalid) = spec::parse(&rollout.spec) {
        panic!("{invalid}");
    }
    let analysis = rollout.spec.strategy.canary.unwrap().analysis.unwrap();
    assert_valid(&analysis.analysis.metrics, &BTreeMap::new());
    assert!(text.lines().count() <= 25, "{} lines", text.lines().count());
}

#[test]
fn the_rollout_that_compares_is_valid() {
    let rollout: Rollout = serde_yaml_ng::from_str(&example("rollout-compare.yaml")).unwrap();
    if let Err(invalid) = spec::parse(&rollout.spec) {
        panic!("{invalid}");
    }
    let metrics = rollout.spec.strategy.canary.unwrap().analysis.unwrap().analysis.metrics;
    assert_valid(&metrics, &BTreeMap::new());
    assert!(metrics.iter().all(|metric| metric.compare.is_some()));
}

#[test]
fn the_template_is_valid_with_its_own_defaults() {
    let template: AnalysisTemplate = serde_yaml_ng::from_str(&example("analysis-template.yaml")).unwrap();
    let args = template.spec.args.into_iter().filter_map(|arg| Some((arg.name, arg.value?))).collect();
    assert_valid(&template.spec.metrics, &args);
    assert_eq!(template.spec.metrics.len(), 3);
}

#[test]
fn the_template_of_the_platform_is_valid() {
    let template: ClusterAnalysisTemplate = serde_yaml_ng::from_str(&example("cluster-analysis-template.yaml")).unwrap();
    let metrics = template.spec.template.metrics;
    assert_valid(&metrics, &BTreeMap::new());
    assert_eq!(metrics.iter().map(|metric| metric.dry_run).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn the_rollout_and_the_app_name_the_same_objects() {
    let rollout: Rollout = serde_yaml_ng::from_str(&example("rollout.yaml")).unwrap();
    let objects = documents(&example("app.yaml"));
    let has = |kind: &str, name: &str| objects.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let traffic = rollout.spec.traffic.unwrap();
    assert!(has("Deployment", &rollout.spec.workload_ref.unwrap().name));
    assert!(has("Service", &traffic.service));
    assert!(has("HTTPRoute", &traffic.routes[0].name));
}
