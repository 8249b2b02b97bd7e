//! Conformance of the simulated API server: the same sequences of requests go to it and to a real kube-apiserver, and whatever they
//! answer differently is a failure, unless [`known`] lists it with a reason.
//!
//! `SLUICE_CONFORMANCE_SEQUENCES` (2000) is how many, `SLUICE_CONFORMANCE_SEED` (0) the first one's seed. A difference is told as the
//! shortest sequence that still shows it; with its seed and one sequence it is shown again.

mod generate;
mod kinds;
mod known;
mod normal;
mod ownership;
mod random;
mod request;
mod target;

use std::{
    collections::BTreeMap,
    env,
    fmt::Write,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use sluice::sim::api::ApiServer;

use crate::{
    cluster::root,
    wait::{seconds, wait_for, when},
};
use generate::Sequence;
use kinds::Kind;
use known::KNOWN;
use target::{Answer, Target};

/// Sequences that are played at the same time.
const BESIDE: usize = 8;
/// So many kinds of differences are told in full.
const TOLD: usize = 40;

/// Numbers that sequences of different length give to the same things.
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(uid-|version )\d+").expect("a pattern of ours"));

/// Both servers, with the same kinds.
struct Pair {
    simulated: ApiServer,
    real: Target,
    kinds: Vec<Kind>,
    namespaces: AtomicUsize,
}

/// Where the answers to a sequence part.
struct Difference {
    sequence: Sequence,
    /// Which of its answers: of the requests, then of the watches.
    at: usize,
    simulated: Answer,
    real: Answer,
}

pub async fn run() -> Result<bool> {
    let number = |name: &str, default: u64| match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    };
    let count = number("SLUICE_CONFORMANCE_SEQUENCES", 2000)?;
    let first = number("SLUICE_CONFORMANCE_SEED", 0)?;
    let client = Client::try_default().await.context("no cluster: KUBECONFIG is not set or not usable")?;
    let pair = Pair::new(client).await?;
    let began = Instant::now();
    let families = pair.compare_families(first, count * ownership::SHARE / 100).await?;
    let sequences = (first..first + count).map(|seed| generate::sequence(&pair.kinds, seed));
    let mut requests = 0;
    let mut failures: Vec<Difference> = vec![];
    let mut results = stream::iter(sequences).map(|sequence| pair.compare(sequence)).buffer_unordered(BESIDE);
    while let Some(result) = results.next().await {
        let (asked, difference) = result?;
        requests += asked;
        failures.extend(difference);
    }
    drop(results);
    println!("{count} sequences with {requests} requests and watches in {:.0} s: {} differ", began.elapsed().as_secs_f64(), failures.len());
    for known in KNOWN {
        println!("  not counted: {} ({})", known.what, known.reason);
    }
    for failure in &families {
        println!("\n{failure}");
    }
    pair.tell(&failures).await?;
    Ok(failures.is_empty() && families.is_empty())
}

impl Pair {
    async fn new(client: Client) -> Result<Self> {
        let mut simulated = ApiServer::new(1, Timestamp::now());
        for crd in crds("crds/*.yaml")? {
            simulated.install_crd(crd.clone(), Timestamp::now()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
            install(&client, crd).await?;
        }
        for crd in gateway_crds()? {
            install(&client, crd).await?;
        }
        established(&client).await?;
        // Watches from the first versions are refused by both.
        simulated.forget(simulated.revision());
        Ok(Self { simulated, real: Target { client }, kinds: kinds::all(), namespaces: AtomicUsize::new(0) })
    }

    /// Plays what is about ownership while the garbage collector runs, which nothing else could bear.
    async fn compare_families(&self, first: u64, count: u64) -> Result<Vec<String>> {
        if count == 0 {
            return Ok(vec![]);
        }
        let began = Instant::now();
        ownership::part("start").await?;
        let families = (first..first + count).map(ownership::family);
        let compared = families.map(|family| async move { family.compare(self, &self.namespace(family.seed)).await });
        let results: Vec<Result<Option<String>>> = stream::iter(compared).buffer_unordered(ownership::BESIDE).collect().await;
        ownership::part("stop").await?;
        let failures: Vec<String> = results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        println!("{count} sequences about ownership in {:.0} s: {} differ", began.elapsed().as_secs_f64(), failures.len());
        Ok(failures)
    }

    /// A namespace that nothing was played in yet.
    fn namespace(&self, seed: u64) -> String {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        format!("n-{seed}-{number}-{}", std::process::id())
    }

    /// How many requests were answered, and where the answers part.
    async fn compare(&self, sequence: Sequence) -> Result<(usize, Option<Difference>)> {
        let namespace = self.namespace(sequence.seed);
        let seed = sequence.seed;
        let context = || format!("the sequence of seed {seed}");
        let simulated = target::simulated(&self.simulated).0.play(&sequence, &namespace).await.with_context(context)?;
        let real = self.real.play(&sequence, &namespace).await.with_context(context)?;
        let both = normal::normal(&simulated, &namespace).into_iter().zip(normal::normal(&real, &namespace));
        let found = both.enumerate().find_map(|(at, (mut simulated, mut real))| {
            let request = sequence.request(at);
            KNOWN.iter().for_each(|known| (known.reconcile)(request, &mut simulated, &mut real));
            (simulated != real).then_some((at, simulated, real))
        });
        Ok((real.len(), found.map(|(at, simulated, real)| Difference { sequence, at, simulated, real })))
    }

    /// Tells one difference of each sort, as short as it gets.
    async fn tell(&self, failures: &[Difference]) -> Result<()> {
        let mut sorts: BTreeMap<String, Vec<&Difference>> = BTreeMap::new();
        for failure in failures {
            sorts.entry(failure.sort()).or_default().push(failure);
        }
        let mut sorts: Vec<_> = sorts.into_iter().collect();
        sorts.sort_by_key(|(_, alike)| std::cmp::Reverse(alike.len()));
        for (sort, alike) in sorts.iter().take(TOLD) {
            let short = self.shorten(alike[0]).await?;
            println!("\n{} times {sort}\n{}", alike.len(), short.as_ref().unwrap_or(alike[0]).trace());
        }
        if sorts.len() > TOLD {
            println!("\nand {} more sorts of differences", sorts.len() - TOLD);
        }
        Ok(())
    }

    /// The same difference after fewer requests.
    async fn shorten(&self, difference: &Difference) -> Result<Option<Difference>> {
        let sort = difference.sort();
        let mut shortest: Option<Difference> = None;
        let mut sequence = difference.sequence.clone();
        if difference.at < sequence.requests.len() {
            sequence.requests.truncate(difference.at + 1);
            sequence.watches.clear();
        }
        // The last one is what differs, or what ends the watch that does.
        for at in (0..sequence.requests.len() - 1).rev() {
            let mut shorter = sequence.clone();
            shorter.requests.remove(at);
            if let (_, Some(found)) = self.compare(shorter.clone()).await?
                && found.sort() == sort
            {
                sequence = shorter;
                shortest = Some(found);
            }
        }
        Ok(shortest)
    }
}

impl Difference {
    /// What differs, in a few words that are the same for the same cause.
    fn sort(&self) -> String {
        let request = self.sequence.request(self.at);
        let plural =
            request.object_path().split('/').find(|part| part.ends_with('s') && !part.starts_with("namespaces") && *part != "apis");
        let mut text = format!("{} {} {}", request.method, plural.unwrap_or_default(), request.content_type);
        match normal::differences(&self.simulated.body, &self.real.body).first() {
            _ if self.simulated.status != self.real.status => write!(text, ": {} for {}", self.simulated.status, self.real.status),
            Some((at, simulated, real)) => {
                let at = at.split('/').map(|step| if step.parse::<usize>().is_ok() { "#" } else { step }).collect::<Vec<_>>().join("/");
                write!(text, ": {at}: {} for {}", start(simulated, 60), start(real, 60))
            }
            None => Ok(()),
        }
        .expect("a String takes all");
        NUMBERS.replace_all(&text, "$1#").into_owned()
    }

    fn trace(&self) -> String {
        let mut out = format!("seed {}\n", self.sequence.seed);
        let requests = self.sequence.requests.iter().chain(self.sequence.watches.iter().map(|watch| &watch.request));
        for request in requests.take(self.at + 1) {
            let _ = writeln!(out, "  {request}");
        }
        let _ = writeln!(out, "  simulated: {} {}", self.simulated.status, brief(&self.simulated.body));
        let _ = writeln!(out, "  real:      {} {}", self.real.status, brief(&self.real.body));
        if self.simulated.status != self.real.status {
            return out;
        }
        for (at, simulated, real) in normal::differences(&self.simulated.body, &self.real.body).iter().take(4) {
            let _ = writeln!(out, "  {at}\n    simulated: {}\n    real:      {}", start(simulated, 700), start(real, 700));
        }
        out
    }
}

fn brief(body: &Value) -> String {
    body["message"].as_str().map_or_else(String::new, |message| message.chars().take(400).collect())
}

fn start(value: &Value, length: usize) -> String {
    value.to_string().chars().take(length).collect()
}

/// The definitions in the files of a directory of the checkout.
fn crds(pattern: &str) -> Result<Vec<Value>> {
    let directory = root().join(pattern.trim_end_matches("/*.yaml"));
    let mut found = vec![];
    for entry in std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
        found.extend(documents(&std::fs::read_to_string(entry?.path())?)?);
    }
    Ok(found)
}

fn gateway_crds() -> Result<Vec<Value>> {
    let cache = env::var("SLUICE_E2E_CACHE").or_else(|_| env::var("HOME").map(|home| format!("{home}/.cache/sluice-e2e")))?;
    let file = format!("{cache}/crds/gateway-api.yaml");
    documents(&std::fs::read_to_string(&file).with_context(|| format!("cannot read {file}: e2e/parts/build fetches it"))?)
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.into_iter().filter(|document| document["kind"] == "CustomResourceDefinition").collect())
}

fn definitions(client: &Client) -> Api<DynamicObject> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    Api::all_with(client.clone(), &ApiResource::erase::<CustomResourceDefinition>(&()))
}

async fn install(client: &Client, crd: Value) -> Result<()> {
    let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    definitions(client)
        .patch(&name, &PatchParams::apply("conformance").force(), &Patch::Apply(&crd))
        .await
        .with_context(|| name.clone())?;
    Ok(())
}

/// Waits until all kinds are served.
async fn established(client: &Client) -> Result<()> {
    wait_for("all kinds are served", seconds(60), async || {
        let all = definitions(client).list(&Default::default()).await?.items;
        let is_served = |crd: &DynamicObject| {
            let conditions = crd.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True")
        };
        let waiting = all.iter().filter(|crd| !is_served(crd)).count();
        Ok(when(waiting == 0, || format!("{waiting} kinds are not established")))
    })
    .await
}
