//! A gateway: accepts routes in their status, and programs its data plane some time after routes and endpoints change.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::objects::{
    ENDPOINT_SLICES, GATEWAYS, GRPC_ROUTES, HTTP_ROUTES, SERVICES, TCP_ROUTES, TLS_ROUTES, Writer, all, condition, is_deleting, key, name,
    namespace, number, set_condition, text,
};
use super::{Timing, after, sooner};
use crate::sim::api::{ApiServer, ObjectKey, seconds};

/// One place that traffic may go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub pod: String,
    pub uid: String,
    pub address: String,
    pub port: u16,
}

/// A Service's port: what a route's backend names, and a cluster of endpoints serves.
pub type Cluster = (String, String, i64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Namespace, Service, port.
    pub cluster: Cluster,
    pub weight: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The rule's `matches`, as in the route.
    pub matches: Value,
    /// The rule's `filters`, as in the route.
    pub filters: Value,
    pub backends: Vec<Backend>,
    /// Where copies of the requests go, and of how many percent of them.
    pub mirrors: Vec<(Cluster, u64)>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Route {
    pub hostnames: Vec<String>,
    pub rules: Vec<Rule>,
}

/// What the data plane does at present: what traffic sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Programmed {
    /// By kind (`HTTPRoute`, ...), namespace and name.
    pub routes: BTreeMap<(String, String, String), Route>,
    /// Ready endpoints of each cluster that a route names. A cluster that is not here fails every request.
    pub clusters: BTreeMap<Cluster, Vec<Endpoint>>,
}

impl Programmed {
    /// The share of an HTTPRoute's traffic (of one rule) that goes to each Service, in percent.
    pub fn shares(&self, namespace: &str, route: &str, rule: usize) -> BTreeMap<String, f64> {
        let found = self.routes.get(&("HTTPRoute".to_owned(), namespace.to_owned(), route.to_owned()));
        let backends = found.and_then(|r| r.rules.get(rule)).map(|r| r.backends.as_slice()).unwrap_or_default();
        let total: u64 = backends.iter().map(|b| b.weight).sum();
        let mut shares = BTreeMap::new();
        for backend in backends {
            let share = if total == 0 { 0.0 } else { 100.0 * backend.weight as f64 / total as f64 };
            *shares.entry(backend.cluster.1.clone()).or_default() += share;
        }
        shares
    }
}

/// Versions of one thing on their way to the data plane, oldest first.
#[derive(Debug, Clone)]
struct Pipeline<T> {
    underway: VecDeque<(Timestamp, T)>,
}

impl<T> Default for Pipeline<T> {
    fn default() -> Self {
        Self { underway: VecDeque::new() }
    }
}

impl<T: PartialEq + Clone> Pipeline<T> {
    /// Sends `wanted` on its way if it is news; delivers into `current` what has arrived. Returns the next arrival.
    fn advance(&mut self, current: &mut T, wanted: T, lag: Duration, now: Timestamp) -> Option<Timestamp> {
        let latest = self.underway.back().map_or(&*current, |(_, v)| v);
        if *latest != wanted {
            self.underway.push_back((after(now, lag), wanted));
        }
        while self.underway.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, arrived)) = self.underway.pop_front() {
                *current = arrived;
            }
        }
        self.underway.front().map(|(at, _)| *at)
    }
}

/// The gateway's control plane and what its data plane has been told.
#[derive(Debug, Clone)]
pub struct Gateway {
    pub controller_name: String,
    /// Whether it writes routes' status; some gateways don't, or not for every parent.
    pub reports: bool,
    programmed: Arc<Programmed>,
    routes: Pipeline<BTreeMap<(String, String, String), Route>>,
    clusters: Pipeline<BTreeMap<Cluster, Vec<Endpoint>>>,
    /// Since when each route's generation has been waiting to be accepted.
    unaccepted: BTreeMap<(String, ObjectKey, i64), Timestamp>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            controller_name: "sluice.dev/simulated-gateway".into(),
            reports: true,
            programmed: Arc::default(),
            routes: Pipeline::default(),
            clusters: Pipeline::default(),
            unaccepted: BTreeMap::new(),
        }
    }
}

const KINDS: [&str; 4] = [HTTP_ROUTES, GRPC_ROUTES, TLS_ROUTES, TCP_ROUTES];

/// What a gateway goes by.
pub const READ: [&str; 7] = [GATEWAYS, HTTP_ROUTES, GRPC_ROUTES, TLS_ROUTES, TCP_ROUTES, SERVICES, ENDPOINT_SLICES];

impl Gateway {
    /// What traffic sees now.
    pub fn programmed(&self) -> &Arc<Programmed> {
        &self.programmed
    }

    pub(super) fn step(&mut self, api: &mut ApiServer, now: Timestamp, timing: &Timing) -> Option<Timestamp> {
        accept_gateways(api, now);
        let mut due = None;
        if self.reports {
            for kind in KINDS {
                for route in all(api, kind).iter().filter(|r| !is_deleting(r)) {
                    due = sooner(due, self.accept(api, kind, route, now, timing.accept));
                }
            }
        }
        let wanted = routes(api);
        let named = |rule: &Rule| {
            let backends = rule.backends.iter().map(|backend| &backend.cluster);
            backends.chain(rule.mirrors.iter().map(|(cluster, _)| cluster)).cloned().collect::<Vec<Cluster>>()
        };
        let backends: Vec<Cluster> = wanted.values().flat_map(|r| &r.rules).flat_map(named).collect();
        let clusters = backends.into_iter().filter_map(|c| endpoints(api, &c).map(|e| (c, e))).collect();
        let programmed = Arc::make_mut(&mut self.programmed);
        due = sooner(due, self.routes.advance(&mut programmed.routes, wanted, timing.program, now));
        sooner(due, self.clusters.advance(&mut programmed.clusters, clusters, timing.clusters, now))
    }

    /// Writes the status of a route for the parents that are gateways of this cluster.
    fn accept(&mut self, api: &mut ApiServer, kind: &str, route: &Value, now: Timestamp, lag: Duration) -> Option<Timestamp> {
        let generation = number(&route["metadata"]["generation"]);
        let parents: Vec<Value> = parents(api, route).cloned().collect();
        let missing = missing_backends(api, route);
        let is_current = |parent: &Value| {
            let reported = reported(route, parent, &self.controller_name);
            let holder = json!({"status": reported});
            let resolved = condition(&holder, "ResolvedRefs").map(|c| c["status"] == "True");
            condition(&holder, "Accepted").is_some_and(|c| c["observedGeneration"] == generation) && resolved == Some(missing.is_none())
        };
        let waits = (kind.to_owned(), key(route), generation);
        if parents.iter().all(is_current) {
            self.unaccepted.remove(&waits);
            return None;
        }
        let at = after(*self.unaccepted.entry(waits.clone()).or_insert(now), lag);
        if at > now {
            return Some(at);
        }
        self.unaccepted.retain(|(kind, route, _), _| (kind, route) != (&waits.0, &waits.1));
        let controller = self.controller_name.clone();
        let entries = parents.iter().map(|p| self.report(route, p, generation, missing.as_deref(), now));
        let entries: Vec<Value> = entries.collect();
        Writer::new(api, "gateway-controller", now).change_status(kind, &key(route), |r| {
            let others = r["status"]["parents"].as_array().into_iter().flatten().filter(|p| p["controllerName"] != *controller);
            r["status"]["parents"] = others.cloned().chain(entries).collect();
        });
        None
    }

    fn report(&self, route: &Value, parent: &Value, generation: i64, missing: Option<&str>, now: Timestamp) -> Value {
        let mut holder = json!({"status": reported(route, parent, &self.controller_name)});
        let at = seconds(now);
        set_condition(&mut holder, "Accepted", "True", "Accepted", "", &at);
        match missing {
            None => set_condition(&mut holder, "ResolvedRefs", "True", "ResolvedRefs", "", &at),
            Some(service) => {
                let message = format!("Service {service} not found");
                set_condition(&mut holder, "ResolvedRefs", "False", "BackendNotFound", &message, &at);
            }
        }
        for condition in holder["status"]["conditions"].as_array_mut().into_iter().flatten() {
            condition["observedGeneration"] = generation.into();
        }
        json!({"parentRef": parent, "controllerName": self.controller_name, "conditions": holder["status"]["conditions"]})
    }
}

fn reported(route: &Value, parent: &Value, controller: &str) -> Value {
    let entries = route["status"]["parents"].as_array().into_iter().flatten();
    let mut entries = entries.filter(|p| p["parentRef"] == *parent && p["controllerName"] == *controller);
    entries.next().cloned().unwrap_or(json!({}))
}

/// A route's parents that are gateways which exist.
fn parents<'a>(api: &ApiServer, route: &'a Value) -> impl Iterator<Item = &'a Value> {
    route["spec"]["parentRefs"].as_array().into_iter().flatten().filter(|parent| {
        let ns = parent["namespace"].as_str().unwrap_or_else(|| namespace(route));
        parent["kind"] == "Gateway" && api.get(GATEWAYS, ns, text(&parent["name"])).is_some()
    })
}

fn backends(route: &Value) -> impl Iterator<Item = &Value> {
    let rules = route["spec"]["rules"].as_array().into_iter().flatten();
    rules.flat_map(|r| r["backendRefs"].as_array().into_iter().flatten())
}

fn missing_backends(api: &ApiServer, route: &Value) -> Option<String> {
    let mut missing = backends(route).filter(|b| {
        let ns = b["namespace"].as_str().unwrap_or_else(|| namespace(route));
        b["kind"] == "Service" && api.get(SERVICES, ns, text(&b["name"])).is_none()
    });
    missing.next().map(|b| text(&b["name"]).to_owned())
}

/// The routes as the data plane shall have them.
fn routes(api: &ApiServer) -> BTreeMap<(String, String, String), Route> {
    let mut out = BTreeMap::new();
    for kind in KINDS {
        for route in api.list(kind).filter(|r| parents(api, r).next().is_some()) {
            let rules = route["spec"]["rules"].as_array().into_iter().flatten().map(|r| rule(route, r));
            let hostnames = route["spec"]["hostnames"].as_array().into_iter().flatten();
            let hostnames = hostnames.map(|h| text(h).to_owned()).collect();
            let id = (text(&route["kind"]).to_owned(), namespace(route).to_owned(), name(route).to_owned());
            out.insert(id, Route { hostnames, rules: rules.collect() });
        }
    }
    out
}

fn rule(route: &Value, rule: &Value) -> Rule {
    let cluster = |backend: &Value| {
        let ns = backend["namespace"].as_str().unwrap_or_else(|| namespace(route));
        (ns.to_owned(), text(&backend["name"]).to_owned(), number(&backend["port"]))
    };
    let backends = rule["backendRefs"].as_array().into_iter().flatten();
    let backends = backends.map(|b| Backend { cluster: cluster(b), weight: b["weight"].as_u64().unwrap_or(1) });
    let mirrors = rule["filters"].as_array().into_iter().flatten().map(|f| &f["requestMirror"]).filter(|mirror| mirror.is_object());
    let mirrors = mirrors.map(|mirror| (cluster(&mirror["backendRef"]), mirror["percent"].as_u64().unwrap_or(100)));
    Rule { matches: rule["matches"].clone(), filters: rule["filters"].clone(), backends: backends.collect(), mirrors: mirrors.collect() }
}

/// The ready endpoints of a Service's port; nothing if there is no such Service.
fn endpoints(api: &ApiServer, (ns, service, port): &Cluster) -> Option<Vec<Endpoint>> {
    let object = api.get(SERVICES, ns, service)?;
    let ports = object["spec"]["ports"].as_array().into_iter().flatten();
    let port_name = ports.filter(|p| p["port"] == *port).map(|p| p["name"].as_str().unwrap_or_default()).next()?;
    let mut out = Vec::new();
    let slices: Vec<&Arc<Value>> = api
        .list(ENDPOINT_SLICES)
        .filter(|s| namespace(s) == ns && s["metadata"]["labels"]["kubernetes.io/service-name"] == **service)
        .collect();
    for slice in slices {
        let mut numbers = slice["ports"].as_array().into_iter().flatten().filter(|p| p["name"] == port_name);
        let Some(number) = numbers.next().and_then(|p| p["port"].as_u64()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten().filter(|e| e["conditions"]["ready"] == true) {
            out.push(Endpoint {
                pod: text(&endpoint["targetRef"]["name"]).to_owned(),
                uid: text(&endpoint["targetRef"]["uid"]).to_owned(),
                address: text(&endpoint["addresses"][0]).to_owned(),
                port: u16::try_from(number).unwrap_or(0),
            });
        }
    }
    Some(out)
}

/// Every Gateway is accepted and programmed at once.
fn accept_gateways(api: &mut ApiServer, now: Timestamp) {
    let at = seconds(now);
    let is_accepted = |gateway: &Value| {
        let programmed = condition(gateway, "Programmed");
        programmed.is_some_and(|condition| condition["observedGeneration"] == gateway["metadata"]["generation"])
    };
    for gateway in all(api, GATEWAYS).into_iter().filter(|gateway| !is_accepted(gateway)) {
        Writer::new(api, "gateway-controller", now).change_status(GATEWAYS, &key(&gateway), |g| {
            for kind in ["Accepted", "Programmed"] {
                set_condition(g, kind, "True", kind, "", &at);
                let generation = g["metadata"]["generation"].clone();
                for c in g["status"]["conditions"].as_array_mut().into_iter().flatten().filter(|c| c["type"] == kind) {
                    c["observedGeneration"] = generation.clone();
                }
            }
        });
    }
}
