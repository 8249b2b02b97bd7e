//! The controller as a plain process of this machine, with a proxy between it and the API server: it can be killed, frozen and cut off at
//! any request. It has the rights of the one that is installed, and its program.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::Deployment,
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::api::{Patch, PatchParams};
use kube::{
    Api, Client, Config,
    api::{ObjectMeta, PostParams},
    config::AuthInfo,
};
use serde_json::json;
use sluice_faultproxy::FaultProxy;
use tokio::process::{Child, Command};

use crate::{
    cluster::{Cluster, SYSTEM, run, state},
    wait::{seconds, wait_for, when},
};

/// Where the next one listens: nobody else uses these ports in the cluster's network.
static PORT: AtomicU16 = AtomicU16::new(20_000);

pub struct Process {
    child: Child,
    name: String,
    arguments: Vec<String>,
    kubeconfig: PathBuf,
    log: PathBuf,
}

/// The cluster as the installed controller sees it.
pub async fn as_controller(cluster: &Cluster) -> Result<Client> {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let request = TokenRequest {
        metadata: ObjectMeta::default(),
        spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() }),
        status: None,
    };
    let token = accounts.create_token_request("sluice", &PostParams::default(), &request).await?.status.and_then(|status| status.token);
    let mut config = Config::infer().await?;
    config.auth_info = AuthInfo { token: Some(token.context("a token")?.into()), ..AuthInfo::default() };
    // A write that meets a fault is the controller's to repeat.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Stops the installed controllers while a scenario has its own.
pub async fn without_installed(cluster: &Cluster, scenario: impl Future<Output = Result<()>>) -> Result<()> {
    ensure!(cluster.own, "processes of this machine are seen by the cluster of e2e/cluster/up alone");
    scale(cluster, 0).await?;
    let played = scenario.await;
    scale(cluster, 2).await?;
    cluster.led().await?;
    played
}

async fn scale(cluster: &Cluster, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), SYSTEM);
    deployments.patch_scale("sluice", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": replicas}}))).await?;
    wait_for(&format!("{replicas} controllers are installed"), seconds(60), async || {
        let pods = cluster.controllers().await?.len();
        Ok(when(pods == usize::try_from(replicas)?, || format!("{pods} pods")))
    })
    .await
}

impl Process {
    /// Starts one behind this proxy.
    pub fn start(name: &str, proxy: &FaultProxy, arguments: &[&str]) -> Result<Self> {
        let directory = state().join("controllers");
        std::fs::create_dir_all(&directory)?;
        let (kubeconfig, log) = (directory.join(format!("{name}.kubeconfig")), directory.join(format!("{name}.log")));
        std::fs::write(&kubeconfig, proxy.kubeconfig())?;
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = spawn(name, &kubeconfig, &log, &arguments)?;
        Ok(Self { child, name: name.to_owned(), arguments, kubeconfig, log })
    }

    /// Starts it again after its end.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.wait().await?;
        self.child = spawn(&self.name, &self.kubeconfig, &self.log, &self.arguments)?;
        Ok(())
    }

    pub fn id(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("the controller {} has ended by itself: see {}", self.name, self.log.display()))
    }

    pub async fn signal(&self, signal: &str) -> Result<()> {
        run("kill", [&format!("-{signal}"), &self.id()?.to_string()]).await.map(drop)
    }
}

fn spawn(name: &str, kubeconfig: &PathBuf, log: &PathBuf, arguments: &[String]) -> Result<Child> {
    let profile = std::env::var("SLUICE_E2E_PROFILE").unwrap_or_else(|_| "e2e".into());
    let target = std::env::current_exe()?.parent().and_then(|debug| debug.parent()).context("the target directory")?.to_owned();
    let program = target.join("x86_64-unknown-linux-gnu").join(profile).join("sluice");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let listen = format!("127.0.0.1:{}", PORT.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new(&program);
    command.args(["run", "--namespace", SYSTEM, "--listen", &listen]).args(arguments);
    command.env_clear().env("KUBECONFIG", kubeconfig).env("POD_NAME", name);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot run {}", program.display()))
}
