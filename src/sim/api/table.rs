//! Objects as `kubectl get` shows them: the server decides on columns and cells.

use jiff::Timestamp;
use jsonpath_rust::JsonPath;
use serde_json::{Value, json};

use super::kinds::Kind;

/// A `Table` of these objects; `list_revision` is set for lists.
pub fn table<'a>(kind: &Kind, objects: impl Iterator<Item = &'a Value>, now: Timestamp, list_revision: Option<u64>) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = objects
        .map(|object| {
            let partial = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]});
            json!({"cells": cells(kind, object, now), "object": partial})
        })
        .collect();
    let definitions: Vec<Value> = columns.iter().map(Column::definition).collect();
    let metadata = list_revision.map_or_else(|| json!({}), |r| json!({"resourceVersion": r.to_string()}));
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

struct Column {
    name: String,
    kind: String,
    /// Above 0: only shown with `-o wide`.
    priority: i64,
}

impl Column {
    fn definition(&self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        json!({"name": self.name, "type": self.kind, "format": format, "description": "", "priority": self.priority})
    }
}

/// The built-in kinds' columns; those after `|` only with `-o wide`.
fn heading(kind: &Kind) -> &'static str {
    match &*kind.id {
        "pods" => "Name,Ready,Status,Restarts,Age|IP,Node",
        "replicasets.apps" => "Name,Desired,Current,Ready,Age|Images,Selector",
        "deployments.apps" => "Name,Ready,Up-to-date,Available,Age|Images,Selector",
        "services" => "Name,Type,Cluster-IP,External-IP,Port(s),Age|Selector",
        "endpointslices.discovery.k8s.io" => "Name,AddressType,Ports,Endpoints,Age",
        "configmaps" => "Name,Data,Age",
        "secrets" => "Name,Type,Data,Age",
        "namespaces" => "Name,Status,Age",
        "leases.coordination.k8s.io" => "Name,Holder,Age",
        "controllerrevisions.apps" => "Name,Controller,Revision,Age",
        "customresourcedefinitions.apiextensions.k8s.io" => "Name,Created At",
        "events" => "Last Seen,Type,Reason,Object,Message",
        "events.events.k8s.io" => "Last Seen,Type,Reason,Regarding,Note",
        _ => "Name,Age",
    }
}

fn columns(kind: &Kind) -> Vec<Column> {
    if !kind.columns.is_empty() {
        let name = Column { name: "Name".into(), kind: "string".into(), priority: 0 };
        let own = kind.columns.iter().map(|c| Column {
            name: c["name"].as_str().unwrap_or_default().to_owned(),
            kind: c["type"].as_str().unwrap_or("string").to_owned(),
            priority: c["priority"].as_i64().unwrap_or(0),
        });
        return std::iter::once(name).chain(own).collect();
    }
    let (shown, wide) = heading(kind).split_once('|').unwrap_or((heading(kind), ""));
    let make = |priority: i64| move |n: &str| Column { name: n.to_owned(), kind: "string".into(), priority };
    let wide = wide.split(',').filter(|n| !n.is_empty()).map(make(1));
    shown.split(',').map(make(0)).chain(wide).collect()
}

fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    if !kind.columns.is_empty() {
        let own = kind.columns.iter().map(|column| custom_cell(column, object, now));
        return std::iter::once(name).chain(own).collect();
    }
    let (spec, status) = (&object["spec"], &object["status"]);
    let count = |v: &Value| json!(v.as_i64().unwrap_or(0));
    let age = || json!(age(&object["metadata"]["creationTimestamp"], now));
    match &*kind.id {
        "pods" => vec![
            name,
            ready_containers(object),
            pod_status(object),
            restarts(object),
            age(),
            or_none(&status["podIP"]),
            or_none(&spec["nodeName"]),
        ],
        "replicasets.apps" => {
            vec![
                name,
                count(&spec["replicas"]),
                count(&status["replicas"]),
                count(&status["readyReplicas"]),
                age(),
                images(spec),
                selector(spec),
            ]
        }
        "deployments.apps" => {
            let ready = format!("{}/{}", count(&status["readyReplicas"]), count(&spec["replicas"]));
            let (updated, available) = (count(&status["updatedReplicas"]), count(&status["availableReplicas"]));
            vec![name, json!(ready), updated, available, age(), images(spec), selector(spec)]
        }
        "services" => {
            vec![
                name,
                spec["type"].clone(),
                or_none(&spec["clusterIP"]),
                json!("<none>"),
                service_ports(spec),
                age(),
                map_text(&spec["selector"]),
            ]
        }
        "endpointslices.discovery.k8s.io" => {
            let ports = join(object["ports"].as_array().into_iter().flatten().map(|p| p["port"].to_string()));
            let endpoints = object["endpoints"].as_array().into_iter().flatten();
            let addresses = join(endpoints.filter_map(|e| e["addresses"][0].as_str().map(str::to_owned)));
            vec![name, object["addressType"].clone(), ports, addresses, age()]
        }
        "configmaps" => vec![name, size(&object["data"]), age()],
        "secrets" => vec![name, object["type"].clone(), size(&object["data"]), age()],
        "namespaces" => vec![name, status["phase"].clone(), age()],
        "leases.coordination.k8s.io" => vec![name, or_none(&spec["holderIdentity"]), age()],
        "controllerrevisions.apps" => {
            let owner = &object["metadata"]["ownerReferences"][0];
            let owner = owner["name"]
                .as_str()
                .map_or_else(|| "<none>".into(), |n| format!("{}/{n}", owner["kind"].as_str().unwrap_or_default().to_lowercase()));
            vec![name, json!(owner), count(&object["revision"]), age()]
        }
        "customresourcedefinitions.apiextensions.k8s.io" => vec![name, object["metadata"]["creationTimestamp"].clone()],
        "events" => event_cells(object, "involvedObject", "message", now),
        "events.events.k8s.io" => event_cells(object, "regarding", "note", now),
        _ => vec![name, age()],
    }
}

fn custom_cell(column: &Value, object: &Value, now: Timestamp) -> Value {
    let path = format!("${}", column["jsonPath"].as_str().unwrap_or_default());
    let found = object.query(&path).unwrap_or_default();
    let Some(value) = found.first().filter(|v| !v.is_null()) else { return Value::Null };
    match (column["type"].as_str().unwrap_or_default(), value) {
        ("date", value) => json!(age(value, now)),
        (_, Value::Array(_) | Value::Object(_)) => json!(value.to_string()),
        (_, value) => (*value).clone(),
    }
}

fn event_cells(event: &Value, about: &str, text: &str, now: Timestamp) -> Vec<Value> {
    let times = ["lastTimestamp", "deprecatedLastTimestamp", "eventTime"];
    let last = &event["series"]["lastObservedTime"];
    let last = if last.is_null() { times.iter().map(|t| &event[*t]).find(|t| !t.is_null()).unwrap_or(&Value::Null) } else { last };
    let about = &event[about];
    let object = format!("{}/{}", about["kind"].as_str().unwrap_or_default().to_lowercase(), about["name"].as_str().unwrap_or_default());
    vec![json!(age(last, now)), event["type"].clone(), event["reason"].clone(), json!(object), event[text].clone()]
}

fn or_none(value: &Value) -> Value {
    if value.is_null() || value == "" { json!("<none>") } else { value.clone() }
}

fn size(map: &Value) -> Value {
    json!(map.as_object().map_or(0, serde_json::Map::len))
}

fn join(parts: impl Iterator<Item = String>) -> Value {
    let text = parts.collect::<Vec<_>>().join(",");
    json!(if text.is_empty() { "<none>".to_owned() } else { text })
}

fn map_text(map: &Value) -> Value {
    join(map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())))
}

fn selector(spec: &Value) -> Value {
    map_text(&spec["selector"]["matchLabels"])
}

fn images(spec: &Value) -> Value {
    let containers = spec["template"]["spec"]["containers"].as_array().into_iter().flatten();
    join(containers.filter_map(|c| c["image"].as_str().map(str::to_owned)))
}

fn service_ports(spec: &Value) -> Value {
    let ports = spec["ports"].as_array().into_iter().flatten();
    join(ports.map(|p| format!("{}/{}", p["port"], p["protocol"].as_str().unwrap_or("TCP"))))
}

fn ready_containers(pod: &Value) -> Value {
    let statuses = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = statuses.iter().filter(|s| s["ready"] == true).count();
    let all = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    json!(format!("{ready}/{all}"))
}

fn restarts(pod: &Value) -> Value {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    json!(statuses.filter_map(|s| s["restartCount"].as_i64()).sum::<i64>())
}

fn pod_status(pod: &Value) -> Value {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return json!("Terminating");
    }
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
    if waiting.is_string() { waiting.clone() } else { pod["status"]["phase"].clone() }
}

/// A time's distance from now, as short as kubectl shows it.
fn age(since: &Value, now: Timestamp) -> String {
    let Some(since) = since.as_str().and_then(|t| t.parse::<Timestamp>().ok()) else { return "<unknown>".into() };
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let pair = |whole: i64, unit: &str, rest: i64, small: &str| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let at = |seconds: i64| age(&json!("1970-01-01T00:00:00Z"), Timestamp::from_second(seconds).unwrap());
        let shown: Vec<String> = [5, 119, 125, 180, 660, 10_900, 30_000, 172_800, 900_000].into_iter().map(at).collect();
        assert_eq!(shown, ["5s", "119s", "2m5s", "3m", "11m", "3h1m", "8h", "2d", "10d"]);
    }

    #[test]
    fn custom_columns_follow_their_paths() {
        let column = json!({"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"});
        let object = json!({"status": {"conditions": [{"type": "A", "status": "x"}, {"type": "Ready", "status": "True"}]}});
        assert_eq!(custom_cell(&column, &object, Timestamp::UNIX_EPOCH), "True");
        assert_eq!(custom_cell(&column, &json!({}), Timestamp::UNIX_EPOCH), Value::Null);
    }
}
