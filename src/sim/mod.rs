//! A simulated cluster that answers real Kubernetes clients, in virtual or real time.
//!
//! - [`api`]: the API server as a deterministic state machine
//! - [`service`]: the same behind a `kube::Client`, with watches as streams
//! - [`controllers`]: what a cluster does by itself, with a gateway and its data plane
//! - [`serve`]: the API over real HTTP, for `kubectl`
//! - [`traffic`]: real requests through the gateway's data plane to apps in this process
//! - [`cluster`]: all of it together
//! - [`clients`]: requests that are drawn by chance, and what metrics make of them
//! - [`drive`]: the same with the controller in one loop, without a runtime; [`promises`] are checked at every write

pub mod api;
pub mod clients;
pub mod cluster;
pub mod controllers;
pub mod drive;
mod http;
pub mod promises;
pub mod random;
pub mod serve;
pub mod service;
pub mod traffic;

pub use cluster::{Options, SimCluster};
pub use controllers::{Behaviour, Timing};
pub use serve::ApiEndpoint;
