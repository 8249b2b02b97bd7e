//! The controller is killed by SIGKILL right after each of its writes, before it has seen the answer, in lives that are otherwise the same:
//! a take-over, a rollout to the end, and the deletion. In each life it is killed twice, after two other writes than in all others; each
//! ends as the one in which nobody was killed.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::PropagationPolicy;
use serde_json::{Value, json};
use sluice::api::status::RolloutOutcome;
use sluice_faultproxy::{Asked, Fault, FaultProxy};

use crate::{
    app::App,
    cluster::run as command,
    process::{Process, as_controller, without_installed},
    space::Space,
    test::Test,
    timeline::Timeline,
    wait::seconds,
};

/// Lives at the same time.
const BESIDE: usize = 8;

pub async fn run(test: &Test) -> Result<()> {
    without_installed(&test.cluster, lives(test)).await
}

/// What is left of a life: it must be the same, whoever was killed.
#[derive(Debug, PartialEq)]
struct End {
    outcomes: Vec<RolloutOutcome>,
    weights: Vec<f64>,
    /// The image and the number of replicas of each ReplicaSet of the Rollout. (Those of the Deployment come when its controller is at it.)
    replica_sets: Vec<(String, i64)>,
}

async fn lives(test: &Test) -> Result<()> {
    let (expected, writes, _) = life(test, &test.space, vec![]).await?;
    test.say(format!("nobody is killed: {writes} writes; {expected:?}"));
    let half = writes.div_ceil(2);
    let each = stream::iter(1..=half).map(|n| async move {
        let space = Space::create(&test.cluster.client, &format!("e2e-killed-{n:02}")).await?;
        let (end, _, killed) = life(test, &space, vec![n, n + half]).await.with_context(|| format!("killed after write {n}"))?;
        space.delete().await?;
        anyhow::Ok((end, killed, space))
    });
    let all: Vec<(End, Vec<String>, Space)> = each.buffer_unordered(BESIDE).try_collect().await?;
    for (end, killed, _) in &all {
        ensure!(*end == expected, "killed after {killed:?} it ends as {end:?}, otherwise as {expected:?}");
    }
    // Lives differ by a status or two, so that the last writes may not come.
    let killed: usize = all.iter().map(|(_, killed, _)| killed.len()).sum();
    ensure!(killed + 5 >= writes, "there were {writes} writes, and only {killed} kills");
    test.say(format!("{killed} times a controller was killed, each time after another write: the same end, no request failed"));
    for (.., space) in all {
        space.gone().await?;
    }
    Ok(())
}

/// One life, with a kill after each of these writes. Gives its end, the number of its writes, and those after which there was a kill.
async fn life(test: &Test, space: &Space, kills: Vec<usize>) -> Result<(End, usize, Vec<String>)> {
    let mut app = App::new(&test.cluster, space, "api")?;
    app.pace(1, 2, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 50}]));
    app.rollout["spec"]["traffic"]["stepGraceSeconds"] = json!(0);
    app.deploy(1).await?;
    let before = space.in_git("api").await?;

    let pid = Arc::new(AtomicU32::new(0));
    let at = pid.clone();
    let choose = move |asked: &Asked| match asked.write {
        Some(n) if kills.contains(&n) => {
            let pid = at.load(Ordering::SeqCst).to_string();
            Fault::Unanswered(Box::pin(async move { drop(command("kill", ["-KILL", &pid]).await) }))
        }
        _ => Fault::None,
    };
    let proxy = FaultProxy::start(as_controller(&test.cluster).await?, choose).await?;
    let scope = format!("--watch-namespaces={}", space.name);
    let mut process = Process::start(&space.name, &proxy, &["--no-lease", &scope])?;
    let load = app.load(20)?;
    let restarts = async {
        loop {
            pid.store(process.id()?, Ordering::SeqCst);
            process.restart().await?;
        }
    };
    let end = tokio::select! {
        biased;
        error = restarts => return error,
        end = lived(&mut app, &before) => end?,
    };
    test.stop(load).await?.ensure_no_failures()?;
    let killed = proxy.entries().into_iter().filter(|entry| !entry.fault.is_empty()).map(|entry| entry.to_string());
    Ok((end, proxy.writes(), killed.collect()))
}

async fn lived(app: &mut App, before: &[Value; 2]) -> Result<End> {
    let space = app.space.clone();
    app.roll().await?;
    let timeline = Timeline::start(&space, "Rollout", "api");
    app.release("v2", &[]).await?;
    let status = space.until_healthy("api", "sluice.dev/app:v2", seconds(90)).await?;
    space.ensure_as_in_git("api", before).await?;
    let mut sets: Vec<(String, i64)> = vec![];
    for set in space.list("ReplicaSet").await?.iter().filter(|set| set["metadata"]["ownerReferences"][0]["kind"] == "Rollout") {
        let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
        sets.push((image, set["spec"]["replicas"].as_i64().unwrap_or_default()));
    }
    sets.sort();
    let end =
        End { outcomes: status.history.iter().map(|entry| entry.outcome).collect(), weights: timeline.weights()?, replica_sets: sets };
    let mut pods = space.pods("app=api").await?;
    pods.retain(|_, pod| !pod.deleting);
    space.remove("Rollout", "api", PropagationPolicy::Background).await?;
    app.available(1).await?;
    let mut given_back = space.pods("app=api").await?;
    given_back.retain(|_, pod| !pod.deleting);
    ensure!(pods.keys().eq(given_back.keys()), "the Deployment was given other pods: {given_back:?} instead of {pods:?}");
    Ok(end)
}
