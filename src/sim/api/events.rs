//! Events have two faces: they are stored as `events.k8s.io/v1`, and shown as core `v1` Events too, as `kubectl describe`
//! asks for them.

use serde_json::{Map, Value};

/// The stored kind behind core Events.
pub const STORED: &str = "events.events.k8s.io";
/// The core face.
pub const CORE: &str = "events";

/// Field names: stored, core. All others are the same.
const NAMES: [(&str, &str); 6] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

/// A stored Event as a core one.
pub fn to_core(event: &Value) -> Value {
    let mut core = renamed(event, "v1", |stored| NAMES.iter().find(|(s, _)| *s == stored).map(|(_, c)| *c));
    if let Some(controller) = core.as_object_mut().and_then(|map| map.remove("reportingController")) {
        core["reportingComponent"] = controller;
    }
    for field in ["firstTimestamp", "lastTimestamp"] {
        if core[field].is_null() {
            core[field] = Value::Null;
        }
    }
    if core["source"].is_null() {
        core["source"] = serde_json::json!({});
    }
    core
}

/// A core Event as it is stored.
pub fn to_stored(event: &Value) -> Value {
    let mut stored = renamed(event, "events.k8s.io/v1", |core| NAMES.iter().find(|(_, c)| *c == core).map(|(s, _)| *s));
    if let Some(controller) = stored.as_object_mut().and_then(|map| map.remove("reportingComponent")) {
        stored["reportingController"] = controller;
    }
    stored
}

fn renamed(event: &Value, api_version: &str, new_name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let fields = event.as_object().into_iter().flatten();
    let mut out: Map<String, Value> = fields.map(|(k, v)| (new_name(k).map_or_else(|| k.clone(), str::to_owned), v.clone())).collect();
    out.insert("apiVersion".into(), api_version.into());
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_survives_both_ways() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod"},
            "message": "m", "reason": "r", "type": "Normal", "source": {"component": "c"}, "count": 2,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z", "reportingComponent": "c"});
        let stored = to_stored(&core);
        assert_eq!((&stored["regarding"]["kind"], &stored["note"]), (&json!("Pod"), &json!("m")));
        assert_eq!(to_core(&stored), core);
    }
}
