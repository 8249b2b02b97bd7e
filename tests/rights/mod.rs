//! The chart's rules as an authorizer: what they do not allow is forbidden, as RBAC would.

use std::{fs, path::Path};

use jiff::Timestamp;
use serde_json::{Value, json};
use sluice::sim::{
    api::{ApiError, ApiServer, Request},
    service::{Hook, Verdict},
};

/// The rules of a file of the chart; none if there is no such file.
fn rules(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/sluice/files").join(file);
    let Ok(text) = fs::read_to_string(path) else { return vec![] };
    let rules: Value = serde_yaml_ng::from_str(&text).unwrap();
    rules["rules"].as_array().unwrap().clone()
}

/// What a request asks for, in RBAC's words.
struct Attributes {
    verb: &'static str,
    group: String,
    resource: String,
    namespace: Option<String>,
}

fn attributes(request: &Request) -> Option<Attributes> {
    let mut parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let group = match *parts.first()? {
        "api" => String::new(),
        "apis" => parts.remove(1).to_owned(),
        _ => return None,
    };
    // The prefix and the version.
    parts.drain(..2);
    let namespace = (parts.first() == Some(&"namespaces") && parts.len() > 2).then(|| {
        parts.remove(0);
        parts.remove(0).to_owned()
    });
    let verb = match (request.method.as_str(), parts.len()) {
        ("GET", _) if request.is_watch() => "watch",
        ("GET", 1) => "list",
        ("GET", _) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => return None,
    };
    let resource = parts.first().copied().into_iter().chain(parts.get(2).copied()).collect::<Vec<_>>().join("/");
    Some(Attributes { verb, group, resource, namespace })
}

/// Forbids `actor` what it may not do: `rules.yaml` within `namespaces` (everywhere, if there are none), `cluster-rules.yaml` everywhere.
pub struct Rights {
    pub actor: &'static str,
    pub namespaces: Vec<String>,
}

impl Rights {
    fn allow(&self, asked: &Attributes) -> bool {
        let has = |list: &Value, word: &str| list.as_array().into_iter().flatten().any(|w| w == word);
        let by = |rule: &Value| {
            has(&rule["apiGroups"], &asked.group) && has(&rule["resources"], &asked.resource) && has(&rule["verbs"], asked.verb)
        };
        let within = self.namespaces.is_empty() || asked.namespace.as_ref().is_some_and(|namespace| self.namespaces.contains(namespace));
        (within && rules("rules.yaml").iter().any(by)) || rules("cluster-rules.yaml").iter().any(by)
    }
}

impl Hook for Rights {
    fn before(&mut self, request: &Request, _: &ApiServer, _: Timestamp) -> Verdict {
        if request.actor != self.actor || attributes(request).is_some_and(|asked| self.allow(&asked)) {
            return Verdict::Pass;
        }
        let message = format!("{} {} is forbidden to {}", request.method, request.path, request.actor);
        Verdict::Answer(ApiError { code: 403, reason: "Forbidden", message, details: json!({}) }.into())
    }
}
