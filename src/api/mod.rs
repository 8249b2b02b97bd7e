//! The API that users read and write: `sluice.dev/v1alpha1`.
//!
//! Doc comments on fields become `kubectl explain`, so they are written for users: what a field does, its unit, range and default.
//! Every rule that CEL can express is a validation rule here, with a message that says how to mend it; what it cannot express is
//! checked by `core::spec` and reported as the condition `InvalidSpec`.

pub mod action;
pub mod analysis;
pub mod conditions;
pub mod keys;
pub mod quantity;
pub mod rollout;
pub mod run;
pub mod status;

pub use action::{Outcome, RolloutAction, RolloutActionSpec, RolloutActionStatus, Verb};
pub use analysis::{AnalysisTemplate, AnalysisTemplateSpec, Argument, Metric};
pub use quantity::Span;
pub use rollout::{Rollout, RolloutSpec};
pub use run::{AnalysisRun, AnalysisRunSpec, AnalysisRunStatus, RunPhase, Verdict};
pub use status::{Phase, RolloutStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of everything Sluice defines.
pub const GROUP: &str = "sluice.dev";
/// The API version of everything Sluice defines.
pub const VERSION: &str = "v1alpha1";

/// All CustomResourceDefinitions, in the order in which they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Rollout::crd(), AnalysisTemplate::crd(), AnalysisRun::crd(), RolloutAction::crd()]
}
