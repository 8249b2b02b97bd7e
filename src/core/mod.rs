//! What to do, as pure functions: no Kubernetes client, no runtime, no clock, no environment, no input or output.
//!
//! [`plan::plan`] takes what is [`observed`] and the time, and returns actions, a status and when to look again. The way through:
//! [`plan`] walks a straight line of `ensure…()?` calls over a [`draft::Draft`]; [`roll`] is the line of a canary ([`count`] of one without routes), [`home`] the way back to rest,
//! [`workload`] taking over and giving back, [`traffic`] the two Services ([`contest`] with whoever puts them back, [`policy`] what is attached to them), [`route`] the weights, [`canary_rule`] rules of our own beside them ([`requests`]: what they match), [`fence`] what keeps an old leader out, [`command`] what people ask for, [`undo`] the way back to an earlier revision, [`restart`] pods that are replaced,
//! [`verdict`] what the analysis lets it do, [`proof`] a step that waits for it, [`report`] what the status says.
//!
//! [`analysis`] is the life of an AnalysisRun: [`source`] (with [`query`], [`presets`], [`selector`]) is what it measures, [`counters`] what was counted between two edges, [`judge`] the verdict.

pub mod analysis;
pub mod canary_rule;
mod command;
mod contest;
mod count;
pub mod counters;
pub mod draft;
mod fence;
pub mod histogram;
mod home;
pub mod judge;
mod missing;
pub mod observed;
pub mod patch;
pub mod plan;
pub mod policy;
pub mod presets;
mod proof;
pub mod query;
pub mod report;
mod requests;
mod restart;
pub mod revision;
mod roll;
pub mod route;
pub mod selector;
pub mod source;
pub mod spec;
mod traffic;
mod undo;
mod verdict;
pub mod workload;

pub use observed::Observed;
pub use plan::{Plan, Settings, plan};
