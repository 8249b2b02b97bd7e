//! A rule in which several Rollouts have a part, and that Git's tools write, too: whatever the order, everyone keeps the share that Git
//! gives, and when the last Rollout has left, the rule is as in Git.

use kube::api::DynamicObject;
use proptest::{prelude::*, test_runner::TestCaseError};
use serde_json::{Value, json};
use sluice::{
    api::rollout::RouteKind,
    core::{
        observed::RouteView,
        patch::{Action, Write},
        route::{Pair, Route, names},
        spec::Weight,
    },
    world::project,
};

const ROLLOUTS: [&str; 2] = ["api", "web"];
const DENOMINATOR: u64 = 1000;

#[derive(Clone, Debug)]
enum Step {
    Set {
        rollout: usize,
        percent: u32,
    },
    Abort {
        rollout: usize,
    },
    Leave {
        rollout: usize,
    },
    /// A tool puts the rules back as Git has them; our annotations stay.
    PutBack,
    /// Somebody edits the live rule: another backend gets a share, too.
    Edit,
    /// The author commits other weights, and the tool applies them.
    Commit {
        rule: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2usize, prop_oneof![Just(0), Just(50), Just(100), 1..100u32]).prop_map(|(rollout, percent)| Step::Set { rollout, percent }),
        1 => (0..2usize).prop_map(|rollout| Step::Abort { rollout }),
        3 => (0..2usize).prop_map(|rollout| Step::Leave { rollout }),
        2 => Just(Step::PutBack),
        1 => Just(Step::Edit),
        1 => (0..RULES.len()).prop_map(|rule| Step::Commit { rule }),
    ]
}

type Backends = &'static [(&'static str, Option<u64>)];

/// Rules as an author may write them.
const RULES: [Backends; 6] = [
    &[("api", None), ("web", None)],
    &[("api", Some(3)), ("partner", Some(1)), ("web", Some(2))],
    &[("web", Some(1)), ("api", Some(1)), ("api-canary", Some(0))],
    &[("api", None), ("api-canary", None), ("web", None), ("web-canary", None)],
    &[("api", Some(9)), ("web", Some(0)), ("partner", Some(7))],
    &[("api", Some(5)), ("partner", None), ("api", Some(2)), ("web", None)],
];

fn backends(rule: usize) -> Value {
    let backend = |(at, (name, weight)): (usize, &(&str, Option<u64>))| {
        // The same Service twice in a rule: on two ports.
        let nth = RULES[rule][..at].iter().filter(|(before, _)| before == name).count();
        let mut backend = json!({"name": name, "port": 80 + nth});
        if let Some(weight) = weight {
            backend["weight"] = json!(weight);
        }
        backend
    };
    RULES[rule].iter().enumerate().map(backend).collect()
}

struct World {
    route: Value,
    git: Value,
    /// Somebody edited the live rule: then shares are what there is to keep.
    edited: bool,
}

impl World {
    fn new(rule: usize) -> Self {
        let git = backends(rule);
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "shop", "namespace": "default", "uid": "u", "resourceVersion": "1", "generation": 1},
            "spec": {"rules": [{"backendRefs": git.clone()}]},
        });
        Self { route, git, edited: false }
    }

    fn live(&self) -> &Value {
        &self.route["spec"]["rules"][0]["backendRefs"]
    }

    fn with<T>(&self, rollout: usize, look: impl FnOnce(&Route) -> T) -> T {
        let object: DynamicObject = serde_json::from_value(self.route.clone()).unwrap();
        let rules = project::rules(&self.route["spec"]["rules"]);
        let view = RouteView { rules, ..project::route(RouteKind::HttpRoute, (&object).into()) };
        let service = ROLLOUTS[rollout];
        let canary = format!("{service}-canary");
        let pair = Pair { service, canary: &canary };
        look(&Route { view: &view, rollout: service, namespace: "default", pair, rule_names: &[] })
    }

    fn apply(&mut self, action: &Action) -> Result<(), TestCaseError> {
        let Write::Patch { ops, .. } = &action.write else { return Err(TestCaseError::fail("not a patch")) };
        let patch: json_patch::Patch = serde_json::from_value(Value::from(ops.clone())).unwrap();
        let fits = json_patch::patch(&mut self.route, &patch);
        prop_assert!(fits.is_ok(), "{}: {fits:?}\n{:#}", action.what, self.route);
        Ok(())
    }

    /// Shares of the parties, in parts of the whole: what belongs to a Rollout's two Services is one party's.
    fn shares(backends: &Value) -> Vec<(String, u64)> {
        let party = |backend: &Value| backend["name"].as_str().unwrap().trim_end_matches("-canary").to_owned();
        let mut shares = std::collections::BTreeMap::new();
        for backend in backends.as_array().unwrap() {
            *shares.entry(party(backend)).or_insert(0) += backend["weight"].as_u64().unwrap_or(1);
        }
        shares.into_iter().collect()
    }

    fn everyone_keeps_their_share(&self) -> Result<(), TestCaseError> {
        let (git, live) = (Self::shares(&self.git), Self::shares(self.live()));
        let whole = |shares: &[(String, u64)]| shares.iter().map(|(_, weight)| weight).sum::<u64>();
        prop_assert_eq!(git.len(), live.len());
        for ((_, wanted), (party, is)) in git.iter().zip(&live) {
            prop_assert_eq!(wanted * whole(&live), is * whole(&git), "{} has {} of {:?}, in Git {:?}", party, is, live, git);
        }
        Ok(())
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Set { rollout, percent } => {
                let weight = Weight::from_percent(f64::from(*percent)).unwrap();
                let action = self.with(*rollout, |route| route.set(&weight.into(), DENOMINATOR, None, 1));
                self.apply(&action)?;
                prop_assert!(self.with(*rollout, |route| route.has(&weight.into(), DENOMINATOR)), "it has what was set: {:#}", self.live());
                self.everyone_keeps_their_share()
            }
            Step::Abort { rollout } => {
                let action = self.with(*rollout, |route| route.set(&Weight::ZERO.into(), DENOMINATOR, Some("bad"), 1));
                self.apply(&action)?;
                prop_assert_eq!(self.with(*rollout, |route| route.canary_weight()), Weight::ZERO);
                self.everyone_keeps_their_share()
            }
            Step::Leave { rollout } => self.leave(*rollout),
            Step::PutBack => {
                self.route["spec"]["rules"][0]["backendRefs"] = self.git.clone();
                Ok(())
            }
            Step::Edit => {
                let names: Vec<Value> = self.git.as_array().unwrap().iter().map(|b| json!([b["name"], b["port"]])).collect();
                let is_in_git = |backend: &Value| names.contains(&json!([backend["name"], backend["port"]]));
                let extra = json!({"name": format!("extra-{}", self.live().as_array().unwrap().len()), "port": 80, "weight": 3});
                self.route["spec"]["rules"][0]["backendRefs"].as_array_mut().unwrap().push(extra.clone());
                // As the author would write it: no canary that a Rollout has added.
                let (kept, added): (Vec<Value>, Vec<Value>) =
                    self.live().as_array().unwrap().iter().cloned().partition(|b| is_in_git(b) || *b == extra);
                self.git = Value::from(kept);
                for canary in added {
                    let service = canary["name"].as_str().unwrap().trim_end_matches("-canary").to_owned();
                    let mut services =
                        self.git.as_array_mut().unwrap().iter_mut().filter(|b| b["name"] == *service && b["port"] == canary["port"]);
                    let service = services.next().expect("a canary is added like its Service");
                    service["weight"] = json!(service["weight"].as_u64().unwrap_or(1) + canary["weight"].as_u64().unwrap());
                }
                self.edited = true;
                Ok(())
            }
            Step::Commit { rule } => {
                self.git = backends(*rule);
                self.edited = false;
                self.route["spec"]["rules"][0]["backendRefs"] = self.git.clone();
                Ok(())
            }
        }
    }

    /// As a Rollout leaves: at weight 0, if it is in the rule.
    fn leave(&mut self, rollout: usize) -> Result<(), TestCaseError> {
        let off = self.with(rollout, |route| {
            let split = route.record().is_some() && !route.has(&Weight::ZERO.into(), DENOMINATOR);
            split.then(|| route.set(&Weight::ZERO.into(), DENOMINATOR, None, 1))
        });
        if let Some(action) = off {
            self.apply(&action)?;
        }
        match self.with(rollout, |route| route.restore(DENOMINATOR)) {
            Some(action) => self.apply(&action),
            None => Ok(()),
        }
    }
}

#[test]
fn a_service_of_the_same_name_in_another_namespace_is_somebody_elses() {
    let is_ours = |namespace: Option<&str>| {
        let mut backend = json!({"name": "api", "port": 80});
        if let Some(namespace) = namespace {
            backend["namespace"] = json!(namespace);
        }
        names(&backend, "default", "api")
    };
    assert_eq!((is_ours(None), is_ours(Some("default")), is_ours(Some("other-team"))), (true, true, false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shared_rule_is_as_in_git_when_the_last_rollout_has_left(rule in 0..RULES.len(), steps in prop::collection::vec(step(), 0..12)) {
        let mut world = World::new(rule);
        let mut edits = 0;
        for step in &steps {
            edits += usize::from(matches!(step, Step::Edit));
            if edits < 2 || !matches!(step, Step::Edit) {
                world.take(step)?;
            }
        }
        for rollout in 0..ROLLOUTS.len() {
            world.leave(rollout)?;
        }
        match world.edited {
            false => prop_assert_eq!(world.live(), &world.git),
            true => world.everyone_keeps_their_share()?,
        }
        let names = |backends: &Value| backends.as_array().unwrap().iter().map(|b| json!([b["name"], b["port"]])).collect::<Vec<_>>();
        prop_assert_eq!(names(world.live()), names(&world.git));
        let annotations = world.route["metadata"]["annotations"].as_object().map_or(0, serde_json::Map::len);
        prop_assert_eq!(annotations, 0, "no marks are left: {:#}", world.route);
    }
}
