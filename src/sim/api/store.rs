//! What the server holds: the objects, and the log of everything that was committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

/// Namespace (empty for cluster-scoped kinds) and name.
pub type ObjectKey = (String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One committed write.
#[derive(Debug, Clone)]
pub struct Event {
    pub revision: u64,
    pub at: Timestamp,
    /// Who asked for it: a client's name or a controller's.
    pub actor: Arc<str>,
    /// The kind's id, such as `deployments.apps`.
    pub kind: Arc<str>,
    pub change: Change,
    /// The object after the write (of a deletion: its last state, at the revision of the deletion).
    pub object: Arc<Value>,
    pub before: Option<Arc<Value>>,
}

/// Cloning it is cheap: objects are shared.
#[derive(Debug, Clone, Default)]
pub struct Store {
    tables: BTreeMap<Arc<str>, BTreeMap<ObjectKey, Arc<Value>>>,
    /// When a kind was written last.
    written: BTreeMap<Arc<str>, u64>,
    log: VecDeque<Arc<Event>>,
    revision: u64,
    /// Events up to and including this revision are forgotten.
    forgotten: u64,
}

/// Events that are remembered for watches; older ones are forgotten, and a watch from there is answered with 410.
const LOG_LIMIT: usize = 20_000;

impl Store {
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The revision of the last write to a kind.
    pub fn written(&self, kind: &str) -> u64 {
        self.written.get(kind).copied().unwrap_or(0)
    }

    pub fn get(&self, kind: &str, key: &ObjectKey) -> Option<&Arc<Value>> {
        self.tables.get(kind)?.get(key)
    }

    /// The objects of a kind, in order of namespace and name.
    pub fn list(&self, kind: &str) -> impl Iterator<Item = (&ObjectKey, &Arc<Value>)> {
        self.tables.get(kind).into_iter().flatten()
    }

    /// The committed writes after a revision, oldest first.
    pub fn since(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.log.partition_point(|e| e.revision <= revision);
        self.log.range(start..)
    }

    /// Writes an object (or, with `Change::Deleted`, removes it) at the next revision.
    pub fn commit(&mut self, write: Write<'_>) -> Arc<Value> {
        self.revision += 1;
        let Write { kind, key, mut object, change, actor, at } = write;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let table = self.tables.entry(kind.clone()).or_default();
        let before = match change {
            Change::Deleted => table.remove(&key),
            Change::Added | Change::Modified => table.insert(key, object.clone()),
        };
        let revision = self.revision;
        self.written.insert(kind.clone(), revision);
        let event = Event { revision, at, actor: actor.into(), kind: kind.clone(), change, object: object.clone(), before };
        self.log.push_back(Arc::new(event));
        if self.log.len() > LOG_LIMIT {
            self.forget(self.log[self.log.len() / 2].revision);
        }
        object
    }

    /// Forgets the history up to a revision, as etcd's compaction does.
    pub fn forget(&mut self, revision: u64) {
        self.forgotten = self.forgotten.max(revision.min(self.revision));
        while self.log.front().is_some_and(|e| e.revision <= self.forgotten) {
            self.log.pop_front();
        }
    }
}

/// A write that has passed every check.
pub struct Write<'a> {
    pub kind: &'a Arc<str>,
    pub key: ObjectKey,
    pub object: Value,
    pub change: Change,
    pub actor: &'a str,
    pub at: Timestamp,
}
