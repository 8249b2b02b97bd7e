//! When a controller has to look again.

use jiff::Timestamp;

use crate::sim::api::ApiServer;

/// A controller's look depends on the objects of some kinds and on what is due: where neither has changed, it would find nothing to do.
#[derive(Clone, Default)]
pub struct Alarm {
    /// The server's revision at the last look.
    seen: Option<u64>,
    due: Option<Timestamp>,
}

impl Alarm {
    /// Has a controller look, if it must; returns when something is due for it next.
    pub fn answer(
        &mut self,
        api: &mut ApiServer,
        now: Timestamp,
        reads: &[&str],
        look: impl FnOnce(&mut ApiServer) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        let news = self.seen.is_none_or(|seen| reads.iter().any(|kind| api.written(kind) > seen));
        if news || self.due.is_some_and(|due| due <= now) {
            self.seen = Some(api.revision());
            self.due = look(api);
        }
        self.due
    }
}
