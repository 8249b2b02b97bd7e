//! The simulated API server over real HTTP on loopback, for plain `kubectl` and any other program.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::service::{AnswerBody, Handle};

/// A listening API server; it stops when this is dropped.
pub struct ApiEndpoint {
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for ApiEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiEndpoint {
    /// Listens on loopback; port 0 takes any free one.
    pub async fn listen(handle: Handle, port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, handle)).abort_handle();
        Ok(Self { address, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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

async fn accept(listener: TcpListener, handle: Handle) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(talk(stream, handle.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "simulated API server: connection not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn talk(stream: TcpStream, handle: Handle) {
    let answer = service_fn(move |request| {
        let handle = handle.clone();
        async move { answer(&handle, request).await }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        // Clients end watches by closing the connection.
        tracing::debug!(%error, "simulated API server: connection ended");
    }
}

/// Errors here close the connection, as a hook may wish.
async fn answer(handle: &Handle, request: http::Request<Incoming>) -> Result<http::Response<AnswerBody>, super::service::ConnectionLost> {
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
