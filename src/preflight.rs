//! What has to be so before the operator is taken off a cluster.

use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectList, PartialObjectMeta},
};

use crate::api::Rollout;

/// Objects in one answer.
const PAGE: u32 = 500;
/// Rollouts that a refusal names.
const NAMED: usize = 10;

/// Why the operator must stay, if it must: the Rollouts in `namespaces` (everywhere, if there are none).
pub async fn uninstall(client: &Client, namespaces: &[String]) -> kube::Result<Option<String>> {
    let apis: Vec<Api<Rollout>> = match namespaces.is_empty() {
        true => vec![Api::all(client.clone())],
        false => namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
    };
    let mut rollouts = vec![];
    for api in &apis {
        rollouts.extend(names(api).await?);
    }
    Ok(refusal(&rollouts))
}

/// Names with their namespaces; none where there is no such kind.
async fn names(api: &Api<Rollout>) -> kube::Result<Vec<String>> {
    let mut names = vec![];
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page: ObjectList<PartialObjectMeta<Rollout>> = match api.list_metadata(&params).await {
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(names),
            page => page?,
        };
        names.extend(page.items.iter().map(|meta| format!("{}/{}", meta.namespace().unwrap_or_default(), meta.name_any())));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(names),
        }
    }
}

fn refusal(rollouts: &[String]) -> Option<String> {
    let count = match rollouts.len() {
        0 => return None,
        1 => "1 Rollout exists".to_owned(),
        count => format!("{count} Rollouts exist"),
    };
    let mut lines: Vec<String> = rollouts.iter().take(NAMED).map(|name| format!("  {name}")).collect();
    if rollouts.len() > NAMED {
        lines.push(format!("  and {} more", rollouts.len() - NAMED));
    }
    Some(format!(
        "Refused: {count}, and only the controller can give back what was taken over:\n{}\n\
         To go on: kubectl sluice release --all -A, and then helm uninstall again\n\
         To keep Sluice: helm rollback RELEASE REVISION, with the newest revision of helm history RELEASE (until then Helm takes it for one that is being uninstalled; without a revision it goes back to the values before the last upgrade)\n\
         To leave everything as it is, without a controller: helm uninstall --no-hooks",
        lines.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_the_rollouts_names_some_and_says_what_to_do() {
        assert_eq!(refusal(&[]), None);
        let one = refusal(&["shop/api".to_owned()]).unwrap();
        assert!(one.starts_with("Refused: 1 Rollout exists") && one.contains("\n  shop/api\n"), "{one}");
        assert!(one.contains("kubectl sluice release --all"), "{one}");
        let names: Vec<String> = (0..12).map(|n| format!("shop/r{n}")).collect();
        let many = refusal(&names).unwrap();
        assert!(many.starts_with("Refused: 12 Rollouts exist") && many.contains("\n  shop/r9\n  and 2 more\n"), "{many}");
    }
}
