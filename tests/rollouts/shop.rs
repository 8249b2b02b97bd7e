//! A shop in the simulated cluster: a Deployment with three pods, its Service, a route with a rule of its own and one that another team
//! shares, and a Rollout.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sluice::{
    api,
    sim::{
        api::{Request, Response},
        drive::{Drive, path},
        promises::g1_at_rest_live_equals_git,
    },
    world::Watched,
};

pub const NS: &str = "default";

#[derive(Clone)]
pub struct Shop {
    pub drive: Drive,
    /// Route and Service as they were applied.
    git: Vec<(Watched, String, Value)>,
}

fn container(image: &str) -> Value {
    json!({"name": "app", "image": image, "ports": [{"name": "http", "containerPort": 8080}]})
}

pub fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [container(image)]}})
}

impl Shop {
    /// Everything but the Rollout, with its pods ready.
    pub fn without_rollout() -> Self {
        let epoch = Timestamp::from_second(1_767_225_600).unwrap();
        let mut shop = Self { drive: Drive::new(7, epoch), git: vec![] };
        for crd in api::crds() {
            shop.drive.api.install_crd(serde_json::to_value(crd).unwrap(), epoch).unwrap();
        }
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw"},
            "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
        shop.send("POST", "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways", "git", "application/json", gateway);
        for app in ["api", "other"] {
            shop.deployment(app, "app:v1");
            shop.scale(app, 3);
            shop.service(app);
        }
        shop.route(json!([
            {"backendRefs": [{"name": "api", "port": 80}]},
            {"matches": [{"headers": [{"name": "x-team", "value": "other"}]}], "timeouts": {"request": "5s"},
             "backendRefs": [{"name": "api", "port": 80, "weight": 9}, {"name": "other", "port": 80, "weight": 2}]}
        ]));
        shop.wait(30);
        shop.drive.promises.broken.clear(); // no pod was ready in the beginning
        shop.remember();
        shop
    }

    /// Taken over, and at rest.
    pub fn open() -> Self {
        let mut shop = Self::without_rollout();
        shop.rollout("api", json!({}));
        shop.until("taken over", |s| s.is_healthy("api"));
        shop
    }

    /// The same, where Git has both Services, and lists both in the route without weights.
    pub fn open_with_both_services() -> Self {
        let mut shop = Self::without_rollout();
        let spec = json!({"selector": {"app": "api"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        shop.apply(Watched::Service, json!({"metadata": {"name": "api-canary"}, "spec": spec}));
        shop.route(json!([
            {"backendRefs": [{"name": "api", "port": 80}, {"name": "api-canary", "port": 80}]},
            {"matches": [{"headers": [{"name": "x-team", "value": "other"}]}],
             "backendRefs": [{"name": "api", "port": 80}, {"name": "other", "port": 80, "weight": 2}, {"name": "api-canary", "port": 80}]}
        ]));
        shop.wait(5);
        shop.drive.promises.broken.clear(); // the gateway took the route up before the Service had endpoints
        shop.remember();
        shop.rollout("api", json!({}));
        shop.until("taken over", |s| s.is_healthy("api"));
        shop
    }

    pub fn send(&mut self, method: &str, path: &str, actor: &str, content_type: &str, body: Value) -> Response {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let request = Request {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            actor: actor.into(),
            content_type: content_type.into(),
            body,
            ..Request::default()
        };
        let response = self.drive.request(&request);
        assert!(response.status < 400, "{method} {path}: {:#}", response.body);
        response
    }

    pub fn apply(&mut self, kind: Watched, mut body: Value) {
        let resource = kind.resource();
        body["apiVersion"] = json!(resource.api_version);
        body["kind"] = json!(resource.kind);
        let path = path(kind, NS, body["metadata"]["name"].as_str().unwrap()) + "?fieldManager=git&force=true";
        self.send("PATCH", &path, "git", "application/apply-patch+yaml", body);
    }

    pub fn deployment(&mut self, name: &str, image: &str) {
        let spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template(name, image)});
        self.apply(Watched::Deployment, json!({"metadata": {"name": name}, "spec": spec}));
    }

    pub fn scale(&mut self, name: &str, replicas: i32) {
        let path = path(Watched::Deployment, NS, name) + "/scale";
        self.send("PATCH", &path, "person", "application/merge-patch+json", json!({"spec": {"replicas": replicas}}));
    }

    pub fn service(&mut self, name: &str) {
        let spec = json!({"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
        self.apply(Watched::Service, json!({"metadata": {"name": name}, "spec": spec}));
    }

    /// A tool applies again what Git has of these kinds.
    pub fn put_back(&mut self, kinds: &[Watched]) {
        for kind in kinds {
            let of_kind: Vec<Value> =
                self.git.iter().filter(|(k, _, live)| k == kind && live["spec"].is_object()).map(|(_, _, o)| o.clone()).collect();
            for object in of_kind {
                let metadata = json!({"name": object["metadata"]["name"]});
                let mut spec = object["spec"].clone();
                spec.as_object_mut()
                    .unwrap()
                    .retain(|key, _| matches!(key.as_str(), "selector" | "ports" | "parentRefs" | "hostnames" | "rules"));
                self.apply(*kind, json!({"metadata": metadata, "spec": spec}));
            }
        }
    }

    pub fn route(&mut self, rules: Value) {
        let spec = json!({"parentRefs": [{"name": "gw"}], "hostnames": ["shop.example"], "rules": rules});
        self.apply(Watched::HttpRoute, json!({"metadata": {"name": "shop"}, "spec": spec}));
    }

    /// A Rollout for the Deployment and the Service of this name.
    pub fn rollout(&mut self, name: &str, over: Value) {
        let metric = json!({"name": "success", "prometheus": {"query": "up"}, "min": 99, "interval": "10s"});
        let mut spec = json!({
            "workloadRef": {"kind": "Deployment", "name": name},
            "progressDeadlineSeconds": 120,
            "traffic": {"service": name, "routes": [{"kind": "HTTPRoute", "name": "shop"}], "drainSeconds": 10, "stepGraceSeconds": 1},
            "strategy": {"canary": {"analysis": {"metrics": [metric]}, "steps": [
                {"setWeight": 5}, {"pause": {"duration": "20s"}}, {"setWeight": 50}, {"pause": {}}, {"setWeight": 75}]}}
        });
        for (key, value) in over.as_object().unwrap() {
            match value {
                Value::Null => drop(spec.as_object_mut().unwrap().remove(key)),
                value => spec[key] = value.clone(),
            }
        }
        self.apply(Watched::Rollout, json!({"metadata": {"name": name}, "spec": spec}));
    }

    pub fn deploy(&mut self, image: &str) {
        self.deployment("api", image);
    }

    /// A command, addressed to what the Rollout is at.
    pub fn command(&mut self, verb: &str) -> String {
        let status = self.status("api");
        let name = format!("{}-{}", verb.to_lowercase(), self.drive.api.revision());
        let spec = json!({"rollout": "api", "verb": verb, "revision": status["canaryRevision"], "step": status["currentStep"]["index"].as_i64().unwrap_or(0),
            "requestedBy": "ann"});
        let mut body = json!({"metadata": {"name": name}, "spec": spec});
        body["apiVersion"] = json!("sluice.dev/v1alpha1");
        body["kind"] = json!("RolloutAction");
        self.send("POST", &path(Watched::RolloutAction, NS, ""), "ann", "application/json", body);
        name
    }

    pub fn outcome(&self, action: &str) -> String {
        self.get(Watched::RolloutAction, action)["status"]["outcome"].as_str().unwrap_or_default().to_owned()
    }

    /// Takes note of what Git has.
    pub fn remember(&mut self) {
        let kinds = [(Watched::HttpRoute, "shop"), (Watched::Service, "api"), (Watched::Service, "api-canary")];
        self.git =
            kinds.into_iter().map(|(kind, name)| (kind, name.to_owned(), g1_at_rest_live_equals_git(&self.get(kind, name)))).collect();
    }

    pub fn get(&self, kind: Watched, name: &str) -> Value {
        let resource = kind.resource();
        let id = if resource.group.is_empty() { resource.plural } else { format!("{}.{}", resource.plural, resource.group) };
        self.drive.api.get(&id, NS, name).map(|o| (**o).clone()).unwrap_or_default()
    }

    pub fn status(&self, rollout: &str) -> Value {
        self.get(Watched::Rollout, rollout)["status"].clone()
    }

    pub fn phase(&self) -> String {
        self.status("api")["phase"].as_str().unwrap_or_default().to_owned()
    }

    pub fn is_healthy(&self, rollout: &str) -> bool {
        let live = self.get(Watched::Rollout, rollout);
        let observed = live["status"]["observedGeneration"] == live["metadata"]["generation"];
        let workload = self.get(Watched::Deployment, rollout);
        let latest = live["status"]["workloadObservedGeneration"] == workload["metadata"]["generation"];
        live["status"]["phase"] == "Healthy" && observed && latest
    }

    pub fn is_aborted(&self) -> bool {
        self.phase() == "Aborted" && self.pods("app:v2").is_empty()
    }

    /// The canary's share of the first rule, in percent.
    pub fn weight(&self) -> f64 {
        let refs = self.get(Watched::HttpRoute, "shop")["spec"]["rules"][0]["backendRefs"].clone();
        let weight = |name: &str| {
            refs.as_array().into_iter().flatten().filter(|b| b["name"] == name).map(|b| b["weight"].as_f64().unwrap_or(1.0)).sum::<f64>()
        };
        100.0 * weight("api-canary") / (weight("api-canary") + weight("api"))
    }

    pub fn image_that_serves(&self) -> String {
        self.image_of(&self.status("api")["stableRevision"])
    }

    pub fn image_of(&self, revision: &Value) -> String {
        let mut sets = self.drive.api.list("replicasets.apps");
        let set = sets.find(|rs| rs["metadata"]["labels"]["pod-template-hash"] == *revision);
        set.and_then(|rs| rs["spec"]["template"]["spec"]["containers"][0]["image"].as_str()).unwrap_or_default().to_owned()
    }

    /// Pods of the app with an image, by uid.
    pub fn pods(&self, image: &str) -> Vec<String> {
        let of = |pod: &&std::sync::Arc<Value>| {
            pod["spec"]["containers"][0]["image"] == image
                && pod["metadata"]["labels"]["app"] == "api"
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        self.drive.api.list("pods").filter(of).map(|pod| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()).collect()
    }

    pub fn wait(&mut self, seconds: i64) {
        let end = self.drive.now + SignedDuration::from_secs(seconds);
        self.drive.run(end, |_| false);
    }

    /// Goes on until `holds`, for ten minutes at most.
    #[track_caller]
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let end = self.drive.now + SignedDuration::from_mins(10);
        let mut seen = 0;
        let git = std::mem::take(&mut self.git);
        let held = loop {
            let revision = self.drive.api.revision();
            if revision != seen && holds(self) {
                break true;
            }
            seen = revision;
            if !self.drive.run(end, |d| d.api.revision() != seen) {
                break holds(self);
            }
        };
        self.git = git;
        assert!(
            held,
            "never happened: {what}; the Rollout says {:#}\nbroken: {:#?}\nit did {:#?}",
            self.status("api"),
            self.drive.promises.broken,
            self.drive.tail()
        );
    }

    /// No promise was broken on the way; and then nothing is written any more.
    #[track_caller]
    pub fn comes_to_rest(&mut self) {
        self.wait(30);
        let writes = self.drive.writes;
        self.wait(900);
        assert_eq!(self.drive.writes, writes, "L2: then no more writes: {:#?}", self.drive.tail());
        assert_eq!(self.drive.l1_the_plan_of_an_unchanged_world_is_empty(NS, "api"), Ok(()));
        assert!(self.drive.promises.broken.is_empty(), "{:#?}\nit did {:#?}", self.drive.promises.broken, self.drive.tail());
    }

    /// G1: at rest, live equals Git.
    #[track_caller]
    pub fn is_as_in_git(&self) {
        for (kind, name, git) in &self.git {
            assert_eq!(g1_at_rest_live_equals_git(&self.get(*kind, name)), *git, "G1: {kind:?} {name}");
        }
    }
}
