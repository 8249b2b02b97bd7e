//! A cluster with what Git has, and the ways in which people and tools change it.

use std::{collections::BTreeMap, sync::LazyLock};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sluice::{
    api,
    sim::{
        Behaviour,
        api::{ApiServer, Propagation, Request},
        drive::{Drive, id, path},
    },
    world::Watched,
};

use super::scenario::{BAD_METRICS, CRASHES, GOOD, NEVER_READY, Setup, Traffic, metric};

pub const NS: &str = "default";

/// When every run begins.
fn epoch() -> Timestamp {
    Timestamp::from_second(1_767_225_600).unwrap()
}

/// A server with Sluice's kinds. They are installed once: each run has a copy.
fn server(seed: u64) -> ApiServer {
    static INSTALLED: LazyLock<ApiServer> = LazyLock::new(|| {
        let mut server = ApiServer::new(0, epoch());
        for crd in api::crds() {
            server.install_crd(serde_json::to_value(crd).unwrap(), epoch()).unwrap();
        }
        server
    });
    let mut server = INSTALLED.clone();
    server.reseed(seed);
    server
}

pub struct World {
    pub drive: Drive,
    pub setup: Setup,
    /// What Git has, in the order in which a tool applies it.
    pub git: BTreeMap<(Watched, String), Value>,
    /// What a Rollout was at when the last command to it was given.
    pub seen: BTreeMap<String, Value>,
    /// Names of the acts that took effect.
    pub happened: Vec<String>,
}

impl World {
    /// With the Rollouts taken over, at rest.
    pub fn new(seed: u64, setup: &Setup) -> Self {
        let drive = Drive::on(server(seed), epoch());
        let mut world = Self { drive, setup: setup.clone(), git: BTreeMap::new(), seen: BTreeMap::new(), happened: vec![] };
        let gateway = json!({"metadata": {"name": "gw"}, "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
        world.send("POST", "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways", "git", "application/json", gateway);
        world.drive.bad.insert(BAD_METRICS.into());
        world.drive.cluster.kubelet.set_behaviour(NEVER_READY, Behaviour::never_ready());
        world.drive.cluster.kubelet.set_behaviour(CRASHES, Behaviour::crashing_after(std::time::Duration::from_secs(15)));
        world.write_git();
        world.apply_all(|kind| kind != Watched::Rollout);
        world.scale_workloads();
        world.wait(20);
        world.apply_all(|kind| kind == Watched::Rollout);
        world.wait(60);
        world.drive.promises.broken.clear(); // no pod was ready in the beginning
        world
    }

    pub fn apps(&self) -> Vec<&'static str> {
        if self.setup.two_rollouts { vec!["api", "other"] } else { vec!["api"] }
    }

    fn write_git(&mut self) {
        for app in ["api", "other"] {
            let own = app == "api" && self.setup.own_template;
            if !own {
                let mut spec = json!({"selector": {"matchLabels": {"app": app}}, "template": template(app, GOOD[0])});
                if self.setup.replicas_in_git && app == "api" {
                    spec["replicas"] = json!(self.setup.replicas);
                }
                self.put(Watched::Deployment, app, spec);
            }
            let service = json!({"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
            self.put(Watched::Service, app, service.clone());
            if app == "api" && matches!(self.setup.traffic, Traffic::BothServices | Traffic::BothWithWeights) {
                self.put(Watched::Service, "api-canary", service);
            }
        }
        self.write_routes(2);
        for app in self.apps() {
            let spec = self.rollout_spec(app);
            self.put(Watched::Rollout, app, spec);
        }
    }

    /// The routes as their author has them, where the other application has this weight.
    pub fn write_routes(&mut self, other: u64) {
        let backend = |name: &str, weight: Option<u64>| match weight {
            Some(weight) => json!({"name": name, "port": 80, "weight": weight}),
            None => json!({"name": name, "port": 80}),
        };
        let own = match self.setup.traffic {
            Traffic::None | Traffic::ServiceAlone => vec![backend("api", None)],
            Traffic::BothServices => vec![backend("api", None), backend("api-canary", None)],
            Traffic::BothWithWeights => vec![backend("api", Some(3)), backend("api-canary", Some(1))],
        };
        let mut rules = vec![json!({"backendRefs": own})];
        if self.setup.shared_rule || self.setup.two_rollouts {
            let matches = json!([{"headers": [{"name": "x-team", "value": "other"}]}]);
            rules.push(json!({"matches": matches, "backendRefs": [backend("api", Some(9)), backend("other", Some(other))]}));
        }
        self.put(Watched::HttpRoute, "shop", json!({"parentRefs": [{"name": "gw"}], "hostnames": ["shop.example"], "rules": rules}));
        if self.setup.second_route {
            let rules = json!([{"backendRefs": [backend("api", Some(1))]}]);
            self.put(Watched::HttpRoute, "shop-2", json!({"parentRefs": [{"name": "gw"}], "hostnames": ["two.example"], "rules": rules}));
        }
    }

    fn rollout_spec(&self, app: &str) -> Value {
        let setup = &self.setup;
        let mut routes = vec![json!({"kind": "HTTPRoute", "name": "shop"})];
        if setup.second_route && app == "api" {
            routes.push(json!({"kind": "HTTPRoute", "name": "shop-2"}));
        }
        let mut canary = json!({"steps": setup.steps, "scaleDownDelaySeconds": setup.scale_down_delay});
        if setup.analysis {
            canary["analysis"] = json!({"metrics": [metric()]});
        }
        let mut spec = json!({
            "progressDeadlineSeconds": 60, "revisionHistoryLimit": setup.history_limit, "strategy": {"canary": canary},
            "traffic": {"service": app, "routes": routes, "drainSeconds": 5, "stepGraceSeconds": 1},
        });
        if setup.traffic == Traffic::None {
            spec.as_object_mut().unwrap().remove("traffic");
        }
        if app == "api" && setup.own_template {
            spec["template"] = template(app, GOOD[0]);
            spec["selector"] = json!({"matchLabels": {"app": app}});
            spec["replicas"] = json!(setup.replicas);
        } else {
            spec["workloadRef"] = json!({"kind": "Deployment", "name": app});
        }
        spec
    }

    pub fn put(&mut self, kind: Watched, name: &str, spec: Value) {
        self.git.insert((kind, name.to_owned()), json!({"metadata": {"name": name}, "spec": spec}));
    }

    /// What Git has of an object may be changed.
    pub fn spec_mut(&mut self, kind: Watched, name: &str) -> &mut Value {
        &mut self.git.get_mut(&(kind, name.to_owned())).expect("Git has it")["spec"]
    }

    /// A tool applies what Git has of some kinds. (A Rollout whose template is its own loses no scale: only what is applied is set.)
    pub fn apply_all(&mut self, of: impl Fn(Watched) -> bool) {
        let names: Vec<(Watched, String)> = self.git.keys().filter(|(kind, _)| of(*kind)).cloned().collect();
        for (kind, name) in names {
            self.apply(kind, &name);
        }
    }

    pub fn apply(&mut self, kind: Watched, name: &str) {
        let Some(mut body) = self.git.get(&(kind, name.to_owned())).cloned() else { return };
        let resource = kind.resource();
        body["apiVersion"] = json!(resource.api_version);
        body["kind"] = json!(resource.kind);
        let path = path(kind, NS, name) + "?fieldManager=git&force=true";
        self.send("PATCH", &path, "git", "application/apply-patch+yaml", body);
    }

    fn scale_workloads(&mut self) {
        let replicas = self.setup.replicas;
        for app in ["api", "other"] {
            self.scale(Watched::Deployment, app, replicas);
        }
    }

    pub fn scale(&mut self, kind: Watched, name: &str, replicas: u64) {
        let path = path(kind, NS, name) + "/scale";
        self.send("PATCH", &path, "person", "application/merge-patch+json", json!({"spec": {"replicas": replicas}}));
    }

    pub fn delete(&mut self, kind: Watched, name: &str, policy: Propagation) {
        let body = json!({"propagationPolicy": format!("{policy:?}")});
        self.send("DELETE", &path(kind, NS, name), "person", "application/json", body);
    }

    /// A request of somebody's; one that is refused is on record, and that is all.
    pub fn send(&mut self, method: &str, path: &str, actor: &str, content_type: &str, body: Value) -> u16 {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let [method, path, query, actor, content_type] = [method, path, query, actor, content_type].map(str::to_owned);
        let line = format!("{} {actor}: {method} {path}", self.drive.now);
        let response = self.drive.request(&Request { method, path, query, actor, content_type, body, ..Request::default() });
        let why = if response.status < 400 { "" } else { response.body["message"].as_str().unwrap_or_default() };
        self.drive.log.push(format!("{line}: {} {why}", response.status));
        response.status
    }

    pub fn get(&self, kind: Watched, name: &str) -> Value {
        self.drive.api.get(id(kind), NS, name).map(|object| (**object).clone()).unwrap_or_default()
    }

    pub fn status(&self, app: &str) -> Value {
        self.get(Watched::Rollout, app)["status"].clone()
    }

    /// The objects of a kind that are an application's, by the labels of their pods.
    pub fn of_app(&self, kind: Watched, app: &str) -> Vec<&Value> {
        let label = |object: &Value| {
            let pods = if kind == Watched::Pod { &object["metadata"] } else { &object["spec"]["template"]["metadata"] };
            pods["labels"]["app"] == *app
        };
        self.drive.api.list(id(kind)).map(std::convert::AsRef::as_ref).filter(|object| label(object)).collect()
    }

    pub fn wait(&mut self, seconds: i64) {
        let end = self.drive.now + SignedDuration::from_secs(seconds);
        self.drive.run(end, |_| false);
    }
}

pub fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "app", "image": image, "ports": [{"name": "http", "containerPort": 8080}]}]}})
}

pub fn image(template: &Value) -> &str {
    template["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}
