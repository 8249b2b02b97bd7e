//! Sluice's promises as oracles: each function reads like its sentence, and is asked at every write. What it finds broken is a line in
//! [`Promises::broken`].

mod course;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{
    api::{ApiServer, Change, Event},
    controllers::Programmed,
};
use crate::api::keys;

const ROLLOUTS: &str = "rollouts.sluice.dev";
const ROUTES: [&str; 4] = [
    "httproutes.gateway.networking.k8s.io",
    "grpcroutes.gateway.networking.k8s.io",
    "tlsroutes.gateway.networking.k8s.io",
    "tcproutes.gateway.networking.k8s.io",
];
const SETS: &str = "replicasets.apps";
const SLICES: &str = "endpointslices.discovery.k8s.io";

/// Watches every write for a broken promise.
#[derive(Clone, Default)]
pub struct Promises {
    pub broken: Vec<String>,
    /// Whether a request that meets no pod counts: not where somebody else breaks the routes.
    pub lenient_about_requests: bool,
    /// Revisions that carry traffic now.
    carrying: BTreeSet<String>,
    /// When a revision last carried traffic, if it does no more.
    carried_until: BTreeMap<String, Timestamp>,
    /// What we had set a Service's selector to.
    selected: BTreeMap<String, Value>,
    course: course::Course,
}

impl Promises {
    /// A committed write, and the server as it is after it.
    pub fn check(&mut self, event: &Event, server: &ApiServer) {
        let world = World { server, namespace: text(&event.object["metadata"]["namespace"]).to_owned() };
        let before = event.before.as_deref().unwrap_or(&Value::Null);
        let after = &*event.object;
        let ours = event.actor.as_ref() == crate::core::patch::MANAGER;
        let mut found: Vec<Result<(), String>> = vec![];
        match (&*event.kind, event.change) {
            (kind, Change::Modified) if ours && ROUTES.contains(&kind) => {
                found.push(s1_no_write_gives_an_unready_or_unjudged_revision_more_traffic(&world, before, after));
                found.push(s3_abort_is_absorbing(&world, before, after));
                found.push(s9_only_what_is_ours_of_a_route(&world, before, after));
            }
            (ROLLOUTS, Change::Modified) if ours => found.push(s4_a_step_is_done_when_it_is_observed(&world, before, after)),
            (SETS, Change::Modified) if event.actor.as_ref() != "replicaset-controller" => {
                found.push(self.s5_nothing_that_carried_traffic_is_scaled_down(&world, before, after, event.at));
            }
            ("services", Change::Modified) if ours => {
                found.push(self.s6_what_a_service_selects_changes_only_at_weight_0(&world, before, after));
                found.push(s9_only_what_is_ours_of_a_service(before, after));
                if before["spec"]["selector"] != after["spec"]["selector"] {
                    self.selected.insert(text(&after["metadata"]["name"]).to_owned(), after["spec"]["selector"].clone());
                }
            }
            ("deployments.apps", Change::Modified) if ours => found.push(s9_only_what_is_ours_of_a_deployment(before, after)),
            _ => {}
        }
        found.append(&mut self.course.check(&world, event));
        for broken in found.into_iter().filter_map(Result::err) {
            let name = text(&after["metadata"]["name"]);
            self.broken.push(format!("{} {} {name} by {}: {broken}", event.at, event.kind, event.actor));
        }
        if matches!(&*event.kind, "services" | "pods") || ROUTES.contains(&&*event.kind) {
            self.follow_traffic(&world, event.at);
        }
    }

    fn follow_traffic(&mut self, world: &World, at: Timestamp) {
        let carrying = world.carrying();
        for hash in self.carrying.difference(&carrying) {
            self.carried_until.insert(hash.clone(), at);
        }
        self.carrying = carrying;
    }

    /// Every request meets a pod: what the data plane gives weight has endpoints, and their pods exist.
    pub fn data_plane(&mut self, programmed: &Programmed, server: &ApiServer, now: Timestamp) {
        if self.lenient_about_requests {
            return;
        }
        let pods: BTreeSet<&str> = server.list("pods").map(|pod| text(&pod["metadata"]["uid"])).collect();
        let rules = || programmed.routes.values().flat_map(|route| &route.rules);
        for (cluster, percent) in rules().flat_map(|rule| &rule.mirrors) {
            if programmed.clusters.get(cluster).is_none_or(Vec::is_empty) {
                self.broken.push(format!("{now} copies of requests fail: {} gets {percent} % but has no pods", cluster.1));
            }
        }
        let backends = rules().flat_map(|rule| &rule.backends);
        for backend in backends.filter(|backend| backend.weight > 0) {
            let endpoints = programmed.clusters.get(&backend.cluster).map(Vec::as_slice).unwrap_or_default();
            let gone = endpoints.iter().find(|endpoint| !pods.contains(endpoint.uid.as_str()));
            if endpoints.is_empty() || gone.is_some() {
                self.broken.push(format!(
                    "{now} requests fail: {} has weight {} but no pods ({gone:?} is gone)",
                    backend.cluster.1, backend.weight
                ));
            }
        }
    }

    /// S5: nothing that carried traffic is scaled down before its weight is 0 and the drain delay is over.
    fn s5_nothing_that_carried_traffic_is_scaled_down(
        &self,
        world: &World,
        before: &Value,
        after: &Value,
        at: Timestamp,
    ) -> Result<(), String> {
        let count = |set: &Value| set["spec"]["replicas"].as_i64().unwrap_or(1);
        let hash = hash_of(after);
        let of_set = |rollout: &&Value| rollout["metadata"]["name"] == after["metadata"]["labels"][keys::ROLLOUT]; // none: a Deployment's own
        let Some(rollout) = world.rollouts().find(of_set).filter(|_| count(after) < count(before)) else { return Ok(()) };
        let wanted = world.wanted(rollout).unwrap_or(i64::MAX);
        if count(after) >= wanted {
            return Ok(()); // fewer are wanted
        }
        if rollout["spec"]["traffic"].is_null() {
            // There is no weight: another revision must have the pods for everything, unless these serve nobody.
            let ready = |set: &Value| set["status"]["readyReplicas"].as_i64().unwrap_or(0);
            let full = |set: &Value| hash_of(set) != hash && ready(set) >= wanted;
            return match ready(before) == 0 || world.sets().any(full) {
                true => Ok(()),
                false => Err(format!(
                    "S5: scaled down from {} to {} while no other revision has {wanted} ready pods",
                    count(before),
                    count(after)
                )),
            };
        }
        if self.carrying.contains(&hash) {
            return Err(format!("S5: scaled down from {} to {} while it carries traffic", count(before), count(after)));
        }
        let drain = SignedDuration::from_secs(rollout["spec"]["traffic"]["drainSeconds"].as_i64().unwrap_or(30));
        match self.carried_until.get(&hash) {
            Some(until) if *until + drain > at => Err(format!("S5: scaled down {:?} after its last traffic", at.duration_since(*until))),
            _ => Ok(()),
        }
    }

    /// S6: what a Service selects changes only while every rule gives it weight 0 (observed), or when the change leaves its ready
    /// endpoints as they are, or restores what we had set.
    fn s6_what_a_service_selects_changes_only_at_weight_0(&self, world: &World, before: &Value, after: &Value) -> Result<(), String> {
        let name = text(&after["metadata"]["name"]);
        let (was, is) = (&before["spec"]["selector"], &after["spec"]["selector"]);
        let same_pods = || world.ready_pods(was) == world.ready_pods(is);
        let idle =
            || world.routes().all(|route| weight_of(route, name) == 0 && (weight_listed(route, name).is_none() || is_accepted(route)));
        if was == is || same_pods() || self.selected.get(name) == Some(is) || idle() || world.takes_out_what_was_let_in(was, is) {
            return Ok(());
        }
        Err(format!("S6: its selector changes from {was} to {is} while a rule gives it traffic"))
    }
}

/// S1: a write raises a non-stable weight only while that revision has ready endpoints and capacity for its new share, and its verdicts
/// so far are closed.
fn s1_no_write_gives_an_unready_or_unjudged_revision_more_traffic(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    for rollout in world.rollouts() {
        let Some(share) = raised(rollout, before, after) else { continue };
        let Some(hash) = world.canary_hash(rollout) else { continue };
        let wanted = rollout["spec"]["replicas"].as_f64().unwrap_or(1.0);
        let needed = (share * wanted - 1e-6).ceil().max(1.0) as usize;
        let selector = world.service(&canary_service(rollout)).map(|s| s["spec"]["selector"].clone()).unwrap_or_default();
        let ready = world.ready_pods(&selector).len();
        let endpoints = world.ready_endpoints(&canary_service(rollout));
        if ready < needed || endpoints < needed {
            return Err(format!("S1: {hash} gets {share} with {ready} pods and {endpoints} endpoints ready, {needed} needed"));
        }
        let runs = rollout["status"]["analysis"].as_array().into_iter().flatten().filter_map(|run| world.run(text(&run["name"])));
        let full = rollout["status"]["canary"]["promoteFull"] == true;
        let mut refused = runs.filter(|run| !full && matches!(text(&run["status"]["phase"]), "Failed" | "Inconclusive"));
        if let Some(run) = refused.next() {
            return Err(format!("S1: {hash} gets {share} although {} has {}", run["metadata"]["name"], run["status"]["phase"]));
        }
    }
    Ok(())
}

/// S3: while the template stays at an aborted revision, it never gets weight again.
fn s3_abort_is_absorbing(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    for rollout in world.rollouts() {
        let (Some(share), Some(hash)) = (raised(rollout, before, after), world.canary_hash(rollout)) else { continue };
        let marked = world.sets().any(|set| hash_of(set) == hash && set["metadata"]["annotations"].get(keys::REJECTED).is_some());
        if marked {
            return Err(format!("S3: {hash}, which is rejected, gets {share} of the traffic"));
        }
    }
    Ok(())
}

/// S4: a step is done when it is applied and observed: the route accepted at its generation by every parent that reports. (Unless a person
/// skips it, or the steps are edited: then the rollout goes on from another one.)
fn s4_a_step_is_done_when_it_is_observed(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let step = |rollout: &Value| rollout["status"]["currentStep"]["index"].as_u64();
    let (Some(was), Some(is)) = (step(before), step(after)) else { return Ok(()) };
    let of_canary = |key: &str| before["status"]["canary"][key] == after["status"]["canary"][key];
    let same = of_canary("startedAt") && of_canary("steps");
    let action = &after["status"]["lastAction"];
    let skipped = action["verb"] == "SkipStep" && action["uid"] != before["status"]["lastAction"]["uid"];
    if !same || is <= was || skipped || after["status"]["canary"]["promoteFull"] == true {
        return Ok(());
    }
    let steps = &after["spec"]["strategy"]["canary"]["steps"];
    let done = &steps[usize::try_from(was).unwrap_or(0)];
    s4_rules_stand(world, after, done, was)?;
    let Some(weight) = done["setWeight"].as_f64() else { return Ok(()) };
    // Of a Service that has no share in a route there is none to give.
    let has_share = |route: &&Value| weight_of(route, &service(after)) + weight_of(route, &canary_service(after)) > 0;
    for route in world.routes_of(after).filter(has_share) {
        let share = share(after, route);
        if (share * 100.0 - weight).abs() > 0.01 || !is_accepted(route) {
            return Err(format!("S4: step {was} (weight {weight}) is done at a share of {share}, accepted: {}", is_accepted(route)));
        }
    }
    Ok(())
}

/// A header or mirror route is done when every route has it, or has it no more, and that is accepted.
fn s4_rules_stand(world: &World, rollout: &Value, done: &Value, step: u64) -> Result<(), String> {
    let canary = canary_service(rollout);
    let (set, mirror) = match (done["setHeaderRoute"].as_object(), done["setMirrorRoute"].as_object()) {
        (Some(set), _) => (set, false),
        (_, Some(set)) => (set, true),
        _ => return Ok(()),
    };
    let on = set.get("match").is_some_and(|list| list != &json!([])) && set.get("percentage").is_none_or(|percent| percent != 0);
    for route in world.routes_of(rollout).filter(|route| rules(route).any(|rule| points_at(rule, &service(rollout)))) {
        let stands = rules(route).any(|rule| is_canary_rule(rule, &canary) && (mirrors_to(rule, &canary) > 0) == mirror);
        let shared = mirror && world.rollouts().count() > 1; // what another Rollout splits is not mirrored
        if (on && !stands && !shared) || !is_accepted(route) {
            return Err(format!("S4: step {step} ({set:?}) is done: it stands: {stands}, accepted: {}", is_accepted(route)));
        }
    }
    Ok(())
}

/// S9: of a route, the weights and the canary backend, in the shares of those rules that belong to `service`, and rules of our own. What
/// others have keeps its share exactly.
fn s9_only_what_is_ours_of_a_route(world: &World, before: &Value, after: &Value) -> Result<(), String> {
    let canaries: Vec<String> = world.rollouts().map(canary_service).collect();
    let theirs = |route: &'_ Value| -> Vec<Value> {
        rules(route).filter(|rule| !canaries.iter().any(|canary| is_canary_rule(rule, canary))).cloned().collect()
    };
    let strip = |route: &Value| {
        let mut spec = route["spec"].clone();
        spec["rules"] = Value::from(theirs(route));
        for rule in spec["rules"].as_array_mut().into_iter().flatten() {
            rule["backendRefs"] = Value::Null;
        }
        (spec, foreign(route, "labels"), foreign(route, "annotations"))
    };
    if strip(before) != strip(after) {
        return Err("S9: something besides backends has changed".to_owned());
    }
    let pairs: Vec<(String, String)> = world.rollouts().map(|r| (service(r), canary_service(r))).collect();
    // Whose a backend is: a Rollout's, or its own.
    let party = |backend: &Value| {
        let name = text(&backend["name"]);
        let pair = pairs.iter().find(|(service, canary)| service == name || canary == name);
        pair.map_or_else(|| without_weight(backend).to_string(), |(service, _)| service.clone())
    };
    let shares = |rule: &Value| {
        let mut shares: BTreeMap<String, u64> = BTreeMap::new();
        for backend in rule["backendRefs"].as_array().into_iter().flatten() {
            *shares.entry(party(backend)).or_default() += weight(backend);
        }
        shares
    };
    for (was, is) in theirs(before).iter().zip(&theirs(after)) {
        let (was, is) = (shares(was), shares(is));
        let (whole_was, whole_is) = (was.values().sum::<u64>(), is.values().sum::<u64>());
        if was.keys().ne(is.keys()) || was.iter().any(|(party, weight)| weight * whole_is != is[party] * whole_was) {
            return Err(format!("S9: shares change from {was:?} to {is:?}"));
        }
        if whole_is == 0 && whole_was > 0 {
            return Err("S1: the weights sum to 0".to_owned());
        }
    }
    Ok(())
}

/// S9: of a Service, the selector's hash.
fn s9_only_what_is_ours_of_a_service(before: &Value, after: &Value) -> Result<(), String> {
    let strip = |service: &Value| {
        let mut spec = service["spec"].clone();
        if let Some(selector) = spec["selector"].as_object_mut() {
            selector.remove(keys::POD_TEMPLATE_HASH);
        }
        (spec, foreign(service, "labels"), foreign(service, "annotations"))
    };
    if strip(before) == strip(after) { Ok(()) } else { Err("S9: something besides the selector's hash has changed".to_owned()) }
}

/// S9: of a Deployment, `replicas` and `paused`.
fn s9_only_what_is_ours_of_a_deployment(before: &Value, after: &Value) -> Result<(), String> {
    let strip = |deployment: &Value| {
        let mut spec = deployment["spec"].as_object().cloned().unwrap_or_default();
        spec.remove("replicas");
        spec.remove("paused");
        (spec, foreign(deployment, "labels"), foreign(deployment, "annotations"))
    };
    if strip(before) == strip(after) { Ok(()) } else { Err("S9: something besides replicas and paused has changed".to_owned()) }
}

/// G1: at rest, live equals Git: what was applied, and nothing of ours.
pub fn g1_at_rest_live_equals_git(live: &Value) -> Value {
    let mut object = live.clone();
    for key in ["resourceVersion", "generation", "managedFields"] {
        object["metadata"].as_object_mut().map(|metadata| metadata.remove(key));
    }
    object.as_object_mut().map(|object| object.remove("status"));
    object
}

/// The namespace of a write, as it is after it.
struct World<'a> {
    server: &'a ApiServer,
    namespace: String,
}

impl<'a> World<'a> {
    fn all(&self, kind: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let objects = self.server.list(kind).map(Arc::as_ref);
        let here: Vec<&Value> = objects.filter(|object| text(&object["metadata"]["namespace"]) == self.namespace).collect();
        here.into_iter()
    }

    fn rollouts(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.all(ROLLOUTS)
    }

    fn routes(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let all: Vec<&Value> = ROUTES.into_iter().flat_map(|kind| self.all(kind)).collect();
        all.into_iter()
    }

    fn sets(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.all(SETS)
    }

    fn routes_of(&self, rollout: &Value) -> impl Iterator<Item = &'a Value> + use<'a> {
        let references = rollout["spec"]["traffic"]["routes"].as_array().cloned().unwrap_or_default();
        self.routes().filter(move |route| references.iter().any(|r| r["kind"] == route["kind"] && r["name"] == route["metadata"]["name"]))
    }

    fn service(&self, name: &str) -> Option<&'a Value> {
        self.server.get("services", &self.namespace, name).map(Arc::as_ref)
    }

    fn run(&self, name: &str) -> Option<&'a Value> {
        self.server.get("analysisruns.sluice.dev", &self.namespace, name).map(Arc::as_ref)
    }

    /// How many pods are wanted: if the Rollout does not say, as many as its Deployment had when it was taken over.
    fn wanted(&self, rollout: &Value) -> Option<i64> {
        let had = || {
            let deployment = self.server.get("deployments.apps", &self.namespace, text(&rollout["spec"]["workloadRef"]["name"]))?;
            let record: Value = serde_json::from_str(deployment["metadata"]["annotations"][keys::WORKLOAD_RECORD].as_str()?).ok()?;
            record["replicas"].as_i64()
        };
        rollout["spec"]["replicas"].as_i64().or_else(had)
    }

    /// The revision that the canary Service selects, if it is not stable.
    fn canary_hash(&self, rollout: &Value) -> Option<String> {
        let selector = &self.service(&canary_service(rollout))?["spec"]["selector"];
        let hash = selector[keys::POD_TEMPLATE_HASH].as_str()?;
        (rollout["status"]["stableRevision"] != hash).then(|| hash.to_owned())
    }

    fn ready_pods(&self, selector: &Value) -> BTreeSet<&'a str> {
        self.all("pods").filter(|pod| selects(selector, pod) && is_ready(pod)).map(|pod| text(&pod["metadata"]["uid"])).collect()
    }

    /// A Service that somebody has put back (or made again) selects a Rollout's pods of several revisions: it loses those of all but one.
    fn takes_out_what_was_let_in(&self, was: &Value, is: &Value) -> bool {
        let (before, after) = (self.ready_pods(was), self.ready_pods(is));
        let ours: BTreeSet<String> = self.sets().filter(|set| set["metadata"]["labels"][keys::ROLLOUT].is_string()).map(hash_of).collect();
        let left = self.all("pods").filter(|pod| before.contains(text(&pod["metadata"]["uid"])) && !selects(is, pod));
        was[keys::POD_TEMPLATE_HASH].is_null()
            && !after.is_empty()
            && after.is_subset(&before)
            && left.map(hash_of).all(|hash| ours.contains(&hash))
    }

    fn ready_endpoints(&self, service: &str) -> usize {
        let slices = self.all(SLICES).filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service);
        slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten()).filter(|e| e["conditions"]["ready"] == true).count()
    }

    /// Revisions whose ready pods a route gives traffic.
    fn carrying(&self) -> BTreeSet<String> {
        let backends = self.routes().flat_map(rules).flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten());
        let mirrors = self.routes().flat_map(rules).flat_map(mirrors).map(|backend| text(&backend["name"]));
        let services: BTreeSet<&str> = backends.filter(|b| weight(b) > 0).map(|b| text(&b["name"])).chain(mirrors).collect();
        let selectors = services.into_iter().filter_map(|name| Some(&self.service(name)?["spec"]["selector"]));
        let ready = |selector| self.all("pods").filter(move |pod| selects(selector, pod) && is_ready(pod));
        selectors.flat_map(|selector| ready(selector).map(hash_of).collect::<Vec<_>>()).collect()
    }
}

fn selects(selector: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    selector.as_object().is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value))
}

/// Its own Ready condition, and not stopping.
fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null() && conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn hash_of(object: &Value) -> String {
    text(&object["metadata"]["labels"][keys::POD_TEMPLATE_HASH]).to_owned()
}

fn service(rollout: &Value) -> String {
    text(&rollout["spec"]["traffic"]["service"]).to_owned()
}

fn canary_service(rollout: &Value) -> String {
    rollout["spec"]["traffic"]["canaryService"].as_str().map_or_else(|| format!("{}-canary", service(rollout)), str::to_owned)
}

fn rules(route: &Value) -> impl Iterator<Item = &Value> {
    route["spec"]["rules"].as_array().into_iter().flatten()
}

fn weight(backend: &Value) -> u64 {
    backend["weight"].as_u64().unwrap_or(1)
}

fn without_weight(backend: &Value) -> Value {
    let mut backend = backend.as_object().cloned().unwrap_or_else(Map::new);
    backend.remove("weight");
    json!(backend)
}

/// The backends that get copies of a rule's requests.
fn mirrors(rule: &Value) -> impl Iterator<Item = &Value> {
    rule["filters"].as_array().into_iter().flatten().map(|filter| &filter["requestMirror"]["backendRef"]).filter(|b| b.is_object())
}

/// How many percent of a rule's requests are copied to a Service.
fn mirrors_to(rule: &Value, service: &str) -> u64 {
    let filters = rule["filters"].as_array().into_iter().flatten().map(|filter| &filter["requestMirror"]);
    filters.filter(|m| m["backendRef"]["name"] == service).map(|m| m["percent"].as_u64().unwrap_or(100)).max().unwrap_or(0)
}

fn points_at(rule: &Value, service: &str) -> bool {
    rule["backendRefs"].as_array().into_iter().flatten().any(|b| b["name"] == service)
}

/// A rule for the time of a rollout: all of it goes to the canary, or copies do.
fn is_canary_rule(rule: &Value, canary: &str) -> bool {
    let backends = || rule["backendRefs"].as_array().into_iter().flatten();
    backends().next().is_some() && backends().all(|b| b["name"] == canary) || mirrors_to(rule, canary) > 0
}

/// The requests that reach the canary whatever its weight, or copies of them.
fn canary_rules(rollout: &Value, route: &Value) -> Vec<(Value, u64)> {
    let canary = canary_service(rollout);
    let of_canary = rules(route).filter(|rule| is_canary_rule(rule, &canary));
    of_canary.map(|rule| (rule["matches"].clone(), mirrors_to(rule, &canary))).collect()
}

/// The weight that a route gives a Service, if it lists it; copies of requests count, too.
fn weight_listed(route: &Value, service: &str) -> Option<u64> {
    let backends = rules(route).flat_map(|rule| rule["backendRefs"].as_array().into_iter().flatten());
    let weights = backends.filter(|backend| backend["name"] == service).map(weight);
    let copies = rules(route).map(|rule| mirrors_to(rule, service)).filter(|percent| *percent > 0);
    weights.chain(copies).reduce(|a, b| a + b)
}

fn weight_of(route: &Value, service: &str) -> u64 {
    weight_listed(route, service).unwrap_or(0)
}

/// The largest share that a rule gives the canary of what belongs to its Rollout.
fn share(rollout: &Value, route: &Value) -> f64 {
    let (service, canary) = (service(rollout), canary_service(rollout));
    let share = |rule: &Value| {
        let sum = |name: &str| {
            let backends = rule["backendRefs"].as_array().into_iter().flatten().filter(|b| b["name"] == *name);
            backends.map(weight).sum::<u64>() as f64
        };
        if sum(&canary) == 0.0 { 0.0 } else { sum(&canary) / (sum(&canary) + sum(&service)) }
    };
    rules(route).filter(|rule| points_at(rule, &service)).map(share).fold(0.0, f64::max)
}

/// The canary's share, if a write raises it, or gives the canary other requests besides.
fn raised(rollout: &Value, before: &Value, after: &Value) -> Option<f64> {
    let (was, is) = (share(rollout, before), share(rollout, after));
    let had = canary_rules(rollout, before);
    let is_new = |(matches, percent): &(Value, u64)| !had.iter().any(|(before, had)| before == matches && had >= percent);
    (is > was + 1e-9 || canary_rules(rollout, after).iter().any(is_new)).then_some(is)
}

/// By every parent that it has and that reports; one that reports no generations cannot be waited for.
fn is_accepted(route: &Value) -> bool {
    let has = |parent: &&Value| route["spec"]["parentRefs"].as_array().is_some_and(|all| all.contains(&parent["parentRef"]));
    let parents = route["status"]["parents"].as_array().into_iter().flatten().filter(has);
    let conditions = parents.flat_map(|parent| parent["conditions"].as_array().into_iter().flatten());
    let mut reports = conditions.filter(|c| c["type"] == "Accepted" && !c["observedGeneration"].is_null());
    reports.all(|c| c["status"] == "True" && c["observedGeneration"] == route["metadata"]["generation"])
}

/// Labels or annotations that are neither ours nor Flux's mark.
fn foreign(object: &Value, which: &str) -> BTreeMap<String, Value> {
    let all = object["metadata"][which].as_object().into_iter().flatten();
    let ours = |key: &str| key.starts_with("sluice.dev/") || key.starts_with(keys::ROUTE_RECORD_PREFIX) || key == keys::FLUX_RECONCILE;
    all.filter(|(key, _)| !ours(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}
