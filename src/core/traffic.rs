//! The two Services: which pods each selects, and when that may change.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    canary_rule::Portion,
    draft::{Draft, Flow, Stage, Waiting, wait},
    observed::{Meta, ServiceView},
    patch::{self, Action, Guarded, Kind, label},
    revision,
    spec::Weight,
};
use crate::api::keys;

/// What we keep on a Service while it is pinned.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceRecord {
    rollout: String,
    /// The revision that we have pinned it to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pinned: Option<String>,
    /// We set Flux's mark (it was not there before).
    flux: bool,
    /// When we took pods out of it that it had selected in the middle of a rollout: they had traffic until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaked_at: Option<Timestamp>,
}

fn record(meta: &Meta) -> Option<ServiceRecord> {
    serde_json::from_str(meta.annotations.get(keys::SERVICE_RECORD)?).ok()
}

fn selector_path() -> String {
    format!("/spec/selector/{}", patch::escape(keys::POD_TEMPLATE_HASH))
}

impl Draft<'_> {
    /// Pods of `hash` that must be behind a Service before it counts as observed.
    fn ready_pods(&self, hash: &str) -> usize {
        self.obs.ready_pods(hash).count()
    }

    /// A Service selects just the pods of one revision.
    pub fn pin(&mut self, service: &ServiceView, hash: &str) {
        if service.pinned() == Some(hash) {
            return;
        }
        let selector = serde_json::to_value(&service.selector).unwrap_or_default();
        let mut guarded = Guarded::new(Kind::Service, &service.meta).test("/spec/selector", selector).add(selector_path(), hash);
        let disabled = service.meta.annotations.get(keys::FLUX_RECONCILE).map(String::as_str) == Some(keys::FLUX_DISABLED);
        let before = record(&service.meta);
        let flux = !service.ours && before.as_ref().map_or(!disabled, |before| before.flux);
        let leaked_at = match service.pinned() {
            None => self.others_serve_until_now(hash),
            Some(_) => None,
        };
        let leaked_at = leaked_at.or_else(|| before.and_then(|before| before.leaked_at));
        let rollout = self.obs.rollout.meta.name.clone();
        let text = json!(ServiceRecord { rollout, pinned: Some(hash.to_owned()), flux, leaked_at }).to_string();
        guarded = guarded.annotate(keys::SERVICE_RECORD, text);
        if !service.ours {
            guarded = guarded.annotate(keys::FLUX_RECONCILE, keys::FLUX_DISABLED);
        }
        self.act(guarded.fenced(format!("make Service {} select revision {hash}", service.meta.name), self.obs.epoch));
    }

    /// The user's Service as its author wrote it.
    fn unpin(&mut self, service: &ServiceView) {
        let Some(record) = record(&service.meta) else { return };
        let mut guarded = Guarded::new(Kind::Service, &service.meta).unannotate(keys::SERVICE_RECORD);
        if service.pinned().is_some() {
            guarded = guarded.remove(selector_path());
        }
        if record.flux {
            guarded = guarded.unannotate(keys::FLUX_RECONCILE);
        }
        self.act(guarded.unfenced(format!("put Service {} back as it was", service.meta.name)));
    }

    /// Whoever puts a Service back in the middle is repaired at once, with what we had set: other pods behind it get traffic meanwhile, so
    /// what drains begins to drain anew. That is written down first: a crash between the two must not forget it.
    pub fn ensure_pins_stand(&mut self) -> Flow {
        let obs = self.obs;
        let own = |record: ServiceRecord| record.pinned.is_some() && record.rollout == obs.rollout.meta.name;
        let lost = |service: &&ServiceView| service.pinned().is_none() && record(&service.meta).is_some_and(own);
        let services: Vec<&ServiceView> = [&obs.service, &obs.canary_service].into_iter().flatten().filter(lost).collect();
        if services.is_empty() {
            return Ok(());
        }
        for service in &services {
            self.note_revert("Service", &service.meta, service.meta.resource_version.clone());
        }
        let message = format!("repairs Service {}, which somebody has put back", services[0].meta.name);
        if self.rewind_home() {
            self.wake(self.now);
            return wait(Waiting::Settling, message);
        }
        for service in services {
            if let Some(pinned) = record(&service.meta).and_then(|r| r.pinned) {
                self.pin(service, &pinned);
            }
        }
        wait(Waiting::Settling, message)
    }

    /// A Service that is no longer as we had set it (or is gone) may have had any ready pods behind it.
    fn others_serve_until_now(&self, hash: &str) -> Option<Timestamp> {
        self.others_serve(hash).then_some(self.now)
    }

    /// Other revisions have pods that would serve if a Service selected them.
    pub fn others_serve(&self, hash: &str) -> bool {
        let revisions = || self.obs.revisions().filter(|rs| rs.hash != hash);
        self.obs.pods.iter().any(|pod| pod.ready && revisions().any(|rs| rs.hash == pod.hash))
    }

    /// Pods of other revisions that a Service selected, as somebody had put it back or had brought them, drain like all that had traffic.
    pub fn ensure_leak_drained(&mut self, stable: &str) -> Flow {
        let services = || [&self.obs.service, &self.obs.canary_service].into_iter().flatten();
        if self.others_serve(stable) && services().any(|service| service.pinned().is_none()) {
            return wait(Waiting::Settling, format!("takes pods of other revisions than {stable} out of the Services"));
        }
        let leaked = services().filter_map(|service| record(&service.meta)?.leaked_at).max();
        let drain = SignedDuration::from_secs(i64::from(self.spec.traffic.drain_seconds));
        match leaked.map(|at| at + drain).filter(|end| self.now < *end) {
            Some(end) => {
                self.wake(end);
                wait(Waiting::Settling, "pods that a Service selected while somebody had put it back drain")
            }
            None => Ok(()),
        }
    }

    /// `service` selects stable's pods only. It is the first thing that a rollout does: pods of the canary have the labels that the
    /// Service selects, too. Other pods behind it would lose their traffic, so they hold the beginning.
    pub fn ensure_pinned(&mut self, stable: &str, canary: &str) -> Flow {
        let obs = self.obs;
        let Some(service) = &obs.service else { return Ok(()) };
        if service.pinned() != Some(stable) {
            let is_foreign = |hash: &Option<String>| hash.as_deref().is_none_or(|hash| obs.replica_set(hash).is_none());
            let begins = service.pinned().is_none() && !self.is_recorded();
            if let Some(foreign) = service.ready_endpoints().find(|e| begins && is_foreign(&e.hash)) {
                let message = format!(
                    "ForeignEndpoints: pod {} behind Service {} is not of the stable revision {stable}; waits until it is gone",
                    foreign.pod, service.meta.name
                );
                return wait(Waiting::Settling, message);
            }
            self.pin(service, stable);
            self.start_pods(canary);
            return self.settle(canary, Stage::Pinned, Err(format!("pins Service {} to stable", service.meta.name)), 0);
        }
        self.start_pods(canary);
        self.settle(canary, Stage::Pinned, Ok(()), self.spec.traffic.step_grace_seconds)
    }

    /// The canary Service is there; it selects stable's pods until the canary's are ready.
    pub fn ensure_canary_service(&mut self, stable: &str, canary: &str) -> Flow {
        let obs = self.obs;
        let Some(service) = &obs.canary_service else {
            self.rewind(canary, Stage::CanaryServiceMade);
            if self.is_on() {
                self.take_all(); // somebody has removed it: its share of the requests fails
            }
            if let (Some(anchor), Some(template)) = (&obs.anchor, &obs.service) {
                self.act(make_canary_service(self, template, anchor, stable));
            }
            let message = format!("makes Service {}", self.canary_service);
            return self.settle(canary, Stage::CanaryServiceMade, Err(message), 0);
        };
        self.ensure_policies(canary, service)?;
        match service.pinned() {
            Some(hash) if hash == canary || hash == stable => {}
            None if self.is_past(canary, Stage::Selected) && self.is_on() => {
                self.pin(service, canary); // somebody has put it back: what it had comes back at once
            }
            _ => {
                self.rewind(canary, Stage::CanaryServiceMade);
                self.pin(service, stable);
                let message = format!("makes Service {} select the stable pods", service.meta.name);
                return self.settle(canary, Stage::CanaryServiceMade, Err(message), 0);
            }
        }
        let observed = match service.pinned() == Some(stable) && !service.serves_only(stable, self.ready_pods(stable).min(1)) {
            true => Err(format!("waits for the endpoints of Service {}", service.meta.name)),
            false => Ok(()),
        };
        self.settle(canary, Stage::CanaryServiceMade, observed, 0)
    }

    /// The canary Service selects the canary's ready pods. It changes only while every rule gives it nothing.
    pub fn ensure_selected(&mut self, canary: &str, pods: usize) -> Flow {
        let obs = self.obs;
        let Some(service) = &obs.canary_service else { return Ok(()) };
        if service.pinned() != Some(canary) {
            self.rewind(canary, Stage::Selected);
            self.take_all();
            if let Err(why) = self.portion_observed(&Portion::default()) {
                return self.settle(canary, Stage::Selected, Err(why), 0);
            }
            self.pin(service, canary);
            let message = format!("makes Service {} select the canary's pods", service.meta.name);
            return self.settle(canary, Stage::Selected, Err(message), 0);
        }
        let observed = match service.serves_only(canary, pods) {
            true => Ok(()),
            false => Err(format!("waits for the endpoints of Service {}", service.meta.name)),
        };
        self.settle(canary, Stage::Selected, observed.clone(), self.spec.traffic.step_grace_seconds)?;
        observed.or_else(|message| wait(Waiting::Progress, message)) // also those of the pods that a later step needs
    }

    /// After a promotion: `service` is pinned to the new version once it gets no traffic, observed and drained, and its endpoints
    /// are the new pods.
    pub fn ensure_repinned(&mut self, stable: &str) -> Flow {
        let obs = self.obs;
        let Some(service) = &obs.service else { return Ok(()) };
        let promoted = obs.canary_service.as_ref().and_then(|s| s.pinned()) == Some(stable) && self.live_weight() == Weight::FULL;
        match service.pinned() {
            // Somebody has put it back (or removed the canary Service): only the stable pods may serve, at once.
            None if self.is_recorded() || self.others_serve(stable) => {
                self.pin(service, stable);
                match promoted {
                    true => self.settle(stable, Stage::Repinned, Err("makes the Service select the new version".into()), 0),
                    false => Ok(()),
                }
            }
            Some(hash) if hash != stable && obs.canary_service.is_none() => {
                self.pin(service, stable);
                Ok(())
            }
            Some(hash) if hash != stable => {
                // All traffic is on the canary Service, whose pods are the new stable ones.
                self.ensure_canary_service_is_of(stable)?;
                let full = Portion::from(Weight::FULL);
                if !self.routes().iter().all(|r| r.has(&full, self.spec.denominator())) {
                    self.ensure_reentered(stable)?;
                }
                self.set_portion(&full);
                let observed = self.portion_observed(&full);
                self.settle(stable, Stage::ServiceDrained, observed, self.spec.traffic.drain_seconds)?;
                self.portion_observed(&full).or_else(|why| wait(Waiting::Progress, why))?;
                self.pin(service, stable);
                self.settle(stable, Stage::Repinned, Err(format!("makes Service {} select the new version", service.meta.name)), 0)
            }
            Some(_) if promoted => {
                let observed = match service.serves_only(stable, self.ready_pods(stable).max(1)) {
                    true => Ok(()),
                    false => Err(format!("waits for the endpoints of Service {}", service.meta.name)),
                };
                self.settle(stable, Stage::Repinned, observed, self.spec.traffic.step_grace_seconds)
            }
            _ => Ok(()),
        }
    }

    /// Where somebody has deleted the ReplicaSet that was promoted, the version before is stable again: the canary Service selects its pods
    /// before it gets the traffic.
    fn ensure_canary_service_is_of(&mut self, stable: &str) -> Flow {
        let obs = self.obs;
        let Some(service) = obs.canary_service.as_ref().filter(|service| service.pinned() != Some(stable)) else { return Ok(()) };
        if self.is_on() {
            self.take_all();
        }
        self.is_off_observed(stable).or_else(|why| wait(Waiting::Progress, why))?;
        self.pin(service, stable);
        self.settle(stable, Stage::Reentered, Err(format!("makes Service {} select the stable pods", service.meta.name)), 0)
    }

    /// Somebody has put a route back before the promotion was carried through: the new version enters at weight 0 again.
    fn ensure_reentered(&mut self, stable: &str) -> Flow {
        let denominator = self.spec.denominator();
        if !self.routes().iter().all(|r| r.has_entered(denominator)) {
            self.take_all();
            self.rewind(stable, Stage::Reentered);
            return self.settle(stable, Stage::Reentered, Err("puts the new version's backend into the routes again".into()), 0);
        }
        let observed = self.routes().iter().try_for_each(|r| r.accepted()).map_err(|why| format!("waits for the gateway: {why}"));
        self.settle(stable, Stage::Reentered, observed, self.spec.traffic.step_grace_seconds)
    }

    /// The canary Service selects stable's pods (or is not there). One that somebody has put back (or made again) may select those of
    /// any revision, as long as there are others.
    pub fn ensure_canary_released(&mut self, stable: &str) -> Flow {
        let obs = self.obs;
        let others = || obs.pods.iter().any(|pod| pod.hash != stable);
        let selects_others = |service: &&ServiceView| service.pinned().map_or_else(others, |hash| hash != stable);
        let Some(service) = obs.canary_service.as_ref().filter(selects_others) else { return Ok(()) };
        if service.pinned().is_some() {
            self.is_off_observed(stable).or_else(|why| wait(Waiting::Progress, why))?;
        }
        self.pin(service, stable);
        self.settle(stable, Stage::CanaryReleased, Err(format!("makes Service {} select the stable pods", service.meta.name)), 0)
    }

    /// The Services as in Git: ours goes, the user's are unpinned.
    pub fn restore_services(&mut self) {
        let obs = self.obs;
        match &obs.canary_service {
            Some(service) if service.ours && service.meta.last_writer.is_some() => self.leave_canary_service(service),
            Some(service) if service.ours && !service.meta.deleting => {
                self.act(patch::delete(Kind::Service, &service.meta, format!("remove Service {}", service.meta.name)));
            }
            Some(service) => self.unpin(service),
            None => {}
        }
        if let Some(service) = &obs.service {
            self.unpin(service);
        }
    }

    /// A canary Service that we made, and that somebody else has written since, is theirs: it stays, without anything of ours.
    fn leave_canary_service(&mut self, service: &ServiceView) {
        let mut guarded =
            Guarded::new(Kind::Service, &service.meta).unchanged().unannotate(keys::POLICIES).unannotate(keys::SERVICE_RECORD);
        if service.owned {
            guarded = guarded.remove("/metadata/ownerReferences");
        }
        if service.meta.labels.contains_key(keys::ROLLOUT) {
            guarded = guarded.remove(label(keys::ROLLOUT));
        }
        if service.pinned().is_some() {
            guarded = guarded.remove(selector_path());
        }
        self.act(guarded.unfenced(format!(
            "leave Service {} to {}",
            service.meta.name,
            service.meta.last_writer.as_deref().unwrap_or("its author")
        )));
    }

    /// Whether routes and Services are as their authors wrote them.
    pub fn traffic_is_at_rest(&self) -> bool {
        let marked = |s: &Option<ServiceView>| s.as_ref().is_some_and(|s| s.ours || s.meta.annotations.contains_key(keys::SERVICE_RECORD));
        !marked(&self.obs.service) && !marked(&self.obs.canary_service) && self.routes().iter().all(|r| r.record().is_none())
    }
}

/// A Service like the user's, of ClusterIP type.
fn make_canary_service(draft: &Draft, like: &ServiceView, anchor: &Meta, stable: &str) -> Action {
    let mut spec = serde_json::Map::new();
    for key in ["sessionAffinity", "sessionAffinityConfig", "trafficDistribution", "internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy"]
    {
        if let Some(value) = like.spec.get(key) {
            spec.insert(key.to_owned(), value.clone());
        }
    }
    let mut ports = like.spec.get("ports").cloned().unwrap_or_else(|| json!([]));
    for port in ports.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        port.remove("nodePort");
    }
    let mut selector = serde_json::to_value(&like.selector).unwrap_or_default();
    selector[keys::POD_TEMPLATE_HASH] = json!(stable);
    spec.insert("ports".into(), ports);
    spec.insert("selector".into(), selector);
    spec.insert("type".into(), json!("ClusterIP"));
    let name = draft.canary_service.clone();
    let rollout = draft.obs.rollout.meta.name.clone();
    let leaked_at = draft.others_serve_until_now(stable);
    let record = ServiceRecord { rollout, pinned: Some(stable.to_owned()), flux: false, leaked_at };
    let mut labels: serde_json::Map<String, Value> =
        like.meta.labels.iter().filter(|(key, _)| !is_tools_mark(key)).map(|(k, v)| (k.clone(), json!(v))).collect();
    labels.insert(keys::ROLLOUT.into(), json!(draft.obs.rollout.meta.name));
    let mut annotations: serde_json::Map<String, Value> =
        like.meta.annotations.iter().filter(|(key, _)| !is_tools_mark(key)).map(|(key, value)| (key.clone(), json!(value))).collect();
    annotations.insert(keys::EPOCH.into(), json!(draft.obs.epoch.to_string()));
    annotations.insert(keys::SERVICE_RECORD.into(), json!(json!(record).to_string()));
    let body = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": draft.obs.rollout.namespace, "labels": labels,
            "annotations": annotations,
            "ownerReferences": revision::owners(draft.obs, anchor),
        },
        "spec": spec,
    });
    patch::create(Kind::Service, body, format!("make Service {name}"))
}

/// Labels and annotations by which tools recognise what they manage (a copy with them would be pruned, or get a name in DNS of its own), what
/// controllers note down for themselves, and our own.
fn is_tools_mark(key: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "kustomize.toolkit.fluxcd.io/",
        "helm.toolkit.fluxcd.io/",
        "argocd.argoproj.io/",
        "app.kubernetes.io/managed-by",
        "helm.sh/",
        "meta.helm.sh/",
        "kubectl.kubernetes.io/",
        "external-dns.alpha.kubernetes.io/",
        "endpoints.kubernetes.io/",
        "config.kubernetes.io/",
        "sluice.dev/",
    ];
    key == "app.kubernetes.io/instance" || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}
