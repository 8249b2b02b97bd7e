//! The simulated cluster as a whole: API server, clock, clients.

use jiff::Timestamp;
use serde_json::Value;

use super::api::{ApiError, ApiServer};
use super::service::{Clock, Handle, Hook};

/// How a simulated cluster behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides every uid, generated name and choice.
    pub seed: u64,
    /// The time at which the cluster starts.
    pub epoch: Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, epoch: Timestamp::from_second(1_767_225_600).unwrap_or_default() }
    }
}

/// A running simulated cluster. Time is tokio's: real, or virtual under a paused clock.
pub struct SimCluster {
    handle: Handle,
}

impl SimCluster {
    /// Must be called in a tokio runtime.
    pub fn start(options: Options) -> Self {
        let clock = Clock::starting_at(options.epoch);
        let server = ApiServer::new(options.seed, clock.now());
        Self { handle: Handle::new(server, clock) }
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
}
