//! What happened, for people: time, who, what, and what came of it.

use jiff::Timestamp;
use serde_json::Value;
use sluice::sim::api::{Change, Event};

use super::world::{World, image};

pub fn of(world: &World) -> Vec<String> {
    let mut lines: Vec<(Timestamp, String)> = world.drive.api.since(0).filter_map(|event| Some((event.at, written(event)?))).collect();
    let told = world.drive.log.iter().filter_map(|line| line.split_once(' '));
    let told = told.filter(|(_, what)| !what.contains("status: "));
    lines.extend(told.filter_map(|(at, what)| Some((at.parse().ok()?, format!("  {what}")))));
    lines.sort_by_key(|(at, _)| *at);
    let start = lines.iter().position(|(_, what)| what.contains("-----")).unwrap_or(0);
    lines.into_iter().skip(start.saturating_sub(5)).map(|(at, what)| format!("{} {what}", at.strftime("%H:%M:%S%.3f"))).collect()
}

fn written(event: &Event) -> Option<String> {
    let object = &*event.object;
    let kind = event.kind.split('.').next().unwrap_or_default();
    let what = match kind {
        "rollouts" => format!("{} {}", text(&object["status"]["phase"]), text(&object["status"]["message"])),
        "httproutes" => weights(object),
        "services" => object["spec"]["selector"].to_string(),
        "deployments" => {
            format!("{} x {}, paused: {}", image(&object["spec"]["template"]), object["spec"]["replicas"], object["spec"]["paused"])
        }
        "replicasets" => format!(
            "{} x {} ({} ready) {}",
            image(&object["spec"]["template"]),
            object["spec"]["replicas"],
            object["status"]["readyReplicas"],
            marks(object)
        ),
        "rolloutactions" => format!("{} {}", text(&object["spec"]["verb"]), object["status"]),
        "analysisruns" => object["status"]["phase"].to_string(),
        "controllerrevisions" => String::new(),
        _ => return None,
    };
    let change = if event.change == Change::Modified { "" } else { &format!("{:?} ", event.change) };
    let deleting = if object["metadata"]["deletionTimestamp"].is_null() { "" } else { " (being deleted)" };
    Some(format!("{}: {change}{kind} {}{deleting}: {what}", event.actor, text(&object["metadata"]["name"])))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn weights(route: &Value) -> String {
    let backend = |b: &Value| format!("{} {}", text(&b["name"]), b["weight"]);
    let rule = |rule: &Value| rule["backendRefs"].as_array().into_iter().flatten().map(backend).collect::<Vec<_>>().join(" / ");
    let rules: Vec<String> = route["spec"]["rules"].as_array().into_iter().flatten().map(rule).collect();
    let records = route["metadata"]["annotations"].as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("routes."));
    let records: Vec<&String> = records.map(|(key, _)| key).collect();
    format!("{} {records:?}", rules.join("; "))
}

fn marks(object: &Value) -> String {
    let all = object["metadata"]["annotations"].as_object().into_iter().flatten();
    let ours =
        all.filter_map(|(key, value)| Some(format!("{}={}", key.strip_prefix("sluice.dev/").filter(|k| *k != "template")?, text(value))));
    ours.collect::<Vec<_>>().join(" ")
}
