//! The simulated API server, asked by a real client.
#![cfg(feature = "sim")]

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, PropagationPolicy, WatchEvent, WatchParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Error, ResourceExt};
use serde_json::{Value, json};
use sluice::sim::{Options, SimCluster};

fn cluster() -> (SimCluster, Client) {
    let cluster = SimCluster::start(Options::default());
    let client = cluster.client("test");
    (cluster, client)
}

fn config_map(name: &str, data: Value) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": name}}, "data": data})).unwrap()
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "api"}}, "spec": {"containers": [{"name": "api", "image": "app:v1"}]}})
}

fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({"metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "api"}}, "template": template()}}))
    .unwrap()
}

fn widget_crd() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.dev"},
        "spec": {"group": "test.dev", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": {"type": "object", "properties": {
                        "replicas": {"type": "integer", "minimum": 0},
                        "size": {"type": "string", "default": "small", "enum": ["small", "large"]},
                        "fixed": {"type": "string", "x-kubernetes-validations": [
                            {"rule": "self == oldSelf", "message": "fixed cannot be changed"}]}},
                        "x-kubernetes-validations": [
                            {"rule": "!(has(self.replicas) && self.replicas > 5 && self.size == 'small')",
                             "message": "more than 5 must be large"}]},
                    "status": {"type": "object", "properties": {
                        "replicas": {"type": "integer"}, "selector": {"type": "string"}, "note": {"type": "string"}}},
                }}}}]},
    })
}

async fn widgets() -> (SimCluster, Api<DynamicObject>) {
    let (cluster, client) = cluster();
    let crds = Api::<DynamicObject>::all_with(
        client.clone(),
        &ApiResource::erase::<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>(&()),
    );
    crds.create(&PostParams::default(), &serde_json::from_value(widget_crd()).unwrap()).await.unwrap();
    let resource = ApiResource {
        group: "test.dev".into(),
        version: "v1".into(),
        api_version: "test.dev/v1".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
    };
    (cluster, Api::namespaced_with(client, "default", &resource))
}

fn widget(spec: Value) -> DynamicObject {
    serde_json::from_value(json!({"metadata": {"name": "w"}, "spec": spec})).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> (u16, String, String) {
    match result.unwrap_err() {
        Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not an answer of the API server: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_what_is_created_changed_and_deleted() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    maps.create(&PostParams::default(), &config_map("a", json!({"k": "1"}))).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut seen = watcher(maps.clone(), config).applied_objects().boxed();
        assert_eq!(seen.try_next().await.unwrap().unwrap().name_any(), "a");
    }
    let mut seen = watcher(maps.clone(), watcher::Config::default()).boxed();
    while !matches!(seen.try_next().await.unwrap().unwrap(), watcher::Event::InitDone) {}
    maps.create(&PostParams::default(), &config_map("b", json!({"k": "1"}))).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("b", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("b", &DeleteParams::default()).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.push(match seen.try_next().await.unwrap().unwrap() {
            watcher::Event::Apply(o) => format!("apply {}", o.data.unwrap()["k"]),
            watcher::Event::Delete(o) => format!("delete {}", o.name_any()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(events, ["apply 1", "apply 2", "delete b"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_with_a_selector_sees_objects_come_and_go() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let params = WatchParams::default().labels("app in (a, b)");
    let mut seen = maps.watch(&params, "0").await.unwrap().boxed();
    maps.create(&PostParams::default(), &config_map("a", json!({}))).await.unwrap();
    maps.create(&PostParams::default(), &config_map("z", json!({}))).await.unwrap();
    let patch = |app: &str| Patch::Merge(json!({"metadata": {"labels": {"app": app}}}));
    maps.patch("a", &PatchParams::default(), &patch("other")).await.unwrap();
    maps.patch("a", &PatchParams::default(), &patch("b")).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 3 {
        events.push(match seen.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(o) => format!("added {}", o.name_any()),
            WatchEvent::Deleted(o) => format!("deleted {}", o.name_any()),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(events, ["added a", "deleted a", "added a"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_forgotten_history_is_told_410() {
    let (cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let first = maps.create(&PostParams::default(), &config_map("a", json!({}))).await.unwrap();
    maps.create(&PostParams::default(), &config_map("b", json!({}))).await.unwrap();
    cluster.handle().with(|server, _| server.forget(server.revision()));
    let version = first.resource_version().unwrap();
    let mut seen = maps.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    match seen.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => {
            assert_eq!((status.code, status.reason.as_str()), (410, "Expired"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_test_in_a_json_patch_is_422_and_changes_nothing() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    maps.create(&PostParams::default(), &config_map("a", json!({"k": "1"}))).await.unwrap();
    let patch: json_patch::Patch = serde_json::from_value(json!([
        {"op": "replace", "path": "/data/k", "value": "3"}, {"op": "test", "path": "/data/k", "value": "2"}]))
    .unwrap();
    let result = maps.patch("a", &PatchParams::default(), &Patch::Json::<()>(patch)).await;
    let (code, reason, message) = refused(result);
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    assert!(message.contains("rejected our request"), "{message}");
    assert_eq!(maps.get("a").await.unwrap().data.unwrap()["k"], "1");
}

#[tokio::test(start_paused = true)]
async fn spec_and_status_are_written_apart() {
    let (_cluster, widgets) = widgets().await;
    let mut with_status = widget(json!({"replicas": 1}));
    with_status.data["status"] = json!({"note": "x"});
    let made = widgets.create(&PostParams::default(), &with_status).await.unwrap();
    assert!(made.data.get("status").is_none(), "a new object has no status yet");
    let both = json!({"spec": {"replicas": 2}, "status": {"note": "y"}, "metadata": {"labels": {"a": "b"}}});
    let after = widgets.patch_status("w", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert_eq!((&after.data["spec"]["replicas"], &after.data["status"]["note"]), (&json!(1), &json!("y")));
    assert_eq!((after.labels().len(), after.metadata.generation), (0, Some(1)));
    let again = json!({"spec": {"replicas": 2}, "status": {"note": "z"}});
    let after = widgets.patch("w", &PatchParams::default(), &Patch::Merge(&again)).await.unwrap();
    assert_eq!((&after.data["spec"]["replicas"], &after.data["status"]["note"]), (&json!(2), &json!("y")));
    assert_eq!(after.metadata.generation, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_changes_nothing_keeps_the_resource_version() {
    let (_cluster, client) = cluster();
    let sets = Api::<ReplicaSet>::default_namespaced(client);
    let made = sets.create(&PostParams::default(), &replica_set("a", 0)).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let same = sets.patch("a", &PatchParams::default(), &patch).await.unwrap();
    let put = sets.replace("a", &PostParams::default(), &same).await.unwrap();
    assert_eq!((made.resource_version(), made.resource_version()), (same.resource_version(), put.resource_version()));
    let labels = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
    let labelled = sets.patch("a", &PatchParams::default(), &labels).await.unwrap();
    assert_ne!(labelled.resource_version(), made.resource_version());
    assert_eq!(labelled.metadata.generation, Some(1), "labels are not part of what is wanted");
}

#[tokio::test(start_paused = true)]
async fn a_stale_write_is_a_conflict() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let first = maps.create(&PostParams::default(), &config_map("a", json!({"k": "1"}))).await.unwrap();
    let change = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("a", &PatchParams::default(), &change).await.unwrap();
    let (code, reason, _) = refused(maps.replace("a", &PostParams::default(), &first).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    let (code, reason, _) = refused(maps.create(&PostParams::default(), &config_map("a", json!({}))).await);
    assert_eq!((code, reason.as_str()), (409, "AlreadyExists"));
}

#[tokio::test(start_paused = true)]
async fn a_finalizer_holds_a_deletion() {
    let (_cluster, widgets) = widgets().await;
    let mut object = widget(json!({}));
    object.metadata.finalizers = Some(vec!["test.dev/hold".into()]);
    widgets.create(&PostParams::default(), &object).await.unwrap();
    let marked = widgets.delete("w", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(marked.metadata.generation, Some(2));
    let more = Patch::Merge(json!({"metadata": {"finalizers": ["test.dev/hold", "test.dev/late"]}}));
    assert_eq!(refused(widgets.patch("w", &PatchParams::default(), &more).await).0, 422);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    widgets.patch("w", &PatchParams::default(), &none).await.unwrap();
    assert!(widgets.get_opt("w").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn deletion_preconditions_are_checked() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let made = maps.create(&PostParams::default(), &config_map("a", json!({}))).await.unwrap();
    let with = |uid: &str, version: &str| DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: Some(uid.into()), resource_version: Some(version.into()) }),
        ..DeleteParams::default()
    };
    let (uid, version) = (made.uid().unwrap(), made.resource_version().unwrap());
    assert_eq!(refused(maps.delete("a", &with("other", &version)).await).0, 409);
    assert_eq!(refused(maps.delete("a", &with(&uid, "1")).await).0, 409);
    let gone = maps.delete("a", &with(&uid, &version)).await.unwrap().right().unwrap();
    assert!(gone.is_success());
}

#[tokio::test(start_paused = true)]
async fn custom_resources_keep_to_their_schema_and_rules() {
    let (_cluster, widgets) = widgets().await;
    let create = |spec: Value| {
        let widgets = widgets.clone();
        async move { widgets.create(&PostParams::default(), &widget(spec)).await }
    };
    assert_eq!(refused(create(json!({"replicas": -1})).await).0, 422);
    assert_eq!(refused(create(json!({"size": "huge"})).await).0, 422);
    let (code, _, message) = refused(create(json!({"replicas": 6})).await);
    assert_eq!(code, 422);
    assert!(message.contains("more than 5 must be large"), "{message}");
    let made = create(json!({"replicas": 6, "size": "large", "fixed": "a", "unknown": 1})).await.unwrap();
    assert_eq!(made.data["spec"], json!({"replicas": 6, "size": "large", "fixed": "a"}), "unknown fields are dropped");
    let patch = Patch::Merge(json!({"spec": {"fixed": "b"}}));
    let (_, _, message) = refused(widgets.patch("w", &PatchParams::default(), &patch).await);
    assert!(message.contains("fixed cannot be changed"), "{message}");
    let patch = Patch::Merge(json!({"spec": {"size": null, "replicas": 1}}));
    let after = widgets.patch("w", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(after.data["spec"]["size"], "small", "the default comes back");
}

#[tokio::test(start_paused = true)]
async fn the_scale_subresource_writes_replicas() {
    let (_cluster, widgets) = widgets().await;
    widgets.create(&PostParams::default(), &widget(json!({}))).await.unwrap();
    assert!(widgets.get_scale("w").await.is_err(), "there is nothing to show while replicas are unset");
    let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
    widgets.patch_scale("w", &PatchParams::default(), &patch).await.unwrap();
    let status = json!({"status": {"replicas": 2, "selector": "app=w"}});
    widgets.patch_status("w", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let scale = widgets.get_scale("w").await.unwrap();
    let shown = scale.status.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(3));
    assert_eq!((shown.replicas, shown.selector.as_deref()), (2, Some("app=w")));
    assert_eq!(widgets.get("w").await.unwrap().metadata.generation, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_answers_as_in_earnest_and_stores_nothing() {
    let (_cluster, client) = cluster();
    let sets = Api::<ReplicaSet>::default_namespaced(client);
    let dry = PostParams { dry_run: true, field_manager: None };
    let shown = sets.create(&dry, &replica_set("a", 1)).await.unwrap();
    let spec = shown.spec.unwrap().template.unwrap().spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert!(sets.list(&ListParams::default()).await.unwrap().items.is_empty());
    let mut wrong = replica_set("a", 1);
    wrong.spec.as_mut().unwrap().template.as_mut().unwrap().spec.as_mut().unwrap().containers[0].image = None;
    let (code, _, message) = refused(sets.create(&dry, &wrong).await);
    assert_eq!(code, 422);
    assert!(message.contains("spec.template.spec.containers[0].image: Required value"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn server_side_apply_owns_removes_and_refuses() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client);
    let config = |data: Value| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}));
    let (mine, yours) = (PatchParams::apply("me"), PatchParams::apply("you"));
    let made = maps.patch("a", &mine, &config(json!({"x": "1", "y": "1"}))).await.unwrap();
    let same = maps.patch("a", &mine, &config(json!({"x": "1", "y": "1"}))).await.unwrap();
    assert_eq!(made.resource_version(), same.resource_version());
    let (code, _, message) = refused(maps.patch("a", &yours, &config(json!({"x": "2"}))).await);
    assert_eq!(code, 409);
    assert!(message.contains("conflict with \"me\""), "{message}");
    maps.patch("a", &yours.clone().force(), &config(json!({"x": "2"}))).await.unwrap();
    let after = maps.patch("a", &mine, &config(json!({}))).await.unwrap();
    assert_eq!(serde_json::to_value(after.data).unwrap(), json!({"x": "2"}), "mine went, yours stays");
}

#[tokio::test(start_paused = true)]
async fn ownership_is_noted_and_can_be_given_up() {
    let (_cluster, client) = cluster();
    let services = Api::<Service>::default_namespaced(client);
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}]}});
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    let params = PatchParams { field_manager: Some("sluice".into()), ..PatchParams::default() };
    let pin = Patch::Merge(json!({"spec": {"selector": {"hash": "x"}}}));
    let pinned = services.patch("s", &params, &pin).await.unwrap();
    let index = pinned.managed_fields().iter().position(|e| e.manager.as_deref() == Some("sluice")).unwrap();
    let fields = &pinned.managed_fields()[index].fields_v1.as_ref().unwrap().0;
    assert_eq!(*fields, json!({"f:spec": {"f:selector": {}}}), "a Service's selector has one owner");
    let give_up = format!("/metadata/managedFields/{index}");
    let patch: json_patch::Patch = serde_json::from_value(json!([{"op": "remove", "path": give_up}])).unwrap();
    let after = services.patch("s", &params, &Patch::Json::<()>(patch)).await.unwrap();
    assert!(after.managed_fields().iter().all(|e| e.manager.as_deref() != Some("sluice")));
    assert_eq!(after.spec.unwrap().selector, pinned.spec.unwrap().selector);
}

#[tokio::test(start_paused = true)]
async fn lists_are_selected_and_metadata_comes_alone_if_asked_for() {
    let (_cluster, client) = cluster();
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &config_map(name, json!({"k": "1"}))).await.unwrap();
    }
    let names = |params: ListParams| {
        let maps = maps.clone();
        async move { maps.list(&params).await.unwrap().iter().map(ResourceExt::name_any).collect::<Vec<_>>() }
    };
    assert_eq!(names(ListParams::default().labels("app notin (a)")).await, ["b", "c"]);
    assert_eq!(names(ListParams::default().fields("metadata.name=b")).await, ["b"]);
    let metadata = Api::<PartialObjectMeta<ConfigMap>>::default_namespaced(client);
    let list = metadata.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 3);
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=a")).await.unwrap();
    assert_eq!(names(ListParams::default()).await, ["b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn namespaces_must_exist_and_names_can_be_generated() {
    let (_cluster, client) = cluster();
    let nowhere = Api::<ConfigMap>::namespaced(client.clone(), "nowhere");
    assert_eq!(refused(nowhere.create(&PostParams::default(), &config_map("a", json!({}))).await).0, 404);
    let leases = Api::<Lease>::default_namespaced(client);
    let lease: Lease = serde_json::from_value(json!({"metadata": {"generateName": "l-"}})).unwrap();
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert!(made.name_any().starts_with("l-") && made.name_any().len() == 7);
}

#[tokio::test(start_paused = true)]
async fn propagation_is_noted_as_a_finalizer() {
    let (_cluster, client) = cluster();
    let deployments = Api::<Deployment>::default_namespaced(client);
    let deployment = json!({"metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "api"}}, "template": template()}});
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..DeleteParams::default() };
    let marked = deployments.delete("d", &params).await.unwrap().left().unwrap();
    assert_eq!(marked.finalizers(), ["orphan"]);
}

#[tokio::test(start_paused = true)]
async fn strict_writes_name_the_fields_that_nobody_knows() {
    let (_cluster, widgets) = widgets().await;
    widgets.create(&PostParams::default(), &widget(json!({}))).await.unwrap();
    let strict = PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"replica": 3}}));
    let (code, _, message) = refused(widgets.patch("w", &strict, &patch).await);
    assert_eq!(code, 422);
    assert!(message.contains("unknown field \"spec.replica\""), "{message}");
    assert!(widgets.patch("w", &PatchParams::default(), &patch).await.is_ok(), "else they are dropped");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_shown_by_both_apis() {
    let (_cluster, client) = cluster();
    let events = Api::<k8s_openapi::api::events::v1::Event>::default_namespaced(client.clone());
    let event = json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "action": "Roll", "type": "Normal",
        "reason": "Rolled", "note": "all is well", "reportingController": "sluice", "reportingInstance": "0",
        "regarding": {"kind": "Pod", "name": "p"}});
    events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
    let core = Api::<k8s_openapi::api::core::v1::Event>::default_namespaced(client);
    let about = |name: &str| ListParams::default().fields(&format!("involvedObject.name={name}"));
    let found = core.list(&about("p")).await.unwrap();
    assert_eq!(found.items[0].message.as_deref(), Some("all is well"));
    assert!(core.list(&about("q")).await.unwrap().items.is_empty());
}
