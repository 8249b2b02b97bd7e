//! Events (`events.k8s.io`) about Rollouts. They tell; nothing depends on them, so one that cannot be written is logged and let go.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::Semaphore;

use crate::core::{observed::RolloutView, report};

/// Time for one event, and how many are written at the same time.
const TIMEOUT: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;

#[derive(Clone)]
pub struct Notifier {
    client: Client,
    reporter: Reporter,
    /// Counts an event that is repeated within minutes, and keeps the words of the first.
    counting: Recorder,
    places: Arc<Semaphore>,
}

impl Notifier {
    pub fn new(client: Client) -> Self {
        let reporter = Reporter { controller: "sluice.dev/controller".to_owned(), instance: std::env::var("POD_NAME").ok() };
        Self { counting: Recorder::new(client.clone(), reporter.clone()), client, reporter, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Each says something of its own, such as the next weight: none is counted as another one again.
    pub async fn publish(&self, rollout: &RolloutView, events: &[report::Event]) {
        for event in events {
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            self.send(&recorder, rollout, event).await;
        }
    }

    /// A write that the API server refused: people must know, and may be able to mend it.
    pub async fn refused(&self, rollout: &RolloutView, what: &str, message: &str) {
        let event = report::Event { reason: report::event::WRITE_REFUSED, warning: true, note: format!("could not {what}: {message}") };
        self.send(&self.counting, rollout, &event).await;
    }

    async fn send(&self, recorder: &Recorder, rollout: &RolloutView, event: &report::Event) {
        let published = Event {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.to_owned(),
            note: Some(event.note.chars().take(1000).collect()),
            action: event.reason.to_owned(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some("sluice.dev/v1alpha1".to_owned()),
            kind: Some("Rollout".to_owned()),
            name: Some(rollout.meta.name.clone()),
            namespace: Some(rollout.namespace.clone()),
            uid: Some(rollout.meta.uid.clone()),
            ..ObjectReference::default()
        };
        let _place = self.places.acquire().await.ok();
        let error = match tokio::time::timeout(TIMEOUT, recorder.publish(&published, &about)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {} s", TIMEOUT.as_secs()),
        };
        tracing::warn!(error, reason = event.reason, rollout = rollout.meta.name, "an event could not be written");
    }
}
