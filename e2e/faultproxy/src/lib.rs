//! Stands between a controller and its API server, and does what networks and API servers do at bad moments: it refuses, it is late, it loses
//! the answer of what took effect, it cuts watches. What happens to a request is decided by a function of it; everything is written down.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout_at},
};

/// A request as faults are chosen by it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub query: String,
    /// Which write it is, from 1 on, if it is one that counts: not of the lease or of an event, and not a dry run.
    pub write: Option<usize>,
}

impl Asked {
    pub fn is_watch(&self) -> bool {
        self.query.split('&').any(|part| matches!(part, "watch=true" | "watch=1"))
    }

    pub fn is_lease(&self) -> bool {
        self.path.contains("/leases")
    }
}

/// What happens to a request.
pub enum Fault {
    None,
    /// Answered with this code, without effect.
    Refused(StatusCode),
    /// The connection breaks before the API server has seen it.
    Lost,
    /// It takes effect; then this is done, and the connection breaks before the answer.
    Unanswered(Pending),
    /// It reaches the API server only after this.
    Late(Pending),
    /// A watch breaks after this time.
    Cut(Duration),
    /// What a watch brings comes this much later.
    Delayed(Duration),
}

/// Something to wait for.
pub type Pending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request, and what came of it.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Instant,
    pub asked: Asked,
    pub fault: &'static str,
    /// Of the API server, if it was asked and has answered.
    pub answer: Option<StatusCode>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, fault, answer, .. } = self;
        let answer = answer.map_or("no answer".to_owned(), |code| code.as_u16().to_string());
        write!(f, "{} {}: {answer}", asked.method, asked.path)?;
        if fault.is_empty() { Ok(()) } else { write!(f, " ({fault})") }
    }
}

/// Parts of an answer that are on their way at the same time.
const IN_FLIGHT: usize = 1_000;

type Choose = dyn Fn(&Asked) -> Fault + Send + Sync;
type Answer = Response<UnsyncBoxBody<Bytes, Broken>>;

/// The end of a connection that is meant.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is broken on purpose")
    }
}

impl std::error::Error for Broken {}

struct Shared {
    upstream: Client,
    choose: Box<Choose>,
    writes: AtomicUsize,
    entries: Mutex<Vec<Entry>>,
}

/// A running proxy; it ends when it is dropped.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FaultProxy {
    /// Listens on loopback, and asks `upstream` as whom that client is.
    pub async fn start(upstream: Client, choose: impl Fn(&Asked) -> Fault + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("cannot listen on loopback")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { upstream, choose: Box::new(choose), writes: AtomicUsize::new(0), entries: Mutex::default() });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// A kubeconfig for whoever is to go through it.
    pub fn kubeconfig(&self) -> String {
        let address = self.address;
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: faults\nclusters:\n- name: faults\n  cluster: {{server: \"http://{address}\"}}\n\
             contexts:\n- name: faults\n  context: {{cluster: faults, user: faults}}\nusers:\n- name: faults\n  user: {{}}\n"
        )
    }

    /// How many writes have come so far.
    pub fn writes(&self) -> usize {
        self.shared.writes.load(Ordering::SeqCst)
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(talk(stream, shared.clone()))),
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn talk(stream: TcpStream, shared: Arc<Shared>) {
    let service = hyper::service::service_fn(move |request| {
        let shared = shared.clone();
        // A task of its own: what has reached the API server goes on there when the controller hangs up.
        async move { tokio::spawn(answer(shared, request)).await.unwrap_or(Err(Broken)) }
    });
    // An error is a connection that one of the two sides has broken.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

impl Shared {
    fn asked(&self, request: &Request<Incoming>) -> Asked {
        let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let counts = !matches!(*request.method(), Method::GET | Method::HEAD)
            && !path.contains("/leases")
            && !path.contains("/events")
            && !query.contains("dryRun");
        let write = counts.then(|| self.writes.fetch_add(1, Ordering::SeqCst) + 1);
        Asked { method: request.method().clone(), path, query, write }
    }

    fn note(&self, asked: &Asked, fault: &'static str, answer: Option<StatusCode>) {
        let entry = Entry { at: Instant::now(), asked: asked.clone(), fault, answer };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// Asks the API server.
    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Broken> {
        request.headers_mut().remove(header::HOST);
        // What is not packed can be looked at, cut and delayed event by event.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        self.upstream.send(Request::from_parts(parts, Body::from(body))).await.map_err(|_| Broken)
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Broken> {
    let asked = shared.asked(&request);
    let fault = (shared.choose)(&asked);
    let note = |fault, answer: Option<StatusCode>| shared.note(&asked, fault, answer);
    match fault {
        Fault::Refused(code) => {
            note("refused", None);
            Ok(refusal(code))
        }
        Fault::Lost => {
            note("lost", None);
            Err(Broken)
        }
        Fault::Unanswered(before) => {
            let answer = shared.pass(request).await?;
            note("took effect, unanswered", Some(answer.status()));
            before.await;
            Err(Broken)
        }
        Fault::Late(until) => {
            until.await;
            let answer = shared.pass(request).await?;
            note("late", Some(answer.status()));
            Ok(whole(answer))
        }
        Fault::None => {
            let answer = shared.pass(request).await?;
            note("", Some(answer.status()));
            Ok(whole(answer))
        }
        Fault::Cut(after) => {
            let answer = shared.pass(request).await?;
            note("watch, cut", Some(answer.status()));
            Ok(cut(answer, after))
        }
        Fault::Delayed(by) => {
            let answer = shared.pass(request).await?;
            note("watch, delayed", Some(answer.status()));
            Ok(delayed(answer, by))
        }
    }
}

/// As the API server itself says no.
fn refusal(code: StatusCode) -> Answer {
    let reason = match code {
        StatusCode::CONFLICT => "Conflict",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        StatusCode::GONE => "Expired",
        _ => "InternalError",
    };
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"refused on purpose","reason":"{reason}","code":{}}}"#,
        code.as_u16()
    );
    let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

fn whole(answer: Response<Body>) -> Answer {
    // The length is known to hyper anew.
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(header::TRANSFER_ENCODING);
    Response::from_parts(parts, body.map_err(|_| Broken).boxed_unsync())
}

fn cut(answer: Response<Body>, after: Duration) -> Answer {
    let (parts, body) = whole(answer).into_parts();
    let end = tokio::time::Instant::now() + after;
    let frames = stream::unfold(Some(BodyStream::new(body)), move |body| async move {
        let mut body = body?;
        match timeout_at(end, body.next()).await {
            Ok(frame) => Some((frame?, Some(body))),
            Err(_) => Some((Err(Broken), None)),
        }
    });
    Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(Box::pin(frames))))
}

fn delayed(answer: Response<Body>, by: Duration) -> Answer {
    let (parts, body) = whole(answer).into_parts();
    let late = move |frame| async move {
        sleep(by).await;
        frame
    };
    let frames = BodyStream::new(body).map(late).buffered(IN_FLIGHT);
    Response::from_parts(parts, BodyExt::boxed_unsync(StreamBody::new(Box::pin(frames))))
}
