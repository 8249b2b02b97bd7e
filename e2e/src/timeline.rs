//! What an object was, version by version, while a scenario ran.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, bail};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::DynamicObject,
    runtime::watcher::{self, Event},
};
use serde_json::Value;
use sluice::api::RolloutStatus;
use tokio::task::JoinHandle;

use crate::space::Space;

/// The gateway acts on a write a little after it is observed: so much at each end of a window is not measured.
const EDGE: SignedDuration = SignedDuration::from_millis(300);

/// Records every version of one object that a watch delivers. (A watch may skip versions between two deliveries only after it broke.)
pub struct Timeline {
    seen: Arc<Mutex<Vec<(Timestamp, Value)>>>,
    task: JoinHandle<()>,
}

/// A time in which the canary's weight was observed and did not change.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    pub weight: f64,
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Timeline {
    pub fn start(space: &Space, kind: &str, name: &str) -> Self {
        let seen = Arc::new(Mutex::new(vec![]));
        let (api, sink, name) = (space.api(kind), seen.clone(), name.to_owned());
        Self { seen, task: tokio::spawn(async move { follow(api, &name, &sink).await }) }
    }

    pub fn versions(&self) -> Vec<(Timestamp, Value)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The statuses of a Rollout.
    pub fn statuses(&self) -> Result<Vec<(Timestamp, RolloutStatus)>> {
        let read = |(at, object): (Timestamp, Value)| match object.get("status") {
            Some(status) => Ok((at, serde_json::from_value(status.clone())?)),
            None => Ok((at, RolloutStatus::default())),
        };
        self.versions().into_iter().map(read).collect()
    }

    /// The times in which each weight was observed.
    pub fn windows(&self) -> Result<Vec<Window>> {
        let observed = |status: &RolloutStatus| status.weights.as_ref().and_then(|weights| weights.observed);
        Ok(windows(&self.statuses()?.iter().map(|(at, status)| (*at, observed(status))).collect::<Vec<_>>()))
    }

    /// The weights above 0 that were observed, one after the other.
    pub fn weights(&self) -> Result<Vec<f64>> {
        let mut weights: Vec<f64> = self.windows()?.iter().map(|window| window.weight).filter(|weight| *weight > 0.0).collect();
        weights.dedup();
        Ok(weights)
    }
}

impl Drop for Timeline {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(api: Api<DynamicObject>, name: &str, sink: &Mutex<Vec<(Timestamp, Value)>>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = pin!(watcher::watcher(api, config));
    while let Some(event) = events.next().await {
        let object = match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => object,
            Ok(_) => continue,
            Err(error) => {
                eprintln!("the watch of {name} broke and goes on: {error}");
                continue;
            }
        };
        match serde_json::to_value(object) {
            Ok(object) => sink.lock().unwrap_or_else(PoisonError::into_inner).push((Timestamp::now(), object)),
            Err(error) => eprintln!("an object that cannot be written: {error}"),
        }
    }
}

fn windows(observed: &[(Timestamp, Option<f64>)]) -> Vec<Window> {
    let mut windows: Vec<Window> = vec![];
    let mut open: Option<Window> = None;
    for (at, weight) in observed {
        if let Some(window) = &mut open {
            window.to = *at;
            if Some(window.weight) == *weight {
                continue;
            }
            windows.extend(open.take());
        }
        open = weight.map(|weight| Window { weight, from: *at, to: *at });
    }
    windows.extend(open);
    windows
}

impl Window {
    /// The window without its edges.
    pub fn inner(&self) -> Result<(Timestamp, Timestamp)> {
        let (from, to) = (self.from + EDGE, self.to - EDGE);
        if to <= from {
            bail!("the window of weight {} is too short to be measured: {} to {}", self.weight, self.from, self.to);
        }
        Ok((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_when_its_weight_does() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let observed = [(at(1), None), (at(2), Some(5.0)), (at(3), Some(5.0)), (at(9), None), (at(10), Some(50.0)), (at(20), Some(100.0))];
        let window = |weight, from, to| Window { weight, from: at(from), to: at(to) };
        assert_eq!(windows(&observed), [window(5.0, 2, 9), window(50.0, 10, 20), window(100.0, 20, 20)]);
    }
}
