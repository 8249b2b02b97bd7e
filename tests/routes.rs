//! Whatever a rule looks like and however two Rollouts split it at the same time: what others have keeps its share exactly, and in the
//! end the rule is what its author wrote, byte for byte.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluice::{
    core::{
        patch::{Action, Write},
        route::{Pair, Route, record_key},
        spec::Weight,
    },
    world::project,
};

const ROLLOUTS: [(&str, Pair<'static>); 2] =
    [("api", Pair { service: "api", canary: "api-canary" }), ("web", Pair { service: "web", canary: "web-canary" })];

/// A route as the API server keeps it.
#[derive(Clone, Debug)]
struct Live {
    object: Value,
    version: u64,
}

impl Live {
    fn new(rules: &[Value]) -> Self {
        let rules: Vec<Value> = rules.iter().map(|refs| json!({"backendRefs": refs, "timeouts": {"request": "5s"}})).collect();
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "shop", "namespace": "shop", "uid": "u", "resourceVersion": "1", "annotations": {"team": "shop"}},
            "spec": {"rules": rules}});
        Self { object, version: 1 }
    }

    /// Asks a Rollout for a write, and carries it out.
    fn write(&mut self, who: usize, ask: impl Fn(&Route) -> Option<Action>) -> bool {
        let view = project::http_route(&serde_json::from_value(self.object.clone()).unwrap());
        let (rollout, pair) = ROLLOUTS[who];
        let route = Route { view: &view, rollout, namespace: "shop", pair, rule_names: &[] };
        let Some(action) = ask(&route) else { return false };
        let Write::Patch { ops, .. } = action.write else { panic!("a route is only patched") };
        let patch: json_patch::Patch = serde_json::from_value(Value::from(ops.clone())).unwrap();
        json_patch::patch(&mut self.object, &patch).unwrap_or_else(|error| panic!("{error}: {ops:#?} on {:#}", self.object));
        self.version += 1;
        self.object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        true
    }

    fn read<T>(&self, who: usize, ask: impl Fn(&Route) -> T) -> T {
        let view = project::http_route(&serde_json::from_value(self.object.clone()).unwrap());
        let (rollout, pair) = ROLLOUTS[who];
        ask(&Route { view: &view, rollout, namespace: "shop", pair, rule_names: &[] })
    }

    /// For each rule: the weights of the two pairs and of everybody else.
    fn parties(&self) -> Vec<Vec<u64>> {
        let weight = |backend: &Value| backend["weight"].as_u64().unwrap_or(1);
        let parties = |rule: &Value| {
            let refs = rule["backendRefs"].as_array().unwrap();
            let of = |pair: Pair| refs.iter().filter(|b| b["name"] == pair.service || b["name"] == pair.canary).map(weight).sum::<u64>();
            let foreign = |b: &&Value| ROLLOUTS.iter().all(|(_, pair)| b["name"] != pair.service && b["name"] != pair.canary);
            ROLLOUTS.iter().map(|(_, pair)| of(*pair)).chain(refs.iter().filter(foreign).map(weight)).collect()
        };
        self.object["spec"]["rules"].as_array().unwrap().iter().map(parties).collect()
    }

    fn holds_the_shares_of(&self, git: &Self) -> Result<(), TestCaseError> {
        for (now, then) in self.parties().iter().zip(git.parties()) {
            let (whole_now, whole_then) = (now.iter().sum::<u64>(), then.iter().sum::<u64>());
            prop_assert_eq!(now.len(), then.len());
            for (now, then) in now.iter().zip(&then) {
                prop_assert_eq!(
                    u128::from(*now) * u128::from(whole_then),
                    u128::from(*then) * u128::from(whole_now),
                    "{:#}",
                    self.object["spec"]
                );
            }
            prop_assert_eq!(whole_now == 0, whole_then == 0, "never a sum of 0 unless the user wrote so");
        }
        let all = self.object["spec"]["rules"].as_array().unwrap().iter().flat_map(|rule| rule["backendRefs"].as_array().unwrap());
        for backend in all {
            prop_assert!(backend["weight"].as_u64().unwrap_or(1) <= 1_000_000, "{}", backend);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Move {
    /// A Rollout gives its canary this many thousandths of a percent.
    Set(usize, u32),
    /// A Rollout takes its canary back, and says so.
    Reject(usize),
    /// A Rollout leaves.
    Leave(usize),
    /// Somebody puts the backends back as Git has them.
    Revert,
}

fn weight() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), Just(Some(0)), (1u32..=10).prop_map(Some), (0u32..=1000).prop_map(Some), (0u32..=1_000_000).prop_map(Some)]
}

fn backend() -> impl Strategy<Value = Value> {
    let names = prop_oneof![3 => Just("api"), 1 => Just("api-canary"), 2 => Just("web"), 1 => Just("web-canary"), 2 => Just("other"), 1 => Just("third")];
    (names, weight()).prop_map(|(name, weight)| match weight {
        None => json!({"name": name, "port": 80}),
        Some(weight) => json!({"name": name, "port": 80, "weight": weight}),
    })
}

fn rule() -> impl Strategy<Value = Value> {
    prop::collection::vec(backend(), 1..6).prop_map(Value::from)
}

fn a_move() -> impl Strategy<Value = Move> {
    let weights = prop_oneof![Just(0), Just(100_000), 0u32..=100_000];
    prop_oneof![
        6 => (0usize..2, weights).prop_map(|(who, weight)| Move::Set(who, weight)),
        1 => (0usize..2).prop_map(Move::Reject),
        2 => (0usize..2).prop_map(Move::Leave),
        1 => Just(Move::Revert),
    ]
}

const DENOMINATOR: u64 = 1000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shares_are_exact_at_every_moment_and_the_route_is_put_back(
        rules in prop::collection::vec(rule(), 1..3),
        moves in prop::collection::vec(a_move(), 1..10),
    ) {
        let git = Live::new(&rules);
        let possible = (0..2).all(|who| git.read(who, |route| route.check().is_ok()));
        prop_assume!(possible);
        let mut live = git.clone();
        for step in moves {
            match step {
                Move::Set(who, weight) => {
                    let weight = Weight::from_percent(f64::from(weight) / 1000.0).unwrap();
                    let needed = |r: &Route| r.is_relevant() && !r.has(weight, DENOMINATOR);
                    live.write(who, |r| needed(r).then(|| r.set(weight, DENOMINATOR, None, 1)));
                    prop_assert!(live.read(who, |r| r.has(weight, DENOMINATOR)), "what was set is there: {:#}", live.object);
                }
                Move::Reject(who) => {
                    live.write(who, |r| r.is_relevant().then(|| r.set(Weight::ZERO, DENOMINATOR, Some("bad"), 1)));
                    prop_assert_eq!(live.read(who, |r| r.canary_weight()), Weight::ZERO);
                }
                Move::Leave(who) => {
                    live.write(who, |r| r.restore(DENOMINATOR));
                    let key = record_key(ROLLOUTS[who].0);
                    prop_assert!(live.object["metadata"]["annotations"].get(key).is_none());
                }
                Move::Revert => live.object["spec"] = git.object["spec"].clone(),
            }
            live.holds_the_shares_of(&git)?;
        }
        for who in 0..2 {
            live.write(who, |r| r.restore(DENOMINATOR));
            live.holds_the_shares_of(&git)?;
        }
        prop_assert_eq!(&live.object["spec"], &git.object["spec"], "byte for byte");
        prop_assert_eq!(&live.object["metadata"]["annotations"], &git.object["metadata"]["annotations"], "no mark is left");
    }
}
