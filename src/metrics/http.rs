//! One bounded request: in time, in size, and in whom it may reach.

use std::{error::Error, io, sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::SignedDuration;
use reqwest::{Client, ClientBuilder, RequestBuilder, StatusCode, Url, header::CONTENT_TYPE, redirect::Policy};
use tokio::sync::Semaphore;

use super::{
    access::Credentials,
    guard::{Allow, Forbidden, Resolver},
};
use crate::core::analysis::{ErrorKind, ProviderError};

/// Bytes that all answers together may take at one time.
const MEMORY: usize = 64 << 20;
/// Longest time to a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// The clients, and what they share.
pub struct Http {
    /// For addresses that users write.
    guarded: Client,
    /// For the address that Sluice was installed with.
    trusted: Client,
    allow: Allow,
    memory: Semaphore,
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
pub enum To<'a> {
    /// The address that Sluice was installed with: it may be anywhere.
    Installation,
    /// A host that a user has written, by name or address; the URL may hold an address that the name was resolved to.
    Host(&'a str),
    /// A pod of the canary: nobody has written its address.
    Pod,
}

/// One request.
pub struct Call<'a> {
    pub url: Url,
    pub to: To<'a>,
    pub credentials: &'a Credentials,
    /// Waiting for memory is not part of it.
    pub timeout: SignedDuration,
    /// Bytes of the answer that are read.
    pub most: usize,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub content_type: String,
    pub body: String,
}

impl Http {
    pub fn new(allow: &Allow) -> Result<Self, String> {
        if rustls::crypto::CryptoProvider::get_default().is_none() && rustls::crypto::ring::default_provider().install_default().is_err() {
            tracing::debug!("another thread has installed a TLS provider just now");
        }
        let guarded = client(|| guarded(allow))?;
        let trusted = client(builder)?;
        Ok(Self { guarded, trusted, allow: allow.clone(), memory: Semaphore::new(MEMORY) })
    }

    /// Sends a request and reads its answer.
    pub async fn send(&self, call: Call<'_>, request: impl FnOnce(&Client, Url) -> RequestBuilder) -> Result<Answer, ProviderError> {
        let Call { url, to, credentials, timeout, most } = call;
        // The client asks its resolver for names only.
        let literal = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        let forbidden = literal.and_then(|ip| match to {
            To::Installation => None,
            To::Host(host) => self.allow.refuses(host, ip),
            To::Pod => self.allow.refuses_pod(ip),
        });
        if let Some(forbidden) = forbidden {
            return Err(ErrorKind::Forbidden.error(forbidden.to_string()));
        }
        let memory = self.memory.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await;
        let _memory = memory.map_err(|error| ErrorKind::Unreachable.error(error.to_string()))?;
        let client = match (credentials.has_certificates(), to) {
            (true, To::Installation) => credentials.client(builder())?,
            (true, _) => credentials.client(guarded(&self.allow))?,
            (false, To::Installation) => self.trusted.clone(),
            (false, _) => self.guarded.clone(),
        };
        let place = place(&url);
        let request = request(&client, url).headers(credentials.headers());
        let limit = Duration::try_from(timeout).unwrap_or_default();
        let answer = tokio::time::timeout(limit, receive(request, &place, most)).await;
        let answer = answer.unwrap_or_else(|_| Err(ErrorKind::Timeout.error(format!("{place} did not answer within {timeout:#}"))))?;
        Ok(Answer { body: credentials.redact(answer.body), ..answer })
    }
}

fn guarded(allow: &Allow) -> ClientBuilder {
    builder().dns_resolver(Arc::new(Resolver { allow: allow.clone() }))
}

fn builder() -> ClientBuilder {
    // No redirects: the next address would be one that nobody has written. No proxies: they would resolve names for us.
    let agent = concat!("sluice/", env!("CARGO_PKG_VERSION"));
    Client::builder().redirect(Policy::none()).no_proxy().connect_timeout(CONNECT).user_agent(agent)
}

/// An image without certificate authorities can still ask over http.
pub fn client(builder: impl Fn() -> ClientBuilder) -> Result<Client, String> {
    builder().build().or_else(|error| {
        tracing::warn!(error = words(&error), "servers over https cannot be verified");
        builder().tls_certs_only([]).build().map_err(|error| words(&error))
    })
}

async fn receive(request: RequestBuilder, place: &str, most: usize) -> Result<Answer, ProviderError> {
    let response = request.send().await.map_err(|error| failed(place, &error))?;
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let too_large = || ErrorKind::TooLarge.error(format!("the answer of {place} is larger than {} KiB", most / 1024));
    if response.content_length().is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let (mut body, mut chunks) = (Vec::new(), response.bytes_stream());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| failed(place, &error))?;
        if body.len() + chunk.len() > most {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_redirection() {
        return Err(ErrorKind::Refused.error(format!(
            "{place} redirects (HTTP {}), which is not followed: write the address that it redirects to",
            status.as_u16()
        )));
    }
    let body = String::from_utf8(body).map_err(|_| ErrorKind::Malformed.error(format!("the answer of {place} is not UTF-8")))?;
    Ok(Answer { status, content_type, body })
}

fn failed(place: &str, error: &reqwest::Error) -> ProviderError {
    if let Some(forbidden) = causes(error).find_map(|cause| cause.downcast_ref::<Forbidden>()) {
        return ErrorKind::Forbidden.error(format!("{place}: {forbidden}"));
    }
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unreachable };
    let mend = causes(error).find_map(|cause| cause.downcast_ref()).map_or("", mend_tls);
    kind.error(format!("{place} cannot be asked: {}{mend}", words(error)))
}

/// An error and what has caused it. (The source of an I/O error is that of what it holds; what it holds is a cause, too.)
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    })
}

/// Which field of `tls` mends what two sides do not accept of each other.
fn mend_tls(error: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription as Alert, CertificateError, Error::*};
    match error {
        InvalidCertificate(CertificateError::UnknownIssuer) => {
            " (an authority that is not trusted has signed the server's certificate: name it with tls.caSecretRef)"
        }
        AlertReceived(Alert::CertificateRequired) => {
            " (the server lets in whom it knows by a certificate: name yours with tls.clientSecretName)"
        }
        AlertReceived(
            Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown | Alert::CertificateExpired | Alert::AccessDenied,
        ) => " (the server does not accept the certificate of tls.clientSecretName)",
        _ => "",
    }
}

/// The innermost cause says most; the URL is left out, it may be long.
fn words(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// Host and port.
fn place(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// The beginning of a text, in one line.
pub fn beginning(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 200 { line.chars().take(199).chain(['…']).collect() } else { line }
}
