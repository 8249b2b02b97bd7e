//! The plugin and the controller together, on the simulated cluster under a paused clock: what the one asks for, the other does.
#![cfg(feature = "sim")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice::{
    api::{self, Verb},
    cli::{action, error::Exit, get, history, output::Out, printer::Style, release, session::Session, set, status, why},
    controller::Controller,
    core::{Settings, analysis::Measured, judge::Sample},
    lease::Claim,
    metrics::{Measure, MeasureRequest},
    sim::{Options, SimCluster},
    telemetry::Telemetry,
    world::World,
};

/// Every metric is 100, or 12.5 once the canary is bad.
#[derive(Clone, Default)]
struct Judge(Arc<AtomicBool>);

#[async_trait]
impl Measure for Judge {
    fn has_prometheus(&self) -> bool {
        true
    }

    async fn measure(&self, _: &MeasureRequest<'_>) -> Measured {
        let value = if self.0.load(Ordering::Relaxed) { 12.5 } else { 100.0 };
        Measured { queries: vec!["the query as sent".into()], result: Ok(Some(Sample::of(value))), since: None, reading: None, look: None }
    }
}

/// The example's app and Rollout under the controller, and someone who types commands.
struct Desk {
    sim: SimCluster,
    session: Session,
    judge: Judge,
    controller: tokio::task::JoinHandle<()>,
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.controller.abort();
    }
}

/// What a command has printed, and its exit code.
struct Printed {
    exit: Exit,
    out: String,
    notes: String,
}

macro_rules! typed {
    ($out:ident => $command:expr) => {{
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let style = Style { colour: false, wide: false, zone: jiff::tz::TimeZone::UTC };
        let $out = &mut Out { out: &mut out, err: &mut err, style, columns: None };
        let exit = $command.await.unwrap();
        Printed { exit, out: String::from_utf8(out).unwrap(), notes: String::from_utf8(err).unwrap() }
    }};
}

impl Desk {
    async fn new() -> Self {
        let sim = SimCluster::start(Options::default());
        for crd in api::crds() {
            sim.install_crd(serde_json::to_value(crd).unwrap()).unwrap();
        }
        let (judge, handle) = (Judge::default(), sim.handle().clone());
        let settings = Settings { prometheus_address: Some("http://prometheus".into()) };
        let (client, measure) = (sim.client("sluice"), Arc::new(judge.clone()));
        let controller = Controller::new(
            client,
            World::default(),
            Claim::always(),
            settings,
            measure,
            Telemetry::default(),
            Arc::new(move || handle.now()),
        );
        let session = Session { client: sim.client("ada"), namespace: "shop".into(), url: "https://sim".into() };
        let desk = Self { controller: tokio::spawn(controller.run()), sim, session, judge };
        desk.create("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}").await;
        desk.create(include_str!("../examples/app.yaml")).await;
        desk.create(include_str!("../examples/rollout.yaml")).await;
        desk.until("taken over", |status| status["phase"] == "Healthy").await;
        desk
    }

    async fn create(&self, yaml: &str) {
        for document in serde_yaml_ng::Deserializer::from_str(yaml) {
            let object: DynamicObject = serde_json::from_value(Value::deserialize(document).unwrap()).unwrap();
            let types = object.types.clone().unwrap();
            let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
            let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, &types.kind));
            let api: Api<DynamicObject> = match types.kind.as_str() {
                "Namespace" => Api::all_with(self.session.client.clone(), &resource),
                _ => Api::namespaced_with(self.session.client.clone(), "shop", &resource),
            };
            api.create(&PostParams::default(), &object).await.unwrap();
        }
    }

    fn status(&self) -> Value {
        self.sim.get("rollouts.sluice.dev", "shop", "api").unwrap_or_default()["status"].clone()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) {
        let reached = tokio::time::timeout(Duration::from_secs(1800), self.sim.until(|_| holds(&self.status()))).await;
        assert!(reached.is_ok(), "{what}: not reached; the Rollout says {:#}", self.status());
    }

    async fn set_image(&self, image: &str) {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        let api: Api<k8s_openapi::api::apps::v1::Deployment> = self.session.api();
        api.patch("api", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    }

    /// At the first pause of the new version.
    async fn at_pause(&self, image: &str) {
        self.set_image(image).await;
        self.until("the first pause", |status| status["phase"] == "Paused" && status["currentStep"]["index"] == 1).await;
    }

    async fn command(&self, verb: Verb) -> Printed {
        let args = action::Args { name: "api".into(), reason: Some("trying".into()), timeout: "30s".parse().unwrap(), output: None };
        typed!(out => action::run(&self.session, verb, &args, out))
    }

    async fn wait_for(&self, image: &str) -> Printed {
        let args = status::Args {
            name: "api".into(),
            watch: true,
            for_image: Some(image.into()),
            for_revision: None,
            timeout: Some("30m".parse().unwrap()),
            output: None,
        };
        typed!(out => status::run(&self.session, &args, out))
    }

    async fn tree(&self) -> String {
        let args = get::Args { name: "api".into(), output: None };
        typed!(out => get::run(&self.session, &args, self.sim.now(), out)).out
    }

    async fn why(&self) -> String {
        typed!(out => why::run(&self.session, &why::Args { name: "api".into(), output: None }, self.sim.now(), out)).out
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_waits_for_the_image_that_it_has_just_pushed() {
    let desk = Desk::new().await;
    let (printed, ()) = tokio::join!(desk.wait_for("app:v2"), desk.set_image("app:v2"));
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.notes);
    assert!(printed.out.starts_with("Healthy: revision "), "{}", printed.out);
    assert!(printed.notes.starts_with("waiting for the Rollout to go to image app:v2"), "{}", printed.notes);
    for step in ["step 1/6", "step 2/6", "canary 5 %", "canary 25 %", "canary 50 %", "canary 100 %"] {
        assert!(printed.notes.contains(step), "{step} is missing in\n{}", printed.notes);
    }
}

#[tokio::test(start_paused = true)]
async fn promote_ends_the_pause_at_once_and_full_ends_them_all() {
    let desk = Desk::new().await;
    desk.at_pause("app:v2").await;
    let printed = desk.command(Verb::Promote).await;
    assert_eq!((printed.exit, printed.out.as_str()), (Exit::Ok, "✔ done: the pause of step 2 is over\n"));
    desk.until("the next step", |status| status["currentStep"]["index"] == 2).await;
    assert_eq!(desk.command(Verb::PromoteFull).await.exit, Exit::Ok);
    assert!(desk.tree().await.contains("full promotion: no more pauses and analysis"));
    assert_eq!(desk.wait_for("app:v2").await.exit, Exit::Ok);
    let printed = desk.command(Verb::Abort).await;
    assert_eq!(printed.exit, Exit::Error, "nothing is running any more");
    assert!(printed.notes.contains("✖ refused: no rollout is running"), "{}", printed.notes);
}

#[tokio::test(start_paused = true)]
async fn pause_holds_the_rollout_until_resume() {
    let desk = Desk::new().await;
    desk.at_pause("app:v2").await;
    assert_eq!(desk.command(Verb::Pause).await.exit, Exit::Ok);
    tokio::time::sleep(Duration::from_secs(3600)).await; // virtual: the timed pause is long over
    assert_eq!(desk.status()["currentStep"]["index"], 1);
    assert!(desk.why().await.contains("paused by ada"), "{}", desk.why().await);
    assert_eq!(desk.command(Verb::Resume).await.exit, Exit::Ok);
    assert_eq!(desk.wait_for("app:v2").await.exit, Exit::Ok);
}

#[tokio::test(start_paused = true)]
async fn abort_takes_it_back_and_retry_starts_it_again() {
    let desk = Desk::new().await;
    desk.at_pause("app:v2").await;
    assert_eq!(desk.command(Verb::Abort).await.exit, Exit::Ok);
    let printed = desk.wait_for("app:v2").await;
    assert_eq!(printed.exit, Exit::Failed, "{}", printed.notes);
    assert!(printed.notes.contains("kubectl sluice retry api -n shop"), "{}", printed.notes);
    let why = desk.why().await;
    assert!(why.contains("The reason: aborted by ada: trying") && why.contains("abort by ada (\"trying\"): done"), "{why}");
    assert_eq!(desk.command(Verb::Retry).await.exit, Exit::Ok);
    assert_eq!(desk.wait_for("app:v2").await.exit, Exit::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_analysis_takes_back_is_explained_by_query_number_and_limit() {
    let desk = Desk::new().await;
    desk.at_pause("app:v3").await;
    desk.judge.0.store(true, Ordering::Relaxed);
    assert_eq!(desk.wait_for("app:v3").await.exit, Exit::Failed);
    let (tree, why) = (desk.tree().await, desk.why().await);
    for part in ["app:v3", "the query as sent", "12.5 %", "at least 99 %"] {
        assert!(why.contains(part), "{part} is missing in\n{why}");
    }
    assert!(tree.contains("✖ success-rate  Fail  12.5 % is below the minimum of 99 %"), "{tree}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_version_is_told_when_another_one_comes() {
    let desk = Desk::new().await;
    desk.at_pause("app:v2").await;
    let (printed, ()) = tokio::join!(desk.wait_for("app:v2"), desk.set_image("app:v3"));
    assert_eq!(printed.exit, Exit::Superseded, "{}", printed.notes);
    assert!(printed.out.starts_with("image app:v2 is superseded: the Rollout went on to "), "{}", printed.out);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_set_is_rolled_out_and_stands_in_the_history() {
    let desk = Desk::new().await;
    let image = set::Image { name: "api".into(), images: vec!["app=app:v2".parse().unwrap()], output: None };
    let args = set::Args { what: set::What::Image(image) };
    assert_eq!(typed!(out => set::run(&desk.session, &args, out)).exit, Exit::Ok);
    assert_eq!(desk.wait_for("app:v2").await.exit, Exit::Ok);
    desk.until("at rest", |status| status["phase"] == "Healthy").await;
    let args = history::Args { name: "api".into(), output: None };
    let printed = typed!(out => history::run(&desk.session, &args, desk.sim.now(), out));
    assert!(printed.out.contains("serves  Promoted") && printed.out.contains("app:v2"), "{}", printed.out);
    assert!(printed.out.contains("Can be gone back to (kubectl sluice undo api -n shop --to-revision REVISION):"), "{}", printed.out);
}

impl Desk {
    /// Names of the pods that are there.
    fn pods(&self) -> Vec<String> {
        self.sim.list("pods", "shop").iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
    }

    async fn release(&self, yes: bool) -> Printed {
        let args = release::Args { name: Some("api".into()), all: false, all_namespaces: false, yes, timeout: "20m".parse().unwrap() };
        typed!(out => release::run_asking(&self.session, &args, None, out))
    }
}

#[tokio::test(start_paused = true)]
async fn release_gives_the_deployment_its_pods_back() {
    let desk = Desk::new().await;
    let before = desk.pods();
    let printed = desk.release(false).await;
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.notes);
    assert_eq!(printed.out, "✔ shop/api is released; Deployment api has its pods back\n");
    assert_eq!(desk.pods(), before, "no pod was restarted");
    assert_eq!(desk.sim.get("deployments.apps", "shop", "api").unwrap()["spec"]["paused"], Value::Null);
}

#[tokio::test(start_paused = true)]
async fn release_in_the_middle_of_a_rollout_says_how_to_go_on() {
    let desk = Desk::new().await;
    desk.at_pause("app:v2").await;
    let printed = desk.release(true).await;
    assert_eq!(printed.exit, Exit::Ok, "{}", printed.notes);
    assert!(printed.notes.contains("kubectl rollout resume deployment/api -n shop"), "{}", printed.notes);
    assert_eq!(desk.sim.get("deployments.apps", "shop", "api").unwrap()["spec"]["paused"], true);
}
