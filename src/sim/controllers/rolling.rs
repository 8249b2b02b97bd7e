//! How a Deployment's replicas are shared among its ReplicaSets.

use std::sync::Arc;

use serde_json::Value;

use super::deployment::{Sets, set_sizes};
use super::objects::{REPLICA_SETS, Writer, key, number};

fn replicas(set: &Value) -> i64 {
    number(&set["spec"]["replicas"])
}

fn available(set: &Value) -> i64 {
    number(&set["status"]["availableReplicas"])
}

/// A count, or a percentage of the wanted replicas; surge rounds up, unavailability down.
fn part_of(value: &Value, wanted: i64, round_up: bool) -> i64 {
    match value.as_str().and_then(|t| t.strip_suffix('%')).and_then(|p| p.parse::<i64>().ok()) {
        Some(percent) if round_up => (wanted * percent + 99) / 100,
        Some(percent) => wanted * percent / 100,
        None => number(value),
    }
}

fn is_rolling(deployment: &Value) -> bool {
    deployment["spec"]["strategy"]["type"] == "RollingUpdate"
}

pub fn max_surge(deployment: &Value) -> i64 {
    let wanted = number(&deployment["spec"]["replicas"]);
    if is_rolling(deployment) { part_of(&deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"], wanted, true) } else { 0 }
}

pub fn max_unavailable(deployment: &Value) -> i64 {
    let wanted = number(&deployment["spec"]["replicas"]);
    if !is_rolling(deployment) || wanted == 0 {
        return 0;
    }
    let part = part_of(&deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], wanted, false);
    if part == 0 && max_surge(deployment) == 0 { 1 } else { part.min(wanted) }
}

fn resize(writer: &mut Writer<'_>, deployment: &Value, set: &Value, size: i64) {
    writer.change(REPLICA_SETS, &key(set), |s| {
        s["spec"]["replicas"] = size.into();
        set_sizes(s, deployment);
    });
}

/// After a change of `replicas`, and while paused: the only active set takes all; with no active one the new one does,
/// or, where there is none, the newest of the history. Several active ones share in proportion.
pub fn scale(writer: &mut Writer<'_>, deployment: &Value, sets: &Sets) {
    let wanted = number(&deployment["spec"]["replicas"]);
    let active: Vec<&Arc<Value>> = sets.all().filter(|s| replicas(s) > 0).collect();
    let only = match active.as_slice() {
        [] => sets.new.as_ref().or(sets.old.last()),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(set) = only {
        resize(writer, deployment, set, wanted);
        return;
    }
    if active.is_empty() {
        return;
    }
    if sets.new.as_ref().is_some_and(|n| replicas(n) == wanted && available(n) == wanted) {
        for set in sets.old.iter().filter(|s| replicas(s) > 0) {
            resize(writer, deployment, set, 0);
        }
    } else if is_rolling(deployment) {
        share(writer, deployment, &active, wanted + max_surge(deployment));
    }
}

/// Scales several active sets to `allowed` in all, in proportion; what rounding leaves goes to the largest.
fn share(writer: &mut Writer<'_>, deployment: &Value, active: &[&Arc<Value>], allowed: i64) {
    let allowed = if number(&deployment["spec"]["replicas"]) == 0 { 0 } else { allowed };
    let total: i64 = active.iter().map(|s| replicas(s)).sum();
    let mut sizes: Vec<i64> = active.iter().map(|s| replicas(s) * allowed / total.max(1)).collect();
    let rest = allowed - sizes.iter().sum::<i64>();
    let largest = (0..active.len()).max_by_key(|i| replicas(active[*i])).unwrap_or(0);
    sizes[largest] += rest;
    for (set, size) in active.iter().zip(sizes) {
        resize(writer, deployment, set, size);
    }
}

/// How large the new set may be now, given all that runs.
pub fn size_of_new(deployment: &Value, sets: &Sets, has: i64) -> i64 {
    let wanted = number(&deployment["spec"]["replicas"]);
    if !is_rolling(deployment) {
        return wanted;
    }
    let running: i64 = sets.all().map(|s| replicas(s)).sum();
    let room = wanted + max_surge(deployment) - running;
    has + room.clamp(0, (wanted - has).max(0))
}

/// One step of a rolling update (or of a recreation, whose old sets are already down).
pub fn roll(writer: &mut Writer<'_>, deployment: &Value, sets: &Sets) {
    let Some(new) = &sets.new else { return };
    let wanted = number(&deployment["spec"]["replicas"]);
    let size = if replicas(new) > wanted { wanted } else { size_of_new(deployment, sets, replicas(new)) };
    if size != replicas(new) {
        resize(writer, deployment, new, size);
        return;
    }
    if !is_rolling(deployment) {
        scale_down_all(writer, &sets.old);
        return;
    }
    let least = wanted - max_unavailable(deployment);
    let total: i64 = sets.all().map(|s| replicas(s)).sum();
    let mut spare = total - least - (replicas(new) - available(new)).max(0);
    // First what is not available anyway, then, oldest first, as many as availability allows.
    let mut sizes: Vec<i64> = sets.old.iter().map(|s| replicas(s)).collect();
    for (set, size) in sets.old.iter().zip(&mut sizes) {
        let down = (*size - available(set)).clamp(0, spare.max(0));
        *size -= down;
        spare -= down;
    }
    let mut healthy = sets.all().map(|s| available(s)).sum::<i64>() - least;
    for size in &mut sizes {
        let down = (*size).min(healthy.max(0)).min(spare.max(0));
        *size -= down;
        healthy -= down;
        spare -= down;
    }
    for (set, size) in sets.old.iter().zip(sizes).filter(|(s, size)| replicas(s) != *size) {
        resize(writer, deployment, set, size);
    }
}

/// Scales sets to nothing; says whether any of their pods are still there.
pub fn scale_down_all(writer: &mut Writer<'_>, sets: &[Arc<Value>]) -> bool {
    for set in sets.iter().filter(|s| replicas(s) > 0) {
        writer.change(REPLICA_SETS, &key(set), |s| s["spec"]["replicas"] = 0.into());
    }
    sets.iter().any(|s| replicas(s) > 0 || number(&s["status"]["replicas"]) > 0)
}
