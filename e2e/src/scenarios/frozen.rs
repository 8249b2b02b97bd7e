//! A leader freezes in the middle of a write, for longer than its lease; another one takes over and goes on. Then the write arrives, and the
//! old leader wakes up: nothing of what it does changes anything that its successor
//! has touched, and what it makes anew goes again.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use sluice::api::{RolloutStatus, status::RolloutOutcome};
use sluice_faultproxy::{Asked, Entry, Fault, FaultProxy};
use tokio::sync::watch;

use crate::{
    app::App,
    cluster::{SYSTEM, run as command},
    process::{Process, as_controller, without_installed},
    space::Space,
    test::Test,
    timeline::Timeline,
    wait::{seconds, wait_for, when},
};

/// Pairs of controllers at the same time.
const BESIDE: usize = 8;
/// The old leader freezes at these writes after the release.
const WRITES: [usize; 8] = [1, 3, 5, 7, 9, 17, 23, 26];

pub async fn run(test: &Test) -> Result<()> {
    let pairs = async {
        let each = stream::iter(WRITES).map(|n| async move { pair(test, n).await.with_context(|| format!("frozen at write {n}")) });
        let all: Vec<Option<Entry>> = each.buffer_unordered(BESIDE).try_collect().await?;
        let held: Vec<String> = all.into_iter().flatten().map(|entry| entry.to_string()).collect();
        ensure!(held.len() >= 7, "only {} leaders froze in a write: {held:#?}", held.len());
        test.say(format!(
            "{} leaders froze in a write; nothing that its successor had done was changed by it:\n  {}",
            held.len(),
            held.join("\n  ")
        ));
        Ok(())
    };
    without_installed(&test.cluster, pairs).await
}

/// The installed controller may use one lease; each pair needs one of its own.
async fn allow_lease(test: &Test, name: &str) -> Result<()> {
    let rules =
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": [name], "verbs": ["get", "update"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "sluice", "namespace": SYSTEM}],
    });
    let system = Space { client: test.cluster.client.clone(), name: SYSTEM.to_owned() };
    for (kind, manifest) in [("Role", role), ("RoleBinding", binding)] {
        system.api(kind).patch(name, &PatchParams::apply("e2e"), &Patch::Apply(&manifest)).await?;
    }
    Ok(())
}

/// Two controllers; the one that leads freezes at its n-th write after the release. Gives that write, if it came.
async fn pair(test: &Test, n: usize) -> Result<Option<Entry>> {
    let space = Space::create(&test.cluster.client, &format!("e2e-frozen-{n:02}")).await?;
    let mut app = App::new(&test.cluster, &space, "api")?;
    app.pace(1, 2, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 25}, {"setWeight": 50}]));
    app.rollout["spec"]["traffic"]["stepGraceSeconds"] = json!(0);
    app.deploy(1).await?;
    let lease = space.name.clone();
    allow_lease(test, &lease).await?;
    let arguments = [format!("--watch-namespaces={}", space.name), format!("--lease-name={lease}")];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();

    // The pid, once the old leader is to freeze, and the write at which it does.
    let (pid, freeze_at) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(u32::MAX)));
    let (go_on, frozen) = watch::channel(false);
    let choose = {
        let (pid, freeze_at) = (pid.clone(), freeze_at.clone());
        move |asked: &Asked| match asked.write {
            Some(write) if u32::try_from(write).ok() == Some(freeze_at.load(Ordering::SeqCst)) => {
                let (pid, mut frozen) = (pid.load(Ordering::SeqCst).to_string(), frozen.clone());
                Fault::Late(Box::pin(async move {
                    drop(command("kill", ["-STOP", &pid]).await);
                    drop(frozen.wait_for(|go_on| *go_on).await);
                }))
            }
            _ => Fault::None,
        }
    };
    let old_proxy = FaultProxy::start(as_controller(&test.cluster).await?, choose).await?;
    let old = Process::start(&format!("{}-old", space.name), &old_proxy, &arguments)?;
    pid.store(old.id()?, Ordering::SeqCst);
    app.roll().await?;
    let new_proxy = FaultProxy::start(as_controller(&test.cluster).await?, |_: &Asked| Fault::None).await?;
    let _new = Process::start(&format!("{}-new", space.name), &new_proxy, &arguments)?;

    let load = app.load(20)?;
    let timeline = Timeline::start(&space, "Rollout", "api");
    freeze_at.store(u32::try_from(old_proxy.writes() + n)?, Ordering::SeqCst);
    app.release("v2", &[]).await?;
    let status = space.until_healthy("api", "sluice.dev/app:v2", seconds(120)).await?;
    let left = names(&space).await?;
    let before = old_proxy.entries().len();
    go_on.send_replace(true);
    old.signal("CONT").await?;
    // It has woken up once it has found out who leads.
    wait_for("the old leader has seen the lease of the new one", seconds(60), async || {
        let entries = old_proxy.entries();
        let seen = entries[before..].iter().filter(|entry| entry.asked.is_lease()).count();
        Ok(when(seen >= 2, || format!("{seen} requests for the lease")))
    })
    .await?;
    let late: Vec<Entry> = old_proxy.entries().split_off(before);
    let took_effect = |entry: &&Entry| entry.asked.write.is_some() && entry.answer.is_some_and(|code| code.is_success());
    // What does not exist carries no epoch: something may be made that its successor has taken away already. It goes again.
    let changed: Vec<String> =
        late.iter().filter(took_effect).filter(|entry| entry.asked.method != "POST").map(ToString::to_string).collect();
    ensure!(changed.is_empty(), "writes of the old leader took effect after its successor was done: {changed:#?}");
    let held = late.into_iter().find(|entry| entry.fault == "late");
    wait_for("there is nothing but what its successor has left", seconds(20), async || {
        let now = names(&space).await?;
        Ok(when(now == left, || format!("{now:?}, and not {left:?}")))
    })
    .await?;
    same_end(&space, &status, &timeline).await?;
    test.stop(load).await?.ensure_no_failures()?;
    space.delete().await?;
    space.gone().await?;
    Ok(held)
}

/// What is there of the kinds that a rollout makes.
async fn names(space: &Space) -> Result<Vec<String>> {
    let mut names = vec![];
    for kind in ["Service", "ReplicaSet", "ControllerRevision", "AnalysisRun"] {
        names.extend(space.list(kind).await?.iter().map(|object| format!("{kind} {}", object["metadata"]["name"])));
    }
    names.sort();
    Ok(names)
}

async fn same_end(space: &Space, status: &RolloutStatus, timeline: &Timeline) -> Result<()> {
    let ended: Vec<RolloutOutcome> = status.history.iter().map(|entry| entry.outcome).collect();
    ensure!(ended == [RolloutOutcome::Promoted], "the history says {ended:?}");
    let weights = timeline.weights()?;
    ensure!(weights == [25.0, 50.0, 100.0], "the weights that were observed are {weights:?}");
    let now = space.until_healthy("api", "sluice.dev/app:v2", seconds(30)).await?;
    ensure!(now.history == status.history, "the history has changed since: {:?}, was {:?}", now.history, status.history);
    Ok(())
}
