//! What a request carries, with its Secrets read. Nothing here is ever shown: not in logs, not in errors, not in what a server says.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Certificate, ClientBuilder, Identity,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use sha2::{Digest, Sha256};

use super::{Sources, Token};
use crate::{
    api::access::{Access, BasicAuth, Header, SecretKeyRef, Tls},
    core::analysis::{ErrorKind, ProviderError, SecretsOf},
};

/// Shorter values are no secrets, and too common in answers to be taken out of them.
const SHORTEST_SECRET: usize = 4;

/// The data of a Secret. It is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretData(pub BTreeMap<String, Vec<u8>>);

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretData(...)")
    }
}

/// What a request carries.
#[derive(Clone, Default)]
pub struct Credentials {
    headers: HeaderMap,
    /// PEM.
    authorities: Option<Vec<u8>>,
    /// PEM: certificate and key.
    client: Option<Vec<u8>>,
    /// What an answer must not repeat.
    secrets: Vec<String>,
}

impl Credentials {
    /// What Sluice was installed with.
    pub fn of_the_installation(token: Option<&Token>) -> Result<Self, ProviderError> {
        let mut credentials = Self::default();
        if let Some(token) = token {
            credentials.log_in("Bearer", token.expose().trim())?;
        }
        Ok(credentials)
    }

    /// What a metric's author has written.
    pub async fn read(access: &Access, of: SecretsOf, sources: &dyn Sources) -> Result<Self, ProviderError> {
        let mut secrets = Secrets { of, sources, read: BTreeMap::new() };
        let mut credentials = Self::default();
        for Header { name, value, value_secret_ref } in &access.headers {
            let value = match (value, value_secret_ref) {
                (_, Some(reference)) => {
                    let value = secrets.text(reference).await?;
                    credentials.hide(&value);
                    value
                }
                (value, None) => value.clone().unwrap_or_default(),
            };
            let name = HeaderName::try_from(name).map_err(|_| ErrorKind::Invalid.error(format!("{name:?} is not the name of a header")))?;
            credentials.add(name, &value)?;
        }
        if let Some(reference) = &access.bearer_token_secret_ref {
            let token = secrets.text(reference).await?;
            credentials.log_in("Bearer", &token)?;
        }
        if let Some(BasicAuth { secret_name: name, username_key, password_key }) = &access.basic_auth {
            let user = secrets.line(name, username_key).await?;
            let password = secrets.line(name, password_key).await?;
            credentials.hide(&user);
            credentials.hide(&password);
            credentials.log_in("Basic", &BASE64_STANDARD.encode(format!("{user}:{password}")))?;
        }
        if let Some(Tls { ca_secret_ref, client_secret_name }) = &access.tls {
            if let Some(SecretKeyRef { name, key }) = ca_secret_ref {
                credentials.authorities = Some(secrets.bytes(name, key).await?);
            }
            if let Some(name) = client_secret_name {
                let mut pem = secrets.bytes(name, "tls.crt").await?;
                pem.push(b'\n');
                pem.append(&mut secrets.bytes(name, "tls.key").await?);
                credentials.client = Some(pem);
            }
        }
        Ok(credentials)
    }

    fn log_in(&mut self, scheme: &str, secret: &str) -> Result<(), ProviderError> {
        self.hide(secret);
        self.add(AUTHORIZATION, &format!("{scheme} {secret}"))
    }

    fn add(&mut self, name: HeaderName, value: &str) -> Result<(), ProviderError> {
        let value = HeaderValue::try_from(value);
        let mut value = value.map_err(|_| {
            ErrorKind::Secret.error(format!("the value for the header {name} holds characters that cannot be sent: is it encoded twice?"))
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(())
    }

    fn hide(&mut self, secret: &str) {
        if secret.len() >= SHORTEST_SECRET {
            self.secrets.push(secret.to_owned());
        }
    }

    pub fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    /// Whether the connection itself needs them.
    pub fn has_certificates(&self) -> bool {
        self.authorities.is_some() || self.client.is_some()
    }

    /// A client that connects with them.
    pub fn client(&self, mut builder: ClientBuilder) -> Result<reqwest::Client, ProviderError> {
        let bad = |what: &str| ErrorKind::Secret.error(format!("{what}: is it PEM?"));
        if let Some(pem) = &self.authorities {
            let authorities = Certificate::from_pem_bundle(pem).ok().filter(|all| !all.is_empty());
            builder =
                builder.tls_certs_only(authorities.ok_or_else(|| bad("the certificate of the authority (caSecretRef) is not usable"))?);
        }
        if let Some(pem) = &self.client {
            let identity = Identity::from_pem(pem).map_err(|_| bad("the client's certificate or key (clientSecretName) is not usable"))?;
            builder = builder.identity(identity);
        }
        // What it says may quote the PEM.
        builder.build().map_err(|_| {
            let message =
                "the certificates (tls) are not usable; where the controller's image trusts no authority, name one with caSecretRef";
            ErrorKind::Secret.error(message)
        })
    }

    /// Tells credentials apart without holding them.
    pub fn identity(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        for (name, value) in &self.headers {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
        for pem in [&self.authorities, &self.client] {
            add(pem.as_deref().unwrap_or_default());
        }
        digest.finalize().into()
    }

    /// A server's words without what it was told in confidence.
    pub fn redact(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| if text.contains(secret) { text.replace(secret, "[secret]") } else { text })
    }
}

/// Each Secret is read once.
struct Secrets<'a> {
    of: SecretsOf,
    sources: &'a dyn Sources,
    read: BTreeMap<String, SecretData>,
}

impl Secrets<'_> {
    async fn bytes(&mut self, name: &str, key: &str) -> Result<Vec<u8>, ProviderError> {
        if !self.read.contains_key(name) {
            let data = self.sources.secret(self.of, name).await.map_err(|why| ErrorKind::Secret.error(why))?;
            self.read.insert(name.to_owned(), data);
        }
        let value = self.read.get(name).and_then(|data| data.0.get(key));
        value.cloned().ok_or_else(|| ErrorKind::Secret.error(format!("Secret {name} has no key {key}")))
    }

    /// A text without the line's end that an editor may have left.
    async fn line(&mut self, name: &str, key: &str) -> Result<String, ProviderError> {
        let text = String::from_utf8(self.bytes(name, key).await?);
        let text = text.map_err(|_| ErrorKind::Secret.error(format!("key {key} of Secret {name} is not text")))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn text(&mut self, SecretKeyRef { name, key }: &SecretKeyRef) -> Result<String, ProviderError> {
        Ok(self.line(name, key).await?.trim().to_owned())
    }
}
