//! `init`: writes the Rollout for a Deployment that runs behind a Service and an HTTPRoute.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};
use serde_json::Value;

use super::{
    error::{Error, Exit},
    neighbours::{autoscalers, points_at, retarget, serving},
    output::Out,
    probe::{Answer, Probe, Subject},
    session::Session,
};
use crate::{
    api::{Metric, Rollout, Verdict, analysis::Preset, keys},
    core::presets,
    world::{Watched, project},
};

/// The longest name of a Rollout.
const LONGEST: usize = 52;

#[derive(Clone, Debug, clap::Args)]
#[group(id = "init")]
pub struct Args {
    /// The Deployment: NAME or deployment/NAME
    #[arg(value_parser = deployment_name)]
    pub deployment: String,
    /// The Service in front of its pods [default: the one that selects them and that a route points at]
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// The HTTPRoute whose weights are moved; may be given several times [default: the one that points at the Service]
    #[arg(long = "route", value_name = "NAME")]
    pub routes: Vec<String>,
    /// Name of the Rollout [default: that of the Deployment]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// A Prometheus, as this machine reaches it: the preset that has data there is taken
    #[arg(long, value_name = "URL")]
    pub prometheus: Option<String>,
}

fn deployment_name(text: &str) -> Result<String, String> {
    let (kind, name) = text.split_once('/').unwrap_or(("deployment", text));
    let known = matches!(kind, "deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps");
    if known && !name.is_empty() { Ok(name.to_owned()) } else { Err(format!("{text:?} is no Deployment: write NAME or deployment/NAME")) }
}

/// What the Rollout is made from.
#[derive(Clone, Debug)]
struct Parts {
    name: String,
    /// Where it was asked for.
    namespace: Option<String>,
    deployment: String,
    service: String,
    routes: Vec<String>,
    metric: Choice,
}

/// Which metric judges, and what to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    preset: Preset,
    scrape: bool,
    comment: Option<&'static str>,
}

/// `namespace`: where one was asked for by name.
pub async fn run(session: &Session, args: &Args, namespace: Option<&str>, out: &mut Out<'_>) -> Result<Exit, Error> {
    let name = args.name.clone().unwrap_or_else(|| args.deployment.clone());
    if name.len() > LONGEST {
        return Err(Error::Pointless(format!(
            "{name:?} is too long for a Rollout: give a name of at most {LONGEST} characters with --name"
        )));
    }
    let found = session.api::<Deployment>().get_opt(&args.deployment).await.map_err(session.explain("get", "deployments.apps"))?;
    let deployment = found.ok_or_else(|| {
        Error::Pointless(format!(
            "there is no Deployment {:?} in the namespace {:?} (-n chooses another)",
            args.deployment, session.namespace
        ))
    })?;
    not_taken(session, &args.deployment).await?;
    let (service, routes) = find(session, args, &deployment).await?;
    let metric = choose(session, args, &deployment, &service).await?;
    let parts = Parts { name, namespace: namespace.map(str::to_owned), deployment: args.deployment.clone(), service, routes, metric };
    write!(out.out, "{}", parts.manifest())?;
    remarks(session, &parts, &deployment, out).await?;
    Ok(Exit::Ok)
}

/// No Rollout looks after it yet.
async fn not_taken(session: &Session, deployment: &str) -> Result<(), Error> {
    // A cluster without Sluice is no obstacle: the manifest is for later.
    let rollouts = session.api::<Rollout>().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let mut of_it =
        rollouts.iter().filter(|rollout| rollout.spec.workload_ref.as_ref().is_some_and(|workload| workload.name == deployment));
    match of_it.next() {
        None => Ok(()),
        Some(rollout) => {
            let name = rollout.name_any();
            Err(Error::Pointless(format!("Rollout {name} looks after Deployment {deployment} already: kubectl sluice get {name} shows it")))
        }
    }
}

/// The Service in front of a Deployment, and the routes that point at it.
async fn find(session: &Session, args: &Args, deployment: &Deployment) -> Result<(String, Vec<String>), Error> {
    let services = services(session, args, deployment).await?;
    let routes = routes(session, args).await?;
    let pointing = |service: &String| {
        let rules = |route: &DynamicObject| route.data.pointer("/spec/rules").and_then(Value::as_array).cloned().unwrap_or_default();
        let backends = |route: &DynamicObject| {
            rules(route).iter().flat_map(|rule| rule["backendRefs"].as_array().cloned().unwrap_or_default()).collect::<Vec<_>>()
        };
        let at = |route: &&DynamicObject| backends(route).iter().any(|backend| points_at(backend, &session.namespace, service));
        routes.iter().filter(at).map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    let with_routes: Vec<(String, Vec<String>)> =
        services.iter().map(|service| (service.clone(), pointing(service))).filter(|(_, routes)| !routes.is_empty()).collect();
    match with_routes.as_slice() {
        [] => {
            let which =
                if args.routes.is_empty() { "no HTTPRoute".into() } else { format!("none of the HTTPRoutes {}", args.routes.join(", ")) };
            let mend =
                "Traffic is shifted by the weights of a route: make one whose backendRefs name the Service (examples/app.yaml has one).";
            Err(Error::Pointless(format!(
                "{which} in the namespace {:?} points at Service {}\n{mend}",
                session.namespace,
                services.join(" or ")
            )))
        }
        [(service, routes)] if routes.len() == 1 || !args.routes.is_empty() => Ok((service.clone(), routes.clone())),
        [(service, routes)] => Err(Error::Pointless(format!(
            "several HTTPRoutes point at Service {service}: {}\nSay whose weights are to be moved: --route {}  (or some of them; through the others the stable version gets all requests)",
            routes.join(", "),
            routes.join(" --route ")
        ))),
        several => {
            let named: Vec<String> =
                several.iter().map(|(service, routes)| format!("\n  --service {service}  (HTTPRoute {})", routes.join(", "))).collect();
            Err(Error::Pointless(format!(
                "several Services select the pods of Deployment {} and have a route; choose one:{}",
                args.deployment,
                named.concat()
            )))
        }
    }
}

/// Names of the Services that select the Deployment's pods.
async fn services(session: &Session, args: &Args, deployment: &Deployment) -> Result<Vec<String>, Error> {
    let labels = pod_labels(deployment);
    let all = session.api::<Service>().list(&ListParams::default()).await.map_err(session.explain("list", "services"))?.items;
    let selects = |service: &&Service| {
        let spec = service.spec.clone().unwrap_or_default();
        let selector = spec.selector.unwrap_or_default();
        spec.type_.as_deref() != Some("ExternalName")
            && !selector.is_empty()
            && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let ours = |service: &&Service| !service.labels().contains_key(keys::ROLLOUT);
    let found: Vec<String> = all.iter().filter(selects).filter(ours).map(ResourceExt::name_any).collect();
    let shown: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if let Some(wanted) = &args.service {
        if found.contains(wanted) {
            return Ok(vec![wanted.clone()]);
        }
        let those = if found.is_empty() { "no Service does".into() } else { format!("those that do: {}", found.join(", ")) };
        let message =
            format!("Service {wanted:?} does not select the pods of Deployment {} ({}); {those}", args.deployment, shown.join(","));
        return Err(Error::Pointless(message));
    }
    // A canary Service that stands in Git selects the same pods.
    let canary = |name: &String| name.strip_suffix("-canary").is_some_and(|stable| found.iter().any(|other| other == stable));
    let found: Vec<String> = found.iter().filter(|name| !canary(name)).cloned().collect();
    if found.is_empty() {
        let message = format!(
            "no Service in the namespace {:?} selects the pods of Deployment {} ({})",
            session.namespace,
            args.deployment,
            shown.join(",")
        );
        return Err(Error::Pointless(message + "\nMake one; the route's backendRefs name it."));
    }
    Ok(found)
}

fn pod_labels(deployment: &Deployment) -> BTreeMap<String, String> {
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    template.and_then(|metadata| metadata.labels.clone()).unwrap_or_default()
}

/// The HTTPRoutes of the namespace; where some were named, those.
async fn routes(session: &Session, args: &Args) -> Result<Vec<DynamicObject>, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(session.client.clone(), &session.namespace, &Watched::HttpRoute.resource());
    let all = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            return Err(Error::Pointless("this cluster does not know HTTPRoutes: install the CRDs of the Gateway API (https://gateway-api.sigs.k8s.io) and a gateway".into()));
        }
        Err(error) => return Err(session.explain("list", "httproutes.gateway.networking.k8s.io")(error)),
    };
    if let Some(missing) = args.routes.iter().find(|wanted| !all.iter().any(|route| route.name_any() == **wanted)) {
        let there: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        let there = if there.is_empty() { "none".into() } else { there.join(", ") };
        return Err(Error::Pointless(format!(
            "there is no HTTPRoute {missing:?} in the namespace {:?}; there are: {there}",
            session.namespace
        )));
    }
    Ok(all.into_iter().filter(|route| args.routes.is_empty() || args.routes.contains(&route.name_any())).collect())
}

/// The metric that has data, as far as one can see from here.
async fn choose(session: &Session, args: &Args, deployment: &Deployment, service: &str) -> Result<Choice, Error> {
    let plain = |preset| Choice { preset, scrape: false, comment: None };
    let serves = match &args.prometheus {
        Some(_) => serving(session, deployment).await,
        None => None,
    };
    if let (Some(url), Some(revision)) = (&args.prometheus, serves) {
        let about = Subject { rollout: args.deployment.clone(), service: service.to_owned(), revision };
        let probe = Probe::new(session, Some(url))?;
        for preset in presets::TELLING.into_iter().filter(|preset| !preset.is_latency()) {
            let interval = Some("5m".parse().map_err(Error::Request)?);
            let metric = Metric {
                name: "success-rate".into(),
                preset: Some(preset),
                min: Some(0.0),
                min_samples: Some(1),
                interval,
                ..Metric::default()
            };
            if let (Answer::Judged(Verdict::Pass | Verdict::Fail, _), _) = probe.ask(&about, &metric, &BTreeMap::new()).await {
                return Ok(plain(preset));
            }
        }
    }
    let template = deployment.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let annotated = template.is_some_and(|metadata| metadata.annotations.iter().flatten().any(|(key, _)| key == "prometheus.io/port"));
    Ok(match annotated {
        true => Choice { scrape: true, comment: Some("read from the pods: needs no Prometheus"), ..plain(Preset::PodsSuccessRate) },
        false => Choice { comment: Some("needs a Prometheus that scrapes Contour's Envoy"), ..plain(Preset::ContourSuccessRate) },
    })
}

impl Parts {
    /// The Rollout as YAML, laid out as in `examples/rollout.yaml`.
    fn manifest(&self) -> String {
        let namespace = self.namespace.as_ref().map(|namespace| format!("  namespace: {}\n", scalar(namespace))).unwrap_or_default();
        let routes: Vec<String> = self.routes.iter().map(|route| format!("{{kind: HTTPRoute, name: {}}}", scalar(route))).collect();
        let (service, routes) = (format!("    service: {}", scalar(&self.service)), format!("    routes: [{}]", routes.join(", ")));
        let width = (service.len().max(routes.len()) + 1).max(47);
        let comment = self.metric.comment.map(|comment| format!("        # {comment}\n")).unwrap_or_default();
        let scrape = if self.metric.scrape { ", scrape: {}" } else { "" };
        format!(
            "apiVersion: sluice.dev/v1alpha1
kind: Rollout
metadata:
  name: {name}
{namespace}spec:
  workloadRef: {{kind: Deployment, name: {deployment}}}
  traffic:
{service:width$}# the app's Service as it stands in Git
{routes:width$}# every rule that points at it is split
  strategy:
    canary:
      steps:
      - setWeight: 5
      - pause: {{duration: 1m}}
      - setWeight: 25
      - pause: {{duration: 1m}}
      - setWeight: 50
      - pause: {{duration: 1m}}
      analysis:
        metrics:
{comment}        - {{name: success-rate, preset: {preset}{scrape}, min: 99}}
",
            name = scalar(&self.name),
            deployment = scalar(&self.deployment),
            preset = presets::name(self.metric.preset),
        )
    }
}

/// A name as YAML reads it back: one that would be a number or a truth value (also to an old parser) is quoted.
fn scalar(name: &str) -> String {
    let old = matches!(name, "y" | "n" | "yes" | "no" | "on" | "off");
    let text = matches!(serde_yaml_ng::from_str::<Value>(name), Ok(Value::String(read)) if read == name);
    if text && !old { name.to_owned() } else { format!("{name:?}") }
}

/// What should be done before it is applied.
async fn remarks(session: &Session, parts: &Parts, deployment: &Deployment, out: &mut Out<'_>) -> Result<(), Error> {
    // Nice to know; whoever may not look goes without.
    for scaler in autoscalers(session, &parts.deployment).await.unwrap_or_default() {
        out.note(format!("HorizontalPodAutoscaler {scaler} scales Deployment {}: {}", parts.deployment, retarget(&parts.name)))?;
    }
    let object = serde_json::to_value(deployment).and_then(serde_json::from_value::<DynamicObject>);
    if object.is_ok_and(|object| project::workload((&object).into()).replicas_in_git) {
        out.note(format!("Git sets spec.replicas of Deployment {}: remove it there, or the Deployment stays paused", parts.deployment))?;
    }
    if parts.metric.preset == Preset::ContourSuccessRate && parts.metric.comment.is_some() {
        let why = "the pods have no annotation prometheus.io/port, and no Prometheus was given (--prometheus) that has their numbers";
        out.note(format!("Check the metric before you apply it: {why}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let metric = Choice { preset: Preset::ContourSuccessRate, scrape: false, comment: None };
        Parts { name: "api".into(), namespace: None, deployment: "api".into(), service: "api".into(), routes: vec!["api".into()], metric }
    }

    #[test]
    fn the_plainest_one_is_the_example() {
        assert_eq!(parts().manifest(), include_str!("../../examples/rollout.yaml"));
    }

    #[test]
    fn names_that_yaml_would_take_for_something_else_are_quoted() {
        for (name, expected) in
            [("api", "api"), ("1e3", "\"1e3\""), ("123", "\"123\""), ("true", "\"true\""), ("on", "\"on\""), ("a-1", "a-1")]
        {
            assert_eq!(scalar(name), expected);
        }
    }

    #[test]
    #[cfg(feature = "sim")]
    fn whatever_is_chosen_it_has_at_most_25_lines_and_passes_lint() {
        let long = "a".repeat(LONGEST);
        for (preset, scrape) in [(Preset::ContourSuccessRate, false), (Preset::PodsSuccessRate, false), (Preset::PodsSuccessRate, true)] {
            let metric = Choice { preset, scrape, comment: Some("a comment") };
            for name in ["api", "1e3", &long] {
                let routes = vec![name.to_owned(), "other".into()];
                let manifest = Parts { name: name.into(), namespace: Some("shop".into()), routes, metric, ..parts() }.manifest();
                assert!(manifest.lines().count() <= 25, "{manifest}");
                assert_eq!(crate::cli::lint::problems(&manifest), Vec::<String>::new(), "{manifest}");
            }
        }
    }
}
