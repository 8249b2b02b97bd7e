//! The data plane: a proxy that sends each request where the programmed routes say, in exactly their shares.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::net::TcpListener;

use super::VERSION_HEADER;
use super::app::{AppHost, Lookup};
use crate::sim::SimCluster;
use crate::sim::controllers::{Backend, Cluster, Programmed, Rule};
use crate::sim::http::{Always, Server, answer, send};

/// Requests of one version, and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub requests: u64,
    /// Answered with a status of 500 or above, or not at all.
    pub failures: u64,
}

/// The listening proxy; it stops when this is dropped.
pub struct Proxy {
    server: Server,
    state: Arc<State>,
}

struct State {
    programmed: Box<dyn Fn() -> Arc<Programmed> + Send + Sync>,
    apps: Lookup,
    tallies: Mutex<BTreeMap<String, Tally>>,
    turns: Mutex<Turns>,
}

impl Proxy {
    /// Listens on loopback; port 0 takes any free one.
    pub async fn listen(cluster: &SimCluster, apps: &AppHost, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let state = Arc::new(State {
            programmed: Box::new(cluster.data_plane()),
            apps: apps.addresses(),
            tallies: Mutex::default(),
            turns: Mutex::default(),
        });
        let shared = state.clone();
        let server = Server::start(listener, move |request| {
            let state = shared.clone();
            async move { Ok::<_, Always>(state.forward(request).await) }
        })?;
        Ok(Self { server, state })
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What has been served so far, by version; requests that reached no version are under the empty name.
    pub fn tallies(&self) -> BTreeMap<String, Tally> {
        lock(&self.state.tallies).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl State {
    async fn forward(&self, request: http::Request<Incoming>) -> http::Response<Full<Bytes>> {
        let response = self.answer(request).await;
        let version = response.headers().get(VERSION_HEADER).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut tallies = lock(&self.tallies);
        let tally = tallies.entry(version.to_owned()).or_default();
        tally.requests += 1;
        tally.failures += u64::from(response.status().is_server_error());
        response
    }

    async fn answer(&self, request: http::Request<Incoming>) -> http::Response<Full<Bytes>> {
        let programmed = (self.programmed)();
        let Some((name, rule)) = find(&programmed, &request) else {
            return answer(StatusCode::NOT_FOUND, &[], "no route\n");
        };
        let Some(backend) = lock(&self.turns).backend(&name, rule) else {
            return answer(StatusCode::INTERNAL_SERVER_ERROR, &[], "no backend has weight\n");
        };
        let mirrors = rule.mirrors.iter().enumerate();
        let due = mirrors.filter(|(nth, (_, percent))| lock(&self.turns).mirror(&format!("{name}/{nth}"), *percent));
        let copies: Vec<SocketAddr> = due.filter_map(|(_, (cluster, _))| self.address(&programmed, cluster).ok()).collect();
        let address = match self.address(&programmed, &backend) {
            Ok(address) => address,
            Err(why) => return answer(StatusCode::SERVICE_UNAVAILABLE, &[], why),
        };
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return answer(StatusCode::BAD_REQUEST, &[], "the request's body did not arrive\n");
        };
        let request = http::Request::from_parts(parts, Full::new(body.to_bytes()));
        for copy in copies {
            let request = request.clone();
            tokio::spawn(async move { send(copy, request).await.map(drop) }); // nobody waits for its answer
        }
        relay(address, request).await
    }

    /// The address of the endpoint whose turn it is.
    fn address(&self, programmed: &Programmed, cluster: &Cluster) -> Result<SocketAddr, &'static str> {
        let endpoints = programmed.clusters.get(cluster).map(Vec::as_slice).unwrap_or_default();
        let turn = lock(&self.turns).endpoint(cluster);
        let endpoint = (!endpoints.is_empty()).then(|| &endpoints[turn % endpoints.len()]).ok_or("no healthy upstream\n")?;
        let fallback = || Some(SocketAddr::new(endpoint.address.parse().ok()?, endpoint.port));
        self.apps.get(&endpoint.uid).or_else(fallback).ok_or("upstream has no address\n")
    }
}

async fn relay(address: SocketAddr, request: http::Request<Full<Bytes>>) -> http::Response<Full<Bytes>> {
    match send(address, request).await {
        Ok(response) => response.map(Full::new),
        Err(error) => answer(StatusCode::SERVICE_UNAVAILABLE, &[], format!("upstream: {error}\n")),
    }
}

/// The rule of the most special match that fits a request, with a name of its own. Of equal ones the first.
fn find<'a, B>(programmed: &'a Programmed, request: &http::Request<B>) -> Option<(String, &'a Rule)> {
    let host = request.headers().get(http::header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let for_host = |names: &[String]| names.is_empty() || names.iter().any(|n| host_matches(n, host));
    let mut best: Option<(Rank, String, &Rule)> = None;
    let is_http = |kind: &str| matches!(kind, "HTTPRoute" | "GRPCRoute");
    for ((kind, namespace, name), route) in programmed.routes.iter().filter(|((kind, ..), r)| is_http(kind) && for_host(&r.hostnames)) {
        for (i, rule) in route.rules.iter().enumerate() {
            let Some(rank) = rank(&rule.matches, request) else { continue };
            if best.as_ref().is_none_or(|(before, ..)| rank > *before) {
                best = Some((rank, format!("{kind}/{namespace}/{name}/{i}"), rule));
            }
        }
    }
    best.map(|(_, name, rule)| (name, rule))
}

/// What the Gateway API compares matches by: an exact path, the length of the path, a method, the number of headers.
type Rank = (bool, usize, bool, usize);

/// The rank of the best match that fits a request.
fn rank<B>(matches: &Value, request: &http::Request<B>) -> Option<Rank> {
    let rank = |m: &Value| {
        let path = m["path"]["value"].as_str().unwrap_or("/").len();
        (m["path"]["type"] == "Exact", path, m["method"].is_string(), m["headers"].as_array().map_or(0, Vec::len))
    };
    match matches.as_array().filter(|list| !list.is_empty()) {
        None => Some(rank(&Value::Null)),
        Some(list) => list.iter().filter(|m| fits(m, request)).map(rank).max(),
    }
}

fn host_matches(pattern: &str, host: &str) -> bool {
    pattern == host || pattern.strip_prefix('*').is_some_and(|suffix| host.ends_with(suffix))
}

fn fits<B>(m: &Value, request: &http::Request<B>) -> bool {
    let path = request.uri().path();
    let wanted = m["path"]["value"].as_str().unwrap_or("/");
    let path_fits = match m["path"]["type"].as_str() {
        Some("Exact") => path == wanted,
        Some("RegularExpression") => fully(wanted, path),
        _ => {
            let prefix = wanted.trim_end_matches('/');
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    let mut headers = m["headers"].as_array().into_iter().flatten();
    let headers_fit = headers.all(|h| {
        let found = request.headers().get(h["name"].as_str().unwrap_or_default()).and_then(|v| v.to_str().ok());
        let wanted = h["value"].as_str().unwrap_or_default();
        match h["type"].as_str() {
            Some("RegularExpression") => found.is_some_and(|found| fully(wanted, found)),
            _ => found == Some(wanted),
        }
    });
    path_fits && headers_fit && m["method"].as_str().is_none_or(|wanted| request.method() == wanted)
}

/// A regular expression fits the whole of a text, as Envoy has it.
fn fully(regex: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{regex})$")).is_ok_and(|regex| regex.is_match(text))
}

/// Whose turn it is: smooth weighted round robin for each rule, plain round robin among a cluster's endpoints.
#[derive(Default)]
struct Turns {
    rules: BTreeMap<String, (Vec<Backend>, Vec<i64>)>,
    clusters: BTreeMap<Cluster, usize>,
    /// Requests of each mirror, and so many percent of them as make a whole copy.
    mirrors: BTreeMap<String, u64>,
}

impl Turns {
    fn backend(&mut self, name: &str, rule: &Rule) -> Option<Cluster> {
        let (backends, credit) = self.rules.entry(name.to_owned()).or_default();
        if *backends != rule.backends {
            backends.clone_from(&rule.backends);
            *credit = vec![0; backends.len()];
        }
        let total: i64 = backends.iter().map(|b| i64::try_from(b.weight).unwrap_or(0)).sum();
        if total == 0 {
            return None;
        }
        for (credit, backend) in credit.iter_mut().zip(backends.iter()) {
            *credit += i64::try_from(backend.weight).unwrap_or(0);
        }
        let chosen = (0..backends.len()).filter(|i| backends[*i].weight > 0).max_by_key(|i| (credit[*i], std::cmp::Reverse(*i)))?;
        credit[chosen] -= total;
        Some(backends[chosen].cluster.clone())
    }

    /// Whether this request is one of those that are copied.
    fn mirror(&mut self, name: &str, percent: u64) -> bool {
        let credit = self.mirrors.entry(name.to_owned()).or_default();
        *credit += percent;
        let due = *credit >= 100;
        *credit -= if due { 100 } else { 0 };
        due
    }

    fn endpoint(&mut self, cluster: &Cluster) -> usize {
        let turn = self.clusters.entry(cluster.clone()).or_default();
        *turn = turn.wrapping_add(1);
        *turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_match_wins_and_then_the_first_rule() {
        let rule = |name: &str, matches: Value| {
            let backends = vec![Backend { cluster: ("ns".into(), name.into(), 80), weight: 1 }];
            Rule { matches, filters: Value::Null, backends, mirrors: vec![] }
        };
        let header = |kind: &str, value: &str| serde_json::json!([{"headers": [{"type": kind, "name": "x", "value": value}]}]);
        let rules = vec![
            rule("all", Value::Null),
            rule("deep", serde_json::json!([{"path": {"type": "PathPrefix", "value": "/deep"}}])),
            rule("exact", header("Exact", "1")),
            rule("regex", header("RegularExpression", "^[0-9].*")),
        ];
        let route = crate::sim::controllers::Route { hostnames: vec![], rules };
        let programmed =
            Programmed { routes: BTreeMap::from([(("HTTPRoute".into(), "ns".into(), "r".into()), route)]), ..Programmed::default() };
        for (path, x, expected) in [
            ("/", None, "all"),
            ("/", Some("1"), "exact"),
            ("/", Some("2b"), "regex"),
            ("/", Some("b2"), "all"),
            ("/deep", Some("1"), "deep"),
        ] {
            let request = http::Request::get(path).header("x", x.unwrap_or("-")).body(()).unwrap();
            assert_eq!(find(&programmed, &request).unwrap().1.backends[0].cluster.1, expected, "{path} {x:?}");
        }
    }

    #[test]
    fn a_mirror_copies_its_part_of_the_requests() {
        let mut turns = Turns::default();
        assert_eq!((0..1000).filter(|_| turns.mirror("m", 20)).count(), 200);
    }

    #[test]
    fn each_backend_gets_exactly_its_share() {
        let backend = |name: &str, weight| Backend { cluster: ("ns".into(), name.into(), 80), weight };
        let backends = vec![backend("a", 95), backend("b", 5), backend("c", 0)];
        let rule = Rule { matches: Value::Null, filters: Value::Null, backends, mirrors: vec![] };
        let mut turns = Turns::default();
        let mut counts = BTreeMap::new();
        for _ in 0..1000 {
            *counts.entry(turns.backend("r", &rule).unwrap().1).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([("a".to_owned(), 950), ("b".to_owned(), 50)]));
    }
}
