//! A simulated cluster that answers real Kubernetes clients, in virtual or real time.
//!
//! - [`api`]: the API server as a deterministic state machine
//! - [`service`]: the same behind a `kube::Client`, with watches as streams
//! - [`cluster`]: all of it together

pub mod api;
pub mod cluster;
pub mod service;

pub use cluster::{Options, SimCluster};
