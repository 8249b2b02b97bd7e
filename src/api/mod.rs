//! The API that users read and write: `sluice.dev/v1alpha1`.
//!
//! Doc comments on fields become `kubectl explain`, so they are written for users: what a field does, its unit, range and default.
//! Every rule that CEL can express is a validation rule here, with a message that says how to mend it; what it cannot express is
//! checked by `core::spec` and reported as the condition `InvalidSpec`.

pub mod access;
pub mod action;
pub mod analysis;
pub mod conditions;
pub mod keys;
pub mod quantity;
pub mod rollout;
pub mod run;
pub mod status;

pub use action::{Outcome, RolloutAction, RolloutActionSpec, RolloutActionStatus, Verb};
pub use analysis::{AnalysisTemplate, AnalysisTemplateSpec, Argument, ClusterAnalysisTemplate, Metric};
pub use quantity::Span;
pub use rollout::{Rollout, RolloutSpec};
pub use run::{AnalysisRun, AnalysisRunSpec, AnalysisRunStatus, RunPhase, Verdict};
pub use status::{Phase, RolloutStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// The API group of everything Sluice defines.
pub const GROUP: &str = "sluice.dev";
/// The API version of everything Sluice defines.
pub const VERSION: &str = "v1alpha1";

/// All CustomResourceDefinitions, in the order in which they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let all = [Rollout::crd(), AnalysisTemplate::crd(), ClusterAnalysisTemplate::crd(), AnalysisRun::crd(), RolloutAction::crd()];
    all.into_iter().map(strict).collect()
}

/// A field that is `null` is refused like one of a wrong type, instead of being taken for absent: `pause:` with nothing behind it is
/// a slip of the pen, not a decision to wait for ever.
fn strict(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn walk(schema: &mut JSONSchemaProps) {
        schema.nullable = None;
        schema.enum_.iter_mut().for_each(|values| values.retain(|value| !value.0.is_null()));
        if let Some(rules) = &mut schema.x_kubernetes_validations {
            let mut seen = vec![];
            rules.retain(|rule| {
                !seen.contains(&rule.rule) && {
                    seen.push(rule.rule.clone());
                    true
                }
            });
        }
        schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(walk);
        if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
            walk(items);
        }
        if let Some(JSONSchemaPropsOrBool::Schema(other)) = &mut schema.additional_properties {
            walk(other);
        }
    }
    for version in &mut crd.spec.versions {
        version.schema.iter_mut().filter_map(|s| s.open_api_v3_schema.as_mut()).for_each(walk);
    }
    crd
}
