//! A request as data. What only an answer can tell (uids, resource versions, an object as it was read) is left as a reference, which
//! each target fills in with what it answered itself.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

/// Stands in paths for the namespace that a sequence is played in.
pub const NAMESPACE: &str = "NAMESPACE";

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: &'static str,
    /// Of a resource or of a collection.
    pub path: String,
    pub query: Vec<String>,
    pub content_type: &'static str,
    pub accept: &'static str,
    pub body: Body,
}

#[derive(Clone, Debug, Default)]
pub enum Body {
    #[default]
    None,
    Whole(Value),
    /// The object at the request's path as it was answered last (or else this one), with changes: JSON pointers and their values, or
    /// `None` to remove.
    LastRead(Value, Vec<(String, Option<Value>)>),
}

/// A reference to the uid of the object at a path.
pub fn uid_of(path: &str) -> Value {
    json!(format!("<uid of {path}>"))
}

/// A reference to the resource version at which the object at a path was answered last.
pub fn version_of(path: &str) -> Value {
    json!(format!("<version of {path}>"))
}

/// A reference to the resource version at which the object at a path was answered first, or else that of the first list.
pub fn first_version_of(path: &str) -> Value {
    json!(format!("<first version of {path}>"))
}

/// What a target has answered so far, by the path of the object.
pub struct Memory {
    namespace: String,
    /// The version of the first list.
    beginning: Option<String>,
    last: BTreeMap<String, Value>,
    first_version: BTreeMap<String, String>,
}

impl Memory {
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), beginning: None, last: BTreeMap::new(), first_version: BTreeMap::new() }
    }

    /// Where a request goes, with its references filled in.
    pub fn uri(&self, request: &Request) -> String {
        let filled =
            |part: &String| part.split_once('=').map_or_else(|| part.clone(), |(name, value)| format!("{name}={}", self.filled(value)));
        let query: Vec<String> = request.query.iter().map(filled).collect();
        format!("{}?{}", request.path.replace(NAMESPACE, &self.namespace), query.join("&"))
    }

    /// Keeps an answer, if it is an object with an identity.
    pub fn note(&mut self, request: &Request, answer: &Value) {
        let metadata = &answer["metadata"];
        if answer["items"].is_array() && self.beginning.is_none() {
            self.beginning = metadata["resourceVersion"].as_str().map(str::to_owned);
        }
        let (Some(name), Some(version)) = (metadata["name"].as_str(), metadata["resourceVersion"].as_str()) else { return };
        if answer["kind"] == "Status" || request.method == "DELETE" || request.query.iter().any(|part| part.starts_with("dryRun")) {
            return;
        }
        let path = match request.method {
            "POST" => format!("{}/{name}", request.path),
            _ => request.object_path().to_owned(),
        };
        self.first_version.entry(path.clone()).or_insert_with(|| version.to_owned());
        if answer["kind"] != "Scale" && answer["kind"] != "PartialObjectMetadata" {
            self.last.insert(path, answer.clone());
        }
    }

    /// The path of the object that has this uid.
    pub fn path_of(&self, uid: &str) -> Option<String> {
        self.last.iter().find(|(_, object)| object["metadata"]["uid"] == uid).map(|(path, _)| path.clone())
    }

    fn uid(&self, path: &str) -> String {
        let uid = self.last.get(path).and_then(|object| object["metadata"]["uid"].as_str());
        uid.unwrap_or("00000000-0000-4000-8000-000000000000").to_owned()
    }

    fn version(&self, path: &str) -> String {
        let version = self.last.get(path).and_then(|object| object["metadata"]["resourceVersion"].as_str());
        version.map_or_else(|| self.beginning(), str::to_owned)
    }

    fn first_version(&self, path: &str) -> String {
        self.first_version.get(path).cloned().unwrap_or_else(|| self.beginning())
    }

    fn beginning(&self) -> String {
        self.beginning.clone().unwrap_or_else(|| "1".to_owned())
    }

    /// A body with its references filled in.
    pub fn body(&self, request: &Request) -> Option<Value> {
        match &request.body {
            Body::None => None,
            Body::Whole(value) => {
                let mut value = value.clone();
                self.fill(&mut value);
                Some(value)
            }
            Body::LastRead(other, changes) => {
                let mut object = self.last.get(request.object_path()).unwrap_or(other).clone();
                for (pointer, value) in changes {
                    set(&mut object, pointer, value.clone());
                }
                self.fill(&mut object);
                Some(object)
            }
        }
    }

    fn fill(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.filled(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill(item)),
            Value::Object(map) => map.values_mut().for_each(|value| self.fill(value)),
            _ => {}
        }
    }

    fn filled(&self, text: &str) -> String {
        let Some(reference) = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) else {
            return text.replace(NAMESPACE, &self.namespace);
        };
        match reference.split_once(" of ") {
            Some(("uid", path)) => self.uid(path),
            Some(("version", path)) => self.version(path),
            Some(("first version", path)) => self.first_version(path),
            _ => text.to_owned(),
        }
    }
}

/// Sets or removes what a JSON pointer names; the maps on the way to it are made.
fn set(object: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, last) = pointer.rsplit_once('/').unwrap_or_default();
    let mut at = object;
    for step in parent.split('/').skip(1).map(unescape) {
        let index = step.parse::<usize>().ok().filter(|index| at.as_array().is_some_and(|items| *index < items.len()));
        if index.is_none() && !at.is_object() {
            *at = json!({});
        }
        at = match index {
            Some(index) => &mut at[index],
            None => &mut at[step],
        };
    }
    if at.is_null() {
        *at = json!({});
    }
    match (at, value) {
        (Value::Object(map), Some(value)) => drop(map.insert(unescape(last), value)),
        (Value::Object(map), None) => drop(map.remove(&unescape(last))),
        _ => {}
    }
}

pub fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

impl Request {
    pub fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), ..Self::default() }
    }

    pub fn with(self, body: Value) -> Self {
        Self { body: Body::Whole(body), ..self }
    }

    pub fn query(mut self, part: impl Into<String>) -> Self {
        self.query.push(part.into());
        self
    }

    /// The path of the object, without a subresource.
    pub fn object_path(&self) -> &str {
        let subresource = ["/status", "/scale", "/eviction"].into_iter().find_map(|end| self.path.strip_suffix(end));
        subresource.unwrap_or(&self.path)
    }
}

/// On one line, as a person would ask it again.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query.join("&"))?;
        }
        for word in [self.content_type, self.accept].into_iter().filter(|word| !word.is_empty()) {
            write!(f, " ({word})")?;
        }
        match &self.body {
            Body::None => Ok(()),
            Body::Whole(body) => write!(f, " {body}"),
            Body::LastRead(_, changes) => {
                write!(f, " as last read")?;
                for (pointer, value) in changes {
                    match value {
                        Some(value) => write!(f, ", {pointer} = {value}")?,
                        None => write!(f, ", without {pointer}")?,
                    }
                }
                Ok(())
            }
        }
    }
}
