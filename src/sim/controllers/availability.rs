//! When a pod counts as available: ready for `minReadySeconds`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::after;
use super::objects::{condition, is_ready, text};

/// Since when, or from when on, a ready pod is available.
pub fn available_from(pod: &Value, min_ready_seconds: i64) -> Option<Timestamp> {
    if !is_ready(pod) {
        return None;
    }
    let since: Timestamp = text(&condition(pod, "Ready")?["lastTransitionTime"]).parse().ok()?;
    Some(after(since, Duration::from_secs(min_ready_seconds.max(0).unsigned_abs())))
}
