//! `set image`: a new version, as `kubectl set image` writes it, into the object that holds the Rollout's pod template.

use std::str::FromStr;

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};

use super::{
    error::{Asked, Error, Exit},
    gitops,
    output::{Format, Out, tidy},
    session::Session,
};
use crate::api::Rollout;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    pub what: What,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub enum What {
    /// The images of containers: a new version begins its rollout
    #[command(after_help = "\
It is written into the Deployment that the Rollout names in spec.workloadRef, or else into the Rollout's own template.

Examples:
  kubectl sluice set image api app=registry.example.com/app:v2
  kubectl sluice set image api app=app:v2 proxy=envoy:v1.36
  kubectl sluice set image api '*=app:v2'                          every container
  kubectl sluice set image api app=app:v2 && kubectl sluice status api --for-image app:v2")]
    Image(Image),
}

#[derive(Clone, Debug, clap::Args)]
pub struct Image {
    /// The Rollout: NAME or rollout/NAME
    #[arg(value_parser = super::rollout_name)]
    pub name: String,
    /// The container (or `*` for all of them) and its new image
    #[arg(required = true, value_name = "CONTAINER=IMAGE")]
    pub images: Vec<Assignment>,
    /// Form of the output: the object that was changed
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

/// One `CONTAINER=IMAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub container: String,
    pub image: String,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((container, image)) if !container.is_empty() && !image.is_empty() => {
                Ok(Self { container: container.to_owned(), image: image.to_owned() })
            }
            _ => Err(format!("{text:?} is no CONTAINER=IMAGE: write app=registry.example.com/app:v2")),
        }
    }
}

/// The containers of a template, the init containers after the others: the path and what stands there.
fn containers(object: &DynamicObject) -> Vec<(String, &Value)> {
    let lists = ["containers", "initContainers"].map(|list| format!("/spec/template/spec/{list}"));
    let items = |path: &String| {
        let list = object.data.pointer(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().enumerate().map(|(i, container)| (format!("{path}/{i}"), container)).collect::<Vec<_>>()
    };
    lists.iter().flat_map(items).collect()
}

/// Names of the containers, as they stand.
pub fn names(object: &DynamicObject) -> Vec<String> {
    containers(object).into_iter().filter_map(|(_, container)| Some(container["name"].as_str()?.to_owned())).collect()
}

/// The JSON Patch that sets the images, and nothing else: each is guarded by its container's name. Empty: they are so already.
pub fn patch(object: &DynamicObject, images: &[Assignment]) -> Result<Vec<Value>, Error> {
    let mut operations = Vec::new();
    for Assignment { container, image } in images {
        let all = containers(object);
        let meant: Vec<_> = all.iter().filter(|(_, found)| container == "*" || found["name"] == container.as_str()).collect();
        if meant.is_empty() {
            let names: Vec<String> = names(object).iter().map(|name| format!("{name:?}")).collect();
            return Err(Error::Pointless(format!(
                "{} has no container {container:?}: it has {}",
                object.name_any(),
                if names.is_empty() { "none".into() } else { names.join(", ") }
            )));
        }
        for (path, found) in meant.into_iter().filter(|(_, found)| found["image"] != image.as_str()) {
            operations.push(json!({"op": "test", "path": format!("{path}/name"), "value": found["name"]}));
            operations.push(json!({"op": "add", "path": format!("{path}/image"), "value": image}));
        }
    }
    Ok(operations)
}

/// The object that holds the pod template of a Rollout: the kind for messages, and how to get at it.
pub async fn holder(session: &Session, rollout: &Rollout) -> Result<(&'static str, Api<DynamicObject>, DynamicObject), Error> {
    let (resource, kind, name) = match &rollout.spec.workload_ref {
        Some(workload) => ("deployments.apps", ApiResource::erase::<Deployment>(&()), workload.name.clone()),
        None => ("rollouts.sluice.dev", ApiResource::erase::<Rollout>(&()), rollout.name_any()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(session.client.clone(), &session.namespace, &kind);
    let found = api.get_opt(&name).await.map_err(session.explain("get", resource))?;
    let found = found.ok_or_else(|| {
        Error::Pointless(format!("{} names {resource} {name:?}, which does not exist in {:?}", rollout.name_any(), session.namespace))
    })?;
    Ok((resource, api, found))
}

pub async fn run(session: &Session, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let What::Image(args) = &args.what;
    let rollout = session.rollout(&args.name).await?;
    let (resource, api, object) = holder(session, &rollout).await?;
    let operations = patch(&object, &args.images)?;
    let what = format!("{resource}/{}", object.name_any());
    if operations.is_empty() {
        out.note(format!("{what} has these images already: nothing is changed"))?;
        return Ok(Exit::Ok);
    }
    let patch: json_patch::Patch = serde_json::from_value(Value::Array(operations)).map_err(|error| Error::Request(error.to_string()))?;
    let parameters = PatchParams { field_manager: Some("kubectl-sluice".into()), ..PatchParams::default() };
    let patched = api.patch(&object.name_any(), &parameters, &Patch::Json::<()>(patch)).await;
    let asked = Asked::new("patch", resource, &session.namespace);
    let patched = patched.map_err(|error| asked.explain(error, &session.url))?;
    match args.output {
        Some(format @ (Format::Json | Format::Yaml)) => {
            let types = Some(object.types.clone().unwrap_or_default());
            out.object(format, &tidy(DynamicObject { types, ..patched }))?;
        }
        _ => out.line(format!("{what} image updated"))?,
    }
    if let Some(keeper) = gitops::keeper(&object.metadata) {
        out.note(format!("{keeper} keeps {what} as it is in Git, and will put the image back: change it there, too"))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> DynamicObject {
        let containers = json!([{"name": "app", "image": "app:v1"}, {"name": "proxy", "image": "envoy:v1"}]);
        let spec = json!({"template": {"spec": {"containers": containers, "initContainers": [{"name": "migrate", "image": "app:v1"}]}}});
        serde_json::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"}, "spec": spec})).unwrap()
    }

    fn patched(images: &[&str]) -> Result<Vec<String>, String> {
        let images: Vec<Assignment> = images.iter().map(|image| image.parse().unwrap()).collect();
        let mut object = deployment();
        let patch = patch(&object, &images).map_err(|error| error.to_string())?;
        json_patch::patch(&mut object.data, &serde_json::from_value::<json_patch::Patch>(Value::Array(patch)).unwrap()).unwrap();
        Ok(containers(&object).iter().map(|(_, container)| container["image"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn only_the_images_that_are_named_change() {
        assert_eq!(patched(&["app=app:v2"]).unwrap(), ["app:v2", "envoy:v1", "app:v1"]);
        assert_eq!(patched(&["app=host:5000/app@sha256:a=b", "migrate=m:1"]).unwrap(), ["host:5000/app@sha256:a=b", "envoy:v1", "m:1"]);
        assert_eq!(patched(&["*=x:1"]).unwrap(), ["x:1", "x:1", "x:1"]);
        assert!(patch(&deployment(), &["app=app:v1".parse().unwrap()]).unwrap().is_empty(), "nothing to change");
    }

    #[test]
    fn an_unknown_container_is_answered_with_those_that_there_are() {
        assert_eq!(patched(&["ap=app:v2"]).unwrap_err(), r#"api has no container "ap": it has "app", "proxy", "migrate""#);
        for text in ["app", "app=", "=app:v2"] {
            assert!(text.parse::<Assignment>().unwrap_err().contains("write app="), "{text}");
        }
    }
}
