//! The policy that says who may give which command: its expressions, evaluated as the API server does.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use cel::{Context, Program, Value as Cel, extractors::This};
use serde_json::{Value, json};
use sluice::api::Verb;

fn chart(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/sluice").join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn evaluate(expression: &Value, context: &Context) -> Cel {
    let expression = expression.as_str().expect("an expression");
    Program::compile(expression).unwrap().execute(context).unwrap_or_else(|error| panic!("{expression}: {error}"))
}

/// The words of the first validation that fails, for a user who has the verb `has` on the Rollout shop/api and on nothing else.
fn denied(spec: Value, user: &str, has: &str) -> Option<String> {
    let policy: Value = serde_yaml_ng::from_str(&chart("files/action-policy.yaml")).unwrap();
    let mut context = Context::default();
    // The authorizer is the text of what it is asked.
    let has = format!(" group=sluice.dev resource=rollouts namespace=shop name=api check={has}");
    for function in ["group", "resource", "namespace", "name", "check"] {
        let ask = move |This(asked): This<Arc<String>>, value: Arc<String>| Arc::new(format!("{asked} {function}={value}"));
        context.add_function(function, ask);
    }
    context.add_function("allowed", move |This(asked): This<Arc<String>>| *asked == has);
    context.add_variable("authorizer", "").unwrap();
    context.add_variable("object", json!({"spec": spec})).unwrap();
    context.add_variable("request", json!({"namespace": "shop", "userInfo": {"username": user}})).unwrap();
    let mut variables = serde_json::Map::new();
    for variable in policy["variables"].as_array().unwrap() {
        let Cel::String(value) = evaluate(&variable["expression"], &context) else { panic!("{variable}") };
        let value = Value::String(value.to_string());
        variables.insert(variable["name"].as_str().unwrap().to_owned(), value);
    }
    context.add_variable("variables", Value::Object(variables)).unwrap();
    let failed = policy["validations"].as_array().unwrap().iter().find(|v| evaluate(&v["expression"], &context) != Cel::Bool(true))?;
    match evaluate(&failed["messageExpression"], &context) {
        Cel::String(message) => Some(message.to_string()),
        other => panic!("{other:?}"),
    }
}

const VERBS: [(Verb, &str); 9] = [
    (Verb::Promote, "promote"),
    (Verb::PromoteFull, "promote-full"),
    (Verb::SkipStep, "skip-step"),
    (Verb::Pause, "pause"),
    (Verb::Resume, "resume"),
    (Verb::Abort, "abort"),
    (Verb::Retry, "retry"),
    (Verb::Undo, "undo"),
    (Verb::Restart, "restart"),
];

/// All that a RolloutAction can ask for, by its schema.
fn commands() -> BTreeSet<String> {
    let crd: Value = serde_yaml_ng::from_str(&chart("files/crds/rolloutactions.yaml")).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let verbs = schema["properties"]["spec"]["properties"]["verb"]["enum"].as_array().unwrap();
    verbs.iter().map(|verb| verb.as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_command_takes_its_own_verb_and_no_other_will_do() {
    assert_eq!(VERBS.iter().map(|(verb, _)| verb.to_string()).collect::<BTreeSet<_>>(), commands());
    for (command, _) in VERBS {
        let spec = json!({"rollout": "api", "verb": command});
        let enough: Vec<&str> =
            VERBS.iter().map(|(_, right)| *right).filter(|right| denied(spec.clone(), "ada", right).is_none()).collect();
        let own: Vec<&str> = VERBS.iter().filter(|(verb, _)| *verb == command).map(|(_, right)| *right).collect();
        assert_eq!(enough, own, "{command}");
    }
}

#[test]
fn a_verb_on_one_rollout_is_none_on_another() {
    let message = denied(json!({"rollout": "web", "verb": "Abort"}), "ada", "abort").unwrap();
    let says = "ada may not abort the Rollout shop/web: that takes the verb abort on rollouts.sluice.dev in the namespace shop";
    assert!(message.starts_with(says), "{message}");
    assert!(message.contains("kubectl create role NAME --verb=abort --resource=rollouts.sluice.dev -n shop"), "{message}");
}

#[test]
fn nobody_acts_in_another_ones_name() {
    let spec = |by: &str| json!({"rollout": "api", "verb": "Promote", "requestedBy": by});
    assert_eq!(denied(spec("ada"), "ada", "promote"), None);
    assert_eq!(denied(json!({"rollout": "api", "verb": "Promote"}), "ada", "promote"), None);
    let message = denied(spec("grace"), "ada", "promote").unwrap();
    assert_eq!(message, "spec.requestedBy is grace, but you are ada: set it to that, or leave it out");
}

#[test]
fn who_may_edit_may_give_every_command() {
    let roles = chart("templates/user-roles.yaml");
    let line = roles.lines().find(|line| line.contains("promote")).unwrap();
    let given: BTreeSet<&str> = line.split_once('[').unwrap().1.trim_end_matches(']').split(", ").collect();
    assert_eq!(given, VERBS.iter().map(|(_, right)| *right).collect());
}
