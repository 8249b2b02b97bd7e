//! One node that runs every pod: pods start, become ready, crash or never do, and end gracefully, by their image.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::objects::{PODS, Writer, all, is_deleting, key, set_condition, text, uid};
use super::{after, sooner};
use crate::sim::api::{ApiServer, DeleteOptions, seconds};

pub const NODE: &str = "node-1";

/// How the pods of an image behave.
#[derive(Debug, Clone, PartialEq)]
pub struct Behaviour {
    /// From the pod's creation until its containers run. Default 500 ms.
    pub start: Duration,
    /// From then until it is ready; `None` never. Default 500 ms.
    pub ready: Option<Duration>,
    /// From the start of its container until that exits with an error; it is started again, with a growing back-off
    /// (10 s, doubled up to 5 min). `None` never.
    pub crash: Option<Duration>,
    /// From the deletion until the pod has ended, if its grace is not over before. Default 1 s.
    pub stop: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        let half = Duration::from_millis(500);
        Self { start: half, ready: Some(half), crash: None, stop: Duration::from_secs(1) }
    }
}

impl Behaviour {
    pub fn never_ready() -> Self {
        Self { ready: None, ..Self::default() }
    }

    pub fn crashing_after(time: Duration) -> Self {
        Self { crash: Some(time), ..Self::default() }
    }
}

/// What a pod is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Its containers are started at this moment.
    Pending(Timestamp),
    /// They have run since this moment.
    Running(Timestamp),
    /// They have crashed, and are started again at this moment.
    Waiting(Timestamp),
}

#[derive(Debug, Clone)]
struct Track {
    phase: Phase,
    address: String,
    started: Option<Timestamp>,
    restarts: u32,
    /// Set by a test: overrides what the behaviour says about readiness.
    forced: Option<bool>,
    ends: Option<Timestamp>,
    /// The pod as it was tended last, and when something is due for it next.
    tended: Option<(Arc<Value>, Option<Timestamp>)>,
}

/// The node agent, and the scheduler that gives it every pod.
#[derive(Debug, Clone)]
pub struct Kubelet {
    images: BTreeMap<String, Behaviour>,
    tracks: BTreeMap<String, Track>,
    address_prefix: Option<[u8; 2]>,
    addresses: u16,
    /// How pods behave has been changed since the last look.
    changed: bool,
}

impl Kubelet {
    pub fn new(address_prefix: Option<[u8; 2]>) -> Self {
        Self { images: BTreeMap::new(), tracks: BTreeMap::new(), address_prefix, addresses: 0, changed: false }
    }

    /// How the pods of an image behave from now on, those that run already included.
    pub fn set_behaviour(&mut self, image: &str, behaviour: Behaviour) {
        self.images.insert(image.to_owned(), behaviour);
        self.changed = true;
    }

    /// Makes one pod ready or not, whatever its image says; `None` leaves it to the image again.
    pub fn force_ready(&mut self, pod_uid: &str, ready: Option<bool>) {
        if let Some(track) = self.tracks.get_mut(pod_uid) {
            track.forced = ready;
        }
        self.changed = true;
    }

    /// Whether how pods behave has been changed since this was asked last.
    pub(super) fn is_changed(&mut self) -> bool {
        if self.changed {
            self.tracks.values_mut().for_each(|track| track.tended = None);
        }
        std::mem::take(&mut self.changed)
    }

    fn behaviour(&self, pod: &Value) -> Behaviour {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut images = containers.filter_map(|c| self.images.get(text(&c["image"])));
        images.next().cloned().unwrap_or_default()
    }

    fn next_address(&mut self) -> String {
        self.addresses = self.addresses.wrapping_add(1).max(1);
        match self.address_prefix {
            Some([a, b]) => format!("{a}.{b}.{}.{}", self.addresses >> 8, self.addresses & 0xff),
            None => "127.0.0.1".into(),
        }
    }

    pub(super) fn step(&mut self, api: &mut ApiServer, now: Timestamp) -> Option<Timestamp> {
        let pods = all(api, PODS);
        self.tracks.retain(|id, _| pods.iter().any(|p| uid(p) == id));
        let mut due = None;
        let mut writer = Writer::new(api, "kubelet", now);
        for pod in &pods {
            let tended = self.tracks.get(uid(pod)).and_then(|track| track.tended.as_ref());
            let same = tended.filter(|(seen, due)| Arc::ptr_eq(seen, pod) && due.is_none_or(|due| due > now));
            let next = match same {
                Some((_, next)) => *next,
                None => self.tend(&mut writer, pod),
            };
            if let Some(track) = self.tracks.get_mut(uid(pod)) {
                track.tended = Some((pod.clone(), next));
            }
            due = sooner(due, next);
        }
        due
    }

    fn tend(&mut self, writer: &mut Writer<'_>, pod: &Arc<Value>) -> Option<Timestamp> {
        let now = writer.now();
        let behaviour = self.behaviour(pod);
        if pod["spec"]["nodeName"].is_null() {
            if is_deleting(pod) {
                return None;
            }
            writer.change(PODS, &key(pod), |p| p["spec"]["nodeName"] = NODE.into());
        }
        if !self.tracks.contains_key(uid(pod)) {
            let address = self.next_address();
            let phase = Phase::Pending(after(now, behaviour.start));
            let track = Track { phase, address, started: None, restarts: 0, forced: None, ends: None, tended: None };
            self.tracks.insert(uid(pod).to_owned(), track);
        }
        let track = self.tracks.get_mut(uid(pod))?;
        if is_deleting(pod) {
            return end(track, writer, pod, &behaviour);
        }
        let due = track.advance(&behaviour, now);
        let ready = track.is_ready(&behaviour, now);
        let track = track.clone();
        writer.change_status(PODS, &key(pod), |p| write_status(p, &track, ready, now));
        due
    }
}

impl Track {
    /// Goes on to the phase of this moment; returns when the next change is due.
    fn advance(&mut self, behaviour: &Behaviour, now: Timestamp) -> Option<Timestamp> {
        loop {
            match self.phase {
                Phase::Pending(at) | Phase::Waiting(at) => {
                    if at > now {
                        return Some(at);
                    }
                    self.phase = Phase::Running(at);
                    self.started.get_or_insert(at);
                }
                Phase::Running(since) => {
                    let crash = behaviour.crash.map(|c| after(since, c));
                    if let Some(at) = crash.filter(|at| *at <= now) {
                        let back_off = Duration::from_secs((10_u64 << self.restarts.min(5)).min(300));
                        self.restarts += 1;
                        self.phase = Phase::Waiting(after(at, back_off));
                        continue;
                    }
                    let ready = behaviour.ready.map(|r| after(since, r)).filter(|at| *at > now);
                    return sooner(crash, ready);
                }
            }
        }
    }

    fn is_ready(&self, behaviour: &Behaviour, now: Timestamp) -> bool {
        let Phase::Running(since) = self.phase else { return false };
        self.forced.unwrap_or_else(|| behaviour.ready.is_some_and(|r| after(since, r) <= now))
    }
}

/// Ends a pod that is being deleted: after its image's time to stop, at its deadline at the latest.
fn end(track: &mut Track, writer: &mut Writer<'_>, pod: &Value, behaviour: &Behaviour) -> Option<Timestamp> {
    let now = writer.now();
    let deadline: Timestamp = text(&pod["metadata"]["deletionTimestamp"]).parse().unwrap_or(now);
    let runs = !matches!(track.phase, Phase::Pending(_));
    let stop = if runs { after(now, behaviour.stop) } else { now };
    let ends = *track.ends.get_or_insert(stop.min(deadline.max(now)));
    if ends > now {
        return Some(ends);
    }
    let options = DeleteOptions { grace: Some(0), uid: Some(uid(pod).to_owned()), ..DeleteOptions::default() };
    if pod["metadata"]["deletionGracePeriodSeconds"] != 0 {
        writer.delete(PODS, &key(pod), &options);
    }
    None
}

fn write_status(pod: &mut Value, track: &Track, ready: bool, now: Timestamp) {
    let at = seconds(now);
    let started = !matches!(track.phase, Phase::Pending(_));
    let truth = |yes: bool| if yes { "True" } else { "False" };
    set_condition(pod, "PodScheduled", "True", "", "", &at);
    set_condition(pod, "Initialized", "True", "", "", &at);
    let reason = if ready { "" } else { "ContainersNotReady" };
    set_condition(pod, "ContainersReady", truth(ready), reason, "", &at);
    set_condition(pod, "Ready", truth(ready), reason, "", &at);
    let state = match track.phase {
        Phase::Pending(_) => json!({"waiting": {"reason": "ContainerCreating"}}),
        Phase::Running(since) => json!({"running": {"startedAt": seconds(since)}}),
        Phase::Waiting(_) => json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}),
    };
    let containers = pod["spec"]["containers"].as_array().cloned().unwrap_or_default();
    let statuses = containers.iter().map(|c| {
        let mut status = json!({"name": c["name"], "image": c["image"], "imageID": c["image"], "ready": ready,
            "started": started, "restartCount": track.restarts, "state": state});
        if track.restarts > 0 {
            status["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        }
        status
    });
    let statuses: Value = statuses.collect();
    let status = &mut pod["status"];
    status["phase"] = if started { "Running" } else { "Pending" }.into();
    if let Some(begin) = track.started {
        status["startTime"] = seconds(begin).into();
        status["podIP"] = track.address.clone().into();
        status["podIPs"] = json!([{"ip": track.address}]);
        status["hostIP"] = "192.0.2.1".into();
    }
    status["containerStatuses"] = statuses;
}
