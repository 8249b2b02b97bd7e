//! The garbage collector: dependents go when all their owners are gone, by the propagation that was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::objects::{Writer, has_finalizer, is_deleting, key, namespace, owners, text, uid};
use crate::sim::api::{ApiServer, Change, DeleteOptions, Event, Propagation};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const ACTOR: &str = "generic-garbage-collector";

type Item = (Arc<str>, Arc<Value>);

/// The cluster's objects by uid, and who depends on whom.
struct Graph {
    items: Vec<Item>,
    by_uid: BTreeMap<String, usize>,
    dependents: BTreeMap<String, Vec<usize>>,
}

impl Graph {
    fn of(api: &ApiServer) -> Self {
        let mut graph = Self { items: Vec::new(), by_uid: BTreeMap::new(), dependents: BTreeMap::new() };
        for kind in api.kinds().iter() {
            for object in api.list(&kind.id) {
                let index = graph.items.len();
                graph.by_uid.insert(uid(object).to_owned(), index);
                for owner in owners(object) {
                    graph.dependents.entry(text(&owner["uid"]).to_owned()).or_default().push(index);
                }
                graph.items.push((kind.id.clone(), object.clone()));
            }
        }
        graph
    }

    /// An owner counts only in the dependent's namespace, or cluster-wide.
    fn owner(&self, dependent: &Value, reference: &Value) -> Option<&Value> {
        let owner = &self.items[*self.by_uid.get(text(&reference["uid"]))?].1;
        let ns = namespace(owner);
        (ns.is_empty() || ns == namespace(dependent)).then_some(owner)
    }

    fn dependents<'a>(&'a self, owner: &Value) -> impl Iterator<Item = &'a Item> {
        let list = self.dependents.get(uid(owner)).map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|i| &self.items[*i])
    }
}

/// Remembers up to where it has followed the server's writes.
#[derive(Clone, Default)]
pub struct Collector {
    seen: u64,
}

impl Collector {
    pub fn step(&mut self, api: &mut ApiServer, now: Timestamp) {
        let seen = std::mem::replace(&mut self.seen, api.revision());
        if api.forgotten() <= seen && !api.since(seen).any(|event| concerns(event)) {
            return;
        }
        let graph = Graph::of(api);
        let mut writer = Writer::new(api, ACTOR, now);
        for item in &graph.items {
            if is_deleting(&item.1) {
                finish_owner(&graph, item, &mut writer);
            } else if owners(&item.1).next().is_some() {
                judge_dependent(&graph, item, &mut writer);
            }
        }
    }
}

/// Whether a write changes who depends on whom, or what goes.
fn concerns(event: &Event) -> bool {
    let before = event.before.as_deref().unwrap_or_default();
    let differs = |field: &str| before["metadata"][field] != event.object["metadata"][field];
    event.change == Change::Deleted || ["ownerReferences", "finalizers", "deletionTimestamp"].into_iter().any(differs)
}

/// An owner that is being deleted: orphan its dependents, or wait until those that block it are gone.
fn finish_owner(graph: &Graph, (kind, owner): &Item, writer: &mut Writer<'_>) {
    if has_finalizer(owner, ORPHAN) {
        let gone = BTreeSet::from([uid(owner)]);
        for (dependent_kind, dependent) in graph.dependents(owner) {
            drop_owners(writer, dependent_kind, dependent, &gone);
        }
        drop_finalizer(writer, kind, owner, ORPHAN);
    } else if has_finalizer(owner, FOREGROUND) {
        let blocks = |(_, d): &&Item| owners(d).any(|o| o["uid"] == uid(owner) && o["blockOwnerDeletion"] == true);
        if graph.dependents(owner).find(blocks).is_none() {
            drop_finalizer(writer, kind, owner, FOREGROUND);
        }
    }
}

fn judge_dependent(graph: &Graph, (kind, item): &Item, writer: &mut Writer<'_>) {
    let (mut solid, mut waiting, mut gone) = (0, 0, BTreeSet::new());
    for reference in owners(item) {
        match graph.owner(item, reference) {
            None => drop(gone.insert(text(&reference["uid"]))),
            Some(owner) if is_deleting(owner) && has_finalizer(owner, FOREGROUND) => {
                waiting += 1;
                gone.insert(text(&reference["uid"]));
            }
            Some(_) => solid += 1,
        }
    }
    if gone.is_empty() {
        return;
    }
    if solid > 0 {
        drop_owners(writer, kind, item, &gone);
        return;
    }
    let propagation = if (waiting > 0 && graph.dependents(item).next().is_some()) || has_finalizer(item, FOREGROUND) {
        Propagation::Foreground
    } else if has_finalizer(item, ORPHAN) {
        Propagation::Orphan
    } else {
        Propagation::Background
    };
    let options = DeleteOptions { propagation: Some(propagation), uid: Some(uid(item).to_owned()), ..DeleteOptions::default() };
    writer.delete(kind, &key(item), &options);
}

fn drop_owners(writer: &mut Writer<'_>, kind: &str, item: &Value, gone: &BTreeSet<&str>) {
    writer.change(kind, &key(item), |object| {
        let left: Vec<Value> = owners(object).filter(|o| !gone.contains(text(&o["uid"]))).cloned().collect();
        set_or_remove(object, "ownerReferences", left);
    });
}

fn drop_finalizer(writer: &mut Writer<'_>, kind: &str, item: &Value, finalizer: &str) {
    writer.change(kind, &key(item), |object| {
        let list = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        set_or_remove(object, "finalizers", list.into_iter().filter(|f| f != finalizer).collect());
    });
}

fn set_or_remove(object: &mut Value, field: &str, list: Vec<Value>) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    if list.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(field.to_owned(), list.into());
    }
}
