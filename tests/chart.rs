//! What of the chart can be held against the code without Helm: `make chart` lints and renders it, `make e2e` lives with its roles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use sluice::world::Watched;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/sluice")
}

fn read(path: &str) -> String {
    let path = chart().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The controller's rules: (group, resource) -> verbs. Those of cluster-scoped kinds have a file of their own, if there are any.
fn rules() -> BTreeMap<(String, String), BTreeSet<String>> {
    let words = |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let mut all = BTreeMap::<_, BTreeSet<String>>::new();
    let files = ["files/rules.yaml", "files/cluster-rules.yaml"];
    for file in files.into_iter().filter(|file| chart().join(file).exists()) {
        let rules: Value = serde_yaml_ng::from_str(&read(file)).unwrap();
        for rule in rules["rules"].as_array().unwrap() {
            for group in words(&rule["apiGroups"]) {
                for resource in words(&rule["resources"]) {
                    all.entry((group.clone(), resource)).or_default().extend(words(&rule["verbs"]));
                }
            }
        }
    }
    all
}

#[test]
fn the_controller_may_read_what_it_watches_and_nothing_else() {
    let watched: BTreeSet<_> = Watched::ALL.iter().map(|kind| kind.resource()).map(|r| (r.group, r.plural)).collect();
    // Looked at once in each rollout: nobody needs to know of them at rest.
    let mut listed = watched.clone();
    listed.extend(sluice::act::policy_kinds().into_iter().map(|r| (r.group, r.plural)));
    for (verb, wanted) in [("list", listed), ("watch", watched)] {
        let allowed: BTreeSet<_> = rules().into_iter().filter(|(_, verbs)| verbs.contains(verb)).map(|(what, _)| what).collect();
        assert_eq!(allowed, wanted, "{verb}");
    }
    assert!(rules().values().all(|verbs| !verbs.contains("get")), "it reads by watches and lists alone");
}

#[test]
fn the_controller_may_write_only_what_it_is_known_for() {
    let reading = BTreeSet::from(["list".to_owned(), "watch".to_owned()]);
    let writes: Vec<String> = rules()
        .into_iter()
        .map(|((_, resource), verbs)| (resource, verbs.difference(&reading).cloned().collect::<Vec<_>>()))
        .filter(|(_, verbs)| !verbs.is_empty())
        .map(|(resource, verbs)| format!("{resource}: {}", verbs.join(" ")))
        .collect();
    assert_eq!(
        writes,
        [
            "pods/eviction: create",
            "services: create delete patch",
            "controllerrevisions: create delete",
            "deployments: patch",
            "replicasets: create delete patch",
            "events: create patch",
            "backendtlspolicies: create",
            "grpcroutes: patch",
            "httproutes: patch",
            "tcproutes: patch",
            "tlsroutes: patch",
            "analysisruns: create delete patch",
            "analysisruns/status: patch",
            "rolloutactions: delete",
            "rolloutactions/status: patch",
            "rollouts: patch",
            "rollouts/scale: patch",
            "rollouts/status: patch",
        ]
    );
}

#[test]
fn the_controller_has_every_option_that_it_is_started_with() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_sluice")).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let template = read("templates/deployment.yaml");
    let options: Vec<&str> = template.lines().filter_map(|line| line.trim().strip_prefix("- --")?.split('=').next()).collect();
    assert!(options.len() > 4, "{options:?}");
    for option in options {
        assert!(help.contains(&format!("--{option} ")), "--{option} is none of\n{help}");
    }
}

/// Paths of the values below `value`, whose children are what `children` says; a map without children is a value.
fn paths(value: &Value, children: fn(&Value) -> Vec<(String, Value)>, prefix: &str, out: &mut BTreeSet<String>) {
    for (key, child) in children(value) {
        let path = format!("{prefix}{key}");
        match children(&child).is_empty() {
            true => {
                out.insert(path);
            }
            false => paths(&child, children, &format!("{path}."), out),
        }
    }
}

fn entries(value: Option<&Value>) -> Vec<(String, Value)> {
    value.and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

#[test]
fn every_value_has_its_place_in_the_schema_and_the_schema_has_no_other() {
    let mut values: Value = serde_yaml_ng::from_str(&read("values.yaml")).unwrap();
    // Passed on as they are: a container's own field, and labels.
    values["resources"] = Value::Null;
    values["metrics"]["dashboard"]["labels"] = Value::Null;
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let (mut given, mut described) = (BTreeSet::new(), BTreeSet::new());
    paths(&values, |v| entries(Some(v)), "", &mut given);
    paths(&schema, |v| entries(v.get("properties")), "", &mut described);
    // Helm's own.
    described.remove("global");
    assert_eq!(given, described);
}

#[test]
fn every_value_is_commented() {
    let text = read("values.yaml");
    let mut bare = vec![];
    let (mut before, mut passed_on) = ("", false);
    for line in text.lines() {
        if !line.starts_with([' ', '#']) {
            passed_on = line == "resources:";
        }
        let is_value = !line.trim_start().starts_with('#') && !line.ends_with(':') && !line.is_empty();
        if is_value && !passed_on && !before.trim_start().starts_with('#') {
            bare.push(line);
        }
        before = line;
    }
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}
