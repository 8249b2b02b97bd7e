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
        let endpoints = programmed.clusters.get(&backend).map(Vec::as_slice).unwrap_or_default();
        let turn = lock(&self.turns).endpoint(&backend);
        let Some(endpoint) = (!endpoints.is_empty()).then(|| &endpoints[turn % endpoints.len()]) else {
            return answer(StatusCode::SERVICE_UNAVAILABLE, &[], "no healthy upstream\n");
        };
        let fallback = || Some(SocketAddr::new(endpoint.address.parse().ok()?, endpoint.port));
        let Some(address) = self.apps.get(&endpoint.uid).or_else(fallback) else {
            return answer(StatusCode::SERVICE_UNAVAILABLE, &[], "upstream has no address\n");
        };
        relay(address, request).await
    }
}

async fn relay(address: SocketAddr, request: http::Request<Incoming>) -> http::Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return answer(StatusCode::BAD_REQUEST, &[], "the request's body did not arrive\n");
    };
    match send(address, http::Request::from_parts(parts, Full::new(body.to_bytes()))).await {
        Ok(response) => response.map(Full::new),
        Err(error) => answer(StatusCode::SERVICE_UNAVAILABLE, &[], format!("upstream: {error}\n")),
    }
}

/// The first rule that a request matches, with a name of its own.
fn find<'a>(programmed: &'a Programmed, request: &http::Request<Incoming>) -> Option<(String, &'a Rule)> {
    let host = request.headers().get(http::header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let for_host = |names: &[String]| names.is_empty() || names.iter().any(|n| host_matches(n, host));
    for ((kind, namespace, name), route) in programmed.routes.iter().filter(|(_, r)| for_host(&r.hostnames)) {
        let rules = route.rules.iter().enumerate();
        if let Some((i, rule)) = rules.into_iter().find(|(_, r)| matches(&r.matches, request)) {
            return Some((format!("{kind}/{namespace}/{name}/{i}"), rule));
        }
    }
    None
}

fn host_matches(pattern: &str, host: &str) -> bool {
    pattern == host || pattern.strip_prefix('*').is_some_and(|suffix| host.ends_with(suffix))
}

fn matches(conditions: &Value, request: &http::Request<Incoming>) -> bool {
    let path = request.uri().path();
    let one = |m: &Value| {
        let wanted = m["path"]["value"].as_str().unwrap_or("/");
        let path_fits = match m["path"]["type"].as_str() {
            Some("Exact") => path == wanted,
            _ => {
                let prefix = wanted.trim_end_matches('/');
                path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        let headers = m["headers"].as_array().into_iter().flatten();
        let headers_fit = headers.into_iter().all(|h| {
            let found = request.headers().get(h["name"].as_str().unwrap_or_default());
            found.and_then(|v| v.to_str().ok()) == h["value"].as_str()
        });
        path_fits && headers_fit && m["method"].as_str().is_none_or(|wanted| request.method() == wanted)
    };
    conditions.as_array().is_none_or(|list| list.is_empty() || list.iter().any(one))
}

/// Whose turn it is: smooth weighted round robin for each rule, plain round robin among a cluster's endpoints.
#[derive(Default)]
struct Turns {
    rules: BTreeMap<String, (Vec<Backend>, Vec<i64>)>,
    clusters: BTreeMap<Cluster, usize>,
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
    fn each_backend_gets_exactly_its_share() {
        let backend = |name: &str, weight| Backend { cluster: ("ns".into(), name.into(), 80), weight };
        let backends = vec![backend("a", 95), backend("b", 5), backend("c", 0)];
        let rule = Rule { matches: Value::Null, filters: Value::Null, backends };
        let mut turns = Turns::default();
        let mut counts = BTreeMap::new();
        for _ in 0..1000 {
            *counts.entry(turns.backend("r", &rule).unwrap().1).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([("a".to_owned(), 950), ("b".to_owned(), 50)]));
    }
}
