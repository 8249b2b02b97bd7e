//! What a request for metrics carries beside its question: who asks, and whom it trusts.

use kube::{KubeSchema, core::Rule};
use serde::{Deserialize, Serialize};

/// Headers that are set by the request itself, or by another field.
pub const RESERVED_HEADERS: [&str; 8] =
    ["authorization", "connection", "content-length", "content-type", "host", "proxy-authorization", "te", "transfer-encoding"];

/// What a request carries. A metric that has any of these is asked without the credentials that Sluice was installed with.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Headers that are sent with each request, such as `X-Scope-OrgID`. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<Header>,
    /// Sends `Authorization: Basic`, with a user's name and password from a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
    /// Sends `Authorization: Bearer <token>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_token_secret_ref: Option<SecretKeyRef>,
    /// Certificates, for an https address. The server's certificate is always verified: for one that no public authority has signed,
    /// name the authority that has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Access {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a Secret must be read for it.
    pub fn has_secrets(&self) -> bool {
        self.basic_auth.is_some()
            || self.bearer_token_secret_ref.is_some()
            || self.tls.is_some()
            || self.headers.iter().any(|header| header.value_secret_ref.is_some())
    }
}

/// One header; exactly one of `value` and `valueSecretRef` is set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.value) != has(self.valueSecretRef)").message("a header has exactly one of value and valueSecretRef"),
    validation = reserved_headers()
)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Name of the header.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[-a-zA-Z0-9_]+$')").message("the name of a header has letters, digits, '-' and '_': X-Scope-OrgID"))]
    pub name: String,
    /// Its value, written here: for what is no secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^[ -~]+$')").message("the value of a header has printable ASCII characters alone, in one line"))]
    pub value: Option<String>,
    /// Its value, from a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_secret_ref: Option<SecretKeyRef>,
}

/// A user's name and password.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// Name of the Secret, of the same namespace; in a ClusterAnalysisTemplate: of that in which Sluice runs. It must carry the label
    /// `sluice.dev/analysis: "true"`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Key of the user's name in the Secret's data. Default `username`.
    #[serde(default = "username", skip_serializing_if = "is_username")] // no default in the schema: it would outlive the rest
    #[schemars(length(min = 1, max = 253))]
    pub username_key: String,
    /// Key of the password in the Secret's data. Default `password`.
    #[serde(default = "password", skip_serializing_if = "is_password")]
    #[schemars(length(min = 1, max = 253))]
    pub password_key: String,
}

/// Certificates of an https connection; at least one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.caSecretRef) || has(self.clientSecretName)").message("tls has caSecretRef, clientSecretName, or both"))]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The authorities, in PEM, that may have signed the server's certificate. Then no others are trusted. Default: those that the
    /// controller's image trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// Name of a Secret of the type `kubernetes.io/tls`, with the certificate (`tls.crt`) and key (`tls.key`) by which the server knows
    /// who asks. It is of the same namespace; in a ClusterAnalysisTemplate: of that in which Sluice runs. It must carry the label
    /// `sluice.dev/analysis: "true"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub client_secret_name: Option<String>,
}

/// A key of a Secret.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret, of the same namespace; in a ClusterAnalysisTemplate: of that in which Sluice runs. It must carry the label
    /// `sluice.dev/analysis: "true"`.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// The rule of every struct that holds an [`Access`].
pub fn one_login() -> Rule {
    Rule::new("!(has(self.basicAuth) && has(self.bearerTokenSecretRef))")
        .message("basicAuth and bearerTokenSecretRef both set the header Authorization: use one of them")
}

fn reserved_headers() -> Rule {
    let names = RESERVED_HEADERS.map(|name| format!("'{name}'")).join(", ");
    Rule::new(format!("!(self.name.lowerAscii() in [{names}])")).message(
        "this header cannot be set here: for Authorization use basicAuth or bearerTokenSecretRef, the others belong to the request",
    )
}

fn username() -> String {
    "username".to_owned()
}

fn is_username(key: &str) -> bool {
    key == username()
}

fn is_password(key: &str) -> bool {
    key == password()
}

fn password() -> String {
    "password".to_owned()
}
