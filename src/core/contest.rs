//! Somebody who keeps putting back what a rollout changes: it is repaired every time, and named; and the step is held, as a canary whose
//! traffic comes and goes is not judged.

use jiff::SignedDuration;

use super::{
    draft::{Draft, Flow, Waiting, wait},
    observed::Meta,
};
use crate::api::status::Reverted;

/// So many times in a row are no accident.
const CONTESTED_AFTER: i32 = 3;
/// After this time without another one, the matter is closed. (Argo CD waits up to 5 minutes between two attempts.)
const QUIET: SignedDuration = SignedDuration::from_mins(5);

impl Draft<'_> {
    /// Takes note of routes that somebody has put back.
    pub fn note_reverted_routes(&mut self) {
        let denominator = self.spec.denominator();
        let obs = self.obs;
        let reverted: Vec<bool> = self.routes().iter().map(|route| route.was_put_back(denominator)).collect();
        for (route, _) in obs.routes.iter().zip(reverted).filter(|(_, reverted)| *reverted) {
            self.note_revert(&route.kind.to_string(), &route.meta, route.meta.generation.to_string());
        }
        let now = self.now;
        self.status.reverted.retain(|reverted| now < reverted.at.0 + QUIET);
        if let Some(next) = self.status.reverted.iter().map(|reverted| reverted.at.0 + QUIET).min() {
            self.wake(next);
        }
    }

    /// Each version counts once.
    pub fn note_revert(&mut self, kind: &str, meta: &Meta, version: String) {
        let what = format!("{kind} {}", meta.name);
        let manager = meta.last_writer.clone().unwrap_or_else(|| "somebody".to_owned());
        let before = self.status.reverted.iter().find(|before| before.what == what && before.manager == manager);
        if before.is_some_and(|before| before.version == version) {
            return;
        }
        let count = before.map_or(1, |before| before.count + 1);
        let at = self.time();
        self.status.reverted.retain(|before| before.what != what);
        self.status.reverted.push(Reverted { what, manager, count, version, at });
    }

    /// Who contests the traffic, and how to mend that.
    pub fn contested(&self) -> Option<String> {
        let reverted = self.status.reverted.iter().find(|reverted| reverted.count >= CONTESTED_AFTER)?;
        let (service, canary) = self.pair();
        let (field, in_git) = match reverted.what.starts_with("Service") {
            true => ("spec.selector", "let it ignore".to_owned()),
            // Rules of our own are there only while a rollout runs, whatever Git lists.
            false if self.spec.has_rules() => ("spec.rules", "let it ignore".to_owned()),
            false => ("spec.rules", format!("list {service} and {canary} there in Git, both without weights, or let it ignore")),
        };
        let how = match reverted.manager.as_str() {
            argo if argo.contains("argocd") => format!(" (Argo CD: ignoreDifferences on /{} with RespectIgnoreDifferences)", field.replace('.', "/")),
            flux if flux.contains("kustomize-controller") => {
                " (Flux: it honours the annotation kustomize.toolkit.fluxcd.io/reconcile on the live object; see whether something removes it)".to_owned()
            }
            _ => String::new(),
        };
        Some(format!(
            "{} has put {} back {} times while the rollout runs: {in_git} {field} while a rollout runs{how}; until then the rollout stays where it is",
            reverted.manager, reverted.what, reverted.count
        ))
    }

    /// No step is taken on ground that moves.
    pub fn ensure_uncontested(&self) -> Flow {
        match self.contested() {
            Some(why) => wait(Waiting::Settling, why),
            None => Ok(()),
        }
    }
}
