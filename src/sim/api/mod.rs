//! The simulated API server: a deterministic state machine over JSON objects. No I/O, no waiting, no clock of its own;
//! the same requests at the same times always give the same answers. A clone is a snapshot, and cheap.
//!
//! What it does *not* do: authentication and authorization, API priority, conversion between versions
//! (each kind is served in one version), paging (a list is always whole), and validation of every rule of every
//! built-in field (see [`rules`] for those it knows).

mod apply;
mod caller;
mod defaults;
mod delete;
mod discovery;
mod error;
mod events;
mod evict;
mod fields;
mod gateway;
mod ident;
mod json_patch;
mod kinds;
mod managed;
mod normalize;
mod patch;
mod path;
mod rules;
mod scale;
mod schema;
mod selector;
mod store;
mod table;
mod validate;
mod view;
mod watch;
mod write;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use caller::{Caller, Part};
pub use delete::{DeleteOptions, Propagation};
pub use error::ApiError;
pub use ident::Ids;
pub use kinds::{Kind, Kinds};
pub use managed::seconds;
pub use path::{Query, Target};
pub use selector::{FieldSelector, LabelSelector};
pub use store::{Change, Event, ObjectKey};
pub use view::View;
pub use watch::{Notice, Scope, Watch};

/// Where a caller asks who it is: whoever it says.
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A request as it arrives, its body decoded.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    pub path: String,
    pub query: String,
    pub content_type: String,
    pub accept: String,
    pub body: Value,
    /// Who asks; the field manager where the query names none.
    pub actor: String,
}

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: "GET".into(), path: path.into(), ..Self::default() }
    }

    /// Whether this opens a watch, which [`ApiServer::open_watch`] answers.
    pub fn is_watch(&self) -> bool {
        self.method == "GET" && Query::parse(&self.query).flag("watch")
    }

    /// Whether this asks for a change, dry or not.
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    pub status: u16,
    /// An object is the stored one itself: answers are read, or written out, and never changed.
    pub body: Arc<Value>,
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        Self { status: error.code, body: error.to_status().into() }
    }
}

/// The server and everything it holds.
#[derive(Clone)]
pub struct ApiServer {
    kinds: Arc<Kinds>,
    store: store::Store,
    ids: ident::Ids,
    cel: Arc<kube_cel::Validator>,
}

impl ApiServer {
    /// A server with the built-in kinds, the Gateway API's, and the namespaces `default` and `kube-system`.
    /// The seed decides every uid and generated name.
    pub fn new(seed: u64, now: Timestamp) -> Self {
        let mut server = Self {
            kinds: Kinds::standard(),
            store: store::Store::default(),
            ids: ident::Ids::new(seed),
            cel: Arc::new(kube_cel::Validator::new()),
        };
        for name in ["default", "kube-system"] {
            server.create_namespace(name, now).expect("an empty server takes its first namespaces");
        }
        server
    }

    /// The seed of every uid and generated name from now on: a server that was set up once is copied for many runs.
    pub fn reseed(&mut self, seed: u64) {
        self.ids = ident::Ids::new(seed);
    }

    pub fn create_namespace(&mut self, name: &str, now: Timestamp) -> Result<Arc<Value>, ApiError> {
        let caller = Caller::new("kube-apiserver", now);
        self.create("namespaces", None, json!({"metadata": {"name": name}}), &caller)
    }

    /// Serves a custom kind, as a POST of its CustomResourceDefinition does.
    pub fn install_crd(&mut self, crd: Value, now: Timestamp) -> Result<Arc<Value>, ApiError> {
        let caller = Caller::new("install", now);
        let name = crd["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (String::new(), name);
        let kind = self.kind(write::CRDS)?.clone();
        match self.store.get(write::CRDS, &key) {
            None => self.create(write::CRDS, None, crd, &caller),
            Some(live) => {
                let mut crd = crd;
                crd["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
                self.revise(&kind, &key, Part::Object, &caller, crd)
            }
        }
    }

    pub fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// The kind with an id such as `pods` or `deployments.apps`.
    pub fn kind(&self, id: &str) -> Result<&Arc<Kind>, ApiError> {
        self.kinds.get(id).ok_or_else(ApiError::no_such_path)
    }

    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// The revision of the last write to a kind.
    pub fn written(&self, kind: &str) -> u64 {
        self.store.written(kind)
    }

    /// The committed writes after a revision, oldest first.
    pub fn since(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        self.store.since(revision)
    }

    /// Writes up to this revision are forgotten.
    pub fn forgotten(&self) -> u64 {
        self.store.forgotten()
    }

    /// Forgets the history up to a revision: watches from before it are answered with 410.
    pub fn forget(&mut self, revision: u64) {
        self.store.forget(revision);
    }

    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.store.get(kind, &(namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a kind, in order of namespace and name.
    pub fn list(&self, kind: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.store.list(kind).map(|(_, object)| object)
    }

    /// Answers any request but a watch.
    pub fn handle(&mut self, request: &Request, now: Timestamp) -> Response {
        if request.method == "GET"
            && let Some(response) = self.discover(&request.path)
        {
            return response;
        }
        match self.answer(request, now) {
            Ok((status, body)) => Response { status, body },
            Err(error) => error.into(),
        }
    }

    fn answer(&mut self, request: &Request, now: Timestamp) -> Result<(u16, Arc<Value>), ApiError> {
        if request.method == "POST" && request.path == WHO_AM_I {
            let mut review = request.body.clone();
            review["status"] = json!({"userInfo": {"username": request.actor}});
            return Ok((201, review.into()));
        }
        let target = Target::parse(&request.path).ok_or_else(ApiError::no_such_path)?;
        let query = Query::parse(&request.query);
        let kind = self.kinds.find(&target.group, &target.version, &target.plural);
        let kind = kind.ok_or_else(ApiError::no_such_path)?.clone();
        if !kind.namespaced && target.namespace.is_some() {
            return Err(ApiError::no_such_path());
        }
        let caller = Caller::of(request, &query, now)?;
        let view = View::wanted(&request.accept);
        let method = request.method.as_str();
        let Some(name) = &target.name else {
            return match method {
                "GET" => Ok((200, self.list_page(&kind, &target, &query, view, now)?.into())),
                "POST" => {
                    let mut object = request.body.clone();
                    normalize::decode(&kind, &mut object).map_err(|why| normalize::undecodable(&kind, &why))?;
                    let made = self.create(&kind.id, target.namespace.as_deref(), object, &caller)?;
                    Ok((201, view.one(&kind, &made, now)))
                }
                "DELETE" => Ok((200, self.delete_collection(&kind, &target, &query, request, &caller)?.into())),
                _ => Err(ApiError::method_not_allowed()),
            };
        };
        if kind.namespaced && target.namespace.is_none() {
            return Err(ApiError::no_such_path());
        }
        let key = (target.namespace.clone().unwrap_or_default(), name.clone());
        let part = Part::parse(&kind, name, target.subresource.as_deref())?;
        match method {
            "GET" => {
                let live = self.store.get(kind.stored_id(), &key).ok_or_else(|| ApiError::not_found(&kind, name))?;
                match part {
                    Part::Scale => Ok((200, scale::of(&kind, live)?.into())),
                    _ => Ok((200, view.one(&kind, &kind.shown(live), now))),
                }
            }
            "PUT" => {
                let is_new = kind.is_made_by_put() && self.store.get(&kind.id, &key).is_none();
                let object = self.put(&kind, &key, part, request.body.clone(), &caller)?;
                Ok((if is_new { 201 } else { 200 }, view.or_scale(&kind, &object, part, now)))
            }
            "PATCH" => {
                let (status, object) = self.patch(&kind, &key, part, request, &query, &caller)?;
                Ok((status, view.or_scale(&kind, &object, part, now)))
            }
            "DELETE" if part == Part::Object => {
                let options = DeleteOptions::parse(&request.body, &query)?;
                self.delete(&kind, &key, &options, &caller).map(|body| (200, body.into()))
            }
            "POST" if part == Part::Eviction => {
                let options = DeleteOptions::parse(&request.body["deleteOptions"], &query)?;
                evict::allowed(self, &key)?;
                evict::announce(self, &kind, &key, &caller);
                self.delete(&kind, &key, &options, &caller)?;
                Ok((201, json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}).into()))
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn list_page(&self, kind: &Arc<Kind>, target: &Target, query: &Query, view: View, now: Timestamp) -> Result<Value, ApiError> {
        let scope = Scope::new(kind, target, query)?;
        let revision = self.revision();
        if let Some(asked) = query.get("resourceVersion") {
            let asked = asked.parse().map_err(|_| ApiError::bad_request(format!("Invalid value: {asked:?}")))?;
            if asked > revision {
                return Err(ApiError::from_the_future(asked, revision));
            }
        }
        let objects = self.list(kind.stored_id()).map(|o| kind.shown(o)).filter(|o| scope.contains(o));
        let objects: Vec<Arc<Value>> = objects.collect();
        Ok(view.many(kind, &objects, revision, now))
    }
}
