//! Everything that can go wrong in the plugin. A message says what to do.

use std::error::Error as _;

use kube::core::{Status, response::reason};

/// The process's exit code, by what it says to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; for `status`: Healthy.
    Ok = 0,
    /// Something went wrong, or an action was refused.
    Error = 1,
    /// `status`: the Rollout is aborted or degraded.
    Failed = 2,
    /// The time given was over before there was an answer.
    Timeout = 3,
    /// `status`: the Rollout went on to another version than the one that was waited for.
    Superseded = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}\nGive a kubeconfig with --kubeconfig or in KUBECONFIG, and a context in it with --context.")]
    Kubeconfig(String),
    #[error(
        "cannot reach the cluster at {url}: {cause}\nIs the cluster up, and is this the right context? `kubectl config current-context` shows it, --context chooses another."
    )]
    Unreachable { url: String, cause: String },
    #[error("the cluster does not accept these credentials: {0}\nLog in again, or choose another context with --context.")]
    Unauthorized(String),
    #[error("not allowed to {verb} {resource}{place}: {message}\nAsk for a Role with the verb \"{verb}\" on \"{resource}\".")]
    Forbidden { verb: &'static str, resource: &'static str, place: String, message: String },
    #[error(
        "this cluster does not know {0}: Sluice's CRDs are not installed\nInstall Sluice's chart (charts/sluice), or choose another context with --context."
    )]
    NotInstalled(&'static str),
    #[error("there is no Rollout {name:?} in the namespace {namespace:?}{hint}")]
    NotFound { name: String, namespace: String, hint: String },
    #[error("the API server refused it: {0}")]
    Rejected(String),
    #[error("cannot read the answer: {0}\nThis plugin is {version}: is it older than the controller? `kubectl sluice version` shows both.", version = env!("CARGO_PKG_VERSION"))]
    Answer(String),
    /// The command makes no sense for what the Rollout is at; the message says what would.
    #[error("{0}")]
    Pointless(String),
    #[error("{0}")]
    TimedOut(String),
    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
    #[error("{0}")]
    Request(String),
}

impl Error {
    pub fn exit(&self) -> Exit {
        if matches!(self, Error::TimedOut(_)) { Exit::Timeout } else { Exit::Error }
    }

    /// No later try can mend it: a watch that goes on would wait for ever.
    pub fn is_final(&self) -> bool {
        matches!(self, Error::Forbidden { .. } | Error::Unauthorized(_) | Error::NotInstalled(_) | Error::Answer(_))
    }

    /// The reader of our output went away (`kubectl sluice list | head`): nothing to complain about.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// What was asked, for the words of an error.
#[derive(Clone, Debug)]
pub struct Asked {
    pub verb: &'static str,
    pub resource: &'static str,
    /// Empty: all namespaces.
    pub namespace: String,
    pub name: Option<String>,
}

impl Asked {
    pub fn new(verb: &'static str, resource: &'static str, namespace: &str) -> Self {
        Self { verb, resource, namespace: namespace.to_owned(), name: None }
    }

    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// The error in our words. `url` is that of the cluster.
    pub fn explain(&self, error: kube::Error, url: &str) -> Error {
        match error {
            kube::Error::Api(status) => self.explain_status(&status),
            kube::Error::SerdeError(cause) => Error::Answer(cause.to_string()),
            kube::Error::Auth(cause) => Error::Unauthorized(chain(&cause)),
            error @ (kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_)) => {
                Error::Unreachable { url: url.to_owned(), cause: chain(&error) }
            }
            other => Error::Request(chain(&other)),
        }
    }

    fn explain_status(&self, status: &Status) -> Error {
        let place = if self.namespace.is_empty() { " in all namespaces".into() } else { format!(" in the namespace {:?}", self.namespace) };
        let details = status.details.as_ref().filter(|details| !details.name.is_empty());
        match (status.code, &self.name) {
            (401, _) => Error::Unauthorized(status.message.clone()),
            // A policy says itself what is missing: a role for this verb would not help.
            (403, _) if status.message.contains("ValidatingAdmissionPolicy") => Error::Rejected(status.message.clone()),
            (403, _) => Error::Forbidden { verb: self.verb, resource: self.resource, place, message: status.message.clone() },
            // An unknown path has no details: it is the resource that is missing, not the object.
            (404, _) if details.is_none() && self.resource.ends_with("sluice.dev") => Error::NotInstalled(self.resource),
            (404, Some(name)) if status.reason == reason::NOT_FOUND => {
                Error::NotFound { name: name.clone(), namespace: self.namespace.clone(), hint: String::new() }
            }
            _ => Error::Rejected(if status.message.is_empty() { status.reason.clone() } else { status.message.clone() }),
        }
    }
}

/// The innermost cause of an error says most; the outer ones add nothing for a user.
fn chain(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl From<kube::config::KubeconfigError> for Error {
    fn from(error: kube::config::KubeconfigError) -> Self {
        let cause = error.source().map(|source| format!(" ({source})")).unwrap_or_default();
        let text = error.to_string();
        Error::Kubeconfig(if text.contains(cause.trim_matches([' ', '(', ')'])) { text } else { text + &cause })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::response::StatusDetails;

    fn status(code: u16, why: &str, name: &str) -> kube::Error {
        let details: StatusDetails =
            serde_json::from_value(serde_json::json!({"name": name, "group": "sluice.dev", "kind": "rollouts"})).unwrap();
        kube::Error::Api(Box::new(Status { details: Some(details), ..Status::failure("words of the server", why).with_code(code) }))
    }

    fn explained(error: kube::Error) -> Error {
        Asked::new("get", "rollouts.sluice.dev", "shop").named("api").explain(error, "https://here:6443")
    }

    #[test]
    fn a_missing_object_and_a_missing_resource_are_told_apart() {
        assert!(matches!(explained(status(404, "NotFound", "api")), Error::NotFound { name, .. } if name == "api"));
        assert!(matches!(explained(status(404, "NotFound", "")), Error::NotInstalled("rollouts.sluice.dev")));
        let raw = kube::Error::Api(Box::new(Status::failure("404 page not found", "Failed to parse error data").with_code(404)));
        assert!(matches!(explained(raw), Error::NotInstalled(_)));
    }

    #[test]
    fn forbidden_names_the_verb_and_the_resource_that_are_needed() {
        let text = explained(status(403, "Forbidden", "api")).to_string();
        assert!(text.contains("Role with the verb \"get\" on \"rollouts.sluice.dev\""), "{text}");
        assert!(text.contains("words of the server") && text.contains("\"shop\""), "{text}");
    }

    #[test]
    fn what_a_policy_denies_keeps_its_words_and_asks_for_no_other_role() {
        let message = "rolloutactions.sluice.dev \"\" is forbidden: ValidatingAdmissionPolicy 'sluice-actions' with binding 'sluice-actions' denied request: ada may not abort";
        let denied = kube::Error::Api(Box::new(Status::failure(message, "Forbidden").with_code(403)));
        let text = explained(denied).to_string();
        assert!(text.contains("ada may not abort") && !text.contains("Ask for a Role"), "{text}");
    }

    #[test]
    fn a_refused_connection_names_the_cluster_and_the_cause() {
        let io = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "Connection refused");
        let text = explained(kube::Error::Service(Box::new(io))).to_string();
        assert!(text.contains("https://here:6443: Connection refused") && text.contains("--context"), "{text}");
    }

    #[test]
    fn other_refusals_keep_the_words_of_the_server() {
        assert_eq!(explained(status(422, "Invalid", "api")).to_string(), "the API server refused it: words of the server");
    }
}
