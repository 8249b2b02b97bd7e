//! The differences that are left, each with the reason why it cannot matter to what Sluice does or to what its tests rely on.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use serde_json::{Map, Value};

use super::{
    normal::each_text,
    request::{Body, Request},
    target::Answer,
};

static STATUS_IN_BODY: LazyLock<Regex> = LazyLock::new(|| Regex::new(r": status\.([^ ]*) in body").expect("a pattern of ours"));

/// One difference: `reconcile` makes two answers alike that differ in nothing else.
pub struct Known {
    pub what: &'static str,
    pub reason: &'static str,
    pub reconcile: fn(&Request, &mut Answer, &mut Answer),
}

pub const KNOWN: &[Known] = &[
    Known {
        what: "how a value of a wrong JSON type is called",
        reason: "Go's names of its own types; the code and the reason are the same, and no program reads the rest",
        reconcile: |_, simulated, real| {
            for beginning in ["json: cannot unmarshal", "failed to create typed patch object", "unable to convert unstructured object to"] {
                if both_say(simulated, real, beginning) {
                    cut(&mut simulated.body, beginning);
                    cut(&mut real.body, beginning);
                }
            }
        },
    },
    Known {
        what: "what the wanted and the found type are called where a custom object has a wrong one",
        reason: "Go's names for formats; the field and the reason are the same",
        reconcile: |_, simulated, real| {
            let has_type = |answer: &Answer| answer.status == 422 && answer.body.to_string().contains("FieldValueTypeInvalid");
            if has_type(simulated) && has_type(real) && forget_types(simulated) == forget_types(real) {
                simulated.body["message"] = real.body["message"].clone();
            }
        },
    },
    Known {
        what: "what a deletion's dry run is answered with, besides its code",
        reason: "nobody reads it; the API server itself answers with an empty object where finalizers were asked to go",
        reconcile: |request, simulated, real| {
            let is_dry = matches!(&request.body, Body::Whole(body) if body["dryRun"].is_array());
            if request.method == "DELETE" && is_dry && simulated.status == 200 && real.status == 200 {
                simulated.body = real.body.clone();
            }
        },
    },
    Known {
        what: "what else a conflict of preconditions says",
        reason: "where in etcd the object is",
        reconcile: |_, simulated, real| {
            let words = "Precondition failed: ";
            if both_say(simulated, real, words) {
                each_text(&mut real.body, &mut |text| {
                    if let (Some(from), Some(to)) = (text.find("StorageError"), text.find(words)) {
                        text.replace_range(from..to, "");
                    }
                });
            }
        },
    },
    Known {
        what: "in which order a refusal shows the fields of two controlling owners",
        reason: "Go's order; the rest of the words is the same",
        reconcile: |_, simulated, real| {
            if both_say(simulated, real, "Only one reference can have Controller set to true") {
                cut(&mut simulated.body, "nvalid value: [{");
                cut(&mut real.body, "nvalid value: [{");
            }
        },
    },
    Known {
        what: "what else a refused change of a pod shows",
        reason: "a comparison of both specs as Go prints them, for people",
        reconcile: |_, simulated, real| {
            let words = "(allow it to be set to 1 if it was previously negative)";
            if both_say(simulated, real, words) {
                cut(&mut simulated.body, words);
                cut(&mut real.body, words);
            }
        },
    },
    Known {
        what: "whether a refusal of a custom kind's status calls its fields by `status.` twice",
        reason: "the field is named in full once in any case",
        reconcile: |request, simulated, _| {
            if request.path.ends_with("/status") && simulated.status == 422 {
                each_text(&mut simulated.body, &mut |text| {
                    *text = STATUS_IN_BODY.replace_all(text, ": $1 in body").into_owned();
                });
            }
        },
    },
    Known {
        what: "fields of Events that only old clients know, where they are empty",
        reason: "they are left out by the simulator; nothing reads them",
        reconcile: |request, _, real| {
            if request.path.contains("/events") {
                without_empty(&mut real.body, &["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedSource"]);
            }
        },
    },
    Known {
        what: "the order of the causes of a refusal, and how often one is listed",
        reason: "the API server goes through maps in random order, and runs some checks twice; nobody counts them",
        reconcile: |_, simulated, real| {
            let sorted = |answer: &Answer| {
                let causes = answer.body.pointer("/details/causes").and_then(Value::as_array).into_iter().flatten();
                causes.map(Value::to_string).collect::<BTreeSet<String>>()
            };
            if simulated.status == 422 && !sorted(simulated).is_empty() && sorted(simulated) == sorted(real) {
                simulated.body["details"]["causes"] = real.body["details"]["causes"].clone();
                simulated.body["message"] = real.body["message"].clone();
            }
        },
    },
];

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap_or_default()
}

fn both_say(simulated: &Answer, real: &Answer, words: &str) -> bool {
    message(simulated).contains(words) && message(real).contains(words)
}

/// Leaves of causes that are a wrong type only the field, and of that field no other; whether there is one.
fn forget_types(answer: &mut Answer) -> bool {
    let Some(causes) = answer.body.pointer_mut("/details/causes").and_then(Value::as_array_mut) else { return false };
    let is_type = |cause: &Value| cause["reason"] == "FieldValueTypeInvalid";
    let field = |cause: &Value| cause["field"].as_str().unwrap_or_default().trim_start_matches('.').to_owned();
    let wrong: Vec<String> = causes.iter().filter(|cause| is_type(cause)).map(field).collect();
    causes.retain(|cause| is_type(cause) || !wrong.contains(&field(cause)));
    causes.retain(|cause| !cause["message"].as_str().unwrap_or_default().contains("Checked value must be of type"));
    for cause in causes.iter_mut().filter(|cause| is_type(cause)) {
        cause["message"] = Value::Null;
    }
    causes.sort_by_cached_key(Value::to_string);
    !wrong.is_empty()
}

fn without_empty(value: &mut Value, fields: &[&str]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| without_empty(item, fields)),
        Value::Object(map) => {
            map.retain(|key, value| !(fields.contains(&key.as_str()) && (value.is_null() || *value == Value::Object(Map::new()))));
            map.values_mut().for_each(|value| without_empty(value, fields));
        }
        _ => {}
    }
}

/// Ends each text of an answer after these words.
fn cut(value: &mut Value, words: &str) {
    match value {
        Value::String(text) => text.truncate(text.find(words).map_or(text.len(), |at| at + words.len())),
        Value::Array(items) => items.iter_mut().for_each(|item| cut(item, words)),
        Value::Object(map) => map.values_mut().for_each(|value| cut(value, words)),
        _ => {}
    }
}
