//! Constant calls of gRPC through the gateway, over one connection of HTTP/2, with a record of each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Bytes,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{interval, timeout},
};

use crate::load::{Record, Records};

/// What the app answers with its version; it takes any.
pub const SERVICE: &str = "sluice.Demo";
pub const METHOD: &str = "Version";
/// An empty message, as it travels.
const MESSAGE: &[u8] = &[0; 5];
const LIMIT: Duration = Duration::from_secs(5);

/// Calls that go on until they are stopped.
pub struct Calls {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Record>>,
}

/// Whom to call, and how.
#[derive(Clone)]
pub struct Target {
    /// URL of the gateway, without a path.
    pub gateway: String,
    pub host: String,
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Calls {
    /// `rate` calls a second.
    pub fn start(target: Target, rate: u32) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, task: tokio::spawn(go_on(target, rate, stopped)) }
    }

    /// Ends them; those that are on their way are waited for.
    pub async fn stop(self) -> Result<Records> {
        drop(self.stop);
        let mut records = Records(self.task.await.context("the calls have ended by themselves")?);
        records.0.sort_by_key(|record| record.at);
        Ok(records)
    }
}

async fn go_on(target: Target, rate: u32, mut stopped: oneshot::Receiver<()>) -> Vec<Record> {
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = ticks.tick() => {}
        }
        // As clients of gRPC do: a connection is kept until the other side closes it.
        if connection.as_ref().is_none_or(SendRequest::is_closed) {
            connection = connect(&target.gateway).await.ok();
        }
        calls.spawn(recorded(target.clone(), connection.clone()));
    }
    calls.join_all().await
}

/// One call, on a connection of its own.
pub async fn once(target: &Target) -> Record {
    recorded(target.clone(), connect(&target.gateway).await.ok()).await
}

async fn connect(gateway: &str) -> Result<SendRequest<Full<Bytes>>> {
    let address = gateway.trim_start_matches("http://");
    let stream = timeout(LIMIT, TcpStream::connect(address)).await?.with_context(|| format!("connect to {address}"))?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Its end shows in what is sent on it.
    tokio::spawn(connection);
    Ok(sender)
}

async fn recorded(target: Target, connection: Option<SendRequest<Full<Bytes>>>) -> Record {
    let at = Timestamp::now();
    let mut record =
        Record { at, latency: SignedDuration::ZERO, code: 0, version: String::new(), pod: String::new(), error: String::new() };
    let answered = match connection {
        Some(connection) => timeout(LIMIT, answer(&target, connection, &mut record)).await.unwrap_or_else(|late| Err(late.into())),
        None => Err(anyhow::anyhow!("no connection to {}", target.gateway)),
    };
    if let Err(error) = answered {
        record.error = format!("{error:#}");
    }
    record.latency = Timestamp::now().duration_since(at);
    record
}

/// Calls, and reads the answer to its end: only with the trailers is it known whether the call has failed.
async fn answer(target: &Target, mut connection: SendRequest<Full<Bytes>>, record: &mut Record) -> Result<()> {
    let mut request = Request::post(format!("http://{}/{SERVICE}/{METHOD}", target.host)).header("te", "trailers");
    for (name, value) in [("content-type", "application/grpc")].iter().chain(&target.headers) {
        request = request.header(*name, *value);
    }
    connection.ready().await?;
    let (head, body) = connection.send_request(request.body(Full::from(MESSAGE))?).await?.into_parts();
    record.code = head.status.as_u16();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    (record.version, record.pod) = (header("x-version"), header("x-pod"));
    let body = body.collect().await?;
    // What answers without a message, as the gateway itself does, has the status in the header.
    let status = body.trailers().unwrap_or(&head.headers).get("grpc-status").context("an answer without grpc-status")?.clone();
    ensure!(status == "0", "grpc-status {}: {}", status.to_str()?, header("grpc-message"));
    let version = text(&body.to_bytes())?;
    ensure!(version == record.version, "the message says {version:?}, the header {:?}", record.version);
    Ok(())
}

/// The text of a `google.protobuf.StringValue` of less than 128 bytes, as it travels.
fn text(body: &[u8]) -> Result<String> {
    let message = body.split_at_checked(5).filter(|(head, message)| head[0] == 0 && head[1..] == (message.len() as u32).to_be_bytes());
    let field = message.and_then(|(_, message)| message.split_at_checked(2)).filter(|(tag, text)| **tag == [0x0a, text.len() as u8]);
    let (_, text) = field.with_context(|| format!("not one message with one string: {body:?}"))?;
    Ok(String::from_utf8(text.to_vec())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_only_if_it_is_whole() {
        assert_eq!(text(b"\0\0\0\0\x04\x0a\x02v1").unwrap(), "v1");
        for cut in [&b""[..], b"\0\0\0\0\x04\x0a\x02v", b"\0\0\0\0\x04\x0a\x03v1", b"\x01\0\0\0\x04\x0a\x02v1"] {
            assert!(text(cut).is_err(), "{cut:?}");
        }
    }
}
