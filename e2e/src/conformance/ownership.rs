//! What becomes of the objects of a deleted owner: the simulated garbage collector against the real one. It works in its own time, so
//! after each request the objects that are left are compared, once they are what the simulator has (or the time is over).

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sluice::sim::{controllers::Collector, service::Handle};

use super::{
    Pair, kinds,
    normal::{differences, each_text},
    random::Random,
    request::{JSON, Memory, NAMESPACE, Request, uid_of},
    target::{self, Target},
};
use crate::{
    cluster::{root, run},
    wait::{Seen, seconds, wait_for},
};

/// Ownership sequences for each hundred of the others.
pub const SHARE: u64 = 5;
/// Sequences that are played at the same time: they wait most of their time.
pub const BESIDE: usize = 16;
const HOLD: &str = "sluice.dev/hold";

/// The garbage collector of kube-controller-manager, beside the API server.
pub async fn part(verb: &str) -> Result<()> {
    run(root().join("e2e/cluster/part"), [verb, "garbage-collector"]).await.map(drop)
}

/// A family of objects, and deletions in it.
pub struct Family {
    pub seed: u64,
    collections: Vec<String>,
    requests: Vec<Request>,
}

pub fn family(seed: u64) -> Family {
    let mut random = Random::new(seed);
    let kinds = kinds::all();
    let kinds: Vec<_> = kinds.iter().filter(|kind| ["configmaps", "replicasets", "rollouts"].contains(&kind.plural)).collect();
    let mut paths: Vec<(String, &str, &str)> = vec![];
    let mut requests = vec![];
    for number in 0..3 + random.below(4) {
        let kind = *random.pick(&kinds);
        let name = format!("o{number}");
        let mut owners = vec![];
        for _ in 0..random.below(3) {
            let Some((path, api_version, kind)) = paths.get(random.below(paths.len())) else { continue };
            let name = path.rsplit('/').next();
            let owner = json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid_of(path),
                "blockOwnerDeletion": random.percent(50)});
            if !owners.iter().any(|other: &Value| other["uid"] == owner["uid"]) {
                owners.push(owner);
            }
        }
        let mut body = kind.bodies[0].clone();
        body["apiVersion"] = kind.api_version.into();
        body["kind"] = kind.kind.into();
        body["metadata"] = json!({"name": name, "ownerReferences": owners});
        if random.percent(15) {
            body["metadata"]["finalizers"] = json!([HOLD]);
        }
        requests.push(Request::new("POST", kind.collection(NAMESPACE)).with(body));
        paths.push((format!("{}/{name}", kind.collection(NAMESPACE)), kind.api_version, kind.kind));
    }
    for _ in 0..1 + random.below(3) {
        let path = &random.pick(&paths).0;
        let policy = *random.pick(&["Background", "Background", "Foreground", "Orphan"]);
        requests.push(Request::new("DELETE", path).with(json!({"propagationPolicy": policy})));
        if random.percent(40) {
            let path = &random.pick(&paths).0;
            let release = json!([{"op": "test", "path": "/metadata/finalizers/0", "value": HOLD}, {"op": "remove", "path": "/metadata/finalizers/0"}]);
            requests.push(Request { content_type: JSON, ..Request::new("PATCH", path) }.with(release));
        }
    }
    let collections = kinds.iter().map(|kind| kind.collection(NAMESPACE)).collect();
    Family { seed, collections, requests }
}

impl Family {
    /// Where the two part: after which request, and what is left.
    pub async fn compare(&self, pair: &Pair, namespace: &str) -> Result<Option<String>> {
        let (simulated, handle) = target::simulated(&pair.simulated);
        let mut collector = Collector::default();
        let (mut memory, mut real_memory) = (Memory::new(namespace), Memory::new(namespace));
        simulated.make_namespace(namespace).await?;
        pair.real.make_namespace(namespace).await?;
        for (at, request) in self.requests.iter().enumerate() {
            let answer = simulated.ask(request, &memory).await?;
            memory.note(request, &answer.body);
            collect(&handle, &mut collector);
            let real = pair.real.ask(request, &real_memory).await?;
            real_memory.note(request, &real.body);
            let wanted = self.left(&simulated, &memory).await?;
            let found = wait_for("the objects are as in the simulator", seconds(15), async || {
                let found = self.left(&pair.real, &real_memory).await?;
                Ok(if found == wanted && answer.status == real.status { Seen::Done(()) } else { Seen::NotYet(explain(&wanted, &found)) })
            });
            if let Err(error) = found.await {
                let asked: Vec<String> = self.requests[..=at].iter().map(|request| format!("  {request}")).collect();
                return Ok(Some(format!(
                    "seed {} (ownership)\n{}\n  simulated: {}, real: {}\n  {error:#}",
                    self.seed,
                    asked.join("\n"),
                    answer.status,
                    real.status
                )));
            }
        }
        Ok(None)
    }

    /// All objects, without what tells how many writes they have seen.
    async fn left(&self, target: &Target, memory: &Memory) -> Result<Value> {
        let mut left = vec![];
        for collection in &self.collections {
            let answer = target.ask(&Request::new("GET", collection), memory).await.context("list what is left")?;
            for object in answer.body["items"].as_array().into_iter().flatten() {
                let metadata = &object["metadata"];
                let is_deleting = metadata["deletionTimestamp"].is_string();
                left.push(json!({"name": metadata["name"], "deleting": is_deleting, "finalizers": metadata["finalizers"],
                    "owners": metadata["ownerReferences"]}));
            }
        }
        let mut left = Value::from(left);
        each_text(&mut left, &mut |text| {
            if let Some(path) = memory.path_of(text) {
                *text = path;
            }
        });
        Ok(left)
    }
}

/// Lets the simulated garbage collector work until nothing is left to do.
fn collect(handle: &Handle, collector: &mut Collector) {
    while handle.with(|server, now| {
        let before = server.revision();
        collector.step(server, now);
        server.revision() > before
    }) {}
}

fn explain(wanted: &Value, found: &Value) -> String {
    let parts = differences(wanted, found).into_iter().map(|(at, wanted, found)| format!("{at}: simulated {wanted}, real {found}"));
    parts.collect::<Vec<_>>().join("\n  ")
}
