//! What a cluster does by itself: its controllers, as one deterministic step over the API server's state.
//! Each looks at everything there is and does what is due, where something that it reads has changed or is due; the step says when
//! something will be due next.

mod alarm;
mod availability;
mod deployment;
mod endpoints;
mod garbage;
mod gateway;
mod kubelet;
mod namespace;
mod objects;
mod replicaset;
mod rolling;

use std::time::Duration;

use jiff::Timestamp;

use super::api::ApiServer;
use alarm::Alarm;
use objects::{DEPLOYMENTS, ENDPOINT_SLICES, PODS, REPLICA_SETS, SERVICES};

pub use garbage::Collector;
pub use gateway::{Backend, Cluster, Endpoint, Programmed, Route, Rule};
pub use kubelet::Behaviour;

/// How long the parts of the cluster take.
#[derive(Debug, Clone)]
pub struct Timing {
    /// From a write until the controllers have seen it. Default 20 ms.
    pub reaction: Duration,
    /// From a pod's change until the EndpointSlices show it. Default 100 ms.
    pub endpoints: Duration,
    /// From a route's change until its status says that it is accepted. Default 200 ms.
    pub accept: Duration,
    /// From a route's change until traffic follows it. Default 300 ms.
    pub program: Duration,
    /// From an EndpointSlice's change (or a backend's entry into a route) until traffic follows it: a gateway learns
    /// of backends later than of routes, so that a new one with a weight fails at first. Default 500 ms.
    pub clusters: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { reaction: ms(20), endpoints: ms(100), accept: ms(200), program: ms(300), clusters: ms(500) }
    }
}

/// All controllers and what they remember.
#[derive(Clone)]
pub struct Controllers {
    pub timing: Timing,
    pub kubelet: kubelet::Kubelet,
    pub gateway: gateway::Gateway,
    endpoints: endpoints::Endpoints,
    garbage: garbage::Collector,
    alarms: Alarms,
}

/// When each controller looks again.
#[derive(Clone, Default)]
struct Alarms {
    deployment: Alarm,
    replicaset: Alarm,
    kubelet: Alarm,
    endpoints: Alarm,
    gateway: Alarm,
}

/// More rounds than any chain of controllers that wait for each other needs; beyond them, two of them fight.
const MAX_ROUNDS: usize = 1000;

impl Controllers {
    /// `address_prefix`: the first two numbers of every pod's address; `None` has them all at 127.0.0.1.
    pub fn new(timing: Timing, address_prefix: Option<[u8; 2]>) -> Self {
        Self {
            timing,
            kubelet: kubelet::Kubelet::new(address_prefix),
            gateway: gateway::Gateway::default(),
            endpoints: endpoints::Endpoints::default(),
            garbage: garbage::Collector::default(),
            alarms: Alarms::default(),
        }
    }

    /// Every controller looks at everything at the next step: something besides the server's objects has changed.
    pub fn look_again(&mut self) {
        self.alarms = Alarms::default();
    }

    /// Does all that is due now; returns when something will be due next, if nothing else happens.
    pub fn step(&mut self, api: &mut ApiServer, now: Timestamp) -> Option<Timestamp> {
        if self.kubelet.is_changed() {
            self.alarms.kubelet = Alarm::default();
        }
        let Self { timing, kubelet, gateway, endpoints, garbage, alarms } = self;
        for _ in 0..MAX_ROUNDS {
            let before = api.revision();
            namespace::step(api, now);
            garbage.step(api, now);
            let due = [
                alarms.deployment.answer(api, now, &[DEPLOYMENTS, REPLICA_SETS], |api| deployment::step(api, now)),
                alarms.replicaset.answer(api, now, &[REPLICA_SETS, PODS], |api| replicaset::step(api, now)),
                alarms.kubelet.answer(api, now, &[PODS], |api| kubelet.step(api, now)),
                alarms.endpoints.answer(api, now, &[SERVICES, PODS, ENDPOINT_SLICES], |api| endpoints.step(api, now, timing.endpoints)),
                alarms.gateway.answer(api, now, &gateway::READ, |api| gateway.step(api, now, timing)),
            ];
            if api.revision() == before {
                return due.into_iter().flatten().min();
            }
        }
        tracing::error!(%now, "the simulated controllers do not come to rest");
        None
    }
}

/// The earlier of two moments, where either may be absent.
fn sooner(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A moment after another; the end of time at most.
fn after(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}
