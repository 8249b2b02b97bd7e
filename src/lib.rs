//! Sluice: progressive delivery for Kubernetes on the Gateway API.
#![forbid(unsafe_code)]
pub mod act;
pub mod api;
pub mod cli;
pub mod controller;
pub mod core;
#[cfg(feature = "sim")]
pub mod demo;
pub mod lease;
pub mod metrics;
pub mod notify;
pub mod preflight;
#[cfg(feature = "sim")]
pub mod sim;
pub mod telemetry;
pub mod world;
