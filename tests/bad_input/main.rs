//! Bad input: whatever manifest comes, somebody says which field is wrong and how to mend it, nothing that runs changes, and the mended
//! manifest leads back to Healthy. The cases are the YAML files beside this one; who refuses each, and in which words, is in `snapshots`.
#![cfg(feature = "sim")]

mod cases;
mod mutations;
#[allow(dead_code)]
#[path = "../rollouts/shop.rs"]
mod shop;
mod trial;
mod unreadable;

use std::panic::AssertUnwindSafe;

use cases::{Case, cases, good};
use serde_json::{Value, json};
use shop::Shop;
use sluice::world::Watched;
use trial::{Answer, Running, says, submit};

/// Tries every case, and writes down who refuses it, and how.
fn told(cases: Vec<Case>, mut attempt: impl FnMut(&Case) -> Answer) -> String {
    let (mut text, mut unclear, mut failed) = (String::new(), vec![], vec![]);
    for case in cases {
        let Ok(answer) = std::panic::catch_unwind(AssertUnwindSafe(|| attempt(&case))) else {
            failed.push(case.name);
            continue;
        };
        let line = format!("{}\n  {}: {}\n", case.name, answer.who, answer.message);
        if answer.who == "nobody" || !case.fields.iter().any(|field| answer.message.contains(field)) {
            unclear.push(line.clone());
        }
        text.push_str(&line);
    }
    assert!(failed.is_empty(), "these fail, for the reasons above: {failed:#?}");
    assert!(unclear.is_empty(), "nobody refuses these, or the field is not named:\n{}", unclear.concat());
    text
}

/// The good Rollout runs, and is at rest.
fn at_rest() -> Shop {
    let mut shop = Shop::without_rollout();
    shop.apply(Watched::Rollout, good("rollout"));
    shop.until("taken over", |s| s.is_healthy("api"));
    shop
}

/// A rollout of v2 waits for a person at 50 %.
fn halfway() -> Shop {
    let mut shop = at_rest();
    shop.deploy("app:v2");
    shop.until("at 50 %", waits_halfway);
    shop
}

fn waits_halfway(shop: &Shop) -> bool {
    shop.phase() == "Paused" && shop.weight() == 50.0
}

/// Promotes v2, if it was deployed.
fn ends_healthy(shop: &mut Shop) {
    let v2 = shop.get(Watched::Deployment, "api")["spec"]["template"]["spec"]["containers"][0]["image"] == "app:v2";
    if v2 {
        shop.until("waits for a person", waits_halfway);
        shop.command("Promote");
    }
    shop.until("healthy again", |s| s.is_healthy("api") && (!v2 || s.image_that_serves() == "app:v2"));
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}", shop.drive.promises.broken);
}

/// A bad edit of the good Rollout, which is at rest or waits in the middle of a rollout.
#[test]
fn a_bad_edit_of_a_rollout_is_refused_and_changes_nothing() {
    let (rest, half, good) = (at_rest(), halfway(), good("rollout"));
    let text = told(cases("rollout-edited"), |case| {
        let mut shop = half.clone();
        let before = Running::of(&shop);
        if let Some(refused) = submit(&mut shop, case.edited(&good)) {
            return refused;
        }
        shop.wait(30);
        before.stands(&shop, &case.name);
        shop.apply(Watched::Rollout, good.clone());
        shop.until("goes on where it was", waits_halfway);
        assert!(shop.drive.promises.broken.is_empty(), "{}: {:#?}", case.name, shop.drive.promises.broken);

        let mut shop = rest.clone();
        let answer = trial::rollout(&mut shop, case, case.edited(&good));
        shop.apply(Watched::Rollout, good.clone());
        ends_healthy(&mut shop);
        answer
    });
    insta::assert_snapshot!("rollout_edited", text);
}

#[test]
fn a_bad_new_rollout_is_refused_and_takes_nothing_over() {
    let (start, good) = (Shop::without_rollout(), good("rollout"));
    let text = told(cases("rollout-new"), |case| {
        let mut shop = start.clone();
        let bad = case.edited(&good);
        let answer = trial::rollout(&mut shop, case, bad.clone());
        if answer.who == "API server" {
            return answer;
        }
        trial::mend(&mut shop, bad["metadata"]["name"].as_str().unwrap(), &good);
        ends_healthy(&mut shop);
        answer
    });
    insta::assert_snapshot!("rollout_new", text);
}

/// A second Rollout beside the good one.
#[test]
fn a_second_rollout_for_the_same_is_refused_and_does_the_first_no_harm() {
    let (rest, good) = (at_rest(), good("rollout"));
    let text = told(cases("rollout-second"), |case| {
        let mut shop = rest.clone();
        let mut second = good.clone();
        second["metadata"]["name"] = json!("second");
        let before = Running::of(&shop);
        let answer = submit(&mut shop, case.edited(&second)).unwrap_or_else(|| {
            shop.wait(60);
            says(&shop, "second")
        });
        before.stands(&shop, &case.name);
        assert!(shop.is_healthy("api"));
        answer
    });
    insta::assert_snapshot!("rollout_second", text);
}

/// The Rollout is good; what it names does not fit.
#[test]
fn what_does_not_fit_around_a_rollout_is_named_and_mending_it_is_enough() {
    let rest = at_rest();
    let text = told(cases("surroundings"), |case| {
        let mut shop = rest.clone();
        let before: Vec<(Watched, &str, Value)> =
            case.objects().into_iter().map(|(kind, name)| (kind, name, shop.get(kind, name))).collect();
        let refused = before.iter().find_map(|(kind, _, live)| trial::replace(&mut shop, *kind, case.edited_part(live)));
        let answer = refused.unwrap_or_else(|| {
            let before = Running::of(&shop);
            trial::deployed(&mut shop, &before, case)
        });
        for (kind, name, live) in &before {
            trial::put_spec_back(&mut shop, *kind, name, live);
        }
        shop.drive.promises.broken.clear(); // a Service or route that does not fit breaks some by itself
        ends_healthy(&mut shop);
        answer
    });
    insta::assert_snapshot!("surroundings", text);
}

#[test]
fn a_bad_template_is_refused_or_holds_the_rollout_until_it_is_mended() {
    for (file, kind) in [("analysistemplate", Watched::AnalysisTemplate), ("clusteranalysistemplate", Watched::ClusterAnalysisTemplate)] {
        let template = good(file);
        let mut rest = Shop::without_rollout();
        let mut rollout = good("rollout");
        let analysis = json!({"templates": [{"kind": template["kind"], "name": "checks"}], "args": [{"name": "job", "value": "api"}]});
        rollout["spec"]["strategy"]["canary"]["analysis"] = analysis;
        rollout["spec"]["strategy"]["canary"]["steps"] = json!([{"setWeight": 50}, {"pause": {}}]);
        trial::apply(&mut rest, kind, template.clone()).unwrap();
        rest.apply(Watched::Rollout, rollout);
        rest.until("taken over", |s| s.is_healthy("api"));
        let text = told(cases(file), |case| {
            let mut shop = rest.clone();
            let before = Running::of(&shop);
            if let Some(refused) = submit(&mut shop, case.edited(&template)) {
                return refused;
            }
            let answer = trial::deployed(&mut shop, &before, case);
            trial::apply(&mut shop, kind, template.clone()).unwrap();
            shop.until("goes on", waits_halfway);
            if kind == Watched::ClusterAnalysisTemplate {
                ends_healthy(&mut shop);
            }
            answer
        });
        insta::assert_snapshot!(file, text);
    }
}

#[test]
fn a_bad_run_is_refused_or_says_what_is_wrong_with_it() {
    let (rest, run) = (at_rest(), good("analysisrun"));
    let text = told(cases("analysisrun"), |case| {
        let mut shop = rest.clone();
        let before = Running::of(&shop);
        let live = case.of_live.then(|| trial::apply(&mut shop, Watched::AnalysisRun, run.clone()));
        assert!(live.is_none_or(|done| done.is_ok()));
        let answer = submit(&mut shop, case.edited(&run)).unwrap_or_else(|| {
            shop.wait(60);
            let status = &shop.get(Watched::AnalysisRun, "by-hand")["status"];
            let who = if status["phase"] == "Running" || status["phase"] == "Passed" { "nobody" } else { "AnalysisRun" };
            Answer::new(who, status["message"].as_str().unwrap_or_default())
        });
        before.stands(&shop, &case.name);
        answer
    });
    insta::assert_snapshot!("analysisrun", text);
}

#[test]
fn a_bad_command_is_refused_and_leaves_the_rollout_where_it_is() {
    let half = halfway();
    let status = half.status("api");
    let mut action = good("rolloutaction");
    action["spec"]["revision"] = status["canaryRevision"].clone();
    let text = told(cases("rolloutaction"), |case| {
        let mut shop = half.clone();
        let before = Running::of(&shop);
        let live = case.of_live.then(|| {
            trial::apply(
                &mut shop,
                Watched::RolloutAction,
                json!({"apiVersion": action["apiVersion"],
            "kind": action["kind"], "metadata": action["metadata"], "spec": {"rollout": "nobody", "verb": "Pause", "revision": "x"}}),
            )
        });
        assert!(live.is_none_or(|done| done.is_ok()));
        let mut bad = case.edited(&action);
        if bad["spec"]["toRevision"] == "(the same)" {
            bad["spec"]["toRevision"] = action["spec"]["revision"].clone();
        }
        let answer = submit(&mut shop, bad).unwrap_or_else(|| {
            shop.wait(60);
            let status = &shop.get(Watched::RolloutAction, "do")["status"];
            let who = if status["outcome"] == "Refused" { "RolloutAction" } else { "nobody" };
            Answer::new(who, status["message"].as_str().unwrap_or("it has no outcome"))
        });
        before.stands(&shop, &case.name);
        assert!(waits_halfway(&shop));
        Answer { message: answer.message.replace(status["canaryRevision"].as_str().unwrap(), "CANARY"), ..answer }
    });
    insta::assert_snapshot!("rolloutaction", text);
}
