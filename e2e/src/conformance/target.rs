//! Who is asked: the simulated API server or a real one, both through the same client.

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use http_body_util::BodyExt;
use kube::{Client, client::Body as HttpBody};
use serde_json::{Value, json};
use sluice::sim::{
    api::ApiServer,
    service::{Clock, Handle},
};

use super::{
    generate::{Sequence, Watch},
    request::{Memory, Request},
};
use crate::wait::seconds;

/// The field manager of requests that name none.
const AGENT: &str = "conformance";
/// For one answer, and for all events of a watch.
const LIMIT: std::time::Duration = seconds(20);

#[derive(Clone)]
pub struct Target {
    pub client: Client,
}

/// What was answered to one request; of a watch, `body` is the list of its events.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Target {
    /// The answers to all requests of a sequence, then to its watches, in a new namespace.
    pub async fn play(&self, sequence: &Sequence, namespace: &str) -> Result<Vec<Answer>> {
        let mut memory = Memory::new(namespace);
        self.make_namespace(namespace).await.with_context(|| format!("make the namespace {namespace}"))?;
        let mut answers = vec![];
        for request in &sequence.requests {
            let answer = self.ask(request, &memory).await.with_context(|| format!("{request}"))?;
            memory.note(request, &answer.body);
            answers.push(answer);
        }
        for watch in &sequence.watches {
            answers.push(self.watch(watch, &memory).await.with_context(|| format!("{watch}"))?);
        }
        Ok(answers)
    }

    /// With the account that its pods run as, which a controller would make; without a token, which the kubelet would mount.
    pub async fn make_namespace(&self, namespace: &str) -> Result<()> {
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        let requests = [
            Request::new("POST", "/api/v1/namespaces").with(json!({"metadata": {"name": namespace}})),
            Request::new("POST", format!("/api/v1/namespaces/{namespace}/serviceaccounts")).with(account),
        ];
        for request in requests {
            let answer = self.ask(&request, &Memory::new(namespace)).await?;
            ensure!(answer.status == 201, "{request}: {}", answer.body);
        }
        Ok(())
    }

    pub async fn ask(&self, request: &Request, memory: &Memory) -> Result<Answer> {
        let body = memory.body(request).map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let content_type = if request.content_type.is_empty() { "application/json" } else { request.content_type };
        let answer = tokio::time::timeout(LIMIT, self.send(request, memory, content_type, body)).await.context("no answer")??;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&bytes)));
        Ok(Answer { status, body })
    }

    async fn send(&self, request: &Request, memory: &Memory, content_type: &str, body: Vec<u8>) -> Result<http::Response<HttpBody>> {
        let mut built =
            http::Request::builder().method(request.method).uri(memory.uri(request)).header(http::header::USER_AGENT, format!("{AGENT}/1"));
        if !body.is_empty() {
            built = built.header(http::header::CONTENT_TYPE, content_type);
        }
        let accept = if request.accept.is_empty() { "application/json" } else { request.accept };
        Ok(self.client.send(built.header(http::header::ACCEPT, accept).body(HttpBody::from(body))?).await?)
    }

    /// The events up to that of the last object, or to an error.
    async fn watch(&self, watch: &Watch, memory: &Memory) -> Result<Answer> {
        let answer = self.send(&watch.request, memory, "", vec![]).await?;
        let status = answer.status().as_u16();
        let mut frames = answer.into_body().into_data_stream();
        let mut bytes: Vec<u8> = vec![];
        let mut events = vec![];
        let read = async {
            while let Some(frame) = frames.next().await {
                bytes.extend(frame?);
                while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = bytes.drain(..=end).collect();
                    let event: Value = serde_json::from_slice(&line)?;
                    let is_last = event["type"] == "ERROR" || event["object"]["metadata"]["name"] == watch.last;
                    // What a bookmark tells between two writes depends on when it is sent.
                    if event["type"] != "BOOKMARK" {
                        events.push(event);
                    }
                    if is_last {
                        return Ok(());
                    }
                }
            }
            if status == 200 { bail!("the watch ended after {} events", events.len()) } else { Ok(()) }
        };
        if tokio::time::timeout(LIMIT, read).await.is_err() {
            events.push(json!({"type": "nothing more came"}));
        }
        let body = if status == 200 { Value::Array(events) } else { serde_json::from_slice(&bytes)? };
        Ok(Answer { status, body })
    }
}

/// A copy of a simulated server, and a client of it.
pub fn simulated(server: &ApiServer) -> (Target, Handle) {
    let handle = Handle::new(server.clone(), Clock::starting_at(jiff::Timestamp::now()));
    (Target { client: handle.client(AGENT) }, handle)
}
