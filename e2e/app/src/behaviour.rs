//! What the app is told to be: at the start by its environment, later by `POST /control`.

use std::env;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;

use crate::seconds;

/// What the environment says; fixed for the life of the process.
pub struct Settings {
    /// `VERSION`: the body of every answer and its header `X-Version`. Default `v0`.
    pub version: String,
    /// `HOSTNAME`, which is the pod's name in Kubernetes: the header `X-Pod`.
    pub pod: String,
    /// `PORT`. Default 8080.
    pub port: u16,
    /// `FAILURE_RATE`: the share of answers that are 503, 0 to 1. Default 0.
    pub failure_rate: f64,
    /// `LATENCY_MS`: how long every answer takes, in milliseconds. Default 0.
    pub latency: Duration,
    /// `CPU_MS`: how much time of a CPU every answer takes, in milliseconds. Default 0.
    pub cpu: Duration,
    /// `READY_AFTER_S`: seconds until `/readyz` says 200, or `never` (`None`). Default 0.
    pub ready_after: Option<Duration>,
    /// `CRASH_AFTER_S`: seconds until the process exits with 1. Default: it doesn't.
    pub crash_after: Option<Duration>,
    /// `DRAIN_S`: seconds that it serves on after SIGTERM. Default 5, well over what endpoints take to reach the gateway.
    pub drain: Duration,
    /// `TLS_CERTIFICATE` and `TLS_KEY`, as PEM: it speaks TLS. Default: it doesn't.
    pub tls: Option<(String, String)>,
}

impl Settings {
    pub fn from_env() -> anyhow::Result<Self> {
        let ready_after = match env::var("READY_AFTER_S").as_deref() {
            Ok("never") => None,
            _ => Some(seconds(variable("READY_AFTER_S", 0.0)?)?),
        };
        let crash_after = match env::var_os("CRASH_AFTER_S") {
            Some(_) => Some(seconds(variable("CRASH_AFTER_S", 0.0)?)?),
            None => None,
        };
        let failure_rate = variable("FAILURE_RATE", 0.0)?;
        anyhow::ensure!(is_share(failure_rate), "FAILURE_RATE {failure_rate} is not from 0 to 1");
        Ok(Self {
            version: variable("VERSION", "v0".to_owned())?,
            pod: variable("HOSTNAME", String::new())?,
            port: variable("PORT", 8080)?,
            failure_rate,
            latency: Duration::from_millis(variable("LATENCY_MS", 0)?),
            cpu: Duration::from_millis(variable("CPU_MS", 0)?),
            ready_after,
            crash_after,
            drain: seconds(variable("DRAIN_S", 5.0)?)?,
            tls: match env::var_os("TLS_KEY") {
                Some(_) => Some((variable("TLS_CERTIFICATE", String::new())?, variable("TLS_KEY", String::new())?)),
                None => None,
            },
        })
    }
}

fn variable<T: FromStr>(name: &str, default: T) -> anyhow::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(env::VarError::NotPresent) => Ok(default),
        Err(error) => Err(error).context(name.to_owned()),
    }
}

fn is_share(rate: f64) -> bool {
    (0.0..=1.0).contains(&rate)
}

/// The query of `POST /control`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Change {
    pub failure_rate: Option<f64>,
    pub latency_ms: Option<u64>,
    pub ready: Option<bool>,
}

/// What holds now.
pub struct Behaviour(Mutex<State>);

struct State {
    failure_rate: f64,
    /// The part of a failure that the answers so far add up to: 1 is one failed answer. So the share of failures
    /// is exact over any run of answers, and a verdict on it doesn't depend on luck.
    owed: f64,
    latency: Duration,
    ready_from: Option<Instant>,
    draining: bool,
}

impl Behaviour {
    pub fn new(settings: &Settings) -> Self {
        Self(Mutex::new(State {
            failure_rate: settings.failure_rate,
            owed: 0.0,
            latency: settings.latency,
            ready_from: settings.ready_after.map(|after| Instant::now() + after),
            draining: false,
        }))
    }

    /// Whether the next answer fails, and how long it takes.
    pub fn next_answer(&self) -> (bool, Duration) {
        let mut state = self.state();
        state.owed += state.failure_rate;
        // Sums of 0.2 miss 1.0 by a rounding error now and then.
        let fails = state.owed >= 1.0 - 1e-9;
        if fails {
            state.owed -= 1.0;
        }
        (fails, state.latency)
    }

    pub fn ready(&self) -> bool {
        let state = self.state();
        !state.draining && state.ready_from.is_some_and(|from| Instant::now() >= from)
    }

    pub fn drain(&self) {
        self.state().draining = true;
    }

    pub fn draining(&self) -> bool {
        self.state().draining
    }

    /// Makes the change and describes what now holds, or says what is wrong with it and changes nothing.
    pub fn change(&self, change: &Change) -> Result<String, String> {
        if let Some(rate) = change.failure_rate.filter(|rate| !is_share(*rate)) {
            return Err(format!("failureRate {rate} is not from 0 to 1\n"));
        }
        let mut state = self.state();
        state.failure_rate = change.failure_rate.unwrap_or(state.failure_rate);
        state.latency = change.latency_ms.map_or(state.latency, Duration::from_millis);
        if let Some(ready) = change.ready {
            state.ready_from = ready.then(Instant::now);
        }
        Ok(format!(
            "failureRate={} latencyMs={} ready={}\n",
            state.failure_rate,
            state.latency.as_millis(),
            state.ready_from.is_some_and(|from| Instant::now() >= from)
        ))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour(failure_rate: f64, ready_after: Option<Duration>) -> Behaviour {
        Behaviour::new(&Settings {
            version: "v1".into(),
            pod: "app-1".into(),
            port: 0,
            failure_rate,
            latency: Duration::ZERO,
            cpu: Duration::ZERO,
            ready_after,
            crash_after: None,
            drain: Duration::ZERO,
            tls: None,
        })
    }

    fn failures(behaviour: &Behaviour, answers: usize) -> usize {
        (0..answers).filter(|_| behaviour.next_answer().0).count()
    }

    #[test]
    fn the_share_of_failures_is_exact() {
        for (rate, of_1000) in [(0.0, 0), (0.003, 3), (0.2, 200), (0.333, 333), (1.0, 1000)] {
            assert_eq!(failures(&behaviour(rate, None), 1000), of_1000, "rate {rate}");
        }
    }

    #[test]
    fn a_change_holds_from_the_next_answer_and_leaves_the_rest() {
        let behaviour = behaviour(0.0, Some(Duration::ZERO));
        let change = Change { failure_rate: Some(1.0), latency_ms: Some(7), ready: None };
        assert_eq!(behaviour.change(&change).unwrap(), "failureRate=1 latencyMs=7 ready=true\n");
        assert_eq!(behaviour.next_answer(), (true, Duration::from_millis(7)));
        let change = Change { ready: Some(false), ..Change::default() };
        assert_eq!(behaviour.change(&change).unwrap(), "failureRate=1 latencyMs=7 ready=false\n");
    }

    #[test]
    fn a_wrong_change_changes_nothing() {
        let behaviour = behaviour(0.0, Some(Duration::ZERO));
        let change = Change { failure_rate: Some(1.5), latency_ms: None, ready: Some(false) };
        assert!(behaviour.change(&change).is_err());
        assert!(behaviour.ready());
    }

    #[test]
    fn it_is_ready_after_its_time_until_it_drains() {
        assert!(!behaviour(0.0, None).ready(), "never");
        assert!(!behaviour(0.0, Some(Duration::from_secs(60))).ready(), "not yet");
        let behaviour = behaviour(0.0, Some(Duration::ZERO));
        assert!(behaviour.ready());
        behaviour.drain();
        assert!(!behaviour.ready(), "draining");
    }
}
