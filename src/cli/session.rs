//! The cluster that the plugin talks to, and as whom.

use std::path::PathBuf;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client, Config, ResourceExt,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::error::{Asked, Error};
use crate::api::Rollout;

/// How many names are offered when a Rollout is not found.
const NAMES_OFFERED: usize = 5;

/// A client, the namespace to work in, and who we are.
#[derive(Clone)]
pub struct Session {
    pub client: Client,
    pub namespace: String,
    /// The cluster's address, for error messages.
    pub url: String,
}

/// Which cluster and namespace to use.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Connection {
    /// Namespace of the Rollout [default: that of the context]
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// Path of the kubeconfig [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
}

impl Session {
    pub async fn new(connection: &Connection) -> Result<Self, Error> {
        let options = KubeConfigOptions { context: connection.context.clone(), ..Default::default() };
        let config = match read(connection)? {
            Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await?,
            None => Config::incluster().map_err(|_| Error::Kubeconfig("there is no kubeconfig".into()))?,
        };
        let namespace = connection.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client = Client::try_from(config).map_err(|error| Error::Kubeconfig(error.to_string()))?;
        Ok(Self { client, namespace, url })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// An error of a request in this namespace, in our words.
    pub fn explain(&self, verb: &'static str, resource: &'static str) -> impl FnOnce(kube::Error) -> Error {
        let (asked, url) = (Asked::new(verb, resource, &self.namespace), self.url.clone());
        move |error| asked.explain(error, &url)
    }

    /// The Rollout of this name.
    pub async fn rollout(&self, name: &str) -> Result<Rollout, Error> {
        match self.api::<Rollout>().get(name).await {
            Ok(rollout) => Ok(rollout),
            Err(error) => Err(self.explain_get(name, error).await),
        }
    }

    /// Why a Rollout could not be read. If there is none of this name, the error offers names that are near.
    pub async fn explain_get(&self, name: &str, error: kube::Error) -> Error {
        let asked = Asked::new("get", "rollouts.sluice.dev", &self.namespace).named(name);
        match asked.explain(error, &self.url) {
            Error::NotFound { name, namespace, .. } => {
                let hint = self.near(&name).await;
                Error::NotFound { name, namespace, hint }
            }
            other => other,
        }
    }

    /// What else there is, for someone who got a name wrong.
    async fn near(&self, name: &str) -> String {
        let here = match self.api::<Rollout>().list_metadata(&Default::default()).await {
            Ok(list) => list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
            Err(error) => return format!(" (the others cannot be listed: {error})"),
        };
        if !here.is_empty() {
            return format!("\nThere {}.", offer(name, here));
        }
        let everywhere = Api::<Rollout>::all(self.client.clone()).list_metadata(&Default::default()).await;
        // Being allowed to look into one's own namespace only is no error: there is less to offer then.
        let elsewhere = everywhere.map(|list| list.items).unwrap_or_default();
        let same: Vec<String> = elsewhere.iter().filter(|meta| meta.name_any() == name).filter_map(ResourceExt::namespace).collect();
        if same.is_empty() { "\nThere are no Rollouts in it.".into() } else { format!("\nThere is one in: -n {}", same.join(", -n ")) }
    }

    /// Who we are to the API server, if it says so. (The kubeconfig's name for the user may be another one.)
    pub async fn whoami(&self) -> Option<String> {
        let review = Api::<SelfSubjectReview>::all(self.client.clone()).create(&PostParams::default(), &SelfSubjectReview::default()).await;
        review.ok()?.status?.user_info?.username
    }
}

fn read(connection: &Connection) -> Result<Option<Kubeconfig>, Error> {
    if let Some(path) = &connection.kubeconfig {
        return Ok(Some(Kubeconfig::read_from(path)?));
    }
    match Kubeconfig::read() {
        Ok(kubeconfig) => Ok(Some(kubeconfig)),
        // In a pod without a kubeconfig, the pod's own account is meant.
        Err(_) if Config::incluster().is_ok() && connection.context.is_none() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `is "api"` or `are "api", "web"`: the nearest first.
fn offer(name: &str, mut names: Vec<String>) -> String {
    names.sort_by_key(|other| strsim::damerau_levenshtein(name, other));
    let rest = names.len().saturating_sub(NAMES_OFFERED);
    names.truncate(NAMES_OFFERED);
    let verb = if names.len() == 1 { "is" } else { "are" };
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("{verb} {}{more}", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_first() {
        let names = ["web", "checkout", "pai", "x1", "x2", "x3"].map(String::from).to_vec();
        let text = offer("api", names);
        assert!(text.starts_with("are \"pai\", "), "{text}");
        assert!(text.ends_with(" and 1 more"), "{text}");
        assert_eq!(offer("api", vec!["apy".into()]), "is \"apy\"");
    }
}
