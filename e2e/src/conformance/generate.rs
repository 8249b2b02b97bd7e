//! Sequences of requests from a seed: what the controller, its users and the other controllers of a cluster send, right and wrong.

use std::fmt;

use serde_json::{Map, Value, json};

use super::{
    kinds::{Field, Kind, metadata_fields},
    random::Random,
    request::{APPLY, Body, JSON, MERGE, NAMESPACE, Request, STRATEGIC, first_version_of, uid_of, unescape, version_of},
};

/// Name of the last object of each kind that is watched: its event ends the watch.
const LAST: &str = "zz-last";
const MANAGERS: [&str; 3] = ["sluice", "kubectl", "argocd-controller"];
const NAMES: [&str; 4] = ["a", "a", "a", "b"];

#[derive(Clone, Debug)]
pub struct Sequence {
    pub seed: u64,
    pub requests: Vec<Request>,
    pub watches: Vec<Watch>,
}

impl Sequence {
    /// The request of an answer: of the requests, then of the watches.
    pub fn request(&self, at: usize) -> &Request {
        self.requests.get(at).unwrap_or_else(|| &self.watches[at - self.requests.len()].request)
    }
}

/// A watch that is opened once all requests are answered, from somewhere in their history.
#[derive(Clone, Debug)]
pub struct Watch {
    pub request: Request,
    /// The object whose event ends it.
    pub last: &'static str,
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request.fmt(f)
    }
}

/// What a request of a sequence does.
#[derive(Clone, Copy)]
enum Act {
    Create,
    Get,
    List,
    JsonPatch,
    MergePatch,
    StrategicPatch,
    Apply,
    Replace,
    Status,
    Scale,
    Delete,
    DeleteAll,
}

const ACTS: [(usize, Act); 12] = [
    (14, Act::Create),
    (4, Act::Get),
    (4, Act::List),
    (20, Act::JsonPatch),
    (10, Act::MergePatch),
    (5, Act::StrategicPatch),
    (18, Act::Apply),
    (8, Act::Replace),
    (12, Act::Status),
    (6, Act::Scale),
    (9, Act::Delete),
    (1, Act::DeleteAll),
];

/// The sequence of a seed.
pub fn sequence(kinds: &[Kind], seed: u64) -> Sequence {
    let mut random = Random::new(seed);
    let kind = &kinds[(seed as usize) % kinds.len()];
    let mut generator = Generator { collection: kind.collection(NAMESPACE), kind, metadata: metadata_fields(), random: &mut random };
    // Nearly every sequence has something to work on.
    let mut requests = vec![Request::new("GET", &generator.collection)];
    if generator.random.percent(90) {
        let act = if generator.random.percent(70) { Act::Create } else { Act::Apply };
        requests.push(generator.act(act));
    }
    let more = 4 + generator.random.below(9);
    for _ in 0..more {
        let act = generator.random.weighted(&ACTS);
        requests.push(generator.act(act));
    }
    requests.push(generator.last());
    let watches = generator.watches();
    Sequence { seed, requests, watches }
}

struct Generator<'a> {
    kind: &'a Kind,
    collection: String,
    metadata: Vec<Field>,
    random: &'a mut Random,
}

impl Generator<'_> {
    fn object(&mut self) -> String {
        format!("{}/{}", self.collection, self.random.pick(&NAMES))
    }

    fn act(&mut self, act: Act) -> Request {
        let object = self.object();
        match act {
            Act::Create => self.create(&object),
            Act::Get => self.get(&object),
            Act::List => self.list(),
            Act::JsonPatch => {
                let fields = self.fields(2);
                self.json_patch(&object, &object, &fields)
            }
            Act::MergePatch => {
                let fields = self.fields(2);
                self.merge_patch(&object, &fields)
            }
            Act::StrategicPatch => self.strategic_patch(&object),
            Act::Apply => self.apply(&object),
            Act::Replace => self.replace(&object),
            Act::Status => self.status(&object),
            Act::Scale => self.scale(&object),
            Act::Delete => self.delete(&object),
            Act::DeleteAll => Request::new("DELETE", &self.collection).query("labelSelector=app%3Da"),
        }
    }

    /// A whole object, valid but for what `edits` random fields of it make.
    fn body(&mut self, name: &str) -> Value {
        let mut body = self.random.pick(&self.kind.bodies).clone();
        body["apiVersion"] = self.kind.api_version.into();
        body["kind"] = self.kind.kind.into();
        body["metadata"] = json!({"name": name});
        if self.random.percent(60) {
            body["metadata"]["labels"] = json!({"app": "a"});
        }
        body
    }

    /// Fields with a value for each, of the object or its metadata.
    fn fields(&mut self, most: usize) -> Vec<(&'static str, Value)> {
        let count = 1 + self.random.below(most);
        (0..count).map(|_| self.field(false)).collect()
    }

    fn field(&mut self, status: bool) -> (&'static str, Value) {
        let of_kind = if status { &self.kind.status_fields } else { &self.kind.fields };
        let fields = if !status && (of_kind.is_empty() || self.random.percent(35)) { &self.metadata } else { of_kind };
        let field = &fields[self.random.below(fields.len())];
        let is_wrong = !field.wrong.is_empty() && (field.right.is_empty() || self.random.percent(12));
        let values = if is_wrong { &field.wrong } else { &field.right };
        (field.pointer, self.random.pick(values).clone())
    }

    /// What any write may be asked with.
    fn write(&mut self, mut request: Request) -> Request {
        if self.random.percent(10) {
            request.query.push("dryRun=All".into());
        }
        if self.random.percent(85) && !request.query.iter().any(|part| part.starts_with("fieldManager")) {
            request.query.push(format!("fieldManager={}", self.random.pick(&MANAGERS)));
        }
        if self.random.percent(10) {
            request.query.push("fieldValidation=Strict".into());
        }
        request
    }

    fn create(&mut self, object: &str) -> Request {
        let name = object.rsplit('/').next().unwrap_or_default().to_owned();
        let mut body = self.body(&name);
        if self.random.percent(30) {
            let (pointer, value) = self.field(false);
            lay(&mut body, pointer, value);
        }
        if !self.kind.status_fields.is_empty() && self.random.percent(15) {
            let (pointer, value) = self.field(true);
            lay(&mut body, pointer, value);
        }
        let request = Request::new("POST", &self.collection).with(body);
        self.write(request)
    }

    fn get(&mut self, object: &str) -> Request {
        let mut request = Request::new("GET", object);
        if self.kind.scale && self.random.percent(30) {
            request.path += "/scale";
        } else if self.random.percent(25) {
            request.accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        }
        request
    }

    fn list(&mut self) -> Request {
        let selectors =
            ["", "labelSelector=app%3Da", "labelSelector=app+in+(b),tier", "labelSelector=!app", "fieldSelector=metadata.name%3Da"];
        let selector = *self.random.pick(&selectors);
        let request = Request::new("GET", &self.collection);
        if selector.is_empty() { request } else { request.query(selector) }
    }

    /// As the controller writes: tests for what the write was computed from, then the changes.
    fn json_patch(&mut self, object: &str, path: &str, fields: &[(&'static str, Value)]) -> Request {
        let mut ops = vec![];
        if self.random.percent(50) {
            ops.push(json!({"op": "test", "path": "/metadata/uid", "value": uid_of(object)}));
        }
        if self.random.percent(30) {
            let seen = if self.random.percent(75) { version_of(object) } else { first_version_of(object) };
            ops.push(json!({"op": "test", "path": "/metadata/resourceVersion", "value": seen}));
        }
        for (pointer, value) in fields {
            ops.push(match self.random.below(20) {
                0..=8 => json!({"op": "add", "path": pointer, "value": value}),
                9..=12 => json!({"op": "replace", "path": pointer, "value": value}),
                13..=15 => json!({"op": "remove", "path": pointer}),
                16 => json!({"op": "test", "path": pointer, "value": value}),
                17 => json!({"op": "test", "path": pointer, "value": null}),
                18 => json!({"op": "copy", "from": "/metadata/name", "path": "/metadata/labels/tier"}),
                _ => json!({"op": "move", "from": pointer, "path": "/metadata/annotations/note"}),
            });
        }
        let request = Request { content_type: JSON, ..Request::new("PATCH", path).with(ops.into()) };
        self.write(request)
    }

    fn merge_patch(&mut self, path: &str, fields: &[(&'static str, Value)]) -> Request {
        let mut patch = json!({});
        for (pointer, value) in fields {
            let value = if self.random.percent(20) { Value::Null } else { value.clone() };
            lay(&mut patch, pointer, value);
        }
        if self.random.percent(15) {
            let object = path.trim_end_matches("/status");
            let seen = if self.random.percent(70) { version_of(object) } else { first_version_of(object) };
            lay(&mut patch, "/metadata/resourceVersion", seen);
        }
        let request = Request { content_type: MERGE, ..Request::new("PATCH", path).with(patch) };
        self.write(request)
    }

    fn strategic_patch(&mut self, object: &str) -> Request {
        // Custom kinds know no such patch, and say so.
        let patch = if self.kind.strategic.is_empty() { json!({"metadata": {}}) } else { self.random.pick(&self.kind.strategic).clone() };
        let request = Request { content_type: STRATEGIC, ..Request::new("PATCH", object).with(patch) };
        self.write(request)
    }

    /// A whole configuration, or a few fields of one.
    fn apply(&mut self, object: &str) -> Request {
        let fields = self.fields(3);
        let name = object.rsplit('/').next().unwrap_or_default().to_owned();
        let mut config = self.body(&name);
        if self.random.percent(40) && !self.kind.whole {
            config = json!({"apiVersion": self.kind.api_version, "kind": self.kind.kind, "metadata": {"name": name}});
        }
        // A generation is never the client's. What is empty in the metadata of a custom object is stored once, and gone with the next
        // write whatever that is: nobody applies such.
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        let is_asked = |(pointer, value): &(&str, Value)| {
            *pointer != "/metadata/generation" && !(self.kind.is_custom() && pointer.starts_with("/metadata") && is_empty(value))
        };
        for (pointer, value) in fields.into_iter().filter(is_asked) {
            lay(&mut config, pointer, value);
        }
        self.applied(object, config)
    }

    fn applied(&mut self, path: &str, config: Value) -> Request {
        let mut request = Request { content_type: APPLY, ..Request::new("PATCH", path).with(config) };
        if self.random.percent(97) {
            request.query.push(format!("fieldManager={}", self.random.pick(&MANAGERS)));
        }
        if self.random.percent(40) {
            request.query.push("force=true".into());
        }
        self.write(request)
    }

    fn replace(&mut self, object: &str) -> Request {
        let mut request = Request::new("PUT", object);
        let name = object.rsplit('/').next().unwrap_or_default();
        if self.random.percent(25) {
            request = request.with(self.body(name));
        } else {
            let mut changes: Vec<_> = self.fields(2).into_iter().map(|(pointer, value)| (pointer.to_owned(), Some(value))).collect();
            if self.random.percent(20) {
                changes.push((self.field(false).0.to_owned(), None));
            }
            if self.random.percent(15) {
                changes.push(("/metadata/resourceVersion".to_owned(), None));
            }
            if self.random.percent(10) {
                changes.push(("/metadata/resourceVersion".to_owned(), Some(first_version_of(object))));
            }
            request.body = Body::LastRead(self.body(name), changes);
        }
        self.write(request)
    }

    fn status(&mut self, object: &str) -> Request {
        if self.kind.status_fields.is_empty() {
            return Request::new("GET", format!("{object}/status"));
        }
        let path = format!("{object}/status");
        let mut fields = vec![self.field(true)];
        if self.random.percent(25) {
            fields.push(self.field(false));
        }
        // A PUT of a Service's status that is not there makes half a Service: nobody does that.
        let ways = if self.kind.plural == "services" { 9 } else { 10 };
        match self.random.below(ways) {
            0..=3 => self.json_patch(object, &path, &fields),
            4..=6 => self.merge_patch(&path, &fields),
            7 | 8 => {
                let name = object.rsplit('/').next().unwrap_or_default().to_owned();
                let mut config = json!({"apiVersion": self.kind.api_version, "kind": self.kind.kind, "metadata": {"name": name}});
                // Nobody applies a spec there.
                let of_status = fields.into_iter().filter(|(pointer, value)| pointer.starts_with("/status") && !value.is_null());
                of_status.for_each(|(pointer, value)| lay(&mut config, pointer, value));
                self.applied(&path, config)
            }
            _ => {
                let changes = fields.into_iter().map(|(pointer, value)| (pointer.to_owned(), Some(value))).collect();
                let name = object.rsplit('/').next().unwrap_or_default();
                let request = Request { body: Body::LastRead(self.body(name), changes), ..Request::new("PUT", path) };
                self.write(request)
            }
        }
    }

    fn evict(&mut self, object: &str) -> Request {
        let name = object.rsplit('/').next().unwrap_or_default();
        let mut eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        if self.random.percent(50) {
            eviction["deleteOptions"] = json!({"preconditions": {"uid": uid_of(object)}});
        }
        Request::new("POST", format!("{object}/eviction")).with(eviction)
    }

    fn scale(&mut self, object: &str) -> Request {
        if self.kind.eviction {
            return self.evict(object);
        }
        let path = format!("{object}/scale");
        let replicas = self.random.pick(&[json!(0), json!(2), json!(5), json!(-1), json!("3")]).clone();
        let request = match self.random.below(4) {
            0 => Request { content_type: JSON, ..Request::new("PATCH", path) }
                .with(json!([{"op": "replace", "path": "/spec/replicas", "value": replicas}])),
            _ => Request { content_type: MERGE, ..Request::new("PATCH", path) }.with(json!({"spec": {"replicas": replicas}})),
        };
        self.write(request)
    }

    fn delete(&mut self, object: &str) -> Request {
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        let policies = [None, Some("Background"), Some("Foreground"), Some("Orphan")];
        if let Some(policy) = self.random.pick(&policies) {
            options["propagationPolicy"] = (*policy).into();
        }
        if self.random.percent(30) {
            options["preconditions"]["uid"] = if self.random.percent(80) { uid_of(object) } else { json!("other") };
        }
        if self.random.percent(30) {
            options["preconditions"]["resourceVersion"] =
                if self.random.percent(60) { version_of(object) } else { first_version_of(object) };
        }
        if self.random.percent(10) {
            options["dryRun"] = json!(["All"]);
        }
        let request = Request::new("DELETE", object);
        if self.random.percent(15) { request } else { request.with(options) }
    }

    fn last(&mut self) -> Request {
        let mut body = self.kind.bodies[0].clone();
        body["apiVersion"] = self.kind.api_version.into();
        body["kind"] = self.kind.kind.into();
        body["metadata"] = json!({"name": LAST, "labels": {"app": "a"}});
        Request::new("POST", &self.collection).with(body)
    }

    fn watches(&mut self) -> Vec<Watch> {
        let from = |request: Request, version: &str| request.query(format!("resourceVersion={version}"));
        let first = first_version_of(&format!("{}/a", self.collection)).as_str().unwrap_or_default().to_owned();
        let mut request = Request::new("GET", &self.collection).query("watch=true").query("timeoutSeconds=15");
        request = match self.random.below(10) {
            0..=5 => from(request, &first),
            // From the objects as they are: once the cache that answers has seen the last one.
            6 | 7 => {
                let catches_up = Watch { request: from(request.clone(), &first), last: LAST };
                return vec![catches_up, Watch { request: from(request, "0"), last: LAST }];
            }
            // The history of a built-in kind goes back to the server's first moment.
            _ if self.kind.is_custom() => from(request, "1"),
            _ => from(request, &first),
        };
        if self.random.percent(30) {
            request = request.query("labelSelector=app%3Da");
        }
        if self.random.percent(20) {
            request.accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        }
        vec![Watch { request, last: LAST }]
    }
}

/// Puts a value where a pointer says; what is in a list is put there as a list of one.
fn lay(object: &mut Value, pointer: &str, value: Value) {
    let mut steps: Vec<String> = pointer.split('/').skip(1).map(unescape).collect();
    let last = steps.pop().unwrap_or_default();
    let mut at = object;
    for step in steps {
        at = slot(at, &step);
    }
    *slot(at, &last) = value;
}

fn slot<'a>(at: &'a mut Value, step: &str) -> &'a mut Value {
    if step == "-" || step.parse::<usize>().is_ok() {
        let index = step.parse().unwrap_or(0);
        if !at.is_array() {
            *at = json!([]);
        }
        let items = at.as_array_mut().expect("made a list above");
        while items.len() <= index {
            items.push(json!({}));
        }
        return &mut items[index];
    }
    if !at.is_object() {
        *at = json!({});
    }
    &mut at[step]
}
