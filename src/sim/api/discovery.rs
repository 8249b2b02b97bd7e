//! What tools ask before they ask for objects: versions, groups, resources, and schemas.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Kind;
use super::write::CRDS;
use super::{ApiServer, Response};

/// The Kubernetes version that is claimed.
const VERSION: (&str, &str) = ("1", "36");

impl ApiServer {
    /// Answers a GET of anything that is not a resource; `None` where there is nothing.
    pub(super) fn discover(&self, path: &str) -> Option<Response> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let body = match parts.as_slice() {
            ["version"] => version(),
            ["healthz" | "readyz" | "livez"] => Value::String("ok".into()),
            ["api"] => json!({"kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}]}),
            ["apis"] => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": self.groups()}),
            ["apis", group] => self.groups().into_iter().find(|g| g["name"] == *group)?,
            ["api", "v1"] => self.resources("v1")?,
            ["apis", group, version] => self.resources(&format!("{group}/{version}"))?,
            ["openapi", "v3"] => self.schema_index(),
            ["openapi", "v3", "api", version] => self.schemas(version)?,
            ["openapi", "v3", "apis", group, version] => self.schemas(&format!("{group}/{version}"))?,
            _ => return None,
        };
        Some(Response { status: 200, body: body.into() })
    }

    fn by_version(&self) -> BTreeMap<&str, Vec<&Arc<Kind>>> {
        let mut out: BTreeMap<&str, Vec<&Arc<Kind>>> = BTreeMap::new();
        for kind in self.kinds.iter() {
            out.entry(&kind.api_version).or_default().push(kind);
        }
        out
    }

    fn groups(&self) -> Vec<Value> {
        let versions = self.by_version();
        let named = versions.keys().filter_map(|v| v.split_once('/').map(|(group, version)| (*v, group, version)));
        named
            .map(|(whole, group, version)| {
                let version = json!({"groupVersion": whole, "version": version});
                json!({"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": [version], "preferredVersion": version})
            })
            .collect()
    }

    fn resources(&self, api_version: &str) -> Option<Value> {
        let kinds = self.by_version().remove(api_version)?;
        let resources: Vec<Value> = kinds.into_iter().flat_map(|k| resources_of(k)).collect();
        Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources}))
    }

    fn schema_index(&self) -> Value {
        let path = |v: &str| if v.contains('/') { format!("apis/{v}") } else { format!("api/{v}") };
        let paths = self.by_version().into_keys().map(|v| {
            let path = path(v);
            (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", self.revision())}))
        });
        json!({"paths": paths.collect::<serde_json::Map<_, _>>()})
    }

    /// As much of OpenAPI as kubectl needs to validate on the server and to explain custom kinds.
    fn schemas(&self, api_version: &str) -> Option<Value> {
        let kinds = self.by_version().remove(api_version)?;
        let (mut paths, mut schemas) = (serde_json::Map::new(), serde_json::Map::new());
        for kind in kinds {
            let id = json!([{"group": kind.group(), "version": kind.version(), "kind": kind.kind}]);
            let mut schema = self.raw_schema(kind);
            schema["x-kubernetes-group-version-kind"] = id.clone();
            schemas.insert(format!("{}.{}", kind.api_version.replace('/', "."), kind.kind), schema);
            let root = if kind.group().is_empty() { "api" } else { "apis" };
            let namespace = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
            let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
            let patch = json!({
                "operationId": format!("patch{}", kind.kind),
                "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
                "responses": {}, "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": id[0],
            });
            paths.insert(format!("/{root}/{}/{namespace}{}/{{name}}", kind.api_version, kind.plural), json!({"patch": patch}));
        }
        let info = json!({"title": "Sluice's simulated cluster", "version": format!("v{}.{}.0", VERSION.0, VERSION.1)});
        Some(json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}))
    }

    fn raw_schema(&self, kind: &Kind) -> Value {
        let crd = self.get(CRDS, "", &kind.id);
        let versions = crd.and_then(|c| c["spec"]["versions"].as_array());
        let stored = versions.into_iter().flatten().find(|v| v["storage"] == true);
        stored.map_or_else(|| json!({"type": "object"}), |v| v["schema"]["openAPIV3Schema"].clone())
    }
}

fn version() -> Value {
    json!({"major": VERSION.0, "minor": VERSION.1, "gitVersion": format!("v{}.{}.0+sluice-sim", VERSION.0, VERSION.1),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": "simulated"})
}

fn resources_of(kind: &Kind) -> Vec<Value> {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let mut whole = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
        "kind": kind.kind, "verbs": verbs});
    if !kind.short_names.is_empty() {
        whole["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        whole["categories"] = json!(kind.categories);
    }
    let mut out = vec![whole];
    let part = |name: &str, part_kind: &str, extra: Value| {
        let mut part = json!({"name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
            "kind": part_kind, "verbs": ["get", "patch", "update"]});
        for (k, v) in extra.as_object().into_iter().flatten() {
            part[k] = v.clone();
        }
        part
    };
    if kind.has_status {
        out.push(part("status", &kind.kind, Value::Null));
    }
    if kind.scale.is_some() {
        out.push(part("scale", "Scale", json!({"group": "autoscaling", "version": "v1"})));
    }
    out
}
