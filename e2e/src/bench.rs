//! What the controller costs, measured on the real cluster: `make bench-cluster`. The figures are printed beside the goals; only a
//! measurement that fails is a failure.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
    runtime::watcher::{self, Event},
};
use serde_json::{Value, json};
use sluice::api::{Phase, Rollout, keys};

use crate::{
    app::App,
    audit::{Audit, is_lease},
    cluster::{Cluster, SYSTEM, is_ready, pid_of},
    space::Space,
    wait::{Seen, seconds, wait_for, when},
};

const FEW: usize = 20;
const MANY: usize = 1_000;
/// So many Rollouts share a namespace, as those of one team do.
const IN_A_NAMESPACE: usize = 20;
const CHANGES: usize = 200;
const AT_ONCE: usize = 32;

pub async fn run(cluster: Rc<Cluster>) -> Result<()> {
    ensure!(cluster.own, "this looks at processes and into the audit log, which can be done only on the cluster of e2e/cluster/up");
    cluster.install_with(&["replicas=1"]).await?;
    let controller = controller(&cluster).await?;
    let binary = std::fs::metadata(format!("/proc/{}/exe", pid_of(&controller).await?)).context("the controller's binary")?.len();

    let mut table = Table::default();
    table.row("size of the stripped controller", format!("{:.1} MB", binary as f64 / 1e6), "at most 25 MB");
    let mut spaces = populate(&cluster, 0..FEW).await?;
    memory(&cluster, &mut table, FEW, "20 MiB").await?;
    spaces.extend(populate(&cluster, FEW..MANY).await?);
    let ready = memory(&cluster, &mut table, MANY, "40 MiB").await?;
    requests(&cluster, &mut table).await?;
    table.row(&format!("from its start to ready, {MANY} Rollouts"), format!("{:.2} s", ready.as_secs_f64()), "2 s");
    let from_git = changes(&cluster, &spaces, 0).await?;
    let name = |what: &str| format!("template change to canary ReplicaSet, {CHANGES} at once, {what}");
    table.row(&name("p50, p99"), spread(&from_git), "1 s");
    let without_grace = changes(&cluster, &spaces, 1).await?;
    table.row(&name("stepGraceSeconds 0, p50, p99"), spread(&without_grace), "");
    let rss = resident(&cluster).await?;
    table.row(&format!("memory with {} of {MANY} in mid-rollout", 2 * CHANGES), rss, "");
    table.print();
    Ok(())
}

/// The figures, beside the goals.
#[derive(Default)]
struct Table(Vec<[String; 3]>);

impl Table {
    fn row(&mut self, what: &str, measured: String, goal: &str) {
        println!("{what}: {measured}");
        self.0.push([what.to_owned(), measured, goal.to_owned()]);
    }

    fn print(&self) {
        println!("\n| what | measured | goal |\n|---|---|---|");
        self.0.iter().for_each(|[what, measured, goal]| println!("| {what} | {measured} | {goal} |"));
    }
}

/// The one controller, once it is ready.
async fn controller(cluster: &Cluster) -> Result<Pod> {
    wait_for("one controller is ready", seconds(60), async || {
        let mut pods = cluster.controllers().await?;
        let one = pods.len() == 1 && is_ready(&pods[0]);
        Ok(if one { Seen::Done(pods.remove(0)) } else { Seen::NotYet(format!("{} pods", pods.len())) })
    })
    .await
}

/// Which Rollout of a namespace has no grace time: those of the second measurement.
fn without_grace(n: usize) -> bool {
    n % 5 == 1
}

/// Makes Rollouts as in the examples, of Deployments with 0 replicas whose pods would fit on no node, and waits until all are at rest.
async fn populate(cluster: &Cluster, numbers: std::ops::Range<usize>) -> Result<Vec<Space>> {
    let began = Instant::now();
    let mut spaces = vec![];
    for n in (numbers.start / IN_A_NAMESPACE)..(numbers.end / IN_A_NAMESPACE) {
        spaces.push(Space::create(&cluster.client, &format!("bench-{n:02}")).await?);
    }
    let each = spaces.iter().flat_map(|space| (0..IN_A_NAMESPACE).map(move |n| (space, n)));
    stream::iter(each.map(Ok)).try_for_each_concurrent(AT_ONCE, |(space, n)| make(cluster, space, n)).await?;
    let end = numbers.end;
    wait_for(&format!("{end} Rollouts are at rest"), seconds(600), async || {
        let all = Api::<Rollout>::all(cluster.client.clone()).list(&ListParams::default()).await?.items;
        let healthy = all.iter().filter(|r| r.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Healthy))).count();
        tokio::time::sleep(seconds(1)).await;
        Ok(when(healthy == end, || format!("{healthy} of {}", all.len())))
    })
    .await?;
    println!("{end} Rollouts are at rest; the last {} were made and taken over in {:.0} s", numbers.len(), began.elapsed().as_secs_f64());
    Ok(spaces)
}

async fn make(cluster: &Cluster, space: &Space, n: usize) -> Result<()> {
    let mut app = App::new(cluster, space, &format!("app-{n:02}"))?;
    app.deployment["spec"]["replicas"] = json!(0);
    app.deployment["spec"]["template"]["spec"]["nodeSelector"] = json!({"bench": "nowhere"});
    if without_grace(n) {
        app.rollout["spec"]["traffic"]["stepGraceSeconds"] = json!(0);
    }
    // By hand, not by Git: else the Deployment's replicas would be Git's.
    let deployment = serde_json::from_value(app.deployment.clone())?;
    space.api("Deployment").create(&PostParams::default(), &deployment).await.context("make a Deployment")?;
    for manifest in [&app.service, &app.route, &app.rollout] {
        space.apply(manifest).await?;
    }
    Ok(())
}

/// Memory after all the work, and at rest after a restart, which is also timed.
async fn memory(cluster: &Cluster, table: &mut Table, count: usize, goal: &str) -> Result<Duration> {
    let worked = resident(cluster).await?;
    table.row(&format!("memory with {count} Rollouts, after it has taken them over"), worked, "");
    let pod = controller(cluster).await?.name_any();
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    pods.delete(&pod, &DeleteParams::default()).await?;
    wait_for("it is gone", seconds(60), async || Ok(when(pods.get_opt(&pod).await?.is_none(), String::new))).await?;
    let pod = controller(cluster).await?.name_any();
    cluster.led().await?;
    let took = started(&pods, &pod).await?;
    quiet(cluster).await?;
    table.row(&format!("memory at rest with {count} Rollouts"), resident(cluster).await?, goal);
    Ok(took)
}

/// Resident memory of the controller's process, and what of it is no file (the program itself is one).
async fn resident(cluster: &Cluster) -> Result<String> {
    let pid = pid_of(&controller(cluster).await?).await?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the controller's process")?;
    let mib = |field: &str| -> Result<f64> {
        let line = status.lines().find(|line| line.starts_with(field)).with_context(|| format!("no {field}"))?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse::<f64>()? / 1024.0)
    };
    Ok(format!("{:.1} MiB (its data: {:.1} MiB)", mib("VmRSS:")?, mib("RssAnon:")?))
}

/// From its first line of log to the one that says that it knows everything.
async fn started(pods: &Api<Pod>, pod: &str) -> Result<Duration> {
    wait_for("it has said that it knows the cluster", seconds(60), async || {
        let text = pods.logs(pod, &LogParams::default()).await?;
        let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let at = |message: &str| -> Option<Timestamp> {
            lines.iter().find(|line| line["message"] == message)?["timestamp"].as_str()?.parse().ok()
        };
        Ok(match (at("starts"), at("knows the cluster")) {
            (Some(from), Some(to)) => Seen::Done(Duration::try_from(to.duration_since(from))?),
            _ => Seen::NotYet(format!("{} lines", lines.len())),
        })
    })
    .await
}

/// Waits until it has asked for nothing for 5 s.
async fn quiet(cluster: &Cluster) -> Result<()> {
    let mut since = (Audit::begin(cluster)?, Instant::now());
    wait_for("the controller has nothing to do", seconds(120), async || {
        let busy = since.0.of_controller()?.iter().filter(|request| request["verb"] != "watch" && !is_lease(request)).count();
        if busy > 0 {
            since = (Audit::begin(cluster)?, Instant::now());
        }
        Ok(when(since.1.elapsed() >= seconds(5), || format!("{busy} requests")))
    })
    .await
}

/// Requests in a minute in which nothing happens.
async fn requests(cluster: &Cluster, table: &mut Table) -> Result<()> {
    let audit = Audit::begin(cluster)?;
    tokio::time::sleep(seconds(60)).await;
    let all = audit.of_controller()?;
    let leases = all.iter().filter(|request| is_lease(request)).count();
    let other = all.iter().filter(|request| request["verb"] != "watch" && !is_lease(request)).count();
    ensure!(leases > 0, "the audit log does not show the controller at all");
    let what = format!("API requests a minute at rest, {MANY} Rollouts, beside watches and the lease");
    table.row(&what, format!("{other} (the lease: {leases})"), "0");
    Ok(())
}

/// Changes a template of every fifth Rollout at the same time. From the answer to each change until its new ReplicaSet is seen.
async fn changes(cluster: &Cluster, spaces: &[Space], remainder: usize) -> Result<Vec<Duration>> {
    type Names = (String, String);
    let made: Arc<Mutex<HashMap<Names, Instant>>> = Arc::default();
    let (sink, client) = (made.clone(), cluster.client.clone());
    let (listed, is_listed) = tokio::sync::oneshot::channel();
    let watch = tokio::spawn(async move {
        let config = watcher::Config::default().labels(keys::ROLLOUT);
        let mut events = pin!(watcher::watcher(Api::<ReplicaSet>::all(client), config));
        let mut listed = Some(listed);
        while let Some(Ok(event)) = events.next().await {
            match event {
                Event::InitDone => drop(listed.take().map(|listed| listed.send(()))),
                Event::Apply(set) if listed.is_none() && set.spec.as_ref().and_then(|spec| spec.replicas) != Some(0) => {
                    let rollout = set.labels().get(keys::ROLLOUT).cloned().unwrap_or_default();
                    let key = (set.namespace().unwrap_or_default(), rollout);
                    sink.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_insert_with(Instant::now);
                }
                _ => {}
            }
        }
    });
    is_listed.await.context("the watch of ReplicaSets has ended")?;
    let chosen: Vec<(&Space, String)> = spaces
        .iter()
        .flat_map(|space| (0..IN_A_NAMESPACE).filter(|n| n % 5 == remainder).map(move |n| (space, format!("app-{n:02}"))))
        .take(CHANGES)
        .collect();
    ensure!(chosen.len() == CHANGES, "there are {} Rollouts to change", chosen.len());
    let change = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "sluice.dev/app:v2"}]}}}});
    let began = Instant::now();
    let answered = stream::iter(chosen).map(|(space, name)| {
        let change = &change;
        async move {
            space.api("Deployment").patch(&name, &PatchParams::default(), &Patch::Strategic(change)).await?;
            anyhow::Ok(((space.name.clone(), name), Instant::now()))
        }
    });
    let answered: BTreeMap<Names, Instant> = answered.buffer_unordered(CHANGES).try_collect().await?;
    println!("{CHANGES} templates were changed in {:.2} s", began.elapsed().as_secs_f64());
    wait_for("every changed template has its ReplicaSet", seconds(120), async || {
        let made = made.lock().unwrap_or_else(PoisonError::into_inner);
        let count = answered.keys().filter(|key| made.contains_key(*key)).count();
        Ok(when(count == CHANGES, || format!("{count} of {CHANGES}")))
    })
    .await?;
    watch.abort();
    let made = made.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times: Vec<Duration> = answered.iter().map(|(key, at)| made[key].saturating_duration_since(*at)).collect();
    times.sort();
    Ok(times)
}

fn spread(sorted: &[Duration]) -> String {
    let at = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1].as_secs_f64();
    format!("{:.2} s, {:.2} s", at(0.5), at(0.99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_secs).collect();
        assert_eq!(spread(&times), "100.00 s, 198.00 s");
        assert_eq!(spread(&times[..1]), "1.00 s, 1.00 s");
    }
}
