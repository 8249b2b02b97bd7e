//! A route that others use too: rules of their own, filters, timeouts, fields that Sluice does not know, another team's backend in a
//! rule that is split, and the backend of a second Rollout that rolls at the same time. None of it changes, at no moment.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{space::differences, test::Test, timeline::Timeline, wait::seconds};

const OWNERS: [&str; 3] = ["api", "web", "partner"];

pub async fn run(test: &Test) -> Result<()> {
    let (mut api, mut web, mut partner) = (test.app("api")?, test.app("web")?, test.app("partner")?);
    for (app, version) in [(&mut web, "v1"), (&mut partner, "v9")] {
        app.route = Value::Null;
        app.host.clone_from(&api.host);
        app.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = json!(format!("sluice.dev/app:{version}"));
    }
    api.route["spec"]["rules"] = rules();
    web.rollout["spec"]["traffic"]["routes"][0]["name"] = json!("api");
    for app in [&mut api, &mut web] {
        app.pace(3, 3, 5, 100);
        app.without_analysis()?;
        app.steps(json!([{"setWeight": 12.5}, {"pause": {"duration": "3s"}}, {"setWeight": 50}, {"pause": {"duration": "3s"}}]));
    }
    futures::try_join!(partner.deploy(1), web.deploy(2), api.deploy(2))?;
    let before = test.space.snapshot("HTTPRoute", "api").await?;
    futures::try_join!(api.roll(), web.roll())?;

    let timeline = Timeline::start(&test.space, "HTTPRoute", "api");
    let mixed = api.load_on("/mixed", 120)?;
    let paths = ["/", "/both", "/web", "/foreign"];
    let loads = paths.iter().map(|path| api.load_on(path, 10)).collect::<Result<Vec<_>>>()?;
    futures::try_join!(api.release("v2", &[]), web.release("v3", &[]))?;
    let healthy = (
        api.space.until_healthy("api", "sluice.dev/app:v2", seconds(120)),
        web.space.until_healthy("web", "sluice.dev/app:v3", seconds(120)),
    );
    futures::try_join!(healthy.0, healthy.1)?;
    test.say("both are promoted");

    for load in loads {
        test.stop(load).await?.ensure_no_failures()?;
    }
    let mixed = test.stop(mixed).await?;
    mixed.ensure_no_failures()?;
    let share = mixed.share("v9");
    test.say(format!("the other team's backend, a quarter of its rule, answered {share:.2} % of {} requests", mixed.sent()));
    ensure!((share - 25.0).abs() <= 2.0, "the other team's backend answered {share:.2} % of the requests instead of 25 %");

    let versions = timeline.versions();
    for (at, version) in &versions {
        untouched(&before, version, &OWNERS).with_context(|| format!("in the route as it was at {at}"))?;
    }
    for rule in [1, 2] {
        let count = |route: &Value| backends(&route["spec"]["rules"][rule]).len();
        let split = versions.iter().filter(|(_, route)| count(route) > count(&before)).count();
        ensure!(split > 3, "rule {rule} was split in {split} of {} versions of the route", versions.len());
    }
    let after = test.space.snapshot("HTTPRoute", "api").await?;
    let differences = differences(&before, &after);
    ensure!(differences.is_empty(), "the route is not what was applied:\n{differences}");
    test.say(format!("nothing of the others changed in {} versions of the route", versions.len()));
    Ok(())
}

fn rules() -> Value {
    let matches = |path: &str| json!([{"path": {"type": "PathPrefix", "value": path}}]);
    let header =
        |name: &str| json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": name, "value": "yes"}]}}]);
    json!([
        {
            "name": "foreign",
            "matches": matches("/foreign"),
            "filters": header("x-foreign"),
            "timeouts": {"request": "7s"},
            "backendRefs": [{"name": "partner", "port": 80}],
        },
        {
            "name": "mixed",
            "matches": matches("/mixed"),
            "filters": header("x-mixed"),
            "timeouts": {"request": "6s", "backendRequest": "6s"},
            "retry": {"codes": [504], "attempts": 2, "backoff": "100ms"},
            "backendRefs": [{"name": "api", "port": 80, "weight": 3}, {"name": "partner", "port": 80, "weight": 1}],
        },
        {
            "name": "both",
            "matches": matches("/both"),
            "backendRefs": [{"name": "api", "port": 80}, {"name": "web", "port": 80}],
        },
        {"name": "web", "matches": matches("/web"), "backendRefs": [{"name": "web", "port": 80}]},
        {"name": "api", "matches": matches("/"), "filters": header("x-api"), "backendRefs": [{"name": "api", "port": 80}]},
    ])
}

fn backends(rule: &Value) -> Vec<(String, i64)> {
    let backend = |b: &Value| (b["name"].as_str().unwrap_or_default().to_owned(), b["weight"].as_i64().unwrap_or(1));
    rule["backendRefs"].as_array().into_iter().flatten().map(backend).collect()
}

/// All but the weights of the Rollouts' backends is as in `before`, and the share of each owner, with its canary, is what it was.
pub fn untouched(before: &Value, now: &Value, owners: &[&str]) -> Result<()> {
    let without_backends = |route: &Value| {
        let mut spec = route["spec"].clone();
        for rule in spec["rules"].as_array_mut().into_iter().flatten() {
            rule["backendRefs"] = Value::Null;
        }
        spec
    };
    let differences = differences(&without_backends(before), &without_backends(now));
    ensure!(differences.is_empty(), "this changed:\n{differences}");
    let rules = |route: &Value| route["spec"]["rules"].as_array().cloned().unwrap_or_default();
    for (before, now) in rules(before).iter().zip(&rules(now)) {
        let (was, is) = (backends(before), backends(now));
        for owner in owners {
            let part = |backends: &[(String, i64)]| {
                let own = |name: &str| name.strip_suffix("-canary").unwrap_or(name) == *owner;
                let sum = backends.iter().filter(|(name, _)| own(name)).map(|(_, weight)| weight).sum::<i64>();
                (sum, backends.iter().map(|(_, weight)| weight).sum::<i64>())
            };
            let ((was_part, was_all), (is_part, is_all)) = (part(&was), part(&is));
            // Compared without a division, so that the share is exactly the same.
            ensure!(
                was_part * is_all == is_part * was_all,
                "rule {}: {owner} had {was_part}/{was_all}, and has {is_part}/{is_all}",
                now["name"]
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(mixed: Value) -> Value {
        let mut route = json!({"spec": {"hostnames": ["x"], "rules": rules()}});
        route["spec"]["rules"][1]["backendRefs"] = mixed;
        route
    }

    #[test]
    fn shares_are_compared_exactly() {
        let git = route(json!([{"name": "api", "weight": 3}, {"name": "partner", "weight": 1}]));
        let split = |partner: i64| {
            route(json!([{"name": "api", "weight": 2625}, {"name": "partner", "weight": partner}, {"name": "api-canary", "weight": 375}]))
        };
        untouched(&git, &split(1000), &OWNERS).unwrap();
        assert!(untouched(&git, &split(1001), &OWNERS).unwrap_err().to_string().contains("3/4"));
    }

    #[test]
    fn a_field_that_is_dropped_is_seen() {
        let git = route(json!([]));
        let mut dropped = git.clone();
        dropped["spec"]["rules"][1].as_object_mut().unwrap().remove("retry");
        assert!(untouched(&git, &dropped, &OWNERS).unwrap_err().to_string().contains("retry"));
    }
}
