//! The resources that are served: built-in ones by a table, others by their CustomResourceDefinition.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use kube_cel::{CompiledSchema, compile_schema};
use serde_json::Value;

use super::schema::Schema;
use super::{events, gateway};

/// Where a kind's scale subresource finds its numbers, as paths of field names.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    /// To a `LabelSelector` object (built-in kinds) or to its text (custom ones).
    pub selector: Option<Vec<String>>,
}

/// One served resource, in its one served version.
pub struct Kind {
    /// `<plural>` or `<plural>.<group>`: tells kinds apart everywhere in the simulator.
    pub id: Arc<str>,
    /// `v1` or `<group>/<version>`.
    pub api_version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Has a status subresource, so that spec and status are written apart.
    pub has_status: bool,
    /// Has `metadata.generation`.
    pub has_generation: bool,
    pub scale: Option<ScalePaths>,
    pub schema: Schema,
    /// The CEL rules of a custom kind.
    pub rules: Option<CompiledSchema>,
    /// The fields that they are about.
    pub ruled: Vec<String>,
    pub custom: bool,
    /// A CRD's `additionalPrinterColumns`.
    pub columns: Vec<Value>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.id)
    }
}

impl Kind {
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    pub fn version(&self) -> &str {
        self.api_version.rsplit('/').next().unwrap_or_default()
    }

    /// Under which kind its objects are stored: core Events are a second face of `events.k8s.io`.
    pub fn stored_id(&self) -> &str {
        if &*self.id == events::CORE { events::STORED } else { &self.id }
    }

    /// A stored object as this kind shows it.
    pub fn shown(&self, object: &Arc<Value>) -> Arc<Value> {
        if &*self.id == events::CORE { Arc::new(events::to_core(object)) } else { object.clone() }
    }

    /// Whether a PUT of what is not there creates it.
    pub fn is_made_by_put(&self) -> bool {
        matches!(&*self.id, "services" | "leases.coordination.k8s.io" | events::STORED)
    }

    /// As messages name the resource: `deployments.apps`.
    pub fn qualified(&self) -> &str {
        &self.id
    }

    /// As messages name the kind: `Deployment.apps`; Events have no group in them.
    pub fn qualified_kind(&self) -> String {
        match self.group() {
            "" => self.kind.clone(),
            _ if &*self.id == events::STORED => self.kind.clone(),
            group => format!("{}.{group}", self.kind),
        }
    }

    /// Builds a kind from its CRD. The stored version is the one that is served.
    pub fn from_crd(crd: &Value) -> Result<Self, String> {
        let spec = &crd["spec"];
        let versions = spec["versions"].as_array().ok_or("spec.versions: Required value")?;
        let version = versions.iter().find(|v| v["storage"] == true).ok_or("spec.versions: no storage version")?;
        let text = |v: &Value, field: &str| v.as_str().map(str::to_owned).ok_or_else(|| format!("{field}: Required value"));
        let group = text(&spec["group"], "spec.group")?;
        let plural = text(&spec["names"]["plural"], "spec.names.plural")?;
        let kind = text(&spec["names"]["kind"], "spec.names.kind")?;
        let raw = &version["schema"]["openAPIV3Schema"];
        let rules = compile_schema(raw);
        if let Some(error) = rules.compilation_errors().first() {
            return Err(format!("spec.versions[0].schema.openAPIV3Schema: {error}"));
        }
        let subresources = &version["subresources"];
        let has_status = subresources["status"].is_object();
        Ok(Self {
            id: format!("{plural}.{group}").into(),
            api_version: format!("{group}/{}", text(&version["name"], "spec.versions[0].name")?),
            singular: spec["names"]["singular"].as_str().map_or_else(|| kind.to_lowercase(), str::to_owned),
            kind,
            plural,
            short_names: strings(&spec["names"]["shortNames"]),
            categories: strings(&spec["names"]["categories"]),
            namespaced: spec["scope"] != "Cluster",
            has_status,
            has_generation: true,
            scale: scale_paths(&subresources["scale"]),
            schema: Schema::from_crd(raw),
            ruled: ruled(raw),
            rules: Some(rules),
            custom: true,
            columns: version["additionalPrinterColumns"].as_array().cloned().unwrap_or_default(),
        })
    }
}

/// The fields of an object, metadata aside, that a schema's CEL rules are about: those that have some, and those that one for the whole
/// object reads.
fn ruled(raw: &Value) -> Vec<String> {
    fn has_rules(schema: &Value) -> bool {
        match schema {
            Value::Object(map) => map.contains_key(RULES) || map.values().any(has_rules),
            Value::Array(items) => items.iter().any(has_rules),
            _ => false,
        }
    }
    let rules = || raw[RULES].as_array().into_iter().flatten().filter_map(|rule| rule["rule"].as_str());
    let reads = |field: &str| {
        let parts = || rules().flat_map(|rule| rule.split("elf").skip(1)); // what follows `self` and `oldSelf`
        parts().any(|part| part.strip_prefix('.').is_none_or(|rest| rest.starts_with(field)))
    };
    let fields = raw["properties"].as_object().into_iter().flatten();
    fields.filter(|(field, schema)| *field != "metadata" && (reads(field) || has_rules(schema))).map(|(field, _)| field.clone()).collect()
}

const RULES: &str = "x-kubernetes-validations";

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn scale_paths(scale: &Value) -> Option<ScalePaths> {
    let path = |field: &str| {
        let text = scale[field].as_str()?;
        Some(text.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect::<Vec<_>>())
    };
    Some(ScalePaths {
        spec_replicas: path("specReplicasPath")?,
        status_replicas: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

/// All served resources, by id.
#[derive(Clone, Debug)]
pub struct Kinds(BTreeMap<Arc<str>, Arc<Kind>>);

impl Kinds {
    pub fn get(&self, id: &str) -> Option<&Arc<Kind>> {
        self.0.get(id)
    }

    /// The kind that a path names.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let id = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        self.0.get(id.as_str()).filter(|k| k.version() == version)
    }

    /// The kind that an object's `apiVersion` and `kind` name.
    pub fn of(&self, api_version: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.0.values().find(|k| k.kind == kind && k.api_version == api_version)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.0.values()
    }

    pub fn install(&mut self, kind: Kind) -> Arc<Kind> {
        let kind = Arc::new(kind);
        self.0.insert(kind.id.clone(), kind.clone());
        kind
    }

    pub fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// The built-in kinds and the Gateway API's. They are constant, and worked out once.
    pub fn standard() -> Arc<Self> {
        static STANDARD: LazyLock<Arc<Kinds>> = LazyLock::new(|| Arc::new(Kinds::work_out()));
        STANDARD.clone()
    }

    fn work_out() -> Self {
        let mut kinds = Self(BTreeMap::new());
        for kind in built_in() {
            kinds.install(kind);
        }
        for crd in gateway::crds() {
            kinds.install(Kind::from_crd(&crd).expect("the Gateway API's definitions are ours and well-formed"));
        }
        kinds
    }
}

/// `namespaced`, then whether the kind has a status subresource, and a generation.
#[derive(Clone, Copy)]
struct Traits {
    namespaced: bool,
    status: bool,
    generation: bool,
}

const PLAIN: Traits = Traits { namespaced: true, status: false, generation: false };
const WITH_STATUS: Traits = Traits { status: true, ..PLAIN };
const WORKLOAD: Traits = Traits { status: true, generation: true, ..PLAIN };
const CLUSTER: Traits = Traits { namespaced: false, ..PLAIN };

fn built_in() -> Vec<Kind> {
    use k8s_openapi::api::{apps::v1 as apps, autoscaling::v2, coordination::v1 as coordination, core::v1 as core};
    use k8s_openapi::api::{discovery::v1 as discovery, events::v1 as events, policy::v1 as policy};
    let schema = |s: schemars::Schema| Schema::built_in(s.as_value());
    macro_rules! kind {
        ($type:ty, $api:literal, $plural:literal, [$($short:literal),*], $traits:expr) => {
            entry(stringify!($type), $api, $plural, &[$($short),*], $traits, schema(schemars::schema_for!($type)))
        };
    }
    let mut kinds = vec![
        kind!(core::Pod, "v1", "pods", ["po"], WORKLOAD),
        kind!(core::Service, "v1", "services", ["svc"], WITH_STATUS),
        kind!(core::Endpoints, "v1", "endpoints", ["ep"], PLAIN),
        kind!(core::Secret, "v1", "secrets", [], PLAIN),
        kind!(core::ConfigMap, "v1", "configmaps", ["cm"], PLAIN),
        kind!(core::ServiceAccount, "v1", "serviceaccounts", ["sa"], PLAIN),
        kind!(core::Event, "v1", "events", ["ev"], PLAIN),
        kind!(core::Namespace, "v1", "namespaces", ["ns"], Traits { status: true, ..CLUSTER }),
        kind!(core::Node, "v1", "nodes", ["no"], Traits { status: true, ..CLUSTER }),
        kind!(events::Event, "events.k8s.io/v1", "events", ["ev"], PLAIN),
        kind!(discovery::EndpointSlice, "discovery.k8s.io/v1", "endpointslices", [], Traits { generation: true, ..PLAIN }),
        kind!(coordination::Lease, "coordination.k8s.io/v1", "leases", [], PLAIN),
        kind!(apps::Deployment, "apps/v1", "deployments", ["deploy"], WORKLOAD),
        kind!(apps::ReplicaSet, "apps/v1", "replicasets", ["rs"], WORKLOAD),
        kind!(apps::ControllerRevision, "apps/v1", "controllerrevisions", [], PLAIN),
        kind!(policy::PodDisruptionBudget, "policy/v1", "poddisruptionbudgets", ["pdb"], WORKLOAD),
        kind!(v2::HorizontalPodAutoscaler, "autoscaling/v2", "horizontalpodautoscalers", ["hpa"], WITH_STATUS),
    ];
    let open = Schema::default();
    kinds.push(entry(
        "CustomResourceDefinition",
        "apiextensions.k8s.io/v1",
        "customresourcedefinitions",
        &["crd", "crds"],
        Traits { namespaced: false, ..WORKLOAD },
        open,
    ));
    kinds
}

fn entry(kind: &str, api_version: &str, plural: &str, short: &[&str], traits: Traits, schema: Schema) -> Kind {
    let kind = kind.rsplit([':', ' ']).next().unwrap_or_default().to_owned();
    let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let scale = matches!(plural, "deployments" | "replicasets").then(|| ScalePaths {
        spec_replicas: path("spec.replicas"),
        status_replicas: path("status.replicas"),
        selector: Some(path("spec.selector")),
    });
    let in_all = matches!(plural, "pods" | "services" | "deployments" | "replicasets" | "horizontalpodautoscalers");
    let id = match api_version.split_once('/') {
        Some((group, _)) => format!("{plural}.{group}"),
        None => plural.to_owned(),
    };
    Kind {
        id: id.into(),
        api_version: api_version.to_owned(),
        singular: kind.to_lowercase(),
        kind,
        plural: plural.to_owned(),
        short_names: short.iter().map(|s| (*s).to_owned()).collect(),
        categories: if in_all { vec!["all".into()] } else { Vec::new() },
        namespaced: traits.namespaced,
        has_status: traits.status,
        has_generation: traits.generation,
        scale,
        schema,
        rules: None,
        ruled: Vec::new(),
        custom: false,
        columns: Vec::new(),
    }
}
