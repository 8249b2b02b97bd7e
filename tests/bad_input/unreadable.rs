//! Objects that the API server has let through by the CRDs of another version, and that this one cannot read.

use serde_json::{Value, json};
use sluice::{
    api,
    sim::{api::Request, drive::path},
    world::Watched,
};

use crate::{
    at_rest,
    cases::good,
    ends_healthy, halfway,
    shop::{NS, Shop},
    trial::{Running, apply, says},
    waits_halfway,
};

/// The CRDs of another version, that let anything be a spec.
fn with_other_crds(mut shop: Shop) -> Shop {
    for crd in api::crds() {
        let mut crd = serde_json::to_value(crd).unwrap();
        let schema = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        schema["properties"]["spec"] = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        schema.as_object_mut().unwrap().remove("x-kubernetes-validations");
        shop.drive.api.install_crd(crd, shop.drive.now).unwrap();
    }
    shop
}

/// The good manifest with another value at a place.
fn with(kind: &str, pointer: &str, value: Value) -> Value {
    let mut object = good(kind);
    *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind} has no {pointer}")) = value;
    object
}

#[track_caller]
fn is_invalid(shop: &Shop, field: &str) {
    let answer = says(shop, "api");
    assert_eq!(answer.who, "InvalidSpec", "{}", answer.message);
    assert!(answer.message.starts_with(&format!("{field}: ")), "{}", answer.message);
    assert!(answer.message.contains("correct it"), "{}", answer.message);
    let stalled = shop.status("api")["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Stalled" && c["status"] == "True");
    assert!(stalled);
}

const STEP: &str = "/spec/strategy/canary/steps/0/setWeight";
const ROUTE: &str = "/spec/traffic/routes/0/kind";

#[test]
fn a_rollout_that_cannot_be_read_says_so_and_changes_nothing_until_it_is_mended() {
    let (rest, half) = (with_other_crds(at_rest()), with_other_crds(halfway()));
    for (pointer, value, field) in [
        (STEP, json!("much"), "spec.strategy.canary.steps[0].setWeight"),
        (ROUTE, json!("UDPRoute"), "spec.traffic.routes[0].kind"),
        ("/spec/strategy", json!(1), "spec.strategy"),
    ] {
        let bad = with("rollout", pointer, value);
        for (start, is_halfway) in [(&rest, false), (&half, true)] {
            let mut shop = start.clone();
            let before = Running::of(&shop);
            shop.apply(Watched::Rollout, bad.clone());
            shop.until("said", |s| says(s, "api").who == "InvalidSpec");
            is_invalid(&shop, field);
            let writes = shop.drive.writes;
            shop.drive.crash();
            shop.wait(300);
            before.stands(&shop, field);
            // What is measured goes on, and is written down.
            assert!(is_halfway || shop.drive.writes == writes, "L2: {:#?}", shop.drive.tail());
            shop.apply(Watched::Rollout, good("rollout"));
            shop.until("goes on", |s| if is_halfway { waits_halfway(s) } else { s.is_healthy("api") });
            ends_healthy(&mut shop);
        }
    }
}

#[test]
fn a_canary_of_a_rollout_that_cannot_be_read_can_be_taken_back() {
    let mut shop = with_other_crds(halfway());
    shop.apply(Watched::Rollout, with("rollout", STEP, json!("much")));
    shop.until("said", |s| says(s, "api").who == "InvalidSpec");
    let abort = shop.command("Abort");
    shop.until("all traffic is on stable", |s| s.weight() == 0.0);
    shop.until("recorded", |s| s.outcome(&abort) == "Done");
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}", shop.drive.promises.broken);
}

#[test]
fn a_rollout_that_cannot_be_read_gives_its_workload_back_when_it_is_deleted() {
    let mut shop = with_other_crds(halfway());
    let pods = shop.pods("app:v1");
    shop.apply(Watched::Rollout, with("rollout", STEP, json!("much")));
    shop.until("said", |s| says(s, "api").who == "InvalidSpec");
    shop.send("DELETE", &path(Watched::Rollout, NS, "api"), "person", "application/json", json!({}));
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    shop.wait(60);
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}", shop.drive.promises.broken);
}

#[test]
fn a_deletion_waits_until_it_can_be_read_what_is_to_be_given_back() {
    let mut shop = with_other_crds(halfway());
    let (before, pods) = (Running::of(&shop), shop.pods("app:v1"));
    shop.apply(Watched::Rollout, with("rollout", ROUTE, json!("UDPRoute")));
    shop.until("said", |s| says(s, "api").who == "InvalidSpec");
    let abort = shop.command("Abort");
    shop.send("DELETE", &path(Watched::Rollout, NS, "api"), "person", "application/json", json!({}));
    shop.wait(60);
    before.stands(&shop, "deleted");
    is_invalid(&shop, "spec.traffic.routes[0].kind");
    assert_eq!(shop.outcome(&abort), "");
    shop.apply(Watched::Rollout, good("rollout"));
    shop.until("gone", |s| s.get(Watched::Rollout, "api").is_null());
    shop.wait(60);
    assert_eq!(shop.pods("app:v1"), pods, "no pod is restarted");
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}", shop.drive.promises.broken);
}

#[test]
fn a_service_stays_with_the_older_rollout_that_cannot_be_read() {
    let mut shop = with_other_crds(at_rest());
    shop.apply(Watched::Rollout, with("rollout", STEP, json!("much")));
    let before = Running::of(&shop);
    let mut second = good("rollout");
    second["metadata"]["name"] = json!("second");
    shop.apply(Watched::Rollout, second);
    shop.wait(60);
    before.stands(&shop, "a second Rollout");
    let answer = says(&shop, "second");
    assert!(answer.who == "InvalidSpec" && answer.message.contains("belongs to Rollout api already"), "{}", answer.message);
}

#[test]
fn a_template_that_cannot_be_read_is_named_by_the_rollout_that_uses_it() {
    let mut shop = Shop::without_rollout();
    let template = good("analysistemplate");
    let mut rollout = good("rollout");
    rollout["spec"]["strategy"]["canary"]["analysis"] = json!({"templates": [{"kind": "AnalysisTemplate", "name": "checks"}]});
    rollout["spec"]["strategy"]["canary"]["analysis"]["args"] = json!([{"name": "job", "value": "api"}]);
    rollout["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 50}, {"pause": {}}]);
    apply(&mut shop, Watched::AnalysisTemplate, template.clone()).unwrap();
    shop.apply(Watched::Rollout, rollout);
    shop.until("taken over", |s| s.is_healthy("api"));
    let mut shop = with_other_crds(shop);
    apply(&mut shop, Watched::AnalysisTemplate, with("analysistemplate", "/spec/metrics/0/name", json!(7))).unwrap();
    let pods = shop.pods("app:v1");
    shop.deploy("app:v2");
    shop.wait(60);
    let answer = says(&shop, "api");
    let words = "the analysis cannot start: AnalysisTemplate \"checks\": spec.metrics[0].name: this version of Sluice cannot read it";
    assert!(answer.who == "waits" && answer.message.starts_with(words), "{}", answer.message);
    assert_eq!(shop.pods("app:v1"), pods);
    apply(&mut shop, Watched::AnalysisTemplate, template).unwrap();
    shop.until("goes on", waits_halfway);
}

fn create(shop: &mut Shop, kind: Watched, object: &Value) {
    let request = Request {
        method: "POST".into(),
        path: path(kind, NS, ""),
        content_type: "application/json".into(),
        actor: "person".into(),
        body: object.clone(),
        ..Request::default()
    };
    let response = shop.drive.request(&request);
    assert_eq!(response.status, 201, "{:#}", response.body);
}

#[test]
fn a_command_that_cannot_be_read_is_refused_and_the_next_one_is_done() {
    let mut shop = with_other_crds(halfway());
    create(&mut shop, Watched::RolloutAction, &with("rolloutaction", "/spec/verb", json!("Rewind")));
    shop.until("refused", |s| s.outcome("do") == "Refused");
    let message = shop.get(Watched::RolloutAction, "do")["status"]["message"].clone();
    assert!(
        message.as_str().unwrap().starts_with("spec.verb: this version of Sluice cannot read it (unknown variant `Rewind`"),
        "{message}"
    );
    assert!(waits_halfway(&shop));
    shop.command("Promote");
    shop.until("promoted", |s| s.is_healthy("api") && s.image_that_serves() == "app:v2");
}

#[test]
fn a_run_that_cannot_be_read_ends_inconclusive_and_says_why() {
    let mut shop = with_other_crds(at_rest());
    create(&mut shop, Watched::AnalysisRun, &with("analysisrun", "/spec/metrics/0/name", json!(7)));
    shop.until("ended", |s| s.get(Watched::AnalysisRun, "by-hand")["status"]["phase"] == "Inconclusive");
    let message = shop.get(Watched::AnalysisRun, "by-hand")["status"]["message"].clone();
    assert!(message.as_str().unwrap().starts_with("spec.metrics[0].name: this version of Sluice cannot read it"), "{message}");
    assert!(shop.is_healthy("api"));
}
