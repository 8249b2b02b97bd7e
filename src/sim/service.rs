//! The API server behind a tower service, so that an unmodified `kube::Client` talks to it.
//! It opens no socket and takes no time of its own: it works the same under tokio's paused clock.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture, stream};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::api::{ApiError, ApiServer, Event, Notice, Query, Request, Response, Target, View, Watch};

/// The body of an answer: whole, or a watch that goes on.
pub type AnswerBody = UnsyncBoxBody<Bytes, ConnectionLost>;

/// The connection broke: the client cannot know whether its request took effect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("connection to the simulated API server lost")]
pub struct ConnectionLost;

/// What becomes of a request, or of its answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Verdict {
    #[default]
    Pass,
    /// Answered with this instead. Before: without any effect.
    Answer(Response),
    /// The connection breaks.
    Lose,
    /// Never answered.
    Hang,
    /// Goes on after this time.
    Delay(Duration),
}

/// Every request passes here before and after it takes effect, and every write once it is committed, whoever wrote it:
/// the place for faults, recorders and oracles. Watches pass `before` when they are opened.
pub trait Hook: Send {
    fn before(&mut self, request: &Request, server: &ApiServer, now: Timestamp) -> Verdict {
        let _ = (request, server, now);
        Verdict::Pass
    }

    fn after(&mut self, request: &Request, response: &Response, server: &ApiServer, now: Timestamp) -> Verdict {
        let _ = (request, response, server, now);
        Verdict::Pass
    }

    /// `server` is as after the whole request; `event` is one of its writes.
    fn committed(&mut self, event: &Event, server: &ApiServer) {
        let _ = (event, server);
    }
}

/// A hook that lets everything pass.
struct Open;

impl Hook for Open {}

/// Virtual or real time: tokio's clock, from a given moment on.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: Timestamp,
    start: Instant,
}

impl Clock {
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { epoch, start: Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        self.epoch.checked_add(self.start.elapsed()).unwrap_or(Timestamp::MAX)
    }

    /// The moment as tokio's clock has it; now, if it is past.
    pub fn instant(&self, at: Timestamp) -> Instant {
        let ahead = at.duration_since(self.epoch);
        self.start + Duration::try_from(ahead).unwrap_or_default()
    }
}

struct Inner {
    server: ApiServer,
    hook: Box<dyn Hook>,
    /// Writes up to this revision have been shown to the hook.
    reported: u64,
}

/// Shared access to one simulated API server.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Mutex<Inner>>,
    revision: watch::Sender<u64>,
    clock: Clock,
}

impl Handle {
    pub fn new(server: ApiServer, clock: Clock) -> Self {
        let reported = server.revision();
        let inner = Inner { server, hook: Box::new(Open), reported };
        Self { inner: Arc::new(Mutex::new(inner)), revision: watch::Sender::new(reported), clock }
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Changes with every committed write.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn set_hook(&self, hook: impl Hook + 'static) {
        self.lock().hook = Box::new(hook);
    }

    /// Works on the server directly, past the hook's `before` and `after`; its writes are reported all the same.
    pub fn with<R>(&self, work: impl FnOnce(&mut ApiServer, Timestamp) -> R) -> R {
        let now = self.now();
        let mut inner = self.lock();
        let result = work(&mut inner.server, now);
        self.report(&mut inner);
        result
    }

    /// A client of this server. The name is its user agent: the actor of its writes and the default field manager.
    pub fn client(&self, actor: &str) -> kube::Client {
        kube::Client::new(ApiService { handle: self.clone(), actor: actor.into() }, "default")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn report(&self, inner: &mut Inner) {
        let Inner { server, hook, reported } = inner;
        let current = server.revision();
        if current == *reported {
            return;
        }
        for event in server.since(*reported) {
            hook.committed(event, server);
        }
        *reported = current;
        self.revision.send_replace(current);
    }

    /// Answers one HTTP request; `actor` is who asks.
    pub async fn answer(&self, actor: &str, request: http::Request<Bytes>) -> Result<http::Response<AnswerBody>, ConnectionLost> {
        let request = match read(actor, request) {
            Ok(request) => request,
            Err(refused) => return Ok(whole(&refused)),
        };
        let verdict = {
            let now = self.now();
            let Inner { server, hook, .. } = &mut *self.lock();
            hook.before(&request, server, now)
        };
        if let Some(response) = carry_out(verdict).await? {
            return Ok(whole(&response));
        }
        if request.is_watch() {
            return Ok(self.watch(&request));
        }
        let (mut response, verdict) = {
            let now = self.now();
            let mut inner = self.lock();
            let response = inner.server.handle(&request, now);
            self.report(&mut inner);
            let Inner { server, hook, .. } = &mut *inner;
            let verdict = hook.after(&request, &response, server, now);
            (response, verdict)
        };
        if let Some(other) = carry_out(verdict).await? {
            response = other;
        }
        Ok(whole(&response))
    }

    fn watch(&self, request: &Request) -> http::Response<AnswerBody> {
        let query = Query::parse(&request.query);
        let opened = match Target::parse(&request.path) {
            Some(target) => self.lock().server.open_watch(&target, &query),
            None => Err(ApiError::no_such_path()),
        };
        let watch = match opened {
            Ok(watch) => watch,
            Err(error) => return whole(&error.into()),
        };
        let seconds = query.get("timeoutSeconds").and_then(|t| t.parse().ok()).unwrap_or(3600);
        let feed = Feed {
            view: View::wanted(&request.accept),
            handle: self.clone(),
            watch,
            revisions: self.revisions(),
            end: Instant::now() + Duration::from_secs(seconds),
            bookmark: Instant::now() + BOOKMARK_INTERVAL,
        };
        let frames = feed.stream().map(|lines| Ok(Frame::data(lines)));
        respond(200, BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

/// How often a quiet watch is told that it is up to date.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// An open watch that is delivered line by line.
struct Feed {
    view: View,
    handle: Handle,
    watch: Watch,
    revisions: watch::Receiver<u64>,
    end: Instant,
    bookmark: Instant,
}

impl Feed {
    fn stream(self) -> impl Stream<Item = Bytes> {
        stream::unfold(self, |mut feed| async move { feed.next().await.map(|lines| (lines, feed)) })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.revisions.mark_unchanged();
            let notices = self.handle.lock().server.poll_watch(&mut self.watch);
            if !notices.is_empty() {
                return Some(self.lines(&notices));
            }
            if self.watch.ended() {
                return None;
            }
            tokio::select! {
                changed = self.revisions.changed() => changed.ok()?,
                () = sleep_until(self.end) => return None,
                () = sleep_until(self.bookmark) => {
                    self.bookmark += BOOKMARK_INTERVAL;
                    let notice = self.handle.lock().server.bookmark(&mut self.watch);
                    if let Some(notice) = notice {
                        return Some(self.lines(&[notice]));
                    }
                }
            }
        }
    }

    fn lines(&self, notices: &[Notice]) -> Bytes {
        let mut out = Vec::new();
        for notice in notices {
            let object = match notice.kind {
                "ERROR" => notice.object.clone(),
                _ => self.view.one(&self.watch.scope.kind, &notice.object, self.handle.now()),
            };
            out.extend(json!({"type": notice.kind, "object": *object}).to_string().into_bytes());
            out.push(b'\n');
        }
        out.into()
    }
}

/// What a verdict leaves to answer, after any waiting.
async fn carry_out(verdict: Verdict) -> Result<Option<Response>, ConnectionLost> {
    match verdict {
        Verdict::Pass => Ok(None),
        Verdict::Answer(response) => Ok(Some(response)),
        Verdict::Lose => Err(ConnectionLost),
        Verdict::Hang => futures::future::pending().await,
        Verdict::Delay(time) => {
            sleep(time).await;
            Ok(None)
        }
    }
}

fn read(actor: &str, request: http::Request<Bytes>) -> Result<Request, Response> {
    let (parts, bytes) = request.into_parts();
    let header = |name| {
        let value = parts.headers.get(name).and_then(|v: &http::HeaderValue| v.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let content_type = header(http::header::CONTENT_TYPE);
    if content_type.contains("protobuf") || content_type.contains("cbor") {
        return Err(ApiError::unsupported_media_type(None).into());
    }
    let body = if bytes.is_empty() { Value::Null } else { decode(&bytes)? };
    Ok(Request {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        content_type,
        accept: header(http::header::ACCEPT),
        body,
        actor: actor.to_owned(),
    })
}

/// Bodies are JSON, or YAML as `kubectl apply --server-side` sends it.
fn decode(bytes: &[u8]) -> Result<Value, Response> {
    serde_json::from_slice(bytes)
        .or_else(|_| serde_yaml_ng::from_slice(bytes))
        .map_err(|error| ApiError::bad_request(format!("the body of the request cannot be decoded: {error}")).into())
}

fn whole(response: &Response) -> http::Response<AnswerBody> {
    let body = Full::new(Bytes::from(response.body.to_string()));
    respond(response.status, body.map_err(|never| match never {}).boxed_unsync())
}

fn respond(status: u16, body: AnswerBody) -> http::Response<AnswerBody> {
    let mut response = http::Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

/// The tower service behind one client.
#[derive(Clone)]
pub struct ApiService {
    handle: Handle,
    actor: Arc<str>,
}

impl tower::Service<http::Request<kube::client::Body>> for ApiService {
    type Response = http::Response<AnswerBody>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
        let service = self.clone();
        let answer = async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            Ok(service.handle.answer(&service.actor, http::Request::from_parts(parts, bytes)).await?)
        };
        let answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(answer);
        answer
    }
}
