//! A constant load, with a record of each request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::VERSION_HEADER;
use crate::sim::http::send;

/// What became of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// When it was sent, from the beginning of the load.
    pub at: Duration,
    pub took: Duration,
    /// 0 if no answer came.
    pub status: u16,
    /// The version that answered; empty if none did.
    pub version: String,
}

impl Outcome {
    pub fn failed(&self) -> bool {
        self.status == 0 || self.status >= 500
    }
}

/// Sends requests at a constant rate until it is dropped or stopped.
pub struct Load {
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    task: JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Load {
    /// `rate`: requests in each second, whether or not earlier ones have been answered. `host` is their Host header.
    pub fn start(to: SocketAddr, host: &str, rate: u32) -> Self {
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(run(to, host.to_owned(), rate.max(1), outcomes.clone()));
        Self { outcomes, task }
    }

    /// The record so far, in the order of the answers.
    pub fn outcomes(&self) -> Vec<Outcome> {
        lock(&self.outcomes).clone()
    }

    /// Requests answered so far, and how many of them failed.
    pub fn totals(&self) -> (usize, usize) {
        let outcomes = lock(&self.outcomes);
        (outcomes.len(), outcomes.iter().filter(|o| o.failed()).count())
    }
}

fn lock(outcomes: &Mutex<Vec<Outcome>>) -> MutexGuard<'_, Vec<Outcome>> {
    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn run(to: SocketAddr, host: String, rate: u32, outcomes: Arc<Mutex<Vec<Outcome>>>) {
    let begin = Instant::now();
    let mut tick = interval(Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut underway = JoinSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let (host, outcomes) = (host.clone(), outcomes.clone());
                underway.spawn(async move {
                    let outcome = request(to, &host, begin).await;
                    lock(&outcomes).push(outcome);
                });
            }
            Some(_) = underway.join_next() => {}
        }
    }
}

async fn request(to: SocketAddr, host: &str, begin: Instant) -> Outcome {
    let at = begin.elapsed();
    let request = http::Request::get("/").header(http::header::HOST, host).body(Full::new(Bytes::new()));
    let answer = match request {
        Ok(request) => send(to, request).await,
        Err(error) => Err(error.into()),
    };
    let (status, version) = match &answer {
        Ok(response) => {
            let version = response.headers().get(VERSION_HEADER).and_then(|v| v.to_str().ok());
            (response.status().as_u16(), version.unwrap_or_default().to_owned())
        }
        Err(error) => {
            tracing::debug!(%error, "request not answered");
            (0, String::new())
        }
    };
    Outcome { at, took: begin.elapsed().saturating_sub(at), status, version }
}
