//! Sluice: progressive delivery for Kubernetes on the Gateway API.
#![forbid(unsafe_code)]
pub mod api;
pub mod cli;
pub mod core;
pub mod metrics;
