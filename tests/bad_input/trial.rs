//! One attempt: a manifest goes to the API server, and if that takes it, the controller looks at it.

use serde_json::{Value, json};
use sluice::{
    sim::{api::Request, drive::path},
    world::Watched,
};

use crate::{
    cases::Case,
    shop::{NS, Shop},
};

/// Who refuses it, and in which words.
pub struct Answer {
    pub who: &'static str,
    pub message: String,
}

impl Answer {
    pub fn new(who: &'static str, message: &str) -> Self {
        Self { who, message: shortened(message) }
    }

    fn refused(message: &str) -> Self {
        let own = message.split_once("is invalid: ").map_or(message, |(_, own)| own);
        let own = own.split_once(", <nil>: ").map_or(own, |(own, _)| own.trim_start_matches('['));
        Self::new("API server", own)
    }
}

/// What runs, and who gets the traffic.
#[derive(PartialEq)]
pub struct Running(Vec<Value>);

impl Running {
    pub fn of(shop: &Shop) -> Self {
        let spec = |kind, name| json!([format!("{kind:?} {name}"), shop.get(kind, name)["spec"]]);
        let mut pods: Vec<&str> = shop.drive.api.list("pods").filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
        pods.sort_unstable();
        let kinds =
            [(Watched::HttpRoute, "shop"), (Watched::Service, "api"), (Watched::Service, "api-canary"), (Watched::Deployment, "api")];
        Self(kinds.into_iter().map(|(kind, name)| spec(kind, name)).chain([json!(pods)]).collect())
    }

    #[track_caller]
    pub fn stands(&self, shop: &Shop, case: &str) {
        let now = Self::of(shop);
        let changed: Vec<_> = self.0.iter().zip(&now.0).filter(|(was, is)| was != is).collect();
        assert!(changed.is_empty(), "{case}: it changes what runs: {changed:#?}\n{:#?}", shop.drive.tail());
    }
}

/// Applies a manifest as `kubectl apply --server-side` does; the error is the server's message.
pub fn apply(shop: &mut Shop, kind: Watched, object: Value) -> Result<(), String> {
    let name = object["metadata"]["name"].as_str().unwrap_or("nameless").to_owned();
    let mut at = path(kind, NS, &name);
    if kind == Watched::ClusterAnalysisTemplate {
        at = at.replace(&format!("namespaces/{NS}/"), "");
    }
    let query = "fieldManager=git&force=true&fieldValidation=Strict";
    answered(shop, "PATCH", at, query, "application/apply-patch+yaml", object)
}

fn answered(shop: &mut Shop, method: &str, path: String, query: &str, content_type: &str, body: Value) -> Result<(), String> {
    let (method, query, content_type) = (method.into(), query.into(), content_type.into());
    let request = Request { method, path, query, content_type, actor: "git".into(), body, ..Request::default() };
    let response = shop.drive.request(&request);
    if response.status < 400 { Ok(()) } else { Err(response.body["message"].as_str().unwrap_or_default().to_owned()) }
}

/// Applies a manifest of ours; the API server's answer, if it refuses it. Then everything is as it was.
pub fn submit(shop: &mut Shop, object: Value) -> Option<Answer> {
    let kind = Watched::ALL.into_iter().find(|kind| kind.resource().kind == object["kind"].as_str().unwrap()).unwrap();
    let before = shop.drive.api.revision();
    let why = apply(shop, kind, object).err()?;
    assert_eq!(shop.drive.api.revision(), before, "nothing was written");
    Some(Answer::refused(&why))
}

/// A Rollout that is bad. Where nobody minds it by itself, a new version is deployed with it.
pub fn rollout(shop: &mut Shop, case: &Case, bad: Value) -> Answer {
    let before = Running::of(shop);
    let name = bad["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(answer) = submit(shop, bad) {
        return answer;
    }
    shop.wait(20);
    let answer = says(shop, &name);
    if answer.who != "nobody" {
        before.stands(shop, &case.name);
        return answer;
    }
    let before = Running::of(shop);
    deployed(shop, &before, case)
}

/// What a rollout of v2 comes to with what is there now: the pods that serve stay.
pub fn deployed(shop: &mut Shop, before: &Running, case: &Case) -> Answer {
    let pods = shop.pods("app:v1");
    let answer = says(shop, "api");
    if answer.who == "nobody" {
        shop.deploy("app:v2");
        shop.wait(20);
    } else {
        before.stands(shop, &case.name);
    }
    assert_eq!(shop.pods("app:v1"), pods, "{}: the pods that serve stay", case.name);
    says(shop, "api")
}

/// What the status of a Rollout says, if it is not at rest and does not wait for a person either.
pub fn says(shop: &Shop, rollout: &str) -> Answer {
    let status = shop.status(rollout);
    let message = status["message"].as_str().unwrap_or_default();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let invalid = conditions.into_iter().any(|c| c["type"] == "InvalidSpec" && c["status"] == "True");
    let who = match status["phase"].as_str() {
        _ if invalid => "InvalidSpec",
        Some("Progressing") => "waits",
        Some("Aborted") => "aborted",
        _ => "nobody",
    };
    Answer::new(who, message)
}

/// Somebody edits an object of the surroundings; the answer of the API server, if it refuses it.
pub fn replace(shop: &mut Shop, kind: Watched, object: Value) -> Option<Answer> {
    let at = path(kind, NS, object["metadata"]["name"].as_str().unwrap());
    let why = answered(shop, "PUT", at, "fieldManager=person", "application/json", object).err();
    shop.wait(5);
    why.map(|why| Answer::refused(&why))
}

/// The object's spec, as it was.
pub fn put_spec_back(shop: &mut Shop, kind: Watched, name: &str, before: &Value) {
    let mut object = shop.get(kind, name);
    object["spec"] = before["spec"].clone();
    assert!(replace(shop, kind, object).is_none());
}

/// The good manifest again. What the API server does not let be edited begins anew, as its message says.
pub fn mend(shop: &mut Shop, bad: &str, good: &Value) {
    let again = match apply(shop, Watched::Rollout, good.clone()) {
        Ok(()) => false,
        Err(why) => {
            assert!(why.contains("delete this Rollout"), "{why}");
            true
        }
    };
    if again || good["metadata"]["name"] != bad && !shop.get(Watched::Rollout, bad).is_null() {
        shop.send("DELETE", &path(Watched::Rollout, NS, bad), "person", "application/json", json!({}));
        shop.until("gone", |s| s.get(Watched::Rollout, bad).is_null());
    }
    shop.apply(Watched::Rollout, good.clone());
}

/// Without what differs from run to run, or only fills lines.
fn shortened(message: &str) -> String {
    let mut text = String::new();
    let mut run = 0;
    let mut last = '\0';
    for c in message.chars() {
        run = if c == last { run + 1 } else { 0 };
        last = c;
        match run {
            0..=5 => text.push(c),
            6 => text.push('…'),
            _ => {}
        }
    }
    text
}
