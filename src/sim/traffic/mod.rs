//! Real requests in a simulated cluster, for the demo: apps that answer, a weighted proxy that follows the programmed
//! routes, and a constant load. All of it is HTTP on loopback, in this process.
//!
//! Each pod whose image is known listens at its own address and container port. Where the machine has only one
//! loopback address (everywhere but on Linux), or the port is taken, it listens on any free port and its annotation
//! `prometheus.io/port` says which; a scraper that goes by pod address and that annotation finds it either way.

mod app;
mod load;
mod proxy;

pub use app::{AppHost, AppVersion};
pub use load::{Load, Outcome};
pub use proxy::{Proxy, Tally};

/// The header by which an answer names the version that gave it.
pub const VERSION_HEADER: &str = "x-version";
