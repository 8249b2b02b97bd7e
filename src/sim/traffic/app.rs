//! The apps: every running pod of a known image gets a listener that answers, fails and measures as its version does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http::StatusCode;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::VERSION_HEADER;
use crate::sim::api::{Caller, Part};
use crate::sim::http::{Always, Server, answer};
use crate::sim::service::Handle;

/// How one version of the app behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct AppVersion {
    /// Share of the answers that are 503, 0 to 1.
    pub failure_rate: f64,
    /// How long an answer takes.
    pub latency: Duration,
}

impl Default for AppVersion {
    fn default() -> Self {
        Self { failure_rate: 0.0, latency: Duration::from_millis(2) }
    }
}

type Addresses = Arc<Mutex<BTreeMap<String, SocketAddr>>>;

/// Runs the apps of a cluster's pods until it is dropped.
pub struct AppHost {
    addresses: Addresses,
    task: JoinHandle<()>,
}

impl Drop for AppHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl AppHost {
    /// `versions` by image; pods of other images get no listener.
    pub fn start(handle: Handle, versions: BTreeMap<String, AppVersion>) -> Self {
        let addresses = Addresses::default();
        let task = tokio::spawn(run(handle, versions, addresses.clone()));
        Self { addresses, task }
    }

    /// Where a pod (by uid) listens.
    pub fn address(&self, pod_uid: &str) -> Option<SocketAddr> {
        lock(&self.addresses).get(pod_uid).copied()
    }

    pub(super) fn addresses(&self) -> Lookup {
        Lookup(self.addresses.clone())
    }
}

/// Finds where pods listen.
#[derive(Clone)]
pub(super) struct Lookup(Addresses);

impl Lookup {
    pub fn get(&self, pod_uid: &str) -> Option<SocketAddr> {
        lock(&self.0).get(pod_uid).copied()
    }
}

fn lock(addresses: &Addresses) -> MutexGuard<'_, BTreeMap<String, SocketAddr>> {
    addresses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Keeps one listener for each pod that runs; a pod that is gone finishes what is in flight.
async fn run(handle: Handle, versions: BTreeMap<String, AppVersion>, addresses: Addresses) {
    let mut revisions = handle.revisions();
    let mut servers: BTreeMap<String, Server> = BTreeMap::new();
    loop {
        revisions.mark_unchanged();
        let pods: Vec<Arc<Value>> = handle.with(|server, _| server.list("pods").cloned().collect());
        let gone: Vec<String> = servers.keys().filter(|id| !pods.iter().any(|p| uid(p) == **id)).cloned().collect();
        for id in gone {
            lock(&addresses).remove(&id);
            if let Some(server) = servers.remove(&id) {
                tokio::spawn(server.stop());
            }
        }
        for pod in &pods {
            if servers.contains_key(uid(pod)) {
                continue;
            }
            let Some(server) = start(&handle, &versions, pod).await else { continue };
            lock(&addresses).insert(uid(pod).to_owned(), server.address());
            servers.insert(uid(pod).to_owned(), server);
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().unwrap_or_default()
}

async fn start(handle: &Handle, versions: &BTreeMap<String, AppVersion>, pod: &Value) -> Option<Server> {
    let ip: IpAddr = pod["status"]["podIP"].as_str()?.parse().ok()?;
    let container = &pod["spec"]["containers"][0];
    let image = container["image"].as_str()?;
    let version = versions.get(image)?.clone();
    let port = container["ports"][0]["containerPort"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(0);
    let listener = match TcpListener::bind((ip, port)).await {
        Ok(listener) => listener,
        Err(_) => match TcpListener::bind(("127.0.0.1", 0)).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "no port for a pod");
                return None;
            }
        },
    };
    let app = Arc::new(App::new(image.rsplit(':').next().unwrap_or(image), version));
    let server = Server::start(listener, move |request| {
        let app = app.clone();
        async move { Ok::<_, Always>(app.respond(&request).await) }
    });
    match server {
        Ok(server) => {
            if server.address().port() != port {
                annotate(handle, pod, server.address().port());
            }
            Some(server)
        }
        Err(error) => {
            tracing::error!(%error, "a pod's listener has no address");
            None
        }
    }
}

fn annotate(handle: &Handle, pod: &Value, port: u16) {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    let key = (text("namespace"), text("name"));
    handle.with(|server, now| {
        let Some(live) = server.get("pods", &key.0, &key.1) else { return };
        let mut object = (**live).clone();
        if !object["metadata"]["annotations"].is_object() {
            object["metadata"]["annotations"] = json!({});
        }
        object["metadata"]["annotations"]["prometheus.io/port"] = port.to_string().into();
        let caller = Caller::new("app-host", now);
        let written = server.kind("pods").cloned().and_then(|k| server.revise(&k, &key, Part::Object, &caller, object));
        if let Err(error) = written {
            tracing::warn!(pod = key.1, message = error.message, "port not noted");
        }
    });
}

/// Upper bounds of the latency histogram, in seconds.
const BOUNDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

#[derive(Debug, Default)]
struct Measured {
    ok: u64,
    failed: u64,
    /// Answers at or below each bound.
    within: [u64; BOUNDS.len()],
    seconds: f64,
    /// Failures owed: one is due whenever this reaches 1.
    owed: f64,
}

struct App {
    name: String,
    version: AppVersion,
    measured: Mutex<Measured>,
}

impl App {
    fn new(name: &str, version: AppVersion) -> Self {
        Self { name: name.to_owned(), version, measured: Mutex::default() }
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn respond(&self, request: &http::Request<Incoming>) -> http::Response<http_body_util::Full<bytes::Bytes>> {
        if request.uri().path() == "/metrics" {
            return answer(StatusCode::OK, &[("content-type", "text/plain; version=0.0.4")], self.exposition());
        }
        let begin = Instant::now();
        tokio::time::sleep(self.version.latency).await;
        let fails = self.count(begin.elapsed());
        let status = if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        answer(status, &[(VERSION_HEADER, &self.name)], format!("{}\n", self.name))
    }

    /// Counts one answer; says whether it is one of those that fail: exactly the share that the version has.
    fn count(&self, took: Duration) -> bool {
        let mut m = self.measured();
        m.owed += self.version.failure_rate;
        let fails = m.owed >= 1.0;
        if fails {
            m.owed -= 1.0;
            m.failed += 1;
        } else {
            m.ok += 1;
        }
        let seconds = took.as_secs_f64();
        m.seconds += seconds;
        for (count, bound) in m.within.iter_mut().zip(BOUNDS) {
            *count += u64::from(seconds <= bound);
        }
        fails
    }

    /// The measurements in Prometheus' text format.
    fn exposition(&self) -> String {
        let m = self.measured();
        let mut out = String::from("# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n");
        let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").expect("writing to a string cannot fail");
        line(format_args!("http_requests_total{{code=\"200\"}} {}", m.ok));
        line(format_args!("http_requests_total{{code=\"503\"}} {}", m.failed));
        line(format_args!("# HELP http_request_duration_seconds How long answers took."));
        line(format_args!("# TYPE http_request_duration_seconds histogram"));
        for (count, bound) in m.within.iter().zip(BOUNDS) {
            line(format_args!("http_request_duration_seconds_bucket{{le=\"{bound}\"}} {count}"));
        }
        let all = m.ok + m.failed;
        line(format_args!("http_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}"));
        line(format_args!("http_request_duration_seconds_sum {}", m.seconds));
        line(format_args!("http_request_duration_seconds_count {all}"));
        out
    }
}
