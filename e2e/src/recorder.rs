//! A server that writes down what it is asked: a metrics server that wants a header, and a collector of traces.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// Where traces are sent.
pub const TRACES: &str = "/v1/traces";

/// One request.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub path: String,
    pub body: String,
}

#[derive(Clone)]
struct Records {
    /// The header without which no metric is told, and its value.
    key: (&'static str, &'static str),
    all: Arc<Mutex<Vec<Recorded>>>,
}

pub struct Recorder {
    records: Records,
    server: JoinHandle<()>,
}

impl Recorder {
    /// Listens on this port of all of the machine's addresses.
    pub async fn start(port: u16, key: (&'static str, &'static str)) -> Result<Self> {
        let records = Records { key, all: Arc::default() };
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await.with_context(|| format!("listen on port {port}"))?;
        let app = Router::new().fallback(answer).with_state(records.clone());
        let server = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { records, server })
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.records.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often something below this path was asked.
    pub fn asked(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.path.starts_with(path)).count()
    }

    /// The spans that were sent so far, each once.
    pub fn spans(&self) -> Result<Vec<Value>> {
        let mut spans = BTreeMap::new();
        for request in self.requests().iter().filter(|request| request.path == TRACES) {
            let mut body: Value = serde_json::from_str(&request.body).context("a request with traces")?;
            for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array_mut().into_iter().flatten() {
                spans.insert(span["spanId"].to_string(), span.take());
            }
        }
        Ok(spans.into_values().collect())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// As a collector or as Prometheus. Whoever lacks the key is told what came instead: that must not be repeated to anybody.
async fn answer(State(records): State<Records>, request: Request) -> (StatusCode, String) {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 1 << 24).await else { return (StatusCode::BAD_REQUEST, String::new()) };
    let path = parts.uri.path().to_owned();
    let (name, key) = records.key;
    let sent = parts.headers.get(name).map_or("", |value| value.to_str().unwrap_or("not text"));
    let answer = match path.as_str() {
        TRACES => (StatusCode::OK, "{}".to_owned()),
        _ if sent == key => {
            let series = json!([{"metric": {}, "value": [0, "100"]}]);
            (StatusCode::OK, json!({"status": "success", "data": {"resultType": "vector", "result": series}}).to_string())
        }
        _ => (StatusCode::FORBIDDEN, format!("{name} must not be {sent}")),
    };
    let record = Recorded { path, body: String::from_utf8_lossy(&body).into_owned() };
    records.all.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    answer
}
