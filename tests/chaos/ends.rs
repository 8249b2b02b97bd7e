//! What must be true once faults have stopped and everybody has been answered: each function reads like its promise.

use serde_json::Value;
use sluice::{
    sim::{
        api::{ApiServer, Request},
        drive::path,
    },
    world::Watched,
};

use super::{
    scenario::{CRASHES, NEVER_READY, Traffic},
    world::{NS, World, image},
};

/// What is wrong, one line each; and whether everything is at rest (pods that crash again and again are reported for ever).
pub fn wrong(world: &World, kept: bool) -> (Vec<String>, bool) {
    let mut found: Vec<Result<(), String>> = vec![];
    let (mut resting, mut sick) = (true, false);
    for app in world.apps() {
        if app == "api" && !kept {
            found.push(everything_is_given_back(world, app));
            sick |= world.of_app(Watched::Pod, app).iter().any(|pod| is_sick(pod));
            continue;
        }
        let ended = l2_the_state_is_the_desired_one(world, app);
        resting &= matches!(ended, Ok(End::Rest));
        sick |= matches!(ended, Ok(End::Sick));
        if matches!(ended, Ok(End::Rest | End::Aborted)) {
            found.push(world.drive.l1_the_plan_of_an_unchanged_world_is_empty(NS, app));
            found.push(s7_only_the_stable_revision_has_pods(world, app));
            found.push(aborted_or_at_rest_the_canary_gets_nothing(world, app));
        }
        found.push(ended.map(drop));
    }
    if resting {
        let git = world.git.keys().filter(|(kind, _)| matches!(kind, Watched::Service | Watched::HttpRoute));
        found.extend(git.map(|(kind, name)| g1_at_rest_live_equals_git(world, *kind, name)));
        found.push(g1_nothing_of_ours_is_left(world));
    }
    (found.into_iter().filter_map(Result::err).collect(), !sick)
}

enum End {
    Rest,
    Aborted,
    /// A version whose pods do not run has gone live without steps (somebody wanted that), or its Deployment cannot end its own rollout.
    Sick,
}

/// L2: current = desired, for what is wished for last.
fn l2_the_state_is_the_desired_one(world: &World, app: &str) -> Result<End, String> {
    let rollout = world.get(Watched::Rollout, app);
    let status = &rollout["status"];
    let wished = world.wished_image(app);
    let revision = |hash: &Value| image_of(world, app, hash);
    let (stable, canary) = (revision(&status["stableRevision"]), revision(&status["canaryRevision"]));
    let says = format!("{app} is {} ({}), {stable:?} serves, {wished} is wished for", status["phase"], status["message"]);
    let observed = status["observedGeneration"] == rollout["metadata"]["generation"];
    match status["phase"].as_str() {
        Some(_) if stable.as_deref().is_some_and(sick) || (stable.is_none() && sick(&wished)) => Ok(End::Sick),
        Some("Healthy") if observed && stable.as_ref() == Some(&wished) => Ok(End::Rest),
        Some("Aborted") if observed && status["rejected"][0]["revision"] == status["canaryRevision"] => match canary {
            Some(canary) if canary != wished => Err(format!("S3: {says}, but {canary} is rejected")),
            _ => Ok(End::Aborted),
        },
        _ => Err(format!("L2: {says}")),
    }
}

fn image_of(world: &World, app: &str, hash: &Value) -> Option<String> {
    let sets = world.of_app(Watched::ReplicaSet, app);
    let set = sets.into_iter().find(|set| set["metadata"]["labels"]["pod-template-hash"] == *hash)?;
    Some(image(&set["spec"]["template"]).to_owned())
}

/// S7: the pods of the stable revision serve, as many as are wanted; and no others are left.
fn s7_only_the_stable_revision_has_pods(world: &World, app: &str) -> Result<(), String> {
    let rollout = world.get(Watched::Rollout, app);
    let wanted = rollout["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
    let pods = world.of_app(Watched::Pod, app);
    let stable = pods.iter().filter(|pod| pod["metadata"]["labels"]["pod-template-hash"] == rollout["status"]["stableRevision"]);
    let ready = stable.filter(|pod| is_ready(pod)).count();
    match ready == wanted && pods.len() == wanted {
        true => Ok(()),
        false => Err(format!("{app} has {} pods, {ready} ready ones of the stable revision, {wanted} are wanted", pods.len())),
    }
}

fn sick(image: &str) -> bool {
    matches!(image, CRASHES | NEVER_READY)
}

fn is_sick(pod: &Value) -> bool {
    pod["spec"]["containers"][0]["image"].as_str().is_some_and(sick)
}

fn is_ready(pod: &Value) -> bool {
    pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn aborted_or_at_rest_the_canary_gets_nothing(world: &World, app: &str) -> Result<(), String> {
    let in_git = world.git.contains_key(&(Watched::Service, format!("{app}-canary")));
    let aborted = world.status(app)["phase"] == "Aborted";
    if in_git && !aborted {
        return Ok(()); // as in Git: the same pods
    }
    let canary = format!("{app}-canary");
    let weights = backends(world).filter(|backend| backend["name"] == *canary).map(|backend| backend["weight"].as_u64().unwrap_or(1));
    match weights.sum::<u64>() {
        0 => Ok(()),
        weight => Err(format!("S3: {canary} has weight {weight} in the end")),
    }
}

fn backends(world: &World) -> impl Iterator<Item = Value> + use<'_> {
    let routes = world.drive.api.list("httproutes.gateway.networking.k8s.io");
    let rules = routes.flat_map(|route| route["spec"]["rules"].as_array().cloned().unwrap_or_default());
    rules.flat_map(|rule| rule["backendRefs"].as_array().cloned().unwrap_or_default())
}

/// G1: at rest, live equals Git: the spec is what a server that knows nothing but Git makes of it.
fn g1_at_rest_live_equals_git(world: &World, kind: Watched, name: &str) -> Result<(), String> {
    let mut body = world.git[&(kind, name.to_owned())].clone();
    let resource = kind.resource();
    (body["apiVersion"], body["kind"]) = (resource.api_version.clone().into(), resource.kind.clone().into());
    let mut server = ApiServer::new(1, world.drive.now);
    let (method, path) = ("POST".into(), path(kind, NS, ""));
    let request = Request { method, path, content_type: "application/json".into(), body, actor: "git".into(), ..Request::default() };
    let made = server.handle(&request, world.drive.now).body;
    let strip = |object: &Value| {
        let mut spec = object["spec"].clone();
        for key in ["clusterIP", "clusterIPs"] {
            spec.as_object_mut().map(|spec| spec.remove(key));
        }
        spec
    };
    let (live, git) = (strip(&world.get(kind, name)), strip(&made));
    if live == git { Ok(()) } else { Err(format!("G1: {kind:?} {name} is {live}, but Git has {git}")) }
}

/// G1: no marks of ours are left on what is the user's, and nothing of it is recorded as ours.
fn g1_nothing_of_ours_is_left(world: &World) -> Result<(), String> {
    for (kind, name) in world.git.keys().filter(|(kind, _)| matches!(kind, Watched::Service | Watched::HttpRoute | Watched::Deployment)) {
        let live = world.get(*kind, name);
        let keys = |of: &str| live["metadata"][of].as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        let ours = |key: &&String| key.contains("sluice.dev") && *key != sluice::api::keys::WORKLOAD_RECORD || key.contains("fluxcd");
        if let Some(key) = keys("annotations").iter().chain(&keys("labels")).find(ours) {
            return Err(format!("G1: {kind:?} {name} still has {key}"));
        }
        let managers = live["metadata"]["managedFields"].as_array().into_iter().flatten();
        if *kind != Watched::Deployment && managers.into_iter().any(|entry| entry["manager"] == "sluice") {
            return Err(format!("G1: {kind:?} {name} has fields that are recorded as ours"));
        }
    }
    let made = world.setup.traffic != Traffic::None && !world.git.contains_key(&(Watched::Service, "api-canary".to_owned()));
    match made && !world.get(Watched::Service, "api-canary").is_null() {
        true => Err("G1: the canary Service is left".to_owned()),
        false => Ok(()),
    }
}

/// The Rollout is deleted: its Deployment has its pods back, as many as served; its own template's pods go with it.
fn everything_is_given_back(world: &World, app: &str) -> Result<(), String> {
    let rollout = world.get(Watched::Rollout, app);
    if !rollout.is_null() {
        return Err(format!("{app} is still there: {}", rollout["status"]["message"]));
    }
    if !world.get(Watched::ControllerRevision, app).is_null() {
        return Err(format!("the anchor of {app} is left"));
    }
    let pods = world.of_app(Watched::Pod, app);
    if world.setup.own_template {
        return if pods.is_empty() { Ok(()) } else { Err(format!("{} pods are left", pods.len())) };
    }
    let deployment = world.get(Watched::Deployment, app);
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
    match pods.iter().any(|pod| is_sick(pod))
        || wanted > 0 && pods.iter().filter(|pod| is_ready(pod)).count() == wanted && pods.len() == wanted
    {
        true => Ok(()),
        false => Err(format!("the Deployment wants {wanted} pods, and there are {}", pods.len())),
    }
}
