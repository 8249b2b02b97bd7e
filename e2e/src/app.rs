//! The application of a scenario: the manifests of `examples/`, with names, images and times of its own.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    calls::Target,
    cluster::Cluster,
    load::Load,
    space::Space,
    wait::{seconds, wait_for, when},
};

const APP: &str = include_str!("../../examples/app.yaml");
const ROLLOUT: &str = include_str!("../../examples/rollout.yaml");

/// The manifests as they stand in Git.
#[derive(Clone)]
pub struct App {
    pub space: Space,
    pub name: String,
    pub host: String,
    pub deployment: Value,
    pub service: Value,
    pub route: Value,
    pub rollout: Value,
    gateway: String,
}

impl App {
    pub fn new(cluster: &Cluster, space: &Space, name: &str) -> Result<Self> {
        let host = format!("{name}.{}.example", space.name);
        let read = |text: &str| -> Result<Vec<Value>> {
            let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
            let mut documents: Vec<Value> = documents.collect::<Result<_, _>>().context("examples/")?;
            documents.iter_mut().for_each(|document| rename(document, name, &host));
            Ok(documents)
        };
        let app = read(APP)?;
        let of = |kind: &str| app.iter().find(|d| d["kind"] == kind).cloned().with_context(|| format!("no {kind} in examples/app.yaml"));
        Ok(Self {
            space: space.clone(),
            name: name.to_owned(),
            deployment: of("Deployment")?,
            service: of("Service")?,
            route: of("HTTPRoute")?,
            rollout: read(ROLLOUT)?.into_iter().next().context("no Rollout in examples/rollout.yaml")?,
            gateway: cluster.gateway.clone(),
            host,
        })
    }

    /// Applies Deployment, Service and route, scales, and waits until the gateway answers.
    pub async fn deploy(&self, replicas: i32) -> Result<()> {
        self.apply().await?;
        self.space.scale("Deployment", &self.name, replicas).await?;
        self.available(replicas).await?;
        if !self.route.is_null() {
            self.answers().await?;
        }
        Ok(())
    }

    /// Applies Service, Deployment and route, if it has one of its own.
    pub async fn apply(&self) -> Result<()> {
        for manifest in [&self.service, &self.deployment, &self.route].into_iter().filter(|manifest| !manifest.is_null()) {
            self.space.apply(manifest).await?;
        }
        Ok(())
    }

    /// Waits until the Deployment itself has its pods.
    pub async fn available(&self, replicas: i32) -> Result<()> {
        wait_for(&format!("Deployment {} is available", self.name), seconds(60), async || {
            let deployment = self.space.get("Deployment", &self.name).await?;
            let status = &deployment["status"];
            let current = status["observedGeneration"] == deployment["metadata"]["generation"];
            let ready = status["availableReplicas"].as_i64().unwrap_or(0) == i64::from(replicas);
            Ok(when(current && ready && status["replicas"].as_i64().unwrap_or(0) == i64::from(replicas), || status.to_string()))
        })
        .await
    }

    /// Waits until the gateway serves the route.
    pub async fn answers(&self) -> Result<()> {
        let client = reqwest::Client::new();
        wait_for(&format!("{} answers through the gateway", self.host), seconds(30), async || {
            let answer = client.get(&self.gateway).header("Host", &self.host).send().await;
            let seen = answer.map(|answer| answer.status().as_u16());
            Ok(when(matches!(seen, Ok(200)), || format!("{seen:?}")))
        })
        .await
    }

    /// So many requests a second, until it is stopped.
    pub fn load(&self, rate: u32) -> Result<Load> {
        self.load_on("/", rate)
    }

    pub fn load_on(&self, path: &str, rate: u32) -> Result<Load> {
        Load::start(&self.gateway, &self.host, path, "", rate)
    }

    /// Calls of gRPC with these headers.
    pub fn target(&self, headers: &[(&'static str, &'static str)]) -> Target {
        Target { gateway: self.gateway.clone(), host: self.host.clone(), headers: headers.to_vec() }
    }

    /// Requests that carry this header.
    pub fn load_with(&self, header: &str, rate: u32) -> Result<Load> {
        Load::start(&self.gateway, &self.host, "/", &format!("{header}\n"), rate)
    }

    /// Shortens the example's times: pauses, the drain time, and the interval of its metric with the samples that it needs.
    pub fn pace(&mut self, pause: u32, drain: u32, interval: u32, samples: u32) {
        let spec = &mut self.rollout["spec"];
        spec["traffic"]["drainSeconds"] = json!(drain);
        let canary = &mut spec["strategy"]["canary"];
        for step in canary["steps"].as_array_mut().into_iter().flatten().filter(|step| step["pause"]["duration"].is_string()) {
            step["pause"]["duration"] = json!(format!("{pause}s"));
        }
        for metric in canary["analysis"]["metrics"].as_array_mut().into_iter().flatten() {
            metric["interval"] = json!(format!("{interval}s"));
            metric["minSamples"] = json!(samples);
        }
    }

    /// Sets the steps: a weight, or a pause in the form that a Rollout has.
    pub fn steps(&mut self, steps: Value) {
        self.rollout["spec"]["strategy"]["canary"]["steps"] = steps;
    }

    pub fn without_analysis(&mut self) -> Result<()> {
        self.rollout["spec"]["strategy"]["canary"].as_object_mut().context("a canary")?.remove("analysis");
        Ok(())
    }

    /// Adds the Rollout beside the running Deployment, and waits until it has taken it over.
    pub async fn roll(&self) -> Result<()> {
        self.space.apply(&self.rollout).await?;
        self.space.until_healthy(&self.name, &self.image()?, seconds(60)).await?;
        Ok(())
    }

    /// All that Git has: Deployment, Service, route and Rollout.
    pub fn manifests(&self) -> [&Value; 4] {
        [&self.deployment, &self.service, &self.route, &self.rollout]
    }

    /// Puts this version into the manifest, for others to apply.
    pub fn image_is(&mut self, version: &str) {
        self.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("sluice.dev/app:{version}"));
    }

    pub fn image(&self) -> Result<String> {
        let image = &self.deployment["spec"]["template"]["spec"]["containers"][0]["image"];
        image.as_str().map(str::to_owned).context("no image")
    }

    /// Another version goes to Git, with these variables; gives the time of it.
    pub async fn release(&mut self, version: &str, environment: &[(&str, &str)]) -> Result<Timestamp> {
        let container = &mut self.deployment["spec"]["template"]["spec"]["containers"][0];
        container["image"] = json!(format!("sluice.dev/app:{version}"));
        container["env"] = environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let at = Timestamp::now();
        self.space.apply(&self.deployment).await?;
        Ok(at)
    }
}

/// Gives the example names of its own, wherever it names itself.
fn rename(value: &mut Value, name: &str, host: &str) {
    match value {
        Value::String(text) if text == "api" => *text = name.to_owned(),
        Value::String(text) if text == "api.example" => *text = host.to_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, name, host)),
        Value::Object(fields) => fields.values_mut().for_each(|field| rename(field, name, host)),
        _ => {}
    }
}
