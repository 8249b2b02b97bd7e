//! The app that the end-to-end scenarios roll out: a web server that is as good or as bad as it is told to be.
//!
//! Any path answers with the version, over HTTP/1.1 and HTTP/2, and calls of gRPC do; `/readyz`, `/metrics` and `POST /control` are its
//! own. On SIGTERM it does what a well-behaved server does: it becomes unready, serves on until the gateway has noticed, closes
//! connections by saying so first, finishes what is in flight, and exits 0.

mod behaviour;
mod grpc;
mod metrics;
mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use behaviour::{Behaviour, Change, Settings};
use metrics::Metrics;
use tls::TlsListener;

struct App {
    settings: Settings,
    behaviour: Behaviour,
    metrics: Metrics,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::from_env()?;
    let listener = TcpListener::bind(("0.0.0.0", settings.port)).await?;
    let app = Arc::new(App { behaviour: Behaviour::new(&settings), metrics: Metrics::default(), settings });
    if let Some(after) = app.settings.crash_after {
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            eprintln!("crashing, as CRASH_AFTER_S says");
            std::process::exit(1);
        });
    }
    println!("version {} serves on port {}", app.settings.version, app.settings.port);
    match app.settings.tls.clone() {
        Some((certificate, key)) => serve(TlsListener::new(listener, &certificate, &key)?, app).await,
        None => serve(listener, app).await,
    }
}

async fn serve(listener: impl Listener<Addr: std::fmt::Debug>, app: Arc<App>) -> anyhow::Result<()> {
    axum::serve(listener, router(app.clone())).with_graceful_shutdown(drained(app)).await?;
    Ok(())
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/readyz", get(readyz))
        .route("/metrics", get(exposition))
        .route("/control", post(control))
        .fallback(answer)
        .layer(middleware::from_fn_with_state(app.clone(), announce_close))
        .with_state(app)
}

/// Ends when SIGTERM came and the time for the gateway to notice is over.
async fn drained(app: Arc<App>) {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
    terminate.recv().await;
    app.behaviour.drain();
    tokio::time::sleep(app.settings.drain).await;
}

/// While draining, every answer asks its client to open the next connection elsewhere. (HTTP/2 has a message of its own for that.)
async fn announce_close(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let has_header = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    if app.behaviour.draining() && has_header {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    let begin = Instant::now();
    let (fails, latency) = app.behaviour.next_answer();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    compute(app.settings.cpu);
    let Settings { version, pod, .. } = &app.settings;
    let headers = [("x-version", version.clone()), ("x-pod", pod.clone())];
    if grpc::is_call(&request) {
        let code = match grpc::is_whole(request).await {
            false => grpc::Code::InvalidArgument,
            true if fails => grpc::Code::Unavailable,
            true => grpc::Code::Ok,
        };
        app.metrics.handled(code.name());
        return (headers, grpc::answer(code, version)).into_response();
    }
    let status = if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    app.metrics.answered(status.as_u16(), begin.elapsed());
    (status, headers, format!("{version}\n")).into_response()
}

/// Takes that much time of a CPU, however long that takes on a machine that others use, too. There is only one thread, which does nothing
/// else meanwhile.
fn compute(cpu: Duration) {
    let used = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
    };
    let end = used() + cpu;
    while used() < end {
        std::hint::spin_loop();
    }
}

async fn readyz(State(app): State<Arc<App>>) -> (StatusCode, &'static str) {
    if app.behaviour.ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

async fn exposition(State(app): State<Arc<App>>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.encode()).into_response()
}

/// Changes this pod's behaviour at run time; what is left out stays. Answers with what now holds.
async fn control(State(app): State<Arc<App>>, Query(change): Query<Change>) -> Response {
    match app.behaviour.change(&change) {
        Ok(now) => (StatusCode::OK, now).into_response(),
        Err(message) => (StatusCode::BAD_REQUEST, message).into_response(),
    }
}

/// Seconds with decimals, as the environment gives them.
fn seconds(value: f64) -> anyhow::Result<Duration> {
    Ok(Duration::try_from_secs_f64(value)?)
}
