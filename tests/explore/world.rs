//! The small world, and all that can happen in it.

use jiff::Timestamp;
use serde_json::{Value, json};
use sluice::{
    api,
    sim::{
        Behaviour,
        api::{Request, Response},
        drive::{Drive, path},
    },
    world::Watched,
};

const NS: &str = "default";

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nobody does anything: what is due next happens.
    GoOn,
    /// The controller crashes, and another one begins.
    Crash,
    /// It goes on, and the controller crashes after so many writes of this look.
    CrashAfter(usize),
    /// Git brings a template with this image.
    Template(&'static str),
    /// The metrics of `app:v2` turn bad, or good again.
    Verdict,
    /// The pods of `app:v2` are not ready any more, or are again.
    Readiness,
    /// A person gives a command.
    Command(&'static str),
}

impl Move {
    pub const ALL: [Self; 11] = [
        Self::GoOn,
        Self::Crash,
        Self::Template("app:v1"),
        Self::Template("app:v2"),
        Self::Verdict,
        Self::Readiness,
        Self::Command("Abort"),
        Self::Command("Retry"),
        Self::Command("PromoteFull"),
        Self::Command("Undo"),
        Self::Command("Pause"),
    ];
}

#[derive(Clone)]
pub struct World {
    pub drive: Drive,
    ready: bool,
    commands: usize,
}

impl World {
    /// A Deployment that is taken over, and at rest.
    pub fn open() -> Self {
        let epoch = Timestamp::from_second(1_767_225_600).unwrap();
        let mut world = Self { drive: Drive::new(7, epoch), ready: true, commands: 0 };
        for crd in api::crds() {
            world.drive.api.install_crd(serde_json::to_value(crd).unwrap(), epoch).unwrap();
        }
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw"},
            "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}});
        world.send("POST", "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways".into(), "application/json", "git", gateway);
        world.drive.promises.lenient_about_requests = true; // of pods that lose their readiness
        let labels = json!({"app": "api"});
        let container = json!({"name": "app", "image": "app:v1", "ports": [{"name": "http", "containerPort": 8080}]});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        world.apply(Watched::Deployment, json!({"spec": {"selector": {"matchLabels": labels}, "template": template}}));
        world.scale(2);
        let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
        world.apply(Watched::Service, json!({"spec": {"selector": labels, "ports": ports}}));
        let rules = json!([{"backendRefs": [{"name": "api", "port": 80}]}]);
        world.apply(Watched::HttpRoute, json!({"spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}));
        world.run(|_| false);
        world.drive.promises.broken.clear(); // no pod was ready in the beginning
        world.apply(Watched::Rollout, rollout());
        world.run(|_| false);
        assert_eq!(world.status()["phase"], "Healthy", "{:#}", world.status());
        world.forget();
        world
    }

    /// The world after a move; none where it cannot be made, or changes nothing.
    pub fn after(&self, by: Move) -> Option<Self> {
        let mut next = self.clone();
        match by {
            Move::GoOn => next.drive.go_on().then_some(())?,
            Move::Crash => next.drive.crash(),
            Move::CrashAfter(writes) => {
                next.drive.crash_after = Some(next.drive.writes + writes);
                next.drive.go_on().then_some(())?;
                next.drive.crash_after = None;
            }
            Move::Template(image) => next.template(image)?,
            Move::Verdict => match next.drive.bad.take("app:v2") {
                Some(_) => {}
                None => drop(next.drive.bad.insert("app:v2".to_owned())),
            },
            Move::Readiness => {
                next.ready = !next.ready;
                let behaviour = if next.ready { Behaviour::default() } else { Behaviour::never_ready() };
                next.drive.cluster.kubelet.set_behaviour("app:v2", behaviour);
                next.drive.cluster_looks_again();
            }
            Move::Command(verb) => next.command(verb)?,
        }
        next.forget();
        Some(next)
    }

    pub fn broken(&self) -> &[String] {
        &self.drive.promises.broken
    }

    pub fn tail(&self) -> &[String] {
        self.drive.tail()
    }

    pub fn is_ready(&self) -> bool {
        self.ready
    }

    fn forget(&mut self) {
        let revision = self.drive.api.revision();
        self.drive.api.forget(revision);
        let surplus = self.drive.log.len().saturating_sub(40);
        self.drive.log.drain(..surplus);
    }

    fn run(&mut self, holds: impl FnMut(&Drive) -> bool) {
        let end = self.drive.now + jiff::SignedDuration::from_secs(60);
        self.drive.run(end, holds);
    }

    fn status(&self) -> Value {
        self.drive.api.get("rollouts.sluice.dev", NS, "api").map(|rollout| rollout["status"].clone()).unwrap_or_default()
    }

    fn send(&mut self, method: &str, path: String, content_type: &str, actor: &str, body: Value) -> Response {
        let request =
            Request { method: method.into(), path, content_type: content_type.into(), actor: actor.into(), body, ..Request::default() };
        let response = self.drive.request(&request);
        assert!(response.status < 300, "{:#}", response.body);
        response
    }

    fn apply(&mut self, kind: Watched, mut body: Value) {
        let resource = kind.resource();
        body["apiVersion"] = resource.api_version.into();
        body["kind"] = resource.kind.into();
        body["metadata"]["name"] = "api".into();
        let path = path(kind, NS, "");
        self.send("POST", path, "application/json", "git", body);
    }

    fn scale(&mut self, replicas: i32) {
        let path = path(Watched::Deployment, NS, "api") + "/scale";
        self.send("PATCH", path, "application/merge-patch+json", "kubectl", json!({"spec": {"replicas": replicas}}));
    }

    fn template(&mut self, image: &str) -> Option<()> {
        let live = self.drive.api.get("deployments.apps", NS, "api")?;
        let before = live["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        (before != image).then(|| {
            let path = path(Watched::Deployment, NS, "api");
            self.send("PATCH", path, "application/strategic-merge-patch+json", "git", patch);
        })
    }

    /// A command to what a person sees now, while no other one waits for its outcome. Done ones are forgotten: there may be any number.
    fn command(&mut self, verb: &str) -> Option<()> {
        let actions: Vec<Value> = self.drive.api.list("rolloutactions.sluice.dev").map(|action| (**action).clone()).collect();
        if actions.iter().any(|action| action["status"]["outcome"].is_null()) {
            return None;
        }
        let status = self.status();
        let revision = status["canaryRevision"].as_str().or(status["stableRevision"].as_str())?;
        self.commands += 1;
        let spec =
            json!({"rollout": "api", "verb": verb, "revision": revision, "step": status["currentStep"]["index"], "reason": "why not"});
        let body = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "RolloutAction", "metadata": {"name": format!("c{}", self.commands)}, "spec": spec});
        self.send("POST", path(Watched::RolloutAction, NS, ""), "application/json", "kubectl", body);
        Some(())
    }
}

fn rollout() -> Value {
    let metric = json!({"name": "good", "prometheus": {"query": "up"}, "min": 99, "interval": "1s"});
    json!({"spec": {
        "workloadRef": {"kind": "Deployment", "name": "api"},
        "traffic": {"service": "api", "routes": [{"kind": "HTTPRoute", "name": "api"}], "stepGraceSeconds": 0, "drainSeconds": 0},
        "strategy": {"canary": {"steps": [{"setWeight": 50}, {"analysis": {"metrics": [metric]}}]}}
    }})
}
