//! Events (`events.k8s.io`) about Rollouts. They tell; nothing depends on them, so one that cannot be written is logged and let go.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::core::{observed::RolloutView, report};

#[derive(Clone)]
pub struct Notifier {
    recorder: Recorder,
}

impl Notifier {
    pub fn new(client: Client) -> Self {
        let reporter = Reporter { controller: "sluice.dev/controller".to_owned(), instance: std::env::var("POD_NAME").ok() };
        Self { recorder: Recorder::new(client, reporter) }
    }

    pub async fn publish(&self, rollout: &RolloutView, events: &[report::Event]) {
        for event in events {
            self.send(rollout, event.reason, event.warning, event.note.clone()).await;
        }
    }

    /// A write that the API server refused: people must know, and may be able to mend it.
    pub async fn refused(&self, rollout: &RolloutView, what: &str, message: &str) {
        self.send(rollout, report::event::WRITE_REFUSED, true, format!("could not {what}: {message}")).await;
    }

    async fn send(&self, rollout: &RolloutView, reason: &str, warning: bool, note: String) {
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(note.chars().take(1000).collect()),
            action: reason.to_owned(),
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
        if let Err(error) = self.recorder.publish(&event, &about).await {
            tracing::warn!(%error, reason, rollout = rollout.meta.name, "an event could not be written");
        }
    }
}
