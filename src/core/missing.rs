//! While no rollout runs: what the spec names may come later, as Git tools apply in any order, and may go.

use super::{
    draft::{Draft, Flow, Pending, Waiting, wait},
    plan::Outcome,
};
use crate::api::status::Transition;

impl Draft<'_> {
    /// Everything that the next rollout needs is there. The present version serves without it.
    pub fn ensure_all_there(&self) -> Flow {
        if self.spec.has_traffic {
            self.named().or_else(|message| wait(Waiting::Missing, message))?;
        }
        let missing = self.obs.rollout.spec.templates().find(|template| !self.obs.analysis_templates.contains_key(template));
        match missing {
            Some(template) => wait(
                Waiting::Missing,
                format!("waits for {template}: it does not exist yet; create it, or correct the templates of spec.strategy.canary"),
            ),
            None => Ok(()),
        }
    }

    /// Waits for what is missing until the progress deadline; after that somebody must see to it, and it is still waited for. Since when
    /// is in status.
    pub fn keep_waiting(&mut self, pending: Pending) -> Flow<Outcome> {
        if pending.kind != Waiting::Missing {
            return Err(pending);
        }
        let what = format!("rest/{}", pending.message);
        let known = self.obs.rollout.status.transition.as_ref().filter(|transition| transition.what == what);
        let since = known.map_or_else(|| self.time(), |transition| transition.since.clone());
        let limit = self.spec.progress_deadline;
        let end = since.0 + limit;
        self.status.transition = Some(Transition { what, since, observed_at: None });
        if self.now < end {
            self.wake(end);
            return Err(pending);
        }
        Ok(Outcome::Stalled(format!("{} (for more than {} s, progressDeadlineSeconds)", pending.message, limit.as_secs())))
    }
}
