//! What to do, as pure functions: no Kubernetes client, no runtime, no clock, no environment, no input or output.
//!
//! [`plan::plan`] takes what is [`observed`] and the time, and returns actions, a status and when to look again. The way through:
//! [`plan`] walks a straight line of `ensure…()?` calls over a [`draft::Draft`]; [`roll`] is the line of a canary, [`home`] the way back to rest,
//! [`workload`] taking over and giving back, [`traffic`] the two Services, [`route`] the weights, [`command`] what people ask for,
//! [`verdict`] what the analysis lets it do, [`report`] what the status says.

pub mod analysis;
mod command;
pub mod draft;
mod home;
pub mod observed;
pub mod patch;
pub mod plan;
pub mod report;
pub mod revision;
mod roll;
pub mod route;
pub mod spec;
mod traffic;
mod verdict;
pub mod workload;

pub use observed::Observed;
pub use plan::{Plan, Settings, plan};
