//! Policies that name the Service: pods that speak TLS alone, which a BackendTLSPolicy has the gateway do; its copy for the canary, without
//! which no request of the canary's would be answered; and a policy of another kind, which is named.

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{ensure_ended_with, route_is};
use crate::{
    app::App,
    plugin::sluice,
    scenarios::scaling::paused,
    test::Test,
    wait::{seconds, wait_for, when},
};

/// What the pods' certificate is for.
const NAME: &str = "secure.internal.example";

pub async fn run(test: &Test) -> Result<()> {
    let mut app = test.app("secure")?;
    let pair = manifests(test, &mut app).await?;
    let environment = [("TLS_CERTIFICATE", pair.certificate.as_str()), ("TLS_KEY", pair.key.as_str())];
    app.release("v1", &environment).await?;
    app.deploy(2).await?;
    app.roll().await?;
    let before = test.space.snapshot("HTTPRoute", "secure").await?;
    let policy = test.space.get("BackendTLSPolicy", "secure").await?;

    let load = app.load(20)?;
    app.release("v2", &environment).await?;
    paused(test, "secure", 1, 2, 1).await?;
    let copy = test.space.get("BackendTLSPolicy", "secure-canary").await?;
    let mut expected = policy["spec"].clone();
    expected["targetRefs"][0]["name"] = json!("secure-canary");
    ensure!(copy["spec"] == expected, "the copy is {}", copy["spec"]);
    let told = condition(test, "PolicyNotCopied").await?.context("the condition PolicyNotCopied is not there")?;
    ensure!(told.contains("XBackendTrafficPolicy secure-retries"), "PolicyNotCopied: {told}");
    sluice(&test.space, &["promote", "secure"]).await?.expect(0, "done")?;
    app.space.until_healthy("secure", "sluice.dev/app:v2", seconds(120)).await?;
    let records = test.stop(load).await?;
    ensure_ended_with(&records, "v2")?;
    route_is(test, "HTTPRoute", "secure", &before).await?;
    wait_for("the copy is gone with its Service", seconds(30), async || {
        let left: Vec<Value> = test.space.list("BackendTLSPolicy").await?;
        let names: Vec<String> = left.iter().map(|policy| policy["metadata"]["name"].to_string()).collect();
        Ok(when(names == ["\"secure\""], || format!("{names:?}")))
    })
    .await?;
    ensure!(condition(test, "PolicyNotCopied").await?.is_none(), "PolicyNotCopied is still there at rest");
    ensure!(test.space.get("BackendTLSPolicy", "secure").await?["spec"] == policy["spec"], "the policy of Git has changed");
    test.say("secure: promoted over TLS, by a copy of the policy that is gone");
    Ok(())
}

/// The message of a condition of the Rollout.
async fn condition(test: &Test, kind: &str) -> Result<Option<String>> {
    let status = test.space.status("secure").await?;
    let found = status.conditions.into_iter().find(|condition| condition.type_ == kind && condition.status == "True");
    Ok(found.map(|condition| condition.message))
}

struct Pair {
    authority: String,
    certificate: String,
    key: String,
}

fn certificates() -> Result<Pair> {
    let mut authority = CertificateParams::new(vec![])?;
    // With the name of what it signs, that would pass for signed by itself.
    authority.distinguished_name.push(DnType::CommonName, "authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &issuer)?;
    Ok(Pair { authority: root, certificate: certificate.pem(), key: key.serialize_pem() })
}

/// Pods, Service and route speak TLS, and both policies are there.
async fn manifests(test: &Test, app: &mut App) -> Result<Pair> {
    app.pace(2, 3, 5, 100);
    app.without_analysis()?;
    app.steps(json!([{"setWeight": 40}, {"pause": {}}, {"setWeight": 80}]));
    let template = &mut app.deployment["spec"]["template"];
    template["metadata"]["annotations"] = json!({});
    template["spec"]["containers"][0]["readinessProbe"]["httpGet"]["scheme"] = json!("HTTPS");
    app.service["spec"]["ports"] = json!([{"name": "https", "port": 443, "targetPort": "http"}]);
    app.route["spec"]["rules"] = json!([{"backendRefs": [{"name": "secure", "port": 443}]}]);
    let pair = certificates()?;
    let targets = json!([{"group": "", "kind": "Service", "name": "secure"}]);
    let authority = json!([{"group": "", "kind": "ConfigMap", "name": "authority"}]);
    for manifest in [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"}, "data": {"ca.crt": pair.authority}}),
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {"name": "secure"},
            "spec": {"targetRefs": targets, "validation": {"hostname": NAME, "caCertificateRefs": authority}}}),
        json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy", "metadata": {"name": "secure-retries"},
            "spec": {"targetRefs": targets, "retryConstraint": {"budget": {"percent": 20}}}}),
    ] {
        test.space.apply(&manifest).await?;
    }
    Ok(pair)
}
