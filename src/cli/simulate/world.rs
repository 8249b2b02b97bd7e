//! The world that a Rollout is simulated in: an app with as many pods as it names, behind a Service and plain routes, taken over and at rest.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    api::{self, Rollout, analysis::TemplateKind},
    cli::error::Error,
    sim::{
        Behaviour,
        api::Request,
        drive::{Drive, path},
    },
    world::Watched,
};

/// Where everything is put, whatever namespace the files say.
pub const NAMESPACE: &str = "default";
/// More pods change nothing about weights, and take their time.
const MOST_PODS: i32 = 50;
const PODS: i32 = 5;
/// In virtual time: for the app to stand, and for it to be taken over.
const PATIENCE: SignedDuration = SignedDuration::from_hours(2);

/// A Rollout at rest, from which every run begins.
#[derive(Clone)]
pub struct World {
    pub drive: Drive,
    pub rollout: Rollout,
    pub name: String,
    /// The hash of the version that serves.
    pub stable: String,
    pub pods: i32,
    /// What of the files is simulated otherwise than it is written.
    pub notes: Vec<String>,
}

/// What the world is made from.
pub struct Plan<'a> {
    pub rollout: &'a Value,
    /// All documents of the files.
    pub documents: &'a [Value],
    pub pods: Option<i32>,
    pub ready_after: SignedDuration,
}

impl World {
    pub fn new(plan: &Plan<'_>) -> Result<Self, Error> {
        let epoch = Timestamp::from_second(1_767_225_600).unwrap_or_default();
        let mut drive = Drive::new(1, epoch);
        for crd in api::crds() {
            let crd = serde_json::to_value(crd).unwrap_or_default();
            drive.api.install_crd(crd, epoch).map_err(|error| impossible(&error.message))?;
        }
        let mut object = plan.rollout.clone();
        object["metadata"] = json!({"name": object["metadata"]["name"]});
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        let mut notes = Vec::new();
        as_http_routes(&mut object, &mut notes);
        let rollout: Rollout = serde_json::from_value(object.clone()).map_err(|error| impossible(&error.to_string()))?;
        let name = rollout.metadata.name.clone().unwrap_or_default();
        let pods = pods(plan, &rollout, &mut notes);
        let mut world = Self { drive, rollout, name, stable: String::new(), pods, notes };
        world.build(plan, object)?;
        world.settle()?;
        Ok(world)
    }

    /// Everything but the new version.
    fn build(&mut self, plan: &Plan<'_>, mut object: Value) -> Result<(), Error> {
        let (template, labels) = self.template();
        let images = template["spec"]["containers"].as_array().into_iter().flatten().filter_map(|container| container["image"].as_str());
        let ready = std::time::Duration::try_from(plan.ready_after).unwrap_or_default();
        for image in images {
            let behaviour = Behaviour { start: std::time::Duration::ZERO, ready: Some(ready), ..Behaviour::default() };
            self.drive.cluster.kubelet.set_behaviour(image, behaviour);
        }
        if let Some(workload) = self.rollout.spec.workload_ref.clone() {
            let mut spec = json!({"selector": {"matchLabels": labels}, "template": template});
            spec["minReadySeconds"] = deployment(plan, &workload.name).map(|d| d["spec"]["minReadySeconds"].clone()).unwrap_or_default();
            self.apply(Watched::Deployment, json!({"metadata": {"name": workload.name}, "spec": spec}))?;
            let scale = path(Watched::Deployment, NAMESPACE, &workload.name) + "/scale";
            self.send("PATCH", &scale, "application/merge-patch+json", json!({"spec": {"replicas": self.pods}}))?;
        }
        self.routes(&labels)?;
        self.templates(plan)?;
        // All that stands before the Rollout comes has its pods ready first.
        let end = self.drive.now + plan.ready_after + SignedDuration::from_secs(30);
        self.drive.run(end, |_| false);
        object["spec"]["replicas"] = json!(self.pods);
        self.apply(Watched::Rollout, object)
    }

    /// The pods of the version that serves, and the labels that tell them.
    fn template(&self) -> (Value, Value) {
        let spec = &self.rollout.spec;
        if let Some(template) = &spec.template {
            let labels = spec.selector.as_ref().and_then(|selector| selector.match_labels.clone());
            let labels = labels.map_or_else(|| template["metadata"]["labels"].clone(), |labels| json!(labels));
            return (template.clone(), labels);
        }
        let labels = json!({"app": self.name});
        let container = json!({"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}]});
        (json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}}), labels)
    }

    fn routes(&mut self, labels: &Value) -> Result<(), Error> {
        let Some(traffic) = self.rollout.spec.traffic.clone() else { return Ok(()) };
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "simulated"},
            "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
        self.send("POST", "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways", "application/json", gateway)?;
        let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
        self.apply(Watched::Service, json!({"metadata": {"name": traffic.service}, "spec": {"selector": labels, "ports": ports}}))?;
        for route in traffic.routes {
            let kind = if route.kind == api::rollout::RouteKind::GrpcRoute { Watched::GrpcRoute } else { Watched::HttpRoute };
            let rule = json!({"backendRefs": [{"name": traffic.service, "port": 80}]});
            let named = |name: &String| {
                let mut rule = rule.clone();
                rule["name"] = json!(name);
                rule
            };
            let rules: Vec<Value> = if route.rule_names.is_empty() { vec![rule] } else { route.rule_names.iter().map(named).collect() };
            self.apply(kind, json!({"metadata": {"name": route.name}, "spec": {"parentRefs": [{"name": "simulated"}], "rules": rules}}))?;
        }
        Ok(())
    }

    /// The templates that the Rollout may name.
    fn templates(&mut self, plan: &Plan<'_>) -> Result<(), Error> {
        let of_kind = |kind: TemplateKind| {
            let here = &plan.rollout["metadata"]["namespace"];
            let name = format!("{kind:?}");
            plan.documents.iter().filter(move |document| {
                let there = &document["metadata"]["namespace"];
                document["kind"] == name
                    && (kind == TemplateKind::ClusterAnalysisTemplate || there.is_null() || here.is_null() || there == here)
            })
        };
        for (kind, watched) in [
            (TemplateKind::AnalysisTemplate, Watched::AnalysisTemplate),
            (TemplateKind::ClusterAnalysisTemplate, Watched::ClusterAnalysisTemplate),
        ] {
            for document in of_kind(kind) {
                self.apply(watched, json!({"metadata": {"name": document["metadata"]["name"]}, "spec": document["spec"]}))?;
            }
        }
        Ok(())
    }

    /// The Rollout has taken the app over, and is at rest.
    fn settle(&mut self) -> Result<(), Error> {
        let end = self.drive.now + PATIENCE;
        let healthy = |status: &Value| status["phase"] == "Healthy";
        let name = self.name.clone();
        self.drive.run(end, |drive| healthy(&status(drive, &name)));
        let status = self.status();
        if !healthy(&status) {
            let says = status["message"].as_str().unwrap_or_default();
            return Err(Error::Pointless(format!(
                "Rollout {} cannot be simulated: before there is any new version, it says: {says}",
                self.name
            )));
        }
        self.stable = status["stableRevision"].as_str().unwrap_or_default().to_owned();
        Ok(())
    }

    pub fn status(&self) -> Value {
        status(&self.drive, &self.name)
    }

    /// Somebody applies a new version.
    pub fn deploy(&mut self) -> Result<(), Error> {
        let changed = json!({"spec": {"template": {"metadata": {"annotations": {"version": "new"}}}}});
        let path = match &self.rollout.spec.workload_ref {
            Some(workload) => path(Watched::Deployment, NAMESPACE, &workload.name),
            None => path(Watched::Rollout, NAMESPACE, &self.name),
        };
        self.send("PATCH", &path, "application/merge-patch+json", changed)
    }

    /// Somebody ends the pause that the Rollout is at.
    pub fn promote(&mut self) -> Result<(), Error> {
        let status = self.status();
        let spec = json!({"rollout": self.name, "verb": "Promote", "revision": status["canaryRevision"],
            "step": status["currentStep"]["index"], "requestedBy": "somebody"});
        let action = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction",
            "metadata": {"generateName": "promote-"}, "spec": spec});
        self.send("POST", &path(Watched::RolloutAction, NAMESPACE, ""), "application/json", action)
    }

    fn apply(&mut self, kind: Watched, mut body: Value) -> Result<(), Error> {
        let resource = kind.resource();
        body["apiVersion"] = json!(resource.api_version);
        body["kind"] = json!(resource.kind);
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let path = match kind {
            Watched::ClusterAnalysisTemplate => format!("/apis/{}/{}/{name}", resource.api_version, resource.plural),
            _ => path(kind, NAMESPACE, &name),
        };
        self.send("PATCH", &path, "application/apply-patch+yaml", body)
    }

    fn send(&mut self, method: &str, path: &str, content_type: &str, body: Value) -> Result<(), Error> {
        let request = Request {
            method: method.into(),
            path: path.into(),
            query: "fieldManager=git&force=true".into(),
            actor: "git".into(),
            content_type: content_type.into(),
            body,
            ..Request::default()
        };
        let response = self.drive.request(&request);
        if response.status < 400 { Ok(()) } else { Err(impossible(response.body["message"].as_str().unwrap_or_default())) }
    }
}

/// What a Rollout says of itself.
pub fn status(drive: &Drive, name: &str) -> Value {
    drive.api.get("rollouts.sluice.dev", NAMESPACE, name).map(|rollout| rollout["status"].clone()).unwrap_or_default()
}

fn impossible(why: &str) -> Error {
    Error::Pointless(format!("the simulated cluster refuses it: {why}"))
}

fn deployment<'a>(plan: &Plan<'a>, name: &str) -> Option<&'a Value> {
    plan.documents.iter().find(|document| document["kind"] == "Deployment" && document["metadata"]["name"] == name)
}

/// As many pods as the files say.
fn pods(plan: &Plan<'_>, rollout: &Rollout, notes: &mut Vec<String>) -> i32 {
    let workload = rollout.spec.workload_ref.as_ref().and_then(|workload| deployment(plan, &workload.name));
    let of_workload = workload.and_then(|deployment| i32::try_from(deployment["spec"]["replicas"].as_i64()?).ok());
    let wanted = plan.pods.or(rollout.spec.replicas).or(of_workload);
    match wanted {
        Some(pods) if pods > MOST_PODS => {
            notes.push(format!("{pods} pods are simulated as {MOST_PODS}"));
            MOST_PODS
        }
        Some(pods) => pods.max(1),
        None => {
            notes.push(format!("no file says how many pods serve: {PODS} are simulated (--pods)"));
            PODS
        }
    }
}

/// The simulated gateway splits requests; routes of connections are split in the same way.
fn as_http_routes(rollout: &mut Value, notes: &mut Vec<String>) {
    for route in rollout.pointer_mut("/spec/traffic/routes").and_then(Value::as_array_mut).into_iter().flatten() {
        if route["kind"] == "TCPRoute" || route["kind"] == "TLSRoute" {
            let kind = route["kind"].as_str().unwrap_or_default();
            notes.push(format!(
                "{kind} {} is simulated as an HTTPRoute: each request as a connection",
                route["name"].as_str().unwrap_or_default()
            ));
            route["kind"] = json!("HTTPRoute");
        }
    }
}
