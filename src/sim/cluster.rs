//! The simulated cluster as a whole: API server, controllers, clock, clients.

use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};

use super::api::{ApiError, ApiServer};
use super::controllers::{Behaviour, Controllers, Programmed, Timing};
use super::service::{Clock, Handle, Hook};

/// How a simulated cluster behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides every uid and generated name.
    pub seed: u64,
    /// The time at which the cluster starts.
    pub epoch: Timestamp,
    pub timing: Timing,
    /// The first two numbers of every pod's address; `None` has them all at 127.0.0.1.
    pub pod_addresses: Option<[u8; 2]>,
}

impl Options {
    /// Real time, and pods at addresses where apps can listen: each at its own one, where the system has more than
    /// one loopback address.
    pub fn live() -> Self {
        let pod_addresses = cfg!(target_os = "linux").then_some([127, 1]);
        Self { epoch: Timestamp::now(), pod_addresses, ..Self::default() }
    }
}

impl Default for Options {
    /// Starts on 2026-01-01, with pods at 10.244.x.y.
    fn default() -> Self {
        let epoch = Timestamp::from_second(1_767_225_600).unwrap_or_default();
        Self { seed: 1, epoch, timing: Timing::default(), pod_addresses: Some([10, 244]) }
    }
}

/// A running simulated cluster. Time is tokio's: real, or virtual under a paused clock.
/// Its controllers stop when it is dropped.
pub struct SimCluster {
    handle: Handle,
    controllers: Arc<Mutex<Controllers>>,
    /// Has the controllers look again although nothing was written.
    nudge: Arc<Notify>,
    driver: JoinHandle<()>,
}

impl Drop for SimCluster {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl SimCluster {
    /// Starts the cluster's controllers on the current tokio runtime.
    pub fn start(options: Options) -> Self {
        let clock = Clock::starting_at(options.epoch);
        let server = ApiServer::new(options.seed, clock.now());
        let handle = Handle::new(server, clock);
        let controllers = Controllers::new(options.timing, options.pod_addresses);
        let controllers = Arc::new(Mutex::new(controllers));
        let nudge = Arc::new(Notify::new());
        let driver = tokio::spawn(drive(handle.clone(), controllers.clone(), nudge.clone()));
        Self { handle, controllers, nudge, driver }
    }

    /// A client under its own name: the actor of its writes and the default field manager.
    pub fn client(&self, actor: &str) -> kube::Client {
        self.handle.client(actor)
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub fn now(&self) -> Timestamp {
        self.handle.now()
    }

    /// Sees (and may disturb) every request, and sees every write.
    pub fn set_hook(&self, hook: impl Hook + 'static) {
        self.handle.set_hook(hook);
    }

    /// Serves custom resources of this definition.
    pub fn install_crd(&self, crd: Value) -> Result<(), ApiError> {
        self.handle.with(|server, now| server.install_crd(crd, now)).map(drop)
    }

    /// How the pods of an image behave from now on.
    pub fn set_behaviour(&self, image: &str, behaviour: Behaviour) {
        self.adjust(|c| c.kubelet.set_behaviour(image, behaviour));
    }

    /// Changes the controllers (timing, pods, gateway) and has them look again.
    pub fn adjust(&self, change: impl FnOnce(&mut Controllers)) {
        let mut controllers = lock(&self.controllers);
        change(&mut controllers);
        controllers.look_again();
        drop(controllers);
        self.nudge.notify_one();
    }

    /// What the gateway's data plane does at present.
    pub fn programmed(&self) -> Arc<Programmed> {
        lock(&self.controllers).gateway.programmed().clone()
    }

    /// As [`SimCluster::programmed`], for as long as needed.
    pub fn data_plane(&self) -> impl Fn() -> Arc<Programmed> + Send + Sync + use<> {
        let controllers = self.controllers.clone();
        move || lock(&controllers).gateway.programmed().clone()
    }

    /// An object as it is stored, past any client; `kind` is such as `deployments.apps`.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        self.handle.with(|server, _| server.get(kind, namespace, name).map(|o| (**o).clone()))
    }

    /// All objects of a kind in a namespace, by name.
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        self.handle.with(|server, _| {
            let objects = server.list(kind).filter(|o| o["metadata"]["namespace"] == namespace);
            objects.map(|o| (**o).clone()).collect()
        })
    }

    /// Waits until something holds, looking after every write and, while none comes, every 100 ms.
    pub async fn until(&self, mut holds: impl FnMut(&Self) -> bool) {
        let mut revisions = self.handle.revisions();
        while !holds(self) {
            tokio::select! {
                _ = revisions.changed() => {}
                () = sleep(std::time::Duration::from_millis(100)) => {}
            }
        }
    }
}

fn lock(controllers: &Mutex<Controllers>) -> MutexGuard<'_, Controllers> {
    controllers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs the controllers: after every write (and their reaction time), and whenever something is due.
async fn drive(handle: Handle, controllers: Arc<Mutex<Controllers>>, nudge: Arc<Notify>) {
    let mut revisions = handle.revisions();
    loop {
        let (due, seen, reaction) = {
            let mut controllers = lock(&controllers);
            let reaction = controllers.timing.reaction;
            handle.with(|server, now| (controllers.step(server, now), server.revision(), reaction))
        };
        let timer = async {
            match due {
                Some(at) => sleep_until(handle.clock().instant(at)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            served = async { revisions.wait_for(|revision| *revision > seen).await.is_ok() } => {
                if !served {
                    return;
                }
                sleep(reaction).await;
            }
            () = timer => {}
            () = nudge.notified() => {}
        }
    }
}
