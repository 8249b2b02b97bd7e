//! The files in `examples/` are what users copy: each is valid, and the smallest Rollout stays small.

use std::{collections::BTreeMap, fs, path::PathBuf};

use sluice::{
    api::{AnalysisTemplate, ClusterAnalysisTemplate, Metric, Rollout},
    core::{analysis, spec},
};

fn example(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
    let app = example("app.yaml");
    let objects: Vec<serde_json::Value> =
        serde_yaml_ng::Deserializer::from_str(&app).map(|document| serde::Deserialize::deserialize(document).unwrap()).collect();
    let has = |kind: &str, name: &str| objects.iter().any(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let traffic = rollout.spec.traffic.unwrap();
    assert!(has("Deployment", &rollout.spec.workload_ref.unwrap().name));
    assert!(has("Service", &traffic.service));
    assert!(has("HTTPRoute", &traffic.routes[0].name));
}
