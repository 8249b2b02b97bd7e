//! What is known of the cluster, where only some namespaces are watched.

use std::collections::BTreeSet;

use kube::api::DynamicObject;
use serde_json::json;
use sluice::world::{Change, Index, Key, Watched, World};

fn rollout(namespace: &str) -> DynamicObject {
    let mut rollout: serde_json::Value = serde_yaml_ng::from_str(include_str!("../examples/rollout.yaml")).unwrap();
    rollout["metadata"] = json!({"name": "api", "namespace": namespace, "uid": namespace, "resourceVersion": "1"});
    serde_json::from_value(rollout).unwrap()
}

#[test]
fn a_new_list_of_one_namespace_says_nothing_about_another() {
    let key = |namespace: &str| Key::Rollout { namespace: namespace.to_owned(), name: "api".to_owned() };
    let mut index = Index::default();
    for namespace in ["shop", "bank"] {
        index.take(Watched::Rollout, &rollout(namespace), Change::Applied);
    }
    let gone = index.retain(Watched::Rollout, Some("shop"), &BTreeSet::new());
    assert_eq!((gone, index.rollout_keys()), (BTreeSet::from([key("shop")]), BTreeSet::from([key("bank")])));
    index.retain(Watched::Rollout, None, &BTreeSet::new());
    assert_eq!(index.rollout_keys(), BTreeSet::new(), "a list of all says that it has gone");
}

#[test]
fn nothing_is_known_before_every_kind_is_listed_in_every_namespace() {
    let world = World::of(vec!["shop".to_owned(), "bank".to_owned()]);
    assert_eq!(world.missing(), Watched::ALL);
    assert!(!world.is_ready());
}

#[test]
fn an_answer_from_before_a_deletion_brings_nothing_back_and_old_deletions_are_forgotten() {
    let mut index = Index::default();
    let mut object = rollout("shop");
    for n in 0..3_000_u64 {
        object.metadata.name = Some(format!("api-{n}"));
        object.metadata.resource_version = Some((2 * n + 2).to_string());
        index.take(Watched::Rollout, &object, Change::Deleted);
        object.metadata.resource_version = Some((2 * n + 1).to_string());
        assert_eq!(index.take(Watched::Rollout, &object, Change::Applied), BTreeSet::new(), "an older version of what is gone");
    }
    assert_eq!(index.rollout_keys(), BTreeSet::new());
    let remembered = (0..3_000).filter(|n| !index.is_news(Watched::Rollout, "shop", &format!("api-{n}"), 1, Change::Applied)).count();
    assert_eq!(remembered, 1_024);
}
