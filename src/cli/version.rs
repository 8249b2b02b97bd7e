//! `version`: of the plugin, and of the controllers in the cluster.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt, api::ListParams};
use serde::Serialize;

use super::{
    error::{Asked, Error, Exit},
    output::{Format, Out},
    session::Session,
};

/// Finds the controllers, by the label that the chart gives them.
pub const CONTROLLERS: &str = "app.kubernetes.io/name=sluice";

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only the plugin: asks no cluster
    #[arg(long)]
    pub client: bool,
    /// Form of the output
    #[arg(short, long, value_enum, value_name = "FORM")]
    pub output: Option<Format>,
}

/// What is known of versions.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub client: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controllers: Vec<Controller>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Controller {
    pub namespace: String,
    pub name: String,
    pub images: Vec<String>,
    pub ready: i32,
}

/// The plugin, and the controllers of the cluster where there is a session. A cluster that cannot be asked is an error, but the
/// plugin's own version is printed all the same.
pub async fn run(session: Option<Result<Session, Error>>, args: &Args, out: &mut Out<'_>) -> Result<Exit, Error> {
    let asked = session.is_some();
    let found = match session {
        Some(Ok(session)) => controllers(&session).await,
        Some(Err(error)) => Err(error),
        None => Ok(Vec::new()),
    };
    let (controllers, error) = found.map_or_else(|error| (Vec::new(), Some(error)), |controllers| (controllers, None));
    let versions = Versions { client: env!("CARGO_PKG_VERSION"), controllers };
    match args.output {
        Some(format @ (Format::Json | Format::Yaml)) => out.object(format, &versions)?,
        _ => {
            out.line(format!("kubectl-sluice {}", versions.client))?;
            for controller in &versions.controllers {
                let images = controller.images.join(", ");
                out.line(format!("controller {images} ({}/{}, {} ready)", controller.namespace, controller.name, controller.ready))?;
            }
            if asked && error.is_none() && versions.controllers.is_empty() {
                out.note(format!("There is no controller in this cluster: no Deployment is labelled {CONTROLLERS}."))?;
            }
        }
    }
    error.map_or(Ok(Exit::Ok), Err)
}

async fn controllers(session: &Session) -> Result<Vec<Controller>, Error> {
    let api: Api<Deployment> = Api::all(session.client.clone());
    let found = api.list(&ListParams::default().labels(CONTROLLERS)).await;
    let found = found.map_err(|error| Asked::new("list", "deployments.apps", "").explain(error, &session.url))?;
    let controller = |deployment: Deployment| {
        let pod = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let images = pod.map(|pod| pod.containers.iter().filter_map(|container| container.image.clone()).collect());
        Controller {
            namespace: deployment.namespace().unwrap_or_default(),
            name: deployment.name_any(),
            images: images.unwrap_or_default(),
            ready: deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0),
        }
    };
    Ok(found.items.into_iter().map(controller).collect())
}
