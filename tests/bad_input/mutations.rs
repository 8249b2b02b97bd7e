//! Rollouts that nobody would write: the good one, changed at places and to values that its own schema suggests.

use proptest::prelude::*;
use serde_json::{Value, json};
use sluice::world::Watched;

use crate::{cases::good, halfway, shop::Shop, trial::apply, waits_halfway};

/// Numbers from a seed: the same seed, the same Rollout.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit.max(1) as u64).unwrap()
    }

    fn one_of(&mut self, values: &[Value]) -> Value {
        values[self.below(values.len())].clone()
    }
}

fn schema() -> Value {
    let crd = serde_json::to_value(sluice::api::crds().remove(0)).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Every place where something is, or could be, below a value: its pointer, and what the schema says of it.
fn places(schema: &Value, value: &Value, at: &str, found: &mut Vec<(String, Value)>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}/{name}");
        if let Some(value) = value.get(name) {
            places(inner, value, &at, found);
        }
        found.push((at, inner.clone()));
    }
    for (n, value) in value.as_array().into_iter().flatten().enumerate() {
        let at = format!("{at}/{n}");
        places(&schema["items"], value, &at, found);
        found.push((at, schema["items"].clone()));
    }
}

/// A value that fits the kind that the schema asks for, if not always its limits.
fn likely(schema: &Value, at: &str, dice: &mut Dice) -> Value {
    if at.ends_with("/replicas") {
        return dice.one_of(&[json!(1), json!(2), json!(5), json!(-1), json!(100_001)]); // so many pods take long to make
    }
    if let Some(allowed) = schema["enum"].as_array() {
        return dice.one_of(allowed);
    }
    let limits = ["minimum", "maximum"].map(|limit| schema[limit].as_f64());
    let numbers = limits.into_iter().flatten().flat_map(|n| [n, n - 1.0, n + 1.0]).chain([0.0, 1.0, 7.0, 50.0]);
    match schema["type"].as_str() {
        Some("integer") => dice.one_of(&numbers.map(|n| json!(n as i64)).collect::<Vec<_>>()),
        Some("number") => dice.one_of(&numbers.flat_map(|n| [n, n + 0.5, n + 0.0001]).map(|n| json!(n)).collect::<Vec<_>>()),
        Some("boolean") => json!(dice.below(2) == 0),
        Some("array") => (0..dice.below(3)).map(|n| likely(&schema["items"], &format!("{at}/{n}"), dice)).collect(),
        Some("object") => {
            let mut fields = serde_json::Map::new();
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                let required = schema["required"].as_array().is_some_and(|all| all.contains(&json!(name)));
                if required || dice.below(4) == 0 {
                    fields.insert(name.clone(), likely(inner, &format!("{at}/{name}"), dice));
                }
            }
            fields.into()
        }
        _ => dice.one_of(
            &[
                "",
                "api",
                "shop",
                "other",
                "nosuch",
                "30s",
                "0s",
                "1ms",
                "8784h",
                "9999999h",
                "up",
                "result > 0.0",
                "{{x",
                "https://p",
                "2026-01-01T00:01:00Z",
            ]
            .map(|text| json!(text)),
        ),
    }
}

fn mutated(schema: &Value, mut rollout: Value, dice: &mut Dice) -> Value {
    let mut found = vec![];
    places(schema, &rollout["spec"], "/spec", &mut found);
    let (at, schema) = found.swap_remove(dice.below(found.len()));
    let (parent, leaf) = at.rsplit_once('/').unwrap();
    let Some(parent) = rollout.pointer_mut(parent) else { return rollout };
    let wrong = [json!(null), json!(true), json!("x"), json!(-1), json!(1.5), json!([]), json!({}), json!([1]), json!({"a": 1})];
    let value = match dice.below(5) {
        0 => None,
        1 => Some(dice.one_of(&wrong)),
        _ => Some(likely(&schema, &at, dice)),
    };
    match (parent, value) {
        (Value::Array(items), None) => drop(items.remove(leaf.parse().unwrap())),
        (Value::Array(items), Some(_)) if dice.below(3) == 0 => items.push(items[leaf.parse::<usize>().unwrap()].clone()),
        (Value::Array(items), Some(value)) => items[leaf.parse::<usize>().unwrap()] = value,
        (Value::Object(fields), None) => drop(fields.remove(leaf)),
        (Value::Object(fields), Some(value)) => drop(fields.insert(leaf.to_owned(), value)),
        _ => unreachable!("only objects and lists have places"),
    }
    rollout
}

/// It ends Healthy, if need be after somebody has said that it may go on, or deployed another version.
fn ends_healthy(shop: &mut Shop) {
    for image in ["app:v3", "app:v4"] {
        loop {
            shop.until("at an end, or waits for a person", |s| {
                s.is_healthy("api") || s.phase() == "Aborted" || s.phase() == "Paused" && waits_halfway(s)
            });
            if shop.phase() != "Paused" {
                break;
            }
            shop.command("Promote");
            shop.until("goes on", |s| s.phase() != "Paused");
        }
        if shop.is_healthy("api") {
            return;
        }
        shop.deploy(image);
        let generation = shop.get(Watched::Deployment, "api")["metadata"]["generation"].clone();
        shop.until("seen", |s| s.status("api")["workloadObservedGeneration"] == generation);
    }
    panic!("it is taken back again: {}", shop.status("api")["message"]);
}

fn survives(start: &Shop, schema: &Value, seed: u64) {
    let (mut shop, mut dice, good) = (start.clone(), Dice(seed), good("rollout"));
    let mut bad = good.clone();
    for _ in 0..=dice.below(4) {
        bad = mutated(schema, bad, &mut dice);
        let answer = apply(&mut shop, Watched::Rollout, bad.clone());
        println!("{}: {answer:?}", bad["spec"]);
        if answer.is_err() {
            bad = good.clone(); // it is not there, so the next is a change of the good one
        }
        shop.wait(i64::try_from(dice.below(60)).unwrap());
    }
    shop.apply(Watched::Rollout, good);
    ends_healthy(&mut shop);
    assert!(shop.drive.promises.broken.is_empty(), "{:#?}\nit did {:#?}", shop.drive.promises.broken, shop.drive.tail());
}

/// Twelve, unless PROPTEST_CASES says more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(12)
}

/// An optional part whose fields had defaults in the schema left them behind, and the good manifest was refused.
#[test]
fn a_part_that_is_taken_out_of_the_manifest_is_gone() {
    let (mut shop, good) = (halfway(), good("rollout"));
    let mut more = good.clone();
    more["spec"]["strategy"]["canary"]["analysis"]["metrics"][0]["prometheus"]["basicAuth"] = json!({"secretName": "login"});
    apply(&mut shop, Watched::Rollout, more).unwrap();
    apply(&mut shop, Watched::Rollout, good).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_made_of_a_rollout_in_mid_rollout_breaks_no_promise_and_the_good_one_ends_healthy(seed in any::<u64>()) {
        thread_local!(static START: (Shop, Value) = (halfway(), schema()));
        START.with(|(start, schema)| survives(start, schema, seed));
    }
}
