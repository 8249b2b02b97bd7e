//! Promises about the whole course of a rollout: what it began with (S2), what its steps rest on (S8), and who serves in the end (S7).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::{ROLLOUTS, ROUTES, SETS, World, hash_of, is_ready, raised, share, text};
use crate::{
    api::keys,
    sim::api::{Change, Event},
};

const RUNS: &str = "analysisruns.sluice.dev";

/// What was seen of the Rollouts, by namespace and name.
#[derive(Clone, Default)]
pub struct Course {
    /// Pods that were wanted when the running rollout began.
    began_with: BTreeMap<Key, i64>,
    given: BTreeMap<Key, Given>,
    judged: BTreeMap<Key, Judged>,
}

type Key = (String, String);

/// The largest share that a running canary has been given, and since when it has it.
#[derive(Clone)]
struct Given {
    canary: Value,
    share: f64,
    since: Timestamp,
    /// A person has skipped the step that gives more, and with it what that waits for.
    skipped: bool,
}

/// The pods of a version that has been promoted, and that is on its way home.
#[derive(Clone)]
struct Judged {
    hash: String,
    /// Those that nobody else has taken away since.
    pods: BTreeSet<String>,
    /// The most that it has had since, those that were not ready or came later included: what is beyond those that are wanted, its ReplicaSet stops as it likes.
    all: usize,
    /// The fewest that were wanted since.
    wanted: i64,
}

impl Course {
    /// A committed write, and the namespace as it is after it.
    pub fn check(&mut self, world: &World, event: &Event) -> Vec<Result<(), String>> {
        let before = event.before.as_deref().unwrap_or(&Value::Null);
        let after = &*event.object;
        let ours = event.actor.as_ref() == crate::core::patch::MANAGER;
        match (&*event.kind, event.change) {
            (ROLLOUTS, Change::Modified) => {
                let found = match ours {
                    true => vec![
                        s2_a_rollout_begins_with_the_pods_for_everything(world, before, after),
                        s2_an_abort_moves_the_traffic_first(world, before, after),
                        s8_no_promotion_without_evidence(world, before, after),
                        s8_no_analysis_step_is_done_without_evidence(world, before, after),
                        self.s7_the_pods_that_were_judged_serve(world, before, after),
                    ],
                    false => vec![],
                };
                self.follow_rollout(world, before, after);
                found
            }
            (ROLLOUTS, Change::Deleted) => {
                self.forget(&key(after));
                vec![]
            }
            (SETS, Change::Modified) if ours => {
                vec![
                    self.s2_stable_keeps_the_pods_for_everything(world, before, after),
                    s2_a_rejection_is_marked_when_the_traffic_has_moved(world, before, after),
                ]
            }
            (kind, Change::Modified) if ours && ROUTES.contains(&kind) => {
                self.s8_no_more_traffic_without_evidence(world, before, after, event.at)
            }
            ("pods", _) if event.actor.as_ref() != "replicaset-controller" && leaves(event) => {
                let uid = text(&after["metadata"]["uid"]);
                for judged in self.judged.values_mut() {
                    judged.pods.remove(uid);
                }
                vec![]
            }
            _ => vec![],
        }
    }

    fn follow_rollout(&mut self, world: &World, before: &Value, after: &Value) {
        let key = key(after);
        let wanted = after["spec"]["replicas"].as_i64().unwrap_or(0);
        match (started(before), started(after)) {
            (was, Some(is)) if was != Some(is) => {
                // One that takes the place of another has what that had given the canary to take back.
                let most = self.began_with.entry(key.clone()).or_insert(wanted);
                *most = wanted.max(*most);
            }
            (_, Some(_)) => {}
            (_, None) => {
                self.began_with.remove(&key);
                self.given.remove(&key);
            }
        }
        if let Some(given) = self.given.get_mut(&key).filter(|_| skipped(before, after).is_some_and(gives_more)) {
            given.skipped = true;
        }
        if let Some(hash) = promoted(before, after) {
            let all: Vec<&Value> = world.all("pods").filter(|pod| hash_of(pod) == hash && !is_leaving(pod)).collect();
            let ready = all.iter().filter(|pod| is_ready(pod));
            let pods = ready.map(|pod| text(&pod["metadata"]["uid"]).to_owned()).collect();
            self.judged.insert(key.clone(), Judged { hash: hash.to_owned(), pods, all: all.len(), wanted });
        }
        if let Some(judged) = self.judged.get_mut(&key) {
            judged.wanted = judged.wanted.min(wanted);
            judged.all = judged.all.max(world.all("pods").filter(|pod| hash_of(pod) == judged.hash && !is_leaving(pod)).count());
        }
        let serves = &after["status"]["stableRevision"];
        if after["status"]["phase"] == "Healthy" || self.judged.get(&key).is_some_and(|judged| *serves != judged.hash.as_str()) {
            self.judged.remove(&key); // home, or taken back
        }
    }

    fn forget(&mut self, key: &Key) {
        self.began_with.remove(key);
        self.given.remove(key);
        self.judged.remove(key);
    }

    /// S2: while a rollout runs, stable keeps enough replicas to take everything: max(wanted now, wanted when the rollout began).
    fn s2_stable_keeps_the_pods_for_everything(&self, world: &World, before: &Value, after: &Value) -> Result<(), String> {
        let count = |set: &Value| set["spec"]["replicas"].as_i64().unwrap_or(1);
        let is_its_stable = |rollout: &&Value| rollout["status"]["stableRevision"] == hash_of(after).as_str();
        let rollout = rollout_of(world, after).filter(is_its_stable).filter(|rollout| started(rollout).is_some());
        let Some(rollout) = rollout.filter(|_| count(after) < count(before)) else { return Ok(()) };
        let wanted = rollout["spec"]["replicas"].as_i64().unwrap_or(0);
        let needed = wanted.max(self.began_with.get(&key(rollout)).copied().unwrap_or(0));
        match count(after) >= needed {
            true => Ok(()),
            false => Err(format!(
                "S2: stable is scaled from {} to {} while a rollout runs, {needed} take everything",
                count(before),
                count(after)
            )),
        }
    }

    /// S7: the pods that were judged are the pods that serve: at rest after a promotion they are all there, but those that somebody else
    /// took away, and those beyond what is wanted.
    fn s7_the_pods_that_were_judged_serve(&self, world: &World, before: &Value, after: &Value) -> Result<(), String> {
        let arrives = before["status"]["phase"] != "Healthy" && after["status"]["phase"] == "Healthy";
        let Some(judged) = self.judged.get(&key(after)).filter(|_| arrives) else { return Ok(()) };
        if after["status"]["stableRevision"] != judged.hash.as_str() {
            return Ok(()); // taken back
        }
        let here: BTreeSet<&str> = world.all("pods").filter(|pod| !is_leaving(pod)).map(|pod| text(&pod["metadata"]["uid"])).collect();
        let left = judged.pods.iter().filter(|uid| here.contains(uid.as_str())).count();
        let surplus = judged.all.saturating_sub(usize::try_from(judged.wanted).unwrap_or(0));
        let expected = judged.pods.len().saturating_sub(surplus);
        match left >= expected {
            true => Ok(()),
            false => Err(format!("S7: of {} pods that were judged {left} serve, {} are wanted", judged.pods.len(), judged.wanted)),
        }
    }

    /// S8: no step forward without evidence: a canary gets more than it ever had only when every metric of its background analysis has a
    /// Pass from a window in which it had what it has.
    fn s8_no_more_traffic_without_evidence(
        &mut self,
        world: &World,
        before: &Value,
        after: &Value,
        at: Timestamp,
    ) -> Vec<Result<(), String>> {
        let mut found = vec![];
        for rollout in world.rollouts() {
            let (Some(share), Some(started)) = (raised(rollout, before, after), started(rollout)) else { continue };
            let had = self.given.get(&key(rollout)).filter(|given| given.canary == *started);
            if had.is_some_and(|had| share <= had.share + 1e-9) {
                continue;
            }
            if let (Some(had), true) = (had.filter(|had| had.share > 0.0 && !had.skipped), asks_for_evidence(rollout)) {
                let run = newest_run(world, rollout, None);
                let missing = run.and_then(|run| unjudged(run, had.since));
                found.push(missing.map_or(Ok(()), |metric| {
                    Err(format!("S8: the canary gets {share} of the traffic without a Pass of {metric} at {}", had.share))
                }));
            }
            self.given.insert(key(rollout), Given { canary: started.clone(), share, since: at, skipped: false });
        }
        found
    }
}

/// S2: and it has them when the rollout begins.
fn s2_a_rollout_begins_with_the_pods_for_everything(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let begins = started(after).is_some() && started(before) != started(after);
    let stable = world.sets().find(|set| after["status"]["stableRevision"] == hash_of(set).as_str()).filter(|_| begins);
    let (has, wanted) = (stable.and_then(|set| set["spec"]["replicas"].as_i64()), after["spec"]["replicas"].as_i64());
    match has >= wanted || stable.is_none() {
        true => Ok(()),
        false => Err(format!("S2: a rollout begins while stable has {has:?} replicas, {wanted:?} are wanted")),
    }
}

/// S2: an abort is one write of each route and nothing else: the status tells of it when no route gives the canary anything.
fn s2_an_abort_moves_the_traffic_first(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let canary = &before["status"]["canary"]["revision"];
    let rejected =
        |rollout: &Value| rollout["status"]["rejected"].as_array().into_iter().flatten().any(|rejected| rejected["revision"] == *canary);
    let aborts = started(before).is_some() && rejected(after) && !rejected(before);
    if aborts { nothing_is_left_for_the_canary(world, after) } else { Ok(()) }
}

/// S2: likewise the mark on the canary's ReplicaSet.
fn s2_a_rejection_is_marked_when_the_traffic_has_moved(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let marked = |set: &Value| !set["metadata"]["annotations"][keys::REJECTED].is_null();
    let is_its_canary = |rollout: &&Value| rollout["status"]["canary"]["revision"] == hash_of(after).as_str();
    let rollout = rollout_of(world, after).filter(is_its_canary).filter(|rollout| started(rollout).is_some());
    match rollout.filter(|_| marked(after) && !marked(before)) {
        Some(rollout) => nothing_is_left_for_the_canary(world, rollout),
        None => Ok(()),
    }
}

/// A route as Git has it may list both Services, which select the same pods then: it was never split.
fn nothing_is_left_for_the_canary(world: &World, rollout: &Value) -> Result<(), String> {
    let record = format!("{}{}", keys::ROUTE_RECORD_PREFIX, text(&rollout["metadata"]["name"]));
    let is_split = |route: &Value| !route["metadata"]["annotations"][&record].is_null() || world.canary_hash(rollout).is_some();
    match world.routes_of(rollout).find(|route| is_split(route) && share(rollout, route) > 0.0) {
        Some(route) => Err(format!(
            "S2: the abort is written down while route {} gives the canary {}",
            text(&route["metadata"]["name"]),
            share(rollout, route)
        )),
        None => Ok(()),
    }
}

/// S8: no promotion whose analysis has no Pass with evidence.
fn s8_no_promotion_without_evidence(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let analysis = &after["spec"]["strategy"]["canary"]["analysis"];
    if promoted(before, after).is_none() || analysis.is_null() || is_full(before) {
        return Ok(());
    }
    let Some(run) = newest_run(world, before, None) else { return Err("S8: promoted without its background analysis".to_owned()) };
    unjudged(run, Timestamp::MIN).map_or(Ok(()), |metric| Err(format!("S8: promoted without a Pass of {metric}")))
}

/// S8: no analysis step is done without a Pass with evidence of each of its metrics. (Unless a person skips it.)
fn s8_no_analysis_step_is_done_without_evidence(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let index = |rollout: &Value| rollout["status"]["currentStep"]["index"].as_i64();
    let same = before["status"]["canary"]["steps"] == after["status"]["canary"]["steps"];
    let Some(was) = index(before).filter(|was| index(after).is_some_and(|is| is > *was)) else { return Ok(()) };
    let step = &after["spec"]["strategy"]["canary"]["steps"][usize::try_from(was).unwrap_or(0)];
    if started(before) != started(after) || !same || skipped(before, after).is_some() || is_full(after) || step["analysis"].is_null() {
        return Ok(());
    }
    let Some(run) = newest_run(world, before, Some(was)) else { return Err(format!("S8: step {was} is done without its analysis")) };
    unjudged(run, Timestamp::MIN).map_or(Ok(()), |metric| Err(format!("S8: step {was} is done without a Pass of {metric}")))
}

/// The step that a person skips by this write.
fn skipped<'a>(before: &Value, after: &'a Value) -> Option<&'a Value> {
    let action = &after["status"]["lastAction"];
    let skips = action["verb"] == "SkipStep" && action["uid"] != before["status"]["lastAction"]["uid"];
    let was = before["status"]["currentStep"]["index"].as_u64().filter(|_| skips)?;
    Some(&after["spec"]["strategy"]["canary"]["steps"][usize::try_from(was).unwrap_or(0)])
}

/// A step that gives the canary other requests than it had.
fn gives_more(step: &Value) -> bool {
    ["setWeight", "setHeaderRoute", "setMirrorRoute"].iter().any(|key| !step[key].is_null())
}

/// The metric of a run that has no Pass with evidence from after `since`, if one has none. A dry run counts for nothing; one that was
/// measured as often as it wants has said what it has to say; and an author may take no data for a Pass.
fn unjudged(run: &Value, since: Timestamp) -> Option<&str> {
    let passes = |measured: &Value| {
        let from = measured["since"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        measured["verdict"] == "Pass" && measured["value"].is_string() && from.is_some_and(|from| from >= since)
    };
    let is_judged = |metric: &Value| {
        let results = run["status"]["metricResults"].as_array().into_iter().flatten();
        let result = results.into_iter().find(|result| result["name"] == metric["name"]).unwrap_or(&Value::Null);
        let complete = result["phase"] == "Passed" && result["passed"].as_i64().unwrap_or(0) > 0;
        metric["dryRun"] == true
            || metric["onNoData"] == "Pass"
            || complete
            || result["measurements"].as_array().into_iter().flatten().any(passes)
    };
    let metrics = run["spec"]["metrics"].as_array().into_iter().flatten();
    metrics.into_iter().find(|metric| !is_judged(metric)).map(|metric| text(&metric["name"]))
}

/// The newest run that was made for the running rollout: of a step, or (`None`) in the background.
fn newest_run<'a>(world: &World<'a>, rollout: &Value, step: Option<i64>) -> Option<&'a Value> {
    let name = &rollout["metadata"]["name"];
    let canary = &rollout["status"]["canary"];
    let since = canary["startedAt"].as_str().and_then(|at| at.parse::<Timestamp>().ok())?.as_second();
    let made = |run: &Value| run["metadata"]["creationTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let runs = world.all(RUNS).filter(|run| run["metadata"]["labels"][keys::ROLLOUT] == *name);
    let runs = runs.filter(|run| run["spec"]["canaryHash"] == canary["revision"] && run["spec"]["step"].as_i64() == step);
    runs.filter(|run| made(run).is_some_and(|at| at.as_second() >= since)).max_by_key(|run| (made(run), text(&run["metadata"]["name"])))
}

/// When the canary of the rollout that runs began, if one runs.
fn started(rollout: &Value) -> Option<&Value> {
    let status = &rollout["status"];
    let canary = &status["canary"];
    let runs = !status["currentStep"].is_null() && !canary.is_null() && canary["revision"] != status["stableRevision"];
    Some(&canary["startedAt"]).filter(|_| runs)
}

/// The revision that a write promotes.
fn promoted<'a>(before: &Value, after: &'a Value) -> Option<&'a str> {
    let stable = after["status"]["stableRevision"].as_str()?;
    let takes_over = before["status"]["stableRevision"].as_str()? != stable && before["status"]["canary"]["revision"] == stable;
    takes_over.then_some(stable)
}

/// A background analysis has begun by the present step; an author may have taken it away meanwhile.
fn asks_for_evidence(rollout: &Value) -> bool {
    let analysis = &rollout["spec"]["strategy"]["canary"]["analysis"];
    let begins = analysis["startingStep"].as_i64().unwrap_or(0);
    !analysis.is_null() && !is_full(rollout) && rollout["status"]["currentStep"]["index"].as_i64().is_some_and(|index| index > begins)
}

/// A person has said: no more pauses and analysis.
fn is_full(rollout: &Value) -> bool {
    rollout["status"]["canary"]["promoteFull"] == true
}

fn rollout_of<'a>(world: &World<'a>, set: &Value) -> Option<&'a Value> {
    world.rollouts().find(|rollout| rollout["metadata"]["name"] == set["metadata"]["labels"][keys::ROLLOUT])
}

fn is_leaving(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// A pod is taken away by this write.
fn leaves(event: &Event) -> bool {
    let before = event.before.as_deref().unwrap_or(&Value::Null);
    !is_leaving(before) && (event.change == Change::Deleted || is_leaving(&event.object))
}

fn key(rollout: &Value) -> Key {
    (text(&rollout["metadata"]["namespace"]).to_owned(), text(&rollout["metadata"]["name"]).to_owned())
}
