//! What is planned in one moment: a rollout that waits at 50 %, with one thing changed.

use std::sync::OnceLock;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::json;
use sluice::{
    api::{Outcome, Phase, RunPhase, Verb, keys},
    core::{
        Observed, Plan, Settings,
        observed::{ActionView, DryRun, Meta, Report, Rival},
        patch::Write,
        plan,
    },
};

use super::{halfway, shop::NS};

/// A rollout of v2 over v1 that waits for a person at 50 %.
pub fn waiting() -> (Observed, Timestamp) {
    static WAITING: OnceLock<(Observed, Timestamp)> = OnceLock::new();
    let waiting = WAITING.get_or_init(|| {
        let shop = halfway();
        (shop.drive.observed(NS, "api").unwrap(), shop.drive.now)
    });
    waiting.clone()
}

pub fn planned(obs: &Observed, now: Timestamp) -> Plan {
    plan(obs, &Settings { prometheus_address: Some("http://prometheus".into()) }, now)
}

fn words(plan: &Plan) -> Vec<&str> {
    plan.actions.iter().map(|action| action.what.as_str()).collect()
}

fn canary(obs: &Observed) -> String {
    obs.rollout.status.canary_revision.clone().unwrap()
}

fn stable(obs: &Observed) -> String {
    obs.rollout.status.stable_revision.clone().unwrap()
}

fn command(obs: &mut Observed, verb: Verb, revision: &str, step: i32) {
    let spec = json!({"rollout": "api", "verb": verb, "revision": revision, "step": step, "requestedBy": "ann"});
    let meta = Meta { name: "do".into(), uid: "a1".into(), ..Meta::default() };
    obs.actions =
        vec![ActionView { meta, spec: serde_json::from_value(spec).unwrap(), status: serde_json::from_value(json!({})).unwrap() }];
}

fn fail_the_analysis(obs: &mut Observed) {
    obs.runs.iter_mut().for_each(|run| run.status.phase = RunPhase::Failed);
}

const BACK: &str = "take all traffic of shop back to stable, and reject";

/// What is changed in the world, and how.
type Case = (&'static str, fn(&mut Observed));

#[test]
fn the_plan_of_a_world_at_rest_is_empty() {
    let shop = super::Shop::open();
    let obs = shop.drive.observed(NS, "api").unwrap();
    let plan = planned(&obs, shop.drive.now + SignedDuration::from_hours(1000));
    assert_eq!((plan.actions, plan.wake_at, plan.events), (vec![], None, vec![]));
    assert_eq!(plan.status, obs.rollout.status);
}

#[test]
fn a_rollout_that_waits_for_a_person_writes_nothing() {
    let (obs, now) = waiting();
    let plan = planned(&obs, now + SignedDuration::from_hours(1000));
    assert_eq!((words(&plan), plan.wake_at), (vec![], None));
    assert_eq!(plan.status.phase, Some(Phase::Paused));
}

#[test]
fn an_abort_moves_traffic_before_anything_else_whatever_else_is_wrong() {
    let healthy = waiting().0;
    let wrong: [Case; 7] = [
        ("nothing", |_| ()),
        ("the gateway refuses the route", |obs| {
            obs.routes[0].parents[0].accepted = Some(Report { status: false, message: "no".into(), observed_generation: 1 });
        }),
        ("the Deployment is gone", |obs| obs.workload = None),
        ("the Service is gone", |obs| obs.service = None),
        ("the canary Service is gone", |obs| obs.canary_service = None),
        ("the spec is invalid", |obs| {
            obs.rival = Some(Rival { rollout: "older".into(), field: "spec.workloadRef", what: "Deployment api".into() })
        }),
        ("the next template is refused", |obs| {
            obs.workload.as_mut().unwrap().template["spec"]["containers"][0]["image"] = json!("");
            obs.dry_run = Some(DryRun::Refused("image: Required value".into()));
        }),
    ];
    for (what, break_it) in wrong {
        for by_command in [true, false] {
            let mut obs = healthy.clone();
            let now = waiting().1;
            break_it(&mut obs);
            match by_command {
                true => command(&mut obs, Verb::Abort, &canary(&healthy), 0),
                false => fail_the_analysis(&mut obs),
            }
            let plan = planned(&obs, now);
            assert!(words(&plan)[0].starts_with(BACK), "{what}, by command: {by_command}: {:?}", words(&plan));
            let Write::Patch { ops, .. } = &plan.actions[0].write else { panic!("{:?}", plan.actions[0]) };
            assert!(!ops.iter().any(|op| op["path"] == "/metadata/resourceVersion"), "S2: no resourceVersion is tested: {ops:?}");
            assert_eq!(plan.status.rejected[0].revision, canary(&healthy), "{what}");
            assert!(plan.status.current_step.is_none() && plan.status.hold.is_none());
        }
    }
}

#[test]
fn a_canary_without_ready_pods_gets_no_traffic() {
    let (mut obs, now) = waiting();
    let canary = canary(&obs);
    obs.pods.iter_mut().filter(|pod| pod.hash == canary).for_each(|pod| pod.ready = false);
    let plan = planned(&obs, now);
    assert!(words(&plan)[0].starts_with("give the canary 0 %"), "{:?}", words(&plan));
    assert!(plan.status.message.contains("0 of 2 ready"), "{}", plan.status.message);
}

#[test]
fn nothing_gives_the_canary_more_while_a_condition_for_it_is_missing() {
    let missing: [Case; 5] = [
        ("a pod", |obs| {
            let canary = canary(obs);
            obs.pods.iter_mut().find(|pod| pod.hash == canary).unwrap().ready = false;
        }),
        ("an endpoint", |obs| obs.canary_service.as_mut().unwrap().endpoints[0].ready = false),
        ("a verdict", |obs| obs.runs[0].status.metric_results[0].measurements.clear()),
        ("a person's word", |obs| obs.rollout.spec.paused = true),
        ("a conclusive analysis", |obs| obs.runs[0].status.phase = RunPhase::Inconclusive),
    ];
    for (what, take_away) in missing {
        let (mut obs, now) = waiting();
        // At the step that sets 75 %, with the pods for it.
        obs.rollout.status.current_step.as_mut().unwrap().index = 4;
        let canary = canary(&obs);
        let set = obs.replica_sets.iter_mut().find(|rs| rs.hash == canary).unwrap();
        (set.replicas, set.available, set.ready) = (3, 3, 3);
        let mut pod = obs.pods.iter().find(|pod| pod.hash == canary).unwrap().clone();
        pod.name = "third".into();
        obs.pods.push(pod);
        let service = obs.canary_service.as_mut().unwrap();
        let mut endpoint = service.endpoints[0].clone();
        endpoint.pod = "third".into();
        service.endpoints.push(endpoint);
        let later = now + SignedDuration::from_secs(5);
        obs.rollout.status.canary.as_mut().unwrap().weight_observed_at = Some(MicroTime(now - SignedDuration::from_secs(60)));
        let complete = planned(&obs, later);
        assert!(
            words(&complete).iter().any(|word| word.starts_with("give the canary 75 %")),
            "{:?} {}",
            words(&complete),
            complete.status.message
        );

        take_away(&mut obs);
        let plan = planned(&obs, later);
        assert!(!words(&plan).iter().any(|word| word.contains("75 %")), "without {what}: {:?}", words(&plan));
    }
}

#[test]
fn an_action_for_another_revision_or_step_is_refused_and_says_where_the_rollout_is() {
    let (obs, now) = waiting();
    let here = canary(&obs);
    let cases = [
        (Verb::Promote, "gone", 3, here.as_str()),
        (Verb::Abort, "gone", 3, &here),
        (Verb::Promote, &here, 1, "step 4"),
        (Verb::Retry, &here, 3, "nothing to retry"),
        (Verb::SkipStep, &here, 1, "step 4"),
        (Verb::Undo, &here, 3, "kubectl sluice abort api"),
    ];
    for (verb, revision, step, says) in cases {
        let mut obs = obs.clone();
        command(&mut obs, verb, revision, step);
        let plan = planned(&obs, now);
        let last = plan.status.last_action.unwrap();
        assert_eq!(last.outcome, Outcome::Refused, "{verb} {revision} {step}");
        assert!(last.message.contains(says), "{}", last.message);
        assert_eq!(plan.status.current_step, obs.rollout.status.current_step);
    }
}

#[test]
fn a_skipped_step_is_left_at_once_and_the_next_one_still_needs_its_pods_and_verdicts() {
    let (mut obs, now) = waiting();
    let here = canary(&obs);
    command(&mut obs, Verb::SkipStep, &here, 3);
    let plan = planned(&obs, now);
    assert_eq!(plan.status.last_action.as_ref().unwrap().outcome, Outcome::Done);
    assert_eq!(plan.status.current_step.as_ref().unwrap().index, 4);
    assert!(!words(&plan).iter().any(|word| word.contains("75 %")), "{:?}", words(&plan));
    let mut next = obs.clone();
    (next.rollout.status, next.actions) = (plan.status, vec![]);
    let plan = planned(&next, now);
    assert!(plan.status.message.contains("2 of 3 ready"), "S1: {}", plan.status.message);

    obs.rollout.status.current_step.as_mut().unwrap().index = 5;
    command(&mut obs, Verb::SkipStep, &here, 5);
    let last = planned(&obs, now).status.last_action.unwrap();
    assert!(last.outcome == Outcome::Refused && last.message.contains("all steps are done"), "{}", last.message);
}

#[test]
fn an_action_is_done_once() {
    let (mut obs, now) = waiting();
    let here = canary(&obs);
    command(&mut obs, Verb::Promote, &here, 3);
    let first = planned(&obs, now);
    assert_eq!(first.status.current_step.as_ref().unwrap().index, 4);
    obs.rollout.status = first.status.clone();
    let second = planned(&obs, now);
    assert!(words(&second).contains(&"record the outcome of Promote do"), "{:?}", words(&second));
    assert_eq!(second.status.last_action, first.status.last_action);
    assert_eq!(second.status.current_step.as_ref().unwrap().index, 4);
}

#[test]
fn a_template_set_back_to_stable_goes_home_at_once() {
    let (mut obs, now) = waiting();
    let stable = stable(&obs);
    let digest = obs.replica_sets.iter().find(|rs| rs.hash == stable).unwrap().digest.clone();
    let canary = canary(&obs);
    // Both ReplicaSets' templates swap their roles: what is asked for is what is stable.
    for rs in &mut obs.replica_sets {
        if rs.hash == canary {
            rs.digest = "another".into();
            rs.meta.annotations.remove(keys::TEMPLATE);
        } else if rs.hash == stable {
            let workload = obs.workload.as_ref().unwrap();
            rs.digest = sluice::core::revision::digest(&workload.template);
        }
    }
    assert_ne!(digest, obs.replica_sets.iter().find(|rs| rs.hash == stable).unwrap().digest);
    let plan = planned(&obs, now);
    assert!(words(&plan).iter().any(|word| word.starts_with("give the canary 0 %")), "{:?}", words(&plan));
    assert_eq!(plan.status.canary_revision, Some(stable));
}

#[test]
fn what_somebody_puts_back_in_the_middle_is_repaired_at_once() {
    let (mut obs, now) = waiting();
    obs.service.as_mut().unwrap().selector.remove(keys::POD_TEMPLATE_HASH);
    let pods = obs.canary_service.as_ref().unwrap().endpoints.clone();
    obs.service.as_mut().unwrap().endpoints.extend(pods);
    let plan = planned(&obs, now);
    assert_eq!(words(&plan)[0], format!("make Service api select revision {}", stable(&obs)), "the pin comes back");

    let (mut obs, now) = waiting();
    obs.routes[0].rules[0].refs = vec![json!({"name": "api", "port": 80, "weight": 1, "kind": "Service", "group": ""})];
    let plan = planned(&obs, now);
    assert!(words(&plan)[0].starts_with("give the canary 0 %"), "it enters at 0: {:?}", words(&plan));
}

#[test]
fn a_rejection_is_believed_from_the_route_alone_and_from_the_replica_set_alone() {
    let (mut obs, now) = waiting();
    let bad = canary(&obs);
    fail_the_analysis(&mut obs);
    let abort = planned(&obs, now);
    for write in 0..2 {
        // Only one of the writes took effect, and status is lost.
        let mut obs = waiting().0;
        obs.rollout.status = serde_json::from_value(json!({})).unwrap();
        match write {
            0 => {
                let Write::Patch { ops, .. } = &abort.actions[0].write else { panic!() };
                let record = ops.iter().find(|op| op["path"].as_str().unwrap().contains("routes.sluice.dev")).unwrap();
                obs.routes[0].meta.annotations.insert("routes.sluice.dev/api".into(), record["value"].as_str().unwrap().into());
                obs.routes[0].records = sluice::core::route::records(&obs.routes[0].meta);
            }
            _ => {
                let set = obs.replica_sets.iter_mut().find(|rs| rs.hash == bad).unwrap();
                set.meta.annotations.insert(keys::REJECTED.into(), "bad".into());
            }
        }
        let plan = planned(&obs, now);
        assert_eq!(plan.status.phase, Some(Phase::Aborted), "{}", plan.status.message);
        assert_eq!(plan.status.rejected[0].revision, bad);
        assert!(words(&plan)[0].starts_with(BACK), "{:?}", words(&plan));
    }
}

#[test]
fn a_deadline_counts_what_is_found_now_not_what_was_waited_for_before_a_downtime() {
    let (mut obs, now) = waiting();
    let since = MicroTime(now - SignedDuration::from_hours(5));
    let transition = obs.rollout.status.transition.as_mut().unwrap();
    (transition.since, transition.observed_at) = (since, None);
    let plan = planned(&obs, now);
    assert!(plan.status.rejected.is_empty(), "{}", plan.status.message);
}

#[test]
fn stable_keeps_the_pods_that_it_had_when_the_rollout_began() {
    let (mut obs, now) = waiting();
    obs.rollout.spec.replicas = Some(1);
    let stable = obs.replica_sets.iter().find(|rs| rs.hash == stable(&obs)).unwrap().meta.name.clone();
    let plan = planned(&obs, now);
    assert!(!words(&plan).iter().any(|word| word.contains(&format!("scale ReplicaSet {stable}"))), "S2: {:?}", words(&plan));
    obs.rollout.spec.replicas = Some(5);
    assert!(words(&planned(&obs, now)).contains(&format!("scale ReplicaSet {stable} from 3 to 5").as_str()));
}

#[test]
fn every_patch_names_the_object_that_was_seen_and_fences_other_leaders() {
    let (mut obs, now) = waiting();
    fail_the_analysis(&mut obs);
    for action in planned(&obs, now).actions {
        let Write::Patch { ops, .. } = &action.write else { continue };
        let tests = |path: &str| ops.iter().any(|op| op["op"] == "test" && op["path"] == path);
        assert!(tests("/metadata/uid"), "{action:?}");
        assert!(tests("/metadata/annotations/sluice.dev~1epoch") || tests("/metadata/resourceVersion"), "{action:?}");
    }
}

#[test]
fn a_new_leader_first_raises_the_epoch_on_everything_that_is_being_changed_but_an_abort_comes_before() {
    let (mut obs, now) = waiting();
    obs.epoch += 1;
    let plan = planned(&obs, now);
    let raised: Vec<&str> = words(&plan);
    for object in ["Service api ", "Service api-canary", "HTTPRoute shop", "ReplicaSet api-", "Rollout api"] {
        assert!(raised.iter().any(|word| word.starts_with(&format!("raise the epoch of {object}"))), "{object}: {raised:?}");
    }
    assert!(raised.iter().all(|word| word.starts_with("raise the epoch")), "{raised:?}");
    fail_the_analysis(&mut obs);
    assert!(words(&planned(&obs, now))[0].starts_with(BACK), "S2: abort never waits");
}
