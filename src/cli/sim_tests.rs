//! The verbs against a simulated API server, through a real client. What a controller would write is written by hand here.

mod manifests;
mod verbs;

use jiff::Timestamp;
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    action,
    error::{Error, Exit},
    fixtures, get, list, load,
    output::{Format, Out},
    session::Session,
    status, version, watch, why,
};
use crate::{
    api::{Outcome, Rollout, RolloutAction, Verb, crds},
    sim::{
        Options, SimCluster,
        api::{ApiServer, Request, Response},
        service::{Hook, Verdict},
    },
};

struct World {
    sim: SimCluster,
    session: Session,
}

/// What a verb has printed.
#[derive(Default)]
struct Printed {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Printed {
    fn out(&mut self) -> Out<'_> {
        Out { out: &mut self.out, err: &mut self.err, style: fixtures::plain(), columns: None }
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    fn notes(&self) -> &str {
        std::str::from_utf8(&self.err).unwrap()
    }
}

impl World {
    /// A cluster without Sluice.
    async fn bare() -> Self {
        let sim = SimCluster::start(Options::default());
        let client = sim.client("ada");
        let world = Self { session: Session { client, namespace: "shop".into(), url: "https://sim".into() }, sim };
        world.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})).await;
        world
    }

    /// A cluster with the CRDs and the example's Rollout.
    async fn new() -> Self {
        let world = Self::bare().await;
        for crd in crds() {
            world.sim.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let rollout: Rollout = serde_yaml_ng::from_str(include_str!("../../examples/rollout.yaml")).unwrap();
        world.session.api::<Rollout>().create(&PostParams::default(), &rollout).await.unwrap();
        world
    }

    fn client(&self) -> Client {
        self.sim.client("test")
    }

    async fn create(&self, object: Value) {
        let plural = match object["kind"].as_str().unwrap() {
            "Namespace" => "/api/v1/namespaces",
            "ReplicaSet" => "/apis/apps/v1/namespaces/shop/replicasets",
            "Deployment" => "/apis/apps/v1/namespaces/shop/deployments",
            "Service" => "/api/v1/namespaces/shop/services",
            "HTTPRoute" => "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes",
            "GRPCRoute" => "/apis/gateway.networking.k8s.io/v1/namespaces/shop/grpcroutes",
            "HorizontalPodAutoscaler" => "/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers",
            kind => panic!("{kind}"),
        };
        let request = http::Request::post(plural).header("content-type", "application/json").body(serde_json::to_vec(&object).unwrap());
        let _created: Value = self.client().request(request.unwrap()).await.unwrap();
    }

    async fn report(&self, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        self.session.api::<Rollout>().patch_status("api", &PatchParams::default(), &patch).await.unwrap();
    }

    async fn at_step(&self, index: i32, phase: &str) {
        self.report(json!({
            "observedGeneration": 1, "phase": phase, "message": "words of the controller", "stableRevision": "5d7c", "canaryRevision": "7f9b",
            "currentStep": {"index": index, "startedAt": "2026-01-01T00:00:00.000000Z"}, "stepLabel": format!("{}/6", index + 1),
            "weights": {"stable": 95.0, "canary": 5.0}, "selector": "app=api"
        }))
        .await;
    }

    async fn healthy(&self, revision: &str) {
        let status = json!({"observedGeneration": 1, "phase": "Healthy", "message": format!("revision {revision} serves"), "stableRevision": revision,
            "canaryRevision": revision, "currentStep": null, "stepLabel": null, "weights": null, "selector": "app=api"});
        self.report(status).await;
    }

    async fn revision(&self, hash: &str, image: &str) {
        let labels = json!({"app": "api", "pod-template-hash": hash});
        self.create(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("api-{hash}"), "namespace": "shop", "labels": {"sluice.dev/rollout": "api", "pod-template-hash": hash}},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": image}]}}}
        }))
        .await;
    }

    /// Gives the next action an outcome, as a controller would.
    async fn answer(&self, outcome: Outcome, message: &str) -> RolloutAction {
        self.sim.until(|sim| !sim.list("rolloutactions.sluice.dev", "shop").is_empty()).await;
        let stored = self.sim.list("rolloutactions.sluice.dev", "shop").remove(0);
        let action: RolloutAction = serde_json::from_value(stored).unwrap();
        let patch = Patch::Merge(json!({"status": {"outcome": outcome, "message": message}}));
        self.session.api().patch_status(&action.name_any(), &PatchParams::default(), &patch).await.unwrap()
    }
}

fn command(timeout: &str) -> action::Args {
    action::Args { name: "api".into(), reason: Some("looks good".into()), timeout: timeout.parse().unwrap(), output: None }
}

fn waiting() -> status::Args {
    status::Args {
        name: "api".into(),
        watch: true,
        for_image: None,
        for_revision: None,
        timeout: Some("1h".parse().unwrap()),
        output: None,
    }
}

#[tokio::test(start_paused = true)]
async fn an_action_is_addressed_and_its_outcome_is_waited_for() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    let (mut printed, args) = (Printed::default(), command("30s"));
    let mut out = printed.out();
    let (exit, sent) =
        tokio::join!(action::run(&world.session, Verb::Promote, &args, &mut out), world.answer(Outcome::Done, "the pause is over"));
    assert_eq!(exit.unwrap(), Exit::Ok);
    let spec = sent.spec;
    assert_eq!((spec.rollout.as_str(), spec.verb, spec.revision.as_str(), spec.step), ("api", Verb::Promote, "7f9b", Some(1)));
    assert_eq!((spec.reason.as_deref(), spec.requested_by.as_deref()), (Some("looks good"), Some("ada")));
    assert!(sent.metadata.name.unwrap().starts_with("api-promote-"));
    assert_eq!(printed.text(), "✔ done: the pause is over\n");
}

#[tokio::test(start_paused = true)]
async fn a_refused_action_is_an_error_with_the_words_of_the_controller() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    let (mut printed, args) = (Printed::default(), command("30s"));
    let mut out = printed.out();
    let (exit, _) = tokio::join!(action::run(&world.session, Verb::Abort, &args, &mut out), world.answer(Outcome::Refused, "too late"));
    assert_eq!(exit.unwrap(), Exit::Error);
    assert!(printed.notes().ends_with("✖ refused: too late\n"), "{}", printed.notes());
    assert_eq!(printed.text(), "");
}

#[tokio::test(start_paused = true)]
async fn an_action_that_nobody_does_is_a_timeout_that_names_the_likely_cause() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    let mut printed = Printed::default();
    let error = action::run(&world.session, Verb::Pause, &command("30s"), &mut printed.out()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Timeout);
    assert!(error.to_string().contains("no outcome within 30s: perhaps no controller is running"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn status_waits_for_the_version_that_was_pushed_and_tells_each_change() {
    let world = World::new().await;
    world.revision("5d7c", "app:v1").await;
    world.healthy("5d7c").await;
    let (mut printed, args) = (Printed::default(), status::Args { for_image: Some("app:v2".into()), ..waiting() });
    let mut out = printed.out();
    let rollout = async {
        let pause = || tokio::time::sleep(std::time::Duration::from_secs(5)); // virtual: it lets the plugin see each state
        pause().await;
        world.revision("7f9b", "app:v2").await;
        world.at_step(0, "Progressing").await;
        pause().await;
        world.at_step(1, "Paused").await;
        pause().await;
        world.healthy("7f9b").await;
    };
    let (exit, ()) = tokio::join!(status::run(&world.session, &args, &mut out), rollout);
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert_eq!(printed.text(), "Healthy: revision 7f9b serves\n");
    let notes: Vec<&str> = printed.notes().lines().collect();
    assert_eq!(
        notes,
        [
            "waiting for the Rollout to go to image app:v2; it is at 5d7c",
            "Progressing, step 1/6, canary 5 %: words of the controller",
            "Paused, step 2/6, canary 5 %: words of the controller",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn status_waits_until_sluice_has_read_the_newest_deployment() {
    let world = World::new().await;
    let labels = json!({"app": "api"});
    world
        .create(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": "app:v1"}]}}}
        }))
        .await;
    world.healthy("5d7c").await;
    world.report(json!({"workloadObservedGeneration": 0})).await;
    let mut printed = Printed::default();
    let args = status::Args { timeout: Some("1m".parse().unwrap()), ..waiting() };
    let error = status::run(&world.session, &args, &mut printed.out()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Timeout);
    let generation = world.sim.get("deployments.apps", "shop", "api").unwrap()["metadata"]["generation"].clone();
    world.report(json!({"workloadObservedGeneration": generation})).await;
    assert_eq!(status::run(&world.session, &args, &mut printed.out()).await.unwrap(), Exit::Ok);
}

#[tokio::test(start_paused = true)]
async fn status_ends_with_an_error_when_the_rollout_is_deleted() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    let (mut printed, args) = (Printed::default(), waiting());
    let mut out = printed.out();
    let delete = async {
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        world.session.api::<Rollout>().delete("api", &DeleteParams::default()).await.unwrap();
    };
    let (exit, ()) = tokio::join!(status::run(&world.session, &args, &mut out), delete);
    assert_eq!(exit.unwrap_err().to_string(), "the Rollout api was deleted");
}

#[tokio::test(start_paused = true)]
async fn watch_prints_a_line_for_each_change_until_the_rollout_is_deleted() {
    let world = World::new().await;
    world.at_step(0, "Progressing").await;
    let rollout = world.session.rollout("api").await.unwrap();
    let (mut printed, changes) = (Printed::default(), load::watch(&world.session, &rollout));
    let mut out = printed.out();
    let story = async {
        let pause = || tokio::time::sleep(std::time::Duration::from_secs(5));
        pause().await;
        world.revision("7f9b", "app:v2").await; // no change of state: no line
        pause().await;
        world.healthy("7f9b").await;
        pause().await;
        world.session.api::<Rollout>().delete("api", &DeleteParams::default()).await.unwrap();
    };
    let (exit, ()) = tokio::join!(watch::as_lines(changes, &mut out), story);
    assert_eq!(exit.unwrap(), Exit::Ok);
    let lines: Vec<&str> = printed.text().lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        lines,
        ["Progressing, step 1/6, canary 5 %: words of the controller", "Healthy: revision 7f9b serves", "the Rollout was deleted"]
    );
}

#[tokio::test(start_paused = true)]
async fn get_and_why_show_what_belongs_to_the_rollout() {
    let world = World::new().await;
    world.revision("5d7c", "app:v1").await;
    world.at_step(1, "Paused").await;
    world.sim.until(|sim| sim.list("pods", "shop").len() == 2).await;
    let mut printed = Printed::default();
    let args = get::Args { name: "api".into(), output: None };
    get::run(&world.session, &args, world.sim.now(), &mut printed.out()).await.unwrap();
    for part in ["shop/api", "‖ Paused", "api-5d7c", "app:v1", "‖  2  pause 1m"] {
        assert!(printed.text().contains(part), "{part} is missing in\n{}", printed.text());
    }
    assert_eq!(printed.text().matches("api-5d7c-").count(), 2, "{}", printed.text());
    let (mut printed, args) = (Printed::default(), command("0s"));
    action::run(&world.session, Verb::Abort, &args, &mut printed.out()).await.unwrap();
    why::run(&world.session, &why::Args { name: "api".into(), output: None }, world.sim.now(), &mut printed.out()).await.unwrap();
    assert!(printed.text().contains("abort by ada (\"looks good\"): no outcome yet"), "{}", printed.text());
}

#[tokio::test(start_paused = true)]
async fn json_and_yaml_are_objects_that_other_tools_read() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    let mut printed = Printed::default();
    let args = list::Args { all_namespaces: true, output: Some(Format::Json) };
    list::run(&world.session, &args, world.sim.now(), &mut printed.out()).await.unwrap();
    let list: Value = serde_json::from_str(printed.text()).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"], &list["items"][0]["apiVersion"]),
        (&json!("List"), &json!("Rollout"), &json!("sluice.dev/v1alpha1"))
    );
    assert_eq!(list["items"][0]["metadata"]["managedFields"], Value::Null);
    let mut printed = Printed::default();
    let args = get::Args { name: "api".into(), output: Some(Format::Yaml) };
    get::run(&world.session, &args, world.sim.now(), &mut printed.out()).await.unwrap();
    let object: Value = serde_yaml_ng::from_str(printed.text()).unwrap();
    assert_eq!(object, list["items"][0]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_exist_is_answered_with_those_that_do() {
    let world = World::new().await;
    let error = world.session.rollout("apy").await.unwrap_err().to_string();
    assert!(error.contains("no Rollout \"apy\" in the namespace \"shop\"") && error.contains("There is \"api\"."), "{error}");
    let elsewhere = Session { namespace: "default".into(), ..world.session.clone() };
    let error = elsewhere.rollout("api").await.unwrap_err().to_string();
    assert!(error.contains("There is one in: -n shop"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_sluice_is_told_so() {
    let world = World::bare().await;
    assert!(matches!(world.session.rollout("api").await, Err(Error::NotInstalled(_))));
    let args = list::Args { all_namespaces: false, output: None };
    let listed = list::run(&world.session, &args, world.sim.now(), &mut Printed::default().out()).await;
    assert!(matches!(listed, Err(Error::NotInstalled(_))), "{listed:?}");
    let mut printed = Printed::default();
    let args = version::Args { client: false, output: None };
    version::run(Some(Ok(world.session.clone())), &args, &mut printed.out()).await.unwrap();
    assert!(printed.notes().contains("There is no controller in this cluster"), "{}", printed.notes());
}

/// Who may read, but not watch.
struct WithoutWatch;

impl Hook for WithoutWatch {
    fn before(&mut self, request: &Request, _: &ApiServer, _: Timestamp) -> Verdict {
        let message = "rollouts.sluice.dev is forbidden: User \"ada\" cannot watch it";
        let body =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": message});
        if request.is_watch() { Verdict::Answer(Response { status: 403, body: body.into() }) } else { Verdict::Pass }
    }
}

#[tokio::test(start_paused = true)]
async fn who_may_not_watch_is_told_which_right_is_missing() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    world.sim.set_hook(WithoutWatch);
    let error = status::run(&world.session, &waiting(), &mut Printed::default().out()).await.unwrap_err().to_string();
    assert!(error.contains("not allowed to watch") && error.contains("Role with the verb \"watch\""), "{error}");
}

/// Breaks the first connections.
struct Flaky(usize);

impl Hook for Flaky {
    fn before(&mut self, request: &Request, _: &ApiServer, _: Timestamp) -> Verdict {
        if !request.is_watch() || self.0 == 0 {
            return Verdict::Pass;
        }
        self.0 -= 1;
        Verdict::Lose
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_told_and_tried_again() {
    let world = World::new().await;
    world.at_step(1, "Paused").await;
    world.sim.set_hook(Flaky(3));
    let (mut printed, args) = (Printed::default(), waiting());
    let mut out = printed.out();
    let promote = async {
        tokio::time::sleep(std::time::Duration::from_secs(300)).await;
        world.healthy("7f9b").await;
    };
    let (exit, ()) = tokio::join!(status::run(&world.session, &args, &mut out), promote);
    assert_eq!(exit.unwrap(), Exit::Ok);
    assert!(
        printed.notes().contains("cannot reach the cluster at https://sim") && printed.notes().contains("(trying again)"),
        "{}",
        printed.notes()
    );
}
