//! `undo`, `set image`, `release`: against the simulated API server.

use super::*;
use crate::cli::{history, release, set, undo};

fn undo_to(revision: Option<&str>) -> undo::Args {
    undo::Args { to_revision: revision.map(str::to_owned), action: command("30s") }
}

#[tokio::test(start_paused = true)]
async fn undo_says_where_it_goes_and_is_addressed_to_the_version_that_serves() {
    let world = World::new().await;
    for (hash, image) in [("4a4a", "app:v0"), ("5d7c", "app:v1")] {
        world.revision(hash, image).await;
    }
    world.healthy("5d7c").await;
    let promoted = |revision: &str, over: &str, image: &str, at: &str| {
        json!({"revision": revision, "over": over, "images": [image], "outcome": "Promoted", "message": "",
            "startedAt": format!("2026-01-01T{at}:00.000000Z"), "finishedAt": format!("2026-01-01T{at}:50.000000Z")})
    };
    world.report(json!({"history": [promoted("4a4a", "3e3e", "app:v0", "10:00"), promoted("5d7c", "4a4a", "app:v1", "11:00")]})).await;
    for (asked, wanted, note) in [
        (None, None, "undo revision 5d7c: back to 4a4a (app:v0)"),
        (Some("api-4a4a"), Some("4a4a"), "undo revision 5d7c: back to 4a4a (app:v0)"),
    ] {
        let (mut printed, args) = (Printed::default(), undo_to(asked));
        let mut out = printed.out();
        let (exit, sent) = tokio::join!(undo::run(&world.session, &args, &mut out), world.answer(Outcome::Done, "all traffic goes back"));
        assert_eq!(exit.unwrap(), Exit::Ok);
        assert_eq!((sent.spec.verb, sent.spec.revision.as_str(), sent.spec.to_revision.as_deref()), (Verb::Undo, "5d7c", wanted));
        assert!(printed.notes().starts_with(note), "{}", printed.notes());
        world.session.api::<RolloutAction>().delete(&sent.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let error = undo::run(&world.session, &undo_to(Some("9999")), &mut Printed::default().out()).await.unwrap_err().to_string();
    assert!(error.contains("4a4a (app:v0)"), "{error}");
    assert!(world.sim.list("rolloutactions.sluice.dev", "shop").is_empty(), "nothing was sent");

    let mut printed = Printed::default();
    let args = history::Args { name: "api".into(), output: Some(Format::Json) };
    history::run(&world.session, &args, world.sim.now(), &mut printed.out()).await.unwrap();
    let history: Value = serde_json::from_str(printed.text()).unwrap();
    assert_eq!((&history["rollouts"][0]["now"], &history["rollouts"][1]["now"]), (&json!("serves"), &json!("kept")));
    assert_eq!(history["kept"][0]["revision"], "4a4a");
}

#[tokio::test(start_paused = true)]
async fn completion_offers_what_the_cluster_has() {
    use crate::cli::completion::{Thing, names};
    let world = World::new().await;
    deployment(&world, json!({})).await;
    world.revision("4a4a", "app:v0").await;
    world.revision("5d7c", "app:v1").await;
    for (thing, expected) in [
        (Thing::Rollouts, &["api"][..]),
        (Thing::Deployments, &["api"]),
        (Thing::Services, &[]),
        (Thing::Namespaces, &["default", "kube-system", "shop"]),
        (Thing::Revisions("api".into()), &["4a4a", "5d7c"]),
        (Thing::Containers("api".into()), &["app=", "proxy="]),
    ] {
        assert_eq!(names(&world.session, &thing).await.unwrap(), expected, "{thing:?}");
    }
}

fn images(images: &[&str]) -> set::Args {
    let images = images.iter().map(|image| image.parse().unwrap()).collect();
    set::Args { what: set::What::Image(set::Image { name: "api".into(), images, output: None }) }
}

async fn deployment(world: &World, annotations: Value) {
    let labels = json!({"app": "api"});
    world
        .create(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api", "namespace": "shop", "annotations": annotations},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
                "containers": [{"name": "app", "image": "app:v1"}, {"name": "proxy", "image": "envoy:v1"}]}}}
        }))
        .await;
}

#[tokio::test(start_paused = true)]
async fn set_image_changes_the_deployment_and_tells_of_git() {
    let world = World::new().await;
    deployment(&world, json!({"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/api"})).await;
    let mut printed = Printed::default();
    assert_eq!(set::run(&world.session, &images(&["app=app:v2"]), &mut printed.out()).await.unwrap(), Exit::Ok);
    assert_eq!(printed.text(), "deployments.apps/api image updated\n");
    assert!(printed.notes().contains("Argo CD (Application shop) keeps deployments.apps/api as it is in Git"), "{}", printed.notes());
    let containers =
        |world: &World| world.sim.get("deployments.apps", "shop", "api").unwrap()["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!((&containers(&world)[0]["image"], &containers(&world)[1]["image"]), (&json!("app:v2"), &json!("envoy:v1")));
    let error = set::run(&world.session, &images(&["web=app:v3"]), &mut Printed::default().out()).await.unwrap_err().to_string();
    assert!(error.contains(r#"it has "app", "proxy""#), "{error}");
    let mut printed = Printed::default();
    set::run(&world.session, &images(&["app=app:v2"]), &mut printed.out()).await.unwrap();
    assert!(printed.notes().contains("nothing is changed"), "{}", printed.notes());
}

#[tokio::test(start_paused = true)]
async fn set_image_changes_the_rollouts_own_template() {
    let world = World::new().await;
    let rollout: Rollout = serde_json::from_value(json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "web:v1", "futureField": 1}]}},
            "traffic": {"service": "web", "routes": [{"kind": "HTTPRoute", "name": "web"}]},
            "strategy": {"canary": {"steps": [{"setWeight": 50}]}}
        }
    }))
    .unwrap();
    world.session.api::<Rollout>().create(&PostParams::default(), &rollout).await.unwrap();
    let set::What::Image(mut image) = images(&["app=web:v2"]).what;
    image.name = "web".into();
    let mut printed = Printed::default();
    set::run(&world.session, &set::Args { what: set::What::Image(image) }, &mut printed.out()).await.unwrap();
    assert_eq!(printed.text(), "rollouts.sluice.dev/web image updated\n");
    let container = world.sim.get("rollouts.sluice.dev", "shop", "web").unwrap()["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container, json!({"name": "app", "image": "web:v2", "futureField": 1}), "nothing else is lost");
}

fn releasing(name: Option<&str>) -> release::Args {
    let timeout = "1m".parse().unwrap();
    release::Args { name: name.map(str::to_owned), all: name.is_none(), all_namespaces: false, yes: false, timeout }
}

#[tokio::test(start_paused = true)]
async fn release_waits_until_the_rollout_is_gone_and_tells_what_it_waits_for() {
    let world = World::new().await;
    world.healthy("5d7c").await;
    let api = world.session.api::<Rollout>();
    let finalizer = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    api.patch("api", &PatchParams::default(), &finalizer(json!(["sluice.dev/give-back"]))).await.unwrap();
    let (mut printed, args) = (Printed::default(), releasing(Some("api")));
    let mut out = printed.out();
    let controller = async {
        world.sim.until(|sim| sim.get("rollouts.sluice.dev", "shop", "api").unwrap()["metadata"]["deletionTimestamp"].is_string()).await;
        world.report(json!({"observedGeneration": 9, "message": "gives Deployment api back"})).await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await; // virtual: it lets the plugin see it
        api.patch("api", &PatchParams::default(), &finalizer(json!(null))).await.unwrap();
    };
    let (exit, ()) = tokio::join!(release::run_asking(&world.session, &args, None, &mut out), controller);
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert!(printed.notes().contains("shop/api: gives Deployment api back"), "{}", printed.notes());
    assert_eq!(printed.text(), "✔ shop/api is released; Deployment api has its pods back\n");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_released_that_nobody_has_agreed_to() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    let there = || world.sim.get("rollouts.sluice.dev", "shop", "api").is_some();
    for args in [releasing(Some("api")), releasing(None)] {
        let error = release::run_asking(&world.session, &args, None, &mut Printed::default().out()).await.unwrap_err().to_string();
        assert!(error.contains("with --yes it is done") && there(), "{error}");
        let mut printed = Printed::default();
        let exit = release::run_asking(&world.session, &args, Some(&mut &b"n\n"[..]), &mut printed.out()).await.unwrap();
        assert!(exit == Exit::Error && there());
        assert!(printed.notes().contains("kubectl rollout resume deployment/api -n shop"), "{}", printed.notes());
    }
    let exit = release::run_asking(&world.session, &releasing(None), Some(&mut &b"y\n"[..]), &mut Printed::default().out()).await.unwrap();
    assert!(exit == Exit::Ok && !there());
}

#[tokio::test(start_paused = true)]
async fn a_release_that_nobody_carries_out_is_a_timeout() {
    let world = World::new().await;
    world.healthy("5d7c").await;
    let finalizers = Patch::Merge(json!({"metadata": {"finalizers": ["sluice.dev/give-back"]}}));
    world.session.api::<Rollout>().patch("api", &PatchParams::default(), &finalizers).await.unwrap();
    let args = release::Args { yes: true, ..releasing(Some("api")) };
    let error = release::run_asking(&world.session, &args, None, &mut Printed::default().out()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Timeout);
    assert!(error.to_string().contains("Where no controller runs, nothing is given back"), "{error}");
}
