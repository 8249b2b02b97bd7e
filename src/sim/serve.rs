//! The simulated API server over real HTTP on loopback, for plain `kubectl` and any other program.
//!
//! It speaks JSON only. `kubectl` sends protobuf for the few verbs that build an object by flags
//! (`kubectl create deployment`, `kubectl expose`, ...): those are refused; `kubectl create -f` and all others work.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::json;
use tokio::net::TcpListener;

use super::http::Server;
use super::service::{AnswerBody, ConnectionLost, Handle};

/// A listening API server; it stops when this is dropped.
pub struct ApiEndpoint {
    server: Server,
}

impl ApiEndpoint {
    /// Listens on loopback; port 0 takes any free one.
    pub async fn listen(handle: Handle, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let server = Server::start(listener, move |request| {
            let handle = handle.clone();
            async move { answer(&handle, request).await }
        })?;
        Ok(Self { server })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// A kubeconfig for this server. It needs no credentials: it is open to everyone on this machine.
    pub fn kubeconfig(&self) -> String {
        let name = "sluice-sim";
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": {"server": self.url()}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
            "users": [{"name": name, "user": {}}],
        });
        format!("{config:#}\n")
    }

    pub fn write_kubeconfig(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, self.kubeconfig())
    }
}

/// An error here closes the connection, as a hook may wish.
async fn answer(handle: &Handle, request: http::Request<Incoming>) -> Result<http::Response<AnswerBody>, ConnectionLost> {
    let (parts, body) = request.into_parts();
    let agent = parts.headers.get(http::header::USER_AGENT).and_then(|a| a.to_str().ok());
    let actor = agent.and_then(|a| a.split(['/', ' ']).next()).filter(|a| !a.is_empty()).unwrap_or("unknown").to_owned();
    let Ok(bytes) = body.collect().await else {
        let refused = Full::new(Bytes::from_static(b"the request's body did not arrive"));
        let mut response = http::Response::new(refused.map_err(|never: Infallible| match never {}).boxed_unsync());
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    handle.answer(&actor, http::Request::from_parts(parts, bytes.to_bytes())).await
}
