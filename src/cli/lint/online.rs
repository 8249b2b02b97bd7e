//! What the cluster adds: whether what a Rollout names is there and fits, who else scales it, what the caller may do, and what the
//! metrics answer.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, PostParams},
};
use serde_json::Value;

use super::{
    offline::{Set, analyses},
    report::{Report, Subject},
};
use crate::{
    api::{
        Rollout, Verdict,
        rollout::{RouteKind, Traffic},
    },
    cli::{
        error::{Asked, Error},
        neighbours::{autoscalers, points_at, retarget, serving},
        probe::{self, Answer, Probe},
        session::Session,
        version,
    },
    core::{
        Observed,
        analysis::{self, Resolved},
        observed::RouteView,
    },
    world::{Index, Watched},
};

/// What is listed in each namespace. A Rollout's own ReplicaSets and pods say nothing about a manifest.
const LISTED: [Watched; 9] = [
    Watched::Rollout,
    Watched::Deployment,
    Watched::Service,
    Watched::HttpRoute,
    Watched::GrpcRoute,
    Watched::TlsRoute,
    Watched::TcpRoute,
    Watched::AnalysisTemplate,
    Watched::ClusterAnalysisTemplate,
];

pub async fn check(session: &Session, set: &mut Set, prometheus: Option<&str>, now: Timestamp, report: &mut Report) -> Result<(), Error> {
    let everywhere = Subject { file: session.url.clone(), line: 0, object: String::new() };
    let namespaces: BTreeSet<String> = set.rollouts.iter().map(|(_, namespace, _)| namespace.clone()).collect();
    let mut live = Vec::new();
    for namespace in &namespaces {
        let session = Session { namespace: namespace.clone(), ..session.clone() };
        list(&session, set, &mut live, &everywhere, report).await?;
        check_rights(&session, &everywhere, report).await;
    }
    let (known, installed) = controller(session, &everywhere, report).await;
    set.check(known.then_some(installed.is_some()), now, report);
    set.check_templates(true, report);
    let prometheus = prometheus.map(str::to_owned).or(installed);
    let probe = Probe::new(session, prometheus.as_deref())?;
    for (subject, namespace, rollout) in &set.rollouts {
        let session = Session { namespace: namespace.clone(), ..session.clone() };
        let Some(observed) = set.index.observe(namespace, &rollout.name_any(), 0) else { continue };
        check_objects(&observed, subject, report);
        check_other_routes(&observed, &set.index, subject, report);
        check_autoscalers(&session, rollout, subject, report).await;
        let revision =
            live.iter().find(|(at, name, _)| (at, name) == (namespace, &rollout.name_any())).map(|(.., revision)| revision.clone());
        let revision = match revision.flatten() {
            Some(revision) => Some(revision),
            None => of_workload(&session, rollout).await,
        };
        ask(&probe.within(&session), &observed, rollout, revision, subject, report).await;
    }
    Ok(())
}

/// The revision that serves of a Deployment that has no Rollout yet.
async fn of_workload(session: &Session, rollout: &Rollout) -> Option<String> {
    let workload = rollout.spec.workload_ref.as_ref()?;
    serving(session, &session.api::<Deployment>().get_opt(&workload.name).await.ok()??).await
}

/// Namespace, name and stable revision of a Rollout that is in the cluster.
type Live = (String, String, Option<String>);

/// Looks at what is in a namespace. What is among the documents is taken from there: it is what will be applied.
async fn list(session: &Session, set: &mut Set, live: &mut Vec<Live>, everywhere: &Subject, report: &mut Report) -> Result<(), Error> {
    for watched in LISTED {
        let resource = watched.resource();
        let api: Api<DynamicObject> = match watched {
            Watched::ClusterAnalysisTemplate => Api::all_with(session.client.clone(), &resource),
            _ => Api::namespaced_with(session.client.clone(), &session.namespace, &resource),
        };
        let found = match api.list(&ListParams::default()).await {
            Ok(found) => found.items,
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                let message = format!("{} in the namespace {:?} cannot be listed: {}", resource.plural, session.namespace, status.message);
                let optional = watched.route().is_some_and(|kind| kind != RouteKind::HttpRoute);
                match status.code {
                    404 if optional => {} // whoever names one is told that it does not exist
                    403 => report.note(everywhere, "", message, Some("what depends on them is not checked".into())),
                    _ => report.problem(everywhere, "", message, Some(format!("install the CRDs of {}", resource.group))),
                }
                continue;
            }
            Err(error) => return Err(Asked::new("list", "objects", &session.namespace).explain(error, &session.url)),
        };
        for object in found {
            let name = object.name_any();
            if watched == Watched::Rollout {
                let stable = object.data.pointer("/status/stableRevision").and_then(Value::as_str).map(str::to_owned);
                live.push((session.namespace.clone(), name.clone(), stable));
            }
            if !set.known.contains(&(resource.kind.clone(), session.namespace.clone(), name)) {
                set.take(&resource.kind, &serde_json::to_value(&object).unwrap_or_default());
            }
        }
    }
    Ok(())
}

/// Whether a controller was found, and the Prometheus that it asks.
async fn controller(session: &Session, everywhere: &Subject, report: &mut Report) -> (bool, Option<String>) {
    let api: Api<Deployment> = Api::all(session.client.clone());
    match api.list(&ListParams::default().labels(version::CONTROLLERS)).await {
        Ok(found) if found.items.is_empty() => {
            report.note(
                everywhere,
                "",
                format!("there is no controller: no Deployment is labelled {}", version::CONTROLLERS),
                Some("install Sluice's chart".into()),
            );
            (false, None)
        }
        Ok(found) => (true, found.items.iter().find_map(prometheus_of)),
        Err(_) => (false, None), // whoever may look into one namespace only
    }
}

fn prometheus_of(deployment: &Deployment) -> Option<String> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let argument = |text: &String| text.strip_prefix("--prometheus-address=").map(str::to_owned);
    let variable =
        containers.iter().flat_map(|container| container.env.iter().flatten()).find(|env| env.name == "SLUICE_PROMETHEUS_ADDRESS");
    containers.iter().flat_map(|container| container.args.iter().flatten()).find_map(argument).or_else(|| variable?.value.clone())
}

/// What the Rollout names is there, and fits together.
fn check_objects(observed: &Observed, subject: &Subject, report: &mut Report) {
    let spec = &observed.rollout.spec;
    if let Some(workload) = &spec.workload_ref {
        match &observed.workload {
            None => report.problem(
                subject,
                "spec.workloadRef.name",
                format!("there is no Deployment {:?}", workload.name),
                Some("apply it, too: the rollout waits for it until progressDeadlineSeconds".into()),
            ),
            Some(found) if found.replicas_in_git => {
                let message = format!("Git sets spec.replicas of Deployment {}: it stays paused while the Rollout exists", workload.name);
                report.note(subject, "spec.workloadRef.name", message, Some("remove spec.replicas from its manifest".into()));
            }
            Some(_) => {}
        }
    }
    let Some(traffic) = &spec.traffic else { return };
    if observed.service.is_none() {
        report.problem(
            subject,
            "spec.traffic.service",
            format!("there is no Service {:?}", traffic.service),
            Some("apply it, too, or name another one".into()),
        );
    }
    for (i, route) in traffic.routes.iter().enumerate() {
        let field = format!("spec.traffic.routes[{i}]");
        match observed.routes.iter().find(|found| found.kind == route.kind && found.meta.name == route.name) {
            None => report.problem(
                subject,
                &field,
                format!("there is no route {:?}", route.name),
                Some("apply it, too, or name another one".into()),
            ),
            Some(found) => check_route(found, &route.rule_names, traffic, &observed.rollout.namespace, subject, &field, report),
        }
    }
}

/// Routes that lead to `service` and are none of the Rollout's: no step reaches their requests.
fn check_other_routes(observed: &Observed, index: &Index, subject: &Subject, report: &mut Report) {
    let Some(traffic) = &observed.rollout.spec.traffic else { return };
    let namespace = &observed.rollout.namespace;
    for route in index.routes(namespace) {
        let named = traffic.routes.iter().any(|named| named.kind == route.kind && named.name == route.meta.name);
        let mut backends = route.rules.iter().flat_map(|rule| &rule.refs);
        if !named && backends.any(|backend| points_at(backend, namespace, &traffic.service)) {
            let message = format!(
                "{} {} points at Service {:?}, too: its requests stay on stable in each step, and go to the new version all at once when it is promoted",
                route.kind, route.meta.name, traffic.service
            );
            report.note(subject, "spec.traffic.routes", message, Some("name it here, too, to have it split".into()));
        }
    }
}

fn check_route(
    found: &RouteView,
    rule_names: &[String],
    traffic: &Traffic,
    namespace: &str,
    subject: &Subject,
    field: &str,
    report: &mut Report,
) {
    let name = &found.meta.name;
    for wanted in rule_names.iter().filter(|wanted| !found.rules.iter().any(|rule| rule.name.as_ref() == Some(wanted))) {
        let there: Vec<&str> = found.rules.iter().filter_map(|rule| rule.name.as_deref()).collect();
        let mend = if there.is_empty() {
            "its rules have no names: leave ruleNames out, for all rules that point at the Service".into()
        } else {
            format!("there are {}", there.join(", "))
        };
        report.problem(subject, &format!("{field}.ruleNames"), format!("route {name} has no rule {wanted:?}"), Some(mend));
    }
    let chosen =
        found.rules.iter().filter(|rule| rule_names.is_empty() || rule.name.as_ref().is_some_and(|name| rule_names.contains(name)));
    if !chosen.flat_map(|rule| &rule.refs).any(|backend| points_at(backend, namespace, &traffic.service)) {
        let message = format!("no rule of route {name} points at Service {:?}: no traffic would be shifted", traffic.service);
        report.problem(subject, field, message, Some("name the Service that the route's backendRefs name".into()));
    }
    for parent in &found.parents {
        if let Some(refused) = parent.accepted.as_ref().filter(|accepted| !accepted.status) {
            report.note(subject, field, format!("{} does not accept route {name}: {}", parent.name, refused.message), None);
        }
    }
}

async fn check_autoscalers(session: &Session, rollout: &Rollout, subject: &Subject, report: &mut Report) {
    let Some(workload) = &rollout.spec.workload_ref else { return };
    match autoscalers(session, &workload.name).await {
        Ok(scalers) => {
            for scaler in scalers {
                let message = format!(
                    "HorizontalPodAutoscaler {scaler} scales Deployment {}, which is empty while the Rollout exists",
                    workload.name
                );
                report.problem(subject, "spec.workloadRef.name", message, Some(retarget(&rollout.name_any())));
            }
        }
        Err(error) => report.note(subject, "spec.workloadRef.name", format!("autoscalers cannot be listed: {error}"), None),
    }
}

/// What the verbs of this plugin need: the right, and the verbs.
const RIGHTS: [(&str, &str, &str, &str); 5] = [
    ("create", "sluice.dev", "rolloutactions", "promote, abort, pause, resume, retry, undo, restart, skip-step"),
    ("watch", "sluice.dev", "rollouts", "status, watch, release"),
    ("delete", "sluice.dev", "rollouts", "release"),
    ("patch", "apps", "deployments", "set image"),
    ("list", "apps", "replicasets", "get, history, why"),
];

/// Rights that the caller lacks are worth knowing, but no fault of a manifest.
async fn check_rights(session: &Session, everywhere: &Subject, report: &mut Report) {
    for (verb, group, resource, needed_by) in RIGHTS {
        let attributes = ResourceAttributes {
            namespace: Some(session.namespace.clone()),
            verb: Some(verb.into()),
            group: Some(group.into()),
            resource: Some(resource.into()),
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..SelfSubjectAccessReviewSpec::default() },
            ..SelfSubjectAccessReview::default()
        };
        let answer = Api::<SelfSubjectAccessReview>::all(session.client.clone()).create(&PostParams::default(), &review).await;
        // A cluster that does not answer is told of by what is looked up next.
        if answer.is_ok_and(|review| review.status.is_some_and(|status| !status.allowed)) {
            let message = format!("you may not {verb} {resource}.{group} in the namespace {:?}: needed by {needed_by}", session.namespace);
            report.note(everywhere, "", message, Some(format!("ask for a Role with the verb {verb:?} on \"{resource}.{group}\"")));
        }
    }
}

/// Asks each metric of a Rollout once.
async fn ask(probe: &Probe, observed: &Observed, rollout: &Rollout, revision: Option<String>, subject: &Subject, report: &mut Report) {
    for (field, analysis) in analyses(rollout) {
        let traffic = rollout.spec.traffic.is_some();
        let Ok(Resolved { metrics, args, .. }) = analysis::resolve(analysis, &observed.analysis_templates, traffic) else { continue };
        let Some(revision) = &revision else {
            report.note(subject, &field, "the metrics are not asked: nothing serves yet that they could be asked about", None);
            continue;
        };
        let service = rollout.spec.traffic.as_ref().map(|traffic| traffic.service.clone()).unwrap_or_default();
        let about = probe::Subject { rollout: rollout.name_any(), service, revision: revision.clone() };
        for metric in &metrics {
            let field = format!("{field}, metric {}", metric.name);
            let (answer, queries) = probe.ask(&about, metric, &args).await;
            let asked = (!queries.is_empty()).then(|| format!("asked about revision {revision}, which serves: {}", queries.join("; ")));
            match answer {
                Answer::Judged(Verdict::Pass, message) => report.note(subject, &field, format!("answers: {message}"), asked),
                Answer::Judged(verdict, message) => report.note(subject, &field, format!("answers {verdict:?}: {message}"), asked),
                Answer::Read(count) => {
                    report.note(subject, &field, format!("{count} sources were read; a number takes two readings"), asked)
                }
                Answer::Answered => report.note(subject, &field, "was answered; a comparison takes two readings", asked),
                Answer::Unreachable(why) => {
                    let mend = "it says nothing about the controller, which asks from inside the cluster; --prometheus names an address that this machine reaches (kubectl port-forward)";
                    report.note(subject, &field, format!("could not be asked from here: {why}"), Some(mend.into()));
                }
                Answer::Refused(why) => report.problem(subject, &field, why, asked),
            }
        }
    }
}
