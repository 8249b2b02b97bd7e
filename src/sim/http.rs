//! A small HTTP/1 server and client on loopback, shared by the served API, the simulated apps and the proxy.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// A running server. Dropped, it stops at once; told to stop, it finishes what is in flight.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// How long requests in flight are given when a server is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub fn start<F, Fut, B, E>(listener: TcpListener, handler: F) -> std::io::Result<Self>
    where
        F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<http::Response<B>, E>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: std::error::Error + Send + Sync + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, handler, stopped));
        Ok(Self { address, stop, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more connections, closes idle ones, and waits for what is in flight.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if timeout(DRAIN, &mut self.task).await.is_err() {
            tracing::debug!(address = %self.address, "requests were still in flight");
        }
    }
}

async fn accept<F, Fut, B, E>(listener: TcpListener, handler: F, mut stopped: watch::Receiver<bool>)
where
    F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<http::Response<B>, E>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: std::error::Error + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    let stop = stopped.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(talk(stream, handler.clone(), stop.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            _ = async { stopped.wait_for(|stop| *stop).await.is_ok() } => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn talk<F, Fut, B, E>(stream: TcpStream, handler: F, mut stopped: watch::Receiver<bool>)
where
    F: Fn(http::Request<Incoming>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<http::Response<B>, E>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: std::error::Error + Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(handler));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = async { stopped.wait_for(|stop| *stop).await.is_ok() } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients end watches by closing the connection.
        tracing::debug!(%error, "connection ended");
    }
}

/// A whole answer.
pub fn answer(status: http::StatusCode, headers: &[(&'static str, &str)], body: impl Into<Bytes>) -> http::Response<Full<Bytes>> {
    let mut response = http::Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = http::HeaderValue::from_str(value) {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

/// Sends one request over a connection of its own and reads the whole answer.
pub async fn send(to: SocketAddr, mut request: http::Request<Full<Bytes>>) -> anyhow::Result<http::Response<Bytes>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    if !request.headers().contains_key(http::header::HOST) {
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_str(&to.to_string())?);
    }
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await?.to_bytes();
    connection.abort();
    Ok(http::Response::from_parts(parts, bytes))
}

/// For handlers that always answer.
pub type Always = Infallible;
